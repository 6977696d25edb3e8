"""agentd/bench/eval.py against a chat endpoint on loopback that wants a key."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agentd.bench import eval as bench
from agentd.errors import AgentdError, InputError

KEY = "the-endpoints-key"
ANSWER = {"choices": [{"message": {"content": "7"}, "finish_reason": "stop"}], "usage": {}}


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The questions that came with the key; whoever has none is refused."""
    questions: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            known = self.headers.get("Authorization") == f"Bearer {KEY}"
            if known:
                questions.append(body["messages"][-1]["content"])
            content = json.dumps(ANSWER if known else {"error": "who are you?"}).encode()
            self.send_response(200 if known else 401)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("AGENTD_BENCH_URL", f"http://127.0.0.1:{server.server_port}/v1")
    monkeypatch.setenv("AGENTD_BENCH_ROWS", "7")
    yield questions
    server.shutdown()
    thread.join()
    server.server_close()


def test_both_sides_ask_every_row_of_every_round_with_the_key(
    endpoint: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AGENTD_BENCH_KEY_ENV", "MY_KEY")
    monkeypatch.setenv("MY_KEY", KEY)
    figures = bench.run(rounds=2)
    assert figures["ratio"] > 0
    assert len(endpoint) == len(set(endpoint)) == 2 * 3 * 7  # sides, rounds and one unmeasured, rows


def test_an_endpoint_that_refuses_is_told_with_its_address(endpoint: list[str]) -> None:
    with pytest.raises(AgentdError, match=r"'m' at http://127\.0\.0\.1:\d+/v1 could not be asked: .*401"):
        bench.run(rounds=1)
    assert endpoint == []


def test_a_variable_that_is_not_set_is_named(endpoint: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTD_BENCH_KEY_ENV", "NOT_THERE")
    with pytest.raises(InputError, match="NOT_THERE, which is not set"):
        bench.run(rounds=1)
    assert endpoint == []


def test_a_served_model_is_not_measured_from_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTD_URL", "http://127.0.0.1:1")
    with pytest.raises(InputError, match="AGENTD_URL names another daemon"):
        bench.run(rounds=1, model="mine")
