"""The stdio proxy: with the SDK's client in both eras, and alone when the daemon misbehaves."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters

from agentd.server.proxy import Proxy, header_value, is_safe, mcp_headers

MODERN: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
ROOT = Path(__file__).parents[2]


def call(request_id: int, name: str, arguments: dict[str, Any], **meta: Any) -> dict[str, Any]:
    params: dict[str, Any] = {"name": name, "arguments": arguments, "_meta": MODERN | meta}
    return {"jsonrpc": "2.0", "id": request_id, "method": "tools/call", "params": params}


class Stdio:
    """A proxy in a thread, and its two pipes."""

    def __init__(self, url: str, token: str = "operate") -> None:
        read_in, write_in = os.pipe()
        read_out, write_out = os.pipe()
        self._stdin, self.stdout = os.fdopen(write_in, "wb", 0), os.fdopen(read_out, "rb")
        self._theirs = (os.fdopen(read_in, "rb"), os.fdopen(write_out, "wb"))
        self.proxy = Proxy(url, token, self._theirs[1], connect_seconds=10)
        self.status: int | None = None
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        self.status = self.proxy.serve(self._theirs[0])

    def send(self, *messages: dict[str, Any] | bytes) -> None:
        for message in messages:
            self._stdin.write(message if isinstance(message, bytes) else json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        return json.loads(self.stdout.readline())

    def end(self) -> int | None:
        """Close its stdin, and wait for it."""
        self._stdin.close()
        self._thread.join()
        return self.status

    def close(self) -> None:
        self.end()
        for file in (self.stdout, *self._theirs):
            file.close()


@pytest.fixture
def stdio() -> Iterator[Callable[..., Stdio]]:
    opened: list[Stdio] = []

    def start(url: str, token: str = "operate") -> Stdio:
        opened.append(Stdio(url, token))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


@pytest.fixture
def script() -> Iterator[Callable[[list[bytes]], str]]:
    """A daemon that reads a request a connection, answers with the next bytes of its script, and hangs up."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []

    def start(answers: list[bytes]) -> str:
        def serve() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    read_request(connection)
                    connection.sendall(answer)

        threads.append(threading.Thread(target=serve))
        threads[-1].start()
        return f"http://127.0.0.1:{listener.getsockname()[1]}"

    yield start
    for thread in threads:
        thread.join()
    listener.close()


def read_request(connection: socket.socket) -> None:
    with connection.makefile("rb") as file:
        length = 0
        while (line := file.readline().strip()) != b"":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        file.read(length)


def answered(result: dict[str, Any], request_id: int = 1) -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "id": request_id, "result": result}).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        len(body),
        body,
    )


# --- with the SDK's client ----------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("era", ["legacy", "2026-07-28", "auto"])
async def test_an_ide_works_through_it(daemon: Any, era: str, tmp_path: Path) -> None:
    code = (
        "import sys; from agentd.server.proxy import run;"
        f"sys.exit(run({daemon.url!r}, 'operate', sys.stdin.buffer, sys.stdout.buffer))"
    )
    server = StdioServerParameters(
        command=sys.executable, args=["-c", code], env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path
    )
    seen: list[str | None] = []

    async def on_progress(progress: float, total: float | None, message: str | None) -> None:
        seen.append(message)

    async with Client(server, mode=era) as client:
        names = {tool.name for tool in (await client.list_tools()).tools}
        said = await client.call_tool("echo", {"text": "Grüße"})
        waited = await client.call_tool("job_wait", {"job": "job-1"}, progress_callback=on_progress)
        catalog = await client.read_resource("agentd://catalog")
    assert "finetune" in names
    assert (said.structured_content or {})["text"] == "Grüße"
    assert (said.structured_content or {})["cwd"] == str(tmp_path)
    assert (waited.structured_content or {})["state"] == "succeeded"
    assert "finetune job-1: running, 2/3 steps" in seen
    assert catalog.contents


# --- alone --------------------------------------------------------------------------------------


def test_the_end_of_stdin_ends_it_with_0_after_the_answers(daemon: Any, stdio: Callable[..., Stdio]) -> None:
    proxy = stdio(daemon.url)
    proxy.send(call(1, "echo", {"text": "x"}))
    assert proxy.end() == 0
    assert proxy.receive()["id"] == 1


def test_a_line_that_is_not_json_is_answered_as_such(daemon: Any, stdio: Callable[..., Stdio]) -> None:
    proxy = stdio(daemon.url)
    proxy.send(b"{oops\n", b"\n", b"[1]\n")
    assert [proxy.receive()["error"]["code"] for _ in range(2)] == [-32700, -32600]


def test_a_refusal_of_the_guard_becomes_an_error_with_its_words(
    daemon: Any, stdio: Callable[..., Stdio]
) -> None:
    proxy = stdio(daemon.url, token="stale")
    proxy.send(call(7, "echo", {"text": "x"}))
    reply = proxy.receive()
    assert reply["id"] == 7
    assert "token is missing, wrong or expired (401)" in reply["error"]["message"]


