"""The one process between the daemon and a payload: ``python -I -S shim.py ATTEMPT_DIR``,
or forked from one that has loaded this file: ``python -I -S shim.py --serve FD``.

It starts the payload at most once, outlives the daemon, enforces the wall clock, ends the whole
tree and leaves ``exit.json``. Standard library only, nothing of ours: it must start fast, under
any interpreter, and keep working while the package around it is upgraded. Linux 5.3 or newer.

    lock       held (as an open-file-description lock) by the shim and inherited by the payload
    go         published with link(2) after everything that can fail and before the fork; an attempt
               that has it is never launched again
    stop.json  a request to end, {"reason", "cause", "detail", "grace_s"}; durable, so it outlives
               whoever asked; SIGTERM makes the shim look at once
    exit.json  how it ended, published with link(2): the first to say so is believed
    *.spare    a block on disk for each of these two, so that a full disk can't keep them from being written

Starting a second shim, at any moment, is harmless: it finds the lock held, or `go`, and leaves.

What ends with the attempt: everything in its cgroup (v2, where one can be made), else every
descendant and every process that carries its id in the environment. Not covered: without a cgroup,
a process that both outlived the shim's death and wiped its environment.

An exit reason is ``out_of_memory`` when the attempt's cgroup counted an OOM kill, or when the payload
died of a SIGKILL that the shim did not send while the machine's OOM-kill counter rose. Durations are
measured with the clock that runs from boot on: setting the machine's clock changes none of them.
"""

# Paths are plain strings here: most of what follows is one system call or another.
# ruff: noqa: PTH100,PTH102,PTH103,PTH104,PTH105,PTH106,PTH108,PTH110,PTH112,PTH116,PTH118,PTH120,PTH123,PTH208

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import re
import signal
import struct
import sys
import time
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

LOG_CAP = 64 << 20  # bytes kept of stdout, and of stderr
LOG_HEAD = 1 << 20  # of which from the beginning
PATH_BYTES = 4096
TICK_S = 1.0
GRACE_S = 10.0
UNKILLABLE_S = 10.0  # how long SIGKILL is repeated for what hangs in the kernel
SPARE_BYTES = 4096
FULL_BYTES = 1 << 20  # a disk with less room than this is called full
DETAIL_CHARS = 800  # so that a record fits its spare block
WATCHED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
ID_VARIABLE = "AGENTD_ATTEMPT_ID"
FOLDER_VARIABLE = "AGENTD_ATTEMPT_DIR"
SERVE = "--serve"
CGROUP = "agentd-"  # and the attempt's id

_FLOCK = "hhqqi"  # struct flock: l_type, l_whence, l_start, l_len, l_pid
_PR_SET_CHILD_SUBREAPER = 36
_PUNCH_HOLE_KEEP_SIZE = 0x03
_libc = ctypes.CDLL(None, use_errno=True)


# --- files that are whole or absent ---------------------------------------------------------


def read_json(path: str) -> dict[str, Any] | None:
    """The JSON object in `path`; None if it is absent, or not one."""
    try:
        with open(path, "rb") as file:
            found = json.load(file)
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None  # pyright: ignore[reportUnknownVariableType]


def write_json(path: str, value: object, mode: int = 0o644) -> None:
    """Replace `path`: after a crash it holds the old content or the new, and the new after `sync_folder`."""
    os.replace(_write_temporary(path, value, mode), path)


def publish_json(path: str, value: object) -> bool:
    """Create `path`, durably; False, and nothing changed, if it is there already.

    On a full disk it is written over the block that `set_aside` keeps for it.
    """
    try:
        temporary = _write_temporary(path, value, 0o644)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not os.path.exists(f"{path}.spare"):
            raise
        temporary = _write_spare(path, value)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    sync_folder(os.path.dirname(path))
    return True


def set_aside(path: str) -> None:
    """Keep a block on disk for a small record that must be written even when the disk is full."""
    with open(f"{path}.spare", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, SPARE_BYTES)


def _write_spare(path: str, value: object) -> str:
    text = json.dumps(value).encode().ljust(SPARE_BYTES)  # JSON may be followed by spaces
    claimed = f"{path}.{os.getpid()}.{time.monotonic_ns()}.tmp"
    os.rename(f"{path}.spare", claimed)  # one writer gets it
    fd = os.open(claimed, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text)
        os.fsync(fd)
    finally:
        os.close(fd)
    return claimed


