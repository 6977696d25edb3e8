"""Berkeley Function Calling Leaderboard: its cases read, its functions as tools, its AST rule for calls.

Pure but for reading files. The rule (Patil et al., 2024): the function's name is the right one, every needed
argument is given, none is that the answer does not know, and each value is among the possible ones. Texts
are compared without case, blanks and the signs ``,./-_*^``; 5 and 5.0 are one. Of several calls
each accepted one is made once, in any order. Not covered: executing anything.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import jsonschema
from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema, create_model

from agentd.errors import DataError, InputError
from agentd.sdk import Context, Tool

__all__ = ["CATEGORIES", "Case", "Made", "accepted", "mistakes", "read_cases", "tool_of", "wilson"]

CATEGORIES = ("simple", "multiple", "parallel", "irrelevance")
FILES = {"simple": "simple_python"}
"""Where a category's file is called otherwise: ``bfcl_NAME.jsonl``, and ``…_answers.jsonl`` beside it."""
TYPES = {"dict": "object", "float": "number", "tuple": "array"}
KEPT = ("description", "enum", "default")
_SIGNS = re.compile(r"[ ,./\-_*^]")

Made = tuple[str, Mapping[str, Any]]
"""A call: the function's name as it was offered, and its arguments."""


@dataclass(frozen=True, slots=True)
class Case:
    """A question, functions as JSON schemas, and the calls that are right: none where none fits."""

    id: str
    category: str
    question: str
    functions: Mapping[str, Mapping[str, Any]]
    descriptions: Mapping[str, str]
    right: tuple[tuple[str, Mapping[str, Sequence[Any]]], ...]


def read_cases(folder: Path, category: str) -> list[Case]:
    """All cases of a category, in their order. Raises `DataError` that names file and line."""
    path = folder / f"bfcl_{FILES.get(category, category)}.jsonl"
    answers: dict[str, list[dict[str, Any]]] = {}
    if category != "irrelevance":
        beside = path.with_name(f"{path.stem}_answers.jsonl")
        answers = {row["id"]: row["ground_truth"] for row in _rows(beside, "ground_truth")}
    cases: list[Case] = []
    for row in _rows(path, "question", "function"):
        if category != "irrelevance" and row["id"] not in answers:
            raise DataError(path, f"{row['id']!r} has no answer", hint="Its answers lie beside it")
        cases.append(
            Case(
                row["id"],
                category,
                "\n".join(said["content"] for turn in row["question"] for said in turn),
                {_plain(each["name"]): _schema(each["parameters"]) for each in row["function"]},
                {_plain(each["name"]): each["description"] for each in row["function"]},
                tuple(
                    (_plain(name), given)
                    for call in answers.get(row["id"], ())
                    for name, given in call.items()
                ),
            )
        )
    return cases


def tool_of(case: Case, name: str) -> Tool:
    """A function as a tool that agrees with any arguments its schema allows."""
    schema = case.functions[name]
    needed = schema.get("required", ())
    fields: dict[str, Any] = {
        # positions, since a field of a model may not be called everything that an argument may
        f"argument_{number}": (
            Annotated[Any, WithJsonSchema(said), Field(alias=argument)],
            ... if argument in needed else None,
        )
        for number, (argument, said) in enumerate(schema.get("properties", {}).items())
    }

    async def handler(ctx: Context, **arguments: Any) -> Done:
        return Done()

    return Tool(
        name=name,
        title=name.replace("_", " ").capitalize(),
        description=case.descriptions[name],
        arguments=create_model(
            "Arguments", __config__=ConfigDict(extra="forbid", protected_namespaces=()), **fields
        ),
        result=Done,
        handler=handler,
        launches=False,
        read_only=True,
        destructive=False,
        idempotent=True,
        open_world=False,
        trusted=True,
    )


class Done(BaseModel):
    """What every function answers: nobody judges what comes after a call."""

    done: bool = True


def mistakes(case: Case, name: str, arguments: Mapping[str, Any]) -> str:
    """What the schema says against the arguments; empty if nothing."""
    validator = jsonschema.Draft202012Validator({**case.functions[name], "additionalProperties": False})
    found = sorted(validator.iter_errors(dict(arguments)), key=lambda error: list(map(str, error.path)))
    return "; ".join(f"{'.'.join(map(str, error.path)) or 'arguments'}: {error.message}" for error in found)


def accepted(case: Case, made: Sequence[Made]) -> bool:
    """Whether the calls are the right ones, each once, in any order; none where none fits."""
    left = list(case.right)
    if len(made) != len(left):
        return False
    for name, arguments in made:
        fitting = next((each for each in left if each[0] == name and _fits(arguments, each[1])), None)
        if fitting is None:
            return False
        left.remove(fitting)
    return True


def wilson(successes: int, n: int, z: float = 1.959964) -> tuple[float, float]:
    """Wilson's 95 % interval for a share (JASA 22, 1927). Of nothing, nothing is known: 0 to 1."""
    if not n:
        return 0.0, 1.0
    share, spread = successes / n, z * z / n
    middle = share + spread / 2
    reach = z * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return max(0.0, (middle - reach) / (1 + spread)), min(1.0, (middle + reach) / (1 + spread))


def _rows(path: Path, *needed: str) -> Iterator[dict[str, Any]]:
    if not path.is_file():
        raise DataError(path, "there is no such file", hint="--data names a folder of bfcl_*.jsonl")
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(path, f"is no JSON: {error}", line=number) from error
        for name in ("id", *needed):
            if name not in row:
                raise DataError(path, f"lacks {name!r}", line=number)
        yield row


def _plain(name: str) -> str:
    """As the leaderboard does: endpoints refuse dots in names."""
    return name.replace(".", "_")


def _schema(said: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Schema of a type as the leaderboard writes it: Python's names, and ``any`` for no limit."""
    kind = TYPES.get(said.get("type", ""), said.get("type", ""))
    schema: dict[str, Any] = {} if kind in ("any", "") else {"type": kind}
    schema |= {name: said[name] for name in KEPT if name in said}
    if "properties" in said:
        schema["properties"] = {name: _schema(each) for name, each in said["properties"].items()}
    if isinstance(said.get("items"), dict):
        schema["items"] = _schema(said["items"])
    if said.get("required"):
        schema["required"] = list(said["required"])
    return schema


def _fits(arguments: Mapping[str, Any], possible: Mapping[str, Sequence[Any]]) -> bool:
    for name, values in possible.items():
        if name not in arguments:
            if "" not in values:
                return False
        elif not any(_same(arguments[name], value) for value in values):
            return False
    return arguments.keys() <= possible.keys()


def _same(made: Any, wanted: Any) -> bool:
    if isinstance(wanted, dict):
        # inside an object each value is a list of possible ones, as for arguments
        listed = {key: each if isinstance(each, list) else [each] for key, each in wanted.items()}
        return isinstance(made, dict) and _fits(made, listed)
    if isinstance(wanted, list):
        return (
            isinstance(made, list)
            and len(made) == len(wanted)
            and all(_same(one, other) for one, other in zip(made, wanted, strict=True))
        )
    if isinstance(wanted, str):
        return isinstance(made, str) and _bare(made) == _bare(wanted)
    if isinstance(wanted, bool) or isinstance(made, bool):
        return made is wanted
    if wanted is None:
        return made is None
    return isinstance(made, int | float) and made == wanted


def _bare(text: str) -> str:
    return _SIGNS.sub("", text).lower().replace("'", '"')


def unfit(name: str, wrong: str) -> InputError:
    """What a model is told of arguments that the schema refuses, in the words of the kernel."""
    return InputError(f"{name} cannot be called like this: {wrong}")
