"""What the database refuses, what the chain finds, and what only a head that was kept finds."""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from agentd.errors import AgentdError, DataError, Unavailable
from agentd.store import Store
from agentd.store.journal import FIELDS, GENESIS, Head, Journal, _hash, head_of, noted_head, verify

ENTRIES = 8
EXAMPLES = int(os.environ.get("AGENTD_CRASH_RUNS") or 15)
TRIGGERS = ("journal_keeps", "journal_keeps_all", "journal_goes_on")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "agentd.db")
    yield store
    store.close()


@pytest.fixture
def journal(store: Store) -> Journal:
    journal = Journal(store)
    for number in range(1, 6):
        journal.append("job.queued", f"job-{number}", "user:ada", tool="finetune", at_most=number)
    return journal


@pytest.fixture
def tamper(store: Store) -> Callable[[str], None]:
    """Change the journal as somebody does who has the file, and not our code."""

    def change(statements: str) -> None:
        for trigger in TRIGGERS:
            store.change(f"DROP TRIGGER IF EXISTS {trigger}")
        for statement in statements.split(";"):
            store.change(statement)

    return change


def test_an_untouched_journal_is_intact(journal: Journal) -> None:
    verdict = journal.verify()
    assert (verdict.ok, verdict.entries, verdict.problem) == (True, 5, "")


def test_entries_are_found_by_subject_kind_and_time(journal: Journal, store: Store) -> None:
    now = store.now()
    journal.append("approval.asked", "apr-1", "agent:ada")
    assert [entry.subject for entry in journal.tail(2)] == ["job-5", "apr-1"]
    assert [entry.seq for entry in journal.tail(9, subject="job-2")] == [2]
    assert [entry.seq for entry in journal.tail(2, kind="job.*")] == [4, 5]
    assert [entry.seq for entry in journal.tail(9, kind="approval.asked")] == [6]
    assert [entry.seq for entry in journal.tail(9, since=now)] == [6]
    assert journal.tail(9, kind="job.*", since=now) == []


# --- what the database refuses --------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE journal SET principal = 'user:eve' WHERE seq = 3",
        "UPDATE journal SET seq = 9 WHERE seq = 5",
        "DELETE FROM journal WHERE seq = 5",
        "DELETE FROM journal",
        "INSERT OR REPLACE INTO journal SELECT * FROM journal WHERE seq = 3",
        "INSERT INTO journal SELECT 9, at, kind, subject, '', data, hash, hash FROM journal WHERE seq = 5",
        "INSERT INTO journal SELECT 6, at, kind, subject, '', data, hash, hash FROM journal WHERE seq = 4",
    ],
)
def test_the_database_refuses_all_but_the_next_entry(journal: Journal, store: Store, statement: str) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="journal"):
        store.change(statement)
    assert journal.verify().entries == 5
    journal.append("job.queued", "job-6", "user:ada")
    assert journal.verify().ok


# --- what verify finds ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        ("UPDATE journal SET principal = 'user:eve' WHERE seq = 3", "entry 3 was changed"),
        ("UPDATE journal SET data = '{}' WHERE seq = 3", "entry 3 was changed"),
        (
            "UPDATE journal SET data = CAST(x'ff' AS TEXT) WHERE seq = 3",
            "what follows entry 2 cannot be read: Could not decode to UTF-8 column 'data' with text '\ufffd'",
        ),
        ("UPDATE journal SET at = at - 1 WHERE seq = 1", "entry 1 was changed"),
        ("UPDATE journal SET hash = 'ab' WHERE seq = 3", "entry 3 was changed"),
        ("DELETE FROM journal WHERE seq = 3", "entry 3 is missing"),
        ("DELETE FROM journal WHERE seq = 1", "entry 1 is missing"),
        (
            "DELETE FROM journal WHERE seq = 3; UPDATE journal SET seq = seq - 1 WHERE seq > 3",
            "entry 3 does not follow the one before it",
        ),
        (
            "UPDATE journal SET seq = 99 WHERE seq = 2; UPDATE journal SET seq = 2 WHERE seq = 3;"
            " UPDATE journal SET seq = 3 WHERE seq = 99",
            "entry 2 does not follow the one before it",
        ),
    ],
)
def test_an_edited_deleted_or_reordered_entry_is_found(
    journal: Journal, tamper: Callable[[str], None], edit: str, problem: str
) -> None:
    tamper(edit)
    verdict = journal.verify()
    assert (verdict.ok, verdict.problem) == (False, problem)


