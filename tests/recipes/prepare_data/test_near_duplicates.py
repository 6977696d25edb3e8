"""What is compared of a row, to tell near-duplicates."""

from __future__ import annotations

from tests.recipes.prepare_data.conftest import chat, recipe


def test_a_template_that_all_rows_share_does_not_make_them_alike() -> None:
    words = (
        "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho tau psi chi"
    )
    samples = [
        chat(f"Please classify this customer message now: {word}. Answer in JSON only, please")
        for word in words.split()
    ]
    assert recipe.near_duplicates.compared(samples) == words.split()
