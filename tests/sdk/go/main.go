// The Go SDK's own exporters, job by job: see ../README.md, "A client".
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"log"
	"math"
	"os"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploggrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlplog/otlploghttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetricgrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracegrpc"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	otellog "go.opentelemetry.io/otel/log"
	"go.opentelemetry.io/otel/metric"
	sdklog "go.opentelemetry.io/otel/sdk/log"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/status"
)

const schema = "https://opentelemetry.io/schemas/1.24.0"

var about = resource.NewWithAttributes(schema,
	attribute.String("service.name", "sdk-go"), attribute.Int64("host.id", 1<<60+1),
	attribute.String("room", "Küche"), attribute.StringSlice("tags", []string{"a", "b"}))

func attributes(seq int) []attribute.KeyValue {
	return []attribute.KeyValue{
		attribute.Int("seq", seq),
		attribute.String("text", fmt.Sprintf("snow ☃ rocket 🚀 quote \" tab \t %d", seq)),
		attribute.String("empty", ""),
		attribute.Int64("big", 1<<53+1+int64(seq)),
		attribute.Int64("least", math.MinInt64),
		attribute.Bool("yes", true),
		attribute.Float64("ratio", float64(seq)/7),
		attribute.Float64("endless", math.Inf(-1)),
		attribute.StringSlice("words", []string{"ä", "", "漢字"}),
		attribute.Int64Slice("whole", []int64{1, 1<<62 + 1}),
		attribute.Float64Slice("parts", []float64{0.1, 1e300}),
		attribute.BoolSlice("flags", []bool{true, false}),
	}
}

type keptSpans struct{ spans []sdktrace.ReadOnlySpan }

func (k *keptSpans) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	k.spans = append(k.spans, spans...)
	return nil
}
func (k *keptSpans) Shutdown(context.Context) error { return nil }

func spans(first, count int) []sdktrace.ReadOnlySpan {
	kept := &keptSpans{}
	provider := sdktrace.NewTracerProvider(sdktrace.WithSyncer(kept), sdktrace.WithResource(about))
	tracer := provider.Tracer("sdk.traces", trace.WithInstrumentationVersion("1.2.3"), trace.WithSchemaURL(schema))
	var before trace.Span
	for seq := first; seq < first+count; seq++ {
		ctx := context.Background()
		options := []trace.SpanStartOption{trace.WithSpanKind(trace.SpanKind(1 + seq%5)), trace.WithAttributes(attributes(seq)...)}
		if before != nil {
			link := trace.Link{SpanContext: before.SpanContext(), Attributes: []attribute.KeyValue{attribute.String("why", "before")}}
			options = append(options, trace.WithLinks(link))
			if seq%2 == 1 {
				ctx = trace.ContextWithSpan(ctx, before)
			}
		}
		_, span := tracer.Start(ctx, fmt.Sprintf("span %d", seq), options...)
		span.AddEvent("event ☃", trace.WithAttributes(attribute.Int64("n", 1<<55)))
		if seq%3 == 0 {
			span.SetStatus(codes.Error, "it broke")
		} else {
			span.SetStatus(codes.Ok, "")
		}
		span.End()
		before = span
	}
	return kept.spans
}

type keptLogs struct{ records []sdklog.Record }

func (k *keptLogs) Export(_ context.Context, records []sdklog.Record) error {
	for _, record := range records {
		k.records = append(k.records, record.Clone())
	}
	return nil
}
func (k *keptLogs) Shutdown(context.Context) error   { return nil }
func (k *keptLogs) ForceFlush(context.Context) error { return nil }

func logs(first, count int) []sdklog.Record {
	kept := &keptLogs{}
	provider := sdklog.NewLoggerProvider(sdklog.WithProcessor(sdklog.NewSimpleProcessor(kept)), sdklog.WithResource(about))
	logger := provider.Logger("sdk.logs", otellog.WithInstrumentationVersion("1.2.3"), otellog.WithSchemaURL(schema))
	ctx, span := sdktrace.NewTracerProvider().Tracer("around").Start(context.Background(), "around")
	defer span.End()
	for seq := first; seq < first+count; seq++ {
		var record otellog.Record
		record.SetTimestamp(time.Now())
		record.SetSeverity(otellog.SeverityWarn2)
		record.SetSeverityText("warning")
		record.SetEventName("sdk.event")
		record.SetBody(attribute.StringValue(fmt.Sprintf("záznam %d", seq)))
		record.AddAttributes(attributes(seq)...)
		record.AddAttributes(attribute.ByteSlice("raw", []byte{0, 1, 255}))
		logger.Emit(ctx, record)
	}
	return kept.records
}

