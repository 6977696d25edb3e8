"""Whether a suite's rows are spread as real use is: the tool drift, and what refuses a suite that is far off.

Compared are the fields that the suite is sliced by, and how long inputs are, with rows of traffic; or one
field with the shares that the suite declares in `target`. `tools/distribution.py` has the arithmetic.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, cast

from pydantic import BaseModel, Field

from agentd.sdk import Context, InputError, tool

from .datasets import dataset_path, read_rows
from .distribution import Level, Shift, declared_shift, shift
from .suites import Suite, field_of, find_suite
from .verdict import holm

__all__ = ["off_target", "refuse_off_target"]

LENGTH, NONE = "words of input", "(none)"
ASKED = ("input", "prompt", "question", "text", "instruction", "messages")
ANSWERED = ("expected", "completion", "answer", "messages")
SHOWN = 5
WORST: tuple[Level, ...] = ("far", "shifted", "unclear", "stable")


class Value(BaseModel):
    """One value's share in the suite and in the traffic, and what it adds to the index."""

    value: str
    suite: float
    traffic: float
    adds: float


class Compared(BaseModel):
    """One field: `psi` as it is usually stated, of which `noise` is what so few rows have by chance."""

    field: str
    psi: float
    noise: float
    p_value: float
    level: Level
    rows: int
    traffic_rows: int
    values: list[Value]


class Drift(BaseModel):
    """How a suite's rows are spread beside real use; `level` is the worst field's."""

    suite: str
    against: str
    level: Level
    why: str
    fields: list[Compared]
    missing: list[str] = []


@tool(title="Hold a suite against traffic", result=Drift, read_only=True, idempotent=True, listed=False)
async def drift(
    ctx: Context,
    *,
    suite: Annotated[str, Field(description="name of a suite in evals/, or a path to its .yaml")],
    against: Annotated[
        str,
        Field(
            description="JSONL of what is really asked, or the name of a data set; without it, the suite's"
            " declared target"
        ),
    ] = "",
    fields: Annotated[
        dict[str, str],
        Field(
            description="further fields of the suite's rows, and what they are called in the traffic:"
            " {'expected.intent': 'label'}"
        ),
    ] = {},  # noqa: B006  (pydantic copies it)
) -> Drift:
    """Say which slices of a suite are far from the traffic: population stability index by field.

    Compares the suite's slices, further fields, and the length of inputs. An index below 0.1 over what so
    few rows have by chance is stable, from 0.25 on far; what may well be chance is unclear and never far.
    Numbers of many values are compared by deciles.
    """
    found = find_suite(ctx, suite)
    if not against:
        if found.file.target is None:
            raise InputError(
                f"The suite {found.name!r} declares no target",
                hint="Name a file of traffic (against), or declare target: {field, shares} in the suite",
            )
        return off_target(found, len(found.rows))
    file, artifact = dataset_path(ctx, against)
    traffic = [row for _, row in read_rows(file)]
    named = dict.fromkeys(found.file.slices, "") | fields
    shifts: dict[str, tuple[Shift, int, int]] = {}
    missing: list[str] = []
    for field, other in named.items():
        one = _column([field_of(row, field) for row in found.rows])
        two = _column([_value(row, other or field) for row in traffic])
        if one and two:
            shifts[field] = shift(one, two), len(one), len(two)
        else:
            missing.append(f"{field} of the {'traffic' if one else 'suite'}")
    one, two = [_words(row["input"]) for row in found.rows], [_words(text) for text in _asked(traffic)]
    if two:
        shifts[LENGTH] = shift(one, two), len(one), len(two)
    if not shifts:
        raise InputError(
            f"No field can be compared: missing are {', '.join([*missing, 'texts of the traffic'])}",
            hint="Name fields: --field expected.intent=label",
        )
    return _drift(found.name, artifact.name if artifact else file.name, shifts, missing)


