"""What a chat request costs: the most of it is held before it leaves, and it is booked and recorded after.

On the path of an answer nothing is written but, now and then, a lease (`agentd.store.leases`); rows of
requests are written behind it. What a request may cost is an estimate: two bytes a token going in, the
asked-for limit coming out. An answer that cost more counts with what it cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import json
import logging
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import Any

from agentd.errors import InputError, Unavailable
from agentd.ids import new_id
from agentd.policy.callers import Caller
from agentd.sdk import Model
from agentd.store.journal import Journal
from agentd.store.leases import Leases
from agentd.store.requests import RequestRow, RequestTable

__all__ = ["Metered", "Metering"]

log = logging.getLogger(__name__)

BYTES_PER_TOKEN = 2
MEDIA_TOKENS = 3_000
"""A picture, a sound or a file in a message: what it is worth to a model has little to do with its bytes."""
DEFAULT_MAX_TOKENS = 4096
WRITE_EVERY_S = 1.0


class Metered:
    """One request under way; whoever sends it fills in what is known of it."""

    def __init__(self, request_id: str) -> None:
        self.id = request_id or new_id("req")
        self.input_tokens = self.output_tokens = 0

    def read(self, usage: Mapping[str, Any] | None) -> None:
        """Take in the ``usage`` object of an answer, if there is one."""
        if usage:
            self.input_tokens = int(usage.get("prompt_tokens") or 0)
            self.output_tokens = int(usage.get("completion_tokens") or 0)


class Metering:
    """Holds, books and records.

    `doubt` says of a model why its price is not certain, `cost_nothing` of an error that its request
    surely was not billed.
    """

    def __init__(
        self,
        leases: Leases,
        requests: RequestTable,
        journal: Journal,
        doubt: Callable[[Model], str],
        cost_nothing: Callable[[BaseException], bool],
    ) -> None:
        self._leases, self._requests, self._journal = leases, requests, journal
        self._doubt, self._cost_nothing = doubt, cost_nothing
        self._told: dict[str, datetime.date] = {}
        self._writer: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def request(
        self, model: Model, why: str, body: Mapping[str, Any], caller: Caller, request_id: str = ""
    ) -> Generator[Metered]:
        """Around one request, which gets an id if it has none.

        Raises `OverBudget` before it leaves, `InputError` for limits that are none."""
        if model.price_unknown:
            raise Unavailable(
                f"What {model.name!r} costs is not known, so it is not asked",
                hint="Set input_ and output_micro_usd_per_mtok of it in agentd.toml; 0 is free",
            )
        self._tell_doubt(model)
        metered, started, status = Metered(request_id), time.monotonic(), "ok"
        draw = self._leases.draw(f"A request to {model.name!r}", caller.payer, most(model, body))
        spent = draw.micro_usd  # the endpoint may have worked and charged: without word from it, all counts
        try:
            yield metered
        except BaseException as error:
            status = f"{type(error).__name__}: {error}"
            if self._cost_nothing(error):
                spent = 0
            raise
        finally:
            if metered.input_tokens or metered.output_tokens:
                spent = model.price(metered.input_tokens, metered.output_tokens)
            self._leases.settle(draw, spent)
            self._requests.add(
                RequestRow(
                    id=metered.id,
                    asked=str(body["model"]),
                    model=model.name,
                    why=why,
                    principal=caller.principal,
                    project=caller.project,
                    status=status,
                    input_tokens=metered.input_tokens,
                    output_tokens=metered.output_tokens,
                    micro_usd=spent,
                    seconds=time.monotonic() - started,
                    at=time.time(),
                )
            )
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


def most(model: Model, body: Mapping[str, Any]) -> int:
    """The most that a request should cost, in micro-USD. Raises `InputError` for limits that are none."""
    limits = [_count(body, "max_completion_tokens"), _count(body, "max_tokens")]
    tokens_out = max((limit for limit in limits if limit is not None), default=DEFAULT_MAX_TOKENS)
    tokens_out *= _count(body, "n") or 1
    if not model.price(1, 1):
        return 0
    media = [part for part in _parts(body) if part.get("type") not in (None, "text")]
    size = len(json.dumps(body, ensure_ascii=False).encode())  # tools and schemas are read too
    size -= sum(len(json.dumps(part, ensure_ascii=False).encode()) for part in media)
    return model.price(size // BYTES_PER_TOKEN + MEDIA_TOKENS * len(media), tokens_out)


def _parts(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The parts of messages whose content is a list."""
    for message in body["messages"]:
        content = message.get("content") if isinstance(message, dict) else None
        yield from (part for part in content if isinstance(part, dict)) if isinstance(content, list) else ()


def _count(body: Mapping[str, Any], name: str) -> int | None:
    value = body.get(name)
    if value is None or (isinstance(value, int) and value >= 0):
        return value
    raise InputError(f"{name!r} should be a whole number that is not negative, and is {value!r}")
