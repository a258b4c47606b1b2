//! Outbox and store under seeds: reports, cuts, lost messages, and crashes of either at any point of a commit.
//!
//! What each holds durably survives; everything else is gone with a crash. `WEIR_SEEDS` says how many seeds are run,
//! `WEIR_SEED` with which to begin; a failure names its seed.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use weir_proto::weir::link::v1::{StateDown, StateUp, state_down, state_up};

use crate::names::from_wire;

use super::keep::{Keep as _, Volatile};
use super::outbox::{Desk, Name, Report, Settled};
use super::store::{Epoch, Fact, Standing, Table};

const AGENT: &str = "agent";
const SEEDS: u64 = 200;
/// Events of one seed.
const STEPS: usize = 400;
/// Within so many messages a healed link has said everything.
const HEALED_STEPS: usize = 10_000;

/// A report that became durable: its order, and what it said.
type Said = ((u128, u64), Option<Vec<u8>>);

struct World {
    random: fastrand::Rng,
    now: Instant,
    agent: Volatile,
    desk: Desk,
    epoch: Epoch,
    collector: Volatile,
    table: Table,
    up: VecDeque<StateUp>,
    down: VecDeque<StateDown>,
    is_connected: bool,
    loses: bool,
    /// What the agent promised to keep: the newest of each resource, and everything that was ever said.
    newest: BTreeMap<(String, String), Said>,
    history: HashMap<(String, String, u128, u64), Option<Vec<u8>>>,
    /// The highest order that the collector was seen to have.
    seen: BTreeMap<(String, String), (u128, u64)>,
    values: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let now = Instant::now();
        let (agent, collector) = (Volatile::default(), Volatile::default());
        let desk = Desk::load(&agent, 1, true, seed, now).0;
        let table = Table::load(&collector, 1, now).0;
        Self {
            random: fastrand::Rng::with_seed(seed),
            now,
            agent,
            desk,
            epoch: (1, 1),
            collector,
            table,
            up: VecDeque::new(),
            down: VecDeque::new(),
            is_connected: false,
            loses: true,
            newest: BTreeMap::new(),
            history: HashMap::new(),
            seen: BTreeMap::new(),
            values: 0,
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.loses && self.random.u32(..100) < percent
    }

    fn step(&mut self) {
        match self.random.u32(..100) {
            0..25 => self.report(),
            25..50 => self.send(),
            50..72 => self.collect(),
            72..88 => self.answer(),
            88..92 if !self.is_connected => self.connect(),
            88..92 => self.now += Duration::from_millis(self.random.u64(..90_000)),
            92..95 => self.cut(),
            95..97 => self.crash_agent(),
            97..99 => self.crash_collector(),
            _ => self.connect(),
        }
    }

    fn report(&mut self) {
        let count = self.random.usize(1..5);
        let reports: Vec<Report> = (0..count).map(|_| self.one()).collect();
        let names = reports.clone();
        let mut staged = self.desk.stage(reports);
        if self.chance(4) {
            return self.crash_agent();
        }
        self.agent.commit(std::mem::take(&mut staged.changes)).unwrap();
        for (report, answer) in names.into_iter().zip(&staged.answers) {
            let revision = *answer.as_ref().unwrap();
            let Name { kind, key } = report.name;
            let order = (self.desk.incarnation(), revision);
            self.history.insert((kind.clone(), key.clone(), order.0, order.1), report.value.clone());
            self.newest.insert((kind, key), (order, report.value));
        }
        if self.chance(4) {
            return self.crash_agent();
        }
        self.desk.apply(staged, self.now);
    }

    fn one(&mut self) -> Report {
        self.values += 1;
        let name = Name {
            kind: format!("kind{}", self.random.u32(..3)),
            key: format!("key{}", self.random.u32(..5)),
        };
        let value = (self.random.u32(..4) > 0).then(|| self.values.to_be_bytes().to_vec());
        Report { name, value, ttl: Duration::ZERO }
    }

    fn connect(&mut self) {
        self.cut();
        self.is_connected = true;
        self.desk.welcomed(&self.table.known(AGENT), true, self.now);
    }

