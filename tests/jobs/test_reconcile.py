"""A database that is older than the folders beside it, and processes that nobody watches any more."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.daemon import Daemon
from agentd.jobs import reaper, shim
from agentd.jobs.reconcile import RESTORED
from agentd.policy.callers import Caller
from agentd.sdk import JobView

pytestmark = pytest.mark.anyio
Boot = Any
Until = Callable[..., Awaitable[JobView]]


async def launched(daemon: Daemon, caller: Caller, tool: str = "fail", **arguments: Any) -> str:
    view = await daemon.calls.call(
        tool, {"how": "hang", **arguments} if tool == "fail" else arguments, caller
    )
    assert isinstance(view, JobView)
    return view.id


def attempt_of(daemon: Daemon, job: str) -> Path:
    folder = daemon.jobs.attempt_folder(job)
    assert folder is not None
    return folder


def alive(folder: Path) -> dict[int, int]:
    return shim.members(folder.name)


def starts_in(path: Path) -> int:
    return len(path.read_text("utf-8").splitlines()) if path.exists() else 0


class Backup:
    """Copies of a state's database. The folders beside it stay as they are."""

    def __init__(self, state: Path, place: Path) -> None:
        self._database, self._place = state / "agentd.db", place

    def take(self) -> None:
        with contextlib.closing(sqlite3.connect(self._database)) as connection:
            connection.execute("VACUUM INTO ?", [str(self._place)])

    def put_back(self) -> None:
        for name in ("agentd.db", "agentd.db-wal", "agentd.db-shm"):
            self._database.with_name(name).unlink(missing_ok=True)
        shutil.copy(self._place, self._database)


# --- an older database, without a word of it --------------------------------------------------


async def test_a_launch_that_the_database_has_forgotten_is_ended_told_and_not_repeated(
    boot: Boot, agent: Caller, person: Caller, until: Until, tmp_path: Path
) -> None:
    daemon, starts = await boot(policy="asking_all"), tmp_path / "starts"
    job = await launched(daemon, agent, starts=str(starts))
    await boot.stop(daemon)
    backup = Backup(daemon.state_dir, tmp_path / "backup.db")
    backup.take()  # the question is open in it
    daemon = await boot(policy="asking_all")
    await daemon.approvals.decide(job, "approve", person)
    await until(daemon, job, progress={"message": "hanging"})
    folder = attempt_of(daemon, job)
    await boot.stop(daemon)
    backup.put_back()

    daemon = await boot(policy="asking_all")
    view = daemon.jobs.get(job)
    assert (view.state, view.cause) == ("lost", "restored")
    assert alive(folder) == {}
    assert daemon.approvals.list() == []
    found = next(e for e in daemon.journal.tail(50) if e.kind == "attempt.found")
    assert (found.subject, found.data["job"]) == (folder.name, job)
    assert view.micro_usd == daemon.ledger.entries(subject=job)[0].settled == found.data["micro_usd"]
    assert daemon.ledger.summary().day_reserved == 0
    await boot.stop(daemon)
    daemon = await boot(policy="asking_all")  # and it stays so
    assert (daemon.jobs.get(job).state, starts_in(starts)) == ("lost", 1)
    assert [e.kind for e in daemon.journal.tail(200)].count("attempt.found") == 1


async def test_an_approval_that_is_unused_in_the_older_database_starts_nothing_again(
    boot: Boot, agent: Caller, until: Until, tmp_path: Path
) -> None:
    daemon, starts, pipe = await boot(max_jobs=1), tmp_path / "starts", tmp_path / "pipe"
    os.mkfifo(pipe)
    before = await launched(daemon, agent, "work", hold=str(pipe))
    await until(daemon, before, state="running")
    job = await launched(daemon, agent, how="exit:0", times=0, starts=str(starts))
    await until(daemon, job, state="preparing")  # it is approved, and waits for its turn
    await boot.stop(daemon)
    backup = Backup(daemon.state_dir, tmp_path / "backup.db")
    backup.take()
    daemon = await boot()
    pipe.write_text("go on", encoding="utf-8")
    assert (await daemon.jobs.settled(job)).state == "succeeded"
    await boot.stop(daemon)
    backup.put_back()
    daemon = await boot()
    view = await daemon.jobs.settled(job)
    assert (view.state, view.cause, starts_in(starts)) == ("lost", "restored", 1)


