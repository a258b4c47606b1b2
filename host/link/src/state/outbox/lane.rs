//! What an agent says of its states next, and what it makes of the answers.
//!
//! ```text
//! held ──queue──▶ sent ──its acknowledgement──▶ acknowledged (a tombstone: forgotten)
//!   ▲               │
//!   └─ cut, too long without an answer, wanted again
//! ```
//!
//! Invariants: at most one state of a resource is in flight; an acknowledgement settles its own revision and those below,
//! never a newer one; a resource that waits has its turn before any other has a second one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use weir_proto::weir::link::v1::{
    Inventory, KeyDigest, KindDigest, State, StateAck, StateDown, StateUp, Want, state_down, state_up,
};

use crate::limits::{
    INVENTORY_INTERVAL, INVENTORY_JITTER, INVENTORY_KEYS_MAX, STATE_RESEND_AFTER, STATES_IN_FLIGHT_MAX,
};
use crate::names::{from_wire, to_wire};
use crate::state::resource::{Order, digest};

use super::desk::{Desk, Flight, Name, millis};

/// The part of the desk that speaks.
#[derive(Debug)]
pub(super) struct Lane {
    /// What is to be sent, each name once, by its turn.
    queue: BTreeMap<u64, Name>,
    /// The turn of whoever comes next.
    turn_next: u64,
    /// What was sent and not answered, the longest ago first.
    flights: BTreeSet<(Instant, Name)>,
    is_up: bool,
    /// Whether everything was said since the start of the process.
    was_welcomed: bool,
    /// Kinds of which an inventory is to be sent.
    inventories: BTreeSet<String>,
    /// The inventory under way: its kind, and the last key that was listed.
    listing: Option<(String, Option<String>)>,
    /// When inventories of all kinds are due.
    repeat: Option<Instant>,
    /// Whether the next message is part of an inventory where both have one: neither holds up the other.
    lists_next: bool,
    /// A new incarnation is on its way to the disk: what would be sent meanwhile has the wrong one.
    is_paused: bool,
    random: fastrand::Rng,
}

/// What became of states.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::state) enum Settled {
    /// The collector has this revision, or a newer one.
    Persisted(Name, u64),
    /// The collector will not take it.
    Rejected(Name, u64, String),
    /// The collector has what this folder has not given: a new incarnation above this one is needed.
    Behind(u128),
}

impl Lane {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            queue: BTreeMap::new(),
            turn_next: 0,
            flights: BTreeSet::new(),
            is_up: false,
            was_welcomed: false,
            inventories: BTreeSet::new(),
            listing: None,
            repeat: None,
            lists_next: true,
            is_paused: false,
            random: fastrand::Rng::with_seed(seed),
        }
    }

    /// A flight has ended.
    pub(super) fn landed(&mut self, flight: Flight, name: &Name) {
        self.flights.remove(&(flight.since, name.clone()));
    }

    /// A state does not wait any more.
    pub(super) fn left(&mut self, turn: u64) {
        self.queue.remove(&turn);
    }

    fn repeat_after(&mut self, now: Instant) {
        let spread = 1.0 + INVENTORY_JITTER * (2.0 * self.random.f64() - 1.0);
        self.repeat = Some(now + INVENTORY_INTERVAL.mul_f64(spread));
    }
}

impl Desk {
    /// A stream is up. What the collector knows as we do is settled; of other kinds an inventory goes out.
    pub(in crate::state) fn welcomed(
        &mut self,
        known: &[KindDigest],
        is_known_store: bool,
        now: Instant,
    ) -> Vec<Settled> {
        self.broken();
        self.expire(now);
        self.lane.is_up = true;
        self.lane.repeat_after(now);
        // A store that did not know the agent has nothing of it: that says nothing of what another has.
        if is_known_store {
            self.compare(known);
        }
        let says_all = !self.lane.was_welcomed || !is_known_store;
        self.lane.was_welcomed = true;
        let mut settled = Vec::new();
        for kind in self.kinds.keys().cloned().collect::<Vec<_>>() {
            let ours = self.digest_of(&kind);
            let is_known = ours.count > 0 && known.contains(&ours);
            if says_all {
                self.say_again(&kind);
            } else if is_known {
                settled.extend(self.settle_kind(&kind));
                continue;
            }
            if ours.count > 0 {
                self.lane.inventories.insert(kind);
            }
        }
        settled
    }

    /// What the collector that knew us has exactly as we do is whole here: nothing of it was lost, or all of it was said again.
    fn compare(&mut self, known: &[KindDigest]) {
        let mut lacks = false;
        for theirs in known.iter().filter(|theirs| theirs.count > 0) {
            if self.digest_of(&theirs.kind) == *theirs {
                self.is_whole_again(&theirs.kind);
            }
            lacks |= !self.is_whole(&theirs.kind);
        }
        if !lacks {
            self.is_all_whole_again();
        }
    }

