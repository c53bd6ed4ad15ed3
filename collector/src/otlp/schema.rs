//! The OTLP 1.11 schema as tables: field numbers, JSON names and kinds.
//!
//! Written from the published `.proto` files; a test compares it with the generated types. Fields unknown
//! here still pass through in protobuf, so a newer sender loses nothing.

use crate::signal::Signal;

/// What a field holds.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    Bool,
    Int32,
    Uint32,
    Sint32,
    Int64,
    Uint64,
    Fixed32,
    Fixed64,
    Sfixed64,
    Double,
    Text,
    Bytes,
    /// A trace id (16) or a span id (8): hex in JSON.
    Id(usize),
    Message(&'static Message),
}

/// How often a field may occur, and whether its default value means something.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    /// Absent and default are the same.
    Single,
    /// A member of a `oneof` or an `optional` field: a default value counts as set.
    Present,
    Repeated,
}

pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) shape: Shape,
}

pub(super) struct Message {
    pub(super) name: &'static str,
    /// One of these is one item: a span, a data point, a log record.
    pub(super) item: bool,
    pub(super) fields: &'static [Field],
    /// Numbers of which only the last one on the wire counts.
    pub(super) oneof: &'static [u32],
}

impl Message {
    pub(super) fn field(&self, number: u32) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.number == number)
    }

    pub(super) fn named(&self, name: &str) -> Option<&'static Field> {
        self.fields.iter().find(|field| field.name == name)
    }
}

/// The export request of a signal.
pub(super) fn request(signal: Signal) -> &'static Message {
    match signal {
        Signal::Traces => &TRACES,
        Signal::Metrics => &METRICS,
        Signal::Logs => &LOGS,
    }
}

const fn one(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, shape: Shape::Single }
}

const fn set(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, shape: Shape::Present }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, shape: Shape::Repeated }
}

const fn message(name: &'static str, fields: &'static [Field]) -> Message {
    Message { name, item: false, fields, oneof: &[] }
}

const fn item(name: &'static str, fields: &'static [Field], oneof: &'static [u32]) -> Message {
    Message { name, item: true, fields, oneof }
}

use Kind::{Bool, Bytes, Double, Fixed32, Fixed64, Id, Int32, Int64, Sfixed64, Sint32, Text, Uint32, Uint64};

const ATTRIBUTES: Kind = Kind::Message(&KEY_VALUE);
const TRACE_ID: Kind = Id(16);
const SPAN_ID: Kind = Id(8);
/// An enumeration is an `int32` on the wire and an integer in JSON.
const ENUM: Kind = Int32;

static TRACES: Message =
    message("ExportTraceServiceRequest", &[many(1, "resourceSpans", Kind::Message(&RESOURCE_SPANS))]);
static METRICS: Message =
    message("ExportMetricsServiceRequest", &[many(1, "resourceMetrics", Kind::Message(&RESOURCE_METRICS))]);
static LOGS: Message =
    message("ExportLogsServiceRequest", &[many(1, "resourceLogs", Kind::Message(&RESOURCE_LOGS))]);

static ANY_VALUE: Message = Message {
    name: "AnyValue",
    item: false,
    fields: &[
        set(1, "stringValue", Text),
        set(2, "boolValue", Bool),
        set(3, "intValue", Int64),
        set(4, "doubleValue", Double),
        set(5, "arrayValue", Kind::Message(&ARRAY_VALUE)),
        set(6, "kvlistValue", Kind::Message(&KEY_VALUE_LIST)),
        set(7, "bytesValue", Bytes),
        set(8, "stringValueStrindex", Int32),
    ],
    oneof: &[1, 2, 3, 4, 5, 6, 7, 8],
};
static ARRAY_VALUE: Message = message("ArrayValue", &[many(1, "values", Kind::Message(&ANY_VALUE))]);
static KEY_VALUE_LIST: Message = message("KeyValueList", &[many(1, "values", Kind::Message(&KEY_VALUE))]);
static KEY_VALUE: Message = message(
    "KeyValue",
    &[one(1, "key", Text), one(2, "value", Kind::Message(&ANY_VALUE)), one(3, "keyStrindex", Int32)],
);
static SCOPE: Message = message(
    "InstrumentationScope",
    &[
        one(1, "name", Text),
        one(2, "version", Text),
        many(3, "attributes", ATTRIBUTES),
        one(4, "droppedAttributesCount", Uint32),
    ],
);
static ENTITY_REF: Message = message(
    "EntityRef",
    &[
        one(1, "schemaUrl", Text),
        one(2, "type", Text),
        many(3, "idKeys", Text),
        many(4, "descriptionKeys", Text),
    ],
);
static RESOURCE: Message = message(
    "Resource",
    &[
        many(1, "attributes", ATTRIBUTES),
        one(2, "droppedAttributesCount", Uint32),
        many(3, "entityRefs", Kind::Message(&ENTITY_REF)),
    ],
);

