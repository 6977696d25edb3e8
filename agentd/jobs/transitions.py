"""Every step of a job, in one transaction with its journal entry and its money.

Whoever decides what a job comes to does so elsewhere; here it is written down. A step whose commit
was not answered may be taken again: what is stored is read first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from agentd.errors import Conflict
from agentd.ids import new_id
from agentd.jobs.attempts import Attempt, Exit
from agentd.jobs.machine import JobEvent, advance
from agentd.policy.approvals import Approvals
from agentd.policy.bindings import Binding
from agentd.sdk import Cause
from agentd.signals import Changes
from agentd.store import Store
from agentd.store.jobs import JobRow, JobTable
from agentd.store.journal import Journal
from agentd.store.ledger import DEFAULT_PROJECT, Ledger

__all__ = ["Transitions"]


class Transitions:
    """The only writer of job states. `price` is micro-USD for that many seconds.

    `revoke_tokens` makes the gateway's keys of a job worthless.
    """

    def __init__(
        self,
        store: Store,
        table: JobTable,
        approvals: Approvals,
        ledger: Ledger,
        journal: Journal,
        changes: Changes,
        price: Callable[[float], int],
        revoke_tokens: Callable[[str], object] = lambda _: None,
    ) -> None:
        self._store, self._table, self._approvals = store, table, approvals
        self._ledger, self._journal, self._changes, self._price = ledger, journal, changes, price
        self._revoke_tokens = revoke_tokens

    def move(self, row: JobRow, event: JobEvent, **changes: Any) -> JobRow:
        """One step of the state machine, journalled. Raises `Conflict` when somebody was faster."""
        attempt = self._table.attempt_of(row.id)
        self._move(row, event, attempt.id if attempt else None, **changes)
        return self._found(row.id)

    def _move(self, row: JobRow, event: JobEvent, attempt: str | None, **changes: Any) -> None:
        new = advance(row.state, event)
        with self._store.transaction():
            kept = {name: value for name, value in changes.items() if value is not None}
            if not self._table.move(row.id, row.state, new, **kept):
                raise Conflict(f"{row.id} is not {row.state} any more")
            told = {"cause": changes.get("cause"), "reason": changes.get("reason") or None}
            self._journal.append(
                f"job.{new}",
                row.id,
                "daemon",
                tool=row.tool,
                **{"from": row.state, "to": new},
                attempt=attempt,
                **{name: value for name, value in told.items() if value},
            )
        self._changes.announce()

    def launch(self, job_id: str, attempt: Attempt, port: int | None, now: Binding) -> None:
        """Use the approval for what the job is `now`, set money aside, record the attempt: all or nothing.

        Raises `Conflict` when nothing approves this attempt (any more), and `OverBudget`.
        """
        with self._store.transaction():
            row = self._found(job_id)
            assert row.launch is not None
            number = self._table.attempts(job_id) + 1
            self._check_number(row, number)
            self._approvals.consume(row.id, now, attempt=number)
            most = row.launch["max_micro_usd"]
            self._ledger.reserve("job", row.id, row.payer, most, attempt=attempt.id)
            self._table.add_attempt(attempt.id, row.id, attempt.folder, port, number)
            self._move(row, "launch", attempt.id, started_at=self._store.now())

    def retry(self, row: JobRow, cause: Cause, reason: str, attempt: Attempt, exit: Exit | None) -> None:
        """End an attempt and queue its job for another one."""
        with self._store.transaction():
            row = self._found(row.id)
            self._end_attempt(attempt, "fail" if exit else "lose", cause, reason, exit)
            self._revoke_tokens(row.id)
            launch = row.launch or {}
            serves = list(launch["service"]["serves"]) if launch.get("service") else None
            paid = self._settle(row, exit)
            self.move(row, "retry", cause=cause, reason=reason, micro_usd=paid, serves=serves)
            self._table.update(row.id, cause=None, reason="")  # they are the attempt's, not the job's
        attempt.tidy()

    def end(
        self,
        job_id: str,
        event: JobEvent,
        cause: Cause | None,
        reason: str,
        *,
        attempt: Attempt | None = None,
        exit: Exit | None = None,
        result: dict[str, Any] | None = None,
    ) -> None:
        """Settle, record and announce the end of a job. Ending twice changes nothing."""
        asked = self._ledger.leased(job_id)
        with self._store.transaction():
            row = self._found(job_id)
            if row.ended:
                return
            if attempt is not None:
                self._end_attempt(attempt, event, cause, reason, exit)
            self._revoke_tokens(row.id)
            if (approval := self._approvals.of_job(row.id)) is not None:
                self._approvals.void(approval, f"its job has ended: {reason}")  # if it is still unused
            self.move(
                row,
                event,
                cause=cause,
                reason=reason,
                result=result,
                micro_usd=_sum(self._settle(row, exit), asked),
                seconds=exit.seconds if exit else None,
                max_rss_bytes=exit.max_rss_bytes if exit else None,
                ended_at=self._store.now(),
            )
        if attempt is not None:
            attempt.tidy()
        self._changes.announce()

    def record_forgotten(
        self, attempt: Attempt, about: Mapping[str, Any], exit: Exit | None, reason: str
    ) -> None:
        """Write down an attempt that only its folder tells of, what it cost, and its job if need be."""
        with self._store.transaction():
            row = self._table.find(str(about.get("job", ""))) or self._add_lost(about, reason)
            self._table.add_attempt(
                attempt.id, row.id, attempt.folder, None, self._table.attempts(row.id) + 1
            )
            self._end_attempt(attempt, "lose", "restored", reason, exit)
            spent = self._price(exit.seconds) if exit else int(about.get("max_micro_usd", 0))
            # It is spent already, so no budget can refuse it.
            entry = self._ledger.reserve("job", row.id, row.payer, 0, attempt=attempt.id, kept=spent)
            self._ledger.settle(entry, spent)
            self._table.update(row.id, micro_usd=(row.micro_usd or 0) + spent)
            self._journal.append(
                "attempt.found", attempt.id, "daemon", job=row.id, cause="restored", micro_usd=spent
            )
        self._changes.announce()

    def _add_lost(self, about: Mapping[str, Any], reason: str) -> JobRow:
        """A job that the database has forgotten, as far as its attempt remembers it."""
        now = self._store.now()
        row = self._table.add(
            id=str(about.get("job") or new_id("job")),
            tool=str(about.get("tool", "")),
            title=str(about.get("title", "")) or "Forgotten job",
            state="lost",
            cause="restored",
            reason=reason,
            principal=str(about.get("principal", "")),
            project=str(about.get("project", "")) or DEFAULT_PROJECT,
            surface=str(about.get("surface", "")),
            cwd="/",
            arguments={},
            quote={},
            digest=str(about.get("digest", "")),
            created_at=float(about.get("created_at", now)),
            ended_at=now,
        )
        self._journal.append(
            "job.lost", row.id, "daemon", tool=row.tool, **{"from": "", "to": "lost"},
            cause="restored", reason=reason,
        )  # fmt: skip
        return row

    def _check_number(self, row: JobRow, number: int) -> None:
        """Raises `Conflict` unless that many attempts were approved."""
        allowed = (row.launch or {}).get("attempts", 1)
        if number > allowed:
            raise Conflict(
                f"Attempt {number} of {row.id} was not approved: {allowed} was, or were",
                hint="Start it again",
            )

    def _settle(self, row: JobRow, exit: Exit | None) -> int | None:
        """Close what is set aside; returns what the job has cost so far, None if nothing ever was."""
        paid = row.micro_usd
        for entry in self._ledger.open_of(row.id):
            # Without a witness of its end, all that was set aside counts as spent.
            spent = entry.reserved if exit is None else self._price(exit.seconds)
            self._ledger.settle(entry.id, spent)
            paid = (paid or 0) + spent
        return paid

    def _end_attempt(
        self, attempt: Attempt, outcome: str, cause: Cause | None, reason: str, exit: Exit | None
    ) -> None:
        seconds = exit.seconds if exit else None
        self._table.end_attempt(attempt.id, outcome, cause, reason, seconds)

    def _found(self, job_id: str) -> JobRow:
        row = self._table.find(job_id)
        assert row is not None
        return row


def _sum(time: int | None, requests: int) -> int | None:
    """What a job cost; None if nothing was ever set aside for it."""
    return requests or None if time is None else time + requests
