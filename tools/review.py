"""The review queue: people accept, mend or reject rows, and what they decided becomes a version.

Decisions are about a row's words and are kept by data set name, so they hold over versions and splits.
An agent cannot review: what people say must be people's.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from agentd.sdk import Artifact, Context, Denied, InputError, Judgement, NotFound, tool

from .datasets import read_row, read_rows, row_id, rows_file, words_of
from .decisions import Review, by_row, fixed, held, queue, review_of
from .prepare import SPLITS, names_of

__all__ = ["publish_dataset", "review_decide", "review_now", "review_rows"]

Verdict = Literal["accept", "fix", "reject", "undo"]
# Of what is known about a version, what still holds when rows were left out or mended.
LASTING = ("family", "split", "sources", "options", "steps", "pii", "crossing", "dropped", "format")


class Decision(BaseModel):
    """What a reviewer says about one row; with `fix`, the words that should stand there."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(description="the row's id")
    verdict: Verdict
    prompt: Any = None
    completion: Any = None
    text: str | None = None
    note: str = ""


class Queue(BaseModel):
    reviewer: str
    rows: list[dict[str, Any]] = Field(description="to be looked at next, each with its split")
    waiting: int = Field(description="rows that wait for this reviewer")
    decided: int = Field(description="rows that this reviewer has decided about")


class Decided(BaseModel):
    reviewer: str
    kept: int
    undone: int
    waiting: int


class Published(BaseModel):
    name: str
    datasets: dict[str, str] = Field(description="split: the new version's id")
    rows: dict[str, int]
    review: Review
    pairs: int = Field(description="rows with a worse answer beside the better one")
    next: str


Dataset = Annotated[str, Field(description="name of a data set; its splits are reviewed together")]
Reviewer = Annotated[str, Field(description="who reviews; whoever calls, by default")]


@tool(title="Next rows to review", result=Queue, read_only=True, idempotent=True, listed=False)
async def review_rows(
    ctx: Context,
    *,
    dataset: Dataset,
    reviewer: Reviewer = "",
    split: Annotated[Literal["", "train", "validation", "test"], Field(description="only this split")] = "",
    overlap: Annotated[
        float, Field(ge=0, le=1, description="share of the rows that every reviewer is shown")
    ] = 0.2,
    limit: Annotated[int, Field(ge=1, le=1000)] = 20,
) -> Queue:
    """The rows that a reviewer is to look at next. What others said about them is not shown."""
    who = reviewer or ctx.principal
    family = family_of(ctx, dataset)
    rows = {row["id"]: row for row in await rows_of(ctx, dataset) if split in ("", row["split"])}
    decided = judged(ctx, family)
    waiting = queue(family, rows, decided, who, overlap)
    done = sum(1 for row in rows if any(each.author == who for each in decided.get(row, ())))
    return Queue(
        reviewer=who, rows=[rows[row] for row in waiting[:limit]], waiting=len(waiting), decided=done
    )


@tool(title="Decide about rows", result=Decided, idempotent=True, listed=False)
async def review_decide(
    ctx: Context,
    *,
    dataset: Dataset,
    decisions: Annotated[
        list[Decision],
        Field(
            min_length=1,
            max_length=1000,
            description="id, verdict (accept, fix, reject, undo), mended fields",
        ),
    ],
    reviewer: Reviewer = "",
) -> Decided:
    """Record what a person decided about rows. A later decision of the same person replaces the earlier."""
    if ctx.principal.startswith("agent:"):
        raise Denied(f"{ctx.principal!r} is an agent", hint="Rows are reviewed by people: agentd data review")
    who = reviewer or ctx.principal
    family = family_of(ctx, dataset)
    rows = {row["id"]: row for row in await rows_of(ctx, dataset)}
    said = [
        judgement(ctx, family, rows, decision, who) for decision in decisions if decision.verdict != "undo"
    ]
    ctx.judgements.put(said)
    undone = [ctx.judgements.remove(subject(family), d.id, who) for d in decisions if d.verdict == "undo"]
    waiting = queue(family, rows, judged(ctx, family), who, 0.0)
    return Decided(reviewer=who, kept=len(said), undone=sum(undone), waiting=len(waiting))


@tool(title="Publish a reviewed data set", result=Published, idempotent=True, listed=False)
async def publish_dataset(
    ctx: Context,
    *,
    dataset: Dataset,
    unreviewed: Annotated[
        Literal["leave_out", "keep"], Field(description="rows that nobody decided about")
    ] = "leave_out",
) -> Published:
    """Make versions of a data set's splits out of what was accepted and mended.

    Rejected and disputed rows are left out. A mended answer keeps the one it replaced as `rejected`: a pair.
    """
    family = family_of(ctx, dataset)
    decided = judged(ctx, family)
    made: dict[str, str] = {}
    counts: dict[str, int] = {}
    pairs = 0
    review, every = await review_now(ctx, dataset)
    for split, artifact in splits_of(ctx, dataset).items():
        before = [{k: v for k, v in row.items() if k != "split"} for row in every if row["split"] == split]
        rows = [row for each in before if (row := published(each, decided, unreviewed == "keep"))]
        if rows:
            folder = written(ctx.scratch() / artifact.name, rows, artifact, review)
            meta = {name: artifact.meta[name] for name in LASTING if name in artifact.meta}
            told = {"rows": len(rows), "split": split, "family": family, "review": review.model_dump()}
            made[split] = ctx.artifacts.add(
                "dataset", folder, name=artifact.name, meta=meta | told, parents=[artifact.id]
            ).id
            counts[split] = len(rows)
            pairs += sum(1 for row in rows if row.get("rejected"))
    if not made:
        raise InputError(
            f"No row of {dataset!r} was accepted yet", hint=f"agentd data review {family}, or unreviewed=keep"
        )
    return Published(name=family, datasets=made, rows=counts, review=review, pairs=pairs,
                     next=f"agentd data check {family}")  # fmt: skip


