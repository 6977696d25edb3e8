"""Bytes that are no text, or text in other encodings."""

from __future__ import annotations

import pytest

from tests.recipes.ingest.conftest import recipe

GERMAN = "Der Käufer kann die Ware innerhalb von 45 Tagen zurückgeben. Die Gebühr beträgt 5 €."
RUSSIAN = "Возврат возможен в течение сорока пяти дней после покупки. Чек обязателен."


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"caf\xe9", "not UTF-8: byte 0xe9 at offset 3; convert it to UTF-8"),
        (b"\x7fELF\0", "binary file"),
        (bytes(range(1, 256)) * 3, "binary file, or an encoding that cannot be told"),
        (GERMAN.encode() + GERMAN.encode("cp1252"), "mixed encodings"),
        (b"\xff\xfea", "looks like utf-16, but offset 2 is not"),
    ],
)
def test_bytes_that_are_no_text_say_why(data: bytes, why: str) -> None:
    with pytest.raises(recipe.failures.Unreadable, match=why):
        recipe.plain_text.parse_text(data)


@pytest.mark.parametrize(
    ("text", "encoding"), [(GERMAN, "cp1252"), (GERMAN, "utf-16"), (RUSSIAN, "cp1251"), (GERMAN, "utf-32")]
)
def test_another_encoding_is_detected_told_and_gives_a_text_of_its_own(text: str, encoding: str) -> None:
    parsed = recipe.plain_text.parse_text(text.encode(encoding))
    assert parsed.text == text
    assert parsed.own_text
    assert parsed.warning == f"read as {encoding}, which was detected"
