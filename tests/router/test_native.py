"""Anthropic's and Google's own protocols, asked with OpenAI's: through their SDKs, on loopback."""

from __future__ import annotations

import json
import threading
from collections.abc import Awaitable, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from agentd.daemon import Daemon
from agentd.errors import AgentdError, InputError, Unavailable
from agentd.policy.callers import Caller
from agentd.router.faults import UpstreamError
from agentd.router.inquiry import Inquiry
from agentd.sdk import Alias, Model

pytestmark = pytest.mark.anyio
Reach = Callable[..., Awaitable[Daemon]]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
SPENT = {"claude": 10 * 3 + 5 * 15, "gemini": 10 * 3 + (5 + 2) * 15}


class Vendors(ThreadingHTTPServer):
    """`seen` is what was asked: (path, body, headers). The system prompt "401" is answered with 401."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, dict[str, Any], dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Vendors
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.seen.append((self.path, body, headers))
        system = body.get("system") or (body.get("systemInstruction") or {}).get("parts", [{}])[0].get("text")
        if isinstance(system, str) and system.isdigit():
            self._send(int(system), {"error": {"type": "x", "message": "not now", "code": int(system)}})
        elif "messages" in self.path:
            self._claude(body)
        else:
            self._gemini("stream" in self.path)

    def _claude(self, body: dict[str, Any]) -> None:
        usage = {"input_tokens": 4, "cache_read_input_tokens": 6, "output_tokens": 5}
        content: dict[str, Any] = {"type": "text", "text": "hello"}
        if body.get("tools"):
            content = {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Paris"}}
        message = {
            "id": "msg_1", "type": "message", "role": "assistant", "model": "m", "content": [content],
            "stop_reason": "end_turn", "stop_sequence": None, "usage": usage,
        }  # fmt: skip
        if not body.get("stream"):
            self._send(200, message)
            return
        begun = message | {"content": [], "usage": usage | {"output_tokens": 1}}
        delta = {"type": "text_delta", "text": "hello"}
        self._events(
            {"type": "message_start", "message": begun},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": delta},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
            {"type": "message_stop"},
        )

    def _gemini(self, streamed: bool) -> None:
        usage = {"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 2}
        answer = {
            "candidates": [
                {
                    "index": 0,
                    "content": {"role": "model", "parts": [{"text": "hello"}]},
                    "finishReason": "STOP",
                }
            ],
            "usageMetadata": usage | {"totalTokenCount": 17},
        }
        if streamed:
            self._events(answer)
        else:
            self._send(200, answer)

    def _events(self, *events: dict[str, Any]) -> None:
        names = [f"event: {event['type']}\n" if "type" in event else "" for event in events]
        lines = [f"{name}data: {json.dumps(event)}\n\n" for name, event in zip(names, events, strict=True)]
        self._raw(200, "".join(lines).encode(), "text/event-stream")

    def _send(self, status: int, data: dict[str, Any]) -> None:
        self._raw(status, json.dumps(data).encode(), "application/json")

    def _raw(self, status: int, data: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        if status == 429:
            self.send_header("Retry-After", "7")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def vendors() -> Iterator[Vendors]:
    server = Vendors()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def reach(boot: Any, vendors: Vendors, monkeypatch: pytest.MonkeyPatch) -> Reach:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")

    async def start(*aliases: Alias) -> Daemon:
        prices = {"input_micro_usd_per_mtok": 3_000_000, "output_micro_usd_per_mtok": 15_000_000}
        claude = Model(
            name="claude", kind="frontier", endpoint=f"{vendors.url}/v1", dialect="anthropic",
            key_env="TEST_KEY", upstream="claude-x", **prices,
        )  # fmt: skip
        gemini = claude.model_copy(
            update={"name": "gemini", "endpoint": vendors.url, "dialect": "google", "upstream": "gemini-x"}
        )
        gone = claude.model_copy(update={"name": "gone", "endpoint": "http://127.0.0.1:1/v1"})
        return await boot(models=(claude, gemini, gone), aliases=aliases)

    return start


def body(model: str, system: str = "Be brief.", **more: Any) -> dict[str, Any]:
    said = [{"role": "system", "content": system}, {"role": "user", "content": "hi"}]
    return {"model": model, "messages": said, "max_tokens": 50, **more}


@pytest.mark.parametrize("model", ["claude", "gemini"])
async def test_a_chat_is_put_into_the_vendors_words_and_its_answer_into_openais(
    reach: Reach, vendors: Vendors, agent: Caller, model: str
) -> None:
    daemon = await reach()
    reply = await daemon.gateway.complete(Inquiry(body(model, metadata={"a": "b"}), agent))
    assert reply["choices"][0]["message"]["content"] == "hello"
    assert reply["choices"][0]["finish_reason"] == "stop"
    [(path, sent, headers)] = vendors.seen
    assert ("claude-x" in sent.get("model", "")) or "gemini-x" in path
    assert "sk-very-secret" in (headers.get("x-api-key"), headers.get("x-goog-api-key"))
    row = daemon.requests.list(1)[0]
    assert row.micro_usd == daemon.ledger.summary().day_spent == SPENT[model]


@pytest.mark.parametrize("model", ["claude", "gemini"])
@pytest.mark.parametrize("shown", [False, True])
async def test_a_stream_comes_as_openais_events_and_is_metered(
    reach: Reach, agent: Caller, model: str, shown: bool
) -> None:
    daemon = await reach()
    asked = body(model, **({"stream_options": {"include_usage": True}} if shown else {}))
    text = b"".join([chunk async for chunk in daemon.gateway.stream(Inquiry(asked, agent))]).decode()
    *events, last = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
    assert last == "[DONE]"
    chunks = [json.loads(event) for event in events]
    said = [choice["delta"].get("content") or "" for chunk in chunks for choice in chunk["choices"]]
    assert "".join(said) == "hello"
    assert daemon.requests.list(1)[0].micro_usd == SPENT[model]
    if shown:
        assert any(chunk.get("usage", {}).get("prompt_tokens") == 10 for chunk in chunks)


async def test_tools_are_translated_both_ways(reach: Reach, vendors: Vendors, agent: Caller) -> None:
    daemon = await reach()
    reply = await daemon.gateway.complete(Inquiry(body("claude", tools=[WEATHER]), agent))
    [call] = reply["choices"][0]["message"]["tool_calls"]
    assert (call["function"]["name"], json.loads(call["function"]["arguments"])) == (
        "weather",
        {"city": "Paris"},
    )
    assert vendors.seen[0][1]["tools"][0]["input_schema"]["properties"] == {"city": {"type": "string"}}


@pytest.mark.parametrize("model", ["claude", "gemini"])
@pytest.mark.parametrize(("status", "spent"), [(401, 0), (429, 0), (500, None)])
async def test_errors_are_told_once_with_their_status(
    reach: Reach, vendors: Vendors, agent: Caller, model: str, status: int, spent: int | None
) -> None:
    daemon = await reach()
    with pytest.raises(UpstreamError, match="not now") as caught:
        await daemon.gateway.complete(Inquiry(body(model, str(status)), agent))
    assert caught.value.status == status
    assert len(vendors.seen) == 1, "the SDK must not ask again by itself"
    assert (caught.value.retry_after_s == 7) == (status == 429)
    assert "sk-very-secret" not in str(caught.value)
    row = daemon.requests.list(1)[0]
    assert (row.micro_usd == 0) == (spent == 0)


async def test_a_fallback_crosses_dialects(reach: Reach, vendors: Vendors, agent: Caller) -> None:
    daemon = await reach(Alias(name="support", weights={"gone": 1}, fallbacks=("claude", "gemini")))
    with pytest.raises(AgentdError, match="'gemini' answered 503"):
        await daemon.gateway.complete(Inquiry(body("support", "503"), agent))
    assert [path.rpartition("/")[2][:8] for path, _, _ in vendors.seen][:2] == ["messages", "gemini-x"]


async def test_what_cannot_be_translated_is_said(reach: Reach, agent: Caller, vendors: Vendors) -> None:
    daemon = await reach()
    with pytest.raises(UpstreamError, match=r"cannot be asked this.*unheard_of") as caught:
        await daemon.gateway.complete(Inquiry(body("claude", unheard_of=1), agent))
    assert caught.value.status == 400
    with pytest.raises(InputError, match="its endpoint has no embeddings"):
        await daemon.gateway.complete(Inquiry({"model": "claude", "input": "x"}, agent, "embeddings"))
    with pytest.raises(Unavailable, match=r"'gone' at .* cannot be reached"):
        await daemon.gateway.complete(Inquiry(body("gone"), agent))
    assert vendors.seen == []


async def test_anthropics_own_requests_pass_untouched(reach: Reach, vendors: Vendors, agent: Caller) -> None:
    daemon = await reach()
    asked = body("claude", top_k=3) | {"messages": [{"role": "user", "content": "hi"}]}
    reply = await daemon.gateway.complete(Inquiry(asked, agent, "messages"))
    assert reply["content"] == [{"type": "text", "text": "hello"}]
    assert vendors.seen[0][1] == asked | {"model": "claude-x"}
