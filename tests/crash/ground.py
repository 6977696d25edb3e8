"""What a run of chaos stands on: its folder, the daemon that is there at the moment, and how to call it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
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
START_WITHIN_S = 30.0


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
    command = [sys.executable, "-P", "-m", "agentd", "serve", "--config", str(chaos.folder / "agentd.toml")]
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


async def succeeded(caller: Caller, job: str) -> dict[str, Any]:
    view = await caller.ended(job)
    if view["state"] not in ("succeeded", "running"):
        raise RuntimeError(f"{view['title']} {view['state']}: {view['reason']}")
    return view["result"] or {}


# --- beside it ------------------------------------------------------------------------------


async def interpreter(recipe: str) -> Path:
    environments = Environments(CACHE)
    return await environments.build(await environments.lock(REPOSITORY / f"tools/recipes/{recipe}.py"))


@contextlib.asynccontextmanager
async def tasks(*works: Any) -> AsyncIterator[None]:
    """Run `works` beside the block, and end them with it. One that breaks ends the block."""
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(work) for work in works]
        yield
        for task in running:
            task.cancel()
