//! Schedules with a seed against the marks: agents that send until they are told, and a collector that dies at any call.
//!
//! The property: what an agent sends until it has a receipt is in the log once, under its key, in the order of its lane.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use futures_util::FutureExt;
use weir_model::{Batch, Log, Origin, Receipt, Seq, Source};
use weir_queue::{Cursor, DiskQueue, Faults, Queue, Settlement, SyncFault, WhenFull, Wish};

use crate::model::{batch, folder, id_of, lease, open, settings, settle_all};
use crate::sim::SimDisk;

const LANES: [u8; 3] = [0, 3, 15];

/// A log of an agent.
struct Sender {
    source: Arc<Source>,
    epoch: u64,
    next: u64,
    /// For each lane what it has no receipt for, in order.
    waiting: BTreeMap<u8, Vec<(u64, u64)>>,
}

/// A record's key without its lane: the source's number and the place.
type Key = (usize, u64);

struct Run {
    rng: fastrand::Rng,
    disk: SimDisk,
    faults: Faults,
    queue: Option<Arc<DiskQueue>>,
    cursor: Option<Arc<dyn Cursor>>,
    senders: Vec<Sender>,
    /// Of every body that was ever made: its key and lane.
    made: BTreeMap<u64, (Key, u8)>,
    /// Where in the log each was found.
    found: BTreeMap<u64, u64>,
    now: Instant,
    broken: Vec<String>,
}

impl Run {
    fn new(seed: u64, faults: Faults) -> Self {
        let disk = SimDisk::default();
        let sender = |number: u128, identity: &str, log: &str| Sender {
            source: Arc::new(Source {
                identity: identity.to_owned(),
                incarnation: number,
                log: log.to_owned(),
            }),
            epoch: 1,
            next: 1,
            waiting: BTreeMap::new(),
        };
        let queue = open(&disk, settings(faults.clone()));
        let mut run = Self {
            rng: fastrand::Rng::with_seed(seed),
            disk,
            faults,
            queue: Some(queue),
            cursor: None,
            senders: vec![
                sender(1, "agent-one", "traces"),
                sender(1, "agent-one", "logs"),
                sender(2, "two", "traces"),
            ],
            made: BTreeMap::new(),
            found: BTreeMap::new(),
            now: Instant::now(),
            broken: Vec::new(),
        };
        run.subscribe();
        run
    }

    fn queue(&self) -> &Arc<DiskQueue> {
        self.queue.as_ref().expect("open between crashes")
    }

    fn subscribe(&mut self) {
        self.cursor = Some(self.queue().subscribe("zipkin", WhenFull::Refuse).expect("subscribes"));
        self.queue().configured(&["zipkin"], SystemTime::UNIX_EPOCH);
    }

    /// What a sender has waiting of a lane, as batches.
    fn bundle(&self, sender: usize, lane: u8, most: usize) -> Vec<Batch> {
        let Sender { source, epoch, waiting, .. } = &self.senders[sender];
        let records = waiting.get(&lane).into_iter().flatten().take(most);
        let with_origin = |(place, id): &(u64, u64)| Batch {
            origin: Some(Origin { source: Arc::clone(source), epoch: *epoch, seq: Seq(*place) }),
            ..batch(*id, lane, length_of(*id))
        };
        records.map(with_origin).collect()
    }

    fn make(&mut self, sender: usize) {
        let lane = LANES[self.rng.usize(..LANES.len())];
        let id = self.made.len() as u64 + 1;
        let of = &mut self.senders[sender];
        let place = of.next;
        of.next += 1;
        of.waiting.entry(lane).or_default().push((place, id));
        self.made.insert(id, ((sender, place), lane));
    }

