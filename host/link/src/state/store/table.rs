//! What a collector holds: for each resource of each agent the newest state, by name and by version.
//!
//! ```text
//! version  1 ─────────── floor ──────────────── newest
//!          live rows           live rows and tombstones
//! ```
//!
//! Each change gives its row the next version. Whoever has seen everything up to a version at or above the floor learns all
//! that has changed since from the rows above it, for what has gone since is still there as a tombstone.
//!
//! Invariant: values are in the map below, which is durable before a row is here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::time::Instant;

use weir_model::SOURCE_NAME_BYTES_MAX;
use weir_proto::weir::link::v1::KindDigest;

use crate::limits::{STATE_NAME_BYTES_MAX, STATE_VALUE_BYTES_MAX, STATES_AWAY_MIN};
use crate::state::keep::Keep;
use crate::state::resource::digest;

use super::row::{HEADER, ROW, Resource, Row, Standing, read_header};

/// Rows that are looked at while others wait: some milliseconds.
const SCAN_ROWS_MAX: usize = 10_000;

/// Bytes of the largest state with its names.
pub(in crate::state) const FACT_BYTES_MAX: usize =
    size_of::<Fact>() + SOURCE_NAME_BYTES_MAX + 2 * STATE_NAME_BYTES_MAX + STATE_VALUE_BYTES_MAX;

#[derive(Debug)]
pub(in crate::state) struct Table {
    /// Names the store in cursors.
    pub(super) id: u128,
    pub(super) rows: BTreeMap<Arc<Resource>, Row>,
    by_version: BTreeMap<u64, Arc<Resource>>,
    /// Versions of rows that are gone.
    pub(super) tombstones: BTreeSet<u64>,
    deadlines: BTreeSet<(Instant, Arc<Resource>)>,
    /// Agents that have rows.
    pub(super) agents: HashMap<String, Agent>,
    /// Agents that have live streams, and how many.
    streams: HashMap<String, usize>,
    /// Agents whose states are given up by what is on its way to the disk.
    pub(super) giving_up: BTreeSet<String>,
    pub(super) totals: Totals,
    /// The highest that was given.
    pub(super) version: u64,
    /// Tombstones at or below may have been dropped.
    pub(super) floor: u64,
    /// Counts what was heard, to know who was silent longest.
    pub(super) hearings: u64,
    /// Counts inventories.
    pub(super) gathers: u64,
    /// When it was opened: nobody is known to be silent for longer.
    opened: Instant,
}

/// How much there is: live rows, and their bytes. Rows that are gone have a bound of their own.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::state) struct Totals {
    pub(in crate::state) live: usize,
    pub(in crate::state) bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Agent {
    pub(super) tally: Tally,
    rows: usize,
    /// When it was heard last, by the count of hearings.
    pub(super) heard: u64,
    /// The same by the clock; none where that was before the store was opened.
    heard_at: Option<Instant>,
    pub(super) gather: Option<Gather>,
}

/// What an agent has.
#[derive(Debug, Clone, Default)]
pub(super) struct Tally {
    pub(super) totals: Totals,
    /// Live rows by kind.
    pub(super) kinds: BTreeMap<String, usize>,
}

/// An inventory that is being received.
#[derive(Debug, Clone)]
pub(super) struct Gather {
    pub(super) id: u64,
    pub(super) kind: String,
    pub(super) epoch: (u128, u64),
    /// Live keys that it has listed.
    pub(super) live: usize,
}

/// Which states.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// The agent, or empty for all.
    pub agent: String,
    /// The kind, or empty for all.
    pub kind: String,
    /// How the key begins.
    pub key_prefix: String,
}

/// A state as it is shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// Whose it is.
    pub agent: String,
    /// What sort of thing it is.
    pub kind: String,
    /// Which of them.
    pub key: String,
    /// Empty where it is gone.
    pub value: Vec<u8>,
    /// How it stands.
    pub standing: Standing,
    /// Of the agent's folder.
    pub incarnation: u128,
    /// Rises with each report of the agent in this incarnation.
    pub revision: u64,
    /// Rises with each change in the store.
    pub version: u64,
}

