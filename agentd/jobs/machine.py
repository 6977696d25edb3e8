"""What may become of a job, as data.

    queued ─────── prepare ──▶ preparing ── launch ──▶ running ──▶ succeeded
      │ ▲ ▲             │                                │  ├────▶ failed
     ask│ │ approve     └── requeue ──▶ queued           │  ├────▶ timed_out
      ▼ │ └───────────────────────── retry ──────────────┘  ├────▶ lost
    waiting_approval ── deny, expire ──▶ cancelled ◀─ cancel┘

Five states end a job for good. A job that failed is tried again only as often as was approved, each
time as a new attempt with a reservation of its own, and only where trying again can help (`again`);
after that, doing it again is a new job with its own approval. `advance` is the only way from state to
state; it knows nothing of rows, files or processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from agentd.errors import Conflict
from agentd.sdk import Cause, JobState

__all__ = [
    "ENDED",
    "EVENTS",
    "REPEATED",
    "TRANSITIONS",
    "JobEvent",
    "advance",
    "again",
    "allowed",
    "event_of",
    "pause_s",
]

JobEvent = Literal[
    "ask",  # policy wants a person's word
    "approve",  # a person gave it
    "deny",  # a person refused
    "expire",  # nobody answered in time
    "prepare",  # a slot is free: build the environment, write the attempt
    "requeue",  # the daemon stopped while preparing, or it must be decided again; nothing was launched
    "launch",  # the attempt's shim published `go`
    "retry",  # the attempt failed, and another one was approved
    "succeed",  # it exited with 0 and left a whole result
    "fail",  # it did not, or could not be started
    "time_out",  # the hard wall clock ended it
    "cancel",  # somebody asked for its end
    "lose",  # it was launched, is gone, and left no word; or it was launched and the store forgot
]
EVENTS: tuple[JobEvent, ...] = get_args(JobEvent)

TRANSITIONS: Mapping[tuple[JobState, JobEvent], JobState] = MappingProxyType(
    {
        ("queued", "ask"): "waiting_approval",
        ("queued", "prepare"): "preparing",
        ("queued", "fail"): "failed",
        ("queued", "cancel"): "cancelled",
        ("queued", "lose"): "lost",
        ("waiting_approval", "approve"): "queued",
        ("waiting_approval", "deny"): "cancelled",
        ("waiting_approval", "expire"): "cancelled",
        ("waiting_approval", "cancel"): "cancelled",
        ("waiting_approval", "lose"): "lost",
        ("waiting_approval", "requeue"): "queued",
        ("preparing", "requeue"): "queued",
        ("preparing", "launch"): "running",
        ("preparing", "fail"): "failed",
        ("preparing", "cancel"): "cancelled",
        ("preparing", "lose"): "lost",
        ("running", "retry"): "queued",
        ("running", "succeed"): "succeeded",
        ("running", "fail"): "failed",
        ("running", "time_out"): "timed_out",
        ("running", "cancel"): "cancelled",
        ("running", "lose"): "lost",
    }
)
REPEATED: frozenset[Cause] = frozenset({"crashed", "exit_code", "io_error", "unstartable"})
"""Causes that may be gone the next time. The same input, memory, disk or clock would fail the same way."""
LONGEST_PAUSE_S = 60.0
ENDED: frozenset[JobState] = frozenset(get_args(JobState)) - {state for state, _ in TRANSITIONS}


def advance(state: JobState, event: JobEvent) -> JobState:
    """The state that `event` leads to from `state`. Raises `Conflict` when it leads nowhere."""
    try:
        return TRANSITIONS[state, event]
    except KeyError:
        can = ", ".join(allowed(state)) or "nothing: it has ended"
        raise Conflict(f"A job that is {state} cannot {event}", hint=f"It can {can}") from None


def allowed(state: JobState) -> tuple[JobEvent, ...]:
    """The events that lead somewhere from `state`; none once it has ended."""
    return tuple(event for event in EVENTS if (state, event) in TRANSITIONS)


def event_of(reason: str, code: int | None, has_result: bool) -> JobEvent:
    """What a finished attempt means for its job.

    `reason` and `code` are those of the attempt's exit record; a recipe has succeeded only if it
    exited with 0 *and* left a whole ``result.json``.
    """
    if reason == "exited" and code == 0 and has_result:
        return "succeed"
    if reason == "cancelled":
        return "cancel"
    return "time_out" if reason == "timed_out" else "fail"


def again(cause: Cause, *, number: int, attempts: int, repeatable: bool) -> bool:
    """Whether attempt `number` (from 1), which ended for `cause`, is followed by another of `attempts`.

    A lost attempt may have done its work without a word, so it is repeated only where that does no
    harm.
    """
    may_help = cause in REPEATED or (cause == "lost" and repeatable)
    return may_help and number < attempts


def pause_s(number: int) -> float:
    """Seconds to wait after attempt `number` (from 1): 1, 2, 4 … 60."""
    return min(LONGEST_PAUSE_S, 2.0 ** (number - 1))
