"""The one way a tool is called, from every surface.

validate → preflight and quote (the tool itself) → policy → approval → job. A tool that answers at
once is decided about before it runs; one that launches is decided about with its quote in hand,
after its own checks, so that nobody is asked to approve what could not work. What a job would
be is bound once when it is decided about, and looked at again when it is about to start. What an
answer may have carried into its caller's context is written down before the caller has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import inspect
import logging
from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from agentd.binder import Binder
from agentd.context import Context, Offer
from agentd.errors import (
    AgentdError,
    Conflict,
    Denied,
    InputError,
    NeedsApproval,
    NotFound,
    Unavailable,
)
from agentd.jobs import snapshot
from agentd.jobs.recipes import digest_recipe, find_recipe
from agentd.jobs.runner import Jobs
from agentd.policy import bindings, taint
from agentd.policy.approvals import Approvals
from agentd.policy.bindings import COST, DIGEST, RULES, Binding
from agentd.policy.callers import Caller
from agentd.policy.digests import digest_tree, digest_value
from agentd.policy.prices import Prices
from agentd.policy.quotes import Quotes
from agentd.policy.rules import DAYS, Call, Decision, RuleSet, decide
from agentd.redaction import refuse_secrets
from agentd.sdk import Finished, JobView, Launch, Quote, ServiceView, Tool
from agentd.store import Store
from agentd.store.approvals import Approval
from agentd.store.jobs import JobRow, JobTable
from agentd.store.journal import Journal
from agentd.store.ledger import Ledger
from agentd.store.taints import TaintTable

__all__ = ["Calls"]

ANSWER_WITHIN_S = 1.5
RESTART_PAUSE_S = 20.0
GPUS = {("gpu", "cuda"), ("gpu", "rocm")}
"""What counts as what was asked for."""

log = logging.getLogger(__name__)


class Locking(Protocol):
    """What identifies the environment a recipe runs in."""

    async def digest(self, recipe: Path) -> str: ...


class Calls:
    """Every tool, and the steps of a call."""

    def __init__(
        self,
        tools: Mapping[str, Tool],
        offer: Offer,
        store: Store,
        table: JobTable,
        jobs: Jobs,
        approvals: Approvals,
        ledger: Ledger,
        journal: Journal,
        rules: RuleSet,
        prices: Prices,
        quotes: Quotes,
        locking: Locking,
        room: Callable[[str, int], None],
    ) -> None:
        self.tools = tools
        self._offer, self._store, self._table, self._jobs = offer, store, table, jobs
        self._approvals, self._ledger, self._journal = approvals, ledger, journal
        self._rules, self._quotes, self._locking = rules, quotes, locking
        self._room = room
        self.taints = TaintTable(store)
        self._binder = Binder(tools, offer, rules, prices)
        self._admissions: set[asyncio.Task[None]] = set()
        jobs.finish, jobs.bind, jobs.ask_again = self._finish, self._binder.bind, self._ask_again

    # --- calling ----------------------------------------------------------------------------

    async def call(self, name: str, arguments: dict[str, Any], caller: Caller, *, key: str = "") -> BaseModel:
        """Call a tool. Launching ones answer with a `JobView`, at once. Raises the `AgentdError` tree.

        The same `key` by the same principal is the same call: a launch is found again, other
        arguments are refused. What it answers taints the caller's context, if it is not to be trusted.
        """
        tool, caller = self._tool(name), self.tainted(caller)
        with self._reading(tool, caller):
            answer = await self._call(tool, arguments, caller, key)
            self.saw(caller, answer, tool)
        return answer

    async def _call(self, tool: Tool, arguments: dict[str, Any], caller: Caller, key: str) -> BaseModel:
        name, checked = tool.name, self._validate(tool, arguments)
        if key and (known := self._known(tool, arguments, caller, key)) is not None:
            return known if tool.launches else _answer_of(tool, known)
        if not tool.launches:
            return await self._answer(tool, checked, arguments, caller, key)
        outcome = await self._handle(tool, checked, caller)
        if key and (known := self._known(tool, arguments, caller, key)) is not None:
            return known  # the same call came in again while the tool was looking at the first
        if isinstance(outcome, JobView):
            return outcome
        if not isinstance(outcome, Launch):
            return JobView(id="", tool=name, title=tool.title, state="succeeded", result=_plain(outcome))
        row = self._submit(tool.name, outcome, caller, arguments=arguments, key=key)
        await self._settle_in(row.id)
        return self._jobs.get(row.id)

    async def quote(self, name: str, arguments: dict[str, Any], caller: Caller) -> Quote:
        """What a call would take. Checks everything the call itself would check; starts nothing."""
        tool, caller = self._tool(name), self.tainted(caller)
        checked = self._validate(tool, arguments)
        if not tool.launches:
            return Quote(basis="answers at once")
        with self._reading(tool, caller):
            outcome = await self._handle(tool, checked, caller)
        if not isinstance(outcome, Launch):
            return Quote(basis="is there already")
        self._check_launch(name, outcome)
        return self._quotes.of(name, outcome).quote

    async def foresee(self, name: str, arguments: dict[str, Any], caller: Caller) -> tuple[Quote, str, str]:
        """Quote, what the rules say of the call (allow, ask, deny), and why. Starts nothing, tells nobody."""
        tool, caller, launch, quote = self._tool(name), self.tainted(caller), None, Quote()
        checked = self._validate(tool, arguments)
        if tool.launches:
            with self._reading(tool, caller):
                outcome = await self._handle(tool, checked, caller)
            if not isinstance(outcome, Launch):
                return Quote(basis="is there already"), "allow", "it is there already"
            self._check_launch(name, outcome)
            corrected = self._quotes.of(name, outcome)
            launch, quote = self._stored(corrected), corrected.quote
        elif tool.on_check is not None:
            await tool.on_check(self.context(caller), **checked)
        decision = decide(self._rules, self._as_call(name, arguments, caller, launch, quote))
        return quote, decision.effect, decision.why

    def range_of(self, name: str, arguments: Mapping[str, Any], caller: Caller) -> tuple[str, str]:
        """What the rules say of a call whose arguments are not all known: if it takes nothing, and if all."""
        least = self._as_call(name, arguments, self.tainted(caller), None, Quote())
        least = least.model_copy(update={"launches": self._tool(name).launches})
        most = least.model_copy(update={"max_micro_usd": 10**12, "hours": 1e6} if least.launches else {})
        return decide(self._rules, least).effect, decide(self._rules, most).effect

    # --- what callers have read ---------------------------------------------------------------

    def saw(self, caller: Caller, answer: BaseModel, tool: Tool | None = None) -> tuple[str, ...]:
        """Note what `answer`, of `tool` or a job's view, carries into the caller's context; returns it.

        Whoever hands a model a job's result or reason without a call has to tell it here first.
        """
        sources = taint.sources_of(answer, tool, self.tools, self._led_by)
        if caller.context and sources:
            self.taints.add(caller.context, sources)
        return sources

    @contextlib.contextmanager
    def _reading(self, tool: Tool, caller: Caller) -> Generator[None]:
        """What goes wrong in a tool is told in words that may not be its own."""
        try:
            yield
        except (NeedsApproval, Denied):
            raise
        except AgentdError:
            if caller.context and tool.trusted is not True:
                self.taints.add(caller.context, [tool.name])
            raise

    def _led_by(self, job_id: str) -> tuple[str, ...]:
        """What those had read who asked for a job."""
        row = self._table.find(job_id)
        return tuple(row.taint) if row else ()

    def tainted(self, caller: Caller) -> Caller:
        """The caller with what is in its context by now."""
        known = self.taints.of(caller.context) if caller.context else ()
        return replace(caller, taint=taint.joined(caller.taint, known)) if known else caller

    def context(self, caller: Caller) -> Context:
        return Context(self, self._offer, self._jobs, caller)

    async def aclose(self) -> None:
        """Stop deciding; what is queued is decided about at the next start."""
        admissions = list(self._admissions)
        for task in admissions:
            task.cancel()
        await asyncio.gather(*admissions, return_exceptions=True)

    def recover(self) -> None:
        """Go on with the calls that were accepted or answered just before the last daemon ended."""
        for row in reversed(self._table.list(state="queued", limit=10_000)):  # in the order they came in
            approval = self._approvals.of_job(row.id)
            if approval is None or approval.state == "expired":  # or it was being asked about again
                self._admit_later(row.id)
            else:
                self._jobs.start(row.id)
        for row in self._table.list(state="waiting_approval", limit=10_000):
            approval = self._approvals.of_job(row.id)
            if approval is not None and approval.state != "pending":
                self._approvals.on_decided(approval)
            elif approval and (why := self._approvals.outdated(approval, self._binder.around(row.launch))):
                self._ask_again(row.id, why)

    # --- before -----------------------------------------------------------------------------

    def _tool(self, name: str) -> Tool:
        if name not in self.tools:
            raise NotFound("tool", name, self.tools)
        return self.tools[name]

    def _validate(self, tool: Tool, arguments: Mapping[str, Any]) -> dict[str, Any]:
        try:
            checked = tool.arguments.model_validate(dict(arguments))
        except ValidationError as error:
            problems = [f"{'.'.join(map(str, p['loc']))}: {_said(p, tool)}" for p in error.errors()]
            raise InputError(f"{tool.name} cannot be called like this: {'; '.join(problems)}") from error
        refuse_secrets(f"The call of {tool.name}", arguments)
        return {name: getattr(checked, name) for name in tool.arguments.model_fields}

    def _known(self, tool: Tool, arguments: Mapping[str, Any], caller: Caller, key: str) -> JobView | None:
        row = self._store.row(
            "SELECT call, job FROM keys WHERE principal = ? AND key = ?", [caller.principal, key]
        )
        if row is None:
            return None
        if row["call"] != digest_value([tool.name, arguments]):
            raise Conflict(f"The key {key!r} was used for another call", hint="Use a new key for a new call")
        return self._jobs.get(row["job"])

    def job_of(self, caller: Caller, key: str) -> str:
        """The job that stands for the call with that key; empty when there is none."""
        row = self._store.row("SELECT job FROM keys WHERE principal = ? AND key = ?", [caller.principal, key])
        return row["job"] if row else ""

    async def _handle(self, tool: Tool, checked: Mapping[str, Any], caller: Caller) -> Any:
        return await tool.handler(self.context(caller), **checked)

    async def _answer(
        self, tool: Tool, checked: Mapping[str, Any], arguments: dict[str, Any], caller: Caller, key: str
    ) -> BaseModel:
        """A tool that answers at once: decided about first, then run."""
        decision = self._decide(tool.name, arguments, caller, None)
        if decision.effect == "ask":
            if tool.on_check is not None:
                await tool.on_check(self.context(caller), **checked)
            raise await self._ask_first(tool, arguments, caller, decision, key)
        if not tool.read_only and self._approvals.any_denied:
            files = await self._binder.files_named(arguments, caller.cwd)
            action = self._binder.action(tool.name, arguments, caller.cwd, None, files)
            self._approvals.refuse_if_denied(action.digest)
        return tool.result.model_validate(_plain(await self._handle(tool, checked, caller)))

    async def _ask_first(
        self, tool: Tool, arguments: dict[str, Any], caller: Caller, decision: Decision, key: str
    ) -> NeedsApproval:
        files = await self._binder.files_named(arguments, caller.cwd)
        with self._store.transaction():
            row = self._table.add(
                tool=tool.name,
                title=tool.title,
                state="waiting_approval",
                principal=caller.principal,
                role=caller.role,
                surface=caller.surface,
                cwd=str(caller.cwd),
                project=caller.project,
                taint=caller.taint,
                arguments=arguments,
                quote=Quote().model_dump(),
            )
            self._remember(key, tool.name, arguments, row)
            approval = self._record(row, decision, self._binder.bound(row, files))
        return NeedsApproval(
            f"{tool.title}: a person has to approve this ({decision.why})",
            job_id=row.id,
            approval_id=approval.id,
            hint=f"A person answers: {self._approvals.way(approval.id)}. It is then carried out as {row.id}",
        )

    def _decide(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, launch: Mapping[str, Any] | None,
        quote: Quote = Quote(),  # noqa: B008 - it is frozen
    ) -> Decision:  # fmt: skip
        """What the rules say; `launch` is one as stored. Raises `Denied`, and journals it."""
        call = self._as_call(name, arguments, caller, launch, quote)
        decision = decide(self._rules, call)
        if decision.effect == "deny":
            self._journal.append(
                "call.denied", call.tool, caller.principal, rule=decision.rule, surface=caller.surface
            )
            raise Denied(
                f"Policy denies {call.tool!r}: {decision.why}",
                hint=f"Choose another rule set, or mend rule {decision.rule!r} of {self._rules.name!r}",
            )
        return decision

    def _as_call(
        self, name: str, arguments: Mapping[str, Any], caller: Caller, launch: Mapping[str, Any] | None,
        quote: Quote,
    ) -> Call:  # fmt: skip
        """A call as the rules see it."""
        tool, now = self.tools.get(name), datetime.datetime.now().astimezone()
        return Call(
            tool=name,
            arguments=self._binder.with_defaults(name, arguments),
            principal=caller.principal,
            role=caller.role,
            surface=caller.surface,
            read_only=bool(tool and tool.read_only),
            open_world=bool(tool and tool.open_world),
            outward=bool(tool and tool.outward),
            launches=launch is not None,
            quote=quote,
            max_micro_usd=self._binder.most(launch),
            hours=launch["timeout_s"] * launch.get("attempts", 1) / 3600 if launch else 0.0,
            remaining_micro_usd=self._ledger.remaining(caller.payer),
            time=now.time(),
            day=DAYS[now.weekday()],
            taint=caller.taint,
        )

    # --- launching --------------------------------------------------------------------------

    def _submit(
        self, name: str, launch: Launch, caller: Caller, *, arguments: dict[str, Any], key: str = ""
    ) -> JobRow:
        """Make the call durable as a queued job; what it needs decided is decided in the background."""
        self._check_launch(name, launch)
        estimate, launch = launch.quote, self._quotes.of(name, launch)
        stored = self._stored(launch)
        self._decide(name, arguments, caller, stored, launch.quote)
        self._ledger.check(name, caller.payer, self._binder.most(stored))
        with self._store.transaction():
            row = self._table.add(
                tool=name,
                title=launch.title,
                state="queued",
                principal=caller.principal,
                role=caller.role,
                surface=caller.surface,
                cwd=str(caller.cwd),
                project=caller.project,
                taint=caller.taint,
                arguments=arguments,
                launch=stored,
                quote=launch.quote.model_dump(),
                estimate=estimate.model_dump(),
                timing_key=str(launch.spec.get("timing_key", "")),
                serves=list(launch.service.serves) if launch.service else None,
            )
            self._remember(key, name, arguments, row)
            self._journal.append("job.queued", row.id, caller.principal, tool=name, surface=caller.surface)
        self._admit_later(row.id)
        return row

    def _stored(self, launch: Launch) -> dict[str, Any]:
        """A launch as it lies in the table of jobs."""
        recipe = find_recipe(self._offer.plugins, launch.recipe)
        stored = {
            **asdict(launch),
            "inputs": {k: str(v) for k, v in launch.inputs.items()},
            "needs": list(launch.needs),
            "secrets": list(launch.secrets),
            "service": launch.service.model_dump() if launch.service else None,
            "quote": None,
            "spec": dict(launch.spec),
            "env": dict(launch.env),
            "recipe_path": str(recipe),
            "recipe_digest": digest_recipe(recipe),
        }
        return stored | {"max_micro_usd": self._binder.each(stored)}

    def _check_launch(self, name: str, launch: Launch) -> None:
        """What no approval could mend. Raises `InputError`, `Unavailable`, `DiskFull`."""
        if launch.attempts < 1:
            raise InputError(f"{name} asks for {launch.attempts} attempts", hint="At least one")
        here = self._offer.accelerator
        if launch.accelerator and here != launch.accelerator and (launch.accelerator, here) not in GPUS:
            raise Unavailable(
                f"{name} needs an accelerator ({launch.accelerator}), and this machine has none of the kind"
                f" (it has: {here})",
                hint="'agentd doctor' shows what is there",
            )
        self._room(launch.title, launch.quote.disk_bytes)

    def _remember(self, key: str, name: str, arguments: Mapping[str, Any], row: JobRow) -> None:
        """Let `key` stand for this call from now on."""
        if key:
            self._store.insert(
                "keys",
                {
                    "principal": row.principal,
                    "key": key,
                    "job": row.id,
                    "at": self._store.now(),
                    "call": digest_value([name, arguments]),
                },
            )

    def _admit_later(self, job_id: str) -> None:
        task = asyncio.create_task(self._admit(job_id), name=f"admit {job_id}")
        self._admissions.add(task)
        task.add_done_callback(self._admissions.discard)

    def _ask_again(self, job_id: str, why: str) -> None:
        """Put a job to the rules once more: what had been decided does not stand any more."""
        row = self._jobs.row(job_id)
        if row.ended:
            return
        with self._store.transaction():
            if (approval := self._approvals.of_job(job_id)) is not None:
                self._approvals.void(approval, why)
            if row.launch is not None:
                each = self._binder.each(row.launch)
                self._table.update(job_id, launch={**row.launch, "max_micro_usd": each})
            self._jobs.requeue(job_id)
        self._admit_later(job_id)

    async def _admit(self, job_id: str) -> None:
        """Fix the parts of what would run, and put it to policy."""
        try:
            row = await self._fixed(self._jobs.row(job_id))
            binding, before = await self._binder.bind(row), self._approvals.of_job(job_id)
            self._refuse_changes(row, binding, before)
            caller = _caller_of(row)
            decision = self._decide(row.tool, row.arguments, caller, row.launch, row.quote)
            if before is not None:
                self._ledger.check(row.tool, row.payer, binding.most)
            with self._store.transaction():
                self._table.update(row.id, launch=row.launch)
                approval = self._record(row, decision, binding, before)
                if decision.effect == "ask":
                    self._jobs.ask(row.id)
                else:
                    self._table.update(row.id, decided_by=approval.decided_by)
            if decision.effect == "allow":
                self._jobs.start(row.id)
        except Exception as error:  # noqa: BLE001 - it ends the job, and is logged if it is ours
            self._jobs.fail(job_id, error)

    async def _fixed(self, row: JobRow) -> JobRow:
        """The job, its launch with the environment and the inputs there are now."""
        if row.launch is None:
            return row
        environment = await self._locking.digest(Path(row.launch["recipe_path"]))
        inputs = await asyncio.to_thread(
            snapshot.digest_inputs, row.launch["inputs"], self._offer.artifacts.list()
        )
        launch = {**row.launch, "input_digests": inputs, "environment": environment}
        return row.model_copy(update={"launch": launch})

    def _refuse_changes(self, row: JobRow, binding: Binding, before: Approval | None) -> None:
        """A job that is asked about again must be the same action, but for the rules and its price."""
        was = Binding.model_validate(before.bound) if before else Binding()
        changed = [name for name in was.changed(binding) if name not in (RULES, COST, DIGEST)]
        if before and was.action and changed:
            raise Conflict(
                f"{row.id} is not asked about again: {bindings.listed(changed)} changed since {before.id}",
                hint="Start it again",
            )

    def _record(
        self, row: JobRow, decision: Decision, binding: Binding, before: Approval | None = None
    ) -> Approval:
        """Bind the decision to what would run. Raises `Denied` when a person denied the same lately."""
        self._approvals.refuse_if_denied(binding.digest)
        binding = bindings.recorded(binding)
        launch = row.launch or {}
        facts: dict[str, Any] = {
            "tool": row.tool,
            "title": row.title,
            "arguments": row.arguments,
            "rules": self._rules.name,
            "why": decision.why,
        }
        if launch:
            facts |= {
                "quote": row.quote.model_dump(),
                "max_micro_usd": binding.most,
                "timeout_s": launch["timeout_s"],
                "attempts": launch.get("attempts", 1),
                "recipe": launch["recipe"],
                "recipe_digest": launch["recipe_digest"],
                "inputs": launch["input_digests"],
                "environment": launch["environment"],
            }
        if row.taint:
            facts["taint"] = list(row.taint)
        if before is not None:
            facts["again"] = {"after": before.id, "because": before.reason}
        self._table.update(row.id, digest=binding.digest)
        return self._approvals.record(
            decision, job=row.id, action=row.title, binding=binding, facts=facts, by=row.principal
        )

    async def _settle_in(self, job_id: str) -> None:
        """Give a new job a moment to be decided about, so that the answer can say what was decided."""
        pending = [task for task in self._admissions if task.get_name() == f"admit {job_id}"]
        if pending:
            await asyncio.wait(pending, timeout=ANSWER_WITHIN_S)

    # --- after ------------------------------------------------------------------------------

    async def _finish(self, row: JobRow, finished: Finished) -> dict[str, Any]:
        """What a succeeded job's tool makes of it."""
        caller = _caller_of(row)
        tool = self.tools.get(row.tool)
        if row.launch is None:
            assert tool is not None
            return _plain(await self._handle(tool, self._validate(tool, row.arguments), caller))
        if tool is None or tool.on_done is None:
            return dict(finished.result)
        # The tool digests what it keeps, on this loop; what was read before is not read again.
        with contextlib.suppress(AgentdError, OSError):
            await asyncio.to_thread(digest_tree, finished.out, still=True)
        with self._store.transaction():  # one that fails half-way has registered nothing
            answer = tool.on_done(self.context(caller), finished)
        return _plain(await answer if inspect.isawaitable(answer) else answer)

    # --- services ---------------------------------------------------------------------------

    async def ensure(self, name: str, launch: Launch, caller: Caller) -> ServiceView | None:
        """The service `name`, launched when there is none; None while it starts. Raises what stops it.

        What the caller has read does not taint it: the tool that needs it decides what it is.
        """
        if launch.service is None:
            raise InputError(f"The launch of {name!r} has no service to keep")
        found = self._jobs.services.find(name)
        if found is not None:
            if found.ready:
                self._jobs.services.touch(found.job_id)
            return found if found.ready else None
        last = next((job for job in self._jobs.list(limit=200) if job.tool == name), None)
        broke = last is not None and last.state in ("failed", "timed_out", "lost")
        if last and broke and abs(self._store.now() - (last.ended_at or 0)) < RESTART_PAUSE_S:
            raise Unavailable(
                f"The {name} could not be started: {last.reason}", hint=f"See: agentd jobs {last.id} --logs"
            )
        serves = tuple(dict.fromkeys((name, *launch.service.serves)))  # or it would not be found again
        service = launch.service.model_copy(update={"serves": serves})
        untainted = replace(caller, taint=(), context="")
        self._submit(name, replace(launch, service=service), untainted, arguments={})
        return None


def _caller_of(row: JobRow) -> Caller:
    """Whoever asked for a job, as its agent from now on."""
    return Caller(
        row.principal, row.role, row.surface, row.cwd, is_agent=True, project=row.project, taint=row.taint
    )


def _answer_of(tool: Tool, job: JobView) -> BaseModel:
    """What became of a call that answers at once and was held for a person."""
    if job.state == "succeeded":
        return tool.result.model_validate(job.result)
    if job.ended:
        kind = Denied if job.state == "cancelled" else AgentdError
        raise kind(f"{tool.title} ({job.id}) {job.state}: {job.reason}")
    raise NeedsApproval(
        f"{tool.title}: a person has to approve this",
        job_id=job.id,
        approval_id=job.approval or "",
        hint=job.next,
    )


def _plain(value: Any) -> dict[str, Any]:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else dict(value)


def _said(problem: Mapping[str, Any], tool: Tool) -> str:
    name = str(problem["loc"][0]) if problem["loc"] else ""
    if problem["type"] == "missing":
        return "is needed"
    if problem["type"] == "extra_forbidden":
        return str(NotFound("argument", name, tool.arguments.model_fields))
    return f"{problem['msg']} (it says {problem['input']!r})"
