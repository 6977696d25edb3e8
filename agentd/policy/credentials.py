"""Bearer tokens: whom each stands for, who may make and revoke them, and the two that always are there.

A token is a person's or a program's, which is said when it is made and never changes. Only an administrator
who is a person makes one, with no more rights and no longer life than their own has; that is journalled.
It is looked up with every request, so a revoked one is refused from the next request on.

Not covered: an administrator may make a token in anybody's name. The journal says that they did.
"""

from __future__ import annotations

import getpass
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel, Field

from agentd.errors import InputError, NotFound, Unauthorized
from agentd.locations import AGENT_TOKEN, OWNER_TOKEN, write_private
from agentd.policy.callers import DEFAULT_PROJECT, Caller
from agentd.policy.people import People
from agentd.redaction import redact
from agentd.store import Store
from agentd.store.journal import Journal
from agentd.store.tokens import Role, TokenRow, TokenTable

__all__ = ["NewToken", "TokenView", "Tokens", "Wanted"]

NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,63}", re.ASCII)
LONGEST_S = 10 * 366 * 86_400.0
FILES = {"owner": OWNER_TOKEN, "agents": AGENT_TOKEN}
"""The note of a token that lies in the state directory, and its file there."""


class Wanted(BaseModel, extra="forbid"):
    """A token to be made, for a `person` or for an `agent`. `lifetime_s` None is for ever."""

    person: str = ""
    agent: str = ""
    role: Role
    project: str = ""
    lifetime_s: float | None = None
    note: str = Field(default="", max_length=200)
    models: tuple[str, ...] = Field(default=(), max_length=100, description="patterns; empty: all of them")
    per_minute: int | None = Field(default=None, ge=1, le=1_000_000, description="requests of models")
    micro_usd: int | None = Field(default=None, ge=0, description="what its requests may cost, in all")

    @property
    def principal(self) -> str:
        return f"user:{self.person}" if self.person else f"agent:{self.agent}"


class TokenView(BaseModel):
    """A token as it is listed. `counts_as` is the person of agentd.toml who stands behind it, if any."""

    id: str
    principal: str
    is_person: bool
    counts_as: str
    role: Role
    project: str
    note: str
    created_by: str
    created_at: float
    expires_at: float | None
    expired: bool
    used_at: float | None
    models: tuple[str, ...]
    per_minute: int | None
    allowance: int | None


class NewToken(TokenView):
    """One that was just made, with its text: nobody can show it again."""

    token: str


class Tokens:
    """Bearer tokens to callers; making, listing, revoking. `folder` holds the owner's and the agents'."""

    def __init__(
        self, store: Store, table: TokenTable, journal: Journal, people: People, folder: Path
    ) -> None:
        self._store, self._table, self._journal = store, table, journal
        self._people, self._folder = people, folder
        self._used: dict[str, float] = {}
        self._home = Path.home()
        self._ensure_files()

    def check(self, bearer: str) -> Caller | None:
        """Whose token this is; None for one that is unknown, revoked or expired."""
        return self._caller(self._table.find(bearer))

    def holder(self, token_id: str) -> Caller | None:
        """The same by a token's id: whom a browser is signed in as."""
        row = self._table.get(token_id)
        late = row is not None and row.expires_at is not None and row.expires_at <= self._store.now()
        return self._caller(None if late else row)

    def _caller(self, row: TokenRow | None) -> Caller | None:
        if row is None:
            return None
        self._used[row.id] = self._store.now()
        return Caller(
            row.principal,
            row.role,
            "",
            self._home,
            is_agent=not row.is_person,
            project=row.project or DEFAULT_PROJECT,
            charged=row.charged,
            allowance=row.allowance,
            token=row.id,
            models=row.models,
            per_minute=row.per_minute,
        )

    def note_uses(self) -> None:
        """Store when tokens were used: now and then, since a commit with each request would be dear."""
        if used := dict(self._used):
            self._table.note_uses(used)
            self._used.clear()

    # --- making and revoking ----------------------------------------------------------------

    def list(self) -> list[TokenView]:
        """Newest first, expired ones too; those of jobs, which go with them, are left out."""
        return [TokenView(**self._seen(row)) for row in self._table.list()]

    def create(self, wanted: Wanted, by: Caller) -> NewToken:
        """Make a token. Raises `Unauthorized` for an agent or who may not, `InputError`."""
        self._require(by, f"make a token for {wanted.principal!r}")
        _check(wanted)
        self._check_rights(wanted, by)
        with self._store.transaction():
            text = self._table.create(
                wanted.principal,
                wanted.role,
                redact(wanted.note),
                lifetime_s=wanted.lifetime_s,
                project=wanted.project,
                is_person=bool(wanted.person),
                created_by=by.principal,
                models=wanted.models,
                per_minute=wanted.per_minute,
                allowance=wanted.micro_usd,
            )
            row = self._table.find(text)
            assert row is not None
            self._journal.append(
                "token.created",
                row.id,
                by.principal,
                surface=by.surface,
                holder=row.principal,
                role=row.role,
                project=row.project,
                expires_at=row.expires_at,
                made_with=by.token,
                **_limits(row),
            )
        return NewToken(**self._seen(row), token=text)

    def revoke(self, token_id: str, by: Caller) -> TokenView:
        """Make a token worthless. One that lies in a file is replaced there. Raises what `create` raises."""
        self._require(by, f"revoke {token_id[:100]!r}")
        listed = {row.id: row for row in self._table.list()}
        row = listed.get(token_id)
        if row is None:
            raise NotFound("token", token_id, listed)
        with self._store.transaction():
            self._table.remove(row.id)
            self._journal.append(
                "token.revoked",
                row.id,
                by.principal,
                surface=by.surface,
                holder=row.principal,
                role=row.role,
            )
        self._ensure_files()
        return TokenView(**self._seen(row))

    def opened_session(self, by: Caller) -> None:
        """Write down that a browser was signed in."""
        self._journal.append("session.opened", by.token, by.principal, surface=by.surface, role=by.role)

    def refused(self, by: Caller, what: str) -> None:
        """Write down that somebody tried who may not."""
        self._journal.append("token.refused", what[:100], by.principal, surface=by.surface, role=by.role)

    def _require(self, by: Caller, what: str) -> None:
        if by.is_agent or not by.may("admin"):
            self.refused(by, what)
            raise Unauthorized(
                f"{by.principal!r} through {by.surface!r} may not {what}",
                hint="A person with role 'admin' does: agentd token",
            )

    def _check_rights(self, wanted: Wanted, by: Caller) -> None:
        """Nobody gives more than they have: neither rights nor time."""
        own = self._table.get(by.token)
        assert own is not None, "whoever came in showed a token"
        if not by.may(wanted.role) or (own.project and own.project != wanted.project):
            raise Unauthorized(f"{by.principal!r} may not give more rights than they have themselves")
        if own.expires_at is None:
            return
        left = own.expires_at - self._store.now()
        if wanted.lifetime_s is None or wanted.lifetime_s > left:
            raise Unauthorized(
                f"Your own token expires in {left / 86_400:.2g} days, and none it makes may outlive it",
                hint="Ask for a shorter life with --expires",
            )

    def _seen(self, row: TokenRow) -> dict[str, Any]:
        expired = row.expires_at is not None and row.expires_at <= self._store.now()
        known = self._people.knows(row.principal)
        counts_as = self._people.person(row.principal) if known else ""
        used_at = self._used.get(row.id, row.used_at)
        return {**row.model_dump(), "expired": expired, "counts_as": counts_as, "used_at": used_at}

    # --- the two in files -------------------------------------------------------------------

    def _ensure_files(self) -> None:
        who = getpass.getuser()
        self._ensure("owner", f"user:{who}", "admin", is_person=True)
        self._ensure("agents", f"agent:{who}", "operate", is_person=False)

    def _ensure(self, note: str, principal: str, role: Role, *, is_person: bool) -> None:
        path = self._folder / FILES[note]
        if path.is_file() and self._table.find(path.read_text(encoding="ascii").strip()):
            return
        write_private(path, self._table.create(principal, role, note, is_person=is_person))


def _limits(row: TokenRow) -> dict[str, Any]:
    """What it may ask of models, where that is limited."""
    limits = {"models": row.models, "per_minute": row.per_minute, "allowance": row.allowance}
    return {name: value for name, value in limits.items() if value not in ((), None)}


def _check(wanted: Wanted) -> None:
    """Raises `InputError` for a token that makes no sense."""
    if bool(wanted.person) == bool(wanted.agent):
        raise InputError("A token is for a person or for an agent", hint="Give --person NAME or --agent NAME")
    if not NAME.fullmatch(wanted.person or wanted.agent):
        raise InputError(
            f"{wanted.person or wanted.agent!r} is no name", hint="Use letters, digits, '.', '_' and '-'"
        )
    if wanted.agent and wanted.role in ("approve", "admin"):
        raise InputError(
            f"An agent cannot have role {wanted.role!r}: it never approves, and never administrates",
            hint="Give it infer, view or operate",
        )
    if wanted.project and wanted.role in ("approve", "admin"):
        raise InputError(
            f"A token of role {wanted.role!r} cannot be bound to a project",
            hint="Approving and administrating are for all of them",
        )
    if wanted.project and (wanted.project == DEFAULT_PROJECT or not NAME.fullmatch(wanted.project)):
        raise InputError(
            f"A token cannot be bound to project {wanted.project!r}",
            hint=f"Use letters, digits, '.', '_' and '-'; {DEFAULT_PROJECT!r} is what unbound ones work for",
        )
    if wanted.lifetime_s is not None and not 0 < wanted.lifetime_s <= LONGEST_S:
        raise InputError("A token lives for a while, at most ten years", hint="Write --expires 30d")
    limits = (wanted.per_minute, wanted.micro_usd)
    if wanted.role not in ("infer", "view") and (wanted.models or any(each is not None for each in limits)):
        raise InputError(
            f"Limits of models are no limit for a token of role {wanted.role!r}: the jobs that it starts are "
            "not held to them",
            hint="Give it infer or view; what jobs cost is limited by the budget of its project",
        )
    if wanted.note in FILES:
        raise InputError(f"The note {wanted.note!r} is that of the token in {FILES[wanted.note]!r}")