# --- rows and decisions ---------------------------------------------------------------------


def subject(family: str) -> str:
    return f"dataset:{family}"


def judged(ctx: Context, family: str) -> dict[str, list[Judgement]]:
    return by_row(ctx.judgements.list(subject(family)))


def family_of(ctx: Context, dataset: str) -> str:
    artifact = ctx.artifacts.get(dataset, "dataset")
    return str(artifact.meta.get("family") or artifact.name)


def splits_of(ctx: Context, dataset: str) -> dict[str, Artifact]:
    """The newest version of each split of a data set; of one that has no family, itself."""
    artifact = ctx.artifacts.get(dataset, "dataset")
    family = artifact.meta.get("family")
    if not family:
        return {"train": artifact}
    found: dict[str, Artifact] = {}
    for split, name in zip(SPLITS, names_of(family), strict=True):
        try:
            part = ctx.artifacts.get(name, "dataset")
        except NotFound:
            continue
        if part.meta.get("family") == family:
            found[split] = part
    return found


def rows_in(artifact: Artifact) -> Iterator[dict[str, Any]]:
    for _, row in read_rows(rows_file(artifact.path)):
        yield row if row.get("id") else {"id": row_id(row), **row}


async def rows_of(ctx: Context, dataset: str) -> list[dict[str, Any]]:
    """The rows of all splits, each with its split; read beside the daemon's loop, for there may be many."""
    found = splits_of(ctx, dataset)

    def read() -> list[dict[str, Any]]:
        return [{**row, "split": split} for split, artifact in found.items() for row in rows_in(artifact)]

    return await asyncio.to_thread(read)


async def review_now(ctx: Context, dataset: str) -> tuple[Review, list[dict[str, Any]]]:
    """Where the review of a data set stands, and its rows."""
    rows = await rows_of(ctx, dataset)
    decided = judged(ctx, family_of(ctx, dataset))
    return await asyncio.to_thread(review_of, [row["id"] for row in rows], decided), rows


def judgement(
    ctx: Context, family: str, rows: Mapping[str, dict[str, Any]], decision: Decision, who: str
) -> Judgement:
    """Raises `InputError` for a row that is not there, and for a mended one that cannot be trained on."""
    row = rows.get(decision.id)
    if row is None:
        raise InputError(
            f"Data set {family!r} has no row {decision.id!r}", hint=f"agentd data review {family} --json"
        )
    value: dict[str, Any] | None = None
    if decision.verdict == "fix":
        given = {
            name: said
            for name in ("prompt", "completion", "text")
            if (said := getattr(decision, name)) is not None
        }
        mended = fixed(row, given)
        if words_of(mended) == words_of(row):
            raise InputError(
                f"Row {decision.id!r} is mended without a change",
                hint="Give completion, prompt or text, or accept it",
            )
        value = words_of(read_row(Path(f"row {decision.id}"), 1, mended).row)
    return Judgement(subject=subject(family), item=decision.id, author=who, principal=ctx.principal,
                     verdict=decision.verdict, value=value, note=decision.note)  # fmt: skip


def published(
    row: dict[str, Any], decided: Mapping[str, Sequence[Judgement]], keep: bool
) -> dict[str, Any] | None:
    """The row as it goes on, or None where it is left out."""
    judgements = decided.get(row["id"], ())
    if not judgements:
        return {**row, "review": "unreviewed"} if keep else None
    holding = held(judgements)
    if holding is None or holding.verdict == "reject":
        return None
    if holding.verdict == "fix" and holding.value:
        return {**fixed(row, holding.value), "review": "fixed"}
    return {**row, "review": "accepted"}


def written(folder: Path, rows: Sequence[dict[str, Any]], artifact: Artifact, review: Review) -> Path:
    """The new version: its rows, all with the same fields, and the card with what the review came to."""
    folder.mkdir(parents=True)
    fields = list(dict.fromkeys(name for row in rows for name in row))
    with (folder / "data.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps({name: row.get(name) for name in fields}, ensure_ascii=False) + "\n")
    card = artifact.path / "README.md"
    before = card.read_text(encoding="utf-8") if card.is_file() else f"# {artifact.name}\n"
    (folder / "README.md").write_text(
        before.partition("\n## Review\n")[0] + section(len(rows), review), encoding="utf-8"
    )
    return folder


def section(rows: int, review: Review) -> str:
    agreement = "not measured: no two people judged one row" if not review.judged_twice else "not defined"
    if review.alpha is not None:
        bounds = f"{review.alpha_low:.2f} to {review.alpha_high:.2f}"
        agreement = (
            f"{review.alpha:.2f} ({bounds}) over {review.judged_twice} rows that several people judged"
        )
    who = ", ".join(f"{name} {count}" for name, count in review.reviewers.items())
    return (
        f"\n## Review\n\n{rows} rows are left. Of {review.rows} in all splits: {review.accepted} accepted,"
        f" {review.fixed} mended, {review.rejected} rejected, {review.disputed} disputed,"
        f" {review.unreviewed} not reviewed.\n\n"
        f"Reviewers: {who or 'none'}. Krippendorff's alpha: {agreement}.\n"
    )
