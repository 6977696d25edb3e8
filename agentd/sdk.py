"""The only door for plugins.

A file in a ``tools/`` folder defines tools with `tool`; everything it needs from the daemon
comes in through the `Context` it is handed. A tool either answers at once, by returning its
result, or asks for heavy work, by returning a `Launch`: a recipe, its spec and a `Quote`. The
kernel then decides (policy), asks (approval), pays (ledger) and runs it (job); when the job has
succeeded, the function registered with `Tool.done` turns what it left into a result.

This module knows nothing of SQL, HTTP, MCP or processes.
"""

from __future__ import annotations

import datetime
import hashlib
import inspect
import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from agentd.documents import load as load_document
from agentd.errors import (
    AgentdError,
    Conflict,
    DataError,
    Denied,
    InputError,
    NotFound,
    OverBudget,
    Unavailable,
)

__all__ = [
    "AgentdError",
    "Alias",
    "Artifact",
    "Cause",
    "ChatResult",
    "Conflict",
    "Context",
    "DataError",
    "Denied",
    "Exchange",
    "Figure",
    "Finished",
    "HourPrice",
    "InputError",
    "JobView",
    "Judgement",
    "Launch",
    "Metric",
    "Model",
    "NotFound",
    "OverBudget",
    "Quote",
    "Report",
    "Rollout",
    "RolloutLimits",
    "ServiceSpec",
    "ServiceView",
    "Tool",
    "Traffic",
    "Unavailable",
    "load_document",
    "prompt_digest",
    "tool",
]

JobState = Literal[
    "queued",
    "waiting_approval",
    "preparing",
    "running",
    "succeeded",
    "failed",
    "cancelled",
    "lost",
    "timed_out",
]
Cause = Literal[
    "input",  # what it was given is wrong; the reason names it
    "changed",  # recipe, environment, input or rules are not what was approved
    "over_budget",  # the ledger had no room for it when it was to be launched
    "unavailable",  # a service, an environment or a program that it needs is not there
    "no_accelerator",  # it needs one, and there is none
    "unstartable",  # its program could not be started
    "exit_code",  # it ended with another code than 0 and did not say why
    "no_result",  # it ended with 0 and left no whole result
    "crashed",  # segmentation fault, abort, bus error: the reason names the signal
    "killed",  # by a signal that neither agentd nor a limit had sent
    "out_of_memory",  # ended by the kernel for it, or said so itself
    "disk_full",  # there was no room on a disk it writes to
    "io_error",  # a disk failed
    "nan_loss",  # loss or gradient norm was no number any more
    "timed_out",  # its hard wall clock
    "not_ready",  # a service that did not answer in time
    "idle",  # a service that nobody used
    "lost",  # it was launched, is gone, and left no word
    "restored",  # the state directory was set back to an older state
    "denied",  # by a person
    "expired",  # nobody answered in time
    "cancelled",  # somebody asked for its end
    "internal",  # our fault: the daemon's log has the details
]
"""Why a job or an attempt ended, for programs. The `reason` beside it says it for people."""
ModelKind = Literal["frontier", "reasoning", "local", "lora", "baseline"]


# --- what plugins and kernel exchange -------------------------------------------------------


