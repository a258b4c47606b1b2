//! Everybody, the wires between them, and what goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};

use weir_link::agent::session::{Ended, Outgoing};
use weir_link::collector::End;
use weir_link::limits::{DRAIN_MAX, HELLO_TIMEOUT, RECONNECT_INTERVAL};
use weir_proto::weir::link::v1::agent_message::Message as Up;
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::{CollectorMessage, Heartbeat, Leaving};

use super::Totals;
use super::agent::{self, Folder, LANES_USED, LOGS, is_fickle, is_poison};
use super::collector::{self, Disk, Offer};
use super::wire::{Found, Wire};

const AGENTS: usize = 3;

/// The longest moment in which nothing is looked at.
const MOMENT_MAX: u64 = 400;

/// Messages that an agent's writer takes in a moment.
const WRITES_MAX: usize = 16;

/// The longest that something stands still or is away.
const STANDS_MAX: Duration = Duration::from_secs(120);
const AWAY_MAX: Duration = Duration::from_secs(20);

/// What both ends keep to; a control breaks one of them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    /// It looks at its marks.
    pub(super) deduplicates: bool,
    /// Marks are in the transaction of the records.
    pub(super) marks_at_once: bool,
    /// It acknowledges what is stored.
    pub(super) stores_first: bool,
    /// It has on disk what it refused before it says so.
    pub(super) remembers_rejections: bool,
    /// An agent has on disk what was refused before it settles that.
    pub(super) agents_remember: bool,
}

impl Default for Rules {
    fn default() -> Self {
        Self {
            deduplicates: true,
            marks_at_once: true,
            stores_first: true,
            remembers_rejections: true,
            agents_remember: true,
        }
    }
}

/// An agent: its folder, and its process while it runs.
struct Agent {
    folder: Folder,
    process: Option<agent::Process>,
    /// When it starts, where it does not run.
    starts_at: Instant,
    /// No packet passes between it and the collector before.
    parted_until: Instant,
}

pub(super) struct World {
    random: fastrand::Rng,
    pub(super) now: Instant,
    pub(super) heartbeat: Duration,
    rules: Rules,
    offer: Offer,
    agents: Vec<Agent>,
    wires: BTreeMap<u64, Wire>,
    disk: Disk,
    collector: Option<collector::Process>,
    collector_starts_at: Instant,
    draining_since: Option<Instant>,
    /// One more for each thing that needs a number.
    numbers: u64,
    payloads: u64,
    /// Payloads that an agent was told are safe.
    acknowledged: BTreeSet<u64>,
    /// Agents that were welcome since nothing goes wrong.
    welcome: BTreeSet<usize>,
    is_healed: bool,
    deaths: [u64; 2],
    faults: u64,
    /// How long it took after the last fault until everybody was welcome.
    pub(super) longest: Duration,
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { agents, wires, collector, disk, .. } = self;
        let of = |agent: &Agent| {
            let left: Vec<_> =
                agent.folder.logs.iter().map(|log| log.records.len() - log.settled.len()).collect();
            format!("{left:?} left, {:?}", agent.process.as_ref().map(|process| &process.session))
        };
        let agents: Vec<_> = agents.iter().map(of).collect();
        let log = disk.log.len();
        write!(f, "agents {agents:#?}, wires {wires:#?}, collector {collector:#?}, {log} records there")
    }
}

// === impl World: what goes wrong ===

impl World {
    pub(super) fn new(seed: u64, rules: Rules) -> Self {
        let now = Instant::now();
        let mut random = fastrand::Rng::with_seed(seed);
        let agent =
            |number| Agent { folder: Folder::new(number), process: None, starts_at: now, parted_until: now };
        let heartbeat = Duration::from_secs(random.u64(2..=30));
        let offer =
            Offer { heartbeat, credit_bytes: random.u64(300_000..2_000_000), is_packed: random.bool() };
        Self {
            random,
            now,
            heartbeat,
            rules,
            offer,
            agents: (0..AGENTS).map(agent).collect(),
            wires: BTreeMap::new(),
            disk: Disk::default(),
            collector: None,
            collector_starts_at: now,
            draining_since: None,
            numbers: 0,
            payloads: 0,
            acknowledged: BTreeSet::new(),
            welcome: BTreeSet::new(),
            is_healed: false,
            deaths: [0; 2],
            faults: 0,
            longest: Duration::ZERO,
        }
    }

