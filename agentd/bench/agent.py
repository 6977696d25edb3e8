"""How validly and rightly a model calls tools in our loop: native tool calls against constrained actions.

The cases are the Berkeley leaderboard's (`agentd.bench.bfcl`). Each is the goal of a run whose only tools are
the case's functions: the choice of tools, the wire, the guards, the store and the gateway are those of any
run. A case ends with the first turn whose calls the schemas allow, with an answer, or with a guard; errors
are told to the model as in any run. Judged is what was carried out until then.

    native       the catalog says that the model calls tools: the endpoint's tool calls
    constrained  it says that the endpoint holds replies to a schema: JSON actions

Not covered: what a model makes of results, and goals that take several turns.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import time
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from agentd.agent import wire
from agentd.agent.goals import Options, Reply
from agentd.agent.guards import Limits
from agentd.agent.pursuit import INSTRUCTIONS, OWN, Pursuit, Surroundings
from agentd.bench import bfcl
from agentd.bench.bfcl import CATEGORIES, Case
from agentd.config import Budget, Config, load_config
from agentd.daemon import Daemon
from agentd.errors import AgentdError, Conflict, InputError, NotFound, Unavailable
from agentd.policy.callers import Caller
from agentd.sdk import Capability, Model, Quote, Tool
from agentd.store.runs import RunTable, StepRow
from agentd.store.turns import TurnTable

__all__ = ["Answer", "run"]

MODES: dict[str, tuple[Capability, ...]] = {"native": ("tools",), "constrained": ("json_schema",)}
LIMIT = 100
CLIENTS = 8
STEPS = 8
HALVES = {1: 0, 2: 1}
SITUATION = """\
Now: Monday, 2026-11-02 09:30 UTC
Machine: cpu only, no GPU"""
"""As a run is told it; always the same, so that a case is asked in the same words every time."""


class Answer(BaseModel):
    """What a case came to. `calls` are those that were carried out, `made` and `wrong` count all."""

    id: str
    category: str
    mode: str
    code: str
    calls: list[tuple[str, dict[str, Any]]]
    made: int
    wrong: int
    at_once: bool
    guard: str
    turns: int
    seconds: float
    input_tokens: int
    output_tokens: int
    said: str


class _Judged(Conflict):
    """The case has ended: what would come next is not asked for."""


def run(
    data: Path | None = None,
    model: str = "",
    limit: int = LIMIT,
    half: int | None = None,
    keep: Path | None = None,
) -> dict[str, Any]:
    """Shares of valid and of right calls by category and mode, each with Wilson's interval.

    `data` is a folder of bfcl_*.jsonl, `model` an endpoint and a name there, such as
    http://127.0.0.1:8000/v1/NAME; AGENTD_BENCH_KEY_ENV names the variable with its key. `limit` cases of each
    category are asked, drawn from all, or from every other one: `half` 1 or 2. `keep` is a file of answers:
    those it has, by this code, are not asked for again.
    """
    if data is None:
        raise InputError("Which cases?", hint="--data FOLDER, with the leaderboard's bfcl_*.jsonl")
    if half not in (None, *HALVES):
        raise InputError(f"half should be 1 or 2, not {half}")
    if limit < 1:
        raise InputError(f"limit should be at least 1, not {limit}")
    return asyncio.run(_measure(data, _models(model), limit, half, keep))


async def _measure(
    data: Path, models: Mapping[str, Model], limit: int, half: int | None, keep: Path | None
) -> dict[str, Any]:
    chosen = [_chosen(bfcl.read_cases(data, category), limit, half) for category in CATEGORIES]
    cases = [case for turn in zip_longest(*chosen) for case in turn if case]  # a cut leaves all categories
    with tempfile.TemporaryDirectory(prefix="agentd-") as folder:
        daemon = Daemon(_config(Path(folder), models.values()), url="http://127.0.0.1:1")
        await daemon.start()
        began = time.monotonic()
        try:
            answers = await _Asking(daemon, models, keep).answers(cases)
        finally:
            await daemon.aclose()
    rows = [
        _row(
            category, mode, [each for each in answers if (each[1].category, each[1].mode) == (category, mode)]
        )
        for category in CATEGORIES
        for mode in MODES
    ]
    return {"rows": rows, "clients": CLIENTS, "half": half or "both", "s": round(time.monotonic() - began, 1)}


class _Asking:
    """All cases in both modes, a few at a time, each kept as it comes."""

    def __init__(self, daemon: Daemon, models: Mapping[str, Model], keep: Path | None) -> None:
        self._daemon, self._models, self._keep = daemon, models, keep
        self._code = _code(next(iter(models.values())))
        self._turns, self._runs = TurnTable(daemon.store), RunTable(daemon.store)
        self._free = asyncio.Semaphore(CLIENTS)

    async def answers(self, cases: Sequence[Case]) -> list[tuple[Case, Answer]]:
        kept = self._kept()
        asked: list[tuple[Case, asyncio.Task[Answer]]] = []
        try:
            async with asyncio.TaskGroup() as group:
                for case in cases:
                    for mode in self._models:
                        answering = self._answer(case, mode, kept.get((case.id, mode)))
                        asked.append((case, group.create_task(answering)))
        except* Unavailable as group:
            raise AgentdError(
                f"The endpoint went away: {group.exceptions[0]}",
                hint="With --keep FILE the same command goes on where it was",
            ) from group
        return [(case, task.result()) for case, task in asked]

    def _kept(self) -> dict[tuple[str, str], Answer]:
        if self._keep is None or not self._keep.exists():
            return {}
        lines = self._keep.read_text(encoding="utf-8").splitlines()
        answers = [Answer.model_validate_json(line) for line in lines]
        return {(each.id, each.mode): each for each in answers if each.code == self._code}

    async def _answer(self, case: Case, mode: str, kept: Answer | None) -> Answer:
        if kept is not None:
            return kept
        async with self._free:
            answer = await self._pursued(case, mode)
        if self._keep is not None:
            with self._keep.open("a", encoding="utf-8") as file:
                file.write(answer.model_dump_json() + "\n")
        return answer

    async def _pursued(self, case: Case, mode: str) -> Answer:
        model = self._models[mode]
        options = Options(model=model.name, limits=Limits(steps=STEPS), resumed_at=-1, resumed_after=0)  # pyright: ignore[reportCallIssue] - its fields have defaults
        row = self._runs.add(
            kind="goal",
            plan=case.id,
            source=case.question,
            params={},
            options=options.model_dump(),
            principal="agent:bench",
            surface="bench",
            cwd=str(self._daemon.state_dir),
            project="default",
        )
        functions, away = _Functions(case), list[Unavailable]()

        async def ask(body: dict[str, Any], caller: Caller) -> Reply:
            if _has_ended(self._runs.steps(row.id).values()):
                raise _Judged("every call of the last turn was carried out")
            try:
                return await self._daemon.ask(body, caller)
            except Unavailable as error:
                away.append(error)
                raise

        around = Surroundings(
            self._runs,
            self._turns,
            functions,
            self._daemon.jobs,
            ask,
            [model],
            lambda: None,
            SITUATION,
        )
        ended = await Pursuit(row, around).run()
        if away:
            raise away[-1]
        steps = [step for step in self._runs.steps(row.id).values() if step.tool not in OWN]
        totals = self._turns.totals(row.id)
        guard = str(ended.outcome.get("guard", ""))
        first = min((step.turn or 0 for step in steps), default=0)
        wrong = [step for step in steps if step.outcome != "done"]
        return Answer(
            id=case.id,
            category=case.category,
            mode=mode,
            code=self._code,
            calls=[(step.tool, step.arguments or {}) for step in steps if step.outcome == "done"],
            made=len(steps),
            wrong=len(wrong),
            at_once=not any(step.turn == first for step in wrong) and guard != "unreadable",
            guard="" if _has_ended(steps) else guard,
            turns=totals["turns"],
            seconds=round(sum(turn.seconds for turn in self._turns.list(row.id)), 3),
            input_tokens=totals["input_tokens"],
            output_tokens=totals["output_tokens"],
            said=str(ended.outcome.get("answer", "") or ("" if _has_ended(steps) else ended.reason))[:400],
        )


class _Functions:
    """A case's functions as the tools of a run (`agentd.agent.carrying.Calling`)."""

    def __init__(self, case: Case) -> None:
        self._case = case
        self.tools: Mapping[str, Tool] = {name: bfcl.tool_of(case, name) for name in case.functions}

    def tainted(self, caller: Caller) -> Caller:
        return caller

    def saw(self, caller: Caller, answer: BaseModel) -> tuple[str, ...]:
        return ()

    async def call(self, name: str, arguments: dict[str, Any], caller: Caller, *, key: str = "") -> BaseModel:
        if name not in self.tools:
            raise NotFound("tool", name, self.tools)
        if wrong := bfcl.mistakes(self._case, name, arguments):
            raise bfcl.unfit(name, wrong)
        return bfcl.Done()

    async def quote(self, name: str, arguments: dict[str, Any], caller: Caller) -> Quote:
        return Quote()

    def job_of(self, caller: Caller, key: str) -> str:
        return ""


