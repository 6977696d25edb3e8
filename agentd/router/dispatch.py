"""One chat request: resolve the name, reserve its cost, ask the endpoint, settle, remember why.

Every endpoint speaks the OpenAI protocol. Fields that are not ours are passed on untouched.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from agentd.errors import AgentdError, InputError, Unavailable
from agentd.ids import new_id
from agentd.policy.callers import Caller
from agentd.router.catalog import Catalog
from agentd.sdk import ChatResult, Model, ServiceView
from agentd.store.ledger import Ledger
from agentd.store.requests import RequestTable

if TYPE_CHECKING:
    import httpx

__all__ = ["Dispatch", "Serving", "UpstreamError"]

_CHARACTERS_PER_TOKEN = 3  # a low guess: what is reserved must not be less than what is spent
_DEFAULT_MAX_TOKENS = 4096


class UpstreamError(AgentdError):
    """The endpoint answered with an error; `status` is its HTTP status."""

    code = "upstream"

    def __init__(self, message: str, *, status: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status


class Serving(Protocol):
    """Which local service answers for a model."""

    def find(self, name: str) -> ServiceView | None: ...
    def touch(self, job_id: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a request goes: the model, its URL (ending in /v1), its name there, the key, and why."""

    model: Model
    url: str
    upstream: str
    key: str
    why: str
    service: str | None = None


@dataclass(slots=True)
class _Usage:
    input_tokens: int = 0
    output_tokens: int = 0

    def read(self, usage: Mapping[str, Any] | None) -> None:
        if usage:
            self.input_tokens = int(usage.get("prompt_tokens") or 0)
            self.output_tokens = int(usage.get("completion_tokens") or 0)


