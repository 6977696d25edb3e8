"""Figures of the gateway as Prometheus reads them."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agentd.policy.callers import Caller
from agentd.router.inquiry import Inquiry
from agentd.sdk import Alias, Model

pytestmark = pytest.mark.anyio


def body(model: str, **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **more}


async def test_requests_tokens_cost_and_health_are_counted_by_model_and_alias(
    boot: Any, endpoint: Any, agent: Caller
) -> None:
    models = tuple(
        Model(
            name=name, kind="frontier", endpoint=endpoint.url, upstream=name,
            input_micro_usd_per_mtok=3_000_000, output_micro_usd_per_mtok=15_000_000,
        )
        for name in ("fine", "limited")
    )  # fmt: skip
    alias = Alias(name="support", weights={"limited": 1}, fallbacks=("fine",))
    daemon = await boot(models=models, aliases=(alias,))
    await daemon.gateway.complete(Inquiry(body("support"), agent))
    async for _ in daemon.gateway.stream(Inquiry(body("support"), agent)):
        pass
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(daemon.metrics.text().decode())
        for sample in family.samples
    }

    def value(name: str, **labels: str) -> float:
        return samples[(f"agentd_{name}", *sorted(labels.items()))]

    of = {"model": "fine", "alias": "support"}
    assert value("requests_total", **of, status="ok") == 2
    assert value("tokens_total", **of, kind="output") == 10
    assert value("cost_usd_total", **of) == pytest.approx(2 * (10 * 3 + 5 * 15) / 1e6)
    assert value("request_seconds_count", **of) == 2
    assert value("first_token_seconds_count", **of) == 1
    assert value("attempt_failures_total", model="limited", alias="support", error="UpstreamError") == 1
    assert value("model_resting", model="limited") == 1
    assert value("model_resting", model="fine") == 0
    assert value("requests_under_way", model="fine") == 0