    /// All there is of a kind was said: where that was not known, what is not among it is gone at the collector too.
    pub(in crate::state) fn said_all(&mut self, kind: &str) {
        if !self.is_whole_again(kind) || !self.lane.is_up {
            return;
        }
        // Parts that were listed before know less.
        self.lane.listing.take_if(|(listed, _)| listed == kind);
        self.lane.inventories.insert(kind.to_owned());
    }

    /// The stream is gone: what was in flight waits again.
    pub(in crate::state) fn broken(&mut self) {
        self.lane.is_up = false;
        self.lane.inventories.clear();
        self.lane.listing = None;
        self.lane.repeat = None;
        for (_, name) in std::mem::take(&mut self.lane.flights) {
            if let Some(entry) = self.entry_mut(&name.kind, &name.key) {
                entry.flight = None;
            }
            self.queue(&name);
        }
    }

    /// Takes what the collector says.
    pub(in crate::state) fn received(&mut self, message: StateDown) -> Option<Settled> {
        match message.message? {
            state_down::Message::Ack(answer) => self.answered(answer),
            state_down::Message::Want(want) => {
                self.wanted(want);
                None
            }
        }
    }

    fn answered(&mut self, answer: StateAck) -> Option<Settled> {
        let incarnation = from_wire(&answer.incarnation)?;
        let revision = answer.revision;
        let is_rejected = !answer.rejected.is_empty();
        let is_ahead =
            incarnation > self.incarnation || (incarnation == self.incarnation && revision >= self.next);
        if is_ahead && !is_rejected {
            return (!self.lane.is_paused).then_some(Settled::Behind(incarnation));
        }
        if incarnation != self.incarnation {
            // Of a numbering that was given up.
            return None;
        }
        let name = Name { kind: answer.kind, key: answer.key };
        let entry = self.entry_mut(&name.kind, &name.key)?;
        let landed = entry.flight.take_if(|flight| flight.revision <= revision);
        // What is refused is not sent again before it changes, or is wanted; what was never sent cannot be refused.
        let counts = !is_rejected || landed.is_some_and(|flight| flight.revision == revision);
        if counts {
            entry.acknowledged = entry.acknowledged.max(revision);
            entry.is_rejected = is_rejected && entry.revision == revision;
        }
        let (is_owed, is_tombstone) = (entry.is_owed(), entry.value.is_none());
        if let Some(flight) = landed {
            self.lane.landed(flight, &name);
        }
        if is_owed {
            self.queue(&name);
        } else if is_tombstone {
            self.release(&name);
        }
        match is_rejected {
            true if counts => Some(Settled::Rejected(name, revision, answer.rejected)),
            true => None,
            false => Some(Settled::Persisted(name, revision)),
        }
    }

    fn wanted(&mut self, want: Want) {
        for key in want.keys {
            let name = Name { kind: want.kind.clone(), key };
            // What is in flight will be answered.
            if let Some(entry) = self.entry_mut(&name.kind, &name.key).filter(|entry| entry.flight.is_none())
            {
                entry.acknowledged = 0;
                self.queue(&name);
            }
        }
    }

    /// The next message, where there is one to send now.
    pub(in crate::state) fn next(&mut self, now: Instant) -> Option<StateUp> {
        self.expire(now);
        if !self.lane.is_up || self.lane.is_paused {
            return None;
        }
        if self.lane.repeat.is_some_and(|at| at <= now) {
            self.lane.repeat_after(now);
            self.lane.inventories.extend(self.kinds.keys().cloned());
        }
        self.recall(now);
        let lists = self.lane.lists_next;
        self.lane.lists_next = !lists;
        let message = if lists {
            self.next_part().or_else(|| self.next_state(now))
        } else {
            self.next_state(now).or_else(|| self.next_part())
        };
        message.map(|message| StateUp { message: Some(message) })
    }

    /// When there may be a message although nothing is received.
    pub(in crate::state) fn wake(&self) -> Option<Instant> {
        if !self.lane.is_up || self.lane.is_paused {
            return None;
        }
        let recall = self.lane.flights.first().map(|(since, _)| *since + STATE_RESEND_AFTER);
        [self.lane.repeat, recall, self.expires_next()].into_iter().flatten().min()
    }

    /// What was not answered for too long waits again.
    fn recall(&mut self, now: Instant) {
        while let Some((since, name)) =
            self.lane.flights.first().filter(|(since, _)| *since + STATE_RESEND_AFTER <= now).cloned()
        {
            self.lane.flights.remove(&(since, name.clone()));
            if let Some(entry) = self.entry_mut(&name.kind, &name.key) {
                entry.flight = None;
            }
            self.queue(&name);
        }
    }

