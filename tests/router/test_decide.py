"""Whom of an alias to ask, in which order, and why."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentd.errors import InputError
from agentd.router.decide import Measured, draw_of, need_of, refusal, route
from agentd.sdk import Alias, Model

SMALL = Model(name="small", kind="local", context=100, capabilities=("tools",))
LARGE = Model(
    name="large", kind="frontier", endpoint="http://127.0.0.1:1/v1", residency="us",
    input_micro_usd_per_mtok=3_000_000, output_micro_usd_per_mtok=15_000_000,
)  # fmt: skip
MIDDLE = LARGE.model_copy(
    update={"name": "middle", "input_micro_usd_per_mtok": 100_000, "output_micro_usd_per_mtok": 400_000}
)
MODELS = {model.name: model for model in (SMALL, LARGE, MIDDLE)}
PICTURE = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}]


def asking(text: Any = "hi", **more: Any) -> dict[str, Any]:
    return {"model": "support", "messages": [{"role": "user", "content": text}], **more}


def names(alias: Alias, body: dict[str, Any], draw: float = 0.0, **more: Any) -> list[str]:
    found = route(alias, MODELS, need_of("chat/completions", body), draw, **more)
    return [candidate.model.name for candidate in found.order]


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (asking("x" * 4_000), "about 1000 tokens do not fit its context of 100"),
        (asking(max_tokens=200), "about 200 tokens do not fit its context of 100"),
        (asking(PICTURE), "it lacks vision"),
        (asking(response_format={"type": "json_schema", "json_schema": {}}), "it lacks json_schema"),
        (asking(logprobs=True, reasoning_effort="low"), "it lacks logprobs, reasoning_effort"),
        (asking(tools=[{"type": "function"}]), ""),
        (asking(), ""),
    ],
)
def test_what_a_model_lacks_is_said(body: dict[str, Any], why: str) -> None:
    assert refusal(SMALL, need_of("chat/completions", body)) == why


def test_a_model_without_the_path_or_with_an_unknown_price_is_not_asked() -> None:
    chat_only = LARGE.model_copy(update={"apis": ("chat/completions",)})
    assert refusal(chat_only, need_of("embeddings", {"input": "x"})) == "its endpoint has no embeddings"
    unpriced = LARGE.model_copy(update={"output_micro_usd_per_mtok": None})
    assert refusal(unpriced, need_of("chat/completions", asking())) == "what it costs is not known"


def test_residency_keeps_texts_where_they_may_be_and_what_is_served_here_is_here() -> None:
    alias = Alias(name="support", weights={"large": 1, "small": 1}, residency=("here", "eu"))
    found = route(alias, MODELS, need_of("chat/completions", asking()), 0.0)
    assert [candidate.model.name for candidate in found.order] == ["small"]
    assert found.passed == {"large": "it processes texts in 'us', and only here, eu is allowed"}


def test_shares_are_kept_and_the_others_come_after() -> None:
    alias = Alias(name="support", weights={"large": 3, "middle": 1}, fallbacks=("small",))
    drawn = Counter(names(alias, asking(), n / 100)[0] for n in range(100))
    assert drawn == {"large": 75, "middle": 25}
    assert names(alias, asking(), 0.99) == ["middle", "large", "small"]


def test_the_share_of_a_model_that_cannot_answer_goes_to_the_others() -> None:
    alias = Alias(name="support", weights={"small": 1, "large": 1})
    assert {names(alias, asking(PICTURE), n / 10)[0] for n in range(10)} == {"large"}


def test_a_conversation_stays_with_its_model_and_so_does_a_key_and_a_user() -> None:
    first = asking("how do I pay?")
    later = {**first, "messages": [*first["messages"], {"role": "assistant", "content": "By card."},
                                   {"role": "user", "content": "Thanks"}]}  # fmt: skip
    system = {"role": "system", "content": "Be kind."}
    first["messages"].insert(0, system)
    later["messages"].insert(0, system)
    assert draw_of(first) == draw_of(later)
    assert draw_of(asking("a"), "k") == draw_of(asking("b"), "k")
    assert draw_of(asking("a", user="u")) == draw_of(asking("b", user="u")) != draw_of(asking("a"))


@given(st.text(), st.text())
def test_a_draw_is_a_share(text: str, key: str) -> None:
    assert 0 <= draw_of(asking(text), key) < 1


def test_draws_are_even() -> None:
    below = sum(draw_of(asking(f"question {n}")) < 0.3 for n in range(2_000))
    assert 500 < below < 700


CHEAPEST = Alias(
    name="support",
    weights={"large": 1, "middle": 1, "small": 1},
    choose="cheapest",
    good_enough=0.8,
    suites={"*": "tickets", "code": "humaneval"},
)
SCORES = {
    ("large", "tickets"): 0.95, ("middle", "tickets"): 0.9, ("small", "tickets"): 0.5,
    ("large", "humaneval"): 0.9, ("middle", "humaneval"): 0.7,
}  # fmt: skip


def quality(model: str, suite: str) -> Measured | None:
    score = SCORES.get((model, suite))
    return None if score is None else Measured(suite, score, score - 0.05)


def test_the_cheapest_that_is_measured_to_be_good_enough_comes_first() -> None:
    assert names(CHEAPEST, asking(), quality=quality) == ["middle", "large", "small"]
    found = route(CHEAPEST, MODELS, need_of("chat/completions", asking()), 0, quality)
    assert found.order[0].why == ("the cheapest of 2 that are good enough: 0.900 on tickets, at least 0.850")
    assert found.order[2].why.endswith("0.500 on tickets, at least 0.450, is below 0.8")


def test_a_class_is_judged_by_its_own_suite() -> None:
    assert names(CHEAPEST, asking(), quality=quality, task="code") == ["large", "middle", "small"]


def test_the_best_comes_first_where_none_is_good_enough_and_the_unmeasured_last() -> None:
    picky = CHEAPEST.model_copy(update={"good_enough": 0.99})
    found = route(picky, MODELS, need_of("chat/completions", asking()), 0, quality, task="code")
    assert [candidate.model.name for candidate in found.order] == ["large", "middle", "small"]
    assert found.order[-1].why == "none is good enough for 'code': it was not measured on humaneval"


def test_a_model_that_thinks_long_costs_what_it_thinks() -> None:
    """The list price of the middle one is lower, and it answers with 100 times as many tokens."""
    long_winded = {"middle": 30_000.0, "large": 100.0}
    alias = CHEAPEST.model_copy(update={"weights": {"large": 1, "middle": 1}})
    assert names(alias, asking(), quality=quality, typical_out=lambda name: long_winded[name])[0] == "large"


@pytest.mark.parametrize("value", ["7", -1, 1.5, True])
def test_a_limit_that_is_none_is_refused(value: Any) -> None:
    with pytest.raises(InputError, match="'max_tokens' should be a whole number"):
        need_of("chat/completions", asking(max_tokens=value))
