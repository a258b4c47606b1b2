//! Ten thousand targets that are scraped, a tenth of them dead, and the page on which they all stand then.
//!
//! ```text
//! targets ◀── GET, each 15 s ── weir ◀── GET /metrics ── us
//!  alive: pages of 100 series
//!  dead: nobody listens, or nobody answers
//! ```

use std::collections::HashMap;
use std::convert::Infallible;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use weir_tests::port::free_address;

use crate::formats;
use crate::process::Process;
use crate::report::Bar;
use crate::rows::Bench;
use crate::subject::{self, Storage};

/// Targets in all, and how many of them are dead.
const TARGETS: u32 = 10_000;
const DEAD: u32 = 1_000;

/// Series on a target's page.
const SERIES: u32 = 100;

/// Series that the scraper adds for each target, a dead one too.
const OWN_SERIES: u32 = 5;

/// Targets that share an address; each has a path of its own.
const SHARING: u32 = 100;

/// How often each target is scraped.
const INTERVAL: Duration = Duration::from_secs(15);

/// By how much a scrape may miss its time before it is late.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Rounds before the measurement, in which every target is met and connections are made; and rounds of it.
const WARM: u32 = 2;
const ROUNDS: u32 = 4;

/// How long a daemon with all its targets may take to start.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Files that both sides may have open: a connection for each target, and some.
const FILES: u64 = 32_768;

/// When each target was asked.
type Visits = Arc<Mutex<HashMap<u32, Vec<Instant>>>>;

impl Bench {
    /// Scrapes all targets for some rounds and reads the page.
    ///
    /// # Errors
    /// Where a run fails, or the page has not what the targets have.
    pub(crate) async fn targets(&mut self) -> anyhow::Result<()> {
        raise_files()?;
        let folder = TempDir::new_in(&self.binaries.folder).context("make a folder")?;
        let visits = Visits::default();
        let mut serving = JoinSet::new();
        listen(folder.path(), &visits, &mut serving).await?;
        let page = free_address();
        let path = folder.path().join("config.yaml");
        std::fs::write(&path, config(page, folder.path())).context("write a configuration")?;
        let path = path.to_str().context("the build's folder has a name that is text")?;
        let log = folder.path().join("log");
        let mut process =
            Process::start(&self.binaries.weir, &["run", "--config", path], &[("WEIR_LOG", "warn")], &log)?;
        process.listens(page, START_DEADLINE).await?;

        tokio::time::sleep(INTERVAL * WARM).await;
        let (before, since) = (process.cpu()?, Instant::now());
        tokio::time::sleep(INTERVAL * ROUNDS).await;
        let (cpu, wall) = ((process.cpu()? - before).as_secs_f64(), since.elapsed());
        let (late, worst) = late(&visits, since);
        let samples = f64::from((TARGETS - DEAD) * SERIES) * wall.as_secs_f64() / INTERVAL.as_secs_f64();
        let rss = process.rss_mib()?;
        let asked = Instant::now();
        let text = fetch(page).await.map_err(|error| process.complaint(&format!("{error:#}")))?;
        let took = asked.elapsed();
        check(&text).map_err(|error| process.complaint(&format!("{error:#}")))?;
        let peak = process.peak_mib()?;
        process.stop().await?;

        let series = f64::from((TARGETS - DEAD) * SERIES + TARGETS * OWN_SERIES);
        self.report.add("targets scraped and exposed", "samples/CPU-s", Bar::None, samples / cpu);
        self.report.add("targets core", "of a core", Bar::None, cpu / wall.as_secs_f64());
        self.report.add("targets late scrapes", "scrapes", Bar::AtMost(0.0), f64::from(late));
        self.report.add("targets worst gap beyond 15 s", "ms", Bar::None, worst.as_secs_f64() * 1e3);
        self.report.add("targets RSS a series", "bytes", Bar::AtMost(2048.0), rss * 1048576.0 / series);
        self.report.add("targets peak RSS with the page", "MiB", Bar::None, peak);
        self.report.add("targets page", "MiB", Bar::None, text.len() as f64 / 1048576.0);
        self.report.add("targets page took", "ms", Bar::None, took.as_secs_f64() * 1e3);
        Ok(())
    }
}

/// As many open files as the system lets us have, and the daemon after us.
///
/// # Errors
/// The system's.
pub(crate) fn raise_files() -> anyhow::Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let wanted = maximum.map_or(FILES, |maximum| maximum.min(FILES));
    if current.is_some_and(|current| current < wanted) {
        setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum }).context("open more files")?;
    }
    Ok(())
}

