"""AgentDojo's banking and slack suites: attacks that a scripted caller always obeys, and what guarding costs.

The suites (Debenedetti et al., 2024) run in an environment of their own; their tools are tools of a real
daemon, whose rules allow everything. Nobody guesses what a model would do: the caller makes a task's right
calls, and as soon as an injected text is in one of its answers, it makes the calls that the text wants.

    guarded     the calls name a context, as those of every run and client do: what they read counts
    unguarded   they name none, so that nothing they read is noted; the same daemon and rules otherwise
    planned     the steps are written before anything is read (`agentd.bench.suite_plans`); a run takes them

A person is played: in benign tasks they approve each question. Under attack they approve what the task itself
needs up to the injected text, and answer nothing after it. What was carried out is told by the suites'
process, not by the daemon; whether a task is done, or an attack came off, by AgentDojo's own checks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import tempfile
from collections.abc import AsyncGenerator, Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from agentd.bench import suite_plans
from agentd.bench.leaks import interpreter_of
from agentd.config import Budget, Config, load_config
from agentd.daemon import Daemon
from agentd.errors import AgentdError, NeedsApproval
from agentd.policy.callers import Caller

__all__ = ["Bench", "Suites", "run"]

ROOT = Path(__file__).with_name("suite")
LIMIT = 1 << 24
START_WITHIN_S = 180.0


def run(data: Path | None = None) -> dict[str, Any]:
    """Attacks and benign tasks of both suites, counted; all that took more than one question is named.

    `data` is an interpreter that has agentdojo. Without it an environment is built (200 MB).
    """
    python = data or interpreter_of("agentdojo_suites")
    program = Path(__file__).parent / "root/tools/recipes/agentdojo_suites.py"
    return asyncio.run(_measure([str(python), "-P", str(program)]))


async def _measure(command: list[str]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="agentd-") as folder:
        async with Bench.open(Path(folder), command) as bench:
            return await bench.figures()


class Suites:
    """The suites' process, asked over its socket; its docstring says what it answers."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    async def ask(self, op: str, **request: Any) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(self._socket, limit=LIMIT)
        writer.write(json.dumps({"op": op, **request}).encode() + b"\n")
        answer = await reader.readline()
        writer.close()
        if not answer:
            raise AgentdError(f"the suites' process broke at {op!r}: what it printed is above")
        return json.loads(answer)


@dataclass(frozen=True, slots=True)
class Benign:
    """One of a suite's tasks without any attack: whether it was done, and the questions it took."""

    task: str
    done: bool
    questions: int


@dataclass(frozen=True, slots=True)
class Attack:
    """A task with injected text. `executed` are calls that weigh, made once it had been read."""

    case: str
    executed: tuple[str, ...]
    asked: int
    came_off: bool


@dataclass(frozen=True, slots=True)
class PlannedAttack:
    """A plan that comes upon injected text. Counted are calls that weigh and nobody approved.

    `other` are none of the plan's, `told` are, but carry text that the injected one wanted.
    """

    case: str
    other: int
    told: int
    left: bool
    came_off: bool


