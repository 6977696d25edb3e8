"""What an endpoint says a request took, in the words of any of the APIs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

__all__ = ["Usage", "usage_of"]

MOST_TOKENS = 10**12
"""A count beyond this, such as JSON's 1e999, is none."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the endpoint counted them.

    Of `input`, `cached` were in its cache, and `written` were put there, which some charge for.
    """

    input: int = 0
    output: int = 0
    cached: int = 0
    written: int = 0
    reasoning: int = 0

    def __or__(self, later: Usage) -> Usage:
        """What is known when `later` came after it."""
        return Usage(
            later.input or self.input,
            later.output or self.output,
            later.cached or self.cached,
            later.written or self.written,
            later.reasoning or self.reasoning,
        )

    def __bool__(self) -> bool:
        return bool(self.input or self.output)


def usage_of(told: Any) -> Usage:
    """The `usage` object of an answer of any of the endpoints."""
    if not isinstance(told, dict):
        return Usage()
    details = told.get("prompt_tokens_details") or told.get("input_tokens_details") or {}
    out = told.get("completion_tokens_details") or told.get("output_tokens_details") or {}
    read, written = _int(told, "cache_read_input_tokens"), _int(told, "cache_creation_input_tokens")
    return Usage(  # Anthropic counts what it had cached apart, the others count it in
        input=(_int(told, "prompt_tokens") or _int(told, "input_tokens")) + read + written,
        output=_int(told, "completion_tokens") or _int(told, "output_tokens"),
        cached=read or _int(details, "cached_tokens"),
        written=written or _int(details, "cache_write_tokens"),
        reasoning=_int(out, "reasoning_tokens"),
    )


def _int(of: Any, name: str) -> int:
    value = of.get(name) if isinstance(of, dict) else None
    return int(value) if isinstance(value, int | float) and 0 < value < MOST_TOKENS else 0
