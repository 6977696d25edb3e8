"""Seven kinds of MCP client, of both eras and transports, each drive a real small fine-tune to its end."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx2
import mcp_types as types
import pytest
from mcp.client.client import Client
from mcp.client.stdio import StdioServerParameters
from mcp.client.streamable_http import streamable_http_client

from agentd.daemon import Daemon
from agentd.policy.credentials import Wanted
from agentd.sdk import Model
from agentd.server.app import bind, http_server
from agentd.server.tasks import TASKS
from tests.recipes.test_finetune import TINY

pytestmark = [pytest.mark.anyio, pytest.mark.slow]

MODERN = "2026-07-28"
APPROVE = {"action": "accept", "content": {"answer": "approve"}}
POLICY = """
name: clients
description: Fine-tunes are asked about, and the client of who asked may answer.
doubtful_prices: allow
ask:
  - name: training
    tools: [finetune]
    client_may_answer: true
allow:
  - name: the-rest
"""


class Box:
    """A daemon that is served over HTTP, with a tiny model and seven small data sets."""

    def __init__(self, daemon: Daemon, url: str, folder: Path) -> None:
        self.daemon, self.url, self.folder = daemon, url, folder
        self.token = (daemon.state_dir / "agent-token").read_text("ascii").strip()

    def call(self, profile: str) -> dict[str, Any]:
        """A fine-tune that is this profile's own."""
        rows = [{"prompt": f"{profile} says {n}.", "completion": f"It is {n}."} for n in range(8)]
        path = self.folder / f"{profile}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        return {"model": "tiny", "dataset": str(path), "name": f"by-{profile}", "epochs": 1, "batch_size": 8}

    async def post(self, capabilities: dict[str, Any], method: str, **params: Any) -> dict[str, Any]:
        """One request of a client of 2026-07-28 that has these capabilities."""
        meta = {
            "io.modelcontextprotocol/protocolVersion": MODERN,
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        }
        headers = {
            "authorization": f"Bearer {self.token}",
            "accept": "application/json, text/event-stream",
            "mcp-protocol-version": MODERN,
            "mcp-method": method,
            "mcp-name": params.get("taskId") or params.get("name", ""),
        }
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": {**params, "_meta": meta}}
        async with httpx2.AsyncClient(timeout=60) as http:
            answer = (await http.post(f"{self.url}/mcp", json=body, headers=headers)).json()
        assert "result" in answer, answer
        return answer["result"]

    @asynccontextmanager
    async def http(self, mode: str, person: Any = None) -> AsyncIterator[Client]:
        async with (
            httpx2.AsyncClient(headers={"authorization": f"Bearer {self.token}"}, timeout=60) as sender,
            Client(
                streamable_http_client(f"{self.url}/mcp", http_client=sender),
                mode=mode,  # pyright: ignore[reportArgumentType]
                elicitation_callback=person,
            ) as client,
        ):
            yield client

    @asynccontextmanager
    async def stdio(self) -> AsyncIterator[Client]:
        program = (
            "import sys; from agentd.server.proxy import run;"
            f"sys.exit(run({self.url!r}, {self.token!r}, sys.stdin.buffer, sys.stdout.buffer))"
        )
        started = StdioServerParameters(command=sys.executable, args=["-c", program])
        async with Client(started, mode="legacy") as client:
            yield client

    def approve(self, approval: str) -> Awaitable[Any]:
        """What a person does elsewhere, with a credential of their own."""
        owner = self.daemon.tokens.check((self.daemon.state_dir / "owner-token").read_text("ascii").strip())
        assert owner is not None
        return self.daemon.approvals.decide(approval, "approve", owner, "")


@pytest.fixture
async def box(boot: Any, interpreter: Callable[[str], Path], tmp_path: Path) -> AsyncIterator[Box]:
    python = await asyncio.to_thread(interpreter, "finetune")
    tiny = tmp_path / "tiny"
    tiny.mkdir()
    await asyncio.to_thread(
        subprocess.run, [str(python), "-P", "-c", TINY, str(tiny)], check=True, capture_output=True
    )
    policy = tmp_path / "clients.yaml"
    policy.write_text(POLICY, encoding="utf-8")
    listener = bind("127.0.0.1", 0)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    daemon = await boot(policy=str(policy), url=url, max_jobs=4)
    daemon.catalog.put(Model(name="tiny", kind="local", path=tiny, context=512))
    server = http_server(daemon)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    yield Box(daemon, url, tmp_path)
    server.should_exit = True
    await serving
    listener.close()


