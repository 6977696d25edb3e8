"""Measure models on suites: the tools evaluate and baseline. Comparing what came out is next door.

A recipe collects answers; scoring happens here, when it has ended, with the suite's scorer, so that
answers can be scored again without asking a model twice. Nothing here knows how a model is reached.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

from pydantic import Field

from agentd.sdk import (
    Context,
    DataError,
    Finished,
    InputError,
    Launch,
    Model,
    NotFound,
    Quote,
    Report,
    Unavailable,
    tool,
)

from .datasets import dataset_path, leaked, read_dataset, read_rows
from .suites import Suite, field_of, find_suite
from .verdict import MAX_ERROR_SHARE, Interval, interval_of

SuiteName = Annotated[str, Field(description="name of a suite in evals/, or a path to its .yaml")]

# Until three runs have been seen: a small model served on a CPU, and how long a remote answer takes.
LOCAL_TOKENS_PER_S = 150.0
REMOTE_ANSWER_S = 3.0
START_S = 8.0
BASELINE_ROWS_PER_S = 40.0
BASELINE_START_S = 25.0
EMBEDDER = "minilm-l6"
HEADS = {"linear": "linear-head", "neighbours": "nearest-neighbours"}
CHARACTERS_PER_TOKEN = 3.5


# --- evaluate -------------------------------------------------------------------------------


@tool(title="Evaluate a model on a suite", launches=True)
async def evaluate(
    ctx: Context,
    *,
    suite: SuiteName,
    model: Annotated[str, Field(description="catalog model or alias; local ones must be served")],
    constrained: Annotated[bool, Field(description="enforce the suite's JSON Schema while decoding")] = False,
    label: Annotated[str, Field(description="a name for this report, to tell runs of one model apart")] = "",
    limit: Annotated[int, Field(ge=0, description="only the first so many rows; 0 for all")] = 0,
    concurrency: Annotated[int, Field(ge=1, le=256, description="requests under way at a time")] = 16,
) -> Launch:
    """Ask a model every row of a suite and score the answers, with a confidence interval.

    Needs a model that answers: a remote one, or a local one started with `serve`. The report it saves
    is what `compare` takes. Rows that got no answer count as errors, never as zeros.
    For public benchmarks use `evaluate_harness`; for a baseline without a generating model, `baseline`.
    """
    found = find_suite(ctx, suite)
    ctx.plugins.find("evals/scorers", f"{found.file.scorer}.py")
    if constrained and found.file.output_schema is None:
        raise InputError(f"The suite {found.name!r} has no output_schema", hint="Call without constrained")
    models = _models(ctx, model)
    needs = tuple(dict.fromkeys(service for each in models if (service := _service(ctx, each))))
    rows = found.rows[:limit] if limit else found.rows
    key = f"{found.name}:{model}:{len(rows)}"
    spec = _scoring(found, model=model, label=label or ("constrained" if constrained else "")) | {
        "system": found.file.prompt.system,
        "user": found.file.prompt.user,
        "schema": found.file.output_schema if constrained else None,
        "max_tokens": found.file.max_tokens,
        "temperature": 0,
        "seed": 0,
        "limit": limit,
        "concurrency": concurrency,
        "timeout_s": 120,
        "retries": 4,
        "timing_key": key,
    }
    quote = _evaluation_quote(found, rows, models, concurrency, ctx.jobs.seconds_of("evaluate", key))
    return Launch(
        recipe="evaluate",
        title=f"Evaluate {model} on {found.name} ({len(rows)} rows)",
        spec=spec,
        inputs={"rows": found.data},
        quote=quote,
        timeout_s=max(900.0, 10 * quote.seconds),
        needs=needs,
        gateway=True,
    )


def _models(ctx: Context, name: str) -> list[Model]:
    """The models that may answer for `name`. Raises `NotFound` with the nearest names."""
    alias = ctx.catalog.alias(name)
    if alias is None:
        return [ctx.catalog.get(name)]
    return [ctx.catalog.get(each) for each, weight in alias.weights.items() if weight > 0]


def _service(ctx: Context, model: Model) -> str:
    """The service that must be up for `model` to answer; "" for one that is reached elsewhere."""
    if model.endpoint:
        return ""
    if model.kind == "baseline" or model.meta.get("task") == "embedding":
        raise InputError(f"{model.name!r} does not generate text", hint="Name a model that answers chats")
    service = ctx.services.find(model.name)
    if service is None:
        raise Unavailable(f"{model.name!r} is not being served", hint=f"agentd call serve model={model.name}")
    return model.name


def _evaluation_quote(
    suite: Suite,
    rows: Sequence[Mapping[str, Any]],
    models: Sequence[Model],
    concurrency: int,
    past: Sequence[float],
) -> Quote:
    """Tokens guessed from characters; of an alias, the dearest model's price.

    Money is that of the tokens: what a local model's service costs is on the service's own quote.
    """
    prompt = len(suite.file.prompt.system) + len(suite.file.prompt.user)
    tokens_in = sum(20 + (prompt + len(row["input"])) / CHARACTERS_PER_TOKEN for row in rows)
    tokens_out = sum(
        min(suite.file.max_tokens, 8 + 1.5 * len(json.dumps(row["expected"])) / CHARACTERS_PER_TOKEN)
        for row in rows
    )
    money = max(
        tokens_in * model.input_micro_usd_per_mtok + tokens_out * model.output_micro_usd_per_mtok
        for model in models
    )
    if len(past) >= 3:
        seconds, basis = median(past), f"median of {len(past)} past runs"
    elif any(model.endpoint for model in models):
        seconds = START_S + REMOTE_ANSWER_S * math.ceil(len(rows) / concurrency)
        basis = f"{REMOTE_ANSWER_S:g} s an answer, {concurrency} at a time"
    else:
        seconds = START_S + tokens_out / LOCAL_TOKENS_PER_S
        basis = f"about {LOCAL_TOKENS_PER_S:g} tokens/s"
    return Quote(
        seconds=round(seconds, 1),
        ram_bytes=120 << 20,
        disk_bytes=4 << 20,
        micro_usd=math.ceil(money / 1e6),
        basis=f"{len(rows)} rows, about {tokens_in:.0f} tokens in and {tokens_out:.0f} out; {basis}",
    )


# --- baseline -------------------------------------------------------------------------------


@tool(title="Fit a baseline without a generating model", launches=True)
async def baseline(
    ctx: Context,
    *,
    suite: SuiteName,
    dataset: Annotated[str, Field(description="training set: an artifact's name or id, or a JSONL path")],
    embedder: Annotated[
        str, Field(description="embedding model of the catalog; empty for TF-IDF alone")
    ] = EMBEDDER,
    patterns: Annotated[
        bool, Field(description="also find values by rules learned from shape and surrounding words")
    ] = False,
    head: Annotated[
        Literal["linear", "neighbours"], Field(description="linear heads, or the nearest training rows' vote")
    ] = "linear",
    limit: Annotated[int, Field(ge=0, description="only the first so many rows; 0 for all")] = 0,
) -> Launch:
    """Answer a suite with linear heads and a lexicon, in about a minute: the rung below a fine-tune.

    Fits on a training set whose answers are flat JSON objects or plain labels, and saves a report of the
    model "linear-head" (or "nearest-neighbours"). Compare a fine-tune with it before paying for one: where
    this is as good, use this. Not for free-text answers.
    """
    found = find_suite(ctx, suite)
    ctx.plugins.find("evals/scorers", f"{found.file.scorer}.py")
    path, artifact = dataset_path(ctx, dataset)
    read = read_dataset(path)
    if read.format == "text":
        raise DataError(path, "holds plain text", hint='A baseline learns from {"prompt", "completion"} rows')
    if leaks := leaked(read.examples, found.inputs):
        example, row = leaks[0]
        raise DataError(
            path,
            f"{len(leaks)} rows stand in the suite {found.name!r} as well, this one as {row!r}",
            line=example.line,
            hint="Take them out of the training set",
        )
    inputs = {"train": path, "rows": found.data} | _embedder(ctx, embedder)
    count = len(read) + len(found.rows)
    key = f"{found.name}:{count}:{embedder}:{head}"
    past = ctx.jobs.seconds_of("baseline", key)
    seconds = median(past) if len(past) >= 3 else BASELINE_START_S + count / BASELINE_ROWS_PER_S
    basis = (
        f"median of {len(past)} past runs"
        if len(past) >= 3
        else f"{count} texts, mostly loading and embedding"
    )
    return Launch(
        recipe="fit_baseline",
        title=f"Baseline for {found.name} from {path.name}",
        spec=_scoring(found, model=HEADS[head], label="patterns" if patterns else "lexicon")
        | {
            "limit": limit,
            "seed": 0,
            "patterns": patterns,
            "head": head,
            "timing_key": key,
            "dataset": artifact.id if artifact else str(path),
        },
        inputs=inputs,
        quote=Quote(
            seconds=round(seconds, 1),
            ram_bytes=1200 << 20,
            disk_bytes=4 << 20,
            micro_usd=ctx.price(seconds),
            basis=basis,
        ),
        timeout_s=max(900.0, 10 * seconds),
    )


def _embedder(ctx: Context, name: str) -> dict[str, Path]:
    if not name:
        return {}
    try:
        model = ctx.catalog.get(name)
    except NotFound as error:
        raise InputError(
            f"The embedder {name!r} is not in the catalog", hint=f"agentd call get_model source={name}"
        ) from error
    if model.path is None:
        raise InputError(f"The embedder {name!r} has no folder on this machine")
    return {"embedder": model.path}


# --- scoring --------------------------------------------------------------------------------


def _scoring(suite: Suite, *, model: str, label: str) -> dict[str, Any]:
    """What is needed to score the answers when they are there, whatever becomes of the suite's file."""
    return {
        "model": model,
        "label": label,
        "suite": suite.name,
        "suite_digest": suite.digest,
        "scorer": suite.file.scorer,
        "metric": suite.file.metric,
        "slices": list(suite.file.slices),
    }


