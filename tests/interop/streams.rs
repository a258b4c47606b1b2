//! What no library does by itself but the protocols allow, spoken by the test: nodes that take turns, configurations, refusals.

use bytes::Bytes;
use expect_test::expect;
use http::{Method, Request};
use http_body_util::Full;
use weir_proto::google::protobuf::Timestamp;
use weir_proto::opencensus::proto::agent::common::v1::{Node, ProcessIdentifier, ServiceInfo};
use weir_proto::opencensus::proto::agent::trace::v1::{CurrentLibraryConfig, ExportTraceServiceRequest};
use weir_proto::opencensus::proto::resource::v1::Resource;
use weir_proto::opencensus::proto::trace::v1::{
    ProbabilitySampler, Span, TraceConfig, TruncatableString, trace_config,
};
use weir_tests::client::{Grpc, HttpClient};
use weir_tests::sender::{OPENCENSUS_CONFIG, OPENCENSUS_METRICS_EXPORT, OPENCENSUS_TRACE_EXPORT};
use weir_tests::{BatchId, Protocol, Sender, Shape, Verdict};

use crate::client::Said;
use crate::outline;
use crate::stage::{DEADLINE, Stage};

fn node(service: &str) -> Option<Node> {
    Some(Node {
        identifier: Some(ProcessIdentifier {
            host_name: format!("host-of-{service}"),
            pid: 7,
            start_timestamp: None,
        }),
        service_info: Some(ServiceInfo { name: service.to_owned() }),
        ..Node::default()
    })
}

