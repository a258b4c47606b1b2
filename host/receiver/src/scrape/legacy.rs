//! What one run leaves to the next: targets that the plugin knows of.
//!
//! A receiver whose configuration changes ends, and another takes its place. What the first had fetched and the second does not
//! fetch any more is forgotten by the plugin that knew it; a process that ends forgets nothing, as Prometheus does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::Notify;
use weir_model::Scraper;
use weir_model::scrape::Target;

/// Between the runs of one configured id. Clones are one.
#[derive(Clone, Default)]
pub struct Legacy(Arc<Inner>);

#[derive(Default)]
struct Inner {
    left: Mutex<Vec<Left>>,
    came: Notify,
    is_farewell: AtomicBool,
}

/// What a run has left.
pub(super) struct Left {
    /// Who knows these targets.
    pub(super) scraper: Arc<dyn Scraper>,
    /// What was fetched.
    pub(super) targets: Vec<Arc<Target>>,
}

impl Legacy {
    /// The receiver leaves the configuration: its run forgets its targets when it ends.
    pub fn bid_farewell(&self) {
        self.0.is_farewell.store(true, Ordering::Release);
    }

    pub(super) fn is_farewell(&self) -> bool {
        self.0.is_farewell.load(Ordering::Acquire)
    }

    pub(super) fn leave(&self, left: Left) {
        self.0.left.lock().unwrap_or_else(PoisonError::into_inner).push(left);
        self.0.came.notify_one();
    }

    pub(super) fn take(&self) -> Vec<Left> {
        std::mem::take(&mut *self.0.left.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Returns when something has been left since the last time.
    ///
    /// # Cancel safety
    /// Safe to drop and to call again.
    pub(super) async fn came(&self) {
        self.0.came.notified().await;
    }
}
