"""What launching costs: the claiming transaction, a whole launch, and the time until it runs.

Each beside what it would take without us, in the same run and on the same disk:

    claim   consume the approval, reserve the budget, record the attempt: one transaction
            beside one row in one transaction of a bare SQLite file, WAL and ``synchronous=FULL`` too
    launch  from a person's answer to the recorded end of the job
            beside as many commits and as many files written durably, then a process that starts
            the same payload and waits for it
    start   from a person's answer to the payload's first line
            beside the same payload started with `subprocess`
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from agentd.config import Budget, Config, load_config
from agentd.daemon import Daemon
from agentd.errors import AgentdError
from agentd.jobs import shim
from agentd.jobs.attempts import Attempt, inherited_env
from agentd.jobs.transitions import Transitions
from agentd.policy.bindings import Binding
from agentd.policy.callers import Caller
from agentd.policy.rules import Decision
from agentd.sdk import JobView, Quote
from agentd.store.jobs import JobRow, JobTable

__all__ = ["run"]

ROOT = Path(__file__).with_name("root")
CLAIMS = 20  # in one round
COMMITS = 5  # of a launch: the answer, approved, prepared, claimed, ended
FILES = 4  # of a launch, with their folder: spec and launch, go, exit
WAITS = "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"


def run(rounds: int = 20) -> dict[str, Any]:
    """Both sides in turn, `rounds` times, after one unmeasured round; medians and their ratios."""
    folder = Path(tempfile.mkdtemp(prefix="agentd-bench-"))
    try:
        samples = asyncio.run(_measure(folder, rounds))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    middle = {name: statistics.median(seconds) for name, seconds in samples.items()}
    return {
        "rounds": rounds,
        "claims_per_s": round(1 / middle["claim"]),
        "bare_commits_per_s": round(1 / middle["bare commit"]),
        "claim_ratio": round(middle["bare commit"] / middle["claim"], 2),
        "launch_ms": _ms(middle["launch"]),
        "bare_launch_ms": _ms(middle["bare launch"]),
        "launch_ratio": round(middle["bare launch"] / middle["launch"], 2),
        "approval_to_start_ms": _ms(middle["start"]),
        "bare_start_ms": _ms(middle["bare start"]),
        "start_over_bare_ms": _ms(middle["start"] - middle["bare start"]),
    }


def _ms(seconds: float) -> float:
    return round(1000 * seconds, 1)


async def _measure(folder: Path, rounds: int) -> dict[str, list[float]]:
    daemon = Daemon(_config(folder / "state"), url="http://127.0.0.1:1")
    await daemon.start()
    bare = _bare_database(folder / "bare.db")
    steps = Transitions(
        daemon.store, JobTable(daemon.store), daemon.approvals, daemon.ledger, daemon.journal,
        daemon.changes, lambda seconds: round(seconds),
    )  # fmt: skip
    samples: dict[str, list[float]] = {}

    def keep(turn: int, **seconds: float) -> None:
        if turn:  # the first round builds the environment and fills caches
            for name, value in seconds.items():
                samples.setdefault(name.replace("_", " "), []).append(value)

    try:
        for turn in range(rounds + 1):
            whole, started, attempt = await _launch(daemon, turn)
            keep(turn, launch=whole, start=started)
            keep(turn, bare_launch=_bare_launch(folder, bare, attempt), bare_start=_bare_start(attempt))
            for number in range(CLAIMS):
                claim, commit = _claim(daemon, steps, f"{turn}-{number}"), _commit(bare)
                keep(turn, claim=claim, bare_commit=commit)
    finally:
        bare.close()
        await daemon.aclose()
    return samples


def _config(state: Path) -> Config:
    return Config(
        state_dir=state,
        cache_dir=load_config().cache_dir,
        roots=(ROOT,),
        policy="bench",
        budget=Budget(per_day_usd=1000.0, per_month_usd=1000.0),
    )


async def _launch(daemon: Daemon, turn: int) -> tuple[float, float, Path]:
    """Seconds from a person's answer to the end, and to the payload's first line; the attempt's folder."""
    agent = Caller("agent:bench", "operate", "bench", daemon.state_dir, is_agent=True)
    person = Caller("user:bench", "admin", "bench", daemon.state_dir, is_agent=False)
    called = await daemon.calls.call("tick", {"number": turn}, agent)
    assert isinstance(called, JobView)
    question = await _question(daemon, called.id)
    answered = time.monotonic()
    await daemon.approvals.decide(question, "approve", person)
    job = await daemon.jobs.settled(called.id)
    whole = time.monotonic() - answered
    if job.result is None:
        raise AgentdError(f"{job.title} {job.state}: {job.reason}", hint="See: agentd doctor")
    folder = daemon.jobs.attempt_folder(job.id)
    assert folder is not None
    return whole, job.result["started"] - answered, folder


