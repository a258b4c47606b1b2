//! The rows: what is measured, and the bar that it must reach.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tempfile::TempDir;
use tokio::task::JoinSet;
use weir_tests::port::free_address;

use crate::append;
use crate::corpus::{self, Corpus};
use crate::measure::{self, IN_FLIGHT, Times};
use crate::process::Process;
use crate::report::{Bar, Report};
use crate::send::{self, Answer, Connection, Protocol, Schedule, Shared};
use crate::sink::{Backend, Sink};
use crate::subject::{self, Binaries, Daemon, Storage, Way};
use crate::tally::Tally;

/// Spans, or points, of a request: what the bars are for.
pub(crate) const SPANS: u32 = 1000;

/// Load at which latency is told: half of what the daemon has shown in the same round.
pub(crate) const OPEN_SHARE: f64 = 0.5;

/// Bytes that the queue alone is given in a round.
const APPEND_BYTES: u64 = 512 << 20;

/// Connections of the overload, and how much more than the acknowledged rate they send.
const OVERLOAD_CONNECTIONS: usize = 64;
const OVERLOAD_FACTOR: f64 = 2.0;

/// Spans of the small sender that lives beside the overload, and how often it sends.
const SMALL_SPANS: u32 = 10;
const SMALL_INTERVAL: Duration = Duration::from_millis(250);

/// How long a small request may take to be acknowledged beside the overload, refusals included: what SDKs wait.
const SMALL_MILLIS_MAX: f64 = 10_000.0;

/// How long an idle daemon is left alone before it is looked at.
const IDLE: Duration = Duration::from_secs(2);

/// How long a warm start is waited for.
const START_DEADLINE: Duration = Duration::from_secs(20);

/// A way through the daemon with its bar in items for each CPU-second.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    way: Way,
    bar: Bar,
    corpus: fn() -> Corpus,
}

const OTLP_OTLP: Way = Way { protocol: Protocol::Otlp, backend: Backend::Otlp };
const OTLP_ZIPKIN: Way = Way { protocol: Protocol::Otlp, backend: Backend::Zipkin };

/// The ways, from the cheapest to the dearest.
pub(crate) const ROWS: [Row; 10] = [
    Row {
        name: "otlp-otlp",
        way: OTLP_OTLP,
        bar: Bar::AtLeast(900e3),
        corpus: || Corpus::otlp(corpus::TWENTY, SPANS),
    },
    Row {
        name: "opencensus-otlp",
        way: Way { protocol: Protocol::OpenCensus, backend: Backend::Otlp },
        bar: Bar::AtLeast(250e3),
        corpus: || Corpus::opencensus(SPANS),
    },
    Row {
        name: "zipkin-otlp",
        way: Way { protocol: Protocol::Zipkin, backend: Backend::Otlp },
        bar: Bar::AtLeast(150e3),
        corpus: || Corpus::zipkin(SPANS),
    },
    Row {
        name: "otlp-zipkin-441",
        way: OTLP_ZIPKIN,
        bar: Bar::AtLeast(500e3),
        corpus: || Corpus::otlp(corpus::EIGHT, SPANS),
    },
    Row {
        name: "otlp-zipkin-845",
        way: OTLP_ZIPKIN,
        bar: Bar::AtLeast(250e3),
        corpus: || Corpus::otlp(corpus::TWENTY, SPANS),
    },
    Row {
        name: "jaeger-otlp",
        way: Way { protocol: Protocol::Jaeger, backend: Backend::Otlp },
        bar: Bar::None,
        corpus: || Corpus::jaeger(SPANS),
    },
    Row {
        name: "otlp-jaeger",
        way: Way { protocol: Protocol::Otlp, backend: Backend::Jaeger },
        bar: Bar::None,
        corpus: || Corpus::otlp(corpus::TWENTY, SPANS),
    },
    Row {
        name: "otlp-otlp_http",
        way: Way { protocol: Protocol::Otlp, backend: Backend::OtlpHttp },
        bar: Bar::None,
        corpus: || Corpus::otlp(corpus::TWENTY, SPANS),
    },
    Row {
        name: "remotewrite-otlp",
        way: Way { protocol: Protocol::RemoteWrite, backend: Backend::Otlp },
        bar: Bar::None,
        corpus: || Corpus::written(SPANS),
    },
    Row {
        name: "otlp-remotewrite",
        way: Way { protocol: Protocol::OtlpMetrics, backend: Backend::RemoteWrite },
        bar: Bar::None,
        corpus: || Corpus::points(SPANS),
    },
];

