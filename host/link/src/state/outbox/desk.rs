//! What an agent holds: the newest state of each resource, and how far the collector has it.
//!
//! ```text
//! row      "h"                     ▶ incarnation u128 · next revision u64, big-endian · 1 unless the outbox is whole
//!          "s" kind · 0 · key      ▶ link.v1.State without incarnation
//! ```
//!
//! A report becomes changes of rows ([`Desk::stage`]); when they are durable it is held ([`Desk::apply`]), and only then
//! may it be sent. A deleted resource stays as a tombstone until the collector has acknowledged that.
//!
//! Whole is an outbox that has everything that was reported and still counts. One that was damaged has less, and programs may say
//! once what they have to say: so it stays not whole, over starts, until a collector that knew the agent before has nothing of it
//! that is not here too. The kinds that were said as a whole since ([`Desk::said_all`]) are whole before.
//!
//! Invariants: a revision is given once in an incarnation, whatever is killed when; of a kind that is not whole nothing is said that
//! lets a collector conclude what is gone.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use prost::Message as _;
use weir_proto::weir::link::v1::State;

use crate::limits::{KINDS_MAX, STATE_VALUE_BYTES_MAX, STATES_BYTES_MAX, STATES_MAX};
use crate::state::keep::{Change, Keep};
use crate::state::resource::{SEPARATOR, check};

use super::lane::Lane;

const HEADER: &[u8] = b"h";
/// Bytes of a header's numbers, which are all there is of one that was written before it said whether the outbox is whole.
const NUMBERS_BYTES: usize = 24;
const ROW: u8 = b's';

/// A resource, within the agent.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in crate::state) struct Name {
    pub(in crate::state) kind: String,
    pub(in crate::state) key: String,
}

/// What somebody says about a resource.
#[derive(Debug, Clone)]
pub(in crate::state) struct Report {
    pub(in crate::state) name: Name,
    /// None: it is gone.
    pub(in crate::state) value: Option<Vec<u8>>,
    /// Zero for ever.
    pub(in crate::state) ttl: Duration,
}

/// Why a report was not taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::state) enum Refused {
    /// It can never be taken as it is.
    Invalid(String),
    /// There is no room.
    Full(String),
}

/// The newest state of a resource.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) revision: u64,
    /// None: a tombstone.
    pub(super) value: Option<Vec<u8>>,
    pub(super) ttl: Duration,
    /// When it stops to count, unless it is reported again.
    pub(super) expires: Option<Instant>,
    /// The highest revision that the collector has said to have, in this incarnation.
    pub(super) acknowledged: u64,
    /// What was sent and not answered.
    pub(super) flight: Option<Flight>,
    /// Whether that was a refusal.
    pub(super) is_rejected: bool,
    /// Its turn, where it waits to be sent.
    pub(super) turn: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Flight {
    pub(super) revision: u64,
    pub(super) since: Instant,
}

/// Reports on the way to the disk.
#[derive(Debug)]
pub(in crate::state) struct Staged {
    facts: Vec<(Name, u64, Option<Vec<u8>>, Duration)>,
    next: u64,
    /// Whose rows go with it.
    gone: BTreeSet<Name>,
    /// Rows that could not be read, which go too.
    unread: Vec<Vec<u8>>,
    /// What its header says, where it has one.
    is_whole: Option<bool>,
    pub(in crate::state) changes: Vec<Change>,
    /// For each report its revision, or why it was not taken.
    pub(in crate::state) answers: Vec<Result<u64, Refused>>,
}

