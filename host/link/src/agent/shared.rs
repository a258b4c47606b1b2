//! What pushes and the connection share: the session, who waits for which parcel, and the writer.
//!
//! Invariant: the lock is never held over an await, and a verdict is given once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, oneshot};
use weir_model::{Counter, Seq};
use weir_proto::weir::link::v1::{self, CollectorMessage, Heartbeat, LogFacts};

use crate::agent::folder::Life;
use crate::agent::gauge::{Gauge, Waiting};
use crate::agent::parcel::{Encoding, Parcel};
use crate::agent::session::{Effect, Ended, Outgoing, ParcelId, Session, Verdict};
use crate::limits::AWAY_BYTES_MAX;
use crate::names::{Incarnation, StoreId};

/// What an agent counts, since the start of the process. Cloning shares.
#[derive(Debug, Clone, Default)]
pub struct AgentCounts {
    /// Streams that a collector welcomed.
    pub welcomes: Counter,
    /// Tries to connect that failed, and streams that ended without our wish.
    pub failures: Counter,
    /// Bundles that the collector has persisted.
    pub acknowledged: Counter,
    /// Bundles that it will never take, or that it takes no such large ones of.
    pub rejected: Counter,
    /// Heartbeats that were sent.
    pub heartbeats: Counter,
}

/// A stream that a collector welcomed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Up {
    pub(crate) since: Instant,
    pub(crate) store: StoreId,
    pub(crate) session: u64,
    pub(crate) durable: bool,
}

/// How it stands with the connection, for people.
#[derive(Debug, Clone, Default)]
pub(crate) struct Standing {
    pub(crate) up: Option<Up>,
    pub(crate) why_away: Option<String>,
    pub(crate) last_goodbye: Option<String>,
}

/// The end of the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaving {
    No,
    UntilEmpty,
    AtOnce,
}

struct Core {
    session: Session,
    waiting: HashMap<ParcelId, oneshot::Sender<Verdict>>,
    /// Of this stream; a writer of an earlier one ends.
    stream: u64,
    writer: Option<Waker>,
    standing: Standing,
    leaving: Leaving,
    /// Nothing is sent any more.
    is_closed: bool,
}

/// What pushes and the connection share.
pub(crate) struct Shared {
    core: Mutex<Core>,
    gauges: Mutex<Vec<Gauge>>,
    /// Notified when the lane of states has something new to send.
    reported: Option<Arc<Notify>>,
    /// Tells who reads the stream that it should look again.
    pub(crate) changed: Notify,
    /// Tells who is without a stream that the agent may end.
    pub(crate) left: Notify,
    pub(crate) counts: AgentCounts,
}

/// A parcel that somebody waits for. Dropping it withdraws the parcel.
pub(crate) struct Awaited {
    shared: Arc<Shared>,
    id: ParcelId,
    verdict: oneshot::Receiver<Verdict>,
}

/// The time, as all of the agent takes it.
pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

// === impl Shared: for pushes ===

impl Shared {
    pub(crate) fn new(session: Session, gauges: Vec<Gauge>) -> Self {
        let reported = session.reported();
        let core = Core {
            session,
            waiting: HashMap::new(),
            stream: 0,
            writer: None,
            standing: Standing::default(),
            leaving: Leaving::No,
            is_closed: false,
        };
        Self {
            core: Mutex::new(core),
            gauges: Mutex::new(gauges),
            reported,
            changed: Notify::new(),
            left: Notify::new(),
            counts: AgentCounts::default(),
        }
    }

    /// Gives a parcel to the session.
    ///
    /// # Errors
    /// A verdict that stands already; none where the agent has stopped or has as many as it keeps.
    pub(crate) fn offer(self: &Arc<Self>, parcel: Parcel) -> Result<Awaited, Option<Verdict>> {
        let mut core = self.core();
        if core.is_closed {
            return Err(None);
        }
        let id = core.session.offer(parcel, now())?;
        let (sender, verdict) = oneshot::channel();
        core.waiting.insert(id, sender);
        core.wake_writer();
        Ok(Awaited { shared: Arc::clone(self), id, verdict })
    }

    /// Whether so many bytes more are too many to wait for a connection that is not there.
    pub(crate) fn is_full_without_stream(&self, bytes: u64) -> bool {
        let core = self.core();
        if core.session.is_welcome() || core.is_closed {
            return false;
        }
        let (parcels, _, kept, _) = core.session.kept();
        parcels > 0 && kept.saturating_add(bytes) > AWAY_BYTES_MAX
    }

    /// How bodies go now.
    pub(crate) fn encoding(&self) -> Encoding {
        self.core().session.encoding()
    }

