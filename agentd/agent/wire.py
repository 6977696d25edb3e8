"""A conversation of pydantic-ai as a chat request, and a reply as its parts: native, constrained or text.

Pure functions. `native` uses the endpoint's tool calls. `constrained` has the endpoint hold the reply to a
JSON schema that names the tools and their arguments, so that a small model acts validly. `text` asks for the
same JSON without holding anybody to it; whoever calls repairs it once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
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

__all__ = [
    "ANSWER",
    "Dialect",
    "NotReadable",
    "action_schema",
    "chat",
    "dialect_of",
    "first_object",
    "not_shown",
    "parts_of",
]

Dialect = Literal["native", "constrained", "text"]
ANSWER = "final_answer"
"""The action that ends a run in the JSON dialects."""
MOST_ACTIONS = 5
UNKNOWN = frozenset(
    """description default examples title format pattern multipleOf minLength maxLength minimum maximum
    exclusiveMinimum exclusiveMaximum""".split()  # noqa: SIM905
)
"""Words of JSON Schema that engines of constrained decoding may not know: `Calls` checks them anyway."""

_WRAPPED = re.compile(r"```(?:json)?|</?tool_call>")
JSON_RULES = """\
Reply with one JSON object and nothing else: {"todo": [...], "fits": true or false, "actions": [...]}.
"todo": what the goal still wants, in a few words each; two places, names or amounts are two of them.
"fits": whether a tool below was made for just that. If none was, or nothing is left, false.
"actions": if it fits, one {"tool": NAME, "arguments": {...}} for each of "todo"; leave out optional arguments
that the goal says nothing of. If not, [{"tool": "final_answer", "arguments": {"text": "..."}}].
Examples, of other tools than yours. With a tool `rain` for the rain in a town:
Goal: How much does it rain in Rome and in Oslo?
{"todo": ["rain in Rome", "rain in Oslo"], "fits": true, "actions": [
{"tool": "rain", "arguments": {"town": "Rome"}}, {"tool": "rain", "arguments": {"town": "Oslo"}}]}
Goal: How tall is the tower of Pisa?
{"todo": ["height of the tower of Pisa"], "fits": false, "actions": [{"tool": "final_answer", "arguments":
{"text": "No tool here tells heights of towers."}}]}
The tools:"""


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
    """What a reply may be: one to five calls of these tools with their arguments, or an answer.

    Before either, the model says what is left to do and whether a tool fits: a small one that has to begin
    with a call makes one even where none fits, and one call where two are wanted.
    """
    answer = _object({"text": {"type": "string"}})
    calls = [_action(tool.name, _closed(tool.parameters_json_schema)) for tool in tools]
    either = [_reply_of(False, [_action(ANSWER, answer)], 1)]
    if calls:
        either.insert(0, _reply_of(True, calls, MOST_ACTIONS))
    return {"anyOf": either}


def _reply_of(fits: bool, actions: Sequence[dict[str, Any]], most: int) -> dict[str, Any]:
    listed = {"type": "array", "minItems": 1, "maxItems": most, "items": {"anyOf": list(actions)}}
    todo = {"type": "array", "maxItems": MOST_ACTIONS, "items": {"type": "string"}}
    nearest = {"type": "string"}
    return _object(
        {"todo": todo, "nearest": nearest, "fits": {"type": "boolean", "enum": [fits]}, "actions": listed}
    )


def _action(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    return _object({"tool": {"type": "string", "enum": [name]}, "arguments": arguments})


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    """All of these, in this order, and nothing else."""
    return {"type": "object", "properties": properties, "required": list(properties),
            "additionalProperties": False}  # fmt: skip


def parts_of(
    message: Mapping[str, Any], dialect: Dialect, known: Collection[str] = ()
) -> list[ModelResponsePart]:
    """What a reply's message says and calls. Raises `NotReadable` for one that is no action.

    A native reply that is calls of `known` tools and nothing else, but written as text, is read as calls:
    endpoints overlook those of models that were trained on another form.
    """
    thought = message.get("reasoning_content") or message.get("reasoning")
    parts: list[ModelResponsePart] = [ThinkingPart(thought)] if isinstance(thought, str) else []
    text = message.get("content")
    if dialect != "native":
        return [*parts, *_acted(text if isinstance(text, str) else "", strict=dialect == "constrained")]
    made = message.get("tool_calls") or ()
    if isinstance(text, str) and text.strip():
        written = () if made else _written(text, known)
        parts += [ToolCallPart(name, arguments) for name, arguments in written] or [TextPart(text)]
    for call in made:
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
    found = text if strict else first_object(text)
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


def _written(text: str, known: Collection[str]) -> list[tuple[str, dict[str, Any]]]:
    """Calls that a text consists of, in fences or tags or bare; none if there is anything else in it."""
    left, decoder = _WRAPPED.sub(" ", text).strip(), json.JSONDecoder()
    calls: list[tuple[str, dict[str, Any]]] = []
    while left:
        try:
            value, end = decoder.raw_decode(left)
        except ValueError:
            return []
        for each in value if isinstance(value, list) else [value]:
            name, arguments = (
                (each.get("name"), each.get("arguments")) if isinstance(each, dict) else ("", "")
            )
            if not isinstance(name, str) or name not in known or not isinstance(arguments, dict):
                return []
            calls.append((name, arguments))
        left = left[end:].lstrip(" \n\t,;")
    return calls


def first_object(text: str) -> str:
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
