"""Measure models on suites: the tools evaluate and baseline. Comparing what came out is next door.

Recipes collect answers and score them; here is decided what they are given, and what they found is kept
as a report. Nothing here knows how a model is reached, and no scorer runs here.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from agentd.sdk import (
    Context,
    DataError,
    Finished,
    InputError,
    Launch,
    Metric,
    Model,
    NotFound,
    Quote,
    Report,
    Unavailable,
    tool,
)

from .datasets import dataset_path, read_dataset
from .drift import refuse_off_target
from .identities import dearest, doubt_of, identity_of, models_behind, prices_of
from .judges import Judge, check_fields, find_judge, standing_of
from .leaks import refuse_leaks
from .preflight import Difference, refuse_too_small, too_small
from .prompts import PromptVersion, check_rows, find_prompt, remember
from .scorers import Scorer, check_options, find_scorer
from .suites import MetricFile, Suite, find_suite
from .verdict import MAX_ERROR_SHARE

SuiteName = Annotated[str, Field(description="name of a suite in evals/, or a path to its .yaml")]

# A small model served on a CPU, and how long a remote answer takes.
LOCAL_TOKENS_PER_S = 150.0
REMOTE_ANSWER_S = 3.0
START_S = 8.0
BASELINE_ROWS_PER_S = 40.0
BASELINE_START_S = 25.0
EMBEDDER = "minilm-l6"
HEADS = {"linear": "linear-head", "neighbours": "nearest-neighbours"}
CHARACTERS_PER_TOKEN = 3.5
VERDICT_TOKENS = 60
ASKED_AGAIN = 1.5  # a request that failed late may have cost as much as one that was answered
KEPT_ANSWERS_MB = 512


GIVEN = (
    "report", "suite", "model", "label", "metric", "score", "low", "high", "n", "errors", "metrics",
    "redteam", "tokens_per_s", "seconds", "rows", "warning",
)  # fmt: skip
"""Keys of a report's summary: what both tools here give."""

# --- evaluate -------------------------------------------------------------------------------


