"""How far each notifier has told the journal, and how it is doing."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from agentd.store.database import Store, reading

__all__ = ["NotifierRow", "NotifierTable", "notifiers_in"]


class NotifierRow(BaseModel):
    """Entries up to `told` were told, or are nothing to tell; those up to `claimed` are on their way.

    What came before entry `since` is none of its business: it was not there yet.
    `failures` in a row since `failing_since`, of which the last said `problem`; 0 when it works.
    """

    name: str
    since: int
    told: int
    claimed: int | None
    delivered: int
    delivered_at: float | None
    failures: int
    failing_since: float | None
    problem: str


class NotifierTable:
    def __init__(self, store: Store) -> None:
        self._store = store

    def keep(self, names: Sequence[str], head: int) -> None:
        """Have a row for each of `names`, a new one from entry `head` on, and none for anybody else."""
        marks = ", ".join("?" for _ in names)
        with self._store.transaction():
            self._store.change(f"DELETE FROM notifiers WHERE name NOT IN ({marks})", names)
            for name in names:
                self._store.change(
                    "INSERT INTO notifiers (name, since, told) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    [name, head, head],
                )

    def get(self, name: str) -> NotifierRow:
        row = self._store.row("SELECT * FROM notifiers WHERE name = ?", [name])
        assert row is not None, f"{name} was not kept"
        return NotifierRow(**row)

    def claim(self, name: str, seq: int) -> None:
        """Fix what the next message is made of, before it is sent for the first time."""
        self._change(name, "claimed = ?", seq)

    def skip(self, name: str, seq: int) -> None:
        """There was nothing to tell up to here."""
        self._change(name, "told = ?, claimed = NULL", seq)

    def delivered(self, name: str, seq: int) -> None:
        self._change(
            name,
            "told = ?, claimed = NULL, delivered = delivered + 1, delivered_at = ?, failures = 0,"
            " failing_since = NULL, problem = ''",
            seq, self._store.now(),
        )  # fmt: skip

    def failed(self, name: str, problem: str) -> None:
        self._change(
            name,
            "failures = failures + 1, failing_since = coalesce(failing_since, ?), problem = ?",
            self._store.now(), problem,
        )  # fmt: skip

    def _change(self, name: str, changes: str, *values: object) -> None:
        self._store.change(f"UPDATE notifiers SET {changes} WHERE name = ?", [*values, name])


def notifiers_in(database: Path) -> list[NotifierRow]:
    """What a database says of its notifiers, with or without a daemon on it. Raises `Unavailable`."""
    columns = list(NotifierRow.model_fields)
    with reading(database) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'notifiers'").fetchone():
            return []
        rows = connection.execute(f"SELECT {', '.join(columns)} FROM notifiers ORDER BY name").fetchall()
    return [NotifierRow(**dict(zip(columns, row, strict=True))) for row in rows]
