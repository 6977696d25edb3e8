# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "markdown-it-py==4.3.0",
#   "pypdfium2==5.15.2",
#   "selectolax==1.0.2",
# ]
# ///
"""Parse a folder of documents, cut it into chunks and hand them to the retriever.

    python -P ingest.py SPEC OUT

The spec:

    inputs.documents    file or folder that is read
    root                what that path is called in citations (default: inputs.documents)
    glob                only paths under the folder that match, such as "**/*.md" (default: all)
    collection          name of the index
    words, overlap      longest chunk and overlap of neighbours, in words (default 200 and 30)
    services.retriever  {"url", "token_env"} of serve_retriever

The result: ``{collection, documents, chunks, added, updated, removed, unchanged, skipped: [{path, why}],
seconds, documents_per_s}``; `documents` and `chunks` count what the collection holds afterwards.

Every chunk is a range of a *canonical text*, in UTF-8 bytes. For Markdown, plain text and source code
that is the file itself, byte for byte; for HTML and PDF it is the extracted text, which the retriever
keeps. A document whose digest the retriever knows is not parsed again; one that is gone is removed.
A document that cannot be read is named in `skipped`, and the rest goes on.

Not covered: text in pictures (run an OCR program first), office formats, a chunk across PDF pages.
"""

from __future__ import annotations

import fnmatch
import hashlib
import json
import os
import re
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FORMAT = "1"  # part of every document's digest: raise it when parsing or chunking changes
LARGEST_BYTES = 50_000_000
BATCH_CHUNKS = 48
BATCH_CHARS = 2_000_000
MARKDOWN = frozenset({".md", ".markdown", ".mdx"})
HTML = frozenset({".html", ".htm", ".xhtml"})
LINES = frozenset({".jsonl", ".ndjson", ".csv", ".tsv", ".log"})


class Unreadable(Exception):
    """A document that is left out, with the reason as its message."""


class Refused(Exception):
    """The job cannot be done as asked."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message, self.hint = message, hint


# --- what a parser returns --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Block:
    """Characters ``[start:end]`` of the canonical text that belong together: a paragraph, a list, a table."""

    start: int
    end: int
    heading: tuple[str, ...] = ()
    page: int | None = None


@dataclass(slots=True)
class Parsed:
    """A canonical text and its blocks in order. `own_text`: the text isn't the file's own bytes."""

    text: str
    blocks: list[Block]
    title: str = ""
    own_text: bool = False


@dataclass(slots=True)
class Outline:
    """The headings above the current place."""

    path: list[tuple[int, str]] = field(default_factory=list)

    def enter(self, level: int, heading: str) -> None:
        self.path = [(above, text) for above, text in self.path if above < level]
        self.path.append((level, heading))

    def headings(self) -> tuple[str, ...]:
        return tuple(text for _, text in self.path)


@dataclass(slots=True)
class Writer:
    """Builds a canonical text block by block, for formats whose files aren't text."""

    parts: list[str] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    outline: Outline = field(default_factory=Outline)
    length: int = 0

    def heading(self, level: int, text: str) -> None:
        self.outline.enter(level, text)
        self._append(text)

    def block(self, text: str, page: int | None = None) -> None:
        start = self._append(text)
        self.blocks.append(Block(start, start + len(text), self.outline.headings(), page))

    def parsed(self, title: str) -> Parsed:
        return Parsed("".join(self.parts), self.blocks, title, own_text=True)

    def _append(self, text: str) -> int:
        start = self.length
        self.parts += (text, "\n\n")
        self.length += len(text) + 2
        return start


# --- parsers ----------------------------------------------------------------------------------

FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
LINE = re.compile(r"[^\r\n]*(?:\r\n|\n|\r|\Z)")
PARAGRAPH = re.compile(r"\S.*(?:(?:\r\n|\n|\r)[^\S\r\n]*\S.*)*")


def decode(data: bytes) -> str:
    """The text of a UTF-8 file, its byte order mark included, so that offsets stay those of the file."""
    if not data.strip():
        raise Unreadable("the file is empty")
    if b"\0" in data:
        raise Unreadable("not a text, HTML or PDF file")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(
            f"not UTF-8: byte {data[error.start]:#04x} at offset {error.start}; convert it"
        ) from None


def parse_markdown(data: bytes) -> Parsed:
    from markdown_it import MarkdownIt

    text = decode(data)
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
    return Parsed(text, blocks, named[1].strip("\"'") if named else first.content.strip() if first else "")


def parse_text(data: bytes) -> Parsed:
    """Paragraphs, parted by blank lines. Serves for source code too."""
    text = decode(data)
    begin = int(text.startswith("\ufeff"))
    found = (stripped(text, match.start(), match.end(), ()) for match in PARAGRAPH.finditer(text, begin))
    return Parsed(text, [block for block in found if block])


def parse_lines(data: bytes) -> Parsed:
    """One block a line: JSONL, CSV, logs."""
    text = decode(data)
    begin = int(text.startswith("\ufeff"))
    found = (stripped(text, match.start(), match.end(), ()) for match in LINE.finditer(text, begin))
    return Parsed(text, [block for block in found if block])


