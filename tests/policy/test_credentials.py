"""Tokens for other people and for programs: a real daemon, over HTTP, MCP and the command line."""

from __future__ import annotations

import asyncio
import getpass
import json
import os
import sqlite3
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import httpx
import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.exceptions import MCPError

from agentd.daemon import Daemon
from agentd.server.app import bind, http_server
from agentd.store import Store
from agentd.store.tokens import TokenTable

pytestmark = pytest.mark.anyio
Boot = Any
OWNER = f"user:{getpass.getuser()}"
PEOPLE = {"owner": (OWNER,), "alice": ("user:alice", "user:alice-at-home"), "bob": ("user:bob",)}


@dataclass
class Served:
    daemon: Daemon
    url: str

    def file(self, name: str) -> str:
        return (self.daemon.state_dir / name).read_text("ascii")

    async def ask(self, method: str, path: str, body: Any = None, *, token: str = "") -> httpx.Response:
        headers = {"authorization": f"Bearer {token or self.file('owner-token')}"}
        async with httpx.AsyncClient(base_url=self.url, headers=headers, verify=False) as client:
            return await client.request(method, path, json=body)

    async def create(self, *, token: str = "", **wanted: Any) -> Any:
        answer = await self.ask("POST", "/api/tokens", wanted, token=token)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refused(self, *, token: str = "", **wanted: Any) -> tuple[int, str]:
        before = await self.list()
        answer = await self.ask("POST", "/api/tokens", wanted, token=token)
        assert await self.list() == before
        return answer.status_code, answer.json()["error"]["message"]

    async def list(self) -> list[tuple[str, str]]:
        listed = (await self.ask("GET", "/api/tokens")).json()
        return [(each["principal"], each["role"]) for each in listed]

    async def status(self, token: str) -> int:
        return (await self.ask("GET", "/api/status", token=token)).status_code

    async def question(self, tool: str = "work") -> str:
        """The approval that the owner's own call waits for."""
        body = {"arguments": {"name": "x"} if tool == "move" else {}, "cwd": "/"}
        answer = await self.ask("POST", f"/api/call/{tool}", body)
        [waiting] = (await self.ask("GET", "/api/approvals")).json()
        assert answer.status_code in (200, 403)
        return waiting["id"]

    async def approve(self, approval: str, token: str = "") -> httpx.Response:
        return await self.ask("POST", f"/api/approvals/{approval}", {"verdict": "approve"}, token=token)

    async def shell(self, *words: str, token: str = "") -> tuple[int, str, str]:
        """Exit code, stdout and stderr of a command on another machine."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("AGENTD_")}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "agentd", *words,
            env=own | {"AGENTD_URL": self.url, "AGENTD_TOKEN": token or self.file("owner-token")},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        out, err = await process.communicate()
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
async def served(boot: Boot) -> AsyncIterator[Served]:
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    daemon: Daemon = await boot(policy="asking_two", people=PEOPLE, url=url)
    server = http_server(daemon)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield Served(daemon, url)
    server.should_exit = True
    await serving
    listener.close()


# --- what they are for ------------------------------------------------------------------------


async def test_a_second_person_approves_what_needs_two(served: Served) -> None:
    code, out, said = await served.shell(
        "token", "create", "--person", "alice", "--role", "approve", "--expires", "30d"
    )
    assert code == 0, said
    assert "not shown again" in said
    alice = out.strip()
    approval = await served.question()
    assert (await served.approve(approval)).json()["state"] == "pending"
    code, _, said = await served.shell("approve", approval, token=alice)
    assert (code, "approved" in said) == (0, True), said
    now = served.daemon.approvals.get(approval)
    assert (now.state, now.decided_by) == ("consumed", f"{OWNER}, user:alice")
    assert (await served.daemon.jobs.settled(now.job)).state == "succeeded"


async def test_somebody_else_approves_where_who_asked_may_not(served: Served) -> None:
    alice = await served.create(person="alice", role="approve")
    approval = await served.question("move")
    assert (await served.approve(approval)).status_code == 403
    assert (await served.approve(approval, alice["token"])).status_code == 200


async def test_one_person_with_two_identities_counts_once(served: Served) -> None:
    at_work = await served.create(person="alice", role="approve")
    at_home = await served.create(person="alice-at-home", role="approve")
    assert (at_work["counts_as"], at_home["counts_as"]) == ("alice", "alice")
    approval = await served.question()
    assert (await served.approve(approval, at_work["token"])).json()["state"] == "pending"
    again = await served.approve(approval, at_home["token"])
    assert (again.status_code, "'alice' has approved" in again.text) == (409, True)
    assert served.daemon.approvals.get(approval).given == 1


async def test_somebody_whom_the_settings_do_not_name_is_told_so_and_does_not_count(served: Served) -> None:
    _, out, said = await served.shell("token", "create", "--person", "eve", "--role", "approve")
    assert "does not say who 'user:eve' is" in said
    approval = await served.question()
    answer = await served.approve(approval, out.strip())
    assert (answer.status_code, "does not say who that is" in answer.text) == (403, True)


@pytest.mark.parametrize(("role", "status"), [("view", 403), ("operate", 403), ("approve", 200)])
async def test_a_role_is_what_it_says(served: Served, role: str, status: int) -> None:
    alice = await served.create(person="alice", role=role)
    assert (await served.approve(await served.question("move"), alice["token"])).status_code == status


async def test_an_agents_token_works_for_its_project_alone_and_never_approves(served: Served) -> None:
    ci = await served.create(agent="ci", role="operate", project="nightly")
    caller = served.daemon.tokens.check(ci["token"])
    assert caller is not None
    assert (caller.principal, caller.is_agent, caller.project) == ("agent:ci", True, "nightly")
    async with httpx.AsyncClient(base_url=served.url, verify=False) as client:
        headers = {"authorization": f"Bearer {ci['token']}", "agentd-project": "other"}
        assert (await client.get("/api/jobs", headers=headers)).status_code == 403
    assert (await served.approve(await served.question("move"), ci["token"])).status_code == 403


# --- their end --------------------------------------------------------------------------------


async def test_a_revoked_token_is_refused_from_the_next_request_on(served: Served) -> None:
    alice = await served.create(person="alice", role="approve")
    assert await served.status(alice["token"]) == 200
    code, _, said = await served.shell("token", "revoke", alice["id"])
    assert (code, "worthless" in said) == (0, True), said
    assert await served.status(alice["token"]) == 401
    assert (await served.approve(await served.question(), alice["token"])).status_code == 401
    again = await served.ask("POST", f"/api/tokens/{alice['id']}/revoke")
    assert again.status_code == 404


async def test_an_expired_token_is_refused_and_listed_as_expired(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    alice = await served.create(person="alice", role="approve", lifetime_s=3600)
    assert await served.status(alice["token"]) == 200
    later = Store.now() + 3601
    monkeypatch.setattr(Store, "now", staticmethod(lambda: later))
    assert await served.status(alice["token"]) == 401
    [listed] = [each for each in served.daemon.tokens.list() if each.principal == "user:alice"]
    assert listed.expired


@pytest.mark.parametrize("name", ["owner-token", "agent-token"])
async def test_a_token_that_lies_in_a_file_is_replaced_there(served: Served, name: str) -> None:
    old = served.file(name)
    row = TokenTable(served.daemon.store).find(old)
    assert row is not None
    assert (await served.ask("POST", f"/api/tokens/{row.id}/revoke")).status_code == 200
    new = served.file(name)
    assert (served.daemon.state_dir / name).stat().st_mode & 0o077 == 0
    assert (await served.status(old), await served.status(new)) == (401, 200)


# --- who may ----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["infer", "view", "operate"])
async def test_an_agent_makes_revokes_and_lists_no_token_over_http(served: Served, role: str) -> None:
    agent = (await served.create(agent="ci", role=role))["token"]
    status, _ = await served.refused(token=agent, person="eve", role="admin")
    assert status == 403
    [made] = [each for each in served.daemon.tokens.list() if each.principal == "agent:ci"]
    assert (await served.ask("POST", f"/api/tokens/{made.id}/revoke", token=agent)).status_code == 403
    assert (await served.ask("GET", "/api/tokens", token=agent)).status_code == 403
    tried = served.daemon.journal.tail(kind="token.refused")
    assert [entry.principal for entry in tried] == ["agent:ci", "agent:ci"]


async def test_an_agent_makes_none_even_as_administrator(served: Served) -> None:
    agent = TokenTable(served.daemon.store).create("agent:ada", "admin", "test")
    status, said = await served.refused(token=agent, person="eve", role="view")
    assert (status, "may not make a token for 'user:eve'" in said) == (403, True)
    assert [e.principal for e in served.daemon.journal.tail(kind="token.refused")] == ["agent:ada"]


async def test_over_mcp_there_is_no_such_tool_even_with_the_owners_token(served: Served) -> None:
    before = await served.list()
    headers = {"authorization": f"Bearer {served.file('owner-token')}"}
    async with (
        httpx2.AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(f"{served.url}/mcp", http_client=http), mode="auto") as client,
    ):
        offered = {each.name for each in (await client.list_tools()).tools}
        for name in ("token", "token_create", "create_token"):
            with pytest.raises(MCPError, match="There is no tool"):
                await client.call_tool(name, {"person": "eve", "role": "admin"})
    assert not {name for name in offered if "token" in name}
    assert await served.list() == before


@pytest.mark.parametrize("role", ["view", "operate", "approve"])
async def test_a_person_who_is_no_administrator_makes_none(served: Served, role: str) -> None:
    alice = (await served.create(person="alice", role=role))["token"]
    status, said = await served.refused(token=alice, person="alice", role="infer")
    assert (status, "'admin'" in said) == (403, True)


async def test_nobody_gives_a_longer_life_than_their_own(served: Served) -> None:
    alice = (await served.create(person="alice", role="admin", lifetime_s=3600))["token"]
    for lifetime_s in (None, 3601):
        status, said = await served.refused(token=alice, person="bob", role="view", lifetime_s=lifetime_s)
        assert (status, "none it makes may outlive it" in said) == (403, True)
    bob = await served.create(token=alice, person="bob", role="view", lifetime_s=1800)
    assert bob["created_by"] == "user:alice"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"role": "view"}, "for a person or for an agent"),
        ({"person": "a", "agent": "b", "role": "view"}, "for a person or for an agent"),
        ({"person": "a:b", "role": "view"}, "is no name"),
        ({"person": "\u0430lice", "role": "view"}, "is no name"),  # a Cyrillic letter
        ({"person": "alice", "role": "owner"}, "role: "),
        ({"person": "alice"}, "role: "),
        ({"person": "alice", "role": "view", "is_person": False}, "is_person: "),
        ({"agent": "ci", "role": "approve"}, "An agent cannot have role 'approve'"),
        ({"person": "alice", "role": "approve", "project": "x"}, "cannot be bound to a project"),
        ({"agent": "ci", "role": "view", "project": "default"}, "cannot be bound to project 'default'"),
        ({"agent": "ci", "role": "view", "lifetime_s": -1}, "lives for a while"),
        ({"agent": "ci", "role": "operate", "micro_usd": 0}, "are no limit for a token of role 'operate'"),
        ({"person": "alice", "role": "admin", "models": ["x"]}, "are no limit for a token of role 'admin'"),
        ({"agent": "ci", "role": "view", "note": "owner"}, "that of the token in 'owner-token'"),
    ],
)
async def test_a_token_that_makes_no_sense_is_not_made(
    served: Served, wanted: dict[str, Any], said: str
) -> None:
    status, told = await served.refused(**wanted)
    assert (status, said in told) == (400, True), told


# --- what is kept and shown -------------------------------------------------------------------


async def test_the_text_is_shown_once_and_kept_nowhere(served: Served) -> None:
    made = await served.create(person="alice", role="approve", note="laptop")
    text = made["token"].encode()
    await served.status(made["token"])
    listed = await served.ask("GET", "/api/tokens")
    assert made["id"] in listed.text
    assert not {"hash", "token"} & listed.json()[0].keys()
    for shown in (listed, await served.ask("GET", "/api/journal?tail=100")):
        assert made["token"] not in shown.text
    served.daemon.tokens.note_uses()
    with sqlite3.connect(served.daemon.state_dir / "agentd.db") as database:
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for path in served.daemon.state_dir.rglob("*"):
        assert not path.is_file() or text not in path.read_bytes(), path


async def test_making_and_revoking_are_journalled(served: Served) -> None:
    made = await served.create(person="alice", role="approve", lifetime_s=3600)
    await served.ask("POST", f"/api/tokens/{made['id']}/revoke")
    created, revoked = served.daemon.journal.tail(kind="token.*")
    assert (created.kind, created.subject, created.principal) == ("token.created", made["id"], OWNER)
    owner = TokenTable(served.daemon.store).find(served.file("owner-token"))
    assert owner is not None
    assert created.data == {
        "surface": "cli",
        "holder": "user:alice",
        "role": "approve",
        "project": "",
        "expires_at": made["expires_at"],
        "made_with": owner.id,
    }
    assert (revoked.kind, revoked.subject, revoked.data["holder"]) == (
        "token.revoked",
        made["id"],
        "user:alice",
    )


async def test_the_last_use_is_listed_and_outlives_the_daemon(served: Served, boot: Boot) -> None:
    made = await served.create(person="alice", role="view")
    unused, used = served.daemon.tokens.list(), None
    assert [each.used_at for each in unused if each.id == made["id"]] == [None]
    await served.status(made["token"])
    [used] = [each.used_at for each in served.daemon.tokens.list() if each.id == made["id"]]
    assert used is not None
    await boot.stop(served.daemon)
    again: Daemon = await boot(policy="asking_two", people=PEOPLE)
    assert [each.used_at for each in again.tokens.list() if each.id == made["id"]] == [used]


async def test_what_is_printed_for_scripts_is_the_token_alone(served: Served) -> None:
    _, out, _ = await served.shell("token", "create", "--agent", "ci", "--role", "operate")
    assert await served.status(out.removesuffix("\n")) == 200
    code, out, _ = await served.shell("token", "list", "--json")
    assert code == 0
    assert ("agent:ci", "operate") in [(each["principal"], each["role"]) for each in json.loads(out)]
    code, out, _ = await served.shell("token", "list")
    assert (code, "agent:ci" in out) == (0, True)
    code, _, said = await served.shell(
        "token", "create", "--agent", "ci", "--role", "view", "--expires", "soon"
    )
    assert (code, "is no span of time" in said) == (2, True)


async def test_tokens_made_before_there_were_ids_stay_what_they_were(served: Served, boot: Boot) -> None:
    """A database of the version before: the migration names each, and only the owner's is a person's."""
    store = served.daemon.store
    owner, agents = served.file("owner-token"), served.file("agent-token")
    await boot.stop(served.daemon)
    with sqlite3.connect(store.path) as database:
        database.execute("DROP INDEX tokens_id")
        for column in ("id", "is_person", "created_by", "used_at"):
            database.execute(f"ALTER TABLE tokens DROP COLUMN {column}")
        database.execute("DELETE FROM _sqlite_migrations WHERE name = 'tokens_of_people'")
    again: Daemon = await boot(policy="asking_two", people=PEOPLE)
    person, agent = again.tokens.check(owner), again.tokens.check(agents)
    assert person is not None
    assert agent is not None
    assert (person.is_agent, person.role) == (False, "admin")
    assert (agent.is_agent, agent.role) == (True, "operate")
    assert len({person.token, agent.token}) == 2
