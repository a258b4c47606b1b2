//! What the ends of a plugin's instances say about records.
//!
//! An end counts as transient, and only one that may be the records' doing (`Outcome::Ended::blames_records`) is counted
//! here: none for want of memory in the process, none of an instance that was never shown them. Only when the same
//! records end instances again and again are they searched for the one at fault, and that one is refused only if the
//! plugin is known to work: it has delivered another since. A plugin that ends at everything loses nothing, it waits in
//! back-off (DESIGN 1.4).

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use weir_model::Seq;

/// Ends by the same records before they are searched for the one at fault, unless configured.
pub const ENDS_MAX: u32 = 3;

/// Leases of the same records that end in a suspicion before it is enough that the plugin has ever delivered anything.
///
/// A lane whose head is under suspicion delivers nothing else, so with all busy lanes in that state nothing would ever
/// be delivered since.
const SUSPICIONS_MAX: u32 = 3;

/// The kind of end that the same bytes bring about again: they are searched at once.
const REPEATABLE: &str = "memory_limit";

/// The ends at one exporter.
///
/// Each call says for which generation of the exporter's code (`Exporter::generation`) it holds; with another one than
/// before, everything that was learned is forgotten. "Has delivered another record since" is meant of the same version.
#[derive(Debug)]
pub(crate) struct Ends {
    ends_max: u32,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    generation: u64,
    /// Pushes that this generation has delivered.
    delivered: u64,
    /// By the lane's number: bounded by their count.
    lanes: BTreeMap<usize, Head>,
}

/// The head of a lane at which instances have ended.
#[derive(Debug)]
struct Head {
    /// The first of the records.
    first: Seq,
    ends: u32,
    suspicions: u32,
    searched: bool,
    /// [`State::delivered`] at the first end.
    delivered: u64,
}

impl Ends {
    /// The same records are searched after `ends_max` ends, at least one.
    pub(crate) fn new(ends_max: u32) -> Self {
        Self { ends_max: ends_max.max(1), state: Mutex::default() }
    }

    /// The plugin has delivered something.
    pub(crate) fn delivered(&self, generation: u64) {
        self.state(generation).delivered += 1;
    }

    /// An instance ended at records of a lane, of which `first` is the first, maybe through them. True: search them for the one at fault.
    pub(crate) fn ended(&self, lane: usize, first: Seq, kind: &str, generation: u64) -> bool {
        let mut state = self.state(generation);
        let delivered = state.delivered;
        let fresh = || Head { first, ends: 0, suspicions: 0, searched: false, delivered };
        let head = state.lanes.entry(lane).or_insert_with(fresh);
        if head.first != first {
            *head = fresh();
        }
        head.ends = head.ends.saturating_add(1);
        head.searched |= kind == REPEATABLE || head.ends >= self.ends_max;
        head.searched
    }

    /// A search has found items that end instances. True: it is their fault and not the plugin's.
    pub(crate) fn judge(&self, lane: usize, generation: u64) -> bool {
        let mut state = self.state(generation);
        let delivered = state.delivered;
        let Some(head) = state.lanes.get_mut(&lane) else { return false };
        head.suspicions = head.suspicions.saturating_add(1);
        delivered > head.delivered || (delivered > 0 && head.suspicions >= SUSPICIONS_MAX)
    }

    /// The records of a lane are all settled.
    pub(crate) fn forget(&self, lane: usize, generation: u64) {
        self.state(generation).lanes.remove(&lane);
    }

    /// What is known about `generation`. Two deliveries that began on both sides of a change may forget more than they
    /// must; that only makes a verdict later.
    fn state(&self, generation: u64) -> MutexGuard<'_, State> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.generation != generation {
            *state = State { generation, ..State::default() };
        }
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: traps at the same records, then at others; a memory limit; other figures of an operator.
    /// Guarantees: the configured trap at the same records starts a search, the third by default; the first memory limit does.
    #[test]
    fn repeated_ends_start_a_search() {
        let ends = Ends::new(ENDS_MAX);
        assert!(!ends.ended(0, Seq(1), "trap", 0));
        assert!(!ends.ended(0, Seq(1), "call_deadline", 0));
        assert!(!ends.ended(1, Seq(2), "trap", 0));
        assert!(ends.ended(0, Seq(1), "trap", 0));
        assert!(!ends.ended(0, Seq(9), "trap", 0));
        assert!(ends.ended(0, Seq(9), "memory_limit", 0));
        assert!(ends.ended(0, Seq(9), "trap", 0));
        ends.forget(0, 0);
        assert!(!ends.ended(0, Seq(9), "trap", 0));
        for (ends_max, expected) in [(0, 1), (1, 1), (7, 7)] {
            let ends = Ends::new(ends_max);
            assert_eq!((1..10).find(|_| ends.ended(0, Seq(1), "trap", 0)), Some(expected));
        }
    }

    /// Scenario: a plugin that has never delivered, one that delivers another record since, one that only did so before.
    /// Guarantees: never refused; refused at once; refused after three suspicions.
    #[test]
    fn a_record_is_refused_only_if_the_plugin_works() {
        let ends = Ends::new(ENDS_MAX);
        ends.ended(0, Seq(1), "memory_limit", 0);
        assert!((0..10).all(|_| !ends.judge(0, 0)));
        ends.delivered(0);
        assert!(ends.judge(0, 0));
        ends.ended(1, Seq(2), "memory_limit", 0);
        assert_eq!([(); 3].map(|()| ends.judge(1, 0)), [false, false, true]);
    }

    /// Scenario: a version delivers, ends twice at some records, and is replaced; the new one ends there too.
    /// Guarantees: neither the ends nor the deliveries of the old version are held against the records.
    #[test]
    fn what_the_old_version_did_is_forgotten() {
        let ends = Ends::new(ENDS_MAX);
        ends.delivered(1);
        assert!(!ends.ended(0, Seq(1), "trap", 1));
        assert!(!ends.ended(0, Seq(1), "trap", 1));
        assert_eq!([(); 3].map(|()| ends.ended(0, Seq(1), "trap", 2)), [false, false, true]);
        assert!((0..10).all(|_| !ends.judge(0, 2)));
        ends.delivered(2);
        assert!(ends.judge(0, 2));
    }
}
