"""What keeping texts adds to a request: the gateway with capture, beside the same gateway without.

One daemon has two models of one endpoint on loopback, which answers at once; the texts of one are kept. Each
is asked for a while by one client with a prompt of 2,000 characters, in turn, and each waits until what the
other left has been written. That texts were kept, and the other's were not, is looked up at the end.
"""

from __future__ import annotations

import http.client
import json
import statistics
import tempfile
import time
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

REQUESTS = 150  # in each turn; the rate limit lets through more
PROMPT = "My parcel has not come, and it is the third time that I write. " * 32
CONFIG = """\
[capture]
aliases = ["kept"]
"""
MODEL = """
[[models]]
name = "{name}"
kind = "local"
endpoint = "{url}"
"""


def run(rounds: int = 8) -> dict[str, Any]:
    """Latencies in ms over all rounds but an unmeasured first, and their ratios.

    Raises `AgentdError` should something not be kept, or too much.
    """
    seconds: dict[str, list[float]] = {"kept": [], "plain": []}
    with tempfile.TemporaryDirectory(prefix="agentd-bench-") as folder, ExitStack() as stack:
        state = Path(folder)
        ask = _gateway(state, stack)
        for turn in range(rounds + 1):
            for name in sorted(seconds, reverse=bool(turn % 2)):
                found = [ask(name) for _ in range(REQUESTS)]
                time.sleep(WRITE_EVERY_S * 1.5)  # what is being written costs the next one nothing
                seconds[name] += found if turn else []
        stack.close()
        _check(state, (rounds + 1) * REQUESTS)
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


def _gateway(state: Path, stack: ExitStack) -> Any:
    """Start the daemon; the answer asks a model once and gives the seconds that it took."""
    url, port = stack.enter_context(endpoint(0.0)), startup.free_port()
    config = state / "agentd.toml"
    config.write_text(CONFIG + "".join(MODEL.format(name=each, url=url) for each in ("kept", "plain")))
    env = {"AGENTD_STATE": str(state), "AGENTD_PORT": str(port), "AGENTD_CONFIG": str(config)}
    stack.enter_context(startup.running(startup.agentd_command("serve"), env))
    startup.first_answer(port, lambda: startup.agent_token(state), "/mcp")
    connection = stack.enter_context(closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)))
    token = {"Authorization": f"Bearer {startup.agent_token(state)}", "Content-Type": "application/json"}

    def ask(model: str) -> float:
        body = json.dumps({"model": model, "messages": [{"role": "user", "content": PROMPT}]})
        started = time.perf_counter()
        connection.request("POST", "/v1/chat/completions", body=body, headers=token)
        response = connection.getresponse()
        said = response.read()
        if response.status != 200:
            raise AgentdError(f"the gateway answered {response.status}: {said[:200]!r}")
        return time.perf_counter() - started

    return ask


def _check(state: Path, wanted: int) -> None:
    with closing(TrafficTable(state / locations.TRAFFIC, max_bytes=0)) as table:
        kept, plain = len(table.list("kept", 0.0)), len(table.list("plain", 0.0))
    if (kept, plain) != (wanted, 0):
        raise AgentdError(f"of {wanted} requests each, {kept} and {plain} were kept: expected all and none")
