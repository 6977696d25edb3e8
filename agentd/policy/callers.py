"""Who asks: a principal with a role, through a surface, from a folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentd.store.tokens import Role

__all__ = ["Caller"]

_RANK: Mapping[Role, int] = {"infer": 0, "view": 1, "operate": 2, "approve": 3, "admin": 4}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `is_agent` is true for a program acting for the principal, which never approves."""

    principal: str
    role: Role
    surface: str
    cwd: Path
    is_agent: bool

    def may(self, role: Role) -> bool:
        """Each role includes the ones below it: infer < view < operate < approve < admin."""
        return _RANK[self.role] >= _RANK[role]
