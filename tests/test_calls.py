"""From a call to what became of it: validation, policy, approval, money, idempotency."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agentd.config import Budget
from agentd.daemon import Daemon
from agentd.errors import (
    Conflict,
    DataError,
    Denied,
    InputError,
    NeedsApproval,
    NotFound,
    OverBudget,
    Unauthorized,
)
from agentd.policy.callers import Caller
from agentd.sdk import JobView

pytestmark = pytest.mark.anyio
Boot = Callable[..., Awaitable[Daemon]]
Until = Callable[..., Awaitable[JobView]]


@pytest.fixture
async def asking(boot: Boot) -> Daemon:
    return await boot(policy="asking")


async def launched(daemon: Daemon, caller: Caller, *, key: str = "", **arguments: Any) -> JobView:
    view = await daemon.calls.call("work", arguments, caller, key=key)
    assert isinstance(view, JobView)
    return view


def journalled(daemon: Daemon, subject: str) -> list[str]:
    return [entry.kind for entry in daemon.journal.tail(100, subject=subject)]


def started(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


# --- before anything runs -------------------------------------------------------------------


async def test_an_unknown_tool_is_answered_with_the_nearest_name(daemon: Daemon, agent: Caller) -> None:
    with pytest.raises(NotFound, match=r"There is no tool 'wrok'. Did you mean 'work'"):
        await daemon.calls.call("wrok", {}, agent)


async def test_an_unknown_argument_is_answered_with_the_nearest_name(daemon: Daemon, agent: Caller) -> None:
    with pytest.raises(InputError, match=r"work cannot be called like this: txt: .*Did you mean 'text'"):
        await daemon.calls.call("work", {"txt": "x"}, agent)


async def test_every_wrong_argument_is_named_at_once(daemon: Daemon, agent: Caller) -> None:
    with pytest.raises(InputError, match=r"timeout_s: .*'soon'.*; wait: ") as caught:
        await daemon.calls.call("work", {"timeout_s": "soon", "wait": True}, agent)
    assert "behaviour" not in str(caught.value)
    with pytest.raises(InputError, match="text: is needed"):
        await daemon.calls.call("say", {}, agent)


async def test_a_file_is_checked_before_anybody_is_asked(
    asking: Daemon, agent: Caller, tmp_path: Path
) -> None:
    (tmp_path / "train.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"train\.jsonl:1: holds nothing. Write something"):
        await launched(asking, agent, path="train.jsonl")
    with pytest.raises(NotFound, match=r"no file 'trian.jsonl'. Did you mean 'train.jsonl'"):
        await launched(asking, agent, path="trian.jsonl")
    assert asking.jobs.list() == []


async def test_a_tool_that_reads_answers_at_once_as_the_caller(daemon: Daemon, agent: Caller) -> None:
    answer = await daemon.calls.call("say", {"text": "hi"}, agent)
    assert answer.model_dump() == {"text": "hi", "principal": "agent:ada"}
    assert daemon.jobs.list() == []


async def test_a_quote_starts_nothing(asking: Daemon, agent: Caller) -> None:
    quote = await asking.calls.quote("work", {}, agent)
    assert (quote.seconds, quote.micro_usd, quote.basis) == (1.0, 1_000_000, "a guess")
    assert asking.jobs.list() == []
    with pytest.raises(InputError):
        await asking.calls.quote("work", {"txt": ""}, agent)


# --- launching ------------------------------------------------------------------------------


async def test_a_call_that_launches_gives_a_handle_then_a_result_and_an_artifact(
    daemon: Daemon, agent: Caller, tmp_path: Path
) -> None:
    (tmp_path / "more.txt").write_text(" and more", encoding="utf-8")
    handle = await launched(daemon, agent, text="some", path="more.txt")
    assert handle.id.startswith("job-")
    assert handle.decided_by == "policy:everything"
    view = await daemon.jobs.settled(handle.id)
    assert (view.state, view.reason) == ("succeeded", "")
    assert view.result is not None
    assert view.result["text"] == "some and more"
    note = daemon.artifacts.get(view.result["artifact"])
    assert note.path.read_text(encoding="utf-8") == "some and more"
    assert note.path.is_relative_to(daemon.state_dir / "artifacts")
    assert journalled(daemon, view.id) == ["job.queued", "job.preparing", "job.running", "job.succeeded"]
    assert daemon.journal.verify().ok


async def test_quotes_learn_from_the_jobs_that_succeeded(daemon: Daemon, agent: Caller) -> None:
    views = [await launched(daemon, agent, text=str(n), behaviour="write") for n in range(5)]
    views.append(await launched(daemon, agent, behaviour="refuse"))
    ended = [await daemon.jobs.settled(view.id) for view in views]
    quote = await daemon.calls.quote("work", {}, agent)
    seconds = [view.seconds for view in ended[:5] if view.seconds is not None]
    assert len(seconds) == 5
    assert min(seconds) * 0.9 <= quote.seconds <= max(seconds) * 1.1
    assert (quote.past_jobs, quote.level) == (5, 0.8)
    assert 0 < quote.seconds_low <= quote.seconds <= quote.seconds_high
    assert quote.micro_usd == pytest.approx(quote.seconds * 1_000_000, abs=1)
    [kind] = daemon.quotes.kinds()
    assert (kind.tool, kind.key, kind.jobs) == ("work", "work", 5)
    later = await launched(daemon, agent, text="later")
    assert later.quote.past_jobs == 5


async def test_what_needs_more_memory_than_there_is_is_refused_with_both_figures(
    boot: Boot, agent: Caller
) -> None:
    daemon = await boot(policy="asking", ram_gb=2.0)
    with pytest.raises(InputError, match=r"work would need about 3.0 GB of memory, and there are 2.0 GB"):
        await launched(daemon, agent, ram_bytes=3_000_000_000)
    with pytest.raises(InputError, match=r"there are 2\.0 GB"):
        await daemon.calls.quote("work", {"ram_bytes": 3_000_000_000}, agent)
    assert daemon.approvals.list() == []
    assert daemon.jobs.list() == []


async def test_a_price_in_doubt_makes_a_question_of_what_a_rule_allows(
    boot: Boot, agent: Caller, tmp_path: Path
) -> None:
    rules = tmp_path / "strict.yaml"
    rules.write_text("name: strict\nallow:\n  - name: everything\n", encoding="utf-8")
    prices = tmp_path / "old.yaml"
    prices.write_text("as_of: 2020-01-01\ncompute:\n  cpu: {usd_per_hour: 1, source: x}\n", encoding="utf-8")
    daemon = await boot(policy=str(rules), prices=str(prices))
    view = await launched(daemon, agent)
    assert view.state == "waiting_approval"
    [question] = daemon.approvals.list()
    assert question.rule == "everything"
    assert question.reason.startswith("the price table is of 2020-01-01, 2")


async def test_a_done_hook_that_fails_registers_nothing(daemon: Daemon, agent: Caller) -> None:
    view = await daemon.jobs.settled((await launched(daemon, agent, done_fails=True)).id)
    assert (view.state, view.reason) == ("failed", "The note cannot be used. Write another")
    assert daemon.artifacts.list() == []
    assert "artifact.added" not in [entry.kind for entry in daemon.journal.tail(100)]
    again = await daemon.jobs.settled((await launched(daemon, agent)).id)
    assert again.state == "succeeded"
    assert len(daemon.artifacts.list()) == 1


# --- asking a person ------------------------------------------------------------------------


async def test_a_call_that_policy_asks_about_waits_and_says_who_can_approve(
    asking: Daemon, agent: Caller
) -> None:
    view = await launched(asking, agent)
    assert view.state == "waiting_approval"
    assert f"agentd approve {view.approval}" in view.next
    assert "at most $60.00" in view.next
    [question] = asking.approvals.list()
    assert question.facts["quote"]["basis"] == "a guess"
    assert question.facts["arguments"] == {}
    assert (question.requested_by, question.rule) == ("agent:ada", "work")


async def test_a_question_for_two_people_says_so_wherever_it_is_seen(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    (tmp_path / "two.yaml").write_text("name: two\nask: [{name: all, people: 2}]\n", encoding="utf-8")
    people = {"ada": ("user:ada",), "bob": ("user:bob",)}
    daemon = await boot(policy=str(tmp_path / "two.yaml"), people=people)
    view = await launched(daemon, agent)
    assert "2 people have to approve it (0 of 2 have)" in view.next
    await daemon.approvals.decide(view.id, "approve", person)
    assert "(1 of 2 have)" in daemon.jobs.get(view.id).next
    await daemon.approvals.decide(view.id, "approve", replace(person, principal="user:bob"))
    ended = await daemon.jobs.settled(view.id)
    assert (ended.state, ended.decided_by) == ("succeeded", "user:ada, user:bob")


async def test_an_agents_approval_is_refused_and_journalled(asking: Daemon, agent: Caller) -> None:
    view = await launched(asking, agent)
    assert view.approval
    with pytest.raises(Unauthorized):
        await asking.approvals.decide(view.approval, "approve", agent)
    assert asking.jobs.get(view.id).state == "waiting_approval"
    assert journalled(asking, view.approval) == ["approval.asked", "approval.refused"]


async def test_a_persons_approval_launches_exactly_once(
    asking: Daemon, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    view = await launched(asking, agent, starts=str(starts))
    answers = [asking.approvals.decide(view.id, "approve", person) for _ in range(5)]
    outcomes = await asyncio.gather(*answers, return_exceptions=True)
    assert sum(isinstance(outcome, Conflict) for outcome in outcomes) == 4
    ended = await asking.jobs.settled(view.id)
    assert (ended.state, ended.decided_by) == ("succeeded", "user:ada")
    assert started(starts) == 1
    assert asking.approvals.get(view.id).state == "consumed"


async def test_a_denial_ends_the_job_and_sticks_to_the_same_call(
    asking: Daemon, agent: Caller, person: Caller
) -> None:
    view = await launched(asking, agent)
    await asking.approvals.decide(view.id, "deny", person, "too dear")
    ended = await asking.jobs.settled(view.id)
    assert (ended.state, ended.reason) == ("cancelled", "denied by user:ada: too dear")
    again = await asking.jobs.settled((await launched(asking, agent)).id)
    assert again.state == "failed"
    assert "user:ada denied exactly this" in again.reason
    assert asking.approvals.list() == []
    other = await launched(asking, agent, text="something else")
    assert other.state == "waiting_approval"


async def test_what_a_rule_denies_is_refused_and_journalled(asking: Daemon, agent: Caller) -> None:
    with pytest.raises(Denied, match="Policy denies 'work': rule 'secrets' of 'asking'"):
        await launched(asking, agent, text="secret plans")
    assert asking.jobs.list() == []
    assert journalled(asking, "work") == ["call.denied"]


async def test_an_input_that_changed_after_the_approval_is_refused_by_name(
    asking: Daemon, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    source, starts = tmp_path / "rows.txt", tmp_path / "starts"
    source.write_text("what was approved", encoding="utf-8")
    view = await launched(asking, agent, path="rows.txt", starts=str(starts))
    source.write_text("something else", encoding="utf-8")
    await asking.approvals.decide(view.id, "approve", person)
    ended = await asking.jobs.settled(view.id)
    assert ended.state == "failed"
    assert "Input 'source'" in ended.reason
    assert str(source) in ended.reason
    assert "was changed since it was approved" in ended.reason
    assert started(starts) == 0
    assert ended.micro_usd is None
    assert list((asking.state_dir / "attempts").iterdir()) == []


async def test_a_recipe_that_changed_after_the_approval_is_refused(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    recipe = mine / "tools/recipes/work.py"
    recipe.parent.mkdir(parents=True)
    here = Path(__file__).parent / "root"
    recipe.write_text((here / "tools/recipes/work.py").read_text(encoding="utf-8"), encoding="utf-8")
    daemon = await boot(policy="asking", roots=(mine, here))
    view = await launched(daemon, agent)
    recipe.write_text(recipe.read_text(encoding="utf-8") + "\n# and more\n", encoding="utf-8")
    await daemon.approvals.decide(view.id, "approve", person)
    ended = await daemon.jobs.settled(view.id)
    assert (ended.state, ended.micro_usd) == ("failed", None)
    assert "The recipe 'work' was changed since it was approved" in ended.reason


async def test_an_environment_that_changed_after_the_approval_is_refused(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    daemon = await boot(policy="asking", cache_dir=tmp_path / "cache")
    view = await launched(daemon, agent)
    for lock in (tmp_path / "cache/locks").glob("pylock.*.toml"):
        lock.write_text('packages = [{name = "left-pad", version = "1"}]', encoding="utf-8")
    await daemon.approvals.decide(view.id, "approve", person)
    ended = await daemon.jobs.settled(view.id)
    assert (ended.state, ended.micro_usd) == ("failed", None)
    assert "The environment of recipe 'work' was changed since it was approved" in ended.reason


async def test_a_tool_that_answers_at_once_is_carried_out_when_it_is_approved(
    asking: Daemon, agent: Caller, person: Caller
) -> None:
    with pytest.raises(NeedsApproval, match="Move a name: a person has to approve this") as held:
        await asking.calls.call("move", {"name": "support"}, agent)
    assert not (asking.state_dir / "data/moves/support").exists()
    await asking.approvals.decide(held.value.approval_id, "approve", person)
    view = await asking.jobs.settled(held.value.job_id)
    assert (view.state, view.result) == ("succeeded", {"name": "support", "times": 1})


async def test_a_key_finds_a_call_again_that_waited_for_its_approval(
    asking: Daemon, agent: Caller, person: Caller
) -> None:
    jobs: set[str] = set()
    for _ in range(2):
        with pytest.raises(NeedsApproval) as held:
            await asking.calls.call("move", {"name": "support"}, agent, key="k")
        jobs.add(held.value.job_id)
    assert len(jobs) == 1
    await asking.approvals.decide(held.value.approval_id, "approve", person)
    await asking.jobs.settled(held.value.job_id)
    answer = await asking.calls.call("move", {"name": "support"}, agent, key="k")
    assert answer.model_dump() == {"name": "support", "times": 1}


async def test_a_key_of_a_call_that_was_denied_stays_denied(
    asking: Daemon, agent: Caller, person: Caller
) -> None:
    with pytest.raises(NeedsApproval) as held:
        await asking.calls.call("move", {"name": "support"}, agent, key="k")
    await asking.approvals.decide(held.value.approval_id, "deny", person)
    with pytest.raises(Denied, match="denied by user:ada"):
        await asking.calls.call("move", {"name": "support"}, agent, key="k")
    with pytest.raises(Denied, match="denied exactly this"):
        await asking.calls.call("move", {"name": "support"}, agent)


# --- the same call again --------------------------------------------------------------------


async def test_the_same_key_is_the_same_job_and_other_arguments_are_refused(
    daemon: Daemon, agent: Caller, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    first = await launched(daemon, agent, key="k", starts=str(starts))
    await daemon.jobs.settled(first.id)
    again = await launched(daemon, agent, key="k", starts=str(starts))
    assert (again.id, again.state) == (first.id, "succeeded")
    with pytest.raises(Conflict, match="key 'k' was used for another call"):
        await launched(daemon, agent, key="k", starts=str(starts), text="other")
    elsewhere = await launched(daemon, replace(agent, principal="agent:bob"), key="k", starts=str(starts))
    assert elsewhere.id != first.id
    await daemon.jobs.settled(elsewhere.id)
    assert started(starts) == 2


async def test_calls_with_one_key_at_the_same_time_are_one_job(
    daemon: Daemon, agent: Caller, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    views = await asyncio.gather(*(launched(daemon, agent, key="k", starts=str(starts)) for _ in range(8)))
    assert len({view.id for view in views}) == 1
    await daemon.jobs.settled(views[0].id)
    assert started(starts) == 1


# --- money ----------------------------------------------------------------------------------


async def test_what_may_cost_more_than_is_left_is_refused_before_anything_is_launched(
    boot: Boot, agent: Caller, tmp_path: Path
) -> None:
    daemon = await boot(budget=Budget(per_day_usd=30.0))
    with pytest.raises(OverBudget, match=r"work may cost up to \$60.00, and this day's budget is \$30.00"):
        await launched(daemon, agent, starts=str(tmp_path / "starts"))
    assert daemon.jobs.list() == []
    assert daemon.ledger.summary().entries == []
    assert started(tmp_path / "starts") == 0


async def test_jobs_together_do_not_launch_past_the_budget(boot: Boot, agent: Caller, tmp_path: Path) -> None:
    daemon, starts = await boot(budget=Budget(per_day_usd=100.0), max_jobs=4), tmp_path / "starts"
    views = await asyncio.gather(
        *(launched(daemon, agent, text=str(n), starts=str(starts), behaviour="hang") for n in range(3))
    )
    refused = [view async for view in _ended(daemon, views)]
    assert len(refused) == 2
    assert all("this day's budget is $100.00" in view.reason for view in refused)
    assert all(view.micro_usd is None for view in refused)
    assert daemon.ledger.summary().day_reserved == 60_000_000


async def _ended(daemon: Daemon, views: list[JobView]) -> Any:
    """The jobs that do not run, once the others do."""
    for view in views:
        async for seen in daemon.jobs.follow(view.id):
            if seen.ended:
                yield seen
            if seen.state == "running":
                break


async def test_money_is_reserved_while_it_runs_and_settled_when_it_ends(
    daemon: Daemon, agent: Caller, until: Until
) -> None:
    view = await launched(daemon, agent, behaviour="hang")
    await until(daemon, view.id, state="running")
    assert daemon.ledger.summary().day_reserved == 60_000_000
    ended = await daemon.jobs.cancel(view.id)
    summary = daemon.ledger.summary()
    assert (summary.day_reserved, summary.day_spent) == (0, ended.micro_usd)
    assert ended.micro_usd is not None
    assert ended.started_at is not None
    assert ended.ended_at is not None
    assert 0 <= ended.micro_usd <= (ended.ended_at - ended.started_at) * 1_000_000
    [entry] = summary.entries
    assert (entry.kind, entry.subject, entry.reserved) == ("job", view.id, 60_000_000)


async def test_nothing_is_charged_when_nothing_was_launched(
    asking: Daemon, agent: Caller, person: Caller
) -> None:
    waiting, denied = await launched(asking, agent), await launched(asking, agent, text="other")
    await asking.jobs.cancel(waiting.id)
    await asking.approvals.decide(denied.id, "deny", person)
    assert asking.ledger.summary().entries == []
