"""Durable questions: asked once, answered once by compare-and-set, used once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, Field

from agentd.ids import new_id
from agentd.store.database import Row, Store, any_of, loads, stored

__all__ = ["Answer", "Approval", "ApprovalTable"]


class Answer(BaseModel):
    """What one person said, through one surface."""

    approval: str
    person: str
    principal: str
    surface: str
    verdict: Literal["approve", "deny"]
    reason: str
    at: float


class Approval(BaseModel):
    """A question about the exact action behind `digest`; `facts` is what the person is shown.

    It needs the word of `people` persons, and has that of `given`. `bound` holds the digest of each
    part of the action.
    """

    id: str
    job: str
    action: str
    digest: str
    facts: dict[str, Any]
    bound: dict[str, Any] = Field(exclude=True)
    state: Literal["pending", "approved", "denied", "expired", "consumed"]
    requested_by: str
    rule: str
    people: int
    given: int
    requester_may_answer: bool
    client_may_answer: bool = False
    decided_by: str | None
    reason: str
    created_at: float
    expires_at: float
    decided_at: float | None


_GIVEN = "(SELECT count(*) FROM answers WHERE approval = approvals.id AND verdict = 'approve')"
_SELECT = f"SELECT approvals.*, {_GIVEN} AS given FROM approvals"


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
        row = self._store.row(f"{_SELECT} WHERE id = ?", [approval_id])
        return _approval(row) if row else None

    def of_job(self, job_id: str) -> Approval | None:
        row = self._store.row(f"{_SELECT} WHERE job = ? ORDER BY created_at DESC, id DESC LIMIT 1", [job_id])
        return _approval(row) if row else None

    def list(
        self, *, state: str | None = "pending", limit: int = 100, of: Sequence[str] | None = None
    ) -> list[Approval]:
        """Newest first; `of` leaves only what these principals asked for."""
        rows = self._store.rows(
            f"{_SELECT} WHERE (?1 IS NULL OR state = ?1)"
            " AND (?2 IS NULL OR requested_by IN (SELECT value FROM json_each(?2)))"
            " ORDER BY created_at DESC, id DESC LIMIT ?3",
            [state, any_of(of), limit],
        )
        return [_approval(row) for row in rows]

    def principals(self) -> list[str]:
        return [
            row["requested_by"] for row in self._store.rows("SELECT DISTINCT requested_by FROM approvals")
        ]

    def last_like(self, approval: Approval) -> Approval | None:
        """The newest approved action of the same tool before it, of the same kind if there is one."""
        row = self._store.row(
            f"{_SELECT} JOIN jobs ON jobs.id = approvals.job"
            " JOIN jobs AS mine ON mine.id = ?1 AND jobs.tool = mine.tool"
            " WHERE approvals.state IN ('approved', 'consumed') AND approvals.id != ?2"
            " AND approvals.created_at <= ?3"
            " ORDER BY jobs.timing_key = mine.timing_key DESC, approvals.created_at DESC LIMIT 1",
            [approval.job, approval.id, approval.created_at],
        )
        return _approval(row) if row else None

    def answers(self, approval_id: str) -> list[Answer]:
        """Oldest first."""
        rows = self._store.rows("SELECT * FROM answers WHERE approval = ? ORDER BY at, id", [approval_id])
        return [Answer(**row) for row in rows]

    def add_answer(self, answer: Answer) -> bool:
        """Keep what a person said; tells whether they had not said so before."""
        row = {"id": new_id("ans"), **answer.model_dump()}
        marks = ", ".join("?" for _ in row)
        sql = f"INSERT OR IGNORE INTO answers ({', '.join(row)}) VALUES ({marks})"
        return self._store.change(sql, [stored(name, value) for name, value in row.items()]) == 1

    def decide(self, approval_id: str, state: str, by: str, reason: str, *, lifetime_s: float) -> bool:
        """Answer a question that is still open and not expired; tells whether this answer was the one.

        The answer itself is good for `lifetime_s`.
        """
        now = self._store.now()
        return (
            self._store.change(
                "UPDATE approvals SET state = ?, decided_by = ?, reason = ?, decided_at = ?, expires_at = ?"
                " WHERE id = ? AND state = 'pending' AND expires_at > ?",
                [state, by, stored("reason", reason), now, now + lifetime_s, approval_id, now],
            )
            == 1
        )

    def consume(self, approval_id: str, digest: str) -> bool:
        """Use an approval for the action it was given for; tells whether it could still be used."""
        return (
            self._store.change(
                "UPDATE approvals SET state = 'consumed'"
                " WHERE id = ? AND state = 'approved' AND digest = ? AND expires_at > ?",
                [approval_id, digest, self._store.now()],
            )
            == 1
        )

    def void(self, approval_id: str, reason: str) -> bool:
        """Close one that is open or unused, because it has to be asked again; tells whether it was."""
        return (
            self._store.change(
                "UPDATE approvals SET state = 'expired', reason = ?"
                " WHERE id = ? AND state IN ('pending', 'approved')",
                [stored("reason", reason), approval_id],
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
            f"{_SELECT} WHERE digest = ? AND state = 'denied' AND decided_at > ?"
            " ORDER BY decided_at DESC LIMIT 1",
            [digest, since],
        )
        return _approval(row) if row else None

    def any_denied_since(self, since: float) -> bool:
        sql = "SELECT 1 FROM approvals WHERE state = 'denied' AND decided_at > ? LIMIT 1"
        return self._store.value(sql, [since]) is not None


def _approval(row: Row) -> Approval:
    return Approval(**{**row, "facts": loads(row["facts"]), "bound": loads(row["bound"])})
