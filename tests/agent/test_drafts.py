"""Plans drafted by a scripted model behind the real gateway: checked, quoted, and not started."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from agentd.agent.goals import Wanted
from agentd.config import Budget
from agentd.daemon import Daemon
from agentd.errors import DataError, Denied, InputError, OverBudget
from agentd.policy.callers import Caller
from agentd.sdk import Model
from agentd.testing import Reply, ScriptedModel

pytestmark = pytest.mark.anyio
Boot = Any
STEPS: list[dict[str, Any]] = [
    {"id": "note", "tool": "work", "args": {"text": "${params.text}"}, "expect": "a note"},
    {"id": "moved", "tool": "move", "args": {"name": "a"}, "needs": ["note"]},
    {"id": "told", "tool": "say", "args": {"text": "${note.text}"}, "when": "${note.text} != nothing"},
]
GOAL = "write a note, move it and say so"


def drafted(steps: list[dict[str, Any]] = STEPS, **more: Any) -> Reply:
    return {
        "raw": {"content": json.dumps({"plan": "Note it", "params": {"text": "x"}, "steps": steps} | more)}
    }


class Planner:
    """``await planner(reply, …)``: a daemon whose only model gives these replies in turn."""

    def __init__(self, boot: Boot) -> None:
        self._boot, self.models = boot, list[ScriptedModel]()

    async def __call__(self, *replies: Reply, model: dict[str, Any] | None = None, **config: Any) -> Daemon:
        server = ScriptedModel(replies)
        server.__enter__()
        self.models.append(server)
        entry: dict[str, Any] = {"name": "brain", "kind": "frontier", "endpoint": server.url}
        price = {"input_micro_usd_per_mtok": 1_000_000, "output_micro_usd_per_mtok": 1_000_000}
        return await self._boot(models=(Model(**(entry | price | (model or {}))),), **config)

    @property
    def seen(self) -> list[dict[str, Any]]:
        return self.models[-1].seen


@pytest.fixture
def planner(boot: Boot) -> Iterator[Planner]:
    planner = Planner(boot)
    yield planner
    for server in planner.models:
        server.__exit__(None, None, None)


def wanted() -> Wanted:
    return Wanted.of({})


async def test_a_plan_is_drafted_with_what_it_would_take_and_nothing_is_started(
    planner: Planner, person: Caller
) -> None:
    daemon = await planner(drafted(), policy="asking")
    draft = await daemon.drafts.draft(GOAL, wanted(), person)
    assert [(step.id, step.policy, step.needs) for step in draft.steps] == [
        ("note", "ask", []),
        ("moved", "ask", ["note"]),
        ("told", "allow", ["note"]),
    ]
    assert draft.asks == ["note", "moved"]
    assert draft.unquoted == ["told"]  # what it says is known with the note
    note = draft.steps[0].quote
    assert note is not None
    assert (draft.seconds, draft.micro_usd) == (note.seconds, note.micro_usd)
    assert note.micro_usd > 0
    assert (draft.spent_micro_usd, draft.tokens, len(draft.requests), draft.read) == (120, 120, 1, [])
    assert daemon.jobs.list() == []
    assert daemon.runs.list() == []
    assert daemon.approvals.list() == []


async def test_a_saved_draft_runs_as_a_plan_with_other_parameters(
    planner: Planner, person: Caller, tmp_path: Path
) -> None:
    daemon = await planner(drafted())
    draft = await daemon.drafts.draft(GOAL, wanted(), person)
    said = yaml.safe_load(draft.plan)
    assert (said["plan"], said["goal"], said["params"]) == ("note-it", GOAL, {"text": "x"})
    path = tmp_path / "plan.yaml"
    path.write_text(draft.plan, encoding="utf-8")
    run = daemon.runs.start(path, {"text": "y"}, person)["id"]
    async for view in daemon.runs.follow(run):
        if view["state"] != "running":
            assert view["state"] == "succeeded", view["reason"]
            assert [step["result"].get("text") for step in view["steps"]] == ["y", None, "y"]


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ({"id": "a", "tool": "mvoe", "args": {}}, "Did you mean 'move'"),
        ({"id": "a", "tool": "move", "args": {"nmae": "a"}}, "nmae"),
        ({"id": "a", "tool": "say", "args": {"text": "${b.text}"}}, "'b'"),
        ({"id": "a", "tool": "work", "args": {"path": "absent.txt"}}, "absent.txt"),
        ({"id": "a", "tool": "work", "args": {"text": "secrets"}}, "policy denies 'work'"),
        ({"id": "a", "tool": "say", "args": {"text": "x"}, "then": "b"}, "a step has no 'then'"),
    ],
    ids=["tool", "argument", "reference", "file", "policy", "key"],
)
async def test_what_is_wrong_with_a_draft_goes_back_to_the_model(
    planner: Planner, person: Caller, step: dict[str, Any], problem: str
) -> None:
    daemon = await planner(drafted([step]), drafted(), policy="asking")
    draft = await daemon.drafts.draft(GOAL, wanted(), person)
    assert len(draft.requests) == 2
    assert draft.spent_micro_usd == 240
    assert problem in planner.seen[1]["messages"][-1]["content"]


async def test_a_draft_that_is_wrong_three_times_is_given_up(planner: Planner, person: Caller) -> None:
    daemon = await planner({"raw": {"content": "I would first move it."}})
    with pytest.raises(InputError, match="drafted no plan that holds"):
        await daemon.drafts.draft(GOAL, wanted(), person)
    assert len(planner.seen) == 3


async def test_a_model_that_can_be_held_to_a_schema_is(planner: Planner, person: Caller) -> None:
    daemon = await planner(drafted(), model={"capabilities": ("json_schema",)})
    await daemon.drafts.draft(GOAL, wanted(), person)
    schema = planner.seen[0]["response_format"]["json_schema"]["schema"]
    kinds = {
        each["properties"]["tool"]["enum"][0]: each
        for each in schema["properties"]["steps"]["items"]["anyOf"]
    }
    assert {"work", "move", "say"} <= kinds.keys()
    assert kinds["move"]["properties"]["args"]["required"] == ["name"]


async def test_a_plan_beyond_the_budget_is_refused(planner: Planner, person: Caller) -> None:
    daemon = await planner(budget=Budget(per_day_usd=0.5, per_month_usd=None))
    text = "plan: p\ngoal: g\nsteps:\n  - {id: a, tool: work}\n  - {id: b, tool: work}\n"
    with pytest.raises(OverBudget, match=r"\$0.50 of the budget is left"):
        await daemon.drafts.foresee(text, {}, person)


async def test_a_plan_of_a_person_is_looked_at_in_the_same_way(planner: Planner, person: Caller) -> None:
    daemon = await planner(policy="asking")
    text = "plan: p\ngoal: g\nparams: {t: x}\nsteps:\n  - {id: a, tool: work, args: {text: '${params.t}'}}\n"
    draft = await daemon.drafts.foresee(text, {}, person)
    assert (draft.plan, draft.asks, draft.model) == (text, ["a"], "")
    with pytest.raises(Denied, match="step 'a': policy denies 'work'"):
        await daemon.drafts.foresee(text, {"t": "secret"}, person)
    with pytest.raises(DataError, match="no tool"):
        await daemon.drafts.foresee(text.replace("tool: work", "tool: wrok"), {}, person)
    assert daemon.jobs.list() == []
