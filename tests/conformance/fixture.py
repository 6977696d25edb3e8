"""The server that the conformance suite wants to see, and its tools that become tasks.

It stands in the daemon's own app, behind the daemon's own guard, transports and sessions; only what is
served is not agentd's. What each part has to do is told by the suite's scenarios.
"""

from __future__ import annotations

import asyncio
from typing import Any

import mcp_types as types
from answers import mcp
from long_work import LongWork
from mcp.server.lowlevel import Server
from mcp.server.mcpserver import Context
from mcp.shared.exceptions import MCPError
from questions import form, required, said

from agentd.server.tasks import TasksExtension, install

# --- tools that become tasks, run at once for those who take none ----------------------------


@mcp.tool()
def greet(name: str) -> str:
    """Never a task."""
    return f"Hello, {name}!"


@mcp.tool()
async def slow_compute(seconds: float = 0) -> str:
    """Takes as long as it is told."""
    await asyncio.sleep(seconds)
    return f"computed for {seconds:g} s"


@mcp.tool()
async def failing_job() -> str:
    """Fails after a second."""
    await asyncio.sleep(1)
    raise RuntimeError("This job always fails")


@mcp.tool()
def protocol_error_job() -> str:
    """Breaks."""
    raise MCPError(types.INTERNAL_ERROR, "The job broke the protocol")


@mcp.tool()
def confirm_delete(filename: str) -> types.InputRequiredResult | str:
    """Asks once."""
    return required({"confirm": form(f"Delete {filename}?", "confirm", "boolean")})


@mcp.tool()
def multi_input() -> types.InputRequiredResult | str:
    """Asks two things at once."""
    return required({name: form(f"What is your {name}?", "name") for name in ("first", "last")})


@mcp.tool()
def test_tool_with_task(ctx: Context) -> str | types.InputRequiredResult:
    """Asks, then is a task."""
    if name := said((ctx.input_responses or {}).get("user_name"), "name"):
        return f"Hello, {name}!"
    return required({"user_name": form("What is your name?", "name")})


def fixture() -> Server[Any]:
    """The low-level server, with what the larger one has no decorator for."""
    server = mcp._lowlevel_server  # the daemon stands on low-level servers too

    async def taken(ctx: Any, params: Any) -> types.EmptyResult:
        return types.EmptyResult()

    server.add_request_handler("logging/setLevel", types.SetLevelRequestParams, taken)
    server.add_request_handler("resources/subscribe", types.SubscribeRequestParams, taken)
    server.add_request_handler("resources/unsubscribe", types.UnsubscribeRequestParams, taken)
    install(server, TasksExtension(LongWork()))
    return server
