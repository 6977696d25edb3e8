"""The kernel over MCP: one server object for the handshake revisions and for 2026-07-28.

A restart of the daemon costs no client its session: most have none, and the others' are taken up again.
A call acts for the token's owner but is never a person: deciding approvals is not a tool.
Answers are plain JSON; a request that asks for progress is streamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import mcp_types as types
from mcp.server.caching import CacheHint
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from agentd.errors import AgentdError, NeedsApproval, NotFound, Unauthorized
from agentd.schema import input_schema, output_schema
from agentd.sdk import JobView, Tool
from agentd.server.asker import Asker, Context
from agentd.server.asking import Asking
from agentd.server.auth import caller_of, require
from agentd.server.completion import Completions
from agentd.server.holdings import Holdings
from agentd.server.job_tasks import JobTasks
from agentd.server.job_text import headline
from agentd.server.mcp_sessions import McpSessions, declared_in
from agentd.server.ports import Caller, Kernel, role_for
from agentd.server.prompts import Prompts
from agentd.server.resources import Resources
from agentd.server.results import job_result, tool_error, tool_result
from agentd.server.tasks import REVISION, TasksExtension, install, takes_tasks
from agentd.server.watching import Watching
from agentd.server.wire import error_of

__all__ = ["KEY_META", "McpEndpoint", "mcp_server"]

log = logging.getLogger(__name__)

KEY_META = "agentd/idempotency-key"
"""A call's ``_meta`` may carry it: the same key and arguments again give the same job."""

ANSWERS_WITHIN_S = 2.0

INSTRUCTIONS = """\
agentd runs the LLM engineering loop on this machine: data, retrieval, fine-tuning, quantizing, serving, \
evaluation and routing. A tool that launches heavy work answers at once with a job; follow it with job_wait. \
A job in state waiting_approval waits for a person: tell them what `next` says. \
How things work stands in agentd://docs."""


class McpServer(Server[Any]):
    """`Server` that declares only what changes: lists of tools and prompts stay as they are."""

    watching: Watching

    def get_capabilities(self, *given: Any, **options: Any) -> types.ServerCapabilities:
        declared = super().get_capabilities(*given, **options)
        same = {"list_changed": False}
        return declared.model_copy(
            update={
                "tools": declared.tools and declared.tools.model_copy(update=same),
                "prompts": declared.prompts and declared.prompts.model_copy(update=same),
            }
        )


def mcp_server(kernel: Kernel, caller: Caller | None = None) -> McpServer:
    """The MCP server of `kernel`. Over HTTP the guard names the caller; `caller` is for in-memory use."""
    asker = Asker(caller)
    holdings = Holdings(kernel)
    asking = Asking(kernel)
    tools, resources, prompts = _Tools(kernel, asker, asking), Resources(holdings, asker), Prompts(asker)
    watching = Watching(kernel, holdings, asker)
    server = McpServer(
        "agentd",
        version=kernel.version,
        title="agentd",
        instructions=INSTRUCTIONS,
        cache_hints={
            method: CacheHint(ttl_ms=60_000, scope="private")
            for method in ("tools/list", "prompts/list", "resources/templates/list")
        },
        get_tool_input_schema=lambda name: None,  # no argument of ours is mirrored in a header
        on_list_tools=tools.list,
        on_call_tool=tools.call,
        on_list_resources=resources.listing,
        on_list_resource_templates=resources.templates,
        on_read_resource=resources.read,
        on_list_prompts=prompts.listing,
        on_get_prompt=prompts.get,
        on_completion=Completions(holdings, asker).complete,
        on_subscriptions_listen=watching.listen,
    )
    server.watching = watching
    install(server, TasksExtension(JobTasks(kernel, asker, asking)))
    return server


