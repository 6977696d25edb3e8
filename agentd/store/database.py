"""One SQLite file in WAL mode, and the one way to change it.

``synchronous=FULL``: a commit that was answered is on disk, since money and launches are decided
here. The store is used from the daemon's event loop only; a statement takes well under a
millisecond and a commit one fsync, which is why nothing here is async.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlite_utils import Database

from agentd.errors import AgentdError
from agentd.store.schema import migrations

__all__ = ["Row", "Store", "dumps", "loads"]

Row = dict[str, Any]


def dumps(value: Any) -> str:
    """Compact JSON, keys in the order they came: in a JSON schema it is the order a model writes in."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


def loads(text: str | None) -> Any:
    return None if text is None else json.loads(text)


class Store:
    """The daemon's database. `path` is created, and brought to the newest schema."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path = path
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=False)
        self._connection.row_factory = sqlite3.Row
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=FULL")
        self._connection.execute("PRAGMA foreign_keys=ON")
        migrations.apply(Database(self._connection))

    def close(self) -> None:
        self._connection.close()

    @staticmethod
    def now() -> float:
        """Seconds since the epoch."""
        return time.time()

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    @contextmanager
    def transaction(self) -> Generator[None]:
        """All or nothing; joins the transaction that is open, if one is. Write locks are taken at once."""
        if self._connection.in_transaction:
            yield
            return
        self._execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._execute("COMMIT")

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return [dict(row) for row in self._connection.execute(sql, parameters)]

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        found = self._connection.execute(sql, parameters).fetchone()
        return dict(found) if found is not None else None

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        found = self._connection.execute(sql, parameters).fetchone()
        return found[0] if found is not None else None

    def change(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one INSERT, UPDATE or DELETE; returns how many rows it touched."""
        return self._connection.execute(sql, parameters).rowcount

    def insert(self, table: str, row: Row, *, replace: bool = False) -> None:
        """Insert `row`; dicts, lists and tuples are stored as JSON."""
        verb = "INSERT OR REPLACE" if replace else "INSERT"
        values = [dumps(v) if isinstance(v, (dict, list, tuple)) else v for v in row.values()]
        marks = ", ".join("?" for _ in row)
        self._connection.execute(f"{verb} INTO {table} ({', '.join(row)}) VALUES ({marks})", values)

    def update(self, table: str, key: str, **changes: Any) -> int:
        """Set columns of the row whose id is `key`."""
        values = [dumps(v) if isinstance(v, (dict, list, tuple)) else v for v in changes.values()]
        columns = ", ".join(f"{name} = ?" for name in changes)
        return self.change(f"UPDATE {table} SET {columns} WHERE id = ?", [*values, key])

    def _execute(self, statement: str) -> None:
        try:
            self._connection.execute(statement)
        except sqlite3.OperationalError as error:
            # An I/O error on COMMIT does not say whether the commit is on disk: never call it failed.
            unknown = " It is not known whether the last change was stored." if statement == "COMMIT" else ""
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise AgentdError(
                f"The database {str(self.path)!r} could not be written: {error}.{unknown}",
                hint="Check disk space and permissions, then run 'agentd doctor'",
            ) from error
