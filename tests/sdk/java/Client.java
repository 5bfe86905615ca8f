// The Java SDK's own exporters, job by job: see ../README.md, "A client".

import io.opentelemetry.api.common.AttributeKey;
import io.opentelemetry.api.common.Attributes;
import io.opentelemetry.api.common.KeyValue;
import io.opentelemetry.api.common.Value;
import io.opentelemetry.api.logs.Logger;
import io.opentelemetry.api.logs.Severity;
import io.opentelemetry.api.metrics.DoubleHistogram;
import io.opentelemetry.api.metrics.Meter;
import io.opentelemetry.api.trace.Span;
import io.opentelemetry.api.trace.SpanBuilder;
import io.opentelemetry.api.trace.SpanKind;
import io.opentelemetry.api.trace.StatusCode;
import io.opentelemetry.api.trace.Tracer;
import io.opentelemetry.context.Context;
import io.opentelemetry.exporter.otlp.http.logs.OtlpHttpLogRecordExporter;
import io.opentelemetry.exporter.otlp.http.metrics.OtlpHttpMetricExporter;
import io.opentelemetry.exporter.otlp.http.trace.OtlpHttpSpanExporter;
import io.opentelemetry.exporter.otlp.logs.OtlpGrpcLogRecordExporter;
import io.opentelemetry.exporter.otlp.metrics.OtlpGrpcMetricExporter;
import io.opentelemetry.exporter.otlp.trace.OtlpGrpcSpanExporter;
import io.opentelemetry.sdk.common.CompletableResultCode;
import io.opentelemetry.sdk.logs.SdkLoggerProvider;
import io.opentelemetry.sdk.logs.data.LogRecordData;
import io.opentelemetry.sdk.logs.export.LogRecordExporter;
import io.opentelemetry.sdk.logs.export.SimpleLogRecordProcessor;
import io.opentelemetry.sdk.metrics.Aggregation;
import io.opentelemetry.sdk.metrics.InstrumentSelector;
import io.opentelemetry.sdk.metrics.InstrumentType;
import io.opentelemetry.sdk.metrics.SdkMeterProvider;
import io.opentelemetry.sdk.metrics.View;
import io.opentelemetry.sdk.metrics.data.AggregationTemporality;
import io.opentelemetry.sdk.metrics.data.MetricData;
import io.opentelemetry.sdk.metrics.export.CollectionRegistration;
import io.opentelemetry.sdk.metrics.export.MetricExporter;
import io.opentelemetry.sdk.metrics.export.MetricReader;
import io.opentelemetry.sdk.resources.Resource;
import io.opentelemetry.sdk.trace.SdkTracerProvider;
import io.opentelemetry.sdk.trace.data.SpanData;
import io.opentelemetry.sdk.trace.export.SimpleSpanProcessor;
import io.opentelemetry.sdk.trace.export.SpanExporter;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.concurrent.TimeUnit;
import java.util.logging.Handler;
import java.util.logging.Level;
import java.util.logging.LogRecord;
import java.util.logging.SimpleFormatter;

public final class Client {
  private static final String SCHEMA = "https://opentelemetry.io/schemas/1.24.0";
  private static final CompletableResultCode DONE = CompletableResultCode.ofSuccess();
  private static final Resource ABOUT =
      Resource.create(
          Attributes.builder()
              .put("service.name", "sdk-java")
              .put("host.id", (1L << 60) + 1)
              .put("room", "Küche")
              .put("tags", "a", "b")
              .build(),
          SCHEMA);

  private static Attributes attributes(long seq) {
    return Attributes.builder()
        .put("seq", seq)
        .put("text", "snow ☃ rocket 🚀 quote \" tab \t " + seq)
        .put("empty", "")
        .put("big", (1L << 53) + 1 + seq)
        .put("least", Long.MIN_VALUE)
        .put("yes", true)
        .put("ratio", seq / 7.0)
        .put("endless", Double.NEGATIVE_INFINITY)
        .put("words", "ä", "", "漢字")
        .put("whole", 1, (1L << 62) + 1)
        .put("parts", 0.1, 1e300)
        .put("flags", true, false)
        .build();
  }

  /** An exporter that only keeps what the SDK hands it. */
  private abstract static class Kept<T> {
    final List<T> kept = new ArrayList<>();

    public CompletableResultCode export(Collection<T> batch) {
      kept.addAll(batch);
      return DONE;
    }

    public CompletableResultCode flush() {
      return DONE;
    }

    public CompletableResultCode shutdown() {
      return DONE;
    }
  }

  private static final class Spans extends Kept<SpanData> implements SpanExporter {}

  private static final class Logs extends Kept<LogRecordData> implements LogRecordExporter {}

