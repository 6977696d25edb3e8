"""What is left out, and what is told of it."""

from __future__ import annotations

from tests.recipes.prepare_data.conftest import chat, recipe


def test_exact_repeats_are_left_out_whatever_their_case_and_contradictions_are_told() -> None:
    steps = recipe.samples.Steps()
    samples = [chat("Where is it?"), chat("where is it", "YES"), chat("Where is it?", "no")]
    kept = recipe.cleaning.without_repeats(samples, steps)
    assert [s.answer for s in kept] == ["yes", "no"]
    assert recipe.cleaning.conflicts(kept, steps) == 2
    assert steps.told[-1]["examples"]


def test_answers_rated_differently_become_a_pair() -> None:
    steps = recipe.samples.Steps()
    rated = [("a", "good", 1.0), ("a", "bad", -1.0), ("b", "poor", -1.0), ("c", "yes", None)]
    samples = [chat(asked, answer, rating=rating) for asked, answer, rating in rated]
    kept = recipe.cleaning.by_rating(samples, 0.0, steps)
    assert [(s.answer, s.rejected) for s in kept] == [("good", "bad"), ("yes", "")]
    assert [d["reason"] for d in steps.dropped] == [
        "it is the worse answer of a pair with f:1",
        "it is rated -1, below 0",
    ]
