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
use weir_model::{Exporter, Outcome, Place, Places, Push, Seq};
use weir_queue::{Cursor, Lease, Leased, Record, SettleError, Settlement, Watch, Wish};

use crate::backoff::Retry;
use crate::bisect::{Bisection, Piece, join};
use crate::breaker::{Breaker, Permit};
use crate::count::ExporterCounts;
use crate::ends::Ends;

/// Items that a lease joins up to, unless configured (`batch: {items}`).
pub const ITEMS_MAX_DEFAULT: u64 = 8192;

/// Bytes that a lease joins up to, unless configured.
///
/// Joining copies, so it is for small records; a larger record travels alone and uncopied. Half a mebibyte is past
/// the size from which a larger request is no cheaper, and far below the 4 MiB that gRPC servers take.
pub const BYTES_MAX_DEFAULT: u64 = 512 * 1024;

/// A backend that calls requests too large is not asked for smaller ones than this by shrinking leases.
const BYTES_MAX_FLOOR: u64 = 16 * 1024;

/// Pushes taken in a row after which leases may be twice as large again, up to what is configured.
///
/// A backend whose limit stands gets one request too large in so many.
const GROW_AFTER: u32 = 32;

/// How an exporter's deliveries are made.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The configured id, for logs.
    pub id: Arc<str>,
    /// What a lease joins.
    pub wish: Wish,
    /// How long refusals wait.
    pub retry: Retry,
    /// Ends of a plugin's instances by the same records before these are searched for the one at fault.
    pub record_ends_max: u32,
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
    size: Mutex<Size>,
    ends: Ends,
    counts: ExporterCounts,
}

/// How large leases are.
#[derive(Debug)]
struct Size {
    bytes_max: u64,
    configured: u64,
    /// Pushes taken since the last change.
    taken: u32,
}

impl Size {
    fn new(configured: u64) -> Self {
        Self { bytes_max: configured, configured, taken: 0 }
    }

    fn shrink(&mut self, refused_bytes: u64) {
        self.bytes_max = self.bytes_max.min((refused_bytes / 2).max(BYTES_MAX_FLOOR));
        self.taken = 0;
    }

    fn taken(&mut self) {
        if self.bytes_max >= self.configured {
            return;
        }
        self.taken += 1;
        if self.taken == GROW_AFTER {
            self.bytes_max = self.bytes_max.saturating_mul(2).min(self.configured);
            self.taken = 0;
        }
    }
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
            size: Mutex::new(Size::new(settings.wish.bytes_max)),
            ends: Ends::new(settings.record_ends_max),
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
            let wish = Wish { bytes_max: self.shared.size().bytes_max, ..self.settings.wish };
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
        let (lane, signal) = (lease.lane().index(), lease.signal());
        let mut until = Instant::now();
        let generation = self.exporter.generation();
        while let Some(piece) = work.next().cloned() {
            let push = push_of(&lease, &piece, work.is_searching());
            let (items, bytes) = (push.items, push.body.len() as u64);
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
                    self.delivered(generation);
                    work.taken();
                }
                Outcome::Partial { rejected, message } => {
                    let rejected = rejected.min(items);
                    self.counts.sent.of(signal).add((items - rejected).into());
                    self.counts.rejected.of(signal).add(rejected.into());
                    self.counts.note_error(&message);
                    self.delivered(generation);
                    work.taken();
                }
                Outcome::TooLarge => {
                    self.taken();
                    self.size().shrink(bytes);
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
                Outcome::Ended { kind, message, blames_records } => {
                    self.counts.ends.add(1);
                    self.counts.note_error(&message);
                    // Replaced in the middle: which of the two ended is not known, and nothing follows for the new one.
                    let replaced = self.exporter.generation() != generation;
                    let searches = blames_records && !replaced;
                    if !searches || !self.ends.ended(lane, first_of(&lease), kind, generation) {
                        until = self.failed(signal, items, &message, None);
                        break;
                    }
                    if !work.ended(lease.records(), &format!("{kind}: {message}")) {
                        break;
                    }
                }
                Outcome::Stopped(message) => {
                    self.counts.send_failed.of(signal).add(items.into());
                    self.pause(&message);
                    break;
                }
            }
        }
        until = self.judge(lane, signal, generation, &mut work).unwrap_or(until);
        self.settle(lease, work, until).await;
    }

    /// Refuses what ended a plugin's instances if the plugin works; else says until when all of it waits.
    fn judge(
        &self,
        lane: usize,
        signal: weir_model::Signal,
        generation: u64,
        work: &mut Bisection,
    ) -> Option<Instant> {
        let mut until = None;
        if let Some((items, why)) = work.suspicion() {
            let replaced = self.exporter.generation() != generation;
            if !replaced && self.ends.judge(lane, generation) {
                work.condemn();
                self.exporter.found_at_fault();
                // The backend had no say, so a probe decided nothing.
                self.breaker().unprobe(Instant::now());
            } else {
                until = Some(self.failed(signal, items, &why, None));
            }
        }
        if work.is_decided() {
            self.ends.forget(lane, generation);
        }
        until
    }

    async fn push(&self, push: Push) -> Outcome {
        let started = Instant::now();
        self.counts.pushes.add(1);
        self.counts.in_flight.add(1);
        let under_way = Subtract(&self.counts);
        let outcome = self.exporter.push(push).await;
        drop(under_way);
        self.counts.durations.add(started.elapsed());
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
        }
        breaker.taken();
        // Under the breaker's lock, as the note is written, so that one never outlives the other.
        self.counts.note_paused(None);
    }

    /// The backend took something for good.
    fn delivered(&self, generation: u64) {
        self.taken();
        self.size().taken();
        self.ends.delivered(generation);
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
        let mut breaker = self.breaker();
        self.counts.note_paused(Some(why));
        if breaker.paused(why, Instant::now()) {
            tracing::error!(exporter = %self.id, error = why, "exporter paused until an operator acts");
        }
    }

    fn size(&self) -> MutexGuard<'_, Size> {
        self.size.lock().unwrap_or_else(PoisonError::into_inner)
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

