//! The side that answers: agents' streams, who lives, what is acknowledged.
//!
//! | file | what it holds |
//! | --- | --- |
//! | `collector/hello.rs` | what an agent says of itself, checked |
//! | `collector/registry.rs`, `registry/` | who may speak as whom; what is known and shown of each agent |
//! | `collector/session.rs` | one stream after its Welcome: the protocol, acknowledgements, credit, lanes, liveness |
//! | `collector/decode.rs`, `bundle.rs` | messages and bundles, read under bounds |
//! | `collector/assembly.rs`, `intake.rs`, `patience.rs` | a body paid for, unpacked, walked, and handed to its pipeline |
//! | `collector/lot.rs` | room for what a pipeline refuses for now |
//! | `collector/flights.rs` | bundles that are with pipelines, by agent: also those whose streams are gone |
//! | `collector/states_lane.rs` | states of one agent on their way to the store |
//! | `collector/greet.rs`, `serve.rs`, `door.rs` | the stream's task and the address |
//! | `collector/store.rs` | the collector's folder |
//! | `collector/fleet.rs`, `counts.rs` | what is shown |
//!
//! Invariant: a bundle is acknowledged with its `Receipt`, and an agent is welcome when its row is on the disk.

mod assembly;
mod bundle;
mod counts;
mod decode;
mod door;
mod fleet;
mod flights;
mod greet;
mod hello;
mod intake;
mod lot;
mod patience;
mod registry;
mod serve;
mod session;
mod states_lane;
mod store;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weir_model::count::ReceiverCounts;
use weir_model::{Consumer, Ledger, Mark, Signal};
use weir_net::limits::ListenLimits;
use weir_net::listen::Peer;
use weir_proto::weir::link::v1::Goodbye;
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_wire::WalkLimits;

use crate::lanes::CollectorStates;
use crate::names::StoreId;

pub use bundle::Head;
pub use counts::{ByGoodbye, LinkCounts};
pub use door::Bound;
pub use fleet::{FleetRow, FleetState, Waiting};
pub use hello::{Facts, LogSaid, Who};
pub use registry::{Admitted, Change, End, Note, Registry, RejectedBundle, Weight};
pub use session::{Heard, Part, Session, Terms};
pub use store::{OpenError, Table, Unwritten};

use lot::Lot;
use store::Store;

/// Who takes each signal now: asked for each try, since pipelines may be exchanged under streams that are open.
pub trait Pipelines: Send + Sync {
    /// Who takes this signal, where anybody does.
    fn of(&self, signal: Signal) -> Option<Arc<dyn Consumer>>;
}

impl<F: Fn(Signal) -> Option<Arc<dyn Consumer>> + Send + Sync> Pipelines for F {
    fn of(&self, signal: Signal) -> Option<Arc<dyn Consumer>> {
        self(signal)
    }
}

/// What the logs that a collector feeds have of an agent.
pub trait Marks: Send + Sync {
    /// The newest record of each of its logs: of one source as many as there are logs that have it.
    fn marks(&self, identity: &str) -> Vec<Mark>;
}

/// The name that a connection's other end has shown and that was verified.
pub type PeerName = Arc<dyn Fn(&Peer) -> Option<String> + Send + Sync>;

/// What the program says of a collector.
#[derive(Clone)]
pub struct CollectorSettings {
    /// The configured id (`weir`, `weir/edge`).
    pub id: Arc<str>,
    /// Where `collector.redb` is; none keeps everything in memory.
    pub folder: Option<PathBuf>,
    /// Where each signal goes.
    pub pipelines: Arc<dyn Pipelines>,
    /// The logs behind them.
    pub logs: Arc<dyn Marks>,
    /// The interval of heartbeats; zero for none.
    pub heartbeat: Duration,
    /// Bytes that an agent may send beyond what was taken; at least `bundle_bytes_max` is granted.
    pub credit_bytes: u64,
    /// Bytes of the largest bundle.
    pub bundle_bytes_max: u64,
    /// What one record may hold.
    pub walk: WalkLimits,
    /// Limits of connections, and of how slowly a message may come.
    pub limits: ListenLimits,
    /// The store of states.
    pub states: Arc<dyn CollectorStates>,
    /// Whom a connection has authenticated.
    pub peer_name: PeerName,
    /// The budget of memory that messages are paid from.
    pub ledger: Arc<Ledger>,
    /// What every receiver counts.
    pub counts: ReceiverCounts,
    /// What a collector counts.
    pub link_counts: LinkCounts,
}

