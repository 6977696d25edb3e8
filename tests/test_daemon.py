"""What a daemon looks after by itself, and what it says of the state it finds."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from agentd.caretaker import Caretaker
from agentd.errors import Unavailable
from agentd.store import Store
from agentd.store.journal import head_of, noted_head

pytestmark = pytest.mark.anyio
Boot = Any


async def test_the_head_of_the_journal_is_noted_at_start_and_stop(boot: Boot) -> None:
    daemon = await boot()
    database = daemon.state_dir / "agentd.db"
    await asyncio.sleep(0)  # the caretaker's first turn
    assert noted_head(database) is not None
    await boot.stop(daemon)
    head = noted_head(database)
    assert head is not None
    assert (head.seq, head.hash) == (head_of(database).seq, head_of(database).hash)


async def test_a_journal_that_lost_entries_while_nobody_ran_is_told_at_the_start(
    boot: Boot, caplog: pytest.LogCaptureFixture
) -> None:
    first = await boot()
    for trigger in ("journal_keeps", "journal_keeps_all", "journal_goes_on"):
        first.store.change(f"DROP TRIGGER {trigger}")
    await boot.stop(first)
    noted = noted_head(first.state_dir / "agentd.db")
    assert noted is not None
    store = Store(first.state_dir / "agentd.db")
    store.change("DELETE FROM journal WHERE seq = ?", [noted.seq])
    store.close()
    second = await boot()
    told = second.journal.tail(kind="journal.broken")
    assert [entry.subject for entry in told] == [str(noted)]
    assert "lacks entry" in caplog.text
    assert (second.state_dir / f"journal.head.missing-{noted.seq}").exists()
    await boot.stop(second)
    third = await boot()
    assert len(third.journal.tail(kind="journal.broken")) == 1


async def test_a_chore_that_goes_wrong_is_told_and_done_again(caplog: pytest.LogCaptureFixture) -> None:
    done = asyncio.Queue[str]()

    def fails() -> None:
        done.put_nowait("fails")
        raise Unavailable("The shed is locked", hint="Find the key")

    def breaks() -> None:
        done.put_nowait("breaks")
        raise ZeroDivisionError

    caretaker = Caretaker()
    caretaker.every(0, fails)
    caretaker.every(0, breaks)
    caretaker.start()
    seen = [await asyncio.wait_for(done.get(), 10) for _ in range(6)]
    await caretaker.aclose()
    assert min(seen.count("fails"), seen.count("breaks")) > 1
    assert "fails: The shed is locked. Find the key" in caplog.text
    assert "breaks went wrong" in caplog.text
    assert {record.levelno for record in caplog.records} == {logging.WARNING, logging.ERROR}