    /// One round: some bundles of some lanes, at times one of them twice.
    fn send(&mut self) {
        let mut commits = Vec::new();
        for sender in 0..self.senders.len() {
            for _ in 0..self.rng.usize(..4) {
                self.make(sender);
            }
            for lane in LANES {
                let most = self.rng.usize(..6);
                for _ in 0..if self.rng.u8(..10) == 0 { 2 } else { 1 } {
                    let bundle = self.bundle(sender, lane, most);
                    if let Some(last) = bundle.last().and_then(|batch| batch.origin.clone()) {
                        let commit = self.queue().admit(bundle).map(|admission| admission.commit());
                        commits.push((sender, lane, last.seq.0, commit));
                    }
                }
            }
        }
        while self.queue().step() {}
        for (sender, lane, last, commit) in commits {
            let Ok(commit) = commit else { continue };
            let answer = commit.now_or_never().expect("a committer without work has answered");
            // An answer may be lost on its way.
            if matches!(answer, Ok(Receipt::Persisted(_))) && self.rng.u8(..5) > 0 {
                self.answered(sender, lane, last);
            }
        }
    }

    fn answered(&mut self, sender: usize, lane: u8, last: u64) {
        let waiting = self.senders[sender].waiting.entry(lane).or_default();
        waiting.retain(|(place, _)| *place > last);
    }

    fn deliver(&mut self, settles: bool) -> bool {
        let wish = Wish { items_max: 20, bytes_max: 1 << 20, linger: Duration::ZERO };
        let cursor = self.cursor.clone().expect("subscribed between crashes");
        let Some(lease) = lease(cursor.as_ref(), wish, self.now) else { return false };
        for record in lease.records() {
            let Some(id) = id_of(&record.body) else {
                self.broken.push(format!("record {} is altered", record.seq));
                continue;
            };
            let ((sender, place), lane) = self.made[&id];
            let key = record.origin.as_ref().map(|origin| (Source::clone(&origin.source), origin.seq.0));
            if key != Some((Source::clone(&self.senders[sender].source), place))
                || usize::from(lane) != lease.lane().index()
            {
                self.broken
                    .push(format!("record {} has the key {key:?}, not {place} of {sender}", record.seq));
            }
            let before = self.found.insert(id, record.seq.0);
            if before.is_some_and(|before| before != record.seq.0) {
                self.broken.push(format!("{place} of {sender} is at {before:?} and at {}", record.seq));
            }
        }
        let until = self.now + Duration::from_secs(1);
        let settlement = if settles { Settlement::Delivered } else { Settlement::Deferred { until } };
        settle_all(self.queue(), lease, settlement, self.now);
        true
    }

    fn crash(&mut self) {
        self.disk.kill();
        self.cursor = None;
        self.queue = None;
        if self.rng.bool() {
            self.disk.crash(&mut self.rng);
        } else {
            self.disk.crash_at_ends(&mut self.rng);
        }
        let mut faults = self.faults.clone();
        if self.rng.u8(..3) == 0 {
            faults.sync = SyncFault::Once(self.rng.u64(1..20));
        }
        self.queue = Some(open(&self.disk, settings(faults)));
        self.subscribe();
    }

    fn close(&mut self) {
        let closed = self.queue().close();
        while self.queue().step() {}
        drop(closed.now_or_never());
        self.crash();
    }

    fn step(&mut self) {
        match self.rng.u8(..20) {
            0..12 => self.send(),
            12..15 => {
                let settles = self.rng.u8(..4) > 0;
                self.deliver(settles);
            }
            15..17 => self.disk.light_fuse(self.rng.u64(..40)),
            17 => {
                drop(self.queue().save());
                while self.queue().step() {}
            }
            18 if self.rng.bool() => self.close(),
            18 => {
                let sender = self.rng.usize(..self.senders.len());
                self.senders[sender].epoch += 1;
            }
            _ => self.now += Duration::from_secs(1),
        }
        if self.disk.has_crashed() || self.rng.u8(..30) == 0 {
            self.crash();
        }
    }

