"""What people and programs said about items: rows of a data set, answers of the gateway."""

from __future__ import annotations

from collections.abc import Sequence

from agentd.sdk import Judgement
from agentd.store.database import Store, loads

__all__ = ["JudgementTable"]


class JudgementTable:
    """Also the `sdk.Judgements` that tools are handed. An author says one thing about an item: the last."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def put(self, judgements: Sequence[Judgement]) -> None:
        with self._store.transaction():
            for judgement in judgements:
                row = judgement.model_dump(mode="json") | {"at": self._store.now()}
                self._store.insert("judgements", row, replace=True)

    def remove(self, subject: str, item: str, author: str) -> bool:
        where = "subject = ? AND item = ? AND author = ?"
        return bool(self._store.change(f"DELETE FROM judgements WHERE {where}", [subject, item, author]))

    def forget(self, subject: str, before: float) -> int:
        """Delete what was said before then; returns how much."""
        return self._store.change("DELETE FROM judgements WHERE subject = ? AND at < ?", [subject, before])

    def list(self, subject: str) -> list[Judgement]:
        rows = self._store.rows("SELECT * FROM judgements WHERE subject = ? ORDER BY at, item", [subject])
        return [Judgement(**{**row, "value": loads(row["value"])}) for row in rows]
