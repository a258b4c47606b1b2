//! Remote write between two Prometheus, and version 2.0 against Prometheus' own Go, both ways.
//!
//! ```text
//! Prometheus ─1.0▶ weir: receiver ▶ exporter ─2.0▶ receiver ▶ exporter ─1.0▶ Prometheus
//!
//! client_golang's remote.API ──▶ weir: prometheusremotewrite, receiver and exporter ──▶ client_golang's write handler
//! ```

use std::time::Duration;

use serde_json::{Value, json};
use tokio::process::Command;
use weir_tests::port::free_address;
use weir_tests::wait::until;
use weir_tests::{Profile, Weir, wait_until};

use crate::client::{Client, run};
use crate::install::go;
use crate::prometheus::Prometheus;
use crate::stage::{DEADLINE, TURN};

/// Two pipelines: the first goes on to the second in version 2.0.
const CONFIG: &str = "
receivers:
  prometheusremotewrite/one: {endpoint: <one>}
  prometheusremotewrite/two: {endpoint: <two>}
exporters:
  prometheusremotewrite/one:
    endpoint: http://<two>/api/v1/write
    protobuf_message: io.prometheus.write.v2.Request
  prometheusremotewrite/two: {endpoint: http://<prometheus>/api/v1/write}
service:
  pipelines:
    metrics/one: {receivers: [prometheusremotewrite/one], exporters: [prometheusremotewrite/one]}
    metrics/two: {receivers: [prometheusremotewrite/two], exporters: [prometheusremotewrite/two]}
";

/// Series that a Prometheus has of itself, at least.
const SERIES_MIN: usize = 200;

/// Scenario: a Prometheus that scrapes itself writes to a daemon, metadata too; its first exporter writes 2.0 to its second
/// receiver, and that one's writes 1.0 to another Prometheus.
/// Guarantees: a query for all series at one moment has the same answer at both ends; nothing was refused or dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_has_the_same_answer_at_both_ends() {
    let _turn = TURN.lock().await;
    let target = Prometheus::start("global: {}\n").await;
    let weir = Weir::start_as(Profile::Release, CONFIG, &[("prometheus", target.address)]).await;
    let address = free_address();
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs: [{{job_name: self, static_configs: [{{targets: ['{address}']}}]}}]\n\
         remote_write: [{{url: 'http://{}/api/v1/write', metadata_config: {{send_interval: 1s}}}}]\n",
        weir.address("one")
    );
    let source = Prometheus::start_at(address, &config).await;
    // Two scrapes, so that what is written on the first is there as well.
    let time = until(DEADLINE, async || {
        let scrapes = source.at("count_over_time(up{job=\"self\"}[1m]) > 1", None).await;
        let times = source.at("timestamp(up{job=\"self\"})", None).await;
        times.into_values().next().filter(|_| !scrapes.is_empty())
    });
    let time = time.await.expect("a Prometheus scrapes itself");
    let all = "{job=\"self\"}";
    let sent = source.at(all, Some(&time)).await;
    assert!(sent.len() > SERIES_MIN, "{} series", sent.len());
    let came = until(Duration::from_secs(60), async || {
        let came = target.at(all, Some(&time)).await;
        (came == sent).then_some(())
    });
    if came.await.is_none() {
        let came = target.at(all, Some(&time)).await;
        let missing: Vec<_> =
            sent.iter().filter(|(labels, value)| came.get(*labels) != Some(value)).take(5).collect();
        let more: Vec<_> = came.keys().filter(|labels| !sent.contains_key(*labels)).take(5).collect();
        panic!(
            "{} series were sent, {} came; of them missing {missing:?}, never sent {more:?}",
            sent.len(),
            came.len()
        );
    }
    let page = weir.metrics().await;
    let is_loss = |name: &str| ["dropped", "dead_letter", "rejected"].iter().any(|word| name.contains(word));
    let lost: Vec<_> =
        page.samples().iter().filter(|sample| is_loss(&sample.name) && sample.value != 0.0).collect();
    assert!(lost.is_empty(), "{lost:?}");
    drop(source);
    weir.stop().await;
}

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