def test_a_protocol_error_comes_back_under_the_requests_id(daemon: Any, stdio: Callable[..., Stdio]) -> None:
    proxy = stdio(daemon.url)
    proxy.send({"jsonrpc": "2.0", "id": 3, "method": "no/such", "params": {"_meta": MODERN}})
    reply = proxy.receive()
    assert (reply["id"], reply["error"]["code"]) == (3, -32601)


def test_requests_overtake_one_that_hangs_and_cancelling_ends_it(
    daemon: Any, stdio: Callable[..., Stdio]
) -> None:
    proxy = stdio(daemon.url)
    proxy.send(call(1, "hang", {}))
    assert daemon.kernel.calls.hung.wait(10)
    proxy.send(call(2, "echo", {"text": "x"}))
    assert proxy.receive()["id"] == 2
    proxy.send({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}})
    assert daemon.kernel.calls.unhung.wait(10)
    proxy.send(call(3, "echo", {"text": "x"}))
    assert proxy.receive()["id"] == 3


def test_a_daemon_that_is_not_there_yet_is_waited_for(
    stdio: Callable[..., Stdio],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    proxy = stdio(f"http://127.0.0.1:{port}")
    proxy.send(call(1, "echo", {"text": "x"}))
    with socket.create_server(("127.0.0.1", port)) as listener:
        connection, _ = listener.accept()
        with connection:
            read_request(connection)
            connection.sendall(answered({"ok": True}))
        assert proxy.receive()["result"] == {"ok": True}


def test_a_call_that_may_have_run_is_not_sent_again(
    script: Callable[[list[bytes]], str], stdio: Callable[..., Stdio]
) -> None:
    proxy = stdio(script([b""]))
    proxy.send(call(1, "finetune", {"data": "x"}))
    message = proxy.receive()["error"]["message"]
    assert "may or may not" in message
    assert "agentd/idempotency-key" in message


@pytest.mark.parametrize(
    "message",
    [
        call(1, "finetune", {"data": "x"}, **{"agentd/idempotency-key": "k"}),
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {"_meta": MODERN}},
    ],
    ids=["a call with a key", "a listing"],
)
def test_what_is_safe_to_repeat_is_sent_again(
    script: Callable[[list[bytes]], str], stdio: Callable[..., Stdio], message: dict[str, Any]
) -> None:
    proxy = stdio(script([b"", b"", answered({"ok": True})]))
    proxy.send(message)
    assert proxy.receive()["result"] == {"ok": True}


def test_a_stream_that_ends_without_an_answer_is_an_error(
    script: Callable[[list[bytes]], str], stdio: Callable[..., Stdio]
) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n\r\n"
    event = b'data: {"jsonrpc":"2.0","method":"notifications/message"}\n\n'
    proxy = stdio(script([head + b": ping\n\n" + event]))
    proxy.send(call(1, "finetune", {"data": "x"}))
    assert proxy.receive()["method"] == "notifications/message"
    assert "may or may not" in proxy.receive()["error"]["message"]


# --- the rules of the wire ----------------------------------------------------------------------


def test_new_era_headers_name_the_method_and_its_target() -> None:
    assert mcp_headers(call(1, "echo", {}), "2025-11-25") == {
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "echo",
    }


def test_old_era_headers_carry_the_agreed_version_after_the_handshake() -> None:
    assert mcp_headers({"method": "ping"}, "2025-06-18") == {"MCP-Protocol-Version": "2025-06-18"}
    assert mcp_headers({"method": "initialize"}, "2025-06-18") == {}


@pytest.mark.parametrize("text", ["plain", "Grüße", " edge ", "line\nbreak", "=?base64?eA==?=", ""])
def test_header_values_are_coded_as_the_sdk_reads_them(text: str) -> None:
    from mcp.shared.inbound import decode_header_value

    assert decode_header_value(header_value(text)) == text


def test_only_calls_that_change_something_are_unsafe() -> None:
    assert not is_safe(call(1, "finetune", {}), frozenset())
    assert is_safe(call(1, "job_wait", {}), frozenset({"job_wait"}))
    assert is_safe({"method": "prompts/get"}, frozenset())


# --- sessions --------------------------------------------------------------------------------


def begun(client: Stdio) -> None:
    asked = {"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}}
    params = asked | {"clientInfo": {"name": "test", "version": "1"}}
    client.send({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
    assert client.receive()["id"] == 1


def test_a_client_whose_session_is_too_old_goes_on_without_one(
    stdio: Callable[..., Stdio], daemon: Any
) -> None:
    client = stdio(daemon.url)
    begun(client)
    session = client.proxy._session
    assert session
    client.proxy._session = session[:-2]
    client.send({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})
    assert client.receive()["result"]["tools"]
    assert client.proxy._session == ""


def test_a_reply_to_a_question_does_not_end_a_request_of_the_same_id(
    stdio: Callable[..., Stdio], daemon: Any
) -> None:
    client = stdio(daemon.url)
    begun(client)
    client.send({"jsonrpc": "2.0", "id": "agentd-1", "result": {"action": "decline"}})
    client.send({"jsonrpc": "2.0", "id": "agentd-1", "method": "tools/list"})
    reply = client.receive()
    assert (reply["id"], "tools" in reply["result"]) == ("agentd-1", True)