class Dispatch:
    """Sends requests on, one attempt each, each metered before it leaves."""

    def __init__(self, catalog: Catalog, serving: Serving, ledger: Ledger, requests: RequestTable) -> None:
        self._catalog, self._serving = catalog, serving
        self._ledger, self._requests = ledger, requests
        self._http: httpx.AsyncClient | None = None

    async def aclose(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    async def complete(self, body: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        """Answer one chat request. The reply carries ``agentd`` with request id, model and why."""
        target = self._target(body)
        async with self._metered(target, body, caller) as metered:
            client = self._client()
            try:
                response = await client.post(
                    f"{target.url}/chat/completions",
                    json={**body, "model": target.upstream, "stream": False},
                    headers=_headers(target),
                )
            except _http_errors() as error:
                raise _unreachable(target, error) from error
            if response.status_code != 200:
                raise _upstream_error(target, response.status_code, response.text)
            try:
                reply: dict[str, Any] = response.json()
            except ValueError as error:
                raise _upstream_error(target, 502, "the answer is not JSON") from error
            metered.usage.read(reply.get("usage"))
            reply["agentd"] = {"request_id": metered.id, "model": target.model.name, "why": target.why}
            return reply

    async def stream(self, body: Mapping[str, Any], caller: Caller) -> AsyncIterator[bytes]:
        """The same as server-sent events, passed through as they come."""
        target = self._target(body)
        options = {**(body.get("stream_options") or {}), "include_usage": True}
        sent = {**body, "model": target.upstream, "stream": True, "stream_options": options}
        async with self._metered(target, body, caller) as metered:
            try:
                async with self._client().stream(
                    "POST", f"{target.url}/chat/completions", json=sent, headers=_headers(target)
                ) as response:
                    if response.status_code != 200:
                        text = (await response.aread()).decode(errors="replace")
                        raise _upstream_error(target, response.status_code, text)
                    tail = b""
                    async for chunk in response.aiter_bytes():
                        tail = (tail + chunk)[-4096:]
                        yield chunk
                    metered.usage.read(_usage_in(tail))
            except _http_errors() as error:
                raise _unreachable(target, error) from error

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

    def _target(self, body: Mapping[str, Any]) -> _Target:
        name = body.get("model")
        if not isinstance(name, str) or not name:
            raise InputError("The request names no model", hint='Set "model" to a model or alias')
        if not isinstance(body.get("messages"), list) or not body["messages"]:
            raise InputError("The request has no messages", hint='Set "messages" to a list with at least one')
        model, why = self._catalog.resolve(name)
        if model.endpoint:
            return _Target(model, model.endpoint.rstrip("/"), model.upstream or model.name, _key(model), why)
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
        return _Target(
            model,
            f"{service.url}/v1",
            model.name,
            service.token,
            f"{why}; served here by {service.job_id}",
            service.job_id,
        )

    def _metered(self, target: _Target, body: Mapping[str, Any], caller: Caller) -> _Metered:
        return _Metered(self._ledger, self._requests, target, body, caller)

    def _client(self) -> httpx.AsyncClient:
        """Made on first use: the daemon starts without an HTTP client."""
        if self._http is None:
            import httpx

            timeout = httpx.Timeout(600.0, connect=10.0)
            # A proxy set for the outside world must not stand between the daemon and its own services.
            direct = {"all://127.0.0.1": None, "all://localhost": None}
            limits = httpx.Limits(max_connections=256)
            self._http = httpx.AsyncClient(timeout=timeout, limits=limits, mounts=direct)
        return self._http


class _Metered:
    """Reserves the most a request can cost on the way in, settles and records it on the way out."""

    def __init__(
        self, ledger: Ledger, requests: RequestTable, target: _Target, body: Mapping[str, Any], caller: Caller
    ) -> None:
        self._ledger, self._requests = ledger, requests
        self._target, self._body, self._caller = target, body, caller
        self.id, self.usage, self._started = new_id("req"), _Usage(), time.monotonic()
        self._reserved, self._entry = 0, ""

    async def __aenter__(self) -> _Metered:
        self._reserved = _most(self._target.model, self._body)
        if self._reserved:
            self._entry = self._ledger.reserve("tokens", self.id, self._caller.payer, self._reserved)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: object
    ) -> None:
        answered = kind is None
        known = self.usage.input_tokens or self.usage.output_tokens
        spent = _cost(self._target.model, self.usage.input_tokens, self.usage.output_tokens)
        if not known and not _never_left(error):
            spent = self._reserved  # the endpoint may have worked and charged: count what was set aside
        if self._entry:
            self._ledger.settle(self._entry, spent)
        self._requests.add(
            id=self.id,
            asked=str(self._body["model"]),
            model=self._target.model.name,
            why=self._target.why,
            principal=self._caller.principal,
            status="ok" if answered else f"{kind.__name__}: {error}" if kind else "",
            input_tokens=self.usage.input_tokens,
            output_tokens=self.usage.output_tokens,
            micro_usd=spent,
            seconds=time.monotonic() - self._started,
        )


def _never_left(error: BaseException | None) -> bool:
    """Whether the request surely cost nothing: refused by the endpoint, or no connection."""
    return isinstance(error, Unavailable) or (isinstance(error, UpstreamError) and error.status < 500)


def _most(model: Model, body: Mapping[str, Any]) -> int:
    """The most that a request can cost, in micro-USD. Raises `InputError` for limits that are no counts."""
    tokens_in = len(json.dumps(body)) // _CHARACTERS_PER_TOKEN  # tools and schemas are read too
    limits = [_count(body, "max_completion_tokens"), _count(body, "max_tokens")]
    tokens_out = max((limit for limit in limits if limit is not None), default=_DEFAULT_MAX_TOKENS)
    return _cost(model, tokens_in, tokens_out * (_count(body, "n") or 1))


def _count(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None or (isinstance(value, int) and value >= 0):
        return value
    raise InputError(f"{name!r} should be a whole number that is not negative, and is {value!r}")


def _cost(model: Model, tokens_in: int, tokens_out: int) -> int:
    """Micro-USD, rounded up."""
    total = tokens_in * model.input_micro_usd_per_mtok + tokens_out * model.output_micro_usd_per_mtok
    return -(-total // 1_000_000)


def _key(model: Model) -> str:
    if not model.key_env:
        return ""
    key = os.environ.get(model.key_env, "")
    if not key:
        raise Unavailable(
            f"Model {model.name!r} needs a key, and the environment variable {model.key_env} is not set",
            hint=f"Set {model.key_env} where the daemon is started, and start it again",
        )
    return key


def _headers(target: _Target) -> dict[str, str]:
    return {"Authorization": f"Bearer {target.key}"} if target.key else {}


def _http_errors() -> tuple[type[Exception], ...]:
    import httpx

    return (httpx.HTTPError,)


def _unreachable(target: _Target, error: Exception) -> AgentdError:
    import httpx

    said = str(error) or type(error).__name__
    message = f"{target.model.name!r} at {target.url} cannot be reached: {said}"
    if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
        return Unavailable(message, hint="Check the endpoint in agentd.toml and the network")
    return UpstreamError(message, status=504)


def _upstream_error(target: _Target, status: int, text: str) -> UpstreamError:
    try:
        said = json.loads(text)
        said = said.get("error", said)
        said = said.get("message", said) if isinstance(said, dict) else said
    except (ValueError, AttributeError):
        said = text
    hint = f"Check the key in {target.model.key_env}" if status in (401, 403) and target.model.key_env else ""
    return UpstreamError(
        f"{target.model.name!r} answered {status}: {str(said)[:500]}", status=status, hint=hint
    )


def _usage_in(tail: bytes) -> Mapping[str, Any] | None:
    """The usage object of the last server-sent events, if there is one."""
    for line in reversed(tail.split(b"\n")):
        if line.startswith(b"data: {") and b'"usage"' in line:
            try:
                usage = json.loads(line[6:]).get("usage")
            except ValueError:
                return None
            if usage:
                return usage
    return None
