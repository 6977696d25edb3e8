"""Following and ending what was launched, asking what it would take, and running plans."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from agentd.sdk import Context, InputError, JobView, NotFound, Quote, tool

Handle = Annotated[str, Field(description="id of a job (job-…) or of a run (run-…)")]


class Status(BaseModel):
    """A job, or a run of a plan with its steps."""

    id: str
    state: str
    reason: str = ""
    job: JobView | None = None
    run: dict[str, Any] | None = None


class Logs(BaseModel):
    lines: list[str]


class RunHandle(BaseModel):
    """A started run. Follow it with job_wait."""

    run: str
    plan: str
    state: str
    steps: list[str]


def _status(ctx: Context, handle: str) -> Status:
    if handle.startswith("run-"):
        run = ctx.plans.view(handle)
        return Status(id=handle, state=run["state"], reason=run["reason"], run=run)
    job = ctx.jobs.get(handle)
    return Status(id=job.id, state=job.state, reason=job.reason, job=job)


@tool(title="Look at a job or run", result=Status, read_only=True, idempotent=True, trusted=("id", "state"))
async def job_status(ctx: Context, *, job: Handle) -> Status:
    """State, progress, cost and result of a job or run, and what to do next. Answers at once.

    Not for waiting: use `job_wait`.
    """
    return _status(ctx, job)


@tool(title="Wait for a job or run", result=Status, read_only=True, idempotent=True, trusted=("id", "state"))
async def job_wait(
    ctx: Context,
    *,
    job: Handle,
    max_s: Annotated[float, Field(ge=0, le=45, description="seconds to wait at most")] = 30.0,
) -> Status:
    """Wait until a job has ended (a service: is ready), at most `max_s` seconds, and tell its state.

    Call it again while the state is not final. Not for a job in waiting_approval: it stays so until a
    person answers, so tell them.
    """
    if job.startswith("run-"):
        await ctx.plans.wait(job, max_s)
    else:
        await ctx.jobs.wait(job, max_s)
    return _status(ctx, job)


@tool(title="Read a job's log", result=Logs, read_only=True, idempotent=True)
async def job_logs(
    ctx: Context,
    *,
    job: Annotated[str, Field(description="id of the job")],
    tail: Annotated[int, Field(ge=1, le=500, description="how many of the last lines")] = 50,
) -> Logs:
    """The last lines a job printed: why it failed. Not for following progress: use `job_wait`."""
    return Logs(lines=ctx.jobs.logs(job, tail=tail))


@tool(title="Cancel a job or run", result=Status, destructive=True, idempotent=True, trusted=("id", "state"))
async def job_cancel(ctx: Context, *, job: Handle) -> Status:
    """End a job and every process it started, or stop a run. What it had finished stays.

    Not for services: use `stop_service`.
    """
    if job.startswith("run-"):
        await ctx.plans.stop(job)
    else:
        await ctx.jobs.cancel(job, by=ctx.principal)
    return _status(ctx, job)


@tool(title="Quote a call", result=Quote, read_only=True, idempotent=True, trusted=True)
async def quote(
    ctx: Context,
    *,
    tool: Annotated[str, Field(description="name of the tool that would be called")],
    arguments: Annotated[dict[str, Any], Field(description="its arguments")],
) -> Quote:
    """Time, memory and money a call would take. Checks its arguments and data; starts nothing.

    Not for tools that answer at once: they take nothing.
    """
    if tool == "quote":
        raise InputError("A quote cannot be quoted", hint="Name the tool that would do the work")
    return await ctx.quote(tool, arguments)


@tool(title="Run a plan", result=RunHandle, destructive=True, open_world=True, trusted=True)
async def run_plan(
    ctx: Context,
    *,
    plan: Annotated[str, Field(description="path of a plan file, or the name of one in tools/plans/")],
    params: Annotated[dict[str, Any], Field(description="parameters of the plan to replace")] = {},  # noqa: B006
) -> RunHandle:
    """Start a run of a plan: steps that call tools, each decided by policy on its own. Answers with a handle.

    Not for a single call: call that tool instead.
    """
    try:
        path = ctx.plugins.find("tools", f"plans/{plan}.yaml")
    except NotFound:
        if Path(plan).suffix not in (".yaml", ".yml"):
            raise
        path = ctx.path(plan)
    view = ctx.plans.start(path, params)
    return RunHandle(
        run=view["id"], plan=view["plan"], state=view["state"], steps=[s["id"] for s in view["steps"]]
    )