    pub(super) fn something_happens(&mut self) {
        let at = self.random.usize(..AGENTS);
        match self.random.u32(..1000) {
            0..500 => self.append(at),
            500..520 => {
                if let Some(process) = &mut self.agents[at].process {
                    process.drops_one();
                }
            }
            520..620 => self.agents[at].folder.saves(),
            620..625 => self.agent_dies(at),
            625..628 => {
                if let Some(process) = &mut self.agents[at].process {
                    process.session.leave(self.random.bool());
                }
            }
            628..631 => self.collector_dies(),
            631..633 => self.drain(),
            633..636 => {
                self.agents[at].parted_until = self.now + self.while_of(STANDS_MAX);
                self.faults += 1;
            }
            636..656 => self.wire_fails(),
            _ => (),
        }
    }

    fn append(&mut self, at: usize) {
        // Whoever does not run takes nothing.
        let Agent { folder, process: Some(_), .. } = &mut self.agents[at] else { return };
        for _ in 0..self.random.usize(1..=3) {
            self.payloads += 1;
            let log = &mut folder.logs[self.random.usize(..LOGS as usize)];
            log.records.push((self.random.u8(..LANES_USED), self.payloads));
        }
    }

    fn while_of(&mut self, most: Duration) -> Duration {
        Duration::from_millis(self.random.u64(..most.as_millis() as u64))
    }

    fn agent_dies(&mut self, at: usize) {
        let away = self.while_of(AWAY_MAX);
        let is_told = self.random.bool();
        let agent = &mut self.agents[at];
        let Some(process) = agent.process.take() else { return };
        agent.folder.dies();
        agent.starts_at = self.now + away;
        self.deaths[0] += 1;
        if let Some(wire) = process.wire.and_then(|id| self.wires.get_mut(&id)) {
            // A machine that is gone says nothing; a process that is gone has a kernel that does.
            wire.agent_holds = false;
            wire.up.cut(is_told);
        }
    }

    fn collector_dies(&mut self) {
        if self.collector.take().is_none() {
            return;
        }
        self.deaths[1] += 1;
        self.draining_since = None;
        // One that was draining at the end starts again at once.
        let away = if self.is_healed { Duration::ZERO } else { self.while_of(AWAY_MAX) };
        self.collector_starts_at = self.now + away;
        let is_told = self.random.bool();
        for wire in self.wires.values_mut().filter(|wire| wire.collector_holds) {
            wire.collector_holds = false;
            wire.down.cut(is_told);
        }
    }

    fn drain(&mut self) {
        let Some(collector) = &mut self.collector else { return };
        self.draining_since.get_or_insert(self.now);
        collector.streams.values_mut().for_each(|stream| stream.session.drain(self.now));
    }

    fn wire_fails(&mut self) {
        let wires: Vec<u64> = self.wires.keys().copied().collect();
        let Some(id) = self.random.choice(wires) else { return };
        let until = self.now + self.while_of(STANDS_MAX);
        let wire = self.wires.get_mut(&id).expect("it was just seen");
        self.faults += 1;
        match self.random.u8(..6) {
            0 | 1 => wire.up.stand(until),
            2 | 3 => wire.down.stand(until),
            // Both ends are told, one, or none.
            4 => {
                wire.up.cut(true);
                wire.down.cut(true);
            }
            _ => {
                wire.up.cut(self.random.bool());
                wire.down.cut(self.random.bool());
            }
        }
    }

    /// Nothing goes wrong any more; what nobody was told of is still to be found out.
    pub(super) fn heal(&mut self) {
        for wire in self.wires.values_mut() {
            wire.up.flow();
            wire.down.flow();
        }
        for agent in &mut self.agents {
            (agent.parted_until, agent.starts_at) = (self.now, self.now);
        }
        self.collector_starts_at = self.now;
        self.is_healed = true;
        self.welcome.clear();
    }
}

// === impl World: what everybody does ===

impl World {
    /// A moment passes.
    pub(super) fn step(&mut self) {
        self.now += Duration::from_millis(self.random.u64(1..MOMENT_MAX));
        for at in 0..AGENTS {
            self.agent(at);
        }
        self.serve();
        self.wires.retain(|_, wire| wire.agent_holds || wire.collector_holds);
    }

