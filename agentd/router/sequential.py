"""Sequential tests: whether one of two models is worse, looked at after every request, as long as one likes.

A gambler starts with 1 and bets, request by request, against a hypothesis. If it is true nobody makes money
of it on average, so that the chance of ever having 1 / alpha is at most alpha (Ville's inequality), however
often one looks and whenever one stops. That holds for anything bounded: errors, scores, comparisons of two
times. How much is bet is spread over a few stakes. No distribution is assumed, only that what comes next is,
given what was seen, on average no worse than the hypothesis says.

Outcomes come in blocks: one of the rarer model, and as many of the other as come with it. Both are asked at
the same time and who is asked is drawn, so that what befalls both (an outage, an hour of odd questions)
cancels out.

Pure: no clock, no store, no models. Not covered: requests that hang together (one user who sends most of
them stays with one model, and counts as many); models that differ only in what is rare and never seen.

Sources: Waudby-Smith and Ramdas, Estimating means of bounded random variables by betting, JRSS B 86 (2024);
Shin, Ramdas and Rinaldo, E-detectors, NEJSDS 2 (2024), for money held back for a change that comes later;
Ville, Étude critique de la notion de collectif (1939); Yurdakul and Naranjo, Journal of Risk Model
Validation 14 (2020), for the population stability index.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import NormalDist, fmean
from typing import Literal

__all__ = ["FAR", "Evidence", "Guard", "Spread", "blocks_needed"]

STAKES = (0.05, 0.1, 0.2, 0.4, 0.8)
"""Shares of the stake that are bet against a model that may be worse; a fifth of the money on each."""
SURE_STAKES = (0.2, 0.5, 0.9)
"""The same against a loss that is to be ruled out, which small losses leave little to fear from."""
HELD_BACK = 2.1097
"""Σ 1 / (n ln² n) from n = 2 on: what the shares of money held back for later add up to."""
LEAST, MOST = -600.0, 600.0
"""Logarithms of money, kept where they can be added."""
MOST_WAITING = 64
"""Outcomes of one model that wait for one of the other; further ones do not count."""
REFERENCE = 200
FAR = 0.25
FEWEST = 5
BINS = 10

_NORMAL = NormalDist()


@dataclass(slots=True)
class Evidence:
    """What the gambler has made against the hypothesis that outcomes are at most 0 on average.

    With `later`, part of the money is held back for a change that comes after a while.
    """

    stakes: tuple[float, ...]
    later: bool
    logs: list[float]
    cash: float
    n: int = 0

    @classmethod
    def of(cls, stakes: tuple[float, ...] = STAKES, *, later: bool) -> Evidence:
        start = LEAST if later else 0.0
        return cls(stakes=stakes, later=later, logs=[start] * len(stakes), cash=1.0 if later else 0.0)

    def see(self, outcome: float) -> None:
        """Bet on the next outcome, in -1.2 … 1.2."""
        self.n += 1
        fresh = 0.0
        if self.later:
            fresh = 1 / (HELD_BACK * (self.n + 1) * math.log(self.n + 1) ** 2)
            self.cash = max(0.0, self.cash - fresh)
        for at, stake in enumerate(self.stakes):
            held = math.exp(min(max(self.logs[at], LEAST), MOST)) + fresh
            self.logs[at] = math.log(held) + math.log1p(stake * outcome)

    @property
    def wealth(self) -> float:
        """What there is now; 1 / wealth is a p value that holds at any time."""
        return self.cash + sum([math.exp(min(each, MOST)) for each in self.logs]) / len(self.logs)


@dataclass(slots=True)
class Guard:
    """One measure of two models, in which more is worse.

    `mean`: outcomes in 0 … 1, such as errors; the model is worse by how much more it has of them on average.
    `ratio`: positive numbers, such as seconds; worse by the factor between them that is as often exceeded as
    not. `limit` is the loss (or the factor) that is not accepted; `slack`, half of it, is not yet a reason to
    go back.
    """

    kind: Literal["mean", "ratio"]
    limit: float
    slack: float
    alarm: Evidence
    clear: Evidence
    candidate: list[float] = field(default_factory=list[float])
    incumbent: list[float] = field(default_factory=list[float])
    seen: tuple[int, int] = (0, 0)
    """Outcomes in this stage, of the candidate and of the incumbent."""
    sums: tuple[float, float] = (0.0, 0.0)
    past: tuple[int, float] = (0, 0.0)
    """How many of the incumbent in all stages, and their sum."""
    reference: list[float] = field(default_factory=list[float])
    """The newest of the incumbent, against which a candidate is held that has all requests."""
    alone: bool = False
    block: tuple[int, int] = (1, 1)
    """Outcomes of the candidate and of the incumbent that are held against each other, at most."""

    @classmethod
    def mean(cls, margin: float) -> Guard:
        return cls(
            kind="mean", limit=margin, slack=margin / 2,
            alarm=Evidence.of(later=True), clear=Evidence.of(SURE_STAKES, later=False),
        )  # fmt: skip

    @classmethod
    def ratio(cls, factor: float) -> Guard:
        return cls(
            kind="ratio", limit=factor, slack=1 + (factor - 1) / 2,
            alarm=Evidence.of(later=True), clear=Evidence.of(SURE_STAKES, later=False),
        )  # fmt: skip

    def see(self, value: float, *, candidate: bool) -> None:
        """Take in an outcome. Nothing is decided until both have been seen."""
        (n, m), (a, b) = self.seen, self.sums
        if candidate:
            self.seen, self.sums = (n + 1, m), (a + value, b)
            waiting = self.candidate
        else:
            self.seen, self.sums = (n, m + 1), (a, b + value)
            self.past = self.past[0] + 1, self.past[1] + value
            self.reference.append(value)
            del self.reference[:-REFERENCE]
            waiting = self.incumbent
        if len(waiting) < MOST_WAITING:
            waiting.append(value)
        if self.alone:
            self._bet_alone()
        elif self.candidate and self.incumbent:
            n, m = self.block
            self._bet(self.candidate[:n], self.incumbent[:m], self.slack)
            del self.candidate[:n], self.incumbent[:m]

    def stage(self, odds: float, *, alone: bool = False) -> None:
        """Begin another stage, in which the incumbent is asked `odds` times as often as the candidate.

        What is to be ruled out is ruled out anew, what alarms goes on. `alone`: nobody else is asked.
        """
        self.block = (1, _whole(odds)) if odds >= 1 else (_whole(1 / odds) if odds else 1, 1)
        self.clear = Evidence.of(SURE_STAKES, later=False)
        self.candidate, self.incumbent = [], []
        self.seen, self.sums, self.alone = (0, 0), (0.0, 0.0), alone

    def _bet_alone(self) -> None:
        """Against what the incumbent was like: at another time, so that only more than the limit counts."""
        if self.reference:
            for value in self.candidate:
                self._bet([value], self.reference, self.limit)
        self.candidate, self.incumbent = [], []

    def _bet(self, one: Sequence[float], two: Sequence[float], slack: float) -> None:
        if self.kind == "ratio":
            self.alarm.see(_exceeds(one, two, slack) - 0.5)
            self.clear.see(0.5 - _exceeds(one, two, self.limit))
            return
        base = self.past[1] / self.past[0] if self.alone else fmean(two)
        self.alarm.see(fmean(one) - base - slack)
        self.clear.see(self.limit - (fmean(one) - base))

    @property
    def means(self) -> tuple[float | None, float | None]:
        """Of this stage: candidate, incumbent; alone, of all that was seen of the incumbent."""
        (n, m), (a, b) = (self.seen, self.sums)
        if self.alone:
            m, b = self.past
        return (a / n if n else None), (b / m if m else None)


@dataclass(slots=True)
class Spread:
    """How a number is spread in requests beside a suite's rows, window by window.

    `shares` are the suite's, between `edges`. A window of `window` requests counts as drifted when its
    population stability index is `FAR` beyond what so few rows have by chance, and chance alone would do
    that with less than its part of alpha: 6 / (π² k²) of it for the k-th window, all of it in all.
    """

    edges: list[float]
    rows: int
    shares: list[float]
    counts: list[int]
    window: int = 200
    looks: int = 0
    psi: float = 0.0
    p_value: float = 1.0

    @classmethod
    def of(cls, values: Sequence[float], window: int = 200) -> Spread | None:
        """None where there are too few, or all are alike."""
        ordered = sorted(values)
        bins = max(2, min(BINS, len(ordered) // FEWEST))
        edges = (
            sorted({ordered[len(ordered) * part // bins] for part in range(1, bins)} - {ordered[0]})
            if ordered
            else []
        )
        if len(ordered) < 4 * FEWEST or not edges:
            return None
        found = cls(edges=edges, rows=len(ordered), shares=[], window=window, counts=[0] * (len(edges) + 1))
        counts = [0] * len(found.counts)
        for value in ordered:
            counts[bisect.bisect_right(edges, value)] += 1
        found.shares = [(count + 0.5) / (len(ordered) + len(counts) / 2) for count in counts]
        return found

    def see(self, value: float) -> None:
        self.counts[bisect.bisect_right(self.edges, value)] += 1
        if sum(self.counts) >= self.window:
            self._look()

    def drifted(self, alpha: float) -> bool:
        """Whether the last window was far from the suite; over all windows it is by chance with `alpha`."""
        if not self.looks:
            return False
        return self.psi >= FAR and self.p_value <= alpha * 6 / (math.pi * self.looks) ** 2

    def _look(self) -> None:
        seen, freedom = sum(self.counts), len(self.counts) - 1
        more = len(self.counts) / 2
        others = [(count + 0.5) / (seen + more) for count in self.counts]
        psi = sum((p - q) * math.log(p / q) for p, q in zip(self.shares, others, strict=True))
        scale = 1 / self.rows + 1 / seen
        self.psi = psi - scale * freedom
        # Wilson and Hilferty's cube root for the tail of chi square.
        spread = 2 / (9 * freedom)
        z = ((psi / scale / freedom) ** (1 / 3) - 1 + spread) / math.sqrt(spread)
        self.p_value = _NORMAL.cdf(-z)
        self.looks += 1
        self.counts = [0] * len(self.counts)


def blocks_needed(margin: float, spread: float, *, alpha: float, power: float) -> int:
    """About how many outcomes of an equally good candidate rule out a loss of `margin`.

    `spread` is the variance of an outcome's difference; for rare errors, their rate and a bit. Raises
    `ValueError` for what cannot be planned.
    """
    if not (0 < margin < 1 and 0 < alpha < 1 and 0 < power < 1 and spread >= 0):
        raise ValueError("margin, alpha and power lie between 0 and 1, and a spread is not negative")
    goal, quantile = math.log(len(SURE_STAKES) / alpha), _NORMAL.inv_cdf(power)
    needed = math.inf
    for stake in SURE_STAKES:
        growth = stake * margin - stake**2 * (spread + margin**2) / 2
        if growth > 0:
            sway = quantile * stake * math.sqrt(spread)
            root = (sway + math.sqrt(sway**2 + 4 * growth * goal)) / (2 * growth)
            needed = min(needed, root**2)
    return math.ceil(needed)


def _whole(odds: float) -> int:
    return max(1, min(MOST_WAITING, round(odds)))


def _exceeds(one: Sequence[float], two: Sequence[float], factor: float) -> float:
    """How often a value of `one` is more than `factor` times one of `two`; ties count half."""
    wins = 0.0
    for a in one:
        for b in two:
            wins += 1.0 if a > factor * b else 0.5 if a == factor * b else 0.0
    return wins / (len(one) * len(two))
