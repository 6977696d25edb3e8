"""Which chunks a search may find, decided before anything is ranked."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Sieve:
    """`only`: those that filters leave (None: no filter). `hidden`: those of ingests under way."""

    only: Set[int] | None = None
    hidden: Set[int] = frozenset()

    @property
    def is_open(self) -> bool:
        return self.only is None and not self.hidden

    def keeps(self, chunk: int) -> bool:
        return (self.only is None or chunk in self.only) and chunk not in self.hidden


OPEN = Sieve()
