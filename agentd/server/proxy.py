"""``agentd mcp``: an MCP client's stdio on one side, the daemon's ``/mcp`` on the other.

Standard library only, and little of that, because an IDE starts one of these for each window and
waits for it. It knows JSON-RPC framing and MCP's HTTP headers, and nothing of tools. Messages travel
concurrently; a daemon that is being restarted is waited for.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import select
import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from typing import IO, TYPE_CHECKING, Any, cast
from urllib.parse import quote, urlsplit

from agentd import locations

if TYPE_CHECKING:  # loaded when a client first wants to hear of changes
    from agentd.server.listening import Subscriptions

__all__ = ["Proxy", "run"]

VERSION_META = "io.modelcontextprotocol/protocolVersion"
KEY_META = "agentd/idempotency-key"
SESSION_HEADER = "Mcp-Session-Id"
NAMED_BY = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    **dict.fromkeys(("tasks/get", "tasks/update", "tasks/cancel"), "taskId"),
}

NOT_FOUND = 404

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
DAEMON_GONE = -32000

CONNECT_SECONDS = 20.0
READ_SECONDS = 300.0
IDLE_SECONDS = 30.0
DRAIN_SECONDS = 2.0

Json = dict[str, Any]


def run(url: str, token: str, stdin: IO[bytes], stdout: IO[bytes]) -> int:
    """Serve until `stdin` ends, then give what is under way two seconds. Returns the exit status, 0."""
    return Proxy(url, token, stdout).serve(stdin)


class Unsent(Exception):
    """The daemon could not be reached; it has seen nothing of this message."""


class Broken(Exception):
    """The connection broke after the message had been sent; nobody knows what became of it."""


class Proxy:
    """One client. `url` is the daemon's MCP endpoint, with or without ``/mcp``."""

    def __init__(self, url: str, token: str, stdout: IO[bytes], *, connect_seconds: float = CONNECT_SECONDS):
        parts = urlsplit(url)
        self._secure, self._address = parts.scheme == "https", parts.netloc
        self._path = parts.path if parts.path not in ("", "/") else "/mcp"
        self._token, self._stdout, self.connect_seconds = token, stdout, connect_seconds
        self._cwd = quote(os.getcwd())  # noqa: PTH109 - pathlib takes longer to import than all of this
        self._version = ""  # what an old-era handshake agreed on
        self._session = ""  # its session, where the client can be asked something
        self._harmless: frozenset[str] = frozenset()  # tools that may be called twice
        self._idle: list[tuple[HTTPConnection, float]] = []
        self._open: dict[str, HTTPConnection | None] = {}  # requests under way, by the JSON of their id
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._subscriptions: Subscriptions | None = None
        self._streams: list[threading.Thread] = []
        self._closed = False

    def serve(self, stdin: IO[bytes]) -> int:
        workers: list[threading.Thread] = []
        for line in stdin:
            if not line.strip():
                continue
            message = self._parsed(line)
            if message is None:
                continue
            if message.get("method") == "notifications/cancelled":
                self._cancel(message)
                continue
            if self._listens(message):
                continue
            if "id" in message and "method" in message:
                with self._lock:
                    self._open[json.dumps(message["id"])] = None
            worker = threading.Thread(target=self._relay, args=(message, line.strip()), daemon=True)
            worker.start()
            workers = [each for each in workers if each.is_alive()] + [worker]
        self._drain(workers)
        return 0

    def _drain(self, workers: list[threading.Thread]) -> None:
        until = time.monotonic() + DRAIN_SECONDS
        for worker in workers:
            worker.join(max(0.0, until - time.monotonic()))
        with self._writing:
            self._closed = True
        with self._lock:
            for connection in filter(None, self._open.values()):
                hang_up(connection)
            for connection, _ in self._idle:
                connection.close()
        for stream in self._streams:
            stream.join(max(0.0, until - time.monotonic()) + 0.2)

    def _parsed(self, line: bytes) -> Json | None:
        try:
            message = json.loads(line)
        except (ValueError, RecursionError) as error:
            self._write_error(None, PARSE_ERROR, f"Not JSON: {error}")
            return None
        if not isinstance(message, dict):
            self._write_error(None, INVALID_REQUEST, "A message must be one JSON object")
            return None
        return cast("Json", message)

    # --- changes -----------------------------------------------------------------------------

    def _listens(self, message: Json) -> bool:
        """Whether it is about change notifications, which outlive a request; then it has been dealt with."""
        method = message.get("method")
        if method == "subscriptions/listen":
            return self._listen(message)
        if not self._version or "id" not in message:
            return False
        if method in ("resources/subscribe", "resources/unsubscribe"):
            self._subscribed().ask(message)
            return True
        if method == "resources/list":
            self._subscribed().want_list()
        return False

    def _listen(self, message: Json) -> bool:
        from agentd.server.listening import Stream, is_listen

        if not is_listen(message):
            return False

        def tell(reply: Json) -> None:
            if "error" in reply:
                with self._lock:
                    self._open.pop(json.dumps(message["id"]), None)
            self._write({"jsonrpc": "2.0", "id": message["id"], **reply} if "error" in reply else reply)

        Stream(self, message, tell).start()
        return True

    def _subscribed(self) -> Subscriptions:
        from agentd.server.listening import Subscriptions

        if self._subscriptions is None:
            self._subscriptions = Subscriptions(self)
        return self._subscriptions

    def exchange(self, message: Json, take: Callable[[Json], None]) -> None:
        """`listening.Line`: send, and hand over each reply. Raises `Unreachable`."""
        from agentd.server.listening import Unreachable

        try:
            self._post(message, json.dumps(message).encode(), take)
        except (Unsent, Broken) as error:
            raise Unreachable(str(error)) from error

    def open(self, message: Json, keep: Callable[[], None]) -> None:
        with self._lock:
            self._open[json.dumps(message["id"])] = None
        stream = threading.Thread(target=keep, daemon=True)
        stream.start()
        self._streams = [each for each in self._streams if each.is_alive()] + [stream]

    def hang_up(self, message: Json) -> None:
        self._cancel({"params": {"requestId": message["id"]}})

    def is_open(self, message: Json) -> bool:
        return not self._closed and not self._is_cancelled(message)

    def write(self, message: Json) -> None:
        self._write(message)

    # --- one message -------------------------------------------------------------------------

    def _relay(self, message: Json, body: bytes) -> None:
        request_id = message.get("id") if "method" in message else None
        try:
            self._exchange(message, body)
        except Unsent as error:
            self._answer_error(request_id, f"The agentd daemon cannot be reached: {error}. Run: agentd serve")
        except Broken as error:
            self._answer_error(
                request_id,
                f"The agentd daemon went away during {message.get('method')} ({error}); it may or may not "
                f"have been carried out. Look at its jobs; a repeat is safe with _meta {KEY_META!r}.",
            )
        finally:
            if request_id is not None:
                with self._lock:
                    self._open.pop(json.dumps(request_id), None)

    def _exchange(self, message: Json, body: bytes) -> None:
        """Send, and pass the answer on; what is safe to repeat is repeated while the daemon restarts."""
        pause, until = 0.05, None
        while True:
            try:
                return self._post(message, body)
            except (Unsent, Broken) as error:
                until = until or time.monotonic() + self.connect_seconds
                safe = isinstance(error, Unsent) or is_safe(message, self._harmless)
                if not safe or self._is_cancelled(message) or time.monotonic() + pause > until:
                    raise
            time.sleep(pause)
            pause = min(pause * 2, 2.0)

    def _post(self, message: Json, body: bytes, take: Callable[[Json], None] | None = None) -> None:
        """Send once. The replies are written, or given to `take` if there is one."""
        connection = self._connection()
        if "id" in message and "method" in message:
            with self._lock:
                if self._is_cancelled(message):
                    return self._keep(connection)
                self._open[json.dumps(message["id"])] = connection
        try:
            headers = self._headers(message)
            connection.request("POST", self._path, body, headers)
            response = connection.getresponse()
            if response.status == NOT_FOUND and headers.pop(SESSION_HEADER, ""):
                self._session = ""  # it is too old: go on without one, and be asked nothing
                response.read()
                connection.request("POST", self._path, body, headers)
                response = connection.getresponse()
            if message.get("method") == "initialize":
                self._session = response.headers.get(SESSION_HEADER, "")
            self._hand_over(response, take) if take else self._pass_on(message, response)
        except (OSError, HTTPException) as error:
            connection.close()
            if not self._is_cancelled(message):
                raise Broken(str(error) or type(error).__name__) from error
            return None
        if response.will_close or self._closed or self._is_cancelled(message):
            return connection.close()
        return self._keep(connection)

    def _hand_over(self, response: HTTPResponse, take: Callable[[Json], None]) -> None:
        if response.headers.get_content_type() == "text/event-stream":
            for event in events(response):
                with contextlib.suppress(ValueError):  # what is no JSON is no message
                    take(as_object(json.loads(event)))
            return
        body = response.read()
        try:
            reply = as_object(json.loads(body))
        except ValueError:
            reply = {}
        wrong = {"code": DAEMON_GONE, "message": refusal(response.status, body)}
        take(reply if "jsonrpc" in reply else {"error": wrong})

    def _pass_on(self, message: Json, response: HTTPResponse) -> None:
        if response.headers.get_content_type() == "text/event-stream":
            answered = False
            for event in events(response):
                answered |= self._answer(message, event)
            if not answered and "id" in message:
                raise HTTPException("the stream ended without an answer")
        else:
            body = response.read()
            if "id" in message and "method" in message and not self._answer(message, body):
                self._write_error(message["id"], DAEMON_GONE, refusal(response.status, body))

    def _answer(self, message: Json, body: bytes) -> bool:
        """Write one JSON-RPC message of the daemon. Whether it was the answer; False for other text."""
        try:
            reply = as_object(json.loads(body))
        except ValueError:
            return False
        if "jsonrpc" not in reply:
            return False
        is_answer = "result" in reply or "error" in reply
        if is_answer:
            if reply.get("id") is None:
                reply["id"] = message.get("id")
            self._learn(message, as_object(reply.get("result")))
            if self._is_cancelled(message):
                return True
        self._write(reply)
        return is_answer

    def _learn(self, message: Json, result: Json) -> None:
        if message.get("method") == "initialize":
            self._version = str(result.get("protocolVersion", ""))
            if resources := as_object(as_object(result.get("capabilities")).get("resources")):
                resources |= {"subscribe": True, "listChanged": True}  # served here: see `listening`
        elif message.get("method") == "tools/list":
            tools = [as_object(tool) for tool in result.get("tools", [])]
            self._harmless |= {str(tool.get("name")) for tool in tools if is_harmless(tool)}

    def _headers(self, message: Json) -> dict[str, str]:
        headers = {
            "Authorization": f"Bearer {self._token}",
            **locations.project(),
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            "Agentd-Cwd": self._cwd,
        }
        era = mcp_headers(message, self._version)
        if self._session and "Mcp-Method" not in era and message.get("method") != "initialize":
            headers[SESSION_HEADER] = self._session
        return headers | era

    # --- cancelling --------------------------------------------------------------------------

    def _cancel(self, message: Json) -> None:
        """Hang up on the request: that cancels it in the new era, and in both nobody waits for the answer."""
        key = json.dumps(as_object(message.get("params")).get("requestId"))
        with self._lock:
            connection = self._open.pop(key, None)
        if connection is not None:
            hang_up(connection)

    def _is_cancelled(self, message: Json) -> bool:
        return "id" in message and "method" in message and json.dumps(message["id"]) not in self._open

    # --- connections -------------------------------------------------------------------------

    def _connection(self) -> HTTPConnection:
        while True:
            with self._lock:
                if not self._idle:
                    break
                connection, since = self._idle.pop()
            if time.monotonic() - since < IDLE_SECONDS and not is_readable(connection):
                return connection
            connection.close()  # the daemon has hung up, or is about to
        kind = HTTPSConnection if self._secure else HTTPConnection
        connection = kind(self._address, timeout=READ_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            raise Unsent(str(error)) from error
        return connection

    def _keep(self, connection: HTTPConnection) -> None:
        with self._lock:
            self._idle.append((connection, time.monotonic()))

    # --- out ---------------------------------------------------------------------------------

    def _answer_error(self, request_id: Any, text: str) -> None:
        if request_id is not None and json.dumps(request_id) in self._open:
            self._write_error(request_id, DAEMON_GONE, text)

    def _write_error(self, request_id: Any, code: int, text: str) -> None:
        self._write({"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": text}})

    def _write(self, message: Json) -> None:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._writing:
            if self._closed:
                return
            try:
                self._stdout.write(line)
                self._stdout.flush()
            except (BrokenPipeError, ValueError):
                self._closed = True  # nobody reads any more; the end of stdin will follow


