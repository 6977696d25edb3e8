"""Quantization: a smaller copy of a model. What it costs in quality is measured elsewhere."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from agentd.sdk import Context, Finished, InputError, Launch, Model, Quote, tool

from .datasets import dataset_path, read_dataset
from .finetune import CHARACTERS_PER_TOKEN, contents, refuse_taken
from .weights import Shape, adapter_base, local_model, read_shape

# Measured on two 2.5 GHz cores with a 135M model: reading and writing; fitting a scale to each weight;
# a calibration pass (2 FLOP a parameter and token, bfloat16 emulated); GPTQ's inverse Hessians.
START_S, WEIGHTS_PER_S = 20.0, 10e6
CORE_FLOPS = 15e9
GPTQ_FLOPS_PER_S = 10e9
PROCESS_BYTES = 900 << 20
# Bits a weight of the body, scales included; embedding and output layer stay in 16 bits.
BITS = {"int8-w8a8": 8.1, "int8-w8a8-static": 8.1, "fp8-dynamic": 8.1, "int4-w4a16": 4.5}

Scheme = Literal["int8-w8a8", "int8-w8a8-static", "fp8-dynamic", "int4-w4a16"]
Method = Literal["rtn", "gptq"]


@tool(
    title="Quantize a model",
    launches=True,
    trusted=True,
    gives=("model", "artifact", "scheme", "bytes", "bytes_before", "seconds"),
)
async def quantize(
    ctx: Context,
    *,
    model: Annotated[str, Field(description="a local model, or a LoRA adapter (merged into its base first)")],
    scheme: Annotated[
        Scheme,
        Field(
            description="int8-w8a8: 8-bit weights, activation ranges found at run time, the safe choice;"
            " int8-w8a8-static: ranges fixed from the data set; fp8-dynamic: for GPUs with FP8;"
            " int4-w4a16: smallest"
        ),
    ] = "int8-w8a8",
    dataset: Annotated[
        str, Field(description="rows to calibrate on, as the model will be asked; path or name")
    ] = "",
    samples: Annotated[
        int, Field(ge=1, le=4096, description="calibration rows drawn from the data set")
    ] = 128,
    name: Annotated[str, Field(description="catalog name of the result; <model>-<scheme> by default")] = "",
    method: Annotated[
        Method, Field(description="rtn: round to nearest, quick; gptq: corrects errors on the data set, slow")
    ] = "rtn",
    max_length: Annotated[
        int, Field(ge=16, le=1 << 17, description="tokens a calibration row is cut to")
    ] = 512,
    seed: Annotated[int, Field(ge=0, description="of the draw of calibration rows")] = 0,
) -> Launch:
    """Make a smaller copy of a model, in the compressed-tensors format that `serve` loads.

    A data set is needed by int8-w8a8-static and by method gptq. Quality may drop without a sign:
    `evaluate` the result and `compare` it before `promote`. Minutes; asks for approval with a quote.
    Result: model, artifact, scheme, bytes, bytes_before, seconds. Not for adapters kept apart.
    """
    source = ctx.catalog.get(model)
    inputs: dict[str, Path] = {}
    if source.kind == "lora":
        base, inputs["model"] = adapter_base(ctx, source)
        if source.path is None or not source.path.is_dir():
            raise InputError(f"Adapter {model!r} has no folder here", hint="Fine-tune it again")
        inputs["adapter"] = source.path
    else:
        base, inputs["model"] = local_model(ctx, model)
    if base.meta.get("quantization"):
        raise InputError(
            f"Model {model!r} is quantized already ({base.meta['quantization']})",
            hint=f"Quantize {base.meta.get('of') or 'the model it was made from'} instead",
        )
    calibrates = needs_rows(scheme, method)
    row_tokens = 0.0
    parents = [source.meta["artifact"]] if source.meta.get("artifact") else []
    if calibrates:
        row_tokens, file, artifact = calibration_rows(ctx, dataset, scheme, max_length)
        inputs["dataset"] = file
        parents += [artifact] if artifact else []
    name = name or f"{model}-{scheme}" + ("-gptq" if method == "gptq" else "")
    refuse_taken(ctx, name, "local")
    used = samples if calibrates else 0
    quote = quote_of(ctx, read_shape(inputs["model"]), scheme, method, used * row_tokens)
    return Launch(
        recipe="quantize",
        title=f"Quantize {model} to {scheme} ({method}{f', {used} calibration rows' if used else ''})",
        spec={
            "scheme": scheme,
            "method": method,
            "samples": used,
            "max_length": max_length,
            "seed": seed,
            "name": name,
            "of": model,
            "of_digest": source.digest,
            "context": base.context,
            "parents": parents,
            "timing_key": f"{model}:{scheme}:{method}",
        },
        inputs=inputs,
        quote=quote,
        timeout_s=max(1800.0, 6 * quote.seconds),
    )


@quantize.done
def keep(ctx: Context, finished: Finished) -> dict[str, Any]:
    spec, result = finished.spec, finished.result
    meta = {
        "quantization": spec["scheme"],
        "method": spec["method"],
        "samples": result["samples"],
        "of": spec["of"],
        "of_digest": spec["of_digest"],
        "parity_max_abs_diff": result["parity_max_abs_diff"],
    }
    artifact = ctx.artifacts.add(
        "model", finished.out / result["path"], name=spec["name"], meta=meta, parents=spec["parents"]
    )
    ctx.catalog.put(
        Model(
            name=spec["name"],
            kind="local",
            source=f"job:{finished.job_id}",
            path=artifact.path,
            digest=artifact.digest,
            context=spec["context"],
            size_bytes=artifact.size_bytes,
            meta={**meta, "artifact": artifact.id},
        )
    )
    return {
        "model": spec["name"],
        "artifact": artifact.id,
        "scheme": spec["scheme"],
        "bytes": result["bytes"],
        "bytes_before": result["bytes_before"],
        "seconds": result["seconds"],
    }


def needs_rows(scheme: Scheme, method: Method) -> bool:
    """Whether activations are looked at."""
    return scheme == "int8-w8a8-static" or (method == "gptq" and scheme != "fp8-dynamic")


def calibration_rows(ctx: Context, dataset: str, scheme: Scheme, max_length: int) -> tuple[float, Path, str]:
    """Mean tokens of a row (estimated), the file, and the data set's artifact id if it has one."""
    if not dataset:
        raise InputError(
            f"{scheme} looks at activations and no data set is given",
            hint="Name training rows in dataset, or take scheme int8-w8a8 with method rtn",
        )
    file, artifact = dataset_path(ctx, dataset)
    data = read_dataset(file)
    characters = sum(len(part) for example in data.examples for part in contents(example.row))
    tokens = min(characters / len(data) / CHARACTERS_PER_TOKEN + 15, max_length)
    return tokens, file, artifact.id if artifact else ""