    /// Faults are over: everybody sends until told, and everything is delivered.
    fn finish(&mut self) {
        self.disk.light_fuse(u64::MAX);
        if self.disk.has_crashed() {
            self.crash();
        }
        // A queue that had two failures in a row takes nothing until it is started again.
        self.faults.sync = SyncFault::Never;
        self.close();
        self.disk.light_fuse(u64::MAX);
        for _ in 0..40 {
            self.send();
        }
        self.now += Duration::from_secs(5);
        for _ in 0..100_000 {
            if !self.deliver(true) {
                break;
            }
        }
        for (number, sender) in self.senders.iter().enumerate() {
            let left: BTreeSet<u64> = sender.waiting.values().flatten().map(|(_, id)| *id).collect();
            let missing: Vec<_> = self
                .made
                .iter()
                .filter(|(id, ((of, _), _))| {
                    *of == number && !left.contains(id) && !self.found.contains_key(id)
                })
                .collect();
            if !missing.is_empty() {
                self.broken.push(format!("had receipts and is not in the log: {missing:?}"));
            }
            if left.len() > 40 {
                self.broken.push(format!("sender {number} still waits for {} receipts", left.len()));
            }
        }
        self.check_order();
    }

    fn check_order(&mut self) {
        let mut lanes: BTreeMap<(usize, u8), Vec<(u64, u64)>> = BTreeMap::new();
        for (id, seq) in &self.found {
            let ((sender, place), lane) = self.made[id];
            lanes.entry((sender, lane)).or_default().push((*seq, place));
        }
        for (lane, mut records) in lanes {
            records.sort_unstable();
            if !records.is_sorted_by_key(|(_, place)| *place) {
                self.broken.push(format!("{lane:?} is out of order: {records:?}"));
            }
        }
        let mut seqs = BTreeSet::new();
        for (id, seq) in &self.found {
            if !seqs.insert(*seq) {
                self.broken.push(format!("place {seq} is given twice, the last time to {id}"));
            }
        }
    }
}

/// Most are small; some fill a segment.
fn length_of(id: u64) -> usize {
    let mut rng = fastrand::Rng::with_seed(id);
    if rng.u8(..20) == 0 { rng.usize(100_000..500_000) } else { rng.usize(8..4_000) }
}

fn run(seed: u64, faults: Faults) -> Vec<String> {
    let mut run = Run::new(seed, faults);
    for _ in 0..run.rng.usize(10..80) {
        run.step();
        if !run.broken.is_empty() {
            return run.broken;
        }
    }
    run.finish();
    run.broken
}

