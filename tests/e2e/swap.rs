//! A plugin's file is replaced, by good ones and bad ones, under load.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use weir_tests::batch::hex;
use weir_tests::client::{Grpc, frame};
use weir_tests::sink::grpc_path;
use weir_tests::{BatchId, Protocol, Shape, Weir, ZipkinSink, wait_until};
use weir_wire::Signal;

use crate::run::{DELIVERY_DEADLINE, PENDING, alone, command, deadline, figure};

const SHAPE: Shape = Shape { spans: 5, attributes: 2, value_bytes: 10 };

/// Nodes that send, each over one connection for the whole story.
const SENDERS: u32 = 4;

/// How often each sends a batch.
const PACE: Duration = Duration::from_millis(20);

/// How long a changed file may take to be told: two looks, and its compilation.
const TOLD: Duration = Duration::from_secs(15);

/// Batches that are delivered on each code before the next change.
const BATCHES: u64 = 25;

/// The version in the exporter's file, and where it stands.
const VERSION: &str = "zipkin-exporter0.1.0";

/// The exporter as the daemon has it with it.
fn built() -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins");
    let workspace = crate::guests::Workspace::new(folder.clone(), folder.join("target"));
    workspace.build("zipkin-exporter").unwrap_or_else(|why| panic!("{why}"))
}

/// The same code under another version.
fn in_version(wasm: &[u8], version: &str) -> Vec<u8> {
    replaced(wasm, VERSION, &format!("zipkin-exporter{version}"))
}

/// The component with one text replaced by another of the same length, wherever it stands.
fn replaced(wasm: &[u8], from: &str, to: &str) -> Vec<u8> {
    assert_eq!(to.len(), from.len());
    let mut wasm = wasm.to_vec();
    let found = |at: &usize| wasm[*at..].starts_with(from.as_bytes());
    let places: Vec<usize> = (0..wasm.len()).filter(found).collect();
    assert!(!places.is_empty(), "{from:?} is not in the component");
    for at in places {
        wasm[at..at + to.len()].copy_from_slice(to.as_bytes());
    }
    wasm
}

// === senders ===

/// Senders, and what they were told.
struct Crew {
    sending: JoinSet<Result<Vec<BatchId>, String>>,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
}

impl Crew {
    fn start(address: SocketAddr) -> Self {
        let mut crew = Self { sending: JoinSet::new(), acknowledged: Arc::default(), stop: Arc::default() };
        for sender in 0..SENDERS {
            let (acknowledged, stop) = (Arc::clone(&crew.acknowledged), Arc::clone(&crew.stop));
            crew.sending.spawn(send(sender, address, acknowledged, stop));
        }
        crew
    }

    /// Every batch that was acknowledged.
    ///
    /// # Panics
    /// Where a connection was cut, or a batch was not taken.
    async fn stop(self) -> Vec<BatchId> {
        self.stop.store(true, Ordering::Relaxed);
        let told = self.sending.join_all().await;
        told.into_iter()
            .flat_map(|told| told.unwrap_or_else(|why| panic!("a sender was cut: {why}")))
            .collect()
    }
}

/// Sends until it is told to stop, over one connection that must last.
async fn send(
    sender: u32,
    address: SocketAddr,
    acknowledged: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Result<Vec<BatchId>, String> {
    let mut connection = Grpc::connect(address).await?;
    let mut beat = tokio::time::interval(PACE);
    beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut taken = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        beat.tick().await;
        let id = BatchId { sender, number: taken.len() as u64 };
        let body = id.encode(SHAPE, Protocol::OtlpGrpc);
        let outcome = connection.call_framed(grpc_path(Signal::Traces), frame(&body)).await?;
        if outcome.status.code != 0 {
            return Err(format!("{id:?} was not taken: {:?}", outcome.status));
        }
        taken.push(id);
        acknowledged.fetch_add(1, Ordering::Relaxed);
    }
    if connection.is_closed() { Err("the connection is closed".to_owned()) } else { Ok(taken) }
}

