"""How soon a rollout goes back from a model that is worse, and how often from one that is not: by simulation.

Requests are drawn one by one and told to the tests that a daemon keeps (`agentd.router.stages`), with the
limits that a rollout has by default, a judge and thumbs included. Who answers is drawn by the stage's share.
Incumbent and an equal model fail in 1 % of requests, take a log-normal time (median 1 s, sigma 0.5), are
judged 0.8 on average (Beta 4, 1; every fifth answer of the model, as many of the incumbent's) and get a
thumb, one in ten down, for 2 % of the answers. Requests have the lengths of a suite of 300 rows (log-normal,
median 20 words, sigma 0.8).

    effect    what is wrong with the model (drift: with all requests)
    share     of requests that the model has; 1 comes after a canary of 2,000 requests without fault
    after     requests before it goes wrong
    found     share of runs that went back within the horizon
    by        which measure said so, of most runs
    requests  from then on until it went back, of all requests: the median, and 9 runs of 10

`clean` has runs in which nothing is wrong: a third of the horizon at 10 %, a third at 50 %, the rest at full.
Beside it stands what is promised (alpha), and how often a z test at 5 % of the errors alone, looked at after
every request, would have gone back. A run that never goes back counts with the horizon.
"""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from agentd.router.sequential import Spread
from agentd.router.stages import Plan, Stage, Watched, alarm, enter, parsed, started
from agentd.sdk import Alias, RolloutLimits

__all__ = ["EFFECTS", "Effect", "detections", "false_alarms", "run"]

HORIZON = 10_000
CLEAN = 25
CANARY_BEFORE_FULL = 2_000
ERRORS, SIGMA, JUDGED, THUMBS, DOWN = 0.01, 0.5, 0.2, 0.02, 0.1
LENGTH, SPREAD, ROWS = 20.0, 0.8, 300
SEED = 20_261_123
STAGES = parsed("canary 10%, 50%, full")


@dataclass(frozen=True, slots=True)
class Effect:
    """What goes wrong: added errors, a factor of time, a loss by the judge, a factor of request length."""

    name: str
    errors: float = 0.0
    time: float = 1.0
    judge: float = 0.0
    length: float = 1.0


NONE = Effect("none")
EFFECTS = (
    Effect("errors +2 %", errors=0.02),
    Effect("errors +5 %", errors=0.05),
    Effect("errors +20 %", errors=0.2),
    Effect("time × 1.5", time=1.5),
    Effect("time × 2", time=2.0),
    Effect("judge −0.05", judge=0.05),
    Effect("judge −0.1", judge=0.1),
    Effect("requests 1.5 × as long", length=1.5),
    Effect("requests 2.5 × as long", length=2.5),
)


def plan_of(limits: RolloutLimits) -> Plan:
    return Plan(
        stages=STAGES, limits=limits, before=Alias(name="a", weights={"old": 1.0}), digest="", why="",
        judge={"simulated": True},
    )  # fmt: skip


def suite(rng: random.Random) -> Spread:
    spread = Spread.of([_length(rng, 1.0) for _ in range(ROWS)])
    assert spread is not None
    return spread


def simulated(
    rng: random.Random, plan: Plan, watched: Watched, stage: Stage, effect: Effect
) -> Iterator[str]:
    """After each request, why to go back, or nothing."""
    alone, guards = stage.kind == "full", watched.guards
    while True:
        mine = alone or rng.random() < stage.share
        wrong = effect if mine else NONE
        fails = rng.random() < ERRORS + wrong.errors
        guards["errors"].see(float(fails), candidate=mine)
        if not fails:
            guards["seconds"].see(wrong.time * rng.lognormvariate(0.0, SIGMA), candidate=mine)
            if rng.random() < JUDGED * (1.0 if mine else min(1.0, 1 / stage.odds)):
                score = max(0.0, rng.betavariate(4, 1) - wrong.judge)
                guards["judge"].see(1 - score, candidate=mine)
            if rng.random() < THUMBS:
                guards["feedback"].see(float(rng.random() < DOWN), candidate=mine)
        watched.spreads["words"].see(_length(rng, effect.length))
        yield alarm(plan, watched)