    fn withdraw(&self, id: ParcelId) {
        let mut core = self.core();
        if core.waiting.remove(&id).is_none() {
            return;
        }
        core.session.withdraw(id);
        // It may have been the last that a leaving agent waited for.
        core.wake_writer();
        drop(core);
        self.left.notify_one();
    }
}

// === impl Awaited ===

impl Awaited {
    /// What became of it; none where the agent has stopped.
    pub(crate) async fn verdict(mut self) -> Option<Verdict> {
        (&mut self.verdict).await.ok()
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        self.shared.withdraw(self.id);
    }
}

// === impl Shared: for the writer ===

impl Shared {
    /// The next to send on this stream; none: nothing follows.
    pub(crate) fn poll_next(&self, stream: u64, context: &Context<'_>) -> Poll<Option<Outgoing>> {
        let mut core = self.core();
        if core.stream != stream || core.session.has_left() {
            return Poll::Ready(None);
        }
        match core.session.next(now()) {
            Some(outgoing) => {
                drop(core);
                // What was sent may have moved the time to look again.
                if matches!(outgoing, Outgoing::State(_) | Outgoing::Leaving) {
                    self.changed.notify_one();
                }
                Poll::Ready(Some(outgoing))
            }
            None => {
                core.writer = Some(context.waker().clone());
                Poll::Pending
            }
        }
    }

    /// What a heartbeat says.
    pub(crate) fn heartbeat(&self) -> Heartbeat {
        self.counts.heartbeats.add(1);
        let now = now();
        let waiting: Vec<_> = self.gauges().iter().map(|gauge| gauge.waiting(now)).collect();
        let Waiting { records, bytes, oldest } = waiting.into_iter().fold(Waiting::default(), Waiting::and);
        let resent = self.core().session.resent();
        let counts = &self.counts;
        let counter = |name: &str, value| v1::Counter { name: name.to_owned(), value };
        Heartbeat {
            waiting_records: records,
            waiting_bytes: bytes,
            oldest_ms: u64::try_from(oldest.as_millis()).unwrap_or(u64::MAX),
            counters: vec![
                counter("welcomes", counts.welcomes.get()),
                counter("failures", counts.failures.get()),
                counter("acknowledged", counts.acknowledged.get()),
                counter("rejected", counts.rejected.get()),
                counter("resent", resent),
            ],
        }
    }
}

// === impl Shared: for the connection ===

impl Shared {
    /// A connection is there: its stream's number.
    pub(crate) fn connected(&self, logs: Vec<LogFacts>) -> u64 {
        let mut core = self.core();
        core.stream += 1;
        core.session.connected(logs, now());
        core.stream
    }

    /// The stream is gone, for this reason.
    pub(crate) fn broken(&self, why: String, goodbye: Option<String>) {
        let mut core = self.core();
        // The writer's number is not of this stream any more: it ends.
        core.stream += 1;
        core.session.broken();
        let last_goodbye = goodbye.or_else(|| core.standing.last_goodbye.take());
        core.standing = Standing { up: None, why_away: Some(why), last_goodbye };
        core.wake_writer();
    }

    /// How long a dial waits for the first sign of a collector.
    pub(crate) fn first_sign_within(&self) -> Duration {
        self.core().session.first_sign_within()
    }

    /// Takes a message of the collector; verdicts are given by [`Shared::settle`].
    ///
    /// # Errors
    /// [`Ended`]: the stream is over.
    pub(crate) fn received(&self, message: CollectorMessage) -> Result<Vec<Effect>, Ended> {
        let mut core = self.core();
        let effects = core.session.received(message, now());
        core.wake_writer();
        effects
    }

    /// Looks at the time.
    ///
    /// # Errors
    /// [`Ended`]: the stream is over.
    pub(crate) fn tick(&self) -> Result<(), Ended> {
        let mut core = self.core();
        core.session.tick(now())?;
        core.wake_writer();
        Ok(())
    }

    /// When to look at the time again.
    pub(crate) fn wake(&self) -> Option<Instant> {
        self.core().session.wake()
    }

    /// Returns when the lane of states has something new to send. For one at a time.
    ///
    /// # Cancel safety
    /// A dropped call has lost nothing.
    pub(crate) async fn reported(&self) {
        match &self.reported {
            Some(reported) => reported.notified().await,
            None => std::future::pending().await,
        }
    }

    /// The writer looks again.
    pub(crate) fn look(&self) {
        self.core().wake_writer();
    }