class McpEndpoint:
    """The ASGI app behind ``/mcp``, for `mcp_server`'s or another. Enter `run` around its life.

    A body in JSON costs half the time of one in a stream, so the stream is for those who can use it:
    new-era requests (where the SDK itself answers in JSON unless there is something to report, and
    hanging up cancels) and old-era requests with a progress token. Old-era clients that can be asked
    something have sessions, in which everything is streamed.
    """

    def __init__(self, server: Server[Any], key: bytes | None = None) -> None:
        """`key` signs the ids of sessions; without one they end with this object."""
        self._server = server
        self._json = StreamableHTTPSessionManager(server, stateless=True, json_response=True)
        self._stream = StreamableHTTPSessionManager(server, stateless=True)
        self._sessions = McpSessions(server, key or secrets.token_bytes(32))

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncGenerator[None, None]:
        async with self._json.run(), self._stream.run(), self._sessions.run():
            yield

    def close_streams(self) -> None:
        """Let clients that listen know that the daemon stops, before it waits for them."""
        if isinstance(self._server, McpServer):
            self._server.watching.close()
        self._sessions.close_streams()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"])
        version = headers.get(b"mcp-protocol-version", b"").decode("latin-1")
        modern = version in MODERN_PROTOCOL_VERSIONS
        session = None if modern else headers.get(b"mcp-session-id")
        first = await receive()
        receive = _again(first, receive)
        if session is not None and await self._sessions.go_on(
            session.decode("latin-1"), _principal(scope), scope, receive, send
        ):
            return
        if scope["method"] != "POST":
            await Response(status_code=405, headers={"allow": "POST"})(scope, receive, send)
            return
        body = first.get("body", b"")
        declared = None if modern or session is not None else declared_in(body)
        if (
            declared is not None
            and declared.answers
            and await self._sessions.begin(declared, _principal(scope), scope, receive, send)
        ):
            return
        manager = self._stream if modern or b'"progressToken"' in body else self._json
        await manager.handle_request(scope, receive, send)


def _principal(scope: Scope) -> str:
    return caller_of(scope, "mcp").principal


def _again(first: Message, receive: Receive) -> Receive:
    waiting = [first]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


