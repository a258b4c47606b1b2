//! Jaeger: its own clients for Python and Node, and OpenTelemetry's exporters for it.

use tokio::process::Command;
use weir_wire::Signal;

use crate::client::{Said, run};
use crate::install::{node, python, sources};
use crate::outline;
use crate::stage::Stage;

async fn of_python(group: &'static str, script: &str, arguments: &[&str]) -> Said {
    let mut command = Command::new(python(group));
    // The generated code of the exporter for gRPC is older than the fast kind of the library.
    command.env("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python").arg("-W").arg("ignore");
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

/// What Jaeger's client for Python sends. A reference that follows from the parent is a link beside it.
const PYTHON: &str = r#"resource
  deployment.environment = "interop"
  host.name = <host>
  ip = <ip>
  jaeger.version = "Python-4.8.0"
  os.type = "linux"
  service.name = "python-shop"
  team = "blue"
span "audit" UNSPECIFIED
  ids as said
  parent "get /basket"
  times as said, in microseconds
  flags 1
  link "get /basket"
    opentracing.ref_type = "follows_from"
span "get /basket" SERVER
  ids as said
  times as said, in microseconds
  flags 1
  status ERROR ""
  cached = false
  größe = "7"
  http.status_code = 503
  ratio = 0.25
  sampler.param = true
  sampler.type = "const"
  event "checkpoint"
    step = 1
span "select" CLIENT
  ids as said
  parent "get /basket"
  times as said, in microseconds
  flags 1
"#;

/// Scenario: spans of jaeger-client for Python over UDP, in the compact protocol.
/// Guarantees: they arrive with their process, types, references and times.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_jaegers_python_client_arrive() {
    let stage = Stage::set().await;
    let said = of_python("jaeger", "jaeger_spans.py", &[&stage.address("jaeger-compact")]).await;
    let spans = stage.spans(3).await;
    check(&outline::spans(&spans, &said), PYTHON);
    stage.counts("jaeger", Signal::Traces, 3).await;
    stage.strike().await;
}

/// What Jaeger's client for Node sends: every number is a double.
const NODE: &str = r#"resource
  client-uuid = <uuid>
  deployment.environment = "interop"
  host.name = <host>
  ip = <ip>
  jaeger.version = "Node-3.19.0"
  os.type = "linux"
  service.name = "node-shop"
  team = "blue"
span "get /basket" SERVER
  ids as said
  times plausible
  flags 1
  status ERROR ""
  cached = false
  größe = "7"
  http.status_code = 503.0
  ratio = 0.25
  sampler.param = true
  sampler.type = "const"
  event "checkpoint"
    step = 1.0
span "select" CLIENT
  ids as said
  parent "get /basket"
  times plausible
  flags 1
"#;

/// Scenario: spans of jaeger-client for Node over UDP and over HTTP, in the binary protocol.
/// Guarantees: the same spans arrive both ways.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_jaegers_node_client_arrive_both_ways() {
    let stage = Stage::set().await;
    let ways = [("udp", "jaeger-binary"), ("http", "jaeger-http")];
    for (round, (way, door)) in ways.into_iter().enumerate() {
        let said = of_node("jaeger.js", [way, &stage.address(door)]).await;
        let spans = stage.spans(2 * (round + 1)).await;
        check(&outline::spans(&spans[2 * round..], &said), NODE);
    }
    stage.counts("jaeger", Signal::Traces, 4).await;
    stage.strike().await;
}

/// What is left of OpenTelemetry's spans on the way through Jaeger: the state is gone, lists are texts, and each span repeats
/// its resource.
struct Left {
    /// Of the resource, beside its name.
    resource: &'static str,
    language: &'static str,
    instance: &'static str,
    times: &'static str,
    /// Of a span that is neither of a server nor of a client.
    internal: &'static str,
    list: &'static str,
    /// What follows whole numbers.
    point: &'static str,
}

impl Left {
    fn outline(&self) -> String {
        let Self { resource, language, instance, times, internal, list, point } = self;
        let own = format!("  service.instance.id = \"{instance}\"\n  service.name = \"{language}-shop\"\n");
        format!(
            r#"resource
  deployment.environment = "interop"
  os.type = "linux"
{resource}  service.name = "{language}-shop"
scope shop.pay 1.2.3
span "child größe" CLIENT
  ids as said
  parent "parent"
  times {times}
  flags 1
  status OK ""
  server.address = "db.example"
{own}span "inner" {internal}
  ids as said
  parent "parent"
  times {times}
  flags 1
{own}span "parent" SERVER
  ids as said
  parent b7ad6b7169203331
  times {times}
  flags 1
  status ERROR "backend down"
  cached = false
  http.path = "/basket"
  http.status_code = 503{point}
  list = {list}
  ratio = 0.25
{own}  event "checkpoint"
    step = 1{point}
  event "plain"
  link 11111111111111112222222222222222 3333333333333333
    opentracing.ref_type = "follows_from"
"#
        )
    }
}

/// Scenario: spans of OpenTelemetry-Python's Jaeger exporters, in thrift over UDP and in protobuf over gRPC.
/// Guarantees: scope, status, kind and events are read back from the tags and logs that OpenTelemetry makes of them.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_opentelemetry_pythons_jaeger_exporters_arrive() {
    let stage = Stage::set().await;
    let thrift = Left {
        resource: "",
        language: "python",
        instance: "p-1",
        times: "as said, in microseconds",
        internal: "INTERNAL",
        list: r#""('a', 'b')""#,
        point: "",
    };
    let script = "opentelemetry_sdk.py";
    let compact = stage.address("jaeger-compact");
    let said = of_python("jaegerotel", script, &["jaeger-thrift", &compact]).await;
    let spans = stage.spans(3).await;
    check(&outline::spans(&spans, &said), &thrift.outline());
    // Its times went through floating point.
    let protobuf = Left { resource: "  service.instance.id = \"p-1\"\n", times: "plausible", ..thrift };
    let said = of_python("jaegerotel", script, &["jaeger-grpc", &stage.address("jaeger-grpc")]).await;
    let spans = stage.spans(6).await;
    check(&outline::spans(&spans[3..], &said.without_times()), &protobuf.outline());
    stage.counts("jaeger", Signal::Traces, 6).await;
    stage.strike().await;
}

/// Scenario: spans of OpenTelemetry-JavaScript's Jaeger exporter over UDP and over HTTP.
/// Guarantees: what it sends arrives as OpenTelemetry's mapping says, the same both ways.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_opentelemetry_javascripts_jaeger_exporter_arrive() {
    let stage = Stage::set().await;
    let expected = Left {
        resource: "",
        language: "node",
        instance: "n-1",
        times: "as said, in microseconds",
        internal: "UNSPECIFIED",
        list: r#""a,b""#,
        point: ".0",
    };
    let ways = [("jaeger-udp", "jaeger-binary"), ("jaeger-http", "jaeger-http")];
    for (round, (way, door)) in ways.into_iter().enumerate() {
        let said = of_node("opentelemetry.js", [way, &stage.address(door)]).await;
        let spans = stage.spans(3 * (round + 1)).await;
        check(&outline::spans(&spans[3 * round..], &said), &expected.outline());
    }
    stage.counts("jaeger", Signal::Traces, 6).await;
    stage.strike().await;
}
