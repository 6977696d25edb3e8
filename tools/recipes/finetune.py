# /// script
# requires-python = ">=3.11,<3.14"
# dependencies = [
#   "accelerate==1.15.0",
#   "datasets==5.2.0",
#   "jinja2>=3.1",
#   "peft==0.21.2",
#   "torch==2.13.0",
#   "transformers==5.19.0",
#   "trl==1.16.0",
# ]
# ///
"""Fine-tune a causal language model with trl's SFTTrainer: a LoRA adapter, or all its weights.

    python -P finetune.py spec.json out/

Spec: ``inputs.model`` (folder of safetensors), ``inputs.dataset`` (JSONL; rows with ``prompt`` and
``completion`` as strings or message lists, or ``messages``, or ``text``), and optionally ``method``
("lora" or "full"), ``epochs``, ``max_steps``, ``batch_size``, ``gradient_accumulation``,
``learning_rate``, ``scheduler``, ``warmup_ratio``, ``rank``, ``alpha``, ``dropout``, ``target``,
``max_length`` (tokens), ``seed``, ``precision`` ("auto", "float32" or "bfloat16"),
``checkpoint_seconds``, ``base`` and ``base_digest`` (recorded with the adapter). `Recipe` has the defaults.

Result: ``path`` ("adapter" or "model"), ``steps``, ``seconds``, ``train_loss`` (mean over all steps),
``final_loss`` (mean of the last tenth), ``tokens``, ``tokens_per_s``, ``rows``, ``too_long``,
``peak_rss_bytes``, ``peak_vram_bytes``, ``trainable_parameters``, ``chat_template_sha256``,
``parity_max_abs_diff``, ``packing``, ``precision``, ``size_bytes``, ``base``, ``base_digest``.

The loss is taken on the completion only, where there is one. Three things make it quick on a CPU
without changing what is computed: float32 (bfloat16 is emulated by CPUs without AMX), logits for
the completion's positions only, and shared-prefix packing, which runs the tokens that all rows of a
batch begin with once (`pack`). The last is checked against the plain forward before it is trusted.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import os
import resource
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import Tensor

PARITY_PROMPTS = ("Hello! How can I help you", "The capital of France is", '{"name": "Ada", "year":')
# Largest difference of logits between what was trained and what was saved, by precision.
PARITY_LIMIT = {"float32": 1e-2, "bfloat16": 1.0}
# Above this many tokens in a batch the dense mask of `pack` costs more than the prefix it saves.
PACK_LIMIT = 1536


class Stop(Exception):
    """Ends the run with an error event: what happened, what to do next, and the cause for programs."""

    def __init__(self, message: str, hint: str, cause: str = "input") -> None:
        super().__init__(message)
        self.hint, self.cause = hint, cause


def emit(event: str, **values: Any) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What to train and how."""

    model: Path
    dataset: Path
    method: str = "lora"
    epochs: float = 2
    max_steps: int = 0
    batch_size: int = 8
    gradient_accumulation: int = 1
    learning_rate: float = 1e-3
    scheduler: str = "cosine"
    warmup_ratio: float = 0.05
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    target: str = "all-linear"
    max_length: int = 512
    seed: int = 0
    precision: str = "auto"
    checkpoint_seconds: float = 60.0
    base: str = ""
    base_digest: str = ""

    @classmethod
    def read(cls, path: Path) -> Recipe:
        spec = json.loads(path.read_text())
        known = {f.name for f in fields(cls)}
        given = {k: v for k, v in spec.items() if k in known}
        return cls(**{**given, **{k: Path(spec["inputs"][k]) for k in ("model", "dataset")}})


