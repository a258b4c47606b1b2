//! From what agents say to changes: what is newer is stored, what is older is answered, what is missing where everything was
//! listed expires.
//!
//! Invariant: nothing is forgotten because something was not said, but by an inventory that is complete, not empty, and of a
//! newer epoch than the state (`facts/reliability.md` 1.4, 20).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_proto::weir::link::v1::{Inventory, State, StateAck, StateDown, Want, state_down};

use crate::limits::{
    AGENTS_MAX, INVENTORY_KEYS_MAX, KINDS_MAX, STATE_VALUE_BYTES_MAX, STATES_AWAY_MIN, STATES_BYTES_MAX,
    STATES_MAX, STORE_BYTES_MAX, STORE_STATES_MAX, STORE_TOMBSTONES_MAX,
};
use crate::names::{from_wire, to_wire};
use crate::state::keep::Change;
use crate::state::resource::{Order, check};

use super::row::{Resource, Row, Standing, check_agent, expires, header};
use super::table::{Gather, Table, Tally, Totals};

/// Incarnation and epoch of an agent's stream.
pub(in crate::state) type Epoch = (u128, u64);

/// Changes on their way to the disk.
#[derive(Debug)]
pub(in crate::state) struct Staged {
    /// Rows as they will be, with their values.
    puts: BTreeMap<Arc<Resource>, (Row, Vec<u8>)>,
    tallies: HashMap<String, Tally>,
    totals: Totals,
    version: u64,
    floor: u64,
    /// Tombstones that are dropped.
    drops: Vec<Arc<Resource>>,
    pub(in crate::state) counted: Counted,
    /// Agents whose states made room, and how many each had.
    pub(in crate::state) evicted: Vec<(String, u64)>,
    /// Agents all of whose states go, for room or because they are forgotten.
    given_up: BTreeSet<String>,
    now: Instant,
}

/// What is counted once it is durable.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(in crate::state) struct Counted {
    pub(in crate::state) stored: u64,
    pub(in crate::state) old: u64,
    pub(in crate::state) rejected: u64,
    pub(in crate::state) expired_ttl: u64,
    pub(in crate::state) expired_inventory: u64,
    pub(in crate::state) forgotten: u64,
    pub(in crate::state) evicted: u64,
    pub(in crate::state) misbehaved: u64,
}

impl Table {
    /// An empty group of changes. There is one at a time: it is applied, or dropped, before the next.
    pub(in crate::state) fn staged(&self, now: Instant) -> Staged {
        Staged {
            puts: BTreeMap::new(),
            tallies: HashMap::new(),
            totals: self.totals,
            version: self.version,
            floor: self.floor,
            drops: Vec::new(),
            counted: Counted::default(),
            evicted: Vec::new(),
            given_up: BTreeSet::new(),
            now,
        }
    }

    /// Takes a state: the answer is to be sent when the changes are durable.
    pub(in crate::state) fn stage_state(
        &mut self,
        staged: &mut Staged,
        agent: &str,
        epoch: Epoch,
        state: State,
    ) -> StateDown {
        self.heard(agent, staged.now);
        let incarnation = from_wire(&state.incarnation);
        let order = Order { incarnation: incarnation.unwrap_or_default(), revision: state.revision };
        let named = check_agent(agent).and_then(|()| check(&state.kind, &state.key));
        let valid =
            named.and_then(|()| incarnation.map(drop).ok_or("its incarnation has not 16 bytes".to_owned()));
        let resource = Arc::new(Resource { agent: agent.to_owned(), kind: state.kind, key: state.key });
        if let Err(why) = valid {
            staged.counted.rejected += 1;
            return answer(&resource, order, why);
        }
        if let Some(before) = staged.row(self, &resource).filter(|row| !is_news(order, row)) {
            let order = before.order;
            staged.counted.old += 1;
            return answer(&resource, order, String::new());
        }
        let value = if state.deleted { Vec::new() } else { state.value };
        let ttl = Duration::from_millis(state.ttl_ms);
        let standing = if state.deleted { Standing::Deleted } else { Standing::Live };
        let row = Row {
            version: 0,
            order,
            epoch,
            standing,
            ttl,
            expires: expires(standing, ttl, staged.now),
            bytes: resource.bytes() + value.len(),
            gather: 0,
        };
        if let Err(why) = self.admit(staged, &resource, &row, value.len()) {
            staged.counted.rejected += 1;
            return answer(&resource, order, why);
        }
        staged.put(self, Arc::clone(&resource), row, value);
        staged.counted.stored += 1;
        answer(&resource, order, String::new())
    }

