"""Tools on a real daemon's state, called as the kernel calls them; nothing is launched."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.config import Config
from agentd.context import Context
from agentd.daemon import Daemon
from agentd.policy.callers import Caller
from agentd.sdk import Finished, Launch

OpenDaemon = Callable[..., Daemon]
SUITE = """\
suite: capitals
description: d
inclusion: i
source: s
licence: CC0-1.0
data: capitals.jsonl
metric: exact_match
scorer: exact_text
"""


@pytest.fixture
def open_daemon(tmp_path: Path) -> Iterator[OpenDaemon]:
    """``open_daemon(models=…, roots=…)``: a daemon on the test's state directory that is not started."""
    opened: list[Daemon] = []

    def make(**settings: Any) -> Daemon:
        config = Config(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache", **settings)
        opened.append(Daemon(config, url="http://127.0.0.1:9"))
        return opened[-1]

    yield make
    for daemon in opened:
        asyncio.run(daemon.aclose())


@pytest.fixture
def daemon(open_daemon: OpenDaemon) -> Daemon:
    return open_daemon()


@pytest.fixture
def ctx(daemon: Daemon, tmp_path: Path) -> Context:
    return context_of(daemon, tmp_path)


def context_of(daemon: Daemon, cwd: Path) -> Context:
    return daemon.calls.context(Caller("user:ann", "operate", "cli", cwd, is_agent=False))


def call(ctx: Context, tool: str, **arguments: Any) -> Any:
    """Call a tool's handler with its defaults."""
    found = ctx.plugins.tools()[tool]  # type: ignore[attr-defined]
    checked = found.arguments(**arguments)
    values = {name: getattr(checked, name) for name in type(checked).model_fields}
    return asyncio.run(found.handler(ctx, **values))


def finish(
    ctx: Context, tool: str, launch: Launch, out: Path, result: dict[str, Any], job: str = "job-1"
) -> Any:
    """What a tool makes of a job that succeeded, `out` being what its recipe left."""
    made = ctx.plugins.tools()[tool]  # type: ignore[attr-defined]
    answer = made.on_done(ctx, Finished(job, launch.spec, result, out, 1.0))
    assert not made.gives or answer.keys() <= set(made.gives), "plans are refused what is not in `gives`"
    return answer
