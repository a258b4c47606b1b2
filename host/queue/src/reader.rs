//! An exporter's side of the log on disk: leases, the thread that reads for them, settlements.
//!
//! Bodies that are still in memory are leased at once. For others the reader's thread plans and reads, so that no
//! async task waits for the disk.
//!
//! Invariant: what is leased is what was appended, byte for byte; what cannot be read is counted and never blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tracing::{error, warn};
use weir_model::{BoxFuture, Claim, Seq};

use crate::book::{Index, Plan, Wanted};
use crate::digest::digest;
use crate::hot::Paid;
use crate::journal::{Chore, Core};
use crate::lease::{Lease, LeaseKey, Record, SettleError, Settlement, Settler};
use crate::meta::set_aside;
use crate::queue::{Cursor, Leased, Watch, Wish};
use crate::segment::{Fault, Stored, file_name};
use crate::settings::Pace;
use crate::status::CursorStatus;

/// How long a lease waits when the memory for it is not there, or the reader has too much to do.
const NO_ROOM_WAIT: Duration = Duration::from_millis(100);
/// How long a lease waits when the disk did not let us read.
const NO_DISK_WAIT: Duration = Duration::from_secs(1);
/// Plans of one lease: each loads an index, or finds that a record or a segment is lost. More than that many losses
/// in a row are left for the next call.
const PLANS_MAX: usize = 256;

/// A lease that is to be read from disk.
#[derive(Debug)]
pub(crate) struct Read {
    cursor: u32,
    wish: Wish,
    now: Instant,
    answer: oneshot::Sender<Handed>,
}

/// A lease on its way to the exporter: dropped there, it has not been leased.
#[derive(Debug)]
struct Handed(Option<Leased>);

impl Handed {
    fn take(mut self) -> Leased {
        self.0.take().unwrap_or(Leased::Empty)
    }
}

impl Drop for Handed {
    fn drop(&mut self) {
        if let Some(Leased::Lease(lease)) = self.0.take() {
            lease.unlease();
        }
    }
}

/// The thread. Ends when the queue is closed or dropped.
pub(crate) fn run_reader(core: Arc<Core>) {
    loop {
        let mut reads = core.reads.lock().unwrap_or_else(PoisonError::into_inner);
        let read = loop {
            if core.state().closed {
                reads.clear();
                return;
            }
            if let Some(read) = reads.pop_front() {
                break read;
            }
            reads = core.to_read.wait(reads).unwrap_or_else(PoisonError::into_inner);
        };
        drop(reads);
        let leased = core.lease_from_disk(read.cursor, &read.wish, read.now);
        // An exporter that has stopped waiting gives it back by dropping it.
        drop(read.answer.send(Handed(Some(leased))));
    }
}

// === impl Core: leases ===

/// What planning came to.
enum Step {
    Done(Leased),
    /// Something changed in the book: plan again.
    Again,
}

impl Core {
    /// A lease out of memory; none where the disk is needed.
    fn lease_from_memory(self: &Arc<Self>, cursor: u32, wish: &Wish, now: Instant) -> Option<Leased> {
        let mut state = self.state();
        if state.closed {
            return Some(Leased::Empty);
        }
        let (key, wanted) = match state.book.plan(cursor, wish, now) {
            Plan::Take { key, records } => (key, records),
            Plan::Letter { key, .. } => {
                state.book.give_back(&key, None);
                return None;
            }
            Plan::Load(_) => return None,
            Plan::Until(time) => return Some(Leased::Until(time)),
            Plan::Empty => return Some(Leased::Empty),
        };
        let bodies: Option<Vec<Paid>> = wanted.iter().map(|record| state.hot.get(record.seq)).collect();
        let Some(bodies) = bodies else {
            state.book.give_back(&key, None);
            return None;
        };
        drop(state);
        self.counts.hot_hits.add(wanted.len() as u64);
        Some(Leased::Lease(self.hand_out(key, now, wanted.into_iter().zip(bodies))))
    }

