"""What a Word document (DOCX) says: headings by their styles, paragraphs, tables as rows."""

from __future__ import annotations

import io
import re
import zipfile
from typing import Any

from canonical import Parsed, Writer
from failures import Unreadable
from html_text import squeeze

MOST_BYTES = 200_000_000  # unpacked: a small archive may declare anything


def parse_docx(data: bytes) -> Parsed:
    """Not covered: headers, footers, notes, comments, text boxes, pictures, and a table inside of another."""
    import docx

    if not data:
        raise Unreadable("the file is empty")
    if data.startswith(b"\xd0\xcf\x11\xe0"):
        raise Unreadable("an encrypted or an old Word document: save it as DOCX without a password")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except zipfile.BadZipFile:
        raise Unreadable("the Word document is malformed: get it anew") from None
    if unpacked > MOST_BYTES:
        raise Unreadable(
            f"it unpacks to {unpacked / 1e6:.0f} MB; the most is {MOST_BYTES / 1e6:.0f} MB: split it"
        )
    try:
        document = docx.Document(io.BytesIO(data))
    except (KeyError, ValueError):
        raise Unreadable("the Word document is malformed: get it anew") from None
    writer, title = Writer(), squeeze(document.core_properties.title or "")
    for part in document.iter_inner_content():
        if hasattr(part, "rows"):
            text = "\n".join(filter(None, map(row_text, part.rows)))
            writer.block(text) if text else None
        elif text := part.text.strip():
            style = part.style.name if part.style else ""
            level = re.fullmatch(r"Heading (\d)", style or "")
            title = title or (squeeze(text) if style == "Title" else "")
            writer.heading(int(level[1]), squeeze(text)) if level else writer.block(text)
    return writer.parsed(title)


def row_text(row: Any) -> str:
    """Its cells, each once: python-docx repeats one that spans columns."""
    cells = [squeeze(cell.text) for cell in dict.fromkeys(row.cells)]
    return " | ".join(cells) if any(cells) else ""