def _has_ended(steps: Sequence[StepRow] | Any) -> bool:
    """Whether the last turn that called functions made no mistake."""
    called = [step for step in steps if step.tool not in OWN]
    last = max((step.turn or 0 for step in called), default=0)
    return bool(called) and all(step.outcome == "done" for step in called if step.turn == last)


def _row(category: str, mode: str, found: list[tuple[Case, Answer]]) -> dict[str, Any]:
    answers = [answer for _, answer in found]
    n, calls = len(found), sum(answer.made for answer in answers)
    right = sum(not answer.guard and bfcl.accepted(case, answer.calls) for case, answer in found)
    valid = sum(not answer.guard for answer in answers)
    (low, high), (valid_low, valid_high) = bfcl.wilson(right, n), bfcl.wilson(valid, n)
    return {
        "category": category,
        "mode": mode,
        "n": n,
        "calls": calls,
        "valid at once": round(sum(answer.at_once for answer in answers) / max(1, n), 3),
        "valid": round(valid / max(1, n), 3),
        "valid, 95 %": f"{valid_low:.3f} to {valid_high:.3f}",
        "right": round(right / max(1, n), 3),
        "right, 95 %": f"{low:.3f} to {high:.3f}",
        "tokens in": round(sum(answer.input_tokens for answer in answers) / max(1, n)),
        "tokens out": round(sum(answer.output_tokens for answer in answers) / max(1, n)),
        "s a case": round(sum(answer.seconds for answer in answers) / max(1, n), 1),
    }