/// What an agent holds, and what it says of that.
#[derive(Debug)]
pub(in crate::state) struct Desk {
    pub(super) incarnation: u128,
    /// The next report's revision.
    pub(super) next: u64,
    /// Whether all that was ever reported is here.
    is_whole: bool,
    /// Whether the header does not say that.
    owes_header: bool,
    /// Kinds that are whole where the outbox is not.
    whole_kinds: BTreeSet<String>,
    /// Rows that could not be read: they go when the header says that the outbox is not whole.
    unread: Vec<Vec<u8>>,
    pub(super) kinds: BTreeMap<String, BTreeMap<String, Entry>>,
    states: usize,
    bytes: usize,
    /// When which state stops to count.
    deadlines: BTreeSet<(Instant, Name)>,
    /// States whose rows are no longer needed.
    gone: BTreeSet<Name>,
    /// States whose time ran out since somebody asked, with their revisions.
    pub(super) expired: Vec<(Name, u64)>,
    pub(super) lane: Lane,
}

impl Desk {
    /// Reads what is kept. Everything counts as not said, and times to live begin anew: how long the process was away is not
    /// known, for clocks jump. Where there is no header, it is whole if it is new. Says how many rows could not be read.
    pub(in crate::state) fn load(
        keep: &dyn Keep,
        fresh: u128,
        is_new: bool,
        seed: u64,
        now: Instant,
    ) -> (Self, usize) {
        let (incarnation, next, is_whole) =
            keep.get(HEADER).as_deref().and_then(read_header).unwrap_or((fresh, 1, is_new));
        let mut desk = Self {
            incarnation,
            next,
            is_whole,
            owes_header: false,
            whole_kinds: BTreeSet::new(),
            unread: Vec::new(),
            kinds: BTreeMap::new(),
            states: 0,
            bytes: 0,
            deadlines: BTreeSet::new(),
            gone: BTreeSet::new(),
            expired: Vec::new(),
            lane: Lane::new(seed),
        };
        for (key, row) in keep.scan(&[ROW]) {
            match State::decode(&*row) {
                Ok(state) if check(&state.kind, &state.key).is_ok() => desk.take(state, now),
                Ok(_) | Err(_) => desk.unread.push(key),
            }
        }
        let unread = desk.unread.len();
        if unread > 0 {
            // The header says so before the rows are gone, for they are why.
            (desk.is_whole, desk.owes_header) = (false, true);
        }
        (desk, unread)
    }

    /// Whether all that was ever reported of a kind is here.
    pub(super) fn is_whole(&self, kind: &str) -> bool {
        self.is_whole || self.whole_kinds.contains(kind)
    }

    /// A collector has nothing of this kind that is not here too, or it was said what all of it is.
    pub(super) fn is_whole_again(&mut self, kind: &str) -> bool {
        // Kinds that are not here any more are forgotten first: who names kinds is bounded only by what is held at once.
        if self.whole_kinds.len() >= KINDS_MAX {
            let kinds = &self.kinds;
            self.whole_kinds.retain(|kind| kinds.contains_key(kind));
        }
        !self.is_whole && self.whole_kinds.len() < KINDS_MAX && self.whole_kinds.insert(kind.to_owned())
    }

    /// A collector that knew the agent before has nothing of any kind that is not here too.
    pub(super) fn is_all_whole_again(&mut self) {
        if !self.is_whole {
            (self.is_whole, self.owes_header) = (true, true);
            self.whole_kinds.clear();
        }
    }

    fn take(&mut self, state: State, now: Instant) {
        let name = Name { kind: state.kind, key: state.key };
        let value = (!state.deleted).then_some(state.value);
        self.next = self.next.max(state.revision.saturating_add(1));
        self.hold(name, state.revision, value, Duration::from_millis(state.ttl_ms), now);
    }

