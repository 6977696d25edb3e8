"""Access tokens of an authorization server elsewhere: this server as an OAuth resource (RFC 9728, 9068).

A token is a JWT that the configured issuer signed, for this resource, in its time. Its scopes say the role
and its subject who it is: ``oauth:SUBJECT``, whom ``[people]`` may join with others. Keys are fetched
from the issuer when the first token comes, and again for one that is not known, at most once in `REFETCH_S`.

Who shows one is a program, unless a scope gives it role `approve`; over MCP nobody is a person.
Not covered: opaque tokens, and a token that is revoked before its end: let the issuer make short ones.
"""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit, urlunsplit

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from agentd.config import OAuthConfig
from agentd.errors import Unavailable
from agentd.server.ports import Caller, Role

__all__ = ["Resource"]

log = logging.getLogger(__name__)

WELL_KNOWN = "/.well-known/oauth-protected-resource"
REFETCH_S = 30.0
KEYS_LIVE_S = 3600.0
LEEWAY_S = 30.0
LARGEST = 1024 * 1024
RANKS: tuple[Role, ...] = ("infer", "view", "operate", "approve")


class Resource:
    """This server as its issuer knows it: `check` tells who comes, `routes` say where to get a token."""

    def __init__(self, config: OAuthConfig, *, refetch_s: float = REFETCH_S) -> None:
        self._config, self._refetch_s = config, refetch_s
        self._keys: dict[str, Any] = {}
        self._fetched, self._tried = 0.0, 0.0
        self._fetching = asyncio.Lock()
        parts = urlsplit(config.resource)
        self._paths = tuple(dict.fromkeys((WELL_KNOWN, WELL_KNOWN + parts.path.rstrip("/"))))
        self._metadata = urlunsplit((parts.scheme, parts.netloc, self._paths[-1], "", ""))

    @property
    def open_paths(self) -> frozenset[str]:
        """Answered without a token."""
        return frozenset(self._paths)

    @property
    def challenge(self) -> str:
        """What `WWW-Authenticate` says to who has no token."""
        return f'Bearer realm="agentd", resource_metadata="{self._metadata}"'

    def routes(self) -> list[Route]:
        return [Route(path, self._describe, methods=["GET"]) for path in self._paths]

    async def _describe(self, request: Request) -> JSONResponse:
        return JSONResponse(
            {
                "resource": self._config.resource,
                "resource_name": "agentd",
                "authorization_servers": [self._config.issuer],
                "scopes_supported": sorted(self._config.scopes),
                "bearer_methods_supported": ["header"],
            }
        )

    async def check(self, bearer: str) -> Caller | None:
        """Who shows this token; None for one that is not of the issuer, not for here, or not in its time."""
        if bearer.count(".") != 2 or len(bearer) > 16 * 1024:
            return None
        import jwt  # on first use: most daemons never see one

        try:
            header = jwt.get_unverified_header(bearer)
            if header.get("alg") not in self._config.algorithms or "crit" in header:
                return None
            if str(header.get("typ", "JWT")).lower() not in ("jwt", "at+jwt", "application/at+jwt"):
                return None
            key = await self._key(str(header.get("kid", "")))
            if key is None:
                return None
            claims = jwt.decode(
                bearer,
                key,
                algorithms=[header["alg"]],
                audience=self._config.resource,
                issuer=self._config.issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "iss", "aud", "sub"]},
            )
        except jwt.PyJWTError as error:
            log.info("an access token was refused: %s", error)
            return None
        return self._caller(claims)

    def _caller(self, claims: dict[str, Any]) -> Caller | None:
        subject, given = claims["sub"], claims.get("scope", claims.get("scp", ""))
        scopes = cast("list[Any]", given) if isinstance(given, list) else str(given).split()
        given_roles = {role for scope, role in self._config.scopes.items() if scope in scopes}
        roles = [role for role in RANKS if role in given_roles]
        if (
            not roles
            or not isinstance(subject, str)
            or not 0 < len(subject) <= 200
            or not subject.isprintable()
        ):
            return None
        role = cast("Role", roles[-1])
        return Caller(f"oauth:{subject}", role, "", Path.home(), is_agent=role != "approve")

    # --- the issuer's keys ------------------------------------------------------------------

    async def _key(self, kid: str) -> Any:
        """The issuer's key of that id; None where it has none, or cannot be asked."""
        async with self._fetching:
            now = time.monotonic()
            stale = not self._fetched or now - self._fetched > KEYS_LIVE_S or kid not in self._keys
            if stale and (not self._tried or now - self._tried > self._refetch_s):
                self._tried = now
                try:
                    self._keys, self._fetched = await self._fetch(), now
                except Unavailable as error:
                    log.warning("%s", error)
        return self._keys.get(kid)

    async def _fetch(self) -> dict[str, Any]:
        import jwt

        url = self._config.jwks or await self._announced()
        found = dict[str, Any]()
        for each in (await self._get(url)).get("keys", []):
            if not isinstance(each, dict) or each.get("kty") not in ("RSA", "EC", "OKP"):
                continue
            if each.get("use", "sig") == "sig" and isinstance(each.get("kid"), str):
                try:
                    found[each["kid"]] = jwt.PyJWK(each)
                except jwt.PyJWTError as error:
                    log.warning("a key of %s is left out: %s", self._config.issuer, error)
        return found

    async def _announced(self) -> str:
        """Where the issuer says that its keys are (RFC 8414)."""
        parts = urlsplit(self._config.issuer)
        path = "/.well-known/oauth-authorization-server" + parts.path.rstrip("/")
        said = await self._get(urlunsplit((parts.scheme, parts.netloc, path, "", "")))
        url = said.get("jwks_uri")
        if said.get("issuer") != self._config.issuer or not isinstance(url, str):
            raise Unavailable(f"{self._config.issuer} does not describe itself: set 'jwks'")
        if urlsplit(url).scheme != parts.scheme:
            raise Unavailable(f"The keys of {self._config.issuer} are to be read over another scheme: {url}")
        return url

    async def _get(self, url: str) -> dict[str, Any]:
        import httpx

        try:
            async with httpx.AsyncClient(timeout=5.0, trust_env=False) as client:
                answer = await client.get(url)
            said = answer.json() if answer.status_code == 200 and len(answer.content) <= LARGEST else None
        except (httpx.HTTPError, ValueError) as error:
            raise Unavailable(f"{url} cannot be read: {str(error) or type(error).__name__}") from error
        if not isinstance(said, dict):
            raise Unavailable(f"{url} answered {answer.status_code} and no JSON object")
        return cast("dict[str, Any]", said)
