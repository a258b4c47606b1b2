//! A thousand agents on one collector, each a stream of its own: what one costs, and how soon all are back after a restart.
//!
//! ```text
//! agents, simulated: Hello, heartbeats, a bundle now and then ──▶ weir, a collector on disk
//! ```

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::task::JoinSet;
use weir_proto::weir::link::v1::{Heartbeat, agent_message, collector_message};
use weir_tests::port::free_address;
use weir_tests::{BareAgent, LinkStream};

use crate::chain;
use crate::corpus::{self, Corpus};
use crate::process::Process;
use crate::report::Bar;
use crate::rows::Bench;
use crate::sink::{Backend, Sink};
use crate::subject::{self, Storage};
use crate::tally::Tally;
use crate::targets::raise_files;

/// Agents.
const AGENTS: u64 = 1_000;

/// Their heartbeats, and the bundles of each among them: one of a few spans every so many heartbeats.
const HEARTBEAT: Duration = Duration::from_secs(5);
const BEATS_EACH_BUNDLE: u64 = 3;
const BUNDLE_SPANS: u32 = 10;

/// How long they are watched.
const WATCHED: Duration = Duration::from_secs(30);

/// An agent's wait before it connects again, and by how much it may be longer or shorter.
const RECONNECT: Duration = Duration::from_secs(1);

/// How long all may take to be there, or there again.
const ALL_THERE: Duration = Duration::from_secs(120);

/// How soon all must be back after a restart.
const BACK_SECONDS_MAX: f64 = 30.0;

/// What all agents do together.
#[derive(Debug)]
struct Fleet {
    address: SocketAddr,
    corpus: Corpus,
    live: AtomicU64,
    sent: AtomicU64,
    acknowledged: AtomicU64,
    stop: AtomicBool,
}

impl Bench {
    /// All agents come, stay for a while, and come back after a restart of the collector.
    ///
    /// # Errors
    /// Where a run fails, or one of them does not come.
    pub(crate) async fn fleet(&mut self) -> anyhow::Result<()> {
        raise_files()?;
        let folder = TempDir::new_in(&self.binaries.folder).context("make a folder")?;
        let tally = Arc::new(Tally::new(0));
        let sink = Sink::start(Backend::Otlp, Arc::clone(&tally)).await?;
        let address = free_address();
        let config = config(address, sink.address, folder.path());
        let start = || chain::process(&self.binaries, &config, folder.path(), "collector", address);
        let process = start().await?;
        let empty = process.rss_mib()?;
        let corpus = Corpus::otlp(corpus::TWENTY, BUNDLE_SPANS);
        let fleet = Arc::new(Fleet::new(address, corpus));
        let mut agents = JoinSet::new();
        for number in 0..AGENTS {
            agents.spawn(agent(number, Arc::clone(&fleet)));
        }
        let came = fleet.all_there(&process).await?;
        let (cpu, since) = (process.cpu()?, Instant::now());
        tokio::time::sleep(WATCHED).await;
        let core = (process.cpu()? - cpu).as_secs_f64() / since.elapsed().as_secs_f64();
        let full = process.rss_mib()?;
        let report = &mut self.report;
        report.add("fleet 1,000 agents came", "s", Bar::None, came.as_secs_f64());
        report.add("fleet core", "of a core", Bar::None, core);
        report.add("fleet RSS an agent", "KiB", Bar::None, (full - empty) * 1024.0 / AGENTS as f64);
        report.add("fleet RSS", "MiB", Bar::None, full);
        process.stop().await?;
        fleet.all_gone().await?;
        let process = start().await?;
        let back = fleet.all_there(&process).await?;
        report.add("fleet back after a restart", "s", Bar::AtMost(BACK_SECONDS_MAX), back.as_secs_f64());
        fleet.settled(&process).await?;
        fleet.stop.store(true, Ordering::Relaxed);
        agents.shutdown().await;
        process.stop().await
    }
}

