"""tools/evaluate.py and tools/data.py on a real daemon's state: what they launch, score and keep."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from agentd.config import Config
from agentd.context import Context
from agentd.daemon import Daemon
from agentd.errors import DataError, InputError, NotFound, Unavailable
from agentd.policy.callers import Caller
from agentd.sdk import Finished, Launch, Model

YAML = """\
suite: capitals
description: d
inclusion: i
source: s
licence: CC0-1.0
data: data/capitals.jsonl
prompt: {system: Answer., user: "{input}?"}
output_schema: {type: object}
max_tokens: 20
metric: exact_match
scorer: exact_text
slices: [continent]
"""
ROWS = [
    {"id": "1", "input": "France", "expected": "Paris", "continent": "Europe"},
    {"id": "2", "input": "Peru", "expected": "Lima", "continent": "America"},
    {"id": "3", "input": "Spain", "expected": "Madrid", "continent": "Europe"},
]


def write_lines(path: Path, rows: Sequence[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    evals = tmp_path / "mine/evals"
    write_lines(evals / "data/capitals.jsonl", ROWS)
    (evals / "capitals.yaml").write_text(YAML)
    config = Config(
        state_dir=tmp_path / "state",
        cache_dir=tmp_path / "cache",
        roots=(tmp_path / "mine",),
        models=(
            Model(
                name="far",
                kind="frontier",
                endpoint="http://127.0.0.1:9/v1",
                input_micro_usd_per_mtok=1_000_000,
                output_micro_usd_per_mtok=4_000_000,
            ),
            Model(name="near", kind="local"),
        ),
    )
    daemon = Daemon(config, url="http://127.0.0.1:9")
    yield daemon
    asyncio.run(daemon.aclose())


@pytest.fixture
def ctx(daemon: Daemon, tmp_path: Path) -> Context:
    return daemon.calls.context(Caller("ann", "operate", "cli", tmp_path, is_agent=False))


def call(ctx: Context, tool: str, **arguments: Any) -> Any:
    """Call a tool's handler with its defaults, as the kernel does."""
    found = ctx.plugins.tools()[tool]  # type: ignore[attr-defined]
    checked = found.arguments(**arguments)
    return asyncio.run(
        found.handler(ctx, **{name: getattr(checked, name) for name in type(checked).model_fields})
    )


def finish(
    ctx: Context, tool: str, launch: Launch, out: Path, result: dict[str, Any], job: str = "job-1"
) -> Any:
    on_done = ctx.plugins.tools()[tool].on_done  # type: ignore[attr-defined]
    return on_done(ctx, Finished(job, launch.spec, result, out, 1.0))


def evaluated(
    ctx: Context, model: str, outputs: Sequence[str | None], folder: Path, job: str
) -> dict[str, Any]:
    """The report of a model that gave `outputs`; None stands for a row without an answer."""
    launch = call(ctx, "evaluate", suite="capitals", model=model)
    rows: list[Any] = [
        row | ({"error": "500"} if output is None else {"output": output, "finish_reason": "stop"})
        for row, output in zip(ROWS, outputs, strict=True)
    ]
    told = scored(ctx, launch, rows)
    write_lines(folder / "rows.jsonl", rows)
    return finish(ctx, "evaluate", launch, folder, {"tokens_per_s": 5.0, "seconds": 2.0} | told, job)


def scored(ctx: Context, launch: Launch, rows: list[Any]) -> dict[str, Any]:
    """What the recipe makes of answered rows, by the files that it is handed."""
    scoring, statistics = ctx.plugins.module("evals", "scoring"), ctx.plugins.module("tools", "verdict")
    scorers = scoring.load_scorers(launch.spec["metrics"], {k: str(v) for k, v in launch.inputs.items()})
    scoring.score_rows(rows, scorers)
    return scoring.summary(rows, scorers, launch.spec["slices"], statistics)


# --- evaluate -------------------------------------------------------------------------------


def test_an_evaluation_is_launched_through_the_gateway_and_quoted_by_the_models_price(ctx: Context) -> None:
    launch = call(ctx, "evaluate", suite="capitals", model="far", limit=2)
    assert (launch.recipe, launch.gateway, launch.needs) == ("evaluate", True, ())
    assert launch.inputs["rows"].name == "capitals.jsonl"
    spec = {
        name: launch.spec[name]
        for name in ("model", "system", "user", "schema", "max_tokens", "limit", "identity")
    }
    assert spec == {
        "model": "far",
        "system": "Answer.",
        "user": "{input}?",
        "schema": None,
        "max_tokens": 20,
        "limit": 2,
        "identity": [[{"endpoint": "http://127.0.0.1:9/v1", "upstream": "far"}]],
    }
    assert [metric["name"] for metric in launch.spec["metrics"]] == ["exact_match"]
    assert {"rows", "scoring", "statistics", "scorer-exact_text"} == set(launch.inputs)
    assert 50 < launch.quote.micro_usd < 500
    assert "2 rows" in launch.quote.basis


