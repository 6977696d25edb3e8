"""What happened and who decided it: append-only, each entry hashed over the one before.

An entry that was edited, removed from the middle or reordered breaks the chain, which `verify`
finds. Entries cut off the end can only be found against a head (sequence number and hash) that
was exported earlier.
"""

from __future__ import annotations

import hashlib
from typing import Any

from pydantic import BaseModel

from agentd.errors import AgentdError
from agentd.redaction import redact
from agentd.store.database import Row, Store, dumps, loads

__all__ = ["Entry", "Journal", "Verdict"]

GENESIS = "0" * 64


class Entry(BaseModel):
    """One thing that happened to `subject`, decided or done by `principal`."""

    seq: int
    at: float
    kind: str
    subject: str
    principal: str
    data: dict[str, Any]
    hash: str


class Verdict(BaseModel):
    """What `Journal.verify` found; `head` is the hash to keep elsewhere."""

    ok: bool
    entries: int
    head: str
    problem: str = ""


class Journal:
    def __init__(self, store: Store) -> None:
        self._store = store

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
            self._store.insert("journal", row | {"hash": _hash(row)})

    def tail(self, n: int = 50, *, subject: str | None = None) -> list[Entry]:
        """The newest `n` entries, oldest first."""
        where, parameters = ("WHERE subject = ?", [subject]) if subject else ("", [])
        rows = self._store.rows(f"SELECT * FROM journal {where} ORDER BY seq DESC LIMIT ?", [*parameters, n])
        return [_entry(row) for row in reversed(rows)]

    def verify(self, head: tuple[int, str] | None = None) -> Verdict:
        """Walk the whole chain; with `head`, also check that it still contains that entry."""
        previous, expected, problem = GENESIS, 1, ""
        for row in self._store.rows("SELECT * FROM journal ORDER BY seq"):
            if row["seq"] != expected:
                problem = f"entry {expected} is missing"
            elif row["previous"] != previous:
                problem = f"entry {row['seq']} does not follow the one before it"
            elif row["hash"] != _hash(row):
                problem = f"entry {row['seq']} was changed"
            elif head and row["seq"] == head[0] and row["hash"] != head[1]:
                problem = f"entry {head[0]} is not the one that was exported"
            if problem:
                break
            previous, expected = row["hash"], expected + 1
        if not problem and head and expected <= head[0]:
            problem = f"entries {expected} to {head[0]} were cut off the end"
        return Verdict(ok=not problem, entries=expected - 1, head=previous, problem=problem)


def _hash(row: Row) -> str:
    parts = [row[name] for name in ("seq", "at", "kind", "subject", "principal", "data", "previous")]
    return hashlib.sha256(dumps(parts).encode()).hexdigest()


def _entry(row: Row) -> Entry:
    try:
        return Entry(**{**row, "data": loads(row["data"])})
    except ValueError as error:
        raise AgentdError(
            f"Journal entry {row['seq']} cannot be read", hint="Run 'agentd journal verify'"
        ) from error
