//! Senders under way, and the book of what they were told.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use weir_tests::{BatchId, Ledger, Protocol, Sender, Shape, Verdict, Weir, wait_until};

/// How long senders may take to send what a story waits for.
const SENT_DEADLINE: Duration = Duration::from_secs(300);

/// What senders were told. Clones are one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Book {
    /// What was acknowledged.
    pub(crate) ledger: Ledger,
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    frozen: Mutex<bool>,
    later: AtomicU64,
    never: Mutex<Vec<String>>,
}

impl Book {
    /// From now on nothing counts as acknowledged. What counts already was answered before this returns, so that
    /// an answer which races with a power cut is not held against the daemon.
    pub(crate) fn freeze(&self) {
        *self.inner.frozen.lock().unwrap_or_else(PoisonError::into_inner) = true;
    }

    /// Answers count again.
    pub(crate) fn thaw(&self) {
        *self.inner.frozen.lock().unwrap_or_else(PoisonError::into_inner) = false;
    }

    /// Batches that were refused for now.
    pub(crate) fn later(&self) -> u64 {
        self.inner.later.load(Ordering::Relaxed)
    }

    /// Waits until so many batches are acknowledged.
    pub(crate) async fn reaches(&self, batches: usize) {
        let what = format!("{batches} acknowledged batches");
        wait_until(SENT_DEADLINE, &what, || (self.ledger.batches() >= batches).then_some(())).await;
    }

    /// No batch was refused for good.
    #[track_caller]
    pub(crate) fn assert_no_permanent_refusal(&self) {
        let never = self.inner.never.lock().unwrap_or_else(PoisonError::into_inner);
        assert!(never.is_empty(), "{} batches refused for good: {:?} …", never.len(), never.first());
    }

    /// Writes down a verdict; false where there was none.
    pub(crate) fn note(&self, id: BatchId, shape: Shape, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Taken => {
                let frozen = self.inner.frozen.lock().unwrap_or_else(PoisonError::into_inner);
                if !*frozen {
                    self.ledger.acknowledge(id, shape);
                }
            }
            Verdict::Later(_) => {
                self.inner.later.fetch_add(1, Ordering::Relaxed);
            }
            Verdict::Never(why) => {
                self.inner
                    .never
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(format!("{id:?}: {why}"));
            }
            Verdict::Silence(_) => return false,
        }
        true
    }
}

/// One node that sends batch after batch, each when the one before has its answer.
#[derive(Debug, Clone)]
pub(crate) struct Worker {
    /// Which node.
    pub(crate) sender: u32,
    /// How it sends.
    pub(crate) protocol: Protocol,
    /// Where to.
    pub(crate) address: SocketAddr,
    /// The number of its next batch.
    pub(crate) next: u64,
}

/// The name of a protocol's address in the configurations of these stories.
pub(crate) fn door(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::OtlpGrpc => "otlp",
        Protocol::OtlpHttp => "otlp-http",
        Protocol::OpenCensus => "opencensus",
        Protocol::Zipkin => "zipkin",
    }
}

/// Doors for all four protocols.
pub(crate) const DOORS: &str = "receivers:
  opencensus: {endpoint: <opencensus>}
  otlp: {protocols: {grpc: {endpoint: <otlp>}, http: {endpoint: <otlp-http>}}}
  zipkin: {endpoint: <zipkin>}
";

/// So many nodes of each of these protocols.
pub(crate) fn crew(weir: &Weir, protocols: &[Protocol], each: u32) -> Vec<Worker> {
    let nodes = (0..each).flat_map(|_| protocols.iter().copied()).zip(0..);
    let worker =
        |(protocol, sender)| Worker { sender, protocol, address: weir.address(door(protocol)), next: 0 };
    nodes.map(worker).collect()
}

/// A crew at work.
#[derive(Debug)]
pub(crate) struct Load {
    working: JoinSet<Worker>,
    stop: Arc<AtomicBool>,
}

impl Load {
    /// Each worker sends as fast as it is answered, or a batch each `pace`.
    pub(crate) fn start(crew: Vec<Worker>, shape: Shape, pace: Option<Duration>, book: &Book) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut working = JoinSet::new();
        for worker in crew {
            working.spawn(work(worker, shape, pace, book.clone(), Arc::clone(&stop)));
        }
        Self { working, stop }
    }

    /// Every worker has the answer to its last batch, or its connection broke.
    pub(crate) async fn stop(self) -> Vec<Worker> {
        self.stop.store(true, Ordering::Relaxed);
        let mut crew = self.working.join_all().await;
        crew.sort_by_key(|worker| worker.sender);
        crew
    }
}

async fn work(
    mut worker: Worker,
    shape: Shape,
    pace: Option<Duration>,
    book: Book,
    stop: Arc<AtomicBool>,
) -> Worker {
    let mut sender = Sender::new(worker.protocol, worker.address);
    let mut beat = pace.map(|pace| {
        let mut beat = tokio::time::interval(pace);
        beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
        beat
    });
    while !stop.load(Ordering::Relaxed) {
        if let Some(beat) = &mut beat {
            beat.tick().await;
        }
        let id = BatchId { sender: worker.sender, number: worker.next };
        worker.next += 1;
        let verdict = sender.send(id, shape).await;
        if !book.note(id, shape, verdict) {
            break;
        }
    }
    worker
}
