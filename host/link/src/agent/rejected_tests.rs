//! Records that a collector has rejected, and that come again.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use weir_model::{Exporter as _, Outcome, Place, Push, Seq};
use weir_proto::weir::link::v1::agent_message::Message as Up;
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::{Ack, Rejected as Refused};
use weir_queue::{Leased, QueueError, Settlement, WhenFull, Wish};

use super::exporter::LogExporter;
use super::folder::{LogEnd, Memory, Rows};
use super::link_tests::{
    Collector, NoStates, Opened, PATIENCE, log, outcome, push, push_of, settings, until,
};
use super::rejected::Rejected;
use super::session::{Names, ParcelId, Session, Verdict};
use super::shared::Shared;
use crate::agent::{Agent, LogHandle};
use crate::names::{Boot, Incarnation};

/// The next bundle is taken, or refused for good: its places, and whether it went without its key.
async fn answer(stream: &mut Opened, takes: bool) -> (Vec<u64>, bool) {
    let (head, _) = stream.bundle().await;
    let reason = "torn".to_owned();
    let rejected = (!takes).then_some(Refused { ordinal: head.ordinal, reason }).into_iter().collect();
    stream.say(Down::Ack(Ack { upto: head.ordinal, rejected, also: Vec::new() })).await;
    (head.seqs, head.again)
}

/// One push with the records of these places, each of one byte.
fn several(agent: &Agent, seqs: &[u64]) -> tokio::task::JoinHandle<Outcome> {
    let exporter = agent.exporter("traces");
    let body = Bytes::from(vec![7; seqs.len()]);
    let mut push = push_of(0, 0, body);
    let records = seqs.iter().map(|seq| Place { seq: Seq(*seq), items: 1, bytes: 1 }).collect();
    push.places.as_mut().unwrap().records = records;
    tokio::spawn(async move { exporter.push(push).await })
}

/// Settles the first record of a log as rejected, as the exporter does that was told so.
async fn bury(log: &LogHandle) -> Seq {
    let cursor = log.queue.subscribe("weir/up", WhenFull::Refuse).unwrap();
    let wish = Wish { items_max: 1, bytes_max: 1 << 20, linger: Duration::ZERO };
    let Leased::Lease(lease) = cursor.lease(wish, Instant::now()).await else { panic!("no lease") };
    let seq = lease.records()[0].seq;
    lease.settle_all(Settlement::Rejected { reason: "torn".to_owned() }, Instant::now()).await.unwrap();
    seq
}

/// Scenario: a record is rejected, a later one of its lane is taken, and the agent's process ends before the log has a verdict of
/// either. After the start both come again, in one push; then the first once more.
/// Guarantees: the first goes without its key, for the mark above it does not speak for it; the other goes with its key, so that it is
/// not stored twice; once the first is taken it goes as any other.
#[tokio::test]
async fn what_was_rejected_before_a_crash_goes_without_its_key() {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = Collector::new();
    collector.start();
    let (endpoint, log) = (collector.address.to_string(), log(4).await);
    let start = || Agent::start(settings(&endpoint, Some(folder.path().join("link"))), vec![log.clone()]);
    let agent = start().unwrap();
    let (mut stream, _) = collector.welcome().await;
    for (seq, takes) in [(2, false), (3, true)] {
        let pushing = push(&agent, seq, 0);
        assert_eq!(answer(&mut stream, takes).await, (vec![seq], false));
        assert_eq!(matches!(outcome(pushing).await, Outcome::Accepted), takes);
    }
    drop((agent, stream));

    let mut again = None;
    until("the folder is free", || {
        again = start().ok();
        again.is_some()
    })
    .await;
    let agent = again.unwrap();
    let (mut stream, _) = collector.welcome().await;
    let both = several(&agent, &[2, 3]);
    assert_eq!(answer(&mut stream, true).await, (vec![2], true));
    assert_eq!(answer(&mut stream, true).await, (vec![3], false));
    assert_eq!(outcome(both).await, Outcome::Accepted);
    let once_more = push(&agent, 2, 0);
    assert_eq!(answer(&mut stream, true).await, (vec![2], false));
    assert_eq!(outcome(once_more).await, Outcome::Accepted);
}

