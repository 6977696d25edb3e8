"""Example calls with the decision a rule set should come to: the tests of a rule set.

A file of them names the set and lists calls; what is not said of a call is as harmless as can be.
Whether a tool reads, launches or reaches out is looked up in the tools, unless the example says it.
"""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from agentd.errors import NotFound
from agentd.policy.rules import DAYS, Call, Day, Decision, Effect, RuleSet, Trial, explain, with_defaults
from agentd.sdk import Quote, Tool
from agentd.store.tokens import Role

__all__ = ["Asked", "Example", "Examples", "Outcome", "call_of", "moment", "tried"]


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Asked(Strict):
    """A call as rules see it, said briefly. Money is in US dollars."""

    tool: str
    arguments: dict[str, Any] = {}
    principal: str = "agent:ann"
    role: Role = "operate"
    surface: str = "mcp"
    usd: float = Field(0.0, ge=0, description="the most it may cost")
    quoted_usd: float = Field(0.0, ge=0, description="what it is expected to cost")
    hours: float = Field(0.0, ge=0, description="wall clock limit")
    gpu_hours: float = Field(0.0, ge=0, description="quoted GPU-hours")
    remaining_usd: float | None = Field(None, description="left of the budget; no limit unless said")
    at: str = Field("wed 12:00", description="local day and time")
    tainted: bool = False
    price_known: bool = True
    read_only: bool | None = Field(None, description="as the tool says, unless given")
    open_world: bool | None = Field(None, description="as the tool says, unless given")
    launches: bool | None = Field(None, description="as the tool says, unless given")

    @field_validator("at")
    @classmethod
    def _is_moment(cls, value: str) -> str:
        moment(value)
        return value


class Example(Asked):
    """A call, and what should come of it: the decision, and if they matter the rule and how many people."""

    expect: Effect
    rule: str = ""
    people: int | None = None


class Examples(Strict):
    """What a file of examples holds. `rules` is a name in policies/, or a path from the file."""

    rules: str
    calls: tuple[Example, ...] = Field(min_length=1)


class Outcome(Strict):
    """What came of an example."""

    example: Example
    decision: Decision
    trials: list[Trial]

    @property
    def as_expected(self) -> bool:
        wanted, found = self.example, self.decision
        return (
            wanted.expect == found.effect
            and wanted.rule in ("", found.rule)
            and wanted.people in (None, found.people)
        )


def moment(text: str) -> tuple[Day, datetime.time]:
    """``sat 22:30`` as day and time. Raises `ValueError`."""
    day, _, time = text.partition(" ")
    if day not in DAYS:
        raise ValueError(
            f'should be a day and a time such as "sat 22:30": {day!r} is none of {", ".join(DAYS)}'
        )
    return day, datetime.time.fromisoformat(time.strip())


def call_of(asked: Asked, tools: Mapping[str, Tool]) -> Call:
    """The call in full. Raises `NotFound` for a tool that is neither there nor described."""
    tool = tools.get(asked.tool)
    said = (asked.read_only, asked.open_world, asked.launches)
    if tool is None and None in said:
        raise NotFound("tool", asked.tool, tools)
    own = (tool.read_only, tool.open_world, tool.launches) if tool else (False, False, False)
    read_only, open_world, launches = (b if a is None else a for a, b in zip(said, own, strict=True))
    day, time = moment(asked.at)
    return Call(
        tool=asked.tool,
        arguments=with_defaults(tool, asked.arguments),
        principal=asked.principal,
        role=asked.role,
        surface=asked.surface,
        read_only=read_only,
        open_world=open_world,
        outward=open_world if asked.open_world is not None or tool is None else tool.outward,
        launches=launches,
        quote=Quote(
            micro_usd=round(asked.quoted_usd * 1e6),
            gpu_hours=asked.gpu_hours,
            doubt="" if asked.price_known else "its price is not known",
        ),
        max_micro_usd=round(asked.usd * 1e6),
        hours=asked.hours,
        remaining_micro_usd=None if asked.remaining_usd is None else round(asked.remaining_usd * 1e6),
        time=time,
        day=day,
        taint=("untrusted text",) if asked.tainted else (),
    )


def tried(rules: RuleSet, examples: Examples, tools: Mapping[str, Tool]) -> list[Outcome]:
    """Every example put to the rules."""
    outcomes: list[Outcome] = []
    for example in examples.calls:
        decision, trials = explain(rules, call_of(example, tools))
        outcomes.append(Outcome(example=example, decision=decision, trials=trials))
    return outcomes
