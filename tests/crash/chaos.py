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
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import verdict

from agentd.jobs import shim
from agentd.jobs.environments import Environments

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
CACHE = Path(os.environ.get("AGENTD_CACHE") or REPOSITORY / "build/cache")
PYTHON = Path(sys.executable)
MAX_JOBS = 6
START_WITHIN_S = 30.0
SETUP_S = 900.0  # environments are built, if they are not there
DRAIN_S = 120.0
PROMPT = [{"role": "user", "content": "Say 7."}]

# A Llama of two layers under SmolLM2's own tokenizer, with random weights.
TINY = """
import sys, torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
torch.manual_seed(0)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
config = LlamaConfig(
    hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    head_dim=64, vocab_size=len(tokenizer), max_position_embeddings=512, tie_word_embeddings=True,
    bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    pad_token_id=tokenizer.pad_token_id, initializer_range=0.2)
LlamaForCausalLM(config).to(torch.float32).save_pretrained(sys.argv[2])
tokenizer.save_pretrained(sys.argv[2])
"""

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


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


@dataclass(slots=True)
class Chaos:
    """What is to be done, and how far it has come."""

    folder: Path
    launches: int
    trainings: int
    service: bool
    seconds: float
    daemon_life_s: float = 2.5
    rng: random.Random = field(default_factory=random.Random)
    live: set[str] = field(default_factory=set[str])
    looked: asyncio.Event = field(default_factory=asyncio.Event)
    daemon: subprocess.Popen[bytes] | None = None
    calm: bool = False
    done: int = 0
    trained: int = 0
    asked: dict[str, int] = field(default_factory=dict[str, int])
    problems: list[str] = field(default_factory=list[str])

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def starts(self) -> Path:
        return self.folder / "starts.jsonl"

    def note(self, file: str, **line: Any) -> None:
        """Append one line, whole, to a file of evidence."""
        with (self.folder / file).open("a", encoding="utf-8") as out:
            out.write(json.dumps({**line, "at": round(time.time(), 3)}) + "\n")

    def kill(self, pid: int, what: str, attempt: str | None = None, start: int | None = None) -> None:
        """Note it, then SIGKILL; `start` guards against a pid that is somebody else's by now."""
        found = shim.process(pid)
        if found is None or (start is not None and found[1] != start):
            return
        self.note("kills.jsonl", what=what, pid=pid, attempt=attempt)
        shim.send(pid, found[1], signal.SIGKILL)


# --- the daemon -----------------------------------------------------------------------------


def start_daemon(chaos: Chaos) -> None:
    ours = ("AGENTD_", "PYTHONDONTWRITEBYTECODE")
    env = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    env["OMP_NUM_THREADS"] = "1"  # nothing here is large enough to share
    command = [str(PYTHON), "-P", "-m", "agentd", "serve", "--config", str(chaos.folder / "agentd.toml")]
    with (chaos.folder / "daemon.log").open("ab") as log:
        chaos.daemon = subprocess.Popen(
            command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )


async def daemon_answers(chaos: Chaos) -> None:
    """Until the daemon that was started answers. Raises when it ended by itself."""
    assert chaos.daemon is not None
    give_up = time.monotonic() + START_WITHIN_S
    async with httpx.AsyncClient(trust_env=False, timeout=5.0) as http:
        while time.monotonic() < give_up:
            with contextlib.suppress(OSError, ValueError, httpx.HTTPError):
                address = json.loads((chaos.state / "daemon.json").read_text("utf-8"))
                if address["pid"] == chaos.daemon.pid:
                    await http.get(f"{address['url']}/health")
                    return
            if (code := chaos.daemon.poll()) is not None:
                raise RuntimeError(f"the daemon ended by itself with {code}: see {chaos.folder}/daemon.log")
            await asyncio.sleep(0.02)
    raise TimeoutError(f"the daemon did not answer within {START_WITHIN_S:.0f} s")


def kill_daemon(chaos: Chaos) -> None:
    assert chaos.daemon is not None
    chaos.kill(chaos.daemon.pid, "daemon")
    chaos.daemon.wait()


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


# --- calling --------------------------------------------------------------------------------


