"""Time from starting the process to its first MCP answer, and its memory then."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from agentd import locations

__all__ = ["HELLO", "agent_token", "first_answer", "free_port", "run", "running"]

HELLO = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "bench", "version": "0"},
    },
}
TOOLS = {"jsonrpc": "2.0", "id": 2, "method": "tools/list", "params": {}}
GIVE_UP_S = 60.0


class Sample(NamedTuple):
    seconds: float
    bytes: int


def run(rounds: int = 5) -> dict[str, Any]:
    """Three servers `rounds` times in turn, after an unmeasured start of each: medians, ratios to the bare.

    agentd is started again on the state directory that it left, as most starts are, and on a new one.
    """
    samples: dict[str, list[Sample]] = {"bare": [], "agentd": [], "new": []}
    with tempfile.TemporaryDirectory(prefix="agentd-bench-") as folder:
        for turn in range(rounds + 1):
            found = {
                "bare": _bare_server(),
                "agentd": _agentd_server(Path(folder) / "kept"),
                "new": _agentd_server(Path(folder) / f"new-{turn}"),
            }
            for name, sample in found.items() if turn else ():  # the first start fills the disk cache
                samples[name].append(sample)
    seconds = {name: statistics.median(s.seconds for s in found) for name, found in samples.items()}
    memory = {name: statistics.median(s.bytes for s in found) for name, found in samples.items()}
    return {
        "rounds": rounds,
        **{
            shown: {"first_answer_s": round(seconds[name], 3), "rss_mib": round(memory[name] / 2**20, 1)}
            for name, shown in (("agentd", "agentd"), ("new", "agentd_new_state"), ("bare", "bare_sdk"))
        },
        "time_ratio": round(seconds["agentd"] / seconds["bare"], 2),
        "time_ratio_new_state": round(seconds["new"] / seconds["bare"], 2),
        "memory_ratio": round(memory["agentd"] / memory["bare"], 2),
    }


def _bare_server() -> Sample:
    port = free_port()
    program = Path(__file__).with_name("bare_mcp.py")
    with running([sys.executable, "-P", str(program), str(port)], {}) as (process, started):
        first_answer(port, lambda: "", "/mcp")
        return Sample(time.perf_counter() - started, _rss(process.pid))


def _agentd_server(state: Path) -> Sample:
    port = free_port()
    env = {"AGENTD_STATE": str(state), "AGENTD_PORT": str(port)}
    with running(agentd_command("serve"), env) as (process, started):
        first_answer(port, lambda: agent_token(state), "/mcp")
        return Sample(time.perf_counter() - started, _rss(process.pid))


def agentd_command(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "agentd", *arguments]


@contextmanager
def running(command: list[str], env: Mapping[str, str]) -> Generator[tuple[subprocess.Popen[bytes], float]]:
    started = time.perf_counter()
    # Bytecode is written as for any user, by the start that is not measured.
    inherited = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env={**inherited, **env}, stdin=quiet, stdout=quiet, stderr=quiet)
    try:
        yield process, started
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=20)


def first_answer(port: int, token: Any, path: str) -> None:
    """Until the server has said hello and listed its tools."""
    give_up = time.monotonic() + GIVE_UP_S
    while time.monotonic() < give_up:
        try:
            for message in (HELLO, TOOLS):
                _post(port, path, message, token())
            return
        except (OSError, http.client.HTTPException):
            time.sleep(0.005)
    raise TimeoutError(f"no MCP answer on port {port} within {GIVE_UP_S:.0f} s")


def _post(port: int, path: str, message: Mapping[str, Any], token: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": "2025-11-25",
        **({"Authorization": f"Bearer {token}"} if token else {}),
    }
    try:
        connection.request("POST", path, body=json.dumps(message), headers=headers)
        response = connection.getresponse()
        body = response.read()
        if response.status != 200 or b'"result"' not in body:
            raise http.client.HTTPException(f"{response.status}: {body[:200]!r}")
    finally:
        connection.close()


def agent_token(state: Path) -> str:
    return (state / locations.AGENT_TOKEN).read_text(encoding="ascii").strip()


def _rss(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
