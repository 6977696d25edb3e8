"""Server-sent events come whole, however the network cuts them."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.router.faults import UpstreamError
from agentd.router.streams import Stream
from agentd.router.targets import Target
from agentd.sdk import Model

SAID = (
    b'data: {"choices": [{"delta": {"content": "a"}}]}\r\n\r\n'
    b": a comment\n\n"
    b'data: {"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}\n\n'
    b"data: [DONE]"
)
SEEN = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n: a comment\n\ndata: [DONE]\n\n'


class Response:
    """What a stream reads of a response: chunks, and then nothing."""

    def __init__(self, chunks: list[bytes]) -> None:
        self.content, self._chunks = self, chunks

    async def readany(self) -> bytes:
        return self._chunks.pop(0) if self._chunks else b""


async def read(chunks: list[bytes]) -> tuple[bytes, Stream]:
    target = Target(Model(name="m", kind="local"), "http://127.0.0.1/v1", "m", "")
    response: Any = Response([chunk for chunk in chunks if chunk])
    stream = Stream(target, "chat/completions", response, show_usage=False)
    await stream.begin()
    return b"".join([event async for event in stream.events()]), stream


@given(st.lists(st.integers(0, len(SAID)), max_size=8))
def test_wherever_chunks_end_the_events_are_the_same(ends: list[int]) -> None:
    cuts = [0, *sorted(ends), len(SAID)]
    events, stream = asyncio.run(read([SAID[a:b] for a, b in itertools.pairwise(cuts)]))
    assert events == SEEN
    assert stream.ended, "its last event needs no line after it"
    assert (stream.usage.input, stream.usage.output) == (3, 2)


def test_half_an_event_is_not_passed_on() -> None:
    with pytest.raises(UpstreamError, match="broke off"):
        asyncio.run(read([SAID[:50], b'data: {"choi']))
