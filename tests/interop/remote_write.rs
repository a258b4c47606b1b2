//! Prometheus' remote write: Prometheus sends, Prometheus receives, and Weir is between them, once in each version.
//!
//! ```text
//! Prometheus ─1.0▶ weir: receiver ▶ queue ▶ exporter ─2.0▶ receiver ▶ queue ▶ exporter ─1.0▶ Prometheus
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use weir_tests::client::HttpClient;
use weir_tests::port::free_address;
use weir_tests::wait::until;
use weir_tests::{Profile, Weir};

use crate::install;
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

/// A Prometheus; dropped, it is killed.
struct Prometheus {
    address: SocketAddr,
    http: HttpClient,
    _child: Child,
    _folder: TempDir,
}

impl Prometheus {
    async fn start(address: SocketAddr, config: &str) -> Self {
        let program = tokio::task::spawn_blocking(install::prometheus).await.expect("it is installed");
        let folder = TempDir::with_prefix("prometheus-").expect("a folder");
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("a file of ours");
        let mut command = Command::new(program);
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}")).arg("--web.enable-remote-write-receiver");
        let log = std::fs::File::create(folder.path().join("log")).expect("a file of ours");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let child = command.spawn().expect("it starts");
        let http = HttpClient::of_fresh_connections();
        let is_ready = until(DEADLINE, async || {
            let answer = http.get(address, "/-/ready").await.ok()?;
            answer.status().is_success().then_some(())
        });
        if is_ready.await.is_none() {
            let log = std::fs::read_to_string(folder.path().join("log")).unwrap_or_default();
            panic!("Prometheus is not ready within {DEADLINE:?}:\n{log}");
        }
        Self { address, http, _child: child, _folder: folder }
    }

    /// What it answers to a query for one moment: values by their labels.
    async fn query(&self, query: &str, time: Option<&str>) -> BTreeMap<String, String> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let time = time.map(|time| format!("&time={time}")).unwrap_or_default();
        let answer = self.http.get(self.address, &format!("/api/v1/query?query={escaped}{time}")).await;
        let Ok(answer) = answer else { return BTreeMap::new() };
        let answer: Value = serde_json::from_slice(answer.body()).expect("Prometheus answers in JSON");
        let found = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |found: &Value| found["value"][1].as_str().expect("a value").to_owned();
        found.iter().map(|found| (found["metric"].to_string(), value(found))).collect()
    }
}

/// Scenario: a Prometheus that scrapes itself writes to a daemon, metadata too; its first exporter writes 2.0 to its second
/// receiver, and that one's writes 1.0 to another Prometheus.
/// Guarantees: a query for all series at one moment has the same answer at both ends; nothing was refused or dropped.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_has_the_same_answer_at_both_ends() {
    let _turn = TURN.lock().await;
    let target = Prometheus::start(free_address(), "global: {}\n").await;
    let weir = Weir::start_as(Profile::Release, CONFIG, &[("prometheus", target.address)]).await;
    let address = free_address();
    let config = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\n\
         scrape_configs: [{{job_name: self, static_configs: [{{targets: ['{address}']}}]}}]\n\
         remote_write: [{{url: 'http://{}/api/v1/write', metadata_config: {{send_interval: 1s}}}}]\n",
        weir.address("one")
    );
    let source = Prometheus::start(address, &config).await;
    // Two scrapes, so that what is written on the first is there as well.
    let time = until(DEADLINE, async || {
        let scrapes = source.query("count_over_time(up{job=\"self\"}[1m]) > 1", None).await;
        let times = source.query("timestamp(up{job=\"self\"})", None).await;
        times.into_values().next().filter(|_| !scrapes.is_empty())
    });
    let time = time.await.expect("a Prometheus scrapes itself");
    let all = "{job=\"self\"}";
    let sent = source.query(all, Some(&time)).await;
    assert!(sent.len() > SERIES_MIN, "{} series", sent.len());
    let came = until(Duration::from_secs(60), async || {
        let came = target.query(all, Some(&time)).await;
        (came == sent).then_some(())
    });
    if came.await.is_none() {
        let came = target.query(all, Some(&time)).await;
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

/// From a receiver to a backend in version 2.0.
const CONFIG_2: &str = "
receivers:
  prometheusremotewrite: {endpoint: <one>}
exporters:
  prometheusremotewrite:
    endpoint: http://<backend>/api/v1/write
    protobuf_message: io.prometheus.write.v2.Request
service:
  pipelines:
    metrics: {receivers: [prometheusremotewrite], exporters: [prometheusremotewrite]}
";

/// Scenario: Prometheus' own library for 2.0 writes a series of every kind, and is what is written to.
/// Guarantees: it is told how much was written; each series comes back with its labels, values, kind, texts and exemplars.
#[tokio::test(flavor = "multi_thread")]
async fn series_of_prometheus_own_library_come_back() {
    let _turn = TURN.lock().await;
    let backend = free_address();
    let weir = Weir::start_as(Profile::Release, CONFIG_2, &[("backend", backend)]).await;
    let program = tokio::task::spawn_blocking(install::go_remote_write).await.expect("it is built");
    let mut command = Command::new(program);
    command.arg(format!("http://{}", weir.address("one"))).arg(backend.to_string()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output()).await;
    let output = output.expect("it ends in time").expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    let lines: Vec<Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    let of = |what: &str| -> BTreeSet<String> {
        lines.iter().filter_map(|line| line.get(what)).map(Value::to_string).collect()
    };
    assert_eq!(of("came"), of("sent"));
    assert_eq!(of("sent").len(), 12);
    weir.stop().await;
}
