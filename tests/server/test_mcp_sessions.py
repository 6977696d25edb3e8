"""Sessions of MCP over HTTP: who gets one, whose it is, and that nothing but time ends it."""

from __future__ import annotations

import asyncio
import json
import stat
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from pydantic import BaseModel

from agentd.server import mcp_sessions
from agentd.server.app import bind, http_server
from agentd.server.mcp_sessions import Declared, McpSessions, declared_in, key_in

pytestmark = pytest.mark.anyio
VERSION = "2025-11-25"
FORMS: dict[str, Any] = {"elicitation": {}}
HEADERS = {"accept": "application/json, text/event-stream"}


def initialize(capabilities: dict[str, Any], version: str = VERSION) -> dict[str, Any]:
    client = {"name": "test", "version": "1"}
    params = {"protocolVersion": version, "capabilities": capabilities, "clientInfo": client}
    return {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}


class Http:
    """One client with a token, that keeps its session's id; the answers of a stream are its events."""

    def __init__(self, url: str, token: str = "operate") -> None:
        headers = HEADERS | {"authorization": f"Bearer {token}", "mcp-protocol-version": VERSION}
        self.http = httpx.Client(base_url=url, headers=headers, verify=False, timeout=20)

    def begin(self, capabilities: dict[str, Any] = FORMS) -> str:
        answer = self.http.post("/mcp", json=initialize(capabilities))
        assert answer.status_code == 200
        session = answer.headers.get("mcp-session-id", "")
        if session:
            self.http.headers["mcp-session-id"] = session
        return session

    def ask(self, method: str, **params: Any) -> dict[str, Any]:
        answer = self.post(method, **params)
        assert answer.status_code == 200, answer.text
        if answer.headers["content-type"].startswith("application/json"):
            return answer.json()["result"]
        [event] = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
        return json.loads(event)["result"]

    def post(self, method: str, **params: Any) -> httpx.Response:
        return self.http.post("/mcp", json={"jsonrpc": "2.0", "id": 2, "method": method, "params": params})


@pytest.fixture
def connect() -> Iterator[Callable[..., Http]]:
    clients: list[Http] = []

    def connect(url: str, token: str = "operate") -> Http:
        clients.append(Http(url, token))
        return clients[-1]

    yield connect
    for client in clients:
        client.http.close()


# --- who gets one ----------------------------------------------------------------------------


@pytest.mark.parametrize("capabilities", [FORMS, {"elicitation": {"url": {}}}, {"sampling": {}}])
def test_a_client_that_can_be_asked_something_has_a_session(
    connect: Any, daemon: Any, capabilities: dict[str, Any]
) -> None:
    client = connect(daemon.url)
    assert client.begin(capabilities).isascii()
    assert {tool["name"] for tool in client.ask("tools/list")["tools"]} >= {"finetune"}


@pytest.mark.parametrize("capabilities", [{}, {"roots": {}}, {"experimental": {"elicitation": {}}}])
def test_everybody_else_has_none(connect: Any, daemon: Any, capabilities: dict[str, Any]) -> None:
    assert connect(daemon.url).begin(capabilities) == ""


def test_a_client_without_a_session_has_nothing_to_listen_to_nor_to_end(connect: Any, daemon: Any) -> None:
    client = connect(daemon.url).http
    for method in ("GET", "DELETE"):
        answer = client.request(method, "/mcp")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "body", [b"", b'"initialize"', b"[]", b'{"method": "initialize"}', b'{"a": "initialize"}']
)
def test_whatever_is_no_handshake_declares_nothing(body: bytes) -> None:
    assert declared_in(body) is None


@pytest.mark.parametrize(
    ("elicitation", "forms", "urls"),
    [({}, True, False), ({"form": {}}, True, False), ({"url": {}}, False, True)],
)
def test_what_a_client_declared_is_what_it_is_taken_for(
    elicitation: dict[str, Any], forms: bool, urls: bool
) -> None:
    declared = declared_in(json.dumps(initialize({"elicitation": elicitation}, "1999-01-01")).encode())
    assert declared == Declared(VERSION, forms=forms, urls=urls)
    again = declared_in(
        json.dumps(initialize(declared.as_params().capabilities.model_dump(exclude_none=True))).encode()
    )
    assert again == declared


# --- whose it is -----------------------------------------------------------------------------


def test_the_session_of_another_principal_is_as_if_it_were_not_there(connect: Any, daemon: Any) -> None:
    session = connect(daemon.url).begin()
    stranger = connect(daemon.url, "view")
    unknown = "W10." + "A" * 43
    answers: list[Any] = []
    for given_id in (session, unknown, session[:-1], "x", "."):
        stranger.http.headers["mcp-session-id"] = given_id
        sent = [stranger.post("tools/list"), stranger.http.get("/mcp"), stranger.http.delete("/mcp")]
        answers.append([(each.status_code, each.content) for each in sent])
    assert all(each == answers[0] for each in answers)
    assert [status for status, _ in answers[0]] == [404, 404, 404]