/// Scenario: three logs of two agents send in three lanes, several bundles in a round, some of them twice, answers get lost;
/// the collector is killed at any call, closed, started again, its syncs fail, its segments are deleted; 400 seeds.
/// Guarantees: each record that its sender has a receipt for is in the log once, under its key, and lanes keep their order.
#[test]
fn a_record_that_is_sent_until_it_is_answered_is_in_the_log_once() {
    let start = std::env::var("WEIR_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let cases: u64 = std::env::var("WEIR_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(400);
    for seed in start..start + cases {
        println!("seed {seed}");
        let broken = run(seed, Faults::default());
        assert!(broken.is_empty(), "seed {seed} (WEIR_SEED={seed} WEIR_CASES=1): {broken:#?}");
    }
}

/// Scenario: the same schedules with duplicates stored.
/// Guarantees: the test above can fail: it notices that a record is there twice.
#[test]
fn without_deduplication_the_schedules_report_duplicates() {
    let red = (1..=20).filter(|seed| !run(*seed, Faults::parse("no_dedup").unwrap()).is_empty()).count();
    assert!(red >= 15, "only {red} of 20 schedules noticed that duplicates were stored");
}

/// Scenario: the same schedules with the marks in a transaction of their own.
/// Guarantees: the test above can fail: it notices that a crash came between a record and its mark.
#[test]
fn with_the_mark_apart_the_schedules_report_duplicates() {
    let red = (1..=200).filter(|seed| !run(*seed, Faults::parse("mark_apart").unwrap()).is_empty()).count();
    assert!(red >= 10, "only {red} of 200 schedules noticed that the mark came later");
}

/// A disk with a log of some segments: place n of an agent in each round.
fn filled(rounds: u64) -> SimDisk {
    let disk = SimDisk::default();
    let queue = open(&disk, settings(Faults::default()));
    let _cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
    queue.configured(&["zipkin"], SystemTime::UNIX_EPOCH);
    for place in 1..=rounds {
        assert!(send_one(&queue, place), "place {place} is new");
    }
    let closed = queue.close();
    while queue.step() {}
    closed.now_or_never().unwrap().unwrap();
    drop(queue);
    disk
}

/// Sends one record. Returns whether it was stored.
fn send_one(queue: &DiskQueue, place: u64) -> bool {
    let source = Source { identity: "agent-one".to_owned(), incarnation: 5, log: "traces".to_owned() };
    let origin = Some(Origin { source: Arc::new(source), epoch: 1, seq: Seq(place) });
    let before = queue.next();
    let commit = queue.admit(vec![Batch { origin, ..batch(place, 0, 100_000) }]).unwrap().commit();
    while queue.step() {}
    let answer = commit.now_or_never().unwrap();
    assert!(matches!(answer, Ok(Receipt::Persisted(_))), "{answer:?}");
    queue.next() > before
}

/// Scenario: a log of several segments is closed and started; then every record is delivered, so that the segments go.
/// Guarantees: the marks are the same each time, also when the newest segment has no record; duplicates are counted and
/// vouched for; the next place is stored.
#[test]
fn marks_outlive_the_segments_of_their_records() {
    let disk = filled(60);
    for start in 0..3 {
        let queue = open(&disk, settings(Faults::default()));
        let cursor = queue.subscribe("zipkin", WhenFull::Refuse).unwrap();
        queue.configured(&["zipkin"], SystemTime::UNIX_EPOCH);
        let marks = queue.marks("agent-one");
        assert_eq!(marks.iter().map(|mark| mark.seq.0).collect::<Vec<_>>(), [60 + start], "start {start}");
        assert!(!send_one(&queue, 60 + start) && !send_one(&queue, 1));
        let status = queue.status();
        assert_eq!((status.sources, status.duplicates, status.degraded), (1, 2, None));
        let wish = || Wish { items_max: 100, bytes_max: 1 << 20, linger: Duration::ZERO };
        while let Some(lease) = lease(cursor.as_ref(), wish(), Instant::now()) {
            assert!(settle_all(&queue, lease, Settlement::Delivered, Instant::now()));
        }
        assert!(send_one(&queue, 61 + start));
        let closed = queue.close();
        while queue.step() {}
        closed.now_or_never().unwrap().unwrap();
    }
    let segments = disk.files(&folder().join("segments"));
    assert!(segments.len() < 3, "{segments:?}");
}

/// Scenario: the newest segment is cut off; or its marks are flipped where they lie.
/// Guarantees: it starts; the marks are those of the segment before, so that what was lost is taken again and what is there is
/// not; damaged marks are made from the records of the segments that tell their source, and are shown.
#[test]
fn where_the_newest_marks_are_lost_those_before_count() {
    for flip in [false, true] {
        let disk = filled(60);
        let mut segments = disk.files(&folder().join("segments"));
        segments.sort();
        let newest = segments.last().unwrap();
        disk.alter(newest, |bytes| {
            if !flip {
                return bytes.truncate(8_192);
            }
            for at in 0..bytes.len() - 9 {
                if &bytes[at..at + 9] == b"agent-one" {
                    bytes[at] ^= 1;
                }
            }
        });
        let queue = open(&disk, settings(Faults::default()));
        let mark = queue.marks("agent-one")[0].seq.0;
        assert!((30..60).contains(&mark), "mark {mark}");
        assert!(queue.status().degraded.is_some());
        assert!(!send_one(&queue, mark) && send_one(&queue, mark + 1));
    }
}
