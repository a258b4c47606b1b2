//! Servers that are too heavy for the gate, as their users have them, behind the release binary: do they show our traces by their
//! own query API? `cargo test -p weir-tests --test servers`
//!
//! ```text
//! OTLP ──▶ weir ──▶ zipkin ──────────────▶ io.zipkin:zipkin-server, /api/v2/trace
//!            └────▶ jaeger, either mode ─▶ Jaeger's all-in-one, /api/traces
//! ```
//!
//! The first needs a JVM and Maven, the second Go and some minutes for its build; both are installed by name into
//! `target/interop`.

mod install;
#[path = "../interop/once.rs"]
mod once;
mod server;

use serde_json::{Value, json};
use tokio::process::Command;
use weir_tests::client::HttpClient;
use weir_tests::port::free_address;
use weir_tests::{Profile, Weir};

use crate::install::{maven, program};
use crate::server::Server;

const TRACE: &str = "5b8efff798038103d269b633813fc60c";
const PARENT: &str = "eee19b7ec3c1b174";
const CHILD: &str = "eee19b7ec3c1b173";

/// When the parent starts: now, since servers forget what is old.
fn now_micros() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH);
    u64::try_from(since.expect("a clock after 1970").as_micros()).expect("fits for long") - 5_000_000
}

/// Two spans of one service: a server's with an event, which calls a database and fails.
fn spans(start: u64) -> Value {
    let at = |micros: u64| (start + micros).to_string() + "000";
    json!({"resourceSpans": [{
        "resource": {"attributes": [{"key": "service.name", "value": {"stringValue": "shop"}}]},
        "scopeSpans": [{"scope": {"name": "shop.pay", "version": "1.2.3"}, "spans": [
            {"traceId": TRACE, "spanId": PARENT, "name": "get /basket", "kind": 2,
             "startTimeUnixNano": at(0), "endTimeUnixNano": at(250_000),
             "attributes": [{"key": "http.status_code", "value": {"intValue": "503"}},
                            {"key": "größe", "value": {"doubleValue": 0.25}}],
             "events": [{"timeUnixNano": at(1_000), "name": "checkpoint"}]},
            {"traceId": TRACE, "spanId": CHILD, "parentSpanId": PARENT, "name": "select", "kind": 3,
             "startTimeUnixNano": at(2_000), "endTimeUnixNano": at(42_000),
             "attributes": [{"key": "peer.service", "value": {"stringValue": "db"}}],
             "status": {"code": 2, "message": "no such row"}},
        ]}],
    }]})
}

/// Sends the two spans and returns when the first of them starts.
async fn send(weir: &Weir) -> u64 {
    let start = now_micros();
    let body = serde_json::to_vec(&spans(start)).expect("JSON");
    let sent = HttpClient::default().post(weir.address("otlp"), "/v1/traces", "application/json", body).await;
    let answer = sent.expect("it answers");
    assert_eq!(answer.status(), 200, "{answer:?}");
    start
}

fn config(exporter: &str) -> String {
    format!(
        "
receivers:
  otlp: {{protocols: {{http: {{endpoint: <otlp>}}}}}}
exporters:
  {exporter}
service:
  pipelines:
    traces: {{receivers: [otlp], exporters: [{}]}}
",
        exporter.split(':').next().expect("an id")
    )
}

fn by_id<'a>(spans: &'a [Value], key: &str, id: &str) -> &'a Value {
    spans.iter().find(|span| span[key] == id).unwrap_or_else(|| panic!("no span {id} in {spans:?}"))
}

/// Scenario: a trace of two spans goes through the Zipkin exporter to a Zipkin server, which is asked for it.
/// Guarantees: names, kinds, times, parents, tags, annotation, error and service are there.
#[tokio::test(flavor = "multi_thread")]
async fn a_zipkin_server_shows_our_traces() {
    let jar = maven("io.zipkin:zipkin-server:3.6.1:jar:exec");
    let address = free_address();
    let mut command = Command::new("java");
    command.args(["-Xmx512m", "-jar"]).arg(jar).env("QUERY_PORT", address.port().to_string());
    let server = Server::start(command, address, "/health").await;
    let weir = Weir::start_as(
        Profile::Release,
        &config("zipkin: {endpoint: http://<server>/api/v2/spans}"),
        &[("server", address)],
    )
    .await;
    let start = send(&weir).await;
    let is_whole = |seen: &Value| seen.as_array().is_some_and(|all| all.len() == 2);
    let seen = server.json(&format!("/api/v2/trace/{TRACE}"), is_whole).await;
    let all = seen.as_array().expect("spans");
    let (parent, child) = (by_id(all, "id", PARENT), by_id(all, "id", CHILD));
    for (span, name, kind, from, took) in
        [(parent, "get /basket", "SERVER", 0, 250_000), (child, "select", "CLIENT", 2_000, 40_000)]
    {
        assert_eq!(
            (&span["traceId"], &span["name"], &span["kind"]),
            (&json!(TRACE), &json!(name), &json!(kind))
        );
        assert_eq!((&span["timestamp"], &span["duration"]), (&json!(start + from), &json!(took)), "{span}");
        assert_eq!(span["localEndpoint"]["serviceName"], "shop", "{span}");
    }
    assert_eq!(parent.get("parentId"), None);
    assert_eq!(child["parentId"], PARENT);
    assert_eq!(parent["tags"]["http.status_code"], "503");
    assert_eq!(parent["tags"]["größe"], "0.25");
    assert_eq!(parent["annotations"][0], json!({"timestamp": start + 1_000, "value": "checkpoint"}));
    assert_eq!(child["tags"]["error"], "no such row");
    assert_eq!(child["remoteEndpoint"]["serviceName"], "db");
    assert_eq!(server.json("/api/v2/services", |seen| seen == &json!(["shop"])).await, json!(["shop"]));
    weir.stop().await;
}

