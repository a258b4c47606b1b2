//! The collector: what it has on disk, and the process that serves streams through the real registry and sessions.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use weir_link::collector::{
    Admitted, End, Facts, Head, Heard, Part, Registry, RejectedBundle, Session, Terms, Weight, Who,
};
use weir_link::limits::VERSION;
use weir_link::names::{StoreId, to_wire};
use weir_model::{Held, Mark, Reason, Receipt, Seq, Source};
use weir_proto::weir::link::v1::agent_message::Message as Up;
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::{Goodbye, Hello, Welcome};

use super::agent::{is_fickle, is_poison};
use super::world::Rules;

/// Its store.
const STORE: u128 = 0x5702e;

/// What is on its disk.
#[derive(Debug, Default)]
pub(super) struct Disk {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    /// By source and lane: place and epoch.
    marks: HashMap<(Source, usize), (u64, u64)>,
    /// How often each payload is there.
    pub(super) log: BTreeMap<u64, u32>,
    /// Records that came although they were there.
    pub(super) again: u64,
}

/// What a collector offers.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offer {
    pub(super) heartbeat: Duration,
    pub(super) credit_bytes: u64,
    pub(super) is_packed: bool,
}

/// A stream that was welcomed.
#[derive(Debug)]
pub(super) struct Served {
    pub(super) facts: Facts,
    pub(super) session: Session,
    /// Its name with the registry.
    pub(super) number: u64,
    is_packed: bool,
    coming: Option<(Head, Vec<u8>)>,
    whole: Vec<(Head, Vec<u8>)>,
}

/// A bundle whose stream is gone, and which the log takes nevertheless, later.
#[derive(Debug)]
pub(super) struct Late {
    source: Source,
    epoch: u64,
    head: Head,
    body: Vec<u8>,
}

/// A collector that runs.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) registry: Registry,
    pub(super) streams: BTreeMap<u64, Served>,
    pub(super) late: Vec<Late>,
    /// Marks that are written some time, where that rule is broken.
    unwritten: Vec<((Source, usize), (u64, u64))>,
    /// Records that are stored some time, where that rule is broken.
    unstored: Vec<u64>,
}

impl Disk {
    pub(super) fn start(&self, now: Instant) -> Process {
        let rows = self.rows.clone().into_iter().collect();
        let (registry, broken) = Registry::new(StoreId(STORE), rows, now);
        assert!(broken.is_empty(), "{broken:?}");
        let (streams, late) = (BTreeMap::new(), Vec::new());
        Process { registry, streams, late, unwritten: Vec::new(), unstored: Vec::new() }
    }

    fn marks_of(&self, identity: &str) -> Vec<Mark> {
        let mut highest: HashMap<&Source, (u64, u64)> = HashMap::new();
        for ((source, _), mark) in self.marks.iter().filter(|((source, _), _)| source.identity == identity) {
            let highest = highest.entry(source).or_default();
            *highest = (*highest).max(*mark);
        }
        let mark = |(source, (seq, epoch)): (&Source, (u64, u64))| Mark {
            source: source.clone(),
            seq: Seq(seq),
            epoch,
        };
        highest.into_iter().map(mark).collect()
    }
}

impl Late {
    /// It is stored; returns a mark that was left for later, where that rule is broken.
    fn lands(self, disk: &mut Disk, rules: Rules) -> Option<((Source, usize), (u64, u64))> {
        let Self { source, epoch, head, body } = self;
        let is_taken = rules.stores_first && !payloads(&head, &body).any(is_poison);
        if is_taken { disk.stores(&source, epoch, &head, &body, rules) } else { None }
    }
}

impl Process {
    /// A Hello came on this wire: the answer, or the Goodbye.
    pub(super) fn hello(
        &mut self,
        wire: u64,
        hello: Hello,
        disk: &mut Disk,
        (offer, rules): (Offer, Rules),
        now: Instant,
        random: &mut fastrand::Rng,
    ) -> Result<Welcome, Goodbye> {
        let facts = Facts::read(hello, &Who::Local).expect("an agent's own Hello is in order");
        let marks = disk.marks_of(&facts.identity);
        let Admitted { session: number, fences, .. } = self.registry.admit(&facts, &marks, now)?;
        disk.writes(&mut self.registry);
        if let Some((old, goodbye)) = fences {
            let old = self.streams.values_mut().find(|stream| stream.number == old);
            old.expect("only a live stream is fenced").session.end(goodbye);
        }
        // What its older streams have with the log is waited for, mostly: at times that takes too long.
        if random.u8(..4) > 0 {
            for late in self.late.extract_if(.., |late| late.source.identity == facts.identity) {
                self.unwritten.extend(late.lands(disk, rules));
            }
        }
        let marks = disk.marks_of(&facts.identity);
        let notes = self.registry.admit_again(&facts, &marks, number, now)?;
        let lost = notes.iter().find(|note| note.weight == Weight::Error);
        assert!(lost.is_none(), "nothing was lost, and it says {lost:?}");
        let terms = Terms {
            heartbeat: offer.heartbeat,
            credit_bytes: offer.credit_bytes,
            bundle_bytes_max: offer.credit_bytes,
            is_packed: offer.is_packed && facts.can_zstd,
        };
        let welcome = Welcome {
            version: VERSION,
            store: to_wire(STORE),
            durable: true,
            session: number,
            heartbeat_ms: u32::try_from(terms.heartbeat.as_millis()).expect("it is short"),
            credit: terms.credit_bytes,
            bundle_bytes_max: terms.bundle_bytes_max,
            encoding: if terms.is_packed { "zstd".to_owned() } else { String::new() },
            ..Welcome::default()
        };
        let (session, is_packed) = (Session::new(&facts, terms, now), terms.is_packed);
        let (coming, whole) = (None, Vec::new());
        self.streams.insert(wire, Served { facts, session, number, is_packed, coming, whole });
        Ok(welcome)
    }

