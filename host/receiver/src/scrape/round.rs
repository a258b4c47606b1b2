//! One target's turn: ask the plugin what to send, fetch, have it read, hand on.
//!
//! There is nobody to answer, so what the pipeline refuses for now is offered again until the target's next turn is due; then it
//! is dropped, and counted with the reason.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};
use weir_model::http::{Request, Response};
use weir_model::scrape::{Fetched, Target};
use weir_model::{Reason, Refusal, Scraper, Signal};
use weir_net::client::Keeping;
use weir_net::{Drain, budget};

use super::Clock;
use super::counts::{FailureKind, ScrapeCounts};
use super::fetch::{Failure, Fetch, Order};
use super::target::Found;
use crate::intake::{Checked, Intake, Verdict};

/// The first wait before a batch is offered again; each that follows is twice as long.
const OFFER_WAIT_FIRST: Duration = Duration::from_millis(100);

/// The longest of these waits: a queue with room again is met soon.
const OFFER_WAIT_MAX: Duration = Duration::from_secs(5);

/// What turns are made with.
pub(super) struct Means {
    pub(super) scraper: Arc<dyn Scraper>,
    pub(super) fetch: Arc<dyn Fetch>,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) intake: Intake,
    pub(super) counts: ScrapeCounts,
}

/// What the plugin wants to send to a target.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    /// Whose answer it is: other code is asked again.
    generation: u64,
    request: Arc<Request>,
}

/// A turn that begins.
pub(super) struct Turn {
    pub(super) found: Arc<Found>,
    pub(super) prepared: Option<Prepared>,
    /// When it was due, nanoseconds since the Unix epoch.
    pub(super) at: u64,
    /// When the next one is due.
    pub(super) next: Instant,
    pub(super) keeping: Keeping,
    /// Room among the fetches; given back when the answer is there.
    pub(super) room: Vec<OwnedSemaphorePermit>,
}

/// A turn that has ended.
pub(super) struct Ended {
    pub(super) prepared: Option<Prepared>,
    /// Whether the target took its whole time, and will again.
    pub(super) was_slow: bool,
    /// Whether the plugin has been told of the target.
    pub(super) was_read: bool,
}

impl Means {
    /// Makes one turn. Where `drain` is signaled the fetch ends at once and is not told of; what was fetched is handed on.
    pub(super) async fn turn(&self, turn: Turn, drain: &Drain) -> Ended {
        let Turn { found, prepared, at, next, keeping, room } = turn;
        let mut ended = Ended { prepared: None, was_slow: false, was_read: false };
        self.counts.scrapes.add(1);
        let prepared = match self.prepare(&found, prepared).await {
            Ok(prepared) => prepared,
            Err(refusal) => {
                self.plugin_failed(&found.target, "prepare", &refusal);
                return ended;
            }
        };
        let (origin, timeout) = (found.origin.clone(), found.timeout);
        let request = Arc::clone(&prepared.request);
        ended.prepared = Some(prepared);
        let order = Order { job: found.job, origin, request, timeout, keeping };
        let began = Instant::now();
        let answer = tokio::select! {
            biased;
            () = drain.signaled() => return ended,
            answer = self.fetch.fetch(order) => answer,
        };
        drop(room);
        let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.count(&found.target, &answer);
        ended.was_slow = matches!(&answer, Err(Failure { kind: FailureKind::Timeout, .. }));
        let fetched = Fetched { at, took, answer: answer.map_err(|failure| failure.text) };
        match self.scraper.digest(Arc::clone(&found.target), fetched).await {
            Ok(batches) => {
                ended.was_read = true;
                self.deliver(&found.target, batches, next, drain).await;
            }
            Err(refusal) => self.plugin_failed(&found.target, "digest", &refusal),
        }
        ended
    }

    async fn prepare(&self, found: &Found, known: Option<Prepared>) -> Result<Prepared, Refusal> {
        let generation = self.scraper.generation();
        if let Some(prepared) = known.filter(|known| known.generation == generation) {
            return Ok(prepared);
        }
        let request = Arc::new(self.scraper.prepare(Arc::clone(&found.target)).await?);
        Ok(Prepared { generation, request })
    }

