"""The guard in front of every route.

`Guard` is pure ASGI and asks, in this order: a known Host? a known Origin? not too fast? a valid
token? and only then reads the body: not too large, not too slow, not too deep. Pages for people are
let through without a token, with the session of the browser if it has one: they answer for themselves,
and nothing else takes a cookie.

What this does not cover: TLS (put a reverse proxy in front of any bind address but loopback),
many clients that each stay below the limits, and slow readers of large answers.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import re
import time
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any
from urllib.parse import urlsplit

from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from agentd.errors import Unauthorized
from agentd.locations import PROJECT_HEADER
from agentd.policy.callers import DEFAULT_PROJECT
from agentd.server.oauth import Resource
from agentd.server.ports import Caller, Role, Tokens
from agentd.server.sessions import Session, Sessions

__all__ = [
    "BODY",
    "CALLER",
    "OPEN_PATHS",
    "SESSION",
    "Gate",
    "Guard",
    "Rate",
    "caller_of",
    "cookie_name",
    "is_page",
    "json_depth",
    "require",
]

log = logging.getLogger(__name__)

CALLER = "agentd.caller"
"""Where the guard leaves the `Caller` in the ASGI scope."""

BODY = "agentd.body"
"""The body, whole, as bytes."""

SESSION = "agentd.session"
"""The same of a page for people: the `Session` of the browser, None where it is not signed in."""

OPEN_PATHS = frozenset({"/health"})
"""Answered without a token."""

LOOKING_AGAIN = b"again"
"""The query of a page that refreshes itself."""

PAGES = ("/login", "/logout", "/approve")

LOOPBACK = ("127.0.0.1", "localhost", "[::1]")


@dataclass(frozen=True, slots=True)
class Gate:
    """What the guard lets through. `hosts` are names without a port, `origins` are complete."""

    hosts: frozenset[str] = frozenset(LOOPBACK)
    origins: frozenset[str] = frozenset()
    body_bytes: int = 4 * 1024 * 1024
    body_seconds: float = 30.0
    json_depth: int = 64
    calls_per_second: float = 100.0
    burst: int = 500
    asks_per_second: float = 5_000.0
    """Of models, through the gateway: what they cost is limited by budgets, and a token's own rate."""

    @classmethod
    def around(cls, host: str, hosts: Iterable[str] = (), origins: Iterable[str] = ()) -> Gate:
        """For a server bound to `host`: loopback, that address unless it is a wildcard, and `hosts`."""
        bound = () if host in ("", "0.0.0.0", "::") else (f"[{host}]" if ":" in host else host,)
        return cls(
            hosts=frozenset(name.lower() for name in (*LOOPBACK, *bound, *hosts)),
            origins=frozenset(origin.lower().rstrip("/") for origin in origins),
        )


@dataclass(frozen=True, slots=True)
class Refusal(Exception):
    """What the guard answers instead of the app."""

    status: int
    code: str
    message: str
    hint: str = ""
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Rate:
    """A token bucket for each client: `burst` at once, then `per_second`. Remembers the last 4,096."""

    def __init__(self, per_second: float, burst: int) -> None:
        self._per_second, self._burst = per_second, burst
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str, now: float | None = None, *, per_minute: int | None = None) -> bool:
        """Whether `client` may make one more call at monotonic time `now`; `per_minute` is its own limit."""
        now = time.monotonic() if now is None else now
        per_second = self._per_second if per_minute is None else per_minute / 60
        burst = self._burst if per_minute is None else max(1, per_minute)
        level, since = self._buckets.pop(client, (float(burst), now))
        level = min(burst, level + (now - since) * per_second)
        allowed = level >= 1
        self._buckets[client] = (level - 1 if allowed else level, now)
        if len(self._buckets) > 4096:
            self._buckets.popitem(last=False)
        return allowed


