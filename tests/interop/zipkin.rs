//! Zipkin: py_zipkin, zipkin-js, and OpenTelemetry's exporters for it.

use tokio::process::Command;
use weir_wire::Signal;

use crate::client::{Said, run};
use crate::install::{node, python, sources};
use crate::outline;
use crate::stage::Stage;

async fn of_python(group: &'static str, script: &str, arguments: [&str; 2]) -> Said {
    let mut command = Command::new(python(group));
    command.arg(sources("python").join(script));
    run(command.args(arguments)).await.in_micros()
}

async fn of_node(script: &str, arguments: [&str; 2]) -> Said {
    let mut command = Command::new("node");
    command.current_dir(node()).arg(script);
    run(command.args(arguments)).await.in_micros()
}

#[track_caller]
fn check(found: &str, expected: &str) {
    assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
}

/// What py_zipkin sends, in whatever it is spelled.
const PY_ZIPKIN: &str = r#"resource
  deployment.environment = "interop"
  os.type = "linux"
  service.name = "python-shop"
span "get /basket" SERVER
  ids as said
  times plausible
  größe = "7"
  http.path = "/basket"
  network.local.address = "10.0.0.7"
  network.local.port = 8080
  event "checkpoint"
span "select" CLIENT
  ids as said
  parent "get /basket"
  times plausible
  status ERROR "no such row"
  error = "no such row"
  network.local.address = "10.0.0.7"
  network.local.port = 8080
  network.peer.address = "10.0.0.9"
  network.peer.port = 5432
  peer.service = "db"
"#;

/// Scenario: a server span and a client span of py_zipkin as v1 JSON, v2 JSON and v2 protobuf.
/// Guarantees: the same spans arrive whatever they are spelled in, with both ends of the call, names in lower case.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_py_zipkin_arrive_in_each_encoding() {
    let stage = Stage::set().await;
    let address = stage.address("zipkin");
    for (round, encoding) in ["V1_JSON", "V2_JSON", "V2_PROTO3"].into_iter().enumerate() {
        let said = of_python("otlp", "zipkin_spans.py", [encoding, &address]).await;
        let spans = stage.spans(2 * (round + 1)).await;
        check(&outline::spans(&spans[2 * round..], &said), PY_ZIPKIN);
    }
    stage.counts("zipkin", Signal::Traces, 6).await;
    stage.strike().await;
}

/// What zipkin-js sends, in whatever it is spelled: ids of 64 bits, and no address of the client.
const ZIPKIN_JS: &str = r#"resource
  deployment.environment = "interop"
  os.type = "linux"
  service.name = "node-shop"
span "get /basket" SERVER
  ids as said
  times plausible
  http.path = "/basket"
  network.local.address = "10.0.0.7"
  network.local.port = 8080
  event "checkpoint"
span "select" CLIENT
  ids as said
  parent "get /basket"
  times plausible
  status ERROR "no such row"
  error = "no such row"
  network.peer.address = "10.0.0.9"
  network.peer.port = 5432
  peer.service = "db"
"#;

/// Scenario: a server span and a client span of zipkin-js as v1 and as v2 JSON, their trace ids of 64 bits.
/// Guarantees: the same spans arrive; a short trace id is padded with zeros on its left.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_zipkin_js_arrive_in_each_encoding() {
    let stage = Stage::set().await;
    for (round, version) in ["v1", "v2"].into_iter().enumerate() {
        let url = format!("{}/api/{version}/spans", stage.url("zipkin"));
        let said = of_node("zipkin.js", [version, &url]).await;
        let spans = stage.spans(2 * (round + 1)).await;
        check(&outline::spans(&spans[2 * round..], &said), ZIPKIN_JS);
    }
    stage.counts("zipkin", Signal::Traces, 4).await;
    stage.strike().await;
}

/// What is left of OpenTelemetry's spans on the way through Zipkin: values are texts, links and the state are gone.
fn expected(language: &str, instance: &str, scope: &str, debug: &str, list: &str, step: &str) -> String {
    format!(
        r#"resource
  deployment.environment = "interop"
  os.type = "linux"
  service.instance.id = "{instance}"
  service.name = "{language}-shop"
{scope}span "child größe" CLIENT
  ids as said
  parent "parent"
  times as said, in microseconds
  status OK ""
  server.address = "db.example"
{debug}span "inner" UNSPECIFIED
  ids as said
  parent "parent"
  times as said, in microseconds
{debug}span "parent" SERVER
  ids as said
  parent b7ad6b7169203331
  times as said, in microseconds
  status ERROR "backend down"
  cached = "false"
  error = "backend down"
  http.path = "/basket"
  http.status_code = "503"
  list = {list}
  ratio = "0.25"
{debug}  event "checkpoint"
{step}  event "plain"
"#
    )
}

/// Scenario: spans of OpenTelemetry-Python's Zipkin exporters, as JSON and as protobuf; both mark each span for debugging.
/// Guarantees: scope, status and events are read back from the tags and annotations that OpenTelemetry makes of them.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_opentelemetry_pythons_zipkin_exporters_arrive() {
    let stage = Stage::set().await;
    let url = stage.url("zipkin");
    let expected = expected(
        "python",
        "p-1",
        "scope shop.pay 1.2.3\n",
        "  zipkin.debug = true\n",
        r#""[\"a\",\"b\"]""#,
        "    step = 1\n",
    );
    let ways = [("otlp", "zipkin-json"), ("protobuf3", "zipkin-protobuf")];
    for (round, (group, way)) in ways.into_iter().enumerate() {
        let said = of_python(group, "opentelemetry_sdk.py", [way, &url]).await;
        let spans = stage.spans(3 * (round + 1)).await;
        check(&outline::spans(&spans[3 * round..], &said), &expected);
    }
    stage.counts("zipkin", Signal::Traces, 6).await;
    stage.strike().await;
}

/// Scenario: spans of OpenTelemetry-JavaScript's Zipkin exporter, which sends neither scope nor attributes of events.
/// Guarantees: what it sends arrives as OpenTelemetry's mapping says.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_opentelemetry_javascripts_zipkin_exporter_arrive() {
    let stage = Stage::set().await;
    let said = of_node("opentelemetry.js", ["zipkin", &stage.url("zipkin")]).await;
    let spans = stage.spans(3).await;
    check(&outline::spans(&spans, &said), &expected("node", "n-1", "", "", r#""a,b""#, ""));
    stage.counts("zipkin", Signal::Traces, 3).await;
    stage.strike().await;
}
