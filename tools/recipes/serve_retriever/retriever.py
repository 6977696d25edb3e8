"""Collections, kept in the store and in the indexes derived from it."""

from __future__ import annotations

import hashlib
import re
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bodies import Addition, Documents, Finish, NewChunk, NewDocument, Nothing, Scope
from embedder import Embedder
from keywords import ExactKeywords, Keywords
from passages import stems_of
from problems import Problem
from resident import Resident
from store import Store, drop_document, insert_document, mark

DEPTH = 200  # candidates that each half of the search brings into the fusion
NAME = re.compile(r"[^\W_][\w .-]{0,62}")
CACHE_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n"  # https://bford.info/cachedir/


class Retriever:
    """What there is, and how it changes. Methods raise `Problem`; all are safe to call from threads."""

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
        self.resident: dict[int, Resident] = {}
        self.indexes: dict[int, Any] = {}
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
        if collection not in self.indexes:
            self.indexes[collection] = self.chroma.get_or_create_collection(
                f"collection-{collection}",
                configuration={"hnsw": {"space": "cosine", "ef_search": DEPTH, "ef_construction": 200}},
                embedding_function=None,
            )
        return self.indexes[collection]

    def keywords_index(self, collection: int) -> Keywords:
        if collection not in self.keywords:
            self.keywords[collection] = Keywords(self.data / "bm25" / str(collection))
        return self.keywords[collection]

    def vectors_of(self, collection: int) -> Resident:
        """The vectors of a collection, read into memory at its first search."""
        if collection not in self.resident:
            with self.writing:
                if collection not in self.resident:
                    self.resident[collection] = Resident(self.store.collection_vectors(collection))
        return self.resident[collection]

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
                homes = self.homes(new)
                for document in new:
                    gone = drop_document(db, collection, document.document)
                    counts["added" if gone is None else "updated"] += 1
                    removed += gone or []
                    source, at = homes[document.document]
                    pieces = [piece.moved(at) for piece in cut[document.document]]
                    added += insert_document(
                        db, collection, ask.root, document, source, pieces, self.embedder.name
                    )
                mark(db, collection)
            self.index(collection, added, removed)
        return dict(counts)

    def index(self, collection: int, added: Sequence[int], removed: Sequence[int]) -> None:
        if added or removed:
            if resident := self.resident.get(collection):
                resident.remove(removed)
                resident.add(self.store.chunk_vectors(added))
            self.update_vectors(collection, added, removed)
            self.update_keywords(collection, added, removed)
        self.settle(collection)

    def homes(self, documents: Sequence[NewDocument]) -> dict[str, tuple[str, int]]:
        """The file that holds each document's canonical text, and at which byte: rows share one."""
        texts = [document.text for document in documents if document.row is not None]
        shared = self.keep_text("\n\n".join(texts)) if texts else ""
        found: dict[str, tuple[str, int]] = {}
        at = 0
        for document in documents:
            if document.row is not None:
                found[document.document] = shared, at
                at += len(document.text.encode()) + 2
            else:
                own = self.keep_text(document.text) if document.own_text else document.document
                found[document.document] = own, 0
        return found

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


def parts(items: Sequence[Any], length: int) -> Iterable[Sequence[Any]]:
    return (items[at : at + length] for at in range(0, len(items), length))
