"""A daemon process is ended by SIGKILL at every boundary of a goal's steps, and nothing is done twice."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentd.testing import Reply, ScriptedModel, call, say
from tests.conftest import CACHE, ROOT

START_WITHIN_S = 120.0
STAMP = '''
"""A tool whose call can be cut in two: what it does is done, and its answer is not."""

import asyncio
from pathlib import Path

from pydantic import BaseModel

from agentd.sdk import Context, tool


class Stamped(BaseModel):
    times: int


@tool(title="Stamp", result=Stamped, destructive=True, trusted=True)
async def stamp(ctx: Context, *, file: str, hold: str) -> Stamped:
    """Leave a line in a file, say so to somebody at a named pipe, and wait there for good."""
    with Path(file).open("a", encoding="utf-8") as lines:
        lines.write("stamped\\n")
    await asyncio.to_thread(Path(hold).write_text, "stamped")
    await asyncio.to_thread(Path(hold).read_text)
    return Stamped(times=1)
'''


class Life:
    """A daemon process on one state directory, which is killed and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.kills = folder, 0
        self._process: subprocess.Popen[bytes] | None = None
        self._client: httpx.Client | None = None

    def start(self) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("AGENTD_")}
        command = [
            sys.executable,
            "-P",
            "-m",
            "agentd",
            "serve",
            "--config",
            str(self._folder / "agentd.toml"),
        ]
        with (self._folder / "daemon.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.close()
        self._client = httpx.Client(
            base_url=self._address(), headers=self._token(), timeout=60, trust_env=False
        )

    def kill(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self.kills += 1

    def is_killed_by_now(self) -> None:
        """Wait for the end that somebody else brings, and start again."""
        assert self._process is not None
        assert self._process.wait(START_WITHIN_S) == -signal.SIGKILL
        self.start()

    def close(self) -> None:
        if self._client is not None:
            self._client.close()

    def end(self) -> None:
        self.close()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def ask(self, method: str, path: str, **body: Any) -> Any:
        assert self._client is not None
        answer = self._client.request(method, path, json=body or None)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def until(self, run: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The run as soon as that holds of it."""
        assert self._client is not None
        with self._client.stream("GET", f"/api/runs/{run}/follow") as lines:
            for line in lines.iter_lines():
                view = json.loads(line)
                if holds(view):
                    return view
        raise AssertionError(f"it never held: {view}")

    def _address(self) -> str:
        assert self._process is not None
        give_up = time.monotonic() + START_WITHIN_S
        while time.monotonic() < give_up and self._process.poll() is None:
            with contextlib.suppress(OSError, ValueError, httpx.HTTPError):
                address = json.loads((self._folder / "state/daemon.json").read_text("utf-8"))
                if address["pid"] == self._process.pid:
                    httpx.get(f"{address['url']}/health", timeout=60, trust_env=False)
                    return address["url"]
            time.sleep(0.02)  # it says nowhere else that it is there
        raise AssertionError((self._folder / "daemon.log").read_text("utf-8"))

    def _token(self) -> dict[str, str]:
        token = (self._folder / "state/owner-token").read_text("ascii").strip()
        return {"Authorization": f"Bearer {token}"}


@pytest.fixture
def life(tmp_path: Path) -> Iterator[Life]:
    life = Life(tmp_path)
    yield life
    life.end()


def test_killed_at_every_boundary_of_its_steps_a_goal_is_reached_and_nothing_is_done_twice(
    life: Life, tmp_path: Path
) -> None:
    stamps, starts = tmp_path / "stamps", tmp_path / "starts"
    stamping, working = tmp_path / "stamping", tmp_path / "working"
    for pipe in (stamping, working):
        os.mkfifo(pipe)
    script = [
        call("stamp", file=str(stamps), hold=str(stamping)),
        call("move", name="a"),
        call("work", text="a note", starts=str(starts), hold=str(working)),
        say("It was stamped or not; a was moved; the note is written."),
    ]
    asked: set[int] = set()

    def think(body: dict[str, Any]) -> Reply:
        turn = sum(message["role"] == "assistant" for message in body["messages"])
        if turn not in asked:  # the reply to it is lost
            asked.add(turn)
            life.kill()
        return script[turn]

    with ScriptedModel(think) as model:
        (tmp_path / "mine/tools").mkdir(parents=True)
        (tmp_path / "mine/tools/stamp.py").write_text(STAMP, encoding="utf-8")
        (tmp_path / "agentd.toml").write_text(
            f"""
            state_dir = "{tmp_path}/state"
            cache_dir = "{CACHE}"
            roots = ["{tmp_path}/mine", "{ROOT}"]
            policy = "asking"
            server = {{port = 0}}
            [[models]]
            name = "brain"
            kind = "local"
            capabilities = ["tools"]
            endpoint = "{model.url}"
            """,
            encoding="utf-8",
        )
        life.start()
        with contextlib.suppress(httpx.HTTPError):  # it is killed as soon as the model is asked
            life.ask("POST", "/api/runs", goal="stamp, move and work", cwd=str(tmp_path))
        life.is_killed_by_now()
        (listed,) = life.ask("GET", "/api/runs")
        run = listed["id"]

        assert stamping.read_text() == "stamped"  # it was done, and is not answered yet
        life.kill()
        life.start()
        life.is_killed_by_now()  # with the second request

        view = life.until(run, lambda view: bool(view["steps"][1:] and view["steps"][1]["job"]))
        life.kill()  # while a person is asked
        life.start()
        life.ask("POST", f"/api/approvals/{view['steps'][1]['job']}", verdict="approve")
        life.is_killed_by_now()  # with the third

        view = life.until(run, lambda view: bool(view["steps"][2:] and view["steps"][2]["job"]))
        life.ask("POST", f"/api/approvals/{view['steps'][2]['job']}", verdict="approve")
        with working.open("w"):  # opens once the job reads
            life.kill()  # while it works
        life.start()
        life.is_killed_by_now()  # with the fourth
        view = life.until(run, lambda view: view["state"] != "running")

    assert (view["state"], life.kills) == ("succeeded", 7)
    assert [step["outcome"] for step in view["steps"]] == ["failed", "done", "done"]
    assert "whether it was done is not known" in view["steps"][0]["reason"]
    assert stamps.read_text().count("stamped") == 1
    assert (tmp_path / "state/data/moves/a").read_text().count("moved") == 1
    assert starts.read_text().count("\n") == 1
    assert view["turns"] == 4
