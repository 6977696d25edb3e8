# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#   "accelerate==1.15.0",
#   "jinja2>=3.1",
#   "lm-eval[hf]==0.4.13",
#   "peft==0.21.2",
#   "torch==2.13.0",
#   "transformers==5.19.0",
# ]
# ///
"""Score a model with EleutherAI's lm-evaluation-harness.

    python -P evaluate_harness.py spec.json out/

Spec: ``inputs.model`` (folder), ``inputs.adapter`` (LoRA, optional), ``inputs.tasks`` (folder of task
YAML files; relative ``data_files`` in them are found there; optional), ``inputs.data-TASK`` (data of a
published task, in place of the hub's: a folder of train, validation and test .jsonl, or one file for the
split that is scored; optional), ``tasks`` (names), ``limit`` (rows a task, 0 for all), ``num_fewshot``
(null: the task's own), ``apply_chat_template``, ``seed``, ``batch_size``.

Result: ``results`` {task: {``metric``, ``value``, ``stderr`` (or null), ``n``, ``num_fewshot``,
``metrics`` {name: value}, ``rows`` (JSONL: id, input, expected, output, score)}}, ``n``, ``versions``,
``chat_template_sha256``, ``seconds``. The main metric is the first the task lists. A score that is
not a number ends the run with an error: it is never counted as 0.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any


class Stop(Exception):
    """Ends the run with an error event: what happened and what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def emit(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to score on what."""

    model: Path
    tasks: list[str]
    adapter: Path | None = None
    folder: Path | None = None
    data: dict[str, Path] = field(default_factory=dict)
    limit: int = 0
    num_fewshot: int | None = None
    apply_chat_template: bool = True
    seed: int = 0
    batch_size: int = 8

    @classmethod
    def read(cls, path: Path) -> Recipe:
        spec = json.loads(path.read_text())
        known = {f.name for f in fields(cls)} - {"model", "adapter", "folder", "data"}
        inputs = {k: Path(v) for k, v in spec["inputs"].items()}
        given = {k: v for k, v in spec.items() if k in known}
        data = {k.removeprefix("data-"): path for k, path in inputs.items() if k.startswith("data-")}
        own = {"adapter": inputs.get("adapter"), "folder": inputs.get("tasks")}
        return cls(**given, **own, model=inputs["model"], data=data)

    @property
    def model_args(self) -> dict[str, Any]:
        adapter = {"peft": str(self.adapter)} if self.adapter else {}
        return {"pretrained": str(self.model), "trust_remote_code": False, "use_safetensors": True, **adapter}


def task_manager(recipe: Recipe) -> Any:
    """The harness's index of tasks. Raises `Stop` naming tasks it does not have."""
    from lm_eval.tasks import TaskManager

    manager = TaskManager(include_path=str(recipe.folder) if recipe.folder else None)
    unknown = [task for task in recipe.tasks if task not in manager.all_tasks]
    if unknown:
        raise Stop(
            f"The harness has no task {', '.join(unknown)}",
            "Check the name, or give the task's YAML by include_path.",
        )
    return manager


def with_data(recipe: Recipe, manager: Any) -> list[Any]:
    """The tasks by name; those with data of their own built from the published ones, groups included."""
    return [own_data(manager, task, recipe) if task in recipe.data else task for task in recipe.tasks]


def own_data(manager: Any, task: str, recipe: Recipe) -> Any:
    path = recipe.data[task]
    if path.is_dir():
        files = {file.stem: str(file) for file in sorted(path.glob("*.jsonl"))}
    else:
        splits = splits_of(manager, task)
        files = dict.fromkeys(splits, str(path))
        if len(splits) > 1 and recipe.num_fewshot != 0:
            raise Stop(
                f"Task {task!r} takes examples from its split {splits[1]!r}, and {path.name} is one file",
                "Give a folder with a .jsonl file a split, or num_fewshot=0.",
            )
    data = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
    index = manager.task_index
    return manager._factory.build(index[task], overrides=data, registry=index)


def splits_of(manager: Any, task: str) -> list[str]:
    """The splits that a task reads: the one that is scored, then that of its examples."""
    built = manager.task_index[task]
    while task in manager.all_groups:
        task = manager._factory._load_full_config(built, None)["task"][0]
        built = manager.task_index[task]
    config = manager._factory._load_full_config(built, None)
    scored = config.get("test_split") or config.get("validation_split") or config.get("training_split")
    others = (config.get(f"{kind}_split") for kind in ("fewshot", "training", "validation"))
    return list(dict.fromkeys(split for split in (scored, *others) if split))


def main_metric(figures: dict[str, Any], config: dict[str, Any]) -> str:
    """Key ``metric,filter`` of the first metric the task lists. Raises KeyError if there is none."""
    keys = [key for key in figures if "," in key and "_stderr" not in key]
    for listed in config.get("metric_list") or []:
        for key in keys:
            if key.partition(",")[0] == listed["metric"]:
                return key
    return keys[0]


def leaves(task: str, raw: dict[str, Any]) -> list[str]:
    """The tasks under a group such as mmlu, or the task itself."""
    below = raw.get("group_subtasks", {}).get(task) or []
    return [leaf for child in below for leaf in leaves(child, raw)] or [task]


def summary(task: str, raw: dict[str, Any]) -> dict[str, Any]:
    """One task's figures. Raises `Stop` for a score that is not a finite number."""
    figures, config = raw["results"][task], raw["configs"].get(task, {})
    metrics = {k: v for k, v in figures.items() if "," in k and "_stderr" not in k}
    bad = [k for k, v in metrics.items() if not isinstance(v, (int, float)) or not math.isfinite(v)]
    if bad or not metrics:
        raise Stop(
            f"Task {task!r} gave no number for {', '.join(bad) or 'any metric'}",
            "Look at its rows and its filter: usually no answer could be extracted. It is not counted as 0.",
        )
    key = main_metric(figures, config)
    name, _, kind = key.partition(",")
    error = figures.get(f"{name}_stderr,{kind}")
    return {
        "metric": name,
        "value": metrics[key],
        "stderr": error if isinstance(error, (int, float)) and math.isfinite(error) else None,
        "n": sum(raw["n-samples"][leaf]["effective"] for leaf in leaves(task, raw)),
        "num_fewshot": raw["n-shot"].get(task),
        "metrics": metrics,
    }


def write_rows(path: Path, samples: list[dict[str, Any]], metric: str) -> None:
    """What was asked and answered, one JSON object a row."""
    with path.open("w", encoding="utf-8") as stream:
        for sample in samples:
            output = sample["filtered_resps"][0] if sample["filtered_resps"] else None
            row = {
                "id": str(sample["doc_id"]),
                "input": str(sample["arguments"][0][0]),
                "expected": sample["target"],
                "output": output if isinstance(output, str) else json.dumps(output, default=str),
                "score": sample.get(metric),
            }
            stream.write(json.dumps(row, default=str) + "\n")


def run(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Evaluate all tasks; returns the result. Raises `Stop` for whatever can be foreseen."""
    started = time.monotonic()
    emit("progress", done=0, total=len(recipe.tasks), unit="tasks", message="loading")
    if recipe.folder:
        os.chdir(recipe.folder)
    import lm_eval
    import torch
    import transformers

    manager = task_manager(recipe)
    try:
        raw = lm_eval.simple_evaluate(
            model="hf",
            model_args=recipe.model_args,
            device="cuda" if torch.cuda.is_available() else "cpu",
            tasks=with_data(recipe, manager),
            task_manager=manager,
            limit=recipe.limit or None,
            num_fewshot=recipe.num_fewshot,
            apply_chat_template=recipe.apply_chat_template,
            batch_size=recipe.batch_size,
            random_seed=recipe.seed,
            numpy_random_seed=recipe.seed,
            torch_random_seed=recipe.seed,
            fewshot_random_seed=recipe.seed,
            log_samples=True,
            bootstrap_iters=1000,
        )
    except (ConnectionError, FileNotFoundError) as error:
        raise Stop(
            f"A task's data are not to be had: {error}", "Go online, or give data that lie on this machine."
        ) from error
    results = {task: summary(task, raw) for task in recipe.tasks}
    for task, figures in results.items():
        figures["rows"] = f"{task}.jsonl"
        samples = [sample for leaf in leaves(task, raw) for sample in raw["samples"].get(leaf, [])]
        write_rows(out / figures["rows"], samples, figures["metric"])
    template = next(
        (p.read_text() for p in (recipe.model / "chat_template.jinja",) if p.is_file()), ""
    ) if recipe.apply_chat_template else ""  # fmt: skip
    return {
        "results": results,
        "n": sum(figures["n"] for figures in results.values()),
        "versions": {
            "lm_eval": lm_eval.__version__,
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "tasks": {task: raw["versions"].get(task) for task in recipe.tasks},
        },
        "chat_template_sha256": hashlib.sha256(template.encode()).hexdigest() if template else "",
        "seconds": time.monotonic() - started,
    }


def main() -> int:
    spec, out = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        result = run(Recipe.read(spec), out)
    except Stop as stop:
        emit("error", message=str(stop), hint=stop.hint)
        return 2
    partial = out / "result.json.tmp"
    partial.write_text(json.dumps(result, indent=2, default=str))
    partial.replace(out / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
