"""Money: nothing that is reserved and settled in any order spends more than the budget."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentd.config import Budget
from agentd.errors import OverBudget
from agentd.store import Store
from agentd.store.ledger import Ledger, usd

DAY_USD, MONTH_USD = 0.001, 0.0015
DAY, MONTH = 1_000, 1_500


@contextmanager
def opened(day: float | None = DAY_USD, month: float | None = MONTH_USD) -> Iterator[Ledger]:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "agentd.db")
        try:
            yield Ledger(store, Budget(per_day_usd=day, per_month_usd=month))
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
                    held.append((ledger.reserve("job", "job-1", "ada", amount), amount))
                else:
                    with pytest.raises(OverBudget):
                        ledger.reserve("job", "job-1", "ada", amount)
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
    ledger.settle(ledger.reserve("tokens", "req-1", "ada", 400), 300)
    ledger.reserve("job", "job-1", "ada", 500)
    with pytest.raises(
        OverBudget, match=r"job-2 may cost \$0\.000201, .* \$0\.0003 is spent and \$0\.0005 reserved"
    ):
        ledger.reserve("job", "job-2", "ada", 201)
    assert ledger.open_of("job-2") == []
    ledger.reserve("job", "job-2", "ada", 200)


def test_what_is_free_is_never_refused(ledger: Ledger) -> None:
    ledger.settle(ledger.reserve("job", "job-1", "ada", 1_000), 2_000)
    assert ledger.remaining() == 0
    ledger.reserve("job", "job-2", "ada", 0)


def test_the_month_limits_what_the_day_would_allow(monkeypatch: pytest.MonkeyPatch, ledger: Ledger) -> None:
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_793_500_000.0))  # 2026-11-01, in UTC
    ledger.settle(ledger.reserve("job", "job-1", "ada", 1_000), 1_000)
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_793_600_000.0))  # a day later
    assert ledger.remaining() == MONTH - DAY
    with pytest.raises(OverBudget, match=r"this month's budget .*per_month_usd"):
        ledger.reserve("job", "job-2", "ada", 501)
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_796_200_000.0))  # in December
    assert ledger.remaining() == DAY


def test_a_reservation_counts_until_it_is_settled_however_old_it_is(
    monkeypatch: pytest.MonkeyPatch, ledger: Ledger
) -> None:
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_793_500_000.0))
    entry = ledger.reserve("job", "job-1", "ada", 900)
    monkeypatch.setattr(Store, "now", staticmethod(lambda: 1_796_200_000.0))
    assert ledger.remaining() == 100
    ledger.settle(entry, 0)
    assert ledger.remaining() == DAY


def test_without_a_budget_nothing_is_refused() -> None:
    with opened(day=None, month=None) as ledger:
        ledger.reserve("job", "job-1", "ada", 10**15)
        assert ledger.remaining() is None
        assert ledger.summary().day_limit is None


@pytest.mark.parametrize(
    ("micro", "text"),
    [(0, "$0.00"), (1, "$0.000001"), (4_200, "$0.0042"), (100_000, "$0.10"), (1_234_567_890, "$1,234.57")],
)
def test_amounts_are_shown_as_dollars(micro: int, text: str) -> None:
    assert usd(micro) == text
