"""Goals: what a run of one may take, which model thinks, what it is told of its surroundings.

Light: pydantic-ai is loaded with the first goal, in a thread, so that the daemon starts without it.
"""

from __future__ import annotations

import asyncio
import datetime
import importlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentd.agent.carrying import Calling, Waiting
from agentd.agent.guards import Limits
from agentd.errors import AgentdError, InputError, NotFound
from agentd.policy.callers import Caller
from agentd.sdk import Alias, Model
from agentd.sight import Sight
from agentd.store.runs import RunRow, RunTable
from agentd.store.turns import TurnTable

__all__ = ["Ask", "Ended", "Goals", "Options", "Reply", "Wanted"]

PREFERRED = "agent"
"""The alias that thinks where no model is named."""
THINK = ("frontier", "reasoning", "local", "lora")
SHOWN = 8


class Wanted(BaseModel):
    """What somebody asks for besides the goal itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str = Field("", description="a model or alias of the catalog")
    limits: Limits = Limits()  # pyright: ignore[reportCallIssue] - its fields have defaults

    @classmethod
    def of(cls, said: Mapping[str, Any]) -> Wanted:
        """Raises `InputError` that names the field."""
        try:
            return cls.model_validate(said)
        except ValidationError as error:
            raise InputError(_mistake(error)) from error


class Options(BaseModel):
    """What a run of a goal may take; after a resume, guards look at what came since."""

    model: str
    limits: Limits
    resumed_at: int = Field(-1, description="turn after which it was last gone on with")
    resumed_after: int = Field(0, description="number of steps there were then")


@dataclass(frozen=True, slots=True)
class Ended:
    """How a run ended: `succeeded` or `failed`, why, and the answer or what is handed over."""

    state: str
    reason: str
    outcome: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply: the message of its first choice, who gave it, and what it took."""

    message: Mapping[str, Any]
    model: str
    request: str
    micro_usd: int
    input_tokens: int
    output_tokens: int

    def plus(self, later: Reply) -> Reply:
        """What both took."""
        return Reply(
            later.message,
            later.model,
            later.request,
            self.micro_usd + later.micro_usd,
            self.input_tokens + later.input_tokens,
            self.output_tokens + later.output_tokens,
        )


class Ask(Protocol):
    """One chat request of a run, metered. Raises `AgentdError`."""

    def __call__(self, body: dict[str, Any], caller: Caller) -> Awaitable[Reply]: ...


class Catalog(Protocol):
    @property
    def models(self) -> Mapping[str, Model]: ...
    def alias(self, name: str) -> Alias | None: ...
    def aliases(self) -> Sequence[Alias]: ...


class Goals:
    """Pursues goals. `left` tells what a caller's budget still holds, in micro-USD; None is no limit."""

    def __init__(
        self,
        table: RunTable,
        turns: TurnTable,
        calls: Calling,
        jobs: Waiting,
        catalog: Catalog,
        ask: Ask,
        sight: Sight,
        left: Callable[[Caller], int | None],
        accelerator: str,
        announce: Callable[[], None],
    ) -> None:
        self._table, self.turns, self._calls, self._jobs = table, turns, calls, jobs
        self._catalog, self._ask, self._sight, self._left = catalog, ask, sight, left
        self._accelerator, self._announce = accelerator, announce

    def options(self, wanted: Wanted) -> Options:
        """Raises `NotFound` for a model that is not there, `InputError` where none can be guessed."""
        model = wanted.model or self._thinker()
        self.models_of(model)
        return Options(model=model, limits=wanted.limits, resumed_at=-1, resumed_after=0)

    def resumed(self, run: RunRow, limits: Mapping[str, Any]) -> Options:
        """Options of a run that is gone on with: guards forget what made them fire. Raises `InputError`."""
        before = Options.model_validate(run.options)
        try:
            raised = Limits.model_validate({**before.limits.model_dump(), **limits})
        except ValidationError as error:
            raise InputError(f"limits.{_mistake(error)}") from error
        return Options(
            model=before.model,
            limits=raised,
            resumed_at=self.turns.totals(run.id)["turns"],
            resumed_after=len(self._table.steps(run.id)),
        )

    def left(self, caller: Caller) -> int | None:
        """What the caller's budget still holds, in micro-USD; None is no limit."""
        return self._left(caller)

    async def pursue(self, run: RunRow) -> Ended:
        """Pursue a run's goal from where it is to its end."""
        loaded = await asyncio.to_thread(importlib.import_module, "agentd.agent.pursuit")
        module: Any = loaded
        models = self.models_of(run.options["model"])
        around = module.Surroundings(
            self._table,
            self.turns,
            self._calls,
            self._jobs,
            self._ask,
            models,
            self._announce,
            await self.situation(_caller_of(run), run.id),
        )
        return await module.Pursuit(run, around).run()

    def _thinker(self) -> str:
        names = [alias.name for alias in self._catalog.aliases()]
        names += [model.name for model in self._catalog.models.values() if model.kind in THINK]
        if PREFERRED in names:
            return PREFERRED
        if len(names) == 1:
            return names[0]
        raise InputError(
            "Which model is to think?" if names else "There is no model that could think",
            hint=f"--model, one of {', '.join(sorted(names)[:SHOWN])}; or an alias {PREFERRED!r}"
            if names
            else "Name one in agentd.toml, or: agentd call get_model source=…, then serve it",
        )

    def models_of(self, name: str) -> list[Model]:
        if (alias := self._catalog.alias(name)) is not None:
            named = [*alias.weights, *alias.fallbacks]
            return [self._catalog.models[each] for each in named if each in self._catalog.models]
        if name not in self._catalog.models:
            known = [*self._catalog.models, *(alias.name for alias in self._catalog.aliases())]
            raise NotFound("model", name, known)
        return [self._catalog.models[name]]

    async def situation(self, caller: Caller, run_id: str = "") -> str:
        """Time, machine, budget, what is open and was done before: a few lines, for the first message."""
        seen, left = self._sight.of(caller), self._left(caller)
        jobs = seen.jobs.list(state="live", limit=SHOWN)
        before = [each for each in seen.runs.list(limit=SHOWN) if each["id"] != run_id]
        lines = [
            f"Now: {datetime.datetime.now().astimezone():%A, %Y-%m-%d %H:%M %Z}",
            f"Machine: {self._accelerator}" + ("" if self._accelerator != "cpu" else " only, no GPU"),
            "Budget left: " + ("no limit" if left is None else f"${left / 1e6:.2f}"),
            "Open jobs: " + ("; ".join(f"{job.id} {job.title} ({job.state})" for job in jobs) or "none"),
            "Aliases: " + ("; ".join(map(_alias, self._catalog.aliases())) or "none"),
            "Collections: " + (", ".join(await self._collections(caller)) or "none"),
            "Recent runs: " + ("; ".join(f"{each['plan']} ({each['state']})" for each in before) or "none"),
        ]
        return "\n".join(lines)

    async def _collections(self, caller: Caller) -> list[str]:
        if "list_collections" not in self._calls.tools:
            return []
        try:
            found = await self._calls.call("list_collections", {}, caller)
        except AgentdError:
            return []
        return [each["name"] for each in found.model_dump()["collections"]][:SHOWN]


def _caller_of(run: RunRow) -> Caller:
    return Caller(run.principal, "operate", run.surface, run.cwd, is_agent=True, project=run.project)


def _mistake(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_context=False)[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}, not {first['input']!r}"


def _alias(alias: Alias) -> str:
    return f"{alias.name} → {', '.join(alias.weights)}"
