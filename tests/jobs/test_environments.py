"""Environments of recipes that need no package: real uv, no network."""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.errors import DataError, Unavailable
from agentd.jobs import environments
from agentd.jobs.environments import Environments, find_links, lock_of, script_header
from agentd.store import Store
from agentd.store.jobs import JobTable, environments_needed

PLAIN = '# /// script\n# requires-python = ">=3.11"\n# dependencies = []\n# ///\n"""Nothing."""\n'
OFFLINE = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "UV_OFFLINE": "1"}


@pytest.fixture
def recipe(tmp_path: Path):
    def write(text: str = PLAIN, name: str = "train") -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text(text, "utf-8")
        return path

    return write


@pytest.fixture
def envs(tmp_path: Path) -> Environments:
    return Environments(tmp_path / "cache", environ={**OFFLINE, "UV_CACHE_DIR": str(tmp_path / "uv")})


def build(envs: Environments, recipe: Path) -> Path:
    async def both() -> Path:
        return await envs.build(await envs.lock(recipe))

    return asyncio.run(both())


# --- locks ---


def test_the_digest_follows_the_packages_and_not_the_name(envs, recipe) -> None:
    first = asyncio.run(envs.lock(recipe()))
    second = asyncio.run(envs.lock(recipe(PLAIN + "\n# more code\n", name="other")))
    assert first.digest == second.digest
    assert (first.recipe, second.recipe) == ("train", "other")


def test_a_second_lock_does_not_call_uv(envs, recipe, tmp_path: Path) -> None:
    path = recipe()
    first = asyncio.run(envs.lock(path))
    again = Environments(tmp_path / "cache", uv=Path("/nowhere/uv"), environ=OFFLINE)
    assert asyncio.run(again.lock(path)) == first


def test_another_accelerator_has_its_own_lock(recipe, tmp_path: Path) -> None:
    path = recipe()
    locks = [
        asyncio.run(Environments(tmp_path, accelerator=a, environ=OFFLINE).lock(path))
        for a in ("cpu", "cuda")
    ]
    assert locks[0].path != locks[1].path


def test_a_version_that_cannot_be_had_says_what_uv_said_and_what_to_do(envs, recipe) -> None:
    bad = recipe(PLAIN.replace("[]", '["agentd-no-such-package==1"]'))
    with pytest.raises(Unavailable, match="agentd-no-such-package") as caught:
        asyncio.run(envs.lock(bad))
    assert "agentd env build" in caught.value.hint


@pytest.mark.parametrize(
    "text",
    ["print(1)\n", PLAIN + PLAIN, '# /// script\n# dependencies = ["unclosed"\n# ///\n'],
    ids=["none", "two", "broken"],
)
def test_a_bad_header_is_refused_with_its_file(recipe, text: str) -> None:
    with pytest.raises(DataError, match=r"train\.py"):
        script_header(recipe(text))


@pytest.mark.parametrize("wanted", [">=3.99", "<3.10", "==3.5.*", ">=3.8,<3.9"])
def test_the_wrong_python_is_refused_before_uv_resolves_for_it(envs, recipe, wanted: str) -> None:
    with pytest.raises(Unavailable, match="wants Python"):
        asyncio.run(envs.lock(recipe(PLAIN.replace(">=3.11", wanted))))


def test_the_sizes_in_a_lock_make_the_estimate(envs, recipe, tmp_path: Path) -> None:
    local = tmp_path / "local.whl"
    local.write_bytes(b"x" * 500)
    lock = tmp_path / "pylock.x.toml"
    lock.write_text(
        f"""
        [[packages]]
        name = "a"
        version = "1"
        sdist = {{ url = "x", size = 90000, hashes = {{ sha256 = "00" }} }}
        wheels = [{{ url = "x", size = 1000, hashes = {{ sha256 = "11" }} }}]
        [[packages]]
        name = "b"
        version = "2+cpu"
        wheels = [{{ url = "file://{local}", hashes = {{ sha256 = "22" }} }}]
        [[packages]]
        name = "c"
        version = "3"
        wheels = [{{ url = "x", hashes = {{ sha256 = "33" }} }}]
        """
    )
    estimate = envs.estimate(environments.Lock("d", "r", lock))
    assert (estimate.packages, estimate.download_bytes, estimate.unknown, estimate.built) == (
        3,
        1500,
        1,
        False,
    )
    pinned = environments._requirements(environments._packages(lock))
    assert "a==1 \\\n    --hash=sha256:11 \\\n    --hash=sha256:00\n" in pinned


