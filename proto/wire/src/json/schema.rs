//! The messages of OTLP, as one table for both directions (`opentelemetry-proto` 1.11).
//!
//! Fields stand in the order of their numbers. Reserved and profile-only fields are left out: they are
//! unknown.

/// A message.
#[derive(Debug)]
pub(super) struct Message {
    pub(super) fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub(super) struct Field {
    /// Key in JSON.
    pub(super) name: &'static str,
    /// Number in protobuf.
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) rule: Rule,
}

/// What a field holds and how it is spelled.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    /// A string.
    String,
    /// Bytes, base64 in JSON.
    Bytes,
    /// Bytes, hex in JSON.
    Id,
    /// A varint, `true` or `false` in JSON.
    Bool,
    /// A varint of 32 bits, a number in JSON.
    Uint32,
    /// A varint of 32 bits with a sign, a number in JSON.
    Enum,
    /// A zigzag varint of 32 bits, a number in JSON.
    Sint32,
    /// A varint of 64 bits, a string in JSON.
    Uint64,
    /// A varint of 64 bits with a sign, a string in JSON.
    Int64,
    /// Four bytes, a number in JSON.
    Fixed32,
    /// Eight bytes, a string in JSON.
    Fixed64,
    /// Eight bytes with a sign, a string in JSON.
    Sfixed64,
    /// Eight bytes, a number or a name of none in JSON.
    Double,
    /// A message.
    Message(&'static Message),
}

/// How often a field may stand and whether its default says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rule {
    /// Once; the default is as good as absent.
    Single,
    /// Once; the default says something.
    Optional,
    /// At most one of the message's fields with this rule, of which no message has two sets; the default says
    /// something.
    OneOf,
    /// Any number of times; numbers are packed.
    Repeated,
}

/// The most fields that a message has; both directions keep something for each on their stack.
pub(super) const FIELDS_MAX: usize = 16;

use Kind::{
    Bool, Bytes, Double, Enum, Fixed32, Fixed64, Id, Int64, Sfixed64, Sint32, String, Uint32, Uint64,
};

const fn single(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { name, number, kind, rule: Rule::Single }
}

const fn optional(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { name, number, kind, rule: Rule::Optional }
}

const fn one_of(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { name, number, kind, rule: Rule::OneOf }
}

const fn repeated(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { name, number, kind, rule: Rule::Repeated }
}

const fn message(fields: &'static [Field]) -> Message {
    assert!(fields.len() <= FIELDS_MAX, "the table's reader has room for so many");
    let mut index = 1;
    while index < fields.len() {
        assert!(
            fields[index - 1].number < fields[index].number,
            "fields stand in the order of their numbers"
        );
        index += 1;
    }
    Message { fields }
}

// === requests ===

pub(super) static TRACES: Message = message(&[repeated(1, "resourceSpans", Kind::Message(&RESOURCE_SPANS))]);
pub(super) static METRICS: Message =
    message(&[repeated(1, "resourceMetrics", Kind::Message(&RESOURCE_METRICS))]);
pub(super) static LOGS: Message = message(&[repeated(1, "resourceLogs", Kind::Message(&RESOURCE_LOGS))]);

static RESOURCE_SPANS: Message = message(&[
    single(1, "resource", Kind::Message(&RESOURCE)),
    repeated(2, "scopeSpans", Kind::Message(&SCOPE_SPANS)),
    single(3, "schemaUrl", String),
]);
static RESOURCE_METRICS: Message = message(&[
    single(1, "resource", Kind::Message(&RESOURCE)),
    repeated(2, "scopeMetrics", Kind::Message(&SCOPE_METRICS)),
    single(3, "schemaUrl", String),
]);
static RESOURCE_LOGS: Message = message(&[
    single(1, "resource", Kind::Message(&RESOURCE)),
    repeated(2, "scopeLogs", Kind::Message(&SCOPE_LOGS)),
    single(3, "schemaUrl", String),
]);
static SCOPE_SPANS: Message = message(&[
    single(1, "scope", Kind::Message(&SCOPE)),
    repeated(2, "spans", Kind::Message(&SPAN)),
    single(3, "schemaUrl", String),
]);
static SCOPE_METRICS: Message = message(&[
    single(1, "scope", Kind::Message(&SCOPE)),
    repeated(2, "metrics", Kind::Message(&METRIC)),
    single(3, "schemaUrl", String),
]);
static SCOPE_LOGS: Message = message(&[
    single(1, "scope", Kind::Message(&SCOPE)),
    repeated(2, "logRecords", Kind::Message(&LOG_RECORD)),
    single(3, "schemaUrl", String),
]);

