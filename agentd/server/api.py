"""The control API: what our own command line and console talk to.

JSON in and out; ``…/follow`` streams one JSON object a line until the end. Errors are
``{"error": {"code", "message", "hint"}}`` with the statuses of `wire.STATUS`.
Each route's least role stands in the table, `api_routes`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, cast

from pydantic import ValidationError
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agentd.agent import goals
from agentd.errors import AgentdError, InputError, NotFound
from agentd.router.decide import APIS
from agentd.router.metrics import CONTENT_TYPE
from agentd.schema import input_schema
from agentd.server.auth import BODY, caller_of, require
from agentd.server.ports import Caller, Kernel, Role, Seen, Wanted, role_for
from agentd.server.wire import dump, error_body, error_of, status_of

__all__ = ["api_routes", "body_of", "on_agentd_error", "on_crash", "on_http_error", "streamed"]

log = logging.getLogger(__name__)

MAX_LINES = 10_000
NOT_KEPT = {"cache-control": "no-store"}

Endpoint = Callable[[Request, Caller], Awaitable[Response]]
TurnedAway = Callable[[Request, Caller], None]


def api_routes(kernel: Kernel, shutdown: Callable[[], None]) -> list[Route]:
    """Every route under ``/api``, ``/metrics`` and ``/health``."""
    api = _Api(kernel, shutdown)
    table: list[tuple[str, str, Role, Endpoint]] = [
        ("GET", "/api/status", "view", api.status),
        ("POST", "/api/shutdown", "admin", api.stop),
        ("GET", "/api/tools", "view", api.tools),
        ("POST", "/api/call/{tool}", "view", api.call),  # and what the tool asks for
        ("GET", "/api/jobs", "view", api.jobs),
        ("GET", "/api/jobs/{id}", "view", api.job),
        ("GET", "/api/jobs/{id}/attempt", "admin", api.job_attempt),
        ("GET", "/api/jobs/{id}/logs", "view", api.job_logs),
        ("GET", "/api/jobs/{id}/follow", "view", api.job_follow),
        ("POST", "/api/jobs/{id}/cancel", "operate", api.job_cancel),
        ("GET", "/api/runs", "view", api.runs),
        ("GET", "/api/runs/{id}", "view", api.run),
        ("GET", "/api/runs/{id}/follow", "view", api.run_follow),
        ("POST", "/api/runs", "operate", api.run_start),
        ("POST", "/api/plans", "operate", api.plan_draft),
        ("GET", "/api/runs/{id}/steps/{step}", "view", api.run_step),
        ("POST", "/api/runs/{id}/tell", "operate", api.run_tell),
        ("POST", "/api/runs/{id}/stop", "operate", api.run_stop),
        ("POST", "/api/runs/{id}/resume", "operate", api.run_resume),
        ("GET", "/api/approvals", "view", api.approvals),
        ("GET", "/api/approvals/{id}", "view", api.approval),
        ("POST", "/api/approvals/{id}", "approve", api.decide),
        ("GET", "/api/models", "view", api.models),
        ("POST", "/api/models", "admin", api.model_add),
        ("DELETE", "/api/models/{id:path}", "admin", api.model_remove),
        ("GET", "/api/reports", "view", api.reports),
        ("GET", "/api/reports/{id}", "view", api.report),
        ("GET", "/api/artifacts", "view", api.artifacts),
        ("GET", "/api/requests", "view", api.requests),
        ("GET", "/api/requests/{id}", "view", api.request),
        ("POST", "/api/explain", "view", api.explain),
        ("GET", "/metrics", "view", api.metrics),
        ("GET", "/api/ledger", "view", api.ledger),
        ("GET", "/api/quotes", "view", api.quotes),
        ("GET", "/api/journal", "view", api.journal),
        ("GET", "/api/journal/verify", "view", api.journal_verify),
        ("GET", "/api/notifiers", "view", api.notifiers),
        ("POST", "/api/notifiers/test", "admin", api.notifiers_test),
        ("GET", "/api/tokens", "admin", api.tokens),
        ("POST", "/api/tokens", "admin", api.token_create),
        ("POST", "/api/tokens/{id}/revoke", "admin", api.token_revoke),
    ]
    turned_away: dict[Endpoint, TurnedAway] = {
        api.decide: api.note_refusal,
        api.token_create: api.note_token_refusal,
        api.token_revoke: api.note_token_refusal,
    }
    guarded = [
        Route(path, _for(role, endpoint, turned_away.get(endpoint)), methods=[method], name=path)
        for method, path, role, endpoint in table
    ]
    return [Route("/health", _health, methods=["GET"]), *guarded]


def _for(
    role: Role, endpoint: Endpoint, turned_away: TurnedAway | None
) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint for callers with that role; `turned_away` is told of the others."""

    async def checked(request: Request) -> Response:
        caller = caller_of(request.scope, "cli")
        if turned_away is not None and not caller.may(role):
            turned_away(request, caller)
        return await endpoint(request, require(caller, role))

    return checked


