"""The kernel, put together: one state directory, one loop, everything the server serves."""

from __future__ import annotations

import asyncio
import datetime
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentd import __version__
from agentd.agent.drafts import Drafts
from agentd.agent.goals import Goals, Reply
from agentd.agent.runs import Runs
from agentd.artifacts import Artifacts
from agentd.calls import Calls
from agentd.caretaker import Caretaker
from agentd.config import Config, Telemetry, WebhookConfig
from agentd.context import Offer
from agentd.disk import Room
from agentd.errors import AgentdError, Conflict, DataError, NotFound
from agentd.hardware import accelerator, ram_bytes, vram_bytes
from agentd.jobs import reaper
from agentd.jobs.environments import Environments
from agentd.jobs.launching import Places
from agentd.jobs.runner import Jobs
from agentd.locations import ADDRESS, TRAFFIC, write_private
from agentd.lock import hold
from agentd.notify.outbox import Notifiers, open_notifiers
from agentd.plugins import Plugins
from agentd.policy.approvals import Approvals
from agentd.policy.callers import Caller
from agentd.policy.credentials import Tokens
from agentd.policy.people import People
from agentd.policy.prices import load_prices, model_doubt
from agentd.policy.quotes import Quotes
from agentd.policy.rules import load_rules
from agentd.redaction import hide_environment
from agentd.router.catalog import CallersCatalog, Catalog
from agentd.router.decide import Measured
from agentd.router.dispatch import Dispatch
from agentd.router.endpoints import Endpoints
from agentd.router.inquiry import Inquiry
from agentd.router.providers import with_provider
from agentd.router.rollouts import Rollouts
from agentd.router.stages import Plan
from agentd.router.traffic import Traffic
from agentd.router.watching import Watching
from agentd.sdk import HourPrice, Model, ServiceView
from agentd.sight import Seen, Sight
from agentd.signals import Changes
from agentd.store import Store
from agentd.store.approvals import ApprovalTable
from agentd.store.artifacts import ArtifactTable
from agentd.store.catalog import CatalogTable
from agentd.store.jobs import JobTable
from agentd.store.journal import Journal
from agentd.store.judgements import JudgementTable
from agentd.store.leases import Leases
from agentd.store.ledger import Ledger
from agentd.store.notifiers import NotifierTable
from agentd.store.reports import ReportTable
from agentd.store.requests import RequestRow, RequestTable
from agentd.store.runs import RunTable
from agentd.store.tokens import TokenTable
from agentd.store.traffic import TrafficTable
from agentd.store.turns import TurnTable

if TYPE_CHECKING:
    from agentd.router.spans import Spans

__all__ = ["Daemon", "named_document"]

log = logging.getLogger(__name__)

EXPIRE_EVERY_S = 30.0
EXPIRE_TRAFFIC_EVERY_S = 3600.0
NOTE_HEAD_EVERY_S = 300.0
NOTE_USES_EVERY_S = 60.0
REAP_EVERY_S = 30.0
LOOK_AT_DISK_EVERY_S = 10.0
LOOK_AT_ROLLOUTS_EVERY_S = 5.0
TOKEN_SPARE_S = 7 * 86_400.0


