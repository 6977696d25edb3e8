"""tools/advise.py: costs, break-even, flips and rules, on figures of its own and through a real daemon."""

from __future__ import annotations

import datetime
import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from agentd.errors import DataError, InputError
from agentd.plugins import Plugins, bundled_root
from agentd.policy.callers import Caller
from agentd.sdk import Model, Report

PLUGINS = Plugins((bundled_root(),))
costs, choice = PLUGINS.module("tools", "costs"), PLUGINS.module("tools", "choice")
situation = PLUGINS.module("tools", "situation")
DOCS = Path(__file__).parents[2] / "docs" / "advice.md"
NO_RULES = choice.Rules({})


def facts(self_hosted: tuple[str, ...] = ("tuned",), **changes: Any) -> Any:
    """Stand-ins where there are some; names with a double underscore for the dot."""
    numbers: dict[str, Fraction] = {}
    made = situation.Situation.model_validate({"volume": {"monthly_users": 1000, "requests_per_user": 2}})
    for name, info, stated in situation.numbers(made):
        value = (info.json_schema_extra or {}).get("assumed")
        if stated is not None or value is not None:
            numbers[name] = situation.exact(stated.value if stated else value)
    numbers["gpu.usd_per_hour"] = Fraction(5, 2)
    numbers["retrieval.usd_per_month"] = Fraction(15)
    for side in ("general", "tuned"):
        numbers[f"{side}.input_micro_usd_per_mtok"] = Fraction(2_000_000)
        numbers[f"{side}.output_micro_usd_per_mtok"] = Fraction(10_000_000)
    numbers |= {name.replace("__", "."): Fraction(str(value)) for name, value in changes.items()}
    return costs.Facts(numbers, frozenset(self_hosted))


amounts = st.integers(0, 10**7)
positives = st.integers(1, 10**5)
sides = st.sampled_from([(), ("tuned",), ("general",), ("general", "tuned")])


@st.composite
def situations(draw: st.DrawFn) -> Any:
    shares = st.sampled_from(["0.1", "0.4", "1"])
    changes: dict[str, Any] = {
        "volume__monthly_users": draw(amounts),
        "volume__requests_per_user": draw(st.sampled_from(["0.5", "1", "30"])),
        "training__people_usd_per_run": draw(amounts),
        "training__months_between_runs": draw(st.integers(1, 24)),
        "retrieval__usd_per_1000_searches": draw(st.integers(0, 20)),
        "limits__worth_usd_per_month": draw(st.integers(0, 5000)),
        "gpu__usd_per_hour": draw(st.integers(0, 50)),
    }
    for side in ("general", "tuned"):
        changes |= {
            f"{side}__input_micro_usd_per_mtok": draw(amounts),
            f"{side}__output_micro_usd_per_mtok": draw(amounts),
            f"{side}__output_tokens_per_s": draw(positives),
            f"{side}__utilisation": draw(shares),
            f"{side}__min_replicas": draw(st.integers(0, 4)),
            f"{side}__usd_per_month": draw(st.integers(0, 5000)),
            f"{side}__cached_share": draw(shares),
        }
    return facts(draw(sides), **changes)


# --- costs ----------------------------------------------------------------------------------


def test_tokens_are_paid_by_the_token_and_gpus_at_least_for_what_always_runs() -> None:
    few = facts(volume__monthly_users=100, volume__requests_per_user=1)
    made = costs.parts(few, "rag")
    assert made["input tokens"] == 100 * (300 + 100 + 1500) * 2
    assert made["output tokens"] == 100 * 200 * 10
    assert made["index"] == 15_000_000
    assert costs.parts(few, "hybrid")["GPU hours"] == 730 * 2_500_000
    many = facts(volume__monthly_users=10**8, volume__requests_per_user=1)
    seconds = Fraction(400, 15000) + Fraction(200, 1500)
    assert costs.parts(many, "fine_tune")["GPU hours"] == 10**8 * seconds / 3600 / Fraction(2, 5) * 2_500_000


def test_cached_tokens_are_those_that_stand_in_every_prompt() -> None:
    made = costs.parts(
        facts(general__cached_share=1, general__cached_micro_usd_per_mtok=200_000, tokens__knowledge=10_000),
        "prompt",
    )
    assert made["cached input tokens"] == 2000 * 10_300 * Fraction(1, 5)
    assert made["input tokens"] == 2000 * 100 * 2


