//! Prometheus: its client library and `node_exporter` as targets, the server as who reads what we show, who writes to us, and
//! who is written to.
//!
//! ```text
//! prometheus_client, node_exporter ──▶ weir: prometheus receiver ──▶ prometheus exporter ──▶ a Prometheus (via="weir")
//!               └────────────────────────────────────────────────────────────────────────▶ the same (via="itself")
//!
//! prometheus_client ──▶ a Prometheus ──▶ weir: prometheusremotewrite, receiver and exporter ──▶ another Prometheus
//! ```

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::process::Stdio;

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use weir_tests::client::HttpClient;
use weir_tests::port::free_address;
use weir_tests::wait::until;
use weir_tests::{Profile, Weir};

use crate::client::Client;
use crate::install::{debian, python, sources};
use crate::stage::{DEADLINE, TURN};

/// A Prometheus server with a folder of its own.
pub(crate) struct Prometheus {
    pub(crate) address: SocketAddr,
    http: HttpClient,
    folder: TempDir,
    _child: Child,
}

/// Series by their labels, with the value as Prometheus writes it.
type Series = BTreeMap<BTreeMap<String, String>, String>;

impl Prometheus {
    /// Starts one that scrapes and writes as `config` says, and waits until it is ready.
    pub(crate) async fn start(config: &str) -> Self {
        Self::start_at(free_address(), config).await
    }

    /// As [`Prometheus::start`], at this address.
    pub(crate) async fn start_at(address: SocketAddr, config: &str) -> Self {
        let folder = TempDir::with_prefix("prometheus-").expect("a folder for a server");
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("its folder is there");
        let mut command = Command::new(debian("prometheus"));
        command.arg(format!("--config.file={}", file.display()));
        command.arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}"));
        command.args(["--web.enable-remote-write-receiver", "--enable-feature=exemplar-storage"]);
        let log = std::fs::File::create(folder.path().join("log")).expect("its folder is there");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let server = Self { address, http: HttpClient::default(), folder, _child: child };
        let ready = until(DEADLINE, async || {
            let answer = server.http.get(address, "/-/ready").await;
            answer.is_ok_and(|answer| answer.status() == 200).then_some(())
        });
        if ready.await.is_none() {
            let log = std::fs::read_to_string(server.folder.path().join("log")).unwrap_or_default();
            panic!("Prometheus is not ready:\n{log}");
        }
        server
    }

    /// What it answers to a query for one moment, or for now: values by their labels.
    pub(crate) async fn at(&self, query: &str, time: Option<&str>) -> BTreeMap<String, String> {
        let escaped: String = query.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let time = time.map(|time| format!("&time={time}")).unwrap_or_default();
        let answer = self.http.get(self.address, &format!("/api/v1/query?query={escaped}{time}")).await;
        let Ok(answer) = answer else { return BTreeMap::new() };
        let answer: Value = serde_json::from_slice(answer.body()).expect("Prometheus answers in JSON");
        let found = answer["data"]["result"].as_array().cloned().unwrap_or_default();
        let value = |found: &Value| found["value"][1].as_str().expect("a value").to_owned();
        found.iter().map(|found| (found["metric"].to_string(), value(found))).collect()
    }

    /// What an instant query of these labels gives, without `without`.
    async fn query(&self, selector: &str, without: &str) -> Series {
        let escaped: String = selector.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let answer = self.http.get(self.address, &format!("/api/v1/query?query={escaped}")).await;
        let answer: Value = serde_json::from_slice(answer.expect("it answers").body()).expect("JSON");
        assert_eq!(answer["status"], "success", "{selector}: {answer}");
        let result = answer["data"]["result"].as_array().expect("a vector");
        let series = result.iter().map(|one| {
            let labels = one["metric"].as_object().expect("labels").iter();
            let labels = labels.filter(|(name, _)| *name != without);
            let text = |value: &Value| value.as_str().expect("a text").to_owned();
            (labels.map(|(name, value)| (name.clone(), text(value))).collect(), text(&one["value"][1]))
        });
        series.collect()
    }
}

