//! The queue in memory: the same order, leases and settlements; its records last as long as the process.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;
use tracing::warn;
use weir_model::{Admission, Batch, BoxFuture, Claim, Held, Log, Mark, Reason, Receipt, Refusal, Seq};

use crate::book::{Book, Fate, Index, Plan, Requeued, Summary};
use crate::digest::{Digest, LetterEnd, digest};
use crate::hot::Paid;
use crate::lease::{ABANDONED_WAIT, Lease, LeaseKey, Record, SettleError, Settlement, Settler};
use crate::marks::{self, Marks};
use crate::queue::{Cursor, Leased, Queue, QueueError, Watch, WhenFull, Wish};
use crate::recovery::unix_seconds;
use crate::segment::Head;
use crate::settings::{EXPORTERS_MAX, is_small};
use crate::status::{CursorStatus, DeadLetter, QueueCounts, Status};

/// Records that share a segment of the book: small, so that its index goes soon after its records.
const SEGMENT_RECORDS: u64 = 1_024;
/// What a record costs beside its body: entries in the book and the map of bodies.
const RECORD_OVERHEAD: u64 = 192;

/// Large admissions leave one part in so many of the budget to small ones.
const RESERVE_PART: u64 = 16;
/// What a sender is told to wait when the queue is full.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A log in memory.
#[derive(Debug)]
pub struct MemoryQueue {
    core: Arc<Core>,
}

#[derive(Debug)]
struct Core {
    budget: AtomicU64,
    dead_budget: u64,
    incarnation: u128,
    counts: QueueCounts,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    book: Book,
    segment: u64,
    bodies: BTreeMap<u64, Paid>,
    /// What it has of other Weirs.
    marks: Marks,
    /// Bytes held and admitted, with what each record costs beside.
    used: u64,
    watches: BTreeMap<u32, watch::Sender<u64>>,
    dead: BTreeMap<u64, (DeadLetter, Bytes)>,
    dead_used: u64,
    next_letter: u64,
    draining: bool,
    closed: bool,
    wall: u64,
}

impl MemoryQueue {
    /// A queue with a budget for bodies (and what is kept beside them); a sixteenth more is for dead letters.
    pub fn new(budget_bytes: u64) -> Arc<Self> {
        let mut bytes = [0; 16];
        if let Err(error) = getrandom::fill(&mut bytes) {
            warn!(error = %error, "no random incarnation");
        }
        let counts = QueueCounts::default();
        let mut book = Book::new(1, counts.clone());
        book.add_segment(1, Summary::empty(1), Some(Index::default()), true);
        let state = State {
            book,
            segment: 1,
            bodies: BTreeMap::new(),
            marks: Marks::new(u64::MAX),
            used: 0,
            watches: BTreeMap::new(),
            dead: BTreeMap::new(),
            dead_used: 0,
            next_letter: 1,
            draining: false,
            closed: false,
            wall: 0,
        };
        Arc::new(Self {
            core: Arc::new(Core {
                budget: AtomicU64::new(budget_bytes),
                dead_budget: budget_bytes / 16,
                incarnation: u128::from_le_bytes(bytes),
                counts,
                state: Mutex::new(state),
            }),
        })
    }
}

// === admission ===

impl Log for MemoryQueue {
    fn admit(&self, batches: Vec<Batch>) -> Result<Box<dyn Admission>, Refusal> {
        let room = batches.iter().map(cost).sum();
        let is_small = is_small(&batches);
        match marks::check(&batches).and_then(|()| self.core.admit(room, is_small)) {
            Ok(()) => {
                Ok(Box::new(MemoryAdmission { core: Arc::clone(&self.core), batches, room: Some(room) }))
            }
            Err(refusal) => {
                for batch in &batches {
                    self.core.counts.refused.of(batch.signal, refusal.reason()).add(u64::from(batch.items));
                }
                Err(refusal)
            }
        }
    }

    fn marks(&self, identity: &str) -> Vec<Mark> {
        self.core.state().marks.of(identity)
    }
}

fn cost(batch: &Batch) -> u64 {
    batch.body.len() as u64 + RECORD_OVERHEAD
}

struct MemoryAdmission {
    core: Arc<Core>,
    batches: Vec<Batch>,
    room: Option<u64>,
}

