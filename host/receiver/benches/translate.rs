//! OpenCensus to OTLP: 1000 spans with 20 attributes.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, Throughput};
use prost::Message;
use weir_model::{Ledger, Signal};
use weir_proto::google::protobuf::Timestamp;
use weir_proto::opencensus::proto::agent::common::v1::{Node, ProcessIdentifier, ServiceInfo};
use weir_proto::opencensus::proto::agent::trace::v1::ExportTraceServiceRequest;
use weir_proto::opencensus::proto::trace::v1::{
    AttributeValue, Span, TruncatableString, attribute_value::Value, span::Attributes,
};
use weir_receiver::opencensus::translate::{Envelope, Limits, Speaker, Tally, Translation};

/// Spans of a message.
const SPANS: u32 = 1000;

/// Limits that this message does not reach.
const LIMITS: Limits =
    Limits { items_max: 65_536, attributes_max: 256, text_bytes_max: 64 << 10, output_bytes_max: 64 << 20 };

fn main() {
    let mut criterion = Criterion::default().measurement_time(Duration::from_secs(3)).configure_from_args();
    let message = message().encode_to_vec();
    let ledger = Ledger::new(192 << 20);
    let envelope = Envelope::open(&message).expect("our own message");
    let mut tally = Tally::default();
    let speaker =
        Speaker::default().hears(&envelope, &LIMITS, &mut tally).expect("our own node").expect("it is new");

    let mut rows = criterion.benchmark_group("opencensus");
    rows.throughput(Throughput::Elements(u64::from(SPANS)));
    rows.bench_function("open", |b| b.iter(|| Envelope::open(black_box(&message)).map(|e| e.members())));
    rows.bench_function("translate", |b| {
        b.iter(|| {
            let mut claim = ledger.claim(0).expect("nothing can be claimed");
            let translation = Translation::begin(Signal::Traces, &envelope, &speaker, &LIMITS, &mut claim);
            let (body, tally) = translation.and_then(Translation::finish).expect("our own message");
            assert_eq!(tally.items, SPANS);
            body
        });
    });
    rows.bench_function("copy", |b| b.iter(|| black_box(&message).to_vec()));
    rows.finish();
    criterion.final_summary();
}

fn message() -> ExportTraceServiceRequest {
    let time =
        |micros: u32| Timestamp { seconds: 1_790_000_000, nanos: i32::try_from(micros * 1000).unwrap_or(0) };
    let text = |value: String| TruncatableString { value, truncated_byte_count: 0 };
    let span = |index: u32| {
        let attribute = |number: u32| {
            let value = Value::StringValue(text(format!("value {index:06} {number:07}")));
            (format!("key.{number:02}.name"), AttributeValue { value: Some(value) })
        };
        Span {
            trace_id: (u128::from(index) << 64 | 7).to_be_bytes().to_vec(),
            span_id: (u64::from(index) + 1).to_be_bytes().to_vec(),
            parent_span_id: (u64::from(index / 2) + 1).to_be_bytes().to_vec(),
            name: Some(text("GET /api/v1/products".to_owned())),
            kind: 1,
            start_time: Some(time(index)),
            end_time: Some(time(index + 1500)),
            attributes: Some(Attributes {
                attribute_map: (0..20).map(attribute).collect(),
                dropped_attributes_count: 0,
            }),
            ..Span::default()
        }
    };
    ExportTraceServiceRequest {
        node: Some(Node {
            identifier: Some(ProcessIdentifier {
                host_name: "load-host".to_owned(),
                pid: 7,
                start_timestamp: Some(time(0)),
            }),
            service_info: Some(ServiceInfo { name: "checkout".to_owned() }),
            ..Node::default()
        }),
        spans: (0..SPANS).map(span).collect(),
        resource: None,
    }
}
