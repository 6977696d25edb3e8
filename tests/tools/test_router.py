"""tools/router.py: what examples are refused, what is launched, and what becomes of the result."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentd.context import Context
from agentd.errors import DataError, InputError
from agentd.sdk import Report
from tests.tools.conftest import call, finish


def written(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def classes(count: int = 4) -> list[dict[str, Any]]:
    return [{"text": f"{label} {n}", "label": label} for label in ("card", "loan") for n in range(count)]


def train(ctx: Context, tmp_path: Path, rows: list[Any], **arguments: Any) -> Any:
    return call(ctx, "train_router", examples=written(tmp_path / "x.jsonl", rows), embedder="", **arguments)


def given(launch: Any) -> list[dict[str, Any]]:
    return [json.loads(line) for line in launch.inputs["rows"].read_text().splitlines()]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"label": "card"}, "x.jsonl:9: text: should be a text"),
        ({"text": "a"}, "x.jsonl:9: label: should be a text or null"),
        ({"text": "a", "label": 1}, "x.jsonl:9: label: should be a text or null, and is 1"),
        ({"text": "card 0", "label": "loan"}, "'loan' here and 'card' in line 1, for the same text"),
        ({"text": "a", "small": 0, "big": 1}, "is for difficulty, and line 1 is not"),
    ],
)
def test_a_row_that_cannot_be_learned_is_named(ctx: Context, tmp_path: Path, row: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        train(ctx, tmp_path, [*classes(), row])


@pytest.mark.parametrize("score", [None, "1", -0.1, 2])
def test_a_score_is_a_number_from_0_to_1(ctx: Context, tmp_path: Path, score: Any) -> None:
    with pytest.raises(DataError, match=r"x\.jsonl:1: big: should be from 0 to 1"):
        train(ctx, tmp_path, [{"text": "a", "small": 1, "big": score}])


def test_too_few_examples_and_a_single_label_are_refused(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="The label 'loan' has 3 examples, and 4 are needed"):
        train(ctx, tmp_path, classes()[:7])
    with pytest.raises(InputError, match="All examples have the label 'card'"):
        train(ctx, tmp_path, classes()[:4])
    with pytest.raises(InputError, match="Name either examples, or the reports"):
        call(ctx, "train_router", small="a")


def test_texts_count_once_and_null_is_out_of_scope(ctx: Context, tmp_path: Path) -> None:
    launch = train(ctx, tmp_path, [*classes(), *classes(), {"text": "hello", "label": None}])
    assert [row["label"] for row in given(launch)] == ["card"] * 4 + ["loan"] * 4 + [None]
    assert launch.spec["kind"] == "classes"


def test_the_larger_model_is_needed_where_it_scores_more_and_not_where_both_fail(
    ctx: Context, tmp_path: Path
) -> None:
    scores = [(0, 1), (0, 0), (1, 1), (1, 0), (0.2, 0.9)] * 4
    rows = [{"text": f"q{n}", "small": one, "big": two} for n, (one, two) in enumerate(scores)]
    launch = train(ctx, tmp_path, rows)
    told = ["not_enough", "enough", "enough", "enough", "not_enough"]
    assert [row["label"] for row in given(launch)] == told * 4
    assert launch.spec["kind"] == "difficulty"


def test_two_reports_of_one_suite_are_examples(ctx: Context, tmp_path: Path) -> None:
    for name, digest, right in (("small", "d", [0, 1]), ("big", "d", [1, 1]), ("other", "e", [1, 1])):
        rows = [{"id": f"r{n}", "input": f"q{n}", "score": right[n % 2]} for n in range(10)]
        path = Path(written(tmp_path / f"{name}.jsonl", [*rows, {"id": "r10", "input": "q", "error": "e"}]))
        ctx.reports.save(
            Report(id=name, suite="s", suite_digest=digest, model=name, metric="m", score=0.5, low=0, high=1,
                   n=10, rows=path)
        )  # fmt: skip
    launch = call(ctx, "train_router", small="small", big="big", embedder="")
    assert [row["label"] for row in given(launch)] == ["not_enough", "enough"] * 5
    with pytest.raises(InputError, match="not of the same suite"):
        call(ctx, "train_router", small="small", big="other", embedder="")


def test_test_rows_share_no_text_and_no_new_label_with_the_examples(ctx: Context, tmp_path: Path) -> None:
    for row, said in (
        (classes()[0], "share the text 'card 0'"),
        ({"text": "z", "label": "z"}, "the label 'z'"),
    ):
        with pytest.raises(InputError, match=said):
            train(ctx, tmp_path, classes(), test=written(tmp_path / "t.jsonl", [row]))


def test_an_embedder_that_is_not_there_is_named_with_how_to_get_it(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'minilm-l6' is not in the catalog"):
        call(ctx, "train_router", examples=written(tmp_path / "x.jsonl", classes()))


def test_head_and_report_are_kept_and_twice_is_the_same(ctx: Context, tmp_path: Path) -> None:
    launch = train(ctx, tmp_path, classes(), name="mine")
    out = tmp_path / "out"
    out.mkdir()
    written(
        out / "rows.jsonl", [{"id": "1", "score": 1.0}, {"id": "2", "score": 0.0}, {"id": "3", "score": None}]
    )
    (out / "router.json").write_text("{}")
    result = {
        "n": 2, "measured": "test rows", "figures": {"ece": {"value": 0.1, "low": 0.0, "high": 0.2}},
        "classes": {}, "chosen": {}, "temperature": 1.0, "trained_on": 8, "seconds": 1.0,
    }  # fmt: skip
    first, again = (finish(ctx, "train_router", launch, out, result) for _ in range(2))
    assert first == again
    assert first["accuracy"]["value"] == 0.5
    report = ctx.reports.get(first["report"])
    assert report.metrics[0].figures["ece"].high == 0.2
    assert report.digests["router"] == ctx.artifacts.get("mine", "router").digest
