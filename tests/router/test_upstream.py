"""What is sent to an endpoint, and how long it is believed when it wants to be left alone."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest

from agentd.router.faults import LONGEST_REST_S, refused
from agentd.router.targets import Target
from agentd.router.upstream import Upstream
from agentd.router.usage import Usage, usage_of
from agentd.sdk import Model

pytestmark = pytest.mark.anyio
FINE = Model(name="fine", kind="local")
MESSAGE = {"model": "fine", "max_tokens": 5, "messages": [{"role": "user", "content": "hi"}]}


@pytest.mark.parametrize(("service", "header"), [("job-1", "authorization"), ("", "x-api-key")])
async def test_a_service_of_ours_is_shown_its_token_and_anthropic_its_key(
    endpoint: Any, service: str, header: str
) -> None:
    upstream = Upstream()
    await upstream.ask(Target(FINE, endpoint.url, "fine", "secret", service), "messages", MESSAGE)
    await upstream.aclose()
    [seen] = endpoint.headers
    assert seen[header].removeprefix("Bearer ") == "secret"
    assert not {"authorization", "x-api-key"} - {header} & set(seen)


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ({"Retry-After": "7"}, 7),
        ({"retry-after-ms": "20"}, 0.02),
        ({"Retry-After": "-3"}, 0),
        ({"Retry-After": "inf"}, LONGEST_REST_S),
        ({"Retry-After": "1e300"}, LONGEST_REST_S),
        ({"Retry-After": "nan"}, 0),
        ({"Retry-After": "Fri, 31 Dec 99999999 23:59:59 GMT"}, None),
        ({"Retry-After": "soon"}, None),
        ({}, None),
    ],
)
def test_an_endpoint_is_left_alone_as_long_as_it_wants_and_an_hour_at_most(
    said: dict[str, str], seconds: float | None
) -> None:
    target = Target(FINE, "http://127.0.0.1/v1", "fine", "")
    assert refused(target, 429, b"{}", said).retry_after_s == seconds


def test_a_date_is_as_good_as_seconds() -> None:
    target = Target(FINE, "http://127.0.0.1/v1", "fine", "")
    later = {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(minutes=10), usegmt=True)}
    assert refused(target, 429, b"{}", later).retry_after_s == pytest.approx(600, abs=30)


@pytest.mark.parametrize("count", [float("inf"), float("nan"), -5, "many", None, 10**400])
def test_a_count_that_is_none_is_not_believed(count: Any) -> None:
    assert usage_of({"prompt_tokens": count, "completion_tokens": 2}) == Usage(input=0, output=2)
