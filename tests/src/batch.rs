//! Payloads that follow from an id, so that whoever finds a span knows what it must look like.
//!
//! ```text
//! trace id   'W' u8 · sender u24 · number u64 · spans u16 · attributes u8 · bytes of a value u8
//! span id    (number << 16 | index) + 1
//! ```
//!
//! Each protocol's encoding becomes the same OTLP span in a daemon: server or client spans with texts as attributes, in
//! whole microseconds, without events, links and status.

use bytes::Bytes;
use prost::Message;
use serde_json::json;
use weir_proto::google::protobuf::Timestamp;
use weir_proto::opencensus::proto::agent::common::v1::{Node, ProcessIdentifier, ServiceInfo};
use weir_proto::opencensus::proto::agent::trace::v1 as opencensus_service;
use weir_proto::opencensus::proto::trace::v1 as opencensus;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_proto::opentelemetry::proto::common::v1::{AnyValue, KeyValue, any_value};
use weir_proto::opentelemetry::proto::resource::v1::Resource;
use weir_proto::opentelemetry::proto::trace::v1::{ResourceSpans, ScopeSpans, Span, span};

/// The first of the four bytes that hold the sender, so that no trace id begins with zeros.
const MARK: u32 = (b'W' as u32) << 24;

/// The start of the first span of the first batch: some day in 2023, in microseconds.
const EPOCH_MICROS: u64 = 1_700_000_000_000_000;

/// How a batch travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// OTLP over gRPC.
    OtlpGrpc,
    /// OTLP over HTTP, protobuf.
    OtlpHttp,
    /// An OpenCensus stream of one message, as the Python library opens for each batch: its end is the acknowledgement.
    OpenCensus,
    /// Zipkin v2 JSON.
    Zipkin,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::OtlpGrpc, Self::OtlpHttp, Self::OpenCensus, Self::Zipkin];
}

/// Which batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BatchId {
    /// Who sent it; below 2^24.
    pub sender: u32,
    /// Its number among the sender's; below 2^47.
    pub number: u64,
}

/// How large its parts are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Spans in it, at least 1.
    pub spans: u16,
    /// Attributes of each span.
    pub attributes: u8,
    /// Bytes of each attribute's value.
    pub value_bytes: u8,
}

impl BatchId {
    /// The body of its request, without a gRPC frame.
    pub fn encode(self, shape: Shape, protocol: Protocol) -> Bytes {
        match protocol {
            Protocol::OtlpGrpc | Protocol::OtlpHttp => self.otlp(shape).encode_to_vec().into(),
            Protocol::OpenCensus => self.opencensus(shape).encode_to_vec().into(),
            Protocol::Zipkin => self.zipkin(shape).to_string().into(),
        }
    }

    /// The name of the service that sends it.
    pub fn service(self) -> String {
        format!("sender-{}", self.sender)
    }

    /// As OTLP.
    pub fn otlp(self, shape: Shape) -> ExportTraceServiceRequest {
        let spans = (0..shape.spans).map(|index| self.span(shape, index)).collect();
        let resource =
            Resource { attributes: vec![attribute("service.name", self.service())], ..Resource::default() };
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        let group = ResourceSpans { resource: Some(resource), scope_spans, ..ResourceSpans::default() };
        ExportTraceServiceRequest { resource_spans: vec![group] }
    }

    /// The span at `index` as a backend must see it.
    pub fn span(self, shape: Shape, index: u16) -> Span {
        let (start, end) = self.micros(index);
        Span {
            trace_id: self.trace_id(shape).to_vec(),
            span_id: self.span_id(index).to_vec(),
            name: self.name(index),
            kind: if index.is_multiple_of(2) { span::SpanKind::Server } else { span::SpanKind::Client }
                .into(),
            start_time_unix_nano: start * 1000,
            end_time_unix_nano: end * 1000,
            attributes: self.attributes(shape, index).map(|(key, value)| attribute(&key, value)).collect(),
            ..Span::default()
        }
    }

    fn opencensus(self, shape: Shape) -> opencensus_service::ExportTraceServiceRequest {
        let text = |value| Some(opencensus::TruncatableString { value, truncated_byte_count: 0 });
        let value = |value| opencensus::AttributeValue {
            value: Some(opencensus::attribute_value::Value::StringValue(opencensus::TruncatableString {
                value,
                truncated_byte_count: 0,
            })),
        };
        let span = |index: u16| {
            let (start, end) = self.micros(index);
            let attributes = self.attributes(shape, index).map(|(key, text)| (key, value(text)));
            opencensus::Span {
                trace_id: self.trace_id(shape).to_vec(),
                span_id: self.span_id(index).to_vec(),
                name: text(self.name(index)),
                kind: if index.is_multiple_of(2) { 1 } else { 2 },
                start_time: Some(timestamp(start)),
                end_time: Some(timestamp(end)),
                attributes: Some(opencensus::span::Attributes {
                    attribute_map: attributes.collect(),
                    dropped_attributes_count: 0,
                }),
                ..opencensus::Span::default()
            }
        };
        opencensus_service::ExportTraceServiceRequest {
            node: Some(Node {
                identifier: Some(ProcessIdentifier {
                    host_name: "host-of-senders".to_owned(),
                    pid: self.sender + 1,
                    start_timestamp: Some(timestamp(EPOCH_MICROS)),
                }),
                service_info: Some(ServiceInfo { name: self.service() }),
                ..Node::default()
            }),
            spans: (0..shape.spans).map(span).collect(),
            resource: None,
        }
    }