    /// A lease from wherever the bodies are. Blocks for the disk.
    pub(crate) fn lease_from_disk(self: &Arc<Self>, cursor: u32, wish: &Wish, now: Instant) -> Leased {
        for _ in 0..PLANS_MAX {
            if self.state().closed {
                return Leased::Empty;
            }
            let plan = self.state().book.plan(cursor, wish, now);
            let step = match plan {
                Plan::Take { key, records } => self.read_records(key, records, now),
                Plan::Letter { key, id, attempts } => self.read_letter(key, id, attempts, now),
                Plan::Load(segment) => self.load_index(segment, now),
                Plan::Until(time) => Step::Done(Leased::Until(time)),
                Plan::Empty => Step::Done(Leased::Empty),
            };
            if let Step::Done(leased) = step {
                return leased;
            }
        }
        Leased::Until(now + NO_ROOM_WAIT)
    }

    fn hand_out(
        self: &Arc<Self>,
        key: LeaseKey,
        now: Instant,
        records: impl Iterator<Item = (Wanted, Paid)>,
    ) -> Lease {
        let mut claims: Vec<Arc<Claim>> = Vec::new();
        let records = records
            .map(|(wanted, Paid { body, claim, origin })| {
                // Records of one request share its claim.
                claims
                    .extend(claim.filter(|claim| claims.last().is_none_or(|last| !Arc::ptr_eq(last, claim))));
                let Wanted { seq, items, attempts, .. } = wanted;
                Record { seq: Seq(seq), items, body, attempts, origin }
            })
            .collect();
        let settler: Arc<dyn Settler> = Arc::new(DiskSettler(Arc::clone(self)));
        Lease::new(key, self.incarnation, now, records, claims, settler)
    }

    fn load_index(&self, first: u64, now: Instant) -> Step {
        match self.store.get(first).and_then(|segment| segment.heads()) {
            Ok((heads, _)) => {
                let index = Index::of(first, &heads);
                let mut state = self.state();
                if state.book.adds_up(first, &heads) {
                    state.book.load(first, index);
                    return Step::Again;
                }
                drop(state);
                self.on_fault(
                    first,
                    &Fault::Damaged("its heads are not those that were written".to_owned()),
                    None,
                    now,
                )
            }
            Err(fault) => self.on_fault(first, &fault, None, now),
        }
    }

    fn read_records(self: &Arc<Self>, key: LeaseKey, wanted: Vec<Wanted>, now: Instant) -> Step {
        let mut bodies: BTreeMap<u64, Paid> = BTreeMap::new();
        {
            let state = self.state();
            bodies.extend(wanted.iter().filter_map(|record| Some((record.seq, state.hot.get(record.seq)?))));
        }
        self.counts.hot_hits.add(bodies.len() as u64);
        let cold: Vec<Wanted> =
            wanted.iter().copied().filter(|record| !bodies.contains_key(&record.seq)).collect();
        let bytes = cold.iter().map(|record| u64::from(record.bytes)).sum();
        let Ok(claim) = self.settings.ledger.claim(bytes) else {
            return self.not_now(&key, now + NO_ROOM_WAIT);
        };
        let claim = Arc::new(claim);
        let mut lost = BTreeSet::new();
        for records in cold.chunk_by(|a, b| a.segment == b.segment) {
            if let Err((segment, fault)) = self.read_cold(records, &claim, &mut bodies, &mut lost) {
                return self.on_fault(segment, &fault, Some(&key), now);
            }
        }
        if !lost.is_empty() {
            self.state().book.lose(&key, &lost);
            if lost.len() == wanted.len() {
                return Step::Again;
            }
        }
        let records = wanted.into_iter().filter_map(|record| Some((record, bodies.remove(&record.seq)?)));
        Step::Done(Leased::Lease(self.hand_out(key, now, records)))
    }

