"""The metrics that stand on libraries, in the environment of the recipe that computes them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
SCORERS = Path(__file__).parents[2] / "evals/scorers"
PROGRAM = """
import importlib.util, json, sys
def load(name):
    spec = importlib.util.spec_from_file_location(name, f"{sys.argv[1]}/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
rows = [
    {"expected": "The cat sat on the mat.", "output": "The cat sat on the mat."},
    {"expected": ["A dog barked loudly.", "The dog was barking."], "output": "The dog barked."},
    {"expected": "It rains in Paris today.", "output": "nothing"},
]
labelled = [{"expected": e, "output": o} for e, o in zip("aaabbc", ["a", "a", "b", "b", "x", "c"])]
def every(name, **options):
    return [load(name).score(row["expected"], row["output"], row, **options) for row in rows]
print(json.dumps({
    "rouge": every("rouge"), "rouge1": every("rouge", variant="rouge1", stem=False),
    "bleu": every("bleu"), "corpus_bleu": load("bleu").figures(rows)["corpus_bleu"],
    "chrf": every("chrf"), "chrf++": every("chrf", word_order=2),
    "corpus_chrf": load("chrf").figures(rows)["corpus_chrf"],
    "labels": load("labels").figures(labelled),
}))
"""


@pytest.fixture(scope="module")
def figures(interpreter: Callable[[str], Path]) -> dict[str, Any]:
    return ran(interpreter, "-c", PROGRAM, str(SCORERS))


@pytest.fixture(scope="module")
def judges(interpreter: Callable[[str], Path]) -> dict[str, Any]:
    program = Path(__file__).with_name("synthetic_judges.py")
    return ran(interpreter, str(program), str(SCORERS / "agreement.py"))


def ran(interpreter: Callable[[str], Path], *arguments: str) -> dict[str, Any]:
    command = [str(interpreter("evaluate")), "-W", "error", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_overlap_metrics_give_what_their_libraries_define(figures: dict[str, Any]) -> None:
    assert figures["rouge"] == pytest.approx([1, 6 / 7, 0])  # stemmed: the dog bark / the dog was bark
    assert figures["rouge1"] == pytest.approx([1, 4 / 7, 0])  # dog barked, of four words and three
    assert figures["bleu"][0] == pytest.approx(1)
    assert 0 < figures["bleu"][1] < 1
    assert figures["bleu"][2] == pytest.approx(0, abs=0.01)
    assert figures["chrf"][0] == pytest.approx(1)
    assert figures["chrf"][1] > figures["chrf++"][1] > figures["chrf"][2]
    for name in ("corpus_bleu", "corpus_chrf"):
        value, low, high = figures[name]
        assert 0 <= low <= value <= high <= 100


def test_macro_f1_counts_labels_alike_however_often_they_occur(figures: dict[str, Any]) -> None:
    # a: precision 2/2, recall 2/3; b: 1/2, 1/2; c: 1, 1. What is no label is nobody's false alarm.
    assert figures["labels"]["macro_f1"] == pytest.approx((0.8 + 0.5 + 1) / 3)
    assert figures["labels"]["accuracy"] == pytest.approx(4 / 6)


def test_alpha_and_kappa_are_the_published_ones(judges: dict[str, Any]) -> None:
    assert judges["alpha"] == pytest.approx(0.815, abs=5e-4)  # Krippendorff 2011, ordinal
    ours, sklearns = judges["kappa"]
    assert ours == pytest.approx(sklearns)


def holds(figure: list[float], value: float) -> bool:
    return figure[1] <= value <= figure[2]


def test_a_judge_that_guesses_or_says_one_thing_agrees_with_nobody(judges: dict[str, Any]) -> None:
    guess, constant = judges["figures"]["random"], judges["figures"]["constant"]
    assert holds(guess["kappa"], 0)
    assert holds(guess["spearman"], 0)
    assert guess["kappa"][2] < 0.2
    assert constant["kappa"] == [0, 0, 0]
    assert "spearman" not in constant
    for judge in (guess, constant):
        assert judge["alpha"][0] < judge["people_alpha"][1]


def test_a_judge_like_a_person_agrees_as_people_do_and_a_reversed_one_the_other_way(
    judges: dict[str, Any],
) -> None:
    person, wrong = judges["figures"]["like_a_person"], judges["figures"]["always_wrong"]
    assert holds(person["kappa_person"], person["people_kappa"][0])
    assert holds(person["length_bias"], 0)
    assert holds(person["self_preference"], 0)
    assert judges["figures"]["always_right"]["kappa"][0] > person["kappa"][0]
    assert wrong["kappa"][2] < -0.5


def test_a_love_of_length_or_of_itself_is_found_and_nowhere_else(judges: dict[str, Any]) -> None:
    length, itself = judges["figures"]["loves_length"], judges["figures"]["loves_itself"]
    assert length["length_bias"][1] > 0.5
    assert holds(length["self_preference"], 0)
    assert holds(itself["self_preference"], 0.75)  # one step up, where there is one above the truth
    assert itself["self_preference"][1] > 0.4
    assert holds(itself["length_bias"], 0)


def test_intervals_hold_the_true_kappa_about_as_often_as_they_say(judges: dict[str, Any]) -> None:
    assert min(judges["coverage"].values()) >= 0.87  # 95 % of 40: fewer than 35 has a chance of 1 in 70
