//! An exporter that is fetched from: readers fast and slow, reloads, an instance that ends.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::Full;
use prost::Message as _;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use weir_proto::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use weir_proto::opentelemetry::proto::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric, number_data_point,
};
use weir_tests::client::HttpClient;
use weir_tests::wait::until;
use weir_tests::{Profile, Weir, wait_until};

use crate::hostile::wasm;
use crate::run::{DELIVERY_DEADLINE, command, deadline};

/// How soon a state is there that nobody delays.
const SOON: Duration = Duration::from_secs(20);

/// Bytes of a page of many MiB.
const LARGE: usize = 24 << 20;

const BOARD: &str = "receivers:
  otlp: {protocols: {http: {endpoint: <otlp>}}}
exporters:
  board: {plugin: board, settings: {endpoint: <page>}, limits: {request_timeout: 2s}}
service:
  drain_timeout: 5s
  plugin_dir: FOLDER
  pipelines:
    metrics: {receivers: [otlp], exporters: [board]}
";

/// A daemon with a board, and the folder of its plugin.
struct Stage {
    weir: Weir,
    http: HttpClient,
    config: String,
    _folder: TempDir,
}

async fn folder() -> TempDir {
    let folder = TempDir::with_prefix("weir-page-").expect("a folder for plugins");
    std::fs::write(folder.path().join("board.wasm"), wasm("board").await).expect("the folder is ours");
    folder
}

fn within(config: &str, folder: &Path) -> String {
    config.replace("FOLDER", folder.to_str().expect("a path of ours"))
}

impl Stage {
    async fn start() -> Self {
        let folder = folder().await;
        let config = within(BOARD, folder.path());
        let weir = Weir::start(&config, &[]).await;
        Self { weir, http: HttpClient::of_fresh_connections(), config, _folder: folder }
    }

    /// Sends one point of a metric of this name.
    async fn push(&self, name: &str) {
        let answer = self
            .http
            .post(self.weir.address("otlp"), "/v1/metrics", "application/x-protobuf", one_point(name))
            .await;
        let answer = answer.expect("the door is open");
        assert_eq!(answer.status(), 200, "{:?}", answer.body());
    }