# --- environments ---


def test_an_environment_is_built_once_and_runs_the_recipe(envs, recipe) -> None:
    python = build(envs, recipe(PLAIN + "import sys; print(sys.prefix)"))
    made = python.stat(follow_symlinks=False).st_mtime_ns
    said = subprocess.run(
        [python, "-P", recipe(PLAIN + "import sys; print(sys.prefix)")], capture_output=True
    )
    assert said.stdout.decode().strip() == str(python.parents[1])
    assert build(envs, recipe()) == python
    assert python.stat(follow_symlinks=False).st_mtime_ns == made


def test_what_was_approved_and_is_built_is_found_without_its_lock(envs, recipe, tmp_path: Path) -> None:
    source = recipe()
    python = build(envs, source)
    shutil.rmtree(tmp_path / "cache/locks")
    assert envs.ready(python.parents[1].name, source) == python
    assert envs.ready("another", source) is None


def test_two_builders_at_once_build_one(envs, recipe) -> None:
    async def both() -> list[Path]:
        lock = await envs.lock(recipe())
        return await asyncio.gather(envs.build(lock), envs.build(lock))

    pythons = asyncio.run(both())
    assert pythons[0] == pythons[1]
    assert len(envs.list()) == 1


def test_a_build_that_was_broken_off_is_done_again(envs, recipe) -> None:
    lock = asyncio.run(envs.lock(recipe()))
    python = build(envs, recipe())
    (python.parents[2] / f"{lock.digest}.json").unlink()
    python.unlink()
    assert build(envs, recipe()).exists()


def test_an_environment_whose_python_is_gone_is_built_again(envs, recipe) -> None:
    python = build(envs, recipe())
    python.unlink()
    python.symlink_to("/nowhere/python3")
    assert subprocess.run([build(envs, recipe()), "-c", ""]).returncode == 0


def test_the_list_names_the_recipes_that_share_an_environment(envs, recipe) -> None:
    build(envs, recipe())
    build(envs, recipe(name="serve"))
    [found] = envs.list()
    assert found.recipes == ("serve", "train")
    assert found.size_bytes > 0


def test_pruning_keeps_what_is_in_use_and_what_is_being_built(envs, recipe, tmp_path: Path) -> None:
    python = build(envs, recipe())
    digest = python.parents[1].name
    assert envs.prune(keep=[digest]) == ()
    assert envs.prune(unused_s=3600) == ()
    with (tmp_path / "cache/envs" / f"{digest}.lock").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert envs.prune() == ()
    assert [env.digest for env in envs.prune()] == [digest]
    assert envs.list() == ()
    assert not python.exists()


def test_pruning_keeps_what_something_runs_in_though_its_daemon_and_shim_are_gone(
    envs, recipe, prepare, until_event
) -> None:
    python = build(envs, recipe())
    held = lock_of(python)
    assert held is not None
    attempt = prepare("import json, signal\nprint(json.dumps({'event': 'up'}))\nsignal.pause()", holds=[held])

    async def scene() -> None:
        attempt.spawn_shim()
        await until_event(attempt, "up")
        os.kill(json.loads((attempt.folder / "go").read_text())["pid"], signal.SIGKILL)
        assert envs.prune() == ()
        await attempt.kill_tree(grace_s=0)
        assert len(envs.prune()) == 1

    asyncio.run(scene())