/// The rows that are no way.
pub(crate) const OTHERS: [&str; 7] = ["append", "idle", "start", "link", "overload", "targets", "fleet"];

/// What all rows need.
#[derive(Debug)]
pub(crate) struct Bench {
    pub(crate) binaries: Binaries,
    pub(crate) times: Times,
    pub(crate) report: Report,
}

impl Bench {
    /// One round of a way: in memory, on disk, and through the Collector where it speaks both ends.
    ///
    /// # Errors
    /// Where a run fails.
    pub(crate) async fn way(&mut self, row: &Row) -> anyhow::Result<()> {
        let corpus = Arc::new((row.corpus)());
        let mut in_memory = 0.0;
        for storage in [Storage::Memory, Storage::Disk] {
            let name = format!("{} {}", row.name, storage.name());
            let bar = if storage == Storage::Memory { row.bar } else { Bar::None };
            let per_cpu_second =
                self.closed(&name, bar, row.way, storage, &corpus).await.with_context(|| name.clone())?;
            match storage {
                Storage::Memory => in_memory = per_cpu_second,
                Storage::Disk => {
                    let name = format!("{} disk / memory", row.name);
                    self.report.add(&name, "of CPU", Bar::AtLeast(0.55), per_cpu_second / in_memory);
                }
            }
            if row.way.protocol != Protocol::OpenCensus {
                self.open(&name, row.way, storage, &corpus)
                    .await
                    .with_context(|| format!("{name}, open loop"))?;
            }
        }
        if self.binaries.collector.is_some()
            && row.way.protocol == Protocol::Otlp
            && row.way.backend == Backend::Otlp
        {
            let theirs =
                self.collector(row, &corpus).await.with_context(|| format!("{} collector", row.name))?;
            let name = format!("{} memory / collector", row.name);
            self.report.add(&name, "times", Bar::AtLeast(3.0), in_memory / theirs);
        }
        Ok(())
    }

    async fn closed(
        &mut self,
        name: &str,
        bar: Bar,
        way: Way,
        storage: Storage,
        corpus: &Arc<Corpus>,
    ) -> anyhow::Result<f64> {
        let tally = Arc::new(Tally::new(IN_FLIGHT * SPANS as usize));
        let sink = Sink::start(way.backend, Arc::clone(&tally)).await?;
        let daemon = Daemon::weir(&self.binaries, way, storage, sink.address).await?;
        let closed = measure::closed(&daemon, way.protocol, corpus, &tally, &self.times).await?;
        daemon.process.stop().await?;
        self.tell(name, bar, &closed);
        Ok(closed.per_cpu_second)
    }

    async fn collector(&mut self, row: &Row, corpus: &Arc<Corpus>) -> anyhow::Result<f64> {
        let tally = Arc::new(Tally::new(IN_FLIGHT * SPANS as usize));
        let sink = Sink::start(row.way.backend, Arc::clone(&tally)).await?;
        let daemon = Daemon::collector(&self.binaries, sink.address).await?;
        let closed = measure::closed(&daemon, row.way.protocol, corpus, &tally, &self.times).await?;
        daemon.process.stop().await?;
        self.tell(&format!("{} collector", row.name), Bar::None, &closed);
        Ok(closed.per_cpu_second)
    }

    pub(crate) fn tell(&mut self, name: &str, bar: Bar, closed: &measure::Closed) {
        eprintln!(
            "  {name}: {:.0} spans/CPU-s, {:.0} spans/s, core {:.0} % busy, peak {:.0} MiB, {:.0} spans a request at the sink, \
             {} refused, others had {:.2} of a core",
            closed.per_cpu_second,
            closed.per_second,
            closed.busy * 100.0,
            closed.peak_mib,
            closed.joined,
            closed.refused,
            closed.others,
        );
        self.report.add(name, "spans/CPU-s", bar, closed.per_cpu_second);
        self.report.add(&format!("{name} wall"), "spans/s", Bar::None, closed.per_second);
        self.report.add(&format!("{name} peak RSS"), "MiB", Bar::None, closed.peak_mib);
        self.report.add(&format!("{name} others"), "cores", Bar::None, closed.others);
    }

