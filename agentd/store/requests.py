"""Answered chat requests: which model, why, and what it cost.

Rows are written behind the answers, many in one commit: `add` only remembers. A crash loses the rows
of the last moment and nothing else; what the requests cost stands in the ledger.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel
from pydantic_core import to_json

from agentd.redaction import redact
from agentd.store.database import Row, Store, any_of, loads
from agentd.store.ledger import DEFAULT_PROJECT

__all__ = ["RequestRow", "RequestTable"]

log = logging.getLogger(__name__)

MOST_PENDING = 20_000


class RequestRow(BaseModel):
    """`asked` is the name the caller used, `model` the one that answered, `status` "ok" or the error.

    `trace` says how it came about: task, attempts in their order, models passed over and why.
    """

    id: str
    asked: str
    model: str
    why: str
    principal: str
    project: str = DEFAULT_PROJECT
    status: str
    input_tokens: int
    output_tokens: int
    micro_usd: int
    seconds: float
    at: float
    trace: dict[str, Any] = {}


_COLUMNS = tuple(RequestRow.model_fields)
_VALUES = ", ".join(f"value ->> '{name}'" for name in _COLUMNS)
INSERT = f"INSERT OR REPLACE INTO requests ({', '.join(_COLUMNS)}) SELECT {_VALUES} FROM json_each(?)"
"""All rows in one statement."""


class RequestTable:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._pending: dict[str, RequestRow] = {}

    @property
    def pending(self) -> bool:
        return bool(self._pending)

    def add(self, row: RequestRow) -> None:
        """Remember a row until `flush`. When nothing can be written for long, the oldest are forgotten."""
        if len(self._pending) >= MOST_PENDING:
            forgotten = self._pending.pop(next(iter(self._pending)))
            log.warning("the record of %s is forgotten: the store cannot be written", forgotten.id)
        self._pending[row.id] = row

    def flush(self) -> None:
        """Write what was added, in one commit."""
        if not self._pending:
            return
        rows = list(self._pending.values())
        self._store.change(INSERT, [to_json([_stored(row) for row in rows]).decode()])
        for row in rows:
            self._pending.pop(row.id, None)

    def find(self, request_id: str) -> RequestRow | None:
        if found := self._pending.get(request_id):
            return found
        row = self._store.row("SELECT * FROM requests WHERE id = ?", [request_id])
        return _row(row) if row else None

    def list(self, limit: int = 50, *, of: Sequence[str] | None = None) -> list[RequestRow]:
        """Newest first; `of` leaves only those of these principals, and of their jobs."""
        self.flush()
        rows = self._store.rows(
            "SELECT * FROM requests WHERE ?1 IS NULL OR principal IN (SELECT value FROM json_each(?1))"
            " OR principal IN (SELECT 'job:' || id FROM jobs WHERE principal IN"
            " (SELECT value FROM json_each(?1)))"
            " ORDER BY at DESC LIMIT ?2",
            [any_of(of), limit],
        )
        return [_row(row) for row in rows]

    def principals(self) -> list[str]:
        """Who asked, and who has jobs that may have."""
        self.flush()
        sql = "SELECT principal FROM requests UNION SELECT principal FROM jobs"
        return [row["principal"] for row in self._store.rows(sql)]


def _stored(row: RequestRow) -> Row:
    """As it lies in the table: without secrets. The same few texts come again and again."""
    return {
        **row.__dict__,
        **{name: _clean(getattr(row, name)) for name in ("asked", "why", "status", "trace")},
    }


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return _without_secrets(value)
    if isinstance(value, dict):
        return {name: _clean(each) for name, each in value.items()}
    return [_clean(each) for each in value] if isinstance(value, list) else value


@functools.lru_cache(maxsize=4096)
def _without_secrets(text: str) -> str:
    return redact(text)


def _row(row: Row) -> RequestRow:
    return RequestRow(**{**row, "trace": loads(row["trace"])})