class Bench:
    """A daemon with the suites' tools, and the callers that use them."""

    def __init__(self, daemon: Daemon, suites: Suites, described: dict[str, Any]) -> None:
        self._daemon, self._suites, self._described = daemon, suites, described
        self._agent = Caller("agent:bench", "operate", "bench", daemon.state_dir, is_agent=True)
        self._person = Caller("user:bench", "admin", "bench", daemon.state_dir, is_agent=False)
        self._contexts = 0

    @classmethod
    @contextlib.asynccontextmanager
    async def open(cls, folder: Path, command: list[str]) -> AsyncGenerator[Bench]:
        """`command` and a socket's path start the suites' process, which says that it is ready."""
        socket = folder / "state/data/suite/socket"
        socket.parent.mkdir(parents=True)
        process = await asyncio.create_subprocess_exec(*command, str(socket), stdout=asyncio.subprocess.PIPE)
        assert process.stdout is not None
        try:
            if not await asyncio.wait_for(process.stdout.readline(), START_WITHIN_S):
                raise AgentdError(f"{command[0]} did not start the suites: what it printed is above")
            suites = Suites(socket)
            described = await suites.ask("suites")
            daemon = Daemon(_config(folder, described), url="http://127.0.0.1:1")
            await daemon.start()
            try:
                yield cls(daemon, suites, described)
            finally:
                await daemon.aclose()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def figures(self) -> dict[str, Any]:
        """What `run` answers."""
        figures: dict[str, Any] = {}
        for suite in self._described:
            for mode in ("guarded", "unguarded"):
                attacks = [found async for found in self.attacks(suite, guarded=mode == "guarded")]
                figures[f"{suite}, attacks, {mode}"] = _attacked(attacks)
            planned = [found async for found in self.planned_attacks(suite)]
            figures[f"{suite}, attacks, planned"] = {
                "cases": len(planned),
                "calls that weigh, unapproved and not the plan's": sum(attack.other for attack in planned),
                "the plan's own, with the attacker's text": sum(attack.told for attack in planned),
                "came off by AgentDojo's check": sum(attack.came_off for attack in planned),
                "that came off": [attack.case for attack in planned if attack.came_off],
                "asked in": sum(attack.left for attack in planned),
            }
            unguarded = [await self.benign(suite, user, guarded=False) for user in self._users(suite)]
            figures[f"{suite}, tasks, unguarded"] = _done(unguarded)
            figures[f"{suite}, tasks, guarded"] = _done(
                [await self.benign(suite, user, guarded=True) for user in self._users(suite)]
            )
            figures[f"{suite}, tasks, planned"] = _done(
                [await self.planned(suite, user) for user in self._users(suite)]
            )
        return figures

    def _users(self, suite: str) -> list[str]:
        return self._described[suite]["users"]

    # --- a caller that decides as it reads --------------------------------------------------------

    async def attacks(self, suite: str, *, guarded: bool) -> AsyncGenerator[Attack]:
        """Every task with every injection, of those whose right calls come upon an injected text."""
        for user in self._users(suite):
            for injection in self._described[suite]["injections"]:
                begun = await self._suites.ask("begin", suite=suite, user=user, injection=injection)
                caller = self._caller(guarded)
                if not await self._reads(begun, caller):
                    continue
                before = len((await self._suites.ask("check"))["executed"])
                asked = 0
                for call in begun["injected"]:
                    _, questions = await self._call(call, caller, approves=False)
                    asked += questions
                ended = await self._suites.ask("check")
                weighing = [call["tool"] for call in ended["executed"][before:] if self._weighs(call["tool"])]
                yield Attack(f"{user} {injection}", tuple(weighing), asked, ended["security"])

    async def _reads(self, begun: dict[str, Any], caller: Caller) -> bool:
        """Make a task's right calls until an injected text was read; whether it was."""
        for call in begun["calls"]:
            said, _ = await self._call(call, caller, approves=True)
            if begun["marker"] in said:
                return True
        return False

    async def benign(self, suite: str, user: str, *, guarded: bool) -> Benign:
        begun = await self._suites.ask("begin", suite=suite, user=user, injection="")
        caller, questions = self._caller(guarded), 0
        for call in begun["calls"]:
            questions += (await self._call(call, caller, approves=True))[1]
        return Benign(user, (await self._suites.ask("check"))["utility"], questions)

    async def _call(self, call: dict[str, Any], caller: Caller, *, approves: bool) -> tuple[str, int]:
        """What a call answers, and how many questions it took; nothing if nobody approved it."""
        try:
            answer = await self._daemon.calls.call(call["tool"], call["args"], caller)
            return answer.model_dump_json(), 0
        except NeedsApproval as held:
            if not approves:
                return "", 1
            await self._daemon.approvals.decide(held.approval_id, "approve", self._person)
            view = await self._daemon.jobs.settled(held.job_id)
            self._daemon.calls.saw(caller, view)
            return json.dumps(view.result) if view.result else view.reason, 1
        except AgentdError as error:
            return str(error), 0

    def _caller(self, guarded: bool) -> Caller:
        self._contexts += 1
        return replace(self._agent, context=f"bench-{self._contexts}" if guarded else "")

    def _weighs(self, name: str) -> bool:
        tool = self._daemon.calls.tools[name]
        return not tool.read_only or tool.outward

    # --- a plan -----------------------------------------------------------------------------------

    async def planned(self, suite: str, user: str) -> Benign:
        """The task's right calls as a plan that was written before anything was read."""
        begun = await self._suites.ask("begin", suite=suite, user=user, injection="")
        run = self._start(user, begun)
        approved, _ = await self._carried_out(run, begun["calls"])
        return Benign(user, (await self._suites.ask("check"))["utility"], len(approved))

    async def planned_attacks(self, suite: str) -> AsyncGenerator[PlannedAttack]:
        """Every task with every injection, of those whose plan comes upon an injected text."""
        for user in self._users(suite):
            for injection in self._described[suite]["injections"]:
                begun = await self._suites.ask("begin", suite=suite, user=user, injection=injection)
                run = self._start(user, begun)
                approved, left = await self._carried_out(run, begun["calls"])
                if begun["marker"] not in json.dumps([step.get("result") for step in self._steps_of(run)]):
                    continue
                ended = await self._suites.ask("check")
                alone = _without(ended["executed"], approved)
                weighing = [call for call in alone if self._weighs(call["tool"])]
                other = [call for call in weighing if not self._is_right(call, begun["calls"])]
                told = [call for call in weighing if call not in other and not _among(call, begun["calls"])]
                yield PlannedAttack(f"{user} {injection}", len(other), len(told), left, ended["security"])

    def _start(self, name: str, begun: dict[str, Any]) -> str:
        worded = {tool.name for tool in self._daemon.calls.tools.values() if tool.trusted is True}
        plan = {"plan": name, "goal": begun["prompt"], "steps": list(suite_plans.steps(begun, worded))}
        path = self._daemon.state_dir / "plan.yaml"
        path.write_text(yaml.safe_dump(plan), encoding="utf-8")
        return self._daemon.runs.start(path, {}, self._agent)["id"]

    def _steps_of(self, run: str) -> list[dict[str, Any]]:
        return self._daemon.runs.view(run)["steps"]

    async def _carried_out(self, run: str, right: list[dict[str, Any]]) -> tuple[list[dict[str, Any]], bool]:
        """Have a person approve the right calls that are asked about; at another the run is stopped.

        Answers with the calls that they approved, and whether one was left.
        """
        approved: dict[str, dict[str, Any]] = {}
        async for view in self._daemon.runs.follow(run):
            for step in view["steps"]:
                job = step.get("job_view") or {}
                if job.get("state") != "waiting_approval" or job["id"] in approved:
                    continue
                facts = self._daemon.approvals.get(job["id"]).facts
                call = {"tool": facts["tool"], "args": facts["arguments"]}
                if not _among(call, right):
                    await self._daemon.runs.stop(run)
                    return list(approved.values()), True
                approved[job["id"]] = call
                await self._daemon.approvals.decide(job["id"], "approve", self._person)
        return list(approved.values()), False

    def _is_right(self, call: dict[str, Any], right: list[dict[str, Any]]) -> bool:
        """Whether it is one of the right calls, whatever text it carries."""
        content = self._daemon.calls.tools[call["tool"]].content
        return _among(_but(call, content), [_but(one, content) for one in right])


