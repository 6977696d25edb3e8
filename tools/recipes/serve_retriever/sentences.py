"""Sentences of a passage, each where it stands."""

from __future__ import annotations

import re
from dataclasses import dataclass

from words import WORD

UNIT = re.compile(r"(?:\r?\n){2,}|\r?\n(?=[ \t]*(?:[-*+•|]|\d{1,3}[.)]|#{1,6})\s)")
MARKER = re.compile(r"[ \t]*(?:(?:[-*+•]|\d{1,3}[.)]|>|#{1,6})[ \t]+)+")
STOP = re.compile(r"[.!?…][\"'”’)\]*_]*(?=\s+[\"'“‘(\[*_]*[^\sa-z])|[。！？]")
ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|no|nr|fig|eq|sec|dr|mr|mrs|ms|prof|st|approx|al|z\.b|bzw)|\b[A-Z])\.$", re.I
)
RULE = re.compile(r"[\s|:=-]*")


@dataclass(frozen=True, slots=True)
class Sentence:
    """Characters ``[start:end]`` of a chunk's text, and the words that say what it is about."""

    start: int
    end: int
    text: str
    context: str

    @property
    def placed(self) -> str:
        """The text after what it is about."""
        return f"{self.context}: {self.text}" if self.context else self.text


def sentences_of(text: str, heading: str) -> list[Sentence]:
    """Sentences of prose, items of lists, rows of tables: verbatim, without the marker in front."""
    found: list[Sentence] = []
    columns = ""
    at = 0
    for end, begin in [(m.start(), m.end()) for m in UNIT.finditer(text)] + [(len(text), len(text))]:
        unit, start = text[at:end], at
        at = begin
        if "|" in unit:
            rows = table_rows(unit, start)
            columns = columns or (unit[: unit.find("\n")] if "\n" in unit else unit)
            found += (
                Sentence(s, e, text[s:e], f"{heading}: {' '.join(words(columns))}".removeprefix(": "))
                for s, e in rows
            )
            continue
        columns = ""
        marker = MARKER.match(unit)
        skip = marker.end() if marker else 0
        found += (Sentence(s, e, text[s:e], heading) for s, e in split(text, start + skip, end))
    return found


def words(text: str) -> list[str]:
    return WORD.findall(text)


def trimmed(text: str, start: int, end: int, shift: int = 0) -> tuple[int, int]:
    """The range without the white space at its ends, moved by `shift`."""
    piece = text[start:end]
    first = shift + start + len(piece) - len(piece.lstrip())
    return first, first + len(piece.strip())


def table_rows(unit: str, start: int) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for line in re.finditer(r"[^\r\n]+", unit):
        if not RULE.fullmatch(line[0]):
            ranges.append(trimmed(unit, line.start(), line.end(), start))
    return ranges


def split(text: str, start: int, end: int) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for match in [*STOP.finditer(text, start, end), None]:
        stop = match.end() if match else end
        if match and ABBREVIATION.search(text, start, match.start() + 1):
            continue
        if text[start:stop].strip():
            ranges.append(trimmed(text, start, stop))
        start = stop
    return ranges
