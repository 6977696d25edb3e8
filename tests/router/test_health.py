"""Who rests, how long, and who may try."""

from __future__ import annotations

import asyncio

import pytest

from agentd.router.health import FAILURES, FIRST_REST_S, LONGEST_REST_S, Fleet
from agentd.sdk import Model

pytestmark = pytest.mark.anyio
MODEL = Model(name="m", kind="local", concurrent=1, first_token_s=0.05)


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


async def fail(fleet: Fleet, times: int, rest_s: float | None = None) -> None:
    for _ in range(times):
        await fleet.enter(MODEL)
        fleet.failed("m", "it is down", rest_s)
        fleet.leave("m")


async def test_a_model_rests_after_failures_in_a_row_and_each_time_twice_as_long() -> None:
    fleet = Fleet(clock := Clock())
    await fail(fleet, FAILURES - 1)
    assert fleet.rests("m") == 0
    rests = []
    for _ in range(8):
        await fail(fleet, 1)
        rests.append(fleet.rests("m"))
        clock.now += fleet.rests("m")
    assert rests[:3] == [FIRST_REST_S, 2 * FIRST_REST_S, 4 * FIRST_REST_S]
    assert rests[-1] == LONGEST_REST_S


async def test_one_request_tries_it_and_an_answer_ends_the_rest() -> None:
    fleet = Fleet(clock := Clock())
    await fail(fleet, FAILURES)
    clock.now += FIRST_REST_S
    assert fleet.rests("m") == 0
    await fleet.enter(MODEL)
    assert fleet.rests("m") > 0, "the others wait for the one that tries"
    fleet.answered("m", 0.1, 5)
    fleet.leave("m")
    assert fleet.rests("m") == 0
    await fail(fleet, 1)
    assert fleet.rests("m") == 0, "the count begins anew"


async def test_a_model_is_left_alone_as_long_as_it_says() -> None:
    fleet = Fleet(clock := Clock())
    await fail(fleet, 1, rest_s=7)
    assert fleet.rests("m") == 7
    clock.now += 7
    assert fleet.rests("m") == 0


async def test_a_request_that_was_at_fault_says_nothing_of_the_model() -> None:
    fleet = Fleet(Clock())
    await fail(fleet, FAILURES - 1)
    await fleet.enter(MODEL)
    fleet.refused("m")
    fleet.leave("m")
    await fail(fleet, FAILURES - 1)
    assert fleet.rests("m") == 0


async def test_no_more_requests_than_its_limit_are_under_way() -> None:
    fleet = Fleet()
    await fleet.enter(MODEL)
    assert fleet.is_full(MODEL)
    with pytest.raises(TimeoutError):
        await fleet.enter(MODEL)
    waiting = asyncio.create_task(fleet.enter(MODEL.model_copy(update={"first_token_s": 5.0})))
    await asyncio.sleep(0)
    fleet.leave("m")
    await waiting
    assert fleet.of("m").under_way == 1
