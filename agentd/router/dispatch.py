"""One chat request: resolve the name, meter it, ask the endpoint, pass the answer on.

Every endpoint speaks the OpenAI protocol. Fields that are not ours are passed on untouched.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from agentd.errors import AgentdError, InputError, Unavailable
from agentd.policy.callers import Caller
from agentd.router.catalog import Catalog
from agentd.router.metering import Metering
from agentd.sdk import ChatResult, Model, ServiceView
from agentd.store.journal import Journal
from agentd.store.leases import Leases
from agentd.store.requests import RequestTable

if TYPE_CHECKING:
    import httpx

__all__ = ["Dispatch", "Serving", "UpstreamError"]


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


class Dispatch:
    """Sends requests on, one attempt each, each metered before it leaves."""

    def __init__(
        self,
        catalog: Catalog,
        serving: Serving,
        leases: Leases,
        requests: RequestTable,
        journal: Journal,
        doubt: Callable[[Model], str],
    ) -> None:
        self._catalog, self._serving, self._requests = catalog, serving, requests
        self._metering = Metering(leases, requests, journal, doubt, _cost_nothing)
        self._http: httpx.AsyncClient | None = None

    async def aclose(self) -> None:
        if self._http is not None:
            await self._http.aclose()
        await self._metering.aclose()

    async def complete(
        self, body: Mapping[str, Any], caller: Caller, *, request_id: str = ""
    ) -> dict[str, Any]:
        """Answer one chat request. The reply carries ``agentd`` with request id, model and why."""
        target = self._target(body)
        with self._metering.request(target.model, target.why, body, caller, request_id) as metered:
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
            metered.read(reply.get("usage"))
            reply["agentd"] = {"request_id": metered.id, "model": target.model.name, "why": target.why}
            return reply

    async def stream(
        self, body: Mapping[str, Any], caller: Caller, *, request_id: str = ""
    ) -> AsyncGenerator[bytes]:
        """The same as server-sent events, passed through as they come."""
        target = self._target(body)
        options = {**(body.get("stream_options") or {}), "include_usage": True}
        sent = {**body, "model": target.upstream, "stream": True, "stream_options": options}
        with self._metering.request(target.model, target.why, body, caller, request_id) as metered:
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
                    metered.read(_usage_in(tail))
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


def _cost_nothing(error: BaseException) -> bool:
    """Whether the request surely cost nothing: refused by the endpoint, or no connection."""
    return isinstance(error, Unavailable) or (isinstance(error, UpstreamError) and error.status < 500)


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
