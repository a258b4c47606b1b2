//! The committer: one plain thread that writes everything.
//!
//! `select` takes what has arrived and changes nothing on disk; `apply` changes, and waits for nobody. While one
//! round's `fdatasync` runs the next round gathers, so rounds grow with load by themselves.
//!
//! Invariant: [`Persisted::vouch`] is called here alone, for records whose `fdatasync` has returned without error.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use tracing::{error, info, warn};
use weir_model::{Batch, Persisted, Reason, Receipt, Refusal, Seq};

use crate::book::{Fate, Index, Requeued, Summary};
use crate::dead::{DeadError, DeadLog};
use crate::digest::{Digest, LetterEnd};
use crate::disk::FolderLock;
use crate::journal::{Answer, Arriving, Chore, Core, State, refuse_for_now};
use crate::keys::{self, Base, Keys, ROW_INDEX_FACTOR, STAMP_INDEX_BYTES};
use crate::lease::{ABANDONED_WAIT, LeaseKey, SettleError};
use crate::marks::Change;
use crate::meta::{Kept, Meta};
use crate::queue::{QueueError, WhenFull};
use crate::recovery::RESERVE;
use crate::segment::{Fault, Head, Segment};
use crate::segment_file::{Room, SMALLEST_BYTES};
use crate::settings::Pace;
use crate::status::DeadLetter;

/// Settlements that may be lost in a crash, and are then delivered again.
pub(crate) const DIRTY_MAX: u64 = 2_048;
/// The longest time for which a settlement is only in memory.
const DIRTY_AGE_MAX: Duration = Duration::from_secs(1);
/// Rounds that may fail one after the other, each with a new segment, before nothing is taken any more.
const STRIKES_MAX: u32 = 2;

/// Rounds that failed and are remembered: each has cost a segment, and goes with the segment that it is in.
const VOIDS_MAX: usize = 1_024;

/// How far the answers of a queue that lies (a fault for tests) are ahead of its disk: as far as a slow disk's, so that
/// a kill from outside meets the lie on a fast one too.
const LIE_LEAD: Duration = Duration::from_millis(20);

/// What the committer does next.
pub(crate) enum Action {
    Round(Vec<Arriving>),
    Chore(Chore),
    /// Senders are being refused: look for an exporter that may skip.
    MakeRoom,
    /// The cursors have been only in memory for long enough.
    Save,
    /// The reserve was given up; the disk may have room again.
    RestoreReserve,
}

/// What only the committer touches.
#[derive(Debug)]
pub(crate) struct Writer {
    pub(crate) active: Option<Active>,
    pub(crate) meta: Option<Meta>,
    pub(crate) lock: Option<FolderLock>,
    /// Summaries of sealed segments.
    pub(crate) summaries: BTreeMap<u64, Summary>,
    pub(crate) newest: u64,
    /// Records below have been made durable.
    pub(crate) acked: u64,
    pub(crate) strikes: u32,
    /// Whether the reserve file is there.
    pub(crate) reserve: bool,
    /// Places of rounds that failed, in segments that are there: they may be in the file and are not of the log.
    pub(crate) voids: Vec<Range<u64>>,
}

/// The segment that is written.
#[derive(Debug)]
pub(crate) struct Active {
    pub(crate) first: u64,
    pub(crate) segment: Arc<Segment>,
    /// Whether it may be appended to.
    pub(crate) sound: bool,
}

/// The thread. Ends when the queue is closed or dropped.
pub(crate) fn run_committer(core: Arc<Core>) {
    // The one place where the queue looks at a clock: how long settlements have been only in memory.
    let mut dirty_since: Option<Instant> = None;
    while let Some(action) = core.select(&mut dirty_since) {
        core.writer().apply(&core, action);
    }
    core.refuse_arrived();
}

// === impl Core: select ===

