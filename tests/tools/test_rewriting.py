"""tools/rewriting.py: other wordings, by rules or out of what a model wrote."""

from __future__ import annotations

import pytest

from agentd.plugins import Plugins, bundled_root

rewriting = Plugins((bundled_root(),)).module("tools", "rewriting")


@pytest.mark.parametrize(
    ("query", "others"),
    [
        ("What is the refund period?", ["the refund period"]),
        (
            "How do I return a knife and when is the refund paid?",
            [
                "How do I return a knife",
                "when is the refund paid",
                "I return a knife and when is the refund paid",
            ],
        ),
        ("refund by card", []),
        ("Why?", []),
    ],
)
def test_rules_part_a_question_and_leave_out_what_only_asks(query: str, others: list[str]) -> None:
    assert rewriting.by_rules(query) == others


def test_of_a_models_answer_only_lines_that_can_be_queries_are_taken() -> None:
    said = (
        f'1. refund period\n- Refund?\nrefund period\nquery 3: "how long to be paid back"\n{"essay " * 60}\n'
    )
    assert rewriting.of_lines(said, "refund?") == ["refund period", "how long to be paid back"]
