//! A daemon in this process that reads another file.

mod credentials;
mod doors;
mod roles;

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use weir_net::Drain;

use super::triggers::Cause;
use super::*;
use crate::config::{self, Id};
use crate::validate;

/// One receiver with both protocols; files of certificates come from `host/net`.
const FILE: &str = "receivers:
  otlp:
    protocols:
      grpc: {endpoint: '127.0.0.1:GRPC'}
      http: {endpoint: '127.0.0.1:HTTP'}
exporters:
  debug:
service:
  drain_timeout: 5s
  queue: {storage: memory}
  memory: {limit_mib: 192}
  telemetry: {metrics: {enabled: false}}
  health: {enabled: false}
  pipelines:
    traces: {receivers: [otlp], exporters: [debug]}
";

/// A daemon with its file.
struct Stage {
    daemon: Daemon,
    triggers: Triggers,
    stop: Drain,
    folder: TempDir,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../net/tests/data")
}

fn hangup() -> Signal {
    signal(SignalKind::hangup()).expect("signals can be listened for")
}

impl Stage {
    /// Runs with this file; its ports are any.
    async fn start(text: &str) -> Self {
        let folder = TempDir::with_prefix("weir-assembly-").expect("a folder");
        let path = folder.path().join("weir.yaml");
        std::fs::write(&path, text.replace("GRPC", "0").replace("HTTP", "0")).expect("our folder");
        let draft = config::load(&path).expect("it can be read");
        let foundation = Foundation::lay(draft.config(), Handle::current(), CompiledCode::KeptIfThere)
            .expect("it is laid");
        let plugins = foundation.plugins.clone();
        let checked = tokio::task::spawn_blocking(move || validate::check(draft, &plugins));
        let checked = checked.await.expect("it does not panic").expect("the file is good");
        let mut daemon = Daemon::assemble(checked.config, foundation).await.expect("it assembles");
        daemon.parts.start();
        let triggers = Triggers::listen(hangup(), Some(&path));
        Self { daemon, triggers, stop: Drain::new(), folder }
    }

    /// The port of one protocol of the one receiver.
    fn port(&self, protocol: &str) -> u16 {
        let addresses = self.daemon.addresses();
        addresses.iter().find(|(_, of, _)| *of == protocol).expect("it is bound").2.port()
    }

    /// Writes another file, which has these ports.
    fn write(&self, text: &str, grpc: u16, http: u16) {
        let text = text.replace("GRPC", &grpc.to_string()).replace("HTTP", &http.to_string());
        std::fs::write(self.folder.path().join("weir.yaml"), text).expect("our folder");
    }

    async fn reload(&mut self) {
        reload(&mut self.daemon, &mut self.triggers, Cause::Hangup, &self.stop).await;
    }

    fn is_serving(&self) -> bool {
        let door = self.daemon.parts.doors.values().next();
        let running = door.and_then(|door| door.running.as_ref());
        running.is_some_and(|running| !running.has_ended())
    }

    fn problems(&self) -> usize {
        self.daemon.views.health.lasting()
    }
}

/// Scenario: a receiver's limits change on its addresses, and one of its protocols gets a certificate that is none.
/// Guarantees: that its other address is in use (by itself) does not hide it: the reload is refused, the receiver
/// serves, and the corrected file runs on the same addresses.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_in_use_hides_nothing_else_that_is_wrong() {
    let mut stage = Stage::start(FILE).await;
    let (grpc, http) = (stage.port("otlp/grpc"), stage.port("otlp/http"));
    let garbage = stage.folder.path().join("garbage.pem");
    std::fs::write(&garbage, "no certificate").expect("our folder");
    let tls = format!("HTTP', tls: {{cert_file: {0}, key_file: {0}}}}}", garbage.display());
    stage.write(&FILE.replace("HTTP'}", &tls), grpc, http);
    stage.reload().await;
    assert_eq!(stage.problems(), 1, "it is refused");
    assert!(stage.is_serving());
    assert_eq!((stage.port("otlp/grpc"), stage.port("otlp/http")), (grpc, http));

    stage.write(FILE, grpc, http);
    stage.reload().await;
    assert_eq!(stage.problems(), 0);
    assert!(stage.is_serving());
}

/// Scenario: of a receiver's two addresses one stays its own, the other moves to a stranger's port.
/// Guarantees: the reload is refused, and both addresses are what they were.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_port_ends_no_receiver() {
    let mut stage = Stage::start(FILE).await;
    let (grpc, http) = (stage.port("otlp/grpc"), stage.port("otlp/http"));
    let stranger = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = stranger.local_addr().expect("it is bound").port();
    stage.write(FILE, grpc, taken);
    stage.reload().await;
    assert_eq!(stage.problems(), 1, "it is refused");
    assert!(stage.is_serving());
    assert_eq!((stage.port("otlp/grpc"), stage.port("otlp/http")), (grpc, http));
}

