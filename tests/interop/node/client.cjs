// The JavaScript SDK and its OTLP exporters, as a user sets them up, sending numbered records until stdin ends.
//
// Each batch goes to the control collector first, directly, then to the agent until the exporter says SUCCESS. What
// the exporter said stands in the ledger, one line per call: `made|refused|acked SIGNAL FIRST COUNT`.
//
// CommonJS, for NODE_PATH: the packages lie in a cache outside the repository, and `import` looks only beside the file.
"use strict";

const fs = require("node:fs");
const { parseArgs } = require("node:util");
const { diag, DiagConsoleLogger, DiagLogLevel, ROOT_CONTEXT, SpanKind, SpanStatusCode, trace } = require("@opentelemetry/api");
const { SeverityNumber } = require("@opentelemetry/api-logs");
const { resourceFromAttributes } = require("@opentelemetry/resources");
const { InMemoryLogRecordExporter, LoggerProvider, SimpleLogRecordProcessor } = require("@opentelemetry/sdk-logs");
const { AggregationTemporality, AggregationType, MeterProvider, MetricReader } = require("@opentelemetry/sdk-metrics");
const { BasicTracerProvider, InMemorySpanExporter, SimpleSpanProcessor } = require("@opentelemetry/sdk-trace-base");

const SCHEMA = "https://opentelemetry.io/schemas/1.24.0";
// An exporter retries by itself within its timeout; short, so that an absent agent is seen by us as well.
const TIMEOUT_MS = 1000;
const PAUSE_MS = 200;

const attributes = (seq) => ({
  seq,
  text: `snow ☃ rocket 🚀 quote " tab \t ${seq}`,
  empty: "",
  big: 2 ** 62, // a JavaScript number holds only such integers exactly
  least: -(2 ** 53),
  yes: true,
  no: false,
  ratio: seq / 7,
  words: ["ä", "", "漢字"],
  whole: [1, 2 ** 60],
  parts: [0.1, 1.5e-300], // 1e300 is an integer here, and in JSON the SDK writes it as an `intValue` nobody reads
  flags: [true, false],
});

const resource = resourceFromAttributes(
  { "service.name": "interop-node", "host.id": 2 ** 60, room: "Küche", tags: ["a", "b"] },
  { schemaUrl: SCHEMA },
);
const within = (span) => trace.setSpan(ROOT_CONTEXT, span);
const around = new BasicTracerProvider().getTracer("interop");

class Traces {
  constructor() {
    this.kept = new InMemorySpanExporter();
    const provider = new BasicTracerProvider({ resource, spanProcessors: [new SimpleSpanProcessor(this.kept)] });
    this.tracer = provider.getTracer("interop.traces", "1.2.3", { schemaUrl: SCHEMA });
  }

  async batch(seqs) {
    let before;
    for (const seq of seqs) {
      const kinds = [SpanKind.INTERNAL, SpanKind.SERVER, SpanKind.CLIENT, SpanKind.PRODUCER, SpanKind.CONSUMER];
      const links = before ? [{ context: before.spanContext(), attributes: { why: "before" } }] : [];
      const parent = before && seq % 2 ? within(before) : ROOT_CONTEXT;
      const options = { kind: kinds[seq % kinds.length], attributes: attributes(seq), links };
      const span = this.tracer.startSpan(`span ${seq}`, options, parent);
      span.addEvent("event ☃", { n: 2 ** 55, at: "middle" });
      span.setStatus(seq % 3 ? { code: SpanStatusCode.OK } : { code: SpanStatusCode.ERROR, message: "it broke" });
      span.end();
      before = span;
    }
    const spans = [...this.kept.getFinishedSpans()];
    this.kept.reset();
    return spans;
  }
}

class Logs {
  constructor() {
    this.kept = new InMemoryLogRecordExporter();
    const provider = new LoggerProvider({ resource, processors: [new SimpleLogRecordProcessor({ exporter: this.kept })] });
    this.logger = provider.getLogger("interop.logs", "1.2.3", { schemaUrl: SCHEMA });
  }

  async batch(seqs) {
    for (const seq of seqs) {
      this.logger.emit({
        timestamp: Date.now(),
        context: within(around.startSpan("around")),
        severityNumber: SeverityNumber.WARN2,
        severityText: "warning",
        body: seq % 2 ? { message: `záznam ${seq}`, deep: [{ raw: new Uint8Array([0, 255]) }] } : `záznam ${seq}`,
        attributes: { ...attributes(seq), raw: new Uint8Array([0, 1, 255]), map: { in: { ner: seq } } },
        eventName: "interop.event",
      });
    }
    const logs = [...this.kept.getFinishedLogRecords()];
    this.kept.reset();
    return logs;
  }
}

class Reader extends MetricReader {
  async onForceFlush() {}
  async onShutdown() {}
}

