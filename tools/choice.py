"""Which way of answering is chosen on cost, which are ruled out, and what number would change that. Pure.

Chosen is the simplest option that is not ruled out and costs at most so much more than the cheapest as a
simpler way is worth. Between the points at which two options differ by just that, or a rule begins to hold,
nothing can change: so one look between each two neighbours finds every flip, exactly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction

from .costs import (
    OPTIONS,
    RECIPROCAL,
    Curve,
    Facts,
    Line,
    Option,
    between,
    curve,
    monthly,
    side_of,
    tokens_of,
)

__all__ = ["Flip", "Rules", "Swing", "chosen", "flips", "ruled_out", "swing"]

WORTH = "limits.worth_usd_per_month"
MICRO = 1_000_000
HALF, HALF_MORE = Fraction(1, 2), Fraction(3, 2)
HOURS_A_DAY = 24


@dataclass(frozen=True, slots=True)
class Bound:
    """What has to be 0 or more for `option`, as numbers give it. `name` says which bound it is."""

    option: Option
    name: str
    slack: Fraction


@dataclass(frozen=True, slots=True)
class Rules:
    """Why options are ruled out whatever the numbers are: places, measured scores."""

    always: Mapping[Option, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Flip:
    """From `at` on, away from the present value, `option` is chosen ("" where none is left)."""

    at: Fraction
    option: Option | None


@dataclass(frozen=True, slots=True)
class Swing:
    """Monthly micro-USD of one option with a number halved and half as large again, within what it may be."""

    low_value: Fraction
    low: Fraction
    high_value: Fraction
    high: Fraction

    @property
    def width(self) -> Fraction:
        return abs(self.high - self.low)


# --- ruled out ------------------------------------------------------------------------------


def bounds(facts: Facts) -> list[Bound]:
    """Every bound that numbers are known for. Each slack is linear in each single number."""
    return [
        bound
        for option in OPTIONS
        for bound in (_context(facts, option), *_latency(facts, option), *_training(facts, option))
        if bound is not None
    ]


def _context(facts: Facts, option: Option) -> Bound | None:
    size = facts.numbers.get(f"{side_of(option)}.context")
    if size is None:
        return None
    read, _, written = tokens_of(facts, option)
    return Bound(option, "context", size - read - written)


def _latency(facts: Facts, option: Option) -> Iterable[Bound]:
    bound = facts.numbers.get("limits.latency_s")
    takes = facts.numbers.get(f"{side_of(option)}.latency_s")
    if bound is not None and takes is not None:
        searching = facts["retrieval.latency_s"] if option in ("rag", "hybrid") else Fraction(0)
        yield Bound(option, "latency", bound - takes - searching)


def _training(facts: Facts, option: Option) -> Iterable[Bound]:
    if side_of(option) == "general":
        return
    if (there := facts.numbers.get("training.examples")) is not None:
        yield Bound(option, "examples", there - facts["training.examples_needed"])
    fresh = facts.numbers.get("limits.fresh_within_days")
    if option == "fine_tune" and fresh is not None and facts["tokens.knowledge"] > 0:
        days = facts["training.months_between_runs"] * facts["gpu.hours_per_month"] / HOURS_A_DAY
        yield Bound(option, "freshness", fresh - days)


def ruled_out(facts: Facts, rules: Rules) -> dict[Option, tuple[str, ...]]:
    """Options that are out, with names of the bounds they break and what rules them out always."""
    why: dict[Option, tuple[str, ...]] = {option: rules.always.get(option, ()) for option in OPTIONS}
    for bound in bounds(facts):
        if bound.slack < 0:
            why[bound.option] = (*why[bound.option], bound.name)
    return {option: reasons for option, reasons in why.items() if reasons}


# --- chosen ---------------------------------------------------------------------------------


def chosen(facts: Facts, rules: Rules) -> Option | None:
    """The simplest that is not much dearer than the cheapest; None where all are ruled out."""
    costs: dict[Option, Fraction] = {option: monthly(facts, option) for option in OPTIONS}
    return _simplest(costs, ruled_out(facts, rules), facts[WORTH] * MICRO)


def _simplest(costs: Mapping[Option, Fraction], out: Iterable[Option], worth: Fraction) -> Option | None:
    left: list[Option] = [option for option in OPTIONS if option not in out]
    if not left:
        return None
    limit = min(costs[option] for option in left) + worth
    return next(option for option in left if costs[option] <= limit)


# --- what would change it -------------------------------------------------------------------


def swing(facts: Facts, option: Option, name: str, most: Fraction | None = None) -> Swing:
    """What the option costs with the number ±50 %, at most `most`."""
    low, high = facts[name] * HALF, facts[name] * HALF_MORE
    high = high if most is None else min(high, most)
    return Swing(
        low, monthly(facts.changed(name, low), option), high, monthly(facts.changed(name, high), option)
    )


def flips(
    facts: Facts, rules: Rules, name: str, most: Fraction | None = None
) -> tuple[Flip | None, Flip | None]:
    """The nearest values of one number, below and above, beyond which another option is chosen.

    Values from 0, or above it, to `most` are looked at; None where nothing changes on that side.
    """
    curves: dict[Option, Curve] = {option: curve(facts, option, name) for option in OPTIONS}
    now, present = facts[name], chosen(facts, rules)
    points = sorted(
        point for point in _turning(facts, curves, name) if point > 0 and (most is None or point < most)
    )

    def choose(x: Fraction) -> Option | None:
        there = facts.changed(name, x)
        costs: dict[Option, Fraction] = {
            option: at.at(1 / x if name in RECIPROCAL else x) for option, at in curves.items()
        }
        return _simplest(costs, ruled_out(there, rules), there[WORTH] * MICRO)

    places = between(points)
    if most is not None and points:
        places[-1] = (points[-1] + most) / 2
    below: Flip | None = None
    for place, point in reversed(list(zip(places, points, strict=False))):
        if point <= now and (other := choose(place)) != present:
            below = Flip(point, other)
            break
    above: Flip | None = None
    for place, point in zip(places[1:], points, strict=True):
        if point >= now and (other := choose(place)) != present:
            above = Flip(point, other)
            break
    return below, above


def _turning(facts: Facts, curves: Mapping[Option, Curve], name: str) -> set[Fraction]:
    """Every value of the number at which two options may differ by what is worth it, or a rule turns."""
    worth = Line(facts[WORTH] * MICRO, Fraction(0))
    if name == WORTH:
        worth = Line(Fraction(0), Fraction(MICRO))
    found = {
        a.root_against(b.raised(by))
        for one, curve_one in curves.items()
        for two, curve_two in curves.items()
        if one != two
        for a in curve_one.lines
        for b in curve_two.lines
        for by in (worth, Line(Fraction(0), Fraction(0)))
    }
    roots = {root for root in found if root}
    turning = {1 / root for root in roots} if name in RECIPROCAL else roots
    return turning | _thresholds(facts, name)


def _thresholds(facts: Facts, name: str) -> set[Fraction]:
    """Where a bound begins to hold."""
    at = {(bound.option, bound.name): bound.slack for bound in bounds(facts.changed(name, Fraction(1)))}
    then = {(bound.option, bound.name): bound.slack for bound in bounds(facts.changed(name, Fraction(2)))}
    zero = Line(Fraction(0), Fraction(0))
    lines = (Line(one - (then[which] - one), then[which] - one) for which, one in at.items())
    return {root for line in lines if (root := line.root_against(zero)) is not None}
