"""How many jobs may run at once. First come, first served."""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Slots"]


class Slots:
    """`limit` places. What was running before a restart takes one even if there is none left."""

    def __init__(self, limit: int) -> None:
        self._limit, self._taken = limit, 0
        self._waiting: deque[asyncio.Future[None]] = deque()

    @property
    def free(self) -> bool:
        return self._taken < self._limit and not self._waiting

    def take(self) -> None:
        """Take a place without waiting for one: the job runs already."""
        self._taken += 1

    def leave(self) -> None:
        self._taken -= 1
        self._hand_on()

    async def __aenter__(self) -> None:
        if self.free:
            self._taken += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.leave()  # it was our turn at that moment: the next one's, then
            else:
                self._waiting.remove(turn)
            raise

    async def __aexit__(self, *_: object) -> None:
        self.leave()

    def _hand_on(self) -> None:
        while self._waiting and self._taken < self._limit:
            self._taken += 1
            self._waiting.popleft().set_result(None)
