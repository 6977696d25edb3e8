"""The tool train_router: the user's labelled examples become a head that the router asks, with its report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from agentd.sdk import (
    Context,
    DataError,
    Figure,
    Finished,
    InputError,
    Launch,
    Metric,
    NotFound,
    Quote,
    Report,
    tool,
)

from .datasets import read_rows
from .verdict import interval_of

ARTIFACT = "router"
EMBEDDER = "minilm-l6"
START_S, ROWS_PER_S = 20.0, 30.0
FEWEST = 4
SHAPES = 'Rows are {"text", "label"}; or {"text", "small", "big"}: how right either model was, 0 to 1'

Row = dict[str, Any]


@tool(
    title="Train a router from examples",
    launches=True,
    listed=False,
    trusted=("artifact", "name", "report", "kind", "accuracy", "n", "path"),
)
async def train_router(
    ctx: Context,
    *,
    examples: Annotated[
        str,
        Field(
            description='JSONL of {"text", "label"}, label null for what is out of scope; or of {"text",'
            ' "small", "big"}: how right either model was (0 to 1); empty with reports'
        ),
    ] = "",
    small: Annotated[str, Field(description="report of the smaller model, instead of examples")] = "",
    big: Annotated[str, Field(description="report of the larger model on the same suite")] = "",
    test: Annotated[
        str, Field(description="JSONL of the same kind to measure on; else by cross-validation")
    ] = "",
    name: Annotated[str, Field(min_length=1, max_length=100, description="of the artifact")] = "router",
    embedder: Annotated[
        str, Field(description="embedding model of the catalog; empty to go by counts of the text alone")
    ] = EMBEDDER,
    reject: Annotated[
        float, Field(gt=0, lt=0.5, description="share of known texts that may be refused as out of scope")
    ] = 0.05,
    seed: Annotated[int, Field(ge=0)] = 0,
) -> Launch:
    """Learn to tell the task class of a request, or whether the smaller of two models is enough for it.

    From labelled examples, or from the reports of two models on one suite. Leaves an artifact for an alias's
    `classifier`, and a report with accuracy, calibration and how well texts out of scope are told. Four
    examples a label are the least, some dozens are sensible. Not for judging answers.
    """
    rows, kind = _given(ctx, examples, small, big)
    inputs = {"rows": _written(ctx, rows)}
    if test:
        measured, other = rows_of(ctx.path(test))
        if other != kind:
            raise InputError(f"{test!r} has rows for {other}, the examples are for {kind}", hint=SHAPES)
        seen, known = {row["text"] for row in rows}, {row["label"] for row in rows} | {None}
        if both := next((row for row in measured if row["text"] in seen), None):
            raise InputError(
                f"{test!r} and the examples share the text {both['text'][:60]!r}", hint="Keep them apart"
            )
        if strange := next((row["label"] for row in measured if row["label"] not in known), None):
            raise InputError(
                f"{test!r} has the label {strange!r}, which no example has",
                hint="Mark what is out of scope with label null",
            )
        inputs["test"] = _written(ctx, measured)
    digest = ""
    if embedder:
        inputs["embedder"], digest = _folder(ctx, embedder)
    seconds = START_S + len(rows) / ROWS_PER_S
    return Launch(
        recipe="train_router",
        title=f"Train the router {name!r} on {len(rows)} examples ({kind})",
        spec={
            "kind": kind,
            "reject": reject,
            "seed": seed,
            "name": name,
            "embedder_name": embedder,
            "embedder_digest": digest,
            "examples": examples or f"{small}, {big}",
            "timing_key": f"{kind}:{embedder}",
        },
        inputs=inputs,
        quote=Quote(
            seconds=round(seconds, 1),
            ram_bytes=1200 << 20,
            disk_bytes=4 << 20,
            basis=f"{len(rows)} texts: loading, embedding, some dozen heads",
        ),
        timeout_s=max(1800.0, 20 * seconds),
        attempts=2,
        repeatable=True,
    )


@train_router.done
def keep(ctx: Context, finished: Finished) -> dict[str, Any]:
    """Keep head, rows and report. The report's id comes from the job's: twice gives the same one."""
    spec, result = finished.spec, finished.result
    rows = _kept(ctx, finished, "rows.jsonl", "report-rows", f"{spec['name']}-rows")
    head = _kept(ctx, finished, "router.json", ARTIFACT, spec["name"])
    lines = [json.loads(line) for line in rows.path.read_text(encoding="utf-8").splitlines()]
    of = interval_of([line["score"] for line in lines if line["score"] is not None])
    figures = {key: Figure(**value) for key, value in result["figures"].items()}
    metric = Metric(name="accuracy", score=of.value, low=of.low, high=of.high, n=result["n"], figures=figures)
    report = ctx.reports.save(
        Report(
            id=f"report-{finished.job_id}",
            suite=f"router:{spec['name']}",
            suite_digest=rows.digest,
            model=spec["name"],
            label=result["measured"],
            metric=metric.name,
            score=of.value,
            low=of.low,
            high=of.high,
            n=result["n"],
            rows=rows.path,
            metrics=(metric,),
            digests={"router": head.digest, "embedder": spec["embedder_digest"]},
            meta={
                "seed": spec["seed"],
                "kind": spec["kind"],
                "artifact": head.id,
                **{key: result[key] for key in ("classes", "chosen", "temperature", "trained_on", "seconds")},
            },
        )
    )
    return {
        "artifact": head.id,
        "name": head.name,
        "report": report.id,
        "kind": spec["kind"],
        "measured": result["measured"],
        "accuracy": {"value": of.value, "low": of.low, "high": of.high},
        "n": result["n"],
        "figures": result["figures"],
        "path": str(head.path),
    }


def _kept(ctx: Context, finished: Finished, file: str, kind: str, name: str) -> Any:
    """The artifact of a file that the job left; found again if it was taken in before."""
    path = finished.out / file
    if not path.exists():
        taken = (each for each in ctx.artifacts.list(kind) if each.name == name)
        return next(each for each in taken if each.meta.get("job") == finished.job_id)
    return ctx.artifacts.add(kind, path, name=name, meta={"job": finished.job_id})


# --- what is learned from -------------------------------------------------------------------


def _given(ctx: Context, examples: str, small: str, big: str) -> tuple[list[Row], str]:
    if (examples and (small or big)) or (not examples and not (small and big)):
        raise InputError("Name either examples, or the reports small and big", hint=SHAPES)
    rows, kind = rows_of(ctx.path(examples)) if examples else (_of_reports(ctx, small, big), "difficulty")
    counts = Counter(row["label"] for row in rows if row["label"] is not None)
    if len(counts) < 2:
        raise InputError(
            f"All examples have the label {next(iter(counts), None)!r}", hint="Two labels are needed"
        )
    few = min(counts, key=lambda label: counts[label])
    if counts[few] < FEWEST:
        raise InputError(
            f"The label {few!r} has {counts[few]} examples, and {FEWEST} are needed",
            hint="Add some, drop it, or mark its rows as out of scope: label null",
        )
    return rows, kind


def rows_of(path: Path) -> tuple[list[Row], str]:
    """Rows {"id", "text", "label"} and their kind. Raises `DataError` with line, field and mend.

    A text that comes again counts once, so that no fold learns from what it is measured on.
    """
    found: dict[str, Row] = {}
    lines: dict[str, int] = {}
    kinds: dict[str, int] = {}
    for line, row in read_rows(path):
        text = row.get("text")
        if not isinstance(text, str) or not text.strip():
            raise DataError(path, f"should be a text, and is {text!r}", line=line, field="text", hint=SHAPES)
        label, kind = _label(path, line, row)
        if (first := kinds.setdefault(kind, line)) and len(kinds) > 1:
            raise DataError(
                path, f"is for {kind}, and line {min(kinds.values())} is not", line=first, hint=SHAPES
            )
        if text in found and found[text]["label"] != label:
            other = f"{found[text]['label']!r} in line {lines[text]}"
            raise DataError(
                path,
                f"{label!r} here and {other}, for the same text",
                line=line,
                field="label",
                hint="Decide on one",
            )
        lines.setdefault(text, line)
        found.setdefault(text, {"id": str(row.get("id", line)), "text": text, "label": label})
    return list(found.values()), next(iter(kinds))


def _label(path: Path, line: int, row: Mapping[str, Any]) -> tuple[str | None, str]:
    if "small" in row or "big" in row:
        scores = [_score(path, line, row, field) for field in ("small", "big")]
        return _difficulty(*scores), "difficulty"
    label = row.get("label", "")
    if label is not None and (not isinstance(label, str) or not label.strip()):
        raise DataError(
            path, f"should be a text or null, and is {label!r}", line=line, field="label", hint=SHAPES
        )
    return label, "classes"


def _score(path: Path, line: int, row: Mapping[str, Any], field: str) -> float:
    value = row.get(field)
    if not isinstance(value, int | float) or not 0 <= value <= 1:
        raise DataError(path, f"should be from 0 to 1, and is {value!r}", line=line, field=field, hint=SHAPES)
    return float(value)


def _difficulty(small: float, big: float) -> str:
    """What is gained by the larger model is what is learned: where both fail, it is not worth asking."""
    return "not_enough" if big > small else "enough"


def _of_reports(ctx: Context, small: str, big: str) -> list[Row]:
    """Rows that both reports have a score for. Raises `InputError` if they are not of one suite."""
    one, two = ctx.reports.get(small), ctx.reports.get(big)
    if one.suite_digest != two.suite_digest:
        raise InputError(
            f"{small!r} and {big!r} are not of the same suite as it is now", hint="Evaluate both again"
        )
    rows, others = ({str(row["id"]): row for row in _scored(report)} for report in (one, two))
    found = {
        row["input"]: {
            "id": key,
            "text": row["input"],
            "label": _difficulty(row["score"], others[key]["score"]),
        }
        for key, row in rows.items()
        if key in others and isinstance(row.get("input"), str)
    }
    if not found:
        raise InputError(
            f"{small!r} and {big!r} have no rows in common whose input is a text", hint="Give examples"
        )
    return list(found.values())


def _scored(report: Report) -> Iterator[Row]:
    yield from (row for _, row in read_rows(report.rows) if row.get("score") is not None)


def _written(ctx: Context, rows: list[Row]) -> Path:
    path = ctx.scratch() / "rows.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def _folder(ctx: Context, name: str) -> tuple[Path, str]:
    try:
        model = ctx.catalog.get(name)
    except NotFound as error:
        raise InputError(
            f"The embedder {name!r} is not in the catalog", hint=f"agentd call get_model source={name}"
        ) from error
    if model.path is None:
        raise InputError(f"The embedder {name!r} has no folder on this machine", hint="Name a local one")
    return model.path, model.digest
