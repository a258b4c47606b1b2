//! The durable queue: admission, append rounds, receipts.
//!
//! ```text
//! folder/            0700
//!   lock             advisory lock: one process
//!   meta.redb        cursors                                   (meta.rs)
//!   dead.redb        dead letters                              (dead.rs)
//!   reserve          deleted to make room for settlements when the disk is full
//!   segments/        the log                                   (segment.rs, segment_file.rs)
//!     00000000000000000001.redb
//!     00000000000000016384.redb.quarantine                     what could not be read, set aside
//!
//!  admit ─▶ room ─▶ commit ─▶ arriving ─┐ one plain thread, the committer:
//!  settle ─▶ book (and, if rejected) ───┤ take all that has arrived, one transaction, one fdatasync,
//!  subscribe, requeue, drop, close ─────┘ then the receipts
//! ```
//!
//! Invariant: a receipt is given after `fdatasync` has returned, and never after one that failed.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{oneshot, watch};
use tracing::error;
use weir_model::{Admission, Batch, BoxFuture, Claim, Log, Mark, Reason, Receipt, Refusal};

use crate::book::{Book, Fate};
use crate::committer::{DIRTY_MAX, Writer, run_committer};
use crate::dead::DeadLog;
use crate::digest::Digest;
use crate::disk::{Disk, SystemDisk};
use crate::hot::Hot;
use crate::lease::{LeaseKey, SettleError};
use crate::marks::{self, Marks};
use crate::queue::QueueError;
use crate::reader::{Read, run_reader};
use crate::segment::Fault;
use crate::segment_file::footprint_of;
use crate::settings::{Pace, Settings, is_small};
use crate::status::QueueCounts;
use crate::store::Store;

/// Admissions that may wait for a round. With the door's own bounds this is never reached; it bounds the list.
const ADMITTED_MAX: usize = 8_192;
/// Operators' acts that may wait for the committer.
const CHORES_MAX: usize = 65_536;
/// Leases that may wait for the reader: each exporter has one for a lane at the most, and dropped ones are cheap.
const READS_MAX: usize = 4_096;
/// What a sender is told to wait when the queue is full or could not write.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// A log on disk.
#[derive(Debug)]
pub struct DiskQueue {
    pub(crate) core: Arc<Core>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

/// What the threads and the handles share.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) settings: Settings,
    /// The budget as it is now; the one of the settings is that of the start.
    pub(crate) budget_bytes: AtomicU64,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) folder: PathBuf,
    pub(crate) incarnation: u128,
    pub(crate) store: Store,
    pub(crate) counts: QueueCounts,
    /// Pays for redb's caches; none where the ledger had no room for them, which is said at the start.
    #[expect(dead_code, reason = "it pays by being there")]
    pub(crate) caches: Option<Claim>,
    pub(crate) state: Mutex<State>,
    /// Wakes the committer.
    pub(crate) work: Condvar,
    /// Held by the committer alone (or by whoever calls `step`).
    pub(crate) writer: Mutex<Writer>,
    pub(crate) dead: Mutex<DeadLog>,
    pub(crate) reads: Mutex<VecDeque<Read>>,
    /// Wakes the reader.
    pub(crate) to_read: Condvar,
}

/// What is known in memory. Its lock is never held over a call to the disk.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) book: Book,
    pub(crate) arriving: VecDeque<Arriving>,
    pub(crate) chores: VecDeque<Chore>,
    pub(crate) hot: Hot,
    pub(crate) watches: BTreeMap<u32, watch::Sender<u64>>,
    /// Admissions that are out or arriving, and what they will take from the disk.
    pub(crate) admitted: usize,
    pub(crate) admitted_bytes: u64,
    /// Bytes on disk of each segment that is not written; the written one's are in `active_bytes`.
    pub(crate) sealed_bytes: BTreeMap<u64, u64>,
    pub(crate) active_bytes: u64,
    /// Cursors and reserve.
    pub(crate) fixed_bytes: u64,
    /// Settlements since the cursors were last written.
    pub(crate) dirty: u64,
    /// A cursor is new and not on disk: it is written before the next receipt.
    pub(crate) unsaved_cursor: bool,
    /// Cursors were lost: every exporter begins at the oldest record, and nothing is deleted until all are known.
    pub(crate) orphaned: bool,
    /// Senders were refused because the budget is used up.
    pub(crate) pressed: bool,
    /// A tick has passed since the reserve was given up.
    pub(crate) restore_reserve: bool,
    /// Whose turn it is: rounds and chores alternate, so that neither starves the other.
    pub(crate) chore_next: bool,
    /// The written segment was found damaged: the next round begins another.
    pub(crate) abandon_active: bool,
    /// What it has of other Weirs.
    pub(crate) marks: Marks,
    pub(crate) draining: bool,
    /// Nothing is taken any more; the threads end.
    pub(crate) closed: bool,
    /// Why nothing can be written.
    pub(crate) failed: Option<String>,
    /// Why the health page should say degraded, newest last; bounded.
    pub(crate) troubles: Vec<String>,
    pub(crate) quarantined: u64,
    /// Dead letters and their bytes, so that nobody who looks waits for the disk.
    pub(crate) dead: (u64, u64),
    /// As of the last tick, in seconds since 1970.
    pub(crate) wall: u64,
}

