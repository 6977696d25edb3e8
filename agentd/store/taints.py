"""What each context has read that is not to be trusted. Only ever added to."""

from __future__ import annotations

from collections.abc import Iterable

from agentd.store.database import Store

__all__ = ["TaintTable"]


class TaintTable:
    """A context is a name: a run's id, or what stands for a client."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def of(self, context: str, *, since: float = 0.0) -> tuple[str, ...]:
        """What taints it, oldest first; `since` leaves out what it read before, in seconds of the epoch."""
        rows = self._store.rows(
            "SELECT source FROM taints WHERE context = ? AND at >= ? ORDER BY at, source", [context, since]
        )
        return tuple(row["source"] for row in rows)

    def add(self, context: str, sources: Iterable[str]) -> None:
        """Taint a context, or note that it was tainted by the same again."""
        with self._store.transaction():
            for source in sources:
                row = {"context": context, "source": source, "at": self._store.now()}
                self._store.insert("taints", row, replace=True)
