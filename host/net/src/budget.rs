//! Claims on the ledger, with a reserve for small senders.
//!
//! Large requests find room only while three eighths of the budget are not used up. The rest is for those of at most
//! 16 KiB, so that a sender of small batches still gets its answer while others send more than we can take; for leases
//! and guests, so that what was taken goes on; and for what the budget cannot see, such as HTTP/2's own buffers, so
//! that the process stays near its budget (DESIGN section 2, overload). Guests have half of the budget at most
//! ([`Ledger::guests_limit`]), and what they have is not counted against requests: a guest cannot shut a receiver.

use std::sync::Arc;

use bytes::Bytes;
use weir_model::{Claim, Exhausted, Ledger, SMALL_BYTES_MAX};

/// The reserve is so many eighths of the budget.
const RESERVE_EIGHTHS: u64 = 5;

/// What an announced length alone may claim. The rest is claimed as it comes: otherwise a few connections that announce
/// and do not send would keep everybody else's memory.
pub const ANNOUNCED_BYTES_MAX: u64 = 64 * 1024;

/// What is allocated at once for an announced length; pages that nothing is written to cost nothing.
pub(crate) const ALLOCATED_BYTES_MAX: usize = 1024 * 1024;

/// Claims `bytes` for a request or a message.
///
/// # Errors
/// [`Exhausted`] where the budget has no room for it; nothing is claimed then.
pub fn claim(ledger: &Arc<Ledger>, bytes: u64) -> Result<Claim, Exhausted> {
    let claim = ledger.claim(bytes)?;
    check(ledger, bytes, bytes)?;
    Ok(claim)
}

/// Claims `more` bytes on top of `claim`.
///
/// # Errors
/// [`Exhausted`] where the budget has no room for them; the claim stays as it was.
pub fn grow(ledger: &Arc<Ledger>, claim: &mut Claim, more: u64) -> Result<(), Exhausted> {
    let before = claim.bytes();
    claim.grow(more)?;
    check(ledger, claim.bytes(), more).inspect_err(|_| claim.shrink_to(before))
}

/// Claims what is missing for `bytes` of at most `limit` that will have come, in doubling steps.
///
/// # Errors
/// As [`grow`].
pub fn grow_to(ledger: &Arc<Ledger>, claim: &mut Claim, bytes: u64, limit: u64) -> Result<(), Exhausted> {
    if bytes <= claim.bytes() {
        return Ok(());
    }
    let target = bytes.max(claim.bytes().saturating_mul(2)).min(limit.max(bytes));
    grow(ledger, claim, target - claim.bytes())
}

/// `bytes`, which from now on hold `claim` themselves: it comes back when the last clone of them is dropped, wherever that
/// is (a peer that reads slowly, a call that nobody waits for any more).
pub fn paid(bytes: Bytes, claim: Claim) -> Bytes {
    Bytes::from_owner(Paid { bytes, _claim: claim })
}

struct Paid {
    bytes: Bytes,
    _claim: Claim,
}

impl AsRef<[u8]> for Paid {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// What large claims may use of a budget of `limit` bytes: no request of more can ever be paid for.
pub fn large_bytes_max(limit: u64) -> u64 {
    limit - limit / 8 * RESERVE_EIGHTHS
}

/// Large claims may not reach into the reserve.
fn check(ledger: &Ledger, bytes: u64, asked: u64) -> Result<(), Exhausted> {
    let used = ledger.used().saturating_sub(ledger.used_by_guests());
    let limit = ledger.limit();
    if bytes <= SMALL_BYTES_MAX || used <= large_bytes_max(limit) {
        return Ok(());
    }
    Err(Exhausted { asked, used: used.saturating_sub(asked), limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: large requests take all that they can get; then a small one comes, and one that grows.
    /// Guarantees: the small one is taken from the reserve, the growing one stops where it is no longer small.
    #[test]
    fn a_small_request_has_room_when_large_ones_have_taken_all_of_theirs() {
        let ledger = Ledger::new(8 << 20);
        let mut large = Vec::new();
        while let Ok(taken) = claim(&ledger, 256 << 10) {
            large.push(taken);
        }
        assert_eq!(ledger.used(), 3 << 20);
        let mut small = claim(&ledger, 4 << 10).unwrap();
        grow(&ledger, &mut small, 12 << 10).unwrap();
        assert!(grow(&ledger, &mut small, 1).is_err());
        assert_eq!(small.bytes(), 16 << 10);
        drop(large);
        grow(&ledger, &mut small, 1 << 20).unwrap();
    }

    /// Scenario: guests have all that they may have; then large requests take all that they can get, and a small one comes.
    /// Guarantees: both have the same room as without guests.
    #[test]
    fn guests_do_not_take_the_room_of_requests() {
        let ledger = Ledger::new(8 << 20);
        let _guests = ledger.claim_for_guest(ledger.guests_limit()).unwrap();
        let mut large = Vec::new();
        while let Ok(taken) = claim(&ledger, 256 << 10) {
            large.push(taken);
        }
        assert_eq!(ledger.used() - ledger.used_by_guests(), 3 << 20);
        claim(&ledger, 16 << 10).unwrap();
    }
}
