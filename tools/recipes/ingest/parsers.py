"""Which parser reads which file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from canonical import Parsed
from docx_text import parse_docx
from html_text import parse_html
from pdf_text import parse_pdf
from plain_text import parse_lines, parse_markdown, parse_text

MARKDOWN = frozenset({".md", ".markdown", ".mdx"})
HTML = frozenset({".html", ".htm", ".xhtml"})
LINES = frozenset({".log"})


def parser_of(path: Path) -> Callable[[bytes], Parsed]:
    suffix = path.suffix.lower()
    if suffix == ".pdf":
        return parse_pdf
    if suffix == ".docx":
        return parse_docx
    if suffix in MARKDOWN:
        return parse_markdown
    if suffix in HTML:
        return parse_html
    return parse_lines if suffix in LINES else parse_text
