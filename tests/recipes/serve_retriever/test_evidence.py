"""What answers a question, and what contradicts a claim."""

from __future__ import annotations

import pytest

from tests.recipes.serve_retriever.conftest import recipe


@pytest.mark.parametrize(
    ("claim", "sentence", "wrong"),
    [
        ("It takes 5 days.", "It takes 3 to 5 working days.", False),
        ("It takes 7 days.", "It takes 3 to 5 working days.", True),
        ("Cards are accepted.", "Cards are not accepted.", True),
        ("Cards aren't taken.", "Cards are not accepted.", False),
    ],
)
def test_another_number_or_a_lost_negation_contradicts(claim: str, sentence: str, wrong: bool) -> None:
    assert recipe.evidence.contradicts(claim, sentence) is wrong


def test_a_question_for_an_amount_wants_a_sentence_with_one() -> None:
    assert recipe.evidence.fits("How often is it sent?", "It comes every second Thursday.") == 1.0
    assert recipe.evidence.fits("How often is it sent?", "Nothing is sent without it.") == 0.0
    assert recipe.evidence.fits("Is it sent?", "Nothing is sent without it.") == 1.0


def test_an_answer_brings_along_the_sentence_it_leans_on() -> None:
    texts = [
        ("Engraved goods are made at once.", 0.4),
        ("They can be cancelled within 15 minutes.", 0.9),
        ("Other.", 0.1),
    ]
    found = [{"text": text, "score": score, "chunk": 1} for text, score in texts]
    assert [sentence["text"] for sentence in recipe.evidence.extract(found)] == [
        text for text, _ in texts[:2]
    ]