    async fn ask(&self, method: Method, path: &str, headers: &[(&str, &str)]) -> Response<Bytes> {
        let address = self.weir.address("page");
        let mut request = Request::builder().method(method).uri(format!("http://{address}{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::default()).expect("a request that a test wrote");
        self.http.send(request).await.expect("the page answers")
    }

    async fn page(&self) -> String {
        let answer = self.ask(Method::GET, "/metrics", &[]).await;
        assert_eq!(answer.status(), 200, "{:?}", answer.body());
        String::from_utf8(answer.into_body().into()).expect("the page is text")
    }

    /// Waits until all of these are on the page.
    async fn shows(&self, names: &[&str]) -> String {
        let shown = until(DELIVERY_DEADLINE, async || {
            let page = self.page().await;
            names.iter().all(|name| page.contains(name)).then_some(page)
        });
        shown.await.unwrap_or_else(|| panic!("{names:?} are not on the page:\n{}", self.weir.log().tail()))
    }

    async fn counted(&self, name: &str) -> f64 {
        self.weir.metrics().await.value(name, &[("exporter", "board")]).unwrap_or(-1.0)
    }

    /// Writes another configuration and waits until the log has a line with all of these.
    async fn becomes(&mut self, config: &str, told: &[&str]) {
        let count = |weir: &Weir| {
            weir.log().lines().iter().filter(|line| told.iter().all(|part| line.contains(part))).count()
        };
        let before = count(&self.weir);
        self.weir.reconfigure(config);
        wait_until(deadline(SOON), "the reload is told", || (count(&self.weir) > before).then_some(())).await;
    }
}

fn one_point(name: &str) -> Vec<u8> {
    let point = NumberDataPoint {
        time_unix_nano: 1_700_000_000_000_000_000,
        value: Some(number_data_point::Value::AsInt(7)),
        ..NumberDataPoint::default()
    };
    let metric = Metric {
        name: name.to_owned(),
        data: Some(metric::Data::Gauge(Gauge { data_points: vec![point] })),
        ..Metric::default()
    };
    let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
    ExportMetricsServiceRequest { resource_metrics }.encode_to_vec()
}

/// What the board has under `/lines/…`.
fn lines(bytes: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(bytes + 32);
    for number in 0.. {
        text.extend_from_slice(format!("line {number}\n").as_bytes());
        if text.len() >= bytes {
            break;
        }
    }
    text.truncate(bytes);
    text
}

/// Scenario: metrics are pushed by OTLP, one request after the other; the page is fetched, by HEAD and POST too, and other
/// paths; a page of many MiB is fetched as it is and packed.
/// Guarantees: every metric is on the page, in order; what is not GET is answered by its rule, without the plugin; the large
/// page comes whole and in order both ways; everything is counted and the log names the address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_pushed_is_on_the_page() {
    let stage = Stage::start().await;
    let names: Vec<String> = (0..5).map(|number| format!("pushed_{number}")).collect();
    for name in &names {
        stage.push(name).await;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let page = stage.shows(&names).await;
    assert!(
        page.starts_with("batches ") && page.lines().next().is_some_and(|l| l.ends_with(" items 5")),
        "{page}"
    );
    let places: Vec<_> = names.iter().map(|name| page.find(name)).collect();
    assert!(places.is_sorted(), "out of order:\n{page}");

    let head = stage.ask(Method::HEAD, "/metrics", &[]).await;
    assert_eq!((head.status().as_u16(), head.body().len()), (200, 0));
    assert_eq!(head.headers()["content-length"], page.len().to_string());
    assert_eq!(head.headers()["content-type"], "text/plain; version=0.0.4");
    assert_eq!(stage.ask(Method::POST, "/metrics", &[]).await.status(), 405);
    assert_eq!(stage.ask(Method::GET, "/elsewhere", &[]).await.status(), 404);

    let path = format!("/lines/{LARGE}");
    let plain = stage.ask(Method::GET, &path, &[]).await;
    assert_eq!(plain.headers()["content-length"], LARGE.to_string());
    assert!(plain.body() == &lines(LARGE), "{} bytes came", plain.body().len());
    let packed = stage.ask(Method::GET, &path, &[("accept-encoding", "gzip")]).await;
    assert_eq!(packed.headers()["content-encoding"], "gzip");
    assert!(packed.body().len() < LARGE / 2, "{} bytes came", packed.body().len());
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(packed.body().as_ref()).read_to_end(&mut text).expect("it is gzip");
    assert!(text == lines(LARGE), "{} bytes came", text.len());

    assert_eq!(stage.counted("weir_page_refused_total").await, 1.0);
    assert!(stage.counted("weir_page_served_total").await >= 5.0);
    assert!(stage.counted("weir_page_bytes_total").await > LARGE as f64);
    assert_eq!(stage.counted("weir_page_cut_total").await, 0.0);
    let address = stage.weir.address("page").to_string();
    assert!(stage.weir.log().find(&["listening", "exporter=\"board\"", &address]).is_some());
    assert_eq!(stage.weir.health().await.1["status"], "ok");
    stage.weir.stop().await;
}

/// Scenario: a reader asks for a page of many MiB and reads nothing of it, while metrics are pushed and others read.
/// At last another reads nothing while the daemon is told to end.
/// Guarantees: what is pushed is delivered and read meanwhile; the reader is cut when its time is over, and counted; the
/// other holds up no end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_that_stops_does_not_stop_the_page() {
    let stage = Stage::start().await;
    let reader = idle_reader(&stage.weir).await;
    for number in 0..5 {
        let name = format!("meanwhile_{number}");
        stage.push(&name).await;
        stage.shows(&[&name]).await;
    }
    let cut =
        until(deadline(SOON), async || (stage.counted("weir_page_cut_total").await == 1.0).then_some(()));
    cut.await.expect("the reader is cut");
    stage.weir.metric_becomes(deadline(SOON), "weir_page_under_way", &[("exporter", "board")], 0.0).await;
    drop(reader);
    stage.push("afterwards").await;
    stage.shows(&["meanwhile_0", "afterwards"]).await;
    let _reader = idle_reader(&stage.weir).await;
    stage.weir.stop().await;
}

/// Somebody who has asked for a large page and reads none of it.
async fn idle_reader(weir: &Weir) -> TcpStream {
    let mut reader = TcpStream::connect(weir.address("page")).await.expect("the page is open");
    let head = format!("GET /lines/{LARGE} HTTP/1.1\r\nhost: a\r\n\r\n");
    reader.write_all(head.as_bytes()).await.expect("it is taken");
    reader.readable().await.expect("the page begins");
    reader
}

/// Scenario: the file changes in something else; the page's address moves to a stranger's port; then to a free one; back to
/// the first; there it gets another title; then it and the receiver exchange their addresses.
/// Guarantees: the first leaves what is on the page; the second is refused with the address, and what runs goes on; then the
/// page is at its new address and no longer at the old one, fresh, and its counters go on; an address that one door lets go
/// is the next one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_keeps_the_page_that_did_not_change() {
    const RELOADED: &[&str] = &["configuration reloaded", "failed=0"];
    let mut stage = Stage::start().await;
    stage.push("before").await;
    stage.shows(&["before"]).await;
    let config = stage.config.clone();
    let other = config
        .replace("drain_timeout: 5s", "drain_timeout: 6s")
        .replace("exporters: [board]", "processors: [batch], exporters: [board]");
    let other = other.replace("exporters:\n", "processors:\n  batch: {items: 10, timeout: 0s}\nexporters:\n");
    stage.becomes(&other, RELOADED).await;
    assert!(stage.page().await.contains("before"), "the page was lost in a reload that did not touch it");