    /// The changes that make reports durable, and the answer to each. Nothing is held before [`Desk::apply`].
    pub(in crate::state) fn stage(&mut self, reports: Vec<Report>) -> Staged {
        let mut staged = Staged {
            facts: Vec::new(),
            next: self.next,
            gone: std::mem::take(&mut self.gone),
            unread: std::mem::take(&mut self.unread),
            is_whole: None,
            changes: Vec::new(),
            answers: Vec::new(),
        };
        // The newest of each name among these, and what they add.
        let mut newest: HashMap<Name, usize> = HashMap::new();
        let (mut states, mut bytes) = (self.states, self.bytes);
        let mut kinds: BTreeSet<String> = BTreeSet::new();
        for report in reports {
            let before = match newest.get(&report.name) {
                Some(at) => {
                    let (_, revision, value, ttl) = &staged.facts[*at];
                    Some((*revision, value.as_deref(), *ttl, false))
                }
                None => {
                    let entry = self.entry(&report.name.kind, &report.name.key);
                    entry.map(|entry| (entry.revision, entry.value.as_deref(), entry.ttl, entry.is_rejected))
                }
            };
            // What was said before is no news, but for what counts for a while, and for what was refused.
            let same = before.filter(|(_, value, ttl, is_rejected)| {
                *value == report.value.as_deref() && ttl.is_zero() && report.ttl.is_zero() && !is_rejected
            });
            if let Some((revision, ..)) = same {
                staged.answers.push(Ok(revision));
                continue;
            }
            let held = before.map_or(0, |(_, value, ..)| size(&report.name, value));
            let wanted = size(&report.name, report.value.as_deref());
            let is_new = before.is_none();
            let is_new_kind =
                !self.kinds.contains_key(&report.name.kind) && !kinds.contains(&report.name.kind);
            let kinds_count = self.kinds.len() + kinds.len() + usize::from(is_new_kind);
            let after = (states + usize::from(is_new), bytes.saturating_sub(held) + wanted, kinds_count);
            if let Err(refused) = admit(&report, is_new, wanted > held, after) {
                staged.answers.push(Err(refused));
                continue;
            }
            (states, bytes) = (after.0, after.1);
            if is_new_kind {
                kinds.insert(report.name.kind.clone());
            }
            let revision = staged.next;
            staged.next += 1;
            staged.answers.push(Ok(revision));
            newest.insert(report.name.clone(), staged.facts.len());
            staged.facts.push((report.name, revision, report.value, report.ttl));
        }
        self.write(&mut staged, newest);
        staged
    }

    /// The rows of the newest facts, of what is gone, and the header.
    fn write(&mut self, staged: &mut Staged, newest: HashMap<Name, usize>) {
        // First, for one of them may be written anew.
        staged.changes.extend(staged.unread.iter().map(|key| (key.clone(), None)));
        for name in &staged.gone {
            if self.entry(&name.kind, &name.key).is_none() && !newest.contains_key(name) {
                staged.changes.push((row_key(name), None));
            }
        }
        for (name, at) in newest {
            let (_, revision, value, ttl) = &staged.facts[at];
            let state = State {
                kind: name.kind.clone(),
                key: name.key.clone(),
                incarnation: Vec::new(),
                revision: *revision,
                deleted: value.is_none(),
                value: value.clone().unwrap_or_default(),
                ttl_ms: millis(*ttl),
            };
            staged.changes.push((row_key(&name), Some(state.encode_to_vec())));
        }
        // A revision that was given and not written is not given again: the disk may have it all the same.
        self.next = staged.next;
        if !staged.changes.is_empty() || self.owes_header {
            staged.is_whole = Some(self.is_whole);
            staged.changes.push(header(self.incarnation, self.next, self.is_whole));
        }
    }

    /// The change that makes a new incarnation durable.
    pub(in crate::state) fn stage_incarnation(&self, incarnation: u128) -> Vec<Change> {
        vec![header(incarnation, self.next, self.is_whole)]
    }

    /// Holds what has become durable.
    pub(in crate::state) fn apply(&mut self, staged: Staged, now: Instant) {
        self.expire(now);
        // Meanwhile it may have become whole.
        self.owes_header &= staged.is_whole != Some(self.is_whole);
        for (name, revision, value, ttl) in staged.facts {
            self.hold(name, revision, value, ttl, now);
        }
    }

