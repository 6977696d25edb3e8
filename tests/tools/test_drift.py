"""tools/drift.py: slices of a suite that are far from traffic, or from the target it declares."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from agentd.context import Context
from agentd.errors import InputError
from agentd.sdk import Launch, Model
from tests.tools.conftest import OpenDaemon, context_of

SUITE = """\
suite: desk
description: d
inclusion: i
source: s
licence: CC0-1.0
data: desk.jsonl
metric: exact_match
scorer: exact_json
slices: [expected.intent, expected.city]
"""
TARGET = "target: {field: expected.intent, shares: {refund: %s, delivery: %s}}\n"
DESK = [("refund", "Rome")] * 100 + [("delivery", None)] * 100


@pytest.fixture
def ctx(open_daemon: OpenDaemon, tmp_path: Path) -> Context:
    evals = tmp_path / "mine/evals"
    evals.mkdir(parents=True)
    (evals / "desk.yaml").write_text(SUITE)
    for name, shares in (("alike", (0.5, 0.5)), ("far", (0.9, 0.1))):
        (evals / f"{name}.yaml").write_text(SUITE.replace("suite: desk", f"suite: {name}") + TARGET % shares)
    rows = [
        {"id": str(n), "input": f"{intent} please", "expected": {"intent": intent, "city": city}}
        for n, (intent, city) in enumerate(DESK)
    ]
    (evals / "desk.jsonl").write_text("\n".join(map(json.dumps, rows)))
    near = Model(
        name="near", kind="frontier", endpoint="http://127.0.0.1:9/v1", upstream="near",
        input_micro_usd_per_mtok=0, output_micro_usd_per_mtok=0,
    )  # fmt: skip
    daemon = open_daemon(roots=(tmp_path / "mine",), models=(near,))
    return context_of(daemon, tmp_path)


def drift(ctx: Context, suite: str = "desk", **arguments: Any) -> Any:
    return asyncio.run(ctx.call("drift", {"suite": suite, **arguments}))


def traffic(folder: Path, *rows: dict[str, Any]) -> str:
    path = folder / "traffic.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    return str(path)


def chat(intent: str, city: str | None, text: str = "refund please") -> dict[str, Any]:
    """A training row, whose answer is JSON."""
    answer = {"role": "assistant", "content": json.dumps({"intent": intent, "city": city})}
    return {"messages": [{"role": "user", "content": text}, answer]}


def levels(found: Any) -> dict[str, str]:
    return {each.field: each.level for each in found.fields}


def test_traffic_spread_alike_is_stable(ctx: Context, tmp_path: Path) -> None:
    rows = [chat(intent, city) for intent, city in DESK * 3]
    found = drift(ctx, against=traffic(tmp_path, *rows))
    assert levels(found) == {
        "expected.intent": "stable",
        "expected.city": "stable",
        "words of input": "stable",
    }
    assert (found.level, found.missing) == ("stable", [])
    assert "spread alike" in found.why


def test_the_slice_that_is_far_is_named_with_both_shares(ctx: Context, tmp_path: Path) -> None:
    rows = [chat(intent, city) for intent, city in [("refund", "Rome")] * 900 + [("delivery", None)] * 100]
    found = drift(ctx, against=traffic(tmp_path, *rows))
    assert (found.level, found.fields[0].level) == ("far", "far")
    intent = next(each for each in found.fields if each.field == "expected.intent")
    assert (intent.rows, intent.traffic_rows) == (200, 1000)
    assert [(v.value, round(v.suite, 2), round(v.traffic, 2)) for v in intent.values] == [
        ("delivery", 0.5, 0.1),
        ("refund", 0.5, 0.9),
    ]
    assert "delivery 50% for 10%" in found.why


def test_a_field_may_be_called_otherwise_in_the_traffic_and_rows_without_a_value_count(
    ctx: Context, tmp_path: Path
) -> None:
    rows = [{"question": "refund please", "label": "refund", "city": c} for c in ["Rome", ""] * 100]
    found = drift(ctx, against=traffic(tmp_path, *rows), fields={"expected.intent": "label"})
    assert levels(found)["expected.intent"] == "far"
    city = next(each for each in found.fields if each.field == "expected.city")
    assert {value.value for value in city.values} == {"Rome", "(none)"}
    assert city.level == "stable"


def test_longer_inputs_are_far_and_a_field_that_is_not_there_is_told(ctx: Context, tmp_path: Path) -> None:
    rows = [{"prompt": "I would very much like to have my money back now"} for _ in range(200)]
    found = drift(ctx, against=traffic(tmp_path, *rows))
    assert levels(found) == {"words of input": "far"}
    assert found.missing == ["expected.intent of the traffic", "expected.city of the traffic"]
    with pytest.raises(InputError, match="No field can be compared"):
        drift(ctx, against=traffic(tmp_path, {"x": 1}))


def test_ten_rows_of_traffic_are_too_few_to_call_a_suite_far(ctx: Context, tmp_path: Path) -> None:
    rows = [chat(intent, city) for intent, city in [("refund", "Rome")] * 7 + [("delivery", None)] * 3]
    found = drift(ctx, against=traffic(tmp_path, *rows))
    assert "far" not in levels(found).values()
    assert found.level == "unclear"


def test_a_declared_target_is_compared_when_no_traffic_is_named(ctx: Context) -> None:
    assert (drift(ctx, "alike").level, drift(ctx, "far").level) == ("stable", "far")
    assert drift(ctx, "far").against == "its declared target"
    with pytest.raises(InputError, match="declares no target"):
        drift(ctx)


def evaluate(ctx: Context, suite: str, **arguments: Any) -> Launch:
    found = ctx.plugins.tools()["evaluate"]  # type: ignore[attr-defined]
    checked = found.arguments(suite=suite, model="near", **arguments)
    values = {name: getattr(checked, name) for name in type(checked).model_fields}
    return asyncio.run(found.handler(ctx, **values))


def test_an_evaluation_on_a_suite_far_from_its_target_is_refused_unless_allowed(ctx: Context) -> None:
    assert evaluate(ctx, "alike").recipe == "evaluate"
    with pytest.raises(
        InputError, match=r"'far' is not spread as real use is.*delivery 50% for 10%"
    ) as caught:
        evaluate(ctx, "far")
    assert "off_target=true" in str(caught.value)
    assert evaluate(ctx, "far", off_target=True).recipe == "evaluate"
