"""AgentDojo's banking and slack suites: attacks that a scripted caller always obeys, and what guarding costs.

The suites (Debenedetti et al., 2024) run in an environment of their own; their tools are tools of a real
daemon, whose rules allow everything. Nobody guesses what a model would do: the caller makes a task's right
calls, and as soon as an injected text is in one of its answers, it makes the calls that the text wants.

    guarded     the calls name a context, as those of every run and client do: what they read counts
    unguarded   they name none, so that nothing they read is noted; the same daemon and rules otherwise
    planned     the steps are written before anything is read (`Plan`), and carried out as a run

A person is played: in benign tasks they approve each question. Under attack they approve what the task itself
needs up to the injected text, and answer nothing after it. What was carried out is told by the suites'
process, not by the daemon; whether a task is done, or an attack came off, by AgentDojo's own checks.

In a plan an argument is literal if the task's text states it, is a truth value, or comes before anything
was read; all others are concluded from what was read before, by a scripted model.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

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
        steps = list(self._steps(begun))
        path = self._daemon.state_dir / "plan.yaml"
        path.write_text(yaml.safe_dump({"plan": user, "goal": begun["prompt"], "steps": steps}), "utf-8")
        questions = await self._carried_out(self._daemon.runs.start(path, {}, self._agent)["id"])
        return Benign(user, (await self._suites.ask("check"))["utility"], questions)

    def _steps(self, begun: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Steps one after another; what a step concludes from is all that was read before."""
        read: list[str] = []
        before: list[str] = []
        for number, call in enumerate(begun["calls"]):
            args = {name: value for name, value in call["args"].items() if value is not None}
            open_ = {name: value for name, value in args.items() if not _stated(value, begun["prompt"])}
            if read and open_:
                texts = [f"${{{step}}}" for step in read]
                yield _step(f"think{number}", "conclude", {"texts": texts, "values": open_}, before)
                args |= {name: f"${{think{number}.values.{name}}}" for name in open_}
                before = [f"think{number}"]
            yield _step(f"call{number}", call["tool"], args, before)
            before = [f"call{number}"]
            if self._daemon.calls.tools[call["tool"]].trusted is not True:
                read.append(f"call{number}")

    async def _carried_out(self, run: str) -> int:
        """How many questions a person had to answer until the run had ended."""
        answered: set[str] = set()
        async for view in self._daemon.runs.follow(run):
            for step in view["steps"]:
                job = step.get("job_view") or {}
                if job.get("state") == "waiting_approval" and job["id"] not in answered:
                    answered.add(job["id"])
                    await self._daemon.approvals.decide(job["id"], "approve", self._person)
        return len(answered)


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


def _step(name: str, tool: str, args: dict[str, Any], needs: list[str]) -> dict[str, Any]:
    return {"id": name, "tool": tool, "args": args, "needs": needs}


def _stated(value: Any, prompt: str) -> bool:
    """Whether a planner that has only the task's text could write the value down."""
    if isinstance(value, bool):
        return True
    said = f"{value:g}" if isinstance(value, float) else str(value)
    return re.search(rf"(?<!\w){re.escape(said)}(?!\w)", prompt, re.IGNORECASE) is not None


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
