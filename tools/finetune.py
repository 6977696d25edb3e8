"""Fine-tuning: check everything that can be checked, say what it will take, then launch."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from agentd.sdk import (
    Artifact,
    Conflict,
    Context,
    DataError,
    Finished,
    InputError,
    Launch,
    Model,
    Quote,
    tool,
)

from .datasets import Dataset, dataset_path, read_dataset
from .leaks import Accept, refuse_leaks
from .suites import find_suite
from .weights import Shape, chat_template_digest, local_model, read_shape

FEWEST_ROWS = 8
LEARNING_RATE = {"lora": 1e-3, "full": 2e-5}

# Measured on 2.5 GHz cores with AVX-512 and no AMX, float32: what a core sustains over a training step.
CORE_FLOPS = 35e9
# A guess for one data-centre GPU in bfloat16, a third of its peak; past jobs correct it.
GPU_FLOPS = 100e12
START_S = 40.0  # imports, loading, the probe, saving, and reading back for the parity check
CHARACTERS_PER_TOKEN = 3.7
TEMPLATE_TOKENS = 5  # that a chat template puts around a message
PROCESS_BYTES = 900 << 20  # interpreter, torch and the data set library

Method = Literal["lora", "full"]


@dataclass(frozen=True, slots=True)
class Work:
    """What a run has to compute. Token counts are estimates from characters."""

    rows: int
    steps: int
    batch_size: int
    row_tokens: float
    """Mean tokens of a row."""
    shared_tokens: float
    """Of these, how many all rows begin with: on a CPU computed once a batch."""
    answer_tokens: float

    def batch_tokens(self, accelerator: str) -> float:
        shared = self.shared_tokens if accelerator == "cpu" else 0.0
        return shared + self.batch_size * (self.row_tokens - shared)


@tool(
    title="Fine-tune a model",
    launches=True,
    trusted=True,
    gives=("model", "adapter", "base", "loss", "steps", "seconds", "tokens_per_s", "size_bytes"),
)
async def finetune(
    ctx: Context,
    *,
    model: Annotated[str, Field(description="catalog name of a local model, the base")],
    dataset: Annotated[str, Field(description="JSONL of training rows: path, or name of a checked data set")],
    method: Annotated[
        Method,
        Field(description="lora: a small adapter, served with its base; full: all weights, 8× the memory"),
    ] = "lora",
    name: Annotated[
        str, Field(description="catalog name of the result; made from base and data by default")
    ] = "",
    suite: Annotated[
        str, Field(description="suite that will judge it: training rows found in it are refused")
    ] = "",
    epochs: Annotated[float, Field(gt=0, le=100, description="times every row is seen")] = 2.0,
    learning_rate: Annotated[
        float, Field(ge=0, le=1, description="peak; 0 takes 1e-3 for lora, 2e-5 for full")
    ] = 0.0,
    rank: Annotated[int, Field(ge=1, le=64, description="LoRA rank; alpha is twice that")] = 16,
    batch_size: Annotated[int, Field(ge=1, le=1024, description="rows a step")] = 8,
    max_steps: Annotated[int, Field(ge=0, description="stop after so many steps; 0: after the epochs")] = 0,
    max_length: Annotated[
        int, Field(ge=16, le=1 << 17, description="tokens; longer rows are left out")
    ] = 512,
    seed: Annotated[int, Field(ge=0, description="of row order and initial weights")] = 0,
    accept: Accept = [],  # noqa: B006  (pydantic copies it)
) -> Launch:
    """Train a model on rows of {"prompt", "completion"}, {"messages"} or {"text"}; loss on the answers only.

    Needs a local model (`get_model`) and at least 8 rows (`check_dataset` first). Asks for
    approval with a quote. Result: model, adapter, base, loss, steps, seconds, size_bytes.
    Not for making a model smaller (`quantize`), nor where a few examples in the prompt would do.
    """
    base, folder = local_model(ctx, model)
    if base.kind != "local":
        raise InputError(
            f"Model {model!r} is {base.kind!r}", hint="Fine-tune its base; adapters are not stacked"
        )
    if base.meta.get("quantization"):
        raise InputError(
            f"Model {model!r} is quantized ({base.meta['quantization']})",
            hint=f"Fine-tune {base.meta.get('of') or 'the model it was made from'} and quantize the result",
        )
    file, artifact = dataset_path(ctx, dataset)
    data = read_dataset(file)
    if len(data) < FEWEST_ROWS:
        raise DataError(file, f"has {len(data)} rows", hint=f"Give at least {FEWEST_ROWS}")
    if artifact:
        refuse_other_template(artifact, model, folder)
    leaks = refuse_leaks(ctx, data, find_suite(ctx, suite), accept) if suite else {}
    name = name or default_name(model, artifact.name if artifact else file.stem, method)
    refuse_taken(ctx, name, "lora" if method == "lora" else "local")
    work = measure(data, epochs, batch_size, max_steps)
    called = artifact.name if artifact else file.name
    quote = quote_of(ctx, read_shape(folder), work, method, rank)
    if leaks and not leaks["paraphrases"]:
        unknown = f"; whether rows paraphrase {suite} was not checked (check_dataset suite={suite} does)"
        quote = quote.model_copy(update={"basis": quote.basis + unknown})
    return Launch(
        recipe="finetune",
        title=f"Fine-tune {model} on {called}: {method}, {len(data)} rows, {work.steps} steps",
        spec={
            "method": method,
            "epochs": epochs,
            "max_steps": max_steps if 0 < max_steps == work.steps else 0,
            "batch_size": batch_size,
            "gradient_accumulation": 1,
            "learning_rate": learning_rate or LEARNING_RATE[method],
            "scheduler": "cosine",
            "warmup_ratio": 0.05,
            "rank": rank,
            "alpha": 2 * rank,
            "dropout": 0.0,
            "target": "all-linear",
            "max_length": max_length,
            "seed": seed,
            "precision": "auto",
            "name": name,
            "base": model,
            "base_digest": base.digest,
            "context": base.context,
            "dataset": artifact.id if artifact else str(file),
            "parents": [p for p in (artifact.id if artifact else "", base.meta.get("artifact", "")) if p],
            "suite": suite,
            "leaks": leaks,
            "timing_key": f"{model}:{method}",
        },
        inputs={"model": folder, "dataset": file},
        quote=quote,
        timeout_s=max(1800.0, 6 * quote.seconds),
    )


@finetune.done
def keep(ctx: Context, finished: Finished) -> dict[str, Any]:
    spec, result = finished.spec, finished.result
    lora = spec["method"] == "lora"
    meta = {
        "base_digest": spec["base_digest"],
        "dataset": spec["dataset"],
        "leaks": spec["leaks"],
        "rank": spec["rank"] if lora else 0,
        "loss": result["final_loss"],
        "steps": result["steps"],
        "learning_rate": spec["learning_rate"],
        "seed": spec["seed"],
        "chat_template_sha256": result["chat_template_sha256"],
        "parity_max_abs_diff": result["parity_max_abs_diff"],
    }
    artifact = ctx.artifacts.add(
        "adapter" if lora else "model",
        finished.out / result["path"],
        name=spec["name"],
        meta={**meta, "base": spec["base"]},
        parents=spec["parents"],
    )
    ctx.catalog.put(
        Model(
            name=spec["name"],
            kind="lora" if lora else "local",
            source=f"job:{finished.job_id}",
            path=artifact.path,
            digest=artifact.digest,
            base=spec["base"] if lora else "",
            context=spec["context"],
            size_bytes=result["size_bytes"],
            meta={**meta, "artifact": artifact.id},
        )
    )
    return {
        "model": spec["name"],
        "adapter": artifact.id,
        "base": spec["base"],
        "loss": result["final_loss"],
        "steps": result["steps"],
        "seconds": result["seconds"],
        "tokens_per_s": result["tokens_per_s"],
        "size_bytes": result["size_bytes"],
    }


# --- checks ---------------------------------------------------------------------------------


def refuse_other_template(artifact: Artifact, model: str, folder: Path) -> None:
    """Raise `InputError` if the set was checked with another chat template than the model has."""
    checked = artifact.meta.get("template", {}).get("sha256")
    if checked and checked != chat_template_digest(folder):
        raise InputError(
            f"{artifact.name!r} was checked with the chat template of {artifact.meta['tokenizer_model']!r},"
            f" and that of {model!r} is another: what it would learn was not looked at",
            hint=f"agentd call check_dataset path={artifact.name} tokenizer_model={model}",
        )


def refuse_taken(ctx: Context, name: str, kind: str) -> None:
    """Raise `Conflict` if `name` is something else than an earlier result of this kind."""
    there = next((m for m in ctx.catalog.list() if m.name == name), None)
    if there and (there.kind != kind or not there.source.startswith("job:")):
        raise Conflict(
            f"Model {name!r} is there already, from {there.source or 'elsewhere'}", hint="Choose another name"
        )


def default_name(model: str, data: str, method: Method) -> str:
    stem = re.sub(r"[^A-Za-z0-9.]+", "-", data).strip("-.").lower() or "data"
    return f"{model}-{stem}-{'lora' if method == 'lora' else 'tuned'}"


# --- what it will take ----------------------------------------------------------------------


def measure(data: Dataset, epochs: float, batch_size: int, max_steps: int) -> Work:
    """Steps exactly as the trainer counts them; tokens from characters."""
    texts = [contents(example.row) for example in data.examples]
    characters = sum(len(part) for parts in texts for part in parts)
    messages = sum(len(parts) for parts in texts)
    rows = len(texts)
    shared = common_prefix(["\n".join(parts) for parts in texts])
    answers = sum(len(example.answer) for example in data.examples) / rows
    steps = math.ceil(epochs * math.ceil(rows / batch_size))
    row_tokens = characters / rows / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS * messages / rows
    return Work(
        rows=rows,
        steps=min(steps, max_steps) if max_steps else steps,
        batch_size=min(batch_size, rows),
        row_tokens=row_tokens,
        shared_tokens=len(shared) / CHARACTERS_PER_TOKEN + (TEMPLATE_TOKENS if "\n" in shared else 0),
        answer_tokens=answers / CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS,
    )


def common_prefix(texts: list[str]) -> str:
    """What all `texts` begin with: as far as the first and the last in order agree."""
    low, high = min(texts), max(texts)
    return low[: next((i for i, (a, b) in enumerate(zip(low, high, strict=False)) if a != b), len(low))]


def contents(row: dict[str, Any]) -> list[str]:
    """The texts of a row in order, one a message."""
    found: list[str] = []
    for field in ("prompt", "messages", "text", "completion"):
        value = row.get(field)
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, list):
            found += [message["content"] for message in value]
    return found


def quote_of(ctx: Context, shape: Shape, work: Work, method: Method, rank: int) -> Quote:
    """Time, memory and disk of a run.

    Time: a token costs 2 FLOP a parameter forward and as many backward through the activations;
    `full` adds as many again for the weights' gradients. The output layer works on answers only.
    Memory: weights (4 bytes a parameter on a CPU, 2 on an accelerator for `lora`; 16 for `full`:
    weight, gradient, two Adam moments), 16 bytes a trainable parameter, activations of a batch
    (16 × hidden + 6 × intermediate values a token and layer; hidden alone with checkpointing, as on
    accelerators) and three copies of the answers' logits.
    """
    accelerator = ctx.accelerator != "cpu"
    trainable = shape.parameters if method == "full" else shape.lora_parameters(rank)
    tokens = work.batch_tokens(ctx.accelerator)
    answers = work.batch_size * work.answer_tokens
    flops = (6 if method == "full" else 4) * (tokens * shape.body + answers * shape.vocabulary * shape.hidden)
    speed = GPU_FLOPS if accelerator else CORE_FLOPS * len(os.sched_getaffinity(0))
    seconds = START_S + work.steps * flops / speed
    width = 2 if accelerator else 4
    states = 16 * trainable + (0 if method == "full" else width * shape.parameters)
    per_token = shape.hidden if accelerator else 16 * shape.hidden + 6 * shape.intermediate
    activations = width * 1.4 * tokens * per_token * shape.layers + 12 * answers * shape.vocabulary
    training = int(states + activations)
    saved = 4 * trainable if method == "lora" else shape.size_bytes
    return Quote(
        seconds=round(seconds, 1),
        ram_bytes=PROCESS_BYTES + (4 * shape.parameters if accelerator else training),
        vram_bytes=training if accelerator else 0,
        disk_bytes=saved + 12 * trainable,
        basis=f"{work.steps} steps of about {tokens:.0f} tokens × {shape.body / 1e6:.0f}M parameters"
        f" at {speed / 1e9:.0f} GFLOP/s, and {START_S:.0f} s to load and check",
    )
