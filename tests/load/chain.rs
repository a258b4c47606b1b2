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
use weir_tests::client::HttpClient;
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
        let (daemons, metrics) = start(&self.binaries, between, sink.address).await?;
        let closed = measure::closed(&daemons, Protocol::Otlp, corpus, &tally, &self.times).await?;
        self.acknowledgements(&format!("{name} at full load"), metrics).await?;
        daemons.stop().await?;
        self.tell(name, Bar::None, &closed);

        let tally = Arc::new(Tally::new(0));
        let sink = Sink::start(Backend::Otlp, Arc::clone(&tally)).await?;
        let (daemons, metrics) = start(&self.binaries, between, sink.address).await?;
        let rate = closed.per_second * OPEN_SHARE;
        let lasts = self.times.open;
        let open = measure::open(&daemons, Protocol::Otlp, corpus, &tally, rate, lasts).await?;
        self.acknowledgements(&format!("{name} at half load"), metrics).await?;
        daemons.stop().await?;
        self.report.add(&format!("{name} p50 at half load"), "ms", Bar::None, open.p50);
        self.report.add(&format!("{name} p99 at half load"), "ms", Bar::None, open.p99);
        Ok([closed.per_cpu_second, closed.per_second])
    }

    /// How long the agent's pushes took until the collector had persisted them (with OTLP: had answered), by the agent's page.
    async fn acknowledgements(&mut self, name: &str, metrics: SocketAddr) -> anyhow::Result<()> {
        let page = HttpClient::default().get(metrics, "/metrics").await.map_err(anyhow::Error::msg)?;
        let page = String::from_utf8(page.into_body().to_vec()).context("a page of metrics is text")?;
        let buckets = buckets(&page, "weir_exporter_push_duration_seconds_bucket")?;
        for (word, share) in [("p50", 0.5), ("p99", 0.99)] {
            let millis = quantile(&buckets, share).context("the agent has pushed")? * 1000.0;
            self.report.add(&format!("{name}: acknowledged {word}"), "ms", Bar::None, millis);
        }
        Ok(())
    }
}

/// Bounds, in seconds, and how many were at most so long, of the one histogram of this name on the page.
///
/// # Errors
/// Where the page has none.
fn buckets(page: &str, name: &str) -> anyhow::Result<Vec<(f64, f64)>> {
    let rows = page.lines().filter(|line| line.starts_with(name));
    rows.map(|row| {
        let (_, rest) = row.split_once("le=\"").context("a bucket has a bound")?;
        let (bound, rest) = rest.split_once('"').context("a bound ends")?;
        let (_, count) = rest.rsplit_once(' ').context("a bucket has a count")?;
        Ok((bound.parse().context("a bound is a number")?, count.parse().context("a count is a number")?))
    })
    .collect()
}

/// Where this share lies, between the bounds of its bucket in proportion, as Prometheus' `histogram_quantile` has it.
fn quantile(buckets: &[(f64, f64)], share: f64) -> Option<f64> {
    let rank = buckets.last().map(|(_, count)| count * share).filter(|rank| *rank > 0.0)?;
    let at = buckets.iter().position(|(_, count)| *count >= rank)?;
    let (low, before) = if at == 0 { (0.0, 0.0) } else { buckets[at - 1] };
    let (high, upto) = buckets[at];
    if high.is_infinite() { Some(low) } else { Some(low + (high - low) * (rank - before) / (upto - before)) }
}

/// Starts the two, the collector first; with the address of the agent's page of metrics.
async fn start(
    binaries: &subject::Binaries,
    between: Between,
    sink: SocketAddr,
) -> anyhow::Result<(Daemon, SocketAddr)> {
    let folder = TempDir::new_in(&binaries.folder).context("make a folder")?;
    let [entry, link, metrics] = std::array::from_fn(|_| free_address());
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
        subject::service_seen(Storage::Disk, &folder.path().join("agent"), metrics),
        signals("otlp", &id(&exporter)),
    );
    let behind = process(binaries, &collector, folder.path(), "collector", link).await?;
    let process = process(binaries, &agent, folder.path(), "agent", entry).await?;
    Ok((Daemon::of(process, entry, Some(behind), folder), metrics))
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
