"""Brier score of an answer's confidence: the squared distance between it and being right, less is better.

The confidence is the probability of the whole answer, from its tokens' log-probabilities (``logprobs:
true`` in the suite), or what the answer states in the JSON field `field`. Right is a row whose metric
`of` is 1; that metric has to stand before this one. Over all rows: the expected calibration error over
`bins` bins of equal width (Guo et al. 2017), with a bootstrap interval; mean confidence and accuracy.

Few rows make an ECE look larger than it is: with 10 bins, want some hundreds.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

BETTER = "lower"
RESAMPLES = 1000


def score(
    expected: object, output_text: str, row: Mapping[str, Any], *, of: str, field: str = "", bins: int = 10
) -> float:
    return (_confidence(row, output_text, field) - _right(row, of)) ** 2


def figures(
    rows: Sequence[Mapping[str, Any]], *, of: str, field: str = "", bins: int = 10
) -> dict[str, float | tuple[float, float, float]]:
    pairs = [(_confidence(row, row["output"], field), _right(row, of)) for row in rows]
    rng = random.Random(0)
    drawn = sorted(_ece(rng.choices(pairs, k=len(pairs)), bins) for _ in range(RESAMPLES))
    low, high = drawn[int(0.025 * RESAMPLES)], drawn[int(0.975 * RESAMPLES)]
    return {
        "ece": (_ece(pairs, bins), low, high),
        "confidence": fmean(confidence for confidence, _ in pairs),
        "accuracy": fmean(right for _, right in pairs),
    }


def _ece(pairs: Sequence[tuple[float, float]], bins: int) -> float:
    gaps = [0.0] * bins
    for confidence, right in pairs:
        gaps[min(bins - 1, int(confidence * bins))] += confidence - right
    return sum(map(abs, gaps)) / len(pairs)


def _right(row: Mapping[str, Any], of: str) -> float:
    if of not in row["scores"]:
        raise ValueError(f"the row has no score of {of!r}: put that metric before this one")
    return float(row["scores"][of] == 1)


def _confidence(row: Mapping[str, Any], output_text: str, field: str) -> float:
    if not field:
        if not row.get("logprobs"):
            raise ValueError("the answer came without log-probabilities: 'logprobs: true' asks for them")
        return math.exp(min(0.0, math.fsum(row["logprobs"])))
    stated = json.loads(output_text)[field]
    if isinstance(stated, bool) or not isinstance(stated, int | float) or not 0 <= stated <= 1:
        raise ValueError(f"the answer states {stated!r} as {field!r}, which is no probability")
    return float(stated)
