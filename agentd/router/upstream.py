"""One attempt at an endpoint over HTTP.

aiohttp carries it: of the clients that were measured on this path it adds the least.
"""

from __future__ import annotations

import asyncio
import urllib.request
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pydantic_core import from_json, to_json

from agentd.router.faults import UpstreamError, error_in, failures, refused, unreachable
from agentd.router.native import Native, Translated, is_translated
from agentd.router.streams import Stream
from agentd.router.targets import Target
from agentd.router.usage import Usage, usage_of
from agentd.sdk import Api

if TYPE_CHECKING:
    import aiohttp

__all__ = ["Answer", "Upstream"]

CONNECT_S = 10.0
BETWEEN_CHUNKS_S = 120.0
ANTHROPIC_VERSION = "2023-06-01"
"""For requests that name none."""
NO_HEADERS: Mapping[str, str] = {}
KEPT_ALIVE_S = 4.0
"""Below the 5 s after which uvicorn, and so vLLM, closes a connection that nobody uses."""


@dataclass(frozen=True, slots=True)
class Answer:
    data: dict[str, Any]
    usage: Usage


class Upstream:
    """The HTTP client, made on first use: the daemon starts without one."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None
        self._proxies: dict[str, str | None] = {}
        self._native = Native()

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()
        await self._native.aclose()

    async def ask(
        self, target: Target, api: Api, body: Mapping[str, Any], headers: Mapping[str, str] = NO_HEADERS
    ) -> Answer:
        """The whole answer. Raises `UpstreamError`, or `Unavailable` when nothing was sent."""
        try:
            async with asyncio.timeout(target.model.total_s):
                if is_translated(target, api):
                    data = await self._native.complete(target, body)
                    return Answer(data, usage_of(data.get("usage")))
                async with self._post(target, api, body, headers) as response:
                    raw = await response.read()
        except failures() as error:
            raise unreachable(target, error) from error
        if response.status != 200:
            raise refused(target, response.status, raw, response.headers)
        try:
            data = from_json(raw)
        except ValueError as error:
            raise UpstreamError(
                f"{target.model.name!r} answered 502: the answer is not JSON", status=502
            ) from error
        if not isinstance(data, dict):
            raise UpstreamError(f"{target.model.name!r} answered 502: the answer is no object", status=502)
        if "error" in data and data["error"] and "choices" not in data and "output" not in data:
            raise error_in(target, data["error"])
        return Answer(data, usage_of(data.get("usage")))

    async def stream(
        self,
        target: Target,
        api: Api,
        body: Mapping[str, Any],
        headers: Mapping[str, str] = NO_HEADERS,
        *,
        show_usage: bool = True,
    ) -> Stream:
        """A stream whose first event has come. Raises what `ask` raises."""
        response: aiohttp.ClientResponse | Translated | None = None
        try:
            async with asyncio.timeout(target.model.first_token_s):
                if is_translated(target, api):
                    response = await self._native.stream(target, body)
                else:
                    response = await self._post(target, api, body, headers, is_stream=True).__aenter__()
                    if response.status != 200:
                        raise refused(target, response.status, await response.read(), response.headers)
                stream = Stream(target, api, response, show_usage=show_usage)
                await stream.begin()
                return stream
        except BaseException as error:
            if response is not None:
                response.close()
            if isinstance(error, failures()):
                raise unreachable(target, error) from error
            raise

    def _post(
        self,
        target: Target,
        api: Api,
        body: Mapping[str, Any],
        extra: Mapping[str, str],
        *,
        is_stream: bool = False,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = {"Content-Type": "application/json", **extra}
        if api == "messages":
            headers.setdefault("anthropic-version", ANTHROPIC_VERSION)
        if target.key and api == "messages" and not target.service:
            headers["x-api-key"] = target.key
        elif target.key:
            headers["Authorization"] = f"Bearer {target.key}"
        client = self._client()
        return client.post(
            f"{target.url}/{api}",
            data=to_json(body),
            headers=headers,
            timeout=self._stream_timeout if is_stream else client.timeout,
            proxy=self._proxy(target.url),
            allow_redirects=False,  # or the key would go wherever the endpoint says
        )

    def _client(self) -> aiohttp.ClientSession:
        if self._session is None:
            import aiohttp

            self._stream_timeout = aiohttp.ClientTimeout(
                total=None, sock_connect=CONNECT_S, sock_read=BETWEEN_CHUNKS_S
            )
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=1000, keepalive_timeout=KEPT_ALIVE_S),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
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
