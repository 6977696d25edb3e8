"""Vectors of a collection in memory, for what is computed among the candidates of a search."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from sieve import Sieve

BLOCK = 4096  # vectors that are widened at a time


class Resident:
    """Vectors by chunk id, kept as float16: two bytes a dimension. One writer at a time; readers don't lock.

    Rows of chunks that left are given up when the matrix grows.
    """

    def __init__(self, vectors: Mapping[int, Any]) -> None:
        self.used = 0
        self.state: tuple[Any, dict[int, int]] = (None, {})  # matrix and row by chunk: exchanged together
        self.add(vectors)

    def add(self, vectors: Mapping[int, Any]) -> None:
        import numpy as np

        if not vectors:
            return
        new = np.stack(list(vectors.values())).astype(np.float16)
        matrix, rows = self.state
        if matrix is None or self.used + len(new) > len(matrix):
            matrix, rows = self.grown(len(new), new.shape[1])
        matrix[self.used : self.used + len(new)] = new
        rows |= zip(vectors, range(self.used, self.used + len(new)), strict=True)
        self.used += len(new)
        self.state = matrix, rows

    def grown(self, wanted: int, dimension: int) -> tuple[Any, dict[int, int]]:
        """A matrix of the rows that have owners, with room for half as many again."""
        import numpy as np

        old, rows = self.state
        matrix = np.empty((max(1024, 3 * (len(rows) + wanted) // 2), dimension), np.float16)
        if rows:
            matrix[: len(rows)] = old[list(rows.values())]
        self.used = len(rows)
        return matrix, dict(zip(rows, range(len(rows)), strict=True))

    def remove(self, chunks: Iterable[int]) -> None:
        for chunk in chunks:
            self.state[1].pop(chunk, None)

    def __len__(self) -> int:
        return len(self.state[1])

    def nearest(self, question: Any, limit: int, sieve: Sieve) -> dict[int, float]:
        """Cosines of the best `limit` chunks that the sieve lets through; each of them is compared."""
        import numpy as np

        matrix, rows = self.state
        wanted = rows.items() if sieve.only is None else ((c, rows[c]) for c in sieve.only if c in rows)
        held = [(chunk, row) for chunk, row in list(wanted) if chunk not in sieve.hidden]
        if not held:
            return {}
        at = np.array([row for _, row in held])
        parts = (matrix[at[n : n + BLOCK]].astype(np.float32) @ question for n in range(0, len(at), BLOCK))
        scores = np.concatenate(list(parts))
        best = np.argsort(-scores, kind="stable")[:limit]
        return {held[n][0]: float(scores[n]) for n in best}

    def of(self, chunks: Iterable[int]) -> tuple[list[int], Any]:
        """Those of the chunks that are held, and their vectors: float32 of shape (count, dimension)."""
        import numpy as np

        matrix, rows = self.state
        held = [(chunk, row) for chunk in chunks if (row := rows.get(chunk)) is not None]
        found = matrix[[row for _, row in held]] if held else np.empty((0, 1))
        return [chunk for chunk, _ in held], found.astype(np.float32)