    fn agent(&mut self, at: usize) {
        let (now, is_packed) = (self.now, self.random.bool());
        self.numbers += 1;
        let boot = u128::from(self.numbers);
        let agent = &mut self.agents[at];
        let process = match agent.process.take() {
            None if now < agent.starts_at => return,
            None => agent.folder.start(boot, is_packed, now),
            Some(process) => process,
        };
        let mut process = process;
        process.leases(&agent.folder, self.rules.agents_remember, now, &mut self.random);
        self.dial(at, &mut process);
        if let Err(ended) = self.listen(at, &mut process) {
            self.gone(&mut process, ended);
        }
        self.speak(&mut process);
        let has_left = process.session.has_left();
        let agent = &mut self.agents[at];
        if has_left {
            agent.folder.saves();
            agent.starts_at = now + Duration::from_secs(1);
            self.hang_up(&mut process);
        } else {
            agent.process = Some(process);
        }
    }

    fn dial(&mut self, at: usize, process: &mut agent::Process) {
        let agent = &self.agents[at];
        let is_there =
            self.collector.is_some() && self.draining_since.is_none() && agent.parted_until <= self.now;
        if process.wire.is_some() || self.now < process.dials_at || !is_there {
            return;
        }
        self.wires.insert(self.numbers, Wire::new(at, self.now));
        process.wire = Some(self.numbers);
        process.session.connected(agent.folder.facts(), self.now);
    }

    /// # Errors
    /// Why the stream is over; none where it broke off.
    fn listen(&mut self, at: usize, process: &mut agent::Process) -> Result<(), Option<Ended>> {
        let (now, Agent { folder, parted_until, .. }) = (self.now, &mut self.agents[at]);
        let Some(wire) = process.wire.and_then(|id| self.wires.get_mut(&id)) else { return Ok(()) };
        let is_parted = now < *parted_until;
        loop {
            let found = if is_parted { Found::Nothing } else { wire.down.find(now) };
            match found {
                Found::Message(message) => {
                    let effects =
                        process.session.received(CollectorMessage { message: Some(message) }, now)?;
                    let mut safe = Vec::new();
                    process.takes(effects, folder, &mut safe);
                    for payload in safe {
                        assert!(
                            self.disk.log.contains_key(&payload),
                            "{payload} is acknowledged and not there"
                        );
                        self.acknowledged.insert(payload);
                    }
                }
                Found::Nothing => break,
                Found::End => return Err(None),
            }
        }
        Ok(process.session.tick(now)?)
    }

    fn gone(&mut self, process: &mut agent::Process, ended: Option<Ended>) {
        let mut wait = RECONNECT_INTERVAL;
        match ended {
            Some(Ended::Goodbye(farewell)) => {
                assert_ne!(farewell.reason, Reason::NewIncarnation, "no folder was copied: {farewell:?}");
                assert_ne!(farewell.reason, Reason::Misbehaviour, "{farewell:?}");
                wait = wait.max(farewell.wait);
            }
            Some(Ended::Violation(what)) => panic!("the collector broke the protocol: {what}"),
            Some(Ended::NoWelcome | Ended::Silent(_)) | None => (),
        }
        process.dials_at = self.now + wait;
        self.hang_up(process);
    }

    fn hang_up(&mut self, process: &mut agent::Process) {
        process.session.broken();
        if let Some(wire) = process.wire.take().and_then(|id| self.wires.get_mut(&id)) {
            wire.agent_holds = false;
            wire.up.close();
        }
    }

    fn speak(&mut self, process: &mut agent::Process) {
        let Some(wire) = process.wire.and_then(|id| self.wires.get_mut(&id)) else { return };
        for _ in 0..WRITES_MAX {
            let message = match process.session.next(self.now) {
                None => break,
                Some(Outgoing::Hello(hello)) => Up::Hello(*hello),
                Some(Outgoing::Heartbeat) => Up::Heartbeat(Heartbeat::default()),
                Some(Outgoing::State(state)) => Up::State(state),
                Some(Outgoing::Part(part)) => Up::Data(part),
                Some(Outgoing::Leaving) => Up::Leaving(Leaving {}),
            };
            wire.up.say(message, self.now, &mut self.random);
        }
    }

