"""What the recipe says while it runs, and what ends it."""

from __future__ import annotations

import json
import time
from typing import Any


class Stop(Exception):
    """Ends the run with an error event: what happened and what to do next."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


class Progress:
    """A step's progress, at most twice a second."""

    def __init__(self, unit: str, total: int) -> None:
        self.unit, self.total, self.last = unit, total, 0.0

    def __call__(self, done: int) -> None:
        if (now := time.monotonic()) - self.last > 0.5 or done == self.total:
            self.last = now
            emit("progress", done=done, total=self.total, unit=self.unit)
