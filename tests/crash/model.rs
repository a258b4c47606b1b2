//! The model: what a plain map knows about a log, and random schedules that compare the two.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt;
use weir_model::{Batch, Lane, Ledger, Log, Receipt, Refusal, Signal};
use weir_queue::{
    Cursor, DiskQueue, Faults, Lease, Leased, Pace, Queue, Settings, Settlement, SyncFault, WhenFull, Wish,
};

use crate::sim::SimDisk;

/// Where the queue lies on every disk.
pub fn folder() -> PathBuf {
    PathBuf::from("/queue")
}

/// Small files, so that segments roll often.
pub fn settings(faults: Faults) -> Settings {
    let mut settings = Settings::new(Ledger::new(64 << 20));
    settings.budget_bytes = 64 << 20;
    settings.segment_bytes = 2 << 20;
    settings.reserve_bytes = 64 << 10;
    settings.hot_bytes = 256 << 10;
    settings.pace = Pace::Manual;
    settings.faults = faults;
    settings
}

/// Opens a queue with a committer that is stepped by hand.
pub fn open(disk: &SimDisk, settings: Settings) -> Arc<DiskQueue> {
    DiskQueue::open_on(Arc::new(disk.clone()), &folder(), settings, SystemTime::UNIX_EPOCH).expect("opens")
}

/// The body of the record with this id: its id, then bytes that follow from it.
pub fn body(id: u64, length: usize) -> Bytes {
    let mut bytes = vec![0; length.max(8)];
    bytes[..8].copy_from_slice(&id.to_le_bytes());
    fastrand::Rng::with_seed(id).fill(&mut bytes[8..]);
    bytes.into()
}

/// The id of a body, if the body is what was appended under it.
pub fn id_of(bytes: &Bytes) -> Option<u64> {
    let id = u64::from_le_bytes(bytes.get(..8)?.try_into().ok()?);
    (body(id, bytes.len()) == bytes).then_some(id)
}

/// A batch for a lane.
pub fn batch(id: u64, lane: u8, length: usize) -> Batch {
    Batch {
        signal: Signal::Traces,
        lane: Lane::new(lane).unwrap(),
        items: 1,
        body: body(id, length),
        origin: None,
        claim: None,
    }
}

/// Commits batches with the committer stepped by hand.
pub fn append(queue: &DiskQueue, batches: Vec<Batch>) -> Result<Receipt, Refusal> {
    let admitted = queue.admit(batches);
    let commit = admitted.map(|admission| admission.commit());
    // A refusal for want of room is work for the committer too.
    while queue.step() {}
    commit?.now_or_never().expect("a committer without work has answered")
}

/// Takes everything that is there.
pub fn wish() -> Wish {
    Wish { items_max: 100, bytes_max: 1 << 20, linger: Duration::ZERO }
}

/// A lease, if there is one at this time.
pub fn lease(cursor: &dyn Cursor, wish: Wish, now: Instant) -> Option<Lease> {
    match cursor.lease(wish, now).now_or_never().expect("with a manual pace leases are read on the spot") {
        Leased::Lease(lease) => Some(lease),
        Leased::Until(_) | Leased::Empty => None,
    }
}

/// Settles a whole lease.
pub fn settle_all(queue: &DiskQueue, lease: Lease, settlement: Settlement, now: Instant) -> bool {
    let settled = lease.settle_all(settlement, now);
    while queue.step() {}
    settled.now_or_never().expect("a committer without work has answered").is_ok()
}

/// What one exporter owes and has done.
#[derive(Debug, Default, Clone)]
struct Exporter {
    /// Records acknowledged since it subscribed and not settled.
    owed: BTreeSet<u64>,
}

/// What the plain map knows.
#[derive(Debug, Default)]
struct Model {
    /// Every record that was ever handed to the log.
    lanes: BTreeMap<u64, u8>,
    exporters: BTreeMap<String, Exporter>,
    next: u64,
}

/// A schedule in progress.
struct Run {
    rng: fastrand::Rng,
    disk: SimDisk,
    faults: Faults,
    queue: Option<Arc<DiskQueue>>,
    cursors: BTreeMap<String, Arc<dyn Cursor>>,
    model: Model,
    now: Instant,
    /// What must not be, in words.
    broken: Vec<String>,
}

const EXPORTERS: [&str; 2] = ["zipkin", "acme"];

impl Run {
    fn new(seed: u64, faults: Faults) -> Self {
        let disk = SimDisk::default();
        let queue = open(&disk, settings(faults.clone()));
        let mut run = Self {
            rng: fastrand::Rng::with_seed(seed),
            disk,
            faults,
            queue: Some(queue),
            cursors: BTreeMap::new(),
            model: Model { next: 1, ..Model::default() },
            now: Instant::now(),
            broken: Vec::new(),
        };
        run.subscribe();
        run
    }

