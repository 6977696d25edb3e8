"""What one person has is, for another below role `approve`, as if it were not there: on every route and tool.

The routes are the app's own, the tools and addresses the daemon's: a new one is tried, too.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from agentd.daemon import Daemon
from agentd.policy.callers import Caller
from agentd.sdk import JobView
from agentd.server.app import bind, http_server, routes_of
from agentd.server.mcp import McpEndpoint, mcp_server
from agentd.server.sessions import Sessions
from agentd.store.requests import RequestRow
from agentd.store.tokens import Role, TokenTable

pytestmark = pytest.mark.anyio
Boot = Any

PLAN = "plan: p\ngoal: g\nsteps:\n- {id: a, tool: work, args: {text: plan}}\n"
ADMINS = {"/api/shutdown", "/api/jobs/{id}/attempt"}
"""Nothing but what an administrator does: refused to both before anything is looked up."""


@dataclass
class Served:
    """A real daemon on a real port, where ada has one of each."""

    daemon: Daemon
    url: str
    theirs: dict[str, str]

    def token(self, principal: str, role: Role) -> str:
        is_person = principal.startswith("user:")
        return TokenTable(self.daemon.store).create(principal, role, "test", is_person=is_person)

    def client(self, principal: str, role: Role = "operate") -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {self.token(principal, role)}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, verify=False, timeout=30)


def absent(ref: str) -> str:
    """An id of the same kind that nothing has."""
    return f"{ref.partition('-')[0]}-0000000000000"


def leaks(text: str, theirs: dict[str, str]) -> list[str]:
    return [ref for ref in (*theirs.values(), "agent:ada") if ref in text]


@pytest.fixture
async def served(boot: Boot, tmp_path: Path) -> AsyncIterator[Served]:
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    daemon: Daemon = await boot(policy="asking", url=url)
    server = http_server(daemon)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    ada = Caller("agent:ada", "operate", "mcp", tmp_path, is_agent=True)
    job = await daemon.calls.call("work", {"text": "ada"}, ada)
    assert isinstance(job, JobView)
    assert job.approval
    (tmp_path / "plan.yaml").write_text(PLAN)
    run = daemon.runs.start(tmp_path / "plan.yaml", {}, ada)["id"]
    for request, principal in {"req-ada": "agent:ada", "req-job": f"job:{job.id}"}.items():
        daemon.requests.add(
            RequestRow(
                id=request, asked="m", model="m", why="w", principal=principal, status="ok",
                input_tokens=1, output_tokens=1, micro_usd=0, seconds=0.1, at=1.0,
            )
        )  # fmt: skip
    theirs = {"job": job.id, "run": run, "approval": job.approval, "request": "req-ada", "of_job": "req-job"}
    yield Served(daemon, url, theirs)
    server.should_exit = True
    await serving
    listener.close()


def routes() -> list[tuple[str, str]]:
    kernel: Any = type("NoKernel", (), {"version": ""})()
    table = routes_of(kernel, McpEndpoint(mcp_server(kernel)), lambda: None, Sessions(kernel))
    return [
        (method, route.path)
        for route in table
        for method in sorted((route.methods or set()) - {"HEAD"})
        if route.path not in ADMINS
    ]


async def test_no_route_tells_an_id_of_somebody_else_from_one_that_is_not_there(served: Served) -> None:
    tried = set[str]()
    async with served.client("agent:bob") as bob:
        for method, path in sorted(routes()):  # GET first: what bob tries is in his own journal
            for ref in served.theirs.values():
                answers = list[tuple[int, str]]()
                for each in (ref, absent(ref)):
                    body = {"arguments": {"job": each}, "request_id": each, "verdict": "approve"}
                    named = path.replace("{id}", each).replace("{tool}", "job_status")
                    options = {"json": body} if method == "POST" else {}
                    answer = await bob.request(method, named, **options)
                    answers.append((answer.status_code, answer.text.replace(each, "ID")))
                    assert answer.status_code != 200 or "{id}" not in path, (method, path, ref)
                if "{" in path or "/v1/" in path:
                    assert answers[0] == answers[1], (method, path, ref)
                assert not leaks(answers[0][1].replace(ref, "ID"), served.theirs), (method, path, ref)
                tried.add(path)
    assert {"/api/jobs/{id}/follow", "/api/runs/{id}/resume", "/api/requests", "/api/journal"} <= tried
    assert served.daemon.jobs.get(served.theirs["job"]).state == "waiting_approval"
    assert served.daemon.runs.view(served.theirs["run"])["state"] == "running"


async def test_no_tool_tells_an_id_of_somebody_else_from_one_that_is_not_there(
    served: Served, tmp_path: Path
) -> None:
    bob, reached = Caller("agent:bob", "operate", "mcp", tmp_path, is_agent=True), set[str]()
    for name, tool in served.daemon.calls.tools.items():
        fields = [each for each, info in tool.arguments.model_fields.items() if info.annotation is str]
        if tool.launches or set(fields) < {
            each for each, i in tool.arguments.model_fields.items() if i.is_required()
        }:
            continue
        for ref in served.theirs.values():
            said = list[str]()
            for each in (ref, absent(ref)):
                try:
                    answer = await served.daemon.calls.call(name, dict.fromkeys(fields, each), bob)
                    said.append(answer.model_dump_json().replace(each, "ID"))
                except Exception as error:  # noqa: BLE001 - whatever it is, it is the same
                    said.append(
                        re.sub(r"(job|apr)-[0-9a-z-]+", "NEW", f"{error!r} {error}".replace(each, "ID"))
                    )
            assert said[0] == said[1], (name, ref)
            assert not leaks(said[0], served.theirs), name
            reached.add(name)
    assert {"job_status", "job_wait", "job_logs", "job_cancel", "stop_service"} <= reached


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
async def test_no_address_tells_an_id_of_somebody_else_from_one_that_is_not_there(
    served: Served, era: str
) -> None:
    headers = {"authorization": f"Bearer {served.token('agent:bob', 'operate')}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{served.url}/mcp", http_client=http), mode=era) as client,
    ):
        listed = await client.list_resources()
        assert not leaks(listed.model_dump_json(), served.theirs)
        for resource in listed.resources:
            if not str(resource.uri).startswith("agentd://docs"):
                read = await client.read_resource(resource.uri)
                assert not leaks(read.model_dump_json(), served.theirs), resource.uri
        templates = (await client.list_resource_templates()).resource_templates
        assert len(templates) > 5
        for template in templates:
            for ref in served.theirs.values():
                said = list[str]()
                for each in (ref, absent(ref)):
                    with pytest.raises(MCPError) as raised:
                        await client.read_resource(re.sub(r"{\w+}", each, template.uri_template))
                    said.append(str(raised.value.error.message).replace(each, "ID"))
                assert said[0] == said[1], template.uri_template
                assert not leaks(said[0], served.theirs)


@pytest.mark.parametrize(
    ("principal", "role"),
    [("agent:ada", "view"), ("user:ada", "view"), ("user:bob", "approve"), ("user:bob", "admin")],
)
async def test_a_person_sees_their_own_through_each_identity_and_who_approves_sees_all(
    served: Served, principal: str, role: Role
) -> None:
    async with served.client(principal, role) as client:
        for kind, path in {
            "job": "/api/jobs", "run": "/api/runs", "approval": "/api/approvals",
            "request": "/api/requests", "of_job": "/api/requests",
        }.items():  # fmt: skip
            ref = served.theirs[kind]
            assert ref in [each["id"] for each in (await client.get(path)).json()]
            assert (await client.get(f"{path}/{ref}")).json()["id"] == ref
        assert served.theirs["job"] in json.dumps((await client.get("/api/journal")).json())


async def test_a_near_miss_is_named_to_its_owner_only(served: Served) -> None:
    near = served.theirs["job"][:-1]
    said = dict[str, str]()
    for principal in ("agent:ada", "agent:bob"):
        async with served.client(principal) as client:
            said[principal] = (await client.get(f"/api/jobs/{near}")).json()["error"]["hint"]
    assert served.theirs["job"] in said["agent:ada"]
    assert not said["agent:bob"]


async def test_a_question_is_not_compared_with_one_of_somebody_else(served: Served, tmp_path: Path) -> None:
    person = Caller("user:eve", "admin", "cli", tmp_path, is_agent=False)
    await served.daemon.approvals.decide(served.theirs["approval"], "approve", person)
    bob = Caller("agent:bob", "operate", "mcp", tmp_path, is_agent=True)
    mine = await served.daemon.calls.call("work", {"text": "bob"}, bob)
    assert isinstance(mine, JobView)
    assert mine.approval
    assert served.daemon.approvals.get(mine.approval).like == served.theirs["approval"]
    async with served.client("agent:bob") as client:
        shown = (await client.get(f"/api/approvals/{mine.approval}")).json()
    assert (shown["like"], shown["differences"]) == (None, [])
