"""One call of a run, to its end: made once, waited for as long as it takes.

The key is made of run and step, so a call that was made before a restart is found again. A tool that
answers at once leaves nothing to be found by; whether such a call was made is not known after a crash
between the call and the storing of its answer, and it is never made again by itself (`may_be_made`).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pydantic import BaseModel

from agentd.errors import NeedsApproval, Unavailable
from agentd.policy.callers import Caller
from agentd.sdk import JobView, Quote, Tool

__all__ = ["Calling", "StepFailed", "Waiting", "carry_out", "may_be_made"]

STARTING_PATIENCE_S = 600.0  # how long a step waits for a part that is still starting


class Calling(Protocol):
    """The one way a tool is called."""

    @property
    def tools(self) -> Mapping[str, Tool]: ...
    def tainted(self, caller: Caller) -> Caller: ...
    def saw(self, caller: Caller, answer: BaseModel) -> tuple[str, ...]:
        """Note what a job's result carries into the context of the caller, before it is told."""
        ...

    async def call(
        self, name: str, arguments: dict[str, Any], caller: Caller, *, key: str = ""
    ) -> BaseModel: ...
    async def quote(self, name: str, arguments: dict[str, Any], caller: Caller) -> Quote: ...
    def job_of(self, caller: Caller, key: str) -> str:
        """The job that stands for the call with that key; empty when there is none."""
        ...


class Waiting(Protocol):
    """What runs need of jobs."""

    def get(self, job_id: str) -> JobView: ...
    async def settled(self, job_id: str) -> JobView: ...
    async def cancel(self, job_id: str) -> JobView: ...


class StepFailed(Exception):
    """A step ended without a result; the message is what the run is told, `cause` its job's."""

    def __init__(self, message: str, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


async def carry_out(
    calls: Calling,
    jobs: Waiting,
    tool: str,
    arguments: dict[str, Any],
    caller: Caller,
    key: str,
    *,
    on_job: Callable[[str], None],
    on_wait: Callable[[str], None],
) -> dict[str, Any]:
    """The result of a call. Sleeps while its job or its approval is pending.

    `on_job` is told its job, `on_wait` what it waits for. Raises `StepFailed`, and what the call raises.
    """
    try:
        answer = await _patiently(calls, tool, arguments, caller, key, on_wait)
    except NeedsApproval as held:
        answer = jobs.get(held.job_id)  # it is carried out once a person has approved it
    if not isinstance(answer, JobView):
        return answer.model_dump(mode="json")
    if answer.id:
        on_job(answer.id)
        answer = await jobs.settled(answer.id)
        calls.saw(caller, answer)
    if answer.state == "running" and answer.service:
        return {"job": answer.id, **answer.service, **(answer.result or {})}
    if answer.state != "succeeded":
        raise StepFailed(f"{answer.id} {answer.state}: {answer.reason}", answer.cause or "")
    return answer.result or {}


def may_be_made(calls: Calling, tool: str, caller: Caller, key: str) -> bool:
    """Whether a call that a crash interrupted may be made again: it is found, or does no harm twice."""
    known = calls.tools.get(tool)
    if known is None or known.read_only or known.idempotent or known.launches:
        return True
    return bool(calls.job_of(caller, key))


async def _patiently(
    calls: Calling,
    tool: str,
    arguments: dict[str, Any],
    caller: Caller,
    key: str,
    on_wait: Callable[[str], None],
) -> BaseModel:
    """Call again while a part that the call needs is still starting."""
    patience = time.monotonic() + STARTING_PATIENCE_S
    while True:
        try:
            return await calls.call(tool, arguments, caller, key=key)
        except Unavailable as error:
            if error.retry_after_s is None or time.monotonic() > patience:
                raise
            on_wait(str(error))
            await asyncio.sleep(error.retry_after_s)
