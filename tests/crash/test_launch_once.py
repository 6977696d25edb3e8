"""Kill the launch protocol at every point there is, and count how often the payload started.

A short version runs always; ``AGENTD_CRASH_RUNS=1000`` kills at every line and a thousand times at
random (20 minutes). What must hold: never two starts, and what was launched is finished or lost,
never forgotten.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentd.jobs import shim
from agentd.jobs.attempts import Attempt, Observation

RUNS = int(os.environ.get("AGENTD_CRASH_RUNS", "0"))
KILL_POINTS = 12
RANDOM_RUNS = RUNS or 8

PAYLOAD = """
import json, os, sys
fd = os.open(sys.argv[2] + "/../starts", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
os.write(fd, b"started\\n")
with open(sys.argv[2] + "/result.tmp", "w") as file:
    json.dump({"ok": True}, file)
os.replace(sys.argv[2] + "/result.tmp", sys.argv[2] + "/result.json")
"""

# Runs the shim as it is and kills it when it comes to a line for the n-th first time, in whichever
# process that is: before or after the fork.
KILLER = """
import os, sys
path, folder, last = sys.argv[1], sys.argv[2], int(sys.argv[3])
seen = set()
def line(frame, event, argument):
    if event == "line" and frame.f_lineno not in seen:
        seen.add(frame.f_lineno)
        if len(seen) == last:
            os.kill(os.getpid(), 9)
    return line
def call(frame, event, argument):
    return line if frame.f_code.co_filename == path else None
code = compile(open(path).read(), path, "exec")
sys.argv = [path, folder]
sys.settrace(call)
exec(code, {"__name__": "__main__", "__file__": path})
sys.settrace(None)
print(len(seen))
"""


def prepared(folder: Path) -> Attempt:
    attempt = Attempt(folder)
    folder.mkdir()
    recipe = folder / "recipe.py"
    recipe.write_text(PAYLOAD)
    attempt.prepare({}, attempt.argv(Path(sys.executable), recipe), timeout_s=60)
    return attempt


def killed_at(attempt: Attempt, line: int) -> subprocess.CompletedProcess[bytes]:
    """The shim, killed at that line; not waiting for a payload that outlives it."""
    command = [sys.executable, "-I", "-S", "-c", KILLER, shim.__file__, str(attempt.folder), str(line)]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)


def recovered(attempt: Attempt) -> Observation:
    """What a new daemon makes of it."""
    seen = asyncio.run(asyncio.wait_for(attempt.run(), 60))
    attempt.tidy()
    return seen


def check(attempt: Attempt, seen: Observation) -> None:
    path = attempt.folder / "starts"
    starts = path.read_text().count("started") if path.exists() else 0
    assert starts <= 1, f"{attempt} started {starts} times"
    assert seen.over
    assert shim.members(attempt.id) == {}
    if seen.state == "finished":
        assert seen.exit is not None
        assert seen.exit.reason == "exited"
        assert starts == 1
        assert attempt.result() == {"ok": True}
    else:
        assert (attempt.folder / "go").exists(), "only what was launched can be lost"
    again = attempt.observe()
    assert (again.state, again.exit) == (seen.state, seen.exit)


@pytest.fixture(scope="module")
def lines(tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many different lines a shim executes until its payload has started and ended."""
    attempt = prepared(tmp_path_factory.mktemp("count") / "att-count")
    return int(killed_at(attempt, -1).stdout)


def test_killed_at_any_line_it_starts_at_most_once(tmp_path: Path, lines: int) -> None:
    assert lines > KILL_POINTS
    points = range(1, lines + 1) if RUNS else random.sample(range(1, lines + 1), KILL_POINTS)
    states: list[str] = []
    for line in points:
        attempt = prepared(tmp_path / f"att-line-{line}")
        killed_at(attempt, line)
        seen = recovered(attempt)
        check(attempt, seen)
        states.append(seen.state)
    print(f"{len(states)} kill points: {states.count('finished')} finished, {states.count('lost')} lost")
    assert "finished" in states


def test_several_shims_killed_at_random_start_it_at_most_once(tmp_path: Path) -> None:
    states: list[str] = []
    for number in range(RANDOM_RUNS):
        attempt = prepared(tmp_path / f"att-random-{number}")
        command = [sys.executable, "-I", "-S", shim.__file__, str(attempt.folder)]
        shims = [subprocess.Popen(command) for _ in range(3)]
        for one in random.sample(shims, random.randint(1, 3)):
            time.sleep(random.uniform(0, 0.15))  # the moment of the kill is what is drawn
            one.send_signal(signal.SIGKILL)
        seen = recovered(attempt)
        for one in shims:
            one.wait()
        check(attempt, seen)
        states.append(seen.state)
    print(f"{len(states)} random kills: {states.count('finished')} finished, {states.count('lost')} lost")


def test_a_daemon_killed_at_random_finds_its_attempt_again(tmp_path: Path) -> None:
    daemon = (
        "import asyncio, sys\nfrom pathlib import Path\nfrom agentd.jobs.attempts import Attempt\n"
        "print(flush=True)\nasyncio.run(Attempt(Path(sys.argv[1])).run())"
    )
    for number in range(RUNS // 4 or 4):
        attempt = prepared(tmp_path / f"att-daemon-{number}")
        command = [sys.executable, "-c", daemon, str(attempt.folder)]
        with subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(random.uniform(0, 0.1))  # the moment of the kill is what is drawn
            process.kill()
        seen = recovered(attempt)
        check(attempt, seen)
        assert seen.state == "finished", "no shim was killed, so nothing can be lost"
