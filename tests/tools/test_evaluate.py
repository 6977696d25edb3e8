"""The tools that measure, and check_dataset, on a real daemon's state: what they launch, score and keep."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentd.context import Context
from agentd.daemon import Daemon
from agentd.errors import DataError, InputError, NotFound, Unavailable
from agentd.plugins import bundled_root
from agentd.policy.rules import Call, decide, load_rules
from agentd.sdk import Launch, Model
from tests.tools.conftest import OpenDaemon, call, finish

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
def daemon(open_daemon: OpenDaemon, tmp_path: Path) -> Daemon:
    evals = tmp_path / "mine/evals"
    write_lines(evals / "data/capitals.jsonl", ROWS)
    (evals / "capitals.yaml").write_text(YAML)
    return open_daemon(
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
    assert 50 < launch.quote.tokens_micro_usd < 500
    assert launch.quote.tokens_micro_usd < launch.tokens_micro_usd < 3_000
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


def test_a_model_that_was_measured_may_be_evaluated_by_its_kept_answers_without_a_service(
    ctx: Context, tmp_path: Path
) -> None:
    told = evaluated(ctx, "far", ["Paris", "Lima", "Madrid"], tmp_path / "out", "job-7")
    far = ctx.reports.get(told["report"])
    ctx.reports.save(far.model_copy(update={"id": "report-job-8", "model": "near"}))
    launch = call(ctx, "evaluate", suite="capitals", model="near")
    assert (launch.needs, launch.spec["unserved"]) == ((), {"near": "near"})
    with pytest.raises(Unavailable, match="not being served"):
        call(ctx, "evaluate", suite="capitals", model="near", fresh=True)


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


# --- what a suite may measure ---------------------------------------------------------------


def with_metrics(tmp_path: Path, metrics: str) -> None:
    suite = YAML.replace("metric: exact_match\nscorer: exact_text\n", f"metrics: {metrics}\n")
    (tmp_path / "mine/evals/capitals.yaml").write_text(suite)


@pytest.mark.parametrize(
    ("metrics", "says"),
    [
        ("[{scorer: rouge, options: {varient: rouge1}}]", "option 'varient'.*Did you mean 'variant'"),
        (
            "[{scorer: calibration}]",
            "must give its scorer 'calibration' the option 'of'|less of it is better",
        ),
        ("[exact_text, calibration]", "must give its scorer 'calibration' the option 'of'"),
        ("[{scorer: calibration, options: {of: x}}]", "less of it is better"),
        ("[{scorer: pass_at_k, options: {sandbox: false}}]", "without a sandbox.*unsandboxed=true"),
    ],
)
def test_a_metric_that_cannot_be_measured_so_is_refused_before_anything_is_asked(
    ctx: Context, tmp_path: Path, metrics: str, says: str
) -> None:
    with_metrics(tmp_path, metrics)
    with pytest.raises(InputError) as caught:
        call(ctx, "evaluate", suite="capitals", model="far")
    assert re.search(says, f"{caught.value} {caught.value.hint}", re.DOTALL)


def test_a_call_may_allow_code_without_a_sandbox_and_the_shipped_rules_ask_a_person(
    ctx: Context, tmp_path: Path
) -> None:
    with_metrics(tmp_path, "[{scorer: pass_at_k, options: {sandbox: false}}]")
    assert call(ctx, "evaluate", suite="capitals", model="far", unsandboxed=True).recipe == "evaluate"
    for name in ("default", "unattended"):
        rules = load_rules(bundled_root() / f"policies/{name}.yaml")
        asked = Call(
            tool="evaluate",
            arguments={"unsandboxed": True},
            principal="agent:x",
            surface="mcp",
            launches=True,
        )
        assert decide(rules, asked).rule == "code-without-a-sandbox"
        assert decide(rules, asked.model_copy(update={"arguments": {}})).effect == "allow"


def test_what_a_scorer_wants_and_the_red_team_part_reach_the_recipe(ctx: Context, tmp_path: Path) -> None:
    with_metrics(tmp_path, "[exact_text, perplexity]\nredteam: data/capitals.jsonl")
    launch = call(ctx, "evaluate", suite="capitals", model="far")
    assert [metric["wants"] for metric in launch.spec["metrics"]] == [[], ["likelihood"]]
    assert {"redteam", "scorer-refusal", "scorer-perplexity"} <= set(launch.inputs)
    path = training(tmp_path, "Italy", "Chile")
    plain = call(ctx, "baseline", suite="capitals", dataset=str(path), embedder="")
    assert [metric["name"] for metric in plain.spec["metrics"]] == ["exact_text"]
    assert "redteam" not in plain.inputs


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
    with pytest.raises(InputError, match=r"1 of 2 training rows .* line 2 is 2 \(the same input\): 'PERU'"):
        call(ctx, "baseline", suite="capitals", dataset=str(training(tmp_path, "Italy", "PERU")), embedder="")


def test_a_checked_set_becomes_an_artifact_that_other_tools_know_by_name(
    ctx: Context, tmp_path: Path
) -> None:
    path = training(tmp_path, *(f"country {n}" for n in range(9)))
    launch = call(ctx, "check_dataset", path=str(path), suite="capitals", name="geo", tokenizer_model="")
    assert set(launch.inputs) == {"dataset", "suite", "check_leaks"}
    assert launch.quote.tokens_micro_usd == 0
    out = tmp_path / "out"
    (out / "leaks").mkdir(parents=True)
    (out / "dataset.jsonl").write_bytes(path.read_bytes())
    looked = {"accepted": [], "paraphrases": {"looked_for": False}, "kinds": {}}
    counted = {"rows": 9, "problems": [], "histogram": {}, "balance": {}, "leak_check": looked}
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


# --- judges ---------------------------------------------------------------------------------

JUDGE = """\
judge: kindness
model: far
rubric: Is the answer kind?
scale: [1, 4]
levels: {1: rude, 4: warm}
show: {Question: input}
examples:
  - {input: "Where?", output: "No idea.", score: 1, reason: It helps nobody.}
