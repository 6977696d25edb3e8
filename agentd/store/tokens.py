"""Credentials: only their SHA-256 is stored. A token is 256 random bits, so a slow hash adds nothing."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, Field

from agentd.ids import new_id
from agentd.store.database import Row, Store, loads

__all__ = ["Role", "TokenRow", "TokenTable"]

MOST_KNOWN = 10_000

Role = Literal["infer", "view", "operate", "approve", "admin"]


class TokenRow(BaseModel):
    """A token as it is stored. `is_person` says that who holds it is one, and no program.

    `used_at` is when it was last used, to about a minute.
    """

    id: str
    hash: str = Field(exclude=True, repr=False)
    principal: str
    is_person: bool
    role: Role
    note: str
    created_at: float
    expires_at: float | None
    project: str
    charged: str
    allowance: int | None
    created_by: str
    used_at: float | None
    models: tuple[str, ...] = ()
    per_minute: int | None = None


class TokenTable:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, TokenRow] = {}

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
        is_person: bool = False,
        created_by: str = "daemon",
        models: Sequence[str] = (),
        per_minute: int | None = None,
    ) -> str:
        """Make a token for `principal`; the text is returned once and never stored.

        It works for `project` alone if one is named; what it spends is `charged` to another principal, up
        to `allowance` in micro-USD. `models` and `per_minute` limit what it may ask of the gateway.
        """
        token = f"agentd_{secrets.token_urlsafe(32)}"
        now = self._store.now()
        row = TokenRow(
            id=new_id("tok"),
            hash=_hash(token),
            principal=principal,
            is_person=is_person,
            role=role,
            note=note,
            created_at=now,
            expires_at=None if lifetime_s is None else now + lifetime_s,
            project=project,
            charged=charged,
            allowance=allowance,
            created_by=created_by,
            used_at=None,
            models=tuple(models),
            per_minute=per_minute,
        )
        self._store.insert("tokens", {**row.model_dump(), "hash": row.hash})
        return token

    def find(self, token: str) -> TokenRow | None:
        """The row of a token that is known and has not expired.

        What was found is remembered: only this table's own methods make a token worthless.
        """
        hash_ = _hash(token)
        if (found := self._known.get(hash_)) is None:
            row = self._store.row("SELECT * FROM tokens WHERE hash = ?", [hash_])
            if row is None:
                return None
            if len(self._known) >= MOST_KNOWN:
                self._known.clear()
            found = self._known[hash_] = _row(row)
        return None if found.expires_at is not None and found.expires_at <= self._store.now() else found

    def get(self, token_id: str) -> TokenRow | None:
        row = self._store.row("SELECT * FROM tokens WHERE id = ?", [token_id])
        return _row(row) if row else None

    def list(self) -> list[TokenRow]:
        """Newest first, expired ones too; without those of jobs, which come and go with them."""
        rows = self._store.rows(
            "SELECT * FROM tokens WHERE principal NOT LIKE 'job:%' ORDER BY created_at DESC, rowid DESC"
        )
        return [_row(row) for row in rows]

    def note_uses(self, uses: Mapping[str, float]) -> None:
        """Keep when tokens were last used, by their ids."""
        with self._store.transaction():
            for token_id, at in uses.items():
                self._store.update("tokens", token_id, used_at=at)

    def remove(self, token_id: str) -> bool:
        """Make one worthless, from its next use on."""
        self._known.clear()
        return bool(self._store.change("DELETE FROM tokens WHERE id = ?", [token_id]))

    def revoke(self, *, note: str) -> int:
        self._known.clear()
        return self._store.change("DELETE FROM tokens WHERE note = ?", [note])


def _row(row: Row) -> TokenRow:
    return TokenRow(**{**row, "models": loads(row["models"])})


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
