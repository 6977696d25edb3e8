"""Which identities are one person: the same one through two surfaces answers once.

``[people]`` of agentd.toml says it. Without it, an agent ``agent:ann`` acts for ``user:ann``, and
every other identity is somebody of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

__all__ = ["People"]


class People:
    """`named` maps a person to their identities, such as ``{"ann": ["user:ann", "slack:U123"]}``."""

    def __init__(self, named: Mapping[str, Sequence[str]] | None = None) -> None:
        self._person = {
            identity: person for person, identities in (named or {}).items() for identity in identities
        }

    def person(self, principal: str) -> str:
        """Who stands behind an identity."""
        return self._person.get(principal) or self._person.get(_user(principal)) or _user(principal)

    def knows(self, principal: str) -> bool:
        """Whether agentd.toml says who this is, so that they can be told apart from others."""
        return principal in self._person or _user(principal) in self._person


def _user(principal: str) -> str:
    """The user whose agent this is; anybody else is themselves."""
    kind, _, name = principal.partition(":")
    return f"user:{name}" if kind == "agent" else principal
