"""tools/power.py: how many rows are asked for, and that so many do what is promised of them."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.bench import verdicts
from agentd.plugins import Plugins, bundled_root

power = Plugins((bundled_root(),)).module("tools", "power")

margins, spreads = st.floats(0.01, 0.5), st.floats(0, 0.6)
# Simulated comparisons a setting; without it a few hundred of 0/1 scores, and few of the dearer graded ones.
ROUNDS = int(os.environ.get("AGENTD_TEST_SIMULATIONS", "0"))


def test_a_smaller_margin_or_more_suites_need_more_rows() -> None:
    rows = power.rows_needed(0.05, 0.12)
    assert 590 < rows < 610
    assert power.rows_needed(0.025, 0.12) > 3 * rows
    assert power.rows_needed(0.05, 0.12, suites=4) > rows
    assert power.rows_needed(0.05, 0.12, power=0.9) > rows


@given(margins, spreads, st.sampled_from([0.8, 0.9, 0.95]), st.integers(1, 5))
def test_rows_margin_and_power_say_the_same(margin: float, spread: float, wanted: float, suites: int) -> None:
    rows = power.rows_needed(margin, spread, power=wanted, suites=suites)
    assert power.power_at(rows, margin, spread, suites=suites) >= wanted - 1e-9
    assert power.power_at(rows - 1, margin, spread, suites=suites) < wanted
    assert power.margin_shown(rows, spread, power=wanted, suites=suites) <= margin + 1e-9


@given(margins, spreads, st.integers(1, 5000))
def test_a_plan_is_enough_exactly_when_its_power_is(margin: float, spread: float, rows: int) -> None:
    plan = power.plan(rows, margin, power.Pilot(spread, "a pilot"))
    assert plan.enough == (plan.power >= 0.8)
    assert plan.enough or f"{plan.needed} rows are needed" in plan.why


def test_what_cannot_be_planned_is_refused_by_name() -> None:
    for wrong in ({"margin": 0.0}, {"spread": -1.0}, {"alpha": 0.9}, {"power": 1.0}, {"suites": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            power.rows_needed(**{"margin": 0.05, "spread": 0.1, **wrong})
    with pytest.raises(ValueError, match="do not pair"):
        power.spread_of([1.0], [])


def test_a_pilot_is_two_reports_or_a_guess_from_one_or_from_none() -> None:
    right, wrong = [1.0] * 10, [0.0] * 10
    assert power.pilot_of([]).spread == power.UNKNOWN_SPREAD
    assert power.pilot_of([("one", right)]).spread > 0
    two = power.pilot_of([("one", right + wrong), ("two", right + wrong)])
    assert two.spread == pytest.approx(1 / 20)
    assert "one and two" in two.basis


@pytest.mark.parametrize("setting", verdicts.SETTINGS, ids=lambda setting: setting.name)
def test_verdicts_err_and_find_as_often_as_stated(setting: verdicts.Setting) -> None:
    rounds = ROUNDS or (400 if setting.name.startswith("0/1") else 20)
    rates = verdicts.simulate(setting, rounds)
    assert list(verdicts.beyond(rates, rounds)) == []


def test_equal_models_on_five_suites_are_called_different_at_most_as_often_as_alpha() -> None:
    assert verdicts.families(rounds=ROUNDS or 400) <= 0.05
