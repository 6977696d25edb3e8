"""One SQLite file in WAL mode, and the one way to change it.

``synchronous=FULL``: a commit that was answered is on disk, since money and launches are decided
here. The store is used from the daemon's event loop only; a statement takes well under a
millisecond and a commit one fsync, which is why nothing here is async.

What a failing disk does to a change:

    no room          room is made if there is some to make, and the whole transaction is done again;
                     else `DiskFull`, and nothing was changed
    error on commit  `Unknown`: SQLite may have written all of it before the disk said no
    error before     `Unavailable`, and nothing was changed

After an error of the disk, what SQLite and the kernel remember of the file may not be what lies on
it. The file is then opened anew and its log written back, before anything else is read or written.

This is the only connection that writes, and so the only one that checkpoints: others are opened
with `reading`. SQLite before 3.51.3 can lose commits when two connections do (its "WAL-reset bug").
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agentd.errors import AgentdError, DiskFull, Unavailable, Unknown
from agentd.redaction import redact
from agentd.store.schema import migrate

__all__ = ["Row", "Store", "dumps", "loads", "reading", "stored"]

Row = dict[str, Any]
Statement = tuple[str, Sequence[Any]]

SHOWN = frozenset(
    {"title", "action", "reason", "detail", "result", "facts", "quote", "why", "status", "asked"}
)
"""Columns that people and models are shown, in whatever table: secrets are taken out of them."""

BEGIN, COMMIT = "BEGIN IMMEDIATE", "COMMIT"
OURS = frozenset({0, sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISUSE})
DISK_FAILED = frozenset({sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


def dumps(value: Any) -> str:
    """Compact JSON, keys in the order they came: in a JSON schema it is the order a model writes in."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, default=str)


def any_of(names: Sequence[str] | None) -> str | None:
    """The parameter of ``(? IS NULL OR column IN (SELECT value FROM json_each(?)))``; None is no limit."""
    return None if names is None else json.dumps(list(names))


def loads(text: str | None) -> Any:
    return None if text is None else json.loads(text)


@contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection]:
    """A connection that can only read, beside a daemon or without one. Raises `Unavailable`."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0)
    except sqlite3.Error as error:
        raise Unavailable(f"The database {str(path)!r} could not be opened: {error}") from error
    with contextlib.closing(connection):
        yield connection


class Store:
    """The daemon's database. `path` is created, and brought to the newest schema.

    `spare` makes some room when the disk is full, and tells whether it could.
    """

    def __init__(self, path: Path, *, spare: Callable[[], bool] = lambda: False) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.path, self._spare = path, spare
        self._done: list[Statement] | None = None  # of the open transaction, None outside of one
        self._broken: AgentdError | None = None  # what ended the open transaction from below
        self._sound = True
        self._connection = self._open()

    def close(self) -> None:
        self._connection.close()

    @staticmethod
    def now() -> float:
        """Seconds since the epoch."""
        return time.time()

    @property
    def in_transaction(self) -> bool:
        return self._done is not None

    # --- changing ---------------------------------------------------------------------------

    @contextmanager
    def transaction(self) -> Generator[None]:
        """All or nothing; joins the transaction that is open, if one is. Write locks are taken at once.

        Raises `DiskFull`, `Unknown`, or `Unavailable` with what the disk said.
        """
        if self._done is not None:
            yield
            return
        self._begin()
        self._done = []
        try:
            yield
            self._execute(COMMIT)
        finally:
            self._done = self._broken = None
            self._roll_back()

    def change(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Run one INSERT, UPDATE or DELETE; returns how many rows it touched."""
        with self.transaction():
            return self._execute(sql, parameters)

    def insert(self, table: str, row: Row, *, replace: bool = False) -> None:
        """Insert `row`; dicts, lists and tuples are stored as JSON, what is `SHOWN` without secrets."""
        verb = "INSERT OR REPLACE" if replace else "INSERT"
        values = [stored(name, value) for name, value in row.items()]
        marks = ", ".join("?" for _ in row)
        self.change(f"{verb} INTO {table} ({', '.join(row)}) VALUES ({marks})", values)

    def update(self, table: str, key: str, *, was: str | None = None, **changes: Any) -> int:
        """Set columns of the row whose id is `key`; only while its state is `was`, if that is given."""
        values = [stored(name, value) for name, value in changes.items()]
        columns = ", ".join(f"{name} = ?" for name in changes)
        where, keys = ("id = ?", [key]) if was is None else ("id = ? AND state = ?", [key, was])
        return self.change(f"UPDATE {table} SET {columns} WHERE {where}", [*values, *keys])

    # --- reading ----------------------------------------------------------------------------

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return [dict(row) for row in self._select(sql, parameters)]

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        found = self._select(sql, parameters)
        return dict(found[0]) if found else None

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        found = self._select(sql, parameters)
        return found[0][0] if found else None

    # --- the connection ---------------------------------------------------------------------

    def _open(self) -> sqlite3.Connection:
        while True:
            try:
                return self._opened()
            except sqlite3.Error as error:
                if not _is_full(error) or not self._spare():
                    raise self._said(error) from error

    def _opened(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self.path, isolation_level=None, timeout=5.0, check_same_thread=False)
        try:
            connection.row_factory = sqlite3.Row
            if connection.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
                raise sqlite3.OperationalError("it cannot keep a write-ahead log there")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
            connection.execute("PRAGMA temp_store=MEMORY")
            migrate(connection)
            if not self._sound and connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
                raise sqlite3.OperationalError("it has to be mended, and somebody is reading it")
        except BaseException:
            connection.close()
            raise
        return connection

    def _mend(self) -> None:
        """Open the file anew after an error of the disk. Raises `Unavailable` while that fails.

        The log is written back into the file and synced: a page whose sync had failed counts as clean
        in the kernel's memory, and would never be written again.
        """
        if not self._sound:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
            self._connection = self._open()
            self._sound = True

    def _select(self, sql: str, parameters: Sequence[Any]) -> list[sqlite3.Row]:
        self._mend()
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except sqlite3.DatabaseError as error:
            if _code(error) in OURS:
                raise
            raise self._failed(error) from error

    def _begin(self) -> None:
        self._mend()
        try:
            self._connection.execute(BEGIN)
        except sqlite3.DatabaseError as error:
            raise self._failed(error) from error

    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """Within the open transaction; when there is no room, make some and do all of it again."""
        assert self._done is not None
        if self._broken is not None:
            raise self._broken
        again = False
        while True:
            try:
                if again:
                    self._repeat(self._done)
                touched = self._connection.execute(sql, parameters).rowcount
            except sqlite3.DatabaseError as error:
                if _code(error) in OURS:
                    raise
                if not _is_full(error) or not self._spare():
                    raise self._failed(error, committing=sql == COMMIT) from error
                again = True
            else:
                self._done.append((sql, parameters))
                return touched

    def _repeat(self, statements: Sequence[Statement]) -> None:
        """What SQLite gave up as a whole. Nobody else writes, so it comes out the same.

        The log is written back first, so that it begins anew instead of taking more of what is spare.
        """
        self._roll_back()
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        self._connection.execute(BEGIN)
        for sql, parameters in statements:
            self._connection.execute(sql, parameters)

    def _roll_back(self) -> None:
        try:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        except sqlite3.Error:  # opening it anew rolls back as well
            self._sound = False

    def _failed(self, error: sqlite3.Error, *, committing: bool = False) -> AgentdError:
        """`error` as ours; what it ended, or may have ended, is not gone on with."""
        said = self._said(error, committing=committing)
        if self._done is not None:
            self._broken = said
        if _is_disk(error):
            self._sound = False
            with contextlib.suppress(AgentdError):  # or else the next one to ask is told
                self._mend()
        return said

    def _said(self, error: sqlite3.Error, *, committing: bool = False) -> AgentdError:
        database = f"The database {str(self.path)!r}"
        if _is_full(error):
            return DiskFull(
                f"{database} could not be written, since the disk is full; nothing was changed",
                hint="Free some space on the disk of that folder, then call again",
            )
        if committing and _is_disk(error):
            return Unknown(
                f"{database} failed while a change was stored ({error}): it may be there, or not",
                hint="Look before you do it again; a call with the same key is the same call",
            )
        return Unavailable(
            f"{database} could not be used: {error}; nothing was changed",
            hint="Check the disk and its permissions, then run 'agentd doctor'",
        )


def stored(column: str, value: Any) -> Any:
    """A value as it lies in that column."""
    if column in SHOWN:
        value = redact(value)
    return dumps(value) if isinstance(value, (dict, list, tuple)) else value


def _is_full(error: sqlite3.Error) -> bool:
    return _code(error) == sqlite3.SQLITE_FULL


def _is_disk(error: sqlite3.Error) -> bool:
    """Whether the disk failed, or what lies on it is damaged."""
    return _code(error) in DISK_FAILED


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF
