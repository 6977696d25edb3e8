"""Aliases on their way to another model, moved and turned back by what is seen of their requests.

Told of every request that has ended, it keeps the tests of `sequential` up to date and, now and then, asks
`stages` what to do. Alias, rollout and journal change in one transaction. No model is asked, no text
kept.

A daemon that is killed forgets what it saw in its last seconds, and never in which stage an alias is.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from agentd.errors import AgentdError, Conflict, InputError, NotFound
from agentd.ids import new_id
from agentd.router import judging
from agentd.router import stages as staged
from agentd.router.catalog import Catalog
from agentd.router.decide import Need, refusal
from agentd.router.sequential import Spread
from agentd.router.stages import Plan, Stage, Watched
from agentd.router.texts import measures
from agentd.sdk import Alias, Rollout, RolloutLimits
from agentd.store import Store
from agentd.store.journal import Journal
from agentd.store.requests import RequestRow
from agentd.store.rollouts import RolloutRow, RolloutTable

__all__ = ["NO_TRAFFIC", "Live", "Rollouts"]

LEFT = ("CancelledError", "GeneratorExit")
"""How a request ends whose client went away: nobody's error."""
NO_TRAFFIC = ("job:", "judge:")
"""Who asks for measuring's sake: rows of a suite, and answers to be judged."""
JUDGING = Need("chat/completions", 0, 0, frozenset({"json_schema"}))
MOST_SAMPLES, LONGEST_SAMPLE = 100, 1000
SHOWN_S = 7 * 86_400.0
KERNEL = "daemon"
ERRORS = "errors"

Verdict = Callable[[Plan, str], Awaitable[str]]
"""Why the evidence does not hold any more (of a plan, for a model); empty while it does."""


@dataclass(slots=True)
class Live:
    """A rollout that is watched, as it is in memory."""

    row: RolloutRow
    plan: Plan
    watched: Watched

    @property
    def stage(self) -> Stage:
        return self.plan.stages[self.row.stage]

    def arm(self, model: str) -> bool | None:
        """True for the candidate, False for an incumbent, None for anybody else."""
        if model == self.row.model:
            return True
        return False if model in self.plan.before.weights else None


class Rollouts:
    """Also the `sdk.Rollouts` that tools are handed."""

    def __init__(
        self, store: Store, catalog: Catalog, journal: Journal, verdict: Verdict,
        clock: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self._store, self._table, self._catalog, self._journal = store, RolloutTable(store), catalog, journal
        self._verdict, self._clock = verdict, clock
        self._changed: set[str] = set()
        self._alarmed: asyncio.TimerHandle | asyncio.Handle | None = None
        self._live = {row.alias: _live(row) for row in self._table.live()}

    # --- what tools are handed --------------------------------------------------------------

    def list(self) -> list[Rollout]:
        """Those that are watched, and those that ended lately; newest first."""
        since = self._clock() - SHOWN_S
        rows = [row for row in self._table.list() if row.ended_at is None or row.ended_at >= since]
        return [self._view(self._live_of(row)) for row in rows]

    def check(self, alias: str, model: str, *, stages: str = "", force: bool = False) -> None:
        """Raise why the alias cannot move to the model now. `InputError`, `Conflict`, `NotFound`."""
        if stages:
            staged.parsed(stages)
            self._incumbents(alias, model)
        running = self._live.get(alias)
        if running and running.row.state == "running" and (stages or not force):
            raise Conflict(
                f"{alias!r} is on its way to {running.row.model!r} ({running.row.id}, {running.stage})",
                hint=f"Wait, or end it: agentd call promote alias={alias} step=abort because=…",
            )
        last = None if force else self._table.last(alias, model, "rolled_back")
        if last is not None and last.ended_at is not None:
            plan = Plan.model_validate(last.plan)
            left_s = last.ended_at + plan.limits.cool_down_hours * 3600 - self._clock()
            if left_s > 0 and plan.digest == self._catalog.get(model).digest:
                raise Conflict(
                    f"{alias!r} went back from {model!r} lately: {last.why}",
                    hint=f"Try again in {left_s / 3600:.1f} h, or say force=true and because",
                )

    def start(
        self,
        alias: str,
        model: str,
        stages: str,
        limits: RolloutLimits,
        *,
        why: str,
        by: str,
        evidence: Mapping[str, Any],
        inputs: Sequence[str] = (),
        approve: Literal["start", "each"] = "start",
        judge: Mapping[str, Any] | None = None,
    ) -> Rollout:
        """Begin the first stage. Raises `InputError`, or `Conflict` while another one of the alias runs."""
        running = self._live.get(alias)
        if running is not None and running.row.state == "running":
            self.check(alias, model, stages=stages)
        before = self._incumbents(alias, model)
        if judge is not None:
            self._check_judge(before, judge)
        samples = tuple(text[:LONGEST_SAMPLE] for text in inputs[:MOST_SAMPLES]) if limits.drift else ()
        plan = Plan(
            samples=samples,
            stages=staged.parsed(stages), limits=limits, before=before, why=why, approve=approve,
            digest=self._catalog.get(model).digest, judge=dict(judge) if judge else None, **evidence,
        )  # fmt: skip
        spreads = _spreads(inputs) if limits.drift else {}
        now = self._clock()
        row = RolloutRow(
            id=new_id("rol"), alias=alias, model=model, state="running", stage=0,
            plan=plan.model_dump(mode="json"), why=why, waits=False, principal=by,
            watched=staged.started(plan, spreads).model_dump(mode="json"), started_at=now, stage_at=now,
        )  # fmt: skip
        live = _live(row)
        with self._store.transaction():
            if running is not None:
                self._end(running, "superseded", f"{row.id} begins", by)
            self._set_alias(live)
            self._table.add(row)
            self._journal.append(
                "rollout.started", alias, by, rollout=row.id, model=model, stage=str(live.stage),
                stages=[str(each) for each in plan.stages], limits=limits.model_dump(), reason=why,
            )  # fmt: skip
        self._live[alias] = live
        return self._view(live)

    async def proceed(self, alias: str, *, by: str, because: str = "", force: bool = False) -> Rollout:
        """Begin the next stage, if its gate lets it; with `force` in any case. Raises `InputError`."""
        live = self._running(alias)
        if live.row.state == "done":
            raise InputError(f"{live.row.id} has no further stage: {alias!r} is at full")
        if force and not because:
            raise InputError("A forced step needs a reason", hint="Say why in because")
        lacks = [] if force else await self._lacks(live)
        if lacks:
            raise InputError(
                f"{live.row.id} stays at {live.stage}: it waits for {'; '.join(lacks)}",
                hint="Wait, or say force=true and because",
            )
        if self._live.get(alias) is live:
            self._advance(live, f"forced: {because}" if force else because or "its gate was passed", by)
        return self._view(live)

    def abort(self, alias: str, *, by: str, because: str) -> Rollout:
        """Set the alias back to what it was. Raises `NotFound`, or `InputError` without a reason."""
        if not because:
            raise InputError("Ending a rollout needs a reason", hint="Say why in because")
        live = self._running(alias)
        self._back(live, "aborted", because, by)
        return self._view(live)

    def supersede(self, alias: str, *, by: str, because: str) -> None:
        """Stop watching, if anything is: the alias is about to be moved by other means."""
        if (live := self._live.get(alias)) is not None:
            self._end(live, "superseded", because, by)

    # --- what is told of requests -----------------------------------------------------------

    def of(self, alias: str) -> Live | None:
        return self._live.get(alias)

    def shadowed(self, row: RequestRow) -> str:
        """The alias whose candidate was asked unseen; empty for any other request."""
        alias = row.principal.removeprefix("shadow:")
        live = self._live.get(alias) if alias != row.principal else None
        return alias if live is not None and row.asked == live.row.model else ""

    def observe(self, row: RequestRow) -> None:
        """A request has ended. Jobs do not count: rows of a suite are no traffic."""
        if not self._live or row.principal.startswith(NO_TRAFFIC) or row.trace.get("cached"):
            return
        shadowed = self.shadowed(row)
        live = self._live.get(shadowed or row.asked)
        chosen = str(row.trace.get("chosen", ""))
        if live is None or not chosen or (arm := live.arm(chosen)) is None:
            return
        tries = [each for each in row.trace.get("attempts", ()) if each["model"] == chosen]
        if (tries[-1]["status"] if tries else row.status).partition(":")[0] in LEFT:
            return
        answered = bool(tries) and tries[-1]["status"] == "ok"
        guards = live.watched.guards
        guards[ERRORS].see(0.0 if answered else 1.0, candidate=arm)
        if answered:
            if (seconds := guards.get("seconds")) is not None:
                seconds.see(tries[-1]["seconds"], candidate=arm)
            live.watched.costs[0 if arm else 1].see(sum(each["micro_usd"] for each in tries))
        self._noted(live)

    def saw(self, alias: str, name: str, value: float, model: str) -> None:
        """An outcome of another guard: what a judge or a user said of an answer by `model`."""
        live = self._live.get(alias)
        if live is None or name not in live.watched.guards or (arm := live.arm(model)) is None:
            return
        live.watched.guards[name].see(value, candidate=arm)
        self._noted(live)

    def read(self, alias: str, text: str) -> None:
        """What was asked of an alias; only measures of it are kept."""
        live = self._live.get(alias)
        if live is None or not live.watched.spreads:
            return
        for name, value in measures(text).items():
            if (spread := live.watched.spreads.get(name)) is not None:
                spread.see(value)
        self._noted(live)

    def _noted(self, live: Live) -> None:
        self._changed.add(live.row.alias)
        if self._alarmed is None and staged.alarm(live.plan, live.watched):
            self._alarmed = asyncio.get_running_loop().call_soon(self._turn_back)

    def _turn_back(self) -> None:
        """Go back wherever something alarms."""
        self._alarmed = None
        for live in list(self._live.values()):
            if why := staged.alarm(live.plan, live.watched):
                self._back(live, "rolled_back", why, KERNEL)

    # --- what is done now and then ----------------------------------------------------------

    async def look(self) -> None:
        """Go back where something alarms, go on where the gate lets it, and write down what was seen."""
        self._turn_back()
        for live in list(self._live.values()):
            model = self._catalog.models.get(live.row.model)
            if not self._is_ours(live):
                self._end(live, "superseded", "the alias was changed by other means", KERNEL)
            elif model is None or model.digest != live.plan.digest:
                self._back(live, "rolled_back", "the model is not the one that was measured", KERNEL)
            elif live.row.state == "running":
                await self._consider(live)
        self.save()

    def save(self) -> None:
        """Write down what was seen since the last time."""
        if not self._changed:
            return
        with self._store.transaction():
            for alias in self._changed & self._live.keys():
                live = self._live[alias]
                self._table.update(live.row.id, watched=live.watched.model_dump(mode="json"))
        self._changed.clear()

    async def _consider(self, live: Live) -> None:
        lacks = await self._lacks(live)
        if self._live.get(live.row.alias) is not live:
            return  # it was ended while the evidence was looked at
        if not lacks and live.plan.approve == "each":
            self._tell_waiting(live, [_person(live.row.alias)])
        elif not lacks:
            self._advance(live, "its gate was passed", KERNEL)
        elif self._clock() - live.row.stage_at > live.plan.limits.hours * 3600:
            self._tell_waiting(live, lacks)

    async def _lacks(self, live: Live) -> list[str]:
        """What keeps a rollout where it is."""
        lacks = staged.missing(live.plan, live.watched, live.stage)
        if not lacks and live.plan.report and (why := await self._verdict(live.plan, live.row.model)):
            return [f"evidence that holds: {why}"]
        return lacks

    def _tell_waiting(self, live: Live, lacks: Sequence[str]) -> None:
        """Once a stage."""
        if live.row.waits:
            return
        live.row.waits = True
        with self._store.transaction():
            self._table.update(live.row.id, waits=True)
            self._journal.append(
                "rollout.waiting", live.row.alias, KERNEL, rollout=live.row.id, model=live.row.model,
                stage=str(live.stage), reason="; ".join(lacks),
            )  # fmt: skip

    # --- moving -----------------------------------------------------------------------------

    def _advance(self, live: Live, why: str, by: str) -> None:
        row, last = live.row, live.row.stage == len(live.plan.stages) - 1
        seen = staged.progress(live.watched)
        was = row.model_copy()
        row.why, row.waits, row.stage_at = why, False, self._clock()
        if last:
            row.state = "done"
        else:
            row.stage += 1
            staged.enter(live.watched, live.stage)
        try:
            with self._store.transaction():
                if not last:
                    self._set_alias(live)
                self._table.update(
                    row.id, state=row.state, stage=row.stage, stage_at=row.stage_at, why=why, waits=False,
                    watched=live.watched.model_dump(mode="json"),
                )  # fmt: skip
                self._journal.append(
                    "rollout.done" if last else "rollout.stage", row.alias, by, rollout=row.id,
                    model=row.model, stage=str(live.stage), seen=seen, reason=why,
                )  # fmt: skip
        except AgentdError:
            live.row = was
            raise

    def _back(self, live: Live, state: Literal["rolled_back", "aborted"], why: str, by: str) -> None:
        """The alias as it was, unless somebody else has moved it since."""
        with self._store.transaction():
            if self._is_ours(live):
                self._catalog.set_alias(live.plan.before)
            self._end(live, state, why, by)

    def _end(
        self, live: Live, state: Literal["rolled_back", "aborted", "superseded"], why: str, by: str
    ) -> None:
        now = self._clock()
        with self._store.transaction():
            self._table.update(
                live.row.id, state=state, why=why, ended_at=now, watched=live.watched.model_dump(mode="json")
            )
            self._journal.append(
                f"rollout.{state}", live.row.alias, by, rollout=live.row.id, model=live.row.model,
                stage=str(live.stage), seen=staged.progress(live.watched), reason=why,
            )  # fmt: skip
        live.row.state, live.row.why, live.row.ended_at = state, why, now
        if self._live.get(live.row.alias) is live:
            del self._live[live.row.alias]

    def _set_alias(self, live: Live) -> None:
        self._catalog.set_alias(self._alias(live))

    def _is_ours(self, live: Live) -> bool:
        """Whether the alias is still what this rollout made of it."""
        there, ours = self._catalog.alias(live.row.alias), self._alias(live)
        return there is not None and there.model_copy(update={"reason": ours.reason}) == ours

    def _alias(self, live: Live) -> Alias:
        said = f"{live.row.id}, {live.stage}: {live.plan.why}"
        return staged.alias_at(live.plan, live.row.model, live.stage, said)

    # --- parts ------------------------------------------------------------------------------

    def _incumbents(self, alias: str, model: str) -> Alias:
        """The alias that is to be moved. Raises `InputError` where stages have nothing to move."""
        before = self._catalog.alias(alias)
        if before is None:
            raise InputError(
                f"{alias!r} is no alias yet, so that nobody is there to compare with",
                hint="Point it at a model first: force=true and because, without stages",
            )
        if self._catalog.is_configured(alias):
            raise InputError(f"Alias {alias!r} is defined in the config file", hint="Change it there")
        if before.choose != "weights":
            raise InputError(
                f"{alias!r} chooses by {before.choose}, and stages move shares",
                hint="Add the model to its weights in place of that",
            )
        if not [name for name in before.weights if name != model]:
            raise InputError(f"{alias!r} points at {model!r} already")
        return before

    def _check_judge(self, before: Alias, judge: Mapping[str, Any]) -> None:
        """Raise `InputError` for a judge that cannot rate single answers, or must not see them."""
        judging.refuse(judge)
        there = self._catalog.alias(judge["model"])
        for name in there.weights if there else (judge["model"],):
            model = self._catalog.get(name)
            if why := refusal(model, JUDGING, before.residency):
                raise InputError(f"The judge's model {name!r} cannot be asked about {before.name!r}: {why}")

    def _running(self, alias: str) -> Live:
        if (live := self._live.get(alias)) is None:
            raise NotFound("rollout of alias", alias, self._live)
        return live

    def _live_of(self, row: RolloutRow) -> Live:
        live = self._live.get(row.alias)
        return live if live is not None and live.row.id == row.id else _live(row)

    def _view(self, live: Live) -> Rollout:
        row = live.row
        lacks = staged.missing(live.plan, live.watched, live.stage) if row.state == "running" else []
        if row.state == "running" and not lacks and live.plan.approve == "each":
            lacks = [_person(row.alias)]
        return Rollout(
            id=row.id, alias=row.alias, model=row.model, state=row.state,  # pyright: ignore[reportArgumentType]
            incumbents=tuple(staged.incumbents(live.plan, row.model)), stage=str(live.stage),
            number=row.stage + 1, stages=tuple(str(each) for each in live.plan.stages),
            seen=staged.progress(live.watched), why=row.why, started_at=row.started_at,
            waits_for=tuple(lacks), stage_at=row.stage_at, ended_at=row.ended_at,
        )  # fmt: skip


def _person(alias: str) -> str:
    return f"a person: agentd call promote alias={alias} step=next"


def _live(row: RolloutRow) -> Live:
    return Live(row, Plan.model_validate(row.plan), Watched.model_validate(row.watched))


def _spreads(inputs: Sequence[str]) -> dict[str, Spread]:
    """How the measures of a suite's texts are spread; none where they are too few or all alike."""
    columns: dict[str, list[float]] = {}
    for text in inputs:
        for name, value in measures(text).items():
            columns.setdefault(name, []).append(value)
    found = {name: Spread.of(values) for name, values in columns.items()}
    return {name: spread for name, spread in found.items() if spread is not None}
