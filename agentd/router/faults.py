"""What goes wrong at an endpoint, in words that say which model it was and what to do."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Mapping
from typing import Any

from agentd.errors import AgentdError, Unavailable
from agentd.router.targets import Target

__all__ = ["UpstreamError", "error_in", "failures", "refused", "rest_of", "unreachable"]

LONGEST_REST_S = 3600.0


class UpstreamError(AgentdError):
    """The endpoint answered with an error; `status` is its HTTP status."""

    code = "upstream"

    def __init__(
        self, message: str, *, status: int, hint: str = "", retry_after_s: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.status, self.retry_after_s = status, retry_after_s


def failures() -> tuple[type[BaseException], ...]:
    import aiohttp

    return (aiohttp.ClientError, TimeoutError, OSError)


def unreachable(target: Target, error: BaseException) -> AgentdError:
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


def refused(target: Target, status: int, raw: bytes, headers: Mapping[str, str]) -> UpstreamError:
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
        retry_after_s=rest_of(headers),
    )


def error_in(target: Target, error: Any) -> UpstreamError:
    """An error that came with status 200."""
    error = error if isinstance(error, dict) else {"message": error}
    code = error.get("code")
    status = code if isinstance(code, int) and 400 <= code < 600 else 502
    return UpstreamError(
        f"{target.model.name!r} answered {status}: {str(error.get('message', error))[:500]}", status=status
    )


def rest_of(headers: Mapping[str, str]) -> float | None:
    """Seconds that the endpoint wants to be left alone, if it says so; at most an hour is believed."""
    said = headers.get("retry-after-ms") or headers.get("Retry-After") or ""
    try:
        seconds = float(said) / (1000 if headers.get("retry-after-ms") else 1)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(said).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(seconds, LONGEST_REST_S) if seconds >= 0 else 0.0
