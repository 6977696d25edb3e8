"""Texts of chat requests, as far as an operator wants them kept, in a file of their own.

They are no part of the daemon's database: its commits, its reserve and its backups are for what must
not be lost, and this may be. What is deleted is overwritten with zeros. Calls may come from any thread.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Generator, Iterable
from pathlib import Path

from agentd.errors import Unavailable
from agentd.sdk import Exchange

__all__ = ["TrafficTable"]

AFTER_TRIM = 0.9  # of the limit, so that not every write has to delete
_SETTINGS = ("auto_vacuum = INCREMENTAL", "secure_delete = ON", "synchronous = NORMAL")
_TABLES = (
    "CREATE TABLE IF NOT EXISTS exchanges (id TEXT PRIMARY KEY, asked TEXT NOT NULL, model TEXT NOT NULL,"
    " at REAL NOT NULL, bytes INTEGER NOT NULL, exchange TEXT NOT NULL) STRICT",
    "CREATE INDEX IF NOT EXISTS exchanges_at ON exchanges (at, bytes)",
)
_OLDEST_TOO_MANY = (
    "DELETE FROM exchanges WHERE at <= (SELECT max(at) FROM"
    " (SELECT at, sum(bytes) OVER (ORDER BY at DESC) AS held FROM exchanges) WHERE held > ?)"
)


class TrafficTable:
    """Of at most `max_bytes` of texts. The file is made by the first one that is kept.

    What goes wrong with the disk raises `Unavailable`; the next call opens the file anew.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path, self._max_bytes = path, max_bytes
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def add(self, exchanges: Iterable[Exchange]) -> None:
        """Keep them, and let go of the oldest where there are too many. They come redacted."""
        rows = [
            (each.id, each.asked, each.model, each.at, len(text.encode()), text)
            for each in exchanges
            if (text := each.model_dump_json())
        ]
        with self._opened() as database:
            database.executemany("INSERT OR REPLACE INTO exchanges VALUES (?, ?, ?, ?, ?, ?)", rows)
            if database.execute("SELECT sum(bytes) FROM exchanges").fetchone()[0] > self._max_bytes:
                database.execute(_OLDEST_TOO_MANY, [int(self._max_bytes * AFTER_TRIM)])

    def forget(self, before: float) -> int:
        """Delete what was answered before then, and give its room back. Returns how many there were."""
        if not self.path.exists():
            return 0
        with self._opened() as database:
            gone = database.execute("DELETE FROM exchanges WHERE at < ?", [before]).rowcount
        with self._opened() as database:
            database.execute("PRAGMA incremental_vacuum").fetchall()
        return gone

    def find(self, request_id: str) -> Exchange | None:
        found = self._exchanges("WHERE id = ?", [request_id])
        return found[0] if found else None

    def list(self, name: str, since: float = 0.0) -> list[Exchange]:
        """What was asked of an alias or model, or answered by it, oldest first."""
        return self._exchanges("WHERE (asked = ? OR model = ?) AND at >= ?", [name, name, since])

    def held(self) -> tuple[int, int]:
        """How many are kept, and their bytes."""
        if not self.path.exists():
            return 0, 0
        with self._opened() as database:
            return database.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM exchanges").fetchone()

    def close(self) -> None:
        with self._lock:
            self._let_go()

    def _exchanges(self, where: str, given: list[str | float]) -> list[Exchange]:
        if not self.path.exists():
            return []
        with self._opened() as database:
            rows = database.execute(f"SELECT exchange FROM exchanges {where} ORDER BY at, id", given)
            return [Exchange.model_validate_json(text) for (text,) in rows]

    @contextlib.contextmanager
    def _opened(self) -> Generator[sqlite3.Connection]:
        """The file in a transaction, by one thread at a time."""
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                with self._connection:
                    yield self._connection
            except (sqlite3.Error, OSError) as error:
                self._let_go()
                raise Unavailable(
                    f"The kept traffic in {str(self.path)!r} could not be used: {error}",
                    hint="Check the disk and its permissions",
                ) from error

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(self.path, timeout=5.0, check_same_thread=False)
        try:
            for setting in _SETTINGS:
                connection.execute(f"PRAGMA {setting}").fetchall()
            for table in _TABLES:
                connection.execute(table)
        except BaseException:
            connection.close()
            raise
        return connection

    def _let_go(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None
