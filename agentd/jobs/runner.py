"""A job's way from the decision to its end.

`Jobs` owns every transition after a call was accepted: preparing (environment, inputs, services it
needs), launching in one transaction, watching, finishing. Each job has one asyncio task while it is
alive; after a restart `recover` makes those tasks again from rows and files, and touches no process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol

from agentd.errors import AgentdError, Conflict, NotFound, Unavailable
from agentd.ids import new_id
from agentd.jobs.attempts import Attempt, Exit, Observation
from agentd.jobs.launching import Launching, Places
from agentd.jobs.live import Live, LiveJobs
from agentd.jobs.machine import JobEvent, advance, event_of
from agentd.jobs.services import Services
from agentd.jobs.views import failure, job_view
from agentd.policy.approvals import Approvals
from agentd.sdk import Finished, JobView, ServiceView
from agentd.signals import Changes
from agentd.store import Store
from agentd.store.approvals import Approval
from agentd.store.jobs import JobRow, JobTable
from agentd.store.journal import Journal
from agentd.store.ledger import Ledger

__all__ = ["Building", "Jobs", "Places"]

log = logging.getLogger(__name__)
TICK_S = 0.5


class Building(Protocol):
    """Where a recipe's interpreter comes from."""

    async def python(self, recipe: Path, digest: str, report: Callable[[Mapping[str, Any]], None]) -> Path:
        """The interpreter for `recipe`, its environment built first if need be; `report` is told of progress.

        Raises `Conflict` when that environment is not the one of `digest`.
        """
        ...


Finisher = Callable[[JobRow, Finished], Awaitable[dict[str, Any]]]


