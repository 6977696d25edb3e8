"""What is running and what became of it: ``jobs``."""

from __future__ import annotations

import click

from agentd.cli import show
from agentd.cli.client import connect
from agentd.cli.follow import fail_unless_done, follow_job

__all__ = ["jobs"]


@click.command()
@click.argument("job_id", required=False, metavar="[JOB]")
@click.option("--live", is_flag=True, help="Only jobs and services that have not ended.")
@click.option("--follow", is_flag=True, help="Watch the job until it has ended.")
@click.option("--logs", is_flag=True, help="Print the last lines it wrote.")
@click.option("--cancel", is_flag=True, help="End it, and every process it started.")
@click.option("--json", "json_", is_flag=True, help="Print as JSON.")
def jobs(job_id: str | None, live: bool, follow: bool, logs: bool, cancel: bool, json_: bool) -> None:
    """List jobs and services, or look at one.

    \b
    Examples: agentd jobs --live
              agentd jobs job-1m8… --follow
              agentd jobs job-1m8… --logs
    """
    client = connect()
    if job_id is None:
        listed = client.get("/api/jobs", state="live" if live else None)
        if json_:
            show.as_json(listed)
            return
        rows = [
            (
                j["id"],
                j["title"],
                show.state_mark(j["state"]),
                show.progress_line(j["progress"]) or j["reason"][:80],
                show.money(j["micro_usd"]),
                show.ago(j["created_at"]),
            )
            for j in listed
        ]
        show.table(["job", "what", "state", "", ">cost", "made"], rows, empty="No jobs yet: agentd call TOOL")
        return
    if cancel:
        client.post(f"/api/jobs/{job_id}/cancel")
    if logs:
        lines = client.get(f"/api/jobs/{job_id}/logs", tail=200)["lines"]
        show.as_json(lines) if json_ else click.echo("\n".join(lines))
        return
    job = follow_job(client, job_id) if follow else client.get(f"/api/jobs/{job_id}")
    if json_:
        show.as_json(job)
    else:
        show.facts(
            {
                "job": job["id"],
                "what": job["title"],
                "state": job["state"],
                "cause": job["cause"],
                "reason": job["reason"],
                "attempt": f"{job['attempt']} of {job['attempts']}" if job["attempts"] > 1 else "",
                "progress": show.progress_line(job["progress"]),
                "decided by": job["decided_by"],
                "took": show.span(job["seconds"]),
                "quoted": show.span(job["quote"]["seconds"]),
                "cost": show.money(job["micro_usd"]),
                "digest": job["digest"][:16],
                "service": (job["service"] or {}).get("url"),
                "next": job["next"],
            }
        )
        if job["result"]:
            show.console.print("[bold]result[/]")
            show.as_json(job["result"])
    if follow:
        fail_unless_done(job)
