//! The tables, row by row, as hand-written expectations.

use std::time::{Duration, Instant};

use prost::Message;
use weir_model::{Claim, Ledger};
use weir_proto::google::protobuf::{BoolValue, DoubleValue, Int64Value, Timestamp, UInt32Value};
use weir_proto::opencensus::proto::agent::common::v1::{LibraryInfo, Node, ProcessIdentifier, ServiceInfo};
use weir_proto::opencensus::proto::agent::metrics::v1::ExportMetricsServiceRequest as OcMetrics;
use weir_proto::opencensus::proto::agent::trace::v1::ExportTraceServiceRequest as OcTraces;
use weir_proto::opencensus::proto::metrics::v1 as ocm;
use weir_proto::opencensus::proto::resource::v1::Resource;
use weir_proto::opencensus::proto::trace::v1 as oc;
use weir_proto::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_proto::opentelemetry::proto::common::v1::KeyValue;
use weir_proto::opentelemetry::proto::common::v1::any_value::Value as Any;
use weir_proto::opentelemetry::proto::metrics::v1::metric::Data;
use weir_proto::opentelemetry::proto::metrics::v1::number_data_point::Value as Number;
use weir_proto::opentelemetry::proto::metrics::v1::{Histogram, NumberDataPoint, ResourceMetrics};
use weir_proto::opentelemetry::proto::trace::v1 as otlp;
use weir_wire::{Encoder, Signal};

use super::oracle::translated;
use super::{Envelope, Limits, Speaker, Tally, TranslateError, Translation};

const LIMITS: Limits =
    Limits { items_max: 1000, attributes_max: 256, text_bytes_max: 64 * 1024, output_bytes_max: 1 << 24 };

fn claim() -> Claim {
    Ledger::new(1 << 28).claim(0).unwrap()
}

fn try_traces(bytes: &[u8], limits: &Limits) -> Result<(Vec<otlp::ResourceSpans>, Tally), TranslateError> {
    let envelope = Envelope::open(bytes)?;
    let mut heard = Tally::default();
    let speaker = Speaker::default().hears(&envelope, limits, &mut heard)?.unwrap_or_default();
    let (body, mut tally) = translated(Signal::Traces, &envelope, &speaker, limits, &mut claim())?;
    tally += heard;
    Ok((ExportTraceServiceRequest::decode(&*body).expect("OTLP").resource_spans, tally))
}

fn try_metrics(
    request: &OcMetrics,
    limits: &Limits,
) -> Result<(Vec<ResourceMetrics>, Tally), TranslateError> {
    let bytes = request.encode_to_vec();
    let envelope = Envelope::open(&bytes)?;
    let speaker = Speaker::default().hears(&envelope, limits, &mut Tally::default())?.unwrap_or_default();
    let (body, tally) = translated(Signal::Metrics, &envelope, &speaker, limits, &mut claim())?;
    Ok((ExportMetricsServiceRequest::decode(&*body).expect("OTLP").resource_metrics, tally))
}

/// The one span that a span becomes.
fn span_of(span: oc::Span) -> otlp::Span {
    let request = OcTraces { spans: vec![span], ..OcTraces::default() };
    let (mut groups, _) = try_traces(&request.encode_to_vec(), &LIMITS).unwrap();
    groups.remove(0).scope_spans.remove(0).spans.remove(0)
}

/// The attributes of the one group that node and resource make, sorted by key.
fn resource_of(node: Option<Node>, resource: Option<Resource>) -> Vec<(String, Any)> {
    let request = OcTraces { node, spans: vec![plain()], resource };
    let (groups, _) = try_traces(&request.encode_to_vec(), &LIMITS).unwrap();
    pairs(&groups[0].resource.clone().unwrap_or_default().attributes)
}

fn plain() -> oc::Span {
    oc::Span { trace_id: vec![1; 16], span_id: vec![2; 8], ..oc::Span::default() }
}

fn pairs(attributes: &[KeyValue]) -> Vec<(String, Any)> {
    let value = |pair: &KeyValue| pair.value.clone().and_then(|any| any.value).expect("a value");
    let mut pairs: Vec<_> = attributes.iter().map(|pair| (pair.key.clone(), value(pair))).collect();
    pairs.sort_by(|a, b| a.0.cmp(&b.0));
    pairs
}

fn text(key: &str, value: &str) -> (String, Any) {
    (key.to_owned(), Any::StringValue(value.to_owned()))
}

fn int(key: &str, value: i64) -> (String, Any) {
    (key.to_owned(), Any::IntValue(value))
}

fn words(value: &str) -> oc::TruncatableString {
    oc::TruncatableString { value: value.to_owned(), truncated_byte_count: 3 }
}

fn said(value: oc::attribute_value::Value) -> oc::AttributeValue {
    oc::AttributeValue { value: Some(value) }
}

fn said_text(value: &str) -> oc::AttributeValue {
    said(oc::attribute_value::Value::StringValue(words(value)))
}

fn said_int(value: i64) -> oc::AttributeValue {
    said(oc::attribute_value::Value::IntValue(value))
}

fn attributes(pairs: &[(&str, oc::AttributeValue)]) -> Option<oc::span::Attributes> {
    let attribute_map = pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    Some(oc::span::Attributes { attribute_map, dropped_attributes_count: 0 })
}

fn at(seconds: i64, nanos: i32) -> Option<Timestamp> {
    Some(Timestamp { seconds, nanos })
}

fn labels(pairs: &[(&str, &str)]) -> std::collections::BTreeMap<String, String> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

// === node and resource ===

/// Scenario: a node with all its fields, and a resource with a type and labels.
/// Guarantees: each is the attribute of the table, pid as a number, `cloud.zone` renamed, `host.hostname` not.
#[test]
fn a_node_and_a_resource_become_attributes() {
    let node = Node {
        identifier: Some(ProcessIdentifier {
            host_name: "h1".to_owned(),
            pid: 4_294_967_295,
            start_timestamp: at(1_700_000_000, 120_000_000),
        }),
        library_info: Some(LibraryInfo {
            language: 8,
            exporter_version: "0.0.1".to_owned(),
            core_library_version: "0.11.4".to_owned(),
        }),
        service_info: Some(ServiceInfo { name: "shop".to_owned() }),
        attributes: labels(&[("team", "a")]),
    };
    let resource = Resource {
        r#type: "k8s".to_owned(),
        labels: labels(&[("cloud.zone", "z"), ("host.hostname", "hh"), ("team", "b")]),
    };
    let expected = [
        text("cloud.availability_zone", "z"),
        text("host.hostname", "hh"),
        text("host.name", "h1"),
        text("opencensus.exporterversion", "0.0.1"),
        text("opencensus.resourcetype", "k8s"),
        text("opencensus.starttime", "2023-11-14T22:13:20.12Z"),
        int("process.pid", 4_294_967_295),
        text("service.name", "shop"),
        text("team", "a"),
        text("telemetry.sdk.language", "python"),
        text("telemetry.sdk.version", "0.11.4"),
    ];
    assert_eq!(resource_of(Some(node), Some(resource)), expected);
}