impl Admission for MemoryAdmission {
    fn commit(mut self: Box<Self>) -> BoxFuture<'static, Result<Receipt, Refusal>> {
        let batches = std::mem::take(&mut self.batches);
        let (upto, known) = self.core.append(batches);
        self.room = None;
        Box::pin(async move { Ok(Receipt::Held(Held::vouch(upto)).with_known(known)) })
    }
}

impl Drop for MemoryAdmission {
    fn drop(&mut self) {
        if let Some(room) = self.room.take() {
            self.core.state().used -= room;
        }
    }
}

impl Core {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn budget(&self) -> u64 {
        self.budget.load(Ordering::Relaxed)
    }

    fn admit(&self, room: u64, is_small: bool) -> Result<(), Refusal> {
        // As on disk: a reserve, so that a small sender finds room when large ones have taken theirs.
        let budget = self.budget();
        let kept_free = if is_small { 0 } else { budget / RESERVE_PART };
        if room + kept_free > budget {
            let why = format!("{room} bytes are more than the queue's budget of {budget}");
            return Err(Refusal::permanent(Reason::TooLarge, why));
        }
        let mut state = self.state();
        if state.draining || state.closed {
            return Err(Refusal::transient(Reason::Draining, Some(RETRY_AFTER), "the process is draining"));
        }
        if state.used + room + kept_free > budget {
            state.skip_oldest(&self.counts, room + kept_free, budget);
        }
        if state.used + room + kept_free > budget {
            let why = format!("the queue has {} of {budget} bytes in use", state.used);
            return Err(Refusal::transient(Reason::QueueFull, Some(RETRY_AFTER), why));
        }
        state.used += room;
        Ok(())
    }

    /// Stores what is new; the newest record, and how many of these were there already.
    fn append(&self, mut batches: Vec<Batch>) -> (Seq, u64) {
        let mut state = self.state();
        let first = state.book.next();
        let sifted = state.marks.sift(first, &batches, false);
        let (room, count): (u64, usize) = (batches.iter().map(cost).sum(), batches.len());
        sifted.retain(&mut batches);
        let known = (count - batches.len()) as u64;
        state.used -= room - batches.iter().map(cost).sum::<u64>();
        for (signal, items) in sifted.duplicates {
            self.counts.duplicates.of(signal).add(items);
        }
        self.counts.forgotten.add(state.marks.apply(sifted.change));
        if batches.is_empty() {
            return (Seq(first - 1), known);
        }
        let listeners = state.book.cursor_count() > 0;
        let mut heads = Vec::with_capacity(batches.len());
        for (seq, batch) in (first..).zip(batches) {
            self.counts.appended.of(batch.signal).add(u64::from(batch.items));
            self.counts.appended_records.add(1);
            let bytes = u32::try_from(batch.body.len()).unwrap_or(u32::MAX);
            heads.push(Head {
                seq,
                signal: batch.signal,
                lane: batch.lane,
                items: batch.items,
                bytes,
                offset: 0,
                body_crc: 0,
                begins_round: false,
                torn: false,
                keyed: batch.origin.is_some(),
            });
            if listeners {
                let Batch { body, claim, origin, .. } = batch;
                state.bodies.insert(seq, Paid { body, claim, origin });
            } else {
                state.used -= cost(&batch);
            }
        }
        self.counts.rounds.add(1);
        if first >= state.segment + SEGMENT_RECORDS {
            state.book.add_segment(first, Summary::empty(first), Some(Index::default()), true);
            state.segment = first;
        }
        let segment = state.segment;
        state.book.append(segment, &heads);
        state.sweep();
        for watch in state.watches.values() {
            watch.send_modify(|version| *version += 1);
        }
        (Seq(state.book.next() - 1), known)
    }
}

impl State {
    /// Drops segments of the book that every exporter is past. The one that is written stays.
    fn sweep(&mut self) {
        for first in self.book.passed() {
            if first != self.segment {
                self.book.remove_segment(first);
            }
        }
    }

    fn release(&mut self, seq: u64) {
        if let Some(Paid { body, .. }) = self.bodies.remove(&seq) {
            self.used -= body.len() as u64 + RECORD_OVERHEAD;
        }
    }