impl Core {
    /// Waits for work. None when the queue is closed.
    fn select(&self, dirty_since: &mut Option<Instant>) -> Option<Action> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if let Some(action) = self.pick(&mut state) {
                return Some(action);
            }
            if state.dirty == 0 {
                *dirty_since = None;
                state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
                continue;
            }
            let waited = dirty_since.get_or_insert_with(Instant::now).elapsed();
            let Some(left) = DIRTY_AGE_MAX.checked_sub(waited).filter(|left| !left.is_zero()) else {
                *dirty_since = None;
                return Some(Action::Save);
            };
            (state, _) = self.work.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Takes work that is there, without waiting.
    pub(crate) fn select_now(&self) -> Option<Action> {
        let mut state = self.state();
        if state.closed { None } else { self.pick(&mut state) }
    }

    /// Takes the next thing to do. A close waits until everything that has arrived is written.
    fn pick(&self, state: &mut State) -> Option<Action> {
        let closing = matches!(state.chores.front(), Some(Chore::Close { .. }));
        let chore_next = std::mem::replace(&mut state.chore_next, false);
        let chore_goes = (chore_next && !closing) || state.arriving.is_empty();
        if chore_goes && let Some(chore) = state.chores.pop_front() {
            return Some(Action::Chore(chore));
        }
        if let Some(round) = self.take_round(state) {
            state.chore_next = true;
            return Some(Action::Round(round));
        }
        if std::mem::take(&mut state.pressed) {
            return Some(Action::MakeRoom);
        }
        if std::mem::take(&mut state.restore_reserve) {
            return Some(Action::RestoreReserve);
        }
        (state.dirty >= DIRTY_MAX).then_some(Action::Save)
    }

    /// Takes admissions in order, whole, up to the bounds of a round; at least one.
    fn take_round(&self, state: &mut State) -> Option<Vec<Arriving>> {
        let mut round = vec![state.arriving.pop_front()?];
        let (mut bytes, mut records) = size_of_admission(&round[0]);
        while let Some(next) = state.arriving.front() {
            let (more_bytes, more_records) = size_of_admission(next);
            if bytes + more_bytes > self.settings.round_bytes
                || records + more_records > self.settings.round_records
            {
                break;
            }
            bytes += more_bytes;
            records += more_records;
            round.extend(state.arriving.pop_front());
        }
        Some(round)
    }

    /// Answers everything that has arrived and will not be written.
    fn refuse_arrived(&self) {
        let mut state = self.state();
        for arriving in std::mem::take(&mut state.arriving) {
            state.release(arriving.footprint);
            // A sender that has gone needs no answer.
            drop(arriving.answer.send(Err(refuse_for_now(Reason::Draining, "the queue is closed"))));
        }
        // Dropping a chore drops its answer, which says that the queue is closed.
        state.chores.clear();
    }
}

fn size_of_admission(arriving: &Arriving) -> (u64, usize) {
    (arriving.batches.iter().map(|batch| batch.body.len() as u64).sum(), arriving.batches.len())
}

// === impl Writer: apply ===

impl Writer {
    /// Does one thing.
    pub(crate) fn apply(&mut self, core: &Core, action: Action) {
        match action {
            Action::Round(round) => {
                self.round(core, round);
                // Room is made before it is missed, so that no sender has to be refused for it.
                self.make_room(core);
            }
            Action::Chore(chore) => self.chore(core, chore),
            Action::MakeRoom => self.make_room(core),
            Action::RestoreReserve => self.restore_reserve(core),
            Action::Save => {
                self.save_or_note(core);
                self.sweep(core);
            }
        }
    }

    /// Writes one round and answers its senders.
    fn round(&mut self, core: &Core, mut round: Vec<Arriving>) {
        let first = core.state().book.next();
        let counts: Vec<usize> = round.iter().map(|arriving| arriving.batches.len()).collect();
        let mut batches: Vec<Batch> =
            round.iter_mut().flat_map(|arriving| std::mem::take(&mut arriving.batches)).collect();
        let mut crcs: Vec<u32> = round.iter().flat_map(|arriving| arriving.crcs.iter().copied()).collect();
        // What the log has already is not stored again. It is answered with the rest: what covers it may be in this round.
        let sifted = core.state().marks.sift(first, &batches, core.settings.faults.no_dedup.is_on());
        let known = sifted.known(counts);
        sifted.retain(&mut batches);
        sifted.retain(&mut crcs);
        let upto = Seq(first.saturating_add(batches.len() as u64).saturating_sub(1));
        if core.settings.faults.answer_before_commit {
            for arriving in round.drain(..) {
                core.state().release(arriving.footprint);
                drop(arriving.answer.send(Ok(Receipt::Persisted(Persisted::vouch(upto)))));
            }
            if core.settings.pace == Pace::Threads {
                std::thread::park_timeout(LIE_LEAD);
            }
        }
        match self.write(core, first, &batches, &crcs, &sifted.change) {
            Ok(heads) => {
                for (signal, items) in sifted.duplicates {
                    core.counts.duplicates.of(signal).add(items);
                }
                self.publish(core, &heads, batches, sifted.change);
                for (arriving, known) in round.into_iter().zip(known) {
                    core.state().release(arriving.footprint);
                    let receipt = Receipt::Persisted(Persisted::vouch(upto)).with_known(known);
                    // A sender that has gone may send again; it was told nothing.
                    drop(arriving.answer.send(Ok(receipt)));
                }
            }
            Err(refusal) => {
                let stored = batches.iter().map(|batch| (batch.signal, u64::from(batch.items)));
                for (signal, items) in stored.chain(sifted.duplicates) {
                    core.counts.refused.of(signal, refusal.reason()).add(items);
                }
                for arriving in round {
                    core.state().release(arriving.footprint);
                    let refusal = refuse_for_now(refusal.reason(), refusal.explain());
                    drop(arriving.answer.send(Err(refusal)));
                }
            }
        }
    }

    /// Makes records durable at the end of the log.
    fn write(
        &mut self,
        core: &Core,
        next: u64,
        batches: &[Batch],
        crcs: &[u32],
        change: &Change,
    ) -> Result<Vec<Head>, Refusal> {
        if let Some(why) = &core.state().failed {
            return Err(refuse_for_now(Reason::QueueFailed, format!("the queue cannot write: {why}")));
        }
        if batches.is_empty() {
            return Ok(Vec::new());
        }
        // A receipt binds us towards every exporter, so a new one's cursor must not be lost in a crash.
        if core.state().unsaved_cursor {
            self.save(core).map_err(|fault| self.cannot_write(core, "write the cursors", &fault))?;
        }
        let bytes = batches.iter().map(|batch| batch.body.len() as u64).sum();
        let room = Room { records: batches.len() as u64, bytes, keys: index_bytes_of(change) };
        let (first, segment) = self.segment_for(core, room)?;
        let others = core.sealed_disk_bytes();
        if others + segment.file().disk_bytes_with(room) > core.budget() {
            core.state().pressed = true;
            return Err(refuse_for_now(Reason::QueueFull, "the queue's budget of disk is used up"));
        }
        if let Err(error) = segment.file().reserve_ahead(room) {
            return Err(self.cannot_write(core, "reserve disk for the segment", &Fault::from(error)));
        }
        let heads = segment.place(next, batches, crcs.iter().copied());
        let appended = append(core, &segment, &heads, batches, change);
        core.state().active_bytes = segment.file().disk_bytes();
        segment.file().note_keys(room.keys);
        match appended {
            Ok(()) => {
                self.strikes = 0;
                self.acked = heads.last().map_or(self.acked, |head| head.seq + 1);
                Ok(heads)
            }
            Err(fault) => Err(self.wound(core, first, &segment, &heads, &fault)),
        }
    }