    fn queue(&self) -> &DiskQueue {
        self.queue.as_ref().expect("open between crashes")
    }

    fn subscribe(&mut self) {
        for name in EXPORTERS {
            let cursor = self.queue().subscribe(name, WhenFull::Refuse).expect("subscribes");
            self.cursors.insert(name.to_owned(), cursor);
            self.model.exporters.entry(name.to_owned()).or_default();
        }
        self.queue().configured(&EXPORTERS, SystemTime::UNIX_EPOCH);
    }

    fn append(&mut self) {
        let mut ids = Vec::new();
        let mut batches = Vec::new();
        for _ in 0..self.rng.usize(1..4) {
            let (id, lane) = (self.model.next, self.rng.u8(..3) * 5);
            self.model.next += 1;
            self.model.lanes.insert(id, lane);
            let length = match self.rng.u8(..20) {
                0 => self.rng.usize(200_000..600_000),
                1..5 => self.rng.usize(4_000..40_000),
                _ => self.rng.usize(8..2_000),
            };
            ids.push(id);
            batches.push(batch(id, lane, length));
        }
        if let Ok(Receipt::Persisted(_)) = append(self.queue(), batches) {
            for exporter in self.model.exporters.values_mut() {
                exporter.owed.extend(&ids);
            }
        }
    }

    fn deliver(&mut self) {
        let name = EXPORTERS[self.rng.usize(..EXPORTERS.len())];
        let wish = Wish { items_max: self.rng.u64(1..10), bytes_max: 400_000, linger: Duration::ZERO };
        let Some(lease) = lease(self.cursors[name].as_ref(), wish, self.now) else { return };
        let ids = self.check_lease(name, &lease);
        match self.rng.u8(..10) {
            0 => self.queue_drop(lease),
            1 => {
                let until = self.now + Duration::from_secs(self.rng.u64(..3));
                settle_all(self.queue(), lease, Settlement::Deferred { until }, self.now);
            }
            2 => {
                let reason = "no".to_owned();
                if settle_all(self.queue(), lease, Settlement::Rejected { reason }, self.now) {
                    self.settled(name, &ids);
                }
            }
            3 => {
                // One delivered, the rest again.
                let some = self.rng.usize(..ids.len());
                let verdict = vec![(lease.records()[some].seq, Settlement::Delivered)];
                drop(lease.settle(verdict, self.now));
                self.settled(name, &ids[some..=some]);
            }
            _ => {
                settle_all(self.queue(), lease, Settlement::Delivered, self.now);
                self.settled(name, &ids);
            }
        }
    }

    fn queue_drop(&mut self, lease: Lease) {
        drop(lease);
        self.now += Duration::from_secs(2);
    }

    /// Bytes as appended, one lane, in order, nothing earlier of the lane left behind.
    fn check_lease(&mut self, name: &str, lease: &Lease) -> Vec<u64> {
        let exporter = &self.model.exporters[name];
        let mut ids = Vec::new();
        for record in lease.records() {
            let Some(id) = id_of(&record.body).filter(|id| self.model.lanes.contains_key(id)) else {
                self.broken.push(format!("{name} got record {} altered or invented", record.seq));
                continue;
            };
            if usize::from(self.model.lanes[&id]) != lease.lane().index() {
                self.broken.push(format!("{name} got record {id} in another lane"));
            }
            ids.push(id);
        }
        if !ids.is_sorted() {
            self.broken.push(format!("{name} got {ids:?} out of order"));
        }
        let first = ids.first().copied().unwrap_or(0);
        let lane = lease.lane().index() as u8;
        let late: Vec<_> = exporter
            .owed
            .range(..first)
            .filter(|id| self.model.lanes[id] == lane && !ids.contains(id))
            .collect();
        if !late.is_empty() {
            self.broken.push(format!("{name} got {first} of lane {lane} before {late:?}"));
        }
        ids
    }

    fn settled(&mut self, name: &str, ids: &[u64]) {
        let exporter = self.model.exporters.get_mut(name).expect("every exporter is in the model");
        for id in ids {
            exporter.owed.remove(id);
        }
    }

    fn crash(&mut self) {
        self.disk.kill();
        self.cursors.clear();
        // Whoever waits for an answer never gets one: the queue is dropped with everything that is only in memory.
        self.queue = None;
        self.disk.crash(&mut self.rng);
        self.disk.set_capacity(None);
        let mut faults = self.faults.clone();
        if self.rng.u8(..3) == 0 {
            faults.sync = SyncFault::Once(self.rng.u64(1..40));
        }
        self.queue = Some(open(&self.disk, settings(faults)));
        self.subscribe();
    }

