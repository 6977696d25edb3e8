"""One request: what came in, and what is to be said of it afterwards."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentd.errors import InputError
from agentd.ids import new_id
from agentd.policy.callers import Caller
from agentd.router.decide import Route
from agentd.router.metering import Attempt
from agentd.sdk import Api, prompt_digest
from agentd.store.requests import RequestRow

__all__ = ["Asked", "Inquiry", "checked"]

NEEDED: Mapping[Api, tuple[str, type | tuple[type, ...]]] = {
    "chat/completions": ("messages", list),
    "messages": ("messages", list),
    "completions": ("prompt", (str, list)),
    "embeddings": ("input", (str, list)),
    "responses": ("input", (str, list)),
}
"""What a request to each path cannot be without."""
MOST_SOURCES = 50


@dataclass(frozen=True, slots=True)
class Inquiry:
    """A request as it came: its body, who asks, and for which path after ``/v1/``.

    `key` keeps to one model of an alias whoever gives the same. Its texts are never kept without `keep`.
    `headers` go on to the endpoint. `parent` is the span that it is part of, as a W3C ``traceparent``.
    `sources` name what of documents its messages hold.
    """

    body: Mapping[str, Any]
    caller: Caller
    api: Api = "chat/completions"
    id: str = field(default_factory=lambda: new_id("req"))
    key: str = ""
    keep: bool = True
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    parent: str = ""
    sources: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The model or alias that it asks for. Raises `InputError`."""
        return checked(self.api, self.body)


@dataclass(slots=True)
class Asked:
    """One request on its way, and what is to be said of it afterwards."""

    inquiry: Inquiry
    route: Route
    classified: str = ""
    started: float = field(default_factory=time.monotonic)
    attempts: list[dict[str, Any]] = field(default_factory=list)
    spent: int = 0
    model: str = ""
    why: str = ""
    cached: bool = False

    def note(self, attempt: Attempt, status: str, first_s: float | None = None) -> None:
        """An attempt has ended, and its cost is known; `first_s` is the time to a stream's first event."""
        self.spent += attempt.micro_usd
        facts = {
            "model": attempt.model.name,
            "status": status,
            "after_s": round(attempt.began - self.started, 4),
            "seconds": round(time.monotonic() - attempt.began, 4),
            "micro_usd": attempt.micro_usd,
        }
        if used := attempt.usage:
            facts |= {
                "input_tokens": used.input,
                "output_tokens": used.output,
                "cached_tokens": used.cached,
                "reasoning_tokens": used.reasoning,
            }
        if first_s is not None:
            facts["first_token_s"] = round(first_s, 4)
        self.attempts.append(facts)

    def settle(self, attempt: Attempt) -> None:
        """This one answers; the attempts noted before it did not."""
        self.model, self.why = attempt.model.name, attempt.why
        could_not = [each["model"] for each in self.attempts if not each["status"].startswith("NotEnough")]
        if could_not:
            self.why += f"; after {', '.join(could_not)} could not"
        for each in self.attempts:
            if each["status"].startswith("NotEnough"):
                self.why += f"; {each['model']} was not enough: {each['status'].partition(': ')[2]}"

    @property
    def id(self) -> str:
        return self.inquiry.id

    def record(self, status: str) -> RequestRow:
        """What is remembered of it."""
        own = [each for each in self.attempts if each["model"] == self.model]
        last = (own or self.attempts or [{}])[-1]
        first = self.route.order[0].model.name if self.route.order else ""
        facts = {
            "api": self.inquiry.api,
            "chosen": first,
            "task": self.route.task,
            "classified": self.classified,
            "attempts": self.attempts,
            "passed": self.route.passed,
            "cached": self.cached,
            "parent": self.inquiry.parent,
            "system": prompt_digest(text) if (text := _system_of(self.inquiry.body)) else "",
            "sources": list(self.inquiry.sources[:MOST_SOURCES]),
        }
        return RequestRow(
            id=self.id,
            asked=self.route.asked,
            model=self.model or last.get("model", first),
            why=self.why,
            principal=self.inquiry.caller.principal,
            project=self.inquiry.caller.project,
            status=status,
            input_tokens=last.get("input_tokens", 0),
            output_tokens=last.get("output_tokens", 0),
            micro_usd=self.spent,
            seconds=time.monotonic() - self.started,
            at=time.time(),
            trace={name: value for name, value in facts.items() if value},
        )


def _system_of(body: Mapping[str, Any]) -> str:
    """The text of its system prompt, in any of the APIs; empty where there is none."""
    text = body.get("system") or body.get("instructions")
    messages = body.get("messages")
    if not text and isinstance(messages, list) and isinstance(first := messages[0], dict):
        text = first.get("content") if first.get("role") in ("system", "developer") else ""
    return text if isinstance(text, str) else ""


def checked(api: Api, body: Mapping[str, Any]) -> str:
    """The name that a request asks for. Raises `InputError`."""
    name = body.get("model")
    if not isinstance(name, str) or not name:
        raise InputError("The request names no model", hint='Set "model" to a model or alias')
    needed, kind = NEEDED[api]
    if not isinstance(body.get(needed), kind) or not body[needed]:
        raise InputError(f"The request has no {needed}", hint=f'Set "{needed}", which must not be empty')
    return name
