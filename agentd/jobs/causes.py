"""Why an attempt or a job ended: one word for programs, one sentence for people. Pure functions.

What is known of an end, in the order in which it is believed: what asked for it (a person, the wall
clock), what the kernel did, what the recipe itself said, and, when it said nothing, the last words of
its log and whether its disk was full.
"""

from __future__ import annotations

import errno
import re
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, cast, get_args

from agentd.errors import AgentdError
from agentd.jobs.attempts import Exit
from agentd.sdk import Cause

__all__ = ["NAMED", "Said", "cause_of", "cause_of_error", "said_in", "sentence"]

NAMED: tuple[Cause, ...] = (
    "input",
    "unavailable",
    "no_accelerator",
    "out_of_memory",
    "disk_full",
    "io_error",
    "nan_loss",
)
"""What a recipe's error event may give as its `cause`."""

CRASHES = frozenset(
    {
        signal.SIGSEGV,
        signal.SIGABRT,
        signal.SIGBUS,
        signal.SIGILL,
        signal.SIGFPE,
        signal.SIGSYS,
        signal.SIGTRAP,
    }
)
WORDS: Mapping[Cause, re.Pattern[str]] = MappingProxyType(
    {
        "disk_full": re.compile(
            r"No space left on device|Disk quota exceeded|StorageFull|database or disk is full"
        ),
        "out_of_memory": re.compile(
            r"\bMemoryError\b|OutOfMemoryError|std::bad_alloc|[Cc]an(no|')t allocate memory"
            r"|(CUDA|HIP) (error: )?out of memory"
        ),
        "no_accelerator": re.compile(
            r"No (CUDA|HIP) GPUs are available|Found no NVIDIA driver|not compiled with CUDA enabled"
            r"|no CUDA-capable device|CUDA driver version is insufficient|Failed to infer device type"
        ),
        "io_error": re.compile(r"Input/output error|disk I/O error|Read-only file system|Stale file handle"),
        "crashed": re.compile(r"Fatal Python error: (Segmentation fault|Aborted|Bus error)"),
    }
)
"""What programs say when it happens to them, and say nothing else that we could read."""
OF_ERRNO: Mapping[int | None, Cause] = MappingProxyType(
    {
        errno.ENOSPC: "disk_full",
        errno.EDQUOT: "disk_full",
        errno.EIO: "io_error",
        errno.EROFS: "io_error",
        errno.ESTALE: "io_error",
        errno.ENOMEM: "out_of_memory",
    }
)
OF_CODE: Mapping[str, Cause] = MappingProxyType(
    {
        "invalid": "input",
        "not_found": "input",
        "bad_data": "input",
        "conflict": "changed",
        "refused": "denied",
        "denied": "denied",
        "needs_approval": "denied",
        "unauthorized": "denied",
        "over_budget": "over_budget",
        "unavailable": "unavailable",
        "busy": "unavailable",
        "disk_full": "disk_full",
        "unknown": "io_error",
    }
)
SHOWN_CHARS = 400


@dataclass(frozen=True, slots=True)
class Said:
    """The recipe's own error event; empty when there was none."""

    message: str = ""
    hint: str = ""
    cause: str = ""


def said_in(event: Mapping[str, Any]) -> Said:
    """An error event, whatever types its fields have."""
    return Said(*(str(event.get(name) or "") for name in ("message", "hint", "cause")))


def cause_of(exit: Exit, said: Said, log: Sequence[str]) -> Cause:
    """Why an attempt that did not succeed ended. `log` is the end of its log, oldest line first."""
    if exit.reason in ("timed_out", "cancelled"):
        return cast("Cause", exit.cause) if exit.cause in get_args(Cause) else exit.reason
    if exit.reason == "out_of_memory":
        return "out_of_memory"
    if exit.reason == "unstartable":
        return _in_words([exit.detail]) or "unstartable"
    if exit.reason == "exited" and said.message:
        named: dict[str, Cause] = {cause: cause for cause in NAMED}
        return named.get(said.cause, "input")
    if guess := _in_words(log) or ("disk_full" if exit.disk_full else None):
        return guess
    if number := exit.signal or (exit.code - 128 if exit.code and exit.code > 128 else 0):
        if number in CRASHES:
            return "crashed"
        return "killed" if exit.signal else "exit_code"
    return "exit_code" if exit.code else "no_result"


def sentence(cause: Cause, exit: Exit, said: Said, log: Sequence[str]) -> str:
    """The same, for people: what the recipe said, else how it ended and its last words."""
    if exit.reason == "exited" and said.message:
        return f"{said.message}. {said.hint}" if said.hint else said.message
    if exit.reason == "timed_out":
        return exit.detail or f"it was ended after {exit.seconds:.0f} s: its time was up"
    if exit.reason == "cancelled":
        return exit.detail or "cancelled"
    if exit.reason == "out_of_memory":
        return "it ran out of memory and was killed"
    last = next((line.strip() for line in reversed(log) if line.strip()), "")
    detail = exit.detail or _telling(cause, log) or last
    return f"it {_how(cause, exit)}" + (f": {detail[:SHOWN_CHARS]}" if detail else "")


def cause_of_error(error: BaseException) -> Cause:
    """What an error in the daemon means for the job it was raised in."""
    under = error.__cause__
    if isinstance(error, AgentdError):
        if isinstance(under, OSError) and under.errno in OF_ERRNO:
            return OF_ERRNO[under.errno]
        return _in_words([error.message]) or OF_CODE.get(error.code, "internal")
    if isinstance(error, OSError):
        return OF_ERRNO.get(error.errno, "internal")
    return "out_of_memory" if isinstance(error, MemoryError) else "internal"


def _in_words(lines: Sequence[str]) -> Cause | None:
    """The cause that the last telling line names."""
    for line in reversed(lines):
        for cause, words in WORDS.items():
            if words.search(line):
                return cause
    return None


def _telling(cause: Cause, log: Sequence[str]) -> str:
    """The last line of the log that names `cause`."""
    words = WORDS.get(cause)
    return next((line.strip() for line in reversed(log) if words and words.search(line)), "")


def _how(cause: Cause, exit: Exit) -> str:
    if exit.reason == "unstartable":
        return "could not be started"
    if cause == "out_of_memory":
        return "ran out of memory"
    if cause == "disk_full":
        return "ended because the disk was full"
    if exit.signal:
        name = signal.Signals(exit.signal).name if exit.signal in set(signal.Signals) else "?"
        told = (signal.strsignal(exit.signal) or "").lower()
        return (
            f"crashed: {told} ({name})"
            if cause == "crashed"
            else f"was killed by signal {exit.signal} ({name})"
        )
    return f"exited with {exit.code}"