/// How often each span came, by its ids.
fn came(sink: &ZipkinSink) -> HashMap<(String, String), u64> {
    let mut seen = HashMap::new();
    for span in sink.spans() {
        let text = |key: &str| span[key].as_str().expect("the sink has looked").to_owned();
        *seen.entry((text("traceId"), text("id"))).or_default() += 1;
    }
    seen
}

/// All spans of these batches came; how many came again.
fn assert_arrived(sink: &ZipkinSink, acknowledged: &[BatchId]) -> u64 {
    let seen = came(sink);
    let spans = acknowledged.iter().flat_map(|id| (0..SHAPE.spans).map(|index| id.span(SHAPE, index)));
    let mut wanted = 0;
    for span in spans {
        wanted += 1;
        let ids = (hex(&span.trace_id), hex(&span.span_id));
        assert!(seen.contains_key(&ids), "an acknowledged span did not arrive: {ids:?}");
    }
    assert_eq!(sink.complaints(), Vec::<String>::new());
    let again = seen.values().sum::<u64>() - seen.len() as u64;
    eprintln!(
        "swap: {} batches acknowledged, {wanted} spans arrived, {again} of them again",
        acknowledged.len()
    );
    again
}

// === the folder ===

/// What happens to the file.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// Another version, put there by a rename.
    OtherVersion,
    /// Random bytes, written over it.
    Noise,
    /// The first version, put there by a rename.
    Good,
    /// The first half of it, written over it.
    Truncated,
    /// It is removed, so that the bundled plugin serves; then it is put back in yet another version, by a copy.
    RemovedAndBack,
}

const CHANGES: [Change; 5] =
    [Change::OtherVersion, Change::Noise, Change::Good, Change::Truncated, Change::RemovedAndBack];

/// A daemon with a plugin folder.
struct Story {
    weir: Weir,
    /// With names in the place of addresses.
    config: String,
    folder: TempDir,
    wasm: Vec<u8>,
    /// Other versions so far.
    versions: u32,
    file: &'static str,
}

impl Story {
    /// The exporter `id` from `file` of a plugin folder.
    async fn begin(sink: &ZipkinSink, file: &'static str, exporter: &str) -> Self {
        let wasm = tokio::task::spawn_blocking(built).await.expect("the exporter is built");
        let folder = TempDir::with_prefix("weir-plugins-").expect("a folder");
        std::fs::write(folder.path().join(file), &wasm).expect("our folder");
        let config = format!(
            "receivers:
  otlp: {{protocols: {{grpc: {{endpoint: <otlp>}}}}}}
exporters:
  {exporter}
service:
  plugin_dir: {}
  pipelines:
    traces: {{receivers: [otlp], exporters: [{}]}}
",
            folder.path().display(),
            exporter.split(':').next().expect("an id"),
        );
        let weir = Weir::start(&config, &[("sink", sink.address())]).await;
        Self { weir, config, folder, wasm, versions: 0, file }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(self.file)
    }

    /// As `cp` does.
    fn copy(&self, bytes: &[u8]) {
        std::fs::write(self.path(), bytes).expect("our folder");
    }

    /// As `mv` does.
    fn rename(&self, bytes: &[u8]) {
        let aside = self.folder.path().join("aside");
        std::fs::write(&aside, bytes).expect("our folder");
        std::fs::rename(aside, self.path()).expect("our folder");
    }

    fn next_version(&mut self) -> String {
        self.versions += 1;
        format!("0.{}.{}", 1 + self.versions / 10 % 9, self.versions % 10)
    }

    /// The one plugin that the daemon has loaded, as `weir plugin list` shows it.
    async fn listed(&self) -> Value {
        let config = self.weir.config_path();
        let config = config.to_str().expect("a path of ours");
        let said = command(self.weir.binary(), &["plugin", "list", "--json", "--config", config]).await;
        said.well().json()["plugins"][0].clone()
    }

