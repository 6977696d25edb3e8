"""The port that notices go through, and what carries them: in order, until they have arrived.

The journal is the outbox. Each notifier has a place in it, in the database. What the next message is made of
is fixed there before it is sent, and counted as told once it has arrived: after a crash in between, the same
message goes out again with the same id, so whoever keeps ids sees each one once. None is lost.

Every notifier is a task of its own, with a deadline for each delivery: one that is dead holds up nobody.
What this does not know is how a message travels.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Sequence
from typing import Protocol

from pydantic import BaseModel

from agentd.config import CommandConfig, NotifierConfig
from agentd.errors import AgentdError, NotFound, Unavailable
from agentd.notify.command import Command
from agentd.notify.notices import Message, compose, kinds_of, trial
from agentd.notify.webhook import Webhook
from agentd.redaction import redact
from agentd.store import Store
from agentd.store.journal import Entry, Journal
from agentd.store.notifiers import NotifierTable

__all__ = ["Adapter", "Notifier", "NotifierView", "Notifiers", "Tested", "open_notifiers"]

log = logging.getLogger(__name__)

RETRY_S = 5.0
RETRY_AT_MOST_S = 3600.0
TOLD_AFTER = 3
"""Failures in a row, then the log and the journal say so, once."""

GRACE_S = 2.0
"""What is being sent when the daemon stops may take so long to arrive."""

BATCH = 500
"""Journal entries that one message may be made of."""

QUIET_S = 6 * 3600.0
STATES = frozenset({"disk.low", "notifier.failing"})
"""What stays true for long: not told again so soon after it was."""


class Adapter(Protocol):
    """A way to people. Another one, such as a chat, is another class like `Webhook`."""

    @property
    def to(self) -> str:
        """Where it goes, for people: without anything secret."""
        ...

    async def send(self, message: Message) -> None:
        """Return once it has arrived; may be cancelled. Raises `Unavailable`."""
        ...

    async def aclose(self) -> None: ...


class NotifierView(BaseModel):
    """A notifier, and how it is doing. `waiting` counts what it has still to tell."""

    name: str
    kind: str
    to: str
    on: tuple[str, ...]
    delivered: int
    delivered_at: float | None
    waiting: int
    failures: int
    failing_since: float | None
    problem: str


class Tested(BaseModel):
    """What became of a test message; `problem` is empty if it has arrived."""

    name: str
    to: str
    problem: str


class Notifier:
    """Tells one place of what `settings` name."""

    def __init__(
        self, settings: NotifierConfig, adapter: Adapter, table: NotifierTable, journal: Journal
    ) -> None:
        self.name, self._settings, self._adapter = settings.name, settings, adapter
        self._table, self._journal = table, journal
        self._kinds = kinds_of(settings.on)
        self._tries = 0
        self._arrived = ""  # what was sent last, should it not have been possible to write that down
        self._nudged = asyncio.Event()
        self._sending = self._stopping = False

    async def run(self) -> None:
        """Tell what there is, and wait for more, until it is asked to stop or cancelled."""
        while not self._stopping:
            seen = self._journal.appended.version
            try:
                told = await self._tell()
            except (AgentdError, OSError) as error:
                await self._pause(self._failed(error))
                continue
            except Exception as error:
                log.exception("notifier %s went wrong", self.name)
                await self._pause(self._failed(error))
                continue
            if self._stopping:
                return
            if not told:
                await self._journal.appended.after(seen)
            await asyncio.sleep(self._settings.gather_s)

    async def test(self) -> Tested:
        problem = ""
        try:
            await self._send(trial(self.name, Store.now()))
        except (AgentdError, OSError) as error:
            problem = redact(str(error))
        else:
            self._nudged.set()  # it works again: what waits need not wait longer
        return Tested(name=self.name, to=self._adapter.to, problem=problem)

    def view(self) -> NotifierView:
        row = self._table.get(self.name)
        next_ = compose(self._news(self._entries(row.told, None), row.since), self._settings.on)
        return NotifierView(
            name=self.name,
            kind=self._settings.kind,
            to=self._adapter.to,
            on=self._settings.on,
            delivered=row.delivered,
            delivered_at=row.delivered_at,
            waiting=sum(next_.counts.values()) if next_ else 0,
            failures=row.failures,
            failing_since=row.failing_since,
            problem=row.problem,
        )

    def stop(self) -> bool:
        """Begin nothing more; whether something is under way, which had better be waited for."""
        self._stopping = True
        return self._sending

    async def aclose(self) -> None:
        await self._adapter.aclose()

    # --- telling ----------------------------------------------------------------------------

    async def _tell(self) -> bool:
        """Send the next message; whether there was one. Raises what the adapter and the store raise."""
        row = self._table.get(self.name)
        entries = self._entries(row.told, row.claimed)
        message = compose(self._news(entries, row.since), self._settings.on)
        last = row.claimed or (entries[-1].seq if entries else self._journal.newest())
        if message is None:
            if entries or last > row.told + BATCH:  # nothing to tell: no need to look at it again
                self._table.skip(self.name, last)
            return False
        if row.claimed is None:
            self._table.claim(self.name, last)
        if message.id != self._arrived:
            self._sending = True
            try:
                await self._send(message)
            finally:
                self._sending = False
            self._arrived = message.id
        self._delivered(last, row.failures)
        return True

    def _entries(self, after: int, until: int | None) -> list[Entry]:
        return self._journal.after(after, self._kinds, until=until, limit=BATCH)

    def _news(self, entries: Sequence[Entry], since: int) -> list[Entry]:
        return [
            entry
            for entry in entries
            if entry.kind not in STATES or not self._journal.repeats(entry, within_s=QUIET_S, since=since)
        ]

    async def _send(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._settings.timeout_s):
                await self._adapter.send(message)
        except TimeoutError as error:
            raise Unavailable(
                f"{self._adapter.to} did not answer within {self._settings.timeout_s:g} s"
            ) from error

    def _delivered(self, seq: int, failures: int) -> None:
        self._table.delivered(self.name, seq)
        self._tries = 0
        if failures >= TOLD_AFTER:
            log.warning("notifier %s delivers again", self.name)

    def _failed(self, error: Exception) -> float:
        """Keep why, say it once, and tell how many seconds to wait."""
        self._tries += 1
        problem = redact(str(error) or type(error).__name__)[:300]
        with contextlib.suppress(AgentdError):  # a database that is not there has its own words
            self._write_down(problem)
        delay = min(RETRY_AT_MOST_S, RETRY_S * 2 ** min(self._tries - 1, 20))
        asked = getattr(error, "retry_after_s", None) or 0.0
        return max(delay * random.uniform(0.75, 1.0), min(asked, RETRY_AT_MOST_S))

    def _write_down(self, problem: str) -> None:
        self._table.failed(self.name, problem)
        if self._table.get(self.name).failures == TOLD_AFTER:
            log.warning("notifier %s delivers nothing, and goes on trying: %s", self.name, problem)
            self._journal.append("notifier.failing", self.name, "daemon", problem=problem)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._nudged.wait()
        self._nudged.clear()


class Notifiers:
    """All of them. Start them before what they may have to tell."""

    def __init__(self, notifiers: Sequence[Notifier], table: NotifierTable, journal: Journal) -> None:
        self._all = {each.name: each for each in notifiers}
        self._table, self._journal = table, journal
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def start(self) -> None:
        """A new one begins with what happens from now on; one that was taken out loses its place."""
        self._table.keep(list(self._all), self._journal.newest())
        for name, notifier in self._all.items():
            self._tasks[name] = asyncio.create_task(notifier.run(), name=f"notify: {name}")

    async def aclose(self) -> None:
        """What is under way may still arrive, for a moment: else it would go out again at the next start."""
        under_way = [task for name, task in self._tasks.items() if self._all[name].stop()]
        if under_way:
            await asyncio.wait(under_way, timeout=GRACE_S)
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        for notifier in self._all.values():
            await notifier.aclose()

    def list(self) -> Sequence[NotifierView]:
        return [notifier.view() for notifier in self._all.values()]

    async def test(self, name: str = "") -> Sequence[Tested]:
        """Send a test through one, or through all of them. Raises `NotFound`."""
        if name and name not in self._all:
            raise NotFound("notifier", name, self._all)
        chosen = [self._all[name]] if name else self._all.values()
        return await asyncio.gather(*(each.test() for each in chosen))


def open_notifiers(configs: Sequence[NotifierConfig], table: NotifierTable, journal: Journal) -> Notifiers:
    """The notifiers of agentd.toml."""
    return Notifiers([Notifier(each, _adapter(each), table, journal) for each in configs], table, journal)


def _adapter(config: NotifierConfig) -> Adapter:
    return Command(config) if isinstance(config, CommandConfig) else Webhook(config)
