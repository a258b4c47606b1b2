//! The store: the newest state of each resource of every agent.
//!
//! One task takes the messages that have arrived, makes what is new durable in one commit, then holds it, tells watchers, and
//! only then answers. What runs out does so in the same task.
//!
//! Invariant: an answer says that a state is on disk.

mod row;
mod staging;
mod table;
#[cfg(test)]
mod tests;
mod watching;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep_until;
use tracing::{error, warn};
use weir_model::{BoxFuture, Counter};
use weir_proto::weir::link::v1::{KindDigest, StateDown, StateUp, state_up};
use weir_queue::QueueError;

pub use row::Standing;
pub(super) use staging::{Counted, Epoch};
pub(super) use table::{FACT_BYTES_MAX, Table};
pub use table::{Fact, Filter};
pub(super) use watching::WATCHER_BYTES_MAX;
pub use watching::{Cursor, Cut, Event, Watching};

use crate::lanes::CollectorStates;
use crate::limits::STORE_WAITING_MAX;

use super::keep::{Keep, clock, durable};
use row::Resource;

/// How long a disk that did not take what has run out is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(10);
/// In the place of the newest version: nothing follows.
const CLOSED: u64 = u64::MAX;

/// What is counted, and what is held now.
#[derive(Debug, Clone, Default)]
pub struct StoreCounts {
    /// States that were stored, tombstones among them.
    pub stored: Counter,
    /// States that were stored already, or older than what was.
    pub old: Counter,
    /// States that were refused: no name, too large, no room.
    pub rejected: Counter,
    /// States whose time to live ran out.
    pub expired_ttl: Counter,
    /// States that a complete inventory of a newer epoch did not list.
    pub expired_inventory: Counter,
    /// States of agents that were forgotten.
    pub forgotten: Counter,
    /// States of agents that were away, given up for want of room: those of whoever was silent longest go first.
    pub evicted: Counter,
    /// Messages that the protocol does not allow.
    pub misbehaved: Counter,
    /// Messages whose states were not written: they are not answered, and come again.
    pub unwritten: Counter,
    /// Live states.
    pub states: Counter,
    /// Bytes of names and values.
    pub bytes: Counter,
}

/// The newest states of all agents.
#[derive(Debug)]
pub struct Store {
    shared: Arc<Shared>,
    requests: mpsc::Sender<Request>,
}

#[derive(Debug)]
pub(super) struct Shared {
    table: Mutex<Table>,
    keep: Arc<dyn Keep>,
    /// As in the table.
    id: u128,
    /// The newest version, or [`CLOSED`].
    changed: watch::Sender<u64>,
    counts: StoreCounts,
}

#[derive(Debug)]
struct Request {
    agent: String,
    epoch: Epoch,
    act: Act,
    answer: oneshot::Sender<Vec<StateDown>>,
}

#[derive(Debug)]
enum Act {
    Take(StateUp),
    Forget,
}

// === impl Store ===

impl Store {
    /// Opens what is kept; blocks. Must be called within a runtime; the task ends when the store is gone, and its parent
    /// waits for it.
    ///
    /// # Errors
    /// The store is new and cannot be written.
    pub fn open(keep: Arc<dyn Keep>) -> Result<(Arc<Self>, JoinHandle<()>), QueueError> {
        let fresh = u128::from(fastrand::u64(..)) << 64 | u128::from(fastrand::u64(..));
        let (table, unread) = Table::load(&*keep, fresh, clock());
        if keep.get(row::HEADER).is_none() {
            keep.commit(vec![row::header(table.id, table.floor)])?;
        }
        if unread > 0 {
            warn!(
                rows = unread,
                "rows of the store of states could not be read, their agents say them again"
            );
        }
        let (changed, _) = watch::channel(table.version);
        let (id, table) = (table.id, Mutex::new(table));
        let shared = Arc::new(Shared { table, keep, id, changed, counts: StoreCounts::default() });
        shared.show(&Counted::default());
        let (requests, waiting) = mpsc::channel(STORE_WAITING_MAX);
        let task = tokio::spawn(run(Arc::clone(&shared), waiting));
        Ok((Arc::new(Self { shared, requests }), task))
    }

    /// Follows what changes: from a cursor, or from a snapshot where there is none or it is not known any more.
    pub fn watch(&self, filter: Filter, cursor: Option<Cursor>) -> Watching {
        Watching::new(&self.shared, filter, cursor)
    }

    /// Live states in the order of agent, kind and key, after the name at which the page before ended; at most so many, and
    /// about so many bytes. And the name for the next page, where there may be one.
    pub fn list(
        &self,
        filter: &Filter,
        after: Option<&[u8]>,
        bounds: (usize, usize),
    ) -> (Vec<Fact>, Option<Vec<u8>>) {
        let after = after.and_then(Resource::of_row);
        let (facts, last) = self.shared.lock().list(&*self.shared.keep, filter, after, bounds);
        (facts, last.map(|last| last.row_key()))
    }

    /// Lets go of all states of an agent, unless it has a live stream. False where that could not be written.
    pub async fn forget(&self, identity: &str) -> bool {
        self.ask(identity, Epoch::default(), Act::Forget).await.is_some()
    }

    /// What is counted; shared, so ask once.
    pub fn counts(&self) -> StoreCounts {
        self.shared.counts.clone()
    }

