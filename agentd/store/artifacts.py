"""What jobs left: rows with a digest, and folders named after it."""

from __future__ import annotations

from agentd.sdk import Artifact
from agentd.store.database import Row, Store, loads

__all__ = ["ArtifactTable"]


class ArtifactTable:
    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, artifact: Artifact) -> None:
        row = artifact.model_dump(mode="json") | {"at": self._store.now()}
        self._store.insert("artifacts", row, replace=True)

    def touch(self, artifact_id: str) -> None:
        """Make it the newest of its name."""
        self._store.update("artifacts", artifact_id, at=self._store.now())

    def find(self, ref: str, kind: str | None = None) -> Artifact | None:
        """By id, or the newest of that name."""
        row = self._store.row(
            "SELECT * FROM artifacts WHERE (id = ?1 OR name = ?1) AND (?2 IS NULL OR kind = ?2)"
            " ORDER BY at DESC LIMIT 1",
            [ref, kind],
        )
        return _artifact(row) if row else None

    def list(self, kind: str | None = None) -> list[Artifact]:
        rows = self._store.rows(
            "SELECT * FROM artifacts WHERE ?1 IS NULL OR kind = ?1 ORDER BY at DESC", [kind]
        )
        return [_artifact(row) for row in rows]


def _artifact(row: Row) -> Artifact:
    row = {name: value for name, value in row.items() if name != "at"}
    return Artifact(**{**row, "meta": loads(row["meta"]), "parents": loads(row["parents"])})