    /// Lets exporters that may skip go on past the oldest records, until there is room.
    fn skip_oldest(&mut self, counts: &QueueCounts, room: u64, budget: u64) {
        while self.used + room > budget {
            let Some(oldest) = self.book.oldest_segment() else { return };
            if oldest == self.segment {
                let next = self.book.next();
                if next == oldest {
                    return;
                }
                self.book.add_segment(next, Summary::empty(next), Some(Index::default()), true);
                self.segment = next;
            }
            if !self.book.blocking(oldest).all(|when_full| when_full == WhenFull::SkipOldest) {
                return;
            }
            let last = self.book.summary(oldest).map_or(oldest, |summary| summary.last);
            let ids: Vec<u32> = self.book.cursors().map(|(id, _)| id).collect();
            for id in ids {
                for (signal, lost) in self.book.skip_segment(id, oldest) {
                    counts.skipped.of(signal).add(lost.items);
                }
            }
            for seq in oldest..=last {
                self.release(seq);
            }
            self.book.remove_segment(oldest);
        }
    }

    fn wake(&self, cursor: u32) {
        if let Some(watch) = self.watches.get(&cursor) {
            watch.send_modify(|version| *version += 1);
        }
    }
}

// === leases ===

/// A record, and what pays for its body.
type ClaimedRecord = (Record, Option<Arc<Claim>>);

#[derive(Debug)]
struct MemoryCursor {
    core: Arc<Core>,
    id: u32,
    name: String,
    watch: Watch,
}

impl Cursor for MemoryCursor {
    fn lease(&self, wish: Wish, now: Instant) -> BoxFuture<'_, Leased> {
        let leased = self.core.lease(self.id, &wish, now);
        Box::pin(async move { leased })
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

impl Core {
    fn lease(self: &Arc<Self>, cursor: u32, wish: &Wish, now: Instant) -> Leased {
        let mut state = self.state();
        if state.closed {
            return Leased::Empty;
        }
        let (key, records, is_letter): (LeaseKey, Vec<ClaimedRecord>, bool) =
            match state.book.plan(cursor, wish, now) {
                Plan::Until(time) => return Leased::Until(time),
                // Every index is in memory.
                Plan::Empty | Plan::Load(_) => return Leased::Empty,
                Plan::Take { key, records } => {
                    let bodies = records.iter().filter_map(|wanted| {
                        let Paid { body, claim, origin } = state.bodies.get(&wanted.seq)?.clone();
                        let (items, attempts) = (wanted.items, wanted.attempts);
                        Some((Record { seq: Seq(wanted.seq), items, body, attempts, origin }, claim))
                    });
                    (key, bodies.collect(), false)
                }
                Plan::Letter { key, id, attempts } => {
                    let Some((letter, body)) = state.dead.get(&id).cloned() else {
                        state.book.give_back(&key, None);
                        state.book.drop_requeued(id);
                        return Leased::Empty;
                    };
                    let record =
                        Record { seq: Seq(letter.seq), items: letter.items, body, attempts, origin: None };
                    (key, vec![(record, None)], true)
                }
            };
        drop(state);
        self.counts.hot_hits.add(records.len() as u64);
        let mut claims: Vec<Arc<Claim>> = Vec::new();
        let records =
            records
                .into_iter()
                .map(|(record, claim)| {
                    claims.extend(claim.filter(|claim: &Arc<Claim>| {
                        claims.last().is_none_or(|last| !Arc::ptr_eq(last, claim))
                    }));
                    record
                })
                .collect();
        let settler: Arc<dyn Settler> = Arc::new(MemorySettler(Arc::clone(self)));
        let lease = Lease::new(key, self.incarnation, now, records, claims, settler);
        Leased::Lease(if is_letter { lease.of_letter() } else { lease })
    }

