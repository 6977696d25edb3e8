"""Serving: keep a local model and its LoRA adapters answering, on vLLM.

One service a base model; its adapters share the base's weights and are loaded into it while it
runs. Who is sent where is the router's affair: it finds services by the names they serve.
"""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field

from agentd.sdk import (
    Conflict,
    Context,
    DataError,
    InputError,
    JobView,
    Launch,
    Model,
    NotFound,
    Quote,
    ServiceSpec,
    ServiceView,
    Unavailable,
    tool,
)

__all__ = ["serve", "stop_service"]

MAX_LORA_RANK = 64
KV_CACHE_GIB = 1
MAX_REQUESTS = (
    64  # answered together; the rest wait. More rows a step cost little where weights are read once
)
ENGINE_BYTES = 2_000_000_000  # the two processes of vLLM on CPU before any weights, measured


class Stopped(BaseModel):
    """A service that is no more."""

    job: str
    state: str
    serves: list[str]


@tool(
    title="Serve a model",
    launches=True,
    idempotent=True,
    trusted=True,
    gives=("job", "url", "serves", "ready"),
)
async def serve(
    ctx: Context,
    *,
    model: Annotated[str, Field(description="a local model or a LoRA adapter of the catalog")],
    adapters: Annotated[list[str], Field(description="further adapters of the same base")] = [],  # noqa: B006
    port: Annotated[int, Field(ge=0, le=65535, description="port on loopback; 0 lets the daemon choose")] = 0,
    max_model_len: Annotated[int, Field(ge=64, description="prompt and answer together, in tokens")] = 1024,
    idle_minutes: Annotated[float, Field(gt=0, description="stopped after so long without a request")] = 30.0,
    hours: Annotated[float, Field(gt=0, le=720, description="stopped after so long in any case")] = 8.0,
) -> Launch | JobView:
    """Keep a local model and its adapters answering; `chat`, `evaluate` and the gateway reach it by name.

    An adapter is served together with its base. If the base is served already, adapters are loaded
    into that service within a second, and its job is returned. Wait with job_wait until it is ready.
    Not for models behind an API: those answer without it.
    """
    base, wanted = resolve(ctx, model, adapters)
    running = ctx.services.find(base.name)
    if running is not None:
        return await load_adapters(ctx, running, wanted)
    check_fits(base, max_model_len)
    check_port(port)
    names = [base.name, *(adapter.name for adapter in wanted)]
    return Launch(
        recipe="serve_vllm",
        title=f"Serve {' + '.join(names)}",
        spec={
            "name": base.name,
            "adapters": names[1:],
            "port": port,
            "max_model_len": max_model_len,
            "max_num_seqs": MAX_REQUESTS,
            "max_lora_rank": MAX_LORA_RANK,
            "kv_cache_gib": KV_CACHE_GIB,
            "enforce_eager": True,
            "timing_key": base.name,
        },
        quote=serve_quote(ctx, base, wanted, hours),
        timeout_s=hours * 3600,
        inputs={"model": folder_of(base), **{f"adapter-{a.name}": folder_of(a) for a in wanted}},
        service=ServiceSpec(health="/health", serves=tuple(names), idle_stop_s=idle_minutes * 60),
    )


@tool(title="Stop a service", result=Stopped, destructive=True, idempotent=True, trusted=True)
async def stop_service(
    ctx: Context,
    *,
    service: Annotated[str, Field(description="id of its job, or a model that it serves")],
) -> Stopped:
    """Stop a service and free its memory. Its models stay in the catalog; `serve` brings them back.

    All models that it serves stop answering. Not for a job that ends by itself: use `job_cancel`.
    """
    found = ctx.services.find(service)
    if found is None:
        raise NotFound("running service", service, serving(ctx))
    job = await ctx.jobs.cancel(found.job_id, by=ctx.principal)
    return Stopped(job=job.id, state=job.state, serves=list(found.serves))


# --- what is to be served -------------------------------------------------------------------


