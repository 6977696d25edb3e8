"""What is called while the daemon is killed: short jobs, trainings, and answers to what is asked."""

from __future__ import annotations

import asyncio
from typing import Any

from ground import Caller, Chaos


async def watch(chaos: Chaos, owner: Caller) -> None:
    """Keep `chaos.live` true, and answer what waits for a person, sometimes twice."""
    while True:
        views = (await owner.ask("GET", "/api/jobs?state=live&limit=1000")).json()
        for view in views:
            if view["state"] == "waiting_approval":
                for _ in range(chaos.rng.choice((1, 1, 2))):
                    await owner.ask("POST", f"/api/approvals/{view['approval']}", {"verdict": "approve"})
        chaos.live = {view["id"] for view in views}
        chaos.looked.set()
        chaos.looked = asyncio.Event()
        await asyncio.sleep(0.25)


async def gone(chaos: Chaos, job: str) -> None:
    """Until a list that was made after now no longer has the job."""
    await chaos.looked.wait()
    while True:
        await chaos.looked.wait()
        if job not in chaos.live:
            return


async def blink(chaos: Chaos, agent: Caller, numbers: list[int]) -> None:
    """One of several callers: take the next number, call, sometimes call again, wait for the end."""
    while numbers and not chaos.calm:
        number = numbers.pop()
        key = f"blink-{number}"
        arguments = {
            "number": number,
            "starts": str(chaos.starts),
            "ms": chaos.rng.choice((0, 0, 20, 100, 300)),
            "behaviour": chaos.rng.choices(("write", "fail", "litter"), (90, 5, 5))[0],
            "ask": chaos.rng.random() < 0.2,
            "attempts": chaos.rng.choice((1, 1, 1, 3)),
        }
        job = await agent.call("blink", key, **arguments)
        if chaos.rng.random() < 0.3:
            await agent.call("blink", key, **arguments)
        await gone(chaos, job)
        chaos.done += 1


async def train(chaos: Chaos, agent: Caller, numbers: list[int]) -> None:
    """One of the callers who train."""
    while numbers and not chaos.calm:
        number = numbers.pop()
        job = await agent.call("finetune", f"train-{number}", **training(number))
        await gone(chaos, job)
        chaos.trained += 1


def training(number: int, max_steps: int = 4) -> dict[str, Any]:
    return {
        "model": "tiny", "dataset": "rows.jsonl", "name": f"tiny-{number}", "batch_size": 4, "rank": 4,
        "max_steps": max_steps, "max_length": 64, "learning_rate": 0.02, "seed": number,
    }  # fmt: skip
