"""The statistics of comparing models: intervals, paired differences, verdicts. Pure, and stdlib only.

Recipes are handed this file as an input and load it by path, so it imports nothing beside it.

Scores lie in 0…1. Where all are 0 or 1 the intervals are Wilson's and Newcombe's, which hold their
coverage for the hundred or two rows that suites have, also near 0 and 1; otherwise they come from a
seeded bootstrap (BCa). A difference of such graded scores takes the wider of that and Student's t on
either side: in simulation (`agentd bench verdicts`) each alone is too narrow somewhere, the bootstrap
with few rows or few that differ, Student's t with skewed differences. Nothing here looks at anything
but scores.

Not covered: a rare, large loss that no row shows. A loss on one row in ten escapes 30 rows in 4 of 100.

Sources: Wilson, JASA 22 (1927); Newcombe, Statistics in Medicine 17 (1998) 2635, method 10 (paired
proportions, with his continuity correction of phi); McNemar, Psychometrika 12 (1947), exact form;
Efron, JASA 82 (1987), BCa; Hill, Communications of the ACM 13 (1970) 619, quantiles of Student's t; Holm,
Scandinavian Journal of Statistics 6 (1979); Piaggio et al., JAMA 308 (2012), reading of non-inferiority
intervals.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from statistics import NormalDist, fmean, stdev
from typing import Literal

__all__ = [
    "MAX_ERROR_SHARE",
    "Comparison",
    "Interval",
    "Verdict",
    "bca",
    "compare_scores",
    "holm",
    "interval_of",
    "is_binary",
    "judge",
    "mcnemar",
    "newcombe",
    "sign_flip",
    "student",
    "wilson",
]

Verdict = Literal["better", "not_worse", "worse", "inconclusive"]
RESAMPLES = 4000
# Above this share of rows without an answer, what is missing could decide the verdict.
MAX_ERROR_SHARE = 0.02


@dataclass(frozen=True, slots=True)
class Interval:
    """A point estimate and its two-sided 1 − alpha confidence interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """Candidate minus baseline over the rows that both answered."""

    difference: Interval
    p_value: float
    n: int
    method: str
    verdict: Verdict


@cache
def _z(alpha: float) -> float:
    return NormalDist().inv_cdf(1 - alpha / 2)


