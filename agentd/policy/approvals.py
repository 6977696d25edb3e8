"""Questions to people, and who may answer them.

An approval is bound to the digest of one exact action. What policy grants by itself is written
down in the same way, decided by ``policy:<rule>``, so that every launch has an answer behind it.
An agent never approves, whatever role its token has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from agentd.errors import Conflict, Denied, InputError, NotFound, Unauthorized
from agentd.policy.callers import Caller
from agentd.policy.rules import Decision
from agentd.store import Store
from agentd.store.approvals import Approval, ApprovalTable
from agentd.store.journal import Journal

__all__ = ["Approvals"]

DENIAL_STICKS_S = 24 * 3600.0


class Approvals:
    """Asks, records answers, and tells `on_decided` about each."""

    def __init__(self, store: Store, table: ApprovalTable, journal: Journal, *, lifetime_s: float) -> None:
        self._store, self._table, self._journal = store, table, journal
        self._lifetime_s = lifetime_s
        self.on_decided: Callable[[Approval], None] = lambda _: None

    def list(self, *, state: str | None = "pending") -> list[Approval]:
        """Newest first."""
        return self._table.list(state=state)

    def get(self, approval_id: str) -> Approval:
        """By its own id or by that of its job. Raises `NotFound`."""
        approval = self._table.find(approval_id) or self._table.of_job(approval_id)
        if approval is None:
            raise NotFound("approval", approval_id, [a.id for a in self.list()])
        return approval

    def of_job(self, job_id: str) -> Approval | None:
        return self._table.of_job(job_id)

    def refuse_if_denied(self, digest: str) -> None:
        """Raises `Denied` when a person denied exactly this within a day: asking again is no way round."""
        denied = self._table.denied_since(digest, self._store.now() - DENIAL_STICKS_S)
        if denied is not None:
            raise Denied(
                f"{denied.decided_by} denied exactly this in {denied.id}"
                + (f": {denied.reason}" if denied.reason else ""),
                hint="Change what was wrong with it, or ask that person",
            )

    def record(
        self, decision: Decision, *, job: str, action: str, digest: str, facts: dict[str, Any], by: str
    ) -> Approval:
        """Write down what policy said: a question when it asks, an answered one when it allows."""
        asks = decision.effect == "ask"
        with self._store.transaction():
            approval = self._table.add(
                job=job,
                action=action,
                digest=digest,
                facts=facts,
                requested_by=by,
                rule=decision.rule,
                state="pending" if asks else "approved",
                reason=decision.why,
                decided_by=None if asks else f"policy:{decision.rule}",
                decided_at=None if asks else self._store.now(),
                lifetime_s=self._lifetime_s,
            )
            self._journal.append(
                "approval.asked" if asks else "approval.granted",
                approval.id,
                by if asks else f"policy:{decision.rule}",
                job=job,
                action=action,
                digest=digest,
                rule=decision.rule,
            )
        return approval

    async def decide(
        self, approval_id: str, verdict: Literal["approve", "deny"], by: Caller, reason: str = ""
    ) -> Approval:
        """A person's answer. Raises `Unauthorized` for an agent, `Conflict` when it came too late."""
        approval = self.get(approval_id)
        if by.is_agent or not by.may("approve"):
            self._journal.append(
                "approval.refused", approval.id, by.principal, surface=by.surface, verdict=verdict
            )
            raise Unauthorized(
                f"{by.principal!r} through {by.surface!r} may not answer {approval.id}",
                hint=f"A person answers: agentd approve {approval.id}",
            )
        if verdict not in ("approve", "deny"):
            raise InputError(f"The verdict is 'approve' or 'deny', not {verdict!r}")
        state = "approved" if verdict == "approve" else "denied"
        with self._store.transaction():
            if not self._table.decide(approval.id, state, by.principal, reason):
                now = self.get(approval.id)
                who = f" by {now.decided_by}" if now.decided_by else ""
                raise Conflict(
                    f"{approval.id} is already {now.state if now.state != 'pending' else 'expired'}{who}"
                )
            self._journal.append(
                f"approval.{state}",
                approval.id,
                by.principal,
                surface=by.surface,
                job=approval.job,
                digest=approval.digest,
                reason=reason,
            )
        answered = self.get(approval.id)
        self.on_decided(answered)
        return answered

    def consume(self, job_id: str, digest: str) -> None:
        """Use the job's approval, within the transaction that launches it. Raises `Conflict` otherwise."""
        approval = self._table.of_job(job_id)
        if approval is None or not self._table.consume(approval.id, digest):
            raise Conflict(
                f"There is no unused approval for {job_id} as it would run now",
                hint="What would run has changed since it was approved: start it again",
            )

    def expire(self) -> None:
        """Close the questions that nobody answered in time."""
        for approval in self._table.expire():
            self._journal.append("approval.expired", approval.id, "daemon", job=approval.job)
            self.on_decided(self.get(approval.id))
