"""What a run comes to, beside its scores."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from answering import cost
from desk import Desk
from rows import Row

LIBRARIES = ("httpx", "krippendorff", "numpy", "rouge-score", "sacrebleu", "scikit-learn", "scipy")


def quantile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of `values` do not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)] if ordered else 0.0


def summary(rows: Sequence[Row], desk: Desk, seconds: float, prices: Mapping[str, Any]) -> dict[str, Any]:
    answered = [row for row in rows if "output" in row]
    latencies = [row["seconds"] for row in answered if "seconds" in row]
    firsts = [row["first_s"] for row in answered if "first_s" in row]
    made = {
        "n": len(rows),
        "answered": len(answered),
        "errors": sum("error" in row for row in rows),
        "asked": desk.asked,
        "cached": sum("cached" in row for row in answered),
        "seconds": round(seconds, 3),
        "input_tokens": sum(row.get("input_tokens", 0) for row in answered),
        "output_tokens": sum(row.get("output_tokens", 0) for row in answered),
        "tokens_per_s": round(desk.asked_tokens / max(seconds, 1e-6), 1),
        "p50_s": quantile(latencies, 0.5),
        "p95_s": quantile(latencies, 0.95),
        "cut_short": sum(row.get("finish_reason") == "length" for row in answered),
        "models": sorted({row["model"] for row in answered if row.get("model")}),
    }
    if firsts:
        made |= {"first_p50_s": quantile(firsts, 0.5), "first_p95_s": quantile(firsts, 0.95)}
    if prices:
        made["micro_usd"] = sum(row.get("micro_usd", 0) for row in answered)
        made["spent_micro_usd"] = sum(cost(reply, prices) for reply in desk.spent)
    return made


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found
