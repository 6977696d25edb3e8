"""Sessions of MCP over HTTP, for clients of the handshake revisions that can be asked something.

Such a client declares elicitation or sampling when it initializes; only a session can bring it a request, on
the stream of its own call, and match the reply that it posts. Everybody else stays without one.

The id of a session says what the client declared, signed with a key of the state directory and for one
principal. So nothing has to be remembered: a session that was idle too long, made room for another, or went
with a daemon that restarted is taken up again with the client's next message, and a foreign id is as none.
What is lost with it are the requests that were open; their replies find nobody, and count for nothing.

Not covered: streams are not replayed; a client that lost one calls again.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import json
import logging
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio
import mcp_types as types
from anyio.abc import TaskGroup, TaskStatus
from mcp.server.connection import Connection
from mcp.server.lowlevel import Server
from mcp.server.runner import serve_connection
from mcp.server.streamable_http import StreamableHTTPServerTransport
from mcp.shared.dispatcher import CallOptions
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.transport_context import TransportContext
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS, LATEST_HANDSHAKE_VERSION
from pydantic import ValidationError
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send

from agentd.locations import write_private

__all__ = ["Declared", "McpSessions", "declared_in", "key_in"]

log = logging.getLogger(__name__)

IDLE_S = 30 * 60.0
LIFE_S = 7 * 86_400.0
"""Older ids are unknown, and the client initializes again."""

MOST = 256
MOST_OF_ONE = 32
MOST_ENDED = 4096
KEY_FILE = "mcp-session-key"


@dataclass(frozen=True, slots=True)
class Declared:
    """What a client said of itself when it initialized, as far as it is needed later."""

    version: str
    forms: bool = False
    urls: bool = False
    samples: bool = False
    roots: bool = False

    @property
    def answers(self) -> bool:
        return self.forms or self.urls or self.samples

    def as_params(self) -> types.InitializeRequestParams:
        elicitation: dict[str, Any] = {"form": {}} if self.forms else {}
        elicitation |= {"url": {}} if self.urls else {}
        capabilities: dict[str, Any] = {"elicitation": elicitation} if elicitation else {}
        capabilities |= {"sampling": {}} if self.samples else {}
        capabilities |= {"roots": {}} if self.roots else {}
        return types.InitializeRequestParams(
            protocol_version=self.version,
            capabilities=types.ClientCapabilities.model_validate(capabilities),
            client_info=types.Implementation(name="unknown", version=""),
        )


def declared_in(body: bytes) -> Declared | None:
    """What a body says if it is a well-formed ``initialize``; cheap for every other one."""
    if b'"initialize"' not in body:
        return None
    try:
        message = json.loads(body)
        if message["method"] != "initialize" or "id" not in message:
            return None
        params = types.InitializeRequestParams.model_validate(message["params"], by_name=False)
    except (ValueError, TypeError, KeyError, ValidationError):
        return None
    asked, can = params.protocol_version, params.capabilities
    elicitation = can.elicitation
    return Declared(
        version=asked if asked in HANDSHAKE_PROTOCOL_VERSIONS else LATEST_HANDSHAKE_VERSION,
        forms=elicitation is not None and (elicitation.form is not None or elicitation.url is None),
        urls=elicitation is not None and elicitation.url is not None,
        samples=can.sampling is not None,
        roots=can.roots is not None,
    )


def key_in(folder: Path) -> bytes:
    """The key of a state directory, made when it is first asked for. Readable by its owner only."""
    file = folder / KEY_FILE
    with contextlib.suppress(FileNotFoundError, ValueError):
        if len(key := bytes.fromhex(file.read_text("ascii"))) == 32:
            return key
    key = secrets.token_bytes(32)
    write_private(file, key.hex())
    return key


class _Ids:
    """Session ids: what the client declared, when, and a signature over that and the principal."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def mint(self, declared: Declared, principal: str) -> str:
        flags = [declared.forms, declared.urls, declared.samples, declared.roots]
        fields = [declared.version, [*map(int, flags)], int(time.time()), secrets.token_hex(8)]
        said = _encoded(json.dumps(fields, separators=(",", ":")).encode())
        return f"{said}.{self._signature(said, principal)}"

    def read(self, session_id: str, principal: str) -> Declared | None:
        """None for an id that is not ours, not this principal's, or too old."""
        said, _, signature = session_id.partition(".")
        expected = self._signature(said, principal)
        if not hmac.compare_digest(signature.encode("latin-1", "replace"), expected.encode()):
            return None
        version, flags, at, _ = json.loads(base64.urlsafe_b64decode(said + "=" * (-len(said) % 4)))
        return Declared(version, *map(bool, flags)) if time.time() - at < LIFE_S else None

    def _signature(self, said: str, principal: str) -> str:
        text = f"{said}\0{principal}".encode("utf-8", "surrogatepass")
        return _encoded(hmac.digest(self._key, text, hashlib.sha256))


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class _Dispatcher(JSONRPCDispatcher[TransportContext]):
    """Its requests have ids that no other session and no daemon before this one has given.

    With small numbers, the late reply to a question that nobody waits for any more would answer a new one.
    """

    async def send_raw_request(
        self,
        method: str,
        params: Mapping[str, Any] | None,
        opts: CallOptions | None = None,
        *,
        _related_request_id: types.RequestId | None = None,
    ) -> dict[str, Any]:
        named: CallOptions = {"request_id": f"agentd-{secrets.token_hex(8)}"}
        named.update(opts or {})
        return await super().send_raw_request(method, params, named, _related_request_id=_related_request_id)


