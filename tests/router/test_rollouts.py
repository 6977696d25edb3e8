"""An alias on its way to another model: through its stages and back, in daemons with a real endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.daemon import Daemon
from agentd.errors import AgentdError, Conflict, InputError, NeedsApproval
from agentd.policy.callers import Caller
from agentd.router.inquiry import Inquiry
from agentd.sdk import Alias, Model, Report, Rollout

pytestmark = pytest.mark.anyio
Boot = Any
Reach = Callable[..., Awaitable[Daemon]]

WIDE = {"error_margin": 0.4, "latency_ratio": 100, "requests": 5, "drift": False}
"""Limits that some twenty requests of each model are enough for."""


@pytest.fixture
def reach(boot: Boot, endpoint: Any, tmp_path: Path) -> Reach:
    """A daemon with an alias, a model beside it that is as good by its report, and one that is broken."""

    async def start(**changes: Any) -> Daemon:
        models = [
            Model(name=name, kind="local", endpoint=endpoint.url, upstream=upstream)
            for name, upstream in (("old", "fine"), ("new", "fine"), ("bad", "broken"))
        ]
        daemon: Daemon = await boot(models=models, **changes)
        if daemon.catalog.alias("support") is None:
            alias = Alias(name="support", weights={"old": 1.0}, fallbacks=("old",), residency=("here", ""))
            daemon.catalog.set_alias(alias.model_copy(update={"residency": ()}))
            for name, right in (("old", 200), ("new", 200), ("bad", 200), ("poor", 20)):
                daemon.reports.save(report(tmp_path, name, right))
        return daemon

    return start


def report(folder: Path, label: str, right: int) -> Report:
    """Of 200 rows, so many right. `poor` is a report about `new` on 20 rows."""
    n = 20 if label == "poor" else 200
    path = folder / f"{label}.jsonl"
    rows = [
        {"id": f"{at}", "input": f"question {at}", "expected": "", "output": "", "score": float(at < right)}
        for at in range(n)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    model, suite = ("new", "small") if label == "poor" else (label, "tickets")
    return Report(
        id=f"rep-{label}", suite=suite, suite_digest=suite, model=model, metric="exact", score=right / n,
        low=0.0, high=1.0, n=n, rows=path,
    )  # fmt: skip


async def promoted(daemon: Daemon, caller: Caller, **arguments: Any) -> Rollout:
    given: dict[str, Any] = {"alias": "support", "model": "new", "report": "rep-new", "against": "rep-old"}
    given |= {"margin": 0.05, "limits": WIDE}
    found: Any = await daemon.calls.call("promote", {**given, **arguments}, caller)
    return found.rollout


async def ask(daemon: Daemon, caller: Caller, requests: int, start: int = 0) -> None:
    """Different conversations, so that the shares are drawn anew for each."""

    async def one(at: int) -> None:
        said = [{"role": "user", "content": f"question {at}"}]
        await daemon.gateway.complete(
            Inquiry({"model": "support", "messages": said, "max_tokens": 5}, caller)
        )

    for at in range(start, start + requests, 8):
        await asyncio.gather(*(one(each) for each in range(at, at + 8)))
        await asyncio.gather(*daemon._dispatch._shadows)  # pyright: ignore[reportPrivateUsage]


def standing(daemon: Daemon) -> Rollout:
    return daemon.rollouts.list()[0]


def moves(daemon: Daemon) -> list[str]:
    return [entry.kind for entry in daemon.journal.tail(200, subject="support", kind="rollout.*")]


async def test_a_good_model_goes_through_shadow_and_canary_to_all_requests(
    reach: Reach, person: Caller, endpoint: Any
) -> None:
    daemon = await reach()
    rollout = await promoted(daemon, person, stages="shadow 100%, canary 50%, full")
    assert (rollout.stage, rollout.number, rollout.incumbents) == ("shadow 100 %", 1, ("old",))
    await daemon.rollouts.look()
    assert standing(daemon).stage == "shadow 100 %"
    assert any("0.4" in lack or "40" in lack for lack in standing(daemon).waits_for)
    await ask(daemon, person, 40)
    assert len(endpoint.seen) == 80
    alias = daemon.catalog.alias("support")
    assert alias is not None
    assert (alias.weights, alias.shadow) == ({"old": 1.0}, {"new": 1.0})
    await daemon.rollouts.look()
    assert standing(daemon).stage == "canary 50 %"
    alias = daemon.catalog.alias("support")
    assert alias is not None
    assert (alias.weights, alias.shadow, alias.fallbacks) == ({"old": 0.5, "new": 0.5}, {}, ("old",))
    await ask(daemon, person, 96, 100)
    assert "canary 50 %" in daemon.requests.list(1)[0].why
    await daemon.rollouts.look()
    assert standing(daemon).stage == "full"
    await ask(daemon, person, 40, 300)
    await daemon.rollouts.look()
    assert standing(daemon).state == "done"
    alias = daemon.catalog.alias("support")
    assert alias is not None
    assert (alias.weights, alias.fallbacks) == ({"new": 1.0}, ("old",))
    assert moves(daemon) == ["rollout.started", "rollout.stage", "rollout.stage", "rollout.done"]
    [first] = daemon.journal.tail(1, subject="support", kind="rollout.started")
    assert (first.principal, first.data["limits"]["error_margin"]) == ("user:ada", 0.4)


async def test_a_canary_that_fails_is_turned_back_by_itself_and_rests(reach: Reach, person: Caller) -> None:
    daemon = await reach()
    before = daemon.catalog.alias("support")
    bad: dict[str, Any] = {"model": "bad", "report": "rep-bad", "stages": "canary 50%, full"}
    await promoted(daemon, person, **bad)
    start = 0
    while standing(daemon).state == "running" and start < 400:  # every request is answered all the same
        await ask(daemon, person, 16, start)
        start += 16
    rollout = standing(daemon)
    assert rollout.state == "rolled_back"
    assert "its error rate is worse: 100.0% beside 0.0%" in rollout.why
    assert daemon.catalog.alias("support") == before
    assert moves(daemon) == ["rollout.started", "rollout.rolled_back"]
    with pytest.raises(Conflict, match="went back from 'bad' lately"):
        await promoted(daemon, person, **bad)
    again = await promoted(daemon, person, **bad, force=True, because="it was mended")
    assert (again.state, again.why) == ("running", "forced: it was mended")


async def test_a_restart_in_the_middle_of_a_stage_keeps_stage_and_what_was_seen(
    reach: Reach, boot: Boot, person: Caller
) -> None:
    daemon = await reach()
    await promoted(daemon, person, stages="canary 50%, full")
    await ask(daemon, person, 24)
    was = standing(daemon)
    await boot.stop(daemon)
    later = await reach()
    assert standing(later) == was
    assert was.seen["errors"].endswith("requests")
    with pytest.raises(Conflict, match="on its way to 'new'"):
        await promoted(later, person, stages="full")
    ended: Any = await later.calls.call(
        "promote", {"alias": "support", "step": "abort", "because": "enough"}, person
    )
    assert ended.rollout.state == "aborted"
    alias = later.catalog.alias("support")
    assert alias is not None
    assert alias.weights == {"old": 1.0}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"report": "new@small", "against": "rep-old"}, "measures"),
        ({"margin": 0.001}, "inconclusive"),
        ({"stages": "canary 60%, 50%, full"}, "do not rise"),
        ({"stages": "canary 10%"}, "do not rise to full"),
        ({"stages": "half, full"}, "'half' is no stage"),
        ({"alias": "nobody"}, "no alias yet"),
        ({"model": "old", "report": "rep-old"}, "already"),
        ({"step": "abort"}, "needs a reason"),
        ({"step": "next"}, "no rollout"),
    ],
)
async def test_what_cannot_begin_says_why_and_moves_nothing(
    reach: Reach, person: Caller, change: dict[str, Any], said: str
) -> None:
    daemon = await reach()
    with pytest.raises(AgentdError, match=said):
        await promoted(daemon, person, **{"stages": "canary 10%, full", **change})
    assert daemon.rollouts.list() == []


async def test_a_newer_report_that_is_inconclusive_holds_the_stage_and_a_person_may_force_it(
    reach: Reach, person: Caller, tmp_path: Path
) -> None:
    daemon = await reach()
    await promoted(daemon, person, stages="canary 50%, full")
    await ask(daemon, person, 96)
    newer = report(tmp_path, "new", 190).model_copy(update={"id": "rep-newer"})
    daemon.reports.save(newer)
    await daemon.rollouts.look()
    assert standing(daemon).stage == "canary 50 %"
    step = {"alias": "support", "step": "next"}
    with pytest.raises(InputError, match="it waits for evidence that holds"):
        await daemon.calls.call("promote", step, person)
    with pytest.raises(InputError, match="needs a reason"):
        await daemon.calls.call("promote", {**step, "force": True}, person)
    found: Any = await daemon.calls.call("promote", {**step, "force": True, "because": "seen"}, person)
    assert (found.rollout.stage, found.rollout.why) == ("full", "forced: seen")


async def test_a_stage_that_is_to_be_approved_waits_for_a_person_and_says_so_once(
    reach: Reach, person: Caller, agent: Caller
) -> None:
    daemon = await reach(policy="default")
    with pytest.raises(NeedsApproval):
        await promoted(daemon, agent, stages="canary 50%, full", approve="each")
    [waiting] = daemon.jobs.list(state="waiting_approval")
    assert waiting.approval is not None
    await daemon.approvals.decide(waiting.approval, "approve", person)
    assert (await daemon.jobs.settled(waiting.id)).state == "succeeded"
    await ask(daemon, agent, 96)
    await daemon.rollouts.look()
    await daemon.rollouts.look()
    assert standing(daemon).stage == "canary 50 %"
    assert standing(daemon).waits_for == ("a person: agentd call promote alias=support step=next",)
    assert moves(daemon) == ["rollout.started", "rollout.waiting"]


async def test_an_alias_that_is_moved_by_other_means_is_let_go(reach: Reach, person: Caller) -> None:
    daemon = await reach()
    await promoted(daemon, person, stages="canary 50%, full")
    now = {"alias": "support", "model": "new", "force": True, "because": "we are sure"}
    await daemon.calls.call("promote", now, person)
    assert standing(daemon).state == "superseded"
    alias = daemon.catalog.alias("support")
    assert alias is not None
    assert (alias.weights, alias.fallbacks) == ({"new": 1.0}, ("old",))