    /// What was staged did not become durable.
    pub(in crate::state) fn abandon(&mut self, staged: Staged) {
        self.gone.extend(staged.gone);
        self.unread.extend(staged.unread);
    }

    fn hold(&mut self, name: Name, revision: u64, value: Option<Vec<u8>>, ttl: Duration, now: Instant) {
        // A tombstone counts until it is acknowledged.
        let ttl = if value.is_some() { ttl } else { Duration::ZERO };
        // One that no clock reaches is for ever.
        let expires = (!ttl.is_zero()).then(|| now.checked_add(ttl)).flatten();
        if let Some(at) = expires {
            self.deadlines.insert((at, name.clone()));
        }
        self.bytes += size(&name, value.as_deref());
        match self.kinds.entry(name.kind.clone()).or_default().get_mut(&name.key) {
            Some(entry) => {
                self.bytes = self.bytes.saturating_sub(size(&name, entry.value.as_deref()));
                if let Some(at) = entry.expires.filter(|at| Some(*at) != expires) {
                    self.deadlines.remove(&(at, name.clone()));
                }
                (entry.revision, entry.value, entry.ttl, entry.expires) = (revision, value, ttl, expires);
                entry.is_rejected = false;
            }
            None => {
                self.states += 1;
                let entry = Entry {
                    revision,
                    value,
                    ttl,
                    expires,
                    acknowledged: 0,
                    flight: None,
                    is_rejected: false,
                    turn: None,
                };
                self.kinds.entry(name.kind.clone()).or_default().insert(name.key.clone(), entry);
            }
        }
        self.queue(&name);
    }

    /// Lets go of what does not count any more. Nothing is said of it: the collector has its time to live too.
    pub(super) fn expire(&mut self, now: Instant) {
        while let Some((_, name)) = self.deadlines.first().filter(|(at, _)| *at <= now).cloned() {
            if let Some(entry) = self.release(&name) {
                self.expired.push((name, entry.revision));
            }
        }
    }

    /// Forgets a state; its row goes with the next commit.
    pub(super) fn release(&mut self, name: &Name) -> Option<Entry> {
        let keys = self.kinds.get_mut(&name.kind)?;
        let entry = keys.remove(&name.key)?;
        if keys.is_empty() {
            self.kinds.remove(&name.kind);
        }
        self.states = self.states.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(size(name, entry.value.as_deref()));
        if let Some(at) = entry.expires {
            self.deadlines.remove(&(at, name.clone()));
        }
        if let Some(flight) = entry.flight {
            self.lane.landed(flight, name);
        }
        if let Some(turn) = entry.turn {
            self.lane.left(turn);
        }
        self.gone.insert(name.clone());
        Some(entry)
    }

    pub(super) fn entry(&self, kind: &str, key: &str) -> Option<&Entry> {
        self.kinds.get(kind)?.get(key)
    }

    pub(super) fn entry_mut(&mut self, kind: &str, key: &str) -> Option<&mut Entry> {
        self.kinds.get_mut(kind)?.get_mut(key)
    }

    /// Names of the live states of a kind.
    pub(in crate::state) fn live_keys(&self, kind: &str) -> Vec<String> {
        let keys = self.kinds.get(kind).into_iter().flatten();
        keys.filter(|(_, entry)| entry.value.is_some()).map(|(key, _)| key.clone()).collect()
    }

