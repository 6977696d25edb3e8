"""tools/prepare.py and tools/versions.py on a real daemon's state: what is launched and kept."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentd.context import Context
from agentd.errors import DataError, InputError, NotFound
from agentd.sdk import Launch, Report
from tests.tools.conftest import call, finish


def row(number: int, answer: str = "yes", **about: Any) -> dict[str, Any]:
    said = {"prompt": [{"role": "user", "content": f"question {number}"}],
            "completion": [{"role": "assistant", "content": answer}]}  # fmt: skip
    return {"id": f"r{number}-{answer}", **said, "origin": f"a.jsonl:{number}", **about}


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def prepared(ctx: Context, folder: Path, launch: Launch, **splits: Sequence[Any]) -> dict[str, Any]:
    """The result of a job whose recipe made these splits."""
    for name, rows in splits.items():
        write_lines(folder / name / "data.jsonl", rows)
        (folder / name / "README.md").write_text(f"---\n---\n# {name}\n", encoding="utf-8")
    write_lines(
        folder / "dropped.jsonl", [{"origin": "a.jsonl:9", "step": "length", "reason": "long", "row": {}}]
    )
    result = {
        "splits": {name: len(rows) for name, rows in splits.items()},
        "rows": sum(map(len, splits.values())),
        "dropped": 1,
        "mapping": {"a.jsonl": {"sha256": "ab", "shape": "pairs", "columns": {}, "records": 9, "rows": 8}},
        "steps": [{"step": "read"}],
        **{name: {} for name in ("pii", "languages", "labels", "crossing")},
        "pairs": 0,
        "problems": [],
    }
    return finish(ctx, "prepare_data", launch, folder, result)


def test_sources_are_files_folders_data_sets_and_reports(ctx: Context, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "a.jsonl", [row(1)])
    known = ctx.artifacts.add("dataset", path, name="known")
    rows = write_lines(tmp_path / "rows.jsonl", [
        {"id": "1", "input": "why?", "output": "so", "score": 1.0},
        {"id": "2", "input": "how?", "error": "500"},
    ])  # fmt: skip
    scores = {"score": 1.0, "low": 0.5, "high": 1.0, "n": 2}
    ctx.reports.save(
        Report(id="rep-1", suite="s", suite_digest="d", model="m", metric="x", rows=rows, **scores)
    )
    launch = call(ctx, "prepare_data", sources=["a.jsonl", "known", "report:rep-1", "."], name="all")
    assert [each["name"] for each in launch.spec["sources"]] == [
        "a.jsonl", "known.jsonl", "report:rep-1", tmp_path.name,
    ]  # fmt: skip
    assert launch.spec["parents"] == [known.id, "rep-1"]
    answers = launch.inputs["source2"].read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in answers] == [
        {"prompt": "why?", "completion": "so", "rating": 1.0, "source": "1"}
    ]
    assert (launch.quote.seconds > 0, launch.quote.micro_usd) == (True, 0)


def test_what_could_not_work_is_refused_before_it_is_launched(ctx: Context, tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()
    with pytest.raises(DataError, match="is empty"):
        call(ctx, "prepare_data", sources=["empty.csv"], name="a")
    with pytest.raises(NotFound):
        call(ctx, "prepare_data", sources=["none.csv"], name="a")
    write_lines(tmp_path / "a.jsonl", [row(1)])
    with pytest.raises(InputError, match="leave nothing to train on"):
        call(ctx, "prepare_data", sources=["a.jsonl"], name="a", validation=0.5, test=0.5)


def test_splits_and_the_rest_are_kept_under_names_and_twice_is_the_same(ctx: Context, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [row(1)])
    launch = call(ctx, "prepare_data", sources=["a.jsonl"], name="talk", validation=0.2, test=0)
    made = {"train": [row(n) for n in range(6)], "validation": [row(7)]}
    result = prepared(ctx, tmp_path / "out", launch, **made)
    assert result == prepared(ctx, tmp_path / "out", launch, **made)
    assert list(result["datasets"]) == ["train", "validation"]
    train = ctx.artifacts.get("talk", "dataset")
    assert (train.id, train.meta["split"], train.meta["rows"], train.meta["sources"]) == (
        result["datasets"]["train"], "train", 6, {"a.jsonl": "ab"},
    )  # fmt: skip
    assert ctx.artifacts.get("talk-dropped").id == result["dropped_rows"]
    listed = call(ctx, "list_datasets").datasets
    assert {(each.name, each.rows, each.made) for each in listed} == {
        ("talk", 6, "prepared"), ("talk-validation", 1, "prepared"),
    }  # fmt: skip
    shown = call(ctx, "show_dataset", dataset="talk", rows=2)
    assert ([each["id"] for each in shown.first], shown.card) == (["r0-yes", "r1-yes"], "---\n---\n# train\n")


def test_a_checked_set_is_another_version_with_all_that_was_known_of_it(ctx: Context, tmp_path: Path) -> None:
    write_lines(tmp_path / "a.jsonl", [row(1)])
    launch = call(ctx, "prepare_data", sources=["a.jsonl"], name="talk")
    made = prepared(ctx, tmp_path / "out", launch, train=[row(n) for n in range(8)])
    check = call(ctx, "check_dataset", path="talk", tokenizer_model="")
    out = tmp_path / "checked"
    out.mkdir()
    (out / "dataset.jsonl").write_bytes(check.inputs["dataset"].read_bytes())
    template = {"sha256": "ab", "rendered_sha256": "cd", "shown": [{"line": 1}]}
    figures = {"rows": 8, "tokens_median": 9, "problems": [], "histogram": {}, "balance": {}}
    told = finish(ctx, "check_dataset", check, out, figures | {"template": template}, "job-2")
    artifact = ctx.artifacts.get("talk", "dataset")
    assert (artifact.id, artifact.parents) == (told["dataset"], (made["datasets"]["train"],))
    assert (artifact.meta["template"], artifact.meta["family"], artifact.meta["split"]) == (
        {"sha256": "ab", "rendered_sha256": "cd"}, "talk", "train",
    )  # fmt: skip
    assert sorted(path.name for path in artifact.path.iterdir()) == ["README.md", "check.json", "data.jsonl"]
    assert call(ctx, "list_datasets", name="talk").datasets[0].made == "checked"


def test_two_versions_are_compared_by_words_and_by_origin(ctx: Context, tmp_path: Path) -> None:
    one = write_lines(tmp_path / "1.jsonl", [row(1, label="a"), row(2, label="a"), row(3, label="b")])
    other = write_lines(tmp_path / "2.jsonl", [row(1, label="a"), row(2, "no", label="a"), row(4, label="a")])
    ids = [ctx.artifacts.add("dataset", path, name="talk", meta={"options": {"seed": n}}).id
           for n, path in enumerate((one, other))]  # fmt: skip
    told = call(ctx, "diff_datasets", a=ids[0], b="talk")
    assert (told.same, told.only_a, told.only_b, told.changed) == (1, 2, 2, 1)
    assert told.examples[0]["b"]["completion"][0]["content"] == "no"
    assert (told.labels, told.options) == ({"a": [2, 3], "b": [1, 0]}, {"seed": [0, 1]})


def test_what_was_made_last_is_the_newest_of_its_name_even_if_it_was_there_before(
    ctx: Context, tmp_path: Path
) -> None:
    paths = [write_lines(tmp_path / f"{n}.jsonl", [row(n)]) for n in range(2)]
    ids = [ctx.artifacts.add("dataset", path, name="talk").id for path in (*paths, paths[0])]
    assert ids[0] == ids[2] == ctx.artifacts.get("talk").id
