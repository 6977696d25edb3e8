"""Money, in integer micro-USD: reserve before anything is spent, settle with what it was.

What counts against a budget is what was settled plus what is reserved and still open, so calls
made in parallel cannot overspend together. A crash leaves a reservation open: it keeps counting
until the job it belongs to has ended.
"""

from __future__ import annotations

import datetime

from pydantic import BaseModel

from agentd.config import Budget
from agentd.errors import OverBudget
from agentd.ids import new_id
from agentd.store.database import Store

__all__ = ["Entry", "Ledger", "Summary", "usd"]


class Entry(BaseModel):
    """One reservation, and what it turned out to be."""

    id: str
    kind: str
    subject: str
    principal: str
    reserved: int
    settled: int | None
    at: float
    settled_at: float | None


class Summary(BaseModel):
    """Spent and reserved in the running day and month (UTC); limits in micro-USD, None for none."""

    day_spent: int
    day_reserved: int
    day_limit: int | None
    month_spent: int
    month_reserved: int
    month_limit: int | None
    entries: list[Entry]


def usd(micro: int) -> str:
    """``$0.0042`` style: two decimals, or as many as the first two significant ones take."""
    dollars = micro / 1_000_000
    if micro == 0 or dollars >= 0.1:
        return f"${dollars:,.2f}"
    return f"${dollars:.6f}".rstrip("0")


class Ledger:
    def __init__(self, store: Store, budget: Budget) -> None:
        self._store = store
        self._day = None if budget.per_day_usd is None else round(budget.per_day_usd * 1_000_000)
        self._month = None if budget.per_month_usd is None else round(budget.per_month_usd * 1_000_000)

    def reserve(self, kind: str, subject: str, principal: str, micro_usd: int) -> str:
        """Set `micro_usd` aside; returns the entry's id. Raises `OverBudget` and changes nothing."""
        with self._store.transaction():
            now = self._store.now()
            for name, start, limit in self._periods(now):
                if limit is None:
                    continue
                spent, reserved = self._sums(start)
                if micro_usd and spent + reserved + micro_usd > limit:
                    raise OverBudget(
                        f"{subject} may cost {usd(micro_usd)}, but of this {name}'s budget of {usd(limit)}"
                        f" {usd(spent)} is spent and {usd(reserved)} reserved",
                        hint=f"Raise budget.per_{name}_usd in agentd.toml, or wait for the next {name}",
                    )
            entry = new_id("led")
            self._store.insert(
                "ledger",
                {
                    "id": entry,
                    "kind": kind,
                    "subject": subject,
                    "principal": principal,
                    "reserved": micro_usd,
                    "at": now,
                },
            )
            return entry

    def settle(self, entry: str, micro_usd: int) -> None:
        """Close a reservation with what was really spent. Settling twice changes nothing."""
        self._store.change(
            "UPDATE ledger SET settled = ?, settled_at = ? WHERE id = ? AND settled IS NULL",
            [micro_usd, self._store.now(), entry],
        )

    def open_of(self, subject: str) -> list[Entry]:
        """Reservations of `subject` that were not settled yet."""
        rows = self._store.rows("SELECT * FROM ledger WHERE subject = ? AND settled IS NULL", [subject])
        return [Entry(**row) for row in rows]

    def remaining(self) -> int | None:
        """What may still be spent today, in micro-USD; None when nothing limits it."""
        rest = [
            limit - sum(self._sums(start))
            for _, start, limit in self._periods(self._store.now())
            if limit is not None
        ]
        return max(0, min(rest)) if rest else None

    def summary(self, limit: int = 50) -> Summary:
        (_, day, _), (_, month, _) = self._periods(self._store.now())
        day_spent, day_reserved = self._sums(day)
        month_spent, month_reserved = self._sums(month)
        rows = self._store.rows("SELECT * FROM ledger ORDER BY at DESC, id DESC LIMIT ?", [limit])
        return Summary(
            day_spent=day_spent,
            day_reserved=day_reserved,
            day_limit=self._day,
            month_spent=month_spent,
            month_reserved=month_reserved,
            month_limit=self._month,
            entries=[Entry(**row) for row in rows],
        )

    def _sums(self, start: float) -> tuple[int, int]:
        """Settled since `start`, and everything still reserved however old it is."""
        spent = self._store.value(
            "SELECT coalesce(sum(settled), 0) FROM ledger WHERE settled_at >= ?", [start]
        )
        held = self._store.value("SELECT coalesce(sum(reserved), 0) FROM ledger WHERE settled IS NULL")
        return spent, held

    def _periods(self, now: float) -> list[tuple[str, float, int | None]]:
        today = datetime.datetime.fromtimestamp(now, datetime.UTC).replace(
            hour=0, minute=0, second=0, microsecond=0
        )
        return [
            ("day", today.timestamp(), self._day),
            ("month", today.replace(day=1).timestamp(), self._month),
        ]
