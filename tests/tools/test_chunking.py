"""tools/chunking.py: a way of chunking is recommended only where it is surely better."""

from __future__ import annotations

from typing import Any

from agentd.plugins import Plugins, bundled_root

chunking = Plugins((bundled_root(),)).module("tools", "chunking")


def row(strategy: str, scores: list[float]) -> dict[str, Any]:
    scored = {str(number): score for number, score in enumerate(scores)}
    return {"strategy": strategy, "chunks": 9, "documents_per_s": 1.0, "search_ms": 1.0, "scores": scored}


def test_the_best_of_the_ways_that_are_surely_better_is_recommended() -> None:
    default = [0.5, 0.4, 0.6, 0.3] * 10
    told = chunking.decided(
        [
            row("structure", default),
            row("fixed", [score + 0.1 for score in default]),
            row("recursive", [score + 0.2 for score in default]),
            row("semantic", [0.9, 0.0] * 20),
        ],
        passages=False,
    )
    assert (told["recommended"], told["metric"]) == ("recursive", "nDCG@10")
    assert told["why"] == "better than structure by 0.200 on 40 questions"
    table = {line["strategy"]: line for line in told["strategies"]}
    assert table["recursive"]["from"] > 0
    assert "difference" not in table["structure"]
    assert table["semantic"]["p"] > 0.05


def test_the_default_stays_where_nothing_is_surely_better() -> None:
    told = chunking.decided(
        [row("structure", [0.0, 1.0] * 4), row("fixed", [1.0, 0.0, 1.0, 1.0] * 2)], passages=True
    )
    assert told["recommended"] == "structure"
    assert told["why"].startswith("nothing is surely better")
