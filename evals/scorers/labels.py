"""1 if the output is the expected label, else 0; over all rows also macro F1 and accuracy.

`field` names a field of JSON answers to compare, as expected.FIELD. What is no label that occurs in
the expected ones counts as a wrong label of its own, so that nonsense costs recall and no precision.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any


def score(expected: object, output_text: str, row: Mapping[str, Any], *, field: str = "") -> float:
    return float(_given(output_text, field) == _label(expected, field))


def figures(rows: Sequence[Mapping[str, Any]], *, field: str = "") -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    wanted = [_label(row["expected"], field) for row in rows]
    known = sorted(set(wanted))
    given = [said if (said := _given(row["output"], field)) in known else "" for row in rows]
    macro = f1_score(wanted, given, labels=known, average="macro", zero_division=0)
    return {"macro_f1": float(macro), "accuracy": float(accuracy_score(wanted, given))}


def _label(value: object, field: str) -> str:
    if field:
        if not isinstance(value, dict) or field not in value:
            raise ValueError(f"'expected' has no field {field!r}")
        value = value[field]
    return value.strip() if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _given(output_text: str, field: str) -> str:
    """The output's label; one that no label equals where there is none."""
    if not field:
        return output_text.strip()
    try:
        return _label(json.loads(output_text), field)
    except (ValueError, RecursionError):
        return "\0"