    /// Takes a part of an inventory, alone in its group: says what is missing here, and lets go of what is missing there.
    pub(in crate::state) fn stage_inventory(
        &mut self,
        staged: &mut Staged,
        agent: &str,
        epoch: Epoch,
        part: Inventory,
    ) -> Option<StateDown> {
        self.heard(agent, staged.now);
        // Any key will do: it is the kind that is looked at.
        if check(&part.kind, "k").is_err() || part.keys.len() > INVENTORY_KEYS_MAX {
            staged.counted.misbehaved += 1;
            self.gathered(agent, None);
            return None;
        }
        let mut gather = self.gather(agent, epoch, &part);
        let mut wanted = Vec::new();
        for listed in part.keys {
            let Some(incarnation) = from_wire(&listed.incarnation) else { continue };
            let order = Order { incarnation, revision: listed.revision };
            let resource = Resource { agent: agent.to_owned(), kind: part.kind.clone(), key: listed.key };
            let row = self.rows.get_mut(&resource);
            let is_wanted = match &row {
                Some(row) => is_news(order, row),
                None => !listed.deleted && check(&resource.kind, &resource.key).is_ok(),
            };
            if let Some(gather) = &mut gather {
                gather.live += usize::from(!listed.deleted);
                row.into_iter().for_each(|row| row.gather = gather.id);
            }
            if is_wanted {
                wanted.push(resource.key);
            }
        }
        if part.complete
            && let Some(gather) = gather.take()
        {
            self.expire_unlisted(staged, agent, &gather);
        }
        self.gathered(agent, gather);
        let want = Want { kind: part.kind, keys: wanted };
        (!want.keys.is_empty()).then_some(StateDown { message: Some(state_down::Message::Want(want)) })
    }

    /// The inventory that a part belongs to; none where its first part was not seen.
    fn gather(&mut self, agent: &str, epoch: Epoch, part: &Inventory) -> Option<Gather> {
        let held = self.agents.get_mut(agent)?;
        if part.first {
            self.gathers += 1;
            return Some(Gather { id: self.gathers, kind: part.kind.clone(), epoch, live: 0 });
        }
        held.gather.take().filter(|gather| gather.kind == part.kind && gather.epoch == epoch)
    }

    fn gathered(&mut self, agent: &str, gather: Option<Gather>) {
        if let Some(agent) = self.agents.get_mut(agent) {
            agent.gather = gather;
        }
    }

    fn expire_unlisted(&mut self, staged: &mut Staged, agent: &str, gather: &Gather) {
        // An agent that has nothing of a kind may have lost it: that is no reason to forget it here.
        if gather.live == 0 {
            return;
        }
        let is_unlisted = |row: &Row| row.is_live() && row.gather != gather.id && gather.epoch > row.epoch;
        let rows = self.of_agent(agent, &gather.kind).filter(|(_, row)| is_unlisted(row));
        let unlisted: Vec<Arc<Resource>> = rows.map(|(resource, _)| Arc::clone(resource)).collect();
        staged.counted.expired_inventory += unlisted.len() as u64;
        unlisted.iter().for_each(|resource| staged.expire(self, resource));
    }

    /// Lets go of what has run out.
    pub(in crate::state) fn stage_due(&self, staged: &mut Staged, due: &[Arc<Resource>]) {
        staged.counted.expired_ttl += due.len() as u64;
        due.iter().for_each(|resource| staged.expire(self, resource));
    }

    /// Lets go of all states of an agent that is not remembered any more. One that has a live stream is: another door of this
    /// process remembers it.
    pub(in crate::state) fn stage_forget(&self, staged: &mut Staged, agent: &str) {
        if !self.is_here(agent) {
            staged.counted.forgotten += self.expire_all(staged, agent);
        }
    }

    /// Lets go of all states of an agent; says how many there were.
    fn expire_all(&self, staged: &mut Staged, agent: &str) -> u64 {
        let before = staged.tally(self, agent).totals.live;
        let live = self.of_agent(agent, "").filter(|(_, row)| row.is_live());
        live.for_each(|(resource, _)| staged.expire(self, resource));
        staged.given_up.insert(agent.to_owned());
        (before - staged.tally(self, agent).totals.live) as u64
    }

