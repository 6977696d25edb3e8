"""An agent that tries to approve, over everything that listens: refused and written down each time."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client

from agentd.daemon import Daemon
from agentd.policy.callers import Caller
from agentd.sdk import JobView
from agentd.server.app import bind, http_server
from agentd.server.results import ERROR_META
from agentd.store.tokens import Role, TokenTable

pytestmark = pytest.mark.anyio
Boot = Any
APPROVE = {"verdict": "approve"}
ROLES: tuple[Role, ...] = ("infer", "view", "operate", "approve", "admin")


@dataclass
class Served:
    """A real daemon on a real port, with one question that waits."""

    daemon: Daemon
    url: str
    job: str
    approval: str

    def token(self, role: Role) -> str:
        """An agent's: only the owner's own token is a person's."""
        return TokenTable(self.daemon.store).create("agent:ada", role, "test")

    def refusals(self) -> list[tuple[str, str, str]]:
        """Who was refused, through what, at which question."""
        return [
            (entry.principal, entry.data["surface"], entry.subject)
            for entry in self.daemon.journal.tail(100)
            if entry.kind == "approval.refused"
        ]

    def assert_open(self) -> None:
        assert self.daemon.approvals.get(self.approval).state == "pending"
        assert self.daemon.jobs.get(self.job).state == "waiting_approval"

    async def post(self, token: str, verdict: str = "approve") -> httpx.Response:
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, verify=False) as client:
            return await client.post(f"/api/approvals/{self.approval}", json={"verdict": verdict})


@pytest.fixture
async def served(boot: Boot, agent: Caller) -> AsyncIterator[Served]:
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    daemon: Daemon = await boot(policy="asking", url=url)
    server = http_server(daemon)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    view = await daemon.calls.call("work", {}, agent)
    assert isinstance(view, JobView)
    assert view.approval
    yield Served(daemon, url, view.id, view.approval)
    server.should_exit = True
    await serving
    listener.close()


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("verdict", ["approve", "deny"])
async def test_over_http_whatever_its_role(served: Served, role: Role, verdict: str) -> None:
    answer = await served.post(served.token(role), verdict)
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, "unauthorized")
    assert served.refusals() == [("agent:ada", "cli", served.approval)]
    served.assert_open()


async def test_over_http_with_a_jobs_key_for_the_gateway(served: Served) -> None:
    key = TokenTable(served.daemon.store).create("job:job-1", "infer", "gateway of job-1", lifetime_s=60)
    assert (await served.post(key)).status_code == 403
    assert served.refusals() == [("job:job-1", "cli", served.approval)]
    served.assert_open()


@pytest.mark.parametrize("era", ["legacy", "2026-07-28"])
@pytest.mark.parametrize("role", ROLES)
async def test_over_mcp_by_calling_a_tool_that_is_not_there(served: Served, role: Role, era: str) -> None:
    headers = {"authorization": f"Bearer {served.token(role)}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{served.url}/mcp", http_client=http), mode=era) as client,
    ):
        answer = await client.call_tool("approve", {"approval_id": served.approval})
    assert answer.is_error
    assert (answer.meta or {})[ERROR_META]["code"] == "unauthorized"
    assert served.refusals() == [("agent:ada", "mcp", served.approval)]
    served.assert_open()


async def test_over_mcp_even_with_the_owners_own_token(served: Served) -> None:
    owner = (served.daemon.state_dir / "owner-token").read_text("ascii")
    async with (
        httpx2.AsyncClient(headers={"authorization": f"Bearer {owner}"}, timeout=30) as http,
        Client(streamable_http_client(f"{served.url}/mcp", http_client=http), mode="auto") as client,
    ):
        answer = await client.call_tool("deny", {"id": served.approval})
    assert answer.is_error
    [(principal, surface, subject)] = served.refusals()
    assert (principal.partition(":")[0], surface, subject) == ("user", "mcp", served.approval)
    served.assert_open()


@pytest.mark.parametrize("role", ROLES)
async def test_on_the_web_its_token_does_not_sign_it_in(served: Served, role: Role) -> None:
    async with httpx.AsyncClient(base_url=served.url, headers={"origin": served.url}, verify=False) as client:
        answer = await client.post("/login", data={"token": served.token(role)})
        assert answer.status_code == 403
        assert not client.cookies
        assert (await client.post(f"/approve/{served.approval}", data=APPROVE)).status_code == 401
    assert served.refusals() == [("agent:ada", "web", "login")]
    served.assert_open()


@pytest.mark.parametrize("role", ROLES)
async def test_on_the_web_its_token_gets_no_code_and_answers_no_form(served: Served, role: Role) -> None:
    headers = {"authorization": f"Bearer {served.token(role)}", "origin": served.url}
    async with httpx.AsyncClient(base_url=served.url, headers=headers, verify=False) as client:
        code = await client.post("/api/sign-in")
        form = await client.post(f"/approve/{served.approval}", data=APPROVE)
    assert (code.status_code, code.json()["error"]["code"], form.status_code) == (403, "unauthorized", 401)
    assert served.refusals() == [("agent:ada", "cli", "login"), ("agent:ada", "web", served.approval)]
    served.assert_open()


@pytest.mark.parametrize("command", ["approve", "deny"])
async def test_on_the_command_line_with_the_agents_token(served: Served, command: str) -> None:
    token = (served.daemon.state_dir / "agent-token").read_text("ascii")
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "agentd", command, served.approval,
        env=os.environ | {"AGENTD_URL": served.url, "AGENTD_TOKEN": token}, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said = (await process.communicate())[1].decode()
    assert process.returncode == 3, said
    assert "needs 'approve'" in said
    [(principal, surface, subject)] = served.refusals()
    assert (principal.partition(":")[0], surface, subject) == ("agent", "cli", served.approval)
    served.assert_open()


async def test_the_owner_can(served: Served) -> None:
    owner = (served.daemon.state_dir / "owner-token").read_text("ascii")
    assert (await served.post(owner)).json()["state"] == "approved"
    assert (await served.daemon.jobs.settled(served.job)).state == "succeeded"
    assert served.refusals() == []