def detections(effect: Effect, stage: Stage, rounds: int, after: int = 0) -> dict[str, Any]:
    """How many requests until each run goes back from a model with that effect."""
    delays, by = list[int](), Counter[str]()
    for number in range(rounds):
        rng = random.Random(f"{SEED} {effect.name} {stage} {after} {number}")
        plan = plan_of(RolloutLimits())
        watched = started(plan, {"words": suite(rng)})
        before = [(STAGES[0], CANARY_BEFORE_FULL)] if stage.kind == "full" else [(stage, after)]
        for each, requests in before:
            enter(watched, each)
            steps = simulated(rng, plan, watched, each, NONE)
            for _ in range(requests):
                next(steps)
        if stage.kind == "full":
            enter(watched, stage)
        steps = simulated(rng, plan, watched, stage, effect)
        delay = next((at for at in range(1, HORIZON + 1) if (why := next(steps))), None)
        delays.append(delay or HORIZON)
        if delay:
            by[why.partition(":")[0]] += 1  # pyright: ignore[reportPossiblyUnboundVariable]
    delays.sort()
    return {
        "effect": effect.name,
        "share": stage.share,
        "after": after if stage.kind != "full" else CANARY_BEFORE_FULL,
        "found": round(sum(by.values()) / rounds, 3),
        "by": by.most_common(1)[0][0] if by else "",
        "requests, median": delays[(rounds - 1) // 2],
        "requests, 9 of 10": delays[min(rounds - 1, math.ceil(rounds * 0.9) - 1)],
    }


def false_alarms(runs: Sequence[int], horizon: int = HORIZON) -> Counter[str]:
    """Of clean runs over all stages: what went back by which measure, and "z test" where one would have."""
    by = Counter[str]()
    for number in runs:
        rng = random.Random(f"{SEED} clean {number}")
        plan = plan_of(RolloutLimits())
        watched = started(plan, {"words": suite(rng)})
        test, tripped, why = _Naive(), False, ""
        for stage in STAGES:
            enter(watched, stage)
            steps = simulated(rng, plan, watched, stage, NONE)
            for _ in range(horizon // len(STAGES)):
                why = next(steps)
                if why:
                    break
                errors = watched.guards["errors"]
                if stage.kind != "full" and not tripped:
                    tripped = test.trips(errors.seen, errors.sums)
            if why:
                break
        if why:
            by[why.partition(":")[0]] += 1
        by["z test"] += tripped
    return by


@dataclass(slots=True)
class _Naive:
    """A one-sided z test at 5 % of two error rates, as if it were looked at once."""

    limit: float = NormalDist().inv_cdf(0.95)

    def trips(self, seen: tuple[int, int], sums: tuple[float, float]) -> bool:
        (n, m), (a, b) = seen, sums
        if min(n, m) < 30 or not a:
            return False
        pooled = (a + b) / (n + m)
        return (a / n - b / m) / math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m)) > self.limit


def _length(rng: random.Random, factor: float) -> float:
    return float(round(factor * LENGTH * rng.lognormvariate(0.0, SPREAD)))


def run(rounds: int = 40) -> dict[str, Any]:
    """`rounds` runs of each effect, and `CLEAN` times as many clean ones, on all cores."""
    canary, half, full = STAGES
    settings = [(effect, stage, 0) for effect in EFFECTS for stage in (canary, half, full)]
    settings += [(effect, half, 2_000) for effect in EFFECTS]
    runs = range(CLEAN * rounds)
    with ProcessPoolExecutor() as pool:
        found = [pool.submit(detections, effect, stage, rounds, after) for effect, stage, after in settings]
        clean = [pool.submit(false_alarms, runs[at : at + CLEAN]) for at in runs[::CLEAN]]
        by = sum((each.result() for each in clean), Counter[str]())
        detected = [each.result() for each in found]
    naive = by.pop("z test", 0)
    told = {
        "runs": len(runs),
        "horizon": HORIZON,
        "went back": round(by.total() / len(runs), 4),
        "promised": RolloutLimits().alpha,
        "by": ", ".join(f"{name} {count}" for name, count in by.items()),
        "z test of errors, every request": round(naive / len(runs), 4),
    }
    return {"detection": detected, "clean": [told]}
