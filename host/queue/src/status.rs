//! What an operator sees of a queue, and what is counted.

use std::time::Instant;

use serde::{Deserialize, Serialize};
use weir_model::count::{ByReason, BySignal};
use weir_model::{Counter, Seq, Signal};

/// A queue at one moment.
#[derive(Debug, Clone, Default)]
pub struct Status {
    /// Records that at least one exporter has not settled (or that share a segment with such a one).
    pub records: u64,
    /// Items in those records.
    pub items: u64,
    /// Bytes on disk (segments with their reserved blocks, cursors, reserve), or in memory.
    pub bytes: u64,
    /// The budget for them.
    pub budget_bytes: u64,
    /// The oldest record that is kept; none where the log is empty.
    pub oldest: Option<Seq>,
    /// The newest record ever appended; 0 where there was none.
    pub newest: Seq,
    /// Segment files, or 0.
    pub segments: u64,
    /// Segment files that were set aside as damaged, in this run or an earlier one.
    pub quarantined: u64,
    /// Why the queue is not as it should be, for the health page; none where all is well.
    pub degraded: Option<String>,
    /// Whether records survive a crash.
    pub durable: bool,
    /// Logs of other Weirs whose newest record is known.
    pub sources: u64,
    /// Items that other Weirs have sent again and that were there, since the start of the process.
    pub duplicates: u64,
    /// Dead letters of all exporters.
    pub dead_letters: u64,
    /// Bytes of the dead-letter log.
    pub dead_letter_bytes: u64,
    /// The budget for them.
    pub dead_letter_budget_bytes: u64,
    /// One for each cursor, in the order of names.
    pub cursors: Vec<CursorStatus>,
}

/// A cursor at one moment.
#[derive(Debug, Clone, Default)]
pub struct CursorStatus {
    /// The exporter's name.
    pub exporter: String,
    /// Records that it has not settled.
    pub pending_records: u64,
    /// Items in them.
    pub pending_items: u64,
    /// Body bytes in them.
    pub pending_bytes: u64,
    /// The oldest record that it has not settled.
    pub oldest: Option<Seq>,
    /// Leases that are out.
    pub in_flight: usize,
    /// Lanes whose lease was deferred and that wait for their time, with the latest such time.
    pub deferred_lanes: usize,
    /// The time at which the last of them goes on.
    pub deferred_until: Option<Instant>,
    /// Its dead letters.
    pub dead_letters: u64,
    /// Why it is paused.
    pub paused: Option<String>,
    /// Whether the configuration names it; one that it does not is kept for 24 hours.
    pub configured: bool,
    /// Whether it skips the oldest segment when the log is full.
    pub skips_oldest: bool,
}

/// A record that a backend refused for good. The body is read apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Names it towards `requeue`, `drop` and `dump`.
    pub id: u64,
    /// Whose backend refused it.
    pub exporter: String,
    /// The record that it was, or was a part of.
    pub seq: u64,
    /// `traces`, `metrics` or `logs`.
    pub signal: String,
    /// The lane that it was in.
    pub lane: u8,
    /// Items in it.
    pub items: u32,
    /// Body bytes.
    pub bytes: u64,
    /// The backend's words, cut to 4 KiB.
    pub reason: String,
    /// Leases that it was in.
    pub attempts: u32,
    /// When, in seconds since 1970, as of the last [`crate::Queue::tick`].
    pub unix_seconds: u64,
    /// Over the body.
    pub crc32c: u32,
}

/// What a queue counts, since the start of the process. Cloning shares.
#[derive(Debug, Clone, Default)]
pub struct QueueCounts {
    /// Items whose receipt was given.
    pub appended: BySignal,
    /// Records whose receipt was given.
    pub appended_records: Counter,
    /// Items of records that another Weir has sent again: vouched for, and not stored twice.
    pub duplicates: BySignal,
    /// Logs of other Weirs that were forgotten for want of room: what they send again is stored again.
    pub forgotten: Counter,
    /// Append rounds: transactions with one `fdatasync` each.
    pub rounds: Counter,
    /// Items in admissions that were refused.
    pub refused: ByReason,
    /// Items settled as delivered, over all exporters.
    pub delivered: BySignal,
    /// Items that went to the dead-letter log, over all exporters.
    pub rejected: BySignal,
    /// Items in leases that were deferred, each time.
    pub deferred: BySignal,
    /// Items that an exporter skipped because it may (`skip_oldest`): lost for it.
    pub skipped: BySignal,
    /// Items that an exporter had to come when it was taken out of the configuration, with the queue in memory: lost for
    /// it.
    pub removed: BySignal,
    /// Items that could not be read back (checksum, damaged segment), for each exporter that had them to come: lost.
    pub damaged: BySignal,
    /// Records of the last round before a crash whose bytes are not what the round wrote, dropped at the start. A record
    /// that is known to have had a receipt counts as damaged instead.
    pub torn: Counter,
    /// Segments set aside in this run.
    pub quarantined: Counter,
    /// `fdatasync` calls that failed.
    pub sync_failures: Counter,
    /// Leases that were dropped unsettled.
    pub abandoned: Counter,
    /// Records whose body was still in memory when it was leased.
    pub hot_hits: Counter,
    /// Records that were read from disk.
    pub cold_reads: Counter,
}

impl QueueCounts {
    /// Items of records that were sent again, of all signals.
    pub(crate) fn all_duplicates(&self) -> u64 {
        Signal::ALL.iter().map(|signal| self.duplicates.of(*signal).get()).sum()
    }
}
