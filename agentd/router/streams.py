"""Server-sent events of one answer: passed on as they come, with what they say of usage and of errors.

A stream is only begun when its first event has been read and is none of an error, so that until then another
model can be asked; from then on it ends with its last event or with an error, never just so.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING, Any

from agentd.router.faults import UpstreamError, error_in, failures, unreachable
from agentd.router.targets import Target
from agentd.router.usage import Usage, usage_of
from agentd.sdk import Api

if TYPE_CHECKING:
    import aiohttp

    from agentd.router.native import Translated

__all__ = ["Stream"]

LONGEST_EVENT = 8_000_000
DONE = (b"data: [DONE]", b"data:[DONE]")
LAST_EVENTS: Mapping[Api, tuple[bytes, ...]] = {
    "chat/completions": DONE,
    "completions": DONE,
    "responses": tuple(b"event: response." + end for end in (b"completed", b"incomplete", b"failed")),
    "messages": (b"event: message_stop",),
}
"""How the last event of a stream begins, or a line of it."""


class Stream:
    """Server-sent events of one answer, as bytes; whole events at a time.

    `usage` is all of it once the stream has `ended`, which is when its last event has come; before that it
    may be of a part. An event that only tells it is left out unless `show_usage`.
    """

    def __init__(
        self,
        target: Target,
        api: Api,
        response: aiohttp.ClientResponse | Translated,
        *,
        show_usage: bool,
    ) -> None:
        self._target, self._response, self._show_usage = target, response, show_usage
        self._last = LAST_EVENTS.get(api, ())
        self._buffer, self._ready = b"", b""
        self.ended = False
        self.usage = Usage()

    async def begin(self) -> None:
        """Read the first event. Raises `UpstreamError` for one that is none."""
        while not self._ready and not self.ended:
            if not await self._read():
                break
            if not self._ready and not _may_be_events(self._buffer.lstrip()):
                break
        first = self._ready.lstrip()
        if not first.startswith(_STARTS):
            said = (first or self._buffer)[:200].decode(errors="replace")
            raise UpstreamError(
                f"{self._target.model.name!r} answered 502: instead of events it sent {said!r}", status=502
            )
        if b'"error"' in first and isinstance(data := _data_of(first), dict) and data.get("error"):
            raise error_in(self._target, data["error"])

    async def events(self) -> AsyncGenerator[bytes]:
        """All of them. Raises `UpstreamError` when the endpoint breaks off."""
        try:
            while True:
                if self._ready:
                    ready, self._ready = self._ready, b""
                    yield ready
                if self.ended:
                    return
                if not await self._read() and not self.ended:
                    break
        except failures() as error:
            raise unreachable(self._target, error) from error
        raise UpstreamError(f"{self._target.model.name!r} broke off in the middle of its answer", status=502)

    def close(self) -> None:
        """Hang up, which ends the work at the endpoint; a stream that was read to its end is given back."""
        if self.ended:
            self._response.release()
        else:
            self._response.close()

    async def _read(self) -> bool:
        """Take in what comes next; False when nothing more does."""
        chunk = await self._response.content.readany()
        self._take(chunk or b"\n\n")  # some leave out the line after their last event
        return bool(chunk)

    def _take(self, chunk: bytes) -> None:
        self._buffer += chunk
        if b"\r" in self._buffer:  # of a line's end that two chunks share the second half comes later
            self._buffer = self._buffer.replace(b"\r\n", b"\n")
        *events, self._buffer = self._buffer.split(b"\n\n")
        if len(self._buffer) > LONGEST_EVENT:
            raise UpstreamError(
                f"{self._target.model.name!r} answered 502: an event is longer than {LONGEST_EVENT} bytes",
                status=502,
            )
        for event in events:
            if not event:
                continue
            if b'"usage"' in event and not self._read_usage(event):
                continue
            self._ready += event + b"\n\n"
            if event.startswith(self._last) or any(b"\n" + mark in event for mark in self._last):
                self.ended = True

    def _read_usage(self, event: bytes) -> bool:
        """Take in what an event says of usage; whether the event is to be passed on."""
        data = _data_of(event)
        if not isinstance(data, dict):
            return True
        inner = data.get("response") or data.get("message") or data
        if isinstance(inner, dict) and isinstance(usage := inner.get("usage"), dict):
            self.usage |= usage_of(usage)
        return self._show_usage or data.get("choices") != []


_STARTS = (b"data:", b"event:", b":", b"id:", b"retry:")


def _may_be_events(text: bytes) -> bool:
    """Whether it begins as events do, as far as it goes."""
    return any(start.startswith(text[: len(start)]) for start in _STARTS)


def _data_of(events: bytes) -> Any:
    """The JSON of the first data line; None where there is none."""
    for line in events.split(b"\n"):
        if line.startswith(b"data:"):
            try:
                return json.loads(line[5:])
            except ValueError:
                return None
    return None