def resolve(ctx: Context, model: str, adapters: list[str]) -> tuple[Model, list[Model]]:
    """The base, and the adapters to load into it. Raises `InputError` if they don't belong together."""
    asked = ctx.catalog.get(model)
    base = ctx.catalog.get(asked.base) if asked.kind == "lora" else asked
    if base.endpoint or base.kind != "local":
        raise InputError(f"{base.name!r} ({base.kind}) is not served from here", hint="Ask it with chat")
    if base.meta.get("task") == "embedding":
        raise InputError(f"{base.name!r} is an embedder", hint="The retriever loads it by itself")
    if adapters and base.meta.get("quantization"):
        raise InputError(
            f"{base.name!r} is quantized, and adapters go on the weights they were trained on",
            hint="Serve them on their base, or quantize with the adapter merged in",
        )
    names = [*([asked.name] if asked is not base else []), *adapters]
    wanted = [ctx.catalog.get(name) for i, name in enumerate(names) if name not in names[:i]]
    for adapter in wanted:
        check_adapter(adapter, base)
    return base, wanted


def check_adapter(adapter: Model, base: Model) -> None:
    """Raise `InputError` for an adapter of another base, `DataError` for one that cannot be loaded."""
    if adapter.kind != "lora":
        raise InputError(f"{adapter.name!r} is not an adapter ({adapter.kind})", hint="Serve it by itself")
    if adapter.base != base.name:
        raise InputError(
            f"Adapter {adapter.name!r} was made for {adapter.base!r}, not for {base.name!r}",
            hint=f"Serve it as model={adapter.name!r}: its base comes with it",
        )
    trained_on = adapter.meta.get("base_digest")
    if trained_on and base.digest and trained_on != base.digest:
        raise InputError(
            f"Adapter {adapter.name!r} was trained on other weights of {base.name!r} than are in the catalog",
            hint="Get the base it was trained on, or train it again",
        )
    config = folder_of(adapter) / "adapter_config.json"
    if not config.is_file():
        raise DataError(config, "it is missing", hint="Name the folder that PEFT saved the adapter in")
    rank = json.loads(config.read_text(encoding="utf-8")).get("r", 0)
    if rank > MAX_LORA_RANK:
        raise DataError(
            config,
            f"rank {rank}; vLLM takes up to {MAX_LORA_RANK} here",
            field="r",
            hint="Train a smaller one",
        )


def folder_of(model: Model) -> Path:
    if model.path is None or not model.path.is_dir():
        raise InputError(
            f"{model.name!r} has no folder on this machine", hint="Fetch it again with get_model"
        )
    return model.path


def check_fits(base: Model, max_model_len: int) -> None:
    if base.context and max_model_len > base.context:
        raise InputError(
            f"{base.name!r} was made for {base.context} tokens, not {max_model_len}",
            hint=f"Serve it with max_model_len={base.context} or less",
        )


def check_port(port: int) -> None:
    """Raise `Conflict` when somebody listens on `port`. The recipe looks again when it starts."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise Conflict(
                f"Port {port} is taken: {error.strerror}", hint="Choose another, or 0 for any"
            ) from error


# --- what is being served -------------------------------------------------------------------


async def load_adapters(ctx: Context, service: ServiceView, wanted: list[Model]) -> JobView:
    """Load into a running service what it does not serve yet. Raises `Unavailable` while it is starting."""
    missing = [adapter for adapter in wanted if adapter.name not in service.serves]
    if missing and not service.ready:
        raise Unavailable(
            f"{service.job_id} is only starting, so {missing[0].name!r} cannot be loaded into it yet",
            hint=f"Wait with job_wait(job={service.job_id!r}), then serve again",
            retry_after_s=3.0,
        )
    for adapter in missing:
        body = {"lora_name": adapter.name, "lora_path": str(folder_of(adapter))}
        await ctx.services.request(service, "/v1/load_lora_adapter", body, timeout_s=60.0)
        ctx.services.add_serves(service, [adapter.name])
    return ctx.jobs.get(service.job_id)


def serving(ctx: Context) -> list[str]:
    found = (ctx.services.find(model.name) for model in ctx.catalog.list())
    return sorted({name for service in found if service for name in service.serves})


def serve_quote(ctx: Context, base: Model, wanted: list[Model], hours: float) -> Quote:
    """Memory: weights, adapters, KV cache, engine. Time: the whole lifetime, though idling ends it sooner."""
    on_gpu = ctx.accelerator != "cpu"
    memory = base.size_bytes + sum(adapter.size_bytes for adapter in wanted) + KV_CACHE_GIB * 2**30
    taken = "; of a GPU, vLLM takes nine tenths for its cache" if on_gpu else ""
    return Quote(
        seconds=hours * 3600,
        ram_bytes=ENGINE_BYTES + (0 if on_gpu else memory),
        vram_bytes=memory if on_gpu else 0,
        basis=f"{hours:g} h, the longest it may run{taken}",
    )