async def ended(client: Client, job: str) -> dict[str, Any]:
    """The job once it has ended, by `job_wait` alone."""
    while True:
        result = await client.call_tool("job_wait", {"job": job, "max_s": 20})
        assert result.structured_content is not None
        if result.structured_content["state"] not in ("queued", "preparing", "running", "waiting_approval"):
            return result.structured_content


async def tasks_and_elicitation(box: Box) -> str:
    both = {"extensions": {TASKS: {}}, "elicitation": {"form": {}}}
    call = {"name": "finetune", "arguments": box.call("tasks")}
    task = (await box.post(both, "tools/call", **call))["taskId"]
    waiting = await box.post(both, "tasks/get", taskId=task)
    assert waiting["status"] == "input_required"
    answers = dict.fromkeys(waiting["inputRequests"], APPROVE)
    await box.post(both, "tasks/update", taskId=task, inputResponses=answers)
    async for _ in box.daemon.jobs.follow(task):  # only to know when to ask
        pass
    told = await box.post(both, "tasks/get", taskId=task)
    assert told["status"] == "completed"
    return task


def answering(answer: types.ElicitResult) -> Any:
    async def person(context: Any, params: types.ElicitRequestParams) -> types.ElicitResult:
        return answer

    return person


def saying(answer: types.ElicitResult, mode: str, profile: str) -> Callable[[Box], Awaitable[str]]:
    async def drive(box: Box) -> str:
        async with box.http(mode, answering(answer)) as client:
            job = (await client.call_tool("finetune", box.call(profile))).structured_content or {}
            if answer.action == "decline":
                assert job["state"] == "waiting_approval"
                await box.approve(job["approval"])
            assert (await ended(client, job["id"]))["state"] == "succeeded"
        return job["id"]

    return drive


def silent(mode: str, profile: str) -> Callable[[Box], Awaitable[str]]:
    """A client that declares nothing: it is told how to approve, and waits."""

    async def drive(box: Box) -> str:
        async with box.stdio() if mode == "stdio" else box.http(mode) as client:
            call, meta = box.call(profile), {"agentd/idempotency-key": profile}
            job = (await client.call_tool("finetune", call, meta=meta)).structured_content or {}
            assert f"agentd approve {job['approval']}" in job["next"]
            again = (await client.call_tool("finetune", call, meta=meta)).structured_content or {}
            assert again["id"] == job["id"], "a call that is made again with its key is the same job"
            await box.approve(job["approval"])
            assert (await ended(client, job["id"]))["state"] == "succeeded"
        return job["id"]

    return drive


YES = types.ElicitResult(action="accept", content={"answer": "approve"})
NO = types.ElicitResult(action="decline")
PROFILES: dict[str, tuple[Callable[[Box], Awaitable[str]], str]] = {
    "modern, tasks and elicitation": (tasks_and_elicitation, "agent"),
    "modern, elicitation": (saying(YES, MODERN, "modern"), "agent"),
    "modern, declines by itself": (saying(NO, MODERN, "decliner"), "user"),
    "modern, nothing": (silent(MODERN, "plain"), "user"),
    "legacy, elicitation": (saying(YES, "legacy", "legacy"), "agent"),
    "legacy, nothing": (silent("legacy", "old"), "user"),
    "legacy, stdio": (silent("stdio", "stdio"), "user"),
}


async def test_each_kind_of_client_gets_its_model_and_nothing_starts_twice(box: Box) -> None:
    jobs = await asyncio.gather(*(drive(box) for drive, _ in PROFILES.values()))
    assert len(set(jobs)) == len(PROFILES)
    assert {job.id for job in box.daemon.jobs.list()} == set(jobs)
    owner = box.daemon.tokens.check((box.daemon.state_dir / "owner-token").read_text("ascii").strip())
    assert owner is not None
    stranger = box.daemon.tokens.create(Wanted(agent="stranger", role="operate"), owner)
    unseen = box.daemon.tokens.check(stranger.token)
    assert unseen is not None
    assert box.daemon.seen_by(unseen).jobs.list() == []
    for job, (profile, (_, decided)) in zip(jobs, PROFILES.items(), strict=True):
        view = box.daemon.jobs.get(job)
        started = [e for e in box.daemon.journal.tail(1000, subject=job) if e.kind == "job.running"]
        assert (view.state, view.attempt) == ("succeeded", 1), profile
        assert (view.decided_by or "").startswith(decided), (profile, view.decided_by)
        assert len(started) == 1, profile
        assert (view.result or {})["model"] in {model.name for model in box.daemon.catalog.list()}
