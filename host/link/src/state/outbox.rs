//! The outbox: what an agent and its programs say, kept until the collector has it.
//!
//! One task takes the reports that have arrived, makes them durable in one commit, and then holds them; the session asks for
//! what to send through [`AgentStates`]. Both meet at the desk, for moments without I/O.

mod desk;
mod lane;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{error, info, warn};
use weir_model::Counter;
use weir_proto::weir::link::v1::{KindDigest, StateDown, StateUp};

pub(super) use desk::{Desk, Name, Refused, Report};
pub(super) use lane::Settled;

use crate::lanes::AgentStates;
use crate::limits::{REPORT_WAITERS_MAX, REPORTS_WAITING_MAX};
use crate::names::Incarnation;

use super::keep::{Keep, clock, durable};

/// Why a report was not taken. Nothing of it is kept.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum ReportError {
    /// It can never be taken as it is.
    #[error("{0}")]
    Invalid(String),
    /// There is no room: something else must go first.
    #[error("{0}")]
    Full(String),
    /// The disk did not take it; it may later.
    #[error("{0}")]
    Disk(String),
    /// The outbox is closed: the process ends.
    #[error("the agent is stopping: report again when it is back")]
    Closed,
}

/// What became of a state that was reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// The collector has persisted it, or a newer one of the same resource.
    Persisted,
    /// The collector will not take it; says why.
    Rejected(String),
    /// Its time to live ran out before the collector had it.
    Expired,
    /// Nobody will tell: too many wait, or the process ends. It is kept and sent all the same.
    Unknown,
}

/// A report that is durable here.
#[derive(Debug)]
pub struct Reported {
    /// Rises with each report; the same as before where nothing new was said.
    pub revision: u64,
    fate: oneshot::Receiver<Fate>,
}

impl Reported {
    /// Waits until the collector has answered.
    ///
    /// # Cancel safety
    /// The state is sent whether or not somebody waits.
    pub async fn persisted(self) -> Fate {
        self.fate.await.unwrap_or(Fate::Unknown)
    }
}

/// What is counted, and what is held now.
#[derive(Debug, Clone, Default)]
pub struct OutboxCounts {
    /// Reports that became durable.
    pub reported: Counter,
    /// Reports that were refused: no name, too large.
    pub refused_invalid: Counter,
    /// Reports that were refused for want of room.
    pub refused_full: Counter,
    /// Reports that the disk did not take.
    pub refused_disk: Counter,
    /// States that were sent, again or not.
    pub sent: Counter,
    /// States that the collector rejected.
    pub rejected: Counter,
    /// States whose time to live ran out.
    pub expired: Counter,
    /// States that are held.
    pub states: Counter,
    /// Their bytes.
    pub bytes: Counter,
}

/// The agent's end of the lane of states.
#[derive(Debug)]
pub struct Outbox {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

/// What the daemon and its services report through.
#[derive(Debug, Clone)]
pub struct OutboxHandle {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    reported: Arc<Notify>,
    counts: OutboxCounts,
}

#[derive(Debug)]
struct State {
    desk: Desk,
    waiters: HashMap<Name, Vec<Waiter>>,
    /// An incarnation that is to be taken.
    incarnation: Option<Wanted>,
    /// Whether a refusal of the collector was logged on this stream: one shows what is wrong, the counter how often.
    has_warned: bool,
}

#[derive(Debug)]
struct Waiter {
    revision: u64,
    fate: oneshot::Sender<Fate>,
}

/// Which incarnation to go on with.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Exactly(u128),
    Above(u128),
}

#[derive(Debug)]
enum Request {
    Report(Box<Report>, oneshot::Sender<Result<Reported, ReportError>>),
    /// A kind is exactly this.
    Replace(Box<Replacement>, oneshot::Sender<Result<(), ReportError>>),
    /// Rows are to be removed, or a new incarnation to be made durable.
    Tend,
}

#[derive(Debug)]
struct Replacement {
    kind: String,
    states: Vec<(String, Vec<u8>)>,
}

// === impl Outbox ===

