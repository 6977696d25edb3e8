"""A state directory as one file, and back: taken beside a running daemon, restored without one.

    agentd.db        the database as of one moment, taken with SQLite's own backup
    artifacts/       never change once they have their name
    data/            services' own; databases in it are taken like ours, what CACHEDIR.TAG marks is left out
    attempts/        what a job said and how it ended, without its inputs, outputs and secrets
    manifest.json    last: a SHA-256 of each file, the journal's head, and where it was taken

Tokens are left out: a restored daemon makes new ones, and none of the old is good for anything. A restore
launches nothing: `agentd.jobs.reconcile` ends what had not ended when the backup was taken.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import IO, Any, cast

from pydantic import BaseModel, ConfigDict, ValidationError

from agentd import __version__, lock
from agentd.errors import Conflict, DataError, InputError
from agentd.jobs import reaper
from agentd.jobs.reconcile import RESTORED
from agentd.store.database import reading
from agentd.store.journal import head_of
from agentd.store.journal import verify as verify_journal

__all__ = ["Manifest", "back_up", "restore", "verify"]

DATABASE, MANIFEST = "agentd.db", "manifest.json"
KEPT_OF_ATTEMPTS = (
    "spec.json",
    "launch.json",
    "go",
    "exit.json",
    "stdout",
    "stderr",
    "shim.log",
    "out/result.json",
)
SQLITE = b"SQLite format 3\0"
CACHE_TAG = "CACHEDIR.TAG"

Report = Callable[[str, int], None]


class Manifest(BaseModel):
    """What a backup holds: `files` maps names to SHA-256, `head` is that of the journal."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    version: str
    at: float
    host: str
    state_dir: str
    head: str
    size_bytes: int
    files: dict[str, str]


# --- taking one -----------------------------------------------------------------------------


def back_up(state_dir: Path, target: Path, report: Report = lambda name, size: None) -> Manifest:
    """Write the state directory to `target`, beside its daemon or without one. Raises `InputError`.

    The file is readable by its owner only, and gets its name once it is whole.
    """
    database = state_dir / DATABASE
    if not database.is_file():
        raise InputError(
            f"{str(state_dir)!r} holds no state of agentd", hint="Set AGENTD_STATE to its folder"
        )
    if target.exists():
        raise Conflict(f"{str(target)!r} is there already", hint="Name a new file")
    waiting = target.with_name(f".{target.name}.part")
    waiting.unlink(missing_ok=True)
    waiting.touch(mode=0o600)
    try:
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".agentd-backup-") as scratch:
            manifest = _write(state_dir, waiting, Path(scratch), report)
        waiting.replace(target)
    finally:
        waiting.unlink(missing_ok=True)
    return manifest


def _write(state_dir: Path, target: Path, scratch: Path, report: Report) -> Manifest:
    files: dict[str, str] = {}
    size = 0
    with tarfile.open(target, "w", format=tarfile.PAX_FORMAT) as archive:
        # The database first: whatever artifact it knows has its name by then.
        copy = _copied(state_dir / DATABASE, scratch)
        head = str(head_of(copy))
        for name, path in [(DATABASE, copy), *_members(state_dir)]:
            source = path if path == copy else _sound(path, scratch)
            files[name], taken = _add(archive, name, source)
            size += taken
            report(name, taken)
        manifest = Manifest(
            version=__version__,
            at=time.time(),
            host=socket.gethostname(),
            state_dir=str(state_dir),
            head=head,
            size_bytes=size,
            files=files,
        )
        content = manifest.model_dump_json().encode()
        info = tarfile.TarInfo(MANIFEST)
        info.size, info.mode = len(content), 0o600
        archive.addfile(info, io.BytesIO(content))
    with target.open("rb") as file:
        os.fsync(file.fileno())
    return manifest


def _members(state_dir: Path) -> Iterator[tuple[str, Path]]:
    """(name, file) of everything beside the database."""
    for folder in ("artifacts", "data"):
        yield from ((path.relative_to(state_dir).as_posix(), path) for path in _files(state_dir / folder))
    for attempt in sorted((state_dir / "attempts").glob("att-*")):
        for name in KEPT_OF_ATTEMPTS:
            if (path := attempt / name).is_file():
                yield path.relative_to(state_dir).as_posix(), path


def _files(folder: Path) -> Iterator[Path]:
    """Files under `folder` but for caches, part files and a database's own log. Links are not followed."""
    if not folder.is_dir() or (folder / CACHE_TAG).exists():
        return
    for entry in sorted(folder.iterdir()):
        if entry.is_symlink() or entry.name.startswith(".") or entry.name.endswith(("-wal", "-shm", ".tmp")):
            continue
        if entry.is_dir():
            yield from _files(entry)
        elif entry.is_file():
            yield entry


def _sound(path: Path, scratch: Path) -> Path:
    """The file itself, or of a database a copy as of one moment."""
    with path.open("rb") as file:
        return _copied(path, scratch) if file.read(len(SQLITE)) == SQLITE else path


def _copied(database: Path, scratch: Path) -> Path:
    copy = scratch / f"copy-{hashlib.sha256(str(database).encode()).hexdigest()[:12]}"
    with reading(database) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode=DELETE")
    return copy


