//! From the log to the backend: lease, push, settle, for one exporter.
//!
//! One task owns the exporter. It leases as many lanes as the exporter can push at once and gives each lease a task
//! of its own; the breaker tells all of them when the backend as a whole is away.
//!
//! Invariant: every lease is settled exactly once, and "delivered" only when the backend said so.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, warn};
use weir_model::{Exporter, Outcome, Push};
use weir_queue::{Cursor, Lease, Leased, SettleError, Settlement, Watch, Wish};

use crate::backoff::Retry;
use crate::bisect::{Bisection, Piece, join};
use crate::breaker::{Breaker, Permit};
use crate::count::ExporterCounts;

/// Items that a lease joins up to, unless configured (`batch: {items}`).
pub const ITEMS_MAX_DEFAULT: u64 = 8192;

/// Bytes that a lease joins up to, unless configured.
///
/// Joining copies, so it is for small records; a larger record travels alone and uncopied. Half a mebibyte is past
/// the size from which a larger request is no cheaper, and far below the 4 MiB that gRPC servers take.
pub const BYTES_MAX_DEFAULT: u64 = 512 * 1024;

/// A backend that calls requests too large is not asked for smaller ones than this by shrinking leases.
const BYTES_MAX_FLOOR: u64 = 16 * 1024;

/// How an exporter's deliveries are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The configured id, for logs.
    pub id: Arc<str>,
    /// What a lease joins.
    pub wish: Wish,
    /// How long refusals wait.
    pub retry: Retry,
    /// What is counted.
    pub counts: ExporterCounts,
}

/// The ends of a delivery: `drain` stops leasing, `cut` gives up what is under way.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    /// No further leases; pushes that are under way may end.
    pub drain: CancellationToken,
    /// Pushes that are under way are dropped and their leases deferred.
    pub cut: CancellationToken,
}

/// One exporter at work.
pub struct Delivery {
    settings: Settings,
    cursor: Arc<dyn Cursor>,
    shared: Arc<Shared>,
}

/// What the tasks of one exporter share.
struct Shared {
    id: Arc<str>,
    exporter: Arc<dyn Exporter>,
    breaker: Mutex<Breaker>,
    bytes_max: Mutex<u64>,
    counts: ExporterCounts,
}

impl std::fmt::Debug for Delivery {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Delivery").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Delivery {
    /// Joins a cursor and an exporter.
    pub fn new(settings: Settings, cursor: Arc<dyn Cursor>, exporter: Arc<dyn Exporter>) -> Self {
        let shared = Shared {
            id: Arc::clone(&settings.id),
            exporter,
            breaker: Mutex::new(Breaker::new(settings.retry)),
            bytes_max: Mutex::new(settings.wish.bytes_max),
            counts: settings.counts.clone(),
        };
        Self { settings, cursor, shared: Arc::new(shared) }
    }

    /// Delivers until `stop.drain`, and then what is under way until `stop.cut`.
    pub async fn run(self, stop: Stop) {
        let mut under_way = JoinSet::new();
        let mut watch = self.cursor.watch();
        loop {
            let wake = match stop.drain.is_cancelled() {
                false => self.fill(&mut under_way, &stop).await,
                true if under_way.is_empty() => return,
                true => None,
            };
            if !self.wait(&mut under_way, &mut watch, wake, &stop).await {
                // The queue is gone: nothing will ever be leased again.
                under_way.join_all().await;
                return;
            }
        }
    }

    /// Leases what may be leased now, and says when it is worth looking again.
    async fn fill(&self, under_way: &mut JoinSet<()>, stop: &Stop) -> Option<Instant> {
        while under_way.len() < self.shared.exporter.in_flight_max().max(1) {
            let now = Instant::now();
            let permit = self.shared.breaker().permit(now);
            match permit {
                Permit::NotBefore(time) => return Some(time),
                Permit::Wait => return None,
                Permit::Go | Permit::Probe => (),
            }
            let wish = Wish { bytes_max: self.shared.bytes_max(), ..self.settings.wish };
            let lease = match self.cursor.lease(wish, now).await {
                Leased::Lease(lease) => lease,
                Leased::Until(time) => return Some(time),
                Leased::Empty => return None,
            };
            if permit == Permit::Probe {
                self.shared.breaker().probe();
            }
            let (shared, cut) = (Arc::clone(&self.shared), stop.cut.clone());
            let span =
                tracing::debug_span!("delivery", exporter = %self.settings.id, lane = lease.lane().index());
            under_way.spawn(async move { shared.deliver(lease, cut).await }.instrument(span));
            if permit == Permit::Probe {
                return None;
            }
        }
        None
    }

