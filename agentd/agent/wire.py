"""A conversation of pydantic-ai as a chat request, and a reply as its parts: native, constrained or text.

Pure functions. `native` uses the endpoint's tool calls. `constrained` has the endpoint hold the reply to a
JSON schema that names the tools and their arguments, so that a small model acts validly. `text` asks for the
same JSON without holding anybody to it; whoever calls repairs it once.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic_ai.messages import (
    ModelMessage,
    ModelRequest,
    ModelResponse,
    ModelResponsePart,
    RetryFeedbackPart,
    SystemPromptPart,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolReturnPart,
    UserPromptPart,
)
from pydantic_ai.tools import ToolDefinition

from agentd.errors import NotFound
from agentd.sdk import Model

__all__ = ["ANSWER", "Dialect", "NotReadable", "action_schema", "chat", "dialect_of", "not_shown", "parts_of"]

Dialect = Literal["native", "constrained", "text"]
ANSWER = "final_answer"
"""The action that ends a run in the JSON dialects."""
MOST_ACTIONS = 5
UNKNOWN = frozenset(
    """description default examples title format pattern multipleOf minLength maxLength minimum maximum
    exclusiveMinimum exclusiveMaximum""".split()  # noqa: SIM905
)
"""Words of JSON Schema that engines of constrained decoding may not know: `Calls` checks them anyway."""

JSON_RULES = """\
Reply with one JSON object and nothing else: {"actions": [{"tool": NAME, "arguments": {...}}]}.
When you have what was asked for, reply {"actions": [{"tool": "final_answer", "arguments": {"text": "..."}}]}.
Also answer when no tool fits. The tools:"""


class NotReadable(ValueError):
    """A reply that is no action; the message is for the model."""


def dialect_of(models: Sequence[Model]) -> Dialect:
    """How models are best asked for calls: what all of them can do, as far as the catalog says.

    What is served here is held to a schema unless it says that it calls tools; what is behind an API is
    taken to call tools unless its capabilities leave that out.
    """

    def can(model: Model, capability: str) -> bool:
        if model.capabilities is None:
            return (capability == "tools") == (model.kind in ("frontier", "reasoning"))
        return capability in model.capabilities

    if all(can(model, "tools") for model in models):
        return "native"
    return "constrained" if all(can(model, "json_schema") for model in models) else "text"


def chat(
    messages: Sequence[ModelMessage],
    instructions: str,
    tools: Sequence[ToolDefinition],
    dialect: Dialect,
    known: Iterable[str] = (),
) -> dict[str, Any]:
    """The body of a chat request, without its model. `known` are all tools there are, shown or not."""
    native = dialect == "native"
    if not native:
        instructions = "\n".join([instructions, JSON_RULES, *map(_described, tools)])
    body: dict[str, Any] = {
        "messages": [
            {"role": "system", "content": instructions},
            *(_merged(_said(messages, native, list(known)))),
        ]
    }
    if native and tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description or "",
                    "parameters": tool.parameters_json_schema,
                },
            }
            for tool in tools
        ]
    elif dialect == "constrained":
        schema = {"name": "actions", "schema": action_schema(tools)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    return body


def not_shown(name: str, known: Iterable[str]) -> str:
    """What a model is told that called a tool it was not shown."""
    if name in known:
        return f"{name!r} was not shown before; it is from now on: call it again by its schema"
    return str(NotFound("tool", name, known))


def action_schema(tools: Sequence[ToolDefinition]) -> dict[str, Any]:
    """What a reply may be: one to five calls of these tools with their arguments, or an answer."""
    answer = {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"],
              "additionalProperties": False}  # fmt: skip
    named = [(tool.name, tool.parameters_json_schema) for tool in tools]
    one = [
        {
            "type": "object",
            "properties": {"tool": {"type": "string", "enum": [name]}, "arguments": _closed(arguments)},
            "required": ["tool", "arguments"],
            "additionalProperties": False,
        }
        for name, arguments in (*named, (ANSWER, answer))
    ]
    actions = {"type": "array", "minItems": 1, "maxItems": MOST_ACTIONS, "items": {"anyOf": one}}
    return {"type": "object", "properties": {"actions": actions}, "required": ["actions"],
            "additionalProperties": False}  # fmt: skip


def parts_of(message: Mapping[str, Any], dialect: Dialect) -> list[ModelResponsePart]:
    """What a reply's message says and calls. Raises `NotReadable` for one that is no action."""
    thought = message.get("reasoning_content") or message.get("reasoning")
    parts: list[ModelResponsePart] = [ThinkingPart(thought)] if isinstance(thought, str) else []
    text = message.get("content")
    if dialect != "native":
        return [*parts, *_acted(text if isinstance(text, str) else "", strict=dialect == "constrained")]
    if isinstance(text, str) and text.strip():
        parts.append(TextPart(text))
    for call in message.get("tool_calls") or ():
        function = call.get("function") or {}
        parts.append(ToolCallPart(str(function.get("name", "")), _arguments(function.get("arguments"))))
    if not any(isinstance(part, (TextPart, ToolCallPart)) for part in parts):
        raise NotReadable("The reply was empty: call a tool, or answer")
    return parts


