"""One request, from a name to a metered answer: decide, ask, and ask the next where that is safe.

A request goes to the models of its route in order until one answers. The next is asked when a model cannot
be reached, is busy, rests, fails or sends garbage, and never after the first byte of a stream has gone out,
nor for a request that is itself at fault. The last one is asked again, after a moment, only where it surely
did nothing the first time. Each attempt is metered before it leaves. Fields that are not ours pass untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from agentd.errors import AgentdError, Denied, InputError, OverBudget, Unavailable
from agentd.ids import new_id
from agentd.policy.callers import Caller
from agentd.router.answers import Answers
from agentd.router.catalog import Catalog
from agentd.router.decide import (
    Candidate,
    Need,
    Quality,
    Route,
    contents_of,
    draw_of,
    need_of,
    refusal,
    route,
)
from agentd.router.health import Fleet
from agentd.router.metering import Attempt, Metering
from agentd.router.metrics import Metrics
from agentd.router.tasks import Task, Tasks, question_of
from agentd.router.upstream import Stream, Target, Upstream, UpstreamError, key_of
from agentd.sdk import Alias, Api, ChatResult, Model, ServiceView
from agentd.store.journal import Journal
from agentd.store.leases import Leases
from agentd.store.requests import RequestRow, RequestTable

__all__ = ["Asked", "Dispatch", "Serving", "UpstreamError", "checked"]

T = TypeVar("T")

NO_TASK = Task()
RETRIES = 2
LONGEST_WAIT_S = 5.0
MOST_SHADOWS = 16
NEEDED: Mapping[Api, tuple[str, type | tuple[type, ...]]] = {
    "chat/completions": ("messages", list),
    "messages": ("messages", list),
    "completions": ("prompt", (str, list)),
    "embeddings": ("input", (str, list)),
    "responses": ("input", (str, list)),
}
"""What a request to each path cannot be without."""
TOO_LONG = ("context_length_exceeded", "maximum context length", "context window", "prompt is too long")


class Serving(Protocol):
    """Which local service answers for a model."""

    def find(self, name: str) -> ServiceView | None: ...
    def touch(self, job_id: str) -> None: ...


@dataclass(slots=True)
class Asked:
    """One request on its way, and what is to be said of it afterwards."""

    api: Api
    body: Mapping[str, Any]
    caller: Caller
    id: str
    route: Route
    alias: Alias | None = None
    started: float = field(default_factory=time.monotonic)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    spent: int = 0
    model: str = ""
    why: str = ""
    cached: bool = False
    classified: str = ""

    def note(self, attempt: Attempt, status: str) -> None:
        self.spent += attempt.micro_usd
        self.attempts.append(
            {
                "model": attempt.model.name,
                "status": status,
                "after_s": round(attempt.began - self.started, 4),
                "seconds": round(time.monotonic() - attempt.began, 4),
                "micro_usd": attempt.micro_usd,
            }
        )


class Dispatch:
    """Sends requests on. `quality` says what (model, suite) came to; `tell` is told what has ended.

    `heads` finds the folder of a classifier by the name of its artifact.
    """

    def __init__(
        self,
        catalog: Catalog,
        serving: Serving,
        leases: Leases,
        requests: RequestTable,
        journal: Journal,
        doubt: Callable[[Model], str],
        quality: Quality = lambda model, suite: None,
        tell: Callable[[RequestRow], None] = lambda row: None,
        heads: Callable[[str], Path | None] | None = None,
    ) -> None:
        self._catalog, self._serving, self._requests = catalog, serving, requests
        self._metering = Metering(leases, requests, journal, doubt)
        self._quality, self._tell = quality, tell
        self._upstream, self._answers = Upstream(), Answers()
        self._tasks = Tasks(heads, self.embedding_of) if heads else None
        self._shadows: set[asyncio.Task[None]] = set()
        self.fleet = Fleet()
        self.metrics = Metrics(self.fleet)

    async def aclose(self) -> None:
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)
        await self._upstream.aclose()
        await self._metering.aclose()

    async def complete(
        self,
        body: Mapping[str, Any],
        caller: Caller,
        *,
        request_id: str = "",
        api: Api = "chat/completions",
        key: str = "",
    ) -> dict[str, Any]:
        """Answer one request. The reply carries ``agentd`` with request id, model and why.

        `key` keeps to one model of an alias whoever gives the same.
        """
        asked = await self._asked(api, body, caller, request_id, key)
        cache_s = asked.alias.cache_s if asked.alias and api != "embeddings" else 0.0
        kept = self._answers.find(asked.caller.project, api, body, cache_s) if cache_s else None
        if kept is not None:
            asked.model, asked.why, asked.cached = kept.model, f"answered before as {kept.id}", True
            self._record(asked, "ok")
            return {**kept.reply, "agentd": _said(asked)}

        async def ask(target: Target, attempt: Attempt) -> dict[str, Any]:
            sent = {**body, "model": target.upstream}
            if "stream" in body or api in ("chat/completions", "completions"):
                sent["stream"] = False
            answer = await self._upstream.ask(target, api, sent)
            attempt.usage = answer.usage
            return answer.data

        try:
            attempt, reply = await self._try(asked, ask)
        except BaseException as error:
            self._record(asked, _status(error))
            raise
        self._answered(asked, attempt)
        self._record(asked, "ok")
        if cache_s:
            self._answers.keep(asked.caller.project, api, body, asked.id, asked.model, reply)
        self._shadow(asked)
        return {**reply, "agentd": _said(asked)}

    async def stream(
        self,
        body: Mapping[str, Any],
        caller: Caller,
        *,
        request_id: str = "",
        api: Api = "chat/completions",
        key: str = "",
        on_start: Callable[[Asked], None] = lambda asked: None,
    ) -> AsyncGenerator[bytes]:
        """The same as server-sent events, passed through as they come.

        `on_start` is told who answers, before the first bytes.
        """
        asked = await self._asked(api, body, caller, request_id, key)
        options, shown = body.get("stream_options"), True
        sent = {**body, "stream": True}
        if api in ("chat/completions", "completions"):
            shown = isinstance(options, dict) and bool(options.get("include_usage"))
            sent["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}

        async def ask(target: Target, attempt: Attempt) -> Stream:
            return await self._upstream.stream(
                target, api, {**sent, "model": target.upstream}, show_usage=shown
            )

        try:
            attempt, stream = await self._try(asked, ask)
        except BaseException as error:
            self._record(asked, _status(error))
            raise
        first_s, status = time.monotonic() - attempt.began, "ok"
        try:
            on_start(asked)
            async for events in stream.events():
                yield events
        except BaseException as error:
            status = _status(error)
            if isinstance(error, UpstreamError):
                self.fleet.failed(attempt.model.name, error.message)
            raise
        finally:
            stream.close()
            attempt.usage = stream.usage
            self._answered(asked, attempt, status, first_s)
            self._record(asked, status)
            if status == "ok":
                self._shadow(asked)

    async def chat(
        self, model: str, messages: Sequence[Mapping[str, Any]], caller: Caller, **options: Any
    ) -> ChatResult:
        """One request as a tool makes it."""
        started = time.monotonic()
        reply = await self.complete({"model": model, "messages": list(messages), **options}, caller)
        try:
            text = reply["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError) as error:
            raise UpstreamError(f"Model {model!r} answered without a message", status=502) from error
        row = self._requests.find(reply["agentd"]["request_id"])
        assert row is not None
        return ChatResult(
            request_id=row.id,
            model=row.model,
            text=text,
            why=row.why,
            micro_usd=row.micro_usd,
            input_tokens=row.input_tokens,
            output_tokens=row.output_tokens,
            seconds=time.monotonic() - started,
        )

    async def explain(
        self, body: Mapping[str, Any], *, api: Api = "chat/completions", key: str = ""
    ) -> dict[str, Any]:
        """Whom a request would be sent to, in which order, and why; nothing is sent."""
        need, found, task = await self._route(api, body, key)
        return {
            "asked": found.asked,
            "task": task.label,
            "classified": task.why,
            "needs": {
                "api": need.api,
                "input_tokens": need.tokens_in,
                "output_tokens": need.tokens_out,
                "capabilities": sorted(need.capabilities),
            },
            "order": [
                {
                    "model": each.model.name,
                    "why": each.why,
                    "micro_usd": each.model.price(
                        need.tokens_in, min(need.tokens_out or 32_768, self._typical_out(each.model.name))
                    ),
                    "rests_s": round(self.fleet.rests(each.model.name), 1),
                }
                for each in found.order
            ],
            "passed": found.passed,
        }

    def health(self) -> dict[str, dict[str, Any]]:
        """How each model that was asked is doing, since the daemon began."""
        return {
            name: {
                "requests": health.requests,
                "errors": health.errors,
                "under_way": health.under_way,
                "seconds": health.seconds,
                "first_token_s": health.first_s,
                "output_tokens": health.out,
                "rests_s": round(self.fleet.rests(name), 1),
                "problem": health.problem,
            }
            for name, health in self.fleet.all().items()
        }

    # --- deciding ---------------------------------------------------------------------------

    async def _asked(
        self, api: Api, body: Mapping[str, Any], caller: Caller, request_id: str, key: str
    ) -> Asked:
        name = checked(api, body)
        if not caller.may_ask(name):
            raise Denied(
                f"This token is not good for {name!r}", hint=f"It is good for {', '.join(caller.models)}"
            )
        _, found, task = await self._route(api, body, key)
        alias = self._catalog.alias(name)
        return Asked(api, body, caller, request_id or new_id("req"), found, alias, classified=task.why)

    async def _route(self, api: Api, body: Mapping[str, Any], key: str) -> tuple[Need, Route, Task]:
        name, contents = checked(api, body), list(contents_of(body))
        need = need_of(api, body, contents)
        if (alias := self._catalog.alias(name)) is not None:
            task = NO_TASK
            if alias.classifier and self._tasks is not None:
                task = await self._tasks.of(alias.classifier, question_of(body))
            found = route(
                alias,
                self._catalog.models,
                need,
                draw_of(body, key, contents),
                self._quality,
                self._typical_out,
                task.label,
                task.enough,
            )
            return need, found, task
        model = self._catalog.get(name)
        if why := refusal(model, need):
            return need, Route(name, passed={name: why}), NO_TASK
        return need, Route(name, [Candidate(model, f"{name!r} was asked for by name")]), NO_TASK

    async def embedding_of(self, embedder: str, text: str) -> Sequence[float] | None:
        """The vector of a text by an embedder that is served here; None where there is none."""
        model = self._catalog.models.get(embedder)
        service = None if model is None else self._serving.find(embedder)
        if model is None or service is None or not service.ready:
            return None
        self._serving.touch(service.job_id)
        target = Target(model, f"{service.url}/v1", embedder, service.token, service.job_id)
        answer = await self._upstream.ask(target, "embeddings", {"model": embedder, "input": text})
        return answer.data["data"][0]["embedding"]

    def _typical_out(self, model: str) -> float:
        return self.fleet.of(model).out or 256.0

    def _target(self, model: Model) -> Target:
        if model.endpoint:
            return Target(model, model.endpoint.rstrip("/"), model.upstream or model.name, key_of(model))
        service = self._serving.find(model.name)
        if service is None:
            raise Unavailable(
                f"Model {model.name!r} is not being served",
                hint=f"Start it: agentd call serve model={model.name}",
            )
        if not service.ready:
            raise Unavailable(
                f"Model {model.name!r} is still starting",
                hint=f"Follow it: agentd jobs {service.job_id}",
                retry_after_s=5,
            )
        self._serving.touch(service.job_id)
        return Target(model, f"{service.url}/v1", model.name, service.token, service.job_id)

    # --- asking -----------------------------------------------------------------------------

    async def _try(self, asked: Asked, ask: Callable[[Target, Attempt], Awaitable[T]]) -> tuple[Attempt, T]:
        """Ask one after the other until one answers. Raises what the last one said."""
        waiting, tries = list(asked.route.order), 0
        problem: AgentdError | None = None
        while waiting:
            candidate, is_last = waiting.pop(0), not waiting
            name = candidate.model.name
            if (rest_s := self.fleet.rests(name)) or (not is_last and self.fleet.is_full(candidate.model)):
                why = (
                    f"it rests for {rest_s:.0f} s more: {self.fleet.of(name).problem}"
                    if rest_s
                    else "it is busy"
                )
                asked.route.passed[name] = why
                if not asked.attempts:
                    problem = Unavailable(f"Model {name!r} is not asked: {why}", retry_after_s=rest_s or 1.0)
                continue
            made = len(asked.attempts)
            try:
                return await self._attempt(asked, candidate, ask)
            except AgentdError as error:
                problem = error
                if len(asked.attempts) == made:
                    asked.route.passed[name] = error.message
                if not _moves_on(error):
                    raise
                if is_last and tries < RETRIES and (wait := _wait(error, tries)) is not None:
                    tries += 1
                    waiting.append(candidate)
                    await asyncio.sleep(wait)
        raise problem or _nobody(asked.route)

    async def _attempt(
        self, asked: Asked, candidate: Candidate, ask: Callable[[Target, Attempt], Awaitable[T]]
    ) -> tuple[Attempt, T]:
        model = candidate.model
        target = self._target(model)
        attempt = self._metering.begin(model, asked.api, asked.body, asked.caller)
        try:
            await self.fleet.enter(model)
        except BaseException as error:
            attempt.end(cost_nothing=True)
            asked.note(attempt, _status(error))
            if isinstance(error, TimeoutError):
                raise Unavailable(f"Model {model.name!r} is busy", retry_after_s=1.0) from None
            raise
        asked.model = model.name
        asked.why = f"{candidate.why}; served here by {target.service}" if target.service else candidate.why
        if asked.attempts:
            asked.why += f"; after {', '.join(each['model'] for each in asked.attempts)} could not"
        try:
            return attempt, await ask(target, attempt)
        except BaseException as error:
            attempt.end(cost_nothing=_cost_nothing(error))
            asked.note(attempt, _status(error))
            self._failed(model.name, error)
            self.fleet.leave(model.name)
            raise

    def _failed(self, name: str, error: BaseException) -> None:
        if isinstance(error, UpstreamError) and not _moves_on(error):
            self.fleet.refused(name)
        elif isinstance(error, UpstreamError):
            self.fleet.failed(
                name, error.message, error.retry_after_s if error.status in (429, 503) else None
            )
        elif isinstance(error, AgentdError):
            self.fleet.failed(name, error.message)

    def _answered(
        self,
        asked: Asked,
        attempt: Attempt,
        status: str = "ok",
        first_s: float | None = None,
    ) -> None:
        attempt.end()
        asked.note(attempt, status)
        if status == "ok":
            seconds = time.monotonic() - attempt.began
            self.fleet.answered(attempt.model.name, seconds, attempt.usage.output, first_s)
        self.fleet.leave(attempt.model.name)
        asked.attempts[-1] |= {
            "input_tokens": attempt.usage.input,
            "output_tokens": attempt.usage.output,
            "cached_tokens": attempt.usage.cached,
            "reasoning_tokens": attempt.usage.reasoning,
            **({"first_token_s": round(first_s, 4)} if first_s is not None else {}),
        }

    def _record(self, asked: Asked, status: str) -> None:
        last = asked.attempts[-1] if asked.attempts else {}
        row = RequestRow(
            id=asked.id,
            asked=str(asked.body["model"]),
            model=asked.model or (asked.route.order[0].model.name if asked.route.order else ""),
            why=asked.why,
            principal=asked.caller.principal,
            project=asked.caller.project,
            status=status,
            input_tokens=last.get("input_tokens", 0),
            output_tokens=last.get("output_tokens", 0),
            micro_usd=asked.spent,
            seconds=time.monotonic() - asked.started,
            at=time.time(),
            trace=_trace(asked),
        )
        self._metering.record(row)
        self.metrics.count(row)
        self._tell(row)

    # --- shadows ----------------------------------------------------------------------------

    def _shadow(self, asked: Asked) -> None:
        """Ask the shadows of an alias the same, on a budget of their own, after the answer has gone out."""
        for name, share in asked.alias.shadow.items() if asked.alias else ():
            if draw_of(asked.body, asked.id + name) >= share or len(self._shadows) >= MOST_SHADOWS:
                continue
            task = asyncio.create_task(self._ask_shadow(asked, name), name=f"shadow {name}")
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)

    async def _ask_shadow(self, asked: Asked, name: str) -> None:
        body = {key: value for key, value in asked.body.items() if key not in ("stream", "stream_options")}
        caller = replace(asked.caller, principal=f"shadow:{asked.route.asked}", charged="", models=())
        with contextlib.suppress(AgentdError):  # its row says what became of it
            await self.complete(
                {**body, "model": name}, caller, request_id=f"{asked.id}.{name}", api=asked.api
            )


def checked(api: Api, body: Mapping[str, Any]) -> str:
    """The name that a request asks for. Raises `InputError`."""
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise InputError("The request names no model", hint='Set "model" to a model or alias')
    needed, kind = NEEDED[api]
    if not isinstance(body.get(needed), kind) or not body[needed]:
        raise InputError(f"The request has no {needed}", hint=f'Set "{needed}", which must not be empty')
    return name


def _said(asked: Asked) -> dict[str, Any]:
    return {"request_id": asked.id, "model": asked.model, "why": asked.why}


def _trace(asked: Asked) -> dict[str, Any]:
    facts = {
        "api": asked.api,
        "task": asked.route.task,
        "classified": asked.classified,
        "attempts": asked.attempts,
        "passed": asked.route.passed,
        "cached": asked.cached,
    }
    return {name: value for name, value in facts.items() if value}


def _status(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _nobody(found: Route) -> AgentdError:
    """What is said when nobody of a route could be asked."""
    reasons = "; ".join(f"{name}: {why}" for name, why in found.passed.items())
    if len(found.passed) == 1:
        [(name, why)] = found.passed.items()
        if "costs is not known" in why:
            return Unavailable(
                f"What {name!r} costs is not known, so it is not asked",
                hint="Set input_ and output_micro_usd_per_mtok of it in agentd.toml; 0 is free",
            )
        return InputError(f"Model {name!r} cannot answer this: {why}")
    return InputError(f"No model of {found.asked!r} can answer this: {reasons}")


def _moves_on(error: AgentdError) -> bool:
    """Whether another model may do better: not where the request is at fault."""
    if isinstance(error, UpstreamError):
        said = error.message.lower()
        return error.status not in (400, 413, 422) or any(words in said for words in TOO_LONG)
    return isinstance(error, Unavailable | OverBudget)


def _wait(error: AgentdError, tries: int) -> float | None:
    """Seconds after which the same model may be asked again; None where that is not safe, or too long."""
    if not _cost_nothing(error) or isinstance(error, OverBudget):
        return None
    if isinstance(error, UpstreamError) and error.status not in (429, 503):
        return None
    if isinstance(error, Unavailable) and not error.__cause__:
        return None  # not served, no key: a moment changes nothing
    said: float | None = getattr(error, "retry_after_s", None)
    wait = 0.2 * 2**tries * (0.5 + random.random()) if said is None else said
    return wait if wait <= LONGEST_WAIT_S else None


def _cost_nothing(error: BaseException) -> bool:
    """Whether an attempt surely cost nothing: refused by the endpoint, or no connection."""
    if isinstance(error, UpstreamError):
        return error.status < 500 or (error.status == 503 and error.retry_after_s is not None)
    return isinstance(error, Unavailable)