    /// The segment that has room for a round, a new one where the last is full.
    fn segment_for(&mut self, core: &Core, room: Room) -> Result<(u64, Arc<Segment>), Refusal> {
        if std::mem::take(&mut core.state().abandon_active) {
            self.abandon(core);
        }
        let full = |active: &Active| {
            !active.sound || !active.segment.file().has_room(room, core.settings.segment_bytes)
        };
        if self.active.as_ref().is_some_and(full) {
            self.seal(core);
        }
        if let Some(active) = &self.active {
            return Ok((active.first, Arc::clone(&active.segment)));
        }
        let first = core.state().book.next();
        let others = core.state().disk_bytes();
        if others + SMALLEST_BYTES > core.budget() {
            core.state().pressed = true;
            return Err(refuse_for_now(Reason::QueueFull, "the queue's budget of disk is used up"));
        }
        // An empty segment of an earlier run may have this name: the new one takes its place.
        if self.summaries.remove(&first).is_some() {
            core.store.forget(first);
            core.state().sealed_bytes.remove(&first);
        }
        let segment = self.make_segment(core, first, room)?;
        core.store.put(first, Arc::clone(&segment));
        {
            let mut state = core.state();
            state.book.add_segment(first, Summary::empty(first), Some(Index::default()), true);
            state.active_bytes = segment.file().disk_bytes();
        }
        self.newest = first;
        self.active = Some(Active { first, segment: Arc::clone(&segment), sound: true });
        // The name of the newest segment is kept, so that a start notices if it is gone.
        self.save_or_note(core);
        Ok((first, segment))
    }

    /// Makes a segment, with all marks in it.
    fn make_segment(&mut self, core: &Core, first: u64, room: Room) -> Result<Arc<Segment>, Refusal> {
        let (rows, bytes, oldest) = {
            let state = core.state();
            (state.marks.rows(), state.marks.bytes(), state.book.oldest_segment().unwrap_or(first))
        };
        // A round that failed lies in an earlier segment, as long as that is there.
        self.voids.retain(|void| void.end > oldest);
        let rows = rows.iter().map(|(source, row)| keys::lay(source, row, false)).collect();
        let base = Base { rows, voids: self.voids.clone() };
        let bytes = bytes.saturating_mul(ROW_INDEX_FACTOR);
        let room = Room { keys: room.keys.saturating_add(bytes), ..room };
        let made = Segment::create(&core.store.opening, core.store.folder(), first, room, &base);
        let segment = Arc::new(made.map_err(|fault| self.strike(core, "make a segment", &fault))?);
        segment.file().note_keys(bytes);
        Ok(segment)
    }

    /// Tells everybody in memory about records that are durable.
    fn publish(&mut self, core: &Core, heads: &[Head], batches: Vec<Batch>, change: Change) {
        let Some(active) = &self.active else { return };
        if heads.is_empty() {
            return;
        }
        let mut state = core.state();
        state.book.append(active.first, heads);
        let listeners = state.book.cursor_count() > 0;
        for (head, batch) in heads.iter().zip(batches) {
            core.counts.appended.of(head.signal).add(u64::from(head.items));
            core.counts.appended_records.add(1);
            if listeners {
                state.hot.put(head.seq, batch);
            }
        }
        core.counts.rounds.add(1);
        core.counts.forgotten.add(state.marks.apply(change));
        state.wake_all();
    }

    /// A round failed after its first write: its places are not used again, and the segment is not written again.
    fn wound(
        &mut self,
        core: &Core,
        first: u64,
        segment: &Segment,
        heads: &[Head],
        fault: &Fault,
    ) -> Refusal {
        let end = heads.last().map_or(0, |head| head.seq + 1);
        core.state().book.skip_to(end);
        // What begins the next segment says so: its records may be in this one, and may be sent and stored again.
        self.voids.extend(heads.first().map(|head| head.seq..end));
        if self.voids.len() > VOIDS_MAX {
            self.voids.remove(0);
        }
        if let Some(active) = &mut self.active {
            active.sound = false;
        }
        if segment.file().is_failed() {
            core.counts.sync_failures.add(1);
        }
        segment.file().freeze();
        // They may be in the file all the same, and are not of the log.
        core.store.taint(first, heads.iter().map(|head| head.seq).collect());
        warn!(segment = first, error = %fault, "segment not written any more, the next round begins another");
        self.strike(core, "write the segment", fault)
    }

