"""What a step of the agent's loop takes, beside a bare pydantic-ai agent: same scripted endpoint, same tool.

A run of a goal makes a number of calls of one trivial tool, one a turn. Ours are metered requests through the
gateway, stored with the steps they ask for, guarded, decided about by policy, and looked up again. The bare
agent keeps its messages in memory and asks with aiohttp, the quickest client we know. Both take turns.

Not covered: what a model takes to think, and tools that work.
"""

from __future__ import annotations

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from agentd.agent.goals import Wanted
from agentd.agent.guards import Limits
from agentd.config import Budget, Config, load_config
from agentd.daemon import Daemon
from agentd.errors import AgentdError
from agentd.policy.callers import Caller
from agentd.sdk import Model
from agentd.testing import Reply, ScriptedModel, call, say

__all__ = ["run"]

ROOT = Path(__file__).with_name("root")
STEPS = 20
ROUNDS = 5
GOAL = "Echo every text."


def run(rounds: int = ROUNDS) -> dict[str, Any]:
    """Milliseconds of a step, medians of so many rounds, as difference and as ratio.

    On a busy machine the processor's time says more than the clock's; both hold the scripted endpoint's.
    """
    with tempfile.TemporaryDirectory(prefix="agentd-") as folder, ScriptedModel(_script) as model:
        return asyncio.run(_measure(Path(folder), model.url, rounds))


def _script(body: dict[str, Any]) -> Reply:
    said = sum(message["role"] == "assistant" for message in body["messages"])
    return call("echo", text=f"text {said}") if said < STEPS else say("All were echoed.")


async def _measure(folder: Path, url: str, rounds: int) -> dict[str, Any]:
    daemon = Daemon(_config(folder, url), url="http://127.0.0.1:1")
    await daemon.start()
    try:
        async with _Bare(url) as bare:
            sides: dict[str, Callable[[], Awaitable[None]]] = {
                "agentd": lambda: _ours(daemon),
                "bare": bare.run,
            }
            samples: dict[str, list[float]] = {name: [] for name in sides}
            busy: dict[str, list[float]] = {name: [] for name in sides}
            for number in range(rounds + 1):
                for name, side in sides.items():
                    began, worked = time.perf_counter(), time.process_time()
                    await side()
                    if number:  # the first loads what is loaded with the first run
                        samples[name].append((time.perf_counter() - began) / STEPS * 1000)
                        busy[name].append((time.process_time() - worked) / STEPS * 1000)
    finally:
        await daemon.aclose()
    ours, theirs = (statistics.median(samples[name]) for name in ("agentd", "bare"))
    return {
        "rounds": rounds,
        "steps": STEPS,
        "agentd_ms_a_step": round(ours, 2),
        "bare_ms_a_step": round(theirs, 2),
        "added_ms_a_step": round(statistics.median(map(float.__sub__, *samples.values())), 2),
        "ratio": round(ours / theirs, 2),
        "agentd_cpu_ms_a_step": round(statistics.median(busy["agentd"]), 2),
        "bare_cpu_ms_a_step": round(statistics.median(busy["bare"]), 2),
        "added_cpu_ms_a_step": round(statistics.median(map(float.__sub__, *busy.values())), 2),
    }


async def _ours(daemon: Daemon) -> None:
    caller = Caller("agent:bench", "operate", "bench", daemon.state_dir, is_agent=True)
    run = daemon.runs.pursue(GOAL, Wanted(limits=Limits(steps=10 * STEPS)), caller)["id"]  # pyright: ignore[reportCallIssue] - its fields have defaults
    view = await daemon.runs.wait(run, 600)
    if view["state"] != "succeeded" or len(view["steps"]) != STEPS:
        raise AgentdError(f"The run was not what is measured: {view['state']}, {view['reason']}")


class _Bare:
    """pydantic-ai's agent over an endpoint, with nothing around it."""

    def __init__(self, url: str) -> None:
        self._url = url

    async def __aenter__(self) -> _Bare:
        import aiohttp

        self._session = aiohttp.ClientSession()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def run(self) -> None:
        from pydantic_ai import Agent
        from pydantic_ai.models.function import FunctionModel

        agent = Agent(FunctionModel(self._ask), output_type=str)

        @agent.tool_plain
        def echo(text: str) -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
            """Say a text back."""
            return {"text": text}

        if (await agent.run(GOAL)).output != "All were echoed.":
            raise AgentdError("The bare agent's run was not what is measured")

    async def _ask(self, messages: list[Any], info: Any) -> Any:
        from pydantic_ai.messages import ModelResponse

        from agentd.agent import wire

        body = {**wire.chat(messages, "", info.function_tools, "native"), "model": "m"}
        async with self._session.post(f"{self._url}/chat/completions", data=json.dumps(body)) as answer:
            reply = await answer.json()
        return ModelResponse(wire.parts_of(reply["choices"][0]["message"], "native"))


def _config(folder: Path, url: str) -> Config:
    return Config(
        state_dir=folder / "state",
        cache_dir=load_config().cache_dir,
        roots=(ROOT,),
        models=(Model(name="scripted", kind="local", endpoint=url, capabilities=("tools",)),),
        policy="reading",
        budget=Budget(per_day_usd=None, per_month_usd=None),
    )
