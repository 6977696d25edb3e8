"""Processes that nobody watches: found by what they carry, whatever the database says of them.

A payload and all it starts carry their attempt's folder in the environment, a shim writes to its log
there, and what builds an environment carries the state directory. So another state directory's
processes are never touched. Not covered: without a cgroup, a process that wiped its environment.
"""

# Paths are strings here: thousands of files of /proc are looked at, every half minute.
# ruff: noqa: PTH115,PTH123,PTH208

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path

from agentd.jobs import shim

__all__ = ["BUILDER_VARIABLE", "builders", "end", "of_attempts"]

BUILDER_VARIABLE = "AGENTD_BUILDER"
Processes = Mapping[int, int]  # {pid: start time}


def of_attempts(attempts: Path) -> dict[str, dict[int, int]]:
    """``{attempt id: {pid: start time}}`` of all live processes of attempts under that folder."""
    found: dict[str, dict[int, int]] = {}
    root = os.fsencode(attempts.absolute()) + b"/"
    mark = f"{shim.FOLDER_VARIABLE}=".encode() + root
    for pid, start in _live():
        folder = _marked(pid, mark) or _shims_folder(pid, root)
        if folder and b"/" not in folder:
            found.setdefault(os.fsdecode(folder), {})[pid] = start
    for attempt_id, group in shim.cgroups().items():
        if (attempts / attempt_id).is_dir():
            found.setdefault(attempt_id, {}).update(_in_cgroup(group))
    return {attempt_id: processes for attempt_id, processes in found.items() if processes}


def builders(state_dir: Path) -> dict[int, int]:
    """What an earlier daemon of this state directory had building environments, and still does."""
    mark, own = f"{BUILDER_VARIABLE}={state_dir}".encode(), os.getpid()
    return {pid: start for pid, start in _live() if pid != own and _marked(pid, mark) == b""}


def end(processes: Processes) -> list[int]:
    """SIGKILL; returns the pids that were still the processes they had been."""
    return [pid for pid, start in processes.items() if shim.send(pid, start, signal.SIGKILL)]


def _live() -> Iterator[tuple[int, int]]:
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        if (found := shim.process(pid)) is not None:
            yield pid, found[1]


def _marked(pid: int, mark: bytes) -> bytes | None:
    """What follows `mark` in the environment of a process; None if it is not there."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            entries = file.read().split(b"\0")
    except OSError:  # gone meanwhile, or somebody else's
        return None
    return next((entry[len(mark) :] for entry in entries if entry.startswith(mark)), None)


def _shims_folder(pid: int, root: bytes) -> bytes | None:
    """The attempt whose shim this is: its output goes to the ``shim.log`` there."""
    try:
        log = os.readlink(f"/proc/{pid}/fd/1".encode())
    except OSError:
        return None
    return (
        log[len(root) : -len(b"/shim.log")] if log.startswith(root) and log.endswith(b"/shim.log") else None
    )


def _in_cgroup(path: str) -> dict[int, int]:
    try:
        with open(f"{path}/cgroup.procs", encoding="ascii") as file:
            pids = [int(line) for line in file]
    except OSError:
        return {}
    return {pid: found[1] for pid in pids if (found := shim.process(pid)) is not None}
