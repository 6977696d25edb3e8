"""Paragraphs and headings out of lines."""

from __future__ import annotations

import pytest

from tests.recipes.ingest.conftest import recipe


def test_a_pdf_line_becomes_a_heading_only_before_a_paragraph() -> None:
    lines = [
        "Buying a card",
        "The value is free to choose between ten and two hundred and fifty euros, and",
        "a message of up to three hundred characters is printed on it. The receiver finds",
        "the code below the message, and the card is sent at once.",
        "one two",
        "three four",
    ]
    assert list(recipe.pdf_text.reflow(lines)) == [
        ("heading", "Buying a card"),
        ("text", " ".join(lines[1:4])),
        ("text", "one two three four"),
    ]


def test_a_word_broken_by_a_hyphen_is_joined_again() -> None:
    assert recipe.pdf_text.joined(["a non-", "stick pan", "Made"]) == "a non-stick pan Made"


def test_lines_that_end_in_as_many_figures_are_a_table_under_their_names() -> None:
    lines = [
        "We compare three.",
        "Model Full Small",
        "SVM (linear) 91.0 89.6",
        "CNN 88.9 —",
        "In all, 2 of 3.",
    ]
    assert list(recipe.pdf_text.reflow(lines)) == [
        ("text", "We compare three."),
        ("table", "Model | Full | Small\nSVM (linear) | 91.0 | 89.6\nCNN | 88.9 | —"),
        ("text", "In all, 2 of 3."),
    ]


@pytest.mark.parametrize("lines", [["Born in 1990 2001."], ["It costs 4 5", "and 6 dollars."], ["1 2"], []])
def test_figures_on_a_single_line_or_inside_of_prose_are_no_table(lines: list[str]) -> None:
    assert recipe.pdf_text.tables_of(lines) == {}
