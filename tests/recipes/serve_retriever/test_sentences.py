"""Sentences, each where it stands."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.recipes.serve_retriever.conftest import recipe


@given(st.text(st.sampled_from("aB. !?\n\r-|*1)#€:e.g"), max_size=120))
@settings(max_examples=300, deadline=None)
def test_sentences_are_ranges_of_the_text_in_order_and_never_overlap(text: str) -> None:
    at = 0
    for sentence in recipe.sentences.sentences_of(text, "Head"):
        assert text[sentence.start : sentence.end] == sentence.text == sentence.text.strip() != ""
        assert sentence.start >= at
        at = sentence.end


def test_list_items_and_table_rows_are_sentences_without_their_markers() -> None:
    text = (
        "We ship to Dr. Vogel, i.e. everywhere. It costs 4.90 euros:\n\n"
        "1. Standard\n2. Express\n\n| paid by | takes |\n|---|---|\n| card | 3 days |\n"
    )
    assert [sentence.text for sentence in recipe.sentences.sentences_of(text, "Shipping")] == [
        "We ship to Dr. Vogel, i.e. everywhere.",
        "It costs 4.90 euros:",
        "Standard",
        "Express",
        "| paid by | takes |",
        "| card | 3 days |",
    ]
    assert recipe.sentences.sentences_of(text, "Shipping")[-1].context == "Shipping: paid by takes"
