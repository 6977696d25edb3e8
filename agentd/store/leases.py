"""Durable leases: one commit takes money for many requests, which then draw on it in memory.

A request must not wait for the disk, and money must not depend on memory. So each payer has at most
one open lease, a ledger entry that is on disk before anything draws on it: what was drawn never
exceeds it, and after a crash all of it counts as spent (`Ledger.recover`). A lease that no longer
suffices is replaced in one commit: settled with what was spent from it, reserved anew with what
requests hold and some seconds of traffic more. What nobody uses goes back: when it was idle for a
while, at the end, when figures are asked for, and before anybody is refused for lack of room.

What a crash can cost is the part of the open leases that was not used: per payer at most `LARGEST`,
an eighth of what its budgets had left, or one request. Used from the daemon's event loop only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from agentd.errors import OverBudget, Unknown
from agentd.store.database import Store
from agentd.store.ledger import Ledger, Payer

__all__ = ["Draw", "Leases"]

AHEAD_S = 10.0
"""Seconds of traffic that a lease is made for."""
FIRST = 4
"""A payer without traffic to go by gets so many times what it asks for."""
LARGEST = 1_000_000
SHARE = 8
IDLE_S = 5.0


@dataclass(slots=True, eq=False)
class _Lease:
    """`granted` is on disk, less `spent` and `held` it is free; without `entry` there is none."""

    payer: Payer
    since: float
    used: float
    entry: str = ""
    granted: int = 0
    spent: int = 0
    held: int = 0
    abandoned: bool = False

    @property
    def subject(self) -> str:
        return self.payer.job or "gateway"

    @property
    def free(self) -> int:
        return self.granted - self.spent - self.held


@dataclass(slots=True, eq=False)
class Draw:
    """What one request holds until it is settled."""

    micro_usd: int
    lease: _Lease = field(repr=False)
    settled: bool = False


class Leases:
    """The open lease of each payer. `clock` gives seconds and never goes back."""

    def __init__(self, store: Store, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._store, self._ledger, self._clock = store, ledger, clock
        self._leases: dict[Payer, _Lease] = {}
        ledger.give_back = self.give_back

    @property
    def open(self) -> bool:
        return bool(self._leases)

    def draw(self, subject: str, payer: Payer, micro_usd: int) -> Draw:
        """Hold `micro_usd` for `subject`. Raises `OverBudget`, naming the budget, and holds nothing."""
        now = self._clock()
        lease = self._leases.get(payer) or _Lease(payer, now, now)
        if lease.free < micro_usd:
            self._renew(lease, subject, micro_usd)
        if lease.entry:
            self._leases[payer] = lease
        lease.held += micro_usd
        lease.used = now
        return Draw(micro_usd, lease)

    def settle(self, draw: Draw, micro_usd: int) -> None:
        """Book what a request did cost; more than it held is on disk when this returns. Twice is once."""
        if draw.settled:
            return
        draw.settled = True
        lease = draw.lease
        lease.held -= draw.micro_usd
        lease.spent += micro_usd
        if lease.free >= 0:
            return
        if not lease.abandoned:
            self._replace([lease])
        else:  # what it held is counted already
            now = self._clock()
            self._replace([_Lease(lease.payer, now, now, spent=-lease.free)])
            lease.granted -= lease.free

    def give_back(self) -> None:
        """Settle what is spent and return what no request holds."""
        self._replace(lease for lease in self._leases.values() if lease.spent or lease.free)

    def give_back_idle(self) -> None:
        """The same for those that no request holds or has used lately."""
        since = self._clock() - IDLE_S
        self._replace(lease for lease in self._leases.values() if not lease.held and lease.used <= since)

    def close(self) -> None:
        """Settle everything; what is under way counts with all that it holds."""
        for lease in self._leases.values():
            lease.spent, lease.held = lease.spent + lease.held, 0
        leases = list(self._leases.values())
        self._replace(leases)
        for lease in leases:
            lease.abandoned = True

    def _renew(self, lease: _Lease, subject: str, needed: int) -> None:
        try:
            self._replace([lease], self._wanted(lease, needed))
        except OverBudget:
            self._ledger.check(subject, lease.payer, needed)  # others give back; says what is short
            self._replace([lease], needed)

    def _wanted(self, lease: _Lease, needed: int) -> int:
        rate = lease.spent / max(1.0, self._clock() - lease.since)
        ahead = min(max(FIRST * needed, round(rate * AHEAD_S)), LARGEST)
        left = self._ledger.remaining(lease.payer)
        return max(needed, ahead if left is None else min(ahead, left // SHARE))

    def _replace(self, leases: Iterable[_Lease], fresh: int = 0) -> None:
        """Settle each and reserve what it holds, with `fresh` more, in one commit."""
        changed = list(leases)
        if not changed:
            return
        try:
            with self._store.transaction():
                entries = [self._exchange(lease, fresh) for lease in changed]
        except Unknown:
            # Nobody knows which entries are on disk: they stay as they are, and count as spent when
            # the daemon starts again.
            for lease in changed:
                lease.abandoned, lease.granted = True, lease.spent + lease.held
                self._leases.pop(lease.payer, None)
            raise
        for lease, entry in zip(changed, entries, strict=True):
            lease.entry, lease.granted, lease.spent = entry, lease.held + fresh, 0
            lease.since = self._clock()
            if not entry:
                self._leases.pop(lease.payer, None)

    def _exchange(self, lease: _Lease, fresh: int) -> str:
        if lease.entry or lease.spent:
            entry = lease.entry or self._ledger.reserve("lease", lease.subject, lease.payer, 0)
            self._ledger.settle(entry, lease.spent)
        if not lease.held + fresh:
            return ""
        return self._ledger.reserve("lease", lease.subject, lease.payer, fresh, kept=lease.held)
