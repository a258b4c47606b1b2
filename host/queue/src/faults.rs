//! Faults that a test can order, so that a suite which would not notice a broken promise is itself noticed.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Faults to commit. The default commits none; cloning shares the counters. The daemon sets it from one hidden
/// environment variable; nothing else may.
#[derive(Debug, Clone, Default)]
pub struct Faults {
    /// Report success of `fdatasync` without calling it.
    pub skip_fdatasync: bool,
    /// Give receipts before the commit.
    pub answer_before_commit: bool,
    /// Which `fdatasync` calls fail with EIO.
    pub sync: SyncFault,
    /// Whether writes find the disk full; can be switched while the queue runs.
    pub disk_full: Switch,
    /// Store records of other Weirs again that the log has already.
    pub no_dedup: Switch,
    /// Write the marks of a round in a transaction of their own, after that of its records and before their receipts: a kill
    /// between the two leaves records that no mark covers.
    pub mark_apart: Switch,
    syncs: Arc<AtomicU64>,
}

/// Which `fdatasync` calls fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SyncFault {
    /// None.
    #[default]
    Never,
    /// The n-th, from 1.
    Once(u64),
    /// The n-th and all after it.
    From(u64),
}

/// A switch that clones share.
#[derive(Debug, Clone, Default)]
pub struct Switch(Arc<AtomicU64>);

impl Switch {
    /// Turns it on or off.
    pub fn set(&self, on: bool) {
        self.0.store(u64::from(on), Ordering::Release);
    }

    /// Whether it is on.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Acquire) == 1
    }
}

impl Faults {
    /// Reads the text form, words with commas between: `skip_fdatasync`, `answer_before_commit`, `sync_once=N`,
    /// `sync_from=N`, `disk_full`, `no_dedup`, `mark_apart`.
    ///
    /// # Errors
    /// The word that is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut faults = Self::default();
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match (name, value.parse::<u64>()) {
                ("skip_fdatasync", _) => faults.skip_fdatasync = true,
                ("answer_before_commit", _) => faults.answer_before_commit = true,
                ("sync_once", Ok(n)) => faults.sync = SyncFault::Once(n),
                ("sync_from", Ok(n)) => faults.sync = SyncFault::From(n),
                ("disk_full", _) => faults.disk_full.set(true),
                ("no_dedup", _) => faults.no_dedup.set(true),
                ("mark_apart", _) => faults.mark_apart.set(true),
                _ => return Err(word.to_owned()),
            }
        }
        Ok(faults)
    }

    /// The fate of the next `fdatasync` of a segment.
    pub(crate) fn on_sync(&self) -> io::Result<()> {
        let number = self.syncs.fetch_add(1, Ordering::Relaxed) + 1;
        let fails = match self.sync {
            SyncFault::Never => false,
            SyncFault::Once(n) => number == n,
            SyncFault::From(n) => number >= n,
        };
        if fails { Err(io::Error::from_raw_os_error(rustix::io::Errno::IO.raw_os_error())) } else { Ok(()) }
    }

    /// The fate of a write or reservation.
    pub(crate) fn on_write(&self) -> io::Result<()> {
        if self.disk_full.is_on() {
            return Err(io::Error::from_raw_os_error(rustix::io::Errno::NOSPC.raw_os_error()));
        }
        Ok(())
    }
}