/// Troubles that are shown.
const TROUBLES_MAX: usize = 8;

impl State {
    /// Notes something that the health page shows.
    pub(crate) fn trouble(&mut self, what: String) {
        if self.troubles.len() < TROUBLES_MAX && !self.troubles.contains(&what) {
            self.troubles.push(what);
        }
    }

    /// Bytes on disk: segments, cursors, reserve.
    pub(crate) fn disk_bytes(&self) -> u64 {
        self.sealed_bytes.values().sum::<u64>() + self.active_bytes + self.fixed_bytes
    }

    /// Gives back what an admission had set aside.
    pub(crate) fn release(&mut self, footprint: u64) {
        self.admitted = self.admitted.saturating_sub(1);
        self.admitted_bytes = self.admitted_bytes.saturating_sub(footprint);
    }

    /// Wakes one exporter.
    pub(crate) fn wake(&self, cursor: u32) {
        if let Some(watch) = self.watches.get(&cursor) {
            watch.send_modify(|version| *version += 1);
        }
    }

    /// Wakes all exporters.
    pub(crate) fn wake_all(&self) {
        for watch in self.watches.values() {
            watch.send_modify(|version| *version += 1);
        }
    }
}

/// An admission whose place in the order is taken.
#[derive(Debug)]
pub(crate) struct Arriving {
    pub(crate) batches: Vec<Batch>,
    /// Checksums of the bodies.
    pub(crate) crcs: Vec<u32>,
    pub(crate) footprint: u64,
    pub(crate) answer: oneshot::Sender<Result<Receipt, Refusal>>,
}

/// What an act of an operator is answered with.
pub(crate) type Answer = oneshot::Sender<Result<(), QueueError>>;

/// Work for the committer beside rounds.
#[derive(Debug)]
pub(crate) enum Chore {
    /// Records go to the dead-letter log (or a letter leaves it), then the lease is settled.
    Bury {
        key: LeaseKey,
        digest: Digest,
        now: Instant,
        answer: oneshot::Sender<Result<(), SettleError>>,
    },
    Requeue {
        id: u64,
        answer: Answer,
    },
    DropDead {
        id: u64,
        answer: Answer,
    },
    Forget {
        exporter: String,
        answer: Answer,
    },
    /// Writes the cursors now.
    Save {
        answer: Answer,
    },
    Close {
        answer: Answer,
    },
}

// === impl DiskQueue ===

impl DiskQueue {
    /// Opens the queue in `folder`, or makes it; `wall` is the time of the day, for the dates of dead letters.
    ///
    /// Blocks for the disk: milliseconds after a clean close, else as long as it takes to repair one segment.
    ///
    /// # Errors
    /// [`QueueError::Locked`] where another process has the folder; [`QueueError::Io`] where the folder cannot be
    /// used at all. Damaged files are set aside and are no error.
    pub fn open(folder: &Path, settings: Settings, wall: SystemTime) -> Result<Arc<Self>, QueueError> {
        Self::open_on(Arc::new(SystemDisk), folder, settings, wall)
    }

