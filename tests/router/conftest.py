"""An endpoint that speaks the OpenAI protocol on loopback; its model's name says how it behaves."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Endpoint(ThreadingHTTPServer):
    """`seen` holds what was asked: (body, authorization)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[dict[str, Any], str | None]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((body, self.headers["Authorization"]))
        usage = {"prompt_tokens": 10, "completion_tokens": body.get("max_tokens", 5)}
        match body["model"]:
            case "locked":
                self._send(401, json.dumps({"error": {"message": "wrong key", "type": "auth"}}))
            case "broken":
                self._send(500, "the machine room is flooded")
            case "garbage":
                self._send(200, "<html>hello</html>")
            case "empty":
                self._send(200, json.dumps({"choices": [], "usage": usage}))
            case "uncounted":
                self._send(200, json.dumps({"choices": [_choice("hi")]}))
            case "hangs_up":
                self.close_connection = True
            case _ if body["stream"]:
                self._stream(usage)
            case _:
                self._send(200, json.dumps({"choices": [_choice("hello")], "usage": usage}))

    def _send(self, status: int, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, usage: dict[str, int]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        chunks: list[Any] = [{"choices": [{"delta": {"content": word}}]} for word in ("hel", "lo")]
        for chunk in [*chunks, {"choices": [], "usage": usage}]:
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def _choice(text: str) -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": text}}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
