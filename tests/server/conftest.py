"""A small kernel that satisfies `agentd.server.ports.Kernel`, and a real server around it."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
import uvicorn
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from pydantic import BaseModel, Field, ValidationError

from agentd import sdk
from agentd.agent import goals
from agentd.config import Capture
from agentd.errors import Conflict, InputError, NotFound, OverBudget, Unauthorized
from agentd.plugins import Plugins
from agentd.router.inquiry import Asked, Inquiry, checked
from agentd.sdk import Alias, Api, Context, JobView, Model, Report, Tool, tool
from agentd.server.app import bind, http_server
from agentd.server.auth import Gate
from agentd.server.mcp import mcp_server
from agentd.server.ports import Caller, Kernel, Verdict, Wanted
from agentd.signals import Changes
from agentd.store.requests import RequestRow


class Echo(BaseModel):
    text: str
    principal: str
    surface: str
    is_agent: bool
    cwd: str
    project: str = ""
    note: str | None = None


@tool(title="Echo", result=Echo, read_only=True, idempotent=True)
async def echo(
    ctx: Context, *, text: Annotated[str, Field(description="what to say")], note: str | None = None
) -> None:
    """Say it back, with who asked and from where."""


@tool(title="Aside", result=Echo, read_only=True, listed=False)
async def aside(ctx: Context, *, text: str) -> None:
    """Like echo, for those who know of it."""


@tool(title="Fine-tune", launches=True, open_world=True)
async def finetune(
    ctx: Context,
    *,
    data: Annotated[str, Field(description="path of a JSONL data set")],
    epochs: Annotated[int, Field(description="passes over the data", ge=1)] = 2,
) -> None:
    """Train a LoRA on a data set. Launches a job."""


@tool(title="Wait for a job", result=JobView, read_only=True)
async def job_wait(ctx: Context, *, job: str, max_s: float = 45) -> None:
    """Wait until a job has ended, at most `max_s` seconds."""


@tool(title="Overspend", result=Echo, destructive=True)
async def overspend(ctx: Context) -> None:
    """Always refused by the ledger."""


@tool(title="Crash", result=Echo, read_only=True)
async def crash(ctx: Context) -> None:
    """Always fails in a way nobody foresaw."""


@tool(title="Hang", result=Echo, read_only=True)
async def hang(ctx: Context) -> None:
    """Never answers."""


class Page(BaseModel):
    format: str
    text: str


@tool(title="Write a report as a page", result=Page, read_only=True, listed=False)
async def report_page(ctx: Context, *, report: str, format: str = "html") -> None:
    """One report as a page."""


class Collections(BaseModel):
    collections: list[dict[str, Any]]


@tool(title="List collections", result=Collections, read_only=True, listed=False)
async def list_collections(ctx: Context) -> None:
    """Names and sizes of collections."""


class FakeJobs:
    """Jobs with a story each: `follow` tells it, and `wait` returns once it has been told."""

    def __init__(self) -> None:
        done = JobView(id="job-1", tool="finetune", title="A run", state="succeeded", result={"loss": 0.5})
        running = done.model_copy(update={"state": "running", "result": None})
        steps = [
            running.model_copy(update={"progress": {"done": n, "total": 3, "unit": "steps"}})
            for n in (1, 2, 3)
        ]
        self.stories: dict[str, list[JobView]] = {"job-1": [running, *steps, done]}
        self.told: dict[str, asyncio.Event] = {"job-1": asyncio.Event()}
        self.cancelled: list[str] = []

    def get(self, job_id: str) -> JobView:
        if job_id not in self.stories:
            raise NotFound("job", job_id, self.stories)
        return self.stories[job_id][-1]

    def owner(self, job_id: str) -> str:
        self.get(job_id)
        return "ada-operate"

    def list(self, *, state: str | None = None, limit: int = 50) -> list[JobView]:
        views = [story[-1] for story in self.stories.values()]
        return [view for view in views if state in (None, view.state)][:limit]

    async def follow(self, job_id: str) -> AsyncIterator[JobView]:
        self.get(job_id)
        for view in self.stories[job_id]:
            yield view
        self.told[job_id].set()

    async def wait(self, job_id: str, max_s: float) -> JobView:
        view = self.get(job_id)
        if max_s > 1:
            await self.told[job_id].wait()
        return view

    def logs(self, job_id: str, *, tail: int = 50) -> list[str]:
        self.get(job_id)
        return ["one", "two", "three"][-tail:]

    async def cancel(self, job_id: str, *, by: str = "daemon") -> JobView:
        self.cancelled.append(job_id)
        return self.get(job_id).model_copy(update={"state": "cancelled"})


class FakeCalls:
    def __init__(self, jobs: FakeJobs) -> None:
        self.tools: Mapping[str, Tool] = {
            each.name: each
            for each in (
                echo,
                aside,
                finetune,
                job_wait,
                overspend,
                crash,
                hang,
                report_page,
                list_collections,
            )
        }
        self.keys: dict[str, tuple[str, dict[str, Any]]] = {}
        self.hung, self.unhung = threading.Event(), threading.Event()
        self._jobs = jobs

    async def call(self, name: str, arguments: dict[str, Any], caller: Caller, *, key: str = "") -> BaseModel:
        try:
            given = self.tools[name].arguments.model_validate(arguments).model_dump()
        except ValidationError as error:
            first = error.errors()[0]
            raise InputError(f"{name}: {first['loc'][0]}: {first['msg']}", hint="See its schema.") from error
        if key and self.keys.setdefault(key, (name, given)) != (name, given):
            raise Conflict(f"Key {key!r} was used for something else")
        return await self._answer(name, given, caller)

    async def _answer(self, name: str, given: dict[str, Any], caller: Caller) -> BaseModel:
        match name:
            case "echo" | "aside":
                return Echo(
                    principal=caller.principal,
                    surface=caller.surface,
                    is_agent=caller.is_agent,
                    cwd=str(caller.cwd),
                    project=caller.project,
                    **given,
                )
            case "finetune":
                return self._jobs.stories["job-1"][0]
            case "job_wait":
                return await self._jobs.wait(given["job"], given["max_s"])
            case "overspend":
                raise OverBudget("Today's budget of $10.00 has no room for $12.00", hint="Raise it or wait.")
            case "report_page":
                return Page(format=given["format"], text=f"# {given['report']} as {given['format']}")
            case "list_collections":
                row = {"name": "handbook", "embedder": "minilm-l6", "documents": 2, "chunks": 9}
                return Collections(collections=[row])
            case "hang":
                return await self._hang()
            case _:
                raise RuntimeError("the secret is 1234")

    async def _hang(self) -> BaseModel:
        self.hung.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.unhung.set()
        raise AssertionError


class FakeApproval(BaseModel):
    id: str
    state: str
    decided_by: str | None = None
    reason: str = ""


class FakeApprovals:
    def __init__(self) -> None:
        self.all = {"apr-1": FakeApproval(id="apr-1", state="pending")}
        self.attempts: list[tuple[str, str, str]] = []

    def refused(self, approval_id: str, by: Caller, verdict: Any) -> None:
        self.attempts.append((approval_id, by.principal, by.surface))

    def for_client(self, job_id: str, by: Caller) -> None:
        return None

    def page(self, approval_id: str) -> str:
        return ""

    def answer_in_client(self, approval_id: str, verdict: Verdict, by: Caller) -> FakeApproval:
        raise Unauthorized("No rule lets it")

    def refuse_as_call(self, name: str, arguments: Mapping[str, Any], by: Caller) -> None:
        if name == "approve":
            self.refused(str(arguments.get("id")), by, "approve")
            raise Unauthorized("Approving is no tool")

    def list(self, *, state: str | None = "pending") -> Sequence[FakeApproval]:
        return [approval for approval in self.all.values() if state in (None, approval.state)]

    def get(self, approval_id: str) -> FakeApproval:
        if approval_id not in self.all:
            raise NotFound("approval", approval_id, self.all)
        return self.all[approval_id]

    async def decide(self, approval_id: str, verdict: Verdict, by: Caller, reason: str) -> FakeApproval:
        if by.is_agent or not by.may("approve"):
            raise Unauthorized(f"{by.principal!r} may not answer {approval_id}")
        decided = FakeApproval(id=approval_id, state=verdict, decided_by=by.principal, reason=reason)
        self.all[approval_id] = decided
        return decided


class FakeCatalog:
    def get(self, name: str) -> Model:
        raise NotFound("model", name)

    def list(self) -> list[Model]:
        return [Model(name="small", kind="local", path=Path("/models/small"))]

    def put(self, model: Model) -> None:
        raise NotImplementedError

    def alias(self, name: str) -> Alias | None:
        return None

    def aliases(self) -> list[Alias]:
        return [Alias(name="support", weights={"small": 1.0})]

    def set_alias(self, alias: Alias) -> None:
        raise NotImplementedError

    async def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> sdk.ChatResult:
        raise NotImplementedError


class FakeReports:
    def __init__(self) -> None:
        self.all = {
            "rep-1": Report(
                id="rep-1",
                suite="tickets",
                suite_digest="d",
                model="small",
                metric="exact",
                score=0.9,
                low=0.84,
                high=0.94,
                n=120,
                rows=Path("rows.jsonl"),
            )
        }

    def save(self, report: Report) -> Report:
        raise NotImplementedError

    def get(self, ref: str) -> Report:
        if ref not in self.all:
            raise NotFound("report", ref, self.all)
        return self.all[ref]

    def list(self) -> list[Report]:
        return list(self.all.values())


class FakeArtifacts:
    def add(
        self,
        kind: str,
        path: Path,
        *,
        name: str,
        meta: Mapping[str, Any] | None = None,
        parents: Sequence[str] = (),
    ) -> sdk.Artifact:
        raise NotImplementedError

    def get(self, ref: str, kind: str | None = None) -> sdk.Artifact:
        raise NotFound("artifact", ref)

    def list(self, kind: str | None = None) -> list[sdk.Artifact]:
        return []


class FakeRuns:
    def view(self, run_id: str) -> dict[str, Any]:
        if run_id != "run-1":
            raise NotFound("run", run_id, ["run-1"])
        return {"id": run_id, "plan": "tickets", "state": "succeeded", "steps": []}

    def list(self, *, limit: int = 50) -> Sequence[dict[str, Any]]:
        return [self.view("run-1")][:limit]

    async def follow(self, run_id: str) -> AsyncIterator[dict[str, Any]]:
        yield self.view(run_id) | {"state": "running"}
        yield self.view(run_id)

    async def stop(self, run_id: str) -> dict[str, Any]:
        return self.view(run_id) | {"state": "cancelled"}

    async def resume(self, run_id: str, limits: Mapping[str, Any] | None = None) -> dict[str, Any]:
        return self.view(run_id) | {"state": "running"}

    def pursue(self, goal: str, wanted: goals.Wanted, caller: Caller) -> dict[str, Any]:
        return self.view("run-1") | {"state": "running", "goal": goal}

    def step(self, run_id: str, step: str) -> dict[str, Any]:
        raise NotFound("step", step)

    def tell(self, run_id: str, text: str, by: Caller) -> dict[str, Any]:
        return self.view(run_id)


class Summary(BaseModel):
    day_spent: int = 1_500_000


class FakeLedger:
    def summary(self, limit: int = 50, **which: str | None) -> Summary:
        return Summary()


class FakeQuotes:
    def kinds(self) -> Sequence[BaseModel]:
        return []


class Entry(BaseModel):
    seq: int


class Check(BaseModel):
    ok: bool = True
    head: tuple[int, str] | None = None


class FakeJournal:
    def tail(
        self, n: int, *, subject: str | None = None, kind: str | None = None, since: float | None = None
    ) -> Sequence[Entry]:
        return [Entry(seq=seq) for seq in range(5) if seq >= (since or 0)][-n:]

    def verify(self, head: tuple[int, str] | None = None) -> Check:
        return Check(head=head)


class FakeRequests:
    def list(self, limit: int = 50) -> list[RequestRow]:
        row = RequestRow(
            id="req-1",
            asked="support",
            model="small",
            why="cheapest",
            principal="ada",
            status="ok",
            input_tokens=1,
            output_tokens=1,
            micro_usd=0,
            seconds=0.1,
            at=0.0,
        )
        return [row][:limit]

    def get(self, request_id: str) -> RequestRow:
        for row in self.list():
            if row.id == request_id:
                return row
        raise NotFound("request", request_id, [row.id for row in self.list()])


class FakeTokens:
    """A token's text is its role; "robot" is an agent that may approve, "bound" works for one project."""

    def __init__(self) -> None:
        self.attempts: list[tuple[str, str]] = []

    def check(self, bearer: str) -> Caller | None:
        if bearer == "robot":
            return Caller("robot", "approve", "token", Path("/home"), is_agent=True)
        if bearer == "bound":
            return Caller("bound", "view", "token", Path("/home"), is_agent=True, project="support")
        if bearer in ("infer", "view", "operate", "approve", "admin"):
            return Caller(f"ada-{bearer}", bearer, "token", Path("/home"), is_agent=False)
        return None

    def holder(self, token_id: str) -> Caller | None:
        return self.check(token_id)

    def opened_session(self, by: Caller) -> None:
        pass

    def list(self) -> Sequence[BaseModel]:
        return []

    def create(self, wanted: Wanted, by: Caller) -> BaseModel:
        raise NotImplementedError

    def revoke(self, token_id: str, by: Caller) -> BaseModel:
        raise NotImplementedError

    def refused(self, by: Caller, what: str) -> None:
        self.attempts.append((by.principal, what))


