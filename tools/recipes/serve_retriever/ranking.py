"""The best of scores, and two rankings made one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


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


def fuse_rankings(rankings: Iterable[Sequence[tuple[int, float]]], k: int = 60) -> dict[int, float]:
    """Reciprocal rank fusion of rankings, best first each."""
    fused: dict[int, float] = {}
    for ranking in rankings:
        for rank, (chunk, _) in enumerate(ranking, start=1):
            fused[chunk] = fused.get(chunk, 0.0) + 1 / (k + rank)
    return fused


def diverse(
    ranked: Sequence[tuple[int, float]], vectors: Any, k: int, weight: float
) -> list[tuple[int, float]]:
    """Maximal marginal relevance (Carbonell and Goldstein 1998) of the best `k` among four times as many.

    `weight`, 0 to 1, is how much it counts against a chunk that it resembles one that was taken before.
    """
    scores = dict(ranked[: 4 * k])
    chunks, known = vectors.of(scores)
    if not chunks:
        return list(ranked[:k])
    low, high = min(scores.values()), max(scores.values())
    worth = [(scores[chunk] - low) / ((high - low) or 1.0) for chunk in chunks]
    cosines = (known @ known.T).tolist()
    taken: list[int] = []
    alike = [0.0] * len(chunks)
    left = set(range(len(chunks)))
    while left and len(taken) < k:
        first = max(left, key=lambda at: ((1 - weight) * worth[at] - weight * alike[at], -at))
        left.discard(first)
        taken.append(first)
        alike = [max(so_far, near) for so_far, near in zip(alike, cosines[first], strict=True)]
    return [(chunks[at], scores[chunks[at]]) for at in taken]


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
