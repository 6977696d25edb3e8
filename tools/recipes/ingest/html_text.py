"""What a page of HTML says, without what surrounds it."""

from __future__ import annotations

import re
from typing import Any

from canonical import Parsed, Writer
from failures import Unreadable

CHROME = ["script", "style", "noscript", "template", "nav", "footer", "aside", "form", "svg", "iframe"]
BLOCK_TAGS = frozenset(
    """
    address article blockquote body dd details div dl dt fieldset figcaption figure header hr li main ol p pre
    section summary table tbody td th tr ul
    """.split()  # noqa: SIM905
)


def parse_html(data: bytes) -> Parsed:
    from selectolax.lexbor import LexborHTMLParser

    if not data.strip():
        raise Unreadable("the file is empty")
    tree = LexborHTMLParser(data)
    title_node = tree.css_first("title")
    title = squeeze(title_node.text()) if title_node else ""
    tree.strip_tags(CHROME)
    root = tree.css_first("main") or tree.body
    writer = Writer()
    try:
        write_html(root, writer) if root is not None else None
    except RecursionError:
        raise Unreadable("the page is nested too deeply: keep its text alone") from None
    if not writer.blocks:
        raise Unreadable("the page has no text")
    return writer.parsed(title)


def write_html(node: Any, writer: Writer) -> None:
    """Walk the block elements; inline text between them becomes a block of its own."""
    inline: list[str] = []

    def flush() -> None:
        text = squeeze("".join(inline))
        inline.clear()
        if text:
            writer.block(text)

    for child in node.iter(include_text=True):
        tag: str = child.tag
        if tag not in BLOCK_TAGS and not re.fullmatch("h[1-6]", tag):
            inline.append(flat(child))
            continue
        flush()
        if tag == "pre":
            writer.block(code) if (code := child.text().strip("\r\n").replace("\r\n", "\n")) else None
        elif tag[0] == "h" and tag[1:].isdigit():
            writer.heading(int(tag[1:]), heading) if (heading := squeeze(flat(child))) else None
        elif rows := html_rows(child):
            writer.block("\n".join(rows))
        else:
            write_html(child, writer)
    flush()


def html_rows(node: Any) -> list[str]:
    """The rows of a table or the items of a list, as lines; none for any other element."""
    if node.tag == "table":
        return [row for row in map(table_row, node.css("tr")) if row]
    if node.tag in ("ul", "ol"):
        return [f"- {item}" for child in node.iter() if child.tag == "li" and (item := squeeze(flat(child)))]
    return []


def flat(node: Any) -> str:
    """The text of an element, with spaces where block elements and line breaks part words."""
    if node.tag == "-text":
        return node.text(deep=False) or ""
    if node.tag.startswith("-"):
        return ""
    text = "".join(map(flat, node.iter(include_text=True)))
    return f" {text} " if node.tag in BLOCK_TAGS or node.tag == "br" else text


def table_row(row: Any) -> str:
    cells = [squeeze(flat(cell)) for cell in row.css("td,th")]
    return " | ".join(cells) if any(cells) else ""


def squeeze(text: str) -> str:
    return " ".join(text.split())
