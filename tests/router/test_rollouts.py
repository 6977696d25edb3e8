"""An alias on its way to another model: through its stages and back, in daemons with a real endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentd.daemon import Daemon
from agentd.errors import AgentdError, Conflict, InputError, NeedsApproval
from agentd.policy.callers import Caller
from agentd.router.inquiry import Inquiry
from agentd.router.watching import Watching
from agentd.sdk import Alias, Model, Report, Rollout, RolloutLimits

pytestmark = pytest.mark.anyio
Boot = Any
Reach = Callable[..., Awaitable[Daemon]]

WIDE = {"error_margin": 0.4, "latency_ratio": 100, "cost_ratio": None, "requests": 5, "drift": False}
"""Limits that some twenty requests of each model are enough for."""


@pytest.fixture
def reach(boot: Boot, endpoint: Any, tmp_path: Path) -> Reach:
    """A daemon with an alias, a model beside it that is as good by its report, and one that is broken."""

    async def start(**changes: Any) -> Daemon:
        models = [
            Model(name=name, kind="local", endpoint=endpoint.url, upstream=upstream)
            for name, upstream in (
                ("old", "fine"),
                ("new", "fine"),
                ("bad", "broken"),
                ("rude", "rude"),
                ("judge", "judge"),
            )
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


async def ask(
    daemon: Daemon, caller: Caller, requests: int, start: int = 0, words: str = "question"
) -> list[dict[str, Any]]:
    """Different conversations: the shares are drawn anew for each. What goes on behind is waited for."""

    async def one(at: int) -> dict[str, Any]:
        said = [{"role": "user", "content": f"{words} {at}"}]
        body = {"model": "support", "messages": said, "max_tokens": 5}
        return await daemon.gateway.complete(Inquiry(body, caller))

    replies = list[dict[str, Any]]()
    for at in range(start, start + requests, 4):
        replies += await asyncio.gather(*(one(each) for each in range(at, at + 4)))
        await asyncio.gather(*daemon._dispatch._shadows)  # pyright: ignore[reportPrivateUsage]
        await asyncio.gather(*daemon._watching._tasks)  # pyright: ignore[reportPrivateUsage]
    return replies


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
    await ask(daemon, person, 24)
    assert len(endpoint.seen) == 48
    alias = daemon.catalog.alias("support")
    assert alias is not None
    assert (alias.weights, alias.shadow) == ({"old": 1.0}, {"new": 1.0})
    await daemon.rollouts.look()
    assert standing(daemon).stage == "canary 50 %"
    alias = daemon.catalog.alias("support")
    assert alias is not None
    assert (alias.weights, alias.shadow, alias.fallbacks) == ({"old": 0.5, "new": 0.5}, {}, ("old",))
    await ask(daemon, person, 64, 100)
    assert "canary 50 %" in daemon.requests.list(1)[0].why
    await daemon.rollouts.look()
    assert standing(daemon).stage == "full"
    await ask(daemon, person, 24, 300)
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
        ({"limits": {"error_margin": 2}}, "limits.error_margin"),
        ({"limits": {"errors": 0.1}}, "no limit 'errors'"),
        ({"judge": "nobody"}, "nobody"),
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
    await ask(daemon, person, 64)
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
    await ask(daemon, agent, 64)
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


JUDGE: dict[str, Any] = {
    "model": "judge", "system": "Rate it.", "examples": [], "ask": "Give your verdict as JSON", "schema": {},
    "show": {"Question": "input"}, "scale": [1, 5], "pairwise": False, "clip": 1000, "max_tokens": 64,
}  # fmt: skip


def started(daemon: Daemon, model: str, stages: str, inputs: list[str] | None = None, **more: Any) -> Rollout:
    limits = RolloutLimits(**{**WIDE, **more.pop("limits", {})})
    return daemon.rollouts.start(
        "support",
        model,
        stages,
        limits,
        why="a test",
        by="user:ada",
        evidence={},
        inputs=inputs or (),
        **more,
    )


async def test_a_judge_that_finds_shadows_worse_ends_the_rollout_before_anybody_is_answered_by_it(
    reach: Reach, person: Caller
) -> None:
    daemon = await reach()
    started(daemon, "rude", "shadow 100%, full", judge=JUDGE, limits={"judge_share": 1.0})
    start = 0
    while standing(daemon).state == "running" and start < 200:
        replies = await ask(daemon, person, 8, start)
        assert {reply["agentd"]["model"] for reply in replies} == {"old"}
        start += 8
    assert standing(daemon).why.startswith("what the judge says of its answers is worse: 1.000 beside 0.000")
    judged = [row for row in daemon.requests.list(500) if row.principal == "judge:support"]
    assert judged
    with pytest.raises(InputError, match="another answer to compare with"):
        started(daemon, "new", "full", judge={**JUDGE, "pairwise": True})


async def test_requests_of_another_kind_than_the_suites_rows_end_a_rollout(
    reach: Reach, person: Caller
) -> None:
    daemon = await reach()
    rows = [f"{'question ' * (1 + at % 7)}{at}" for at in range(100)]
    started(daemon, "new", "canary 50%, full", rows, limits={"drift": True})
    await ask(daemon, person, 200, words="an order that did not come and of which nobody knows where it is")
    assert standing(daemon).state == "rolled_back"
    assert "words has a population stability index of" in standing(daemon).why


async def test_thumbs_down_end_a_rollout_and_count_once_an_answer(reach: Reach, person: Caller) -> None:
    daemon = await reach()
    started(daemon, "new", "canary 50%, full", limits={"error_margin": 0.45, "feedback_margin": 0.1})
    for reply in await ask(daemon, person, 64):
        for _ in range(3):
            said = {"request_id": reply["agentd"]["request_id"]}
            said |= {"score": -1 if reply["agentd"]["model"] == "new" else 1}
            daemon.gateway.feedback(said, person)
    await daemon.rollouts.look()
    rollout = standing(daemon)
    assert rollout.state == "rolled_back"
    assert rollout.why.startswith("what users say of its answers is worse: 100.0% beside 0.0%")
    assert int(rollout.why.rpartition("of ")[2].split()[0]) <= 32


async def test_what_jobs_ask_and_who_hangs_up_counts_for_nobody(reach: Reach, person: Caller) -> None:
    daemon = await reach()
    started(daemon, "new", "canary 50%, full")
    await ask(daemon, replace(person, principal="job:job-1"), 8)
    row = daemon.requests.list(1)[0]
    left = {"model": "new", "status": "CancelledError: ", "seconds": 0.1, "micro_usd": 0}
    trace = {"chosen": "new", "attempts": [left]}
    daemon.rollouts.observe(row.model_copy(update={"principal": "user:ada", "status": "ok", "trace": trace}))
    assert standing(daemon).seen == {}


async def test_requests_that_embeddings_find_far_from_the_suites_rows_end_a_rollout(
    reach: Reach, person: Caller
) -> None:
    daemon = await reach()

    async def embed(text: str) -> list[float]:
        return [1.0, len(text) / 1000] if text.startswith("question") else [-1.0, 0.5]

    watching = Watching(daemon.rollouts, daemon.gateway.complete, embed, daemon.state_dir)
    daemon.gateway.reader = watching
    rows = [f"question {at}" for at in range(30)]
    started(daemon, "new", "canary 50%, full", rows, limits={"drift": True, "judge_share": 1.0})
    for start in range(0, 64, 8):
        await ask(daemon, person, 8, start)
        await asyncio.gather(*watching._tasks)  # pyright: ignore[reportPrivateUsage]
    assert standing(daemon).state == "running"
    for start in range(0, 128, 8):
        await ask(daemon, person, 8, start, words="an order")
        await asyncio.gather(*watching._tasks)  # pyright: ignore[reportPrivateUsage]
    assert standing(daemon).state == "rolled_back"
    assert "how far requests are from the suite" in standing(daemon).why
    await watching.aclose()
