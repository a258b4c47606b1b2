//! The side that dials: one agent for each configured exporter of the type `weir`.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `agent/session.rs`, `agent/words.rs` | the agent's half of the protocol: no I/O, no clock |
//! | `agent/parcel.rs`, `agent/pace.rs` | a bundle on its way, and how large its parts are |
//! | `agent/folder.rs` | what the agent remembers of itself over a restart |
//! | `agent/rejected.rs` | which records were rejected and may come again |
//! | `agent/gauge.rs` | what waits in its logs |
//! | `agent/shared.rs` | what pushes and the connection share |
//! | `agent/exporter.rs` | the link seen as an exporter |
//! | `agent/connection.rs`, `agent/dial.rs`, `agent/wire.rs` | the stream, the way to it, its bytes |
//! | `agent/sign.rs` | whether a peer has sent anything |
//!
//! ```text
//! Delivery ── push ──▶ exporter ── parcel ──▶ session ◀── next ── writer ──▶ collector
//!     ▲                                          │  ▲                            │
//!     └──────────────── outcome ─────────────────┘  └────────── reader ◀─────────┘
//! ```
//!
//! Invariant: a push that was not acknowledged is never `Accepted`; one that is not withdrawn is sent until it is answered.

mod connection;
mod dial;
mod exporter;
mod folder;
mod gauge;
mod pace;
mod parcel;
mod rejected;
pub mod session;
mod shared;
mod sign;
mod wire;
mod words;

#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod parting_tests;
#[cfg(test)]
mod rejected_tests;
#[cfg(test)]
mod session_model;
#[cfg(test)]
mod session_tests;
#[cfg(test)]
mod states_tests;
#[cfg(test)]
mod tls_tests;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::task::{JoinHandle, spawn_blocking};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use weir_model::{Exporter, SOURCE_NAME_BYTES_MAX};
use weir_net::client_tls::ClientTls;
use weir_queue::{Disk, DurableMap, Opened, QueueError, SystemDisk};

use crate::agent::connection::Connection;
use crate::agent::dial::{Begin, Target};
use crate::agent::exporter::{LogExporter, Unknown};
use crate::agent::folder::{Folder, Memory, Rows, Seeds, Start};
use crate::agent::gauge::Gauge;
use crate::agent::rejected::Rejected;
use crate::agent::session::{Names, Session};
use crate::agent::shared::Shared;
use crate::lanes::AgentStates;
use crate::limits::{CUT_GRACE, LEAVE_GRACE, LOGS_MAX};
use crate::names::{Boot, Incarnation, StoreId};

pub use dial::EndpointError;
pub use folder::FolderError;
pub use gauge::LogHandle;
pub use parcel::{Encoding, Parcel, Unfit};
pub use shared::AgentCounts;

/// What an agent is made of.
pub struct AgentSettings {
    /// The configured id of the exporter, for logs and the name of its file.
    pub id: String,
    /// Where the collector is: `host:port`.
    pub endpoint: String,
    /// Where the file `agent-ID.redb` is; none: all is forgotten with the process, and each start is a new incarnation.
    pub folder: Option<PathBuf>,
    /// By what the collector is judged, at each dial and while a stream lives, and what is shown to it; none: plaintext, over loopback
    /// only.
    pub tls: Option<ClientTls>,
    /// Who it is; none: the UUID of its folder.
    pub identity: Option<String>,
    /// How bodies may be compressed, the preferred first.
    pub encodings: Vec<Encoding>,
    /// The host's name, for people.
    pub host: String,
    /// The program and its version, for people.
    pub program: String,
    /// The lane of states.
    pub states: Box<dyn AgentStates>,
}

/// What keeps an agent from starting.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The endpoint cannot be one.
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    /// Its memory of itself cannot be used.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// More logs than a Hello may name.
    #[error("{0} pipelines over one link: {LOGS_MAX} may be")]
    Logs(usize),
    /// A log's name cannot be one.
    #[error(
        "a pipeline's name over the link has 1 to {SOURCE_NAME_BYTES_MAX} bytes, and each its own: `{0}`"
    )]
    Name(String),
    /// No random numbers.
    #[error("the operating system gives no random numbers: {0}")]
    Random(String),
}

/// An agent: it keeps what it is given until a collector has persisted it.
pub struct Agent {
    id: String,
    shared: Arc<Shared>,
    folder: Arc<Folder>,
    rejected: Arc<Rejected>,
    logs: Vec<String>,
    task: Mutex<Option<JoinHandle<()>>>,
    cut: CancellationToken,
}

/// An agent at one moment.
#[derive(Debug, Clone)]
pub struct AgentStatus {
    /// Who it is.
    pub identity: String,
    /// The life of its folder.
    pub incarnation: Incarnation,
    /// The start in it.
    pub epoch: u64,
    /// The stream that is up; none where there is none.
    pub connected: Option<Connected>,
    /// Why there is none, once a try has failed.
    pub why_away: Option<String>,
    /// The store that acknowledged last.
    pub store: Option<StoreId>,
    /// What is under way.
    pub unacknowledged: Unacknowledged,
    /// What the collector said at the end of the last stream that it ended.
    pub last_goodbye: Option<String>,
    /// Bundles that were begun on more than one stream.
    pub resent: u64,
    /// What is counted; shared.
    pub counts: AgentCounts,
}

