"""What a PDF says: paragraphs and headings out of lines on pages."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from canonical import Parsed, Writer
from failures import Unreadable
from html_text import squeeze

MOST_PAGES = 5_000


def parse_pdf(data: bytes) -> Parsed:
    import pypdfium2 as pdfium

    if not data:
        raise Unreadable("the file is empty")
    try:
        document = pdfium.PdfDocument(data)
    except pdfium.PdfiumError as error:
        told = str(error).lower()
        # PDFium's last error may be that of the file before
        locked = b"/Encrypt" in data and ("password" in told or "security" in told)
        raise Unreadable(
            "the PDF is encrypted: decrypt it first, e.g. qpdf --decrypt --password=… IN OUT"
            if locked
            else "the PDF is malformed: get it anew, or mend it, e.g. qpdf IN OUT"
        ) from None
    with contextlib.closing(document):
        if len(document) > MOST_PAGES:
            raise Unreadable(f"{len(document)} pages; at most {MOST_PAGES} are read: split it")
        return read_pages(document)


def read_pages(document: Any) -> Parsed:
    writer, scans, broken = Writer(), list[int](), list[int]()
    for number in range(1, len(document) + 1):
        lines, pictures = read_page(document, number - 1)
        if lines is None:
            broken.append(number)
        elif pictures and not any(lines):
            scans.append(number)
        for kind, text in reflow(lines or ()):
            if kind == "heading":
                writer.heading(2, text)
            else:
                writer.block(text, number)
    if not writer.parts and scans:
        raise Unreadable("the PDF has no text layer, a scan: run OCR first, e.g. ocrmypdf IN OUT")
    if not writer.parts:
        raise Unreadable("the PDF is damaged: no page could be read" if broken else "the PDF has no text")
    title = str(document.get_metadata_dict().get("Title") or "").strip()
    scanned = (
        f"pages without a text layer: {numbers(scans)}; run OCR, e.g. ocrmypdf --skip-text" if scans else ""
    )
    damaged = f"damaged pages left out: {numbers(broken)}" if broken else ""
    return writer.parsed(title, "; ".join(filter(None, [scanned, damaged])))


def numbers(pages: Sequence[int]) -> str:
    return ", ".join(map(str, pages[:10])) + (f" and {len(pages) - 10} more" if len(pages) > 10 else "")


def read_page(document: Any, index: int) -> tuple[list[str] | None, bool]:
    """Its lines, None if it is damaged, and whether it shows pictures."""
    import pypdfium2 as pdfium
    from pypdfium2.raw import FPDF_PAGEOBJ_IMAGE

    try:
        with contextlib.closing(document[index]) as page:
            with contextlib.closing(page.get_textpage()) as read:
                text: str = read.get_text_range()
            pictures = not text.strip() and any(page.get_objects([FPDF_PAGEOBJ_IMAGE]))
    except pdfium.PdfiumError:
        return None, False  # one broken page does not take the others with it
    whole = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\0", "")
    # PDFium writes U+FFFE where a word was hyphenated at the end of a line
    return [squeeze(line) for line in re.sub("\ufffe(?:\r\n)?", "", whole).splitlines()], pictures


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
