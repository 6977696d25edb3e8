"""Endpoints that fail in every way they can: an answer from the next model, or a clean error."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from agentd.config import Budget
from agentd.daemon import Daemon
from agentd.errors import AgentdError, Denied, InputError, Unavailable
from agentd.policy.callers import Caller
from agentd.router.faults import UpstreamError
from agentd.router.inquiry import Inquiry
from agentd.sdk import Alias, Model

pytestmark = pytest.mark.anyio
Reach = Callable[..., Awaitable[Daemon]]
SPENT = 10 * 3 + 5 * 15
FAULTS = ("locked", "broken", "garbage", "hangs_up", "limited", "short", "polite", "gone", "unserved")
NOT_ENOUGH = ("cut_off", "unsure", "prose")
STREAM_FAULTS = (*FAULTS[:3], *FAULTS[4:], "babble", "sorry", "hangs_up")


@pytest.fixture
def reach(boot: Any, endpoint: Any) -> Reach:
    async def start(*aliases: Alias, **changes: Any) -> Daemon:
        """One model for each behaviour of the endpoint, 3 and 15 micro-USD a token."""
        names = {
            *FAULTS,
            *STREAM_FAULTS,
            "fine",
            "cut",
            "slow",
            "limited_once",
            "picky",
            *NOT_ENOUGH,
            "writes",
        } - {
            "gone",
            "unserved",
        }
        models = {
            name: Model(
                name=name, kind="frontier", endpoint=endpoint.url, upstream=name,
                input_micro_usd_per_mtok=3_000_000, output_micro_usd_per_mtok=15_000_000,
            )
            for name in names
        }  # fmt: skip
        models["gone"] = models["fine"].model_copy(
            update={"name": "gone", "endpoint": "http://127.0.0.1:1/v1"}
        )
        models["unserved"] = Model(name="unserved", kind="local")
        models["slow"] = models["slow"].model_copy(update={"total_s": 0.1, "first_token_s": 0.1})
        models |= {name: model for model in changes.pop("also", ()) if (name := model.name)}
        return await boot(models=tuple(models.values()), aliases=aliases, **changes)

    return start


def to_fine(first: str, **more: Any) -> Alias:
    return Alias(name="support", weights={first: 1}, fallbacks=("fine",), **more)


def body(model: str = "support", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **more}


async def read(daemon: Daemon, caller: Caller, **more: Any) -> list[str]:
    stream = daemon.gateway.stream(Inquiry(body(**more), caller))
    text = b"".join([chunk async for chunk in stream]).decode()
    return [line[6:] for line in text.splitlines() if line.startswith("data: ")]


@pytest.mark.parametrize("fault", [*FAULTS, "slow"])
async def test_whatever_a_model_does_the_next_one_answers_and_both_are_accounted_for(
    reach: Reach, agent: Caller, fault: str
) -> None:
    daemon = await reach(to_fine(fault))
    reply = await daemon.gateway.complete(Inquiry(body(), agent))
    assert reply["choices"][0]["message"]["content"] == "hello"
    assert reply["agentd"]["model"] == "fine"
    row = daemon.requests.list(1)[0]
    spent = [attempt["micro_usd"] for attempt in row.trace.get("attempts", [])]
    assert row.status == "ok"
    assert fault in row.why or fault in row.trace["passed"]
    assert row.micro_usd == sum(spent) == daemon.ledger.summary().day_spent
    assert spent[-1] == SPENT
    if fault in ("locked", "limited", "short", "gone"):
        assert sum(spent[:-1]) == 0, "a refusal is not billed"
    if fault in ("broken", "hangs_up", "garbage", "slow"):
        assert sum(spent[:-1]) > 0, "nobody knows whether it was billed"


@pytest.mark.parametrize("fault", [*STREAM_FAULTS, "slow"])
async def test_a_stream_moves_on_until_its_first_event(reach: Reach, agent: Caller, fault: str) -> None:
    daemon = await reach(to_fine(fault))
    events = await read(daemon, agent)
    assert events[-1] == "[DONE]"
    assert [json.loads(event)["choices"][0]["delta"]["content"] for event in events[:2]] == ["hel", "lo"]
    assert daemon.requests.list(1)[0].model == "fine"


async def test_a_stream_that_breaks_off_is_an_error_and_is_not_begun_anew(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    daemon = await reach(to_fine("cut"))
    stream = daemon.gateway.stream(Inquiry(body(), agent))
    assert b"hel" in await anext(stream)
    with pytest.raises(UpstreamError, match="'cut' broke off in the middle"):
        await anext(stream)
    assert [sent["model"] for sent, _ in endpoint.seen] == ["cut"]
    row = daemon.requests.list(1)[0]
    assert row.status.startswith("UpstreamError")
    assert row.micro_usd == daemon.ledger.summary().day_spent > SPENT, "all that was held counts"


async def test_a_part_of_a_stream_counts_no_less_than_what_was_held_for_all(
    reach: Reach, agent: Caller
) -> None:
    daemon = await reach()
    with pytest.raises(UpstreamError, match="broke off"):
        async for _ in daemon.gateway.stream(Inquiry(body("cut"), agent, "messages")):
            pass
    [attempt] = daemon.requests.list(1)[0].trace["attempts"]
    assert attempt["output_tokens"] == 1, "its first event tells of one token"
    assert daemon.ledger.summary().day_spent >= 5 * 15


async def test_what_an_endpoint_puts_into_its_cache_costs_twice_unless_a_price_is_stated(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    stated = Model(
        name="stated", kind="frontier", endpoint=endpoint.url, upstream="writes",
        input_micro_usd_per_mtok=3_000_000, output_micro_usd_per_mtok=15_000_000,
        written_micro_usd_per_mtok=3_750_000,
    )  # fmt: skip
    daemon = await reach(also=(stated,))
    costs = []
    for name in ("writes", "stated"):
        await daemon.gateway.complete(Inquiry(body(name), agent, "messages"))
        costs.append(daemon.requests.list(1)[0].micro_usd)
    # 4 plain tokens, 6 read from the cache, 6 written to it, 5 out
    assert costs == [(4 + 6) * 3 + 6 * 6 + 5 * 15, math.ceil((4 + 6) * 3 + 6 * 3.75 + 5 * 15)]


async def test_who_leaves_a_stream_is_no_failure_of_the_model(reach: Reach, agent: Caller) -> None:
    daemon = await reach()
    stream: Any = daemon.gateway.stream(Inquiry(body("fine"), agent))
    await anext(stream)
    await stream.aclose()
    assert daemon.requests.list(1)[0].status.startswith("ClientGone: ")
    assert b"agentd_attempt_failures_total{" not in daemon.metrics.text()


async def test_usage_is_shown_in_a_stream_only_to_who_asked_for_it(reach: Reach, agent: Caller) -> None:
    daemon = await reach()
    without = await read(daemon, agent, model="fine")
    assert not any("usage" in event for event in without)
    shown = await read(daemon, agent, model="fine", stream_options={"include_usage": True})
    assert json.loads(shown[-2])["usage"] == {"prompt_tokens": 10, "completion_tokens": 5}


async def test_a_request_at_fault_is_not_sent_to_the_next(reach: Reach, agent: Caller, endpoint: Any) -> None:
    daemon = await reach(to_fine("picky"))
    with pytest.raises(UpstreamError, match="'temperature' is too high"):
        await daemon.gateway.complete(Inquiry(body(), agent))
    assert len(endpoint.seen) == 1


async def test_the_only_model_is_asked_again_after_the_moment_that_it_wants(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    daemon = await reach()
    reply = await daemon.gateway.complete(Inquiry(body("limited_once"), agent))
    assert reply["agentd"]["model"] == "limited_once"
    assert len(endpoint.seen) == 2
    assert daemon.ledger.summary().day_spent == SPENT


async def test_it_is_not_asked_again_where_it_may_have_worked_or_wants_long(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    daemon = await reach()
    for name in ("broken", "limited"):
        with pytest.raises(UpstreamError):
            await daemon.gateway.complete(Inquiry(body(name), agent))
    assert len(endpoint.seen) == 2


async def test_a_model_that_keeps_failing_rests_and_who_asks_is_told_for_how_long(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    daemon = await reach(to_fine("broken"))
    for _ in range(5):
        await daemon.gateway.complete(Inquiry(body(), agent))
    assert [sent["model"] for sent, _ in endpoint.seen].count("broken") == 3
    assert "it rests for" in daemon.requests.list(1)[0].trace["passed"]["broken"]
    with pytest.raises(Unavailable, match="'broken' is not asked: it rests for") as caught:
        await daemon.gateway.complete(Inquiry(body("broken"), agent))
    assert 0 < (caught.value.retry_after_s or 0) <= 5


async def test_when_all_fail_the_last_word_is_told_and_every_attempt_is_on_record(
    reach: Reach, agent: Caller
) -> None:
    daemon = await reach(Alias(name="support", weights={"broken": 1}, fallbacks=("garbage", "unserved")))
    with pytest.raises(AgentdError, match="'unserved' is not being served"):
        await daemon.gateway.complete(Inquiry(body(), agent))
    row = daemon.requests.list(1)[0]
    assert [attempt["model"] for attempt in row.trace["attempts"]] == ["broken", "garbage"]
    assert row.trace["passed"] == {"unserved": "Model 'unserved' is not being served"}


async def test_a_fallback_that_the_budget_cannot_pay_is_not_asked(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    """What others leak through fallbacks: the budget is checked with each attempt."""
    daemon = await reach(to_fine("broken"), budget=Budget(per_day_usd=0.000_25))
    replies = await asyncio.gather(
        *(daemon.gateway.complete(Inquiry(body(), agent)) for _ in range(10)), return_exceptions=True
    )
    assert any(isinstance(reply, AgentdError) for reply in replies)
    assert daemon.ledger.summary().day_spent <= 250


async def test_a_model_without_room_is_passed_over_and_the_last_one_waits(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    narrow = Model(name="narrow", kind="local", endpoint=endpoint.url, upstream="slow", concurrent=1)
    daemon = await reach(to_fine("narrow"), also=(narrow,))
    replies = await asyncio.gather(
        *(daemon.gateway.complete(Inquiry(body(user=str(n)), agent)) for n in range(3))
    )
    assert sorted(reply["agentd"]["model"] for reply in replies) == ["fine", "fine", "narrow"]
    alone = await asyncio.gather(*(daemon.gateway.complete(Inquiry(body("narrow"), agent)) for _ in range(2)))
    assert [reply["agentd"]["model"] for reply in alone] == ["narrow", "narrow"]


async def test_the_same_request_is_answered_from_memory_where_an_alias_wants_it(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    daemon = await reach(Alias(name="support", weights={"fine": 1}, cache_s=60))
    first = await daemon.gateway.complete(Inquiry(body(temperature=0), agent))
    again = await daemon.gateway.complete(Inquiry(body(temperature=0, user="u"), agent))
    assert again["choices"] == first["choices"]
    assert again["agentd"]["why"] == f"answered before as {first['agentd']['request_id']}"
    assert len(endpoint.seen) == 1
    assert daemon.ledger.summary().day_spent == SPENT
    await daemon.gateway.complete(Inquiry(body(temperature=1), agent))
    await daemon.gateway.complete(Inquiry(body(temperature=0, top_p=0.5), agent))
    assert len(endpoint.seen) == 3


async def test_an_alias_that_points_elsewhere_forgets_its_answers(reach: Reach, agent: Caller) -> None:
    daemon = await reach()
    for model in ("fine", "prose"):
        daemon.catalog.set_alias(Alias(name="mine", weights={model: 1}, cache_s=60))
        reply = await daemon.gateway.complete(Inquiry(body("mine", temperature=0), agent))
        assert reply["agentd"]["model"] == model


async def test_what_a_shadow_costs_is_not_taken_from_the_callers_allowance(
    reach: Reach, agent: Caller
) -> None:
    daemon = await reach(Alias(name="support", weights={"fine": 1}, shadow={"prose": 1}))
    key = replace(agent, allowance=1_000_000, token="tok-1")
    await daemon.gateway.complete(Inquiry(body(), key))
    await asyncio.gather(*daemon._dispatch._shadows)
    assert daemon.ledger.leased("tok-1") == SPENT
    assert daemon.ledger.summary().day_spent == 2 * SPENT


async def test_a_shadow_is_asked_the_same_unseen_and_pays_for_itself(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    daemon = await reach(Alias(name="support", weights={"fine": 1}, shadow={"broken": 1}))
    reply = await daemon.gateway.complete(Inquiry(body(), agent))
    assert reply["agentd"]["model"] == "fine"
    await asyncio.gather(*daemon._dispatch._shadows)
    shadow = next(row for row in daemon.requests.list(2) if row.principal == "shadow:support")
    assert (shadow.model, shadow.id) == ("broken", f"{reply['agentd']['request_id']}.broken")
    assert shadow.status.startswith("UpstreamError")
    assert endpoint.seen[0][0]["messages"] == endpoint.seen[1][0]["messages"]


async def test_a_token_asks_only_the_models_that_it_is_good_for(reach: Reach, agent: Caller) -> None:
    daemon = await reach(to_fine("broken"))
    key = replace(agent, models=("supp*",))
    assert (await daemon.gateway.complete(Inquiry(body(), key)))["agentd"]["model"] == "fine"
    with pytest.raises(Denied, match="not good for 'fine'"):
        await daemon.gateway.complete(Inquiry(body("fine"), key))


async def test_what_no_model_can_answer_is_refused_with_each_ones_reason(reach: Reach, agent: Caller) -> None:
    tiny = Model(name="tiny", kind="local", context=2)
    daemon = await reach(Alias(name="support", weights={"tiny": 1}, residency=("eu",)), also=(tiny,))
    with pytest.raises(InputError, match=r"'tiny' cannot answer this: it processes texts in 'here'"):
        await daemon.gateway.complete(Inquiry(body(), agent))


async def test_who_would_be_asked_can_be_seen_without_asking(reach: Reach, endpoint: Any) -> None:
    daemon = await reach(to_fine("broken", residency=()))
    told = await daemon.routing.explain(body())
    assert [each["model"] for each in told["order"]] == ["broken", "fine"]
    assert told["order"][1]["why"] == "fallback of 'support'"
    assert endpoint.seen == []


async def test_the_next_is_asked_as_well_when_the_first_takes_long_and_both_are_paid(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    tardy = Model(
        name="tardy", kind="frontier", endpoint=endpoint.url, upstream="slow",
        input_micro_usd_per_mtok=3_000_000, output_micro_usd_per_mtok=15_000_000,
    )  # fmt: skip
    daemon = await reach(to_fine("tardy", hedge_s=0.05), also=(tardy,))
    reply = await daemon.gateway.complete(Inquiry(body(), agent))
    assert reply["agentd"]["model"] == "fine"
    events = await read(daemon, agent)
    assert events[-1] == "[DONE]"
    for row in daemon.requests.list(2):
        late, won = row.trace["attempts"]
        assert (late["model"], won["model"], won["micro_usd"]) == ("tardy", "fine", SPENT)
        assert late["micro_usd"] >= 5 * 15, "nobody knows how far it had come"
    assert daemon.ledger.summary().day_spent == sum(row.micro_usd for row in daemon.requests.list(2))
    assert daemon.routing.health()["tardy"]["under_way"] == 0


@pytest.mark.parametrize("fault", ["broken", "picky", "fine"])
async def test_a_hedge_changes_nothing_where_the_first_is_quick(
    reach: Reach, agent: Caller, endpoint: Any, fault: str
) -> None:
    daemon = await reach(Alias(name="support", weights={fault: 1}, fallbacks=("fine",), hedge_s=5))
    if fault == "picky":
        with pytest.raises(UpstreamError, match="'temperature' is too high"):
            await daemon.gateway.complete(Inquiry(body(), agent))
    else:
        await daemon.gateway.complete(Inquiry(body(), agent))
    assert [sent["model"] for sent, _ in endpoint.seen] == [fault, "fine"][: 2 if fault == "broken" else 1]


TICKET = {"type": "object", "properties": {"intent": {"type": "string"}}, "required": ["intent"]}


@pytest.mark.parametrize(
    ("small", "said"),
    [
        ("cut_off", "it was cut off"),
        ("unsure", "its confidence is 0.22, below 0.6"),
        ("prose", "it is not JSON"),
    ],
)
async def test_an_answer_that_is_not_enough_is_asked_again_of_the_next_and_both_are_paid(
    reach: Reach, agent: Caller, small: str, said: str
) -> None:
    daemon = await reach(to_fine(small, escalate_on=("invalid", "cut", "unsure")))
    form = {"type": "json_schema", "json_schema": {"name": "ticket", "schema": TICKET}}
    more = {"response_format": form} if small == "prose" else {}
    reply = await daemon.gateway.complete(Inquiry(body(**more), agent))
    assert reply["agentd"]["model"] == "fine"
    assert reply["agentd"]["why"] == f"fallback of 'support'; {small} was not enough: {said}"
    row = daemon.requests.list(1)[0]
    assert row.micro_usd == daemon.ledger.summary().day_spent == 2 * SPENT
    assert daemon.routing.health()[small]["errors"] == 0


async def test_an_answer_that_is_not_enough_stands_where_nobody_else_can_answer(
    reach: Reach, agent: Caller
) -> None:
    daemon = await reach(
        Alias(name="support", weights={"unsure": 1}, fallbacks=("broken",), escalate_on=("unsure",))
    )
    reply = await daemon.gateway.complete(Inquiry(body(), agent))
    assert reply["choices"][0]["message"]["content"] == "he?"
    assert reply["choices"][0]["logprobs"] is None, "nobody asked for them"
    assert reply["agentd"]["model"] == "unsure"
    assert "nobody else could" in daemon.requests.list(1)[0].why


async def test_effort_is_set_by_class_where_a_request_states_none(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    daemon = await reach(Alias(name="support", weights={"fine": 1}, effort={"*": "low"}))
    for more in ({}, {"reasoning_effort": "high"}):
        await daemon.gateway.complete(Inquiry(body(**more), agent))
    assert [sent["reasoning_effort"] for sent, _ in endpoint.seen] == ["low", "high"]
