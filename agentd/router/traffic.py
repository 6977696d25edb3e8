"""What the gateway answers: some of it kept as texts, if the operator wants that, and rated by who asked.

Around `Dispatch`, not in it: whatever goes wrong with keeping, the answer is on its way. Texts are
written behind the answers, without secrets, from a thread. Never kept: what jobs ask (rows of an
evaluation must not become training data), what a client asked not to keep, answers that failed or
were not read to their end, tool calls, and anything but text.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import json
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from agentd.config import Capture
from agentd.errors import AgentdError, InputError, NotFound
from agentd.policy.callers import Caller
from agentd.redaction import redact
from agentd.router.dispatch import Dispatch
from agentd.router.inquiry import Asked, Inquiry
from agentd.sdk import Exchange, Judgement
from agentd.store.journal import Journal
from agentd.store.judgements import JudgementTable
from agentd.store.requests import RequestRow, RequestTable
from agentd.store.traffic import TrafficTable

__all__ = ["REQUESTS", "Feedback", "Traffic", "is_drawn"]

log = logging.getLogger(__name__)

REQUESTS = "request"
"""The subject of judgements about answers; their items are request ids."""
WRITE_EVERY_S = 1.0
MOST_PENDING_BYTES = 16_000_000
MOST_BYTES = 1_000_000
"""Of one exchange; a longer one is not kept."""
DAY_S = 86_400.0
VERDICTS = {1: "up", 0: "neutral", -1: "down", "up": "up", "down": "down"}
SPOKEN = ("system", "developer", "user", "assistant")


class Feedback(BaseModel):
    """What a client says about an answer that it got."""

    model_config = ConfigDict(extra="forbid")

    request_id: str
    score: Literal[1, 0, -1, "up", "down"] | None = None
    correction: str = Field(default="", max_length=100_000, description="what the answer should have been")
    comment: str = Field(default="", max_length=10_000)


class Reader(Protocol):
    """Looks at what passes, and keeps no text of it. `text` of an answer comes where it `wants` it."""

    def wants(self, inquiry: Inquiry) -> bool: ...
    def answered(self, inquiry: Inquiry, row: RequestRow, text: str | None) -> None: ...
    def rated(self, row: RequestRow, verdict: str) -> None: ...


class Traffic:
    """Also the `sdk.Traffic` that tools are handed."""

    def __init__(
        self,
        capture: Capture,
        dispatch: Dispatch,
        requests: RequestTable,
        judgements: JudgementTable,
        journal: Journal,
        table: TrafficTable,
    ) -> None:
        self._capture, self._dispatch, self._table = capture, dispatch, table
        self._requests, self._judgements, self._journal = requests, judgements, journal
        self._pending: dict[str, tuple[int, Exchange]] = {}
        self._writer: asyncio.Task[None] | None = None
        self._failing = False
        self.reader: Reader | None = None

    async def complete(self, inquiry: Inquiry) -> dict[str, Any]:
        """See `Dispatch.complete`."""
        reply = await self._dispatch.complete(inquiry)
        if self._wants(inquiry):
            self._note(inquiry, answer_of(reply))
        if self.reader is not None:
            self._read(inquiry, answer_of(reply) if self.reader.wants(inquiry) else None)
        return reply

    async def stream(
        self, inquiry: Inquiry, on_start: Callable[[Asked], None] = lambda asked: None
    ) -> AsyncGenerator[bytes]:
        """See `Dispatch.stream`."""
        keep, size, events = self._wants(inquiry), 0, list[bytes]()
        read = self.reader is not None and self.reader.wants(inquiry)
        async with aclosing(self._dispatch.stream(inquiry, on_start)) as chunks:
            async for chunk in chunks:
                size += len(chunk)
                if (keep or read) and size <= 4 * MOST_BYTES:  # an event is some times longer than its text
                    events.append(chunk)
                yield chunk
        if keep and size <= 4 * MOST_BYTES:
            self._note(inquiry, streamed_answer(b"".join(events)))
        if self.reader is not None:
            self._read(
                inquiry, streamed_answer(b"".join(events)) if read and size <= 4 * MOST_BYTES else None
            )

    def feedback(self, said: Mapping[str, Any], caller: Caller) -> dict[str, Any]:
        """Store what a client says about its own request; the later word counts.

        The correction and the comment are kept only if the texts of the request are.
        Raises `InputError`, or `NotFound` for a request that is not the caller's.
        """
        feedback = checked(said)
        row = self._requests.find(feedback.request_id)
        if row is None or (row.principal, row.project) != (caller.principal, caller.project):
            raise NotFound("request", feedback.request_id, hint="The 'agentd' field of an answer has its id")
        texts = self._is_kept(row.id)
        correction = redact(feedback.correction) if texts else ""
        comment = redact(feedback.comment) if texts else ""
        verdict = VERDICTS[feedback.score] if feedback.score is not None else "unrated"
        self._judgements.put(
            [
                Judgement(
                    subject=REQUESTS, item=row.id, author=caller.principal, principal=caller.principal,
                    verdict=verdict, value={"correction": correction} if correction else None, note=comment,
                )
            ]
        )  # fmt: skip
        self._journal.append(
            "request.feedback", row.id, caller.principal, verdict=verdict, corrected=bool(correction)
        )
        if self.reader is not None:
            self.reader.rated(row, verdict)
        stored = {
            "score": feedback.score is not None,
            "correction": bool(correction),
            "comment": bool(comment),
        }
        return {"request_id": row.id, "stored": [name for name, is_stored in stored.items() if is_stored]}

    def kept(self, name: str, since: float = 0.0) -> list[Exchange]:
        self._write_now(list(self._pending.values()))
        return self._table.list(name, since)

    async def expire(self) -> None:
        """Let go of texts, and of what was said about them, that are older than `keep_days`."""
        before = time.time() - self._capture.keep_days * DAY_S
        self._judgements.forget(REQUESTS, before)
        if gone := await asyncio.to_thread(self._table.forget, before):
            self._journal.append("traffic.expired", "traffic", "daemon", exchanges=gone)

    async def aclose(self) -> None:
        if self._writer is not None:
            self._writer.cancel()
            await asyncio.gather(self._writer, return_exceptions=True)
        self._write_now(list(self._pending.values()))
        self._table.close()

    # --- parts ------------------------------------------------------------------------------

    def _read(self, inquiry: Inquiry, answer: tuple[str, str] | None) -> None:
        row = self._requests.find(inquiry.id)
        if self.reader is not None and row is not None:
            self.reader.answered(inquiry, row, answer[0] if answer else None)

    def _wants(self, inquiry: Inquiry) -> bool:
        return (
            bool(self._capture.aliases)
            and inquiry.keep
            and inquiry.api == "chat/completions"
            and not inquiry.caller.principal.startswith("job:")
            and is_drawn(inquiry.id, self._capture.share)
        )

    def _is_kept(self, request_id: str) -> bool:
        try:
            return request_id in self._pending or self._table.find(request_id) is not None
        except AgentdError:  # a disk that fails costs the texts and not the score
            return False

    def _note(self, inquiry: Inquiry, answer: tuple[str, str] | None) -> None:
        row, messages = self._requests.find(inquiry.id), texts_of(inquiry.body["messages"])
        if row is None or answer is None or messages is None or not self._is_wanted(row):
            return
        exchange = Exchange(
            id=row.id, asked=row.asked, model=row.model, principal=row.principal, project=row.project,
            messages=messages, answer=answer[0], finish=answer[1], at=row.at,
            user=str(inquiry.body.get("user") or ""),
        )  # fmt: skip
        size = len(answer[0]) + sum(len(message["content"]) for message in messages)
        if size > MOST_BYTES:
            return
        if size + sum(each for each, _ in self._pending.values()) > MOST_PENDING_BYTES:
            self._tell_dropped("they come faster than they can be written")
            return
        self._pending[row.id] = size, exchange
        if self._writer is None or self._writer.done():
            self._writer = asyncio.create_task(self._write(), name="traffic")

    def _is_wanted(self, row: RequestRow) -> bool:
        return any(
            fnmatch.fnmatchcase(name, pattern)
            for pattern in self._capture.aliases
            for name in (row.asked, row.model)
        )

    async def _write(self) -> None:
        while self._pending:
            await asyncio.sleep(WRITE_EVERY_S)
            await asyncio.to_thread(self._write_now, list(self._pending.values()))

    def _write_now(self, batch: Sequence[tuple[int, Exchange]]) -> None:
        """Write some of what is pending, without secrets; what cannot be written is dropped."""
        if not batch:
            return
        try:
            self._table.add(Exchange(**redact(exchange.model_dump())) for _, exchange in batch)
            self._failing = False
        except AgentdError as error:
            self._tell_dropped(str(error))
        finally:
            for _, exchange in batch:
                self._pending.pop(exchange.id, None)

    def _tell_dropped(self, why: str) -> None:
        """Once, until something could be written again."""
        if not self._failing:
            log.warning("traffic is not kept: %s", why)
        self._failing = True


def is_drawn(request_id: str, share: float) -> bool:
    """Whether a request is among a share of all; the same answer for an id, always."""
    return int.from_bytes(hashlib.sha256(request_id.encode()).digest()[:8]) < share * 2**64


def checked(said: Mapping[str, Any]) -> Feedback:
    try:
        feedback = Feedback.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:1])
        raise InputError(
            f"{where!r}: {first['msg']}", hint="Give request_id, and score or correction"
        ) from error
    if feedback.score is None and not feedback.correction and not feedback.comment:
        raise InputError("The feedback says nothing", hint="Give score (1, 0, -1), correction or comment")
    return feedback


def texts_of(messages: Sequence[Any]) -> list[dict[str, str]] | None:
    """Messages as role and text; None where one is anything else, such as a picture or a tool's result."""
    texts: list[dict[str, str]] = []
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list) and all(_is_text(part) for part in content):
            content = "\n".join(part["text"] for part in content)
        if not isinstance(content, str) or message.get("tool_calls") or message.get("role") not in SPOKEN:
            return None
        role = "system" if message["role"] == "developer" else message["role"]
        texts.append({"role": role, "content": content})
    return texts


def answer_of(reply: Mapping[str, Any]) -> tuple[str, str] | None:
    """The text of the first choice, and why it ended; None where it is no text."""
    try:
        choice = reply["choices"][0]
        message, finish = choice["message"], str(choice.get("finish_reason") or "")
        text = None if message.get("tool_calls") else message["content"]
    except (KeyError, IndexError, TypeError, AttributeError):
        return None
    return (text, finish) if isinstance(text, str) and text else None


def streamed_answer(raw: bytes) -> tuple[str, str] | None:
    """The same of server-sent events."""
    text, finish = "", ""
    for choice in _streamed_choices(raw):
        delta = choice.get("delta") or {}
        if delta.get("tool_calls"):
            return None
        text += delta.get("content") or ""
        finish = choice.get("finish_reason") or finish
    return (text, finish) if text else None


def _streamed_choices(raw: bytes) -> Iterator[dict[str, Any]]:
    for line in raw.splitlines():
        if not line.startswith(b"data:") or line.endswith(b"[DONE]"):
            continue
        try:
            choices = json.loads(line[5:])["choices"]
        except (ValueError, KeyError, TypeError):
            continue
        yield from (c for c in choices if isinstance(c, dict) and not c.get("index"))


def _is_text(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)
