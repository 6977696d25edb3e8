"""ROUGE F1 (Lin 2004) by Google's rouge-score; of several expected texts the best match counts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, cast


def score(
    expected: object, output_text: str, row: Mapping[str, Any], *, variant: str = "rougeL", stem: bool = True
) -> float:
    wanted = cast("list[object]", expected) if isinstance(expected, list) else [expected]
    scorer = _scorer(variant, stem)
    return max(scorer.score(str(text), output_text)[variant].fmeasure for text in wanted)


@cache
def _scorer(variant: str, stem: bool) -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer([variant], use_stemmer=stem)