    /// Counts a failure, and gives up after the second in a row. A full disk does not count: it may have room later.
    fn strike(&mut self, core: &Core, act: &str, fault: &Fault) -> Refusal {
        if matches!(fault, Fault::Full(_)) {
            return self.cannot_write(core, act, fault);
        }
        self.strikes += 1;
        let mut state = core.state();
        state.trouble(format!("{act}: {fault}"));
        if self.strikes >= STRIKES_MAX && state.failed.is_none() {
            error!(act, error = %fault, "queue stops accepting: check the disk, then restart");
            state.failed = Some(format!("{act}: {fault}"));
        }
        refuse_for_now(Reason::QueueFailed, format!("{act}: {fault}"))
    }

    fn cannot_write(&self, core: &Core, act: &str, fault: &Fault) -> Refusal {
        match fault {
            Fault::Full(_) => {
                core.state().pressed = true;
                refuse_for_now(Reason::QueueFull, format!("{act}: {fault}"))
            }
            Fault::Damaged(_) | Fault::Newer(_) | Fault::Io(_) => {
                core.state().trouble(format!("{act}: {fault}"));
                refuse_for_now(Reason::QueueFailed, format!("{act}: {fault}"))
            }
        }
    }

    /// Ends the segment that is written: cleanly, if it is sound.
    fn seal(&mut self, core: &Core) {
        let Some(Active { first, segment, sound }) = self.active.take() else { return };
        let file = segment.file_handle();
        drop(segment);
        if sound {
            if let Err(error) = file.trim() {
                // It is only room that is not given back.
                warn!(segment = first, error = %error, "segment not trimmed");
            }
            core.store.seal(first);
        }
        let mut state = core.state();
        state.book.unpin(first);
        state.sealed_bytes.insert(first, file.disk_bytes());
        state.active_bytes = 0;
        // What an unsound segment really has is seen by the next start.
        if sound && let Some(summary) = state.book.summary(first) {
            self.summaries.insert(first, summary.clone());
        }
    }

    /// The written segment was set aside by a reader.
    fn abandon(&mut self, core: &Core) {
        if let Some(active) = self.active.take() {
            active.segment.file().freeze();
            core.state().active_bytes = 0;
        }
    }
}

/// What the keys and marks of a round take of a segment's index.
fn index_bytes_of(change: &Change) -> u64 {
    let stamps = change.stamps.iter().flatten().count() as u64;
    stamps.saturating_mul(STAMP_INDEX_BYTES).saturating_add(change.growth.saturating_mul(ROW_INDEX_FACTOR))
}

/// Writes a round to its segment.
fn append(
    core: &Core,
    segment: &Segment,
    heads: &[Head],
    batches: &[Batch],
    change: &Change,
) -> Result<(), Fault> {
    let forgotten = change.dropped.iter().map(|(source, row)| keys::lay(source, row, true));
    let rows = change.rows.iter().map(|(source, row)| keys::lay(source, row, false)).chain(forgotten);
    let mut keys = Keys { stamps: change.stamps.clone(), rows: rows.collect() };
    if !core.settings.faults.mark_apart.is_on() || keys.rows.is_empty() {
        return segment.append(heads, batches, &keys);
    }
    let rows = std::mem::take(&mut keys.rows);
    segment.append(heads, batches, &keys)?;
    if core.settings.pace == Pace::Threads {
        std::thread::park_timeout(LIE_LEAD);
    }
    segment.write_marks(&rows)
}

// === impl Writer: room ===

