"""Presets for well-known endpoints: ``provider = "openai"`` instead of a URL and the name of a key."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from agentd import documents
from agentd.errors import InputError
from agentd.plugins import Plugins
from agentd.sdk import Dialect, Model

__all__ = ["Provider", "with_provider"]


class Provider(BaseModel):
    """One file in ``adapters/models/``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str = Field(description="base URL of its API")
    dialect: Dialect = Field(default="openai", description="the protocol that it speaks")
    key_env: str = Field(default="", description="environment variable that holds the key")


def with_provider(model: Model, plugins: Plugins) -> Model:
    """The model with what its provider fills in; what the entry itself says wins. Raises `NotFound`."""
    if not model.provider:
        if model.kind in ("frontier", "reasoning") and not model.endpoint:
            raise InputError(
                f"Model {model.name!r} of agentd.toml has neither endpoint nor provider",
                hint=f"Providers: {', '.join(plugins.names('adapters/models', '.yaml'))}",
            )
        return model
    provider = documents.load(plugins.find("adapters/models", f"{model.provider}.yaml"), Provider)
    said = model.model_fields_set
    return model.model_copy(
        update={
            "endpoint": model.endpoint or provider.endpoint,
            "key_env": model.key_env or provider.key_env,
            "dialect": model.dialect if "dialect" in said else provider.dialect,
        }
    )
