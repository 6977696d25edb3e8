"""The webhook: its signature, its errors, and what it never does."""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import Any

import pytest

from agentd.config import WebhookConfig
from agentd.errors import Unavailable
from agentd.notify.notices import Message, trial
from agentd.notify.webhook import Webhook, keys_of, signature

pytestmark = pytest.mark.anyio
Receiver = Any
SECRET = "whsec_" + base64.b64encode(b"k" * 32).decode()
OTHER = "whsec_" + base64.b64encode(b"o" * 32).decode()


def message() -> Message:
    return trial("team", 1_795_000_000.5)


def verifies(secret: str, headers: dict[str, str], body: bytes) -> bool:
    """As a receiver does it, by the specification."""
    key = base64.b64decode(secret.removeprefix("whsec_"))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    sent = [each.partition(",") for each in headers["webhook-signature"].split(" ")]
    return any(version == "v1" and hmac.compare_digest(each, expected) for version, _, each in sent)


def test_the_signature_is_that_of_the_specifications_example() -> None:
    [key] = keys_of("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    body = b'{"test": 2432232314}'
    signed = signature(key, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signed == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


async def test_what_arrives_can_be_verified(receiver: Receiver) -> None:
    config = WebhookConfig(name="team", kind="webhook", url=receiver.url, secret_env="HOOK")
    webhook = Webhook(config, {"HOOK": SECRET})
    await webhook.send(message())
    came = await receiver.next()
    assert verifies(SECRET, came.headers, came.body)
    assert not verifies(OTHER, came.headers, came.body)
    assert not verifies(SECRET, came.headers, came.body + b" ")
    assert came.headers["content-type"] == "application/json"
    assert came.data["id"] == came.id == message().id
    await webhook.aclose()


async def test_while_a_secret_is_replaced_both_sign(receiver: Receiver) -> None:
    config = WebhookConfig(name="team", kind="webhook", url=receiver.url, secret_env="HOOK")
    webhook = Webhook(config, {"HOOK": f"{SECRET} {OTHER}"})
    await webhook.send(message())
    came = await receiver.next()
    assert verifies(SECRET, came.headers, came.body)
    assert verifies(OTHER, came.headers, came.body)
    await webhook.aclose()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, "HOOK is not set"),
        ({"HOOK": "not base64!"}, "is not base64"),
        ({"HOOK": "whsec_" + base64.b64encode(b"short").decode()}, "it has 5 bytes"),
    ],
)
async def test_nothing_is_sent_unsigned(receiver: Receiver, environ: dict[str, str], said: str) -> None:
    config = WebhookConfig(name="team", kind="webhook", url=receiver.url, secret_env="HOOK")
    with pytest.raises(Unavailable, match=said):
        await Webhook(config, environ).send(message())
    assert receiver.is_empty


async def test_a_url_may_stay_in_the_environment_and_is_not_shown(receiver: Receiver) -> None:
    webhook = Webhook(WebhookConfig(name="team", kind="webhook", url_env="URL"), {"URL": receiver.url})
    await webhook.send(message())
    assert (await receiver.next()).path == "/hook"
    assert webhook.to == "$URL"
    await webhook.aclose()


async def test_a_url_in_the_environment_is_checked_as_well() -> None:
    webhook = Webhook(
        WebhookConfig(name="team", kind="webhook", url_env="URL"), {"URL": "file:///etc/passwd"}
    )
    with pytest.raises(Unavailable, match="begins with http"):
        await webhook.send(message())


@pytest.mark.parametrize("status", [301, 400, 401, 410, 500, 503])
async def test_anything_but_success_is_a_failure_and_redirects_are_not_followed(
    receiver: Receiver, status: int
) -> None:
    receiver.answers.append(status)
    receiver.headers = {"location": receiver.url, "retry-after": "7"}
    webhook = Webhook(WebhookConfig(name="team", kind="webhook", url=receiver.url))
    with pytest.raises(Unavailable, match=f"answered {status}") as failed:
        await webhook.send(message())
    assert failed.value.retry_after_s == 7
    await receiver.next()
    assert receiver.is_empty
    await webhook.aclose()


async def test_what_cannot_be_reached_is_named_without_its_path() -> None:
    webhook = Webhook(WebhookConfig(name="team", kind="webhook", url="http://127.0.0.1:9/services/T0/B0"))
    with pytest.raises(Unavailable, match=r"^http://127.0.0.1:9 cannot be reached") as failed:
        await webhook.send(message())
    assert "services" not in str(failed.value)
    await webhook.aclose()
