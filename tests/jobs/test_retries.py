"""Another attempt: only where it can help, only as often as was approved, each one paid for by itself."""

from __future__ import annotations

import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.config import Budget
from agentd.daemon import Daemon
from agentd.errors import InputError
from agentd.jobs import shim
from agentd.jobs.machine import REPEATED, again, pause_s
from agentd.policy.callers import Caller
from agentd.sdk import JobView

pytestmark = pytest.mark.anyio
Boot = Any
Until = Callable[..., Awaitable[JobView]]
SEGV = f"signal:{int(signal.SIGSEGV)}"


async def launched(daemon: Daemon, caller: Caller, **arguments: Any) -> str:
    view = await daemon.calls.call("fail", arguments, caller)
    assert isinstance(view, JobView)
    return view.id


def starts_in(path: Path) -> list[str]:
    """The attempt of each start."""
    return [line.split()[0] for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def attempts_of(daemon: Daemon, job: str) -> list[tuple[int, str | None, str | None]]:
    rows = daemon.store.rows("SELECT * FROM attempts WHERE job = ? ORDER BY number", [job])
    return [(row["number"], row["outcome"], row["cause"]) for row in rows]


async def test_a_crash_is_followed_by_another_attempt_with_a_folder_and_a_reservation_of_its_own(
    daemon: Daemon, agent: Caller, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    job = await launched(daemon, agent, how=SEGV, times=1, attempts=3, starts=str(starts))
    view = await daemon.jobs.settled(job)
    assert (view.state, view.cause, view.attempt, view.attempts) == ("succeeded", None, 2, 3)
    assert attempts_of(daemon, job) == [(1, "fail", "crashed"), (2, "succeed", None)]
    first, second = starts_in(starts)
    assert first != second
    entries = daemon.ledger.entries(subject=job)
    assert {entry.attempt for entry in entries} == {first, second}
    assert view.micro_usd == sum(entry.settled or 0 for entry in entries)
    steps = [e.data for e in daemon.journal.tail(50, subject=job) if e.kind.startswith("job.")]
    assert [step["to"] for step in steps if "to" in step] == [
        "preparing", "running", "queued", "preparing", "running", "succeeded",
    ]  # fmt: skip
    again_queued = next(step for step in steps if step.get("from") == "running" and step["to"] == "queued")
    assert (again_queued["cause"], again_queued["attempt"]) == ("crashed", first)


async def test_there_are_never_more_attempts_than_were_approved_not_even_across_restarts(
    boot: Boot, agent: Caller, until: Until, tmp_path: Path
) -> None:
    starts, daemon = tmp_path / "starts", await boot()
    job = await launched(daemon, agent, how=SEGV, attempts=3, starts=str(starts))
    for number in (1, 2):
        await until(daemon, job, attempt=number, state="queued")
        await boot.stop(daemon)
        daemon = await boot()
    view = await daemon.jobs.settled(job)
    assert (view.state, view.cause, view.attempt) == ("failed", "crashed", 3)
    assert len(starts_in(starts)) == len(set(starts_in(starts))) == 3
    assert daemon.ledger.summary().day_reserved == 0


@pytest.mark.parametrize("how", ["said:nan_loss", "memory", f"signal:{int(signal.SIGKILL)}", "exit:0"])
async def test_what_would_fail_the_same_way_is_not_tried_again(
    daemon: Daemon, agent: Caller, how: str
) -> None:
    view = await daemon.jobs.settled(await launched(daemon, agent, how=how, attempts=3))
    assert (view.state, view.attempt, view.attempts) == ("failed", 1, 3)


@pytest.mark.parametrize("repeatable", [True, False])
async def test_a_lost_attempt_is_repeated_only_where_that_does_no_harm(
    daemon: Daemon, agent: Caller, until: Until, tmp_path: Path, repeatable: bool
) -> None:
    starts = tmp_path / "starts"
    job = await launched(
        daemon, agent, how="hang", times=1, attempts=2, repeatable=repeatable, starts=str(starts)
    )
    await until(daemon, job, progress={"message": "hanging"})
    folder = daemon.jobs.attempt_folder(job)
    assert folder is not None
    go = shim.read_json(str(folder / "go"))
    assert go is not None
    os.kill(go["pid"], signal.SIGKILL)
    shim.end_all(folder.name, "")
    view = await daemon.jobs.settled(job)
    assert (view.state, view.attempt) == (("succeeded", 2) if repeatable else ("lost", 1))
    assert attempts_of(daemon, job)[0] == (1, "lose", "lost")
    assert daemon.ledger.summary().day_reserved == 0


@pytest.mark.parametrize("resumes", [True, False])
async def test_what_resumes_says_so_when_it_was_killed(daemon: Daemon, agent: Caller, resumes: bool) -> None:
    how = f"signal:{int(signal.SIGKILL)}"
    view = await daemon.jobs.settled(await launched(daemon, agent, how=how, resumes=resumes))
    assert (view.state, view.cause) == ("failed", "killed")
    assert ("the same call of fail goes on where it was" in view.next) is resumes


async def test_cancelling_between_two_attempts_ends_the_job(
    daemon: Daemon, agent: Caller, until: Until, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    job = await launched(daemon, agent, how=SEGV, attempts=5, starts=str(starts))
    await until(daemon, job, attempt=1, state="queued")
    view = await daemon.jobs.cancel(job)
    assert (view.state, view.cause, view.attempt) == ("cancelled", "cancelled", 1)
    assert len(starts_in(starts)) == 1
    assert daemon.ledger.summary().day_reserved == 0


async def test_an_attempt_that_the_budget_has_no_room_for_is_not_made(
    boot: Boot, agent: Caller, tmp_path: Path
) -> None:
    starts, daemon = tmp_path / "starts", await boot(budget=Budget(per_day_usd=60.0))
    job = await launched(daemon, agent, how=SEGV, attempts=2, timeout_s=30.0, starts=str(starts))
    # All that is left: whatever the first attempt spends, a second one does not fit any more.
    other = daemon.ledger.reserve("job", "somebody else", _payer(agent), 30_000_000)
    view = await daemon.jobs.settled(job)
    assert (view.state, view.cause, view.attempt) == ("failed", "over_budget", 1)
    assert [entry.id for entry in daemon.ledger.open_of("somebody else")] == [other]
    assert daemon.ledger.open_of(job) == []


def _payer(caller: Caller) -> Any:
    return caller.payer


async def test_the_number_of_attempts_is_part_of_what_is_approved_and_told(
    boot: Boot, agent: Caller, person: Caller
) -> None:
    daemon = await boot(policy="asking_all")
    one = daemon.jobs.get(await launched(daemon, agent, how="exit:0"))
    three = daemon.jobs.get(await launched(daemon, agent, how="exit:0", attempts=3))
    assert one.digest != three.digest
    assert three.approval is not None
    facts = daemon.approvals.get(three.approval).facts
    assert (facts["attempts"], facts["max_micro_usd"]) == (3, 3 * 60_000_000)
    with pytest.raises(InputError, match="asks for 0 attempts"):
        await launched(daemon, agent, how="exit:0", attempts=0)


def test_the_decision_to_try_again_is_one_of_cause_and_number() -> None:
    assert {"crashed", "exit_code", "io_error", "unstartable"} == REPEATED
    assert again("crashed", number=1, attempts=2, repeatable=False)
    assert not again("crashed", number=2, attempts=2, repeatable=True)
    assert not again("out_of_memory", number=1, attempts=9, repeatable=True)
    assert again("lost", number=1, attempts=2, repeatable=True)
    assert not again("lost", number=1, attempts=2, repeatable=False)
    assert [pause_s(n) for n in (1, 2, 3, 6, 7, 50)] == [1, 2, 4, 32, 60, 60]
