"""MCP, in memory and over real HTTP, for clients of both eras."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from pydantic import BaseModel

from agentd.sdk import JobView
from agentd.server.mcp import KEY_META
from agentd.server.results import ERROR_META, tool_result

pytestmark = pytest.mark.anyio
Connect = Callable[..., AbstractAsyncContextManager[Client]]


def text_of(result: types.CallToolResult) -> str:
    return "".join(part.text for part in result.content if isinstance(part, types.TextContent))


async def test_tools_are_listed_with_schemas_and_hints(connect: Connect) -> None:
    async with connect() as client:
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert set(tools) == {"echo", "finetune", "job_wait", "overspend", "crash", "hang"}
    assert tools["finetune"].input_schema == {
        "type": "object",
        "properties": {
            "data": {"type": "string", "description": "path of a JSONL data set"},
            "epochs": {"type": "integer", "minimum": 1, "default": 2, "description": "passes over the data"},
        },
        "required": ["data"],
        "additionalProperties": False,
    }
    assert tools["echo"].title == "Echo"
    assert tools["echo"].annotations == types.ToolAnnotations(
        read_only_hint=True,
        destructive_hint=False,
        idempotent_hint=True,
        open_world_hint=False,
    )


async def test_a_result_is_structured_and_readable(connect: Connect) -> None:
    async with connect() as client:
        result = await client.call_tool("echo", {"text": "hé"})
    assert result.structured_content is not None
    assert result.structured_content["text"] == "hé"
    assert "note" not in result.structured_content
    assert json.loads(text_of(result)) == result.structured_content


async def test_a_call_acts_for_the_tokens_owner_as_an_agent(connect: Connect) -> None:
    async with connect() as client:
        result = await client.call_tool("echo", {"text": "x"})
    said: dict[str, Any] = result.structured_content or {}
    assert (said["principal"], said["surface"], said["is_agent"]) == ("ada-operate", "mcp", True)


async def test_a_launch_answers_with_a_job(connect: Connect) -> None:
    async with connect() as client:
        result = await client.call_tool("finetune", {"data": "rows.jsonl"})
    assert (result.structured_content or {})["id"] == "job-1"
    assert text_of(result).startswith("finetune job-1: running")


async def test_an_error_is_a_tool_error_with_code_and_hint(connect: Connect) -> None:
    async with connect() as client:
        result = await client.call_tool("overspend", {})
    assert result.is_error
    assert text_of(result).startswith("over_budget: Today's budget")
    assert (result.meta or {})[ERROR_META]["hint"] == "Raise it or wait."


async def test_wrong_arguments_are_a_tool_error_that_a_model_can_mend(connect: Connect) -> None:
    async with connect() as client:
        result = await client.call_tool("finetune", {"data": "x", "epochs": 0})
    assert result.is_error
    assert "epochs" in text_of(result)


async def test_a_crash_shows_an_incident_and_not_its_cause(
    connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect() as client:
        result = await client.call_tool("crash", {})
    assert result.is_error
    assert "1234" not in text_of(result)
    incident = text_of(result).split("incident ")[1].split()[0]
    assert incident in caplog.text
    assert "the secret is 1234" in caplog.text


async def test_an_unknown_tool_is_a_protocol_error_with_near_names(connect: Connect) -> None:
    async with connect() as client:
        with pytest.raises(MCPError, match="'echo'") as caught:
            await client.call_tool("ecko", {})
    assert caught.value.error.code == types.INVALID_PARAMS


async def test_a_tool_that_is_not_listed_is_called_by_name_all_the_same(connect: Connect) -> None:
    async with connect() as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        result = await client.call_tool("aside", {"text": "psst"})
    assert "aside" not in names
    assert (result.structured_content or {})["text"] == "psst"


async def test_a_viewer_sees_and_calls_only_what_looks(connect: Connect) -> None:
    async with connect("view") as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        result = await client.call_tool("finetune", {"data": "x"})
    assert "finetune" not in names
    assert "echo" in names
    assert (result.meta or {})[ERROR_META]["code"] == "unauthorized"


async def test_a_key_for_inference_sees_nothing(connect_http: Connect) -> None:
    async with connect_http("infer") as client:
        for ask in (client.list_tools, client.list_resources, client.list_prompts):
            with pytest.raises(MCPError, match="needs 'view'"):
                await ask()


async def test_the_same_key_for_something_else_is_a_conflict(connect: Connect) -> None:
    async with connect() as client:
        for _ in range(2):
            again = await client.call_tool("finetune", {"data": "a"}, meta={KEY_META: "k1"})  # type: ignore[typeddict-unknown-key]
            assert not again.is_error
        other = await client.call_tool("finetune", {"data": "b"}, meta={KEY_META: "k1"})  # type: ignore[typeddict-unknown-key]
    assert (other.meta or {})[ERROR_META]["code"] == "conflict"


async def test_waiting_reports_rising_progress(connect: Connect) -> None:
    seen: list[tuple[float, float | None, str | None]] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append((progress, total, message))

    async with connect() as client:
        result = await client.call_tool("job_wait", {"job": "job-1"}, progress_callback=on_progress)
    assert (result.structured_content or {})["state"] == "succeeded"
    figures = [progress for progress, _, _ in seen]
    assert figures == sorted(set(figures))
    assert (2.0, 3.0, "finetune job-1: running, 2/3 steps") in seen


async def test_waiting_without_a_progress_token_just_answers(connect: Connect) -> None:
    async with connect() as client:
        result = await client.call_tool("job_wait", {"job": "job-1", "max_s": 0})
    assert (result.structured_content or {})["result"] == {"loss": 0.5}
    assert 'result: {"loss":0.5}' in text_of(result)


def test_a_state_of_a_job_is_told_in_words_and_in_full_as_data() -> None:
    class Status(BaseModel):
        id: str
        job: JobView

    view = JobView(id="job-1", tool="finetune", title="A run", state="succeeded", result={"loss": 0.5})
    result = tool_result(Status(id=view.id, job=view))
    assert text_of(result) == 'finetune job-1: succeeded\nresult: {"loss":0.5}'
    assert (result.structured_content or {})["job"]["result"] == {"loss": 0.5}
    assert isinstance(result.content[-1], types.ResourceLink)


async def test_progress_of_an_unknown_job_is_only_a_tool_error(connect: Connect) -> None:
    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        raise AssertionError

    async with connect() as client:
        result = await client.call_tool("job_wait", {"job": "job-2"}, progress_callback=on_progress)
    assert (result.meta or {})[ERROR_META]["code"] == "not_found"


async def test_relative_paths_start_from_the_folder_the_client_names(connect_http: Connect) -> None:
    async with connect_http(**{"agentd-cwd": "/my%20project"}) as client:
        result = await client.call_tool("echo", {"text": "x"})
    assert (result.structured_content or {})["cwd"] == "/my project"


async def test_hanging_up_cancels_a_new_era_call(daemon: Any) -> None:
    body: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "tools/call",
        "params": {
            "name": "hang",
            "arguments": {},
            "_meta": {
                "io.modelcontextprotocol/protocolVersion": "2026-07-28",
                "io.modelcontextprotocol/clientCapabilities": {},
            },
        },
    }
    headers = {
        "authorization": "Bearer operate",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2026-07-28",
        "mcp-method": "tools/call",
        "mcp-name": "hang",
    }
    async with httpx2.AsyncClient(timeout=30) as http:
        call = asyncio.create_task(http.post(f"{daemon.url}/mcp", json=body, headers=headers))
        await asyncio.to_thread(daemon.kernel.calls.hung.wait, 10)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
    assert await asyncio.to_thread(daemon.kernel.calls.unhung.wait, 10)


@pytest.mark.parametrize("version", ["2025-06-18", "2025-11-25"])
async def test_a_handshake_client_gets_the_version_it_asks_for(daemon: Any, version: str) -> None:
    body: dict[str, Any] = {
        "jsonrpc": "2.0",
        "id": 1,
        "method": "initialize",
        "params": {
            "protocolVersion": version,
            "capabilities": {},
            "clientInfo": {"name": "t", "version": "1"},
        },
    }
    headers = {"authorization": "Bearer view", "accept": "application/json, text/event-stream"}
    async with httpx2.AsyncClient() as http:
        answer = await http.post(f"{daemon.url}/mcp", json=body, headers=headers)
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["result"]["protocolVersion"] == version
    assert "mcp-session-id" not in answer.headers