    /// Lines that have all of these in them.
    fn lines(&self, parts: &[&str]) -> usize {
        let lines = self.weir.log().lines();
        lines.iter().filter(|line| parts.iter().all(|part| line.contains(part))).count()
    }

    /// Changes the file and waits for one more line with these words.
    async fn told(&self, words: &[&str], change: impl FnOnce()) {
        let before = self.lines(words);
        change();
        let what = format!("a line with {words:?}");
        wait_until(deadline(TOLD), &what, || (self.lines(words) > before).then_some(())).await;
    }

    /// What the health page says of the exporter's plugin.
    async fn trouble(&self) -> Option<String> {
        let (status, page) = self.weir.health().await;
        assert_eq!(status, 200, "a supervisor's restart would not mend it: {page}");
        let problems = page["problems"].as_array().expect("a list").clone();
        let told = |problem: &Value| Some(problem["what"].as_str()?.to_owned());
        problems.iter().filter_map(told).find(|what| what.contains("plugin"))
    }

    /// A file that is good serves.
    async fn takes(&self, wasm: &[u8], version: &str) {
        let before = self.listed().await;
        let version_is = format!("version=\"{version}\"");
        self.told(&["plugin swapped", &version_is], || self.rename(wasm)).await;
        let after = self.listed().await;
        assert_eq!((&after["version"], &after["state"]), (&version.into(), &"serving".into()), "{after}");
        assert_ne!(after["digest"], before["digest"], "{after}");
        assert_eq!(after["generation"].as_u64(), before["generation"].as_u64().map(|number| number + 1));
        assert!(after["refused"].is_null(), "{after}");
        assert_eq!(self.trouble().await, None);
    }

    /// A file that is bad changes nothing but what is told.
    async fn refuses(&self, bytes: &[u8]) {
        let before = self.listed().await;
        self.told(&["ERROR", "plugin file refused", "not a WebAssembly component"], || self.copy(bytes))
            .await;
        let after = self.listed().await;
        assert_eq!((&after["digest"], &after["state"]), (&before["digest"], &"serving".into()), "{after}");
        let why = after["refused"].as_str().expect("a reason");
        assert!(why.contains("not a WebAssembly component"), "{after}");
        let told = self.trouble().await.expect("the health page tells");
        assert!(told.contains("is refused") && told.contains("from before serves"), "{told}");
    }

    async fn apply(&mut self, change: Change) {
        match change {
            Change::OtherVersion => {
                let version = self.next_version();
                self.takes(&in_version(&self.wasm, &version), &version).await;
            }
            Change::Good => self.takes(&self.wasm, "0.1.0").await,
            Change::Noise => {
                let mut random = fastrand::Rng::with_seed(self.versions.into());
                let noise: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(100_000).collect();
                self.refuses(&noise).await;
            }
            Change::Truncated => self.refuses(&self.wasm[..self.wasm.len() / 2]).await,
            Change::RemovedAndBack => {
                let path = self.path();
                self.told(&["plugin", "source=bundled"], || std::fs::remove_file(path).expect("our file"))
                    .await;
                let listed = self.listed().await;
                assert_eq!((&listed["source"], &listed["shadows"]), (&"bundled".into(), &false.into()));
                let version = self.next_version();
                let wasm = in_version(&self.wasm, &version);
                self.takes(&wasm, &version).await;
            }
        }
    }
}

