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
use bytes::Bytes;
use futures_util::stream;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tonic::Streaming;
use tonic::transport::Endpoint;
use weir_proto::weir::link::v1::link_service_client::LinkServiceClient;
use weir_proto::weir::link::v1::{
    AgentMessage, BundleHead, CollectorMessage, DataPart, Heartbeat, Hello, LogFacts, agent_message,
    collector_message,
};
use weir_tests::port::free_address;

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

/// Messages of an agent that wait to be written.
const MESSAGES_MAX: usize = 8;

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
                return Err(process.complaint(&format!("{live} of {AGENTS} agents are there after {ALL_THERE:?}")));
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

/// What an agent has of its own between streams.
#[derive(Debug)]
struct Agent {
    number: u64,
    incarnation: [u8; 16],
    /// The place of its next record.
    next: u64,
}

/// An agent until the end: it connects, for as long as it takes.
async fn agent(number: u64, fleet: Arc<Fleet>) {
    // A UUIDv7's first bytes are its time, and later is higher; nobody was here before, so any time will do.
    let mut incarnation = [0x01; 16];
    incarnation[8..].copy_from_slice(&(number | 1 << 63).to_be_bytes());
    incarnation[6] = 0x70;
    let mut agent = Agent { number, incarnation, next: 1 };
    while !fleet.stop.load(Ordering::Relaxed) {
        // Why a stream ended is the collector's to say; a fleet that does not come back fails the row.
        let mut is_live = false;
        agent.stream(&fleet, &mut is_live).await.ok();
        if is_live {
            fleet.live.fetch_sub(1, Ordering::Relaxed);
        }
        tokio::time::sleep(RECONNECT.mul_f64(0.5 + fastrand::f64())).await;
    }
}

impl Agent {
    /// One stream from Hello to its end.
    async fn stream(&mut self, fleet: &Fleet, is_live: &mut bool) -> anyhow::Result<()> {
        let endpoint = Endpoint::from_shared(format!("http://{}", fleet.address)).context("an address")?;
        let channel = endpoint.tcp_nodelay(true).connect().await.context("connect")?;
        let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
        let messages = stream::unfold(receiver, async |mut receiver| {
            let message = receiver.recv().await?;
            Some((AgentMessage { message: Some(message) }, receiver))
        });
        sender.send(agent_message::Message::Hello(self.hello())).await.context("say hello")?;
        let mut client = LinkServiceClient::new(channel);
        let mut answers = client.open(messages).await.context("open a stream")?.into_inner();
        let first = message(&mut answers).await?;
        let collector_message::Message::Welcome(_) = first else { bail!("no welcome: {first:?}") };
        fleet.live.fetch_add(1, Ordering::Relaxed);
        *is_live = true;
        let mut beats = tokio::time::interval(HEARTBEAT);
        let (mut beat, mut ordinal) = (self.number, 0);
        loop {
            tokio::select! {
                _ = beats.tick() => {
                    beat += 1;
                    let next = match beat % BEATS_EACH_BUNDLE {
                        0 => {
                            ordinal += 1;
                            fleet.sent.fetch_add(1, Ordering::Relaxed);
                            agent_message::Message::Data(self.bundle(ordinal, &fleet.corpus))
                        }
                        _ => agent_message::Message::Heartbeat(Heartbeat::default()),
                    };
                    sender.send(next).await.context("send")?;
                }
                received = message(&mut answers) => match received? {
                    collector_message::Message::Ack(ack) => {
                        if let Some(rejected) = ack.rejected.first() {
                            bail!("a bundle was rejected: {}", rejected.reason);
                        }
                        fleet.acknowledged.fetch_add(1, Ordering::Relaxed);
                    }
                    collector_message::Message::Goodbye(goodbye) => bail!("goodbye: {goodbye:?}"),
                    _ => {}
                },
            }
        }
    }

    fn hello(&self) -> Hello {
        let log = LogFacts {
            name: "traces".to_owned(),
            incarnation: self.incarnation.to_vec(),
            next: self.next,
            epoch_first: 1,
            settled: self.next,
        };
        Hello {
            version_min: 1,
            version_max: 1,
            identity: format!("agent-{:04}", self.number),
            incarnation: self.incarnation.to_vec(),
            epoch: 1,
            boot: self.incarnation.to_vec(),
            logs: vec![log],
            host: "load".to_owned(),
            program: "weir-load".to_owned(),
            ..Hello::default()
        }
    }

    /// The next record as a bundle of its own.
    fn bundle(&mut self, ordinal: u64, corpus: &Corpus) -> DataPart {
        let load = corpus.get(self.next);
        // Without gRPC's frame.
        let body: Bytes = load.body.slice(5..);
        let bytes = body.len() as u64;
        let head = BundleHead {
            ordinal,
            log: 0,
            lane: u32::try_from(self.number % 16).expect("a lane"),
            signal: 1,
            seqs: vec![self.next],
            items: vec![load.items],
            lengths: vec![u32::try_from(bytes).expect("a small body")],
            sent_bytes: bytes,
            bytes,
            crc: crc32c::crc32c(&body),
        };
        self.next += 1;
        DataPart { head: Some(head), body }
    }
}

async fn message(answers: &mut Streaming<CollectorMessage>) -> anyhow::Result<collector_message::Message> {
    let answer = answers.message().await.context("read the stream")?.context("the stream has ended")?;
    answer.message.context("an empty message")
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
