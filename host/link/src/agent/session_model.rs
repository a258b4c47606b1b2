//! The session against a small collector that answers late, grants little and loses streams at random.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use fastrand::Rng;
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::{Ack, BundleHead, CollectorMessage, Credit, DataPart, Rejected, Welcome};

use crate::agent::session::{Outgoing, ParcelId, Session, Verdict};
use crate::agent::session_tests::{down, parcel, session, settled, up, welcome};
use crate::limits::PART_BYTES_MAX;

/// Streams of one run: so many break that every bundle is likely to meet several.
const BREAKS: u32 = 60;
/// Runs. A failing one is named by its seed.
const SEEDS: u64 = 200;
const LOGS: u32 = 2;
const LANES: u8 = 3;
/// Records of each lane of each log.
const RECORDS: usize = 30;
/// A record that the collector never takes: those whose place ends so.
const POISON: u64 = 13;

/// A collector as small as can be: marks by lane, and what came first.
#[derive(Default)]
struct Model {
    marks: HashMap<(u32, u32), u64>,
    /// What was stored, in order, by lane.
    stored: HashMap<(u32, u32), Vec<u64>>,
    // Of one stream:
    ordinal: u64,
    bytes: u64,
    granted: u64,
    packed: bool,
    assembling: Option<(BundleHead, BytesMut)>,
    /// Complete and not answered: ordinal, lane, bytes, places.
    waiting: VecDeque<BundleHead>,
    answered: u64,
}

impl Model {
    fn connect(&mut self, rng: &mut Rng) -> Welcome {
        let Self { marks, stored, .. } = std::mem::take(self);
        let granted = rng.u64(1..3_000);
        let packed = rng.bool();
        *self = Self { marks, stored, granted, packed, ..Self::default() };
        let encoding = if packed { "zstd".to_owned() } else { String::new() };
        Welcome { encoding, ..welcome(granted) }
    }

    fn part(&mut self, part: DataPart) {
        assert!(part.body.len() <= PART_BYTES_MAX);
        self.bytes += part.body.len() as u64;
        assert!(self.bytes <= self.granted, "{} bytes of {} granted", self.bytes, self.granted);
        let (head, mut body) = match (part.head, self.assembling.take()) {
            (Some(head), None) => {
                self.ordinal += 1;
                assert_eq!(head.ordinal, self.ordinal);
                let is_free =
                    self.waiting.iter().all(|other| (other.log, other.lane) != (head.log, head.lane));
                assert!(is_free, "two bundles of a lane");
                (head, BytesMut::new())
            }
            (None, Some(assembling)) => assembling,
            (head, _) => panic!("a part out of order: {head:?}"),
        };
        body.extend_from_slice(&part.body);
        if (body.len() as u64) < head.sent_bytes {
            self.assembling = Some((head, body));
            return;
        }
        let body = match self.packed {
            true => zstd::bulk::decompress(&body, usize::try_from(head.bytes).unwrap()).unwrap(),
            false => body.to_vec(),
        };
        assert_eq!((body.len() as u64, crc32c::crc32c(&body)), (head.bytes, head.crc));
        assert_eq!(head.lengths.iter().map(|length| u64::from(*length)).sum::<u64>(), head.bytes);
        self.waiting.push_back(head);
    }

    /// Persists some of what waits, and says so; or persists and does not get to say it.
    fn answer(&mut self, rng: &mut Rng) -> Vec<CollectorMessage> {
        let count = rng.usize(0..=self.waiting.len());
        let mut rejected = Vec::new();
        let mut credit = 0;
        for head in self.waiting.drain(..count) {
            self.answered = head.ordinal;
            credit += head.sent_bytes;
            if head.seqs.iter().any(|seq| seq % 16 == POISON) {
                rejected.push(Rejected { ordinal: head.ordinal, reason: "poison".to_owned() });
                continue;
            }
            let lane = (head.log, head.lane);
            let mark = self.marks.entry(lane).or_default();
            for seq in head.seqs {
                if seq > *mark {
                    *mark = seq;
                    self.stored.entry(lane).or_default().push(seq);
                }
            }
        }
        // What is assembled now needs its credit before it can be answered.
        let missing = self.assembling.as_ref().map_or(0, |(head, body)| head.sent_bytes - body.len() as u64);
        credit += if self.granted - self.bytes == 0 { missing.max(1) } else { 0 };
        self.granted += credit;
        vec![
            down(Down::Ack(Ack { upto: self.answered, rejected, ..Ack::default() })),
            down(Down::Credit(Credit { bytes: credit })),
        ]
    }
}

/// What a delivery does with one lane: one bundle out at a time, in order, halved where it is refused.
struct Source {
    log: u32,
    lane: u8,
    /// To be pushed, in order; a refusal puts two halves in front.
    pieces: VecDeque<Vec<u64>>,
    out: Option<(ParcelId, Vec<u64>)>,
    dead: Vec<u64>,
}

