"""Goals that meet a failing job and a person's no, with shipped tools; judged by the state that is left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.agent.goals import Wanted
from agentd.agent.guards import Limits
from agentd.daemon import Daemon
from agentd.errors import NeedsApproval
from agentd.policy.callers import Caller
from agentd.sdk import Model
from agentd.testing import Reply, ScriptedModel, call, say
from tests.conftest import ROOT

pytestmark = pytest.mark.anyio
Boot = Callable[..., Awaitable[Daemon]]
GOAL = "Make the support alias cheaper without losing accuracy"
FORCED = {"alias": "support", "model": "small", "force": True, "because": "it costs a tenth"}
ASKING = """\
name: journey
description: Moving an alias waits for a person.
doubtful_prices: allow
ask:
  - name: routing
    tools: [promote]
allow:
  - name: the-rest
"""


async def pursued(
    boot: Boot, folder: Path, script: list[Reply], agent: Caller, person: Caller, verdicts: list[str]
) -> tuple[Daemon, dict[str, Any]]:
    """A daemon whose alias points at the dear model, and the run once it has ended."""
    (folder / "mine/policies").mkdir(parents=True)
    (folder / "mine/policies/journey.yaml").write_text(ASKING, encoding="utf-8")
    with ScriptedModel(script) as brain:
        models = [
            Model(name=name, kind="local", endpoint=brain.url, capabilities=("tools",))
            for name in ("brain", "big", "small")
        ]
        daemon = await boot(roots=(folder / "mine", ROOT), policy="journey", models=tuple(models))
        first = {"alias": "support", "model": "big", "force": True, "because": "the first"}
        verdicts = ["approve", *verdicts]
        await asked(daemon, first, person, verdicts)
        limits = Limits(usd=1000.0)  # pyright: ignore[reportCallIssue] - its fields have defaults
        run = daemon.runs.pursue(GOAL, Wanted(model="brain", limits=limits), agent)["id"]
        async for view in daemon.runs.follow(run):
            pending = daemon.approvals.list(state="pending")
            if pending:
                await daemon.approvals.decide(pending[0].id, verdicts.pop(0), person, "not on a Friday")  # pyright: ignore[reportArgumentType]
            if view["state"] != "running":
                return daemon, view
    raise AssertionError


async def asked(daemon: Daemon, arguments: dict[str, Any], person: Caller, verdicts: list[str]) -> None:
    """A person's own call, approved by themselves."""
    with pytest.raises(NeedsApproval) as held:
        await daemon.calls.call("promote", arguments, person)
    await daemon.approvals.decide(held.value.approval_id, verdicts.pop(0), person)  # pyright: ignore[reportArgumentType]
    await daemon.jobs.settled(held.value.job_id)


async def test_a_job_that_fails_is_mended_and_the_alias_moves_once_a_person_agrees(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    script = [
        call("work", behaviour="refuse", starts=str(starts)),
        call("work", text="adapter", starts=str(starts)),
        call("promote", alias="support", model="small"),  # without evidence: the tool refuses
        call("promote", **FORCED),
        say("The alias points at small."),
    ]
    # What a failed job says may be a stranger's words: the second try asks, whatever the rules allow.
    daemon, view = await pursued(boot, tmp_path, script, agent, person, ["approve", "approve"])
    assert view["state"] == "succeeded"
    assert [step["outcome"] for step in view["steps"]] == ["failed", "done", "wrong_arguments", "done"]
    alias = daemon.catalog.alias("support")
    assert alias is not None
    assert alias.weights == {"small": 1.0}
    assert starts.read_text(encoding="utf-8").count("\n") == 2
    assert daemon.approvals.list(state="pending") == []


async def test_after_a_no_half_way_the_alias_stays_and_nobody_is_asked_again(
    boot: Boot, agent: Caller, person: Caller, tmp_path: Path
) -> None:
    script = [
        call("work", text="adapter"),
        call("promote", **FORCED),
        call("promote", **FORCED),
        call("move", name="note"),
        say("A person said no to moving it: not on a Friday. The adapter is there."),
    ]
    daemon, view = await pursued(boot, tmp_path, script, agent, person, ["deny"])
    assert view["state"] == "succeeded"
    assert [step["outcome"] for step in view["steps"]] == ["done", "denied", "denied", "done"]
    alias = daemon.catalog.alias("support")
    assert alias is not None
    assert alias.weights == {"big": 1.0}
    assert len(daemon.approvals.list(state=None)) == len(daemon.approvals.list(state="denied")) + 2
    assert daemon.jobs.get(view["steps"][0]["job"]).state == "succeeded"
