"""Why a job ended, in a word that programs can act on: real processes, each failing in its own way."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, get_args

import pytest

from agentd.daemon import Daemon
from agentd.errors import AgentdError, Conflict, DiskFull, InputError, OverBudget, Unavailable, Unknown
from agentd.jobs.attempts import Exit
from agentd.jobs.causes import NAMED, Said, cause_of, cause_of_error, sentence
from agentd.policy.callers import Caller
from agentd.sdk import Cause, JobView

pytestmark = pytest.mark.anyio
Until = Callable[..., Awaitable[JobView]]
WITHIN_S = 5.0


async def launched(daemon: Daemon, caller: Caller, **arguments: Any) -> str:
    view = await daemon.calls.call("fail", arguments, caller)
    assert isinstance(view, JobView)
    return view.id


async def ended(daemon: Daemon, caller: Caller, **arguments: Any) -> JobView:
    return await daemon.jobs.settled(await launched(daemon, caller, **arguments))


def left_of(daemon: Daemon, job: str) -> tuple[int, list[str]]:
    """What is reserved, and the last journal entry's account of the end."""
    entry = daemon.journal.tail(1, subject=job)[0]
    return daemon.ledger.summary().day_reserved, [entry.kind, entry.data["from"], entry.data.get("cause")]


# --- each end, with a real process ------------------------------------------------------------


@pytest.mark.parametrize(
    ("how", "cause", "said"),
    [
        (f"signal:{int(signal.SIGSEGV)}", "crashed", r"segmentation fault \(SIGSEGV\)"),
        ("null", "crashed", r"segmentation fault \(SIGSEGV\)"),
        (f"signal:{int(signal.SIGABRT)}", "crashed", r"\(SIGABRT\)"),
        (f"signal:{int(signal.SIGBUS)}", "crashed", r"\(SIGBUS\)"),
        (f"signal:{int(signal.SIGKILL)}", "killed", r"killed by signal 9 \(SIGKILL\)"),
        ("exit:3", "exit_code", "exited with 3"),
        ("exit:139", "crashed", "exited with 139"),
        ("exit:0", "no_result", "exited with 0"),
        ("memory", "out_of_memory", "ran out of memory: MemoryError"),
        ("said:nan_loss", "nan_loss", "it cannot go on. Change something"),
        ("said:nonsense", "input", "it cannot go on"),
        ("say:RuntimeError: No CUDA GPUs are available", "no_accelerator", "No CUDA GPUs"),
    ],
)
async def test_an_end_has_a_named_cause_and_releases_what_was_reserved(
    daemon: Daemon, agent: Caller, how: str, cause: str, said: str
) -> None:
    view = await ended(daemon, agent, how=how)
    assert (view.state, view.cause) == ("failed", cause)
    assert re.search(said, view.reason), view.reason
    assert left_of(daemon, view.id) == (0, ["job.failed", "running", cause])
    attempt = daemon.store.row("SELECT cause, reason, seconds FROM attempts WHERE job = ?", [view.id])
    assert attempt == {"cause": cause, "reason": view.reason, "seconds": view.seconds}


async def test_an_end_is_told_within_seconds_of_the_fact(
    daemon: Daemon, agent: Caller, until: Until, tmp_path: Path
) -> None:
    job = await launched(daemon, agent, how="hang", starts=str(tmp_path / "starts"))
    await until(daemon, job, progress={"message": "hanging"})
    os.kill(int((tmp_path / "starts").read_text().split()[1]), signal.SIGSEGV)
    killed = time.monotonic()
    view = await daemon.jobs.wait(job, WITHIN_S)
    assert (view.state, view.cause) == ("failed", "crashed")
    print(f"told {time.monotonic() - killed:.2f} s after the fact")


async def test_the_wall_clock_and_a_cancelling_person_are_causes(
    daemon: Daemon, agent: Caller, until: Until
) -> None:
    late = await ended(daemon, agent, how="hang", timeout_s=1.0)
    assert (late.state, late.cause) == ("timed_out", "timed_out")
    assert late.reason == "it ran past its limit of 1 s and was ended"
    job = await launched(daemon, agent, how="hang")
    await until(daemon, job, progress={"message": "hanging"})
    view = await daemon.jobs.cancel(job, "not needed", by="user:ada")
    assert (view.state, view.cause, view.reason) == ("cancelled", "cancelled", "not needed")
    asked = next(e for e in daemon.journal.tail(20, subject=job) if e.kind == "job.cancelling")
    assert (asked.principal, asked.data["state"]) == ("user:ada", "running")


async def test_a_missing_accelerator_is_told_before_anybody_is_asked(daemon: Daemon, agent: Caller) -> None:
    assert daemon.accelerator == "cpu"
    for call in (daemon.calls.call, daemon.calls.quote):
        with pytest.raises(Unavailable, match=r"needs an accelerator \(gpu\).*has: cpu.*doctor"):
            await call("fail", {"how": "exit:0", "accelerator": "gpu"}, agent)
    assert daemon.jobs.list() == []


async def test_a_denied_job_an_expired_one_and_one_over_budget_say_so(
    boot: Any, agent: Caller, person: Caller
) -> None:
    daemon = await boot(policy="asking")
    arguments = {"text": "x"}
    job = await daemon.calls.call("work", arguments, agent)
    await daemon.approvals.decide(job.id, "deny", person, "too much")
    view = daemon.jobs.get(job.id)
    assert (view.state, view.cause, view.reason) == ("cancelled", "denied", "denied by user:ada: too much")