@dataclass(slots=True, eq=False)
class _Session:
    transport: StreamableHTTPServerTransport
    principal: str
    requests: int = 0
    """Under way, a stream that listens included."""


class McpSessions:
    """The sessions that are open. Enter `run` around their life."""

    def __init__(
        self, server: Server[Any], key: bytes, *, idle_s: float = IDLE_S, most_of_one: int = MOST_OF_ONE
    ) -> None:
        self._server, self._ids = server, _Ids(key)
        self._idle_s, self._most_of_one = idle_s, most_of_one
        self._open: OrderedDict[str, _Session] = OrderedDict()
        self._ended: OrderedDict[str, None] = OrderedDict()
        self._opening = asyncio.Lock()
        self._tasks: TaskGroup | None = None
        self._lifespan: Any = None

    def __len__(self) -> int:
        return len(self._open)

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncGenerator[None, None]:
        async with self._server.lifespan(self._server) as self._lifespan, anyio.create_task_group() as tasks:
            self._tasks = tasks
            try:
                yield
            finally:
                for session in self._open.values():
                    await session.transport.terminate()  # or open questions wait to be taken back
                tasks.cancel_scope.cancel()

    def close_streams(self) -> None:
        """End the streams on which clients only listen: a daemon that stops waits for what is under way."""
        for session in self._open.values():
            session.transport.close_standalone_sse_stream()

    async def begin(
        self, declared: Declared, principal: str, scope: Scope, receive: Receive, send: Send
    ) -> bool:
        """Answer an ``initialize`` with a session. False, and nothing done, when there is no room for one."""
        session = await self._take_up(self._ids.mint(declared, principal), declared, principal)
        if session is None:
            return False
        await self._carry(session, scope, receive, send)
        return True

    async def go_on(
        self, session_id: str, principal: str, scope: Scope, receive: Receive, send: Send
    ) -> bool:
        """Answer a message of a session. False, and nothing done, when there is no room for it."""
        declared = self._ids.read(session_id, principal)
        if declared is None or session_id in self._ended:
            await _refusal(404, "Session not found. Initialize again")(scope, receive, send)
            return True
        if scope["method"] == "DELETE":
            self._ended[session_id] = None
            if len(self._ended) > MOST_ENDED:
                self._ended.popitem(last=False)
        session = await self._take_up(session_id, declared, principal)
        if session is None:
            return False
        await self._carry(session, scope, receive, send)
        if session.transport.is_terminated:
            self._open.pop(session_id, None)
        return True

    async def _carry(self, session: _Session, scope: Scope, receive: Receive, send: Send) -> None:
        session.requests += 1
        try:
            await session.transport.handle_request(scope, receive, send)
        finally:
            session.requests -= 1

    async def _take_up(self, session_id: str, declared: Declared, principal: str) -> _Session | None:
        """The open session of that id, opened if it is not; None when there is no room."""
        async with self._opening:
            if (session := self._open.get(session_id)) is not None:
                self._open.move_to_end(session_id)
                return session
            if not await self._make_room(principal):
                log.warning("no room for another MCP session of %s", principal)
                return None
            transport = StreamableHTTPServerTransport(mcp_session_id=session_id, idle_timeout=self._idle_s)
            session = _Session(transport, principal)
            assert self._tasks is not None, "sessions are opened while they run"
            await self._tasks.start(self._serve, session_id, session, declared)
            self._open[session_id] = session
            return session

    async def _make_room(self, principal: str) -> bool:
        """Close the session that was used longest ago and has nothing under way, if there are too many."""
        own = {key: each for key, each in self._open.items() if each.principal == principal}
        crowd = own if len(own) >= self._most_of_one else self._open if len(self._open) >= MOST else None
        if crowd is None:
            return True
        for session_id, session in crowd.items():
            if not session.requests:
                del self._open[session_id]
                await session.transport.terminate()
                return True
        return False

    async def _serve(
        self,
        session_id: str,
        session: _Session,
        declared: Declared,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """The session's own task: until it is ended, idle for too long, or closed to make room."""
        transport = session.transport
        async with transport.connect() as (incoming, outgoing):
            dispatcher = _Dispatcher(incoming, outgoing, inline_methods=frozenset({"initialize"}))
            connection = Connection.for_loop(dispatcher, session_id=session_id)
            connection.client_params, connection.protocol_version = declared.as_params(), declared.version
            connection.initialized.set()
            task_status.started()
            try:
                with transport.idle_scope or contextlib.nullcontext():
                    await serve_connection(
                        self._server, dispatcher, connection=connection, lifespan_state=self._lifespan
                    )
            except Exception:  # the outermost edge of a session: others go on
                log.exception("an MCP session of %s failed", session.principal)
            finally:
                if self._open.get(session_id) is session:
                    del self._open[session_id]
                if not transport.is_terminated:
                    with anyio.CancelScope(shield=True):
                        await transport.terminate()


def _refusal(status: int, message: str) -> JSONResponse:
    error = {"code": types.INVALID_REQUEST, "message": message}
    return JSONResponse({"jsonrpc": "2.0", "id": None, "error": error}, status_code=status)
