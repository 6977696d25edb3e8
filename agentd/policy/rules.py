"""Deny, ask or allow: a pure function of a call and a rule set.

A rule set is a YAML file with the lists ``deny``, ``ask`` and ``allow``. They are tried in that
order, in each the first rule whose conditions all hold decides. A call that no rule speaks of is
asked about when it costs or reaches out, and allowed when it only reads. A rule without conditions
always holds. Nothing here reads a clock, a store or a network.

One thing no rule can allow: a caller that has read text which is not to be trusted asks a person before
every call that changes something, costs, or reaches out.
"""

from __future__ import annotations

import datetime
import fnmatch
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from agentd import documents
from agentd.policy.taint import listed
from agentd.sdk import Quote, Tool
from agentd.store.tokens import Role

__all__ = [
    "DAYS",
    "TAINTED",
    "Call",
    "Day",
    "Decision",
    "Effect",
    "Rule",
    "RuleSet",
    "Trial",
    "decide",
    "explain",
    "load_rules",
    "unmet",
    "with_defaults",
]

Effect = Literal["deny", "ask", "allow"]
Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = get_args(Day)

TAINTED = "(tainted)"
"""Stands for the rule where a call is asked about for what its caller has read."""

_COMPARISON = re.compile(r"\s*(<=|>=|<|>|==)\s*(-?\d+(?:\.\d+)?)\s*")


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(Strict):
    """Conditions, all of which must hold; and of a question, who has to answer it."""

    name: str
    tools: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    roles: tuple[Role, ...] = Field((), description="roles of the token that it is asked with")
    surfaces: tuple[str, ...] = ()
    arguments: dict[str, bool | int | float | str] = Field(
        {}, description="argument name -> pattern of its value, comparison, or the value; defaults count"
    )
    read_only: bool | None = None
    open_world: bool | None = None
    usd: str = Field("", description='the most it may cost (price of its wall clock limit), as "<= 0.50"')
    quoted_usd: str = Field("", description="what it is expected to cost")
    hours: str = Field("", description="wall clock limit in hours")
    gpu_hours: str = ""
    remaining_usd: str = Field("", description="what the day's budget still holds")
    between: str = Field("", description='local time of day, as "08:00-18:00"')
    days: tuple[Day, ...] = Field((), description="local day of the week")
    tainted: bool | None = Field(None, description="whether it was led to by text that is not to be trusted")
    people: int = Field(1, ge=1, le=9, description="of an ask rule: how many people have to approve")
    requester_may_answer: bool = Field(
        True, description="of an ask rule: whether the one who asked may approve"
    )
    client_may_answer: bool = Field(
        False, description="of an ask rule: whether an answer given in the asking MCP client counts"
    )

    @field_validator("usd", "quoted_usd", "hours", "gpu_hours", "remaining_usd")
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
    """A named set; `description` is for the person who chooses it.

    What a rule allows is asked about when its price is unknown or too old, unless `doubtful_prices` says
    otherwise.
    """

    name: str
    description: str = ""
    doubtful_prices: Literal["ask", "allow"] = "ask"
    deny: tuple[Rule, ...] = ()
    ask: tuple[Rule, ...] = ()
    allow: tuple[Rule, ...] = ()

    @model_validator(mode="after")
    def _only_questions_are_answered(self) -> Self:
        for rule in (*self.deny, *self.allow):
            if rule.people != 1 or not rule.requester_may_answer:
                raise ValueError(
                    f"rule {rule.name!r}: 'people' and 'requester_may_answer' are for rules under 'ask'"
                )
            if rule.client_may_answer:
                raise ValueError(f"rule {rule.name!r}: 'client_may_answer' is for rules under 'ask'")
        for rule in self.ask:
            if rule.client_may_answer and (rule.people != 1 or not rule.requester_may_answer):
                raise ValueError(
                    f"rule {rule.name!r}: 'client_may_answer' does not go with 'people' above 1, nor with"
                    " 'requester_may_answer: false': a client answers for the one who asked"
                )
        return self


class Call(Strict):
    """What the rules see of a call. `hours` is its wall clock limit, `max_micro_usd` the most it may cost."""

    tool: str
    arguments: dict[str, Any] = {}
    principal: str
    role: Role = "operate"
    surface: str
    read_only: bool = False
    open_world: bool = False
    outward: bool = False
    launches: bool = False
    quote: Quote = Quote()
    max_micro_usd: int = 0
    hours: float = 0.0
    remaining_micro_usd: int | None = None
    time: datetime.time = datetime.time(12, 0)
    day: Day = "wed"
    taint: tuple[str, ...] = ()

    @property
    def tainted(self) -> bool:
        return bool(self.taint)

    @property
    def weighs(self) -> bool:
        """Whether it changes something, costs, or can carry text to a place that its caller chooses."""
        costs = self.max_micro_usd or self.quote.micro_usd or self.quote.gpu_hours
        return bool(not self.read_only or self.outward or self.launches or costs)


class Decision(Strict):
    """What was decided, and by which rule (``(none)`` when no rule spoke of the call)."""

    effect: Effect
    rule: str
    why: str
    people: int = 1
    requester_may_answer: bool = True
    client_may_answer: bool = False


class Trial(Strict):
    """A rule that was tried, and the conditions of it that were not met: none when it held."""

    effect: Effect
    rule: str
    unmet: tuple[str, ...] = ()


def load_rules(path: Path) -> RuleSet:
    """Read a rule set. Raises `DataError` with line and field."""
    return documents.load(path, RuleSet)