    fn cut(&mut self) {
        self.up.clear();
        self.down.clear();
        self.is_connected = false;
        self.desk.broken();
    }

    fn crash_agent(&mut self) {
        self.cut();
        self.epoch.1 += 1;
        let seed = self.random.u64(..);
        self.desk = Desk::load(&self.agent, 1, true, seed, self.now).0;
    }

    fn crash_collector(&mut self) {
        self.cut();
        self.table = Table::load(&self.collector, 1, self.now).0;
    }

    fn send(&mut self) {
        let Some(message) = self.desk.next(self.now) else { return };
        assert!(self.is_connected, "nothing is said into a cut");
        // A part of an inventory goes with its stream only, never alone.
        let is_lost = matches!(message.message, Some(state_up::Message::Value(_))) && self.chance(5);
        if !is_lost {
            self.up.push_back(message);
        }
    }

    fn collect(&mut self) {
        let Some(message) = self.up.pop_front() else { return };
        let mut staged = self.table.staged(self.now);
        let answer = match message.message.unwrap() {
            state_up::Message::Value(state) => {
                Some(self.table.stage_state(&mut staged, AGENT, self.epoch, state))
            }
            state_up::Message::Inventory(part) => {
                self.table.stage_inventory(&mut staged, AGENT, self.epoch, part)
            }
        };
        let changes = self.table.changes(&mut staged);
        if self.chance(3) {
            return self.crash_collector();
        }
        self.collector.commit(changes).unwrap();
        if self.chance(3) {
            self.crash_collector();
            return self.inspect();
        }
        self.table.apply(staged);
        self.inspect();
        if !self.chance(5) {
            self.down.extend(answer);
        }
    }

    fn answer(&mut self) {
        let Some(message) = self.down.pop_front() else { return };
        if let Some(state_down::Message::Ack(answer)) = &message.message {
            assert_eq!(answer.rejected, "", "there is room for all");
            let order = (from_wire(&answer.incarnation).unwrap(), answer.revision);
            let durable = Table::load(&self.collector, 1, self.now).0;
            let held = durable.order_of(AGENT, &answer.kind, &answer.key);
            assert!(held.is_some_and(|held| held >= order), "{answer:?} was answered and is not on disk");
        }
        let settled = self.desk.received(message);
        assert!(!matches!(settled, Some(Settled::Behind(_))), "there is one folder: {settled:?}");
    }

    /// What must hold at each moment.
    fn inspect(&mut self) {
        for fact in self.table.all_of(&self.collector, AGENT) {
            let Fact { kind, key, value, standing, .. } = fact;
            let order = (fact.incarnation, fact.revision);
            let name = (kind.clone(), key.clone());
            let before = self.seen.insert(name.clone(), order).unwrap_or_default();
            assert!(before <= order, "{name:?} went back from {before:?} to {order:?}");
            let said = self.history.get(&(kind, key, order.0, order.1)).expect("nothing is invented");
            match standing {
                Standing::Live => assert_eq!(said.as_ref(), Some(&value), "{name:?} is as it was said"),
                Standing::Deleted => assert_eq!(said, &None, "{name:?} was said to be gone"),
                Standing::Expired => {
                    let (newest, value) = &self.newest[&name];
                    assert!(
                        *newest != order || value.is_none(),
                        "{name:?} is alive at the agent and has expired"
                    );
                }
            }
        }
    }

    /// The link works: everything is said, and both have the same.
    fn heal(&mut self) {
        self.loses = false;
        self.connect();
        for _ in 0..HEALED_STEPS {
            self.send();
            self.collect();
            self.answer();
            if self.up.is_empty() && self.down.is_empty() && self.desk.unacknowledged() == 0 {
                break;
            }
        }
        assert_eq!(self.desk.unacknowledged(), 0, "what is owed is said");
        let all = self.table.all_of(&self.collector, AGENT).into_iter();
        let held: BTreeMap<_, _> = all
            .filter(|fact| fact.standing == Standing::Live)
            .map(|fact| ((fact.kind, fact.key), ((fact.incarnation, fact.revision), Some(fact.value))))
            .collect();
        let owed: BTreeMap<_, _> = self
            .newest
            .iter()
            .filter(|(_, (_, value))| value.is_some())
            .map(|(n, s)| (n.clone(), s.clone()))
            .collect();
        assert_eq!(held, owed, "both have the same");
    }
}

