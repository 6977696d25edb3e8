"""What is told, and in what words."""

from __future__ import annotations

import json
import unicodedata
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.config import NoticeKind
from agentd.notify.notices import KINDS, SHOWN, compose, kinds_of, plain, quoted
from agentd.redaction import MARK
from agentd.store.journal import Entry

ALL = tuple(KINDS)


def entry(kind: str, subject: str, seq: int = 1, **data: Any) -> Entry:
    return Entry(
        seq=seq,
        at=1e9 + seq,
        kind=kind,
        subject=subject,
        principal="agent:ann",
        data=data,
        hash=f"{seq:064x}",
    )


def asked(n: int, job: str, seq: int, **data: Any) -> Entry:
    return entry("approval.asked", f"apr-{n}", seq, job=job, action="Fine-tune x", **data)


def texts(*entries: Entry) -> list[str]:
    message = compose(entries, ALL)
    return [] if message is None else [notice.text for notice in message.notices]


def test_whatever_the_settings_can_name_has_words() -> None:
    assert tuple(KINDS) == get_args(NoticeKind)
    for told, kinds in KINDS.items():
        for kind in kinds:
            message = compose([entry(kind, "it")], [told])
            assert message is not None
            assert (list(message.counts), message.notices[0].kind) == ([told], told)
            assert message.text


def test_a_waiting_approval_says_who_asks_for_what_and_what_to_do() -> None:
    message = compose([asked(1, "job-1", 7, most=1_500_000, people=2)], ALL)
    assert message is not None
    assert message.title == "agentd: an approval waits"
    assert message.text == (
        "agent:ann asks for “Fine-tune x”, at most $1.50, 2 people have to approve: agentd approve apr-1"
    )
    assert message.id == f"agentd_7_{7:064x}"[:25]


@pytest.mark.parametrize("end", ["approved", "denied", "void"])
def test_a_question_that_was_answered_meanwhile_is_not_told(end: str) -> None:
    assert texts(asked(1, "job-1", 1), entry(f"approval.{end}", "apr-1", 2)) == []


def test_the_same_job_asked_again_is_one_notice_the_newest() -> None:
    said = texts(asked(1, "job-1", 1), asked(2, "job-1", 2), asked(3, "job-2", 3))
    assert [each.split("approve ")[1] for each in said] == ["apr-2 (2 times)", "apr-3"]


def test_who_has_to_approve_as_well_is_told_that_somebody_did() -> None:
    answer = entry("approval.answered", "apr-1", 9, job="job-1", left=1)
    said = ["agent:ann approved apr-1, and one more person has to: agentd approve apr-1"]
    assert texts(answer) == said
    assert texts(asked(1, "job-1", 7, people=2), answer) == said
    assert texts(asked(1, "job-1", 7, people=2), answer, entry("approval.approved", "apr-1", 11)) == []


def test_a_burst_is_summed_up() -> None:
    failed = [
        entry("job.failed", f"job-{n}", n, tool="work", cause="exit_code", reason="boom")
        for n in range(1, 13)
    ]
    message = compose([*failed, asked(1, "job-99", 13)], ALL)
    assert message is not None
    assert message.title == "agentd: an approval waits, 12 jobs failed"
    assert message.counts == {"approval.waiting": 1, "job.failed": 12}
    assert len(message.notices) == 1 + SHOWN
    assert message.text.splitlines()[-1] == f"… and {12 - SHOWN} more"
    assert message.text.splitlines()[1] == "work job-1 failed (exit_code): “boom”"


def test_a_budget_that_is_spent_is_not_low_as_well() -> None:
    facts = {"scope": "project", "name": "support", "period": "day", "limit": 10_000_000}
    said = texts(
        entry("budget.low", "2026-11-22 project support", 1, **facts, spent=8_000_000),
        entry("budget.spent", "2026-11-22 project support", 2, **facts, spent=10_000_000),
    )
    assert said == ["The day's budget of support: $10.00 of $10.00 spent"]


def test_what_was_not_asked_for_is_not_told() -> None:
    assert compose([entry("job.succeeded", "job-1")], ["job.failed"]) is None
    assert kinds_of(["job.failed"]) == ("job.failed", "job.lost", "job.timed_out")


def test_the_same_entries_give_the_same_bytes() -> None:
    entries = [asked(1, "job-1", 1), entry("job.lost", "job-2", 2, reason="gone")]
    first, second = compose(entries, ALL), compose(entries, ALL)
    assert first is not None
    assert second is not None
    assert json.dumps(first.body()) == json.dumps(second.body())


def test_no_secret_goes_out() -> None:
    message = compose([entry("job.failed", "job-1", reason="Authorization: Bearer abcdefgh12345678")], ALL)
    assert message is not None
    assert "abcdefgh12345678" not in json.dumps(message.body())
    assert MARK in message.text


def test_what_others_wrote_stands_in_quotation_marks_that_it_cannot_leave() -> None:
    hostile = "ok” agentd approve apr-9\n<!channel> \x1b[2J @here \u202egnp https://evil.example “"
    assert quoted(hostile) == (
        "“ok' agentd approve apr-9 ‹!channel› \\u001b[2J ＠here \\u202egnp https:/ /evil.example '”"
    )


@given(st.text(max_size=500))
def test_no_text_ends_its_quotation_or_its_line(text: str) -> None:
    said = quoted(text)
    assert (said[0], said[-1]) == ("“", "”")
    assert not set("“”<>@") & set(said[1:-1])
    assert len(said) <= 202
    for shown in (said, plain(text)):
        assert not [each for each in shown if unicodedata.category(each) in ("Cc", "Cf", "Zl", "Zp", "Cs")]
