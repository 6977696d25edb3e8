"""A real daemon on a folder of its own: real SQLite, real processes, the tools of ``tests/root``."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from agentd.config import Budget, Config
from agentd.daemon import Daemon
from agentd.policy.callers import Caller
from agentd.sdk import JobView

# How long an example takes says more about the machine than about the code.
settings.register_profile("agentd", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("agentd")

ROOT = Path(__file__).parent / "root"
CACHE = Path(os.environ.get("AGENTD_CACHE") or Path(__file__).parents[1] / "build" / "cache")

Until = Callable[..., Awaitable[JobView]]


def load(path: Path) -> ModuleType:
    """A file that no package holds, such as a recipe, as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def load_recipe(folder: Path) -> SimpleNamespace:
    """The modules of a recipe that is a folder, by name. Other recipes may have modules of these names."""
    names = [path.stem for path in folder.glob("*.py") if path.stem != "__main__"]
    others = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(folder))
    try:
        return SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(folder))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(others)


class Boot:
    """``await boot(policy=…)`` starts a daemon; ``await boot.stop(daemon)`` ends it, and its jobs go on."""

    def __init__(self, config: Callable[..., Config]) -> None:
        self._config = config
        self.running: list[Daemon] = []

    async def __call__(self, *, url: str = "http://127.0.0.1:1", **changes: Any) -> Daemon:
        daemon = Daemon(self._config(**changes), url=url)
        self.running.append(daemon)
        await daemon.start()
        return daemon

    async def stop(self, daemon: Daemon) -> None:
        self.running.remove(daemon)
        await daemon.aclose()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Config]:
    """``config(policy="asking", …)``: the settings of a test's daemon; nothing limits what it may spend."""

    def make(**changes: Any) -> Config:
        settings: dict[str, Any] = {
            "state_dir": tmp_path / "state",
            "cache_dir": CACHE,
            "roots": (ROOT,),
            "policy": "open",
            "prices": "dollar_a_second",
            "budget": Budget(per_day_usd=None, per_month_usd=None),
        }
        return Config(**(settings | changes))

    return make


@pytest.fixture
async def boot(config: Callable[..., Config]) -> AsyncIterator[Boot]:
    """Daemons on the test's state directory. Whatever they left running is ended after the test."""
    boot = Boot(config)
    yield boot
    for daemon in boot.running or [await boot()]:
        for job in daemon.jobs.list(state="live"):
            await daemon.jobs.cancel(job.id)
        await daemon.aclose()


@pytest.fixture
async def daemon(boot: Boot) -> Daemon:
    return await boot()


@pytest.fixture
def agent(tmp_path: Path) -> Caller:
    """A program that acts for somebody. It may do anything, but not approve."""
    return Caller("agent:ada", "admin", "mcp", tmp_path, is_agent=True)


@pytest.fixture
def person(tmp_path: Path) -> Caller:
    return Caller("user:ada", "admin", "cli", tmp_path, is_agent=False)


@pytest.fixture
def until() -> Until:
    """``await until(daemon, job_id, state="running")``: the job once a field of its view has that value."""

    async def wait(daemon: Daemon, job_id: str, **wanted: Any) -> JobView:
        async for view in daemon.jobs.follow(job_id):
            if all(getattr(view, name) == value for name, value in wanted.items()):
                return view
        raise AssertionError(f"{job_id} never was {wanted}: {daemon.jobs.get(job_id)}")

    return wait
