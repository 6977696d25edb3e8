"""Runs of plans and their steps, as stored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from agentd.ids import new_id
from agentd.redaction import redact
from agentd.store.database import Row, Store, any_of, loads, stored
from agentd.store.taints import TaintTable

__all__ = ["RunRow", "RunTable", "StepRow"]


class RunRow(BaseModel):
    """One run; `source` is the plan's whole text, or the goal, so that it resumes as it began.

    `options` and `outcome` are of runs of `kind` goal: what they may take, and how they ended.
    """

    id: str
    kind: Literal["plan", "goal"] = "plan"
    plan: str
    source: str
    params: dict[str, Any]
    state: str
    reason: str
    principal: str
    surface: str
    cwd: Path
    project: str
    created_at: float
    ended_at: float | None
    options: dict[str, Any] = {}
    outcome: dict[str, Any] = {}


class StepRow(BaseModel):
    """One step of a run: pending steps have no row. Of a goal's, `turn` says which one asked for
    it, and `outcome` what its guards make of it."""

    run: str
    step: str
    tool: str = ""
    turn: int | None = None
    outcome: str = ""
    state: str
    job: str | None
    arguments: dict[str, Any] | None
    result: dict[str, Any] | None
    reason: str
    started_at: float | None
    ended_at: float | None


class RunTable:
    def __init__(self, store: Store) -> None:
        self._store, self._taints = store, TaintTable(store)

    def add(self, *, taint: Sequence[str] = (), **columns: Any) -> RunRow:
        """Start one, asked for by somebody who had read `taint`."""
        row: Row = {"id": new_id("run"), "state": "running", "created_at": self._store.now(), **columns}
        with self._store.transaction():
            self._store.insert("runs", row)
            self.add_taint(row["id"], taint)
        found = self.find(row["id"])
        assert found is not None
        return found

    def find(self, run_id: str) -> RunRow | None:
        row = self._store.row("SELECT * FROM runs WHERE id = ?", [run_id])
        return _run(row) if row else None

    def list(
        self, *, state: str | None = None, limit: int = 50, of: Sequence[str] | None = None
    ) -> list[RunRow]:
        """Newest first; `of` leaves only those of these principals."""
        rows = self._store.rows(
            "SELECT * FROM runs WHERE (?1 IS NULL OR state = ?1)"
            " AND (?2 IS NULL OR principal IN (SELECT value FROM json_each(?2)))"
            " ORDER BY created_at DESC, id DESC LIMIT ?3",
            [state, any_of(of), limit],
        )
        return [_run(row) for row in rows]

    def taint(self, run_id: str) -> tuple[str, ...]:
        """What was read by whoever decides in a run, or asked for it. A run's id names its context."""
        return self._taints.of(run_id)

    def add_taint(self, run_id: str, sources: Sequence[str]) -> None:
        """Taint a run for good: by what its model read, or by a message of somebody who was tainted."""
        self._taints.add(run_id, sources)

    def principals(self) -> list[str]:
        return [row["principal"] for row in self._store.rows("SELECT DISTINCT principal FROM runs")]

    def end(
        self, run_id: str, state: str, reason: str = "", outcome: Mapping[str, Any] | None = None
    ) -> None:
        columns = {} if outcome is None else {"outcome": redact(dict(outcome))}
        ended_at = None if state == "running" else self._store.now()
        self._store.update("runs", run_id, state=state, reason=reason, ended_at=ended_at, **columns)

    def set_options(self, run_id: str, options: Mapping[str, Any]) -> None:
        self._store.update("runs", run_id, options=dict(options))

    def forget_step(self, run_id: str, step: str) -> None:
        """Let a step be carried out again: as a new call, but for those of its calls that did not fail."""
        with self._store.transaction():
            key = f"{run_id}/{step}"
            self._store.change(
                "DELETE FROM keys WHERE (key = ?1 OR substr(key, 1, length(?1) + 1) = ?1 || '/') AND job IN"
                " (SELECT id FROM jobs WHERE state IN ('failed', 'cancelled', 'lost', 'timed_out'))",
                [key],
            )
            self._store.change("DELETE FROM steps WHERE run = ? AND step = ?", [run_id, step])

    def reopen(self, run_id: str) -> None:
        """Make a run that ended early running again; its failed steps are forgotten, finished ones stay."""
        with self._store.transaction():
            self._store.update("runs", run_id, state="running", reason="", ended_at=None)
            for row in self._store.rows(
                "SELECT step FROM steps WHERE run = ? AND state != 'succeeded'", [run_id]
            ):
                self.forget_step(run_id, row["step"])

    def steps(self, run_id: str) -> dict[str, StepRow]:
        rows = self._store.rows("SELECT * FROM steps WHERE run = ? ORDER BY started_at, rowid", [run_id])
        return {row["step"]: _step(row) for row in rows}

    def put_step(self, run_id: str, step: str, **columns: Any) -> None:
        """Insert the step, or change the columns of one that is there."""
        if self._store.row("SELECT 1 FROM steps WHERE run = ? AND step = ?", [run_id, step]) is None:
            self._store.insert("steps", {"run": run_id, "step": step, **columns})
            return
        values = [stored(name, value) for name, value in columns.items()]
        names = ", ".join(f"{name} = ?" for name in columns)
        self._store.change(f"UPDATE steps SET {names} WHERE run = ? AND step = ?", [*values, run_id, step])


def _run(row: Row) -> RunRow:
    return RunRow(**{**row, **{name: loads(row[name]) for name in ("params", "options", "outcome")}})


def _step(row: Row) -> StepRow:
    return StepRow(**{**row, "arguments": loads(row["arguments"]), "result": loads(row["result"])})