    /// The changes of a group, to be applied or abandoned. The oldest tombstones go where there are too many.
    pub(in crate::state) fn changes(&mut self, staged: &mut Staged) -> Vec<Change> {
        self.giving_up = std::mem::take(&mut staged.given_up);
        let gone = staged.puts.values().filter(|(row, _)| !row.is_live()).count();
        if self.tombstones.len() + gone > STORE_TOMBSTONES_MAX {
            let versions = self.tombstones.iter().copied();
            let kept: Vec<u64> = versions.filter(|version| !staged.replaces(self, *version)).collect();
            let excess = (kept.len() + gone).saturating_sub(STORE_TOMBSTONES_MAX);
            for version in kept.into_iter().take(excess) {
                staged.floor = staged.floor.max(version);
                staged.drops.extend(self.resource_at(version).map(Arc::clone));
            }
        }
        let puts = staged.puts.iter().map(|(resource, (row, value))| row.change(resource, value));
        let drops = staged.drops.iter().map(|resource| (resource.row_key(), None));
        let moved = (staged.floor != self.floor).then(|| header(self.id, staged.floor));
        puts.chain(drops).chain(moved).collect()
    }

    /// The changes of a group did not become durable.
    pub(in crate::state) fn abandon(&mut self) {
        self.giving_up.clear();
    }

    /// Holds what has become durable.
    pub(in crate::state) fn apply(&mut self, staged: Staged) {
        self.giving_up.clear();
        let mut agents: Vec<String> = Vec::new();
        for (resource, (row, _)) in staged.puts {
            let is_new = !self.agents.contains_key(&resource.agent);
            let agent = resource.agent.clone();
            self.put(resource, row);
            if is_new {
                self.heard(&agent, staged.now);
            }
            agents.push(agent);
        }
        for resource in staged.drops {
            self.take(&resource);
            agents.push(resource.agent.clone());
        }
        self.floor = staged.floor;
        self.version = self.version.max(staged.version);
        self.sweep(agents);
    }

    /// Whether a state has room. What agents that are away have left makes room for it, of those first that were silent longest;
    /// where that does not suffice nothing of them is given up.
    fn admit(
        &self,
        staged: &mut Staged,
        resource: &Resource,
        row: &Row,
        value_bytes: usize,
    ) -> Result<(), String> {
        if !row.is_live() {
            return Ok(());
        }
        if value_bytes > STATE_VALUE_BYTES_MAX {
            return Err(format!("its value has {value_bytes} bytes, {STATE_VALUE_BYTES_MAX} are allowed"));
        }
        let before = staged.row(self, resource).cloned();
        let before = before.as_ref();
        // What does not grow is taken whatever there is.
        if before.is_some_and(|before| before.is_live() && before.bytes >= row.bytes) {
            return Ok(());
        }
        let mut tally = staged.tally(self, &resource.agent).clone();
        tally.change(&resource.kind, before, Some(row));
        let cure = "remove states that are no longer needed";
        if tally.kinds.len() > KINDS_MAX {
            return Err(format!("the agent has states of {KINDS_MAX} kinds already: {cure}"));
        }
        if tally.totals.live > STATES_MAX {
            return Err(format!("the agent has {STATES_MAX} states already: {cure}"));
        }
        if tally.totals.bytes > STATES_BYTES_MAX {
            return Err(format!("the agent has {STATES_BYTES_MAX} bytes of states already: {cure}"));
        }
        let mut totals = staged.totals;
        totals.change(before, Some(row));
        for away in self.room(staged, &resource.agent, totals)? {
            self.evict(staged, away);
        }
        Ok(())
    }

    /// Agents whose states have to go where `totals` are to be stored, some of them of `agent`.
    fn room(&self, staged: &Staged, agent: &str, mut totals: Totals) -> Result<Vec<&String>, String> {
        let mut gone = Vec::new();
        let mut away: Option<Vec<&String>> = None;
        let has_seat = staged.live(self, agent).live > 0 || self.has_seat(staged);
        loop {
            let is_seated = has_seat || !gone.is_empty();
            if is_seated && totals.live <= STORE_STATES_MAX && totals.bytes <= STORE_BYTES_MAX {
                return Ok(gone);
            }
            let away = away.get_or_insert_with(|| self.away(staged, agent));
            let Some(oldest) = away.pop() else {
                let minutes = STATES_AWAY_MIN.as_secs() / 60;
                let whose = format!("agents that are connected, or were within {minutes} minutes");
                return Err(if is_seated {
                    format!(
                        "the collector has {STORE_STATES_MAX} states or {STORE_BYTES_MAX} bytes of them already, too many of them of {whose}: remove states that are no longer needed, at any agent, or share the agents among collectors"
                    )
                } else {
                    format!(
                        "the collector has states of {AGENTS_MAX} agents already, all of them {whose}: share the agents among collectors"
                    )
                });
            };
            totals.less(staged.live(self, oldest));
            gone.push(oldest);
        }
    }

