"""The extension ``io.modelcontextprotocol/tasks`` (SEP-2663) for a low-level MCP server.

It knows the wire, not what a task is: whatever satisfies `TaskPort` can be served, jobs or a test's.
A task is offered only in revision 2026-07-28, and there only to a client that declared the extension
with the very request; some declare it with older revisions too, which have no such result.

Not covered: ``notifications/tasks``. A client asks again after ``pollIntervalMs``.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import mcp_types as types
from mcp.server.context import CallNext, HandlerResult, ServerRequestContext
from mcp.server.extension import Extension, MethodBinding, compose_tool_call_handler
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp.shared.inbound import MCP_NAME_HEADER, decode_header_value
from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

__all__ = ["REVISION", "TASKS", "TaskPort", "TaskView", "TasksExtension", "install", "takes_tasks"]

TASKS = "io.modelcontextprotocol/tasks"
REVISION = "2026-07-28"
POLL_MS = 1000

Context = ServerRequestContext[Any, Any]
Status = Literal["working", "input_required", "completed", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class TaskView:
    """A task as it is now. Times are seconds since the epoch; `ttl_ms` None keeps it for ever.

    `result` is of a completed one, `error` (``code``, ``message``) of a failed one, and `input_requests`
    (by key) of one that needs an answer. A tool that ran and failed is completed, with an error as result.
    """

    id: str
    status: Status
    created_at: float
    updated_at: float
    message: str = ""
    ttl_ms: int | None = None
    poll_ms: int = POLL_MS
    result: Mapping[str, Any] | None = None
    error: Mapping[str, Any] | None = None
    input_requests: Mapping[str, Any] = field(default_factory=dict)


class TaskPort(Protocol):
    """What the extension asks. Ids that are unknown, or are not the caller's, raise `KeyError`."""

    def needs_tasks(self, tool: str) -> bool:
        """Whether `tool` cannot answer a client that takes no tasks."""
        ...

    async def begin(
        self, ctx: Context, params: types.CallToolRequestParams, call_next: CallNext
    ) -> HandlerResult | TaskView:
        """Carry out a call of a client that takes tasks; a view says that it goes on as that task.

        It must be durable by then: ``tasks/get`` may come the next moment.
        """
        ...

    async def get(self, ctx: Context, task_id: str) -> TaskView: ...
    async def update(self, ctx: Context, task_id: str, answers: Mapping[str, Any]) -> None:
        """Take answers by key; unknown and late ones are ignored."""
        ...

    async def cancel(self, ctx: Context, task_id: str) -> None:
        """Have it end as cancelled; one that has ended stays as it is."""
        ...


class _TaskParams(types.RequestParams):
    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True)

    task_id: str


class _UpdateParams(_TaskParams):
    input_responses: dict[str, dict[str, Any]]


def takes_tasks(ctx: Context) -> bool:
    """Whether this request may be answered with a task."""
    if ctx.protocol_version != REVISION:
        return False
    declared = ctx.session.client_capabilities
    return bool(declared and TASKS in (declared.extensions or {}))


class TasksExtension(Extension):
    """Tasks of `port`, as the SDK's extension: verbs, and an interceptor of ``tools/call``."""

    identifier = TASKS

    def __init__(self, port: TaskPort) -> None:
        self._port = port

    def methods(self) -> list[MethodBinding]:
        revisions = frozenset({REVISION})
        return [
            MethodBinding("tasks/get", _TaskParams, self._get, revisions),
            MethodBinding("tasks/update", _UpdateParams, self._update, revisions),
            MethodBinding("tasks/cancel", _TaskParams, self._cancel, revisions),
        ]

    async def intercept_tool_call(
        self, params: types.CallToolRequestParams, ctx: Context, call_next: CallNext
    ) -> HandlerResult:
        if not takes_tasks(ctx):
            if ctx.protocol_version == REVISION and self._port.needs_tasks(params.name):
                raise _undeclared(params.name)
            return await call_next(ctx)
        outcome = await self._port.begin(ctx, params, call_next)
        return {"resultType": "task", **_plain(outcome)} if isinstance(outcome, TaskView) else outcome

    async def _get(self, ctx: Context, params: _TaskParams) -> dict[str, Any]:
        _check(ctx, params)
        try:
            task = await self._port.get(ctx, params.task_id)
        except KeyError:
            raise _absent(params.task_id) from None
        return {"resultType": "complete", **_plain(task), **_details(task)}

    async def _update(self, ctx: Context, params: _UpdateParams) -> dict[str, Any]:
        _check(ctx, params)
        try:
            await self._port.update(ctx, params.task_id, params.input_responses)
        except KeyError:
            raise _absent(params.task_id) from None
        return {"resultType": "complete"}

    async def _cancel(self, ctx: Context, params: _TaskParams) -> dict[str, Any]:
        _check(ctx, params)
        try:
            await self._port.cancel(ctx, params.task_id)
        except KeyError:
            raise _absent(params.task_id) from None
        return {"resultType": "complete"}


def install(server: Server[Any], extension: TasksExtension) -> None:
    """Give a low-level server the extension; only the SDK's larger server can be handed one."""
    entry = server.get_request_handler("tools/call")
    assert entry is not None, "a server with tasks has tools"
    intercepted = compose_tool_call_handler([extension], entry.handler)
    server.add_request_handler("tools/call", types.CallToolRequestParams, intercepted)
    for method in extension.methods():
        server.add_request_handler(method.method, method.params_type, _only_in(method))
    server.extensions[extension.identifier] = extension.settings()


def _only_in(method: MethodBinding) -> Any:
    """The verb's handler, in the revisions that have it: in others it is no method."""

    async def handler(ctx: Context, params: Any) -> HandlerResult:
        if ctx.protocol_version not in (method.protocol_versions or ()):
            raise MCPError(types.METHOD_NOT_FOUND, "Method not found", method.method)
        return await method.handler(ctx, params)

    return handler


def _check(ctx: Context, params: _TaskParams) -> None:
    """What the SDK checks of its own methods only: the capability, and the header that names the task."""
    if not takes_tasks(ctx):
        raise _undeclared(ctx.method)
    headers = getattr(ctx.request, "headers", None)  # none in memory
    if headers is not None and decode_header_value(headers.get(MCP_NAME_HEADER)) != params.task_id:
        raise MCPError(
            types.HEADER_MISMATCH, f"The header {MCP_NAME_HEADER} does not say the 'taskId' of the body"
        )


def _undeclared(what: str) -> MCPError:
    return MCPError(
        types.MISSING_REQUIRED_CLIENT_CAPABILITY,
        f"{what} is for clients that declare the extension {TASKS}",
        {"requiredCapabilities": {"extensions": {TASKS: {}}}},
    )


def _absent(task_id: str) -> MCPError:
    return MCPError(types.INVALID_PARAMS, f"There is no task {task_id[:100]!r}")


def _plain(task: TaskView) -> dict[str, Any]:
    said = {"statusMessage": task.message} if task.message else {}
    return {
        "taskId": task.id,
        "status": task.status,
        **said,
        "createdAt": _iso(task.created_at),
        "lastUpdatedAt": _iso(task.updated_at),
        "ttlMs": task.ttl_ms,
        "pollIntervalMs": task.poll_ms,
    }


def _details(task: TaskView) -> dict[str, Any]:
    if task.status == "completed":
        return {"result": dict(task.result or {})}
    if task.status == "failed":
        return {"error": dict(task.error or {})}
    return {"inputRequests": dict(task.input_requests)} if task.status == "input_required" else {}


def _iso(at: float) -> str:
    moment = datetime.datetime.fromtimestamp(at, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
