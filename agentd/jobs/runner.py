"""A job's way from the decision to its end.

`Jobs` decides every step after a call was accepted: preparing (environment, inputs, services it
needs), launching in one transaction, watching, finishing, trying again. Each job has one asyncio task
while it is alive; after a restart `recover` makes those tasks again from rows and files, and touches
no process. What is decided is written down in `agentd.jobs.transitions`.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from agentd.errors import AgentdError, Conflict, NotFound, Unavailable
from agentd.ids import new_id
from agentd.jobs.attempts import Attempt, Exit, Observation
from agentd.jobs.causes import Said, cause_of, cause_of_error, said_in, sentence
from agentd.jobs.launching import Launching, Places
from agentd.jobs.live import Live, LiveJobs
from agentd.jobs.machine import JobEvent, again, event_of, pause_s
from agentd.jobs.reconcile import Reconciliation
from agentd.jobs.services import Services
from agentd.jobs.shim import uptime
from agentd.jobs.slots import Slots
from agentd.jobs.transitions import Transitions
from agentd.jobs.views import job_view
from agentd.policy.approvals import Approvals, Outdated
from agentd.policy.bindings import Binding
from agentd.sdk import Cause, Finished, JobView, ServiceView
from agentd.signals import Changes
from agentd.store import Store
from agentd.store.approvals import Approval
from agentd.store.jobs import JobRow, JobTable
from agentd.store.journal import Journal
from agentd.store.ledger import Ledger

__all__ = ["Building", "Jobs", "Places"]

log = logging.getLogger(__name__)
TICK_S = 0.5
STORE_PAUSE_S = 0.5
LOG_LINES = 20  # the end of a log, where the reason stands


class Building(Protocol):
    """Where a recipe's interpreter comes from."""

    async def python(self, recipe: Path, digest: str, report: Callable[[Mapping[str, Any]], None]) -> Path:
        """The interpreter for `recipe`, its environment built first if need be; `report` is told of progress.

        Raises `Conflict` when that environment is not the one of `digest`.
        """
        ...


Finisher = Callable[[JobRow, Finished], Awaitable[dict[str, Any]]]


