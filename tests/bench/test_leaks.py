"""agentd/bench/leaks.py: what is sown is what it is called, and nothing else leaks."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from agentd.bench.leaks import SHIPPED, Row, rewritten, sown, texts_of
from agentd.errors import DataError
from agentd.plugins import bundled_root

TEXTS = [
    f"Ann has {n} red balls and Ben gives her {n + 1} green ones from box {n}. How many has she in total?"
    for n in range(2, 62)
]
OF = hashlib.sha256(TEXTS[7].encode()).hexdigest()[:16]
BY_HAND = [(OF, "paraphrase, chosen", "In all, what number of balls does Ann hold?"), ("0" * 16, "x", "lost")]


def kind(rows: list[Row], name: str) -> list[Row]:
    return [row for row in rows if row.kind == name]


def test_the_suite_and_what_is_sown_are_the_same_each_time() -> None:
    assert sown(TEXTS, BY_HAND) == sown(TEXTS, BY_HAND)


def test_clean_rows_and_the_suite_are_the_whole_file_and_apart() -> None:
    suite, rows = sown(TEXTS, BY_HAND)
    clean = [row.text for row in kind(rows, "clean")]
    assert len(suite) == len(TEXTS) // 3
    assert sorted([*suite.values(), *clean]) == sorted(TEXTS)


def test_a_paraphrase_by_hand_brings_its_row_into_the_suite_and_one_of_another_file_is_left_out() -> None:
    suite, rows = sown(TEXTS, BY_HAND)
    assert [(row.text, suite[row.of]) for row in kind(rows, "paraphrase, chosen")] == [
        (BY_HAND[0][2], TEXTS[7])
    ]
    assert kind(rows, "x") == []


def test_a_fragment_holds_thirteen_words_in_a_row_and_not_the_whole() -> None:
    suite, rows = sown(TEXTS, ())
    fragments = kind(rows, "fragment")
    assert len(fragments) == len(suite)
    for row in fragments:
        words = suite[row.of].split()
        runs = [" ".join(words[at : at + 13]) for at in range(len(words) - 12)]
        assert any(run in row.text for run in runs)
        assert suite[row.of] not in row.text


def test_texts_are_read_from_conversations_and_from_fields_of_their_own(tmp_path: Path) -> None:
    shipped = texts_of(bundled_root() / SHIPPED)
    assert len(shipped) == 320
    assert shipped[0].startswith("I recently bought something in foreign currency")
    path = tmp_path / "rows.jsonl"
    path.write_text('{"question": "a"}\n\n{"question": "b"}\n')
    assert texts_of(path) == ["a", "b"]
    path.write_text('{"x": "a"}\n')
    with pytest.raises(DataError, match="not every row has one of question, prompt"):
        texts_of(path)


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        (
            "Ann has 3 balls. Ben gives her two. How many has she?",
            "what number of owns she? Ann owns three balls. Ben hands her 2.",
        ),
        ("It costs $3.50 and 20% of 12 buys it.", None),
        ("Nothing here is replaced.", None),
    ],
)
def test_a_row_is_rewritten_by_rule_or_not_at_all(text: str, changed: str | None) -> None:
    assert rewritten(text) == changed
