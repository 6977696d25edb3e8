"""The share of expected top-level fields that the output, a JSON object, has exactly right.

An output that is not one JSON object scores 0; fields nobody asked for count as wrong ones.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast


def score(expected: object, output_text: str, row: Mapping[str, Any]) -> float:
    if not isinstance(expected, dict):
        raise TypeError(f"row {row.get('id')!r}: json_fields needs an object as 'expected'")
    try:
        value = json.loads(output_text.strip())
    except (ValueError, RecursionError):
        return 0.0
    if not isinstance(value, dict):
        return 0.0
    wanted, given = cast("dict[str, object]", expected), cast("dict[str, object]", value)
    names = wanted.keys() | given.keys()
    right = sum(name in wanted and name in given and _same(wanted[name], given[name]) for name in names)
    return right / len(names) if names else 1.0


def _same(one: object, two: object) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(two, sort_keys=True)
