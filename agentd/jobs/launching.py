"""Writing an attempt: what it reads is fixed, where it listens and what it may know is decided.

Nothing is launched here; an attempt that was written and not recorded is forgotten.
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentd.errors import Conflict
from agentd.jobs import snapshot
from agentd.jobs.attempts import Attempt
from agentd.jobs.environments import lock_of
from agentd.jobs.recipes import copy_recipe, digest_recipe
from agentd.sdk import ServiceView
from agentd.store.jobs import JobRow

__all__ = ["TOKEN_FILE", "Launching", "Places", "Written"]

TOKEN_FILE = "service-token"


@dataclass(frozen=True, slots=True)
class Places:
    """Folders and addresses that launches are given."""

    attempts: Path
    artifacts: Path
    cache: Path
    gateway: str
    offline: bool = False


@dataclass(frozen=True, slots=True)
class Written:
    """An attempt as it lies on disk: the recipe's SPEC, and digests of what was really taken."""

    spec: Mapping[str, Any]
    recipe_digest: str
    input_digests: Mapping[str, str]


class Launching:
    """Writes attempts. `job_token` makes a gateway key for a job id and a lifetime in seconds."""

    def __init__(self, places: Places, job_token: Callable[[str, float], str]) -> None:
        self._places, self._job_token = places, job_token

    async def write(
        self,
        row: JobRow,
        attempt: Attempt,
        python: Path,
        services: Mapping[str, ServiceView],
    ) -> Written:
        """Fix what the attempt reads, and write it down.

        Raises `Conflict` naming what was changed since it was approved.
        """
        assert row.launch is not None
        launch = row.launch
        recipe = attempt.folder / "recipe" / Path(launch["recipe_path"]).name
        inputs, input_digests = await asyncio.to_thread(self._take, launch, recipe, attempt.folder)
        wanted = launch.get("secrets", ())
        secret_values = {name: os.environ[name] for name in wanted if name in os.environ}
        given: dict[str, dict[str, str]] = {}
        for name, service in services.items():
            variable = f"AGENTD_SERVICE_{re.sub(r'[^A-Z0-9]', '_', name.upper())}_TOKEN"
            given[name] = {"url": service.url, "token_env": variable}
            secret_values[variable] = service.token
        spec: dict[str, Any] = {**launch["spec"], "inputs": inputs, "services": given}
        if row.is_service:
            spec["port"] = spec.get("port") or _free_port()
            secret_values["AGENTD_SERVICE_TOKEN"] = f"agentd_{secrets.token_urlsafe(32)}"
            _write_private(attempt.folder / TOKEN_FILE, secret_values["AGENTD_SERVICE_TOKEN"])
        if launch["gateway"]:
            secret_values["AGENTD_GATEWAY_KEY"] = self._job_token(row.id, launch["timeout_s"])
        attempt.prepare(
            spec,
            attempt.argv(python, recipe),
            self._env(launch),
            secret_values,
            launch["timeout_s"],
            about=_about(row),
            holds=[lock] if (lock := lock_of(python)) else [],
        )
        return Written(spec, digest_recipe(recipe), input_digests)

    def _take(
        self, launch: Mapping[str, Any], recipe: Path, folder: Path
    ) -> tuple[dict[str, str], dict[str, str]]:
        copy_recipe(Path(launch["recipe_path"]), recipe)
        if digest_recipe(recipe) != launch["recipe_digest"]:
            raise Conflict(
                f"The recipe {launch['recipe']!r} was changed since it was approved", hint="Start it again"
            )
        return snapshot.take(
            launch["inputs"], launch["input_digests"], self._places.artifacts, folder / "inputs"
        )

    def _env(self, launch: Mapping[str, Any]) -> dict[str, str]:
        env = {"AGENTD_CACHE_DIR": str(self._places.cache), **launch["env"]}
        if launch["gateway"]:
            env["AGENTD_GATEWAY_URL"] = self._places.gateway
        if self._places.offline:
            env["HF_HUB_OFFLINE"] = "1"
        return env


def _about(row: JobRow) -> dict[str, Any]:
    """What a launched attempt has to tell of its job, should the database not know it any more."""
    assert row.launch is not None
    return {
        "job": row.id,
        "tool": row.tool,
        "title": row.title,
        "principal": row.principal,
        "project": row.project,
        "surface": row.surface,
        "digest": row.digest,
        "max_micro_usd": row.launch["max_micro_usd"],
        "created_at": row.created_at,
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text, encoding="ascii")
