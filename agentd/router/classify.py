"""What class a text is of, or whether the smaller model is enough, by a head that the user's examples fitted.

Reads the `router.json` of the recipe `train_router`: plain numbers, applied here without numpy or torch. It
knows nothing of models, of requests, or of where embeddings come from; a text whose embedding is not at hand
is judged by its counts alone if the head can, and is otherwise of no class.

Not covered: a text that no example resembles and that still lies near a class. The file is trusted like code,
as far as its patterns go: a pattern that backtracks takes long.
"""

from __future__ import annotations

import json
import math
import operator
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from agentd.errors import DataError, InputError

__all__ = ["ENOUGH", "UNCLASSIFIED", "Classifier", "Prediction", "RecentEmbeddings"]

FORMAT = "agentd-router/1"
UNCLASSIFIED = ""
ENOUGH = "enough"
Vector = Sequence[float]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore")


class _Embedder(_Part):
    name: str = ""
    digest: str = ""
    dimension: int


class _Count(_Part):
    name: str
    pattern: str
    mean: float
    scale: float


class _Head(_Part):
    weights: list[list[float]]
    bias: list[float]
    temperature: float


class _Scope(_Part):
    weights: tuple[float, float, float]
    bias: float
    threshold: float


class _File(_Part):
    format: Literal["agentd-router/1"]
    kind: Literal["classes", "difficulty"]
    labels: list[str]
    embedder: _Embedder
    clip: int
    counts: list[_Count]
    head: _Head
    without_embedding: _Head | None = None
    centroids: list[list[float]] | None = None
    scope: _Scope | None = None


@dataclass(frozen=True, slots=True)
class Prediction:
    """`label` is `UNCLASSIFIED` where nothing can be said; `out_of_scope` is a probability where it is known.

    `refused` says whether that is above the threshold chosen in training. `scores` are probabilities.
    """

    label: str
    confidence: float
    out_of_scope: float | None
    refused: bool
    scores: Mapping[str, float]

    @property
    def enough(self) -> float | None:
        """Probability that the smaller model is enough, of a head for difficulty."""
        return self.scores.get(ENOUGH)


class Classifier:
    """A head in memory. `classify` is pure and takes a few milliseconds for 77 classes of 384 dimensions."""

    def __init__(self, content: Mapping[str, Any], path: Path) -> None:
        """Raises `DataError` for what is no such file."""
        try:
            file = _File.model_validate(content)
            self._patterns = [re.compile(count.pattern) for count in file.counts]
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            field = ".".join(map(str, first["loc"]))
            raise DataError(path, f"{field}: {first['msg']}", hint="Train it again: train_router") from error
        except re.error as error:
            raise DataError(path, f"counts: {error}", hint="Train it again: train_router") from error
        width = file.embedder.dimension + len(file.counts)
        for head, wide in ((file.head, width), (file.without_embedding, len(file.counts))):
            if head and (
                len(head.weights) != len(file.labels)
                or len(head.bias) != len(file.labels)
                or any(len(row) != wide for row in head.weights)
                or not head.temperature > 0
            ):
                raise DataError(path, f"its head is not {len(file.labels)} labels by {wide} numbers",
                                hint="Train it again: train_router")  # fmt: skip
        self._file = file
        self.kind, self.labels, self.embedder = file.kind, tuple(file.labels), file.embedder.name
        self.dimension, self.clip = file.embedder.dimension, file.clip

    @classmethod
    def load(cls, path: Path) -> Classifier:
        """From `router.json` or the folder that holds it. Raises `DataError`."""
        file = path / "router.json" if path.is_dir() else path
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DataError(
                file, f"cannot be read: {error}", hint="Name an artifact of train_router"
            ) from error
        return cls(content, file)

    def classify(self, text: str, embedding: Vector | None = None) -> Prediction:
        """`embedding` has `dimension` numbers and length 1. Raises `InputError` for another dimension."""
        counts = self._counts(text[: self.clip])
        if embedding is None and self.dimension:
            if self._file.without_embedding is None:
                return Prediction(UNCLASSIFIED, 0.0, None, False, {})
            return self._said(_logits(self._file.without_embedding, counts), None)
        vector = [*(embedding or ())]
        if len(vector) != self.dimension:
            raise InputError(
                f"The embedding has {len(vector)} numbers, and the head was trained on {self.dimension}",
                hint=f"Embed with {self.embedder!r}",
            )
        return self._said(_logits(self._file.head, [*vector, *counts]), vector)

    def _counts(self, text: str) -> list[float]:
        return [
            (math.log1p(sum(1 for _ in pattern.finditer(text))) - count.mean) / count.scale
            for pattern, count in zip(self._patterns, self._file.counts, strict=True)
        ]

    def _said(self, logits: Sequence[float], vector: Vector | None) -> Prediction:
        top = max(logits)
        energy = top + math.log(sum(math.exp(each - top) for each in logits))
        scores = {label: math.exp(each - energy) for label, each in zip(self.labels, logits, strict=True)}
        best = max(scores, key=lambda label: scores[label])
        out = self._out(energy, top - energy, vector) if vector is not None else None
        refused = out is not None and self._file.scope is not None and out > self._file.scope.threshold
        return Prediction(best, scores[best], out, refused, scores)

    def _out(self, energy: float, log_confidence: float, vector: Vector) -> float | None:
        scope, centroids = self._file.scope, self._file.centroids
        if scope is None or not centroids:
            return None
        near = max(_dot(centroid, vector) for centroid in centroids)
        score = _dot(scope.weights, (energy, log_confidence, near)) + scope.bias
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, score))))


def _dot(one: Vector, two: Vector) -> float:
    return sum(map(operator.mul, one, two))


def _logits(head: _Head, features: Vector) -> list[float]:
    return [
        (_dot(row, features) + bias) / head.temperature
        for row, bias in zip(head.weights, head.bias, strict=True)
    ]


class RecentEmbeddings:
    """Embeddings of the last texts, each asked for once; what is not there in time is None."""

    def __init__(self, ask: Callable[[str], Awaitable[Vector | None]], size: int = 2048) -> None:
        self._ask, self._size = ask, size
        self._known: OrderedDict[str, Vector] = OrderedDict()

    async def of(self, text: str) -> Vector | None:
        if (known := self._known.get(text)) is not None:
            self._known.move_to_end(text)
            return known
        if (found := await self._ask(text)) is None:
            return None
        self._known[text] = found
        while len(self._known) > self._size:
            self._known.popitem(last=False)
        return found
