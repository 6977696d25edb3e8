"""Bytes that are no text."""

from __future__ import annotations

import pytest

from tests.recipes.ingest.conftest import recipe


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"caf\xe9", "not UTF-8: byte 0xe9 at offset 3"),
        (b"\x7fELF\0", "not a text"),
    ],
)
def test_bytes_that_are_no_text_say_why(data: bytes, why: str) -> None:
    with pytest.raises(recipe.failures.Unreadable, match=why):
        recipe.plain_text.parse_text(data)
