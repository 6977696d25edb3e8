"""Answers that stand for the same request asked again: in memory, where an alias wants it, temperature 0."""

from __future__ import annotations

import hashlib
import json
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from agentd.sdk import Api

__all__ = ["Answers", "Kept"]

MOST = 1_000
LARGEST = 200_000
IGNORED = frozenset({"user", "metadata", "safety_identifier", "prompt_cache_key", "stream"})
"""Fields that do not change an answer."""


@dataclass(frozen=True, slots=True)
class Kept:
    """An answer, the request that it was given to, and when, in seconds of a clock that never goes back."""

    id: str
    model: str
    reply: dict[str, Any]
    at: float


class Answers:
    """The last 1,000. A `scope` sees none of another: it names the project, and all that may answer."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[bytes, Kept] = OrderedDict()

    def find(self, scope: str, api: Api, body: Mapping[str, Any], cache_s: float) -> Kept | None:
        if (digest := _digest(scope, api, body)) is None or (kept := self._kept.get(digest)) is None:
            return None
        if self._clock() - kept.at > cache_s:
            del self._kept[digest]
            return None
        self._kept.move_to_end(digest)
        return kept

    def keep(
        self,
        scope: str,
        api: Api,
        body: Mapping[str, Any],
        request_id: str,
        model: str,
        reply: dict[str, Any],
    ) -> None:
        if (digest := _digest(scope, api, body)) is None or len(json.dumps(reply)) > LARGEST:
            return
        self._kept[digest] = Kept(request_id, model, reply, self._clock())
        if len(self._kept) > MOST:
            self._kept.popitem(last=False)


def _digest(scope: str, api: Api, body: Mapping[str, Any]) -> bytes | None:
    """None for a request whose answer is left to chance."""
    if body.get("temperature") != 0 or (body.get("n") or 1) != 1:
        return None
    asked = {name: value for name, value in body.items() if name not in IGNORED}
    return hashlib.sha256(json.dumps([scope, api, asked], sort_keys=True).encode()).digest()