async def test_a_job_that_the_database_never_knew_is_there_again_as_lost(
    boot: Boot, agent: Caller, until: Until, tmp_path: Path
) -> None:
    daemon = await boot()
    await boot.stop(daemon)
    backup = Backup(daemon.state_dir, tmp_path / "backup.db")
    backup.take()
    daemon = await boot()
    job = await launched(daemon, agent)
    await until(daemon, job, progress={"message": "hanging"})
    folder = attempt_of(daemon, job)
    go = shim.read_json(str(folder / "go"))
    assert go is not None
    await boot.stop(daemon)
    backup.put_back()
    daemon = await boot()
    view = daemon.jobs.get(job)
    assert (view.state, view.cause, view.title, view.attempt) == ("lost", "restored", "Fail by hang", 1)
    assert view.micro_usd is not None
    assert view.micro_usd > 0
    assert (alive(folder), shim.is_process(go["pid"], go["start_time"])) == ({}, False)
    assert daemon.jobs.logs(job) == []


async def test_what_was_written_and_never_launched_is_removed_with_a_shim_that_waits_in_it(
    boot: Boot, agent: Caller, tmp_path: Path
) -> None:
    daemon = await boot()
    orphan = daemon.state_dir / "attempts/att-orphan"
    orphan.mkdir(parents=True)
    (orphan / "launch.json").write_text("{}")
    await boot.stop(daemon)
    daemon = await boot()
    assert not orphan.exists()
    assert daemon.jobs.list() == []


async def test_a_folder_set_back_to_before_its_launch_is_not_launched_from_again(
    boot: Boot, agent: Caller, until: Until, tmp_path: Path
) -> None:
    daemon, starts = await boot(), tmp_path / "starts"
    job = await launched(daemon, agent, starts=str(starts))
    await until(daemon, job, progress={"message": "hanging"})
    folder = attempt_of(daemon, job)
    await boot.stop(daemon)
    for name in ("go", "lock", "stdout"):
        (folder / name).unlink()
    daemon = await boot()
    view = await daemon.jobs.settled(job)
    assert (view.state, view.cause, starts_in(starts)) == ("lost", "restored", 1)
    assert alive(folder) == {}


# --- told that it was restored ------------------------------------------------------------------


async def test_after_a_restore_nothing_goes_on_nothing_is_launched_and_no_approval_is_good(
    boot: Boot, agent: Caller, person: Caller, until: Until, tmp_path: Path
) -> None:
    daemon, starts = await boot(), tmp_path / "starts"
    running = await launched(daemon, agent, starts=str(starts))
    await until(daemon, running, progress={"message": "hanging"})
    queued = await launched(daemon, agent, how="exit:0", starts=str(starts))
    folder = attempt_of(daemon, running)
    plan = tmp_path / "plan.yaml"
    plan.write_text("plan: short\ngoal: work\nsteps:\n  - {id: one, tool: work, args: {text: x}}\n", "utf-8")
    run = daemon.runs.start(plan, {}, agent)["id"]
    await boot.stop(daemon)
    asking = await boot(policy="asking_all")
    waiting = await launched(asking, agent, starts=str(starts))
    await boot.stop(asking)
    (daemon.state_dir / RESTORED).write_text(json.dumps({"from": "backup.tar"}))

    daemon = await boot()
    views = {job: daemon.jobs.get(job) for job in (running, queued, waiting)}
    assert {job: (view.state, view.cause) for job, view in views.items()} == {
        running: ("lost", "restored"),
        queued: ("cancelled", "restored"),
        waiting: ("cancelled", "restored"),
    }
    assert alive(folder) == {}
    assert (daemon.ledger.summary().day_reserved, starts_in(starts)) == (0, 1)
    assert daemon.approvals.list() == []
    assert daemon.runs.view(run)["state"] == "stopped"
    assert not (daemon.state_dir / RESTORED).exists()
    entry = next(e for e in daemon.journal.tail(50) if e.kind == "state.set_back")
    assert entry.data["restored"] == {"from": "backup.tar"}
    later = await daemon.calls.call("fail", {"how": "exit:0", "times": 0}, agent)
    assert (await daemon.jobs.settled(later.id)).state == "succeeded"