/// Opens an address for each hundred targets and writes them into the file that the daemon finds them in.
async fn listen(folder: &Path, visits: &Visits, serving: &mut JoinSet<()>) -> anyhow::Result<()> {
    let mut found = String::from("[");
    let mut kept = Vec::new();
    for first in (0..TARGETS).step_by(SHARING as usize) {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind a target")?;
        let address = listener.local_addr().context("ask for a target's address")?;
        for target in first..first + SHARING {
            let comma = if target == 0 { "" } else { "," };
            write!(
                found,
                "{comma}\n{{\"targets\":[\"{address}\"],\"labels\":{{\"__metrics_path__\":\"/{target}\",\"instance\":\"t{target}\"}}}}"
            )
            .context("a string takes everything")?;
        }
        // The dead ones come first: half of them refuse, half of them say nothing.
        match first {
            refusing if refusing < DEAD / 2 => drop(listener),
            silent if silent < DEAD => kept.push(listener),
            _ => {
                serving.spawn(serve(listener, Arc::clone(visits)));
            }
        }
    }
    serving.spawn(async move {
        let _kept = kept;
        std::future::pending::<()>().await;
    });
    found.push_str("\n]\n");
    std::fs::write(folder.join("targets.json"), found).context("write the targets")
}

async fn serve(listener: TcpListener, visits: Visits) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        while connections.try_join_next().is_some() {}
        let visits = Arc::clone(&visits);
        connections.spawn(async move {
            let answering = service_fn(|request| answer(request, &visits));
            let connection = hyper::server::conn::http1::Builder::new();
            // The daemon may close its connections as it likes.
            drop(connection.serve_connection(TokioIo::new(stream), answering).await);
        });
    }
}

async fn answer(request: Request<Incoming>, visits: &Visits) -> Result<Response<Full<Bytes>>, Infallible> {
    let target = request.uri().path().trim_start_matches('/').parse().unwrap_or(u32::MAX);
    visits.lock().unwrap_or_else(PoisonError::into_inner).entry(target).or_default().push(Instant::now());
    let response = Response::builder().header(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8");
    Ok(response.body(Full::new(formats::page(target))).expect("a response of constants"))
}

/// Scrapes that came too late after the one before, and the worst of all gaps beyond the interval, after `since`. A target that
/// was not asked at all has missed every round.
fn late(visits: &Visits, since: Instant) -> (u32, Duration) {
    let visits = visits.lock().unwrap_or_else(PoisonError::into_inner);
    let (mut late, mut worst) = (0, Duration::ZERO);
    for target in DEAD..TARGETS {
        let Some(times) = visits.get(&target) else {
            late += ROUNDS;
            continue;
        };
        for pair in times.windows(2).filter(|pair| pair[1] >= since) {
            let beyond = (pair[1] - pair[0]).saturating_sub(INTERVAL);
            worst = worst.max(beyond);
            late += u32::from(beyond > TOLERANCE);
        }
        late += u32::from(times.last().is_none_or(|last| last.elapsed() > INTERVAL + TOLERANCE));
    }
    (late, worst)
}

async fn fetch(page: SocketAddr) -> anyhow::Result<Bytes> {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::get(format!("http://{page}/metrics")).body(Full::default())?;
    let response = client.request(request).await.context("ask for the page")?;
    if response.status() != 200 {
        bail!("the page answers {}", response.status());
    }
    Ok(response.into_body().collect().await.context("read the page")?.to_bytes())
}

/// Every series of every living target, and for every target whether it lives.
fn check(page: &[u8]) -> anyhow::Result<()> {
    let text = std::str::from_utf8(page).context("the page is no text")?;
    let count = |wanted: &dyn Fn(&str) -> bool| text.lines().filter(|line| wanted(line)).count();
    let found = [
        ("series", count(&|line| line.starts_with("load_")), (TARGETS - DEAD) * SERIES),
        ("living", count(&|line| line.starts_with("up{") && line.ends_with(" 1")), TARGETS - DEAD),
        ("dead", count(&|line| line.starts_with("up{") && line.ends_with(" 0")), DEAD),
    ];
    for (what, found, wanted) in found {
        if found != wanted as usize {
            bail!("the page has {found} {what}, not {wanted}");
        }
    }
    Ok(())
}

fn config(page: SocketAddr, folder: &Path) -> String {
    let service = subject::service(Storage::Memory, folder);
    format!(
        "receivers:
  prometheus:
    limits: {{memory_mib: 1024}}
    state_mib: 256
    config:
      scrape_configs:
        - job_name: load
          scrape_interval: 15s
          scrape_timeout: 10s
          file_sd_configs: [{{files: ['{}']}}]
exporters:
  prometheus:
    limits: {{memory_mib: 2048}}
    endpoint: {page}
    series_max: 2000000
{service}  memory: {{limit_mib: 6144}}
  pipelines:
    metrics: {{receivers: [prometheus], exporters: [prometheus]}}
",
        folder.join("targets.json").display(),
    )
}
