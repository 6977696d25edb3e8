"""Jobs meant to stay up: found by what they serve, watched until ready, stopped when nobody uses them."""

from __future__ import annotations

import asyncio
import contextlib

from agentd.jobs.attempts import Attempt, Observation
from agentd.jobs.launching import TOKEN_FILE
from agentd.jobs.live import LiveJobs
from agentd.sdk import ServiceView
from agentd.signals import Changes
from agentd.store import Store
from agentd.store.jobs import JobRow, JobTable
from agentd.store.journal import Journal

__all__ = ["Services"]

HEALTH_EVERY_S = 0.5


class Services:
    """The services among the jobs."""

    def __init__(
        self, store: Store, table: JobTable, journal: Journal, changes: Changes, live: LiveJobs
    ) -> None:
        self._store, self._table, self._journal = store, table, journal
        self._changes, self._live = changes, live

    def find(self, name: str) -> ServiceView | None:
        """The newest live service that serves `name`, or was launched by recipe `name`, ready or not."""
        for row in self._table.list(state="live", limit=1000):
            if row.launch is None or row.serves is None:
                continue
            if name in (*row.serves, row.id, row.launch["recipe"]):
                return self.view(row)
        return None

    def touch(self, job_id: str) -> None:
        """A service was used: its idle clock starts again."""
        self._live[job_id].last_used = self._store.now()

    def add_serves(self, job_id: str, names: list[str]) -> None:
        """A service answers for more models now."""
        row = self._row(job_id)
        self._table.update(job_id, serves=sorted({*(row.serves or []), *names}))
        self._journal.append("service.serves", job_id, "daemon", names=names)
        self._changes.announce()

    async def tend(self, job_id: str, ended: asyncio.Task[Observation]) -> None:
        """Ask after a service's health until it is ready; then stop it when nobody has used it for long."""
        import httpx

        row = self._row(job_id)
        assert row.launch is not None
        service, live = row.launch["service"], self._live[job_id]
        give_up = self._store.now() + service["ready_within_s"]
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            while not live.ready and not ended.done():
                view = self.view(self._row(job_id))
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

    def _row(self, job_id: str) -> JobRow:
        row = self._table.find(job_id)
        assert row is not None
        return row

    def _attempt_of(self, job_id: str) -> Attempt:
        row = self._table.attempt_of(job_id)
        assert row is not None
        return Attempt(row.folder)

    def view(self, row: JobRow) -> ServiceView:
        attempt = self._table.attempt_of(row.id)
        if attempt is None or attempt.port is None:
            return ServiceView(
                job_id=row.id, name=row.tool, url="", token="", ready=False, serves=tuple(row.serves or ())
            )
        return ServiceView(
            job_id=row.id,
            name=row.tool,
            url=f"http://127.0.0.1:{attempt.port}",
            token=(attempt.folder / TOKEN_FILE).read_text(encoding="ascii"),
            ready=row.id in self._live and self._live[row.id].ready,
            serves=tuple(row.serves or ()),
        )


def _bearer(service: ServiceView) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.token}"}