static RESOURCE_SPANS: Message = message(
    "ResourceSpans",
    &[
        one(1, "resource", Kind::Message(&RESOURCE)),
        many(2, "scopeSpans", Kind::Message(&SCOPE_SPANS)),
        one(3, "schemaUrl", Text),
    ],
);
static SCOPE_SPANS: Message = message(
    "ScopeSpans",
    &[
        one(1, "scope", Kind::Message(&SCOPE)),
        many(2, "spans", Kind::Message(&SPAN)),
        one(3, "schemaUrl", Text),
    ],
);
static SPAN: Message = item(
    "Span",
    &[
        one(1, "traceId", TRACE_ID),
        one(2, "spanId", SPAN_ID),
        one(3, "traceState", Text),
        one(4, "parentSpanId", SPAN_ID),
        one(5, "name", Text),
        one(6, "kind", ENUM),
        one(7, "startTimeUnixNano", Fixed64),
        one(8, "endTimeUnixNano", Fixed64),
        many(9, "attributes", ATTRIBUTES),
        one(10, "droppedAttributesCount", Uint32),
        many(11, "events", Kind::Message(&EVENT)),
        one(12, "droppedEventsCount", Uint32),
        many(13, "links", Kind::Message(&LINK)),
        one(14, "droppedLinksCount", Uint32),
        one(15, "status", Kind::Message(&STATUS)),
        one(16, "flags", Fixed32),
    ],
    &[],
);
static EVENT: Message = message(
    "Event",
    &[
        one(1, "timeUnixNano", Fixed64),
        one(2, "name", Text),
        many(3, "attributes", ATTRIBUTES),
        one(4, "droppedAttributesCount", Uint32),
    ],
);
static LINK: Message = message(
    "Link",
    &[
        one(1, "traceId", TRACE_ID),
        one(2, "spanId", SPAN_ID),
        one(3, "traceState", Text),
        many(4, "attributes", ATTRIBUTES),
        one(5, "droppedAttributesCount", Uint32),
        one(6, "flags", Fixed32),
    ],
);
static STATUS: Message = message("Status", &[one(2, "message", Text), one(3, "code", ENUM)]);

static RESOURCE_LOGS: Message = message(
    "ResourceLogs",
    &[
        one(1, "resource", Kind::Message(&RESOURCE)),
        many(2, "scopeLogs", Kind::Message(&SCOPE_LOGS)),
        one(3, "schemaUrl", Text),
    ],
);
static SCOPE_LOGS: Message = message(
    "ScopeLogs",
    &[
        one(1, "scope", Kind::Message(&SCOPE)),
        many(2, "logRecords", Kind::Message(&LOG_RECORD)),
        one(3, "schemaUrl", Text),
    ],
);
static LOG_RECORD: Message = item(
    "LogRecord",
    &[
        one(1, "timeUnixNano", Fixed64),
        one(2, "severityNumber", ENUM),
        one(3, "severityText", Text),
        one(5, "body", Kind::Message(&ANY_VALUE)),
        many(6, "attributes", ATTRIBUTES),
        one(7, "droppedAttributesCount", Uint32),
        one(8, "flags", Fixed32),
        one(9, "traceId", TRACE_ID),
        one(10, "spanId", SPAN_ID),
        one(11, "observedTimeUnixNano", Fixed64),
        one(12, "eventName", Text),
    ],
    &[],
);