    let stranger = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = stranger.local_addr().expect("it is bound").to_string();
    stage.weir.log().announce("reload refused");
    let wrong = other.replace("endpoint: <page>", &format!("endpoint: '{taken}'"));
    stage.becomes(&wrong, &["reload refused", "page of exporter board", "in use", &taken]).await;
    let health = stage.weir.health().await.1;
    assert!(health["problems"][0]["what"].as_str().is_some_and(|what| what.contains(&taken)), "{health}");
    assert!(stage.page().await.contains("before"));

    let served = stage.counted("weir_page_served_total").await;
    stage.weir.log().announce("page starts empty");
    let old = stage.weir.address("page");
    stage.becomes(&other.replace("<page>", "<page2>"), RELOADED).await;
    let moved: SocketAddr = stage.weir.address("page2");
    let answer = stage.http.get(moved, "/metrics").await.expect("the page has moved");
    assert!(answer.body().starts_with(b"batches 0 "), "{:?}", answer.body());
    assert!(TcpStream::connect(old).await.is_err(), "the old port is open");
    assert!(stage.counted("weir_page_served_total").await > served);

    stage.becomes(&other, RELOADED).await;
    let titled = other.replace("endpoint: <page>}", "endpoint: <page>, title: other}");
    stage.becomes(&titled, RELOADED).await;
    stage.push("after").await;
    assert!(!stage.shows(&["after"]).await.contains("before"));

    let exchanged = titled.replace("<otlp>", "<x>").replace("<page>", "<otlp>").replace("<x>", "<page>");
    stage.becomes(&exchanged, RELOADED).await;
    let (door, page) = (stage.weir.address("page"), stage.weir.address("otlp"));
    let sent = stage.http.post(door, "/v1/metrics", "application/x-protobuf", one_point("exchanged")).await;
    assert_eq!(sent.expect("the receiver is where the page was").status(), 200);
    let shown = until(DELIVERY_DEADLINE, async || {
        let answer = stage.http.get(page, "/metrics").await.expect("the page is where the receiver was");
        String::from_utf8_lossy(answer.body()).contains("exchanged").then_some(())
    });
    shown.await.expect("what is pushed is on the page");
    assert_eq!(stage.weir.health().await.1["status"], "ok");
    stage.weir.stop().await;
}

