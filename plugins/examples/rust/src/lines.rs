//! One line for each span: trace id, span id, service, name, nanoseconds, with tabs between.

use prost::{DecodeError, Message};

/// The lines of an OTLP `ExportTraceServiceRequest`.
pub(crate) fn of(batch: &[u8]) -> Result<String, DecodeError> {
    let mut lines = String::new();
    for group in Traces::decode(batch)?.resource_spans {
        let attributes = group.resource.map(|resource| resource.attributes).unwrap_or_default();
        let service = attributes.iter().find(|attribute| attribute.key == b"service.name");
        let service = service.and_then(|attribute| attribute.value.as_ref()?.string.as_deref());
        let service = field(service.unwrap_or(b"?"));
        for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            let (trace, id, name) = (hex(&span.trace_id), hex(&span.span_id), field(&span.name));
            let nanos = span.end.saturating_sub(span.start);
            lines += &format!("{trace}\t{id}\t{service}\t{name}\t{nanos}\n");
        }
    }
    Ok(lines)
}

fn hex(id: &[u8]) -> String {
    let digits = id.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(b"0123456789abcdef"[usize::from(digit)])).collect()
}

/// A text that stays in its field and in its line.
fn field(text: &[u8]) -> String {
    String::from_utf8_lossy(text).replace(['\t', '\n', '\r'], " ")
}

// The fields of OTLP that a line needs; all others are skipped. The numbers stand in opentelemetry/proto/trace/v1/trace.proto.

#[derive(Message)]
struct Traces {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
}

#[derive(Message)]
struct KeyValue {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Message)]
struct AnyValue {
    #[prost(bytes = "vec", optional, tag = "1")]
    string: Option<Vec<u8>>,
}

#[derive(Message)]
struct ScopeSpans {
    #[prost(message, repeated, tag = "2")]
    spans: Vec<Span>,
}

#[derive(Message)]
struct Span {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "5")]
    name: Vec<u8>,
    #[prost(fixed64, tag = "7")]
    start: u64,
    #[prost(fixed64, tag = "8")]
    end: u64,
}
