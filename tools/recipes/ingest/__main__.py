# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "charset-normalizer==3.5.2",
#   "markdown-it-py==4.3.0",
#   "pypdfium2==5.15.2",
#   "python-docx==1.2.0",
#   "selectolax==1.0.2",
#   "semantic-text-splitter==0.33.1",
#   "tree-sitter==0.26.1",
#   "tree-sitter-cpp==0.23.4",
#   "tree-sitter-go==0.25.0",
#   "tree-sitter-java==0.23.5",
#   "tree-sitter-javascript==0.25.0",
#   "tree-sitter-python==0.25.0",
#   "tree-sitter-rust==0.24.2",
#   "tree-sitter-typescript==0.23.2",
# ]
# ///
"""Parse a folder of documents, cut it into chunks and hand them to the retriever.

    python -P ingest SPEC OUT

The spec:

    inputs.documents    file or folder that is read
    root                what that path is called in citations (default: inputs.documents)
    glob                only paths under the folder that match, such as "**/*.md" (default: all)
    collection          name of the index
    chunking            one of `strategies.STRATEGIES` (default structure)
    owner               to whom a new collection belongs (default: it is shared)
    words, overlap      longest chunk and overlap of neighbours, in words (default 200 and 30)
    fields              {"id", "title", "text"}: columns of JSONL, CSV and TSV (default: by name)
    ocr                 languages of scans as tesseract names them, such as "eng+deu" (default: no OCR)
    services.retriever  {"url", "token_env"} of serve_retriever
    compare             instead of ingesting: [strategy], each measured on the questions below
    inputs.questions    JSONL of {question, passage, document?}; without it `documents` is a folder in
                        BEIR's layout

The result: ``{collection, documents, chunks, added, updated, removed, unchanged, skipped: [{path, why}],
warnings: [{path, why}], seconds, documents_per_s}``; `documents` and `chunks` count what the collection
holds afterwards. Of a comparison: ``{measured: [{strategy, chunks, seconds, documents_per_s, search_ms,
scores: {question: 0 to 1}}]}``.

Every chunk is a range of a *canonical text*, in UTF-8 bytes. For Markdown, plain text and source code that
is the file itself, byte for byte, if it is UTF-8; else, and for HTML, PDF and DOCX, it is the extracted
text, which the retriever keeps. Each row of JSONL, CSV and TSV is a document, called FILE#ID, or
FILE#NUMBER if it has no id. A document whose digest the retriever knows is not parsed again; one that is
gone is removed. A document that cannot be read is named in `skipped`, and the rest goes on; if it could be
before, that version stays in the index. Searches find what this ingest read at its end, all at once; one that
was interrupted goes on where it stopped.

Front matter of Markdown, and the fields of a row beside id, title and text, are kept for filters.
Parsing is bounded in time, memory, pages and characters.

Not covered: text in pictures but whole pages of PDF, office formats but DOCX, a chunk across PDF pages.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import compare
import front_matter
import rows
import semantic
from chunks import size
from failures import Refused, Unreadable
from files import find_files, read
from parser_process import ParserProcess, Read
from retriever import Retriever
from strategies import STRATEGIES, Way
from titles import title_of_name

FORMAT = "3"  # part of every document's digest: raise it when parsing or chunking changes
BATCH_CHUNKS = 48
BATCH_CHARS = 2_000_000
BEFORE = "what was read of it before stays in the index"
MOST_ROWS_NAMED = 20  # of those of one file that are left out


@dataclass(slots=True)
class Ingest:
    """One pass over the documents of one root into one collection."""

    retriever: Retriever
    collection: str
    root: Path
    way: Way
    owner: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    done: int = 0
    batch: list[dict[str, Any]] = field(default_factory=list)
    keep: list[str] = field(default_factory=list)
    skipped: list[dict[str, str]] = field(default_factory=list)
    warnings: list[dict[str, str]] = field(default_factory=list)
    parser: ParserProcess = field(default_factory=ParserProcess)
    counts: dict[str, int] = field(default_factory=lambda: {"added": 0, "updated": 0, "unchanged": 0})
    progress: Callable[[int, bool], None] = lambda done, last: None

    def run(self, base: Path, found: Sequence[tuple[Path, str]]) -> dict[str, Any]:
        scope = {"collection": self.collection, "root": str(self.root), "owner": self.owner}
        known: dict[str, str] = self.retriever.post("/documents", scope)["documents"]
        for path, why in found:
            self.progress(self.done, False)
            name = str(self.root / path.relative_to(base) if path != base else self.root)
            try:
                if why:
                    raise Unreadable(why)
                if rows.holds_rows(path):
                    self.take_rows(path, name, known)
                else:
                    self.take(path.name, name, read(path), known)
            except FileNotFoundError:
                self.skip(name, "gone since the folder was listed; if it is to come back, ingest again")
            except OSError as error:
                self.skip(name, f"cannot be read ({error.strerror}): mend that and ingest again", known)
            except Unreadable as error:
                self.skip(name, str(error), known)
            if not rows.holds_rows(path):
                self.done += 1
        self.parser.close()
        self.flush()
        self.progress(self.done, True)
        return self.retriever.post("/finish", {**scope, "keep": self.keep})

    def skip(self, name: str, why: str, known: Iterable[str] = ()) -> None:
        """Say why it is left out; what was read of it before stays."""
        kept = [old for old in known if old == name or old.startswith((f"{name}/", f"{name}#"))]
        self.keep += kept
        self.skipped.append({"path": name, "why": f"{why}; {BEFORE}" if kept else why})

    def take(self, file: str, name: str, data: bytes, known: dict[str, str]) -> None:
        """Parse what a file called `file` holds and send it as the document `name`, unless it is known."""
        digest = self.digest(data)
        if self.unchanged(name, digest, known):
            return
        parsed = self.parsed(Path(file), data)
        if parsed.warning:
            self.warnings.append({"path": name, "why": parsed.warning})
        document = {
            "document": name,
            "digest": digest,
            "title": parsed.title or title_of_name(Path(file).stem),
            "text": parsed.text,
            "own_text": parsed.own_text,
            "chunks": parsed.chunks,
        }
        if Path(file).suffix.lower() in {".md", ".markdown"}:
            document["meta"] = front_matter.fields_of(parsed.text)
        self.send(document)

    def take_rows(self, path: Path, name: str, known: dict[str, str]) -> None:
        left_out = 0
        for row in rows.read_rows(path, self.fields):
            self.progress(self.done, False)
            self.done += 1
            try:
                if row.why:
                    raise Unreadable(row.why)
                self.take_row(row, f"{name}#{row.id}", known)
            except Unreadable as error:
                left_out += 1
                if left_out <= MOST_ROWS_NAMED:
                    self.skip(f"{name}#{row.number}", str(error))
                if row.id and (old := f"{name}#{row.id}") in known:
                    self.keep.append(old)
        if left_out > MOST_ROWS_NAMED:
            self.skip(name, f"{left_out - MOST_ROWS_NAMED} more rows are left out")

    def take_row(self, row: rows.Row, name: str, known: dict[str, str]) -> None:
        fields = f"\0{json.dumps(row.meta)}" if row.meta else ""
        digest = self.digest(f"{row.title}\0{row.text}{fields}".encode())
        if self.unchanged(name, digest, known):
            return
        parsed = self.parsed(Path("row.txt"), row.text.encode())
        whole = {"text": parsed.text, "own_text": True, "row": row.number, "chunks": parsed.chunks}
        self.send({"document": name, "digest": digest, "title": row.title, "meta": row.meta, **whole})

    def parsed(self, path: Path, data: bytes) -> Read:
        read = self.parser.read(path, data, self.way)
        if self.way.strategy != "semantic":
            return read
        text = read.text.encode()
        pieces = [text[unit["start"] : unit["end"]].decode() for unit in read.chunks]
        vectors = semantic.vectors_of(self.retriever, pieces)
        sizes = [size(piece) for piece in pieces]
        return replace(read, chunks=semantic.grouped(read.chunks, sizes, vectors, self.way.words))

    def digest(self, data: bytes) -> str:
        return hashlib.sha256(f"{FORMAT}:{self.way}:".encode() + data).hexdigest()

    def unchanged(self, name: str, digest: str, known: dict[str, str]) -> bool:
        """Whether it is indexed as it is; then it stays."""
        if known.get(name) != digest:
            return False
        self.keep.append(name)
        self.counts["unchanged"] += 1
        return True

    def send(self, document: dict[str, Any]) -> None:
        """Add it with others: what is sent at once is embedded at once."""
        self.keep.append(document["document"])
        self.batch.append(document)
        chars = sum(len(document["text"]) for document in self.batch)
        if sum(len(document["chunks"]) for document in self.batch) >= BATCH_CHUNKS or chars >= BATCH_CHARS:
            self.flush()

    def flush(self) -> None:
        """Add the batch at once; long documents are embedded piece by piece first: no request takes long."""
        place = {"collection": self.collection, "owner": self.owner}
        for document in self.batch:
            pieces = document["chunks"]
            for at in range(0, len(pieces) - BATCH_CHUNKS, BATCH_CHUNKS):
                part = slice_of(document, pieces[at : at + BATCH_CHUNKS])
                self.retriever.post("/embed", {**place, "documents": [part]})
        if self.batch:
            body = {**place, "root": str(self.root), "staged": True, "documents": self.batch}
            answer = self.retriever.post("/add", body)
            for key in self.counts:
                self.counts[key] += int(answer.get(key, 0))
        self.batch = []


def slice_of(document: dict[str, Any], pieces: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The part of a document that holds these chunks, with their offsets moved."""
    first, last = pieces[0]["start"], max(piece["end"] for piece in pieces)
    text = document["text"].encode()[first:last].decode()
    moved = [
        {**piece, "start": piece["start"] - first, "end": piece["end"] - first, "parent": None}
        for piece in pieces
    ]
    return {**document, "text": text, "chunks": moved}