func metrics(first, count int) *metricdata.ResourceMetrics {
	delta := func(sdkmetric.InstrumentKind) metricdata.Temporality { return metricdata.DeltaTemporality }
	reader := sdkmetric.NewManualReader(sdkmetric.WithTemporalitySelector(delta))
	exponential := sdkmetric.NewView(sdkmetric.Instrument{Name: "exponential"},
		sdkmetric.Stream{Aggregation: sdkmetric.AggregationBase2ExponentialHistogram{MaxSize: 160, MaxScale: 20}})
	provider := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader), sdkmetric.WithResource(about), sdkmetric.WithView(exponential))
	meter := provider.Meter("sdk.metrics", metric.WithInstrumentationVersion("1.2.3"), metric.WithSchemaURL(schema))
	sum, _ := meter.Int64Counter("sum", metric.WithUnit("By"), metric.WithDescription("how much ☃"))
	level, _ := meter.Float64UpDownCounter("level")
	gauge, _ := meter.Float64Gauge("gauge", metric.WithUnit("Cel"))
	plain, _ := meter.Float64Histogram("histogram", metric.WithUnit("s"))
	steep, _ := meter.Float64Histogram("exponential", metric.WithUnit("s"))
	ctx := context.Background()
	for seq := first; seq < first+count; seq++ {
		with := metric.WithAttributes(attributes(seq)...)
		switch seq % 5 {
		case 0:
			sum.Add(ctx, 1<<53+int64(seq), with)
		case 1:
			level.Add(ctx, -float64(seq)/3, with)
		case 2:
			gauge.Record(ctx, float64(seq)/9, with)
		default:
			histogram := []metric.Float64Histogram{plain, steep}[seq%5-3]
			for _, value := range []float64{0, 0.25, float64(seq % 100), 1e6} {
				histogram.Record(ctx, value, with)
			}
		}
	}
	var collected metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &collected); err != nil {
		log.Fatal(err)
	}
	return &collected
}

// job is one line of the standard input.
type job struct {
	protocol, signal, url, compression string
	first, count                       int
	timeout                            time.Duration
	headers                            map[string]string
}

var batches = map[string]any{}

func (j job) batch() any {
	key := fmt.Sprint(j.signal, " ", j.first, " ", j.count)
	if _, made := batches[key]; !made {
		switch j.signal {
		case "traces":
			batches[key] = spans(j.first, j.count)
		case "logs":
			batches[key] = logs(j.first, j.count)
		case "metrics":
			batches[key] = metrics(j.first, j.count)
		}
	}
	return batches[key]
}

// exporter is what the three kinds have in common.
type exporter[batch any] interface {
	Export(context.Context, batch) error
	Shutdown(context.Context) error
}

// spanExporter calls its method as the others do.
type spanExporter struct{ sdktrace.SpanExporter }

func (s spanExporter) Export(ctx context.Context, batch []sdktrace.ReadOnlySpan) error {
	return s.ExportSpans(ctx, batch)
}

// options are an exporter's own functions: of each kind and protocol another type.
type options[option, compression any] struct {
	url     func(string) option
	timeout func(time.Duration) option
	headers func(map[string]string) option
	zipped  func(compression) option
	gzip    compression
}

func (o options[option, _]) of(j job, path string) []option {
	all := []option{o.url(j.url + path), o.timeout(j.timeout), o.headers(j.headers)}
	if j.compression == "gzip" {
		all = append(all, o.zipped(o.gzip))
	}
	return all
}

