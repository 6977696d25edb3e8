"""What reviewers decided about rows, put together: who has to see what, what holds, how far they agree.

Functions of rows and judgements only. A decision is about a row's words (its id), so it holds in every
version of a data set in which they stand.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, Field

from agentd.sdk import Judgement

from .agreement import alpha, interval
from .datasets import row_id, words_of

__all__ = ["VERDICTS", "Review", "by_row", "fixed", "held", "queue", "review_of"]

VERDICTS = ("accept", "fix", "reject")

Row = Mapping[str, Any]
ByRow = Mapping[str, Sequence[Judgement]]


class Review(BaseModel):
    """Where the review of a data set stands. Rows on which as many say one thing as another are disputed."""

    rows: int = 0
    accepted: int = 0
    fixed: int = 0
    rejected: int = 0
    disputed: int = 0
    unreviewed: int = 0
    reviewers: dict[str, int] = Field(default={}, description="who, and about how many rows")
    judged_twice: int = Field(
        default=0, description="rows that two or more people judged: alpha is over these"
    )
    alpha: float | None = Field(default=None, description="Krippendorff's alpha of accept, fix, reject")
    alpha_low: float | None = None
    alpha_high: float | None = None


def by_row(judgements: Iterable[Judgement]) -> dict[str, list[Judgement]]:
    """Judgements by the row they are about. Who mended a row has accepted the row that came of it."""
    found: dict[tuple[str, str], Judgement] = {}
    for judgement in judgements:
        if judgement.verdict == "fix" and judgement.value:
            mended = row_id(judgement.value)
            accepted = judgement.model_copy(update={"item": mended, "verdict": "accept", "value": None})
            found.setdefault((mended, judgement.author), accepted)
        found[judgement.item, judgement.author] = judgement
    rows: dict[str, list[Judgement]] = defaultdict(list)
    for judgement in found.values():
        rows[judgement.item].append(judgement)
    return rows


def place(family: str, row: str) -> float:
    """Where a row stands in the queue, from 0 to 1: the same for everybody, and unrelated to what it says."""
    return int(hashlib.sha256(f"{family}\0{row}".encode()).hexdigest()[:12], 16) / 16**12


def queue(family: str, rows: Iterable[str], decided: ByRow, reviewer: str, overlap: float) -> list[str]:
    """The rows that `reviewer` is to see next: the share that everybody sees, then what nobody has seen."""

    def wanted(row: str) -> bool:
        authors = {judgement.author for judgement in decided.get(row, ())}
        return reviewer not in authors and (place(family, row) < overlap or not authors)

    return sorted(filter(wanted, dict.fromkeys(rows)), key=lambda row: place(family, row))


def held(judgements: Sequence[Judgement]) -> Judgement | None:
    """What most say; of several who mend a row the last one. None if as many say something else."""
    if not judgements:
        return None
    counts = Counter(judgement.verdict for judgement in judgements).most_common(2)
    if len(counts) == 2 and counts[0][1] == counts[1][1]:
        return None
    return [judgement for judgement in judgements if judgement.verdict == counts[0][0]][-1]


def fixed(row: Row, value: Row) -> dict[str, Any]:
    """The row with other words, and the id that goes with them. A string where the row has messages stands
    for what the last of them says. The answer that was mended is kept as the worse one of a pair."""
    words = {name: _as(row.get(name), said) for name, said in value.items() if name in words_of(row)}
    mended = {**row, **words}
    if "completion" in words and words["completion"] != row["completion"] and not row.get("rejected"):
        mended["rejected"] = _said(row["completion"])
    return {**mended, "id": row_id(mended)}


def _as(before: Any, said: Any) -> Any:
    if isinstance(before, list) and isinstance(said, str):
        return [*before[:-1], {**before[-1], "content": said}]
    return said


def _said(value: Any) -> str:
    return value if isinstance(value, str) else value[-1]["content"]


def review_of(rows: Sequence[str], decided: ByRow) -> Review:
    """Counts over the rows, and agreement over those that several people judged."""
    judged = [decided[row] for row in rows if decided.get(row)]
    holding = [held(judgements) for judgements in judged]
    verdicts = Counter(judgement.verdict for judgement in holding if judgement)
    items = [[judgement.verdict for judgement in judgements] for judgements in judged]
    bounds = interval(items)
    value = alpha(items)
    return Review(
        rows=len(rows),
        accepted=verdicts["accept"],
        fixed=verdicts["fix"],
        rejected=verdicts["reject"],
        disputed=holding.count(None),
        unreviewed=len(rows) - len(judged),
        reviewers=dict(Counter(judgement.author for judgements in judged for judgement in judgements)),
        judged_twice=sum(1 for judgements in judged if len(judgements) > 1),
        alpha=None if value is None else round(value, 3),
        alpha_low=round(bounds[0], 3) if bounds else None,
        alpha_high=round(bounds[1], 3) if bounds else None,
    )
