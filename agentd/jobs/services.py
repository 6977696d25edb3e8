"""Jobs meant to stay up: found by what they serve, watched until ready, stopped when nobody uses them.

How long one may take to be ready, and how long it may be idle, is measured with the clock that runs
from boot on. Both begin anew when a daemon adopts it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentd.errors import AgentdError
from agentd.jobs.attempts import Attempt, Observation
from agentd.jobs.launching import TOKEN_FILE
from agentd.jobs.live import LiveJobs
from agentd.jobs.shim import uptime
from agentd.sdk import ServiceView
from agentd.signals import Changes
from agentd.store.jobs import JobRow, JobTable
from agentd.store.journal import Journal

__all__ = ["Services"]

log = logging.getLogger(__name__)
HEALTH_EVERY_S = 0.5
LOOK_EVERY_S = 10.0


class Services:
    """The services among the jobs."""

    def __init__(self, table: JobTable, journal: Journal, changes: Changes, live: LiveJobs) -> None:
        self._table, self._journal, self._changes, self._live = table, journal, changes, live

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
        self._live[job_id].last_used = uptime()

    def add_serves(self, job_id: str, names: list[str]) -> None:
        """A service answers for more models now."""
        row = self._row(job_id)
        self._table.update(job_id, serves=sorted({*(row.serves or []), *names}))
        self._journal.append("service.serves", job_id, "daemon", names=names)
        self._changes.announce()

    async def tend(self, job_id: str, attempt: Attempt, ended: asyncio.Task[Observation]) -> None:
        """Ask after a service's health until it is ready; then stop it when nobody has used it for long."""
        launch = self._row(job_id).launch
        assert launch is not None
        service = launch["service"]
        # What was ready for the daemon before us is taken to be so until it is found otherwise.
        self._live[job_id].ready = attempt.was_ready()
        if not await self._ready(job_id, service, ended):
            if not ended.done():
                detail = f"it was not ready within {service['ready_within_s']:g} s"
                await attempt.kill_tree(reason="timed_out", cause="not_ready", detail=detail)
            return
        self._live[job_id].last_used = uptime()
        attempt.note_ready()
        with contextlib.suppress(AgentdError):
            self._journal.append("service.ready", job_id, "daemon", attempt=attempt.id)
        self._changes.announce()
        while not ended.done():
            await asyncio.sleep(min(LOOK_EVERY_S, service["idle_stop_s"]))
            idle = self._idle(job_id)
            if idle >= service["idle_stop_s"]:
                detail = f"nobody used it for {idle / 60:.0f} minutes"
                await attempt.kill_tree(cause="idle", detail=detail)
                return

    async def _ready(self, job_id: str, service: Mapping[str, Any], ended: asyncio.Task[Observation]) -> bool:
        """Whether it answered in time."""
        import httpx

        live, give_up = self._live[job_id], uptime() + service["ready_within_s"]
        view = self.view(self._row(job_id))
        async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
            while not ended.done():
                with contextlib.suppress(httpx.HTTPError):
                    response = await client.get(view.url + service["health"], headers=_bearer(view))
                    live.ready = response.status_code == 200
                if live.ready or uptime() > give_up:
                    break
                await asyncio.sleep(HEALTH_EVERY_S)
        return live.ready

    def _idle(self, job_id: str) -> float:
        """Seconds since it was last used. A running job that was given it uses it all the time."""
        live = self._live[job_id]
        try:
            mine = self._row(job_id)
            names = {job_id, *(mine.serves or ()), (mine.launch or {}).get("recipe")}
            running = (row.launch or {} for row in self._table.list(state="running", limit=1000))
            if any(names & set(launch.get("needs", ())) for launch in running):
                live.last_used = uptime()
        except (
            AgentdError
        ) as error:  # a disk that fails for a moment is no reason to stop it, or to forget it
            log.warning("%s: %s", job_id, error)
            return 0.0
        return uptime() - live.last_used

    def _row(self, job_id: str) -> JobRow:
        row = self._table.find(job_id)
        assert row is not None
        return row

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
            token=_token(attempt.folder),
            ready=row.id in self._live and self._live[row.id].ready,
            serves=tuple(row.serves or ()),
        )


def _token(folder: Path) -> str:
    """The secret it was started with; empty when its folder is gone."""
    try:
        return (folder / TOKEN_FILE).read_text(encoding="ascii")
    except OSError:
        return ""


def _bearer(service: ServiceView) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.token}"}