func (j job) export(batch any) error {
	ctx := context.Background()
	switch j.signal + " " + j.protocol {
	case "traces grpc":
		o := options[otlptracegrpc.Option, string]{otlptracegrpc.WithEndpointURL, otlptracegrpc.WithTimeout, otlptracegrpc.WithHeaders, otlptracegrpc.WithCompressor, "gzip"}
		made, err := otlptracegrpc.New(ctx, o.of(j, "")...)
		return send(j, spanExporter{made}, err, batch.([]sdktrace.ReadOnlySpan))
	case "traces http/protobuf":
		o := options[otlptracehttp.Option, otlptracehttp.Compression]{otlptracehttp.WithEndpointURL, otlptracehttp.WithTimeout, otlptracehttp.WithHeaders, otlptracehttp.WithCompression, otlptracehttp.GzipCompression}
		made, err := otlptracehttp.New(ctx, o.of(j, "/v1/traces")...)
		return send(j, spanExporter{made}, err, batch.([]sdktrace.ReadOnlySpan))
	case "logs grpc":
		o := options[otlploggrpc.Option, string]{otlploggrpc.WithEndpointURL, otlploggrpc.WithTimeout, otlploggrpc.WithHeaders, otlploggrpc.WithCompressor, "gzip"}
		made, err := otlploggrpc.New(ctx, o.of(j, "")...)
		return send(j, made, err, batch.([]sdklog.Record))
	case "logs http/protobuf":
		o := options[otlploghttp.Option, otlploghttp.Compression]{otlploghttp.WithEndpointURL, otlploghttp.WithTimeout, otlploghttp.WithHeaders, otlploghttp.WithCompression, otlploghttp.GzipCompression}
		made, err := otlploghttp.New(ctx, o.of(j, "/v1/logs")...)
		return send(j, made, err, batch.([]sdklog.Record))
	case "metrics grpc":
		o := options[otlpmetricgrpc.Option, string]{otlpmetricgrpc.WithEndpointURL, otlpmetricgrpc.WithTimeout, otlpmetricgrpc.WithHeaders, otlpmetricgrpc.WithCompressor, "gzip"}
		made, err := otlpmetricgrpc.New(ctx, o.of(j, "")...)
		return send(j, made, err, batch.(*metricdata.ResourceMetrics))
	case "metrics http/protobuf":
		o := options[otlpmetrichttp.Option, otlpmetrichttp.Compression]{otlpmetrichttp.WithEndpointURL, otlpmetrichttp.WithTimeout, otlpmetrichttp.WithHeaders, otlpmetrichttp.WithCompression, otlpmetrichttp.GzipCompression}
		made, err := otlpmetrichttp.New(ctx, o.of(j, "/v1/metrics")...)
		return send(j, made, err, batch.(*metricdata.ResourceMetrics))
	}
	return fmt.Errorf("no exporter of %s over %s", j.signal, j.protocol)
}

// send has an end, as the SDK's own processors give it one: over HTTP the exporter's timeout is of one attempt.
func send[batch any](j job, made exporter[batch], err error, all batch) error {
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), j.timeout)
	defer cancel()
	defer made.Shutdown(context.Background())
	return made.Export(ctx, all)
}

func main() {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(said)) // a partial success, among others
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		words := strings.SplitN(lines.Text(), " ", 7)
		first, _ := strconv.Atoi(words[3])
		count, _ := strconv.Atoi(words[4])
		seconds, _ := strconv.ParseFloat(words[5], 64)
		one := job{os.Args[1], words[0], words[1], words[2], first, count, time.Duration(seconds * float64(time.Second)), nil}
		if name, value, is := strings.Cut(words[6], "="); is {
			one.headers = map[string]string{name: value}
		}
		batch, began := one.batch(), time.Now()
		err := one.export(batch)
		result := "SUCCESS"
		if err != nil {
			said(err)
			result = "FAILURE"
		}
		fmt.Printf("done %s %.3f\n", result, time.Since(began).Seconds())
	}
}

// said tells what the SDK says, and of a gRPC status all of it.
func said(err error) {
	text := err.Error()
	var is interface{ GRPCStatus() *status.Status }
	if errors.As(err, &is) {
		text = fmt.Sprintf("%s [code %s, details %v]", text, is.GRPCStatus().Code(), is.GRPCStatus().Details())
	}
	fmt.Println("said", strings.Join(strings.Fields(text), " "))
}
