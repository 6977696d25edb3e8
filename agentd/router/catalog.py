"""Models and aliases: what the config file names, laid over what tools have registered."""

from __future__ import annotations

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
    """Names to models. Entries of the config file win and cannot be overwritten.

    What is stored is read once: nobody else writes it while this daemon has the state directory.
    """

    def __init__(
        self,
        table: CatalogTable,
        journal: Journal,
        configured: Iterable[Model] = (),
        aliases: Iterable[Alias] = (),
    ) -> None:
        self._table, self._journal = table, journal
        self._configured = {model.name: model for model in configured}
        self._configured_aliases = {alias.name: alias for alias in aliases}
        for alias in self._configured_aliases.values():
            _check_shares(alias)
            if alias.name in self._configured:
                raise InputError(f"agentd.toml calls both a model and an alias {alias.name!r}")
        self._models: dict[str, Model] | None = None
        self._aliases: dict[str, Alias] | None = None

    @property
    def models(self) -> Mapping[str, Model]:
        """All of them by their names."""
        if self._models is None:
            stored = {model.name: model for model in self._table.models()}
            self._models = stored | self._configured
        return self._models

    def list(self) -> list[Model]:
        return sorted(self.models.values(), key=lambda model: model.name)

    def get(self, name: str) -> Model:
        """Raises `NotFound` with the nearest names."""
        if (model := self.models.get(name)) is not None:
            return model
        known = [*self.models, *(alias.name for alias in self.aliases())]
        hint = "" if known else "Get one: agentd call get_model source=smollm2-135m"
        raise NotFound("model", name, known, hint=hint)

    def put(self, model: Model, by: str = "daemon") -> None:
        if model.name in self._configured:
            raise InputError(
                f"Model {model.name!r} is defined in the config file", hint="Choose another name"
            )
        if self.alias(model.name):
            raise InputError(f"{model.name!r} is already an alias", hint="Choose another name for the model")
        self._table.put(model)
        self._models = None
        told = {"model_kind": model.kind, "source": model.source, "digest": model.digest}
        told |= {"endpoint": model.endpoint, "key_env": model.key_env} if model.endpoint else {}
        self._journal.append("model.put", model.name, by, **told)

    def remove(self, name: str, by: str) -> None:
        """Raises `InputError` for a model of the config file."""
        if name in self._configured:
            raise InputError(f"Model {name!r} is defined in the config file", hint="Take it out there")
        self._table.remove(name)
        self._models = None
        self._journal.append("model.removed", name, by)

    def alias(self, name: str) -> Alias | None:
        if self._aliases is None:
            stored = {alias.name: alias for alias in self._table.aliases()}
            self._aliases = stored | self._configured_aliases
        return self._aliases.get(name)

    def aliases(self) -> list[Alias]:
        self.alias("")
        return sorted((self._aliases or {}).values(), key=lambda alias: alias.name)

    def is_configured(self, alias: str) -> bool:
        """Whether an alias is defined in the config file, where nothing else moves it."""
        return alias in self._configured_aliases

    def set_alias(self, alias: Alias) -> None:
        """Point `alias` somewhere else. Raises `NotFound` for a model that is not there, or `InputError`."""
        if alias.name in self._configured_aliases:
            raise InputError(
                f"Alias {alias.name!r} is defined in the config file",
                hint="Change it there, or choose another",
            )
        _check_shares(alias)
        if alias.name in self.models:
            raise InputError(
                f"{alias.name!r} is the name of a model", hint="Choose another name for the alias"
            )
        for model in (*alias.weights, *alias.fallbacks, *alias.shadow):
            self.get(model)
        before = self.alias(alias.name)
        self._table.set_alias(alias)
        self._aliases = None
        self._journal.append(
            "alias.set",
            alias.name,
            "daemon",
            weights=alias.weights,
            before=before.weights if before else None,
            reason=alias.reason,
        )


def _check_shares(alias: Alias) -> None:
    if not alias.weights or not all(0 < share < float("inf") for share in alias.weights.values()):
        raise InputError(
            f"Alias {alias.name!r} needs a share above 0 for each of its models: {alias.weights!r}"
        )
    if not all(0 < share <= 1 for share in alias.shadow.values()):
        raise InputError(
            f"A shadow of alias {alias.name!r} gets a share above 0 and at most 1 of its requests"
        )
    if alias.choose == "cheapest" and alias.good_enough is not None and not alias.suites:
        raise InputError(
            f"Alias {alias.name!r} says what is good enough and not on which suite",
            hint='Set suites, such as { "*" = "tickets" }',
        )


class CallersCatalog:
    """The catalog as one caller uses it: chat requests are theirs."""

    def __init__(self, catalog: Catalog, ask: Ask, caller: Caller) -> None:
        self._catalog, self._ask, self._caller = catalog, ask, caller
        self.get, self.list, self.put = catalog.get, catalog.list, catalog.put
        self.alias, self.aliases, self.set_alias = catalog.alias, catalog.aliases, catalog.set_alias

    async def chat(
        self,
        model: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        sources: Sequence[str] = (),
        **options: Any,
    ) -> ChatResult:
        """See `sdk.Catalog.chat`."""
        return await self._ask(model, messages, self._caller, sources=sources, **options)