/// Scenario: a record is rejected and an agent with the same folder takes the place of this one, while a push waits; it is rejected
/// again, and the log has settled past it when a third agent takes over.
/// Guarantees: the folder is free when the stop is over; the second agent sends the record without its key, and the third knows no
/// more of it.
#[tokio::test]
async fn a_rejection_is_known_to_the_agent_that_takes_over_until_it_is_settled() {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = Collector::new();
    collector.start();
    let (endpoint, log) = (collector.address.to_string(), log(1).await);
    let start = || Agent::start(settings(&endpoint, Some(folder.path().join("link"))), vec![log.clone()]);
    for (number, again) in [false, true, false].into_iter().enumerate() {
        let agent = start().unwrap();
        let (mut stream, _) = collector.welcome().await;
        let pushing = push(&agent, 1, 0);
        assert_eq!(answer(&mut stream, false).await, (vec![1], again), "agent {number}");
        assert_eq!(outcome(pushing).await, Outcome::Permanent("torn".to_owned()));
        if number == 1 {
            assert_eq!(bury(&log).await, Seq(1));
        }
        let waiting = push(&agent, 2, 1);
        stream.bundle().await;
        let stopping = Arc::clone(&agent);
        let stopping = tokio::spawn(async move { stopping.stop(Duration::ZERO).await });
        assert!(matches!(stream.heard().await, Some(Up::Leaving(_))));
        drop((agent, stream));
        tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
        assert!(matches!(outcome(waiting).await, Outcome::Retryable { .. }));
    }
}

/// Rows that outlive the process, on a disk that fails while it is told to.
#[derive(Default)]
pub(super) struct Disk {
    rows: Memory,
    pub(super) is_full: AtomicBool,
}

impl Rows for Disk {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.rows.get(key)
    }

    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.rows.scan(prefix)
    }

    fn commit(&self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), QueueError> {
        match self.is_full.load(Ordering::Relaxed) {
            true => Err(QueueError::Io {
                act: "write",
                path: "agent.redb".into(),
                source: ErrorKind::StorageFull.into(),
            }),
            false => self.rows.commit(changes),
        }
    }
}

fn names() -> Names {
    Names {
        identity: "agent".to_owned(),
        incarnation: Incarnation(1),
        epoch: 1,
        boot: Boot(1),
        boots: vec![Boot(1)],
        store: None,
        host: String::new(),
        program: String::new(),
        encodings: Vec::new(),
    }
}

/// Scenario: a record is rejected while the disk is full, and again when it has room; then a dead letter is, with the disk full; then
/// another record, when the agent has ended.
/// Guarantees: the first time the push is to be tried again, with the reason and what to do, so that no later record passes this one;
/// the second time it is rejected for good. What says of itself that it was rejected needs no note. The last is told that the agent has
/// stopped, and nothing of a disk.
#[tokio::test]
async fn a_rejection_that_cannot_be_written_is_not_answered() {
    let disk = Arc::new(Disk::default());
    let end = LogEnd { log: "traces".to_owned(), numbering: 5, next: Seq(1) };
    let rejected = Arc::new(Rejected::open(Arc::clone(&disk) as _, &[end]));
    let shared = Arc::new(Shared::new(Session::new(names(), Box::new(NoStates)), Vec::new()));
    let exporter =
        Arc::new(LogExporter { shared: Arc::clone(&shared), rejected: Arc::downgrade(&rejected), log: 0 });
    let refused = |id, push: Push| {
        let (exporter, shared) = (Arc::clone(&exporter), Arc::clone(&shared));
        async move {
            let pushing = tokio::spawn(async move { exporter.push(push).await });
            until("the push is kept", || shared.kept().0 == id).await;
            shared.settle(vec![(ParcelId(id), Verdict::Rejected("torn".to_owned()))]);
            outcome(pushing).await
        }
    };
    let record = || push_of(2, 0, Bytes::from_static(b"0"));
    disk.is_full.store(true, Ordering::Relaxed);
    let full = refused(1, record()).await;
    let Outcome::Retryable { message, after: None } = full else { panic!("{full:?}") };
    assert!(message.contains("record 2 (torn)") && message.contains("free the disk"), "{message}");
    disk.is_full.store(false, Ordering::Relaxed);
    assert_eq!(refused(2, record()).await, Outcome::Permanent("torn".to_owned()));
    disk.is_full.store(true, Ordering::Relaxed);
    let mut letter = record();
    letter.places.as_mut().unwrap().again = true;
    assert_eq!(refused(3, letter).await, Outcome::Permanent("torn".to_owned()));
    rejected.close();
    let stopped = refused(4, record()).await;
    assert!(
        matches!(&stopped, Outcome::Retryable { message, .. } if message.starts_with("the agent has stopped")),
        "{stopped:?}"
    );
}
