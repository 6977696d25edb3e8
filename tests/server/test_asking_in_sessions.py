"""Clients of older revisions answer in their own call: over HTTP and through the stdio proxy."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from agentd.daemon import Daemon
from agentd.server.app import bind, http_server

pytestmark = pytest.mark.anyio
Boot = Any
Serve = Callable[[str], Awaitable[tuple[Daemon, str]]]
Answer = types.ElicitResult
APPROVE = Answer(action="accept", content={"answer": "approve"})


@pytest.fixture
async def serve(boot: Boot) -> AsyncIterator[Serve]:
    ends: list[Any] = []

    async def serve(policy: str) -> tuple[Daemon, str]:
        listener = bind("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        daemon = await boot(policy=policy, url=url)
        server = http_server(daemon)
        ends.append((server, asyncio.create_task(server.serve(sockets=[listener])), listener))
        return daemon, url

    yield serve
    for server, serving, listener in reversed(ends):  # each gives back the signal handlers that it found
        server.should_exit = True
        await serving
        listener.close()


class Person:
    """Whoever sits before the client: remembers what was shown, and answers the same each time."""

    def __init__(self, answer: Answer) -> None:
        self.answer, self.shown = answer, list[types.ElicitRequestParams]()

    async def __call__(self, context: Any, params: types.ElicitRequestParams) -> Answer:
        self.shown.append(params)
        return self.answer


@asynccontextmanager
async def http(daemon: Daemon, url: str, person: Person | None) -> AsyncIterator[Client]:
    token = (daemon.state_dir / "agent-token").read_text("ascii")
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {token}"}, timeout=30) as sender,
        Client(
            streamable_http_client(f"{url}/mcp", http_client=sender),
            mode="legacy",
            elicitation_callback=person,
        ) as client,
    ):
        yield client


@asynccontextmanager
async def stdio(daemon: Daemon, url: str, person: Person | None) -> AsyncIterator[Client]:
    token = (daemon.state_dir / "agent-token").read_text("ascii")
    program = (
        "import sys; from agentd.server.proxy import run;"
        f"sys.exit(run({url!r}, {token!r}, sys.stdin.buffer, sys.stdout.buffer))"
    )
    started = StdioServerParameters(command=sys.executable, args=["-c", program])
    async with Client(started, mode="legacy", elicitation_callback=person) as client:
        yield client


@pytest.fixture(params=[http, stdio])
def connect(request: pytest.FixtureRequest) -> Any:
    return request.param


async def work(client: Client) -> dict[str, Any]:
    result = await client.call_tool("work", {})
    assert result.structured_content is not None
    return result.structured_content


def surfaces(daemon: Daemon, kind: str) -> list[str]:
    return [entry.data["surface"] for entry in daemon.journal.tail(100) if entry.kind == kind]


async def test_an_answer_that_the_rule_lets_count_starts_the_job(connect: Any, serve: Serve) -> None:
    daemon, url = await serve("asking_client")
    person = Person(APPROVE)
    async with connect(daemon, url, person) as client:
        job = await work(client)
    [shown] = person.shown
    assert isinstance(shown, types.ElicitRequestFormParams)
    assert "asked by agent:" in shown.message
    assert (await daemon.jobs.settled(job["id"])).state == "succeeded"
    assert surfaces(daemon, "approval.approved") == ["mcp-elicitation"]


@pytest.mark.parametrize(
    "answer",
    [
        Answer(action="decline"),
        Answer(action="cancel"),
        Answer(action="accept", content={"answer": "perhaps"}),
        Answer(action="decline", content={"answer": "approve"}),
    ],
)
async def test_whatever_is_no_answer_leaves_the_job_pending(
    connect: Any, serve: Serve, answer: Answer
) -> None:
    daemon, url = await serve("asking_client")
    person = Person(answer)
    async with connect(daemon, url, person) as client:
        job = await work(client)
    assert len(person.shown) == 1
    assert (job["state"], daemon.jobs.get(job["id"]).state) == ("waiting_approval", "waiting_approval")


async def test_where_no_rule_lets_it_the_client_is_shown_the_page_and_answers_nothing(
    connect: Any, serve: Serve
) -> None:
    daemon, url = await serve("asking")
    person = Person(APPROVE)
    async with connect(daemon, url, person) as client:
        job = await work(client)
    assert [type(each) for each in person.shown] == [types.ElicitRequestURLParams]
    assert daemon.jobs.get(job["id"]).state == "waiting_approval"


async def test_a_client_that_declared_nothing_is_never_asked(connect: Any, serve: Serve) -> None:
    daemon, url = await serve("asking_client")
    async with connect(daemon, url, None) as client:
        job = await work(client)
    assert daemon.jobs.get(job["id"]).state == "waiting_approval"


# --- what a reply may not do -----------------------------------------------------------------


class Raw:
    """A client that holds its session's id and its answers in its own hands."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self.http = http

    async def begin(self) -> None:
        params = {
            "protocolVersion": "2025-06-18",
            "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "raw", "version": "1"},
        }
        answer = await self.http.post(
            "/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
        )
        self.http.headers["mcp-session-id"] = answer.headers["mcp-session-id"]

    @asynccontextmanager
    async def calling(self, key: str = "") -> AsyncIterator[AsyncIterator[dict[str, Any]]]:
        """A call of `work`, and the messages on its stream."""
        params: dict[str, Any] = {"name": "work", "arguments": {}, "_meta": {"agentd/idempotency-key": key}}
        body = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
        async with self.http.stream("POST", "/mcp", json=body) as answer:

            async def messages() -> AsyncIterator[dict[str, Any]]:
                async for line in answer.aiter_lines():
                    if line.startswith("data: "):
                        yield json.loads(line[6:])

            yield messages()

    async def reply(self, question: dict[str, Any], verdict: str = "approve") -> None:
        result = {"action": "accept", "content": {"answer": verdict}}
        body = {"jsonrpc": "2.0", "id": question["id"], "result": result}
        assert (await self.http.post("/mcp", json=body)).status_code == 202


