//! Remote write 2.0 against Prometheus' own Go, both ways.
//!
//! ```text
//! client_golang's remote.API ──▶ weir: prometheusremotewrite, receiver and exporter ──▶ client_golang's write handler
//! ```

use serde_json::{Value, json};
use tokio::process::Command;
use weir_tests::port::free_address;
use weir_tests::{Profile, Weir, wait_until};

use crate::client::{Client, run};
use crate::install::go;
use crate::stage::{DEADLINE, TURN};

/// Version 2 at both ends.
const RELAY: &str = "
receivers:
  prometheusremotewrite: {endpoint: <entry>}
exporters:
  prometheusremotewrite:
    endpoint: http://<backend>/api/v1/write
    protobuf_message: io.prometheus.write.v2.Request
service:
  pipelines:
    metrics: {receivers: [prometheusremotewrite], exporters: [prometheusremotewrite]}
";

/// The series that a client said it sent or got, in one order.
fn series(facts: &[Value]) -> Vec<Value> {
    let mut series: Vec<Value> = facts.iter().filter(|fact| fact.get("series").is_some()).cloned().collect();
    series.sort_by_key(ToString::to_string);
    series
}

/// Scenario: Prometheus' client for remote write 2.0 sends a counter with an exemplar, a gauge, a stale series, a histogram with
/// buckets and a native one; what Weir makes of them goes to Prometheus' handler.
/// Guarantees: the client is told what was written; the same series arrive with the same labels, values, times, metadata, exemplar
/// and buckets.
#[tokio::test(flavor = "multi_thread")]
async fn remote_write_of_version_2_is_the_same_at_both_ends() {
    let _turn = TURN.lock().await;
    let backend = free_address();
    let handler = Client::start(Command::new(go("go-prometheus")).arg("receive").arg(backend.to_string()));
    let weir = Weir::start_as(Profile::Release, RELAY, &[("backend", backend)]).await;
    let url = format!("http://{}", weir.address("entry"));
    let sent = run(Command::new(go("go-prometheus")).arg("send").arg(url)).await.facts;
    assert_eq!(sent.last(), Some(&json!({"samples": 8, "histograms": 1, "exemplars": 1})));
    let sent = series(&sent);
    let got = wait_until(DEADLINE, "nine series at the handler", || {
        let got = series(&handler.said().facts);
        (got.len() >= sent.len()).then_some(got)
    })
    .await;
    let text = |all: &[Value]| all.iter().map(|one| format!("{one}\n")).collect::<String>();
    assert!(got == sent, "sent:\n{}got:\n{}", text(&sent), text(&got));
    handler.finish().await;
    weir.stop().await;
}