static RESOURCE_METRICS: Message = message(
    "ResourceMetrics",
    &[
        one(1, "resource", Kind::Message(&RESOURCE)),
        many(2, "scopeMetrics", Kind::Message(&SCOPE_METRICS)),
        one(3, "schemaUrl", Text),
    ],
);
static SCOPE_METRICS: Message = message(
    "ScopeMetrics",
    &[
        one(1, "scope", Kind::Message(&SCOPE)),
        many(2, "metrics", Kind::Message(&METRIC)),
        one(3, "schemaUrl", Text),
    ],
);
static METRIC: Message = Message {
    name: "Metric",
    item: false,
    fields: &[
        one(1, "name", Text),
        one(2, "description", Text),
        one(3, "unit", Text),
        set(5, "gauge", Kind::Message(&GAUGE)),
        set(7, "sum", Kind::Message(&SUM)),
        set(9, "histogram", Kind::Message(&HISTOGRAM)),
        set(10, "exponentialHistogram", Kind::Message(&EXPONENTIAL)),
        set(11, "summary", Kind::Message(&SUMMARY)),
        many(12, "metadata", ATTRIBUTES),
    ],
    oneof: &[5, 7, 9, 10, 11],
};
static GAUGE: Message = message("Gauge", &[many(1, "dataPoints", Kind::Message(&NUMBER_POINT))]);
static SUM: Message = message(
    "Sum",
    &[
        many(1, "dataPoints", Kind::Message(&NUMBER_POINT)),
        one(2, "aggregationTemporality", ENUM),
        one(3, "isMonotonic", Bool),
    ],
);
static HISTOGRAM: Message = message(
    "Histogram",
    &[many(1, "dataPoints", Kind::Message(&HISTOGRAM_POINT)), one(2, "aggregationTemporality", ENUM)],
);
static EXPONENTIAL: Message = message(
    "ExponentialHistogram",
    &[many(1, "dataPoints", Kind::Message(&EXPONENTIAL_POINT)), one(2, "aggregationTemporality", ENUM)],
);
static SUMMARY: Message = message("Summary", &[many(1, "dataPoints", Kind::Message(&SUMMARY_POINT))]);
static NUMBER_POINT: Message = item(
    "NumberDataPoint",
    &[
        one(2, "startTimeUnixNano", Fixed64),
        one(3, "timeUnixNano", Fixed64),
        set(4, "asDouble", Double),
        many(5, "exemplars", Kind::Message(&EXEMPLAR)),
        set(6, "asInt", Sfixed64),
        many(7, "attributes", ATTRIBUTES),
        one(8, "flags", Uint32),
    ],
    &[4, 6],
);
static HISTOGRAM_POINT: Message = item(
    "HistogramDataPoint",
    &[
        one(2, "startTimeUnixNano", Fixed64),
        one(3, "timeUnixNano", Fixed64),
        one(4, "count", Fixed64),
        set(5, "sum", Double),
        many(6, "bucketCounts", Fixed64),
        many(7, "explicitBounds", Double),
        many(8, "exemplars", Kind::Message(&EXEMPLAR)),
        many(9, "attributes", ATTRIBUTES),
        one(10, "flags", Uint32),
        set(11, "min", Double),
        set(12, "max", Double),
    ],
    &[],
);
static EXPONENTIAL_POINT: Message = item(
    "ExponentialHistogramDataPoint",
    &[
        many(1, "attributes", ATTRIBUTES),
        one(2, "startTimeUnixNano", Fixed64),
        one(3, "timeUnixNano", Fixed64),
        one(4, "count", Fixed64),
        set(5, "sum", Double),
        one(6, "scale", Sint32),
        one(7, "zeroCount", Fixed64),
        one(8, "positive", Kind::Message(&BUCKETS)),
        one(9, "negative", Kind::Message(&BUCKETS)),
        one(10, "flags", Uint32),
        many(11, "exemplars", Kind::Message(&EXEMPLAR)),
        set(12, "min", Double),
        set(13, "max", Double),
        one(14, "zeroThreshold", Double),
    ],
    &[],
);
static BUCKETS: Message = message("Buckets", &[one(1, "offset", Sint32), many(2, "bucketCounts", Uint64)]);
static SUMMARY_POINT: Message = item(
    "SummaryDataPoint",
    &[
        one(2, "startTimeUnixNano", Fixed64),
        one(3, "timeUnixNano", Fixed64),
        one(4, "count", Fixed64),
        one(5, "sum", Double),
        many(6, "quantileValues", Kind::Message(&QUANTILE)),
        many(7, "attributes", ATTRIBUTES),
        one(8, "flags", Uint32),
    ],
    &[],
);
static QUANTILE: Message = message("ValueAtQuantile", &[one(1, "quantile", Double), one(2, "value", Double)]);
static EXEMPLAR: Message = Message {
    name: "Exemplar",
    item: false,
    fields: &[
        one(2, "timeUnixNano", Fixed64),
        set(3, "asDouble", Double),
        one(4, "spanId", SPAN_ID),
        one(5, "traceId", TRACE_ID),
        set(6, "asInt", Sfixed64),
        many(7, "filteredAttributes", ATTRIBUTES),
    ],
    oneof: &[3, 6],
};
