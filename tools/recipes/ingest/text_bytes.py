"""Bytes to text: UTF-8 as it stands, another encoding by its mark or by detection, never two in one file."""

from __future__ import annotations

import codecs

from failures import Unreadable

MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
FEWEST_BYTES = 40  # below that, many encodings fit equally well
SAMPLE_BYTES = 200_000
TO_UTF8 = "convert it to UTF-8, e.g. iconv -f ENCODING -t UTF-8"


def decode(data: bytes) -> tuple[str, str]:
    """The text, and the encoding that was found if it isn't UTF-8, else "".

    A byte order mark of UTF-8 stays in the text, so that offsets are those of the file. Raises `Unreadable`
    for no text at all, for binary data, for an encoding that cannot be told and for two in one file.
    """
    if not data.strip():
        raise Unreadable("the file is empty")
    for mark, encoding in MARKS.items():
        if data.startswith(mark):
            return decoded(data, encoding), encoding
    if b"\0" in data:
        raise Unreadable("a binary file, not text, HTML or PDF")
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        start = error.start
    where = f"not UTF-8: byte {data[start]:#04x} at offset {start}"
    if not data[:start].isascii():
        raise Unreadable(f"{where}, after text that is UTF-8: mixed encodings; mend that place")
    if len(data) < FEWEST_BYTES:
        raise Unreadable(f"{where}; {TO_UTF8}")
    sample = data[max(0, start - SAMPLE_BYTES // 2) : start + SAMPLE_BYTES // 2]
    encoding = detected(sample if len(data) > SAMPLE_BYTES else data)
    if not encoding:
        raise Unreadable(
            f"{where}: a binary file, or an encoding that cannot be told; if it is text, {TO_UTF8}"
        )
    return decoded(data, encoding), encoding


def detected(data: bytes) -> str:
    """The likeliest encoding, "" if there is none."""
    from charset_normalizer import from_bytes

    wide = ["utf_16", "utf_16_be", "utf_16_le", "utf_32", "utf_32_be", "utf_32_le", "utf_7"]  # have marks
    found = from_bytes(data, cp_exclusion=wide).best()
    if found is None:
        return ""
    same = found.could_be_from_charset  # they read these bytes alike; elsewhere in a long file they may not
    return "cp1252" if "cp1252" in same else found.encoding


def decoded(data: bytes, encoding: str) -> str:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise Unreadable(f"looks like {encoding}, but offset {error.start} is not; {TO_UTF8}") from None