async def _question(daemon: Daemon, job_id: str) -> str:
    """The approval that the job waits for, once it does."""
    async for job in daemon.jobs.follow(job_id):
        if job.state == "waiting_approval" and job.approval:
            return job.approval
    raise AgentdError(f"{job_id} ended before anybody was asked", hint="See: agentd doctor")


def _bare_launch(folder: Path, database: sqlite3.Connection, attempt: Path) -> float:
    """The same commits, files and payload, and a process that waits for it; nothing of ours between."""
    files = folder / "bare"
    shutil.rmtree(files, ignore_errors=True)
    files.mkdir()
    started = time.monotonic()
    for number in range(FILES):
        shim.write_json(str(files / f"{number}.json"), {"number": number})
        shim.sync_folder(str(files))
    for _ in range(COMMITS):
        _commit(database)
    argv, env, _ = _payload(attempt)
    subprocess.run([sys.executable, "-I", "-S", "-c", WAITS, *argv], env=env, check=True)
    return time.monotonic() - started


def _bare_start(attempt: Path) -> float:
    argv, env, result = _payload(attempt)
    started = time.monotonic()
    subprocess.run(argv, env=env, check=True)
    return float(json.loads(result.read_text(encoding="ascii"))["started"]) - started


def _payload(attempt: Path) -> tuple[list[str], dict[str, str], Path]:
    """What an attempt ran: command line, environment, and where its result lies."""
    launch = json.loads((attempt / "launch.json").read_text(encoding="utf-8"))
    env = {**inherited_env(), **launch["env"], "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
    return launch["argv"], env, attempt / "out/result.json"


def _claim(daemon: Daemon, steps: Transitions, name: str) -> float:
    row = _approved(daemon, name)
    attempt = Attempt(daemon.state_dir / f"attempts/att-{row.id}")
    started = time.monotonic()
    steps.launch(row.id, attempt, None, _binding(name))
    return time.monotonic() - started


def _approved(daemon: Daemon, name: str) -> JobRow:
    """A job that only has to be claimed, as it comes out of being prepared."""
    row = JobTable(daemon.store).add(
        tool="tick", title=name, state="preparing", principal="agent:bench", surface="bench",
        cwd=str(daemon.state_dir), arguments={}, launch={"max_micro_usd": 1}, quote=Quote().model_dump(),
    )  # fmt: skip
    decision = Decision(effect="allow", rule="bench", why="measured")
    daemon.approvals.record(
        decision, job=row.id, action=name, binding=_binding(name), facts={}, by="agent:bench"
    )
    return row


def _binding(name: str) -> Binding:
    """As many parts as a fine-tune has."""
    return Binding(action={f"parameter {number}": name for number in range(30)})


def _bare_database(path: Path) -> sqlite3.Connection:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute("CREATE TABLE attempts (id INTEGER PRIMARY KEY, at REAL, what TEXT)")
    return database


def _commit(database: sqlite3.Connection) -> float:
    started = time.monotonic()
    database.execute("BEGIN IMMEDIATE")
    database.execute("INSERT INTO attempts (at, what) VALUES (?, ?)", [time.time(), "launch"])
    database.execute("COMMIT")
    return time.monotonic() - started