    fn settle(
        &self,
        key: &LeaseKey,
        verdicts: Vec<(Seq, Settlement)>,
        records: &[Record],
        now: Instant,
    ) -> Result<(), SettleError> {
        let mut state = self.state();
        if state.closed {
            return Err(SettleError::Closed);
        }
        let letter = state.book.letter_of(key);
        let exporter = state.book.cursor(key.cursor).map_or(String::new(), |cursor| cursor.name.clone());
        let mut digest = digest(key, &exporter, state.wall, letter, records, verdicts);
        let buried = state.bury(&mut digest, self.dead_budget, now);
        if let Some(settled) = state.book.settle(key, &digest.fates, now) {
            for record in &settled.records {
                if state.book.all_settled(key.lane, record.seq) {
                    state.release(record.seq);
                }
            }
        }
        state.count_letters();
        state.sweep();
        state.wake(key.cursor);
        buried
    }
}

impl State {
    fn bury(&mut self, digest: &mut Digest, budget: u64, now: Instant) -> Result<(), SettleError> {
        let size: u64 = digest.letters.iter().map(|(_, _, body)| letter_cost(body)).sum();
        if self.dead_used + size > budget && size > 0 {
            for (seq, _, _) in &digest.letters {
                digest.fates.insert(*seq, Fate::Again(now + ABANDONED_WAIT));
            }
            return Err(SettleError::DeadLettersFull { used: self.dead_used, budget });
        }
        self.dead_used += size;
        for (_, mut letter, body) in std::mem::take(&mut digest.letters) {
            letter.id = self.next_letter;
            letter.crc32c = crc32c::crc32c(&body);
            self.next_letter += 1;
            self.dead.insert(letter.id, (letter, body));
        }
        match digest.letter.take() {
            Some((id, LetterEnd::Gone)) => {
                self.remove_letter(id);
            }
            Some((id, LetterEnd::DeadAgain(reason))) => {
                if let Some((letter, _)) = self.dead.get_mut(&id) {
                    letter.reason = reason;
                }
            }
            None => {}
        }
        Ok(())
    }

    fn remove_letter(&mut self, id: u64) -> bool {
        let Some((_, body)) = self.dead.remove(&id) else { return false };
        self.dead_used -= letter_cost(&body);
        true
    }

    fn count_letters(&mut self) {
        let mut letters: BTreeMap<&str, u64> = BTreeMap::new();
        for (letter, _) in self.dead.values() {
            *letters.entry(letter.exporter.as_str()).or_default() += 1;
        }
        for (_, cursor) in self.book.cursors_mut() {
            cursor.dead_letters = letters.get(cursor.name.as_str()).copied().unwrap_or(0);
        }
    }
}

fn letter_cost(body: &Bytes) -> u64 {
    body.len() as u64 + 512
}

struct MemorySettler(Arc<Core>);

impl Settler for MemorySettler {
    fn settle(
        self: Arc<Self>,
        key: LeaseKey,
        verdicts: Vec<(Seq, Settlement)>,
        records: Vec<Record>,
        now: Instant,
    ) -> BoxFuture<'static, Result<(), SettleError>> {
        let settled = self.0.settle(&key, verdicts, &records, now);
        Box::pin(async move { settled })
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

// === the daemon's side ===

impl Queue for MemoryQueue {
    fn subscribe(&self, exporter: &str, when_full: WhenFull) -> Result<Arc<dyn Cursor>, QueueError> {
        if exporter.is_empty() || exporter.len() > 255 {
            return Err(QueueError::Name { bytes: exporter.len() });
        }
        let mut state = self.core.state();
        if state.closed {
            return Err(QueueError::Closed);
        }
        let id = match state.book.find(exporter) {
            Some(id) => id,
            None if state.book.cursor_count() >= EXPORTERS_MAX => {
                return Err(QueueError::Full { max: EXPORTERS_MAX });
            }
            None => {
                let end = state.book.at_end();
                state.book.add_cursor(exporter, &end)
            }
        };
        if let Some(cursor) = state.book.cursor_mut(id) {
            cursor.when_full = when_full;
            cursor.subscribed = true;
            cursor.is_leaving = false;
            cursor.removed_for = None;
        }
        let seen = state.watches.entry(id).or_insert_with(|| watch::channel(0).0).subscribe();
        drop(state);
        let core = Arc::clone(&self.core);
        Ok(Arc::new(MemoryCursor { core, id, name: exporter.to_owned(), watch: Watch(seen) }))
    }

    /// In memory a cursor that is not configured any more goes at once: its records would be gone with the process. What
    /// it had to come is counted.
    fn configured(&self, exporters: &[&str], wall: SystemTime) {
        let mut state = self.core.state();
        state.wall = unix_seconds(wall);
        let gone: Vec<u32> = state
            .book
            .cursors()
            .filter(|(_, cursor)| !exporters.contains(&cursor.name.as_str()))
            .map(|(id, _)| id)
            .collect();
        for id in gone {
            state.remove_cursor(id, &self.core.counts);
        }
    }

    fn leaves(&self, exporter: &str) {
        let mut state = self.core.state();
        let id = state.book.find(exporter);
        if let Some(cursor) = id.and_then(|id| state.book.cursor_mut(id)) {
            cursor.is_leaving = true;
        }
    }

    fn tick(&self, wall: SystemTime) {
        self.core.state().wall = unix_seconds(wall);
    }