/// Scenario: senders with one connection each; the file of the Zipkin exporter is replaced by another version, noise, the
/// first again, half of it, removed and put back, in turn, with deliveries on each.
/// Guarantees: every acknowledged span arrives, none twice unless a call was cut (which is counted), no connection is
/// cut; good files serve and `weir plugin list` shows them; bad ones leave the code from before, and list, log and health
/// tell why.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_is_swapped_under_load() {
    let _machine = alone().await;
    let sink = ZipkinSink::start().await;
    let mut story =
        Story::begin(&sink, "zipkin-exporter.wasm", "zipkin: {endpoint: 'http://<sink>/api/v2/spans'}").await;
    story.weir.log().announce("plugin file refused");
    let first = story.listed().await;
    assert_eq!((&first["shadows"], &first["generation"]), (&true.into(), &1.into()), "{first}");
    let crew = Crew::start(story.weir.address("otlp"));
    let swaps = figure("WEIR_SWAPS", CHANGES.len());
    for change in CHANGES.into_iter().cycle().take(swaps) {
        story.apply(change).await;
        // Spans flow on what serves now: a batch's worth more than was taken before the change arrives.
        let target = (crew.acknowledged.load(Ordering::Relaxed) + BATCHES) * u64::from(SHAPE.spans);
        let what = format!("deliveries after {change:?}");
        wait_until(DELIVERY_DEADLINE, &what, || (came(&sink).len() as u64 >= target).then_some(())).await;
    }
    let acknowledged = crew.stop().await;
    story.weir.metric_becomes(DELIVERY_DEADLINE, PENDING, &[], 0.0).await;
    let again = assert_arrived(&sink, &acknowledged);
    let last = story.listed().await;
    eprintln!("swap: {swaps} changes, generation {}, {} calls cut", last["generation"], last["ends"]);
    assert_eq!(last["denials"], 0, "{last}");
    assert!(again == 0 || last["ends"].as_u64() > Some(0), "spans came again and no call was cut: {last}");
    story.weir.stop().await;
}

/// Scenario: the file of a plugin that is not bundled is removed under load, then put back.
/// Guarantees: senders are not cut; what they are told is safe waits; health and `weir plugin list` say which file is
/// missing where; everything arrives when it is back, each span once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_removed_plugin_was_to_get_waits_for_it() {
    let sink = ZipkinSink::start().await;
    let exporter = "acme: {plugin: acme, settings: {endpoint: 'http://<sink>/api/v2/spans'}, \
                    retry: {initial_interval: 10ms, max_interval: 100ms}}";
    let story = Story::begin(&sink, "acme.wasm", exporter).await;
    for part in ["the id has no plugin", "backend refuses for now"] {
        story.weir.log().announce(part);
    }
    let crew = Crew::start(story.weir.address("otlp"));
    let taken = |batches: u64| {
        let acknowledged = Arc::clone(&crew.acknowledged);
        let what = format!("{batches} batches are acknowledged");
        let reached = move || (acknowledged.load(Ordering::Relaxed) >= batches).then_some(());
        async move { wait_until(DELIVERY_DEADLINE, &what, reached).await }
    };
    taken(BATCHES).await;
    story.told(&["the id has no plugin"], || std::fs::remove_file(story.path()).expect("our file")).await;
    let expected = format!("acme.wasm was removed from {}; put it back", story.folder.path().display());
    let listed = story.listed().await;
    assert_eq!(listed["state"], "absent", "{listed}");
    assert!(listed["reason"].as_str().is_some_and(|why| why.contains(&expected)), "{listed}");
    let told = story.trouble().await.expect("the health page tells");
    assert!(told.contains("acme.wasm was removed"), "{told}");
    taken(crew.acknowledged.load(Ordering::Relaxed) + BATCHES).await;

    story.told(&["plugin swapped"], || story.copy(&story.wasm)).await;
    let acknowledged = crew.stop().await;
    story.weir.metric_becomes(DELIVERY_DEADLINE, PENDING, &[], 0.0).await;
    assert_eq!(assert_arrived(&sink, &acknowledged), 0);
    assert_eq!(story.listed().await["state"], "serving");
    story.weir.stop().await;
}

