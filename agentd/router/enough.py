"""Whether an answer is good enough to be passed on, as far as it shows without knowing the right one.

For aliases that begin with the smaller model: what is not valid, was cut off or was given with little
confidence is asked again of the next. A confident mistake is not seen here.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agentd.sdk import Alias

__all__ = ["confidence", "wanting"]


def wanting(alias: Alias, body: Mapping[str, Any], reply: Mapping[str, Any]) -> str:
    """Why the reply to a chat request has to be better, in words; empty where it is enough."""
    choices = reply.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return "it holds no answer" if "invalid" in alias.escalate_on else ""
    if "cut" in alias.escalate_on and choice.get("finish_reason") == "length":
        return "it was cut off"
    if "invalid" in alias.escalate_on and (why := _invalid(body, choice.get("message") or {})):
        return why
    if "unsure" in alias.escalate_on and (sure := confidence(choice)) is not None and sure < alias.sure_at:
        return f"its confidence is {sure:.2f}, below {alias.sure_at:g}"
    return ""


def confidence(choice: Mapping[str, Any]) -> float | None:
    """The geometric mean of its tokens' probabilities; None where the endpoint does not tell them."""
    told = choice.get("logprobs")
    tokens = told.get("content") if isinstance(told, dict) else None
    logs = [token["logprob"] for token in tokens or () if isinstance(token.get("logprob"), int | float)]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _invalid(body: Mapping[str, Any], message: Mapping[str, Any]) -> str:
    calls = message.get("tool_calls") or []
    text = message.get("content")
    if not calls and not text:
        return "it is empty"
    schemas = dict(_parameters(body))
    for call in calls:
        function = call.get("function") or {}
        name = function.get("name")
        if name not in schemas:
            return f"it calls {name!r}, which is no tool of the request"
        if why := _unlike(function.get("arguments"), schemas[name]):
            return f"its call of {name!r} {why}"
    form = body.get("response_format")
    if calls or not isinstance(form, dict) or form.get("type") not in ("json_object", "json_schema"):
        return ""
    schema = (form.get("json_schema") or {}).get("schema") if form["type"] == "json_schema" else {}
    why = _unlike(text, schema)
    return f"it {why}" if why else ""


def _parameters(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for tool in body.get("tools") or ():
        function = tool.get("function") if isinstance(tool, dict) else None
        if isinstance(function, dict):
            yield str(function.get("name")), function.get("parameters")


def _unlike(text: Any, schema: Any) -> str:
    """What is wrong with a text that should be JSON of that schema."""
    try:
        data = json.loads(text)
    except (TypeError, ValueError, RecursionError):
        return "is not JSON"
    if not isinstance(schema, dict) or not schema:
        return ""
    from jsonschema.exceptions import SchemaError, ValidationError
    from referencing.exceptions import Unresolvable

    try:
        _validator()(schema).validate(data)
    except ValidationError as error:
        return f"does not fit its schema at {error.json_path}"
    except (SchemaError, Unresolvable, RecursionError):
        return ""  # the endpoint's to judge
    return ""


@functools.cache
def _validator() -> Callable[[Any], Any]:
    """A validator of schemas that strangers wrote: it fetches nothing, and runs no pattern of theirs."""
    from jsonschema import Draft202012Validator
    from jsonschema.validators import extend
    from referencing import Registry

    tame = extend(Draft202012Validator, {"pattern": _unchecked, "patternProperties": _unchecked})
    return functools.partial(tame, registry=Registry())


def _unchecked(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
    return iter(())
