"""What flows through a plan's references, and where it decides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from agentd.agent import flow, plans
from agentd.config import Config
from agentd.daemon import Daemon
from agentd.plugins import Plugins
from agentd.policy.callers import Caller

pytestmark = pytest.mark.anyio
REPO = Path(__file__).parents[2]
TOOLS = Plugins.open([REPO / "tests" / "root"]).tools()
READ = "{id: read, tool: read_letter, args: {path: letter}}"


@pytest.mark.parametrize(
    ("step", "decided"),
    [
        ('{id: pay, tool: pay, args: {to: bob, note: "${read.text}"}}', False),
        ('{id: pay, tool: pay, args: {to: "${read.text}"}}', True),
        ('{id: pay, tool: pay, args: {to: "the ${read.text}"}}', True),
        ('{id: pay, tool: pay, args: {to: "${read}"}}', True),
        ('{id: pay, tool: pay, args: {to: "${read.number}"}}', False),
        ('{id: pay, tool: pay, args: {to: "${params.to}"}}', False),
        ('{id: pay, tool: pay, each: ["${read.text}"], args: {to: "${item}"}}', True),
        ('{id: pay, tool: pay, each: "${read.text}", args: {to: bob}}', True),
        ('{id: pay, tool: pay, when: "${read.text} == yes", args: {to: bob}}', False),
        ("{id: pay, tool: pay, needs: [read], args: {to: bob}}", False),
    ],
)
def test_what_decides_a_step(step: str, decided: bool) -> None:
    plan = plans.parse_plan(f"plan: p\ngoal: g\nparams: {{to: bob}}\nsteps:\n- {READ}\n- {step}", "p")
    found = flow.deciding(plan.step("pay"), plan, TOOLS)
    assert found == (("step 'read' (read_letter)",) if decided else ())


def test_what_was_given_untrusted_text_passes_it_on() -> None:
    plan = plans.parse_plan(
        f"plan: p\ngoal: g\nsteps:\n- {READ}\n"
        '- {id: one, tool: pay, args: {to: bob, note: "${read.text}"}}\n'
        '- {id: two, tool: pay, each: [1], args: {to: bob, note: "${one.note}"}}\n'
        '- {id: pay, tool: pay, args: {to: "${two.items.0.note}"}}\n',
        "p",
    )
    assert flow.deciding(plan.step("two"), plan, TOOLS) == ()
    assert flow.deciding(plan.step("pay"), plan, TOOLS) == ("step 'read' (read_letter)",)


@pytest.mark.parametrize(
    "path", sorted((REPO / "tools" / "plans").glob("*.yaml")), ids=lambda path: path.stem
)
def test_no_step_of_a_shipped_plan_is_decided_by_untrusted_text(path: Path) -> None:
    tools, plan = Plugins.open([REPO]).tools(), plans.load_plan(path)
    assert {step.id: found for step in plan.steps if (found := flow.deciding(step, plan, tools))} == {}


async def test_a_plan_written_beforehand_goes_through_and_a_decided_step_waits(
    daemon: Daemon, agent: Caller, tmp_path: Path
) -> None:
    (tmp_path / "letter").write_text("eve", encoding="utf-8")
    path = tmp_path / "plan.yaml"
    path.write_text(
        f"plan: p\ngoal: g\nsteps:\n- {READ}\n"
        '- {id: told, tool: pay, args: {to: bob, note: "${read.text}"}}\n'
        '- {id: led, tool: pay, needs: [told], args: {to: "${read.text}"}}\n',
        encoding="utf-8",
    )
    run = daemon.runs.start(path, {}, agent)["id"]
    view = await _until_asked(daemon, run)
    assert [step["state"] for step in view["steps"]] == ["succeeded", "succeeded", "running"]
    question = daemon.approvals.list()[0]
    assert question.facts["taint"] == ["step 'read' (read_letter)"]


async def test_a_run_started_by_a_tainted_caller_is_tainted_and_stays_so(
    boot: Any, config: Config, agent: Caller, tmp_path: Path
) -> None:
    daemon = await boot()
    path = tmp_path / "plan.yaml"
    path.write_text("plan: p\ngoal: g\nsteps:\n- {id: a, tool: pay, args: {to: eve}}\n", encoding="utf-8")
    daemon.calls.taints.add("client", ["search"])
    tainted = Caller("agent:ada", "admin", "mcp", tmp_path, is_agent=True, context="client")
    run = daemon.runs.start(path, {}, tainted)["id"]
    await _until_asked(daemon, run)
    await boot.stop(daemon)
    daemon = await boot()
    await _until_asked(daemon, run)
    assert daemon.approvals.list()[0].facts["taint"] == ["search"]


async def _until_asked(daemon: Daemon, run: str) -> dict[str, Any]:
    """The run once a question of it waits."""
    async for view in daemon.runs.follow(run):
        assert view["state"] == "running", view["reason"]
        jobs = [step.get("job_view") or {} for step in view["steps"]]
        if any(job.get("state") == "waiting_approval" for job in jobs):
            return view
    raise AssertionError(run)
