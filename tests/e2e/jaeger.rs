//! Jaeger's clients at a plugin's five doors, and Jaeger as a backend.
//!
//! What real clients have sent lies in `tests/cases/jaeger`, beside the OTLP that each is (its `README.md` says how that was
//! written).

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use http::StatusCode;
use prost::Message;
use tokio::net::UdpSocket;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_tests::client::{Grpc, HttpClient};
use weir_tests::scrape::Page;
use weir_tests::wait::until;
use weir_tests::{BatchId, OtlpSink, Protocol, RequestSink, Sender, Shape, Verdict, Weir, wait_until};
use weir_wire::{Encoder, Signal};

use crate::reload::becomes;
use crate::run::{DELIVERY_DEADLINE, random};

mod text;

/// Every door of the receiver, and strategies to ask for.
const CONFIG: &str = "receivers:
  jaeger:
    protocols:
      thrift_compact: {endpoint: <compact>}
      thrift_binary: {endpoint: <binary>}
      thrift_http: {endpoint: <http>}
      grpc: {endpoint: <grpc>}
      sampling: {endpoint: <sampling>}
    strategies:
      default_strategy: {type: probabilistic, param: 0.25}
      service_strategies: [{service: shop, type: ratelimiting, param: 7}]
  otlp: {protocols: {grpc: {endpoint: <otlp>}}}
processors:
exporters:
  otlp: {endpoint: 'http://<sink>', retry: {initial_interval: 10ms, max_interval: 100ms}}
service:
  pipelines:
    traces: {receivers: [jaeger, otlp], processors: [], exporters: [otlp]}
";

const COMPACT: &str = "jaeger_client_python_4.8.0_udp6831_compact.bin";
const BINARY: &str = "jaeger_client_node_3.19.0_udp6832_binary.bin";
const HTTP: &str = "jaeger_client_node_3.19.0_http14268_binary.bin";

const SHAPE: Shape = Shape { spans: 5, attributes: 2, value_bytes: 10 };

fn case(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("cases/jaeger").join(name)
}

/// What a client has sent.
fn sent(name: &str) -> Vec<u8> {
    std::fs::read(case(name)).expect("the case is part of the repository")
}

/// The OTLP that it is.
fn expected(name: &str) -> String {
    std::fs::read_to_string(case(&format!("{name}.otlp.txt"))).expect("the case is part of the repository")
}

async fn send_datagram(to: SocketAddr, datagram: &[u8]) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    socket.send_to(datagram, to).await.expect("this machine takes datagrams");
}

/// Waits for one more request of spans at the backend, as text; the backend forgets it.
async fn next(sink: &OtlpSink) -> String {
    let arrival = wait_until(DELIVERY_DEADLINE, "spans at the backend", || sink.drain().pop()).await;
    assert_eq!(arrival.signal, Signal::Traces);
    text::of(&ExportTraceServiceRequest::decode(arrival.body).expect("a request of spans"))
}

#[track_caller]
fn same(found: &str, expected: &str) {
    assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
}

/// `jaeger.api_v2.PostSpansRequest` with one span (model.proto, collector.proto).
fn post_spans() -> Vec<u8> {
    let mut request = Encoder::with_capacity(256);
    request.message(1, |batch| {
        batch.message(1, |span| {
            span.bytes(1, [7; 16]);
            span.bytes(2, [0, 0, 0, 0, 0, 0, 0, 9]);
            span.string(3, "get /items");
            span.message(4, |reference| {
                reference.bytes(1, [7; 16]);
                reference.bytes(2, [0, 0, 0, 0, 0, 0, 0, 8]);
            });
            span.varint(5, 1);
            span.message(6, |time| {
                time.varint(1, 1_700_000_000);
                time.varint(2, 5);
            });
            span.message(7, |time| time.varint(2, 1_500));
            span.message(8, |tag| {
                tag.string(1, "span.kind");
                tag.string(3, "server");
            });
            span.message(8, |tag| {
                tag.string(1, "n");
                tag.varint(2, 2);
                tag.varint(5, 42);
            });
        });
        batch.message(2, |process| process.string(1, "shop"));
    });
    request.into_bytes()
}

