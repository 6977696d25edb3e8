"""A job in words, for a model or a person who is not shown it as data."""

from __future__ import annotations

from agentd.sdk import JobView
from agentd.server.wire import dump

__all__ = ["headline", "job_text"]


def headline(job: JobView) -> str:
    """A job in a line: ``finetune job-1: running, 12/130 steps, about 210 s left``."""
    progress, parts = job.progress, [f"{job.tool} {job.id}: {job.state}"]
    if "done" in progress and job.state == "running":
        of = f"/{progress['total']}" if progress.get("total") else ""
        parts.append(f"{progress['done']}{of} {progress.get('unit', '')}".strip())
    if isinstance(left := progress.get("seconds_left"), int | float) and not job.ended:
        parts.append(f"about {left:.0f} s left")
    if job.reason:
        parts.append(job.reason)
    return ", ".join(parts)


def job_text(job: JobView) -> str:
    """What a model reads that is not shown structured content: all it needs to go on."""
    lines = [headline(job)]
    if job.approval and not job.ended:
        lines.append(f"approval: {job.approval}")
    if job.service:
        lines.append(f"service: {dump(job.service)}")
    if job.result is not None:
        lines.append(f"result: {dump(job.result)}")
    if job.next:
        lines.append(f"next: {job.next}")
    return "\n".join(lines)
