"""Kill a launch and a recovery at every system call they make, and let `verdict` count each time.

    python tests/crash/syscalls.py                       every call: minutes
    python tests/crash/syscalls.py --sample 4            four calls, drawn at random, of each

What is killed, by strace, with SIGKILL before a call is carried out, for every call that was made when
nothing was killed (named as "the third fsync"):

    shim         from the moment it looks at its attempt to its last call
    launch       a daemon, from a call of a tool to the end of the job that came of it
    recover …    a daemon that starts with an attempt that was recorded only, from holding its state
                 directory to the end of the job; and from its first look at an attempt that runs, that
                 ran to its end, that is gone

Then a new daemon starts on what is left, the call is made again with the same key, and once the job
has ended, the files are judged. Calls are those of the daemon's main thread, where everything is
made to run; what happens between the shim's fork and the payload's exec is `test_launch_once`'s.

Prints one line of JSON: `runs` of so many `calls`; {} where there is no strace. Where it may, it runs
in a PID namespace of its own: what it starts ends with it, and the shim, which looks at every process,
has few to look at.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import verdict

from agentd.config import Config
from agentd.daemon import Daemon
from agentd.jobs import shim
from agentd.jobs.attempts import Attempt
from agentd.policy.callers import Caller

HERE = Path(__file__).resolve().parent
ROOT = HERE / "root"
HANGS_S = 60
RECOVERIES = ("recorded", "running", "ended", "gone")
SWEEPS = ("shim", "launch", *(f"recover {state}" for state in RECOVERIES))
NAMESPACE = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
INSIDE = "AGENTD_TEST_NAMESPACE"


class Inline(ThreadPoolExecutor):
    """Runs at once, in the thread that asks: one thread's calls can be counted."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits
            future.set_exception(error)
        return future


class Call(NamedTuple):
    """The `nth` call of that name since the counting began."""

    name: str
    nth: int


@dataclass(frozen=True, slots=True)
class Place:
    """A folder that one worker has for itself: each kill begins with the same files at the same paths."""

    folder: Path

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def log(self) -> Path:
        return self.folder / "strace.log"

    def config(self) -> Config:
        return Config(
            state_dir=self.state,
            cache_dir=self.folder / "cache",
            roots=(ROOT,),
            policy="chaos",
            recipes={"blink": {"python": os.path.realpath(sys.executable)}},
        )

    def arguments(self, ms: int = 0) -> dict[str, Any]:
        return {"number": 1, "starts": str(self.folder / "starts.jsonl"), "ms": ms}

    def keep(self, name: str) -> None:
        shutil.copytree(self.state, self.folder / "kept" / name)

    def restore(self, name: str) -> None:
        for left in (*self.folder.glob("*.jsonl"), self.log):
            left.unlink(missing_ok=True)
        shutil.rmtree(self.state, ignore_errors=True)
        shutil.copytree(self.folder / "kept" / name, self.state)

    def attempt(self) -> Attempt:
        return Attempt(next((self.state / "attempts").glob("att-*")))

    def note_kill(self, pid: int, attempt: str | None = None) -> None:
        with (self.folder / "kills.jsonl").open("a", encoding="utf-8") as file:
            file.write(
                json.dumps({"what": "shim" if attempt else "daemon", "pid": pid, "attempt": attempt}) + "\n"
            )


# --- what the daemon does -------------------------------------------------------------------


async def call_and_wait(place: Place, ready: Callable[[], None], ms: int = 0) -> None:
    """A daemon that is called once; `ready` is called before."""
    daemon = Daemon(place.config(), url="http://127.0.0.1:1")
    asyncio.get_running_loop().set_default_executor(Inline())
    await daemon.start()
    ready()
    await called(daemon, place, ms)


async def start_and_wait(place: Place, ready: Callable[[], None] = lambda: None) -> None:
    """A daemon that finds what the last one left; then its client asks again."""
    ready()
    daemon = Daemon(place.config(), url="http://127.0.0.1:1")
    asyncio.get_running_loop().set_default_executor(Inline())
    await daemon.start()
    await called(daemon, place)
    await daemon.aclose()