    /// The same on another disk.
    ///
    /// # Errors
    /// As [`DiskQueue::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        folder: &Path,
        settings: Settings,
        wall: SystemTime,
    ) -> Result<Arc<Self>, QueueError> {
        let core = Arc::new(crate::recovery::recover(disk, folder, settings, wall)?);
        let mut threads = Vec::new();
        if core.settings.pace == Pace::Threads {
            for (name, run) in [("weir-commit", run_committer as fn(Arc<Core>)), ("weir-read", run_reader)] {
                let core_of_thread = Arc::clone(&core);
                threads.push(
                    std::thread::Builder::new().name(name.to_owned()).spawn(move || run(core_of_thread)),
                );
            }
        }
        let (threads, failed): (Vec<_>, Vec<_>) = threads.into_iter().partition(Result::is_ok);
        let queue = Self { core, threads: Mutex::new(threads.into_iter().flatten().collect()) };
        match failed.into_iter().find_map(Result::err) {
            Some(source) => {
                Err(QueueError::Io { act: "start a thread for", path: folder.to_owned(), source })
            }
            None => Ok(Arc::new(queue)),
        }
    }

    /// With [`Pace::Manual`]: does what the committer's thread would do next. Returns whether there was anything.
    pub fn step(&self) -> bool {
        let mut writer = self.core.writer();
        let action = self.core.select_now();
        action.is_some_and(|action| {
            writer.apply(&self.core, action);
            true
        })
    }

    /// Writes the cursors now, instead of within a second.
    ///
    /// # Errors
    /// [`QueueError::Io`] where they could not be written; deliveries may repeat after a crash.
    pub fn save(&self) -> BoxFuture<'static, Result<(), QueueError>> {
        self.core.order(|answer| Chore::Save { answer })
    }
}

impl Drop for DiskQueue {
    fn drop(&mut self) {
        self.core.stop();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            if thread.join().is_err() {
                error!("a thread of the queue panicked");
            }
        }
        // Cursors may live on. Files are closed before the lock goes, so that nobody writes them under another's hands.
        self.core.writer().let_go(&self.core);
    }
}