class Guard:
    """ASGI middleware; see the module's docstring."""

    def __init__(
        self,
        app: ASGIApp,
        tokens: Tokens,
        gate: Gate | None = None,
        oauth: Resource | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        self._app, self._tokens, self._gate, self._oauth = app, tokens, gate or Gate(), oauth
        self._sessions = sessions
        self._open = OPEN_PATHS | (oauth.open_paths if oauth else frozenset())
        self._challenge = (oauth.challenge if oauth else 'Bearer realm="agentd"').encode()
        self._rate = Rate(self._gate.calls_per_second, self._gate.burst)
        self._asks = Rate(self._gate.asks_per_second, round(self._gate.asks_per_second))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            headers = _headers(scope)
            self._check_host(headers)
            session = self._session(scope, headers)
            caller = _for_project(await self._check_token(scope, headers, session), headers)
            body = await _read_body(headers, receive, self._gate)
        except Refusal as refusal:
            log.info("refused %s %s: %s", scope["method"], scope["path"], refusal.message)
            await _refuse(refusal, send)
            return
        except ClientGone:
            return
        known = {**scope, CALLER: caller, SESSION: session, BODY: body}
        await self._app(known, _replay(body, receive), send)

    def _check_host(self, headers: dict[bytes, list[bytes]]) -> None:
        host = _single(headers, b"host").lower()
        if _hostname(host) not in self._gate.hosts:
            hint = "Add it to [server] hosts in agentd.toml."
            raise Refusal(421, "misdirected", f"Host {host!r} is not served here", hint)
        origin = _single(headers, b"origin").lower()
        if origin and urlsplit(origin).netloc != host and origin not in self._gate.origins:
            hint = "Add it to [server] origins in agentd.toml."
            raise Refusal(403, "bad_origin", f"Origin {origin!r} is not allowed", hint)

    def _session(self, scope: Scope, headers: dict[bytes, list[bytes]]) -> Session | None:
        """Of a browser that asks for a page; everywhere else a cookie is nothing."""
        if self._sessions is None or not is_page(scope["path"]):
            return None
        name = cookie_name(_single(headers, b"host"))
        cookies = cookie_parser(_single(headers, b"cookie"))
        return self._sessions.find(cookies.get(name, ""), by_itself=scope["query_string"] == LOOKING_AGAIN)

    async def _check_token(
        self, scope: Scope, headers: dict[bytes, list[bytes]], session: Session | None
    ) -> Caller | None:
        bearer = _bearer(headers)
        caller = self._tokens.check(bearer) if bearer else None
        if caller is None and bearer and self._oauth is not None:
            caller = await self._oauth.check(bearer)
        if not self._is_in_time(scope, session.caller if session else caller):
            wait_s = 1 if caller is None or caller.per_minute is None else math.ceil(60 / caller.per_minute)
            raise Refusal(
                429,
                "too_fast",
                "Too many requests",
                f"Wait {wait_s} s.",
                headers=((b"retry-after", str(wait_s).encode()),),
            )
        if caller is None and scope["path"] not in self._open and not is_page(scope["path"]):
            raise Refusal(
                401,
                "unauthorized",
                "The bearer token is missing, wrong or expired",
                "Send 'Authorization: Bearer TOKEN'; the daemon's owner makes tokens.",
                headers=((b"www-authenticate", self._challenge),),
            )
        return caller

    def _is_in_time(self, scope: Scope, caller: Caller | None) -> bool:
        """Whether this client has not asked too often."""
        if caller is None:
            return self._rate.take(f"address:{(scope.get('client') or ('',))[0]}")
        if not scope["path"].startswith("/v1/"):
            return self._rate.take(f"principal:{caller.principal}")
        if caller.per_minute is None:
            return self._asks.take(f"principal:{caller.principal}")
        return self._asks.take(f"token:{caller.token}", per_minute=caller.per_minute)


def _bearer(headers: dict[bytes, list[bytes]]) -> str:
    """The token of a request, as OpenAI's clients send it or as Anthropic's do."""
    scheme, _, bearer = _single(headers, b"authorization").partition(" ")
    return bearer.strip() if scheme.lower() == "bearer" else _single(headers, b"x-api-key")


def _for_project(caller: Caller | None, headers: dict[bytes, list[bytes]]) -> Caller | None:
    """The caller, booked on the project that the request names. A token's own project cannot be left."""
    named = _single(headers, PROJECT_HEADER.encode())
    if caller is None or not named or named == caller.project:
        return caller
    if not _PROJECT.fullmatch(named):
        raise Refusal(
            400, "invalid", f"{named!r} is no name of a project", "Use letters, digits, '.', '_', '-'"
        )
    if caller.project != DEFAULT_PROJECT:
        raise Refusal(403, "denied", f"This token works for project {caller.project!r}, not for {named!r}")
    return replace(caller, project=named)


def is_page(path: str) -> bool:
    """Whether it is for a person's browser: it takes a session, and no token."""
    return path in PAGES or path.startswith("/approve/")


def cookie_name(host: str) -> str:
    """The name of the session's cookie: with the port, since cookies do not tell ports apart."""
    port = host.rpartition(":")[2]
    return f"agentd-session-{port}" if port.isdigit() else "agentd-session"


class ClientGone(Exception):
    """The client hung up while it was sending."""


def caller_of(scope: Scope, surface: str, **changes: Any) -> Caller:
    """Who the guard let in, as a caller through `surface`."""
    caller: Caller | None = scope.get(CALLER)
    if caller is None:
        raise Unauthorized("The request carries no token")
    return replace(caller, surface=surface, **changes)


def require(caller: Caller, role: Role) -> Caller:
    """Raises `Unauthorized` when the caller's role is below `role`."""
    if not caller.may(role):
        raise Unauthorized(
            f"{caller.principal!r} has role {caller.role!r}, this needs {role!r}",
            hint=f"Use a token with role {role!r}.",
        )
    return caller


# --- the body --------------------------------------------------------------------------------


async def _read_body(headers: dict[bytes, list[bytes]], receive: Receive, gate: Gate) -> bytes:
    declared = _single(headers, b"content-length")
    if declared.isdigit() and int(declared) > gate.body_bytes:
        raise _too_large(gate)
    try:
        async with asyncio.timeout(gate.body_seconds):
            body = await _collect(receive, gate)
    except TimeoutError:
        raise Refusal(408, "too_slow", f"The body took longer than {gate.body_seconds:g} s") from None
    if json_depth(body, gate.json_depth) > gate.json_depth:
        raise Refusal(400, "too_deep", f"The JSON is nested deeper than {gate.json_depth} levels")
    return body


async def _collect(receive: Receive, gate: Gate) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        body += message.get("body", b"")
        if len(body) > gate.body_bytes:
            raise _too_large(gate)
        if not message.get("more_body", False):
            return bytes(body)


def _too_large(gate: Gate) -> Refusal:
    hint = "Name a file instead of sending it."
    return Refusal(413, "too_large", f"The body is larger than {gate.body_bytes} bytes", hint)


_PROJECT = re.compile(r"[\w.-]{1,64}", re.ASCII)
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEPS = bytes.maketrans(b"[{]}", b"\x02\x02\x00\x00")


def json_depth(body: bytes, enough: int = 0) -> int:
    """How deep the brackets in `body` nest, without parsing it; 0 when there are at most `enough` of them."""
    if body.count(b"[") + body.count(b"{") <= enough:
        return 0
    steps = _STRING.sub(b"", body).translate(_STEPS, _NOT_BRACKETS)
    return max(accumulate(step - 1 for step in steps), default=0)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand the app the body that has been read, then whatever comes next (a disconnect)."""
    first: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return first.pop() if first else await receive()

    return replay


# --- headers and refusals --------------------------------------------------------------------


def _headers(scope: Scope) -> dict[bytes, list[bytes]]:
    headers: dict[bytes, list[bytes]] = {}
    for name, value in scope["headers"]:
        headers.setdefault(name, []).append(value)
    return headers


def _single(headers: dict[bytes, list[bytes]], name: bytes) -> str:
    """The header's value, "" when absent. Two of them would be read differently by different parties."""
    values = headers.get(name, [])
    if len(values) > 1:
        raise Refusal(400, "invalid", f"The header {name.decode()!r} comes more than once")
    return values[0].decode("latin-1") if values else ""


def _hostname(host: str) -> str:
    name, _, port = host.rpartition(":")
    return name if name and port.isdigit() else host


async def _refuse(refusal: Refusal, send: Send) -> None:
    error = {"code": refusal.code, "message": refusal.message, "hint": refusal.hint}
    body = json.dumps({"error": error}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        # The rest of the body has not been read: the connection cannot be used again.
        (b"connection", b"close"),
        *refusal.headers,
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
