"""An alias that moves to another model by stages: when the next may begin, when to go back.

Pure: a `Plan` and what was `Watched` in, a decision out. Who keeps and acts is `agentd.router.rollouts`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from agentd.errors import InputError
from agentd.router.sequential import Guard, Spread, blocks_needed
from agentd.sdk import Alias, RolloutLimits

__all__ = ["Plan", "Stage", "Watched", "alarm", "alias_at", "missing", "parsed", "started"]

STAGE = re.compile(r"(?:(shadow|canary)\s+)?(\d+(?:\.\d+)?)\s*%")
WRITE = 'Write it like "shadow 5%, canary 10%, 50%, full"'
NAMES = {
    "errors": "its error rate",
    "seconds": "the time that answers take",
    "judge": "what the judge says of its answers",
    "feedback": "what users say of its answers",
    "distance": "how far requests are from the suite",
}
TIMES = ("seconds",)
FEWEST_COSTS = 30


class Stage(BaseModel):
    """`share` of the requests: of copies in a shadow, of all requests otherwise."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["shadow", "canary", "full"]
    share: float

    @property
    def odds(self) -> float:
        """How often an incumbent answers for one answer of the candidate."""
        return 1 / self.share if self.kind == "shadow" else (1 - self.share) / self.share

    def __str__(self) -> str:
        return "full" if self.kind == "full" else f"{self.kind} {self.share * 100:g} %"


class Plan(BaseModel):
    """What was declared before the first request. `before` is the alias as it was."""

    model_config = ConfigDict(frozen=True)

    stages: tuple[Stage, ...]
    limits: RolloutLimits
    before: Alias
    digest: str
    """The model's, as it was measured."""
    why: str
    """What spoke for it at the start."""
    report: str = ""
    against: str = ""
    margin: float | None = None
    alpha: float | None = None
    approve: Literal["start", "each"] = "start"
    judge: dict[str, Any] | None = None
    """What it is told, as an evaluation tells it."""
    samples: tuple[str, ...] = ()
    """Texts of the suite that requests are held against."""


class Costs(BaseModel):
    """Micro-USD of answered requests: their number, sum and sum of squares."""

    n: int = 0
    total: float = 0.0
    squares: float = 0.0

    def see(self, value: float) -> None:
        self.n, self.total, self.squares = self.n + 1, self.total + value, self.squares + value * value

    @property
    def mean(self) -> float:
        return self.total / self.n if self.n else 0.0

    @property
    def error(self) -> float:
        """Of the mean, as a standard error."""
        if self.n < 2:
            return math.inf
        return math.sqrt(max(0.0, self.squares / self.n - self.mean**2) / self.n)


class Watched(BaseModel):
    """What was seen since the rollout began; of this stage what `Guard` says, and `costs`."""

    guards: dict[str, Guard]
    spreads: dict[str, Spread] = {}
    costs: tuple[Costs, Costs] = (Costs(), Costs())
    """Of the candidate and of the incumbent."""

    @property
    def tests(self) -> int:
        """Among how many the chance of a false alarm is divided."""
        return len(self.guards) + len(self.spreads)


def parsed(text: str) -> tuple[Stage, ...]:
    """Stages in their order. Raises `InputError`."""
    stages: list[Stage] = []
    for part in text.lower().split(","):
        part = part.strip()
        found = STAGE.fullmatch(part)
        if part in ("full", "100%", "100 %"):
            stages.append(Stage(kind="full", share=1.0))
        elif found and 0 < float(found[2]) <= 100 and not (found[2] == "100" and found[1] != "shadow"):
            kind = "shadow" if found[1] == "shadow" else "canary"
            stages.append(Stage(kind=kind, share=float(found[2]) / 100))
        else:
            raise InputError(f"{part!r} is no stage", hint=WRITE)
    shares = [stage.share for stage in stages if stage.kind != "shadow"]
    if any(stage.kind == "shadow" for stage in stages[1:]):
        raise InputError("A shadow is the first stage or none", hint=WRITE)
    if stages[-1].kind != "full" or sorted(set(shares)) != shares:
        raise InputError(f"The stages of {text!r} do not rise to full", hint=WRITE)
    return tuple(stages)


def started(plan: Plan, spreads: dict[str, Spread]) -> Watched:
    """Nothing was seen yet."""
    limits = plan.limits
    guards = {"errors": Guard.mean(limits.error_margin)}
    if limits.latency_ratio is not None:
        guards["seconds"] = Guard.ratio(limits.latency_ratio)
    if limits.feedback_margin is not None:
        guards["feedback"] = Guard.mean(limits.feedback_margin)
    if plan.judge is not None:
        guards["judge"] = Guard.mean(limits.judge_margin)
    watched = Watched(guards=guards, spreads=spreads)
    enter(watched, plan.stages[0])
    return watched


