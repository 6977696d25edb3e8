"""Which way of cutting documents into chunks suits them: the tool compare_chunking.

The recipe `ingest` measures, this file decides: a way is recommended only where it is better than the default
by a paired interval, corrected for how many were tried.
"""

from __future__ import annotations

from statistics import fmean
from typing import Annotated, Any

from pydantic import Field

from agentd.sdk import Context, Finished, InputError, Launch, Quote, tool

from .retrieve import (
    BYTES_PER_CHUNK,
    CHUNKS_PER_SECOND,
    EMBEDDER,
    Chunking,
    Embedder,
    measure,
    retriever_launch,
    same_embedder,
)
from .verdict import compare_scores, holm, interval_of

DEFAULT = "structure"
EVERY: tuple[Chunking, ...] = ("structure", "fixed", "recursive", "semantic", "hierarchical")
ALPHA = 0.05


@tool(
    title="Compare ways of chunking",
    launches=True,
    idempotent=True,
    listed=False,
    trusted=("strategy", "metric", "recommended"),
)
async def compare_chunking(
    ctx: Context,
    *,
    path: Annotated[str, Field(description="folder in BEIR's layout, or the documents of `questions`")],
    questions: Annotated[
        str, Field(description="JSONL of {question, passage, document?}; empty: BEIR's own")
    ] = "",
    strategies: Annotated[list[Chunking], Field(description="structure is always among them")] = list(EVERY),  # noqa: B006
    words: Annotated[int, Field(ge=20, le=400, description="longest chunk, in words")] = 200,
    overlap: Annotated[int, Field(ge=0, le=100, description="words that neighbours share")] = 30,
    embedder: Embedder = EMBEDDER,
) -> Launch:
    """Ingest documents in several ways, ask questions whose right passages are known, and recommend a way.

    Each way is scored on the same questions and compared with the default by a paired interval; what was
    ingested for it is dropped again. Not for ingesting: use `ingest` with the `chunking` it recommends.
    """
    if overlap >= words:
        raise InputError(f"overlap {overlap} must be smaller than words {words}")
    base = ctx.path(path).resolve()
    if not questions and not (base / "qrels").is_dir():
        raise InputError(f"{base} has no qrels, so nothing is known to be right", hint="Name `questions`")
    files, total = measure(base, "")
    ways = list(dict.fromkeys([DEFAULT, *strategies]))
    service = await ctx.services.ensure("retriever", retriever_launch(ctx, embedder))
    if service is not None:
        await same_embedder(ctx, service, embedder)
    chunks = total / BYTES_PER_CHUNK
    asked = {"questions": ctx.path(questions)} if questions else {}
    return Launch(
        recipe="ingest",
        title=f"Compare {', '.join(ways)} on {path}",
        spec={
            "compare": ways,
            "passages": bool(questions),
            "words": words,
            "overlap": overlap,
            "timing_key": f"compare:{embedder}",
        },
        inputs={"documents": base, **asked},
        quote=Quote(
            seconds=round(10 + 1.5 * len(ways) * chunks / CHUNKS_PER_SECOND, 1),
            ram_bytes=500_000_000,
            disk_bytes=6 * len(ways) * total + 10_000_000,
            basis=f"{files} files, about {chunks:.0f} chunks, embedded {len(ways)} times",
        ),
        timeout_s=12 * 3600.0,
        needs=("retriever",),
    )


@compare_chunking.done
def _(ctx: Context, finished: Finished) -> dict[str, Any]:
    """The ways with their scores, each but the default with its difference from it."""
    return decided(finished.result["measured"], finished.spec["passages"])


def decided(measured: list[dict[str, Any]], passages: bool) -> dict[str, Any]:
    """A row for each way, and the one that is recommended. Scores pair by question."""
    default = next(row["scores"] for row in measured if row["strategy"] == DEFAULT)
    others = [row for row in measured if row["strategy"] != DEFAULT]
    pairs = {
        row["strategy"]: compare_scores([row["scores"][q] for q in default], list(default.values()))
        for row in others
    }
    corrected = dict(zip(pairs, holm([pair.p_value for pair in pairs.values()]), strict=True))
    table: list[dict[str, Any]] = []
    for row in measured:
        name = row["strategy"]
        span = interval_of(list(row["scores"].values()))
        line = {key: row[key] for key in ("strategy", "chunks", "documents_per_s", "search_ms")}
        line |= {"score": round(span.value, 4), "low": round(span.low, 4), "high": round(span.high, 4)}
        if pair := pairs.get(name):
            ends = (pair.difference.value, pair.difference.low, pair.difference.high)
            line |= dict(zip(("difference", "from", "to"), (round(end, 4) for end in ends), strict=True))
            line["p"] = round(corrected[name], 4)
        table.append(line)
    better = [name for name, pair in pairs.items() if pair.difference.low > 0 and corrected[name] <= ALPHA]
    means = {row["strategy"]: fmean(row["scores"].values()) for row in others}
    best = max(better, key=means.__getitem__, default=DEFAULT)
    why = (
        f"better than {DEFAULT} by {pairs[best].difference.value:.3f} on {len(default)} questions"
        if best != DEFAULT
        else f"nothing is surely better than the default on {len(default)} questions"
    )
    metric = "share of the right passage in 1,000 words" if passages else "nDCG@10"
    return {"metric": metric, "strategies": table, "recommended": best, "why": why}