async def _health(request: Request) -> Response:
    return JSONResponse({"ok": True, "name": "agentd"})


class _Api:
    def __init__(self, kernel: Kernel, shutdown: Callable[[], None]) -> None:
        self._kernel, self._shutdown, self._since = kernel, shutdown, time.monotonic()

    def _seen(self, caller: Caller) -> Seen:
        return self._kernel.seen_by(caller)

    # --- the daemon --------------------------------------------------------------------------

    async def status(self, request: Request, caller: Caller) -> Response:
        return _json(
            {
                "version": self._kernel.version,
                "pid": os.getpid(),
                "uptime_s": round(time.monotonic() - self._since, 1),
                "state_dir": self._kernel.state_dir,
                "tools": len(self._kernel.calls.tools),
                "capture": self._kernel.capture.model_dump() if self._kernel.capture.aliases else None,
                "principal": caller.principal,
                "role": caller.role,
            }
        )

    async def stop(self, request: Request, caller: Caller) -> Response:
        self._shutdown()
        return _json({"stopping": True})

    # --- calls and jobs ----------------------------------------------------------------------

    async def tools(self, request: Request, caller: Caller) -> Response:
        return _json(
            [
                {
                    "name": tool.name, "title": tool.title, "description": tool.description,
                    "launches": tool.launches, "inputSchema": input_schema(tool.arguments),
                }
                for tool in self._kernel.calls.tools.values()
            ]
        )  # fmt: skip

    async def call(self, request: Request, caller: Caller) -> Response:
        body = await body_of(request)
        name = request.path_params["tool"]
        tool = self._kernel.calls.tools.get(name)
        arguments = body.get("arguments", {})
        if not isinstance(arguments, dict):
            raise InputError("'arguments' must be an object")
        arguments = cast("dict[str, Any]", arguments)
        if tool is None:
            self._kernel.approvals.refuse_as_call(name, arguments, caller)
            raise NotFound("tool", name, self._kernel.calls.tools)
        require(caller, role_for(tool))
        if cwd := _text(body, "cwd"):
            caller = caller_of(request.scope, "cli", cwd=Path(cwd))
        return _json(await self._kernel.calls.call(name, arguments, caller, key=_text(body, "key")))

    async def jobs(self, request: Request, caller: Caller) -> Response:
        state = request.query_params.get("state")
        return _json(self._seen(caller).jobs.list(state=state, limit=_number(request, "limit", 50)))

    async def job(self, request: Request, caller: Caller) -> Response:
        return _json(self._seen(caller).jobs.get(_id(request)))

    async def job_logs(self, request: Request, caller: Caller) -> Response:
        return _json({"lines": self._seen(caller).jobs.logs(_id(request), tail=_number(request, "tail", 50))})

    async def job_attempt(self, request: Request, caller: Caller) -> Response:
        """Where the newest attempt lies on this machine: for people and benchmarks."""
        return _json({"folder": self._kernel.attempt_folder(_id(request))})

    async def job_follow(self, request: Request, caller: Caller) -> Response:
        self._seen(caller).jobs.get(_id(request))  # an unknown id is a 404, not an empty stream
        return _lines(self._seen(caller).jobs.follow(_id(request)))

    async def job_cancel(self, request: Request, caller: Caller) -> Response:
        return _json(await self._seen(caller).jobs.cancel(_id(request), by=caller.principal))

    # --- runs --------------------------------------------------------------------------------

    async def runs(self, request: Request, caller: Caller) -> Response:
        return _json(self._seen(caller).runs.list(limit=_number(request, "limit", 50)))

    async def run(self, request: Request, caller: Caller) -> Response:
        return _json(self._seen(caller).runs.view(_id(request)))

    async def run_follow(self, request: Request, caller: Caller) -> Response:
        self._seen(caller).runs.view(_id(request))
        return _lines(self._seen(caller).runs.follow(_id(request)))

    async def run_stop(self, request: Request, caller: Caller) -> Response:
        return _json(await self._seen(caller).runs.stop(_id(request)))

    async def run_resume(self, request: Request, caller: Caller) -> Response:
        body = await body_of(request) if await request.body() else {}
        return _json(await self._seen(caller).runs.resume(_id(request), body.get("limits")))

    async def run_start(self, request: Request, caller: Caller) -> Response:
        """Pursue a goal: ``{"goal": …, "model": …, "limits": {…}, "cwd": …}``."""
        body = await body_of(request)
        caller = _from_folder(request, body, caller)
        return _json(self._kernel.runs.pursue(_text(body, "goal"), _wanted(body), caller))

    async def plan_draft(self, request: Request, caller: Caller) -> Response:
        """What a plan would take, before it is carried out: ``{"plan": text, "params": {…}, "cwd": …}``.

        With ``{"goal": …, "model": …, "limits": {…}, "cwd": …}`` a model drafts one.
        """
        body = await body_of(request)
        caller = _from_folder(request, body, caller)
        if plan := _text(body, "plan"):
            return _json(await self._kernel.drafts.foresee(plan, _params(body), caller))
        return _json(await self._kernel.drafts.draft(_text(body, "goal"), _wanted(body), caller))

    async def run_step(self, request: Request, caller: Caller) -> Response:
        return _json(self._seen(caller).runs.step(_id(request), request.path_params["step"]))

    async def run_tell(self, request: Request, caller: Caller) -> Response:
        text = _text(await body_of(request), "text")
        return _json(self._seen(caller).runs.tell(_id(request), text, caller))

    # --- approvals ---------------------------------------------------------------------------

    async def approvals(self, request: Request, caller: Caller) -> Response:
        state = request.query_params.get("state", "pending")
        return _json(self._seen(caller).approvals.list(state=None if state == "all" else state))

    async def approval(self, request: Request, caller: Caller) -> Response:
        return _json(self._seen(caller).approvals.get(_id(request)))

    def note_refusal(self, request: Request, caller: Caller) -> None:
        self._kernel.approvals.refused(_id(request), caller, "")

    async def decide(self, request: Request, caller: Caller) -> Response:
        """The kernel refuses an agent, whatever its role, and journals who tried."""
        body = await body_of(request)
        verdict = body.get("verdict")
        if verdict not in ("approve", "deny"):
            raise InputError(f"'verdict' must be 'approve' or 'deny', not {verdict!r}")
        return _json(
            await self._kernel.approvals.decide(_id(request), verdict, caller, _text(body, "reason"))
        )

    # --- tokens ------------------------------------------------------------------------------

    async def tokens(self, request: Request, caller: Caller) -> Response:
        return _json(self._kernel.tokens.list())

    async def token_create(self, request: Request, caller: Caller) -> Response:
        """The one answer that holds a token: nothing on its way may keep it."""
        try:
            wanted = Wanted.model_validate(await body_of(request))
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(map(str, first["loc"]))
            raise InputError(f"{where}: {first['msg']}, not {first['input']!r}") from error
        made = self._kernel.tokens.create(wanted, caller)
        return Response(made.model_dump_json(), media_type="application/json", headers=NOT_KEPT)

    async def token_revoke(self, request: Request, caller: Caller) -> Response:
        return _json(self._kernel.tokens.revoke(_id(request), caller))

    def note_token_refusal(self, request: Request, caller: Caller) -> None:
        self._kernel.tokens.refused(caller, request.url.path)

    # --- notifiers ---------------------------------------------------------------------------

    async def notifiers(self, request: Request, caller: Caller) -> Response:
        return _json(self._kernel.notifiers.list())

    async def notifiers_test(self, request: Request, caller: Caller) -> Response:
        return _json(await self._kernel.notifiers.test(_text(await body_of(request), "name")))

    # --- what there is -----------------------------------------------------------------------

    async def models(self, request: Request, caller: Caller) -> Response:
        catalog = self._kernel.catalog
        health = self._kernel.routing.health()
        return _json({"models": catalog.list(), "aliases": catalog.aliases(), "health": health})

    async def model_add(self, request: Request, caller: Caller) -> Response:
        return _json(self._kernel.endpoints.add(await body_of(request), caller))

    async def model_remove(self, request: Request, caller: Caller) -> Response:
        return _json(self._kernel.endpoints.remove(_id(request), caller))

    async def reports(self, request: Request, caller: Caller) -> Response:
        return _json(self._kernel.reports.list())

    async def report(self, request: Request, caller: Caller) -> Response:
        return _json(self._kernel.reports.get(_id(request)))

    async def artifacts(self, request: Request, caller: Caller) -> Response:
        return _json(self._kernel.artifacts.list(request.query_params.get("kind")))

    async def requests(self, request: Request, caller: Caller) -> Response:
        return _json(self._seen(caller).requests.list(_number(request, "limit", 50)))

    async def request(self, request: Request, caller: Caller) -> Response:
        """The record of one, with what its model and its prompt are, and when its alias was last changed."""
        row = self._seen(caller).requests.get(_id(request))
        model = next((m for m in self._kernel.catalog.list() if m.name == row.model), None)
        changes = self._seen(caller).journal.tail(100, subject=row.asked, kind="alias.set")
        before = [change for change in changes if getattr(change, "at", 0.0) <= row.at]
        kept = {"kind", "base", "source", "digest", "path", "upstream"}
        prompts = [
            f"{each.name}@{str(each.meta.get('digest'))[:12]}"
            for each in self._kernel.artifacts.list("prompt")
            if row.trace.get("system") and each.meta.get("system") == row.trace["system"]
        ]
        return _json(
            {
                **row.model_dump(),
                "prompts": list(dict.fromkeys(prompts)),
                "answered_by": model.model_dump(include=kept, exclude_defaults=True) if model else {},
                "alias_change": max(before, key=lambda change: getattr(change, "at", 0.0), default=None),
            }
        )

    async def explain(self, request: Request, caller: Caller) -> Response:
        """Whom the gateway would ask. The body is that of a request; `api` names its path after /v1/."""
        api = request.query_params.get("api", "chat/completions")
        if api not in APIS:
            raise InputError(f"{api!r} is no path of the gateway", hint=f"One of {', '.join(APIS)}")
        return _json(await self._kernel.routing.explain(await body_of(request), api=api))

    async def metrics(self, request: Request, caller: Caller) -> Response:
        return Response(self._kernel.metrics.text(), media_type=CONTENT_TYPE)

    async def ledger(self, request: Request, caller: Caller) -> Response:
        names = ("principal", "project", "subject", "before")
        which = {name: request.query_params.get(name) for name in names}
        return _json(self._seen(caller).ledger.summary(_number(request, "limit", 50), **which))

    async def quotes(self, request: Request, caller: Caller) -> Response:
        return _json(self._kernel.quotes.kinds())

    async def journal(self, request: Request, caller: Caller) -> Response:
        query = request.query_params
        return _json(
            self._seen(caller).journal.tail(
                _number(request, "tail", 50),
                subject=query.get("subject"),
                kind=query.get("kind"),
                since=_seconds(request, "since"),
            )
        )

    async def journal_verify(self, request: Request, caller: Caller) -> Response:
        seq, _, digest = request.query_params.get("head", "").partition(":")
        head = (int(seq), digest) if seq.isascii() and seq.isdecimal() and digest else None
        return _json(await asyncio.to_thread(self._kernel.journal.verify, head))