    /// Another message came on a wire that was welcomed.
    pub(super) fn hears(&mut self, wire: u64, message: Up, now: Instant) {
        let Some(stream) = self.streams.get_mut(&wire) else { return };
        self.registry.heard(&stream.facts.identity, stream.number, now);
        match stream.session.received(message, now) {
            Some(Heard::Part(Part { head, body, is_last })) => {
                if let Some(head) = head {
                    stream.coming = Some((head, Vec::new()));
                }
                let (_, bytes) = stream.coming.as_mut().expect("a part has a bundle");
                bytes.extend_from_slice(&body);
                if is_last {
                    let (head, mut bytes) = stream.coming.take().expect("it was just there");
                    if stream.is_packed {
                        bytes = zstd::bulk::decompress(&bytes, head.bytes as usize).expect("it was packed");
                    }
                    assert_eq!((bytes.len() as u64, crc32c::crc32c(&bytes)), (head.bytes, head.crc));
                    stream.whole.push((head, bytes));
                }
            }
            Some(Heard::Leaving) => self.ends(wire, End::Orderly, "it left", now),
            Some(Heard::State(_) | Heard::Heartbeat(_)) => (),
            None => assert!(stream.session.is_ending(), "an agent's message is never a violation"),
        }
    }

    /// Takes some of what is whole, in any order.
    pub(super) fn works(
        &mut self,
        wire: u64,
        disk: &mut Disk,
        rules: Rules,
        now: Instant,
        random: &mut fastrand::Rng,
    ) {
        let Some(stream) = self.streams.get_mut(&wire) else { return };
        while !stream.whole.is_empty() && random.u8(..3) > 0 {
            let (head, body) = stream.whole.swap_remove(random.usize(..stream.whole.len()));
            let (source, epoch) = stream.session.source(head.log);
            let is_tired = random.bool();
            if payloads(&head, &body).any(|payload| is_poison(payload) || (is_tired && is_fickle(payload))) {
                let (last, records) =
                    (head.records.last().map_or(0, |place| place.seq.0), head.records.len() as u64);
                let rejected = RejectedBundle {
                    source: &source,
                    last,
                    records,
                    cause: Reason::Malformed,
                    text: "poison",
                };
                self.registry.rejected(&stream.facts.identity, &rejected, now);
                // Else a death would make an error of it: the agent has settled what no log has.
                if rules.remembers_rejections {
                    disk.writes(&mut self.registry);
                }
                stream.session.consumed(head.ordinal, Err("poison".to_owned()));
            } else {
                if rules.stores_first {
                    let mark = disk.stores(&source, epoch, &head, &body, rules);
                    self.unwritten.extend(mark);
                } else {
                    self.unstored.extend(payloads(&head, &body));
                }
                stream.session.consumed(head.ordinal, Ok(Receipt::Held(Held::vouch(Seq(1)))));
            }
        }
    }

    /// What a stream that is gone had brought whole is stored nevertheless, some of it.
    pub(super) fn works_late(&mut self, disk: &mut Disk, rules: Rules, random: &mut fastrand::Rng) {
        if !self.late.is_empty() && random.bool() {
            let late = self.late.swap_remove(random.usize(..self.late.len()));
            self.unwritten.extend(late.lands(disk, rules));
        }
        if random.u8(..20) == 0 {
            disk.marks.extend(self.unwritten.drain(..));
            for payload in self.unstored.drain(..) {
                *disk.log.entry(payload).or_default() += 1;
            }
        }
    }

    /// A stream ends, whoever ended it.
    pub(super) fn ends(&mut self, wire: u64, end: End, why: &str, now: Instant) {
        let Some(stream) = self.streams.remove(&wire) else { return };
        self.registry.ended(&stream.facts.identity, stream.number, end, why, now);
        for (head, body) in stream.whole {
            let (source, epoch) = stream.session.source(head.log);
            self.late.push(Late { source: source.as_ref().clone(), epoch, head, body });
        }
    }

    /// The next message of a stream.
    pub(super) fn says(&mut self, wire: u64, now: Instant) -> Option<Down> {
        let stream = self.streams.get_mut(&wire)?;
        stream.session.tick(now);
        stream.session.next(now)
    }
}

impl Disk {
    fn writes(&mut self, registry: &mut Registry) {
        for (key, value) in registry.take_changes() {
            self.rows.insert(key, value.expect("three agents are never forgotten"));
        }
    }

    /// One transaction; returns a mark that was left for later, where that rule is broken.
    fn stores(
        &mut self,
        source: &Source,
        epoch: u64,
        head: &Head,
        body: &[u8],
        rules: Rules,
    ) -> Option<((Source, usize), (u64, u64))> {
        let key = (source.clone(), head.lane.index());
        let mut mark = self.marks.get(&key).copied().unwrap_or_default();
        for (place, payload) in head.records.iter().zip(payloads(head, body)) {
            if head.again {
                *self.log.entry(payload).or_default() += 1;
            } else if place.seq.0 > mark.0 || !rules.deduplicates {
                mark = mark.max((place.seq.0, epoch));
                *self.log.entry(payload).or_default() += 1;
            } else {
                self.again += 1;
            }
        }
        if rules.marks_at_once {
            self.marks.insert(key, mark);
            return None;
        }
        Some((key, mark))
    }
}

fn payloads<'a>(head: &'a Head, body: &'a [u8]) -> impl Iterator<Item = u64> + 'a {
    let mut at = 0;
    head.records.iter().map(move |place| {
        let bytes = body[at..at + 8].try_into().expect("eight bytes");
        at += place.bytes as usize;
        u64::from_be_bytes(bytes)
    })
}
