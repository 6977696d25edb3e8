"""Deny, ask or allow: a pure function of a call and a rule set.

A rule set is a YAML file with the lists ``deny``, ``ask`` and ``allow``. They are tried in that
order, in each the first rule whose conditions all hold decides. A call that no rule speaks of is
asked about when it costs or reaches out, and allowed when it only reads. A rule without conditions
always holds. Nothing here reads a clock, a store or a network.
"""

from __future__ import annotations

import datetime
import fnmatch
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentd import documents
from agentd.sdk import Quote

__all__ = ["Call", "Decision", "Rule", "RuleSet", "decide", "load_rules"]

_COMPARISON = re.compile(r"\s*(<=|>=|<|>|==)\s*(-?\d+(?:\.\d+)?)\s*")


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(Strict):
    """Conditions, all of which must hold. Names and arguments are shell patterns."""

    name: str
    tools: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    surfaces: tuple[str, ...] = ()
    arguments: dict[str, str] = Field({}, description="argument name -> pattern of its value")
    read_only: bool | None = None
    open_world: bool | None = None
    usd: str = Field("", description='the most it may cost (price of its wall clock limit), as "<= 0.50"')
    hours: str = Field("", description="wall clock limit in hours")
    gpu_hours: str = ""
    remaining_usd: str = Field("", description="what the day's budget still holds")
    between: str = Field("", description='local time of day, as "08:00-18:00"')
    tainted: bool | None = None

    @field_validator("usd", "hours", "gpu_hours", "remaining_usd")
    @classmethod
    def _is_comparison(cls, value: str) -> str:
        if value and not _COMPARISON.fullmatch(value):
            raise ValueError('should be a comparison such as "<= 0.5"')
        return value

    @field_validator("between")
    @classmethod
    def _is_window(cls, value: str) -> str:
        if value:
            _window(value)
        return value


class RuleSet(Strict):
    """A named set; `description` is for the person who chooses it."""

    name: str
    description: str = ""
    deny: tuple[Rule, ...] = ()
    ask: tuple[Rule, ...] = ()
    allow: tuple[Rule, ...] = ()


class Call(Strict):
    """What the rules see of a call. `hours` is its wall clock limit, `max_micro_usd` the most it may cost."""

    tool: str
    arguments: dict[str, Any] = {}
    principal: str
    surface: str
    read_only: bool = False
    open_world: bool = False
    launches: bool = False
    quote: Quote = Quote()
    max_micro_usd: int = 0
    hours: float = 0.0
    remaining_micro_usd: int | None = None
    time: datetime.time = datetime.time(12, 0)
    tainted: bool = False
    price_known: bool = True


class Decision(Strict):
    """What was decided, and by which rule (``(none)`` when no rule spoke of the call)."""

    effect: Literal["deny", "ask", "allow"]
    rule: str
    why: str


def load_rules(path: Path) -> RuleSet:
    """Read a rule set. Raises `DataError` with line and field."""
    return documents.load(path, RuleSet)


def decide(rules: RuleSet, call: Call) -> Decision:
    """The first rule that holds, deny before ask before allow."""
    effects: tuple[tuple[Literal["deny", "ask", "allow"], tuple[Rule, ...]], ...] = (
        ("deny", rules.deny),
        ("ask", rules.ask),
        ("allow", rules.allow),
    )
    for effect, listed in effects:
        for rule in listed:
            if holds(rule, call):
                if effect == "allow" and call.launches and not call.price_known:
                    return Decision(effect="ask", rule=rule.name, why="what an hour here costs is not known")
                return Decision(effect=effect, rule=rule.name, why=f"rule {rule.name!r} of {rules.name!r}")
    if call.read_only or not (call.launches or call.open_world or call.max_micro_usd):
        return Decision(effect="allow", rule="(none)", why="no rule speaks of it, and it costs nothing")
    return Decision(effect="ask", rule="(none)", why="no rule speaks of it, and it costs or reaches out")


def holds(rule: Rule, call: Call) -> bool:
    """Whether all conditions of `rule` are met by `call`."""
    remaining = float("inf") if call.remaining_micro_usd is None else call.remaining_micro_usd / 1e6
    return (
        _matches(rule.tools, call.tool)
        and _matches(rule.principals, call.principal)
        and _matches(rule.surfaces, call.surface)
        and all(fnmatch.fnmatchcase(str(call.arguments.get(k, "")), v) for k, v in rule.arguments.items())
        and rule.read_only in (None, call.read_only)
        and rule.open_world in (None, call.open_world)
        and rule.tainted in (None, call.tainted)
        and _compare(rule.usd, call.max_micro_usd / 1e6)
        and _compare(rule.hours, call.hours)
        and _compare(rule.gpu_hours, call.quote.gpu_hours)
        and _compare(rule.remaining_usd, remaining)
        and (not rule.between or _within(rule.between, call.time))
    )


def _matches(patterns: tuple[str, ...], value: str) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns)


def _compare(comparison: str, value: float) -> bool:
    if not comparison:
        return True
    found = _COMPARISON.fullmatch(comparison)
    assert found is not None, "checked when the rule was read"
    sign, limit = found[1], float(found[2])
    return {
        "<=": value <= limit,
        ">=": value >= limit,
        "<": value < limit,
        ">": value > limit,
        "==": value == limit,
    }[sign]


def _window(text: str) -> tuple[datetime.time, datetime.time]:
    start, _, end = text.partition("-")
    return datetime.time.fromisoformat(start.strip()), datetime.time.fromisoformat(end.strip())


def _within(window: str, now: datetime.time) -> bool:
    """Inside the window, which may go past midnight."""
    start, end = _window(window)
    return start <= now < end if start <= end else now >= start or now < end
