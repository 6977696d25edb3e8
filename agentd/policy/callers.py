"""Who asks: a principal with a role, through a surface, from a folder, for a project."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentd.store.ledger import DEFAULT_PROJECT, Payer
from agentd.store.tokens import Role

__all__ = ["DEFAULT_PROJECT", "Caller"]

_RANK: Mapping[Role, int] = {"infer": 0, "view": 1, "operate": 2, "approve": 3, "admin": 4}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `is_agent` is true for a program acting for the principal, which never approves.

    What is spent is booked on `project` and on the principal; what a job spends on whoever is `charged`
    for it. A job's requests, or those with a token that has an `allowance`, cost at most that, in micro-USD.
    `token` is the id of what it showed, if it showed one. Through the gateway it may ask `models` that fit
    these patterns, so many times `per_minute`.

    `taint` names what it has read that was not to be trusted (`agentd.policy.taint`). Answers that it gets
    go into the `context` of that name, if it names one: a run, a client. What taints a context taints every
    caller that names it, from then on.
    """

    principal: str
    role: Role
    surface: str
    cwd: Path
    is_agent: bool
    project: str = DEFAULT_PROJECT
    charged: str = ""
    allowance: int | None = None
    token: str = ""
    models: tuple[str, ...] = ()
    per_minute: int | None = None
    taint: tuple[str, ...] = ()
    context: str = ""

    @property
    def payer(self) -> Payer:
        if not self.charged:
            return Payer(
                self.principal, self.project, self.token * (self.allowance is not None), self.allowance
            )
        return Payer(self.charged, self.project, self.principal.removeprefix("job:"), self.allowance)

    def may_ask(self, model: str) -> bool:
        """Whether its token is good for a model or alias; without a list, for all."""
        return not self.models or any(fnmatch.fnmatchcase(model, pattern) for pattern in self.models)

    def may(self, role: Role) -> bool:
        """Each role includes the ones below it: infer < view < operate < approve < admin."""
        return _RANK[self.role] >= _RANK[role]