impl Fleet {
    fn new(address: SocketAddr, corpus: Corpus) -> Self {
        let [live, sent, acknowledged] = [(); 3].map(|()| AtomicU64::new(0));
        Self { address, corpus, live, sent, acknowledged, stop: AtomicBool::new(false) }
    }

    /// How long it takes until every agent has its Welcome.
    async fn all_there(&self, process: &Process) -> anyhow::Result<Duration> {
        let since = Instant::now();
        while self.live.load(Ordering::Relaxed) < AGENTS {
            if since.elapsed() > ALL_THERE {
                let live = self.live.load(Ordering::Relaxed);
                return Err(
                    process.complaint(&format!("{live} of {AGENTS} agents are there after {ALL_THERE:?}"))
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(since.elapsed())
    }

    async fn all_gone(&self) -> anyhow::Result<()> {
        let since = Instant::now();
        while self.live.load(Ordering::Relaxed) > 0 {
            if since.elapsed() > ALL_THERE {
                bail!("agents believe in streams of a collector that has ended");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Bundles are acknowledged: more than before, within a few heartbeats.
    async fn settled(&self, process: &Process) -> anyhow::Result<()> {
        let (since, before) = (Instant::now(), self.acknowledged.load(Ordering::Relaxed));
        while self.acknowledged.load(Ordering::Relaxed) < before + AGENTS / 2 {
            if since.elapsed() > ALL_THERE {
                let (sent, done) =
                    (self.sent.load(Ordering::Relaxed), self.acknowledged.load(Ordering::Relaxed));
                return Err(process.complaint(&format!("{sent} bundles sent and {done} acknowledged")));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}

/// An agent until the end: it connects, for as long as it takes.
async fn agent(number: u64, fleet: Arc<Fleet>) {
    let mut agent = BareAgent::new(number);
    // Where in the turn of heartbeats and bundles it begins.
    let mut beat = number;
    while !fleet.stop.load(Ordering::Relaxed) {
        if let Ok(stream) = agent.open(fleet.address).await {
            fleet.live.fetch_add(1, Ordering::Relaxed);
            // Why a stream ended is the collector's to say; a fleet that does not come back fails the row.
            live(&mut agent, stream, &mut beat, &fleet).await.ok();
            fleet.live.fetch_sub(1, Ordering::Relaxed);
        }
        tokio::time::sleep(RECONNECT.mul_f64(0.5 + fastrand::f64())).await;
    }
}

/// One stream to its end, which is why it returns.
async fn live(
    agent: &mut BareAgent,
    mut stream: LinkStream,
    beat: &mut u64,
    fleet: &Fleet,
) -> Result<(), String> {
    let mut beats = tokio::time::interval(HEARTBEAT);
    loop {
        tokio::select! {
            _ = beats.tick() => {
                *beat += 1;
                let next = if beat.is_multiple_of(BEATS_EACH_BUNDLE) {
                    let load = fleet.corpus.get(*beat);
                    fleet.sent.fetch_add(1, Ordering::Relaxed);
                    // Without gRPC's frame.
                    agent.bundle(&mut stream, load.body.slice(5..), load.items)
                } else {
                    agent_message::Message::Heartbeat(Heartbeat::default())
                };
                if !stream.send(next).await {
                    return Err("the stream has ended".to_owned());
                }
            }
            received = stream.receive() => match received? {
                collector_message::Message::Ack(ack) if ack.rejected.is_empty() => {
                    fleet.acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                collector_message::Message::Ack(ack) => return Err(format!("rejected: {:?}", ack.rejected)),
                collector_message::Message::Goodbye(goodbye) => return Err(goodbye.text),
                _ => {}
            },
        }
    }
}

fn config(address: SocketAddr, sink: SocketAddr, folder: &Path) -> String {
    format!(
        "receivers:
  weir: {{endpoint: {address}, heartbeat: {}s}}
exporters:
  otlp: {{endpoint: 'http://{sink}', compression: none}}
{}  pipelines:
    traces: {{receivers: [weir], exporters: [otlp]}}
",
        HEARTBEAT.as_secs(),
        subject::service(Storage::Disk, &folder.join("collector")),
    )
}
