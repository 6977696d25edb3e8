"""A ranking learned from judgments: linear in features of the candidates, kept with its collection."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features import NAMES, features_of
from passages import place
from problems import Problem
from ranking import best

if TYPE_CHECKING:
    from bodies import Ranking
    from retriever import Retriever

DEEPEST = 100  # candidates that are ranked anew; those after them stay where they are


@dataclass(frozen=True, slots=True)
class Pool:
    """Candidates with their scores by chunk id; `sparse` lacks those that BM25 did not find."""

    dense: dict[int, float]
    sparse: dict[int, float]
    fused: dict[int, float]
    scores: dict[int, float]

    def ranked(self) -> list[tuple[int, float]]:
        return best(self.scores)


@dataclass(frozen=True, slots=True)
class Learned:
    """Weights of standardised features, in the order of `features.NAMES`."""

    weights: list[float]
    means: list[float]
    deviations: list[float]

    def rerank(
        self, retriever: Retriever, collection: int, stems: Sequence[str], pool: Pool
    ) -> list[tuple[int, float]]:
        """All candidates, the first `DEEPEST` by what was learned; scores fall with the rank."""
        ranked = pool.ranked()
        chunks, _, rows = described(retriever, collection, stems, pool)
        told = {chunk: self.score(row) for chunk, row in zip(chunks, rows, strict=True)}
        first = best(told)
        floor = max((score for chunk, score in ranked if chunk not in told), default=0.0)
        low, high = (first[-1][1], first[0][1]) if first else (0.0, 1.0)
        scaled = [(c, floor + (1 - floor) * (s - low) / ((high - low) or 1.0)) for c, s in first]
        return [*scaled, *((chunk, score) for chunk, score in ranked if chunk not in told)]

    def score(self, row: Sequence[float]) -> float:
        terms = zip(self.weights, row, self.means, self.deviations, strict=True)
        return sum(weight * (value - mean) / deviation for weight, value, mean, deviation in terms)


def described(
    retriever: Retriever, collection: int, stems: Sequence[str], pool: Pool
) -> tuple[list[int], list[str], list[list[float]]]:
    """The first `DEEPEST` candidates, their documents and their features."""
    ranked = pool.ranked()[:DEEPEST]
    rows = retriever.store.chunks(chunk for chunk, _ in ranked)
    held = [chunk for chunk, _ in ranked if chunk in rows]
    if not held:
        return [], [], []
    owners = [rows[chunk]["document"] for chunk in held]
    scores = {
        "dense": [pool.dense[chunk] for chunk in held],
        "sparse": [pool.sparse.get(chunk, 0.0) for chunk in held],
        "fused": [pool.fused[chunk] for chunk in held],
        "score": [pool.scores[chunk] for chunk in held],
    }
    asked = retriever.keywords_index(collection).idf(dict.fromkeys(stems))
    places, texts = [place(rows[chunk]) for chunk in held], [rows[chunk]["text"] for chunk in held]
    return held, owners, features_of(asked, places, texts, owners, scores)


def load(path: Path) -> Learned | None:
    """What was learned, or None: nothing, or by other features than there are now."""
    try:
        kept: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    names = kept.pop("names", None)
    return Learned(**kept) if names == list(NAMES) else None


def save(path: Path, asked: Ranking) -> Learned | None:
    """Keep weights, or forget what was learned where there are none. Raises `Problem` for another number."""
    if not asked.weights:
        path.unlink(missing_ok=True)
        return None
    for name in ("weights", "means", "deviations"):
        if len(getattr(asked, name)) != len(NAMES):
            raise Problem(422, f"{name}: there are {len(NAMES)} features: {', '.join(NAMES)}")
    if not all(deviation > 0 for deviation in asked.deviations):
        raise Problem(422, "deviations: each must be above 0")
    learned = Learned(asked.weights, asked.means, asked.deviations)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps({**asdict(learned), "names": NAMES}), encoding="utf-8")
    partial.replace(path)
    return learned