impl Outbox {
    /// Opens what is kept. `is_new` where nothing was ever kept there: what is found empty otherwise was lost, and then nobody
    /// may conclude from what is here that other things are gone, in this start and later ones, until a collector has nothing
    /// else. Must be called within a runtime; the task ends when the outbox and all handles are gone, and its parent waits for it.
    pub fn open(keep: Arc<dyn Keep>, is_new: bool) -> (Self, OutboxHandle, JoinHandle<()>) {
        let fresh = fresh_incarnation(None);
        let (desk, unread) = Desk::load(&*keep, fresh, is_new, fastrand::u64(..), clock());
        if unread > 0 {
            warn!(
                rows = unread,
                "rows of the outbox of states could not be read, programs must report again"
            );
        }
        let is_untidy = desk.is_untidy();
        let state = State { desk, waiters: HashMap::new(), incarnation: None, has_warned: false };
        let counts = OutboxCounts::default();
        let shared = Arc::new(Shared { state: Mutex::new(state), reported: Arc::default(), counts });
        shared.show();
        let (requests, waiting) = mpsc::channel(REPORTS_WAITING_MAX);
        let task = tokio::spawn(run(Arc::clone(&shared), keep, waiting));
        let handle = OutboxHandle { shared: Arc::clone(&shared), requests: requests.clone() };
        let outbox = Self { shared, requests };
        if is_untidy {
            outbox.tend();
        }
        (outbox, handle, task)
    }

    /// Asks the task to tend to rows or to the incarnation; where it has work anyway, it does so with that.
    fn tend(&self) {
        drop(self.requests.try_send(Request::Tend));
    }

    fn settle(&self, settled: impl IntoIterator<Item = Settled>) {
        let mut state = self.shared.lock();
        for settled in settled {
            match settled {
                Settled::Persisted(name, revision) => state.answer(&name, revision, &Fate::Persisted),
                Settled::Rejected(name, revision, why) => {
                    self.shared.counts.rejected.add(1);
                    if !std::mem::replace(&mut state.has_warned, true) {
                        warn!(kind = %name.kind, key = %name.key, %why, "the collector rejected a state");
                    }
                    state.answer(&name, revision, &Fate::Rejected(why));
                }
                Settled::Behind(above) => {
                    state.desk.pause();
                    state.incarnation = Some(Wanted::Above(above));
                }
            }
        }
        let tends = state.desk.is_untidy() || state.incarnation.is_some();
        drop(state);
        if tends {
            self.tend();
        }
    }
}

impl AgentStates for Outbox {
    fn welcomed(&mut self, known: &[KindDigest], is_known_store: bool, now: Instant) {
        let mut state = self.shared.lock();
        state.has_warned = false;
        let settled = state.desk.welcomed(known, is_known_store, now);
        drop(state);
        self.settle(settled);
    }

    fn received(&mut self, message: StateDown, now: Instant) {
        let mut state = self.shared.lock();
        state.desk.expire_now(now);
        let settled = state.desk.received(message);
        drop(state);
        self.settle(settled);
    }

    fn next(&mut self, now: Instant) -> Option<StateUp> {
        let mut state = self.shared.lock();
        let message = state.desk.next(now);
        state.bury(&self.shared.counts);
        let untidy = state.desk.is_untidy();
        drop(state);
        if untidy {
            self.tend();
        }
        if message.as_ref().is_some_and(is_value) {
            self.shared.counts.sent.add(1);
        }
        message
    }

    fn wake(&self) -> Option<Instant> {
        self.shared.lock().desk.wake()
    }

    fn broken(&mut self) {
        self.shared.lock().desk.broken();
    }

    fn reported(&self) -> Option<Arc<Notify>> {
        Some(Arc::clone(&self.shared.reported))
    }

    fn numbered(&mut self, incarnation: u128) {
        let mut state = self.shared.lock();
        // One that is below the one in use was overtaken: states have gone on to a higher one of their own.
        if incarnation > state.desk.incarnation() {
            state.desk.pause();
            state.incarnation = Some(Wanted::Exactly(incarnation));
            drop(state);
            self.tend();
        }
    }
}

fn is_value(message: &StateUp) -> bool {
    use weir_proto::weir::link::v1::state_up::Message;
    matches!(message.message, Some(Message::Value(_)))
}

// === impl OutboxHandle ===

impl OutboxHandle {
    /// Reports a state: answers when it is durable here. A zero `ttl` is for ever.
    ///
    /// # Errors
    /// [`ReportError`]: nothing of it is kept.
    ///
    /// # Cancel safety
    /// Dropped before the answer, it may or may not be kept.
    pub async fn report(
        &self,
        kind: &str,
        key: &str,
        value: Vec<u8>,
        ttl: Duration,
    ) -> Result<Reported, ReportError> {
        self.send(kind, key, Some(value), ttl).await
    }

    /// Reports that a resource is gone.
    ///
    /// # Errors
    /// As [`OutboxHandle::report`].
    pub async fn remove(&self, kind: &str, key: &str) -> Result<Reported, ReportError> {
        self.send(kind, key, None, Duration::ZERO).await
    }