impl Fact {
    /// Bytes that it takes in memory.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.agent.len() + self.kind.len() + self.key.len() + self.value.len()
    }
}

/// Rows by version.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) facts: Vec<Fact>,
    /// Everything up to this version was looked at.
    pub(super) upto: u64,
}

impl Filter {
    fn fits(&self, resource: &Resource) -> bool {
        (self.agent.is_empty() || self.agent == resource.agent)
            && (self.kind.is_empty() || self.kind == resource.kind)
            && resource.key.starts_with(&self.key_prefix)
    }
}

impl Totals {
    /// Counts that so many go.
    pub(super) fn less(&mut self, others: Self) {
        self.live = self.live.saturating_sub(others.live);
        self.bytes = self.bytes.saturating_sub(others.bytes);
    }

    /// Counts what becomes of a row.
    pub(super) fn change(&mut self, before: Option<&Row>, after: Option<&Row>) {
        let live = |row: Option<&Row>| usize::from(row.is_some_and(Row::is_live));
        let bytes = |row: Option<&Row>| row.filter(|row| row.is_live()).map_or(0, |row| row.bytes);
        self.live = self.live.saturating_sub(live(before)) + live(after);
        self.bytes = self.bytes.saturating_sub(bytes(before)) + bytes(after);
    }
}

impl Tally {
    /// Counts what becomes of a row.
    pub(super) fn change(&mut self, kind: &str, before: Option<&Row>, after: Option<&Row>) {
        self.totals.change(before, after);
        if after.is_some_and(Row::is_live) {
            *self.kinds.entry(kind.to_owned()).or_default() += 1;
        }
        if before.is_some_and(Row::is_live)
            && let Some(count) = self.kinds.get_mut(kind)
        {
            *count -= 1;
            if *count == 0 {
                self.kinds.remove(kind);
            }
        }
    }
}

impl Row {
    pub(super) fn is_live(&self) -> bool {
        self.standing == Standing::Live
    }
}

// === impl Table ===

impl Table {
    /// Reads what is kept; says how many rows could not be read. `id` is for a store that has none.
    pub(in crate::state) fn load(keep: &dyn Keep, id: u128, now: Instant) -> (Self, usize) {
        let (id, floor) = keep.get(HEADER).and_then(|header| read_header(&header)).unwrap_or((id, 0));
        let mut table = Self {
            id,
            rows: BTreeMap::new(),
            by_version: BTreeMap::new(),
            tombstones: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            agents: HashMap::new(),
            streams: HashMap::new(),
            giving_up: BTreeSet::new(),
            totals: Totals::default(),
            version: floor,
            floor,
            hearings: 0,
            gathers: 0,
            opened: now,
        };
        let mut unread = 0;
        for (key, value) in keep.scan(&[ROW]) {
            let resource = Resource::of_row(&key);
            let row = resource.as_ref().and_then(|resource| Row::read(resource, &value, now));
            match resource.zip(row) {
                Some((resource, (row, _))) => table.put(Arc::new(resource), row),
                None => unread += 1,
            }
        }
        // Who was silent longest is not written; whose newest row is the oldest comes near to it.
        for (version, resource) in &table.by_version {
            if let Some(agent) = table.agents.get_mut(&resource.agent) {
                agent.heard = *version;
            }
        }
        table.hearings = table.version;
        (table, unread)
    }

    // === who is there ===

    /// An agent has one more live stream.
    pub(in crate::state) fn came(&mut self, agent: &str, now: Instant) {
        *self.streams.entry(agent.to_owned()).or_default() += 1;
        self.heard(agent, now);
    }

    /// An agent has one live stream less.
    pub(in crate::state) fn left(&mut self, agent: &str, now: Instant) {
        if let Some(streams) = self.streams.get_mut(agent) {
            *streams -= 1;
            if *streams == 0 {
                self.streams.remove(agent);
            }
        }
        self.heard(agent, now);
    }

