"""Exports one batch too large for the agent through the SDK's own exporters and says what came of it.

    oversize.py <grpc port> <http port>

One JSON object a line: protocol, compression, the SDK's result, seconds. Whether it was sent again, the agent counts.
"""

import json
import sys
import time

import grpc
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as OverGrpc
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as OverHttp
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SimpleSpanProcessor


class Kept(SpanExporter):
    """Spans as the SDK hands them to an exporter."""

    def __init__(self):
        self.spans = []

    def export(self, spans):
        self.spans.extend(spans)


def spans(count):
    kept = Kept()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(kept))
    tracer = provider.get_tracer("oversize")
    for n in range(count):
        tracer.start_span(f"span {n}", attributes={"padding": "x" * 1000}).end()
    return kept.spans


grpc_port, http_port = sys.argv[1:]
small, large = spans(1), spans(3000)
for compression in ("none", "gzip"):
    over_grpc = {"none": grpc.Compression.NoCompression, "gzip": grpc.Compression.Gzip}[compression]
    over_http = {"none": Compression.NoCompression, "gzip": Compression.Gzip}[compression]
    exporters = {
        "grpc": OverGrpc(endpoint=f"http://127.0.0.1:{grpc_port}", insecure=True, compression=over_grpc, timeout=6),
        "http": OverHttp(endpoint=f"http://127.0.0.1:{http_port}/v1/traces", compression=over_http, timeout=20),
    }
    for protocol, exporter in exporters.items():
        for size, batch in (("small", small), ("large", large)):
            began = time.monotonic()
            result = exporter.export(batch).name
            took = round(time.monotonic() - began, 2)
            told = {"protocol": protocol, "compression": compression, "size": size, "result": result, "seconds": took}
            print(json.dumps(told), flush=True)
