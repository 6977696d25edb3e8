"""How a model is asked for a plan, and what its reply comes to: pure functions of texts.

A plan is asked for before anything is read, so that what documents, rows or logs say later decides nothing
(`agentd.agent.flow`). The reply is held to a JSON schema of the tools where the endpoint can do that.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from agentd.agent.plans import Plan
from agentd.agent.wire import NotReadable, first_object
from agentd.schema import input_schema
from agentd.sdk import Tool

__all__ = ["messages", "plan_of", "plan_schema"]

MOST_STEPS = 20
KEYS = ("id", "title", "tool", "args", "needs", "when", "each", "expect")
RULES = """\
You plan work for a daemon that carries plans out by itself. Write the fewest steps that reach the goal: one,
if one call is enough. Reply with one JSON object and nothing else: {"plan": SHORT_NAME,
"params": {NAME: VALUE}, "steps": [{"id": ID, "title": WORDS, "tool": NAME, "args": {...}}]}

- A step may use what an earlier one gives: "${ID.key}" in args, with the keys that the tool gives. It then
  waits for that step; "needs": [ID] makes it wait without using anything. Steps that need nothing of each
  other run at the same time.
- "when": "${ID.key} == value" (also !=, <, <=, >, >=, in, not in) leaves a step out where that does not hold.
- Numbers and names that a person may want to change go into "params", and are used as "${params.NAME}".
- "expect": what the step should come to, in a few words.
- Use only these tools and arguments. Invent no names of models, files or data sets: use those of the goal and
  the situation.

The tools:"""


def messages(goal: str, situation: str, tools: Sequence[Tool]) -> list[dict[str, Any]]:
    """The chat that asks for a plan."""
    return [
        {"role": "system", "content": "\n".join([RULES, *map(_described, tools)])},
        {"role": "user", "content": f"{situation}\n\nGoal: {goal}"},
    ]


def plan_schema(tools: Sequence[Tool]) -> dict[str, Any]:
    """What a reply may be. Arguments are named, and of any type: they may be references."""
    text = {"type": "string"}
    steps = [
        {
            "type": "object",
            "properties": {
                "id": text,
                "title": text,
                "tool": {"type": "string", "enum": [tool.name]},
                "args": {
                    "type": "object",
                    "properties": {name: {} for name in tool.arguments.model_fields},
                    "required": [
                        n for n, field in tool.arguments.model_fields.items() if field.is_required()
                    ],
                    "additionalProperties": False,
                },
                "needs": {"type": "array", "items": text},
                "when": text,
                "expect": text,
            },
            "required": ["id", "tool", "args"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    return {
        "type": "object",
        "properties": {
            "plan": text,
            "params": {"type": "object"},
            "steps": {"type": "array", "minItems": 1, "maxItems": MOST_STEPS, "items": {"anyOf": steps}},
        },
        "required": ["plan", "steps"],
        "additionalProperties": False,
    }


def plan_of(reply: str, goal: str) -> Plan:
    """The plan in a reply. Raises `NotReadable` for a reply that is none; the message is for the model."""
    try:
        said = json.loads(first_object(reply))
        steps = [_step(each) for each in said["steps"]]
        name = re.sub(r"[^a-z0-9]+", "-", str(said.get("plan") or goal).lower()).strip("-")[:40]
        return Plan.model_validate(
            {"plan": name or "plan", "goal": goal, "params": said.get("params") or {}, "steps": steps}
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise NotReadable(f"The plan is wrong at {place}: {first['msg']}") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise NotReadable(f"The reply is no JSON object with 'steps': {error!r}") from error


def _step(said: Mapping[str, Any]) -> dict[str, Any]:
    """A step without what is empty."""
    if unknown := said.keys() - set(KEYS):
        raise ValueError(f"a step has no {sorted(unknown)[0]!r}")
    return {name: said[name] for name in KEYS if said.get(name)}


def _described(tool: Tool) -> str:
    schema = json.dumps(input_schema(tool.arguments), separators=(",", ":"), ensure_ascii=False)
    keys = f" Gives: {', '.join(tool.keys)}." if tool.keys else ""
    return f"- {tool.name}: {' '.join(tool.description.split())} Arguments: {schema}{keys}"