# --- rows -----------------------------------------------------------------------------------


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows, each reduced to the columns that are trained on. Raises `Stop` naming the line."""
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            columns = next(
                c for c in (("prompt", "completion"), ("messages",), ("text",)) if set(c) <= set(row)
            )
        except (ValueError, TypeError, StopIteration) as error:
            raise Stop(
                f"{path}:{number} is not a training row",
                'A row is a JSON object with "prompt" and "completion", with "messages", or with "text".',
            ) from error
        rows.append(answer_apart(row) if columns == ("messages",) else {c: row[c] for c in columns})
    if not rows:
        raise Stop(f"{path} holds no rows", "Give it at least one JSON object a line.")
    return rows


def answer_apart(row: dict[str, Any]) -> dict[str, Any]:
    """A conversation as what is given and the last answer: the loss is taken on that alone."""
    return {"prompt": row["messages"][:-1], "completion": row["messages"][-1:]}


def drop_too_long(trainer: Any, limit: int) -> list[int]:
    """Leave out rows over `limit` tokens: cut, they would teach half answers. Gives their numbers from 1."""
    lengths = [len(ids) for ids in trainer.train_dataset["input_ids"]]
    over = [i for i, n in enumerate(lengths) if n > limit]
    if len(over) > len(lengths) / 2:
        raise Stop(
            f"{len(over)} of {len(lengths)} rows are longer than {limit} tokens (at most {max(lengths)})",
            f"Set max_length to {max(lengths)}, or shorten the rows.",
        )
    if over:
        skip = set(over)
        trainer.train_dataset = trainer.train_dataset.select(
            [i for i in range(len(lengths)) if i not in skip]
        )
        emit(
            "warning",
            message=f"{len(over)} rows are longer than {limit} tokens and left out",
            rows=[i + 1 for i in over[:10]],
        )
    return [i + 1 for i in over]


# --- the forward pass -----------------------------------------------------------------------


def common_prefix(rows: Sequence[Tensor], labels: Sequence[Tensor]) -> int:
    """How many leading tokens all rows share before the last unscored one (0 if it is not worth it)."""
    size = min(_first_scored(row) for row in labels) - 1
    first = rows[0]
    for row in rows[1:]:
        differ = (row[: max(size, 0)] != first[: max(size, 0)]).nonzero()
        size = min(size, int(differ[0])) if len(differ) else size
    return max(size, 0)


def _first_scored(labels: Tensor) -> int:
    scored = (labels != -100).nonzero()
    return int(scored[0]) if len(scored) else len(labels)


def pack(input_ids: Tensor, labels: Tensor, mask: Tensor, dtype: torch.dtype) -> dict[str, Tensor]:
    """A padded batch as one row: the shared prefix once, then every row's own tokens.

    Takes ``(rows, length)`` tensors, gives ``input_ids``, ``position_ids`` and ``targets`` (the
    token each position must predict, -100 for none) of shape ``(1, n)`` and an additive
    ``attention_mask`` ``(1, 1, n, n)`` in which a token sees the prefix and what stands before it in
    its own row. Same loss and gradients as the padded batch, with fewer tokens (as in Prefix
    Grouper, arXiv:2506.05433, and tree attention).
    """
    import torch

    rows = [ids[m.bool()] for ids, m in zip(input_ids, mask, strict=True)]
    scores = [row[m.bool()] for row, m in zip(labels, mask, strict=True)]
    shared = common_prefix(rows, scores)
    parts = [rows[0][:shared], *(row[shared:] for row in rows)]
    none = labels.new_full((1,), -100)
    targets = [none.expand(shared), *(torch.cat([row[shared + 1 :], none]) for row in scores)]
    positions = [torch.arange(shared), *(torch.arange(shared, len(row)) for row in rows)]
    owner = torch.cat([torch.full((len(part),), i) for i, part in enumerate(parts)])
    visible = ((owner[:, None] == owner[None, :]) | (owner[None, :] == 0)).tril()
    return {
        "input_ids": torch.cat(parts)[None],
        "position_ids": torch.cat(positions)[None],
        "targets": torch.cat(targets)[None],
        "attention_mask": torch.zeros(visible.shape, dtype=dtype).masked_fill(
            ~visible, torch.finfo(dtype).min
        )[None, None],
    }


def plain(input_ids: Tensor, labels: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """The padded batch as it is, with the same keys as `pack`."""
    import torch

    targets = torch.cat([labels[:, 1:], labels.new_full((len(labels), 1), -100)], dim=1)
    return {"input_ids": input_ids, "attention_mask": mask, "targets": targets}


def completion_loss(model: Any, batch: dict[str, Tensor], count: Any = None) -> Tensor:
    """Cross-entropy over the scored positions only; no other position gets logits.

    Divided by `count` scored tokens (of all accumulated batches), by this batch's own if None.
    """
    import torch.nn.functional as F

    causal = model.get_base_model() if hasattr(model, "get_base_model") else model
    inputs = {k: v for k, v in batch.items() if k != "targets"}
    hidden = causal.base_model(**inputs, use_cache=False).last_hidden_state
    scored = batch["targets"] != -100
    logits = causal.get_output_embeddings()(hidden[scored])
    total = F.cross_entropy(logits.float(), batch["targets"][scored], reduction="sum")
    return total / (scored.sum().clamp(min=1) if count is None else count)


# --- training -------------------------------------------------------------------------------


def load(folder: Path, dtype: torch.dtype) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, use_safetensors=True, trust_remote_code=False, local_files_only=True
    )


def choose_precision(wanted: str) -> str:
    """ "auto" is bfloat16 on accelerators, float32 on CPUs (four times as quick there without AMX)."""
    import torch

    if wanted != "auto":
        return wanted
    return "bfloat16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "float32"


def make_trainer(
    recipe: Recipe, rows: list[dict[str, Any]], tokenizer: Any, precision: str, out: Path
) -> Any:
    """An SFTTrainer that computes `completion_loss` on CPUs and reports as it goes."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import PrinterCallback, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    cuda = torch.cuda.is_available()
    full = recipe.method == "full"
    # All weights train as float32 under autocast; a frozen base may as well be held in what it computes in.
    model = load(recipe.model, torch.float32 if full else getattr(torch, precision))

    class Trainer(SFTTrainer):
        packing = ""

        def compute_loss(
            self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            self.seen_tokens += int(inputs["attention_mask"].sum())
            if cuda or return_outputs or self.aux_loss_enabled:
                loss = super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            else:
                loss = completion_loss(model, self.arrange(inputs), num_items_in_batch)
            value = loss[0] if return_outputs else loss
            if not torch.isfinite(value):
                raise Stop(
                    f"The loss became {value.item()} at step {self.state.global_step + 1}",
                    f"Lower learning_rate (now {recipe.learning_rate:g}), look for rows with no completion.",
                    "nan_loss",
                )
            return loss

        def arrange(self, inputs: Any) -> dict[str, Tensor]:
            given = inputs["input_ids"], inputs["labels"], inputs["attention_mask"]
            if self.packing == "shared-prefix" and int(given[2].sum()) <= PACK_LIMIT:
                return pack(*given, self.model.dtype)
            return plain(*given)

        def probe(self) -> None:
            """One forward and backward over the longest rows: what does not fit fails now, not in an hour."""
            lengths = [len(ids) for ids in self.train_dataset["input_ids"]]
            longest = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)[: recipe.batch_size]
            batch = self._prepare_inputs(self.data_collator([self.train_dataset[i] for i in longest]))
            with self.compute_loss_context_manager(), autocast():
                if not cuda and not self.aux_loss_enabled:
                    self.packing = self.choose_packing(batch)
                self.compute_loss(self.model, batch).backward()
            self.model.zero_grad()
            self.seen_tokens = 0

        @torch.no_grad()
        def choose_packing(self, batch: Any) -> str:
            """ "shared-prefix" if this architecture computes the same loss with it, else "padded"."""
            small = {k: v[:2] for k, v in batch.items() if hasattr(v, "shape")}
            given = small["input_ids"], small["labels"], small["attention_mask"]
            try:
                packed = completion_loss(self.model, pack(*given, self.model.dtype))
            except (ValueError, TypeError, RuntimeError, IndexError) as error:
                print(f"no shared-prefix packing: {error}", file=sys.stderr)
                return "padded"
            same = torch.isclose(packed, completion_loss(self.model, plain(*given)), rtol=1e-3)
            return "shared-prefix" if same else "padded"

    def autocast() -> AbstractContextManager[Any]:
        return torch.autocast("cuda", dtype=torch.bfloat16, enabled=cuda and precision == "bfloat16")

    class Reporter(TrainerCallback):
        """Progress events, and a checkpoint every so often."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            self.started = self.saved = self.told = time.monotonic()
            self.first = state.global_step

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            now = time.monotonic()
            done, total = state.global_step, state.max_steps
            if "loss" not in logs or (now - self.told < 0.5 and done < total):
                return
            self.told = now
            spent = now - self.started
            emit(
                "progress", done=done, total=total, unit="steps", loss=round(float(logs["loss"]), 4),
                learning_rate=logs["learning_rate"], tokens_per_s=round(trainer.seen_tokens / spent, 1),
                seconds_left=round(spent / max(done - self.first, 1) * (total - done), 1),
            )  # fmt: skip

        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if (
                time.monotonic() - self.saved >= recipe.checkpoint_seconds
                and state.global_step < state.max_steps
            ):
                self.saved = time.monotonic()
                control.should_save = True

    lora = LoraConfig(
        r=recipe.rank,
        lora_alpha=recipe.alpha,
        lora_dropout=recipe.dropout,
        target_modules=recipe.target,
        task_type="CAUSAL_LM",
    )
    config = SFTConfig(
        output_dir=str(out / "checkpoint"),
        num_train_epochs=recipe.epochs,
        max_steps=recipe.max_steps or -1,
        per_device_train_batch_size=recipe.batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.scheduler,
        warmup_steps=recipe.warmup_ratio,
        max_grad_norm=1.0,
        max_length=None,
        seed=recipe.seed,
        bf16=cuda and precision == "bfloat16",
        use_cpu=not cuda,
        gradient_checkpointing=cuda,
        dataloader_pin_memory=cuda,
        train_sampling_strategy="group_by_length" if cuda else "random",
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="no",
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
    )
    trainer = Trainer(
        model=model,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=None if full else lora,
        callbacks=[Reporter()],
    )
    trainer.seen_tokens = 0
    trainer.remove_callback(PrinterCallback)
    return trainer


def complete_checkpoint(folder: Path) -> str | None:
    """The newest checkpoint that was written to its end: the trainer's state comes last."""
    found = [p.parent for p in folder.glob("checkpoint-*/trainer_state.json")]
    return str(max(found, key=lambda p: int(p.name.rpartition("-")[2]))) if found else None


