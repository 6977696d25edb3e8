"""What one caller sees of what others have: what is not theirs is as if it were not there.

Jobs, runs, questions, gateway requests, and entries of journal and ledger are seen by the person who
has them, through whichever identity (`policy.people`), and by role `approve` and up, which has to
judge them. Services are everybody's, as the models that they serve are. What jobs left (catalog,
reports, artifacts, collections) is common: it is named by its content, and compared with each other.

An id of somebody else's raises the same `NotFound` as one that does not exist, and no hint names it.
Not covered: names that common things carry (a report says which job made it), and time.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agentd.errors import NotFound
from agentd.jobs.runner import Jobs
from agentd.policy.approvals import Approvals, Question
from agentd.policy.callers import Caller
from agentd.policy.people import People
from agentd.sdk import JobView
from agentd.store.approvals import Approval
from agentd.store.journal import Entry, Journal
from agentd.store.ledger import Ledger, Summary
from agentd.store.requests import RequestRow, RequestTable

__all__ = ["Owned", "Running", "Seen", "SeenJobs", "SeenRuns", "Sight"]

HINTED = 200
"""Of so many of one's own newest, the nearest are named for an id that is not there."""


class Owned(Protocol):
    """A run as far as its owner goes."""

    @property
    def id(self) -> str: ...
    @property
    def principal(self) -> str: ...


class Running(Protocol):
    """Runs of plans and goals, which are carried out floors above."""

    def find(self, run_id: str) -> Owned | None: ...
    def principals(self) -> list[str]: ...
    def view(self, run_id: str) -> dict[str, Any]: ...
    def list(self, *, limit: int = 50, of: Sequence[str] | None = None) -> list[dict[str, Any]]: ...
    def follow(self, run_id: str) -> AsyncIterator[dict[str, Any]]: ...
    async def wait(self, run_id: str, max_s: float) -> dict[str, Any]: ...
    async def stop(self, run_id: str) -> dict[str, Any]: ...
    async def resume(self, run_id: str, limits: Mapping[str, Any] | None = None) -> dict[str, Any]: ...
    def step(self, run_id: str, step: str) -> dict[str, Any]: ...
    def tell(self, run_id: str, text: str, by: Caller) -> dict[str, Any]: ...


class Sight:
    """`of(caller)` gives what that caller sees. `runs` is set once there are runs."""

    def __init__(
        self,
        people: People,
        jobs: Jobs,
        approvals: Approvals,
        requests: RequestTable,
        journal: Journal,
        ledger: Ledger,
    ) -> None:
        self._people, self._jobs, self._approvals = people, jobs, approvals
        self._requests, self._journal, self._ledger = requests, journal, ledger
        self.runs: Running | None = None

    def of(self, caller: Caller) -> Seen:
        eyes = _Eyes(self._people, caller)
        assert self.runs is not None, "set before the first call"
        return Seen(
            self.jobs_of(caller),
            SeenRuns(self.runs, eyes),
            SeenApprovals(self._approvals, eyes),
            SeenRequests(self._requests, self._jobs, self.runs, eyes),
            SeenJournal(self._journal, eyes),
            SeenLedger(self._ledger, eyes),
        )

    def jobs_of(self, caller: Caller) -> SeenJobs:
        return SeenJobs(self._jobs, _Eyes(self._people, caller))

    def runs_of(self, caller: Caller) -> SeenRuns:
        assert self.runs is not None, "set before the first call"
        return SeenRuns(self.runs, _Eyes(self._people, caller))


class _Eyes:
    """Whose things a caller sees."""

    def __init__(self, people: People, caller: Caller) -> None:
        self._people, self.all = people, caller.may("approve")
        self._person = people.person(caller.principal)

    def on(self, principal: str) -> bool:
        return self.all or self._people.person(principal) == self._person

    def among(self, principals: Callable[[], Sequence[str]]) -> list[str] | None:
        """Those whose things are seen; None for everybody's."""
        return None if self.all else [each for each in principals() if self.on(each)]


@dataclass(frozen=True, slots=True)
class Seen:
    """What one caller sees."""

    jobs: SeenJobs
    runs: SeenRuns
    approvals: SeenApprovals
    requests: SeenRequests
    journal: SeenJournal
    ledger: SeenLedger


class SeenJobs:
    """`sdk.Jobs`, and following them."""

    def __init__(self, jobs: Jobs, eyes: _Eyes) -> None:
        self._jobs, self._eyes = jobs, eyes

    def get(self, job_id: str) -> JobView:
        return self._jobs.get(self._own(job_id))

    def list(self, *, state: str | None = None, limit: int = 50) -> list[JobView]:
        return self._jobs.list(state=state, limit=limit, of=self._mine())

    def logs(self, job_id: str, *, tail: int = 50) -> list[str]:
        return self._jobs.logs(self._own(job_id), tail=tail)

    async def wait(self, job_id: str, max_s: float) -> JobView:
        return await self._jobs.wait(self._own(job_id), max_s)

    def follow(self, job_id: str) -> AsyncIterator[JobView]:
        return self._jobs.follow(self._own(job_id))

    async def cancel(self, job_id: str, *, by: str = "daemon") -> JobView:
        return await self._jobs.cancel(self._own(job_id), by=by)

    def _mine(self) -> list[str] | None:
        return self._eyes.among(self._jobs.principals)

    def _own(self, job_id: str) -> str:
        row = self._jobs.find(job_id)
        if row is None or not (row.is_service or self._eyes.on(row.principal)):
            raise NotFound("job", job_id, self._jobs.ids(limit=HINTED, of=self._mine()))
        return row.id


