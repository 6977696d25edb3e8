"""One try at running a job, as a folder: written before it starts, read to learn what became of it.

    launch.json   {attempt_id, about, argv, env, cwd, out, timeout_s, grace_s, holds}; `about` names the job
    spec.json     the recipe's SPEC        out/            its OUT; out/result.json is its result
    secrets.json  environment values that must not lie about (0600, gone once launched)
    ready         there once a service has answered
    stdout, stderr, shim.log               lock, go, stop.json, exit.json: see `agentd.jobs.shim`

Nothing here is remembered: `Attempt.observe` reads files and processes, so a daemon that was killed
and started again learns the same. The promise is: at most one launch per attempt, and never one lost
without a word. A launch that left neither an exit nor a result is *lost*, and stays so.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from agentd.errors import Conflict, Unavailable
from agentd.jobs import shim
from agentd.jobs.forkserver import ForkServer, has_ended
from agentd.redaction import redact_lines

__all__ = ["Attempt", "Exit", "ExitReason", "Observation", "inherited_env"]

ExitReason = Literal["exited", "signalled", "timed_out", "cancelled", "out_of_memory", "unstartable"]
ObservedState = Literal["not_started", "running", "finished", "lost"]

INHERITED = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|LANG|LANGUAGE|TZ|TMPDIR|LD_LIBRARY_PATH|XDG_CACHE_HOME"
    r"|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|(HTTPS?|ALL|NO|https?|all|no)_(PROXY|proxy)"
    r"|(LC|CUDA|NVIDIA|NCCL|ROCR|HIP|HSA|OMP|MKL|HF|UV|PIP)_\w+"
)
SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|KEY$")
EVENTS_CHUNK = 1 << 20
TAIL_BYTES = 256 << 10
SHIM_LATE_S = 5.0
CLOCK_SET_S = 2.0  # a clock that is further off than this was set, not disciplined

_shims: dict[Path, int] = {}
"""Pidfds of shims that this process asked for: to know that one is on its way."""


@dataclass(frozen=True, slots=True)
class Exit:
    """How an attempt ended. `code` is None when a signal ended it, or when nobody was left to see.

    `started` and `ended` are what the machine's clock said; `seconds` is how long it took, and is to
    be trusted. `cause` and `detail` are those of whoever asked for its end.
    """

    reason: ExitReason
    code: int | None
    signal: int | None
    started: float
    ended: float
    seconds: float = 0.0
    max_rss_bytes: int = 0
    cpu_seconds: float = 0.0
    disk_full: bool = False
    cause: str = ""
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """What the files and processes of an attempt say.

    `pid` is the shim's. While *running*, `supervised` is False once the shim is dead, and `overdue` is
    the seconds since its time was up (negative before). While *not_started*, `starting` says that a
    shim is at it.
    """

    state: ObservedState
    pid: int | None = None
    started: float | None = None
    supervised: bool = True
    overdue: float = 0.0
    starting: bool = False
    exit: Exit | None = None

    @property
    def over(self) -> bool:
        return self.state in ("finished", "lost")


def inherited_env(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a payload gets of the daemon's own environment: how to find things, and no secrets."""
    return {k: v for k, v in environ.items() if INHERITED.fullmatch(k) and not SECRET.search(k.upper())}


fork_server = ForkServer(inherited_env)


