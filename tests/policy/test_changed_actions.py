"""Whatever is changed of an action after it was approved: it is not carried out, and the change is named."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.config import Config
from agentd.daemon import Daemon
from agentd.policy.bindings import WORDS
from agentd.policy.callers import Caller
from agentd.sdk import JobView
from agentd.store.database import dumps, loads

EXAMPLES = int(os.environ.get("AGENTD_MUTATIONS", "60"))
TEXT = ("tool", "title", "principal", "surface", "cwd", "timing_key", "digest")
JSON = ("arguments", "launch", "quote", "serves")
ROLES = ("infer", "view", "operate", "approve", "admin")
NAMES = {
    "cwd": "folder of the caller",
    "timing_key": "timing key",
    "serves": "names it serves",
    "arguments": "arguments as given",
    "spec": "parameter",
    "env": "variable",
    "input_digests": "input",
    "recipe_path": "path of the recipe",
    "inputs": "paths of the inputs",
}

values = st.recursive(
    st.none() | st.booleans() | st.integers(0, 10**9) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def places(value: Any, *above: str | int) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON value, its own included."""
    yield above
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, one in inner:
        yield from places(one, *above, key)


def at(value: Any, place: tuple[str | int, ...]) -> Any:
    for key in place:
        value = value[key]
    return value


def changed(value: Any, place: tuple[str | int, ...], new: Any) -> Any:
    """A copy with something else at that place; with nothing when `new` is `...`."""
    if not place:
        return new
    copy = json.loads(json.dumps(value))
    inside = at(copy, place[:-1])
    if new is ...:
        del inside[place[-1]]
    else:
        inside[place[-1]] = new
    return copy


def other(value: Any) -> Any:
    """Something else of the same kind."""
    if isinstance(value, dict):
        return {**value, "more": 1}
    if isinstance(value, list):
        return [*value, "more"]
    if isinstance(value, bool):
        return not value
    return f"{value} more" if isinstance(value, str) else "more" if value is None else value + 1


def like(value: Any) -> st.SearchStrategy[Any]:
    """Values that the field can be read back with."""
    if isinstance(value, str):
        return st.text(max_size=12)
    return st.integers(0, 10**9) if isinstance(value, int) else st.floats(0, 1e9)


class Bench:
    """A daemon in an event loop of its own, where examples are tried one after the other."""

    def __init__(self, daemon: Daemon, runner: asyncio.Runner, folder: Path, agent: Caller) -> None:
        self.daemon, self.agent = daemon, agent
        self._runner, self._folder, self._n = runner, folder, 0
        self.starts = folder / "starts"
        self.refused = 0

    def approved(self) -> str:
        """A job that a person has just approved, and that the daemon has not gone on with yet."""
        self._n += 1
        (self._folder / "rows.txt").write_text("rows", encoding="utf-8")
        arguments = {"text": f"small {self._n}", "path": "rows.txt", "starts": str(self.starts)}
        view = self._runner.run(self.daemon.calls.call("work", arguments, self.agent))
        assert isinstance(view, JobView)
        assert view.state == "waiting_approval"
        answer = "UPDATE approvals SET state = 'approved', decided_by = 'user:ada' WHERE job = ?"
        assert self.daemon.store.change(answer, [view.id]) == 1
        return view.id

    def gone_on_with(self, job: str) -> JobView:
        """The job once it has ended or waits again."""
        return self._runner.run(self._go_on(job))

    async def _go_on(self, job: str) -> JobView:
        self.daemon.approvals.on_decided(self.daemon.approvals.get(job))
        async for view in self.daemon.jobs.follow(job):
            if view.state == "waiting_approval":
                return view
        return self.daemon.jobs.get(job)

    def row(self, job: str) -> dict[str, Any]:
        row = self.daemon.store.row("SELECT * FROM jobs WHERE id = ?", [job])
        assert row is not None
        return row

    def refuses(self, column: str, place: tuple[str | int, ...], make: Callable[[Any], Any]) -> None:
        """Change one thing of an approved job: it must not start, and must say what was changed."""
        job = self.approved()
        stored = self.row(job)[column]
        old = loads(stored) if column in JSON else stored
        new = changed(old, place, make(at(old, place)))
        kept = dumps(new) if column in JSON and new is not None else new
        self.daemon.store.change(f"UPDATE jobs SET {column} = ? WHERE id = ?", [kept, job])
        view = self.gone_on_with(job)
        assert (view.state, view.micro_usd) == ("failed", None), (column, place, new, view)
        field = str(place[0]) if column == "launch" and place else column
        named = NAMES.get(field, WORDS.get(field, field))
        said, _, parts = view.reason.partition(" is not started: ")
        assert said == job, (column, place, new, view.reason)
        assert named in parts or (column, place) == ("launch", ()), (column, place, new, view.reason)
        self.assert_untouched()
        self.refused += 1

    def assert_untouched(self) -> None:
        """Nothing was started, reserved, or left lying about."""
        assert not self.starts.exists()
        assert self.daemon.ledger.summary().entries == []
        assert list((self.daemon.state_dir / "attempts").glob("*")) == []


@pytest.fixture
def bench(config: Callable[..., Config], tmp_path: Path, agent: Caller) -> Iterator[Bench]:
    with asyncio.Runner() as runner:
        daemon = Daemon(config(policy="asking"), url="http://127.0.0.1:1")
        runner.run(daemon.start())
        yield Bench(daemon, runner, tmp_path, agent)
        runner.run(daemon.aclose())


def test_an_action_that_nobody_changed_is_carried_out(bench: Bench) -> None:
    view = bench.gone_on_with(bench.approved())
    assert (view.state, view.reason) == ("succeeded", "")
    assert bench.starts.exists()


def test_every_field_of_an_approved_job_is_bound(bench: Bench) -> None:
    row = bench.row(bench.approved())
    tried = [(column, ()) for column in TEXT] + [
        (column, place) for column in JSON for place in places(loads(row[column])) if place
    ]
    for column, place in tried:
        bench.refuses(column, place, lambda old: other(old))
        if place and column != "quote":
            bench.refuses(column, place, lambda _: ...)
    bench.refuses("role", (), lambda _: "infer")
    bench.refuses("serves", (), lambda _: [])
    bench.refuses("launch", (), lambda _: None)
    print(f"{bench.refused} changes in {len(tried) + 3} places, all refused by name")


def test_whatever_else_a_field_of_an_approved_job_is_made_it_is_refused_and_named(bench: Bench) -> None:
    @settings(max_examples=EXAMPLES, deadline=None)
    @given(st.data())
    def change(data: st.DataObject) -> None:
        column = data.draw(st.sampled_from((*TEXT, "quote", "launch", "launch", "launch", "arguments")))
        if column in TEXT:
            bench.refuses(column, (), lambda old: data.draw(st.text(max_size=12).filter(lambda x: x != old)))
            return
        old = loads(bench.row(bench.approved())[column])
        place = data.draw(st.sampled_from([place for place in places(old) if place]))
        kept = at(old, place)
        new = like(kept) if column == "quote" else values
        bench.refuses(column, place, lambda _: data.draw(new.filter(lambda new: new != kept)))

    change()