@tool(
    title="Evaluate a model on a suite",
    launches=True,
    open_world=True,
    trusted=True,
    gives=GIVEN,
)
async def evaluate(
    ctx: Context,
    *,
    suite: SuiteName,
    model: Annotated[str, Field(description="catalog model or alias; local ones must be served")],
    constrained: Annotated[bool, Field(description="enforce the suite's JSON Schema while decoding")] = False,
    prompt: Annotated[
        str, Field(description="a prompt of evals/prompts/, or NAME@DIGEST; the suite's own by default")
    ] = "",
    label: Annotated[str, Field(description="a name for this report, to tell runs of one model apart")] = "",
    limit: Annotated[int, Field(ge=0, description="only the first so many rows; 0 for all")] = 0,
    concurrency: Annotated[int, Field(ge=1, le=256, description="requests under way at a time")] = 16,
    fresh: Annotated[bool, Field(description="ask again what was answered before")] = False,
    stream: Annotated[bool, Field(description="also measure the time to the first token")] = False,
    unsandboxed: Annotated[
        bool, Field(description="allow a suite to run code that the model wrote without a sandbox")
    ] = False,
    difference: Difference = 0.0,
    off_target: Annotated[
        bool, Field(description="allow a suite whose rows are far from the target it declares")
    ] = False,
) -> Launch:
    """Ask a model every row of a suite and score the answers, with a confidence interval.

    Needs a model that answers: a remote one, or a local one started with `serve`. The report it saves
    is what `compare` takes. Rows that got no answer count as errors, never as zeros. Answers are kept:
    the same model is not asked the same again, unless `fresh`, and once measured needs not be served.
    Not for public benchmarks (`evaluate_harness`), nor to fit a baseline (`baseline`).
    """
    found = find_suite(ctx, suite)
    version = find_prompt(ctx, prompt) if prompt else None
    if version:
        found = asked_with(found, version)
    if difference:
        refuse_too_small(ctx, found, difference, limit)
    if not off_target:
        refuse_off_target(found, limit or len(found.rows))
    measures = measures_of(ctx, found, unsandboxed=unsandboxed)
    if version:
        measures.digests["prompt"] = _digest_of([version.digest, found.file.max_tokens])
    if constrained and found.file.output_schema is None:
        raise InputError(f"The suite {found.name!r} has no output_schema", hint="Call without constrained")
    asked = [model, *dict.fromkeys(judge.file.model for judge in measures.judges.values())]
    models = {name: models_behind(ctx, name) for name in asked}
    every = [each for several in models.values() for each in several]
    needs, unserved = _services(ctx, models, kept=not fresh and _measured_before(ctx, found, model))
    rows = found.rows[:limit] if limit else found.rows
    small = "" if difference else too_small(ctx, found, limit)
    schema = found.file.output_schema if constrained else None
    prices = prices_of(every)
    label = label or " ".join(
        [*(["constrained"] if constrained else []), *([version.ref] if version else [])]
    )
    spec = _scoring(found, measures, model=model, label=label) | {
        "identity": identity_of(ctx, model),
        "system": found.file.prompt.system,
        "user": found.file.prompt.user,
        "examples": version.file.turns if version else [],
        "prompt": version.told if version else {},
        "schema": schema,
        "max_tokens": found.file.max_tokens,
        "temperature": found.file.temperature,
        "samples": found.file.samples,
        "logprobs": found.file.logprobs,
        "seed": 0,
        "limit": limit,
        "concurrency": concurrency,
        "timeout_s": 120,
        "retries": 4,
        "stream": stream,
        "fresh": fresh,
        "answers": str(ctx.data_dir("answers") / "answers.sqlite"),
        "answers_mb": KEPT_ANSWERS_MB,
        "unserved": unserved,
        "prices": prices,
        "judges": {name: judge.spec for name, judge in measures.judges.items()},
        "standings": {name: _told(ctx, judge) for name, judge in measures.judges.items()},
        "timing_key": f"{found.name}:{model}",
    }
    shots = sum(len(turn["content"]) for turn in version.file.turns) if version else 0
    quote, most = _evaluation_quote(found, rows, models, measures, concurrency, shots)
    basis = f"{quote.basis}; {small}" if small else quote.basis
    return Launch(
        recipe="evaluate",
        title=f"Evaluate {model} on {found.name} ({len(rows)} rows)",
        spec=spec,
        inputs=measures.inputs,
        quote=quote.model_copy(update={"doubt": doubt_of(ctx, every), "basis": basis}),
        timeout_s=max(900.0, 10 * quote.seconds),
        needs=needs,
        gateway=True,
        tokens_micro_usd=most,
        resumes=True,
    )


def asked_with(suite: Suite, version: PromptVersion) -> Suite:
    """The suite with its rows asked by that prompt. Raises `DataError` for a field that a row lacks."""
    check_rows(version, suite)
    prompt = suite.file.prompt.model_copy(
        update={"system": version.file.system, "user": version.file.template}
    )
    return replace(suite, file=suite.file.model_copy(update={"prompt": prompt}))


@dataclass(slots=True)
class Measures:
    """What a suite's metrics come to for a recipe: its list of them, files it reads, and digests."""

    metrics: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    inputs: dict[str, Path] = field(default_factory=dict[str, Path])
    judges: dict[str, Judge] = field(default_factory=dict[str, Judge])
    digests: dict[str, str] = field(default_factory=dict[str, str])


def measures_of(ctx: Context, suite: Suite, *, unsandboxed: bool = False, plain: bool = False) -> Measures:
    """Read what a suite measures. With `plain`, only metrics that need nothing but the answers.

    Raises the `AgentdError` that says what is wrong with a metric.
    """
    found = Measures(inputs={"rows": suite.data} | scoring_inputs(ctx))
    for number, metric in enumerate(suite.file.metrics):
        if metric.judge:
            if not plain:
                _add_judge(ctx, found, suite, metric)
            continue
        scorer = find_scorer(ctx, metric.scorer)
        if plain and scorer.wants:
            continue
        if scorer.better == "lower" and number == 0:
            raise InputError(
                f"{metric.name!r} cannot be the first metric of {suite.name!r}: less of it is better",
                hint="Put one first of which more is better",
            )
        _add_scorer(found, suite, metric, scorer, unsandboxed=unsandboxed)
    if not found.metrics or found.metrics[0]["name"] != suite.file.primary.name:
        raise InputError(
            f"The first metric of {suite.name!r}, {suite.file.primary.name!r}, needs a model to be asked",
            hint="A baseline is measured by metrics that need nothing but its answers",
        )
    if suite.file.redteam and not plain:
        found.inputs["redteam"] = suite.path.parent / suite.file.redteam
        found.inputs["scorer-refusal"] = find_scorer(ctx, "refusal").path
    scorers = {name: _digest(path) for name, path in found.inputs.items() if name.startswith("scor")}
    first = suite.file.primary.scorer
    found.digests = {
        **({"scorer": scorers[f"scorer-{first}"]} if first else {}),
        "scorers": _digest_of(scorers),
        "prompt": _digest_of([suite.file.prompt.model_dump(), suite.file.max_tokens]),
        **{f"judge {name}": judge.digest for name, judge in found.judges.items()},
    }
    return found


