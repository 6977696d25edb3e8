"""One SQLite file: what a transaction promises, and what a second look at the file finds."""

from __future__ import annotations

import contextlib
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import DiskFull, Unavailable
from agentd.store import Store
from agentd.store.database import dumps, reading
from agentd.store.jobs import JobTable
from agentd.store.schema import MIGRATIONS
from agentd.store.tokens import TokenTable


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state" / "agentd.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    store = Store(path)
    yield store
    store.close()


def token(store: Store, name: str) -> None:
    row = {"id": name, "hash": name, "principal": "ada", "role": "view", "note": "", "created_at": 0.0}
    store.insert("tokens", row)


def names(store: Store) -> list[str]:
    return [row["hash"] for row in store.rows("SELECT hash FROM tokens ORDER BY hash")]


def test_a_commit_is_on_disk_before_it_is_answered(store: Store) -> None:
    assert store.value("PRAGMA synchronous") == 2
    assert store.value("PRAGMA journal_mode") == "wal"


def test_a_transaction_is_all_or_nothing(store: Store) -> None:
    def fail() -> None:
        with store.transaction():
            token(store, "a")
            with store.transaction():
                token(store, "b")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert names(store) == []
    with store.transaction():
        token(store, "a")
    assert names(store) == ["a"]


def test_what_was_committed_is_there_for_the_next_store(path: Path) -> None:
    first = Store(path)
    token(first, "a")
    first.close()
    second = Store(path)
    assert names(second) == ["a"]
    second.close()


def test_a_writer_elsewhere_makes_a_transaction_fail_with_the_file_named(
    path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    store.row("PRAGMA busy_timeout = 1")
    other.execute("BEGIN IMMEDIATE")
    with (
        pytest.raises(
            Unavailable,
            match=r"agentd\.db' could not be used: database is locked; nothing was changed.*doctor",
        ),
        store.transaction(),
    ):
        raise AssertionError("not reached")
    other.execute("ROLLBACK")
    other.close()
    with store.transaction():
        token(store, "a")


def test_stored_json_keeps_the_order_of_its_keys() -> None:
    """A constrained model writes a schema's properties in their order."""
    assert dumps({"b": [1, "é"], "a": None}) == '{"b":[1,"é"],"a":null}'


def test_a_job_moves_only_from_the_state_it_is_thought_to_be_in(store: Store) -> None:
    table = JobTable(store)
    job = table.add(
        tool="t", title="T", state="queued", principal="ada", surface="cli", cwd="/", arguments={}, quote={}
    )
    assert table.move(job.id, "queued", "preparing")
    assert not table.move(job.id, "queued", "cancelled")
    found = table.find(job.id)
    assert found is not None
    assert found.state == "preparing"


def test_a_token_is_not_stored_and_ends_with_its_lifetime(store: Store, path: Path) -> None:
    table = TokenTable(store)
    text = table.create("ada", "view", "a note")
    found = table.find(text)
    assert found is not None
    assert found.principal == "ada"
    assert table.find(text + "x") is None
    assert table.find(table.create("ada", "view", "short", lifetime_s=-1)) is None
    assert text.encode() not in path.read_bytes() + path.with_name("agentd.db-wal").read_bytes()
    assert table.revoke(note="a note") == 1
    assert table.find(text) is None


# --- a full disk ----------------------------------------------------------------------------


def fill(store: Store) -> None:
    """Let SQLite find no more room than it has now."""
    store.row(f"PRAGMA max_page_count = {store.value('PRAGMA page_count')}")


def test_a_full_disk_is_named_and_changes_nothing(store: Store) -> None:
    fill(store)
    with pytest.raises(DiskFull, match=r"agentd\.db' could not be written, .*nothing was changed"):
        write_much(store)
    assert names(store) == []
    token(store, "a")


def test_a_transaction_is_done_again_as_a_whole_once_room_was_made(path: Path) -> None:
    asked: list[bool] = []

    def spare() -> bool:
        asked.append(True)
        store.row("PRAGMA max_page_count = 100000")
        return True

    store = Store(path, spare=spare)
    fill(store)
    write_much(store)
    assert (len(asked), names(store)) == (1, sorted(f"{n:05}" for n in range(2000)))
    store.close()


def test_a_transaction_that_the_disk_ended_cannot_be_gone_on_with(store: Store) -> None:
    def swallow() -> None:
        with store.transaction():
            with contextlib.suppress(DiskFull):
                write_much(store)
            token(store, "after")

    fill(store)
    with pytest.raises(DiskFull):
        swallow()
    assert names(store) == []


def write_much(store: Store) -> None:
    with store.transaction():
        for number in range(2000):
            token(store, f"{number:05}")


def test_a_reading_connection_cannot_write(store: Store, path: Path) -> None:
    token(store, "a")
    with reading(path) as connection:
        assert connection.execute("SELECT hash FROM tokens").fetchall() == [("a",)]
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            connection.execute("DELETE FROM tokens")


def test_what_a_database_lacks_is_applied_and_the_rest_is_not_again(path: Path) -> None:
    Store(path).close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        applied = [name for (name,) in database.execute("SELECT name FROM _sqlite_migrations ORDER BY rowid")]
        assert applied == [each.__name__ for each in MIGRATIONS]
        database.execute("DELETE FROM _sqlite_migrations WHERE name = 'answers_in_clients'")
        database.execute("ALTER TABLE approvals DROP COLUMN client_may_answer")
        database.commit()
    store = Store(path)
    assert store.rows("SELECT client_may_answer FROM approvals") == []
    store.close()


def test_a_database_that_is_up_to_date_is_opened_without_loading_migrations(path: Path) -> None:
    Store(path).close()
    program = (
        "import sys; from pathlib import Path; from agentd.store import Store;"
        "Store(Path(sys.argv[1])).close(); print('sqlite_utils' in sys.modules)"
    )
    again = [sys.executable, "-c", program, str(path)]
    assert subprocess.run(again, capture_output=True, text=True, check=True).stdout.strip() == "False"
