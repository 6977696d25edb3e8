from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.errors import Conflict
from agentd.jobs import shim
from agentd.jobs.attempts import Attempt, inherited_env

RESULT = "import json, os, sys\njson.dump({'ok': True}, open(sys.argv[2] + '/result.json', 'w'))\n"
FOREVER = "import json, signal\nprint(json.dumps({'event': 'up'}))\nwhile True: signal.pause()\n"
STUBBORN = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + FOREVER
FAMILY = """
import json, os, signal, subprocess, sys
wiped = dict(env={}, start_new_session=True, close_fds=True)
kids = [subprocess.Popen(["/bin/sleep", "600"], **wiped), subprocess.Popen(["/bin/sleep", "600"])]
print(json.dumps({"event": "up", "pids": [os.getpid(), *(kid.pid for kid in kids)]}))
"""


def go_of(attempt: Attempt) -> dict:
    return json.loads((attempt.folder / "go").read_text())


def alive(pids: list[int]) -> list[int]:
    return [pid for pid in pids if shim.process(pid)]


# --- how it ends ---


def test_a_payload_that_exits_leaves_its_code_result_and_usage(run) -> None:
    attempt, seen = run(RESULT + "sys.exit(0)")
    assert (seen.state, seen.exit.reason, seen.exit.code, seen.exit.signal) == ("finished", "exited", 0, None)
    assert attempt.result() == {"ok": True}
    assert seen.exit.max_rss_bytes > 1 << 20
    assert seen.exit.started <= seen.exit.ended


@pytest.mark.parametrize(
    ("source", "reason", "code", "number"),
    [
        ("raise SystemExit(7)", "exited", 7, None),
        ("import os; os._exit(137)", "exited", 137, None),
        ("import os; os.kill(os.getpid(), 9)", "signalled", None, 9),
        ("import os; os.kill(os.getpid(), 11)", "signalled", None, 11),
    ],
)
def test_codes_and_signals_are_told_apart(run, source: str, reason: str, code, number) -> None:
    _, seen = run(source)
    assert (seen.exit.reason, seen.exit.code, seen.exit.signal) == (reason, code, number)


def test_the_wall_clock_ends_a_payload_that_ignores_sigterm(run) -> None:
    _, seen = run(STUBBORN, timeout_s=0.2, grace_s=0.2)
    assert (seen.exit.reason, seen.exit.signal) == ("timed_out", signal.SIGKILL)


def test_a_program_that_is_not_there_is_unstartable(prepare) -> None:
    attempt = prepare("")
    attempt.prepare({}, ["/nowhere/python", "x"])
    seen = asyncio.run(attempt.run())
    assert seen.exit.reason == "unstartable"
    assert "/nowhere/python" in seen.exit.detail
    assert not (attempt.folder / "go").exists()


def test_a_file_that_cannot_be_executed_is_unstartable(prepare, tmp_path: Path) -> None:
    attempt, junk = prepare(""), tmp_path / "junk"
    junk.write_bytes(b"\x7fELF nonsense")
    junk.chmod(0o755)
    attempt.prepare({}, [str(junk)])
    assert asyncio.run(attempt.run()).exit.reason == "unstartable"


# --- what the payload sees ---


def test_the_payload_gets_its_environment_and_none_of_the_daemons_secrets(run, monkeypatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "daemon's")
    monkeypatch.setenv("SOME_VARIABLE", "daemon's")
    source = "import json, os\nprint(json.dumps({'event': 'env', **os.environ}))"
    attempt, _ = run(source, env={"PLAIN": "1"}, secrets={"PASSCODE": "s3"})
    env = attempt.events()[0][0]
    assert (env["PLAIN"], env["PASSCODE"], env["PYTHONSAFEPATH"]) == ("1", "s3", "1")
    assert env["AGENTD_ATTEMPT_ID"] == attempt.id
    assert "HF_TOKEN" not in env
    assert "SOME_VARIABLE" not in env
    assert "PYTHONDONTWRITEBYTECODE" not in env


