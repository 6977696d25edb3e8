"""1 if the whole output, stripped, is JSON equal to what is expected; else 0.

Nothing is searched for inside the output: a program that reads the answer would not either.
Order of keys and white space do not matter; 1 and true, 1 and "1" differ; NaN is no JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


def score(expected: object, output_text: str, row: Mapping[str, Any]) -> float:
    try:
        value = json.loads(output_text.strip(), object_pairs_hook=_once, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    return float(_canonical(value) == _canonical(expected))


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len(made := dict(pairs)) != len(pairs):
        raise ValueError("a key is given twice")
    return made


def _refuse(name: str) -> float:
    raise ValueError(f"{name} is not JSON")