def test_nothing_asked_costs_what_is_paid_whatever_is_asked() -> None:
    none = facts(volume__monthly_users=0)
    assert costs.monthly(none, "prompt") == 0
    assert costs.monthly(none, "rag") == 15_000_000
    assert costs.monthly(none, "fine_tune") == 730 * 2_500_000 + 8 * 2_500_000 / Fraction(3)
    assert choice.chosen(none, NO_RULES) == "prompt"


@given(situations(), st.sampled_from(costs.OPTIONS), amounts)
def test_more_requests_never_cost_less(made: Any, option: str, more: int) -> None:
    asked = costs.requests(made)
    assert costs.monthly(made.changed("requests", asked + more), option) >= costs.monthly(made, option)


@given(situations(), st.sampled_from(costs.OPTIONS), st.data())
def test_a_cost_is_the_larger_of_two_lines_in_every_number(
    made: Any, option: str, data: st.DataObject
) -> None:
    name = data.draw(st.sampled_from(sorted(made.numbers)))
    x = Fraction(data.draw(st.integers(1, 10**6)), data.draw(st.integers(1, 1000)))
    drawn = costs.curve(made, option, name)
    u = 1 / x if name in costs.RECIPROCAL else x
    assert drawn.at(u) == costs.monthly(made.changed(name, x), option)


# --- break-even -----------------------------------------------------------------------------


@given(situations(), st.sampled_from(costs.OPTIONS), st.sampled_from(costs.OPTIONS))
def test_at_a_break_even_both_cost_the_same_and_their_order_changes(made: Any, one: str, other: str) -> None:
    assume(one != other)
    found = costs.crossings(costs.curve(made, one, "requests"), costs.curve(made, other, "requests"))

    def difference(asked: Fraction) -> Fraction:
        there = made.changed("requests", asked)
        return costs.monthly(there, one) - costs.monthly(there, other)

    places = costs.between([each.at for each in found])
    signs = [(value > 0) - (value < 0) for value in map(difference, places)]
    for number, each in enumerate(found):
        assert difference(each.at) == 0
        assert (each.below, each.above) == (signs[number], signs[number + 1])
        assert each.below != each.above
    if not found:
        assert len({difference(Fraction(10) ** n) > 0 for n in range(-3, 15)}) == 1


def test_a_per_request_price_and_a_fixed_one_cross_once_and_equal_ones_never() -> None:
    made = facts()
    prompt, tuned = (costs.curve(made, option, "requests") for option in ("prompt", "fine_tune"))
    (only,) = costs.crossings(prompt, tuned)
    fixed = 730 * Fraction(2_500_000) + 20 * Fraction(1_000_000) / 3
    assert only.at == fixed / (400 * 2 + 200 * 10)
    assert (only.below, only.above) == (-1, 1)
    assert costs.crossings(prompt, costs.curve(made, "rag", "requests")) == []
    assert costs.crossings(prompt, prompt) == []


# --- flips ----------------------------------------------------------------------------------


@given(situations(), st.data())
def test_beyond_a_flip_another_option_is_chosen_and_before_it_the_same(
    made: Any, data: st.DataObject
) -> None:
    bound = facts(
        tuple(made.self_hosted),
        **{name.replace(".", "__"): value for name, value in made.numbers.items()},
        training__examples=data.draw(st.integers(0, 1000)),
    )
    name = data.draw(st.sampled_from(sorted(bound.numbers)))
    present, now = choice.chosen(bound, NO_RULES), bound[name]
    below, above = choice.flips(bound, NO_RULES, name)
    for flip, outward in ((below, Fraction(-1)), (above, Fraction(1))):
        if flip is None:
            continue
        assert (flip.at - now) * outward >= 0
        just_beyond = flip.at * (1 + outward / 10**12)
        assert choice.chosen(bound.changed(name, just_beyond), NO_RULES) == flip.option != present
        between = (now + flip.at) / 2
        if between not in (now, flip.at) and between > 0:
            assert choice.chosen(bound.changed(name, between), NO_RULES) == present


def test_a_rule_that_begins_to_hold_is_a_flip() -> None:
    made = facts(volume__monthly_users=10**7, training__examples=2000)
    assert choice.chosen(made, NO_RULES) == "fine_tune"
    below, above = choice.flips(made, NO_RULES, "training.examples")
    assert (below.at, below.option, above) == (500, "prompt", None)


