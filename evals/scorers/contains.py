"""1 if the output contains the expected text (or each of a list of texts), whatever the case; else 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast


def score(expected: object, output_text: str, row: Mapping[str, Any]) -> float:
    wanted = cast("list[object]", expected) if isinstance(expected, list) else [expected]
    said = _plain(output_text)
    return float(all(_plain(str(text)) in said for text in wanted))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
