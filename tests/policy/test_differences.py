"""What is new about an action, beside the last one like it that was approved."""

from __future__ import annotations

from typing import Any

import pytest

from agentd.daemon import Daemon
from agentd.policy.callers import Caller
from agentd.policy.differences import differences
from agentd.sdk import JobView

BEFORE: dict[str, Any] = {
    "arguments": {"epochs": 2, "model": "small"},
    "inputs": {"data": "aa"},
    "max_micro_usd": 10_000,
    "timeout_s": 60.0,
    "quote": {"seconds": 5.0, "micro_usd": 100},
    "recipe_digest": "r1",
    "why": "rule 'training' of 'default'",
}


def told(**changes: Any) -> list[tuple[str, Any, Any]]:
    return [(one.what, one.before, one.now) for one in differences(BEFORE, BEFORE | changes)]


def test_the_same_facts_do_not_differ() -> None:
    assert told() == []
    assert told(why="another rule") == []


def test_what_it_costs_comes_before_what_it_is() -> None:
    changed = told(
        arguments={"epochs": 3, "model": "small"},
        max_micro_usd=20_000,
        recipe_digest="r2",
        inputs={"data": "bb"},
    )
    assert changed == [
        ("at most", 10_000, 20_000),
        ("epochs", 2, 3),
        ("input data", "aa", "bb"),
        ("text of the recipe", "r1", "r2"),
    ]


def test_what_came_and_what_went_is_told() -> None:
    assert told(arguments={"model": "small", "rank": 8}) == [("rank", None, 8), ("epochs", 2, None)]
    assert ("takes about", 5.0, None) in told(quote=None)
    assert told(inputs={}) == [("input data", "aa", None)]


def test_each_difference_says_how_its_figures_are_to_be_read() -> None:
    forms = {one.what: one.form for one in differences(BEFORE, {})}
    assert forms == {
        "at most": "usd",
        "limit": "seconds",
        "costs about": "usd",
        "takes about": "seconds",
        "epochs": "value",
        "model": "value",
        "input data": "digest",
        "text of the recipe": "digest",
    }


# --- which one it is compared with ----------------------------------------------------------

LEARNED = {"costs about", "takes about", "memory"}
"""What the first job taught about the next ones of its kind."""


async def asked(daemon: Daemon, caller: Caller, **arguments: Any) -> str:
    view = await daemon.calls.call("work", arguments, caller)
    assert isinstance(view, JobView)
    return view.id


@pytest.mark.anyio
async def test_a_question_is_compared_with_the_last_approved_action_of_its_tool(
    boot: Any, agent: Caller, person: Caller
) -> None:
    daemon = await boot(policy="asking")
    first = await asked(daemon, agent, text="one")
    assert (daemon.approvals.get(first).like, daemon.approvals.get(first).differences) == (None, [])
    await daemon.approvals.decide(first, "approve", person)
    await daemon.jobs.settled(first)
    denied = await asked(daemon, agent, text="two", timeout_s=9)
    await daemon.approvals.decide(denied, "deny", person)
    question = daemon.approvals.get(await asked(daemon, agent, text="three", timeout_s=30))
    assert question.like == daemon.approvals.get(first).id
    assert [(one.what, one.before, one.now) for one in question.differences if one.what not in LEARNED] == [
        ("at most", 60_000_000, 30_000_000),
        ("limit", 60.0, 30.0),
        ("text", "one", "three"),
        ("timeout_s", None, 30),
    ]
    again = daemon.approvals.get(await asked(daemon, agent, text="one"))
    assert again.like == question.like
    assert {one.what for one in again.differences} <= LEARNED


@pytest.mark.anyio
async def test_a_launch_of_the_same_kind_is_nearer_than_a_newer_one_of_another(
    boot: Any, agent: Caller, person: Caller
) -> None:
    daemon = await boot(policy="asking")
    same, newer = await asked(daemon, agent, text="one"), await asked(daemon, agent, text="two")
    for job in (same, newer):
        await daemon.approvals.decide(job, "approve", person)
        await daemon.jobs.settled(job)
    daemon.store.change("UPDATE jobs SET timing_key = 'another' WHERE id = ?", [newer])
    question = daemon.approvals.get(await asked(daemon, agent, text="three"))
    assert question.like == daemon.approvals.get(same).id