class Jobs:
    """Every job of this daemon. `finish` is set by whoever knows the tools."""

    def __init__(
        self,
        store: Store,
        table: JobTable,
        approvals: Approvals,
        ledger: Ledger,
        journal: Journal,
        changes: Changes,
        building: Building,
        places: Places,
        *,
        price: Callable[[float], int],
        job_token: Callable[[str, float], str],
        max_jobs: int = 1,
    ) -> None:
        self._store, self._table, self._approvals = store, table, approvals
        self._ledger, self._journal, self._changes = ledger, journal, changes
        self._building, self._places, self._price = building, places, price
        self._slots = asyncio.Semaphore(max_jobs)
        self._live: LiveJobs = LiveJobs(Live)
        self.services = Services(store, table, journal, changes, self._live)
        self._launching = Launching(places, job_token)
        self.finish: Finisher = _no_finish
        approvals.on_decided = self._on_decided

    # --- reading ----------------------------------------------------------------------------

    def row(self, job_id: str) -> JobRow:
        """Raises `NotFound` with the nearest ids."""
        row = self._table.find(job_id)
        if row is None:
            raise NotFound("job", job_id, self._table.ids())
        return row

    def get(self, job_id: str) -> JobView:
        """The job as everybody sees it. Raises `NotFound`."""
        return self._view(self.row(job_id))

    def list(self, *, state: str | None = None, limit: int = 50) -> list[JobView]:
        """Newest first; ``state="live"`` for all that have not ended."""
        return [self._view(row) for row in self._table.list(state=state, limit=limit)]

    def logs(self, job_id: str, *, tail: int = 50) -> list[str]:
        """The last lines that the job wrote; empty before its first attempt."""
        row = self._table.attempt_of(self.row(job_id).id)
        return Attempt(row.folder).log_tail(tail) if row else []

    def attempt_folder(self, job_id: str) -> Path | None:
        """The folder of the newest attempt; None before the first."""
        row = self._table.attempt_of(self.row(job_id).id)
        return row.folder if row else None

    def seconds_of(self, tool: str, key: str) -> list[float]:
        return self._table.seconds_of(tool, key)

    async def wait(self, job_id: str, max_s: float) -> JobView:
        """The job once it has settled, or as it is after `max_s` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max_s):
                return await self.settled(job_id)
        return self.get(job_id)

    async def settled(self, job_id: str) -> JobView:
        """Once the job has ended, or, for a service, is ready."""
        view = self.get(job_id)
        async for view in self.follow(job_id):
            if view.service and view.service["ready"]:
                break
        return view

    async def follow(self, job_id: str) -> AsyncIterator[JobView]:
        """The job now and after each change, until it has ended."""
        shown: JobView | None = None
        while True:
            version, view = self._changes.version, self.get(job_id)
            if view != shown:
                yield view
                shown = view
            if view.ended:
                return
            await self._changes.after(version)

    def _view(self, row: JobRow) -> JobView:
        seen = self.services.view(row) if row.is_service and not row.ended else None
        progress = self._live[row.id].progress if row.id in self._live else {}
        return job_view(row, self._approvals.of_job(row.id), progress, seen)

    # --- from decision to launch ------------------------------------------------------------

    def start(self, job_id: str) -> None:
        """Go on with a job that was allowed or approved."""
        self._drive(job_id, self._run(job_id))

    def ask(self, job_id: str) -> None:
        """Hold a job until a person has answered."""
        self._move(self.row(job_id), "ask")

    async def cancel(self, job_id: str, reason: str = "cancelled by request") -> JobView:
        """End a job and everything it started; one that has ended is left as it is."""
        row = self.row(job_id)
        if row.ended:
            return self._view(row)
        live = self._live[job_id]
        live.end_reason = reason
        attempt = self._table.attempt_of(job_id)
        if row.state == "running" and attempt is not None:
            await Attempt(attempt.folder).kill_tree()
            if live.task is not None:
                await asyncio.wait([live.task], timeout=10)
            return self.get(job_id)
        if live.task is not None:
            live.task.cancel()
            await asyncio.gather(live.task, return_exceptions=True)
        self._end(self.row(job_id), "cancel", reason)
        return self.get(job_id)

    def fail(self, job_id: str, reason: str) -> None:
        """End a job that was never launched."""
        self._end(self.row(job_id), "fail", reason)

    async def recover(self) -> None:
        """Watch what was launched and has not ended; what was being prepared is queued again."""
        self._sweep()
        for row in self._table.list(state="live", limit=10_000):
            if row.state == "running":
                await self._adopt(row)
            elif row.state == "preparing":
                self._move(row, "requeue")

    async def aclose(self) -> None:
        """Stop watching. Running jobs go on without us and are adopted at the next start."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _adopt(self, row: JobRow) -> None:
        """Watch a job that was launched by an earlier daemon; a call made in that daemon ended with it."""
        attempt = self._table.attempt_of(row.id)
        if attempt is None:
            self._end(row, "lose", "the daemon ended while it was carried out")
            return
        self._journal.append("job.adopted", row.id, "daemon", attempt=attempt.id)
        slot = self._slots if not row.is_service and not self._slots.locked() else None
        if slot:
            await slot.acquire()
        self._drive(row.id, self._watch_adopted(row.id, Attempt(attempt.folder), slot))

    async def _watch_adopted(self, job_id: str, attempt: Attempt, slot: asyncio.Semaphore | None) -> None:
        try:
            await self._watch(job_id, attempt)
        finally:
            if slot:
                slot.release()

    def _on_decided(self, approval: Approval) -> None:
        row = self.row(approval.job)
        if row.state != "waiting_approval":
            return
        if approval.state == "approved":
            self._move(row, "approve", decided_by=approval.decided_by)
            self.start(row.id)
        elif approval.state == "denied":
            said = f": {approval.reason}" if approval.reason else ""
            self._end(row, "deny", f"denied by {approval.decided_by}{said}")
        else:
            self._end(row, "expire", "nobody answered in time")

    def _drive(self, job_id: str, work: Coroutine[Any, Any, None]) -> None:
        live = self._live[job_id]
        live.task = asyncio.create_task(self._guarded(job_id, work), name=job_id)

    async def _guarded(self, job_id: str, work: Coroutine[Any, Any, None]) -> None:
        """The outermost edge of a job: whatever goes wrong ends it with a named reason."""
        try:
            await work
        except AgentdError as error:
            await self._break_off(job_id, str(error))
        except Exception as error:
            log.exception("job %s broke", job_id)
            await self._break_off(job_id, f"internal error: {type(error).__name__}: {error}")

    async def _break_off(self, job_id: str, reason: str) -> None:
        """End a job that went wrong on our side: nothing of it may go on unwatched."""
        row = self._table.attempt_of(job_id)
        if row is None or row.ended_at is not None:
            self._end(self.row(job_id), "fail", reason)
            return
        attempt = Attempt(row.folder)
        seen = await attempt.kill_tree()
        self._end(self.row(job_id), "fail", reason, attempt=attempt, exit=seen.exit)

    async def _run(self, job_id: str) -> None:
        row = self._move(self.row(job_id), "prepare")
        if row.launch is None:
            await self._finish_direct(row)
            return
        recipe, environment = Path(row.launch["recipe_path"]), row.launch["environment"]
        python = await self._building.python(recipe, environment, lambda event: self._report(job_id, **event))
        services = await self._needed(row)
        slot = contextlib.nullcontext() if row.is_service else self._slots
        if not row.is_service and self._slots.locked():
            self._report(job_id, message="waiting for the job before it")
        async with slot:
            attempt = await self._launch(row, python, services)
            await self._watch(job_id, attempt)

    async def _finish_direct(self, row: JobRow) -> None:
        """A call that waited for its approval and runs in the daemon itself."""
        with self._store.transaction():
            self._approvals.consume(row.id, row.digest)
            self._move(row, "launch", started_at=self._store.now())
        result = await self.finish(self.row(row.id), Finished(row.id, {}, {}, Path(), 0.0))
        self._end(self.row(row.id), "succeed", "", result=result)

    async def _needed(self, row: JobRow) -> dict[str, ServiceView]:
        """The services this job asked for, once they are ready."""
        assert row.launch is not None
        found: dict[str, ServiceView] = {}
        for name in row.launch["needs"]:
            self._report(row.id, message=f"waiting for {name}")
            while True:
                version, service = self._changes.version, self.services.find(name)
                if service is None:
                    raise Unavailable(f"{row.id} needs the service {name!r}, which {self._why_not(name)}")
                if service.ready:
                    found[name] = service
                    break
                await self._changes.after(version)
        return found

    def _why_not(self, name: str) -> str:
        """What became of the newest service of that name."""
        ended = [row for row in self._table.list(limit=1000) if name in (row.serves or ())]
        return f"{ended[0].state} ({ended[0].id}): {ended[0].reason}" if ended else "is not running"

    async def _launch(self, row: JobRow, python: Path, services: Mapping[str, ServiceView]) -> Attempt:
        """Write the attempt, then consume the approval, reserve the budget and record it at once."""
        assert row.launch is not None
        attempt = Attempt(self._places.attempts / new_id("att"))
        try:
            spec = await self._launching.write(row, attempt, python, services)
            self.claim(row, attempt, spec.get("port"))
        except BaseException:
            shutil.rmtree(attempt.folder, ignore_errors=True)  # it holds secrets, and copies of inputs
            raise
        return attempt

    def claim(self, row: JobRow, attempt: Attempt, port: int | None) -> None:
        """Consume the approval, reserve the budget and record the attempt: all or nothing."""
        assert row.launch is not None
        with self._store.transaction():
            self._approvals.consume(row.id, row.digest)
            self._ledger.reserve("job", row.id, row.payer, row.launch["max_micro_usd"], attempt=attempt.id)
            self._table.add_attempt(attempt.id, row.id, attempt.folder, port)
            self._move(row, "launch", started_at=self._store.now())

    # --- from launch to end -----------------------------------------------------------------

    async def _watch(self, job_id: str, attempt: Attempt) -> None:
        """Follow a launched attempt until it is over."""
        live = self._live[job_id]
        live.last_used = self._store.now()
        ended = asyncio.create_task(attempt.run())
        watchers: list[asyncio.Task[Any]] = [ended]
        if self.row(job_id).is_service:
            watchers.append(asyncio.create_task(self.services.tend(job_id, ended)))
        offset = 0
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=TICK_S)
                offset = self._read_events(job_id, attempt, offset)
            self._read_events(job_id, attempt, offset)
            await self._conclude(job_id, attempt, ended.result())
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)

    def _read_events(self, job_id: str, attempt: Attempt, offset: int) -> int:
        """Take in what the recipe reported since `offset`."""
        live = self._live[job_id]
        while True:
            events, new = attempt.events(offset)
            for event in events:
                if event["event"] == "progress":
                    live.progress = {key: value for key, value in event.items() if key != "event"}
                elif event["event"] == "error":
                    live.error = str(event.get("message", "")), str(event.get("hint", ""))
            if events:
                self._changes.announce()
            if new == offset:
                return offset
            offset = new

    async def _conclude(self, job_id: str, attempt: Attempt, seen: Observation) -> None:
        """Turn how the attempt ended into how the job ended."""
        row, live = self.row(job_id), self._live[job_id]
        if seen.exit is None:
            self._end(
                row, "lose", "it was launched, but is gone without having said how it ended", attempt=attempt
            )
            return
        result = attempt.result()
        event = event_of(seen.exit.reason, seen.exit.code, result is not None)
        if event == "cancel":
            self._end(row, event, live.end_reason or "cancelled", attempt=attempt, exit=seen.exit)
        elif event != "succeed" or result is None:
            reason = live.end_reason or failure(seen.exit, live.error, attempt)
            self._end(row, event, reason, attempt=attempt, exit=seen.exit)
        else:
            await self._succeed(row, attempt, seen.exit, result)

    async def _succeed(self, row: JobRow, attempt: Attempt, exit: Exit, result: dict[str, Any]) -> None:
        finished = Finished(
            row.id,
            {**_spec_of(attempt), "arguments": row.arguments},
            result,
            attempt.out,
            exit.ended - exit.started,
        )
        try:
            final = await self.finish(row, finished)
        except AgentdError as error:
            self._end(row, "fail", str(error), attempt=attempt, exit=exit)
            return
        self._end(row, "succeed", "", attempt=attempt, exit=exit, result=final)

    def _end(
        self,
        row: JobRow,
        event: JobEvent,
        reason: str,
        *,
        attempt: Attempt | None = None,
        exit: Exit | None = None,
        result: dict[str, Any] | None = None,
    ) -> None:
        """Settle, record and announce the end of a job, in one transaction. Ending twice changes nothing."""
        if row.ended:
            return
        with self._store.transaction():
            spent: int | None = None
            for entry in self._ledger.open_of(row.id):
                # Without a witness of its end, all that was set aside counts as spent.
                spent = entry.reserved if exit is None else self._price(max(0.0, exit.ended - exit.started))
                self._ledger.settle(entry.id, spent)
            if attempt is not None:
                self._table.end_attempt(attempt.id, event)
            self._move(row, event, reason=reason, result=result, micro_usd=spent, ended_at=self._store.now())
        if attempt is not None:
            attempt.tidy()
        self._changes.announce()

    def _move(self, row: JobRow, event: JobEvent, **changes: Any) -> JobRow:
        """One step of the state machine, journalled. Raises `Conflict` when somebody was faster."""
        new = advance(row.state, event)
        with self._store.transaction():
            kept = {name: value for name, value in changes.items() if value is not None}
            if not self._table.move(row.id, row.state, new, **kept):
                raise Conflict(f"{row.id} is not {row.state} any more")
            self._journal.append(
                f"job.{new}", row.id, "daemon", tool=row.tool, reason=changes.get("reason") or ""
            )
        self._changes.announce()
        return self.row(row.id)

    def _report(self, job_id: str, **progress: Any) -> None:
        self._live[job_id].progress = {k: v for k, v in progress.items() if k != "event"}
        self._changes.announce()

    def _sweep(self) -> None:
        """Attempts that were written but never recorded were never launched either: forget them."""
        known = {row["folder"] for row in self._store.rows("SELECT folder FROM attempts")}
        for folder in self._places.attempts.glob("att-*"):
            if str(folder) not in known:
                log.info("removing %s, which was never launched", folder)
                shutil.rmtree(folder, ignore_errors=True)


async def _no_finish(row: JobRow, finished: Finished) -> dict[str, Any]:
    return dict(finished.result)


def _spec_of(attempt: Attempt) -> dict[str, Any]:
    return json.loads(attempt.spec_path.read_text(encoding="utf-8"))
