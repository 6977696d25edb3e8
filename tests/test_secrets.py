"""Where a secret may turn up in the course of a real job, and does not: neither kept, nor shown, nor told."""

from __future__ import annotations

import json
import secrets
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client

from agentd.daemon import Daemon
from agentd.errors import AgentdError, InputError
from agentd.policy.callers import Caller
from agentd.sdk import JobView
from agentd.server.mcp import mcp_server
from agentd.server.wire import dump, error_of

pytestmark = pytest.mark.anyio
Boot = Any
NAME = "EXAMPLE_SERVICE_PASSWORD"


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> str:
    """Without any shape of its own: known only as the value of a variable."""
    value = f"correct horse {secrets.token_hex(8)} staple"
    monkeypatch.setenv(NAME, value)
    return value


@pytest.fixture
def told(tmp_path: Path, password: str) -> list[str]:
    """What the recipe will say, each a secret; they lie in its input."""
    return [password, f"sk-proj-{secrets.token_urlsafe(40)}A1", f"agentd_{secrets.token_urlsafe(32)}A"]


async def finished(daemon: Daemon, caller: Caller, **arguments: Any) -> JobView:
    view = await daemon.calls.call("work", arguments, caller)
    assert isinstance(view, JobView)
    return await daemon.jobs.settled(view.id)


def everything_kept(daemon: Daemon) -> str:
    """The whole database as text, columns of all tables."""
    tables = [row["name"] for row in daemon.store.rows("SELECT name FROM sqlite_master WHERE type = 'table'")]
    assert {"journal", "jobs", "approvals", "requests"} <= set(tables)
    return json.dumps({table: daemon.store.rows(f"SELECT * FROM {table}") for table in tables}, default=str)


async def everything_told(daemon: Daemon, caller: Caller, job: str) -> str:
    """What a model is answered about the job, over MCP."""
    async with Client(mcp_server(daemon, caller), mode="2026-07-28") as client:
        answers = [
            await client.call_tool("job_status", {"job": job}),
            await client.call_tool("job_logs", {"job": job}),
            await client.read_resource(f"agentd://jobs/{job}"),
            await client.list_resources(),
            await client.call_tool("say", {"text": "password: " + "correct-h0rse-battery"}),
        ]
        return json.dumps([answer.model_dump(mode="json") for answer in answers])


@pytest.mark.parametrize("behaviour", ["tell", "tell_and_refuse"])
async def test_what_a_job_gives_away_is_neither_kept_nor_shown(
    boot: Boot, agent: Caller, tmp_path: Path, told: list[str], behaviour: str
) -> None:
    daemon = await boot()
    (tmp_path / "secrets.txt").write_text("\n".join(f"it is {secret}, psst" for secret in told), "utf-8")
    view = await finished(daemon, agent, behaviour=behaviour, path="secrets.txt")
    assert view.ended
    shown = [dump(view), "\n".join(daemon.jobs.logs(view.id)), everything_kept(daemon)]
    shown.append(await everything_told(daemon, agent, view.id))
    for secret in told:
        assert not any(secret in text for text in shown)
    assert "it is [redacted], psst" in shown[1]
    assert "it is [redacted], psst" in shown[0]
    assert "correct-h0rse-battery" not in shown[3]


async def test_a_secret_argument_is_refused_with_the_mend_and_leaves_no_trace(
    boot: Boot, agent: Caller, told: list[str]
) -> None:
    daemon = await boot()
    for secret in told:
        with pytest.raises(InputError, match=r"work holds .* in 'text', .*environment variable") as caught:
            await daemon.calls.call("work", {"text": f"use {secret}"}, agent)
        with pytest.raises(InputError):
            await daemon.calls.quote("work", {"text": secret}, agent)
        assert secret not in str(caught.value)
        assert secret not in everything_kept(daemon)
    with pytest.raises(InputError, match=NAME):
        await daemon.calls.call("say", {"text": told[0]}, agent)


async def test_a_plan_with_a_secret_is_refused(
    boot: Boot, agent: Caller, tmp_path: Path, told: list[str]
) -> None:
    daemon = await boot()
    plan = tmp_path / "plan.yaml"
    for line in (f"args: {{text: '{told[1]}'}}", f"args: {{text: x}}  # {told[1]}"):
        plan.write_text(f"plan: leak\ngoal: none\nsteps:\n  - id: one\n    tool: say\n    {line}\n", "utf-8")
        with pytest.raises(InputError, match="plan 'leak' holds an API key in 'source'"):
            daemon.runs.start(plan, {}, agent)
    assert daemon.runs.list() == []


async def test_an_error_that_quotes_a_secret_is_told_without_it(told: list[str]) -> None:
    said = error_of(AgentdError(f"The endpoint answered: wrong key {told[1]}", hint=f"Not {told[2]}"))
    assert said == {
        "code": "error", "message": "The endpoint answered: wrong key [redacted]", "hint": "Not [redacted]"
    }  # fmt: skip


async def test_what_looks_like_a_secret_reaches_the_recipe_as_it_is(boot: Boot, agent: Caller) -> None:
    """Where it is not certain, only what is shown is redacted."""
    daemon = await boot(policy="asking")
    person = Caller("user:ada", "admin", "cli", agent.cwd, is_agent=False)
    text = "https://ann:l3tters@example.com/data"
    view = await daemon.calls.call("work", {"text": text}, agent)
    assert isinstance(view, JobView)
    asked = daemon.approvals.get(view.id)
    assert asked.facts["arguments"]["text"] == "https://ann:[redacted]@example.com/data"
    assert view.title == "Work on https://ann:[redacted]@example.com/data"
    await daemon.approvals.decide(asked.id, "approve", person, "as password=hunter234 says")
    done = await daemon.jobs.settled(view.id)
    assert done.state == "succeeded"
    folder = daemon.jobs.attempt_folder(view.id)
    assert folder is not None
    assert json.loads((folder / "spec.json").read_text("utf-8"))["text"] == text
    assert daemon.approvals.get(view.id).reason == "as password=[redacted] says"
