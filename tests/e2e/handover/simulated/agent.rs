//! An agent: what it has on disk, and the process that delivers it through the real session.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use bytes::BytesMut;
use weir_link::agent::session::{Effect, Names, ParcelId, Session, Verdict};
use weir_link::agent::{Encoding, Parcel};
use weir_link::lanes::AgentStates;
use weir_link::limits::STARTS_MAX;
use weir_link::names::{Boot, Incarnation, StoreId, to_wire};
use weir_model::{Lane, Place, Seq, Signal};
use weir_proto::weir::link::v1::{KindDigest, LogFacts, StateDown, StateUp};

/// Logs of an agent: pipelines.
pub(super) const LOGS: u32 = 2;

/// Lanes that have records: few, so that each is busy.
pub(super) const LANES_USED: u8 = 4;

/// Records of a lease.
const LEASE_MAX: usize = 32;

/// A record that the collector never takes.
const POISON: u64 = 97;

/// One record in so many is as large as parts are, the others small.
const LARGE: u64 = 16;
const LARGE_BYTES: u64 = 70_000;
const SMALL_BYTES: u64 = 300;

pub(super) fn is_poison(payload: u64) -> bool {
    payload.is_multiple_of(POISON)
}

/// A record that the collector takes at times, and at times not: as one whose pipeline comes and goes.
pub(super) fn is_fickle(payload: u64) -> bool {
    payload % POISON == 1
}

/// The bytes of a record: its number, and as many more as follow from that.
fn bytes_of(payload: u64) -> usize {
    let most = if payload.is_multiple_of(LARGE) { LARGE_BYTES } else { SMALL_BYTES };
    8 + usize::try_from(payload.wrapping_mul(0x9e37_79b9_7f4a_7c15) % most).expect("it is small")
}

/// What lies in an agent's folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub(super) identity: String,
    incarnation: Incarnation,
    epoch: u64,
    boots: Vec<Boot>,
    store: Option<StoreId>,
    pub(super) logs: Vec<Log>,
}

/// One log. The place of a record is its index, from 1.
#[derive(Debug, Default)]
pub(super) struct Log {
    /// Lane and payload.
    pub(super) records: Vec<(u8, u64)>,
    pub(super) settled: BTreeSet<u64>,
    /// Every place below is settled.
    floor: u64,
    /// Settled, and not on disk yet.
    unsaved: BTreeSet<u64>,
    /// Settled as refused.
    dead: BTreeSet<u64>,
    /// Refused alone: on disk before the verdict is given.
    rejected: BTreeSet<u64>,
    firsts: Vec<u64>,
}

/// An agent that runs.
pub(super) struct Process {
    pub(super) session: Session,
    out: BTreeMap<ParcelId, (u32, u8, Vec<u64>)>,
    /// Halves of leases that were refused.
    halves: BTreeMap<(u32, u8), VecDeque<Vec<u64>>>,
    pub(super) wire: Option<u64>,
    pub(super) dials_at: Instant,
}

/// Nothing is said of states: they have a simulation of their own.
struct NoStates;

impl AgentStates for NoStates {
    fn welcomed(&mut self, _: &[KindDigest], _: bool, _: Instant) {}

    fn received(&mut self, _: StateDown, _: Instant) {}

    fn next(&mut self, _: Instant) -> Option<StateUp> {
        None
    }

    fn wake(&self) -> Option<Instant> {
        None
    }

    fn broken(&mut self) {}
}

impl Folder {
    pub(super) fn new(number: usize) -> Self {
        Self {
            identity: format!("agent-{number}"),
            incarnation: Incarnation((1 << 80) + number as u128),
            epoch: 0,
            boots: Vec::new(),
            store: None,
            logs: (0..LOGS).map(|_| Log::default()).collect(),
        }
    }

    /// A process starts with it.
    pub(super) fn start(&mut self, boot: u128, is_packed: bool, now: Instant) -> Process {
        self.epoch += 1;
        self.boots.push(Boot(boot));
        self.boots.drain(..self.boots.len().saturating_sub(STARTS_MAX));
        for log in &mut self.logs {
            log.firsts.push(log.records.len() as u64 + 1);
            log.firsts.drain(..log.firsts.len().saturating_sub(STARTS_MAX));
        }
        let names = Names {
            identity: self.identity.clone(),
            incarnation: self.incarnation,
            epoch: self.epoch,
            boot: Boot(boot),
            boots: self.boots.clone(),
            store: self.store,
            host: String::new(),
            program: String::new(),
            encodings: if is_packed { vec![Encoding::Zstd] } else { Vec::new() },
        };
        let session = Session::new(names, Box::new(NoStates));
        Process { session, out: BTreeMap::new(), halves: BTreeMap::new(), wire: None, dials_at: now }
    }

    /// What was settled and not written is forgotten.
    pub(super) fn dies(&mut self) {
        for log in &mut self.logs {
            for place in std::mem::take(&mut log.unsaved) {
                log.settled.remove(&place);
                log.dead.remove(&place);
                log.floor = log.floor.min(place);
            }
        }
    }

    pub(super) fn saves(&mut self) {
        self.logs.iter_mut().for_each(|log| log.unsaved.clear());
    }