"""
SUITE = YAML.replace(
    "metric: exact_match\nscorer: exact_text\n", "metrics:\n  - {name: kind, judge: kindness}\n"
)


@pytest.fixture
def evals(tmp_path: Path) -> Path:
    folder = tmp_path / "mine/evals"
    (folder / "judges").mkdir(parents=True)
    (folder / "judges/kindness.yaml").write_text(JUDGE)
    return folder


def rated(folder: Path, *changes: dict[str, Any]) -> str:
    """Three answers, rated by two people each."""
    rows = [
        {
            "input": f"q{n}",
            "answer": f"a{n}",
            "ratings": [1 + n, 2 + n],
            "task": "t",
            "by": "far" if n else "me",
        }
        for n in range(3)
    ]
    for row, change in zip(rows, changes, strict=False):
        row |= change
    return str(write_lines(folder / "rated.jsonl", rows))


def calibrate(ctx: Context, folder: Path, **arguments: Any) -> Any:
    given = {"judge": "kindness", "output": "answer", "group": "task", "author": "by"} | arguments
    return call(ctx, "calibrate_judge", ratings=given.pop("ratings", None) or rated(folder), **given)


def measured(kappa: float, low: float, errors: int = 0, most_given: float = 0.5) -> dict[str, Any]:
    figures = {"kappa": {"value": kappa, "low": low, "high": min(1.0, kappa + 0.1)}}
    metric = {"score": 0.5, "low": 0.4, "high": 0.6, "n": 3, "errors": errors, "better": "higher"}
    metrics = [
        {"name": "kindness", "figures": {"most_given": {"value": most_given}}} | metric,
        {"name": "agreement", "figures": figures} | metric,
    ]
    return {"n": 100, "asked": 40, "errors": errors, "seconds": 1.0, "metrics": metrics}


def kept(ctx: Context, folder: Path, launch: Any, result: dict[str, Any]) -> dict[str, Any]:
    write_lines(folder / "rows.jsonl", [{"id": "1", "score": 1.0}])
    return finish(ctx, "calibrate_judge", launch, folder, result)


def test_a_calibration_asks_about_answers_that_are_there_and_shows_none_of_the_ratings(
    ctx: Context, evals: Path, tmp_path: Path
) -> None:
    launch = calibrate(ctx, tmp_path)
    assert (launch.recipe, launch.spec["model"], launch.gateway) == ("evaluate", None, True)
    rows = [json.loads(line) for line in launch.inputs["rows"].read_text().splitlines()]
    assert [(row["output"], row["ratings"], row["_group"]) for row in rows] == [
        ("a0", [1, 2], "t"),
        ("a1", [2, 3], "t"),
        ("a2", [3, 4], "t"),
    ]
    told = launch.spec["judges"]["kindness"]
    assert list(told["show"].values()) == ["input"]
    assert "1: rude\n4: warm" in told["system"]
    assert json.loads(told["examples"][1]["content"]) == {"reason": "It helps nobody.", "score": 1}
    assert told["schema"]["properties"]["score"] == {"enum": [1, 2, 3, 4]}
    assert launch.spec["metrics"][1]["options"]["own"] == ["far"]
    assert launch.quote.tokens_micro_usd > 0


def test_a_pairwise_judge_is_given_every_pair_of_a_group_and_whom_people_preferred(
    ctx: Context, evals: Path, tmp_path: Path
) -> None:
    pairwise = JUDGE.split("examples:")[0] + "pairwise: true\nagainst: other\n"
    (evals / "judges/better.yaml").write_text(pairwise.replace("kindness", "better"))
    rows = [{"ratings": [4, 2]}, {"ratings": [1, 2]}]
    launch = calibrate(ctx, tmp_path, judge="better", ratings=rated(tmp_path, *rows))
    pairs = [json.loads(line) for line in launch.inputs["rows"].read_text().splitlines()]
    assert [(row["output"], row["other"], row["ratings"]) for row in pairs] == [
        ("a0", "a1", [2, 1]),
        ("a0", "a2", [2, 0]),
        ("a1", "a2", [0, 0]),
    ]
    with pytest.raises(InputError, match="answers to one question"):
        calibrate(ctx, tmp_path, judge="better", group="")


@pytest.mark.parametrize(
    ("change", "field", "says"),
    [
        ({"ratings": [5]}, "ratings", "1 to 4"),
        ({"ratings": []}, "ratings", "1 to 4"),
        ({"ratings": [2.5]}, "ratings", "whole numbers"),
        ({"answer": ""}, "answer", "filled string"),
    ],
)
def test_ratings_that_cannot_be_compared_are_named_by_line_and_field(
    ctx: Context, evals: Path, tmp_path: Path, change: dict[str, Any], field: str, says: str
) -> None:
    with pytest.raises(DataError, match=says) as caught:
        calibrate(ctx, tmp_path, ratings=rated(tmp_path, {}, change))
    assert (caught.value.line, caught.value.field) == (2, field)
    with pytest.raises(DataError, match="is missing"):
        calibrate(ctx, tmp_path, rating="stars")


@pytest.mark.parametrize(
    ("result", "calibrated", "says"),
    [
        (measured(0.6, 0.45), True, "0.60 (0.45 to 0.70, 100 rows)"),
        (measured(0.3, 0.1), False, "not surely above 0.2"),
        (measured(0, 0, most_given=1.0), False, "it gives every answer the same rating"),
        (measured(0.6, 0.45, errors=3), False, "3 of 100 verdicts"),
        (measured(0.6, 0.45) | {"metrics": measured(0, 0)["metrics"][:1] * 2}, False, "not defined"),
    ],
)
def test_a_judge_may_decide_once_people_surely_agree_with_it(
    ctx: Context, evals: Path, tmp_path: Path, result: dict[str, Any], calibrated: bool, says: str
) -> None:
    (evals / "capitals.yaml").write_text(SUITE)
    launch = calibrate(ctx, tmp_path)
    told = kept(ctx, tmp_path, launch, result)
    assert told == kept(ctx, tmp_path, launch, result)
    assert (told["calibrated"], told["asked"]) == (calibrated, 40)
    assert says in told["why"]
    assert ctx.reports.get(told["report"]).meta["judge"]["calibrated"] is calibrated
    standing = call(ctx, "evaluate", suite="capitals", model="far").spec["standings"]["kind"]
    assert (standing["calibrated"], standing["why"]) == (calibrated, told["why"])


def test_a_calibration_holds_for_exactly_the_judge_that_was_measured(
    ctx: Context, evals: Path, tmp_path: Path
) -> None:
    (evals / "capitals.yaml").write_text(SUITE)
    kept(ctx, tmp_path, calibrate(ctx, tmp_path), measured(0.6, 0.45))
    for changed in (
        JUDGE.replace("kind?", "very kind?"),
        JUDGE + "max_tokens: 99\n",
        JUDGE.replace("[1, 4]", "[1, 5]"),
    ):
        (evals / "judges/kindness.yaml").write_text(changed)
        standing = call(ctx, "evaluate", suite="capitals", model="far").spec["standings"]["kind"]
        assert not standing["calibrated"]
        assert "calibrate_judge judge=kindness" in standing["why"]


def test_a_report_by_an_uncalibrated_judge_says_so_and_decides_nothing(
    ctx: Context, evals: Path, tmp_path: Path
) -> None:
    (evals / "capitals.yaml").write_text(SUITE)
    reports: list[str] = []
    for job, score in (("job-1", 1.0), ("job-2", 0.0)):
        launch = call(ctx, "evaluate", suite="capitals", model="far")
        rows: list[Any] = [row | {"output": "x", "verdicts": {"kind": {"score": score}}} for row in ROWS]
        told = scored(ctx, launch, rows)
        write_lines(tmp_path / job / "rows.jsonl", rows)
        made = finish(ctx, "evaluate", launch, tmp_path / job, {"seconds": 1.0} | told, job)
        assert "decides nothing alone" in made["warning"]
        reports.append(made["report"])
    report = ctx.reports.get(reports[0])
    assert report.meta["judge"]["calibrated"] is False
    assert report.metrics[0].judge["digest"] == report.digests["judge kind"]
    said = call(ctx, "compare", candidate=reports[0], baseline=reports[1])
    assert said.verdict == "inconclusive"
    assert "decides nothing alone" in said.why


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("scale: [1, 4]", "scale: [4, 1]", ""),
        ("score: 1,", "score: 7,", ""),
        ("levels: {1: rude", "levels: {9: rude", ""),
        ("rubric:", "rubrik:", "rubric"),
        ("model: far", "model: fat", "model"),
    ],
)
def test_a_mistake_in_a_judges_file_is_named(
    ctx: Context, evals: Path, tmp_path: Path, old: str, new: str, field: str
) -> None:
    (evals / "judges/kindness.yaml").write_text(JUDGE.replace(old, new))
    with pytest.raises(DataError) as caught:
        calibrate(ctx, tmp_path)
    assert field in (caught.value.field or "")


def test_a_suite_whose_rows_lack_what_its_judge_is_shown_is_refused(
    ctx: Context, evals: Path, tmp_path: Path
) -> None:
    (evals / "capitals.yaml").write_text(SUITE)
    (evals / "judges/kindness.yaml").write_text(JUDGE.replace("{Question: input}", "{Passages: passages}"))
    with pytest.raises(InputError, match="is shown the field 'passages'"):
        call(ctx, "evaluate", suite="capitals", model="far")
    (evals / "capitals.yaml").write_text(SUITE.replace("judge: kindness", "judge: kindnes"))
    with pytest.raises(NotFound, match="kindness"):
        call(ctx, "evaluate", suite="capitals", model="far")