def enter(watched: Watched, stage: Stage) -> None:
    """Begin to watch a stage."""
    for name, guard in watched.guards.items():
        if name != "distance":
            odds = 1.0 if name == "judge" else stage.odds  # as many of either are judged
            guard.stage(odds, alone=stage.kind == "full")
    watched.costs = Costs(), Costs()


def alias_at(plan: Plan, model: str, stage: Stage, reason: str) -> Alias:
    """The alias in a stage: everything as it was, but who gets which share."""
    before = plan.before
    shadow = {name: share for name, share in before.shadow.items() if name != model}
    rest = {name: share for name, share in before.weights.items() if name != model}
    total = sum(rest.values())
    weights = dict(before.weights)
    if stage.kind == "shadow":
        shadow[model] = stage.share
    elif stage.kind == "full":
        weights = {model: 1.0}
    else:  # last, so that who has it at 10 % still has it at 50 %
        weights = {name: share / total * (1 - stage.share) for name, share in rest.items()}
        weights[model] = stage.share
    return before.model_copy(update={"weights": weights, "shadow": shadow, "reason": reason})


def alarm(plan: Plan, watched: Watched) -> str:
    """Why to go back at once; empty if nothing speaks for it."""
    later = bool(plan.samples) and "distance" not in watched.guards  # it comes with the first embeddings
    alpha = plan.limits.alpha / max(1, watched.tests + later)
    for name, guard in watched.guards.items():
        if guard.alarm.wealth >= 1 / alpha:
            return f"{NAMES[name]} is worse: {said(name, guard)}"
    for name, spread in watched.spreads.items():
        if spread.drifted(alpha):
            return (
                f"requests are not what the suite is of any more: {name} has a population stability index of"
                f" {spread.psi:.2f} beyond chance"
            )
    return ""


def missing(plan: Plan, watched: Watched, stage: Stage) -> list[str]:
    """What the end of this stage waits for; empty when the next may begin."""
    limits, lacks = plan.limits, list[str]()
    for name, guard in watched.guards.items():
        seen = guard.seen[0]
        if name == "errors" and seen < limits.requests:
            lacks.append(f"{limits.requests - seen} more requests of the model")
        if name in ("feedback", "distance"):  # it may never come: it can only stop the rollout
            continue
        if guard.clear.wealth < 1 / limits.gate_alpha:
            lacks.append(f"{_ruled_out(name, guard)} to be ruled out{_about(plan, name, guard)}")
    if why := _too_dear(plan, watched, stage):
        lacks.append(why)
    return lacks


def said(name: str, guard: Guard) -> str:
    """What a guard has seen, in words."""
    one, two = guard.means
    if one is None or two is None:
        return "nothing to compare yet"
    form = "{:.2f} s" if name in TIMES else "{:.1%}" if name in ("errors", "feedback") else "{:.3f}"
    against = "before" if guard.alone else "the incumbent's"
    return f"{form.format(one)} beside {form.format(two)} {against} on average, of {guard.seen[0]} requests"


def _ruled_out(name: str, guard: Guard) -> str:
    if guard.kind == "ratio":
        return f"answers that take {guard.limit:g} times as long"
    if name == "judge":
        return f"a loss of {guard.limit:g} by the judge"
    return f"{guard.limit:.1%} more errors"


def _about(plan: Plan, name: str, guard: Guard) -> str:
    """How many more requests that takes, if the model is as good."""
    if name != "errors":
        return ""
    rate = (guard.past[1] + 1) / (guard.past[0] + 2) if guard.past[0] else 0.01
    spread = rate * (1 - rate) * (1 + (0 if guard.alone else 1 / guard.block[1]))
    needed = blocks_needed(guard.limit, spread, alpha=plan.limits.gate_alpha, power=plan.limits.power)
    return f" (about {max(1, needed - guard.clear.n)} more requests)"


def _too_dear(plan: Plan, watched: Watched, stage: Stage) -> str:
    """Why cost holds the rollout. The upper end of a 95 % interval of the factor counts."""
    factor, (one, two) = plan.limits.cost_ratio, watched.costs
    if factor is None or stage.kind == "full":  # nobody is beside it any more
        return ""
    if min(one.n, two.n) < FEWEST_COSTS:
        return f"the cost of {FEWEST_COSTS} answers of either model"
    room = math.sqrt(one.error**2 + (factor * two.error) ** 2)
    if one.mean + 1.645 * room <= factor * two.mean:
        return ""
    return (
        f"a request that costs at most {factor:g} times the incumbent's: ${one.mean / 1e6:.6f} beside"
        f" ${two.mean / 1e6:.6f}"
    )


def progress(watched: Watched) -> dict[str, str]:
    """What was seen in this stage, measure by measure, for people."""
    shown = {name: said(name, guard) for name, guard in watched.guards.items() if guard.seen[0]}
    for name, spread in watched.spreads.items():
        if spread.looks:
            shown[name] = f"population stability index {spread.psi:.2f} beyond chance, window {spread.looks}"
    return shown


def incumbents(plan: Plan, model: str) -> Sequence[str]:
    return [name for name in plan.before.weights if name != model]