class Attempt:
    """The attempt kept in `folder`, whose name is its id."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.id = folder.name
        self.spec_path = self.folder / "spec.json"
        self.out = self.folder / "out"

    def __repr__(self) -> str:
        return f"Attempt({str(self.folder)!r})"

    # --- starting ---

    def argv(self, python: Path, recipe: Path) -> list[str]:
        """The recipe protocol's command line."""
        return [str(python), "-P", str(recipe), str(self.spec_path), str(self.out)]

    def prepare(
        self,
        spec: Mapping[str, Any],
        argv: Sequence[str],
        env: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        timeout_s: float = 3600.0,
        *,
        cwd: Path | None = None,
        grace_s: float = shim.GRACE_S,
        about: Mapping[str, Any] | None = None,
        holds: Sequence[Path] = (),
    ) -> None:
        """Write everything the shim needs, durably; may be repeated until it has been launched.

        ``argv[0]`` is an absolute path. `secrets` are environment values as well, kept apart from
        what may be read. `about` says what it is for, to whoever finds the folder without its row.
        `holds` are files that it keeps locked, shared, for as long as anything of it runs.
        Raises `Conflict` once it has been launched.
        """
        if self._has("go") or self._has("exit.json"):
            raise Conflict(f"Attempt {self.id!r} has been launched", hint="Make a new attempt")
        self.out.mkdir(parents=True, exist_ok=True)
        launch = {
            "attempt_id": self.id,
            "about": dict(about or {}),
            "argv": list(argv),
            "env": dict(env or {}),
            "cwd": str(cwd or self.out),
            "out": str(self.out),
            "timeout_s": timeout_s,
            "grace_s": grace_s,
            "holds": [str(path) for path in holds],
        }
        for name in ("stop.json", "exit.json"):
            shim.set_aside(self._path(name))
        shim.write_json(str(self.spec_path), dict(spec))
        if secrets:
            shim.write_json(self._path("secrets.json"), dict(secrets), mode=0o600)
        else:
            (self.folder / "secrets.json").unlink(missing_ok=True)  # of an earlier try
        shim.write_json(self._path("launch.json"), launch)  # last: a shim without it does nothing
        for folder in (self.folder, self.folder.parent):
            shim.sync_folder(str(folder))

    def spawn_shim(self) -> None:
        """Start a shim. Harmless to repeat: one that is not needed leaves at once.

        It survives the daemon: own session, nothing inherited but /dev/null and its log. Raises
        `Unavailable` when no process can be made.
        """
        self.reap()
        if self.folder in _shims:
            return
        try:
            pidfd = fork_server.fork(self.folder)
        except OSError as error:
            raise Unavailable(f"Attempt {self.id!r} could not be started: {error}") from error
        if pidfd is not None:
            _shims[self.folder] = pidfd

    def reap(self) -> None:
        """Forget the shims that have ended, of all attempts."""
        for folder, pidfd in list(_shims.items()):
            if has_ended(pidfd):
                del _shims[folder]
                os.close(pidfd)

    # --- looking ---

    def observe(self) -> Observation:
        """What became of it; reads only, takes 1-3 ms."""
        if ended := self._exit():
            return Observation("finished", started=ended.started, exit=ended)
        locked = self._locked()
        go = self._go()
        if go is None:
            return Observation("not_started", starting=locked or self._spawned())
        if go["boot_id"] == shim.boot_id():
            supervised = shim.is_process(go["pid"], go["start_time"])
            if supervised or locked or shim.populated(go["cgroup"]) or shim.members(self.id):
                overdue = shim.uptime() - go["deadline"]
                return Observation("running", go["pid"], go["started"], supervised, overdue)
        ended = self._exit() or self._unseen_exit(go)  # it may have ended while we looked
        return Observation("finished" if ended else "lost", go["pid"], go["started"], exit=ended)

    async def wait(self) -> Observation:
        """Until it is over, or until nobody is left who could start it; notices within 0.1 s.

        Where the shim is dead or hangs, the wall clock and a request to end are carried out here.
        """
        while not (seen := self.observe()).over:
            if seen.state == "not_started" and not seen.starting:
                break
            if seen.starting:
                await asyncio.sleep(0.02)
            elif seen.supervised and (patience := self._patience(seen)) > 0:
                await self._shim_gone(patience)
            elif seen.overdue > 0 or self._has("stop.json"):
                await self._end_tree("timed_out")
            else:
                await asyncio.sleep(0.1)
        if self._spawned():
            await self._shim_gone(1.0)  # it is about to leave: let it
        self.reap()
        return seen

    async def run(self, tries: int = 3) -> Observation:
        """Spawn the shim and wait; again, up to `tries` times, if it died before it could launch.

        After that it has ended as unstartable, and never will be launched.
        """
        problem = f"its shim ended {tries} times before the launch, see {self.folder / 'shim.log'}"
        for _ in range(tries):
            try:
                if self.observe().state == "not_started":
                    self.spawn_shim()
            except Unavailable as error:
                problem = str(error)
            seen = await self.wait()
            if seen.over:
                return seen
        while not (seen := self.observe()).over and not self._forestall("unstartable", problem):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        return self.observe() if not seen.over else seen

    def result(self) -> dict[str, Any] | None:
        """What the recipe wrote to ``out/result.json``; None if it is absent or not an object."""
        return shim.read_json(str(self.out / "result.json"))

    def events(self, offset: int = 0) -> tuple[list[dict[str, Any]], int]:
        """The recipe's events from byte `offset` of its stdout on, and the offset to go on from.

        Reads up to 1 MiB; a line that is not complete yet is left for the next call.
        """
        chunk = self._read("stdout", offset, EVENTS_CHUNK)
        whole = chunk.rfind(b"\n") + 1
        if not whole and len(chunk) == EVENTS_CHUNK:
            whole = len(chunk)  # a line that long is no event
        lines = chunk[:whole].split(b"\n")
        return [event for line in lines if (event := _event(line))], offset + whole

    def log_tail(self, n: int = 50) -> list[str]:
        """The last `n` lines of log, without secrets: stderr, and before it what stdout holds beside events.

        Of lines that a progress bar overwrote, what was last seen.
        """
        errors = self._tail_lines("stderr")
        others = [line for line in self._tail_lines("stdout") if not _event(line)]
        spare = max(0, n - len(errors))
        shown = (others[-spare:] if spare else []) + errors[-n:]
        return redact_lines([line.decode("utf-8", "replace") for line in shown]) if n else []

    # --- ending ---

    async def kill_tree(
        self,
        grace_s: float = shim.GRACE_S,
        reason: Literal["cancelled", "timed_out"] = "cancelled",
        *,
        cause: str = "",
        detail: str = "",
    ) -> Observation:
        """End it and everything it started: SIGTERM, `grace_s` seconds, then SIGKILL.

        The request is on disk before the first signal, so it holds even if the daemon dies now;
        `cause` and `detail` come back with the exit. The first request is the one that counts. An
        attempt that has not been launched never will be. Returns when nothing is left of it.
        """
        if (seen := self.observe()).over:
            return seen
        self.folder.mkdir(parents=True, exist_ok=True)
        detail = detail[: shim.DETAIL_CHARS]
        stop = {"reason": reason, "cause": cause, "detail": detail, "grace_s": grace_s}
        with contextlib.suppress(OSError):  # on a disk that takes nothing, the signal has to do
            shim.publish_json(self._path("stop.json"), stop)
        while (seen := self.observe()).state == "not_started" and not self._forestall(  # noqa: ASYNC110
            reason, detail or "before it had started", cause
        ):
            await asyncio.sleep(0.01)  # a shim holds the lock: it will launch or leave in a moment
        if seen.state == "running" and seen.supervised and (go := self._go()):
            shim.send(go["pid"], go["start_time"], signal.SIGTERM)
            await self._shim_gone(grace_s + SHIM_LATE_S)
        if self.observe().state == "running":
            await self._end_tree(reason)
        self.reap()
        return self.observe()

    def about(self) -> dict[str, Any]:
        """What `prepare` was told it is for; empty where that was not written down."""
        launch = shim.read_json(self._path("launch.json")) or {}
        return dict(launch.get("about") or {})

    def launched(self) -> bool:
        """Whether it has passed the point of no return."""
        return self._has("go")

    def note_ready(self) -> None:
        """It is a service, and has answered."""
        with contextlib.suppress(OSError):
            (self.folder / "ready").touch()

    def was_ready(self) -> bool:
        """Whether it has answered, to us or to a daemon before us."""
        return self._has("ready")

    def tidy(self) -> None:
        """Remove what an attempt that is over may have left behind: secrets, spare blocks, its cgroup."""
        for name in ("secrets.json", "stop.json.spare", "exit.json.spare"):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink(missing_ok=True)
        if go := self._go():
            shim.remove_cgroup(go["cgroup"])

    # --- inside ---

    def _path(self, name: str) -> str:
        return str(self.folder / name)

    def _has(self, name: str) -> bool:
        return (self.folder / name).exists()

    def _go(self) -> dict[str, Any] | None:
        return shim.read_json(self._path("go"))

    def _locked(self) -> bool:
        if not self._has("lock"):
            return False
        fd = shim.open_lock(str(self.folder))
        try:
            return shim.is_locked(fd)
        finally:
            os.close(fd)

    def _spawned(self) -> bool:
        pidfd = _shims.get(self.folder)
        return pidfd is not None and not has_ended(pidfd)

    def _exit(self) -> Exit | None:
        record = shim.read_json(self._path("exit.json"))
        if record is None:
            return None
        record.setdefault("seconds", max(0.0, record["ended"] - record["started"]))
        return Exit(**{f.name: record[f.name] for f in fields(Exit) if f.name in record})

    def _unseen_exit(self, go: Mapping[str, Any]) -> Exit | None:
        """The end of a launched attempt whose shim died before it could tell.

        A request to end counts as carried out; a whole result counts as an exit with 0.
        """
        started = float(go["started"])
        if stop := shim.read_json(self._path("stop.json")):
            ended = (self.folder / "stop.json").stat().st_mtime
            return Exit(
                stop["reason"], None, None, started, ended, _lasted(go, ended),
                cause=stop.get("cause", ""), detail=stop.get("detail", ""),
            )  # fmt: skip
        if self.result() is not None:
            ended = (self.out / "result.json").stat().st_mtime
            return Exit(
                "exited", 0, None, started, ended, _lasted(go, ended),
                detail="its shim had died, its result is whole",
            )  # fmt: skip
        return None

    def _patience(self, seen: Observation) -> float:
        """Seconds until a shim that is alive must have ended the attempt."""
        launch = shim.read_json(self._path("launch.json")) or {}
        return float(launch.get("grace_s", shim.GRACE_S)) + SHIM_LATE_S - seen.overdue

    async def _shim_gone(self, max_s: float) -> None:
        """Until the shim has ended, for at most `max_s` seconds."""
        go = self._go()
        try:
            fd = os.pidfd_open(go["pid"]) if go else None
        except ProcessLookupError:
            return
        if fd is None:
            return
        loop, gone = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(fd, gone.set)
        try:
            with contextlib.suppress(TimeoutError):
                if go and shim.is_process(go["pid"], go["start_time"]):
                    await asyncio.wait_for(gone.wait(), max_s)
        finally:
            loop.remove_reader(fd)
            os.close(fd)

    def _forestall(self, reason: str, detail: str, cause: str = "") -> bool:
        """End an attempt that has not been launched; False if a shim holds the lock or has launched it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = shim.open_lock(str(self.folder))
        try:
            if not shim.try_lock(lock) or self._has("go"):
                return False
            shim.publish_json(self._path("exit.json"), shim.not_started(reason, detail, cause))
            return True
        finally:
            os.close(lock)

    async def _end_tree(self, reason: str) -> None:
        """What the shim would have done: it is dead, or hangs and is ended first."""
        stop, go = {"reason": reason, "grace_s": shim.GRACE_S}, self._go()
        if not go:
            return
        with contextlib.suppress(OSError):
            shim.publish_json(self._path("stop.json"), stop)
        stop = shim.read_json(self._path("stop.json")) or stop
        shim.send(go["pid"], go["start_time"], signal.SIGKILL)
        for pid, start in shim.members(self.id).items():
            shim.send(pid, start, signal.SIGTERM)
        kill_at = shim.uptime() + float(stop["grace_s"])
        while self.observe().state == "running":
            if shim.uptime() >= kill_at:
                shim.end_all(self.id, go["cgroup"])
            await asyncio.sleep(0.02)

    def _read(self, name: str, offset: int, size: int) -> bytes:
        try:
            with (self.folder / name).open("rb") as file:
                file.seek(offset)
                return file.read(size)
        except FileNotFoundError:
            return b""

    def _tail_lines(self, name: str) -> list[bytes]:
        try:
            size = (self.folder / name).stat().st_size
        except FileNotFoundError:
            return []
        lines = self._read(name, max(0, size - TAIL_BYTES), TAIL_BYTES).split(b"\n")
        whole = lines[1:] if size > TAIL_BYTES else lines
        return [seen for line in whole if (seen := _last_seen(line))]


def _lasted(go: Mapping[str, Any], ended: float) -> float:
    """Seconds from the launch to a file's time; to now, if the clock was set meanwhile."""
    told = max(0.0, ended - go["started"])
    if go["boot_id"] != shim.boot_id() or "uptime" not in go:
        return told
    until_now = max(0.0, shim.uptime() - go["uptime"])
    was_set = abs((time.time() - go["started"]) - until_now) > CLOCK_SET_S
    return until_now if was_set else min(told, until_now)


def _last_seen(line: bytes) -> bytes:
    """What a terminal would show of a line that was overwritten; zero bytes are holes of a capped log."""
    return line.strip(b"\0").rstrip(b"\r").rpartition(b"\r")[2]


def _event(line: bytes) -> dict[str, Any] | None:
    line = line.strip(b"\0 \r")
    if not line.startswith(b"{"):
        return None
    try:
        found = json.loads(line, parse_constant=str)  # NaN and infinity are no JSON: told as words
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("event"), str) else None