class Caller:
    """The control API of whichever daemon is there; asks again until one answers."""

    def __init__(self, chaos: Chaos, token: str) -> None:
        self._chaos, self._token_file = chaos, chaos.state / token
        self._http = httpx.AsyncClient(trust_env=False, timeout=20.0)

    async def once(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """One try. Raises `httpx.TransportError` or `OSError` when nobody answers."""
        address = json.loads((self._chaos.state / "daemon.json").read_text("utf-8"))
        token = self._token_file.read_text("ascii").strip()
        headers = {"Authorization": f"Bearer {token}"}
        return await self._http.request(method, address["url"] + path, json=body, headers=headers)

    async def ask(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """The answer, after as many tries as it takes."""
        while True:
            with contextlib.suppress(OSError, ValueError, httpx.HTTPError):
                response = await self.once(method, path, body)
                if response.status_code not in (429, 503):
                    return response
            await asyncio.sleep(0.05)

    async def call(self, tool: str, key: str, **arguments: Any) -> str:
        """Call a tool, once as far as the daemon is concerned; returns the job's id."""
        body = {"arguments": arguments, "key": key, "cwd": str(self._chaos.folder)}
        answer = (await self.ask("POST", f"/api/call/{tool}", body)).json()
        if "id" not in answer:
            raise RuntimeError(f"{tool} {arguments} was answered with {answer}")
        self._chaos.note("calls.jsonl", key=key, job=answer["id"])
        return answer["id"]

    async def ended(self, job: str) -> dict[str, Any]:
        """The job once it has ended, or is ready."""
        while True:
            view = (await self.ask("GET", f"/api/jobs/{job}")).json()
            if view["state"] in verdict.ENDED or (view["service"] or {}).get("ready"):
                return view
            await asyncio.sleep(0.2)

    async def aclose(self) -> None:
        await self._http.aclose()


async def watch(chaos: Chaos, owner: Caller) -> None:
    """Keep `chaos.live` true, and answer what waits for a person, sometimes twice."""
    while True:
        views = (await owner.ask("GET", "/api/jobs?state=live&limit=1000")).json()
        for view in views:
            if view["state"] == "waiting_approval":
                for _ in range(chaos.rng.choice((1, 1, 2))):
                    await owner.ask("POST", f"/api/approvals/{view['approval']}", {"verdict": "approve"})
        chaos.live = {view["id"] for view in views}
        chaos.looked.set()
        chaos.looked = asyncio.Event()
        await asyncio.sleep(0.25)


async def gone(chaos: Chaos, job: str) -> None:
    """Until a list that was made after now no longer has the job."""
    await chaos.looked.wait()
    while True:
        await chaos.looked.wait()
        if job not in chaos.live:
            return


async def blink(chaos: Chaos, agent: Caller, numbers: list[int]) -> None:
    """One of several callers: take the next number, call, sometimes call again, wait for the end."""
    while numbers and not chaos.calm:
        number = numbers.pop()
        key = f"blink-{number}"
        arguments = {
            "number": number,
            "starts": str(chaos.starts),
            "ms": chaos.rng.choice((0, 0, 20, 100, 300)),
            "behaviour": chaos.rng.choices(("write", "fail", "litter"), (90, 5, 5))[0],
            "ask": chaos.rng.random() < 0.2,
        }
        job = await agent.call("blink", key, **arguments)
        if chaos.rng.random() < 0.3:
            await agent.call("blink", key, **arguments)
        await gone(chaos, job)
        chaos.done += 1


async def train(chaos: Chaos, agent: Caller, numbers: list[int]) -> None:
    """One of the callers who train."""
    while numbers and not chaos.calm:
        number = numbers.pop()
        job = await agent.call("finetune", f"train-{number}", **training(number))
        await gone(chaos, job)
        chaos.trained += 1


def training(number: int, max_steps: int = 4) -> dict[str, Any]:
    return {
        "model": "tiny", "dataset": "rows.jsonl", "name": f"tiny-{number}", "batch_size": 4, "rank": 4,
        "max_steps": max_steps, "max_length": 64, "learning_rate": 0.02, "seed": number,
    }  # fmt: skip


# --- killing shims and payloads -------------------------------------------------------------


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
    found: list[tuple[int, int, str, bool]] = []
    for pid, (attempt, command) in verdict.processes(chaos.state / "attempts").items():
        process = shim.process(pid)
        if process and not (chaos.state / "attempts" / attempt / "service-token").exists():
            found.append((pid, process[1], attempt, shim.__file__ in command))
    return found


# --- the service ----------------------------------------------------------------------------


async def prepare_models(chaos: Chaos, owner: Caller) -> None:
    """A tiny model under a real tokenizer, and one adapter that was trained on it."""
    say("fetching the tokenizer, and making a tiny model")
    fetched = await succeeded(owner, await owner.call("get_model", "get-base", source="smollm2-135m"))
    environment = await interpreter("finetune")
    tiny = chaos.folder / "tiny"
    await asyncio.to_thread(
        subprocess.run, [str(environment), "-P", "-c", TINY, fetched["path"], str(tiny)],
        check=True, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    await succeeded(owner, await owner.call("get_model", "get-tiny", source=f"path:{tiny}", name="tiny"))
    rows = [{"prompt": f"Say {i}.", "completion": f"It is {i}."} for i in range(32)]
    (chaos.folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), "utf-8")
    say("training the adapter that is served")
    await succeeded(owner, await owner.call("finetune", "train-adapter", **training(0, max_steps=30)))


async def succeeded(caller: Caller, job: str) -> dict[str, Any]:
    view = await caller.ended(job)
    if view["state"] not in ("succeeded", "running"):
        raise RuntimeError(f"{view['title']} {view['state']}: {view['reason']}")
    return view["result"] or {}


async def interpreter(recipe: str) -> Path:
    environments = Environments(CACHE)
    return await environments.build(await environments.lock(REPOSITORY / f"tools/recipes/{recipe}.py"))


@dataclass(frozen=True, slots=True)
class Service:
    """Where vLLM answers, and what its adapter says."""

    job: str
    attempt: str
    url: str
    headers: dict[str, str]
    text: str


async def serve(chaos: Chaos, owner: Caller) -> Service:
    say("starting vLLM with the adapter")
    job = await owner.call("serve", "serve", model="tiny-0", max_model_len=256, hours=1.0)
    await succeeded(owner, job)
    folder = Path((await owner.ask("GET", f"/api/jobs/{job}/attempt")).json()["folder"])
    port = json.loads((folder / "spec.json").read_text("utf-8"))["port"]
    headers = {"Authorization": f"Bearer {(folder / 'service-token').read_text('ascii')}"}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    async with httpx.AsyncClient(trust_env=False, timeout=60.0, headers=headers) as http:
        base, tuned = [await completion(http, url, model) for model in ("tiny", "tiny-0")]
    if base == tuned:
        chaos.problems.append(f"the adapter answers as its base does: {base!r}")
    say(f"vLLM answers {tuned!r} with the adapter, and {base!r} without")
    return Service(job, folder.name, url, headers, tuned)


async def completion(http: httpx.AsyncClient, url: str, model: str) -> str:
    body = {"model": model, "messages": PROMPT, "temperature": 0, "max_tokens": 8}
    response = await http.post(url, json=body)
    response.raise_for_status()
    return response.json()["choices"][0]["message"]["content"]


async def probe(chaos: Chaos, service: Service) -> None:
    """Ask the service itself, twice a second, whether there is a daemon or not. It must always answer."""
    async with httpx.AsyncClient(trust_env=False, timeout=60.0, headers=service.headers) as http:
        while True:
            await count(chaos, "direct", service, lambda: completion(http, service.url, "tiny-0"))
            await asyncio.sleep(0.5)


async def probe_gateway(chaos: Chaos, service: Service) -> None:
    """Ask through the gateway; a daemon that was killed meanwhile is no failure."""
    while True:
        with contextlib.suppress(OSError, ValueError, httpx.TransportError):
            await count(chaos, "gateway", service, lambda: through_gateway(chaos))
        await asyncio.sleep(0.5)


async def through_gateway(chaos: Chaos) -> str:
    address = json.loads((chaos.state / "daemon.json").read_text("utf-8"))
    token = (chaos.state / "agent-token").read_text("ascii").strip()
    headers = {"Authorization": f"Bearer {token}"}
    async with httpx.AsyncClient(trust_env=False, timeout=60.0, headers=headers) as http:
        return await completion(http, f"{address['url']}/v1/chat/completions", "tiny-0")


async def count(chaos: Chaos, way: str, service: Service, answer: Callable[[], Awaitable[str]]) -> None:
    """Ask once. What fails, or is not what the adapter says, is a problem."""
    try:
        text = await answer()
    except httpx.HTTPStatusError as error:
        chaos.problems.append(f"asked {way}, it answered {error.response.status_code}: {error.response.text}")
        return
    except httpx.TransportError as error:
        if way == "gateway":
            raise
        chaos.problems.append(f"asked {way}, it did not answer: {error!r}")
        return
    chaos.asked[way] = chaos.asked.get(way, 0) + 1
    if text != service.text:
        chaos.problems.append(f"asked {way}, it answered {text!r}")


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


def kill_shim_of(chaos: Chaos, service: Service) -> None:
    """The service goes on without its shim."""
    go = shim.read_json(str(chaos.state / "attempts" / service.attempt / "go"))
    if go:
        chaos.kill(go["pid"], "shim", service.attempt, go["start_time"])


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


@contextlib.asynccontextmanager
async def tasks(*works: Any) -> AsyncIterator[None]:
    """Run `works` beside the block, and end them with it. One that breaks ends the block."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(work) for work in works]
        yield
        for task in running:
            task.cancel()


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
    command = [sys.executable, str(HERE / "syscalls.py"), "--folder", str(folder), "--seconds", "480"]
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
    parser.add_argument("--seconds", type=float, default=600.0, help="wall clock of the random kills")
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
