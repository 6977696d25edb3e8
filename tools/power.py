"""How many rows a comparison needs, before it is made. Pure, and stdlib only.

What counts of two models is how their scores differ row by row. `spread` is the variance of that
difference between two models that are equally good; for 0/1 scores, the share of rows on which exactly one
of them is right. It is taken from a pair of earlier reports where there is one, and guessed otherwise. A
loss is planned for as it mostly comes, on top of that: as answers that are no longer right at all.

A comparison has the stated power for a margin if it says "worse" of a model that loses the margin, and
"not_worse" or "better" of one that is as good, each at least that often. With several suites every one
is planned at alpha divided by their number, the worst that Holm's procedure asks of it.

Sources: Connor, Biometrics 43 (1987) 207, and Julious, Statistics in Medicine 23 (2004) 1921, for the
normal formula; the rows added for continuity are those that simulation (`agentd bench verdicts`) asks for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, pvariance
from typing import Any

__all__ = [
    "POWER",
    "UNKNOWN_SPREAD",
    "Pilot",
    "Plan",
    "guessed_spread",
    "margin_shown",
    "pilot_of",
    "plan",
    "power_at",
    "rows_needed",
    "spread_of",
]

POWER = 0.8
# Of 0/1 scores, half of them right, that correlate 0.5: the most that a guess can come to.
UNKNOWN_SPREAD = 0.25
# Discordant pairs come whole: rows to add so that the normal formula holds, over the margin.
CONTINUITY = 2.0

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Pilot:
    """How much two models' scores are expected to differ on a row, and where that figure is from."""

    spread: float
    basis: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What `rows` rows can show, beside what was asked."""

    rows: int
    needed: int
    """Rows at which `margin` is shown with `wanted` power."""
    margin: float
    margin_shown: float
    """The smallest margin that `rows` rows show with `wanted` power."""
    power: float
    """Of `rows` rows for `margin`."""
    wanted: float
    alpha: float
    basis: str

    @property
    def enough(self) -> bool:
        return self.rows >= self.needed

    @property
    def why(self) -> str:
        """One sentence for people."""
        if self.enough:
            return f"{self.rows} rows show a difference of {self.margin:g} with power {self.power:.2f}"
        return (
            f"{self.rows} rows show a difference of {self.margin:g} with power {self.power:.2f} only:"
            f" {self.needed} rows are needed for {self.wanted:g}, or a margin of {self.margin_shown:.2g}"
            f" ({self.basis})"
        )


def rows_needed(
    margin: float, spread: float, *, alpha: float = 0.05, power: float = POWER, suites: int = 1
) -> int:
    """Rows at which a margin is shown with that power. Raises `ValueError` for what cannot be planned."""
    _check(margin, spread, alpha, power, suites)
    distance = _distance(alpha, power, suites)
    return math.ceil(distance * distance * _variance(margin, spread) / margin**2 + CONTINUITY / margin)


def power_at(rows: int, margin: float, spread: float, *, alpha: float = 0.05, suites: int = 1) -> float:
    """The power that `rows` rows have for `margin`; 0 where there are too few for any."""
    _check(margin, spread, alpha, POWER, suites)
    effective = rows - CONTINUITY / margin
    if effective <= 0:
        return 0.0
    each = alpha / suites
    variance = _variance(margin, spread)
    reached = margin * math.sqrt(effective / variance) if variance else math.inf
    return max(0.0, _NORMAL.cdf(reached - _NORMAL.inv_cdf(1 - each / 2)) - each / 2)


def margin_shown(
    rows: int, spread: float, *, alpha: float = 0.05, power: float = POWER, suites: int = 1
) -> float:
    """The smallest margin that `rows` rows show with that power; at most 1, which is no use."""
    _check(1.0, spread, alpha, power, suites)
    if rows < 1:
        raise ValueError(f"{rows} rows are none")
    # rows · m² = distance² · (spread + m − m²) + continuity · m
    square = _distance(alpha, power, suites) ** 2
    linear = square + CONTINUITY
    root = math.sqrt(linear**2 + 4 * (rows + square) * square * spread)
    return min(1.0, (linear + root) / (2 * (rows + square)))


def plan(
    rows: int,
    margin: float,
    pilot: Pilot,
    *,
    alpha: float = 0.05,
    power: float = POWER,
    suites: int = 1,
) -> Plan:
    """Put what a suite of `rows` rows can show beside what is asked of it."""
    return Plan(
        rows=rows,
        needed=rows_needed(margin, pilot.spread, alpha=alpha, power=power, suites=suites),
        margin=margin,
        margin_shown=margin_shown(rows, pilot.spread, alpha=alpha, power=power, suites=suites),
        power=power_at(rows, margin, pilot.spread, alpha=alpha, suites=suites),
        wanted=power,
        alpha=alpha,
        basis=pilot.basis,
    )


def spread_of(one: Sequence[float], two: Sequence[float]) -> float:
    """The variance of differences on the same rows. Raises `ValueError` if the scores do not pair."""
    if len(one) != len(two) or not one:
        raise ValueError(f"{len(one)} and {len(two)} scores do not pair")
    return pvariance([a - b for a, b in zip(one, two, strict=True)])


def guessed_spread(scores: Sequence[float]) -> float:
    """What two models like this one would come to if their scores correlated 0.5. Never 0."""
    n = len(scores)
    # As if two rows more had been seen, one of each end: ten right of ten are no proof of perfection.
    return pvariance([*scores, 0.0, 1.0]) if n else UNKNOWN_SPREAD


def pilot_of(reports: Sequence[tuple[str, Sequence[float]]]) -> Pilot:
    """What is known of a suite from earlier `reports`, (name, scores of the same rows) newest first."""
    if len(reports) >= 2:
        (name, one), (other, two) = reports[:2]
        seen = spread_of(one, two)
        # One discordant row more than was seen: two alike models say little of the next two.
        return Pilot(seen + 1 / len(one), f"{name} and {other} differ with variance {seen:.2g} a row")
    if reports:
        name, scores = reports[0]
        return Pilot(guessed_spread(scores), f"guessed from {name}, as if models' scores correlated 0.5")
    return Pilot(UNKNOWN_SPREAD, "guessed, with no report of this suite yet")


def _variance(margin: float, spread: float) -> float:
    """Of a difference of scores, when one model loses the margin as rows that it gets wholly wrong."""
    return spread + margin - margin**2


def _distance(alpha: float, power: float, suites: int) -> float:
    """From 0 to the margin in standard errors: a lost margin is called "not_worse" half of alpha often."""
    each = alpha / suites
    return _NORMAL.inv_cdf(1 - each / 2) + _NORMAL.inv_cdf(min(power + each / 2, 1 - 1e-9))


def _check(margin: float, spread: float, alpha: float, power: float, suites: int) -> None:
    bounds: dict[str, tuple[Any, bool]] = {
        "margin": (margin, 0 < margin <= 1),
        "spread": (spread, 0 <= spread <= 1),
        "alpha": (alpha, 0 < alpha < 0.5),
        "power": (power, 0.5 <= power < 1),
        "suites": (suites, suites >= 1),
    }
    for name, (value, fits) in bounds.items():
        if not fits:
            raise ValueError(f"{name} is {value!r}")