def quote_of(ctx: Context, shape: Shape, scheme: Scheme, method: Method, tokens: float) -> Quote:
    """Time: load and save, a scale for every weight, a pass over the calibration tokens, and for GPTQ the
    inverse of each layer's Hessian (about 2 × inputs³). Memory: the model in float32 while an adapter is
    merged, and its copy; for GPTQ the largest Hessian."""
    accelerator = ctx.accelerator != "cpu"
    cores = len(os.sched_getaffinity(0))
    hessians = 2 * shape.layers * (6 * shape.hidden**3 + shape.intermediate**3) if method == "gptq" else 0
    seconds = (
        START_S
        + shape.body / WEIGHTS_PER_S
        + 2 * 2 * tokens * shape.body / (CORE_FLOPS * cores)
        + 4 * hessians / GPTQ_FLOPS_PER_S
    )
    small = int(shape.body * BITS[scheme] / 8 + 2 * shape.vocabulary * shape.hidden)
    weights = 6 * shape.parameters + (4 * shape.intermediate**2 if method == "gptq" else 0)
    return Quote(
        seconds=round(seconds, 1),
        ram_bytes=PROCESS_BYTES + weights,
        vram_bytes=weights if accelerator else 0,
        disk_bytes=small,
        basis=f"{shape.parameters / 1e6:.0f}M parameters and {tokens:.0f} calibration tokens"
        f" on {cores} cores",
    )
