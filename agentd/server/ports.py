"""What the server needs from the kernel, and nothing else.

The server holds no state and takes no decisions about calls: it authenticates, translates and
streams. Whatever satisfies `Kernel` can be served, the real one or a test's.
Reads are plain methods; what may wait or change something is a coroutine.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel

from agentd import sdk
from agentd.agent import goals
from agentd.config import Capture
from agentd.policy.approvals import Question
from agentd.policy.callers import Caller
from agentd.policy.credentials import Wanted
from agentd.router.inquiry import Asked, Inquiry
from agentd.signals import Changes
from agentd.store.requests import RequestRow
from agentd.store.tokens import Role

__all__ = [
    "AllJobs",
    "Approvals",
    "Asked",
    "Caller",
    "Calls",
    "Endpoints",
    "Entries",
    "Figures",
    "Gateway",
    "Goals",
    "Inquiry",
    "Jobs",
    "Journal",
    "Kernel",
    "Ledger",
    "Notifiers",
    "Questions",
    "Quotes",
    "Requests",
    "Role",
    "Routing",
    "Runs",
    "Seen",
    "Tokens",
    "Verdict",
    "Wanted",
    "role_for",
]

Verdict = Literal["approve", "deny"]


def role_for(tool: sdk.Tool) -> Role:
    """Looking asks for `view`, everything else for `operate`."""
    return "view" if tool.read_only else "operate"


class Calls(Protocol):
    @property
    def tools(self) -> Mapping[str, sdk.Tool]: ...
    async def call(self, name: str, arguments: dict[str, Any], caller: Caller, *, key: str = "") -> BaseModel:
        """Answers within about two seconds; launching tools answer with a `JobView`. Raises `AgentdError`."""
        ...


class Jobs(sdk.Jobs, Protocol):
    def follow(self, job_id: str) -> AsyncIterator[sdk.JobView]:
        """The job now and after each change, until it has ended. Raises `NotFound`."""
        ...


class AllJobs(Jobs, Protocol):
    def owner(self, job_id: str) -> str:
        """The principal who asked for it. Raises `NotFound`."""
        ...


class Runs(Protocol):
    def view(self, run_id: str) -> dict[str, Any]: ...
    def list(self, *, limit: int = 50) -> Sequence[dict[str, Any]]: ...
    def follow(self, run_id: str) -> AsyncIterator[dict[str, Any]]: ...
    async def stop(self, run_id: str) -> dict[str, Any]: ...
    async def resume(self, run_id: str, limits: Mapping[str, Any] | None = None) -> dict[str, Any]: ...
    def step(self, run_id: str, step: str) -> dict[str, Any]:
        """One step with its whole result. Raises `NotFound`."""
        ...

    def tell(self, run_id: str, text: str, by: Caller) -> dict[str, Any]:
        """Say something to a run of a goal. Raises `Conflict` for a plan's."""
        ...


class Drafts(Protocol):
    async def draft(self, goal: str, wanted: goals.Wanted, caller: Caller) -> BaseModel:
        """A checked plan for a goal, drafted by a model. Raises `InputError` where none holds."""
        ...

    async def foresee(self, plan: str, params: Mapping[str, Any], caller: Caller) -> BaseModel:
        """What a plan's text would take. Raises `DataError` for what is wrong with it."""
        ...


class Goals(Protocol):
    def pursue(self, goal: str, wanted: goals.Wanted, caller: Caller) -> dict[str, Any]:
        """Start a run of a goal. Raises `InputError` before anything starts."""
        ...


class Questions(Protocol):
    def list(self, *, state: str | None = "pending") -> Sequence[BaseModel]: ...
    def get(self, approval_id: str) -> BaseModel: ...


class Approvals(Protocol):
    async def decide(self, approval_id: str, verdict: Verdict, by: Caller, reason: str) -> BaseModel: ...
    def for_client(self, job_id: str, by: Caller) -> Question | None:
        """The open question of a job that the client of `by` may answer, if its rule says so."""
        ...

    def page(self, approval_id: str) -> str:
        """The address where a person answers it in a browser; empty where none is known."""
        ...

    def answer_in_client(self, approval_id: str, verdict: Verdict, by: Caller) -> BaseModel: ...
    def refused(self, approval_id: str, by: Caller, verdict: Any) -> None:
        """Write down that somebody tried to answer who may not."""
        ...

    def refuse_as_call(self, name: str, arguments: Mapping[str, Any], by: Caller) -> None:
        """Raises `Unauthorized`, and writes it down, when a call of no tool was meant as an answer."""
        ...


class Ledger(Protocol):
    def summary(self, limit: int = 50, **which: str | None) -> BaseModel: ...


class Quotes(Protocol):
    def kinds(self) -> Sequence[BaseModel]: ...


