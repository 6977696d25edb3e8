"""tools/preflight.py: a suite too small for the difference asked about is told before a model is asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentd.context import Context
from agentd.errors import InputError, NotFound
from agentd.sdk import Launch, Model, Report
from tests.tools.conftest import SUITE, OpenDaemon, call, context_of

ROWS = 200


@pytest.fixture
def ctx(open_daemon: OpenDaemon, tmp_path: Path) -> Context:
    evals = tmp_path / "mine/evals"
    evals.mkdir(parents=True)
    (evals / "capitals.yaml").write_text(SUITE)
    (evals / "declared.yaml").write_text(
        SUITE.replace("capitals\n", "declared\n", 1) + "gate: {margin: 0.02}\n"
    )
    rows = [{"id": str(n), "input": f"q{n}", "expected": "a"} for n in range(ROWS)]
    (evals / "capitals.jsonl").write_text("\n".join(map(json.dumps, rows)))
    far = Model(name="far", kind="frontier", endpoint="http://127.0.0.1:9/v1", upstream="far",
        input_micro_usd_per_mtok=0, output_micro_usd_per_mtok=0)  # fmt: skip
    daemon = open_daemon(roots=(tmp_path / "mine",), models=(far,))
    return context_of(daemon, tmp_path)


def power(ctx: Context, **arguments: Any) -> Any:
    return asyncio.run(ctx.call("power", {"suite": "capitals", **arguments}))


def evaluate(ctx: Context, suite: str, **arguments: Any) -> Launch:
    return call(ctx, "evaluate", suite=suite, model="far", **arguments)


def saved(ctx: Context, folder: Path, name: str, scores: Sequence[float | None], digest: str = "") -> str:
    digest = digest or evaluate(ctx, "capitals").spec["suite_digest"]
    path = folder / f"{name}.jsonl"
    lines = [{"id": str(n)} | ({} if s is None else {"score": s}) for n, s in enumerate(scores)]
    path.write_text("\n".join(map(json.dumps, lines)))
    report = Report(
        id=name, suite="capitals", suite_digest=digest, model=name, metric="exact_match",
        score=0.5, low=0, high=1, n=len(scores), rows=path,
    )  # fmt: skip
    return ctx.reports.save(report).id


def test_without_a_report_the_rows_needed_are_those_of_the_widest_guess(ctx: Context) -> None:
    made = power(ctx, difference=0.1)
    assert (made.rows, made.enough, made.basis) == (ROWS, False, "guessed, with no report of this suite yet")
    assert made.needed > ROWS
    assert f"{made.needed} rows are needed for 0.8" in made.why
    assert power(ctx, difference=made.difference_shown + 0.001).enough
    assert power(ctx, difference=0.3, limit=20).rows == 20


def test_two_reports_of_models_that_differ_little_need_fewer_rows(ctx: Context, tmp_path: Path) -> None:
    right = [1.0] * (ROWS - 1)
    saved(ctx, tmp_path, "old", [*right, None])
    guessed = power(ctx, difference=0.1)
    assert "guessed from old" in guessed.basis
    saved(ctx, tmp_path, "new", [0.0, *right])
    seen = power(ctx, difference=0.1)
    assert "new and old differ" in seen.basis
    assert seen.enough
    assert power(ctx, difference=0.1, pilot=["old"]).basis == guessed.basis


def test_a_pilot_is_a_report_of_the_suite_as_it_is(ctx: Context, tmp_path: Path) -> None:
    saved(ctx, tmp_path, "stale", [1.0] * ROWS, digest="before")
    assert "no report" in power(ctx, difference=0.1).basis
    with pytest.raises(InputError, match="stale measures 'capitals' as of before"):
        power(ctx, pilot=["stale"])
    with pytest.raises(NotFound):
        power(ctx, pilot=["nothing"])


def test_an_evaluation_that_cannot_show_the_difference_is_refused_with_the_rows_needed(ctx: Context) -> None:
    needed = power(ctx, difference=0.05).needed
    with pytest.raises(InputError, match=f"'capitals' is too small.*{needed} rows are needed") as caught:
        evaluate(ctx, "capitals", difference=0.05)
    assert "or leave the difference out" in str(caught.value)
    assert evaluate(ctx, "capitals", difference=0.3).recipe == "evaluate"
    with pytest.raises(InputError, match="too small: 10 rows"):
        evaluate(ctx, "capitals", difference=0.3, limit=10)


def test_a_suite_too_small_for_its_own_gate_says_so_in_the_quote_and_one_without_a_gate_does_not(
    ctx: Context,
) -> None:
    assert f"{ROWS} rows show a difference of 0.02" in evaluate(ctx, "declared").quote.basis
    assert "difference" not in evaluate(ctx, "capitals").quote.basis