def train(trainer: Any, recipe: Recipe, out: Path) -> dict[str, float]:
    """Probe, train, and give back loss and speed. Raises `Stop` when memory runs out."""
    import torch

    try:
        trainer.probe()
        output = trainer.train(resume_from_checkpoint=complete_checkpoint(out / "checkpoint"))
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if "memory" not in str(error).lower() and not isinstance(error, MemoryError):
            raise
        raise Stop(
            f"Out of memory with {recipe.batch_size} rows a batch: {error}".splitlines()[0],
            "Halve batch_size and double gradient_accumulation, or lower max_length.",
            "out_of_memory",
        ) from error
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    tail = losses[-max(1, len(losses) // 10) :]
    return {
        "steps": trainer.state.global_step,
        "train_loss": output.training_loss,
        "final_loss": sum(tail) / len(tail),
        "tokens": trainer.seen_tokens,
        "tokens_per_s": trainer.seen_tokens / output.metrics["train_runtime"],
    }


# --- export ---------------------------------------------------------------------------------


def prompt_logits(model: Any, tokenizer: Any) -> list[Tensor]:
    """Logits after each of `PARITY_PROMPTS`, one ``(vocabulary,)`` float32 tensor a prompt."""
    import torch

    model.eval()
    with torch.inference_mode():
        encoded = [tokenizer(p, return_tensors="pt").to(model.device) for p in PARITY_PROMPTS]
        return [model(**e).logits[0, -1].float().cpu() for e in encoded]


def save(model: Any, tokenizer: Any, recipe: Recipe, folder: Path) -> None:
    """Write safetensors. The adapter names its base, not the path it lay at on this machine."""
    import torch

    if recipe.method == "full":
        stored = json.loads((recipe.model / "config.json").read_text())
        model.to(getattr(torch, stored.get("dtype") or stored.get("torch_dtype") or "bfloat16"))
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        return
    model.peft_config["default"].base_model_name_or_path = recipe.base
    model.save_pretrained(folder, save_embedding_layers=False)  # "auto" would ask the hub for the base's name
    (folder / "README.md").unlink(missing_ok=True)


def parity(recipe: Recipe, folder: Path, expected: list[Tensor], tokenizer: Any, precision: str) -> float:
    """Largest difference of logits between trained and saved model. Raises `Stop` over the limit."""
    import torch
    from peft import PeftModel

    full = recipe.method == "full"
    model = load(folder if full else recipe.model, torch.float32 if full else getattr(torch, precision))
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    if not full:
        model = PeftModel.from_pretrained(model, folder)
    got = prompt_logits(model, tokenizer)
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, got, strict=True))
    limit = PARITY_LIMIT["bfloat16" if full else precision]
    if not math.isfinite(difference) or difference > limit:
        raise Stop(
            f"What was saved is not what was trained: logits differ by {difference:.3g} (limit {limit})",
            "Keep the job's folder and report it; the saved weights must not be used.",
        )
    return difference


