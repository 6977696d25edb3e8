"""A parser that hangs, crashes or bloats costs one document."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.ingest.conftest import recipe

NOTE = Path("note.txt")


@pytest.fixture
def parser() -> Iterator[Any]:
    parser = recipe.parser_process.ParserProcess()
    yield parser
    parser.close()


WAY = recipe.strategies.Way()


def test_a_document_over_its_time_is_left_out_and_the_next_one_is_read(parser: Any) -> None:
    parser.seconds = 0.0
    with pytest.raises(recipe.failures.Unreadable, match="longer than 0 s; split it"):
        parser.read(NOTE, b"word " * 500_000, WAY)
    parser.seconds = 60.0
    assert parser.read(NOTE, b"Fine.", WAY).text == "Fine."


def test_a_crash_is_told_and_the_next_document_is_read(parser: Any) -> None:
    parser.start()
    parser.process.kill()
    with pytest.raises(recipe.failures.Unreadable, match="crashed"):
        parser.read(NOTE, b"Lost.", WAY)
    assert parser.read(NOTE, b"Fine.", WAY).chunks == [
        {"start": 0, "end": 5, "heading": (), "page": None, "parent": None}
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="memory is bounded on Linux only")
def test_a_document_over_its_memory_is_left_out(parser: Any) -> None:
    parser.memory = 100_000_000
    with pytest.raises(recipe.failures.Unreadable, match=r"more than 0\.1 GB"):
        parser.read(NOTE, b"a" * 49_000_000, WAY)


def test_one_enormous_line_is_cut_into_chunks(parser: Any) -> None:
    read = parser.read(NOTE, b"word " * 100_000, WAY)
    assert len(read.chunks) == 500
    assert max(chunk["end"] - chunk["start"] for chunk in read.chunks) < 1000