def _write_temporary(path: str, value: object, mode: int) -> str:
    temporary = f"{path}.{os.getpid()}.{time.monotonic_ns()}.tmp"
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            json.dump(value, file, ensure_ascii=False)
            file.flush()
            os.fsync(fd)
    except BaseException:
        os.unlink(temporary)
        raise
    return temporary


def sync_folder(folder: str) -> None:
    """Make durable what was created, renamed or removed in it."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- the lock -------------------------------------------------------------------------------


def open_lock(folder: str) -> int:
    return os.open(os.path.join(folder, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def try_lock(fd: int) -> bool:
    """Take the lock if it is free. It lasts until the last copy of `fd`, in any process, is closed."""
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def is_locked(fd: int) -> bool:
    """Whether somebody else holds it. Looking takes nothing, so it can't get in a shim's way."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    answer = struct.unpack(_FLOCK, fcntl.fcntl(fd, fcntl.F_OFD_GETLK, asked))
    return bool(answer[0] != fcntl.F_UNLCK)


# --- processes ------------------------------------------------------------------------------


def boot_id() -> str:
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def uptime() -> float:
    """Seconds since boot, time asleep included: the one clock that nobody sets."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def process(pid: int) -> tuple[int, int] | None:
    """``(parent pid, start time in ticks since boot)`` of a live process, None for a zombie or none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in (b"Z", b"X") else (int(fields[1]), int(fields[19]))


def is_process(pid: int, start: int) -> bool:
    """Whether `pid` is alive and still the process that started at `start`: a bare pid may be anybody's."""
    found = process(pid)
    return found is not None and found[1] == start


def members(attempt_id: str, root: int | None = None) -> dict[int, int]:
    """``{pid: start time}`` of live processes that carry the id, or descend from `root`."""
    mark = f"{ID_VARIABLE}={attempt_id}".encode()
    parents: dict[int, int] = {}
    starts: dict[int, int] = {}
    marked: set[int] = set()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if found := process(pid):
            parents[pid], starts[pid] = found
            if _carries(pid, mark):
                marked.add(pid)
    return {pid: starts[pid] for pid in starts if pid in marked or _descends(pid, root, parents)}


def _carries(pid: int, mark: bytes) -> bool:
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return mark in file.read().split(b"\0")
    except OSError:  # gone meanwhile, or somebody else's
        return False


def _descends(pid: int, root: int | None, parents: dict[int, int]) -> bool:
    seen: set[int] = set()
    while pid in parents and pid not in seen:
        seen.add(pid)
        pid = parents[pid]
        if pid == root:
            return True
    return False


def send(pid: int, start: int, number: int) -> bool:
    """Signal `pid` if it is still the process that started at `start`; whether it was."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return False
    try:
        if not is_process(pid, start):  # looked up while the descriptor pins the process
            return False
        signal.pidfd_send_signal(fd, number)
    except ProcessLookupError:
        return False
    finally:
        os.close(fd)
    return True


def end_all(attempt_id: str, cgroup: str, root: int | None = None) -> bool:
    """SIGKILL the whole tree once; True if nothing was there to kill."""
    if cgroup and populated(cgroup):
        with contextlib.suppress(OSError), open(f"{cgroup}/cgroup.kill", "w", encoding="ascii") as file:
            file.write("1")
    found = members(attempt_id, root)
    for pid, start in found.items():
        with contextlib.suppress(PermissionError):
            send(pid, start, signal.SIGKILL)
    return not found and not populated(cgroup)


# --- cgroup v2 ------------------------------------------------------------------------------


def make_cgroup(attempt_id: str) -> str:
    """A fresh cgroup below ours, or "" where that is not allowed."""
    try:
        own = _own_cgroup()
        path = os.path.join(own, CGROUP + attempt_id) if own else ""
        if path and not os.path.isdir(path):
            os.mkdir(path)
        if path and not os.access(f"{path}/cgroup.procs", os.W_OK):
            return ""
    except OSError:
        return ""
    with contextlib.suppress(OSError), open(f"{path}/memory.oom.group", "r+", encoding="ascii") as file:
        file.write("1")  # half a job is of no use: the kernel ends all of it or none
    return path


def _own_cgroup() -> str:
    with open("/proc/self/cgroup", encoding="utf-8") as file:
        ours = re.search(r"^0::(.*)$", file.read(), re.MULTILINE)
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        mount = re.search(r"^\S+ \S+ \S+ (\S+) (\S+) .* - cgroup2 ", file.read(), re.MULTILINE)
    if not ours or not mount:
        return ""
    inside = os.path.relpath(ours[1], mount[1])  # the mount may show only a part of the hierarchy
    return "" if inside.startswith("..") else os.path.normpath(os.path.join(mount[2], inside))


def cgroups() -> dict[str, str]:
    """``{attempt id: path}`` of the attempts' cgroups that stand below ours."""
    try:
        own = _own_cgroup()
        names = os.listdir(own) if own else []
    except OSError:
        return {}
    return {name[len(CGROUP) :]: os.path.join(own, name) for name in names if name.startswith(CGROUP)}


