"""What has to be looked after while the daemon lives, each chore at its own pace.

A chore that goes wrong is told in the log and done again at its next turn; the others go on.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable

from agentd.errors import AgentdError

__all__ = ["Caretaker"]

log = logging.getLogger(__name__)


class Caretaker:
    """Does chores on the event loop, short calls or coroutines."""

    def __init__(self) -> None:
        self._chores: list[tuple[float, Callable[[], object]]] = []
        self._tasks: list[asyncio.Task[None]] = []

    def every(self, seconds: float, chore: Callable[[], object]) -> None:
        """Do `chore` at once when it starts, and every so many seconds after that."""
        self._chores.append((seconds, chore))

    def start(self) -> None:
        for seconds, chore in self._chores:
            self._tasks.append(asyncio.create_task(_repeat(seconds, chore), name=f"care: {chore.__name__}"))

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _repeat(seconds: float, chore: Callable[[], object]) -> None:
    while True:
        try:
            done = chore()
            if inspect.isawaitable(done):
                await done
        except (AgentdError, OSError) as error:
            log.warning("%s: %s", chore.__name__, error)
        except Exception:
            log.exception("%s went wrong", chore.__name__)
        await asyncio.sleep(seconds)
