"""Browsers that are signed in: one-time codes, and sessions that last for hours.

Both are 256 random bits of which only a hash is kept, in memory: a restart of the daemon signs everybody
out. A session stands for the token that it was opened with, and is looked up by it at each request, so
that it ends when the token is revoked or expires, and never may more than it. Only a person may open one.

Not covered: browsers send cookies to every port of a host, so another program that listens on this
machine and that the person visits is sent this one, too.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from agentd.errors import Unauthorized
from agentd.server.ports import Caller, Tokens

__all__ = ["CODE_S", "IDLE_S", "LIFE_S", "SURFACE", "Session", "Sessions"]

CODE_S = 60.0
LIFE_S = 8 * 3600.0
IDLE_S = 3600.0
MOST = 1000
SURFACE = "web"


@dataclass(slots=True)
class Session:
    """One browser. `caller` is who it is signed in as; `form_key` stands in every form it is sent."""

    caller: Caller
    began: float
    used: float
    form_key: str = field(default_factory=lambda: secrets.token_urlsafe(32))

    def owns(self, form_key: str) -> bool:
        """Whether a form that comes back was sent to this browser."""
        return hmac.compare_digest(self.form_key.encode(), form_key.encode())


class Sessions:
    """Codes and sessions by their hashes. `clock` counts seconds and is never set back."""

    def __init__(self, tokens: Tokens, clock: Callable[[], float] = time.monotonic) -> None:
        self._tokens, self._clock = tokens, clock
        self._codes: OrderedDict[str, tuple[Caller, float]] = OrderedDict()
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    # --- codes ------------------------------------------------------------------------------

    def code(self, by: Caller) -> str:
        """A code that signs one browser in as `by`, within `CODE_S` seconds. Raises `Unauthorized`."""
        _check(by)
        code = secrets.token_urlsafe(32)
        _keep(self._codes, _hash(code), (by, self._clock() + CODE_S))
        return code

    def whose(self, code: str) -> Caller | None:
        """Whom a code signs in, without using it up; None for one that is unknown, used or too old."""
        found = self._codes.get(_hash(code))
        return found[0] if found is not None and self._clock() < found[1] else None

    def redeem(self, code: str) -> str | None:
        """The secret of a new session; None for a code that is unknown, used or too old."""
        holder = self.whose(code)
        self._codes.pop(_hash(code), None)
        if holder is None or self._tokens.holder(holder.token) is None:
            return None
        return self.open(holder)

    # --- sessions ---------------------------------------------------------------------------

    def open(self, by: Caller) -> str:
        """The secret of a new session as `by`. Raises `Unauthorized` for who may not answer questions."""
        _check(by)
        secret, now = secrets.token_urlsafe(32), self._clock()
        _keep(self._sessions, _hash(secret), Session(replace(by, surface=SURFACE), now, now))
        self._tokens.opened_session(replace(by, surface=SURFACE))
        return secret

    def find(self, secret: str, *, by_itself: bool = False) -> Session | None:
        """The session of a browser; one that comes `by_itself`, to look again, is no sign of its person."""
        key, now = _hash(secret), self._clock()
        session = self._sessions.get(key)
        if session is None:
            return None
        holder = self._tokens.holder(session.caller.token)
        late = now - session.began >= LIFE_S or now - session.used >= IDLE_S
        if late or holder is None or holder.is_agent or not holder.may("approve"):
            del self._sessions[key]
            return None
        if not by_itself:
            session.used = now
        session.caller = replace(holder, surface=SURFACE)
        return session

    def end(self, secret: str) -> None:
        self._sessions.pop(_hash(secret), None)


def _check(by: Caller) -> None:
    if by.is_agent or not by.may("approve"):
        raise Unauthorized(
            f"{by.principal!r} has a token that cannot approve, and a browser is not signed in with one",
            hint="A person signs in, with a token of role 'approve'",
        )
    if not by.token:
        raise Unauthorized(
            "An access token of an authorization server does not sign a browser in",
            hint="Make one of this daemon: agentd token create --person NAME --role approve",
        )


def _keep(kept: OrderedDict[str, Any], key: str, value: Any) -> None:
    kept[key] = value
    if len(kept) > MOST:
        kept.popitem(last=False)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
