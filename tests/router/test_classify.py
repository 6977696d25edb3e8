"""agentd/router/classify.py: a head of plain numbers, read and applied."""

from __future__ import annotations

import asyncio
import json
import math
import time
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import DataError, InputError
from agentd.router.classify import UNCLASSIFIED, Classifier, RecentEmbeddings

PATH = Path("router.json")


def content(**changes: Any) -> dict[str, Any]:
    """Two classes along two axes, and one count: that of digits."""
    return {
        "format": "agentd-router/1",
        "kind": "classes",
        "labels": ["card", "loan"],
        "embedder": {"name": "tiny", "digest": "d", "dimension": 2},
        "clip": 10,
        "counts": [{"name": "digits", "pattern": r"\d", "mean": 0.0, "scale": 1.0}],
        "head": {"weights": [[4, 0, 0], [0, 4, 2]], "bias": [0, 0], "temperature": 2.0},
        "centroids": [[1, 0], [0, 1]],
        "scope": {"weights": [0, 0, -10], "bias": 5, "threshold": 0.5},
    } | changes


def test_scores_are_the_softmax_of_scores_over_the_temperature() -> None:
    said = Classifier(content(), PATH).classify("no digit", [1.0, 0.0])
    assert said.label == "card"
    assert said.confidence == pytest.approx(math.exp(2) / (math.exp(2) + 1))
    assert sum(said.scores.values()) == pytest.approx(1)


def test_counts_weigh_beside_the_embedding_and_only_the_beginning_is_counted() -> None:
    head = Classifier(content(), PATH)
    assert head.classify("1234567", [0.6, 0.4]).label == "loan"
    assert head.classify(" " * 10 + "1234567", [0.6, 0.4]).label == "card"


def test_what_is_near_no_class_is_refused() -> None:
    head = Classifier(content(), PATH)
    near, far = head.classify("x", [0.0, 1.0]), head.classify("x", [-0.7, -0.7])
    assert near.out_of_scope == pytest.approx(1 / (1 + math.exp(5)))
    assert not near.refused
    assert far.refused


def test_without_an_embedding_a_text_is_of_no_class_unless_the_head_can_go_by_counts() -> None:
    assert Classifier(content(), PATH).classify("x").label == UNCLASSIFIED
    plain = {"weights": [[0], [1]], "bias": [0.5, 0], "temperature": 1}
    head = Classifier(
        content(kind="difficulty", labels=["enough", "not_enough"], without_embedding=plain), PATH
    )
    assert head.classify("no digit").label == "enough"
    assert head.classify("123").enough == pytest.approx(1 / (1 + math.exp(math.log1p(3) - 0.5)))


def test_an_embedding_of_another_dimension_is_refused_and_the_embedder_named() -> None:
    with pytest.raises(InputError, match="has 3 numbers, and the head was trained on 2") as raised:
        Classifier(content(), PATH).classify("x", [1, 0, 0])
    assert "'tiny'" in raised.value.hint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"format": "other"}, "format: "),
        ({"labels": ["one"]}, "is not 1 labels by 3 numbers"),
        ({"head": {"weights": [[1], [1]], "bias": [0, 0], "temperature": 1}}, "is not 2 labels by 3 numbers"),
        ({"counts": [{"name": "n", "pattern": "(", "mean": 0, "scale": 1}]}, "counts: "),
    ],
)
def test_what_is_no_head_is_refused_with_its_file(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=f"router.json: .*{said}"):
        Classifier(content(**changes), PATH)


def test_a_head_is_read_from_its_file_or_the_folder_of_it(tmp_path: Path) -> None:
    (tmp_path / "router.json").write_text(json.dumps(content()))
    for path in (tmp_path, tmp_path / "router.json"):
        assert Classifier.load(path).labels == ("card", "loan")
    with pytest.raises(DataError, match="cannot be read"):
        Classifier.load(tmp_path / "other.json")


def test_eighty_classes_take_less_than_ten_milliseconds() -> None:
    row = [0.05] * 385
    big = content(
        labels=[f"c{n}" for n in range(80)],
        embedder={"dimension": 384},
        head={"weights": [row] * 80, "bias": [0] * 80, "temperature": 1},
        centroids=[row[:384]] * 80,
    )
    head, taken = Classifier(big, PATH), []
    for _ in range(20):
        started = time.process_time()
        head.classify("How long does it take?", row[:384])
        taken.append(time.process_time() - started)
    assert min(taken) < 0.010


def test_a_text_is_embedded_once_and_forgotten_when_others_came() -> None:
    asked: list[str] = []

    async def ask(text: str) -> list[float] | None:
        asked.append(text)
        return None if text == "down" else [1.0]

    async def all_of(*texts: str) -> list[Any]:
        recent = RecentEmbeddings(ask, size=2)
        return [await recent.of(text) for text in texts]

    assert asyncio.run(all_of("a", "a", "b", "c", "a", "down", "down")) == [[1.0]] * 5 + [None, None]
    assert asked == ["a", "b", "c", "a", "down", "down"]
