"""A title for a document that has none of its own: its file's name, where that says something.

A title is embedded with every chunk, so a number or a digest there is noise in each of them.
"""

from __future__ import annotations

import re

WORD = re.compile(r"[^\W\d_]{3,}\d{0,3}")
HEX = re.compile(r"[0-9a-f]{6,}", re.I)
PLACEHOLDERS = frozenset(
    "doc document docs file files img image index new page part readme row scan text tmp untitled".split()  # noqa: SIM905
)


def title_of_name(stem: str) -> str:
    """The name of a file without its ending, or "" if no word of it says what the document is about."""
    tokens = re.split(r"[\W_]+", stem)
    words = [token for token in tokens if WORD.fullmatch(token) and not HEX.fullmatch(token)]
    return stem if any(word.lower().rstrip("0123456789") not in PLACEHOLDERS for word in words) else ""
