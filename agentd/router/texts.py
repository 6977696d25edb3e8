"""What is measured of a text without keeping it: how long it is, and what it is made of. Pure."""

from __future__ import annotations

__all__ = ["measures"]

LONGEST = 20_000


def measures(text: str) -> dict[str, float]:
    """Number of words, and the shares of characters that are digits, punctuation, and not of ASCII."""
    text = text[:LONGEST]
    size = max(1, len(text))
    digits = sum(map(str.isdigit, text))
    marks = sum(not (letter.isalnum() or letter.isspace()) for letter in text)
    foreign = 0 if text.isascii() else sum(letter > "\x7f" for letter in text)
    return {
        "words": float(len(text.split())),
        "share of digits": digits / size,
        "share of punctuation": marks / size,
        "share of letters beyond ASCII": foreign / size,
    }