async def test_a_copy_of_a_state_directory_leaves_the_jobs_of_the_first_alone(
    boot: Boot, config: Any, agent: Caller, until: Until, tmp_path: Path
) -> None:
    daemon = await boot()
    job = await launched(daemon, agent)
    await until(daemon, job, progress={"message": "hanging"})
    await boot.stop(daemon)
    copy = tmp_path / "copy"
    shutil.copytree(daemon.state_dir, copy)
    for restored in (False, True):
        if restored:
            (copy / RESTORED).write_text("{}")
        second = Daemon(config(state_dir=copy), url="http://127.0.0.1:1")
        await second.start()
        try:
            assert second.jobs.get(job).state == "lost"
            assert await second.jobs.reconciliation.reap() == []
        finally:
            await second.aclose()
    daemon = await boot()
    assert daemon.jobs.get(job).state == "running"
    assert alive(attempt_of(daemon, job)) != {}


# --- the reaper -----------------------------------------------------------------------------------

SLEEP = [sys.executable, "-c", "import signal; print(flush=True); signal.pause()"]


def sleeper(marks: dict[str, str]) -> subprocess.Popen[bytes]:
    """A process that carries these marks, with nobody to watch it."""
    process = subprocess.Popen(SLEEP, env={**os.environ, **marks}, stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def stray(folder: Path, attempt_id: str = "") -> subprocess.Popen[bytes]:
    return sleeper({shim.FOLDER_VARIABLE: str(folder), shim.ID_VARIABLE: attempt_id or folder.name})


async def test_processes_of_attempts_that_are_over_or_unknown_are_ended_and_nothing_else_is(
    daemon: Daemon, agent: Caller, until: Until, tmp_path: Path
) -> None:
    over = (await daemon.jobs.settled(await launched(daemon, agent, how="exit:0"))).id
    job = await launched(daemon, agent)
    await until(daemon, job, progress={"message": "hanging"})
    attempts = daemon.state_dir / "attempts"
    wanted = [stray(attempt_of(daemon, over)), stray(attempts / "att-nobody-knows")]
    others = [stray(attempt_of(daemon, job)), stray(tmp_path / "other/attempts/att-1", "att-nobody-knows")]
    try:
        pids = await daemon.jobs.reconciliation.reap()
        assert set(pids) == {process.pid for process in wanted}
        assert [process.wait(10) for process in wanted] == [-9, -9]
        assert [process.poll() for process in others] == [None, None]
        assert daemon.jobs.get(job).state == "running"
        told = [e.data["job"] for e in daemon.journal.tail(20) if e.kind == "attempt.reaped"]
        assert sorted(told, key=str) == sorted([over, None], key=str)
    finally:
        for process in (*wanted, *others):
            process.kill()
            process.communicate()


async def test_a_shim_that_stays_is_found_by_its_log(daemon: Daemon, agent: Caller, until: Until) -> None:
    job = await launched(daemon, agent)
    await until(daemon, job, progress={"message": "hanging"})
    folder = attempt_of(daemon, job)
    go = shim.read_json(str(folder / "go"))
    assert go is not None
    found = reaper.of_attempts(daemon.state_dir / "attempts")
    assert go["pid"] in found[folder.name]
    assert set(alive(folder)) <= set(found[folder.name])


async def test_what_built_environments_for_a_daemon_that_was_killed_is_ended_at_the_start(boot: Boot) -> None:
    daemon = await boot()
    await boot.stop(daemon)
    mine, other = (sleeper({reaper.BUILDER_VARIABLE: f"{daemon.state_dir}{end}"}) for end in ("", "2"))
    try:
        await boot()
        assert (mine.wait(10), other.poll()) == (-9, None)
    finally:
        for process in (mine, other):
            process.kill()
            process.communicate()
