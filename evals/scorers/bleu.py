"""Sentence BLEU / 100 by sacrebleu, with effective order; over all rows corpus BLEU, 0 to 100.

The figure to quote is the corpus one, which is no mean of sentences. Its interval is a bootstrap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from itertools import zip_longest
from typing import Any, cast


def score(expected: object, output_text: str, row: Mapping[str, Any], *, tokenize: str = "13a") -> float:
    return _sentence(tokenize).sentence_score(output_text, _references(expected)).score / 100


def figures(rows: Sequence[Mapping[str, Any]], *, tokenize: str = "13a") -> dict[str, Any]:
    from sacrebleu.metrics import BLEU

    outputs = [row["output"] for row in rows]
    columns = [list(column) for column in zip_longest(*(_references(row["expected"]) for row in rows))]
    return {"corpus_bleu": _with_interval(BLEU(tokenize=tokenize), outputs, columns)}


def _with_interval(
    metric: Any, outputs: list[str], references: list[list[str]]
) -> tuple[float, float, float]:
    value = metric.corpus_score(outputs, references).score
    resampled = metric.corpus_score(outputs, references, n_bootstrap=1000)
    mean, half = float(resampled._mean), float(resampled._ci)
    return value, max(0.0, min(value, mean - half)), min(100.0, max(value, mean + half))


@cache
def _sentence(tokenize: str) -> Any:
    from sacrebleu.metrics import BLEU

    return BLEU(effective_order=True, tokenize=tokenize)


def _references(expected: object) -> list[str]:
    wanted = cast("list[object]", expected) if isinstance(expected, list) else [expected]
    return [str(text) for text in wanted]