impl Writer {
    /// Deletes segments that every exporter is past. The newest stays, so that places are never given twice.
    pub(crate) fn sweep(&mut self, core: &Core) {
        let active = self.active.as_ref().map(|active| active.first);
        let passed: Vec<u64> = {
            let state = core.state();
            if state.orphaned {
                return;
            }
            state
                .book
                .passed()
                .into_iter()
                .filter(|first| Some(*first) != active && *first != self.newest)
                .collect()
        };
        for first in &passed {
            core.store.forget(*first);
            match core.disk.remove(&core.store.path(*first)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    warn!(segment = first, error = %error, "segment that is done with not deleted");
                    core.state().trouble(format!("delete segment {first}: {error}"));
                    continue;
                }
                Ok(()) | Err(_) => {}
            }
            self.summaries.remove(first);
            let mut state = core.state();
            state.book.remove_segment(*first);
            state.sealed_bytes.remove(first);
        }
        if !passed.is_empty()
            && let Err(error) = core.disk.sync_folder(core.store.folder())
        {
            warn!(error = %error, "deletion of segments not synced, they may come back after a power cut");
        }
    }

    /// Lets exporters that may skip go on past the oldest segments until there is room for two more.
    fn make_room(&mut self, core: &Core) {
        self.sweep(core);
        loop {
            let kept_free = core.settings.reserved_for_small() + 2 * core.settings.segment_bytes;
            let target = core.budget().saturating_sub(kept_free);
            let (used, orphaned) = {
                let state = core.state();
                (state.disk_bytes(), state.orphaned)
            };
            if used <= target || orphaned {
                return;
            }
            let Some(oldest) = core.state().book.oldest_segment() else { return };
            let may_skip =
                core.state().book.blocking(oldest).all(|when_full| when_full == WhenFull::SkipOldest);
            if !may_skip {
                return;
            }
            if self.active.as_ref().is_some_and(|active| active.first == oldest) || oldest == self.newest {
                return;
            }
            self.skip(core, oldest);
            self.sweep(core);
            if core.state().book.oldest_segment() == Some(oldest) {
                return;
            }
        }
    }

    fn skip(&mut self, core: &Core, first: u64) {
        let has_index = core.state().book.has_index(first);
        if !has_index && let Ok((heads, _)) = core.store.get(first).and_then(|segment| segment.heads()) {
            let index = Index::of(first, &heads);
            core.state().book.load(first, index);
        }
        let mut state = core.state();
        let ids: Vec<u32> = state.book.cursors().map(|(id, _)| id).collect();
        for id in ids {
            let mut items = 0;
            for (signal, lost) in state.book.skip_segment(id, first) {
                core.counts.skipped.of(signal).add(lost.items);
                items += lost.items;
            }
            if items > 0 {
                let name = state.book.cursor(id).map_or("", |cursor| cursor.name.as_str());
                warn!(
                    exporter = name,
                    segment = first,
                    items,
                    "queue full, exporter skips its oldest items: lost"
                );
            }
            state.wake(id);
        }
        state.dirty += 1;
    }
}

// === impl Writer: chores ===

impl Writer {
    fn chore(&mut self, core: &Core, chore: Chore) {
        match chore {
            Chore::Bury { key, digest, now, answer } => drop(answer.send(self.bury(core, &key, digest, now))),
            Chore::Requeue { id, answer } => drop(answer.send(self.requeue(core, id))),
            Chore::DropDead { id, answer } => {
                let dropped = self.on_dead(core, |dead| dead.remove(id));
                core.count_letters();
                core.state().book.drop_requeued(id);
                drop(answer.send(found(dropped, core, id)));
            }
            Chore::Forget { exporter, answer } => drop(answer.send(self.forget(core, &exporter))),
            Chore::Save { answer } => {
                drop(answer.send(self.save(core).map_err(|fault| core.failure("write", "meta.redb", fault))));
                self.sweep(core);
            }
            Chore::Close { answer } => self.close(core, answer),
        }
    }

