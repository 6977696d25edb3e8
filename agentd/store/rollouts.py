"""Rollouts as stored: what was declared, where each is, and what was seen of it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from agentd.store.database import Row, Store, loads

__all__ = ["RolloutRow", "RolloutTable"]

LIVE = ("running", "done")


class RolloutRow(BaseModel):
    """`stage` counts from 0 and began at `stage_at`; `plan` and `watched` are the router's.

    running, then done once the last stage was passed (it is watched on), or rolled_back, aborted, superseded.
    """

    id: str
    alias: str
    model: str
    state: str
    stage: int
    plan: dict[str, Any]
    watched: dict[str, Any]
    why: str
    waits: bool
    """Whether it was told that this stage has waited for long."""
    principal: str
    started_at: float
    stage_at: float
    ended_at: float | None = None


class RolloutTable:
    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, row: RolloutRow) -> None:
        self._store.insert("rollouts", row.model_dump())

    def update(self, rollout_id: str, **changes: Any) -> None:
        self._store.update("rollouts", rollout_id, **changes)

    def live(self) -> list[RolloutRow]:
        """Those that are watched."""
        rows = self._store.rows("SELECT * FROM rollouts WHERE state IN (?, ?) ORDER BY started_at", LIVE)
        return [_row(row) for row in rows]

    def list(self, limit: int = 50) -> list[RolloutRow]:
        """Newest first."""
        rows = self._store.rows("SELECT * FROM rollouts ORDER BY started_at DESC LIMIT ?", [limit])
        return [_row(row) for row in rows]

    def last(self, alias: str, model: str, state: str) -> RolloutRow | None:
        """The newest of a model for an alias that ended so."""
        row = self._store.row(
            "SELECT * FROM rollouts WHERE alias = ? AND model = ? AND state = ? ORDER BY ended_at DESC"
            " LIMIT 1",
            [alias, model, state],
        )
        return _row(row) if row else None


def _row(row: Row) -> RolloutRow:
    return RolloutRow(**{**row, "plan": loads(row["plan"]), "watched": loads(row["watched"])})
