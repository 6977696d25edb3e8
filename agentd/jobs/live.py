"""What is known of jobs only while the daemon lives; everything else is stored."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Live", "LiveJobs"]


@dataclass(slots=True)
class Live:
    """What is known of a running job only while the daemon lives."""

    task: asyncio.Task[None] | None = None
    progress: dict[str, Any] = field(default_factory=dict[str, Any])
    error: tuple[str, str] = ("", "")
    ready: bool = False
    last_used: float = 0.0
    end_reason: str = ""


LiveJobs = defaultdict[str, Live]
