"""Weights on disk: what a model folder holds and whether it is safe and able to be trained or quantized.

Reads ``config.json`` and the headers of safetensors files, never a tensor. Knows nothing of jobs.
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.sdk import Context, DataError, InputError, Model

__all__ = ["Shape", "adapter_base", "chat_template_digest", "local_model", "read_shape", "refuse_unsafe"]

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
MAX_HEADER = 100 << 20


@dataclass(frozen=True, slots=True)
class Shape:
    """The figures of a decoder that cost formulas need."""

    parameters: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    size_bytes: int

    @property
    def body(self) -> int:
        """Parameters every token passes through: all but the embedding and the output layer."""
        return max(self.parameters - self.vocabulary * self.hidden, self.parameters // 10)

    def lora_parameters(self, rank: int) -> int:
        """Of an adapter on every linear layer but the output layer: rank × (inputs + outputs) each."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        widths = 2 * (self.hidden + q) + 2 * (self.hidden + kv) + 3 * (self.hidden + self.intermediate)
        return rank * widths * self.layers


def chat_template_digest(folder: Path) -> str:
    """SHA-256 of a model's chat template, of no text if it has none: what checks and trainers record."""
    named, config = folder / "chat_template.jinja", folder / "tokenizer_config.json"
    if named.is_file():
        given: Any = named.read_text(encoding="utf-8")
    else:
        given = (
            json.loads(config.read_text(encoding="utf-8")).get("chat_template") if config.is_file() else ""
        )
    if isinstance(given, list):
        given = next((each["template"] for each in given if each["name"] == "default"), "")
    return hashlib.sha256((given or "").encode()).hexdigest()


def local_model(ctx: Context, name: str) -> tuple[Model, Path]:
    """The catalog's model `name` with its folder. Raises `InputError` for what has no safe weights here."""
    model = ctx.catalog.get(name)
    if model.path is None or not model.path.is_dir():
        raise InputError(
            f"Model {name!r} is {model.kind!r} and has no weights on this machine",
            hint="Name a local model; get_model brings one in",
        )
    if model.meta.get("task") == "embedding":
        raise InputError(f"Model {name!r} is an embedder", hint="Name a model that generates text")
    refuse_unsafe(model.path)
    return model, model.path


def adapter_base(ctx: Context, adapter: Model) -> tuple[Model, Path]:
    """The base that `adapter` was trained on. Raises `InputError` if it has changed since."""
    base, path = local_model(ctx, adapter.base)
    trained_on = adapter.meta.get("base_digest", "")
    if trained_on and base.digest and trained_on != base.digest:
        raise InputError(
            f"Adapter {adapter.name!r} was trained on {adapter.base!r} {trained_on[:12]}, which is now"
            f" {base.digest[:12]}",
            hint="Bring back that version of the base, or fine-tune again",
        )
    return base, path


def refuse_unsafe(folder: Path) -> None:
    """Raises `DataError` for pickled weights, code, or no safetensors. What it does not see: a chat
    template is a program too, and runs in a sandbox when rows are rendered."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    for file in files:
        if file.suffix in PICKLES:
            raise DataError(file, "pickled weights run code when loaded", hint="Save them as safetensors")
        if file.suffix == ".py":
            raise DataError(
                file, "a model with code of its own is not loaded", hint="Use a built-in architecture"
            )
    if not any(file.suffix == ".safetensors" for file in files):
        raise DataError(folder, "holds no *.safetensors", hint="Bring the model in with get_model")
    config = folder / "config.json"
    if config.is_file() and "auto_map" in _config(config):
        raise DataError(
            config, "asks for code of its own", field="auto_map", hint="Use a built-in architecture"
        )


def read_shape(folder: Path) -> Shape:
    """Count parameters in the headers, read widths in ``config.json``. Raises `DataError`."""
    path = folder / "config.json"
    config = _config(path)
    text = config.get("text_config") or config
    missing = [k for k in ("hidden_size", "num_hidden_layers", "num_attention_heads") if k not in text]
    if missing:
        raise DataError(path, "is missing", field=missing[0], hint="Name a decoder such as Llama or Qwen")
    weights = sorted(folder.glob("*.safetensors"))
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    return Shape(
        parameters=sum(_parameters(file) for file in weights),
        hidden=hidden,
        intermediate=text.get("intermediate_size") or 4 * hidden,
        layers=text["num_hidden_layers"],
        heads=heads,
        kv_heads=text.get("num_key_value_heads") or heads,
        head_dim=text.get("head_dim") or hidden // heads,
        vocabulary=text.get("vocab_size", 0),
        size_bytes=sum(file.stat().st_size for file in weights),
    )


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(path, f"cannot be read: {error}", hint="Fetch the model again") from error
    if not isinstance(config, dict):
        raise DataError(path, "is not a JSON object", hint="Fetch the model again")
    return config


def _parameters(file: Path) -> int:
    """From the header: eight bytes of length, then JSON of ``{name: {dtype, shape, data_offsets}}``."""
    try:
        with file.open("rb") as stream:
            size = struct.unpack("<Q", stream.read(8))[0]
            if size > MAX_HEADER:
                raise ValueError(f"header of {size} bytes")
            header = json.loads(stream.read(size))
        return sum(math.prod(t["shape"]) for name, t in header.items() if name != "__metadata__")
    except (OSError, ValueError, KeyError, TypeError, struct.error) as error:
        raise DataError(file, f"is not a safetensors file: {error}", hint="Fetch the model again") from error
