"""Backup beside a running daemon, and what a restore brings back: everything but what was under way."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from agentd import backup
from agentd.daemon import Daemon
from agentd.errors import Busy, Conflict, DataError, InputError
from agentd.policy.callers import Caller
from agentd.sdk import JobView
from agentd.store.journal import verify as verify_journal
from tests.conftest import Boot, Until

pytestmark = pytest.mark.anyio


async def started(daemon: Daemon, person: Caller, **arguments: str) -> str:
    view = await daemon.calls.call("work", arguments, person)
    assert isinstance(view, JobView)
    return view.id


async def test_a_restore_brings_everything_back_and_launches_nothing(
    boot: Boot, person: Caller, until: Until, tmp_path: Path
) -> None:
    daemon = await boot()
    kept = tmp_path / "kept.txt"
    kept.write_text("weights", encoding="utf-8")
    artifact = daemon.artifacts.add("model", kept, name="mine")
    done = await started(daemon, person)
    await until(daemon, done, state="succeeded")
    running = await started(daemon, person, behaviour="hang")
    await until(daemon, running, state="running")
    token = (daemon.state_dir / "owner-token").read_text(encoding="ascii")

    manifest = backup.back_up(daemon.state_dir, tmp_path / "state.tar")
    assert backup.verify(tmp_path / "state.tar") == manifest
    with tarfile.open(tmp_path / "state.tar") as archive:
        assert not {name for name in archive.getnames() if "token" in name or "secret" in name}
    with pytest.raises(Busy):
        backup.restore(tmp_path / "state.tar", daemon.state_dir, replace=True)

    later = daemon.artifacts.add("model", kept, name="later")
    await daemon.jobs.cancel(running)
    await boot.stop(daemon)
    with pytest.raises(Conflict, match="--replace"):
        backup.restore(tmp_path / "state.tar", daemon.state_dir)
    _, aside = backup.restore(tmp_path / "state.tar", daemon.state_dir, replace=True)
    assert aside is not None

    again = await boot()
    assert again.artifacts.get("mine").path == artifact.path
    assert artifact.path.read_text(encoding="utf-8") == "weights"
    assert again.artifacts.list("model") != [later]
    assert again.jobs.get(done).state == "succeeded"
    ended = again.jobs.get(running)
    assert (ended.state, ended.cause) == ("lost", "restored")
    assert verify_journal(again.state_dir / "agentd.db").ok
    assert (again.state_dir / "owner-token").read_text(encoding="ascii") != token
    assert again.tokens.check(token.strip()) is None
    await until(again, await started(again, person), state="succeeded")


async def test_a_state_restored_elsewhere_leads_into_its_own_folder(boot: Boot, tmp_path: Path) -> None:
    daemon = await boot()
    kept = tmp_path / "kept.txt"
    kept.write_text("weights", encoding="utf-8")
    daemon.artifacts.add("model", kept, name="mine")
    backup.back_up(daemon.state_dir, tmp_path / "state.tar")
    await boot.stop(daemon)
    _, aside = backup.restore(tmp_path / "state.tar", tmp_path / "elsewhere")
    assert aside is None
    moved = await boot(state_dir=tmp_path / "elsewhere")
    path = moved.artifacts.get("mine").path
    assert path.is_relative_to(tmp_path / "elsewhere")
    assert path.read_text(encoding="utf-8") == "weights"


@pytest.mark.parametrize("at", [0.1, 0.5, 0.9])
async def test_a_backup_with_a_changed_byte_is_refused(boot: Boot, tmp_path: Path, at: float) -> None:
    daemon = await boot()
    taken = tmp_path / "state.tar"
    backup.back_up(daemon.state_dir, taken)
    with tarfile.open(taken) as archive:
        member = archive.getmember("agentd.db")
    content = bytearray(taken.read_bytes())
    content[member.offset_data + int(at * member.size)] ^= 1
    taken.write_bytes(content)
    with pytest.raises(DataError, match=r"agentd\.db"):
        backup.verify(taken)
    taken.write_bytes(content[: len(content) // 2])
    with pytest.raises(DataError, match="Take another one"):
        backup.restore(taken, tmp_path / "elsewhere")
    assert not (tmp_path / "elsewhere" / "agentd.db").exists()


async def test_a_backup_never_writes_over_a_file(boot: Boot, tmp_path: Path) -> None:
    daemon = await boot()
    (tmp_path / "precious.tar").write_text("x", encoding="utf-8")
    with pytest.raises(Conflict):
        backup.back_up(daemon.state_dir, tmp_path / "precious.tar")
    with pytest.raises(InputError, match="no state"):
        backup.back_up(tmp_path / "nothing", tmp_path / "new.tar")
    assert list(tmp_path.glob(".*part")) == []
