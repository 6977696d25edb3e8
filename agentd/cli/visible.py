"""Text for a terminal, with whatever it would obey or an eye not see spelled out.

Names, arguments and reasons come from models, documents and data. Control characters could move the
cursor or recolour a line, bidirectional overrides show a word backwards, and characters without a
shape hide in one. Not covered: letters of one script that look like another's.
"""

from __future__ import annotations

import re
from typing import Any

from rich.text import Text

__all__ = ["shortened", "spelled", "visible"]

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


def visible(value: Any, *, lines: bool = False) -> Text:
    """The same for a rich console, the escapes in reverse: a text cannot fake one."""
    text, shown, end = str(value), Text(), 0
    for found in _DOUBTFUL.finditer(text):
        if (escape := _spelled(found[0], lines)) != found[0]:
            shown.append(text[end : found.start()])
            shown.append(escape, style="reverse")
            end = found.end()
    return shown.append(text[end:])


def shortened(text: str, longest: int = 400) -> str:
    """The beginning of a text, and how long it is in all."""
    return text if len(text) <= longest else f"{text[:longest]} … ({len(text):,} characters in all)"


def _spelled(character: str, lines: bool) -> str:
    if lines and character in "\n\t":
        return character
    if character.isprintable() and not _HIDDEN.match(character):
        return character
    code = ord(character)
    return _SHORT.get(character) or (
        f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    )
