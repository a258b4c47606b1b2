//! What is sent: requests encoded once, replayed by every sender, the same bytes for every daemon.

use bytes::Bytes;
use prost::Message;
use weir_proto::google::protobuf::Timestamp;
use weir_proto::opencensus::proto::agent::common::v1::{Node, ProcessIdentifier, ServiceInfo};
use weir_proto::opencensus::proto::agent::trace::v1::ExportTraceServiceRequest;
use weir_proto::opencensus::proto::trace::v1 as opencensus;
use weir_wire::Encoder;

use crate::formats;

/// Requests of a corpus. Each is a node of its own, so that there are two for each lane of a queue.
const REQUESTS: u32 = 32;

/// A time of this century, in microseconds, that all spans begin after.
const EPOCH_MICROS: u64 = 1_790_000_000_000_000;

/// How far a corpus may be from the size that its name says: one part in a hundred.
const SIZE_TOLERANCE: f64 = 0.01;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The body, for gRPC with its five bytes before.
    pub(crate) body: Bytes,
    /// Spans in it.
    pub(crate) items: u32,
}

/// Requests of one shape.
#[derive(Debug)]
pub(crate) struct Corpus {
    loads: Vec<Load>,
}

/// A span's shape in OTLP.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Shape {
    attributes: u32,
    value_bytes: usize,
    event: bool,
    /// Bytes of a span with its key and length, on average.
    pub(crate) span_bytes: f64,
}

/// 20 attributes, 845 bytes: the shape of the published comparisons.
pub(crate) const TWENTY: Shape = Shape { attributes: 20, value_bytes: 20, event: false, span_bytes: 845.0 };

/// 8 attributes and an event, 441 bytes: what a small web service sends.
pub(crate) const EIGHT: Shape = Shape { attributes: 8, value_bytes: 21, event: true, span_bytes: 441.0 };

impl Corpus {
    /// OTLP requests of `spans` spans, framed for gRPC.
    ///
    /// # Panics
    /// When the spans have not the size that the shape says: the figures of the table would mean something else.
    pub(crate) fn otlp(shape: Shape, spans: u32) -> Self {
        let bodies = (0..REQUESTS).map(|node| otlp(shape, node, spans));
        let loads: Vec<_> = bodies.map(|body| Load { body: framed(&body), items: spans }).collect();
        let bytes: usize = loads.iter().map(|load| load.body.len()).sum();
        let mean = bytes as f64 / f64::from(REQUESTS * spans);
        assert!(
            spans < 100 || (mean / shape.span_bytes - 1.0).abs() < SIZE_TOLERANCE,
            "a span has {mean} bytes: {shape:?}"
        );
        Self { loads }
    }

    /// OpenCensus messages of `spans` spans with 20 attributes, framed for gRPC.
    pub(crate) fn opencensus(spans: u32) -> Self {
        let bodies = (0..REQUESTS).map(|node| census(node, spans).encode_to_vec());
        Self { loads: bodies.map(|body| Load { body: framed(&body), items: spans }).collect() }
    }

    /// Zipkin v2 JSON lists of `spans` spans with 8 tags.
    pub(crate) fn zipkin(spans: u32) -> Self {
        let bodies = (0..REQUESTS).map(|node| zipkin(node, spans));
        Self { loads: bodies.map(|body| Load { body: Bytes::from(body), items: spans }).collect() }
    }

    /// Jaeger's batches of `spans` spans with 8 tags.
    pub(crate) fn jaeger(spans: u32) -> Self {
        let bodies = (0..REQUESTS).map(|node| formats::jaeger(node, spans));
        Self { loads: bodies.map(|body| Load { body, items: spans }).collect() }
    }

    /// OTLP requests of `points` points, framed for gRPC.
    pub(crate) fn points(points: u32) -> Self {
        let bodies = (0..REQUESTS).map(|node| framed(&formats::points(node, points)));
        Self { loads: bodies.map(|body| Load { body, items: points }).collect() }
    }

    /// Remote writes of `points` samples.
    pub(crate) fn written(points: u32) -> Self {
        let bodies = (0..REQUESTS).map(|node| formats::written(node, points));
        Self { loads: bodies.map(|body| Load { body, items: points }).collect() }
    }

    /// The request of this number, from the first again after the last.
    pub(crate) fn get(&self, number: u64) -> &Load {
        &self.loads[(number % self.loads.len() as u64) as usize]
    }
}

/// A gRPC message: a flag that says that it is not compressed, its length, its bytes.
fn framed(message: &[u8]) -> Bytes {
    let length = u32::try_from(message.len()).expect("a corpus is far smaller than 4 GiB");
    let mut out = Vec::with_capacity(message.len() + 5);
    out.push(0);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(message);
    Bytes::from(out)
}

fn otlp(shape: Shape, node: u32, spans: u32) -> Vec<u8> {
    let mut out = Encoder::with_capacity((spans as usize + 1) * 1024);
    out.message(1, |group| {
        group.message(1, |resource| {
            resource.attribute_str(1, "service.name", "checkout");
            resource.attribute_str(1, "service.instance.id", format!("instance-{node}"));
            resource.attribute_str(1, "host.name", "load-host");
        });
        group.message(2, |scope| {
            scope.message(1, |scope| scope.string(1, "load"));
            for index in 0..spans {
                scope.message(2, |span| otlp_span(span, shape, node, index));
            }
        });
    });
    out.into_bytes()
}

