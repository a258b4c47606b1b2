//! The collector's folder: which store it is, and the rows of the registry.
//!
//! ```text
//! collector.redb   "store" ▶ 16 bytes      "agent/" IDENTITY ▶ JSON (`registry/row.rs`)
//!                                          "agent/" IDENTITY ▶ nothing: forgotten, its states are still to be let go
//! ```
//!
//! Hellos that come while one commit runs share the next.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tracing::warn;
use weir_queue::{DurableMap, Opened, QueueError, SystemDisk};

use super::flights::{Flight, Flights};
use super::registry::{Change, ROW_PREFIX, Registry};
use crate::names::StoreId;

const STORE: &[u8] = b"store";

/// The file in the collector's folder.
const FILE: &str = "collector.redb";

/// Where the durable rows are.
pub trait Table: Send + Sync + fmt::Debug {
    /// Makes changes in one transaction, on the disk when it returns. Blocks.
    ///
    /// # Errors
    /// Why it could not, for a person; nothing was changed.
    fn commit(&self, changes: Vec<Change>) -> Result<(), Unwritten>;
}

/// Why changes are not on the disk, for a person.
#[derive(Debug)]
pub enum Unwritten {
    /// There is no room for as many rows.
    Full(String),
    /// It may work the next time.
    Failed(String),
}

impl Table for DurableMap {
    fn commit(&self, changes: Vec<Change>) -> Result<(), Unwritten> {
        Self::commit(self, changes).map_err(|error| match &error {
            QueueError::Bound { .. } => Unwritten::Full(weir_model::explain(&error)),
            _ => Unwritten::Failed(weir_model::explain(&error)),
        })
    }
}

/// For a collector without a folder: what is remembered ends with the process.
#[derive(Debug)]
pub(super) struct Nowhere;

impl Table for Nowhere {
    fn commit(&self, _changes: Vec<Change>) -> Result<(), Unwritten> {
        Ok(())
    }
}

/// The registry, and the disk that it is written to.
#[derive(Debug)]
pub(super) struct Store {
    registry: Mutex<Registry>,
    table: Arc<dyn Table>,
    /// Held while a commit runs: whoever comes meanwhile finds its row written with the others that came.
    turn: Arc<tokio::sync::Mutex<()>>,
    pub(super) flights: Arc<Flights>,
    pub(super) id: StoreId,
    /// Whether there is a folder.
    pub(super) is_durable: bool,
}

impl Store {
    /// Opens the store in `folder`, or one that is forgotten with the process. Blocks.
    ///
    /// # Errors
    /// Where the file cannot be opened or made, or there are no random bytes.
    pub(super) fn open(folder: Option<&Path>) -> Result<Self, OpenError> {
        let Some(folder) = folder else {
            return Ok(Self::over(Arc::new(Nowhere), fresh()?, Vec::new(), false));
        };
        let path = folder.join(FILE);
        let failed = |cause| OpenError::Open { path: path.clone(), cause };
        let (map, opened) = DurableMap::open(Arc::new(SystemDisk), &path).map_err(failed)?;
        if let Opened::SetAside(what) = opened {
            warn!(
                file = %path.display(), %what,
                "the collector's file was damaged and is set aside: agents are met as strangers, and send again what they keep"
            );
        }
        let id = match map.get(STORE).and_then(|id| crate::names::from_wire(&id)) {
            Some(id) => StoreId(id),
            None => {
                let id = fresh()?;
                map.commit(vec![(STORE.to_vec(), Some(crate::names::to_wire(id.0)))]).map_err(failed)?;
                id
            }
        };
        let rows = map.scan(ROW_PREFIX);
        Ok(Self::over(Arc::new(map), id, rows, true))
    }

    /// The store `id` over a table with these rows.
    pub(super) fn over(
        table: Arc<dyn Table>,
        id: StoreId,
        rows: Vec<(Vec<u8>, Vec<u8>)>,
        is_durable: bool,
    ) -> Self {
        let (registry, broken) = Registry::new(id, rows, Instant::now());
        for identity in broken {
            warn!(%identity, "what was known of an agent cannot be read: it is met as a stranger");
        }
        let (turn, flights) = (Arc::default(), Arc::default());
        Self { registry: Mutex::new(registry), table, turn, flights, id, is_durable }
    }

    /// A bundle of this stream goes to its pipeline; none where the stream is not the live one of its agent any more: from then on
    /// no bundle follows those that are there.
    pub(super) fn fly(&self, identity: &str, session: u64) -> Option<Flight> {
        let registry = self.registry();
        registry.is_live(identity, session).then(|| self.flights.begin(identity))
    }

    pub(super) fn registry(&self) -> MutexGuard<'_, Registry> {
        // A panic elsewhere leaves at worst a count that is off, which is no reason to turn agents away.
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when everything that was changed before the call is on the disk.
    ///
    /// # Errors
    /// Why not, for a person.
    pub(super) async fn persist(self: &Arc<Self>) -> Result<(), String> {
        let turn = Arc::clone(&self.turn).lock_owned().await;
        if !self.registry().has_changes() {
            return Ok(());
        }
        let store = Arc::clone(self);
        let write = move || {
            // A caller that goes away leaves a commit that goes on: the next one waits for it.
            let _turn = turn;
            store.write()
        };
        tokio::task::spawn_blocking(write).await.unwrap_or_else(|error| Err(error.to_string()))
    }

    fn write(&self) -> Result<(), String> {
        loop {
            let changes = self.registry().take_changes();
            let Err(unwritten) = self.table.commit(changes.clone()) else { return Ok(()) };
            let mut registry = self.registry();
            registry.not_written(&changes);
            match unwritten {
                // Each turn has a row less, or a smaller one.
                Unwritten::Full(_) if registry.make_place() => (),
                Unwritten::Full(text) | Unwritten::Failed(text) => return Err(text),
            }
        }
    }
}

/// Why a collector does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its file is not usable.
    #[error("open the collector's file {}", path.display())]
    Open {
        /// The file.
        path: std::path::PathBuf,
        /// Why not.
        #[source]
        cause: QueueError,
    },
    /// The operating system gives no random bytes.
    #[error("make an id for the collector's store: {0}")]
    Random(String),
}

fn fresh() -> Result<StoreId, OpenError> {
    let mut id = [0; 16];
    getrandom::fill(&mut id).map_err(|error| OpenError::Random(error.to_string()))?;
    Ok(StoreId(u128::from_be_bytes(id)))
}
