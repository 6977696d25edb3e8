"""Any order of calls, answers, kills, cancellations and restarts, on real processes and a real database.

`AGENTD_MACHINE_EXAMPLES` says how many orders are tried.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from agentd.config import Budget, Config
from agentd.daemon import Daemon
from agentd.errors import AgentdError
from agentd.jobs import shim
from agentd.jobs.machine import ENDED, TRANSITIONS
from agentd.policy.callers import Caller
from agentd.sdk import JobView
from tests.conftest import CACHE, ROOT

EXAMPLES = int(os.environ.get("AGENTD_MACHINE_EXAMPLES", "12"))
STEPS = 14
LIMIT_USD = 400.0
NEXT = {(before, after) for (before, _), after in TRANSITIONS.items()}
BEHAVIOURS = st.sampled_from(["write", "write", "crash", "exit_quietly", "refuse", "hang", "spawn_and_hang"])
ANY = st.integers(0, 9)


class Machine(RuleBasedStateMachine):
    """One daemon after the other on one state directory, where work waits for a person."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.root = Path(self.folder.name)
        self.starts = self.root / "starts"
        self.starts.mkdir()
        self.agent = Caller("agent:ada", "admin", "mcp", self.root, is_agent=True)
        self.person = Caller("user:ada", "admin", "cli", self.root, is_agent=False)
        self.ended: dict[str, str] = {}
        self.daemon: Daemon | None = None

    @initialize()
    def boot(self) -> None:
        config = Config(
            state_dir=self.root / "state", cache_dir=CACHE, roots=(ROOT,), policy="asking",
            prices="dollar_a_second", max_jobs=2, budget=Budget(per_day_usd=LIMIT_USD, per_month_usd=None),
        )  # fmt: skip
        self.daemon = Daemon(config, url="http://127.0.0.1:1")
        self.run(self.daemon.start())

    def teardown(self) -> None:
        if self.daemon is not None:
            for job in self.daemon.jobs.list(state="live"):
                self.run(self.daemon.jobs.cancel(job.id))
            self.nothing_of_ended_jobs_is_left()
            self.run(self.daemon.aclose())
        self.runner.close()
        self.folder.cleanup()

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    def let(self, seconds: float) -> None:
        """Let the daemon and the processes go on."""
        self.run(asyncio.sleep(seconds))

    def one(self, number: int, *states: str) -> JobView | None:
        """Some job that is in one of these states."""
        assert self.daemon is not None
        jobs = [job for job in self.daemon.jobs.list() if job.state in states]
        return jobs[number % len(jobs)] if jobs else None

    # --- what happens

    @rule(
        behaviour=BEHAVIOURS,
        timeout_s=st.sampled_from([0.3, 60.0]),
        verdict=st.sampled_from(["approve", "approve", "approve", "deny", ""]),
        pause=st.sampled_from([0.0, 0.1, 0.4]),
    )
    def call(self, behaviour: str, timeout_s: float, verdict: Any, pause: float) -> None:
        assert self.daemon is not None
        number = len(self.daemon.jobs.list())
        arguments = {"behaviour": behaviour, "timeout_s": timeout_s, "text": str(number),
                     "starts": str(self.starts / str(number))}  # fmt: skip
        try:
            view = self.run(self.daemon.calls.call("work", arguments, self.agent))
        except AgentdError:  # the budget is used up
            return
        if verdict:
            self.run(self.daemon.approvals.decide(view.id, verdict, self.person))
        self.let(pause)

    @rule(number=ANY, verdict=st.sampled_from(["approve", "approve", "approve", "deny"]))
    def answer(self, number: int, verdict: Any) -> None:
        assert self.daemon is not None
        if job := self.one(number, "waiting_approval"):
            self.run(self.daemon.approvals.decide(job.id, verdict, self.person))

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.3]))
    def wait(self, seconds: float) -> None:
        self.let(seconds)

    @rule(number=ANY)
    def cancel(self, number: int) -> None:
        assert self.daemon is not None
        if job := self.one(number, "queued", "waiting_approval", "preparing", "running"):
            self.run(self.daemon.jobs.cancel(job.id))

    @rule(number=ANY, payload=st.booleans())
    def kill(self, number: int, payload: bool) -> None:
        """A payload, or the shim around it."""
        assert self.daemon is not None
        job = self.one(number, "running")
        folder = self.daemon.jobs.attempt_folder(job.id) if job else None
        if folder is None:
            return
        pids = set(shim.members(folder.name)) if payload else {shim_of(folder)}
        for pid in pids - {0}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    @rule()
    def restart(self) -> None:
        assert self.daemon is not None
        self.run(self.daemon.aclose())
        self.boot()

    # --- what always holds

    @invariant()
    def a_job_that_ended_stays_as_it_ended(self) -> None:
        for job in self.jobs():
            if job.state in ENDED:
                assert self.ended.setdefault(job.id, job.state) == job.state

    @invariant()
    def no_payload_starts_twice_or_unasked(self) -> None:
        allowed = {
            entry.subject for entry in self.journal() if entry.kind == "job.queued" and "from" in entry.data
        }  # the move back to the queue that an approval makes
        for job in self.jobs():
            path = self.starts / str(job.title.removeprefix("Work on "))
            started = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
            assert len(started) <= 1
            assert not started or job.id in allowed

    @invariant()
    def every_step_is_one_the_machine_has(self) -> None:
        last: dict[str, str] = {}
        for entry in self.journal():
            if entry.kind.startswith("job.") and "to" in entry.data:
                before, after = entry.data["from"], entry.data["to"]
                assert (before, after) in NEXT
                assert last.get(entry.subject, before) == before
                last[entry.subject] = after
        for job in self.jobs():
            assert last.get(job.id, "queued") == job.state

    @invariant()
    def money_is_held_while_a_job_runs_and_only_then(self) -> None:
        for job in self.jobs():
            held = self.daemon.ledger.open_of(job.id) if self.daemon else []
            assert len(held) == (job.state == "running")
        if self.daemon:
            summary = self.daemon.ledger.summary()
            assert summary.day_spent + summary.day_reserved <= LIMIT_USD * 1e6 + 5e6  # ending takes time

    @invariant()
    def the_chain_is_whole(self) -> None:
        assert self.daemon is None or self.daemon.journal.verify().ok

    def nothing_of_ended_jobs_is_left(self) -> None:
        for job in self.jobs():
            folder = self.daemon.jobs.attempt_folder(job.id) if self.daemon else None
            assert folder is None or shim.members(folder.name) == {}, job.id

    def jobs(self) -> list[JobView]:
        return self.daemon.jobs.list(limit=1000) if self.daemon else []

    def journal(self) -> list[Any]:
        return self.daemon.journal.tail(10_000) if self.daemon else []


def shim_of(folder: Path) -> int:
    """The pid of an attempt's shim; 0 once it is gone."""
    try:
        return int(json.loads((folder / "go").read_text(encoding="utf-8"))["pid"])
    except (OSError, ValueError, KeyError):
        return 0


TestMachine = Machine.TestCase
TestMachine.settings = settings(
    max_examples=EXAMPLES,
    stateful_step_count=STEPS,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