    /// Reads records of one segment.
    fn read_cold(
        &self,
        records: &[Wanted],
        claim: &Arc<Claim>,
        bodies: &mut BTreeMap<u64, Paid>,
        lost: &mut BTreeSet<u64>,
    ) -> Result<(), (u64, Fault)> {
        let Some(first) = records.first().map(|record| record.segment) else { return Ok(()) };
        let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
        let read = |()| self.store.get(first).and_then(|segment| segment.read(&seqs));
        let answers = match read(()) {
            Err(Fault::Damaged(_) | Fault::Io(_)) => {
                // redb wants a database that had an error to be opened again; it may also have been the moment.
                self.store.reopen(first);
                read(())
            }
            other => other,
        };
        for (record, answer) in records.iter().zip(answers.map_err(|fault| (first, fault))?) {
            let sound = answer.and_then(|Stored { head, body, origin }| {
                let same = head.items == record.items && head.bytes == record.bytes;
                if same { Ok((body, origin)) } else { Err("its head is not the one of the index".to_owned()) }
            });
            match sound {
                Ok((body, origin)) => {
                    self.counts.cold_reads.add(1);
                    bodies.insert(record.seq, Paid { body, claim: Some(Arc::clone(claim)), origin });
                }
                Err(why) => {
                    error!(seq = record.seq, segment = first, why, "record damaged on disk: lost");
                    self.state().trouble(format!("record {} is damaged: {why}", record.seq));
                    lost.insert(record.seq);
                }
            }
        }
        Ok(())
    }

    fn read_letter(self: &Arc<Self>, key: LeaseKey, id: u64, attempts: u32, now: Instant) -> Step {
        let read = self.dead().read(id);
        match read {
            Ok(Some((letter, body))) => {
                let Ok(claim) = self.settings.ledger.claim(body.len() as u64) else {
                    return self.not_now(&key, now + NO_ROOM_WAIT);
                };
                let wanted = Wanted {
                    seq: letter.seq,
                    segment: 0,
                    items: letter.items,
                    bytes: body.len() as u32,
                    attempts,
                };
                let paid = Paid { body, claim: Some(Arc::new(claim)), origin: None };
                let lease = self.hand_out(key, now, std::iter::once((wanted, paid)));
                Step::Done(Leased::Lease(lease.of_letter()))
            }
            Ok(None) => {
                let mut state = self.state();
                state.book.give_back(&key, None);
                state.book.drop_requeued(id);
                Step::Again
            }
            Err(fault) => {
                warn!(letter = id, error = %fault, "dead letter not read, it stays in the dead-letter log");
                let mut state = self.state();
                state.trouble(format!("read dead letter {id}: {fault}"));
                state.book.give_back(&key, None);
                state.book.drop_requeued(id);
                Step::Again
            }
        }
    }

    fn not_now(&self, key: &LeaseKey, until: Instant) -> Step {
        self.state().book.give_back(key, Some(until));
        Step::Done(Leased::Until(until))
    }

    /// A segment could not be read: damaged ones are set aside, anything else may pass.
    fn on_fault(&self, first: u64, fault: &Fault, key: Option<&LeaseKey>, now: Instant) -> Step {
        match fault {
            Fault::Damaged(_) | Fault::Newer(_) => {
                if let Some(key) = key {
                    self.state().book.give_back(key, None);
                }
                self.set_segment_aside(first, fault);
                Step::Again
            }
            Fault::Full(_) | Fault::Io(_) => {
                warn!(segment = first, error = %fault, "segment not read, trying again");
                self.state().trouble(format!("read segment {first}: {fault}"));
                let until = now + NO_DISK_WAIT;
                if let Some(key) = key {
                    self.state().book.give_back(key, Some(until));
                }
                Step::Done(Leased::Until(until))
            }
        }
    }

