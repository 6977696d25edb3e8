"""Sentence chrF / 100 (Popović 2015) by sacrebleu; over all rows corpus chrF, 0 to 100.

`word_order: 2` is chrF++.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import zip_longest
from typing import Any, cast


def score(expected: object, output_text: str, row: Mapping[str, Any], *, word_order: int = 0) -> float:
    return _chrf(word_order).sentence_score(output_text, _references(expected)).score / 100


def figures(rows: Sequence[Mapping[str, Any]], *, word_order: int = 0) -> dict[str, Any]:
    outputs = [row["output"] for row in rows]
    columns = [list(column) for column in zip_longest(*(_references(row["expected"]) for row in rows))]
    value = _chrf(word_order).corpus_score(outputs, columns).score
    resampled = _chrf(word_order).corpus_score(outputs, columns, n_bootstrap=1000)
    mean, half = float(resampled._mean), float(resampled._ci)
    return {"corpus_chrf": (value, max(0.0, min(value, mean - half)), min(100.0, max(value, mean + half)))}


@cache
def _chrf(word_order: int) -> Any:
    from sacrebleu.metrics import CHRF

    return CHRF(word_order=word_order)


def _references(expected: object) -> list[str]:
    wanted = cast("list[object]", expected) if isinstance(expected, list) else [expected]
    return [str(text) for text in wanted]
