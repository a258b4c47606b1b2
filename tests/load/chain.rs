//! An agent before a collector, on one core: the link beside OTLP/gRPC between the same two.
//!
//! ```text
//! core 0                core 1
//! senders ───────────▶ agent, on disk ── the link, or OTLP/gRPC ──▶ collector, on disk
//!  sink  ◀───────────────────────────────────────────────────────────┘
//! ```
//!
//! What is judged is items for each CPU-second of both together.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tempfile::TempDir;
use weir_tests::port::free_address;

use crate::corpus::{self, Corpus};
use crate::measure::{self, IN_FLIGHT};
use crate::process::Process;
use crate::report::Bar;
use crate::rows::{Bench, OPEN_SHARE, SPANS};
use crate::send::Protocol;
use crate::sink::{Backend, Sink};
use crate::subject::{self, Daemon, Storage};
use crate::tally::Tally;

/// How long each of the two may take to start.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// What the link must reach beside OTLP, which keeps no keys and no marks.
const LINK_SHARE: f64 = 0.8;

/// What is spoken between the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Between {
    Link,
    Otlp,
}

impl Between {
    fn name(self) -> &'static str {
        match self {
            Self::Link => "link",
            Self::Otlp => "link by OTLP/gRPC",
        }
    }

    /// The agent's exporter.
    fn exporter(self, collector: SocketAddr) -> String {
        match self {
            Self::Link => format!("weir: {{endpoint: '{collector}', identity: load, encoding: none}}"),
            Self::Otlp => format!("otlp: {{endpoint: 'http://{collector}', compression: none}}"),
        }
    }

    /// The collector's receiver.
    fn receiver(self, address: SocketAddr) -> String {
        match self {
            Self::Link => format!("weir: {{endpoint: {address}}}"),
            Self::Otlp => format!("otlp: {{protocols: {{grpc: {{endpoint: {address}}}}}}}"),
        }
    }
}

impl Bench {
    /// One round of both.
    ///
    /// # Errors
    /// Where a run fails.
    pub(crate) async fn link(&mut self) -> anyhow::Result<()> {
        let corpus = Arc::new(Corpus::otlp(corpus::TWENTY, SPANS));
        let theirs = self.chain(Between::Otlp, &corpus).await.context("link, by OTLP/gRPC")?;
        let ours = self.chain(Between::Link, &corpus).await.context("link")?;
        let [of_cpu, of_wall] = [0, 1].map(|at| ours[at] / theirs[at]);
        self.report.add("link / OTLP/gRPC", "of CPU", Bar::AtLeast(LINK_SHARE), of_cpu);
        self.report.add("link / OTLP/gRPC wall", "of spans/s", Bar::None, of_wall);
        Ok(())
    }

    /// Items for each CPU-second of both daemons, and for each second.
    async fn chain(&mut self, between: Between, corpus: &Arc<Corpus>) -> anyhow::Result<[f64; 2]> {
        let name = between.name();
        let tally = Arc::new(Tally::new(IN_FLIGHT * SPANS as usize));
        let sink = Sink::start(Backend::Otlp, Arc::clone(&tally)).await?;
        let daemons = start(&self.binaries, between, sink.address).await?;
        let closed = measure::closed(&daemons, Protocol::Otlp, corpus, &tally, &self.times).await?;
        daemons.stop().await?;
        self.tell(name, Bar::None, &closed);

        let tally = Arc::new(Tally::new(0));
        let sink = Sink::start(Backend::Otlp, Arc::clone(&tally)).await?;
        let daemons = start(&self.binaries, between, sink.address).await?;
        let rate = closed.per_second * OPEN_SHARE;
        let lasts = self.times.open;
        let open = measure::open(&daemons, Protocol::Otlp, corpus, &tally, rate, lasts).await?;
        daemons.stop().await?;
        self.report.add(&format!("{name} p50 at half load"), "ms", Bar::None, open.p50);
        self.report.add(&format!("{name} p99 at half load"), "ms", Bar::None, open.p99);
        Ok([closed.per_cpu_second, closed.per_second])
    }
}

/// Starts the two, the collector first.
async fn start(binaries: &subject::Binaries, between: Between, sink: SocketAddr) -> anyhow::Result<Daemon> {
    let folder = TempDir::new_in(&binaries.folder).context("make a folder")?;
    let [entry, link] = std::array::from_fn(|_| free_address());
    let signals = |receiver: &str, exporter: &str| {
        format!("  pipelines:\n    traces: {{receivers: [{receiver}], exporters: [{exporter}]}}\n")
    };
    let id = |part: &str| part.split(':').next().unwrap_or_default().to_owned();
    let (receiver, exporter) = (between.receiver(link), between.exporter(link));
    let collector = format!(
        "receivers:\n  {receiver}\nexporters:\n  otlp: {{endpoint: 'http://{sink}', compression: none}}\n{}{}",
        subject::service(Storage::Disk, &folder.path().join("collector")),
        signals(&id(&receiver), "otlp"),
    );
    let agent = format!(
        "receivers:\n  otlp: {{protocols: {{grpc: {{endpoint: {entry}}}}}}}\nexporters:\n  {exporter}\n{}{}",
        subject::service(Storage::Disk, &folder.path().join("agent")),
        signals("otlp", &id(&exporter)),
    );
    let behind = process(binaries, &collector, folder.path(), "collector", link).await?;
    let process = process(binaries, &agent, folder.path(), "agent", entry).await?;
    Ok(Daemon::of(process, entry, Some(behind), folder))
}

/// Starts a daemon with this configuration and waits until it listens.
///
/// # Errors
/// Where it does not.
pub(crate) async fn process(
    binaries: &subject::Binaries,
    config: &str,
    folder: &Path,
    name: &str,
    address: SocketAddr,
) -> anyhow::Result<Process> {
    let path = folder.join(format!("{name}.yaml"));
    std::fs::create_dir_all(folder.join(name)).context("make a folder for a daemon")?;
    std::fs::write(&path, config).context("write a configuration")?;
    let path = path.to_str().context("the build's folder has a name that is text")?;
    let (arguments, log) = (["run", "--config", path], folder.join(format!("{name}.log")));
    let mut process = Process::start(&binaries.weir, &arguments, &[("WEIR_LOG", "warn")], &log)?;
    process.listens(address, START_DEADLINE).await?;
    Ok(process)
}