fn first_of(lease: &Lease) -> Seq {
    lease.records().first().map_or(Seq(0), |record| record.seq)
}

fn push_of(lease: &Lease, piece: &Piece, searching: bool) -> Push {
    let (body, id, items, attempt, places) = match piece {
        Piece::Records(range) => {
            let records = &lease.records()[range.clone()];
            let items = records.iter().map(|record| u64::from(record.items)).sum::<u64>();
            let attempt = records.iter().map(|record| record.attempts).max().unwrap_or(1);
            let places = Places {
                lane: lease.lane(),
                records: records.iter().map(place_of).collect(),
                again: lease.is_letter(),
            };
            let items = u32::try_from(items).unwrap_or(u32::MAX);
            (join(records), lease.id_of(records), items, attempt, Some(places))
        }
        Piece::Part { record, body, items, path } => {
            let record = &lease.records()[*record];
            (body.clone(), lease.id_of_part(record, path), *items, record.attempts, None)
        }
    };
    Push { signal: lease.signal(), body, id, attempt, items, places, searching }
}

fn place_of(record: &Record) -> Place {
    let bytes = u32::try_from(record.body.len()).unwrap_or(u32::MAX);
    Place { seq: record.seq, items: record.items, bytes }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use weir_model::{Batch, BoxFuture, Lane, Log as _, Signal};
    use weir_queue::{MemoryQueue, Queue as _, WhenFull};

    /// A plugin whose instance ends at a body with `bad` in it; stops its delivery after so many that it took.
    struct Ending {
        stop: CancellationToken,
        stop_after: u64,
        taken: weir_model::Counter,
        /// Records that were found at fault.
        found: weir_model::Counter,
        /// The ends so far: the body, and whether it was part of a search.
        ends: Mutex<Vec<(Bytes, bool)>>,
    }

    impl Ending {
        fn new(stop: &Stop, stop_after: u64) -> Self {
            let (taken, found, ends) = Default::default();
            Self { stop: stop.drain.clone(), stop_after, taken, found, ends }
        }
    }

    impl Exporter for Ending {
        fn push(&self, push: Push) -> BoxFuture<'_, Outcome> {
            Box::pin(async move {
                if push.body.windows(3).any(|window| window == b"bad") {
                    self.ends.lock().unwrap().push((push.body, push.searching));
                    return of_memory_limit();
                }
                self.taken.add(1);
                if self.taken.get() == self.stop_after {
                    self.stop.cancel();
                }
                Outcome::Accepted
            })
        }

        fn in_flight_max(&self) -> usize {
            1
        }

        fn found_at_fault(&self) {
            self.found.add(1);
        }
    }

    fn of_memory_limit() -> Outcome {
        let message = "64 MiB reached".to_owned();
        Outcome::Ended { kind: "memory_limit", message, blames_records: true }
    }

    fn settings() -> Settings {
        let retry = Retry { initial: Duration::from_millis(1), max: Duration::from_millis(2) };
        let wish =
            Wish { items_max: ITEMS_MAX_DEFAULT, bytes_max: BYTES_MAX_DEFAULT, linger: Duration::ZERO };
        Settings {
            id: "out".into(),
            wish,
            retry,
            record_ends_max: crate::ends::ENDS_MAX,
            counts: ExporterCounts::default(),
        }
    }

    /// A queue with these records in one lane.
    async fn lane_of(bodies: &[&'static [u8]]) -> (Arc<MemoryQueue>, Arc<dyn Cursor>) {
        let queue = MemoryQueue::new(1 << 20);
        let cursor = queue.subscribe("out", WhenFull::Refuse).unwrap();
        let batch = |body: &&'static [u8]| Batch {
            signal: Signal::Traces,
            lane: Lane::new(0).unwrap(),
            items: 1,
            body: Bytes::from_static(body),
            origin: None,
            claim: None,
        };
        let admission = queue.admit(bodies.iter().map(batch).collect()).unwrap();
        let _receipt = admission.commit().await.unwrap();
        (queue, cursor)
    }

    /// Scenario: of three records in a lane the second ends the plugin's instance whenever it is in a push.
    /// Guarantees: it becomes a dead letter with the end's kind as reason, the other two are delivered; the pushes that
    /// search for it say so, and the one that gave reason to search does not; the plugin is told that it was found.
    #[tokio::test]
    async fn a_record_that_ends_instances_becomes_a_dead_letter() {
        let (queue, cursor) = lane_of(&[b"one", b"bad", b"two"]).await;
        let stop = Stop::default();
        let ending = Arc::new(Ending::new(&stop, 2));
        let settings = settings();
        let counts = settings.counts.clone();
        Delivery::new(settings, cursor, Arc::clone(&ending) as _).run(stop).await;
        let letters = queue.dead_letters(0, 10).unwrap();
        assert_eq!(letters.len(), 1);
        assert_eq!(letters[0].reason, "memory_limit: 64 MiB reached");
        assert_eq!(queue.dead_body(letters[0].id).unwrap(), b"bad"[..]);
        assert_eq!(counts.sent.of(Signal::Traces).get(), 2);
        assert_eq!(counts.dead_lettered.of(Signal::Traces).get(), 1);
        assert_eq!(ending.found.get(), 1);
        let ends = ending.ends.lock().unwrap();
        let searches = ends.iter().map(|(_, searching)| *searching);
        assert!(searches.eq((0..ends.len()).map(|number| number > 0)), "{ends:?}");
    }

    /// A plugin that takes one push and then ends at each; its file is replaced after some ends.
    struct Replaced {
        stop: CancellationToken,
        stop_after: u64,
        replaced_after: u64,
        pushes: weir_model::Counter,
    }

    impl Exporter for Replaced {
        fn push(&self, _: Push) -> BoxFuture<'_, Outcome> {
            Box::pin(async move {
                self.pushes.add(1);
                if self.pushes.get() == 1 {
                    return Outcome::Accepted;
                }
                if self.pushes.get() > self.stop_after {
                    self.stop.cancel();
                }
                of_memory_limit()
            })
        }

        fn in_flight_max(&self) -> usize {
            1
        }

        fn generation(&self) -> u64 {
            u64::from(self.pushes.get() > self.replaced_after)
        }
    }

    /// Scenario: a version delivers a record, and ends at the next one; before that one is condemned the file is
    /// replaced, during the first push of a search or a later one, by a version that ends at it too.
    /// Guarantees: without the change the record is a dead letter; the new version has delivered nothing, so it is kept.
    #[tokio::test]
    async fn what_an_old_version_delivered_does_not_condemn() {
        for (replaced_after, letters) in [(u64::MAX, 1), (1 + 6, 0), (1 + 8, 0)] {
            let (queue, cursor) = lane_of(&[b"one", b"two"]).await;
            let stop = Stop::default();
            let stop_after = if letters == 1 { 9 } else { 60 };
            let (pushes, drain) = (weir_model::Counter::default(), stop.drain.clone());
            let plugin = Replaced { stop: drain, stop_after, replaced_after, pushes };
            let wish = Wish { items_max: 1, ..settings().wish };
            Delivery::new(Settings { wish, ..settings() }, cursor, Arc::new(plugin)).run(stop).await;
            assert_eq!(queue.dead_letters(0, 10).unwrap().len(), letters, "replaced after {replaced_after}");
        }
    }

    /// A plugin whose instances end at a record with `bad` in it, through no fault of it, so many times.
    struct Short {
        stop: CancellationToken,
        ends: u64,
        ended: weir_model::Counter,
        searches: weir_model::Counter,
    }

    impl Exporter for Short {
        fn push(&self, push: Push) -> BoxFuture<'_, Outcome> {
            Box::pin(async move {
                self.searches.add(u64::from(push.searching));
                if push.body.windows(3).all(|window| window != b"bad") {
                    return Outcome::Accepted;
                }
                if self.ended.get() < self.ends {
                    self.ended.add(1);
                    let message = "memory budget of the process used up".to_owned();
                    return Outcome::Ended { kind: "memory_budget", message, blames_records: false };
                }
                self.stop.cancel();
                Outcome::Accepted
            })
        }

        fn in_flight_max(&self) -> usize {
            1
        }
    }

    /// Scenario: the process is short of memory for a while: a plugin delivers a record, then its instances end thirty
    /// times at the next one because others have the memory.
    /// Guarantees: the record is neither searched nor a dead letter, but tried again until it is delivered.
    #[tokio::test]
    async fn a_shortage_of_memory_makes_no_dead_letters() {
        let (queue, cursor) = lane_of(&[b"one", b"bad", b"two"]).await;
        let (stop, settings) = (Stop::default(), settings());
        let (ended, searches) = Default::default();
        let short = Arc::new(Short { stop: stop.drain.clone(), ends: 30, ended, searches });
        let counts = settings.counts.clone();
        let wish = Wish { items_max: 1, ..settings.wish };
        Delivery::new(Settings { wish, ..settings }, cursor, Arc::clone(&short) as _).run(stop).await;
        assert_eq!(queue.dead_letters(0, 10).unwrap().len(), 0);
        assert_eq!((short.searches.get(), counts.ends.get()), (0, 30));
        assert_eq!(counts.sent.of(Signal::Traces).get(), 2);
    }

    /// Scenario: one push gets 401, one that was under way 503, the next 200.
    /// Guarantees: what an operator reads says paused until something is taken, and not after.
    #[test]
    fn the_note_of_a_pause_goes_with_the_first_success() {
        let queue = MemoryQueue::new(1 << 20);
        let cursor = queue.subscribe("out", WhenFull::Refuse).unwrap();
        let settings = settings();
        let counts = settings.counts.clone();
        let delivery = Delivery::new(settings, cursor, Arc::new(Ending::new(&Stop::default(), 0)));
        delivery.shared.pause("401");
        delivery.shared.failed(Signal::Traces, 1, "503", None);
        assert_eq!(counts.state().paused.as_deref(), Some("401"));
        delivery.shared.taken();
        assert_eq!(counts.state().paused, None);
    }

    /// Scenario: a backend takes no more than 200 KiB for a while, then anything again.
    /// Guarantees: leases shrink below what it takes, and grow back to what is configured and no further.
    #[test]
    fn leases_grow_back() {
        let mut size = Size::new(BYTES_MAX_DEFAULT);
        size.shrink(512 * 1024);
        size.shrink(256 * 1024);
        assert_eq!(size.bytes_max, 128 * 1024);
        (1..GROW_AFTER).for_each(|_| size.taken());
        assert_eq!(size.bytes_max, 128 * 1024);
        size.taken();
        assert_eq!(size.bytes_max, 256 * 1024);
        (0..10 * GROW_AFTER).for_each(|_| size.taken());
        assert_eq!(size.bytes_max, BYTES_MAX_DEFAULT);
    }
}
