"""A plan: typed steps with arguments that refer to earlier results, and conditions.

The same YAML is what a planner model writes, what a person edits and what a scripted task is::

    plan: tickets
    goal: Turn support messages into tickets with a small model of our own
    params: {epochs: 2}
    steps:
      - id: base
        tool: get_model
        args: {source: smollm2-135m}
      - id: tune
        tool: finetune
        args: {model: "${base.model}", dataset: train.jsonl, epochs: "${params.epochs}"}
      - id: move
        when: "${gate.verdict} in [better, not_worse]"
        tool: promote
        args: {alias: tickets, model: "${tune.model}"}

A string that is one reference takes the value as it is; inside a longer string it is inserted as
text. `each` repeats a step over a list, with ``${item}``; its result is ``{"items": [...]}``.
Everything here is a pure function of the plan and the results.
"""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentd import documents
from agentd.errors import DataError, InputError, NotFound
from agentd.sdk import Tool

__all__ = ["Plan", "Step", "check", "fill", "holds", "load_plan", "parse_plan", "with_params"]

_REFERENCE = re.compile(r"\$\{([A-Za-z_][\w-]*(?:\.[\w-]+)*)\}")
_CONDITION = re.compile(r"\s*(\$\{[^}]+\})\s*(==|!=|<=|>=|<|>|not in|in)\s*(.+?)\s*")


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Step(Strict):
    """One call. `needs` adds dependencies that no reference shows."""

    id: str = Field(pattern=r"^[A-Za-z_][\w-]*$")
    title: str = ""
    tool: str
    args: dict[str, Any] = {}
    needs: tuple[str, ...] = ()
    when: str = Field("", description='such as "${gate.verdict} == better"')
    each: str | list[Any] | None = None

    def references(self) -> set[str]:
        """First parts of every reference: step ids, ``params`` and ``item``."""
        return {path.split(".")[0] for path in _paths([self.args, self.when, self.each])}

    def dependencies(self) -> set[str]:
        return (self.references() | set(self.needs)) - {"params", "item"}


class Plan(Strict):
    """Steps towards a goal, with parameters that `--set` can change."""

    plan: str
    goal: str
    params: dict[str, Any] = {}
    steps: tuple[Step, ...] = Field(min_length=1)

    def step(self, step_id: str) -> Step:
        return next(step for step in self.steps if step.id == step_id)


def load_plan(path: Path) -> Plan:
    """Read a plan. Raises `DataError` with line and field."""
    return documents.load(path, Plan)


def parse_plan(text: str, path: Path | str) -> Plan:
    return documents.parse(text, Plan, path)


def with_params(plan: Plan, given: Mapping[str, Any]) -> Plan:
    """The plan with parameters replaced. Raises `NotFound` for one that it does not have."""
    for name in given:
        if name not in plan.params:
            raise NotFound("parameter of this plan", name, plan.params)
    return plan.model_copy(update={"params": {**plan.params, **given}})


def check(plan: Plan, tools: Mapping[str, Tool], path: Path | str = "plan") -> None:
    """Raises `DataError` for what can be seen before anything runs: ids, tools, arguments, references, cycles."""
    ids = [step.id for step in plan.steps]
    for index, step in enumerate(plan.steps):
        place = f"steps.{index}({step.id})"
        if ids.count(step.id) > 1 or step.id in ("params", "item"):
            raise DataError(path, "this id is taken", field=place, hint="Give every step an id of its own")
        if step.tool not in tools:
            raise DataError(path, str(NotFound("tool", step.tool, tools)), field=f"{place}.tool")
        _check_arguments(step, tools[step.tool], path, place)
        if step.when and not _CONDITION.fullmatch(step.when):
            raise DataError(path, f"cannot be read: {step.when!r}", field=f"{place}.when",
                            hint='Write it as "${step.field} == value"; also !=, <, <=, >, >=, in, not in')  # fmt: skip
        for name in step.dependencies():
            if name not in ids:
                raise DataError(path, str(NotFound("step", name, ids)), field=place)
        for name in _paths(step.args):
            first, _, rest = name.partition(".")
            if first == "params" and rest.split(".")[0] not in plan.params:
                raise DataError(path, str(NotFound("parameter", rest, plan.params)), field=place)
            if first == "item" and step.each is None:
                raise DataError(path, "${item} needs 'each'", field=place)
    try:
        list(graphlib.TopologicalSorter({s.id: s.dependencies() for s in plan.steps}).static_order())
    except graphlib.CycleError as error:
        raise DataError(
            path, f"steps wait for each other: {' -> '.join(error.args[1])}", field="steps"
        ) from error


def fill(value: Any, results: Mapping[str, Any]) -> Any:
    """`value` with every reference replaced by what `results` holds. Raises `InputError` for a missing field."""
    if isinstance(value, str):
        whole = _REFERENCE.fullmatch(value)
        if whole:
            return _lookup(whole[1], results)
        return _REFERENCE.sub(lambda found: str(_lookup(found[1], results)), value)
    if isinstance(value, dict):
        return {key: fill(item, results) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, results) for item in value]
    return value


def holds(condition: str, results: Mapping[str, Any]) -> bool:
    """Whether a step's condition is met; an empty one is."""
    if not condition:
        return True
    found = _CONDITION.fullmatch(condition)
    assert found is not None, "checked before the run"
    left, sign = fill(found[1], results), found[2]
    right = fill(yaml.safe_load(found[3]), results)
    if sign in ("in", "not in"):
        return (left in right) == (sign == "in")
    if sign in ("==", "!="):
        return (left == right) == (sign == "==")
    try:
        return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[sign]
    except TypeError as error:
        raise InputError(f"The condition {condition!r} compares {left!r} with {right!r}") from error


def _check_arguments(step: Step, tool: Tool, path: Path | str, place: str) -> None:
    try:
        tool.arguments.model_validate(step.args)
    except ValidationError as error:
        for problem in error.errors():
            field = str(problem["loc"][0]) if problem["loc"] else ""
            refers = any(True for _ in _paths(step.args.get(field)))
            if problem["type"] in ("missing", "extra_forbidden") or not refers:
                hint = f"Arguments of {tool.name}: {', '.join(tool.arguments.model_fields)}"
                raise DataError(path, problem["msg"], field=f"{place}.args.{field}", hint=hint) from error


def _lookup(path: str, results: Mapping[str, Any]) -> Any:
    value: Any = results
    for depth, part in enumerate(path.split(".")):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdigit() and int(part) < len(value):
            value = value[int(part)]
        else:
            known = value if isinstance(value, Mapping) else ()
            where = ".".join(path.split(".")[:depth]) or "the results"
            raise NotFound(f"field of {where}", part, known)
    return value


def _paths(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield from (found[1] for found in _REFERENCE.finditer(value))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _paths(item)
    elif isinstance(value, Iterable) and value is not None:
        for item in value:
            yield from _paths(item)
