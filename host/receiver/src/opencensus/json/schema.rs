//! The messages of OpenCensus as tables: names in JSON, numbers in protobuf.

/// A message: its members in the order in which libraries write them, at most 32.
pub(super) type Schema = [Member];

/// One field of a message.
#[derive(Debug)]
pub(super) struct Member {
    /// In lowerCamelCase.
    pub(super) name: &'static str,
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) is_repeated: bool,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub(super) enum Kind {
    Text,
    Bytes,
    Bool,
    /// `int32` and `int64`.
    Int,
    /// `uint32` and `uint64`.
    Uint,
    Double,
    /// Its names, in the order of their numbers.
    Enum(&'static [&'static str]),
    Timestamp,
    /// `google.protobuf.*Value`.
    Wrapper(&'static Kind),
    Message(&'static Schema),
    /// `map<string, …>`.
    Map(&'static Kind),
    /// A `Span.Tracestate`, or what the browser library takes for one.
    TraceState,
}

const fn one(name: &'static str, number: u32, kind: Kind) -> Member {
    Member { name, number, kind, is_repeated: false }
}

const fn many(name: &'static str, number: u32, kind: Kind) -> Member {
    Member { name, number, kind, is_repeated: true }
}

use Kind::{Bool, Bytes, Double, Enum, Int, Map, Message, Text, Timestamp, TraceState, Uint, Wrapper};

pub(super) static TRACE_REQUEST: [Member; 3] = [
    one("node", 1, Message(&NODE)),
    many("spans", 2, Message(&SPAN)),
    one("resource", 3, Message(&RESOURCE)),
];

pub(super) static METRICS_REQUEST: [Member; 3] = [
    one("node", 1, Message(&NODE)),
    many("metrics", 2, Message(&METRIC)),
    one("resource", 3, Message(&RESOURCE)),
];

static NODE: [Member; 4] = [
    one("identifier", 1, Message(&IDENTIFIER)),
    one("libraryInfo", 2, Message(&LIBRARY)),
    one("serviceInfo", 3, Message(&SERVICE)),
    one("attributes", 4, Map(&Text)),
];

static IDENTIFIER: [Member; 3] =
    [one("hostName", 1, Text), one("pid", 2, Uint), one("startTimestamp", 3, Timestamp)];

const LANGUAGES: [&str; 11] = [
    "LANGUAGE_UNSPECIFIED",
    "CPP",
    "C_SHARP",
    "ERLANG",
    "GO_LANG",
    "JAVA",
    "NODE_JS",
    "PHP",
    "PYTHON",
    "RUBY",
    "WEB_JS",
];

static LIBRARY: [Member; 3] = [
    one("language", 1, Enum(&LANGUAGES)),
    one("exporterVersion", 2, Text),
    one("coreLibraryVersion", 3, Text),
];

static SERVICE: [Member; 1] = [one("name", 1, Text)];

static RESOURCE: [Member; 2] = [one("type", 1, Text), one("labels", 2, Map(&Text))];

// === spans ===

static SPAN: [Member; 16] = [
    one("traceId", 1, Bytes),
    one("spanId", 2, Bytes),
    one("tracestate", 15, TraceState),
    one("parentSpanId", 3, Bytes),
    one("name", 4, Message(&TRUNCATABLE)),
    one("kind", 14, Enum(&["SPAN_KIND_UNSPECIFIED", "SERVER", "CLIENT"])),
    one("startTime", 5, Timestamp),
    one("endTime", 6, Timestamp),
    one("attributes", 7, Message(&ATTRIBUTES)),
    // Only that there is one is of interest: it is counted and lost.
    one("stackTrace", 8, Message(&[])),
    one("timeEvents", 9, Message(&TIME_EVENTS)),
    one("links", 10, Message(&LINKS)),
    one("status", 11, Message(&STATUS)),
    one("resource", 16, Message(&RESOURCE)),
    one("sameProcessAsParentSpan", 12, Wrapper(&Bool)),
    one("childSpanCount", 13, Wrapper(&Uint)),
];

pub(super) static TRACE_STATE_ENTRY: [Member; 2] = [one("key", 1, Text), one("value", 2, Text)];

static TRUNCATABLE: [Member; 2] = [one("value", 1, Text), one("truncatedByteCount", 2, Int)];

static ATTRIBUTES: [Member; 2] =
    [one("attributeMap", 1, Map(&Message(&ATTRIBUTE_VALUE))), one("droppedAttributesCount", 2, Int)];

static ATTRIBUTE_VALUE: [Member; 4] = [
    one("stringValue", 1, Message(&TRUNCATABLE)),
    one("intValue", 2, Int),
    one("boolValue", 3, Bool),
    one("doubleValue", 4, Double),
];

static TIME_EVENTS: [Member; 3] = [
    many("timeEvent", 1, Message(&TIME_EVENT)),
    one("droppedAnnotationsCount", 2, Int),
    one("droppedMessageEventsCount", 3, Int),
];

static TIME_EVENT: [Member; 3] = [
    one("time", 1, Timestamp),
    one("annotation", 2, Message(&ANNOTATION)),
    one("messageEvent", 3, Message(&MESSAGE_EVENT)),
];

static ANNOTATION: [Member; 2] =
    [one("description", 1, Message(&TRUNCATABLE)), one("attributes", 2, Message(&ATTRIBUTES))];

static MESSAGE_EVENT: [Member; 4] = [
    one("type", 1, Enum(&["TYPE_UNSPECIFIED", "SENT", "RECEIVED"])),
    one("id", 2, Uint),
    one("uncompressedSize", 3, Uint),
    one("compressedSize", 4, Uint),
];

static LINKS: [Member; 2] = [many("link", 1, Message(&LINK)), one("droppedLinksCount", 2, Int)];

static LINK: [Member; 5] = [
    one("traceId", 1, Bytes),
    one("spanId", 2, Bytes),
    one("type", 3, Enum(&["TYPE_UNSPECIFIED", "CHILD_LINKED_SPAN", "PARENT_LINKED_SPAN"])),
    one("attributes", 4, Message(&ATTRIBUTES)),
    one("tracestate", 5, TraceState),
];

static STATUS: [Member; 2] = [one("code", 1, Int), one("message", 2, Text)];

// === metrics ===

static METRIC: [Member; 3] = [
    one("metricDescriptor", 1, Message(&DESCRIPTOR)),
    many("timeseries", 2, Message(&SERIES)),
    one("resource", 3, Message(&RESOURCE)),
];

const METRIC_TYPES: [&str; 8] = [
    "UNSPECIFIED",
    "GAUGE_INT64",
    "GAUGE_DOUBLE",
    "GAUGE_DISTRIBUTION",
    "CUMULATIVE_INT64",
    "CUMULATIVE_DOUBLE",
    "CUMULATIVE_DISTRIBUTION",
    "SUMMARY",
];

static DESCRIPTOR: [Member; 5] = [
    one("name", 1, Text),
    one("description", 2, Text),
    one("unit", 3, Text),
    one("type", 4, Enum(&METRIC_TYPES)),
    many("labelKeys", 5, Message(&LABEL_KEY)),
];

static LABEL_KEY: [Member; 2] = [one("key", 1, Text), one("description", 2, Text)];

static SERIES: [Member; 3] = [
    one("startTimestamp", 1, Timestamp),
    many("labelValues", 2, Message(&LABEL_VALUE)),
    many("points", 3, Message(&POINT)),
];

static LABEL_VALUE: [Member; 2] = [one("value", 1, Text), one("hasValue", 2, Bool)];

static POINT: [Member; 5] = [
    one("timestamp", 1, Timestamp),
    one("int64Value", 2, Int),
    one("doubleValue", 3, Double),
    one("distributionValue", 4, Message(&DISTRIBUTION)),
    one("summaryValue", 5, Message(&SUMMARY)),
];

static DISTRIBUTION: [Member; 5] = [
    one("count", 1, Int),
    one("sum", 2, Double),
    one("sumOfSquaredDeviation", 3, Double),
    one("bucketOptions", 4, Message(&BUCKET_OPTIONS)),
    many("buckets", 5, Message(&BUCKET)),
];

static BUCKET_OPTIONS: [Member; 1] = [one("explicit", 1, Message(&EXPLICIT))];

static EXPLICIT: [Member; 1] = [many("bounds", 1, Double)];

static BUCKET: [Member; 2] = [one("count", 1, Int), one("exemplar", 2, Message(&EXEMPLAR))];

static EXEMPLAR: [Member; 3] =
    [one("value", 1, Double), one("timestamp", 2, Timestamp), one("attachments", 3, Map(&Text))];

static SUMMARY: [Member; 3] =
    [one("count", 1, Wrapper(&Int)), one("sum", 2, Wrapper(&Double)), one("snapshot", 3, Message(&SNAPSHOT))];

static SNAPSHOT: [Member; 3] = [
    one("count", 1, Wrapper(&Int)),
    one("sum", 2, Wrapper(&Double)),
    many("percentileValues", 3, Message(&VALUE_AT_PERCENTILE)),
];

static VALUE_AT_PERCENTILE: [Member; 2] = [one("percentile", 1, Double), one("value", 2, Double)];