impl fmt::Debug for CollectorSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CollectorSettings")
            .field("id", &self.id)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

/// By session who tells the live stream that its place is another's.
type Hands = HashMap<u64, oneshot::Sender<Goodbye>>;

/// One configured collector.
#[derive(Debug)]
pub struct Collector {
    settings: CollectorSettings,
    store: Arc<Store>,
    /// How to tell a live stream that it is over.
    live: Arc<Mutex<Hands>>,
    /// Room for bundles that are refused for now.
    lot: Lot,
    /// Streams that are open, welcomed or not.
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl Collector {
    /// Opens the collector's folder. Blocks.
    ///
    /// # Errors
    /// [`OpenError`] with the file.
    pub fn open(settings: CollectorSettings) -> Result<Arc<Self>, OpenError> {
        let store = Store::open(settings.folder.as_deref())?;
        Ok(Self::over(settings, store))
    }

    /// The same collector under other settings, after a reload: it has the same file and knows the same agents, and may serve
    /// while this one still drains. The folder of `settings` is not looked at.
    pub fn renewed(&self, settings: CollectorSettings) -> Arc<Self> {
        let (store, live) = (Arc::clone(&self.store), Arc::clone(&self.live));
        Arc::new(Self::with(settings, store, live))
    }

    fn over(settings: CollectorSettings, store: Store) -> Arc<Self> {
        Arc::new(Self::with(settings, Arc::new(store), Arc::default()))
    }

    fn with(settings: CollectorSettings, store: Arc<Store>, live: Arc<Mutex<Hands>>) -> Self {
        let (tasks, cut) = (TaskTracker::new(), CancellationToken::new());
        let lot = Lot::of(settings.ledger.limit());
        Self { settings, store, live, lot, tasks, cut }
    }

    /// The store that agents know it by.
    pub fn store(&self) -> StoreId {
        self.store.id
    }

    /// Every agent that lives or was here lately, by name.
    pub fn fleet(&self) -> Vec<FleetRow> {
        self.store.registry().fleet(Instant::now())
    }

    /// Once a minute or so: forgets whom nobody has seen for long, with their states, and writes what is not on the disk yet.
    pub async fn sweep(&self) {
        self.store.registry().sweep(Instant::now());
        if self.persist().await {
            self.let_go().await;
            self.persist().await;
        }
        self.count_rows();
    }

    /// Writes what is not on the disk yet; whether that worked.
    async fn persist(&self) -> bool {
        let written = self.store.persist().await;
        if let Err(error) = &written {
            tracing::warn!(%error, "what is known of agents is not written, trying on");
        }
        written.is_ok()
    }

    /// Lets go of the states of whom the registry has forgotten.
    async fn let_go(&self) {
        loop {
            let Some(identity) = self.store.registry().first_gone() else { return };
            if !self.settings.states.forget(&identity).await {
                // The store has said why; the next sweep tries again.
                return;
            }
            self.store.registry().let_go(&identity);
        }
    }

    /// Sets the gauges that follow from the registry.
    fn count_rows(&self) {
        let (live, forgotten) = {
            let registry = self.store.registry();
            (registry.live(), registry.forgotten())
        };
        self.settings.link_counts.agents.set(live as u64);
        self.settings.link_counts.forgotten.set(forgotten);
    }

    fn hands(&self) -> MutexGuard<'_, Hands> {
        self.live.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A message that the protocol does not allow; says which, for a person at the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation(pub String);

/// A Goodbye without a wait.
fn farewell(reason: Reason, text: impl Into<String>) -> Goodbye {
    Goodbye { reason: reason.into(), text: text.into(), ..Goodbye::default() }
}

/// Seconds from `then` to `now`; 0 for never.
fn seconds(then: Option<Instant>, now: Instant) -> f64 {
    then.map_or(0.0, |then| now.saturating_duration_since(then).as_secs_f64())
}
