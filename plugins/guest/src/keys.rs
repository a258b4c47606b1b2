//! Keys that mean something, found fast.
//!
//! A plugin knows some dozens of attribute keys and meets thousands of others. The table is a hash table made
//! at compile time, so nothing a sender chooses shapes it; most foreign keys meet an empty slot and are done.
//! In the sandbox `==` for slices is a loop over bytes with an epoch check each, hence [`same`].

/// Slots of every table: few enough for one cache line or two, many enough that a table of thirty keys is
/// mostly empty.
const SLOTS: usize = 128;

const EMPTY: u8 = u8::MAX;

/// A value for each of `N` keys; open addressing.
#[derive(Debug)]
pub struct KeyTable<T: 'static, const N: usize> {
    entries: [(&'static [u8], T); N],
    /// An index into `entries`, or `EMPTY`.
    slots: [u8; SLOTS],
}

impl<T: Copy, const N: usize> KeyTable<T, N> {
    /// The table of these entries; does not compile for more than 96 of them when it is a `static`.
    #[must_use]
    pub const fn new(entries: [(&'static [u8], T); N]) -> Self {
        assert!(N <= SLOTS * 3 / 4, "the table would be too full");
        let mut slots = [EMPTY; SLOTS];
        let mut index = 0;
        while index < N {
            let mut slot = slot(entries[index].0);
            while slots[slot] != EMPTY {
                slot = (slot + 1) % SLOTS;
            }
            slots[slot] = index as u8;
            index += 1;
        }
        Self { entries, slots }
    }

    /// What `key` means, if anything.
    // Always: a call within a guest checks the stack and the epoch, and a span would pay for it at each attribute.
    #[inline(always)]
    pub fn get(&self, key: &[u8]) -> Option<T> {
        let mut slot = slot(key);
        // A slot that is empty ends the search, and a quarter of them are.
        while let Some((candidate, value)) = self.entries.get(usize::from(self.slots[slot])) {
            if same(candidate, key) {
                return Some(*value);
            }
            slot = (slot + 1) % SLOTS;
        }
        None
    }

    /// The entries, in the order in which they were given.
    pub fn entries(&self) -> &[(&'static [u8], T)] {
        &self.entries
    }
}

/// Keys differ mostly in their length and their ends.
#[inline]
const fn slot(key: &[u8]) -> usize {
    match key {
        [] => 0,
        [first, .., last] => (key.len() * 5 + *first as usize * 3 + *last as usize * 11) % SLOTS,
        [only] => *only as usize % SLOTS,
    }
}

/// Whether two slices are equal, eight bytes at a time.
#[inline]
#[must_use]
pub fn same(left: &[u8], right: &[u8]) -> bool {
    if left.len() != right.len() {
        return false;
    }
    match (left.last_chunk::<8>(), right.last_chunk::<8>()) {
        (Some(left_end), Some(right_end)) => {
            left_end == right_end
                && left.chunks_exact(8).zip(right.chunks_exact(8)).all(|(left, right)| left == right)
        }
        _ => left == right,
    }
}

/// Pairs from which on duplicates are looked for by sorting.
const FEW_PAIRS: usize = 32;

/// Attributes are a map: of pairs with equal keys the last that was sent counts, at the place of the first. Many are sorted
/// by their keys, few keep their order.
pub fn keep_last_of_each<T>(pairs: &mut Vec<T>, key: impl Fn(&T) -> &[u8]) {
    if pairs.len() > FEW_PAIRS {
        // The sort is stable: of equal keys the first of the reversed list is the last that was sent.
        pairs.reverse();
        pairs.sort_by(|left, right| key(left).cmp(key(right)));
        pairs.dedup_by(|later, earlier| key(later) == key(earlier));
        return;
    }
    let mut index = 0;
    while index < pairs.len() {
        let (before, rest) = pairs.split_at_mut(index);
        match before.iter_mut().find(|pair| same(key(pair), key(&rest[0]))) {
            Some(earlier) => {
                core::mem::swap(earlier, &mut rest[0]);
                pairs.remove(index);
            }
            None => index += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: KeyTable<usize, 4> =
        KeyTable::new([(b"peer.service", 0), (b"x", 1), (b"", 2), (b"server.socket.address", 3)]);

    /// Scenario: every key of a table, and keys that differ from them in one byte or in length.
    /// Guarantees: each key has its value and the others none.
    #[test]
    fn a_key_is_found_and_its_neighbours_are_not() {
        for &(key, value) in TABLE.entries() {
            assert_eq!(TABLE.get(key), Some(value));
            for at in 0..key.len() {
                let mut other = key.to_vec();
                other[at] ^= 1;
                assert_eq!(TABLE.get(&other), None);
                assert_eq!(TABLE.get(&key[..at]), TABLE.get(&key[..at]).filter(|_| at == 0));
            }
        }
    }

    /// Scenario: slices of every length up to 40, equal and different at every place.
    /// Guarantees: the same answer as `==`.
    #[test]
    fn same_is_equality() {
        for len in 0..40 {
            let left: Vec<u8> = (0..len).collect();
            assert!(same(&left, &left.clone()));
            for at in 0..left.len() {
                let mut right = left.clone();
                right[at] ^= 0x80;
                assert!(!same(&left, &right), "{len} {at}");
                assert!(!same(&left, &left[..at]));
            }
        }
    }
}