def event(kind: str, **values: Any) -> None:
    print(json.dumps({"event": kind, **values}), flush=True)


def reporter(expected: int, unit: str = "documents") -> Callable[[int, bool], None]:
    """Progress events, at most two a second, and the last one. Rows are expected by counting lines."""
    began, told = time.monotonic(), 0.0

    def progress(done: int, last: bool) -> None:
        nonlocal told
        now = time.monotonic()
        if not last and now - told < 0.5:
            return
        told, rate = now, done / max(now - began, 1e-3)
        total = done if last else max(done, expected)
        left = (total - done) / rate if done else None
        event(
            "progress",
            done=done,
            total=total,
            unit=unit,
            seconds_left=left,
            **{f"{unit}_per_s": round(rate, 2)},
        )

    return progress


def left_out(base: Path, found: Iterable[tuple[Path, str]]) -> list[tuple[Path, str]]:
    """The same; of a test collection in BEIR's layout without its queries and judgments."""
    if not (base / "corpus.jsonl").is_file() or not (base / "qrels").is_dir():
        return list(found)
    why_not = "queries or judgments of a test collection, of which the corpus is read"
    return [(path, why or ("" if path.name == "corpus.jsonl" else why_not)) for path, why in found]


def ingest(spec: Mapping[str, Any], retriever: Retriever, report: bool = True) -> dict[str, Any]:
    began = time.monotonic()
    base = Path(spec["inputs"]["documents"])
    root = Path(spec.get("root") or base)
    way = Way(spec.get("chunking", "structure"), int(spec.get("words", 200)), int(spec.get("overlap", 30)))
    way = replace(way, ocr=spec.get("ocr", ""))
    if not 0 <= way.overlap < way.words:
        raise Refused(f"overlap {way.overlap} must be smaller than words {way.words}")
    if way.strategy not in STRATEGIES:
        raise Refused(f"There is no chunking {way.strategy!r}", f"there are: {', '.join(STRATEGIES)}")
    found = left_out(base, find_files(base, spec.get("glob", "")))
    if not any(not why for _, why in found):
        raise Refused(f"No document under {root}", "name a folder with Markdown, HTML, text or PDF files")
    expected = sum(rows.count_rows(path) if rows.holds_rows(path) else 1 for path, why in found if not why)
    fields = dict(spec.get("fields") or {})
    job = Ingest(retriever, spec["collection"], root, way, str(spec.get("owner", "")), fields)
    if report:
        job.progress = reporter(expected)
    finished = job.run(base, found)
    seconds = time.monotonic() - began
    return {
        "collection": spec["collection"],
        "documents": finished["documents"],
        "chunks": finished["chunks"],
        **job.counts,
        "removed": finished["removed"],
        "skipped": job.skipped,
        "warnings": job.warnings,
        "seconds": round(seconds, 3),
        "documents_per_s": round(job.done / seconds, 2),
    }


