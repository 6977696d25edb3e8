"""A plan is checked whole before anything runs; references and conditions are plain functions."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.agent import plans
from agentd.agent.plans import Plan
from agentd.errors import DataError, InputError, NotFound
from agentd.plugins import Plugins, bundled_root
from agentd.sdk import Context, Tool, tool


@tool(title="Tune", launches=True)
async def tune(ctx: Context, *, model: str, epochs: int = 1, seeds: list[int] = []) -> None:  # noqa: B006
    """Tune a model."""


@tool(title="Score", launches=True)
async def score(ctx: Context, *, model: str) -> None:
    """Score a model."""


TOOLS: dict[str, Tool] = {each.name: each for each in (tune, score)}
PLAN = """\
plan: p
goal: g
params: {epochs: 2, models: [a, b]}
steps:
  - id: one
    tool: tune
    args:
      model: base
      epochs: "${params.epochs}"
  - id: two
    tool: score
    args: {model: "${one.model}"}
    when: "${one.loss} < 1.5"
"""


def parsed(text: str = PLAN) -> Plan:
    return plans.parse_plan(text, "plan.yaml")


def mistake(old: str, new: str) -> DataError:
    text = PLAN.replace(old, new)
    assert text != PLAN
    with pytest.raises(DataError) as caught:
        plans.check(parsed(text), TOOLS, "plan.yaml", text)
    return caught.value


def test_a_good_plan_passes_and_knows_what_each_step_needs() -> None:
    plan = parsed()
    plans.check(plan, TOOLS, "plan.yaml", PLAN)
    assert [step.dependencies() for step in plan.steps] == [set(), {"one"}]


def test_an_unknown_tool_is_reported_at_its_line_with_the_nearest_name() -> None:
    error = mistake("tool: score", "tool: scor")
    assert str(error) == ("plan.yaml:11: steps.1(two).tool: There is no tool 'scor'. Did you mean 'score'?")


def test_an_unknown_argument_is_reported_at_its_line_with_the_nearest_name() -> None:
    error = mistake('epochs: "${', 'epoch: "${')
    assert (error.line, error.field) == (9, "steps.0(one).args.epoch")
    assert "no argument of tune 'epoch'. Did you mean 'epochs'" in str(error)


def test_a_missing_argument_is_named() -> None:
    assert "steps.0(one).args.model: is needed" in str(mistake("      model: base\n", ""))


def test_a_wrong_value_is_reported_and_a_reference_is_left_for_the_run() -> None:
    error = mistake('epochs: "${params.epochs}"', "epochs: many")
    assert (error.line, error.field) == (9, "steps.0(one).args.epochs")
    text = PLAN.replace("${params.epochs}", "${zero.epochs}")
    text = text.replace("steps:\n", "steps:\n  - {id: zero, tool: score, args: {model: base}}\n")
    plans.check(parsed(text), TOOLS, "plan.yaml", text)


def test_a_reference_to_nothing_is_reported_where_it_stands() -> None:
    assert "steps.1(two).args: There is no step 'ine'" in str(mistake("${one.model}", "${ine.model}"))
    assert "steps.1(two).when: There is no step 'ine'" in str(mistake("${one.loss}", "${ine.loss}"))
    error = mistake("${params.epochs}", "${params.epoch}")
    assert "There is no parameter 'epoch'. Did you mean 'epochs'" in str(error)
    assert error.line == 7
    assert "There is no parameter 'loss'" in str(mistake("${one.loss}", "${params.loss}"))


def test_an_item_needs_something_to_repeat_over() -> None:
    assert "${item} needs 'each'" in str(mistake("${one.model}", "${item}"))
    assert "${item} needs 'each'" in str(mistake("${one.loss}", "${item.loss}"))


@pytest.mark.parametrize("identity", ["one", "params", "item"])
def test_every_step_has_an_id_of_its_own(identity: str) -> None:
    assert "this id is taken" in str(mistake("id: two", f"id: {identity}"))


@pytest.mark.parametrize("when", ["one.loss < 1", "${one.loss}", "${one.loss} in [a", "${one.loss} ~ 2"])
def test_a_condition_that_cannot_be_read_is_reported_before_the_run(when: str) -> None:
    error = mistake('"${one.loss} < 1.5"', f"'{when}'")
    assert (error.line, error.field) == (13, "steps.1(two).when")
    assert "cannot be read" in str(error)


def test_steps_that_wait_for_each_other_are_reported_with_the_way_round() -> None:
    error = mistake("tool: tune", "tool: tune\n    needs: [two]")
    assert "steps wait for each other" in str(error)
    assert "one" in str(error)
    assert "two" in str(error)
    assert "wait for each other" in str(mistake("tool: tune", "tool: tune\n    needs: [one]"))


def test_parameters_can_be_replaced_and_unknown_ones_are_refused() -> None:
    assert plans.with_params(parsed(), {"epochs": 3}).params["epochs"] == 3
    with pytest.raises(NotFound, match="Did you mean 'epochs'"):
        plans.with_params(parsed(), {"epoch": 3})


RESULTS: dict[str, Any] = {"params": {"n": 2}, "one": {"model": "m", "list": [{"x": 1}], "loss": 1.0}}


@pytest.mark.parametrize(
    ("value", "filled"),
    [
        ("${one.model}", "m"),
        ("${one.list}", [{"x": 1}]),
        ("${one.list.0.x}", 1),
        ("to ${one.model}-${params.n}", "to m-2"),
        ({"a": ["${params.n}", 3]}, {"a": [2, 3]}),
        ("$one ${not closed", "$one ${not closed"),
        (None, None),
    ],
)
def test_references_are_filled_in_as_values_or_as_text(value: Any, filled: Any) -> None:
    assert plans.fill(value, RESULTS) == filled


@given(st.recursive(st.integers() | st.booleans() | st.none(), lambda inner: st.lists(inner), max_leaves=5))
def test_a_whole_reference_keeps_its_value(value: Any) -> None:
    assert plans.fill("${one.x}", {"one": {"x": value}}) is value


@pytest.mark.parametrize("path", ["one.modle", "one.list.1", "one.model.x", "nothing"])
def test_a_field_that_a_result_lacks_is_named(path: str) -> None:
    with pytest.raises(NotFound, match="There is no field of"):
        plans.fill(f"${{{path}}}", RESULTS)


@pytest.mark.parametrize(
    ("condition", "met"),
    [
        ("", True),
        ("${one.loss} < 1.5", True),
        ("${one.loss} >= 1.5", False),
        ("${one.model} == m", True),
        ("${one.model} != m", False),
        ("${one.model} in [m, n]", True),
        ("${one.model} not in [m, n]", False),
        ("${params.n} == ${params.n}", True),
        ("${one.list} == null", False),
    ],
)
def test_conditions_hold_or_do_not(condition: str, met: bool) -> None:
    assert plans.holds(condition, RESULTS) is met


@pytest.mark.parametrize("condition", ["${one.model} < 3", "${one.model} in 3"])
def test_a_comparison_of_unlike_things_is_told_with_both(condition: str) -> None:
    with pytest.raises(InputError, match="compares 'm' with 3"):
        plans.holds(condition, RESULTS)


def test_every_shipped_plan_passes_its_check() -> None:
    shipped = sorted((bundled_root() / "tools/plans").glob("*.yaml"))
    assert shipped
    tools = Plugins.open().tools()
    for path in shipped:
        plans.check(plans.load_plan(path), tools, path, path.read_text(encoding="utf-8"))


def test_a_key_that_a_tool_does_not_give_is_a_mistake_of_the_plan() -> None:
    gives = {"tune": replace(tune, gives=("model", "loss")), "score": score}
    plans.check(parsed(), gives, "plan.yaml", PLAN)
    text = PLAN.replace("${one.model}", "${one.modle}")
    with pytest.raises(DataError, match="Did you mean 'model'") as caught:
        plans.check(parsed(text), gives, "plan.yaml", text)
    assert "steps.1(two).args" in str(caught.value)


def test_a_plan_that_is_written_out_is_read_as_the_same_plan() -> None:
    assert parsed(plans.as_yaml(parsed())) == parsed()


def test_the_page_tells_of_each_tool_what_it_gives() -> None:
    """Keys of the table in docs/plans.md are those that plans are checked against."""
    page = (Path(__file__).parents[2] / "docs" / "plans.md").read_text(encoding="utf-8")
    given = {tool.name: tool.gives for tool in Plugins((bundled_root(),)).tools().values() if tool.gives}
    told = {
        name: tuple(re.findall(r"`(\w+)`", keys))
        for names, keys in re.findall(
            r"^\| (`\w+`(?:, `\w+`)*) \| ((?:`\w+`(?:, )?){2,}) \|$", page, re.MULTILINE
        )
        for name in re.findall(r"`(\w+)`", names)
    }
    assert given
    assert {name: told[name] for name in given} == given


def test_a_parameter_that_fits_no_argument_is_a_mistake_before_anything_runs() -> None:
    other = plans.with_params(parsed(), {"epochs": "many"})
    with pytest.raises(DataError, match="it says 'many'"):
        plans.check(other, TOOLS, "plan.yaml", PLAN)
    text = PLAN.replace("    tool: tune\n", "    tool: tune\n    when: '${params.epochs} != many'\n")
    plans.check(plans.with_params(parsed(text), {"epochs": "many"}), TOOLS, "plan.yaml", text)
