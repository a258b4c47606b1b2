//! One run: a fresh daemon, a sink, senders; then what was promised must be what came.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tokio::task::JoinSet;

use crate::corpus::Corpus;
use crate::process::{machine_busy, our_cpu};
use crate::send::{self, Connection, Protocol, Schedule, Shared};
use crate::subject::Daemon;
use crate::tally::Tally;

/// Requests between sender and sink in a closed loop: one for each lane of a queue.
pub(crate) const IN_FLIGHT: usize = 16;

/// Connections of a closed loop where the protocol shares them.
const CONNECTIONS: usize = 4;

/// Workers of an open loop: so many requests may be late at once.
const OPEN_WORKERS: usize = 64;

/// How long the last acknowledged span may take to arrive: an overload of a minute leaves a minute's work on disk.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(300);

/// How long nothing more may come once everything has: a span too many would be one that came twice.
const QUIET: Duration = Duration::from_millis(200);

/// Senders whose answers do not come are given up: an overload's own minute, and one more.
const WORKERS_DEADLINE: Duration = Duration::from_secs(120);

/// How long the parts of a closed loop are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) warm: Duration,
    pub(crate) window: Duration,
    pub(crate) open: Duration,
    pub(crate) overload: Duration,
}

/// What a closed loop gave.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Closed {
    /// Items that arrived for each second of the daemon's CPU time.
    pub(crate) per_cpu_second: f64,
    /// Items that arrived in a second of wall time.
    pub(crate) per_second: f64,
    /// Share of its core that the daemon used.
    pub(crate) busy: f64,
    /// Cores that neither the daemon nor we used, and somebody did: above a tenth, the figures are suspect.
    pub(crate) others: f64,
    pub(crate) peak_mib: f64,
    /// Items of a request at the sink.
    pub(crate) joined: f64,
    pub(crate) refused: u64,
}

/// What an open loop gave: milliseconds from when a request was due to its acknowledgement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Open {
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) p999: f64,
    pub(crate) refused: u64,
}

/// Runs a closed loop against a daemon whose sink counts in `tally`.
///
/// # Errors
/// Where anything fails, or a count is not what it must be.
pub(crate) async fn closed(
    daemon: &Daemon,
    protocol: Protocol,
    corpus: &Arc<Corpus>,
    tally: &Arc<Tally>,
    times: &Times,
) -> anyhow::Result<Closed> {
    let shared = Shared::new(Arc::clone(corpus), Arc::clone(tally));
    let mut workers = JoinSet::new();
    let (connections, shares) = match protocol {
        Protocol::Otlp | Protocol::OtlpMetrics => (CONNECTIONS, IN_FLIGHT / CONNECTIONS),
        // A stream is a sender; a connection of HTTP/1.1 has one request under way.
        Protocol::OpenCensus => (CONNECTIONS, 1),
        Protocol::Zipkin | Protocol::Jaeger | Protocol::RemoteWrite => (IN_FLIGHT, 1),
    };
    for connection in connect(daemon, protocol, connections, shares).await? {
        workers.spawn(send::closed(connection, Arc::clone(&shared)));
    }
    tokio::time::sleep(times.warm).await;
    let before = Sample::take(daemon, tally)?;
    tokio::time::sleep(times.window).await;
    let after = Sample::take(daemon, tally)?;
    shared.stop();
    finish(workers, daemon, tally).await?;
    let items = (after.arrived - before.arrived) as f64;
    let cpu = (after.cpu - before.cpu).as_secs_f64();
    let wall = (after.at - before.at).as_secs_f64();
    if items == 0.0 || cpu == 0.0 {
        return Err(daemon.process.complaint("nothing arrived within the window"));
    }
    let others = (after.machine.saturating_sub(before.machine)).as_secs_f64()
        - cpu
        - (after.ours - before.ours).as_secs_f64();
    Ok(Closed {
        per_cpu_second: items / cpu,
        per_second: items / wall,
        busy: cpu / wall,
        others: (others / wall).max(0.0),
        peak_mib: daemon.process.peak_mib()?,
        joined: tally.mean_request(),
        refused: tally.refused(),
    })
}

