"""A job as everybody sees it: pure functions of what is stored and what is known of it while it lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentd.redaction import redact
from agentd.sdk import JobView, ServiceView
from agentd.store.approvals import Approval
from agentd.store.jobs import AttemptRow, JobRow
from agentd.store.ledger import usd

__all__ = ["job_view"]


def job_view(
    row: JobRow,
    approval: Approval | None,
    way: str,
    attempt: AttemptRow | None,
    progress: Mapping[str, Any],
    seen: ServiceView | None,
) -> JobView:
    """`way` says how the approval is answered, `attempt` is the newest.

    `seen` is the service behind it, None when there is none or it has ended.
    """
    service = None
    if row.is_service:
        service = {
            "url": f"{seen.url}/v1" if seen and seen.url else "",
            "serves": list(row.serves or ()),
            "ready": bool(seen and seen.ready),
        }
    return JobView(
        id=row.id,
        tool=row.tool,
        title=row.title,
        state=row.state,
        cause=row.cause,
        reason=row.reason,
        attempt=attempt.number if attempt else 0,
        attempts=_attempts(row),
        quote=row.quote,
        progress={} if row.ended or (seen and seen.ready) else redact(progress),
        result=row.result,
        approval=approval.id if approval else None,
        decided_by=approval.decided_by if approval else None,
        digest=row.digest,
        micro_usd=row.micro_usd,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        seconds=row.seconds,
        service=service,
        next=_next(row, approval, way, service),
    )


def _attempts(row: JobRow) -> int:
    """As many as were asked for; 1 where the stored launch was changed to say nothing of the kind."""
    asked = (row.launch or {}).get("attempts")
    return asked if isinstance(asked, int) else 1


def _next(row: JobRow, approval: Approval | None, way: str, service: Mapping[str, Any] | None) -> str:
    """What to do next, in one line."""
    if row.state == "waiting_approval" and approval is not None:
        most = approval.facts.get("max_micro_usd")
        cost = f" (at most {usd(most)})" if isinstance(most, int) and most else ""
        who = "A person has" if approval.people == 1 else f"{approval.people} people have"
        given = f" ({approval.given} of {approval.people} have)" if approval.people > 1 else ""
        return f"{who} to approve it{given}{cost}: {way}. Then wait with job_wait."
    if service is not None and row.state == "running":
        return "It is ready." if service["ready"] else "It is starting: wait for it with job_wait."
    if row.state in ("queued", "preparing", "running"):
        return f"Wait for it with job_wait(job={row.id!r})."
    kept = (row.launch or {}).get("resumes") and row.started_at is not None and row.state != "succeeded"
    goes_on = f"What it had done is kept: the same call of {row.tool} goes on where it was." if kept else ""
    if row.state in ("failed", "lost", "timed_out"):
        return f"See why with job_logs(job={row.id!r}). {goes_on}".strip()
    return goes_on
