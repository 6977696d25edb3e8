"""Everything that can go wrong, as one tree.

    AgentdError
    ├── InputError          what was asked cannot be done as asked: fix the arguments
    │   ├── NotFound        no such tool, model, job, artifact …; offers the nearest names
    │   ├── DataError       a file is wrong: names file, line, field and the mend
    │   └── Conflict        the same key or name already means something else
    ├── Refused             somebody or something said no
    │   ├── Denied          a policy rule or a person denied the call
    │   ├── NeedsApproval   a person has to say yes first; names the question
    │   ├── OverBudget      the ledger has no room for it
    │   └── Unauthorized    missing, wrong or too weak credential
    ├── Unavailable         a part that is needed is not there (yet): service, endpoint, environment
    │   └── DiskFull        there is no room for it: names the disk, and how much to free
    ├── ClientGone          whoever asked has left: nobody reads the answer
    ├── Unknown             it may have been stored, or not: look before doing it again
    └── Busy                another daemon holds the state directory, a port is taken

Each surface translates the tree once: ``agentd.cli`` to exit codes, ``agentd.server`` to HTTP
statuses and MCP tool errors. A message says what happened, to which id, and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

__all__ = [
    "AgentdError",
    "Busy",
    "ClientGone",
    "Conflict",
    "DataError",
    "Denied",
    "DiskFull",
    "InputError",
    "NeedsApproval",
    "NotFound",
    "OverBudget",
    "Refused",
    "Unauthorized",
    "Unavailable",
    "Unknown",
]


class AgentdError(Exception):
    """The root. `hint` is the next thing to do, as one sentence or command."""

    code = "error"

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}. {self.hint}" if self.hint else self.message


class InputError(AgentdError):
    """The arguments cannot be carried out as given."""

    code = "invalid"


class NotFound(InputError):
    """There is no `what` called `name`; `known` names are searched for near misses."""

    code = "not_found"

    def __init__(self, what: str, name: str, known: Iterable[str] = (), *, hint: str = "") -> None:
        names = sorted(set(known))
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        if not hint and near:
            hint = "Did you mean " + " or ".join(repr(n) for n in near) + "?"
        elif not hint and names:
            shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            hint = f"There are: {shown}"
        super().__init__(f"There is no {what} {name!r}", hint=hint)
        self.what, self.name, self.near = what, name, near


class DataError(InputError):
    """A file holds something wrong at a place that can be named."""

    code = "bad_data"

    def __init__(
        self, path: Path | str, message: str, *, line: int | None = None, field: str = "", hint: str = ""
    ) -> None:
        place = f"{path}:{line}" if line is not None else str(path)
        super().__init__(f"{place}: {field + ': ' if field else ''}{message}", hint=hint)
        self.path, self.line, self.field = str(path), line, field


class Conflict(InputError):
    """The same key or name already stands for something else."""

    code = "conflict"


class Refused(AgentdError):
    """Somebody or something said no."""

    code = "refused"


class Denied(Refused):
    """A policy rule or a person denied this call."""

    code = "denied"


class NeedsApproval(Refused):
    """The call is kept as `job` and is carried out once a person has approved it."""

    code = "needs_approval"

    def __init__(self, message: str, *, job_id: str, approval_id: str, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.job_id, self.approval_id = job_id, approval_id


class OverBudget(Refused):
    """The ledger has no room for what the call may cost."""

    code = "over_budget"


class Unauthorized(Refused):
    """The credential is missing, wrong, expired or too weak."""

    code = "unauthorized"


class Unavailable(AgentdError):
    """Something the call needs is not there, or not there yet.

    `retry_after_s` is set when the same call is expected to work after that many seconds.
    """

    code = "unavailable"

    def __init__(self, message: str, *, hint: str = "", retry_after_s: float | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class DiskFull(Unavailable):
    """There is no room on a disk; nothing was changed."""

    code = "disk_full"


class ClientGone(AgentdError):
    """Whoever asked hung up before there was an answer."""

    code = "client_gone"


class Unknown(AgentdError):
    """The disk failed while a change was stored: it may be there, or not. Look before doing it again."""

    code = "unknown"


class Busy(AgentdError):
    """Somebody else holds it: a state directory, a port."""

    code = "busy"
