"""tools/compare.py, ladder.py and pages.py on a real daemon's state: verdicts, gates, baselines, pages."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from agentd.config import Config
from agentd.context import Context
from agentd.daemon import Daemon
from agentd.errors import InputError, NotFound
from agentd.plugins import Plugins, bundled_root
from agentd.policy.callers import Caller
from agentd.sdk import Metric, Report

pytestmark = pytest.mark.anyio
plugins = Plugins((bundled_root(),))
holm = plugins.module("tools", "verdict").holm


@pytest.fixture
async def ctx(tmp_path: Path) -> AsyncIterator[Context]:
    daemon = Daemon(
        Config(state_dir=tmp_path / "state", cache_dir=tmp_path / "cache"), url="http://127.0.0.1:9"
    )
    yield daemon.calls.context(Caller("ann", "operate", "cli", tmp_path, is_agent=False))
    await daemon.aclose()


async def call(ctx: Context, tool: str, **arguments: Any) -> Any:
    return await ctx.call(tool, arguments)


def saved(
    ctx: Context,
    folder: Path,
    name: str,
    scores: Sequence[float | None],
    digest: str = "d",
    suite: str = "capitals",
    **more: Any,
) -> str:
    """A report of the model `name`; None stands for a row without an answer."""
    rows = [
        {"id": str(n), "input": f"question {n}", "expected": "yes"}
        | ({"error": "x"} if score is None else {"score": score, "output": f"{name} <b>{score}</b>"})
        for n, score in enumerate(scores)
    ]
    path = folder / f"{name}-{suite}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    given = [score for score in scores if score is not None]
    low, high = more.pop("low", 0.0), more.pop("high", 1.0)
    report = Report(
        id=f"{name}-{suite}" if suite != "capitals" else name,
        suite=suite,
        suite_digest=digest,
        model=name,
        metric="exact_match",
        score=sum(given) / len(given),
        low=low,
        high=high,
        n=len(given),
        errors=len(scores) - len(given),
        rows=path,
        **more,
    )
    return ctx.reports.save(report).id


# --- compare --------------------------------------------------------------------------------


async def test_a_comparison_says_better_with_its_interval_and_its_reason(
    ctx: Context, tmp_path: Path
) -> None:
    one = saved(ctx, tmp_path, "one", [1] * 90 + [0] * 10)
    saved(ctx, tmp_path, "two", [1] * 60 + [0] * 40)
    said = await call(ctx, "compare", candidate=one, baseline="two@capitals")
    assert (said.verdict, said.n) == ("better", 100)
    assert said.difference == pytest.approx(0.3)
    assert 0 < said.low < 0.3 < said.high
    assert said.p_value < 1e-6
    assert (said.candidate_score, said.baseline_score) == (0.9, 0.6)
    assert "all above 0" in said.why
    mirrored = await call(ctx, "compare", candidate="two", baseline="one")
    assert (mirrored.verdict, mirrored.difference) == ("worse", pytest.approx(-0.3))


async def test_too_many_rows_without_an_answer_leave_a_comparison_inconclusive(
    ctx: Context, tmp_path: Path
) -> None:
    saved(ctx, tmp_path, "one", [1] * 97 + [None] * 3)
    saved(ctx, tmp_path, "two", [0] * 100)
    said = await call(ctx, "compare", candidate="one", baseline="two")
    assert (said.verdict, said.n) == ("inconclusive", 97)
    assert "3 of 100 rows of one got no answer" in said.why


async def test_reports_of_other_suites_or_other_rows_are_not_compared(ctx: Context, tmp_path: Path) -> None:
    saved(ctx, tmp_path, "one", [1, 0, 1])
    saved(ctx, tmp_path, "fewer", [1, 0])
    saved(ctx, tmp_path, "other", [1, 0, 1], digest="e")
    with pytest.raises(InputError, match="different rows"):
        await call(ctx, "compare", candidate="one", baseline="fewer")
    with pytest.raises(InputError, match="Evaluate both on the suite as it is now"):
        await call(ctx, "compare", candidate="one", baseline="other")
    with pytest.raises(NotFound):
        await call(ctx, "compare", candidate="one", baseline="none")


async def test_what_the_suite_declared_decides_unless_the_caller_says_otherwise(
    ctx: Context, tmp_path: Path
) -> None:
    saved(ctx, tmp_path, "one", [1] * 85 + [0] * 15, meta={"gate": {"margin": 0.2, "alpha": 0.1}})
    saved(ctx, tmp_path, "two", [1] * 90 + [0] * 10)
    said = await call(ctx, "compare", candidate="one", baseline="two")
    assert (said.verdict, said.margin, said.alpha) == ("not_worse", 0.2, 0.1)
    strict = await call(ctx, "compare", candidate="one", baseline="two", margin=0.01)
    assert (strict.verdict, strict.margin) == ("worse", 0.01)


async def test_a_judge_that_nobody_calibrated_decides_nothing(ctx: Context, tmp_path: Path) -> None:
    blind = Metric(name="kind", score=1.0, judge={"model": "big", "calibrated": False})
    sighted = blind.model_copy(update={"judge": {"model": "big", "calibrated": True}})
    saved(ctx, tmp_path, "one", [1] * 50, metrics=(blind,))
    saved(ctx, tmp_path, "two", [0] * 50, metrics=(sighted,))
    said = await call(ctx, "compare", candidate="one", baseline="two")
    assert said.verdict == "inconclusive"
    assert "'big'" in said.why
    saved(ctx, tmp_path, "one", [1] * 50, metrics=(sighted,))
    assert (await call(ctx, "compare", candidate="one", baseline="two")).verdict == "better"


# --- gate -----------------------------------------------------------------------------------


def test_holms_procedure_gives_the_figures_worked_out_by_hand() -> None:
    assert holm([]) == []
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.5, 0.6]) == [1.0, 1.0]


async def test_one_suite_that_got_worse_closes_the_gate(ctx: Context, tmp_path: Path) -> None:
    for suite, scores in (("a", [1] * 95 + [0] * 5), ("b", [1] * 50 + [0] * 50)):
        saved(ctx, tmp_path, "new", scores, suite=suite, digest=suite)
        saved(ctx, tmp_path, "old", [1] * 90 + [0] * 10, suite=suite, digest=suite)
    said = await call(ctx, "gate", candidates=["new-a", "new-b"], baselines=["old-a", "old-b"])
    assert said.verdict == "worse"
    assert [each.suite for each in said.suites if each.verdict == "worse"] == ["b"]
    assert said.why.startswith("b: ")


async def test_a_change_that_would_pass_for_one_suite_is_withdrawn_among_many(
    ctx: Context, tmp_path: Path
) -> None:
    names = [f"s{n}" for n in range(6)]
    for suite in names:
        changed = 9 if suite == "s0" else 0  # p = 0.004 alone, 0.023 among six
        saved(ctx, tmp_path, "new", [1] * (540 + changed) + [0] * (60 - changed), suite=suite, digest=suite)
        saved(ctx, tmp_path, "old", [1] * 540 + [0] * 60, suite=suite, digest=suite)
    pairs = {"candidates": [f"new-{n}" for n in names], "baselines": [f"old-{n}" for n in names]}
    assert (await call(ctx, "gate", **pairs)).verdict == "better"
    strict = await call(ctx, "gate", **pairs, alpha=0.01)
    assert strict.verdict == "not_worse"
    assert "corrected for several suites" in strict.suites[0].why


async def test_a_gate_that_cannot_compare_is_broken_and_says_why(ctx: Context, tmp_path: Path) -> None:
    saved(ctx, tmp_path, "one", [1, 0])
    said = await call(ctx, "gate", candidates=["one", "one"], baselines=["one", "nobody"])
    assert (said.verdict, len(said.suites)) == ("broken", 1)
    assert "nobody" in said.problems[0]
    with pytest.raises(InputError, match="do not pair"):
        await call(ctx, "gate", candidates=["one"], baselines=["one", "one"])


async def test_a_baseline_kept_in_a_file_is_compared_with_as_if_it_had_been_made_here(
    ctx: Context, tmp_path: Path
) -> None:
    saved(ctx, tmp_path, "one", [1] * 60 + [0] * 40)
    bundle = json.loads(json.dumps((await call(ctx, "export_baseline", report="one")).bundle))
    kept = await call(ctx, "keep_baseline", bundle=bundle)
    assert kept == await call(ctx, "keep_baseline", bundle=bundle)
    said = await call(ctx, "compare", candidate="one", baseline=kept.report)
    assert (said.verdict, said.difference, said.n) == ("not_worse", 0.0, 100)
    with pytest.raises(InputError, match="agentd eval export"):
        await call(ctx, "keep_baseline", bundle={"report": {}, "scores": []})


# --- ladder ---------------------------------------------------------------------------------


async def test_the_cheapest_rung_that_is_shown_to_reach_the_target_is_enough(
    ctx: Context, tmp_path: Path
) -> None:
    saved(ctx, tmp_path, "base", [1] * 40 + [0] * 60, low=0.31, high=0.5)
    saved(ctx, tmp_path, "linear-head", [1] * 95 + [0] * 5, low=0.89, high=0.98)
    saved(ctx, tmp_path, "lora", [1] * 98 + [0] * 2, low=0.93, high=0.99)
    said = await call(ctx, "ladder", reports=["base", "linear-head", "lora"], target=0.85)
    assert said.enough == "linear-head"
    assert [rung.reaches for rung in said.rungs] == ["no", "yes", "yes"]
    assert said.rungs[1].gain == pytest.approx(0.55)
    assert said.rungs[2].gain_low < 0 < said.rungs[2].gain_high, "the LoRA's gain is not shown"
    assert "linear-head is enough" in said.advice
    higher = await call(ctx, "ladder", reports=["base", "linear-head"], target=0.9)
    assert (higher.enough, higher.rungs[1].reaches) == ("", "unclear")
    assert "Measure more rows" in higher.advice


async def test_the_rungs_of_a_ladder_stand_on_one_suite(ctx: Context, tmp_path: Path) -> None:
    saved(ctx, tmp_path, "one", [1, 0])
    saved(ctx, tmp_path, "two", [1, 0], digest="e")
    with pytest.raises(InputError, match="different suites"):
        await call(ctx, "ladder", reports=["one", "two"], target=0.5)
    with pytest.raises(InputError, match="cannot be quoted"):
        await call(ctx, "ladder", reports=["one"], target=0.9, next_tool="finetune", next_arguments={"x": 1})


# --- pages ----------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]


async def paged(ctx: Context, folder: Path, format: str) -> str:
    slices = {"continent": {"<i>x</i>": {"n": 3, "score": 0.5, "low": 0.2, "high": 0.8}}}
    saved(
        ctx, folder, "new", [1] * 10 + [0] * 90, meta={"slices": slices, "seconds": 5.0, "prompt": "</pre>"}
    )
    saved(ctx, folder, "old", [1] * 90 + [0] * 10)
    return (await call(ctx, "report_page", report="new", baseline="old", format=format)).text


async def test_a_page_needs_nothing_else_and_what_models_wrote_cannot_act_in_it(
    ctx: Context, tmp_path: Path
) -> None:
    page = await paged(ctx, tmp_path, "html")
    tags = Tags()
    tags.feed(page)
    assert tags.links == []
    assert not tags.seen & {"script", "i", "img", "link", "iframe"}
    assert "new &lt;b&gt;0&lt;/b&gt;" in page
    assert "old &lt;b&gt;1&lt;/b&gt;" in page, "the baseline's answer stands beside it"
    assert "0 rows score higher than in the baseline, 80 lower" in page
    assert "<b>worse</b>" in page


async def test_the_markdown_of_a_report_has_its_verdict_and_every_metric(
    ctx: Context, tmp_path: Path
) -> None:
    text = await paged(ctx, tmp_path, "markdown")
    assert "**worse** than old" in text
    assert "| exact_match | 0.100 | 0.000 to 1.000 | 100 |" in text
    assert "<i>" not in text


async def test_a_build_server_sees_a_gate_that_failed(ctx: Context, tmp_path: Path) -> None:
    suite = ElementTree.fromstring(await paged(ctx, tmp_path, "junit"))
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    failure = suite.find("testcase/failure")
    assert failure is not None
    assert failure.get("message") == "worse"
    alone = (await call(ctx, "report_page", report="old", format="junit")).text
    assert ElementTree.fromstring(alone).get("failures") == "0"
