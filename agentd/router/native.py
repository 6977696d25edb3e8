"""Endpoints that speak their vendor's own protocol, asked as if they spoke OpenAI's.

any-llm translates, with the vendors' SDKs; both are an extra, ``pip install 'agentd-mcp[native]'``, and are
imported with the first request. An SDK asks once: whether to ask again is decided here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from agentd.errors import AgentdError, Unavailable
from agentd.router.faults import UpstreamError, rest_of
from agentd.router.targets import Target
from agentd.sdk import Api

if TYPE_CHECKING:
    from any_llm import AnyLLM

__all__ = ["Native", "Translated", "is_translated"]

VENDORS: Mapping[str, str] = {"anthropic": "anthropic", "google": "gemini"}
"""any-llm's name for a dialect."""
LEFT_OUT = frozenset({"metadata", "safety_identifier", "store", "stream_options", "user"})
"""What says nothing of the answer."""
UNSENT = frozenset({"ConnectError", "ConnectTimeout"})
"""Kinds of error that say that nothing has been sent."""
REFUSED = frozenset({"TypeError", "NotImplementedError", "UnsupportedParameterError", "InvalidRequestError"})
"""Kinds of error that say that the request cannot be translated."""


def is_translated(target: Target, api: Api) -> bool:
    """Whether a request is put into the endpoint's own words; requests of its own API pass untouched."""
    return target.model.dialect != "openai" and api == "chat/completions"


class Http(Protocol):
    async def aclose(self) -> None: ...


class Native:
    """One SDK client for each endpoint and key."""

    def __init__(self) -> None:
        self._clients: dict[tuple[str, str, str], tuple[AnyLLM, Http]] = {}

    async def aclose(self) -> None:
        for _, http in self._clients.values():
            await http.aclose()

    async def complete(self, target: Target, body: Mapping[str, Any]) -> dict[str, Any]:
        """A chat completion. Raises `UpstreamError`, or `Unavailable` when nothing was sent."""
        reply: Any = await self._ask(target, body)
        return reply.model_dump(mode="json", exclude_none=True)

    async def stream(self, target: Target, body: Mapping[str, Any]) -> Translated:
        """Its chunks as server-sent events. Raises what `complete` raises."""
        return Translated(target, aiter(await self._ask(target, {**body, "stream": True})))

    async def _ask(self, target: Target, body: Mapping[str, Any]) -> Any:
        asked = {name: value for name, value in body.items() if name not in LEFT_OUT and value is not None}
        try:
            return await self._client(target).acompletion(**asked)
        except AgentdError:
            raise
        except Exception as error:
            raise _told(target, error) from error

    def _client(self, target: Target) -> AnyLLM:
        vendor = VENDORS[target.model.dialect]
        key = vendor, target.url, target.key
        if key not in self._clients:
            try:
                from any_llm import AnyLLM

                http, options = _http(vendor)
                made = AnyLLM.create(
                    vendor,
                    target.key or "none",
                    target.url.removesuffix("/v1"),
                    unified_exceptions=True,
                    max_retries=0,
                    **options,
                )
            except ImportError as error:
                raise Unavailable(
                    f"{target.model.name!r} speaks the protocol of {target.model.dialect}, and what"
                    " translates it is not installed",
                    hint="pip install 'agentd-mcp[native]', and start the daemon again",
                ) from error
            self._clients[key] = made, http
        return self._clients[key][0]


class Translated:
    """A response whose `content` are the events of a stream: what `Stream` reads."""

    def __init__(self, target: Target, chunks: AsyncIterator[Any]) -> None:
        self._target, self._chunks, self._done = target, chunks, False
        self._closing: asyncio.Task[None] | None = None

    @property
    def content(self) -> Translated:
        return self

    async def readany(self) -> bytes:
        """The next event; empty when there is none any more."""
        if self._done:
            return b""
        try:
            chunk = await anext(self._chunks)
        except StopAsyncIteration:
            self._done = True
            return b"data: [DONE]\n\n"
        except Exception as error:
            raise _told(self._target, error) from error
        return b"data: " + chunk.model_dump_json(exclude_none=True).encode() + b"\n\n"

    def release(self) -> None:
        self.close()

    def close(self) -> None:
        """Hang up, behind the caller."""
        self._closing = asyncio.get_running_loop().create_task(self._close(), name="hang up")

    async def _close(self) -> None:
        with contextlib.suppress(Exception):  # nobody waits for what is said in parting
            await self._chunks.aclose()  # pyright: ignore[reportAttributeAccessIssue]


def _http(vendor: str) -> tuple[Http, dict[str, Any]]:
    """A client for an SDK, and how the SDK is told of it.

    It follows no redirects, or the key would go wherever the endpoint says. Timeouts are the caller's.
    """
    if vendor == "anthropic":
        from anthropic import DefaultAsyncHttpxClient

        http = DefaultAsyncHttpxClient(follow_redirects=False, timeout=None)
        return http, {"http_client": http}
    import httpx
    from google.genai.types import HttpOptions

    own = httpx.AsyncClient(timeout=None)
    return own, {"http_options": HttpOptions(httpx_async_client=own)}


def _told(target: Target, error: Exception) -> AgentdError:
    """What any-llm and the SDKs say, in the words of `faults`."""
    name, said = target.model.name, str(error)[:500]
    status = getattr(error, "status_code", None)
    causes = frozenset(_causes(error))
    if isinstance(status, int):
        return UpstreamError(
            f"{name!r} answered {status}: {said}",
            status=status,
            hint=f"Check the key in {target.model.key_env}" if status in (401, 403) else "",
            retry_after_s=rest_of({"Retry-After": str(getattr(error, "retry_after", None) or "")}),
        )
    if causes & UNSENT:
        return Unavailable(
            f"{name!r} at {target.url} cannot be reached: {said}",
            hint="Check the endpoint in agentd.toml and the network",
        )
    if causes & REFUSED:
        return UpstreamError(
            f"{name!r} cannot be asked this, translated to the protocol of {target.model.dialect}: {said}",
            status=400,
        )
    return UpstreamError(f"{name!r} at {target.url} broke off: {said}", status=504)


def _causes(error: BaseException | None) -> Iterator[str]:
    """The names of an error's kinds, and of what caused it."""
    while error is not None:
        yield from (kind.__name__ for kind in type(error).__mro__)
        error = error.__cause__ or error.__context__
