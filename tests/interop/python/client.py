"""The Python SDK and its OTLP exporters, as a user sets them up, sending numbered records until stdin ends.

Each batch goes to the control collector first, directly, then to the agent until the exporter says SUCCESS. What the
exporter said stands in the ledger, one line per call: `made|refused|acked SIGNAL FIRST COUNT`.
"""

import argparse
import math
import sys
import threading
import time

from opentelemetry._logs import SeverityNumber
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
from opentelemetry.sdk.metrics import Counter, Histogram, MeterProvider
from opentelemetry.sdk.metrics.export import AggregationTemporality, InMemoryMetricReader
from opentelemetry.sdk.metrics.view import ExponentialBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanKind, Status, StatusCode, set_span_in_context

SCHEMA = "https://opentelemetry.io/schemas/1.24.0"
# An exporter retries by itself within its timeout; short, so that an absent agent is seen by us as well.
TIMEOUT_S = 1
PAUSE_S = 0.2


def attributes(seq):
    return {
        "seq": seq,
        "text": f'snow ☃ rocket 🚀 quote " tab \t {seq}',
        "empty": "",
        "big": 2**53 + 1 + seq,
        "least": -(2**63),
        "yes": True,
        "no": False,
        "ratio": seq / 7,
        "endless": -math.inf,
        "words": ["ä", "", "漢字"],
        "whole": [1, 2**62 + 1],
        "parts": [0.1, 1e300],
        "flags": [True, False],
    }


def resource():
    about = {"service.name": "interop-python", "host.id": 2**60 + 1, "room": "Küche", "tags": ["a", "b"]}
    return Resource(about, SCHEMA)


class Traces:
    def __init__(self):
        self.kept = InMemorySpanExporter()
        provider = TracerProvider(resource=resource())
        provider.add_span_processor(SimpleSpanProcessor(self.kept))
        self.tracer = provider.get_tracer("interop.traces", "1.2.3", schema_url=SCHEMA, attributes={"scope": "ß"})

    def batch(self, seqs):
        before = None
        for seq in seqs:
            links = [Link(before.get_span_context(), {"why": "before"})] if before else []
            parent = set_span_in_context(before) if before and seq % 2 else None
            kind = list(SpanKind)[seq % len(SpanKind)]
            span = self.tracer.start_span(f"span {seq}", parent, kind, attributes(seq), links)
            span.add_event("event ☃", {"n": 2**55, "at": "middle"})
            span.set_status(Status(StatusCode.ERROR, "it broke") if seq % 3 == 0 else Status(StatusCode.OK))
            span.end()
            before = span
        spans = list(self.kept.get_finished_spans())
        self.kept.clear()
        return spans


class Logs:
    def __init__(self):
        self.kept = InMemoryLogRecordExporter()
        provider = LoggerProvider(resource=resource())
        provider.add_log_record_processor(SimpleLogRecordProcessor(self.kept))
        self.logger = provider.get_logger("interop.logs", "1.2.3", SCHEMA, {"scope": "ß"})
        self.tracer = TracerProvider().get_tracer("interop")

    def batch(self, seqs):
        for seq in seqs:
            self.logger.emit(
                timestamp=time.time_ns(),
                context=set_span_in_context(self.tracer.start_span("around")),
                severity_number=SeverityNumber.WARN2,
                severity_text="warning",
                body={"message": f"záznam {seq}", "deep": [{"raw": b"\x00\xff"}]} if seq % 2 else f"záznam {seq}",
                attributes={**attributes(seq), "raw": b"\x00\x01\xff", "map": {"in": {"ner": seq}}},
                event_name="interop.event",
            )
        logs = list(self.kept.get_finished_logs())
        self.kept.clear()
        return logs


