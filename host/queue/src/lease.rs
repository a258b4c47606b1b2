//! Borrowed records, and what became of them.
//!
//! ```text
//! Queued ──lease──▶ Leased ──Delivered | Rejected | RejectedParts──▶ Settled
//!    ▲                │
//!    └────Deferred────┘   (the lane waits until the time that was named)
//! ```
//!
//! Invariant: a lease that nobody settles is deferred, never counted as delivered.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::warn;
use weir_model::{BoxFuture, Claim, Lane, Origin, Seq, Signal};

/// How long the lane of a lease that was dropped unsettled waits.
///
/// Long enough that an exporter that ends at every record does not spin, short enough not to be felt.
pub const ABANDONED_WAIT: Duration = Duration::from_secs(1);

/// One record of a lease.
#[derive(Debug, Clone)]
pub struct Record {
    /// Its place in the log.
    pub seq: Seq,
    /// Spans, data points or log records in the body.
    pub items: u32,
    /// One serialised `Export{Traces,Metrics,Logs}ServiceRequest`.
    pub body: Bytes,
    /// 1 for the first lease of this record since the start of the process, then one more for each further one.
    pub attempts: u32,
    /// The key that it came with, where another Weir has handed it over.
    pub origin: Option<Origin>,
}

/// What became of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Settlement {
    /// The backend has it.
    Delivered,
    /// The backend will never take it: to the dead-letter log, durably, then settled.
    Rejected {
        /// The backend's words.
        reason: String,
    },
    /// The backend will never take these parts of it, and has the rest.
    RejectedParts {
        /// Body, items, the backend's words: each becomes a dead letter.
        parts: Vec<(Bytes, u32, String)>,
    },
    /// Try again; the lane waits for `until`, or for the latest of several.
    Deferred {
        /// Not before this.
        until: Instant,
    },
}

/// Why a settlement was not taken as it was meant.
#[derive(Debug, thiserror::Error)]
pub enum SettleError {
    /// The dead-letter log has no room: the rejected records are deferred, everything else is settled. Pause.
    #[error(
        "the dead-letter log is full ({used} of {budget} bytes): the exporter pauses until letters are requeued or dropped"
    )]
    DeadLettersFull {
        /// Bytes in use.
        used: u64,
        /// Its budget.
        budget: u64,
    },
    /// The dead-letter log could not be written: the rejected records are deferred, everything else is settled.
    #[error("write the dead-letter log")]
    DeadLettersFailed(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The queue is closed: the records will be delivered again after the next start.
    #[error("the queue is closed")]
    Closed,
}

/// What a lease is settled with; both queues implement it.
pub(crate) trait Settler: Send + Sync {
    /// Takes the fate of each record of the lease. Records without a verdict are deferred until `now`.
    fn settle(
        self: Arc<Self>,
        lease: LeaseKey,
        verdicts: Vec<(Seq, Settlement)>,
        records: Vec<Record>,
        now: Instant,
    ) -> BoxFuture<'static, Result<(), SettleError>>;

    /// Nobody settled it.
    fn abandon(&self, lease: LeaseKey, until: Instant);

    /// Nobody ever had it.
    fn unlease(&self, lease: LeaseKey, until: Option<Instant>);
}

/// Names a lease towards its queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LeaseKey {
    pub(crate) cursor: u32,
    pub(crate) lane: Lane,
    /// Grows with each lease of a cursor, so that a late settlement cannot hit a later lease.
    pub(crate) ticket: u64,
    pub(crate) signal: Signal,
}

/// Records of one lane and one signal, in order, borrowed by one exporter.
///
/// It is settled exactly once, by consuming it. Dropping it defers every record and says so in the log.
#[must_use = "a lease is settled, not dropped"]
pub struct Lease {
    key: LeaseKey,
    incarnation: u128,
    leased_at: Instant,
    records: Vec<Record>,
    is_letter: bool,
    settler: Option<Arc<dyn Settler>>,
    /// Pays for the bodies while the exporter has them.
    claims: Vec<Arc<Claim>>,
}

impl Lease {
    pub(crate) fn new(
        key: LeaseKey,
        incarnation: u128,
        leased_at: Instant,
        records: Vec<Record>,
        claims: Vec<Arc<Claim>>,
        settler: Arc<dyn Settler>,
    ) -> Self {
        Self { key, incarnation, leased_at, records, is_letter: false, settler: Some(settler), claims }
    }