fn resource(kind: &str) -> Option<Resource> {
    Some(Resource { r#type: kind.to_owned(), labels: [("team".to_owned(), format!("of-{kind}"))].into() })
}

fn message(node: Option<Node>, resource: Option<Resource>, names: &[&str]) -> ExportTraceServiceRequest {
    ExportTraceServiceRequest { node, resource, spans: names.iter().map(|name| span(name)).collect() }
}

/// A span whose ids follow from its name, in 2023.
fn span(name: &str) -> Span {
    // FNV-1a: names that differ have ids that differ.
    let mix = |id: u64, byte: u8| (id ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    let id = name.bytes().fold(0xcbf2_9ce4_8422_2325, mix).to_be_bytes();
    let at = |nanos| Some(Timestamp { seconds: 1_700_000_000, nanos });
    Span {
        trace_id: [id, id].concat(),
        span_id: id.to_vec(),
        name: Some(TruncatableString { value: name.to_owned(), truncated_byte_count: 0 }),
        start_time: at(1_000),
        end_time: at(2_000),
        ..Span::default()
    }
}

/// Scenario: on one stream two nodes take turns; messages without a node and without a resource come between them.
/// Guarantees: a span belongs to the node that was said last; a resource that was said stays when the node changes.
#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_on_one_stream_keep_their_spans_apart() {
    let stage = Stage::set().await;
    let mut connection = Grpc::connect(stage.weir.address("opencensus")).await.expect("the daemon listens");
    let stream = connection.open(OPENCENSUS_TRACE_EXPORT);
    let messages = [
        message(node("a"), None, &["a1"]),
        message(None, None, &["a2", "a3"]),
        message(node("b"), resource("vm"), &["b1"]),
        message(None, None, &["b2"]),
        message(node("a"), None, &["a4"]),
        message(None, resource("pod"), &["a5"]),
        message(node("b"), None, &[]),
        message(None, None, &["b3"]),
    ];
    for message in messages {
        assert!(stream.send(&message).await, "the stream is open");
    }
    let outcome = stream.finish().await.expect("the stream ends in order");
    assert_eq!((outcome.status.code, outcome.replies.len()), (0, 0), "{:?}", outcome.status);
    let spans = stage.spans(8).await;
    let mut owners: Vec<String> = spans
        .iter()
        .map(|seen| {
            let value = |key: &str| {
                let found = seen.resource.attributes.iter().find(|attribute| attribute.key == key);
                found.map_or("-".to_owned(), |found| outline::value(found.value.as_ref()))
            };
            let keys = ["service.name", "host.name", "opencensus.resourcetype", "team"];
            format!("{}: {}", seen.span.name, keys.map(value).join(" "))
        })
        .collect();
    // Both exporters have lanes: order holds within a node.
    owners.sort();
    expect![[r#"
        a1: "a" "host-of-a" - -
        a2: "a" "host-of-a" - -
        a3: "a" "host-of-a" - -
        a4: "a" "host-of-a" "vm" "of-vm"
        a5: "a" "host-of-a" "pod" "of-pod"
        b1: "b" "host-of-b" "vm" "of-vm"
        b2: "b" "host-of-b" "vm" "of-vm"
        b3: "b" "host-of-b" "pod" "of-pod""#]]
    .assert_eq(&owners.join("\n"));
    let page = stage.weir.metrics().await;
    assert_eq!(page.value("weir_nodes", &[]), Some(2.0));
    assert_eq!(page.value("weir_node_items_total", &[("service", "a")]), Some(5.0));
    assert_eq!(page.value("weir_node_items_total", &[("service", "b")]), Some(3.0));
    stage.strike().await;
}

/// Scenario: a library opens a configuration stream, says its configuration, stays, and closes its half.
/// Guarantees: the stream is the node's while it lasts, nothing is pushed, and it ends with OK at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_stream_is_taken_and_ends_with_ok() {
    let stage = Stage::set().await;
    let mut connection = Grpc::connect(stage.weir.address("opencensus")).await.expect("the daemon listens");
    let stream = connection.open(OPENCENSUS_CONFIG);
    let sampler =
        trace_config::Sampler::ProbabilitySampler(ProbabilitySampler { sampling_probability: 0.25 });
    let config =
        TraceConfig { sampler: Some(sampler), max_number_of_attributes: 32, ..TraceConfig::default() };
    let first = CurrentLibraryConfig { node: node("configured"), config: Some(config) };
    assert!(stream.send(&first).await, "the stream is open");
    let of_node = [("service", "configured")];
    stage.weir.metric_becomes(DEADLINE, "weir_node_streams", &of_node, 1.0).await;
    let outcome = stream.finish().await.expect("the stream ends in order");
    assert_eq!((outcome.status.code, outcome.replies.len()), (0, 0), "{:?}", outcome.status);
    stage.weir.metric_becomes(DEADLINE, "weir_node_streams", &of_node, 0.0).await;
    stage.strike().await;
}

/// Scenario: streams of spans and of metrics whose first message has no node; then one with an empty node.
/// Guarantees: the first two end as the reference server ends them and are counted; an empty node is a node.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_without_a_node_is_refused_and_counted() {
    let stage = Stage::set().await;
    stage.weir.log().announce("message of a stream refused");
    let address = stage.weir.address("opencensus");
    let mut connection = Grpc::connect(address).await.expect("the daemon listens");
    for path in [OPENCENSUS_TRACE_EXPORT, OPENCENSUS_METRICS_EXPORT] {
        let mut stream = connection.open(path);
        assert!(stream.send(&message(None, None, &[])).await, "the stream is open");
        let status = stream.ended().await.expect("the daemon ends it").status;
        assert_eq!(status.code, 2, "{path}");
        assert_eq!(status.message, "protocol violation: Export's first message must have a Node");
    }
    let mut stream = connection.open(OPENCENSUS_TRACE_EXPORT);
    stream.send(&message(None, None, &["x", "y"])).await;
    assert_eq!(stream.ended().await.expect("the daemon ends it").status.code, 2);
    let labels = [("receiver", "opencensus"), ("reason", "no_node")];
    stage.weir.metric_becomes(DEADLINE, "otelcol_receiver_refused_spans_total", &labels, 2.0).await;

    let stream = connection.open(OPENCENSUS_TRACE_EXPORT);
    assert!(stream.send(&message(Some(Node::default()), None, &["kept"])).await, "the stream is open");
    assert_eq!(stream.finish().await.expect("the stream ends in order").status.code, 0);
    let spans = stage.spans(1).await;
    expect![[r#"
        resource
          deployment.environment = "interop"
          os.type = "linux"
          service.name = "nobody"
        span "kept" UNSPECIFIED
          trace 583876d75cd7d1d9583876d75cd7d1d9 span 583876d75cd7d1d9
          times 1700000000000001000 1700000000000002000, said None
    "#]]
    .assert_eq(&outline::spans(&spans, &Said::default()));
    stage.strike().await;
}

/// Scenario: a message with a span of no id between two others, and a request that is no protobuf.
/// Guarantees: the others arrive and the one is counted as dropped; the broken request is refused for good and counted.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_out_is_counted_with_its_reason() {
    let stage = Stage::set().await;
    let mut connection = Grpc::connect(stage.weir.address("opencensus")).await.expect("the daemon listens");
    let stream = connection.open(OPENCENSUS_TRACE_EXPORT);
    let mut mixed = message(node("mixed"), None, &["first", "broken", "last"]);
    mixed.spans[1].span_id.clear();
    assert!(stream.send(&mixed).await, "the stream is open");
    assert_eq!(stream.finish().await.expect("the stream ends in order").status.code, 0);
    let spans = stage.spans(2).await;
    let mut names: Vec<_> = spans.iter().map(|seen| seen.span.name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["first", "last"]);
    let labels = [("receiver", "opencensus"), ("reason", "invalid_item")];
    stage.weir.metric_becomes(DEADLINE, "weir_receiver_dropped_spans_total", &labels, 1.0).await;

    let mut sender = Sender::new(Protocol::OtlpGrpc, stage.weir.address("otlp-grpc"));
    let verdict = sender.send_encoded(Bytes::from_static(b"\x0a\xff")).await;
    assert!(matches!(&verdict, Verdict::Never(why) if why.starts_with("3: ")), "{verdict:?}");
    let refused = [("receiver", "otlp")];
    stage.weir.metric_becomes(DEADLINE, "weir_receiver_requests_refused_total", &refused, 1.0).await;
    stage.strike().await;
}

/// Scenario: a page of another origin asks; a body of two objects; a body with a wrong field.
/// Guarantees: the page is not allowed; nothing of either body is taken, and the sender is told where it is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_not_one_object_is_refused_whole() {
    let stage = Stage::set().await;
    let (address, http) = (stage.weir.address("opencensus"), HttpClient::default());
    for (origin, allowed) in
        [("https://page.example", Some("https://page.example")), ("https://elsewhere.test", None)]
    {
        let asked = Request::builder()
            .method(Method::OPTIONS)
            .uri(format!("http://{address}/v1/trace"))
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type")
            .body(Full::default())
            .expect("a request of ours");
        let answer = http.send(asked).await.expect("the daemon answers");
        assert!(answer.status().is_success(), "{}", answer.status());
        let header = answer.headers().get("access-control-allow-origin");
        assert_eq!(header.map(|value| value.to_str().expect("ASCII")), allowed);
    }
    let one = r#"{"node":{"serviceInfo":{"name":"json"}},"spans":[{"traceId":"EREREREREREREREREREREQ==","spanId":"ERERERERERE=","name":{"value":"n"}}]}"#;
    let answer = http.post(address, "/v1/trace", "application/json", one).await.expect("the daemon answers");
    assert_eq!((answer.status().as_u16(), answer.body().is_empty()), (200, true), "{answer:?}");
    for broken in [
        format!("{one}{one}"),
        format!("{one}x"),
        one.replace("\"n\"", "{"),
        one.replace("EREREREREREREREREREREQ==", "!"),
    ] {
        let answer = http
            .post(address, "/v1/trace", "application/json", broken.clone())
            .await
            .expect("the daemon answers");
        assert_eq!(answer.status().as_u16(), 400, "{broken}: {answer:?}");
    }
    let without = r#"{"spans":[]}"#;
    let answer =
        http.post(address, "/v1/trace", "application/json", without).await.expect("the daemon answers");
    assert!(!answer.status().is_success(), "{answer:?}");
    let text = String::from_utf8_lossy(answer.body()).into_owned();
    assert!(text.contains("protocol violation: Export's first message must have a Node"), "{text}");
    let spans = stage.spans(1).await;
    assert_eq!(spans[0].span.start_time_unix_nano, 0);
    stage.strike().await;
}

/// Scenario: one batch of the harness by each of its four senders.
/// Guarantees: each span arrives as it was sent, which is what every test that counts promises rests on.
#[tokio::test(flavor = "multi_thread")]
async fn every_sender_of_the_harness_is_understood() {
    let stage = Stage::set().await;
    let shape = Shape { spans: 5, attributes: 4, value_bytes: 12 };
    let ledger = weir_tests::Ledger::default();
    for (sender, protocol) in (1..).zip(Protocol::ALL) {
        let name = match protocol {
            Protocol::OtlpGrpc => "otlp-grpc",
            Protocol::OtlpHttp => "otlp-http",
            Protocol::OpenCensus => "opencensus",
            Protocol::Zipkin => "zipkin",
        };
        let id = BatchId { sender, number: 3 };
        assert_eq!(
            Sender::new(protocol, stage.weir.address(name)).send(id, shape).await,
            Verdict::Taken,
            "{protocol:?}"
        );
        ledger.acknowledge(id, shape);
    }
    stage.spans(20).await;
    let mut harvest = weir_tests::Harvest::default();
    for body in stage.otlp.taken(weir_wire::Signal::Traces) {
        harvest.add(&body);
    }
    harvest.assert_keeps(&ledger);
    assert_eq!((harvest.spans(), harvest.repeated()), (20, 0));
    stage.strike().await;
}
