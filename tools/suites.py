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
    samples: 5                             # answers a row, at a temperature above 0
    temperature: 0.8
    logprobs: true                         # answers come with the log-probability of each token
    metrics:                               # the first is the primary one: it decides
      - exact_json                         # evals/scorers/exact_json.py, under its own name
      - {name: rouge_l, scorer: rouge, options: {variant: rougeL}}
      - {name: kind, judge: kindness}      # evals/judges/kindness.yaml
    slices: [expected.intent]              # fields by which scores are also broken down
    redteam: data/tickets/redteam.jsonl    # rows on refusing and resisting, reported apart
    target: {field: expected.intent, shares: {refund: 0.2, …}}   # how rows are spread in real use
    gate: {margin: 0.05, alpha: 0.05, power: 0.8}                # declared before anything is run

`metric: exact_match` with `scorer: exact_json` is short for one metric. A suite's digest covers the YAML
and every file that it names: two reports are comparable when their digests agree.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from agentd.sdk import Context, DataError, load_document

from .datasets import read_rows

__all__ = [
    "Gate",
    "MetricFile",
    "Prompt",
    "Suite",
    "SuiteFile",
    "Target",
    "field_of",
    "find_suite",
    "load_suite",
]

PLACEHOLDER = re.compile(r"\{(\w+)\}")
NAME = r"^[A-Za-z0-9][A-Za-z0-9_.@-]*$"


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Prompt(Part):
    system: str = ""
    user: str = Field(default="{input}", min_length=1)


class MetricFile(Part):
    """One metric: a scorer with options, or a judge. `files` maps options to files beside the suite."""

    name: str = Field(pattern=NAME)
    scorer: str = Field(default="", pattern=r"^([a-z_][a-z0-9_]*)?$")
    judge: str = Field(default="", description="name of a judge in evals/judges/, or a path to its .yaml")
    options: dict[str, Any] = {}
    files: dict[str, str] = {}

    @model_validator(mode="before")
    @classmethod
    def _named_after_its_scorer(cls, given: Any) -> Any:
        made = {"scorer": given} if isinstance(given, str) else given
        if isinstance(made, dict) and "name" not in made:
            return made | {"name": Path(str(made.get("scorer") or made.get("judge") or "")).stem}
        return made

    @model_validator(mode="after")
    def _one_of_both(self) -> Self:
        if bool(self.scorer) == bool(self.judge):
            raise ValueError("a metric has either a scorer or a judge")
        if self.judge and (self.options or self.files):
            raise ValueError("a judge's settings stand in its own file")
        return self


class Target(Part):
    """How rows are spread over the values of a field where the model is to be used."""

    field: str = Field(min_length=1)
    shares: dict[str, float] = Field(min_length=1)

    @field_validator("shares")
    @classmethod
    def _a_distribution(cls, shares: dict[str, float]) -> dict[str, float]:
        if any(not 0 <= share <= 1 for share in shares.values()) or abs(sum(shares.values()) - 1) > 0.01:
            raise ValueError(f"shares lie in 0…1 and sum to 1; these sum to {sum(shares.values()):g}")
        return shares


class Gate(Part):
    """What a comparison is held to, declared before anything is run."""

    margin: float = Field(default=0.05, gt=0, lt=1, description="the loss of score that would be acceptable")
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="1 - confidence of the interval")
    power: float = Field(default=0.8, gt=0, lt=1, description="the chance to notice a real difference")


class SuiteFile(Part):
    """The YAML, field by field."""

    suite: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    description: str
    inclusion: str
    source: str
    licence: str
    data: str = Field(min_length=1)
    prompt: Prompt = Prompt()
    output_schema: dict[str, Any] | None = None
    max_tokens: int = Field(default=256, ge=1, le=32768)
    samples: int = Field(default=1, ge=1, le=200)
    temperature: float = Field(default=0.0, ge=0, le=2)
    logprobs: bool = False
    metrics: tuple[MetricFile, ...] = Field(min_length=1)
    slices: tuple[str, ...] = ()
    redteam: str = ""
    target: Target | None = None
    gate: Gate = Gate()

    @model_validator(mode="before")
    @classmethod
    def _one_metric_in_short(cls, given: Any) -> Any:
        if isinstance(given, dict) and "metrics" not in given and "metric" in given and "scorer" in given:
            rest = {name: value for name, value in given.items() if name not in ("metric", "scorer")}
            return rest | {"metrics": [{"name": given["metric"], "scorer": given["scorer"]}]}
        return given

    @field_validator("metrics")
    @classmethod
    def _told_apart(cls, metrics: tuple[MetricFile, ...]) -> tuple[MetricFile, ...]:
        names = [metric.name for metric in metrics]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two metrics are called {twice[0]!r}: give each a name")
        return metrics

    @model_validator(mode="after")
    def _samples_differ(self) -> Self:
        if self.samples > 1 and self.temperature == 0:
            raise ValueError("several samples of a row at temperature 0 are all the same: give a temperature")
        return self

    @property
    def primary(self) -> MetricFile:
        return self.metrics[0]


@dataclass(frozen=True, slots=True)
class Suite:
    """A suite that has been read and found whole."""

    path: Path
    file: SuiteFile
    data: Path
    rows: tuple[dict[str, Any], ...]
    redteam: tuple[dict[str, Any], ...]
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
    files = [path.parent / name for _, name in _named(file)]
    for (field, _), found in zip(_named(file), files, strict=True):
        if not found.is_file():
            raise DataError(
                path,
                f"there is no file {str(found)!r}",
                field=field,
                hint="Paths are relative to the suite's file",
            )
    rows = _rows(files[0], file)
    redteam = _rows(path.parent / file.redteam, file) if file.redteam else ()
    digest = hashlib.sha256()
    for part in (path, *files):
        content = part.read_bytes()
        digest.update(len(content).to_bytes(8, "big") + content)
    return Suite(path, file, files[0], rows, redteam, digest.hexdigest())


def _named(file: SuiteFile) -> Iterator[tuple[str, str]]:
    """(field, path) of every file that the YAML names, the rows first; judges have digests of their own."""
    yield "data", file.data
    if file.redteam:
        yield "redteam", file.redteam
    for number, metric in enumerate(file.metrics):
        for option, name in metric.files.items():
            yield f"metrics.{number}.files.{option}", name


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
