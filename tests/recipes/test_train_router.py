"""tools/recipes/train_router.py: one real fit on the shipped intents, read by the daemon's own reader."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.router.classify import Classifier
from tests.conftest import load

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tools/recipes/train_router.py"
recipe = load(RECIPE)


def run(python: Path, folder: Path, rows: list[dict[str, Any]], kind: str) -> tuple[int, str, Path]:
    out = folder / kind
    out.mkdir()
    (out / "given.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (out / "spec.json").write_text(json.dumps({"inputs": {"rows": str(out / "given.jsonl")}, "kind": kind}))
    command = [str(python), "-P", str(RECIPE), str(out / "spec.json"), str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ran.returncode, ran.stdout + ran.stderr, out


@pytest.mark.slow
def test_a_difficulty_that_lies_in_the_numbers_is_learned_from_counts_alone(
    interpreter: Callable[[str], Path], tmp_path: Path
) -> None:
    python = interpreter("train_router")
    rows = [
        {"id": str(n), "text": f"Add {' and '.join(map(str, range(n % 8 + 1)))} for {'abcde'[n % 5]}",
         "label": "not_enough" if n % 8 > 4 else "enough"}
        for n in range(160)
    ]  # fmt: skip
    code, said, out = run(python, tmp_path, rows, "difficulty")
    assert code == 0, said
    result = json.loads((out / "result.json").read_text())
    assert result["n"] == 160
    assert result["figures"]["auroc"]["low"] > 0.9
    head = Classifier.load(out)
    lines = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    assert sum(head.classify(line["input"]).label == line["expected"] for line in lines) > 150
    code, said, _ = run(python, tmp_path, rows[:4], "classes")
    assert code == 2
    assert "two labels or more are needed" in said


FEW_ROWS = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import train_router as recipe

labels = np.array([f"class {n % 7}" for n in range(21)])
vectors = np.eye(7)[np.arange(21) % 7] + np.random.default_rng(0).normal(0, 0.1, (21, 7))
head = recipe.learn("classes", vectors, np.ones((21, 2)), labels, ((), ()), 0.05, 0)
strange = np.random.default_rng(1).normal(0, 0.1, (1, 7))
assert head.out(strange, np.ones((1, 2)))[0] > head.out(vectors[:7], np.ones((7, 2))).max()
assert 0 < head.scope["threshold"] < 1
"""


@pytest.mark.slow
def test_three_rows_of_each_class_are_enough_to_tell_what_is_out_of_scope(
    interpreter: Callable[[str], Path],
) -> None:
    command = [
        str(interpreter("train_router")),
        "-W",
        "error::UserWarning",
        "-c",
        FEW_ROWS,
        str(RECIPE.parent),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_the_measures_are_patterns_that_find_what_they_are_called() -> None:
    import re

    text = "How many of the 1,200 pupils - twice as many - don't pay $3?"
    counts = {name: len(re.findall(pattern, text)) for name, pattern in recipe.MEASURES.items()}
    assert counts["characters"] == len(text)
    assert (counts["numbers"], counts["questions"], counts["money"], counts["negations"]) == (2, 1, 1, 1)
    assert (counts["question words"], counts["comparisons"]) == (1, 1)