/// Scenario: labels and attributes that have the names of what the table makes.
/// Guarantees: the table's own value stands, once.
#[test]
fn what_the_node_says_of_itself_wins_over_labels_of_the_same_name() {
    let node = Node {
        service_info: Some(ServiceInfo { name: "shop".to_owned() }),
        attributes: labels(&[("service.name", "from attributes"), ("host.name", "from attributes")]),
        ..Node::default()
    };
    let resource = Resource {
        r#type: "host".to_owned(),
        labels: labels(&[("service.name", "from labels"), ("opencensus.resourcetype", "from labels")]),
    };
    let expected = [
        text("host.name", "from attributes"),
        text("opencensus.resourcetype", "host"),
        text("service.name", "shop"),
    ];
    assert_eq!(resource_of(Some(node), Some(resource)), expected);
}

/// Scenario: an empty node; none; every language, one unspecified and one that nobody knows yet.
/// Guarantees: nothing is invented, and each language has its name.
#[test]
fn nothing_is_invented_for_what_a_node_leaves_out() {
    assert_eq!(resource_of(Some(Node::default()), Some(Resource::default())), []);
    assert_eq!(resource_of(None, None), []);
    let names = ["cpp", "dotnet", "erlang", "go", "java", "nodejs", "php", "python", "ruby", "webjs"];
    for (number, name) in (1..).zip(names) {
        let library_info = Some(LibraryInfo { language: number, ..LibraryInfo::default() });
        let node = Node { library_info, ..Node::default() };
        assert_eq!(resource_of(Some(node), None), [text("telemetry.sdk.language", name)]);
    }
    for number in [0, 11, -1] {
        let library_info = Some(LibraryInfo { language: number, ..LibraryInfo::default() });
        assert_eq!(resource_of(Some(Node { library_info, ..Node::default() }), None), []);
    }
}

