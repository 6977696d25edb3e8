"""Suites: what is measured. A YAML file that says how to ask and how to score, and a JSONL of rows.

    suite: tickets
    description: what a good answer is
    inclusion: why an example belongs
    source: where the rows come from
    licence: CDLA-Sharing-1.0
    data: data/tickets/heldout.jsonl       # {"id", "input", "expected", …} a line; relative to this file
    prompt: {system: "…", user: "{input}"} # {name} stands for a field of the row
    output_schema: {type: object, …}       # JSON Schema, enforced when a run is constrained
    max_tokens: 64
    metric: exact_match                    # what the score is called
    scorer: exact_json                     # evals/scorers/exact_json.py
    slices: [expected.intent]              # fields by which scores are also broken down

A suite's digest covers the YAML and the rows: two reports are comparable when their digests agree.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from agentd.sdk import Context, DataError, load_document

from .datasets import read_rows

__all__ = ["Prompt", "Suite", "SuiteFile", "field_of", "find_suite", "load_suite"]

PLACEHOLDER = re.compile(r"\{(\w+)\}")


class Prompt(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    system: str = ""
    user: str = Field(default="{input}", min_length=1)


class SuiteFile(BaseModel):
    """The YAML, field by field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    suite: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str
    inclusion: str
    source: str
    licence: str
    data: str = Field(min_length=1)
    prompt: Prompt = Prompt()
    output_schema: dict[str, Any] | None = None
    max_tokens: int = Field(default=256, ge=1, le=32768)
    metric: str = Field(min_length=1)
    scorer: str = Field(pattern=r"^[a-z_][a-z0-9_]*$")
    slices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite that has been read and found whole."""

    path: Path
    file: SuiteFile
    data: Path
    rows: tuple[dict[str, Any], ...]
    digest: str

    @property
    def name(self) -> str:
        return self.file.suite

    @property
    def inputs(self) -> list[tuple[str, str]]:
        """(id, input) of every row."""
        return [(row["id"], row["input"]) for row in self.rows]


def find_suite(ctx: Context, name: str) -> Suite:
    """The suite called `name` in ``evals/``, or the one at a path that ends in .yaml."""
    path = ctx.path(name) if name.endswith((".yaml", ".yml")) else ctx.plugins.find("evals", f"{name}.yaml")
    return load_suite(path)


def load_suite(path: Path) -> Suite:
    """Read a suite and its rows. Raises `DataError` with file, line and field."""
    file = load_document(path, SuiteFile)
    data = path.parent / file.data
    if not data.is_file():
        raise DataError(
            path,
            f"there is no file {str(data)!r}",
            field="data",
            hint="Paths are relative to the suite's file",
        )
    rows = _rows(data, file)
    digest = hashlib.sha256()
    for part in (path, data):
        content = part.read_bytes()
        digest.update(len(content).to_bytes(8, "big") + content)
    return Suite(path, file, data, rows, digest.hexdigest())


def _rows(data: Path, file: SuiteFile) -> tuple[dict[str, Any], ...]:
    wanted = {"id", "input", "expected", *PLACEHOLDER.findall(file.prompt.user)}
    rows: list[dict[str, Any]] = []
    lines: dict[str, int] = {}
    for line, row in read_rows(data):
        for field in sorted(wanted - row.keys()):
            raise DataError(
                data, "is missing", line=line, field=field, hint='Rows are {"id", "input", "expected", …}'
            )
        for field in ("id", "input"):
            if not isinstance(row[field], str) or not row[field].strip():
                raise DataError(data, "is not a filled string", line=line, field=field)
        if earlier := lines.get(row["id"]):
            raise DataError(
                data,
                f"{row['id']!r} is also on line {earlier}",
                line=line,
                field="id",
                hint="Make ids unique",
            )
        lines[row["id"]] = line
        rows.append(row)
    return tuple(rows)


def field_of(row: Mapping[str, Any], dotted: str) -> object:
    """The value at a dotted path such as ``expected.intent``; None where there is none."""
    value: object = row
    for part in dotted.split("."):
        if not isinstance(value, dict):
            return None
        value = cast("dict[str, object]", value).get(part)
    return value
