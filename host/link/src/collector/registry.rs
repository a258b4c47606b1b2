//! Who may speak as whom: the rules of a Hello, one live stream for each identity, and what is shown of each agent.
//!
//! A Hello is held against what is known, in this order; the first that fits answers.
//!
//! | | what is found | answer |
//! | --- | --- | --- |
//! | a | the incarnation is known with a higher epoch | NEW_INCARNATION: an older copy of the folder |
//! | b | the process that was here last is not the one that the folder remembers for that epoch | NEW_INCARNATION: two copies of one folder, or one that was started too often since |
//! | c | a log's mark is where its epoch has not been: at or above `next`, or not below the first place of a later epoch | NEW_INCARNATION: another copy used the numbering |
//! | d | a live stream of a higher incarnation | FENCED |
//! | e | the incarnation is not known, and below the highest that is | NEW_INCARNATION: states are ordered by it |
//! | f | a live stream of the same or of a lower one | welcome; that stream is FENCED |
//! | g | none of these | welcome |
//!
//! Marks are looked at twice, before the older stream is fenced and when what that one had with pipelines has come to its end.
//!
//! Pure: what is durable leaves as changes (`store.rs`), and is on the disk before a Welcome. Time comes in as an argument, and
//! no clock of the day is asked: what has to age does so while the collector runs.
//!
//! Invariant: an identity has at most one live stream, and only that one changes whether it lives.

mod row;
mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use weir_model::{Mark, Reason as Cause};
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::{Goodbye, Heartbeat};

use super::fleet::{FleetRow, Waiting};
use super::hello::Facts;
use super::{farewell, seconds};
use crate::limits::{AGENTS_MAX, AWAY_DAYS_MAX, SHOWN_FOR, TOO_MANY_WAIT};
use crate::names::StoreId;
use row::{Live, Row};

/// A key of the durable rows, and its new value: none removes it.
pub type Change = (Vec<u8>, Option<Vec<u8>>);

/// What stands before an identity in the keys of rows.
pub(super) const ROW_PREFIX: &[u8] = b"agent/";

const DAY: Duration = Duration::from_secs(24 * 3600);

/// How a stream ended, for those who look at the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The agent took its leave, or the collector drained.
    Orderly,
    /// It fell silent, broke off or misbehaved.
    Dead,
    /// Somebody newer has its name.
    Fenced,
}

/// How much a person should care.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Worth knowing.
    Info,
    /// Something to look into.
    Warn,
    /// Something was lost.
    Error,
}

/// Something that happened to an agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// How much a person should care.
    pub weight: Weight,
    /// In words.
    pub text: String,
}

/// A Hello that is welcome, as soon as its row is on the disk.
#[derive(Debug)]
pub struct Admitted {
    /// The stream's name.
    pub session: u64,
    /// The stream that ends for it.
    pub fences: Option<(u64, Goodbye)>,
    /// What was noticed, for the log.
    pub notes: Vec<Note>,
}

/// Every agent that is remembered.
#[derive(Debug)]
pub struct Registry {
    store: StoreId,
    rows: HashMap<String, Row>,
    rows_max: usize,
    /// Rows whose durable part is not on the disk yet, and names of those that are to be removed.
    dirty: BTreeSet<String>,
    sessions: u64,
    /// One more for each Hello that was welcome: tells who was here last.
    stamps: u64,
    live: usize,
    forgotten: u64,
    /// Names of the forgotten whose states are still stored, and whether the disk is to remember that: a process that ends before
    /// they are let go leaves it to the next one.
    gone: BTreeMap<String, bool>,
    /// When the last day ended by which absence is counted.
    day: Option<Instant>,
}

