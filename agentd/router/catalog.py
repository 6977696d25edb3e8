"""Models and aliases: what the config file names, laid over what tools have registered."""

from __future__ import annotations

import itertools
import random
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from agentd.errors import InputError, NotFound
from agentd.policy.callers import Caller
from agentd.sdk import Alias, ChatResult, Model
from agentd.store.catalog import CatalogTable
from agentd.store.journal import Journal

__all__ = ["Ask", "CallersCatalog", "Catalog"]


class Ask(Protocol):
    """One chat request, metered."""

    def __call__(
        self, model: str, messages: Sequence[Mapping[str, Any]], caller: Caller, **options: Any
    ) -> Awaitable[ChatResult]: ...


class Catalog:
    """Names to models. Entries of the config file win and cannot be overwritten."""

    def __init__(self, table: CatalogTable, journal: Journal, configured: Iterable[Model] = ()) -> None:
        self._table, self._journal = table, journal
        self._configured = {model.name: model for model in configured}

    def list(self) -> list[Model]:
        stored = {model.name: model for model in self._table.models()}
        return sorted((stored | self._configured).values(), key=lambda model: model.name)

    def get(self, name: str) -> Model:
        """Raises `NotFound` with the nearest names."""
        models = {model.name: model for model in self.list()}
        if name not in models:
            known = [*models, *(alias.name for alias in self.aliases())]
            raise NotFound(
                "model",
                name,
                known,
                hint="" if known else "Get one: agentd call get_model source=smollm2-135m",
            )
        return models[name]

    def put(self, model: Model) -> None:
        if model.name in self._configured:
            raise InputError(
                f"Model {model.name!r} is defined in the config file", hint="Choose another name"
            )
        if self.alias(model.name):
            raise InputError(f"{model.name!r} is already an alias", hint="Choose another name for the model")
        self._table.put(model)
        self._journal.append(
            "model.put", model.name, "daemon", model_kind=model.kind, source=model.source, digest=model.digest
        )

    def alias(self, name: str) -> Alias | None:
        return next((alias for alias in self.aliases() if alias.name == name), None)

    def aliases(self) -> list[Alias]:
        return self._table.aliases()

    def set_alias(self, alias: Alias) -> None:
        """Point `alias` somewhere else. Raises `NotFound` for a model that is not there, or `InputError`."""
        if not alias.weights or not all(0 < share < float("inf") for share in alias.weights.values()):
            raise InputError(
                f"Alias {alias.name!r} needs a share above 0 for each of its models: {alias.weights!r}"
            )
        if any(model.name == alias.name for model in self.list()):
            raise InputError(
                f"{alias.name!r} is the name of a model", hint="Choose another name for the alias"
            )
        for model in alias.weights:
            self.get(model)
        before = self.alias(alias.name)
        self._table.set_alias(alias)
        self._journal.append(
            "alias.set",
            alias.name,
            "daemon",
            weights=alias.weights,
            before=before.weights if before else None,
            reason=alias.reason,
        )

    def resolve(self, name: str, *, draw: float | None = None) -> tuple[Model, str]:
        """The model that answers for `name`, and why. `draw` in [0, 1) fixes an alias's dice."""
        alias = self.alias(name)
        if alias is None:
            return self.get(name), f"{name!r} was asked for by name"
        total = sum(alias.weights.values())
        point = (random.random() if draw is None else draw) * total
        ends = zip(alias.weights, itertools.accumulate(alias.weights.values()), strict=True)
        chosen = next((name for name, end in ends if point < end), next(reversed(alias.weights)))
        share = f" with weight {alias.weights[chosen] / total:.0%}" if len(alias.weights) > 1 else ""
        because = f" ({alias.reason})" if alias.reason else ""
        return self.get(chosen), f"alias {name!r} points at {chosen!r}{share}{because}"


class CallersCatalog:
    """The catalog as one caller uses it: chat requests are theirs."""

    def __init__(self, catalog: Catalog, ask: Ask, caller: Caller) -> None:
        self._catalog, self._ask, self._caller = catalog, ask, caller
        self.get, self.list, self.put = catalog.get, catalog.list, catalog.put
        self.alias, self.aliases, self.set_alias = catalog.alias, catalog.aliases, catalog.set_alias

    async def chat(self, model: str, messages: Sequence[Mapping[str, Any]], **options: Any) -> ChatResult:
        """Ask a model or alias. `options` go to the endpoint as they are."""
        return await self._ask(model, messages, self._caller, **options)