# --- memory and disk ----------------------------------------------------------------------------


@pytest.fixture
def little_memory(tmp_path: Path) -> Iterator[str]:
    """A cgroup that has 32 MiB, whichever version the memory controller has here."""
    for base, limit in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max"),
    ):
        group = base / f"agentd-test-{tmp_path.name}"
        try:
            group.mkdir()
            (group / limit).write_text(str(32 << 20))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        yield str(group)
        group.rmdir()
        return
    pytest.skip("no memory cgroup can be made here")


async def test_a_payload_that_the_kernel_ends_for_its_memory_is_out_of_memory(
    daemon: Daemon, agent: Caller, little_memory: str
) -> None:
    view = await ended(daemon, agent, how="swell", cgroup=little_memory)
    assert (view.state, view.cause) == ("failed", "out_of_memory")
    assert view.reason == "it ran out of memory and was killed"
    assert left_of(daemon, view.id)[0] == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A state directory whose attempts lie on a file system of 24 MiB."""
    folder = tmp_path / "state" / "attempts"
    folder.mkdir(parents=True)
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("only root can mount a small disk")
    yield tmp_path / "state"
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.mark.parametrize("how", ["disk", "disk_quietly"])
async def test_a_disk_that_the_payload_fills_is_named_though_nothing_can_be_written(
    config: Any, agent: Caller, small_disk: Path, how: str
) -> None:
    daemon = Daemon(config(state_dir=small_disk), url="http://127.0.0.1:1")
    await daemon.start()
    try:
        view = await ended(daemon, agent, how=how)
        assert (view.state, view.cause) == ("failed", "disk_full")
        assert left_of(daemon, view.id)[0] == 0
    finally:
        await daemon.aclose()


# --- the decision ---------------------------------------------------------------------------------

SEGV, KILL = int(signal.SIGSEGV), int(signal.SIGKILL)


def an_exit(reason: Any = "exited", code: int | None = 1, number: int | None = None, **more: Any) -> Exit:
    return Exit(reason, None if number else code, number, 0.0, 1.0, 1.0, **more)


@pytest.mark.parametrize(
    ("exit", "said", "log", "cause"),
    [
        (an_exit(), Said(), [], "exit_code"),
        (an_exit(code=0), Said(), [], "no_result"),
        (an_exit(), Said("row 3 is empty"), [], "input"),
        (an_exit(), Said("full", cause="disk_full"), ["MemoryError"], "disk_full"),
        (an_exit(), Said("made up", cause="lost"), [], "input"),
        (an_exit(), Said(), ["OSError: [Errno 28] No space left on device: 'x'"], "disk_full"),
        (an_exit(), Said(), ["OSError: [Errno 5] Input/output error"], "io_error"),
        (an_exit(), Said(), ["torch.OutOfMemoryError: CUDA out of memory. Tried to…", ""], "out_of_memory"),
        (an_exit(), Said(), ["MemoryError", "OSError: [Errno 28] No space left on device"], "disk_full"),
        (an_exit(disk_full=True), Said(), ["done"], "disk_full"),
        (an_exit("signalled", number=int(signal.SIGBUS), disk_full=True), Said(), [], "disk_full"),
        (an_exit("signalled", number=int(signal.SIGABRT)), Said(), ["std::bad_alloc"], "out_of_memory"),
        (an_exit("signalled", number=SEGV), Said("told before"), [], "crashed"),
        (an_exit("signalled", number=int(signal.SIGTERM)), Said(), [], "killed"),
        (an_exit(code=137), Said(), [], "exit_code"),
        (an_exit("out_of_memory", number=KILL), Said(), [], "out_of_memory"),
        (an_exit("unstartable", detail="[Errno 28] No space left on device"), Said(), [], "disk_full"),
        (an_exit("unstartable", detail="no such program"), Said(), [], "unstartable"),
        (an_exit("timed_out"), Said("no"), [], "timed_out"),
        (an_exit("timed_out", cause="not_ready"), Said(), [], "not_ready"),
        (an_exit("cancelled", cause="idle"), Said(), [], "idle"),
        (an_exit("cancelled", cause="out of a newer version"), Said(), [], "cancelled"),
    ],
)  # fmt: skip
def test_the_cause_is_read_from_what_is_known_in_this_order(
    exit: Exit, said: Said, log: list[str], cause: Cause
) -> None:
    assert cause_of(exit, said, log) == cause
    assert sentence(cause, exit, said, log)


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (InputError("x"), "input"),
        (Conflict("x"), "changed"),
        (OverBudget("x"), "over_budget"),
        (Unavailable("x"), "unavailable"),
        (Unavailable("uv: No space left on device (os error 28)"), "disk_full"),
        (DiskFull("x"), "disk_full"),
        (Unknown("x"), "io_error"),
        (AgentdError("x"), "internal"),
        (OSError(28, "No space left on device"), "disk_full"),
        (OSError(5, "Input/output error"), "io_error"),
        (OSError(2, "No such file"), "internal"),
        (MemoryError(), "out_of_memory"),
        (KeyError("x"), "internal"),
    ],
)
def test_an_error_in_the_daemon_has_a_cause_too(error: Exception, cause: Cause) -> None:
    assert cause_of_error(error) == cause


def test_what_a_recipe_may_name_are_causes() -> None:
    assert set(NAMED) <= set(get_args(Cause))
