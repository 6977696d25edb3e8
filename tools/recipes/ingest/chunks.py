"""Blocks to chunks: ranges of the text that break where sentences do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from canonical import Block, Parsed
from plain_text import stripped, trimmed

WORD = re.compile(r"\S+")
SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*\s+|[。！？]|\n+")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes ``[start:end]`` of the canonical text in UTF-8."""

    start: int
    end: int
    heading: tuple[str, ...]
    page: int | None
    parent: tuple[int, int] | None = None  # the range of what is given in its place


def size(text: str) -> int:
    """Words; for scripts without spaces, as many as the characters would make."""
    return max(len(WORD.findall(text)), len(text) // 12)


def chunks_of(parsed: Parsed, words: int, overlap: int) -> list[Chunk]:
    """Cut along headings, then blocks, then sentences, then words, so that no chunk is longer than `words`.

    A chunk after another of the same section begins with up to `overlap` words of it, in whole sentences.
    """
    return as_chunks(parsed.text, ranges_of(parsed.text, blocks_of(parsed), words, overlap))


def blocks_of(parsed: Parsed) -> list[Block]:
    """Its blocks; of a text of headings alone, all of it."""
    text = parsed.text
    whole = stripped(text, int(text.startswith("\ufeff")), len(text), ())
    return parsed.blocks or ([whole] if whole else [])


def ranges_of(text: str, blocks: Sequence[Block], words: int, overlap: int) -> list[Block]:
    """As `chunks_of` says, in characters."""
    ranges: list[Block] = []
    for piece in (piece for block in blocks for piece in split(text, block, words)):
        last = ranges[-1] if ranges else None
        together = last and (last.heading, last.page) == (piece.heading, piece.page)
        if last and together and size(text[last.start : piece.end]) <= words:
            ranges[-1] = Block(last.start, piece.end, last.heading, last.page)
            continue
        start = piece.start
        if last and together:
            room = min(overlap, words - size(text[last.end : piece.end]))
            start = overlap_start(text, last, room, piece.start)
        ranges.append(Block(start, piece.end, piece.heading, piece.page))
    return ranges


def as_chunks(text: str, ranges: Sequence[Block], parents: Sequence[Block] = ()) -> list[Chunk]:
    """The same in bytes; `parents`, if there are some, are those of the ranges, in order."""
    offsets = byte_offsets(text, (place for item in (*ranges, *parents) for place in (item.start, item.end)))
    above = [(offsets[p.start], offsets[p.end]) for p in parents] or [None] * len(ranges)
    return [
        Chunk(offsets[r.start], offsets[r.end], r.heading, r.page, parent)
        for r, parent in zip(ranges, above, strict=True)
    ]


def split(text: str, block: Block, words: int) -> Iterator[Block]:
    """The block itself if it is short enough, else its sentences, else runs of its words."""
    if size(text[block.start : block.end]) <= words:
        yield block
        return
    for start, end in sentences(text, block.start, block.end):
        if size(text[start:end]) <= words:
            yield Block(start, end, block.heading, block.page)
            continue
        for first, last in runs(text, start, end, words):
            yield Block(first, last, block.heading, block.page)


def sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Ranges of sentences without the white space around them."""
    ends = [match.end() for match in SENTENCE_END.finditer(text, start, end)]
    for stop in [*ends, end]:
        first, last = trimmed(text, start, stop)
        if last > first:
            yield first, last
        start = stop


def runs(text: str, start: int, end: int, words: int) -> Iterator[tuple[int, int]]:
    """At most `words` words or 12 characters for each of them."""
    found: list[tuple[int, int]] = []
    for match in WORD.finditer(text, start, end):
        long = range(match.start(), match.end(), words * 12)
        found += ((at, min(at + words * 12, match.end())) for at in long)
    first = 0
    for index in range(1, len(found) + 1):
        if index == len(found) or max(index + 1 - first, (found[index][1] - found[first][0]) // 12) > words:
            yield found[first][0], found[index - 1][1]
            first = index


def overlap_start(text: str, last: Block, room: int, otherwise: int) -> int:
    for start, _ in sentences(text, last.start, last.end):
        if start > last.start and size(text[start : last.end]) <= room:
            return start
    return otherwise


def byte_offsets(text: str, places: Iterable[int]) -> dict[int, int]:
    """UTF-8 offsets of character offsets, in one pass."""
    offsets, at, byte = dict[int, int](), 0, 0
    for place in sorted(set(places)):
        byte += len(text[at:place].encode())
        offsets[place] = byte
        at = place
    return offsets
