"""Which models may answer a request, in which order, and why: pure functions of what is known.

Hard limits come first: what the request needs and a model lacks, context, residency, a price nobody knows.
Of what is left an alias chooses by its shares, or the cheapest model whose measured score is good enough
for the class of the request. The others follow as fallbacks. Every model passed over has its reason.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from agentd.errors import InputError
from agentd.sdk import Alias, Api, Capability, Model

__all__ = [
    "APIS",
    "NO_PRICE",
    "Candidate",
    "Measured",
    "Need",
    "Route",
    "contents_of",
    "draw_of",
    "need_of",
    "route",
]

APIS: tuple[Api, ...] = get_args(Api)
BYTES_PER_TOKEN = 4
"""For fitting, on the low side: what is a little too long is refused by the model, and goes to the next."""
TYPICAL_OUT = 256
NO_PRICE = "what it costs is not known"
LIMITS = ("max_completion_tokens", "max_tokens", "max_output_tokens")
MEDIA: Mapping[str, Capability] = {
    "image_url": "vision", "input_image": "vision", "image": "vision", "input_audio": "audio"
}  # fmt: skip


SPOKEN: Mapping[str, tuple[Api, ...]] = {
    "anthropic": ("chat/completions", "messages"), "google": ("chat/completions",)
}  # fmt: skip
"""What can be asked of endpoints that do not speak OpenAI's protocol."""

Content = tuple[str, str]
"""A text and the kind of the part that it is of."""


@dataclass(frozen=True, slots=True)
class Need:
    """What a request asks of a model. Tokens are estimates; `tokens_out` is 0 where no limit is given."""

    api: Api
    tokens_in: int
    tokens_out: int
    capabilities: frozenset[Capability]


@dataclass(frozen=True, slots=True)
class Measured:
    """The newest score of a model on a suite, with the low end of its 95 % interval."""

    suite: str
    score: float
    low: float


@dataclass(frozen=True, slots=True)
class Candidate:
    model: Model
    why: str


@dataclass(slots=True)
class Route:
    """`order` is whom to ask, best first; `passed` maps who is not asked to the reason."""

    asked: str
    order: list[Candidate] = field(default_factory=list)
    passed: dict[str, str] = field(default_factory=dict)
    task: str = ""


Quality = Callable[[str, str], Measured | None]
"""What (model, suite) came to."""


def need_of(api: Api, body: Mapping[str, Any], contents: Sequence[Content] | None = None) -> Need:
    """Raises `InputError` for a limit that is none. `contents` are those of the body, if they are known."""
    size, wants = 0, set[Capability]()
    for text, kind in contents_of(body) if contents is None else contents:
        size += len(text)
        if kind in MEDIA:
            wants.add(MEDIA[kind])
    if tools := body.get("tools"):
        wants.add("tools")
        size += len(json.dumps(tools))
    form = body.get("response_format")
    if isinstance(form, dict) and form.get("type") == "json_schema":
        wants.add("json_schema")
    if body.get("logprobs"):
        wants.add("logprobs")
    if body.get("reasoning_effort") or body.get("reasoning"):
        wants.add("reasoning_effort")
    limit = max((count for name in LIMITS if (count := count_of(body, name)) is not None), default=0)
    return Need(api, size // BYTES_PER_TOKEN, limit, frozenset(wants))


def count_of(body: Mapping[str, Any], name: str) -> int | None:
    """A count in a request; None where there is none. Raises `InputError`."""
    value = body.get(name)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 0):
        return value
    raise InputError(f"{name!r} should be a whole number that is not negative, and is {value!r}")


def draw_of(body: Mapping[str, Any], key: str = "", contents: Sequence[Content] | None = None) -> float:
    """A number in [0, 1) that stays the same for a key, a user or, without either, a conversation."""
    key = key or str(body.get("prompt_cache_key") or body.get("user") or "")
    if not key:
        first = itertools.islice(contents_of(body) if contents is None else contents, 2)
        key = "\n".join(text[:2000] for text, _ in first)
    return int.from_bytes(hashlib.blake2b(key.encode(errors="replace"), digest_size=8).digest()) / 2**64


def refusal(model: Model, need: Need, residency: Sequence[str] = ()) -> str:
    """Why a model cannot be asked; empty if it can."""
    if model.price_unknown:
        return NO_PRICE
    apis = model.apis or SPOKEN.get(model.dialect, ())
    if apis and need.api not in apis:
        return f"its endpoint has no {need.api}"
    if model.capabilities is not None and (lacks := need.capabilities - set(model.capabilities)):
        return f"it lacks {', '.join(sorted(lacks))}"
    if residency and (model.residency or _home(model)) not in residency:
        place = model.residency or _home(model) or "nobody says where"
        return f"it processes texts in {place!r}, and only {', '.join(residency)} is allowed"
    if model.context and need.tokens_in + need.tokens_out > model.context:
        return f"about {need.tokens_in + need.tokens_out} tokens do not fit its context of {model.context}"
    return ""