def decide(rules: RuleSet, call: Call) -> Decision:
    """The first rule that holds, deny before ask before allow."""
    return explain(rules, call)[0]


def explain(rules: RuleSet, call: Call) -> tuple[Decision, list[Trial]]:
    """The decision, and every rule that was tried on the way to it."""
    decision, trials = _ruled(rules, call)
    return (_guarded(decision, call) if call.tainted and call.weighs else decision), trials


def _guarded(decision: Decision, call: Call) -> Decision:
    """The decision about a tainted call that weighs: never granted by a rule, or by the one who asks."""
    if decision.effect == "deny":
        return decision
    rule = decision.rule if decision.effect == "ask" else TAINTED
    led = f"what led to it read {listed(call.taint)}, which may hold instructions of a stranger"
    why = f"{led}; {decision.why}" if decision.effect == "ask" else led
    changes = {"effect": "ask", "rule": rule, "why": why, "client_may_answer": False}
    return decision.model_copy(update=changes)


def _ruled(rules: RuleSet, call: Call) -> tuple[Decision, list[Trial]]:
    trials: list[Trial] = []
    listed: tuple[tuple[Effect, tuple[Rule, ...]], ...] = (
        ("deny", rules.deny),
        ("ask", rules.ask),
        ("allow", rules.allow),
    )
    for effect, candidates in listed:
        for rule in candidates:
            trials.append(Trial(effect=effect, rule=rule.name, unmet=tuple(unmet(rule, call))))
            if not trials[-1].unmet:
                return _decision(rules, effect, rule, call), trials
    costs = call.launches or call.open_world or call.max_micro_usd
    if call.read_only or not costs:
        return Decision(
            effect="allow", rule="(none)", why="no rule speaks of it, and it costs nothing"
        ), trials
    return Decision(
        effect="ask", rule="(none)", why="no rule speaks of it, and it costs or reaches out"
    ), trials


def _decision(rules: RuleSet, effect: Effect, rule: Rule, call: Call) -> Decision:
    doubt = call.quote.doubt if call.launches and rules.doubtful_prices == "ask" else ""
    if effect == "allow" and doubt:
        return Decision(effect="ask", rule=rule.name, why=doubt)
    return Decision(
        effect=effect,
        rule=rule.name,
        why=f"rule {rule.name!r} of {rules.name!r}",
        people=rule.people,
        requester_may_answer=rule.requester_may_answer,
        client_may_answer=rule.client_may_answer,
    )


def with_defaults(tool: Tool | None, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments as the tool will see them: leaving one out is no way round a rule about it.

    What is not valid stays as it is, beside the defaults of what was left out.
    """
    if tool is None:
        return dict(arguments)
    try:
        return tool.arguments.model_validate(dict(arguments)).model_dump(mode="json")
    except ValidationError:
        fields = tool.arguments.model_fields.items()
        left_out = {n: f.get_default(call_default_factory=True) for n, f in fields if not f.is_required()}
        return {**left_out, **arguments}


def unmet(rule: Rule, call: Call) -> Iterator[str]:
    """The conditions of `rule` that `call` does not meet, each in words."""
    for field, value in (("tools", call.tool), ("principals", call.principal), ("surfaces", call.surface)):
        patterns: tuple[str, ...] = getattr(rule, field)
        if patterns and not any(fnmatch.fnmatchcase(value, pattern) for pattern in patterns):
            yield f"{field}: {value!r} is none of {', '.join(patterns)}"
    if rule.roles and call.role not in rule.roles:
        yield f"roles: {call.role!r} is none of {', '.join(rule.roles)}"
    for name, wanted in rule.arguments.items():
        if not _fits(wanted, call.arguments.get(name)):
            yield f"arguments: {name} is {json.dumps(call.arguments.get(name), default=str)}, not {wanted!r}"
    for field in ("read_only", "open_world", "tainted"):
        wanted, found = getattr(rule, field), getattr(call, field)
        if wanted not in (None, found):
            yield f"{field}: it is {found}"
    for field, figure in _figures(call).items():
        comparison: str = getattr(rule, field)
        if comparison and not _compare(comparison, figure):
            yield f"{field}: {figure:g} is not {comparison}"
    if rule.between and not _within(rule.between, call.time):
        yield f"between: {call.time:%H:%M} is not in {rule.between}"
    if rule.days and call.day not in rule.days:
        yield f"days: {call.day} is none of {', '.join(rule.days)}"


def _figures(call: Call) -> dict[str, float]:
    """What comparisons look at. Where nothing limits the budget, any amount is left of it."""
    remaining = float("inf") if call.remaining_micro_usd is None else call.remaining_micro_usd / 1e6
    return {
        "usd": call.max_micro_usd / 1e6,
        "quoted_usd": call.quote.micro_usd / 1e6,
        "hours": call.hours,
        "gpu_hours": call.quote.gpu_hours,
        "remaining_usd": remaining,
    }


def _fits(wanted: bool | float | str, value: Any) -> bool:
    """Whether an argument is the value, meets the comparison, or matches the pattern that is wanted."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(wanted, bool):
        return value is wanted
    if not isinstance(wanted, str):
        return is_number and value == wanted
    if is_number and _COMPARISON.fullmatch(wanted):
        return _compare(wanted, value)
    text = value if isinstance(value, str) else "" if value is None else json.dumps(value, default=str)
    return fnmatch.fnmatchcase(text, wanted)


def _compare(comparison: str, value: float) -> bool:
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
