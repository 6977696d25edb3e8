# /// script
# requires-python = ">=3.11"
# dependencies = [
#   "chromadb==1.5.9",
#   "numpy==2.4.6",
#   "pydantic==2.14.3",
#   "rank-bm25==0.2.2",
#   "sentence-transformers==6.2.0",
#   "snowballstemmer==3.1.1",
#   "starlette==1.10.0",
#   "tantivy==0.27.0",
#   "torch==2.13.0",
#   "transformers==5.23.0",
#   "uvicorn==0.54.0",
# ]
# ///
"""Keep an embedder and the indexes in memory and answer searches over HTTP.

    AGENTD_SERVICE_TOKEN=secret python -P serve_retriever.py SPEC OUT

The spec:

    inputs.embedder   folder of a sentence-transformers model (safetensors)
    data              folder that holds every collection; one process at a time
    port              of 127.0.0.1
    embedder_name     what callers call the embedder
    threads           torch threads (default: the cores, at most 4)

`SQLite` holds the truth: documents, chunks, their vectors. Chroma (HNSW) and tantivy (BM25) are derived
from it and may be deleted at any time: a collection whose indexes lag behind is mended at the start, so
a killed process loses nothing that was acknowledged.

POST with JSON, ``Authorization: Bearer …``; errors are ``{"error": {"message", "hint"}}``:

    /health        GET, open: 200 once ready
    /collections   {} -> {collections: [{name, documents, chunks}], embedder}
    /documents     {collection, root} -> {documents: {name: digest}}
    /embed         {collection, documents} -> {embedded}: only warms the vectors
    /add           {collection, root, documents} -> {added, updated, unchanged}
    /finish        {collection, root, keep} -> {removed, documents, chunks}: drops what is not kept
    /search        {collection, query, k, mode, fusion, bm25} -> {hits}
    /sentences     {collection, question, k, limit} -> {sentences, answer, evidence, features, missing}
    /support       {pairs: [{claim, sentences}]} -> {support: [[{similarity, coverage, contradicts}]]}
    /spans         {collection, after, limit} -> {spans: [a sentence with its passage], next}

Offsets are UTF-8 bytes. Not covered: languages without spaces in BM25 and in the coverage of a question.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import hmac
import json
import math
import os
import re
import shutil
import signal
import socket
import sqlite3
import sys
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

BODY_BYTES = 128_000_000
DEPTH = 200  # candidates that each half of the search brings into the fusion
FEEDBACK, ALPHA = 3, 0.7  # Rocchio: q' = α·q + (1-α)·mean of the first FEEDBACK vectors
VECTOR_DAYS = 1.0  # a vector that no chunk uses is kept this long: an ingest may be about to add it
NAME = re.compile(r"[^\W_][\w .-]{0,62}")


class Problem(Exception):
    """A request that cannot be answered as asked: HTTP status, what happened, what to do next."""

    def __init__(self, status: int, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.status, self.message, self.hint = status, message, hint


# --- words ------------------------------------------------------------------------------------

WORD = re.compile(r"\w+(?:['’]\w+)*")
STOPWORDS = frozenset(
    """
    a about above after again all also am an and any anybody anyone anything are aren't as at be because
    been before being below between both but by can can't cannot could couldn't did didn't do does
    doesn't doing don't down during each either else ever every few for from further get gets give given
    go goes going got had has hasn't have haven't having he her here hers him his how however i i'd i'll
    i'm i've if in into is isn't it it's its just let like make may me might mine more most much must my
    myself need needs no nor not of off often on once one only or other ought our ours out over own per
    please possible same say says shall she should so some somebody someone something still such take
    takes tell than that that's the their theirs them then there these they thing things this those
    through to too under until up upon us use used very want wants was way we were what what's when
    where which while who whom whose why will with within without won't would yet you your yours
    """.split()  # noqa: SIM905
)


@functools.cache
def stemmer() -> Any:
    import snowballstemmer

    return snowballstemmer.stemmer("english")


@functools.lru_cache(maxsize=200_000)
def stem(word: str) -> str:
    return stemmer().stemWord(word)


def analyze(text: str) -> list[str]:
    """Stems of the words that carry meaning: the one analysis behind both BM25s and the coverage."""
    words = (word.replace("’", "'") for word in WORD.findall(text.lower()))
    return [stem(word.removesuffix("'s")) for word in words if word not in STOPWORDS]


# --- the truth --------------------------------------------------------------------------------

SCHEMA = """
CREATE TABLE IF NOT EXISTS collections(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, embedder TEXT NOT NULL,
  dirty INTEGER NOT NULL DEFAULT 0, version INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS documents(
  id INTEGER PRIMARY KEY, collection INTEGER NOT NULL REFERENCES collections(id) ON DELETE CASCADE,
  name TEXT NOT NULL, root TEXT NOT NULL, digest TEXT NOT NULL, title TEXT NOT NULL, source TEXT NOT NULL,
  UNIQUE(collection, name));
CREATE TABLE IF NOT EXISTS chunks(
  id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
  start INTEGER NOT NULL, "end" INTEGER NOT NULL, page INTEGER, heading TEXT NOT NULL, text TEXT NOT NULL,
  vector TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS chunks_of_document ON chunks(document);
CREATE INDEX IF NOT EXISTS chunks_of_vector ON chunks(vector);
CREATE TABLE IF NOT EXISTS vectors(
  digest TEXT PRIMARY KEY, value BLOB NOT NULL, made_at REAL NOT NULL) WITHOUT ROWID;
"""

CHUNKS = """
SELECT c.id, c.start, c."end", c.page, c.heading, c.text, c.vector, d.name AS document, d.title, d.source
FROM chunks c JOIN documents d ON d.id = c.document
"""


class Store:
    """Collections, documents, chunks and vectors in one SQLite file. Safe to use from threads."""

    def __init__(self, path: Path) -> None:
        self.lock = threading.RLock()
        self.db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.db.row_factory = sqlite3.Row
        self.db.execute("PRAGMA journal_mode=WAL")
        self.db.execute("PRAGMA synchronous=NORMAL")
        self.db.execute("PRAGMA foreign_keys=ON")
        self.db.executescript(SCHEMA)

    @contextmanager
    def transaction(self) -> Any:
        with self.lock:
            self.db.execute("BEGIN IMMEDIATE")
            try:
                yield self.db
            except BaseException:
                self.db.execute("ROLLBACK")
                raise
            self.db.execute("COMMIT")

    def rows(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        with self.lock:
            return self.db.execute(sql, values).fetchall()

    def collections(self) -> list[dict[str, Any]]:
        rows = self.rows("SELECT id, name, embedder, dirty FROM collections ORDER BY name")
        return [dict(row) | self.counts(row["id"]) for row in rows]

    def counts(self, collection: int) -> dict[str, int]:
        (row,) = self.rows(
            "SELECT count(DISTINCT d.id) AS documents, count(c.id) AS chunks FROM documents d"
            " LEFT JOIN chunks c ON c.document = d.id WHERE d.collection = ?",
            collection,
        )
        return dict(row)

    def chunk_ids(self, collection: int) -> set[int]:
        sql = "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document WHERE d.collection = ?"
        return {row["id"] for row in self.rows(sql, collection)}

    def chunks(self, ids: Iterable[int]) -> dict[int, sqlite3.Row]:
        """Rows by id; ids that are gone are left out."""
        rows = self.rows(f"{CHUNKS} WHERE c.id IN (SELECT value FROM json_each(?))", json.dumps(list(ids)))
        return {row["id"]: row for row in rows}

    def chunk_vectors(self, ids: Iterable[int]) -> dict[int, Any]:
        """Vectors, float32 of shape (dimension,), by chunk id."""
        import numpy as np

        sql = "SELECT c.id, v.value FROM chunks c JOIN vectors v ON v.digest = c.vector"
        rows = self.rows(f"{sql} WHERE c.id IN (SELECT value FROM json_each(?))", json.dumps(list(ids)))
        return {row["id"]: np.frombuffer(row["value"], np.float32) for row in rows}

    def known_vectors(self, digests: Iterable[str]) -> set[str]:
        sql = "SELECT digest FROM vectors WHERE digest IN (SELECT value FROM json_each(?))"
        return {row["digest"] for row in self.rows(sql, json.dumps(list(digests)))}

    def save_vectors(self, vectors: Mapping[str, Any]) -> None:
        with self.transaction() as db:
            rows = [(digest, value.tobytes(), time.time()) for digest, value in vectors.items()]
            db.executemany("INSERT OR IGNORE INTO vectors VALUES(?, ?, ?)", rows)

    def drop_unused_vectors(self) -> None:
        with self.transaction() as db:
            db.execute(
                "DELETE FROM vectors WHERE made_at < ? AND digest NOT IN (SELECT vector FROM chunks)",
                (time.time() - VECTOR_DAYS * 86_400,),
            )


# --- what is derived from it ------------------------------------------------------------------


class Embedder:
    """A sentence-transformers model. Vectors have length 1, so that a dot product is a cosine."""

    def __init__(self, folder: Path, threads: int) -> None:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(threads)
        device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model = SentenceTransformer(str(folder), device=device, local_files_only=True)
        self.name = weights_digest(folder)[:16]
        self.lock = threading.Lock()
        self.recent: OrderedDict[str, Any] = OrderedDict()

    def encode(self, texts: Sequence[str]) -> Any:
        """float32 of shape (len(texts), dimension). Long lists let others in between."""
        import numpy as np

        order = sorted(range(len(texts)), key=lambda index: len(texts[index]))
        parts: list[Any] = []
        for at in range(0, len(order), 32):
            batch = [texts[index] for index in order[at : at + 32]]
            with self.lock:  # tokenizers are not safe to share between threads
                parts.append(self.model.encode(batch, normalize_embeddings=True, show_progress_bar=False))
        whole = np.concatenate(parts).astype(np.float32)
        result = np.empty_like(whole)
        result[order] = whole
        return result

    def remembered(self, texts: Sequence[str]) -> Any:
        """Like `encode`, for short texts that come again: questions, sentences, words."""
        import numpy as np

        new = [text for text in dict.fromkeys(texts) if text not in self.recent]
        known = {text: self.recent[text] for text in texts if text in self.recent}
        if new:
            known |= dict(zip(new, self.encode(new), strict=True))
        self.recent.update(known)
        while len(self.recent) > 20_000:
            self.recent.popitem(last=False)
        return np.stack([known[text] for text in texts])


def weights_digest(folder: Path) -> str:
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise Problem(400, f"{folder} holds no *.safetensors", "name a sentence-transformers model folder")
    digest = hashlib.sha256()
    for file in files:
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()


class Keywords:
    """BM25 (k1 = 1.2, b = 0.75) over the stems of each chunk, on disk, incremental."""

    def __init__(self, folder: Path) -> None:
        import tantivy

        self.tantivy = tantivy
        folder.mkdir(parents=True, exist_ok=True)
        # a signed field: deleting by an unsigned term silently deletes nothing
        schema = tantivy.SchemaBuilder().add_integer_field("chunk", indexed=True, fast=True)
        self.schema = schema.add_text_field("stems", tokenizer_name="whitespace", index_option="freq").build()
        try:
            self.index = tantivy.Index(self.schema, path=str(folder))
        except ValueError:  # damaged, or of another version: it is derived, so begin again
            shutil.rmtree(folder)
            folder.mkdir()
            self.index = tantivy.Index(self.schema, path=str(folder))

    def update(self, added: Mapping[int, Sequence[str]], removed: Iterable[int]) -> None:
        writer = self.index.writer(30_000_000, 1)
        for chunk in removed:
            writer.delete_documents_by_term("chunk", chunk)
        for chunk, stems in added.items():
            document = self.tantivy.Document()
            document.add_integer("chunk", chunk)
            document.add_text("stems", " ".join(stems))
            writer.add_document(document)
        writer.commit()
        writer.wait_merging_threads()
        self.index.reload()

    def ids(self) -> set[int]:
        searcher = self.index.searcher()
        if not searcher.num_docs:
            return set()
        hits = searcher.search(self.tantivy.Query.all_query(), searcher.num_docs, count=False).hits
        return set(searcher.fast_field_values("chunk", [address for _, address in hits]))

    def search(self, stems: Sequence[str], limit: int) -> dict[int, float]:
        query, should = self.tantivy.Query, self.tantivy.Occur.Should
        terms = [(should, query.term_query(self.schema, "stems", s, index_option="freq")) for s in stems]
        searcher = self.index.searcher()
        hits = searcher.search(query.boolean_query(terms), limit, count=False).hits if terms else []
        chunks = searcher.fast_field_values("chunk", [address for _, address in hits])
        return {chunk: score for chunk, (score, _) in zip(chunks, hits, strict=True)}

    def idf(self, stems: Iterable[str]) -> dict[str, float]:
        searcher = self.index.searcher()
        n = searcher.num_docs
        frequency = {s: searcher.doc_freq("stems", s) for s in stems}
        return {s: math.log1p((n - min(df, n) + 0.5) / (df + 0.5)) for s, df in frequency.items()}


class ExactKeywords:
    """rank-bm25's Okapi over all chunks in memory: a reference to compare with, O(chunks) a query."""

    def __init__(self, chunks: Mapping[int, Sequence[str]]) -> None:
        from rank_bm25 import BM25Okapi

        self.ids = list(chunks)
        self.model = BM25Okapi([list(stems) or [""] for stems in chunks.values()])

    def search(self, stems: Sequence[str], limit: int) -> dict[int, float]:
        scores = self.model.get_scores(list(stems))
        # by a shared stem, not by the score: Okapi's IDF is 0 for a stem in half of the chunks
        holding = [at for at, counts in enumerate(self.model.doc_freqs) if any(s in counts for s in stems)]
        return dict(best({self.ids[index]: float(scores[index]) for index in holding}, limit))


# --- fusion -----------------------------------------------------------------------------------


def fuse_scores(
    dense: Mapping[int, float], sparse: Mapping[int, float], weight: float = 0.5
) -> dict[int, float]:
    """Convex combination of min-max-normalised scores (Bruch et al. 2023); BM25's least is 0."""
    low, high = min(dense.values(), default=0.0), max(dense.values(), default=1.0)
    top = max(sparse.values(), default=1.0)
    return {
        chunk: (1 - weight) * (score - low) / ((high - low) or 1.0)
        + weight * sparse.get(chunk, 0.0) / (top or 1.0)
        for chunk, score in dense.items()
    }


def fuse_ranks(dense: Mapping[int, float], sparse: Mapping[int, float], k: int = 60) -> dict[int, float]:
    """Reciprocal rank fusion (Cormack et al. 2009)."""
    fused: dict[int, float] = {}
    for scores in (dense, sparse):
        for rank, chunk in enumerate(sorted(scores, key=lambda chunk: -scores[chunk]), start=1):
            fused[chunk] = fused.get(chunk, 0.0) + 1 / (k + rank)
    return fused


# --- sentences --------------------------------------------------------------------------------

UNIT = re.compile(r"(?:\r?\n){2,}|\r?\n(?=[ \t]*(?:[-*+•|]|\d{1,3}[.)]|#{1,6})\s)")
MARKER = re.compile(r"[ \t]*(?:(?:[-*+•]|\d{1,3}[.)]|>|#{1,6})[ \t]+)+")
STOP = re.compile(r"[.!?…][\"'”’)\]*_]*(?=\s+[\"'“‘(\[*_]*[^\sa-z])|[。！？]")
ABBREVIATION = re.compile(
    r"(?:\b(?:e\.g|i\.e|etc|vs|cf|no|nr|fig|eq|sec|dr|mr|mrs|ms|prof|st|approx|al|z\.b|bzw)|\b[A-Z])\.$", re.I
)
RULE = re.compile(r"[\s|:=-]*")


@dataclass(frozen=True, slots=True)
class Sentence:
    """Characters ``[start:end]`` of a chunk's text, and the words that say what it is about."""

    start: int
    end: int
    text: str
    context: str


def sentences_of(text: str, heading: str) -> list[Sentence]:
    """Sentences of prose, items of lists, rows of tables: verbatim, without the marker in front."""
    found: list[Sentence] = []
    columns = ""
    at = 0
    for end, begin in [(m.start(), m.end()) for m in UNIT.finditer(text)] + [(len(text), len(text))]:
        unit, start = text[at:end], at
        at = begin
        if "|" in unit:
            rows = table_rows(unit, start)
            columns = columns or (unit[: unit.find("\n")] if "\n" in unit else unit)
            found += (Sentence(s, e, text[s:e], f"{heading}: {' '.join(words(columns))}") for s, e in rows)
            continue
        columns = ""
        marker = MARKER.match(unit)
        skip = marker.end() if marker else 0
        found += (Sentence(s, e, text[s:e], heading) for s, e in split(text, start + skip, end))
    return found


def words(text: str) -> list[str]:
    return WORD.findall(text)


def trimmed(text: str, start: int, end: int, shift: int = 0) -> tuple[int, int]:
    """The range without the white space at its ends, moved by `shift`."""
    piece = text[start:end]
    first = shift + start + len(piece) - len(piece.lstrip())
    return first, first + len(piece.strip())


def table_rows(unit: str, start: int) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for line in re.finditer(r"[^\r\n]+", unit):
        if not RULE.fullmatch(line[0]):
            ranges.append(trimmed(unit, line.start(), line.end(), start))
    return ranges


def split(text: str, start: int, end: int) -> list[tuple[int, int]]:
    ranges: list[tuple[int, int]] = []
    for match in [*STOP.finditer(text, start, end), None]:
        stop = match.end() if match else end
        if match and ABBREVIATION.search(text, start, match.start() + 1):
            continue
        if text[start:stop].strip():
            ranges.append(trimmed(text, start, stop))
        start = stop
    return ranges


# --- evidence ---------------------------------------------------------------------------------

NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
ASKS_AMOUNT = re.compile(
    r"\b(?:how (?:many|much|long|often|old|high|large|big|far|late|soon|fast)|when"
    r"|what (?:time|day|does .* cost))\b",
    re.I,
)
AMOUNT = re.compile(
    r"\d|\b(?:one|two|three|four|five|six|seven|eight|nine|ten|twelve|first|second|third|fourth|once|twice|every|daily"
    r"|weekly|monthly|yearly|always|never|free|at once|immediately"
    r"|(?:mon|tues|wednes|thurs|fri|satur|sun)days?)\b",
    re.I,
)
NEGATION = re.compile(r"\b(?:no|not|never|none|nobody|nothing|neither|nor|cannot|without|\w+n['’]t)\b", re.I)


MANNER = re.compile(r"\bhow (?:many|much|long|often|old|high|large|big|far|late|soon|fast)\b", re.I)
SYNONYM = 0.5, 0.9  # cosine of two words from which one covers a little, and wholly, of the other


def asked_words(question: str) -> dict[str, str]:
    """Stems of a question's words that a passage should speak of, each with the word as it was written."""
    return {s: word for word in WORD.findall(MANNER.sub(" ", question)) for s in analyze(word)}


def covered(question: Mapping[str, float], stems: Iterable[str]) -> float:
    """The share of the question's weight (IDF by stem) that these stems cover, 0 to 1."""
    present = set(stems)
    whole = sum(question.values())
    return sum(weight for s, weight in question.items() if s in present) / whole if whole else 0.0


def fits(question: str, sentence: str) -> float:
    """1 unless the question asks for an amount or a time and the sentence has none, then 0."""
    return float(not ASKS_AMOUNT.search(question) or bool(AMOUNT.search(sentence)))


def extract(found: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The best sentences, at most four, in the order of the text: an answer without a writer.

    `found` is in the order of the text. A sentence that leans on a neighbour ("It …", "…:") brings it along.
    """
    if not found:
        return []
    order = sorted(range(len(found)), key=lambda index: -found[index]["score"])
    first = found[order[0]]
    chosen = {order[0]}
    for index in order[1:8]:
        near = 0.85 if found[index]["chunk"] == first["chunk"] else 0.93
        if len(chosen) < 3 and found[index]["score"] >= near * first["score"]:
            chosen.add(index)
    for index in sorted(chosen):
        before, after = index - 1, index + 1
        if leans_back(found[index]["text"]) and same_chunk(found, before, index):
            chosen.add(before)
        elif same_chunk(found, index, after) and (
            leans_on(found[index]["text"]) or leans_back(found[after]["text"])
        ):
            chosen.add(after)
    return [found[index] for index in sorted(chosen, key=lambda i: (found[i]["chunk"] != first["chunk"], i))][
        :4
    ]


def leans_back(sentence: str) -> bool:
    return bool(
        re.match(
            r"(?:it|its|they|their|this|these|those|then|that|after that|otherwise|without it)\b",
            sentence,
            re.I,
        )
    )


def leans_on(sentence: str) -> bool:
    return sentence.endswith(":") or len(sentence.split()) < 5


def same_chunk(found: Sequence[Mapping[str, Any]], one: int, other: int) -> bool:
    inside = 0 <= one < len(found) and 0 <= other < len(found)
    return inside and found[one]["chunk"] == found[other]["chunk"]


def contradicts(claim: str, evidence: str) -> bool:
    """Whether the claim has a number that the evidence lacks, or only one of them denies."""
    numbers = set(NUMBER.findall(claim)) - set(NUMBER.findall(evidence))
    return bool(numbers) or bool(NEGATION.search(claim)) != bool(NEGATION.search(evidence))


# --- requests ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class NewChunk:
    start: int
    end: int
    page: int | None
    heading: list[str]
    text: str
    embedded: str

    def digest(self, embedder: str) -> str:
        return hashlib.sha256(f"{embedder}\n{self.embedded}".encode()).hexdigest()


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Nothing(Body):
    pass


class Scope(Body):
    collection: str
    root: str


class Range(Body):
    start: int = Field(ge=0)
    end: int = Field(gt=0)
    page: int | None = None
    heading: list[str] = []


class NewDocument(Body):
    document: str
    digest: str
    title: str
    text: str
    own_text: bool = False
    chunks: list[Range]

    def cut(self) -> list[NewChunk]:
        data = self.text.encode()
        return [self.chunk(data, piece) for piece in self.chunks]

    def chunk(self, data: bytes, piece: Range) -> NewChunk:
        try:
            text = data[piece.start : piece.end].decode()
        except UnicodeDecodeError:
            text = ""
        if not text or piece.end > len(data):
            raise Problem(422, f"{self.document}: no text at bytes {piece.start}-{piece.end} of {len(data)}")
        above = " > ".join(dict.fromkeys([self.title, *piece.heading]))
        return NewChunk(piece.start, piece.end, piece.page, piece.heading, text, f"{above}\n{text}")


class Documents(Body):
    collection: str
    documents: list[NewDocument]


class Addition(Documents):
    root: str


class Finish(Scope):
    keep: list[str]


class Search(Body):
    collection: str
    query: str = Field(min_length=1, max_length=10_000)
    k: int = Field(10, ge=1, le=1000)
    mode: Literal["hybrid", "dense", "bm25"] = "hybrid"
    fusion: Literal["minmax", "rrf"] = "minmax"
    bm25: Literal["tantivy", "rank-bm25"] = "tantivy"
    feedback: bool = True


class Question(Body):
    collection: str
    question: str = Field(min_length=1, max_length=10_000)
    k: int = Field(6, ge=1, le=50)
    limit: int = Field(12, ge=1, le=100)


class Spans(Body):
    collection: str
    after: int = Field(0, ge=0)
    limit: int = Field(200, ge=1, le=1000)


class Pair(Body):
    claim: str
    sentences: list[str] = Field(min_length=1, max_length=50)


class Claims(Body):
    pairs: list[Pair] = Field(min_length=1, max_length=50)


CACHE_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n"  # https://bford.info/cachedir/


# --- the retriever ----------------------------------------------------------------------------


class Retriever:
    """Everything a request can ask for. Methods raise `Problem`; all are safe to call from threads."""

    def __init__(self, data: Path, embedder: Embedder, label: str = "") -> None:
        import chromadb

        self.data, self.embedder, self.label = data, embedder, label
        self.store = Store(data / "store.sqlite")
        self.writing = threading.Lock()
        for derived in ("chroma", "bm25"):  # made anew from the store: nothing that a backup needs
            (data / derived).mkdir(parents=True, exist_ok=True)
            (data / derived / "CACHEDIR.TAG").write_text(CACHE_TAG, encoding="ascii")
        settings = chromadb.Settings(anonymized_telemetry=False)
        self.chroma = chromadb.PersistentClient(str(data / "chroma"), settings=settings)
        self.keywords: dict[int, Keywords] = {}
        self.exact: dict[int, tuple[int, ExactKeywords]] = {}
        for row in self.store.collections():
            if row["embedder"] == embedder.name:
                self.mend(row["id"], row["dirty"])

    # collections

    def find(self, name: str) -> int:
        rows = {row["name"]: row for row in self.store.rows("SELECT * FROM collections")}
        if name not in rows:
            import difflib

            near = difflib.get_close_matches(name, rows, n=3, cutoff=0.5) or sorted(rows)[:8]
            hint = f"there are: {', '.join(near)}" if near else "ingest a folder first"
            raise Problem(404, f"There is no collection {name!r}", hint)
        self.check_embedder(rows[name])
        return rows[name]["id"]

    def find_or_make(self, name: str) -> int:
        if not NAME.fullmatch(name):
            raise Problem(
                422,
                f"{name!r} is no name for a collection",
                "letters, digits, space, '.', '-' and '_', up to 63",
            )
        with self.store.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO collections(name, embedder) VALUES(?, ?)", (name, self.embedder.name)
            )
        (row,) = self.store.rows("SELECT * FROM collections WHERE name = ?", name)
        self.check_embedder(row)
        return row["id"]

    def check_embedder(self, row: sqlite3.Row) -> None:
        if row["embedder"] != self.embedder.name:
            raise Problem(
                409,
                f"Collection {row['name']!r} was embedded with {row['embedder']}, not {self.embedder.name}",
                "start the retriever with that embedder, or ingest into another collection",
            )

    def collections(self, _: Nothing) -> dict[str, Any]:
        rows = self.store.collections()
        named = [{key: row[key] for key in ("name", "documents", "chunks")} for row in rows]
        return {"collections": named, "embedder": self.label}

    # indexes

    def vectors_index(self, collection: int) -> Any:
        return self.chroma.get_or_create_collection(
            f"collection-{collection}",
            configuration={"hnsw": {"space": "cosine", "ef_search": DEPTH, "ef_construction": 200}},
            embedding_function=None,
        )

    def keywords_index(self, collection: int) -> Keywords:
        if collection not in self.keywords:
            self.keywords[collection] = Keywords(self.data / "bm25" / str(collection))
        return self.keywords[collection]

    def mend(self, collection: int, dirty: int) -> None:
        """Make the derived indexes hold just the chunks that the store holds."""
        index, keywords = self.vectors_index(collection), self.keywords_index(collection)
        chunks = self.store.counts(collection)["chunks"]
        if not dirty and index.count() == keywords.index.searcher().num_docs == chunks:
            return
        truth = self.store.chunk_ids(collection)
        dense = {int(chunk) for chunk in index.get(include=[])["ids"]}
        self.update_vectors(collection, truth - dense, dense - truth)
        sparse = keywords.ids()
        self.update_keywords(collection, truth - sparse, sparse - truth)
        self.settle(collection)

    def update_vectors(self, collection: int, added: Iterable[int], removed: Iterable[int]) -> None:
        index = self.vectors_index(collection)
        for part in parts(sorted(removed), 1000):
            index.delete(ids=[str(chunk) for chunk in part])
        for part in parts(sorted(added), 1000):
            vectors = self.store.chunk_vectors(part)
            index.upsert(ids=[str(chunk) for chunk in vectors], embeddings=list(vectors.values()))

    def update_keywords(self, collection: int, added: Iterable[int], removed: Iterable[int]) -> None:
        rows = self.store.chunks(added)
        self.keywords_index(collection).update({chunk: stems_of(row) for chunk, row in rows.items()}, removed)

    def settle(self, collection: int) -> None:
        with self.store.transaction() as db:
            db.execute("UPDATE collections SET dirty = 0 WHERE id = ?", (collection,))

    # writing

    def documents(self, ask: Scope) -> dict[str, Any]:
        sql = "SELECT d.name, d.digest FROM documents d JOIN collections c ON c.id = d.collection"
        rows = self.store.rows(f"{sql} WHERE c.name = ? AND d.root = ?", ask.collection, ask.root)
        return {"documents": {row["name"]: row["digest"] for row in rows}}

    def embed(self, ask: Documents) -> dict[str, Any]:
        self.find_or_make(ask.collection)
        return {
            "embedded": self.ensure_vectors([chunk for document in ask.documents for chunk in document.cut()])
        }

    def ensure_vectors(self, chunks: Sequence[NewChunk]) -> int:
        texts = {chunk.digest(self.embedder.name): chunk.embedded for chunk in chunks}
        missing = sorted(texts.keys() - self.store.known_vectors(texts))
        if missing:
            vectors = self.embedder.encode([texts[digest] for digest in missing])
            self.store.save_vectors(dict(zip(missing, vectors, strict=True)))
        return len(missing)

    def add(self, ask: Addition) -> dict[str, Any]:
        """Replace these documents; those whose digest is known stay as they are."""
        collection = self.find_or_make(ask.collection)
        known = self.documents(Scope(collection=ask.collection, root=ask.root))["documents"]
        new = [document for document in ask.documents if known.get(document.document) != document.digest]
        cut = {document.document: document.cut() for document in new}
        self.ensure_vectors([chunk for chunks in cut.values() for chunk in chunks])
        counts = Counter(added=0, updated=0, unchanged=len(ask.documents) - len(new))
        added: list[int] = []
        removed: list[int] = []
        with self.writing:
            with self.store.transaction() as db:
                for document in new:
                    gone = drop_document(db, collection, document.document)
                    counts["added" if gone is None else "updated"] += 1
                    removed += gone or []
                    source = self.keep_text(document.text) if document.own_text else document.document
                    added += insert_document(
                        db, collection, ask.root, document, source, cut[document.document], self.embedder.name
                    )
                mark(db, collection)
            self.index(collection, added, removed)
        return dict(counts)

    def index(self, collection: int, added: Sequence[int], removed: Sequence[int]) -> None:
        if added or removed:
            self.update_vectors(collection, added, removed)
            self.update_keywords(collection, added, removed)
        self.settle(collection)

    def keep_text(self, text: str) -> str:
        """Where a canonical text of ours lies, by its digest. It stays, so that old citations hold."""
        data = text.encode()
        name = hashlib.sha256(data).hexdigest()
        path = self.data / "texts" / name[:2] / f"{name}.txt"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            partial = path.with_suffix(f".{threading.get_ident()}.tmp")
            partial.write_bytes(data)
            partial.replace(path)
        return str(path)

    def finish(self, ask: Finish) -> dict[str, Any]:
        collection = self.find_or_make(ask.collection)
        keep = set(ask.keep)
        with self.writing:
            known = self.documents(Scope(collection=ask.collection, root=ask.root))["documents"]
            gone = sorted(known.keys() - keep)
            removed: list[int] = []
            with self.store.transaction() as db:
                for name in gone:
                    removed += drop_document(db, collection, name) or []
                mark(db, collection)
            self.index(collection, [], removed)
        self.store.drop_unused_vectors()
        return {"removed": len(gone), **self.store.counts(collection)}

    # reading

    def search(self, ask: Search) -> dict[str, Any]:
        collection = self.find(ask.collection)
        ranked = self.rank(collection, ask)
        rows = self.store.chunks(chunk for chunk, _ in ranked)
        kept = [(rows[chunk], score) for chunk, score in ranked if chunk in rows]
        return {"hits": [hit(row, rank, score) for rank, (row, score) in enumerate(kept[: ask.k], start=1)]}

    def rank(self, collection: int, ask: Search) -> list[tuple[int, float]]:
        """Chunk ids with scores, best first."""
        depth = max(DEPTH, ask.k)
        stems = analyze(ask.query) or analyze_all(ask.query)
        sparse = self.sparse(collection, stems, depth, ask.bm25) if ask.mode != "dense" else {}
        if ask.mode == "bm25":
            return best(sparse, ask.k)
        question = self.embedder.remembered([ask.query])[0]
        question = (
            self.feedback(question, self.dense(collection, question, FEEDBACK)) if ask.feedback else question
        )
        dense = self.dense(collection, question, depth)
        if ask.mode == "dense":
            return best(dense, ask.k)
        if ask.fusion == "rrf":
            return best(fuse_ranks(dense, sparse), ask.k)
        vectors = self.store.chunk_vectors(sparse.keys() - dense.keys())
        return best(fuse_scores(dense | {c: float(v @ question) for c, v in vectors.items()}, sparse), ask.k)

    def dense(self, collection: int, question: Any, limit: int) -> dict[int, float]:
        from chromadb.errors import ChromaError

        index = self.vectors_index(collection)
        limit = min(limit, index.count())
        if not limit:
            return {}
        try:
            found = index.query(query_embeddings=[question], n_results=limit, include=["distances"])
        except ChromaError:  # HNSW with many deletions may find too few neighbours: compare with all instead
            vectors = self.store.chunk_vectors(self.store.chunk_ids(collection))
            return dict(best({chunk: float(vector @ question) for chunk, vector in vectors.items()}, limit))
        return {int(c): 1 - d for c, d in zip(found["ids"][0], found["distances"][0], strict=True)}

    def feedback(self, question: Any, first: Mapping[int, float]) -> Any:
        """Rocchio's pseudo-relevance feedback on vectors."""
        import numpy as np

        vectors = list(self.store.chunk_vectors(first).values())
        if not vectors:
            return question
        moved = ALPHA * question + (1 - ALPHA) * np.mean(vectors, axis=0)
        return moved / np.linalg.norm(moved)

    def sparse(self, collection: int, stems: Sequence[str], limit: int, kind: str) -> dict[int, float]:
        if kind == "tantivy":
            return self.keywords_index(collection).search(stems, limit)
        (row,) = self.store.rows("SELECT version FROM collections WHERE id = ?", collection)
        version, exact = self.exact.get(collection, (-1, None))
        if exact is None or version != row["version"]:
            rows = self.store.chunks(self.store.chunk_ids(collection))
            exact = ExactKeywords({chunk: stems_of(row) for chunk, row in rows.items()})
            self.exact[collection] = row["version"], exact
        return exact.search(stems, limit)

    def sentences(self, ask: Question) -> dict[str, Any]:
        """The sentences that speak to a question, and how well the collection covers it."""
        collection = self.find(ask.collection)
        search = Search(collection=ask.collection, query=ask.question, k=ask.k)
        ranked = self.rank(collection, search)
        rows = self.store.chunks(chunk for chunk, _ in ranked)
        ranked = [(chunk, score) for chunk, score in ranked if chunk in rows]
        words_ = asked_words(ask.question)
        weights = self.keywords_index(collection).idf(words_)
        found = self.score_sentences(ask.question, weights, [(rows[chunk], score) for chunk, score in ranked])
        answer = extract(found)
        found.sort(key=lambda sentence: -sentence["score"])
        home = rows[found[0]["chunk"]] if found else None
        shares = self.shares(words_, home) if home else dict.fromkeys(words_, 0.0)
        features = self.features(ask.question, weights, shares, found, rows)
        return {
            "sentences": found[: ask.limit],
            "answer": answer,
            "features": features,
            "evidence": evidence(features),
            "missing": [word for s, word in words_.items() if shares[s] < 0.5],
        }

    def shares(self, words_: Mapping[str, str], row: sqlite3.Row) -> dict[str, float]:
        """How far a passage speaks of each word of a question: 1 for the same stem, less if only near."""
        present = set(stems_of(row))
        near = sorted({word for word in WORD.findall(f"{place(row)} {row['text']}".lower()) if analyze(word)})
        absent = [s for s in words_ if s not in present]
        shares = dict.fromkeys(words_, 1.0)
        if absent and near:
            vectors = self.embedder.remembered([*(words_[s].lower() for s in absent), *near])
            nearest = (vectors[: len(absent)] @ vectors[len(absent) :].T).max(axis=1)
            low, high = SYNONYM
            shares |= {
                s: min(max((float(c) - low) / (high - low), 0.0), 1.0)
                for s, c in zip(absent, nearest, strict=True)
            }
        return shares

    def score_sentences(
        self, question: str, weights: Mapping[str, float], ranked: Sequence[tuple[sqlite3.Row, float]]
    ) -> list[dict[str, Any]]:
        pairs = [(row, score, s) for row, score in ranked for s in sentences_of(row["text"], place(row))]
        if not pairs:
            return []
        vectors = self.embedder.remembered(
            [question, *(s.text for _, _, s in pairs), *(f"{s.context}: {s.text}" for _, _, s in pairs)]
        )
        plain, placed = (vectors[1:] @ vectors[0]).reshape(2, len(pairs)).tolist()
        found: list[dict[str, Any]] = []
        for (row, score, sentence), alone, inside in zip(pairs, plain, placed, strict=True):
            coverage = covered(weights, analyze(f"{sentence.context} {sentence.text}"))
            similarity = max(alone, inside)
            start = row["start"] + len(row["text"][: sentence.start].encode())
            cited = {"text": sentence.text, "start": start, "end": start + len(sentence.text.encode())}
            found.append(
                citation(row)
                | cited
                | {
                    "score": round(
                        0.5 * similarity + 0.2 * coverage + 0.2 * score + 0.1 * fits(question, sentence.text),
                        4,
                    ),
                    "similarity": round(similarity, 4),
                    "coverage": round(coverage, 4),
                }
            )
        return found

    def features(
        self,
        question: str,
        weights: Mapping[str, float],
        shares: Mapping[str, float],
        found: Sequence[Mapping[str, Any]],
        chunks: Iterable[int],
    ) -> dict[str, float]:
        """Best cosine of a sentence and of a passage, and how much of the question the passage covers."""
        vectors = self.store.chunk_vectors(chunks)
        asked = self.embedder.remembered([question])[0]
        whole = sum(weights.values())
        return {
            "sentence": max((sentence["similarity"] for sentence in found), default=0.0),
            "passage": round(max((float(vector @ asked) for vector in vectors.values()), default=0.0), 4),
            "coverage": round(sum(weights[s] * shares[s] for s in weights) / whole, 4) if whole else 0.0,
        }

    def spans(self, ask: Spans) -> dict[str, Any]:
        """The sentences of some passages in order, with their places; `next` is what to ask for after."""
        collection = self.find(ask.collection)
        chunks = sorted(chunk for chunk in self.store.chunk_ids(collection) if chunk > ask.after)[: ask.limit]
        rows = self.store.chunks(chunks)
        found: list[dict[str, Any]] = []
        for row in (rows[chunk] for chunk in chunks if chunk in rows):
            whole = {name: citation(row)[name] for name in ("text", "start", "end")}
            for sentence in sentences_of(row["text"], place(row)):
                start = row["start"] + len(row["text"][: sentence.start].encode())
                span = {"text": sentence.text, "start": start, "end": start + len(sentence.text.encode())}
                found.append(citation(row) | span | {"passage": row["text"], "whole": whole})
        return {"spans": found, "next": chunks[-1] if len(chunks) == ask.limit else None}

    def support(self, ask: Claims) -> dict[str, Any]:
        """How well each sentence bears each claim: cosine, share of the claim's words, and numbers."""
        return {"support": [self.support_of(pair.claim, pair.sentences) for pair in ask.pairs]}

    def support_of(self, claim: str, sentences: Sequence[str]) -> list[dict[str, Any]]:
        vectors = self.embedder.remembered([claim, *sentences])
        stems = dict.fromkeys(analyze(claim), 1.0)
        return [
            {
                "similarity": round(float(vector @ vectors[0]), 4),
                "coverage": round(covered(stems, analyze(sentence)), 4),
                "contradicts": contradicts(claim, sentence),
            }
            for vector, sentence in zip(vectors[1:], sentences, strict=True)
        ]


def evidence(features: Mapping[str, float]) -> float:
    """Logistic score, 0 to 1, that the question is answered; 0.5 was set on development questions."""
    z = BIAS + sum(WEIGHTS[name] * features[name] for name in WEIGHTS)
    return round(1 / (1 + math.exp(-z)), 4)


WEIGHTS = {"sentence": 4.0, "passage": 4.0, "coverage": 8.0}
BIAS = -7.9


def analyze_all(text: str) -> list[str]:
    """Stems with the stopwords, for a query that has nothing else."""
    return [stem(word) for word in WORD.findall(text.lower())]


def best(scores: Mapping[int, float], k: int) -> list[tuple[int, float]]:
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))[:k]


def parts(items: Sequence[Any], length: int) -> Iterable[Sequence[Any]]:
    return (items[at : at + length] for at in range(0, len(items), length))


def place(row: sqlite3.Row) -> str:
    """Title and headings, without repeating what they share."""
    return " > ".join(dict.fromkeys([row["title"], *json.loads(row["heading"])]))


def stems_of(row: sqlite3.Row) -> list[str]:
    return analyze(f"{place(row)}\n{row['text']}")


def citation(row: sqlite3.Row) -> dict[str, Any]:
    return {
        "text": row["text"],
        "source": row["source"],
        "document": row["document"],
        "title": row["title"],
        "heading": json.loads(row["heading"]),
        "page": row["page"],
        "start": row["start"],
        "end": row["end"],
        "chunk": row["id"],
    }


def hit(row: sqlite3.Row, rank: int, score: float) -> dict[str, Any]:
    return {"rank": rank, "score": round(score, 6), **citation(row)}


def drop_document(db: sqlite3.Connection, collection: int, name: str) -> list[int] | None:
    """The chunks that went with it; None if there was none of that name."""
    row = db.execute(
        "SELECT id FROM documents WHERE collection = ? AND name = ?", (collection, name)
    ).fetchone()
    if row is None:
        return None
    chunks = [c["id"] for c in db.execute("SELECT id FROM chunks WHERE document = ?", (row["id"],))]
    db.execute("DELETE FROM documents WHERE id = ?", (row["id"],))
    return chunks


INSERT_CHUNK = """
INSERT INTO chunks(document, start, "end", page, heading, text, vector) VALUES(?, ?, ?, ?, ?, ?, ?)
"""


def insert_document(
    db: sqlite3.Connection,
    collection: int,
    root: str,
    document: NewDocument,
    source: str,
    chunks: Sequence[NewChunk],
    embedder: str,
) -> list[int]:
    cursor = db.execute(
        "INSERT INTO documents(collection, name, root, digest, title, source) VALUES(?, ?, ?, ?, ?, ?)",
        (collection, document.document, root, document.digest, document.title, source),
    )
    owner = cursor.lastrowid
    ids: list[int] = []
    for chunk in chunks:
        values = (
            owner,
            chunk.start,
            chunk.end,
            chunk.page,
            json.dumps(chunk.heading),
            chunk.text,
            chunk.digest(embedder),
        )
        ids.append(int(db.execute(INSERT_CHUNK, values).lastrowid or 0))
    return ids


def mark(db: sqlite3.Connection, collection: int) -> None:
    """From here until `settle`, the indexes may lag behind the store."""
    db.execute("UPDATE collections SET dirty = 1, version = version + 1 WHERE id = ?", (collection,))


# --- HTTP -------------------------------------------------------------------------------------

ROUTES: dict[str, tuple[type[Body], Callable[[Retriever, Any], dict[str, Any]]]] = {
    "/collections": (Nothing, Retriever.collections),
    "/documents": (Scope, Retriever.documents),
    "/embed": (Documents, Retriever.embed),
    "/add": (Addition, Retriever.add),
    "/finish": (Finish, Retriever.finish),
    "/search": (Search, Retriever.search),
    "/sentences": (Question, Retriever.sentences),
    "/spans": (Spans, Retriever.spans),
    "/support": (Claims, Retriever.support),
}


def make_app(retriever: Retriever, token: str) -> Any:
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.requests import ClientDisconnect, Request
    from starlette.responses import JSONResponse, Response
    from starlette.routing import Route

    async def answer(request: Request) -> Response:
        try:
            authorize(request.headers.get("authorization", ""), token)
            kind, method = ROUTES[request.url.path]
            ask = parse(kind, await body_of(request))
            return JSONResponse(await run_in_threadpool(method, retriever, ask))
        except Problem as problem:
            told = {"error": {"message": problem.message, "hint": problem.hint}}
            return JSONResponse(told, problem.status)
        except ClientDisconnect:
            return Response(status_code=400)

    async def health(request: Request) -> Response:
        return JSONResponse({"ready": True, "embedder": retriever.embedder.name})

    routes = [Route(path, answer, methods=["POST"]) for path in ROUTES]
    return Starlette(routes=[Route("/health", health), *routes])


def authorize(header: str, token: str) -> None:
    if not hmac.compare_digest(header.encode(), f"Bearer {token}".encode()):
        raise Problem(401, "The bearer token is missing or wrong")


async def body_of(request: Any) -> bytes:
    """The body, refused as soon as it is longer than allowed."""
    parts_: list[bytes] = []
    length = 0
    async for part in request.stream():
        length += len(part)
        if length > BODY_BYTES:
            raise Problem(
                413, f"The body is longer than {BODY_BYTES:,} bytes", "send fewer documents at once"
            )
        parts_.append(part)
    return b"".join(parts_)


def parse(kind: type[Body], data: bytes) -> Body:
    try:
        return kind.model_validate_json(data or b"{}")
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"]))
        raise Problem(422, f"{field or 'body'}: {first['msg']}") from None


# --- the service ------------------------------------------------------------------------------


def event(kind: str, **values: Any) -> None:
    print(json.dumps({"event": kind, **values}), flush=True)


def lock_of(data: Path) -> Any:
    """An exclusive lock on the data folder, held while the process lives."""
    data.mkdir(parents=True, exist_ok=True)
    lock = (data / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Problem(
            409, f"Another retriever has {data} open", "stop it first, or name another data folder"
        ) from None
    return lock


def bind(port: int) -> socket.socket:
    """Bound before anything is loaded, so that a port in use is known at once."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind(("127.0.0.1", port))
    except OSError as error:
        raise Problem(
            409, f"Port {port} of 127.0.0.1 cannot be used: {error.strerror}", "choose another port"
        ) from None
    return sock


def serve(spec: Mapping[str, Any], token: str) -> None:
    began = time.monotonic()
    data = Path(spec["data"])
    lock, sock = lock_of(data), bind(int(spec["port"]))
    if not token:
        raise Problem(401, "AGENTD_SERVICE_TOKEN is not set", "set it to the secret that callers send")
    event("progress", message="loading the embedder")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    embedder = Embedder(
        Path(spec["inputs"]["embedder"]), int(spec.get("threads") or min(4, os.cpu_count() or 1))
    )
    retriever = Retriever(data, embedder, str(spec.get("embedder_name", "")))
    embedder.encode(["ready"])
    import uvicorn

    event("progress", message="ready", seconds=round(time.monotonic() - began, 2))
    config = uvicorn.Config(
        make_app(retriever, token),
        log_level="warning",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
    )
    uvicorn.Server(config).run(sockets=[sock])
    lock.close()


def main(spec_path: str, out: str) -> int:
    # before the server runs nothing needs a farewell; afterwards the store is whole at every moment
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    try:
        serve(
            json.loads(Path(spec_path).read_text(encoding="utf-8")),
            os.environ.get("AGENTD_SERVICE_TOKEN", ""),
        )
    except Problem as problem:
        event("error", message=problem.message, hint=problem.hint)
        return 2
    os._exit(0)  # a thread may still be embedding; what it has not stored is not acknowledged either


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