// === common ===

static RESOURCE: Message = message(&[
    repeated(1, "attributes", Kind::Message(&KEY_VALUE)),
    single(2, "droppedAttributesCount", Uint32),
    repeated(3, "entityRefs", Kind::Message(&ENTITY_REF)),
]);
static ENTITY_REF: Message = message(&[
    single(1, "schemaUrl", String),
    single(2, "type", String),
    repeated(3, "idKeys", String),
    repeated(4, "descriptionKeys", String),
]);
static SCOPE: Message = message(&[
    single(1, "name", String),
    single(2, "version", String),
    repeated(3, "attributes", Kind::Message(&KEY_VALUE)),
    single(4, "droppedAttributesCount", Uint32),
]);
static KEY_VALUE: Message =
    message(&[single(1, "key", String), single(2, "value", Kind::Message(&ANY_VALUE))]);
static ANY_VALUE: Message = message(&[
    one_of(1, "stringValue", String),
    one_of(2, "boolValue", Bool),
    one_of(3, "intValue", Int64),
    one_of(4, "doubleValue", Double),
    one_of(5, "arrayValue", Kind::Message(&ARRAY_VALUE)),
    one_of(6, "kvlistValue", Kind::Message(&KEY_VALUE_LIST)),
    one_of(7, "bytesValue", Bytes),
]);
static ARRAY_VALUE: Message = message(&[repeated(1, "values", Kind::Message(&ANY_VALUE))]);
static KEY_VALUE_LIST: Message = message(&[repeated(1, "values", Kind::Message(&KEY_VALUE))]);

// === traces ===

static SPAN: Message = message(&[
    single(1, "traceId", Id),
    single(2, "spanId", Id),
    single(3, "traceState", String),
    single(4, "parentSpanId", Id),
    single(5, "name", String),
    single(6, "kind", Enum),
    single(7, "startTimeUnixNano", Fixed64),
    single(8, "endTimeUnixNano", Fixed64),
    repeated(9, "attributes", Kind::Message(&KEY_VALUE)),
    single(10, "droppedAttributesCount", Uint32),
    repeated(11, "events", Kind::Message(&EVENT)),
    single(12, "droppedEventsCount", Uint32),
    repeated(13, "links", Kind::Message(&LINK)),
    single(14, "droppedLinksCount", Uint32),
    single(15, "status", Kind::Message(&STATUS)),
    single(16, "flags", Fixed32),
]);
static EVENT: Message = message(&[
    single(1, "timeUnixNano", Fixed64),
    single(2, "name", String),
    repeated(3, "attributes", Kind::Message(&KEY_VALUE)),
    single(4, "droppedAttributesCount", Uint32),
]);
static LINK: Message = message(&[
    single(1, "traceId", Id),
    single(2, "spanId", Id),
    single(3, "traceState", String),
    repeated(4, "attributes", Kind::Message(&KEY_VALUE)),
    single(5, "droppedAttributesCount", Uint32),
    single(6, "flags", Fixed32),
]);
static STATUS: Message = message(&[single(2, "message", String), single(3, "code", Enum)]);

// === metrics ===