    fn status(&self) -> Status {
        let state = self.core.state();
        let (_, totals) = state.book.holding();
        let mut cursors: Vec<_> = state.book.cursors().map(|(id, _)| state.book.cursor_status(id)).collect();
        cursors.sort_by(|a, b| a.exporter.cmp(&b.exporter));
        Status {
            records: state.bodies.len() as u64,
            items: totals.items,
            bytes: state.used,
            budget_bytes: self.core.budget(),
            oldest: state.bodies.keys().next().copied().map(Seq),
            newest: Seq(state.book.next() - 1),
            sources: state.marks.len() as u64,
            duplicates: self.core.counts.all_duplicates(),
            dead_letters: state.dead.len() as u64,
            dead_letter_bytes: state.dead_used,
            dead_letter_budget_bytes: self.core.dead_budget,
            cursors,
            ..Status::default()
        }
    }

    fn counts(&self) -> QueueCounts {
        self.core.counts.clone()
    }

    fn incarnation(&self) -> u128 {
        self.core.incarnation
    }

    fn next(&self) -> Seq {
        Seq(self.core.state().book.next())
    }

    fn dead_letters(&self, after: u64, max: usize) -> Result<Vec<DeadLetter>, QueueError> {
        let Some(from) = after.checked_add(1) else { return Ok(Vec::new()) };
        let state = self.core.state();
        Ok(state.dead.range(from..).take(max.min(1_000)).map(|(_, (letter, _))| letter.clone()).collect())
    }

    fn dead_body(&self, id: u64) -> Result<Bytes, QueueError> {
        let state = self.core.state();
        let found = state.dead.get(&id).map(|(_, body)| body.clone());
        found.ok_or_else(|| QueueError::NotFound { what: format!("dead letter {id}") })
    }

    fn requeue(&self, id: u64) -> BoxFuture<'static, Result<(), QueueError>> {
        let mut state = self.core.state();
        let requeued = state.requeue(id);
        drop(state);
        Box::pin(async move { requeued })
    }

    fn drop_dead(&self, id: u64) -> BoxFuture<'static, Result<(), QueueError>> {
        let mut state = self.core.state();
        let dropped = state.remove_letter(id);
        state.book.drop_requeued(id);
        state.count_letters();
        drop(state);
        let answer =
            if dropped { Ok(()) } else { Err(QueueError::NotFound { what: format!("dead letter {id}") }) };
        Box::pin(async move { answer })
    }

    fn forget(&self, exporter: &str) -> BoxFuture<'static, Result<(), QueueError>> {
        let state = self.core.state();
        let answer = match state.book.find(exporter) {
            Some(_) => Err(QueueError::InUse { exporter: exporter.to_owned() }),
            None => Err(QueueError::NotFound { what: format!("exporter {exporter}") }),
        };
        drop(state);
        Box::pin(async move { answer })
    }

    fn share(&self, budget_bytes: u64) {
        self.core.budget.store(budget_bytes, Ordering::Relaxed);
    }

    fn drain(&self) {
        self.core.state().draining = true;
    }

    fn close(&self) -> BoxFuture<'static, Result<(), QueueError>> {
        let mut state = self.core.state();
        state.closed = true;
        let (_, left) = state.book.holding();
        if left.records > 0 && !state.bodies.is_empty() {
            warn!(
                records = state.bodies.len(),
                "queue in memory closed with records that were not delivered: lost"
            );
        }
        drop(state);
        Box::pin(async { Ok(()) })
    }
}

impl State {
    fn requeue(&mut self, id: u64) -> Result<(), QueueError> {
        let missing = || QueueError::NotFound { what: format!("dead letter {id}") };
        let (letter, _) = self.dead.get(&id).ok_or_else(missing)?;
        let cursor = self.book.find(&letter.exporter).ok_or_else(missing)?;
        let requeued = Requeued::of(letter).ok_or_else(missing)?;
        self.book.requeue(cursor, id, requeued);
        self.wake(cursor);
        Ok(())
    }

    fn remove_cursor(&mut self, id: u32, counts: &QueueCounts) {
        for first in self.book.segments_from(0) {
            for (signal, lost) in self.book.skip_segment(id, first) {
                counts.removed.of(signal).add(lost.items);
            }
        }
        self.book.remove_cursor(id);
        self.watches.remove(&id);
        let settled = self.book.settled_by_all();
        for seq in settled {
            self.release(seq);
        }
        self.sweep();
    }
}
