//! Where outbox and store are durable.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Instant;

use tokio::task::spawn_blocking;
use weir_queue::QueueError;

/// A key, and its new value: none removes the row.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// A map that is durable, or says that it is not.
pub trait Keep: Debug + Send + Sync {
    /// The value of a key. Does not wait for the disk.
    fn get(&self, key: &[u8]) -> Option<Vec<u8>>;

    /// The rows whose keys begin with `prefix`, in the order of their keys.
    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)>;

    /// Makes changes, all or none; durable when it returns. Blocks.
    ///
    /// # Errors
    /// The map is what it was before; after a crash it may show either.
    fn commit(&self, changes: Vec<Change>) -> Result<(), QueueError>;
}

/// Commits on a thread that may block.
pub(super) async fn durable(keep: &Arc<dyn Keep>, changes: Vec<Change>) -> Result<(), QueueError> {
    if changes.is_empty() {
        return Ok(());
    }
    let keep = Arc::clone(keep);
    // The runtime cancels it only where it has not begun, and then the process ends.
    spawn_blocking(move || keep.commit(changes)).await.unwrap_or(Err(QueueError::Closed))
}

/// The clock of the runtime, so that tests may hold it.
pub(super) fn clock() -> Instant {
    tokio::time::Instant::now().into_std()
}

impl Keep for weir_queue::DurableMap {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        Self::get(self, key)
    }

    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        Self::scan(self, prefix)
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), QueueError> {
        Self::commit(self, changes)
    }
}

/// A map in memory: for a process without a folder, whose states are gone with it.
#[derive(Debug, Default)]
pub struct Volatile(RwLock<BTreeMap<Vec<u8>, Vec<u8>>>);

impl Keep for Volatile {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let those = rows.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        those.map(|(key, value)| (key.clone(), value.clone())).collect()
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), QueueError> {
        let mut rows = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (key, value) in changes {
            match value {
                Some(value) => drop(rows.insert(key, value)),
                None => drop(rows.remove(&key)),
            }
        }
        Ok(())
    }
}
