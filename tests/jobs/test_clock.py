"""Somebody sets the machine's clock, forward or back: no job ends, costs more, or is forgotten for it."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.daemon import Daemon
from agentd.policy.callers import Caller
from agentd.sdk import JobView

pytestmark = pytest.mark.anyio
Until = Callable[..., Awaitable[JobView]]
SetClock = Callable[[float], None]
DAY, SOME_S = 86_400.0, 60.0
JUMPS = pytest.mark.parametrize("days", [30.0, -30.0, 3_650.0], ids=["forward", "back", "years"])


@pytest.fixture
def set_clock(monkeypatch: pytest.MonkeyPatch) -> SetClock:
    """``set_clock(seconds)``: the daemon reads that much more than the machine's clock from now on."""
    real = time.time
    return lambda seconds: monkeypatch.setattr(time, "time", lambda: real() + seconds)


async def held(daemon: Daemon, agent: Caller, until: Until, hold: Path, **arguments: Any) -> str:
    """A job that runs until something is written to `hold`."""
    os.mkfifo(hold)
    view = await daemon.calls.call("work", {"hold": str(hold), **arguments}, agent)
    assert isinstance(view, JobView)
    await until(daemon, view.id, progress={"done": 1, "total": 2, "unit": "steps"})
    return view.id


def check(daemon: Daemon, view: JobView) -> None:
    """It succeeded, and took and cost what it did by a clock that nobody sets, at a dollar a second."""
    assert view.state == "succeeded", view.reason
    assert view.seconds is not None
    assert 0 < view.seconds < SOME_S
    assert view.micro_usd is not None
    assert 0 < view.micro_usd < SOME_S * 1e6
    assert daemon.ledger.open_of(view.id) == []
    assert daemon.journal.verify().ok


@JUMPS
async def test_a_running_job_goes_on_and_is_billed_for_what_it_took(
    daemon: Daemon, agent: Caller, until: Until, tmp_path: Path, set_clock: SetClock, days: float
) -> None:
    job = await held(daemon, agent, until, tmp_path / "hold", timeout_s=SOME_S)
    set_clock(days * DAY)
    await asyncio.sleep(1.2)  # two turns of whoever watches it
    assert daemon.jobs.get(job).state == "running"
    (tmp_path / "hold").write_text("go on", encoding="utf-8")
    check(daemon, await daemon.jobs.settled(job))


@JUMPS
async def test_a_job_is_adopted_by_a_daemon_that_starts_under_another_clock(
    boot: Any, agent: Caller, until: Until, tmp_path: Path, set_clock: SetClock, days: float
) -> None:
    first, starts = await boot(), tmp_path / "starts"
    job = await held(first, agent, until, tmp_path / "hold", starts=str(starts), timeout_s=SOME_S)
    await boot.stop(first)
    set_clock(days * DAY)
    second = await boot()
    assert second.jobs.get(job).state == "running"
    (tmp_path / "hold").write_text("go on", encoding="utf-8")
    check(second, await second.jobs.settled(job))
    assert len(starts.read_text(encoding="utf-8").splitlines()) == 1


@JUMPS
async def test_a_service_is_neither_idle_nor_over_its_time(
    daemon: Daemon, agent: Caller, set_clock: SetClock, days: float
) -> None:
    view = await daemon.calls.call("hang_bell", {"idle_stop_s": SOME_S}, agent)
    assert isinstance(view, JobView)
    await daemon.jobs.settled(view.id)
    before = (await daemon.calls.call("ring", {"text": "ding"}, agent)).model_dump()
    set_clock(days * DAY)
    await asyncio.sleep(1.2)
    assert (await daemon.calls.call("ring", {"text": "ding"}, agent)).model_dump() == before


@JUMPS
async def test_the_wall_clock_of_a_job_is_no_clock_that_can_be_set(
    daemon: Daemon, agent: Caller, until: Until, tmp_path: Path, set_clock: SetClock, days: float
) -> None:
    job = await held(daemon, agent, until, tmp_path / "hold", timeout_s=1.5)
    set_clock(days * DAY)
    view = await daemon.jobs.settled(job)
    assert (view.state, view.cause) == ("timed_out", "timed_out")
    assert view.micro_usd is not None
    assert 1.4e6 < view.micro_usd < SOME_S * 1e6


async def test_a_question_waits_while_the_clock_goes_back_and_expires_when_it_goes_past_its_time(
    boot: Any, agent: Caller, person: Caller, set_clock: SetClock
) -> None:
    daemon = await boot(policy="asking")
    view = await daemon.calls.call("work", {}, agent)
    set_clock(-30 * DAY)
    daemon.approvals.expire()
    assert daemon.jobs.get(view.id).state == "waiting_approval"
    set_clock(30 * DAY)
    daemon.approvals.expire()
    ended = daemon.jobs.get(view.id)
    assert (ended.state, ended.reason) == ("cancelled", "nobody answered in time")


async def test_money_that_was_spent_before_the_clock_went_back_stays_spent(
    boot: Any, agent: Caller, set_clock: SetClock
) -> None:
    daemon = await boot()
    view = await daemon.calls.call("work", {}, agent)
    spent = (await daemon.jobs.settled(view.id)).micro_usd
    set_clock(-30 * DAY)
    assert daemon.ledger.summary().day_spent >= spent
