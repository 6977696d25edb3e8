"""What was said in the pursuit of a goal, turn by turn, and what people said to it meanwhile."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from agentd.store.database import Row, Store

__all__ = ["Remark", "TurnRow", "TurnTable"]


class TurnRow(BaseModel):
    """One request to the model and its reply; `messages` is JSON, what came since the turn before.

    A turn that `opens` begins the history anew: what is before it was summed up.
    """

    run: str
    turn: int
    messages: str
    opens: bool = False
    model: str = ""
    request: str = ""
    micro_usd: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    seconds: float = 0.0
    at: float = 0.0


class Remark(BaseModel):
    """What a person said to a run; `turn` is the one that was told of it."""

    number: int
    text: str
    by: str
    at: float
    turn: int | None


class TurnTable:
    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, turn: TurnRow, steps: Sequence[Mapping[str, Any]] = (), heard: int = 0) -> None:
        """Store a turn with the steps it asks for, and that it was told all remarks up to number `heard`."""
        row = {**turn.model_dump(), "opens": int(turn.opens), "at": self._store.now()}
        with self._store.transaction():
            self._store.insert("turns", row)
            if heard:
                self._store.change(
                    "UPDATE said SET turn = ? WHERE run = ? AND number <= ? AND turn IS NULL",
                    [turn.turn, turn.run, heard],
                )
            for step in steps:
                self._store.insert("steps", {"run": turn.run, "turn": turn.turn, **step})

    def list(self, run_id: str) -> list[TurnRow]:
        """All of them, in order."""
        rows = self._store.rows("SELECT * FROM turns WHERE run = ? ORDER BY turn", [run_id])
        return [TurnRow(**row) for row in rows]

    def totals(self, run_id: str) -> dict[str, int]:
        """How many turns there were, and what they took in tokens and micro-USD."""
        row = self._store.row(
            "SELECT count(*) AS turns, coalesce(sum(micro_usd), 0) AS micro_usd,"
            " coalesce(sum(input_tokens), 0) AS input_tokens,"
            " coalesce(sum(output_tokens), 0) AS output_tokens FROM turns WHERE run = ?",
            [run_id],
        )
        assert row is not None
        return dict(row)

    def say(self, run_id: str, text: str, by: str) -> None:
        """Keep a remark for the next turn."""
        with self._store.transaction():
            row: Row | None = self._store.row(
                "SELECT coalesce(max(number), 0) AS last FROM said WHERE run = ?", [run_id]
            )
            assert row is not None
            number = row["last"] + 1
            self._store.insert(
                "said", {"run": run_id, "number": number, "text": text, "by": by, "at": self._store.now()}
            )

    def remarks(self, run_id: str) -> list[Remark]:
        rows = self._store.rows("SELECT * FROM said WHERE run = ? ORDER BY number", [run_id])
        return [Remark(**row) for row in rows]