def _chosen(cases: list[Case], limit: int, half: int | None) -> list[Case]:
    """So many of them, or of every other one, in an order that is drawn once for all: fewer are the first."""
    of = cases if half is None else cases[HALVES[half] :: 2]
    return sorted(of, key=lambda case: hashlib.sha256(case.id.encode()).digest())[:limit]


def _models(model: str) -> dict[str, Model]:
    endpoint, _, name = model.partition("/v1/")
    if not endpoint.startswith(("http://", "https://")) or not name:
        raise InputError(
            f"{model!r} is no endpoint with a name", hint="--model http://127.0.0.1:8000/v1/NAME"
        )
    return {
        mode: Model(
            name=f"bench-{mode}",
            kind="local",
            total_s=3600.0,  # small machines
            endpoint=f"{endpoint}/v1",
            upstream=name,
            key_env=os.environ.get("AGENTD_BENCH_KEY_ENV", ""),
            capabilities=capabilities,
        )
        for mode, capabilities in MODES.items()
    }


def _config(folder: Path, models: Any) -> Config:
    return Config(
        state_dir=folder / "state",
        cache_dir=load_config().cache_dir,
        roots=(),
        models=tuple(models),
        budget=Budget(per_day_usd=None, per_month_usd=None),
    )


def _code(model: Model) -> str:
    """A digest of what words a request and reads its reply, and of who is asked."""
    worded = [INSTRUCTIONS, SITUATION, *map(str, OWN.values()), model.endpoint, model.upstream]
    return hashlib.sha256(
        b"\0".join([Path(wire.__file__).read_bytes(), *map(str.encode, worded)])
    ).hexdigest()[:16]
