"""What the next stage waits for, and how an alias looks in each: pure functions."""

from __future__ import annotations

import pytest

from agentd.router.stages import Plan, Stage, Watched, alarm, alias_at, missing, parsed, started
from agentd.sdk import Alias, RolloutLimits

BEFORE = Alias(
    name="support", weights={"old": 3.0, "older": 1.0}, fallbacks=("old",), shadow={"new": 0.1, "x": 0.2},
    cache_s=5.0,
)  # fmt: skip
CANARY = Stage(kind="canary", share=0.2)


def plan(**limits: object) -> Plan:
    return Plan(
        stages=parsed("shadow 5%, canary 20 %, 50%, full"), limits=RolloutLimits.model_validate(limits),
        before=BEFORE, digest="", why="",
    )  # fmt: skip


def watched(of: Plan, blocks: int, micro_usd: tuple[int, int], errors: int = 0) -> Watched:
    """So many requests of either model, equally fast; the first `errors` of the candidate's failed."""
    seen = started(of, {})
    for at in range(blocks):
        for mine in (False, True):
            seen.guards["errors"].see(float(mine and at < errors), candidate=mine)
            seen.guards["seconds"].see(1.0, candidate=mine)
            seen.costs[0 if mine else 1].see(micro_usd[0 if mine else 1])
    return seen


def test_stages_are_read_in_their_order() -> None:
    assert [str(stage) for stage in plan().stages] == ["shadow 5 %", "canary 20 %", "canary 50 %", "full"]


def test_an_alias_keeps_all_but_its_shares_and_the_first_share_stays_within_the_next() -> None:
    shadow, canary, half, full = (alias_at(plan(), "new", stage, "r") for stage in plan().stages)
    assert (shadow.weights, shadow.shadow) == (BEFORE.weights, {"new": 0.05, "x": 0.2})
    assert canary.weights == pytest.approx({"old": 0.6, "older": 0.2, "new": 0.2})
    assert [*canary.weights][-1] == [*half.weights][-1] == "new"
    assert (full.weights, full.shadow) == ({"new": 1.0}, {"x": 0.2})
    assert {each.fallbacks for each in (shadow, canary, half, full)} == {("old",)}
    assert {each.cache_s for each in (shadow, canary, half, full)} == {5.0}


def test_a_stage_waits_for_requests_evidence_and_a_price_and_then_for_nothing() -> None:
    of = plan(error_margin=0.2)
    assert [lack.partition(" (")[0] for lack in missing(of, watched(of, 20, (100, 100)), CANARY)] == [
        "30 more requests of the model",
        "20.0% more errors to be ruled out",
        "the cost of 30 answers of either model",
    ]
    assert missing(of, watched(of, 100, (100, 100)), CANARY) == []
    [dear] = missing(of, watched(of, 100, (130, 100)), CANARY)
    assert dear.startswith("a request that costs at most 1.25 times the incumbent's: $0.000130")
    assert missing(plan(error_margin=0.2, cost_ratio=None), watched(of, 100, (900, 1)), CANARY) == []


def test_what_is_inconclusive_neither_passes_nor_goes_back() -> None:
    of = plan(error_margin=0.1)
    seen = watched(of, 40, (100, 100), errors=3)
    assert alarm(of, seen) == ""
    assert any("10.0% more errors to be ruled out" in lack for lack in missing(of, seen, CANARY))
    assert alarm(of, watched(of, 40, (100, 100), errors=30)).startswith(
        "its error rate is worse: 75.0% beside"
    )