class Metrics:
    def __init__(self):
        self.tracer = TracerProvider().get_tracer("interop")

    def batch(self, seqs):
        # A provider per batch: the SDK keeps every attribute set it has seen, and each seq is a new one.
        delta = {Counter: AggregationTemporality.DELTA, Histogram: AggregationTemporality.DELTA}
        reader = InMemoryMetricReader(preferred_temporality=delta)
        views = [View(instrument_name="exponential", aggregation=ExponentialBucketHistogramAggregation())]
        provider = MeterProvider([reader], resource(), views=views)
        meter = provider.get_meter("interop.metrics", "1.2.3", SCHEMA, {"scope": "ß"})
        instruments = [
            meter.create_counter("sum", "By", "how much ☃"),
            meter.create_up_down_counter("level", "1"),
            meter.create_gauge("gauge", "Cel"),
            meter.create_histogram("histogram", "s"),
            meter.create_histogram("exponential", "s"),
        ]
        # Inside a span, so that points carry exemplars.
        within = set_span_in_context(self.tracer.start_span("around"))
        for seq in seqs:
            kind = seq % len(instruments)
            if kind == 0:
                instruments[0].add(2**53 + seq, attributes(seq), within)
            elif kind == 1:
                instruments[1].add(-seq / 3, attributes(seq), within)
            elif kind == 2:
                instruments[2].set(seq / 9, attributes(seq), within)
            else:
                for value in (0.0, 0.25, seq % 100, 1e6):
                    instruments[kind].record(value, attributes(seq), within)
        return reader.get_metrics_data()


SOURCES = {"traces": Traces, "metrics": Metrics, "logs": Logs}


def exporter(protocol, signal, url, gzip, timeout_s, headers=None):
    """The SDK's own exporter of a signal; `url` is without the path of the signal."""
    if protocol == "grpc":
        from grpc import Compression
        from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
    else:
        from opentelemetry.exporter.otlp.proto.http import Compression
        from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

        url += f"/v1/{signal}"
    make = {"traces": OTLPSpanExporter, "metrics": OTLPMetricExporter, "logs": OTLPLogExporter}[signal]
    kind = Compression.Gzip if gzip else Compression.NoCompression
    return make(endpoint=url, timeout=timeout_s, compression=kind, headers=headers)


def exporters(protocol, url):
    """Per signal one exporter without and one with gzip."""
    return {s: [exporter(protocol, s, url, gzip, TIMEOUT_S) for gzip in (False, True)] for s in SOURCES}


class Ledger:
    def __init__(self, path):
        self.file = open(path, "a", encoding="utf-8")
        self.lock = threading.Lock()

    def note(self, what, signal, first, count):
        with self.lock:
            self.file.write(f"{what} {signal} {first} {count}\n")
            self.file.flush()


def exported(exporter, batch):
    return exporter.export(batch).name == "SUCCESS"


def send(signal, source, first, options, stop, ledger, control, agent):
    """Batches of one signal, one after the other."""
    end = time.monotonic() + options.at_most
    turn = 0
    while not stop.is_set() and time.monotonic() < end:
        began = time.monotonic()
        count = options.batch
        batch = source.batch(range(first, first + count))
        ledger.note("made", signal, first, count)
        while time.monotonic() < end and not exported(control[turn % len(control)], batch):
            time.sleep(PAUSE_S)
        while time.monotonic() < end:
            if exported(agent[turn % len(agent)], batch):
                ledger.note("acked", signal, first, count)
                break
            ledger.note("refused", signal, first, count)
            time.sleep(PAUSE_S)
        first += count
        turn += 1
        stop.wait(max(0.0, began + options.every - time.monotonic()))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--protocol", choices=("grpc", "http"), required=True)
    parser.add_argument("--agent", required=True)
    parser.add_argument("--control", required=True)
    parser.add_argument("--ledger", required=True)
    parser.add_argument("first", nargs=3, type=int, help="first number of traces, metrics, logs")
    parser.add_argument("--batch", type=int, required=True, help="records per batch")
    parser.add_argument("--every", type=float, required=True, help="seconds from batch to batch")
    parser.add_argument("--at-most", type=float, required=True, help="seconds this program may last")
    options = parser.parse_args()
    stop, ledger = threading.Event(), Ledger(options.ledger)
    control, agent = exporters(options.protocol, options.control), exporters(options.protocol, options.agent)
    threads = []
    for (signal, source), first in zip(SOURCES.items(), options.first):
        args = (signal, source(), first, options, stop, ledger, control[signal], agent[signal])
        threads.append(threading.Thread(target=send, args=args, daemon=True))
        threads[-1].start()
    sys.stdin.read()  # our parent says stop by closing it, or by dying
    stop.set()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main()