class SeenRuns:
    def __init__(self, runs: Running, eyes: _Eyes) -> None:
        self._runs, self._eyes = runs, eyes

    def view(self, run_id: str) -> dict[str, Any]:
        return self._runs.view(self._own(run_id))

    def list(self, *, limit: int = 50) -> list[dict[str, Any]]:
        return self._runs.list(limit=limit, of=self._eyes.among(self._runs.principals))

    def follow(self, run_id: str) -> AsyncIterator[dict[str, Any]]:
        return self._runs.follow(self._own(run_id))

    async def wait(self, run_id: str, max_s: float) -> dict[str, Any]:
        return await self._runs.wait(self._own(run_id), max_s)

    async def stop(self, run_id: str) -> dict[str, Any]:
        return await self._runs.stop(self._own(run_id))

    async def resume(self, run_id: str, limits: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return await self._runs.resume(self._own(run_id), limits)

    def step(self, run_id: str, step: str) -> dict[str, Any]:
        return self._runs.step(self._own(run_id), step)

    def tell(self, run_id: str, text: str, by: Caller) -> dict[str, Any]:
        return self._runs.tell(self._own(run_id), text, by)

    def _own(self, run_id: str) -> str:
        run = self._runs.find(run_id)
        if run is None or not self._eyes.on(run.principal):
            raise NotFound("run", run_id, [each["id"] for each in self.list(limit=HINTED)])
        return run.id


class SeenApprovals:
    """Questions. Answering them is `Approvals.decide`, which looks at the role itself."""

    def __init__(self, approvals: Approvals, eyes: _Eyes) -> None:
        self._approvals, self._eyes = approvals, eyes

    def list(self, *, state: str | None = "pending") -> list[Approval]:
        return self._approvals.list(state=state, of=self._eyes.among(self._approvals.principals))

    def get(self, approval_id: str) -> Question:
        found = self._approvals.find(approval_id)
        if found is None or not self._eyes.on(found.requested_by):
            raise NotFound("approval", approval_id, [each.id for each in self.list()])
        question = self._approvals.get(found.id)
        like = self._approvals.find(question.like) if question.like else None
        if like is not None and not self._eyes.on(like.requested_by):
            return question.model_copy(update={"like": None, "differences": []})
        return question


class SeenRequests:
    """Requests of the gateway; those of a job or a run are whose that is."""

    def __init__(self, requests: RequestTable, jobs: Jobs, runs: Running, eyes: _Eyes) -> None:
        self._requests, self._jobs, self._runs, self._eyes = requests, jobs, runs, eyes

    def list(self, limit: int = 50) -> list[RequestRow]:
        return self._requests.list(limit, of=self._eyes.among(self._requests.principals))

    def get(self, request_id: str) -> RequestRow:
        """Raises `NotFound`."""
        row = self._requests.find(request_id)
        if row is None or not self._eyes.on(self._owner(row.principal)):
            raise NotFound("request", request_id, [each.id for each in self.list(HINTED)])
        return row

    def _owner(self, principal: str) -> str:
        kind, _, id_ = principal.partition(":")
        made_by: Owned | None = None
        if kind == "job":
            made_by = self._jobs.find(id_)
        elif kind == "run":
            made_by = self._runs.find(id_)
        return made_by.principal if made_by else principal


class SeenJournal:
    """Entries; those of others are left out, and whether the whole is unbroken is for everybody."""

    def __init__(self, journal: Journal, eyes: _Eyes) -> None:
        self._journal, self._eyes = journal, eyes

    def tail(
        self, n: int, *, subject: str | None = None, kind: str | None = None, since: float | None = None
    ) -> list[Entry]:
        of = self._eyes.among(self._journal.principals)
        return self._journal.tail(n, subject=subject, kind=kind, since=since, of=of)


class SeenLedger:
    """Sums over everything are for everybody; who spent what is not."""

    def __init__(self, ledger: Ledger, eyes: _Eyes) -> None:
        self._ledger, self._eyes = ledger, eyes

    def summary(self, limit: int = 50, **which: str | None) -> Summary:
        of = self._eyes.among(self._ledger.principals)
        summary = self._ledger.summary(limit, of=of, **which)
        if of is None:
            return summary
        budgets = [each for each in summary.budgets if each.scope != "principal" or each.name in of]
        return summary.model_copy(update={"budgets": budgets})