def scoring_inputs(ctx: Context) -> dict[str, Path]:
    """What a recipe that scores is handed beside scorers."""
    return {
        "scoring": ctx.plugins.find("evals", "scoring.py"),
        "statistics": ctx.plugins.find("tools", "verdict.py"),
    }


def _add_judge(ctx: Context, found: Measures, suite: Suite, metric: MetricFile) -> None:
    judge = find_judge(ctx, metric.judge, suite.path.parent)
    check_fields(judge, suite.rows[0] | {"output": ""}, f"the suite {suite.name!r}")
    found.judges[metric.name] = judge
    found.metrics.append({"name": metric.name, "judge": judge.file.judge})


def _add_scorer(
    found: Measures, suite: Suite, metric: MetricFile, scorer: Scorer, *, unsandboxed: bool
) -> None:
    check_options(scorer, metric.name, metric.options | metric.files)
    if "sandbox" in scorer.wants and metric.options.get("sandbox") is False and not unsandboxed:
        raise InputError(
            f"The metric {metric.name!r} would run code that {suite.name!r} collects without a sandbox",
            hint="Allow it for this call with unsandboxed=true, or let the suite use the sandbox",
        )
    files = {option: f"file-{metric.name}-{option}" for option in metric.files}
    found.inputs |= {files[option]: suite.path.parent / path for option, path in metric.files.items()}
    found.inputs[f"scorer-{scorer.name}"] = scorer.path
    found.metrics.append(
        {
            "name": metric.name,
            "scorer": scorer.name,
            "options": metric.options,
            "files": files,
            "wants": list(scorer.wants),
        }
    )


def _told(ctx: Context, judge: Judge) -> dict[str, Any]:
    """What a report says of a judge."""
    standing = standing_of(ctx, judge)
    return {
        "judge": judge.file.judge,
        "model": judge.file.model,
        "digest": judge.digest,
        "calibrated": standing.calibrated,
        "why": standing.why,
    }


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def service_of(ctx: Context, model: Model) -> str:
    """The service that must be up for `model` to answer; "" for one that is reached elsewhere."""
    if model.endpoint:
        return ""
    if model.kind == "baseline" or model.meta.get("task") == "embedding":
        raise InputError(f"{model.name!r} does not generate text", hint="Name a model that answers chats")
    service = ctx.services.find(model.name)
    if service is None:
        raise Unavailable(f"{model.name!r} is not being served", hint=f"agentd call serve model={model.name}")
    return model.name


def _services(
    ctx: Context, models: Mapping[str, Sequence[Model]], *, kept: bool
) -> tuple[tuple[str, ...], dict[str, str]]:
    """Services that must be up; and, if answers were `kept`, {asked: model} of those that have none.

    Raises `Unavailable` for a model that is not served, unless `kept`.
    """
    needs: dict[str, None] = {}
    unserved: dict[str, str] = {}
    for name, several in models.items():
        for each in several:
            try:
                needs |= dict.fromkeys([service] if (service := service_of(ctx, each)) else [])
            except Unavailable:
                if not kept:
                    raise
                unserved[name] = each.name
    return tuple(needs), unserved


def _measured_before(ctx: Context, suite: Suite, model: str) -> bool:
    """Whether there may be answers enough: the recipe will tell whether they are."""
    return any((each.suite, each.model) == (suite.name, model) for each in ctx.reports.list())


