"""The real environment of each recipe, built once and kept in the cache the daemon uses."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agentd.jobs.environments import Environments
from agentd.jobs.recipes import find_recipe
from agentd.plugins import Plugins, bundled_root

SHIPPED = Plugins((bundled_root(),))


@pytest.fixture(scope="session")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The interpreter for a recipe's name."""
    cache = os.environ.get("AGENTD_CACHE") or tmp_path_factory.mktemp("environments")
    environments = Environments(Path(cache))

    def built(recipe: str) -> Path:
        lock = asyncio.run(environments.lock(find_recipe(SHIPPED, recipe)))
        return asyncio.run(environments.build(lock))

    return built
