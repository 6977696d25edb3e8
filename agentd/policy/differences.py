"""What differs between an action and the last one like it that was approved, by the facts of both."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from pydantic import BaseModel

__all__ = ["Difference", "differences"]

Form = Literal["usd", "seconds", "bytes", "digest", "value"]

_COSTS: tuple[tuple[str, str, Form], ...] = (
    ("at most", "max_micro_usd", "usd"),
    ("limit", "timeout_s", "seconds"),
    ("attempts", "attempts", "value"),
    ("costs about", "quote.micro_usd", "usd"),
    ("takes about", "quote.seconds", "seconds"),
    ("GPU-hours", "quote.gpu_hours", "value"),
    ("memory", "quote.ram_bytes", "bytes"),
    ("GPU memory", "quote.vram_bytes", "bytes"),
)
_WHAT: tuple[tuple[str, str, Form], ...] = (
    ("recipe", "recipe", "value"),
    ("text of the recipe", "recipe_digest", "digest"),
    ("environment", "environment", "digest"),
    ("rules", "rules", "value"),
)


class Difference(BaseModel):
    """One fact that differs; None where there is none. `form` says how to show it (money in micro-USD)."""

    what: str
    before: Any
    now: Any
    form: Form = "value"


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[Difference]:
    """From the facts of one approval to those of another: what it costs first, then what it is."""
    return [one for one in _compared(before, now) if one.before != one.now]


def _compared(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[Difference]:
    for what, path, form in _COSTS:
        yield Difference(what=what, before=_at(before, path), now=_at(now, path), form=form)
    named: tuple[tuple[str, Form], ...] = (("arguments", "value"), ("inputs", "digest"))
    for field, form in named:
        was, are = before.get(field) or {}, now.get(field) or {}
        for name in dict.fromkeys((*are, *was)):
            what = f"input {name}" if field == "inputs" else name
            yield Difference(what=what, before=was.get(name), now=are.get(name), form=form)
    for what, path, form in _WHAT:
        yield Difference(what=what, before=_at(before, path), now=_at(now, path), form=form)


def _at(facts: Mapping[str, Any], path: str) -> Any:
    outer, _, inner = path.partition(".")
    return (facts.get(outer) or {}).get(inner) if inner else facts.get(outer)