    /// Says that its record is a dead letter.
    pub(crate) fn of_letter(mut self) -> Self {
        self.is_letter = true;
        self
    }

    /// Whether its one record is a dead letter that is tried again: others of its lane have gone past it, and it may be a
    /// part of the record that had its place.
    pub fn is_letter(&self) -> bool {
        self.is_letter
    }

    /// The records, in order; at least one.
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// What the bodies are.
    pub fn signal(&self) -> Signal {
        self.key.signal
    }

    /// The lane that waits while this lease is out.
    pub fn lane(&self) -> Lane {
        self.key.lane
    }

    /// Spans, data points or log records in all bodies.
    pub fn items(&self) -> u64 {
        self.records.iter().map(|record| u64::from(record.items)).sum()
    }

    /// Bytes of all bodies.
    pub fn bytes(&self) -> u64 {
        self.records.iter().map(|record| record.body.len() as u64).sum()
    }

    /// The highest number of attempts among the records; 1 for the first.
    pub fn attempt(&self) -> u32 {
        self.records.iter().map(|record| record.attempts).max().unwrap_or(1)
    }

    /// The idempotency key of the whole lease: the same for the same records, also after a restart.
    pub fn id(&self) -> String {
        self.id_of(&self.records)
    }

    /// The idempotency key of some of its records, for a bisection.
    ///
    /// The key is made of the log's incarnation, the first and the last place, and a checksum over all places, since
    /// records in between may belong to other lanes or be settled already.
    pub fn id_of(&self, records: &[Record]) -> String {
        let first = records.first().map_or(0, |record| record.seq.0);
        let last = records.last().map_or(0, |record| record.seq.0);
        let places =
            records.iter().fold(0, |sum, record| crc32c::crc32c_append(sum, &record.seq.0.to_le_bytes()));
        format!("{:032x}-{first}-{last}-{places:08x}", self.incarnation)
    }

    /// The idempotency key of a part of one record: `path` is the way down the halvings (`0`, `1`, `01`, …).
    pub fn id_of_part(&self, record: &Record, path: &str) -> String {
        format!("{}/{path}", self.id_of(std::slice::from_ref(record)))
    }

    /// Settles each record. Those without a verdict are deferred until `now`.
    ///
    /// The future is ready at once unless a record is rejected: then it waits for the dead-letter log's `fdatasync`.
    ///
    /// # Errors
    /// [`SettleError`]: rejected records are deferred instead (by [`ABANDONED_WAIT`]); all other verdicts hold.
    ///
    /// # Cancel safety
    /// Everything is handed over at the call, not at the first poll: a dropped future only loses the answer.
    pub fn settle(
        mut self,
        verdicts: Vec<(Seq, Settlement)>,
        now: Instant,
    ) -> BoxFuture<'static, Result<(), SettleError>> {
        let settler = self.settler.take().expect("a lease has its settler until it is settled or dropped");
        let records = std::mem::take(&mut self.records);
        settler.settle(self.key.clone(), verdicts, records, now)
    }

    /// Gives it back as if it had not been leased: it never reached the exporter.
    pub(crate) fn unlease(mut self) {
        if let Some(settler) = self.settler.take() {
            settler.unlease(self.key.clone(), None);
        }
    }

    /// Settles every record in the same way.
    ///
    /// # Errors
    /// As [`Lease::settle`].
    pub fn settle_all(
        self,
        settlement: Settlement,
        now: Instant,
    ) -> BoxFuture<'static, Result<(), SettleError>> {
        let verdicts = self.records.iter().map(|record| (record.seq, settlement.clone())).collect();
        self.settle(verdicts, now)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(settler) = self.settler.take() else { return };
        let first = self.records.first().map_or(0, |record| record.seq.0);
        warn!(seq = first, records = self.records.len(), "lease dropped unsettled, deferring");
        settler.abandon(self.key.clone(), self.leased_at + ABANDONED_WAIT);
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lease")
            .field("key", &self.key)
            .field("records", &self.records.len())
            .field("claims", &self.claims.len())
            .finish_non_exhaustive()
    }
}