    fn zipkin(self, shape: Shape) -> serde_json::Value {
        let span = |index: u16| {
            let (start, end) = self.micros(index);
            let tags: serde_json::Map<_, _> =
                self.attributes(shape, index).map(|(key, value)| (key, value.into())).collect();
            json!({
                "traceId": hex(&self.trace_id(shape)),
                "id": hex(&self.span_id(index)),
                "name": self.name(index),
                "kind": if index.is_multiple_of(2) { "SERVER" } else { "CLIENT" },
                "timestamp": start,
                "duration": end - start,
                "localEndpoint": {"serviceName": self.service()},
                "tags": tags,
            })
        };
        (0..shape.spans).map(span).collect()
    }

    fn trace_id(self, shape: Shape) -> [u8; 16] {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&(MARK | self.sender).to_be_bytes());
        id[4..12].copy_from_slice(&self.number.to_be_bytes());
        id[12..14].copy_from_slice(&shape.spans.to_be_bytes());
        id[14] = shape.attributes;
        id[15] = shape.value_bytes;
        id
    }

    fn span_id(self, index: u16) -> [u8; 8] {
        ((self.number << 16 | u64::from(index)) + 1).to_be_bytes()
    }

    fn micros(self, index: u16) -> (u64, u64) {
        let start = EPOCH_MICROS + self.number * 1000 + u64::from(index);
        (start, start + 1 + self.mixed(index, 0) % 1000)
    }

    fn name(self, index: u16) -> String {
        format!("op-{}", self.mixed(index, 1) % 16)
    }

    fn attributes(self, shape: Shape, index: u16) -> impl Iterator<Item = (String, String)> {
        (0..shape.attributes).map(move |at| {
            let letters = (0..shape.value_bytes).map(|letter| {
                let bits = self.mixed(index, 2 + u64::from(at)) >> (5 * u32::from(letter % 12));
                char::from(b"abcdefghijklmnopqrstuvwxyz012345"[(bits & 31) as usize])
            });
            (format!("key.{at:03}"), letters.collect())
        })
    }

    /// The mixing of splitmix64: other numbers for other arguments, the same for the same.
    fn mixed(self, index: u16, salt: u64) -> u64 {
        let parts = [u64::from(self.sender), self.number, u64::from(index), salt];
        parts.into_iter().fold(0x9e37_79b9_7f4a_7c15, |mixed, part| {
            let mut z = (mixed ^ part).wrapping_add(0x9e37_79b9_7f4a_7c15);
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        })
    }
}

/// Which span of which batch this is.
///
/// # Errors
/// What about it is not as it was sent; or that it was never sent by this module.
pub fn recognise(span: &Span) -> Result<(BatchId, Shape, u16), String> {
    let trace = <[u8; 16]>::try_from(&*span.trace_id).map_err(|_| "a trace id of other than 16 bytes")?;
    let sender = u32::from_be_bytes([trace[0], trace[1], trace[2], trace[3]]);
    if sender & 0xff00_0000 != MARK {
        return Err(format!("no trace of ours: {}", hex(&trace)));
    }
    let number = trace[4..12].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let id = BatchId { sender: sender & !MARK, number };
    let spans = u16::from_be_bytes([trace[12], trace[13]]);
    let shape = Shape { spans, attributes: trace[14], value_bytes: trace[15] };
    let span_id = <[u8; 8]>::try_from(&*span.span_id).map_err(|_| "a span id of other than 8 bytes")?;
    let index = u64::from_be_bytes(span_id).wrapping_sub(1) ^ number << 16;
    let index = u16::try_from(index).ok().filter(|index| *index < spans);
    let index = index.ok_or_else(|| format!("no span of {id:?}: {}", hex(&span_id)))?;
    let expected = id.span(shape, index);
    let mut found = span.clone();
    // A map has no order, and two of the protocols have maps.
    found.attributes.sort_by(|a, b| a.key.cmp(&b.key));
    if found == expected {
        Ok((id, shape, index))
    } else {
        Err(format!("span {index} of {id:?} is altered:\n  sent  {expected:?}\n  found {found:?}"))
    }
}

/// Lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn attribute(key: &str, value: String) -> KeyValue {
    let value = Some(AnyValue { value: Some(any_value::Value::StringValue(value)) });
    KeyValue { key: key.to_owned(), value }
}

fn timestamp(micros: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(micros / 1_000_000).expect("a time of this century"),
        nanos: i32::try_from(micros % 1_000_000 * 1000).expect("less than a second"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a span of a batch, and the same with one letter changed.
    /// Guarantees: the first is recognised, the second is not.
    #[test]
    fn a_span_is_recognised_and_an_altered_one_is_not() {
        let id = BatchId { sender: 7, number: 1 << 40 };
        let shape = Shape { spans: 300, attributes: 3, value_bytes: 20 };
        let mut span = id.span(shape, 299);
        span.attributes.reverse();
        assert_eq!(recognise(&span), Ok((id, shape, 299)));
        span.name.push('x');
        assert!(recognise(&span).expect_err("it is altered").contains("is altered"));
    }

    /// Scenario: one batch in OpenCensus' and in Zipkin's words.
    /// Guarantees: both name the same trace, the same spans, the same service.
    #[test]
    fn one_batch_is_the_same_in_each_protocol() {
        let id = BatchId { sender: 1, number: 5 };
        let shape = Shape { spans: 2, attributes: 1, value_bytes: 4 };
        let spans = &id.otlp(shape).resource_spans[0].scope_spans[0].spans;
        let census = id.opencensus(shape);
        let zipkin = id.zipkin(shape);
        for (index, span) in spans.iter().enumerate() {
            assert_eq!(census.spans[index].span_id, span.span_id);
            assert_eq!(zipkin[index]["id"], hex(&span.span_id));
            assert_eq!(zipkin[index]["timestamp"], span.start_time_unix_nano / 1000);
        }
    }
}
