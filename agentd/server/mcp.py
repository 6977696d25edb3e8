"""The kernel over MCP: one server object for the handshake revisions and for 2026-07-28.

Stateless: nothing lives between two requests, so a restart of the daemon costs no client its session.
A call acts for the token's owner but is never a person: deciding approvals is not a tool.
Answers are plain JSON; a request that asks for progress is streamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import mcp_types as types
from mcp.server.caching import CacheHint
from mcp.server.context import ServerRequestContext
from mcp.server.lowlevel import Server
from mcp.server.streamable_http_manager import StreamableHTTPSessionManager
from mcp.shared.exceptions import MCPError
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import BaseModel
from starlette.requests import Request
from starlette.types import Message, Receive, Scope, Send

from agentd.errors import AgentdError, NotFound, Unauthorized
from agentd.redaction import redact
from agentd.sdk import JobView, Tool
from agentd.server.auth import caller_of, require
from agentd.server.ports import Caller, Kernel, role_for
from agentd.server.schema import input_schema, output_schema
from agentd.server.wire import dump, error_of

__all__ = ["ERROR_META", "KEY_META", "McpEndpoint", "mcp_server"]

log = logging.getLogger(__name__)

KEY_META = "agentd/idempotency-key"
"""A call's ``_meta`` may carry it: the same key and arguments again give the same job."""

ERROR_META = "agentd/error"
"""A tool error's ``_meta`` holds it as data under this name: `wire.error_of`."""

CWD_HEADER = "agentd-cwd"
"""The folder that a client's relative paths start from, percent-encoded. The stdio proxy sends it."""

INSTRUCTIONS = """\
agentd runs the LLM engineering loop on this machine: data, retrieval, fine-tuning, quantizing, serving, \
evaluation and routing. A tool that launches heavy work answers at once with a job; follow it with job_wait. \
A job in state waiting_approval waits for a person, who answers outside of MCP: tell them what `next` says."""

Context = ServerRequestContext[Any, Request]


def mcp_server(kernel: Kernel, caller: Caller | None = None) -> Server[Any]:
    """The MCP server of `kernel`. Over HTTP the guard names the caller; `caller` is for in-memory use."""
    handlers = _Handlers(kernel, caller)
    return Server(
        "agentd",
        version=kernel.version,
        title="agentd",
        instructions=INSTRUCTIONS,
        cache_hints={"tools/list": CacheHint(ttl_ms=60_000, scope="private")},
        get_tool_input_schema=lambda name: None,  # no argument of ours is mirrored in a header
        on_list_tools=handlers.list_tools,
        on_call_tool=handlers.call_tool,
        on_list_resources=handlers.list_resources,
        on_list_resource_templates=handlers.list_resource_templates,
        on_read_resource=handlers.read_resource,
        on_list_prompts=handlers.list_prompts,
        on_get_prompt=handlers.get_prompt,
    )


class McpEndpoint:
    """The ASGI app behind ``POST /mcp``. Enter `run` around its life.

    A body in JSON costs half the time of one in a stream, so the stream is for those who can use it:
    new-era requests (where the SDK itself answers in JSON unless there is something to report, and
    hanging up cancels) and old-era requests with a progress token.
    """

    def __init__(self, server: Server[Any]) -> None:
        self._json = StreamableHTTPSessionManager(server, stateless=True, json_response=True)
        self._stream = StreamableHTTPSessionManager(server, stateless=True)

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncGenerator[None, None]:
        async with self._json.run(), self._stream.run():
            yield

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        first = await receive()
        streams = _is_modern(scope) or b'"progressToken"' in first.get("body", b"")
        manager = self._stream if streams else self._json
        await manager.handle_request(scope, _again(first, receive), send)


def _is_modern(scope: Scope) -> bool:
    version = dict(scope["headers"]).get(b"mcp-protocol-version", b"").decode("latin-1")
    return version in MODERN_PROTOCOL_VERSIONS


def _again(first: Message, receive: Receive) -> Receive:
    waiting = [first]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