class Entries(Protocol):
    def tail(
        self, n: int, *, subject: str | None = None, kind: str | None = None, since: float | None = None
    ) -> Sequence[BaseModel]: ...


class Journal(Protocol):
    def verify(self, head: tuple[int, str] | None = None) -> BaseModel: ...


class Requests(Protocol):
    def list(self, limit: int = 50) -> Sequence[RequestRow]: ...
    def get(self, request_id: str) -> RequestRow:
        """Raises `NotFound`."""
        ...


class Tokens(Protocol):
    def check(self, bearer: str) -> Caller | None:
        """Whose token this is; None for one that is unknown, revoked or expired."""
        ...

    def holder(self, token_id: str) -> Caller | None:
        """The same by a token's id."""
        ...

    def opened_session(self, by: Caller) -> None:
        """Write down that a browser was signed in."""
        ...

    def list(self) -> Sequence[BaseModel]: ...
    def create(self, wanted: Wanted, by: Caller) -> BaseModel: ...
    def revoke(self, token_id: str, by: Caller) -> BaseModel: ...
    def refused(self, by: Caller, what: str) -> None:
        """Write down that somebody tried to make or revoke a token who may not."""
        ...


class Notifiers(Protocol):
    def list(self) -> Sequence[BaseModel]: ...
    async def test(self, name: str = "") -> Sequence[BaseModel]:
        """Send a test through one, or through all of them. Raises `NotFound`."""
        ...


class Seen(Protocol):
    """What one caller sees: what others have is as if it were not there (`agentd.sight`)."""

    @property
    def jobs(self) -> Jobs: ...
    @property
    def runs(self) -> Runs: ...
    @property
    def approvals(self) -> Questions: ...
    @property
    def requests(self) -> Requests: ...
    @property
    def journal(self) -> Entries: ...
    @property
    def ledger(self) -> Ledger: ...


class Gateway(Protocol):
    async def complete(self, inquiry: Inquiry) -> dict[str, Any]:
        """Answer one request. Raises `AgentdError`."""
        ...

    def stream(self, inquiry: Inquiry, on_start: Callable[[Asked], None] = ...) -> AsyncGenerator[bytes]:
        """The same as server-sent events, as they go over the wire. May raise before the first chunk."""
        ...

    def feedback(self, said: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        """Store what a client says about its own request. Raises `NotFound` for another's, `InputError`."""
        ...


class Routing(Protocol):
    async def explain(
        self, body: Mapping[str, Any], *, api: sdk.Api = "chat/completions", key: str = ""
    ) -> dict[str, Any]:
        """Whom a request would be sent to, and why; nothing is sent."""
        ...

    def health(self) -> dict[str, dict[str, Any]]:
        """How each model that was asked is doing."""
        ...


class Endpoints(Protocol):
    def add(self, said: Mapping[str, Any], by: Caller) -> BaseModel:
        """Add an endpoint to the catalog. Raises `InputError`, `NotFound`, `Conflict`."""
        ...

    def remove(self, name: str, by: Caller) -> BaseModel:
        """Take one out. Raises `NotFound`, `Conflict`."""
        ...


class Figures(Protocol):
    def text(self) -> bytes:
        """Figures in Prometheus' text format."""
        ...


class Kernel(Protocol):
    """Whatever belongs to somebody is asked for through `seen_by`."""

    @property
    def version(self) -> str: ...
    @property
    def state_dir(self) -> Path: ...
    @property
    def capture(self) -> Capture:
        """Whose texts are kept."""
        ...

    @property
    def calls(self) -> Calls: ...
    def seen_by(self, caller: Caller) -> Seen: ...
    @property
    def jobs(self) -> AllJobs:
        """Everybody's, for who has looked whose a job is."""
        ...

    @property
    def runs(self) -> Goals: ...
    @property
    def drafts(self) -> Drafts: ...
    def attempt_folder(self, job_id: str) -> Path | None:
        """The folder of a job's newest attempt; None before the first. For administrators."""
        ...

    @property
    def approvals(self) -> Approvals: ...
    @property
    def catalog(self) -> sdk.Catalog: ...
    @property
    def reports(self) -> sdk.Reports: ...
    @property
    def artifacts(self) -> sdk.Artifacts: ...
    @property
    def quotes(self) -> Quotes: ...
    @property
    def journal(self) -> Journal: ...
    @property
    def tokens(self) -> Tokens: ...
    @property
    def notifiers(self) -> Notifiers: ...
    @property
    def plugins(self) -> sdk.Plugins: ...
    @property
    def changes(self) -> Changes:
        """Announces whatever happens to a job or a run."""
        ...

    @property
    def endpoints(self) -> Endpoints: ...
    @property
    def gateway(self) -> Gateway: ...
    @property
    def routing(self) -> Routing: ...
    @property
    def metrics(self) -> Figures: ...