/// Scenario: a stream says a node, nothing, a resource, another node, an empty resource.
/// Guarantees: a later node replaces the node alone, the resource carries over until another is said, and a message
/// that says nothing new changes nothing.
#[test]
fn the_resource_carries_over_and_the_node_is_the_last_one() {
    let node = |name: &str| {
        Some(Node { service_info: Some(ServiceInfo { name: name.to_owned() }), ..Node::default() })
    };
    let resource = |label: &str| Some(Resource { r#type: String::new(), labels: labels(&[("r", label)]) });
    let stream = [
        (node("a"), None, "service.name=a"),
        (None, None, "service.name=a"),
        (None, resource("1"), "r=1 service.name=a"),
        (node("b"), None, "r=1 service.name=b"),
        (node("b"), resource("1"), "r=1 service.name=b"),
        (None, Some(Resource::default()), "service.name=b"),
        (node("a"), resource("2"), "r=2 service.name=a"),
    ];
    let mut speaker = Speaker::default();
    for (step, (node, resource, expected)) in stream.into_iter().enumerate() {
        let bytes = OcTraces { node, spans: vec![plain()], resource }.encode_to_vec();
        let envelope = Envelope::open(&bytes).unwrap();
        let heard = speaker.hears(&envelope, &LIMITS, &mut Tally::default()).unwrap();
        assert_eq!(heard.is_none(), matches!(step, 1 | 4), "step {step}");
        speaker = heard.unwrap_or(speaker);
        let (body, _) = translated(Signal::Traces, &envelope, &speaker, &LIMITS, &mut claim()).unwrap();
        let request = ExportTraceServiceRequest::decode(&*body).unwrap();
        let group = pairs(&request.resource_spans[0].resource.as_ref().unwrap().attributes);
        let told: Vec<String> = group
            .iter()
            .map(|(key, value)| match value {
                Any::StringValue(value) => format!("{key}={value}"),
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(told.join(" "), expected, "step {step}");
    }
}

/// Scenario: spans with a resource of their own between spans without.
/// Guarantees: the node's attributes apply to them, the stream's resource does not, runs of one resource share a
/// group, and the order of spans stays.
#[test]
fn a_span_with_its_own_resource_stands_in_its_own_group() {
    let own = |label: &str| Some(Resource { r#type: String::new(), labels: labels(&[("own", label)]) });
    let span = |id: u8, resource| oc::Span { span_id: vec![id; 8], resource, ..plain() };
    let request = OcTraces {
        node: Some(Node { attributes: labels(&[("n", "1")]), ..Node::default() }),
        spans: vec![span(1, None), span(2, own("x")), span(3, own("x")), span(4, None), span(5, own("y"))],
        resource: Some(Resource { r#type: String::new(), labels: labels(&[("stream", "s")]) }),
    };
    let (groups, tally) = try_traces(&request.encode_to_vec(), &LIMITS).unwrap();
    let told: Vec<_> = groups
        .iter()
        .map(|group| {
            let ids: Vec<u8> = group.scope_spans[0].spans.iter().map(|span| span.span_id[0]).collect();
            (pairs(&group.resource.as_ref().unwrap().attributes), ids)
        })
        .collect();
    let stream = vec![text("n", "1"), text("stream", "s")];
    let own = |label: &str| vec![text("n", "1"), text("own", label)];
    let expected =
        vec![(stream.clone(), vec![1]), (own("x"), vec![2, 3]), (stream, vec![4]), (own("y"), vec![5])];
    assert_eq!(told, expected);
    assert_eq!(tally.items, 5);
}

// === spans ===

/// Scenario: a span with every field.
/// Guarantees: ids, trace state, name, kind, times, attributes of all types, and our three attributes are the table's.
#[test]
fn a_span_has_the_fields_of_the_table() {
    use oc::attribute_value::Value;
    let span = span_of(oc::Span {
        tracestate: Some(oc::span::Tracestate {
            entries: [("a", "1"), ("b", "")]
                .map(|(key, value)| oc::span::tracestate::Entry {
                    key: key.to_owned(),
                    value: value.to_owned(),
                })
                .into(),
        }),
        parent_span_id: vec![3; 8],
        name: Some(words("get")),
        kind: 2,
        start_time: at(1, 5),
        end_time: at(1_700_000_000, 999_999_999),
        attributes: attributes(&[
            ("s", said_text("text")),
            ("i", said_int(-7)),
            ("b", said(Value::BoolValue(false))),
            ("d", said(Value::DoubleValue(0.0))),
            ("u", oc::AttributeValue { value: None }),
            ("span.kind", said_text("consumer")),
        ]),
        status: Some(oc::Status { code: 14, message: "down".to_owned() }),
        same_process_as_parent_span: Some(BoolValue { value: false }),
        child_span_count: Some(UInt32Value { value: 0 }),
        ..plain()
    });
    assert_eq!((span.trace_id, span.span_id, span.parent_span_id), (vec![1; 16], vec![2; 8], vec![3; 8]));
    assert_eq!((span.trace_state.as_str(), span.name.as_str(), span.kind), ("a=1,b=", "get", 3));
    assert_eq!(
        (span.start_time_unix_nano, span.end_time_unix_nano),
        (1_000_000_005, 1_700_000_000_999_999_999)
    );
    assert_eq!(span.status, Some(otlp::Status { message: "down".to_owned(), code: 2 }));
    let expected = [
        ("b".to_owned(), Any::BoolValue(false)),
        ("d".to_owned(), Any::DoubleValue(0.0)),
        int("i", -7),
        int("opencensus.child_span_count", 0),
        ("opencensus.same_process_as_parent_span".to_owned(), Any::BoolValue(false)),
        int("opencensus.status_code", 14),
        text("s", "text"),
        text("span.kind", "consumer"),
        text("u", "<Unknown OpenCensus attribute value type>"),
    ];
    assert_eq!(pairs(&span.attributes), expected);
}

/// Scenario: a span with nothing but its ids.
/// Guarantees: nothing is invented: no name, no kind, no times, no status, no attributes.
#[test]
fn nothing_is_invented_for_what_a_span_leaves_out() {
    let expected = otlp::Span { trace_id: vec![1; 16], span_id: vec![2; 8], ..otlp::Span::default() };
    assert_eq!(span_of(plain()), expected);
}

/// Scenario: ids as libraries send them: zeros for a root (Go), hex text (C++), odd lengths, none.
/// Guarantees: a zero parent is no parent, hex is decoded, short ones are filled, long ones cut; a span without a
/// usable id is left out and counted.
#[test]
fn odd_ids_are_repaired_and_useless_ones_counted() {
    assert_eq!(span_of(oc::Span { parent_span_id: vec![0; 8], ..plain() }).parent_span_id.len(), 0);
    assert_eq!(
        span_of(oc::Span { parent_span_id: b"00f067aa0ba902B7".to_vec(), ..plain() }).parent_span_id.len(),
        8
    );
    let hex = oc::Span {
        trace_id: b"0af7651916cd43dd8448eb211c80319c".to_vec(),
        span_id: b"00f067aa0ba902b7".to_vec(),
        ..plain()
    };
    let span = span_of(hex);
    assert_eq!(span.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(span.span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    let mut short = vec![7; 15];
    assert_eq!(span_of(oc::Span { trace_id: short.clone(), ..plain() }).trace_id[14..], [7, 0]);
    short.extend([8; 5]);
    assert_eq!(span_of(oc::Span { trace_id: short, ..plain() }).trace_id[14..], [7, 8]);
    let useless = [
        oc::Span { trace_id: Vec::new(), ..plain() },
        oc::Span { span_id: Vec::new(), ..plain() },
        oc::Span { trace_id: vec![0; 16], ..plain() },
        oc::Span { span_id: b"0000000000000000".to_vec(), ..plain() },
    ];
    let request = OcTraces { spans: useless.into(), ..OcTraces::default() };
    let (groups, tally) = try_traces(&request.encode_to_vec(), &LIMITS).unwrap();
    assert_eq!((groups, tally.items, tally.invalid, tally.left_out()), (vec![], 0, 4, 4));
}

/// Scenario: every kind of span with every value of the attribute `span.kind`.
/// Guarantees: the attribute speaks only where OpenCensus has no word for it, and then it is no attribute any more.
#[test]
fn a_kind_that_opencensus_cannot_say_comes_from_the_attribute() {
    let cases = [
        (0, "internal", 1, 0),
        (0, "producer", 4, 0),
        (0, "consumer", 5, 0),
        (0, "client", 0, 1),
        (0, "server", 0, 1),
        (1, "consumer", 2, 1),
        (2, "internal", 3, 1),
        (9, "internal", 1, 0),
    ];
    for (kind, attribute, expected, left) in cases {
        let span = span_of(oc::Span {
            kind,
            attributes: attributes(&[("span.kind", said_text(attribute))]),
            ..plain()
        });
        assert_eq!((span.kind, span.attributes.len()), (expected, left), "{kind} {attribute}");
    }
    let span = span_of(oc::Span { attributes: attributes(&[("span.kind", said_int(1))]), ..plain() });
    assert_eq!((span.kind, pairs(&span.attributes)), (0, vec![int("span.kind", 1)]));
}

/// Scenario: statuses with and without a code, a message, and the attribute `otel.status_code`.
/// Guarantees: 0 is UNSET, anything else ERROR with its code kept; the attribute overrides where there is a status.
#[test]
fn a_status_keeps_its_code() {
    let status = |code| Some(oc::Status { code, message: "m".to_owned() });
    let unset = Some(otlp::Status { message: "m".to_owned(), code: 0 });
    let ok = Some(otlp::Status { message: "m".to_owned(), code: 1 });
    let error = Some(otlp::Status { message: "m".to_owned(), code: 2 });
    let of = |code: &str, value: oc::AttributeValue| attributes(&[(code, value)]);
    let code = "opencensus.status_code";
    let otel = "otel.status_code";
    let cases = [
        (status(0), None, unset.clone(), vec![]),
        (status(1), None, error.clone(), vec![int(code, 1)]),
        (status(-1), None, error.clone(), vec![int(code, -1)]),
        (status(0), of(otel, said_int(1)), ok, vec![]),
        (status(2), of(otel, said_int(0)), unset.clone(), vec![int(code, 2)]),
        (status(2), of(otel, said_text("ERROR")), unset, vec![int(code, 2)]),
        (status(2), of(otel, said_int(3)), error.clone(), vec![int(code, 2), int(otel, 3)]),
        (None, of(otel, said_int(1)), None, vec![int(otel, 1)]),
        (status(5), of(code, said_int(9)), error, vec![int(code, 5)]),
        (None, of(code, said_int(9)), None, vec![int(code, 9)]),
        (Some(oc::Status::default()), None, None, vec![]),
    ];
    for (case, (status, attributes, expected, left)) in cases.into_iter().enumerate() {
        let span = span_of(oc::Span { status, attributes, ..plain() });
        assert_eq!((span.status, pairs(&span.attributes)), (expected, left), "case {case}");
    }
}

/// Scenario: annotations with and without a time (Node.js leaves it out), message events of each type, an event of none.
/// Guarantees: names, attributes and times are the table's; dropped counts of both kinds are added up.
#[test]
fn time_events_become_events() {
    use oc::span::time_event::{Annotation, MessageEvent, Value};
    let event = |time, value| oc::span::TimeEvent { time, value };
    let message = |r#type| {
        Some(Value::MessageEvent(MessageEvent {
            r#type,
            id: 7,
            uncompressed_size: 20,
            compressed_size: u64::MAX,
        }))
    };
    let annotation = Annotation {
        description: Some(words("checkpoint")),
        attributes: attributes(&[("step", said_int(1))]),
    };
    let span = span_of(oc::Span {
        time_events: Some(oc::span::TimeEvents {
            time_event: vec![
                event(None, Some(Value::Annotation(annotation))),
                event(at(2, 0), message(1)),
                event(at(3, 0), message(2)),
                event(at(4, 0), message(0)),
                event(at(5, 0), message(7)),
                event(at(6, 0), None),
            ],
            dropped_annotations_count: 3,
            dropped_message_events_count: 4,
        }),
        ..plain()
    });
    assert_eq!(span.dropped_events_count, 7);
    let first = &span.events[0];
    assert_eq!((first.time_unix_nano, first.name.as_str()), (0, "checkpoint"));
    assert_eq!(pairs(&first.attributes), [int("step", 1)]);
    for (event, of_type) in span.events[1..5].iter().zip(["SENT", "RECEIVED", "TYPE_UNSPECIFIED", "7"]) {
        assert_eq!(event.name, "message");
        let expected = [
            text("message.type", of_type),
            int("messaging.message_id", 7),
            int("messaging.message_payload_compressed_size_bytes", -1),
            int("messaging.message_payload_size_bytes", 20),
        ];
        assert_eq!(pairs(&event.attributes), expected);
    }
    assert_eq!(span.events[4].time_unix_nano, 5_000_000_000);
    assert_eq!(span.events[5].name, "An unknown OpenCensus TimeEvent type was detected when translating");
}

/// Scenario: links with ids in bytes and in hex text (C++), with and without the rest, and one without ids.
/// Guarantees: ids are bytes, trace state and attributes are there, and a link that says nothing but attributes stays.
#[test]
fn links_keep_what_they_say() {
    let link = |trace_id: &[u8], span_id: &[u8]| oc::span::Link {
        trace_id: trace_id.to_vec(),
        span_id: span_id.to_vec(),
        r#type: 1,
        ..oc::span::Link::default()
    };
    let span = span_of(oc::Span {
        links: Some(oc::span::Links {
            link: vec![
                link(&[4; 16], &[5; 8]),
                link(b"04040404040404040404040404040404", b"0505050505050505"),
                oc::span::Link {
                    attributes: attributes(&[("k", said_text("v"))]),
                    ..oc::span::Link::default()
                },
            ],
            dropped_links_count: 2,
        }),
        ..plain()
    });
    assert_eq!(span.dropped_links_count, 2);
    assert_eq!((&span.links[0].trace_id, &span.links[0].span_id), (&vec![4; 16], &vec![5; 8]));
    assert_eq!(span.links[0], span.links[1]);
    assert_eq!((span.links[2].trace_id.len(), pairs(&span.links[2].attributes)), (0, vec![text("k", "v")]));
}

/// Scenario: times before 1970, beyond what 64 bits hold, and a zero.
/// Guarantees: what OTLP cannot say is 0, which means unknown; nothing wraps around.
#[test]
fn a_time_that_otlp_cannot_say_is_unknown() {
    let times = [(at(0, 0), 0), (at(-1, 999_999_999), 0), (at(i64::MAX, 0), 0), (at(18_446_744_074, 0), 0)];
    for (start_time, expected) in times {
        assert_eq!(span_of(oc::Span { start_time, ..plain() }).start_time_unix_nano, expected);
    }
    let last = at(18_446_744_073, 709_551_615);
    assert_eq!(span_of(oc::Span { start_time: last, ..plain() }).start_time_unix_nano, u64::MAX);
}

/// Scenario: a span with a stack trace.
/// Guarantees: the span is passed on and the loss is counted.
#[test]
fn a_stack_trace_is_lost_and_counted() {
    let stack_trace = Some(oc::StackTrace { stack_frames: None, stack_trace_hash_id: 1 });
    let request =
        OcTraces { spans: vec![oc::Span { stack_trace, ..plain() }, plain()], ..OcTraces::default() };
    let (_, tally) = try_traces(&request.encode_to_vec(), &LIMITS).unwrap();
    assert_eq!((tally.items, tally.stack_traces_cut), (2, 1));
}

// === limits and broken bytes ===

/// Scenario: more attributes than the limit on a span, an event, a link and a resource.
/// Guarantees: what is over the limit is cut and counted where OTLP counts it; our own attributes have room.
#[test]
fn attributes_over_the_limit_are_cut_and_counted() {
    let limits = Limits { attributes_max: 4, ..LIMITS };
    let five = || {
        attributes(&[
            ("a", said_int(1)),
            ("b", said_int(2)),
            ("c", said_int(3)),
            ("d", said_int(4)),
            ("e", said_int(5)),
        ])
    };
    let annotation = oc::span::time_event::Annotation { description: None, attributes: five() };
    let request = OcTraces {
        node: Some(Node {
            service_info: Some(ServiceInfo { name: "shop".to_owned() }),
            attributes: labels(&[("a", "1"), ("b", "2"), ("c", "3"), ("d", "4"), ("e", "5")]),
            ..Node::default()
        }),
        spans: vec![oc::Span {
            attributes: five(),
            status: Some(oc::Status { code: 3, message: String::new() }),
            child_span_count: Some(UInt32Value { value: 9 }),
            time_events: Some(oc::span::TimeEvents {
                time_event: vec![oc::span::TimeEvent {
                    time: None,
                    value: Some(oc::span::time_event::Value::Annotation(annotation)),
                }],
                ..oc::span::TimeEvents::default()
            }),
            links: Some(oc::span::Links {
                link: vec![oc::span::Link { attributes: five(), ..oc::span::Link::default() }],
                dropped_links_count: 0,
            }),
            ..plain()
        }],
        resource: None,
    };
    let (groups, tally) = try_traces(&request.encode_to_vec(), &limits).unwrap();
    let resource = groups[0].resource.as_ref().unwrap();
    assert_eq!((resource.attributes.len(), resource.dropped_attributes_count), (4, 2));
    let span = &groups[0].scope_spans[0].spans[0];
    assert_eq!((span.attributes.len(), span.dropped_attributes_count), (4, 3));
    assert_eq!((span.events[0].attributes.len(), span.events[0].dropped_attributes_count), (4, 1));
    assert_eq!((span.links[0].attributes.len(), span.links[0].dropped_attributes_count), (4, 1));
    assert_eq!(tally.attributes_cut, 2 + 3 + 1 + 1);
}

/// No translation here takes so long; one whose work is a product of two numbers takes many times as long.
const DEADLINE: Duration = Duration::from_secs(30);

/// A node, or a resource with another field number, of so many entries of two bytes.
fn flood(field: u32, entries: usize) -> Vec<u8> {
    let mut flood = Encoder::new();
    (0..entries).for_each(|_| flood.bytes(field, []));
    flood.into_bytes()
}

/// Scenario: a node of 700,000 empty attributes, then as many spans as a message may have, each with another resource of
/// its own than the one before.
/// Guarantees: the node is read once and not with every span; each group says what was cut, and it is counted once.
#[test]
fn a_large_node_is_read_once_however_often_the_resource_changes() {
    const ENTRIES: u32 = 700_000;
    let limits = Limits { items_max: 65_536, ..LIMITS };
    let mut message = Encoder::new();
    message.bytes(1, flood(4, ENTRIES as usize));
    for index in 0..limits.items_max {
        let resource = Resource { r#type: ["a", "b"][index as usize % 2].to_owned(), labels: labels(&[]) };
        message.bytes(2, oc::Span { resource: Some(resource), ..plain() }.encode_to_vec());
    }
    let started = Instant::now();
    let envelope = Envelope::open(message.as_bytes()).unwrap();
    let mut tally = Tally::default();
    let speaker = Speaker::default().hears(&envelope, &limits, &mut tally).unwrap().unwrap();
    let mut claim = claim();
    let mut translation =
        Translation::begin(Signal::Traces, &envelope, &speaker, &limits, &mut claim).unwrap();
    while translation.step(1024).unwrap() {
        assert!(started.elapsed() < DEADLINE, "the work grows with node times spans");
    }
    let (body, more) = translation.finish().unwrap();
    tally += more;
    let groups = ExportTraceServiceRequest::decode(&*body).expect("OTLP").resource_spans;
    assert_eq!(groups.len(), limits.items_max as usize);
    let resource = groups[1].resource.as_ref().unwrap();
    assert_eq!(pairs(&resource.attributes), [text("", ""), text("opencensus.resourcetype", "b")]);
    // A key that stands twice is one attribute; so many are looked at, and the rest is cut.
    let looked_at = 4 * limits.attributes_max;
    assert_eq!(resource.dropped_attributes_count, ENTRIES - looked_at);
    assert_eq!((tally.items, tally.attributes_cut), (limits.items_max, ENTRIES - looked_at));
}

/// Scenario: a stream says a large node once and a new resource in each of many messages; another says a large resource
/// once and a new node in each.
/// Guarantees: what was said once is read once: a message costs what it says itself.
#[test]
fn what_a_stream_said_once_is_not_read_with_each_message() {
    for (large, fields, small) in [(1, 4, 3), (3, 2, 1)] {
        let mut first = Encoder::new();
        first.bytes(large, flood(fields, 700_000));
        let hear = |speaker: &Speaker, message: &[u8]| {
            let envelope = Envelope::open(message).unwrap();
            speaker.hears(&envelope, &LIMITS, &mut Tally::default()).unwrap().expect("it is new")
        };
        let started = Instant::now();
        let mut speaker = hear(&Speaker::default(), first.as_bytes());
        for round in 0..20_000_u32 {
            let mut message = Encoder::new();
            message.message(small, |says| {
                // A type, or a library of this version.
                if small == 3 {
                    says.string(1, &round.to_string())
                } else {
                    says.message(2, |l| l.string(3, &round.to_string()))
                }
            });
            speaker = hear(&speaker, message.as_bytes());
            assert!(started.elapsed() < DEADLINE, "field {large} is read again with message {round}");
        }
    }
}

/// Scenario: a descriptor with one key of 64 KiB that is no UTF-8, 300,000 series of a label each and no points, and one
/// series with a point.
/// Guarantees: the key is looked at once and copied where there is a point; labels over the limit are counted all the same.
#[test]
fn a_series_without_points_costs_only_its_bytes() {
    let mut message = Encoder::new();
    message.message(2, |metric| {
        metric.message(1, |descriptor| {
            descriptor.varint(4, 1);
            for key in [&[0xff; 64 * 1024][..], b"second"] {
                descriptor.message(5, |label_key| label_key.bytes(1, key));
            }
        });
        for series in 0..300_000 {
            metric.message(2, |out| {
                for _ in 0..1 + usize::from(series == 0) {
                    out.message(2, |value| value.bool(2, true));
                }
            });
        }
        metric.message(2, |series| {
            series.message(2, |value| value.bool(2, true));
            series.message(3, |point| point.int(2, 5));
        });
    });
    let limits = Limits { attributes_max: 1, ..LIMITS };
    let envelope = Envelope::open(message.as_bytes()).unwrap();
    let started = Instant::now();
    let (body, tally) =
        translated(Signal::Metrics, &envelope, &Speaker::default(), &limits, &mut claim()).unwrap();
    assert!(started.elapsed() < DEADLINE, "the work grows with series times the key");
    assert_eq!((tally.items, tally.texts_repaired, tally.attributes_cut), (1, 1, 1));
    let metrics = ExportMetricsServiceRequest::decode(&*body).expect("OTLP").resource_metrics;
    let (_, points) = numbers(metrics[0].scope_metrics[0].metrics[0].data.clone().unwrap());
    assert_eq!((points.len(), points[0].attributes.len()), (1, 1));
}

/// Scenario: texts over the limit that would be cut within a letter, and texts that are not UTF-8.
/// Guarantees: they end between letters within the limit, bad bytes are replaced, and both are counted.
#[test]
fn texts_are_cut_between_letters_and_repaired() {
    let limits = Limits { text_bytes_max: 8, ..LIMITS };
    let name = |raw: &[u8]| {
        let mut message = Encoder::new();
        message.message(2, |span| {
            span.bytes(1, [1; 16]);
            span.bytes(2, [2; 8]);
            span.message(4, |name| name.bytes(1, raw));
        });
        let (groups, tally) = try_traces(message.as_bytes(), &limits).unwrap();
        (groups[0].scope_spans[0].spans[0].name.clone(), tally.texts_cut, tally.texts_repaired)
    };
    assert_eq!(name("12345678".as_bytes()), ("12345678".to_owned(), 0, 0));
    assert_eq!(name("123456789".as_bytes()), ("12345678".to_owned(), 1, 0));
    assert_eq!(name("1234567é".as_bytes()), ("1234567".to_owned(), 1, 0));
    assert_eq!(name("12345𝄞678".as_bytes()), ("12345".to_owned(), 1, 0));
    assert_eq!(name("ééééé𝄞𝄞𝄞".as_bytes()), ("éééé".to_owned(), 1, 0));
    assert_eq!(name(b"a\xffb"), ("a\u{fffd}b".to_owned(), 0, 1));
    assert_eq!(name(b"a\xff\xff\xff\xff"), ("a\u{fffd}\u{fffd}".to_owned(), 1, 1));
    assert_eq!(name(b"1234567\xff89"), ("1234567".to_owned(), 1, 1));
}

/// Scenario: more spans, and more points, than the limit; a message that grows beyond the limit of bytes; no memory.
/// Guarantees: each is refused whole, for its own reason, and what it had claimed comes back.
#[test]
fn a_message_over_a_limit_is_refused_whole() {
    let spans = OcTraces { spans: vec![plain(); 3], ..OcTraces::default() }.encode_to_vec();
    let few = Limits { items_max: 2, ..LIMITS };
    assert!(matches!(try_traces(&spans, &few), Err(TranslateError::TooMany { limit: 2 })));
    let points = metric(1, vec![point(None); 3]);
    assert!(matches!(try_metrics(&points, &few), Err(TranslateError::TooMany { limit: 2 })));
    // Each of many empty points repeats a long label.
    let mut flood = metric(1, vec![point(None); 1000]);
    let descriptor = flood.metrics[0].metric_descriptor.as_mut().unwrap();
    descriptor.label_keys = vec![ocm::LabelKey { key: "k".to_owned(), description: String::new() }];
    let value = ocm::LabelValue { value: "v".repeat(60_000), has_value: true };
    flood.metrics[0].timeseries[0].label_values = vec![value];
    assert!(matches!(try_metrics(&flood, &LIMITS), Err(TranslateError::TooLarge { .. })));
    // Each of many tiny message events becomes a large one.
    let event = oc::span::TimeEvent {
        time: None,
        value: Some(oc::span::time_event::Value::MessageEvent(oc::span::time_event::MessageEvent::default())),
    };
    let time_events =
        Some(oc::span::TimeEvents { time_event: vec![event; 200_000], ..oc::span::TimeEvents::default() });
    let events =
        OcTraces { spans: vec![oc::Span { time_events, ..plain() }], ..OcTraces::default() }.encode_to_vec();
    assert!(matches!(try_traces(&events, &LIMITS), Err(TranslateError::TooLarge { .. })));
    let ledger = Ledger::new(64);
    let mut poor = ledger.claim(10).unwrap();
    let envelope = Envelope::open(&spans).unwrap();
    let refused = translated(Signal::Traces, &envelope, &Speaker::default(), &LIMITS, &mut poor);
    assert!(matches!(refused, Err(TranslateError::Exhausted(_))));
    drop(poor);
    assert_eq!(ledger.used(), 0);
}

/// Scenario: the second of three spans is broken within; a node is broken; a known field has another wire type.
/// Guarantees: the message is refused whole, and the error names the item.
#[test]
fn a_broken_message_is_refused_whole_and_says_where() {
    let mut message = Encoder::new();
    let good = plain().encode_to_vec();
    message.bytes(2, &good);
    message.bytes(2, [0x0a, 9, 1]);
    message.bytes(2, &good);
    let told = try_traces(message.as_bytes(), &LIMITS).unwrap_err().to_string();
    assert_eq!(told, "malformed protobuf in item 1 of the message: a length reaches beyond the message");
    let mut message = Encoder::new();
    message.bytes(1, [0x0a, 9, 1]);
    let told = try_traces(message.as_bytes(), &LIMITS).unwrap_err().to_string();
    assert_eq!(told, "malformed protobuf in the message: a length reaches beyond the message");
    let mut message = Encoder::new();
    message.message(2, |span| span.varint(1, 5));
    let told = try_traces(message.as_bytes(), &LIMITS).unwrap_err().to_string();
    assert_eq!(told, "malformed protobuf in item 0 of the message: a known field has a foreign wire type");
}

/// Scenario: parts of one message stand apart on the wire, as protobuf allows; unknown fields stand between them.
/// Guarantees: they are one message, as every protobuf reader has it.
#[test]
fn parts_of_one_message_are_merged() {
    let mut message = Encoder::new();
    message.message(1, |node| node.message(1, |identifier| identifier.string(1, "h")));
    message.message(2, |span| {
        span.bytes(1, [1; 16]);
        span.varint(99, 1);
        span.message(11, |status| status.string(2, "m"));
        span.bytes(2, [2; 8]);
        span.message(11, |status| status.int(1, 7));
    });
    message.message(1, |node| node.message(1, |identifier| identifier.varint(2, 5)));
    let (groups, _) = try_traces(message.as_bytes(), &LIMITS).unwrap();
    let resource = pairs(&groups[0].resource.as_ref().unwrap().attributes);
    assert_eq!(resource, [text("host.name", "h"), int("process.pid", 5)]);
    let status = groups[0].scope_spans[0].spans[0].status.clone();
    assert_eq!(status, Some(otlp::Status { message: "m".to_owned(), code: 2 }));
}

// === metrics ===

fn point(value: Option<ocm::point::Value>) -> ocm::Point {
    ocm::Point { timestamp: at(10, 0), value }
}

/// A request with one metric of this type, one series, these points.
fn metric(r#type: i32, points: Vec<ocm::Point>) -> OcMetrics {
    let descriptor = ocm::MetricDescriptor {
        name: "n".to_owned(),
        description: "d".to_owned(),
        unit: "u".to_owned(),
        r#type,
        label_keys: Vec::new(),
    };
    let series = ocm::TimeSeries { start_timestamp: at(5, 0), label_values: Vec::new(), points };
    let metric =
        ocm::Metric { metric_descriptor: Some(descriptor), timeseries: vec![series], resource: None };
    OcMetrics { metrics: vec![metric], ..OcMetrics::default() }
}

/// The data of the one metric that a request becomes.
fn data_of(request: &OcMetrics) -> Data {
    let (mut groups, _) = try_metrics(request, &LIMITS).unwrap();
    let metric = groups.remove(0).scope_metrics.remove(0).metrics.remove(0);
    assert_eq!((metric.name.as_str(), metric.description.as_str(), metric.unit.as_str()), ("n", "d", "u"));
    metric.data.expect("data")
}

fn numbers(data: Data) -> (&'static str, Vec<NumberDataPoint>) {
    match data {
        Data::Gauge(gauge) => ("gauge", gauge.data_points),
        Data::Sum(sum) => {
            assert_eq!((sum.aggregation_temporality, sum.is_monotonic), (2, true));
            ("sum", sum.data_points)
        }
        other => panic!("{other:?}"),
    }
}

/// Scenario: the four types of numbers, each with the value that fits, a zero among them.
/// Guarantees: gauges and cumulative monotonic sums, integers as integers, start from the series, time from the point.
#[test]
fn numbers_become_gauges_and_sums() {
    use ocm::point::Value;
    let expected = |value| NumberDataPoint {
        start_time_unix_nano: 5_000_000_000,
        time_unix_nano: 10_000_000_000,
        value: Some(value),
        ..NumberDataPoint::default()
    };
    for (of_type, value, form, number) in [
        (1, Value::Int64Value(0), "gauge", Number::AsInt(0)),
        (2, Value::DoubleValue(0.0), "gauge", Number::AsDouble(0.0)),
        (4, Value::Int64Value(-3), "sum", Number::AsInt(-3)),
        (5, Value::DoubleValue(1.5), "sum", Number::AsDouble(1.5)),
    ] {
        let (told, points) = numbers(data_of(&metric(of_type, vec![point(Some(value))])));
        assert_eq!((told, points), (form, vec![expected(number)]));
    }
}

/// Scenario: points without a value, and with a value of another type than their descriptor's, of every type.
/// Guarantees: an unset point is not zero: it has no value and says so, and is counted.
#[test]
fn a_point_without_a_value_is_not_zero() {
    use ocm::point::Value;
    for (of_type, wrong) in
        [(1, Value::DoubleValue(1.0)), (2, Value::Int64Value(1)), (4, Value::DoubleValue(1.0))]
    {
        let request = metric(of_type, vec![point(None), point(Some(wrong))]);
        let (_, points) = numbers(data_of(&request));
        for point in points {
            assert_eq!((point.value, point.flags, point.time_unix_nano), (None, 1, 10_000_000_000));
        }
        assert_eq!(try_metrics(&request, &LIMITS).unwrap().1.points_unset, 2);
    }
    let Data::Histogram(histogram) = data_of(&metric(6, vec![point(None)])) else { panic!("a histogram") };
    assert_eq!((histogram.data_points[0].flags, histogram.data_points[0].sum), (1, None));
    let Data::Summary(summary) = data_of(&metric(7, vec![point(Some(Value::Int64Value(1)))])) else {
        panic!("a summary")
    };
    assert_eq!((summary.data_points[0].flags, summary.data_points[0].count), (1, 0));
}

/// Scenario: fewer values than keys (Go), more values than keys, a missing value, an empty one.
/// Guarantees: each value goes with the key at its place, a missing one is no label, an empty one is.
#[test]
fn labels_go_by_their_places() {
    let mut request = metric(1, vec![point(Some(ocm::point::Value::Int64Value(1)))]);
    let descriptor = request.metrics[0].metric_descriptor.as_mut().unwrap();
    descriptor.label_keys = ["a", "b", "c", "d"]
        .map(|key| ocm::LabelKey { key: key.to_owned(), description: "x".to_owned() })
        .into();
    let value = |value: &str, has_value| ocm::LabelValue { value: value.to_owned(), has_value };
    let told = |values: Vec<ocm::LabelValue>, limits: &Limits| {
        let mut request = request.clone();
        request.metrics[0].timeseries[0].label_values = values;
        let (groups, tally) = try_metrics(&request, limits).unwrap();
        let (_, points) = numbers(groups[0].scope_metrics[0].metrics[0].data.clone().unwrap());
        (pairs(&points[0].attributes), tally.attributes_cut)
    };
    let fewer = vec![value("1", true), value("2", false), value("", true)];
    assert_eq!(told(fewer, &LIMITS), (vec![text("a", "1"), text("c", "")], 0));
    let more = vec![value("1", true); 6];
    let two = Limits { attributes_max: 2, ..LIMITS };
    assert_eq!(told(more.clone(), &LIMITS).0.len(), 4);
    assert_eq!(told(more, &two), (vec![text("a", "1"), text("b", "1")], 2));
}

fn distribution(bounds: &[f64], counts: &[i64]) -> ocm::DistributionValue {
    use ocm::distribution_value::bucket_options::{Explicit, Type};
    use ocm::distribution_value::{Bucket, BucketOptions};
    ocm::DistributionValue {
        count: 6,
        sum: 9.5,
        sum_of_squared_deviation: 4.0,
        bucket_options: Some(BucketOptions {
            r#type: Some(Type::Explicit(Explicit { bounds: bounds.to_vec() })),
        }),
        buckets: counts.iter().map(|count| Bucket { count: *count, exemplar: None }).collect(),
    }
}

fn histogram_of(value: ocm::DistributionValue) -> (Histogram, Tally) {
    let request = metric(6, vec![point(Some(ocm::point::Value::DistributionValue(value)))]);
    let Data::Histogram(histogram) = data_of(&request) else { panic!("a histogram") };
    (histogram, try_metrics(&request, &LIMITS).unwrap().1)
}

/// Scenario: a distribution whose buckets fit its bounds, and ones whose do not.
/// Guarantees: a cumulative histogram; bounds without their buckets (or the reverse, or not rising) are left out and counted,
/// because OTLP has no such point, and count and sum stay.
#[test]
fn a_distribution_becomes_a_valid_histogram() {
    let (histogram, tally) = histogram_of(distribution(&[1.0, 2.0], &[1, 2, 3]));
    let point = &histogram.data_points[0];
    assert_eq!((histogram.aggregation_temporality, tally.buckets_cut), (2, 0));
    assert_eq!((point.count, point.sum, point.flags), (6, Some(9.5), 0));
    assert_eq!((&point.bucket_counts, &point.explicit_bounds), (&vec![1, 2, 3], &vec![1.0, 2.0]));
    for (bounds, counts) in [
        (&[1.0, 2.0][..], &[][..]),
        (&[1.0], &[1]),
        (&[], &[1, 2]),
        (&[2.0, 2.0], &[1, 2, 3]),
        (&[f64::NAN, 2.0], &[1, 2, 3]),
    ] {
        let (histogram, tally) = histogram_of(distribution(bounds, counts));
        let point = &histogram.data_points[0];
        assert_eq!((point.bucket_counts.len(), point.explicit_bounds.len(), tally.buckets_cut), (0, 0, 1));
        assert_eq!((point.count, point.sum), (6, Some(9.5)));
    }
    let (histogram, tally) = histogram_of(distribution(&[], &[6]));
    assert_eq!((&histogram.data_points[0].bucket_counts, tally.buckets_cut), (&vec![6], 0));
    let (_, tally) = histogram_of(ocm::DistributionValue::default());
    assert_eq!(tally.buckets_cut, 0);
}

/// Scenario: exemplars with ids in hex, with ids that are none, and with other attachments.
/// Guarantees: good ids become the exemplar's, everything else is a filtered attribute.
#[test]
fn exemplars_have_their_ids_lifted() {
    let exemplar = |attachments: &[(&str, &str)]| {
        let mut value = distribution(&[], &[1]);
        value.buckets[0].exemplar = Some(ocm::distribution_value::Exemplar {
            value: 0.5,
            timestamp: at(3, 0),
            attachments: labels(attachments),
        });
        histogram_of(value).0.data_points[0].exemplars[0].clone()
    };
    let good = exemplar(&[
        ("trace_id", "0af7651916cd43dd8448eb211c80319c"),
        ("span_id", "00F067AA0BA902B7"),
        ("k", "v"),
    ]);
    assert_eq!(good.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c_u128.to_be_bytes());
    assert_eq!(good.span_id, 0x00f0_67aa_0ba9_02b7_u64.to_be_bytes());
    assert_eq!(
        (good.time_unix_nano, pairs(&good.filtered_attributes)),
        (3_000_000_000, vec![text("k", "v")])
    );
    let zeros = "0".repeat(32);
    let bad = exemplar(&[("trace_id", zeros.as_str()), ("span_id", "xyz")]);
    assert_eq!((bad.trace_id.len(), bad.span_id.len(), bad.filtered_attributes.len()), (0, 0, 2));
}

/// Scenario: a summary with all it can say, and one without anything.
/// Guarantees: percentiles become quantiles, absent count and sum are 0, and an empty summary is a value all the same.
#[test]
fn a_summary_has_quantiles() {
    use ocm::summary_value::Snapshot;
    use ocm::summary_value::snapshot::ValueAtPercentile;
    let at = |percentile, value| ValueAtPercentile { percentile, value };
    let full = ocm::SummaryValue {
        count: Some(Int64Value { value: 4 }),
        sum: Some(DoubleValue { value: 8.0 }),
        snapshot: Some(Snapshot {
            count: Some(Int64Value { value: 99 }),
            sum: None,
            percentile_values: vec![at(50.0, 1.0), at(99.0, 2.0)],
        }),
    };
    let points = vec![
        point(Some(ocm::point::Value::SummaryValue(full))),
        point(Some(ocm::point::Value::SummaryValue(ocm::SummaryValue::default()))),
    ];
    let Data::Summary(summary) = data_of(&metric(7, points)) else { panic!("a summary") };
    let [full, empty] = &summary.data_points[..] else { panic!("two points") };
    let quantiles: Vec<_> = full.quantile_values.iter().map(|at| (at.quantile, at.value)).collect();
    assert_eq!((full.count, full.sum, quantiles), (4, 8.0, vec![(0.5, 1.0), (0.99, 2.0)]));
    assert_eq!((empty.count, empty.sum, empty.flags, empty.quantile_values.len()), (0, 0.0, 0, 0));
}

/// Scenario: metrics without type, descriptor or form in OTLP, one without points, and one that is good.
/// Guarantees: the good one is passed on alone, the others are counted with their points, and no empty metric is made.
#[test]
fn a_metric_without_a_form_is_left_out_and_counted() {
    let mut request = metric(1, vec![point(None)]);
    for of_type in [0, 3, 8] {
        request.metrics.extend(metric(of_type, vec![point(None); 2]).metrics);
    }
    let mut bare = metric(1, vec![point(None)]).metrics;
    bare[0].metric_descriptor = None;
    request.metrics.extend(bare);
    request.metrics.extend(metric(1, Vec::new()).metrics);
    let (groups, tally) = try_metrics(&request, &LIMITS).unwrap();
    assert_eq!(groups[0].scope_metrics[0].metrics.len(), 1);
    assert_eq!((tally.items, tally.metrics_untranslatable, tally.points_untranslatable), (1, 4, 7));
    let (groups, _) = try_metrics(&metric(0, vec![point(None)]), &LIMITS).unwrap();
    assert_eq!(groups.len(), 0);
}

/// Scenario: metrics with a resource of their own beside ones without (`OCToMetrics_ResourceInMetric`).
/// Guarantees: each stands in the group of its resource, and there is no group without metrics.
#[test]
fn a_metric_with_its_own_resource_stands_in_its_own_group() {
    let mut request = metric(1, vec![point(None)]);
    request.metrics[0].resource = Some(Resource { r#type: "host".to_owned(), labels: labels(&[("l", "1")]) });
    request.node = Some(Node { attributes: labels(&[("n", "1")]), ..Node::default() });
    let (groups, _) = try_metrics(&request, &LIMITS).unwrap();
    assert_eq!(groups.len(), 1);
    let resource = pairs(&groups[0].resource.as_ref().unwrap().attributes);
    assert_eq!(resource, [text("l", "1"), text("n", "1"), text("opencensus.resourcetype", "host")]);
    request.metrics.extend(metric(1, vec![point(None)]).metrics);
    assert_eq!(try_metrics(&request, &LIMITS).unwrap().0.len(), 2);
}
