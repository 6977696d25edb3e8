"""One chat request through a daemon to a real endpoint: the answer, the reason, the money."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from agentd.config import Budget
from agentd.daemon import Daemon
from agentd.errors import AgentdError, InputError, NotFound, OverBudget, Unavailable
from agentd.policy.callers import Caller
from agentd.router.faults import UpstreamError
from agentd.router.inquiry import Inquiry
from agentd.sdk import Alias, Model
from agentd.server.app import bind, http_server
from agentd.store.database import reading
from agentd.store.requests import RequestRow

pytestmark = pytest.mark.anyio
Boot = Any
Reach = Callable[..., Awaitable[Daemon]]

INPUT, OUTPUT = 3_000_000, 15_000_000  # micro-USD a million tokens: 3 and 15 a token in millionths
SPENT = 10 * 3 + 5 * 15  # what the endpoint's usage of 10 and 5 tokens costs, in micro-USD


@pytest.fixture
def reach(boot: Boot, endpoint: Any) -> Reach:
    """``await reach(budget=…)``: a daemon that knows one model for each behaviour of the endpoint."""
    names = ("fine", "locked", "broken", "garbage", "empty", "uncounted", "hangs_up")

    async def start(*, also: tuple[Model, ...] = (), **changes: Any) -> Daemon:
        models = [
            Model(
                name=name, kind="frontier", endpoint=endpoint.url, upstream=name, key_env="TEST_KEY",
                input_micro_usd_per_mtok=INPUT, output_micro_usd_per_mtok=OUTPUT,
            )
            for name in names
        ]  # fmt: skip
        keyless = models[0].model_copy(update={"name": "keyless", "key_env": "KEY_NOBODY_SET"})
        gone = models[0].model_copy(update={"name": "gone", "endpoint": "http://127.0.0.1:1/v1"})
        local = Model(name="local", kind="local")
        return await boot(models=(*models, keyless, gone, local, *also), **changes)

    return start


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "sk-very-secret")


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], **more}


async def asked(daemon: Daemon, request: dict[str, Any], caller: Caller, streamed: bool) -> None:
    """One request, answered whole or read to the end of its stream."""
    if not streamed:
        await daemon.gateway.complete(Inquiry(request, caller))
        return
    async for _ in daemon.gateway.stream(Inquiry(request, caller)):
        pass


def last(daemon: Daemon) -> RequestRow:
    return daemon.requests.list(1)[0]


async def test_an_answer_is_passed_on_with_its_reason_and_costs_what_the_endpoint_counted(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    daemon = await reach()
    reply = await daemon.gateway.complete(Inquiry(body("fine", temperature=0, user="u"), agent))
    assert reply["choices"][0]["message"]["content"] == "hello"
    assert reply["agentd"]["model"] == "fine"
    sent, authorization = endpoint.seen[0]
    assert (sent["temperature"], sent["user"], sent["stream"]) == (0, "u", False)
    assert authorization == "Bearer sk-very-secret"
    row = daemon.requests.find(reply["agentd"]["request_id"])
    assert row is not None
    assert (row.status, row.principal, row.input_tokens, row.output_tokens) == ("ok", "agent:ada", 10, 5)
    assert row.micro_usd == SPENT
    summary = daemon.ledger.summary()
    assert (summary.day_spent, summary.day_reserved) == (SPENT, 0)
    [entry] = summary.entries
    assert (entry.kind, entry.principal, entry.settled) == ("lease", "agent:ada", SPENT)


async def test_a_stream_is_passed_through_and_metered_by_its_last_event(reach: Reach, agent: Caller) -> None:
    daemon = await reach()
    chunks = b"".join([chunk async for chunk in daemon.gateway.stream(Inquiry(body("fine"), agent))])
    events = [line[6:] for line in chunks.decode().splitlines() if line]
    words = [json.loads(event)["choices"][0]["delta"]["content"] for event in events[:2]]
    assert "".join(words) == "hello"
    assert events[-1] == "[DONE]"
    assert last(daemon).micro_usd == daemon.ledger.summary().day_spent == SPENT


async def test_a_stream_that_the_reader_leaves_counts_what_was_set_aside(reach: Reach, agent: Caller) -> None:
    daemon = await reach()
    stream: Any = daemon.gateway.stream(Inquiry(body("fine", max_tokens=5), agent))
    await anext(stream)
    held = daemon.ledger.summary().day_reserved
    await stream.aclose()
    assert held > 0
    summary = daemon.ledger.summary()
    assert summary.day_reserved == 0
    assert summary.day_spent in (held, SPENT)


@pytest.mark.parametrize(
    ("model", "status", "said"),
    [
        ("locked", 401, "'locked' answered 401: wrong key. Check the key in TEST_KEY"),
        ("broken", 500, "'broken' answered 500: the machine room is flooded"),
        ("garbage", 502, "'garbage' answered 502: the answer is not JSON"),
        ("hangs_up", 504, "'hangs_up' at http"),
    ],
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_what_goes_wrong_at_the_endpoint_is_told_in_its_words(
    reach: Reach, agent: Caller, model: str, status: int, said: str, streamed: bool
) -> None:
    if model == "garbage" and streamed:
        pytest.skip("a stream is passed through as it is")
    daemon = await reach()
    with pytest.raises(UpstreamError) as caught:
        await asked(daemon, body(model), agent, streamed)
    assert caught.value.status == status
    assert said in str(caught.value)
    assert "sk-very-secret" not in str(caught.value)
    row, summary = last(daemon), daemon.ledger.summary()
    assert row.status.startswith("UpstreamError")
    assert (summary.day_reserved, summary.day_spent) == (0, row.micro_usd)
    assert (row.micro_usd == 0) == (status == 401), "only a refusal surely costs nothing"


async def test_an_answer_without_usage_counts_what_was_set_aside(reach: Reach, agent: Caller) -> None:
    daemon = await reach()
    await daemon.gateway.complete(Inquiry(body("uncounted", max_tokens=7), agent))
    assert daemon.ledger.summary().day_spent == last(daemon).micro_usd > 7 * 15


async def test_an_answer_without_a_message_is_an_error_of_the_endpoint(reach: Reach) -> None:
    daemon = await reach()
    with pytest.raises(UpstreamError, match="'empty' answered without a message"):
        await daemon.catalog.chat("empty", [{"role": "user", "content": "hi"}])


async def test_a_tool_is_answered_with_text_reason_and_cost(reach: Reach) -> None:
    daemon = await reach()
    daemon.catalog.set_alias(Alias(name="support", weights={"fine": 1}, reason="cheapest"))
    result = await daemon.catalog.chat("support", [{"role": "user", "content": "hi"}], max_tokens=5)
    assert (result.text, result.model, result.micro_usd) == ("hello", "fine", SPENT)
    assert result.why == "alias 'support' points at 'fine' (cheapest)"


async def test_a_missing_key_names_its_variable_and_nothing_is_sent(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    daemon = await reach()
    with pytest.raises(Unavailable, match=r"variable KEY_NOBODY_SET is not set. Set KEY_NOBODY_SET where"):
        await daemon.gateway.complete(Inquiry(body("keyless"), agent))
    assert endpoint.seen == []
    assert daemon.ledger.summary().entries == []


async def test_an_endpoint_that_is_not_there_costs_nothing(reach: Reach, agent: Caller) -> None:
    daemon = await reach()
    with pytest.raises(Unavailable, match=r"'gone' at http://127.0.0.1:1/v1 cannot be reached"):
        await daemon.gateway.complete(Inquiry(body("gone"), agent))
    assert daemon.ledger.summary().day_spent == 0


async def test_a_local_model_that_is_not_served_says_how_to_serve_it(reach: Reach, agent: Caller) -> None:
    daemon = await reach()
    with pytest.raises(Unavailable, match=r"not being served. Start it: agentd call serve model=local"):
        await daemon.gateway.complete(Inquiry(body("local"), agent))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": ""}, "names no model"),
        ({"model": 3}, "names no model"),
        ({"messages": []}, "has no messages"),
        ({"max_tokens": -1_000_000}, "'max_tokens' should be a whole number"),
        ({"max_completion_tokens": "many"}, "'max_completion_tokens' should be"),
        ({"n": 1.5}, "'n' should be"),
    ],
)
async def test_a_request_that_makes_no_sense_is_refused_before_it_is_sent(
    reach: Reach, agent: Caller, endpoint: Any, changes: dict[str, Any], said: str
) -> None:
    daemon = await reach()
    with pytest.raises(InputError, match=said):
        await daemon.gateway.complete(Inquiry(body("fine") | changes, agent))
    assert endpoint.seen == []
    assert daemon.ledger.summary().entries == []


async def test_an_unknown_model_is_answered_with_the_nearest_name(reach: Reach, agent: Caller) -> None:
    daemon = await reach()
    with pytest.raises(NotFound, match="Did you mean 'fine'"):
        await daemon.gateway.complete(Inquiry(body("fin"), agent))


async def test_a_job_asks_models_through_the_gateway_with_a_key_of_its_own(
    reach: Reach, agent: Caller
) -> None:
    listener = bind("127.0.0.1", 0)
    daemon = await reach(url=f"http://127.0.0.1:{listener.getsockname()[1]}")
    server = http_server(daemon)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    handle: Any = await daemon.calls.call("work", {"behaviour": "ask_gateway", "text": "hi"}, agent)
    view = await daemon.jobs.settled(handle.id)
    server.should_exit = True
    await serving
    assert (view.state, view.reason) == ("succeeded", "")
    assert view.result is not None
    assert view.result["text"] == "hello"
    assert (last(daemon).principal, last(daemon).micro_usd) == (f"job:{view.id}", SPENT)
    assert view.seconds is not None
    its_time = pytest.approx(view.seconds * 1_000_000, abs=1.01)  # rounded up, from seconds as they were
    assert view.micro_usd - SPENT == its_time
    folder = daemon.jobs.attempt_folder(view.id)
    assert folder is not None
    assert not [path for path in folder.rglob("*") if path.is_file() and b"agentd_" in path.read_bytes()]


@pytest.mark.parametrize("streamed", [False, True])
async def test_parallel_requests_cannot_overspend_a_small_budget(
    reach: Reach, agent: Caller, endpoint: Any, streamed: bool
) -> None:
    limit = 4_000  # micro-USD: two requests of 100 tokens at 15 each, and what they read
    daemon = await reach(budget=Budget(per_day_usd=limit / 1e6))

    requests = (asked(daemon, body("fine", max_tokens=100), agent, streamed) for _ in range(12))
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    refused = [outcome for outcome in outcomes if isinstance(outcome, AgentdError)]
    assert all(isinstance(outcome, OverBudget) for outcome in refused)
    assert outcomes.count(None) == len(endpoint.seen) == 2
    assert daemon.ledger.summary().day_spent == 2 * (10 * 3 + 100 * 15) <= limit


async def test_many_requests_take_few_commits_of_money_and_free_ones_none(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    free = Model(name="free", kind="local", endpoint=endpoint.url, upstream="fine")
    daemon = await reach(also=(free,))
    for _ in range(40):
        await daemon.gateway.complete(Inquiry(body("free"), agent))
    assert daemon.ledger.entries() == []
    for _ in range(40):
        await daemon.gateway.complete(Inquiry(body("fine", max_tokens=5), agent))
    assert len(daemon.ledger.entries()) < 10
    assert daemon.ledger.summary().day_spent == 40 * SPENT
    assert len(daemon.requests.list(100)) == 80


async def test_records_are_written_behind_the_answers_and_all_of_them_at_the_end(
    reach: Reach, boot: Boot, agent: Caller
) -> None:
    daemon = await reach()
    reply = await daemon.gateway.complete(Inquiry(body("fine"), agent))
    written = "SELECT count(*) FROM requests"
    assert daemon.store.value(written) == 0
    assert daemon.requests.find(reply["agentd"]["request_id"]) is not None
    path = daemon.store.path
    await boot.stop(daemon)
    with reading(path) as database:
        assert database.execute(written).fetchone()[0] == 1
        assert database.execute("SELECT sum(settled), count(*) - count(settled) FROM ledger").fetchone() == (
            SPENT,
            0,
        )


async def test_what_a_job_asks_of_models_is_booked_on_whoever_started_it(reach: Reach, agent: Caller) -> None:
    daemon = await reach()
    job = replace(agent, principal="job:job-1", role="infer", charged="agent:ada", project="support")
    await daemon.gateway.complete(Inquiry(body("fine"), job))
    assert last(daemon).principal == "job:job-1"
    [entry] = daemon.ledger.summary().entries
    assert (entry.principal, entry.project, entry.settled) == ("agent:ada", "support", SPENT)


async def test_a_model_whose_price_nobody_knows_is_not_asked(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    unknown = Model(name="unknown", kind="frontier", endpoint=endpoint.url, upstream="fine")
    daemon = await reach(also=(unknown,))
    with pytest.raises(Unavailable, match=r"What 'unknown' costs is not known.*input_ and output_micro_usd"):
        await daemon.gateway.complete(Inquiry(body("unknown"), agent))
    assert endpoint.seen == []


async def test_a_price_without_a_date_is_used_and_journalled_once_a_day(reach: Reach, agent: Caller) -> None:
    daemon = await reach()
    for _ in range(2):
        await daemon.gateway.complete(Inquiry(body("fine"), agent))
    [told] = [entry for entry in daemon.journal.tail() if entry.kind == "price.doubtful"]
    assert (told.subject, told.data["why"]) == ("fine", "the price of 'fine' has no date")


async def test_a_job_gets_no_more_from_models_than_was_approved_for_it(
    reach: Reach, agent: Caller, endpoint: Any
) -> None:
    daemon = await reach()
    job = replace(agent, principal="job:job-1", role="infer", charged="agent:ada", allowance=200)
    await daemon.gateway.complete(Inquiry(body("fine", max_tokens=5), job))
    with pytest.raises(
        OverBudget,
        match=r"what may be spent on the requests of job-1 is \$0.0002, of which \$0.000105 is spent",
    ):
        await daemon.gateway.complete(Inquiry(body("fine", max_tokens=5), job))
    await daemon.gateway.complete(Inquiry(body("fine", max_tokens=5), agent))
    assert daemon.ledger.leased("job-1") == SPENT
