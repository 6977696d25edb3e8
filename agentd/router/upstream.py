"""One attempt at an endpoint over HTTP: what is sent, what comes back, and what went wrong.

aiohttp carries it: of the clients that were measured on this path it adds the least. Answers are passed on
as they come. A stream is only begun when its first event has been read and is none of an error, so that until
then another model can be asked; from then on it ends with its last event or with an error, never just so.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import os
import time
import urllib.request
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic_core import from_json, to_json

from agentd.errors import AgentdError, Unavailable
from agentd.sdk import Api, Model

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Answer", "Stream", "Target", "Upstream", "UpstreamError", "Usage", "key_of", "usage_of"]

CONNECT_S = 10.0
BETWEEN_CHUNKS_S = 120.0
KEPT_ALIVE_S = 4.0
"""Below the 5 s after which uvicorn, and so vLLM, closes a connection that nobody uses."""
LONGEST_EVENT = 8_000_000
DONE = (b"data: [DONE]", b"data:[DONE]")
LAST_EVENTS: Mapping[Api, tuple[bytes, ...]] = {
    "chat/completions": DONE,
    "completions": DONE,
    "responses": tuple(b"event: response." + end for end in (b"completed", b"incomplete", b"failed")),
    "messages": (b"event: message_stop",),
}
"""How the last event of a stream begins, or a line of it."""


class UpstreamError(AgentdError):
    """The endpoint answered with an error; `status` is its HTTP status."""

    code = "upstream"

    def __init__(
        self, message: str, *, status: int, hint: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.status, self.retry_after_s = status, retry_after_s


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: the model, its URL (ending in /v1), its name there, and the key."""

    model: Model
    url: str
    upstream: str
    key: str
    service: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens as the endpoint counted them. `cached` are those of `input` that it had cached."""

    input: int = 0
    output: int = 0
    cached: int = 0
    reasoning: int = 0

    def __or__(self, later: Usage) -> Usage:
        """What is known when `later` came after it."""
        return Usage(
            later.input or self.input,
            later.output or self.output,
            later.cached or self.cached,
            later.reasoning or self.reasoning,
        )

    def __bool__(self) -> bool:
        return bool(self.input or self.output)


@dataclass(frozen=True, slots=True)
class Answer:
    data: dict[str, Any]
    usage: Usage


class Upstream:
    """The HTTP client, made on first use: the daemon starts without one."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, str | None] = {}

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def ask(self, target: Target, api: Api, body: Mapping[str, Any]) -> Answer:
        """The whole answer. Raises `UpstreamError`, or `Unavailable` when nothing was sent."""
        try:
            async with asyncio.timeout(target.model.total_s):
                async with self._post(target, api, body) as response:
                    raw = await response.read()
        except _failures() as error:
            raise _unreachable(target, error) from error
        if response.status != 200:
            raise _refused(target, response.status, raw, response.headers)
        try:
            data = from_json(raw)
        except ValueError as error:
            raise UpstreamError(
                f"{target.model.name!r} answered 502: the answer is not JSON", status=502
            ) from error
        if not isinstance(data, dict):
            raise UpstreamError(f"{target.model.name!r} answered 502: the answer is no object", status=502)
        if "error" in data and data["error"] and "choices" not in data and "output" not in data:
            raise _error_in(target, data["error"])
        return Answer(data, usage_of(data.get("usage")))

    async def stream(
        self, target: Target, api: Api, body: Mapping[str, Any], *, show_usage: bool = True
    ) -> Stream:
        """A stream whose first event has come. Raises what `ask` raises."""
        response = None
        try:
            async with asyncio.timeout(target.model.first_token_s):
                response = await self._post(target, api, body).__aenter__()
                if response.status != 200:
                    raise _refused(target, response.status, await response.read(), response.headers)
                stream = Stream(target, api, response, show_usage=show_usage)
                await stream.begin()
                return stream
        except BaseException as error:
            if response is not None:
                response.close()
            if isinstance(error, _failures()):
                raise _unreachable(target, error) from error
            raise

    def _post(
        self, target: Target, api: Api, body: Mapping[str, Any]
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = {"Content-Type": "application/json"}
        if target.key:
            headers |= (
                {"x-api-key": target.key, "anthropic-version": "2023-06-01"}
                if api == "messages"
                else {"Authorization": f"Bearer {target.key}"}
            )
        return self._client().post(
            f"{target.url}/{api}",
            data=to_json(body),
            headers=headers,
            proxy=self._proxy(target.url),
            allow_redirects=False,  # or the key would go wherever the endpoint says
        )

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1000, keepalive_timeout=KEPT_ALIVE_S),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S, sock_read=BETWEEN_CHUNKS_S),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "agentd"},
            )
        return self._session

    def _proxy(self, url: str) -> str | None:
        """What the environment says stands between us and the outside; never before our own services."""
        if url not in self._proxies:
            parts = urlsplit(url)
            host = parts.hostname or ""
            direct = host in ("localhost", "127.0.0.1", "::1") or urllib.request.proxy_bypass(host)
            self._proxies[url] = None if direct else urllib.request.getproxies().get(parts.scheme)
        return self._proxies[url]


