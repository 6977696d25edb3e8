"""A job from its launch to its end, whatever becomes of its processes or of the daemon."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.daemon import Daemon
from agentd.errors import Busy, InputError, NotFound, Unavailable
from agentd.jobs import shim
from agentd.policy.callers import Caller
from agentd.sdk import JobView
from agentd.server.app import bind
from agentd.store.jobs import JobTable

pytestmark = pytest.mark.anyio
Boot = Any
Until = Callable[..., Awaitable[JobView]]


async def launched(daemon: Daemon, caller: Caller, tool: str = "work", **arguments: Any) -> str:
    view = await daemon.calls.call(tool, arguments, caller)
    assert isinstance(view, JobView)
    return view.id


async def ended(daemon: Daemon, caller: Caller, **arguments: Any) -> JobView:
    return await daemon.jobs.settled(await launched(daemon, caller, **arguments))


def pipe(folder: Path) -> Path:
    """A job that is given it goes on once somebody has opened it for writing."""
    path = folder / "pipe"
    os.mkfifo(path)
    return path


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def tree_of(daemon: Daemon, job_id: str) -> dict[int, int]:
    folder = daemon.jobs.attempt_folder(job_id)
    assert folder is not None
    return shim.members(folder.name)


# --- ends -----------------------------------------------------------------------------------


async def test_a_failing_recipes_own_words_reach_the_job(daemon: Daemon, agent: Caller) -> None:
    view = await ended(daemon, agent, behaviour="refuse")
    assert (view.state, view.reason) == ("failed", "row 3 of train.jsonl is empty. Remove the row")
    assert f"job_logs(job={view.id!r})" in view.next


async def test_a_crash_is_told_with_its_last_line(daemon: Daemon, agent: Caller) -> None:
    view = await ended(daemon, agent, behaviour="crash")
    assert view.state == "failed"
    assert view.reason == "it exited with 1: RuntimeError: the disk is upside down"
    assert any("Traceback" in line for line in daemon.jobs.logs(view.id))


async def test_an_exit_without_a_result_is_a_failure(daemon: Daemon, agent: Caller) -> None:
    view = await ended(daemon, agent, behaviour="exit_quietly")
    assert (view.state, view.result) == ("failed", None)
    assert "exited with 0" in view.reason


async def test_a_payload_that_is_killed_is_a_failure_and_is_paid_for(
    daemon: Daemon, agent: Caller, until: Until, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    job = await launched(daemon, agent, behaviour="hang", starts=str(starts))
    await until(daemon, job, progress={"done": 1, "total": 2, "unit": "steps"})
    os.kill(int(lines(starts)[0]), signal.SIGKILL)
    view = await daemon.jobs.settled(job)
    assert (view.state, view.progress) == ("failed", {})
    assert "killed by signal 9" in view.reason
    assert view.micro_usd
    assert daemon.ledger.open_of(job) == []


async def test_what_runs_past_its_limit_is_ended_with_everything_it_started(
    daemon: Daemon, agent: Caller
) -> None:
    view = await ended(daemon, agent, behaviour="spawn_and_hang", timeout_s=1.0)
    assert view.state == "timed_out"
    assert "past its limit" in view.reason
    assert tree_of(daemon, view.id) == {}


async def test_cancelling_ends_the_whole_tree(daemon: Daemon, agent: Caller, until: Until) -> None:
    job = await launched(daemon, agent, behaviour="spawn_and_hang")
    async for view in daemon.jobs.follow(job):
        if "child" in view.progress:
            break
    assert view.progress["child"] in tree_of(daemon, job)
    cancelled = await daemon.jobs.cancel(job, "no longer needed")
    assert (cancelled.state, cancelled.reason) == ("cancelled", "no longer needed")
    assert tree_of(daemon, job) == {}
    assert (await daemon.jobs.cancel(job)).reason == "no longer needed"


async def test_an_attempt_that_is_over_leaves_no_secrets(daemon: Daemon, agent: Caller) -> None:
    view = await ended(daemon, agent)
    folder = daemon.jobs.attempt_folder(view.id)
    assert folder is not None
    assert not (folder / "secrets.json").exists()


async def test_an_unknown_job_is_answered_with_the_nearest_id(daemon: Daemon, agent: Caller) -> None:
    view = await ended(daemon, agent)
    with pytest.raises(NotFound, match=f"Did you mean '{view.id}'"):
        daemon.jobs.get(view.id[:-1])


async def test_a_service_that_is_needed_but_not_there_keeps_a_job_from_starting(
    daemon: Daemon, agent: Caller
) -> None:
    view = await ended(daemon, agent, needs=["bell"])
    assert view.state == "failed"
    assert "needs the service 'bell', which is not running" in view.reason
    assert view.micro_usd is None


async def test_jobs_beyond_the_limit_wait_for_the_one_before(
    daemon: Daemon, agent: Caller, until: Until, tmp_path: Path
) -> None:
    first = await launched(daemon, agent, behaviour="hang")
    await until(daemon, first, state="running")
    second = await launched(daemon, agent, text="second")
    await until(daemon, second, progress={"message": "waiting for the job before it"})
    assert daemon.jobs.get(second).state == "preparing"
    await daemon.jobs.cancel(first)
    assert (await daemon.jobs.settled(second)).state == "succeeded"


# --- when the daemon ends -------------------------------------------------------------------


async def test_a_running_job_is_adopted_and_finished_after_a_restart(
    boot: Boot, agent: Caller, until: Until, tmp_path: Path
) -> None:
    first, starts, hold = await boot(), tmp_path / "starts", pipe(tmp_path)
    job = await launched(first, agent, starts=str(starts), hold=str(hold))
    await until(first, job, progress={"done": 1, "total": 2, "unit": "steps"})
    await boot.stop(first)
    second = await boot()
    assert second.jobs.get(job).state == "running"
    hold.write_text("go on", encoding="utf-8")
    view = await second.jobs.settled(job)
    assert (view.state, len(lines(starts))) == ("succeeded", 1)
    assert view.result is not None
    assert view.result["text"] == "done"
    assert "job.adopted" in [entry.kind for entry in second.journal.tail(50, subject=job)]


async def test_a_job_that_ended_while_no_daemon_was_there_is_finished_at_the_next_start(
    boot: Boot, agent: Caller, until: Until, tmp_path: Path
) -> None:
    first, hold = await boot(), pipe(tmp_path)
    job = await launched(first, agent, hold=str(hold))
    await until(first, job, progress={"done": 1, "total": 2, "unit": "steps"})
    end = os.pidfd_open(next(iter(tree_of(first, job))))
    await boot.stop(first)
    hold.write_text("go on", encoding="utf-8")
    select.select([end], [], [], 20)
    os.close(end)
    second = await boot()
    assert (await second.jobs.settled(job)).state == "succeeded"


async def test_a_job_that_was_waiting_or_queued_is_not_forgotten(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    first, starts = await boot(policy="asking"), tmp_path / "starts"
    job = await launched(first, agent, starts=str(starts))
    await boot.stop(first)
    second = await boot(policy="asking")
    assert second.jobs.get(job).state == "waiting_approval"
    await second.approvals.decide(job, "approve", person)
    await boot.stop(second)  # before it could be launched
    third = await boot(policy="asking")
    assert (await third.jobs.settled(job)).state == "succeeded"
    assert len(lines(starts)) == 1


async def test_an_answer_given_just_before_the_end_is_acted_on_at_the_next_start(
    boot: Boot, agent: Caller
) -> None:
    first = await boot(policy="asking")
    job = await launched(first, agent)
    answer = "UPDATE approvals SET state = 'approved', decided_by = 'user:ada' WHERE job = ?"
    first.store.change(answer, [job])
    await boot.stop(first)
    second = await boot(policy="asking")
    view = await second.jobs.settled(job)
    assert (view.state, view.decided_by) == ("succeeded", "user:ada")


async def test_a_call_that_ran_in_a_daemon_that_died_is_lost_and_not_repeated(
    boot: Boot, agent: Caller
) -> None:
    first = await boot()
    job = JobTable(first.store).add(
        tool="move", title="Move", state="running", principal="ada", surface="mcp", cwd="/",
        arguments={"name": "x"}, quote={}, started_at=0.0,
    )  # fmt: skip
    await boot.stop(first)
    second = await boot()
    view = second.jobs.get(job.id)
    assert (view.state, view.reason) == ("lost", "the daemon ended while it was carried out")


async def test_an_adopted_job_still_counts_against_the_limit(boot: Boot, agent: Caller, until: Until) -> None:
    first = await boot()
    job = await launched(first, agent, behaviour="hang")
    await until(first, job, state="running")
    await boot.stop(first)
    second = await boot()
    later = await launched(second, agent, text="later")
    await until(second, later, progress={"message": "waiting for the job before it"})
    await second.jobs.cancel(job)
    assert (await second.jobs.settled(later)).state == "succeeded"


async def test_what_was_written_but_never_recorded_is_removed(boot: Boot) -> None:
    first = await boot()
    orphan = first.state_dir / "attempts/att-orphan"
    orphan.mkdir(parents=True)
    await boot.stop(first)
    await boot()
    assert not orphan.exists()


async def test_a_second_daemon_on_the_same_state_is_refused_with_the_pid_of_the_first(
    boot: Boot, daemon: Daemon
) -> None:
    with pytest.raises(Busy, match=rf"Another daemon \(pid {os.getpid()}, http://127.0.0.1:1\) uses"):
        await boot()
    (daemon.state_dir / "daemon.json").unlink()
    with pytest.raises(Busy, match=rf"Another daemon \(pid {os.getpid()}\) uses .*agentd stop"):
        await boot()


SECOND = """
import sys
from agentd.cli.app import app
try:
    app(["serve"])