BUILDER = """
import asyncio, sys
from pathlib import Path
from agentd.jobs.environments import Environments
envs = Environments(Path(sys.argv[1]), uv=Path(sys.argv[2]), environ={"PATH": "/usr/bin:/bin"})
async def build():
    await envs.build(await envs.lock(Path(sys.argv[3])))
asyncio.run(build())
"""


def test_nobody_builds_where_the_builder_of_a_killed_daemon_still_does(envs, recipe, tmp_path: Path) -> None:
    lock = asyncio.run(envs.lock(recipe()))
    pipe, slow = tmp_path / "pipe", tmp_path / "slow-uv"
    os.mkfifo(pipe)
    slow.write_text(f"#!/bin/sh\necho $$ > {pipe}\nexec sleep 600\n")
    slow.chmod(0o755)
    command = [sys.executable, "-c", BUILDER, str(tmp_path / "cache"), str(slow), str(recipe())]
    daemon = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    builder = int(pipe.read_text())
    daemon.kill()
    daemon.wait()
    with (tmp_path / "cache/envs" / f"{lock.digest}.lock").open("ab") as held:
        with pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.kill(builder, signal.SIGKILL)
        fcntl.flock(held, fcntl.LOCK_EX)


def test_jobs_that_have_not_ended_need_their_environments(tmp_path: Path) -> None:
    database = tmp_path / "agentd.db"
    assert environments_needed(database) == set()
    store = Store(database)
    table = JobTable(store)
    for state in ("queued", "waiting_approval", "running", "failed", "succeeded"):
        table.add(
            tool="work", title="Work", state=state, principal="ada", surface="mcp", cwd="/",
            arguments={}, launch={"environment": f"env of {state}"}, quote={},
        )  # fmt: skip
    assert environments_needed(database) == {"env of queued", "env of waiting_approval", "env of running"}
    store.close()


def test_a_named_interpreter_is_used_as_it_is(recipe, tmp_path: Path) -> None:
    envs = Environments(tmp_path / "cache", interpreters={"train": Path(sys.executable)})
    assert build(envs, recipe()) == Path(sys.executable)
    assert not (tmp_path / "cache").exists()
    assert envs.estimate(asyncio.run(envs.lock(recipe()))).built


def test_a_named_interpreter_that_is_not_there_is_said_so(recipe, tmp_path: Path) -> None:
    envs = Environments(tmp_path / "cache", interpreters={"train": Path("/nowhere/python")})
    with pytest.raises(Unavailable, match="/nowhere/python"):
        asyncio.run(envs.lock(recipe()))


def test_a_full_disk_is_noticed_before_the_download(envs, recipe, monkeypatch) -> None:
    monkeypatch.setattr(environments, "HEADROOM", 1 << 60)
    with pytest.raises(Unavailable, match="GiB are free"):
        build(envs, recipe())


def test_progress_counts_the_bytes_of_the_lock() -> None:
    events: list[dict] = []
    packages = [{"name": "torch", "wheels": [{"size": 90}]}, {"name": "six", "wheels": [{"size": 10}]}]
    on_line = environments._downloads(packages, events.append)
    for line in ("Downloading torch (90B)", " Downloaded torch", "Prepared 2 packages in 1s", " + six==1"):
        on_line(line)
    assert [(event["done"], event["total"]) for event in events] == [(0, 100), (90, 100), (100, 100)]


# --- the machine ---


def test_find_links_come_from_pip_and_uv_and_exist(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    config = tmp_path / "pip.conf"
    config.write_text(f"[global]\nfind-links =\n    {tmp_path}/b\n    {tmp_path}/c\n")
    environ = {
        "UV_FIND_LINKS": f"{tmp_path}/a,{tmp_path}/gone",
        "PIP_FIND_LINKS": f"file://{tmp_path}/b",
        "PIP_CONFIG_FILE": str(config),
        "XDG_CONFIG_DIRS": "/nonexistent",
        "HOME": "/nonexistent",
    }
    assert find_links(environ) == [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