    fn count(&self, target: &Target, answer: &Result<Response, Failure>) {
        let kind = match answer {
            Ok(response) => {
                self.counts.bytes.add(response.body.len() as u64);
                (response.status != 200).then_some(FailureKind::Status)
            }
            Err(failure) => Some(failure.kind),
        };
        if let Some(kind) = kind {
            self.counts.failed(kind).add(1);
            let why = answer.as_ref().err().map_or("", |failure| failure.text.as_str());
            debug!(receiver = %self.intake.settings().id, job = target.job, kind = kind.as_str(), why, "scrape failed");
        }
    }

    fn plugin_failed(&self, target: &Target, call: &'static str, refusal: &Refusal) {
        self.counts.failed(FailureKind::Plugin).add(1);
        let (id, error) = (&self.intake.settings().id, refusal.explain());
        warn!(receiver = %id, job = target.job, call, error, "a scrape is lost: its plugin did not answer");
    }

    /// Has a plugin say the last of a target that is not fetched any more.
    pub(super) async fn forget(
        &self,
        scraper: &dyn Scraper,
        target: &Arc<Target>,
        until: Instant,
        drain: &Drain,
    ) {
        match scraper.forget(Arc::clone(target), self.clock.unix_nanos()).await {
            Ok(batches) => self.deliver(target, batches, until, drain).await,
            Err(refusal) => self.plugin_failed(target, "forget", &refusal),
        }
    }

    /// Hands on what a plugin has made, each batch until it is taken, refused for good, or `until` has come.
    async fn deliver(&self, target: &Target, batches: Vec<(Signal, Bytes)>, until: Instant, drain: &Drain) {
        let settings = self.intake.settings();
        for (signal, body) in batches {
            settings.counts.requests.add(1);
            match self.intake.check(signal, body) {
                Ok(checked) => self.hand_on(target, signal, checked, until, drain).await,
                Err(refusal) => {
                    settings.counts.requests_refused.add(1);
                    self.counts.failed(FailureKind::Plugin).add(1);
                    let error = refusal.explain();
                    warn!(receiver = %settings.id, job = target.job, %signal, error, "plugin made bytes that cannot be taken");
                }
            }
        }
    }

    async fn hand_on(
        &self,
        target: &Target,
        signal: Signal,
        checked: Checked,
        until: Instant,
        drain: &Drain,
    ) {
        let mut wait = OFFER_WAIT_FIRST;
        let refusal = loop {
            let refusal = match self.offer(signal, &checked).await {
                Ok(()) => return,
                Err(refusal) => refusal,
            };
            let Refusal::Transient { retry_after, .. } = &refusal else { break refusal };
            // The half at random: what was refused together does not come again together.
            let jitter = wait.mul_f64(fastrand::f64() / 2.0);
            let at = Instant::now() + retry_after.unwrap_or_default().max(wait / 2 + jitter);
            if at >= until {
                break refusal;
            }
            wait = (wait * 2).min(OFFER_WAIT_MAX);
            tokio::select! {
                biased;
                () = drain.signaled() => break refusal,
                () = sleep_until(at) => {}
            }
        };
        let settings = self.intake.settings();
        let (items, reason) = (checked.items, refusal.reason());
        settings.counts.dropped.of(signal, reason).add(u64::from(items));
        let error = refusal.explain();
        warn!(receiver = %settings.id, job = target.job, %signal, items, %reason, error, "items of a scrape are lost: they were refused");
    }

    async fn offer(&self, signal: Signal, checked: &Checked) -> Result<(), Refusal> {
        let claim = budget::claim(&self.intake.settings().ledger, checked.body.len() as u64)
            .map_err(|error| Refusal::transient(Reason::MemoryFull, None, error))?;
        match self.intake.hand_on(signal, checked.clone(), Arc::new(claim), None).await {
            // Nobody is owed an answer.
            Verdict::Taken { proof: _, .. } | Verdict::Nothing { .. } => Ok(()),
            Verdict::Refused(refusal) => Err(refusal),
        }
    }
}
