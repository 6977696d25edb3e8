"""EleutherAI's lm-evaluation-harness on a local model: the field's tasks, next to suites of one's own."""

from __future__ import annotations

import hashlib
import json
import os
import re
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field

from agentd.sdk import Context, DataError, Finished, InputError, Launch, Quote, Report, tool

from .datasets import read_rows
from .weights import Shape, adapter_base, local_model, read_shape

START_S = 30.0  # imports, loading, the task's data
TOKENS_PER_ROW = 400.0  # a guess: tasks differ from tens to thousands
GUESSED_ROWS = 500
CORE_FLOPS = 30e9
GPU_FLOPS = 100e12
Z95 = 1.959964
UNSAFE = ("humaneval", "humaneval_instruct", "humaneval_plus", "mbpp", "mbpp_instruct", "mbpp_plus")
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE")


@tool(
    title="Run lm-evaluation-harness",
    launches=True,
    open_world=True,
    trusted=True,
    gives=("model", "scores", "reports", "n", "seconds"),
)
async def evaluate_harness(
    ctx: Context,
    *,
    model: Annotated[str, Field(description="a local model or a LoRA adapter")],
    tasks: Annotated[
        list[str],
        Field(min_length=1, description="names of the harness's tasks, such as arc_easy, or of your own"),
    ],
    include_path: Annotated[
        str, Field(description="folder with task YAML files and their data; no hub is needed for these")
    ] = "",
    data: Annotated[
        dict[str, str],
        Field(description="published task: its data here, a .jsonl file or a folder of one a split"),
    ] = {},  # noqa: B006 - pydantic copies it
    limit: Annotated[int, Field(ge=0, description="rows a task; 0: all")] = 0,
    num_fewshot: Annotated[
        int | None, Field(ge=0, le=64, description="examples in the prompt; by default the task's own")
    ] = None,
    chat_template: Annotated[bool, Field(description="ask through the model's chat template")] = True,
    seed: Annotated[int, Field(ge=0, description="of the examples that are drawn")] = 0,
) -> Launch:
    """Score a model with the harness's published tasks or with task files of your own.

    Runs the model itself, without a server; keeps a report a task. Tasks whose data lie on the hub
    need network, or `data`. Not for your own rows or a served model: use `evaluate`.
    Result: model, scores {task: score}, reports {task: id}, n, seconds.
    """
    source = ctx.catalog.get(model)
    inputs: dict[str, Path] = {}
    if source.kind == "lora":
        _, inputs["model"] = adapter_base(ctx, source)
        if source.path is None:
            raise InputError(f"Adapter {model!r} has no folder here", hint="Fine-tune it again")
        inputs["adapter"] = source.path
    else:
        _, inputs["model"] = local_model(ctx, model)
    local = local_tasks(ctx.path(include_path)) if include_path else {}
    if include_path:
        inputs["tasks"] = ctx.path(include_path)
    own = {task: ctx.path(path) for task, path in data.items()}
    check_data(tasks, own)
    inputs |= {f"data-{task}": path for task, path in own.items()}
    refuse_offline(tasks, local | dict.fromkeys(own, ""))
    rows = len(tasks) * (limit or GUESSED_ROWS)
    quote = quote_of(ctx, read_shape(inputs["model"]), rows)
    return Launch(
        recipe="evaluate_harness",
        title=f"Evaluate {model} on {', '.join(tasks)}" + (f", {limit} rows each" if limit else ""),
        spec={
            "tasks": tasks,
            "limit": limit,
            "num_fewshot": num_fewshot,
            "apply_chat_template": chat_template,
            "seed": seed,
            "batch_size": 8,
            "model_name": model,
            "digests": {
                task: digest_of(own[task]) if task in own else local.get(task, f"harness:{task}")
                for task in tasks
            },
            "timing_key": f"{model}:{','.join(sorted(tasks))}:{limit}:{num_fewshot}",
        },
        inputs=inputs,
        quote=quote,
        timeout_s=max(1800.0, 6 * quote.seconds),
    )


@evaluate_harness.done
def keep(ctx: Context, finished: Finished) -> dict[str, Any]:
    spec, result = finished.spec, finished.result
    reports = {
        task: ctx.reports.save(report_of(finished, task, figures))
        for task, figures in result["results"].items()
    }
    return {
        "model": spec["model_name"],
        "scores": {task: report.score for task, report in reports.items()},
        "reports": {task: report.id for task, report in reports.items()},
        "n": result["n"],
        "seconds": result["seconds"],
    }


