"""Kill a daemon and its shims at random while they launch, and let `verdict` count from what is left.

    python tests/crash/chaos.py                                         the long form: `make chaos`
    python tests/crash/chaos.py --launches 40 --trainings 0 --no-service --no-syscalls --seconds 40

A real daemon on a state directory of its own, with a root of its own (``tests/crash/root``), is
called over HTTP with idempotency keys while one task kills it and starts it again, and another kills
shims and payloads. Calls that were not answered are made again with the same key; some that were
answered as well. The long form trains a tiny model with the real recipe, and keeps one vLLM service
with an adapter, which is asked all the time, also while there is no daemon. At last, `syscalls` kills
launches and recoveries at every system call.

Progress goes to stderr, the verdict as one line of JSON to stdout, all of it to FOLDER/report.json.
It ends by itself, and ends what it started.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import verdict
from callers import blink, train, watch
from ground import (
    CACHE,
    HERE,
    REPOSITORY,
    Caller,
    Chaos,
    daemon_answers,
    interpreter,
    kill_daemon,
    say,
    start_daemon,
    tasks,
)
from serving import Service, count, kill_shim_of, prepare_models, probe, probe_gateway, serve, through_gateway

from agentd.jobs import shim

MAX_JOBS = 6
SETUP_S = 900.0  # environments are built, if they are not there
DRAIN_S = 120.0

# Stands before a recipe's own interpreter and says that the attempt has started, as `blink` does.
TELLING = """#!/bin/sh
read -r stat < /proc/$$/stat
read -r boot < /proc/sys/kernel/random/boot_id
set -f
fields() {{ shift 19; start=$1; }}
fields ${{stat##*) }}
printf '{{"attempt": "%s", "pid": %d, "start_time": %d, "boot_id": "%s", "what": "%s"}}\\n' \\
  "$AGENTD_ATTEMPT_ID" $$ "$start" "$boot" {what} >> {starts}
exec {python} "$@"
"""


# --- killing --------------------------------------------------------------------------------


async def kill_daemons(chaos: Chaos) -> None:
    """Kill and start the daemon until it is calm; a quarter of them before they could answer.

    A third of the others lose the process first that forks their shims.
    """
    while not chaos.calm:
        if chaos.rng.random() < 0.25:
            await asyncio.sleep(chaos.rng.uniform(0, 1.5))
        else:
            await daemon_answers(chaos)
            if chaos.rng.random() < 0.33:
                await asyncio.sleep(chaos.rng.expovariate(1 / chaos.daemon_life_s))
                kill_fork_server(chaos)
            await asyncio.sleep(chaos.rng.expovariate(1 / chaos.daemon_life_s))
        kill_daemon(chaos)
        start_daemon(chaos)
    await daemon_answers(chaos)


def kill_fork_server(chaos: Chaos) -> None:
    assert chaos.daemon is not None
    children = Path(f"/proc/{chaos.daemon.pid}/task/{chaos.daemon.pid}/children")
    with contextlib.suppress(OSError):
        for pid in map(int, children.read_text("ascii").split()):
            if verdict.FORKED in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                chaos.kill(pid, "fork server")


async def assassinate(chaos: Chaos) -> None:
    """Kill a part of the shims, and fewer payloads, each at a moment of its own."""
    met: set[tuple[int, int]] = set()
    pending: set[asyncio.Task[None]] = set()
    while True:
        for pid, start, attempt, is_shim in processes_of(chaos):
            if (pid, start) in met:
                continue
            met.add((pid, start))
            training = not (chaos.state / "attempts" / attempt / "recipe/blink.py").exists()
            if chaos.rng.random() < (0.2 if is_shim else 0.04):
                after = chaos.rng.uniform(0, 10.0 if training else 0.2)
                what = "shim" if is_shim else "payload"
                task = asyncio.create_task(kill_later(chaos, after, pid, what, attempt, start))
                pending.add(task)
                task.add_done_callback(pending.discard)
        await asyncio.sleep(0.04)


async def kill_later(chaos: Chaos, after: float, pid: int, what: str, attempt: str, start: int) -> None:
    await asyncio.sleep(after)
    chaos.kill(pid, what, attempt, start)


def processes_of(chaos: Chaos) -> list[tuple[int, int, str, bool]]:
    """``(pid, start time, attempt, is a shim)`` of every attempt's processes but the service's."""
    attempts = chaos.state / "attempts"
    found: list[tuple[int, int, str, bool]] = []
    for pid in verdict.pids():
        with contextlib.suppress(OSError):
            attempt = verdict.named_by(pid, attempts)
            if attempt and not (attempts / attempt / "service-token").exists():
                words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                if process := shim.process(pid):
                    found.append((pid, process[1], attempt, os.fsencode(shim.__file__) in words))
    return found


# --- all of it ------------------------------------------------------------------------------


async def run(chaos: Chaos) -> None:
    """Everything up to the moment when nothing is left to happen."""
    await write_config(chaos)
    start_daemon(chaos)
    await daemon_answers(chaos)
    owner, agent = Caller(chaos, "owner-token"), Caller(chaos, "agent-token")
    async with tasks(watch(chaos, owner)):
        if chaos.trainings or chaos.service:
            await prepare_models(chaos, owner)
        service = await serve(chaos, owner) if chaos.service else None
        if service:
            async with tasks(probe(chaos, service), probe_gateway(chaos, service)):
                await kill_and_call(chaos, agent, service)
                await asyncio.sleep(1.0)
            await count(chaos, "at the end", service, lambda: through_gateway(chaos))
            await owner.ask("POST", "/api/call/stop_service", {"arguments": {"service": "tiny"}})
        else:
            await kill_and_call(chaos, agent, None)
        say("waiting for what is left")
        async with asyncio.timeout(DRAIN_S):
            await chaos.looked.wait()
            while chaos.live:
                await chaos.looked.wait()
    await restart_twice(chaos)
    await owner.aclose()
    await agent.aclose()


async def kill_and_call(chaos: Chaos, agent: Caller, service: Service | None) -> None:
    numbers = list(range(chaos.launches, 0, -1))
    trainings = list(range(chaos.trainings, 0, -1))
    callers = [blink(chaos, agent, numbers) for _ in range(2 * MAX_JOBS)]
    callers += [train(chaos, agent, trainings) for _ in range(2)]
    killing = asyncio.create_task(kill_daemons(chaos))
    give_up = time.monotonic() + chaos.seconds
    async with tasks(assassinate(chaos), progress(chaos)):
        calling = asyncio.gather(*callers)
        while not calling.done() and not killing.done() and time.monotonic() < give_up:
            await asyncio.wait([calling, killing], timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            if service and chaos.done > chaos.launches / 2:
                kill_shim_of(chaos, service)
                service = None
        chaos.calm = True
        await killing
        async with asyncio.timeout(DRAIN_S):
            await calling
    if numbers or trainings:
        chaos.problems.append(f"{len(numbers)} launches and {len(trainings)} trainings were never begun")


async def restart_twice(chaos: Chaos) -> None:
    """What has ended stays as it is, whoever reads it."""
    before = ended_states(chaos)
    for _ in range(2):
        kill_daemon(chaos)
        start_daemon(chaos)
        await daemon_answers(chaos)
    if ended_states(chaos) != before:
        chaos.problems.append("jobs that had ended are something else after a restart")
    assert chaos.daemon is not None
    chaos.daemon.terminate()
    chaos.daemon.wait(timeout=20)


def ended_states(chaos: Chaos) -> list[tuple[str, str]]:
    return [(job["id"], job["state"]) for job in verdict.collect(chaos.folder).jobs]


async def progress(chaos: Chaos) -> None:
    while True:
        await asyncio.sleep(10)
        kills = (chaos.folder / "kills.jsonl").read_text("utf-8").splitlines()
        say(f"{chaos.done} short jobs and {chaos.trained} trainings have ended, {len(kills)} kills")


async def write_config(chaos: Chaos) -> None:
    """The daemon's settings, and interpreters that tell of each start."""
    recipes = {"blink": Path(os.path.realpath(sys.executable))}
    for name in ("fetch_model", "finetune", "serve_vllm"):
        if chaos.trainings or chaos.service:
            say(f"environment of {name}")
            recipes[name] = chaos.folder / f"python-{name}"
            real = await interpreter(name)
            recipes[name].write_text(TELLING.format(what=name, starts=chaos.starts, python=real), "utf-8")
            recipes[name].chmod(0o755)
    lines = [
        f"state_dir = {json.dumps(str(chaos.state))}",
        f"cache_dir = {json.dumps(str(CACHE))}",
        f"roots = [{json.dumps(str(HERE / 'root'))}]",
        'policy = "chaos"',
        f"max_jobs = {MAX_JOBS}",
        "server.port = 0",
        *(f"recipes.{name}.python = {json.dumps(str(path))}" for name, path in recipes.items()),
    ]
    (chaos.folder / "agentd.toml").write_text("\n".join(lines) + "\n", "utf-8")


def end_everything(chaos: Chaos) -> None:
    """SIGKILL whatever is left of this run, if anything is."""
    if chaos.daemon and chaos.daemon.poll() is None:
        chaos.daemon.kill()
        chaos.daemon.wait()
    for _ in range(20):
        for pid in (left := verdict.processes(chaos.state / "attempts")):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            return
        time.sleep(0.05)


def kill_at_system_calls(folder: Path) -> dict[str, Any]:
    """What `syscalls` found; {} where there is no strace."""
    say("killing at every system call")
    command = [sys.executable, str(HERE / "syscalls.py"), "--folder", str(folder), "--seconds", "900"]
    ran = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if not ran.stdout:
        return {"kills": 0, "runs": 0, "problems": [f"syscalls.py ended with {ran.returncode}"]}
    return json.loads(ran.stdout.splitlines()[-1])


def report(chaos: Chaos, found: verdict.Verdict, calls: dict[str, Any], seed: int) -> None:
    """Say what came of it: to people, into the folder, and as one line at last."""
    found.kills += calls.get("kills", 0)
    found.runs += calls.get("runs", 0)
    found.lost += calls.get("problems", [])
    found.integrity += chaos.problems
    full = {"seed": seed, "asked": chaos.asked, **found.report(), "system_calls": calls}
    (chaos.folder / "report.json").write_text(json.dumps(full, indent=1) + "\n", "utf-8")
    for problem in [*found.lost, *found.double, *found.orphans, *found.integrity]:
        say(problem)
    say(f"killed {found.killed}; {calls.get('kills', 0)} more at {calls.get('calls', 0)} system calls")
    say(f"started {found.started}")
    say(f"jobs {found.states}; the service was asked {chaos.asked}")
    print(json.dumps(found.line()))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=REPOSITORY / "build/chaos")
    parser.add_argument("--launches", type=int, default=1050, help="short jobs")
    parser.add_argument("--trainings", type=int, default=24, help="real trainings of a tiny model")
    parser.add_argument("--no-service", dest="service", action="store_false", help="no vLLM")
    parser.add_argument("--no-syscalls", dest="syscalls", action="store_false", help="random kills only")
    parser.add_argument("--seconds", type=float, default=1500.0, help="wall clock of the random kills")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    return parser.parse_args()


def main() -> int:
    given = arguments()
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    say(f"seed {given.seed}, in {given.folder}")
    chaos = Chaos(
        given.folder.resolve(), given.launches, given.trainings, given.service, given.seconds,
        rng=random.Random(given.seed),
    )  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        asyncio.run(asyncio.wait_for(run(chaos), SETUP_S + given.seconds + 2 * DRAIN_S))
        found = verdict.judge(verdict.collect(chaos.folder))
        calls = kill_at_system_calls(chaos.folder / "syscalls") if given.syscalls else {}
        report(chaos, found, calls, given.seed)
    finally:
        end_everything(chaos)
    return 0 if found.good else 1


if __name__ == "__main__":
    sys.exit(main())
