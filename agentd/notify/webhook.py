"""Notices as POST requests, signed after the Standard Webhooks specification (standardwebhooks.com, 1.0).

``webhook-signature`` is ``v1,`` and the base64 of an HMAC-SHA256 over ``id.timestamp.body``; its key is the
secret's bytes. Anything but a 2xx is a failure, redirects too; the answer's body is not read.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from agentd import __version__
from agentd.config import WebhookConfig, web_address
from agentd.errors import Unavailable
from agentd.notify.notices import Message
from agentd.redaction import hide

if TYPE_CHECKING:
    import httpx

__all__ = ["Webhook", "keys_of", "signature"]

SHORTEST, LONGEST = 24, 64
"""Bytes of a secret, as the specification has it."""


class Webhook:
    """An adapter: see `agentd.notify.outbox.Adapter`. Variables are looked up with each delivery."""

    def __init__(self, config: WebhookConfig, environ: Mapping[str, str] = os.environ) -> None:
        self._config, self._environ = config, environ
        self._http: httpx.AsyncClient | None = None
        if config.url:
            _hide_path(config.url)

    @property
    def to(self) -> str:
        """Where it goes, without what may be secret of it."""
        url = self._config.url
        return f"{urlsplit(url).scheme}://{urlsplit(url).netloc}" if url else f"${self._config.url_env}"

    async def send(self, message: Message) -> None:
        import httpx

        url, keys = self._url(), self._keys()
        body = json.dumps(message.body(), ensure_ascii=False, separators=(",", ":")).encode()
        now = int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": f"agentd/{__version__}",
            "webhook-id": message.id,
            "webhook-timestamp": str(now),
        }
        if keys:
            headers["webhook-signature"] = " ".join(signature(key, message.id, now, body) for key in keys)
        try:
            async with self._client().stream("POST", url, content=body, headers=headers) as response:
                status, wait = response.status_code, response.headers.get("retry-after", "")
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise Unavailable(f"{self.to} cannot be reached: {str(error) or type(error).__name__}") from error
        if not 200 <= status < 300:
            after = float(wait) if wait.isascii() and wait.isdecimal() else None
            raise Unavailable(f"{self.to} answered {status}", retry_after_s=after)

    async def aclose(self) -> None:
        if self._http is not None:
            await self._http.aclose()

    def _url(self) -> str:
        if self._config.url:
            return self._config.url
        try:
            return web_address(self._variable(self._config.url_env))
        except ValueError as error:
            raise Unavailable(f"The URL in {self._config.url_env} cannot be used: {error}") from error

    def _keys(self) -> list[bytes]:
        """One key; several while a secret is being replaced, and each of them signs."""
        name = self._config.secret_env
        if not name:
            return []
        try:
            return keys_of(self._variable(name))
        except ValueError as error:
            raise Unavailable(f"The secret in {name} cannot be used: {error}") from error

    def _variable(self, name: str) -> str:
        value = self._environ.get(name, "").strip()
        if not value:
            raise Unavailable(
                f"The environment variable {name} is not set", hint="Set it where the daemon is started"
            )
        return value

    def _client(self) -> httpx.AsyncClient:
        """Made on first use: the daemon starts without an HTTP client."""
        if self._http is None:
            import httpx

            # A proxy set for the outside world must not stand between the daemon and this machine.
            direct = {"all://127.0.0.1": None, "all://localhost": None}
            self._http = httpx.AsyncClient(timeout=self._config.timeout_s, mounts=direct)
        return self._http


def keys_of(secret: str) -> list[bytes]:
    """The keys in a secret, ``whsec_`` and base64, or several with spaces between. Raises `ValueError`."""
    keys: list[bytes] = []
    for each in secret.split():
        try:
            key = base64.b64decode(each.removeprefix("whsec_"), validate=True)
        except binascii.Error as error:
            raise ValueError("it is not base64; make one with: openssl rand -base64 32") from error
        if not SHORTEST <= len(key) <= LONGEST:
            raise ValueError(f"it has {len(key)} bytes, and {SHORTEST} to {LONGEST} are needed")
        keys.append(key)
    return keys


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """``v1,…``: what the receiver computes as well."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()}"


def _hide_path(url: str) -> None:
    """The path of a webhook is often what lets one in."""
    path = urlsplit(url).path.strip("/")
    if len(path) >= 16:
        hide(path, "the path of a webhook")
