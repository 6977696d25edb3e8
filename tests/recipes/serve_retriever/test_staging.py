"""An ingest that is under way is not seen, and one that is whole is seen at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.serve_retriever.conftest import RECIPE, recipe

ROOT = "/docs"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Any]:
    opened = recipe.store.Store(tmp_path / "store.sqlite")
    with opened.transaction() as db:
        db.execute("INSERT INTO collections(name, embedder) VALUES('handbook', 'e')")
    yield opened
    opened.db.close()


def insert(store: Any, into: int, name: str, text: str, **meta: Any) -> list[int]:
    given = {"document": f"{ROOT}/{name}", "digest": text, "title": name, "text": text, "meta": meta}
    document = recipe.bodies.NewDocument(**given, chunks=[{"start": 0, "end": len(text.encode())}])
    with store.transaction() as db:
        return recipe.store.insert_document(db, into, ROOT, document, "source", document.cut(), "e")


def stage(store: Any, staging: Any, name: str, text: str) -> list[int]:
    with store.transaction() as db:
        place = staging.make_place(db, 1, ROOT)
    chunks = insert(store, place, name, text)
    staging.hide(1, chunks, [])
    return chunks


def test_what_is_staged_is_hidden_until_it_is_promoted_and_then_all_of_it_is_there(store: Any) -> None:
    staging = recipe.staging.Staging(store)
    old, gone = insert(store, 1, "a.md", "old"), insert(store, 1, "gone.md", "gone")
    new, more = stage(store, staging, "a.md", "new"), stage(store, staging, "b.md", "more")
    assert staging.hidden(1) == {*new, *more}
    assert store.chunk_ids(1) == {*old, *gone}
    before = staging.generation(1)
    left, removed = staging.promote(1, ROOT, {f"{ROOT}/a.md", f"{ROOT}/b.md"})
    assert (left, sorted(removed)) == ([f"{ROOT}/gone.md"], [*old, *gone])
    assert store.chunk_ids(1) == {*new, *more}
    assert not staging.hidden(1)
    assert staging.generation(1) != before
    assert [row["name"] for row in store.collections()] == ["handbook"]


def test_what_was_staged_and_is_not_kept_leaves_with_its_chunks(store: Any) -> None:
    staging = recipe.staging.Staging(store)
    stale = stage(store, staging, "a.md", "half of it")
    assert staging.promote(1, ROOT, set()) == ([], stale)
    assert store.chunk_ids(1) == store.staged_ids(1) == set()


def test_another_roots_ingest_stays_hidden_when_one_is_promoted(store: Any) -> None:
    staging = recipe.staging.Staging(store)
    with store.transaction() as db:
        place = staging.make_place(db, 1, "/other")
    others = insert(store, place, "x.md", "x")
    stage(store, staging, "a.md", "new")
    staging.promote(1, ROOT, {f"{ROOT}/a.md"})
    assert staging.hidden(1) == set(others)


def test_a_killed_ingest_is_hidden_and_known_when_the_store_is_opened_again(tmp_path: Path) -> None:
    """A process that stages documents until it is killed, in the midst of a transaction."""
    program = """
import sys
from pathlib import Path
from bodies import NewDocument
from staging import Staging
from store import Store, insert_document
store = Store(Path(sys.argv[1]))
staging = Staging(store)
with store.transaction() as db:
    db.execute("INSERT INTO collections(name, embedder) VALUES('handbook', 'e')")
for number in range(10**6):
    text = {"digest": "d", "title": "", "text": "text", "chunks": [{"start": 0, "end": 4}]}
    document = NewDocument(document=f"/docs/{number}", **text)
    with store.transaction() as db:
        place = staging.make_place(db, 1, "/docs")
        insert_document(db, place, "/docs", document, "source", document.cut(), "e")
        if number == 5:
            print("five are whole", flush=True)
"""
    path = tmp_path / "store.sqlite"
    environ = {**os.environ, "PYTHONPATH": str(RECIPE)}
    command = [sys.executable, "-c", program, str(path)]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "five are whole\n"
        process.send_signal(signal.SIGKILL)
    store = recipe.store.Store(path)
    staging = recipe.staging.Staging(store)
    known = staging.digests(1, ROOT)
    assert known.keys() >= {f"{ROOT}/{number}" for number in range(5)}
    assert len(staging.hidden(1)) == len(known)
    assert store.chunk_ids(1) == set()
    assert store.rows("PRAGMA integrity_check")[0][0] == "ok"
    store.db.close()


def test_filters_meet_all_that_is_asked_and_name_a_field_that_nobody_has(store: Any) -> None:
    first = insert(store, 1, "a.md", "one", tags=["tax", "law"], year=2024, draft=True)
    other = insert(store, 1, "sub/b.md", "two", tags="tax", year="2025")
    filters, bounds = recipe.filters, recipe.bodies.Bounds

    def found(**where: Any) -> list[int]:
        return sorted(filters.matching(store, 1, where))

    assert found(tags="tax") == [*first, *other]
    assert found(tags=["law", "other"]) == first
    assert found(tags="tax", year=2025) == other
    assert found(year=bounds(gte=2025)) == other
    assert found(year=bounds(lte=2024, gte=2000)) == first
    assert found(draft=True) == first
    assert found(path=f"{ROOT}/sub/") == found(document=f"{ROOT}/s*.md") == other
    assert found(title="a.md") == first
    assert found(tags="nothing of the kind") == []
    with pytest.raises(recipe.problems.Problem, match="no document has a field 'yaer'") as refused:
        found(yaer=2024)
    assert "there are: document, path, title, page, draft, tags, year" in refused.value.hint


def test_a_store_of_before_is_migrated_and_one_of_later_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "store.sqlite"
    store = recipe.store.Store(path)
    for column in ("collections DROP COLUMN owner", "documents DROP COLUMN meta"):
        store.db.execute(f"ALTER TABLE {column}")
    store.db.execute("PRAGMA user_version = 0")
    store.db.close()
    store = recipe.store.Store(path)
    with store.transaction() as db:
        db.execute("INSERT INTO collections(name, embedder, owner) VALUES('a', 'e', 'user:ann')")
    store.db.execute("PRAGMA user_version = 99")
    store.db.close()
    with pytest.raises(recipe.problems.Problem, match="is of version 99"):
        recipe.store.Store(path)
