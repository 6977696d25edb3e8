"""A plan before it is carried out: a model drafts it, and everything that can be checked is checked.

Nothing is started. What a draft says of a step, its quote and what policy will do, is what the step's own
call would be told now; a step that waits for another's result can be told only then, and is named. What a
file says may come into the words of a check that failed, and so before the model: a draft that was mended
after such words names what it read, and its steps are decided about as those of a caller who has read it.

Not covered: a person who saves a draft and runs it makes it their own plan, whatever the model had read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

from pydantic import BaseModel, Field

from agentd.agent import plans
from agentd.agent.goals import Ask, Goals, Reply, Wanted
from agentd.agent.plans import Plan, Step
from agentd.errors import AgentdError, DataError, Denied, InputError, OverBudget, Unavailable
from agentd.ids import new_id
from agentd.policy.callers import Caller
from agentd.sdk import Quote, Tool

__all__ = ["Draft", "Drafts", "Foreseen"]

MENDS = 2
"""How often a draft that is wrong goes back to the model."""
SHOWN = 16
PATIENCE_S = 600.0


class Foreseeing(Protocol):
    """What can be said of calls before they are made."""

    @property
    def tools(self) -> Mapping[str, Tool]: ...
    def tainted(self, caller: Caller) -> Caller: ...
    async def foresee(self, name: str, arguments: dict[str, Any], caller: Caller) -> tuple[Quote, str, str]:
        """Quote, what the rules say of the call (allow, ask, deny), and why; starts nothing."""
        ...

    def range_of(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> tuple[str, str]:
        """What the rules say of a call whose arguments are not all known: if it takes nothing, and if all."""
        ...


class Foreseen(BaseModel):
    """One step, as far as it is known before anything runs."""

    id: str
    title: str
    tool: str
    needs: list[str] = Field(description="steps that it waits for")
    when: str = ""
    policy: str = Field(description="allow or ask; open where that takes another step's result to know")
    why: str
    quote: Quote | None = Field(description="None where it takes another step's result to know")


class Draft(BaseModel):
    """A plan, and what it would take: sums are of the steps that could be quoted."""

    plan: str = Field(description="as YAML")
    steps: list[Foreseen]
    seconds: float
    micro_usd: int
    unquoted: list[str] = Field(description="steps whose quote waits for another's result")
    asks: list[str] = Field(description="steps that a person has to approve")
    model: str = Field(default="", description="who drafted it, and for what")
    requests: list[str] = []
    spent_micro_usd: int = 0
    tokens: int = 0
    read: list[str] = Field(
        default=[], description="untrusted text that the model had before it when it drafted"
    )


class Drafts:
    """Drafts plans for goals, and looks ahead at those that people wrote."""

    def __init__(self, calls: Foreseeing, goals: Goals, ask: Ask) -> None:
        self._calls, self._goals, self._ask = calls, goals, ask

    async def draft(self, goal: str, wanted: Wanted, caller: Caller) -> Draft:
        """A checked plan for a goal. Raises `InputError` when the model brings none about in three tries."""
        if not goal.strip():
            raise InputError("The goal is empty", hint='agentd run "what is to be reached" --plan-only')
        options, drafting = self._goals.options(wanted), _Drafting(self._calls, self._goals, self._ask)
        caller = replace(caller, context=caller.context or new_id("draft"))
        await drafting.prepare(goal, options.model, round(options.limits.usd * 1e6), caller)
        for attempt in range(MENDS + 1):
            reply = await drafting.asked()
            try:
                draft = await self._look_at(drafting.read(reply), caller)
            except (ValueError, AgentdError) as error:
                if isinstance(error, Unavailable) or attempt == MENDS:
                    raise InputError(
                        f"{options.model!r} drafted no plan that holds: {error}",
                        hint="Say the goal in more detail, name another --model, or write the plan yourself",
                    ) from error
                drafting.object(reply, str(error))
                continue
            read = list(self._calls.tainted(caller).taint)
            return draft.model_copy(update={**drafting.spent(), "read": read})
        raise AssertionError("the loop returns or raises")

    async def foresee(self, plan: str, params: Mapping[str, Any], caller: Caller) -> Draft:
        """What a plan's text would take.

        Raises what is wrong with it, `Denied` where policy forbids a step, `OverBudget`.
        """
        return await self._look_at(plans.with_params(plans.parse_plan(plan, "plan"), params), caller, plan)

    async def _look_at(self, plan: Plan, caller: Caller, text: str = "") -> Draft:
        text = text or plans.as_yaml(plan)
        plans.check(plan, self._calls.tools, plan.plan, text)
        steps = [await self._foreseen(step, plan, caller) for step in plan.steps]
        quotes = [step.quote for step in steps if step.quote]
        micro_usd, left = sum(quote.micro_usd for quote in quotes), self._goals.left(caller)
        if left is not None and micro_usd > left:
            raise OverBudget(
                f"The plan takes about ${micro_usd / 1e6:.2f}, and ${left / 1e6:.2f} of the budget is left",
                hint="Leave steps out or make them smaller; agentd ledger shows what was spent",
            )
        return Draft(
            plan=text,
            steps=steps,
            seconds=sum(quote.seconds for quote in quotes),
            micro_usd=micro_usd,
            unquoted=[step.id for step in steps if step.quote is None],
            asks=[step.id for step in steps if step.policy == "ask"],
        )

    async def _foreseen(self, step: Step, plan: Plan, caller: Caller) -> Foreseen:
        waits = {path.partition(".")[0] for path in plans.references([step.args, step.each])} - {"params"}
        arguments = step.args if waits else plans.fill(step.args, {"params": plan.params})
        quote: Quote | None = None
        least, most = self._calls.range_of(step.tool, arguments, caller)
        effect, why = (least if least == most else "open"), ""
        if not waits:
            try:
                quote, effect, why = await self._calls.foresee(step.tool, arguments, caller)
            except Unavailable as error:
                if error.retry_after_s is None:
                    raise
                why = f"{error.message}: what it takes is known once that is there"
            except AgentdError as error:
                raise DataError(
                    plan.plan, error.message, field=f"steps({step.id})", hint=error.hint
                ) from error
        if effect == "deny":
            raise Denied(f"step {step.id!r}: policy denies {step.tool!r}" + (f": {why}" if why else ""))
        return Foreseen(
            id=step.id,
            title=step.title or step.id,
            tool=step.tool,
            needs=sorted(step.dependencies()),
            when=step.when,
            policy=effect,
            why=why,
            quote=quote,
        )


class _Drafting:
    """One conversation about one plan."""

    def __init__(self, calls: Foreseeing, goals: Goals, ask: Ask) -> None:
        self._calls, self._goals, self._ask = calls, goals, ask
        self._replies: list[Reply] = []

    async def prepare(self, goal: str, model: str, most: int, caller: Caller) -> None:
        """Load what plans are asked for with (pydantic-ai is slow to load), and word the request."""
        from agentd.agent.choice import ranked

        planner, wire = await asyncio.to_thread(_loaded)
        self._planner, self._goal, self._model = planner, goal, model
        tools = [self._calls.tools[name] for name in ranked(goal, self._calls.tools, SHOWN)]
        self._body: dict[str, Any] = {
            "messages": planner.messages(goal, await self._goals.situation(caller), tools)
        }
        if wire.dialect_of(self._goals.models_of(model)) == "constrained":
            schema = {"name": "plan", "schema": planner.plan_schema(tools)}
            self._body["response_format"] = {"type": "json_schema", "json_schema": schema}
        self._caller = Caller(
            f"run:{new_id('draft')}",
            "infer",
            caller.surface,
            caller.cwd,
            is_agent=True,
            project=caller.project,
            charged=caller.principal,
            allowance=most,
        )

    async def asked(self) -> str:
        patience = time.monotonic() + PATIENCE_S
        while True:
            try:
                reply = await self._ask({**self._body, "model": self._model}, self._caller)
                break
            except Unavailable as error:
                if error.retry_after_s is None or time.monotonic() > patience:
                    raise
                await asyncio.sleep(error.retry_after_s)
        self._replies.append(reply)
        return str(reply.message.get("content") or "")

    def read(self, reply: str) -> Plan:
        """Raises `NotReadable`, a `ValueError`."""
        return self._planner.plan_of(reply, self._goal)

    def object(self, reply: str, problem: str) -> None:
        """Tell the model what is wrong with its draft."""
        self._body["messages"] = [
            *self._body["messages"],
            {"role": "assistant", "content": reply},
            {"role": "user", "content": f"{problem}\nReply with the whole plan again, mended."},
        ]

    def spent(self) -> dict[str, Any]:
        return {
            "model": self._replies[-1].model,
            "requests": [reply.request for reply in self._replies],
            "spent_micro_usd": sum(reply.micro_usd for reply in self._replies),
            "tokens": sum(reply.input_tokens + reply.output_tokens for reply in self._replies),
        }


def _loaded() -> Sequence[Any]:
    from agentd.agent import planner, wire

    return planner, wire
