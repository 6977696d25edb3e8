"""Documents of ingests under way: stored and indexed, but found only once their ingest is whole.

An ingest of a root stages what is new or changed in a collection of its own, which nobody can name. Its
chunks are in the indexes already, and hidden; `promote` exchanges old for new in one transaction. A process
that was killed leaves what it had staged, and the next ingest of that root goes on from there.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Set

from store import Store, drop_document, mark


class Staging:
    """What is staged in which collection. Writers hold the retriever's lock; readers need none."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.chunks: dict[int, frozenset[int]] = {}
        self.generations: dict[int, int] = {}

    def hidden(self, collection: int) -> Set[int]:
        """Chunks that no search may find."""
        known = self.chunks.get(collection)
        if known is not None:
            return known
        with self.store.lock:
            return self.chunks.setdefault(collection, frozenset(self.store.staged_ids(collection)))

    def generation(self, collection: int) -> int:
        """Another number after each exchange of old for new."""
        return self.generations.get(collection, 0)

    def digests(self, collection: int, root: str) -> dict[str, str]:
        place = self.place(collection, root)
        return self.store.digests(place, root) if place else {}

    def place(self, collection: int, root: str) -> int | None:
        sql = "SELECT id FROM collections WHERE staging_of = ? AND name = ?"
        found = self.store.rows(sql, collection, place_name(collection, root))
        return found[0]["id"] if found else None

    def make_place(self, db: sqlite3.Connection, collection: int, root: str) -> int:
        db.execute(
            "INSERT OR IGNORE INTO collections(name, embedder, staging_of)"
            " SELECT ?, embedder, id FROM collections WHERE id = ?",
            (place_name(collection, root), collection),
        )
        sql = "SELECT id FROM collections WHERE name = ?"
        return db.execute(sql, (place_name(collection, root),)).fetchone()["id"]

    def hide(self, collection: int, added: Iterable[int], removed: Iterable[int]) -> None:
        with self.store.lock:
            self.chunks[collection] = frozenset(self.hidden(collection) - set(removed) | set(added))

    def forget(self, collection: int) -> None:
        """What is staged leaves with its collection."""
        with self.store.lock:
            self.chunks.pop(collection, None)

    def promote(self, collection: int, root: str, keep: Set[str]) -> tuple[list[str], list[int]]:
        """Make what is staged the truth. Returns documents that are gone, and chunks that no index needs.

        Of what is staged and what was there before, only documents in `keep` stay.
        """
        place = self.place(collection, root)
        staged = set(self.store.digests(place, root)) if place else set()
        gone = sorted(self.store.digests(collection, root).keys() - keep)
        removed: list[int] = []
        with self.store.lock:  # nobody reads rows between the commit and the exchange of what is hidden
            with self.store.transaction() as db:
                for name in [*gone, *sorted(staged & keep)]:
                    removed += drop_document(db, collection, name) or []
                if place:
                    for name in sorted(staged - keep):
                        removed += drop_document(db, place, name) or []
                    db.execute(
                        "UPDATE documents SET collection = ? WHERE collection = ?", (collection, place)
                    )
                    db.execute("DELETE FROM collections WHERE id = ?", (place,))
                mark(db, collection)
            self.chunks.pop(collection, None)
            self.generations[collection] = self.generation(collection) + 1
        return gone, removed


def place_name(collection: int, root: str) -> str:
    """No caller can name it: names of collections have no line breaks."""
    return f"{collection}\n{root}"