def test_what_was_cut_off_the_end_is_found_against_an_exported_head(
    journal: Journal, tamper: Callable[[str], None]
) -> None:
    exported = journal.verify()
    tamper("DELETE FROM journal WHERE seq > 3")
    assert journal.verify().ok
    verdict = journal.verify((exported.entries, exported.head))
    assert (verdict.ok, verdict.problem) == (
        False, "entries 4 to 5 were cut off the end (5 was exported)"
    )  # fmt: skip


def test_a_chain_that_was_written_anew_is_found_against_an_exported_head(
    journal: Journal, tamper: Callable[[str], None]
) -> None:
    exported = journal.verify()
    tamper("DELETE FROM journal WHERE seq > 3")
    journal.append("job.queued", "job-6", "user:eve")
    journal.append("job.queued", "job-7", "user:eve")
    assert journal.verify().ok
    verdict = journal.verify((exported.entries, exported.head))
    assert (verdict.ok, verdict.problem) == (False, "entry 5 is not the one that was exported")


def test_a_journal_that_grew_still_contains_its_exported_head(journal: Journal) -> None:
    exported = journal.verify()
    journal.append("job.queued", "job-6", "user:ada")
    assert journal.verify((exported.entries, exported.head)).ok


def test_a_file_that_is_damaged_below_the_rows_is_told_and_not_crashed_on(
    journal: Journal, store: Store, tmp_path: Path
) -> None:
    for number in range(200):
        journal.append("job.queued", f"job-{number}", "user:ada", note="x" * 200)
    store.close()
    copy = tmp_path / "copy" / "agentd.db"
    copy.parent.mkdir()
    data = bytearray((tmp_path / "agentd.db").read_bytes())
    page = data.find(b"x" * 200, len(data) // 2) // 4096 * 4096
    data[page : page + 4096] = os.urandom(4096)
    copy.write_bytes(data)
    verdict = verify(copy)
    assert not verdict.ok
    assert "cannot be read: database disk image is malformed" in verdict.problem


Tamper = Callable[[list[dict[str, Any]], st.DataObject], None]


def edit(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    row, field = data.draw(st.sampled_from(rows)), data.draw(st.sampled_from(FIELDS[1:]))
    values = st.floats(0, 2e9) if field == "at" else st.text(max_size=70)
    row[field] = data.draw(values | st.sampled_from([other[field] for other in rows]))


def delete(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    gone = data.draw(st.sets(st.integers(0, len(rows) - 1), min_size=1))
    rows[:] = [row for index, row in enumerate(rows) if index not in gone]


def close_up(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    delete(rows, data)
    number(rows)


def swap(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    one, other = data.draw(st.tuples(st.sampled_from(rows), st.sampled_from(rows)))
    one["seq"], other["seq"] = other["seq"], one["seq"]


def shuffle(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    rows[:] = data.draw(st.permutations(rows))
    number(rows)


def truncate(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    del rows[data.draw(st.integers(0, len(rows) - 1)) :]


def insert(rows: list[dict[str, Any]], data: st.DataObject) -> None:
    rows.insert(data.draw(st.integers(0, len(rows) - 1)), dict(data.draw(st.sampled_from(rows))))
    number(rows)


def number(rows: list[dict[str, Any]]) -> None:
    for seq, row in enumerate(rows, start=1):
        row["seq"] = seq


def chain(rows: list[dict[str, Any]]) -> None:
    """Hash everything anew, as somebody does who knows how."""
    previous = GENESIS
    for row in sorted(rows, key=lambda row: row["seq"]):
        row["previous"] = previous
        row["hash"] = previous = _hash([row[name] for name in FIELDS[:-1]])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal, its file in one piece."""
    path = tmp_path_factory.mktemp("original") / "agentd.db"
    store = Store(path)
    journal = Journal(store)
    for index in range(ENTRIES):
        journal.append("job.queued", f"job-{index % 3}", "user:ada", note="same", money=index % 2)
    store.close()
    return path


@pytest.mark.parametrize("way", [edit, delete, close_up, swap, shuffle, truncate, insert])
@pytest.mark.parametrize("anew", [False, True], ids=["as it is", "hashed anew"])
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_whatever_is_done_to_the_entries_is_found(
    original: Path, way: Tamper, anew: bool, data: st.DataObject
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "agentd.db"
        shutil.copy(original, path)
        head = head_of(path)
        connection = sqlite3.connect(path)
        connection.row_factory = sqlite3.Row
        before = [dict(row) for row in connection.execute("SELECT * FROM journal ORDER BY seq")]
        rows = [dict(row) for row in before]
        way(rows, data)
        if anew:
            chain(rows)
        # The last entry, inserted once more and hashed anew, is one that was appended.
        assume(sorted(rows, key=lambda row: row["seq"])[: len(before)] != before)
        for trigger in TRIGGERS:
            connection.execute(f"DROP TRIGGER {trigger}")
        connection.execute("DELETE FROM journal")
        connection.executemany(
            f"INSERT INTO journal VALUES ({', '.join(':' + name for name in FIELDS)})", rows
        )
        connection.commit()
        connection.close()
        verdict = verify(path, {"exported": head})
        assert not verdict.ok
        assert verdict.problem
        without = verify(path)
        rows.sort(key=lambda row: row["seq"])
        counted = [row["seq"] for row in rows] == list(range(1, len(rows) + 1))
        assert without.ok == (counted and (anew or rows == before[: len(rows)])), "nothing else can be known"


# --- heads ----------------------------------------------------------------------------------


def test_the_head_that_was_noted_finds_what_was_cut_off_since(
    journal: Journal, tamper: Callable[[str], None], tmp_path: Path
) -> None:
    assert journal.missing() is None
    journal.note()
    journal.append("job.queued", "job-6", "user:ada")
    assert journal.missing() is None
    assert journal.verify().ok
    tamper("DELETE FROM journal WHERE seq > 4")
    assert journal.verify().problem == "entries 5 to 5 were cut off the end (5 was noted in journal.head)"
    missing = journal.missing()
    assert missing is not None
    journal.keep_aside(missing)
    assert (journal.missing(), noted_head(tmp_path / "agentd.db")) == (None, None)
    assert Head.read((tmp_path / "journal.head.missing-5").read_text("utf-8")) == missing


def test_a_head_is_read_as_it_is_printed_and_as_it_is_exported(journal: Journal, tmp_path: Path) -> None:
    head = head_of(tmp_path / "agentd.db")
    assert (head.seq, head.host) == (5, os.uname().nodename)
    assert Head.read(head.model_dump_json()) == head
    read = Head.read(f" {head}\n")
    assert (read.seq, read.hash) == (head.seq, head.hash)
    for text in ("", "five", "{}", "[]", '{"seq": 1}'):
        with pytest.raises(ValueError, match="Head"):
            Head.read(text)


def test_a_noted_head_that_is_no_head_is_named(journal: Journal, tmp_path: Path) -> None:
    (tmp_path / "journal.head").write_text("nonsense", "utf-8")
    with pytest.raises(DataError, match=r"journal\.head: holds no head of a journal"):
        journal.verify()


def test_no_journal_is_told(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"There is no journal at .*AGENTD_STATE"):
        verify(tmp_path / "agentd.db")
    (tmp_path / "agentd.db").write_text("this is no database, though it is a file" * 30)
    with pytest.raises(Unavailable, match="not a database"):
        verify(tmp_path / "agentd.db")


# --- writing --------------------------------------------------------------------------------


def test_an_entry_is_rolled_back_with_the_change_it_records(journal: Journal, store: Store) -> None:
    def fail() -> None:
        with store.transaction():
            journal.append("job.queued", "job-6", "user:ada")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert journal.verify().entries == 5


def test_an_unreadable_entry_says_how_to_look_closer(journal: Journal, tamper: Callable[[str], None]) -> None:
    tamper("UPDATE journal SET data = 'not json' WHERE seq = 5")
    with pytest.raises(AgentdError, match=r"entry 5 cannot be read.*journal verify"):
        journal.tail()
    assert journal.verify().problem == "entry 5 was changed"


def test_an_entry_holds_no_secret(journal: Journal, store: Store) -> None:
    secret = f"ghp_{'aB3' * 12}"
    journal.append("job.failed", f"job {secret}", "user:ada", reason=f"with {secret}", deep=[{"x": secret}])
    assert secret not in str(store.rows("SELECT * FROM journal"))
    assert journal.tail(1)[0].data == {"reason": "with [redacted]", "deep": [{"x": "[redacted]"}]}
    assert journal.verify().ok