def off_target(suite: Suite, rows: int) -> Drift:
    """The first `rows` rows beside the target that the suite declares. Raises `ValueError` without one."""
    target = suite.file.target
    if target is None:
        raise ValueError(f"{suite.name} declares no target")
    values = _column([field_of(row, target.field) for row in suite.rows[:rows]])
    if NONE not in target.shares:
        values = [value for value in values if value != NONE]
    if not values:
        raise InputError(
            f"No row of {suite.name!r} has the field {target.field!r} of its target",
            hint="Paths are dotted, such as expected.intent",
        )
    found = {target.field: (declared_shift(values, target.shares), len(values), 0)}
    return _drift(suite.name, "its declared target", found, [])


def refuse_off_target(suite: Suite, rows: int) -> None:
    """Raise `InputError` if the suite declares a target and its first `rows` rows are far from it."""
    if suite.file.target is not None and (found := off_target(suite, rows)).level == "far":
        raise InputError(
            f"{suite.name!r} is not spread as real use is: {found.why}",
            hint="Add rows of what is missing, correct the target, or allow it for this call with"
            " off_target=true",
        )


def _drift(
    suite: str, against: str, shifts: Mapping[str, tuple[Shift, int, int]], missing: list[str]
) -> Drift:
    """All fields; single ones are called shifted or far by p values corrected for their number."""
    corrected = holm([each.p_value for each, _, _ in shifts.values()])
    made = [
        Compared(
            field=field,
            psi=each.psi,
            noise=each.noise,
            p_value=p_value,
            level=each.level(p_value),
            rows=rows,
            traffic_rows=others,
            values=[
                Value(value=share.value, suite=share.suite, traffic=share.traffic, adds=share.adds)
                for share in each.shares[:SHOWN]
            ],
        )
        for p_value, (field, (each, rows, others)) in zip(corrected, shifts.items(), strict=True)
    ]
    made.sort(key=lambda each: (WORST.index(each.level), -each.psi))
    return Drift(
        suite=suite, against=against, level=made[0].level, why=_why(made), fields=made, missing=missing
    )


def _why(made: Sequence[Compared]) -> str:
    """Of the fields at the worst level."""
    worst = [each for each in made if each.level == made[0].level]
    if worst[0].level == "stable":
        return f"all of {', '.join(each.field for each in made)} are spread alike"
    return "; ".join(map(_said, worst))


def _said(each: Compared) -> str:
    most = ", ".join(f"{value.value} {value.suite:.0%} for {value.traffic:.0%}" for value in each.values[:3])
    said = f"{each.field} has an index of {each.psi:.2f} ({each.noise:.2f} by chance)"
    if each.level == "unclear":
        return f"{said}, which {each.rows} rows cannot tell from chance"
    return f"{said}: {most}"


def _column(values: Sequence[object]) -> list[object]:
    """What is compared of a field's values: numbers that are there, or all, with `NONE` for what is not."""
    there = [value for value in values if value not in (None, "")]
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in there):
        return there
    return [NONE if value in (None, "") else value for value in values]


def _value(row: Mapping[str, Any], field: str) -> object:
    """The field of a row of traffic: as named, within a JSON answer, or under its last name alone."""
    if (value := field_of(row, field)) is not None:
        return value
    first, _, rest = field.partition(".")
    if first == "expected" and (answer := _answer(row)) is not None:
        return field_of(answer, rest) if rest and isinstance(answer, dict) else None if rest else answer
    return row.get(field.rpartition(".")[2])


def _answer(row: Mapping[str, Any]) -> object:
    """What the row was answered with, read as JSON where it is JSON."""
    found = next((row[name] for name in ANSWERED if name in row), None)
    if isinstance(found, list) and found and isinstance(found[-1], dict):
        found = cast("dict[str, object]", found[-1]).get("content")
    if not isinstance(found, str):
        return found
    try:
        return json.loads(found)
    except ValueError:
        return found


def _asked(rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """What was asked in each row; of a conversation, what its user said last."""
    for row in rows:
        found = next((row[name] for name in ASKED if name in row), None)
        if isinstance(found, list):
            said = [m["content"] for m in found if isinstance(m, dict) and m.get("role") == "user"]
            found = said[-1] if said else None
        if isinstance(found, str):
            yield found


def _words(text: str) -> int:
    return len(text.split())
