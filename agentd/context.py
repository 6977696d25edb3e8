"""What a tool is handed: the daemon, as seen by one caller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import BaseModel

from agentd import sdk
from agentd.errors import AgentdError, InputError, NotFound, Unavailable
from agentd.ids import new_id
from agentd.jobs.runner import Jobs
from agentd.plugins import Plugins
from agentd.policy.callers import Caller
from agentd.sdk import Launch, Quote, ServiceView
from agentd.sight import SeenRuns, Sight

__all__ = ["Context", "Offer", "Running"]


class Running(Protocol):
    """What starts runs of plans, a floor above."""

    def start(self, path: Path, params: Mapping[str, Any], caller: Caller) -> dict[str, Any]: ...


class Calling(Protocol):
    """What a tool may ask of the door it came through."""

    async def call(
        self, name: str, arguments: dict[str, Any], caller: Caller, *, key: str = ""
    ) -> BaseModel: ...
    async def quote(self, name: str, arguments: dict[str, Any], caller: Caller) -> Quote: ...
    async def ensure(self, name: str, launch: Launch, caller: Caller) -> ServiceView | None: ...


@dataclass(slots=True)
class Offer:
    """What the daemon offers tools. `runs` is set once there are runs."""

    artifacts: sdk.Artifacts
    catalog_for: Callable[[Caller], sdk.Catalog]
    price: Callable[[float], int]
    price_doubt: Callable[[sdk.Model], str]
    hour_price: Callable[[str], sdk.HourPrice | None]
    rollouts: sdk.Rollouts
    reports: sdk.Reports
    judgements: sdk.Judgements
    traffic: sdk.Traffic
    plugins: Plugins
    accelerator: str
    data_dir: Path
    scratch_dir: Path
    sight: Sight
    runs: Running | None = None


class Context:
    """`sdk.Context` for one caller."""

    def __init__(self, calls: Calling, offer: Offer, jobs: Jobs, caller: Caller) -> None:
        self.principal, self.surface, self.cwd = caller.principal, caller.surface, caller.cwd
        self.artifacts, self.reports, self.accelerator = offer.artifacts, offer.reports, offer.accelerator
        self.judgements, self.traffic = offer.judgements, offer.traffic
        self.plugins: sdk.Plugins = offer.plugins
        self.jobs: sdk.Jobs = offer.sight.jobs_of(caller)
        self.catalog: sdk.Catalog = offer.catalog_for(caller)
        self.rollouts = offer.rollouts
        self.services: sdk.Services = _Services(calls, jobs, caller)
        self.plans: sdk.Plans = _Plans(offer, caller)
        self._calls, self._offer, self._caller = calls, offer, caller

    def path(self, text: str) -> Path:
        """An existing path: from the caller's folder, else from a plugin root. Raises `NotFound`."""
        given = Path(text).expanduser()
        for candidate in (self.cwd / given, *(root / given for root in self._offer.plugins.roots)):
            if candidate.exists():
                return candidate.resolve()
        folder = (self.cwd / given).parent
        near = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        raise NotFound("file", text, near, hint="" if near else f"Paths are read from {str(self.cwd)!r}")

    def price(self, seconds: float) -> int:
        return self._offer.price(seconds)

    def price_doubt(self, model: sdk.Model) -> str:
        return self._offer.price_doubt(model)

    def hour_price(self, accelerator: str) -> sdk.HourPrice | None:
        return self._offer.hour_price(accelerator)

    def data_dir(self, name: str) -> Path:
        folder = self._offer.data_dir / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def scratch(self) -> Path:
        folder = self._offer.scratch_dir / new_id("tmp")
        folder.mkdir(parents=True)
        return folder

    async def call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        return await self._calls.call(tool, dict(arguments), self._caller)

    async def quote(self, tool: str, arguments: Mapping[str, Any]) -> Quote:
        return await self._calls.quote(tool, dict(arguments), self._caller)


class _Services:
    """`sdk.Services` for one caller."""

    def __init__(self, calls: Calling, jobs: Jobs, caller: Caller) -> None:
        self._calls, self._jobs, self._caller = calls, jobs, caller

    async def ensure(self, name: str, launch: Launch) -> ServiceView | None:
        return await self._calls.ensure(name, launch, self._caller)

    def find(self, name: str) -> ServiceView | None:
        return self._jobs.services.find(name)

    def add_serves(self, service: ServiceView, names: Sequence[str]) -> None:
        self._jobs.services.add_serves(service.job_id, list(names))

    async def request(
        self, service: ServiceView, path: str, body: Mapping[str, Any], *, timeout_s: float = 30.0
    ) -> dict[str, Any]:
        """POST JSON to a service. A plain-text answer comes back as ``{"text": …}``."""
        import httpx  # on first use: the daemon starts without an HTTP client

        self._jobs.services.touch(service.job_id)
        try:
            async with httpx.AsyncClient(timeout=timeout_s, trust_env=False) as client:
                response = await client.post(
                    service.url + path, json=dict(body), headers={"Authorization": f"Bearer {service.token}"}
                )
        except httpx.HTTPError as error:
            raise Unavailable(
                f"{service.name} ({service.job_id}) does not answer: {str(error) or type(error).__name__}",
                hint=f"See: agentd jobs {service.job_id} --logs",
            ) from error
        try:
            answer = response.json()
        except ValueError:
            answer = {"text": response.text}
        if response.status_code >= 400:
            said = answer.get("error", answer) if isinstance(answer, dict) else answer
            said = said if isinstance(said, dict) else {"message": str(said)}
            kind: Callable[..., AgentdError] = InputError if response.status_code < 500 else Unavailable
            raise kind(str(said.get("message", said)), hint=str(said.get("hint", "")))
        return answer if isinstance(answer, dict) else {"value": answer}


class _Plans:
    """`sdk.Plans` for one caller."""

    def __init__(self, offer: Offer, caller: Caller) -> None:
        self._offer, self._caller = offer, caller

    @property
    def _runs(self) -> SeenRuns:
        return self._offer.sight.runs_of(self._caller)

    def start(self, path: Path, params: Mapping[str, Any]) -> dict[str, Any]:
        assert self._offer.runs is not None, "set before the first call"
        return self._offer.runs.start(path, params, self._caller)

    async def wait(self, run_id: str, max_s: float) -> dict[str, Any]:
        return await self._runs.wait(run_id, max_s)

    async def stop(self, run_id: str) -> dict[str, Any]:
        return await self._runs.stop(run_id)

    def view(self, run_id: str) -> dict[str, Any]:
        return self._runs.view(run_id)
