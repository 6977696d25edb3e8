"""From the journal to a receiver: once, in order, and again with the same id where nobody knows."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from agentd.config import CommandConfig, WebhookConfig
from agentd.daemon import Daemon
from agentd.errors import NotFound
from agentd.notify import outbox
from agentd.policy.callers import Caller
from agentd.redaction import hide
from agentd.sdk import JobView
from agentd.store.notifiers import notifiers_in

pytestmark = pytest.mark.anyio
Boot = Any
Receiver = Any
ROOT = Path(__file__).parents[1] / "root"


def webhook(receiver: Receiver, name: str = "team", **more: Any) -> WebhookConfig:
    return WebhookConfig(**{"name": name, "kind": "webhook", "url": receiver.url, "gather_s": 0, **more})


def spend(daemon: Daemon, period: str) -> None:
    """Something to tell."""
    daemon.journal.append(
        "budget.spent", period, "daemon", scope="everything", name="", period="day", spent=10, limit=10
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "RETRY_S", 0.01)


@pytest.fixture
def deaf() -> Iterator[str]:
    """Connections are taken, and nothing is ever answered."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


# --- once -------------------------------------------------------------------------------------


async def test_each_thing_arrives_once_over_restarts_of_the_daemon(boot: Boot, receiver: Receiver) -> None:
    first = await boot(notify=(webhook(receiver),))
    spend(first, "one")
    one = await receiver.next()
    await boot.stop(first)
    second = await boot(notify=(webhook(receiver),))
    spend(second, "two")
    two = await receiver.next()
    await boot.stop(second)
    assert [each.data["notices"][0]["subject"] for each in (one, two)] == ["one", "two"]
    assert receiver.is_empty
    [notice] = two.data["notices"]
    assert two.id == f"agentd_{notice['seq']}_{notice['hash'][:16]}"


async def test_what_could_not_be_delivered_before_a_restart_arrives_after_it(
    boot: Boot, receiver: Receiver
) -> None:
    receiver.answers[:] = [500] * 100_000
    first = await boot(notify=(webhook(receiver),))
    spend(first, "one")
    tried = await receiver.next()
    await boot.stop(first)
    receiver.answers.clear()
    while not receiver.is_empty:
        receiver.came.get()
    await boot(notify=(webhook(receiver),))
    came = await receiver.next()
    assert (came.id, came.body) == (tried.id, tried.body)


async def test_a_new_notifier_begins_with_what_happens_from_then_on(boot: Boot, receiver: Receiver) -> None:
    first = await boot()
    spend(first, "before")
    await boot.stop(first)
    second = await boot(notify=(webhook(receiver),))
    spend(second, "after")
    assert [each["subject"] for each in (await receiver.next()).data["notices"]] == ["after"]


async def test_one_that_was_taken_out_begins_anew_when_it_is_back(boot: Boot, receiver: Receiver) -> None:
    first = await boot(notify=(webhook(receiver),))
    await boot.stop(first)
    second = await boot()
    spend(second, "meanwhile")
    await boot.stop(second)
    third = await boot(notify=(webhook(receiver),))
    spend(third, "after")
    assert [each["subject"] for each in (await receiver.next()).data["notices"]] == ["after"]


async def test_failed_deliveries_are_made_again_with_the_same_id_and_body(
    boot: Boot, receiver: Receiver
) -> None:
    receiver.answers[:] = [500, 503]
    daemon: Daemon = await boot(notify=(webhook(receiver),))
    spend(daemon, "one")
    tries = [await receiver.next() for _ in range(3)]
    assert len({(each.id, each.body) for each in tries}) == 1
    spend(daemon, "two")
    assert (await receiver.next()).id != tries[0].id
    assert receiver.is_empty


async def test_a_daemon_killed_between_sending_and_writing_it_down_sends_the_same_again(
    receiver: Receiver, tmp_path: Path, serve: Any
) -> None:
    """The receiver kills the daemon while it waits for the answer."""
    (tmp_path / "agentd.toml").write_text(
        f'state_dir = "state"\nroots = [{json.dumps(str(ROOT))}]\npolicy = "asking"\n'
        'prices = "dollar_a_second"\n[server]\nport = 0\n[budget]\nper_day_usd = 500.0\n'
        f'[[notify]]\nname = "team"\nkind = "webhook"\nurl = "{receiver.url}"\ngather_s = 0\n',
        encoding="utf-8",
    )
    daemon = serve()
    receiver.before = lambda: os.kill(daemon.pid, signal.SIGKILL)
    with contextlib.suppress(httpx.TransportError):  # it may be killed before it has answered
        await call_work(tmp_path / "state")
    sent = await receiver.next()
    assert await asyncio.to_thread(daemon.wait, 30) == -signal.SIGKILL
    receiver.before = lambda: None
    serve()
    again = await receiver.next()
    assert (again.id, again.body) == (sent.id, sent.body)
    [notice] = sent.data["notices"]
    assert notice["text"].endswith(f"agentd approve {notice['subject']}")
    await call_work(tmp_path / "state")
    other = await receiver.next()  # nothing else goes out before the first is written down
    assert other.data["notices"][0]["seq"] > notice["seq"]
    assert notifiers_in(tmp_path / "state" / "agentd.db")[0].delivered >= 1


