//! One target's turn: ask the plugin what to send, fetch, have it read, hand on.
//!
//! There is nobody to answer, so what the pipeline refuses for now is offered again until the target's next turn is due; then it
//! is dropped, and counted with the reason. What waits is paid for.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};
use weir_model::http::{Request, Response};
use weir_model::scrape::{Fetched, Target};
use weir_model::{Claim, Reason, Refusal, SMALL_BYTES_MAX, Scraper, Signal};
use weir_net::client::Keeping;
use weir_net::{Drain, budget};

use super::Clock;
use super::counts::{FailureKind, ScrapeCounts};
use super::fetch::{Failure, Fetch, Order};
use super::slots::Pace;
use super::target::Found;
use crate::intake::{Checked, Intake, Verdict};

/// The first wait before a batch is offered again; each that follows is twice as long.
const OFFER_WAIT_FIRST: Duration = Duration::from_millis(100);

/// The longest of these waits: a queue with room again is met soon.
const OFFER_WAIT_MAX: Duration = Duration::from_secs(5);

/// How long batches are still offered once the receiver ends: a queue says to come again after a second, and this is a quarter of
/// `drain_timeout` where nobody wrote another.
const DRAIN_WITHIN: Duration = Duration::from_secs(5);

/// A target that fails after so long, or after half of its timeout, is taken for one that costs all of its time: most answer within
/// milliseconds, and one whose host is gone fails when the client gives its address up, long before the timeout.
const SLOW_AFTER: Duration = Duration::from_secs(1);

/// What a plugin is told of a target that is held back.
const HELD: &str = "not fetched: the plugin ended on this target's answer";

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
    /// Nothing is fetched: the plugin ended on the last answer, and is told why there is none.
    pub(super) is_held: bool,
    /// Room among the fetches; given back when the answer is there.
    pub(super) room: Vec<OwnedSemaphorePermit>,
}

/// A turn that has ended.
pub(super) struct Ended {
    pub(super) prepared: Option<Prepared>,
    /// How long the target took; none where it was not asked, or not to the end.
    pub(super) pace: Option<Pace>,
    pub(super) reading: Reading,
}

/// What the plugin made of a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// It was not told of the turn, or refused.
    Nothing,
    /// It was told why there is no answer.
    Absence,
    /// It has read the answer.
    Answer,
    /// Its instance ended on what it read; with the generation of its code.
    Ended(u64),
}

impl Means {
    /// Makes one turn. Where `drain` is signaled the fetch ends at once and is not told of; what was fetched is handed on, as far
    /// as it is taken soon.
    pub(super) async fn turn(&self, turn: Turn, drain: &Drain) -> Ended {
        let Turn { found, prepared, at, next, keeping, is_held, room } = turn;
        if is_held {
            let fetched = Fetched { at, took: 0, answer: Err(HELD.to_owned()) };
            let reading = self.read(&found.target, fetched, next, drain).await;
            return Ended { prepared, pace: None, reading };
        }
        let mut ended = Ended { prepared: None, pace: None, reading: Reading::Nothing };
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
        let took = began.elapsed();
        self.count(&found.target, &answer);
        ended.pace = Some(pace(&answer, took, timeout));
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        let fetched = Fetched { at, took, answer: answer.map_err(|failure| failure.text) };
        ended.reading = self.read(&found.target, fetched, next, drain).await;
        ended
    }

    /// Has the plugin read what came, and hands on what it makes of it.
    async fn read(&self, target: &Arc<Target>, fetched: Fetched, next: Instant, drain: &Drain) -> Reading {
        let (generation, is_answer) = (self.scraper.generation(), fetched.answer.is_ok());
        match self.scraper.digest(Arc::clone(target), fetched).await {
            Ok(batches) => {
                self.deliver(target, batches, next, drain).await;
                if is_answer { Reading::Answer } else { Reading::Absence }
            }
            Err(refusal) => {
                self.plugin_failed(target, "digest", &refusal);
                if refusal.is_end_by_input() { Reading::Ended(generation) } else { Reading::Nothing }
            }
        }
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
        // All are paid for before the first is offered: they wait for each other, as long as until the next turn.
        let parcels: Vec<Parcel<'_>> = batches
            .into_iter()
            .filter_map(|(signal, body)| self.parcel(target, signal, body))
            .filter_map(Parcel::paid)
            .collect();
        let mut patience = Patience { until, drain, is_draining: false, wait: OFFER_WAIT_FIRST };
        for parcel in parcels {
            parcel.hand_on(&mut patience).await;
        }
    }

