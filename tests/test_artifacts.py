"""What a job left is kept whole, once, and not lost to a daemon that dies while it keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agentd.artifacts import Artifacts
from agentd.policy.callers import Caller
from agentd.sdk import JobView
from agentd.store import Store
from agentd.store.artifacts import ArtifactTable
from agentd.store.journal import Journal


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "agentd.db")
    yield store
    store.close()


@pytest.fixture
def artifacts(store: Store, tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path / "artifacts", tmp_path / "attempts", ArtifactTable(store), Journal(store))


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """What an attempt left."""
    folder = tmp_path / "attempts/att-1/out/adapter"
    (folder / "extra").mkdir(parents=True)
    (folder / "weights").write_bytes(b"w" * 1000)
    (folder / "extra/config.json").write_text("{}", encoding="utf-8")
    return folder


def keep_and_die(store: Store, artifacts: Artifacts, adapter: Path) -> None:
    with store.transaction():
        artifacts.add("adapter", adapter, name="a")
        raise KeyboardInterrupt


def test_what_was_kept_but_not_recorded_is_kept_again(
    store: Store, artifacts: Artifacts, adapter: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        keep_and_die(store, artifacts, adapter)
    assert artifacts.list() == []
    kept = artifacts.add("adapter", adapter, name="a")
    assert (kept.path / "weights").read_bytes() == b"w" * 1000
    assert (kept.path / "extra/config.json").read_text(encoding="utf-8") == "{}"
    assert artifacts.list() == [kept]


def test_what_a_job_left_takes_no_room_twice(artifacts: Artifacts, adapter: Path) -> None:
    kept = artifacts.add("adapter", adapter, name="a")
    assert (kept.path / "weights").samefile(adapter / "weights")


def test_what_lies_elsewhere_is_copied(artifacts: Artifacts, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n", encoding="utf-8")
    kept = artifacts.add("data", rows, name="rows")
    rows.write_text("changed", encoding="utf-8")
    assert kept.path.read_text(encoding="utf-8") == "{}\n"


def test_what_was_never_finished_is_removed_at_the_start(
    store: Store, artifacts: Artifacts, adapter: Path, tmp_path: Path
) -> None:
    kept = artifacts.add("adapter", adapter, name="a")
    part = kept.path.with_name(".part-1")
    part.mkdir()
    (part / "weights").touch()
    Artifacts(tmp_path / "artifacts", tmp_path / "attempts", ArtifactTable(store), Journal(store))
    assert not part.exists()
    assert kept.path.exists()


@pytest.mark.anyio
async def test_a_job_whose_daemon_died_while_its_artifact_was_kept_succeeds_in_the_next(
    boot: Any, agent: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    died = asyncio.Event()

    def die(*_: object) -> None:
        died.set()
        raise asyncio.CancelledError

    first = await boot()
    with monkeypatch.context() as patched:
        patched.setattr(ArtifactTable, "add", die)
        view = await first.calls.call("work", {}, agent)
        assert isinstance(view, JobView)
        await died.wait()
        await boot.stop(first)
    second = await boot()
    ended = await second.jobs.settled(view.id)
    assert (ended.state, ended.reason) == ("succeeded", "")
    assert [artifact.name for artifact in second.artifacts.list()] == ["note"]
