"""Run in the recipe's environment: what evals/scorers/agreement.py says of judges whose bias is known.

    python synthetic_judges.py path/to/agreement.py

People's ratings are drawn around a truth of 1 to 4, three to an answer; each judge is a rule. Prints, for
every judge, its figures with intervals, and how often intervals held the true kappa over many data sets.
"""

from __future__ import annotations

import importlib.util
import json
import random
import statistics
import sys
from collections.abc import Callable
from typing import Any

SCALE = (1, 4)
spec = importlib.util.spec_from_file_location("agreement", sys.argv[1])
assert spec
assert spec.loader
agreement = importlib.util.module_from_spec(spec)
sys.modules["agreement"] = agreement
spec.loader.exec_module(agreement)

Judge = Callable[[random.Random, int, int, str], int]


def person(rng: random.Random, truth: int) -> int:
    """Right seven times in ten, else anything."""
    return truth if rng.random() < 0.7 else rng.randint(*SCALE)


JUDGES: dict[str, Judge] = {
    "random": lambda rng, truth, length, author: rng.randint(*SCALE),
    "constant": lambda rng, truth, length, author: 3,
    "like_a_person": lambda rng, truth, length, author: person(rng, truth),
    "always_right": lambda rng, truth, length, author: truth,
    "loves_length": lambda rng, truth, length, author: min(4, 1 + length // 60),
    "loves_itself": lambda rng, truth, length, author: min(4, truth + (author == "me")),
    "always_wrong": lambda rng, truth, length, author: 5 - truth,
}


def rated(judge: Judge, n: int, seed: int) -> list[Any]:
    rng, made = random.Random(seed), []
    for number in range(n):
        truth, length, author = rng.randint(*SCALE), rng.randint(10, 240), rng.choice(["me", "other"])
        people = tuple(person(rng, truth) for _ in range(3))
        made.append(agreement.Rated(judge(rng, truth, length, author), people, length, str(number), author))
    return made


def coverage(judge: Judge, runs: int) -> float:
    """How often the interval held the kappa of a large sample."""
    true = kappa(rated(judge, 100_000, 1), SCALE)["kappa"]
    held = 0
    for seed in range(runs):
        drawn = rated(judge, 150, 1000 + seed)
        _, low, high = agreement.agreement(drawn, SCALE, (), 200, kappa)["kappa"]
        held += low <= true <= high
    return held / runs


def kappa(some: Any, scale: Any, own: Any = ()) -> dict[str, float]:
    pairs = [(each.judge, int(statistics.median(each.people))) for each in some]
    return {"kappa": agreement.weighted_kappa(pairs, scale)}


figures = {
    name: agreement.agreement(rated(judge, 240, 7), SCALE, ("me",), 200) for name, judge in JUDGES.items()
}
# Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011), section D: four observers, twelve units.
columns = zip("123321412...", "1233224125.3", ".3332342251.", "12332441251.", strict=True)
published = [[int(value) for value in column if value != "."] for column in columns]
pairs = [(random.Random(n).randint(1, 4), random.Random(n + 999).randint(1, 4)) for n in range(500)]


def sklearns() -> float:
    from sklearn.metrics import cohen_kappa_score

    return float(cohen_kappa_score(*zip(*pairs, strict=True), weights="quadratic", labels=[1, 2, 3, 4]))


print(
    json.dumps(
        {
            "figures": figures,
            "coverage": {name: coverage(JUDGES[name], 40) for name in ("random", "like_a_person")},
            "alpha": agreement.ordinal_alpha(published, (1, 5)),
            "kappa": [agreement.weighted_kappa(pairs, SCALE), sklearns()],
        }
    )
)