    async fn open(
        &mut self,
        name: &str,
        way: Way,
        storage: Storage,
        corpus: &Arc<Corpus>,
    ) -> anyhow::Result<()> {
        let wall = self.report.latest(&format!("{name} wall")).context("the closed loop comes first")?;
        let tally = Arc::new(Tally::new(0));
        let sink = Sink::start(way.backend, Arc::clone(&tally)).await?;
        let daemon = Daemon::weir(&self.binaries, way, storage, sink.address).await?;
        let open =
            measure::open(&daemon, way.protocol, corpus, &tally, wall * OPEN_SHARE, self.times.open).await?;
        daemon.process.stop().await?;
        self.report.add(&format!("{name} p50 at half load"), "ms", Bar::None, open.p50);
        self.report.add(&format!("{name} p99 at half load"), "ms", Bar::None, open.p99);
        self.report.add(&format!("{name} p99.9 at half load"), "ms", Bar::None, open.p999);
        self.report.add(&format!("{name} refused at half load"), "spans", Bar::None, open.refused as f64);
        Ok(())
    }

    /// The queue alone beside the raw disk.
    ///
    /// # Errors
    /// The disk's.
    pub(crate) async fn append(&mut self) -> anyhow::Result<()> {
        let folder = TempDir::new_in(&self.binaries.folder).context("make a folder")?;
        let corpus = Corpus::otlp(corpus::TWENTY, SPANS);
        let appended = append::measure(folder.path(), &corpus, APPEND_BYTES).await?;
        self.report.add("append queue", "bytes/s", Bar::None, appended.queue);
        self.report.add("append raw O_DSYNC", "bytes/s", Bar::None, appended.raw);
        self.report.add("append queue / raw", "of bytes/s", Bar::AtLeast(0.4), appended.queue / appended.raw);
        Ok(())
    }

    /// What an idle daemon with everything in it holds.
    ///
    /// # Errors
    /// Where it does not start.
    pub(crate) async fn idle(&mut self) -> anyhow::Result<()> {
        let folder = TempDir::new_in(&self.binaries.folder).context("make a folder")?;
        // The second start finds compiled plugins, as every one but the first in a daemon's life.
        for warm in [false, true] {
            let (mut process, entry) = self.everything(&folder)?;
            process.listens(entry, START_DEADLINE).await?;
            tokio::time::sleep(IDLE).await;
            if warm {
                self.report.add("idle RSS", "MiB", Bar::AtMost(45.0), process.rss_mib()?);
                self.report.add("idle RSS peak", "MiB", Bar::None, process.peak_mib()?);
            } else {
                self.report.add("idle RSS of a first start", "MiB", Bar::None, process.rss_mib()?);
            }
            process.stop().await?;
        }
        Ok(())
    }

