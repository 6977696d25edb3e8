"""Change notifications: a 2026-07-28 client listens, and is told of jobs, runs and lists."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest
from mcp.client.client import Client
from mcp.shared.exceptions import MCPError
from mcp.shared.subscriptions import ResourcesListChanged, ResourceUpdated

pytestmark = pytest.mark.anyio
Connect = Callable[..., AbstractAsyncContextManager[Client]]
JOB = "agentd://jobs/job-1"


@pytest.fixture(params=["memory", "http"])
def modern(request: pytest.FixtureRequest) -> Connect:
    if request.param == "http":
        return request.getfixturevalue("http_to")(request.getfixturevalue("daemon"), "2026-07-28")
    return request.getfixturevalue("memory_to")(request.getfixturevalue("kernel"), "2026-07-28")


def move(kernel: Any, job_id: str, **changes: Any) -> None:
    """Let something happen to a job, on the loop that serves."""
    story = kernel.jobs.stories[job_id]
    story.append(story[-1].model_copy(update=changes))
    announce(kernel)


def announce(kernel: Any) -> None:
    loop = kernel.loop
    if loop is None:
        kernel.changes.announce()
    else:
        loop.call_soon_threadsafe(kernel.changes.announce)


async def test_what_is_subscribed_to_is_told_when_it_changes(modern: Connect, kernel: Any) -> None:
    async with modern("view") as client, client.listen(resource_subscriptions=[JOB]) as stream:
        move(kernel, "job-1", state="running", progress={"done": 7})
        async with asyncio.timeout(10):
            assert await anext(aiter(stream)) == ResourceUpdated(uri=JOB)


async def test_a_list_is_told_to_have_changed_when_there_is_a_new_job(modern: Connect, kernel: Any) -> None:
    async with modern("view") as client, client.listen(resources_list_changed=True) as stream:
        job = kernel.jobs.stories["job-1"][-1]
        kernel.jobs.stories = {"job-2": [job.model_copy(update={"id": "job-2"})], **kernel.jobs.stories}
        announce(kernel)
        async with asyncio.timeout(10):
            assert await anext(aiter(stream)) == ResourcesListChanged()


async def test_a_change_of_something_else_is_not_told(modern: Connect, kernel: Any) -> None:
    kernel.jobs.stories["job-2"] = [kernel.jobs.stories["job-1"][-1].model_copy(update={"id": "job-2"})]
    async with modern() as client, client.listen(resource_subscriptions=["agentd://jobs/job-2"]) as stream:
        move(kernel, "job-1", state="running")
        move(kernel, "job-2", state="running")
        async with asyncio.timeout(10):
            assert await anext(aiter(stream)) == ResourceUpdated(uri="agentd://jobs/job-2")


async def test_only_what_will_be_told_is_acknowledged(modern: Connect) -> None:
    asked = [JOB, "agentd://docs/policy", "agentd://jobs", "agentd://jobs/a/b", "file:///etc/passwd"]
    async with (
        modern() as client,
        client.listen(
            tools_list_changed=True, prompts_list_changed=True, resource_subscriptions=asked
        ) as stream,
    ):
        honored = stream.honored
    assert honored.resource_subscriptions == [JOB, "agentd://jobs"]
    assert (honored.tools_list_changed, honored.prompts_list_changed) == (None, None)


async def test_more_addresses_than_a_stream_may_have_are_refused(modern: Connect) -> None:
    many = [f"agentd://jobs/job-{n}" for n in range(257)]
    async with modern() as client:
        with pytest.raises(MCPError, match="at most 256"):
            async with client.listen(resource_subscriptions=many):
                raise AssertionError


async def test_a_key_for_inference_may_not_listen(http_to: Any, daemon: Any) -> None:
    async with http_to(daemon, "2026-07-28")("infer") as client:
        with pytest.raises(MCPError, match="needs 'view'"):
            async with client.listen(resource_subscriptions=[JOB]):
                raise AssertionError


@pytest.mark.parametrize(("era", "modern"), [("legacy", False), ("auto", True)])
async def test_each_era_declares_what_it_can_have(
    memory_to: Any, kernel: Any, era: str, modern: bool
) -> None:
    async with memory_to(kernel, era)() as client:
        declared = client.server_capabilities
    assert declared.resources is not None
    assert (declared.resources.subscribe, declared.resources.list_changed) == (modern, modern)
    assert declared.tools is not None
    assert not declared.tools.list_changed
    assert declared.completions is not None


async def test_a_daemon_that_stops_ends_the_streams_at_once(daemon: Any, http_to: Any, kernel: Any) -> None:
    async with (
        http_to(daemon, "2026-07-28")() as client,
        client.listen(resource_subscriptions=[JOB]) as stream,
    ):
        threading.Thread(target=daemon.stop).start()
        async with asyncio.timeout(2.5):  # uvicorn itself would wait three seconds for them
            assert [event async for event in stream] == []