class _Tools:
    def __init__(self, kernel: Kernel, caller_of: Asker, asking: Asking) -> None:
        self._kernel, self._caller_of, self._asking = kernel, caller_of, asking
        self._described: dict[str, types.Tool] = {}

    async def list(self, ctx: Context, params: types.PaginatedRequestParams | None) -> types.ListToolsResult:
        caller = self._caller_of(ctx)
        tools = self._kernel.calls.tools.values()
        visible = [tool for tool in tools if tool.listed and caller.may(role_for(tool))]
        return types.ListToolsResult(tools=[self._describe(tool) for tool in visible])

    async def call(
        self, ctx: Context, params: types.CallToolRequestParams
    ) -> types.CallToolResult | types.InputRequiredResult:
        tool = self._kernel.calls.tools.get(params.name)
        if tool is None:
            return self._no_such_tool(ctx, params)
        caller = self._caller_of(ctx)
        key = _idempotency_key(ctx.meta)
        try:
            require(caller, role_for(tool))
            if params.request_state is not None:
                return await self._answered(tool, params, params.request_state, caller)
            async with self._reporting(ctx, params.arguments or {}, caller):
                result = await self._kernel.calls.call(tool.name, params.arguments or {}, caller, key=key)
        except NeedsApproval as error:
            return await self._asked(ctx, tool, error.job_id, caller) or tool_error(error_of(error))
        except AgentdError as error:
            return tool_error(error_of(error))
        except MCPError:
            raise
        except Exception:  # the outermost edge: what a client must not see goes to the log
            incident = secrets.token_hex(4)
            log.exception("tool %s failed, incident %s", tool.name, incident)
            hint = f"See incident {incident} in the daemon's log."
            return tool_error({"code": "internal", "message": f"{tool.name} failed", "hint": hint})
        if tool.launches and isinstance(result, JobView):
            return await self._asked(ctx, tool, result.id, caller) or tool_result(result)
        return tool_result(result)

    async def _asked(
        self, ctx: Context, tool: Tool, job_id: str, caller: Caller
    ) -> types.CallToolResult | types.InputRequiredResult | None:
        """What this client is to answer before it has the job, or what it has after it was asked.

        None where there is nothing to ask. A task asks by itself.
        """
        if takes_tasks(ctx):
            return None
        if ctx.protocol_version != REVISION:
            answered = await self._asking.put(ctx, job_id, caller)
            return await self._outcome(tool, job_id) if answered else None
        questions = self._asking.of(ctx, job_id, caller)
        wire = {"inputRequests": questions, "requestState": job_id}
        return types.InputRequiredResult.model_validate(wire, by_name=False) if questions else None

    async def _answered(
        self, tool: Tool, params: types.CallToolRequestParams, job_id: str, caller: Caller
    ) -> types.CallToolResult:
        """What a call has that comes again after its question, whatever was answered: nothing starts anew.

        What the client hands back is the job's id, which is worth nothing to anybody but its owner.
        """
        jobs = self._kernel.jobs
        try:
            job = jobs.get(job_id) if jobs.owner(job_id) == caller.principal else None
        except NotFound:
            job = None
        if job is None or job.tool != params.name:
            raise MCPError(types.INVALID_PARAMS, "'requestState' is not of this call")
        answers = {name: each.model_dump() for name, each in (params.input_responses or {}).items()}
        self._asking.take(job.id, answers, caller)
        return await self._outcome(tool, job.id)

    async def _outcome(self, tool: Tool, job_id: str) -> types.CallToolResult:
        """The job, or what became of a call that launches nothing and was let."""
        job = self._kernel.jobs.get(job_id)
        if not tool.launches and job.state != "waiting_approval":
            job = await self._kernel.jobs.wait(job_id, ANSWERS_WITHIN_S)
        return job_result(tool, job)

    def _no_such_tool(self, ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        """A call that was meant to answer an approval is told that it cannot, whatever its credential."""
        try:
            self._kernel.approvals.refuse_as_call(
                params.name, params.arguments or {}, self._caller_of.known(ctx)
            )
        except Unauthorized as error:
            return tool_error(error_of(error))
        self._caller_of(ctx)
        raise MCPError(types.INVALID_PARAMS, str(NotFound("tool", params.name, self._kernel.calls.tools)))

    @contextlib.asynccontextmanager
    async def _reporting(
        self, ctx: Context, arguments: Mapping[str, Any], caller: Caller
    ) -> AsyncGenerator[None, None]:
        """While a call about a job goes on, pass on the job's progress; the SDK drops it if nobody asked."""
        job_id = arguments.get("job")
        if not isinstance(job_id, str) or not job_id.startswith("job-"):
            yield
            return
        reporter = asyncio.create_task(self._report(ctx, job_id, caller))
        try:
            yield
        finally:
            reporter.cancel()
            await asyncio.gather(reporter, return_exceptions=True)

    async def _report(self, ctx: Context, job_id: str, caller: Caller) -> None:
        last = -0.001
        with contextlib.suppress(AgentdError):  # the call itself tells what is wrong with the job
            async for job in self._kernel.seen_by(caller).jobs.follow(job_id):
                # Progress must rise with every notification, a change of state included.
                last = max(_figure(job.progress.get("done")) or 0.0, last + 0.001)
                total = _figure(job.progress.get("total"))
                await ctx.session.report_progress(last, total, headline(job))

    def _describe(self, tool: Tool) -> types.Tool:
        if tool.name not in self._described:
            self._described[tool.name] = types.Tool(
                name=tool.name,
                title=tool.title,
                description=tool.description,
                input_schema=input_schema(tool.arguments),
                output_schema=output_schema(tool.result),
                annotations=types.ToolAnnotations(
                    read_only_hint=tool.read_only,
                    destructive_hint=tool.destructive,
                    idempotent_hint=tool.idempotent,
                    open_world_hint=tool.open_world,
                ),
            )
        return self._described[tool.name]


def _figure(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _idempotency_key(meta: Mapping[str, Any] | None) -> str:
    key = (meta or {}).get(KEY_META, "")
    if not isinstance(key, str) or len(key) > 200:
        raise MCPError(types.INVALID_PARAMS, f"{KEY_META!r} must be a string of at most 200 characters")
    return key