    /// Payloads that were refused.
    pub(super) fn dead(&self) -> impl Iterator<Item = u64> + '_ {
        self.logs.iter().flat_map(|log| log.dead.iter().map(|place| log.payload(*place)))
    }

    pub(super) fn is_settled(&self) -> bool {
        self.logs.iter().all(|log| log.settled.len() == log.records.len())
    }

    /// What a Hello says of the logs.
    pub(super) fn facts(&self) -> Vec<LogFacts> {
        let facts = |(number, log): (usize, &Log)| {
            let next = log.records.len() as u64 + 1;
            LogFacts {
                name: format!("log-{number}"),
                incarnation: to_wire(self.incarnation.numbering(number as u128 + 1)),
                next,
                epoch_first: *log.firsts.last().expect("it has started"),
                settled: (log.floor.max(1)..next).find(|place| !log.settled.contains(place)).unwrap_or(next),
                firsts: log.firsts.clone(),
            }
        };
        self.logs.iter().enumerate().map(facts).collect()
    }
}

impl Log {
    fn payload(&self, place: u64) -> u64 {
        self.records[place as usize - 1].1
    }

    fn rise(&mut self) {
        while self.settled.contains(&self.floor.max(1)) {
            self.floor = self.floor.max(1) + 1;
        }
    }
}

impl Process {
    /// Leases what waits, where nothing of its lane is out.
    pub(super) fn leases(
        &mut self,
        folder: &Folder,
        remembers: bool,
        now: Instant,
        random: &mut fastrand::Rng,
    ) {
        for (number, log) in (0..LOGS).zip(&folder.logs) {
            for lane in 0..LANES_USED {
                let is_out = self.out.values().any(|(of, at, _)| (*of, *at) == (number, lane));
                if is_out || random.bool() {
                    continue;
                }
                let half = self.halves.get_mut(&(number, lane)).and_then(VecDeque::pop_front);
                let most = random.usize(1..=LEASE_MAX);
                let lease = half.unwrap_or_else(|| {
                    let waits = |place: &u64| {
                        log.records[*place as usize - 1].0 == lane && !log.settled.contains(place)
                    };
                    (log.floor.max(1)..=log.records.len() as u64).filter(waits).take(most).collect()
                });
                // What was refused before goes without its key, and so apart from what was not.
                let is_again = |place: &u64| remembers && log.rejected.contains(place);
                let again = lease.first().is_some_and(is_again);
                let together = lease.iter().take_while(|place| is_again(place) == again).count();
                let rest = lease[together..].to_vec();
                let lease = lease[..together].to_vec();
                if !rest.is_empty() {
                    self.halves.entry((number, lane)).or_default().push_front(rest);
                }
                if !lease.is_empty() {
                    let mut parcel = parcel(number, lane, log, &lease);
                    parcel.again = again;
                    match self.session.offer(parcel, now) {
                        Ok(id) => drop(self.out.insert(id, (number, lane, lease))),
                        // The collector has said what it takes.
                        Err(Some(_)) => self.halve((number, lane), &lease),
                        Err(None) => panic!("there is room for a bundle of each lane"),
                    }
                }
            }
        }
    }

    /// Both halves are leased next.
    fn halve(&mut self, lane: (u32, u8), lease: &[u64]) {
        assert!(lease.len() > 1, "no record is too large alone");
        let (front, back) = lease.split_at(lease.len() / 2);
        let halves = self.halves.entry(lane).or_default();
        halves.push_front(back.to_vec());
        halves.push_front(front.to_vec());
    }

    /// A push is dropped: what it had is leased again.
    pub(super) fn drops_one(&mut self) {
        if let Some((id, (log, lane, lease))) = self.out.pop_first() {
            self.session.withdraw(id);
            self.halves.entry((log, lane)).or_default().push_front(lease);
        }
    }

    /// Takes what follows from a message; returns payloads that are held for acknowledged now.
    pub(super) fn takes(&mut self, effects: Vec<Effect>, folder: &mut Folder, session: &mut Vec<u64>) {
        for effect in effects {
            match effect {
                Effect::Welcomed { store, .. } => {
                    folder.store = Some(store);
                    self.session.rename(folder.incarnation, folder.epoch, Some(store));
                }
                Effect::Settled { id, verdict, .. } => {
                    let (number, lane, lease) =
                        self.out.remove(&id).expect("it was offered, and not withdrawn");
                    let log = &mut folder.logs[number as usize];
                    match verdict {
                        Verdict::Taken => {
                            session.extend(lease.iter().map(|place| log.payload(*place)));
                            log.settled.extend(&lease);
                            log.unsaved.extend(lease);
                        }
                        Verdict::Rejected(_) if lease.len() == 1 => {
                            log.rejected.extend(&lease);
                            log.dead.extend(&lease);
                            log.settled.extend(&lease);
                            log.unsaved.extend(lease);
                        }
                        Verdict::Rejected(_) | Verdict::TooLarge { .. } => {
                            self.halve((number, lane), &lease);
                        }
                    }
                    log.rise();
                }
            }
        }
    }
}

fn parcel(number: u32, lane: u8, log: &Log, lease: &[u64]) -> Parcel {
    let mut body = BytesMut::new();
    let mut places = Vec::with_capacity(lease.len());
    for place in lease {
        let payload = log.payload(*place);
        let length = bytes_of(payload);
        body.extend_from_slice(&payload.to_be_bytes());
        body.resize(body.len() + length - 8, 0);
        let bytes = u32::try_from(length).expect("it is small");
        places.push(Place { seq: Seq(*place), items: 1, bytes });
    }
    let lane = Lane::new(lane).expect("it is one of the first");
    Parcel::new(number, lane, Signal::Traces, places, body.freeze()).expect("a lease is a bundle")
}
