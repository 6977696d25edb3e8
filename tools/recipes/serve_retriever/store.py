"""The truth: collections, documents, chunks and their vectors, in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bodies import NewChunk, NewDocument
from problems import Problem

VERSION = 3  # of the schema: raise it with a step in `migrate`
VECTOR_DAYS = 1.0  # a vector that no chunk uses is kept this long: an ingest may be about to add it
SCHEMA = """
CREATE TABLE IF NOT EXISTS collections(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, embedder TEXT NOT NULL,
  dirty INTEGER NOT NULL DEFAULT 0, version INTEGER NOT NULL DEFAULT 0,
  owner TEXT NOT NULL DEFAULT '', staging_of INTEGER REFERENCES collections(id) ON DELETE CASCADE);
CREATE TABLE IF NOT EXISTS documents(
  id INTEGER PRIMARY KEY, collection INTEGER NOT NULL REFERENCES collections(id) ON DELETE CASCADE,
  name TEXT NOT NULL, root TEXT NOT NULL, digest TEXT NOT NULL, title TEXT NOT NULL, source TEXT NOT NULL,
  meta TEXT NOT NULL DEFAULT '{}', UNIQUE(collection, name));
CREATE TABLE IF NOT EXISTS chunks(
  id INTEGER PRIMARY KEY AUTOINCREMENT, document INTEGER NOT NULL REFERENCES documents(id) ON DELETE CASCADE,
  start INTEGER NOT NULL, "end" INTEGER NOT NULL, page INTEGER, heading TEXT NOT NULL, text TEXT NOT NULL,
  vector TEXT NOT NULL, parent_start INTEGER, parent_end INTEGER);
CREATE INDEX IF NOT EXISTS chunks_of_document ON chunks(document);
CREATE INDEX IF NOT EXISTS chunks_of_vector ON chunks(vector);
CREATE TABLE IF NOT EXISTS vectors(
  digest TEXT PRIMARY KEY, value BLOB NOT NULL, made_at REAL NOT NULL) WITHOUT ROWID;
"""
CHUNKS = """
SELECT c.id, c.start, c."end", c.page, c.heading, c.text, c.vector, c.parent_start, c.parent_end,
  d.name AS document, d.title, d.source
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
        migrate(self.db, path)

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
        return [dict(row) | self.counts(row["id"]) for row in self.named()]

    def named(self) -> list[sqlite3.Row]:
        """Collections, without counting what they hold; not those that only hold what is staged."""
        return self.rows("SELECT * FROM collections WHERE staging_of IS NULL ORDER BY name")

    def counts(self, collection: int) -> dict[str, int]:
        (row,) = self.rows(
            "SELECT count(DISTINCT d.id) AS documents, count(c.id) AS chunks FROM documents d"
            " LEFT JOIN chunks c ON c.document = d.id WHERE d.collection = ?",
            collection,
        )
        return dict(row)

    def chunk_ids(self, collection: int) -> set[int]:
        """Of what can be found; not of what is staged."""
        sql = "SELECT c.id FROM chunks c JOIN documents d ON d.id = c.document WHERE d.collection = ?"
        return {row["id"] for row in self.rows(sql, collection)}

    def staged_ids(self, collection: int) -> set[int]:
        """Of documents that ingests under way have added."""
        rows = self.rows(
            "SELECT c.id FROM collections k JOIN documents d ON d.collection = k.id"
            " JOIN chunks c ON c.document = d.id WHERE k.staging_of = ?",
            collection,
        )
        return {row["id"] for row in rows}

    def digests(self, collection: int, root: str) -> dict[str, str]:
        """Of the documents of a root, by name."""
        sql = "SELECT name, digest FROM documents WHERE collection = ? AND root = ?"
        return {row["name"]: row["digest"] for row in self.rows(sql, collection, root)}

    def chunks(self, ids: Iterable[int]) -> dict[int, sqlite3.Row]:
        """Rows by id; ids that are gone are left out."""
        rows = self.rows(f"{CHUNKS} WHERE c.id IN (SELECT value FROM json_each(?))", json.dumps(list(ids)))
        return {row["id"]: row for row in rows}

    def owners(self, ids: Iterable[int]) -> dict[int, int]:
        """Ids of documents by ids of their chunks."""
        sql = "SELECT id, document FROM chunks WHERE id IN (SELECT value FROM json_each(?))"
        return {row["id"]: row["document"] for row in self.rows(sql, json.dumps(list(ids)))}

    def chunk_vectors(self, ids: Iterable[int]) -> dict[int, Any]:
        """Vectors, float32 of shape (dimension,), by chunk id."""
        import numpy as np

        sql = "SELECT c.id, v.value FROM chunks c JOIN vectors v ON v.digest = c.vector"
        rows = self.rows(f"{sql} WHERE c.id IN (SELECT value FROM json_each(?))", json.dumps(list(ids)))
        return {row["id"]: np.frombuffer(row["value"], np.float32) for row in rows}

    def collection_vectors(self, collection: int) -> dict[int, Any]:
        """All vectors of a collection by chunk id, those of staged documents too."""
        import numpy as np

        rows = self.rows(
            "SELECT c.id, v.value FROM documents d JOIN chunks c ON c.document = d.id"
            " JOIN vectors v ON v.digest = c.vector WHERE d.collection = ?1"
            " OR d.collection IN (SELECT id FROM collections WHERE staging_of = ?1)",
            collection,
        )
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


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring a file of an earlier version to this one. Raises `Problem` for a later one."""
    (found,) = db.execute("PRAGMA user_version").fetchone()
    if found > VERSION:
        raise Problem(
            409,
            f"{path} is of version {found}; this retriever knows versions up to {VERSION}",
            f"update agentd, or move {path.parent} away and ingest again",
        )
    db.executescript(SCHEMA)
    for table, column in (
        ("collections", "owner TEXT NOT NULL DEFAULT ''"),
        ("collections", "staging_of INTEGER REFERENCES collections(id) ON DELETE CASCADE"),
        ("documents", "meta TEXT NOT NULL DEFAULT '{}'"),
        ("chunks", "parent_start INTEGER"),
        ("chunks", "parent_end INTEGER"),
    ):
        names = {row["name"] for row in db.execute(f"PRAGMA table_info({table})")}
        if column.split()[0] not in names:
            db.execute(f"ALTER TABLE {table} ADD COLUMN {column}")
    db.execute(f"PRAGMA user_version = {VERSION}")


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
INSERT INTO chunks(document, start, "end", page, heading, text, vector, parent_start, parent_end)
VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)
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
        "INSERT INTO documents(collection, name, root, digest, title, source, meta)"
        " VALUES(?, ?, ?, ?, ?, ?, ?)",
        (
            collection,
            document.document,
            root,
            document.digest,
            document.title,
            source,
            json.dumps(document.meta, ensure_ascii=False),
        ),
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
            *(chunk.parent or (None, None)),
        )
        ids.append(int(db.execute(INSERT_CHUNK, values).lastrowid or 0))
    return ids


def mark(db: sqlite3.Connection, collection: int) -> None:
    """From here until `settle`, the indexes may lag behind the store."""
    db.execute("UPDATE collections SET dirty = 1, version = version + 1 WHERE id = ?", (collection,))
