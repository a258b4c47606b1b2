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

/// The budget is used up.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the memory budget of {limit} bytes has no room for {asked} more ({used} in use)")]
pub struct Exhausted {
    /// Bytes that were asked for.
    pub asked: u64,
    /// Bytes in use at that moment.
    pub used: u64,
    /// The whole budget.
    pub limit: u64,
}

/// A hard budget of bytes, shared by every part of the process.
#[derive(Debug)]
pub struct Ledger {
    limit: u64,
    used: AtomicU64,
    peak: AtomicU64,
    denied: AtomicU64,
}

impl Ledger {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicU64::new(0), peak: AtomicU64::new(0), denied: AtomicU64::new(0) })
    }

    /// Claims `bytes`; they come back when the claim is dropped.
    ///
    /// # Errors
    /// [`Exhausted`] where the budget has no room; nothing is claimed then.
    pub fn claim(self: &Arc<Self>, bytes: u64) -> Result<Claim, Exhausted> {
        self.take(bytes)?;
        Ok(Claim { ledger: Arc::clone(self), bytes })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
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
        let taken = self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, |used| {
            used.checked_add(bytes).filter(|sum| *sum <= self.limit)
        });
        match taken {
            Ok(before) => {
                self.peak.fetch_max(before + bytes, Ordering::Relaxed);
                Ok(())
            }
            Err(used) => {
                self.denied.fetch_add(1, Ordering::Relaxed);
                Err(Exhausted { asked: bytes, used, limit: self.limit })
            }
        }
    }
}

/// Bytes that are paid for. Dropping it gives them back.
#[derive(Debug)]
pub struct Claim {
    ledger: Arc<Ledger>,
    bytes: u64,
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
        self.ledger.take(more)?;
        self.bytes += more;
        Ok(())
    }

    /// Gives back all above `bytes`.
    pub fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.bytes.saturating_sub(bytes);
        self.ledger.used.fetch_sub(surplus, Ordering::AcqRel);
        self.bytes -= surplus;
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.ledger.used.fetch_sub(self.bytes, Ordering::AcqRel);
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
}