def route(
    alias: Alias,
    models: Mapping[str, Model],
    need: Need,
    draw: float,
    quality: Quality = lambda model, suite: None,
    typical_out: Callable[[str], float] = lambda model: TYPICAL_OUT,
    task: str = "",
    enough: float | None = None,
) -> Route:
    """Whom of an alias to ask. `draw` in [0, 1) is where in the shares the request falls.

    `enough` is the probability that the cheapest model is enough, where that is known.
    """
    found = Route(alias.name, task=task)
    able: dict[str, Model] = {}
    for name in dict.fromkeys((*alias.weights, *alias.fallbacks)):
        if (model := models.get(name)) is None:
            found.passed[name] = "it is not in the catalog"
        elif why := refusal(model, need, alias.residency):
            found.passed[name] = why
        else:
            able[name] = model
    shares = {name: share for name, share in alias.weights.items() if name in able}
    chosen = list(
        _cheapest(alias, shares, able, need, quality, typical_out, task, enough)
        if alias.choose == "cheapest"
        else _by_share(alias, shares, able, draw)
    )
    taken = {candidate.model.name for candidate in chosen}
    found.order = chosen + [
        Candidate(able[name], f"fallback of {alias.name!r}")
        for name in alias.fallbacks
        if name in able and name not in taken
    ]
    return found


def _by_share(
    alias: Alias, shares: Mapping[str, float], able: Mapping[str, Model], draw: float
) -> Iterator[Candidate]:
    """The one that the draw falls on, then the others by their shares."""
    if not shares:
        return
    total = sum(shares.values())
    ends = zip(shares, itertools.accumulate(shares.values()), strict=True)
    first = next((name for name, end in ends if draw * total < end), [*shares][-1])
    share = f" with weight {shares[first] / total:.0%}" if len(shares) > 1 else ""
    because = f" ({alias.reason})" if alias.reason else ""
    yield Candidate(able[first], f"alias {alias.name!r} points at {first!r}{share}{because}")
    for name in sorted((name for name in shares if name != first), key=lambda name: -shares[name]):
        yield Candidate(
            able[name], f"alias {alias.name!r} has it too, with weight {shares[name] / total:.0%}"
        )


def _cheapest(
    alias: Alias,
    shares: Mapping[str, float],
    able: Mapping[str, Model],
    need: Need,
    quality: Quality,
    typical_out: Callable[[str], float],
    task: str,
    enough: float | None,
) -> Iterator[Candidate]:
    """Those that are good enough, cheapest first; then the others, best first."""
    suite = alias.suites.get(task) or alias.suites.get("*", "")
    of = f" for {task!r}" if task and task in alias.suites else ""
    out = need.tokens_out or 32_768
    cost = {n: able[n].price(need.tokens_in, min(out, typical_out(n))) for n in shares}
    scores = {name: quality(name, suite) if suite else None for name in shares}
    bar = alias.good_enough or 0.0
    good = [n for n in shares if (m := scores[n]) is not None and m.low >= bar] if suite else list(shares)
    good.sort(key=lambda name: (cost[name], -shares[name]))
    if enough is not None and enough < alias.enough_at and len(good) > 1:
        hard = good.pop(0)
        good.append(hard)
    else:
        hard = ""
    for place, name in enumerate(good):
        measured = scores[name]
        proof = f": {measured.score:.3f} on {suite}, at least {measured.low:.3f}" if measured else ""
        rank = "the cheapest" if not place else "the next cheapest"
        if hard and not place:
            rank = f"{hard!r} is enough with {enough:.2f}, below {alias.enough_at:g}: the next"
        elif name == hard:
            rank = "the cheapest, as the last"
        yield Candidate(able[name], f"{rank} of {len(good)} that are good enough{of}{proof}")
    rest = sorted((name for name in shares if name not in good), key=lambda name: _worst(scores[name]))
    for name in rest:
        measured = scores[name]
        said = (
            f"{measured.score:.3f} on {suite}, at least {measured.low:.3f}, is below {bar:g}"
            if measured
            else f"it was not measured on {suite}"
        )
        yield Candidate(able[name], f"{'after those that are good enough' if good else 'none is good enough'}"
                        f"{of}: {said}")  # fmt: skip


def _worst(measured: Measured | None) -> float:
    return -measured.score if measured else 1.0


def _home(model: Model) -> str:
    """What is served on this machine is processed here."""
    return "" if model.endpoint else "here"


def contents_of(body: Mapping[str, Any]) -> Iterator[Content]:
    """Texts of a request, and the kinds of its other parts, as they come: (text, kind)."""
    for field_ in ("instructions", "system", "prompt"):
        if isinstance(text := body.get(field_), str):
            yield text, "text"
    items = body.get("messages", body.get("input", body.get("prompt", ())))
    if isinstance(items, str):
        if "input" in body:
            yield items, "text"
        return
    for item in items if isinstance(items, list) else ():
        if isinstance(item, str):
            yield item, "text"
            continue
        content = item.get("content") if isinstance(item, dict) else None
        if isinstance(content, str):
            yield content, "text"
        for part in content if isinstance(content, list) else ():
            if isinstance(part, dict):
                text = part.get("text")
                yield (text if isinstance(text, str) else ""), str(part.get("type") or "text")
