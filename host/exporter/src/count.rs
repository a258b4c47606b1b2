//! What one exporter counts.

use std::sync::{Arc, Mutex, PoisonError};

use weir_model::Counter;
use weir_model::count::BySignal;
use weir_model::durations::Durations;

/// The counters of one configured exporter; items unless said. Cloning shares them.
#[derive(Debug, Clone, Default)]
pub struct ExporterCounts {
    /// Items that the backend took.
    pub sent: BySignal,
    /// Items of pushes that failed and are kept for another try.
    pub send_failed: BySignal,
    /// Items that the backend did not take out of a push that it took (partial success).
    pub rejected: BySignal,
    /// Items that went to the dead-letter log.
    pub dead_lettered: BySignal,
    /// Pushes made.
    pub pushes: Counter,
    /// How long pushes took, from the first byte to what the backend said.
    pub durations: Durations,
    /// Pushes during which a plugin's instance ended.
    pub ends: Counter,
    /// Pushes under way.
    pub in_flight: Counter,
    /// What an operator should read.
    pub state: Arc<Mutex<State>>,
}

/// The exporter in words.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct State {
    /// Why it is paused until an operator acts, if it is.
    pub paused: Option<String>,
    /// What the backend said last when it did not take something.
    pub last_error: Option<String>,
}

/// Bytes kept of a backend's words.
const ERROR_BYTES_MAX: usize = 512;

impl ExporterCounts {
    /// Keeps what the backend said.
    pub fn note_error(&self, message: &str) {
        let mut end = message.len().min(ERROR_BYTES_MAX);
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        self.state.lock().unwrap_or_else(PoisonError::into_inner).last_error =
            Some(message[..end].to_owned());
    }

    /// Keeps why the exporter is paused, or that it is not.
    pub fn note_paused(&self, why: Option<&str>) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).paused = why.map(str::to_owned);
    }

    /// The exporter in words.
    pub fn state(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