@evaluate.done
@baseline.done
def report_of(ctx: Context, finished: Finished) -> dict[str, Any]:
    """Score the answers, save the report. The report's id comes from the job's: twice gives the same one."""
    spec, result = finished.spec, finished.result
    rows = scored(ctx, spec["scorer"], finished.out / "rows.jsonl")
    answered = [row for row in rows if "score" in row]
    errors = len(rows) - len(answered)
    interval = _interval(answered)
    kept = finished.out / "scored.jsonl"
    kept.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    artifact = ctx.artifacts.add(
        "report-rows", kept, name=f"{spec['suite']}-{spec['model']}-rows", meta={"job": finished.job_id}
    )
    report = ctx.reports.save(
        Report(
            id=f"report-{finished.job_id}",
            suite=spec["suite"],
            suite_digest=spec["suite_digest"],
            model=spec["model"],
            label=spec["label"],
            metric=spec["metric"],
            score=interval.value,
            low=interval.low,
            high=interval.high,
            n=len(answered),
            errors=errors,
            rows=artifact.path,
            meta=_meta(spec, result, answered, errors),
        )
    )
    return {
        "report": report.id,
        "suite": report.suite,
        "model": report.model,
        "label": report.label,
        "metric": report.metric,
        "score": report.score,
        "low": report.low,
        "high": report.high,
        "n": report.n,
        "errors": report.errors,
        "tokens_per_s": result.get("tokens_per_s", 0.0),
        "seconds": result.get("seconds", finished.seconds),
        "rows": str(report.rows),
    } | ({"warning": warning} if (warning := report.meta.get("warning")) else {})