    async fn ask(&self, agent: &str, epoch: Epoch, act: Act) -> Option<Vec<StateDown>> {
        let (answer, answered) = oneshot::channel();
        let request = Request { agent: agent.to_owned(), epoch, act, answer };
        self.requests.send(request).await.ok()?;
        answered.await.ok()
    }
}

impl CollectorStates for Store {
    fn known(&self, identity: &str) -> Vec<KindDigest> {
        self.shared.lock().known(identity)
    }

    fn received<'a>(
        &'a self,
        identity: &'a str,
        epoch: (u128, u64),
        message: StateUp,
    ) -> BoxFuture<'a, Vec<StateDown>> {
        // What was not written is not answered: it comes again.
        Box::pin(async move { self.ask(identity, epoch, Act::Take(message)).await.unwrap_or_default() })
    }

    fn came(&self, identity: &str) {
        self.shared.lock().came(identity, clock());
    }

    fn left(&self, identity: &str) {
        self.shared.lock().left(identity, clock());
    }

    fn forget<'a>(&'a self, identity: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(Self::forget(self, identity))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, counted: &Counted) {
        let Counted { stored, old, rejected, expired_ttl, expired_inventory, forgotten, evicted, misbehaved } =
            *counted;
        let counts = &self.counts;
        counts.stored.add(stored);
        counts.old.add(old);
        counts.rejected.add(rejected);
        counts.expired_ttl.add(expired_ttl);
        counts.expired_inventory.add(expired_inventory);
        counts.forgotten.add(forgotten);
        counts.evicted.add(evicted);
        counts.misbehaved.add(misbehaved);
        let totals = self.lock().totals;
        counts.states.set(totals.live as u64);
        counts.bytes.set(totals.bytes as u64);
    }
}

// === the task ===

async fn run(shared: Arc<Shared>, mut waiting: mpsc::Receiver<Request>) {
    let mut requests = Vec::with_capacity(STORE_WAITING_MAX);
    // After a commit that failed, what runs out waits for the next message or for this long: no circle of failures.
    let mut not_before = clock();
    loop {
        let due = shared.lock().due_next().map(|due| due.max(not_before));
        let count = tokio::select! {
            count = waiting.recv_many(&mut requests, STORE_WAITING_MAX) => count,
            () = until(due) => {
                if !commit(&shared, Vec::new()).await {
                    not_before = clock() + RETRY_AFTER;
                }
                continue;
            }
        };
        if count == 0 {
            break;
        }
        // An inventory looks at rows as they are, so it has a commit of its own.
        for group in groups(std::mem::take(&mut requests)) {
            commit(&shared, group).await;
        }
    }
    shared.changed.send_replace(CLOSED);
}

async fn until(due: Option<Instant>) {
    match due {
        Some(at) => sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

fn groups(requests: Vec<Request>) -> Vec<Vec<Request>> {
    let mut groups: Vec<Vec<Request>> = Vec::new();
    let is_state = |request: &Request| {
        matches!(&request.act, Act::Take(StateUp { message: Some(state_up::Message::Value(_)) }))
    };
    for request in requests {
        match groups.last_mut().filter(|group| is_state(&request) && group.iter().all(is_state)) {
            Some(group) => group.push(request),
            None => groups.push(vec![request]),
        }
    }
    groups
}

/// Makes a group durable, with what has run out; whether that worked.
async fn commit(shared: &Arc<Shared>, group: Vec<Request>) -> bool {
    let (staged, changes, answers) = {
        let mut table = shared.lock();
        let now = clock();
        let mut staged = table.staged(now);
        let due = table.due(now);
        table.stage_due(&mut staged, &due);
        let answers: Vec<_> =
            group.into_iter().map(|request| stage(&mut table, &mut staged, request)).collect();
        let changes = table.changes(&mut staged);
        (staged, changes, answers)
    };
    if let Err(error) = durable(&shared.keep, changes).await {
        error!(%error, messages = answers.len(), "states were not written, their agents send them again: free the disk");
        shared.counts.unwritten.add(answers.len() as u64);
        shared.lock().abandon();
        return false;
    }
    let counted = staged.counted;
    for (agent, states) in &staged.evicted {
        warn!(
            agent,
            states,
            "no room for the states of agents that are connected: those of one that is away were given up, it says them again"
        );
    }
    let version = {
        let mut table = shared.lock();
        table.apply(staged);
        table.version
    };
    shared.show(&counted);
    shared.changed.send_if_modified(|held| std::mem::replace(held, version) != version);
    for (answer, said) in answers {
        // The stream may be gone.
        drop(answer.send(said));
    }
    true
}

type Answer = (oneshot::Sender<Vec<StateDown>>, Vec<StateDown>);

fn stage(table: &mut Table, staged: &mut staging::Staged, request: Request) -> Answer {
    let Request { agent, epoch, act, answer } = request;
    let said = match act {
        Act::Forget => {
            table.stage_forget(staged, &agent);
            Vec::new()
        }
        Act::Take(StateUp { message: Some(state_up::Message::Value(state)) }) => {
            vec![table.stage_state(staged, &agent, epoch, state)]
        }
        Act::Take(StateUp { message: Some(state_up::Message::Inventory(part)) }) => {
            table.stage_inventory(staged, &agent, epoch, part).into_iter().collect()
        }
        Act::Take(StateUp { message: None }) => {
            staged.counted.misbehaved += 1;
            Vec::new()
        }
    };
    (answer, said)
}
