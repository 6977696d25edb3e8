"""What is known of jobs only while the daemon lives; everything else is stored."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from agentd.jobs.causes import Said

__all__ = ["Live", "LiveJobs"]


@dataclass(slots=True)
class Live:
    """What is known of a running job only while the daemon lives.

    `last_used` is on the clock that runs from boot on (`shim.uptime`). `unwanted`: somebody asked for
    its end, so it is not tried again.
    """

    task: asyncio.Task[None] | None = None
    progress: dict[str, Any] = field(default_factory=dict[str, Any])
    said: Said = field(default_factory=Said)
    ready: bool = False
    unwanted: bool = False
    last_used: float = 0.0


LiveJobs = defaultdict[str, Live]
