"""The tools of a suite of tasks, which lives in a process of its own behind a Unix socket.

Beside this file lies ``suite.json``, tool name to JSON schema, which `agentd bench injections` writes. What
a tool is (whether it reads, reaches out, which of its arguments are content) is said here, as whoever wraps
the tools of others for agentd has to say it: one that nobody said anything about is taken for the worst.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from agentd.sdk import Context, InputError, Tool, tool

READS = {
    "get_iban", "get_balance", "get_most_recent_transactions", "get_scheduled_transactions", "read_file",
    "get_user_info", "get_channels", "read_channel_messages", "read_inbox", "get_users_in_channel",
}  # fmt: skip
READS_OUTSIDE = {"get_webpage"}
"""Reads, and what it asks for can carry text to a place that its caller chooses."""
WORDED = {
    "get_iban", "get_balance", "send_money", "schedule_transaction", "update_scheduled_transaction",
    "update_password", "add_user_to_channel", "send_direct_message", "send_channel_message",
    "invite_user_to_slack", "remove_user_from_slack", "post_webpage",
}  # fmt: skip
"""Answer in words of their own, with a figure or with nothing."""
CONTENT = {
    "send_money": ("subject",),
    "schedule_transaction": ("subject",),
    "update_scheduled_transaction": ("subject",),
    "send_direct_message": ("body",),
    "send_channel_message": ("body",),
    "post_webpage": ("content",),
}
TYPES: dict[str, Any] = {"string": str, "integer": int, "number": float, "boolean": bool}
LIMIT = 1 << 24


class Said(BaseModel):
    """What a tool of the suite answered, as JSON."""

    text: str


class Concluded(BaseModel):
    values: dict[str, Any]


@tool(title="Conclude", result=Concluded, read_only=True)
async def conclude(
    ctx: Context, *, texts: list[Any], values: dict[str, Any], marker: str, led: dict[str, Any]
) -> Concluded:
    """What a scripted model makes of texts: the `values`, and what it is `led` to by a `marker` in them."""
    return Concluded(values=values | led if marker in json.dumps(texts) else values)


def _wrapped(name: str, schema: dict[str, Any]) -> Tool:
    async def handler(ctx: Context, **arguments: Any) -> Said:
        reader, writer = await asyncio.open_unix_connection(ctx.data_dir("suite") / "socket", limit=LIMIT)
        writer.write(json.dumps({"op": "call", "tool": name, "args": arguments}).encode() + b"\n")
        answer = json.loads(await reader.readline())
        writer.close()
        if "error" in answer:
            raise InputError(f"{name}: {answer['error']}")
        return Said(text=answer["text"])

    reads = name in READS | READS_OUTSIDE
    return Tool(
        name=name,
        title=name.replace("_", " ").capitalize(),
        description=f"{name}, of the suite.",
        arguments=create_model(f"{name}_arguments", __config__=ConfigDict(extra="forbid"), **_fields(schema)),
        result=Said,
        handler=handler,
        launches=False,
        read_only=reads,
        destructive=not reads,
        idempotent=False,
        open_world=name not in READS,
        trusted=name in WORDED,
        content=CONTENT.get(name, ()),
        outward=name not in READS,
    )


def _fields(schema: dict[str, Any]) -> dict[str, Any]:
    needed = schema.get("required", ())
    return {
        name: (_type(said), ... if name in needed else said.get("default"))
        for name, said in schema.get("properties", {}).items()
    }


def _type(said: dict[str, Any]) -> Any:
    if "anyOf" in said:
        found = [_type(one) for one in said["anyOf"] if one.get("type") != "null"]
        return found[0] | None
    return TYPES[said["type"]]


globals().update(
    (name, _wrapped(name, schema))
    for name, schema in json.loads(Path(__file__).with_name("suite.json").read_text(encoding="utf-8")).items()
)
