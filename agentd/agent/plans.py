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

import contextlib
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

__all__ = [
    "Plan",
    "Step",
    "as_yaml",
    "check",
    "fill",
    "holds",
    "load_plan",
    "parse_plan",
    "references",
    "with_params",
]

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
    expect: str = Field("", description="what it should come to, for those who read the plan")
    each: str | list[Any] | None = None

    def references(self) -> set[str]:
        """First parts of every reference: step ids, ``params`` and ``item``."""
        return {path.split(".")[0] for path in references([self.args, self.when, self.each])}

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


def as_yaml(plan: Plan) -> str:
    """The plan as a person edits it: without what is empty."""
    steps = [
        {name: list(value) if isinstance(value, tuple) else value
         for name, value in step.model_dump(exclude_defaults=True).items()}
        for step in plan.steps
    ]  # fmt: skip
    params = {"params": plan.params} if plan.params else {}
    said = {"plan": plan.plan, "goal": plan.goal, **params, "steps": steps}
    return yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=100)


def with_params(plan: Plan, given: Mapping[str, Any]) -> Plan:
    """The plan with parameters replaced. Raises `NotFound` for one that it does not have."""
    for name in given:
        if name not in plan.params:
            raise NotFound("parameter of this plan", name, plan.params)
    return plan.model_copy(update={"params": {**plan.params, **given}})


def check(plan: Plan, tools: Mapping[str, Tool], path: Path | str = "plan", source: str = "") -> None:
    """Look at ids, tools, arguments, references and cycles before anything runs.

    Raises `DataError`; with `source`, the plan's text, it names the line.
    """
    for index, step in enumerate(plan.steps):
        try:
            _check_step(plan, step, tools)
        except _Mistake as error:
            raise DataError(
                path,
                error.message,
                field=".".join((f"steps.{index}({step.id})", *error.place)),
                line=documents.line_of(source, "steps", index, *error.place),
                hint=error.hint,
            ) from error
    try:
        list(graphlib.TopologicalSorter({s.id: s.dependencies() for s in plan.steps}).static_order())
    except graphlib.CycleError as error:
        raise DataError(
            path, f"steps wait for each other: {' -> '.join(error.args[1])}", field="steps"
        ) from error


class _Mistake(InputError):
    """What is wrong at `place` within a step."""

    def __init__(self, found: InputError | str, *place: str, hint: str = "") -> None:
        message, hint = (found, hint) if isinstance(found, str) else (found.message, found.hint)
        super().__init__(message, hint=hint)
        self.place = place


def _check_step(plan: Plan, step: Step, tools: Mapping[str, Tool]) -> None:
    ids = [step.id for step in plan.steps]
    if ids.count(step.id) > 1 or step.id in ("params", "item"):
        raise _Mistake("this id is taken", "id", hint="Give every step an id of its own")
    if step.tool not in tools:
        raise _Mistake(NotFound("tool", step.tool, tools), "tool")
    _check_arguments(step, tools[step.tool], {} if step.when else plan.params)
    _check_condition(step.when)
    for name in sorted(step.dependencies()):
        if name not in ids:
            raise _Mistake(NotFound("step", name, ids), _where(step, name))
    for path in references([step.args, step.when, step.each]):
        first, _, rest = path.partition(".")
        name = rest.partition(".")[0]
        if first in ids and name:
            _check_key(plan.step(first), name, tools, _where(step, first))
        if first == "params" and name and name not in plan.params:
            raise _Mistake(NotFound("parameter", name, plan.params), _where(step, "params"))
        if first == "item" and step.each is None:
            raise _Mistake("${item} needs 'each'", _where(step, "item"))


def _check_key(of: Step, name: str, tools: Mapping[str, Tool], where: str) -> None:
    """Whether a step gives what is referred to, as far as that is known."""
    keys = ("items",) if of.each is not None else tools[of.tool].keys if of.tool in tools else ()
    if keys and name not in keys:
        raise _Mistake(NotFound(f"key of what step {of.id!r} gives", name, keys), where)


def _check_condition(when: str) -> None:
    found = _CONDITION.fullmatch(when)
    readable = not when
    if found:
        with contextlib.suppress(yaml.YAMLError):
            yaml.safe_load(found[3])
            readable = True
    if not readable:
        raise _Mistake(
            f"cannot be read: {when!r}",
            "when",
            hint='Write it as "${step.field} == value"; also !=, <, <=, >, >=, in, not in',
        )


def _where(step: Step, name: str) -> str:
    """The field of `step` that refers to `name`."""
    fields = {"args": step.args, "when": step.when, "each": step.each}
    return next((f for f, v in fields.items() if name in {p.split(".")[0] for p in references(v)}), "needs")


def fill(value: Any, results: Mapping[str, Any]) -> Any:
    """`value` with every reference replaced by what `results` holds. Raises `NotFound` for a missing one."""
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
    if sign in ("==", "!="):
        return (left == right) == (sign == "==")
    try:
        if sign in ("in", "not in"):
            return (left in right) == (sign == "in")
        return {"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[sign]
    except TypeError as error:
        raise InputError(f"The condition {condition!r} compares {left!r} with {right!r}") from error


def _check_arguments(step: Step, tool: Tool, params: Mapping[str, Any]) -> None:
    """Names of arguments, and values that no result is needed to know.

    `params` is empty for a step with a condition: it may be left out for what a parameter says.
    """
    args = {name: _known(value, params) for name, value in step.args.items()}
    try:
        tool.arguments.model_validate(args)
    except ValidationError as error:
        problems = error.errors()  # a name that is unknown first: it may be the one that is needed, misspelt
        for problem in sorted(problems, key=lambda each: each["type"] != "extra_forbidden"):
            field = str(problem["loc"][0]) if problem["loc"] else ""
            if problem["type"] == "extra_forbidden":
                unknown = NotFound(f"argument of {tool.name}", field, tool.arguments.model_fields)
                raise _Mistake(unknown, "args", field) from error
            if problem["type"] == "missing":
                raise _Mistake("is needed", "args", field) from error
            if not any(True for _ in references(args.get(field))):
                raise _Mistake(f"{problem['msg']} (it says {problem['input']!r})", "args", field) from error


def _known(value: Any, params: Mapping[str, Any]) -> Any:
    """`value` with parameters filled in, where it refers to nothing else."""
    if all(path.startswith("params.") for path in references(value)):
        with contextlib.suppress(NotFound):  # which parameter is missing is told with the reference
            return fill(value, {"params": params})
    return value


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


def references(value: Any) -> Iterator[str]:
    """The path of every reference in a value: ``base.model`` of ``"${base.model}"``."""
    if isinstance(value, str):
        yield from (found[1] for found in _REFERENCE.finditer(value))
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from references(item)
    elif isinstance(value, Iterable):
        for item in value:
            yield from references(item)
