//! The messages of OTLP as one table: what the walk validates, the cuts cut at and the JSON reader names.
//!
//! Source: opentelemetry-proto 1.x as generated in the crate opentelemetry-proto 0.33.1
//! (`src/proto/tonic/*.rs`), and field 1000 of the three `Resource…` messages, which that crate does not know but
//! the Go collector still decodes as deprecated scopes (pdata v1.0.0-rcv0017 to v1.70.0). A test compares this
//! table with the crate, field by field.
//!
//! What always holds:
//! * A field the collector or prost knows is in the table; everything else is *unknown*, skipped, and kept.
//! * Message numbers index [`MESSAGES`]; the walk's jump tables are built from it at compile time.

use Kind::{
    Bool, Bytes, Double, Enum, Fixed32, Fixed64, Int32, Int64, SFixed64, SInt32, SpanId, Text, TraceId, UInt32, UInt64,
};
use Msg::{
    AnyValue, ArrayValue, Buckets, EntityRef, Event, Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint,
    Gauge, Histogram, HistogramDataPoint, InstrumentationScope, KeyValue, KeyValueList, Link, LogRecord, Metric,
    NumberDataPoint, Resource, ResourceLogs, ResourceMetrics, ResourceSpans, ScopeLogs, ScopeMetrics, ScopeSpans, Span,
    Status, Sum, Summary, SummaryDataPoint, ValueAtQuantile,
};

/// Every message that can occur in an export request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Msg {
    TracesRequest,
    MetricsRequest,
    LogsRequest,
    ResourceSpans,
    ResourceMetrics,
    ResourceLogs,
    ScopeSpans,
    ScopeMetrics,
    ScopeLogs,
    Resource,
    InstrumentationScope,
    EntityRef,
    KeyValue,
    AnyValue,
    ArrayValue,
    KeyValueList,
    Span,
    Event,
    Link,
    Status,
    Metric,
    Gauge,
    Sum,
    Histogram,
    ExponentialHistogram,
    Summary,
    NumberDataPoint,
    HistogramDataPoint,
    ExponentialHistogramDataPoint,
    Buckets,
    SummaryDataPoint,
    ValueAtQuantile,
    Exemplar,
    LogRecord,
}

/// How many messages [`MESSAGES`] has.
pub(crate) const MESSAGE_COUNT: usize = Msg::LogRecord as usize + 1;

/// What a field carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Message(Msg),
    Text,
    Bytes,
    TraceId,
    SpanId,
    Bool,
    Int32,
    Int64,
    UInt32,
    UInt64,
    SInt32,
    Fixed32,
    Fixed64,
    SFixed64,
    Double,
    /// Names by number, for JSON; the wire takes any int32.
    Enum(&'static [(&'static str, i32)]),
}

impl Kind {
    /// The wire type of one value (not of a packed run): 0 varint, 1 64 bits, 2 length-delimited, 5 32 bits.
    pub(crate) const fn wire(self) -> u8 {
        match self {
            Bool | Int32 | Int64 | UInt32 | UInt64 | SInt32 | Enum(_) => 0,
            Fixed64 | SFixed64 | Double => 1,
            Kind::Message(_) | Text | Bytes | TraceId | SpanId => 2,
            Fixed32 => 5,
        }
    }
}

/// One field of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Field {
    pub(crate) number: u32,
    /// As in the .proto: snake_case.
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    /// Repeated scalars may come packed or one by one.
    pub(crate) repeated: bool,
    /// One of several of which the last one written counts.
    pub(crate) oneof: bool,
}

/// One message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Message {
    pub(crate) name: &'static str,
    pub(crate) fields: &'static [Field],
}

/// The number of the field of `Resource…` that Go still decodes as scopes of before 2022.
pub(crate) const DEPRECATED_SCOPES: u32 = 1_000;

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: false, oneof: false }
}
const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: true, oneof: false }
}
const fn either(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: false, oneof: true }
}
const fn sub(msg: Msg) -> Kind {
    Kind::Message(msg)
}

const fn request(name: &'static str, fields: &'static [Field]) -> Message {
    Message { name, fields }
}

