"""What is known of each candidate of a search, for a ranking that is learned from judgments."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from words import analyze

NAMES = (
    "dense",  # cosine, scaled to 0…1 among the candidates
    "sparse",  # BM25, scaled likewise
    "both",  # their product
    "score",  # what the search ranks by
    "neighbours",  # what regularisation added to the fused score
    "cosine",
    "coverage",  # share of the query's words in the passage, each by its IDF
    "title_coverage",  # share of the query's words in title and headings
    "log_words",
    "siblings",  # whether other candidates are of the same document
    "reciprocal_rank",
)


def features_of(
    asked: Mapping[str, float],
    places: Sequence[str],
    texts: Sequence[str],
    owners: Sequence[Any],
    scores: Mapping[str, Sequence[float]],
) -> list[list[float]]:
    """A row for each candidate, best first, in the order of `NAMES`.

    `asked` is the IDF of each stem of the query; `scores` has "dense", "sparse", "fused" and "score", a value
    for each candidate.
    """
    whole, many = sum(asked.values()) or 1.0, Counter(owners)
    low, high, top = min(scores["dense"]), max(scores["dense"]), max(scores["sparse"]) or 1.0
    rows: list[list[float]] = []
    for at, (place, text, owner) in enumerate(zip(places, texts, owners, strict=True)):
        stems, titled = analyze(text), set(analyze(place))
        present = titled.union(stems)
        dense = (scores["dense"][at] - low) / ((high - low) or 1.0)
        sparse = scores["sparse"][at] / top
        rows.append(
            [
                dense,
                sparse,
                dense * sparse,
                scores["score"][at],
                scores["score"][at] - scores["fused"][at],
                scores["dense"][at],
                sum(idf for stem, idf in asked.items() if stem in present) / whole,
                sum(stem in titled for stem in asked) / max(len(asked), 1),
                math.log1p(len(stems)),
                float(many[owner] > 1),
                1 / (at + 1),
            ]
        )
    return rows