    /// Writes rejected records to the dead-letter log, then settles the lease.
    fn bury(&mut self, core: &Core, key: &LeaseKey, digest: Digest, now: Instant) -> Result<(), SettleError> {
        let Digest { mut fates, letters, letter } = digest;
        let seqs: BTreeSet<u64> = letters.iter().map(|(seq, _, _)| *seq).collect();
        let letters: Vec<_> = letters.into_iter().map(|(_, letter, body)| (letter, body)).collect();
        let of_letter = letter.is_some();
        let mut buried = if letters.is_empty() { Ok(()) } else { self.on_dead_letters(core, letters) };
        if buried.is_ok()
            && let Some((id, end)) = letter
        {
            let done = match end {
                LetterEnd::Gone => self.on_dead(core, |dead| dead.remove(id).map(|_| ())),
                LetterEnd::DeadAgain(reason) => {
                    self.on_dead(core, |dead| dead.mark(id, false, Some(reason.clone())).map(|_| ()))
                }
            };
            buried = done.map_err(|fault| SettleError::DeadLettersFailed(Box::new(fault)));
        }
        if buried.is_err() {
            for (seq, fate) in &mut fates {
                if of_letter || seqs.contains(seq) {
                    *fate = Fate::Again(now + ABANDONED_WAIT);
                }
            }
        }
        core.count_letters();
        core.finish(key, &fates, now);
        buried
    }

    fn on_dead_letters(
        &mut self,
        core: &Core,
        letters: Vec<(DeadLetter, bytes::Bytes)>,
    ) -> Result<(), SettleError> {
        let mut added = core.dead().add(letters.clone());
        if matches!(&added, Err(DeadError::Failed(Fault::Full(_)))) && self.give_up_reserve(core) {
            added = core.dead().add(letters);
        }
        added.map_err(|error| match error {
            DeadError::Full { used } => {
                SettleError::DeadLettersFull { used, budget: core.settings.dead_letter_bytes }
            }
            DeadError::Failed(fault) => {
                core.state().trouble(format!("write the dead-letter log: {fault}"));
                SettleError::DeadLettersFailed(Box::new(fault))
            }
        })
    }

    fn on_dead<T>(
        &mut self,
        core: &Core,
        act: impl Fn(&mut DeadLog) -> Result<T, Fault>,
    ) -> Result<T, Fault> {
        let done = act(&mut core.dead());
        if matches!(&done, Err(Fault::Full(_))) && self.give_up_reserve(core) {
            return act(&mut core.dead());
        }
        done
    }

    fn requeue(&mut self, core: &Core, id: u64) -> Result<(), QueueError> {
        let marked = self.on_dead(core, |dead| dead.mark(id, true, None));
        let letter = marked.map_err(|fault| core.failure("write", "dead.redb", fault))?;
        let letter = letter.ok_or_else(|| QueueError::NotFound { what: format!("dead letter {id}") })?;
        let mut state = core.state();
        let Some(cursor) = state.book.find(&letter.exporter) else {
            return Err(QueueError::NotFound {
                what: format!("exporter {}, whose letter it is,", letter.exporter),
            });
        };
        if let Some(requeued) = Requeued::of(&letter) {
            state.book.requeue(cursor, id, requeued);
        }
        state.wake(cursor);
        Ok(())
    }

    fn forget(&mut self, core: &Core, exporter: &str) -> Result<(), QueueError> {
        {
            let mut state = core.state();
            let Some(id) = state.book.find(exporter) else {
                return Err(QueueError::NotFound { what: format!("exporter {exporter}") });
            };
            if state.book.cursor(id).is_some_and(|cursor| cursor.subscribed && cursor.removed_for.is_none()) {
                return Err(QueueError::InUse { exporter: exporter.to_owned() });
            }
            state.book.remove_cursor(id);
            state.watches.remove(&id);
        }
        info!(exporter, "cursor of an exporter forgotten");
        let saved = self.save(core).map_err(|fault| core.failure("write", "meta.redb", fault));
        self.sweep(core);
        saved
    }

    fn close(&mut self, core: &Core, answer: Answer) {
        let closed = self.close_files(core);
        // Cursors and leases outlive the queue; the folder must not.
        self.lock = None;
        core.stop();
        drop(answer.send(closed));
    }

    /// Lets every file go without writing what is only in memory.
    pub(crate) fn let_go(&mut self, core: &Core) {
        self.active = None;
        if let Err(fault) = core.store.close_all() {
            warn!(error = %fault, "segments not closed cleanly, the next start repairs them");
        }
        if let Err(fault) = core.dead().close() {
            warn!(error = %fault, "dead-letter log not closed cleanly");
        }
        self.meta = None;
        self.lock = None;
    }