finally:
    print(sorted({"pydantic", "httpx", "asyncio", "uvicorn"} & {*sys.modules}))
"""


async def test_a_second_daemon_is_refused_before_it_loads_anything(daemon: Daemon) -> None:
    root = str(Path(__file__).parents[2])
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SECOND, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "AGENTD_STATE": str(daemon.state_dir), "PYTHONPATH": root},
    )  # fmt: skip
    out, errors = await second.communicate()
    assert (second.returncode, out) == (75, b"[]\n")
    assert f"Another daemon (pid {os.getpid()}" in errors.decode()


async def test_a_wrong_policy_leaves_the_state_directory_free(boot: Boot) -> None:
    with pytest.raises(NotFound, match=r"'opne'.*Did you mean 'open'"):
        await boot(policy="opne")
    await boot()


def test_a_taken_port_is_named() -> None:
    taken = bind("127.0.0.1", 0)
    port = taken.getsockname()[1]
    with pytest.raises(Busy, match=f"Port {port} of 127.0.0.1 is taken.*AGENTD_PORT"):
        bind("127.0.0.1", port)
    taken.close()


# --- services -------------------------------------------------------------------------------


async def test_a_service_is_started_once_when_it_is_needed_and_then_used(
    daemon: Daemon, agent: Caller, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    for _ in range(3):
        with pytest.raises(Unavailable, match="being hung") as caught:
            await daemon.calls.call("ring", {"text": "ding", "starts": str(starts)}, agent)
        assert caught.value.retry_after_s == 0.1
    service = daemon.jobs.services.find("bell")
    assert service is not None
    view = await daemon.jobs.settled(service.job_id)
    assert view.service is not None
    assert view.service["ready"]
    assert (view.state, view.next) == ("running", "It is ready.")
    answer = await daemon.calls.call("ring", {"text": "dong"}, agent)
    assert answer.model_dump() == {"text": "dong", "pid": int(lines(starts)[0]), "job": service.job_id}
    assert len(lines(starts)) == 1
    with pytest.raises(InputError, match=r"the bell would crack. Ring softly"):
        await daemon.calls.call("ring", {"text": "crack"}, agent)


async def test_a_service_is_found_by_what_it_serves_by_its_recipe_and_by_its_id(
    daemon: Daemon, agent: Caller
) -> None:
    job = await launched(daemon, agent, "hang_bell")
    await daemon.jobs.settled(job)
    daemon.jobs.services.add_serves(job, ["adapter"])
    for name in ("bell", "chime", "adapter", job):
        found = daemon.jobs.services.find(name)
        assert found is not None
        assert (found.job_id, found.ready) == (job, True)
    assert daemon.jobs.services.find("chim") is None
    await daemon.jobs.cancel(job)
    assert daemon.jobs.services.find("bell") is None
    assert daemon.jobs.get(job).service == {"url": "", "serves": ["adapter", "chime"], "ready": False}


async def test_a_job_is_given_the_services_it_needs_with_their_secrets(daemon: Daemon, agent: Caller) -> None:
    await launched(daemon, agent, "hang_bell")
    view = await ended(daemon, agent, needs=["bell"])
    assert view.result is not None
    assert view.result["services"] == {"bell": True}


async def test_a_service_that_nobody_uses_is_stopped(daemon: Daemon, agent: Caller, until: Until) -> None:
    job = await launched(daemon, agent, "hang_bell", idle_stop_s=0.2)
    view = await until(daemon, job, state="cancelled")
    assert view.state == "cancelled"
    assert "nobody used it" in view.reason


async def test_a_service_goes_on_while_no_daemon_is_there_and_is_adopted(
    boot: Boot, agent: Caller, tmp_path: Path
) -> None:
    first, starts = await boot(), tmp_path / "starts"
    job = await launched(first, agent, "hang_bell", starts=str(starts))
    await first.jobs.settled(job)
    await boot.stop(first)
    second = await boot()
    await second.jobs.settled(job)
    answer = await second.calls.call("ring", {"text": "again"}, agent)
    assert answer.model_dump()["pid"] == int(lines(starts)[0])
    assert len(lines(starts)) == 1


async def test_a_service_that_was_ready_is_so_for_the_next_daemon_before_it_has_been_asked(
    boot: Boot, agent: Caller, tmp_path: Path
) -> None:
    first, starts = await boot(), tmp_path / "starts"
    job = await launched(first, agent, "hang_bell", starts=str(starts))
    await first.jobs.settled(job)
    await boot.stop(first)
    bell = int(lines(starts)[0])
    os.kill(bell, signal.SIGSTOP)  # it answers nobody
    try:
        second = await boot()
        async with asyncio.timeout(20):
            assert (await second.jobs.settled(job)).service["ready"]
    finally:
        os.kill(bell, signal.SIGCONT)


async def test_a_service_that_does_not_start_is_not_started_over_and_over(
    daemon: Daemon, agent: Caller, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    arguments = {"text": "ding", "starts": str(starts), "broken": True}
    with pytest.raises(Unavailable, match="being hung"):
        await daemon.calls.call("ring", arguments, agent)
    service = daemon.jobs.services.find("bell")
    assert service is not None
    view = await daemon.jobs.settled(service.job_id)
    assert view.state == "failed"
    assert "the clapper is missing" in view.reason
    with pytest.raises(
        Unavailable, match=f"could not be started: .*clapper.*{service.job_id} --logs"
    ) as caught:
        await daemon.calls.call("ring", arguments, agent)
    assert caught.value.retry_after_s is None
    assert len(lines(starts)) == 1


# --- what a payload is given ----------------------------------------------------------------


async def test_a_payload_gets_the_secrets_its_launch_names_and_no_others(
    daemon: Daemon, agent: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "hf_0123456789abcdefghij")
    monkeypatch.setenv("SOME_OTHER_TOKEN", "hf_9876543210abcdefghij")
    view = await ended(daemon, agent, secrets=["SOME_TOKEN", "SOME_MISSING_TOKEN"])
    assert view.result is not None
    assert view.result["secrets"] == ["SOME_TOKEN"]
    folder = daemon.jobs.attempt_folder(view.id)
    assert folder is not None
    written = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(b"hf_0123456789abcdefghij" in content for content in written)
