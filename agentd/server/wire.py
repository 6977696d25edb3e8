"""What every HTTP surface shares: JSON out, and the error tree as statuses."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from agentd.errors import (
    AgentdError,
    Busy,
    ClientGone,
    Conflict,
    DataError,
    Denied,
    DiskFull,
    InputError,
    NeedsApproval,
    NotFound,
    OverBudget,
    Refused,
    Unauthorized,
    Unavailable,
    Unknown,
)
from agentd.redaction import redact
from agentd.router.faults import UpstreamError

__all__ = ["STATUS", "dump", "error_body", "error_of", "status_of"]

STATUS: dict[type[AgentdError], int] = {
    NotFound: 404,
    DataError: 422,
    Conflict: 409,
    InputError: 400,
    Denied: 403,
    OverBudget: 402,
    Refused: 403,
    Unauthorized: 403,  # known but too weak: a missing or wrong token ends at the guard with 401
    DiskFull: 507,
    Unavailable: 503,
    ClientGone: 499,
    Unknown: 500,
    Busy: 503,
    UpstreamError: 502,
}

PASSED_ON = frozenset({400, 413, 422, 429, 504})
"""What a model's endpoint says about the request itself; its 401 is our credential, not the caller's."""


def status_of(error: AgentdError) -> int:
    """The HTTP status of the nearest class in `STATUS`, or what the endpoint said of the request."""
    if isinstance(error, UpstreamError) and error.status in PASSED_ON:
        return error.status
    return next((STATUS[kind] for kind in type(error).__mro__ if kind in STATUS), 500)


def error_of(error: AgentdError) -> dict[str, str]:
    """An error as data: ``code``, ``message``, ``hint``, the ids of what waits for a person; no secrets."""
    ids = (
        {"job_id": error.job_id, "approval_id": error.approval_id} if isinstance(error, NeedsApproval) else {}
    )
    return {"code": error.code, "message": redact(error.message), "hint": redact(error.hint), **ids}


def error_body(code: str, message: str, hint: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "hint": hint}}


def dump(value: Any) -> str:
    """Compact JSON of plain data, pydantic models and paths, mixed as they come."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain)


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else str(value)
