//! OTLP: OpenTelemetry's exporters of Python and Node, over gRPC and HTTP, protobuf and JSON.

use expect_test::expect;
use tokio::process::Command;
use weir_tests::wait_until;
use weir_wire::Signal;

use crate::client::{Said, run};
use crate::install::{node, python, sources};
use crate::outline;
use crate::stage::{DEADLINE, Stage};

async fn of_python(way: &str, endpoint: String) -> Said {
    let mut command = Command::new(python("otlp"));
    run(command.arg(sources("python").join("opentelemetry_sdk.py")).arg(way).arg(endpoint)).await
}

async fn of_node(way: &str, endpoint: String) -> Said {
    run(Command::new("node").current_dir(node()).arg("opentelemetry.js").arg(way).arg(endpoint)).await
}

/// The spans of either language: they differ in who says it, and in the flags of spans whose parent is remote.
fn expected_spans(language: &str, instance: &str, [local, remote, linked]: [u32; 3]) -> String {
    format!(
        r#"resource
  deployment.environment = "interop"
  os.type = "linux"
  service.instance.id = "{instance}"
  service.name = "{language}-shop"
scope shop.pay 1.2.3
span "child größe" CLIENT
  ids as said
  parent "parent"
  times as said
  state vendor=value
  flags {local}
  status OK ""
  server.address = "db.example"
span "inner" INTERNAL
  ids as said
  parent "parent"
  times as said
  state vendor=value
  flags {local}
span "parent" SERVER
  ids as said
  parent b7ad6b7169203331
  times as said
  state vendor=value
  flags {remote}
  status ERROR "backend down"
  cached = false
  http.path = "/basket"
  http.status_code = 503
  list = ["a", "b"]
  ratio = 0.25
  event "checkpoint"
    step = 1
  event "plain"
  link 11111111111111112222222222222222 3333333333333333
    flags {linked}
    why = "retry"
"#
    )
}

/// Python says that the context is known and whether it was remote, and never that it was sampled.
const PYTHON_FLAGS: [u32; 3] = [0x100, 0x300, 0x300];

/// JavaScript says all three.
const NODE_FLAGS: [u32; 3] = [0x101, 0x301, 0x101];

