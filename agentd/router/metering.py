"""What a request costs: the most of it is held before it leaves, and it is booked and recorded after.

On the path of an answer nothing is written but, now and then, a lease (`agentd.store.leases`); rows of
requests are written behind it. What a request may cost is an estimate: two bytes a token going in, the
asked-for limit coming out. An answer that cost more counts with what it cost.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic_core import to_json

from agentd.policy.callers import Caller
from agentd.router.decide import LIMITS, count_of
from agentd.router.usage import Usage
from agentd.sdk import Api, Model
from agentd.store.journal import Journal
from agentd.store.leases import Draw, Leases
from agentd.store.requests import RequestRow, RequestTable

__all__ = ["Attempt", "Metering"]

log = logging.getLogger(__name__)

BYTES_PER_TOKEN = 2
MEDIA_TOKENS = 3_000
"""A picture, a sound or a file in a message: what it is worth to a model has little to do with its bytes."""
TEXTS = (None, "text", "input_text", "output_text", "tool_use", "tool_result")
DEFAULT_MAX_TOKENS = 4096
WRITE_EVERY_S = 1.0


class Attempt:
    """One model asked once: what it may cost is held until it ends."""

    def __init__(self, model: Model, draw: Draw, leases: Leases) -> None:
        self.model, self._draw, self._leases = model, draw, leases
        self.usage, self.why = Usage(), ""
        self.micro_usd = 0
        self.began = time.monotonic()

    def end(self, *, whole: bool = True, cost_nothing: bool = False) -> None:
        """Book what it cost: by the endpoint's count, or all that was held where it gave none.

        Without `whole` the count may be of a part, and what was held counts if it is more. `cost_nothing`
        says that it surely was not billed.
        """
        spent = self._draw.micro_usd  # it may have worked and charged: without word from it, all counts
        if self.usage:
            used = self.usage
            counted = self.model.price(used.input, used.output, used.cached, used.written)
            spent = counted if whole else max(spent, counted)
        elif cost_nothing:
            spent = 0
        self._leases.settle(self._draw, spent)
        self.micro_usd = spent


class Metering:
    """Holds, books and records. `doubt` says of a model why its price is not certain."""

    def __init__(
        self,
        leases: Leases,
        requests: RequestTable,
        journal: Journal,
        doubt: Callable[[Model], str],
    ) -> None:
        self._leases, self._requests, self._journal, self._doubt = leases, requests, journal, doubt
        self._told: dict[str, datetime.date] = {}
        self._writer: asyncio.Task[None] | None = None

    def begin(self, model: Model, api: Api, body: Mapping[str, Any], caller: Caller) -> Attempt:
        """Hold what one attempt may cost.

        Raises `OverBudget` before it leaves, `InputError` for limits that are none."""
        self._tell_doubt(model)
        draw = self._leases.draw(f"A request to {model.name!r}", caller.payer, most(model, api, body))
        return Attempt(model, draw, self._leases)

    def record(self, row: RequestRow) -> None:
        """Remember a request that has ended; it is written behind the answer."""
        self._requests.add(row)
        self._write_behind()

    def _tell_doubt(self, model: Model) -> None:
        """Journal, once a day, that a price is used which may not be right any more."""
        doubt, today = self._doubt(model), datetime.datetime.now(datetime.UTC).date()
        if doubt and self._told.get(model.name) != today:
            self._told[model.name] = today
            self._journal.append("price.doubtful", model.name, "daemon", why=doubt)

    async def aclose(self) -> None:
        """Write what is left, and return what was not used."""
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        self._requests.flush()
        self._leases.close()

    def _write_behind(self) -> None:
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="requests")

    async def _write(self) -> None:
        """Until nothing is left to write or to give back. What cannot be written is tried again."""
        while self._requests.pending or self._leases.open:
            await asyncio.sleep(WRITE_EVERY_S)
            try:
                self._requests.flush()
                self._leases.give_back_idle()
            except Exception:
                log.exception("requests could not be recorded")


def most(model: Model, api: Api, body: Mapping[str, Any]) -> int:
    """The most that a request should cost, in micro-USD. Raises `InputError` for limits that are none."""
    limits = [count_of(body, name) for name in LIMITS]
    tokens_out = max((limit for limit in limits if limit is not None), default=DEFAULT_MAX_TOKENS)
    tokens_out = 0 if api == "embeddings" else tokens_out * (count_of(body, "n") or 1)
    if not model.price(1, 1):
        return 0
    media = [part for part in _parts(body) if part.get("type") not in TEXTS]
    size = len(to_json(body))  # tools and schemas are read too
    size -= sum(len(to_json(part)) for part in media)
    return model.price(size // BYTES_PER_TOKEN + MEDIA_TOKENS * len(media), tokens_out)


def _parts(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of messages whose content is a list."""
    items = body.get("messages", body.get("input"))
    for item in items if isinstance(items, list) else ():
        content = item.get("content") if isinstance(item, dict) else None
        yield from (part for part in content if isinstance(part, dict)) if isinstance(content, list) else ()