/// All messages, in the order of [`Msg`].
pub(crate) static MESSAGES: [Message; MESSAGE_COUNT] = [
    request("ExportTraceServiceRequest", &[many(1, "resource_spans", sub(ResourceSpans))]),
    request("ExportMetricsServiceRequest", &[many(1, "resource_metrics", sub(ResourceMetrics))]),
    request("ExportLogsServiceRequest", &[many(1, "resource_logs", sub(ResourceLogs))]),
    Message {
        name: "ResourceSpans",
        fields: &[
            one(1, "resource", sub(Resource)),
            many(2, "scope_spans", sub(ScopeSpans)),
            one(3, "schema_url", Text),
            many(DEPRECATED_SCOPES, "deprecated_scope_spans", sub(ScopeSpans)),
        ],
    },
    Message {
        name: "ResourceMetrics",
        fields: &[
            one(1, "resource", sub(Resource)),
            many(2, "scope_metrics", sub(ScopeMetrics)),
            one(3, "schema_url", Text),
            many(DEPRECATED_SCOPES, "deprecated_scope_metrics", sub(ScopeMetrics)),
        ],
    },
    Message {
        name: "ResourceLogs",
        fields: &[
            one(1, "resource", sub(Resource)),
            many(2, "scope_logs", sub(ScopeLogs)),
            one(3, "schema_url", Text),
            many(DEPRECATED_SCOPES, "deprecated_scope_logs", sub(ScopeLogs)),
        ],
    },
    Message {
        name: "ScopeSpans",
        fields: &[one(1, "scope", sub(InstrumentationScope)), many(2, "spans", sub(Span)), one(3, "schema_url", Text)],
    },
    Message {
        name: "ScopeMetrics",
        fields: &[
            one(1, "scope", sub(InstrumentationScope)),
            many(2, "metrics", sub(Metric)),
            one(3, "schema_url", Text),
        ],
    },
    Message {
        name: "ScopeLogs",
        fields: &[
            one(1, "scope", sub(InstrumentationScope)),
            many(2, "log_records", sub(LogRecord)),
            one(3, "schema_url", Text),
        ],
    },
    Message {
        name: "Resource",
        fields: &[
            many(1, "attributes", sub(KeyValue)),
            one(2, "dropped_attributes_count", UInt32),
            many(3, "entity_refs", sub(EntityRef)),
        ],
    },
    Message {
        name: "InstrumentationScope",
        fields: &[
            one(1, "name", Text),
            one(2, "version", Text),
            many(3, "attributes", sub(KeyValue)),
            one(4, "dropped_attributes_count", UInt32),
        ],
    },
    Message {
        name: "EntityRef",
        fields: &[
            one(1, "schema_url", Text),
            one(2, "type", Text),
            many(3, "id_keys", Text),
            many(4, "description_keys", Text),
        ],
    },
    Message {
        name: "KeyValue",
        fields: &[one(1, "key", Text), one(2, "value", sub(AnyValue)), one(3, "key_strindex", Int32)],
    },
    Message {
        name: "AnyValue",
        fields: &[
            either(1, "string_value", Text),
            either(2, "bool_value", Bool),
            either(3, "int_value", Int64),
            either(4, "double_value", Double),
            either(5, "array_value", sub(ArrayValue)),
            either(6, "kvlist_value", sub(KeyValueList)),
            either(7, "bytes_value", Bytes),
            either(8, "string_value_strindex", Int32),
        ],
    },
    Message { name: "ArrayValue", fields: &[many(1, "values", sub(AnyValue))] },
    Message { name: "KeyValueList", fields: &[many(1, "values", sub(KeyValue))] },
    Message {
        name: "Span",
        fields: &[
            one(1, "trace_id", TraceId),
            one(2, "span_id", SpanId),
            one(3, "trace_state", Text),
            one(4, "parent_span_id", SpanId),
            one(5, "name", Text),
            one(6, "kind", Enum(SPAN_KIND)),
            one(7, "start_time_unix_nano", Fixed64),
            one(8, "end_time_unix_nano", Fixed64),
            many(9, "attributes", sub(KeyValue)),
            one(10, "dropped_attributes_count", UInt32),
            many(11, "events", sub(Event)),
            one(12, "dropped_events_count", UInt32),
            many(13, "links", sub(Link)),
            one(14, "dropped_links_count", UInt32),
            one(15, "status", sub(Status)),
            one(16, "flags", Fixed32),
        ],
    },
    Message {
        name: "Event",
        fields: &[
            one(1, "time_unix_nano", Fixed64),
            one(2, "name", Text),
            many(3, "attributes", sub(KeyValue)),
            one(4, "dropped_attributes_count", UInt32),
        ],
    },
    Message {
        name: "Link",
        fields: &[
            one(1, "trace_id", TraceId),
            one(2, "span_id", SpanId),
            one(3, "trace_state", Text),
            many(4, "attributes", sub(KeyValue)),
            one(5, "dropped_attributes_count", UInt32),
            one(6, "flags", Fixed32),
        ],
    },
    Message { name: "Status", fields: &[one(2, "message", Text), one(3, "code", Enum(STATUS_CODE))] },
    Message {
        name: "Metric",
        fields: &[
            one(1, "name", Text),
            one(2, "description", Text),
            one(3, "unit", Text),
            either(5, "gauge", sub(Gauge)),
            either(7, "sum", sub(Sum)),
            either(9, "histogram", sub(Histogram)),
            either(10, "exponential_histogram", sub(ExponentialHistogram)),
            either(11, "summary", sub(Summary)),
            many(12, "metadata", sub(KeyValue)),
        ],
    },
    Message { name: "Gauge", fields: &[many(1, "data_points", sub(NumberDataPoint))] },
    Message {
        name: "Sum",
        fields: &[
            many(1, "data_points", sub(NumberDataPoint)),
            one(2, "aggregation_temporality", Enum(TEMPORALITY)),
            one(3, "is_monotonic", Bool),
        ],
    },
    Message {
        name: "Histogram",
        fields: &[
            many(1, "data_points", sub(HistogramDataPoint)),
            one(2, "aggregation_temporality", Enum(TEMPORALITY)),
        ],
    },
    Message {
        name: "ExponentialHistogram",
        fields: &[
            many(1, "data_points", sub(ExponentialHistogramDataPoint)),
            one(2, "aggregation_temporality", Enum(TEMPORALITY)),
        ],
    },
    Message { name: "Summary", fields: &[many(1, "data_points", sub(SummaryDataPoint))] },
    Message {
        name: "NumberDataPoint",
        fields: &[
            one(2, "start_time_unix_nano", Fixed64),
            one(3, "time_unix_nano", Fixed64),
            either(4, "as_double", Double),
            many(5, "exemplars", sub(Exemplar)),
            either(6, "as_int", SFixed64),
            many(7, "attributes", sub(KeyValue)),
            one(8, "flags", UInt32),
        ],
    },
    Message {
        name: "HistogramDataPoint",
        fields: &[
            one(2, "start_time_unix_nano", Fixed64),
            one(3, "time_unix_nano", Fixed64),
            one(4, "count", Fixed64),
            one(5, "sum", Double),
            many(6, "bucket_counts", Fixed64),
            many(7, "explicit_bounds", Double),
            many(8, "exemplars", sub(Exemplar)),
            many(9, "attributes", sub(KeyValue)),
            one(10, "flags", UInt32),
            one(11, "min", Double),
            one(12, "max", Double),
        ],
    },
    Message {
        name: "ExponentialHistogramDataPoint",
        fields: &[
            many(1, "attributes", sub(KeyValue)),
            one(2, "start_time_unix_nano", Fixed64),
            one(3, "time_unix_nano", Fixed64),
            one(4, "count", Fixed64),
            one(5, "sum", Double),
            one(6, "scale", SInt32),
            one(7, "zero_count", Fixed64),
            one(8, "positive", sub(Buckets)),
            one(9, "negative", sub(Buckets)),
            one(10, "flags", UInt32),
            many(11, "exemplars", sub(Exemplar)),
            one(12, "min", Double),
            one(13, "max", Double),
            one(14, "zero_threshold", Double),
        ],
    },
    Message { name: "Buckets", fields: &[one(1, "offset", SInt32), many(2, "bucket_counts", UInt64)] },
    Message {
        name: "SummaryDataPoint",
        fields: &[
            one(2, "start_time_unix_nano", Fixed64),
            one(3, "time_unix_nano", Fixed64),
            one(4, "count", Fixed64),
            one(5, "sum", Double),
            many(6, "quantile_values", sub(ValueAtQuantile)),
            many(7, "attributes", sub(KeyValue)),
            one(8, "flags", UInt32),
        ],
    },
    Message { name: "ValueAtQuantile", fields: &[one(1, "quantile", Double), one(2, "value", Double)] },
    Message {
        name: "Exemplar",
        fields: &[
            one(2, "time_unix_nano", Fixed64),
            either(3, "as_double", Double),
            one(4, "span_id", SpanId),
            one(5, "trace_id", TraceId),
            either(6, "as_int", SFixed64),
            many(7, "filtered_attributes", sub(KeyValue)),
        ],
    },
    Message {
        name: "LogRecord",
        fields: &[
            one(1, "time_unix_nano", Fixed64),
            one(2, "severity_number", Enum(SEVERITY_NUMBER)),
            one(3, "severity_text", Text),
            one(5, "body", sub(AnyValue)),
            many(6, "attributes", sub(KeyValue)),
            one(7, "dropped_attributes_count", UInt32),
            one(8, "flags", Fixed32),
            one(9, "trace_id", TraceId),
            one(10, "span_id", SpanId),
            one(11, "observed_time_unix_nano", Fixed64),
            one(12, "event_name", Text),
        ],
    },
];