  private static Collection<SpanData> spans(long first, long count) {
    Spans keeps = new Spans();
    Tracer tracer =
        SdkTracerProvider.builder()
            .setResource(ABOUT)
            .addSpanProcessor(SimpleSpanProcessor.create(keeps))
            .build()
            .tracerBuilder("sdk.traces")
            .setInstrumentationVersion("1.2.3")
            .setSchemaUrl(SCHEMA)
            .build();
    Span before = null;
    for (long seq = first; seq < first + count; seq++) {
      SpanBuilder builder =
          tracer
              .spanBuilder("span " + seq)
              .setSpanKind(SpanKind.values()[(int) (seq % SpanKind.values().length)])
              .setAllAttributes(attributes(seq));
      if (before != null) {
        builder.addLink(before.getSpanContext(), Attributes.builder().put("why", "before").build());
      }
      if (before != null && seq % 2 == 1) {
        builder.setParent(Context.root().with(before));
      } else {
        builder.setNoParent();
      }
      Span span = builder.startSpan();
      span.addEvent("event ☃", Attributes.builder().put("n", 1L << 55).build());
      if (seq % 3 == 0) {
        span.setStatus(StatusCode.ERROR, "it broke");
      } else {
        span.setStatus(StatusCode.OK);
      }
      span.end();
      before = span;
    }
    return keeps.kept;
  }

  private static Collection<LogRecordData> logs(long first, long count) {
    Logs keeps = new Logs();
    Logger logger =
        SdkLoggerProvider.builder()
            .setResource(ABOUT)
            .addLogRecordProcessor(SimpleLogRecordProcessor.create(keeps))
            .build()
            .loggerBuilder("sdk.logs")
            .setInstrumentationVersion("1.2.3")
            .setSchemaUrl(SCHEMA)
            .build();
    Context within =
        Context.root().with(SdkTracerProvider.builder().build().get("around").spanBuilder("around").startSpan());
    for (long seq = first; seq < first + count; seq++) {
      logger
          .logRecordBuilder()
          .setContext(within)
          .setTimestamp(System.currentTimeMillis(), TimeUnit.MILLISECONDS)
          .setSeverity(Severity.WARN2)
          .setSeverityText("warning")
          .setEventName("sdk.event")
          .setBody(
              seq % 2 == 0
                  ? Value.of("záznam " + seq)
                  : Value.of(
                      KeyValue.of("message", Value.of("záznam " + seq)),
                      KeyValue.of("raw", Value.of(new byte[] {0, (byte) 255}))))
          .setAllAttributes(attributes(seq))
          .emit();
    }
    return keeps.kept;
  }

  /** Collects when it is asked. */
  private static final class Reader implements MetricReader {
    private CollectionRegistration registration = CollectionRegistration.noop();

    @Override
    public void register(CollectionRegistration registration) {
      this.registration = registration;
    }

    @Override
    public AggregationTemporality getAggregationTemporality(InstrumentType type) {
      return AggregationTemporality.DELTA;
    }

    @Override
    public CompletableResultCode forceFlush() {
      return DONE;
    }

    @Override
    public CompletableResultCode shutdown() {
      return DONE;
    }
  }

  private static Collection<MetricData> metrics(long first, long count) {
    Reader reader = new Reader();
    Meter meter =
        SdkMeterProvider.builder()
            .setResource(ABOUT)
            .registerMetricReader(reader)
            .registerView(
                InstrumentSelector.builder().setName("exponential").build(),
                View.builder().setAggregation(Aggregation.base2ExponentialBucketHistogram()).build())
            .build()
            .meterBuilder("sdk.metrics")
            .setInstrumentationVersion("1.2.3")
            .setSchemaUrl(SCHEMA)
            .build();
    var sum = meter.counterBuilder("sum").setUnit("By").setDescription("how much ☃").build();
    var level = meter.upDownCounterBuilder("level").ofDoubles().build();
    var gauge = meter.gaugeBuilder("gauge").setUnit("Cel").build();
    DoubleHistogram[] histograms = {
      meter.histogramBuilder("histogram").setUnit("s").build(), meter.histogramBuilder("exponential").setUnit("s").build()
    };
    for (long seq = first; seq < first + count; seq++) {
      int kind = (int) (seq % 5);
      if (kind == 0) {
        sum.add((1L << 53) + seq, attributes(seq));
      } else if (kind == 1) {
        level.add(-seq / 3.0, attributes(seq));
      } else if (kind == 2) {
        gauge.set(seq / 9.0, attributes(seq));
      } else {
        for (double value : new double[] {0, 0.25, seq % 100, 1e6}) {
          histograms[kind - 3].record(value, attributes(seq));
        }
      }
    }
    return reader.registration.collectAllMetrics();
  }