/// A stream that is up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connected {
    /// For how long.
    pub since: Duration,
    /// Its number at the collector.
    pub session: u64,
    /// The collector's store.
    pub store: StoreId,
    /// Whether what it acknowledges is on disk.
    pub durable: bool,
}

/// Bundles that were pushed and are not answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Unacknowledged {
    /// How many.
    pub bundles: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes in them, uncompressed.
    pub bytes: u64,
    /// How long the first has waited.
    pub oldest: Option<Duration>,
}

/// Tells who waits for an answer that the agent has stopped, however its task ended: also by a panic.
struct Closing(Arc<Shared>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

// === impl Agent ===

impl Agent {
    /// Starts an agent for these logs; it dials at once. To be called in a runtime, where blocking for the disk is allowed,
    /// and before records are appended that this start is to send.
    ///
    /// # Errors
    /// [`AgentError`]: nothing was started.
    pub fn start(settings: AgentSettings, logs: Vec<LogHandle>) -> Result<Arc<Self>, AgentError> {
        let AgentSettings { id, endpoint, folder, tls, identity, encodings, host, program, states } =
            settings;
        check(&logs)?;
        let target = Target::parse(&endpoint, tls.is_some())?;
        let seeds = try_seeds()?;
        let now = shared::now();
        let gauges: Vec<_> = logs.into_iter().map(|log| Gauge::new(log, now)).collect();
        let start = Start { boot: Boot(try_seeds()?.random), ends: gauges.iter().map(Gauge::end).collect() };
        let rows = open(&id, folder)?;
        let rejected = Arc::new(Rejected::open(Arc::clone(&rows), &start.ends));
        let folder = Arc::new(Folder::open(rows, identity.as_deref(), &start, seeds)?);
        let life = folder.life();
        let names = Names {
            // Where a certificate says who the agent is, it does not say otherwise.
            identity: if tls.is_some() { identity.unwrap_or_default() } else { life.identity },
            incarnation: life.incarnation,
            epoch: life.epoch,
            boot: start.boot,
            boots: life.boots,
            store: life.store,
            host,
            program,
            encodings,
        };
        let names_of_logs = gauges.iter().map(|gauge| gauge.log.name.clone()).collect();
        let shared = Arc::new(Shared::new(Session::new(names, states), gauges));
        let connection = Connection {
            id: id.clone(),
            target,
            tls,
            shared: Arc::clone(&shared),
            folder: Arc::clone(&folder),
            rejected: Arc::clone(&rejected),
            shown: VecDeque::new(),
            begin: Begin::default(),
            is_renewed: false,
        };
        let cut = CancellationToken::new();
        let (ending, closing) = (cut.clone(), Closing(Arc::clone(&shared)));
        let task = tokio::spawn(async move {
            let _closing = closing;
            tokio::select! {
                () = connection.run() => (),
                () = ending.cancelled() => (),
            }
        });
        Ok(Arc::new(Self {
            id,
            shared,
            folder,
            rejected,
            logs: names_of_logs,
            task: Mutex::new(Some(task)),
            cut,
        }))
    }

    /// The way over the link for one of its logs. What is pushed before there is a connection waits for it.
    pub fn exporter(&self, log: &str) -> Arc<dyn Exporter> {
        let at = self.logs.iter().position(|name| name == log).and_then(|at| u32::try_from(at).ok());
        match at {
            Some(log) => {
                let (shared, rejected) = (Arc::clone(&self.shared), Arc::downgrade(&self.rejected));
                Arc::new(LogExporter { shared, rejected, log })
            }
            None => Arc::new(Unknown(log.to_owned())),
        }
    }

    /// How it stands.
    pub fn status(&self) -> AgentStatus {
        let life = self.folder.life();
        let standing = self.shared.standing();
        let (bundles, records, bytes, oldest) = self.shared.kept();
        let now = shared::now();
        AgentStatus {
            identity: life.identity,
            incarnation: life.incarnation,
            epoch: life.epoch,
            connected: standing.up.map(|up| Connected {
                since: now.saturating_duration_since(up.since),
                session: up.session,
                store: up.store,
                durable: up.durable,
            }),
            why_away: standing.why_away,
            store: life.store,
            unacknowledged: Unacknowledged { bundles, records, bytes, oldest },
            last_goodbye: standing.last_goodbye,
            resent: self.shared.resent(),
            counts: self.shared.counts.clone(),
        }
    }

    /// Ends it: what is under way may be acknowledged within `drain`, then the collector is told that the agent leaves. What is
    /// not acknowledged stays in the logs; pushes that wait are told that they may try again.
    pub async fn stop(&self, drain: Duration) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(task) = task else { return };
        self.end(task, drain).await;
        // Something may be on its way to the disk, also of a task that was cut off: the folder is another's to take when it is there.
        let (folder, rejected) = (Arc::clone(&self.folder), Arc::clone(&self.rejected));
        let closing = spawn_blocking(move || {
            rejected.close();
            folder.close();
        });
        if tokio::time::timeout(CUT_GRACE, closing).await.is_err() {
            warn!(exporter = self.id, "the disk does not answer, the agent's folder may stay locked");
        }
    }

    async fn end(&self, mut task: JoinHandle<()>, drain: Duration) {
        self.shared.leave(false);
        if tokio::time::timeout(drain, &mut task).await.is_ok() {
            return;
        }
        self.shared.leave(true);
        // Twice: for the word to go out, and for the collector to end the stream.
        if tokio::time::timeout(LEAVE_GRACE * 2, &mut task).await.is_ok() {
            return;
        }
        cut_off(&self.id, task, &self.cut).await;
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.cut.cancel();
    }
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Agent")
            .field("logs", &self.logs)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

impl std::fmt::Debug for AgentSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentSettings")
            .field("id", &self.id)
            .field("endpoint", &self.endpoint)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// Ends a task that does not end by itself, and waits for it for no longer than a stop may take.
async fn cut_off(exporter: &str, mut task: JoinHandle<()>, cut: &CancellationToken) {
    cut.cancel();
    match tokio::time::timeout(CUT_GRACE, &mut task).await {
        Ok(Ok(())) => (),
        Ok(Err(error)) => warn!(exporter, %error, "the link's task did not end by itself"),
        Err(_) => {
            task.abort();
            warn!(
                exporter,
                "the link's task did not end within {CUT_GRACE:?} of being told to and is given up: what it has under way is sent again"
            );
        }
    }
}

fn check(logs: &[LogHandle]) -> Result<(), AgentError> {
    if logs.len() > LOGS_MAX {
        return Err(AgentError::Logs(logs.len()));
    }
    for (at, log) in logs.iter().enumerate() {
        let is_taken = logs[..at].iter().any(|other| other.name == log.name);
        if log.name.is_empty() || log.name.len() > SOURCE_NAME_BYTES_MAX || is_taken {
            return Err(AgentError::Name(log.name.clone()));
        }
    }
    Ok(())
}

fn open(id: &str, folder: Option<PathBuf>) -> Result<Arc<dyn Rows>, FolderError> {
    let Some(folder) = folder else { return Ok(Arc::<Memory>::default()) };
    // An id may have a slash in it, and is no path.
    let path = folder.join(format!("agent-{}.redb", id.replace(['/', '\\'], "+")));
    let failed = |cause| FolderError::Open { path: path.clone(), cause };
    let made = SystemDisk.make_folder(&folder);
    made.map_err(|source| failed(QueueError::Io { act: "make", path: folder.clone(), source }))?;
    let (map, opened) = DurableMap::open(Arc::new(SystemDisk), &path).map_err(failed)?;
    if let Opened::SetAside(kept) = opened {
        warn!(
            exporter = id, file = %path.display(), set_aside = %kept,
            "the agent's memory of itself was damaged: it goes on as a new one"
        );
    }
    Ok(Arc::new(map))
}

impl Rows for DurableMap {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.get(key)
    }

    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.scan(prefix)
    }

    fn commit(&self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), QueueError> {
        self.commit(changes)
    }
}