class Jobs:
    """Every job of this daemon.

    Whoever knows the tools sets `finish`, `bind` (what a job would be if it started now) and
    `ask_again` (with a job's id and why what was decided about it does not stand any more).
    """

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
        revoke_tokens: Callable[[str], object],
        room: Callable[[str, int], None],
        max_jobs: int = 1,
    ) -> None:
        self._store, self._table, self._approvals = store, table, approvals
        self._journal, self._changes, self._building, self._places = journal, changes, building, places
        self._slots, self._room = Slots(max_jobs), room
        self._live: LiveJobs = LiveJobs(Live)
        self._steps = Transitions(store, table, approvals, ledger, journal, changes, price, revoke_tokens)
        self.reconciliation = Reconciliation(store, table, self._steps, journal, places.attempts)
        self.services = Services(table, journal, changes, self._live)
        self._launching = Launching(places, job_token)
        self.finish: Finisher = _no_finish
        self.bind: Callable[[JobRow], Awaitable[Binding]] = _no_binding
        self.ask_again: Callable[[str, str], None] = lambda job_id, why: self.fail(job_id, Conflict(why))
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

    def owner(self, job_id: str) -> str:
        """The principal who asked for it. Raises `NotFound`."""
        return self.row(job_id).principal

    def list(
        self, *, state: str | None = None, limit: int = 50, of: Sequence[str] | None = None
    ) -> list[JobView]:
        """Newest first; ``state="live"``: all that have not ended; `of`: services, and these principals'."""
        return [self._view(row) for row in self._table.list(state=state, limit=limit, of=of)]

    def ids(self, *, limit: int, of: Sequence[str] | None) -> list[str]:
        return self._table.ids(limit=limit, of=of)

    def principals(self) -> list[str]:
        """Who has jobs."""
        return self._table.principals()

    def find(self, job_id: str) -> JobRow | None:
        return self._table.find(job_id)

    def logs(self, job_id: str, *, tail: int = 50) -> list[str]:
        """The last lines that the job wrote; empty before its first attempt."""
        row = self._table.attempt_of(self.row(job_id).id)
        return Attempt(row.folder).log_tail(tail) if row else []

    def attempt_folder(self, job_id: str) -> Path | None:
        """The folder of the newest attempt; None before the first."""
        row = self._table.attempt_of(self.row(job_id).id)
        return row.folder if row else None

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
        attempt = self._table.attempt_of(row.id)
        approval = self._approvals.of_job(row.id)
        way = self._approvals.way(approval.id) if approval else ""
        return job_view(row, approval, way, attempt, progress, seen)

    # --- from decision to launch ------------------------------------------------------------

    def start(self, job_id: str) -> None:
        """Go on with a job that was allowed or approved."""
        self._drive(job_id, self._run(job_id))

    def ask(self, job_id: str) -> None:
        """Hold a job until a person has answered."""
        self._steps.move(self.row(job_id), "ask")

    def requeue(self, job_id: str) -> None:
        """Take a job back that was not launched, to be decided about again."""
        if self.row(job_id).state != "queued":
            self._steps.move(self.row(job_id), "requeue")

    async def cancel(
        self, job_id: str, reason: str = "cancelled by request", *, by: str = "daemon"
    ) -> JobView:
        """End a job and everything it started; one that has ended is left as it is."""
        row = self.row(job_id)
        if row.ended:
            return self._view(row)
        self._journal.append("job.cancelling", job_id, by, reason=reason, state=row.state)
        live = self._live[job_id]
        live.unwanted = True
        attempt = self._table.attempt_of(job_id)
        if row.state == "running" and attempt is not None:
            await Attempt(attempt.folder).kill_tree(cause="cancelled", detail=reason)
            if live.task is not None:
                await asyncio.wait([live.task], timeout=10)
            return self.get(job_id)
        if live.task is not None:
            live.task.cancel()
            await asyncio.gather(live.task, return_exceptions=True)
        self._steps.end(job_id, "cancel", "cancelled", reason)
        return self.get(job_id)

    def fail(self, job_id: str, error: Exception) -> None:
        """End a job that was never launched."""
        self._steps.end(job_id, "fail", cause_of_error(error), _told(job_id, error))

    async def recover(self) -> bool:
        """Watch what was launched and has not ended; what was being prepared is queued again.

        Nothing is launched before the folders and the database agree. Whether the state was set back.
        """
        set_back = await self.reconciliation.at_start()
        for row in reversed(self._table.list(state="live", limit=10_000)):
            if row.state == "running":
                self._adopt(row)
            elif row.state == "preparing":
                self._steps.move(row, "requeue")
        return set_back

    async def aclose(self) -> None:
        """Stop watching. Running jobs go on without us and are adopted at the next start."""
        tasks = [live.task for live in self._live.values() if live.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _adopt(self, row: JobRow) -> None:
        """Watch a job that was launched by an earlier daemon; a call made in that daemon ended with it."""
        attempt = self._table.attempt_of(row.id)
        if attempt is None:
            self._steps.end(row.id, "lose", "lost", "the daemon ended while it was carried out")
            return
        if not self.reconciliation.ours(attempt.folder):
            reason = f"it was launched from {str(attempt.folder.parent)!r}, which is not ours to look after"
            self._steps.end(row.id, "lose", "restored", reason)
            return
        self._journal.append("job.adopted", row.id, "daemon", attempt=attempt.id)
        if not row.is_service:
            self._slots.take()
        self._drive(row.id, self._watch_adopted(row, Attempt(attempt.folder)))

    async def _watch_adopted(self, row: JobRow, attempt: Attempt) -> None:
        try:
            await self._watch(row, attempt)
        finally:
            if not row.is_service:
                self._slots.leave()
        await self._run(row.id)  # when it is to be tried again

    def _on_decided(self, approval: Approval) -> None:
        row = self.row(approval.job)
        if row.state != "waiting_approval":
            return
        if approval.state == "approved":
            self._steps.move(row, "approve", decided_by=approval.decided_by)
            self.start(row.id)
        elif approval.state == "denied":
            said = f": {approval.reason}" if approval.reason else ""
            self._steps.end(row.id, "deny", "denied", f"denied by {approval.decided_by}{said}")
        else:
            self._steps.end(row.id, "expire", "expired", "nobody answered in time")

    def _drive(self, job_id: str, work: Coroutine[Any, Any, None]) -> None:
        live = self._live[job_id]
        live.task = asyncio.create_task(self._guarded(job_id, work), name=job_id)
        live.task.add_done_callback(lambda _: work.close())  # it may have been cancelled before it began

    async def _guarded(self, job_id: str, work: Coroutine[Any, Any, None]) -> None:
        """The outermost edge of a job: whatever goes wrong ends it with a named reason."""
        try:
            await work
        except Outdated as outdated:
            why = outdated.message
            await self._surely(job_id, lambda: self.ask_again(job_id, why))
        except Exception as error:  # noqa: BLE001 - it is told, and logged if it is ours
            cause, reason = cause_of_error(error), _told(job_id, error)
            await self._surely(job_id, lambda: self._break_off(job_id, cause, reason))

    async def _break_off(self, job_id: str, cause: Cause, reason: str) -> None:
        """End a job that went wrong on our side: nothing of it may go on unwatched."""
        row = self._table.attempt_of(job_id)
        if row is None or row.ended_at is not None:
            self._steps.end(job_id, "fail", cause, reason)
            return
        attempt = Attempt(row.folder)
        seen = await attempt.kill_tree(cause=cause, detail=reason)
        self._steps.end(job_id, "fail", cause, reason, attempt=attempt, exit=seen.exit)

    async def _run(self, job_id: str) -> None:
        """Everything from the queue on; again as long as it is queued for another attempt."""
        while self.row(job_id).state == "queued":
            await self._pause(job_id)
            await self._once(job_id)

    async def _pause(self, job_id: str) -> None:
        before = self._table.attempt_of(job_id)
        if before is None:
            return
        wait = pause_s(before.number)
        message = f"attempt {before.number} ended ({before.cause}): the next one starts in {wait:.0f} s"
        self._report(job_id, message=message)
        await asyncio.sleep(wait)

    async def _once(self, job_id: str) -> None:
        row = self._steps.move(self.row(job_id), "prepare")
        self._approvals.check(job_id, await self.bind(row), attempt=self._table.attempts(job_id) + 1)
        if row.launch is None:
            await self._finish_direct(row)
            return
        recipe, environment = Path(row.launch["recipe_path"]), row.launch["environment"]
        python = await self._building.python(recipe, environment, lambda event: self._report(job_id, **event))
        await self._needed(row)
        slot = contextlib.nullcontext() if row.is_service else self._slots
        if not row.is_service and not self._slots.free:
            self._report(job_id, message="waiting for the job before it")
        async with slot:
            services = await self._needed(row)  # again: one may have gone while it waited for its turn
            attempt = await self._launch(row, python, services)
            await self._watch(row, attempt)

    async def _finish_direct(self, row: JobRow) -> None:
        """A call that waited for its approval and runs in the daemon itself."""
        now = await self.bind(row)
        with self._store.transaction():
            self._approvals.consume(row.id, now)
            self._steps.move(row, "launch", started_at=self._store.now())
        result = await self.finish(self.row(row.id), Finished(row.id, {}, {}, Path(), 0.0))
        await self._surely(row.id, lambda: self._steps.end(row.id, "succeed", None, "", result=result))

    async def _needed(self, row: JobRow) -> dict[str, ServiceView]:
        """The services this job asked for, once they are ready."""
        assert row.launch is not None
        found: dict[str, ServiceView] = {}
        for name in row.launch["needs"]:
            told = False
            while True:
                version, service = self._changes.version, self.services.find(name)
                if service is None:
                    raise Unavailable(f"{row.id} needs the service {name!r}, which {self._why_not(name)}")
                if service.ready:
                    found[name] = service
                    break
                if not told:
                    self._report(row.id, message=f"waiting for {name}")
                    told, version = True, self._changes.version
                await self._changes.after(version)
        return found

    def _why_not(self, name: str) -> str:
        """What became of the newest service of that name."""
        ended = [row for row in self._table.list(limit=1000) if name in (row.serves or ())]
        return f"{ended[0].state} ({ended[0].id}): {ended[0].reason}" if ended else "is not running"

    async def _launch(self, row: JobRow, python: Path, services: Mapping[str, ServiceView]) -> Attempt:
        """Write the attempt, then consume the approval, reserve the budget and record it at once."""
        self._room(row.title, row.quote.disk_bytes)
        attempt = Attempt(self._places.attempts / new_id("att"))
        try:
            written = await self._launching.write(row, attempt, python, services)
            taken = {"recipe_digest": written.recipe_digest, "input_digests": written.input_digests}
            stored = self.row(row.id)
            now = await self.bind(stored.model_copy(update={"launch": {**(stored.launch or {}), **taken}}))
            self._steps.launch(row.id, attempt, written.spec.get("port"), now)
        except BaseException:
            # A commit that failed may be stored all the same: only what is read again decides. If that
            # fails too, the folder stays: what is recorded is launched later, what is not is swept.
            if self._table.attempt(attempt.id) is None:
                shutil.rmtree(attempt.folder, ignore_errors=True)  # it holds secrets, and copies of inputs
                raise
        return attempt

    # --- from launch to end -----------------------------------------------------------------

    async def _watch(self, row: JobRow, attempt: Attempt) -> None:
        """Follow a launched attempt until it is over."""
        live = self._live[row.id]
        live.ready, live.said, live.last_used = False, Said(), uptime()
        ended = asyncio.create_task(attempt.run())
        watchers: list[asyncio.Task[Any]] = [ended]
        if row.is_service:
            watchers.append(asyncio.create_task(self.services.tend(row.id, attempt, ended)))
        offset = 0
        try:
            while not ended.done():
                await asyncio.wait([ended], timeout=TICK_S)
                offset = self._read_events(row.id, attempt, offset)
            self._read_events(row.id, attempt, offset)
            await self._conclude(row.id, attempt, ended.result())
        finally:
            live.ready = False
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
                    live.said = said_in(event)
            if events:
                self._changes.announce()
            if new == offset:
                return offset
            offset = new

    async def _conclude(self, job_id: str, attempt: Attempt, seen: Observation) -> None:
        """Turn how the attempt ended into how the job ended, or into another attempt."""
        result = attempt.result()
        event: JobEvent = "lose"
        cause: Cause = "lost"
        reason = "it was launched, but is gone without having said how it ended"
        if seen.exit is not None:
            event = event_of(seen.exit.reason, seen.exit.code, result is not None)
            if event == "succeed" and result is not None:
                await self._succeed(job_id, attempt, seen.exit, result)
                return
            said, lines = self._live[job_id].said, attempt.log_tail(LOG_LINES)
            cause = cause_of(seen.exit, said, lines)
            reason = sentence(cause, seen.exit, said, lines)
        await self._surely(
            job_id, lambda: self._end_or_retry(job_id, event, cause, reason, attempt, seen.exit)
        )

    def _end_or_retry(
        self, job_id: str, event: JobEvent, cause: Cause, reason: str, attempt: Attempt, exit: Exit | None
    ) -> None:
        row, tried = self.row(job_id), self._table.attempt_of(job_id)
        if row.state != "running":
            return  # it was written down, though the store could not say so
        launch, number = row.launch or {}, tried.number if tried else 1
        if not self._live[job_id].unwanted and again(
            cause,
            number=number,
            attempts=launch.get("attempts", 1),
            repeatable=launch.get("repeatable", False),
        ):
            self._steps.retry(row, cause, reason, attempt, exit)
        else:
            self._steps.end(job_id, event, cause, reason, attempt=attempt, exit=exit)

    async def _succeed(self, job_id: str, attempt: Attempt, exit: Exit, result: dict[str, Any]) -> None:
        row = self.row(job_id)
        spec = {**_spec_of(attempt), "arguments": row.arguments}
        try:
            final = await self.finish(row, Finished(row.id, spec, result, attempt.out, exit.seconds))
        except AgentdError as error:
            cause, reason = cause_of_error(error), str(error)
            await self._surely(
                job_id,
                lambda: self._steps.end(job_id, "fail", cause, reason, attempt=attempt, exit=exit),
            )
            return
        await self._surely(
            job_id,
            lambda: self._steps.end(job_id, "succeed", None, "", attempt=attempt, exit=exit, result=final),
        )

    async def _surely(self, job_id: str, write: Callable[[], Awaitable[None] | None]) -> None:
        """Write it down however long a disk refuses: nobody else would. `write` may be repeated."""
        while True:
            try:
                if (more := write()) is not None:
                    await more
                return
            except Conflict:
                log.exception("%s could not be ended", job_id)
                return
            except (AgentdError, OSError) as error:
                log.warning("what became of %s could not be stored yet: %s", job_id, error)
            await asyncio.sleep(STORE_PAUSE_S)

    def _report(self, job_id: str, **progress: Any) -> None:
        self._live[job_id].progress = {k: v for k, v in progress.items() if k != "event"}
        self._changes.announce()


async def _no_finish(row: JobRow, finished: Finished) -> dict[str, Any]:
    return dict(finished.result)


async def _no_binding(row: JobRow) -> Binding:
    return Binding()


def _spec_of(attempt: Attempt) -> dict[str, Any]:
    return json.loads(attempt.spec_path.read_text(encoding="utf-8"))


def _told(job_id: str, error: Exception) -> str:
    """What the job's owner is told of an error; one that we did not foresee goes to the log as well."""
    if isinstance(error, AgentdError):
        return str(error)
    if isinstance(error, OSError):
        return f"something it needs could not be read or written: {error}"
    log.error("%s broke", job_id, exc_info=error)
    return f"internal error: {type(error).__name__}: {error}"
