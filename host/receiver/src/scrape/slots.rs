//! The targets, what each is doing, who comes and who goes.
//!
//! Knows no time and starts nothing: it says what is to be done, and the run does it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weir_model::scrape::Target;
use weir_net::address::Origin;
use weir_net::client::Keeping;

use super::round::{Ended, Prepared};
use super::target::Found;

/// Targets whose connection is kept from one fetch to the next. A connection costs a socket and some 10 kB; a new one costs a few
/// packets, or a TLS handshake.
pub(super) const KEPT_MAX: usize = 1_000;

/// What a slot is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doing {
    /// Its next turn is planned.
    Waiting,
    /// A turn is under way.
    Turn,
    /// The plugin is saying the last of it.
    Forgetting,
}

/// How long a target took when it was last asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pace {
    /// It has not been asked.
    Unknown,
    /// It answered, or failed at once.
    Prompt,
    /// All of its time.
    Slow,
}

/// One target.
pub(super) struct Slot {
    pub(super) found: Arc<Found>,
    /// Turns that were planned with another number are nobody's.
    pub(super) number: u64,
    pub(super) doing: Doing,
    pub(super) prepared: Option<Prepared>,
    pub(super) pace: Pace,
    pub(super) keeping: Keeping,
    /// The plugin has been told of it, so it must be told of its end.
    is_known: bool,
    /// It is in the configuration; while it is being forgotten: it is in it again.
    is_wanted: bool,
}

/// What is to be done with a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// It is new, or its interval is: plan its first turn.
    Plan(usize),
    /// Have the plugin say the last of it.
    Forget(usize),
}

/// All of them.
#[derive(Default)]
pub(super) struct Slots {
    slots: Vec<Option<Slot>>,
    free: Vec<usize>,
    by_target: HashMap<Arc<Target>, usize>,
    numbers: u64,
    kept: usize,
}

impl Slots {
    /// The slot, where it still has this number.
    pub(super) fn numbered(&mut self, slot: usize, number: u64) -> Option<&mut Slot> {
        self.get_mut(slot).filter(|slot| slot.number == number)
    }

    pub(super) fn get_mut(&mut self, slot: usize) -> Option<&mut Slot> {
        self.slots.get_mut(slot)?.as_mut()
    }

    /// Whether this target is fetched.
    pub(super) fn has(&self, target: &Target) -> bool {
        self.by_target.contains_key(target)
    }

    /// The targets that the plugin knows of.
    pub(super) fn known(&self) -> Vec<Arc<Target>> {
        let known = self.slots.iter().flatten().filter(|slot| slot.is_known);
        known.map(|slot| Arc::clone(&slot.found.target)).collect()
    }

    /// From now on there are these targets, each of which is there once.
    pub(super) fn follow(&mut self, found: Vec<Found>) -> Vec<Step> {
        let mut steps = Vec::new();
        let wanted: HashSet<&Target> = found.iter().map(|found| &*found.target).collect();
        let leaving: Vec<usize> = self
            .by_target
            .iter()
            .filter(|(target, _)| !wanted.contains(&***target))
            .map(|(_, slot)| *slot)
            .collect();
        for slot in leaving {
            steps.extend(self.let_go(slot));
        }
        for found in found {
            steps.extend(self.take_in(Arc::new(found)));
        }
        steps
    }

    /// What may be reached for the targets that are wanted.
    pub(super) fn origins(&self) -> HashSet<Origin> {
        let wanted = self.slots.iter().flatten().filter(|slot| slot.is_wanted);
        wanted.map(|slot| slot.found.origin.clone()).collect()
    }

    fn let_go(&mut self, index: usize) -> Option<Step> {
        let slot = self.get_mut(index)?;
        slot.is_wanted = false;
        match slot.doing {
            Doing::Waiting => self.leave(index),
            Doing::Turn | Doing::Forgetting => None,
        }
    }

    /// The last of a target that nothing is under way for.
    fn leave(&mut self, index: usize) -> Option<Step> {
        let slot = self.get_mut(index)?;
        if slot.is_known {
            slot.doing = Doing::Forgetting;
            return Some(Step::Forget(index));
        }
        self.remove(index);
        None
    }

    fn remove(&mut self, index: usize) {
        let Some(slot) = self.slots.get_mut(index).and_then(Option::take) else { return };
        self.by_target.remove(&slot.found.target);
        self.kept -= usize::from(slot.keeping == Keeping::One);
        self.free.push(index);
    }

    fn take_in(&mut self, found: Arc<Found>) -> Option<Step> {
        if let Some(index) = self.by_target.get(&found.target).copied() {
            let number = self.number();
            let slot = self.get_mut(index)?;
            slot.is_wanted = true;
            let is_same = slot.found.interval == found.interval;
            slot.found = found;
            if is_same || slot.doing == Doing::Forgetting {
                return None;
            }
            slot.number = number;
            return Some(Step::Plan(index));
        }
        let keeping = if self.kept < KEPT_MAX { Keeping::One } else { Keeping::None };
        self.kept += usize::from(keeping == Keeping::One);
        let slot = Slot {
            number: self.number(),
            doing: Doing::Waiting,
            prepared: None,
            pace: Pace::Unknown,
            keeping,
            is_known: false,
            is_wanted: true,
            found: Arc::clone(&found),
        };
        let index = match self.free.pop() {
            Some(index) => index,
            None => {
                self.slots.push(None);
                self.slots.len() - 1
            }
        };
        self.slots[index] = Some(slot);
        self.by_target.insert(Arc::clone(&found.target), index);
        Some(Step::Plan(index))
    }

    fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// A turn has ended; `None`: it broke off, and nobody knows how far it came.
    pub(super) fn turn_ended(&mut self, index: usize, ended: Option<Ended>) -> Option<Step> {
        let slot = self.get_mut(index)?;
        slot.doing = Doing::Waiting;
        match ended {
            Some(Ended { prepared, was_slow, was_read }) => {
                slot.prepared = prepared;
                slot.pace = match (was_slow, was_read) {
                    (true, _) => Pace::Slow,
                    (false, true) => Pace::Prompt,
                    (false, false) => slot.pace,
                };
                slot.is_known |= was_read;
            }
            None => (slot.prepared, slot.is_known) = (None, true),
        }
        if slot.is_wanted { None } else { self.leave(index) }
    }

    /// The plugin has said the last of it. A target that has come back meanwhile begins anew.
    pub(super) fn forgotten(&mut self, index: usize) -> Option<Step> {
        let slot = self.get_mut(index)?;
        let again = slot.is_wanted.then(|| Arc::clone(&slot.found));
        self.remove(index);
        again.and_then(|found| self.take_in(found))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::job::Job;
    use super::super::target::resolve;
    use super::*;

    fn found(address: &str) -> Found {
        resolve(0, &Job::named("j"), address, &[]).unwrap().unwrap()
    }

    fn read() -> Option<Ended> {
        Some(Ended { prepared: None, was_slow: false, was_read: true })
    }

    /// Scenario: targets come, one is read, all go: one waits, one was never read, one is in its turn.
    /// Guarantees: only what the plugin knows is forgotten, and what is under way ends first.
    #[test]
    fn a_target_that_goes_is_forgotten_once_nothing_is_under_way() {
        let mut slots = Slots::default();
        let all = || vec![found("a:1"), found("b:1"), found("c:1")];
        assert_eq!(slots.follow(all()), [Step::Plan(0), Step::Plan(1), Step::Plan(2)]);
        assert_eq!(slots.turn_ended(0, read()), None);
        slots.get_mut(2).unwrap().doing = Doing::Turn;
        assert_eq!(slots.known().len(), 1);
        assert_eq!(slots.follow(all()), [], "what is there already is left alone");
        assert_eq!(slots.follow(vec![]), [Step::Forget(0)]);
        assert!(slots.origins().is_empty());
        assert_eq!(slots.turn_ended(2, read()), Some(Step::Forget(2)));
        assert_eq!((slots.forgotten(0), slots.forgotten(2)), (None, None));
        assert!(!slots.has(&found("a:1").target) && !slots.has(&found("b:1").target));
        assert!(slots.known().is_empty() && slots.kept == 0);
    }

    /// Scenario: a target comes back while it is being forgotten, and one during its last turn.
    /// Guarantees: the first begins anew after its end, the second goes on as if nothing had been.
    #[test]
    fn a_target_that_comes_back_waits_for_its_end() {
        let mut slots = Slots::default();
        slots.follow(vec![found("a:1"), found("b:1")]);
        slots.turn_ended(0, read());
        slots.get_mut(1).unwrap().doing = Doing::Turn;
        assert_eq!(slots.follow(vec![]), [Step::Forget(0)]);
        let number = slots.get_mut(0).unwrap().number;
        assert_eq!(slots.follow(vec![found("a:1"), found("b:1")]), []);
        assert_eq!(slots.turn_ended(1, read()), None);
        assert_eq!(slots.forgotten(0), Some(Step::Plan(0)));
        assert!(slots.numbered(0, number).is_none(), "turns of the one before are nobody's");
        assert!(slots.known().len() == 1 && slots.has(&found("a:1").target));
    }

    /// Scenario: a target's interval changes; more targets come than connections are kept.
    /// Guarantees: its turns are planned anew; those over the bound keep none.
    #[test]
    fn intervals_change_and_kept_connections_are_bounded() {
        let mut slots = Slots::default();
        slots.follow(vec![found("a:1")]);
        let faster = || Found { interval: Duration::from_secs(1), ..found("a:1") };
        assert_eq!(slots.follow(vec![faster()]), [Step::Plan(0)]);
        let many: Vec<Found> = (0..KEPT_MAX + 5).map(|index| found(&format!("h{index}:1"))).collect();
        slots.follow(many);
        let fresh = slots.slots.iter().flatten().filter(|slot| slot.keeping == Keeping::None).count();
        assert_eq!((slots.kept, fresh), (KEPT_MAX, 5));
    }
}
