"""What the gateway adds to a chat request, beside the endpoint itself, a bare pass-through and a peer.

All are asked the same over kept connections on loopback, and all send on to the same endpoint, which answers
at once. Ours checks Host, token, rate and size, routes an alias of two models, meters each attempt against a
budget and records it; the bare pass-through does none of it. The peer is Portkey's gateway from npm, where
there is npm: it is told its endpoint with each request, and meters nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from agentd import locations
from agentd.bench import startup
from agentd.errors import Unavailable

__all__ = ["run"]

CLIENTS = 16
ALONE_S, TOGETHER_S = 1.0, 2.0
PEER = "@portkey-ai/gateway@1.15.2"
MESSAGES = [
    {"role": "system", "content": "You answer in one word."},
    {"role": "user", "content": "What is the capital of France?"},
]
HERE = Path(__file__).parent


class Way(NamedTuple):
    """A way to the endpoint: where, as which model, with what headers."""

    port: int
    model: str = "m"
    headers: tuple[str, ...] = ()

    def request(self) -> bytes:
        body = json.dumps({"model": self.model, "messages": MESSAGES, "max_tokens": 16}).encode()
        head = (
            "POST /v1/chat/completions HTTP/1.1",
            f"Host: 127.0.0.1:{self.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            *self.headers,
        )
        return "\r\n".join((*head, "", "")).encode() + body


def run(rounds: int = 5) -> dict[str, Any]:
    """Each way in turn, `rounds` times after one that is not measured: medians over rounds, and ratios.

    `added_ms` is the median latency of one client beyond that of the endpoint itself.
    """
    with tempfile.TemporaryDirectory(prefix="agentd-bench-") as folder, ExitStack() as stack:
        endpoint = _endpoint(stack)
        ways = {"endpoint": Way(endpoint), "bare": _bare(endpoint, stack)}
        ways["agentd"] = _agentd(endpoint, Path(folder), stack)
        if peer := _peer(endpoint, stack):
            ways["portkey"] = peer
        found: dict[str, dict[str, list[float]]] = {name: {} for name in ways}
        for turn in range(rounds + 1):
            for name, way in ways.items():
                alone = asyncio.run(_ask(way, 1, ALONE_S))
                together = asyncio.run(_ask(way, CLIENTS, TOGETHER_S))
                sample = {
                    "p50_ms": statistics.median(alone.seconds) * 1000,
                    "p99_ms": statistics.quantiles(alone.seconds, n=100)[98] * 1000,
                    "per_s": together.per_s,
                }
                for key, value in sample.items() if turn else ():
                    found[name].setdefault(key, []).append(value)
    medians = {name: {key: statistics.median(v) for key, v in of.items()} for name, of in found.items()}
    direct = medians["endpoint"]["p50_ms"]
    table = [
        {
            "way": name,
            "p50_ms": round(of["p50_ms"], 2),
            "added_ms": round(of["p50_ms"] - direct, 2),
            "p99_ms": round(of["p99_ms"], 2),
            f"per_s_at_{CLIENTS}": round(of["per_s"]),
        }
        for name, of in medians.items()
    ]
    rate = medians["agentd"]["per_s"]
    return {
        "rounds": rounds,
        "ways": table,
        "rate_to_bare": round(rate / medians["bare"]["per_s"], 2),
        **({"rate_to_portkey": round(rate / medians["portkey"]["per_s"], 2)} if "portkey" in medians else {}),
    }


# --- asking ---------------------------------------------------------------------------------


class Sample(NamedTuple):
    seconds: list[float]
    per_s: float


class _Client(asyncio.Protocol):
    """Sends its request again as soon as it is answered, until it is told to stop."""

    def __init__(self, request: bytes, until: float, ended: asyncio.Future[None]) -> None:
        self._request, self._until, self.ended = request, until, ended
        self._buffer, self._started = b"", 0.0
        self.seconds: list[float] = []

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._send()

    def _send(self) -> None:
        self._started = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        if not _is_whole(self._buffer):
            return
        if not self._buffer.startswith(b"HTTP/1.1 200") or b'"choices"' not in self._buffer:
            self._end(Unavailable(f"answered {self._buffer[:300]!r}"))
            return
        self._buffer = b""
        now = time.perf_counter()
        self.seconds.append(now - self._started)
        if now < self._until:
            self._send()
        else:
            self._end(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(exc or Unavailable("the connection was closed"))

    def _end(self, error: Exception | None) -> None:
        if not self.ended.done():
            self.ended.set_exception(error) if error else self.ended.set_result(None)
        self._transport.close()


def _is_whole(answer: bytes) -> bool:
    head, blank, body = answer.partition(b"\r\n\r\n")
    if not blank:
        return False
    _, named, rest = head.lower().partition(b"\r\ncontent-length:")
    if named:
        return len(body) >= int(rest.partition(b"\r\n")[0])
    return body.endswith(b"0\r\n\r\n")


async def _ask(way: Way, clients: int, for_s: float) -> Sample:
    loop = asyncio.get_running_loop()
    started = time.perf_counter()
    each = [_Client(way.request(), started + for_s, loop.create_future()) for _ in range(clients)]
    for client in each:
        await loop.create_connection(lambda client=client: client, "127.0.0.1", way.port)
    await asyncio.gather(*(client.ended for client in each))
    seconds = [s for client in each for s in client.seconds]
    return Sample(seconds, len(seconds) / (time.perf_counter() - started))


# --- what is asked --------------------------------------------------------------------------


def _endpoint(stack: ExitStack) -> int:
    command = [sys.executable, "-P", str(HERE / "slow_endpoint.py"), "0"]
    process = stack.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    stack.callback(process.terminate)
    assert process.stdout is not None
    return int(process.stdout.readline())


def _bare(endpoint: int, stack: ExitStack) -> Way:
    port = startup.free_port()
    command = [sys.executable, "-P", str(HERE / "bare_gateway.py"), str(port), f"http://127.0.0.1:{endpoint}"]
    stack.enter_context(startup.running(command, {}))
    _wait(port)
    return Way(port)


def _agentd(endpoint: int, state: Path, stack: ExitStack) -> Way:
    port = startup.free_port()
    models = "".join(
        f'[[models]]\nname = "{name}"\nkind = "frontier"\nendpoint = "http://127.0.0.1:{endpoint}/v1"\n'
        f'upstream = "m"\ninput_micro_usd_per_mtok = 1000000\noutput_micro_usd_per_mtok = 2000000\n'
        for name in ("small", "large")
    )
    alias = '[[aliases]]\nname = "support"\nweights = { small = 9, large = 1 }\n'
    config = state / "agentd.toml"
    config.write_text(models + alias, encoding="utf-8")
    command = [sys.executable, "-P", "-m", "agentd", "serve", "--config", str(config)]
    env = {"AGENTD_STATE": str(state / "state"), "AGENTD_PORT": str(port)}
    stack.enter_context(startup.running(command, env))
    startup.first_answer(port, lambda: startup.agent_token(state / "state"), "/mcp")
    return Way(port, "support", (f"Authorization: Bearer {startup.agent_token(state / 'state')}",))


def _peer(endpoint: int, stack: ExitStack) -> Way | None:
    """Portkey's gateway, installed into the cache; None where there is no npm."""
    if not (npm := shutil.which("npm")) or not (node := shutil.which("node")):
        return None
    folder = locations.cache_dir(os.environ) / "bench" / "portkey"
    program = folder / "node_modules" / "@portkey-ai" / "gateway" / "build" / "start-server.js"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        install = [npm, "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(folder), PEER]
        subprocess.run(install, check=True, capture_output=True, timeout=300)
    port = startup.free_port()
    env = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1", "NODE_ENV": "production"}
    stack.enter_context(startup.running([node, str(program), f"--port={port}", "--headless"], env))
    _wait(port)
    endpoint_url = f"http://127.0.0.1:{endpoint}/v1"
    headers = (
        f"x-portkey-custom-host: {endpoint_url}",
        "x-portkey-provider: openai",
        "Authorization: Bearer x",
    )
    return Way(port, "m", headers)


def _wait(port: int) -> None:
    give_up = time.monotonic() + startup.GIVE_UP_S
    while time.monotonic() < give_up:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(0.02)
    raise TimeoutError(f"nothing listens on port {port}")
