"""What the database and the machine do not agree on: at the start, and every so often.

At the start nothing runs unwatched and nothing that ran once is started again, though the database
may be older than the folders beside it:

    a folder that the database does not know, never launched    removed
    the same, launched                                          what runs of it is ended; its job is lost
    `restored.json` in the state directory                      every job that has not ended is ended too,
                                                                with it what was approved and not used,
                                                                nothing is launched; then the file is removed

Both have the cause ``restored``. Afterwards, processes of attempts that have ended are ended.
"""

from __future__ import annotations

import asyncio
import logging
import shutil
from pathlib import Path

from agentd.jobs import reaper, shim
from agentd.jobs.attempts import Attempt, Observation
from agentd.jobs.transitions import Transitions
from agentd.store import Store
from agentd.store.jobs import JobRow, JobTable
from agentd.store.journal import Journal

__all__ = ["RESTORED", "Reconciliation"]

log = logging.getLogger(__name__)
RESTORED = "restored.json"
SURE_AFTER_S = 1.0
FORGOTTEN = "it was launched after the state that the database was set back to"
SET_BACK = "the state directory was set back to an older state while it had not ended"


class Reconciliation:
    """Brings both to agree. `attempts` is the folder of all attempts."""

    def __init__(
        self,
        store: Store,
        table: JobTable,
        steps: Transitions,
        journal: Journal,
        attempts: Path,
    ) -> None:
        self._store, self._table, self._steps = store, table, steps
        self._journal, self._attempts = journal, attempts

    # --- at the start -----------------------------------------------------------------------

    async def at_start(self) -> bool:
        """Nothing may be launched before this is done. Whether the state directory was set back."""
        known = self._table.all_attempts()
        unknown = [folder for folder in self._attempts.glob("att-*") if folder.name not in known]
        await asyncio.gather(*(self._forget(Attempt(folder)) for folder in unknown))
        mark = self._attempts.parent / RESTORED
        if not mark.exists():
            await self._end_doubles()
            return False
        told = shim.read_json(str(mark)) or {}
        live = self._table.list(state="live", limit=100_000)
        await asyncio.gather(*(self._set_back(row, SET_BACK) for row in live))
        self._journal.append(
            "state.set_back", str(self._attempts.parent), "daemon", jobs=len(live), restored=told
        )
        mark.unlink()
        return True

    async def _forget(self, attempt: Attempt) -> None:
        """An attempt without a row: written and never recorded, or recorded in a newer database."""
        seen = await _ended(attempt, FORGOTTEN)
        if not attempt.launched():
            log.info("removing %s, which was never launched", attempt.folder)
            await asyncio.to_thread(shutil.rmtree, attempt.folder, ignore_errors=True)
            return
        about = attempt.about()
        row = self._table.find(str(about.get("job", "")))
        if row is not None and not row.ended:
            await self._set_back(row, FORGOTTEN)
        self._steps.record_forgotten(attempt, about, seen.exit, FORGOTTEN)
        attempt.tidy()

    async def _set_back(self, row: JobRow, reason: str) -> None:
        """End a job, whatever it was at; what was launched of it counts as lost."""
        newest = self._table.attempt_of(row.id)
        if newest is None or newest.ended_at is not None or not self.ours(newest.folder):
            lost = reason == FORGOTTEN or row.state == "running"
            self._steps.end(row.id, "lose" if lost else "cancel", "restored", reason)
            return
        attempt = Attempt(newest.folder)
        seen = await _ended(attempt, reason)
        self._steps.end(row.id, "lose", "restored", reason, attempt=attempt, exit=seen.exit)

    async def _end_doubles(self) -> None:
        """Attempts whose folder was set back to before their launch, while their processes went on."""
        for row in self._table.list(state="running", limit=100_000):
            newest = self._table.attempt_of(row.id)
            if newest and not Attempt(newest.folder).launched() and shim.members(newest.id):
                await self._set_back(row, FORGOTTEN)

    def ours(self, folder: Path) -> bool:
        """Whether it is an attempt of this state directory, and not of one that this is a copy of."""
        return folder.parent == self._attempts

    # --- every so often -----------------------------------------------------------------------

    async def reap(self) -> list[int]:
        """End the processes of attempts that have ended, or that nobody knows; returns their pids."""
        first = await self._strays()
        if not first:
            return []
        await asyncio.sleep(SURE_AFTER_S)  # whose end was told a moment ago may still be leaving
        second = await self._strays()
        ended: list[int] = []
        for attempt_id, processes in second.items():
            stayed = {
                pid: start for pid, start in processes.items() if first.get(attempt_id, {}).get(pid) == start
            }
            if pids := reaper.end(stayed):
                log.warning("ended processes %s of %s, which was over", pids, attempt_id)
                row = self._table.attempt(attempt_id)
                job = row.job if row else None
                self._journal.append("attempt.reaped", attempt_id, "daemon", pids=pids, job=job)
                ended += pids
        return ended

    async def _strays(self) -> dict[str, dict[int, int]]:
        found = await asyncio.to_thread(reaper.of_attempts, self._attempts)
        alive = self._table.open_attempts()
        return {attempt_id: pids for attempt_id, pids in found.items() if attempt_id not in alive}


async def _ended(attempt: Attempt, reason: str) -> Observation:
    """Nothing of it is left, and nothing of it will be started."""
    seen = await attempt.kill_tree(cause="restored", detail=reason)
    shim.end_all(attempt.id, "")  # what carries its id though its folder says that it was never launched
    return seen