def files(folder: Path) -> Iterator[Path]:
    return (p for p in folder.rglob("*") if p.is_file())


def run(recipe: Recipe, out: Path) -> dict[str, Any]:
    """Train and export; returns the result. Raises `Stop` for whatever can be foreseen."""
    rows = read_rows(recipe.dataset)
    emit("progress", done=0, total=0, unit="steps", message=f"loading, {len(rows)} rows")

    import datasets
    import torch
    from transformers import AutoTokenizer, set_seed
    from transformers.utils import logging

    logging.disable_progress_bar()
    datasets.disable_progress_bars()

    torch.set_flush_denormal(True)
    set_seed(recipe.seed)
    started = time.monotonic()
    precision = choose_precision(recipe.precision)
    tokenizer = AutoTokenizer.from_pretrained(recipe.model, local_files_only=True)
    trainer = make_trainer(recipe, rows, tokenizer, precision, out)
    too_long = drop_too_long(trainer, recipe.max_length)
    figures = train(trainer, recipe, out)
    model, packing = trainer.model, trainer.packing
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    expected = prompt_logits(model, tokenizer)
    folder = out / ("model" if recipe.method == "full" else "adapter")
    save(model, tokenizer, recipe, folder)
    del model, trainer
    gc.collect()
    difference = parity(recipe, folder, expected, tokenizer, precision)
    shutil.rmtree(out / "checkpoint", ignore_errors=True)
    return {
        "path": folder.name,
        "base": recipe.base,
        "base_digest": recipe.base_digest,
        "seconds": time.monotonic() - started,
        **figures,
        "rows": len(rows) - len(too_long),
        "too_long": too_long,
        "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "peak_vram_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else 0,
        "trainable_parameters": trainable,
        "chat_template_sha256": hashlib.sha256((tokenizer.chat_template or "").encode()).hexdigest(),
        "parity_max_abs_diff": difference,
        "packing": packing or "padded",
        "precision": precision,
        "size_bytes": sum(p.stat().st_size for p in files(folder)),
    }


def main() -> int:
    spec, out = Path(sys.argv[1]), Path(sys.argv[2])
    # Read when torch is imported. Threads that sleep at barriers: on a busy machine, spinning ones made
    # a step two to three times slower. Large blocks on huge pages: fewer page faults for activations.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    try:
        result = run(Recipe.read(spec), out)
    except Stop as stop:
        emit("error", message=str(stop), hint=stop.hint, cause=stop.cause)
        return 2
    partial = out / "result.json.tmp"
    partial.write_text(json.dumps(result, indent=2))
    partial.replace(out / "result.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
