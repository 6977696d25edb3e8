"""A process that spends from leases is killed at random: what it spent is never more than is recorded."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.config import Budget
from agentd.store import Store
from agentd.store.journal import Journal
from agentd.store.ledger import Ledger

LIMIT = 400_000
SPENDER = """
import random, sys
from pathlib import Path
from agentd.config import Budget
from agentd.errors import OverBudget
from agentd.store import Store
from agentd.store.journal import Journal
from agentd.store.leases import Leases
from agentd.store.ledger import Ledger, Payer

folder, limit = Path(sys.argv[1]), int(sys.argv[2])
store = Store(folder / "agentd.db")
ledger = Ledger(store, Budget(per_day_usd=limit / 1e6), Journal(store))
ledger.recover()
leases = Leases(store, ledger)
payers = [Payer("ada"), Payer("bob"), Payer("eve", "support")]
flying = []
with (folder / "spent").open("a", buffering=1) as spent:
    while True:
        try:
            flying.append(leases.draw("a request", random.choice(payers), random.randint(1, 400)))
        except OverBudget:
            print("over", flush=True)
        if len(flying) > 8 or not flying:
            draw = flying.pop(random.randrange(len(flying))) if flying else None
            if draw is None:
                continue
            cost = random.randint(0, draw.micro_usd)
            spent.write(f"{cost}\\n")  # the endpoint has billed it, before anybody here knows
            leases.settle(draw, cost)
            print("spent", flush=True)
"""


@pytest.mark.parametrize("seed", range(int(os.environ.get("AGENTD_KILLS", "1"))))
def test_a_killed_gateway_has_never_spent_more_than_is_recorded(tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    for _ in range(3):
        spender = subprocess.Popen(
            [sys.executable, "-c", SPENDER, str(tmp_path), str(LIMIT)], stdout=subprocess.PIPE, text=True
        )
        assert spender.stdout is not None
        for _ in range(dice.randint(1, 300)):
            spender.stdout.readline()
        os.kill(spender.pid, signal.SIGKILL)
        spender.wait()
        spender.stdout.close()
    store = Store(tmp_path / "agentd.db")
    ledger = Ledger(store, Budget(per_day_usd=LIMIT / 1e6), Journal(store))
    ledger.recover()
    summary = ledger.summary()
    spent = sum(int(line) for line in (tmp_path / "spent").read_text(encoding="ascii").split())
    store.close()
    assert 0 < spent <= summary.day_spent <= LIMIT
    assert summary.day_reserved == 0
    assert summary.day_spent - spent < LIMIT // 2, "what crashes cost is bounded"