# --- the rules of the wire ----------------------------------------------------------------------


def mcp_headers(message: Json, version: str) -> dict[str, str]:
    """What MCP wants in headers: the version, and from 2026-07-28 on the method and whom it names.

    `version` is what an old-era handshake agreed on; a new-era message carries its own in ``_meta``.
    """
    params = as_object(message.get("params"))
    own = as_object(params.get("_meta")).get(VERSION_META)
    if not isinstance(own, str):
        return {"MCP-Protocol-Version": version} if version and message.get("method") != "initialize" else {}
    headers = {"MCP-Protocol-Version": header_value(own)}
    method = message.get("method")
    if isinstance(method, str):
        headers["Mcp-Method"] = header_value(method)
        name = params.get(NAMED_BY.get(method, ""))
        if isinstance(name, str):
            headers["Mcp-Name"] = header_value(name)
    return headers


def header_value(text: str) -> str:
    """`text` as MCP's headers carry it: plain ASCII as it is, anything else as ``=?base64?…?=``."""
    plain = re.fullmatch(r"[\x20-\x7e]*", text) and text == text.strip() and not text.startswith("=?base64?")
    return text if plain else f"=?base64?{base64.b64encode(text.encode()).decode()}?="


def is_safe(message: Json, harmless: frozenset[str]) -> bool:
    """Whether sending it twice does no harm: all but a call, without a key, that may change something."""
    params = as_object(message.get("params"))
    keyed = bool(as_object(params.get("_meta")).get(KEY_META))
    return message.get("method") != "tools/call" or keyed or params.get("name") in harmless


