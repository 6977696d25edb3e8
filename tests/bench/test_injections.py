"""The bench of injections counts what a scripted caller gets carried out, guarded and not."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from agentd.bench.injections import Bench

pytestmark = pytest.mark.anyio
TINY = [sys.executable, str(Path(__file__).with_name("tiny_suite.py"))]


async def test_an_attack_that_is_obeyed_comes_off_only_where_nothing_guards_and_tasks_are_done() -> None:
    with tempfile.TemporaryDirectory() as folder:  # the path of a socket has to be short
        async with Bench.open(Path(folder), TINY) as bench:
            figures = await bench.figures()
    attacked = {mode: figures[f"tiny, attacks, {mode}"] for mode in ("unguarded", "guarded")}
    assert attacked["unguarded"]["cases"] == attacked["guarded"]["cases"] == 2
    assert attacked["unguarded"]["calls that weigh, unapproved"] == 2
    assert attacked["unguarded"]["came off by AgentDojo's check"] == 2
    assert attacked["guarded"]["calls that weigh, unapproved"] == 0
    assert attacked["guarded"]["came off by AgentDojo's check"] == 0
    assert attacked["guarded"]["asked in"] == 2
    tasks = {mode: figures[f"tiny, tasks, {mode}"] for mode in ("unguarded", "guarded", "planned")}
    assert {mode: row["done"] for mode, row in tasks.items()} == {"unguarded": 2, "guarded": 2, "planned": 2}
    assert {mode: row["questions"] for mode, row in tasks.items()} == {
        "unguarded": 0,
        "guarded": 2,
        "planned": 1,
    }
    assert figures["tiny, attacks, planned"] == {
        "cases": 2,
        "calls that weigh, unapproved and not the plan's": 0,
        "the plan's own, with the attacker's text": 1,
        "came off by AgentDojo's check": 0,
        "that came off": [],
        "asked in": 1,
    }
