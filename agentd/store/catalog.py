"""Models and aliases as stored. Entries of the config file are laid over these by the router."""

from __future__ import annotations

from agentd.sdk import Alias, Model
from agentd.store.database import Store, loads

__all__ = ["CatalogTable"]


class CatalogTable:
    def __init__(self, store: Store) -> None:
        self._store = store

    def models(self) -> list[Model]:
        return [
            Model(**loads(row["entry"])) for row in self._store.rows("SELECT entry FROM models ORDER BY name")
        ]

    def put(self, model: Model) -> None:
        entry = model.model_dump(mode="json")
        self._store.insert(
            "models", {"name": model.name, "entry": entry, "at": self._store.now()}, replace=True
        )

    def remove(self, name: str) -> None:
        self._store.change("DELETE FROM models WHERE name = ?", [name])

    def aliases(self) -> list[Alias]:
        rows = self._store.rows("SELECT * FROM aliases ORDER BY name")
        return [
            Alias(**loads(r["choosing"]), name=r["name"], weights=loads(r["weights"]), reason=r["reason"])
            for r in rows
        ]

    def set_alias(self, alias: Alias) -> None:
        choosing = alias.model_dump(mode="json", exclude={"name", "weights", "reason"}, exclude_defaults=True)
        row = {
            "name": alias.name, "weights": alias.weights, "reason": alias.reason, "choosing": choosing,
            "at": self._store.now(),
        }  # fmt: skip
        self._store.insert("aliases", row, replace=True)
