"""Paragraphs and headings out of lines."""

from __future__ import annotations

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
