"""How often verdicts err, and whether the rows that a power analysis asks for are enough: by simulation.

Each setting is simulated `rounds` times with as many rows as `tools/power.py` asks for, once with equal
models and once with a candidate that loses exactly the margin. Beside each rate stands what is stated:

    errs       equal models called better or worse; at most alpha
    accepted   equal models called better or not_worse; at least the power
    found      a loss of the margin called worse; at least the power
    missed     a loss of the margin called better or not_worse; at most alpha / 2
    covered    intervals that hold the true difference, in both cases; at least 1 − alpha

0/1 scores have the accuracies and shares of discordant rows named; graded ones are made like token F1,
like shares of right fields, and with few rows that differ at all. `small` has 30 rows whatever is asked.
`suites` is one verdict over five suites with equal models, corrected by Holm's procedure.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agentd.plugins import Plugins, bundled_root

__all__ = ["SETTINGS", "Setting", "beyond", "families", "run", "simulate"]

ALPHA, POWER = 0.05, 0.8
SUITES = 5
# Resamples of a simulated bootstrap: a quarter of what a real comparison takes.
RESAMPLES = 1000

Scores = tuple[list[float], list[float]]
Draw = Callable[[random.Random, int, float], Scores]

_plugins = Plugins((bundled_root(),))
verdict, power, compare = (_plugins.module("tools", name) for name in ("verdict", "power", "compare"))


@dataclass(frozen=True, slots=True)
class Setting:
    """Scores of candidate and baseline: `draw(rng, rows, loss)`."""

    name: str
    margin: float
    draw: Draw
    rows: int = 0
    """0 for as many as the power analysis asks for."""

    def planned(self) -> int:
        """Rows to simulate, figured from a pilot of equal models."""
        pilot = self.draw(random.Random(0), 20_000, 0.0)
        spread = power.spread_of(*pilot)
        return self.rows or power.rows_needed(self.margin, spread, alpha=ALPHA, power=POWER)


def binary(accuracy: float, discordant: float) -> Draw:
    """0/1 scores: the baseline's accuracy, and the share of rows on which only one model is right."""

    def draw(rng: random.Random, rows: int, loss: float) -> Scores:
        first, second = discordant / 2, discordant / 2 + loss
        both = accuracy - second
        cells = rng.choices(range(4), (both, first, second, 1 - both - first - second), k=rows)
        return [float(cell in (0, 1)) for cell in cells], [float(cell in (0, 2)) for cell in cells]

    return draw


def token_f1(rng: random.Random, rows: int, loss: float) -> Scores:
    """Six answers of ten alike, the others of their own; a loss comes as answers that are all wrong."""
    two = [rng.betavariate(2, 1.2) for _ in range(rows)]
    one = [score if rng.random() < 0.6 else rng.betavariate(2, 1.2) for score in two]
    return _spoiled(rng, one, loss / 0.625), two


def fields(rng: random.Random, rows: int, loss: float) -> Scores:
    """Shares of three fields that are right."""

    def some(k: int) -> list[float]:
        return [right / 3 for right in rng.choices(range(4), (0.05, 0.1, 0.25, 0.6), k=k)]

    two, other = some(rows), some(rows)
    one = [a if rng.random() < 0.7 else b for a, b in zip(two, other, strict=True)]
    return _spoiled(rng, one, loss / 0.8), two


def few_differ(rng: random.Random, rows: int, loss: float) -> Scores:
    """Six rows of a hundred differ, by anything; a loss is spread evenly over every other row."""
    two = [0.5] * rows
    one = [
        0.5 + (rng.uniform(-0.5, 0.5) if rng.random() < 0.06 else 0.0)
        - (2 * loss if loss and rng.random() < 0.5 else 0.0)
        for _ in range(rows)
    ]  # fmt: skip
    return one, two


def _spoiled(rng: random.Random, scores: Sequence[float], share: float) -> list[float]:
    return [0.0 if rng.random() < share else score for score in scores]


