"""What a model is beyond its name: that by which its answers may be kept and found again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agentd.sdk import Context, InputError, Model

__all__ = ["dearest", "doubt_of", "identity_of", "models_behind", "prices_of"]


def models_behind(ctx: Context, name: str) -> list[Model]:
    """The models that may answer for `name`, a model or an alias. Raises `NotFound` with near names."""
    alias = ctx.catalog.alias(name)
    if alias is None:
        return [ctx.catalog.get(name)]
    return [ctx.catalog.get(each) for each, weight in alias.weights.items() if weight > 0]


def identity_of(ctx: Context, name: str) -> list[Any]:
    """Weights by digest, of an adapter and its base; of a remote model its address and name there.

    Of an alias, all of its models with their shares: any of them may have answered.
    """
    alias = ctx.catalog.alias(name)
    shares = alias.weights if alias else {}
    return [
        [_identity(ctx, model), *([shares[model.name]] if len(shares) > 1 else [])]
        for model in sorted(models_behind(ctx, name), key=lambda model: model.name)
    ]


def prices_of(models: list[Model]) -> dict[str, tuple[int, int]]:
    """Micro-USD a million tokens in and out, of those models that have a price.

    Raises `InputError` for one behind an API whose price nobody knows: it would not be asked.
    """
    if unknown := next((model.name for model in models if model.price_unknown), ""):
        raise InputError(
            f"What {unknown!r} costs is not known",
            hint="Set input_ and output_micro_usd_per_mtok of it in agentd.toml; 0 is free",
        )
    priced = {
        model.name: (model.input_micro_usd_per_mtok or 0, model.output_micro_usd_per_mtok or 0)
        for model in models
    }
    return {name: price for name, price in priced.items() if any(price)}


def dearest(models: Sequence[Model], tokens_in: float, tokens_out: float) -> int:
    """Micro-USD of so many tokens, whichever of `models` answers."""
    return max((model.price(tokens_in, tokens_out) for model in models), default=0)


def doubt_of(ctx: Context, models: Sequence[Model]) -> str:
    """Why what they cost is not certain; empty when it is."""
    return next((doubt for model in models if (doubt := ctx.price_doubt(model))), "")


def _identity(ctx: Context, model: Model) -> dict[str, Any]:
    if model.endpoint:
        return {"endpoint": model.endpoint.rstrip("/"), "upstream": model.upstream or model.name}
    made: dict[str, Any] = {"weights": model.digest or _files(model.path) or model.name}
    if model.base:
        made["base"] = _identity(ctx, ctx.catalog.get(model.base))
    return made


def _files(folder: Path | None) -> list[tuple[str, int, int]]:
    """Names, sizes and times of a folder's files: for models that were never digested."""
    if folder is None or not folder.is_dir():
        return []
    files = sorted(path for path in folder.iterdir() if path.is_file())
    return [(path.name, (stat := path.stat()).st_size, stat.st_mtime_ns) for path in files]