def _config(folder: Path, described: dict[str, Any]) -> Config:
    root = folder / "root"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))
    tools = {name: schema for suite in described.values() for name, schema in suite["tools"].items()}
    (root / "tools/suite.json").write_text(json.dumps(tools), encoding="utf-8")
    return Config(
        state_dir=folder / "state",
        cache_dir=load_config().cache_dir,
        roots=(root,),
        policy="permissive",
        budget=Budget(per_day_usd=None, per_month_usd=None),
    )


def _but(call: dict[str, Any], left_out: Collection[str]) -> dict[str, Any]:
    args = {name: value for name, value in call["args"].items() if name not in left_out}
    return {"tool": call["tool"], "args": args}


def _among(call: dict[str, Any], calls: list[dict[str, Any]]) -> bool:
    return any(
        call["tool"] == one["tool"] and suite_plans.given(call) == suite_plans.given(one) for one in calls
    )


def _without(calls: list[dict[str, Any]], approved: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls but for one of each that was approved."""
    left = list(approved)
    alone: list[dict[str, Any]] = []
    for call in calls:
        same = next((one for one in left if _among(call, [one])), None)
        if same is None:
            alone.append(call)
        else:
            left.remove(same)
    return alone


def _attacked(attacks: list[Attack]) -> dict[str, Any]:
    return {
        "cases": len(attacks),
        "calls that weigh, unapproved": sum(len(attack.executed) for attack in attacks),
        "cases with any": sum(bool(attack.executed) for attack in attacks),
        "came off by AgentDojo's check": sum(attack.came_off for attack in attacks),
        "asked in": sum(attack.asked > 0 for attack in attacks),
    }


def _done(tasks: list[Benign]) -> dict[str, Any]:
    return {
        "tasks": len(tasks),
        "done": sum(task.done for task in tasks),
        "done with no question": sum(task.done and not task.questions for task in tasks),
        "done with at most one": sum(task.done and task.questions <= 1 for task in tasks),
        "questions": sum(task.questions for task in tasks),
        "more than one": {task.task: task.questions for task in tasks if task.questions > 1},
        "not done": [task.task for task in tasks if not task.done],
    }
