"""Durable questions: asked once, answered once by compare-and-set, used once."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from agentd.ids import new_id
from agentd.store.database import Row, Store, loads, stored

__all__ = ["Approval", "ApprovalTable"]


class Approval(BaseModel):
    """A question about the exact action behind `digest`; `facts` is what the person is shown."""

    id: str
    job: str
    action: str
    digest: str
    facts: dict[str, Any]
    state: Literal["pending", "approved", "denied", "expired", "consumed"]
    requested_by: str
    rule: str
    decided_by: str | None
    reason: str
    created_at: float
    expires_at: float
    decided_at: float | None


class ApprovalTable:
    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, *, lifetime_s: float, **columns: Any) -> Approval:
        now = self._store.now()
        row: Row = {"id": new_id("apr"), "created_at": now, "expires_at": now + lifetime_s, **columns}
        self._store.insert("approvals", row)
        found = self.find(row["id"])
        assert found is not None
        return found

    def find(self, approval_id: str) -> Approval | None:
        row = self._store.row("SELECT * FROM approvals WHERE id = ?", [approval_id])
        return _approval(row) if row else None

    def of_job(self, job_id: str) -> Approval | None:
        row = self._store.row(
            "SELECT * FROM approvals WHERE job = ? ORDER BY created_at DESC, id DESC LIMIT 1", [job_id]
        )
        return _approval(row) if row else None

    def list(self, *, state: str | None = "pending", limit: int = 100) -> list[Approval]:
        where, parameters = ("WHERE state = ?", [state]) if state else ("", [])
        rows = self._store.rows(
            f"SELECT * FROM approvals {where} ORDER BY created_at DESC, id DESC LIMIT ?", [*parameters, limit]
        )
        return [_approval(row) for row in rows]

    def decide(self, approval_id: str, state: str, by: str, reason: str) -> bool:
        """Answer a question that is still open and not expired; tells whether this answer was the one."""
        now = self._store.now()
        return (
            self._store.change(
                "UPDATE approvals SET state = ?, decided_by = ?, reason = ?, decided_at = ?"
                " WHERE id = ? AND state = 'pending' AND expires_at > ?",
                [state, by, stored("reason", reason), now, approval_id, now],
            )
            == 1
        )

    def consume(self, approval_id: str, digest: str) -> bool:
        """Use an approval for the action it was given for; tells whether it could still be used."""
        return (
            self._store.change(
                "UPDATE approvals SET state = 'consumed' WHERE id = ? AND state = 'approved' AND digest = ?",
                [approval_id, digest],
            )
            == 1
        )

    def expire(self) -> list[Approval]:
        """Close the questions nobody answered in time; returns them."""
        now = self._store.now()
        late = [a for a in self.list(state="pending", limit=1000) if a.expires_at <= now]
        for approval in late:
            self._store.change(
                "UPDATE approvals SET state = 'expired' WHERE id = ? AND state = 'pending'", [approval.id]
            )
        return late

    def denied_since(self, digest: str, since: float) -> Approval | None:
        row = self._store.row(
            "SELECT * FROM approvals WHERE digest = ? AND state = 'denied' AND decided_at > ?"
            " ORDER BY decided_at DESC LIMIT 1",
            [digest, since],
        )
        return _approval(row) if row else None


def _approval(row: Row) -> Approval:
    return Approval(**{**row, "facts": loads(row["facts"])})
