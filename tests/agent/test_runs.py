"""Runs of plans: what goes ahead, what is skipped, and what a restart or a resume does again."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from agentd.daemon import Daemon
from agentd.errors import Conflict, DataError, InputError
from agentd.policy.callers import Caller
from agentd.sdk import JobView

pytestmark = pytest.mark.anyio
Boot = Any
Until = Callable[..., Awaitable[JobView]]
Start = Callable[..., str]


@pytest.fixture
def start(tmp_path: Path, agent: Caller) -> Start:
    """``start(daemon, steps, **params)``: the id of a run of a plan with those steps."""

    def begin(daemon: Daemon, steps: str, **params: Any) -> str:
        path = tmp_path / "plan.yaml"
        path.write_text(f"plan: test\ngoal: g\nparams: {{n: 1, text: hi}}\nsteps:\n{steps}", encoding="utf-8")
        return daemon.runs.start(path, params, agent)["id"]

    return begin


async def finished(daemon: Daemon, run: str) -> dict[str, Any]:
    async for view in daemon.runs.follow(run):
        if view["state"] != "running":
            return view
    raise AssertionError


async def until_step(daemon: Daemon, run: str, step: str, **wanted: Any) -> dict[str, Any]:
    async for view in daemon.runs.follow(run):
        found = steps_of(view)[step]
        if all(found.get(name) == value for name, value in wanted.items()):
            return found
    raise AssertionError(f"{step} never was {wanted}: {view}")


def steps_of(view: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {step["id"]: step for step in view["steps"]}


def states(view: dict[str, Any]) -> dict[str, str]:
    return {name: step["state"] for name, step in steps_of(view).items()}


def count(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines()) if path.exists() else 0


async def test_results_flow_from_step_to_step(daemon: Daemon, start: Start) -> None:
    steps = """\
  - {id: a, tool: say, args: {text: "${params.text}"}}
  - {id: b, tool: work, args: {text: "${a.text} there"}}
  - {id: c, tool: say, each: ["${b.text}", you], args: {text: "${item}!"}}
  - {id: d, tool: say, args: {text: "${c.items.1.text} and ${c.items.0.text}"}}
"""
    view = await finished(daemon, start(daemon, steps, text="hello"))
    assert (view["state"], view["reason"]) == ("succeeded", "")
    found = steps_of(view)
    assert found["b"]["result"]["text"] == "hello there"
    assert found["b"]["job"].startswith("job-")
    assert found["d"]["result"]["text"] == "you! and hello there!"
    kinds = [entry.kind for entry in daemon.journal.tail(50, subject=view["id"])]
    assert kinds == ["run.started", "run.succeeded"]


async def test_a_step_whose_condition_fails_is_skipped_with_all_that_need_it(
    daemon: Daemon, start: Start
) -> None:
    steps = """\
  - {id: a, tool: say, args: {text: never}}
  - {id: b, tool: say, when: "${a.text} == yes", args: {text: b}}
  - {id: c, tool: say, args: {text: "${b.text}"}}
  - {id: d, tool: say, needs: [c], args: {text: d}}
  - {id: e, tool: say, when: "${a.text} == never", args: {text: e}}
"""
    view = await finished(daemon, start(daemon, steps))
    skipped = [name for name, state in states(view).items() if state == "skipped"]
    assert (view["state"], skipped) == ("succeeded", ["b", "c", "d"])
    found = steps_of(view)
    assert found["b"]["reason"] == "${a.text} == yes does not hold"
    assert found["d"]["reason"] == "c was skipped"


async def test_a_failed_step_ends_the_run_and_starts_nothing_more(daemon: Daemon, start: Start) -> None:
    steps = """\
  - {id: a, tool: work, args: {behaviour: refuse}}
  - {id: b, tool: say, args: {text: "${a.text}"}}