def populated(cgroup: str) -> bool:
    return bool(cgroup) and _counter(f"{cgroup}/cgroup.events", "populated") > 0


def remove_cgroup(cgroup: str) -> None:
    """Only an empty one, and its empty children, can go; what can't stays."""
    if not cgroup:
        return
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def _counter(path: str, key: str) -> int:
    """The number after `key` in a flat-keyed kernel file, 0 if it can't be had."""
    try:
        with open(path, encoding="ascii") as file:
            found = re.search(rf"^{key} (\d+)$", file.read(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


# --- one attempt ----------------------------------------------------------------------------


class Supervisor:
    """Launches what ``launch.json`` says and stays until it, and all it started, has ended."""

    def __init__(self, folder: str, launch: dict[str, Any], lock: int) -> None:
        self.folder = folder
        self.launch = launch
        self.id = str(launch["attempt_id"])
        self.lock = lock
        self.pid = 0
        self.started = 0.0
        self.launched = 0.0  # the same moment, on the clock that nobody sets
        self.cgroup = ""
        self.stopping = ""  # the reason, once something asked for the end
        self.cause = ""
        self.detail = ""
        self.free_bytes = FULL_BYTES
        self.kill_at = float("inf")
        self.deadline = float("inf")
        self.oom_before = 0

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    # Everything that can fail, while failing still means "not started".

    def ready(self) -> tuple[list[str], dict[str, str], list[int]]:
        """``(argv, environment, [stdin, stdout, stderr])``. Raises `OSError`, `ValueError`, `KeyError`."""
        argv = [str(word) for word in self.launch["argv"]]
        if not os.access(argv[0], os.X_OK):
            raise FileNotFoundError(errno.ENOENT, "no such program", argv[0])
        env = {**os.environ, **self.launch["env"], **(read_json(self.path("secrets.json")) or {})}
        env |= {ID_VARIABLE: self.id, FOLDER_VARIABLE: self.folder}
        env |= {"PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"}
        os.makedirs(self.launch["out"], exist_ok=True)
        os.chdir(self.launch["cwd"])
        append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        files = [os.open(os.devnull, os.O_RDONLY)]
        files += [os.open(self.path(name), append, 0o600) for name in ("stdout", "stderr")]
        os.set_inheritable(self.lock, True)
        self._hold(self.launch.get("holds", ()))
        _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        self.cgroup = make_cgroup(self.id)
        self.oom_before = _counter("/proc/vmstat", "oom_kill")
        self.deadline = uptime() + float(self.launch["timeout_s"])
        return argv, env, files

    def _hold(self, paths: Iterable[str]) -> None:
        """Share these locks with all that runs of the attempt: nobody removes what it runs in."""
        for path in paths:
            with contextlib.suppress(OSError):  # it runs without, then
                fd = os.open(path, os.O_RDWR)
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                os.set_inheritable(fd, True)

    def publish_go(self) -> None:
        """The point of no return. Only the lock's holder comes here, so nobody has published it before."""
        self.started, self.launched = time.time(), uptime()
        found = process(os.getpid())
        go = {
            "attempt_id": self.id,
            "pid": os.getpid(),
            "start_time": found[1] if found else 0,
            "boot_id": boot_id(),
            "started": self.started,
            "uptime": self.launched,
            "deadline": self.deadline,
            "cgroup": self.cgroup,
        }
        if not publish_json(self.path("go"), go):
            raise FileExistsError(errno.EEXIST, "launched before", self.path("go"))

    def spawn(self, argv: list[str], env: dict[str, str], files: list[int]) -> None:
        """Fork and exec. Raises `OSError` with the child's errno if the exec failed."""
        readable, writable = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(readable)
            self._become(argv, env, files, writable)
        os.close(writable)
        with open(readable, "rb") as report:
            failed = report.read()
        if failed:
            os.waitpid(self.pid, 0)
            raise OSError(int(failed), os.strerror(int(failed)), argv[0])

    def _become(self, argv: list[str], env: dict[str, str], files: list[int], report: int) -> NoReturn:
        try:
            os.setsid()
            self._enter_cgroup()
            for number, fd in enumerate(files):
                os.dup2(fd, number)
            for number in (signal.SIGPIPE, signal.SIGXFSZ, *WATCHED):
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, set())
            os.execve(argv[0], argv, env)
        except OSError as error:
            os.write(report, str(error.errno).encode())
        finally:
            os._exit(127)

    def _enter_cgroup(self) -> None:
        entries = [(f"{self.cgroup}/cgroup.procs", "0")] if self.cgroup else []
        # When memory runs out, the kernel should take the payload rather than the daemon.
        for path, value in [*entries, ("/proc/self/oom_score_adj", "500")]:
            with contextlib.suppress(OSError), open(path, "w", encoding="ascii") as file:
                file.write(value)

    # From here on it has started, and ends exactly once.

    def supervise(self) -> dict[str, Any]:
        """Wait for the payload, end what it leaves, and say how it went: the content of exit.json."""
        status, usage = self._wait()
        self._end_the_rest()
        code = os.waitstatus_to_exitcode(status)
        return {
            "reason": self._reason(code),
            "code": code if code >= 0 else None,
            "signal": -code if code < 0 else None,
            "started": self.started,
            "ended": time.time(),
            "seconds": round(uptime() - self.launched, 3),
            "disk_full": min(self.free_bytes, free_bytes(self.folder)) < FULL_BYTES,
            "cause": self.cause,
            "max_rss_bytes": usage.ru_maxrss * 1024,
            "cpu_seconds": round(usage.ru_utime + usage.ru_stime, 3),
            "detail": self.detail,
        }

    def _end_the_rest(self) -> None:
        give_up_at = uptime() + UNKILLABLE_S
        while not end_all(self.id, self.cgroup, os.getpid()):
            self._reap()
            if uptime() > give_up_at:
                self.detail = "some of its processes could not be ended"
                return
            time.sleep(0.005)

    def _wait(self) -> tuple[int, Any]:
        while True:
            if ended := self._reap():
                return ended
            self._watch_the_clock()
            self._cap_logs()
            self.free_bytes = free_bytes(self.folder)
            wake = min(TICK_S, max(0.0, min(self.deadline, self.kill_at) - uptime()))
            info = signal.sigtimedwait(WATCHED, wake)
            if not self.stopping:
                self._stop_if_asked(info)

    def _reap(self) -> tuple[int, Any] | None:
        """Collect all children that ended, orphans of the payload too; ``(status, usage)`` of the payload."""
        ended = None
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            if pid == self.pid:
                ended = (status, usage)

    def _watch_the_clock(self) -> None:
        if uptime() >= self.kill_at:
            end_all(self.id, self.cgroup, os.getpid())
            self.kill_at = uptime() + 0.1
        elif uptime() >= self.deadline and not self.stopping:
            self.detail = f"it ran past its limit of {float(self.launch['timeout_s']):g} s and was ended"
            self._stop("timed_out", float(self.launch.get("grace_s", GRACE_S)))

    def _stop_if_asked(self, info: signal.struct_siginfo | None) -> None:
        grace_s = float(self.launch.get("grace_s", GRACE_S))
        if asked := read_json(self.path("stop.json")):
            self.cause, self.detail = asked.get("cause", ""), asked.get("detail", "")[:DETAIL_CHARS]
            self._stop(asked["reason"], float(asked.get("grace_s", grace_s)))
        elif info and info.si_signo != signal.SIGCHLD:
            self.detail = f"{signal.Signals(info.si_signo).name} to the shim from pid {info.si_pid}"
            self._stop("cancelled", grace_s)

    def _stop(self, reason: str, grace_s: float) -> None:
        self.stopping = reason
        self.deadline, self.kill_at = float("inf"), uptime() + grace_s
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGTERM)

    def _cap_logs(self) -> None:
        for name in ("stdout", "stderr"):
            with contextlib.suppress(OSError):
                cap_log(self.path(name))

    def _reason(self, code: int) -> str:
        if self.stopping:
            return self.stopping
        machine_ran_out = _counter("/proc/vmstat", "oom_kill") > self.oom_before
        cgroup_ran_out = bool(self.cgroup) and _counter(f"{self.cgroup}/memory.events", "oom_kill") > 0
        if code and machine_ran_out:
            self.detail = "the kernel ended a process for lack of memory meanwhile"
        if code and (cgroup_ran_out or (machine_ran_out and code == -signal.SIGKILL)):
            return "out_of_memory"
        return "exited" if code >= 0 else "signalled"


