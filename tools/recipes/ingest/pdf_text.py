"""What a PDF says: paragraphs and headings out of lines on pages."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import ocr
from canonical import Parsed, Writer
from failures import Unreadable
from html_text import squeeze

MOST_PAGES = 5_000
FIGURE = re.compile(r"[-+±<>~$€£(]*\d[\d,.:/]*[%)*†‡kKMB]*|[-–—✓✗×]|n/?a", re.I)


def parse_pdf(data: bytes, languages: str = "") -> Parsed:
    """`languages`: of which pages without a text layer are recognised; "" for none."""
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
        return read_pages(document, languages)


def read_pages(document: Any, languages: str) -> Parsed:
    writer, scans, broken = Writer(), list[int](), list[int]()
    for number in range(1, len(document) + 1):
        lines, pictures = read_page(document, number - 1)
        if lines is None:
            broken.append(number)
        elif pictures and not any(lines):
            scans.append(number)
            if languages:
                ocr.require()
                with contextlib.closing(document[number - 1]) as page:
                    lines = ocr.lines_of(page, languages)
        for kind, text in reflow(lines or ()):
            if kind == "heading":
                writer.heading(2, text)
            else:
                writer.block(text, number)
    if not writer.parts and scans:
        raise Unreadable("the PDF has no text layer, a scan: ingest it with ocr=eng, or run ocrmypdf IN OUT")
    if not writer.parts:
        raise Unreadable("the PDF is damaged: no page could be read" if broken else "the PDF has no text")
    title = str(document.get_metadata_dict().get("Title") or "").strip()
    recognised = f"pages read by OCR, which makes mistakes: {numbers(scans)}" if scans and languages else ""
    scanned = recognised or (
        f"pages without a text layer: {numbers(scans)}; ingest it with ocr=eng" if scans else ""
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
    """Join the lines of a page into ``("text" | "heading" | "table", paragraph)``.

    A paragraph ends at an empty line, or at a short line that ends a sentence. A heading is a short
    line without a full stop, at the start of a paragraph, before a long line that goes on in capitals.
    """
    lengths = sorted(len(line) for line in lines if line)
    width = lengths[len(lengths) * 3 // 4] if lengths else 0  # of a full line: some span two columns
    current: list[str] = []
    tables, inside = tables_of(lines), 0
    for index, line in enumerate(lines):
        if index in tables:
            if current:
                yield "text", joined(current)
            current = []
            inside, rows = tables[index]
            yield "table", "\n".join(rows)
        if index < inside:
            continue
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


def tables_of(lines: Sequence[str]) -> dict[int, tuple[int, list[str]]]:
    """By the index of its first line: where a table ends, and its rows as ``label | cell | cell``.

    A table is two lines or more that end in as many figures, two or more, and the line of their names above.
    Not covered: tables without figures, and cells of several lines.
    """
    found: dict[int, tuple[int, list[str]]] = {}
    at = 0
    while at < len(lines):
        end, width = at, figures(lines[at])
        while end < len(lines) and figures(lines[end]) == width:
            end += 1
        if width < 2 or end - at < 2:
            at += 1
            continue
        rows = [" | ".join(cells(line, width)) for line in lines[at:end]]
        names = lines[at - 1].split() if at and at - 1 not in {last - 1 for last, _ in found.values()} else []
        first = at
        if names and width <= len(names) <= width + 1:
            first, rows = at - 1, [" | ".join(names), *rows]
        found[first] = end, rows
        at = end
    return found


def figures(line: str) -> int:
    """How many figures a line ends in."""
    words = line.split()
    return next((n for n, word in enumerate(reversed(words)) if not FIGURE.fullmatch(word)), len(words))


def cells(line: str, width: int) -> list[str]:
    words = line.split()
    label = " ".join(words[:-width])
    return [*([label] if label else []), *words[-width:]]


def is_heading(line: str) -> bool:
    return len(line.split()) <= 10 and line[-1] not in ".!?:;," and (line[0].isupper() or line[0].isdigit())


def is_body(line: str, width: int) -> bool:
    return len(line) > 0.6 * width and not line[0].islower()


def joined(lines: Sequence[str]) -> str:
    text = lines[0]
    for line in lines[1:]:
        text += line if re.search(r"\w-$", text) and line[0].islower() else f" {line}"
    return text
