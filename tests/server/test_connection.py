"""What goes out over a connection in one write, and what does not."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from agentd.server.connection import Joining

pytestmark = pytest.mark.anyio

HEAD, BODY = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", b"ok"


class Wire(asyncio.Transport):
    """Keeps what is done to it, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.done: list[Any] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.done.append(bytes(data))

    def close(self) -> None:
        self.done.append("close")

    def abort(self) -> None:
        self.done.append("abort")


def joining() -> tuple[Wire, Joining]:
    under = Wire()
    return under, Joining(under, asyncio.get_running_loop())


async def test_a_head_goes_out_with_its_body():
    under, joined = joining()
    joined.write(HEAD)
    joined.write(BODY)
    joined.write(b"more")
    await asyncio.sleep(0)
    assert under.done == [HEAD + BODY, b"more"]


async def test_a_head_that_nothing_follows_goes_out_in_the_next_step():
    under, joined = joining()
    joined.write(HEAD)
    assert under.done == []
    await asyncio.sleep(0)
    assert under.done == [HEAD]
    joined.write(BODY)
    assert under.done == [HEAD, BODY]


async def test_nothing_is_lost_when_it_closes():
    under, joined = joining()
    joined.write(HEAD)
    joined.close()
    await asyncio.sleep(0)
    assert under.done == [HEAD, "close"]


async def test_an_abort_sends_nothing_more():
    under, joined = joining()
    joined.write(HEAD)
    joined.abort()
    await asyncio.sleep(0)
    assert under.done == ["abort"]


async def test_leave_to_go_on_is_not_held_back():
    under, joined = joining()
    joined.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    assert under.done == [b"HTTP/1.1 100 Continue\r\n\r\n"]


async def test_an_empty_body_sends_the_head():
    under, joined = joining()
    joined.write(HEAD)
    joined.write(b"")
    assert under.done == [HEAD]
