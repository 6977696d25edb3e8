"""Many questions at a time, each once, and none that was answered before."""

from __future__ import annotations

import asyncio
import os
import random
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from asking import Asker
from failures import Hopeless, RowFailed
from kept import Answers, Reply
from progress import Meter
from questions import Question, base_url_of


@dataclass
class Desk:
    """Puts questions, many at a time, each key once; what was answered before is not asked."""

    asker: Asker
    answers: Answers
    concurrency: int
    unserved: Mapping[str, str] = field(default_factory=dict[str, str])
    used: set[str] = field(default_factory=set[str])
    asked: int = 0
    asked_tokens: int = 0
    spent: list[Reply] = field(default_factory=list[Reply])

    async def ask(self, questions: Sequence[Question], unit: str) -> list[Reply]:
        """A reply to each, in order, one with "error" where there is no answer. Raises `Hopeless`."""
        found: dict[str, Reply] = {}
        waiting: deque[Question] = deque()
        for question in {question.key: question for question in questions}.values():
            if known := self.answers.find(question.key):
                found[question.key] = known | {"cached": True}
            else:
                waiting.append(question)
        self.check_served(waiting, len(found), unit)
        meter = Meter(unit, len(found) + len(waiting), len(found))

        async def work() -> None:
            while waiting:
                question = waiting.popleft()
                found[question.key] = reply = await self.put(question)
                meter.count(reply)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(self.concurrency, len(waiting))):
                group.create_task(work())
        self.used |= found.keys()
        return [found[question.key] for question in questions]

    def check_served(self, waiting: Iterable[Question], kept: int, unit: str) -> None:
        """Raise `Hopeless` if a model would have to be asked that is not there."""
        missing = [question.body["model"] for question in waiting if question.body["model"] in self.unserved]
        if missing:
            model = self.unserved[missing[0]]
            raise Hopeless(
                f"{model!r} is not being served, and of {len(missing) + kept} {unit} only {kept} were kept",
                f"agentd call serve model={model}, then evaluate again",
            )

    async def put(self, question: Question) -> Reply:
        try:
            reply = await self.asker.ask(question.body)
        except RowFailed as error:
            return {"error": str(error)}
        self.answers.keep(question.key, reply)
        self.asked += 1
        self.asked_tokens += reply["output_tokens"]
        self.spent.append(reply)
        return reply


async def desk_of(spec: Mapping[str, Any], answers: Answers, stack: AsyncExitStack) -> Desk:
    import httpx

    key = os.environ.get(spec.get("key_env") or "AGENTD_GATEWAY_KEY", "")
    concurrency = max(1, spec.get("concurrency", 16))
    http = httpx.AsyncClient(
        base_url=base_url_of(spec) + "/",
        # A proxy from the environment is meant for the world outside, not for the daemon's gateway.
        trust_env=bool(spec.get("base_url")),
        headers={"Authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(spec.get("timeout_s", 120), connect=10),
        limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
    )
    await stack.enter_async_context(http)
    jitter = random.Random(spec.get("seed", 0))
    return Desk(
        Asker(http, spec.get("retries", 4), spec.get("patience_s", 120), jitter),
        answers,
        concurrency,
        spec.get("unserved", {}),
    )