def wilson(successes: int, n: int, alpha: float = 0.05) -> Interval:
    """Wilson's score interval for a proportion. Raises `ValueError` unless 0 ≤ successes ≤ n, n > 0."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} of {n} is not a proportion")
    z = _z(alpha)
    p = successes / n
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    centre = p + z * z / (2 * n)
    scale = 1 + z * z / n
    # At the ends the bound is 0 or 1 exactly; rounding must not push it past the estimate.
    low = 0.0 if successes == 0 else (centre - spread) / scale
    high = 1.0 if successes == n else (centre + spread) / scale
    return Interval(p, low, high)


def newcombe(both: int, first: int, second: int, neither: int, alpha: float = 0.05) -> Interval:
    """Hybrid score interval for a difference of paired proportions (Newcombe's method 10).

    The four counts are of pairs in which both, only the first, only the second, neither succeeded.
    """
    n = both + first + second + neither
    one, two = wilson(both + first, n, alpha), wilson(both + second, n, alpha)
    phi = _phi(both, first, second, neither)
    difference = (first - second) / n

    def reach(a: float, b: float) -> float:
        return math.sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))

    return Interval(
        difference,
        max(-1.0, difference - reach(one.value - one.low, two.high - two.value)),
        min(1.0, difference + reach(one.high - one.value, two.value - two.low)),
    )


def _phi(both: int, first: int, second: int, neither: int) -> float:
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    if margins == 0:
        return 0.0
    determinant = both * neither - first * second
    if determinant > 0:
        determinant = max(0.0, determinant - (both + first + second + neither) / 2)
    return determinant / math.sqrt(margins)


def mcnemar(first: int, second: int) -> float:
    """Exact two-sided p that discordant pairs are as likely either way."""
    n, fewer = first + second, min(first, second)
    tail = sum(math.comb(n, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / 2**n) if n else 1.0


def bca(values: Sequence[float], alpha: float = 0.05, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Bias-corrected and accelerated bootstrap interval of the mean, the same for the same seed."""
    if not values:
        raise ValueError("no values")
    mean, n = fmean(values), len(values)
    if min(values) == max(values):
        return Interval(mean, mean, mean)
    rng = random.Random(seed)
    means = sorted(fmean(rng.choices(values, k=n)) for _ in range(resamples))
    normal = NormalDist()
    below = sum(m < mean for m in means) + sum(m == mean for m in means) / 2
    bias = normal.inv_cdf(min(max(below / resamples, 0.5 / resamples), 1 - 0.5 / resamples))
    # The jackknife's deviations of a mean are those of its values, with the sign turned.
    deviations = [value - mean for value in values]
    squares = sum(d * d for d in deviations)
    acceleration = sum(d**3 for d in deviations) / (6 * squares**1.5)

    def at(quantile: float) -> float:
        shifted = bias + normal.inv_cdf(quantile)
        adjusted = normal.cdf(bias + shifted / (1 - acceleration * shifted))
        return means[min(resamples - 1, max(0, math.floor(adjusted * resamples)))]

    return Interval(mean, min(mean, at(alpha / 2)), max(mean, at(1 - alpha / 2)))


def student(values: Sequence[float], alpha: float = 0.05) -> Interval:
    """Student's t interval of a mean of differences.

    Where all are the same, which has no spread to go by, it is as wide as for as many equal 0/1 scores.
    """
    if not values:
        raise ValueError("no values")
    mean, n = fmean(values), len(values)
    if min(values) == max(values):
        reach = newcombe(n, 0, 0, 0, alpha).high
    else:
        reach = _t(alpha, n - 1) * stdev(values, mean) / math.sqrt(n)
    return Interval(mean, mean - reach, mean + reach)


@cache
def _t(alpha: float, freedom: int) -> float:
    """Student's two-sided quantile: exact for one or two degrees of freedom, else by Hill's expansion."""
    if freedom == 1:
        return 1 / math.tan(alpha * math.pi / 2)
    if freedom == 2:
        return math.sqrt(2 / (alpha * (2 - alpha)) - 2)
    a = 1 / (freedom - 0.5)
    b = 48 / a**2
    c = ((20700 * a / b - 98) * a - 16) * a + 96.36
    d = ((94.5 / (b + c) - 3) / b + 1) * math.sqrt(a * math.pi / 2) * freedom
    y = (d * alpha) ** (2 / freedom)
    if y > 0.05 + a:
        x = -_z(alpha)
        y = x * x
        if freedom < 5:
            c += 0.3 * (freedom - 4.5) * (x + 0.6)
        c += (((0.05 * d * x - 5) * x - 7) * x - 2) * x + b
        y = (((((0.4 * y + 6.3) * y + 36) * y + 94.5) / c - y - 3) / b + 1) * x
        y = math.expm1(a * y * y)
    else:
        y = ((1 / (((freedom + 6) / (freedom * y) - 0.089 * d - 0.822) * (freedom + 2) * 3)
              + 0.5 / (freedom + 4)) * y - 1) * (freedom + 1) / (freedom + 2) + 1 / y  # fmt: skip
    return math.sqrt(freedom * y)


def sign_flip(differences: Sequence[float], seed: int = 0, resamples: int = RESAMPLES) -> float:
    """Two-sided randomization p that paired differences are symmetric about 0."""
    changed = [d for d in differences if d]
    if not changed:
        return 1.0
    observed, rng = abs(sum(changed)) - 1e-12, random.Random(seed)
    as_far = sum(
        abs(sum(d if bit else -d for d, bit in zip(changed, _bits(rng, len(changed)), strict=True)))
        >= observed
        for _ in range(resamples)
    )
    return (as_far + 1) / (resamples + 1)


def _bits(rng: random.Random, n: int) -> list[bool]:
    drawn = rng.getrandbits(n)
    return [bool(drawn >> place & 1) for place in range(n)]


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's adjusted p values: each at most alpha names a claim that may be made among all of them."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted, reached = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        reached = max(reached, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = reached
    return adjusted


def is_binary(scores: Sequence[float]) -> bool:
    return all(score in (0, 1) for score in scores)


def interval_of(scores: Sequence[float], alpha: float = 0.05, seed: int = 0) -> Interval:
    """Mean score and its interval: Wilson's for 0/1 scores, else BCa. Raises `ValueError` without scores."""
    return wilson(round(sum(scores)), len(scores), alpha) if is_binary(scores) else bca(scores, alpha, seed)


def judge(low: float, high: float, margin: float, *, differ: bool = True) -> Verdict:
    """Read a 1 − alpha interval of candidate minus baseline.

    - better: ``low > 0``, the candidate scores higher;
    - not_worse: ``low > -margin``, a loss as large as the margin is ruled out (also when a smaller
      loss is certain: the margin says that such a loss is acceptable);
    - worse: ``high < 0``, it scores lower, and a loss as large as the margin is possible;
    - inconclusive: everything else. More rows would decide it.

    `differ` says whether the test of equal models rejects as well, without which neither "better" nor
    "worse" is said: the intervals hold their coverage about, the test at most alpha whatever the scores.
    Each one-sided claim errs with a probability of at most about alpha / 2.
    """
    if low > 0 and differ:
        return "better"
    if low > -margin:
        return "not_worse"
    return "worse" if high < 0 and differ else "inconclusive"


def compare_scores(
    candidate: Sequence[float],
    baseline: Sequence[float],
    *,
    margin: float = 0.05,
    alpha: float = 0.05,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Comparison:
    """Compare two models on the same rows in the same order. Raises `ValueError` if they do not pair."""
    if len(candidate) != len(baseline) or not candidate:
        raise ValueError(f"{len(candidate)} and {len(baseline)} scores do not pair")
    binary = is_binary(candidate) and is_binary(baseline)
    difference, p_value, method = (
        _binary(candidate, baseline, alpha)
        if binary
        else _graded(candidate, baseline, alpha, seed, resamples)
    )
    verdict = judge(difference.low, difference.high, margin, differ=p_value <= alpha)
    return Comparison(difference, p_value, len(candidate), method, verdict)


def _binary(
    candidate: Sequence[float], baseline: Sequence[float], alpha: float
) -> tuple[Interval, float, str]:
    pairs = list(zip(candidate, baseline, strict=True))
    both, first, second, neither = (pairs.count(kind) for kind in ((1, 1), (1, 0), (0, 1), (0, 0)))
    return newcombe(both, first, second, neither, alpha), mcnemar(first, second), "Newcombe, McNemar exact"


def _graded(
    candidate: Sequence[float], baseline: Sequence[float], alpha: float, seed: int, resamples: int
) -> tuple[Interval, float, str]:
    differences = [one - two for one, two in zip(candidate, baseline, strict=True)]
    one, two = bca(differences, alpha, seed, resamples), student(differences, alpha)
    wider = Interval(one.value, max(-1.0, min(one.low, two.low)), min(1.0, max(one.high, two.high)))
    method = "the wider of a paired bootstrap (BCa) and Student's t, sign flips"
    return wider, sign_flip(differences, seed, resamples), method