@given(st.text(st.characters(min_codepoint=0x21, max_codepoint=0xFF)), st.text())
def test_no_other_text_is_an_id(text: str, principal: str) -> None:
    ids = mcp_sessions._Ids(b"k" * 32)
    assert ids.read(text, principal) is None
    minted = ids.mint(Declared(VERSION, forms=True), principal)
    assert ids.read(minted, principal) == Declared(VERSION, forms=True)
    assert ids.read(minted, principal + "x") is None
    assert mcp_sessions._Ids(b"l" * 32).read(minted, principal) is None


def test_an_id_ends_with_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = mcp_sessions._Ids(b"k" * 32)
    minted = ids.mint(Declared(VERSION), "ada")
    monkeypatch.setattr(mcp_sessions, "LIFE_S", 0)
    assert ids.read(minted, "ada") is None


def test_the_key_is_kept_and_nobody_elses(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    assert (len(key), key_in(tmp_path)) == (32, key)
    assert stat.S_IMODE((tmp_path / mcp_sessions.KEY_FILE).stat().st_mode) == 0o600
    (tmp_path / mcp_sessions.KEY_FILE).write_text("no key")
    assert key_in(tmp_path) not in (key, b"")


# --- what ends it ----------------------------------------------------------------------------


def test_a_session_that_its_client_ended_is_gone(connect: Any, daemon: Any) -> None:
    client = connect(daemon.url)
    client.begin()
    assert client.http.delete("/mcp").status_code == 200
    assert client.post("tools/list").status_code == 404


def test_another_daemon_on_the_same_state_directory_takes_it_up(connect: Any, kernel: Any, gate: Any) -> None:
    """The client's next call after a restart goes on, and what it declared is still known."""
    first, second = serving(kernel, gate), serving(kernel, gate)
    with first as url:
        client = connect(url)
        client.begin()
        assert client.ask("tools/list")["tools"]
    with second as url:
        client.http.base_url = httpx.URL(url)
        assert client.ask("tools/list")["tools"]


def test_a_daemon_that_stops_ends_the_streams_on_which_clients_only_listen(
    connect: Any, kernel: Any, gate: Any
) -> None:
    life = ExitStack()
    client = connect(life.enter_context(serving(kernel, gate)))
    client.begin()
    with client.http.stream("GET", "/mcp") as listening:
        stopping = threading.Thread(target=life.close)
        stopping.start()
        assert [line for line in listening.iter_lines() if line.startswith("data")] == []
    stopping.join()


@contextmanager
def serving(kernel: Any, gate: Any) -> Iterator[str]:
    server, listener = http_server(kernel, gate), bind("127.0.0.1", 0)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


# --- how many, and requests to the client ----------------------------------------------------


class Answer(BaseModel):
    word: str


def asking_server() -> MCPServer:
    server = MCPServer("asks")

    @server.tool()
    async def ask(ctx: Context) -> str:
        answer = await ctx.elicit("Which word?", schema=Answer)
        return answer.data.word if answer.action == "accept" else answer.action

    return server


class Direct:
    """Sessions without a server before them: `send` is a client of a principal, through ASGI."""

    def __init__(self, sessions: McpSessions) -> None:
        self.sessions = sessions

    def client(self, principal: str) -> httpx.AsyncClient:
        async def app(scope: Any, receive: Any, send: Any) -> None:
            session = dict(scope["headers"]).get(b"mcp-session-id", b"").decode()
            if session:
                done = await self.sessions.go_on(session, principal, scope, receive, send)
            else:
                declared = Declared(VERSION, forms=True)
                done = await self.sessions.begin(declared, principal, scope, receive, send)
            if not done:
                await mcp_sessions._refusal(503, "no room")(scope, receive, send)

        transport = httpx.ASGITransport(app)
        return httpx.AsyncClient(transport=transport, base_url="http://test", headers=HEADERS, timeout=20)


@asynccontextmanager
async def direct(**limits: Any) -> AsyncIterator[Direct]:
    sessions = McpSessions(asking_server()._lowlevel_server, b"k" * 32, **limits)
    async with sessions.run():
        yield Direct(sessions)


async def begun(server: Direct, principal: str) -> httpx.AsyncClient:
    client = server.client(principal)
    answer = await client.post("/mcp", json=initialize(FORMS))
    client.headers["mcp-session-id"] = answer.headers["mcp-session-id"]
    return client


async def lists(client: httpx.AsyncClient) -> int:
    body = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}
    return (await client.post("/mcp", json=body)).status_code


async def test_only_so_many_are_open_for_one_principal_and_none_is_lost() -> None:
    async with direct(most_of_one=2) as server:
        clients = [await begun(server, "ada") for _ in range(4)]
        other = await begun(server, "bob")
        assert len(server.sessions) == 3
        assert [await lists(client) for client in [*clients, other]] == [200] * 5
        assert len(server.sessions) == 3


async def test_an_idle_session_is_closed_and_taken_up_again() -> None:
    async with direct(idle_s=0.05) as server:
        client = await begun(server, "ada")
        for _ in range(1000):
            if not len(server.sessions):
                break
            await asyncio.sleep(0.01)
        assert len(server.sessions) == 0
        assert await lists(client) == 200