async def called(daemon: Daemon, place: Place, ms: int = 0) -> None:
    """Make the call, and wait until its job has ended."""
    client = Caller("agent:chaos", "operate", "cli", place.folder, is_agent=True)
    known = daemon.jobs.list(limit=1)
    arguments = daemon.jobs.row(known[0].id).arguments if known else place.arguments(ms)
    view: Any = await daemon.calls.call("blink", arguments, client, key="the-key")
    with (place.folder / "calls.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"key": "the-key", "job": view.id}) + "\n")
    async for _ in daemon.jobs.follow(view.id):
        pass


# --- processes ------------------------------------------------------------------------------


def fork(work: Callable[[], None]) -> int:
    """Do `work` in a process of its own, which ends with 0, or with 70 when it raised."""
    pid = os.fork()
    if pid == 0:
        _become(work)
    return pid


def _become(work: Callable[[], None]) -> NoReturn:
    code = 70
    try:
        signal.alarm(HANGS_S)
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the outermost edge of this process
        traceback.print_exc()
    finally:
        os._exit(code)


def ended(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def strace(place: Place, call: Call | None) -> list[str]:
    """strace that kills before `call` is carried out, or only writes down what is called."""
    command = ["strace", "-o", str(place.log)]
    return [*command, "-e", f"inject={call.name}:signal=KILL:when={call.nth}"] if call else command


def traced(place: Place, call: Call | None, work: Callable[[Callable[[], None]], None]) -> bool:
    """Do `work` in a process that is killed at `call`, counted since it said that it is ready.

    Returns whether it was killed; raises when it ended in any other way than by itself.
    """
    said, says = os.pipe()
    waits, go = os.pipe()

    def ready() -> None:
        os.write(says, b"r")
        os.read(waits, 1)

    pid = fork(lambda: work(ready))
    os.close(says)
    try:
        if not os.read(said, 1):
            raise RuntimeError(f"it ended before it was ready, with {ended(pid)}")
        tracer = subprocess.Popen([*strace(place, call), "-p", str(pid)], stderr=subprocess.PIPE, text=True)
        assert tracer.stderr is not None
        if "attached" not in (line := tracer.stderr.readline()):
            raise RuntimeError(f"strace: {line}")
        os.write(go, b"g")
        code = ended(pid)
        tracer.communicate()
    finally:
        for fd in (said, waits, go):
            os.close(fd)
    if code == -signal.SIGKILL:
        place.note_kill(pid)
    elif code:
        raise RuntimeError(f"it ended with {code}")
    return code != 0


def shim_command(attempt: Attempt) -> list[str]:
    return [sys.executable, "-I", "-S", shim.__file__, str(attempt.folder)]


# --- what is there before a kill ------------------------------------------------------------


def prepare(place: Place) -> None:
    """Make the states that are killed in, once."""
    place.folder.mkdir(parents=True)

    asyncio.run(nothing(place))  # in this process: what it imports, those that are killed need not
    place.keep("fresh")
    for name, ms in (("recorded", 0), ("running", 150)):
        place.restore("fresh")
        fork_that_dies_before_the_shim(place, ms)
        place.keep(name)
    subprocess.run(shim_command(place.attempt()), check=True)
    place.restore("recorded")
    subprocess.run(shim_command(place.attempt()), check=True)
    shutil.copy(place.folder / "starts.jsonl", place.state / "starts.jsonl")
    place.keep("ended")
    place.restore("recorded")
    gone = {"pid": os.getpid(), "start_time": 1, "boot_id": shim.boot_id(), "started": time.time()}
    shim.publish_json(
        str(place.attempt().folder / "go"), {**gone, "deadline": shim.uptime() + 60, "cgroup": ""}
    )
    place.keep("gone")


async def nothing(place: Place) -> None:
    daemon = Daemon(place.config(), url="http://127.0.0.1:1")
    await daemon.start()
    await daemon.aclose()


def fork_that_dies_before_the_shim(place: Place, ms: int) -> None:
    """Leave an attempt that is recorded, and whose shim was never started."""

    def die(attempt: Attempt) -> NoReturn:
        os._exit(9)

    def work() -> None:
        Attempt.spawn_shim = die
        asyncio.run(call_and_wait(place, lambda: None, ms))

    assert ended(fork(work)) == 9


# --- one kill -------------------------------------------------------------------------------


def killed_at(place: Place, sweep: str, call: Call | None) -> bool:
    """Bring about what `sweep` names and kill it at `call`; whether it came so far."""
    match sweep.split():
        case ["shim"]:
            place.restore("recorded")
            return shim_killed(place, call)
        case ["launch"]:
            place.restore("fresh")
            return traced(place, call, lambda ready: asyncio.run(call_and_wait(place, ready)))
        case [_, state]:
            place.restore(state)
            if state == "ended":
                shutil.move(place.state / "starts.jsonl", place.folder / "starts.jsonl")
            elif state == "gone":
                place.note_kill(os.getpid(), place.attempt().id)
            elif state == "running":
                start_shim(place)
            return traced(place, call, lambda ready: asyncio.run(start_and_wait(place, ready)))
        case _:
            raise ValueError(sweep)


def shim_killed(place: Place, call: Call | None) -> bool:
    attempt = place.attempt()
    ran = subprocess.run([*strace(place, call), *shim_command(attempt)], check=False)
    if ran.returncode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the shim ended with {ran.returncode}")
    if ran.returncode:
        place.note_kill((shim.read_json(str(attempt.folder / "go")) or {}).get("pid", 0), attempt.id)
    return ran.returncode != 0


def start_shim(place: Place) -> None:
    """As a daemon does that dies in the next moment: a child of nobody's."""
    attempt = place.attempt()

    def work() -> None:
        subprocess.Popen(shim_command(attempt), start_new_session=True)

    ended(fork(work))
    give_up = time.monotonic() + HANGS_S
    while not (attempt.folder / "go").exists():
        if time.monotonic() > give_up:
            raise TimeoutError("the shim did not start")
        time.sleep(0.002)


def judged(place: Place) -> tuple[list[str], str]:
    """What a new daemon makes of it, and what is wrong with that; and the state of the job."""
    code = ended(fork(lambda: asyncio.run(start_and_wait(place))))
    found = verdict.judge(verdict.collect(place.folder))
    problems = [f"the daemon that recovers ended with {code}"] if code else []
    problems += [*found.lost, *found.double, *found.orphans, *found.integrity]
    if sum(found.states.values()) != 1:
        problems.append(f"one call made {found.states}")
    return problems, " ".join(found.states)


def calls_of(place: Place, sweep: str) -> list[Call]:
    """The calls of `sweep` when it is not killed, from the first that touches what is shared."""
    if killed_at(place, sweep, None):
        raise RuntimeError(f"{sweep} was killed, and nobody had asked for it")
    seen: Counter[str] = Counter()
    calls: list[Call] = []
    begun = sweep == "launch"
    begins = '/lock"' if sweep in ("shim", SWEEPS[2]) else f"{place.state}/attempts/att-"
    for line in place.log.read_text("utf-8", "replace").splitlines():
        if found := re.match(r"(\w+)\(", line):
            seen[found[1]] += 1
            begun = begun or begins in line
            if begun:
                calls.append(Call(found[1], seen[found[1]]))
    return calls


# --- all of them ----------------------------------------------------------------------------


def results(place: Place, points: list[tuple[str, Call]], until: float) -> Iterator[dict[str, Any]]:
    for sweep, call in points:
        if time.monotonic() > until:
            return
        problems, state, killed = [], "", False
        try:
            killed = killed_at(place, sweep, call)
            problems, state = judged(place)
        except Exception as error:  # noqa: BLE001 - one kill that went wrong is a result
            problems = [f"{type(error).__name__}: {error}"]
        if problems:
            keep = place.folder.parent / f"{sweep}-{call.name}-{call.nth}".replace(" ", "-")
            shutil.copytree(place.folder, keep, ignore=shutil.ignore_patterns("kept"), dirs_exist_ok=True)
        yield {
            "sweep": sweep,
            "call": f"{call.name} {call.nth}",
            "killed": killed,
            "state": state,
            "problems": problems,
        }


def work_through(folder: Path, worker: int, points: list[tuple[str, Call]], until: float) -> None:
    """One worker's share, a line for each kill."""
    signal.alarm(0)
    place = Place(folder / f"worker-{worker}")
    prepare(place)
    with (folder / f"results-{worker}.jsonl").open("w", encoding="utf-8") as out:
        for result in results(place, points, until):
            out.write(json.dumps(result) + "\n")
            out.flush()


def run(folder: Path, sample: int, workers: int, seconds: float, sweeps: tuple[str, ...]) -> dict[str, Any]:
    """Every kill, or `sample` of each sweep, in an order drawn at random; what came of them."""
    until = time.monotonic() + seconds
    first = Place(folder / "worker-0")
    prepare(first)
    points: list[tuple[str, Call]] = []
    for sweep in sweeps:
        calls = calls_of(first, sweep)
        chosen = random.sample(calls, min(sample, len(calls))) if sample else calls
        print(f"{sweep}: {len(calls)} calls", file=sys.stderr, flush=True)
        points += [(sweep, call) for call in chosen]
    shutil.rmtree(first.folder)
    random.shuffle(points)
    pids = [
        fork(lambda worker=worker: work_through(folder, worker, points[worker::workers], until))
        for worker in range(workers)
    ]
    codes = [ended(pid) for pid in pids]
    lines = [
        json.loads(line)
        for worker in range(workers)
        for line in (folder / f"results-{worker}.jsonl").read_text("utf-8").splitlines()
    ]
    problems = [f"{r['sweep']}, call {r['call']}: {text}" for r in lines for text in r["problems"]]
    problems += [f"worker {number} ended with {code}" for number, code in enumerate(codes) if code]
    states = {sweep: dict(Counter(r["state"] for r in lines if r["sweep"] == sweep)) for sweep in sweeps}
    return {
        "calls": len(points),
        "kills": sum(r["killed"] for r in lines),
        "runs": len(lines),
        "states": states,
        "problems": problems,
    }


def in_namespace() -> bool:
    """Whether to start again in a PID namespace: where that is possible and has not been done."""
    if INSIDE in os.environ or not shutil.which("unshare"):
        return False
    return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=HERE.parents[1] / "build/chaos-syscalls")
    parser.add_argument("--sample", type=int, default=0, help="calls of each sweep, 0 for all")
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--seconds", type=float, default=1200.0, help="wall clock; what is left is left out")
    parser.add_argument("--sweep", action="append", choices=SWEEPS, help="only these")
    given = parser.parse_args()
    if not shutil.which("strace"):
        print("strace is not here: nothing was killed (apt install strace)", file=sys.stderr)
        print("{}")
        return 0
    if in_namespace():
        reaper = ["sh", "-c", '"$@"; exit $?', "sh", sys.executable, *sys.argv]
        return subprocess.run([*NAMESPACE, *reaper], env={**os.environ, INSIDE: "1"}, check=False).returncode
    shutil.rmtree(given.folder, ignore_errors=True)
    given.folder.mkdir(parents=True)
    folder, sweeps = given.folder.resolve(), tuple(given.sweep or SWEEPS)
    found = run(folder, given.sample, given.workers, given.seconds, sweeps)
    (given.folder / "report.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    for problem in found["problems"]:
        print(problem, file=sys.stderr)
    print(json.dumps(found))
    return 1 if found["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
