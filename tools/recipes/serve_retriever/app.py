"""The service over HTTP: who may ask, for what, and what a refusal looks like."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from typing import Any

from answers import sentences, spans, support
from bodies import (
    Addition,
    Claims,
    Documents,
    Drop,
    Embeddings,
    Features,
    Finish,
    Question,
    Ranking,
    Scope,
    Search,
    Spans,
    Who,
)
from problems import Problem
from pydantic import BaseModel, ValidationError
from retriever import Retriever
from searching import features, ranking, search
from vectors import embeddings

BODY_BYTES = 128_000_000
ROUTES: dict[str, tuple[type[BaseModel], Callable[[Retriever, Any], dict[str, Any]]]] = {
    "/collections": (Who, Retriever.collections),
    "/documents": (Scope, Retriever.documents),
    "/embed": (Documents, Retriever.embed),
    "/add": (Addition, Retriever.add),
    "/drop": (Drop, Retriever.drop),
    "/features": (Features, features),
    "/finish": (Finish, Retriever.finish),
    "/ranking": (Ranking, ranking),
    "/search": (Search, search),
    "/sentences": (Question, sentences),
    "/spans": (Spans, spans),
    "/support": (Claims, support),
    "/v1/embeddings": (Embeddings, embeddings),
}


def make_app(retriever: Retriever, token: str) -> Any:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def answer(request: Request) -> Response:
        try:
            authorize(request.headers.get("authorization", ""), token)
            kind, method = ROUTES[request.url.path]
            ask = parse(kind, await body_of(request))
            return JSONResponse(await run_in_threadpool(method, retriever, ask))
        except Problem as problem:
            told = {"error": {"message": problem.message, "hint": problem.hint}}
            return JSONResponse(told, problem.status)
        except ClientDisconnect:
            return Response(status_code=400)

    async def health(request: Request) -> Response:
        return JSONResponse({"ready": True, "embedder": retriever.embedder.name})

    routes = [Route(path, answer, methods=["POST"]) for path in ROUTES]
    return Starlette(routes=[Route("/health", health), *routes])


def authorize(header: str, token: str) -> None:
    if not hmac.compare_digest(header.encode(), f"Bearer {token}".encode()):
        raise Problem(401, "The bearer token is missing or wrong")


async def body_of(request: Any) -> bytes:
    """The body, refused as soon as it is longer than allowed."""
    parts_: list[bytes] = []
    length = 0
    async for part in request.stream():
        length += len(part)
        if length > BODY_BYTES:
            raise Problem(
                413, f"The body is longer than {BODY_BYTES:,} bytes", "send fewer documents at once"
            )
        parts_.append(part)
    return b"".join(parts_)


def parse(kind: type[BaseModel], data: bytes) -> BaseModel:
    try:
        return kind.model_validate_json(data or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise Problem(422, f"{field or 'body'}: {first['msg']}") from None