class Stream:
    """Server-sent events of one answer, as bytes; whole events at a time.

    `usage` is known at the end. An event that only tells it is left out unless `show_usage`.
    """

    def __init__(
        self, target: Target, api: Api, response: aiohttp.ClientResponse, *, show_usage: bool
    ) -> None:
        self._target, self._response, self._show_usage = target, response, show_usage
        self._last = LAST_EVENTS.get(api, ())
        self._buffer, self._ready = b"", b""
        self._ended = False
        self.usage = Usage()

    async def begin(self) -> None:
        """Read the first event. Raises `UpstreamError` for one that is none."""
        while not self._ready and not self._ended:
            if not (chunk := await self._response.content.readany()):
                break
            self._take(chunk)
            if not self._ready and not self._buffer.lstrip().startswith(_STARTS):
                break
        first = self._ready.lstrip()
        if not first.startswith(_STARTS):
            said = (first or self._buffer)[:200].decode(errors="replace")
            raise UpstreamError(
                f"{self._target.model.name!r} answered 502: instead of events it sent {said!r}", status=502
            )
        if b'"error"' in first and isinstance(data := _data_of(first), dict) and data.get("error"):
            raise _error_in(self._target, data["error"])

    async def events(self) -> AsyncGenerator[bytes]:
        """All of them. Raises `UpstreamError` when the endpoint breaks off."""
        try:
            while True:
                if self._ready:
                    ready, self._ready = self._ready, b""
                    yield ready
                if self._ended:
                    return
                chunk = await self._response.content.readany()
                if not chunk:
                    break
                self._take(chunk)
        except _failures() as error:
            raise _unreachable(self._target, error) from error
        raise UpstreamError(f"{self._target.model.name!r} broke off in the middle of its answer", status=502)

    def close(self) -> None:
        """Hang up, which ends the work at the endpoint; a stream that was read to its end is given back."""
        if self._ended:
            self._response.release()
        else:
            self._response.close()

    def _take(self, chunk: bytes) -> None:
        self._buffer += chunk.replace(b"\r\n", b"\n") if b"\r" in chunk else chunk
        *events, self._buffer = self._buffer.split(b"\n\n")
        if len(self._buffer) > LONGEST_EVENT:
            raise UpstreamError(
                f"{self._target.model.name!r} answered 502: an event is longer than {LONGEST_EVENT} bytes",
                status=502,
            )
        for event in events:
            if b'"usage"' in event and not self._read_usage(event):
                continue
            self._ready += event + b"\n\n"
            if event.startswith(self._last) or any(b"\n" + mark in event for mark in self._last):
                self._ended = True

    def _read_usage(self, event: bytes) -> bool:
        """Take in what an event says of usage; whether the event is to be passed on."""
        data = _data_of(event)
        if not isinstance(data, dict):
            return True
        inner = data.get("response") or data.get("message") or data
        if isinstance(inner, dict) and isinstance(usage := inner.get("usage"), dict):
            self.usage |= usage_of(usage)
        return self._show_usage or data.get("choices") != []


