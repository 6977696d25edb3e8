"""OpenAI's API for every catalog model and alias, and Anthropic's where a model's endpoint has it.

Only the wire: which model answers, what it may cost and whether it may be asked is the kernel's
decision. Fields that are not known here are passed on as they came.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any

from pydantic_core import to_json
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agentd.errors import AgentdError, ClientGone
from agentd.locations import CAPTURE_HEADER
from agentd.redaction import redact
from agentd.router.decide import APIS
from agentd.sdk import Api
from agentd.server.api import body_of, streamed
from agentd.server.auth import caller_of, require
from agentd.server.ports import Asked, Caller, Inquiry, Kernel
from agentd.server.wire import status_of

__all__ = ["Shortcut", "gateway_routes"]

log = logging.getLogger(__name__)

KINDS = {402: "insufficient_quota", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
"""OpenAI's words for our statuses."""
FORWARDED: Mapping[Api, tuple[str, ...]] = {"messages": ("anthropic-version", "anthropic-beta")}
"""Headers that belong to an API, and go on to the endpoint."""
LOOK_AFTER_S = 1.0
KEY_HEADER = "x-agentd-key"
"""Requests with the same value are answered by the same model of an alias."""


def gateway_routes(kernel: Kernel) -> list[Route]:
    """``POST /v1/chat/completions`` and its like, ``GET /v1/models`` and ``POST /v1/feedback``."""

    async def models(request: Request) -> Response:
        caller = require(caller_of(request.scope, "gateway"), "infer")
        named = [(model.name, model.kind) for model in kernel.catalog.list()]
        named += [(alias.name, "alias") for alias in kernel.catalog.aliases()]
        data = [
            {"id": name, "object": "model", "created": 0, "owned_by": kind}
            for name, kind in named
            if caller.may_ask(name)
        ]
        return JSONResponse({"object": "list", "data": data})

    def asking(api: Api) -> Callable[[Request], Awaitable[Response]]:
        async def ask(request: Request) -> Response:
            caller = require(caller_of(request.scope, "gateway"), "infer")
            body = await body_of(request)
            inquiry = inquiry_of(request, api, body, caller)
            headers = {"x-request-id": inquiry.id}
            if not body.get("stream") or api == "embeddings":
                async with _WhileConnected(request):
                    reply = await kernel.gateway.complete(inquiry)
                headers["x-agentd-model"] = _ascii(reply["agentd"]["model"])
                return Response(to_json(reply), media_type="application/json", headers=headers)

            def started(asked: Asked) -> None:
                headers["x-agentd-model"] = _ascii(asked.model)

            chunks = kernel.gateway.stream(inquiry, started)
            # The status line waits for the first event, so that a refusal is an error and no broken stream.
            async with _WhileConnected(request):
                first = await anext(chunks, b"")
            stream = streamed(_prepend(first, chunks), bytes, lambda error: _error_event(api, error))
            headers["cache-control"] = "no-cache"
            return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

        return ask

    async def feedback(request: Request) -> Response:
        caller = require(caller_of(request.scope, "gateway"), "infer")
        return JSONResponse(kernel.gateway.feedback(await body_of(request), caller))

    return [
        *(Route(f"/v1/{api}", _in_words(asking(api), api), methods=["POST"]) for api in APIS),
        Route("/v1/models", _in_words(models), methods=["GET"]),
        Route("/v1/feedback", _in_words(feedback), methods=["POST"]),
    ]


class Shortcut:
    """ASGI: what is posted to a path of `routes` goes to its endpoint, everything else to `app`.

    The endpoints tell their own errors, so the layers of `app` would do nothing but take time.
    """

    def __init__(self, app: ASGIApp, routes: Sequence[Route]) -> None:
        self._app = app
        self._endpoints = {route.path: route.endpoint for route in routes if "POST" in (route.methods or ())}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        if not is_post or (endpoint := self._endpoints.get(scope["path"])) is None:
            await self._app(scope, receive, send)
            return
        response: Response = await endpoint(Request(scope, receive, send))
        await response(scope, receive, send)


def inquiry_of(request: Request, api: Api, body: dict[str, Any], caller: Caller) -> Inquiry:
    """A request as the kernel takes it."""
    told = request.headers
    return Inquiry(
        body,
        caller,
        api,
        key=told.get(KEY_HEADER, ""),
        keep=told.get(CAPTURE_HEADER, "on").lower() == "on",
        headers={name: told[name] for name in FORWARDED[api] if name in told} if api in FORWARDED else {},
        parent=told.get("traceparent", ""),
    )


class _WhileConnected:
    """Ends what is inside when the client leaves, which ends the work at the endpoint too.

    Looked at only after `LOOK_AFTER_S`: most requests are over by then. Raises `ClientGone`.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._watch: asyncio.Task[None] | None = None
        self._left = False

    async def __aenter__(self) -> None:
        loop = asyncio.get_running_loop()
        self._task = asyncio.current_task(loop)
        self._look = loop.call_later(LOOK_AFTER_S, self._begin)

    async def __aexit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._look.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._left and self._task is not None:
            outside = self._task.uncancel()
            if not outside and kind is not None and issubclass(kind, asyncio.CancelledError):
                raise ClientGone("Whoever asked has left") from None

    def _begin(self) -> None:
        self._watch = asyncio.get_running_loop().create_task(self._until_gone())

    async def _until_gone(self) -> None:
        while (await self._request.receive())["type"] != "http.disconnect":
            pass
        if self._task is not None:
            self._left = True
            self._task.cancel()


async def _prepend(first: bytes, rest: AsyncGenerator[bytes]) -> AsyncGenerator[bytes]:
    try:
        yield first
        async for chunk in rest:
            yield chunk
    finally:
        await rest.aclose()


def _in_words(
    endpoint: Callable[[Request], Awaitable[Response]], api: Api | None = None
) -> Callable[[Request], Awaitable[Response]]:
    """Errors in the shape that the clients of an API read."""

    async def wrapped(request: Request) -> Response:
        try:
            return await endpoint(request)
        except AgentdError as error:
            return JSONResponse(_error(error, api), status_code=status_of(error), headers=_retry_after(error))
        except Exception:
            incident = secrets.token_hex(4)
            log.exception("%s failed, incident %s", request.url.path, incident)
            message = f"The daemon failed on this request: see incident {incident} in its log"
            error = {"message": message, "type": "server_error", "param": None, "code": "internal"}
            return JSONResponse({"error": error}, status_code=500)

    return wrapped


def _error(error: AgentdError, api: Api | None = None) -> dict[str, Any]:
    status = status_of(error)
    message = redact(str(error))
    if api == "messages":
        kind = {404: "not_found_error", 429: "rate_limit_error", 403: "permission_error"}.get(
            status, "api_error" if status >= 500 else "invalid_request_error"
        )
        return {"type": "error", "error": {"type": kind, "message": message}}
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": None, "code": error.code}}


def _error_event(api: Api, error: AgentdError) -> bytes:
    """How a stream ends that cannot go on."""
    told = _error(error, api)
    if api == "responses":
        told = {"type": "error", **told["error"]}
    name = b"event: error\n" if api in ("responses", "messages") else b""
    return name + b"data: " + json.dumps(told).encode() + b"\n\n"


def _retry_after(error: AgentdError) -> dict[str, str]:
    seconds: float | None = getattr(error, "retry_after_s", None)
    return {} if seconds is None else {"retry-after": str(max(1, round(seconds)))}


def _ascii(name: str) -> str:
    return name.encode("ascii", "replace").decode()
