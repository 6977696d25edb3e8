"""What class a request is of, for aliases that name a classifier: the head that `train_router` left.

The text is the last that the user said. Its embedding comes from the embedder that the head was trained with,
if that is being served; without it, or when it takes too long, the head goes by what it can count.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agentd.errors import AgentdError
from agentd.router.classify import Classifier, Prediction, RecentEmbeddings

__all__ = ["Task", "Tasks", "question_of"]

EMBED_S = 0.25

Embed = Callable[[str, str], Awaitable[Sequence[float] | None]]
"""The vector of (embedder, text); None where there is none."""


@dataclass(frozen=True, slots=True)
class Task:
    """`label` is empty where nothing can be said; `enough` is the probability that the smaller model is."""

    label: str = ""
    enough: float | None = None
    why: str = ""


class Tasks:
    """Classifiers by the names of their artifacts, read when they are first asked for.

    `find` tells where the newest artifact of a name lies.
    """

    def __init__(self, find: Callable[[str], Path | None], embed: Embed) -> None:
        self._find, self._embed = find, embed
        self._known: dict[str, tuple[Path, Classifier, RecentEmbeddings]] = {}

    async def of(self, name: str, text: str) -> Task:
        """What the classifier `name` says of a text."""
        if not text:
            return Task(why="there is no text to classify")
        try:
            classifier, embeddings = self._open(name)
        except AgentdError as error:
            return Task(why=f"not classified: {error.message}")
        vector = None
        if classifier.dimension:
            try:
                async with asyncio.timeout(EMBED_S):
                    vector = await embeddings.of(text[: classifier.clip])
            except (TimeoutError, AgentdError):
                vector = None
        return _task(classifier, classifier.classify(text, vector), has_vector=vector is not None)

    def _open(self, name: str) -> tuple[Classifier, RecentEmbeddings]:
        path = self._find(name)
        known = self._known.get(name)
        if path is None:
            raise AgentdError(f"there is no artifact {name!r}")
        if known is None or known[0] != path:
            classifier = Classifier.load(path)
            known = path, classifier, RecentEmbeddings(partial(self._embed, classifier.embedder))
            self._known[name] = known
        return known[1:]


def _task(classifier: Classifier, said: Prediction, *, has_vector: bool) -> Task:
    by = "" if has_vector or not classifier.dimension else " by its counts alone: no embedding was at hand"
    if not said.label:
        return Task(why="not classified: no embedding was at hand")
    if classifier.kind == "difficulty":
        return Task(enough=said.enough, why=f"the smaller model is enough with {said.enough or 0:.2f}{by}")
    if said.refused:
        return Task(why=f"like no class, with {said.out_of_scope or 0:.2f}")
    return Task(label=said.label, why=f"{said.label!r} with {said.confidence:.2f}{by}")


def question_of(body: Mapping[str, Any]) -> str:
    """The last text of the user in a request; empty where there is none."""
    items = body.get("messages", body.get("input"))
    if isinstance(items, str):
        return items
    for item in reversed(items) if isinstance(items, list) else ():
        if not isinstance(item, dict) or item.get("role") != "user":
            continue
        content = item.get("content")
        parts = content if isinstance(content, list) else [{"text": content}]
        texts = [part.get("text") for part in parts if isinstance(part, dict)]
        return "\n".join(text for text in texts if isinstance(text, str))
    return body["prompt"] if isinstance(body.get("prompt"), str) else ""
