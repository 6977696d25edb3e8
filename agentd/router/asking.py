"""Ask the models of a route one after the other until one answers, and meter each attempt before it leaves.

The next is asked when a model cannot be reached, is busy, rests, fails or sends garbage, and not for a
request that is itself at fault. The last one is asked again, after a moment, only where it surely did nothing
the first time. What is asked, and what counts as an answer, is the caller's: see `Ask`.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from agentd.errors import AgentdError, InputError, OverBudget, Unavailable
from agentd.router.decide import NO_PRICE, Candidate, Route
from agentd.router.faults import UpstreamError
from agentd.router.health import Fleet
from agentd.router.inquiry import Asked
from agentd.router.metering import Attempt, Metering
from agentd.router.targets import Serving, Target, target_of

__all__ = ["Ask", "Asking", "NotEnough", "status_of"]

T = TypeVar("T")

RETRIES = 2
LONGEST_WAIT_S = 5.0
CLIENT_GONE = "ClientGone: whoever asked has left"
TOO_LONG = ("context_length_exceeded", "maximum context length", "context window", "prompt is too long")

Ask = Callable[[Target, Attempt, bool], Awaitable[T]]
"""Asks one model, and notes its usage on the attempt; told whether it is the last that there is."""


class NotEnough(Exception):
    """A model answered, and a better one is to be asked. `reply` is what `model` said."""

    def __init__(self, message: str, model: str, reply: Mapping[str, object]) -> None:
        super().__init__(message)
        self.message, self.model, self.reply = message, model, reply


class Asking(Generic[T]):
    """`discard` lets go of an answer that came too late to count."""

    def __init__(
        self, metering: Metering, fleet: Fleet, serving: Serving, ask: Ask[T], discard: Callable[[T], None]
    ) -> None:
        self._metering, self._fleet, self._serving = metering, fleet, serving
        self._ask, self._discard = ask, discard

    async def first(self, asked: Asked, hedge_s: float = 0.0) -> tuple[Attempt, T]:
        """The first answer, from whom it is. Raises what the last model said.

        Those that did not answer are noted on `asked`. After `hedge_s` the next model is asked as well.
        """
        order = asked.route.order
        if not hedge_s or len(order) < 2:
            return await self._one_of(asked, order)
        tasks = [asyncio.create_task(self._one_of(asked, order[:1], keeps_on=False), name="first")]
        try:
            await asyncio.wait(tasks, timeout=hedge_s)
            if tasks[0].done() and (error := tasks[0].exception()) is not None and not moves_on(error):
                return tasks[0].result()
            if not tasks[0].done() or tasks[0].exception() is not None:
                tasks.append(asyncio.create_task(self._one_of(asked, order[1:]), name="hedge"))
            return await self._race(asked, tasks)
        except BaseException:
            await _end(tasks)
            raise

    async def _race(
        self, asked: Asked, tasks: Sequence[asyncio.Task[tuple[Attempt, T]]]
    ) -> tuple[Attempt, T]:
        """What the first that succeeds came to; the others are ended, and cost what was held for them."""
        waiting = set(tasks)
        while waiting:
            _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            winner = next((each for each in tasks if each.done() and each.exception() is None), None)
            if winner is None:
                continue
            await _end([each for each in tasks if each is not winner])
            for late in tasks:
                if late is not winner and not late.cancelled() and late.exception() is None:
                    attempt, reply = late.result()
                    self._discard(reply)
                    attempt.end(whole=False)
                    asked.note(attempt, "Hedged: another answered first")
                    self._fleet.leave(attempt.model.name)
            return winner.result()
        return tasks[-1].result()

    async def _one_of(
        self, asked: Asked, order: Sequence[Candidate], *, keeps_on: bool = True
    ) -> tuple[Attempt, T]:
        """Without `keeps_on` there are others that can be asked, and nothing is tried twice."""
        waiting, tries = list(order), 0
        problem: AgentdError | None = None
        spare: NotEnough | None = None
        while waiting:
            candidate, is_last = waiting.pop(0), keeps_on and not waiting
            name = candidate.model.name
            if why := self._unasked(candidate, is_last):
                asked.route.passed[name] = why
                if not asked.attempts:
                    rest_s = self._fleet.rests(name)
                    problem = Unavailable(f"Model {name!r} is not asked: {why}", retry_after_s=rest_s or 1.0)
                continue
            made = len(asked.attempts)
            try:
                return await self._attempt(asked, candidate, is_last=is_last)
            except NotEnough as error:
                spare = error
            except AgentdError as error:
                problem = error
                if len(asked.attempts) == made:
                    asked.route.passed[name] = error.message
                if not moves_on(error):
                    if spare is None:
                        raise
                    break
                if is_last and tries < RETRIES and (wait := _wait(error, tries)) is not None:
                    tries += 1
                    waiting.append(candidate)
                    await asyncio.sleep(wait)
        raise spare or problem or _nobody(asked.route)

    def _unasked(self, candidate: Candidate, is_last: bool) -> str:
        name = candidate.model.name
        if rest_s := self._fleet.rests(name):
            return f"it rests for {rest_s:.0f} s more: {self._fleet.of(name).problem}"
        return "it is busy" if not is_last and self._fleet.is_full(candidate.model) else ""

    async def _attempt(self, asked: Asked, candidate: Candidate, *, is_last: bool) -> tuple[Attempt, T]:
        model, inquiry = candidate.model, asked.inquiry
        target = target_of(model, self._serving)
        attempt = self._metering.begin(model, inquiry.api, inquiry.body, inquiry.caller)
        attempt.why = f"{candidate.why}; served here by {target.service}" if target.service else candidate.why
        try:
            await self._fleet.enter(model)
        except BaseException as error:
            attempt.end(cost_nothing=True)
            asked.note(attempt, status_of(error))
            if isinstance(error, TimeoutError):
                raise Unavailable(f"Model {model.name!r} is busy", retry_after_s=1.0) from None
            raise
        try:
            return attempt, await self._ask(target, attempt, is_last)
        except BaseException as error:
            attempt.end(cost_nothing=_cost_nothing(error))
            asked.note(attempt, status_of(error))
            self._failed(attempt, error)
            self._fleet.leave(model.name)
            raise

    def _failed(self, attempt: Attempt, error: BaseException) -> None:
        name = attempt.model.name
        if isinstance(error, NotEnough):
            self._fleet.answered(name, time.monotonic() - attempt.began, attempt.usage.output)
        elif isinstance(error, UpstreamError) and not moves_on(error):
            self._fleet.refused(name)
        elif isinstance(error, UpstreamError):
            rest_s = error.retry_after_s if error.status in (429, 503) else None
            self._fleet.failed(name, error.message, rest_s)
        elif isinstance(error, AgentdError):
            self._fleet.failed(name, error.message)


async def _end(tasks: Sequence[asyncio.Task[T]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def status_of(error: BaseException) -> str:
    """How a request that ended so is remembered: ``Kind: what was said``."""
    if isinstance(error, GeneratorExit | asyncio.CancelledError):
        return CLIENT_GONE
    return f"{type(error).__name__}: {error}"


def moves_on(error: BaseException) -> bool:
    """Whether another model may do better: not where the request is at fault."""
    if isinstance(error, UpstreamError):
        said = error.message.lower()
        return error.status not in (400, 413, 422) or any(words in said for words in TOO_LONG)
    return isinstance(error, Unavailable | OverBudget | NotEnough)


def _nobody(found: Route) -> AgentdError:
    """What is said when nobody of a route could be asked."""
    reasons = "; ".join(f"{name}: {why}" for name, why in found.passed.items())
    if len(found.passed) == 1:
        [(name, why)] = found.passed.items()
        if why == NO_PRICE:
            return Unavailable(
                f"What {name!r} costs is not known, so it is not asked",
                hint="Set input_ and output_micro_usd_per_mtok of it in agentd.toml; 0 is free",
            )
        return InputError(f"Model {name!r} cannot answer this: {why}")
    return InputError(f"No model of {found.asked!r} can answer this: {reasons}")


def _wait(error: AgentdError, tries: int) -> float | None:
    """Seconds after which the same model may be asked again; None where that is not safe, or too long."""
    if not _cost_nothing(error) or isinstance(error, OverBudget):
        return None
    if isinstance(error, UpstreamError) and error.status not in (429, 503):
        return None
    if isinstance(error, Unavailable) and not error.__cause__:
        return None  # not served, no key: a moment changes nothing
    said: float | None = getattr(error, "retry_after_s", None)
    wait = 0.2 * 2**tries * (0.5 + random.random()) if said is None else said
    return wait if wait <= LONGEST_WAIT_S else None


def _cost_nothing(error: BaseException) -> bool:
    """Whether an attempt surely cost nothing: refused by the endpoint, or no connection."""
    if isinstance(error, UpstreamError):
        return error.status < 500 or (error.status == 503 and error.retry_after_s is not None)
    return isinstance(error, Unavailable)
