"""Tasks in memory (`agentd.server.tasks.TaskPort`): a call of one of these tools goes on after its answer."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Mapping
from dataclasses import replace
from typing import Any

import mcp_types as types
from mcp.server.context import CallNext, HandlerResult
from mcp.shared.exceptions import MCPError

from agentd.server.tasks import Context, TaskView

ASKS_FIRST = "test_tool_with_task"
"""Asks in the call, and is a task from the answer on."""

ONLY_TASKS = ("failing_job", ASKS_FIRST)
LONG = ("slow_compute", "protocol_error_job", "confirm_delete", "multi_input", *ONLY_TASKS)


class LongWork:
    """Every task is everybody's: there is one client."""

    def __init__(self) -> None:
        self._views: dict[str, TaskView] = {}
        self._running: dict[str, asyncio.Task[None]] = {}
        self._answered: dict[str, asyncio.Event] = {}

    def needs_tasks(self, tool: str) -> bool:
        return tool in ONLY_TASKS

    async def begin(
        self, ctx: Context, params: types.CallToolRequestParams, call_next: CallNext
    ) -> HandlerResult | TaskView:
        if params.name not in LONG:
            return await call_next(ctx)
        work: Awaitable[HandlerResult] = call_next(ctx)
        if params.name == ASKS_FIRST:
            first = await work
            if isinstance(first, types.InputRequiredResult):
                return first
            work = asyncio.sleep(0.2, first)
        now = time.time()
        task = TaskView(secrets.token_hex(8), "working", now, now, ttl_ms=600_000, poll_ms=100)
        self._views[task.id], self._answered[task.id] = task, asyncio.Event()
        self._running[task.id] = asyncio.create_task(self._carry_out(task.id, work))
        return task

    async def get(self, ctx: Context, task_id: str) -> TaskView:
        return self._views[task_id]

    async def update(self, ctx: Context, task_id: str, answers: Mapping[str, Any]) -> None:
        open_ones = self._views[task_id].input_requests
        left = {key: request for key, request in open_ones.items() if key not in answers}
        self._change(task_id, input_requests=left)
        if open_ones and not left:
            self._change(task_id, status="working")
            self._answered[task_id].set()

    async def cancel(self, ctx: Context, task_id: str) -> None:
        if self._views[task_id].status in ("working", "input_required"):
            self._change(task_id, status="cancelled", input_requests={})
            self._running[task_id].cancel()

    async def _carry_out(self, task_id: str, work: Awaitable[HandlerResult]) -> None:
        try:
            result = await work
        except MCPError as error:
            return self._change(task_id, status="failed", error=error.error.model_dump(exclude_none=True))
        if isinstance(result, types.InputRequiredResult):
            wire = result.model_dump(mode="json", by_alias=True, exclude_none=True)
            self._change(task_id, status="input_required", input_requests=wire["inputRequests"])
            await self._answered[task_id].wait()
            result = types.CallToolResult(content=[types.TextContent(type="text", text="Answered")])
        assert isinstance(result, types.CallToolResult)
        done = result.model_dump(mode="json", by_alias=True, exclude_none=True)
        return self._change(task_id, status="completed", result=done)

    def _change(self, task_id: str, **changes: Any) -> None:
        self._views[task_id] = replace(self._views[task_id], updated_at=time.time(), **changes)
