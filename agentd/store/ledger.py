"""Money, in integer micro-USD: reserve before anything is spent, settle with what it was.

What counts against a budget is what was settled in its day or month (UTC) plus everything that is
reserved and still open, however old: calls made in parallel cannot overspend together, and a
reservation that outlives midnight counts in both days until it is settled, then in the day that
saw it settled. A crash leaves a reservation open: that of a job counts until the job has ended,
a lease of the gateway is counted as spent at the next start.

More than was reserved may be settled, for a job that ran longer or an answer that cost more: the
excess counts at once, is journalled, and nothing new is let through until there is room again.
What this does not know is where amounts come from.
"""

from __future__ import annotations

import datetime
import fnmatch
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, computed_field

from agentd.config import Budget, Limit
from agentd.errors import OverBudget
from agentd.ids import new_id
from agentd.store.database import Store, any_of
from agentd.store.journal import Journal

__all__ = ["DEFAULT_PROJECT", "Entry", "Kind", "Ledger", "Payer", "Standing", "Summary", "usd"]

DEFAULT_PROJECT = "default"
LOW = 0.8
"""Of a limit: so much spent is journalled as low."""

Kind = Literal["job", "tokens", "lease"]
Scope = Literal["everything", "principal", "project", "job"]
Period = Literal["day", "month", "life"]


@dataclass(frozen=True, slots=True)
class Payer:
    """On whom an amount is booked. The requests of a `job`, or a token, cost at most its `allowance`."""

    principal: str
    project: str = DEFAULT_PROJECT
    job: str = ""
    allowance: int | None = None


class Entry(BaseModel):
    """One reservation, and what it turned out to be. A `lease` pays for many chat requests."""

    id: str
    kind: Kind
    subject: str
    attempt: str
    principal: str
    project: str
    reserved: int
    settled: int | None
    at: float
    settled_at: float | None


class Standing(BaseModel):
    """One budget, or what would be one, in the running day or month."""

    scope: Scope
    name: str
    period: Period
    spent: int
    reserved: int
    limit: int | None

    @computed_field
    @property
    def left(self) -> int | None:
        return None if self.limit is None else max(0, self.limit - self.spent - self.reserved)


class Summary(BaseModel):
    """Spent and reserved in the running day and month (UTC); limits in micro-USD, None for none."""

    day_spent: int
    day_reserved: int
    day_limit: int | None
    month_spent: int
    month_reserved: int
    month_limit: int | None
    budgets: list[Standing]
    entries: list[Entry]


def usd(micro: int) -> str:
    """``$0.0042`` style: two decimals, or as many as the first two significant ones take."""
    dollars = micro / 1_000_000
    if micro == 0 or dollars >= 0.1:
        return f"${dollars:,.2f}"
    return f"${dollars:.6f}".rstrip("0")


@dataclass(frozen=True, slots=True)
class _Budget:
    """A limit in force. `key` is where it stands in agentd.toml."""

    scope: Scope
    name: str
    period: Period
    start: datetime.datetime
    limit: int
    key: str

    @property
    def of(self) -> str:
        """``this day's budget``, and whose."""
        if self.scope == "job":
            return f"what may be spent on the requests of {self.name}"
        whose = "" if self.scope == "everything" else f" of {self.scope} {self.name!r}"
        return f"this {self.period}'s budget{whose}"

    @property
    def subject(self) -> str:
        """What the journal calls it: the same for one budget and one period."""
        when = self.start.strftime("%Y-%m-%d" if self.period == "day" else "%Y-%m")
        return when if self.scope == "everything" else f"{when} {self.scope} {self.name}"


