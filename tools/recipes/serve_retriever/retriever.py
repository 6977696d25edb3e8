"""Collections, kept in the store and in the indexes derived from it."""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from bodies import Addition, Documents, Drop, Finish, NewChunk, NewDocument, Scope, Who
from embedder import Embedder
from keywords import ExactKeywords, Keywords
from learned import Learned, load
from passages import stems_of
from problems import Problem
from resident import Resident
from staging import Staging
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
        self.staging = Staging(self.store)
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
        self.learned: dict[int, Learned | None] = {}
        for row in self.store.collections():
            if row["embedder"] == embedder.name:
                self.mend(row["id"], row["dirty"])

    # collections

    def find(self, name: str) -> int:
        rows = {row["name"]: row for row in self.store.named()}
        if name not in rows:
            import difflib

            shared = sorted(name for name, row in rows.items() if not row["owner"])
            near = difflib.get_close_matches(name, shared, n=3, cutoff=0.5) or shared[:8]
            hint = f"there are: {', '.join(near)}" if near else "ingest a folder first"
            raise Problem(404, f"There is no collection {name!r}", hint)
        self.check_embedder(rows[name])
        return rows[name]["id"]

    def find_or_make(self, name: str, owner: str = "") -> int:
        """Raises `Problem` if it belongs to somebody else, or to all while one owner is asked for."""
        if not NAME.fullmatch(name):
            raise Problem(
                422,
                f"{name!r} is no name for a collection",
                "letters, digits, space, '.', '-' and '_', up to 63",
            )
        with self.store.transaction() as db:
            db.execute(
                "INSERT OR IGNORE INTO collections(name, embedder, owner) VALUES(?, ?, ?)",
                (name, self.embedder.name, owner),
            )
        (row,) = self.store.rows("SELECT * FROM collections WHERE name = ?", name)
        self.check_embedder(row)
        if row["owner"] not in ("", owner) or (owner and not row["owner"]):
            whose = "somebody else" if row["owner"] else "all"
            raise Problem(409, f"Collection {name!r} belongs to {whose}", "take another name")
        return row["id"]

    def check_embedder(self, row: sqlite3.Row) -> None:
        if row["embedder"] != self.embedder.name:
            raise Problem(
                409,
                f"Collection {row['name']!r} was embedded with {row['embedder']}, not {self.embedder.name}",
                "start the retriever with that embedder, or ingest into another collection",
            )

    def collections(self, ask: Who) -> dict[str, Any]:
        rows = self.store.collections()
        seen = [row for row in rows if row["owner"] in ("", ask.principal)]
        named = [{key: row[key] for key in ("name", "documents", "chunks", "owner")} for row in seen]
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

    def ranking_of(self, collection: int) -> Learned | None:
        """What was learned from judgments on this collection, if anything was."""
        if collection not in self.learned:
            self.learned[collection] = load(self.ranking_file(collection))
        return self.learned[collection]

    def ranking_file(self, collection: int) -> Path:
        return self.data / "ranking" / f"{collection}.json"

    def mend(self, collection: int, dirty: int) -> None:
        """Make the derived indexes hold just the chunks that the store holds."""
        index, keywords = self.vectors_index(collection), self.keywords_index(collection)
        truth = self.store.chunk_ids(collection) | self.store.staged_ids(collection)
        if not dirty and index.count() == keywords.index.searcher().num_docs == len(truth):
            return
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
        """Digests by name, of the last whole ingest; what one under way has added counts instead."""
        rows = self.store.rows("SELECT id FROM collections WHERE name = ?", ask.collection)
        if not rows:
            return {"documents": {}}
        collection = rows[0]["id"]
        staged = self.staging.digests(collection, ask.root)
        return {"documents": self.store.digests(collection, ask.root) | staged}

    def embed(self, ask: Documents) -> dict[str, Any]:
        self.find_or_make(ask.collection, ask.owner)
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
        """Replace these documents, at once or, `staged`, when the ingest is finished; known ones stay."""
        collection = self.find_or_make(ask.collection, ask.owner)
        live = self.store.digests(collection, ask.root)
        staged = self.staging.digests(collection, ask.root) if ask.staged else {}
        known = live | staged
        new = [document for document in ask.documents if known.get(document.document) != document.digest]
        cut = {document.document: document.cut() for document in new}
        self.ensure_vectors([chunk for chunks in cut.values() for chunk in chunks])
        counts = Counter(added=0, updated=0, unchanged=len(ask.documents) - len(new))
        added: list[int] = []
        removed: list[int] = []
        with self.writing:
            with self.store.transaction() as db:
                homes = self.homes(new)
                into = self.staging.make_place(db, collection, ask.root) if ask.staged and new else collection
                for document in new:
                    removed += drop_document(db, into, document.document) or []
                    counts["updated" if document.document in live else "added"] += 1
                    source, at = homes[document.document]
                    pieces = [piece.moved(at) for piece in cut[document.document]]
                    added += insert_document(db, into, ask.root, document, source, pieces, self.embedder.name)
                mark(db, collection)
            if ask.staged:
                self.staging.hide(collection, added, removed)
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

    def drop(self, ask: Drop) -> dict[str, Any]:
        """Forget a collection. Texts that were extracted stay, so that old citations hold."""
        rows = self.store.rows("SELECT id FROM collections WHERE name = ?", ask.collection)
        with self.writing:
            for (collection,) in rows:
                with self.store.transaction() as db:
                    db.execute("DELETE FROM collections WHERE id = ?", (collection,))
                self.chroma.delete_collection(self.vectors_index(collection).name)
                self.staging.forget(collection)
                for held in (self.indexes, self.keywords, self.exact, self.resident, self.learned):
                    held.pop(collection, None)
                self.ranking_file(collection).unlink(missing_ok=True)
                shutil.rmtree(self.data / "bm25" / str(collection), ignore_errors=True)
        return {"dropped": len(rows)}

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
        """Make what was staged visible, all at once, and drop what is not kept.

        Raises `Problem`, and changes nothing, when a document is missing that is to be kept: another
        ingest of the same root has finished meanwhile, and did not know it.
        """
        collection = self.find_or_make(ask.collection, ask.owner)
        keep = set(ask.keep)
        with self.writing:
            there = {*self.store.digests(collection, ask.root), *self.staging.digests(collection, ask.root)}
            if missing := keep - there:
                raise Problem(
                    409,
                    f"Another ingest of {ask.root} has finished; {len(missing)} documents are missing",
                    "ingest again, one at a time: what is known is not embedded again",
                )
            gone, removed = self.staging.promote(collection, ask.root, keep)
            self.index(collection, [], removed)
        self.store.drop_unused_vectors()
        return {"removed": len(gone), **self.store.counts(collection)}


def parts(items: Sequence[Any], length: int) -> Iterable[Sequence[Any]]:
    return (items[at : at + length] for at in range(0, len(items), length))