/// Jaeger with each of its many addresses on a free port of its own.
async fn jaeger() -> (Server, Vec<(&'static str, std::net::SocketAddr)>) {
    let all_in_one = program("github.com/jaegertracing/jaeger/cmd/all-in-one@v1.48.0");
    let mut command = Command::new(all_in_one);
    let wanted = [
        ("query", "query.http-server.host-port"),
        ("otlp-http", "collector.otlp.http.host-port"),
        ("thrift", "collector.http-server.host-port"),
        ("", "query.grpc-server.host-port"),
        ("", "collector.otlp.grpc.host-port"),
        ("", "collector.grpc-server.host-port"),
        ("", "admin.http.host-port"),
        ("", "http-server.host-port"),
        ("", "processor.jaeger-compact.server-host-port"),
        ("", "processor.jaeger-binary.server-host-port"),
        ("", "processor.zipkin-compact.server-host-port"),
    ];
    let mut known = Vec::new();
    for (name, flag) in wanted {
        let address = free_address();
        command.arg(format!("--{flag}={address}"));
        known.push((name, address));
    }
    command.arg("--collector.otlp.enabled=true");
    (Server::start(command, known[0].1, "/").await, known)
}

/// Scenario: a trace of two spans goes through the Jaeger exporter to a Jaeger, as OTLP and as thrift; Jaeger is asked for it.
/// Guarantees: operation names, times, references, tags with their types, log, error and process are there, the same in both modes.
#[tokio::test(flavor = "multi_thread")]
async fn a_jaeger_shows_our_traces() {
    for exporter in [
        "jaeger: {endpoint: http://<otlp-http>/v1/traces}",
        "jaeger: {protocol: thrift_http, endpoint: http://<thrift>/api/traces}",
    ] {
        let (server, known) = jaeger().await;
        let weir = Weir::start_as(Profile::Release, &config(exporter), &known[1..3]).await;
        let start = send(&weir).await;
        let is_whole = |seen: &Value| seen["data"][0]["spans"].as_array().is_some_and(|all| all.len() == 2);
        let seen = server.json(&format!("/api/traces/{TRACE}"), is_whole).await;
        let trace = &seen["data"][0];
        let all = trace["spans"].as_array().expect("spans");
        let (parent, child) = (by_id(all, "spanID", PARENT), by_id(all, "spanID", CHILD));
        for (span, name, kind, from, took) in
            [(parent, "get /basket", "server", 0, 250_000), (child, "select", "client", 2_000, 40_000)]
        {
            assert_eq!((&span["traceID"], &span["operationName"]), (&json!(TRACE), &json!(name)));
            assert_eq!(
                (&span["startTime"], &span["duration"]),
                (&json!(start + from), &json!(took)),
                "{span}"
            );
            assert_eq!(tag(span, "span.kind"), ("string".to_owned(), json!(kind)));
            assert_eq!(trace["processes"][span["processID"].as_str().expect("an id")]["serviceName"], "shop");
        }
        let reference = json!([{"refType": "CHILD_OF", "traceID": TRACE, "spanID": PARENT}]);
        assert_eq!(child["references"], reference, "{child}");
        assert_eq!(tag(parent, "http.status_code"), ("int64".to_owned(), json!(503)));
        assert_eq!(tag(parent, "größe"), ("float64".to_owned(), json!(0.25)));
        assert_eq!(parent["logs"][0]["timestamp"], json!(start + 1_000), "{parent}");
        assert_eq!(parent["logs"][0]["fields"][0]["value"], "checkpoint", "{parent}");
        assert_eq!(tag(child, "error"), ("bool".to_owned(), json!(true)));
        assert_eq!(tag(child, "otel.status_description").1, "no such row");
        assert_eq!(tag(child, "peer.service").1, "db");
        weir.stop().await;
    }
}

/// Type and value of a tag.
fn tag(span: &Value, key: &str) -> (String, Value) {
    let tags = span["tags"].as_array().expect("tags");
    let found = tags.iter().find(|tag| tag["key"] == key).unwrap_or_else(|| panic!("no {key} in {span}"));
    (found["type"].as_str().expect("a type").to_owned(), found["value"].clone())
}
