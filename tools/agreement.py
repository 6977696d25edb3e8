"""Agreement between people who judged the same items: Krippendorff's alpha for nominal categories.

Krippendorff, *Content Analysis*, 3rd ed., 12.3.1: one minus observed over expected disagreement; 1 is
full agreement, 0 what chance would give. Any number of people, and not everybody needs to judge everything.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from random import Random

__all__ = ["alpha", "interval"]

RESAMPLES = 1000

Unit = tuple[Counter[str], float]
"""How often each category was given to an item, and the disagreement between its judges."""


def alpha(items: Sequence[Sequence[str]]) -> float | None:
    """Of the categories given to each item. None where it is not defined: nothing was judged twice, or one
    category is all that was ever given."""
    return _alpha([_unit(given) for given in items if len(given) > 1])


def interval(
    items: Sequence[Sequence[str]], *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float] | None:
    """A percentile interval from 1,000 resamples of the items; None where alpha is not defined."""
    units = [_unit(given) for given in items if len(given) > 1]
    if _alpha(units) is None:
        return None
    draw = Random(seed)
    found = sorted(
        value for _ in range(RESAMPLES) if (value := _alpha(draw.choices(units, k=len(units)))) is not None
    )
    if not found:
        return None
    tail = int(len(found) * (1 - confidence) / 2)
    return found[tail], found[-1 - tail]


def _unit(given: Sequence[str]) -> Unit:
    counts = Counter(given)
    judges = counts.total()
    same = sum(n * (n - 1) for n in counts.values())
    return counts, (judges * (judges - 1) - same) / (judges - 1)


def _alpha(units: Sequence[Unit]) -> float | None:
    totals: Counter[str] = Counter()
    observed = 0.0
    for counts, disagreement in units:
        totals.update(counts)
        observed += disagreement
    n = totals.total()
    expected = (n * n - sum(each * each for each in totals.values())) / (n - 1) if n > 1 else 0.0
    return 1 - observed / expected if expected else None
