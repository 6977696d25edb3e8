"""Who may answer a question, how often, and for how long it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agentd.errors import Conflict, Denied, NotFound, Unauthorized
from agentd.policy.approvals import Approvals
from agentd.policy.callers import Caller
from agentd.policy.rules import Decision
from agentd.store import Store
from agentd.store.approvals import Approval, ApprovalTable
from agentd.store.jobs import JobTable
from agentd.store.journal import Journal

pytestmark = pytest.mark.anyio
ASK = Decision(effect="ask", rule="training", why="rule 'training' of 'default'")
ALLOW = Decision(effect="allow", rule="reading", why="rule 'reading' of 'default'")


@dataclass
class Desk:
    """Approvals of one store; `told` collects what is announced."""

    store: Store
    told: list[Approval] = field(default_factory=list[Approval])

    def __post_init__(self) -> None:
        self.journal = Journal(self.store)
        self.approvals = Approvals(self.store, ApprovalTable(self.store), self.journal, lifetime_s=3600)
        self.approvals.on_decided = self.told.append

    def asked(self, digest: str = "d1", decision: Decision = ASK) -> Approval:
        job = JobTable(self.store).add(
            tool="t",
            title="T",
            state="queued",
            principal="ada",
            surface="mcp",
            cwd="/",
            arguments={},
            quote={},
        )
        return self.approvals.record(
            decision, job=job.id, action="Train", digest=digest, facts={"quote": {}}, by="agent:ada"
        )

    def kinds(self) -> list[str]:
        return [entry.kind for entry in self.journal.tail()]


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    store = Store(tmp_path / "agentd.db")
    yield Desk(store)
    store.close()


async def test_a_persons_yes_is_recorded_and_told(desk: Desk, person: Caller) -> None:
    question = desk.asked()
    answered = await desk.approvals.decide(question.id, "approve", person, "cheap enough")
    assert (answered.state, answered.decided_by, answered.reason) == ("approved", "user:ada", "cheap enough")
    assert desk.told == [answered]
    assert desk.kinds() == ["approval.asked", "approval.approved"]


async def test_what_policy_allows_is_recorded_as_decided_by_its_rule(desk: Desk) -> None:
    granted = desk.asked(decision=ALLOW)
    assert (granted.state, granted.decided_by) == ("approved", "policy:reading")
    assert desk.kinds() == ["approval.granted"]


@pytest.mark.parametrize("role", ["infer", "view", "operate", "approve", "admin"])
async def test_an_agent_never_answers_whatever_its_role(desk: Desk, agent: Caller, role: str) -> None:
    question = desk.asked()
    with pytest.raises(Unauthorized, match=f"may not answer {question.id}.*agentd approve"):
        await desk.approvals.decide(question.id, "approve", replace(agent, role=role))
    assert desk.approvals.get(question.id).state == "pending"
    refused = desk.journal.tail()[-1]
    assert (refused.kind, refused.principal, refused.data["surface"]) == (
        "approval.refused",
        "agent:ada",
        "mcp",
    )


@pytest.mark.parametrize("role", ["infer", "view", "operate"])
async def test_a_person_needs_the_role_to_approve(desk: Desk, person: Caller, role: str) -> None:
    with pytest.raises(Unauthorized):
        await desk.approvals.decide(desk.asked().id, "deny", replace(person, role=role))


async def test_only_the_first_answer_counts(desk: Desk, person: Caller) -> None:
    question = desk.asked()
    answers = [
        desk.approvals.decide(question.id, verdict, person) for verdict in ("deny", "approve", "approve")
    ]
    first, *late = await asyncio.gather(*answers, return_exceptions=True)
    assert isinstance(first, Approval)
    assert first.state == "denied"
    assert all(isinstance(error, Conflict) and "already denied by user:ada" in str(error) for error in late)
    assert len(desk.told) == 1


async def test_an_approval_is_used_once_and_only_for_what_it_was_given(desk: Desk, person: Caller) -> None:
    question = desk.asked("d1")
    with pytest.raises(Conflict):
        desk.approvals.consume(question.job, "d1")
    await desk.approvals.decide(question.id, "approve", person)
    with pytest.raises(Conflict, match="has changed since it was approved"):
        desk.approvals.consume(question.job, "d2")
    desk.approvals.consume(question.job, "d1")
    with pytest.raises(Conflict):
        desk.approvals.consume(question.job, "d1")


async def test_a_denial_sticks_for_a_day(desk: Desk, person: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    question = desk.asked("d1")
    await desk.approvals.decide(question.id, "deny", person, "too dear")
    with pytest.raises(Denied, match=f"user:ada denied exactly this in {question.id}: too dear"):
        desk.approvals.refuse_if_denied("d1")
    desk.approvals.refuse_if_denied("d2")
    later = desk.store.now() + 25 * 3600
    monkeypatch.setattr(Store, "now", staticmethod(lambda: later))
    desk.approvals.refuse_if_denied("d1")


async def test_a_question_that_nobody_answers_expires(
    desk: Desk, person: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = desk.asked()
    later = desk.store.now() + 3601
    monkeypatch.setattr(Store, "now", staticmethod(lambda: later))
    with pytest.raises(Conflict, match="already expired"):
        await desk.approvals.decide(question.id, "approve", person)
    desk.approvals.expire()
    assert [approval.state for approval in desk.told] == ["expired"]
    assert desk.kinds()[-1] == "approval.expired"


async def test_a_question_is_found_by_its_job_and_near_misses_are_named(desk: Desk) -> None:
    question = desk.asked()
    assert desk.approvals.get(question.job).id == question.id
    with pytest.raises(NotFound, match=f"Did you mean '{question.id}'"):
        desk.approvals.get(question.id[:-1])
