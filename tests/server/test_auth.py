"""The guard: every route of the table, and each limit."""

from __future__ import annotations

import json
import re
import socket
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.routing import Route

from agentd.server.app import routes_of
from agentd.server.auth import OPEN_PATHS, Gate, Rate, is_page, json_depth
from agentd.server.connection import Punctual
from agentd.server.mcp import McpEndpoint, mcp_server
from agentd.server.sessions import Sessions


def table() -> list[tuple[str, str]]:
    """Method and path of every route the app has."""
    kernel: Any = type("NoKernel", (), {"version": ""})()
    routes: list[Route] = routes_of(kernel, McpEndpoint(mcp_server(kernel)), lambda: None, Sessions(kernel))
    return [
        (method, re.sub(r"{(\w+)}", "job-1", route.path))
        for route in routes
        for method in sorted((route.methods or set()) - {"HEAD"})
    ]


def ask(daemon: Any, method: str, path: str, **options: Any) -> httpx.Response:
    headers = {"authorization": "Bearer admin", **options.pop("headers", {})}
    sent = {name: value for name, value in headers.items() if value is not None}
    with httpx.Client(base_url=daemon.url, verify=False) as client:  # it is http: no certificates to load
        return client.request(method, path, headers=sent, **options)


def code_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def test_the_table_is_whole() -> None:
    assert ("POST", "/mcp") in table()
    assert ("POST", "/v1/chat/completions") in table()
    assert len(table()) > 25


# --- every route ------------------------------------------------------------------------------


@pytest.fixture
def routes() -> list[tuple[str, str]]:
    return [*table(), ("GET", "/no/such/route"), ("DELETE", "/mcp")]


@pytest.mark.parametrize("token", [None, "Bearer wrong", "Bearer", "Basic admin", "admin"])
def test_no_route_but_health_and_the_form_to_sign_in_answers_without_a_token(
    daemon: Any, routes: list[tuple[str, str]], token: str | None
) -> None:
    for method, path in routes:
        answer = ask(daemon, method, path, headers={"authorization": token, "origin": daemon.url})
        expected = 200 if path in OPEN_PATHS or (method, path) == ("GET", "/login") else 401
        assert answer.status_code == expected, (method, path)
        scheme = "Cookie" if is_page(path) else "Bearer"
        assert expected == 200 or answer.headers["www-authenticate"].startswith(scheme)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8731", "127.0.0.1.evil.example", "", "[::1"])
def test_no_route_answers_to_a_strange_host(daemon: Any, routes: list[tuple[str, str]], host: str) -> None:
    for method, path in routes:
        assert code_of(ask(daemon, method, path, headers={"host": host})) == (421, "misdirected"), path


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "file://"])
def test_no_route_answers_to_a_strange_origin(
    daemon: Any, routes: list[tuple[str, str]], origin: str
) -> None:
    for method, path in routes:
        assert code_of(ask(daemon, method, path, headers={"origin": origin})) == (403, "bad_origin"), path


def test_no_route_takes_a_body_that_is_too_large(
    daemon: Any, routes: list[tuple[str, str]], gate: Gate
) -> None:
    body = b"x" * (gate.body_bytes + 1)

    def chunks() -> Any:
        yield body

    for method, path in routes:
        assert code_of(ask(daemon, method, path, content=body)) == (413, "too_large"), path
        assert code_of(ask(daemon, method, path, content=chunks())) == (413, "too_large"), path


def test_no_route_takes_json_that_is_too_deep(daemon: Any, routes: list[tuple[str, str]]) -> None:
    for method, path in routes:
        assert code_of(ask(daemon, method, path, content=b"[" * 65 + b"]" * 65)) == (400, "too_deep"), path


def test_the_token_comes_before_the_body(daemon: Any, gate: Gate) -> None:
    body = b"x" * (gate.body_bytes + 1)
    assert ask(daemon, "POST", "/mcp", content=body, headers={"authorization": None}).status_code == 401


def test_the_daemons_own_origin_is_welcome(daemon: Any) -> None:
    for host in (f"127.0.0.1:{daemon.port}", f"localhost:{daemon.port}"):
        answer = ask(daemon, "GET", "/api/status", headers={"host": host, "origin": f"http://{host}"})
        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("token", "named", "booked"),
    [
        ("view", None, "default"),
        ("view", "docs", "docs"),
        ("bound", None, "support"),
        ("bound", "support", "support"),
    ],
)
def test_a_call_is_booked_on_the_project_it_names_or_its_token_is_for(
    daemon: Any, token: str, named: str | None, booked: str
) -> None:
    headers = {"authorization": f"Bearer {token}", "agentd-project": named}
    answer = ask(daemon, "POST", "/api/call/echo", headers=headers, json={"arguments": {"text": "hi"}})
    assert answer.json()["project"] == booked