    /// Takes a damaged segment out of the log: the file is renamed, what every exporter had to come is counted.
    pub(crate) fn set_segment_aside(&self, first: u64, fault: &Fault) {
        self.store.forget(first);
        let aside = set_aside(self.disk.as_ref(), self.store.folder(), &file_name(first));
        let mut state = self.state();
        let ids: Vec<u32> = state.book.cursors().map(|(id, _)| id).collect();
        let mut records = 0;
        for id in ids {
            for (signal, lost) in state.book.skip_segment(id, first) {
                self.counts.damaged.of(signal).add(lost.items);
                records += lost.records;
            }
        }
        state.book.remove_segment(first);
        if state.sealed_bytes.remove(&first).is_none() {
            state.abandon_active = true;
        }
        state.quarantined += 1;
        self.counts.quarantined.add(1);
        state.trouble(format!("segment {first} is {fault}"));
        state.wake_all();
        match aside {
            Ok(file) => {
                error!(file, error = %fault, records, "segment damaged, set aside: its records are lost")
            }
            Err(rename) => {
                error!(segment = first, error = %fault, rename = %rename, records, "segment damaged and not renamed");
            }
        }
    }
}

// === impl DiskCursor ===

/// An exporter's place in a log on disk.
#[derive(Debug)]
pub(crate) struct DiskCursor {
    pub(crate) core: Arc<Core>,
    pub(crate) id: u32,
    pub(crate) name: String,
    pub(crate) watch: Watch,
}

impl Cursor for DiskCursor {
    fn lease(&self, wish: Wish, now: Instant) -> BoxFuture<'_, Leased> {
        Box::pin(async move {
            if let Some(leased) = self.core.lease_from_memory(self.id, &wish, now) {
                return leased;
            }
            if self.core.settings.pace == Pace::Manual {
                return self.core.lease_from_disk(self.id, &wish, now);
            }
            let (answer, answered) = oneshot::channel();
            if !self.core.push_read(Read { cursor: self.id, wish, now, answer }) {
                return Leased::Until(now + NO_ROOM_WAIT);
            }
            answered.await.map_or(Leased::Empty, Handed::take)
        })
    }

    fn watch(&self) -> Watch {
        self.watch.clone()
    }

    fn pause(&self, why: &str) {
        self.core.state().book.pause(self.id, Some(why.to_owned()));
    }

    fn resume(&self) {
        let mut state = self.core.state();
        state.book.pause(self.id, None);
        state.wake(self.id);
    }

    fn status(&self) -> CursorStatus {
        self.core.state().book.cursor_status(self.id)
    }

    fn exporter(&self) -> &str {
        &self.name
    }
}

// === settlements ===

struct DiskSettler(Arc<Core>);

impl Settler for DiskSettler {
    fn settle(
        self: Arc<Self>,
        key: LeaseKey,
        verdicts: Vec<(Seq, Settlement)>,
        records: Vec<Record>,
        now: Instant,
    ) -> BoxFuture<'static, Result<(), SettleError>> {
        let core = &self.0;
        let digest = {
            let state = core.state();
            if state.closed {
                return Box::pin(async { Err(SettleError::Closed) });
            }
            let letter = state.book.letter_of(&key);
            let exporter = state.book.cursor(key.cursor).map_or("", |cursor| cursor.name.as_str());
            digest(&key, exporter, state.wall, letter, &records, verdicts)
        };
        if !digest.needs_disk() {
            core.finish(&key, &digest.fates, now);
            return Box::pin(async { Ok(()) });
        }
        let (answer, answered) = oneshot::channel();
        if core.push_chore(Chore::Bury { key, digest, now, answer }).is_err() {
            return Box::pin(async { Err(SettleError::Closed) });
        }
        Box::pin(async move { answered.await.unwrap_or(Err(SettleError::Closed)) })
    }

    fn abandon(&self, key: LeaseKey, until: Instant) {
        self.0.counts.abandoned.add(1);
        self.unlease(key, Some(until));
    }

    fn unlease(&self, key: LeaseKey, until: Option<Instant>) {
        let mut state = self.0.state();
        state.book.give_back(&key, until);
        state.wake(key.cursor);
    }
}
