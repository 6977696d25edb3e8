"""One request, from a name to a metered answer: decide whom to ask, ask them, remember what came of it.

Fields that are not ours pass untouched. Once the first byte of a stream has gone out nobody else is asked.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentd.errors import AgentdError, Denied
from agentd.policy.callers import Caller
from agentd.router.answers import Answers
from agentd.router.asking import Asking, NotEnough, status_of
from agentd.router.catalog import Catalog
from agentd.router.decide import Quality, draw_of
from agentd.router.enough import wanting
from agentd.router.faults import UpstreamError
from agentd.router.health import Fleet
from agentd.router.inquiry import Asked, Inquiry
from agentd.router.metering import Attempt, Metering
from agentd.router.metrics import Metrics
from agentd.router.routing import Found, Routing
from agentd.router.streams import Stream
from agentd.router.targets import Serving, Target
from agentd.router.tasks import Tasks
from agentd.router.upstream import Upstream
from agentd.sdk import Alias, ChatResult, Model
from agentd.store.journal import Journal
from agentd.store.leases import Leases
from agentd.store.requests import RequestRow, RequestTable

__all__ = ["Dispatch"]

MOST_SHADOWS = 16


OnShadow = Callable[[Inquiry, str, str, Mapping[str, Any]], None]
"""Told of (request, alias, model, reply) when a shadow has answered."""


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
        self._tell = tell
        self._upstream, self._answers = Upstream(), Answers()
        self._shadows: set[asyncio.Task[None]] = set()
        self.fleet = Fleet()
        self.metrics = Metrics(self.fleet)
        tasks = Tasks(heads, self.embedding_of) if heads else None
        self.routing = Routing(catalog, self.fleet, quality, tasks)
        self.on_shadow: OnShadow = lambda inquiry, alias, model, reply: None

    async def aclose(self) -> None:
        for task in self._shadows:
            task.cancel()
        await asyncio.gather(*self._shadows, return_exceptions=True)
        await self._upstream.aclose()
        await self._metering.aclose()

    async def complete(self, inquiry: Inquiry) -> dict[str, Any]:
        """Answer one request. The reply carries ``agentd`` with request id, model and why."""
        found = await self._found(inquiry)
        asked, api, alias = Asked(inquiry, found.route, found.task.why), inquiry.api, found.alias
        cache_s = alias.cache_s if alias and api != "embeddings" else 0.0
        scope = self._scope(inquiry.caller.project, alias) if alias and cache_s else ""
        kept = self._answers.find(scope, api, inquiry.body, cache_s) if cache_s else None
        if kept is not None:
            asked.model, asked.why, asked.cached = kept.model, f"answered before as {kept.id}", True
            self._record(asked, "ok")
            return {**kept.reply, "agentd": _said(asked)}
        judged = alias if alias and alias.escalate_on and api == "chat/completions" else None
        sent = _with_effort(inquiry.body, found)
        if "stream" in sent or api in ("chat/completions", "completions"):
            sent = {**sent, "stream": False}
        wants_logprobs = judged is not None and "unsure" in judged.escalate_on and not sent.get("logprobs")

        async def ask(target: Target, attempt: Attempt, is_last: bool) -> dict[str, Any]:
            told = wants_logprobs and not is_last and _can(target.model, "logprobs")
            body = {**sent, "model": target.upstream, **({"logprobs": True} if told else {})}
            answer = await self._upstream.ask(target, api, body, inquiry.headers)
            attempt.usage = answer.usage
            if judged is not None and not is_last:
                why = wanting(judged, body, answer.data)
                reply = _without_logprobs(answer.data) if told else answer.data
                if why:
                    raise NotEnough(why, target.model.name, reply)
                return reply
            return answer.data

        try:
            attempt, reply = await self._asking(ask, lambda reply: None).first(asked, _hedge_of(found))
        except NotEnough as error:  # nobody after it could answer at all
            reply, asked.model = dict(error.reply), error.model
            asked.why = f"{error.model!r} answered: {error.message}, and nobody else could"
        except BaseException as error:
            self._record(asked, status_of(error))
            raise
        else:
            self._answered(asked, attempt)
        self._record(asked, "ok")
        if cache_s:
            self._answers.keep(scope, api, inquiry.body, asked.id, asked.model, reply)
        self._shadow(asked, alias)
        return {**reply, "agentd": _said(asked)}

    async def stream(
        self, inquiry: Inquiry, on_start: Callable[[Asked], None] = lambda asked: None
    ) -> AsyncGenerator[bytes]:
        """The same as server-sent events, passed through as they come.

        `on_start` is told who answers, before the first bytes.
        """
        found = await self._found(inquiry)
        asked, api = Asked(inquiry, found.route, found.task.why), inquiry.api
        options, shown = inquiry.body.get("stream_options"), True
        sent = {**_with_effort(inquiry.body, found), "stream": True}
        if api in ("chat/completions", "completions"):
            shown = isinstance(options, dict) and bool(options.get("include_usage"))
            sent["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}

        async def ask(target: Target, attempt: Attempt, is_last: bool) -> Stream:
            body = {**sent, "model": target.upstream}
            return await self._upstream.stream(target, api, body, inquiry.headers, show_usage=shown)

        try:
            attempt, stream = await self._asking(ask, Stream.close).first(asked, _hedge_of(found))
        except BaseException as error:
            self._record(asked, status_of(error))
            raise
        first_s, status = time.monotonic() - attempt.began, "ok"
        asked.settle(attempt)
        try:
            on_start(asked)
            async for events in stream.events():
                yield events
        except BaseException as error:
            status = status_of(error)
            if isinstance(error, UpstreamError):
                self.fleet.failed(attempt.model.name, error.message)
            raise
        finally:
            stream.close()
            attempt.usage = stream.usage
            self._answered(asked, attempt, status, first_s, whole=stream.ended)
            self._record(asked, status)
            if status == "ok":
                self._shadow(asked, found.alias)

    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        caller: Caller,
        *,
        sources: Sequence[str] = (),
        **options: Any,
    ) -> ChatResult:
        """One request as a tool makes it."""
        started = time.monotonic()
        body = {"model": model, "messages": list(messages), **options}
        inquiry = Inquiry(body, caller, sources=tuple(sources))
        reply = await self.complete(inquiry)
        try:
            text = reply["choices"][0]["message"]["content"] or ""
        except (KeyError, IndexError, TypeError) as error:
            raise UpstreamError(f"Model {model!r} answered without a message", status=502) from error
        row = self._requests.find(inquiry.id)
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

    # --- parts ------------------------------------------------------------------------------

    async def _found(self, inquiry: Inquiry) -> Found:
        if not inquiry.caller.may_ask(name := inquiry.name):
            good_for = ", ".join(inquiry.caller.models)
            raise Denied(f"This token is not good for {name!r}", hint=f"It is good for {good_for}")
        return await self.routing.of(inquiry.api, inquiry.body, inquiry.key)

    def _asking(self, ask: Any, discard: Callable[[Any], None]) -> Asking[Any]:
        return Asking(self._metering, self.fleet, self._serving, ask, discard)

    def _answered(
        self,
        asked: Asked,
        attempt: Attempt,
        status: str = "ok",
        first_s: float | None = None,
        *,
        whole: bool = True,
    ) -> None:
        asked.settle(attempt)
        attempt.end(whole=whole)
        asked.note(attempt, status, first_s)
        if status == "ok":
            seconds = time.monotonic() - attempt.began
            self.fleet.answered(attempt.model.name, seconds, attempt.usage.output, first_s)
        self.fleet.leave(attempt.model.name)

    def _record(self, asked: Asked, status: str) -> None:
        row = asked.record(status)
        self._metering.record(row)
        self.metrics.count(row)
        self._tell(row)

    def _scope(self, project: str, alias: Alias) -> str:
        """What an answer may be given again in: as long as the alias and its models are the same."""
        models = [self._catalog.models.get(name) for name in (*alias.weights, *alias.fallbacks)]
        digests = [f"{model.name}={model.upstream}@{model.digest}" for model in models if model is not None]
        return "\n".join((project, alias.model_dump_json(), *digests))

    # --- shadows ----------------------------------------------------------------------------

    def _shadow(self, asked: Asked, alias: Alias | None) -> None:
        """Ask the shadows of an alias the same, on a budget of their own, after the answer has gone out."""
        for name, share in alias.shadow.items() if alias else ():
            if draw_of(asked.inquiry.body, asked.id + name) >= share or len(self._shadows) >= MOST_SHADOWS:
                continue
            task = asyncio.create_task(self._ask_shadow(asked, name), name=f"shadow {name}")
            self._shadows.add(task)
            task.add_done_callback(self._shadows.discard)

    async def _ask_shadow(self, asked: Asked, name: str) -> None:
        inquiry = asked.inquiry
        body = {key: value for key, value in inquiry.body.items() if key not in ("stream", "stream_options")}
        caller = replace(
            inquiry.caller,
            principal=f"shadow:{asked.route.asked}",
            charged="",
            token="",
            allowance=None,
            models=(),
        )
        with contextlib.suppress(AgentdError):  # its row says what became of it
            reply = await self.complete(
                replace(inquiry, body={**body, "model": name}, caller=caller, id=f"{asked.id}.{name}", key="")
            )
            self.on_shadow(inquiry, asked.route.asked, name, reply)


def _said(asked: Asked) -> dict[str, Any]:
    return {"request_id": asked.id, "model": asked.model, "why": asked.why}


def _hedge_of(found: Found) -> float:
    return found.alias.hedge_s if found.alias else 0.0


def _can(model: Model, capability: str) -> bool:
    return model.capabilities is None or capability in model.capabilities


def _with_effort(body: Mapping[str, Any], found: Found) -> Mapping[str, Any]:
    """The body with the effort that the class of the request is worth, where it states none itself."""
    efforts = found.alias.effort if found.alias else {}
    effort = efforts.get(found.task.label) or efforts.get("*")
    if not effort or found.need.api not in ("chat/completions", "responses"):
        return body
    if "reasoning_effort" in body or "reasoning" in body:
        return body
    if found.need.api == "responses":
        return {**body, "reasoning": {"effort": effort}}
    return {**body, "reasoning_effort": effort}


def _without_logprobs(reply: Mapping[str, Any]) -> dict[str, Any]:
    """As it would have been, had nobody asked for them."""
    return {**reply, "choices": [{**choice, "logprobs": None} for choice in reply.get("choices") or ()]}