def compared(spec: Mapping[str, Any], retriever: Retriever) -> dict[str, Any]:
    """Each strategy measured on the questions, one after the other."""
    documents, path = Path(spec["inputs"]["documents"]), spec["inputs"].get("questions")
    questions = compare.passage_questions(Path(path)) if path else compare.beir_questions(documents)
    if not questions:
        raise Refused("There is no question with a judgment", "see whether questions and documents fit")
    ways: list[str] = list(spec["compare"])
    measured: list[dict[str, Any]] = []
    for number, strategy in enumerate(ways):
        progress = reporter(len(questions) * len(ways), "questions")

        def ingested(collection: str, strategy: str = strategy) -> dict[str, Any]:
            event("progress", message=f"ingesting: {strategy}")
            asked = {**spec, "collection": collection, "chunking": strategy, "root": str(documents)}
            return ingest(asked, retriever, report=False)

        def told(done: int, before: int = number * len(questions), progress: Any = progress) -> None:
            progress(before + done, False)

        found = compare.measure(retriever, questions, ingested, told)
        measured.append({"strategy": strategy, **found})
    return {"measured": measured}


def main(spec_path: str, out: str) -> int:
    try:
        spec = json.loads(Path(spec_path).read_text(encoding="utf-8"))
        service = spec["services"]["retriever"]
        retriever = Retriever(service["url"], os.environ.get(service["token_env"], ""))
        result = compared(spec, retriever) if spec.get("compare") else ingest(spec, retriever)
    except Refused as error:
        event("error", message=error.message, hint=error.hint)
        return 2
    partial = Path(out, "result.json.tmp")
    partial.write_text(json.dumps(result, ensure_ascii=False, indent=1), encoding="utf-8")
    partial.replace(Path(out, "result.json"))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