    fn serve(&mut self) {
        let now = self.now;
        let Some(collector) = &mut self.collector else {
            if now >= self.collector_starts_at {
                self.collector = Some(self.disk.start(now));
            }
            return;
        };
        collector.works_late(&mut self.disk, self.rules, &mut self.random);
        let ids: Vec<u64> =
            self.wires.iter().filter(|(_, wire)| wire.collector_holds).map(|(id, _)| *id).collect();
        for id in ids {
            self.serve_one(id);
        }
        let is_empty = self.collector.as_ref().is_some_and(|collector| collector.streams.is_empty());
        if self.draining_since.is_some_and(|since| is_empty || now > since + DRAIN_MAX * 2) {
            self.collector_dies();
        }
    }

    fn serve_one(&mut self, id: u64) {
        let (now, random) = (self.now, &mut self.random);
        let (Some(collector), Some(wire)) = (&mut self.collector, self.wires.get_mut(&id)) else { return };
        let mut is_over = false;
        while self.agents[wire.agent].parted_until <= now && !is_over {
            match wire.up.find(now) {
                Found::Message(Up::Hello(hello)) => {
                    let answer = match collector.hello(
                        id,
                        hello,
                        &mut self.disk,
                        (self.offer, self.rules),
                        now,
                        random,
                    ) {
                        Ok(welcome) => Down::Welcome(welcome),
                        Err(goodbye) => {
                            is_over = true;
                            Down::Goodbye(goodbye)
                        }
                    };
                    wire.down.say(answer, now, random);
                }
                Found::Message(message) => collector.hears(id, message, now),
                Found::Nothing => break,
                Found::End => is_over = true,
            }
        }
        collector.works(id, &mut self.disk, self.rules, now, random);
        while let Some(message) = collector.says(id, now) {
            wire.down.say(message, now, random);
        }
        let is_welcomed = collector.streams.contains_key(&id);
        let is_said = collector.streams.get(&id).is_some_and(|stream| stream.session.is_over());
        if is_over || is_said || (!is_welcomed && now > wire.opened + HELLO_TIMEOUT) {
            collector.ends(id, End::Dead, "it is over", now);
            wire.collector_holds = false;
            wire.down.close();
        }
    }
}

// === impl World: what must hold ===

impl World {
    /// Whether every agent has been welcome at some moment since nothing goes wrong: one that was told to stop does so when it has
    /// nothing left, and comes again.
    pub(super) fn all_welcome(&mut self) -> bool {
        for (number, agent) in self.agents.iter().enumerate() {
            let process = agent.process.as_ref().filter(|process| process.session.is_welcome());
            let wire = process.and_then(|process| process.wire).and_then(|id| self.wires.get(&id));
            if wire
                .is_some_and(|wire| wire.collector_holds && !wire.down.is_severed() && !wire.up.is_severed())
            {
                self.welcome.insert(number);
            }
        }
        self.welcome.len() == AGENTS
    }

    pub(super) fn is_drained(&self) -> bool {
        let is_landed = self.collector.as_ref().is_some_and(|collector| collector.late.is_empty());
        is_landed && self.agents.iter().all(|agent| agent.folder.is_settled())
    }

    pub(super) fn assert_exactly_once(&self) {
        let dead: BTreeSet<u64> = self.agents.iter().flat_map(|agent| agent.folder.dead()).collect();
        for payload in 1..=self.payloads {
            let there = self.disk.log.get(&payload).copied().unwrap_or_default();
            let found = (there, self.acknowledged.contains(&payload), dead.contains(&payload));
            let is_right = match found {
                // Once it was refused it has no key: it may be there more than once, and after its agent has settled it.
                (_, is_told, is_dead) if is_fickle(payload) => {
                    (is_told || is_dead) && (!is_told || there > 0)
                }
                _ if is_poison(payload) => found == (0, false, true),
                _ => found == (1, true, false),
            };
            assert!(is_right, "record {payload}: {found:?}: how often it is there, acknowledged, refused");
        }
        let invented = self.disk.log.keys().find(|payload| **payload > self.payloads || **payload == 0);
        assert_eq!(invented, None, "nothing is invented");
    }

    pub(super) fn add_to(&self, totals: &mut Totals) {
        totals.deaths[0] += self.deaths[0];
        totals.deaths[1] += self.deaths[1];
        totals.faults += self.faults;
        totals.records += self.payloads;
        totals.again += self.disk.again;
        totals.longest = totals.longest.max(self.longest);
    }
}
