"""The truth, and transactions on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.recipes.serve_retriever.conftest import recipe


def test_an_unfinished_transaction_leaves_the_store_as_it_was(tmp_path: Path) -> None:
    store = recipe.store.Store(tmp_path / "store.sqlite")

    def fail() -> None:
        with store.transaction() as db:
            db.execute("INSERT INTO collections(name, embedder) VALUES('a', 'e')")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert store.collections() == []
    store.db.close()