impl Registry {
    /// The registry of `store` with these durable rows; tells which could not be read.
    pub fn new(store: StoreId, rows: Vec<(Vec<u8>, Vec<u8>)>, now: Instant) -> (Self, Vec<String>) {
        let mut broken = Vec::new();
        let mut read = HashMap::new();
        let mut gone = BTreeMap::new();
        // As many agents as may be, and as many that are gone.
        for (key, value) in rows.into_iter().take(2 * AGENTS_MAX) {
            let identity =
                key.strip_prefix(ROW_PREFIX).and_then(|name| String::from_utf8(name.to_vec()).ok());
            let bound = if value.is_empty() { gone.len() } else { read.len() };
            if bound >= AGENTS_MAX {
                continue;
            }
            if let Some(identity) = identity.clone().filter(|_| value.is_empty()) {
                gone.insert(identity, true);
                continue;
            }
            match identity.clone().zip(Row::read(&value, now)) {
                Some((identity, row)) => drop(read.insert(identity, row)),
                None => broken.push(identity.unwrap_or_else(|| format!("{} bytes", key.len()))),
            }
        }
        let stamps = read.values().map(Row::stamp).max().unwrap_or_default();
        let registry = Self {
            store,
            rows: read,
            rows_max: AGENTS_MAX,
            dirty: BTreeSet::new(),
            sessions: 0,
            stamps,
            live: 0,
            forgotten: 0,
            gone,
            day: Some(now),
        };
        (registry, broken)
    }

    /// The same with room for fewer, for tests.
    #[cfg(test)]
    pub(super) fn with_rows_max(mut self, rows_max: usize) -> Self {
        self.rows_max = rows_max;
        self
    }

    /// Holds a Hello against what is known, with the marks that the logs have of its identity. Where it is welcome, its
    /// stream is the live one from now on; it is told so when its row is durable and [`Registry::admit_again`] agrees.
    ///
    /// # Errors
    /// The Goodbye that it is owed, which is also shown.
    pub fn admit(&mut self, facts: &Facts, marks: &[Mark], now: Instant) -> Result<Admitted, Goodbye> {
        if let Some(row) = self.rows.get_mut(&facts.identity)
            && let Err(goodbye) = rules::judge(row, facts, marks)
        {
            row.turned_away(&goodbye, now);
            return Err(goodbye);
        }
        if !self.rows.contains_key(&facts.identity) {
            rules::numbering(facts, marks, None)?;
            self.make_room()?;
            self.gone.remove(&facts.identity);
        }
        self.sessions += 1;
        self.stamps += 1;
        let session = self.sessions;
        let row = self.rows.entry(facts.identity.clone()).or_default();
        let mut notes = Vec::new();
        if row.knows(facts, self.stamps) {
            self.dirty.insert(facts.identity.clone());
        }
        let fences = row.live.as_ref().map(|old| {
            let text = format!(
                "session {} of {:?} ended: the same agent has opened a newer stream, session {session}",
                old.session, facts.identity
            );
            notes.push(Note { weight: Weight::Warn, text: text.clone() });
            (old.session, rules::fenced(text, row.highest()))
        });
        if row.live.is_none() {
            self.live += 1;
        }
        row.live = Some(Live { session, incarnation: facts.incarnation, epoch: facts.epoch, since: now });
        row.welcomed(facts, &notes, now);
        Ok(Admitted { session, fences, notes })
    }

    /// Holds the Hello of a live stream against the marks once more, when nothing of an older stream can change them any more:
    /// before its Welcome. Says what its agent's past has lost.
    ///
    /// # Errors
    /// The Goodbye that it is owed after all (rule c), which is also shown.
    pub fn admit_again(
        &mut self,
        facts: &Facts,
        marks: &[Mark],
        session: u64,
        now: Instant,
    ) -> Result<Vec<Note>, Goodbye> {
        let store = self.store;
        // Whoever has its place tells it.
        let Some(row) = self.live_row(&facts.identity, session) else { return Ok(Vec::new()) };
        if let Err(goodbye) = rules::numbering(facts, marks, row.highest()) {
            row.turned_away(&goodbye, now);
            return Err(goodbye);
        }
        let notes = rules::losses(row, facts, marks, store);
        if !notes.is_empty() {
            row.say(&notes.iter().map(|note| note.text.as_str()).collect::<Vec<_>>().join("; "), now);
        }
        Ok(notes)
    }

