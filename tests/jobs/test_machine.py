from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agentd.errors import Conflict
from agentd.jobs.machine import ENDED, EVENTS, TRANSITIONS, JobEvent, advance, allowed, event_of
from agentd.sdk import JobState


class Life(RuleBasedStateMachine):
    """Any order of events, against what must hold for every job."""

    def __init__(self) -> None:
        super().__init__()
        self.state: JobState = "queued"
        self.past: list[JobEvent] = []

    @rule(data=st.data())
    @precondition(lambda self: allowed(self.state))
    def step(self, data: st.DataObject) -> None:
        event = data.draw(st.sampled_from(allowed(self.state)))
        self.state = advance(self.state, event)
        self.past.append(event)

    @rule(event=st.sampled_from(EVENTS))
    def an_illegal_event_changes_nothing(self, event: JobEvent) -> None:
        if event not in allowed(self.state):
            with pytest.raises(Conflict):
                advance(self.state, event)

    @invariant()
    def each_launch_but_the_first_is_a_retry(self) -> None:
        assert self.past.count("launch") <= 1 + self.past.count("retry")

    @invariant()
    def it_runs_only_after_preparing(self) -> None:
        for before, event in zip(["", *self.past], self.past, strict=False):
            assert event != "launch" or before == "prepare"

    @invariant()
    def a_question_is_answered_before_it_goes_on(self) -> None:
        for asked, answer in zip(self.past, self.past[1:], strict=False):
            if asked == "ask":
                assert answer in ("approve", "deny", "expire", "requeue", "cancel", "lose")

    @invariant()
    def an_end_is_an_end(self) -> None:
        assert (self.state in ENDED) == (not allowed(self.state))


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)


def test_every_state_can_be_reached_and_every_event_leads_somewhere() -> None:
    assert {event for _, event in TRANSITIONS} == set(EVENTS)
    reached = {"queued", *TRANSITIONS.values()}
    assert reached == {state for state, _ in TRANSITIONS} | ENDED


def test_an_illegal_event_says_what_the_job_can_do() -> None:
    with pytest.raises(
        Conflict, match=r"waiting_approval cannot launch.*approve, deny, expire, requeue, cancel, lose"
    ):
        advance("waiting_approval", "launch")


@pytest.mark.parametrize(
    ("reason", "code", "has_result", "event"),
    [
        ("exited", 0, True, "succeed"),
        ("exited", 0, False, "fail"),
        ("exited", 2, True, "fail"),
        ("signalled", None, True, "fail"),
        ("out_of_memory", None, True, "fail"),
        ("unstartable", None, False, "fail"),
        ("timed_out", 0, True, "time_out"),
        ("cancelled", 0, True, "cancel"),
    ],
)
def test_only_a_clean_exit_with_a_result_succeeds(
    reason: str, code: int | None, has_result: bool, event: str
) -> None:
    assert event_of(reason, code, has_result) == event