class Record(BaseModel):
    """A value object: immutable, and strict about unknown fields."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Quote(Record):
    """What a call will take, stated before it is made.

    A tool fills in what it reckons from sizes and method: `seconds` (of a service: of its life), memory,
    disk, what requests to models may cost, and the basis. The kernel corrects time and memory by what
    past jobs of the kind took, and adds the rest.
    """

    seconds: float = Field(default=0.0, ge=0, description="expected wall time")
    seconds_low: float = Field(default=0.0, ge=0, description="with `seconds_high`: where it should end")
    seconds_high: float = Field(default=0.0, ge=0, description="0 as long as too few past jobs are known")
    level: float = Field(default=0.0, description="share of jobs that should end between the two")
    past_jobs: int = Field(default=0, description="jobs that the time was corrected by")
    gpu_hours: float = Field(default=0.0, ge=0)
    ram_bytes: int = Field(default=0, ge=0, description="peak resident memory")
    vram_bytes: int = Field(default=0, ge=0)
    disk_bytes: int = Field(default=0, ge=0)
    micro_usd: int = Field(default=0, ge=0, description="all money, in millionths of a US dollar")
    tokens_micro_usd: int = Field(default=0, ge=0, description="of it, what requests to models cost")
    doubt: str = Field(default="", description="why the price is not certain; then a person is asked")
    basis: str = Field(default="", description="how the figures were reached, for the person who approves")


class ServiceSpec(Record):
    """How a launched recipe is kept as a service: it listens on ``spec['port']`` of loopback."""

    health: str = Field(default="/health", description="path answering 200 once ready")
    serves: tuple[str, ...] = Field(default=(), description="names of catalog models answered here")
    ready_within_s: float = 600.0
    idle_stop_s: float = Field(default=1800.0, description="stopped after this long without a request")


@dataclass(frozen=True, slots=True)
class Launch:
    """Heavy work asked for by a tool. The kernel runs ``tools/recipes/<recipe>.py SPEC OUT``, or a folder.

    `inputs` maps names to files or folders. They are digested into the approval; the recipe finds
    their paths in ``spec["inputs"]``. `needs` names services that must be ready before it starts;
    the recipe finds ``{"url", "token_env"}`` of each in ``spec["services"]``. With `gateway`, the
    job gets ``AGENTD_GATEWAY_URL`` and ``AGENTD_GATEWAY_KEY``, an OpenAI-compatible endpoint that
    answers for every catalog model and alias. `timeout_s` is a hard wall clock (services: a
    lifetime), raised by the kernel where past jobs of the kind took long. For a `service`,
    ``spec["port"]`` is filled in by the kernel unless given, and the secret that callers must send as a
    bearer token is in ``AGENTD_SERVICE_TOKEN``.

    `attempts` is how often it may be started in all, each time with a wall clock and a reservation of
    its own: after a crash, an I/O error, an unexplained exit code or a start that failed
    (`agentd.jobs.machine.again`). One that was lost without a word counts among these only if it is
    `repeatable`: doing it twice does no harm. One that `resumes` keeps what it has done where the same call
    finds it again, and its end says so. With `accelerator` ("gpu", "cuda" or "rocm") nobody is
    asked to approve it where there is none. What it asks of models through the gateway costs at most
    `tokens_micro_usd`; further requests are refused. `secrets` names variables of the daemon's environment
    that it gets as they are at the launch, if they are set; others that look secret it never sees.
    """

    recipe: str
    title: str
    spec: Mapping[str, Any]
    quote: Quote
    timeout_s: float
    inputs: Mapping[str, Path] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    needs: Sequence[str] = ()
    gateway: bool = False
    service: ServiceSpec | None = None
    attempts: int = 1
    repeatable: bool = False
    resumes: bool = False
    accelerator: str = ""
    tokens_micro_usd: int = 0
    secrets: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Finished:
    """A job that succeeded: its spec, the JSON its recipe wrote, and the folder it left."""

    job_id: str
    spec: Mapping[str, Any]
    result: Mapping[str, Any]
    out: Path
    seconds: float


class Artifact(Record):
    """Something a job left: content-addressed, with lineage."""

    id: str
    kind: str
    name: str
    digest: str
    path: Path
    size_bytes: int
    meta: dict[str, Any] = {}
    parents: tuple[str, ...] = ()


Capability = Literal["tools", "json_schema", "vision", "audio", "logprobs", "reasoning_effort"]
Dialect = Literal["openai", "anthropic", "google"]
Api = Literal["chat/completions", "completions", "embeddings", "responses", "messages"]


class Model(Record):
    """An entry of the catalog. Reached at `endpoint`, or at a running service that serves it."""

    name: str = Field(min_length=1)
    kind: ModelKind
    source: str = Field(default="", description="hf:…, path:…, pypi:…, job:… or the vendor's name")
    path: Path | None = Field(default=None, description="folder with safetensors, or with the adapter")
    digest: str = ""
    base: str = Field(default="", description="for a LoRA: the catalog name of its base")
    provider: str = Field(default="", description="a preset in adapters/models/ for endpoint and key_env")
    endpoint: str = Field(default="", description="base URL of an OpenAI-compatible API, ending in /v1")
    dialect: Dialect = Field(
        default="openai",
        description="the protocol that its endpoint speaks; others than openai are translated",
    )
    upstream: str = Field(default="", description="the model's name at that endpoint")
    key_env: str = Field(default="", description="environment variable that holds the key")
    context: int = Field(default=0, ge=0, description="context length in tokens, 0 if unknown")
    capabilities: tuple[Capability, ...] | None = Field(
        default=None, description="what it can do; what is not said is tried"
    )
    apis: tuple[Api, ...] = Field(
        default=(), description="paths that its endpoint has: chat/completions, …; empty: not known, tried"
    )
    residency: str = Field(default="", description='where texts are processed, such as "eu" or "here"')
    input_micro_usd_per_mtok: int | None = Field(default=None, ge=0)
    output_micro_usd_per_mtok: int | None = Field(default=None, ge=0)
    cached_micro_usd_per_mtok: int | None = Field(
        default=None, ge=0, description="input that the endpoint had cached; as other input by default"
    )
    written_micro_usd_per_mtok: int | None = Field(
        default=None, ge=0, description="input that it put into its cache; twice other input by default"
    )
    first_token_s: float = Field(
        default=60.0, gt=0, description="longest wait for the first bytes of a stream"
    )
    total_s: float = Field(default=600.0, gt=0, description="longest time of one request")
    concurrent: int = Field(default=0, ge=0, description="requests it is asked at a time; 0: any number")
    prices_as_of: datetime.date | None = Field(default=None, description="the day these prices were read")
    size_bytes: int = 0
    meta: dict[str, Any] = {}

    @property
    def price_unknown(self) -> bool:
        """Whether it is behind an API and nobody said what it costs. What else states no price is free."""
        stated = (self.input_micro_usd_per_mtok, self.output_micro_usd_per_mtok)
        return self.kind in ("frontier", "reasoning") and None in stated

    def price(
        self, tokens_in: float, tokens_out: float, tokens_cached: float = 0, tokens_written: float = 0
    ) -> int:
        """Micro-USD, rounded up.

        Of `tokens_in` the endpoint had `tokens_cached` in its cache, and put `tokens_written` there.
        """
        a, b = self.input_micro_usd_per_mtok or 0, self.output_micro_usd_per_mtok or 0
        c = a if self.cached_micro_usd_per_mtok is None else self.cached_micro_usd_per_mtok
        w = 2 * a if self.written_micro_usd_per_mtok is None else self.written_micro_usd_per_mtok
        plain = max(tokens_in - tokens_cached - tokens_written, 0)
        return math.ceil((plain * a + tokens_cached * c + tokens_written * w + tokens_out * b) / 1_000_000)


class Alias(Record):
    """A name that callers use; `weights` maps model names to shares.

    A conversation stays with its model: the share it falls into is drawn from how it began, or from the
    key that the caller gives. With `choose` "cheapest" the shares only break ties.
    """

    name: str
    weights: dict[str, float]
    reason: str = ""
    fallbacks: tuple[str, ...] = Field(
        default=(), description="models asked, in this order, when those above cannot answer"
    )
    choose: Literal["weights", "cheapest"] = Field(
        default="weights", description="by their shares, or the cheapest that is measured to be good enough"
    )
    good_enough: float | None = Field(
        default=None, description="with cheapest: what the low end of its score's interval has to reach"
    )
    suites: dict[str, str] = Field(
        default={},
        description="with cheapest: task class -> the suite whose reports measure it;"
        ' "*" is for every other class',
    )
    classifier: str = Field(
        default="",
        description="with cheapest: artifact of train_router that tells a request's class or difficulty",
    )
    enough_at: float = Field(
        default=0.5,
        ge=0,
        le=1,
        description="with a classifier of difficulty: the probability from which the cheapest is asked",
    )
    residency: tuple[str, ...] = Field(
        default=(), description="only models that process texts in one of these places"
    )
    shadow: dict[str, float] = Field(
        default={}, description="models that are also asked, unseen, and the share of requests each gets"
    )
    cache_s: float = Field(
        default=0.0,
        ge=0,
        description="seconds that an answer stands for the same request; temperature 0 only",
    )
    hedge_s: float = Field(
        default=0.0,
        ge=0,
        description="seconds after which the next model is asked as well, and the first to answer counts",
    )
    escalate_on: tuple[Literal["invalid", "cut", "unsure"], ...] = Field(
        default=(),
        description="ask the next model again when a whole answer does not fit its schema or tools, ended"
        " at its limit, or has a confidence below sure_at",
    )
    sure_at: float = Field(
        default=0.6, gt=0, le=1, description="with unsure: the geometric mean of the tokens' probabilities"
    )
    effort: dict[str, str] = Field(
        default={},
        description="task class -> reasoning_effort of requests that state none, for models that take it;"
        ' "*" is for every other class',
    )


class RolloutLimits(Record):
    """What a rollout is held to, declared before its first request."""

    error_margin: float = Field(default=0.02, gt=0, lt=0.5, description="more errors that are not accepted")
    latency_ratio: float | None = Field(
        default=1.25, gt=1, le=100, description="times as long that answers may not take; null: not looked at"
    )
    cost_ratio: float | None = Field(
        default=1.25, ge=1, le=10_000, description="times as much that a request may cost at most; null: any"
    )
    judge_margin: float = Field(default=0.05, gt=0, lt=0.5, description="loss by the judge not accepted")
    judge_share: float = Field(
        default=0.2,
        gt=0,
        le=1,
        description="of the model's answers that a judge rates; as many of the others",
    )
    feedback_margin: float | None = Field(
        default=0.1, gt=0, lt=0.5, description="more thumbs down that are not accepted; null: not looked at"
    )
    drift: bool = Field(default=True, description="go back when requests are far from the suite's rows")
    distance_margin: float = Field(
        default=0.05,
        gt=0,
        lt=0.5,
        description="how much farther than its rows requests may be from the suite's middle, as half of"
        " 1 − cosine; where an embedder is served",
    )
    alpha: float = Field(default=0.05, gt=0, lt=0.5, description="chance of going back from a good model")
    gate_alpha: float = Field(
        default=0.05, gt=0, lt=0.5, description="chance that one stage passes a loss of the margin"
    )
    power: float = Field(
        default=0.8, gt=0, lt=1, description="with which a stage is planned to pass an equal model"
    )
    requests: int = Field(default=50, ge=1, description="fewest of the model in a stage")
    hours: float = Field(default=24.0, gt=0, description="after which a stage says that it still waits")
    cool_down_hours: float = Field(
        default=24.0, ge=0, description="after going back, before the same may be tried without force"
    )


class Rollout(Record):
    """An alias on its way to another model by stages.

    running → done (all requests are the model's, and watched on), or rolled_back, aborted, superseded.
    """

    id: str
    alias: str
    model: str
    incumbents: tuple[str, ...] = Field(description="who answered before")
    state: Literal["running", "done", "rolled_back", "aborted", "superseded"]
    stage: str = Field(description="shadow 5 %, canary 10 %, full")
    number: int = Field(description="of this stage, from 1")
    stages: tuple[str, ...]
    seen: dict[str, str] = Field(default={}, description="measure: what was seen in this stage")
    waits_for: tuple[str, ...] = Field(default=(), description="what the next stage needs; with `running`")
    why: str = Field(default="", description="what spoke for the last move")
    started_at: float
    stage_at: float = Field(description="when this stage began")
    ended_at: float | None = None


class Judgement(Record):
    """What `author` says about an item of a subject; `value` is what they would put in its place."""

    subject: str = Field(description="what the item is part of: dataset:support, request")
    item: str
    author: str = Field(description="who says so, in their own words")
    principal: str = Field(description="who was let in")
    verdict: str
    value: dict[str, Any] | None = None
    note: str = ""
    at: float = 0.0


class Exchange(Record):
    """A chat request of the gateway as texts, without secrets. `finish` is the endpoint's reason to stop."""

    id: str
    asked: str = Field(description="the alias or model that was asked for")
    model: str = Field(description="the one that answered")
    principal: str
    project: str
    messages: list[dict[str, str]] = Field(description="role and content of each")
    answer: str
    finish: str = ""
    user: str = Field(default="", description="whom the client said that it asked for")
    at: float


class Figure(Record):
    """A number over all rows at once, such as corpus BLEU, with its 95 % interval where one is known."""

    value: float
    low: float | None = None
    high: float | None = None


class Metric(Record):
    """What one metric came to over the rows that it could be scored on; `score` is None if those are none."""

    name: str
    scorer: str = ""
    score: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0
    errors: int = 0
    better: Literal["higher", "lower"] = "higher"
    figures: dict[str, Figure] = {}
    judge: dict[str, Any] = Field(default={}, description="of a judge: model, digest, calibrated, why")
    why: str = Field(default="", description="why rows could not be scored")


class Report(Record):
    """What came out of measuring one model on one suite. `score` is that of the first, the primary metric."""

    id: str
    suite: str
    suite_digest: str
    model: str
    label: str = ""
    metric: str
    score: float
    low: float
    high: float
    n: int
    errors: int = 0
    rows: Path = Field(description="JSONL: {id, input, expected, output, score, scores, error?}")
    metrics: tuple[Metric, ...] = Field(default=(), description="all of them, the primary one first")
    redteam: tuple[Metric, ...] = Field(default=(), description="rates over the suite's red-team part")
    digests: dict[str, str] = Field(default={}, description="of what a score depends on: scorers, prompt …")
    meta: dict[str, Any] = {}


class JobView(Record):
    """A job as everybody sees it."""

    id: str
    tool: str
    title: str
    state: JobState
    cause: Cause | None = Field(default=None, description="why it ended, in a word; null once succeeded")
    reason: str = ""
    attempt: int = Field(default=0, description="number of the newest attempt; 0 before the first")
    attempts: int = Field(default=1, description="how many were approved")
    quote: Quote = Quote()
    progress: dict[str, Any] = {}
    result: dict[str, Any] | None = None
    approval: str | None = None
    decided_by: str | None = None
    digest: str = ""
    micro_usd: int | None = None
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    seconds: float | None = Field(default=None, description="how long the last attempt took")
    service: dict[str, Any] | None = Field(default=None, description="url, serves, ready: for a service")
    next: str = Field(default="", description="what to do or call next")

    @property
    def ended(self) -> bool:
        return self.state in ("succeeded", "failed", "cancelled", "lost", "timed_out")


class HourPrice(Record):
    """What an hour of a machine costs, by the dated price table; `doubt` says why that is not certain."""

    usd_per_hour: float
    source: str
    as_of: datetime.date
    doubt: str = ""


class ServiceView(Record):
    """A running service that a tool may talk to."""

    job_id: str
    name: str
    url: str
    token: str = Field(repr=False)
    ready: bool
    serves: tuple[str, ...] = ()


class ChatResult(Record):
    """One answered chat request and why it went where it went."""

    request_id: str
    model: str
    text: str
    why: str
    input_tokens: int = 0
    output_tokens: int = 0
    micro_usd: int = 0
    seconds: float = 0.0


# --- what the daemon offers a tool ----------------------------------------------------------


class Artifacts(Protocol):
    def add(
        self,
        kind: str,
        path: Path,
        *,
        name: str,
        meta: Mapping[str, Any] | None = None,
        parents: Sequence[str] = (),
    ) -> Artifact:
        """Take a file or folder into the store (moved when it lies in a job's out folder, copied otherwise).

        Adding the same content under the same name again returns the artifact that is there.
        """
        ...

    def get(self, ref: str, kind: str | None = None) -> Artifact:
        """By id or newest by name. Raises `NotFound`."""
        ...

    def list(self, kind: str | None = None) -> list[Artifact]: ...


class Catalog(Protocol):
    def get(self, name: str) -> Model:
        """Raises `NotFound` with the nearest names."""
        ...

    def list(self) -> list[Model]: ...
    def put(self, model: Model) -> None: ...
    def alias(self, name: str) -> Alias | None: ...
    def aliases(self) -> list[Alias]: ...
    def set_alias(self, alias: Alias) -> None: ...
    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        sources: Sequence[str] = (),
        **options: Any,
    ) -> ChatResult:
        """Ask a model or alias. `options` go to the endpoint as they are (temperature, response_format …).

        `sources` name what of documents the messages hold, such as ``handbook.md[120:480]``: `agentd why`
        shows them.
        """
        ...