class Daemon:
    """Everything behind the server (`agentd.server.ports.Kernel`).

    Raises `Busy` when another daemon holds the state directory.

    Two tokens lie in the state directory, readable by its owner only: ``owner-token`` is the
    person's, ``agent-token`` is what MCP clients are given, and cannot approve.
    """

    version = __version__

    def __init__(self, config: Config, *, url: str, lock: int | None = None) -> None:
        """`lock` is that of the state directory, if whoever calls holds it already (`agentd.lock.hold`)."""
        self.config, self.state_dir, self.url = config, config.state_dir, url
        self._lock = hold(self.state_dir) if lock is None else lock  # before anything that takes time
        try:
            self._assemble(config)
        except BaseException:
            os.close(self._lock)
            raise

    def _assemble(self, config: Config) -> None:
        self.plugins = Plugins.open(config.roots)
        configured = [with_provider(model, self.plugins) for model in config.models]
        hide_environment([*(model.key_env for model in configured), *_variables_of(config)])
        self.prices = load_prices(named_document(self.plugins, config.prices))
        self.rules = load_rules(named_document(self.plugins, config.policy))
        self._room = Room(
            self.state_dir,
            reserve=round(config.disk_reserve_mb * 1e6),
            low=round(config.disk_low_gb * 1e9),
        )
        self.store = Store(self.state_dir / "agentd.db", spare=self._room.give_up)
        self.accelerator = accelerator()
        self.capture = config.capture
        self.changes = Changes()
        self.journal = Journal(self.store)
        self.ledger = Ledger(self.store, config.budget, self.journal)
        self.leases = Leases(self.store, self.ledger)
        self.reports, self.requests = ReportTable(self.store), RequestTable(self.store)
        self.judgements = JudgementTable(self.store)
        self._token_table = TokenTable(self.store)
        people = People(config.people)
        self.tokens = Tokens(self.store, self._token_table, self.journal, people, self.state_dir)
        attempts, artifacts = self.state_dir / "attempts", self.state_dir / "artifacts"
        self.artifacts = Artifacts(artifacts, attempts, ArtifactTable(self.store), self.journal)
        interpreters = {name: recipe.python for name, recipe in config.recipes.items()}
        environ = {**os.environ, reaper.BUILDER_VARIABLE: str(self.state_dir)}
        environ |= {"UV_OFFLINE": "1"} if config.offline else {}
        self.environments = Environments(
            config.cache_dir, interpreters=interpreters, accelerator=self.accelerator, environ=environ
        )
        self.approvals = Approvals(
            self.store,
            ApprovalTable(self.store),
            self.journal,
            lifetime_s=config.approval_hours * 3600,
            people=people,
            denial_sticks_s=config.denial_hours * 3600,
            pages=config.server.seen_at(self.url),
        )
        table = JobTable(self.store)
        self.quotes = Quotes(
            table,
            self.prices,
            self.accelerator,
            max_price_days=config.price_days,
            ram_bytes=_gb(config.ram_gb) or ram_bytes(),
            vram_bytes=_gb(config.vram_gb) or (vram_bytes() if self.accelerator != "cpu" else 0),
        )
        places = Places(attempts, artifacts, config.cache_dir, f"{self.url}/v1", config.offline)
        self.jobs = Jobs(
            self.store,
            table,
            self.approvals,
            self.ledger,
            self.journal,
            self.changes,
            _Building(self.environments),
            places,
            price=self._price,
            job_token=self._job_token,
            revoke_tokens=lambda job_id: self._token_table.revoke(note=_gateway_of(job_id)),
            room=self._room.check,
            max_jobs=config.max_jobs,
        )
        self._catalog = Catalog(CatalogTable(self.store), self.journal, configured, config.aliases)
        self.rollouts = Rollouts(self.store, self._catalog, self.journal, self._verdict)
        self._spans = _spans(config.telemetry)
        self._dispatch = Dispatch(
            self._catalog,
            _Serving(self.jobs, self.changes),
            self.leases,
            self.requests,
            self.journal,
            self._price_doubt,
            self._quality,
            self._told,
            self._head,
        )
        self.endpoints = Endpoints(self._catalog, self.plugins)
        self.routing, self.metrics = self._dispatch.routing, self._dispatch.metrics
        self.traffic_table = TrafficTable(
            self.state_dir / TRAFFIC, max_bytes=round(config.capture.max_mb * 1e6)
        )
        self.gateway = Traffic(
            config.capture, self._dispatch, self.requests, self.judgements, self.journal, self.traffic_table
        )
        self._watching = Watching(self.rollouts, self._dispatch.complete, self._embedding, self.state_dir)
        self.gateway.reader, self._dispatch.on_shadow = self._watching, self._watching.shadowed
        self._own = Caller("daemon", "admin", "daemon", self.state_dir, is_agent=True)
        self.catalog = self._catalog_for(self._own)
        self._sight = Sight(people, self.jobs, self.approvals, self.requests, self.journal, self.ledger)
        offer = Offer(
            self.artifacts,
            self._catalog_for,
            self._price,
            self._price_doubt,
            self._hour_price,
            self.rollouts,
            self.reports,
            self.judgements,
            self.gateway,
            self.plugins,
            self.accelerator,
            self.state_dir / "data",
            self.state_dir / "scratch",
            self._sight,
        )
        self.calls = Calls(
            self.plugins.tools(),
            offer,
            self.store,
            table,
            self.jobs,
            self.approvals,
            self.ledger,
            self.journal,
            self.rules,
            self.prices,
            self.quotes,
            _Building(self.environments),
            self._room.check,
        )
        runs = RunTable(self.store)
        goals = Goals(
            runs,
            TurnTable(self.store),
            self.calls,
            self.jobs,
            self._catalog,
            self.ask,
            self._sight,
            lambda caller: self.ledger.remaining(caller.payer),
            self.accelerator,
            self.changes.announce,
        )
        self.runs = Runs(runs, self.calls, self.jobs, self.journal, self.changes, goals)
        self.drafts = Drafts(self.calls, goals, self.ask)
        offer.runs = self._sight.runs = self.runs
        self.notifiers: Notifiers = open_notifiers(config.notify, NotifierTable(self.store), self.journal)
        self._caretaker = Caretaker()
        self._caretaker.every(EXPIRE_EVERY_S, self.approvals.expire)
        self._caretaker.every(NOTE_HEAD_EVERY_S, self.journal.note)
        self._caretaker.every(NOTE_USES_EVERY_S, self.tokens.note_uses)
        self._caretaker.every(REAP_EVERY_S, self.jobs.reconciliation.reap)
        self._caretaker.every(LOOK_AT_DISK_EVERY_S, self._look_at_disk)
        self._caretaker.every(EXPIRE_TRAFFIC_EVERY_S, self.gateway.expire)
        self._caretaker.every(LOOK_AT_ROLLOUTS_EVERY_S, self.rollouts.look)

    # --- life -------------------------------------------------------------------------------

    async def start(self) -> None:
        """Take up what was alive, tell others where we are, and look after what expires."""
        self.notifiers.start()  # before anything there may be to tell
        self._tell_of_what_is_missing()
        self.journal.append(
            "daemon.started", str(os.getpid()), "daemon", version=__version__, policy=self.rules.name
        )
        shutil.rmtree(self.state_dir / "scratch", ignore_errors=True)
        reaper.end(reaper.builders(self.state_dir))
        self.ledger.recover()
        if await self.jobs.recover():
            self.runs.set_back()
        self.calls.recover()
        self.runs.recover()
        self._caretaker.start()
        write_private(
            self.state_dir / ADDRESS,
            json.dumps({"url": self.url, "pid": os.getpid(), "version": __version__}),
        )

    async def aclose(self) -> None:
        """Stop looking after things. Jobs and services go on and are adopted at the next start."""
        await self._caretaker.aclose()
        await self.notifiers.aclose()
        await self.runs.aclose()
        await self.calls.aclose()
        await self.jobs.aclose()
        await self.gateway.aclose()
        await self._watching.aclose()
        await self._dispatch.aclose()
        if self._spans is not None:
            await asyncio.to_thread(self._spans.close)
        try:
            self.rollouts.save()
            self.tokens.note_uses()
            self.journal.append("daemon.stopped", str(os.getpid()), "daemon")
            self.journal.note()
        except (AgentdError, OSError) as error:
            log.warning("the end of this daemon could not be written down: %s", error)
        (self.state_dir / ADDRESS).unlink(missing_ok=True)
        self.store.close()
        os.close(self._lock)

    def _tell_of_what_is_missing(self) -> None:
        """An entry that was noted last time and is gone: say so, where it cannot be taken back."""
        try:
            head = self.journal.missing()
        except DataError as error:
            log.error("%s", error)
            return
        if head is not None:
            log.error("the journal lacks entry %d, which was there before: agentd journal verify", head.seq)
            self.journal.keep_aside(head)
            self.journal.append("journal.broken", str(head), "daemon", noted_at=head.at, host=head.host)

    # --- what the server calls --------------------------------------------------------------

    def seen_by(self, caller: Caller) -> Seen:
        return self._sight.of(caller)

    def attempt_folder(self, job_id: str) -> Path | None:
        return self.jobs.attempt_folder(job_id)

    # --- parts ------------------------------------------------------------------------------

    def _catalog_for(self, caller: Caller) -> CallersCatalog:
        return CallersCatalog(self._catalog, self._dispatch.chat, caller)

    async def ask(self, body: dict[str, Any], caller: Caller) -> Reply:
        """A chat request of a run, by the gateway's own way."""
        inquiry = Inquiry(body, caller, key=caller.principal, keep=False)
        reply = await self.gateway.complete(inquiry)
        row = self.requests.find(inquiry.id)
        assert row is not None, "every request is recorded when it ends"
        choices = reply.get("choices") or [{}]
        message = choices[0].get("message") or {}
        return Reply(message, row.model, row.id, row.micro_usd, row.input_tokens, row.output_tokens)

    def _look_at_disk(self) -> None:
        self._room.look(self.journal)

    def _price(self, seconds: float) -> int:
        return self.prices.of(self.accelerator, seconds)

    def _quality(self, model: str, suite: str) -> Measured | None:
        report = self.reports.newest(model, suite)
        return Measured(suite, report.score, report.low) if report else None

    def _told(self, row: RequestRow) -> None:
        """A request of the gateway has ended."""
        self.rollouts.observe(row)
        if self._spans is not None:
            self._spans.emit(row)

    async def _embedding(self, text: str) -> Sequence[float] | None:
        """By whichever embedder is served here."""
        for model in self._catalog.list():
            if model.meta.get("task") == "embedding":
                vector = await self._dispatch.embedding_of(model.name, text)
                if vector is not None:
                    return vector
        return None

    async def _verdict(self, plan: Plan, model: str) -> str:
        """Why the evidence that a rollout began with does not hold any more; empty while it does.

        A newer report of the model on the same suite takes the place of the one it was begun with.
        """
        suite = self.reports.get(plan.report).suite
        newest = self.reports.newest(model, suite)
        given = {"candidate": newest.id if newest else plan.report, "baseline": plan.against}
        found = await self.calls.call(
            "compare", {**given, "margin": plan.margin, "alpha": plan.alpha}, self._own
        )
        said = found.model_dump()
        return "" if said["verdict"] in ("better", "not_worse") else f"it is {said['verdict']}: {said['why']}"

    def _head(self, name: str) -> Path | None:
        try:
            return self.artifacts.get(name, "router").path
        except NotFound:
            return None

    def _price_doubt(self, model: Model) -> str:
        return model_doubt(model, datetime.datetime.now(datetime.UTC).date(), self.config.price_days)

    def _hour_price(self, accelerator: str) -> HourPrice | None:
        today = datetime.datetime.now(datetime.UTC).date()
        return self.prices.hour(accelerator, today, self.config.price_days)

    def _job_token(self, job_id: str, lifetime_s: float) -> str:
        row = self.jobs.row(job_id)
        return self._token_table.create(
            f"job:{job_id}",
            "infer",
            _gateway_of(job_id),
            # It goes with the attempt; by the clock only long after, should that be set meanwhile.
            lifetime_s=lifetime_s + TOKEN_SPARE_S,
            project=row.project,
            charged=row.principal,
            allowance=(row.launch or {}).get("tokens_micro_usd", 0),
        )


