"""The statistics of tools/verdict.py, against published figures, properties and simulation."""

from __future__ import annotations

import random
from statistics import fmean

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.plugins import Plugins, bundled_root

verdict = Plugins((bundled_root(),)).module("tools", "verdict")

counts = st.tuples(*[st.integers(0, 60)] * 4).filter(lambda four: sum(four) > 0)
margins = st.floats(0.001, 0.5)


def test_wilson_gives_the_published_intervals() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, 857), table I: 81/263, 15/148, 0/20, 1/29.
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (successes, n), (low, high) in published.items():
        interval = verdict.wilson(successes, n)
        assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


def test_newcombe_gives_the_published_interval_of_a_paired_difference() -> None:
    # Newcombe 1998 (Statistics in Medicine 17, 2635), table II, method 10.
    published = {
        (36, 12, 2, 0): (0.0569, 0.3404),
        (20, 12, 2, 16): (0.0562, 0.3292),
        (54, 0, 0, 0): (-0.0664, 0.0664),
    }
    for cells, bounds in published.items():
        interval = verdict.newcombe(*cells)
        assert (interval.low, interval.high) == pytest.approx(bounds, abs=5e-4)


@given(counts)
def test_every_interval_lies_in_range_around_its_estimate(four: tuple[int, int, int, int]) -> None:
    interval = verdict.newcombe(*four)
    assert -1 <= interval.low <= interval.value <= interval.high <= 1
    one = verdict.wilson(four[0] + four[1], sum(four))
    assert 0 <= one.low <= one.value <= one.high <= 1


@given(counts)
def test_swapping_the_models_mirrors_the_interval(four: tuple[int, int, int, int]) -> None:
    both, first, second, neither = four
    one, two = verdict.newcombe(*four), verdict.newcombe(both, second, first, neither)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low), abs=1e-12)
    assert verdict.mcnemar(first, second) == verdict.mcnemar(second, first)


def test_student_gives_the_tabled_quantiles() -> None:
    # Two-sided, from the t table of Fisher and Yates: 1, 2, 4, 9 and 120 degrees of freedom.
    tabled = {
        0.05: (12.706, 4.303, 2.776, 2.262, 1.980),
        0.01: (63.657, 9.925, 4.604, 3.250, 2.617),
        0.2: (3.078, 1.886, 1.533, 1.383, 1.289),
    }
    for alpha, quantiles in tabled.items():
        found = [verdict._t(alpha, freedom) for freedom in (1, 2, 4, 9, 120)]
        assert found == pytest.approx(quantiles, abs=6e-4)


@given(st.lists(st.floats(-1, 1), min_size=1, max_size=30))
def test_an_interval_of_graded_differences_holds_both_kinds_of_interval(differences: list[float]) -> None:
    half = [0.5] * len(differences)
    one = [0.5 + d / 2 for d in differences]
    found = verdict.compare_scores(one, half, resamples=50).difference
    changed = [a - b for a, b in zip(one, half, strict=True)]
    if not verdict.is_binary(one):
        for each in (verdict.bca(changed, resamples=50), verdict.student(changed)):
            assert found.low <= max(-1.0, each.low) <= min(1.0, each.high) <= found.high


def test_few_graded_scores_that_all_agree_prove_little() -> None:
    few, many = (verdict.compare_scores([0.5] * n, [0.5] * n, margin=0.05).verdict for n in (10, 200))
    assert (few, many) == ("inconclusive", "not_worse")


def test_better_is_not_said_when_the_test_of_equal_models_does_not_reject() -> None:
    assert verdict.judge(0.01, 0.2, 0.05, differ=False) == "not_worse"
    assert verdict.judge(-0.2, -0.01, 0.05, differ=False) == "inconclusive"


@given(st.floats(-1, 1), st.floats(-1, 1), margins)
def test_a_verdict_claims_no_more_than_its_interval_allows(a: float, b: float, margin: float) -> None:
    low, high = sorted((a, b))
    said = verdict.judge(low, high, margin)
    assert (said == "better") == (low > 0)
    if said == "worse":
        assert high < 0
    if said == "not_worse":
        assert low > -margin
    if said == "inconclusive":
        assert low <= -margin
        assert high >= 0


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert verdict.mcnemar(0, 0) == 1.0
    assert verdict.mcnemar(5, 0) == pytest.approx(2 / 32)
    assert verdict.mcnemar(9, 1) == pytest.approx(2 * 11 / 1024)


def test_more_rows_turn_inconclusive_into_better() -> None:
    few = verdict.compare_scores([1] * 5 + [0] * 5, [1] * 4 + [0] * 6)
    many = verdict.compare_scores([1] * 500 + [0] * 500, [1] * 400 + [0] * 600)
    assert (few.verdict, many.verdict) == ("inconclusive", "better")


def test_graded_scores_are_bootstrapped_the_same_way_each_time() -> None:
    rng = random.Random(3)
    one, two = [rng.random() for _ in range(80)], [rng.random() * 0.5 for _ in range(80)]
    first, second = (verdict.compare_scores(one, two) for _ in range(2))
    assert first == second
    assert first.verdict == "better"
    assert first.p_value < 0.01
    assert "bootstrap" in first.method


def test_scores_that_do_not_pair_are_refused() -> None:
    with pytest.raises(ValueError, match="do not pair"):
        verdict.compare_scores([1, 0], [1])
    with pytest.raises(ValueError, match="do not pair"):
        verdict.compare_scores([], [])
    with pytest.raises(ValueError, match="not a proportion"):
        verdict.wilson(3, 2)


def simulate(
    p_both: float, p_first: float, p_second: float, n: int, runs: int, seed: int
) -> list[tuple[int, ...]]:
    """Cell counts of `runs` simulated comparisons of `n` pairs."""
    rng = random.Random(seed)
    weights = (p_both, p_first, p_second, 1 - p_both - p_first - p_second)
    drawn = (rng.choices(range(4), weights, k=n) for _ in range(runs))
    return [tuple(cells.count(kind) for kind in range(4)) for cells in drawn]


@pytest.mark.parametrize(
    ("p_both", "p_first", "p_second"),
    [(0.8, 0.05, 0.05), (0.5, 0.15, 0.1), (0.9, 0.06, 0.01), (0.3, 0.05, 0.25)],
)
def test_newcombe_covers_the_true_difference_as_often_as_it_says(
    p_both: float, p_first: float, p_second: float
) -> None:
    true = p_first - p_second
    intervals = [verdict.newcombe(*cells) for cells in simulate(p_both, p_first, p_second, 150, 1500, seed=1)]
    assert fmean(i.low <= true <= i.high for i in intervals) >= 0.94


def test_equal_models_are_called_better_or_worse_at_most_as_often_as_alpha() -> None:
    verdicts = [
        verdict.judge(i.low, i.high, 0.05)
        for cells in simulate(0.8, 0.06, 0.06, 150, 2000, seed=2)
        for i in [verdict.newcombe(*cells)]
    ]
    assert verdicts.count("better") / 2000 <= 0.03
    assert verdicts.count("worse") / 2000 <= 0.03


def test_a_loss_of_the_margin_is_called_not_worse_at_most_half_as_often_as_alpha() -> None:
    verdicts = [
        verdict.judge(i.low, i.high, 0.05)
        for cells in simulate(0.8, 0.03, 0.08, 150, 2000, seed=3)
        for i in [verdict.newcombe(*cells)]
    ]
    assert (verdicts.count("not_worse") + verdicts.count("better")) / 2000 <= 0.035
