"""Training sets: check one, and keep what was checked under a name."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from agentd.sdk import Context, DataError, Finished, InputError, Launch, Quote, tool

from .datasets import dataset_path, read_dataset, rows_file
from .leaks import EMBEDDER, FALSE_ALARMS, Accept, job_parts, keep_check, refuse_leaks, seconds_for
from .suites import find_suite

FEWEST_ROWS = 8
# Loading the tokenizer, then counting, sketching and comparing: measured on two cores.
START_S, ROWS_PER_S = 4.0, 400.0


@tool(
    title="Check a training set",
    launches=True,
    trusted=("dataset", "name", "path", "ok"),
    gives=(
        "dataset",
        "name",
        "path",
        "rows",
        "duplicates",
        "near_duplicates",
        "conflicts",
        "leaks",
        "shared_values",
        "too_long",
        "tokens_median",
        "tokens_max",
        "tokens_total",
        "problems",
        "leak_check",
        "histogram",
        "balance",
        "template",
        "ok",
    ),
)
async def check_dataset(
    ctx: Context,
    *,
    path: Annotated[str, Field(description="JSONL file, or the name of a data set that was checked before")],
    suite: Annotated[
        str, Field(description="suite whose rows must not be in it: name, or path to its .yaml")
    ] = "",
    name: Annotated[str, Field(description="name to keep it under; the file's by default")] = "",
    tokenizer_model: Annotated[
        str, Field(description="catalog model whose tokens are counted; empty to count none")
    ] = "smollm2-135m",
    max_length: Annotated[int, Field(ge=1, le=1 << 20, description="tokens a row may have")] = 512,
    accept: Accept = [],  # noqa: B006  (pydantic copies it)
) -> Launch:
    """Check a training set before anything is paid for, and keep it as an artifact.

    Says at once which line and field is malformed; then, as a job that costs nothing, counts tokens, shows
    how the model's chat template renders rows and whether all of the answers would be learned, and finds
    duplicates, contradictions, rare labels, and rows of the suite: copies, shared runs of words and
    paraphrases (if the catalog has minilm-l6), which fail the job.
    Rows are {"prompt", "completion"}, {"messages"} or {"text"}. `finetune` takes the result's `dataset`.
    Not for files in other shapes: `prepare_data` first.
    """
    file, artifact = dataset_path(ctx, path)
    read = read_dataset(file)
    if len(read) < FEWEST_ROWS:
        raise DataError(file, f"has {len(read)} rows", hint=f"Give at least {FEWEST_ROWS}")
    inputs = {"dataset": file}
    leaks: dict[str, Any] = {}
    looking = 0.0
    if suite:
        found = find_suite(ctx, suite)
        refuse_leaks(ctx, read, found, accept)
        parts, leaks = job_parts(ctx, file, found, accept, EMBEDDER, FALSE_ALARMS)
        inputs |= parts
        looking = seconds_for(len(read), len(found.rows), embedder="embedder" in parts)
    if tokenizer_model:
        inputs["tokenizer"] = _tokenizer(ctx, tokenizer_model)
    seconds = START_S + len(read) / ROWS_PER_S + looking
    return Launch(
        recipe="check_dataset",
        title=f"Check {artifact.name if artifact else file.name} ({len(read)} rows)"
        + (f" against {suite}" if suite else ""),
        spec={
            "max_length": max_length,
            "near": 0.8,
            "name": name or (artifact.name if artifact else file.stem),
            "source": str(file),
            "suite": suite,
            "tokenizer_model": tokenizer_model,
            "format": read.format,
            "parents": [artifact.id] if artifact else [],
            "timing_key": f"{bool(tokenizer_model)}:{bool(suite)}",
            **leaks,
        },
        inputs=inputs,
        quote=Quote(
            seconds=round(seconds, 1),
            ram_bytes=(200 << 20) + 6 * file.stat().st_size,
            disk_bytes=2 * file.stat().st_size,
            basis=f"{len(read)} rows at {ROWS_PER_S:g}/s, and {START_S:g} s to start",
        ),
        timeout_s=max(600.0, 20 * seconds),
    )


def _tokenizer(ctx: Context, name: str) -> Path:
    model = ctx.catalog.get(name)
    folder = ctx.catalog.get(model.base).path if model.kind == "lora" and model.base else model.path
    if folder is None or not (folder / "tokenizer.json").is_file():
        raise InputError(
            f"{name!r} has no tokenizer.json on this machine",
            hint=f"agentd call get_model source={name}, or tokenizer_model='' to count no tokens",
        )
    return folder


@check_dataset.done
def keep(ctx: Context, finished: Finished) -> dict[str, Any]:
    """Register what was checked. The recipe's copy stays, so that doing this twice does the same."""
    spec, result = finished.spec, finished.result
    checked = ctx.artifacts.get(spec["parents"][0]) if spec["parents"] else None
    if "leak_check" in spec:
        keep_check(ctx, spec, result["leak_check"], finished.out / "leaks")
    kept = (
        finished.out
        / "kept"
        / (spec["name"] if checked and checked.path.is_dir() else f"{spec['name']}.jsonl")
    )
    kept.parent.mkdir(exist_ok=True)
    if checked and checked.path.is_dir():
        shutil.copytree(checked.path, kept, dirs_exist_ok=True)
        shutil.copyfile(finished.out / "dataset.jsonl", rows_file(kept))
        (kept / "check.json").write_text(json.dumps(result, ensure_ascii=False, indent=1), encoding="utf-8")
    else:
        shutil.copyfile(finished.out / "dataset.jsonl", kept)
    found = {name: result[name] for name in result if name not in ("histogram", "balance", "template")}
    template = result.get("template", {})
    artifact = ctx.artifacts.add(
        "dataset",
        kept,
        name=spec["name"],
        meta=(checked.meta if checked else {})
        | found
        | {name: spec[name] for name in ("source", "suite", "format", "max_length", "tokenizer_model")}
        | {"template": {k: v for k, v in template.items() if k != "shown"}, "job": finished.job_id},
        parents=[each for each in spec["parents"] if each],
    )
    return {
        "dataset": artifact.id,
        "name": artifact.name,
        "path": str(rows_file(artifact.path)),
        **found,
        "histogram": result["histogram"],
        "balance": result["balance"],
        "template": template,
        "ok": not result["problems"],
    }
