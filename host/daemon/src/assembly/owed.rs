//! What exporters have to come from logs in memory, which end with the process.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::interval;
use weir_queue::Queue;

use super::tasks::Running;

/// How often it is looked whether an exporter has settled everything.
const EMPTY_LOOK: Duration = Duration::from_millis(20);

/// What one exporter at work has to come from one log.
pub(crate) struct Owed {
    pub(super) queue: Arc<dyn Queue>,
    pub(super) exporter: String,
    pub(super) running: Running,
}

impl Owed {
    /// From now on nothing more comes to it.
    pub(super) fn is_all(&self) {
        self.queue.leaves(&self.exporter);
    }

    /// Whether there is something, and somebody who takes it.
    fn is_awaited(&self) -> bool {
        let waits = || {
            self.queue
                .status()
                .cursors
                .into_iter()
                .any(|cursor| cursor.exporter == self.exporter && cursor.pending_records > 0)
        };
        !self.running.has_ended() && waits()
    }
}

/// Returns when each exporter has settled everything or has ended: nobody waits for a cursor that nobody serves.
///
/// # Cancel safety
/// Safe to drop and to call again.
pub(crate) async fn emptied(owed: &[Owed]) {
    let mut looks = interval(EMPTY_LOOK);
    while owed.iter().any(Owed::is_awaited) {
        looks.tick().await;
    }
}
