# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#   "datasets==5.2.0",
#   "jinja2>=3.1",
#   "llmcompressor==0.14.0.1",
#   "peft==0.21.2",
#   "torch==2.13.0",
#   "transformers==5.17.0",
# ]
# ///
"""Quantize a causal language model with llmcompressor, into the compressed-tensors format vLLM loads.

    python -P quantize.py spec.json out/

Spec: ``inputs.model`` (folder of safetensors), ``inputs.adapter`` (LoRA, merged first; optional),
``inputs.dataset`` (JSONL training rows to calibrate on; only for schemes and methods that look at
activations), ``scheme``, ``method`` ("rtn" or "gptq"), ``samples``, ``max_length`` (tokens), ``seed``.

    scheme            weights                  activations                   calibration
    int8-w8a8         INT8 a channel           INT8 a token, at run time     gptq only
    int8-w8a8-static  INT8 a channel           INT8, one fixed range a layer always
    fp8-dynamic       FP8 (E4M3) a channel     FP8 a token, at run time      none
    int4-w4a16        INT4 in groups of 32-128 not quantized                 gptq only

Result: ``path`` ("model"), ``scheme``, ``method``, ``samples``, ``bytes``, ``bytes_before``,
``seconds``, ``parity_max_abs_diff`` (merged against unmerged logits, in float32; null without an adapter).

Fixed activation ranges hold only as far as the calibration rows do: with a few rows, or rows unlike
what is asked later, values are clipped and answers change. Nothing here measures that: evaluate the
model before it is promoted. The output layer (``lm_head``) is never quantized.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

SCHEMES = ("int8-w8a8", "int8-w8a8-static", "fp8-dynamic", "int4-w4a16")
PARITY_PROMPTS = ("Hello! How can I help you", "The capital of France is", '{"name": "Ada", "year":')
PARITY_LIMIT = 1e-2
STAGES = ("load", "merge", "calibrate and quantize", "save")
TOKENIZER_FILES = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "*.model",
)


class Stop(Exception):
    """Ends the run with an error event: what happened and what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def emit(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


def stage(name: str) -> None:
    emit("progress", done=STAGES.index(name), total=len(STAGES), unit="stages", message=name)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to quantize and how."""

    model: Path
    adapter: Path | None = None
    dataset: Path | None = None
    scheme: str = "int8-w8a8"
    method: str = "rtn"
    samples: int = 128
    max_length: int = 512
    seed: int = 0

    @classmethod
    def read(cls, path: Path) -> Recipe:
        spec = json.loads(path.read_text())
        known = {f.name for f in fields(cls)}
        paths = {k: Path(v) for k, v in spec["inputs"].items() if k in known}
        recipe = cls(**{**{k: v for k, v in spec.items() if k in known}, **paths})
        if recipe.scheme not in SCHEMES:
            raise Stop(f"There is no scheme {recipe.scheme!r}", f"Use one of {', '.join(SCHEMES)}.")
        if recipe.calibrates and recipe.dataset is None:
            raise Stop(
                f"{recipe.scheme} with {recipe.method} looks at activations and no dataset is given",
                "Give a dataset of training rows, or use method 'rtn' with scheme 'int8-w8a8'.",
            )
        return recipe

    @property
    def calibrates(self) -> bool:
        """Whether activations are looked at, so that calibration rows are needed."""
        return self.scheme == "int8-w8a8-static" or (self.method == "gptq" and self.scheme != "fp8-dynamic")


# --- calibration rows -----------------------------------------------------------------------


def row_text(row: dict[str, Any], tokenizer: Any) -> str:
    """A training row as the model sees it: through the chat template where it holds messages."""
    if "messages" in row:
        return tokenizer.apply_chat_template(row["messages"], tokenize=False)
    if "text" in row:
        return row["text"]
    prompt, completion = row["prompt"], row["completion"]
    if isinstance(prompt, str):
        return prompt + completion
    return tokenizer.apply_chat_template(prompt + completion, tokenize=False)


def calibration(recipe: Recipe, path: Path, tokenizer: Any) -> Any:
    """`samples` rows drawn with `seed`, as a Dataset of ``input_ids`` and ``attention_mask``."""
    from datasets import Dataset

    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
    if not rows:
        raise Stop(f"{path} holds no rows", "Give it at least one JSON object a line.")
    drawn = random.Random(recipe.seed).sample(rows, min(recipe.samples, len(rows)))
    encoded = [
        tokenizer(
            row_text(row, tokenizer), add_special_tokens=False, truncation=True, max_length=recipe.max_length
        )
        for row in drawn
    ]
    return Dataset.from_list([{k: e[k] for k in ("input_ids", "attention_mask")} for e in encoded])


# --- model ----------------------------------------------------------------------------------


def prompt_logits(model: Any, tokenizer: Any) -> list[Any]:
    """Logits after each of `PARITY_PROMPTS`, one ``(vocabulary,)`` float32 tensor a prompt."""
    import torch

    model.eval()
    with torch.inference_mode():
        return [model(**tokenizer(p, return_tensors="pt")).logits[0, -1].float() for p in PARITY_PROMPTS]


def load(recipe: Recipe, tokenizer: Any) -> tuple[Any, float | None]:
    """The model in its stored precision, the adapter merged in float32, and the merge's parity."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    stage("load")
    model = AutoModelForCausalLM.from_pretrained(
        recipe.model,
        dtype=torch.float32 if recipe.adapter else "auto",
        use_safetensors=True,
        trust_remote_code=False,
        local_files_only=True,
    )
    if recipe.adapter is None:
        return model, None
    stage("merge")
    adapted = PeftModel.from_pretrained(model, recipe.adapter)
    before = prompt_logits(adapted, tokenizer)
    merged = adapted.merge_and_unload()
    after = prompt_logits(merged, tokenizer)
    difference = max(float((a - b).abs().max()) for a, b in zip(before, after, strict=True))
    if not difference <= PARITY_LIMIT:
        raise Stop(
            f"Merging the adapter changed the logits by up to {difference:.3g} (allowed: {PARITY_LIMIT})",
            "Check that the adapter was trained on this base model.",
        )
    return merged.to(stored_dtype(recipe.model)), difference


def stored_dtype(folder: Path) -> Any:
    import torch

    config = json.loads((folder / "config.json").read_text())
    return getattr(torch, config.get("dtype") or config.get("torch_dtype") or "bfloat16")


def group_size(config: Any) -> int:
    """The largest of 128, 64 and 32 that divides every quantized layer's input width."""
    widths = (config.hidden_size, config.intermediate_size)
    for size in (128, 64, 32):
        if all(width % size == 0 for width in widths):
            return size
    raise Stop(f"Widths {widths} are no multiples of 32", "Use scheme 'int8-w8a8' for this model.")


def modifier(recipe: Recipe, config: Any) -> Any:
    """llmcompressor's description of the scheme."""
    from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier

    kind = (
        GPTQModifier if recipe.method == "gptq" and recipe.scheme != "fp8-dynamic" else QuantizationModifier
    )
    presets = {"int8-w8a8": "W8A8", "fp8-dynamic": "FP8_DYNAMIC"}
    if preset := presets.get(recipe.scheme):
        return kind(targets="Linear", scheme=preset, ignore=["lm_head"])
    if recipe.scheme == "int4-w4a16":
        weights = QuantizationArgs(
            num_bits=4, strategy="group", group_size=group_size(config), symmetric=True
        )
        activations = None
    else:
        weights = QuantizationArgs(num_bits=8, strategy="channel", symmetric=True)
        activations = QuantizationArgs(
            num_bits=8, strategy="tensor", symmetric=True, dynamic=False, observer="minmax"
        )
    group = QuantizationScheme(targets=["Linear"], weights=weights, input_activations=activations)
    return kind(config_groups={"group_0": group}, ignore=["lm_head"])


def weight_bytes(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.glob("*.safetensors"))


def run(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Merge, quantize, save; returns the result. Raises `Stop` for whatever can be foreseen."""
    started = time.monotonic()
    from llmcompressor import oneshot
    from transformers import AutoTokenizer, set_seed

    set_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(recipe.model, local_files_only=True)
    model, difference = load(recipe, tokenizer)
    rows = calibration(recipe, recipe.dataset, tokenizer) if recipe.calibrates and recipe.dataset else None
    stage("calibrate and quantize")
    oneshot(
        model=model,
        tokenizer=tokenizer,
        recipe=modifier(recipe, model.config),
        dataset=rows,
        num_calibration_samples=len(rows) if rows else 512,
        max_seq_length=recipe.max_length,
        shuffle_calibration_samples=False,
    )
    stage("save")
    folder = out / "model"
    model.save_pretrained(folder, save_compressed=True)
    for pattern in TOKENIZER_FILES:
        for path in recipe.model.glob(pattern):
            shutil.copyfile(path, folder / path.name)
    return {
        "path": folder.name,
        "scheme": recipe.scheme,
        "method": recipe.method,
        "samples": len(rows) if rows else 0,
        "bytes": weight_bytes(folder),
        "bytes_before": weight_bytes(recipe.model),
        "seconds": time.monotonic() - started,
        "parity_max_abs_diff": difference,
    }


def main() -> int:
    spec, out = Path(sys.argv[1]), Path(sys.argv[2])
    # Read when torch is imported: threads that sleep at barriers lose less on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        result = run(Recipe.read(spec), out)
    except Stop as stop:
        emit("error", message=str(stop), hint=stop.hint)
        return 2
    partial = out / "result.json.tmp"
    partial.write_text(json.dumps(result, indent=2))
    partial.replace(out / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
