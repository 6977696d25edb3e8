"""tools/leaks.py: what is found at once, what a check is remembered by, and what finetune says of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.context import Context
from agentd.errors import InputError, NotFound
from agentd.plugins import Plugins, bundled_root
from agentd.sdk import Launch, Model
from tests.tools.conftest import SUITE, OpenDaemon, call, context_of, finish

datasets, leaks = (Plugins((bundled_root(),)).module("tools", name) for name in ("datasets", "leaks"))

COUNTED = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen"
ROWS = [("long", COUNTED), ("short", "where is my parcel now, if I may ask?"), ("tiny", "Good morning")]


def example(prompt: str, answer: str = "x") -> Any:
    return datasets.Example(1, prompt, answer, {})


@pytest.mark.parametrize(
    ("prompt", "answer", "row", "how"),
    [
        ("Good  MORNING!", "x", "tiny", "the same input"),
        (f"He said: {COUNTED.upper()}, and left", "x", "long", "13 words in a row"),
        (COUNTED.split(" ", 2)[2] + " more", "x", "long", "13 words in a row"),
        ("go on", f"so: {COUNTED}", "long", "13 words in a row"),
        ("Tell me: where is my parcel now if I may ask", "x", "short", "9 words in a row"),
    ],
)
def test_a_copy_is_found_with_how_it_was_recognised(prompt: str, answer: str, row: str, how: str) -> None:
    found = leaks.copies([example(prompt, answer)], ROWS)
    assert [(copy.row, copy.how) for copy in found] == [(row, how)]


@pytest.mark.parametrize(
    "prompt",
    ["Good morning to you", "where is my parcel now", COUNTED.split(" ", 3)[3], "", "…", COUNTED[::-1]],
)
def test_less_than_a_run_is_no_copy(prompt: str) -> None:
    assert leaks.copies([example(prompt or "x", "y")], ROWS) == []


def test_what_many_rows_begin_with_is_a_set_phrase() -> None:
    phrase = "please answer the following question in one short sentence and give your reasons too"
    rows = [(str(n), f"{phrase} {n}") for n in range(4)]
    assert leaks.copies([example(f"{phrase} 77")], rows) == []
    assert [copy.row for copy in leaks.copies([example(f"{phrase} 2")], rows)] == ["2"]


@given(st.integers(0, 12), st.integers(0, 12), st.integers(8, 30))
def test_thirteen_words_are_found_wherever_they_stand(before: int, start: int, words: int) -> None:
    row = [f"w{n}" for n in range(words)]
    taken = row[start : start + 13]
    text = " ".join([*(f"b{n}" for n in range(before)), *taken, "after"])
    whole = len(taken) >= min(13, words)
    assert bool(leaks.copies([example(text)], [("r", " ".join(row))])) == whole


@pytest.fixture
def ctx(open_daemon: OpenDaemon, tmp_path: Path) -> Context:
    evals = tmp_path / "mine/evals"
    evals.mkdir(parents=True)
    (evals / "capitals.yaml").write_text(SUITE)
    rows = [{"id": "c1", "input": "q7", "expected": "A7"}, {"id": "c2", "input": "else", "expected": "b"}]
    (evals / "capitals.jsonl").write_text("\n".join(map(json.dumps, rows)))
    embedder = Model(
        name="minilm-l6", kind="local", path=tmp_path, source="path:x", meta={"task": "embedding"}
    )
    daemon = open_daemon(roots=(tmp_path / "mine",), models=(embedder,))
    return context_of(daemon, tmp_path)


def written(path: Path, *prompts: str) -> str:
    path.write_text("\n".join(json.dumps({"prompt": prompt, "completion": "A"}) for prompt in prompts))
    return str(path)


CLEAN = [f"question {n}" for n in range(10)]
RESULT = {"rows": 10, "leaks": 0, "accepted": [], "kinds": {}, "paraphrases": {"looked_for": True}}


def finished(ctx: Context, launch: Launch, out: Path, result: dict[str, Any]) -> dict[str, Any]:
    out.mkdir()
    return finish(ctx, "check_leaks", launch, out, result)


def test_a_leak_is_refused_before_anybody_is_asked_unless_its_suite_row_is_accepted(
    ctx: Context, tmp_path: Path
) -> None:
    data = written(tmp_path / "t.jsonl", *CLEAN, "Q7?")
    for tool, name in (("check_leaks", "dataset"), ("check_dataset", "path")):
        given = {name: data, "suite": "capitals"}
        given |= {"tokenizer_model": ""} if tool == "check_dataset" else {}
        with pytest.raises(
            InputError, match=r"1 of 11 training rows.*line 11 is c1 \(the same input\): 'Q7\?'"
        ):
            call(ctx, tool, **given)
        launch = call(ctx, tool, **given, accept=["c1"])
        assert launch.spec["accept"] == ["c1"]
        with pytest.raises(NotFound, match="c1"):
            call(ctx, tool, **given, accept=["c11"])


def test_a_check_holds_for_the_content_it_saw_and_for_nothing_else(ctx: Context, tmp_path: Path) -> None:
    data = written(tmp_path / "t.jsonl", *CLEAN)
    suite = leaks.find_suite(ctx, "capitals")
    file = Path(data)
    assert leaks.what_was_checked(ctx, file, suite) is None
    launch = call(ctx, "check_leaks", dataset=data, suite="capitals")
    assert set(launch.inputs) == {"dataset", "suite", "embedder"}
    answer = finished(ctx, launch, tmp_path / "out", RESULT)
    read = datasets.read_dataset(file)
    known = leaks.refuse_leaks(ctx, read, suite)
    assert known == {"suite": "capitals", "accepted": [], "check": answer["check"], "paraphrases": True}
    written(file, *CLEAN, "one more")
    assert leaks.what_was_checked(ctx, file, suite) is None


def test_what_a_check_accepted_stays_accepted(ctx: Context, tmp_path: Path) -> None:
    data = written(tmp_path / "t.jsonl", *CLEAN, "Q7?")
    launch = call(ctx, "check_leaks", dataset=data, suite="capitals", accept=["c1"])
    finished(ctx, launch, tmp_path / "out", RESULT | {"accepted": ["c1"]})
    known = leaks.refuse_leaks(ctx, datasets.read_dataset(Path(data)), leaks.find_suite(ctx, "capitals"))
    assert known["accepted"] == ["c1"]


def test_a_check_that_looked_for_paraphrases_counts_before_one_that_did_not(
    ctx: Context, tmp_path: Path
) -> None:
    data = written(tmp_path / "t.jsonl", *CLEAN)
    launch = call(ctx, "check_leaks", dataset=data, suite="capitals")
    better = finished(ctx, launch, tmp_path / "first", RESULT)
    finished(ctx, launch, tmp_path / "second", RESULT | {"paraphrases": {"looked_for": False, "why": "w"}})
    checked = leaks.what_was_checked(ctx, Path(data), leaks.find_suite(ctx, "capitals"))
    assert checked.id == better["check"]


def test_an_embedder_that_is_not_there_is_named(ctx: Context, tmp_path: Path) -> None:
    data = written(tmp_path / "t.jsonl", *CLEAN)
    with pytest.raises(InputError, match="'e5' is not in the catalog"):
        call(ctx, "check_leaks", dataset=data, suite="capitals", embedder="e5")
    launch = call(ctx, "check_leaks", dataset=data, suite="capitals", embedder="")
    assert set(launch.inputs) == {"dataset", "suite"}
