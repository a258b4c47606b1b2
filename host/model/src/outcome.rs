//! How a delivery to a backend went.

use std::time::Duration;

use bytes::Bytes;

use crate::{Places, Signal};

/// One try at handing bytes to a backend.
#[derive(Debug, Clone)]
pub struct Push {
    /// What the bytes are.
    pub signal: Signal,
    /// One serialised `Export{Traces,Metrics,Logs}ServiceRequest`.
    pub body: Bytes,
    /// The same for every attempt with the same bytes, also after a restart: an idempotency key.
    pub id: String,
    /// 1 for the first attempt.
    pub attempt: u32,
    /// Spans, data points or log records in the body.
    pub items: u32,
    /// The records that the body is made of; none where it is a part of one.
    pub places: Option<Places>,
    /// Part of a search for the record that ends a plugin's instances: its end is expected, and says nothing new about
    /// the plugin.
    pub searching: bool,
}

/// What an exporter says about a [`Push`]. Queue, order, back-off and settlement are not its business.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The backend took all of it.
    Accepted,
    /// Taken but for some items, which will not be sent again.
    Partial {
        /// Items that the backend did not take.
        rejected: u32,
        /// The backend's words.
        message: String,
    },
    /// Worth sending again.
    Retryable {
        /// The backend's words, or the transport's.
        message: String,
        /// The backend's own wish (`Retry-After`).
        after: Option<Duration>,
    },
    /// Halve it and push both halves.
    TooLarge,
    /// Nothing will be taken until an operator acts (401, 403, denied): keep the batch, pause.
    Stopped(String),
    /// The same bytes would fail in the same way: look for the record at fault.
    Permanent(String),
    /// The plugin's instance ended during the call; nobody knows what the backend saw. Counts as transient.
    Ended {
        /// How it ended (`trap`, `cpu_deadline`, `call_deadline`, `memory_limit`, `memory_budget`, `host_calls`, `exit`,
        /// `configure`, `cut`), for counters.
        kind: &'static str,
        /// Plugin, version, configured id, call, delivery, limit that was hit, guest frames, tail of its output.
        message: String,
        /// Whether it may be the records' doing: they were shown to the guest, and it was not the process that was short
        /// of memory. Else the end says nothing about them, and they are only tried again.
        blames_records: bool,
    },
}
