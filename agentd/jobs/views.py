"""A job as everybody sees it: pure functions of what is stored and what is known of it while it lives."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agentd.jobs.attempts import Attempt, Exit
from agentd.sdk import JobView, ServiceView
from agentd.store.approvals import Approval
from agentd.store.jobs import JobRow
from agentd.store.ledger import usd

__all__ = ["failure", "job_view"]


def job_view(
    row: JobRow, approval: Approval | None, progress: Mapping[str, Any], seen: ServiceView | None
) -> JobView:
    """`seen` is the service behind the job, None when there is none or it has ended."""
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
        reason=row.reason,
        quote=row.quote,
        progress={} if row.ended else dict(progress),
        result=row.result,
        approval=approval.id if approval else None,
        decided_by=approval.decided_by if approval else None,
        digest=row.digest,
        micro_usd=row.micro_usd,
        created_at=row.created_at,
        started_at=row.started_at,
        ended_at=row.ended_at,
        service=service,
        next=_next(row, approval, service),
    )


def _next(row: JobRow, approval: Approval | None, service: Mapping[str, Any] | None) -> str:
    """What to do next, in one line."""
    if row.state == "waiting_approval" and approval is not None:
        most = approval.facts.get("max_micro_usd")
        cost = f" (at most {usd(most)})" if isinstance(most, int) and most else ""
        return f"A person has to approve it{cost}: agentd approve {approval.id}. Then wait with job_wait."
    if service is not None and row.state == "running":
        return "It is ready." if service["ready"] else "It is starting: wait for it with job_wait."
    if row.state in ("queued", "preparing", "running"):
        return f"Wait for it with job_wait(job={row.id!r})."
    if row.state in ("failed", "lost", "timed_out"):
        return f"See why with job_logs(job={row.id!r})."
    return ""


def failure(exit: Exit, error: tuple[str, str], attempt: Attempt) -> str:
    """Why an attempt failed, in one sentence: what the recipe said, else how it ended and its last words."""
    message, hint = error
    if message:
        return f"{message}. {hint}" if hint else message
    if exit.reason == "timed_out":
        return f"it ran past its limit of {exit.ended - exit.started:.0f} s and was ended"
    if exit.reason == "out_of_memory":
        return "it ran out of memory and was killed"
    ended = f"was killed by signal {exit.signal}" if exit.signal else f"exited with {exit.code}"
    last = next((line.strip() for line in reversed(attempt.log_tail(20)) if line.strip()), "")
    detail = exit.detail or last
    return f"it {ended}" + (f": {detail[:400]}" if detail else "")
