//! Bytes of bundles that wait while their pipelines refuse them for now: at most a share of the memory for large requests, so
//! that a pipeline that stands still does not shut the doors of the others.
//!
//! Invariant: what is parked is at most the lot's size, and comes back with its [`Parked`].

use std::sync::atomic::{AtomicU64, Ordering};

use weir_net::budget;

/// The lot is one of so many parts of the memory for large requests: the other half is for what is not refused.
const SHARE: u64 = 2;

/// Room for what waits.
#[derive(Debug)]
pub(super) struct Lot {
    used: AtomicU64,
    size: u64,
}

/// A place in the lot.
#[derive(Debug)]
pub(super) struct Parked<'a> {
    lot: &'a Lot,
    bytes: u64,
}

impl Lot {
    /// The lot of a process with this budget of memory.
    pub(super) fn of(budget_bytes: u64) -> Self {
        Self { used: AtomicU64::new(0), size: budget::large_bytes_max(budget_bytes) / SHARE }
    }

    /// A place for so many bytes; none where there is no room.
    pub(super) fn park(&self, bytes: u64) -> Option<Parked<'_>> {
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= self.size);
        let parked = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        parked.ok().map(|_| Parked { lot: self, bytes })
    }
}

impl Parked<'_> {
    /// For how many bytes it is.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.lot.used.fetch_sub(self.bytes, Ordering::AcqRel);
    }
}
