"""How long a browser stays signed in, and what ends it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from agentd.errors import Unauthorized
from agentd.policy.callers import Caller
from agentd.policy.credentials import Tokens, Wanted
from agentd.policy.people import People
from agentd.server.sessions import CODE_S, IDLE_S, LIFE_S, MOST, Sessions
from agentd.store import Store
from agentd.store.journal import Journal
from agentd.store.tokens import TokenTable


@dataclass
class Desk:
    """Sessions on real tokens, and a clock that is moved by hand."""

    tokens: Tokens
    owner: Caller
    journal: Journal
    now: float = 0.0

    def __post_init__(self) -> None:
        self.sessions = Sessions(self.tokens, lambda: self.now)

    def token(self, **wanted: str) -> Caller:
        made = self.tokens.create(Wanted.model_validate(wanted), self.owner)
        holder = self.tokens.check(made.token)
        assert holder is not None
        return holder


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    store = Store(tmp_path / "agentd.db")
    journal = Journal(store)
    tokens = Tokens(store, TokenTable(store), journal, People(), tmp_path)
    owner = tokens.check((tmp_path / "owner-token").read_text("ascii"))
    assert owner is not None
    yield Desk(tokens, owner, journal)
    store.close()


def test_a_code_opens_one_session_for_whoever_it_was_made_for(desk: Desk) -> None:
    bob = desk.token(person="bob", role="approve")
    code = desk.sessions.code(bob)
    holder = desk.sessions.whose(code)
    assert holder is not None
    assert holder.principal == "user:bob"
    secret = desk.sessions.redeem(code)
    assert secret is not None
    session = desk.sessions.find(secret)
    assert session is not None
    assert (session.caller.principal, session.caller.surface) == ("user:bob", "web")
    assert (session.caller.role, session.caller.is_agent) == ("approve", False)
    assert (desk.sessions.redeem(code), desk.sessions.whose(code)) == (None, None)
    [opened] = [entry for entry in desk.journal.tail(10) if entry.kind == "session.opened"]
    assert (opened.subject, opened.principal) == (bob.token, "user:bob")


@pytest.mark.parametrize(("after", "works"), [(CODE_S - 1, True), (CODE_S, False)])
def test_a_code_is_good_for_a_minute(desk: Desk, after: float, works: bool) -> None:
    code = desk.sessions.code(desk.owner)
    desk.now = after
    assert (desk.sessions.redeem(code) is not None) is works


def test_a_code_of_a_token_that_was_revoked_meanwhile_is_worthless(desk: Desk) -> None:
    bob = desk.token(person="bob", role="approve")
    code = desk.sessions.code(bob)
    desk.tokens.revoke(bob.token, desk.owner)
    assert desk.sessions.redeem(code) is None


def test_a_session_ends_after_an_hour_in_which_nobody_used_it(desk: Desk) -> None:
    secret = desk.sessions.open(desk.owner)
    desk.now = IDLE_S - 1
    assert desk.sessions.find(secret)
    desk.now += IDLE_S - 1
    assert desk.sessions.find(secret)
    desk.now += IDLE_S
    assert desk.sessions.find(secret) is None
    desk.now = 0
    assert desk.sessions.find(secret) is None


def test_a_page_that_looks_again_by_itself_does_not_keep_a_session_alive(desk: Desk) -> None:
    secret = desk.sessions.open(desk.owner)
    desk.now = IDLE_S - 1
    assert desk.sessions.find(secret, by_itself=True)
    desk.now = IDLE_S
    assert desk.sessions.find(secret, by_itself=True) is None


def test_a_session_ends_after_eight_hours_however_much_it_is_used(desk: Desk) -> None:
    secret = desk.sessions.open(desk.owner)
    for desk.now in range(0, round(LIFE_S), round(IDLE_S / 2)):
        assert desk.sessions.find(secret), desk.now
    desk.now = LIFE_S
    assert desk.sessions.find(secret) is None


def test_a_session_ends_with_its_token(desk: Desk) -> None:
    bob = desk.token(person="bob", role="approve")
    secret = desk.sessions.open(bob)
    assert desk.sessions.find(secret)
    desk.tokens.revoke(bob.token, desk.owner)
    assert desk.sessions.find(secret) is None


def test_only_a_person_who_may_approve_and_has_a_token_of_this_daemon_gets_one(desk: Desk) -> None:
    weak = [desk.token(person="eve", role="operate"), desk.token(agent="ci", role="operate")]
    robot = replace(desk.owner, principal="agent:ci", is_agent=True)
    elsewhere = Caller("oauth:ann", "approve", "", Path.home(), is_agent=False)
    for each in (*weak, robot, elsewhere):
        with pytest.raises(Unauthorized):
            desk.sessions.code(each)
        with pytest.raises(Unauthorized):
            desk.sessions.open(each)


def test_so_many_codes_and_sessions_are_kept_and_no_more(desk: Desk) -> None:
    first_code, first = desk.sessions.code(desk.owner), desk.sessions.open(desk.owner)
    for _ in range(MOST):
        last_code, last = desk.sessions.code(desk.owner), desk.sessions.open(desk.owner)
    assert (desk.sessions.whose(first_code), desk.sessions.find(first)) == (None, None)
    assert desk.sessions.whose(last_code)
    assert desk.sessions.find(last)


def test_a_form_key_belongs_to_one_session(desk: Desk) -> None:
    one, other = (desk.sessions.find(desk.sessions.open(desk.owner)) for _ in range(2))
    assert one is not None
    assert other is not None
    assert one.owns(one.form_key)
    assert not any(one.owns(key) for key in (other.form_key, "", "é", one.form_key[:-1]))


def test_nobody_is_signed_in_with_nothing(desk: Desk) -> None:
    desk.sessions.open(desk.owner)
    assert [desk.sessions.find(secret) for secret in ("", "é", "x" * 10_000)] == [None] * 3