/// Scenario: a receiver goes from one address to all of the machine, where a stranger has its port on another one, so
/// that it has no door any more; the stranger leaves.
/// Guarantees: it is told; the next reload opens the door, and what was counted goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_receiver_has_counted_outlives_a_door_that_did_not_open() {
    let mut stage = Stage::start(FILE).await;
    let (grpc, http) = (stage.port("otlp/grpc"), stage.port("otlp/http"));
    let stranger = TcpListener::bind(("127.0.0.2", grpc)).expect("the whole network is ours");
    let id = stage.daemon.parts.doors.keys().next().expect("there is one").clone();
    stage.daemon.parts.doors[&id].standing.counts.requests.add(7);
    let counted = |stage: &Stage, id: &Id| {
        let sources = stage.daemon.views.sources.now();
        let found = sources.receivers.iter().find(|(name, _)| *name == id.to_string());
        found.map(|(_, counts)| counts.requests.get())
    };
    let wide = FILE.replace("'127.0.0.1:GRPC'}", "'0.0.0.0:GRPC', tls: {insecure: true}}");
    stage.write(&wide, grpc, http);
    stage.reload().await;
    assert!(stage.daemon.parts.doors.is_empty(), "the stranger is in its way");
    assert_eq!(stage.problems(), 1);
    assert_eq!(counted(&stage, &id), Some(7));

    drop(stranger);
    stage.reload().await;
    assert_eq!(stage.problems(), 0);
    assert!(stage.is_serving());
    assert_eq!(counted(&stage, &id), Some(7));
    assert!(stage.daemon.parts.shut.is_empty());
}

/// Scenario: a file raises the limit of memory, which holds from the next start, and lets a request have more than the
/// present one can pay for; then a file lowers it.
/// Guarantees: the first is refused, the second restarts nobody, and a file whose own limit is too low is refused too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sizes_are_checked_against_what_runs() {
    let mut stage = Stage::start(FILE).await;
    let (grpc, http) = (stage.port("otlp/grpc"), stage.port("otlp/http"));
    stage.write(FILE, grpc, http);
    stage.reload().await;
    assert_eq!(stage.problems(), 0);
    let door =
        |stage: &Stage| format!("{:?}", stage.daemon.parts.doors.values().next().map(|it| &it.running));
    let before = door(&stage);

    let large = FILE.replace("GRPC'}", "GRPC', limits: {request_mib: 200}}");
    for limit in ["limit_mib: 1024", "limit_mib: 192"] {
        stage.write(&large.replace("limit_mib: 192", limit), grpc, http);
        stage.reload().await;
        assert_eq!(stage.problems(), 1, "{limit} is refused");
        assert!(stage.daemon.config.service.memory.limit_bytes == 192 << 20);
        assert_eq!(door(&stage), before, "nothing is touched");
    }
    stage.write(&FILE.replace("limit_mib: 192", "limit_mib: 64"), grpc, http);
    stage.reload().await;
    assert_eq!(stage.problems(), 1, "it is told that this takes a start");
    assert_eq!(door(&stage), before, "what holds from the next start restarts nobody now");
}

/// Scenario: the file that an exporter's trust is in gets other content, and nothing else changes; then nothing does.
/// Guarantees: the exporter is made anew with it and its receiver is not; the second time nothing is restarted. A file
/// that is no certificate is refused, and the exporter goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exporter_whose_certificates_are_renewed_is_made_anew() {
    let folder = TempDir::with_prefix("weir-trust-").expect("a folder");
    let trusted = folder.path().join("ca.pem");
    std::fs::copy(data().join("ca.pem"), &trusted).expect("our folder");
    let text = FILE
        .replace(
            "  debug:\n",
            &format!(
                "  otlp: {{endpoint: 'https://127.0.0.1:9', tls: {{ca_file: {}}}}}\n",
                trusted.display()
            ),
        )
        .replace("exporters: [debug]", "exporters: [otlp]");
    let mut stage = Stage::start(&text).await;
    let (grpc, http) = (stage.port("otlp/grpc"), stage.port("otlp/http"));
    stage.write(&text, grpc, http);
    stage.reload().await;
    let task = |stage: &Stage| {
        let parts = &stage.daemon.parts;
        let door = parts.doors.values().next().and_then(|door| door.running.clone());
        let post = parts.deliveries.values().next().and_then(|post| post.running.clone());
        (format!("{door:?}"), format!("{post:?}"))
    };
    let before = task(&stage);
    stage.reload().await;
    assert_eq!(task(&stage), before, "nothing is another");

    let mut pem = std::fs::read_to_string(&trusted).expect("it was written");
    pem.push_str("\n# renewed\n");
    std::fs::write(&trusted, pem).expect("our folder");
    stage.reload().await;
    let after = task(&stage);
    assert_eq!(after.0, before.0, "the receiver is left alone");
    assert_ne!(after.1, before.1, "the exporter is made anew");
    assert_eq!(stage.problems(), 0);

    std::fs::write(&trusted, "no certificate").expect("our folder");
    stage.reload().await;
    assert_eq!(task(&stage), after);
    assert_eq!(stage.problems(), 1, "it is refused");
}