# --- the tool, through a daemon -------------------------------------------------------------


def example() -> dict[str, Any]:
    text = DOCS.read_text(encoding="utf-8")
    return yaml.safe_load(text.partition("```yaml\n")[2].partition("```")[0])


@pytest.fixture
def asking(daemon: Any, tmp_path: Path) -> Any:
    caller = Caller("user:ann", "operate", "cli", tmp_path, is_agent=False)

    async def ask(**arguments: Any) -> Any:
        return await daemon.calls.call("advise", arguments, caller)

    return ask


def of(answer: Any, option: str) -> Any:
    return next(row for row in answer.options if row.option == option)


@pytest.mark.anyio
async def test_five_million_users_of_a_frontier_with_rag_and_of_a_tuned_model_with_rag(
    asking: Any, tmp_path: Path
) -> None:
    case = example()
    case["gpu"] = {"usd_per_hour": 2.5}  # what the shipped price table says; that of these tests differs
    case["retrieval"] = {"usd_per_month": 14.6}
    (tmp_path / "support.yaml").write_text(yaml.safe_dump(case), encoding="utf-8")
    answer = await asking(file="support.yaml")
    assert answer.requests == 5_000_000
    assert 14_900 < of(answer, "rag").micro_usd / 1e6 < 15_100
    assert 2_850 < of(answer, "hybrid").micro_usd / 1e6 < 3_050
    assert (answer.start, answer.best, answer.recommended) == ("rag", "hybrid", "rag")
    assert of(answer, "prompt").ruled_out
    assert of(answer, "fine_tune").ruled_out
    page = DOCS.read_text(encoding="utf-8")
    assert of(answer, "rag").a_month in page
    assert of(answer, "hybrid").a_month in page
    even = next(row for row in answer.break_even if (row.one, row.other) == ("rag", "hybrid"))
    assert f"{even.requests:,.0f}" in page
    assert "agentd call compare" in " ".join(row.do for row in answer.missing)


@pytest.mark.anyio
async def test_whatever_nobody_stated_is_listed_with_its_source(asking: Any) -> None:
    answer = await asking(
        volume={"monthly_users": 1000, "requests_per_user": {"value": 3, "source": "logs of May"}},
        general={"input_micro_usd_per_mtok": 0, "output_micro_usd_per_mtok": 0},
    )
    rows = {row.input: row for row in answer.inputs}
    assert (rows["volume.requests_per_user"].origin, rows["volume.requests_per_user"].source) == (
        "stated",
        "logs of May",
    )
    assert rows["tokens.output"].origin == "assumed"
    assert (rows["gpu.usd_per_hour"].origin, rows["gpu.usd_per_hour"].as_of) == ("price table", "2026-11-01")
    assert (answer.start, answer.recommended) == ("prompt", "prompt")
    assert of(answer, "prompt").micro_usd == 0
    never = next(row for row in answer.break_even if (row.one, row.other) == ("prompt", "fine_tune"))
    assert (never.requests, never.says) == (None, "never: prompt only costs less at any volume")


@pytest.mark.anyio
async def test_catalog_prices_have_their_date_and_old_or_undated_ones_are_missing(
    asking: Any, daemon: Any
) -> None:
    old = datetime.date(2020, 1, 1)
    daemon.catalog.put(
        Model(
            name="big",
            kind="frontier",
            endpoint="http://127.0.0.1:9/v1",
            input_micro_usd_per_mtok=3_000_000,
            output_micro_usd_per_mtok=15_000_000,
            prices_as_of=old,
        )
    )
    answer = await asking(
        volume={"monthly_users": 10, "requests_per_user": 1},
        general={"model": "big"},
        tuned={"input_micro_usd_per_mtok": 5, "output_micro_usd_per_mtok": 5},
    )
    row = next(each for each in answer.inputs if each.input == "general.input_micro_usd_per_mtok")
    assert (row.value, row.origin, row.as_of) == (3_000_000, "catalog", "2020-01-01")
    why = {each.what: each.why for each in answer.missing}
    assert "2020-01-01" in why["general.input_micro_usd_per_mtok"]
    assert why["tuned.input_micro_usd_per_mtok"] == "the price has no date"


