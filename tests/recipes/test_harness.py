"""Published tasks of lm-evaluation-harness on data of this machine: what is asked, and how it is scored."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow
RECIPE = Path(__file__).parents[2] / "tools/recipes/evaluate_harness.py"
GSM8K = [
    {"question": f"Ann has {n} apples and buys {n}. How many?", "answer": f"She has {n}+{n}.\n#### {2 * n}"}
    for n in range(1, 7)
]
MMLU_PRO = [
    {
        "question": f"What is {n} + 1?",
        "options": [str(n), str(n + 1), str(n + 2)],
        "answer": "B",
        "answer_index": 1,
        "category": category,
        "cot_content": "A: Let's think step by step. It is the next number. The answer is (B).",
    }
    for n, category in enumerate(["math", "law", "math", "health"])
]
GPQA = [
    {
        "Question": f"What is {n} + 1?",
        "Correct Answer": "the next number",
        **{f"Incorrect Answer {k}": f"{k} less" for k in (1, 2, 3)},
    }
    for n in range(10, 14)
]
# A stand-in for the model: what it would generate is decided here, what is asked and scored is the harness's.
PROGRAM = """
import importlib.util, json, sys
from lm_eval.api.model import LM
spec = importlib.util.spec_from_file_location("recipe", sys.argv[1])
recipe = importlib.util.module_from_spec(spec)
sys.modules["recipe"] = recipe
spec.loader.exec_module(recipe)
import lm_eval
asked = []
class Fixed(LM):
    def generate_until(self, requests):
        asked.extend(request.args[0] for request in requests)
        return [sys.argv[3]] * len(requests)
    def loglikelihood(self, requests):
        # It prefers the letter under which the text stands that it is to say.
        asked.extend(request.args[0] for request in requests)
        chosen = [f"{letter.strip()} {sys.argv[3]}" in text for text, letter in (r.args for r in requests)]
        return [(0.0, True) if each else (-1.0, False) for each in chosen]
    def loglikelihood_rolling(self, requests): ...
given = recipe.Recipe.read(recipe.Path(sys.argv[2]))
manager = recipe.task_manager(given)
raw = lm_eval.simple_evaluate(
    model=Fixed(), tasks=recipe.with_data(given, manager), task_manager=manager,
    num_fewshot=given.num_fewshot, log_samples=True, bootstrap_iters=10,
)
print(json.dumps({"asked": asked, **{task: recipe.summary(task, raw) for task in given.tasks}}, default=str))
"""


@pytest.fixture
def harness(interpreter: Callable[[str], Path], tmp_path: Path) -> Callable[..., Any]:
    def run(task: str, says: str, data: Path, **spec: Any) -> Any:
        inputs = {"model": str(tmp_path), f"data-{task}": str(data)}
        path = tmp_path / "spec.json"
        path.write_text(json.dumps({"inputs": inputs, "tasks": [task], **spec}))
        done = subprocess.run(
            [str(interpreter("evaluate_harness")), "-c", PROGRAM, str(RECIPE), str(path), says],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
        )
        assert done.returncode == 0 or "Stop" in done.stderr, done.stderr[-2000:]
        return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else done.stderr

    return run


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_gsm8k_takes_questions_and_examples_from_files_of_its_splits(
    harness: Callable[..., Any], tmp_path: Path
) -> None:
    lines(tmp_path / "data/test.jsonl", GSM8K[:2])
    lines(tmp_path / "data/train.jsonl", GSM8K[2:])
    told = harness("gsm8k", "So it is #### 4", tmp_path / "data", num_fewshot=2)
    assert told["gsm8k"]["metrics"]["exact_match,strict-match"] == 0.5
    assert told["gsm8k"]["n"] == 2
    assert len(told["asked"]) == 2
    assert all(prompt.count("#### ") == 2 for prompt in told["asked"])


def test_one_file_is_refused_with_examples(harness: Callable[..., Any], tmp_path: Path) -> None:
    """Without them it is enough: the next tests have one."""
    path = lines(tmp_path / "data/mine.jsonl", GSM8K)
    assert "is one file" in harness("gsm8k", "#### 6", path)


def test_mmlu_pro_is_scored_by_subject_and_as_a_whole(harness: Callable[..., Any], tmp_path: Path) -> None:
    every = ["biology", "business", "chemistry", "computer science", "economics", "engineering", "health"]
    every += ["history", "law", "math", "other", "philosophy", "physics", "psychology"]
    rows = MMLU_PRO + [MMLU_PRO[0] | {"category": each} for each in every]
    path = lines(tmp_path / "data/test.jsonl", rows)
    told = harness("mmlu_pro", "The answer is (B).", path, num_fewshot=0)
    assert told["mmlu_pro"]["value"] == 1.0
    assert told["mmlu_pro"]["n"] == len(rows)
    assert "B. 2" in told["asked"][0] or "B. 1" in told["asked"][0]


@pytest.mark.parametrize(("says", "score"), [("the next number", 1.0), ("1", 0.0)])
def test_gpqa_is_asked_and_scored_on_rows_with_its_fields(
    harness: Callable[..., Any], tmp_path: Path, says: str, score: float
) -> None:
    path = lines(tmp_path / "data/train.jsonl", GPQA)
    told = harness("gpqa_main_zeroshot", says, path, num_fewshot=0)
    assert told["gpqa_main_zeroshot"]["n"] == len(GPQA)
    assert all("Choices:" in prompt and "(D)" in prompt for prompt in told["asked"])
    assert told["gpqa_main_zeroshot"]["value"] == score