/// One receiver that fetches over TLS.
fn fetching(trusted: &Path) -> String {
    let receiver = format!(
        "receivers:
  prometheus/a:
    config:
      global: {{external_labels: {{edge: north}}}}
      scrape_configs:
        - job_name: j
          tls_config: {{ca_file: {}}}
exporters:",
        trusted.display()
    );
    let (_, rest) = FILE.split_once("exporters:").expect("it has some");
    format!("{receiver}{}", rest.replace("traces: {receivers: [otlp]", "metrics: {receivers: [prometheus/a]"))
}

/// The task of the one door, and the reader that is kept for the next one.
fn fetcher(stage: &Stage) -> (String, Arc<weir_plugin::PluginScraper>) {
    let door = stage.daemon.parts.doors.values().next().expect("there is one");
    (format!("{:?}", door.running), door.standing.scraping.kept().expect("it fetches").scraper)
}

/// Scenario: the file that a job's trust is in gets other content, and nothing else changes; then nothing does.
/// Guarantees: the receiver is made anew with it, and reads with the plugin that it had; the second time nothing is restarted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_certificates_are_renewed_is_made_anew() {
    let folder = TempDir::with_prefix("weir-trust-").expect("a folder");
    let trusted = folder.path().join("ca.pem");
    std::fs::copy(data().join("ca.pem"), &trusted).expect("our folder");
    let mut stage = Stage::start(&fetching(&trusted)).await;
    let before = fetcher(&stage);
    stage.reload().await;
    assert_eq!(fetcher(&stage).0, before.0, "nothing is another");

    let mut pem = std::fs::read_to_string(&trusted).expect("it was written");
    pem.push_str("\n# renewed\n");
    std::fs::write(&trusted, pem).expect("our folder");
    stage.reload().await;
    let after = fetcher(&stage);
    assert_ne!(after.0, before.0, "it is made anew");
    assert!(Arc::ptr_eq(&after.1, &before.1), "it goes on with what it remembers");
    assert!(stage.is_serving());
    stage.reload().await;
    assert_eq!(fetcher(&stage).0, after.0);
    assert_eq!(stage.problems(), 0);
}

/// Scenario: a file has other settings for a receiver that fetches, and another receiver whose trust is no certificate; then the
/// other is taken out of it.
/// Guarantees: the file is refused, and what is kept for the next door is what the running one reads with; the good file brings another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_file_changes_no_reader() {
    let folder = TempDir::with_prefix("weir-trust-").expect("a folder");
    let garbage = folder.path().join("garbage.pem");
    std::fs::write(&garbage, "no certificate").expect("our folder");
    let good = fetching(&data().join("ca.pem"));
    let mut stage = Stage::start(&good).await;
    let before = fetcher(&stage);

    let changed = good.replace("edge: north", "edge: south");
    let other = format!(
        "  prometheus/b: {{config: {{scrape_configs: [{{job_name: k, tls_config: {{ca_file: {}}}}}]}}}}\nexporters:",
        garbage.display()
    );
    let wrong = changed.replacen("exporters:", &other, 1);
    let wrong = wrong.replace("[prometheus/a]", "[prometheus/a, prometheus/b]");
    stage.write(&wrong, 0, 0);
    stage.reload().await;
    assert_eq!(stage.problems(), 1, "it is refused");
    let refused = fetcher(&stage);
    assert_eq!(refused.0, before.0);
    assert!(Arc::ptr_eq(&refused.1, &before.1), "it is the running one's");

    stage.write(&changed, 0, 0);
    stage.reload().await;
    assert_eq!(stage.problems(), 0);
    assert!(!Arc::ptr_eq(&fetcher(&stage).1, &before.1), "other settings are read by another");
}

/// Scenario: SIGHUP to a process that was started without a file.
/// Guarantees: nothing happens to what runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_without_a_file_does_no_harm() {
    let mut stage = Stage::start(FILE).await;
    stage.triggers = Triggers::listen(hangup(), None);
    let addresses = stage.daemon.addresses();
    stage.reload().await;
    assert!(stage.is_serving());
    assert_eq!((stage.daemon.addresses(), stage.problems()), (addresses, 0));
}

/// Scenario: the process is told to end, and then a reload that has much to do is asked for.
/// Guarantees: the reload gives up at once and has changed nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_hears_that_the_process_ends() {
    let mut stage = Stage::start(FILE).await;
    let before = stage.daemon.addresses();
    stage.write(&FILE.replace("traces:", "metrics:"), 0, 0);
    stage.stop.signal();
    let endless = staging::heeding(&stage.stop, std::future::pending::<()>());
    assert!(matches!(endless.await, Err(staging::Refused::Stopped)), "what never ends is dropped");
    stage.reload().await;
    assert_eq!(stage.daemon.addresses(), before);
    assert_eq!(stage.daemon.parts.pipelines.len(), 1);
}
