"""Sentences joined to chunks by meaning: a chunk ends where the text turns to something else.

How far two neighbours are apart is one minus the cosine of what stands before and after the place between
them, `AROUND` sentences each. A chunk ends where that is among the largest fifth of its document (Kamradt's
semantic chunking), at a new section or page, and before it grows too long.
"""

from __future__ import annotations

import base64
import struct
from collections.abc import Mapping, Sequence
from typing import Any

AROUND = 2  # sentences on either side of a place
TURNS = 0.8  # of the distances in a document, the quantile above which the text turns
SHORTEST = 5  # times shorter than the longest may a chunk be that ends where the text turns

Vector = Sequence[float]


def vectors_of(retriever: Any, texts: Sequence[str]) -> list[Vector]:
    """Vectors of length 1 by the retriever's embedder."""
    found: list[Vector] = []
    for at in range(0, len(texts), 256):
        ask = {"input": list(texts[at : at + 256]), "encoding_format": "base64"}
        for row in retriever.post("/v1/embeddings", ask)["data"]:
            data = base64.b64decode(row["embedding"])
            found.append(struct.unpack(f"<{len(data) // 4}f", data))
    return found


def grouped(
    units: Sequence[Mapping[str, Any]], sizes: Sequence[int], vectors: Sequence[Vector], words: int
) -> list[dict[str, Any]]:
    """Chunks ``{start, end, heading, page, parent}`` out of sentences of the same form, with their words."""
    far = [distance(vectors, at) for at in range(1, len(units))]
    turn = sorted(far)[int(TURNS * len(far))] if far else 0.0
    chunks: list[dict[str, Any]] = []
    length = 0
    for at, unit in enumerate(units):
        last = chunks[-1] if chunks else None
        together = last and (last["heading"], last["page"]) == (unit["heading"], unit["page"])
        turns = at and far[at - 1] >= turn and length * SHORTEST >= words
        if last and together and not turns and length + sizes[at] <= words:
            last["end"] = unit["end"]
            length += sizes[at]
        else:
            chunks.append(dict(unit))
            length = sizes[at]
    return chunks


def distance(vectors: Sequence[Vector], at: int) -> float:
    """Between the sentences before the place `at` and those after it, 0 to 2."""
    before, after = mean(vectors[max(0, at - AROUND) : at]), mean(vectors[at : at + AROUND])
    norm = (dot(before, before) * dot(after, after)) ** 0.5
    return 1 - dot(before, after) / norm if norm else 1.0


def mean(vectors: Sequence[Vector]) -> list[float]:
    return [sum(values) / len(vectors) for values in zip(*vectors, strict=True)]


def dot(one: Vector, other: Vector) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))