@pytest.mark.anyio
async def test_texts_that_may_not_leave_rule_out_what_would_send_them(asking: Any) -> None:
    answer = await asking(
        volume={"monthly_users": 10, "requests_per_user": 1},
        general={"input_micro_usd_per_mtok": 1, "output_micro_usd_per_mtok": 1, "residency": "us"},
        limits={"documents_stay_in": ["here", "eu"]},
    )
    assert of(answer, "prompt").ruled_out == []
    assert of(answer, "rag").ruled_out == ["documents would go to 'us', and may only be in here, eu"]
    assert of(answer, "hybrid").ruled_out == []
    everything = await asking(
        volume={"monthly_users": 10, "requests_per_user": 1},
        general={"input_micro_usd_per_mtok": 1, "output_micro_usd_per_mtok": 1},
        training={"examples": 3},
        limits={"questions_stay_in": ["here"]},
    )
    assert (everything.best, everything.recommended) == (None, None)
    assert "ruled out" in everything.advice


def saved(daemon: Any, folder: Path, model: str, scores: list[int]) -> None:
    path = folder / f"{model}.jsonl"
    rows = [{"id": str(n), "input": "q", "expected": "a", "score": score} for n, score in enumerate(scores)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    daemon.catalog.put(Model(name=model, kind="local", input_micro_usd_per_mtok=0))
    report = Report(
        id=f"report-{model}", suite="tickets", suite_digest="d", model=model, metric="m",
        score=sum(scores) / len(scores), low=0.9, high=1.0, n=len(scores), rows=path,
        meta={"p95_s": 0.8, "tokens_per_s": 900.0, "output_tokens": 40 * len(scores)},
    )  # fmt: skip
    daemon.reports.save(report)


@pytest.mark.anyio
async def test_a_verdict_moves_the_recommendation_and_reports_replace_stand_ins(
    asking: Any, daemon: Any, tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {
        "volume": {"monthly_users": 10**7, "requests_per_user": 1},
        "general": {"model": "plain", "self_hosted": True, "gpus": 8},
        "tuned": {"model": "own"},
        "gpu": {"usd_per_hour": 2.5},
        "training": {"examples": 900},
        "suite": "tickets",
    }
    saved(daemon, tmp_path, "plain", [1] * 200)
    saved(daemon, tmp_path, "own", [0] * 200)
    worse = await asking(**arguments)
    assert (worse.start, worse.best, worse.recommended) == ("prompt", "fine_tune", "prompt")
    assert worse.evidence.startswith("worse")
    saved(daemon, tmp_path, "own", [1] * 200)
    proven = await asking(**arguments)
    assert proven.recommended == "fine_tune"
    assert proven.evidence.startswith("not_worse")
    rows = {row.input: row for row in proven.inputs}
    assert (rows["tuned.output_tokens_per_s"].value, rows["tuned.output_tokens_per_s"].origin) == (
        900,
        "report",
    )
    assert (rows["tuned.output"].value, rows["general.latency_s"].value) == (40, 0.8)


@pytest.mark.anyio
async def test_wrong_numbers_are_refused_by_name(asking: Any, tmp_path: Path) -> None:
    volume = {"monthly_users": 10, "requests_per_user": 1}
    with pytest.raises(InputError, match=r"volume\.monthly_users"):
        await asking(volume=volume | {"monthly_users": -1})
    with pytest.raises(InputError, match="which model"):
        await asking(volume=volume)
    with pytest.raises(InputError, match=r"general\.output_micro_usd_per_mtok"):
        await asking(volume=volume, general={"input_micro_usd_per_mtok": 1})
    with pytest.raises(InputError, match="self-hosted and has a price"):
        await asking(volume=volume, general={"self_hosted": True, "input_micro_usd_per_mtok": 1})
    with pytest.raises(InputError, match="how much is asked"):
        await asking(general={"self_hosted": True})
    with pytest.raises(InputError, match="'both' is no option"):
        await asking(volume=volume, general={"self_hosted": True}, reports={"both": "x"})
    (tmp_path / "case.yaml").write_text(
        "volume: {monthly_users: 5, requests_per_user: 1}\ntuned: {utilisation: 3}\n"
    )
    with pytest.raises(DataError, match="at most 1"):
        await asking(file="case.yaml")
