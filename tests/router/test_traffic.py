"""What the gateway keeps of its traffic and is told of it, over loopback, and the rows made of that."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentd.config import Capture
from agentd.daemon import Daemon
from agentd.errors import Denied, InputError
from agentd.policy.callers import Caller
from agentd.policy.credentials import Wanted
from agentd.router.inquiry import Inquiry
from agentd.router.traffic import is_drawn, streamed_answer, texts_of
from agentd.sdk import Alias, Exchange, Model
from agentd.server.app import bind, http_server
from agentd.store.traffic import TrafficTable

pytestmark = pytest.mark.anyio
Boot = Any
SECRET = "hf_" + "Ab3" * 10
ON = Capture(aliases=("ticket*",))


class Client(httpx.AsyncClient):
    """Of one daemon's gateway."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(base_url=daemon.url, trust_env=False)
        self.daemon = daemon
        owner = daemon.tokens.check((daemon.state_dir / "owner-token").read_text(encoding="ascii"))
        assert owner is not None
        self._owner = owner

    def token(self, agent: str, project: str = "") -> dict[str, str]:
        wanted = Wanted(agent=agent, role="infer", project=project)
        return {"authorization": f"Bearer {self.daemon.tokens.create(wanted, self._owner).token}"}

    async def ask(self, headers: dict[str, str], text: str = "where is it?", **more: Any) -> str:
        """One request, read to its end; its id."""
        messages = [{"role": "user", "content": text}]
        answer = await self.post(
            "/v1/chat/completions", json={"model": "tickets", "messages": messages} | more, headers=headers
        )
        assert answer.status_code == 200, answer.text
        return answer.headers["x-request-id"]

    async def say(self, headers: dict[str, str], request_id: str, **said: Any) -> httpx.Response:
        return await self.post("/v1/feedback", json={"request_id": request_id} | said, headers=headers)

    def kept(self) -> list[Exchange]:
        return self.daemon.gateway.kept("tickets")  # pyright: ignore[reportPrivateUsage]


Gateway = Callable[..., Any]


@pytest.fixture
def gateway(boot: Boot, endpoint: Any) -> Gateway:
    """``async with gateway(capture) as client``: a daemon with the alias ``tickets``, and its server."""

    @asynccontextmanager
    async def serve(capture: Capture) -> AsyncIterator[Client]:
        listener = bind("127.0.0.1", 0)
        fine = Model(name="fine", kind="local", endpoint=endpoint.url, upstream="fine")
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        daemon = await boot(url=url, models=(fine,), capture=capture)
        daemon.catalog.set_alias(Alias(name="tickets", weights={"fine": 1.0}))
        server = http_server(daemon)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            async with Client(daemon) as client:
                yield client
        finally:
            server.should_exit = True
            await serving
            listener.close()
        await boot.stop(daemon)

    return serve


def rows(daemon: Daemon, caller: Caller, source: str) -> list[dict[str, Any]]:
    """What `prepare_data` would read."""
    prepare = daemon.plugins.module("tools", "prepare")
    path, called, _ = prepare.found(daemon.calls.context(caller), source)
    assert called == source
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


async def test_nothing_is_kept_unless_the_operator_named_it(gateway: Gateway, person: Caller) -> None:
    async with gateway(Capture()) as client:
        ada = client.token("ada")
        request_id = await client.ask(ada, text="a text nobody keeps")
        said = await client.say(ada, request_id, score="down", correction="a word nobody keeps")
        assert said.json()["stored"] == ["score"]
        assert client.kept() == []
        with pytest.raises(InputError, match=r"No such traffic.*\[capture\]"):
            rows(client.daemon, person, "traffic:tickets")
        state = client.daemon.state_dir
    assert not (state / "traffic.db").exists()
    assert not [path for path in state.rglob("*") if path.is_file() and b"nobody keeps" in path.read_bytes()]


@pytest.mark.parametrize("capture", [Capture(), ON])
async def test_the_daemons_status_says_whose_texts_are_kept(gateway: Gateway, capture: Capture) -> None:
    async with gateway(capture) as client:
        owner = (client.daemon.state_dir / "owner-token").read_text(encoding="ascii")
        status = await client.get("/api/status", headers={"authorization": f"Bearer {owner}"})
    told = status.json()["capture"]
    assert (told and told["aliases"]) == (["ticket*"] if capture.aliases else None)


