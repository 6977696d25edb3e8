"""What people said of exactly this output: the mean of their ratings, scaled to 0…1.

``files: {ratings: data/x-ratings.jsonl}`` names rows {"id", "output", "ratings": [4, 5]}; `scale` is the
lowest and highest rating. An output that nobody rated has no score. To have a model rated: evaluate it,
let people add "ratings" to the rows of its report, name that file here, evaluate again (the answers are
kept, so nothing is asked again).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from statistics import fmean
from typing import Any


def score(
    expected: object,
    output_text: str,
    row: Mapping[str, Any],
    *,
    ratings: Path,
    scale: Sequence[float] = (1, 5),
) -> float:
    given = _read(ratings).get((row["id"], output_text))
    if not given:
        raise ValueError("nobody has rated this output")
    low, high = scale
    if not all(low <= rating <= high for rating in given):
        raise ValueError(f"the ratings {given} do not lie in {low:g}…{high:g}")
    return (fmean(given) - low) / (high - low)


@cache
def _read(path: Path) -> dict[tuple[str, str], list[float]]:
    lines = path.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    return {(row["id"], row["output"]): row["ratings"] for row in rows if row.get("ratings")}