    /// Says all there is of a kind: what is not among `states` is gone. In one commit; what is as it was costs nothing.
    ///
    /// # Errors
    /// The first refusal; what came before it is kept.
    pub async fn replace(&self, kind: &str, states: Vec<(String, Vec<u8>)>) -> Result<(), ReportError> {
        let (answer, answered) = oneshot::channel();
        let replacement = Box::new(Replacement { kind: kind.to_owned(), states });
        self.requests.send(Request::Replace(replacement, answer)).await.map_err(|_| ReportError::Closed)?;
        answered.await.unwrap_or(Err(ReportError::Closed))
    }

    /// What is counted; shared, so ask once.
    pub fn counts(&self) -> OutboxCounts {
        self.shared.counts.clone()
    }

    /// States of which the collector has not said that it has them.
    pub fn unacknowledged(&self) -> usize {
        self.shared.lock().desk.unacknowledged()
    }

    async fn send(
        &self,
        kind: &str,
        key: &str,
        value: Option<Vec<u8>>,
        ttl: Duration,
    ) -> Result<Reported, ReportError> {
        let (answer, answered) = oneshot::channel();
        let name = Name { kind: kind.to_owned(), key: key.to_owned() };
        let report = Box::new(Report { name, value, ttl });
        self.requests.send(Request::Report(report, answer)).await.map_err(|_| ReportError::Closed)?;
        answered.await.unwrap_or(Err(ReportError::Closed))
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self) {
        let state = self.lock();
        self.counts.states.set(state.desk.len() as u64);
        self.counts.bytes.set(state.desk.bytes() as u64);
    }

    fn refuse(&self, refused: Refused) -> ReportError {
        match refused {
            Refused::Invalid(why) => {
                self.counts.refused_invalid.add(1);
                ReportError::Invalid(why)
            }
            Refused::Full(why) => {
                self.counts.refused_full.add(1);
                ReportError::Full(why)
            }
        }
    }
}

impl State {
    /// Tells whoever waits for this revision or one below.
    fn answer(&mut self, name: &Name, revision: u64, fate: &Fate) {
        let Some(waiters) = self.waiters.get_mut(name) else { return };
        for waiter in waiters.extract_if(.., |waiter| waiter.revision <= revision) {
            drop(waiter.fate.send(fate.clone()));
        }
        if waiters.is_empty() {
            self.waiters.remove(name);
        }
    }

    /// Tells whoever waits for what has expired.
    fn bury(&mut self, counts: &OutboxCounts) {
        for (name, revision) in self.desk.take_expired() {
            counts.expired.add(1);
            self.answer(&name, revision, &Fate::Expired);
        }
    }

    fn wait(&mut self, name: Name, revision: u64) -> oneshot::Receiver<Fate> {
        let (fate, receiver) = oneshot::channel();
        if self.desk.is_settled(&name, revision) {
            drop(fate.send(Fate::Persisted));
            return receiver;
        }
        if let Some(waiters) = self.waiters.get_mut(&name) {
            waiters.retain(|waiter| !waiter.fate.is_closed());
        }
        if self.waiters.values().map(Vec::len).sum::<usize>() >= REPORT_WAITERS_MAX {
            self.waiters.retain(|_, waiters| {
                waiters.retain(|waiter| !waiter.fate.is_closed());
                !waiters.is_empty()
            });
        }
        if self.waiters.values().map(Vec::len).sum::<usize>() < REPORT_WAITERS_MAX {
            self.waiters.entry(name).or_default().push(Waiter { revision, fate });
        }
        receiver
    }
}

// === the task ===

async fn run(shared: Arc<Shared>, keep: Arc<dyn Keep>, mut waiting: mpsc::Receiver<Request>) {
    let mut requests = Vec::with_capacity(REPORTS_WAITING_MAX);
    // All that have arrived share one commit.
    while waiting.recv_many(&mut requests, REPORTS_WAITING_MAX).await > 0 {
        let is_numbered = number(&shared, &keep).await;
        let is_written = commit(&shared, &keep, std::mem::take(&mut requests)).await;
        shared.show();
        // Else there is nothing new to send, and whoever looked would ask a full disk again at once, and so for ever.
        if is_numbered || is_written {
            shared.reported.notify_one();
        }
    }
}

/// Where the incarnation is to change: makes the new one durable, and goes on with it. Whether it did.
async fn number(shared: &Shared, keep: &Arc<dyn Keep>) -> bool {
    let (incarnation, changes) = {
        let mut state = shared.lock();
        let incarnation = match state.incarnation.take() {
            None => return false,
            Some(Wanted::Exactly(incarnation)) => incarnation,
            Some(Wanted::Above(above)) => fresh_incarnation(Some(above)),
        };
        (incarnation, state.desk.stage_incarnation(incarnation))
    };
    match durable(keep, changes).await {
        Ok(()) => {
            info!(incarnation = %Incarnation(incarnation), "states have a new incarnation, all are said again");
            shared.lock().desk.renumber(incarnation);
            true
        }
        Err(error) => {
            // Without it nothing may be sent: it is tried with the next report, or asked for again on the next stream.
            error!(%error, "the new incarnation of states was not written, free the disk of the agent");
            shared.lock().incarnation.get_or_insert(Wanted::Exactly(incarnation));
            false
        }
    }
}

