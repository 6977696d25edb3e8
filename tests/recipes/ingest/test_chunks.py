"""Chunks are ranges of the file's own bytes, and end where sentences and sections do."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.recipes.ingest.conftest import recipe

words = st.sampled_from(
    ["order", "Größe", "返品", "naïve.", "two", "Euro €5.", "🙂", "end!", "- item", "| a | b |"]
)


breaks = st.sampled_from(
    [" ", "\n", "\r\n", "\n\n", "\r\n\r\n", "\n# Head\n\n", "\n- ", "\t", "\u2028", "\x0c"]
)


documents = st.lists(st.tuples(words, breaks), max_size=60).map(
    lambda pairs: "".join(w + b for w, b in pairs)
)


anything = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=300)


marks = st.sampled_from([b"", b"\xef\xbb\xbf"])


def cut(data: bytes, suffix: str, longest: int, overlap: int) -> tuple[Any, list[Any]]:
    parsed = recipe.parsers.parser_of(Path(f"a{suffix}"))(data)
    return parsed, recipe.chunks.chunks_of(parsed, longest, overlap)


@given(
    st.one_of(documents, anything),
    marks,
    st.sampled_from([".md", ".txt", ".rst", ".log"]),
    st.integers(2, 40),
)
@settings(max_examples=300, deadline=None)
def test_every_chunk_is_a_range_of_the_files_own_bytes(
    text: str, mark: bytes, suffix: str, longest: int
) -> None:
    data = mark + text.encode()
    if not data.strip():
        return
    parsed, chunks = cut(data, suffix, longest, longest // 3)
    assert not parsed.own_text
    assert parsed.text.encode() == data
    for chunk in chunks:
        piece = data[chunk.start : chunk.end].decode()  # raises inside of a character
        assert piece == piece.strip()
        assert not piece.startswith("\ufeff")
        assert recipe.chunks.size(piece) <= longest


@given(documents, st.integers(5, 40))
@settings(max_examples=200, deadline=None)
def test_no_word_of_a_text_is_lost_between_chunks(text: str, longest: int) -> None:
    data = text.encode()
    if not data.strip():
        return
    _, chunks = cut(data, ".txt", longest, 0)
    inside = "".join("".join(data[c.start : c.end].decode().split()) for c in chunks)
    assert inside == "".join(text.split())


def test_a_chunk_knows_the_headings_above_it_and_never_crosses_one() -> None:
    text = "# Shop\n\nIntro.\n\n## Refunds\n\nIn 45 days.\n\n### Bulky\n\nWe collect.\n\n## Hours\n\nNine.\n"
    parsed, chunks = cut(text.encode(), ".md", 200, 30)
    assert parsed.title == "Shop"
    assert [(c.heading, text[c.start : c.end]) for c in chunks] == [
        (("Shop",), "Intro."),
        (("Shop", "Refunds"), "In 45 days."),
        (("Shop", "Refunds", "Bulky"), "We collect."),
        (("Shop", "Hours"), "Nine."),
    ]


def test_front_matter_gives_the_title_and_is_no_chunk() -> None:
    data = b"---\r\ntitle: 'Returns'\r\n---\r\nSend it back.\r\n"
    parsed, chunks = cut(data, ".md", 200, 30)
    assert parsed.title == "Returns"
    assert [data[c.start : c.end] for c in chunks] == [b"Send it back."]


def test_a_long_section_is_cut_between_sentences_and_neighbours_share_one() -> None:
    text = " ".join(f"Sentence number {n} has seven words here." for n in range(20))
    _, chunks = cut(text.encode(), ".txt", 30, 8)
    pieces = [text[c.start : c.end] for c in chunks]
    assert all(piece.startswith("Sentence") and piece.endswith("here.") for piece in pieces)
    for before, after in itertools.pairwise(pieces):
        assert after.startswith(before[before.rindex("Sentence") :])