@asynccontextmanager
async def raw(daemon: Daemon, url: str) -> AsyncIterator[Raw]:
    token = (daemon.state_dir / "agent-token").read_text("ascii")
    headers = {
        "authorization": f"Bearer {token}",
        "accept": "application/json, text/event-stream",
        "mcp-protocol-version": "2025-06-18",
    }
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=30) as http:
        client = Raw(http)
        await client.begin()
        yield client


async def test_after_a_restart_the_session_goes_on_and_an_old_reply_answers_nothing_new(
    boot: Boot, serve: Serve
) -> None:
    daemon, url = await serve("asking_client")
    async with raw(daemon, url) as client:
        async with client.calling("once") as messages:
            old = await anext(messages)
        assert old["method"] == "elicitation/create"
        await boot.stop(daemon)

        daemon, url = await serve("asking_client")
        client.http.base_url = httpx2.URL(url)
        async with client.calling("once") as messages:
            new = await anext(messages)
            assert new["id"] != old["id"]
            await client.reply(old)
            [job] = daemon.jobs.list()
            assert job.state == "waiting_approval"
            await client.reply(new)
            result = await anext(messages)
        assert result["result"]["structuredContent"]["id"] == job.id
        assert (await daemon.jobs.settled(job.id)).state == "succeeded"
        assert len(daemon.jobs.list()) == 1


async def test_the_session_of_one_cannot_be_answered_by_another(serve: Serve) -> None:
    daemon, url = await serve("asking_client")
    owner = (daemon.state_dir / "owner-token").read_text("ascii")
    async with raw(daemon, url) as client, client.calling() as messages:
        question = await anext(messages)
        async with httpx2.AsyncClient(base_url=url, headers=client.http.headers) as other:
            other.headers["authorization"] = f"Bearer {owner}"
            body = {"jsonrpc": "2.0", "id": question["id"], "result": {"action": "accept"}}
            assert (await other.post("/mcp", json=body)).status_code == 404
        await client.reply(question, "deny")
        await anext(messages)
    [job] = daemon.jobs.list()
    assert job.state == "cancelled"
