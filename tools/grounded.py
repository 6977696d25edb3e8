"""Training rows out of documents: the tool make_dataset.

Each row is tied to the bytes of the document it came from, and was checked against them; whether people
would ask such questions is for a review to say. The rows are a data set like any other.
"""

from __future__ import annotations

import shutil
from typing import Annotated, Any, Literal

from pydantic import Field

from agentd.sdk import Context, Finished, InputError, Launch, Quote, Unavailable, tool

from .identities import dearest, doubt_of, models_behind
from .retrieve import Collection, known_collection, ready_retriever

START_S, RULE_ROWS_PER_S, MODEL_ROWS_PER_S = 3.0, 8.0, 1.0  # measured on two cores
TRIES = 2.5  # questions tried for each that passes
MOST_TRIES = 4  # times as many are paid for at most
TOKENS_IN, TOKENS_OUT = 600, 48  # of one question


@tool(
    title="Make training rows from documents",
    launches=True,
    open_world=True,
    trusted=("dataset", "name", "path", "rows", "dropped_rows"),
)
async def make_dataset(
    ctx: Context,
    *,
    collection: Collection = "default",
    name: Annotated[str, Field(description="name to keep the rows under; the collection's by default")] = "",
    kind: Annotated[
        Literal["qa", "passage_qa", "instruction"],
        Field(
            description="question and answer; the same with the passage in the question; explain a heading"
        ),
    ] = "qa",
    rows: Annotated[int, Field(ge=1, le=100_000, description="as many as are wanted")] = 200,
    model: Annotated[
        str, Field(description="model or alias that writes the questions; empty: plain rules")
    ] = "",
    system: Annotated[str, Field(description="system prompt put before each row")] = "",
    evidence: Annotated[
        float, Field(ge=0, le=1, description="least evidence that the documents answer the question")
    ] = 0.5,
    per_document: Annotated[int, Field(ge=0, description="at most so many of one document; 0: no limit")] = 0,
) -> Launch:
    """Turn ingested documents into rows to train on, each tied to its source and checked against it.

    Answers are the documents' own sentences. A question stays only if it leads back to its sentence in the
    index. Have people review a sample before you train. Not for measuring retrieval: rows come from the
    index itself.
    """
    service = await ready_retriever(ctx)
    await known_collection(ctx, service, collection)
    if model and ctx.catalog.alias(model) is None:
        found = ctx.catalog.get(model)
        if not found.endpoint and ctx.services.find(model) is None:
            raise Unavailable(f"{model!r} is not being served", hint=f"agentd call serve model={model}")
    if model and kind == "instruction":
        raise InputError("Instructions are made from headings, without a model", hint="Leave model out")
    rate = MODEL_ROWS_PER_S if model else RULE_ROWS_PER_S
    seconds = START_S + rows * TRIES / rate
    asked = models_behind(ctx, model) if model else []
    tokens = dearest(asked, TOKENS_IN * rows * TRIES, TOKENS_OUT * rows * TRIES)
    return Launch(
        recipe="make_rows",
        title=f"Make {rows} {kind} rows from {collection}" + (f" with {model}" if model else ""),
        spec={
            "collection": collection,
            "name": name or f"{collection}-{kind}",
            "kind": kind,
            "rows": rows,
            "model": model,
            "system": system,
            "evidence": evidence,
            "per_document": per_document,
            "top": 3,
            "seed": 0,
            "timing_key": f"{kind}:{model}",
        },
        quote=Quote(
            seconds=round(seconds, 1),
            ram_bytes=100 << 20,
            disk_bytes=8_000 * rows,
            tokens_micro_usd=tokens,
            doubt=doubt_of(ctx, asked),
            basis=f"{rows} rows, about {TRIES:g} questions tried for each at {rate:g} a second",
        ),
        timeout_s=max(900.0, 10 * seconds),
        needs=("retriever", *((model,) if model and not _remote(ctx, model) else ())),
        gateway=bool(model),
        tokens_micro_usd=MOST_TRIES * tokens,
    )


def _remote(ctx: Context, name: str) -> bool:
    return ctx.catalog.alias(name) is not None or bool(ctx.catalog.get(name).endpoint)


@make_dataset.done
def keep(ctx: Context, finished: Finished) -> dict[str, Any]:
    """Register the rows as a data set. The recipe's copy stays, so that doing this twice does the same."""
    spec, result = finished.spec, finished.result
    kept = finished.out / "kept" / f"{spec['name']}.jsonl"
    kept.parent.mkdir(exist_ok=True)
    shutil.copyfile(finished.out / "rows.jsonl", kept)
    made = {name: result[name] for name in ("rows", "tried", "documents", "dropped", "made_by")}
    artifact = ctx.artifacts.add(
        "dataset",
        kept,
        name=spec["name"],
        meta=made
        | {
            "collection": spec["collection"],
            "kind": spec["kind"],
            "model": spec["model"],
            "evidence": spec["evidence"],
            "format": "prompt_completion",
            "reviewed": False,
            "job": finished.job_id,
        },
    )
    return {
        "dataset": artifact.id,
        "name": artifact.name,
        "path": str(artifact.path),
        **made,
        "dropped_rows": str(finished.out / "dropped.jsonl"),
        "next": f"Have people look at it: agentd data review {artifact.name}",
    }
