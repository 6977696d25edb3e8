"""Answering over MCP: the pace of a tool call, and of the stdio proxy, beside bare SDK servers.

The call is `list_models` on a new state directory; the bare server's tool returns what that answered,
from memory. Both answer the handshake era on loopback, stateless and in JSON, over connections that are
kept. Ours also checks Host, token and rate, looks into its store and validates; the bare one does none of it.
"""

from __future__ import annotations

import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from agentd import locations
from agentd.bench import startup

__all__ = ["run"]

CALL = {
    "jsonrpc": "2.0",
    "id": 3,
    "method": "tools/call",
    "params": {"name": "list_models", "arguments": {}},
}
CLIENTS = 16
ALONE, TOGETHER = 100, 15  # calls of one client, and of each of 16; the rate limit lets through more
BARE = str(Path(__file__).with_name("bare_mcp.py"))


class Server(NamedTuple):
    """Where to call, and as whom: a token for each client, so that none is slowed by its rate limit."""

    port: int
    tokens: list[str]


def run(rounds: int = 5) -> dict[str, Any]:
    """Both servers in turn, `rounds` times after one that is not measured: medians over rounds, and ratios.

    Latencies in ms, of one client that calls without a pause; times of the stdio servers in seconds, from
    starting the process to its answer to `initialize`, while the daemon is up.
    """
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="agentd-bench-") as folder, ExitStack() as stack:
        state = Path(folder)
        ours = _agentd(state, stack)
        env = {"BARE_ANSWER": json.dumps(_structured(ours))}
        bare = _bare(env, stack)
        if _structured(bare) != _structured(ours):
            raise ValueError("the bare server does not answer the same")
        for turn in range(rounds + 1):
            for name, server in (("bare", bare), ("agentd", ours)):
                seconds = _alone(server)
                sample = {
                    f"{name}_p50_ms": statistics.median(seconds) * 1000,
                    f"{name}_p99_ms": statistics.quantiles(seconds, n=100)[98] * 1000,
                    f"{name}_calls_per_s": _together(server),
                }
                for key, value in sample.items() if turn else ():
                    found.setdefault(key, []).append(value)
            stdio = {
                "bare_stdio_s": _first_line([sys.executable, "-P", BARE, "stdio"], {}),
                "agentd_stdio_s": _first_line(startup.agentd_command("mcp"), {"AGENTD_STATE": str(state)}),
            }
            for key, value in stdio.items() if turn else ():
                found.setdefault(key, []).append(value)
    figures = {key: statistics.median(values) for key, values in found.items()}
    ratios = {
        f"{what}_ratio": round(figures[f"agentd_{what}"] / figures[f"bare_{what}"], 2)
        for what in ("p50_ms", "p99_ms", "calls_per_s", "stdio_s")
    }
    return {
        "rounds": rounds,
        "clients": CLIENTS,
        **{key: round(value, 3) for key, value in sorted(figures.items())},
        **ratios,
    }


def _agentd(state: Path, stack: ExitStack) -> Server:
    port = startup.free_port()
    env = {"AGENTD_STATE": str(state), "AGENTD_PORT": str(port)}
    stack.enter_context(startup.running(startup.agentd_command("serve"), env))
    startup.first_answer(port, lambda: startup.agent_token(state), "/mcp")
    owner = (state / locations.OWNER_TOKEN).read_text(encoding="ascii").strip()
    return Server(port, [_token(port, owner, f"bench-{n}") for n in range(CLIENTS)])


def _token(port: int, owner: str, agent: str) -> str:
    wanted = {"agent": agent, "role": "view", "lifetime_s": 3600}
    return json.loads(_asking(port, owner, "/api/tokens", wanted)())["token"]


def _bare(env: Mapping[str, str], stack: ExitStack) -> Server:
    port = startup.free_port()
    stack.enter_context(startup.running([sys.executable, "-P", BARE, str(port)], env))
    startup.first_answer(port, lambda: "", "/mcp")
    return Server(port, [""] * CLIENTS)


def _structured(server: Server) -> Any:
    return json.loads(_asking(server.port, server.tokens[0], "/mcp", CALL)())["result"]["structuredContent"]


def _asking(port: int, token: str, path: str, body: Mapping[str, Any]) -> Callable[[], bytes]:
    """Each call sends the same request over one connection. Raises for a refusal or a tool's error."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    sent = json.dumps(body)
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2025-11-25",
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }

    def ask() -> bytes:
        connection.request("POST", path, body=sent, headers=headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status >= 300 or b'"isError":true' in answer or b'"error":' in answer:
            raise http.client.HTTPException(f"{response.status}: {answer[:200]!r}")
        return answer

    return ask


def _alone(server: Server) -> list[float]:
    """Seconds of each of one client's calls. The tokens take turns, for the sake of the rate limit."""
    asks = [_asking(server.port, token, "/mcp", CALL) for token in server.tokens]
    seconds: list[float] = []
    for n in range(-CLIENTS, ALONE):  # each connection is opened by a call that is not measured
        started = time.perf_counter()
        asks[n % CLIENTS]()
        if n >= 0:
            seconds.append(time.perf_counter() - started)
    return seconds


def _together(server: Server) -> float:
    """Calls a second of 16 clients, each with a thread, a connection and a token of its own."""

    def client(token: str) -> None:
        ask = _asking(server.port, token, "/mcp", CALL)
        for _ in range(TOGETHER):
            ask()

    with ThreadPoolExecutor(CLIENTS) as pool:
        started = time.perf_counter()
        list(pool.map(client, server.tokens))
        return CLIENTS * TOGETHER / (time.perf_counter() - started)


def _first_line(command: list[str], env: Mapping[str, str]) -> float:
    """Seconds from starting a stdio server to its answer to `initialize`."""
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    started = time.perf_counter()
    process = subprocess.Popen(
        command,
        env={**inherited, **env},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    answer, seconds = b"", 0.0
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(startup.HELLO).encode() + b"\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        seconds = time.perf_counter() - started
        process.stdin.close()
    if b'"result"' not in answer:
        raise ValueError(f"{command[-2:]} answered {answer[:200]!r}")
    return seconds