def _evaluation_quote(
    suite: Suite,
    rows: Sequence[Mapping[str, Any]],
    models: Mapping[str, Sequence[Model]],
    measures: Measures,
    concurrency: int,
    shots: int = 0,
) -> tuple[Quote, int]:
    """With what the requests may cost at most: every answer as long as it may be, some asked twice.

    Tokens are guessed from characters; of an alias, the dearest model's price. Kept answers make it
    cheaper. What a local model's service costs is on the service's own quote.
    """
    answering, file = next(iter(models.values())), suite.file
    prompt = len(file.prompt.system) + len(file.prompt.user) + shots
    asked = [*rows, *suite.redteam]
    schema = len(json.dumps(file.output_schema or {}))
    tokens_in = sum(20 + (prompt + len(row["input"])) / CHARACTERS_PER_TOKEN for row in asked) * file.samples
    tokens_out = file.samples * sum(
        min(file.max_tokens, 8 + 1.5 * len(json.dumps(row["expected"])) / CHARACTERS_PER_TOKEN)
        for row in asked
    )
    requests = len(asked) * file.samples
    money = dearest(answering, tokens_in, tokens_out)
    longest = file.samples * sum(len(json.dumps(row)) + prompt + schema for row in asked)
    most = dearest(answering, longest, file.samples * file.max_tokens * len(asked))
    for judge in measures.judges.values():
        verdicts = len(rows) * (2 if judge.file.pairwise else 1)
        told = len(judge.spec["system"]) + sum(len(message["content"]) for message in judge.spec["examples"])
        shown = verdicts * (60 + told / CHARACTERS_PER_TOKEN) + (tokens_in + tokens_out) * verdicts / requests
        money += dearest(models[judge.file.model], shown, verdicts * VERDICT_TOKENS)
        most += dearest(models[judge.file.model], 3 * shown, verdicts * judge.file.max_tokens)
        tokens_in, tokens_out = tokens_in + shown, tokens_out + verdicts * VERDICT_TOKENS
        requests += verdicts
    if any(model.endpoint for model in answering):
        seconds = START_S + REMOTE_ANSWER_S * math.ceil(requests / concurrency)
        basis = f"{REMOTE_ANSWER_S:g} s an answer, {concurrency} at a time"
    else:
        seconds = START_S + tokens_out / LOCAL_TOKENS_PER_S
        basis = f"about {LOCAL_TOKENS_PER_S:g} tokens/s"
    quote = Quote(
        seconds=round(seconds, 1),
        ram_bytes=400 << 20,
        disk_bytes=4 << 20,
        tokens_micro_usd=money,
        basis=f"{len(rows)} rows, about {tokens_in:.0f} tokens in and {tokens_out:.0f} out; {basis}",
    )
    return quote, math.ceil(most * ASKED_AGAIN)


# --- baseline -------------------------------------------------------------------------------


