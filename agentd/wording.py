"""Texts, times and sizes as people are shown them, at a terminal and on a page.

Names, arguments and reasons come from models, documents and data. Control characters could move the
cursor or recolour a line, bidirectional overrides show a word backwards, and characters without a
shape hide in one: they are spelled out. Not covered: letters of one script that look like another's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["bytes_", "pieces", "shortened", "span", "spelled"]

# Printable by category, but without a shape of their own: fillers, variation selectors, a blank.
_SHAPELESS = (
    "\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef"
)
_DOUBTFUL = re.compile(f"[^ -~]|[{_SHAPELESS}]")
_HIDDEN = re.compile(f"[{_SHAPELESS}]")
_SHORT = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def spelled(text: str, *, lines: bool = False) -> str:
    """`text` with escapes for what is not seen as it is; with `lines`, newlines and tabs stay."""
    return _DOUBTFUL.sub(lambda found: _spelled(found[0], lines), text)


def pieces(text: str, *, lines: bool = False) -> Iterator[tuple[str, bool]]:
    """The same in pieces, each with whether it is an escape: set off, none can be faked by a text."""
    end = 0
    for found in _DOUBTFUL.finditer(text):
        if (escape := _spelled(found[0], lines)) != found[0]:
            if found.start() > end:
                yield text[end : found.start()], False
            yield escape, True
            end = found.end()
    if end < len(text):
        yield text[end:], False


def shortened(text: str, longest: int = 400) -> str:
    """The beginning of a text, and how long it is in all."""
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text):,} characters in all)"


def span(seconds: float | None) -> str:
    """``45 s``, ``7.5 min``, ``2.1 h``."""
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def bytes_(n: float) -> str:
    """``163 MB``, decimal."""
    for unit in ("B", "kB", "MB", "GB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit in ("B", "kB") or n >= 100 else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} TB"


def _spelled(character: str, lines: bool) -> str:
    if lines and character in "\n\t":
        return character
    if character.isprintable() and not _HIDDEN.match(character):
        return character
    code = ord(character)
    return _SHORT.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )
