"""What the journal's chain finds, and what only an exported head finds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from agentd.errors import AgentdError
from agentd.store import Store
from agentd.store.journal import Journal


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


def test_an_untouched_journal_is_intact(journal: Journal) -> None:
    verdict = journal.verify()
    assert (verdict.ok, verdict.entries, verdict.problem) == (True, 5, "")
    assert [entry.subject for entry in journal.tail(2)] == ["job-4", "job-5"]
    assert [entry.seq for entry in journal.tail(9, subject="job-2")] == [2]


@pytest.mark.parametrize(
    ("edit", "problem"),
    [
        ("UPDATE journal SET principal = 'user:eve' WHERE seq = 3", "entry 3 was changed"),
        ("UPDATE journal SET data = '{}' WHERE seq = 3", "entry 3 was changed"),
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
    journal: Journal, store: Store, edit: str, problem: str
) -> None:
    for statement in edit.split(";"):
        store.change(statement)
    verdict = journal.verify()
    assert (verdict.ok, verdict.problem) == (False, problem)


def test_what_was_cut_off_the_end_is_found_against_an_exported_head(journal: Journal, store: Store) -> None:
    exported = journal.verify()
    store.change("DELETE FROM journal WHERE seq > 3")
    assert journal.verify().ok
    verdict = journal.verify((exported.entries, exported.head))
    assert (verdict.ok, verdict.problem) == (False, "entries 4 to 5 were cut off the end")


def test_a_chain_that_was_written_anew_is_found_against_an_exported_head(
    journal: Journal, store: Store
) -> None:
    exported = journal.verify()
    store.change("DELETE FROM journal WHERE seq > 3")
    journal.append("job.queued", "job-6", "user:eve")
    journal.append("job.queued", "job-7", "user:eve")
    assert journal.verify().ok
    verdict = journal.verify((exported.entries, exported.head))
    assert (verdict.ok, verdict.problem) == (False, "entry 5 is not the one that was exported")


def test_a_journal_that_grew_still_contains_its_exported_head(journal: Journal) -> None:
    exported = journal.verify()
    journal.append("job.queued", "job-6", "user:ada")
    assert journal.verify((exported.entries, exported.head)).ok


def test_an_entry_is_rolled_back_with_the_change_it_records(journal: Journal, store: Store) -> None:
    def fail() -> None:
        with store.transaction():
            journal.append("job.queued", "job-6", "user:ada")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert journal.verify().entries == 5


def test_an_unreadable_entry_says_how_to_look_closer(journal: Journal, store: Store) -> None:
    store.change("UPDATE journal SET data = 'not json' WHERE seq = 5")
    with pytest.raises(AgentdError, match=r"entry 5 cannot be read.*journal verify"):
        journal.tail()
    assert journal.verify().problem == "entry 5 was changed"