class Rollouts(Protocol):
    """Aliases that move by stages. `by` is who asks; every move stands in the journal."""

    def start(
        self,
        alias: str,
        model: str,
        stages: str,
        limits: RolloutLimits,
        *,
        why: str,
        by: str,
        evidence: Mapping[str, Any],
        inputs: Sequence[str] = (),
        approve: Literal["start", "each"] = "start",
        judge: Mapping[str, Any] | None = None,
    ) -> Rollout:
        """Begin the first stage.

        `evidence` has report, against, margin and alpha of the verdict that has to hold at each stage; empty
        where it was forced. `inputs` are texts of the suite that requests are held against, `judge` what a
        judge is told. Raises `Conflict` while another one of the alias runs.
        """
        ...

    def check(self, alias: str, model: str, *, stages: str = "", force: bool = False) -> None:
        """Raise why the alias cannot move to the model now: one runs, or it went back from it lately."""
        ...

    async def proceed(self, alias: str, *, by: str, because: str = "", force: bool = False) -> Rollout:
        """Begin the next stage, if its gate lets it; with `force` in any case."""
        ...

    def abort(self, alias: str, *, by: str, because: str) -> Rollout:
        """Set the alias back to what it was."""
        ...

    def supersede(self, alias: str, *, by: str, because: str) -> None:
        """Stop watching: the alias is about to be moved by other means."""
        ...

    def list(self) -> list[Rollout]:
        """Those that are watched, and those that ended lately; newest first."""
        ...