def cap_log(path: str, cap: int = LOG_CAP, head: int = LOG_HEAD) -> None:
    """Free the middle of a log above `cap` bytes. Offsets stay: readers find zero bytes there."""
    status = os.stat(path)
    if status.st_blocks * 512 <= cap:
        return
    hole = (ctypes.c_int64(head), ctypes.c_int64(status.st_size - head - cap // 2))
    with open(path, "r+b") as file:
        if _libc.fallocate(file.fileno(), _PUNCH_HOLE_KEEP_SIZE, *hole) != 0:
            file.truncate(0)  # a file system without holes


def free_bytes(folder: str) -> int:
    """Room that this user has left on the folder's file system; plenty, if it can't be had."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return FULL_BYTES
    return found.f_frsize * (found.f_bavail if os.geteuid() else found.f_bfree)


def not_started(reason: str, detail: str, cause: str = "") -> dict[str, Any]:
    """The exit record of an attempt whose payload never ran."""
    now = time.time()
    went: dict[str, Any] = {"reason": reason, "code": None, "signal": None, "started": now, "ended": now}
    went |= {"seconds": 0.0, "disk_full": False, "cause": cause, "detail": detail[:DETAIL_CHARS]}
    return went | {"max_rss_bytes": 0, "cpu_seconds": 0.0}


def run(folder: str) -> None:
    """One attempt from lock to ``exit.json``; returns at once if there is nothing left to start."""
    lock = open_lock(folder)
    launch = read_json(os.path.join(folder, "launch.json"))
    if launch is None or not try_lock(lock):
        return
    if any(os.path.exists(os.path.join(folder, name)) for name in ("go", "exit.json")):
        return
    supervisor = Supervisor(folder, launch, lock)
    ending = start(supervisor)
    if ending is None:
        ending = supervisor.supervise()
    persist(lambda: publish_json(supervisor.path("exit.json"), ending))
    remove_cgroup(supervisor.cgroup)


def start(supervisor: Supervisor) -> dict[str, Any] | None:
    """None once the payload runs, otherwise why it does not: an exit record."""
    try:
        argv, env, files = supervisor.ready()
        if asked := read_json(supervisor.path("stop.json")):
            detail = asked.get("detail", "") or "before it had started"
            return not_started("cancelled", detail, asked.get("cause", ""))
        if signal.sigpending() & WATCHED:
            return not_started("cancelled", "before it had started")
        supervisor.publish_go()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(supervisor.path("secrets.json"))  # with `go` there, nobody needs it again
        supervisor.spawn(argv, env, files)
    except (OSError, ValueError, KeyError) as error:
        return not_started("unstartable", f"{type(error).__name__}: {error}")
    return None


def persist(write: Callable[[], object]) -> None:
    """Repeat `write` for a quarter of an hour: a disk that is full now may not be in a minute."""
    for _ in range(900):
        try:
            write()
            return
        except OSError:
            time.sleep(1.0)


# --- forked rather than started -------------------------------------------------------------


def serve(requests: int) -> None:
    """Fork a shim for each folder that is asked for on that socket, until nobody is left to ask.

    The answer is "ok" with the shim's pidfd, "ended", or the errno that kept it from being forked.
    """
    import socket  # a shim that is started by itself needs none

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel collects what has ended
    channel = socket.socket(fileno=requests)
    while folder := channel.recv(PATH_BYTES):
        try:
            pid = os.fork()
        except OSError as error:
            channel.send(str(error.errno).encode())
            continue
        if pid == 0:
            channel.close()
            _begin(os.fsdecode(folder))
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            channel.send(b"ended")
        else:
            socket.send_fds(channel, [b"ok"], [pidfd])
            os.close(pidfd)


def _begin(folder: str) -> NoReturn:
    """Be the shim of `folder`, in a process that was forked for it."""
    try:
        signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.setsid()
        log = os.open(os.path.join(folder, "shim.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        run(folder)
    except BaseException:  # noqa: BLE001 - the outermost edge of this process
        import traceback

        traceback.print_exc()
        os._exit(1)
    os._exit(0)


if __name__ == "__main__":
    if sys.argv[1] == SERVE:
        with contextlib.suppress(ConnectionError):
            serve(int(sys.argv[2]))
        sys.exit()
    signal.pthread_sigmask(signal.SIG_BLOCK, WATCHED)
    with contextlib.suppress(PermissionError):
        os.setsid()
    run(os.path.abspath(sys.argv[1]))
