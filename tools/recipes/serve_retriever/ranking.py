"""The best of scores, and two rankings made one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence


def fuse_scores(
    dense: Mapping[int, float], sparse: Mapping[int, float], weight: float = 0.5
) -> dict[int, float]:
    """Convex combination of min-max-normalised scores (Bruch et al. 2023); BM25's least is 0."""
    low, high = min(dense.values(), default=0.0), max(dense.values(), default=1.0)
    top = max(sparse.values(), default=1.0)
    return {
        chunk: (1 - weight) * (score - low) / ((high - low) or 1.0)
        + weight * sparse.get(chunk, 0.0) / (top or 1.0)
        for chunk, score in dense.items()
    }


def fuse_ranks(dense: Mapping[int, float], sparse: Mapping[int, float], k: int = 60) -> dict[int, float]:
    """Reciprocal rank fusion (Cormack et al. 2009)."""
    fused: dict[int, float] = {}
    for scores in (dense, sparse):
        for rank, chunk in enumerate(sorted(scores, key=lambda chunk: -scores[chunk]), start=1):
            fused[chunk] = fused.get(chunk, 0.0) + 1 / (k + rank)
    return fused


def limited(
    ranked: Sequence[tuple[int, float]], owners: Mapping[int, int], each: int
) -> list[tuple[int, float]]:
    """At most `each` chunks of one document, in order; chunks that no document owns any more are left out."""
    taken: Counter[int] = Counter()
    kept: list[tuple[int, float]] = []
    for chunk, score in ranked:
        owner = owners.get(chunk)
        if owner is not None and taken[owner] < each:
            taken[owner] += 1
            kept.append((chunk, score))
    return kept


def best(scores: Mapping[int, float], k: int | None = None) -> list[tuple[int, float]]:
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]
