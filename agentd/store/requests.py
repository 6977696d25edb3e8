"""Answered chat requests: which model, why, and what it cost."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from agentd.store.database import Store

__all__ = ["RequestRow", "RequestTable"]


class RequestRow(BaseModel):
    """`asked` is the name the caller used, `model` the one that answered, `status` "ok" or the error."""

    id: str
    asked: str
    model: str
    why: str
    principal: str
    status: str
    input_tokens: int
    output_tokens: int
    micro_usd: int
    seconds: float
    at: float


class RequestTable:
    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, **columns: Any) -> None:
        self._store.insert("requests", {"at": self._store.now(), **columns})

    def find(self, request_id: str) -> RequestRow | None:
        row = self._store.row("SELECT * FROM requests WHERE id = ?", [request_id])
        return RequestRow(**row) if row else None

    def list(self, limit: int = 50) -> list[RequestRow]:
        rows = self._store.rows("SELECT * FROM requests ORDER BY at DESC LIMIT ?", [limit])
        return [RequestRow(**row) for row in rows]