class Reports(Protocol):
    def save(self, report: Report) -> Report: ...
    def get(self, ref: str) -> Report: ...
    def list(self) -> list[Report]: ...


class Judgements(Protocol):
    def put(self, judgements: Sequence[Judgement]) -> None:
        """Store them, all or none. Of one author about one item the last counts."""
        ...

    def remove(self, subject: str, item: str, author: str) -> bool: ...
    def list(self, subject: str) -> list[Judgement]:
        """Oldest first."""
        ...


class Traffic(Protocol):
    def kept(self, name: str, since: float = 0.0) -> list[Exchange]:
        """Texts asked of an alias or model, or answered by it, oldest first; none where none are kept."""
        ...


class Jobs(Protocol):
    def get(self, job_id: str) -> JobView: ...
    def list(self, *, state: str | None = None, limit: int = 50) -> list[JobView]: ...
    async def wait(self, job_id: str, max_s: float) -> JobView: ...
    def logs(self, job_id: str, *, tail: int = 50) -> list[str]: ...
    async def cancel(self, job_id: str, *, by: str = "daemon") -> JobView: ...


class Services(Protocol):
    async def ensure(self, name: str, launch: Launch) -> ServiceView | None:
        """The service `name`, launched when it is not there; None while it is still starting."""
        ...

    def find(self, name: str) -> ServiceView | None:
        """The newest live service launched by recipe `name`, or serving model `name`."""
        ...

    async def request(
        self, service: ServiceView, path: str, body: Mapping[str, Any], *, timeout_s: float = 30.0
    ) -> dict[str, Any]:
        """POST JSON to a service, with its token. Raises `Unavailable` with what it said."""
        ...

    def add_serves(self, service: ServiceView, names: Sequence[str]) -> None: ...


