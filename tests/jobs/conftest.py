"""Attempts of small stdlib payloads. Whatever a test leaves running is ended after it."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.jobs.attempts import Attempt, Observation

Prepare = Callable[..., Attempt]


@pytest.fixture
def prepare(tmp_path: Path) -> Iterator[Prepare]:
    """``prepare(source, **options)``: an attempt whose payload is that Python, not started yet."""
    made: list[Attempt] = []

    def make(source: str, **options: Any) -> Attempt:
        attempt = Attempt(tmp_path / f"{tmp_path.name}-{len(made)}")
        made.append(attempt)
        attempt.folder.mkdir()
        recipe = attempt.folder / "recipe.py"
        recipe.write_text(source, "utf-8")
        attempt.prepare({"n": 1}, attempt.argv(Path(sys.executable), recipe), **options)
        return attempt

    yield make
    for attempt in made:
        asyncio.run(attempt.kill_tree(grace_s=0))
        attempt.tidy()


@pytest.fixture
def run(prepare: Prepare) -> Callable[..., tuple[Attempt, Observation]]:
    """The same, run to its end."""

    def go(source: str, **options: Any) -> tuple[Attempt, Observation]:
        attempt = prepare(source, **options)
        return attempt, asyncio.run(attempt.run())

    return go


async def event(attempt: Attempt, name: str) -> dict[str, Any]:
    """The first event called `name`, once the payload has written it."""
    async with asyncio.timeout(20):
        while True:
            for found in attempt.events(0)[0]:
                if found["event"] == name:
                    return found
            await asyncio.sleep(0.01)


@pytest.fixture
def until_event() -> Callable[[Attempt, str], Any]:
    return event


@pytest.fixture
def edit() -> Callable[..., None]:
    """``edit(path, key=value)``: change a JSON file in place."""

    def change(path: Path, **values: Any) -> None:
        path.write_text(json.dumps({**json.loads(path.read_text("utf-8")), **values}), "utf-8")

    return change
