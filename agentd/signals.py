"""Wake whoever waits for something to change. One loop, no threads."""

from __future__ import annotations

import asyncio

__all__ = ["Changes"]


class Changes:
    """A counter that can be waited on: read `version`, look at the world, then wait `after` it."""

    def __init__(self) -> None:
        self.version = 0
        self._event = asyncio.Event()

    def announce(self) -> None:
        """Something changed."""
        self.version += 1
        self._event.set()
        self._event = asyncio.Event()

    async def after(self, version: int) -> None:
        """Return once something has changed since `version` was read; at once if it already has."""
        while self.version <= version:
            await self._event.wait()
