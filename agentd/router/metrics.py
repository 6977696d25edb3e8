"""What the gateway does, as figures that Prometheus reads: by model and by the name that was asked for.

Counted in plain numbers with each request; prometheus_client, which takes a quarter of a second to load,
writes them out when somebody asks.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, Any

from agentd.router.health import Fleet
from agentd.store.requests import RequestRow

if TYPE_CHECKING:
    from prometheus_client.core import Metric

__all__ = ["CONTENT_TYPE", "Metrics"]

CONTENT_TYPE = "text/plain; version=1.0.0; charset=utf-8"
SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
TOKENS_PER_S = (1, 5, 10, 20, 40, 80, 160, 320, 640)
NO_FAILURES = ("ClientGone", "NotEnough", "Hedged")
KINDS = ("input", "output", "cached", "reasoning")

Names = tuple[str, str]
"""The model that answered, or should have, and the name that was asked for."""


@dataclass(slots=True)
class Histogram:
    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect.bisect_left(self.bounds, value)] += 1
        self.total += value

    @property
    def buckets(self) -> list[tuple[str, float]]:
        names = [*(f"{float(bound):g}" for bound in self.bounds), "+Inf"]
        return [(name, float(count)) for name, count in zip(names, accumulate(self.counts), strict=True)]


class Metrics:
    """Counts since the daemon began."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._requests: Counter[tuple[str, str, str]] = Counter()
        self._failures: Counter[tuple[str, str, str]] = Counter()
        self._tokens: Counter[tuple[str, str, str]] = Counter()
        self._micro_usd: Counter[Names] = Counter()
        self._seconds: dict[Names, Histogram] = {}
        self._first: dict[Names, Histogram] = {}
        self._rate: dict[Names, Histogram] = {}

    def count(self, row: RequestRow) -> None:
        """Take in a request that has ended."""
        names = row.model, row.asked
        self._requests[*names, row.status.partition(":")[0]] += 1
        for attempt in row.trace.get("attempts", ()):
            of = attempt["model"], row.asked
            self._micro_usd[of] += attempt["micro_usd"]
            if attempt["status"] != "ok" and not attempt["status"].startswith(NO_FAILURES):
                self._failures[*of, attempt["status"].partition(":")[0]] += 1
            for kind in KINDS:
                if tokens := attempt.get(f"{kind}_tokens"):
                    self._tokens[*of, kind] += tokens
        if row.status != "ok" or row.trace.get("cached"):
            return
        last = [each for each in row.trace["attempts"] if each["model"] == row.model][-1]
        _of(self._seconds, names, SECONDS).observe(row.seconds)
        first_s = last.get("first_token_s")
        if first_s is not None:
            _of(self._first, names, FIRST_TOKEN).observe(first_s)
        spent = last["seconds"] - (first_s or 0.0)
        if row.output_tokens > 1 and spent > 0:
            _of(self._rate, names, TOKENS_PER_S).observe(row.output_tokens / spent)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)  # pyright: ignore[reportArgumentType]
        return generate_latest(registry)

    def collect(self) -> Iterator[Metric]:
        """What a registry of prometheus_client asks for."""
        yield from self._counters()
        yield from self._histograms()
        yield from self._gauges()

    def _counters(self) -> Iterator[Metric]:
        from prometheus_client.core import CounterMetricFamily

        for name, help_, third, counts in (
            ("agentd_requests", "Requests that have ended.", "status", self._requests),
            ("agentd_attempt_failures", "Attempts at a model that failed.", "error", self._failures),
            ("agentd_tokens", "Tokens as endpoints counted them.", "kind", self._tokens),
        ):
            family = CounterMetricFamily(name, help_, labels=["model", "alias", third])
            for labels, count in counts.items():
                family.add_metric(labels, count)
            yield family
        cost = CounterMetricFamily("agentd_cost_usd", "What attempts cost.", labels=["model", "alias"])
        for names, micro in self._micro_usd.items():
            cost.add_metric(names, micro / 1e6)
        yield cost

    def _histograms(self) -> Iterator[Metric]:
        from prometheus_client.core import HistogramMetricFamily

        of: tuple[tuple[str, str, dict[Names, Histogram]], ...] = (
            ("agentd_request_seconds", "Time of requests that were answered.", self._seconds),
            ("agentd_first_token_seconds", "Time to the first event of a stream.", self._first),
            ("agentd_output_tokens_per_second", "Pace of answers after their first token.", self._rate),
        )
        for name, help_, histograms in of:
            family = HistogramMetricFamily(name, help_, labels=["model", "alias"])
            for names, histogram in histograms.items():
                family.add_metric(names, histogram.buckets, histogram.total)
            yield family

    def _gauges(self) -> Iterator[Metric]:
        from prometheus_client.core import GaugeMetricFamily

        resting = GaugeMetricFamily(
            "agentd_model_resting", "1 while a model that failed is left alone.", labels=["model"]
        )
        under_way = GaugeMetricFamily("agentd_requests_under_way", "Requests at a model.", labels=["model"])
        for name, health in self._fleet.all().items():
            resting.add_metric([name], float(self._fleet.rests(name) > 0))
            under_way.add_metric([name], health.under_way)
        yield resting
        yield under_way


def _of(histograms: dict[Names, Histogram], names: Names, bounds: Sequence[float]) -> Any:
    if names not in histograms:
        histograms[names] = Histogram(bounds)
    return histograms[names]