_STARTS = (b"data:", b"event:", b":", b"id:", b"retry:")


def _data_of(events: bytes) -> Any:
    """The JSON of the first data line; None where there is none."""
    for line in events.split(b"\n"):
        if line.startswith(b"data:"):
            try:
                return json.loads(line[5:])
            except ValueError:
                return None
    return None


def usage_of(told: Any) -> Usage:
    """The `usage` object of an answer of any of the endpoints."""
    if not isinstance(told, dict):
        return Usage()
    details = told.get("prompt_tokens_details") or told.get("input_tokens_details") or {}
    out = told.get("completion_tokens_details") or told.get("output_tokens_details") or {}
    read, made = _int(told, "cache_read_input_tokens"), _int(told, "cache_creation_input_tokens")
    return Usage(  # Anthropic counts what it had cached apart, the others count it in
        input=(_int(told, "prompt_tokens") or _int(told, "input_tokens")) + read + made,
        output=_int(told, "completion_tokens") or _int(told, "output_tokens"),
        cached=read or _int(details, "cached_tokens"),
        reasoning=_int(out, "reasoning_tokens"),
    )


def _int(of: Any, name: str) -> int:
    value = of.get(name) if isinstance(of, dict) else None
    return int(value) if isinstance(value, int | float) and value > 0 else 0


# --- what goes wrong ------------------------------------------------------------------------


def _failures() -> tuple[type[BaseException], ...]:
    import aiohttp

    return (aiohttp.ClientError, TimeoutError, OSError)


def _unreachable(target: Target, error: BaseException) -> AgentdError:
    import aiohttp

    said = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Unavailable(
            f"{target.model.name!r} at {target.url} cannot be reached: {said}",
            hint="Check the endpoint in agentd.toml and the network",
        )
    if isinstance(error, TimeoutError):
        return UpstreamError(f"{target.model.name!r} at {target.url} took too long", status=504)
    return UpstreamError(f"{target.model.name!r} at {target.url} broke off: {said}", status=504)


def _refused(target: Target, status: int, raw: bytes, headers: Mapping[str, str]) -> UpstreamError:
    try:
        said = json.loads(raw)
        said = said.get("error", said)
        said = said.get("message", said) if isinstance(said, dict) else said
    except (ValueError, AttributeError):
        said = raw.decode(errors="replace")
    if 300 <= status < 400:
        said = f"it redirects to {headers.get('Location', 'nowhere')!r}, and redirects are not followed"
    hint = f"Check the key in {target.model.key_env}" if status in (401, 403) and target.model.key_env else ""
    return UpstreamError(
        f"{target.model.name!r} answered {status}: {str(said)[:500]}",
        status=status,
        hint=hint,
        retry_after_s=_retry_after(headers),
    )


def _error_in(target: Target, error: Any) -> UpstreamError:
    """An error that came with status 200."""
    error = error if isinstance(error, dict) else {"message": error}
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 502
    return UpstreamError(
        f"{target.model.name!r} answered {status}: {str(error.get('message', error))[:500]}", status=status
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint wants to be left alone, if it says so."""
    said = headers.get("retry-after-ms") or headers.get("Retry-After") or ""
    try:
        return max(0.0, float(said) / (1000 if headers.get("retry-after-ms") else 1))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    except ValueError:
        return None


def key_of(model: Model) -> str:
    """The key of a model's endpoint. Raises `Unavailable` when the environment lacks it."""
    if not model.key_env:
        return ""
    key = os.environ.get(model.key_env, "")
    if not key:
        raise Unavailable(
            f"Model {model.name!r} needs a key, and the environment variable {model.key_env} is not set",
            hint=f"Set {model.key_env} where the daemon is started, and start it again",
        )
    return key