def _acted(text: str, *, strict: bool) -> Iterator[ModelResponsePart]:
    actions = _actions(text, strict=strict)
    calls = [action for action in actions if action["tool"] != ANSWER]
    for action in calls:
        yield ToolCallPart(action["tool"], action["arguments"])
    if not calls:  # what is said beside calls is not the end
        yield TextPart("\n".join(str(action["arguments"].get("text", "")) for action in actions))


def _actions(text: str, *, strict: bool) -> list[dict[str, Any]]:
    found = text if strict else _first_object(text)
    try:
        value = json.loads(found)
        actions = value.get("actions", [value])
        read = [{"tool": each["tool"], "arguments": each.get("arguments", {})} for each in actions]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotReadable(f"The reply is no JSON object with 'actions': {error}") from error
    if not read or not all(
        isinstance(each["tool"], str) and isinstance(each["arguments"], dict) for each in read
    ):
        raise NotReadable("Each action needs 'tool', a name, and 'arguments', an object")
    return read


def _first_object(text: str) -> str:
    """The first JSON object in a text: small models put words and fences around it."""
    start = text.find("{")
    if start < 0:
        return text
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except ValueError:
        return text[start:]
    return text[start:end]


def _arguments(text: Any) -> str | dict[str, Any]:
    if isinstance(text, dict):
        return text
    try:
        value = json.loads(text or "{}")
    except (TypeError, ValueError):
        return str(text)
    return value if isinstance(value, dict) else str(text)


def _said(messages: Sequence[ModelMessage], native: bool, tools: Sequence[str]) -> Iterator[dict[str, Any]]:
    for message in messages:
        if isinstance(message, ModelResponse):
            yield _reply(message, native)
            continue
        assert isinstance(message, ModelRequest)
        for part in message.parts:
            if isinstance(part, ToolReturnPart):
                text = part.model_response_str()
                if part.retry is not None and part.retry.cause in ("unknown_tool", "unavailable_tool"):
                    text = not_shown(part.tool_name, tools)
                if native:
                    yield {"role": "tool", "tool_call_id": part.tool_call_id, "content": text}
                else:
                    yield {
                        "role": "user",
                        "content": f"Result of {part.tool_name} ({part.tool_call_id}): {text}",
                    }
            elif isinstance(part, UserPromptPart):
                yield {"role": "user", "content": _text(part.content)}
            elif isinstance(part, SystemPromptPart):
                yield {"role": "system", "content": part.content}
            elif isinstance(part, RetryFeedbackPart):
                yield {"role": "user", "content": _feedback(part)}


def _reply(message: ModelResponse, native: bool) -> dict[str, Any]:
    text = "".join(part.content for part in message.parts if isinstance(part, TextPart))
    calls = [part for part in message.parts if isinstance(part, ToolCallPart)]
    if not native:
        actions = [{"tool": call.tool_name, "arguments": call.args_as_dict()} for call in calls]
        actions = actions or [{"tool": ANSWER, "arguments": {"text": text}}]
        return {"role": "assistant", "content": json.dumps({"actions": actions}, ensure_ascii=False)}
    said: dict[str, Any] = {"role": "assistant", "content": text or None}
    if calls:
        said["tool_calls"] = [
            {
                "id": call.tool_call_id,
                "type": "function",
                "function": {"name": call.tool_name, "arguments": call.args_as_json_str()},
            }
            for call in calls
        ]
    return said


def _merged(said: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What users say in a row as one message: chat templates of local models want turns that alternate."""
    held: dict[str, Any] | None = None
    for message in said:
        if held and held["role"] == message["role"] == "user":
            held = {"role": "user", "content": f"{held['content']}\n\n{message['content']}"}
            continue
        if held:
            yield held
        held = message
    if held:
        yield held


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(str(each) for each in content)


def _feedback(part: RetryFeedbackPart) -> str:
    return part.content if isinstance(part.content, str) else json.dumps(part.content, default=str)


def _described(tool: ToolDefinition) -> str:
    schema = json.dumps(tool.parameters_json_schema, separators=(",", ":"), ensure_ascii=False)
    return f"- {tool.name}: {' '.join((tool.description or '').split())} Arguments: {schema}"


def _closed(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of arguments, without words that engines of constrained decoding do not know or need."""
    return {"additionalProperties": False, **_bare(schema)}


def _bare(node: Any) -> Any:
    if isinstance(node, list):
        return [_bare(each) for each in node]
    if not isinstance(node, dict):
        return node
    bare: dict[str, Any] = {}
    for key, value in node.items():
        if key in UNKNOWN:
            continue
        if key == "properties" and isinstance(value, dict):
            bare[key] = {name: _bare(each) for name, each in value.items()}
        else:
            bare[key] = _bare(value)
    return bare
