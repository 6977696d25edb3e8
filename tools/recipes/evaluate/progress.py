"""What the recipe says while it runs."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from typing import Any

from kept import Reply

EVENT_S = 0.5


def emit(event: str, **fields: Any) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


@dataclass
class Meter:
    """Tells how far it is, at most twice a second and at the end."""

    unit: str
    total: int
    kept: int
    counted: int = 0
    errors: int = 0
    tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    last: float = 0.0

    def count(self, reply: Reply) -> None:
        self.counted += 1
        self.errors += "error" in reply
        self.tokens += reply.get("output_tokens", 0)
        now = time.monotonic()
        if now - self.last > EVENT_S or self.kept + self.counted == self.total:
            self.last = now
            self.tell(max(now - self.started, 1e-6))

    def tell(self, seconds: float) -> None:
        done, rate = self.kept + self.counted, self.counted / seconds
        emit(
            "progress",
            done=done,
            total=self.total,
            unit=self.unit,
            seconds_left=round((self.total - done) / rate, 1),
            rows_per_s=round(rate, 2),
            errors=self.errors,
            **({"tokens_per_s": round(self.tokens / seconds, 1)} if self.tokens else {}),
        )