class Plugins(Protocol):
    def find(self, folder: str, name: str) -> Path:
        """The file ``<root>/<folder>/<name>``, the user's roots before the bundled one. Raises `NotFound`."""
        ...

    def names(self, folder: str, suffix: str) -> list[str]: ...
    def module(self, folder: str, name: str) -> Any:
        """Import ``<root>/<folder>/<name>.py``."""
        ...


class Plans(Protocol):
    def start(self, path: Path, params: Mapping[str, Any]) -> dict[str, Any]:
        """Check a plan and start a run of it; answers with its view. Raises `DataError`."""
        ...

    def view(self, run_id: str) -> dict[str, Any]:
        """``{"id", "plan", "goal", "state", "reason", "steps": [{"id", "state", …}], …}``"""
        ...

    async def wait(self, run_id: str, max_s: float) -> dict[str, Any]: ...
    async def stop(self, run_id: str) -> dict[str, Any]: ...


class Context(Protocol):
    """What a tool is handed with every call."""

    principal: str
    surface: str
    cwd: Path
    artifacts: Artifacts
    catalog: Catalog
    rollouts: Rollouts
    reports: Reports
    judgements: Judgements
    traffic: Traffic
    jobs: Jobs
    services: Services
    plugins: Plugins
    plans: Plans
    accelerator: str  # "cpu", "cuda", "rocm"

    def path(self, text: str) -> Path:
        """An existing path, relative ones from the caller's folder. Raises `NotFound`."""
        ...

    def price(self, seconds: float) -> int:
        """Micro-USD for that long on this machine, from the dated price table."""
        ...

    def price_doubt(self, model: Model) -> str:
        """Why the price of a model is not certain (unknown, undated, too old); empty when it is."""
        ...

    def hour_price(self, accelerator: str) -> HourPrice | None:
        """An hour on that kind of machine, by the price table; None where it is not in there."""
        ...

    def data_dir(self, name: str) -> Path:
        """A lasting folder of that name in the state directory, for a service's own data."""
        ...

    def scratch(self) -> Path:
        """A fresh folder for files a tool writes as inputs of its launch."""
        ...

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        """Call another tool as the same principal, through the same door."""
        ...

    async def quote(self, tool: str, arguments: Mapping[str, Any]) -> Quote:
        """What that call would take; checks the arguments, starts nothing."""
        ...


