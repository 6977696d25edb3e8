"""How far apart two samples of a field's values are: the population stability index. Pure, stdlib only.

The index is Σ (p − q) ln(p / q) over the values, p and q being their shares on the two sides. By convention
it is stable below 0.1, shifted from there, and far from 0.25 on.

Few rows inflate it. Where nothing differs it is distributed like χ² with (values − 1) degrees of freedom,
times 1/n + 1/m (1/n against shares that are known): that gives the index that so few rows have by chance
(`noise`, its mean), and p. Noise is taken off before the convention is applied, and what may well be chance
is not called a shift, so that a suite of fifty rows is not far for being small.

Source: Yurdakul and Naranjo, Statistical properties of the population stability index, Journal of Risk Model
Validation 14 (2020).
Not covered: rows that differ in a way that no field shows.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

__all__ = ["FAR", "SHIFTED", "Level", "Share", "Shift", "declared_shift", "shift"]

Level = Literal["stable", "unclear", "shifted", "far"]
SHIFTED, FAR = 0.1, 0.25
# Numbers of more values than this are cut into bins that hold equal shares of both sides together.
MOST_NUMBERS, BINS = 12, 10
# Values of which the smaller side would have fewer rows, were both alike, are counted together.
FEWEST = 5
NAMED = 3

_NORMAL = NormalDist()


@dataclass(frozen=True, slots=True)
class Share:
    """One value of a field: its share on both sides, and what it adds to the index."""

    value: str
    suite: float
    traffic: float
    adds: float


@dataclass(frozen=True, slots=True)
class Shift:
    """The index of one field."""

    psi: float
    noise: float
    """What the index comes to on average where nothing differs, with as many rows."""
    p_value: float
    shown: float
    """From this index on, so many rows tell it from chance (p of 0.05); none where all values are rare."""
    shares: tuple[Share, ...]
    """Those that add most first."""

    def level(self, p_value: float | None = None, alpha: float = 0.05) -> Level:
        """What the index says; "unclear" where so few rows could not show a field that is far.

        `p_value` may be one that is corrected for other fields.
        """
        left = self.psi - self.noise
        if left < SHIFTED:
            return "stable" if self.shown - self.noise < FAR else "unclear"
        if (self.p_value if p_value is None else p_value) > alpha:
            return "unclear"
        return "far" if left >= FAR else "shifted"


def shift(suite: Sequence[object], traffic: Sequence[object]) -> Shift:
    """Compare the values of one field. Raises `ValueError` if a side has none."""
    if not suite or not traffic:
        raise ValueError(f"{len(suite)} and {len(traffic)} values cannot be compared")
    edges = _edges([*suite, *traffic], min(len(suite), len(traffic)) // FEWEST)
    one, two = (Counter(_bin_of(v, edges) if edges else _name(v) for v in side) for side in (suite, traffic))
    return _shift(one, two, len(suite), len(traffic), 1 / len(suite) + 1 / len(traffic))


def declared_shift(suite: Sequence[object], shares: Mapping[str, float]) -> Shift:
    """Compare the values of one field with shares that are known. Raises `ValueError` for what are none."""
    total = sum(shares.values())
    if not suite or not shares or min(shares.values()) < 0 or not total > 0:
        raise ValueError("shares are positive numbers, one a value")
    rows = len(suite)
    wanted = {name: share / total * rows for name, share in shares.items()}
    return _shift(Counter(map(_name, suite)), wanted, rows, rows, 1 / rows)


def _shift(one: Mapping[str, float], two: Mapping[str, float], n: int, m: int, scale: float) -> Shift:
    names, smaller = sorted(one.keys() | two.keys()), min(n, m)
    # By both sides together, so that what is counted apart does not depend on how they differ.
    often = [name for name in names if (one.get(name, 0) + two.get(name, 0)) / (n + m) * smaller >= FEWEST]
    pairs = {name: (one.get(name, 0.0), two.get(name, 0.0)) for name in often}
    if rare := [name for name in names if name not in pairs]:
        rest = n - sum(a for a, _ in pairs.values()), m - sum(b for _, b in pairs.values())
        pairs[_rest(rare, one, two, n, m)] = rest
    # Half a row more of each value: no share is 0.
    more = len(pairs) / 2
    shares = [
        _share(name, (a + 0.5) / (n + more), (b + 0.5) / (m + more), a / n, b / m)
        for name, (a, b) in pairs.items()
    ]
    psi, freedom = sum(share.adds for share in shares), len(shares) - 1
    return Shift(
        psi=psi,
        noise=scale * freedom,
        p_value=_chi_square_tail(psi / scale, freedom),
        shown=scale * _chi_square_at(0.95, freedom) if freedom or len(names) == 1 else math.inf,
        shares=tuple(sorted(shares, key=lambda share: -share.adds)),
    )


def _rest(rare: Sequence[str], one: Mapping[str, float], two: Mapping[str, float], n: int, m: int) -> str:
    """What the rare values are called together: those that differ most first."""
    order = sorted(rare, key=lambda name: -abs(one.get(name, 0) / n - two.get(name, 0) / m))
    return ", ".join(order[:NAMED]) + (f" and {len(rare) - NAMED} more" if len(rare) > NAMED else "")


def _share(name: str, p: float, q: float, suite: float, traffic: float) -> Share:
    return Share(name, suite, traffic, (p - q) * math.log(p / q))


def _chi_square_tail(value: float, freedom: int) -> float:
    """The chance of more than `value`, by Wilson and Hilferty's cube root."""
    if freedom < 1:
        return 1.0
    spread = 2 / (9 * freedom)
    return 1 - _NORMAL.cdf(((value / freedom) ** (1 / 3) - 1 + spread) / math.sqrt(spread))


def _chi_square_at(quantile: float, freedom: int) -> float:
    spread = 2 / (9 * max(1, freedom))
    return freedom * (1 - spread + _NORMAL.inv_cdf(quantile) * math.sqrt(spread)) ** 3


def _name(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, sort_keys=True)


def _edges(values: Sequence[object], most: int) -> list[float]:
    """Where to cut numbers so that equally many lie between; empty for what is not many numbers."""
    numbers = sorted(v for v in values if isinstance(v, int | float) and not isinstance(v, bool))
    if len(numbers) < len(values) or len(set(numbers)) <= MOST_NUMBERS:
        return []
    bins = max(2, min(BINS, most))
    return sorted({numbers[len(numbers) * part // bins] for part in range(1, bins)})


def _bin_of(value: object, edges: Sequence[float]) -> str:
    assert isinstance(value, int | float)
    place = sum(value >= edge for edge in edges)
    if place == 0:
        return f"below {edges[0]:g}"
    return f"{edges[place - 1]:g} up" if place == len(edges) else f"{edges[place - 1]:g} to {edges[place]:g}"
