"""Where a model is reached: its endpoint and key, or the local service that has it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Protocol

from agentd.errors import Unavailable
from agentd.sdk import Model, ServiceView

__all__ = ["Serving", "Target", "target_of"]


class Serving(Protocol):
    """Which local service answers for a model."""

    def find(self, name: str) -> ServiceView | None: ...
    def touch(self, job_id: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where a request goes: the model, its URL (ending in /v1), its name there, and the key.

    `service` is the job of a service of ours; empty for somebody else's endpoint.
    """

    model: Model
    url: str
    upstream: str
    key: str
    service: str = ""


def target_of(model: Model, serving: Serving) -> Target:
    """Where to ask a model now. Raises `Unavailable` when it is not served, or its key is missing."""
    if model.endpoint:
        return Target(model, model.endpoint.rstrip("/"), model.upstream or model.name, _key_of(model))
    service = serving.find(model.name)
    if service is None:
        raise Unavailable(
            f"Model {model.name!r} is not being served",
            hint=f"Start it: agentd call serve model={model.name}",
        )
    if not service.ready:
        raise Unavailable(
            f"Model {model.name!r} is still starting",
            hint=f"Follow it: agentd jobs {service.job_id}",
            retry_after_s=5,
        )
    serving.touch(service.job_id)
    return Target(model, f"{service.url}/v1", model.name, service.token, service.job_id)


def _key_of(model: Model) -> str:
    if not model.key_env:
        return ""
    key = os.environ.get(model.key_env, "")
    if not key:
        raise Unavailable(
            f"Model {model.name!r} needs a key, and the environment variable {model.key_env} is not set",
            hint=f"Set {model.key_env} where the daemon is started, and start it again",
        )
    return key