class Ledger:
    """Every amount, and the budgets it has to fit in.

    `give_back` is called when room is short or figures are asked for: whoever holds money ahead of
    its use (`agentd.store.leases`) then returns what is not in use.
    """

    def __init__(self, store: Store, budget: Budget, journal: Journal) -> None:
        self._store, self._budget, self._journal = store, budget, journal
        self.give_back: Callable[[], None] = lambda: None

    # --- reserve, settle --------------------------------------------------------------------

    def check(self, subject: str, payer: Payer, micro_usd: int) -> None:
        """Raise `OverBudget`, naming the budget, if `micro_usd` could not be reserved now."""
        if self._short(payer, micro_usd) is not None and not self._store.in_transaction:
            self.give_back()
        if (short := self._short(payer, micro_usd)) is not None:
            raise self._refusal(short, subject, micro_usd)

    def reserve(
        self, kind: Kind, subject: str, payer: Payer, micro_usd: int, *, attempt: str = "", kept: int = 0
    ) -> str:
        """Set `micro_usd` aside; returns the entry's id. Raises `OverBudget` and changes nothing.

        `kept` more is set aside unasked: it was let through before, in an entry that this one replaces.
        """
        with self._store.transaction():
            short = self._short(payer, micro_usd, kept)
            if short is None:
                entry = Entry(
                    id=new_id("led"),
                    kind=kind,
                    subject=subject,
                    attempt=attempt,
                    principal=payer.principal,
                    project=payer.project,
                    reserved=micro_usd + kept,
                    settled=None,
                    at=self._store.now(),
                    settled_at=None,
                )
                self._store.insert("ledger", entry.model_dump())
                return entry.id
        raise self._refusal(short, subject, micro_usd)

    def settle(self, entry: str, micro_usd: int) -> None:
        """Close a reservation with what was really spent. Settling twice changes nothing."""
        with self._store.transaction():
            settled = self._store.change(
                "UPDATE ledger SET settled = ?, settled_at = ? WHERE id = ? AND settled IS NULL",
                [micro_usd, self._store.now(), entry],
            )
            if not settled:
                return
            [found] = self._entries("WHERE id = ?", entry)
            if micro_usd > found.reserved:
                self._journal.append(
                    "ledger.exceeded", found.subject, found.principal,
                    entry=entry, reserved=found.reserved, settled=micro_usd,
                )  # fmt: skip
            if micro_usd:
                self._tell_low(Payer(found.principal, found.project))

    def recover(self) -> None:
        """Count leases that a crash left open as spent, to the last of what they held."""
        with self._store.transaction():
            for entry in self._entries("WHERE settled IS NULL AND kind != 'job'"):
                self._journal.append("lease.lost", entry.id, entry.principal, micro_usd=entry.reserved)
                self.settle(entry.id, entry.reserved)

    # --- looking ----------------------------------------------------------------------------

    def open_of(self, subject: str) -> list[Entry]:
        """Reservations of the job `subject` that were not settled yet."""
        return self._entries("WHERE subject = ? AND kind = 'job' AND settled IS NULL", subject)

    def leased(self, job: str) -> int:
        """What the requests of a job have cost, exact to the last one that has ended."""
        if not self._store.in_transaction:
            self.give_back()
        return self._store.value(
            "SELECT coalesce(sum(coalesce(settled, reserved)), 0) FROM ledger"
            " WHERE subject = ? AND kind = 'lease'",
            [job],
        )

    def entries(
        self,
        *,
        principal: str | None = None,
        project: str | None = None,
        subject: str | None = None,
        before: str | None = None,
        limit: int = 50,
        of: Sequence[str] | None = None,
    ) -> list[Entry]:
        """Newest first; `before` is the id that the last list ended with, `of` leaves these principals'."""
        return self._entries(
            "WHERE (?1 IS NULL OR principal = ?1) AND (?2 IS NULL OR project = ?2)"
            " AND (?3 IS NULL OR subject = ?3)"
            " AND (?4 IS NULL OR rowid < (SELECT rowid FROM ledger WHERE id = ?4))"
            " AND (?5 IS NULL OR principal IN (SELECT value FROM json_each(?5)))"
            " ORDER BY rowid DESC LIMIT ?6",
            principal, project, subject, before, any_of(of), limit,
        )  # fmt: skip

    def remaining(self, payer: Payer | None = None) -> int | None:
        """What `payer` may still spend now, in micro-USD; None when nothing limits it."""
        rest = [budget.limit - sum(self._sums(budget)) for budget in self._budgets(payer)]
        return max(0, min(rest)) if rest else None

    def principals(self) -> list[str]:
        return [row["principal"] for row in self._store.rows("SELECT DISTINCT principal FROM ledger")]

    def summary(self, limit: int = 50, *, of: Sequence[str] | None = None, **which: str | None) -> Summary:
        """Where all budgets stand, exact to the last request that has ended; and `entries`."""
        if not self._store.in_transaction:
            self.give_back()
        standings = self.standings()
        day, month = standings[:2]
        return Summary(
            day_spent=day.spent,
            day_reserved=day.reserved,
            day_limit=day.limit,
            month_spent=month.spent,
            month_reserved=month.reserved,
            month_limit=month.limit,
            budgets=standings,
            entries=self.entries(limit=limit, of=of, **which),
        )

    def standings(self) -> list[Standing]:
        """Day and month, of everything first, then of each principal and project that took part in them."""
        found: list[Standing] = []
        _, month = _starts(self._store.now())
        for scope, limits in self._limits():
            names = [""]
            if scope != "everything":
                rows = self._store.rows(
                    f"SELECT DISTINCT {scope} AS name FROM ledger WHERE settled_at >= ? OR settled IS NULL"
                    " ORDER BY name",
                    [month.timestamp()],
                )
                names = [row["name"] for row in rows]
            found += [self._standing(scope, name, limits, period) for name in names for period in PERIODS]
        return found

    # --- inside -----------------------------------------------------------------------------

    def _short(self, payer: Payer, micro_usd: int, kept: int = 0) -> _Budget | None:
        """The budget that has no room for it. What is free, or was let through before, always fits."""
        if not micro_usd:
            return None
        wanted = micro_usd + kept
        return next((b for b in self._budgets(payer) if sum(self._sums(b)) + wanted > b.limit), None)

    def _refusal(self, budget: _Budget, subject: str, micro_usd: int) -> OverBudget:
        spent, reserved = self._sums(budget)
        if spent >= LOW * budget.limit:
            self._tell("budget.spent", budget, spent)
        hint = f"Raise {budget.key} in agentd.toml, or wait for the next {budget.period}"
        return OverBudget(
            f"{subject} may cost up to {usd(micro_usd)}, and {budget.of} is {usd(budget.limit)},"
            f" of which {usd(spent)} is spent and {usd(reserved)} reserved",
            hint="Its tool says what is approved, in tokens_micro_usd" if budget.scope == "job" else hint,
        )

    def _tell_low(self, payer: Payer) -> None:
        """Journal the budgets of which most, or all, is spent by now."""
        for budget in self._budgets(payer):
            spent, _ = self._sums(budget)
            if spent >= budget.limit:
                self._tell("budget.spent", budget, spent)
            elif spent >= LOW * budget.limit:
                self._tell("budget.low", budget, spent)

    def _tell(self, kind: str, budget: _Budget, spent: int) -> None:
        """Once a period and budget; what becomes of a job is told elsewhere."""
        if budget.scope == "job":
            return
        told = self._store.value(
            "SELECT 1 FROM journal WHERE subject = ? AND kind = ?", [budget.subject, kind]
        )
        if not told:
            self._journal.append(
                kind, budget.subject, "daemon",
                scope=budget.scope, name=budget.name, period=budget.period, spent=spent, limit=budget.limit,
            )  # fmt: skip

    def _sums(self, budget: _Budget) -> tuple[int, int]:
        return self._used(budget.scope, budget.name, budget.start)

    def _used(self, scope: Scope, name: str, start: datetime.datetime) -> tuple[int, int]:
        """Settled since `start`, and everything still reserved however old it is."""
        special = {"everything": "?1 = ''", "job": "subject = ?1 AND kind = 'lease'"}
        whose = special.get(scope, f"{scope} = ?1")
        row = self._store.row(
            f"SELECT (SELECT coalesce(sum(settled), 0) FROM ledger WHERE {whose} AND settled_at >= ?2),"
            f" (SELECT coalesce(sum(reserved), 0) FROM ledger WHERE {whose} AND settled IS NULL)",
            [name, start.timestamp()],
        )
        assert row is not None
        spent, held = row.values()
        return spent, held

    def _budgets(self, payer: Payer | None) -> Iterator[_Budget]:
        """The limits that an amount of `payer` has to fit in; without one, those of everything."""
        names: dict[Scope, str] = {"everything": ""}
        if payer is not None and payer.allowance is not None:
            yield _Budget("job", payer.job, "life", EPOCH, payer.allowance, "")
        if payer is not None:
            names |= {"principal": payer.principal, "project": payer.project}
        starts = dict(zip(PERIODS, _starts(self._store.now()), strict=True))
        for scope, limits in self._limits():
            for pattern, limit in limits.items() if scope in names else ():
                if scope != "everything" and not fnmatch.fnmatchcase(names[scope], pattern):
                    continue
                for period in PERIODS:
                    micro = _micro(limit, period)
                    if micro is not None:
                        yield _Budget(
                            scope, names[scope], period, starts[period], micro, _key(scope, pattern, period)
                        )

    def _limits(self) -> list[tuple[Scope, dict[str, Limit]]]:
        budget = self._budget
        everything = Limit(per_day_usd=budget.per_day_usd, per_month_usd=budget.per_month_usd)
        return [
            ("everything", {"": everything}),
            ("principal", budget.principals),
            ("project", budget.projects),
        ]

    def _standing(self, scope: Scope, name: str, limits: dict[str, Limit], period: Period) -> Standing:
        matching = [limit for pattern, limit in limits.items() if fnmatch.fnmatchcase(name, pattern)]
        bounds = [micro for limit in matching if (micro := _micro(limit, period)) is not None]
        day, month = _starts(self._store.now())
        spent, reserved = self._used(scope, name, day if period == "day" else month)
        return Standing(
            scope=scope,
            name=name,
            period=period,
            spent=spent,
            reserved=reserved,
            limit=min(bounds, default=None),
        )

    def _entries(self, where: str, *parameters: object) -> list[Entry]:
        return [Entry(**row) for row in self._store.rows(f"SELECT * FROM ledger {where}", parameters)]


PERIODS: tuple[Period, Period] = ("day", "month")
EPOCH = datetime.datetime.fromtimestamp(0, datetime.UTC)


def _starts(now: float) -> tuple[datetime.datetime, datetime.datetime]:
    """When the day and the month of `now` began, UTC."""
    today = datetime.datetime.fromtimestamp(now, datetime.UTC).replace(
        hour=0, minute=0, second=0, microsecond=0
    )
    return today, today.replace(day=1)


def _micro(limit: Limit, period: Period) -> int | None:
    dollars = limit.per_day_usd if period == "day" else limit.per_month_usd
    return None if dollars is None else round(dollars * 1_000_000)


def _key(scope: Scope, pattern: str, period: Period) -> str:
    table = "budget" if scope == "everything" else f'budget.{scope}s."{pattern}"'
    return f"{table}.per_{period}_usd"
