"""What only the texts of requests can tell a rollout: what is asked, what a judge says of the answers.

Texts are looked at and let go: measures of a question, how far it is from the suite's rows, and a judge's
rating are all that is left of them. A judge is asked behind the answers, a few at a time, for a share of
them, on the budget of ``judge:ALIAS``; never about what a client asked not to keep.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agentd.errors import AgentdError
from agentd.ids import new_id
from agentd.policy.callers import Caller
from agentd.router.inquiry import Inquiry
from agentd.router.judging import loss_in, question
from agentd.router.rollouts import NO_TRAFFIC, Live, Rollouts
from agentd.router.sequential import Guard
from agentd.router.tasks import question_of
from agentd.router.traffic import answer_of, is_drawn
from agentd.store.requests import RequestRow

__all__ = ["Watching"]

AT_ONCE = 4
FEWEST_ROWS = 20
THUMBS = {"up": 0.0, "down": 1.0}
MOST_RATED = 10_000

Answer = Callable[[Inquiry], Awaitable[dict[str, Any]]]
Embed = Callable[[str], Awaitable[Sequence[float] | None]]
"""The vector of a text; None where no embedder is served."""


class Watching:
    """Also the `router.traffic.Reader` of what passes the gateway. Its own calls come from `folder`."""

    def __init__(self, rollouts: Rollouts, answer: Answer, embed: Embed, folder: Path) -> None:
        self._rollouts, self._answer, self._embed, self._folder = rollouts, answer, embed, folder
        self._tasks: set[asyncio.Task[None]] = set()
        self._rated: dict[str, None] = {}
        self._centres: dict[str, Sequence[float]] = {}

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def wants(self, inquiry: Inquiry) -> bool:
        """Whether the answer's text is to be handed in."""
        live = self._of(inquiry)
        return live is not None and live.plan.judge is not None and inquiry.keep

    def answered(self, inquiry: Inquiry, row: RequestRow, text: str | None) -> None:
        """An alias has answered; `text` is None where it was not wanted, or is no text."""
        live = self._of(inquiry)
        if live is None:
            return
        asked = question_of(inquiry.body)
        self._rollouts.read(live.row.alias, asked)
        if live.plan.samples and is_drawn(f"{inquiry.id} distance", live.plan.limits.judge_share):
            self._later(self._measure(live, asked))
        if text and inquiry.keep and not row.trace.get("cached"):
            self._maybe_judge(live, inquiry.id, row.model, asked, text)

    def shadowed(self, inquiry: Inquiry, alias: str, model: str, reply: Mapping[str, Any]) -> None:
        """A shadow has answered what an alias was asked."""
        live, answer = self._rollouts.of(alias), answer_of(reply)
        if live is not None and answer is not None and inquiry.keep and model == live.row.model:
            self._maybe_judge(live, inquiry.id, model, question_of(inquiry.body), answer[0])

    def rated(self, row: RequestRow, verdict: str) -> None:
        """A client has rated an answer; its first word counts."""
        if row.id in self._rated or verdict not in THUMBS or self._rollouts.of(row.asked) is None:
            return
        self._rated[row.id] = None
        if len(self._rated) > MOST_RATED:
            self._rated.pop(next(iter(self._rated)))
        self._rollouts.saw(row.asked, "feedback", THUMBS[verdict], row.model)

    # --- parts ------------------------------------------------------------------------------

    def _of(self, inquiry: Inquiry) -> Live | None:
        if inquiry.api != "chat/completions" or inquiry.caller.principal.startswith(NO_TRAFFIC):
            return None
        return self._rollouts.of(str(inquiry.body.get("model", "")))

    def _later(self, work: Any) -> None:
        if len(self._tasks) >= AT_ONCE:
            work.close()
            return
        task = asyncio.create_task(work, name="watching")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _maybe_judge(self, live: Live, request_id: str, model: str, asked: str, text: str) -> None:
        """As many answers of either model: a share of the rarer one's."""
        judge, arm = live.plan.judge, live.arm(model)
        share = live.plan.limits.judge_share
        if arm is False:
            share *= min(1.0, 1 / live.stage.odds) if live.stage.odds else 1.0
        if judge is not None and arm is not None and is_drawn(f"{request_id} judge", share):
            self._later(self._judge(live, judge, model, asked, text))

    async def _judge(self, live: Live, judge: Mapping[str, Any], model: str, asked: str, text: str) -> None:
        caller = Caller(f"judge:{live.row.alias}", "infer", "daemon", self._folder, is_agent=True)
        inquiry = Inquiry(question(judge, asked, text), caller, id=new_id("req"), keep=False)
        with contextlib.suppress(AgentdError):  # its row says what became of it
            said = answer_of(await self._answer(inquiry))
            loss = loss_in(judge, said[0]) if said else None
            if loss is not None:
                self._rollouts.saw(live.row.alias, "judge", loss, model)

    async def _measure(self, live: Live, text: str) -> None:
        """How far a question is from the middle of the suite's rows, as 0 … 1 of what is possible."""
        with contextlib.suppress(AgentdError):
            if (centre := await self._centre(live)) is None or not text:
                return
            vector = await self._embed(text)
            if vector is not None:
                self._rollouts.saw(live.row.alias, "distance", _apart(vector, centre), live.row.model)

    async def _centre(self, live: Live) -> Sequence[float] | None:
        """The middle of the suite's vectors; found once, with what the suite's own rows are from it."""
        if live.row.id in self._centres:
            return self._centres[live.row.id]
        vectors = [vector for text in live.plan.samples if (vector := await self._embed(text)) is not None]
        if len(vectors) < FEWEST_ROWS:
            return None
        units = [[part / (_length(vector) or 1.0) for part in vector] for vector in vectors]
        centre = [sum(column) / len(units) for column in zip(*units, strict=True)]
        if "distance" not in live.watched.guards:
            guard = Guard.mean(live.plan.limits.distance_margin)
            guard.stage(0.0)
            for vector in vectors:
                guard.see(_apart(vector, centre), candidate=False)
            guard.stage(0.0, alone=True)
            live.watched.guards["distance"] = guard
        self._centres[live.row.id] = centre
        return centre


def _apart(one: Sequence[float], two: Sequence[float]) -> float:
    """0 for the same direction, 1 for the opposite one."""
    size = _length(one) * _length(two)
    cosine = sum(a * b for a, b in zip(one, two, strict=True)) / size if size else 0.0
    return (1 - max(-1.0, min(1.0, cosine))) / 2


def _length(vector: Sequence[float]) -> float:
    return math.sqrt(sum(part * part for part in vector))