const SPAN_KIND: &[(&str, i32)] = &[
    ("SPAN_KIND_UNSPECIFIED", 0),
    ("SPAN_KIND_INTERNAL", 1),
    ("SPAN_KIND_SERVER", 2),
    ("SPAN_KIND_CLIENT", 3),
    ("SPAN_KIND_PRODUCER", 4),
    ("SPAN_KIND_CONSUMER", 5),
];
const STATUS_CODE: &[(&str, i32)] = &[("STATUS_CODE_UNSET", 0), ("STATUS_CODE_OK", 1), ("STATUS_CODE_ERROR", 2)];
const TEMPORALITY: &[(&str, i32)] = &[
    ("AGGREGATION_TEMPORALITY_UNSPECIFIED", 0),
    ("AGGREGATION_TEMPORALITY_DELTA", 1),
    ("AGGREGATION_TEMPORALITY_CUMULATIVE", 2),
];
const SEVERITY_NUMBER: &[(&str, i32)] = &[
    ("SEVERITY_NUMBER_UNSPECIFIED", 0),
    ("SEVERITY_NUMBER_TRACE", 1),
    ("SEVERITY_NUMBER_TRACE2", 2),
    ("SEVERITY_NUMBER_TRACE3", 3),
    ("SEVERITY_NUMBER_TRACE4", 4),
    ("SEVERITY_NUMBER_DEBUG", 5),
    ("SEVERITY_NUMBER_DEBUG2", 6),
    ("SEVERITY_NUMBER_DEBUG3", 7),
    ("SEVERITY_NUMBER_DEBUG4", 8),
    ("SEVERITY_NUMBER_INFO", 9),
    ("SEVERITY_NUMBER_INFO2", 10),
    ("SEVERITY_NUMBER_INFO3", 11),
    ("SEVERITY_NUMBER_INFO4", 12),
    ("SEVERITY_NUMBER_WARN", 13),
    ("SEVERITY_NUMBER_WARN2", 14),
    ("SEVERITY_NUMBER_WARN3", 15),
    ("SEVERITY_NUMBER_WARN4", 16),
    ("SEVERITY_NUMBER_ERROR", 17),
    ("SEVERITY_NUMBER_ERROR2", 18),
    ("SEVERITY_NUMBER_ERROR3", 19),
    ("SEVERITY_NUMBER_ERROR4", 20),
    ("SEVERITY_NUMBER_FATAL", 21),
    ("SEVERITY_NUMBER_FATAL2", 22),
    ("SEVERITY_NUMBER_FATAL3", 23),
    ("SEVERITY_NUMBER_FATAL4", 24),
];

impl Msg {
    /// The outermost message of a signal.
    pub(crate) const fn request(signal: super::Signal) -> Msg {
        match signal {
            super::Signal::Traces => Msg::TracesRequest,
            super::Signal::Metrics => Msg::MetricsRequest,
            super::Signal::Logs => Msg::LogsRequest,
        }
    }

    /// The message's row of the table.
    pub(crate) fn get(self) -> &'static Message {
        &MESSAGES[self as usize]
    }
}