"""
    view = await finished(daemon, start(daemon, steps))
    assert (view["state"], states(view)) == ("failed", {"a": "failed", "b": "pending"})
    assert view["reason"].startswith("step 'a': job-")
    assert "row 3 of train.jsonl is empty" in view["reason"]


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        ('args: {text: "${a.text.nothing}"}', "There is no field of a.text 'nothing'"),
        ('when: "${a.text} < 3", args: {text: x}', "compares 'hi' with 3"),
        ('each: "${a.text}", args: {text: "${item}"}', "'each' should be a list, and is 'hi'"),
    ],
)
async def test_what_only_shows_in_the_run_fails_the_step_with_its_own_words(
    daemon: Daemon, start: Start, extra: str, reason: str
) -> None:
    steps = f"  - {{id: a, tool: say, args: {{text: hi}}}}\n  - {{id: b, tool: say, {extra}}}\n"
    view = await finished(daemon, start(daemon, steps))
    assert states(view) == {"a": "succeeded", "b": "failed"}
    assert reason in steps_of(view)["b"]["reason"]
    assert reason in view["reason"]


async def test_a_plan_with_a_mistake_starts_no_run(daemon: Daemon, start: Start) -> None:
    with pytest.raises(DataError, match=r"plan\.yaml:5: steps\.0\(a\)\.tool: There is no tool 'sya'"):
        start(daemon, "  - {id: a, tool: sya, args: {text: x}}\n")
    with pytest.raises(InputError, match="no parameter of this plan 'txt'"):
        start(daemon, "  - {id: a, tool: say, args: {text: x}}\n", txt="x")
    assert daemon.runs.list() == []


async def test_a_step_that_a_person_has_to_approve_waits_and_goes_on(
    boot: Boot, start: Start, person: Caller
) -> None:
    daemon = await boot(policy="asking")
    steps = """\
  - {id: a, tool: move, args: {name: support}}
  - {id: b, tool: work, args: {text: "moved ${a.times}"}}
"""
    run = start(daemon, steps)
    held = await until_step(daemon, run, "a", state="running")
    async for view in daemon.runs.follow(run):
        held = steps_of(view)["a"]
        if held.get("job"):
            break
    await daemon.approvals.decide(held["job"], "approve", person)
    async for view in daemon.runs.follow(run):
        job = steps_of(view)["b"].get("job_view")
        if job and job["state"] == "waiting_approval":
            await daemon.approvals.decide(job["approval"], "approve", person)
            break
    view = await finished(daemon, run)
    assert view["state"] == "succeeded"
    assert steps_of(view)["b"]["result"]["text"] == "moved 1"


async def test_a_denied_step_fails_the_run_with_who_denied_it(
    boot: Boot, start: Start, person: Caller
) -> None:
    daemon = await boot(policy="asking")
    run = start(daemon, "  - {id: a, tool: move, args: {name: support}}\n")
    async for view in daemon.runs.follow(run):
        if job := steps_of(view)["a"].get("job"):
            break
    await daemon.approvals.decide(job, "deny", person, "not today")
    view = await finished(daemon, run)
    assert view["state"] == "failed"
    assert "denied by user:ada: not today" in view["reason"]


async def test_a_step_waits_for_a_service_that_is_still_starting(daemon: Daemon, start: Start) -> None:
    view = await finished(daemon, start(daemon, "  - {id: a, tool: ring, args: {text: ding}}\n"))
    assert view["state"] == "succeeded"
    assert steps_of(view)["a"]["result"]["text"] == "ding"


# --- going on -------------------------------------------------------------------------------


async def test_a_restart_in_the_middle_goes_on_and_starts_nothing_twice(
    boot: Boot, start: Start, tmp_path: Path
) -> None:
    first, starts, pipe = await boot(), tmp_path / "starts", tmp_path / "pipe"
    os.mkfifo(pipe)
    steps = f"""\
  - {{id: a, tool: work, args: {{text: a, starts: {starts}}}}}
  - {{id: b, tool: work, needs: [a], args: {{text: b, starts: {starts}, hold: {pipe}}}}}
  - {{id: c, tool: work, needs: [b], args: {{text: c, starts: {starts}}}}}
"""
    run = start(first, steps)
    async for view in first.runs.follow(run):
        job = steps_of(view)["b"].get("job_view")
        if job and job["progress"].get("done") == 1:
            break
    before = {name: step.get("job") for name, step in steps_of(first.runs.view(run)).items()}
    await boot.stop(first)
    second = await boot()
    assert second.runs.view(run)["state"] == "running"
    pipe.write_text("go on", encoding="utf-8")
    view = await finished(second, run)
    assert view["state"] == "succeeded"
    assert count(starts) == 3
    after = {name: step["job"] for name, step in steps_of(view).items()}
    assert (after["a"], after["b"]) == (before["a"], before["b"])
    assert len(second.jobs.list()) == 3


async def test_a_run_that_waits_for_approval_still_waits_for_the_same_one_after_a_restart(
    boot: Boot, start: Start, person: Caller
) -> None:
    first = await boot(policy="asking")
    run = start(first, "  - {id: a, tool: move, args: {name: support}}\n")
    async for view in first.runs.follow(run):
        if job := steps_of(view)["a"].get("job"):
            break
    await boot.stop(first)
    second = await boot(policy="asking")
    await second.approvals.decide(job, "approve", person)
    view = await finished(second, run)
    assert (view["state"], steps_of(view)["a"]["result"]["times"]) == ("succeeded", 1)
    assert len(second.approvals.list(state=None)) == 1


async def test_resuming_does_again_only_what_had_not_succeeded(
    daemon: Daemon, start: Start, tmp_path: Path
) -> None:
    starts, source = tmp_path / "starts", tmp_path / "rows.txt"
    (tmp_path / "fine.txt").write_text("fine", encoding="utf-8")
    source.write_text("", encoding="utf-8")
    steps = f"""\
  - {{id: a, tool: work, args: {{text: a, starts: {starts}}}}}
  - id: b
    tool: work
    needs: [a]
    each: [fine.txt, rows.txt]
    args: {{path: "${{item}}", starts: {starts}}}
