"""A program of this machine as a notifier."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from agentd.config import CommandConfig
from agentd.errors import Unavailable
from agentd.notify.command import Command
from agentd.notify.notices import Message

pytestmark = pytest.mark.anyio
KEEP = """
import json, os, sys
told = {name: value for name, value in os.environ.items() if "AGENTD_NOTICE" in name or "TOKEN" in name}
json.dump({"argv": sys.argv[2:], "env": told, "stdin": json.load(sys.stdin)}, open(sys.argv[1], "w"))
"""

LATE = """
import subprocess, sys, time
held = open(sys.argv[1], "w")
subprocess.Popen(["sleep", "600"], pass_fds=[held.fileno()])
held.write("x")
held.flush()
time.sleep(600)
"""


def message(text: str = "work job-1 failed") -> Message:
    return Message(id="agentd_1_abc", title="agentd: a job failed", text=text, at=1e9)


def command(*argv: str) -> Command:
    return Command(CommandConfig(name="desktop", kind="command", argv=argv))


async def test_the_facts_come_by_argument_environment_and_input_but_no_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_TOKEN", "very-secret-indeed")
    kept = tmp_path / "kept.json"
    await command(sys.executable, "-c", KEEP, str(kept), "{title}", "say: {text} {other}").send(message())
    said = json.loads(kept.read_text(encoding="utf-8"))
    assert said["argv"] == ["agentd: a job failed", "say: work job-1 failed {other}"]
    assert said["env"] == {
        "AGENTD_NOTICE_ID": "agentd_1_abc",
        "AGENTD_NOTICE_TITLE": "agentd: a job failed",
        "AGENTD_NOTICE_TEXT": "work job-1 failed",
    }
    assert said["stdin"] == json.loads(json.dumps(message().body()))


async def test_there_is_no_shell(tmp_path: Path) -> None:
    made = tmp_path / "made"
    await command("true", "{text}").send(message(f"$(touch {made}); touch {made} `touch {made}` {{title}}"))
    assert not made.exists()


async def test_what_is_filled_in_is_not_filled_in_again(tmp_path: Path) -> None:
    kept = tmp_path / "kept.json"
    await command(sys.executable, "-c", KEEP, str(kept), "{text}").send(message("{title} {id}"))
    assert json.loads(kept.read_text(encoding="utf-8"))["argv"] == ["{title} {id}"]


async def test_a_program_that_fails_or_is_not_there_has_not_delivered() -> None:
    with pytest.raises(Unavailable, match="'false' ended with 1"):
        await command("false").send(message())
    with pytest.raises(Unavailable, match="cannot be started: No such file"):
        await command("/no/such/program").send(message())


async def test_a_program_that_reads_nothing_has_delivered() -> None:
    await command("true").send(message("long " * 20_000))


async def test_one_that_is_late_is_ended_with_what_it_started(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    sending = asyncio.create_task(command(sys.executable, "-c", LATE, str(pipe)).send(message()))
    reading = await asyncio.to_thread(pipe.open)
    assert (
        await asyncio.to_thread(reading.read, 1) == "x"
    )  # it runs, and so does its child: both hold the pipe
    sending.cancel()
    await asyncio.gather(sending, return_exceptions=True)
    assert await asyncio.wait_for(asyncio.to_thread(reading.read), 30) == ""
    reading.close()