    fn close_files(&mut self, core: &Core) -> Result<(), QueueError> {
        self.seal(core);
        self.sweep(core);
        let mut first = core.store.close_all().map_err(|fault| core.failure("close", "segments", fault));
        let dead = core.dead().close().map_err(|fault| core.failure("close", "dead.redb", fault));
        let mut kept = self.kept(core);
        // A segment that failed is looked at by the next start.
        kept.clean = first.is_ok() && (kept.segments.contains_key(&self.newest) || kept.newest == 0);
        if let Some(mut meta) = self.meta.take() {
            let saved = meta.save(&kept).and_then(|()| meta.close());
            first = first.and(saved.map_err(|fault| core.failure("write", "meta.redb", fault)));
        }
        first.and(dead)
    }
}

fn found(done: Result<bool, Fault>, core: &Core, id: u64) -> Result<(), QueueError> {
    match done {
        Ok(true) => Ok(()),
        Ok(false) => Err(QueueError::NotFound { what: format!("dead letter {id}") }),
        Err(fault) => Err(core.failure("write", "dead.redb", fault)),
    }
}

// === impl Writer: cursors on disk ===

impl Writer {
    fn kept(&self, core: &Core) -> Kept {
        let mut state = core.state();
        state.dirty = 0;
        let ids: Vec<u32> = state.book.cursors().map(|(id, _)| id).collect();
        let cursors = ids
            .into_iter()
            .filter_map(|id| Some((state.book.cursor(id)?.name.clone(), state.book.save(id)?)))
            .collect();
        Kept {
            incarnation: core.incarnation,
            next: state.book.next(),
            newest: self.newest,
            acked: self.acked,
            clean: false,
            orphaned: state.orphaned,
            cursors,
            // A segment that a reader set aside is not in the book any more.
            segments: self
                .summaries
                .iter()
                .filter(|(first, _)| state.book.summary(**first).is_some())
                .map(|(first, summary)| (*first, summary.clone()))
                .collect(),
        }
    }

    /// Writes the cursors durably.
    pub(crate) fn save(&mut self, core: &Core) -> Result<(), Fault> {
        let kept = self.kept(core);
        let Some(meta) = &mut self.meta else {
            return Err(Fault::Io(io::Error::other("the queue is closed")));
        };
        let mut saved = meta.save(&kept);
        if matches!(&saved, Err(Fault::Full(_))) && self.give_up_reserve(core) {
            let Some(meta) = &mut self.meta else { return saved };
            saved = meta.save(&kept);
        }
        let bytes = self.meta.as_ref().map_or(0, Meta::disk_bytes);
        let mut state = core.state();
        state.fixed_bytes = bytes + if self.reserve { core.settings.reserve_bytes } else { 0 };
        match &saved {
            Ok(()) => state.unsaved_cursor = false,
            Err(_) => state.dirty += 1,
        }
        saved
    }

    fn save_or_note(&mut self, core: &Core) {
        if let Err(fault) = self.save(core) {
            warn!(error = %fault, "cursors not written, a crash would repeat more deliveries");
            core.state().trouble(format!("write the cursors: {fault}"));
        }
    }

    /// Deletes the reserve file. False where it is gone already.
    fn give_up_reserve(&mut self, core: &Core) -> bool {
        if !std::mem::take(&mut self.reserve) {
            return false;
        }
        let removed =
            core.disk.remove(&core.folder.join(RESERVE)).and_then(|()| core.disk.sync_folder(&core.folder));
        match &removed {
            Ok(()) => warn!("disk full, reserve given up for settlements"),
            Err(error) => warn!(error = %error, "disk full, reserve not given up"),
        }
        removed.is_ok()
    }

    fn restore_reserve(&mut self, core: &Core) {
        if !self.reserve {
            // A failure is tried again at the next tick.
            self.reserve =
                crate::recovery::make_reserve(&core.disk, &core.folder, core.settings.reserve_bytes).is_ok();
        }
    }
}