impl Log for DiskQueue {
    fn admit(&self, batches: Vec<Batch>) -> Result<Box<dyn Admission>, Refusal> {
        let admitted = marks::check(&batches).and_then(|()| self.core.admit(&batches));
        match admitted {
            Ok(footprint) => {
                Ok(Box::new(DiskAdmission { core: Arc::clone(&self.core), batches, room: Some(footprint) }))
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

/// Room for batches in a log on disk.
struct DiskAdmission {
    core: Arc<Core>,
    batches: Vec<Batch>,
    /// Bytes on disk that are set aside; none once the batches have taken them along.
    room: Option<u64>,
}

impl Admission for DiskAdmission {
    fn commit(mut self: Box<Self>) -> BoxFuture<'static, Result<Receipt, Refusal>> {
        let (answer, answered) = oneshot::channel();
        let batches = std::mem::take(&mut self.batches);
        let crcs = batches.iter().map(|batch| crc32c::crc32c(&batch.body)).collect();
        {
            let mut state = self.core.state();
            if !state.closed
                && let Some(footprint) = self.room.take()
            {
                state.arriving.push_back(Arriving { batches, crcs, footprint, answer });
            }
        }
        self.core.work.notify_one();
        Box::pin(async move { answered.await.unwrap_or_else(|_| Err(closed())) })
    }
}

impl Drop for DiskAdmission {
    fn drop(&mut self) {
        if let Some(footprint) = self.room.take() {
            self.core.state().release(footprint);
        }
    }
}

fn closed() -> Refusal {
    Refusal::transient(Reason::Draining, None, "the queue is closed")
}

/// A refusal that a sender can wait out.
pub(crate) fn refuse_for_now(reason: Reason, why: impl Into<String>) -> Refusal {
    Refusal::transient(reason, Some(RETRY_AFTER), why.into())
}

// === impl Core ===

impl Core {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn writer(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn dead(&self) -> MutexGuard<'_, DeadLog> {
        self.dead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn budget(&self) -> u64 {
        self.budget_bytes.load(Ordering::Relaxed)
    }

    /// Sets room aside for batches, or says why not.
    fn admit(&self, batches: &[Batch]) -> Result<u64, Refusal> {
        let footprint: u64 = batches.iter().map(footprint_of).sum();
        let budget = self.budget();
        let mut state = self.state();
        if state.closed || state.draining {
            return Err(Refusal::transient(Reason::Draining, Some(RETRY_AFTER), "the process is draining"));
        }
        if footprint > budget / 4 {
            let why = format!(
                "{footprint} bytes on disk are more than a quarter of the queue's budget of {budget}"
            );
            return Err(Refusal::permanent(Reason::TooLarge, why));
        }
        if let Some(why) = &state.failed {
            return Err(refuse_for_now(Reason::QueueFailed, format!("the queue cannot write: {why}")));
        }
        let is_small = is_small(batches);
        let kept_free = if is_small { 0 } else { self.settings.reserved_for_small() };
        let wanted = state.disk_bytes() + state.admitted_bytes + footprint + self.settings.slack();
        if wanted + kept_free > budget || state.admitted == ADMITTED_MAX {
            state.pressed = true;
            let why = format!(
                "the queue has {} of {budget} bytes in use",
                state.disk_bytes() + state.admitted_bytes
            );
            drop(state);
            self.work.notify_one();
            return Err(refuse_for_now(Reason::QueueFull, why));
        }
        state.admitted += 1;
        state.admitted_bytes += footprint;
        Ok(footprint)
    }

    /// Hands something to the committer.
    pub(crate) fn order(
        &self,
        chore: impl FnOnce(Answer) -> Chore,
    ) -> BoxFuture<'static, Result<(), QueueError>> {
        let (answer, answered) = oneshot::channel();
        let chore = chore(answer);
        if self.push_chore(chore).is_err() {
            return Box::pin(async { Err(QueueError::Closed) });
        }
        Box::pin(async move { answered.await.unwrap_or(Err(QueueError::Closed)) })
    }

    /// Queues a chore; gives it back where the queue is closed.
    pub(crate) fn push_chore(&self, chore: Chore) -> Result<(), Chore> {
        {
            let mut state = self.state();
            if state.closed || state.chores.len() >= CHORES_MAX {
                return Err(chore);
            }
            state.chores.push_back(chore);
        }
        self.work.notify_one();
        Ok(())
    }

    /// Bytes on disk beside the segment that is written.
    pub(crate) fn sealed_disk_bytes(&self) -> u64 {
        let state = self.state();
        state.disk_bytes() - state.active_bytes
    }

    /// An error for an operator.
    pub(crate) fn failure(&self, act: &'static str, file: &str, fault: Fault) -> QueueError {
        let source = match fault {
            Fault::Io(error) | Fault::Full(error) => error,
            fault @ (Fault::Damaged(_) | Fault::Newer(_)) => io::Error::other(fault),
        };
        QueueError::Io { act, path: self.folder.join(file), source }
    }

    /// Ends a lease in the book, and lets go what nobody needs any more.
    pub(crate) fn finish(&self, key: &LeaseKey, fates: &BTreeMap<u64, Fate>, now: Instant) {
        let wake_committer = {
            let mut state = self.state();
            let Some(settled) = state.book.settle(key, fates, now) else { return };
            for record in &settled.records {
                if state.book.all_settled(key.lane, record.seq) {
                    state.hot.remove(record.seq);
                }
            }
            let before = state.dirty;
            state.dirty += settled.records.len() as u64;
            state.wake(key.cursor);
            // The committer's timer starts with the first, and does not wait for its end after too many.
            (before == 0 && state.dirty > 0) || (before < DIRTY_MAX && state.dirty >= DIRTY_MAX)
        };
        if wake_committer {
            self.work.notify_one();
        }
    }

    /// Tells the book how many letters each exporter has.
    pub(crate) fn count_letters(&self) {
        let dead = self.dead();
        let mut state = self.state();
        state.dead = (dead.letters(), dead.used());
        for (_, cursor) in state.book.cursors_mut() {
            cursor.dead_letters = dead.letters_of(&cursor.name);
        }
    }

    /// Queues a lease for the reader; false where there is no room.
    pub(crate) fn push_read(&self, read: Read) -> bool {
        {
            let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
            if reads.len() >= READS_MAX {
                return false;
            }
            reads.push_back(read);
        }
        self.to_read.notify_one();
        true
    }

    /// Ends the threads, without writing anything.
    pub(crate) fn stop(&self) {
        self.state().closed = true;
        self.work.notify_all();
        // The reader looks at `closed` under this lock, so it cannot miss the call between the look and the wait.
        drop(self.reads.lock().unwrap_or_else(PoisonError::into_inner));
        self.to_read.notify_all();
    }
}
