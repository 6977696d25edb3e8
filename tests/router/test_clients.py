"""The vendors' own Python clients, unmodified, against the gateway of a real daemon and an endpoint."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from pydantic import BaseModel

from agentd.config import Budget
from agentd.daemon import Daemon
from agentd.policy.credentials import Wanted
from agentd.sdk import Alias, Model, prompt_digest
from agentd.server.app import bind, http_server

pytestmark = pytest.mark.anyio
SAID: list[Any] = [{"role": "user", "content": "hi"}]
WEATHER: Any = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Ticket(BaseModel):
    intent: str


@pytest.fixture
def serve(boot: Any, endpoint: Any) -> Any:
    """``async with serve() as (daemon, openai client, anthropic client)``."""

    @asynccontextmanager
    async def start(**changes: Any) -> AsyncIterator[tuple[Daemon, Any, Any]]:
        models = [
            Model(
                name=name, kind="frontier", endpoint=endpoint.url, upstream=name,
                input_micro_usd_per_mtok=3_000_000, output_micro_usd_per_mtok=15_000_000,
                cached_micro_usd_per_mtok=1_000_000,
            )
            for name in ("fine", "broken", "cut", "picky", "limited", "waits")
        ]  # fmt: skip
        aliases = (Alias(name="support", weights={"broken": 1}, fallbacks=("fine",)),)
        with bind("127.0.0.1", 0) as listener:
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            daemon = await boot(models=tuple(models), aliases=aliases, **changes)
            token = (daemon.state_dir / "agent-token").read_text(encoding="ascii").strip()
            server = http_server(daemon)
            serving = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                async with (
                    openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=token, max_retries=0) as one,
                    anthropic.AsyncAnthropic(base_url=url, api_key=token, max_retries=0) as other,
                ):
                    yield daemon, one, other
            finally:
                server.should_exit = True
                await serving

    return start


async def test_chat(serve: Any) -> None:
    async with serve() as (daemon, client, _):
        answer = await client.chat.completions.with_raw_response.create(model="support", messages=SAID)
        assert answer.parse().choices[0].message.content == "hello"
        assert answer.headers["x-agentd-model"] == "fine"
        assert daemon.requests.find(answer.headers["x-request-id"]).asked == "support"


async def test_streaming(serve: Any) -> None:
    async with serve() as (_, client, _):
        stream = await client.chat.completions.create(
            model="support", messages=SAID, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        assert "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices) == "hello"
        assert chunks[-1].usage.completion_tokens == 5


async def test_a_stream_that_breaks_off_raises(serve: Any) -> None:
    async with serve() as (_, client, _):
        stream = await client.chat.completions.create(model="cut", messages=SAID, stream=True)
        seen = [await anext(stream)]
        with pytest.raises(openai.APIError, match="broke off in the middle"):
            await anext(stream)
        assert seen[0].choices[0].delta.content == "hel"


async def test_tools(serve: Any) -> None:
    async with serve() as (_, client, _):
        answer = await client.chat.completions.create(model="support", messages=SAID, tools=[WEATHER])
        [call] = answer.choices[0].message.tool_calls
        assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Paris"}')


async def test_json_schema(serve: Any, endpoint: Any) -> None:
    async with serve() as (_, client, _):
        answer = await client.chat.completions.parse(model="fine", messages=SAID, response_format=Ticket)
        assert answer.choices[0].message.parsed == Ticket(intent="refund")
        assert endpoint.seen[-1][0]["response_format"]["json_schema"]["strict"] is True


async def test_embeddings(serve: Any) -> None:
    async with serve() as (daemon, client, _):
        answer = await client.embeddings.create(model="fine", input=["a", "b"], encoding_format="float")
        assert answer.data[0].embedding == [0.5, 0.25]
        assert daemon.requests.list(1)[0].micro_usd == 3 * 3


async def test_models(serve: Any) -> None:
    async with serve() as (_, client, _):
        assert {model.id async for model in client.models.list()} >= {"fine", "support"}


async def test_errors_are_those_that_the_client_knows(serve: Any) -> None:
    async with serve(budget=Budget(per_day_usd=0.000_2)) as (_, client, other):
        create = client.chat.completions.create
        with pytest.raises(openai.NotFoundError, match="Did you mean 'support'"):
            await create(model="suport", messages=SAID)
        with pytest.raises(openai.BadRequestError, match="'temperature' is too high"):
            await create(model="picky", messages=SAID, max_tokens=1)
        with pytest.raises(openai.RateLimitError) as limited:
            await create(model="limited", messages=SAID, max_tokens=1)
        assert limited.value.response.headers["retry-after"] == "7"
        with pytest.raises(openai.APIStatusError, match="budget") as spent:
            await create(model="fine", messages=SAID, max_tokens=4_000)
        assert spent.value.status_code == 402
        with pytest.raises(openai.AuthenticationError):
            await client.with_options(api_key="wrong").models.list()
        with pytest.raises(anthropic.NotFoundError):
            await other.messages.create(model="suport", max_tokens=5, messages=SAID)


async def test_anthropics_messages(serve: Any) -> None:
    async with serve() as (daemon, _, client):
        answer = await client.messages.create(model="fine", max_tokens=5, messages=SAID)
        assert answer.content[0].text == "hello"
        row = daemon.requests.list(1)[0]
        assert (row.input_tokens, row.output_tokens) == (10, 5)
        assert row.micro_usd == 4 * 3 + 6 * 1 + 5 * 15, "what the endpoint had cached costs less"


async def test_anthropics_streams(serve: Any) -> None:
    async with serve() as (daemon, _, client):
        async with client.messages.stream(model="fine", max_tokens=5, messages=SAID) as stream:
            assert await stream.get_final_text() == "hello, message_stop"
        row = daemon.requests.list(1)[0]
        assert (row.status, row.input_tokens, row.output_tokens) == ("ok", 10, 5)


async def test_versions_and_betas_of_anthropics_api_go_on_to_the_endpoint(serve: Any, endpoint: Any) -> None:
    async with serve() as (_, _, client):
        await client.messages.create(
            model="fine", max_tokens=5, messages=SAID, extra_headers={"anthropic-beta": "context-1m"}
        )
        [seen] = endpoint.headers
        assert seen["anthropic-beta"] == "context-1m"
        assert seen["anthropic-version"] == client.default_headers["anthropic-version"]


async def test_the_endpoint_stops_working_for_whoever_leaves(
    serve: Any, endpoint: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agentd.server.gateway.LOOK_AFTER_S", 0.01)
    async with serve() as (daemon, client, _):
        asking = asyncio.create_task(client.chat.completions.create(model="waits", messages=SAID))
        assert await asyncio.to_thread(endpoint.arrived.wait, 30)
        asking.cancel()
        assert await asyncio.to_thread(endpoint.left.wait, 30)
        while not daemon.requests.list():  # noqa: ASYNC110 - a record has no event
            await asyncio.sleep(0.01)
        [row] = daemon.requests.list()
        assert row.status.startswith("ClientGone: ")
        assert row.micro_usd > 0, "nobody knows how far it had come"


async def test_a_key_is_good_for_its_models_its_rate_and_its_money(serve: Any) -> None:
    async with serve() as (daemon, client, _):
        owner = daemon.tokens.check((daemon.state_dir / "owner-token").read_text(encoding="ascii").strip())

        def key(**limits: Any) -> Any:
            wanted = Wanted(agent="shop", role="infer", **limits)
            return client.with_options(api_key=daemon.tokens.create(wanted, owner).token)

        models = key(models=("supp*",))
        assert [model.id async for model in models.models.list()] == ["support"]
        await models.chat.completions.create(model="support", messages=SAID)
        with pytest.raises(openai.PermissionDeniedError, match="not good for 'fine'"):
            await models.chat.completions.create(model="fine", messages=SAID)
        hasty = key(per_minute=2)
        for _ in range(2):
            await hasty.chat.completions.create(model="fine", messages=SAID, max_tokens=5)
        with pytest.raises(openai.RateLimitError) as limited:
            await hasty.chat.completions.create(model="fine", messages=SAID, max_tokens=5)
        assert limited.value.response.headers["retry-after"] == "30"
        poor = key(micro_usd=400)
        await poor.chat.completions.create(model="fine", messages=SAID, max_tokens=5)
        tries = (poor.chat.completions.create(model="fine", messages=SAID, max_tokens=5) for _ in range(9))
        refused = [
            each
            for each in await asyncio.gather(*tries, return_exceptions=True)
            if isinstance(each, Exception)
        ]
        assert {(each.status_code, "requests of tok-" in str(each)) for each in refused} == {(402, True)}
        await client.chat.completions.create(model="fine", messages=SAID, max_tokens=5)


async def test_why_names_the_prompt_and_what_of_documents_was_shown(serve: Any, tmp_path: Path) -> None:
    async with serve() as (daemon, client, _):
        (tmp_path / "prompt.json").write_text("{}", encoding="ascii")
        meta = {"digest": "3f2a91" * 6, "system": prompt_digest("Be brief.")}
        daemon.artifacts.add("prompt", tmp_path / "prompt.json", name="brief", meta=meta)
        said = [{"role": "system", "content": "Be brief."}, *SAID]
        answer = await client.chat.completions.create(model="support", messages=said)
        own = await daemon.catalog.chat("support", SAID, sources=["a.md[3:9]"])
        token = (daemon.state_dir / "owner-token").read_text(encoding="ascii").strip()
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {token}"}) as http:
            base = str(client.base_url).removesuffix("/v1/")
            told = (await http.get(f"{base}/api/requests/{answer.agentd['request_id']}")).json()
            assert told["prompts"] == ["brief@3f2a913f2a91"]
            told = (await http.get(f"{base}/api/requests/{own.request_id}")).json()
            assert (told["prompts"], told["trace"]["sources"]) == ([], ["a.md[3:9]"])


async def test_a_revoked_key_is_refused_from_the_next_request_on(serve: Any) -> None:
    async with serve() as (daemon, client, _):
        owner = daemon.tokens.check((daemon.state_dir / "owner-token").read_text(encoding="ascii").strip())
        made = daemon.tokens.create(Wanted(agent="shop", role="infer"), owner)
        shop = client.with_options(api_key=made.token)
        await shop.chat.completions.create(model="fine", messages=SAID)
        daemon.tokens.revoke(made.id, owner)
        with pytest.raises(openai.AuthenticationError):
            await shop.chat.completions.create(model="fine", messages=SAID)
