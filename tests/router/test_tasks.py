"""The class of a request, from its text to who answers it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agentd.errors import Unavailable
from agentd.policy.callers import Caller
from agentd.router.inquiry import Inquiry
from agentd.router.tasks import Task, Tasks, question_of
from agentd.sdk import Alias, Model, Report

pytestmark = pytest.mark.anyio

CLASSES = {
    "format": "agentd-router/1",
    "kind": "classes",
    "labels": ["chat", "code"],
    "embedder": {"name": "tiny", "digest": "d", "dimension": 0},
    "clip": 1000,
    "counts": [{"name": "code", "pattern": r"def |\{|;", "mean": 0.0, "scale": 1.0}],
    "head": {"weights": [[-9], [9]], "bias": [3, 0], "temperature": 1.0},
}
DIFFICULTY = CLASSES | {"kind": "difficulty", "labels": ["enough", "not_enough"]}
WITH_VECTOR = CLASSES | {
    "embedder": {"name": "tiny", "digest": "d", "dimension": 2},
    "counts": [],
    "head": {"weights": [[9, 0], [0, 9]], "bias": [0, 0], "temperature": 1.0},
}


@pytest.fixture
def head(tmp_path: Path) -> Any:
    """``head(content)``: the folder of a classifier."""

    def write(content: dict[str, Any]) -> Path:
        (tmp_path / "head").mkdir(exist_ok=True)
        (tmp_path / "head" / "router.json").write_text(json.dumps(content), encoding="utf-8")
        return tmp_path / "head"

    return write


async def nothing(embedder: str, text: str) -> Sequence[float] | None:
    raise Unavailable("nobody embeds")


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a"),
        ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, "b"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url"}]}
                ]
            },
            "a",
        ),
        ({"messages": [{"role": "system", "content": "a"}]}, ""),
        ({"input": "a"}, "a"),
        ({"prompt": "a"}, "a"),
        ({"messages": ["a", None]}, ""),
    ],
)
def test_the_question_is_what_the_user_said_last(body: dict[str, Any], text: str) -> None:
    assert question_of(body) == text


async def test_a_class_is_told_with_its_probability(head: Any) -> None:
    folder = head(CLASSES)
    tasks = Tasks(lambda name: folder, nothing)
    assert (await tasks.of("support", "def f(): {}")).label == "code"
    said = await tasks.of("support", "good morning")
    assert said.label == "chat"
    assert said.why == "'chat' with 0.95"


async def test_a_vector_is_asked_for_once_and_without_one_nothing_is_said(head: Any) -> None:
    folder, asked = head(WITH_VECTOR), list[tuple[str, str]]()

    async def embed(embedder: str, text: str) -> Sequence[float]:
        asked.append((embedder, text))
        return [0.0, 1.0]

    tasks = Tasks(lambda name: folder, embed)
    assert [(await tasks.of("support", "x")).label for _ in range(2)] == ["code", "code"]
    assert asked == [("tiny", "x")]
    without = await Tasks(lambda name: folder, nothing).of("support", "x")
    assert without == Task(why="not classified: no embedding was at hand")


async def test_a_classifier_that_is_not_there_or_broken_costs_the_class_and_not_the_answer(
    tmp_path: Path,
) -> None:
    assert (
        await Tasks(lambda name: None, nothing).of("a", "x")
    ).why == "not classified: there is no artifact 'a'"
    (tmp_path / "router.json").write_text("{", encoding="utf-8")
    assert (await Tasks(lambda name: tmp_path, nothing).of("a", "x")).why.startswith("not classified: ")


async def test_requests_go_where_their_class_was_measured(
    boot: Any, endpoint: Any, agent: Caller, head: Any, tmp_path: Path
) -> None:
    """The small model is good at chat alone; the head tells code from chat."""
    models = tuple(
        Model(
            name=name, kind="frontier", endpoint=endpoint.url, upstream="fine",
            input_micro_usd_per_mtok=price, output_micro_usd_per_mtok=price,
        )
        for name, price in (("small", 1_000), ("large", 1_000_000))
    )  # fmt: skip
    alias = Alias(
        name="support", weights={"small": 1, "large": 1}, choose="cheapest", good_enough=0.8,
        suites={"chat": "talk", "code": "programs"}, classifier="kinds",
    )  # fmt: skip
    daemon = await boot(models=models, aliases=(alias,))
    daemon.artifacts.add("router", head(CLASSES), name="kinds")
    for model, suite, low in (("small", "talk", 0.9), ("small", "programs", 0.2), ("large", "talk", 0.95),
                              ("large", "programs", 0.9)):  # fmt: skip
        daemon.reports.save(
            Report(
                id=f"rep-{model}-{suite}", suite=suite, suite_digest="", model=model, metric="exact_match",
                score=low + 0.02, low=low, high=low + 0.04, n=100, rows=tmp_path / "rows.jsonl",
            )
        )  # fmt: skip

    async def answered_by(text: str) -> str:
        body = {"model": "support", "messages": [{"role": "user", "content": text}]}
        return (await daemon.gateway.complete(Inquiry(body, agent)))["agentd"]["model"]

    assert await answered_by("good morning") == "small"
    assert await answered_by("def f(): {}") == "large"
    row = daemon.requests.list(1)[0]
    assert (row.trace["task"], row.trace["classified"][:11]) == ("code", "'code' with")
    assert "good enough for 'code'" in row.why
    hard = {**DIFFICULTY, "head": {"weights": [[0], [0]], "bias": [0, 2], "temperature": 1.0}}
    daemon.artifacts.add("router", head(hard), name="kinds")
    told = await daemon.routing.explain({"model": "support", "messages": [{"role": "user", "content": "hi"}]})
    assert told["classified"] == "the smaller model is enough with 0.12"