class Metrics {
  async batch(seqs) {
    // A provider per batch, with a reader that we ask: each batch holds its own points and no others.
    const reader = new Reader({ aggregationTemporalitySelector: () => AggregationTemporality.DELTA });
    const views = [{ instrumentName: "exponential", aggregation: { type: AggregationType.EXPONENTIAL_HISTOGRAM } }];
    const meter = new MeterProvider({ resource, readers: [reader], views }).getMeter("interop.metrics", "1.2.3", {
      schemaUrl: SCHEMA,
    });
    const sum = meter.createCounter("sum", { unit: "By", description: "how much ☃" });
    const level = meter.createUpDownCounter("level", { unit: "1" });
    const gauge = meter.createGauge("gauge", { unit: "Cel" });
    const histograms = [meter.createHistogram("histogram", { unit: "s" }), meter.createHistogram("exponential", { unit: "s" })];
    for (const seq of seqs) {
      const kind = seq % 5;
      if (kind === 0) sum.add(2 ** 53 + 2 * seq, attributes(seq));
      else if (kind === 1) level.add(-seq / 3, attributes(seq));
      else if (kind === 2) gauge.record(seq / 9, attributes(seq));
      else for (const value of [0, 0.25, seq % 100, 1e6]) histograms[kind - 3].record(value, attributes(seq));
    }
    return (await reader.collect()).resourceMetrics;
  }
}

const SOURCES = { traces: Traces, metrics: Metrics, logs: Logs };

/** The SDK's own exporter of a signal; `url` is without the path of the signal. */
function exporter(protocol, signal, url, compression, timeoutMillis, headers = {}) {
  const kind = { grpc: "grpc", "http/protobuf": "proto", "http/json": "http" }[protocol];
  const [part, name] = { traces: ["trace", "Trace"], metrics: ["metrics", "Metric"], logs: ["logs", "Log"] }[signal];
  const Exporter = require(`@opentelemetry/exporter-${part}-otlp-${kind}`)[`OTLP${name}Exporter`];
  const temporalityPreference = AggregationTemporality.DELTA; // read by the metrics' exporter alone
  const common = { timeoutMillis, compression, temporalityPreference };
  if (kind !== "grpc") return new Exporter({ ...common, url: `${url}/v1/${signal}`, headers });
  const metadata = new (require("@grpc/grpc-js").Metadata)();
  for (const [key, value] of Object.entries(headers)) metadata.set(key, value);
  return new Exporter({ ...common, url, metadata });
}

/** Per signal one exporter without and one with gzip. */
function exporters(protocol, url) {
  const both = (signal) => ["none", "gzip"].map((kind) => exporter(protocol, signal, url, kind, TIMEOUT_MS));
  return Object.fromEntries(Object.keys(SOURCES).map((signal) => [signal, both(signal)]));
}

const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const exported = (exporter, batch) => new Promise((done) => exporter.export(batch, (result) => done(result.code === 0)));

/** Batches of one signal, one after the other. */
async function send(signal, source, first, options, stopped, note, control, agent) {
  const end = performance.now() + options.atMost;
  for (let turn = 0; !stopped() && performance.now() < end; turn += 1, first += options.batch) {
    const began = performance.now();
    const batch = await source.batch(Array.from({ length: options.batch }, (_, i) => first + i));
    note("made", signal, first);
    while (performance.now() < end && !(await exported(control[turn % control.length], batch))) await sleep(PAUSE_MS);
    while (performance.now() < end) {
      if (await exported(agent[turn % agent.length], batch)) {
        note("acked", signal, first);
        break;
      }
      note("refused", signal, first);
      await sleep(PAUSE_MS);
    }
    const rest = began + options.every - performance.now();
    if (rest > 0 && !stopped()) await sleep(rest);
  }
}

async function main() {
  const text = { type: "string" };
  const { values, positionals } = parseArgs({
    options: { protocol: text, agent: text, control: text, ledger: text, batch: text, every: text, "at-most": text },
    allowPositionals: true, // the first numbers of traces, metrics and logs
  });
  diag.setLogger(new DiagConsoleLogger(), DiagLogLevel.WARN);
  const options = { batch: Number(values.batch), every: 1000 * values.every, atMost: 1000 * values["at-most"] };
  const ledger = fs.openSync(values.ledger, "a");
  const note = (what, signal, first) => fs.writeSync(ledger, `${what} ${signal} ${first} ${options.batch}\n`);
  let over = false;
  process.stdin.on("end", () => (over = true)).resume(); // our parent says stop by closing it, or by dying
  const [control, agent] = [exporters(values.protocol, values.control), exporters(values.protocol, values.agent)];
  await Promise.all(
    Object.entries(SOURCES).map(([signal, Source], i) =>
      send(signal, new Source(), Number(positionals[i]), options, () => over, note, control[signal], agent[signal]),
    ),
  );
  process.exit(0); // exporters keep connections
}

module.exports = { SOURCES, exporter };
if (require.main === module) main();