/// What that is.
const POSTED: &str = r#"resource
  service.name = "shop"
  scope
    span 07070707070707070707070707070707 0000000000000009
      parent 0000000000000008
      name "get /items"
      kind SERVER
      start 1700000000000000005
      end 1700000000000001505
      flags 1
      n = 42
"#;

/// Scenario: what real clients sent over UDP in both protocols and over HTTP, and a call of PostSpans.
/// Guarantees: each is answered as Jaeger does, where there is an answer, and arrives at the backend field by field.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_arrive_from_every_door_field_by_field() {
    let sink = OtlpSink::start().await;
    let weir = Weir::start(CONFIG, &[("sink", sink.address())]).await;
    for (door, name) in [("compact", COMPACT), ("binary", BINARY)] {
        send_datagram(weir.address(door), &sent(name)).await;
        same(&next(&sink).await, &expected(name));
    }
    let http = HttpClient::default();
    let traces = "/api/traces?format=jaeger.thrift";
    let answer = http.post(weir.address("http"), traces, "application/x-thrift", sent(HTTP)).await;
    assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
    same(&next(&sink).await, &expected(HTTP));
    let mut grpc = Grpc::connect(weir.address("grpc")).await.expect("the door is open");
    let answer = grpc.call("/jaeger.api_v2.CollectorService/PostSpans", &post_spans()).await.expect("an end");
    assert_eq!((answer.status.code, answer.replies), (0, vec![Bytes::new()]), "{:?}", answer.status);
    same(&next(&sink).await, POSTED);
    for (method, message, code) in [("PostSpans", &b"\xff"[..], 3), ("GetSpans", b"", 12)] {
        let path = format!("/jaeger.api_v2.CollectorService/{method}");
        assert_eq!(grpc.call(&path, message).await.expect("an end").status.code, code, "{method}");
    }
    let accepted = [("receiver", "jaeger")];
    weir.metric_becomes(DELIVERY_DEADLINE, "otelcol_receiver_accepted_spans_total", &accepted, 8.0).await;
    weir.stop().await;
}

/// Scenario: clients ask for strategies over HTTP at the collector's door and at the agent's, and over gRPC.
/// Guarantees: each service gets its strategy, in the form of the door; who names no service is told so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampling_strategies_are_answered_at_both_doors() {
    let sink = OtlpSink::start().await;
    let weir = Weir::start(CONFIG, &[("sink", sink.address())]).await;
    let http = HttpClient::default();
    for (door, path) in [("http", "/api/sampling"), ("sampling", "/"), ("sampling", "/sampling")] {
        let ask = async |query: &str| {
            let answer = http.get(weir.address(door), &format!("{path}{query}")).await.expect("an answer");
            (answer.status().as_u16(), String::from_utf8_lossy(answer.body()).into_owned())
        };
        let (code, other) = ask("?service=other").await;
        let other: serde_json::Value = serde_json::from_str(&other).expect("JSON");
        assert_eq!((code, &other["strategyType"]), (200, &"PROBABILISTIC".into()), "{other}");
        assert_eq!(other["probabilisticSampling"]["samplingRate"], 0.25, "{other}");
        let (_, shop) = ask("?service=shop").await;
        let shop: serde_json::Value = serde_json::from_str(&shop).expect("JSON");
        assert_eq!(shop["rateLimitingSampling"]["maxTracesPerSecond"], 7, "{shop}");
        assert_eq!(ask("").await.0, 400);
    }
    let mut grpc = Grpc::connect(weir.address("grpc")).await.expect("the door is open");
    let mut parameters = Encoder::with_capacity(16);
    parameters.string(1, "shop");
    let strategy = "/jaeger.api_v2.SamplingManager/GetSamplingStrategy";
    let answer = grpc.call(strategy, &parameters.into_bytes()).await.expect("an end");
    // strategyType RATE_LIMITING = 1, rateLimitingSampling { maxTracesPerSecond: 7 }
    assert_eq!(
        (answer.status.code, answer.replies),
        (0, vec![Bytes::from_static(b"\x08\x01\x1a\x02\x08\x07")])
    );
    assert!(sink.arrivals().is_empty());
    weir.stop().await;
}