/// Scenario: the file of a plugin is replaced by one that does not mark a secret any more; then the configuration pins that
/// file, as the refusal says.
/// Guarantees: the swap is refused and names the setting, not the secret; the reload that pins it takes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_swap_refuses_a_reload_that_pins_it_takes() {
    let sink = ZipkinSink::start().await;
    let exporter =
        "acme: {plugin: acme, settings: {endpoint: 'http://<sink>/api/v2/spans', headers: {key: 4711-4711}}}";
    let mut story = Story::begin(&sink, "acme.wasm", exporter).await;
    story.weir.log().announce("plugin file refused");
    let open = replaced(&story.wasm, r#""x-weir": "secret""#, r#""x-none": "secret""#);
    story.told(&["plugin file refused", "were secret: /headers/key"], || story.rename(&open)).await;
    let refused = story.listed().await["refused"].as_str().expect("a reason").to_owned();
    assert!(!refused.contains("4711"), "{refused}");
    let digest = refused.split_once("sha256: ").and_then(|(_, rest)| rest.split_whitespace().next());
    let digest = digest.expect("it says what to write").to_owned();

    let pinned = story.config.replace("{plugin: acme,", &format!("{{plugin: acme, sha256: {digest},"));
    let reloads = story.lines(&["configuration reloaded"]);
    story.weir.reconfigure(&pinned);
    let reloaded = || (story.lines(&["configuration reloaded"]) > reloads).then_some(());
    wait_until(deadline(TOLD), "the configuration is reloaded", reloaded).await;
    let listed = story.listed().await;
    assert_eq!((&listed["digest"], &listed["state"]), (&digest.into(), &"serving".into()), "{listed}");
    assert!(listed["refused"].is_null(), "{listed}");
    assert_eq!(story.lines(&["4711-4711"]), 0, "the secret is in the log");
    story.weir.stop().await;
}

/// Scenario: `weir plugin list` and `release` with a daemon, with a name that is none, after its end, and for a
/// configuration whose queue is in memory.
/// Guarantees: each says what there is, or why it cannot say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_of_a_running_daemon_are_listed_and_released() {
    let sink = ZipkinSink::start().await;
    let mut story =
        Story::begin(&sink, "zipkin-exporter.wasm", "zipkin: {endpoint: 'http://<sink>/api/v2/spans'}").await;
    let binary = story.weir.binary().to_owned();
    let (config, data) = (story.weir.config_path(), story.weir.data_dir());
    let (config, data) = (config.to_str().expect("ours"), data.to_str().expect("ours"));
    let text = command(&binary, &["plugin", "list", "--data-dir", data]).await.well().text();
    for part in
        ["exporter zipkin", "zipkin-exporter 0.1.0", "in front of the bundled one", "0 ends", "serving"]
    {
        assert!(text.contains(part), "no {part:?} in {text}");
    }
    for id in ["zipkin", "exporters/zipkin"] {
        let said = command(&binary, &["plugin", "release", id, "--config", config]).await.well();
        assert_eq!(said.text(), format!("{id} was not in quarantine; it goes on with fresh instances\n"));
    }
    let said = command(&binary, &["plugin", "release", "acme", "--config", config]).await;
    assert!(said.code == Some(1) && said.err.contains("exporters/zipkin"), "{said:?}");
    let said = command(&binary, &["plugin", "release", "zipkin"]).await;
    assert!(said.code == Some(64) && said.err.contains("--data-dir"), "{said:?}");

    story.weir.terminate().await;
    let said = command(&binary, &["plugin", "release", "zipkin", "--config", config]).await;
    assert!(said.code == Some(1) && said.err.contains("no daemon has the data folder"), "{said:?}");
    let text = command(&binary, &["plugin", "list", "--config", config]).await.well().text();
    assert!(text.contains("zipkin-receiver") && text.contains("zipkin-exporter.wasm"), "{text}");

    let in_memory = std::fs::read_to_string(config).expect("our file");
    let in_memory = in_memory.replace("service:\n", "service:\n  queue: {storage: memory}\n");
    std::fs::write(config, in_memory).expect("our file");
    let said = command(&binary, &["plugin", "release", "zipkin", "--config", config]).await;
    assert!(
        said.code == Some(1) && said.err.contains("queue of this configuration is in memory"),
        "{said:?}"
    );
    let said = command(&binary, &["plugin", "list", "--config", config]).await.well();
    assert!(said.err.contains("no socket to be asked by"), "{said:?}");
}
