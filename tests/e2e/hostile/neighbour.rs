//! An innocent pipeline in the same daemon, and how long its senders wait for their answers.

use std::fmt;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};
use weir_tests::wait::until;
use weir_tests::{BatchId, Harvest, OtlpSink, Protocol, Sender, Shape, Weir};

use crate::load::Book;
use crate::run::DELIVERY_DEADLINE;

/// Nodes that send.
const NODES: u32 = 8;

/// Between two batches of a node: 160 batches a second in all, far below what the daemon can do.
const PACE: Duration = Duration::from_millis(50);

const SHAPE: Shape = Shape { spans: 10, attributes: 2, value_bytes: 10 };

/// A daemon, seen by senders that have nothing to do with its plugins.
pub(crate) struct Neighbour {
    pub(crate) weir: Weir,
    sink: OtlpSink,
    nodes: Vec<Node>,
    book: Book,
    harvest: Harvest,
}

struct Node {
    sender: Sender,
    number: u32,
    next: u64,
}

/// How long senders waited, counted from when a batch was due.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Waits {
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) longest: Duration,
    pub(crate) batches: usize,
}

impl fmt::Display for Waits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p99, longest, batches } = self;
        write!(f, "p50 {p50:.1?}, p99 {p99:.1?}, at most {longest:.1?} ({batches} batches)")
    }
}

impl Waits {
    fn of(mut waits: Vec<Duration>) -> Self {
        waits.sort();
        let at = |per_cent: usize| waits[(waits.len() * per_cent / 100).min(waits.len() - 1)];
        Self { p50: at(50), p99: at(99), longest: at(100), batches: waits.len() }
    }

    /// Of several rounds the one in the middle.
    pub(crate) fn median(mut rounds: Vec<Self>) -> Self {
        rounds.sort_by_key(|round| round.p99);
        rounds[rounds.len() / 2]
    }
}

impl Neighbour {
    /// The senders of `weir`, whose door is `<door>` and whose backend is `sink`.
    pub(crate) fn new(weir: Weir, sink: OtlpSink) -> Self {
        let address = weir.address("door");
        let node = |number| Node { sender: Sender::new(Protocol::OtlpGrpc, address), number, next: 0 };
        let nodes = (0..NODES).map(node).collect();
        Self { weir, sink, nodes, book: Book::default(), harvest: Harvest::default() }
    }

    /// A steady load for a while: each node a batch each [`PACE`], in turns.
    pub(crate) async fn steady(&mut self, window: Duration) -> Waits {
        let mut under_way = JoinSet::new();
        let begin = Instant::now() + PACE;
        for (turn, node) in (0..).zip(std::mem::take(&mut self.nodes)) {
            let begin = begin + PACE / NODES * turn;
            under_way.spawn(node.steady(begin, begin + window, self.book.clone()));
        }
        let mut waits = Vec::new();
        for (node, waited) in under_way.join_all().await {
            self.nodes.push(node);
            waits.extend(waited);
        }
        self.gather();
        Waits::of(waits)
    }

    fn gather(&mut self) {
        let arrivals = self.sink.drain();
        arrivals.iter().filter(|arrival| arrival.taken).for_each(|arrival| self.harvest.add(&arrival.body));
    }

    /// The whole daemon stands still.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// It goes on.
    pub(crate) fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid =
            i32::try_from(self.weir.pid()).ok().and_then(Pid::from_raw).expect("a process has a number");
        kill_process(pid, signal).expect("our own process may be told");
    }

    /// Everything arrived, nobody was refused, the log has no control characters, the daemon stops.
    pub(crate) async fn assert_kept(mut self, failures: &mut Vec<String>) {
        let arrived = until(DELIVERY_DEADLINE, async || {
            self.gather();
            self.harvest.missing(&self.book.ledger).is_empty().then_some(())
        });
        if arrived.await.is_none() {
            failures.push(format!(
                "{} batches of the innocent did not arrive",
                self.harvest.missing(&self.book.ledger).len()
            ));
        }
        self.book.assert_no_permanent_refusal();
        if self.book.later() > 0 {
            failures.push(format!("{} batches of the innocent were refused for now", self.book.later()));
        }
        if let Some(line) = self.weir.log().lines().iter().find(|line| line.contains(char::is_control)) {
            failures.push(format!("a control character in the log: {line:?}"));
        }
        self.weir.stop().await;
    }
}

impl Node {
    async fn steady(mut self, begin: Instant, end: Instant, book: Book) -> (Self, Vec<Duration>) {
        let mut beat = tokio::time::interval_at(begin, PACE);
        beat.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut waits = Vec::new();
        loop {
            let due = beat.tick().await;
            if due >= end {
                return (self, waits);
            }
            let id = BatchId { sender: self.number, number: self.next };
            self.next += 1;
            let verdict = self.sender.send(id, SHAPE).await;
            waits.push(due.elapsed());
            assert!(
                book.note(id, SHAPE, verdict.clone()),
                "{id:?} of the innocent has no answer: {verdict:?}"
            );
        }
    }
}
