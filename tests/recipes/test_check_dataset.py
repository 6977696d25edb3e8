"""tools/recipes/check_dataset.py: its parts, and the whole of it in its own environment."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import load

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tools/recipes/check_dataset.py"


recipe = load(RECIPE)


def row(prompt: str, answer: Any) -> dict[str, str]:
    return {"prompt": prompt, "completion": answer if isinstance(answer, str) else json.dumps(answer)}


def examples(*rows: dict[str, Any]) -> list[Any]:
    return [recipe.example(line, each) for line, each in enumerate(rows, 1)]


def test_prompt_and_answer_are_found_in_every_kind_of_row() -> None:
    chat = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "a"},
    ]
    kinds = [{"messages": chat}, {"prompt": chat[:2], "completion": chat[2:]}, row("u", "a")]
    assert {(e.prompt, e.answer) for e in examples(*kinds)} == {("u", "a")}
    assert [(e.prompt, e.answer) for e in examples({"text": "t"})] == [("", "t")]


def test_labels_are_balanced_and_spans_are_not() -> None:
    made = examples(
        *(row(f"order {n}", {"intent": "track" if n % 4 else "track order", "id": str(n)}) for n in range(40))
    )
    spans = recipe.spans(made)
    assert spans == {"id"}
    assert recipe.balance(made, spans) == {"intent": {"track": 30, "track order": 10}}


def test_span_values_that_the_suite_asks_for_are_named_and_labels_are_not() -> None:
    made = examples(
        row("from PARIS", {"city": "PARIS", "kind": "city"}), row("to Rome", {"city": "Rome", "kind": "city"})
    )
    suite = [{"id": "1", "input": "in Paris", "expected": {"city": "Paris", "kind": "city"}}]
    assert recipe.shared_values(made, suite, recipe.spans(made)) == {"city": ["paris"]}


def test_lengths_are_counted_in_powers_of_two() -> None:
    assert recipe.histogram([1, 32, 33, 9000]) == {"≤32": 2, "≤64": 1, ">8192": 1}


@pytest.fixture(scope="module")
def python(interpreter: Callable[[str], Path]) -> Path:
    return interpreter("check_dataset")


def run(python: Path, folder: Path, rows: list[Any], **files: Any) -> tuple[int, Any, Path]:
    """Exit code, and the result or the error event."""
    out = folder / "out"
    out.mkdir()
    inputs = {"dataset": folder / "given.jsonl"}
    inputs["dataset"].write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    if "suite" in files:
        inputs["suite"] = folder / "suite.jsonl"
        inputs["check_leaks"] = ROOT / "tools/recipes/check_leaks.py"
        inputs["suite"].write_text("\n".join(map(json.dumps, files["suite"])))
    if "tokenizer" in files:
        inputs["tokenizer"] = files["tokenizer"]
    spec = {"inputs": {name: str(path) for name, path in inputs.items()}, "max_length": 12}
    (folder / "spec.json").write_text(json.dumps(spec))
    command = [str(python), "-P", str(RECIPE), str(folder / "spec.json"), str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    if ran.returncode == 0:
        return 0, json.loads((out / "result.json").read_text()), out
    assert ran.returncode == 2, ran.stderr
    return 2, json.loads(ran.stdout.splitlines()[-1]), out


def tokenizer(folder: Path, template: str, **config: Any) -> Path:
    """A model folder with a tokenizer of words and a chat template."""
    folder.mkdir()
    unset = ("truncation", "padding", "normalizer", "post_processor", "decoder")
    described = dict.fromkeys(unset) | {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": {"[UNK]": 0}, "unk_token": "[UNK]"},
    }
    (folder / "tokenizer.json").write_text(json.dumps(described))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "chat_template.jinja").write_text(template)
    return folder


def chat(prompt: str, answer: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": answer}],
    }


WORDS = "one two three four five six seven eight nine ten eleven twelve thirteen"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prompt", "answer", "how"),
    [
        ("Where is MY parcel, please?!", "x", "the same input"),
        ("where is my parcel, pleas", "x", "nearly the same input"),
        ("continue", f"he counted {WORDS} and stopped", "the whole input within its text"),
    ],
)
def test_a_row_of_the_suite_is_recognised_and_fails_the_check(
    tmp_path: Path, python: Path, prompt: str, answer: str, how: str
) -> None:
    suite = [
        {"id": "s1", "input": "where is my parcel please", "expected": "x"},
        {"id": "s2", "input": WORDS, "expected": "x"},
    ]
    code, event, out = run(python, tmp_path, [row("fine", "ok"), row(prompt, answer)], suite=suite)
    assert code == 2
    assert "1 of 2 rows leak" in event["message"]
    assert "line 2" in event["message"]
    assert how in event["message"]
    assert event["hint"]
    assert not (out / "result.json").exists()


@pytest.mark.slow
def test_repeats_contradictions_and_long_rows_are_counted_and_shown(tmp_path: Path, python: Path) -> None:
    folder = tokenizer(tmp_path / "model", "{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}")
    rows = [
        chat("how do I reset my password", "so"),
        chat("How do I reset my password?", "so"),
        chat("how do I reset my password", "otherwise"),
        chat("how do I reset my passwords", "so"),
        chat("something else", WORDS),
    ]
    code, result, out = run(python, tmp_path, rows, tokenizer=folder)
    assert code == 0
    counted = {
        name: result[name] for name in ("rows", "duplicates", "near_duplicates", "conflicts", "too_long")
    }
    assert counted == {"rows": 5, "duplicates": 1, "near_duplicates": 1, "conflicts": 1, "too_long": 1}
    assert (result["tokens_median"], result["tokens_max"]) == (9, 17)
    assert any("lines 1 and 3" in problem for problem in result["problems"])
    assert (out / "dataset.jsonl").read_bytes() == (tmp_path / "given.jsonl").read_bytes()


EACH, END = "{% for m in messages %}<{{ m.role }}>", "{% endfor %}"
ASK = "{% if add_generation_prompt %}<assistant>{% endif %}"
MARKED = "{% generation %}{{ m.content }}{% endgeneration %}<e>"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("template", "wrong"),
    [
        (EACH + "{{ m.content }}<e>\n" + END + ASK, ""),
        (EACH + MARKED + END + ASK, ""),
        (EACH + "{{ m.content }}" + END + ASK, "does not end with <e>"),
        (EACH + "{{ m.content | upper }}<e>" + END + ASK, "changes the answer"),
        (EACH.replace("messages", "messages[:1]") + "<e>" + END, "nothing of the answer"),
        ("{{ messages | length }}{{ messages[-1].content }}<e>", "renders the question otherwise"),
        ("{{ raise_exception('no system here') }}", "refuses it: no system here"),
    ],
)
def test_a_template_that_would_teach_something_else_is_found_out(
    tmp_path: Path, python: Path, template: str, wrong: str
) -> None:
    folder = tokenizer(tmp_path / "model", template, eos_token={"content": "<e>"})
    code, result, _ = run(python, tmp_path, [chat("where is it", "on its way")], tokenizer=folder)
    assert code == 0
    told = result["template"]
    assert told["sha256"] == hashlib.sha256(template.encode()).hexdigest()
    assert bool(told["wrong"]) == bool(wrong)
    assert all(wrong in each and f"1 rows: {each}" in result["problems"] for each in told["wrong"])
    if not wrong:
        assert told["shown"][0]["given"].replace("\n", "") == "<user>where is it<e><assistant>"
        assert told["shown"][0]["learned"].strip() == "on its way<e>"
        assert told["learned_tokens"] > 0
        assert told["generation_markers"] == ("generation %" in template)