class _Handlers:
    def __init__(self, kernel: Kernel, caller: Caller | None) -> None:
        self._kernel, self._local = kernel, caller
        self._described: dict[str, types.Tool] = {}

    # --- tools -------------------------------------------------------------------------------

    async def list_tools(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        caller = self._caller(ctx)
        tools = self._kernel.calls.tools.values()
        visible = [tool for tool in tools if tool.listed and caller.may(role_for(tool))]
        return types.ListToolsResult(tools=[self._describe(tool) for tool in visible])

    async def call_tool(self, ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        tool = self._kernel.calls.tools.get(params.name)
        if tool is None:
            return self._no_such_tool(ctx, params)
        caller = self._caller(ctx)
        key = _idempotency_key(ctx.meta)
        try:
            require(caller, role_for(tool))
            async with self._reporting(ctx, params.arguments or {}):
                result = await self._kernel.calls.call(tool.name, params.arguments or {}, caller, key=key)
        except AgentdError as error:
            return _tool_error(error_of(error))
        except Exception:  # the outermost edge: what a client must not see goes to the log
            incident = secrets.token_hex(4)
            log.exception("tool %s failed, incident %s", tool.name, incident)
            hint = f"See incident {incident} in the daemon's log."
            return _tool_error({"code": "internal", "message": f"{tool.name} failed", "hint": hint})
        return _tool_result(result)

    def _no_such_tool(self, ctx: Context, params: types.CallToolRequestParams) -> types.CallToolResult:
        """A call that was meant to answer an approval is told that it cannot, whatever its credential."""
        try:
            self._kernel.approvals.refuse_as_call(params.name, params.arguments or {}, self._who(ctx))
        except Unauthorized as error:
            return _tool_error(error_of(error))
        self._caller(ctx)
        raise MCPError(types.INVALID_PARAMS, str(NotFound("tool", params.name, self._kernel.calls.tools)))

    @contextlib.asynccontextmanager
    async def _reporting(self, ctx: Context, arguments: Mapping[str, Any]) -> AsyncGenerator[None, None]:
        """While a call about a job goes on, pass on the job's progress; the SDK drops it if nobody asked."""
        job_id = arguments.get("job")
        if not isinstance(job_id, str) or not job_id.startswith("job-"):
            yield
            return
        reporter = asyncio.create_task(self._report(ctx, job_id))
        try:
            yield
        finally:
            reporter.cancel()
            await asyncio.gather(reporter, return_exceptions=True)

    async def _report(self, ctx: Context, job_id: str) -> None:
        last = -0.001
        with contextlib.suppress(AgentdError):  # the call itself tells what is wrong with the job
            async for job in self._kernel.jobs.follow(job_id):
                # Progress must rise with every notification, a change of state included.
                last = max(_figure(job.progress.get("done")) or 0.0, last + 0.001)
                total = _figure(job.progress.get("total"))
                await ctx.session.report_progress(last, total, headline(job))

    def _describe(self, tool: Tool) -> types.Tool:
        if tool.name not in self._described:
            self._described[tool.name] = types.Tool(
                name=tool.name,
                description=tool.description,
                input_schema=input_schema(tool.arguments),
                output_schema=output_schema(tool.result),
                annotations=types.ToolAnnotations(
                    title=tool.title,
                    read_only_hint=tool.read_only,
                    destructive_hint=tool.destructive,
                    idempotent_hint=tool.idempotent,
                    open_world_hint=tool.open_world,
                ),
            )
        return self._described[tool.name]

    # --- resources ---------------------------------------------------------------------------

    async def list_resources(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourcesResult:
        self._caller(ctx)
        jobs = [
            types.Resource(uri=f"agentd://jobs/{job.id}", name=job.id, title=headline(job), mime_type=JSON)
            for job in self._kernel.jobs.list(limit=10)
        ]
        return types.ListResourcesResult(
            resources=[
                types.Resource(
                    uri="agentd://catalog",
                    name="catalog",
                    title="Models and aliases",
                    mime_type=JSON,
                ),
                *jobs,
            ]
        )

    async def list_resource_templates(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListResourceTemplatesResult:
        self._caller(ctx)
        return types.ListResourceTemplatesResult(
            resource_templates=[
                types.ResourceTemplate(uri_template=uri, name=uri.split("/")[2], title=title, mime_type=JSON)
                for uri, title in TEMPLATES.items()
            ]
        )

    async def read_resource(
        self, ctx: Context, params: types.ReadResourceRequestParams
    ) -> types.ReadResourceResult:
        self._caller(ctx)
        uri = str(params.uri)
        try:
            text = dump(redact(json.loads(dump(self._resource(uri)))))
        except NotFound as error:
            raise MCPError(types.INVALID_PARAMS, str(error), {"uri": uri}) from error
        contents = types.TextResourceContents(uri=uri, mime_type=JSON, text=text)
        return types.ReadResourceResult(contents=[contents])

    def _resource(self, uri: str) -> Any:
        kind, _, ref = uri.removeprefix("agentd://").partition("/")
        if uri == "agentd://catalog":
            return {"models": self._kernel.catalog.list(), "aliases": self._kernel.catalog.aliases()}
        readers: dict[str, Callable[[str], Any]] = {
            "jobs": self._kernel.jobs.get,
            "reports": self._kernel.reports.get,
            "runs": self._kernel.runs.view,
        }
        if not uri.startswith("agentd://") or kind not in readers or not ref:
            raise NotFound("resource", uri, ["agentd://catalog", *TEMPLATES])
        return readers[kind](unquote(ref))

    # --- prompts -----------------------------------------------------------------------------

    async def list_prompts(
        self, ctx: Context, params: types.PaginatedRequestParams | None
    ) -> types.ListPromptsResult:
        self._caller(ctx)
        return types.ListPromptsResult(prompts=[PROMPT])

    async def get_prompt(self, ctx: Context, params: types.GetPromptRequestParams) -> types.GetPromptResult:
        self._caller(ctx)
        if params.name != PROMPT.name:
            raise MCPError(types.INVALID_PARAMS, str(NotFound("prompt", params.name, [PROMPT.name])))
        arguments = params.arguments or {}
        if missing := [name for name in ("data", "base") if not arguments.get(name)]:
            raise MCPError(types.INVALID_PARAMS, f"{PROMPT.name} needs {' and '.join(missing)}")
        text = PROMPT_TEXT.format(**{"suite": "a suite made from held-out rows of it", **arguments})
        message = types.PromptMessage(role="user", content=types.TextContent(text=text))
        return types.GetPromptResult(description=PROMPT.description, messages=[message])

    def _caller(self, ctx: Context) -> Caller:
        """Who asks. A key that is only good for inference sees nothing here."""
        try:
            return require(self._who(ctx), "view")
        except Unauthorized as error:
            raise MCPError(types.INVALID_REQUEST, str(error)) from error

    def _who(self, ctx: Context) -> Caller:
        if ctx.request is None:
            if self._local is None:
                raise Unauthorized("This server was given no caller")
            return replace(self._local, surface="mcp", is_agent=True)
        caller = caller_of(ctx.request.scope, "mcp", is_agent=True)
        cwd = unquote(ctx.request.headers.get(CWD_HEADER, ""))
        return replace(caller, cwd=Path(cwd)) if cwd.startswith("/") else caller


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


# --- results ---------------------------------------------------------------------------------


def _tool_result(result: BaseModel) -> types.CallToolResult:
    """A model reads it: the last place where a secret can be taken out."""
    plain = redact(result.model_dump(mode="json"))
    structured = {name: value for name, value in plain.items() if value is not None}
    text = redact(_job_text(result)) if isinstance(result, JobView) else dump(structured)
    return types.CallToolResult(content=[types.TextContent(text=text)], structured_content=structured)


def _job_text(job: JobView) -> str:
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


def _figure(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _tool_error(error: dict[str, str]) -> types.CallToolResult:
    text = f"{error['code']}: {error['message']}. {error['hint']}".strip()
    return types.CallToolResult(
        content=[types.TextContent(text=text)], is_error=True, _meta={ERROR_META: error}
    )


def _idempotency_key(meta: Mapping[str, Any] | None) -> str:
    key = (meta or {}).get(KEY_META, "")
    if not isinstance(key, str) or len(key) > 200:
        raise MCPError(types.INVALID_PARAMS, f"{KEY_META!r} must be a string of at most 200 characters")
    return key


# --- content ---------------------------------------------------------------------------------

JSON = "application/json"

TEMPLATES = {
    "agentd://jobs/{id}": "A job: state, progress, quote, result",
    "agentd://reports/{id}": "What measuring a model on a suite gave",
    "agentd://runs/{id}": "A plan or goal being carried out, step by step",
}

PROMPT = types.Prompt(
    name="finetune_and_compare",
    title="Fine-tune and compare",
    description="Train a LoRA on a data set and say, with an interval, whether it is worth having.",
    arguments=[
        types.PromptArgument(name="data", description="path of a JSONL data set", required=True),
        types.PromptArgument(name="base", description="catalog name of the base model", required=True),
        types.PromptArgument(name="suite", description="evaluation suite, if there is one"),
    ],
)

PROMPT_TEXT = """\
Find out whether fine-tuning {base} on {data} is worth it.
1. Check the data set; stop and report if rows are wrong or leak between splits.
2. Measure {base} as it is on {suite}, so that there is something to beat.
3. Fine-tune a LoRA. It will say what it costs; a person may have to approve it. Follow the job with job_wait.
4. Measure the adapter on the same suite and compare the two reports on the same rows.
5. Report both scores with intervals, the cost, and the verdict: better, not worse, worse or inconclusive.
Do not promote anything without being asked."""