def scored(ctx: Context, scorer: str, path: Path) -> list[dict[str, Any]]:
    """The rows at `path` with a score in 0…1 each, but for those that have an error."""
    score = ctx.plugins.module("evals/scorers", scorer).score
    rows: list[dict[str, Any]] = []
    for line, row in read_rows(path):
        if "error" not in row:
            value = float(score(row["expected"], row["output"], row))
            if not 0 <= value <= 1:
                raise DataError(
                    path, f"the scorer {scorer!r} gave {value}", line=line, hint="Scores lie in 0…1"
                )
            row = {**row, "score": value}
        rows.append(row)
    return rows


def _interval(rows: Iterable[Mapping[str, Any]]) -> Interval:
    return interval_of([row["score"] for row in rows])


def _meta(
    spec: Mapping[str, Any], result: Mapping[str, Any], answered: Sequence[Mapping[str, Any]], errors: int
) -> dict[str, Any]:
    taken = ("tokens_per_s", "p50_s", "p95_s", "seconds", "input_tokens", "output_tokens", "models", "fields")
    meta: dict[str, Any] = {name: result[name] for name in taken if name in result}
    meta |= {
        name: spec[name] for name in ("scorer", "temperature", "seed", "limit", "max_tokens") if name in spec
    }
    meta["constrained"] = bool(spec.get("schema"))
    meta["cut_short"] = sum(row.get("finish_reason") == "length" for row in answered)
    meta["slices"] = {field: _by_slice(answered, field) for field in spec["slices"]}
    if errors > MAX_ERROR_SHARE * (errors + len(answered)):
        asked = errors + len(answered)
        meta["warning"] = f"{errors} of {asked} rows got no answer: comparisons will be inconclusive"
    return meta


def _by_slice(rows: Iterable[Mapping[str, Any]], field: str) -> dict[str, dict[str, float]]:
    groups: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        value = field_of(row, field)
        groups[value if isinstance(value, str) else json.dumps(value)].append(row)
    made: dict[str, dict[str, float]] = {}
    for value, members in sorted(groups.items()):
        interval = _interval(members)
        made[value] = {"n": len(members), "score": interval.value, "low": interval.low, "high": interval.high}
    return made
