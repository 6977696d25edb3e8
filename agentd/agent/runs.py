"""Carry a plan out, step by step, so that it survives a restart.

What is durable: the plan's text, and each step's job and result. Each call carries an idempotency
key made of run and step, so a step that was started before a crash is found again, not started
twice. Steps whose dependencies are done go ahead together; a step whose condition does not hold is
skipped, and so are those that need it. The first failure stops new steps from starting. What had been
read when the run was asked for, or decides about a step (`agentd.agent.flow`), taints the step's calls.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentd import documents
from agentd.agent import flow, plans
from agentd.agent.carrying import Calling, StepFailed, Waiting, carry_out
from agentd.agent.goals import Ended, Goals, Wanted
from agentd.agent.plans import Plan, Step
from agentd.errors import AgentdError, Conflict, InputError, NotFound
from agentd.policy.callers import Caller
from agentd.policy.taint import joined
from agentd.redaction import refuse_secrets
from agentd.signals import Changes
from agentd.store.journal import Journal
from agentd.store.runs import RunRow, RunTable, StepRow

__all__ = ["Runs"]

log = logging.getLogger(__name__)


class Runs:
    """All runs of this daemon."""

    def __init__(
        self, table: RunTable, calls: Calling, jobs: Waiting, journal: Journal, changes: Changes, goals: Goals
    ) -> None:
        self._table, self._calls, self._jobs = table, calls, jobs
        self._journal, self._changes, self._goals = journal, changes, goals
        self._tasks: dict[str, asyncio.Task[None]] = {}

    # --- from outside -----------------------------------------------------------------------

    def start(self, path: Path, params: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        """Check the plan in `path` and start a run of it. Raises `DataError` before anything starts."""
        source = documents.read(path)
        plan = plans.with_params(plans.parse_plan(source, path), params)
        plans.check(plan, self._calls.tools, path, source)
        refuse_secrets(f"The plan {plan.plan!r}", {"params": plan.params, "source": source})
        run = self._table.add(
            plan=plan.plan,
            source=source,
            params=plan.params,
            principal=caller.principal,
            surface=caller.surface,
            cwd=str(caller.cwd),
            project=caller.project,
            taint=self._calls.tainted(caller).taint,
        )
        self._journal.append("run.started", run.id, caller.principal, plan=plan.plan, params=plan.params)
        self._drive(run)
        return self.view(run.id)

    def pursue(self, goal: str, wanted: Wanted, caller: Caller) -> dict[str, Any]:
        """Start a run of a goal. Raises `InputError` before anything starts."""
        if not goal.strip():
            raise InputError("The goal is empty", hint='agentd run "what is to be reached"')
        refuse_secrets("The goal", {"goal": goal})
        options = self._goals.options(wanted)
        run = self._table.add(
            kind="goal",
            plan=shortened_to(goal),
            source=goal,
            params={},
            options=options.model_dump(),
            principal=caller.principal,
            surface=caller.surface,
            cwd=str(caller.cwd),
            project=caller.project,
            taint=self._calls.tainted(caller).taint,
        )
        self._journal.append("run.started", run.id, caller.principal, goal=goal, **options.model_dump())
        self._drive(run)
        return self.view(run.id)

    def tell(self, run_id: str, text: str, by: Caller) -> dict[str, Any]:
        """Say something to a run of a goal: it is told with its next turn. Raises `Conflict` for a plan's."""
        run = self._get(run_id)
        if run.kind != "goal":
            raise Conflict(f"Run {run_id!r} is of a plan: nobody is there to be told", hint="Stop it instead")
        if not text.strip():
            raise InputError("The message is empty")
        refuse_secrets("The message", {"text": text})
        self._table.add_taint(run_id, self._calls.tainted(by).taint)
        self._goals.turns.say(run_id, text, by.principal)
        self._journal.append("run.told", run_id, by.principal, text=text)
        self._changes.announce()
        return self.view(run_id)

    def recover(self) -> None:
        """Go on with the runs that were under way when the daemon ended."""
        for run in self._table.list(state="running", limit=1000):
            self._drive(run)

    def set_back(self) -> None:
        """The state directory was set back: what runs were doing at that time goes on only if asked."""
        for run in self._table.list(state="running", limit=100_000):
            for step in self._table.steps(run.id).values():
                if step.state == "running":
                    self._table.put_step(run.id, step.step, state="stopped")
            self._end(run.id, "stopped", "the state directory was set back to an older state")

    async def stop(self, run_id: str) -> dict[str, Any]:
        """End a run: its pending jobs are cancelled, finished steps stay. `resume` takes it up again."""
        run = self._get(run_id)
        if run.state != "running":
            raise Conflict(f"Run {run_id!r} has already {run.state}")
        task = self._tasks.get(run_id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        for step in self._table.steps(run_id).values():
            if step.state == "running":
                if step.job:
                    await self._jobs.cancel(step.job)
                self._table.put_step(run_id, step.step, state="stopped")
        self._end(run_id, "stopped", "stopped by request")
        return self.view(run_id)

    async def resume(self, run_id: str, limits: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Go on with a run that failed or was stopped, from the steps that have not succeeded.

        `limits` replace those of a goal (`guards.Limits`). Raises `Conflict`, `InputError`.
        """
        run = self._get(run_id)
        if run.state in ("running", "succeeded"):
            raise Conflict(
                f"Run {run_id!r} is {run.state}", hint="Only failed and stopped runs can be resumed"
            )
        if run.kind == "goal":
            self._table.set_options(run_id, self._goals.resumed(run, limits or {}).model_dump())
            self._table.end(run_id, "running")
            self._journal.append("run.resumed", run_id, run.principal, **dict(limits or {}))
            self._drive(self._get(run_id))
            return self.view(run_id)
        if limits:
            raise Conflict(f"Run {run_id!r} is of a plan: it has no limits to raise")
        self._table.reopen(run_id)
        for step in self._table.steps(run_id).values():
            job = self._jobs.get(step.job) if step.job else None
            if job and job.service and job.ended:  # what it had started is gone: start it again
                self._table.forget_step(run_id, step.step)
        self._journal.append("run.resumed", run_id, run.principal)
        self._drive(self._get(run_id))
        return self.view(run_id)

    def view(self, run_id: str) -> dict[str, Any]:
        """The run and every step of it, with the progress of those that are running."""
        run = self._get(run_id)
        if run.kind == "goal":
            return self._goal_view(run)
        plan, done = _plan_of(run), self._table.steps(run_id)
        return {
            **run.model_dump(mode="json", exclude={"source", "options", "outcome"}),
            "goal": plan.goal,
            "steps": [self._step_view(step, done.get(step.id)) for step in plan.steps],
        }

    def _goal_view(self, run: RunRow) -> dict[str, Any]:
        totals = self._goals.turns.totals(run.id)
        steps = [self._view_of(row, row.tool) for row in self._table.steps(run.id).values()]
        jobs = sum(self._jobs.get(step["job"]).micro_usd or 0 for step in steps if step.get("job"))
        return {
            **run.model_dump(mode="json", exclude={"source"}),
            "goal": run.source,
            "turns": totals["turns"],
            "tokens": totals["input_tokens"] + totals["output_tokens"],
            "micro_usd": totals["micro_usd"] + jobs,
            "said": [each.model_dump() for each in self._goals.turns.remarks(run.id)],
            "steps": steps,
        }

    def _view_of(self, row: StepRow, title: str) -> dict[str, Any]:
        view: dict[str, Any] = {"id": row.step, "title": title}
        view |= row.model_dump(mode="json", exclude={"run", "step"})
        if row.state == "running" and row.job:
            view["job_view"] = self._jobs.get(row.job).model_dump(mode="json")
        return view

    def step(self, run_id: str, step: str) -> dict[str, Any]:
        """One step with its whole result. Raises `NotFound`."""
        steps = {each["id"]: each for each in self.view(run_id)["steps"]}
        if step not in steps:
            raise NotFound("step", step, steps)
        return steps[step]

    def find(self, run_id: str) -> RunRow | None:
        return self._table.find(run_id)

    def principals(self) -> list[str]:
        """Who has runs."""
        return self._table.principals()

    def list(self, *, limit: int = 50, of: Sequence[str] | None = None) -> list[dict[str, Any]]:
        """Newest first; `of` leaves only those of these principals."""
        listed = self._table.list(limit=limit, of=of)
        return [run.model_dump(mode="json", exclude={"source", "options", "outcome"}) for run in listed]

    def ids(self) -> list[str]:
        return [run.id for run in self._table.list(limit=500)]

    async def follow(self, run_id: str) -> AsyncIterator[dict[str, Any]]:
        """The run now and after each change, until it has ended."""
        version = -1
        while True:
            version, view = self._changes.version, self.view(run_id)
            yield view
            if view["state"] != "running":
                return
            await self._changes.after(version)

    async def wait(self, run_id: str, max_s: float) -> dict[str, Any]:
        """The run once it has ended, or as it is after `max_s` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max_s):
                async for _ in self.follow(run_id):
                    pass
        return self.view(run_id)

    async def aclose(self) -> None:
        """Stop driving; what is under way is durable and is taken up at the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # --- one run ----------------------------------------------------------------------------

    def _drive(self, run: RunRow) -> None:
        task = asyncio.create_task(self._carry_out(run), name=run.id)
        self._tasks[run.id] = task
        task.add_done_callback(lambda _: self._tasks.pop(run.id, None))

    async def _carry_out(self, run: RunRow) -> None:
        if run.kind == "goal":
            await self._reach(run)
            return
        try:
            failed = await _Execution(run, self._table, self._calls, self._jobs, self._changes).run()
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("run %s broke", run.id)
            failed = "an internal error; the daemon's log has the details"
        self._end(run.id, "failed" if failed else "succeeded", failed)

    async def _reach(self, run: RunRow) -> None:
        try:
            ended = await self._goals.pursue(run)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("run %s broke", run.id)
            ended = Ended("failed", "an internal error; the daemon's log has the details", {})
        self._end(run.id, ended.state, ended.reason, ended.outcome)

    def _end(self, run_id: str, state: str, reason: str, outcome: Mapping[str, Any] | None = None) -> None:
        self._table.end(run_id, state, reason, outcome)
        self._journal.append(f"run.{state}", run_id, "daemon", reason=reason)
        self._changes.announce()

    def _get(self, run_id: str) -> RunRow:
        run = self._table.find(run_id)
        if run is None:
            raise NotFound("run", run_id, self.ids())
        return run

    def _step_view(self, step: Step, row: StepRow | None) -> dict[str, Any]:
        view: dict[str, Any] = {
            "id": step.id,
            "title": step.title or step.id,
            "tool": step.tool,
            "state": "pending",
        }
        return view if row is None else {**view, **self._view_of(row, view["title"]), "tool": step.tool}


class _Execution:
    """One pass over a plan: what is done is read from the store, the rest is carried out."""

    def __init__(self, run: RunRow, table: RunTable, calls: Calling, jobs: Waiting, changes: Changes) -> None:
        self._run, self._plan = run, _plan_of(run)
        self._table, self._calls, self._jobs, self._changes = table, calls, jobs, changes
        self._caller = Caller(
            run.principal, "operate", run.surface, run.cwd, is_agent=True, project=run.project
        )
        self._results: dict[str, Any] = {"params": run.params}
        self._skipped: set[str] = set()

    async def run(self) -> str:
        """Carry out what is left; returns why it failed, or an empty string."""
        for name, row in self._table.steps(self._run.id).items():
            if row.state == "succeeded":
                self._results[name] = row.result
            elif row.state == "skipped":
                self._skipped.add(name)
        under_way: dict[asyncio.Task[None], Step] = {}
        failed = ""
        try:
            while True:
                for step in self._ready({s.id for s in under_way.values()}) if not failed else ():
                    under_way[asyncio.create_task(self._step(step))] = step
                if not under_way:
                    return failed
                done, _ = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    step = under_way.pop(task)
                    failed = failed or self._outcome(step, task)
        finally:
            for task in under_way:
                task.cancel()
            await asyncio.gather(*under_way, return_exceptions=True)

    def _ready(self, under_way: set[str]) -> list[Step]:
        """Steps that can start now; those that need a skipped one are skipped on the way."""
        ready: list[Step] = []
        changed = True
        while changed:
            changed = False
            for step in self._plan.steps:
                if (
                    step.id in self._results
                    or step.id in self._skipped
                    or step.id in under_way
                    or step in ready
                ):
                    continue
                needs = step.dependencies()
                if needs & self._skipped:
                    self._skip(step, f"{', '.join(sorted(needs & self._skipped))} was skipped")
                    changed = True
                elif needs <= self._results.keys():
                    ready.append(step)
        return ready

    def _skip(self, step: Step, reason: str) -> None:
        self._skipped.add(step.id)
        self._put(step, state="skipped", reason=reason, started_at=time.time(), ended_at=time.time())

    def _outcome(self, step: Step, task: asyncio.Task[None]) -> str:
        error = task.exception()
        if error is None:
            return ""
        if not isinstance(error, (AgentdError, StepFailed)):
            raise error
        self._put(step, state="failed", reason=str(error), ended_at=time.time())
        return f"step {step.id!r}: {error}"

    async def _step(self, step: Step) -> None:
        if not plans.holds(step.when, self._results):
            self._skip(step, f"{step.when} does not hold")
            return
        self._put(step, state="running", started_at=time.time(), reason="")
        if step.each is None:
            result = await self._one(step, self._results, f"{self._run.id}/{step.id}")
        else:
            items = plans.fill(step.each, self._results)
            if not isinstance(items, list):
                raise StepFailed(f"'each' should be a list, and is {items!r}")
            result = {"items": []}
            for index, item in enumerate(items):
                one = await self._one(
                    step, {**self._results, "item": item}, f"{self._run.id}/{step.id}/{index}"
                )
                result["items"].append(one)
                self._put(step, reason=f"{index + 1} of {len(items)}")
        self._results[step.id] = result
        self._put(step, state="succeeded", result=result, reason="", ended_at=time.time())

    async def _one(self, step: Step, results: Mapping[str, Any], key: str) -> dict[str, Any]:
        return await carry_out(
            self._calls,
            self._jobs,
            step.tool,
            plans.fill(step.args, results),
            self._led(step),
            key,
            on_job=lambda job: self._put(step, job=job),
            on_wait=lambda reason: self._put(step, reason=reason),
        )

    def _led(self, step: Step) -> Caller:
        """Who takes a step: the run's caller, with all that led to it."""
        deciding = flow.deciding(step, self._plan, self._calls.tools)
        return replace(self._caller, taint=joined(self._table.taint(self._run.id), deciding))

    def _put(self, step: Step, **columns: Any) -> None:
        self._table.put_step(self._run.id, step.id, **columns)
        self._changes.announce()


def shortened_to(goal: str, length: int = 60) -> str:
    """A goal as a name of its run."""
    line = " ".join(goal.split())
    return line if len(line) <= length else f"{line[: length - 1]}…"


def _plan_of(run: RunRow) -> Plan:
    return plans.parse_plan(run.source, run.plan).model_copy(update={"params": run.params})
