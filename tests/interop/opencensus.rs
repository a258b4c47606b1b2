//! OpenCensus: the libraries of Python, Go, Java and the browser, and OpenTelemetry's exporter for this protocol.

use std::time::Duration;

use expect_test::expect;
use tokio::process::Command;
use weir_tests::sink::SeenSpan;
use weir_tests::wait::until;
use weir_wire::Signal;

use crate::client::{Client, run};
use crate::install::{go, java, node, python, sources};
use crate::stage::{DEADLINE, Stage};
use crate::{mapping, outline};

/// How long a span that a library may have lost is waited for before another is sent.
const PATIENCE: Duration = Duration::from_secs(7);

/// Spans that are sent in vain after a restart before the test gives up: libraries lose what they send before they notice.
const LOST_MAX: usize = 8;

/// A Python client of the OpenCensus group. The library warns of its own age.
fn script(group: &'static str, name: &str) -> Command {
    let mut command = Command::new(python(group));
    command.args(["-W", "ignore"]).arg(sources("python").join(name));
    command
}

/// Scenario: two nested spans of the Python library, with everything that a span can have.
/// Guarantees: they arrive at both backends field by field as the mapping says.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_the_python_library_arrive_as_the_mapping_says() {
    let stage = Stage::set().await;
    let said = run(script("opencensus", "opencensus_spans.py").arg(stage.address("opencensus"))).await;
    let spans = stage.spans(2).await;
    expect![[r#"
        resource
          deployment.environment = "interop"
          host.name = "host-of-python"
          opencensus.exporterversion = "0.0.1"
          opencensus.starttime = <time>
          os.type = "linux"
          process.pid = <pid>
          service.name = "python-shop"
          telemetry.sdk.language = "python"
          telemetry.sdk.version = "0.11.4"
        span "child größe" CLIENT
          ids as said
          parent "parent"
          times as said
          state vendor=value
          k = "v"
          opencensus.child_span_count = 0
        span "parent" SERVER
          ids as said
          times as said
          state vendor=value
          status ERROR "backend down"
          cached = false
          http.path = "/basket"
          http.status_code = 503
          opencensus.child_span_count = 0
          opencensus.status_code = 14
          ratio = 0.25
          event "checkpoint"
            place = "größe"
            step = 1
          event "message"
            message.type = "SENT"
            messaging.message_id = 7
            messaging.message_payload_compressed_size_bytes = 1000
            messaging.message_payload_size_bytes = 2000
          link 11111111111111112222222222222222 3333333333333333
            why = "retry"
    "#]]
    .assert_eq(&outline::spans(&spans, &said));
    stage.counts("opencensus", Signal::Traces, 2).await;
    let page = stage.weir.metrics().await;
    let of_node = [("service", "python-shop"), ("host", "host-of-python")];
    assert_eq!(page.value("weir_node_items_total", &of_node), Some(2.0));
    // The library opens a stream for each span.
    assert_eq!(page.value("weir_node_batches_total", &of_node), Some(2.0));
    stage.strike().await;
}

/// Scenario: a count, a sum, a last value and a distribution with exemplars of the Python library's stats exporter.
/// Guarantees: they arrive as sums, a gauge and a histogram, with labels, bounds and times; exemplars have ids of their own.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_of_the_python_library_arrive_as_the_mapping_says() {
    let stage = Stage::set().await;
    let client =
        Client::start(script("opencensus", "opencensus_metrics.py").arg(stage.address("opencensus")));
    let metrics = stage.metrics(&["shop/count", "shop/sum", "shop/last", "shop/times"]).await;
    let said = client.finish().await;
    expect![[r#"
        resource
          deployment.environment = "interop"
          host.name = "host-of-python"
          opencensus.exporterversion = "0.0.1"
          opencensus.resourcetype = "global"
          opencensus.starttime = <time>
          os.type = "linux"
          process.pid = <pid>
          service.name = "python-shop"
          telemetry.sdk.language = "python"
          telemetry.sdk.version = "0.11.4"
        metric "shop/count" "baskets" in "By"
          sum, cumulative, monotonic
          point from <time> to <time>
            door = "front"
            int 3
        metric "shop/last" "last time" in "ms"
          gauge
          point from never to <time>
            double 500.0
        metric "shop/sum" "bytes" in "By"
          sum, cumulative, monotonic
          point from <time> to <time>
            door = "front"
            int 60
        metric "shop/times" "times" in "ms"
          histogram, cumulative
          point from <time> to <time>
            door = "front"
            count 3 sum Some(505.5) min None max None
            bounds [1.0, 10.0, 100.0] buckets [1, 1, 0, 1]
            exemplar 0.5 at <time> of ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
              basket = "b-10"
            exemplar 5.0 at <time> of ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
              basket = "b-20"
            exemplar 500.0 at <time> of ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
              basket = "b-30"
    "#]]
    .assert_eq(&outline::metrics(&metrics, &said));
    stage.counts("opencensus", Signal::Metrics, 4).await;
    stage.strike().await;
}

/// What the Go exporter sends for a server span that another process called, its child, and a root without anything.
const GO_SPANS: &str = r#"resource
  cloud.availability_zone = "z1"
  deployment.environment = "interop"
  host.name = "host-of-go"
  opencensus.exporterversion = "0.0.1"
  opencensus.resourcetype = "container"
  opencensus.starttime = <time>
  os.type = "linux"
  process.pid = <pid>
  service.name = "go-shop"
  team = "a"
  telemetry.sdk.language = "go"
  telemetry.sdk.version = "0.24.0"
span "one" SERVER
  ids as said
  parent b7ad6b7169203331
  times as said
  state vendor=value
  status ERROR "backend down"
  cached = false
  http.path = "/basket"
  http.status_code = 503
  opencensus.status_code = 14
  event "checkpoint"
    step = 1
  event "message"
    message.type = "SENT"
    messaging.message_id = 7
    messaging.message_payload_compressed_size_bytes = 1000
    messaging.message_payload_size_bytes = 2000
  link 11111111111111112222222222222222 3333333333333333
span "one child größe" CLIENT
  ids as said
  parent "one"
  times as said
  state vendor=value
span "one root" UNSPECIFIED
  ids as said
  times as said
"#;

/// Its views. It sends the node once a stream, the resource each time.
const GO_METRICS: &str = r#"resource
  cloud.availability_zone = "z1"
  deployment.environment = "interop"
  host.name = "host-of-go"
  opencensus.exporterversion = "0.0.1"
  opencensus.resourcetype = "container"
  opencensus.starttime = <time>
  os.type = "linux"
  process.pid = <pid>
  service.name = "go-shop"
  team = "a"
  telemetry.sdk.language = "go"
  telemetry.sdk.version = "0.24.0"
metric "shop/count" "baskets" in "By"
  sum, cumulative, monotonic
  point from <time> to <time>
    door = "front"
    int 3
metric "shop/last" "last time" in "ms"
  gauge
  point from <time> to <time>
    double 500.0
metric "shop/sum" "bytes" in "By"
  sum, cumulative, monotonic
  point from <time> to <time>
    door = "front"
    int 60
metric "shop/times" "times" in "ms"
  histogram, cumulative
  point from <time> to <time>
    door = "front"
    count 3 sum Some(505.5) min None max None
    bounds [1.0, 10.0, 100.0] buckets [1, 1, 0, 1]
"#;

/// Scenario: the Go exporter with its three long streams; the daemon is restarted under them, then killed.
/// Guarantees: spans and metrics arrive as the mapping says; after each return so does what the exporter then sends.
#[tokio::test(flavor = "multi_thread")]
async fn long_streams_of_the_go_exporter_survive_a_restart() {
    let mut stage = Stage::set().await;
    let mut command = Command::new(go("go"));
    command.arg(stage.address("opencensus")).env("HOSTNAME", "host-of-go");
    command.env("OC_RESOURCE_TYPE", "container").env("OC_RESOURCE_LABELS", "cloud.zone=\"z1\",team=\"a\"");
    let mut client = Client::start(&mut command);
    client.command("spans one").await;
    let spans = stage.spans(3).await;
    check(&outline::spans(&spans, &client.said()), GO_SPANS);
    stage.counts("opencensus", Signal::Traces, 3).await;
    // Spans, configuration, metrics: three streams of one node, open as long as the process lives.
    let streams = [("service", "go-shop"), ("host", "host-of-go")];
    stage.weir.metric_becomes(DEADLINE, "weir_node_streams", &streams, 3.0).await;

    client.command("views").await;
    let metrics = stage.metrics(&["shop/count", "shop/sum", "shop/last", "shop/times"]).await;
    check(&outline::metrics(&metrics, &client.said()), GO_METRICS);
    stage.counts("opencensus", Signal::Metrics, 4).await;

    let status = stage.weir.terminate().await;
    assert!(status.success(), "{status}: {}", stage.weir.log().tail());
    stage.weir.restart().await;
    arrives_again(&stage, &mut client, "restarted", 3).await;
    stage.weir.kill().await;
    stage.weir.restart().await;
    arrives_again(&stage, &mut client, "killed", 3).await;
    client.finish().await;
    stage.strike().await;
}

/// Scenario: the Java exporters on their long streams; the daemon is restarted under them.
/// Guarantees: spans and metrics arrive as the mapping says; after the return so does what the exporter then sends.
#[tokio::test(flavor = "multi_thread")]
async fn long_streams_of_the_java_exporter_survive_a_restart() {
    let mut stage = Stage::set().await;
    let mut command = Command::new("java");
    command.args([
        "-XX:+UseSerialGC",
        "-XX:TieredStopAtLevel=1",
        "-Dfile.encoding=UTF-8",
        "-Dstdout.encoding=UTF-8",
    ]);
    command.arg("-cp").arg(java()).arg("Client").arg(stage.address("opencensus"));
    let mut client = Client::start(&mut command);
    client.command("spans one").await;
    let spans = stage.spans(2).await;
    expect![[r#"
        resource
          deployment.environment = "interop"
          host.name = <host>
          opencensus.exporterversion = "0.31.1"
          opencensus.starttime = <time>
          os.type = "linux"
          process.pid = <pid>
          service.name = "java-shop"
          telemetry.sdk.language = "java"
          telemetry.sdk.version = "0.31.1"
        span "one" SERVER
          ids as said
          parent b7ad6b7169203331
          times plausible
          state vendor=value
          status ERROR "backend down"
          cached = false
          http.path = "/basket"
          http.status_code = 503
          opencensus.child_span_count = 1
          opencensus.same_process_as_parent_span = false
          opencensus.status_code = 14
          ratio = 0.25
          event "checkpoint"
            step = 1
          event "message"
            message.type = "SENT"
            messaging.message_id = 7
            messaging.message_payload_compressed_size_bytes = 1000
            messaging.message_payload_size_bytes = 2000
          link 11111111111111112222222222222222 3333333333333333
            why = "retry"
        span "one child größe" CLIENT
          ids as said
          parent "one"
          times plausible
          state vendor=value
          opencensus.child_span_count = 0
          opencensus.same_process_as_parent_span = true
    "#]]
    .assert_eq(&outline::spans(&spans, &client.said()));
    stage.counts("opencensus", Signal::Traces, 2).await;

    client.command("metrics").await;
    let metrics = stage.metrics(&["shop/count", "shop/times"]).await;
    expect![[r#"
        resource
          deployment.environment = "interop"
          host.name = <host>
          opencensus.exporterversion = "0.31.1"
          opencensus.starttime = <time>
          os.type = "linux"
          process.pid = <pid>
          service.name = "java-shop"
          telemetry.sdk.language = "java"
          telemetry.sdk.version = "0.31.1"
        metric "shop/count" "baskets" in "1"
          sum, cumulative, monotonic
          point from <time> to <time>
            door = "front"
            int 3
        metric "shop/times" "times" in "ms"
          histogram, cumulative
          point from <time> to <time>
            door = "front"
            count 3 sum Some(505.5) min None max None
            bounds [1.0, 10.0, 100.0] buckets [1, 1, 0, 1]
    "#]]
    .assert_eq(&outline::metrics(&metrics, &client.said()));

    let status = stage.weir.terminate().await;
    assert!(status.success(), "{status}: {}", stage.weir.log().tail());
    stage.weir.restart().await;
    arrives_again(&stage, &mut client, "restarted", 2).await;
    client.finish().await;
    stage.strike().await;
}

/// Scenario: the browser's exporter posts JSON from a page of an allowed origin, after asking whether it may.
/// Guarantees: its spans arrive as the mapping says, and so does the state of its trace, which it spells in a way of its own.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_a_web_page_arrive_as_the_mapping_says() {
    let stage = Stage::set().await;
    let mut command = Command::new("node");
    command.arg("opencensus_web.bundle.js").arg(format!("{}/v1/trace", stage.url("opencensus")));
    let said = run(command.arg("https://page.example").current_dir(node())).await;
    let spans = stage.spans(2).await;
    expect![[r#"
        resource
          deployment.environment = "interop"
          host.name = "page.example"
          opencensus.exporterversion = "0.0.1"
          os.type = "linux"
          release = "42"
          service.name = "web-shop"
          telemetry.sdk.language = "webjs"
          telemetry.sdk.version = "0.0.1"
        span "child größe" CLIENT
          ids as said
          parent "load"
          times plausible
          state vendor=value
          opencensus.same_process_as_parent_span = true
        span "load" SERVER
          ids as said
          parent b7ad6b7169203331
          times plausible
          state vendor=value
          status ERROR "backend down"
          cached = false
          http.path = "/basket"
          http.status_code = 503.0
          opencensus.same_process_as_parent_span = true
          opencensus.status_code = 14
          event "checkpoint"
            step = 1.0
          event "message"
            message.type = "SENT"
            messaging.message_id = 7
            messaging.message_payload_compressed_size_bytes = 1000
            messaging.message_payload_size_bytes = 2000
          link 11111111111111112222222222222222 3333333333333333
            why = "retry"
    "#]]
    .assert_eq(&outline::spans(&spans, &said));
    stage.counts("opencensus", Signal::Traces, 2).await;
    stage.strike().await;
}

/// Scenario: OpenTelemetry-Python's exporter for this protocol, which puts its own status numbers where OpenCensus has gRPC's.
/// Guarantees: its spans arrive as the mapping says; its OK, which is 1, is read as any library's and becomes an error.
#[tokio::test(flavor = "multi_thread")]
async fn spans_of_the_opentelemetry_exporter_for_opencensus_arrive_as_the_mapping_says() {
    let stage = Stage::set().await;
    let mut command = script("protobuf3", "opentelemetry_sdk.py");
    let said = run(command.arg("opencensus").arg(stage.address("opencensus"))).await;
    let spans = stage.spans(3).await;
    expect![[r#"
        resource
          deployment.environment = "interop"
          host.name = "host-of-python"
          opencensus.exporterversion = "0.66b1"
          opencensus.starttime = <time>
          os.type = "linux"
          process.pid = <pid>
          service.name = "python-shop"
          telemetry.sdk.language = "python"
          telemetry.sdk.version = "1.45.2"
        span "child größe" CLIENT
          ids as said
          parent "parent"
          times as said
          state vendor=value
          status ERROR ""
          opencensus.status_code = 1
          server.address = "db.example"
        span "inner" UNSPECIFIED
          ids as said
          parent "parent"
          times as said
          state vendor=value
        span "parent" SERVER
          ids as said
          parent b7ad6b7169203331
          times as said
          state vendor=value
          status ERROR "backend down"
          cached = false
          http.path = "/basket"
          http.status_code = 503
          list = "('a', 'b')"
          opencensus.status_code = 2
          ratio = 0.25
          event "checkpoint"
            step = 1
          event "plain"
          link 11111111111111112222222222222222 3333333333333333
            why = "retry"
    "#]]
    .assert_eq(&outline::spans(&spans, &said));
    stage.counts("opencensus", Signal::Traces, 3).await;
    stage.strike().await;
}

#[track_caller]
fn check(found: &str, expected: &str) {
    assert!(found == expected, "found:\n{found}\nexpected:\n{expected}");
}

/// Sends until something arrives, then once more: that arrives whole, `count` spans, at both backends.
async fn arrives_again(stage: &Stage, client: &mut Client, when: &str, count: usize) {
    let mut lost = 0;
    loop {
        let name = format!("{when} {lost}");
        client.command(&format!("spans {name}")).await;
        if until(PATIENCE, async || found(stage, &name).first().cloned()).await.is_some() {
            break;
        }
        lost += 1;
        assert!(lost < LOST_MAX, "{when}: nothing arrives any more");
    }
    let name = format!("{when} at last");
    client.command(&format!("spans {name}")).await;
    let all = until(DEADLINE, async || {
        let spans = found(stage, &name);
        let at_zipkin = stage.zipkin.spans();
        let here = at_zipkin
            .iter()
            .filter(|span| span["name"].as_str().is_some_and(|found| found.starts_with(&name)));
        (spans.len() == count && here.count() == count).then_some(spans)
    });
    let all = all.await.unwrap_or_else(|| panic!("of {name:?} there is {:?}", found(stage, &name)));
    let zipkin = stage.zipkin.spans();
    for seen in &all {
        mapping::check(seen, &zipkin);
        let said = client.said();
        let said = said.spans.iter().find(|said| said.name == seen.span.name).expect("it was said");
        assert_eq!(said.span, weir_tests::batch::hex(&seen.span.span_id));
    }
}

fn found(stage: &Stage, name: &str) -> Vec<SeenSpan> {
    let spans = stage.otlp.spans();
    spans.into_iter().filter(|seen| seen.span.name.starts_with(name)).collect()
}
