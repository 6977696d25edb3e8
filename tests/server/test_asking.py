"""What a client of 2026-07-28 is asked, with and without tasks, on a real daemon over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal

import httpx
import httpx2
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from agentd.daemon import Daemon
from agentd.policy.callers import Caller
from agentd.server.app import bind, http_server
from agentd.server.mcp import mcp_server
from agentd.server.tasks import TASKS

pytestmark = pytest.mark.anyio
Boot = Any
REVISION = "2026-07-28"
FORMS: dict[str, Any] = {"elicitation": {}}
URLS: dict[str, Any] = {"elicitation": {"url": {}}}
BOTH: dict[str, Any] = {"elicitation": {"url": {}, "form": {}}}
TAKES_TASKS: dict[str, Any] = {"extensions": {TASKS: {}}}
WORK = {"name": "work", "arguments": {}}


class Connected:
    """A daemon, and one who asks it with the agents' token."""

    def __init__(self, daemon: Daemon, url: str) -> None:
        self.daemon, self.url = daemon, url
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
            answer = await client.post(f"{self.url}/mcp", json=body, headers=headers)
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


async def test_a_client_that_declares_no_way_is_never_asked(connect: Any) -> None:
    client = await connect("asking_client")
    result = await client.ask({}, "tools/call", **WORK)
    assert result["structuredContent"]["state"] == "waiting_approval"


# --- a page to open ---------------------------------------------------------------------------


@pytest.mark.parametrize("capabilities", [URLS, BOTH])
async def test_a_client_that_opens_addresses_is_handed_that_of_the_page(
    connect: Any, capabilities: dict[str, Any]
) -> None:
    client = await connect("asking")
    asked = await client.ask(capabilities, "tools/call", **WORK)
    [(question, request)] = asked["inputRequests"].items()
    params = request["params"]
    assert (request["method"], params["mode"]) == ("elicitation/create", "url")
    assert params["url"] == f"{client.url}/approve/{question}"
    assert "asked by agent:" in params["message"]
    assert "elicitationId" not in params  # 2025-11-25 has it, 2026-07-28 has not
    result = await client.ask(capabilities, "tools/call", **answering(asked, action="accept"))
    job = result["structuredContent"]
    assert (job["state"], job["approval"]) == ("waiting_approval", question)
    assert client.journal("approval.refused") == []
    assert len(client.daemon.jobs.list()) == 1


async def test_a_form_is_preferred_where_a_rule_lets_the_client_answer_and_only_there(connect: Any) -> None:
    client = await connect("asking_client")
    modes = [
        next(iter((await client.ask(each, "tools/call", **WORK))["inputRequests"].values()))["params"]["mode"]
        for each in (BOTH, FORMS, URLS)
    ]
    assert modes == ["form", "form", "url"]


async def test_that_a_page_was_opened_answers_nothing_and_an_answer_beside_it_is_an_attempt(
    connect: Any,
) -> None:
    client = await connect("asking")
    for response, attempts in (({"action": "accept"}, 0), ({"action": "decline"}, 0)):
        asked = await client.ask(URLS, "tools/call", **WORK)
        await client.ask(URLS, "tools/call", **answering(asked, **response))
        assert client.state(asked["requestState"]) == "waiting_approval"
        assert len(client.journal("approval.refused")) == attempts
    asked = await client.ask(URLS, "tools/call", **WORK)
    forged = answering(asked, action="accept", content={"answer": "approve"})
    await client.ask(URLS, "tools/call", **forged)
    assert client.state(asked["requestState"]) == "waiting_approval"
    assert client.journal("approval.refused") == [("agent", "mcp-elicitation")]


async def test_a_task_hands_the_page_over_once_and_goes_on_when_a_person_answered(connect: Any) -> None:
    client = await connect("asking")
    capabilities = TAKES_TASKS | URLS
    task = (await client.ask(capabilities, "tools/call", **WORK))["taskId"]
    waiting = await client.ask(capabilities, "tasks/get", taskId=task)
    assert waiting["status"] == "input_required"
    [(question, request)] = waiting["inputRequests"].items()
    assert request["params"]["url"].endswith(f"/approve/{question}")
    await client.ask(
        capabilities, "tasks/update", taskId=task, inputResponses={question: {"action": "accept"}}
    )
    after = await client.ask(capabilities, "tasks/get", taskId=task)
    assert (after["status"], client.state(task)) == ("working", "waiting_approval")
    owner = client.daemon.tokens.check((client.daemon.state_dir / "owner-token").read_text("ascii"))
    await client.daemon.approvals.decide(question, "approve", owner)
    await client.daemon.jobs.settled(task)
    assert (await client.ask(capabilities, "tasks/get", taskId=task))["status"] == "completed"


