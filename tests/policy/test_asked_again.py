"""What happens to a question or an approval when the world around the action moves on."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd.daemon import Daemon
from agentd.errors import Denied, DiskFull, NeedsApproval
from agentd.policy.approvals import Outdated
from agentd.policy.callers import Caller
from agentd.sdk import Alias, JobView, Model

pytestmark = pytest.mark.anyio
ROOT = Path(__file__).parents[1] / "root"
Boot = Any


def prices(folder: Path, usd_per_hour: float) -> str:
    """A price table in which every machine costs that much."""
    path = folder / f"prices-{usd_per_hour}.yaml"
    price = {"usd_per_hour": usd_per_hour, "source": "made up"}
    table = {"as_of": "2026-11-01", "compute": dict.fromkeys(("cpu", "cuda", "rocm"), price)}
    path.write_text(yaml.safe_dump(table), encoding="utf-8")
    return str(path)


def rules(folder: Path, name: str, **lists: list[dict[str, object]]) -> str:
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump({"name": name, **lists}), encoding="utf-8")
    return str(path)


async def launched(daemon: Daemon, caller: Caller, **arguments: object) -> JobView:
    view = await daemon.calls.call("work", arguments, caller)
    assert isinstance(view, JobView)
    return view


async def held(daemon: Daemon, caller: Caller, tool: str = "move", **arguments: object) -> NeedsApproval:
    with pytest.raises(NeedsApproval) as caught:
        await daemon.calls.call(tool, arguments, caller)
    return caught.value


async def asked_anew(daemon: Daemon, job: str, old: str | None) -> None:
    """Once another question about the job than `old` waits."""
    async for view in daemon.jobs.follow(job):
        if view.state == "waiting_approval" and view.approval != old:
            return


# --- the price ------------------------------------------------------------------------------


async def test_a_dearer_price_opens_a_new_question_that_names_both_figures(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    first = await boot(policy="asking", prices=prices(tmp_path, 36))
    view = await launched(first, agent)
    old = first.approvals.get(view.id)
    assert old.facts["max_micro_usd"] == 600_000
    await boot.stop(first)
    second = await boot(policy="asking", prices=prices(tmp_path, 72))
    await asked_anew(second, view.id, old.id)
    asked = second.approvals.get(view.id)
    assert (second.jobs.get(view.id).state, asked.state) == ("waiting_approval", "pending")
    assert asked.id != old.id
    assert asked.facts["max_micro_usd"] == 1_200_000
    assert asked.facts["again"] == {"after": old.id, "because": "it may cost $1.20 now, up from $0.60"}
    voided = second.approvals.get(old.id)
    assert (voided.state, voided.reason) == ("expired", "it may cost $1.20 now, up from $0.60")
    await second.approvals.decide(asked.id, "approve", person)
    assert (await second.jobs.settled(view.id)).state == "succeeded"
    assert second.ledger.summary().entries[0].reserved == 1_200_000


async def test_an_approval_given_at_a_lower_price_is_not_used_at_a_dearer_one(
    boot: Boot, agent: Caller, tmp_path: Path
) -> None:
    first = await boot(policy="asking", prices=prices(tmp_path, 36))
    starts = tmp_path / "starts"
    view = await launched(first, agent, starts=str(starts))
    first.store.change("UPDATE approvals SET state = 'approved', decided_by = 'user:ada'")
    await boot.stop(first)
    second = await boot(policy="asking", prices=prices(tmp_path, 72))
    await asked_anew(second, view.id, view.approval)
    assert second.approvals.get(view.id).state == "pending"
    assert not starts.exists()
    assert second.ledger.summary().entries == []


async def test_a_lower_price_lets_an_approved_job_go_ahead(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    first = await boot(policy="asking", prices=prices(tmp_path, 72))
    view = await launched(first, agent)
    await boot.stop(first)
    second = await boot(policy="asking", prices=prices(tmp_path, 36))
    await second.approvals.decide(view.id, "approve", person)
    assert (await second.jobs.settled(view.id)).state == "succeeded"


# --- the rules ------------------------------------------------------------------------------


async def test_a_question_under_other_rules_is_asked_again_under_the_new_ones(
    boot: Boot, agent: Caller, tmp_path: Path
) -> None:
    first = await boot(policy="asking")
    view, direct = await launched(first, agent), await held(first, agent, name="x")
    await boot.stop(first)
    second = await boot(policy=rules(tmp_path, "mine", ask=[{"name": "all"}]))
    for job in (view.id, direct.job_id):
        old = view.approval if job == view.id else direct.approval_id
        await asked_anew(second, job, old)
        asked = second.approvals.get(job)
        assert (asked.state, asked.rule) == ("pending", "all")
        assert asked.facts["again"] == {"after": old, "because": "the rules were changed since"}


async def test_what_the_new_rules_allow_goes_ahead_and_what_they_deny_ends(
    boot: Boot, agent: Caller, tmp_path: Path
) -> None:
    first = await boot(policy="asking")
    view, direct = await launched(first, agent), await held(first, agent, name="x")
    await boot.stop(first)
    mine = rules(tmp_path, "mine", deny=[{"name": "no", "tools": ["move"]}], allow=[{"name": "all"}])
    second = await boot(policy=mine)
    done = await second.jobs.settled(view.id)
    assert (done.state, done.decided_by) == ("succeeded", "policy:all")
    ended = await second.jobs.settled(direct.job_id)
    assert (ended.state, ended.reason.partition(".")[0]) == (
        "failed",
        "Policy denies 'move': rule 'no' of 'mine'",
    )


async def test_a_person_answers_only_under_the_rules_that_asked(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    """The answer came just before the end; the next daemon has other rules and asks anew."""
    first = await boot(policy="asking")
    direct = await held(first, agent, name="x")
    first.store.change("UPDATE approvals SET state = 'approved', decided_by = 'user:ada'")
    await boot.stop(first)
    second = await boot(policy=rules(tmp_path, "mine", ask=[{"name": "all"}]))
    await asked_anew(second, direct.job_id, direct.approval_id)
    assert not (second.state_dir / "data/moves/x").exists()
    await second.approvals.decide(direct.job_id, "approve", person)
    assert (await second.jobs.settled(direct.job_id)).state == "succeeded"


async def test_what_changed_together_with_the_rules_is_refused_and_not_asked_about_again(
    boot: Boot, agent: Caller, tmp_path: Path
) -> None:
    (tmp_path / "rows.txt").write_text("rows", encoding="utf-8")
    first = await boot(policy="asking")
    view = await launched(first, agent, path="rows.txt")
    await boot.stop(first)
    (tmp_path / "rows.txt").write_text("others", encoding="utf-8")
    second = await boot(policy=rules(tmp_path, "mine", ask=[{"name": "all"}]))
    ended = await second.jobs.settled(view.id)
    assert ended.state == "failed"
    assert re.search(r"is not asked about again: the input 'source' was changed since apr-", ended.reason)


# --- what the words of a call stand for -----------------------------------------------------


@pytest.mark.parametrize(
    ("word", "named"),
    [("small", "the model 'small'"), ("fine", "the alias 'fine'"), ("tuned", "the model 'small'")],
)
async def test_another_model_under_the_same_name_is_not_what_was_approved(
    boot: Boot, agent: Caller, person: Caller, word: str, named: str
) -> None:
    daemon = await boot(policy="asking")
    for name, base in (("small", ""), ("other", ""), ("tuned", "small")):
        daemon.catalog.put(Model(name=name, kind="local", digest="1", base=base))
    daemon.catalog.set_alias(Alias(name="fine", weights={"small": 1.0}))
    jobs = [(await launched(daemon, agent, text=word)).id, (await held(daemon, agent, name=word)).job_id]
    daemon.catalog.put(Model(name="small", kind="local", digest="2"))
    daemon.catalog.set_alias(Alias(name="fine", weights={"other": 1.0}))
    for job in jobs:
        await daemon.approvals.decide(job, "approve", person)
        ended = await daemon.jobs.settled(job)
        assert (ended.state, named in ended.reason) == ("failed", True), ended.reason
    assert daemon.ledger.summary().entries == []


async def test_a_file_that_a_direct_call_names_is_bound(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    daemon = await boot(policy="asking")
    (tmp_path / "plan.txt").write_text("one", encoding="utf-8")
    call = await held(daemon, agent, name="plan.txt")
    (tmp_path / "plan.txt").write_text("two", encoding="utf-8")
    await daemon.approvals.decide(call.approval_id, "approve", person)
    ended = await daemon.jobs.settled(call.job_id)
    assert "the file 'plan.txt' was changed since" in ended.reason
    assert not (daemon.state_dir / "data/moves").exists()


async def test_the_program_of_a_tool_is_bound(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    shutil.copytree(ROOT, mine)
    first = await boot(policy="asking", roots=(mine,))
    call = await held(first, agent, name="x")
    await boot.stop(first)
    with (mine / "tools/echo.py").open("a", encoding="utf-8") as file:
        file.write("\n# upgraded\n")
    second = await boot(policy="asking", roots=(mine,))
    await second.approvals.decide(call.approval_id, "approve", person)
    ended = await second.jobs.settled(call.job_id)
    assert (ended.state, "the program was changed since" in ended.reason) == ("failed", True)


async def test_what_lies_in_the_artifact_store_is_looked_at_before_it_is_used(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    daemon = await boot(policy="asking")
    (tmp_path / "rows.txt").write_text("rows", encoding="utf-8")
    kept = daemon.artifacts.add("data", tmp_path / "rows.txt", name="rows")
    same = await launched(daemon, agent, path=str(kept.path))
    view = await launched(daemon, agent, path=str(kept.path), text="other")
    await daemon.approvals.decide(same.id, "approve", person)
    assert (await daemon.jobs.settled(same.id)).state == "succeeded"
    kept.path.write_text("more", encoding="utf-8")
    await daemon.approvals.decide(view.id, "approve", person)
    ended = await daemon.jobs.settled(view.id)
    assert ended.state == "failed"
    assert "Input 'source'" in ended.reason


# --- denials --------------------------------------------------------------------------------


async def test_leaving_out_a_default_or_spelling_a_path_otherwise_is_no_way_round_a_denial(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    daemon = await boot(policy="asking")
    (tmp_path / "rows.txt").write_text("rows", encoding="utf-8")
    view = await launched(daemon, agent, path="rows.txt")
    await daemon.approvals.decide(view.id, "deny", person)
    for arguments in ({"path": "./rows.txt"}, {"path": str(tmp_path / "rows.txt"), "behaviour": "write"}):
        again = await daemon.jobs.settled((await launched(daemon, agent, **arguments)).id)
        assert "denied exactly this" in again.reason


async def test_a_denial_sticks_when_the_rules_would_allow_it_at_another_hour(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    by_surface = rules(tmp_path, "mine", ask=[{"name": "mcp", "surfaces": ["mcp"]}], allow=[{"name": "all"}])
    daemon = await boot(policy=by_surface)
    call = await held(daemon, agent, name="x")
    await daemon.approvals.decide(call.approval_id, "deny", person)
    with pytest.raises(Denied, match="denied exactly this"):
        await daemon.calls.call("move", {"name": "x"}, person)
    await daemon.calls.call("move", {"name": "y"}, person)


# --- rules see what the tool will see -------------------------------------------------------


async def test_leaving_out_an_argument_is_no_way_round_a_rule_about_its_default(
    boot: Boot, agent: Caller, tmp_path: Path
) -> None:
    mine = rules(tmp_path, "mine", deny=[{"name": "no", "arguments": {"text": "done"}}])
    daemon = await boot(policy=mine)
    with pytest.raises(Denied, match="rule 'no' of 'mine'"):
        await launched(daemon, agent)


async def test_a_rule_may_look_at_the_role_that_a_job_was_asked_for_with(
    boot: Boot, agent: Caller, tmp_path: Path
) -> None:
    mine = rules(tmp_path, "mine", allow=[{"name": "owner", "roles": ["admin"]}])
    daemon = await boot(policy=mine)
    done = await daemon.jobs.settled((await launched(daemon, agent)).id)
    assert (done.state, done.decided_by) == ("succeeded", "policy:owner")


async def test_a_job_is_asked_about_again_though_the_store_could_not_be_written_at_first(
    boot: Boot, agent: Caller, person: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = await boot(policy="asking")
    view = await launched(daemon, agent)
    await asked_anew(daemon, view.id, None)
    [question] = daemon.approvals.list()
    ask_again, check, failures = daemon.jobs.ask_again, daemon.approvals.check, [1, 2]

    def once(*args: Any, **more: Any) -> Any:
        monkeypatch.setattr(daemon.approvals, "check", check)
        raise Outdated("The price went up")

    def fail_twice(job_id: str, why: str) -> None:
        if failures:
            failures.pop()
            raise DiskFull("no room")
        ask_again(job_id, why)

    monkeypatch.setattr(daemon.approvals, "check", once)
    monkeypatch.setattr(daemon.jobs, "ask_again", fail_twice)
    await daemon.approvals.decide(question.id, "approve", person)
    await asked_anew(daemon, view.id, question.id)
    assert daemon.approvals.get(question.id).reason == "The price went up"
