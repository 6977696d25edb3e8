"""The bets that turn a rollout back: how rarely they are wrong, and that they are made at all."""

from __future__ import annotations

import json
import math
import random
from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from agentd.router.sequential import Evidence, Guard, Spread, blocks_needed

ALPHA = 0.1


def tripped(
    rng: random.Random, worse: float, requests: int, share: float = 0.5, later: int = 0
) -> int | None:
    """The request at which the alarm of error rates of 0.1 and 0.1 + `worse` went off."""
    guard = Guard.mean(0.02)
    guard.stage((1 - share) / share)
    for at in range(requests):
        mine = rng.random() < share
        rate = 0.1 + (worse if mine and at >= later else 0.0)
        guard.see(float(rng.random() < rate), candidate=mine)
        if guard.alarm.wealth >= 1 / ALPHA:
            return at
    return None


def test_an_equal_model_is_alarmed_about_no_more_often_than_stated_whenever_one_looks() -> None:
    wrong = sum(tripped(random.Random(seed), 0.0, 600) is not None for seed in range(100))
    assert wrong <= ALPHA * 100 + 2 * math.sqrt(ALPHA * (1 - ALPHA) * 100)


@pytest.mark.parametrize("later", [0, 1500])
def test_a_worse_model_is_found_from_the_start_and_after_long_peace(later: int) -> None:
    found = [tripped(random.Random(seed), 0.4, later + 500, later=later) for seed in range(10)]
    assert all(at is not None and at >= later for at in found)


def test_a_loss_of_the_margin_is_ruled_out_no_more_often_than_stated() -> None:
    wrong = 0
    for seed in range(100):
        rng, guard = random.Random(seed), Guard.mean(0.1)
        for at in range(400):
            guard.see(float(rng.random() < (0.2 if at % 2 else 0.1)), candidate=bool(at % 2))
            if guard.clear.wealth >= 1 / ALPHA:
                wrong += 1
                break
    assert wrong <= ALPHA * 100 + 2 * math.sqrt(ALPHA * (1 - ALPHA) * 100)


def test_planned_requests_rule_out_the_margin_as_often_as_the_power_says() -> None:
    needed, passed = blocks_needed(0.1, 2 * 0.05 * 0.95, alpha=0.05, power=0.8), 0
    for seed in range(60):
        rng, guard = random.Random(seed), Guard.mean(0.1)
        for at in range(2 * needed):
            guard.see(float(rng.random() < 0.05), candidate=bool(at % 2))
        passed += guard.clear.wealth >= 20
    assert passed >= 0.8 * 60 - 2 * math.sqrt(0.8 * 0.2 * 60)


@given(st.lists(st.floats(-1.0, 1.0), max_size=200), st.booleans())
def test_money_is_never_negative_and_survives_being_stored(outcomes: list[float], later: bool) -> None:
    evidence = Evidence.of(later=later)
    for outcome in outcomes:
        evidence.see(outcome)
    assert 0 <= evidence.wealth < math.inf
    again = TypeAdapter(Evidence).validate_python(json.loads(json.dumps(asdict(evidence))))
    assert again == evidence


@given(st.floats(-1.0, 0.0), st.integers(1, 300))
def test_who_bets_on_what_is_not_so_loses(outcome: float, times: int) -> None:
    evidence = Evidence.of(later=True)
    for _ in range(times):
        evidence.see(outcome)
    assert evidence.wealth <= 1 + 1e-9


def test_times_are_compared_by_their_factor_and_alone_with_what_the_incumbent_took() -> None:
    guard = Guard.ratio(1.25)
    for _ in range(100):
        guard.see(1.0, candidate=False)
        guard.see(1.1, candidate=True)
    assert guard.clear.wealth > 20
    guard.stage(0.0, alone=True)
    for _ in range(40):
        guard.see(1.2, candidate=True)
    quiet = guard.alarm.wealth
    for _ in range(60):
        guard.see(1.4, candidate=True)
    assert quiet < 20 < guard.alarm.wealth


def test_a_window_of_other_requests_is_drift_and_one_of_the_suites_own_is_not() -> None:
    rng = random.Random(1)
    rows = [rng.gauss(20, 5) for _ in range(300)]
    spread = Spread.of(rows)
    assert spread is not None
    for _ in range(1000):
        spread.see(rng.gauss(20, 5))
        assert not spread.drifted(0.05)
    for _ in range(200):
        spread.see(rng.gauss(30, 5))
    assert spread.drifted(0.05)
    assert Spread.of([1.0] * 300) is None
    assert Spread.of(rows[:10]) is None
