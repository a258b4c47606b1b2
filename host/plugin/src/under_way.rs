//! What all pages under way in a process may hold of its memory, from their making until they are sent.
//!
//! ```text
//! budget ─▶ large requests (three eighths) ─▶ pages (one eighth, and one page beyond it)
//! ```

use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weir_model::{Claim, Exhausted, Ledger, SMALL_BYTES_MAX};

/// What pages may hold together, in eighths of the budget: a third of what large requests have. Readers that do not read keep
/// their pages for as long as a request may take, and receivers live of the same room.
const PAGES_EIGHTHS: u64 = 1;

/// Pages at once that find no room in that part and go on all the same, as far as the budget goes: where a budget is small, its
/// eighth is less than one page.
const BEYOND_MAX: usize = 1;

/// The room of all pages of a process.
#[derive(Debug)]
pub(crate) struct PageRoom {
    part: Arc<Ledger>,
    beyond: Arc<Semaphore>,
}

impl PageRoom {
    /// The room in a budget of `limit` bytes.
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        let part = Ledger::new(limit / 8 * PAGES_EIGHTHS);
        Arc::new(Self { part, beyond: Arc::new(Semaphore::new(BEYOND_MAX)) })
    }

    /// A page that begins.
    pub(crate) fn enter(self: &Arc<Self>) -> Stay {
        Stay { room: Arc::clone(self), place: Place::Small }
    }
}

/// One page in it. Its place comes back when this is dropped.
#[derive(Debug)]
pub(crate) struct Stay {
    room: Arc<PageRoom>,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// No larger than a small request: that is bounded by how many pages are under way.
    Small,
    /// Within the pages' part.
    Within(Claim),
    /// The one for which that part had no room.
    Beyond { _permit: OwnedSemaphorePermit },
}

impl Stay {
    /// The page has `bytes` now.
    ///
    /// # Errors
    /// [`Exhausted`] where other pages hold too much; the place stays as it was.
    pub(crate) fn grow_to(&mut self, bytes: u64) -> Result<(), Exhausted> {
        let asked = match &mut self.place {
            Place::Small if bytes <= SMALL_BYTES_MAX => return Ok(()),
            Place::Beyond { .. } => return Ok(()),
            Place::Small => self.room.part.claim(bytes).map(|claim| self.place = Place::Within(claim)),
            Place::Within(claim) => claim.grow(bytes.saturating_sub(claim.bytes())),
        };
        asked.or_else(|exhausted| {
            let permit = Arc::clone(&self.room.beyond).try_acquire_owned().map_err(|_| exhausted)?;
            self.place = Place::Beyond { _permit: permit };
            Ok(())
        })
    }
}

/// `parts` of a page, of which each holds its place: it comes back with the last of them.
pub(crate) fn held(parts: impl IntoIterator<Item = Bytes>, stay: Stay) -> Vec<Bytes> {
    let stay = Arc::new(stay);
    let held = |bytes| Bytes::from_owner(Held { bytes, _stay: Arc::clone(&stay) });
    parts.into_iter().map(held).collect()
}

struct Held {
    bytes: Bytes,
    _stay: Arc<Stay>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Scenario: pages of 10 MiB in a budget of 192 MiB, nobody reads any; a small one; one is read; all are.
    /// Guarantees: two fit into the eighth and one beyond it, the next is refused; a small one is not; what was read makes room,
    /// and all of it comes back.
    #[test]
    fn pages_that_nobody_reads_leave_room_for_receivers() {
        let room = PageRoom::new(192 * MIB);
        let enter = || {
            let mut stay = room.enter();
            for bytes in 1..=10 {
                stay.grow_to(bytes * MIB)?;
            }
            Ok::<_, Exhausted>(stay)
        };
        let mut held: Vec<Stay> = (0..3).map(|_| enter().unwrap()).collect();
        let refused = enter().unwrap_err();
        assert_eq!((refused.limit, refused.used), (24 * MIB, 24 * MIB));
        room.enter().grow_to(SMALL_BYTES_MAX).unwrap();
        held.remove(0);
        held.push(enter().unwrap());
        assert!(enter().is_err());
        drop(held);
        assert_eq!((room.part.used(), room.beyond.available_permits()), (0, BEYOND_MAX));
    }

    /// Scenario: a page of 100 MiB in a budget of 192 MiB, and four of 150 MiB in one of 6 GiB.
    /// Guarantees: the first goes on without the eighth that it does not fit into, which is others' again; the others fit.
    #[test]
    fn one_page_may_always_be_under_way() {
        let room = PageRoom::new(192 * MIB);
        let mut large = room.enter();
        (1..=100).for_each(|bytes| large.grow_to(bytes * MIB).unwrap());
        assert_eq!(room.part.used(), 0);
        room.enter().grow_to(20 * MIB).unwrap();
        assert!(room.enter().grow_to(30 * MIB).is_err());

        let room = PageRoom::new(6 * 1024 * MIB);
        let mut stays: Vec<Stay> = (0..4).map(|_| room.enter()).collect();
        stays.iter_mut().for_each(|stay| stay.grow_to(150 * MIB).unwrap());
        assert_eq!(room.part.used(), 600 * MIB);
    }

    /// Scenario: a page in parts; they are sent one after the other.
    /// Guarantees: its place is taken until the last of them has gone.
    #[test]
    fn a_page_keeps_its_place_until_its_last_part_has_gone() {
        let room = PageRoom::new(8 * MIB);
        let mut stay = room.enter();
        stay.grow_to(MIB / 2).unwrap();
        let mut parts = held([Bytes::from_static(b"a"), Bytes::from_static(b"b")], stay);
        assert_eq!(parts.concat(), b"ab");
        parts.pop();
        assert_eq!(room.part.used(), MIB / 2);
        parts.pop();
        assert_eq!(room.part.used(), 0);
    }
}