class _Hashing(io.RawIOBase):
    """Passes a file's bytes on and hashes them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self.digest = file, hashlib.sha256()

    def read(self, size: int = -1, /) -> bytes:
        part = self._file.read(size)
        self.digest.update(part)
        return part


def _add(archive: tarfile.TarFile, name: str, path: Path) -> tuple[str, int]:
    with path.open("rb") as file:
        info = tarfile.TarInfo(name)
        status = os.fstat(file.fileno())
        # A log may grow while it is read: what is taken is what was there.
        info.size, info.mtime, info.mode = status.st_size, int(status.st_mtime), 0o600
        hashing = _Hashing(file)
        archive.addfile(info, cast("IO[bytes]", hashing))
    return hashing.digest.hexdigest(), info.size


# --- looking at one -------------------------------------------------------------------------


def verify(source: Path) -> Manifest:
    """Read the whole backup: every digest, and the journal's chain. Raises `DataError`."""
    with tempfile.TemporaryDirectory(dir=source.parent, prefix=".agentd-verify-") as scratch:
        manifest = _unpack(source, Path(scratch), only=DATABASE)
        _check_journal(source, Path(scratch) / DATABASE, manifest)
    return manifest


def _check_journal(source: Path, database: Path, manifest: Manifest) -> None:
    verdict = verify_journal(database)
    if not verdict.ok:
        raise DataError(source, f"the journal in it is broken: {verdict.problem}")
    if str(head_of(database)) != manifest.head:
        raise DataError(source, "the journal in it does not end where the manifest says")


def _unpack(source: Path, target: Path, only: str = "") -> Manifest:
    """Every file under `target` (or the one called `only`), each checked against the manifest."""
    digests: dict[str, str] = {}
    manifest: Manifest | None = None
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                content = archive.extractfile(member)
                if content is None:
                    raise DataError(source, f"holds {member.name!r}, which is no file")
                if member.name == MANIFEST:
                    manifest = Manifest.model_validate_json(content.read())
                    continue
                place = target / member.name
                if not place.resolve().is_relative_to(target.resolve()):
                    raise DataError(source, f"holds {member.name!r}, which leads out of it")
                digests[member.name] = _kept(content, place if only in ("", member.name) else None)
    except (OSError, EOFError, tarfile.TarError, ValidationError) as error:
        raise DataError(source, f"cannot be read as a backup: {error}", hint="Take another one") from error
    if manifest is None:
        raise DataError(source, "has no manifest: it was not finished", hint="Take another one")
    for name in sorted(manifest.files.keys() | digests.keys()):
        if manifest.files.get(name) != digests.get(name):
            raise DataError(source, f"{name!r} is not what was backed up", hint="Take another one")
    return manifest


def _kept(content: IO[bytes], place: Path | None) -> str:
    digest = hashlib.sha256()
    if place is None:
        while part := content.read(1 << 20):
            digest.update(part)
        return digest.hexdigest()
    place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with place.open("wb") as file:
        place.chmod(0o600)
        while part := content.read(1 << 20):
            digest.update(part)
            file.write(part)
        file.flush()
        os.fsync(file.fileno())
    return digest.hexdigest()


# --- going back -----------------------------------------------------------------------------


def restore(source: Path, into: Path, *, replace: bool = False) -> tuple[Manifest, Path | None]:
    """Make `into` the state directory that was backed up; returns where the present one was put, if any.

    Everything is unpacked and checked beside it first. Raises `Busy` while a daemon holds it, `Conflict`
    while something of it runs or is in the way.
    """
    held = lock.hold(into)
    try:
        if running := reaper.of_attempts(into / "attempts"):
            raise Conflict(
                f"Jobs of {str(into)!r} still run: {', '.join(sorted(running)[:3])}",
                hint="End them first: agentd stop --jobs",
            )
        occupied = (into / DATABASE).exists()
        if occupied and not replace:
            raise Conflict(
                f"{str(into)!r} holds a state already",
                hint="Say --replace (the present one is kept aside), or name an empty folder with --into",
            )
        waiting = into.with_name(f".{into.name}.restoring-{os.getpid()}")
        waiting.mkdir(mode=0o700)
        manifest = _unpack(source, waiting)
        _check_journal(source, waiting / DATABASE, manifest)
        _settle(waiting, into, manifest)
        aside = into.with_name(f"{into.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
        into.rename(aside)
        waiting.rename(into)
        if not occupied:
            (aside / "lock").unlink(missing_ok=True)
            if not any(aside.iterdir()):
                aside.rmdir()
        return manifest, aside if aside.exists() else None
    finally:
        os.close(held)


def _settle(folder: Path, into: Path, manifest: Manifest) -> None:
    """Old tokens are good for nothing, paths lead into the new place, and the daemon will know."""
    with closing(sqlite3.connect(folder / DATABASE, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        database.execute("DELETE FROM tokens")
        if manifest.state_dir != str(into):
            _move_paths(database, f"{manifest.state_dir}/", f"{into}/")
        database.execute("COMMIT")
    told: dict[str, Any] = {
        "from": manifest.host,
        "taken_at": manifest.at,
        "head": manifest.head,
        "at": time.time(),
    }
    with (folder / RESTORED).open("w", encoding="utf-8") as file:
        json.dump(told, file)
        file.flush()
        os.fsync(file.fileno())


def _move_paths(database: sqlite3.Connection, old: str, new: str) -> None:
    """Everywhere but in the journal, which says what was."""
    tables = [row[0] for row in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        if table == "journal" or table.startswith(("sqlite_", "_sqlite")):
            continue
        for _, column, kind, *_ in database.execute(f"PRAGMA table_info({table})").fetchall():
            if kind == "TEXT":
                database.execute(
                    f"UPDATE {table} SET {column} = replace({column}, ?, ?) WHERE instr({column}, ?)",
                    [old, new, old],
                )