    /// Whether an agent has a live stream.
    pub(super) fn is_here(&self, agent: &str) -> bool {
        self.streams.contains_key(agent)
    }

    /// Something was heard of an agent.
    pub(super) fn heard(&mut self, agent: &str, now: Instant) {
        self.hearings += 1;
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.heard = self.hearings;
            agent.heard_at = Some(now);
        }
    }

    /// Whether an agent has no stream, and was silent for [`STATES_AWAY_MIN`] while the store was open: whoever only changes
    /// its connection is not away, and after a start everybody has that time to come back.
    pub(super) fn is_away(&self, agent: &str, held: &Agent, now: Instant) -> bool {
        let since = held.heard_at.unwrap_or(self.opened);
        !self.is_here(agent) && now.saturating_duration_since(since) >= STATES_AWAY_MIN
    }

    // === rows ===

    /// Holds a row in the place of the one before.
    pub(super) fn put(&mut self, resource: Arc<Resource>, row: Row) {
        self.take(&resource);
        let agent = self.agents.entry(resource.agent.clone()).or_default();
        agent.tally.change(&resource.kind, None, Some(&row));
        agent.rows += 1;
        self.totals.change(None, Some(&row));
        self.version = self.version.max(row.version);
        self.by_version.insert(row.version, Arc::clone(&resource));
        if !row.is_live() {
            self.tombstones.insert(row.version);
        }
        if let Some(at) = row.expires {
            self.deadlines.insert((at, Arc::clone(&resource)));
        }
        self.rows.insert(resource, row);
    }

    /// Forgets a row; its agent stays, for a row may follow at once.
    pub(super) fn take(&mut self, resource: &Arc<Resource>) {
        let Some(row) = self.rows.remove(resource) else { return };
        self.totals.change(Some(&row), None);
        self.by_version.remove(&row.version);
        self.tombstones.remove(&row.version);
        if let Some(at) = row.expires {
            self.deadlines.remove(&(at, Arc::clone(resource)));
        }
        if let Some(agent) = self.agents.get_mut(&resource.agent) {
            agent.tally.change(&resource.kind, Some(&row), None);
            agent.rows = agent.rows.saturating_sub(1);
        }
    }

    /// Forgets those of these agents that have no rows.
    pub(super) fn sweep(&mut self, agents: impl IntoIterator<Item = String>) {
        for agent in agents {
            if self.agents.get(&agent).is_some_and(|agent| agent.rows == 0) {
                self.agents.remove(&agent);
            }
        }
    }

    /// The resource of a version.
    pub(super) fn resource_at(&self, version: u64) -> Option<&Arc<Resource>> {
        self.by_version.get(&version)
    }

    /// Resources whose time has run out.
    pub(in crate::state) fn due(&self, now: Instant) -> Vec<Arc<Resource>> {
        let due = self.deadlines.iter().take_while(|(at, _)| *at <= now);
        due.take(SCAN_ROWS_MAX).map(|(_, resource)| Arc::clone(resource)).collect()
    }

    /// When the next runs out.
    pub(in crate::state) fn due_next(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// The rows of an agent, of one kind where one is said.
    pub(super) fn of_agent<'a>(
        &'a self,
        agent: &'a str,
        kind: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<Resource>, &'a Row)> {
        let from = Resource { agent: agent.to_owned(), kind: kind.to_owned(), key: String::new() };
        let rows = self.rows.range(Arc::new(from)..);
        rows.take_while(move |(resource, _)| {
            resource.agent == agent && (kind.is_empty() || resource.kind == kind)
        })
    }

    /// Digests over the live states of an agent. Where they are being given up the digest is empty, which no agent has: it says
    /// them again, whether that reaches the disk or not.
    pub(in crate::state) fn known(&self, agent: &str) -> Vec<KindDigest> {
        let is_going = self.giving_up.contains(agent);
        let kinds = self.agents.get(agent).into_iter().flat_map(|held| held.tally.kinds.keys());
        let digests = kinds.map(|kind| {
            let live = self.of_agent(agent, kind).filter(|(_, row)| row.is_live());
            let known = digest(kind, live.map(|(resource, row)| (resource.key.as_str(), row.order)));
            if is_going { KindDigest { digest: Vec::new(), ..known } } else { known }
        });
        digests.collect()
    }

    /// Rows above `position` and up to `upto` in the order of their versions, at most so many and about so many bytes;
    /// tombstones where `with_gone`.
    pub(super) fn page(
        &self,
        keep: &dyn Keep,
        (position, upto): (u64, u64),
        filter: &Filter,
        with_gone: bool,
        (states_max, bytes_max): (usize, usize),
    ) -> Page {
        let mut page = Page { facts: Vec::new(), upto };
        let mut bytes = 0;
        if position >= upto {
            return page;
        }
        for (looked, (version, resource)) in self.by_version.range(position + 1..=upto).enumerate() {
            if page.facts.len() >= states_max || bytes >= bytes_max || looked >= SCAN_ROWS_MAX {
                page.upto = version - 1;
                return page;
            }
            if filter.fits(resource) {
                // A row whose next version is durable already is shown with that.
                let fact = self.fact(keep, resource).filter(|fact| fact.version == *version);
                let fact = fact.filter(|fact| with_gone || fact.standing == Standing::Live);
                bytes += fact.as_ref().map_or(0, Fact::bytes);
                page.facts.extend(fact);
            }
        }
        page
    }

    /// Live states in the order of their names after one, at most so many and about so many bytes; and the last name that
    /// was looked at, where there may be more.
    pub(super) fn list(
        &self,
        keep: &dyn Keep,
        filter: &Filter,
        after: Option<Resource>,
        (states_max, bytes_max): (usize, usize),
    ) -> (Vec<Fact>, Option<Resource>) {
        let first = Resource { agent: filter.agent.clone(), ..Resource::default() };
        let from = after.map_or(Bound::Included(Arc::new(first)), |after| Bound::Excluded(Arc::new(after)));
        let mut facts = Vec::new();
        let mut bytes = 0;
        let mut last: Option<&Arc<Resource>> = None;
        for (looked, (resource, row)) in self.rows.range((from, Bound::Unbounded)).enumerate() {
            if !filter.agent.is_empty() && resource.agent != filter.agent {
                break;
            }
            if facts.len() >= states_max || bytes >= bytes_max || looked >= SCAN_ROWS_MAX {
                return (facts, last.map(|last| Resource::clone(last)));
            }
            last = Some(resource);
            if row.is_live() && filter.fits(resource) {
                let fact = self.fact(keep, resource).filter(|fact| fact.standing == Standing::Live);
                bytes += fact.as_ref().map_or(0, Fact::bytes);
                facts.extend(fact);
            }
        }
        (facts, None)
    }

    /// The order of the row of a resource.
    #[cfg(test)]
    pub(in crate::state) fn order_of(&self, agent: &str, kind: &str, key: &str) -> Option<(u128, u64)> {
        let resource = Resource { agent: agent.to_owned(), kind: kind.to_owned(), key: key.to_owned() };
        self.rows.get(&resource).map(|row| (row.order.incarnation, row.order.revision))
    }

    /// All rows of an agent.
    #[cfg(test)]
    pub(in crate::state) fn all_of(&self, keep: &dyn Keep, agent: &str) -> Vec<Fact> {
        self.of_agent(agent, "").filter_map(|(resource, _)| self.fact(keep, resource)).collect()
    }

    fn fact(&self, keep: &dyn Keep, resource: &Resource) -> Option<Fact> {
        let row = keep.get(&resource.row_key())?;
        // Nobody asks this copy when it expires.
        let (row, value) = Row::read(resource, &row, Instant::now())?;
        Some(Fact {
            agent: resource.agent.clone(),
            kind: resource.kind.clone(),
            key: resource.key.clone(),
            value: value.to_vec(),
            standing: row.standing,
            incarnation: row.order.incarnation,
            revision: row.order.revision,
            version: row.version,
        })
    }
}
