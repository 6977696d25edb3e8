"""Rows of jobs, and of the attempts to run them. Which state may follow which is not known here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentd.ids import new_id
from agentd.sdk import Cause, JobState, Quote
from agentd.store.database import Row, Store, any_of, loads, reading
from agentd.store.ledger import Payer
from agentd.store.tokens import Role

__all__ = ["AttemptRow", "JobRow", "JobTable", "PastJob", "environments_needed"]

_OF = "(serves IS NOT NULL OR principal IN (SELECT value FROM json_each(?)))"
ENDED = ("succeeded", "failed", "cancelled", "lost", "timed_out")


class JobRow(BaseModel):
    """One job as stored. `launch` is the whole launch as JSON, None for a call made in the daemon."""

    id: str
    tool: str
    title: str
    state: JobState
    cause: Cause | None
    reason: str
    principal: str
    surface: str
    role: Role
    cwd: Path
    project: str
    taint: tuple[str, ...] = ()
    arguments: dict[str, Any]
    launch: dict[str, Any] | None
    quote: Quote
    digest: str
    decided_by: str | None
    result: dict[str, Any] | None
    micro_usd: int | None
    timing_key: str
    serves: list[str] | None
    created_at: float
    started_at: float | None
    ended_at: float | None
    seconds: float | None

    @property
    def ended(self) -> bool:
        return self.state in ENDED

    @property
    def payer(self) -> Payer:
        return Payer(self.principal, self.project)

    @property
    def is_service(self) -> bool:
        return self.serves is not None


class AttemptRow(BaseModel):
    """One try at running a job. `folder` holds its spec, output and logs; `number` counts from 1."""

    id: str
    job: str
    number: int
    folder: Path
    port: int | None
    created_at: float
    ended_at: float | None
    outcome: str | None
    cause: Cause | None
    reason: str
    seconds: float | None


class PastJob(BaseModel):
    """A job that came to its end: what its tool estimated, what was quoted, and what it took."""

    tool: str
    key: str
    estimate: Quote
    quote: Quote
    seconds: float
    max_rss_bytes: int | None


class JobTable:
    def __init__(self, store: Store) -> None:
        self._store = store

    def add(self, **columns: Any) -> JobRow:
        row: Row = {"id": new_id("job"), "created_at": self._store.now(), **columns}
        self._store.insert("jobs", row)
        found = self.find(row["id"])
        assert found is not None
        return found

    def find(self, job_id: str) -> JobRow | None:
        row = self._store.row("SELECT * FROM jobs WHERE id = ?", [job_id])
        return _job(row) if row else None

    def update(self, job_id: str, **changes: Any) -> None:
        self._store.update("jobs", job_id, **changes)

    def move(self, job_id: str, state: str, new: str, **changes: Any) -> bool:
        """Set the state to `new` only if it still is `state`; tells whether it was."""
        return self._store.update("jobs", job_id, was=state, state=new, **changes) == 1

    def list(
        self, *, state: str | None = None, limit: int = 50, of: Sequence[str] | None = None
    ) -> list[JobRow]:
        """Newest first, by the order they came in, whatever the machine's clock said then.

        `state` may be one state, "live" for all that have not ended; `of` leaves these principals'
        and services.
        """
        where: str = "WHERE true"
        parameters: list[Any] = []
        if state == "live":
            marks = ", ".join("?" for _ in ENDED)
            where, parameters = f"WHERE state NOT IN ({marks})", [*ENDED]
        elif state:
            where, parameters = "WHERE state = ?", [state]
        if of is not None:
            where += f" AND {_OF}"
            parameters.append(any_of(of))
        rows = self._store.rows(
            f"SELECT * FROM jobs {where} ORDER BY rowid DESC LIMIT ?", [*parameters, limit]
        )
        return [_job(row) for row in rows]

    def ids(self, *, limit: int = 500, of: Sequence[str] | None = None) -> list[str]:
        where, parameters = ("", []) if of is None else (f"WHERE {_OF}", [any_of(of)])
        rows = self._store.rows(
            f"SELECT id FROM jobs {where} ORDER BY rowid DESC LIMIT ?", [*parameters, limit]
        )
        return [row["id"] for row in rows]

    def principals(self) -> list[str]:
        return [row["principal"] for row in self._store.rows("SELECT DISTINCT principal FROM jobs")]

    def past(self, tool: str | None = None, limit: int = 200) -> list[PastJob]:
        """The last jobs of `tool`, or of all tools, that took what they take; oldest first.

        A service is one that lived: its time is how long. Calls made in the daemon are none.
        """
        rows = self._store.rows(
            "SELECT tool, timing_key AS key, estimate, quote, seconds, max_rss_bytes FROM jobs"
            " WHERE (?1 IS NULL OR tool = ?1) AND estimate IS NOT NULL AND seconds IS NOT NULL"
            " AND (state = 'succeeded' OR serves IS NOT NULL AND state IN ('cancelled', 'timed_out'))"
            " ORDER BY rowid DESC LIMIT ?2",
            [tool, limit],
        )
        parsed = ({**row, "estimate": loads(row["estimate"]), "quote": loads(row["quote"])} for row in rows)
        return [PastJob(**row) for row in parsed][::-1]

    # --- attempts ---------------------------------------------------------------------------

    def add_attempt(self, attempt_id: str, job_id: str, folder: Path, port: int | None, number: int) -> None:
        self._store.insert(
            "attempts",
            {
                "id": attempt_id,
                "job": job_id,
                "number": number,
                "folder": str(folder),
                "port": port,
                "created_at": self._store.now(),
            },
        )

    def attempt(self, attempt_id: str) -> AttemptRow | None:
        row = self._store.row("SELECT * FROM attempts WHERE id = ?", [attempt_id])
        return AttemptRow(**row) if row else None

    def attempt_of(self, job_id: str) -> AttemptRow | None:
        """The newest attempt."""
        row = self._store.row("SELECT * FROM attempts WHERE job = ? ORDER BY number DESC LIMIT 1", [job_id])
        return AttemptRow(**row) if row else None

    def attempts(self, job_id: str) -> int:
        """How many attempts there were."""
        return self._store.value("SELECT count(*) FROM attempts WHERE job = ?", [job_id])

    def open_attempts(self) -> set[str]:
        """Ids of the attempts that have not ended, as far as is stored."""
        return {row["id"] for row in self._store.rows("SELECT id FROM attempts WHERE ended_at IS NULL")}

    def all_attempts(self) -> set[str]:
        return {row["id"] for row in self._store.rows("SELECT id FROM attempts")}

    def end_attempt(
        self, attempt_id: str, outcome: str, cause: Cause | None, reason: str, seconds: float | None
    ) -> None:
        self._store.update(
            "attempts",
            attempt_id,
            ended_at=self._store.now(),
            outcome=outcome,
            cause=cause,
            reason=reason,
            seconds=seconds,
        )


def environments_needed(database: Path) -> set[str]:
    """Digests of the environments of jobs that have not ended; read beside a daemon or without one."""
    if not database.exists():
        return set()
    marks = ", ".join("?" for _ in ENDED)
    with reading(database) as connection:
        rows = connection.execute(
            "SELECT json_extract(launch, '$.environment') FROM jobs"
            f" WHERE launch IS NOT NULL AND state NOT IN ({marks})",
            ENDED,
        )
        return {digest for (digest,) in rows if digest}


def _job(row: Row) -> JobRow:
    parsed = {
        name: loads(row[name]) for name in ("arguments", "launch", "quote", "result", "serves", "taint")
    }
    return JobRow(**{**row, **parsed})