fn otlp_span(span: &mut Encoder, shape: Shape, node: u32, index: u32) {
    let start = start_micros(node, index) * 1000;
    span.bytes(1, trace_id(node, index));
    span.bytes(2, span_id(node, index));
    span.bytes(4, span_id(node, index / 2));
    span.string(5, name(index));
    span.varint(6, 2);
    span.fixed64(7, start);
    span.fixed64(8, start + 1_500_000);
    for number in 0..shape.attributes {
        span.attribute_str(9, key(number), value(node, index, number, shape.value_bytes));
    }
    if shape.event {
        span.message(11, |event| {
            event.fixed64(1, start + 700_000);
            event.string(2, "cache miss");
            event.attribute_str(3, "cache.key", "products");
        });
    }
}

fn census(node: u32, spans: u32) -> ExportTraceServiceRequest {
    let text = |value: String| opencensus::TruncatableString { value, truncated_byte_count: 0 };
    let span = |index: u32| {
        let attribute = |number: u32| {
            let value = opencensus::attribute_value::Value::StringValue(text(value(node, index, number, 20)));
            (key(number), opencensus::AttributeValue { value: Some(value) })
        };
        opencensus::Span {
            trace_id: trace_id(node, index).to_vec(),
            span_id: span_id(node, index).to_vec(),
            parent_span_id: span_id(node, index / 2).to_vec(),
            name: Some(text(name(index).to_owned())),
            kind: 1,
            start_time: Some(timestamp(start_micros(node, index))),
            end_time: Some(timestamp(start_micros(node, index) + 1500)),
            attributes: Some(opencensus::span::Attributes {
                attribute_map: (0..20).map(attribute).collect(),
                dropped_attributes_count: 0,
            }),
            ..opencensus::Span::default()
        }
    };
    ExportTraceServiceRequest {
        node: Some(Node {
            identifier: Some(ProcessIdentifier {
                host_name: "load-host".to_owned(),
                pid: node + 1,
                start_timestamp: Some(timestamp(EPOCH_MICROS)),
            }),
            service_info: Some(ServiceInfo { name: "checkout".to_owned() }),
            ..Node::default()
        }),
        spans: (0..spans).map(span).collect(),
        resource: None,
    }
}

fn zipkin(node: u32, spans: u32) -> Vec<u8> {
    let span = |index: u32| {
        let tags: serde_json::Map<_, _> =
            (0..8).map(|number| (key(number), value(node, index, number, 24).into())).collect();
        serde_json::json!({
            "traceId": hex(&trace_id(node, index)),
            "parentId": hex(&span_id(node, index / 2)),
            "id": hex(&span_id(node, index)),
            "kind": "SERVER",
            "name": name(index),
            "timestamp": start_micros(node, index),
            "duration": 1500,
            "localEndpoint": {"serviceName": format!("checkout-{node}"), "ipv4": "10.1.2.3", "port": 8080},
            "tags": tags,
        })
    };
    let list: Vec<_> = (0..spans).map(span).collect();
    serde_json::to_vec(&list).expect("a tree of strings can be written")
}

pub(crate) fn trace_id(node: u32, index: u32) -> [u8; 16] {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&mixed(node, index / 8, 0).to_be_bytes());
    id[8..].copy_from_slice(&(mixed(node, index / 8, 1) | 1).to_be_bytes());
    id
}

pub(crate) fn span_id(node: u32, index: u32) -> [u8; 8] {
    (mixed(node, index, 2) | 1).to_be_bytes()
}

pub(crate) fn start_micros(node: u32, index: u32) -> u64 {
    EPOCH_MICROS + u64::from(node) * 1_000_000 + u64::from(index)
}

fn timestamp(micros: u64) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(micros / 1_000_000).expect("a time of this century"),
        nanos: i32::try_from(micros % 1_000_000 * 1000).expect("less than a second"),
    }
}

pub(crate) fn name(index: u32) -> &'static str {
    ["GET /api/v1/products", "POST /api/v1/cart", "SELECT orders", "GET /healthz"][(index % 4) as usize]
}

pub(crate) fn key(number: u32) -> String {
    format!("key.{number:02}.{}", ["id", "name"][(number % 2) as usize])
}

pub(crate) fn value(node: u32, index: u32, number: u32, bytes: usize) -> String {
    let mut bits = mixed(node, index, number + 3);
    let letters = (0..bytes).map(|at| {
        if at % 12 == 0 {
            bits = bits.rotate_left(31).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        let letter = b"abcdefghijklmnopqrstuvwxyz012345"[(bits >> (5 * (at % 12)) & 31) as usize];
        char::from(letter)
    });
    letters.collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// splitmix64's mixing of three numbers.
pub(crate) fn mixed(node: u32, index: u32, salt: u32) -> u64 {
    [node, index, salt].into_iter().fold(0x9e37_79b9_7f4a_7c15, |mixed, part| {
        let mut z = (mixed ^ u64::from(part)).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}
