"""Ways to cut a text into chunks: by its structure, which is the default, or by one of the others.

- structure: along headings, blocks and sentences (`chunks.chunks_of`)
- fixed: windows of so many words, wherever they begin
- recursive: along the largest breaks that fit (paragraphs, sentences, words), by semantic-text-splitter
- hierarchical: as by structure, each chunk cut again into quarters, which are searched in its place
- semantic: sentences, which `semantic.grouped` joins by their vectors
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from canonical import Block, Parsed
from chunks import WORD, Chunk, as_chunks, blocks_of, ranges_of, sentences, size, split

CHARS_PER_WORD, LONGEST_WORD = 12, 60  # a longer run of characters counts by these: it has no spaces
SMALLER = 4  # times smaller than its parent is what hierarchical chunking searches


@dataclass(frozen=True, slots=True)
class Way:
    """A strategy, the longest chunk, and what neighbours share, both in words; languages of OCR, if any."""

    strategy: str = "structure"
    words: int = 200
    overlap: int = 30
    ocr: str = ""


def cut(parsed: Parsed, way: Way) -> list[Chunk]:
    return STRATEGIES[way.strategy](parsed, way)


def by_structure(parsed: Parsed, way: Way) -> list[Chunk]:
    return as_chunks(parsed.text, ranges_of(parsed.text, blocks_of(parsed), way.words, way.overlap))


def fixed(parsed: Parsed, way: Way) -> list[Chunk]:
    text, blocks = parsed.text, blocks_of(parsed)
    found = list(units(text))
    ranges: list[Block] = []
    for first in range(0, len(found), way.words - way.overlap):
        last = min(first + way.words, len(found))
        ranges.append(placed(blocks, found[first][0], found[last - 1][1]))
        if last == len(found):
            break
    return as_chunks(text, ranges)


def recursive(parsed: Parsed, way: Way) -> list[Chunk]:
    from semantic_text_splitter import TextSplitter

    text, blocks = parsed.text, blocks_of(parsed)
    splitter = TextSplitter.from_callback(size, way.words, overlap=way.overlap)
    begin = int(text.startswith("\ufeff"))
    pieces = ((begin + at, piece) for at, piece in splitter.chunk_indices(text[begin:]))
    return as_chunks(text, [placed(blocks, at, at + len(piece)) for at, piece in pieces])


def hierarchical(parsed: Parsed, way: Way) -> list[Chunk]:
    text = parsed.text
    parents = ranges_of(text, blocks_of(parsed), way.words, 0)
    small = max(20, way.words // SMALLER)
    family = [(child, parent) for parent in parents for child in ranges_of(text, [parent], small, 0)]
    return as_chunks(text, [child for child, _ in family], [parent for _, parent in family])


def by_sentence(parsed: Parsed, way: Way) -> list[Chunk]:
    text = parsed.text
    found = [
        piece
        for block in blocks_of(parsed)
        for start, end in sentences(text, block.start, block.end)
        for piece in split(text, Block(start, end, block.heading, block.page), way.words)
    ]
    return as_chunks(text, found)


def units(text: str) -> Iterator[tuple[int, int]]:
    """Ranges of words, and of pieces of what is too long to be one. Not the byte order mark."""
    for match in WORD.finditer(text, int(text.startswith("\ufeff"))):
        start, end = match.span()
        if end - start <= LONGEST_WORD:
            yield start, end
        else:
            yield from ((at, min(at + CHARS_PER_WORD, end)) for at in range(start, end, CHARS_PER_WORD))


def placed(blocks: list[Block], start: int, end: int) -> Block:
    """The range under the headings and on the page of what it begins in."""
    at = bisect.bisect_right(blocks, start, key=lambda block: block.start) - 1
    home = blocks[max(at, 0)] if blocks else Block(start, end)
    return Block(start, end, home.heading, home.page)


STRATEGIES: dict[str, Callable[[Parsed, Way], list[Chunk]]] = {
    "structure": by_structure,
    "fixed": fixed,
    "recursive": recursive,
    "hierarchical": hierarchical,
    "semantic": by_sentence,
}