static METRIC: Message = message(&[
    single(1, "name", String),
    single(2, "description", String),
    single(3, "unit", String),
    one_of(5, "gauge", Kind::Message(&GAUGE)),
    one_of(7, "sum", Kind::Message(&SUM)),
    one_of(9, "histogram", Kind::Message(&HISTOGRAM)),
    one_of(10, "exponentialHistogram", Kind::Message(&EXPONENTIAL_HISTOGRAM)),
    one_of(11, "summary", Kind::Message(&SUMMARY)),
    repeated(12, "metadata", Kind::Message(&KEY_VALUE)),
]);
static GAUGE: Message = message(&[repeated(1, "dataPoints", Kind::Message(&NUMBER_DATA_POINT))]);
static SUM: Message = message(&[
    repeated(1, "dataPoints", Kind::Message(&NUMBER_DATA_POINT)),
    single(2, "aggregationTemporality", Enum),
    single(3, "isMonotonic", Bool),
]);
static HISTOGRAM: Message = message(&[
    repeated(1, "dataPoints", Kind::Message(&HISTOGRAM_DATA_POINT)),
    single(2, "aggregationTemporality", Enum),
]);
static EXPONENTIAL_HISTOGRAM: Message = message(&[
    repeated(1, "dataPoints", Kind::Message(&EXPONENTIAL_HISTOGRAM_DATA_POINT)),
    single(2, "aggregationTemporality", Enum),
]);
static SUMMARY: Message = message(&[repeated(1, "dataPoints", Kind::Message(&SUMMARY_DATA_POINT))]);
static NUMBER_DATA_POINT: Message = message(&[
    single(2, "startTimeUnixNano", Fixed64),
    single(3, "timeUnixNano", Fixed64),
    one_of(4, "asDouble", Double),
    repeated(5, "exemplars", Kind::Message(&EXEMPLAR)),
    one_of(6, "asInt", Sfixed64),
    repeated(7, "attributes", Kind::Message(&KEY_VALUE)),
    single(8, "flags", Uint32),
]);
static HISTOGRAM_DATA_POINT: Message = message(&[
    single(2, "startTimeUnixNano", Fixed64),
    single(3, "timeUnixNano", Fixed64),
    single(4, "count", Fixed64),
    optional(5, "sum", Double),
    repeated(6, "bucketCounts", Fixed64),
    repeated(7, "explicitBounds", Double),
    repeated(8, "exemplars", Kind::Message(&EXEMPLAR)),
    repeated(9, "attributes", Kind::Message(&KEY_VALUE)),
    single(10, "flags", Uint32),
    optional(11, "min", Double),
    optional(12, "max", Double),
]);
static EXPONENTIAL_HISTOGRAM_DATA_POINT: Message = message(&[
    repeated(1, "attributes", Kind::Message(&KEY_VALUE)),
    single(2, "startTimeUnixNano", Fixed64),
    single(3, "timeUnixNano", Fixed64),
    single(4, "count", Fixed64),
    optional(5, "sum", Double),
    single(6, "scale", Sint32),
    single(7, "zeroCount", Fixed64),
    single(8, "positive", Kind::Message(&BUCKETS)),
    single(9, "negative", Kind::Message(&BUCKETS)),
    single(10, "flags", Uint32),
    repeated(11, "exemplars", Kind::Message(&EXEMPLAR)),
    optional(12, "min", Double),
    optional(13, "max", Double),
    single(14, "zeroThreshold", Double),
]);
static BUCKETS: Message = message(&[single(1, "offset", Sint32), repeated(2, "bucketCounts", Uint64)]);
static SUMMARY_DATA_POINT: Message = message(&[
    single(2, "startTimeUnixNano", Fixed64),
    single(3, "timeUnixNano", Fixed64),
    single(4, "count", Fixed64),
    single(5, "sum", Double),
    repeated(6, "quantileValues", Kind::Message(&VALUE_AT_QUANTILE)),
    repeated(7, "attributes", Kind::Message(&KEY_VALUE)),
    single(8, "flags", Uint32),
]);
static VALUE_AT_QUANTILE: Message = message(&[single(1, "quantile", Double), single(2, "value", Double)]);
static EXEMPLAR: Message = message(&[
    single(2, "timeUnixNano", Fixed64),
    one_of(3, "asDouble", Double),
    single(4, "spanId", Id),
    single(5, "traceId", Id),
    one_of(6, "asInt", Sfixed64),
    repeated(7, "filteredAttributes", Kind::Message(&KEY_VALUE)),
]);

// === logs ===

static LOG_RECORD: Message = message(&[
    single(1, "timeUnixNano", Fixed64),
    single(2, "severityNumber", Enum),
    single(3, "severityText", String),
    single(5, "body", Kind::Message(&ANY_VALUE)),
    repeated(6, "attributes", Kind::Message(&KEY_VALUE)),
    single(7, "droppedAttributesCount", Uint32),
    single(8, "flags", Fixed32),
    single(9, "traceId", Id),
    single(10, "spanId", Id),
    single(11, "observedTimeUnixNano", Fixed64),
    single(12, "eventName", String),
]);
