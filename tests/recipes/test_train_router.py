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


def test_the_measures_are_patterns_that_find_what_they_are_called() -> None:
    import re

    text = "How many of the 1,200 pupils - twice as many - don't pay $3?"
    counts = {name: len(re.findall(pattern, text)) for name, pattern in recipe.MEASURES.items()}
    assert counts["characters"] == len(text)
    assert (counts["numbers"], counts["questions"], counts["money"], counts["negations"]) == (2, 1, 1, 1)
    assert (counts["question words"], counts["comparisons"]) == (1, 1)