SETTINGS = (
    Setting("0/1, 50 % right, 30 % discordant", 0.05, binary(0.5, 0.3)),
    Setting("0/1, 80 % right, 12 % discordant", 0.05, binary(0.8, 0.12)),
    Setting("0/1, 95 % right, 6 % discordant", 0.05, binary(0.95, 0.06)),
    Setting("0/1, 90 % right, 15 % discordant", 0.1, binary(0.9, 0.15)),
    Setting("0/1, small", 0.1, binary(0.8, 0.2), rows=30),
    Setting("graded, like token F1", 0.1, token_f1),
    Setting("graded, shares of fields", 0.1, fields),
    Setting("graded, few rows differ", 0.05, few_differ),
    Setting("graded, small", 0.1, token_f1, rows=30),
)


def run(rounds: int = 1000) -> dict[str, Any]:
    """Every setting `rounds` times; a rate beyond what is stated by more than chance is named."""
    table = [simulate(setting, rounds) for setting in SETTINGS]
    suites = families(rounds)
    return {
        "rounds": rounds,
        "alpha": ALPHA,
        "power": POWER,
        "settings": table,
        f"errs_over_{SUITES}_suites": suites,
        "beyond_what_is_stated": [
            f"{row['setting']}: {name}" for row in table for name in beyond(row, rounds)
        ],
    }


def simulate(setting: Setting, rounds: int, seed: int = 1) -> dict[str, Any]:
    """The rates of one setting."""
    rows = setting.planned()
    equal = list(_verdicts(setting, rows, 0.0, rounds, seed))
    lost = list(_verdicts(setting, rows, setting.margin, rounds, seed + 1))
    first, second = Counter(said for said, _ in equal), Counter(said for said, _ in lost)

    def share(counts: Counter[str], *names: str) -> float:
        return sum(counts[name] for name in names) / rounds

    return {
        "setting": setting.name,
        "margin": setting.margin,
        "rows": rows,
        "errs": share(first, "better", "worse"),
        "accepted": share(first, "better", "not_worse"),
        "found": share(second, "worse"),
        "missed": share(second, "better", "not_worse"),
        "covered": sum(held for _, held in (*equal, *lost)) / (2 * rounds),
        "planned": not setting.rows,
    }


def _verdicts(setting: Setting, rows: int, loss: float, rounds: int, seed: int) -> Iterator[tuple[str, bool]]:
    rng = random.Random(seed)
    for _ in range(rounds):
        one, two = setting.draw(rng, rows, loss)
        said = verdict.compare_scores(one, two, margin=setting.margin, alpha=ALPHA, resamples=RESAMPLES)
        yield said.verdict, said.difference.low <= -loss <= said.difference.high


def families(rounds: int, rows: int = 150, seed: int = 3) -> float:
    """How often one verdict over several suites says better or worse of equal models."""
    rng, draw = random.Random(seed), binary(0.8, 0.15)
    said = Counter(
        compare.together([_compared(*draw(rng, rows, 0.0)) for _ in range(SUITES)]).verdict
        for _ in range(rounds)
    )
    return (said["better"] + said["worse"]) / rounds


def _compared(one: Sequence[float], two: Sequence[float]) -> Any:
    found = verdict.compare_scores(one, two, margin=0.05, alpha=ALPHA)
    return compare.Compared(
        suite="simulated", candidate="one", baseline="two", candidate_score=0, baseline_score=0,
        difference=found.difference.value, low=found.difference.low, high=found.difference.high,
        p_value=found.p_value, n=found.n, margin=0.05, alpha=ALPHA, verdict=found.verdict, why="",
    )  # fmt: skip


def beyond(row: dict[str, Any], rounds: int) -> Iterator[str]:
    """Rates that are worse than stated by more than three standard errors."""
    for name, stated, at_most in (
        ("errs", ALPHA, True),
        ("missed", ALPHA / 2, True),
        ("covered", 1 - ALPHA, False),
        *((("accepted", POWER, False), ("found", POWER, False)) if row["planned"] else ()),
    ):
        slack = 3 * (stated * (1 - stated) / rounds) ** 0.5
        if row[name] > stated + slack if at_most else row[name] < stated - slack:
            yield f"{name} {row[name]:.3f}, stated {stated:g}"
