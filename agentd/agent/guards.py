"""What ends a run that goes nowhere: limits, loops, invented tools, wrong arguments, unfounded claims.

Pure functions of what was done. A guard that fires has a name, says why, and what to do next; what it
does not cover: a model that does different useless things, within its limits.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = ["Fired", "Limits", "Made", "Outcome", "Used", "denied_before", "looping", "mistaken", "over",
           "repeats", "unfounded"]  # fmt: skip

Outcome = Literal["done", "failed", "unknown_tool", "wrong_arguments", "denied"]

TIMES = 3
"""A call, or a cycle of calls, that is made so often with the same results goes nowhere."""
LONGEST_CYCLE = 5
MENDS = 2
"""How often in a row a mistake in a call is told to the model, before that ends the run."""

_ID = re.compile(r"\b(?:job|run|rep|report|art|artifact|apr|req|ds|mdl)-[0-9a-z][0-9a-z-]{5,}\b")
_DIGEST = re.compile(r"\b[0-9a-f]{12,64}\b")
_NUMBER = re.compile(r"(?<![\w.-])\d+(?:,\d{3})*(?:\.\d+)?(?![\w.]*\w)")
_CLAIM = re.compile(r"\b([a-z]+(?:-[a-z]+)?ed)\b", re.IGNORECASE)
_NOT = re.compile(
    r"\b(?:not|never|no|nothing|would|could|should|can|might|if|before|until|without|denied|failed|refused)\b"
    r"|n't\b",
    re.IGNORECASE,
)


class Limits(BaseModel):
    """What one run may take. Money is that of its requests to models and of its jobs, together."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    steps: int = Field(30, ge=1, le=1000, description="calls of tools")
    tokens: int = Field(500_000, ge=1, description="into and out of the model")
    usd: float = Field(1.0, ge=0, description="for its requests to models and its jobs")
    hours: float = Field(168.0, gt=0, description="from its start, sleep included")


@dataclass(frozen=True, slots=True)
class Used:
    """What a run has taken so far."""

    steps: int = 0
    tokens: int = 0
    micro_usd: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Made:
    """One call that was made: arguments and result as canonical texts or digests of them.

    Calls of one `turn` were asked for by one reply; 0 is one of its own.
    """

    step: str
    tool: str
    arguments: str
    outcome: Outcome
    result: str = ""
    turn: int = 0

    @property
    def same(self) -> tuple[str, str, str, str]:
        return self.tool, self.arguments, self.outcome, self.result


@dataclass(frozen=True, slots=True)
class Fired:
    """A guard that fired: its name, why, and the option that would let the run go on."""

    guard: str
    why: str
    more: str = ""

    def __str__(self) -> str:
        return f"guard {self.guard!r}: {self.why}"


def over(limits: Limits, used: Used) -> Fired | None:
    """The limit that is reached, if one is: looked at before each request."""
    if used.steps >= limits.steps:
        return Fired("steps", f"{used.steps} steps were made", f"--max-steps {limits.steps * 2}")
    if used.tokens >= limits.tokens:
        return Fired("tokens", f"{used.tokens} tokens were used", f"--max-tokens {limits.tokens * 2}")
    if used.micro_usd >= limits.usd * 1e6 and used.micro_usd:
        spent = f"${used.micro_usd / 1e6:.6g} of ${limits.usd:g} were spent"
        return Fired("money", spent, f"--max-usd {limits.usd * 2:g}")
    if used.seconds >= limits.hours * 3600:
        return Fired(
            "time", f"it began {used.seconds / 3600:.1f} hours ago", f"--max-hours {limits.hours * 2:g}"
        )
    return None


def repeats(made: Sequence[Made]) -> str:
    """The step that the last call repeats, result and all; empty when it is new."""
    if not made:
        return ""
    return next((each.step for each in made[:-1] if each.same == made[-1].same), "")


def looping(made: Sequence[Made]) -> Fired | None:
    """The same call over and over, or a cycle of two to five, each time with the same results."""
    for length in range(1, LONGEST_CYCLE + 1):
        last = [each.same for each in made[-length * TIMES :]]
        if len(last) < length * TIMES or last != last[:length] * TIMES:
            continue
        tools = " → ".join(each.tool for each in made[-length:])
        if length == 1:
            return Fired("repeated", f"{tools} was called {TIMES} times with the same arguments and result")
        return Fired("cycle", f"{tools} was gone through {TIMES} times with the same results")
    return None


def mistaken(made: Sequence[Made]) -> Fired | None:
    """Tools that are not there, or arguments that cannot be, in more replies in a row than is put up with.

    Several mistakes of one reply are told together, so they count once.
    """
    replies = [list(calls) for _, calls in groupby(made, key=lambda each: each.turn or each.step)]
    if len(replies) <= MENDS:
        return None
    last = [each for calls in replies[-MENDS - 1 :] for each in calls]
    if all(each.outcome == "unknown_tool" for each in last):
        names = ", ".join(dict.fromkeys(repr(each.tool) for each in last))
        return Fired("unknown_tool", f"{len(last)} calls in a row named tools that are not there: {names}")
    if all(each.outcome == "wrong_arguments" and each.tool == last[0].tool for each in last):
        return Fired("wrong_arguments", f"{last[0].tool} was called wrongly {len(last)} times in a row")
    return None


def denied_before(made: Sequence[Made], tool: str, arguments: str) -> str:
    """The step in which exactly this was denied; empty if it was not."""
    return next(
        (
            each.step
            for each in made
            if each.outcome == "denied" and (each.tool, each.arguments) == (tool, arguments)
        ),
        "",
    )


def unfounded(
    answer: str, grounds: str, done: Iterable[str], tools: Iterable[str]
) -> tuple[list[str], list[str]]:
    """What an answer claims that no step gave: ids and deeds first, then numbers.

    `grounds` is all that was given: goal, results. `done` are tools that succeeded, `tools` those that change
    something. A number counts as given when one of `grounds` rounds to it, as it is or as a percentage.
    Not covered: words, and numbers below 100 without a decimal point.
    """
    names = {*_ID.findall(answer), *(each for each in _DIGEST.findall(answer) if not each.isdecimal())}
    claims = sorted(name for name in names if name not in grounds)
    made, able = {_plain(name) for name in done}, {_plain(name): name for name in tools}
    for sentence in re.split(r"(?<=[.!?\n])\s+", answer):
        if _NOT.search(sentence):
            continue
        for word in _CLAIM.findall(sentence):
            stem = _plain(word)[:-2]
            meant = next((name for name in able if len(stem) > 3 and name.startswith(stem)), "")
            if meant and not any(name.startswith(stem) for name in made) and word not in grounds:
                claims.append(f"{word} (no {able[meant]} was carried out)")
    given = [float(each.replace(",", "")) for each in _NUMBER.findall(grounds)]
    numbers = [each for each in dict.fromkeys(_NUMBER.findall(answer)) if not _is_given(each, given)]
    return list(dict.fromkeys(claims)), numbers


def _plain(name: str) -> str:
    return re.sub(r"[-_]", "", name.lower())


def _is_given(text: str, given: Sequence[float]) -> bool:
    plain = text.replace(",", "")
    value, digits = float(plain), len(plain.partition(".")[2])
    if not digits and value < 100:
        return True
    return any(round(each * scale, digits) == value for each in given for scale in (1, 100, 0.01))
