//! The targets, what each is doing, who comes and who goes.
//!
//! Knows no time and starts nothing: it says what is to be done, and the run does it.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use weir_model::scrape::Target;
use weir_net::address::Origin;
use weir_net::client::Keeping;

use super::round::{Ended, Prepared, Reading};
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
    /// It failed, and that took long.
    Slow,
}

/// Turns for which a target is held back at most since the plugin ended on its answer: at an interval of 15 s it is tried four times
/// an hour, so that a few such targets leave the instance to all others for minutes.
pub(super) const HELD_TURNS_MAX: u32 = 64;

/// A target is not fetched for some turns once the plugin has ended on its answer: all targets share one instance, and what it
/// remembers of them goes with it.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Hold {
    /// Of the last time: twice as many follow.
    turns: u32,
    pub(super) left: u32,
    /// The code that ended. Other code reads the answer again.
    generation: u64,
}

impl Hold {
    fn begin(&mut self, generation: u64) {
        let turns = if self.generation == generation { self.turns } else { 0 };
        let turns = (2 * turns).clamp(1, HELD_TURNS_MAX);
        *self = Self { turns, left: turns, generation };
    }

    /// Whether the turn that begins is one without a fetch.
    pub(super) fn take(&mut self, generation: u64) -> bool {
        if self.generation != generation {
            *self = Self::default();
        }
        let is_held = self.left > 0;
        self.left = self.left.saturating_sub(1);
        is_held
    }
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
    pub(super) hold: Hold,
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

    /// The plugin knows of these from a run before this one.
    pub(super) fn know(&mut self, targets: &[Arc<Target>]) {
        for target in targets {
            let slot = self.by_target.get(target).copied().and_then(|index| self.get_mut(index));
            if let Some(slot) = slot {
                slot.is_known = true;
            }
        }
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
            hold: Hold::default(),
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
            Some(Ended { prepared, pace, reading }) => {
                slot.prepared = prepared;
                slot.pace = pace.unwrap_or(slot.pace);
                match reading {
                    Reading::Answer => slot.hold = Hold::default(),
                    Reading::Ended(generation) => slot.hold.begin(generation),
                    Reading::Nothing | Reading::Absence => {}
                }
                slot.is_known |= matches!(reading, Reading::Answer | Reading::Absence);
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
        Some(Ended { prepared: None, pace: Some(Pace::Prompt), reading: Reading::Answer })
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

    /// Scenario: the plugin ends on a target's answer again and again; then other code is there, and it reads.
    /// Guarantees: the target is held back for 1, 2, 4 … turns, never for more than the bound; other code reads at once; what was
    /// read is the end of it.
    #[test]
    fn a_target_that_ends_the_plugin_is_held_back_longer_each_time() {
        let mut hold = Hold::default();
        let mut held = Vec::new();
        for _ in 0..9 {
            hold.begin(7);
            held.push((0..1_000).take_while(|_| hold.take(7)).count());
        }
        assert_eq!(held, [1, 2, 4, 8, 16, 32, 64, 64, 64]);
        hold.begin(7);
        assert!(hold.take(7) && !hold.take(8));
        hold.begin(8);
        assert_eq!(hold.left, 1);
        let mut slots = Slots::default();
        slots.follow(vec![found("a:1")]);
        let fatal = || Some(Ended { prepared: None, pace: None, reading: Reading::Ended(7) });
        (0..2).for_each(|_| assert_eq!(slots.turn_ended(0, fatal()), None));
        assert_eq!(slots.get_mut(0).unwrap().hold.left, 2);
        assert!(slots.known().is_empty());
        slots.turn_ended(0, read());
        assert!(!slots.get_mut(0).unwrap().hold.take(7));
    }
}
