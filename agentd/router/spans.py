"""Requests as OpenTelemetry spans, by the conventions for generative AI: one each, with one for each attempt.

They are made when a request has ended, from its record, so that nothing of it lies on the way of an answer.
Texts are never in them. The SDK and its exporter are an extra: ``pip install 'agentd-mcp[otel]'``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentd.errors import InputError
from agentd.store.requests import RequestRow

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

__all__ = ["Spans"]

OPERATIONS = {
    "chat/completions": "chat",
    "messages": "chat",
    "responses": "chat",
    "completions": "text_completion",
    "embeddings": "embeddings",
}
NS = 1_000_000_000


class Spans:
    """Sends spans to a collector's OTLP over HTTP, from a thread. Raises `InputError` without the extra."""

    def __init__(self, otlp: str, version: str) -> None:
        """`otlp` is the collector's base URL, such as ``http://127.0.0.1:4318``."""
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise InputError(
                "agentd.toml has [telemetry], and OpenTelemetry is not installed",
                hint="pip install 'agentd-mcp[otel]'",
            ) from error
        resource = Resource.create({"service.name": "agentd", "service.version": version})
        self._provider: TracerProvider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint=f"{otlp.rstrip('/')}/v1/traces", timeout=5)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("agentd.router", version)

    def emit(self, row: RequestRow) -> None:
        """The spans of a request that has ended."""
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        operation = OPERATIONS.get(row.trace.get("api", ""), "chat")
        began = round((row.at - row.seconds) * NS)
        whole = self._tracer.start_span(
            f"{operation} {row.asked}",
            context=TraceContextTextMapPropagator().extract({"traceparent": row.trace.get("parent", "")}),
            kind=SpanKind.SERVER,
            start_time=began,
            attributes={
                "gen_ai.operation.name": operation,
                "gen_ai.request.model": row.asked,
                "gen_ai.response.model": row.model,
                "gen_ai.response.id": row.id,
                "gen_ai.usage.input_tokens": row.input_tokens,
                "gen_ai.usage.output_tokens": row.output_tokens,
                "agentd.cost_usd": row.micro_usd / 1e6,
                "agentd.why": row.why,
                "agentd.principal": row.principal,
                "agentd.project": row.project,
                **({"agentd.task": row.trace["task"]} if "task" in row.trace else {}),
            },
        )
        for attempt in row.trace.get("attempts", ()):
            start = began + round(attempt["after_s"] * NS)
            span = self._tracer.start_span(
                f"{operation} {attempt['model']}",
                context=set_span_in_context(whole),
                kind=SpanKind.CLIENT,
                start_time=start,
                attributes=_of(attempt, operation),
            )
            _close(span, attempt["status"], start + round(attempt["seconds"] * NS))
        _close(whole, row.status, round(row.at * NS))

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._provider.shutdown()


def _of(attempt: dict[str, Any], operation: str) -> dict[str, Any]:
    facts = {
        "gen_ai.operation.name": operation,
        "gen_ai.request.model": attempt["model"],
        "gen_ai.usage.input_tokens": attempt.get("input_tokens"),
        "gen_ai.usage.output_tokens": attempt.get("output_tokens"),
        "gen_ai.response.time_to_first_chunk": attempt.get("first_token_s"),
        "agentd.cost_usd": attempt["micro_usd"] / 1e6,
    }
    return {name: value for name, value in facts.items() if value is not None}


def _close(span: Any, status: str, at: int) -> None:
    from opentelemetry.trace import Status, StatusCode

    if status != "ok":
        span.set_attribute("error.type", status.partition(":")[0])
        span.set_status(Status(StatusCode.ERROR))  # what an endpoint said may repeat the request
    span.end(end_time=at)
