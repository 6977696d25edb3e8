"""Rows out of what the gateway answered and kept: ``traffic:NAME`` among the sources of a data set.

A correction takes the place of the answer. What was cut short, or is not what was asked for, is left out.
"""

from __future__ import annotations

import datetime
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from agentd.sdk import Context, Denied, Exchange, InputError, Judgement

SCORES = {"up": 1, "neutral": 0, "down": -1}
ONLY = ("rated", "up", "corrected")
SPANS = {"m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 7 * 86_400.0}
HINT = "Write traffic:NAME, and after commas: rated, up or corrected; pairs; since=7d"


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a source asks for. `only` is one of `ONLY` or nothing, `seconds` how far back; 0 is all."""

    name: str
    only: str = ""
    pairs: bool = False
    seconds: float = 0.0


def rows_of(ctx: Context, text: str) -> list[dict[str, Any]]:
    """The rows of ``NAME[,rated|up|corrected][,pairs][,since=7d]``, as `prepare_data` reads them.

    Raises `Denied` for agents: what people asked is not theirs to read. `InputError` when there are none.
    """
    if ctx.principal.startswith("agent:"):
        raise Denied(f"{ctx.principal!r} is an agent", hint="Data sets of traffic are made by people")
    wanted = parsed(text)
    since = time.time() - wanted.seconds if wanted.seconds else 0.0
    said = {judgement.item: judgement for judgement in ctx.judgements.list("request")}
    made = list(rows(ctx.traffic.kept(wanted.name, since), said, wanted))
    if not made:
        raise InputError(
            f"No such traffic of {wanted.name!r} is kept",
            hint="Name it under [capture] in agentd.toml and start the daemon again, or ask for less",
        )
    return made


def parsed(text: str) -> Wanted:
    """Raises `InputError`."""
    name, *options = text.split(",")
    found: dict[str, Any] = {"name": name}
    for option in options:
        if span := re.fullmatch(r"since=(\d+)([mhdw])", option):
            found["seconds"] = int(span[1]) * SPANS[span[2]]
        elif option == "pairs":
            found["pairs"] = True
        elif option in ONLY and "only" not in found:
            found["only"] = option
        else:
            raise InputError(f"{option!r} in 'traffic:{text}' is not understood", hint=HINT)
    if not name:
        raise InputError(f"'traffic:{text}' names no alias or model", hint=HINT)
    return Wanted(**found)


def rows(
    exchanges: list[Exchange], said: Mapping[str, Judgement], wanted: Wanted
) -> Iterator[dict[str, Any]]:
    """A row an exchange: prompt (messages), completion, and where known rejected, rating, user; source."""
    for exchange in exchanges:
        judgement = said.get(exchange.id)
        score = SCORES.get(judgement.verdict) if judgement else None
        correction = str((judgement.value or {}).get("correction", "")) if judgement else ""
        fits = {"": True, "rated": score is not None, "up": score == 1, "corrected": bool(correction)}
        if not fits[wanted.only] or (exchange.finish == "length" and not correction):
            continue
        row: dict[str, Any] = {
            "prompt": exchange.messages,
            "completion": correction or exchange.answer,
            "source": {
                "request": exchange.id,
                "asked": exchange.asked,
                "model": exchange.model,
                "at": datetime.datetime.fromtimestamp(exchange.at, datetime.UTC).isoformat(
                    timespec="seconds"
                ),
            },
        }
        if correction and wanted.pairs:
            row["rejected"] = exchange.answer
        elif score is not None and not correction:  # a score is about the answer, not about what replaces it
            row["rating"] = score
        yield row | ({"user": exchange.user} if exchange.user else {})
