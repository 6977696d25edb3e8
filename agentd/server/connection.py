"""uvicorn's connection, with a clock on request headers and one write for what is sent at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["Joining", "Punctual"]

HEAD = b"HTTP/1.1 "
CONTINUE = b"HTTP/1.1 100 "


class Joining(asyncio.Transport):
    """A transport that sends the head of a response together with the body that follows in the same step.

    uvicorn writes them one after the other: two system calls, and the client is woken for half an answer.
    A head that nothing follows is sent in the loop's next step.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__()
        self._transport, self._loop = transport, loop
        self._head = b""
        self._later: asyncio.Handle | None = None

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._head:
            self._send(bytes(data))
        elif data[:9] == HEAD and data[:13] != CONTINUE:
            self._head = bytes(data)
            self._later = self._loop.call_soon(self._send)
        else:
            self._transport.write(data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def close(self) -> None:
        self._send()
        self._transport.close()

    def abort(self) -> None:
        self._forget()
        self._transport.abort()

    def _send(self, rest: bytes = b"") -> None:
        if head := self._forget():
            self._transport.write(head + rest)

    def _forget(self) -> bytes:
        head, self._head = self._head, b""
        if self._later is not None:
            self._later.cancel()
            self._later = None
        return head

    # the rest is the transport's own

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._transport.get_extra_info(name, default)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def pause_reading(self) -> None:
        self._transport.pause_reading()

    def resume_reading(self) -> None:
        self._transport.resume_reading()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._transport.set_protocol(protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._transport.get_protocol()


class Punctual(HttpToolsProtocol):
    """uvicorn's HTTP protocol with a deadline and a size limit for request headers, which it lacks.

    A client that does not finish them is hung up on.
    """

    header_seconds = 10.0
    header_bytes = 64 * 1024

    _deadline: asyncio.TimerHandle | None = None
    _waited_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(Joining(transport, self.loop))
        self._wait_for_headers(0)

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value.strip(b" \t"))  # no part of the value (RFC 9110, 5.5), but left to us

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is None or self.cycle.response_complete:  # pyright: ignore[reportUnnecessaryComparison]
            self._wait_for_headers(len(data))
        else:
            self._stop_waiting()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait_for_headers(self, n: int) -> None:
        self._waited_bytes += n
        if self._waited_bytes > self.header_bytes:
            self.transport.abort()
        elif self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _stop_waiting(self) -> None:
        self._waited_bytes = 0
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
