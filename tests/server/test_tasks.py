"""Jobs as tasks, in memory and over real HTTP."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx2
import pytest
from mcp_types import HEADER_MISMATCH, INVALID_PARAMS, METHOD_NOT_FOUND, MISSING_REQUIRED_CLIENT_CAPABILITY

from agentd.sdk import JobView
from agentd.server.tasks import TASKS

pytestmark = pytest.mark.anyio

MODERN = "2026-07-28"
Ask = Callable[..., Awaitable[dict[str, Any]]]


@pytest.fixture
def ask(daemon: Any) -> Ask:
    """``await ask(method, params, …)``: one request of its own, and what came back."""

    async def ask(
        method: str,
        params: dict[str, Any],
        *,
        token: str = "operate",
        revision: str = MODERN,
        tasks: bool = True,
        name: str | None = None,
    ) -> dict[str, Any]:
        meta: dict[str, Any] = {}
        headers = {
            "authorization": f"Bearer {token}",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": revision,
        }
        if revision == MODERN:
            capabilities = {"extensions": {TASKS: {}}} if tasks else {}
            meta = {
                "io.modelcontextprotocol/protocolVersion": revision,
                "io.modelcontextprotocol/clientCapabilities": capabilities,
            }
            headers |= {
                "mcp-method": method,
                "mcp-name": name or params.get("taskId") or params.get("name", ""),
            }
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        async with httpx2.AsyncClient(timeout=30) as http:
            answer = await http.post(f"{daemon.url}/mcp", json=body, headers=headers)
        return answer.json()

    return ask


LAUNCH = {"name": "finetune", "arguments": {"data": "rows.jsonl"}}


def becomes(daemon: Any, **changes: Any) -> JobView:
    """The fake job, from now on like this."""
    story = daemon.kernel.jobs.stories["job-1"]
    story.append(story[-1].model_copy(update=changes))
    return story[-1]


async def test_a_launch_is_a_task_to_a_client_that_takes_tasks(ask: Ask) -> None:
    result = (await ask("tools/call", LAUNCH))["result"]
    assert (result["resultType"], result["taskId"]) == ("task", "job-1")
    assert result["ttlMs"] is None
    assert isinstance(result["pollIntervalMs"], int)
    assert "result" not in result


async def test_a_client_that_declared_nothing_has_the_job_and_a_link_to_it(ask: Ask) -> None:
    result = (await ask("tools/call", LAUNCH, tasks=False))["result"]
    assert result["resultType"] == "complete"
    assert result["structuredContent"]["id"] == "job-1"
    assert [part["uri"] for part in result["content"] if part["type"] == "resource_link"] == [
        "agentd://jobs/job-1"
    ]


@pytest.mark.parametrize("revision", ["2025-06-18", "2025-11-25"])
async def test_older_revisions_have_no_tasks(ask: Ask, revision: str) -> None:
    meta = {"io.modelcontextprotocol/clientCapabilities": {"extensions": {TASKS: {}}}}
    result = (await ask("tools/call", {**LAUNCH, "_meta": meta}, revision=revision))["result"]
    assert result["structuredContent"]["id"] == "job-1"
    refused = await ask("tasks/get", {"taskId": "job-1"}, revision=revision)
    assert refused["error"]["code"] == METHOD_NOT_FOUND


async def test_a_tool_that_answers_at_once_is_no_task(ask: Ask) -> None:
    result = (await ask("tools/call", {"name": "echo", "arguments": {"text": "x"}}))["result"]
    assert (result["resultType"], result["structuredContent"]["text"]) == ("complete", "x")


async def test_a_completed_task_has_the_tools_result(ask: Ask) -> None:
    task = (await ask("tasks/get", {"taskId": "job-1"}))["result"]
    assert (task["resultType"], task["status"]) == ("complete", "completed")
    assert task["result"]["structuredContent"]["result"] == {"loss": 0.5}
    assert task["result"]["content"][0]["text"].startswith("finetune job-1: succeeded")


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("queued", "working"),
        ("preparing", "working"),
        ("running", "working"),
        ("waiting_approval", "working"),  # nobody declared that they can be asked
        ("succeeded", "completed"),
        ("failed", "completed"),
        ("timed_out", "completed"),
        ("lost", "failed"),
        ("cancelled", "cancelled"),
    ],
)
async def test_each_state_of_a_job_is_one_of_a_task(daemon: Any, ask: Ask, state: str, status: str) -> None:
    becomes(daemon, state=state, next="Say this.")
    task = (await ask("tasks/get", {"taskId": "job-1"}))["result"]
    assert task["status"] == status
    assert "Say this." in task["statusMessage"]
    assert ("result" in task, "error" in task) == (status == "completed", status == "failed")
    if status == "completed":
        assert task["result"].get("isError", False) == (state != "succeeded")


async def test_a_service_is_completed_once_it_is_ready(daemon: Any, ask: Ask) -> None:
    service = {"url": "http://127.0.0.1:9/v1", "serves": ["x"], "ready": False}
    becomes(daemon, state="running", service=service)
    assert (await ask("tasks/get", {"taskId": "job-1"}))["result"]["status"] == "working"
    becomes(daemon, service=service | {"ready": True})
    assert (await ask("tasks/get", {"taskId": "job-1"}))["result"]["status"] == "completed"


async def test_what_was_held_for_a_person_ends_with_its_own_result(daemon: Any, ask: Ask) -> None:
    said = {"text": "x", "principal": "p", "surface": "s", "is_agent": True, "cwd": "/"}
    becomes(daemon, tool="echo", result=said)
    task = (await ask("tasks/get", {"taskId": "job-1"}))["result"]
    assert task["result"]["structuredContent"]["text"] == "x"


async def test_cancelling_is_acknowledged_without_a_task(daemon: Any, ask: Ask) -> None:
    result = (await ask("tasks/cancel", {"taskId": "job-1"}))["result"]
    assert result["resultType"] == "complete"
    assert not {"taskId", "status", "result"} & set(result)
    assert daemon.kernel.jobs.cancelled == ["job-1"]


@pytest.mark.parametrize("verb", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_anothers_task_is_as_one_that_is_not_there(daemon: Any, ask: Ask, verb: str) -> None:
    more = {"inputResponses": {}} if verb == "tasks/update" else {}
    daemon.kernel.strangers = frozenset({"ada-approve"})
    said = [
        (await ask(verb, {"taskId": task, **more}, token=token))["error"]
        for task, token in (("job-1", "approve"), ("job-2", "operate"))
    ]
    assert [error["code"] for error in said] == [INVALID_PARAMS] * 2
    assert said[0]["message"] == said[1]["message"].replace("job-2", "job-1")
    assert not daemon.kernel.jobs.cancelled


@pytest.mark.parametrize("verb", ["tasks/get", "tasks/update", "tasks/cancel"])
async def test_a_verb_is_for_those_who_declared_the_extension(ask: Ask, verb: str) -> None:
    more = {"inputResponses": {}} if verb == "tasks/update" else {}
    error = (await ask(verb, {"taskId": "job-1", **more}, tasks=False))["error"]
    assert error["code"] == MISSING_REQUIRED_CLIENT_CAPABILITY
    assert TASKS in error["data"]["requiredCapabilities"]["extensions"]


async def test_a_header_that_names_another_task_is_refused(daemon: Any, ask: Ask) -> None:
    error = (await ask("tasks/cancel", {"taskId": "job-1"}, name="job-2"))["error"]
    assert error["code"] == HEADER_MISMATCH
    assert not daemon.kernel.jobs.cancelled


@pytest.mark.parametrize("verb", ["tasks/result", "tasks/list"])
async def test_verbs_that_were_removed_are_not_there(ask: Ask, verb: str) -> None:
    assert (await ask(verb, {"taskId": "job-1"}))["error"]["code"] == METHOD_NOT_FOUND