    /// A batch that a plugin has made, checked; none where it cannot be taken.
    fn parcel<'a>(&'a self, target: &'a Target, signal: Signal, body: Bytes) -> Option<Parcel<'a>> {
        let settings = self.intake.settings();
        settings.counts.requests.add(1);
        match self.intake.check(signal, body) {
            Ok(checked) => {
                Some(Parcel { intake: &self.intake, target, signal, checked, claim: None, is_settled: false })
            }
            Err(refusal) => {
                settings.counts.requests_refused.add(1);
                self.counts.failed(FailureKind::Plugin).add(1);
                let error = refusal.explain();
                warn!(receiver = %settings.id, job = target.job, %signal, error, "plugin made bytes that cannot be taken");
                None
            }
        }
    }
}

/// How long a target took, as far as it matters to others.
fn pace(answer: &Result<Response, Failure>, took: Duration, timeout: Duration) -> Pace {
    if answer.is_err() && took >= SLOW_AFTER.min(timeout / 2) { Pace::Slow } else { Pace::Prompt }
}

/// A batch on its way to its pipeline. One that is dropped on the way (its task was cut) is counted as lost.
struct Parcel<'a> {
    intake: &'a Intake,
    target: &'a Target,
    signal: Signal,
    checked: Checked,
    /// Pays for it, over all offers.
    claim: Option<Arc<Claim>>,
    is_settled: bool,
}

impl Parcel<'_> {
    /// The same, paid for; where there is no room it is lost.
    fn paid(mut self) -> Option<Self> {
        match self.claim(self.checked.body.len() as u64) {
            Ok(()) => Some(self),
            Err(refusal) => {
                self.lost(&refusal);
                None
            }
        }
    }

    /// Pays for it as for a request of so many bytes.
    fn claim(&mut self, asked: u64) -> Result<(), Refusal> {
        let claim = budget::claim(&self.intake.settings().ledger, asked);
        let mut claim = claim.map_err(|error| Refusal::transient(Reason::MemoryFull, None, error))?;
        claim.shrink_to(self.checked.body.len() as u64);
        self.claim = Some(Arc::new(claim));
        Ok(())
    }

    /// What is kept for small requests is not for batches that wait: any number of targets may have one.
    fn claim_to_wait(&mut self) -> Result<(), Refusal> {
        if self.checked.body.len() as u64 > SMALL_BYTES_MAX {
            return Ok(());
        }
        self.claim(SMALL_BYTES_MAX + 1)
    }

    async fn hand_on(mut self, patience: &mut Patience<'_>) {
        patience.wait = OFFER_WAIT_FIRST;
        let mut is_waiting = false;
        let refusal = loop {
            let Some(claim) = self.claim.clone() else { return };
            let refusal = match self.intake.offer(self.signal, self.checked.clone(), claim, None).await {
                // Nobody is owed an answer.
                Verdict::Taken { proof: _, .. } | Verdict::Nothing { .. } => {
                    self.is_settled = true;
                    return;
                }
                Verdict::Refused(refusal) => refusal,
            };
            let Refusal::Transient { retry_after, .. } = &refusal else { break refusal };
            if !is_waiting && let Err(no_room) = self.claim_to_wait() {
                break no_room;
            }
            is_waiting = true;
            if !patience.wait(*retry_after).await {
                break refusal;
            }
        };
        self.lost(&refusal);
    }

    fn lost(&mut self, refusal: &Refusal) {
        self.is_settled = true;
        let (settings, signal, items) = (self.intake.settings(), self.signal, self.checked.items);
        let (reason, error) = (refusal.reason(), refusal.explain());
        let dropped = &settings.counts.dropped;
        dropped.of(signal, reason).add(u64::from(items));
        dropped.of(signal, Reason::InvalidItem).add(u64::from(self.checked.partial.rejected));
        let job = &self.target.job;
        warn!(receiver = %settings.id, job, %signal, items, %reason, error, "items of a scrape are lost: they were refused");
    }
}

impl Drop for Parcel<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            self.lost(&Refusal::transient(
                Reason::Draining,
                None,
                "the receiver was cut while it offered them",
            ));
        }
    }
}

/// How long what is refused for now is offered again.
struct Patience<'a> {
    until: Instant,
    drain: &'a Drain,
    /// The receiver ends, and `until` says so already.
    is_draining: bool,
    wait: Duration,
}

impl Patience<'_> {
    /// Waits for the moment to offer again, where there is one.
    async fn wait(&mut self, retry_after: Option<Duration>) -> bool {
        // The half at random: what was refused together does not come again together.
        let jitter = self.wait.mul_f64(fastrand::f64() / 2.0);
        let at = Instant::now() + retry_after.unwrap_or_default().max(self.wait / 2 + jitter);
        if at >= self.until {
            return false;
        }
        self.wait = (self.wait * 2).min(OFFER_WAIT_MAX);
        tokio::select! {
            biased;
            () = self.drain.signaled(), if !self.is_draining => {
                self.is_draining = true;
                self.until = self.until.min(Instant::now() + DRAIN_WITHIN);
                self.wait = OFFER_WAIT_FIRST;
            }
            () = sleep_until(at) => {}
        }
        true
    }
}
