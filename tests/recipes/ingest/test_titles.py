"""A file's name as title, only where it says something."""

from __future__ import annotations

import pytest

from tests.recipes.ingest.conftest import recipe


@pytest.mark.parametrize(
    ("stem", "title"),
    [
        ("gift-cards", "gift-cards"),
        ("chapter2", "chapter2"),
        ("2024-returns", "2024-returns"),
        ("Rückgabe", "Rückgabe"),
        ("0000123", ""),
        ("doc_12", ""),
        ("deadbeef00cafe", ""),
        ("162428-0-349", ""),
        ("3f2b8c1e-9d4a-4f6b-8a7c-0123456789ab", ""),
        ("README", ""),
    ],
)
def test_a_name_without_a_telling_word_is_no_title(stem: str, title: str) -> None:
    assert recipe.titles.title_of_name(stem) == title
