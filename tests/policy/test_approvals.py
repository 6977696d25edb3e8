"""Who may answer a question, how often, and for how long it stands."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from agentd.errors import Conflict, Denied, NotFound, Unauthorized
from agentd.policy.approvals import Approvals, Outdated
from agentd.policy.bindings import Binding
from agentd.policy.callers import Caller
from agentd.policy.people import People
from agentd.policy.rules import Decision
from agentd.store import Store
from agentd.store.approvals import Approval, ApprovalTable
from agentd.store.jobs import JobTable
from agentd.store.journal import Journal

pytestmark = pytest.mark.anyio
PEOPLE = {"ada": ["user:ada", "slack:U1"], "bob": ["user:bob"], "eve": ["user:eve"]}
ASK = Decision(effect="ask", rule="training", why="rule 'training' of 'default'")
ALLOW = Decision(effect="allow", rule="reading", why="rule 'reading' of 'default'")


def action(most: int = 10, **parts: str) -> Binding:
    return Binding(action={"rules": "r", "argument 'epochs'": "1", **parts}, most=most)


ACTION = action()


@dataclass
class Desk:
    """Approvals of one store; `told` collects what is announced."""

    store: Store
    told: list[Approval] = field(default_factory=list[Approval])

    def __post_init__(self) -> None:
        self.journal = Journal(self.store)
        self.approvals = Approvals(
            self.store, ApprovalTable(self.store), self.journal, lifetime_s=3600, people=People(PEOPLE)
        )
        self.approvals.on_decided = self.told.append

    def asked(self, binding: Binding = ACTION, decision: Decision = ASK, by: str = "agent:ada") -> Approval:
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
            decision, job=job.id, action="Train", binding=binding, facts={"quote": {}}, by=by
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


async def test_an_approval_is_used_once(desk: Desk, person: Caller) -> None:
    question = desk.asked()
    with pytest.raises(Conflict, match="is pending"):
        desk.approvals.consume(question.job, action())
    await desk.approvals.decide(question.id, "approve", person)
    desk.approvals.consume(question.job, action())
    with pytest.raises(Conflict, match="is consumed"):
        desk.approvals.consume(question.job, action())


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (action(**{"argument 'epochs'": "2"}), "the argument 'epochs' was changed"),
        (action(**{"input 'data'": "1"}), "the input 'data' was changed"),
        (Binding(action={"rules": "r"}, most=10), "the argument 'epochs' was changed"),
        (action().model_copy(update={"asked": {"principal": "x"}}), "the principal was changed"),
        (action(cost="1", recipe="2"), "the cost, the recipe were changed"),
    ],
)
async def test_an_approval_is_refused_for_anything_else_and_what_changed_is_named(
    desk: Desk, person: Caller, now: Binding, named: str
) -> None:
    question = desk.asked()
    await desk.approvals.decide(question.id, "approve", person)
    with pytest.raises(
        Conflict, match=f"{question.job} is not started: {named} since {question.id}"
    ) as caught:
        desk.approvals.consume(question.job, now)
    assert not isinstance(caught.value, Outdated)
    assert desk.approvals.get(question.id).state == "approved"


@pytest.mark.parametrize(
    ("now", "why"),
    [
        (action(rules="other"), "the rules were changed"),
        (action(most=11), r"it may cost \$0.000011 now, up from \$0.00001"),
    ],
)
async def test_what_only_the_rules_or_the_price_have_overtaken_has_to_be_asked_again(
    desk: Desk, person: Caller, now: Binding, why: str
) -> None:
    question = desk.asked()
    await desk.approvals.decide(question.id, "approve", person)
    with pytest.raises(Outdated, match=why):
        desk.approvals.consume(question.job, now)


async def test_a_lower_price_needs_no_new_question(desk: Desk, person: Caller) -> None:
    question = desk.asked()
    await desk.approvals.decide(question.id, "approve", person)
    desk.approvals.consume(question.job, action(most=9))
    assert desk.approvals.get(question.id).state == "consumed"


async def test_an_approval_that_was_not_used_in_time_has_to_be_asked_again(
    desk: Desk, person: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = desk.asked()
    asked = desk.store.now()
    monkeypatch.setattr(Store, "now", staticmethod(lambda: asked + 3000))
    await desk.approvals.decide(question.id, "approve", person)
    monkeypatch.setattr(Store, "now", staticmethod(lambda: asked + 3000 + 3599))
    desk.approvals.check(question.job, action())
    monkeypatch.setattr(Store, "now", staticmethod(lambda: asked + 3000 + 3601))
    with pytest.raises(Outdated, match="was not used within 1 hours"):
        desk.approvals.consume(question.job, action())


async def test_a_denial_sticks_to_the_action_for_a_day_whoever_asks_for_it(
    desk: Desk, person: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = action().model_copy(update={"asked": {"principal": "agent:ada"}})
    question = desk.asked(asked)
    assert not desk.approvals.any_denied
    await desk.approvals.decide(question.id, "deny", person, "too dear")
    assert desk.approvals.any_denied
    elsewhere = asked.model_copy(update={"asked": {"principal": "agent:bob"}})
    with pytest.raises(Denied, match=f"user:ada denied exactly this in {question.id}: too dear"):
        desk.approvals.refuse_if_denied(elsewhere.digest)
    desk.approvals.refuse_if_denied(action(recipe="2").digest)
    later = desk.store.now() + 25 * 3600
    monkeypatch.setattr(Store, "now", staticmethod(lambda: later))
    desk.approvals.refuse_if_denied(asked.digest)
    assert not desk.approvals.any_denied


# --- two people -----------------------------------------------------------------------------

TWO = ASK.model_copy(update={"people": 2})
ANOTHER = ASK.model_copy(update={"requester_may_answer": False})


async def test_two_people_have_to_approve_where_a_rule_says_so(desk: Desk, person: Caller) -> None:
    question = desk.asked(decision=TWO)
    first = await desk.approvals.decide(question.id, "approve", person, "fine")
    assert (first.state, first.given, first.people) == ("pending", 1, 2)
    assert desk.told == []
    with pytest.raises(Conflict, match="is pending"):
        desk.approvals.consume(question.job, action())
    second = await desk.approvals.decide(question.id, "approve", replace(person, principal="user:bob"))
    assert (second.state, second.decided_by) == ("approved", "user:ada, user:bob")
    assert [(a.person, a.principal, a.verdict, a.reason) for a in second.answers] == [
        ("ada", "user:ada", "approve", "fine"),
        ("bob", "user:bob", "approve", ""),
    ]
    assert desk.told == [second]
    assert desk.kinds() == ["approval.asked", "approval.answered", "approval.approved"]


@pytest.mark.parametrize("identity", ["user:ada", "slack:U1"])
async def test_one_person_through_two_surfaces_is_one(desk: Desk, person: Caller, identity: str) -> None:
    question = desk.asked(decision=TWO)
    await desk.approvals.decide(question.id, "approve", person)
    again = replace(person, principal=identity, surface="slack")
    with pytest.raises(Conflict, match=r"'ada' has approved .* already, and it needs 2 people"):
        await desk.approvals.decide(question.id, "approve", again)
    now = desk.approvals.get(question.id)
    assert (now.state, now.given) == ("pending", 1)


async def test_somebody_whom_the_settings_do_not_name_cannot_be_the_second(
    desk: Desk, person: Caller
) -> None:
    question = desk.asked(decision=TWO)
    with pytest.raises(Unauthorized, match=r"does not say who that is.*\[people\]"):
        await desk.approvals.decide(question.id, "approve", replace(person, principal="slack:U9"))
    assert desk.kinds()[-1] == "approval.refused"
    assert desk.approvals.get(question.id).answers == []


async def test_one_denial_ends_it_even_by_somebody_who_approved_before(desk: Desk, person: Caller) -> None:
    question = desk.asked(decision=TWO)
    await desk.approvals.decide(question.id, "approve", person)
    denied = await desk.approvals.decide(question.id, "deny", person, "on second thoughts")
    assert (denied.state, denied.decided_by) == ("denied", "user:ada")
    with pytest.raises(Conflict, match="already denied by user:ada"):
        await desk.approvals.decide(question.id, "approve", replace(person, principal="user:bob"))


@pytest.mark.parametrize("requester", ["user:ada", "agent:ada", "slack:U1"])
async def test_the_one_who_asked_may_be_kept_from_approving_but_not_from_denying(
    desk: Desk, person: Caller, requester: str
) -> None:
    question = desk.asked(decision=ANOTHER, by=requester)
    with pytest.raises(Unauthorized, match="rule 'training' does not let the one who asked approve"):
        await desk.approvals.decide(question.id, "approve", person)
    answered = await desk.approvals.decide(question.id, "approve", replace(person, principal="user:bob"))
    assert answered.decided_by == "user:bob"
    other = desk.asked(decision=ANOTHER, by=requester)
    assert (await desk.approvals.decide(other.id, "deny", person)).state == "denied"


async def test_nobody_can_be_told_apart_from_a_requester_who_is_not_known(desk: Desk, person: Caller) -> None:
    question = desk.asked(decision=ANOTHER, by="slack:U9")
    with pytest.raises(Unauthorized, match="does not say who 'slack:U9' is, who asked for it"):
        await desk.approvals.decide(question.id, "approve", person)


async def test_the_one_who_asked_may_approve_unless_a_rule_forbids_it(desk: Desk, person: Caller) -> None:
    question = desk.asked(by="user:ada")
    assert (await desk.approvals.decide(question.id, "approve", person)).state == "approved"


# --- the rest -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("approve", {}), ("approval_decide", {"x": 1}), ("deny", {"id": "apr-1"}), ("yes", {"id": "apr-1"})],
)
async def test_a_call_that_was_meant_as_an_answer_is_refused_and_journalled(
    desk: Desk, agent: Caller, name: str, arguments: dict[str, object]
) -> None:
    with pytest.raises(Unauthorized, match="is no tool, and an approval is not given through one"):
        desk.approvals.refuse_as_call(name, arguments, agent)
    refused = desk.journal.tail()[-1]
    assert (refused.kind, refused.principal, refused.data["surface"]) == (
        "approval.refused",
        "agent:ada",
        "mcp",
    )


async def test_a_mistyped_tool_is_no_attempt_to_approve(desk: Desk, agent: Caller) -> None:
    desk.approvals.refuse_as_call("finetun", {"model": "small"}, agent)
    assert desk.kinds() == []


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