/// What the daemon counts of the receiver's datagrams: that came, and that are gone.
fn datagrams(page: &Page) -> (f64, f64) {
    let of = |name: &str| page.value(name, &[("receiver", "jaeger")]).unwrap_or_default();
    (of("weir_receiver_requests_total"), of("weir_receiver_datagrams_dropped_total"))
}

/// Something that is no batch: random bytes, or the first part of one.
fn hostile(random: &mut fastrand::Rng, whole: &[u8]) -> Vec<u8> {
    if random.bool() {
        return whole[..random.usize(..whole.len())].to_vec();
    }
    let length = random.usize(..2_000);
    std::iter::repeat_with(|| random.u8(..)).take(length).collect()
}

/// Scenario: thousands of datagrams that are none, at both doors, while another receiver's sender goes on.
/// Guarantees: each that came is counted with a reason, no instance ends, no sender notices, the daemon's memory is given back,
/// and the next good datagram arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_hostile_datagrams_is_counted_and_harms_nobody() {
    const SENT: usize = 4_000;
    let mut random = random("hostile datagrams");
    let sink = OtlpSink::start().await;
    let weir = Weir::start(CONFIG, &[("sink", sink.address())]).await;
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a free port");
    let doors = [(weir.address("compact"), sent(COMPACT)), (weir.address("binary"), sent(BINARY))];
    let mut innocent = Sender::new(Protocol::OtlpGrpc, weir.address("otlp"));
    for number in 0..SENT {
        let (door, whole) = &doors[random.usize(..doors.len())];
        socket.send_to(&hostile(&mut random, whole), door).await.expect("this machine takes datagrams");
        if number % 200 == 0 {
            let id = BatchId { sender: 1, number: number as u64 };
            assert_eq!(innocent.send(id, SHAPE).await, Verdict::Taken);
        }
    }
    let settled = until(DELIVERY_DEADLINE, async || {
        let (came, gone) = datagrams(&weir.metrics().await);
        (came > 100.0 && came == gone).then_some(came)
    });
    let came = settled.await.unwrap_or_else(|| panic!("not each is counted:\n{}", weir.log().tail()));
    eprintln!("{came} of {SENT} datagrams came");
    let page = weir.metrics().await;
    assert_eq!(page.value("weir_plugin_ends_total", &[("id", "jaeger")]).unwrap_or_default(), 0.0);
    assert_eq!(page.value("weir_plugin_quarantines_total", &[("id", "jaeger")]), Some(0.0));
    wait_until(DELIVERY_DEADLINE, "the innocent sender's spans", || {
        (sink.spans().len() == SENT / 200 * SHAPE.spans as usize).then_some(())
    })
    .await;
    sink.drain();
    send_datagram(weir.address("compact"), &sent(COMPACT)).await;
    same(&next(&sink).await, &expected(COMPACT));
    assert_eq!(weir.health().await.0, 200);
    weir.stop().await;
}