def stripped(text: str, start: int, end: int, heading: tuple[str, ...]) -> Block | None:
    start, end = trimmed(text, start, end)
    return Block(start, end, heading) if end > start else None


def trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    """The range without the white space at its ends."""
    piece = text[start:end]
    first = start + len(piece) - len(piece.lstrip())
    return first, first + len(piece.strip())


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
        raise Unreadable("the page is nested too deeply") from None
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


def parser_of(path: Path) -> Callable[[bytes], Parsed]:
    suffix = path.suffix.lower()
    if suffix == ".pdf":
        return parse_pdf
    if suffix in MARKDOWN:
        return parse_markdown
    if suffix in HTML:
        return parse_html
    return parse_lines if suffix in LINES else parse_text


# --- chunks -----------------------------------------------------------------------------------

WORD = re.compile(r"\S+")
SENTENCE_END = re.compile(r"[.!?…。！？][\"'”’)\]]*\s+|[。！？]|\n+")


@dataclass(frozen=True, slots=True)
class Chunk:
    """Bytes ``[start:end]`` of the canonical text in UTF-8."""

    start: int
    end: int
    heading: tuple[str, ...]
    page: int | None


def size(text: str) -> int:
    """Words; for scripts without spaces, as many as the characters would make."""
    return max(len(WORD.findall(text)), len(text) // 12)


def chunks_of(parsed: Parsed, words: int, overlap: int) -> list[Chunk]:
    """Cut along headings, then blocks, then sentences, then words, so that no chunk is longer than `words`.

    A chunk after another of the same section begins with up to `overlap` words of it, in whole sentences.
    """
    text = parsed.text
    whole = stripped(text, int(text.startswith("\ufeff")), len(text), ())  # of a text of headings alone
    blocks = parsed.blocks or ([whole] if whole else [])
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
    offsets = byte_offsets(text, (place for item in ranges for place in (item.start, item.end)))
    return [Chunk(offsets[r.start], offsets[r.end], r.heading, r.page) for r in ranges]


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
        if index == len(found) or size(text[found[first][0] : found[index][1]]) > words:
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


# --- files ------------------------------------------------------------------------------------


def find_files(base: Path, pattern: str) -> Iterator[tuple[Path, str]]:
    """Files under `base` in order, hidden ones left out, as ``(path, "" or why it is left out)``."""
    if base.is_file():
        yield base, refusal(base, base.parent.resolve())
        return
    inside = base.resolve()
    for folder, folders, names in os.walk(base):
        here = Path(folder)
        for name in [name for name in folders if (here / name).is_symlink()]:
            yield here / name, "a symbolic link to a folder is not followed"
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = here / name
            if not name.startswith(".") and matches(path.relative_to(base).as_posix(), pattern):
                yield path, refusal(path, inside)


def matches(path: str, pattern: str) -> bool:
    """Shell matching in which ``**/`` also stands for no folder at all."""
    return not pattern or fnmatch.fnmatch(path, pattern) or fnmatch.fnmatch(path, pattern.replace("**/", ""))


def refusal(path: Path, inside: Path) -> str:
    target = path.resolve()
    if path.is_symlink() and not target.is_relative_to(inside):
        return "a symbolic link that leads out of the folder"
    if not target.is_file():
        return "not a file" if target.exists() else "a symbolic link to nothing"
    bytes_ = target.stat().st_size
    return (
        f"{bytes_ / 1e6:.0f} MB; the largest is {LARGEST_BYTES / 1e6:.0f} MB"
        if bytes_ > LARGEST_BYTES
        else ""
    )


# --- the retriever ----------------------------------------------------------------------------


class Retriever:
    """Calls to serve_retriever. All of them may be repeated."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url.rstrip("/"), token

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), headers)
        for pause in (0.5, 2.0, 5.0, None):
            try:
                with urllib.request.urlopen(request, timeout=600) as response:
                    return json.load(response)
            except urllib.error.HTTPError as error:
                raise refused_by(error) from None
            except (urllib.error.URLError, ConnectionError, TimeoutError) as error:
                if pause is None:
                    hint = "look at the logs of the retriever, then ingest again: it goes on where it stopped"
                    raise Refused(f"The retriever at {self.url} does not answer: {error}", hint) from None
                time.sleep(pause)
        raise AssertionError("unreachable")


def refused_by(error: urllib.error.HTTPError) -> Refused:
    try:
        told = json.loads(error.read())["error"]
        return Refused(told["message"], told.get("hint", ""))
    except (ValueError, KeyError, TypeError):
        return Refused(f"The retriever answered {error.code} {error.reason}")


# --- the job ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Ingest:
    """One pass over the documents of one root into one collection."""

    retriever: Retriever
    collection: str
    root: Path
    words: int
    overlap: int
    batch: list[dict[str, Any]] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"added": 0, "updated": 0, "unchanged": 0})
    progress: Callable[[int], None] = lambda done: None

    def run(self, base: Path, found: Sequence[tuple[Path, str]]) -> dict[str, Any]:
        scope = {"collection": self.collection, "root": str(self.root)}
        known: dict[str, str] = self.retriever.post("/documents", scope)["documents"]
        for done, (path, why) in enumerate(found):
            self.progress(done)
            name = str(self.root / path.relative_to(base) if path != base else self.root)
            try:
                if why:
                    raise Unreadable(why)
                self.take(path, name, known)
            except (Unreadable, OSError) as error:
                self.skipped.append({"path": name, "why": str(error)})
        self.flush()
        self.progress(len(found))
        return self.retriever.post("/finish", {**scope, "keep": self.keep})

    def take(self, path: Path, name: str, known: dict[str, str]) -> None:
        data = path.read_bytes()
        digest = hashlib.sha256(f"{FORMAT}:{self.words}:{self.overlap}:".encode() + data).hexdigest()
        if known.get(name) == digest:
            self.keep.append(name)
            self.counts["unchanged"] += 1
            return
        parsed = parser_of(path)(data)
        chunks = chunks_of(parsed, self.words, self.overlap)
        if not chunks:
            raise Unreadable("the document has no text")
        self.keep.append(name)
        self.batch.append(
            {
                "document": name,
                "digest": digest,
                "title": parsed.title or path.stem,
                "text": parsed.text,
                "own_text": parsed.own_text,
                "chunks": [
                    {"start": c.start, "end": c.end, "heading": list(c.heading), "page": c.page}
                    for c in chunks
                ],
            }
        )
        chars = sum(len(document["text"]) for document in self.batch)
        if sum(len(document["chunks"]) for document in self.batch) >= BATCH_CHUNKS or chars >= BATCH_CHARS:
            self.flush()

    def flush(self) -> None:
        """Add the batch at once; long documents are embedded piece by piece first: no request takes long."""
        for document in self.batch:
            pieces = document["chunks"]
            for at in range(0, len(pieces) - BATCH_CHUNKS, BATCH_CHUNKS):
                part = slice_of(document, pieces[at : at + BATCH_CHUNKS])
                self.retriever.post("/embed", {"collection": self.collection, "documents": [part]})
        if self.batch:
            body = {"collection": self.collection, "root": str(self.root), "documents": self.batch}
            answer = self.retriever.post("/add", body)
            for key in self.counts:
                self.counts[key] += int(answer.get(key, 0))
        self.batch = []


def slice_of(document: dict[str, Any], pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The part of a document that holds these chunks, with their offsets moved."""
    first, last = pieces[0]["start"], max(piece["end"] for piece in pieces)
    text = document["text"].encode()[first:last].decode()
    moved = [{**piece, "start": piece["start"] - first, "end": piece["end"] - first} for piece in pieces]
    return {**document, "text": text, "chunks": moved}


def event(kind: str, **values: Any) -> None:
    print(json.dumps({"event": kind, **values}), flush=True)


def reporter(total: int) -> Callable[[int], None]:
    """Progress events, at most two a second."""
    began, told = time.monotonic(), 0.0

    def progress(done: int) -> None:
        nonlocal told
        now = time.monotonic()
        if done < total and now - told < 0.5:
            return
        told, rate = now, done / max(now - began, 1e-3)
        left = (total - done) / rate if done else None
        event(
            "progress",
            done=done,
            total=total,
            unit="documents",
            seconds_left=left,
            documents_per_s=round(rate, 2),
        )

    return progress


def ingest(spec: dict[str, Any]) -> dict[str, Any]:
    began = time.monotonic()
    base = Path(spec["inputs"]["documents"])
    root = Path(spec.get("root") or base)
    words, overlap = int(spec.get("words", 200)), int(spec.get("overlap", 30))
    if not 0 <= overlap < words:
        raise Refused(f"overlap {overlap} must be smaller than words {words}")
    found = list(find_files(base, spec.get("glob", "")))
    if not any(not why for _, why in found):
        raise Refused(f"No document under {root}", "name a folder with Markdown, HTML, text or PDF files")
    service = spec["services"]["retriever"]
    retriever = Retriever(service["url"], os.environ.get(service["token_env"], ""))
    job = Ingest(retriever, spec["collection"], root, words, overlap, progress=reporter(len(found)))
    finished = job.run(base, found)
    seconds = time.monotonic() - began
    return {
        "collection": spec["collection"],
        "documents": finished["documents"],
        "chunks": finished["chunks"],
        **job.counts,
        "removed": finished["removed"],
        "skipped": job.skipped,
        "seconds": round(seconds, 3),
        "documents_per_s": round(len(found) / seconds, 2),
    }


def main(spec_path: str, out: str) -> int:
    try:
        result = ingest(json.loads(Path(spec_path).read_text(encoding="utf-8")))
    except Refused as error:
        event("error", message=error.message, hint=error.hint)
        return 2
    partial = Path(out, "result.json.tmp")
    partial.write_text(json.dumps(result, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(Path(out, "result.json"))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
