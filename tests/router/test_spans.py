"""Requests as spans, as a collector on loopback gets them."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from agentd.config import Telemetry
from agentd.policy.callers import Caller
from agentd.router.inquiry import Inquiry
from agentd.sdk import Alias, Model

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
pytestmark = pytest.mark.anyio


class Collector(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.bodies: list[bytes] = []

    def spans(self) -> dict[str, Any]:
        return {
            span.name: span
            for body in self.bodies
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        }


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        zipped = self.headers.get("Content-Encoding") == "gzip"
        self.server.bodies.append(gzip.decompress(body) if zipped else body)
        self.send_response(200)
        self.send_header("Content-Type", "application/x-protobuf")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Quiet."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def facts(span: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


async def test_a_request_is_a_span_with_one_for_each_attempt_and_no_text(
    boot: Any, endpoint: Any, agent: Caller, collector: Collector
) -> None:
    models = tuple(
        Model(name=name, kind="local", endpoint=endpoint.url, upstream=name) for name in ("limited", "fine")
    )
    alias = Alias(name="support", weights={"limited": 1}, fallbacks=("fine",))
    telemetry = Telemetry(otlp=f"http://127.0.0.1:{collector.server_address[1]}")
    daemon = await boot(models=models, aliases=(alias,), telemetry=telemetry)
    messages = [{"role": "user", "content": "a text that nobody else should read"}]
    reply = await daemon.gateway.complete(
        Inquiry({"model": "support", "messages": messages}, agent, parent=PARENT)
    )
    await boot.stop(daemon)
    spans = collector.spans()
    whole, failed, answered = spans["chat support"], spans["chat limited"], spans["chat fine"]
    assert facts(whole)["gen_ai.response.id"] == reply["agentd"]["request_id"]
    assert facts(whole)["gen_ai.response.model"] == facts(answered)["gen_ai.request.model"] == "fine"
    assert (facts(whole)["gen_ai.usage.input_tokens"], facts(whole)["gen_ai.usage.output_tokens"]) == (10, 5)
    assert failed.parent_span_id == answered.parent_span_id == whole.span_id
    assert facts(failed)["error.type"] == "UpstreamError"
    assert whole.start_time_unix_nano <= failed.start_time_unix_nano < answered.end_time_unix_nano
    assert whole.status.code == 0
    assert b"slow down" not in b"".join(collector.bodies), "what an endpoint said may repeat the request"
    assert whole.parent_span_id.hex() == "00f067aa0ba902b7"
    assert b"nobody else should read" not in b"".join(collector.bodies)