fn seeds() -> std::ops::Range<u64> {
    let number =
        |name: &str, default| std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default);
    let first: u64 = number("WEIR_SEED", 1);
    first..first + number("WEIR_SEEDS", SEEDS)
}

/// Scenario: for each seed some hundred reports, messages, losses, cuts and crashes of both ends in the middle of commits; then
/// the link heals.
/// Guarantees: no resource goes back; nothing is invented; nothing that the agent has expires; an answer is for what is on
/// disk; at the end both have the same resources with the newest values, what was created and what was deleted.
#[test]
fn whatever_is_cut_the_collector_gets_the_newest_of_each_resource() {
    for seed in seeds() {
        let run = std::panic::catch_unwind(|| {
            let mut world = World::new(seed);
            (0..STEPS).for_each(|_| world.step());
            world.heal();
            world.crash_collector();
            world.crash_agent();
            world.heal();
        });
        assert!(run.is_ok(), "seed {seed} (WEIR_SEED={seed} WEIR_SEEDS=1)");
    }
}

/// Scenario: fifty keys change each second for a day while the collector is away; then it is back.
/// Guarantees: what is held does not grow with the day, and there is one message for each key, with its newest value
/// (`facts/reliability.md` 1.4, 22).
#[test]
fn a_day_without_a_collector_costs_one_message_for_each_key() {
    const KEYS: usize = 50;
    let mut world = World::new(7);
    world.loses = false;
    let mut held = Vec::new();
    for second in 0..86_400_u64 {
        let report = |key: usize| Report {
            name: Name { kind: "app".to_owned(), key: format!("key{key:02}") },
            value: Some(second.to_be_bytes().to_vec()),
            ttl: Duration::ZERO,
        };
        let mut staged = world.desk.stage((0..KEYS).map(report).collect());
        world.agent.commit(std::mem::take(&mut staged.changes)).unwrap();
        world.now += Duration::from_secs(1);
        world.desk.apply(staged, world.now);
        if second % 3_600 == 0 {
            held.push((world.desk.held(), world.desk.bytes(), world.agent.scan(b"").len()));
        }
    }
    assert!(held.iter().all(|one| *one == held[0]), "{held:?}");
    world.connect();
    let mut sent: BTreeMap<String, Vec<Vec<u8>>> = BTreeMap::new();
    loop {
        world.send();
        if let Some(StateUp { message: Some(state_up::Message::Value(state)) }) = world.up.front() {
            sent.entry(state.key.clone()).or_default().push(state.value.clone());
        }
        if world.up.is_empty() && world.down.is_empty() {
            break;
        }
        let mut staged = world.table.staged(world.now);
        match world.up.pop_front().and_then(|message| message.message) {
            Some(state_up::Message::Value(state)) => {
                world.down.push_back(world.table.stage_state(&mut staged, AGENT, world.epoch, state));
            }
            Some(state_up::Message::Inventory(part)) => {
                world.down.extend(world.table.stage_inventory(&mut staged, AGENT, world.epoch, part));
            }
            None => {}
        }
        let changes = world.table.changes(&mut staged);
        world.collector.commit(changes).unwrap();
        world.table.apply(staged);
        world.answer();
    }
    assert_eq!(sent.len(), KEYS);
    assert!(sent.values().all(|values| *values == [86_399_u64.to_be_bytes().to_vec()]), "{sent:?}");
    assert_eq!(world.desk.unacknowledged(), 0);
}

/// Scenario: the simulation runs against a store that takes whatever comes, older states too.
/// Guarantees: it notices.
#[test]
fn a_state_that_goes_back_is_noticed() {
    let went_back = std::panic::catch_unwind(|| {
        let mut world = World::new(1);
        world.seen.insert(("kind0".to_owned(), "key0".to_owned()), (u128::MAX, 0));
        for _ in 0..STEPS {
            world.step();
        }
    });
    assert!(went_back.is_err());
}
