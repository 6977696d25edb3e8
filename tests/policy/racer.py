"""One of several processes that want the same approvals: ``racer.py DATABASE NAME``.

Waits for a line on stdin, then tries to approve every question and to use every approval, as a
launch does: consume, and record the attempt, in one transaction. Prints how often it did either.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from agentd.errors import Conflict
from agentd.policy.approvals import Approvals
from agentd.policy.bindings import Binding
from agentd.policy.callers import Caller
from agentd.store import Store
from agentd.store.approvals import ApprovalTable
from agentd.store.jobs import JobTable
from agentd.store.journal import Journal


async def main(path: Path, name: str) -> None:
    store = Store(path)
    table, jobs = ApprovalTable(store), JobTable(store)
    approvals = Approvals(store, table, Journal(store), lifetime_s=3600)
    person = Caller(f"user:{name}", "approve", "cli", Path("/"), is_agent=False)
    questions = list(reversed(table.list(limit=10_000)))
    print("ready", flush=True)
    sys.stdin.readline()
    answered = used = 0
    for question in questions:
        try:
            await approvals.decide(question.id, "approve", person)
            answered += 1
        except Conflict:
            pass
        try:
            with store.transaction():
                approvals.consume(question.job, Binding.model_validate(question.bound))
                jobs.add_attempt(f"att-{name}-{question.job}", question.job, Path("/nowhere"), None, 1)
            used += 1
        except Conflict:
            pass
    print(json.dumps({"answered": answered, "used": used}), flush=True)
    store.close()


asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
