"""A ranking learned from the user's own judgments, kept only where it is better: the tool learn_ranking."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from agentd.sdk import Context, Finished, Launch, Quote, tool

from .retrieve import EMBEDDER, Collection, known_collection, ready_retriever

SECONDS_A_QUESTION = 0.25


@tool(
    title="Learn a ranking from judgments",
    launches=True,
    idempotent=True,
    listed=False,
    trusted=("collection", "questions", "judged", "before", "after", "difference", "low", "high", "kept"),
)
async def learn_ranking(
    ctx: Context,
    *,
    judgments: Annotated[
        str, Field(description="JSONL of {query, document, grade?}, or a folder in BEIR's layout")
    ],
    collection: Collection = "default",
) -> Launch:
    """Fit how candidates are ranked to judgments of yours, and use it in `search` if it is surely better.

    It is measured on questions that it was not fitted to. If it is not better, the search stays as it is, and
    what was learned before is forgotten. Not for measuring a search: use `evaluate`.
    """
    await known_collection(ctx, await ready_retriever(ctx), collection)
    path = ctx.path(judgments)
    file = path / "queries.jsonl" if path.is_dir() else path
    questions = file.read_bytes().count(b"\n") + 1
    return Launch(
        recipe="learn_ranking",
        title=f"Learn how to rank {collection} from {judgments}",
        spec={"collection": collection, "timing_key": EMBEDDER},
        inputs={"judgments": path, "verdict": Path(__file__).with_name("verdict.py")},
        quote=Quote(
            seconds=round(5 + SECONDS_A_QUESTION * questions, 1),
            ram_bytes=400_000_000,
            basis=f"at most {questions} questions, each searched once",
        ),
        timeout_s=4 * 3600.0,
        needs=("retriever",),
    )


@learn_ranking.done
def _(ctx: Context, finished: Finished) -> dict[str, Any]:
    """The recipe's result as it is: the ranking lives with the retriever."""
    return dict(finished.result)
