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
import re
import secrets
import shutil
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from agentd.errors import AgentdError, Conflict, NotFound, Unavailable
from agentd.ids import new_id
from agentd.jobs import snapshot
from agentd.jobs.attempts import Attempt, Exit, Observation
from agentd.jobs.machine import JobEvent, advance, event_of
from agentd.policy.approvals import Approvals
from agentd.policy.digests import digest_file
from agentd.sdk import Finished, JobView, ServiceView
from agentd.signals import Changes
from agentd.store import Store
from agentd.store.approvals import Approval
from agentd.store.jobs import JobRow, JobTable
from agentd.store.journal import Journal
from agentd.store.ledger import Ledger, usd

__all__ = ["Building", "Jobs", "Places"]

log = logging.getLogger(__name__)
TICK_S = 0.5
HEALTH_EVERY_S = 0.5
TOKEN_FILE = "service-token"


class Building(Protocol):
    """Where a recipe's interpreter comes from."""

    async def python(self, recipe: Path, digest: str, report: Callable[[Mapping[str, Any]], None]) -> Path:
        """The interpreter for `recipe`, its environment built first if need be; `report` is told of progress.

        Raises `Conflict` when that environment is not the one of `digest`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Places:
    """Folders and addresses that launches are given."""

    attempts: Path
    artifacts: Path
    cache: Path
    gateway: str
    offline: bool = False


@dataclass(slots=True)
class _Live:
    """What is known of a running job only while the daemon lives."""

    task: asyncio.Task[None] | None = None
    progress: dict[str, Any] = field(default_factory=dict[str, Any])
    error: tuple[str, str] = ("", "")
    ready: bool = False
    last_used: float = 0.0
    end_reason: str = ""


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
        self._building, self._places = building, places
        self._price, self._job_token = price, job_token
        self._slots = asyncio.Semaphore(max_jobs)
        self._live: dict[str, _Live] = {}
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
        live = self._live.setdefault(job_id, _Live())
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
        live = self._live.setdefault(job_id, _Live())
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
                version, service = self._changes.version, self.service(name)
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
            spec = await self._write(row, row.launch, attempt, python, services)
            with self._store.transaction():
                self._approvals.consume(row.id, row.digest)
                self._ledger.reserve("job", row.id, row.principal, row.launch["max_micro_usd"])
                self._table.add_attempt(attempt.id, row.id, attempt.folder, spec.get("port"))
                self._move(row, "launch", started_at=self._store.now())
        except BaseException:
            shutil.rmtree(attempt.folder, ignore_errors=True)  # it holds secrets, and copies of inputs
            raise
        return attempt

    async def _write(
        self,
        row: JobRow,
        launch: Mapping[str, Any],
        attempt: Attempt,
        python: Path,
        services: Mapping[str, ServiceView],
    ) -> dict[str, Any]:
        """Fix what the attempt reads, and write it down; returns the recipe's SPEC."""
        recipe = attempt.folder / "recipe" / Path(launch["recipe_path"]).name
        inputs = await asyncio.to_thread(self._take, launch, recipe, attempt.folder)
        secret_values: dict[str, str] = {}
        given: dict[str, dict[str, str]] = {}
        for name, service in services.items():
            variable = f"AGENTD_SERVICE_{re.sub(r'[^A-Z0-9]', '_', name.upper())}_TOKEN"
            given[name] = {"url": service.url, "token_env": variable}
            secret_values[variable] = service.token
        spec: dict[str, Any] = {**launch["spec"], "inputs": inputs, "services": given}
        if row.is_service:
            spec["port"] = spec.get("port") or _free_port()
            secret_values["AGENTD_SERVICE_TOKEN"] = secrets.token_urlsafe(32)
            _write_private(attempt.folder / TOKEN_FILE, secret_values["AGENTD_SERVICE_TOKEN"])
        if launch["gateway"]:
            secret_values["AGENTD_GATEWAY_KEY"] = self._job_token(row.id, launch["timeout_s"])
        attempt.prepare(
            spec, attempt.argv(python, recipe), self._env(launch), secret_values, launch["timeout_s"]
        )
        return spec

    def _take(self, launch: Mapping[str, Any], recipe: Path, folder: Path) -> dict[str, str]:
        recipe.parent.mkdir(parents=True, exist_ok=True)
        recipe.write_bytes(Path(launch["recipe_path"]).read_bytes())
        if digest_file(recipe) != launch["recipe_digest"]:
            raise Conflict(
                f"The recipe {launch['recipe']!r} was changed since it was approved", hint="Start it again"
            )
        return snapshot.take(
            launch["inputs"], launch["input_digests"], self._places.artifacts, folder / "inputs"
        )

    def _env(self, launch: Mapping[str, Any]) -> dict[str, str]:
        env = {"AGENTD_CACHE_DIR": str(self._places.cache), **launch["env"]}
        if launch["gateway"]:
            env["AGENTD_GATEWAY_URL"] = self._places.gateway
        if self._places.offline:
            env["HF_HUB_OFFLINE"] = "1"
        return env

    # --- from launch to end -----------------------------------------------------------------

    async def _watch(self, job_id: str, attempt: Attempt) -> None:
        """Follow a launched attempt until it is over."""
        live = self._live.setdefault(job_id, _Live())
        live.last_used = self._store.now()
        ended = asyncio.create_task(attempt.run())
        watchers: list[asyncio.Task[Any]] = [ended]
        if self.row(job_id).is_service:
            watchers.append(asyncio.create_task(self._tend(job_id, ended)))
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
            reason = live.end_reason or _failure(seen.exit, live.error, attempt)
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
        self._live.setdefault(job_id, _Live()).progress = {k: v for k, v in progress.items() if k != "event"}
        self._changes.announce()

    def _sweep(self) -> None:
        """Attempts that were written but never recorded were never launched either: forget them."""
        known = {row["folder"] for row in self._store.rows("SELECT folder FROM attempts")}
        for folder in self._places.attempts.glob("att-*"):
            if str(folder) not in known:
                log.info("removing %s, which was never launched", folder)
                shutil.rmtree(folder, ignore_errors=True)

    # --- services ---------------------------------------------------------------------------

    def service(self, name: str) -> ServiceView | None:
        """The newest live service that serves `name`, or was launched by recipe `name`, ready or not."""
        for row in self._table.list(state="live", limit=1000):
            if row.launch is None or row.serves is None:
                continue
            if name in (*row.serves, row.id, row.launch["recipe"]):
                return self._service_view(row)
        return None

    def touch(self, job_id: str) -> None:
        """A service was used: its idle clock starts again."""
        self._live.setdefault(job_id, _Live()).last_used = self._store.now()

    def add_serves(self, job_id: str, names: list[str]) -> None:
        """A service answers for more models now."""
        row = self.row(job_id)
        self._table.update(job_id, serves=sorted({*(row.serves or []), *names}))
        self._journal.append("service.serves", job_id, "daemon", names=names)
        self._changes.announce()

    async def _tend(self, job_id: str, ended: asyncio.Task[Observation]) -> None:
        """Ask after a service's health until it is ready; then stop it when nobody has used it for long."""
        import httpx

        row = self.row(job_id)
        assert row.launch is not None
        service, live = row.launch["service"], self._live[job_id]
        give_up = self._store.now() + service["ready_within_s"]
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            while not live.ready and not ended.done():
                view = self._service_view(self.row(job_id))
                with contextlib.suppress(httpx.HTTPError):
                    response = await client.get(view.url + service["health"], headers=_bearer(view))
                    live.ready = response.status_code == 200
                if live.ready:
                    break
                if self._store.now() > give_up:
                    live.end_reason = f"it was not ready within {service['ready_within_s']:.0f} s"
                    await self._attempt_of(job_id).kill_tree(reason="timed_out")
                    return
                await asyncio.sleep(HEALTH_EVERY_S)
        live.last_used = self._store.now()
        self._journal.append("service.ready", job_id, "daemon")
        self._changes.announce()
        while not ended.done():
            await asyncio.sleep(min(10.0, service["idle_stop_s"]))
            idle = self._store.now() - live.last_used
            if idle >= service["idle_stop_s"]:
                live.end_reason = f"nobody used it for {idle / 60:.0f} minutes"
                await self._attempt_of(job_id).kill_tree()
                return

    def _attempt_of(self, job_id: str) -> Attempt:
        row = self._table.attempt_of(job_id)
        assert row is not None
        return Attempt(row.folder)

    def _service_view(self, row: JobRow) -> ServiceView:
        attempt = self._table.attempt_of(row.id)
        if attempt is None or attempt.port is None:
            return ServiceView(
                job_id=row.id, name=row.tool, url="", token="", ready=False, serves=tuple(row.serves or ())
            )
        live = self._live.get(row.id)
        return ServiceView(
            job_id=row.id,
            name=row.tool,
            url=f"http://127.0.0.1:{attempt.port}",
            token=(attempt.folder / TOKEN_FILE).read_text(encoding="ascii"),
            ready=live is not None and live.ready,
            serves=tuple(row.serves or ()),
        )

    # --- what everybody sees ----------------------------------------------------------------

    def _view(self, row: JobRow) -> JobView:
        live = self._live.get(row.id)
        approval = self._approvals.of_job(row.id)
        service = None
        if row.is_service:
            seen = None if row.ended else self._service_view(row)
            service = {
                "url": f"{seen.url}/v1" if seen and seen.url else "",
                "serves": list(row.serves or ()),
                "ready": bool(seen and seen.ready),
            }
        return JobView(
            id=row.id,
            tool=row.tool,
            title=row.title,
            state=row.state,
            reason=row.reason,
            quote=row.quote,
            progress=live.progress if live and not row.ended else {},
            result=row.result,
            approval=approval.id if approval else None,
            decided_by=approval.decided_by if approval else None,
            digest=row.digest,
            micro_usd=row.micro_usd,
            created_at=row.created_at,
            started_at=row.started_at,
            ended_at=row.ended_at,
            service=service,
            next=_next(row, approval, service),
        )


