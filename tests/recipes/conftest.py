"""The real environment of each recipe, built once and kept in the cache the daemon uses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.jobs.environments import Environments

RECIPES = Path(__file__).parents[2] / "tools/recipes"


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The interpreter for a recipe's name."""
    cache = os.environ.get("AGENTD_CACHE") or tmp_path_factory.mktemp("environments")
    environments = Environments(Path(cache))

    def built(recipe: str) -> Path:
        lock = asyncio.run(environments.lock(RECIPES / f"{recipe}.py"))
        return asyncio.run(environments.build(lock))

    return built