# --- tools ----------------------------------------------------------------------------------

Handler = Callable[..., Awaitable[Any]]
Done = Callable[[Context, Finished], Awaitable[Any] | Any]


@dataclass(slots=True)
class Tool:
    """One capability, the same over MCP, CLI, agent and plan.

    `arguments` is a pydantic model made from the handler's keyword-only parameters, `result` the
    model its answer is checked against (a launching tool answers with a `JobView`). One that is not
    `listed` is called by name like any other, but MCP clients are not shown it. `trusted`, `content`,
    `outward` and `gives` are as `tool` has them.
    """

    name: str
    title: str
    description: str
    arguments: type[BaseModel]
    result: type[BaseModel]
    handler: Handler
    launches: bool
    read_only: bool
    destructive: bool
    idempotent: bool
    open_world: bool
    listed: bool = True
    trusted: bool | tuple[str, ...] = False
    content: tuple[str, ...] = ()
    outward: bool = False
    gives: tuple[str, ...] = ()
    on_done: Done | None = None
    on_check: Handler | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """Keys of what it gives in the end; empty where that is not said, or differs."""
        if self.launches:
            return self.gives
        return () if self.result.model_config.get("extra") == "allow" else tuple(self.result.model_fields)

    def check(self, fn: Handler) -> Handler:
        """Register what is checked before a person is asked, for a tool that launches nothing.

        It is given what the handler is given, changes nothing, and raises what is wrong.
        """
        self.on_check = fn
        return fn

    def done(self, fn: Done) -> Done:
        """Register what turns a succeeded job into this tool's result. Must be safe to run twice."""
        self.on_done = fn
        return fn