/// Scenario: the configuration gives a door of datagrams another port, then changes a limit of the receiver and no port, then has
/// the door no more.
/// Guarantees: spans arrive after each change, at the new port and at the same one; a port that is let go is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_door_of_datagrams_moves_while_the_daemon_runs() {
    let sink = OtlpSink::start().await;
    let mut weir = Weir::start(CONFIG, &[("sink", sink.address())]).await;
    let old = weir.address("compact");
    send_datagram(old, &sent(COMPACT)).await;
    same(&next(&sink).await, &expected(COMPACT));

    let moved = CONFIG.replace("<compact>", "<moved>");
    becomes(&mut weir, &moved, true).await;
    send_datagram(weir.address("moved"), &sent(COMPACT)).await;
    same(&next(&sink).await, &expected(COMPACT));
    let free = until(DELIVERY_DEADLINE, async || UdpSocket::bind(old).await.ok()).await;
    assert!(free.is_some(), "the old port is kept");

    let limited = moved.replace(
        "    protocols:\n      thrift",
        "    limits: {items_max: 1000}\n    protocols:\n      thrift",
    );
    assert_ne!(limited, moved);
    becomes(&mut weir, &limited, true).await;
    send_datagram(weir.address("moved"), &sent(COMPACT)).await;
    same(&next(&sink).await, &expected(COMPACT));

    let without = limited.replace("      thrift_compact: {endpoint: <moved>}\n", "");
    becomes(&mut weir, &without, true).await;
    let moved = weir.address("moved");
    let free = until(DELIVERY_DEADLINE, async || UdpSocket::bind(moved).await.ok()).await;
    assert!(free.is_some(), "a door that is not wanted is kept");
    send_datagram(weir.address("binary"), &sent(BINARY)).await;
    same(&next(&sink).await, &expected(BINARY));
    weir.stop().await;
}

/// Two exporters for Jaeger beside each other.
const EXPORTING: &str = "receivers:
  jaeger: {protocols: {thrift_http: {endpoint: <http>}}}
  jaeger/back: {protocols: {thrift_http: {endpoint: <back>}}}
exporters:
  jaeger: {endpoint: 'http://<new>', retry: {initial_interval: 10ms, max_interval: 100ms}}
  jaeger/old:
    endpoint: http://<old>
    protocol: thrift_http
    headers: {x-tenant: blue}
    retry: {initial_interval: 10ms, max_interval: 100ms}
  otlp_http: {endpoint: 'http://<back-sink>'}
service:
  pipelines:
    traces: {receivers: [jaeger], exporters: [jaeger, jaeger/old]}
    traces/back: {receivers: [jaeger/back], exporters: [otlp_http]}
";

/// Scenario: spans go to a new Jaeger over OTLP and to an old one in thrift, which first answers 503; what the old one got is
/// sent to a door of ours, whose spans leave by the exporter that is called `otlp_http`.
/// Guarantees: both get the spans field by field, the old one at its path and with its headers, and once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jaeger_as_a_backend_gets_what_its_clients_sent() {
    let (new, back) = (OtlpSink::start().await, OtlpSink::start().await);
    let old = RequestSink::start([StatusCode::SERVICE_UNAVAILABLE]).await;
    let known = [("new", new.address()), ("old", old.address()), ("back-sink", back.address())];
    let weir = Weir::start(EXPORTING, &known).await;
    weir.log().announce("backend refuses for now, will try again");
    let http = HttpClient::default();
    let answer = http.post(weir.address("http"), "/api/traces", "application/x-thrift", sent(HTTP)).await;
    assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
    same(&next(&new).await, &expected(HTTP));
    let sent_on = [("exporter", "jaeger/old")];
    weir.metric_becomes(DELIVERY_DEADLINE, "otelcol_exporter_sent_spans_total", &sent_on, 2.0).await;
    let arrivals = old.arrivals();
    assert_eq!(arrivals.len(), 2, "refused once, taken once");
    for arrival in &arrivals {
        assert_eq!((arrival.method.as_str(), arrival.path.as_str()), ("POST", "/api/traces"));
        assert_eq!(arrival.headers["content-type"], "application/x-thrift");
        assert_eq!(arrival.headers["x-tenant"], "blue");
        assert_eq!(arrival.body, arrivals[0].body);
    }
    let body = arrivals[0].body.clone();
    let answer = http.post(weir.address("back"), "/api/traces", "application/x-thrift", body).await;
    assert_eq!(answer.expect("an answer").status(), StatusCode::ACCEPTED);
    same(&next(&back).await, &expected(HTTP));
    weir.stop().await;
}
