"""agentd/agent/wire.py: replies as their parts."""

from __future__ import annotations

import pytest
from pydantic_ai.messages import TextPart, ToolCallPart

from agentd.agent.wire import parts_of

CALL = '{"name": "move", "arguments": {"name": "a"}}'


def read(content: str) -> list[tuple[str, object] | str]:
    parts = parts_of({"content": content}, "native", {"move", "say"})
    return [(p.tool_name, p.args) if isinstance(p, ToolCallPart) else p.content for p in parts]  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    "text",
    [CALL, f"```json\n{CALL}\n```", f"<tool_call>\n{CALL}\n</tool_call>", f"[{CALL}]"],
)
def test_a_native_call_that_was_written_as_text_is_a_call(text: str) -> None:
    assert read(text) == [("move", {"name": "a"})]
    assert read(f"{text}\n{text}") == [("move", {"name": "a"})] * 2


@pytest.mark.parametrize(
    "text",
    [
        f"I would call this: {CALL}",
        f"{CALL} and then answer",
        CALL.replace("move", "mvoe"),
        '{"name": "move"}',
        '"move"',
        "7",
    ],
)
def test_text_with_anything_else_in_it_is_an_answer(text: str) -> None:
    assert read(text) == [text]


def test_what_is_written_beside_real_calls_is_not_called_again() -> None:
    function = {"name": "move", "arguments": '{"name": "b"}'}
    parts = parts_of({"content": CALL, "tool_calls": [{"function": function}]}, "native", {"move"})
    assert [part.args for part in parts if isinstance(part, ToolCallPart)] == [{"name": "b"}]
    assert [part.content for part in parts if isinstance(part, TextPart)] == [CALL]
