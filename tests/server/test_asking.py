"""Answering in the client of 2026-07-28, with and without tasks, on a real daemon over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from agentd.daemon import Daemon
from agentd.server.app import bind, http_server
from agentd.server.tasks import TASKS

pytestmark = pytest.mark.anyio
Boot = Any
REVISION = "2026-07-28"
FORMS: dict[str, Any] = {"elicitation": {}}
TAKES_TASKS: dict[str, Any] = {"extensions": {TASKS: {}}}
WORK = {"name": "work", "arguments": {}}


class Connected:
    """A daemon, and one who asks it with the agents' token."""

    def __init__(self, daemon: Daemon, url: str) -> None:
        self.daemon, self._url = daemon, url
        self._token = (daemon.state_dir / "agent-token").read_text("ascii")

    async def ask(self, capabilities: dict[str, Any], method: str, **params: Any) -> dict[str, Any]:
        meta = {
            "io.modelcontextprotocol/protocolVersion": REVISION,
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        headers = {
            "authorization": f"Bearer {self._token}",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": REVISION,
            "mcp-method": method,
            "mcp-name": params.get("taskId") or params.get("name", ""),
        }
        async with httpx.AsyncClient(verify=False, timeout=30) as client:
            answer = await client.post(f"{self._url}/mcp", json=body, headers=headers)
        return answer.json()["result"]

    def journal(self, kind: str) -> list[tuple[str, str]]:
        entries = [entry for entry in self.daemon.journal.tail(100) if entry.kind == kind]
        return [(entry.principal.partition(":")[0], entry.data["surface"]) for entry in entries]

    def state(self, job: str) -> str:
        return self.daemon.jobs.get(job).state


@pytest.fixture
async def connect(boot: Boot) -> AsyncIterator[Callable[[str], Awaitable[Connected]]]:
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    ends: list[Any] = []

    async def connect(policy: str) -> Connected:
        daemon: Daemon = await boot(policy=policy, url=url)
        server = http_server(daemon)
        ends.append((server, asyncio.create_task(server.serve(sockets=[listener]))))
        return Connected(daemon, url)

    yield connect
    for server, serving in ends:
        server.should_exit = True
        await serving
    listener.close()


def answering(asked: dict[str, Any], **response: Any) -> dict[str, Any]:
    return {
        **WORK,
        "requestState": asked["requestState"],
        "inputResponses": dict.fromkeys(asked["inputRequests"], response),
    }


async def test_an_answer_that_the_rule_lets_count_starts_the_job_and_is_journalled(connect: Any) -> None:
    client = await connect("asking_client")
    asked = await client.ask(FORMS, "tools/call", **WORK)
    assert asked["resultType"] == "input_required"
    [(question, request)] = asked["inputRequests"].items()
    assert request["method"] == "elicitation/create"
    assert "asked by agent:" in request["params"]["message"]
    result = await client.ask(
        FORMS, "tools/call", **answering(asked, action="accept", content={"answer": "approve"})
    )
    job = result["structuredContent"]
    assert job["approval"] == question
    assert (await client.daemon.jobs.settled(job["id"])).state == "succeeded"
    assert client.journal("approval.approved") == [("agent", "mcp-elicitation")]
    assert len(client.daemon.jobs.list()) == 1


async def test_a_denial_in_the_client_ends_the_job(connect: Any) -> None:
    client = await connect("asking_client")
    asked = await client.ask(FORMS, "tools/call", **WORK)
    await client.ask(FORMS, "tools/call", **answering(asked, action="accept", content={"answer": "deny"}))
    assert client.state(asked["requestState"]) == "cancelled"


@pytest.mark.parametrize(
    "response",
    [
        {"action": "decline"},
        {"action": "cancel"},
        {"action": "accept"},
        {"action": "accept", "content": {}},
        {"action": "accept", "content": {"answer": "yes"}},
        {"action": "decline", "content": {"answer": "approve"}},
    ],
)
async def test_whatever_is_no_answer_leaves_the_job_pending(connect: Any, response: dict[str, Any]) -> None:
    client = await connect("asking_client")
    asked = await client.ask(FORMS, "tools/call", **WORK)
    result = await client.ask(FORMS, "tools/call", **answering(asked, **response))
    assert result["structuredContent"]["state"] == "waiting_approval"
    assert "agentd approve" in result["structuredContent"]["next"]


@pytest.mark.parametrize("capabilities", [{}, {"elicitation": {"url": {}}}])
async def test_a_client_without_forms_is_never_asked(connect: Any, capabilities: dict[str, Any]) -> None:
    client = await connect("asking_client")
    result = await client.ask(capabilities, "tools/call", **WORK)
    assert result["structuredContent"]["state"] == "waiting_approval"


async def test_where_no_rule_lets_it_nothing_is_asked_and_an_answer_is_an_attempt(connect: Any) -> None:
    client = await connect("asking")
    job = (await client.ask(FORMS, "tools/call", **WORK))["structuredContent"]
    answer = {job["approval"]: {"action": "accept", "content": {"answer": "approve"}}}
    await client.ask(FORMS, "tools/call", **WORK, requestState=job["id"], inputResponses=answer)
    await client.ask(TAKES_TASKS | FORMS, "tasks/update", taskId=job["id"], inputResponses=answer)
    assert client.state(job["id"]) == "waiting_approval"
    assert client.journal("approval.refused") == [("agent", "mcp-elicitation")] * 2


async def test_a_task_waits_for_input_and_goes_on_with_the_answer(connect: Any) -> None:
    client = await connect("asking_client")
    both = TAKES_TASKS | FORMS
    task = (await client.ask(both, "tools/call", **WORK))["taskId"]
    waiting = await client.ask(both, "tasks/get", taskId=task)
    assert waiting["status"] == "input_required"
    ignored = {"apr-other": {"action": "accept", "content": {"answer": "approve"}}}
    await client.ask(both, "tasks/update", taskId=task, inputResponses=ignored)
    assert client.state(task) == "waiting_approval"
    [question] = waiting["inputRequests"]
    answer = {question: {"action": "accept", "content": {"answer": "approve"}}}
    assert (await client.ask(both, "tasks/update", taskId=task, inputResponses=answer))["resultType"] == (
        "complete"
    )
    await client.daemon.jobs.settled(task)
    done = await client.ask(both, "tasks/get", taskId=task)
    assert (done["status"], done["result"]["structuredContent"]["state"]) == ("completed", "succeeded")


async def test_a_task_of_a_client_without_forms_works_until_somebody_answers(connect: Any) -> None:
    client = await connect("asking_client")
    task = (await client.ask(TAKES_TASKS, "tools/call", **WORK))["taskId"]
    waiting = await client.ask(TAKES_TASKS, "tasks/get", taskId=task)
    assert waiting["status"] == "working"
    assert "agentd approve" in waiting["statusMessage"]
    await client.ask(TAKES_TASKS, "tasks/cancel", taskId=task)
    assert client.state(task) == "cancelled"
