//! What the daemon decides about a queue.

use std::sync::Arc;

use weir_model::{Batch, Ledger, SMALL_BYTES_MAX};

use crate::faults::Faults;

/// Exporters that one log can have, with removed ones that are still kept.
///
/// Each costs under 2 KiB; a hundred exporters behind one pipeline is already a mistake.
pub const EXPORTERS_MAX: usize = 128;

/// How a queue on disk is set up. Everything is in bytes unless its name says otherwise.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Hard budget for segments (with their reserved blocks), cursors and the reserve file. A small budget
    /// makes segments smaller; one under 16 MiB is raised to that.
    pub budget_bytes: u64,
    /// A segment is sealed when it has grown to this. 64 MiB on collectors, 16 MiB on agents.
    pub segment_bytes: u64,
    /// Budget for the dead-letter log, apart from `budget_bytes`.
    pub dead_letter_bytes: u64,
    /// Bodies of records just appended that are kept in memory for exporters that are up to date.
    pub hot_bytes: u64,
    /// redb's cache for the segment that is written; claimed in the ledger at open. It has heads in it, not bodies: the
    /// pages that a round changes, and those above them.
    pub cache_bytes: usize,
    /// A file of this size is deleted to make room for settlements when the disk is full.
    pub reserve_bytes: u64,
    /// Body bytes that share one transaction and one `fdatasync`.
    pub round_bytes: u64,
    /// Records that share one transaction and one `fdatasync`.
    pub round_records: usize,
    /// Pays for leases that are read from disk and for bodies that nobody else pays for.
    pub ledger: Arc<Ledger>,
    /// Who runs the committer.
    pub pace: Pace,
    /// Faults for tests; the default has none.
    pub faults: Faults,
}

/// Who runs the committer and the reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Pace {
    /// Two threads of the queue.
    #[default]
    Threads,
    /// Whoever calls [`crate::DiskQueue::step`]: for tests whose schedule has a seed. Leases read on the spot.
    Manual,
}

impl Settings {
    /// The defaults for a collector: 10 GiB budget, 64 MiB segments, 256 MiB of dead letters.
    pub fn new(ledger: Arc<Ledger>) -> Self {
        Self {
            budget_bytes: 10 << 30,
            segment_bytes: 64 << 20,
            dead_letter_bytes: 256 << 20,
            hot_bytes: 8 << 20,
            cache_bytes: 1 << 20,
            reserve_bytes: 4 << 20,
            round_bytes: ROUND_BYTES_DEFAULT,
            round_records: ROUND_RECORDS_DEFAULT,
            ledger,
            pace: Pace::Threads,
            faults: Faults::default(),
        }
    }
}

impl Settings {
    /// Bytes of the budget that admissions leave free: what reserving ahead and the tree's own pages take.
    pub(crate) fn slack(&self) -> u64 {
        (self.segment_bytes / 8).next_power_of_two().min(4 << 20) + (1 << 20)
    }

    /// Bytes of the budget that large admissions leave to small ones: a segment, for that is what a full queue gets
    /// back at a time, and whoever sends most would have all of it.
    pub(crate) fn reserved_for_small(&self) -> u64 {
        self.segment_bytes
    }

    /// Bytes that redb may keep of all files that are open at once.
    pub(crate) fn caches(&self) -> u64 {
        self.cache_bytes as u64 + OTHER_CACHES_BYTES
    }

    /// Makes the sizes fit each other: at least eight segments in the budget, none so small that redb's own pages fill it.
    pub(crate) fn fitted(mut self) -> Self {
        self.budget_bytes = self.budget_bytes.max(BUDGET_BYTES_MIN);
        self.reserve_bytes = self.reserve_bytes.min(self.budget_bytes / 16);
        self.segment_bytes = self.segment_bytes.min(self.budget_bytes / SEGMENTS_MIN).max(SEGMENT_BYTES_MIN);
        self
    }
}

/// Six segments that are read, cursors and dead letters, each with its small cache.
const OTHER_CACHES_BYTES: u64 = 6 * (128 << 10) + 2 * (256 << 10);
/// Bytes of disk that a queue takes at the least; a smaller budget is raised to this: less than a handful of the smallest segments cannot hold anything.
pub const BUDGET_BYTES_MIN: u64 = 16 << 20;
/// Segments that a budget has room for at the least.
pub(crate) const SEGMENTS_MIN: u64 = 8;
/// Of less, an empty index would be more than a quarter.
const SEGMENT_BYTES_MIN: u64 = 2 << 20;

/// Body bytes of one append round.
///
/// Large enough that the `fdatasync` (milliseconds) is small beside the writing, small enough that a round stays
/// under a tenth of a second on a slow disk and in a fraction of the memory budget.
pub(crate) const ROUND_BYTES_DEFAULT: u64 = 8 << 20;

/// Records of one append round: with small records the tree's own work, not the bytes, is what takes time.
pub(crate) const ROUND_RECORDS_DEFAULT: usize = 1_024;

/// Whether the part of a budget that is kept for small senders is there for an admission.
pub(crate) fn is_small(batches: &[Batch]) -> bool {
    batches.iter().map(|batch| batch.body.len() as u64).sum::<u64>() <= SMALL_BYTES_MAX
}
