"""Endpoints that are added to the catalog while the daemon runs."""

from __future__ import annotations

import os
from typing import Any

import pytest

from agentd.errors import Conflict, InputError, NotFound
from agentd.policy.callers import Caller
from agentd.redaction import redact
from agentd.router.inquiry import Inquiry
from agentd.sdk import Alias, Model

pytestmark = pytest.mark.anyio
ASKED = {"messages": [{"role": "user", "content": "hi"}]}


async def test_an_endpoint_is_asked_as_soon_as_it_was_added_and_after_a_restart(
    boot: Any, endpoint: Any, agent: Caller
) -> None:
    daemon = await boot()
    prices = {"input_micro_usd_per_mtok": 0, "output_micro_usd_per_mtok": 0}
    daemon.endpoints.add({"name": "big", "endpoint": endpoint.url, "upstream": "fine", **prices}, agent)
    reply = await daemon.gateway.complete(Inquiry({"model": "big", **ASKED}, agent))
    assert reply["agentd"]["model"] == "big"
    [told] = [entry for entry in daemon.journal.tail() if entry.kind == "model.put"]
    assert (told.principal, told.data["endpoint"]) == (agent.principal, endpoint.url)
    await boot.stop(daemon)
    again = await boot()
    assert again.catalog.get("big").upstream == "fine"
    again.endpoints.remove("big", agent)
    with pytest.raises(NotFound):
        await again.gateway.complete(Inquiry({"model": "big", **ASKED}, agent))


async def test_its_key_is_no_secret_to_redaction(
    boot: Any, agent: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(os.environ, "HARMLESS_NAME", "a-key-that-looks-like-words")
    daemon = await boot()
    daemon.endpoints.add({"name": "big", "endpoint": "http://h/v1", "key_env": "HARMLESS_NAME"}, agent)
    assert redact("it is a-key-that-looks-like-words") == "it is [redacted]"


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [
        ({"name": "x"}, InputError, "neither endpoint nor provider"),
        ({"name": "x", "kind": "local"}, InputError, "Nobody says where 'x' is"),
        ({"name": "x", "provider": "opnai"}, NotFound, "opnai"),
        ({"name": "x", "endpoint": "http://h/v1", "context": -1}, InputError, "'context': "),
        ({"name": "x", "endpoint": "http://h/v1", "contxt": 1}, InputError, "'contxt': "),
        ({"name": "x", "endpoint": "http://h/v1", "path": "/etc"}, InputError, "'path' is filled in by"),
        ({"name": "mine", "endpoint": "http://h/v1"}, InputError, "defined in the config file"),
        ({"name": "here", "endpoint": "http://h/v1"}, Conflict, "a model that lies here"),
        ({"name": "support", "endpoint": "http://h/v1"}, InputError, "already an alias"),
        ({"name": "", "endpoint": "http://h/v1"}, InputError, "'name': "),
    ],
)
async def test_what_is_no_endpoint_is_not_added(
    boot: Any, agent: Caller, said: dict[str, Any], error: type[Exception], words: str
) -> None:
    mine = Model(name="mine", kind="local", endpoint="http://127.0.0.1:1/v1")
    daemon = await boot(models=(mine,), aliases=(Alias(name="support", weights={"mine": 1}),))
    daemon.catalog.put(Model(name="here", kind="local"))
    with pytest.raises(error, match=words):
        daemon.endpoints.add(said, agent)


async def test_what_an_alias_has_is_not_removed(boot: Any, agent: Caller) -> None:
    daemon = await boot()
    daemon.endpoints.add({"name": "big", "endpoint": "http://h/v1", "kind": "local"}, agent)
    daemon.catalog.put(Model(name="here", kind="local"))
    daemon.catalog.set_alias(Alias(name="support", weights={"here": 1}, fallbacks=("big",)))
    with pytest.raises(Conflict, match="Alias 'support' has 'big'"):
        daemon.endpoints.remove("big", agent)
    with pytest.raises(Conflict, match="'here' is no endpoint"):
        daemon.endpoints.remove("here", agent)