impl Source {
    fn offer(&mut self, session: &mut Session, rng: &mut Rng, now: Instant) {
        if self.out.is_none()
            && let Some(piece) = self.pieces.pop_front()
        {
            let id = session.offer(parcel(self.log, self.lane, &piece, rng.usize(0..300)), now).unwrap();
            self.out = Some((id, piece));
        }
    }

    fn settled(&mut self, id: ParcelId, verdict: &Verdict) {
        let Some((_, piece)) = self.out.take_if(|(out, _)| *out == id) else { return };
        match verdict {
            Verdict::Taken => (),
            Verdict::Rejected(_) if piece.len() == 1 => self.dead.extend(piece),
            Verdict::Rejected(_) => {
                let (front, back) = piece.split_at(piece.len() / 2);
                self.pieces.push_front(back.to_vec());
                self.pieces.push_front(front.to_vec());
            }
            Verdict::TooLarge { .. } => panic!("none is too large"),
        }
    }

    /// The push is dropped: the lease comes again.
    fn drop_push(&mut self, session: &mut Session) {
        if let Some((id, piece)) = self.out.take() {
            session.withdraw(id);
            self.pieces.push_front(piece);
        }
    }
}

fn sources(rng: &mut Rng) -> Vec<Source> {
    let mut sources = Vec::new();
    for log in 0..LOGS {
        let mut next = 0;
        let mut lanes: Vec<Vec<u64>> = vec![Vec::new(); LANES.into()];
        while lanes.iter().any(|lane| lane.len() < RECORDS) {
            next += 1;
            let lane = rng.usize(0..lanes.len());
            if lanes[lane].len() < RECORDS {
                lanes[lane].push(next);
            }
        }
        for (lane, mut seqs) in (0..LANES).zip(lanes) {
            let mut pieces = VecDeque::new();
            while !seqs.is_empty() {
                let rest = seqs.split_off(rng.usize(1..=4).min(seqs.len()));
                pieces.push_back(std::mem::replace(&mut seqs, rest));
            }
            sources.push(Source { log, lane, pieces, out: None, dead: Vec::new() });
        }
    }
    sources
}

fn run(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let (mut session, _) = session();
    let mut model = Model::default();
    let mut sources = sources(&mut rng);
    let offered: Vec<Vec<u64>> =
        sources.iter().map(|source| source.pieces.iter().flatten().copied().collect()).collect();
    let mut now = Instant::now();
    let (mut breaks, mut is_up, mut steps) = (0, false, 0_u32);
    while sources.iter().any(|source| source.out.is_some() || !source.pieces.is_empty()) {
        steps += 1;
        assert!(steps < 100_000, "it does not end");
        now += Duration::from_millis(rng.u64(0..20));
        let at = rng.usize(0..sources.len());
        let mut messages = Vec::new();
        match rng.u8(0..12) {
            0..4 => sources[at].offer(&mut session, &mut rng, now),
            4..7 if is_up => match session.next(now) {
                Some(Outgoing::Part(part)) => model.part(part),
                Some(Outgoing::Heartbeat) | None => (),
                Some(other) => panic!("{other:?}"),
            },
            7..10 if is_up => messages = model.answer(&mut rng),
            10 if rng.u8(0..4) == 0 => sources[at].drop_push(&mut session),
            11 if is_up && breaks < BREAKS => {
                // It may have persisted what it never said.
                model.answer(&mut rng);
                session.broken();
                (is_up, breaks) = (false, breaks + 1);
            }
            _ if !is_up => {
                up(&mut session, model.connect(&mut rng), now);
                is_up = true;
            }
            _ => (),
        }
        for message in messages {
            for (id, verdict) in settled(&session.received(message, now).unwrap()) {
                sources.iter_mut().for_each(|source| source.settled(id, &verdict));
            }
        }
    }
    assert_eq!(session.kept().0, 0);
    for (source, offered) in sources.iter().zip(offered) {
        let lane = (source.log, u32::from(source.lane));
        let stored = model.stored.remove(&lane).unwrap_or_default();
        let (dead, good): (Vec<u64>, Vec<u64>) = offered.iter().partition(|seq| **seq % 16 == POISON);
        assert_eq!(stored, good, "what lane {lane:?} has stored, in the order of arrivals");
        assert_eq!(source.dead, dead, "what lane {lane:?} has refused");
    }
}

/// Scenario: bundles of six lanes go to a collector with little credit that answers late; streams break at random in the middle of
/// anything, with answers lost; pushes are dropped and made again; some records are never taken, and searched for by halving.
/// Guarantees: every record is stored exactly once, in the order of its lane, but those that are refused, which are told so; nothing
/// goes beyond the credit, parts of bundles never mix, no lane has two bundles under way.
#[test]
fn every_record_is_stored_once_whatever_breaks() {
    for seed in 0..SEEDS {
        eprintln!("seed {seed}");
        run(seed);
    }
}
