"""Versions of data sets: list them, show one, and tell two apart.

A data set is an artifact of kind "dataset": a folder with ``data.jsonl`` and its card, or one file.
Every change makes another version under the same name, known by its content.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BaseModel, Field

from agentd.sdk import Artifact, Context, tool

from .datasets import read_rows, rows_file, words_of
from .decisions import Review
from .review import review_now

__all__ = ["Version", "diff_datasets", "list_datasets", "show_dataset", "version_of"]

SHOWN = 5


class Version(BaseModel):
    """One version of one split."""

    dataset: str = Field(description="the artifact's id")
    name: str
    version: str = Field(description="the first characters of its digest")
    split: str = ""
    rows: int = 0
    made: str = Field(default="", description="prepared, reviewed, checked or added")
    size_bytes: int = 0
    parents: list[str] = []


class Datasets(BaseModel):
    datasets: list[Version]


class Shown(Version):
    path: str
    card: str = Field(default="", description="Markdown: sources, steps, personal data, split")
    first: list[dict[str, Any]] = Field(default=[], description="the first rows")
    steps: list[dict[str, Any]] = []
    review: Review = Field(description="of all splits together")
    template: dict[str, Any] = Field(default={}, description="how a model's chat template renders it")


class Difference(BaseModel):
    a: Version
    b: Version
    same: int = Field(description="rows that both have, by their words")
    only_a: int
    only_b: int
    changed: int = Field(description="of those, rows of one origin with other words in each")
    examples: list[dict[str, Any]] = []
    labels: dict[str, list[int]] = Field(
        default={}, description="label: rows in a, rows in b; where they differ"
    )
    options: dict[str, list[Any]] = Field(default={}, description="option: in a, in b; where they differ")


@tool(title="List data sets", result=Datasets, read_only=True, idempotent=True, listed=False)
async def list_datasets(
    ctx: Context, *, name: Annotated[str, Field(description="only the versions of this name")] = ""
) -> Datasets:
    """List data sets with all their versions, newest first."""
    listed = [version_of(artifact) for artifact in ctx.artifacts.list("dataset")]
    return Datasets(datasets=[each for each in listed if name in ("", each.name)])


@tool(title="Show a data set", result=Shown, read_only=True, idempotent=True, listed=False)
async def show_dataset(
    ctx: Context,
    *,
    dataset: Annotated[str, Field(description="name (its newest version) or id")],
    rows: Annotated[int, Field(ge=0, le=100, description="how many rows to show")] = 3,
) -> Shown:
    """Show a data set: its card, what each step did, where it comes from, its review, and its first rows."""
    artifact = ctx.artifacts.get(dataset, "dataset")
    card = artifact.path / "README.md"
    first = [
        row
        for _, row in zip(range(rows), (row for _, row in read_rows(rows_file(artifact.path))), strict=False)
    ]
    return Shown(
        **version_of(artifact).model_dump(),
        path=str(artifact.path),
        card=card.read_text(encoding="utf-8") if card.is_file() else "",
        first=first,
        review=(await review_now(ctx, dataset))[0],
        steps=artifact.meta.get("steps", []),
        template=artifact.meta.get("template", {}),
    )


@tool(title="Tell two data sets apart", result=Difference, read_only=True, idempotent=True, listed=False)
async def diff_datasets(
    ctx: Context,
    *,
    a: Annotated[str, Field(description="name or id of one version")],
    b: Annotated[str, Field(description="name or id of the other")],
) -> Difference:
    """Compare two versions row by row: what each has alone, what changed, which labels and options differ."""
    one, other = (ctx.artifacts.get(ref, "dataset") for ref in (a, b))
    here, there = rows_by_words(one), rows_by_words(other)
    origins = {row["origin"]: row for key, row in there.items() if key not in here and row.get("origin")}
    gone = [row for key, row in here.items() if key not in there]
    changed = [(row, origins[row["origin"]]) for row in gone if row.get("origin") in origins]
    labels = [
        Counter(str(row["label"]) for row in rows.values() if row.get("label")) for rows in (here, there)
    ]
    options = [each.meta.get("options", {}) for each in (one, other)]
    return Difference(
        a=version_of(one),
        b=version_of(other),
        same=len(here.keys() & there.keys()),
        only_a=len(gone),
        only_b=len(there) - len(here.keys() & there.keys()),
        changed=len(changed),
        examples=[{"a": words_of(row), "b": words_of(then)} for row, then in changed[:SHOWN]],
        labels={
            k: [labels[0][k], labels[1][k]] for k in labels[0] | labels[1] if labels[0][k] != labels[1][k]
        },
        options=different(*options),
    )


# --- parts ----------------------------------------------------------------------------------


def version_of(artifact: Artifact) -> Version:
    meta = artifact.meta
    made = "reviewed" if "review" in meta else "checked" if "tokens_median" in meta else "prepared"
    return Version(
        dataset=artifact.id,
        name=artifact.name,
        version=artifact.digest[:8],
        split=meta.get("split", ""),
        rows=meta.get("rows", 0),
        made=made if "rows" in meta else "added",
        size_bytes=artifact.size_bytes,
        parents=list(artifact.parents),
    )


def rows_by_words(artifact: Artifact) -> dict[str, dict[str, Any]]:
    return {
        json.dumps(words_of(row), sort_keys=True, ensure_ascii=False): row
        for _, row in read_rows(rows_file(artifact.path))
    }


def different(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    names = [name for name in {**a, **b} if name != "timing_key" and a.get(name) != b.get(name)]
    return {name: [a.get(name), b.get(name)] for name in names}
