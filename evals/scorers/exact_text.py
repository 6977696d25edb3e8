"""1 if the output is the expected text, but for white space around and between words; else 0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def score(expected: object, output_text: str, row: Mapping[str, Any]) -> float:
    return float(output_text.split() == str(expected).split())