/// Two targets, one of which says what never changes.
const CONFIG: &str = "
receivers:
  prometheus:
    config:
      scrape_configs:
        - {job_name: app, scrape_interval: 500ms, scrape_timeout: 500ms, static_configs: [{targets: ['<app>']}]}
        - {job_name: node, scrape_interval: 500ms, scrape_timeout: 500ms, static_configs: [{targets: ['<node>']}]}
exporters:
  prometheus: {endpoint: <page>, without_scope_info: true}
service:
  pipelines:
    metrics: {receivers: [prometheus], exporters: [prometheus]}
";

/// What the server that reads both ends is told.
fn both_ends(app: SocketAddr, node: SocketAddr, page: SocketAddr) -> String {
    format!(
        "
global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
scrape_configs:
  - {{job_name: app, static_configs: [{{targets: ['{app}'], labels: {{via: itself}}}}]}}
  - {{job_name: node, static_configs: [{{targets: ['{node}'], labels: {{via: itself}}}}]}}
  - {{job_name: weir, honor_labels: true, static_configs: [{{targets: ['{page}'], labels: {{via: weir}}}}]}}
"
    )
}

fn node_exporter(address: SocketAddr) -> Child {
    let mut command = Command::new(debian("prometheus-node-exporter"));
    // Its own runtime and what changes from scrape to scrape are no base for a comparison.
    command.args(["--web.disable-exporter-metrics", "--collector.disable-defaults"]);
    command.args(["--collector.uname", "--collector.os", "--collector.filefd", "--collector.netclass"]);
    command.arg(format!("--web.listen-address={address}"));
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Scenario: a program with Prometheus' own client and a `node_exporter` are scraped by Weir, and its page by a Prometheus that
/// scrapes both as well. Then a series of the program goes away.
/// Guarantees: the same query gives the same series, labels and values at both ends, `up` among them; what is gone at the one end
/// is gone at the other.
#[tokio::test(flavor = "multi_thread")]
async fn a_prometheus_reads_from_our_page_what_it_reads_from_the_targets() {
    let _turn = TURN.lock().await;
    let (app, node) = (free_address(), free_address());
    let mut command = Command::new(python("prometheus"));
    command.arg(sources("python").join("prometheus_target.py")).arg(app.to_string());
    let mut target = Client::start(&mut command);
    let _node = node_exporter(node);
    let weir = Weir::start_as(Profile::Release, CONFIG, &[("app", app), ("node", node)]).await;
    let server = Prometheus::start(&both_ends(app, node, weir.address("page"))).await;

    // Ours and the server's own figures of a scrape differ in what they measure; where the target is, only we tell.
    let app_series = r#"{job="app",__name__!~"scrape_.*|.*_created|target_info",via="VIA"}"#;
    let kinds = same(&server, app_series, 17).await;
    let has = |name: &str| kinds.keys().any(|labels| labels["__name__"] == name);
    for name in ["up", "orders_total", "temperature_celsius", "latency_seconds_bucket", "size_bytes_sum"] {
        assert!(has(name), "{name} in {kinds:?}");
    }
    let node_series = r#"{job="node",__name__!~"scrape_.*|.*_duration_seconds|node_filefd_allocated|node_network_.*_bytes|target_info",via="VIA"}"#;
    same(&server, node_series, 5).await;

    target.command("gone").await;
    let gone = until(DEADLINE, async || {
        let series = server.query(r#"{__name__="queue_items",queue="out"}"#, "").await;
        series.is_empty().then_some(())
    });
    assert!(gone.await.is_some(), "a series that the target has no more is still on our page");
    same(&server, app_series, 16).await;
    // First who scrapes: a target that ends in the middle of a scrape is worth a warning.
    weir.stop().await;
    target.finish().await;
}

/// Waits until both ends have the same of these series, and so many at least; returns them.
async fn same(server: &Prometheus, selector: &str, least: usize) -> Series {
    let ask = async |via: &str| server.query(&selector.replace("VIA", via), "via").await;
    equal(async || ask("itself").await, async || ask("weir").await, least).await
}

/// Waits until both have the same series, and so many at least; returns them.
async fn equal(one: impl AsyncFn() -> Series, other: impl AsyncFn() -> Series, least: usize) -> Series {
    let found = until(DEADLINE, async || {
        let (a, b) = (one().await, other().await);
        (a == b && a.len() >= least).then_some(a)
    });
    if let Some(series) = found.await {
        return series;
    }
    let (a, b) = (one().await, other().await);
    let only = |a: &Series, b: &Series| -> String {
        let differs = a.iter().filter(|(labels, value)| b.get(*labels) != Some(value));
        differs.map(|(labels, value)| format!("{labels:?} {value}\n")).collect()
    };
    let (count, lost, strange) = (a.len(), only(&a, &b), only(&b, &a));
    panic!(
        "of {count} series, of which {least} were waited for,\nonly at the first:\n{lost}only at the other:\n{strange}"
    )
}

/// What a Prometheus wrote goes on to the next.
const RELAY: &str = "
receivers:
  prometheusremotewrite: {endpoint: <entry>}
exporters:
  prometheusremotewrite: {endpoint: 'http://<second>/api/v1/write'}
service:
  pipelines:
    metrics: {receivers: [prometheusremotewrite], exporters: [prometheusremotewrite]}
";

/// What the first server is told.
fn writes_to(app: SocketAddr, weir: SocketAddr) -> String {
    format!(
        "
global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
scrape_configs:
  - {{job_name: app, static_configs: [{{targets: ['{app}']}}]}}
remote_write:
  - {{url: 'http://{weir}/api/v1/write', send_exemplars: true, metadata_config: {{send_interval: 1s}}, queue_config: {{batch_send_deadline: 200ms}}}}
"
    )
}

/// Scenario: a Prometheus scrapes a program and writes to Weir, which writes to another Prometheus; then a series of the program
/// goes away.
/// Guarantees: the same query gives the same series, labels and values at both servers, buckets and `up` among them; what is stale
/// at the one is stale at the other; nothing was rejected.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_prometheus_writes_is_the_same_at_the_next() {
    let _turn = TURN.lock().await;
    let app = free_address();
    let mut command = Command::new(python("prometheus"));
    command.arg(sources("python").join("prometheus_target.py")).arg(app.to_string());
    let mut target = Client::start(&mut command);
    let second = Prometheus::start("").await;
    let weir = Weir::start_as(Profile::Release, RELAY, &[("second", second.address)]).await;
    let first = Prometheus::start(&writes_to(app, weir.address("entry"))).await;

    let constant = r#"{job="app",__name__!~"scrape_.*"}"#;
    let series = alike(&first, &second, constant, 21).await;
    let bucket = |labels: &BTreeMap<String, String>| labels.get("le").is_some_and(|le| le == "+Inf");
    assert!(series.keys().any(bucket), "{series:?}");
    target.command("gone").await;
    let gone = until(DEADLINE, async || {
        let left = second.query(r#"{__name__="queue_items",queue="out"}"#, "").await;
        left.is_empty().then_some(())
    });
    assert!(gone.await.is_some(), "a series that went away at the first server is still at the second");
    alike(&first, &second, constant, 20).await;
    let page = weir.metrics().await;
    let is_loss = |name: &str| {
        ["refused", "dropped", "dead_letter", "rejected", "failed"].iter().any(|word| name.contains(word))
    };
    let lost: Vec<_> = page.samples().iter().filter(|s| is_loss(&s.name) && s.value != 0.0).collect();
    assert!(lost.is_empty(), "{lost:?}");
    target.finish().await;
    weir.stop().await;
}

/// Waits until both servers answer a query alike, with so many series at least.
async fn alike(first: &Prometheus, second: &Prometheus, selector: &str, least: usize) -> Series {
    equal(async || first.query(selector, "").await, async || second.query(selector, "").await, least).await
}