/// Scenario: the file changes what is the door's and the delivery's: a reader's time, the waits between tries, the queue; then
/// how long a try may take, which is the plugin's.
/// Guarantees: the first leave what is on the page, at a door with the new limit, and deliver to it; the last begins with an
/// empty page, and the log says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_of_door_and_delivery_keeps_what_is_on_the_page() {
    const RELOADED: &[&str] = &["configuration reloaded", "restarted=\"exporter board", "failed=0"];
    let mut stage = Stage::start().await;
    stage.push("before").await;
    stage.shows(&["before"]).await;
    let mut config = stage.config.clone();
    for (old, new, name) in [
        ("request_timeout: 2s", "request_timeout: 3s", "with_limits"),
        ("<page>}, ", "<page>}, retry: {initial_interval: 10ms}, ", "with_retry"),
        ("<page>}, ", "<page>}, queue: {when_full: skip_oldest}, ", "with_queue"),
    ] {
        config = config.replace(old, new);
        stage.becomes(&config, RELOADED).await;
        stage.push(name).await;
        stage.shows(&["before", name]).await;
    }
    assert!(stage.weir.log().find(&["page starts empty"]).is_none());
    stage.weir.log().announce("page starts empty");
    stage.becomes(&config.replace("<page>}, ", "<page>}, timeout: 5s, "), RELOADED).await;
    assert!(stage.weir.log().find(&["page starts empty", "exporter=board"]).is_some());
    stage.push("after").await;
    assert!(!stage.shows(&["after"]).await.contains("before"));
    assert_eq!(stage.weir.health().await.1["status"], "ok");
    stage.weir.stop().await;
}

/// Scenario: the instance of a page traps while it is fetched.
/// Guarantees: the reader is told to come again and the end is counted; a fresh page takes what is pushed from then on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_that_ends_is_followed_by_a_fresh_page() {
    let stage = Stage::start().await;
    for announced in ["plugin instance ended", "plugin starts empty", "by design"] {
        stage.weir.log().announce(announced);
    }
    stage.push("before").await;
    stage.shows(&["before"]).await;
    let answer = stage.ask(Method::GET, "/trap", &[]).await;
    assert_eq!(answer.status(), 503, "{:?}", answer.body());
    assert!(answer.headers().contains_key("retry-after"));
    assert!(stage.page().await.starts_with("batches 0 items 0\n"));
    stage.push("after").await;
    assert!(!stage.shows(&["after"]).await.contains("before"));
    let ends = [("id", "board"), ("end", "trap")];
    assert_eq!(stage.weir.metrics().await.value("weir_plugin_ends_total", &ends), Some(1.0));
    assert_eq!(stage.counted("weir_page_refused_total").await, 1.0);
    stage.weir.stop().await;
}

/// Scenario: a page with a certificate; somebody asks for it in plaintext; then the certificate's file is garbage, which a
/// SIGHUP and a start meet.
/// Guarantees: nothing comes in plaintext; what serves goes on with the certificate that it has, and with what is on the page;
/// the start is refused by the file's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_with_a_certificate_is_not_read_in_plaintext() {
    let folder = folder().await;
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("../host/net/tests/data");
    let (cert, key) = (folder.path().join("page.pem"), folder.path().join("page.key"));
    std::fs::copy(data.join("server.pem"), &cert).expect("our folder");
    std::fs::copy(data.join("server.key"), &key).expect("our folder");
    let tls = format!("}}, tls: {{cert_file: '{}', key_file: '{}'}}, limits", cert.display(), key.display());
    let config = within(BOARD, folder.path()).replace("}, limits", &tls);
    let mut weir = Weir::start(&config, &[]).await;
    let http = HttpClient::of_fresh_connections();
    assert!(http.get(weir.address("page"), "/metrics").await.is_err(), "it was read in plaintext");
    std::fs::write(&cert, "no certificate").expect("our folder");
    weir.log().announce("certificates not read again");
    hang_up(&weir);
    let told = || weir.log().find(&["certificates not read again", "exporter=board", "page.pem"]);
    wait_until(deadline(SOON), "the file is read again", told).await;
    let reloaded = || weir.log().find(&["configuration reloaded"]);
    let reloaded = wait_until(deadline(SOON), "the reload is told", reloaded).await;
    assert!(reloaded.contains("restarted=\"nothing\""), "the exporter was made anew: {reloaded}");
    assert!(weir.terminate().await.success());
    let file = weir.config_path();
    let said = command(weir.binary(), &["run", "--config", file.to_str().expect("a path of ours")]).await;
    assert!(said.code != Some(0) && said.err.contains("page.pem"), "{said:?}");
}

