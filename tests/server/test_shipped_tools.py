"""The tools that ship, as MCP clients see them: few, described so that a model can choose, and small."""

from __future__ import annotations

import re
from typing import Any

import mcp_types as types
import pytest
from mcp.client.client import Client

from agentd.plugins import Plugins
from agentd.sdk import Tool

SHIPPED = Plugins.open().tools()
LISTED = [tool for tool in SHIPPED.values() if tool.listed]
MOST_TOOLS = 25
MOST_BYTES = 36_000
NOT_FOR = re.compile(r"(?:^|[.\n]\s*|\s)Not (?:for|to) [^.]{8,}")


@pytest.fixture
async def described(kernel: Any, memory_to: Any) -> dict[str, types.Tool]:
    kernel.calls.tools = SHIPPED
    async with memory_to(kernel, "2026-07-28")("admin") as client:
        shown: Client = client
        return {tool.name: tool for tool in (await shown.list_tools()).tools}


def test_there_are_not_more_than_a_model_can_choose_from() -> None:
    assert len(LISTED) <= MOST_TOOLS


@pytest.mark.anyio
async def test_all_of_them_are_small_enough_for_a_models_context(described: dict[str, types.Tool]) -> None:
    size = sum(len(tool.model_dump_json(by_alias=True, exclude_none=True)) for tool in described.values())
    assert size <= MOST_BYTES


@pytest.mark.anyio
async def test_each_has_a_title_and_all_four_hints(described: dict[str, types.Tool]) -> None:
    assert set(described) == {tool.name for tool in LISTED}
    for tool in described.values():
        assert tool.title, tool.name
        hints = tool.annotations
        assert hints is not None
        given = (hints.read_only_hint, hints.destructive_hint, hints.idempotent_hint, hints.open_world_hint)
        assert None not in given, tool.name
        assert not (hints.read_only_hint and hints.destructive_hint), tool.name
        assert tool.output_schema, tool.name


@pytest.mark.parametrize("tool", LISTED, ids=lambda tool: tool.name)
def test_each_says_when_not_to_use_it(tool: Tool) -> None:
    assert NOT_FOR.search(tool.description), tool.description


@pytest.mark.parametrize("tool", LISTED, ids=lambda tool: tool.name)
def test_a_description_names_only_tools_that_exist(tool: Tool) -> None:
    known = {*SHIPPED, *tool.arguments.model_fields, *tool.result.model_fields, "datasets", "dataset"}
    named = set(re.findall(r"`([a-z_]+)`", tool.description))
    assert named <= known


@pytest.mark.parametrize("tool", LISTED, ids=lambda tool: tool.name)
def test_every_argument_is_described(tool: Tool) -> None:
    for name, field in tool.arguments.model_fields.items():
        assert field.description, f"{tool.name}.{name}"