/// Runs an open loop of `rate` items a second.
///
/// # Errors
/// As [`closed`]; refusals are counted, and no failure.
pub(crate) async fn open(
    daemon: &Daemon,
    protocol: Protocol,
    corpus: &Arc<Corpus>,
    tally: &Arc<Tally>,
    rate: f64,
    lasts: Duration,
) -> anyhow::Result<Open> {
    let shared = Shared::new(Arc::clone(corpus), Arc::clone(tally));
    let interval = Duration::from_secs_f64(f64::from(corpus.get(0).items) / rate);
    let requests = (lasts.as_secs_f64() / interval.as_secs_f64()).ceil() as u64;
    let mut workers = JoinSet::new();
    let schedule = Schedule { begin: Instant::now() + interval, interval, requests };
    let (connections, shares) = match protocol {
        Protocol::Otlp | Protocol::OtlpMetrics => (CONNECTIONS, OPEN_WORKERS / CONNECTIONS),
        Protocol::Zipkin | Protocol::Jaeger | Protocol::RemoteWrite => (OPEN_WORKERS, 1),
        Protocol::OpenCensus => {
            bail!("a message of an OpenCensus stream has no answer, so it has no latency")
        }
    };
    for connection in connect(daemon, protocol, connections, shares).await? {
        workers.spawn(send::open(connection, Arc::clone(&shared), schedule));
    }
    finish(workers, daemon, tally).await?;
    Ok(Open {
        p50: tally.latency_millis(0.5),
        p99: tally.latency_millis(0.99),
        p999: tally.latency_millis(0.999),
        refused: tally.refused(),
    })
}

/// Opens `connections`, each shared by `shares` workers.
///
/// # Errors
/// Where nobody listens.
pub(crate) async fn connect(
    daemon: &Daemon,
    protocol: Protocol,
    connections: usize,
    shares: usize,
) -> anyhow::Result<Vec<Connection>> {
    let mut all = Vec::with_capacity(connections * shares);
    for _ in 0..connections {
        let connection = Connection::open(protocol, daemon.entry).await?;
        for _ in 1..shares {
            all.push(connection.share().context("HTTP/1.1 connections are not shared")?);
        }
        all.push(connection);
    }
    Ok(all)
}

/// Waits for the senders and for everything that was acknowledged; not one span more or less may come.
///
/// # Errors
/// Where something failed on the way, or the counts differ.
pub(crate) async fn finish(mut workers: JoinSet<()>, daemon: &Daemon, tally: &Tally) -> anyhow::Result<()> {
    let joined = tokio::time::timeout(WORKERS_DEADLINE, async {
        while let Some(joined) = workers.join_next().await {
            joined.context("a sender panicked")?;
        }
        Ok::<_, anyhow::Error>(())
    });
    let ended = joined.await;
    if let Some(fault) = tally.fault() {
        return Err(daemon.process.complaint(&fault));
    }
    match ended {
        Ok(joined) => joined?,
        Err(_) => {
            let what = format!(
                "senders still wait after {WORKERS_DEADLINE:?}; {} acknowledged, {} arrived",
                tally.acknowledged(),
                tally.arrived()
            );
            return Err(daemon.process.complaint(&what));
        }
    }
    let until = Instant::now() + ARRIVAL_DEADLINE;
    while tally.arrived() < tally.acknowledged() && Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(QUIET).await;
    let (acknowledged, arrived) = (tally.acknowledged(), tally.arrived());
    if let Some(fault) = tally.fault() {
        return Err(daemon.process.complaint(&fault));
    }
    if acknowledged != arrived || acknowledged == 0 {
        let what = format!("{acknowledged} spans were acknowledged and {arrived} arrived");
        return Err(daemon.process.complaint(&what));
    }
    Ok(())
}

#[derive(Debug)]
struct Sample {
    at: Instant,
    arrived: u64,
    cpu: Duration,
    ours: Duration,
    machine: Duration,
}

impl Sample {
    fn take(daemon: &Daemon, tally: &Tally) -> anyhow::Result<Self> {
        Ok(Self {
            at: Instant::now(),
            arrived: tally.arrived(),
            cpu: daemon.cpu()?,
            ours: our_cpu()?,
            machine: machine_busy()?,
        })
    }
}
