"""An OpenAI-compatible endpoint for every catalog model and alias.

Only the wire: which model answers, what it may cost and whether it may be asked is the kernel's
decision. Fields that are not known here are passed on as they came.
"""

from __future__ import annotations

import json
import logging
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from agentd.errors import AgentdError, InputError
from agentd.ids import new_id
from agentd.locations import CAPTURE_HEADER
from agentd.redaction import redact
from agentd.server.api import body_of, streamed
from agentd.server.auth import caller_of, require
from agentd.server.ports import Kernel
from agentd.server.wire import dump, status_of

__all__ = ["gateway_routes"]

log = logging.getLogger(__name__)

KINDS = {402: "insufficient_quota", 403: "permission_error", 404: "not_found_error", 429: "rate_limit_error"}
"""OpenAI's words for our statuses."""


def gateway_routes(kernel: Kernel) -> list[Route]:
    """``POST /v1/chat/completions``, ``GET /v1/models`` and ``POST /v1/feedback``."""

    async def models(request: Request) -> Response:
        require(caller_of(request.scope, "gateway"), "infer")
        named = [(model.name, model.kind) for model in kernel.catalog.list()]
        named += [(alias.name, "alias") for alias in kernel.catalog.aliases()]
        data = [{"id": name, "object": "model", "created": 0, "owned_by": kind} for name, kind in named]
        return JSONResponse({"object": "list", "data": data})

    async def chat(request: Request) -> Response:
        caller = require(caller_of(request.scope, "gateway"), "infer")
        body = _checked(await body_of(request))
        request_id, keep = new_id("req"), request.headers.get(CAPTURE_HEADER, "on").lower() == "on"
        headers = {"x-request-id": request_id}
        if not body.get("stream"):
            reply = await kernel.gateway_complete(body, caller, request_id=request_id, keep=keep)
            return Response(dump(reply), media_type="application/json", headers=headers)
        chunks = kernel.gateway_stream(body, caller, request_id=request_id, keep=keep)
        # The status line waits for the first chunk, so that a refusal is an error and not a broken stream.
        first = await anext(chunks, b"")
        stream = streamed(_prepend(first, chunks), bytes, _error_event)
        headers["cache-control"] = "no-cache"
        return StreamingResponse(stream, media_type="text/event-stream", headers=headers)

    async def feedback(request: Request) -> Response:
        caller = require(caller_of(request.scope, "gateway"), "infer")
        return JSONResponse(kernel.gateway_feedback(await body_of(request), caller))

    return [
        Route("/v1/models", _in_openai_words(models), methods=["GET"]),
        Route("/v1/chat/completions", _in_openai_words(chat), methods=["POST"]),
        Route("/v1/feedback", _in_openai_words(feedback), methods=["POST"]),
    ]


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(body.get("model"), str):
        raise InputError("'model' must name a model or alias", hint="GET /v1/models lists them.")
    if not isinstance(body.get("messages"), list) or not body["messages"]:
        raise InputError("'messages' must be a list with at least one message")
    return body


async def _prepend(first: bytes, rest: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        yield first
        async for chunk in rest:
            yield chunk
    finally:
        if isinstance(rest, AsyncGenerator):
            await rest.aclose()


def _in_openai_words(
    endpoint: Callable[[Request], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    """Errors in the shape that OpenAI's clients read."""

    async def wrapped(request: Request) -> Response:
        try:
            return await endpoint(request)
        except AgentdError as error:
            return JSONResponse(_error(error), status_code=status_of(error))
        except Exception:
            incident = secrets.token_hex(4)
            log.exception("%s failed, incident %s", request.url.path, incident)
            message = f"The daemon failed on this request: see incident {incident} in its log"
            error = {"message": message, "type": "server_error", "param": None, "code": "internal"}
            return JSONResponse({"error": error}, status_code=500)

    return wrapped


def _error(error: AgentdError) -> dict[str, Any]:
    status = status_of(error)
    kind = KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": redact(str(error)), "type": kind, "param": None, "code": error.code}}


def _error_event(error: AgentdError) -> bytes:
    return b"data: " + json.dumps(_error(error)).encode() + b"\n\n"