    /// From a clean stop's folder to the first span that is accepted.
    ///
    /// # Errors
    /// Where it does not start, or refuses for good.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        let folder = TempDir::new_in(&self.binaries.folder).context("make a folder")?;
        let corpus = Corpus::otlp(corpus::TWENTY, 1);
        for warm in [false, true] {
            let since = Instant::now();
            let (process, entry) = self.everything(&folder)?;
            let first = first_accepted(entry, &corpus, since)
                .await
                .map_err(|error| process.complaint(&format!("{error:#}")))?;
            let name = if warm { "start warm" } else { "start cold" };
            let bar = if warm { Bar::AtMost(100.0) } else { Bar::None };
            self.report.add(name, "ms", bar, first.as_secs_f64() * 1e3);
            self.report.add(&format!("{name} CPU"), "ms", Bar::None, process.cpu()?.as_secs_f64() * 1e3);
            process.stop().await?;
        }
        Ok(())
    }

    fn everything(&self, folder: &TempDir) -> anyhow::Result<(Process, std::net::SocketAddr)> {
        let (entry, nobody) = (free_address(), free_address());
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, subject::everything_config(entry, nobody, folder.path()))
            .context("write a configuration")?;
        let path = path.to_str().context("the build's folder has a name that is text")?;
        let arguments = ["run", "--config", path];
        let log = folder.path().join("log");
        Ok((Process::start(&self.binaries.weir, &arguments, &[("WEIR_LOG", "error")], &log)?, entry))
    }

    /// Twice the capacity on many connections, default limits, a sandboxed exporter that is slower than the door.
    ///
    /// # Errors
    /// Where a run fails: a refusal that is not transient, a span that was acknowledged and does not arrive.
    pub(crate) async fn overload(&mut self, storage: Storage) -> anyhow::Result<()> {
        let corpus = Arc::new(Corpus::otlp(corpus::TWENTY, SPANS));
        let name = format!("overload {}", storage.name());
        let probe = Arc::new(Tally::new(IN_FLIGHT * SPANS as usize));
        let sink = Sink::start(Backend::Zipkin, Arc::clone(&probe)).await?;
        let daemon = Daemon::weir(&self.binaries, OTLP_ZIPKIN, storage, sink.address).await?;
        let capacity =
            measure::closed(&daemon, Protocol::Otlp, &corpus, &probe, &self.times).await?.per_second;
        daemon.process.stop().await?;

        let tally = Arc::new(Tally::new(0));
        let small = Arc::new(Tally::new(0));
        let sink = Sink::start(Backend::Zipkin, Arc::clone(&tally)).await?;
        let daemon = Daemon::weir(&self.binaries, OTLP_ZIPKIN, storage, sink.address).await?;
        let shared = Shared::new(corpus, Arc::clone(&tally));
        let interval = Duration::from_secs_f64(f64::from(SPANS) / (capacity * OVERLOAD_FACTOR));
        let requests = (self.times.overload.as_secs_f64() / interval.as_secs_f64()).ceil() as u64;
        let mut workers = JoinSet::new();
        let schedule = Schedule { begin: Instant::now() + interval, interval, requests };
        for connection in measure::connect(&daemon, Protocol::Otlp, OVERLOAD_CONNECTIONS, 1).await? {
            workers.spawn(send::open(connection, Arc::clone(&shared), schedule));
        }
        let beside = Connection::open(Protocol::Otlp, daemon.entry).await?;
        workers.spawn(small_sender(beside, Arc::clone(&tally), Arc::clone(&small), self.times.overload));
        measure::finish(workers, &daemon, &tally).await?;
        let took = schedule.begin.elapsed();
        let peak = daemon.process.peak_mib()?;
        daemon.process.stop().await?;
        self.report.add(&format!("{name} offered"), "spans/s", Bar::None, capacity * OVERLOAD_FACTOR);
        self.report.add(&format!("{name} peak RSS"), "MiB", Bar::AtMost(256.0), peak);
        let goodput = tally.acknowledged() as f64 / took.as_secs_f64() / capacity;
        self.report.add(&format!("{name} goodput"), "of capacity", Bar::None, goodput);
        let offered = (requests * u64::from(SPANS)) as f64;
        self.report.add(
            &format!("{name} refused"),
            "of offered",
            Bar::None,
            tally.refused() as f64 / offered,
        );
        self.report.add(&format!("{name} small sender p99"), "ms", Bar::None, small.latency_millis(0.99));
        let longest = small.latency_max_millis();
        self.report.add(
            &format!("{name} small sender longest"),
            "ms",
            Bar::AtMost(SMALL_MILLIS_MAX),
            longest,
        );
        Ok(())
    }
}

/// Sends small requests at a calm pace until the time is over; each again until it is taken.
async fn small_sender(mut connection: Connection, tally: Arc<Tally>, small: Arc<Tally>, lasts: Duration) {
    let corpus = Corpus::otlp(corpus::TWENTY, SMALL_SPANS);
    let begin = Instant::now();
    for number in 0.. {
        let load = corpus.get(number);
        let since = Instant::now();
        if since.duration_since(begin) > lasts {
            return;
        }
        loop {
            match connection.send(load).await {
                Ok(Answer::Taken) => break,
                Ok(Answer::Refused) => tokio::time::sleep(Duration::from_millis(100)).await,
                Err(error) => return tally.fail(format!("at the small sender: {error:#}")),
            }
        }
        small.acknowledge(load.items, since.elapsed());
        tally.acknowledge(load.items, since.elapsed());
        tokio::time::sleep(SMALL_INTERVAL).await;
    }
}

/// How long it takes from `since` until a span is taken.
async fn first_accepted(
    entry: std::net::SocketAddr,
    corpus: &Corpus,
    since: Instant,
) -> anyhow::Result<Duration> {
    loop {
        if since.elapsed() > START_DEADLINE {
            bail!("no span was accepted within {START_DEADLINE:?}");
        }
        if let Ok(mut connection) = Connection::open(Protocol::Otlp, entry).await
            && connection.send(corpus.get(0)).await? == Answer::Taken
        {
            return Ok(since.elapsed());
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
}
