"""Questions to people, and who may answer them.

An approval is bound to the parts of one exact action. What policy grants by itself is written down
in the same way, decided by ``policy:<rule>``, so that every launch has an answer behind it. An agent
never approves, whatever role its token has, but for
an answer in its client that a rule lets count. Where a rule wants two people, or not the one who asked,
an identity that agentd.toml does not give to a person cannot approve: it might be the same one again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from agentd.errors import Conflict, Denied, InputError, NotFound, Unauthorized
from agentd.policy.bindings import RULES, Binding, listed
from agentd.policy.callers import Caller
from agentd.policy.differences import Difference, differences
from agentd.policy.people import People
from agentd.policy.rules import Decision
from agentd.store import Store
from agentd.store.approvals import Answer, Approval, ApprovalTable
from agentd.store.journal import Journal
from agentd.store.ledger import usd

__all__ = ["IN_CLIENT", "Approvals", "Outdated", "Question"]

DENIAL_STICKS_S = 24 * 3600.0
IN_CLIENT = "mcp-elicitation"
Verdict = Literal["approve", "deny"]

_LIKE_AN_ANSWER = re.compile(r"approv|deny|denied|decide", re.IGNORECASE)


class Outdated(Conflict):
    """What was decided does not stand any more, though the action is the same: it has to be asked again."""


class Question(Approval):
    """An approval with what was answered so far, and beside the last approved action like it."""

    answers: list[Answer]
    like: str | None
    differences: list[Difference]


class Approvals:
    """Asks, records answers, and tells `on_decided` about each question that is closed."""

    def __init__(
        self,
        store: Store,
        table: ApprovalTable,
        journal: Journal,
        *,
        lifetime_s: float,
        people: People | None = None,
        denial_sticks_s: float = DENIAL_STICKS_S,
        pages: str = "",
    ) -> None:
        """`pages` is where a browser finds the daemon, as far as is known."""
        self._store, self._table, self._journal = store, table, journal
        self._lifetime_s, self._denial_sticks_s = lifetime_s, denial_sticks_s
        self._people, self._pages = people or People(), pages
        self.on_decided: Callable[[Approval], None] = lambda _: None

    # --- reading ----------------------------------------------------------------------------

    def list(self, *, state: str | None = "pending", of: Sequence[str] | None = None) -> list[Approval]:
        """Newest first; `of` leaves only what these principals asked for."""
        return self._table.list(state=state, of=of)

    def principals(self) -> list[str]:
        """Who asked for something."""
        return self._table.principals()

    def find(self, approval_id: str) -> Approval | None:
        """By its own id or by that of its job."""
        return self._table.find(approval_id) or self._table.of_job(approval_id)

    def get(self, approval_id: str) -> Question:
        """By its own id or by that of its job. Raises `NotFound`."""
        approval = self.find(approval_id)
        if approval is None:
            raise NotFound("approval", approval_id, [a.id for a in self.list()])
        like = self._table.last_like(approval)
        return Question(
            **approval.model_dump(),
            bound=approval.bound,
            answers=self._table.answers(approval.id),
            like=like.id if like else None,
            differences=differences(like.facts, approval.facts) if like else [],
        )

    def of_job(self, job_id: str) -> Approval | None:
        return self._table.of_job(job_id)

    def page(self, approval_id: str) -> str:
        """The address where a person answers it in a browser; empty where none is known."""
        return f"{self._pages}/approve/{approval_id}" if self._pages else ""

    def way(self, approval_id: str) -> str:
        """What a person does to answer it, as it follows a colon."""
        page = self.page(approval_id)
        return f"agentd approve {approval_id}" + (f", or open {page} in a browser" if page else "")

    # --- asking -----------------------------------------------------------------------------

    def refuse_if_denied(self, digest: str) -> None:
        """Raises `Denied` when a person denied exactly this lately: asking again is no way round."""
        denied = self._table.denied_since(digest, self._store.now() - self._denial_sticks_s)
        if denied is not None:
            raise Denied(
                f"{denied.decided_by} denied exactly this in {denied.id}"
                + (f": {denied.reason}" if denied.reason else ""),
                hint="Change what was wrong with it, or ask that person",
            )

    @property
    def any_denied(self) -> bool:
        """Whether there is a denial that still sticks, to whatever it is."""
        return self._table.any_denied_since(self._store.now() - self._denial_sticks_s)

    def record(
        self, decision: Decision, *, job: str, action: str, binding: Binding, facts: dict[str, Any], by: str
    ) -> Approval:
        """Write down what policy said: a question when it asks, an answered one when it allows."""
        asks = decision.effect == "ask"
        with self._store.transaction():
            approval = self._table.add(
                job=job,
                action=action,
                digest=binding.digest,
                bound=binding.model_dump(),
                facts=facts,
                requested_by=by,
                rule=decision.rule,
                people=decision.people,
                requester_may_answer=decision.requester_may_answer,
                client_may_answer=decision.client_may_answer,
                state="pending" if asks else "approved",
                reason=decision.why,
                decided_by=None if asks else f"policy:{decision.rule}",
                decided_at=None if asks else self._store.now(),
                lifetime_s=self._lifetime_s,
            )
            self._journal.append(
                "approval.asked" if asks else "approval.granted",
                approval.id,
                by if asks else f"policy:{decision.rule}",
                job=job,
                action=action,
                digest=binding.digest,
                rule=decision.rule,
                most=binding.most,
                people=decision.people,
            )
        return approval

    def void(self, approval: Approval, reason: str) -> None:
        """Close one that has to be asked again, in the transaction that does so."""
        if self._table.void(approval.id, reason):
            self._journal.append("approval.void", approval.id, "daemon", job=approval.job, reason=reason)

    def expire(self) -> None:
        """Close the questions that nobody answered in time."""
        for approval in self._table.expire():
            self._journal.append("approval.expired", approval.id, "daemon", job=approval.job)
            self.on_decided(self.get(approval.id))

    # --- answering --------------------------------------------------------------------------

    async def decide(self, approval_id: str, verdict: Verdict, by: Caller, reason: str = "") -> Question:
        """A person's answer; one denial closes a question, and as many yeses as it needs.

        Raises `Unauthorized` for an agent and for who may not answer this one, `Conflict` when the
        answer came too late or a second time.
        """
        if by.is_agent or not by.may("approve"):
            self.refused(approval_id, by, verdict)
            raise Unauthorized(
                f"{by.principal!r} through {by.surface!r} may not answer {approval_id}",
                hint=f"A person answers: {self.way(approval_id)}",
            )
        if verdict not in ("approve", "deny"):
            raise InputError(f"The verdict is 'approve' or 'deny', not {verdict!r}")
        approval = self.get(approval_id)
        if verdict == "approve" and (problem := self._not_by(approval, by.principal)):
            self.refused(approval.id, by, verdict)
            raise Unauthorized(
                f"{by.principal!r} may not approve {approval.id}: {problem[0]}", hint=problem[1]
            )
        with self._store.transaction():
            closed = self._answer(approval, verdict, by, reason)
        answered = self.get(approval.id)
        if closed:
            self.on_decided(answered)
        return answered

    def for_client(self, job_id: str, by: Caller) -> Question | None:
        """The open question of a job that the client of `by` may answer, if its rule says so."""
        approval = self._table.of_job(job_id)
        if approval is None or approval.state != "pending" or not self._in_client(approval, by):
            return None
        return self.get(approval.id)

    def answer_in_client(self, approval_id: str, verdict: Verdict, by: Caller) -> Question:
        """An answer out of the MCP client that asked, which proves no person: only a rule lets it count.

        Written down with the surface ``mcp-elicitation``. Raises what `decide` raises.
        """
        by, approval = replace(by, surface=IN_CLIENT), self.get(approval_id)
        if not self._in_client(approval, by) or self._not_by(approval, by.principal):
            self.refused(approval.id, by, verdict)
            raise Unauthorized(
                f"An answer in the client does not count for {approval.id}",
                hint=f"A person answers: {self.way(approval.id)}",
            )
        with self._store.transaction():
            closed = self._answer(approval, verdict, by, "")
        answered = self.get(approval.id)
        if closed:
            self.on_decided(answered)
        return answered

    def _in_client(self, approval: Approval, by: Caller) -> bool:
        return approval.client_may_answer and approval.requested_by == by.principal and by.may("operate")

    def refused(self, approval_id: str, by: Caller, verdict: Any) -> None:
        """Write down that somebody tried to answer who may not."""
        said = verdict if verdict in ("approve", "deny") else ""
        subject = approval_id[:100]
        self._journal.append("approval.refused", subject, by.principal, surface=by.surface, verdict=said)

    def refuse_as_call(self, name: str, arguments: Mapping[str, Any], by: Caller) -> None:
        """A call of a tool that does not exist: raises `Unauthorized` when it was meant as an answer."""
        ids = [one for one in arguments.values() if isinstance(one, str) and one.startswith("apr-")]
        if not ids and not _LIKE_AN_ANSWER.search(name):
            return
        self.refused(ids[0] if ids else name, by, "deny" if "den" in name.lower() else "approve")
        raise Unauthorized(
            f"{name!r} is no tool, and an approval is not given through one",
            hint=f"A person answers: {self.way(ids[0][:100]) if ids else 'agentd approve ID'}",
        )

    def _not_by(self, approval: Approval, principal: str) -> tuple[str, str] | None:
        """Why this identity cannot approve this question, and what to do; None when it can."""
        if approval.people == 1 and approval.requester_may_answer:
            return None
        mend = "Give every identity to a person under [people] in agentd.toml, then 'agentd stop'"
        if not self._people.knows(principal):
            return "agentd.toml does not say who that is, and it has to be known here", mend
        if approval.requester_may_answer:
            return None
        if not self._people.knows(approval.requested_by):
            return f"agentd.toml does not say who {approval.requested_by!r} is, who asked for it", mend
        if self._people.person(principal) == self._people.person(approval.requested_by):
            return f"rule {approval.rule!r} does not let the one who asked approve", "Ask somebody else"
        return None

    def _answer(self, approval: Approval, verdict: Verdict, by: Caller, reason: str) -> bool:
        """Keep one answer, and close the question when it was the last that was needed."""
        now = self.get(approval.id)
        if now.state != "pending" or now.expires_at <= self._store.now():
            who = f" by {now.decided_by}" if now.decided_by else ""
            state = {"pending": "expired", "consumed": "approved and used"}.get(now.state, now.state)
            raise Conflict(f"{now.id} is already {state}{who}" + (f": {now.reason}" if who == "" else ""))
        person = self._people.person(by.principal)
        answer = Answer(
            approval=now.id,
            person=person,
            principal=by.principal,
            surface=by.surface,
            verdict=verdict,
            reason=reason,
            at=self._store.now(),
        )
        if not self._table.add_answer(answer):
            raise Conflict(
                f"{person!r} has approved {now.id} already, and it needs {now.people} people",
                hint="Somebody else has to approve it as well",
            )
        said: list[Answer] = [one for one in now.answers if one.verdict == "approve"]
        if verdict == "approve" and len(said) + 1 < now.people:
            left = now.people - len(said) - 1
            self._journal_answer("approval.answered", now, by, reason, person=person, left=left)
            return False
        state = "approved" if verdict == "approve" else "denied"
        who = [*(one.principal for one in said), by.principal] if verdict == "approve" else [by.principal]
        if not self._table.decide(now.id, state, ", ".join(who), reason, lifetime_s=self._lifetime_s):
            raise Conflict(f"{now.id} was answered by somebody else at the same moment")
        self._journal_answer(f"approval.{state}", now, by, reason)
        return True

    def _journal_answer(
        self, kind: str, approval: Approval, by: Caller, reason: str, **more: str | int
    ) -> None:
        self._journal.append(
            kind,
            approval.id,
            by.principal,
            surface=by.surface,
            job=approval.job,
            digest=approval.digest,
            reason=reason,
            **more,
        )

    # --- using ------------------------------------------------------------------------------

    def check(self, job_id: str, now: Binding, *, attempt: int = 1) -> Approval:
        """The job's approval, if what would run `now` is what it was given for.

        For a further attempt, one that an earlier attempt has used will do.

        Raises `Conflict` naming what was changed, or `Outdated` when only the rules, the price or
        the time have moved on.
        """
        approval = self._table.of_job(job_id)
        if approval is None:
            raise Conflict(f"There is no approval for {job_id}", hint="Start it again")
        was = Binding.model_validate(approval.bound)
        changed = was.changed(now)
        if was.action and (parts := [name for name in changed if name != RULES]):
            raise Conflict(
                f"{job_id} is not started: {listed(parts)} changed since {approval.id} was given",
                hint="Start it again",
            )
        if approval.state != "approved" and not (attempt > 1 and approval.state == "consumed"):
            raise Conflict(
                f"The approval of {job_id}, {approval.id}, is {approval.state}", hint="Start it again"
            )
        if problem := self.outdated(approval, now):
            raise Outdated(problem)
        return approval

    def outdated(self, approval: Approval, now: Binding) -> str:
        """Why it has to be asked again, though the action is the same; empty when it need not."""
        was = Binding.model_validate(approval.bound)
        if was.action.get(RULES) != now.action.get(RULES):
            return "the rules were changed since"
        if now.most > was.most:
            return f"it may cost {usd(now.most)} now, up from {usd(was.most)}"
        if approval.state == "approved" and approval.expires_at <= self._store.now():
            return f"it was not used within {self._lifetime_s / 3600:.3g} hours"
        return ""

    def consume(self, job_id: str, now: Binding, *, attempt: int = 1) -> None:
        """Use the job's approval, within the transaction that launches it. Raises what `check` raises."""
        approval = self.check(job_id, now, attempt=attempt)
        if approval.state == "consumed":
            return
        if not self._table.consume(approval.id, now.digest):
            raise Conflict(
                f"The approval of {job_id}, {approval.id}, was used already", hint="Start it again"
            )