async def _no_finish(row: JobRow, finished: Finished) -> dict[str, Any]:
    return dict(finished.result)


def _next(row: JobRow, approval: Approval | None, service: Mapping[str, Any] | None) -> str:
    """What to do next, in one line."""
    if row.state == "waiting_approval" and approval is not None:
        most = approval.facts.get("max_micro_usd")
        cost = f" (at most {usd(most)})" if isinstance(most, int) and most else ""
        return f"A person has to approve it{cost}: agentd approve {approval.id}. Then wait with job_wait."
    if service is not None and row.state == "running":
        return "It is ready." if service["ready"] else "It is starting: wait for it with job_wait."
    if row.state in ("queued", "preparing", "running"):
        return f"Wait for it with job_wait(job={row.id!r})."
    if row.state in ("failed", "lost", "timed_out"):
        return f"See why with job_logs(job={row.id!r})."
    return ""


def _failure(exit: Exit, error: tuple[str, str], attempt: Attempt) -> str:
    """Why an attempt failed, in one sentence: what the recipe said, else how it ended and its last words."""
    message, hint = error
    if message:
        return f"{message}. {hint}" if hint else message
    if exit.reason == "timed_out":
        return f"it ran past its limit of {exit.ended - exit.started:.0f} s and was ended"
    if exit.reason == "out_of_memory":
        return "it ran out of memory and was killed"
    ended = f"was killed by signal {exit.signal}" if exit.signal else f"exited with {exit.code}"
    last = next((line.strip() for line in reversed(attempt.log_tail(20)) if line.strip()), "")
    detail = exit.detail or last
    return f"it {ended}" + (f": {detail[:400]}" if detail else "")


def _spec_of(attempt: Attempt) -> dict[str, Any]:
    return json.loads(attempt.spec_path.read_text(encoding="utf-8"))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="ascii")


def _bearer(service: ServiceView) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.token}"}