class FakeNotifiers:
    def list(self) -> Sequence[BaseModel]:
        return []

    async def test(self, name: str = "") -> Sequence[BaseModel]:
        raise NotFound("notifier", name)


@dataclass
class FakeKernel:
    version: str = "1.2.3"
    state_dir: Path = Path("/state")
    capture: Capture = field(default_factory=Capture)
    jobs: FakeJobs = field(default_factory=FakeJobs)
    runs: FakeRuns = field(default_factory=FakeRuns)
    approvals: FakeApprovals = field(default_factory=FakeApprovals)
    catalog: FakeCatalog = field(default_factory=FakeCatalog)
    reports: FakeReports = field(default_factory=FakeReports)
    artifacts: FakeArtifacts = field(default_factory=FakeArtifacts)
    ledger: FakeLedger = field(default_factory=FakeLedger)
    quotes: FakeQuotes = field(default_factory=FakeQuotes)
    journal: FakeJournal = field(default_factory=FakeJournal)
    requests: FakeRequests = field(default_factory=FakeRequests)
    tokens: FakeTokens = field(default_factory=FakeTokens)
    notifiers: FakeNotifiers = field(default_factory=FakeNotifiers)
    plugins: Plugins = field(default_factory=Plugins.open)
    changes: Changes = field(default_factory=Changes)
    endpoints: FakeEndpoints = field(default_factory=lambda: FakeEndpoints())
    gateway: FakeGateway = field(default_factory=lambda: FakeGateway())
    routing: FakeRouting = field(default_factory=lambda: FakeRouting())
    metrics: FakeFigures = field(default_factory=lambda: FakeFigures())
    strangers: frozenset[str] = frozenset()
    loop: asyncio.AbstractEventLoop | None = None  # that of the server, where it has one of its own

    def __post_init__(self) -> None:
        self.calls = FakeCalls(self.jobs)

    def seen_by(self, caller: Caller) -> FakeKernel:
        """Nothing in here is anybody's, and nothing is there for `strangers`."""
        if caller.principal not in self.strangers:
            return self
        nothing = FakeJobs()
        nothing.stories.clear()
        return FakeKernel(jobs=nothing)

    def attempt_folder(self, job_id: str) -> Path | None:
        return None