def test_a_constrained_evaluation_carries_the_schema_and_its_label(ctx: Context) -> None:
    launch = call(ctx, "evaluate", suite="capitals", model="far", constrained=True)
    assert launch.spec["schema"] == {"type": "object"}
    assert launch.spec["label"] == "constrained"


def test_what_cannot_be_evaluated_is_refused_before_anything_is_quoted(ctx: Context) -> None:
    with pytest.raises(NotFound, match="capitol"):
        call(ctx, "evaluate", suite="capitol", model="far")
    with pytest.raises(NotFound, match="fat"):
        call(ctx, "evaluate", suite="capitals", model="fat")
    with pytest.raises(Unavailable, match="not being served"):
        call(ctx, "evaluate", suite="capitals", model="near")


def test_a_report_holds_score_interval_and_slices_and_scoring_again_gives_the_same_one(
    ctx: Context, tmp_path: Path
) -> None:
    first = evaluated(ctx, "far", ["Paris", "Quito", " Madrid\n"], tmp_path / "out", "job-7")
    again = evaluated(ctx, "far", ["Paris", "Quito", " Madrid\n"], tmp_path / "out", "job-7")
    assert first == again
    assert (first["score"], first["n"], first["errors"]) == (pytest.approx(2 / 3), 3, 0)
    assert first["low"] == pytest.approx(0.2077, abs=1e-4)
    report = ctx.reports.get(first["report"])
    assert {value: each["score"] for value, each in report.meta["slices"]["continent"].items()} == {
        "Europe": 1.0,
        "America": 0.0,
    }
    rows = [json.loads(line) for line in report.rows.read_text().splitlines()]
    assert [row["score"] for row in rows] == [1.0, 0.0, 1.0]
    assert len(ctx.reports.list()) == 1


def test_a_row_without_an_answer_is_no_zero_and_is_warned_about(ctx: Context, tmp_path: Path) -> None:
    result = evaluated(ctx, "far", ["Paris", None, "Madrid"], tmp_path / "out", "job-1")
    assert (result["score"], result["n"], result["errors"]) == (1.0, 2, 1)
    assert "1 of 3 rows have no score" in result["warning"]


# --- baseline and check_dataset -------------------------------------------------------------


def training(folder: Path, *prompts: str) -> Path:
    return write_lines(folder / "train.jsonl", [{"prompt": prompt, "completion": "x"} for prompt in prompts])


def test_a_baseline_is_fitted_on_rows_that_do_not_stand_in_the_suite(ctx: Context, tmp_path: Path) -> None:
    path = training(tmp_path, "Italy", "Chile")
    launch = call(ctx, "baseline", suite="capitals", dataset=str(path), embedder="")
    assert (launch.recipe, launch.spec["model"]) == ("fit_baseline", "linear-head")
    assert set(launch.inputs) == {"train", "rows", "scoring", "statistics", "scorer-exact_text"}
    assert launch.quote.seconds > 0
    with pytest.raises(InputError, match=r"minilm-l6.*get_model"):
        call(ctx, "baseline", suite="capitals", dataset=str(path))
    with pytest.raises(DataError, match="1 rows stand in the suite") as caught:
        call(ctx, "baseline", suite="capitals", dataset=str(training(tmp_path, "Italy", "PERU")), embedder="")
    assert caught.value.line == 2


def test_a_checked_set_becomes_an_artifact_that_other_tools_know_by_name(
    ctx: Context, tmp_path: Path
) -> None:
    path = training(tmp_path, *(f"country {n}" for n in range(9)))
    launch = call(ctx, "check_dataset", path=str(path), suite="capitals", name="geo", tokenizer_model="")
    assert set(launch.inputs) == {"dataset", "suite"}
    assert launch.quote.micro_usd == 0
    out = tmp_path / "out"
    out.mkdir()
    (out / "dataset.jsonl").write_bytes(path.read_bytes())
    counted = {"rows": 9, "problems": [], "histogram": {}, "balance": {}}
    first = finish(ctx, "check_dataset", launch, out, counted)
    assert first == finish(ctx, "check_dataset", launch, out, counted)
    assert (first["ok"], first["rows"], first["name"]) == (True, 9, "geo")
    assert Path(first["path"]).read_bytes() == path.read_bytes()
    again = call(ctx, "check_dataset", path="geo", tokenizer_model="")
    assert again.inputs["dataset"] == Path(first["path"])
    assert again.spec["parents"] == [first["dataset"]]


def test_a_set_that_cannot_be_trained_on_is_refused_at_once(ctx: Context, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has 2 rows"):
        call(ctx, "check_dataset", path=str(training(tmp_path, "a", "b")), tokenizer_model="")
    with pytest.raises(NotFound):
        call(ctx, "check_dataset", path=str(tmp_path / "none.jsonl"))
    with pytest.raises(InputError, match=r"no tokenizer\.json"):
        call(ctx, "check_dataset", path=str(training(tmp_path, *"abcdefghi")), tokenizer_model="near")
