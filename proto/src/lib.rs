//! The contracts with the network: messages, clients and services generated from our own .proto files.
//!
//! Doors and links use them where it is cold; what is hot reads and writes bytes with `weir-wire`. Tests use them to
//! speak as a client would, and as an oracle. `SOURCES.md` says where each file's numbers come from.
//!
//! | module | what it is |
//! | --- | --- |
//! | [`opencensus`] | port 55678: nodes, spans, metrics, configurations |
//! | [`opentelemetry`] | OTLP: spans, metrics, log records and their three services |
//! | [`weir`] | our own: the link between an agent and a collector, and states for programs |
//! | [`zipkin`] | Zipkin v2 as protobuf |
//! | [`google`] | statuses, and the well-known types as they stand in the others |
//!
//! Invariant: generated; nothing here knows what Weir does.

#[expect(
    missing_docs,
    clippy::allow_attributes_without_reason,
    reason = "generated: a field's meaning stands in its .proto file where the name does not say it"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/protocols.rs"));
}

pub use generated::{google, opencensus, opentelemetry, weir, zipkin};

#[cfg(test)]
mod tests {
    use std::path::Path;

    use prost::Message;

    use super::opencensus::proto::agent::common::v1::{LibraryInfo, Node, ProcessIdentifier, ServiceInfo};
    use super::opencensus::proto::agent::trace::v1::ExportTraceServiceRequest;
    use super::opencensus::proto::trace::v1::{Span, TruncatableString};
    use super::opentelemetry::proto::collector::{logs, metrics, trace};

    /// Scenario: requests that OpenTelemetry-Python wrote.
    /// Guarantees: our messages hold every field of them: what is written again is as long, field by field the same.
    #[test]
    fn what_a_foreign_encoder_wrote_survives_our_messages() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors/otlp/made-here");
        if !folder.exists() {
            eprintln!("the vectors beside the repository are absent: nothing was compared");
            return;
        }
        let read = |name: &str| std::fs::read(folder.join(name)).expect("the vector is there");
        let traces = read("otel_py_1.45.2_traces.pb");
        let decoded = trace::v1::ExportTraceServiceRequest::decode(&*traces).expect("a request of spans");
        assert_eq!(decoded.encode_to_vec().len(), traces.len());
        let numbers = read("otel_py_1.45.2_metrics.pb");
        let decoded =
            metrics::v1::ExportMetricsServiceRequest::decode(&*numbers).expect("a request of metrics");
        assert_eq!(decoded.encode_to_vec().len(), numbers.len());
        let records = read("otel_py_1.45.2_logs.pb");
        let decoded =
            logs::v1::ExportLogsServiceRequest::decode(&*records).expect("a request of log records");
        assert_eq!(decoded.encode_to_vec().len(), records.len());
    }

    /// Scenario: a first OpenCensus message, its bytes written by hand from the table of numbers.
    /// Guarantees: node, identifier, library, service and span stand where other encoders put them.
    #[test]
    fn a_first_message_has_the_bytes_of_the_table() {
        let request = ExportTraceServiceRequest {
            node: Some(Node {
                identifier: Some(ProcessIdentifier {
                    host_name: "h".to_owned(),
                    pid: 7,
                    start_timestamp: None,
                }),
                library_info: Some(LibraryInfo { language: 8, ..LibraryInfo::default() }),
                service_info: Some(ServiceInfo { name: "s".to_owned() }),
                attributes: [("k".to_owned(), "v".to_owned())].into(),
            }),
            spans: vec![Span {
                name: Some(TruncatableString { value: "n".to_owned(), truncated_byte_count: 0 }),
                kind: 2,
                ..Span::default()
            }],
            resource: None,
        };
        let expected =
            b"\x0a\x18\x0a\x05\x0a\x01h\x10\x07\x12\x02\x08\x08\x1a\x03\x0a\x01s\x22\x06\x0a\x01k\x12\x01v\
            \x12\x07\x22\x03\x0a\x01n\x70\x02";
        assert_eq!(request.encode_to_vec(), expected);
    }
}
