"""Money: nothing that is reserved and settled in any order spends more than the budget."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.config import Budget, Limit
from agentd.errors import OverBudget
from agentd.store import Store
from agentd.store.journal import Journal
from agentd.store.ledger import Ledger, Payer, usd

DAY_USD, MONTH_USD = 0.001, 0.0015
DAY, MONTH = 1_000, 1_500
ADA = Payer("ada")


@contextmanager
def opened(day: float | None = DAY_USD, month: float | None = MONTH_USD) -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "agentd.db")
        try:
            yield Ledger(store, Budget(per_day_usd=day, per_month_usd=month), Journal(store))
        finally:
            store.close()


@pytest.fixture
def ledger() -> Iterator[Ledger]:
    with opened() as ledger:
        yield ledger


Step = tuple[str, int, float]
STEPS = st.lists(
    st.tuples(st.sampled_from(["reserve", "settle"]), st.integers(0, 700), st.floats(0, 1)), max_size=25
)


@given(STEPS)
@settings(max_examples=40, deadline=None)
def test_no_interleaving_of_reservations_and_settlements_overspends(steps: list[Step]) -> None:
    with opened() as ledger:
        held: list[tuple[str, int]] = []
        settled = 0
        for action, amount, share in steps:
            if action == "reserve":
                room = DAY - settled - sum(micro for _, micro in held)
                if amount <= room:
                    held.append((ledger.reserve("job", "job-1", ADA, amount), amount))
                else:
                    with pytest.raises(OverBudget):
                        ledger.reserve("job", "job-1", ADA, amount)
            elif held:
                entry, reserved = held.pop(amount % len(held))
                spent = int(reserved * share)
                ledger.settle(entry, spent)
                ledger.settle(entry, reserved + 1)  # a second time changes nothing
                settled += spent
            summary = ledger.summary()
            assert summary.day_spent == settled
            assert summary.day_reserved == sum(micro for _, micro in held)
            assert summary.day_spent + summary.day_reserved <= DAY
            assert ledger.remaining() == DAY - summary.day_spent - summary.day_reserved


def test_what_does_not_fit_says_what_is_spent_and_reserved(ledger: Ledger) -> None:
    ledger.settle(ledger.reserve("tokens", "req-1", ADA, 400), 300)
    ledger.reserve("job", "job-1", ADA, 500)
    with pytest.raises(
        OverBudget, match=r"job-2 may cost up to \$0\.000201, .* \$0\.0003 is spent and \$0\.0005 reserved"
    ):
        ledger.reserve("job", "job-2", ADA, 201)
    assert ledger.open_of("job-2") == []
    ledger.reserve("job", "job-2", ADA, 200)


def test_what_is_free_is_never_refused(ledger: Ledger) -> None:
    ledger.settle(ledger.reserve("job", "job-1", ADA, 1_000), 2_000)
    assert ledger.remaining() == 0
    ledger.reserve("job", "job-2", ADA, 0)


def test_the_month_limits_what_the_day_would_allow(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> None:
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_793_500_000.0))  # 2026-11-01, in UTC
    ledger.settle(ledger.reserve("job", "job-1", ADA, 1_000), 1_000)
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_793_600_000.0))  # a day later
    assert ledger.remaining() == MONTH - DAY
    with pytest.raises(OverBudget, match=r"this month's budget .*per_month_usd"):
        ledger.reserve("job", "job-2", ADA, 501)
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_796_200_000.0))  # in December
    assert ledger.remaining() == DAY


def test_a_reservation_counts_until_it_is_settled_however_old_it_is(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_793_500_000.0))
    entry = ledger.reserve("job", "job-1", ADA, 900)
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_796_200_000.0))
    assert ledger.remaining() == 100
    ledger.settle(entry, 0)
    assert ledger.remaining() == DAY


def test_what_was_reserved_before_midnight_and_settled_after_it_is_spent_in_the_new_day(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_793_577_600.0 - 60))  # 23:59 on 2026-11-01
    entry = ledger.reserve("job", "job-1", ADA, 600)
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_793_577_600.0 + 60))
    assert ledger.remaining() == 400
    ledger.settle(entry, 500)
    assert (ledger.summary().day_spent, ledger.summary().day_reserved) == (500, 0)
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_793_577_600.0 - 30))
    assert ledger.summary().day_reserved == 0


def test_each_principal_and_project_that_a_pattern_fits_has_a_budget_of_its_own(tmp_path: Path) -> None:
    budget = Budget(
        per_day_usd=DAY_USD,
        per_month_usd=None,
        principals={"agent:*": Limit(per_day_usd=0.0004)},
        projects={"support": Limit(per_month_usd=0.0005)},
    )
    with closing(Store(tmp_path / "agentd.db")) as store:
        ledger = Ledger(store, budget, Journal(store))
        one, two = Payer("agent:one"), Payer("agent:two")
        ledger.reserve("job", "job-1", one, 400)
        with pytest.raises(
            OverBudget,
            match=r"this day's budget of principal 'agent:one' .*budget.principals.\"agent:\*\".per_day",
        ):
            ledger.reserve("job", "job-2", one, 1)
        assert (ledger.remaining(one), ledger.remaining(two), ledger.remaining(ADA)) == (0, 400, 600)
        ledger.reserve("job", "job-3", Payer("ada", "support"), 300)
        with pytest.raises(OverBudget, match=r"this month's budget of project 'support' is \$0.0005"):
            ledger.reserve("lease", "job-4", Payer("agent:two", "support"), 201)
        with pytest.raises(OverBudget, match=r"this day's budget is \$0.001,"):
            ledger.reserve("job", "job-5", ADA, 301)
        standings = {(s.scope, s.name, s.period): s.left for s in ledger.standings()}
        assert standings["everything", "", "day"] == 300
        assert standings["principal", "agent:one", "day"] == 0
        assert standings["project", "support", "month"] == 200
        assert standings["principal", "ada", "day"] is None


def test_more_than_was_reserved_counts_at_once_and_is_journalled(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "agentd.db")) as store:
        ledger = Ledger(store, Budget(per_day_usd=DAY_USD), journal := Journal(store))
        ledger.settle(ledger.reserve("job", "job-1", ADA, 600, attempt="att-1"), 1_200)
        assert (ledger.summary().day_spent, ledger.remaining()) == (1_200, 0)
        with pytest.raises(OverBudget):
            ledger.reserve("job", "job-2", ADA, 1)
        assert ledger.entries(subject="job-1")[0].attempt == "att-1"
        [exceeded] = [e for e in journal.tail(subject="job-1") if e.kind == "ledger.exceeded"]
        assert (exceeded.data["reserved"], exceeded.data["settled"]) == (600, 1_200)


def test_a_budget_that_runs_low_and_out_is_journalled_once_a_period(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_793_500_000.0))  # 2026-11-01
    with closing(Store(tmp_path / "agentd.db")) as store:
        ledger = Ledger(store, Budget(per_day_usd=DAY_USD, per_month_usd=None), journal := Journal(store))
        for _ in range(9):
            ledger.settle(ledger.reserve("job", "job-1", ADA, 100), 100)
        for _ in range(2):
            with pytest.raises(OverBudget):
                ledger.reserve("job", "job-2", ADA, 200)
        monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_793_600_000.0))  # a day later
        ledger.settle(ledger.reserve("job", "job-3", ADA, 1_000), 1_000)
        told = [(e.kind, e.subject, e.data["spent"]) for e in journal.tail()]
        assert told == [
            ("budget.low", "2026-11-01", 800),
            ("budget.spent", "2026-11-01", 900),
            ("budget.spent", "2026-11-02", 1_000),
        ]


def test_a_lease_that_a_crash_left_open_is_spent_and_a_jobs_reservation_is_not(tmp_path: Path) -> None:
    with closing(Store(tmp_path / "agentd.db")) as store:
        ledger = Ledger(store, Budget(per_day_usd=DAY_USD), journal := Journal(store))
        ledger.reserve("job", "job-1", ADA, 300)
        lease = ledger.reserve("lease", "gateway", ADA, 200)
        ledger.recover()
        ledger.recover()
        summary = ledger.summary()
        assert (summary.day_spent, summary.day_reserved) == (200, 300)
        assert [e.data["micro_usd"] for e in journal.tail(subject=lease)] == [200]


def test_without_a_budget_nothing_is_refused() -> None:
    with opened(day=None, month=None) as ledger:
        ledger.reserve("job", "job-1", ADA, 10**15)
        assert ledger.remaining() is None
        assert ledger.summary().day_limit is None


@pytest.mark.parametrize(
    ("micro", "text"),
    [(0, "$0.00"), (1, "$0.000001"), (4_200, "$0.0042"), (100_000, "$0.10"), (1_234_567_890, "$1,234.57")],
)
def test_amounts_are_shown_as_dollars(micro: int, text: str) -> None:
    assert usd(micro) == text
