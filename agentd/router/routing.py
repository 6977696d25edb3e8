"""Whom a request would be sent to: what is known of models, put before the pure decisions of `decide`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from agentd.router.catalog import Catalog
from agentd.router.decide import (
    TYPICAL_OUT,
    Candidate,
    Need,
    Quality,
    Route,
    contents_of,
    draw_of,
    need_of,
    refusal,
    route,
)
from agentd.router.health import Fleet
from agentd.router.inquiry import checked
from agentd.router.tasks import Task, Tasks, question_of
from agentd.sdk import Alias, Api

__all__ = ["Found", "Routing"]

NO_TASK = Task()


@dataclass(frozen=True, slots=True)
class Found:
    """What was decided about a request, and on what grounds. `alias` is None for a model asked by name."""

    need: Need
    route: Route
    alias: Alias | None = None
    task: Task = NO_TASK


class Routing:
    """`quality` says what (model, suite) came to; without `tasks` no request has a class."""

    def __init__(self, catalog: Catalog, fleet: Fleet, quality: Quality, tasks: Tasks | None) -> None:
        self._catalog, self._fleet, self._quality, self._tasks = catalog, fleet, quality, tasks

    async def of(self, api: Api, body: Mapping[str, Any], key: str = "") -> Found:
        """Raises `InputError` for a request that is none, `NotFound` for a name that nobody has."""
        name, contents = checked(api, body), list(contents_of(body))
        need = need_of(api, body, contents)
        alias = self._catalog.alias(name)
        if alias is None:
            model = self._catalog.get(name)
            if why := refusal(model, need):
                return Found(need, Route(name, passed={name: why}))
            return Found(need, Route(name, [Candidate(model, f"{name!r} was asked for by name")]))
        task = NO_TASK
        if alias.classifier and self._tasks is not None:
            task = await self._tasks.of(alias.classifier, question_of(body))
        draw = draw_of(body, key, contents)
        found = route(
            alias, self._catalog.models, need, draw, self._quality, self._typical_out, task.label, task.enough
        )
        return Found(need, found, alias, task)

    async def explain(
        self, body: Mapping[str, Any], *, api: Api = "chat/completions", key: str = ""
    ) -> dict[str, Any]:
        """Whom a request would be sent to, in which order, and why; nothing is sent."""
        found = await self.of(api, body, key)
        need, order = found.need, found.route.order
        return {
            "asked": found.route.asked,
            "task": found.task.label,
            "classified": found.task.why,
            "needs": {
                "api": need.api,
                "input_tokens": need.tokens_in,
                "output_tokens": need.tokens_out,
                "capabilities": sorted(need.capabilities),
            },
            "order": [
                {
                    "model": each.model.name,
                    "why": each.why,
                    "micro_usd": each.model.price(
                        need.tokens_in, min(need.tokens_out or 32_768, self._typical_out(each.model.name))
                    ),
                    "rests_s": round(self._fleet.rests(each.model.name), 1),
                }
                for each in order
            ],
            "passed": found.route.passed,
        }

    def health(self) -> dict[str, dict[str, Any]]:
        """How each model that was asked is doing, since the daemon began."""
        return {
            name: {
                "requests": health.requests,
                "errors": health.errors,
                "under_way": health.under_way,
                "seconds": health.seconds,
                "first_token_s": health.first_s,
                "output_tokens": health.out,
                "rests_s": round(self._fleet.rests(name), 1),
                "problem": health.problem,
            }
            for name, health in self._fleet.all().items()
        }

    def _typical_out(self, model: str) -> float:
        return self._fleet.of(model).out or TYPICAL_OUT