fn hang_up(weir: &Weir) {
    let pid = i32::try_from(weir.pid()).ok().and_then(Pid::from_raw).expect("a process has a number");
    kill_process(pid, Signal::HUP).expect("our own process may be told");
}

/// Scenario: a start on a port that is a stranger's; a file in which page and receiver have one port; a page that others can
/// reach in plaintext; keys that only pages have at another exporter, and keys that pages have not.
/// Guarantees: each is refused, with the address or the key.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_cannot_be_is_refused_by_name() {
    let folder = folder().await;
    let binary = tokio::task::spawn_blocking(|| weir_tests::binary::weir(Profile::Same));
    let binary = binary.await.expect("the binary is built");
    let stranger = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = stranger.local_addr().expect("it is bound").to_string();
    let off =
        "  telemetry: {metrics: {enabled: false}}\n  health: {enabled: false}\n  queue: {storage: memory}\n";
    let base = within(BOARD, folder.path()).replace("service:\n", &format!("service:\n{off}"));
    let file = folder.path().join("weir.yaml");
    let path = file.to_str().expect("a path of ours");
    let write = |otlp: &str, page: &str| {
        std::fs::write(&file, base.replace("<otlp>", otlp).replace("<page>", page)).expect("our folder");
    };
    write("'127.0.0.1:0'", &format!("'{taken}'"));
    let said = command(&binary, &["run", "--config", path]).await;
    assert!(said.code != Some(0) && said.err.contains("serve the page of exporter board"), "{said:?}");
    assert!(said.err.contains(&taken) && said.err.contains("in use"), "{}", said.err);
    assert!(
        command(&binary, &["validate", path]).await.well().text().contains(&format!("board page on {taken}"))
    );

    let cases: [(&str, &str, &[&str]); 6] = [
        (
            "'127.0.0.1:7001'",
            "'127.0.0.1:7001'",
            &["receiver `otlp` (http)", "exporter `board`", "same port 7001"],
        ),
        ("'127.0.0.1:7001'", "'0.0.0.0:7002'", &["can be reached from other machines, and there is no TLS"]),
        ("'127.0.0.1:7001'", "'localhost'", &["no address to listen on"]),
        (
            "'127.0.0.1:7001'",
            "'127.0.0.1:7002'}, auth: {bearer: s3cr3t",
            &["exporters.board.auth", "client_ca_file"],
        ),
        ("'127.0.0.1:7001'", "'127.0.0.1:7002'}, pool: {instances: 2", &["exporters.board.pool", "no pool"]),
        (
            "'127.0.0.1:7001'",
            "'127.0.0.1:7002'}, tls: {client_ca_file: ca.pem",
            &["TLS without a certificate"],
        ),
    ];
    for (otlp, page, parts) in cases {
        write(otlp, page);
        let said = command(&binary, &["validate", path]).await;
        assert_eq!(said.code, Some(78), "{page}: {said:?}");
        let told = format!("{}{}", said.text(), said.err);
        parts.iter().for_each(|part| assert!(told.contains(part), "{page}: no {part:?} in {told}"));
    }
    let zipkin = "zipkin: {endpoint: 'http://127.0.0.1:9/', limits: {age_max: 1m}}";
    let config = base.replace("<otlp>", "'127.0.0.1:7001'").replace("<page>", "'127.0.0.1:7002'");
    let config = config.replace("exporters:\n", &format!("exporters:\n  {zipkin}\n"));
    std::fs::write(&file, config).expect("our folder");
    let said = command(&binary, &["validate", path]).await;
    let told = format!("{}{}", said.text(), said.err);
    assert!(told.contains("exporters.zipkin.limits.age_max") && told.contains("for pages alone"), "{told}");
}