def test_secrets_are_private_before_and_gone_after_the_launch(prepare) -> None:
    attempt = prepare("", secrets={"PASSCODE": "s3cr3t"})
    assert (attempt.folder / "secrets.json").stat().st_mode & 0o777 == 0o600
    asyncio.run(attempt.run())
    left = [
        path.name for path in attempt.folder.rglob("*") if path.is_file() and b"s3cr3t" in path.read_bytes()
    ]
    assert left == []


def test_the_payload_inherits_nothing_but_its_streams_and_the_lock(run) -> None:
    source = "import json, os\nprint(json.dumps({'event': 'fds', 'at': [os.readlink(f'/proc/self/fd/{n}') for n in range(9) if os.path.exists(f'/proc/self/fd/{n}')]}))"  # noqa: E501
    attempt, _ = run(source)
    at = attempt.events()[0][0]["at"]
    names = [path.removeprefix(str(attempt.folder) + "/") for path in at]
    assert names == ["/dev/null", "stdout", "stderr", "lock"]


def test_only_ways_to_find_things_are_inherited() -> None:
    environ = {
        "PATH": "/bin",
        "HF_HOME": "/h",
        "HF_TOKEN": "t",
        "UV_INDEX_X_PASSWORD": "p",
        "OPENAI_API_KEY": "k",
    }
    assert inherited_env(environ) == {"PATH": "/bin", "HF_HOME": "/h"}


# --- ending it ---


def test_cancelling_ends_the_whole_family(prepare, until_event) -> None:
    attempt = prepare(FAMILY + "while True: signal.pause()")

    async def scene() -> tuple:
        attempt.spawn_shim()
        pids = (await until_event(attempt, "up"))["pids"]
        assert alive(pids) == pids
        return pids, await attempt.kill_tree(grace_s=5)

    pids, seen = asyncio.run(scene())
    assert (seen.state, seen.exit.reason) == ("finished", "cancelled")
    assert alive(pids) == []


def test_what_a_payload_leaves_running_is_ended_with_it(run) -> None:
    attempt, seen = run(FAMILY)
    assert seen.exit.reason == "exited"
    assert alive(attempt.events()[0][0]["pids"]) == []


def test_cancelling_before_the_start_means_it_never_starts(prepare) -> None:
    attempt = prepare(RESULT)
    seen = asyncio.run(attempt.kill_tree())
    assert (seen.state, seen.exit.reason) == ("finished", "cancelled")
    assert asyncio.run(attempt.run()).exit.reason == "cancelled"
    assert attempt.result() is None


def test_cancelling_something_that_is_over_changes_nothing(run) -> None:
    attempt, seen = run(RESULT)
    assert asyncio.run(attempt.kill_tree()) == seen


def test_sigterm_to_the_shim_cancels_and_says_who_sent_it(prepare, until_event) -> None:
    attempt = prepare(FOREVER)

    async def scene():
        attempt.spawn_shim()
        await until_event(attempt, "up")
        os.kill(go_of(attempt)["pid"], signal.SIGTERM)
        return await attempt.wait()

    seen = asyncio.run(scene())
    assert seen.exit.reason == "cancelled"
    assert f"from pid {os.getpid()}" in seen.exit.detail


def test_a_shim_that_hangs_is_ended_with_its_payload(prepare, until_event, monkeypatch) -> None:
    monkeypatch.setattr("agentd.jobs.attempts.SHIM_LATE_S", 0.1)
    attempt = prepare(FAMILY + "while True: signal.pause()")

    async def scene() -> tuple:
        attempt.spawn_shim()
        pids = (await until_event(attempt, "up"))["pids"]
        os.kill(go_of(attempt)["pid"], signal.SIGSTOP)
        return pids, await attempt.kill_tree(grace_s=0.2)

    pids, seen = asyncio.run(scene())
    assert (seen.state, seen.exit.reason) == ("finished", "cancelled")
    assert alive(pids[:1]) == []


# --- when the shim dies ---


async def orphan(attempt: Attempt, until_event) -> dict:
    """Start it, then kill its shim the hard way; what the payload said."""
    attempt.spawn_shim()
    said = await until_event(attempt, "up")
    os.kill(go_of(attempt)["pid"], signal.SIGKILL)
    return said