  private static SpanExporter spanExporter(boolean grpc, String url, String zip, Duration timeout, String[] header) {
    if (grpc) {
      var builder = OtlpGrpcSpanExporter.builder().setEndpoint(url).setCompression(zip).setTimeout(timeout);
      return (header == null ? builder : builder.addHeader(header[0], header[1])).build();
    }
    var builder = OtlpHttpSpanExporter.builder().setEndpoint(url + "/v1/traces").setCompression(zip).setTimeout(timeout);
    return (header == null ? builder : builder.addHeader(header[0], header[1])).build();
  }

  private static LogRecordExporter logExporter(boolean grpc, String url, String zip, Duration timeout, String[] header) {
    if (grpc) {
      var builder = OtlpGrpcLogRecordExporter.builder().setEndpoint(url).setCompression(zip).setTimeout(timeout);
      return (header == null ? builder : builder.addHeader(header[0], header[1])).build();
    }
    var builder = OtlpHttpLogRecordExporter.builder().setEndpoint(url + "/v1/logs").setCompression(zip).setTimeout(timeout);
    return (header == null ? builder : builder.addHeader(header[0], header[1])).build();
  }

  private static MetricExporter metricExporter(boolean grpc, String url, String zip, Duration timeout, String[] header) {
    if (grpc) {
      var builder = OtlpGrpcMetricExporter.builder().setEndpoint(url).setCompression(zip).setTimeout(timeout);
      return (header == null ? builder : builder.addHeader(header[0], header[1])).build();
    }
    var builder = OtlpHttpMetricExporter.builder().setEndpoint(url + "/v1/metrics").setCompression(zip).setTimeout(timeout);
    return (header == null ? builder : builder.addHeader(header[0], header[1])).build();
  }

  /** What the SDK logs, for whoever gave us the job. */
  private static final class Said extends Handler {
    @Override
    public void publish(LogRecord record) {
      if (record.getLevel().intValue() >= Level.WARNING.intValue()) {
        String thrown = record.getThrown() == null ? "" : " " + record.getThrown();
        say("said " + (new SimpleFormatter().formatMessage(record) + thrown).replaceAll("\\s+", " "));
      }
    }

    @Override
    public void flush() {}

    @Override
    public void close() {}
  }

  private static synchronized void say(String line) {
    byte[] bytes = (line + "\n").getBytes(StandardCharsets.UTF_8);
    System.out.write(bytes, 0, bytes.length);
    System.out.flush();
  }

  @SuppressWarnings("unchecked")
  public static void main(String[] args) throws Exception {
    var root = java.util.logging.Logger.getLogger("");
    for (Handler handler : root.getHandlers()) {
      root.removeHandler(handler);
    }
    root.addHandler(new Said());
    boolean grpc = args[0].equals("grpc");
    Map<String, Object> batches = new HashMap<>();
    var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
    for (String line = lines.readLine(); line != null; line = lines.readLine()) {
      String[] words = line.split(" ", 7);
      String signal = words[0];
      long first = Long.parseLong(words[3]);
      long count = Long.parseLong(words[4]);
      Object batch =
          batches.computeIfAbsent(
              signal + " " + first + " " + count,
              key ->
                  switch (signal) {
                    case "traces" -> spans(first, count);
                    case "logs" -> logs(first, count);
                    default -> metrics(first, count);
                  });
      Duration timeout = Duration.ofMillis(Math.round(1000 * Double.parseDouble(words[5])));
      String[] header = words[6].isEmpty() ? null : words[6].split("=", 2);
      CompletableResultCode result;
      AutoCloseable exporter;
      long began = System.nanoTime();
      switch (signal) {
        case "traces" -> {
          var spans = spanExporter(grpc, words[1], words[2], timeout, header);
          exporter = spans;
          result = spans.export((Collection<SpanData>) batch);
        }
        case "logs" -> {
          var logs = logExporter(grpc, words[1], words[2], timeout, header);
          exporter = logs;
          result = logs.export((Collection<LogRecordData>) batch);
        }
        default -> {
          var metrics = metricExporter(grpc, words[1], words[2], timeout, header);
          exporter = metrics;
          result = metrics.export((Collection<MetricData>) batch);
        }
      }
      result.join(2 * timeout.toMillis() + 10_000, TimeUnit.MILLISECONDS); // the exporter's own end comes first
      double seconds = (System.nanoTime() - began) / 1e9;
      say(String.format("done %s %.3f", result.isSuccess() ? "SUCCESS" : "FAILURE", seconds));
      exporter.close();
    }
    System.exit(0); // exporters keep threads
  }
}