class FakeEndpoints:
    def add(self, said: Mapping[str, Any], by: Caller) -> Model:
        return Model.model_validate(said)

    def remove(self, name: str, by: Caller) -> Model:
        raise NotFound("model", name)


class FakeGateway:
    async def complete(self, inquiry: Inquiry) -> dict[str, Any]:
        name = inquiry.name
        if name == "dear":
            raise OverBudget("No room for it")
        message = {"role": "assistant", "content": f"{inquiry.caller.surface} {name}"}
        return {
            "object": "chat.completion",
            "choices": [{"index": 0, "message": message}],
            "sent": inquiry.body,
            "agentd": {"request_id": inquiry.id, "model": name, "why": "it was asked for"},
        }

    async def stream(
        self, inquiry: Inquiry, on_start: Callable[[Asked], None] = lambda asked: None
    ) -> AsyncGenerator[bytes]:
        name = inquiry.name
        if name == "dear":
            raise OverBudget("No room for it")
        yield b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
        if name == "brittle":
            raise OverBudget("It ran out")
        yield b"data: [DONE]\n\n"

    def feedback(self, said: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        raise NotFound("request", str(said.get("request_id")))


class FakeRouting:
    def health(self) -> dict[str, dict[str, Any]]:
        return {}

    async def explain(
        self, body: Mapping[str, Any], *, api: Api = "chat/completions", key: str = ""
    ) -> dict[str, Any]:
        return {"asked": checked(api, body), "order": [], "passed": {}}


class FakeFigures:
    def text(self) -> bytes:
        return b"# EOF"


@dataclass
class Daemon:
    """A server on a real port, in a thread with its own event loop."""

    port: int
    kernel: FakeKernel
    server: uvicorn.Server

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def stop(self) -> None:
        self.server.should_exit = True


@pytest.fixture
def kernel(tmp_path: Path) -> FakeKernel:
    return FakeKernel(state_dir=tmp_path)


@pytest.fixture
def gate() -> Gate:
    """What the daemon lets through; tests that try its limits lower them."""
    return Gate(body_bytes=64 * 1024, body_seconds=0.2)


@pytest.fixture
def daemon(kernel: FakeKernel, gate: Gate) -> Iterator[Daemon]:
    satisfied: Kernel = kernel
    server = http_server(satisfied, gate)
    listener = bind("127.0.0.1", 0)

    async def serve() -> None:
        kernel.loop = asyncio.get_running_loop()
        await server.serve(sockets=[listener])

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    # The socket already listens: whoever connects before the server has started is queued, not refused.
    yield Daemon(listener.getsockname()[1], kernel, server)
    server.should_exit = True
    thread.join()
    listener.close()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


# --- clients ---------------------------------------------------------------------------------

ERAS = ["legacy", "2026-07-28", "auto"]
Connect = Callable[..., AbstractAsyncContextManager[Client]]


def over_http(daemon: Any, era: str) -> Connect:
    @asynccontextmanager
    async def connect(token: str = "operate", **headers: str) -> AsyncGenerator[Client, None]:
        sent = {"authorization": f"Bearer {token}", **headers}
        async with (
            httpx2.AsyncClient(headers=sent, timeout=30) as http,
            Client(streamable_http_client(f"{daemon.url}/mcp", http_client=http), mode=era) as client,
        ):
            yield client

    return connect


def in_memory(kernel: Any, era: str) -> Connect:
    @asynccontextmanager
    async def connect(token: str = "operate") -> AsyncGenerator[Client, None]:
        caller = Caller(f"ada-{token}", token, "test", Path("/home"), is_agent=False)  # type: ignore[arg-type]
        async with Client(mcp_server(kernel, caller), mode=era) as client:
            yield client

    return connect


@pytest.fixture(params=[f"{way}-{era}" for way in ("memory", "http") for era in ERAS])
def connect(request: pytest.FixtureRequest) -> Connect:
    way, _, era = request.param.partition("-")
    if way == "http":
        return over_http(request.getfixturevalue("daemon"), era)
    return in_memory(request.getfixturevalue("kernel"), era)


@pytest.fixture(params=ERAS)
def connect_http(request: pytest.FixtureRequest, daemon: Any) -> Connect:
    return over_http(daemon, request.param)


@pytest.fixture
def http_to() -> Callable[..., Connect]:
    return over_http


@pytest.fixture
def memory_to() -> Callable[..., Connect]:
    return in_memory
