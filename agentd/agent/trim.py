"""Results made small enough for a model: long lists and texts are cut, and it is said where the rest is."""

from __future__ import annotations

import json
from typing import Any

from agentd.errors import NotFound

__all__ = ["at_path", "is_cut", "shortened", "told"]

WHOLE = 4_000  # characters of JSON that are told as they are
LONGEST_TEXT = 600
MOST_ITEMS = 8
PAGE = 6_000


def told(result: Any, address: str, step: str) -> str:
    """A result as a model is told it; a cut one says where all of it is."""
    whole = _json(result)
    if len(whole) <= WHOLE:
        return whole
    cut = _json(shortened(result))[:WHOLE]
    return f"{cut}\n(cut from {len(whole)} characters; the rest: {address}, or read_result step={step})"


def is_cut(result: Any) -> bool:
    """Whether a model is told less than all of it."""
    return len(_json(result)) > WHOLE


def shortened(value: Any) -> Any:
    """`value` with long texts and lists cut, and with a note of how much is left out."""
    if isinstance(value, str) and len(value) > LONGEST_TEXT:
        return f"{value[:LONGEST_TEXT]}… ({len(value) - LONGEST_TEXT} more characters)"
    if isinstance(value, list):
        items = [shortened(each) for each in value[:MOST_ITEMS]]
        return [*items, f"… ({len(value) - MOST_ITEMS} more)"] if len(value) > MOST_ITEMS else items
    if isinstance(value, dict):
        return {key: shortened(each) for key, each in value.items()}
    return value


def at_path(value: Any, path: str, offset: int = 0) -> str:
    """A page of what stands at `path`, such as ``rows.3.text``. Raises `NotFound`."""
    for part in filter(None, path.split(".")):
        if isinstance(value, dict) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise NotFound("field of this result", part, value if isinstance(value, dict) else ())
    text = value if isinstance(value, str) else _json(value)
    left = len(text) - offset - PAGE
    return text[offset : offset + PAGE] + (
        f"\n({left} more characters: offset={offset + PAGE})" if left > 0 else ""
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=str)