/// What Python sends of each signal, by either transport.
async fn python_arrives(way: &str, address: &str) {
    let stage = Stage::set().await;
    let endpoint = if way == "otlp-grpc" { stage.address(address) } else { stage.url(address) };
    let said = of_python(way, endpoint).await;
    let spans = stage.spans(3).await;
    check(&outline::spans(&spans, &said), &expected_spans("python", "p-1", PYTHON_FLAGS));
    stage.counts("otlp", Signal::Traces, 3).await;
    let metrics = stage.metrics(&["shop.count", "shop.waiting", "shop.times", "shop.sizes"]).await;
    expect![[r#"
        resource
          deployment.environment = "interop"
          os.type = "linux"
          service.instance.id = "p-1"
          service.name = "python-shop"
        scope shop.stats 4.5.6
        metric "shop.count" "baskets" in "1"
          sum, cumulative, monotonic
          point from <time> to <time>
            door = "front"
            int 3
        metric "shop.sizes" "" in "By"
          exponential histogram, cumulative
          point from <time> to <time>
            count 3 sum Some(505.5) min Some(0.5) max Some(500.0)
            3 in positive buckets, 0 zeros
        metric "shop.times" "" in "ms"
          histogram, cumulative
          point from <time> to <time>
            door = "front"
            count 3 sum Some(505.5) min Some(0.5) max Some(500.0)
            bounds [1.0, 10.0, 100.0] buckets [1, 1, 0, 1]
        metric "shop.waiting" "" in ""
          sum, cumulative, not monotonic
          point from <time> to <time>
            int -2
    "#]]
    .assert_eq(&outline::metrics(&metrics, &said));
    stage.counts("otlp", Signal::Metrics, 4).await;
    log_arrives(&stage, &said, "python", "p-1", "1700000000123456789", "1700000000123456790").await;
    stage.strike().await;
}

async fn log_arrives(stage: &Stage, said: &Said, language: &str, instance: &str, at: &str, observed: &str) {
    let logs = wait_until(DEADLINE, "a log record", || {
        let logs = stage.otlp.logs();
        (!logs.is_empty()).then_some(logs)
    })
    .await;
    let expected = format!(
        r#"resource
  deployment.environment = "interop"
  os.type = "linux"
  service.instance.id = "{instance}"
  service.name = "{language}-shop"
scope shop.log 7.8.9
log "basket.full" 13 "WARN"
  at {at}, observed at {observed}
  body {{items = 3, text = "basket is full"}}
  door = "front"
"#
    );
    check(&outline::logs(&logs, said), &expected);
    stage.counts("otlp", Signal::Logs, 1).await;
}

#[track_caller]
fn check(found: &str, expected: &str) {
    assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
}

/// Scenario: spans, metrics and a log record of the Python SDK over gRPC.
/// Guarantees: they arrive unchanged, augmented as configured.
#[tokio::test(flavor = "multi_thread")]
async fn all_signals_of_the_python_sdk_arrive_over_grpc() {
    python_arrives("otlp-grpc", "otlp-grpc").await;
}

/// Scenario: spans, metrics and a log record of the Python SDK over HTTP.
/// Guarantees: they arrive unchanged, augmented as configured.
#[tokio::test(flavor = "multi_thread")]
async fn all_signals_of_the_python_sdk_arrive_over_http() {
    python_arrives("otlp-http", "otlp-http").await;
}

/// Scenario: spans of the Node SDK over gRPC, then over HTTP with protobuf.
/// Guarantees: they arrive unchanged, augmented as configured.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_the_node_sdk_arrive_as_protobuf() {
    let stage = Stage::set().await;
    let said = of_node("otlp-grpc", stage.url("otlp-grpc")).await;
    let spans = stage.spans(3).await;
    check(&outline::spans(&spans, &said), &expected_spans("node", "n-1", NODE_FLAGS));
    let said = of_node("otlp-http-protobuf", stage.url("otlp-http")).await;
    let spans = stage.spans(6).await;
    check(&outline::spans(&spans[3..], &said), &expected_spans("node", "n-1", NODE_FLAGS));
    stage.counts("otlp", Signal::Traces, 6).await;
    stage.strike().await;
}

/// Scenario: spans, metrics and a log record of the Node SDK as OTLP/JSON, with its numbers where others have strings.
/// Guarantees: they arrive as protobuf that says the same, augmented as configured.
#[tokio::test(flavor = "multi_thread")]
async fn all_signals_of_the_node_sdk_arrive_as_json() {
    let stage = Stage::set().await;
    let said = of_node("otlp-http-json", stage.url("otlp-http")).await;
    let spans = stage.spans(3).await;
    check(&outline::spans(&spans, &said), &expected_spans("node", "n-1", NODE_FLAGS));
    let metrics = stage.metrics(&["shop.count", "shop.times"]).await;
    expect![[r#"
        resource
          deployment.environment = "interop"
          os.type = "linux"
          service.instance.id = "n-1"
          service.name = "node-shop"
        scope shop.stats 4.5.6
        metric "shop.count" "baskets" in "1"
          sum, cumulative, monotonic
          point from <time> to <time>
            door = "front"
            double 3.0
        metric "shop.times" "" in "ms"
          histogram, cumulative
          point from <time> to <time>
            door = "front"
            count 3 sum Some(505.5) min Some(0.5) max Some(500.0)
            bounds [1.0, 10.0, 100.0] buckets [1, 1, 0, 1]
    "#]]
    .assert_eq(&outline::metrics(&metrics, &said));
    log_arrives(&stage, &said, "node", "n-1", "<time>", "<time>").await;
    stage.strike().await;
}