    /// When the next state stops to count.
    pub(super) fn expires_next(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Whether rows wait for a commit that removes them, or the header for one.
    pub(in crate::state) fn is_untidy(&self) -> bool {
        !self.gone.is_empty() || self.owes_header
    }

    /// States that are held, tombstones among them.
    pub(in crate::state) fn len(&self) -> usize {
        self.states
    }

    /// Their bytes.
    pub(in crate::state) fn bytes(&self) -> usize {
        self.bytes
    }

    /// States of which the collector has not said that it has them.
    pub(in crate::state) fn unacknowledged(&self) -> usize {
        let entries = self.kinds.values().flat_map(BTreeMap::values);
        entries.filter(|entry| entry.is_owed()).count()
    }

    /// Lets go of what does not count any more.
    pub(in crate::state) fn expire_now(&mut self, now: Instant) {
        self.expire(now);
    }

    /// What has expired since the last call, with its revision.
    pub(in crate::state) fn take_expired(&mut self) -> Vec<(Name, u64)> {
        std::mem::take(&mut self.expired)
    }

    /// Whether the collector has this revision or a newer one.
    pub(in crate::state) fn is_settled(&self, name: &Name, revision: u64) -> bool {
        self.entry(&name.kind, &name.key).is_some_and(|entry| entry.acknowledged >= revision)
    }

    pub(in crate::state) fn incarnation(&self) -> u128 {
        self.incarnation
    }
}

impl Entry {
    /// Whether the collector has not said that it has the newest.
    pub(super) fn is_owed(&self) -> bool {
        self.acknowledged < self.revision
    }
}

/// Whether a report has room. `after` is what there would be: states, bytes, kinds.
fn admit(
    report: &Report,
    is_new: bool,
    is_larger: bool,
    (states, bytes, kinds): (usize, usize, usize),
) -> Result<(), Refused> {
    check(&report.name.kind, &report.name.key).map_err(Refused::Invalid)?;
    let Name { kind, key } = &report.name;
    let length = report.value.as_ref().map_or(0, Vec::len);
    if length > STATE_VALUE_BYTES_MAX {
        let what = format!(
            "the value of {kind} {key} has {length} bytes, {STATE_VALUE_BYTES_MAX} are allowed: say less, or split it over several keys"
        );
        return Err(Refused::Invalid(what));
    }
    let cure = "remove states that are no longer needed";
    if is_new && kinds > KINDS_MAX {
        return Err(Refused::Full(format!("the outbox has states of {KINDS_MAX} kinds already: {cure}")));
    }
    if is_new && states > STATES_MAX {
        return Err(Refused::Full(format!("the outbox has {STATES_MAX} states already: {cure}")));
    }
    // What frees memory is taken whatever there is.
    if is_larger && bytes > STATES_BYTES_MAX {
        return Err(Refused::Full(format!(
            "the outbox has {STATES_BYTES_MAX} bytes of states already: {cure}"
        )));
    }
    Ok(())
}

fn size(name: &Name, value: Option<&[u8]>) -> usize {
    name.kind.len() + name.key.len() + value.map_or(0, <[u8]>::len)
}

fn header(incarnation: u128, next: u64, is_whole: bool) -> Change {
    let mut value = incarnation.to_be_bytes().to_vec();
    value.extend_from_slice(&next.to_be_bytes());
    if !is_whole {
        value.push(1);
    }
    (HEADER.to_vec(), Some(value))
}

/// Incarnation, next revision, and whether the outbox is whole; none of what is no header.
fn read_header(header: &[u8]) -> Option<(u128, u64, bool)> {
    let (numbers, rest) = header.split_at_checked(NUMBERS_BYTES)?;
    let (incarnation, next) = numbers.split_at_checked(16)?;
    let is_whole = match rest {
        [] => true,
        [1] => false,
        _ => return None,
    };
    let incarnation = u128::from_be_bytes(incarnation.try_into().ok()?);
    Some((incarnation, u64::from_be_bytes(next.try_into().ok()?), is_whole))
}

fn row_key(name: &Name) -> Vec<u8> {
    let mut key = Vec::with_capacity(name.kind.len() + name.key.len() + 2);
    key.push(ROW);
    key.extend_from_slice(name.kind.as_bytes());
    key.push(SEPARATOR);
    key.extend_from_slice(name.key.as_bytes());
    key
}

/// Whole milliseconds; what is shorter than one is one, for zero is for ever.
pub(super) fn millis(ttl: Duration) -> u64 {
    if ttl.is_zero() { 0 } else { u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX).max(1) }
}
