"""What happened and who decided it: append-only, each entry hashed over the one before.

The database refuses to change or remove an entry. Whoever writes to its file past that breaks the
chain: an entry that was edited, removed from the middle or reordered is found by `verify`. Entries
cut off the end, and a chain that was written anew, are found against a head (sequence number and
hash) that was kept: the daemon notes one beside the database now and then, and one that was
exported elsewhere is out of reach of whoever can write to both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from agentd.errors import AgentdError, DataError, Unavailable
from agentd.redaction import redact
from agentd.signals import Changes
from agentd.store.database import Row, Store, any_of, dumps, loads, reading

__all__ = ["NOTED", "Entry", "Head", "Journal", "Verdict", "head_of", "missing_head", "noted_head", "verify"]

GENESIS = "0" * 64
NOTED = "journal.head"
FIELDS = ("seq", "at", "kind", "subject", "principal", "data", "previous", "hash")


class Entry(BaseModel):
    """One thing that happened to `subject`, decided or done by `principal`."""

    seq: int
    at: float
    kind: str
    subject: str
    principal: str
    data: dict[str, Any]
    hash: str


class Head(BaseModel):
    """An entry, which stands for all before it; seen at a time (seconds since the epoch), on a machine."""

    seq: int
    hash: str
    at: float = 0.0
    host: str = ""

    def __str__(self) -> str:
        return f"{self.seq}:{self.hash}"

    @classmethod
    def read(cls, text: str) -> Head:
        """From ``SEQ:HASH``, or from the JSON of an exported one. Raises `ValueError`."""
        seq, _, digest = text.strip().partition(":")
        if seq.isascii() and seq.isdecimal():
            return cls(seq=int(seq), hash=digest)
        return cls.model_validate_json(text)


class Verdict(BaseModel):
    """What `verify` found; `head` is the hash to keep elsewhere, `against` says what it was compared with."""

    ok: bool
    entries: int
    head: str
    problem: str = ""
    against: list[str] = []


class Journal:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._noted = store.path.with_name(NOTED)
        self.appended = Changes()
        """Whoever tells of entries waits for it. Its transaction has ended once the loop is free again."""

    def append(self, kind: str, subject: str, principal: str, **data: Any) -> None:
        """Record it, in the transaction of the change it records, without secrets."""
        with self._store.transaction():
            last = self._store.row("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1")
            row: Row = {
                "seq": last["seq"] + 1 if last else 1,
                "at": self._store.now(),
                "kind": kind,
                "subject": redact(subject),
                "principal": redact(principal),
                "data": dumps(redact(data)),
                "previous": last["hash"] if last else GENESIS,
            }
            self._store.insert("journal", row | {"hash": _hash(list(row.values()))})
        self.appended.announce()

    def tail(
        self,
        n: int = 50,
        *,
        subject: str | None = None,
        kind: str | None = None,
        since: float | None = None,
        of: Sequence[str] | None = None,
    ) -> list[Entry]:
        """The newest `n` entries, oldest first; `kind` may be a pattern (``job.*``), `of` are principals."""
        filters = {
            "subject = ?": subject,
            "kind GLOB ?": kind,
            "at >= ?": since,
            "principal IN (SELECT value FROM json_each(?))": any_of(of),
        }
        given = {clause: value for clause, value in filters.items() if value is not None}
        where = f"WHERE {' AND '.join(given)}" if given else ""
        rows = self._store.rows(
            f"SELECT * FROM journal {where} ORDER BY seq DESC LIMIT ?", [*given.values(), n]
        )
        return [_entry(row) for row in reversed(rows)]

    def principals(self) -> list[str]:
        return [row["principal"] for row in self._store.rows("SELECT DISTINCT principal FROM journal")]

    def newest(self) -> int:
        """The number of the last entry, 0 before there is one."""
        return self._store.value("SELECT coalesce(max(seq), 0) FROM journal")

    def after(self, seq: int, kinds: Sequence[str], *, until: int | None = None, limit: int) -> list[Entry]:
        """The first `limit` entries of these kinds after entry `seq`, not after entry `until`."""
        marks = ", ".join("?" for _ in kinds)
        rows = self._store.rows(
            f"SELECT * FROM journal WHERE seq > ? AND seq <= ? AND kind IN ({marks}) ORDER BY seq LIMIT ?",
            [seq, self.newest() if until is None else until, *kinds, limit],
        )
        return [_entry(row) for row in rows]

    def repeats(self, entry: Entry, *, within_s: float, since: int) -> bool:
        """Whether one of its kind about the same subject came so shortly before, after entry `since`."""
        return bool(
            self._store.value(
                "SELECT 1 FROM journal WHERE subject = ? AND kind = ? AND seq < ? AND seq > ? AND at >= ?",
                [entry.subject, entry.kind, entry.seq, since, entry.at - within_s],
            )
        )

    def verify(self, head: tuple[int, str] | None = None) -> Verdict:
        """See `verify`; from any thread."""
        heads = {"exported": Head(seq=head[0], hash=head[1])} if head else {}
        return verify(self._store.path, heads)

    def note(self) -> None:
        """Write the head beside the database. Raises `OSError`."""
        row = self._store.row("SELECT seq, hash FROM journal ORDER BY seq DESC LIMIT 1")
        if row is None:
            return
        head = Head(**row, at=self._store.now(), host=os.uname().nodename)
        waiting = self._noted.with_suffix(".part")
        with waiting.open("w", encoding="utf-8") as file:
            file.write(head.model_dump_json())
            file.flush()
            os.fsync(file.fileno())
        waiting.replace(self._noted)

    def missing(self) -> Head | None:
        """See `missing_head`."""
        return missing_head(self._store.path)

    def keep_aside(self, head: Head) -> None:
        """Leave a noted head that is missing where the next one does not write over it."""
        self._noted.replace(self._noted.with_name(f"{NOTED}.missing-{head.seq}"))


def head_of(database: Path) -> Head:
    """The last entry of the journal in `database`. Raises `Unavailable`."""
    with _read(database) as connection:
        row = connection.execute("SELECT seq, hash, at FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    seq, digest, at = row or (0, GENESIS, 0.0)
    return Head(seq=seq, hash=digest, at=at, host=os.uname().nodename)


def noted_head(database: Path) -> Head | None:
    """The head that the daemon noted beside `database`; None if there is none. Raises `DataError`."""
    path = database.with_name(NOTED)
    try:
        return Head.read(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(
            path, f"holds no head of a journal: {error}", hint="Keep a copy of it, and remove it"
        ) from error


def missing_head(database: Path) -> Head | None:
    """The head that was noted, if the journal does not hold it any more: a look that takes no time."""
    head = noted_head(database)
    if head is None:
        return None
    with _read(database) as connection:
        found = connection.execute("SELECT hash FROM journal WHERE seq = ?", [head.seq]).fetchone()
    return None if found and found[0] == head.hash else head


def verify(database: Path, heads: dict[str, Head] | None = None) -> Verdict:
    """Walk the chain in `database`, with or without a daemon on it, and look for `heads` in it.

    `heads` are named by where they come from; the one noted beside the database is looked for too.
    Reads row by row: a million entries take seconds and no memory. Raises `Unavailable`.
    """
    known = dict(heads or {})
    if noted := noted_head(database):
        known[f"noted in {NOTED}"] = noted
    with _read(database) as connection:
        return _walk(connection, known)


def _walk(connection: sqlite3.Connection, heads: dict[str, Head]) -> Verdict:
    wanted: dict[int, dict[str, str]] = {}
    for source, head in heads.items():
        wanted.setdefault(head.seq, {})[source] = head.hash
    previous, expected, problem = GENESIS, 1, ""
    try:
        for row in connection.execute(f"SELECT {', '.join(FIELDS)} FROM journal ORDER BY seq"):
            problem = _problem(row, expected, previous, wanted)
            if problem:
                break
            previous, expected = row[7], expected + 1
    except sqlite3.DatabaseError as error:
        problem = f"what follows entry {expected - 1} cannot be read: {error}"
    for source, head in heads.items():
        if not problem and head.seq >= expected:
            problem = f"entries {expected} to {head.seq} were cut off the end ({head.seq} was {source})"
    return Verdict(
        ok=not problem, entries=expected - 1, head=previous, problem=problem, against=sorted(heads)
    )


def _problem(row: Sequence[Any], expected: int, previous: str, heads: dict[int, dict[str, str]]) -> str:
    seq, digest = row[0], row[7]
    if seq != expected:
        return f"entry {expected} is missing"
    if row[6] != previous:
        return f"entry {seq} does not follow the one before it"
    if digest != _hash(row[:7]):
        return f"entry {seq} was changed"
    other = [source for source, kept in heads.get(seq, {}).items() if kept != digest]
    return f"entry {seq} is not the one that was {other[0]}" if other else ""


_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, default=str).encode


def _hash(values: Sequence[Any]) -> str:
    """Over all fields but the hash itself, in the order of `FIELDS`."""
    return hashlib.sha256(_encode(list(values)).encode()).hexdigest()


@contextlib.contextmanager
def _read(database: Path) -> Generator[sqlite3.Connection]:
    if not database.is_file():
        raise Unavailable(
            f"There is no journal at {str(database)!r}",
            hint="Name a state directory, its agentd.db or a backup, or set AGENTD_STATE",
        )
    with reading(database) as connection:
        try:
            connection.execute("SELECT seq FROM journal LIMIT 0")
            yield connection
        except sqlite3.DatabaseError as error:
            raise Unavailable(
                f"The journal in {str(database)!r} cannot be read: {error}", hint="Restore a backup"
            ) from error


def _entry(row: Row) -> Entry:
    try:
        return Entry(**{**row, "data": loads(row["data"])})
    except (ValueError, ValidationError) as error:
        raise AgentdError(
            f"Journal entry {row['seq']} cannot be read", hint="Run 'agentd journal verify'"
        ) from error
