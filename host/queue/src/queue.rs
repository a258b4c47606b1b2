//! The two faces of a queue: [`Queue`] for whoever assembles the process, [`Cursor`] for one exporter.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use tokio::sync::watch;
use weir_model::{BoxFuture, Log, Seq};

use crate::lease::Lease;
use crate::status::{CursorStatus, DeadLetter, QueueCounts, Status};

/// What happens when the budget is used up and this exporter is what keeps the oldest segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WhenFull {
    /// Senders get a transient refusal; nothing is lost.
    #[default]
    Refuse,
    /// This exporter moves on past the oldest segment; what it did not deliver is counted as lost.
    SkipOldest,
}

/// What an exporter would like to borrow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Items to join up to. A single record with more is still leased, alone.
    pub items_max: u64,
    /// Body bytes to join up to. A single record with more is still leased, alone.
    pub bytes_max: u64,
    /// How long a lane that has less than that may wait for more. Zero: take what is there.
    pub linger: Duration,
}

/// The answer to a [`Wish`].
#[derive(Debug)]
pub enum Leased {
    /// Records to deliver.
    Lease(Lease),
    /// Nothing yet; ask again at this time, or when [`Watch::changed`] returns, whichever is first.
    Until(Instant),
    /// Nothing to deliver until [`Watch::changed`] returns.
    Empty,
}

/// One pipeline's log, seen by the daemon.
///
/// Dropping a queue is what a crash does: nothing acknowledged is lost, but the next start has to repair. Call
/// [`Queue::close`].
pub trait Queue: Log {
    /// The cursor of `exporter`. A new exporter's cursor starts at the end, a known one's goes on where it was.
    ///
    /// Subscribing twice gives the same cursor, with the later `when_full`.
    ///
    /// # Errors
    /// [`QueueError::Full`] where there are [`crate::EXPORTERS_MAX`] already, [`QueueError::Name`] for a name that is
    /// empty or longer than 255 bytes, [`QueueError::Closed`] after `close`.
    fn subscribe(&self, exporter: &str, when_full: WhenFull) -> Result<Arc<dyn Cursor>, QueueError>;

    /// Says which exporters the configuration names, once all of them have subscribed, and again after a reload.
    ///
    /// Cursors of others are kept for 24 hours from the first call that misses them (`wall`), or until
    /// [`Queue::forget`].
    fn configured(&self, exporters: &[&str], wall: SystemTime);

    /// This exporter will not be configured any more: what was appended before is its to deliver, what comes from now
    /// on is not, until it subscribes again. So its cursor becomes empty under load, and can be waited for.
    ///
    /// On disk this does nothing: there the cursor is kept for a day, and has all of it to come.
    fn leaves(&self, _exporter: &str) {}

    /// Tells the wall time: dates dead letters and lets cursors of removed exporters expire. Call it each 10 s or so.
    fn tick(&self, wall: SystemTime);

    /// What an operator sees.
    fn status(&self) -> Status;

    /// What is counted; shared, so ask once.
    fn counts(&self) -> QueueCounts;

    /// The incarnation of the log: 128 random bits, made with its folder.
    fn incarnation(&self) -> u128;

    /// The place that the next record will have. Never goes back while the folder lives.
    fn next(&self) -> Seq;

    /// Dead letters after `after` in the order of their ids, at most `max` (and at most 1,000), without bodies.
    ///
    /// # Errors
    /// [`QueueError::Io`] where the dead-letter log cannot be read. Reads the disk: not for an async task.
    fn dead_letters(&self, after: u64, max: usize) -> Result<Vec<DeadLetter>, QueueError>;

    /// The body of one dead letter.
    ///
    /// # Errors
    /// [`QueueError::NotFound`]; [`QueueError::Io`]. Reads the disk: not for an async task.
    fn dead_body(&self, id: u64) -> Result<Bytes, QueueError>;

    /// Appends a dead letter to the log again, for its exporter alone, and removes it from the dead-letter log.
    ///
    /// # Errors
    /// [`QueueError::NotFound`]; [`QueueError::Refused`] where the log has no room; [`QueueError::Io`].
    fn requeue(&self, id: u64) -> BoxFuture<'static, Result<(), QueueError>>;

    /// Deletes a dead letter.
    ///
    /// # Errors
    /// [`QueueError::NotFound`]; [`QueueError::Io`].
    fn drop_dead(&self, id: u64) -> BoxFuture<'static, Result<(), QueueError>>;

    /// Deletes the cursor of an exporter that is not configured any more.
    ///
    /// # Errors
    /// [`QueueError::NotFound`]; [`QueueError::InUse`] while the configuration names it; [`QueueError::Io`].
    fn forget(&self, exporter: &str) -> BoxFuture<'static, Result<(), QueueError>>;

    /// From now on the budget for segments is this, for a budget that several logs share: in bytes, raised to what the
    /// log needs at the least. What is kept already stays, also where it is more.
    fn share(&self, budget_bytes: u64);

    /// Refuses further admissions as draining; what is admitted is still committed.
    fn drain(&self);

    /// Writes what is admitted, settled and counted, closes every file cleanly. Leases that are still out are
    /// delivered again after the next start.
    ///
    /// # Errors
    /// [`QueueError::Io`] where the last writes failed; the next start repairs.
    fn close(&self) -> BoxFuture<'static, Result<(), QueueError>>;
}

/// One exporter's place in a log.
pub trait Cursor: Send + Sync {
    /// Borrows records of one lane and one signal, in order, up to what `wish` says.
    ///
    /// At most one lease of a lane is out at a time; a lane whose lease was deferred waits for its time and then
    /// gives the same records again. Lanes take turns. The future is ready at once where the bodies are still in
    /// memory, else it waits for a thread that reads.
    ///
    /// # Cancel safety
    /// A dropped future has leased nothing.
    fn lease(&self, wish: Wish, now: Instant) -> BoxFuture<'_, Leased>;

    /// Sees every change that can turn [`Leased::Empty`] into a lease. Take it before the first call of `lease`.
    fn watch(&self) -> Watch;

    /// Gives nothing any more until [`Cursor::resume`]; leases that are out go on. `why` is shown.
    fn pause(&self, why: &str);

    /// Ends a pause.
    fn resume(&self);

    /// Its part of the status.
    fn status(&self) -> CursorStatus;

    /// The exporter's name.
    fn exporter(&self) -> &str;
}

/// Wakes an exporter. Cannot lose a wake-up: a change between a look at the cursor and the wait ends the wait at once.
#[derive(Debug, Clone)]
pub struct Watch(pub(crate) watch::Receiver<u64>);

impl Watch {
    /// Returns when the cursor has changed since the last call (or since this was made); `false` where it is gone.
    ///
    /// # Cancel safety
    /// A dropped future loses nothing.
    pub async fn changed(&mut self) -> bool {
        self.0.changed().await.is_ok()
    }
}

/// Why something about a queue did not work.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Another process has the folder.
    #[error("the queue folder {folder} is in use by another process: stop it, or ask it")]
    Locked {
        /// The folder.
        folder: PathBuf,
    },
    /// The folder or a file could not be used.
    #[error("{act} {path}")]
    Io {
        /// What was tried, in present tense.
        act: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The exporter, record or dead letter does not exist.
    #[error("{what} not found")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// It is in use.
    #[error("exporter {exporter} is configured: remove it from the configuration first")]
    InUse {
        /// The exporter.
        exporter: String,
    },
    /// The log did not take it.
    #[error("the log refused it: {reason}")]
    Refused {
        /// In the log's words.
        reason: String,
    },
    /// A bound was reached.
    #[error("the log has {max} exporters already")]
    Full {
        /// The bound.
        max: usize,
    },
    /// A map would grow over a bound.
    #[error("{path} may have {max} {what}, not {size}")]
    Bound {
        /// The file.
        path: PathBuf,
        /// What is too many, or too long.
        what: &'static str,
        /// How much it is.
        size: usize,
        /// The bound.
        max: usize,
    },
    /// A name that cannot be one.
    #[error("an exporter's name has 1 to 255 bytes, not {bytes}")]
    Name {
        /// Its length.
        bytes: usize,
    },
    /// The queue is closed.
    #[error("the queue is closed")]
    Closed,
}
