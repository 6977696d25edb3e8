"""A full disk: what must be written down is, nothing is started, and it is told once."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from agentd.daemon import Daemon
from agentd.disk import RESERVE, Room
from agentd.errors import DiskFull
from agentd.policy.callers import Caller
from agentd.sdk import JobView
from agentd.store import Store
from agentd.store.journal import Journal

MB = 1_000_000


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "none", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("only root can mount a small disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """A file that takes all the room there is."""
    path = folder / "hog"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError:
            return path


def write_until_full(journal: Journal) -> int:
    """How many entries of a kilobyte could be written."""
    for number in range(100_000):
        try:
            journal.append("thing.happened", str(number), "daemon", what="x" * 1000)
        except DiskFull:
            return number
    raise AssertionError("the disk was never full")


def test_the_journal_is_written_on_a_full_disk_until_the_reserve_is_used_up(small_disk: Path) -> None:
    room = Room(small_disk, reserve=4 << 20, low=0)
    store = Store(small_disk / "agentd.db", spare=room.give_up)
    journal = Journal(store)
    room.look(journal)
    hog = fill(small_disk)
    assert write_until_full(journal) > 500  # 344 if the log were not written back first
    assert (small_disk / RESERVE).stat().st_size == 0
    assert journal.verify().ok

    hog.unlink()
    journal.append("thing.happened", "again", "daemon")
    room.look(journal)
    assert (small_disk / RESERVE).stat().st_blocks * 512 >= 4 << 20
    store.close()


def test_without_a_reserve_the_journal_cannot_be_written_on_a_full_disk(small_disk: Path) -> None:
    store = Store(small_disk / "agentd.db")
    journal = Journal(store)
    fill(small_disk)
    assert write_until_full(journal) < 50
    store.close()


def free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Let the disk say that so many bytes are free."""
    monkeypatch.setattr(Room, "free", property(lambda _: size))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    store = Store(tmp_path / "agentd.db")
    yield Journal(store)
    store.close()


def test_low_room_is_journalled_once_and_so_is_its_return(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = Room(tmp_path, reserve=0, low=100 * MB)
    for size in (500, 99, 80, 110, 99, 130, 120):  # 110 is above, but not enough to be called back
        free(monkeypatch, size * MB)
        room.look(journal)
    told = [(entry.kind, entry.data["free"]) for entry in journal.tail(kind="disk.*")]
    assert told == [("disk.low", 99 * MB), ("disk.enough", 130 * MB)]


def test_a_reserve_is_not_what_fills_a_disk(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(monkeypatch, 5 * MB)
    Room(tmp_path, reserve=4 * MB, low=0).look(journal)
    assert not (tmp_path / RESERVE).exists()


@pytest.mark.anyio
async def test_nothing_is_launched_while_there_is_little_room(
    boot: Callable[..., Awaitable[Daemon]], agent: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await boot(disk_low_gb=0.2)
    free(monkeypatch, 150 * MB)
    with pytest.raises(DiskFull, match=r"needs 200 MB free in .* and 150 MB are"):
        await daemon.calls.call("work", {}, agent)
    assert daemon.jobs.list() == []
    free(monkeypatch, 250 * MB)
    view = await daemon.calls.call("work", {}, agent)
    assert isinstance(view, JobView)
    assert (await daemon.jobs.settled(view.id)).state == "succeeded"


@pytest.mark.anyio
async def test_a_job_that_waited_for_its_approval_is_not_launched_either(
    boot: Callable[..., Awaitable[Daemon]], agent: Caller, person: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await boot(policy="asking")
    view = await daemon.calls.call("work", {}, agent)
    assert isinstance(view, JobView)
    assert (await daemon.jobs.wait(view.id, 0.1)).state == "waiting_approval"
    free(monkeypatch, 1 * MB)
    [question] = daemon.approvals.list()
    await daemon.approvals.decide(question.id, "approve", person)
    ended = await daemon.jobs.settled(view.id)
    assert (ended.state, ended.cause) == ("failed", "disk_full")
    assert daemon.jobs.attempt_folder(view.id) is None
    assert daemon.ledger.open_of(view.id) == []
