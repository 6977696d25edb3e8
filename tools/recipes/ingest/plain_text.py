"""Markdown, plain text and logs: the text is the file itself, byte for byte, if it is UTF-8."""

from __future__ import annotations

import re

from canonical import Block, Outline, Parsed
from text_bytes import decode

FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r|\Z)")
PARAGRAPH = re.compile(r"\S.*(?:(?:\r\n|\n|\r)[^\S\r\n]*\S.*)*")


def parse_markdown(data: bytes) -> Parsed:
    from markdown_it import MarkdownIt

    text, encoding = decode(data)
    matter = FRONT_MATTER.match(text)
    begin = matter.end() if matter else int(text.startswith("\ufeff"))
    body = text[begin:]
    lines = [begin + match.start() for match in LINE.finditer(body)] + [len(text)]
    outline, blocks = Outline(), []
    tokens = MarkdownIt("commonmark").enable("table").parse(body)
    for index, token in enumerate(tokens):
        if token.level or not token.map:
            continue
        if token.type == "heading_open":
            outline.enter(int(token.tag[1:]), tokens[index + 1].content.strip())
            continue
        block = stripped(text, lines[token.map[0]], lines[token.map[1]], outline.headings())
        if block:
            blocks.append(block)
    named = re.search(r"^title:\s*(.+?)\s*$", matter[1], re.MULTILINE) if matter else None
    first = next((t for k, t in enumerate(tokens) if k and tokens[k - 1].type == "heading_open"), None)
    title = named[1].strip("\"'") if named else first.content.strip() if first else ""
    return as_found(Parsed(text, blocks, title), encoding)


def parse_text(data: bytes) -> Parsed:
    """Paragraphs, parted by blank lines. Serves for source code too."""
    text, encoding = decode(data)
    begin = int(text.startswith("\ufeff"))
    found = (stripped(text, match.start(), match.end(), ()) for match in PARAGRAPH.finditer(text, begin))
    return as_found(Parsed(text, [block for block in found if block]), encoding)


def parse_lines(data: bytes) -> Parsed:
    """One block a line: logs."""
    text, encoding = decode(data)
    begin = int(text.startswith("\ufeff"))
    found = (stripped(text, match.start(), match.end(), ()) for match in LINE.finditer(text, begin))
    return as_found(Parsed(text, [block for block in found if block]), encoding)


def as_found(parsed: Parsed, encoding: str) -> Parsed:
    """The same, with a text of its own if the file's bytes aren't UTF-8."""
    if encoding:
        parsed.own_text, parsed.warning = True, f"read as {encoding}, which was detected"
    return parsed


def stripped(text: str, start: int, end: int, heading: tuple[str, ...]) -> Block | None:
    start, end = trimmed(text, start, end)
    return Block(start, end, heading) if end > start else None


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The range without the white space at its ends."""
    piece = text[start:end]
    first = start + len(piece) - len(piece.lstrip())
    return first, first + len(piece.strip())
