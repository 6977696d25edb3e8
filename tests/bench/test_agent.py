"""agentd/bench/agent.py, bfcl.py: what counts as right; a scripted model in the real loop, in both modes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agentd.bench import agent, bfcl
from agentd.bench.bfcl import Case
from agentd.errors import DataError, InputError
from agentd.testing import Reply, ScriptedModel, calls, say

AREA = {
    "type": "object",
    "properties": {"base": {"type": "integer"}, "unit": {"type": "string"}, "at": {"type": "number"}},
    "required": ["base"],
}


def case(*right: dict[str, list[Any]]) -> Case:
    return Case("c", "parallel", "?", {"area": AREA}, {"area": ""}, tuple(("area", each) for each in right))


@pytest.mark.parametrize(
    ("arguments", "fits"),
    [
        ({"base": 10}, True),
        ({"base": 10, "unit": "Square-Metres"}, True),
        ({"base": 10, "unit": "feet"}, False),
        ({"base": "10"}, False),
        ({"base": True}, False),
        ({"base": 10, "colour": "red"}, False),
        ({}, False),
    ],
)
def test_a_call_is_right_when_each_value_is_among_the_possible_ones(
    arguments: dict[str, Any], fits: bool
) -> None:
    asked = case({"base": [10], "unit": ["square metres", ""]})
    assert bfcl.accepted(asked, [("area", arguments)]) is fits


def test_parallel_calls_are_each_made_once_in_any_order() -> None:
    asked = case({"base": [1]}, {"base": [2]})
    one, two = ("area", {"base": 1}), ("area", {"base": 2})
    assert bfcl.accepted(asked, [two, one])
    assert not bfcl.accepted(asked, [one])
    assert not bfcl.accepted(asked, [one, one])
    assert not bfcl.accepted(asked, [one, two, two])
    assert bfcl.accepted(case(), [])


def test_objects_hold_lists_of_possible_values_and_integers_pass_for_numbers() -> None:
    asked = Case(
        "c", "simple", "?", {"f": {}}, {"f": ""}, (("f", {"of": [{"low": [1.0], "high": [2, ""]}]}),)
    )
    assert bfcl.accepted(asked, [("f", {"of": {"low": 1}})])
    assert not bfcl.accepted(asked, [("f", {"of": {"low": 1, "high": 3}})])


def test_intervals_are_wilsons() -> None:
    low, high = bfcl.wilson(95, 100)
    assert (round(low, 4), round(high, 4)) == (0.8882, 0.9785)
    assert bfcl.wilson(0, 0) == (0.0, 1.0)


def rows(folder: Path, name: str, *found: dict[str, Any]) -> None:
    (folder / f"bfcl_{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """One case of each category, about the areas of squares."""
    function = {
        "name": "square.area",
        "description": "The area of a square.",
        "parameters": {"type": "dict", "properties": {"side": {"type": "integer"}}, "required": ["side"]},
    }
    for name in ("simple_python", "multiple", "parallel", "irrelevance"):
        question = [[{"role": "user", "content": f"{name}: which area?"}]]
        rows(tmp_path, name, {"id": f"{name}_0", "question": question, "function": [function]})
        sides = [3, 4] if name == "parallel" else [3]
        truth = [{"square.area": {"side": [side]}} for side in sides]
        rows(tmp_path, f"{name}_answers", {"id": f"{name}_0", "ground_truth": truth})
    return tmp_path


def script(body: dict[str, Any]) -> Reply:
    """Wrong arguments first, mended once they are told; and the wrong call where none fits."""
    said = json.dumps(body["messages"])
    right = [("square_area", {"side": side}) for side in ((3, 4) if "parallel" in said else (3,))]
    if "multiple" in said and "cannot be called like this" not in said:
        return calls(("square_area", {"side": "three"}))
    return say("None fits.") if "irrelevance" in said and not body.get("tools") else calls(*right)


def test_both_modes_go_through_the_loop_and_answers_are_kept(data: Path, tmp_path: Path) -> None:
    kept = tmp_path / "kept.jsonl"
    with ScriptedModel(script) as model:
        found = agent.run(data, f"{model.url}/scripted", keep=kept)
        asked = len(model.seen)
        again = agent.run(data, f"{model.url}/scripted", keep=kept)
        assert len(model.seen) == asked
    shares = {
        (row["category"], row["mode"]): (row["valid at once"], row["valid"], row["right"])
        for row in found["rows"]
    }
    assert again["rows"] == found["rows"]
    assert shares["simple", "native"] == shares["simple", "constrained"] == (1, 1, 1)
    assert shares["multiple", "native"] == shares["multiple", "constrained"] == (0, 1, 1)
    assert shares["parallel", "constrained"] == (1, 1, 1)
    assert shares["irrelevance", "native"] == (1, 1, 0)
    assert shares["irrelevance", "constrained"] == (1, 1, 1)


def test_what_cannot_be_measured_says_why(data: Path) -> None:
    with pytest.raises(InputError, match="Which cases"):
        agent.run(None, "http://127.0.0.1:1/v1/m")
    with pytest.raises(InputError, match="no endpoint with a name"):
        agent.run(data, "tickets")
    (data / "bfcl_multiple_answers.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match=r"answers\.jsonl:1: lacks 'id'"):
        agent.run(data, "http://127.0.0.1:1/v1/m")