    fn next_state(&mut self, now: Instant) -> Option<state_up::Message> {
        while self.lane.flights.len() < STATES_IN_FLIGHT_MAX {
            let (_, name) = self.lane.queue.pop_first()?;
            let incarnation = to_wire(self.incarnation);
            let Some(entry) = self.entry_mut(&name.kind, &name.key) else { continue };
            entry.turn = None;
            if entry.flight.is_some() || !entry.is_owed() {
                continue;
            }
            entry.flight = Some(Flight { revision: entry.revision, since: now });
            // The time that it has waited here counts.
            let left = entry.expires.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
            let state = State {
                kind: name.kind.clone(),
                key: name.key.clone(),
                incarnation,
                revision: entry.revision,
                value: entry.value.clone().unwrap_or_default(),
                deleted: entry.value.is_none(),
                ttl_ms: if entry.expires.is_some() { millis(left).max(1) } else { 0 },
            };
            self.lane.flights.insert((now, name));
            return Some(state_up::Message::Value(state));
        }
        None
    }

    /// The next part of the inventory under way, or the first of another.
    fn next_part(&mut self) -> Option<state_up::Message> {
        loop {
            let (kind, after) = match self.lane.listing.take() {
                Some(listing) => listing,
                None => (self.lane.inventories.pop_first()?, None),
            };
            let is_first = after.is_none();
            let Some(entries) = self.kinds.get(&kind) else {
                // A kind without states has nothing to say: an empty inventory expires nothing.
                if is_first {
                    continue;
                }
                return Some(self.part(kind, Vec::new(), false, true));
            };
            let incarnation = to_wire(self.incarnation);
            let from = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
            let mut rest = entries.range((from, std::ops::Bound::Unbounded));
            let keys: Vec<KeyDigest> = rest
                .by_ref()
                .take(INVENTORY_KEYS_MAX)
                .map(|(key, entry)| KeyDigest {
                    key: key.clone(),
                    incarnation: incarnation.clone(),
                    revision: entry.revision,
                    deleted: entry.value.is_none(),
                })
                .collect();
            let is_last = rest.next().is_none();
            if let Some(last) = keys.last().filter(|_| !is_last) {
                self.lane.listing = Some((kind.clone(), Some(last.key.clone())));
            }
            return Some(self.part(kind, keys, is_first, is_last));
        }
    }

    fn part(&self, kind: String, keys: Vec<KeyDigest>, first: bool, is_last: bool) -> state_up::Message {
        // Where something was lost there may have been more: nobody may take this for all.
        let complete = is_last && self.is_whole(&kind);
        state_up::Message::Inventory(Inventory { kind, keys, complete, first })
    }

    /// Puts a resource at the end of the queue, where it is owed and not there yet.
    pub(super) fn queue(&mut self, name: &Name) {
        let turn = self.lane.turn_next;
        let Some(entry) = self.entry_mut(&name.kind, &name.key) else { return };
        if entry.is_owed() && entry.flight.is_none() && entry.turn.is_none() {
            entry.turn = Some(turn);
            self.lane.turn_next += 1;
            self.lane.queue.insert(turn, name.clone());
        }
    }

    /// What was acknowledged in this kind is not any more.
    fn say_again(&mut self, kind: &str) {
        let Some(entries) = self.kinds.get_mut(kind) else { return };
        let names: Vec<Name> =
            entries.keys().map(|key| Name { kind: kind.to_owned(), key: key.clone() }).collect();
        entries.values_mut().for_each(|entry| entry.acknowledged = 0);
        names.iter().for_each(|name| self.queue(name));
    }

    /// The collector has every live state of this kind. Tombstones wait for their own answer: what was sent before them on
    /// another stream may still be on its way.
    fn settle_kind(&mut self, kind: &str) -> Vec<Settled> {
        let Some(entries) = self.kinds.get_mut(kind) else { return Vec::new() };
        let live = entries.iter_mut().filter(|(_, entry)| entry.value.is_some() && entry.is_owed());
        live.map(|(key, entry)| {
            entry.acknowledged = entry.revision;
            Settled::Persisted(Name { kind: kind.to_owned(), key: key.clone() }, entry.revision)
        })
        .collect()
    }

    fn digest_of(&self, kind: &str) -> KindDigest {
        let entries = self.kinds.get(kind).into_iter().flatten();
        let live = entries.filter(|(_, entry)| entry.value.is_some());
        let order = |revision| Order { incarnation: self.incarnation, revision };
        digest(kind, live.map(|(key, entry)| (key.as_str(), order(entry.revision))))
    }

    /// Nothing is sent until the new incarnation is durable.
    pub(in crate::state) fn pause(&mut self) {
        self.lane.is_paused = true;
    }

    /// The new incarnation is durable: everything is said again under it.
    pub(in crate::state) fn renumber(&mut self, incarnation: u128) {
        let was_up = self.lane.is_up;
        let repeat = self.lane.repeat;
        self.broken();
        (self.lane.is_up, self.lane.repeat, self.lane.is_paused) = (was_up, repeat, false);
        self.incarnation = incarnation;
        for kind in self.kinds.keys().cloned().collect::<Vec<_>>() {
            self.say_again(&kind);
            if was_up {
                self.lane.inventories.insert(kind);
            }
        }
    }

    /// Everything that is held here in memory, counted: for tests that it stays flat.
    #[cfg(test)]
    pub(in crate::state) fn held(&self) -> usize {
        self.len() + self.lane.queue.len() + self.lane.flights.len() + self.lane.inventories.len()
    }
}
