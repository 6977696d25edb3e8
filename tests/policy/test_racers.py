"""Eight processes, each with a connection of its own, race for the same approvals."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from agentd.policy.approvals import Approvals
from agentd.policy.bindings import Binding
from agentd.policy.rules import Decision
from agentd.store import Store
from agentd.store.approvals import ApprovalTable
from agentd.store.jobs import JobTable
from agentd.store.journal import Journal

pytestmark = pytest.mark.slow
RACERS, QUESTIONS = 8, 500
ASK = Decision(effect="ask", rule="training", why="")


def ask(store: Store) -> None:
    approvals = Approvals(store, ApprovalTable(store), Journal(store), lifetime_s=3600)
    jobs = JobTable(store)
    with store.transaction():
        for n in range(QUESTIONS):
            job = jobs.add(
                tool="t", title="T", state="waiting_approval", principal="agent:ada", surface="mcp",
                cwd="/", arguments={}, quote={},
            )  # fmt: skip
            binding = Binding(action={"rules": "r", "argument 'n'": str(n)})
            approvals.record(ASK, job=job.id, action="T", binding=binding, facts={}, by="agent:ada")


def test_eight_racers_answer_and_use_each_of_500_approvals_once(tmp_path: Path) -> None:
    path = tmp_path / "agentd.db"
    store = Store(path)
    ask(store)
    command = [sys.executable, str(Path(__file__).with_name("racer.py")), str(path)]
    racers = [
        subprocess.Popen([*command, str(n)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for n in range(RACERS)
    ]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin is not None
        racer.stdin.write("go\n")
        racer.stdin.flush()
    told = [json.loads(racer.communicate(timeout=120)[0]) for racer in racers]

    consumed = store.value("SELECT count(*) FROM approvals WHERE state = 'consumed'")
    twice = store.value("SELECT count(*) FROM (SELECT 1 FROM attempts GROUP BY job HAVING count(*) > 1)")
    shares = ", ".join(str(one["used"]) for one in told)
    print(f"{RACERS} racers, {QUESTIONS} approvals: {consumed} consumed, {twice} twice (each used {shares})")
    assert (consumed, twice) == (QUESTIONS, 0)
    assert sum(one["used"] for one in told) == store.value("SELECT count(*) FROM attempts") == QUESTIONS
    assert sum(one["answered"] for one in told) == store.value("SELECT count(*) FROM answers") == QUESTIONS
    assert Journal(store).verify().ok
    store.close()