def is_harmless(tool: Json) -> bool:
    hints = as_object(tool.get("annotations"))
    return hints.get("readOnlyHint") is True or hints.get("idempotentHint") is True


def as_object(value: Any) -> Json:
    """`value` when it is a JSON object, else an empty one."""
    return cast("Json", value) if isinstance(value, dict) else {}


def events(response: HTTPResponse) -> Iterator[bytes]:
    """The data of each server-sent event, as it comes."""
    data: list[bytes] = []
    while line := response.readline():
        line = line.rstrip(b"\r\n")
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif not line and data:
            yield b"\n".join(data)
            data.clear()


def refusal(status: int, body: bytes) -> str:
    """What the daemon's guard said, in a line."""
    try:
        error = json.loads(body)["error"]
        return f"{error['message']} ({status}). {error.get('hint', '')}".strip()
    except (ValueError, KeyError, TypeError):
        return f"The agentd daemon answered {status}: {body[:200].decode(errors='replace')}"


def is_readable(connection: HTTPConnection) -> bool:
    """An idle connection with something to read has been closed by the other side."""
    return connection.sock is None or bool(select.select([connection.sock], [], [], 0)[0])


def hang_up(connection: HTTPConnection) -> None:
    """Wake the thread that reads from it. It closes the connection itself."""
    with contextlib.suppress(OSError):  # already gone
        if connection.sock is not None:
            connection.sock.shutdown(2)