async def call_work(state: Path) -> None:
    """Ask the daemon on `state` for what needs an approval."""
    url = json.loads((state / "daemon.json").read_text(encoding="utf-8"))["url"]
    headers = {"authorization": f"Bearer {(state / 'owner-token').read_text(encoding='ascii')}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, verify=False, timeout=30) as client:
        called = await client.post("/api/call/work", json={"arguments": {}, "cwd": "/"})
    assert called.json()["state"] == "waiting_approval"


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Any]:
    """``serve()`` runs ``agentd serve`` as a process of its own, until it answers."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AGENTD_")}
    env = own | {"AGENTD_CONFIG": str(tmp_path / "agentd.toml")}
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        daemon = subprocess.Popen(
            [sys.executable, "-P", "-m", "agentd", "serve"],
            env=env, cwd=tmp_path, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(daemon)
        assert daemon.stderr is not None
        said = daemon.stderr.readline()
        assert said.startswith("agentd "), said + daemon.stderr.read()
        return daemon

    yield start
    for daemon in started:
        daemon.terminate()
        daemon.communicate(timeout=30)


# --- together ---------------------------------------------------------------------------------


async def test_a_burst_is_one_message(boot: Boot, receiver: Receiver) -> None:
    daemon: Daemon = await boot(notify=(webhook(receiver),))
    for n in range(12):
        daemon.journal.append("job.failed", f"job-{n}", "daemon", tool="work", cause="exit_code")
    came = await receiver.next()
    assert (came.data["title"], came.data["counts"]) == ("agentd: 12 jobs failed", {"job.failed": 12})


async def test_what_comes_while_a_message_is_under_way_is_the_next_one(
    boot: Boot, receiver: Receiver
) -> None:
    receiver.answers[:] = [500] * 3
    daemon: Daemon = await boot(notify=(webhook(receiver),))
    spend(daemon, "one")
    first = await receiver.next()
    spend(daemon, "two")
    spend(daemon, "three")
    came = [await receiver.next() for _ in range(4)]
    assert [each.id for each in came[:3]] == [first.id] * 3
    assert [each["subject"] for each in came[3].data["notices"]] == ["two", "three"]


async def test_a_state_that_was_told_lately_is_not_told_again(boot: Boot, receiver: Receiver) -> None:
    daemon: Daemon = await boot(notify=(webhook(receiver),))
    daemon.journal.append("disk.low", "/state", "daemon", free=1e9, low=2e9)
    assert (await receiver.next()).data["counts"] == {"disk.low": 1}
    daemon.journal.append("disk.enough", "/state", "daemon", free=3e9, low=2e9)
    daemon.journal.append("disk.low", "/state", "daemon", free=1e9, low=2e9)
    spend(daemon, "one")
    assert (await receiver.next()).data["counts"] == {"budget.spent": 1}


async def test_a_real_question_is_told_and_one_that_was_answered_at_once_is_not(
    boot: Boot, receiver: Receiver, agent: Caller, person: Caller
) -> None:
    config = webhook(receiver, gather_s=0.5)
    daemon: Daemon = await boot(policy="asking", notify=(config,))
    quick = await daemon.calls.call("work", {"text": "quick"}, agent)
    assert isinstance(quick, JobView)
    assert quick.approval
    await daemon.approvals.decide(quick.approval, "deny", person, "no")
    slow = await daemon.calls.call("work", {"text": "slow"}, agent)
    assert isinstance(slow, JobView)
    came = await receiver.next()
    [notice] = came.data["notices"]
    assert notice["subject"] == slow.approval
    assert notice["text"] == (
        f"agent:ada asks for “Work on slow”, at most $60.00: agentd approve {slow.approval}"
    )


# --- in trouble -------------------------------------------------------------------------------


async def test_a_dead_notifier_holds_up_neither_the_daemon_nor_another(
    boot: Boot, receiver: Receiver, agent: Caller, deaf: str
) -> None:
    dead = WebhookConfig(name="dead", kind="webhook", url=deaf, gather_s=0)
    daemon: Daemon = await boot(notify=(dead, webhook(receiver)))
    spend(daemon, "one")
    assert (await receiver.next()).data["counts"] == {"budget.spent": 1}
    assert (await daemon.calls.call("say", {"text": "hello"}, agent)).model_dump()["text"] == "hello"
    waiting, told = daemon.notifiers.list()
    assert (waiting.name, waiting.waiting, waiting.delivered) == ("dead", 1, 0)
    assert told.name == "team"


async def test_what_does_not_answer_in_time_is_a_failure(boot: Boot, deaf: str) -> None:
    config = WebhookConfig(name="dead", kind="webhook", url=deaf, timeout_s=0.05)
    daemon: Daemon = await boot(notify=(config,))
    [tested] = await daemon.notifiers.test("dead")
    assert tested.problem.startswith(f"{deaf} ")


async def test_one_that_fails_is_told_once_and_says_when_it_works_again(
    boot: Boot, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.answers[:] = [500] * 8
    daemon: Daemon = await boot(notify=(webhook(receiver),))
    spend(daemon, "one")
    for _ in range(8):
        await receiver.next()
    failing = daemon.notifiers.list()[0]
    assert failing.failures >= 7
    assert failing.problem.endswith("answered 500")
    assert failing.failing_since is not None
    [row] = notifiers_in(daemon.state_dir / "agentd.db")
    assert row.problem == failing.problem
    await receiver.next()  # the ninth arrives
    spend(daemon, "two")
    await receiver.next()
    assert [entry.subject for entry in daemon.journal.tail(kind="notifier.failing")] == ["team"]
    warned = [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]
    assert [each for each in warned if "team delivers" in each] == [
        f"notifier team delivers nothing, and goes on trying: {failing.problem}",
        "notifier team delivers again",
    ]
    assert daemon.notifiers.list()[0].failures == 0


async def test_without_its_secret_nothing_goes_out_and_it_says_why(
    boot: Boot, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "RETRY_S", 60.0)
    monkeypatch.delenv("HOOK_SECRET", raising=False)
    daemon: Daemon = await boot(notify=(webhook(receiver, secret_env="HOOK_SECRET"),))
    spend(daemon, "one")
    [tested] = await daemon.notifiers.test()
    assert "HOOK_SECRET is not set" in tested.problem
    assert daemon.notifiers.list()[0].problem == tested.problem
    assert receiver.is_empty
    monkeypatch.setenv("HOOK_SECRET", "whsec_" + "a2tra2tra2tra2tra2tra2tra2tra2tra2s=")
    [tested] = await daemon.notifiers.test()
    assert tested.problem == ""
    came = [await receiver.next(), await receiver.next()]  # a test that arrives wakes what waits
    assert came[0].id.startswith("agentd_test_")
    assert came[1].data["counts"] == {"budget.spent": 1}
    assert came[1].headers["webhook-signature"].startswith("v1,")


async def test_a_secret_that_was_learned_after_it_was_journalled_does_not_go_out(
    boot: Boot, receiver: Receiver
) -> None:
    daemon: Daemon = await boot(notify=(webhook(receiver),))
    daemon.journal.append("job.failed", "job-1", "daemon", tool="work", reason="the key is plover-xyzzy-4711")
    hide("plover-xyzzy-4711", "a test's secret")
    came = await receiver.next()
    assert b"plover-xyzzy" not in came.body
    assert b"[redacted]" in came.body


async def test_a_program_is_told_as_a_webhook_is(boot: Boot, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    config = CommandConfig(name="desktop", kind="command", argv=("tee", str(pipe)), gather_s=0)
    daemon: Daemon = await boot(notify=(config,))
    spend(daemon, "one")
    told = json.loads(await asyncio.to_thread(pipe.read_text))
    assert told["data"]["title"] == "agentd: a budget is spent"


async def test_a_test_names_a_notifier_that_is_there(boot: Boot, receiver: Receiver) -> None:
    daemon: Daemon = await boot(notify=(webhook(receiver, "team"), webhook(receiver, "other")))
    with pytest.raises(NotFound, match="team"):
        await daemon.notifiers.test("teem")
    assert [(each.name, each.problem) for each in await daemon.notifiers.test()] == [
        ("team", ""),
        ("other", ""),
    ]
    assert [(each.delivered, each.waiting) for each in daemon.notifiers.list()] == [(0, 0), (0, 0)]
