"""How models are doing: who rests after failures, how many requests are under way, what answers take.

After some failures in a row a model rests, each time twice as long; then one request tries it. A model that
says how long it wants to be left alone is left alone that long.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agentd.sdk import Model

__all__ = ["Fleet", "Health"]

FAILURES = 3
FIRST_REST_S = 5.0
LONGEST_REST_S = 60.0
SMOOTHING = 0.1


@dataclass(slots=True)
class Health:
    """One model. Times in seconds; `out` is the typical number of tokens that it answers with."""

    failures: int = 0
    trips: int = 0
    rests_until: float = 0.0
    probing: bool = False
    under_way: int = 0
    requests: int = 0
    errors: int = 0
    seconds: float | None = None
    first_s: float | None = None
    out: float | None = None
    problem: str = ""
    free: asyncio.Event = field(default_factory=asyncio.Event)


class Fleet:
    """The health of each model that was asked. `clock` gives seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of: dict[str, Health] = {}

    def of(self, name: str) -> Health:
        if name not in self._of:
            self._of[name] = Health()
        return self._of[name]

    def all(self) -> dict[str, Health]:
        return dict(self._of)

    def rests(self, name: str) -> float:
        """Seconds until it may be asked again; 0 if it may be now."""
        health = self._of.get(name)
        if health is None or not health.rests_until:
            return 0.0
        left = health.rests_until - self._clock()
        if left > 0:
            return left
        return 1.0 if health.probing else 0.0

    def is_full(self, model: Model) -> bool:
        return bool(model.concurrent) and self.of(model.name).under_way >= model.concurrent

    async def enter(self, model: Model) -> None:
        """Begin to ask it, when there is room. Raises `TimeoutError` after its `first_token_s`."""
        health = self.of(model.name)
        if self.is_full(model):
            async with asyncio.timeout(model.first_token_s):
                while self.is_full(model):
                    health.free.clear()
                    await health.free.wait()
        health.under_way += 1
        health.probing = bool(health.rests_until)

    def leave(self, name: str) -> None:
        """It answered, or failed; every `enter` is followed by this."""
        health = self._of[name]
        health.under_way -= 1
        health.probing = False
        health.free.set()

    def answered(self, name: str, seconds: float, tokens_out: int, first_s: float | None = None) -> None:
        health = self._of[name]
        health.requests += 1
        health.failures = health.trips = 0
        health.rests_until, health.problem = 0.0, ""
        health.seconds = _smoothed(health.seconds, seconds)
        if first_s is not None:
            health.first_s = _smoothed(health.first_s, first_s)
        if tokens_out:
            health.out = _smoothed(health.out, tokens_out)

    def refused(self, name: str) -> None:
        """It found fault with the request: it is well."""
        health = self._of[name]
        health.requests += 1
        health.failures, health.rests_until = 0, 0.0

    def failed(self, name: str, problem: str, rest_s: float | None = None) -> None:
        """It could not answer; `rest_s` is how long it said that it wants to be left alone."""
        health = self._of[name]
        health.requests += 1
        health.errors += 1
        health.failures += 1
        health.problem = problem
        if rest_s is None and health.failures >= FAILURES:
            rest_s = min(FIRST_REST_S * 2**health.trips, LONGEST_REST_S)
            health.trips += 1
        if rest_s:
            health.rests_until = self._clock() + rest_s


def _smoothed(before: float | None, value: float) -> float:
    return value if before is None else before + SMOOTHING * (value - before)