    /// Whether one more agent may have states.
    fn has_seat(&self, staged: &Staged) -> bool {
        if self.agents.len() + staged.tallies.len() < AGENTS_MAX {
            return true;
        }
        let others = self.agents.iter().filter(|(name, _)| !staged.tallies.contains_key(*name));
        let tallies = others.map(|(_, held)| &held.tally).chain(staged.tallies.values());
        tallies.filter(|tally| tally.totals.live > 0).count() < AGENTS_MAX
    }

    /// Agents that are away and have states, but `agent`: whoever was silent longest is the last.
    fn away(&self, staged: &Staged, agent: &str) -> Vec<&String> {
        let others = self.agents.iter().filter(|(name, held)| {
            *name != agent && self.is_away(name, held, staged.now) && staged.live(self, name).live > 0
        });
        let mut others: Vec<(u64, &String)> = others.map(|(name, held)| (held.heard, name)).collect();
        others.sort_unstable_by(|a, b| b.cmp(a));
        others.into_iter().map(|(_, name)| name).collect()
    }

    /// Gives up the states of an agent that is away for those of others. It says them again when it comes back.
    fn evict(&self, staged: &mut Staged, agent: &str) {
        let states = self.expire_all(staged, agent);
        staged.counted.evicted += states;
        staged.evicted.push((agent.to_owned(), states));
    }
}

impl Staged {
    /// A row as it will be.
    fn row<'a>(&'a self, table: &'a Table, resource: &Resource) -> Option<&'a Row> {
        self.puts.get(resource).map(|(row, _)| row).or_else(|| table.rows.get(resource))
    }

    /// What an agent will have.
    fn live(&self, table: &Table, agent: &str) -> Totals {
        let held = || table.agents.get(agent).map(|held| &held.tally);
        self.tallies.get(agent).or_else(held).map_or_else(Totals::default, |tally| tally.totals)
    }

    fn tally(&mut self, table: &Table, agent: &str) -> &mut Tally {
        let held = || table.agents.get(agent).map(|agent| agent.tally.clone()).unwrap_or_default();
        self.tallies.entry(agent.to_owned()).or_insert_with(held)
    }

    fn put(&mut self, table: &Table, resource: Arc<Resource>, mut row: Row, value: Vec<u8>) {
        self.version += 1;
        row.version = self.version;
        let before = self.row(table, &resource).cloned();
        self.totals.change(before.as_ref(), Some(&row));
        self.tally(table, &resource.agent).change(&resource.kind, before.as_ref(), Some(&row));
        self.puts.insert(resource, (row, value));
    }

    /// A live row becomes a tombstone that a state of the same order may bring back.
    fn expire(&mut self, table: &Table, resource: &Arc<Resource>) {
        let Some(row) = self.row(table, resource).filter(|row| row.is_live()) else { return };
        let gone = Row {
            standing: Standing::Expired,
            expires: None,
            ttl: Duration::ZERO,
            bytes: resource.bytes(),
            ..row.clone()
        };
        self.put(table, Arc::clone(resource), gone, Vec::new());
    }

    /// Whether the row of this version gets another.
    fn replaces(&self, table: &Table, version: u64) -> bool {
        table.resource_at(version).is_some_and(|resource| self.puts.contains_key(resource))
    }
}

/// Whether a state of this order says something that a row does not.
fn is_news(order: Order, row: &Row) -> bool {
    order > row.order || (order == row.order && row.standing == Standing::Expired)
}

fn answer(resource: &Resource, order: Order, rejected: String) -> StateDown {
    let answer = StateAck {
        kind: resource.kind.clone(),
        key: resource.key.clone(),
        incarnation: to_wire(order.incarnation),
        revision: order.revision,
        rejected,
    };
    StateDown { message: Some(state_down::Message::Ack(answer)) }
}
