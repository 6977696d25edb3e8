"""Change notifications through the stdio proxy: for both eras, and across a restart of the daemon."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from agentd.server.app import bind, http_server
from agentd.server.proxy import Proxy

JOB = "agentd://jobs/job-1"
MODERN: dict[str, Any] = {
    "io.modelcontextprotocol/protocolVersion": "2026-07-28",
    "io.modelcontextprotocol/clientCapabilities": {},
}
ACKNOWLEDGED = "notifications/subscriptions/acknowledged"
UPDATED = "notifications/resources/updated"
SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"


class Running:
    """A daemon that can be stopped and started again on its port."""

    def __init__(self, kernel: Any) -> None:
        self.kernel, self.port = kernel, 0
        self.start()

    def start(self) -> None:
        listener = bind("127.0.0.1", self.port)
        self.port = listener.getsockname()[1]
        self._server = http_server(self.kernel)

        async def serve() -> None:
            self.kernel.loop = asyncio.get_running_loop()
            await self._server.serve(sockets=[listener])

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()))
        self._thread.start()

    def stop(self) -> None:
        self._server.should_exit = True
        self._thread.join()

    def move(self, job_id: str, **changes: Any) -> None:
        story = self.kernel.jobs.stories[job_id]
        story.append(story[-1].model_copy(update=changes))
        self.announce()

    def announce(self) -> None:
        self.kernel.loop.call_soon_threadsafe(self.kernel.changes.announce)


class Pipe:
    """A client of the proxy, line by line."""

    def __init__(self, url: str, token: str = "view") -> None:
        read_in, write_in = os.pipe()
        read_out, write_out = os.pipe()
        self._stdin, self._stdout = os.fdopen(write_in, "wb", 0), os.fdopen(read_out, "rb")
        self._theirs = (os.fdopen(read_in, "rb"), os.fdopen(write_out, "wb"))
        proxy = Proxy(url, token, self._theirs[1], connect_seconds=10)
        self._thread = threading.Thread(target=proxy.serve, args=(self._theirs[0],))
        self._thread.start()

    def send(self, method: str, request_id: int | None = None, **params: Any) -> None:
        message = {"jsonrpc": "2.0", "method": method, "params": params}
        message |= {} if request_id is None else {"id": request_id}
        self._stdin.write(json.dumps(message).encode() + b"\n")

    def receive(self) -> dict[str, Any]:
        return json.loads(self._stdout.readline())

    def ask(self, method: str, request_id: int, **params: Any) -> dict[str, Any]:
        self.send(method, request_id, **params)
        answer = self.receive()
        assert answer.get("id") == request_id, answer
        return answer

    def shake_hands(self) -> dict[str, Any]:
        info = {"name": "t", "version": "1"}
        answer = self.ask("initialize", 0, protocolVersion="2025-11-25", capabilities={}, clientInfo=info)
        self.send("notifications/initialized")
        return answer["result"]["capabilities"]

    def close(self) -> None:
        self._stdin.close()
        self._thread.join()
        for file in (self._stdout, *self._theirs):
            file.close()


@pytest.fixture
def running(kernel: Any) -> Iterator[Running]:
    daemon = Running(kernel)
    yield daemon
    daemon.stop()


@pytest.fixture
def pipe(running: Running) -> Iterator[Callable[..., Pipe]]:
    opened: list[Pipe] = []

    def start(token: str = "view") -> Pipe:
        opened.append(Pipe(f"http://127.0.0.1:{running.port}", token))
        return opened[-1]

    yield start
    for each in opened:
        each.close()


def test_an_old_era_client_subscribes_and_is_told(pipe: Callable[..., Pipe], running: Running) -> None:
    client = pipe()
    assert client.shake_hands()["resources"] == {"subscribe": True, "listChanged": True}
    assert client.ask("resources/subscribe", 1, uri=JOB)["result"] == {}
    running.move("job-1", state="running")
    assert client.receive() == {"jsonrpc": "2.0", "method": UPDATED, "params": {"uri": JOB}}


def test_one_that_ends_a_subscription_hears_of_the_others_only(
    pipe: Callable[..., Pipe], running: Running
) -> None:
    story = running.kernel.jobs.stories
    story["job-2"] = [story["job-1"][-1].model_copy(update={"id": "job-2"})]
    client = pipe()
    client.shake_hands()
    for number, uri in enumerate((JOB, "agentd://jobs/job-2"), 1):
        client.ask("resources/subscribe", number, uri=uri)
    client.ask("resources/unsubscribe", 3, uri=JOB)
    running.move("job-1", state="running")
    running.move("job-2", state="running")
    assert client.receive()["params"] == {"uri": "agentd://jobs/job-2"}
    client.ask("resources/unsubscribe", 4, uri="agentd://jobs/job-2")
    running.move("job-2", state="succeeded")
    assert client.ask("ping", 5)["result"] is not None


def test_a_subscription_that_would_stay_silent_is_refused(pipe: Callable[..., Pipe]) -> None:
    client = pipe()
    client.shake_hands()
    error = client.ask("resources/subscribe", 1, uri="agentd://docs/policy")["error"]
    assert error["code"] == -32602
    assert "agentd://jobs" in error["message"]
    assert "uri" in client.ask("resources/subscribe", 2)["error"]["message"]


def test_a_token_that_may_not_look_may_not_subscribe(pipe: Callable[..., Pipe]) -> None:
    client = pipe("infer")
    client.shake_hands()
    assert "needs 'view'" in client.ask("resources/subscribe", 1, uri=JOB)["error"]["message"]


def test_who_asked_for_the_list_hears_that_it_has_changed(
    pipe: Callable[..., Pipe], running: Running
) -> None:
    client = pipe()
    client.shake_hands()
    client.ask("resources/list", 1)
    client.ask("resources/subscribe", 2, uri=JOB)  # answered once the daemon listens
    jobs = running.kernel.jobs
    jobs.stories = {"job-2": [jobs.stories["job-1"][-1].model_copy(update={"id": "job-2"})], **jobs.stories}
    running.announce()
    assert client.receive() == {"jsonrpc": "2.0", "method": "notifications/resources/list_changed"}


@pytest.mark.parametrize("era", ["old", "new"])
def test_a_restart_of_the_daemon_ends_no_subscription(
    pipe: Callable[..., Pipe], running: Running, era: str
) -> None:
    client = pipe()
    if era == "old":
        client.shake_hands()
        client.ask("resources/subscribe", 1, uri=JOB)
    else:
        client.send("subscriptions/listen", 1, _meta=MODERN, notifications={"resourceSubscriptions": [JOB]})
        assert client.receive()["method"] == ACKNOWLEDGED
    running.stop()
    running.start()
    missed = client.receive()  # it may have changed meanwhile: read it again
    assert (missed["method"], missed["params"]["uri"]) == (UPDATED, JOB)
    running.move("job-1", state="running")
    told = client.receive()
    assert (told["method"], told["params"]["uri"]) == (UPDATED, JOB)
    assert ("_meta" in told["params"]) == (era == "new")


def test_a_new_era_client_that_cancels_hears_no_more(pipe: Callable[..., Pipe], running: Running) -> None:
    client = pipe()
    for stream in (1, 2):
        client.send(
            "subscriptions/listen", stream, _meta=MODERN, notifications={"resourceSubscriptions": [JOB]}
        )
        assert client.receive()["method"] == ACKNOWLEDGED
    client.send("notifications/cancelled", requestId=1)
    client.ask("server/discover", 3, _meta=MODERN)  # lines are taken in order: the first stream has ended
    for state in ("running", "succeeded"):
        running.move("job-1", state=state)
        told = client.receive()
        assert (told["method"], told["params"]["_meta"][SUBSCRIPTION]) == (UPDATED, 2)