    /// A stream is up.
    pub(crate) fn welcomed(&self, store: StoreId, session: u64, durable: bool) {
        self.counts.welcomes.add(1);
        let mut core = self.core();
        core.standing.up = Some(Up { since: now(), store, session, durable });
        core.standing.why_away = None;
    }

    /// Tells who waits what became of it.
    pub(crate) fn settle(&self, settled: Vec<(ParcelId, Verdict)>) {
        let mut core = self.core();
        for (id, verdict) in settled {
            match &verdict {
                Verdict::Taken => self.counts.acknowledged.add(1),
                Verdict::Rejected(_) | Verdict::TooLarge { .. } => self.counts.rejected.add(1),
            }
            if let Some(sender) = core.waiting.remove(&id) {
                // Whoever waited may be gone in this moment: then the lease is deferred and the records go again.
                let _gone = sender.send(verdict);
            }
        }
    }

    /// The names as the folder has them now; `is_new` where a new life has begun.
    pub(crate) fn rename(&self, life: &Life, is_new: bool) {
        if is_new {
            self.gauges().iter_mut().for_each(Gauge::renewed);
        }
        self.core().session.rename(life.incarnation, life.epoch, life.store);
    }

    /// What a Hello says of the logs.
    pub(crate) fn facts(&self, life: &Life) -> Vec<LogFacts> {
        self.gauges().iter().map(|gauge| gauge.facts(life)).collect()
    }

    /// A log's name and numbering.
    pub(crate) fn numbering(&self, log: u32, incarnation: Incarnation) -> Option<(String, u128)> {
        let gauges = self.gauges();
        let gauge = gauges.get(usize::try_from(log).ok()?)?;
        Some((gauge.log.name.clone(), gauge.numbering(incarnation)))
    }

    /// The store of the collector that is there.
    pub(crate) fn store(&self) -> Option<StoreId> {
        self.core().standing.up.map(|up| up.store)
    }

    /// The names of the logs, in the order of the Hello.
    pub(crate) fn logs(&self) -> Vec<String> {
        self.gauges().iter().map(|gauge| gauge.log.name.clone()).collect()
    }

    /// Below which place each of the logs is settled, in the order of the Hello; none where it cannot be said.
    pub(crate) fn settled(&self) -> Vec<Option<Seq>> {
        self.gauges().iter().map(Gauge::settled).collect()
    }

    /// Notes where the logs end.
    pub(crate) fn sample(&self) {
        let now = now();
        self.gauges().iter_mut().for_each(|gauge| gauge.sample(now));
    }
}

// === impl Shared: its end, and what people see ===

impl Shared {
    /// Leaves the collector: at once, or when nothing is kept any more.
    pub(crate) fn leave(&self, at_once: bool) {
        let mut core = self.core();
        core.leaving = if at_once { Leaving::AtOnce } else { Leaving::UntilEmpty };
        core.session.leave(at_once);
        core.wake_writer();
        drop(core);
        self.left.notify_one();
    }

    /// Whether there is nothing to stay for.
    pub(crate) fn may_end(&self) -> bool {
        let core = self.core();
        match core.leaving {
            Leaving::No => false,
            Leaving::UntilEmpty => core.session.kept().0 == 0,
            Leaving::AtOnce => true,
        }
    }

    /// Whether Leaving was sent.
    pub(crate) fn has_left(&self) -> bool {
        self.core().session.has_left()
    }

    /// Whether the collector has answered the Hello.
    pub(crate) fn is_welcome(&self) -> bool {
        self.core().session.is_welcome()
    }

    /// Nothing is sent any more: who waits is told that the agent has stopped.
    pub(crate) fn close(&self) {
        let mut core = self.core();
        core.is_closed = true;
        core.session.broken();
        core.stream += 1;
        core.waiting.clear();
        core.standing = Standing {
            up: None,
            why_away: Some("the agent has stopped".to_owned()),
            last_goodbye: core.standing.last_goodbye.take(),
        };
        core.wake_writer();
    }

    /// How it stands.
    pub(crate) fn standing(&self) -> Standing {
        self.core().standing.clone()
    }

    /// What is kept: parcels, records, bytes, and for how long the first.
    pub(crate) fn kept(&self) -> (u64, u64, u64, Option<Duration>) {
        let (parcels, records, bytes, since) = self.core().session.kept();
        (parcels, records, bytes, since.map(|since| now().saturating_duration_since(since)))
    }

    /// Bundles that were begun more than once.
    pub(crate) fn resent(&self) -> u64 {
        self.core().session.resent()
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn gauges(&self) -> MutexGuard<'_, Vec<Gauge>> {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Core {
    fn wake_writer(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.wake();
        }
    }
}
