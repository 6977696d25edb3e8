"""Prompts: they carry their arguments, and name tools and arguments that exist."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError

from agentd.plugins import Plugins
from agentd.server.holdings import Holdings
from agentd.server.prompts import PROMPTS, Prompt

pytestmark = pytest.mark.anyio
Connect = Callable[..., AbstractAsyncContextManager[Client]]

TOOLS = Plugins.open().tools()
WORDS = {"not_worse", "waiting_approval"}  # values, not tools
CALL = re.compile(r"\b([a-z]+(?:_[a-z]+)*)((?: [a-z_]+=[^\s,;:]+)+)")


async def test_the_workflows_are_listed(connect: Connect) -> None:
    async with connect("view") as client:
        prompts = {prompt.name: prompt for prompt in (await client.list_prompts()).prompts}
    assert set(prompts) == {
        "start_with_rag",
        "finetune_and_compare",
        "cut_cost_of_alias",
        "investigate_regression",
    }
    needed = {each.name: each.required for each in prompts["finetune_and_compare"].arguments or []}
    assert needed == {"data": True, "base": True, "suite": False}


async def test_a_prompt_carries_its_arguments(connect: Connect) -> None:
    async with connect("view") as client:
        got = await client.get_prompt("finetune_and_compare", {"data": "{rows}.jsonl", "base": "small"})
    (message,) = got.messages
    assert isinstance(message.content, types.TextContent)
    assert "fine-tuning small on {rows}.jsonl" in message.content.text
    assert "finetune model=small dataset=" in message.content.text


async def test_what_is_missing_or_unknown_is_refused_by_name(connect: Connect) -> None:
    async with connect() as client:
        with pytest.raises(MCPError, match="needs base"):
            await client.get_prompt("finetune_and_compare", {"data": "rows.jsonl"})
        with pytest.raises(MCPError, match="'data'"):
            await client.get_prompt("finetune_and_compare", {"dta": "rows.jsonl", "base": "small"})
        with pytest.raises(MCPError, match="'cut_cost_of_alias'"):
            await client.get_prompt("cut_cost_alias", {})


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_it_names_only_tools_and_arguments_that_exist(prompt: Prompt) -> None:
    text = re.sub(r"agentd://\S+", "", prompt.text)
    named = set(re.findall(r"\b[a-z]+(?:_[a-z]+)+\b", text)) - WORDS
    fields = {name: set(tool.arguments.model_fields) for name, tool in TOOLS.items()}
    assert named <= set(TOOLS) | {field for each in fields.values() for field in each}
    calls = CALL.findall(text)
    assert len(calls) >= 3
    for tool, arguments in calls:
        assert tool in TOOLS, tool
        assert set(re.findall(r"([a-z_]+)=", arguments)) <= fields[tool], (tool, arguments)


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_it_is_short_and_tells_when_to_ask(prompt: Prompt) -> None:
    assert len(prompt.text.split()) < 300
    assert re.search(r"\b[Aa]sk\b", prompt.text)
    assert "stop" in prompt.text or "Only read" in prompt.text


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_it_points_at_addresses_that_exist(prompt: Prompt, kernel: Any) -> None:
    kinds = Holdings(kernel).kinds
    for kind in re.findall(r"agentd://([a-z]+)", prompt.text):
        assert kind in kinds


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_every_argument_is_used_and_every_place_is_filled(prompt: Prompt) -> None:
    used = set(re.findall(r"\{(\w+)\}", prompt.text))
    assert used == {argument.name for argument in prompt.arguments}