@pytest.mark.parametrize("stream", [False, True])
async def test_what_is_kept_is_written_behind_the_answer_without_secrets(
    gateway: Gateway, stream: bool
) -> None:
    async with gateway(ON) as client:
        request_id = await client.ask(client.token("ada"), text=f"my token is {SECRET}", stream=stream)
        [exchange] = client.kept()
        assert (exchange.id, exchange.asked, exchange.model) == (request_id, "tickets", "fine")
        assert (exchange.principal, exchange.answer) == ("agent:ada", "hello")
        assert exchange.messages == [{"role": "user", "content": "my token is [redacted]"}]
        state = client.daemon.state_dir
    assert b"my token is [redacted]" in (state / "traffic.db").read_bytes()
    assert (state / "traffic.db").stat().st_mode & 0o077 == 0
    assert not [path for path in state.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]


async def test_others_jobs_and_whoever_opts_out_are_not_kept(gateway: Gateway, agent: Caller) -> None:
    async with gateway(ON) as client:
        ada = client.token("ada")
        await client.ask(ada | {"agentd-capture": "off"})
        await client.ask(ada, model="fine")
        body = {"model": "tickets", "messages": [{"role": "user", "content": "a row of a suite"}]}
        await client.daemon.gateway.complete(Inquiry(body, replace(agent, principal="job:job-1")))
        picture = [{"type": "image_url", "image_url": {"url": "data:,"}}]
        await client.ask(ada, messages=[{"role": "user", "content": picture}])
        assert client.kept() == []
        kept = await client.ask(ada)
        assert [each.id for each in client.kept()] == [kept]


async def test_feedback_is_for_ones_own_requests_and_the_last_word_counts(gateway: Gateway) -> None:
    async with gateway(ON) as client:
        ada, bob = client.token("ada"), client.token("bob")
        request_id = await client.ask(ada)
        refused = await client.say(bob, request_id, score=1)
        elsewhere = await client.say(client.token("ada", project="other"), request_id, score=1)
        nowhere = await client.say(ada, "req-0-0", score=1)
        assert [each.status_code for each in (refused, elsewhere, nowhere)] == [404, 404, 404]
        assert (await client.post("/v1/feedback", json={"request_id": request_id})).status_code == 401
        assert (await client.say(ada, request_id)).status_code == 400
        assert (await client.say(ada, request_id, score=7)).status_code == 400
        assert client.daemon.judgements.list("request") == []

        first = await client.say(ada, request_id, score=1)
        second = await client.say(
            ada, request_id, score=-1, correction=f"tomorrow {SECRET}", comment="a secret word"
        )
        assert (first.json()["stored"], second.json()["stored"]) == (
            ["score"], ["score", "correction", "comment"],
        )  # fmt: skip
        [judgement] = client.daemon.judgements.list("request")
        assert (judgement.item, judgement.author, judgement.verdict) == (request_id, "agent:ada", "down")
        assert (judgement.value, judgement.note) == (
            {"correction": "tomorrow [redacted]"}, "a secret word",
        )  # fmt: skip
        told = [entry for entry in client.daemon.journal.tail(50) if entry.kind == "request.feedback"]
        assert [entry.data for entry in told] == [
            {"verdict": "up", "corrected": False}, {"verdict": "down", "corrected": True},
        ]  # fmt: skip


async def test_rows_carry_lineage_and_a_correction_takes_the_place_of_the_answer(
    gateway: Gateway, person: Caller, agent: Caller
) -> None:
    async with gateway(ON) as client:
        ada = client.token("ada")
        plain, liked = await client.ask(ada, text="one"), await client.ask(ada, text="two", user="u7")
        mended = await client.ask(ada, text="three")
        await client.say(ada, liked, score="up")
        await client.say(ada, mended, score="down", correction="better")
        daemon = client.daemon
        made = {row["source"]["request"]: row for row in rows(daemon, person, "traffic:tickets,since=1h")}
        assert list(made) == [plain, liked, mended]
        assert made[liked]["prompt"] == [{"role": "user", "content": "two"}]
        assert (made[liked]["completion"], made[liked]["rating"], made[liked]["user"]) == ("hello", 1, "u7")
        assert (made[mended]["completion"], "rejected" in made[mended]) == ("better", False)
        assert (made[plain]["source"]["model"], made[plain]["source"]["asked"]) == ("fine", "tickets")
        assert [r["source"]["request"] for r in rows(daemon, person, "traffic:tickets,up")] == [liked]
        assert len(rows(daemon, person, "traffic:tickets,rated")) == 2
        [pair] = rows(daemon, person, "traffic:tickets,corrected,pairs")
        assert (pair["completion"], pair["rejected"]) == ("better", "hello")
        with pytest.raises(InputError, match="'best' in 'traffic:tickets,best' is not understood"):
            rows(daemon, person, "traffic:tickets,best")
        with pytest.raises(Denied, match="made by people"):
            rows(daemon, agent, "traffic:tickets")