/// New numbers for a new life.
fn try_seeds() -> Result<Seeds, AgentError> {
    let mut random = [0; 16];
    getrandom::fill(&mut random).map_err(|error| AgentError::Random(error.to_string()))?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let unix_millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    Ok(Seeds { unix_millis, random: u128::from_be_bytes(random) })
}

/// The same while it runs: an incarnation is unique by its time too, and the system gave random numbers at the start.
fn seeds() -> Seeds {
    try_seeds().unwrap_or_else(|_| Seeds { unix_millis: 0, random: fastrand::u128(..) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: the task of an agent that is cut off heeds it, ends by a panic, or does neither.
    /// Guarantees: the stop is over within its time, and the last task is given up.
    #[tokio::test(start_paused = true)]
    async fn a_task_that_does_not_end_is_given_up() {
        let cut = CancellationToken::new();
        let heeds = cut.clone();
        cut_off("weir/up", tokio::spawn(async move { heeds.cancelled().await }), &cut).await;
        cut_off("weir/up", tokio::spawn(async { panic!("as the test wants it") }), &cut).await;
        let (held, given_up) = tokio::sync::oneshot::channel::<()>();
        let stuck = tokio::spawn(async move {
            let _held = held;
            std::future::pending().await
        });
        let began = tokio::time::Instant::now();
        cut_off("weir/up", stuck, &cut).await;
        assert_eq!(began.elapsed().as_secs(), CUT_GRACE.as_secs());
        given_up.await.unwrap_err();
    }
}