def test_a_payload_without_its_shim_is_adopted_and_its_result_counts(prepare, until_event) -> None:
    waits = "import json, sys\nprint(json.dumps({'event': 'up'}))\nopen(sys.argv[2] + '/../door').read()\n"
    attempt = prepare(waits + RESULT)
    os.mkfifo(attempt.folder / "door")

    async def scene():
        await orphan(attempt, until_event)
        while (adopted := attempt.observe()).supervised:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        (attempt.folder / "door").write_text("open")
        return adopted, await attempt.wait()

    adopted, seen = asyncio.run(scene())
    assert (adopted.state, adopted.supervised) == ("running", False)
    assert (seen.state, seen.exit.reason, seen.exit.code) == ("finished", "exited", 0)
    assert attempt.result() == {"ok": True}


@pytest.mark.parametrize("cgroup", [True, False])
def test_a_payload_without_its_shim_can_still_be_cancelled(prepare, until_event, edit, cgroup: bool) -> None:
    attempt = prepare(STUBBORN)

    async def scene():
        await orphan(attempt, until_event)
        if not cgroup:
            edit(attempt.folder / "go", cgroup="")
        return await attempt.kill_tree(grace_s=0.1)

    seen = asyncio.run(scene())
    assert (seen.state, seen.exit.reason) == ("finished", "cancelled")
    assert shim.members(attempt.id) == {}


def test_the_wall_clock_holds_without_the_shim(prepare, until_event) -> None:
    attempt = prepare(FOREVER, timeout_s=1)

    async def scene():
        await orphan(attempt, until_event)
        return await attempt.wait()

    assert asyncio.run(scene()).exit.reason == "timed_out"


def test_a_launch_that_left_nothing_is_lost_and_stays_lost(prepare, until_event) -> None:
    attempt = prepare(FOREVER)

    async def scene():
        await orphan(attempt, until_event)
        shim.end_all(attempt.id, "")
        return await attempt.wait(), await attempt.run()

    first, again = asyncio.run(scene())
    assert (first.state, again.state) == ("lost", "lost")


def test_a_launch_of_an_earlier_boot_is_lost(prepare, until_event, edit) -> None:
    attempt = prepare(FOREVER)

    async def scene():
        attempt.spawn_shim()
        await until_event(attempt, "up")
        edit(attempt.folder / "go", boot_id="another")
        seen = attempt.observe()
        edit(attempt.folder / "go", boot_id=shim.boot_id())
        return seen

    assert asyncio.run(scene()).state == "lost"


def test_a_reused_pid_is_neither_believed_nor_signalled(prepare, until_event, edit) -> None:
    attempt = prepare(FOREVER)
    stranger = subprocess.Popen(["/bin/sleep", "600"])
    while shim.uptime() * 100 < shim.process(stranger.pid)[1] + 2:
        pass  # start times are told apart by the hundredth of a second

    async def scene():
        await orphan(attempt, until_event)
        edit(attempt.folder / "go", pid=stranger.pid)
        assert not attempt.observe().supervised
        return await attempt.kill_tree(grace_s=0)

    try:
        assert asyncio.run(scene()).state == "finished"
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_the_shim_outlives_the_process_that_started_it(prepare, until_event) -> None:
    attempt = prepare("import json, sys\nprint(json.dumps({'event': 'up'}))\n" + RESULT)
    starter = (
        "import sys\nfrom pathlib import Path\nfrom agentd.jobs.attempts import Attempt\n"
        "Attempt(Path(sys.argv[1])).spawn_shim()\nimport os; os.kill(os.getpid(), 9)"
    )
    subprocess.run(
        [sys.executable, "-c", starter, str(attempt.folder)], cwd=Path(__file__).parents[2], check=False
    )

    async def scene():
        await until_event(attempt, "up")
        return await attempt.wait()

    assert asyncio.run(scene()).exit.reason == "exited"