@tool(
    title="Fit a baseline without a generating model",
    launches=True,
    trusted=True,
    gives=GIVEN,
)
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
    measures = measures_of(ctx, found, plain=True)
    path, artifact = dataset_path(ctx, dataset)
    read = read_dataset(path)
    if read.format == "text":
        raise DataError(path, "holds plain text", hint='A baseline learns from {"prompt", "completion"} rows')
    refuse_leaks(ctx, read, found)
    inputs = {"train": path} | measures.inputs | _embedder(ctx, embedder)
    count = len(read) + len(found.rows)
    seconds = BASELINE_START_S + count / BASELINE_ROWS_PER_S
    return Launch(
        recipe="fit_baseline",
        title=f"Baseline for {found.name} from {path.name}",
        spec=_scoring(found, measures, model=HEADS[head], label="patterns" if patterns else "lexicon")
        | {
            "limit": limit,
            "seed": 0,
            "patterns": patterns,
            "head": head,
            "timing_key": f"{found.name}:{embedder}:{head}",
            "dataset": artifact.id if artifact else str(path),
        },
        inputs=inputs,
        quote=Quote(
            seconds=round(seconds, 1),
            ram_bytes=1200 << 20,
            disk_bytes=4 << 20,
            basis=f"{count} texts, mostly loading and embedding",
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


# --- what came out --------------------------------------------------------------------------


def _scoring(suite: Suite, measures: Measures, *, model: str, label: str) -> dict[str, Any]:
    """What makes a report of the answers when they are there, whatever becomes of the suite's file."""
    return {
        "model": model,
        "label": label,
        "suite": suite.name,
        "suite_digest": suite.digest,
        "metrics": measures.metrics,
        "slices": list(suite.file.slices),
        "gate": suite.file.gate.model_dump(),
        "digests": measures.digests,
    }


@evaluate.done
@baseline.done
def report_of(ctx: Context, finished: Finished) -> dict[str, Any]:
    """Keep what was measured as a report. Its id comes from the job's: twice gives the same one."""
    spec, result = finished.spec, finished.result
    metrics = tuple(_metric(each, spec) for each in result["metrics"])
    if told := spec.get("prompt"):
        remember(ctx, told)
    first = metrics[0]
    assert first.score is not None, "a recipe ends with an error when no row has a score"
    assert first.low is not None
    assert first.high is not None
    report = ctx.reports.save(
        Report(
            id=f"report-{finished.job_id}",
            suite=spec["suite"],
            suite_digest=spec["suite_digest"],
            model=spec["model"],
            label=spec["label"],
            metric=first.name,
            score=first.score,
            low=first.low,
            high=first.high,
            n=first.n,
            errors=first.errors,
            rows=_kept_rows(ctx, finished, "rows"),
            metrics=metrics,
            redteam=_redteam(result),
            digests=spec["digests"],
            meta=_meta(ctx, finished, first),
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
        "metrics": {metric.name: metric.score for metric in metrics},
        "redteam": {rate.name: rate.score for rate in report.redteam},
        "tokens_per_s": result.get("tokens_per_s", 0.0),
        "seconds": result.get("seconds", finished.seconds),
        "rows": str(report.rows),
    } | ({"warning": warning} if (warning := report.meta.get("warning")) else {})


def _kept_rows(ctx: Context, finished: Finished, name: str) -> Path:
    """The artifact's file; found again, if it was taken in before."""
    kept = f"{finished.spec['suite']}-{finished.spec['model']}-{name}"
    path = finished.out / f"{name}.jsonl"
    if not path.exists():
        taken = (each for each in ctx.artifacts.list("report-rows") if each.name == kept)
        return next(each.path for each in taken if each.meta.get("job") == finished.job_id)
    return ctx.artifacts.add("report-rows", path, name=kept, meta={"job": finished.job_id}).path


def _metric(told: Mapping[str, Any], spec: Mapping[str, Any]) -> Metric:
    measure = next(each for each in spec["metrics"] if each["name"] == told["name"])
    judge = spec.get("standings", {}).get(told["name"], {})
    return Metric(**told, scorer=measure.get("scorer", ""), judge=judge)


def _redteam(result: Mapping[str, Any]) -> tuple[Metric, ...]:
    """Rates over the red-team part. A row without an answer is in none of them, and counted in each."""
    told = result.get("redteam") or {}
    return tuple(
        Metric(
            name=name,
            scorer="refusal",
            score=figure["value"],
            low=figure.get("low"),
            high=figure.get("high"),
            n=told["n"],
            errors=told["errors"],
            better="lower" if name == "over_refusal" else "higher",
        )
        for name, figure in told.get("figures", {}).items()
    )


def _meta(ctx: Context, finished: Finished, first: Metric) -> dict[str, Any]:
    spec, result = finished.spec, finished.result
    taken = (
        "tokens_per_s p50_s p95_s first_p50_s first_p95_s seconds input_tokens output_tokens micro_usd "
        "spent_micro_usd asked cached cut_short models fields slices versions rendered_sha256"
    )
    given = "temperature samples seed limit max_tokens gate"
    meta: dict[str, Any] = {name: result[name] for name in taken.split() if name in result}
    meta |= {name: spec[name] for name in given.split() if name in spec}
    if told := spec.get("prompt"):
        meta["prompt"] = f"{told['name']}@{told['digest']}"
    meta["constrained"] = bool(spec.get("schema"))
    if (finished.out / "redteam.jsonl").exists():
        meta["redteam_rows"] = str(_kept_rows(ctx, finished, "redteam"))
    warnings: list[str] = []
    if first.errors > MAX_ERROR_SHARE * (first.errors + first.n):
        of = first.errors + first.n
        warnings.append(f"{first.errors} of {of} rows have no score: comparisons will be inconclusive")
    if first.judge:
        meta["judge"] = first.judge
        if not first.judge["calibrated"]:
            warnings.append(f"the judge {first.judge['judge']!r} decides nothing alone: {first.judge['why']}")
    if warnings:
        meta["warning"] = "; ".join(warnings)
    return meta