# --- errors ----------------------------------------------------------------------------------


async def on_agentd_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, AgentdError)
    return JSONResponse({"error": error_of(error)}, status_code=status_of(error))


async def on_http_error(request: Request, error: Exception) -> Response:
    """Starlette's own: no such route, no such method."""
    assert isinstance(error, HTTPException)
    code = {404: "not_found", 405: "no_such_method"}.get(error.status_code, "invalid")
    message = f"{request.method} {request.url.path}: {error.detail}"
    return JSONResponse(error_body(code, message), status_code=error.status_code, headers=error.headers)


async def on_crash(request: Request, error: Exception) -> Response:
    """Anything else: the log gets the traceback, the caller an id to find it by."""
    incident = secrets.token_hex(4)
    log.error("%s %s failed, incident %s", request.method, request.url.path, incident)
    hint = f"See incident {incident} in the daemon's log."
    return JSONResponse(error_body("internal", "The daemon failed on this request", hint), status_code=500)


# --- requests and answers --------------------------------------------------------------------


async def body_of(request: Request) -> dict[str, Any]:
    """The JSON object in the body. Raises `InputError` for anything else."""
    try:
        body = from_json(request.scope.get(BODY) or await request.body() or b"{}")
    except ValueError as error:
        raise InputError(f"The body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise InputError("The body must be a JSON object")
    return cast("dict[str, Any]", body)


async def streamed(
    items: AsyncIterator[Any], encode: Callable[[Any], bytes], encode_error: Callable[[AgentdError], bytes]
) -> AsyncGenerator[bytes, None]:
    """Encode `items` as they come. An error after the status line is told in the stream.

    The source is closed with the stream: a client that hangs up leaves nothing running.
    """
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(items, AsyncGenerator):
            await stack.enter_async_context(contextlib.aclosing(cast("AsyncGenerator[Any, None]", items)))
        try:
            async for item in items:
                yield encode(item)
        except AgentdError as error:
            yield encode_error(error)


def _id(request: Request) -> str:
    return request.path_params["id"]


def _text(body: dict[str, Any], name: str) -> str:
    value = body.get(name) or ""
    if not isinstance(value, str):
        raise InputError(f"{name!r} must be a string, not {value!r}")
    return value


def _from_folder(request: Request, body: Mapping[str, Any], caller: Caller) -> Caller:
    """The caller in the folder that the body names, which paths are relative to."""
    cwd = _text(dict(body), "cwd")
    return caller_of(request.scope, "cli", cwd=Path(cwd)) if cwd else caller


def _wanted(body: Mapping[str, Any]) -> goals.Wanted:
    return goals.Wanted.of({name: value for name, value in body.items() if name not in ("goal", "cwd")})


def _params(body: Mapping[str, Any]) -> dict[str, Any]:
    params = body.get("params") or {}
    if not isinstance(params, dict):
        raise InputError(f"'params' must be an object, not {params!r}")
    return cast("dict[str, Any]", params)


def _number(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not (text.isascii() and text.isdecimal() and 1 <= int(text[:9]) <= MAX_LINES):
        raise InputError(f"{name!r} must be a whole number from 1 to {MAX_LINES}, not {text!r}")
    return int(text)


def _seconds(request: Request, name: str) -> float | None:
    text = request.query_params.get(name)
    try:
        return None if text is None else float(text)
    except ValueError as error:
        raise InputError(f"{name!r} must be seconds since the epoch, not {text!r}") from error


def _json(value: Any) -> Response:
    return Response(dump(value), media_type="application/json")


def _lines(views: AsyncIterator[Any]) -> Response:
    def line(value: Any) -> bytes:
        return dump(value).encode() + b"\n"

    def error_line(error: AgentdError) -> bytes:
        return line({"error": error_of(error)})

    return StreamingResponse(streamed(views, line, error_line), media_type="application/x-ndjson")
