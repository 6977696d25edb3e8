"""Leases: what requests draw in memory is on disk beforehand, whatever is interleaved, crashes or fails."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from agentd.config import Budget, Limit
from agentd.errors import AgentdError, OverBudget, Unavailable, Unknown
from agentd.store import Store
from agentd.store.database import COMMIT
from agentd.store.journal import Journal
from agentd.store.leases import IDLE_S, LARGEST, Draw, Leases
from agentd.store.ledger import Ledger, Payer

EXAMPLES = int(os.environ.get("AGENTD_EXAMPLES", "25"))
ADA, AGENT, BOB = Payer("ada"), Payer("agent:one", "support"), Payer("bob", "support")
PAYERS = (ADA, AGENT, BOB)
BUDGET = Budget(
    per_day_usd=0.01,
    per_month_usd=0.025,
    principals={"agent:*": Limit(per_day_usd=0.004)},
    projects={"support": Limit(per_day_usd=0.007, per_month_usd=0.009)},
)
FAULTS = ("before", "after", "refused")  # of the first two nobody knows which it was
MIDNIGHT = 1_793_577_600.0  # between the first and the second of November 2026, UTC


class Disk(Store):
    """A real store whose clock is set, and whose next commit can fail: see `FAULTS`."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.at, self.fault = MIDNIGHT - 7_200.0, ""
        self.now = lambda: self.at

    def _execute(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        if sql != COMMIT or not self.fault:
            return super()._execute(sql, parameters)
        fault, self.fault = self.fault, ""
        if fault == "after":
            super()._execute(sql)
        raise Unavailable("The disk said no") if fault == "refused" else Unknown("The disk said nothing")


class Money:
    """A ledger and its leases on one file, as a daemon holds them."""

    def __init__(self, folder: Path, budget: Budget = BUDGET) -> None:
        self._path, self._budget = folder / "agentd.db", budget
        self.now = 0.0
        self.start()

    def start(self) -> None:
        self.store = Disk(self._path)
        self.journal = Journal(self.store)
        self.ledger = Ledger(self.store, self._budget, self.journal)
        self.leases = Leases(self.store, self.ledger, clock=lambda: self.now)
        self.ledger.recover()

    def crash(self) -> None:
        at = self.store.at
        self.store.close()
        self.start()
        self.store.at = at


@pytest.fixture
def money(tmp_path: Path) -> Iterator[Money]:
    money = Money(tmp_path)
    yield money
    money.store.close()


# --- one at a time --------------------------------------------------------------------------


def commits(money: Money) -> int:
    return len(money.ledger.entries(limit=10_000))


def test_many_requests_draw_on_few_commits(money: Money) -> None:
    for _ in range(200):
        money.leases.settle(money.leases.draw("a request", ADA, 40), 10)
        money.now += 0.01
    assert commits(money) < 10
    assert money.ledger.summary().day_spent == 2_000


def test_what_nobody_uses_goes_back_after_a_while(money: Money) -> None:
    draw = money.leases.draw("a request", ADA, 100)
    assert money.ledger.remaining() == 10_000 - 400
    money.now += IDLE_S
    money.leases.give_back_idle()
    assert money.ledger.remaining() == 10_000 - 400, "a request still holds some of it"
    money.leases.settle(draw, 30)
    money.leases.give_back_idle()
    assert money.ledger.remaining() == 10_000 - 30
    assert not money.leases.open


def test_a_lease_is_at_most_an_eighth_of_what_is_left_or_what_was_asked_for(money: Money) -> None:
    money.leases.draw("a request", ADA, 1_000)
    assert money.ledger.remaining() == 10_000 - 1_250
    money.leases.draw("a request", BOB, 3_000)
    assert money.ledger.remaining() == 10_000 - 1_250 - 3_000


def test_a_lease_without_a_budget_is_bounded_all_the_same(tmp_path: Path) -> None:
    money = Money(tmp_path, Budget(per_day_usd=None, per_month_usd=None))
    money.leases.draw("a request", ADA, LARGEST // 2)
    assert money.ledger.summary(limit=1).entries[0].reserved <= LARGEST
    money.store.close()


def test_money_that_another_payer_does_not_use_is_never_missing(money: Money) -> None:
    money.leases.settle(money.leases.draw("a request", ADA, 1_000), 0)
    held = money.leases.draw("a request", BOB, 4_000)
    money.leases.settle(money.leases.draw("a request", ADA, 6_000), 6_000)
    money.leases.settle(held, 4_000)
    with pytest.raises(OverBudget, match=r"this day's budget is \$0.01, of which \$0.01 is spent"):
        money.leases.draw("a request", ADA, 1)


def test_a_job_gets_what_leases_hold_and_nobody_uses(money: Money) -> None:
    money.leases.draw("a request", ADA, 1_000)
    with pytest.raises(OverBudget):
        money.ledger.reserve("job", "job-1", ADA, 9_000)
    money.ledger.check("job-1", ADA, 9_000)
    money.ledger.reserve("job", "job-1", ADA, 9_000)


def test_an_answer_that_cost_more_than_it_held_is_on_disk_at_once(money: Money) -> None:
    money.leases.settle(money.leases.draw("a request", ADA, 100), 2_000)
    money.crash()
    assert money.ledger.summary().day_spent == 2_000
    assert [entry.data["settled"] for entry in money.journal.tail() if entry.kind == "ledger.exceeded"] == [
        2_000
    ]


def test_a_crash_counts_the_open_lease_as_spent(money: Money) -> None:
    draw = money.leases.draw("a request", ADA, 100)
    money.leases.settle(draw, 30)
    money.crash()
    assert (money.ledger.summary().day_spent, money.ledger.summary().day_reserved) == (400, 0)
    [lost] = [entry for entry in money.journal.tail() if entry.kind == "lease.lost"]
    assert (lost.principal, lost.data["micro_usd"]) == ("ada", 400)


def test_what_is_under_way_at_the_end_counts_with_all_it_holds(money: Money) -> None:
    late = money.leases.draw("a request", ADA, 100)
    money.leases.settle(money.leases.draw("a request", ADA, 100), 30)
    money.leases.close()
    money.leases.settle(late, 10)
    assert (money.ledger.summary().day_spent, money.ledger.summary().day_reserved) == (130, 0)


@pytest.mark.parametrize("fault", ["before", "after"])
def test_a_commit_that_failed_or_not_leaves_the_lease_counted_until_the_next_start(
    money: Money, fault: str
) -> None:
    first = money.leases.draw("a request", ADA, 100)
    money.leases.settle(first, 50)
    money.store.fault = fault
    with pytest.raises(AgentdError, match="The disk said nothing"):
        money.leases.draw("a request", ADA, 600)
    assert money.ledger.summary().day_spent + money.ledger.summary().day_reserved >= 400
    money.leases.settle(money.leases.draw("a request", ADA, 600), 600)
    money.crash()
    assert money.ledger.summary().day_spent >= 650


def test_a_commit_that_was_refused_changes_nothing(money: Money) -> None:
    money.leases.settle(money.leases.draw("a request", ADA, 100), 50)
    money.store.fault = "refused"
    with pytest.raises(Unavailable, match="The disk said no"):
        money.leases.draw("a request", ADA, 600)
    assert (money.ledger.summary().day_spent, money.ledger.summary().day_reserved) == (50, 0)


# --- in any order ---------------------------------------------------------------------------

AMOUNTS = st.integers(0, 3_000)
SHARES = st.floats(0, 1)


class Interleavings(RuleBasedStateMachine):
    """Requests and jobs of three payers, whose money is drawn, booked, returned, lost and found again.

    `spent` is what the world has really taken, `excess` how much of it was more than had been held:
    only that may ever stand above a limit.
    """

    draws: Bundle[Draw] = Bundle("draws")
    jobs: Bundle[tuple[str, int]] = Bundle("jobs")

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self.money = Money(Path(self._folder.name))
        self.spent = self.excess = self.starts = 0
        self.flying: list[Draw] = []

    def teardown(self) -> None:
        self.money.store.close()
        self._folder.cleanup()

    # --- what happens

    @rule(target=draws, payer=st.sampled_from(PAYERS), micro=AMOUNTS)
    def draw(self, payer: Payer, micro: int) -> object:
        try:
            draw = self.money.leases.draw("a request", payer, micro)
        except OverBudget:
            return multiple()
        self.fits(payer, micro)
        self.flying.append(draw)
        return draw

    @rule(draw=consumes(draws), share=SHARES, more=st.sampled_from([0, 0, 0, 700]))
    def answer(self, draw: Draw, share: float, more: int) -> None:
        if draw not in self.flying:  # it was under way when the daemon ended
            return
        self.flying.remove(draw)
        spent = int(draw.micro_usd * share)
        if more:
            spent, self.excess = draw.micro_usd + more, self.excess + more
        self.spent += spent
        self.money.leases.settle(draw, spent)
        self.money.leases.settle(draw, spent)

    @rule(target=jobs, payer=st.sampled_from(PAYERS), micro=AMOUNTS)
    def launch(self, payer: Payer, micro: int) -> object:
        try:
            self.money.ledger.check("job-1", payer, micro)
            entry = self.money.ledger.reserve("job", "job-1", payer, micro, attempt="att-1")
        except OverBudget:
            return multiple()
        self.fits(payer, micro)
        return entry, micro

    @rule(job=consumes(jobs), share=SHARES, more=st.sampled_from([0, 0, 500]))
    def end(self, job: tuple[str, int], share: float, more: int) -> None:
        entry, held = job
        spent = held + more if more else int(held * share)
        self.excess += more
        self.spent += spent
        self.money.ledger.settle(entry, spent)
        self.money.ledger.settle(entry, held + 9_999)  # a second time changes nothing

    @rule(target=jobs, job=consumes(jobs), share=SHARES)
    def retry(self, job: tuple[str, int], share: float) -> object:
        """The attempt is over and the next one reserves for itself, in one transaction or not at all."""
        entry, held = job
        [row] = [e for e in self.money.ledger.entries(limit=10_000) if e.id == entry]
        payer = Payer(row.principal, row.project)
        spent = int(held * share)
        self.spent += spent
        self.money.ledger.settle(entry, spent)
        try:
            return self.money.ledger.reserve("job", "job-1", payer, held, attempt="att-2"), held
        except OverBudget:
            return multiple()

    @rule(seconds=st.sampled_from([0.1, 6.0, 60.0]))
    def wait(self, seconds: float) -> None:
        self.money.now += seconds
        self.money.store.at += seconds
        self.money.leases.give_back_idle()

    @rule()
    def look(self) -> None:
        summary = self.money.ledger.summary()
        assert summary.day_reserved >= sum(draw.micro_usd for draw in self.flying)

    @rule()
    def midnight(self) -> None:
        self.money.store.at += 86_400.0

    @precondition(lambda self: self.starts < 6)
    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        """Requests under way may have been answered and billed, and nobody was there to hear."""
        self.starts += 1
        self.spent += sum(draw.micro_usd for draw in self.flying)
        self.flying.clear()
        if clean:
            self.money.leases.close()
        self.money.crash()

    @rule(payer=st.sampled_from(PAYERS), micro=AMOUNTS, fault=st.sampled_from(FAULTS))
    def fail(self, payer: Payer, micro: int, fault: str) -> None:
        """The disk fails under a request: it is refused, and nothing of it is spent."""
        self.money.store.fault = fault
        try:
            draw = self.money.leases.draw("a request", payer, micro)
        except AgentdError:
            return
        finally:
            self.money.store.fault = ""
        self.money.leases.settle(draw, 0)

    # --- what always holds

    def fits(self, payer: Payer, micro: int) -> None:
        """What was let through just now fits every budget it belongs to; what is free fits any."""
        if not micro:
            return
        mine = {("everything", ""), ("principal", payer.principal), ("project", payer.project)}
        for standing in self.money.ledger.standings():
            if standing.limit is not None and (standing.scope, standing.name) in mine:
                assert standing.spent + standing.reserved <= standing.limit, standing

    @invariant()
    def nothing_that_was_spent_is_missing(self) -> None:
        row = self.money.store.row("SELECT coalesce(sum(coalesce(settled, reserved)), 0) AS all_ FROM ledger")
        held = sum(draw.micro_usd for draw in self.flying)
        assert row is not None
        assert row["all_"] >= self.spent + held

    @invariant()
    def only_what_cost_more_than_was_held_stands_above_a_limit(self) -> None:
        for standing in self.money.ledger.standings():
            if standing.limit is not None:
                assert standing.spent + standing.reserved <= standing.limit + self.excess, standing


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=EXAMPLES, stateful_step_count=40, deadline=None)
