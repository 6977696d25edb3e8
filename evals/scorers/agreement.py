"""How far the metric `of`, usually a judge, agrees with people: 1 − the distance to their mean, a row.

People's ratings, whole numbers of `scale`, stand in the row's field `ratings`, one list a row; who is first
in one row need not be first in another. Over all rows, each with a bootstrap interval that draws whole
groups (rows alike in the field `group`, such as answers to one question):

    kappa           Cohen's kappa with quadratic weights, against people's median (Cohen 1968)
    kappa_person    the same against each person; people_kappa is people against one another: the ceiling
    alpha           Krippendorff's alpha, ordinal, of people and judge; people_alpha of people alone
    spearman        rank correlation with people's mean
    exact           share of rows where it says what people's median says
    length_bias     rank correlation of (judge − people) with the length of the answer, or, of pairs, with
                    how much longer it is than that in the field `against`; 0 is none
    self_preference (judge − people) on answers of authors in `own`, less that on others', in steps of the
                    scale; `author` names the field. Left out where there are no such answers

A judge that says the same of everything has a kappa of 0, and no rank correlation.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

RESAMPLES = 1000


def score(
    expected: object,
    output_text: str,
    row: Mapping[str, Any],
    *,
    of: str,
    scale: Sequence[int],
    ratings: str = "ratings",
    group: str = "",
    author: str = "",
    against: str = "",
    own: Sequence[str] = (),
) -> float:
    rated = _rated(row, of, scale, ratings, group, author, against)
    return 1 - abs(rated.judge - fmean(rated.people)) / (scale[1] - scale[0])


def figures(
    rows: Sequence[Mapping[str, Any]],
    *,
    of: str,
    scale: Sequence[int],
    ratings: str = "ratings",
    group: str = "",
    author: str = "",
    against: str = "",
    own: Sequence[str] = (),
) -> dict[str, tuple[float, float, float]]:
    rated = [_rated(row, of, scale, ratings, group, author, against) for row in rows]
    return agreement(rated, (scale[0], scale[1]), own)


@dataclass(frozen=True, slots=True)
class Rated:
    """One answer: the judge's and people's ratings on one scale, its length in words, and whose it is."""

    judge: int
    people: tuple[int, ...]
    length: int = 0
    group: str = ""
    author: str = ""


Measure = Callable[[Sequence[Rated], tuple[int, int], Sequence[str]], dict[str, float]]


def agreement(
    rated: Sequence[Rated],
    scale: tuple[int, int],
    own: Sequence[str] = (),
    resamples: int = RESAMPLES,
    measure: Measure | None = None,
) -> dict[str, tuple[float, float, float]]:
    """{figure: (value, low, high)}, the interval by drawing groups; figures without a value are left out."""
    import numpy as np

    groups: dict[str, list[Rated]] = defaultdict(list)
    for number, each in enumerate(rated):
        groups[each.group or str(number)].append(each)
    clusters, rng = list(groups.values()), np.random.default_rng(0)
    measure = measure or figures_of
    drawn = [
        measure(
            [each for at in rng.integers(0, len(clusters), len(clusters)) for each in clusters[at]],
            scale,
            own,
        )
        for _ in range(resamples)
    ]
    made: dict[str, tuple[float, float, float]] = {}
    for name, value in measure(rated, scale, own).items():
        found = [sample[name] for sample in drawn if math.isfinite(sample.get(name, math.nan))]
        if math.isfinite(value) and found:
            low, high = np.quantile(found, (0.025, 0.975))
            made[name] = (value, min(value, float(low)), max(value, float(high)))
    return made


def figures_of(rated: Sequence[Rated], scale: tuple[int, int], own: Sequence[str]) -> dict[str, float]:
    people = [fmean(each.people) for each in rated]
    beyond = [each.judge - mean for each, mean in zip(rated, people, strict=True)]
    middle = [(each.judge, math.floor(median(each.people) + 0.5)) for each in rated]
    persons = [(each.judge, person) for each in rated for person in each.people]
    pairs = [
        (one, two)
        for each in rated
        for i, one in enumerate(each.people)
        for j, two in enumerate(each.people)
        if i != j
    ]
    made = {
        "kappa": weighted_kappa(middle, scale),
        "kappa_person": weighted_kappa(persons, scale),
        "people_kappa": weighted_kappa(pairs, scale),
        "alpha": ordinal_alpha([(each.judge, *each.people) for each in rated], scale),
        "people_alpha": ordinal_alpha([each.people for each in rated], scale),
        "spearman": _spearman([each.judge for each in rated], people),
        "exact": fmean(one == two for one, two in middle),
        "length_bias": _spearman(beyond, [each.length for each in rated]),
    }
    mine = [b for each, b in zip(rated, beyond, strict=True) if each.author and each.author in own]
    others = [b for each, b in zip(rated, beyond, strict=True) if each.author and each.author not in own]
    return made | ({"self_preference": fmean(mine) - fmean(others)} if mine and others else {})


def weighted_kappa(pairs: Sequence[tuple[int, int]], scale: tuple[int, int]) -> float:
    """Cohen's kappa with quadratic weights; NaN if both sides say one and the same thing throughout."""
    import numpy as np

    if not pairs:
        return math.nan
    low, levels = scale[0], scale[1] - scale[0] + 1
    counts = np.zeros((levels, levels))
    np.add.at(counts, tuple(np.asarray(pairs).T - low), 1)
    steps = np.arange(levels)
    weights = (steps[:, None] - steps) ** 2
    by_chance = (weights * np.outer(counts.sum(1), counts.sum(0))).sum() / len(pairs)
    return float(1 - (weights * counts).sum() / by_chance) if by_chance else math.nan


def ordinal_alpha(ratings: Sequence[Sequence[int]], scale: tuple[int, int]) -> float:
    """Krippendorff's alpha for ordinal ratings, rows of any length; NaN where it is not defined."""
    import krippendorff
    import numpy as np

    counts = np.zeros((len(ratings), scale[1] - scale[0] + 1), dtype=int)
    for row, given in zip(counts, ratings, strict=True):
        np.add.at(row, np.asarray(given) - scale[0], 1)
    paired = counts[counts.sum(1) > 1]
    if not len(paired) or np.count_nonzero(paired.sum(0)) < 2:
        return math.nan
    return float(
        krippendorff.alpha(
            value_counts=paired,
            level_of_measurement="ordinal",
            value_domain=list(range(scale[0], scale[1] + 1)),
        )
    )


def _spearman(one: Sequence[float], two: Sequence[float]) -> float:
    from scipy.stats import spearmanr

    if len(set(one)) < 2 or len(set(two)) < 2:
        return math.nan
    return float(spearmanr(one, two).statistic)


def _rated(
    row: Mapping[str, Any],
    of: str,
    scale: Sequence[int],
    ratings: str,
    group: str,
    author: str,
    against: str,
) -> Rated:
    if of not in row["scores"]:
        raise ValueError(f"the row has no score of {of!r}: put that metric before this one")
    people = row.get(ratings)
    low, high = scale
    if not isinstance(people, list) or not people:
        raise ValueError(f"the row has no ratings in its field {ratings!r}")
    if any(isinstance(p, bool) or not isinstance(p, int) or not low <= p <= high for p in people):
        raise ValueError(f"the ratings {people} are no whole numbers of {low}…{high}")
    return Rated(
        round(row["scores"][of] * (high - low)) + low,
        tuple(people),
        len(row["output"].split()) - (len(str(row[against]).split()) if against else 0),
        str(row.get(group, "")) if group else "",
        str(row.get(author, "")) if author else "",
    )
