//! What was promised beside what came: the counts that every figure stands on.
//!
//! ```text
//! sender ──▶ daemon ──▶ sink
//!   ▲ acknowledged        │ arrived
//!   └──── window ◀────────┘      a closed loop reaches over the whole way, so that nobody is refused
//! ```

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::Semaphore;

/// Latencies above a minute are cut to a minute.
const LATENCY_MICROS_MAX: u64 = 60_000_000;

/// The counts of one run.
#[derive(Debug)]
pub(crate) struct Tally {
    acknowledged: AtomicU64,
    arrived: AtomicU64,
    refused: AtomicU64,
    requests: AtomicU64,
    fault: Mutex<Option<String>>,
    latencies: Mutex<Histogram<u64>>,
    /// Items that may still be sent before some arrive. Closed loops take from it, the sink gives back.
    window: Semaphore,
}

impl Tally {
    /// Counts of a run in which at most `window` items are between sender and sink; 0 for an open loop.
    pub(crate) fn new(window: usize) -> Self {
        Self {
            acknowledged: AtomicU64::new(0),
            arrived: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            fault: Mutex::new(None),
            latencies: Mutex::new(
                Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("bounds that fit"),
            ),
            window: Semaphore::new(window),
        }
    }

    /// Waits until so many items may be sent.
    pub(crate) async fn room(&self, items: u32) {
        self.window.acquire_many(items).await.expect("it is never closed").forget();
    }

    /// The daemon has said yes.
    pub(crate) fn acknowledge(&self, items: u32, latency: Duration) {
        self.acknowledged.fetch_add(u64::from(items), Ordering::Relaxed);
        let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
        let mut latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.saturating_record(micros.clamp(1, LATENCY_MICROS_MAX));
    }

    /// The daemon has said "later".
    pub(crate) fn refuse(&self, items: u32) {
        self.refused.fetch_add(u64::from(items), Ordering::Relaxed);
    }

    /// Items have arrived at the sink.
    pub(crate) fn arrive(&self, items: u64) {
        self.arrived.fetch_add(items, Ordering::Relaxed);
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.window
            .add_permits(usize::try_from(items).expect("a request has fewer items than memory has bytes"));
    }

    /// Something that may not happen has happened: the run fails. The first one is told.
    pub(crate) fn fail(&self, what: impl Into<String>) {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(what.into());
    }

    /// What has failed, if anything has.
    pub(crate) fn fault(&self) -> Option<String> {
        self.fault.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn acknowledged(&self) -> u64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    pub(crate) fn arrived(&self) -> u64 {
        self.arrived.load(Ordering::Relaxed)
    }

    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Spans of a request at the sink, on average.
    pub(crate) fn mean_request(&self) -> f64 {
        self.arrived() as f64 / self.requests.load(Ordering::Relaxed).max(1) as f64
    }

    /// The latency that this share of the requests did not exceed, in milliseconds.
    pub(crate) fn latency_millis(&self, quantile: f64) -> f64 {
        let latencies = self.latencies.lock().unwrap_or_else(PoisonError::into_inner);
        latencies.value_at_quantile(quantile) as f64 / 1e3
    }

    /// The longest latency, in milliseconds.
    pub(crate) fn latency_max_millis(&self) -> f64 {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).max() as f64 / 1e3
    }
}
