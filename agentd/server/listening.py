"""Change notifications through the stdio proxy, for clients of both eras.

The daemon tells of changes on ``subscriptions/listen`` streams alone. What a new-era client listens to is
kept open here across restarts of the daemon. What an old-era client subscribes to, with
``resources/subscribe``, becomes a stream of the proxy's own: the daemon keeps no sessions, but a client's
pipe lasts as long as the client. Standard library only, as `proxy`.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

__all__ = ["Line", "Stream", "Subscriptions", "Unreachable", "is_listen"]

Json = dict[str, Any]
Take = Callable[[Json], None]

LISTEN = "subscriptions/listen"
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
UPDATED = "notifications/resources/updated"
LIST_CHANGED = "notifications/resources/list_changed"
SUBSCRIPTION_META = "io.modelcontextprotocol/subscriptionId"
MODERN_META = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
    "io.modelcontextprotocol/clientInfo": {"name": "agentd-mcp-proxy", "version": "1"},
}

INVALID_PARAMS = -32602
DAEMON_GONE = -32000
SHORTEST_PAUSE, LONGEST_PAUSE = 0.05, 10.0


class Unreachable(Exception):
    """The daemon cannot be reached, or went away in the middle of a stream."""


class Line(Protocol):
    """What the proxy does for a stream."""

    connect_seconds: float

    def exchange(self, message: Json, take: Take) -> None:
        """Send, and hand over each reply until there are no more. Raises `Unreachable`."""
        ...

    def open(self, message: Json, keep: Callable[[], None]) -> None:
        """Take the request as under way, and run `keep` in a thread."""
        ...

    def hang_up(self, message: Json) -> None: ...
    def is_open(self, message: Json) -> bool: ...
    def write(self, message: Json) -> None: ...


class Stream:
    """One listen stream, sent again when it breaks. `tell` is given each notification, and one error at most.

    A stream that is there again tells of everything that was subscribed to: nobody knows what changed while
    it was not.
    """

    def __init__(self, line: Line, message: Json, tell: Take) -> None:
        self._line, self._message, self._tell = line, message, tell
        self._acknowledged, self._refused, self._pause = False, False, SHORTEST_PAUSE

    def start(self) -> None:
        self._line.open(self._message, self._keep)

    def end(self) -> None:
        self._line.hang_up(self._message)

    def _keep(self) -> None:
        until = time.monotonic() + self._line.connect_seconds
        while self._line.is_open(self._message):
            trouble = "the stream ended"
            try:
                self._line.exchange(self._message, self._take)
            except Unreachable as error:
                trouble = str(error)
            if self._refused or not self._line.is_open(self._message):
                return
            if not self._acknowledged and time.monotonic() > until:
                self._take(_error(DAEMON_GONE, f"The agentd daemon cannot be reached: {trouble}"))
                return
            time.sleep(self._pause)
            self._pause = min(self._pause * 2, LONGEST_PAUSE)

    def _take(self, reply: Json) -> None:
        if not self._line.is_open(self._message) or "result" in reply:
            return  # a daemon that stops ends its streams with a result: another one will take over
        if "error" in reply:
            self._refused = True
            self._tell(reply)
        elif reply.get("method") != ACKNOWLEDGED:
            self._tell(reply)
        elif self._acknowledged:
            self._pause = SHORTEST_PAUSE
            for note in everything(self._message):
                self._tell(note)
        else:
            self._acknowledged, self._pause = True, SHORTEST_PAUSE
            self._tell(reply)


class Subscriptions:
    """What one old-era client subscribed to: one stream for all of it, replaced when it changes."""

    def __init__(self, line: Line) -> None:
        self._line, self._numbers, self._lock = line, itertools.count(1), threading.Lock()
        self._uris: dict[str, None] = {}
        self._list = False
        self._stream: Stream | None = None

    def ask(self, message: Json) -> None:
        """Answers ``resources/subscribe`` and ``resources/unsubscribe``, once the daemon listens."""
        uri = cast("Json", message.get("params") or {}).get("uri")
        if not isinstance(uri, str):
            return self._line.write(_answer(message, _error(INVALID_PARAMS, "uri must be a string")))
        with self._lock:
            if message["method"] == "resources/subscribe":
                self._uris[uri] = None
            else:
                self._uris.pop(uri, None)
            return self._listen(message, uri)

    def want_list(self) -> None:
        """Tell of changes of the list of resources from now on: the client has asked for it."""
        with self._lock:
            if not self._list:
                self._list = True
                self._listen(None, "")

    def _listen(self, asked: Json | None, uri: str) -> None:
        """Replace the stream; `asked` is answered when the new one is there."""
        before, self._stream = self._stream, None
        if not self._uris and not self._list:
            if before:
                before.end()
            return self._line.write(_answer(asked or {}, {"result": {}}))
        wanted: Json = {"resourceSubscriptions": list(self._uris)} if self._uris else {}
        wanted |= {"resourcesListChanged": True} if self._list else {}
        message: Json = {
            "jsonrpc": "2.0",
            "id": f"agentd-listen-{next(self._numbers)}",
            "method": LISTEN,
            "params": {"_meta": MODERN_META, "notifications": wanted},
        }

        def tell(reply: Json) -> None:
            if reply.get("method") == ACKNOWLEDGED:
                if before:
                    before.end()
                if asked:
                    self._line.write(_answer(asked, self._told(reply, asked, uri)))
            elif "error" in reply:
                if asked:
                    self._line.write(_answer(asked, {"error": reply["error"]}))
            else:
                params = {key: value for key, value in reply.get("params", {}).items() if key != "_meta"}
                note = {key: value for key, value in reply.items() if key != "params"}
                self._line.write(note | ({"params": params} if params else {}))

        self._stream = Stream(self._line, message, tell)
        return self._stream.start()

    def _told(self, acknowledged: Json, asked: Json, uri: str) -> Json:
        """A subscription to what is never told of is refused rather than silent."""
        honored = acknowledged["params"]["notifications"].get("resourceSubscriptions") or []
        if asked["method"] == "resources/unsubscribe" or uri in honored:
            return {"result": {}}
        self._uris.pop(uri, None)
        watched = "agentd://jobs, agentd://runs and agentd://reports, and single jobs and runs"
        return _error(INVALID_PARAMS, f"Changes of {uri!r} are not told. They are of {watched}")


def everything(message: Json) -> list[Json]:
    """Notifications that all of what a listen request asks for may have changed."""
    wanted = message["params"]["notifications"]
    meta = {"_meta": {SUBSCRIPTION_META: message["id"]}}
    notes = [
        {"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": uri, **meta}}
        for uri in wanted.get("resourceSubscriptions") or []
    ]
    if wanted.get("resourcesListChanged"):
        notes.append({"jsonrpc": "2.0", "method": LIST_CHANGED, "params": meta})
    return notes


def is_listen(message: Json) -> bool:
    """Whether it is a request to listen, well enough formed to be sent again."""
    params = message.get("params")
    wanted = cast("Json", params).get("notifications") if isinstance(params, dict) else None
    return message.get("method") == LISTEN and "id" in message and isinstance(wanted, dict)


def _answer(asked: Json, outcome: Json) -> Json:
    return {"jsonrpc": "2.0", "id": asked.get("id"), **outcome}


def _error(code: int, text: str) -> Json:
    return {"error": {"code": code, "message": text}}