    fn close(&mut self) {
        let closed = self.queue().close();
        while self.queue().step() {}
        match closed.now_or_never() {
            Some(Ok(())) => {}
            // On a disk that is full or fails the close says so, and the next start repairs.
            other if !self.disk.has_crashed() && !self.disk.is_full() && other.is_none() => {
                self.broken.push(format!("close: {other:?}"))
            }
            _ => {}
        }
        self.crash();
    }

    fn step(&mut self) {
        match self.rng.u8(..20) {
            0..9 => self.append(),
            9..16 => self.deliver(),
            16 => self.disk.light_fuse(self.rng.u64(..60)),
            17 => {
                drop(self.queue().save());
                while self.queue().step() {}
            }
            18 if self.rng.u8(..3) == 0 => self.close(),
            18 => {
                let full = self.rng.bool();
                self.disk.set_capacity(full.then_some(0));
            }
            _ => self.now += Duration::from_secs(1),
        }
        if self.disk.has_crashed() || self.rng.u8(..40) == 0 {
            self.crash();
        }
    }

    /// Faults are over: everything that is owed must come.
    fn drain(&mut self) {
        if self.disk.has_crashed() {
            self.crash();
        }
        self.disk.light_fuse(u64::MAX);
        self.disk.set_capacity(None);
        for name in EXPORTERS {
            for _ in 0..10_000 {
                self.now += Duration::from_secs(3);
                let Some(lease) = lease(self.cursors[name].as_ref(), wish(), self.now) else { break };
                let ids = self.check_lease(name, &lease);
                settle_all(self.queue(), lease, Settlement::Delivered, self.now);
                self.settled(name, &ids);
            }
            let owed = &self.model.exporters[name].owed;
            if !owed.is_empty() {
                self.broken.push(format!("{name} never got {owed:?}"));
            }
            let status = self.cursors[name].status();
            if status.pending_records > 0 {
                self.broken
                    .push(format!("{name} has {} records to come after everything", status.pending_records));
            }
        }
        let status = self.queue().status();
        if !self.broken.is_empty() {
            self.broken.push(format!("{status:?} {:?}", self.disk.files(&folder())));
        }
        let damaged = self.queue().counts().damaged.of(Signal::Traces).get();
        if damaged > 0 {
            self.broken.push(format!("{damaged} items are called damaged: {:?}", status.degraded));
        }
        if status.quarantined > 0 {
            self.broken.push(format!("{} segments set aside: {:?}", status.quarantined, status.degraded));
        }
    }
}

/// Runs one schedule. Returns what was broken.
pub fn run(seed: u64, faults: Faults) -> Vec<String> {
    let mut run = Run::new(seed, faults);
    for _ in 0..run.rng.usize(10..60) {
        run.step();
        if !run.broken.is_empty() {
            return run.broken;
        }
    }
    run.drain();
    run.broken
}

fn cases(default: u64) -> u64 {
    std::env::var("WEIR_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Scenario: random schedules of append, lease, settle, save, close, full disks, failed syncs, and crashes at any call
/// to the disk, on one compounding store each.
/// Guarantees: no acknowledged record is lost, none is altered or invented, lanes keep their order, and nothing is
/// taken for damaged that is only torn.
#[test]
fn the_log_equals_the_model_whatever_dies_when() {
    let start = std::env::var("WEIR_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    for seed in start..start + cases(2_000) {
        // Shown with a failure, whichever way it fails.
        println!("seed {seed}");
        let broken = run(seed, Faults::default());
        assert!(broken.is_empty(), "seed {seed} (WEIR_SEED={seed} WEIR_CASES=1): {broken:#?}");
    }
}

/// Scenario: the same schedules with `fdatasync` left out.
/// Guarantees: the test above can fail: it notices that acknowledged records are gone.
#[test]
fn without_fdatasync_the_model_reports_loss() {
    let faults = || Faults::parse("skip_fdatasync").unwrap();
    let red = (1..=60).filter(|seed| !run(*seed, faults()).is_empty()).count();
    assert!(red >= 18, "only {red} of 60 schedules noticed that nothing was synced");
}

/// Scenario: the same schedules with the receipt given before the commit.
/// Guarantees: the test above can fail: it notices that a receipt was false.
#[test]
fn with_an_early_answer_the_model_reports_loss() {
    let faults = || Faults::parse("answer_before_commit").unwrap();
    let red = (1..=200).filter(|seed| !run(*seed, faults()).is_empty()).count();
    assert!(red >= 10, "only {red} of 200 schedules noticed that receipts were early");
}