def test_a_second_shim_leaves_at_once(prepare, until_event) -> None:
    attempt = prepare(FOREVER)

    async def scene() -> int:
        attempt.spawn_shim()
        await until_event(attempt, "up")
        second = await asyncio.create_subprocess_exec(
            sys.executable, "-IS", shim.__file__, str(attempt.folder)
        )
        return await asyncio.wait_for(second.wait(), 10)

    assert asyncio.run(scene()) == 0
    assert len(attempt.events()[0]) == 1


def test_no_zombies_are_left(run) -> None:
    run("")
    try:
        ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        ended = None
    assert ended is None


def test_without_cgroups_the_family_is_found_by_descent(prepare) -> None:
    attempt = prepare(FAMILY)
    without = (
        "import sys\nfrom agentd.jobs import shim\nshim.make_cgroup = lambda _: ''\n"
        "shim.signal.pthread_sigmask(shim.signal.SIG_BLOCK, shim.WATCHED)\nshim.run(sys.argv[1])"
    )
    subprocess.run(
        [sys.executable, "-c", without, str(attempt.folder)], cwd=Path(__file__).parents[2], check=True
    )
    assert attempt.observe().exit.reason == "exited"
    assert alive(attempt.events()[0][0]["pids"]) == []


def test_an_attempt_that_was_launched_cannot_be_prepared_again(run) -> None:
    attempt, _ = run("")
    with pytest.raises(Conflict, match="has been launched"):
        attempt.prepare({}, ["/bin/true"])


def test_an_attempt_without_a_folder_has_not_started(tmp_path: Path) -> None:
    assert Attempt(tmp_path / "none").observe().state == "not_started"
    assert not (tmp_path / "none").exists()


# --- what it writes ---


def test_events_are_whole_lines_and_the_offset_goes_on(tmp_path: Path) -> None:
    attempt, out = Attempt(tmp_path), tmp_path / "stdout"
    out.write_bytes(b'log\n{"event":"a"}\n{"no":1}\n[1]\n{broken\n{"event":3}\n{"event":"b"')
    first, offset = attempt.events(0)
    with out.open("ab") as file:
        file.write(b"}\n")
    second, end = attempt.events(offset)
    assert [first, second] == [[{"event": "a"}], [{"event": "b"}]]
    assert attempt.events(end) == ([], out.stat().st_size)


def test_a_line_longer_than_a_chunk_does_not_stop_the_events(tmp_path: Path) -> None:
    attempt, offset, found = Attempt(tmp_path), 0, []
    (tmp_path / "stdout").write_bytes(b"x" * (5 << 19) + b'\n{"event":"a"}\n')
    for _ in range(4):
        events, offset = attempt.events(offset)
        found += events
    assert found == [{"event": "a"}]


def test_the_log_tail_shows_what_a_terminal_would(tmp_path: Path) -> None:
    attempt = Attempt(tmp_path)
    (tmp_path / "stdout").write_bytes(b'one\n{"event":"a"}\n')
    (tmp_path / "stderr").write_bytes(b"10%\r50%\r100%\nlast\n")
    assert attempt.log_tail(9) == ["one", "100%", "last"]
    assert attempt.log_tail(2) == ["100%", "last"]
    assert attempt.log_tail(0) == []


def test_a_capped_log_keeps_its_offsets_its_head_and_its_tail(tmp_path: Path) -> None:
    attempt, log = Attempt(tmp_path), tmp_path / "stdout"
    log.write_bytes(
        b'{"event":"first"}\n' + b"x" * 4095 + b"\n" + b"filler line\n" * 200_000 + b'{"event":"last"}\n'
    )
    size = log.stat().st_size
    shim.cap_log(str(log), cap=1 << 20, head=8192)
    assert log.stat().st_blocks * 512 < 700_000
    assert log.stat().st_size == size
    found, offset = [], 0
    for _ in range(5):
        events, offset = attempt.events(offset)
        found += [event["event"] for event in events]
    assert found == ["first", "last"]
    assert "\0" not in "".join(attempt.log_tail(10_000))


def test_a_result_that_is_not_an_object_is_none(prepare) -> None:
    attempt = prepare("")
    (attempt.out / "result.json").write_text('{"half":')
    assert attempt.result() is None
