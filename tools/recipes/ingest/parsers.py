"""Which parser reads which file."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path

from canonical import Parsed
from code_text import GRAMMARS, parse_code
from docx_text import parse_docx
from html_text import parse_html
from pdf_text import parse_pdf
from plain_text import parse_lines, parse_markdown, parse_text

MARKDOWN = frozenset({".md", ".markdown", ".mdx"})
HTML = frozenset({".html", ".htm", ".xhtml"})
LINES = frozenset({".log"})


def parser_of(path: Path, languages: str = "") -> Callable[[bytes], Parsed]:
    """`languages` of scans, which are recognised then."""
    suffix = path.suffix.lower()
    if suffix == ".pdf":
        return functools.partial(parse_pdf, languages=languages)
    if suffix == ".docx":
        return parse_docx
    if suffix in MARKDOWN:
        return parse_markdown
    if suffix in HTML:
        return parse_html
    if suffix in GRAMMARS:
        return functools.partial(parse_code, suffix=suffix)
    return parse_lines if suffix in LINES else parse_text
