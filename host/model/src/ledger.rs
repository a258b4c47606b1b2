//! One budget of memory, paid with permits.
//!
//! Whoever holds bytes that a sender or a guest made us hold has claimed them here first, and the claim lives in
//! the thing that it pays for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Bytes of a small request: some 20 spans with twenty attributes. Budgets of memory and of disk leave a part to these.
pub const SMALL_BYTES_MAX: u64 = 16 * 1024;

/// The budget when nothing is configured (DESIGN 1.3).
pub const LEDGER_BYTES_DEFAULT: u64 = 192 * 1024 * 1024;

/// What the memory of all guests together may take of the budget, in eighths: an id has four instances of at most 64 MiB each
/// where nothing is configured, and none of them may keep receivers from their work. Three eighths are for large requests, the
/// last for small ones and for leases (`host/net/src/budget.rs`).
const GUESTS_EIGHTHS: u64 = 4;

/// The most that guests may use together of a budget of so many bytes.
pub fn guests_bytes_max(limit: u64) -> u64 {
    limit / 8 * GUESTS_EIGHTHS
}

/// The budget, or the guests' part of it, is used up.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the memory budget of {limit} bytes has no room for {asked} more ({used} in use)")]
pub struct Exhausted {
    /// Bytes that were asked for.
    pub asked: u64,
    /// Bytes in use at that moment.
    pub used: u64,
    /// The whole budget, or the part.
    pub limit: u64,
}

/// A hard budget of bytes, shared by every part of the process.
#[derive(Debug)]
pub struct Ledger {
    limit: u64,
    used: AtomicU64,
    /// Of these, what guests use.
    guests: AtomicU64,
    peak: AtomicU64,
    denied: AtomicU64,
}

impl Ledger {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self {
            limit,
            used: AtomicU64::new(0),
            guests: AtomicU64::new(0),
            peak: AtomicU64::new(0),
            denied: AtomicU64::new(0),
        })
    }

    /// Claims `bytes`; they come back when the claim is dropped.
    ///
    /// # Errors
    /// [`Exhausted`] where the budget has no room; nothing is claimed then.
    pub fn claim(self: &Arc<Self>, bytes: u64) -> Result<Claim, Exhausted> {
        self.take(bytes)?;
        Ok(Claim { ledger: Arc::clone(self), bytes, of_guest: false })
    }

    /// The same for what a guest alone decides about: its memory, what it sends.
    ///
    /// # Errors
    /// [`Exhausted`] where the budget or the guests' part of it has no room; nothing is claimed then.
    pub fn claim_for_guest(self: &Arc<Self>, bytes: u64) -> Result<Claim, Exhausted> {
        self.take_for_guest(bytes)?;
        Ok(Claim { ledger: Arc::clone(self), bytes, of_guest: true })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// Bytes in use by guests.
    pub fn used_by_guests(&self) -> u64 {
        self.guests.load(Ordering::Relaxed)
    }

    /// The most that guests may use together.
    pub fn guests_limit(&self) -> u64 {
        guests_bytes_max(self.limit)
    }

    /// The most bytes ever in use at once.
    pub fn peak(&self) -> u64 {
        self.peak.load(Ordering::Relaxed)
    }

    /// The whole budget.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Claims that found no room.
    pub fn denied(&self) -> u64 {
        self.denied.load(Ordering::Relaxed)
    }

    fn take(&self, bytes: u64) -> Result<(), Exhausted> {
        let before = self.add(&self.used, bytes, self.limit)?;
        self.peak.fetch_max(before + bytes, Ordering::Relaxed);
        Ok(())
    }

    fn take_for_guest(&self, bytes: u64) -> Result<(), Exhausted> {
        self.add(&self.guests, bytes, self.guests_limit())?;
        self.take(bytes).inspect_err(|_| {
            self.guests.fetch_sub(bytes, Ordering::AcqRel);
        })
    }

    /// Adds where the sum stays within `limit`; gives what was there before.
    fn add(&self, sum: &AtomicU64, bytes: u64, limit: u64) -> Result<u64, Exhausted> {
        let added = sum.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= limit)
        });
        added.map_err(|used| {
            self.denied.fetch_add(1, Ordering::Relaxed);
            Exhausted { asked: bytes, used, limit }
        })
    }

    fn give_back(&self, bytes: u64, of_guest: bool) {
        self.used.fetch_sub(bytes, Ordering::AcqRel);
        if of_guest {
            self.guests.fetch_sub(bytes, Ordering::AcqRel);
        }
    }
}

/// Bytes that are paid for. Dropping it gives them back.
#[derive(Debug)]
pub struct Claim {
    ledger: Arc<Ledger>,
    bytes: u64,
    of_guest: bool,
}

impl Claim {
    /// Bytes that this claim pays for.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Claims `more` bytes on top.
    ///
    /// # Errors
    /// [`Exhausted`] where the budget has no room; the claim stays as it was.
    pub fn grow(&mut self, more: u64) -> Result<(), Exhausted> {
        if self.of_guest {
            self.ledger.take_for_guest(more)?;
        } else {
            self.ledger.take(more)?;
        }
        self.bytes += more;
        Ok(())
    }

    /// Gives back all above `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.ledger.give_back(surplus, self.of_guest);
        self.bytes -= surplus;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.ledger.give_back(self.bytes, self.of_guest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: claims up to the limit, one over it, then one is dropped.
    /// Guarantees: the sum of claims never passes the limit, and a dropped claim makes room.
    #[test]
    fn the_budget_is_hard_and_comes_back() {
        let ledger = Ledger::new(100);
        let first = ledger.claim(60).unwrap();
        let mut second = ledger.claim(30).unwrap();
        assert!(ledger.claim(11).is_err());
        assert!(second.grow(11).is_err());
        second.grow(10).unwrap();
        assert_eq!(ledger.used(), 100);
        drop(first);
        second.shrink_to(5);
        assert_eq!(ledger.used(), 5);
        assert_eq!(ledger.peak(), 100);
        assert_eq!(ledger.denied(), 2);
    }

    /// Scenario: a length from the network that is near the end of the number range.
    /// Guarantees: the sum does not wrap around into a small one.
    #[test]
    fn a_monstrous_claim_is_denied() {
        let ledger = Ledger::new(100);
        let _one = ledger.claim(1).unwrap();
        assert!(ledger.claim(u64::MAX).is_err());
        assert_eq!(ledger.used(), 1);
    }

    /// Scenario: guests claim until they are refused, then somebody else claims the rest; guests ask again.
    /// Guarantees: guests have half at most, which a refusal says; what they give back is theirs and everybody's again.
    #[test]
    fn guests_have_a_part_and_no_more() {
        let ledger = Ledger::new(800);
        let mut guest = ledger.claim_for_guest(300).unwrap();
        guest.grow(100).unwrap();
        let refused = guest.grow(1).unwrap_err();
        assert_eq!((refused.limit, refused.used, guest.bytes()), (400, 400, 400));
        assert!(ledger.claim_for_guest(1).is_err());
        let _rest = ledger.claim(400).unwrap();
        guest.shrink_to(100);
        assert_eq!((ledger.used(), ledger.used_by_guests()), (500, 100));
        let _more = ledger.claim(200).unwrap();
        assert_eq!(ledger.claim_for_guest(200).unwrap_err().limit, 800);
        assert_eq!(ledger.used_by_guests(), 100, "what the budget refuses is not counted");
        drop(guest);
        assert_eq!((ledger.used(), ledger.used_by_guests()), (600, 0));
    }
}
