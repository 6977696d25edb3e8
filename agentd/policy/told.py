"""A question as a person is shown it, whatever it is shown through: the facts first, one a line.

What is new and what it costs comes before what it is. Nothing here is escaped: whoever shows it has to
spell out what is hidden (`agentd.wording`), and to keep each value in a place of its own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentd.policy.taint import listed
from agentd.store.ledger import usd
from agentd.wording import bytes_, shortened, span

__all__ = ["Told", "figures", "money", "people_of", "takes", "told"]


@dataclass(frozen=True, slots=True)
class Told:
    """`title` is the action. `first` comes before what `changed` (each ``old → new``), `facts` after it.

    `compared` says in a sentence what it was compared with. Rows without a value are left out.
    """

    title: str
    first: Mapping[str, str]
    compared: str
    changed: Mapping[str, str]
    facts: Mapping[str, str]


def told(approval: Mapping[str, Any]) -> Told:
    """The words for a `policy.approvals.Question`, as data."""
    facts, quote = approval["facts"], approval["facts"].get("quote") or {}
    again = facts.get("again")
    limit = f", {span(facts['timeout_s'])}" if "timeout_s" in facts else ""
    tries = f" × {facts['attempts']} attempts" if facts.get("attempts", 1) > 1 else ""
    return Told(
        title=shortened(approval["action"]),
        first=_filled(
            {
                "tainted by": shortened(listed(facts.get("taint", ()))),
                "asked again": f"{again['because']} (after {again['after']})" if again else "",
                "approved by": people_of(approval) if approval["people"] > 1 else "",
            }
        ),
        compared=_compared(approval),
        changed={
            one["what"]: f"{_shown(one['before'], one['form'])} → {_shown(one['now'], one['form'])}"
            for one in approval["differences"]
            if approval["like"] is not None
        },
        facts=_filled(
            {
                "asked by": f"{approval['requested_by']} ({facts.get('why', '')})",
                **{name: shortened(str(value)) for name, value in figures(quote).items() if value},
                "at most": f"{usd(facts['max_micro_usd'])}{limit}{tries}" if "max_micro_usd" in facts else "",
                **{f"with {name}": _shown(value) for name, value in facts.get("arguments", {}).items()},
                **{f"input {name}": digest[:16] for name, digest in facts.get("inputs", {}).items()},
                "recipe": " ".join((facts.get("recipe", ""), facts.get("recipe_digest", "")[:16])).strip(),
                "environment": facts.get("environment", "")[:16],
                "digest": approval["digest"][:16],
            }
        ),
    )


def people_of(approval: Mapping[str, Any]) -> str:
    """``1 of 2 people (ann)``: who has approved so far."""
    who = ", ".join(answer["person"] for answer in approval["answers"] if answer["verdict"] == "approve")
    return f"{approval['given']} of {approval['people']} people" + (f" ({who})" if who else "")


def figures(quote: Mapping[str, Any]) -> dict[str, Any]:
    """What a quote says, by name; empty where it says nothing."""
    sizes = {"memory": "ram_bytes", "GPU memory": "vram_bytes", "disk": "disk_bytes"}
    return {
        "takes about": takes(quote),
        "GPU-hours": quote.get("gpu_hours") or "",
        "costs about": money(quote.get("micro_usd")),
        "for tokens": money(quote.get("tokens_micro_usd") or None),
        **{name: bytes_(quote[key]) for name, key in sizes.items() if quote.get(key)},
        "in doubt": quote.get("doubt"),
        "figured from": quote.get("basis"),
    }


def takes(quote: Mapping[str, Any]) -> str:
    """``5.0 min (4.1 min to 6.9 min in 80 % of 9 past jobs)``; nothing for a quote without a time."""
    if not quote.get("seconds"):
        return ""
    if not quote.get("level"):
        return span(quote["seconds"])
    within = f"{span(quote['seconds_low'])} to {span(quote['seconds_high'])}"
    return (
        f"{span(quote['seconds'])} ({within} in {100 * quote['level']:.0f} % of"
        f" {quote['past_jobs']} past jobs)"
    )


def money(micro: int | None) -> str:
    return "" if micro is None else usd(micro)


def _compared(approval: Mapping[str, Any]) -> str:
    if approval["like"] is None:
        return "nothing like it was approved before"
    if not approval["differences"]:
        return f"nothing differs from {approval['like']}, which was approved"
    return f"differs from {approval['like']}, which was approved:"


def _filled(rows: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in rows.items() if value}


def _shown(value: Any, form: str = "value") -> str:
    """A value so that none can be taken for several: texts in quotation marks, as JSON."""
    if value is None:
        return "(none)" if form != "value" else "null"
    if form in ("usd", "seconds", "bytes") and isinstance(value, int | float):
        return usd(round(value)) if form == "usd" else span(value) if form == "seconds" else bytes_(value)
    if form == "digest":
        return str(value)[:16]
    return shortened(json.dumps(value, ensure_ascii=False, default=str))