/// Makes what was asked for durable, holds it and answers. False where the disk did not take it.
async fn commit(shared: &Shared, keep: &Arc<dyn Keep>, requests: Vec<Request>) -> bool {
    let (reports, answers) = unpack(&shared.lock().desk, requests);
    let names: Vec<Name> = reports.iter().map(|report| report.name.clone()).collect();
    let mut staged = shared.lock().desk.stage(reports);
    let changes = std::mem::take(&mut staged.changes);
    let outcomes = std::mem::take(&mut staged.answers);
    let written = durable(keep, changes).await;
    let is_written = written.is_ok();
    let mut state = shared.lock();
    let results: Vec<Result<u64, ReportError>> = match written {
        Ok(()) => {
            state.desk.apply(staged, clock());
            state.bury(&shared.counts);
            outcomes.into_iter().map(|outcome| outcome.map_err(|refused| shared.refuse(refused))).collect()
        }
        Err(error) => {
            state.desk.abandon(staged);
            shared.counts.refused_disk.add(names.len() as u64);
            error!(%error, reports = names.len(), "the outbox of states was not written");
            let why = format!(
                "the agent's outbox of states was not written ({error}): free its disk, then report again"
            );
            names.iter().map(|_| Err(ReportError::Disk(why.clone()))).collect()
        }
    };
    shared.counts.reported.add(results.iter().filter(|result| result.is_ok()).count() as u64);
    let mut results = names.into_iter().zip(results);
    for answer in answers {
        answer.send(&mut state, &mut results);
    }
    is_written
}

/// Whom to answer, in the order of reports.
enum Answer {
    One(oneshot::Sender<Result<Reported, ReportError>>),
    /// Of so many reports, which are all of a kind, the first refusal.
    All(String, usize, oneshot::Sender<Result<(), ReportError>>),
}

impl Answer {
    fn send(self, state: &mut State, results: &mut impl Iterator<Item = (Name, Result<u64, ReportError>)>) {
        // Who asked may be gone.
        match self {
            Self::One(answer) => {
                let Some((name, result)) = results.next() else { return };
                drop(answer.send(result.map(|revision| {
                    let fate = state.wait(name, revision);
                    Reported { revision, fate }
                })));
            }
            Self::All(kind, count, answer) => {
                // All of them, for what follows is another's.
                let all: Vec<_> = results.by_ref().take(count).map(|(_, result)| result.map(drop)).collect();
                let refused = all.into_iter().find(Result::is_err);
                if refused.is_none() {
                    state.desk.said_all(&kind);
                }
                drop(answer.send(refused.unwrap_or(Ok(()))));
            }
        }
    }
}

fn unpack(desk: &Desk, requests: Vec<Request>) -> (Vec<Report>, Vec<Answer>) {
    let (mut reports, mut answers) = (Vec::new(), Vec::new());
    for request in requests {
        match request {
            Request::Report(report, answer) => {
                reports.push(*report);
                answers.push(Answer::One(answer));
            }
            Request::Replace(replacement, answer) => {
                let kind = replacement.kind.clone();
                let said = replace(desk, *replacement);
                answers.push(Answer::All(kind, said.len(), answer));
                reports.extend(said);
            }
            Request::Tend => {}
        }
    }
    (reports, answers)
}

/// The reports that make a kind what it is to be: what is gone first, for it makes room.
fn replace(desk: &Desk, replacement: Replacement) -> Vec<Report> {
    let Replacement { kind, states } = replacement;
    let name = |key| Name { kind: kind.clone(), key };
    let kept: HashSet<&String> = states.iter().map(|(key, _)| key).collect();
    let gone = desk.live_keys(&kind).into_iter().filter(|key| !kept.contains(key));
    let mut reports: Vec<Report> =
        gone.map(|key| Report { name: name(key), value: None, ttl: Duration::ZERO }).collect();
    reports.extend(states.into_iter().map(|(key, value)| Report {
        name: name(key),
        value: Some(value),
        ttl: Duration::ZERO,
    }));
    reports
}

fn fresh_incarnation(above: Option<u128>) -> u128 {
    let millis = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
    let random = u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..));
    Incarnation::new(u64::try_from(millis).unwrap_or(u64::MAX), random, above.map(Incarnation)).0
}
