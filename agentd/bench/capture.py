"""What keeping texts adds to a request: a gateway with capture, beside one without.

Both have a model at an endpoint on loopback that answers at once, and are asked for a second in turn, by one
client with a prompt of 2,000 characters; each waits until what the other left has been written. That one
kept all texts, and the other none, is looked up at the end.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from agentd import locations
from agentd.bench import startup
from agentd.bench.eval import endpoint
from agentd.errors import AgentdError
from agentd.router.traffic import WRITE_EVERY_S
from agentd.store.traffic import TrafficTable

__all__ = ["run"]

REQUESTS = 250  # in each turn; the rate limit lets through more
PROMPT = "My parcel has not come, and it is the third time that I write. " * 32
MODEL = """
[[models]]
name = "m"
kind = "local"
endpoint = "{url}"
"""
CAPTURE = """
[capture]
aliases = ["m"]
"""


def run(rounds: int = 8) -> dict[str, Any]:
    """Latencies in ms over all rounds but an unmeasured first, and their ratios.

    Raises `AgentdError` should something not be kept, or too much.
    """
    seconds: dict[str, list[float]] = {"kept": [], "plain": []}
    with tempfile.TemporaryDirectory(prefix="agentd-bench-") as folder, ExitStack() as stack:
        url = stack.enter_context(endpoint(0.0))
        asks = {
            name: _gateway(Path(folder) / name, MODEL.format(url=url) + config, stack)
            for name, config in (("kept", CAPTURE), ("plain", ""))
        }
        for turn in range(rounds + 1):
            for name in sorted(asks, reverse=bool(turn % 2)):
                found = [asks[name]() for _ in range(REQUESTS)]
                time.sleep(WRITE_EVERY_S * 1.5)  # what is being written costs the other nothing
                seconds[name] += found if turn else []
        stack.close()
        _check(Path(folder), (rounds + 1) * REQUESTS)
    p50 = {name: statistics.median(each) * 1000 for name, each in seconds.items()}
    p95 = {name: statistics.quantiles(each, n=20)[18] * 1000 for name, each in seconds.items()}
    return {
        "rounds": rounds,
        "requests": rounds * REQUESTS,
        "p50_ms": {name: round(value, 2) for name, value in p50.items()},
        "p95_ms": {name: round(value, 2) for name, value in p95.items()},
        "p50_ratio": round(p50["kept"] / p50["plain"], 3),
        "p95_ratio": round(p95["kept"] / p95["plain"], 3),
    }


def _gateway(state: Path, config: str, stack: ExitStack) -> Callable[[], float]:
    """Start a daemon; the answer asks its model once and gives the seconds that it took."""
    port = startup.free_port()
    state.mkdir()
    (state / "agentd.toml").write_text(config, encoding="utf-8")
    places = {"AGENTD_STATE": str(state), "AGENTD_CONFIG": str(state / "agentd.toml")}
    command = startup.agentd_command("serve")
    stack.enter_context(startup.running(command, {**places, "AGENTD_PORT": str(port)}))
    startup.first_answer(port, lambda: startup.agent_token(state), "/mcp")
    connection = stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)))
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": PROMPT}]})
    headers = {
        "Authorization": f"Bearer {startup.agent_token(state)}",
        "Content-Type": "application/json",
    }

    def ask() -> float:
        started = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body=body, headers=headers)
        response = connection.getresponse()
        said = response.read()
        if response.status != 200:
            raise AgentdError(f"the gateway answered {response.status}: {said[:200]!r}")
        return time.perf_counter() - started

    return ask


def _check(folder: Path, wanted: int) -> None:
    kept = dict.fromkeys(("kept", "plain"), 0)
    for name in kept:
        with closing(TrafficTable(folder / name / locations.TRAFFIC, max_bytes=0)) as table:
            kept[name] = table.held()[0]
    if kept != {"kept": wanted, "plain": 0}:
        raise AgentdError(f"of {wanted} requests each, these were kept: {kept}; expected all, and none")
