"""What each way of answering costs in a month, and where two of them cost the same. Pure, and exact.

Costs are fractions of micro-USD. As a function of any one number x, an option's cost is the larger of two
straight lines in x, or in 1/x for speeds, utilisation and the time between trainings: GPUs are paid for the
hours that the work takes, but at least for the replicas that always run. So wherever two options cross is
solved for, never searched.

Not covered: GPUs that are rented by the month only (state a utilisation that includes what lies idle),
prices in steps, and what a wrong answer costs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from typing import Literal

__all__ = [
    "OPTIONS",
    "RECIPROCAL",
    "SIDES",
    "Crossing",
    "Curve",
    "Facts",
    "Line",
    "Option",
    "Side",
    "between",
    "crossings",
    "curve",
    "gpu_hours",
    "monthly",
    "parts",
    "requests",
    "retrieves",
    "side_of",
    "tokens_of",
]

Option = Literal["prompt", "rag", "fine_tune", "hybrid"]
Side = Literal["general", "tuned"]
OPTIONS: tuple[Option, ...] = ("prompt", "rag", "fine_tune", "hybrid")
"""From the simplest up: each later one has a part more to look after."""
MICRO = 1_000_000
SECONDS_AN_HOUR = 3600
SIDES: tuple[Side, ...] = ("general", "tuned")
RECIPROCAL = frozenset(
    [f"{side}.{name}" for side in SIDES for name in ("output_tokens_per_s", "input_tokens_per_s")]
    + [f"{side}.utilisation" for side in SIDES]
    + ["training.months_between_runs"]
)


@dataclass(frozen=True, slots=True)
class Facts:
    """Numbers by ``group.name``, and which models are paid by GPU hours.

    A number called ``requests`` stands in for users × requests of each.
    """

    numbers: Mapping[str, Fraction]
    self_hosted: frozenset[Side]

    def __getitem__(self, name: str) -> Fraction:
        return self.numbers[name]

    def changed(self, name: str, value: Fraction) -> Facts:
        return Facts({**self.numbers, name: value}, self.self_hosted)


@dataclass(frozen=True, slots=True)
class Line:
    """at(u) = base + slope · u"""

    base: Fraction
    slope: Fraction

    def at(self, u: Fraction) -> Fraction:
        return self.base + self.slope * u

    def root_against(self, other: Line) -> Fraction | None:
        """Where both are equal; None where nowhere, or everywhere."""
        if self.slope == other.slope:
            return None
        return (other.base - self.base) / (self.slope - other.slope)

    def raised(self, by: Line) -> Line:
        return Line(self.base + by.base, self.slope + by.slope)


@dataclass(frozen=True, slots=True)
class Curve:
    """The larger of two lines: GPUs as many as the work takes, and as few as always run."""

    busy: Line
    idle: Line

    @property
    def lines(self) -> tuple[Line, Line]:
        return self.busy, self.idle

    def at(self, u: Fraction) -> Fraction:
        return max(self.busy.at(u), self.idle.at(u))


@dataclass(frozen=True, slots=True)
class Crossing:
    """Where the order of two costs changes. −1: the one is cheaper there, 1: the other, 0: they are equal."""

    at: Fraction
    below: int
    above: int


# --- one option -----------------------------------------------------------------------------


def side_of(option: Option) -> Side:
    return "tuned" if option in ("fine_tune", "hybrid") else "general"


def retrieves(option: Option) -> bool:
    return option in ("rag", "hybrid")


def requests(facts: Facts) -> Fraction:
    """Requests of a month."""
    if "requests" in facts.numbers:
        return facts["requests"]
    return facts["volume.monthly_users"] * facts["volume.requests_per_user"]


def tokens_of(facts: Facts, option: Option) -> tuple[Fraction, Fraction, Fraction]:
    """Of one request: tokens read, those of them that the endpoint had cached, tokens written."""
    side = side_of(option)

    def of(name: str, own: str = "") -> Fraction:
        return facts.numbers.get(f"{side}.{own or name}", facts[f"tokens.{name}"])

    standing = of("system") + (facts["tokens.knowledge"] if option == "prompt" else 0)
    read = standing + of("question") + (of("context", "context_tokens") if retrieves(option) else 0)
    return read, standing * facts[f"{side}.cached_share"], of("output") + of("reasoning")


def gpu_hours(facts: Facts, option: Option) -> tuple[Fraction, Fraction]:
    """GPU hours of a month that answering takes, and those that are paid whatever is asked."""
    side = side_of(option)
    if side not in facts.self_hosted:
        return Fraction(0), Fraction(0)
    read, cached, written = tokens_of(facts, option)
    seconds = (read - cached) / facts[f"{side}.input_tokens_per_s"]
    seconds += written / facts[f"{side}.output_tokens_per_s"]
    gpus = facts[f"{side}.gpus"]
    busy = requests(facts) * seconds * gpus / SECONDS_AN_HOUR / facts[f"{side}.utilisation"]
    return busy, facts[f"{side}.min_replicas"] * gpus * facts["gpu.hours_per_month"]


def parts(facts: Facts, option: Option, hours: Fraction | None = None) -> dict[str, Fraction]:
    """Micro-USD of a month by what they are paid for. `hours` stands in for the GPU hours of answering."""
    side = side_of(option)
    made: dict[str, Fraction] = {}
    asked = requests(facts)
    if side in facts.self_hosted:
        paid = max(gpu_hours(facts, option)) if hours is None else hours
        made["GPU hours"] = paid * facts["gpu.usd_per_hour"] * MICRO
    else:
        read, cached, written = tokens_of(facts, option)
        price = facts[f"{side}.input_micro_usd_per_mtok"]
        price_cached = facts.numbers.get(f"{side}.cached_micro_usd_per_mtok", price)
        made["input tokens"] = asked * (read - cached) * price / MICRO
        made["cached input tokens"] = asked * cached * price_cached / MICRO
        made["output tokens"] = asked * written * facts[f"{side}.output_micro_usd_per_mtok"] / MICRO
    made["monthly fee"] = facts[f"{side}.usd_per_month"] * MICRO
    if retrieves(option):
        searches = asked * facts["retrieval.searches_per_request"] / 1000
        made["searches"] = searches * facts["retrieval.usd_per_1000_searches"] * MICRO
        made["index"] = facts["retrieval.usd_per_month"] * MICRO
    if side == "tuned":
        made["training"] = _training(facts) * MICRO / facts["training.months_between_runs"]
    return made


def _training(facts: Facts) -> Fraction:
    """US dollars of one training."""
    hours = facts["training.gpu_hours"] * facts["gpu.usd_per_hour"]
    return facts.numbers.get("training.usd_per_run", hours) + facts["training.people_usd_per_run"]


def monthly(facts: Facts, option: Option) -> Fraction:
    """Micro-USD of a month."""
    return sum(parts(facts, option).values(), Fraction(0))


# --- options against each other -------------------------------------------------------------


def curve(facts: Facts, option: Option, name: str) -> Curve:
    """The cost as a function of one number, or of its reciprocal if it is one of `RECIPROCAL`."""

    def line(which: Callable[[tuple[Fraction, Fraction]], Fraction]) -> Line:
        def at(u: Fraction) -> Fraction:
            there = facts.changed(name, 1 / u if name in RECIPROCAL else u)
            return sum(parts(there, option, which(gpu_hours(there, option))).values(), Fraction(0))

        one, two = at(Fraction(1)), at(Fraction(2))
        return Line(one - (two - one), two - one)

    return Curve(line(lambda hours: hours[0]), line(lambda hours: hours[1]))


def crossings(one: Curve, other: Curve) -> list[Crossing]:
    """Every u > 0 at which the order of the two changes, in order; none if it never does."""
    roots = {a.root_against(b) for a in one.lines for b in other.lines}
    at = sorted(root for root in roots if root is not None and root > 0)
    signs = [_sign(one.at(u) - other.at(u)) for u in between(at)]
    return [Crossing(u, *pair) for u, pair in zip(at, pairwise(signs), strict=True) if pair[0] != pair[1]]


def between(points: Sequence[Fraction]) -> list[Fraction]:
    """One place below, between and above each of the sorted positive `points`."""
    if not points:
        return [Fraction(1)]
    inner = [(a + b) / 2 for a, b in pairwise(points)]
    return [points[0] / 2, *inner, points[-1] * 2]


def _sign(value: Fraction) -> int:
    return (value > 0) - (value < 0)
