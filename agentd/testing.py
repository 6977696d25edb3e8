"""Shipped fakes: a model that says what a script says, as an OpenAI-compatible endpoint on loopback.

    with ScriptedModel([call("say", text="hello"), say("It said ${s1.text}.")]) as model:
        ...  # a catalog entry whose endpoint is model.url

A reply is chosen by how many the conversation holds already, so that asking again, as after a crash, gives
the same one. ``${s1.field}`` takes a field of the result that step s1 had. Calls are made natively, or as
JSON actions when the request holds the reply to a schema or offers no tools.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from agentd.agent.plans import fill
from agentd.errors import AgentdError, DataError

__all__ = ["Reply", "ScriptedModel", "call", "calls", "load_script", "say"]

Reply = Mapping[str, Any]
"""``{"say": text}``, ``{"calls": [{"tool": …, "arguments": {…}}]}`` or ``{"raw": message}``."""
Script = Sequence[Reply] | Callable[[dict[str, Any]], Reply]

_RESULT = re.compile(r"Result of \S+ \((s\d+)\): (.*)")
INPUT_TOKENS, OUTPUT_TOKENS = 100, 20
"""What each reply says it took."""


def say(text: str) -> Reply:
    """An answer."""
    return {"say": text}


def call(tool: str, **arguments: Any) -> Reply:
    """One call of a tool."""
    return calls((tool, arguments))


def calls(*made: tuple[str, Mapping[str, Any]]) -> Reply:
    """Several calls at once."""
    return {"calls": [{"tool": tool, "arguments": dict(arguments)} for tool, arguments in made]}


def load_script(path: Path) -> list[Reply]:
    """Replies from a YAML file: a list of ``say: text`` and ``calls: [{tool: …, arguments: {…}}]``."""
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    if not isinstance(read, list) or not all(
        isinstance(each, dict) and each.keys() & {"say", "calls"} for each in read
    ):
        raise DataError(
            path, "is no script", hint="Write a list of 'say: …' and 'calls: [{tool, arguments}]'"
        )
    return read


class ScriptedModel:
    """The endpoint. `seen` holds the bodies of all requests; past its end a script repeats its last reply."""

    def __init__(self, script: Script) -> None:
        self.seen: list[dict[str, Any]] = []
        self._script = script
        model = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # head and body in one packet: two would wait for each other's receipt

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                data = json.dumps(model.answer(body)).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: Any) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def answer(self, body: dict[str, Any]) -> dict[str, Any]:
        """The reply to one chat request, as the endpoint gives it."""
        self.seen.append(body)
        if callable(self._script):
            reply = self._script(body)
        else:
            said = sum(message["role"] == "assistant" for message in body["messages"])
            reply = self._script[min(said, len(self._script) - 1)]
        with contextlib.suppress(AgentdError):  # a result that lacks it: said as it is written
            reply = fill(dict(reply), _results(body["messages"]))
        usage = {"prompt_tokens": INPUT_TOKENS, "completion_tokens": OUTPUT_TOKENS}
        choice = {"index": 0, "message": _message(reply, body), "finish_reason": "stop"}
        return {"id": "scripted", "object": "chat.completion", "created": 1, "model": body["model"],
                "choices": [choice], "usage": usage}  # fmt: skip


def _message(reply: Reply, body: Mapping[str, Any]) -> dict[str, Any]:
    if "raw" in reply:
        return {"role": "assistant", **reply["raw"]}
    made = reply.get("calls", [])
    if not body.get("tools"):
        actions = made or [{"tool": "final_answer", "arguments": {"text": reply["say"]}}]
        return {"role": "assistant", "content": json.dumps({"actions": actions})}
    if not made:
        return {"role": "assistant", "content": reply["say"]}
    named = [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": each["tool"], "arguments": json.dumps(each["arguments"])},
        }
        for number, each in enumerate(made)
    ]
    return {"role": "assistant", "content": None, "tool_calls": named}


def _results(messages: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What each step gave, as far as the conversation shows it whole."""
    texts = [(each["tool_call_id"], each["content"]) for each in messages if each["role"] == "tool"]
    for message in messages:
        if message["role"] == "user":
            texts += _RESULT.findall(str(message["content"]))
    results: dict[str, Any] = {}
    for step, text in texts:
        with contextlib.suppress(ValueError):
            results[step] = json.JSONDecoder().raw_decode(text)[0]
    return results
