"""A disk that fails under the store: what was answered is stored, what was not is called unknown.

strace makes real system calls of a real process fail, on the database's files only. A short version
runs always; ``AGENTD_CRASH_RUNS=1000`` fails every one of them in turn (a quarter of an hour).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.store import Store
from agentd.store.journal import Journal

RUNS = int(os.environ.get("AGENTD_CRASH_RUNS", "0"))
FAILURES = 2
TRANSACTIONS = 30

# Answers each transaction with its number and how it ended, and leaves as a killed process would.
WRITER = """
import contextlib, os, sys
from pathlib import Path
from agentd.errors import AgentdError
from agentd.store import Store
from agentd.store.journal import Journal
try:
    store = Store(Path(sys.argv[1]))
except AgentdError as error:
    print("refused", error.code)
    sys.exit()
journal = Journal(store)
for number in range(int(sys.argv[2])):
    try:
        with store.transaction():
            journal.append("job.queued", f"job-{number}", "user:ada", note="x" * 3000)
            store.insert("keys", {"principal": "", "key": str(number), "call": "", "job": "", "at": 0.0})
    except AgentdError as error:
        print(number, error.code, flush=True)
    else:
        print(number, "stored", flush=True)
    if number % 10 == 5:  # not after the last one: nothing would be answered any more
        with contextlib.suppress(AgentdError):
            store.row("PRAGMA wal_checkpoint")
os._exit(0)
"""

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace, which is not installed")


def written(path: Path, *, fail: str = "", trace: Path = Path(os.devnull)) -> dict[int, str]:
    """What the writer answered to each transaction, nothing if it could not open the database.

    `fail` names a system call, an error and when, as strace does.
    """
    Store(path).close()
    watched = [word for suffix in ("", "-wal") for word in ("-P", f"{path}{suffix}")]
    wanted = ["-e", "trace=pwrite64,fdatasync,pread64", *(["-e", f"inject={fail}"] if fail else [])]
    strace = ["strace", "--seccomp-bpf", "-f", "-qq", "-o", str(trace), *watched, *wanted]
    command = [*strace, sys.executable, "-c", WRITER, str(path), str(TRANSACTIONS)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    if done.stdout.startswith("refused"):
        return {}
    answers = {int(n): said for n, said in re.findall(r"^(\d+) (\w+)$", done.stdout, re.MULTILINE)}
    assert answers.keys() == set(range(TRANSACTIONS))
    return answers


def check(path: Path, answers: dict[int, str]) -> None:
    store = Store(path)
    kept = {int(row["key"]) for row in store.rows("SELECT key FROM keys")}
    entries = {int(entry.subject[4:]) for entry in Journal(store).tail(1000)}
    assert Journal(store).verify().ok
    assert store.value("PRAGMA integrity_check") == "ok"
    store.close()
    assert entries == kept, "a transaction was stored by halves"
    assert {n for n, said in answers.items() if said == "stored"} <= kept, "an answered commit is gone"
    failed = {n for n, said in answers.items() if said not in ("stored", "unknown")}
    assert failed.isdisjoint(kept), "what was called failed is stored"


def places(folder: Path, call: str) -> list[int]:
    """Which of an undisturbed writer's system calls on the database are to fail."""
    trace = folder / "trace"
    written(folder / "undisturbed" / "agentd.db", trace=trace)
    total = len(re.findall(rf"\b{call}\(", trace.read_text(encoding="utf-8", errors="replace")))
    return list(range(1, total + 1)) if RUNS else random.sample(range(1, total + 1), FAILURES)


@pytest.mark.parametrize(
    ("call", "error"), [("fdatasync", "EIO"), ("pwrite64", "EIO"), ("pwrite64", "ENOSPC"), ("pread64", "EIO")]
)
def test_one_error_anywhere_loses_no_answered_commit_and_the_store_goes_on(
    tmp_path: Path, call: str, error: str
) -> None:
    seen: list[str] = []
    for when in places(tmp_path, call):
        path = tmp_path / str(when) / "agentd.db"
        answers = written(path, fail=f"{call}:error={error}:when={when}")
        check(path, answers)
        assert not answers or list(answers.values()).count("stored") >= TRANSACTIONS - 1, answers
        seen += answers.values() or ["refused"]
    print(call, error, {said: seen.count(said) for said in sorted(set(seen))})


@pytest.mark.parametrize(
    ("call", "error"), [("fdatasync", "EIO"), ("pwrite64", "EIO"), ("pwrite64", "ENOSPC")]
)
def test_on_a_disk_that_fails_for_good_nothing_is_answered_as_stored(
    tmp_path: Path, call: str, error: str
) -> None:
    for when in places(tmp_path, call)[:: 1 if RUNS else FAILURES]:
        path = tmp_path / str(when) / "agentd.db"
        answers = written(path, fail=f"{call}:error={error}:when={when}+")
        check(path, answers)
        said = list(answers.values())
        assert not said or said[-1] != "stored"