    /// Makes room for one more row where there is none.
    fn make_room(&mut self) -> Result<(), Goodbye> {
        if self.rows.len() < self.rows_max {
            return Ok(());
        }
        if self.forget_oldest() {
            return Ok(());
        }
        let text =
            format!("{} agents are connected, as many as may be; raise the number of collectors", self.live);
        let wait_ms = TOO_MANY_WAIT.as_millis() as u32;
        Err(Goodbye { wait_ms, ..farewell(Reason::TooMany, text) })
    }

    /// Forgets the agent that was away longest; tells whether there was one.
    pub(super) fn forget_oldest(&mut self) -> bool {
        let away = self.rows.iter().filter(|(_, row)| row.live.is_none());
        let oldest = away.min_by_key(|(_, row)| row.stamp()).map(|(name, _)| name.clone());
        oldest.inspect(|oldest| self.forget(oldest)).is_some()
    }

    fn forget(&mut self, identity: &str) {
        self.rows.remove(identity);
        self.dirty.insert(identity.to_owned());
        self.forgotten += 1;
        // What does not fit here is given up where there is no room for states (`state/store/staging.rs`).
        if self.gone.len() < self.rows_max {
            self.gone.insert(identity.to_owned(), true);
        }
    }

    /// Makes place on a disk that has no room for as many rows: names of the forgotten go first, and are known until the process
    /// ends; then the agent that was away longest is forgotten. Tells whether there was something.
    pub(super) fn make_place(&mut self) -> bool {
        let mut had = false;
        for (identity, is_marked) in self.gone.iter_mut().filter(|(_, is_marked)| **is_marked) {
            (*is_marked, had) = (false, true);
            self.dirty.insert(identity.clone());
        }
        had || self.forget_oldest()
    }

    /// One that was forgotten, has not come back, and of which states may still be stored.
    pub fn first_gone(&self) -> Option<String> {
        self.gone.first_key_value().map(|(identity, _)| identity.clone())
    }

    /// Nothing is stored of it any more.
    pub fn let_go(&mut self, identity: &str) {
        if self.gone.remove(identity).is_some_and(|is_marked| is_marked) {
            self.dirty.insert(identity.to_owned());
        }
    }

    // === while a stream lives ===

    /// The row, where this stream is the live one.
    fn live_row(&mut self, identity: &str, session: u64) -> Option<&mut Row> {
        self.rows
            .get_mut(identity)
            .filter(|row| row.live.as_ref().is_some_and(|live| live.session == session))
    }

    /// Whether this stream is the live one.
    pub fn is_live(&self, identity: &str, session: u64) -> bool {
        let row = self.rows.get(identity);
        row.and_then(|row| row.live.as_ref()).is_some_and(|live| live.session == session)
    }

    /// A message came.
    pub fn heard(&mut self, identity: &str, session: u64, now: Instant) {
        if let Some(row) = self.live_row(identity, session) {
            row.heard = Some(now);
        }
    }

    /// A heartbeat came: how much waits at the agent.
    pub fn heartbeat(&mut self, identity: &str, session: u64, heartbeat: &Heartbeat) {
        if let Some(row) = self.live_row(identity, session) {
            row.waiting = Waiting {
                records: heartbeat.waiting_records,
                bytes: heartbeat.waiting_bytes,
                oldest_ms: heartbeat.oldest_ms,
            };
        }
    }

    /// A bundle was taken: there is a receipt for it, which says how many of its records had come before.
    pub fn took(&mut self, identity: &str, records: u64, known: u64, bytes: u64) {
        if let Some(row) = self.rows.get_mut(identity) {
            row.bundles += 1;
            row.records += records;
            row.duplicates += known;
            row.bytes += bytes;
        }
    }

