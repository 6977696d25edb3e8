"""tools/recipes/fit_baseline.py: what it learns from, its patterns, and one real fit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import load

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tools/recipes/fit_baseline.py"


recipe = load(RECIPE)


def chat(text: str, answer: Any) -> dict[str, Any]:
    said = answer if isinstance(answer, str) else json.dumps(answer)
    return {
        "prompt": [{"role": "user", "content": text}],
        "completion": [{"role": "assistant", "content": said}],
    }


def written(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def run(
    spec: dict[str, Any], folder: Path, python: Path | str = sys.executable
) -> tuple[int, list[Any], Path]:
    out = folder / "out"
    out.mkdir()
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [str(python), "-P", str(RECIPE), str(folder / "spec.json"), str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 2), ran.stderr
    return (
        ran.returncode,
        [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"event"')],
        out,
    )


def test_json_answers_become_fields_and_other_answers_one_unnamed_field(tmp_path: Path) -> None:
    read = recipe.read_training
    objects = written(tmp_path / "a.jsonl", [chat("x", {"intent": "a"}), chat("y", {"intent": "b"})])
    labels = written(tmp_path / "b.jsonl", [{"prompt": "x", "completion": "yes"}, {"messages": [
        {"role": "user", "content": "y"}, {"role": "assistant", "content": "no"}]}])  # fmt: skip
    assert read(objects) == (["x", "y"], [{"intent": "a"}, {"intent": "b"}], True)
    assert read(labels) == (["x", "y"], [{"": "yes"}, {"": "no"}], False)


@pytest.mark.parametrize("answer", [{"b": 1}, {"a": {"deep": 1}}, [1]])
def test_answers_that_are_no_flat_objects_of_the_same_fields_end_it_with_an_error(
    tmp_path: Path, answer: Any
) -> None:
    train = written(tmp_path / "train.jsonl", [chat("x", {"a": 1}), chat("y", answer)])
    code, events, out = run({"inputs": {"train": str(train), "rows": str(train)}}, tmp_path)
    assert code == 2
    assert "not flat JSON objects" in events[-1]["message"]
    assert not (out / "result.json").exists()


def test_a_field_whose_values_stand_in_the_input_is_a_span() -> None:
    texts = ["cancel order 17", "order 18 please", "hello"]
    assert recipe.is_span(texts, ["17", "18", None])
    assert not recipe.is_span(texts, ["cancel", "cancel", None])
    assert not recipe.is_span(texts, [None, None, None])


def test_patterns_learned_from_some_values_find_others() -> None:
    texts = [
        "cancel order 17",
        "track order 2290 now",
        "order 8 is late",
        "bill #55",
        "my bill #1207?",
        "hello you",
    ]
    values = ["17", "2290", "8", "#55", "#1207", None]
    find = recipe.fit_span(texts, values, 0.5)
    assert find("stop order 99123 at once") == "99123"
    assert find("where is bill #90001") == "#90001"
    assert find("hello there") is None


def test_a_value_that_was_seen_is_found_whatever_its_case() -> None:
    find = recipe.fit_span(["a gold plan", "hi"], ["gold", None], 0.5)
    assert find("my GOLD plan") == "GOLD"
    assert find("golden") is None


def test_the_label_that_tells_whether_there_is_a_span_is_found() -> None:
    answers = [
        {"topic": topic, "kind": kind, "value": "x" if kind else None}
        for topic in "abcd"
        for kind in ("number", None)
    ]
    assert recipe.deciding_label(answers, "value", ["topic", "kind"]) == "kind"
    assert recipe.deciding_label(answers, "value", ["topic"]) == ""


def test_rows_of_one_group_lie_in_one_fold() -> None:
    groups = ["a", "b", "a", "c", "b", "d"]
    parts = recipe.folds_of(groups)
    assert sorted(i for part in parts for i in part) == list(range(6))
    assert all(
        len({next(p for p, part in enumerate(parts) if i in part) for i in rows}) == 1
        for rows in ([0, 2], [1, 4])
    )


@pytest.mark.slow
def test_a_real_fit_on_the_tickets_answers_most_of_them_exactly(
    interpreter: Callable[[str], Path], tmp_path: Path
) -> None:
    python = interpreter("fit_baseline")
    data = ROOT / "evals/data/tickets"
    inputs = {"train": str(data / "train.jsonl"), "rows": str(data / "heldout.jsonl")}
    code, events, out = run({"inputs": inputs, "patterns": True}, tmp_path, python)
    assert code == 0, events
    result = json.loads((out / "result.json").read_text())
    assert {field: note["kind"] for field, note in result["fields"].items()} == {
        "intent": "label", "entity_type": "label", "entity_value": "span",
    }  # fmt: skip
    rows = [json.loads(line) for line in (out / "rows.jsonl").read_text().splitlines()]
    right = sum(json.loads(row["output"]) == row["expected"] for row in rows)
    assert len(rows) == result["n"] == 162
    assert right / len(rows) > 0.65