def prompt_digest(system: str) -> str:
    """What the record of a request, and a kept version of a prompt, call the same system text."""
    return hashlib.sha256(system.encode(errors="replace")).hexdigest()[:16]


def tool(
    *,
    title: str,
    result: type[BaseModel] | None = None,
    launches: bool = False,
    read_only: bool = False,
    destructive: bool = False,
    idempotent: bool = False,
    open_world: bool = False,
    listed: bool = True,
    trusted: bool | Sequence[str] = False,
    content: Sequence[str] = (),
    outward: bool | None = None,
    gives: Sequence[str] = (),
) -> Callable[[Handler], Tool]:
    """Make a tool of ``async def name(ctx, *, arg: Annotated[T, Field(description=…)] = …)``.

    The docstring is what a model reads to choose the tool: say what it does, what it needs, and
    when *not* to use it. Raises `TypeError` for a handler that cannot be described as a schema.
    Models choose worse among more than about 25 tools: `listed=False` keeps one that only people,
    plans and scripts need out of what MCP clients are shown.

    What a result says may be an attack: text of documents, rows, logs, web pages, or of a model that read
    such text. A result is taken for that unless it is `trusted`: worded by the tool alone, out of names and
    figures of its own; a sequence names the top-level fields of the result that are. Whoever has read what is
    not trusted has to ask before calls that change something, cost, or reach out. `content` names arguments
    that carry text and decide nothing (not whom it goes to, how much, which model, which path): filling
    them from such a result weighs nothing. `outward` says whether a call can carry text to a place that its
    caller chooses, as `open_world` does by default. `gives` names what the result of a launched job holds:
    plans refer to it.
    """

    def wrap(handler: Handler) -> Tool:
        name = handler.__name__
        if not handler.__doc__:
            raise TypeError(f"tool {name!r} needs a docstring: it is what a model chooses by")
        if result is None and not launches:
            raise TypeError(f"tool {name!r} must name its result model")
        hints = get_type_hints(handler, include_extras=True)
        fields: dict[str, Any] = {}
        for parameter in list(inspect.signature(handler).parameters.values())[1:]:
            if parameter.kind is not inspect.Parameter.KEYWORD_ONLY:
                raise TypeError(f"tool {name!r}: make {parameter.name!r} keyword-only")
            default = ... if parameter.default is inspect.Parameter.empty else parameter.default
            fields[parameter.name] = (hints[parameter.name], default)
        if unknown := sorted(set(content) - fields.keys()):
            raise TypeError(f"tool {name!r}: 'content' names {unknown[0]!r}, which is none of its arguments")
        arguments = create_model(f"{name}_arguments", __config__=ConfigDict(extra="forbid"), **fields)
        return Tool(
            name=name,
            title=title,
            description=inspect.cleandoc(handler.__doc__),
            arguments=arguments,
            result=JobView if launches else (result or JobView),
            handler=handler,
            launches=launches,
            read_only=read_only,
            destructive=destructive,
            idempotent=idempotent,
            open_world=open_world,
            listed=listed,
            trusted=trusted if isinstance(trusted, bool) else tuple(trusted),
            content=tuple(content),
            outward=open_world if outward is None else outward,
            gives=tuple(gives),
        )

    return wrap