async def test_a_call_that_launches_nothing_is_answered_in_the_same_way(connect: Any) -> None:
    client = await connect("asking")
    move = {"name": "move", "arguments": {"name": "a"}}
    asked = await client.ask(URLS, "tools/call", **move)
    [question] = asked["inputRequests"]
    again = move | {"requestState": asked["requestState"], "inputResponses": {question: {"action": "accept"}}}
    waiting = await client.ask(URLS, "tools/call", **again)
    assert waiting["isError"]
    assert waiting["_meta"]["agentd/error"]["approval_id"] == question
    owner = client.daemon.tokens.check((client.daemon.state_dir / "owner-token").read_text("ascii"))
    await client.daemon.approvals.decide(question, "approve", owner)
    done = await client.ask(URLS, "tools/call", **again)
    assert not done.get("isError")
    assert done["structuredContent"] == (await client.daemon.jobs.settled(asked["requestState"])).result
    assert len(client.daemon.jobs.list()) == 1


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


# --- sessions of older revisions --------------------------------------------------------------


class Person:
    """Answers what its client is asked with `action`, and remembers what that was."""

    def __init__(self, action: Literal["accept", "decline"], content: dict[str, Any] | None = None) -> None:
        self.asked: list[types.ElicitRequestParams] = []
        self._result = types.ElicitResult(action=action, content=content)

    async def __call__(self, context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        self.asked.append(params)
        return self._result


async def test_a_session_of_2025_is_handed_the_page_while_its_call_is_open(boot: Boot, agent: Caller) -> None:
    daemon: Daemon = await boot(policy="asking", url="http://127.0.0.1:8731")
    person = Person("accept")
    async with Client(mcp_server(daemon, agent), mode="legacy", elicitation_callback=person) as client:
        result = await client.call_tool("work", {})
        moved = await client.call_tool("move", {"name": "a"})
    job = result.structured_content or {}
    asked = [each for each in person.asked if isinstance(each, types.ElicitRequestURLParams)]
    assert job["state"] == "waiting_approval"
    assert asked[0].url == f"http://127.0.0.1:8731/approve/{job['approval']}"
    assert asked[0].elicitation_id == job["approval"]
    assert len(asked) == len(person.asked) == 2
    assert moved.is_error
    assert [entry for entry in daemon.journal.tail(100) if entry.kind == "approval.refused"] == []


async def test_over_http_a_session_of_2025_is_handed_the_page_too(connect: Any) -> None:
    served, person = await connect("asking"), Person("accept")
    token = (served.daemon.state_dir / "agent-token").read_text("ascii")
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=30) as http,
        Client(
            streamable_http_client(f"{served.url}/mcp", http_client=http),
            mode="legacy",
            elicitation_callback=person,
        ) as client,
    ):
        job = (await client.call_tool("work", {})).structured_content or {}
    [asked] = person.asked
    assert isinstance(asked, types.ElicitRequestURLParams)
    assert asked.url == f"{served.url}/approve/{job['approval']}"
    assert job["state"] == "waiting_approval"


@pytest.mark.parametrize(
    ("action", "content", "state"),
    [("accept", {"answer": "approve"}, "succeeded"), ("decline", None, "waiting_approval")],
)
async def test_a_session_of_2025_answers_a_form_where_a_rule_lets_it(
    boot: Boot, agent: Caller, action: Any, content: Any, state: str
) -> None:
    daemon: Daemon = await boot(policy="asking_client", url="http://127.0.0.1:8731")
    person = Person(action, content)
    async with Client(mcp_server(daemon, agent), mode="legacy", elicitation_callback=person) as client:
        job = (await client.call_tool("work", {})).structured_content or {}
    assert [type(each) for each in person.asked] == [types.ElicitRequestFormParams]
    assert (
        daemon.jobs.get(job["id"]) if content is None else await daemon.jobs.settled(job["id"])
    ).state == state


async def test_the_client_of_the_sdk_is_handed_the_page_in_2026(boot: Boot, agent: Caller) -> None:
    daemon: Daemon = await boot(policy="asking", url="http://127.0.0.1:8731")
    person = Person("accept")
    async with Client(mcp_server(daemon, agent), mode="2026-07-28", elicitation_callback=person) as client:
        result = await client.call_tool("work", {})
    job = result.structured_content or {}
    [asked] = person.asked
    assert isinstance(asked, types.ElicitRequestURLParams)
    assert (asked.url, asked.elicitation_id) == (f"http://127.0.0.1:8731/approve/{job['approval']}", None)