@pytest.mark.parametrize(
    ("token", "named", "refused"), [("bound", "docs", (403, "denied")), ("view", "a b", (400, "invalid"))]
)
def test_a_token_cannot_leave_its_project_nor_name_one_that_is_no_name(
    daemon: Any, token: str, named: str, refused: tuple[int, str]
) -> None:
    headers = {"authorization": f"Bearer {token}", "agentd-project": named}
    assert code_of(ask(daemon, "POST", "/api/call/echo", headers=headers)) == refused


def test_a_second_authorization_header_is_refused(daemon: Any) -> None:
    with httpx.Client() as client:
        headers = [("authorization", "Bearer admin"), ("authorization", "Bearer view")]
        assert client.get(f"{daemon.url}/api/status", headers=headers).status_code == 400


# --- pace -------------------------------------------------------------------------------------


class TestWithATightGate:
    @pytest.fixture
    def gate(self) -> Gate:
        return Gate(calls_per_second=1e-9, burst=2)

    def test_a_client_that_is_too_fast_is_told_to_wait(self, daemon: Any) -> None:
        assert [ask(daemon, "GET", "/api/status").status_code for _ in range(3)] == [200, 200, 429]
        assert ask(daemon, "GET", "/api/status").headers["retry-after"] == "1"

    def test_guessing_tokens_does_not_lock_out_who_has_one(self, daemon: Any) -> None:
        wrong = {"authorization": "Bearer guess"}
        guesses = [ask(daemon, "GET", "/api/jobs", headers=wrong).status_code for _ in range(3)]
        assert guesses == [401, 401, 429]
        assert ask(daemon, "GET", "/api/jobs").status_code == 200


def test_a_bucket_fills_again_with_time() -> None:
    rate = Rate(per_second=2, burst=1)
    assert [rate.take("a", now) for now in (0.0, 0.1, 0.6, 0.7)] == [True, False, True, False]
    assert rate.take("b", 0.7)


def test_only_so_many_clients_are_remembered() -> None:
    rate = Rate(per_second=0, burst=1)
    assert rate.take("first", 0)
    for n in range(5000):
        rate.take(str(n), 0)
    assert rate.take("first", 0)


def half_sent(daemon: Any, data: bytes, *more: bytes) -> bytes:
    """What comes back until the daemon hangs up; each of `more` is sent after the answer to the last."""
    received = b""
    with socket.create_connection(("127.0.0.1", daemon.port), timeout=30) as connection:
        try:
            connection.sendall(data)
            for part in more:
                received += connection.recv(4096)
                connection.sendall(part)
            while chunk := connection.recv(4096):
                received += chunk
        except ConnectionError:
            pass
    return received


def test_a_body_that_does_not_come_is_cut_off(daemon: Any) -> None:
    head = b"POST /api/call/echo HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer admin\r\n"
    received = half_sent(daemon, head + b'content-length: 100\r\n\r\n{"arg')
    assert received.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("data", [b"", b"GET /hea", b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: "])
def test_headers_that_do_not_come_are_cut_off(
    daemon: Any, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    monkeypatch.setattr(Punctual, "header_seconds", 0.1)
    assert half_sent(daemon, data) == b""


def test_a_second_request_is_cut_off_in_the_same_way(daemon: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Punctual, "header_seconds", 0.1)
    received = half_sent(daemon, b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n", b"GET /hea")
    assert received.count(b"HTTP/1.1 200") == 1


def test_whitespace_around_a_header_is_not_of_its_value(daemon: Any) -> None:
    head = b"GET /api/status HTTP/1.1\r\nhost: localhost \t\r\nauthorization: Bearer admin\t\r\n"
    assert half_sent(daemon, head + b"connection: close \r\n\r\n").startswith(b"HTTP/1.1 200 ")


def test_endless_headers_are_cut_off(daemon: Any) -> None:
    assert half_sent(daemon, b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * 100_000) == b""


def test_a_refused_connection_is_not_kept(daemon: Any) -> None:
    received = half_sent(daemon, b"POST /mcp HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 401 ")


# --- the parts --------------------------------------------------------------------------------


def test_another_bind_address_is_a_known_host_and_a_wildcard_is_not() -> None:
    assert "192.0.2.7" in Gate.around("192.0.2.7").hosts
    assert "[2001:db8::1]" in Gate.around("2001:db8::1").hosts
    assert "0.0.0.0" not in Gate.around("0.0.0.0").hosts
    assert "gpu.lan" in Gate.around("0.0.0.0", ["GPU.lan"]).hosts


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('ab[]{}"\\'),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text('k[]{}"\\'), inner, max_size=4),
)


def nesting(value: Any) -> int:
    match value:
        case list():
            return 1 + max(map(nesting, cast("list[Any]", value)), default=0)
        case dict():
            return 1 + max(map(nesting, cast("dict[str, Any]", value).values()), default=0)
        case _:
            return 0


@given(json_values)
def test_the_depth_is_that_of_the_parsed_json(value: Any) -> None:
    assert json_depth(json.dumps(value).encode(), -1) == nesting(value)


@given(st.binary())
def test_the_depth_of_any_bytes_is_a_number(body: bytes) -> None:
    assert json_depth(body, -1) <= len(body)
