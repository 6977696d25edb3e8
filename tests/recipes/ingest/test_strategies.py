"""Ways to cut a text, other than by its structure."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.recipes.ingest.conftest import recipe

Way = recipe.strategies.Way
TEXT = "# Shop\n\n" + " ".join(f"Sentence number {n} has seven words here." for n in range(60))


def cut(text: str, way: Any) -> list[Any]:
    return recipe.strategies.cut(recipe.plain_text.parse_markdown(text.encode()), way)


@given(st.text(max_size=400), st.integers(2, 40), st.sampled_from(["fixed", "hierarchical", "semantic"]))
@settings(max_examples=200, deadline=None)
def test_whatever_the_way_chunks_are_ranges_of_the_text_and_no_word_is_lost(
    text: str, words: int, strategy: str
) -> None:
    data = text.encode()
    if not data.strip() or b"\0" in data or text.startswith(("\ufeff", "\ufffe", "---")):
        return
    parsed = recipe.plain_text.parse_text(data)
    pieces = [data[c.start : c.end].decode() for c in recipe.strategies.cut(parsed, Way(strategy, words, 0))]
    assert "".join("".join(piece.split()) for piece in pieces) == "".join(text.split())


def test_fixed_windows_have_just_so_many_words_and_share_just_so_many() -> None:
    chunks = cut(TEXT, Way("fixed", 50, 10))
    pieces = [TEXT[c.start : c.end].split() for c in chunks]
    assert {len(piece) for piece in pieces[:-1]} == {50}
    assert all(before[-10:] == after[:10] for before, after in itertools.pairwise(pieces))
    assert chunks[-1].heading == ("Shop",)


def test_hierarchical_chunks_lie_in_parents_that_are_four_times_as_long() -> None:
    chunks = cut(TEXT, Way("hierarchical", 100, 30))
    assert all(c.parent[0] <= c.start < c.end <= c.parent[1] for c in chunks)
    parents = sorted({c.parent for c in chunks})
    assert [p for p in parents if len(TEXT[slice(*p)].split()) > 90] == parents[:-1]
    assert max(len(TEXT[c.start : c.end].split()) for c in chunks) <= 25
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(parents))


@pytest.mark.parametrize(
    ("pages", "longest", "ends"),
    [([None] * 6, 100, [3, 6]), ([1, 2, 2, 2, 2, 2], 100, [1, 3, 6]), ([None] * 6, 20, [2, 3, 5, 6])],
)
def test_semantic_chunks_end_where_the_text_turns_a_page_begins_or_they_grow_too_long(
    pages: list[int | None], longest: int, ends: list[int]
) -> None:
    units = [{"start": n, "end": n + 1, "heading": [], "page": page} for n, page in enumerate(pages)]
    vectors = [(1.0, 0.0)] * 3 + [(0.0, 1.0)] * 3
    chunks = recipe.semantic.grouped(units, [10] * 6, vectors, longest)
    assert [chunk["end"] for chunk in chunks] == ends