    /// Waits for anything that can change what `fill` would do; false when the queue is gone.
    async fn wait(
        &self,
        under_way: &mut JoinSet<()>,
        watch: &mut Watch,
        wake: Option<Instant>,
        stop: &Stop,
    ) -> bool {
        let draining = stop.drain.is_cancelled();
        let timer = async {
            match wake {
                Some(time) => tokio::time::sleep_until(time.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Some(ended) = under_way.join_next() => {
                if let Err(error) = ended && error.is_panic() {
                    warn!(exporter = %self.settings.id, %error, "delivery panicked, its lease is deferred");
                    self.shared.breaker().unprobe(Instant::now());
                }
                true
            }
            there = watch.changed(), if !draining => there,
            () = timer => true,
            () = stop.drain.cancelled(), if !draining => true,
        }
    }
}

// === impl Shared ===

impl Shared {
    async fn deliver(&self, lease: Lease, cut: CancellationToken) {
        let mut work = Bisection::new(lease.signal(), lease.records().len());
        let mut until = Instant::now();
        while let Some(piece) = work.next().cloned() {
            let push = push_of(&lease, &piece);
            let (signal, items, bytes) = (push.signal, push.items, push.body.len() as u64);
            let outcome = tokio::select! {
                outcome = self.push(push) => outcome,
                () = cut.cancelled() => {
                    self.breaker().unprobe(Instant::now());
                    break;
                }
            };
            match outcome {
                Outcome::Accepted => {
                    self.counts.sent.of(signal).add(items.into());
                    self.taken();
                    work.taken();
                }
                Outcome::Partial { rejected, message } => {
                    let rejected = rejected.min(items);
                    self.counts.sent.of(signal).add((items - rejected).into());
                    self.counts.rejected.of(signal).add(rejected.into());
                    self.counts.note_error(&message);
                    self.taken();
                    work.taken();
                }
                Outcome::TooLarge => {
                    self.taken();
                    self.shrink(bytes);
                    work.too_large(lease.records());
                }
                Outcome::Permanent(message) => {
                    self.taken();
                    self.counts.note_error(&message);
                    work.refused(&message);
                }
                Outcome::Retryable { message, after } => {
                    until = self.failed(signal, items, &message, after);
                    break;
                }
                Outcome::Ended { message, .. } => {
                    self.counts.ends.add(1);
                    until = self.failed(signal, items, &message, None);
                    break;
                }
                Outcome::Stopped(message) => {
                    self.counts.send_failed.of(signal).add(items.into());
                    self.pause(&message);
                    break;
                }
            }
        }
        self.settle(lease, work, until).await;
    }

    async fn push(&self, push: Push) -> Outcome {
        let started = Instant::now();
        self.counts.pushes.add(1);
        self.counts.in_flight.add(1);
        let under_way = Subtract(&self.counts);
        let outcome = self.exporter.push(push).await;
        drop(under_way);
        self.counts.push_nanos.add(u64::try_from(started.elapsed().as_nanos()).unwrap_or(u64::MAX));
        outcome
    }

    async fn settle(&self, lease: Lease, work: Bisection, until: Instant) {
        let signal = lease.signal();
        let settlements = work.settlements(until);
        let mut dead = 0;
        for (record, settlement) in lease.records().iter().zip(&settlements) {
            dead += match settlement {
                Settlement::Rejected { reason } => {
                    warn!(exporter = %self.id, seq = %record.seq, reason, "record rejected, to the dead-letter log");
                    u64::from(record.items)
                }
                Settlement::RejectedParts { parts } => {
                    warn!(exporter = %self.id, seq = %record.seq, "part of a record rejected, to the dead-letter log");
                    parts.iter().map(|(_, items, _)| u64::from(*items)).sum()
                }
                Settlement::Delivered | Settlement::Deferred { .. } => 0,
            };
        }
        let verdicts = lease.records().iter().map(|record| record.seq).zip(settlements).collect();
        match lease.settle(verdicts, Instant::now()).await {
            Ok(()) => self.counts.dead_lettered.of(signal).add(dead),
            Err(SettleError::Closed) => (),
            Err(error @ (SettleError::DeadLettersFull { .. } | SettleError::DeadLettersFailed(_))) => {
                self.pause(&error.to_string());
            }
        }
    }

    /// The backend is there: it took something, or said why it never will.
    fn taken(&self) {
        let mut breaker = self.breaker();
        if breaker.why_paused().is_some() {
            info!(exporter = %self.id, "exporter resumed");
            self.counts.note_paused(None);
        }
        breaker.taken();
    }

    fn failed(
        &self,
        signal: weir_model::Signal,
        items: u32,
        message: &str,
        after: Option<Duration>,
    ) -> Instant {
        self.counts.send_failed.of(signal).add(items.into());
        self.counts.note_error(message);
        let mut breaker = self.breaker();
        let was_shut = breaker.permit(Instant::now()) == Permit::Go;
        let until = breaker.refused(after, Instant::now(), fastrand::f64());
        if was_shut {
            warn!(exporter = %self.id, error = message, "backend refuses for now, will try again");
        }
        until
    }

    fn pause(&self, why: &str) {
        self.counts.note_error(why);
        self.counts.note_paused(Some(why));
        if self.breaker().paused(why, Instant::now()) {
            tracing::error!(exporter = %self.id, error = why, "exporter paused until an operator acts");
        }
    }

    fn shrink(&self, refused_bytes: u64) {
        let mut bytes_max = self.bytes_max.lock().unwrap_or_else(PoisonError::into_inner);
        *bytes_max = (*bytes_max).min((refused_bytes / 2).max(BYTES_MAX_FLOOR));
    }

    fn bytes_max(&self) -> u64 {
        *self.bytes_max.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn breaker(&self) -> MutexGuard<'_, Breaker> {
        self.breaker.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes a push off the count of those under way, also when it is dropped in the middle.
struct Subtract<'a>(&'a ExporterCounts);

impl Drop for Subtract<'_> {
    fn drop(&mut self) {
        self.0.in_flight.sub(1);
    }
}

fn push_of(lease: &Lease, piece: &Piece) -> Push {
    let (body, id, items, attempt) = match piece {
        Piece::Records(range) => {
            let records = &lease.records()[range.clone()];
            let items = records.iter().map(|record| u64::from(record.items)).sum::<u64>();
            let attempt = records.iter().map(|record| record.attempts).max().unwrap_or(1);
            (join(records), lease.id_of(records), u32::try_from(items).unwrap_or(u32::MAX), attempt)
        }
        Piece::Part { record, body, items, path } => {
            let record = &lease.records()[*record];
            (body.clone(), lease.id_of_part(record, path), *items, record.attempts)
        }
    };
    Push { signal: lease.signal(), body, id, attempt, items }
}