"""
    run = start(daemon, steps)
    view = await finished(daemon, run)
    assert (view["state"], states(view)) == ("failed", {"a": "succeeded", "b": "failed"})
    assert "rows.txt:1: holds nothing" in view["reason"]
    assert count(starts) == 2
    source.write_text("rows", encoding="utf-8")
    await daemon.runs.resume(run)
    view = await finished(daemon, run)
    assert view["state"] == "succeeded"
    assert count(starts) == 3
    assert [item["text"] for item in steps_of(view)["b"]["result"]["items"]] == ["donefine", "donerows"]
    with pytest.raises(Conflict, match="is succeeded"):
        await daemon.runs.resume(run)


async def test_resuming_tries_a_failed_job_again_as_a_new_one(
    daemon: Daemon, start: Start, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    run = start(daemon, f"  - {{id: a, tool: work, args: {{behaviour: refuse, starts: {starts}}}}}\n")
    first = steps_of(await finished(daemon, run))["a"]["job"]
    await daemon.runs.resume(run)
    second = steps_of(await finished(daemon, run))["a"]["job"]
    assert first != second
    assert count(starts) == 2


async def test_stopping_ends_what_runs_and_resuming_goes_on(
    daemon: Daemon, start: Start, tmp_path: Path
) -> None:
    steps = """\
  - {id: a, tool: say, args: {text: hang}}
  - {id: b, tool: work, args: {behaviour: "${a.text}"}}
"""
    run = start(daemon, steps)
    async for view in daemon.runs.follow(run):
        job = steps_of(view)["b"].get("job_view")
        if job and job["state"] == "running":
            break
    stopped = await daemon.runs.stop(run)
    assert (stopped["state"], states(stopped)) == ("stopped", {"a": "succeeded", "b": "stopped"})
    assert daemon.jobs.get(job["id"]).state == "cancelled"
    with pytest.raises(Conflict, match="has already stopped"):
        await daemon.runs.stop(run)
    await daemon.runs.resume(run)
    again = await until_step(daemon, run, "b", state="running")
    assert again.get("job") != job["id"]
    await daemon.runs.stop(run)


async def test_a_service_that_is_gone_is_started_again_on_resume(
    daemon: Daemon, start: Start, tmp_path: Path
) -> None:
    starts, source = tmp_path / "starts", tmp_path / "rows.txt"
    source.write_text("", encoding="utf-8")
    steps = f"""\
  - {{id: hang, tool: hang_bell, args: {{starts: {starts}}}}}
  - {{id: use, tool: work, needs: [hang], args: {{path: rows.txt, needs: [bell]}}}}
"""
    run = start(daemon, steps)
    view = await finished(daemon, run)
    assert states(view) == {"hang": "succeeded", "use": "failed"}
    first = steps_of(view)["hang"]["result"]
    assert first["serves"] == ["chime"]
    await daemon.jobs.cancel(first["job"])
    source.write_text("rows", encoding="utf-8")
    await daemon.runs.resume(run)
    view = await finished(daemon, run)
    assert view["state"] == "succeeded"
    assert steps_of(view)["hang"]["result"]["job"] != first["job"]
    assert count(starts) == 2


async def test_a_service_that_is_still_there_is_kept_on_resume(
    daemon: Daemon, start: Start, tmp_path: Path
) -> None:
    starts = tmp_path / "starts"
    steps = f"""\
  - {{id: hang, tool: hang_bell, args: {{starts: {starts}}}}}
  - {{id: use, tool: work, needs: [hang], args: {{behaviour: refuse}}}}
"""
    run = start(daemon, steps)
    await finished(daemon, run)
    await daemon.runs.resume(run)
    await finished(daemon, run)
    assert count(starts) == 1