async def test_a_disk_that_fails_costs_texts_and_no_request_and_is_told_once(
    gateway: Gateway, caplog: pytest.LogCaptureFixture
) -> None:
    async with gateway(ON) as client:
        path = client.daemon.traffic_table.path
        path.mkdir()
        ada = client.token("ada")
        for _ in range(2):
            await client.ask(ada)
            client.daemon.gateway._write_now(list(client.daemon.gateway._pending.values()))
        told = [record for record in caplog.records if "traffic is not kept" in record.message]
        assert len(told) == 1
        path.rmdir()
        kept = await client.ask(ada)
        assert [each.id for each in client.kept()] == [kept]


async def test_what_is_too_old_goes_with_what_was_said_of_it(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with gateway(ON) as client:
        ada = client.token("ada")
        request_id = await client.ask(ada, text="a forgotten text")
        await client.say(ada, request_id, correction="a forgotten text")
        assert len(client.kept()) == 1
        traffic: Any = client.daemon.gateway
        await traffic.expire()
        assert (len(client.kept()), len(client.daemon.judgements.list("request"))) == (1, 1)
        later = time.time() + 31 * 86_400
        monkeypatch.setattr("agentd.router.traffic.time.time", lambda: later)
        await traffic.expire()
        assert (client.kept(), client.daemon.judgements.list("request")) == ([], [])
        assert b"forgotten" not in client.daemon.traffic_table.path.read_bytes()


def exchange(number: int, text: str = "x" * 1000) -> Exchange:
    return Exchange(
        id=f"req-{number:03}", asked="tickets", model="fine", principal="agent:ada", project="default",
        messages=[{"role": "user", "content": text}], answer="yes", at=float(number),
    )  # fmt: skip


def test_of_too_many_texts_the_oldest_go_first(tmp_path: Path) -> None:
    table = TrafficTable(tmp_path / "traffic.db", max_bytes=10_000)
    for number in range(30):
        table.add([exchange(number)])
    count, size = table.held()
    assert 5 <= count <= 10
    assert size <= 10_000
    assert [each.id for each in table.list("fine")] == [f"req-{n:03}" for n in range(30 - count, 30)]
    table.close()
    database = sqlite3.connect(tmp_path / "traffic.db")
    assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()


def test_a_share_is_drawn_by_the_id_and_of_about_that_size() -> None:
    ids = [f"req-{number}" for number in range(4_000)]
    drawn = {each for each in ids if is_drawn(each, 0.25)}
    assert 880 < len(drawn) < 1120, "five standard deviations"
    assert drawn <= {each for each in ids if is_drawn(each, 0.5)}
    assert all(is_drawn(each, 1.0) for each in ids)
    assert not any(is_drawn(each, 0.0) for each in ids)


def test_only_texts_are_kept_of_messages_and_streams() -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert texts_of([{"role": "developer", "content": "be kind"}, {"role": "user", "content": parts}]) == [
        {"role": "system", "content": "be kind"}, {"role": "user", "content": "a\nb"},
    ]  # fmt: skip
    assert texts_of([{"role": "tool", "content": "42"}]) is None
    assert texts_of([{"role": "assistant", "content": "", "tool_calls": [{}]}]) is None
    events = [
        {"choices": [{"delta": {"content": "né"}}]},
        {"choices": [{"delta": {}, "finish_reason": "length"}]},
    ]
    raw = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in events) + "data: [DONE]\n\n"
    assert streamed_answer(raw.encode()) == ("né", "length")
    called = {"choices": [{"delta": {"tool_calls": [{}]}}]}
    assert streamed_answer(f"data: {json.dumps(called)}\n\n".encode()) is None