def _gateway_of(job_id: str) -> str:
    return f"gateway of {job_id}"


class _Building:
    """Interpreters for recipes: `jobs.runner.Building` and what `Calls` binds approvals to."""

    def __init__(self, environments: Environments) -> None:
        self._environments = environments

    async def digest(self, recipe: Path) -> str:
        return (await self._environments.lock(recipe)).digest

    async def python(self, recipe: Path, digest: str, report: Callable[[Mapping[str, Any]], None]) -> Path:
        if python := self._environments.ready(digest, recipe):
            return python  # what was approved is there: nothing has to be looked up on the way to a launch
        lock = await self._environments.lock(recipe)
        if lock.digest != digest:
            raise Conflict(
                f"The environment of recipe {recipe.stem!r} was changed since it was approved",
                hint="Start it again",
            )
        return await self._environments.build(lock, report)


class _Serving:
    """`router.dispatch.Serving` over jobs; looked up anew when something happened to one."""

    def __init__(self, jobs: Jobs, changes: Changes) -> None:
        self._find, self.touch, self._changes = jobs.services.find, jobs.services.touch, changes
        self._found: dict[str, ServiceView | None] = {}
        self._version = -1

    def find(self, name: str) -> ServiceView | None:
        if self._version != self._changes.version:
            self._found, self._version = {}, self._changes.version
        if name not in self._found:
            self._found[name] = self._find(name)
        return self._found[name]


def _spans(telemetry: Telemetry | None) -> Spans | None:
    if telemetry is None:
        return None
    from agentd.router.spans import Spans  # a second, and an extra: for who wants it

    return Spans(telemetry.otlp, __version__)


def _gb(size: float | None) -> int:
    return round((size or 0) * 1e9)


def _variables_of(config: Config) -> list[str]:
    """Environment variables whose values notifiers are told, and nobody else is."""
    webhooks = [each for each in config.notify if isinstance(each, WebhookConfig)]
    return [name for each in webhooks for name in (each.url_env, each.secret_env) if name]


def named_document(plugins: Plugins, name: str) -> Path:
    """A file of policies/ by its name, or any file by its path."""
    return Path(name) if Path(name).suffix in (".yaml", ".yml") else plugins.find("policies", f"{name}.yaml")
