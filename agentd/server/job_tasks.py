"""Jobs as tasks of MCP: the id of the task is that of the job, so it outlives client and daemon.

Whoever sees the job (`agentd.sight`) sees the task; to others it is as if it were not there.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import mcp_types as types
from mcp.server.context import CallNext, HandlerResult

from agentd.errors import NotFound
from agentd.redaction import redact
from agentd.sdk import JobView
from agentd.server.asker import Asker, Context
from agentd.server.asking import Asking
from agentd.server.auth import require
from agentd.server.job_text import headline
from agentd.server.ports import Kernel
from agentd.server.results import ERROR_META, job_result, tool_result
from agentd.server.tasks import TaskView

__all__ = ["JobTasks"]

log = logging.getLogger(__name__)

CANCEL_WITHIN_S = 2.0


class JobTasks:
    """`tasks.TaskPort` over the kernel's jobs."""

    def __init__(self, kernel: Kernel, caller_of: Asker, asking: Asking) -> None:
        self._kernel, self._caller_of, self._asking = kernel, caller_of, asking
        self._ending: set[asyncio.Task[JobView]] = set()

    def needs_tasks(self, tool: str) -> bool:
        return False

    async def begin(
        self, ctx: Context, params: types.CallToolRequestParams, call_next: CallNext
    ) -> HandlerResult | TaskView:
        """The task of the job that the call made, were it only to wait for a person; else the answer."""
        result = await call_next(ctx)
        if not isinstance(result, types.CallToolResult):
            return result
        tool = self._kernel.calls.tools.get(params.name)
        job_id = ""
        if result.is_error:
            job_id = (result.meta or {}).get(ERROR_META, {}).get("job_id", "")
        elif tool is not None and tool.launches:
            job_id = (result.structured_content or {}).get("id", "")
        return self._view(self._kernel.jobs.get(job_id)) if job_id else result

    async def get(self, ctx: Context, task_id: str) -> TaskView:
        job = self._own(ctx, task_id)
        questions = self._asking.of(ctx, job.id, self._caller_of(ctx)) if _waits(job) else {}
        view = self._view(job)
        return replace(view, status="input_required", input_requests=questions) if questions else view

    async def update(self, ctx: Context, task_id: str, answers: Mapping[str, Any]) -> None:
        caller = require(self._caller_of(ctx), "operate")
        self._asking.take(self._own(ctx, task_id).id, answers, caller)

    async def cancel(self, ctx: Context, task_id: str) -> None:
        """Begun, and carried on if the client hangs up: a job whose end was cut short would be stuck."""
        job = self._own(ctx, task_id)
        by = require(self._caller_of(ctx), "operate").principal
        ending = asyncio.create_task(self._kernel.jobs.cancel(job.id, by=by), name=f"cancel {job.id}")
        self._ending.add(ending)
        ending.add_done_callback(self._ended)
        await asyncio.wait([ending], timeout=CANCEL_WITHIN_S)

    def _ended(self, ending: asyncio.Task[JobView]) -> None:
        self._ending.discard(ending)
        if not ending.cancelled() and (error := ending.exception()) is not None:
            log.error("%s failed: %s", ending.get_name(), error)

    def _own(self, ctx: Context, task_id: str) -> JobView:
        """A job that the caller sees. Raises `KeyError`."""
        try:
            return self._kernel.seen_by(self._caller_of(ctx)).jobs.get(task_id)
        except NotFound:
            raise KeyError(task_id) from None

    def _view(self, job: JobView) -> TaskView:
        at = job.ended_at or job.started_at or job.created_at
        view = TaskView(job.id, "working", job.created_at, at, _said(job))
        if job.state == "cancelled":
            return replace(view, status="cancelled")
        if job.state == "lost":
            error = {"code": types.INTERNAL_ERROR, "message": headline(job), "data": {"next": job.next}}
            return replace(view, status="failed", error=error)
        if job.ended or (job.service and job.service.get("ready")):
            return replace(view, status="completed", result=self._result(job))
        return view

    def _result(self, job: JobView) -> dict[str, Any]:
        """What the tool answers with: the job where it launches one, else what it gave once it was let."""
        tool = self._kernel.calls.tools.get(job.tool)
        result = tool_result(job) if tool is None else job_result(tool, job)
        return result.model_dump(mode="json", by_alias=True, exclude_none=True)


def _waits(job: JobView) -> bool:
    return job.state == "waiting_approval"


def _said(job: JobView) -> str:
    return redact(f"{headline(job)}. {job.next}".rstrip(". ") + "." if job.next else headline(job))
