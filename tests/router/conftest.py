"""An endpoint that speaks the OpenAI protocol on loopback; its model's name says how it behaves."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


class Endpoint(ThreadingHTTPServer):
    """`seen` holds what was asked: (body, authorization); `headers` those of each request.

    `arrived` and `left`: somebody asked "waits", and has hung up.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[dict[str, Any], str | None]] = []
        self.headers: list[dict[str, str]] = []
        self.arrived, self.left = threading.Event(), threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Endpoint
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append((body, self.headers["Authorization"] or self.headers["x-api-key"]))
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        usage = {"prompt_tokens": 10, "completion_tokens": body.get("max_tokens", 5)}
        if not self.path.endswith("/chat/completions"):
            self._other(body, self.path.removeprefix("/v1/"))
            return
        match body["model"]:
            case "slow":
                time.sleep(0.5)
                self._send(200, json.dumps({"choices": [_choice("late")], "usage": usage}))
            case "limited":
                self._send(429, json.dumps({"error": {"message": "slow down"}}), {"Retry-After": "7"})
            case "limited_once" if sum(seen["model"] == "limited_once" for seen, _ in self.server.seen) == 1:
                self._send(429, json.dumps({"error": {"message": "slow down"}}), {"retry-after-ms": "20"})
            case "short":
                said = "This model's maximum context length is 16 tokens"
                self._send(400, json.dumps({"error": {"message": said, "code": "context_length_exceeded"}}))
            case "picky":
                self._send(400, json.dumps({"error": {"message": "'temperature' is too high"}}))
            case "polite":
                self._send(200, json.dumps({"error": {"message": "out of service", "code": 503}}))
            case "cut" if body["stream"]:
                self._stream(usage, until=1)
            case "babble" if body["stream"]:
                self._send(200, "<html>hello</html>", {"Content-Type": "text/event-stream"})
            case "sorry" if body["stream"]:
                said = 'data: {"error": {"message": "overloaded", "code": 529}}\n\n'
                self._send(200, said, {"Content-Type": "text/event-stream"})
            case "locked":
                self._send(401, json.dumps({"error": {"message": "wrong key", "type": "auth"}}))
            case "broken":
                self._send(500, "the machine room is flooded")
            case "garbage":
                self._send(200, "<html>hello</html>")
            case "empty":
                self._send(200, json.dumps({"choices": [], "usage": usage}))
            case "cut_off":
                self._send(200, json.dumps({"choices": [_choice("hel", "length")], "usage": usage}))
            case "unsure":
                told = {"content": [{"token": "he", "logprob": -1.5}]} if body.get("logprobs") else None
                self._send(
                    200, json.dumps({"choices": [_choice("he?") | {"logprobs": told}], "usage": usage})
                )
            case "prose":
                self._send(200, json.dumps({"choices": [_choice("Certainly!")], "usage": usage}))
            case "uncounted":
                self._send(200, json.dumps({"choices": [_choice("hi")]}))
            case "waits":
                self.server.arrived.set()
                if not self.rfile.read(1):
                    self.server.left.set()
            case "hangs_up":
                self.close_connection = True
            case "rude":
                self._send(200, json.dumps({"choices": [_choice("whatever")], "usage": usage}))
            case "judge":
                score = 1 if "whatever" in body["messages"][-1]["content"] else 5
                self._send(200, json.dumps({"choices": [_choice(f'{{"score": {score}}}')], "usage": usage}))
            case _ if body["stream"]:
                self._stream(usage)
            case _ if body.get("tools"):
                called = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
                self._send(200, json.dumps(called | {"choices": [_called(body["tools"][0])]}))
            case _ if body.get("response_format"):
                answer = {"choices": [_choice('{"intent": "refund"}')], "usage": usage}
                self._send(200, json.dumps(answer))
            case _:
                self._send(200, json.dumps({"choices": [_choice("hello")], "usage": usage}))

    def _other(self, body: dict[str, Any], path: str) -> None:
        """Embeddings, responses and messages."""
        match path:
            case "embeddings":
                vector = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
                usage = {"prompt_tokens": 3, "total_tokens": 3}
                self._send(
                    200, json.dumps({"object": "list", "model": "m", "data": [vector], "usage": usage})
                )
            case "messages":
                text = {"type": "text", "text": "hello"}
                usage = {"input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 5}
                message = {
                    "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [text],
                    "stop_reason": "end_turn", "stop_sequence": None, "usage": usage,
                }  # fmt: skip
                if body["model"] == "writes":
                    message["usage"] = usage | {"cache_creation_input_tokens": 6}
                if body.get("stream"):
                    self._messages(message, body["model"])
                else:
                    self._send(200, json.dumps(message))
            case _:
                self._send(404, json.dumps({"error": {"message": "no such path"}}))

    def _messages(self, message: dict[str, Any], model: str) -> None:
        begun = message | {"content": [], "usage": message["usage"] | {"output_tokens": 1}}
        delta = {"type": "text_delta", "text": "hello, message_stop"}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
            {"type": "message_stop"},
        ]
        if model == "cut":
            del events[2:]
        self._send(
            200,
            "".join(f"event: {event['type']}\ndata: {json.dumps(event)}\n\n" for event in events),
            {"Content-Type": "text/event-stream"},
        )

    def _send(self, status: int, text: str, headers: Mapping[str, str] = {}) -> None:
        data = text.encode()
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, usage: dict[str, int], until: int = 3) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        chunks: list[Any] = [{"choices": [{"delta": {"content": word}}]} for word in ("hel", "lo")]
        for chunk in [*chunks, {"choices": [], "usage": usage}][:until]:
            self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        if until == 3:
            self.wfile.write(b"data: [DONE]\n\n")
        self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


def _called(tool: dict[str, Any]) -> dict[str, Any]:
    function = {"name": tool["function"]["name"], "arguments": '{"city": "Paris"}'}
    call = {"id": "call_1", "type": "function", "function": function}
    message = {"role": "assistant", "content": None, "tool_calls": [call]}
    return {"index": 0, "message": message, "finish_reason": "tool_calls"}


def _choice(text: str, finish: str = "stop") -> dict[str, Any]:
    return {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    server = Endpoint()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