    /// A bundle of the log with this place in the Hello will never be taken.
    pub fn rejected(&mut self, identity: &str, rejected: &RejectedBundle<'_>, now: Instant) {
        let Some(row) = self.rows.get_mut(identity) else { return };
        if row.reject(rejected, now) {
            self.dirty.insert(identity.to_owned());
        }
    }

    /// Something happened that is worth seeing.
    pub fn note(&mut self, identity: &str, text: &str, now: Instant) {
        if let Some(row) = self.rows.get_mut(identity) {
            row.say(text, now);
        }
    }

    /// A stream has ended. Only the live one changes whether its agent lives: the end of an old stream may come late.
    pub fn ended(&mut self, identity: &str, session: u64, end: End, why: &str, now: Instant) {
        let Some(row) = self.live_row(identity, session) else { return };
        row.live = None;
        row.ended(end, why, now);
        self.live -= 1;
    }

    // === time ===

    /// Once a minute or so: forgets whom nobody has seen for [`AWAY_DAYS_MAX`] days of this collector's running.
    pub fn sweep(&mut self, now: Instant) {
        if self.day.is_some_and(|day| now.saturating_duration_since(day) < DAY) {
            return;
        }
        self.day = Some(now);
        let mut gone = Vec::new();
        for (identity, row) in &mut self.rows {
            if row.day_passed() {
                self.dirty.insert(identity.clone());
            }
            if row.days_away() > AWAY_DAYS_MAX {
                gone.push(identity.clone());
            }
        }
        for identity in gone {
            self.forget(&identity);
        }
    }

    // === what is durable ===

    /// What is to be written now. Where that fails, [`Registry::not_written`] brings it back.
    pub fn take_changes(&mut self) -> Vec<Change> {
        let dirty = std::mem::take(&mut self.dirty);
        let change = |identity: String| {
            let is_gone = self.gone.get(&identity).is_some_and(|is_marked| *is_marked);
            let value = self.rows.get(&identity).map(Row::write).or_else(|| is_gone.then(Vec::new));
            ([ROW_PREFIX, identity.as_bytes()].concat(), value)
        };
        dirty.into_iter().map(change).collect()
    }

    /// These changes did not reach the disk.
    pub fn not_written(&mut self, changes: &[Change]) {
        for (key, _) in changes {
            if let Some(Ok(identity)) = key.strip_prefix(ROW_PREFIX).map(std::str::from_utf8) {
                self.dirty.insert(identity.to_owned());
            }
        }
    }

    /// Whether something is to be written.
    pub fn has_changes(&self) -> bool {
        !self.dirty.is_empty()
    }

    // === what is shown ===

    /// Agents with a live stream.
    pub fn live(&self) -> usize {
        self.live
    }

    /// Agents that were forgotten, for room or for their age.
    pub fn forgotten(&self) -> u64 {
        self.forgotten
    }

    /// Every agent that lives or was here lately, by name.
    pub fn fleet(&self, now: Instant) -> Vec<FleetRow> {
        let is_shown = |row: &Row| row.live.is_some() || seconds(row.gone, now) < SHOWN_FOR.as_secs_f64();
        let rows = self.rows.iter().filter(|(_, row)| is_shown(row));
        let mut rows: Vec<_> = rows.map(|(identity, row)| row.show(identity, now)).collect();
        rows.sort_by(|a, b| a.identity.cmp(&b.identity));
        rows
    }
}

/// What is remembered of a bundle that will never be taken.
#[derive(Debug)]
pub struct RejectedBundle<'a> {
    /// Its log.
    pub source: &'a weir_model::Source,
    /// The place of its last record.
    pub last: u64,
    /// Its records.
    pub records: u64,
    /// For counters.
    pub cause: Cause,
    /// For people.
    pub text: &'a str,
}
