"""The short form of `make chaos`, and proof that its verdict can find what it looks for."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import load

HERE = Path(__file__).parent


verdict = load(HERE / "verdict.py")

GO, EXIT = {"pid": 10}, {"reason": "exited", "code": 0, "signal": None}
KILLED = {"reason": "signalled", "code": None, "signal": 9}


def chain(*entries: tuple[str, str]) -> list[dict[str, Any]]:
    """A journal of these kinds and subjects."""
    rows: list[dict[str, Any]] = []
    previous = "0" * 64
    for seq, (kind, subject) in enumerate(entries, 1):
        parts = [seq, 1.5, kind, subject, "daemon", "{}", previous]
        digest = hashlib.sha256(json.dumps(parts, separators=(",", ":")).encode()).hexdigest()
        names = ("seq", "at", "kind", "subject", "principal", "data", "previous")
        rows.append({**dict(zip(names, parts, strict=True)), "hash": digest})
        previous = digest
    return rows


def evidence(state: str = "succeeded", outcome: str = "succeed", **left: Any) -> Any:
    """One call that became one job with one attempt, and all is as it should be."""
    return verdict.Evidence(
        starts=[{"attempt": "att-1", "pid": 11, "what": "blink"}],
        kills=[],
        calls=[{"key": "k", "job": "job-1"}],
        jobs=[{"id": "job-1", "state": state, "launch": "{}"}],
        attempts=[{"id": "att-1", "job": "job-1", "ended_at": 2.0, "outcome": outcome}],
        approvals=[{"job": "job-1", "state": "consumed"}],
        keys=[{"key": "k", "job": "job-1"}],
        ledger=[{"id": "led-1", "subject": "job-1", "settled": 5}],
        journal=chain(("job.running", "job-1"), (f"job.{state}", "job-1")),
        left={"att-1": verdict.Left(**{"go": GO, "exit": EXIT, "result": {}, **left})},
        processes=[],
    )


def test_what_went_as_it_should_is_found_good() -> None:
    found = verdict.judge(evidence())
    assert found.line() == {"kills": 0, "runs": 1, "lost": 0, "double": 0, "orphans": 0, "integrity": "ok"}
    assert found.good


@pytest.mark.parametrize(
    ("wrong", "because"),
    [
        (evidence(result=None), "it left no result"),
        (replace(evidence(), starts=[]), "it never started"),
        (evidence("lost", "lose"), "it left an exit"),
        (evidence("lost", "lose", exit=None, result=None), "nobody had killed its shim"),
        (evidence("failed", "fail", exit=KILLED), "nobody had killed its payload"),
        (evidence("failed", "fail", exit={**EXIT, "reason": "unstartable"}), "it started"),
        (evidence("failed", "fail", exit=None, result=None), "nothing says how it ended"),
        (evidence("running"), "still running"),
        (replace(evidence(), attempts=[]), "no attempt of that name is recorded"),
        (replace(evidence(), calls=[{"key": "k", "job": "job-2"}]), "is not there"),
    ],
)
def test_an_attempt_that_was_forgotten_or_told_wrongly_is_lost(wrong: Any, because: str) -> None:
    assert because in " ".join(verdict.judge(wrong).lost)


def test_a_job_called_lost_is_told_truly_when_its_shim_was_killed() -> None:
    lost = evidence("lost", "lose", exit=None, result=None)
    found = verdict.judge(replace(lost, kills=[{"what": "shim", "pid": 10, "attempt": "att-1"}]))
    assert found.good
    assert found.named_lost == ["att-1"]


@pytest.mark.parametrize(
    ("wrong", "because"),
    [
        (replace(evidence(), starts=2 * evidence().starts), "started 2 times"),
        (replace(evidence(), attempts=2 * evidence().attempts), "2 attempts where 1 were approved"),
        (replace(evidence(), approvals=[]), "1 attempts where 0 were approved"),
        (replace(evidence(), keys=[]), "made for no key"),
        (
            replace(evidence(), calls=[{"key": "k", "job": "job-1"}, {"key": "k", "job": "job-2"}]),
            "stands for",
        ),
    ],
)
def test_what_was_started_more_often_than_was_allowed_is_double(wrong: Any, because: str) -> None:
    assert because in " ".join(verdict.judge(wrong).double)


def edited() -> list[dict[str, Any]]:
    first, second = evidence().journal
    return [first, {**second, "principal": "user:eve"}]


@pytest.mark.parametrize(
    ("wrong", "because"),
    [
        (replace(evidence(), journal=edited()), "broken at entry 2"),
        (replace(evidence(), journal=evidence().journal[1:]), "broken at entry 1"),
        (
            replace(evidence(), journal=chain(("job.running", "job-1"))),
            "ends job-1, which is succeeded, 0 times",
        ),
        (
            replace(evidence(), ledger=[{"id": "led-1", "subject": "job-1", "settled": None}]),
            "is set aside",
        ),
        (replace(evidence(), database="row 3 missing"), "row 3 missing"),
    ],
)
def test_a_broken_journal_ledger_or_database_is_told(wrong: Any, because: str) -> None:
    found = verdict.judge(wrong)
    assert because in found.line()["integrity"]
    assert not found.good


def test_a_process_that_outlives_its_attempt_is_an_orphan(tmp_path: Path) -> None:
    (tmp_path / "attempts/att-left").mkdir(parents=True)
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    with subprocess.Popen(
        command, env={"AGENTD_ATTEMPT_ID": "att-left"}, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as left:
        assert left.stdout is not None
        left.stdout.readline()
        assert list(verdict.processes(tmp_path / "attempts")) == [left.pid]
        left.communicate()
    assert verdict.processes(tmp_path / "attempts") == {}


@pytest.mark.slow
def test_killed_at_random_a_daemon_loses_nothing_and_doubles_nothing(tmp_path: Path) -> None:
    command = [sys.executable, HERE / "chaos.py", "--folder", tmp_path / "chaos", "--launches", "40"]
    command += ["--trainings", "0", "--no-service", "--no-syscalls", "--seconds", "40"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found = json.loads(ran.stdout.splitlines()[-1])
    assert (found["lost"], found["double"], found["orphans"], found["integrity"]) == (0, 0, 0, "ok"), (
        ran.stderr
    )
    assert found["runs"] > 30
    assert found["kills"] > 5
    assert ran.returncode == 0


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("strace"), reason="there is no strace here")
def test_killed_at_some_system_call_it_starts_once_all_the_same(tmp_path: Path) -> None:
    command = [sys.executable, HERE / "syscalls.py", "--folder", tmp_path / "calls", "--sample", "3"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    found = json.loads(ran.stdout.splitlines()[-1])
    assert found["problems"] == [], ran.stderr
    assert found["kills"] > 9
