"""What a PDF says: paragraphs and headings out of lines on pages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from canonical import Parsed, Writer
from failures import Unreadable
from html_text import squeeze


def parse_pdf(data: bytes) -> Parsed:
    import pypdfium2 as pdfium

    if not data:
        raise Unreadable("the file is empty")
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        locked = "password" in str(error).lower() or "security" in str(error).lower()
        raise Unreadable("the PDF is encrypted" if locked else "the PDF is malformed") from None
    try:
        writer = Writer()
        for number in range(len(document)):
            for kind, text in reflow(page_lines(document, number)):
                if kind == "heading":
                    writer.heading(2, text)
                else:
                    writer.block(text, number + 1)
        title = str(document.get_metadata_dict().get("Title") or "").strip()
    finally:
        document.close()
    if not writer.blocks:
        raise Unreadable("the PDF has no text layer: it is empty or a scan; run an OCR program over it first")
    return writer.parsed(title)


def page_lines(document: Any, number: int) -> list[str]:
    import pypdfium2 as pdfium

    try:
        text: str = document[number].get_textpage().get_text_range()
    except pdfium.PdfiumError:
        return []  # one broken page does not take the others with it
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
    # PDFium writes U+FFFE where a word was hyphenated at the end of a line
    return [squeeze(line) for line in re.sub("\ufffe(?:\r\n)?", "", whole).splitlines()]


def reflow(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Join the lines of a page into ``("text" | "heading", paragraph)``.

    A paragraph ends at an empty line, or at a short line that ends a sentence. A heading is a short
    line without a full stop, at the start of a paragraph, before a long line that goes on in capitals.
    """
    lengths = sorted(len(line) for line in lines if line)
    width = lengths[len(lengths) * 3 // 4] if lengths else 0  # of a full line: some span two columns
    current: list[str] = []
    for index, line in enumerate(lines):
        following = lines[index + 1] if index + 1 < len(lines) else ""
        short = len(line) < 0.6 * width
        if not line:
            if current:
                yield "text", joined(current)
            current = []
        elif not current and short and is_heading(line) and is_body(following, width):
            yield "heading", line
        else:
            current.append(line)
            # the next word would have fitted into this line, so somebody broke it on purpose
            fits = len(line) + 1 + len(following.split(" ", 1)[0]) < width
            if line[-1] in ".!?:" and (fits or short):
                yield "text", joined(current)
                current = []
    if current:
        yield "text", joined(current)


def is_heading(line: str) -> bool:
    return len(line.split()) <= 10 and line[-1] not in ".!?:;," and (line[0].isupper() or line[0].isdigit())


def is_body(line: str, width: int) -> bool:
    return len(line) > 0.6 * width and not line[0].islower()


def joined(lines: Sequence[str]) -> str:
    text = lines[0]
    for line in lines[1:]:
        text += line if re.search(r"\w-$", text) and line[0].islower() else f" {line}"
    return text
