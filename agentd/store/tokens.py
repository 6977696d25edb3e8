"""Credentials: only their SHA-256 is stored. A token is 256 random bits, so a slow hash adds nothing."""

from __future__ import annotations

import hashlib
import secrets
from typing import Literal

from pydantic import BaseModel

from agentd.store.database import Store

__all__ = ["Role", "TokenRow", "TokenTable"]

Role = Literal["infer", "view", "operate", "approve", "admin"]


class TokenRow(BaseModel):
    hash: str
    principal: str
    role: Role
    note: str
    created_at: float
    expires_at: float | None
    project: str
    charged: str
    allowance: int | None


class TokenTable:
    def __init__(self, store: Store) -> None:
        self._store = store

    def create(
        self,
        principal: str,
        role: Role,
        note: str,
        *,
        lifetime_s: float | None = None,
        project: str = "",
        charged: str = "",
        allowance: int | None = None,
    ) -> str:
        """Make a token for `principal`; the text is returned once and never stored.

        It works for `project` alone if one is named; what it spends is `charged` to another principal, up
        to `allowance` in micro-USD.
        """
        token = f"agentd_{secrets.token_urlsafe(32)}"
        now = self._store.now()
        row = TokenRow(
            hash=_hash(token),
            principal=principal,
            role=role,
            note=note,
            created_at=now,
            expires_at=None if lifetime_s is None else now + lifetime_s,
            project=project,
            charged=charged,
            allowance=allowance,
        )
        self._store.insert("tokens", row.model_dump())
        return token

    def find(self, token: str) -> TokenRow | None:
        """The row of a token that is known and has not expired."""
        row = self._store.row("SELECT * FROM tokens WHERE hash = ?", [_hash(token)])
        if row is None or (row["expires_at"] is not None and row["expires_at"] <= self._store.now()):
            return None
        return TokenRow(**row)

    def revoke(self, *, note: str) -> int:
        return self._store.change("DELETE FROM tokens WHERE note = ?", [note])


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