def report_of(finished: Finished, task: str, figures: dict[str, Any]) -> Report:
    """A task's main metric, with a normal 95 % interval from the harness's standard error."""
    spec, result = finished.spec, finished.result
    score, error = figures["value"], figures["stderr"]
    half = Z95 * error if error is not None else 0.0
    return Report(
        id=f"report-{finished.job_id.removeprefix('job-')}-{re.sub(r'[^A-Za-z0-9]+', '-', task)}",
        suite=f"lm-eval:{task}",
        suite_digest=hashlib.sha256(
            f"{spec['digests'].get(task, task)}:{spec['limit']}:{figures['num_fewshot']}".encode()
        ).hexdigest(),
        model=spec["model_name"],
        metric=figures["metric"],
        score=score,
        low=max(0.0, score - half) if 0 <= score <= 1 else score - half,
        high=min(1.0, score + half) if 0 <= score <= 1 else score + half,
        n=figures["n"],
        rows=finished.out / figures["rows"],
        meta={
            "versions": result["versions"],
            "num_fewshot": figures["num_fewshot"],
            "chat_template_sha256": result["chat_template_sha256"],
            "metrics": figures["metrics"],
            "seed": spec["seed"],
        },
    )


# --- checks ---------------------------------------------------------------------------------


class _TaskLoader(yaml.SafeLoader):
    """The harness's YAML: ``!function`` names code, which is refused in `local_tasks`."""


_TaskLoader.add_constructor("!function", lambda loader, node: {"!function": node.value})


def local_tasks(folder: Path) -> dict[str, str]:
    """Task names in `folder` with a digest of all its files. Raises `DataError` for code and bad YAML.

    Refused is ``!function``, which would import Python from beside the file. Jinja templates in
    prompts remain: the harness renders them in its own, unsandboxed environment.
    """
    if not folder.is_dir():
        raise DataError(folder, "is not a folder", hint="Name the folder that holds the task YAML files")
    digest = hashlib.sha256()
    for file in sorted(p for p in folder.rglob("*") if p.is_file()):
        digest.update(f"{file.relative_to(folder)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    found: dict[str, str] = {}
    for file in sorted([*folder.rglob("*.yaml"), *folder.rglob("*.yml")]):
        try:
            task = yaml.load(file.read_text(encoding="utf-8"), Loader=_TaskLoader)  # a SafeLoader
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise DataError(file, f"is not a task: {error}", hint="See the harness's task guide") from error
        if "!function" in json.dumps(task, default=str):
            raise DataError(
                file, "runs Python code", field="!function", hint="Write the task with templates only"
            )
        if isinstance(task, dict) and isinstance(task.get("task"), str):
            found[task["task"]] = digest.hexdigest()
    return found


def check_data(tasks: list[str], data: dict[str, Path]) -> None:
    """Raise `InputError` for tasks that run code and data that no task reads, `DataError` for no data."""
    if unsafe := [task for task in tasks if task in UNSAFE]:
        raise InputError(
            f"The harness runs what a model writes for {unsafe[0]!r} without a sandbox",
            hint="Make a suite of it: the metric pass_at_k runs code in a sandbox (docs/evaluation.md)",
        )
    for task, path in data.items():
        if task not in tasks:
            raise InputError(f"There are data for {task!r}, which is none of the tasks", hint="Name it there")
        files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
        if not files:
            raise DataError(path, "holds no .jsonl file", hint="Name them train, validation, test .jsonl")
        for file in files:
            next(read_rows(file))


def digest_of(path: Path) -> str:
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(hashlib.sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def refuse_offline(tasks: list[str], local: dict[str, str]) -> None:
    remote = [task for task in tasks if task not in local]
    if remote and any(os.environ.get(name, "") not in ("", "0") for name in OFFLINE):
        raise InputError(
            f"Tasks {', '.join(remote)} fetch their data from the hub, and this daemon is offline",
            hint="Give include_path with task files whose data lie on this machine"
            + (f" (it has {', '.join(sorted(local))})" if local else ""),
        )


def quote_of(ctx: Context, shape: Shape, rows: int) -> Quote:
    """Two FLOP a parameter and token, at a guessed length of row."""
    accelerator = ctx.accelerator != "cpu"
    speed = GPU_FLOPS if accelerator else CORE_FLOPS * len(os.sched_getaffinity(0))
    seconds = START_S + 2 * shape.parameters * rows * TOKENS_PER_ROW / speed
    memory = (900 << 20) + 5 * shape.parameters
    return Quote(
        seconds=round(seconds, 1),
        ram_bytes=memory,
        vram_bytes=memory if accelerator else 0,
        disk_bytes=64 << 20,
        basis=f"{rows} rows at a guess of {TOKENS_PER_ROW:.0f} tokens",
    )
