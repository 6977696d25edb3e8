"""Endpoints that an administrator adds to the catalog while the daemon runs, and takes out again.

What they are is checked as in agentd.toml. Models with files of their own are made by tools, not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from agentd.errors import Conflict, InputError
from agentd.plugins import Plugins
from agentd.policy.callers import Caller
from agentd.redaction import hide_environment
from agentd.router.catalog import Catalog
from agentd.router.providers import with_provider
from agentd.sdk import Model

__all__ = ["Endpoints"]

MADE = ("path", "digest", "base", "source", "size_bytes", "meta")
"""Fields of models that tools make."""


class Endpoints:
    def __init__(self, catalog: Catalog, plugins: Plugins) -> None:
        self._catalog, self._plugins = catalog, plugins
        hide_environment(model.key_env for model in catalog.list() if model.key_env)

    def add(self, said: Mapping[str, Any], by: Caller) -> Model:
        """Add an endpoint, or change one that was added. Raises `InputError`, `NotFound`, `Conflict`."""
        if made := [name for name in MADE if said.get(name)]:
            raise InputError(
                f"{made[0]!r} is filled in by the tools that make models",
                hint="Files come into the catalog by: agentd call get_model source=…",
            )
        try:
            model = with_provider(Model.model_validate({"kind": "frontier", **said}), self._plugins)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise InputError(f"{where!r}: {first['msg']}") from error
        if not model.endpoint:
            raise InputError(f"Nobody says where {model.name!r} is", hint="Give endpoint or provider")
        present = self._catalog.models.get(model.name)
        if present is not None and not present.endpoint:
            raise Conflict(
                f"{model.name!r} is the name of a model that lies here", hint="Choose another name"
            )
        hide_environment([model.key_env])
        self._catalog.put(model, by=by.principal)
        return model

    def remove(self, name: str, by: Caller) -> Model:
        """Take an endpoint out of the catalog. Raises `NotFound`, `Conflict` where it is still used."""
        model = self._catalog.get(name)
        if not model.endpoint:
            raise Conflict(f"{name!r} is no endpoint", hint="Models that lie here are kept with their files")
        for alias in self._catalog.aliases():
            if name in (*alias.weights, *alias.fallbacks, *alias.shadow):
                raise Conflict(f"Alias {alias.name!r} has {name!r}", hint="Move the alias first")
        self._catalog.remove(name, by=by.principal)
        return model
