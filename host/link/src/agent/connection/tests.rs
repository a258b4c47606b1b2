//! The connection's loop, without a network.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Waker;

use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use weir_model::{Lane, Place, Seq, Signal};
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::{Ack, Goodbye};
use weir_queue::QueueError;

use super::*;
use crate::agent::LogHandle;
use crate::agent::folder::{Memory, Rows, Start};
use crate::agent::gauge::Gauge;
use crate::agent::link_tests::{NoStates, PATIENCE, log, welcome};
use crate::agent::parcel::Parcel;
use crate::agent::session::{Names, Session};
use crate::agent::shared::Awaited;
use crate::names::Boot;

/// Takes nothing once the disk is full.
struct Full(Memory, Arc<AtomicBool>);

impl Rows for Full {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.0.get(key)
    }

    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.0.scan(prefix)
    }

    fn commit(&self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), QueueError> {
        if self.1.load(Ordering::Relaxed) { Err(QueueError::Closed) } else { self.0.commit(changes) }
    }
}

fn connection(rows: Arc<dyn Rows>, logs: Vec<LogHandle>) -> Connection {
    let rejected = Arc::new(Rejected::open(Arc::clone(&rows), &[]));
    let start = Start { boot: Boot(1), ends: Vec::new() };
    let folder = Arc::new(Folder::open(rows, None, &start, seeds()).unwrap());
    let life = folder.life();
    let gauges = logs.into_iter().map(|log| Gauge::new(log, now())).collect();
    let names = Names {
        identity: life.identity,
        incarnation: life.incarnation,
        epoch: life.epoch,
        boot: Boot(1),
        boots: vec![Boot(1)],
        store: None,
        host: String::new(),
        program: String::new(),
        encodings: Vec::new(),
    };
    Connection {
        id: "weir/up".to_owned(),
        target: Target::parse("127.0.0.1:1", false).unwrap(),
        tls: None,
        shared: Arc::new(Shared::new(Session::new(names, Box::new(NoStates)), gauges)),
        folder,
        rejected,
        shown: VecDeque::new(),
        begin: Begin::default(),
        is_renewed: false,
    }
}

/// Scenario: a collector asks for a new incarnation, again and again, while the disk takes nothing; then it takes it.
/// Guarantees: without a new one the agent waits as after any other end; with one it comes at once, but only once.
#[tokio::test]
async fn a_new_life_that_cannot_be_written_is_waited_for() {
    let is_full = Arc::new(AtomicBool::new(false));
    let rows = Arc::new(Full(Memory::default(), Arc::clone(&is_full)));
    let mut connection = connection(rows, Vec::new());
    for (full, at_once) in [(true, false), (true, false), (false, true), (false, false)] {
        is_full.store(full, Ordering::Relaxed);
        let goodbye = Goodbye { reason: Reason::NewIncarnation.into(), ..Goodbye::default() };
        let over = Over::Ended(Ended::Goodbye(Farewell::of(goodbye)));
        let wait = connection.over(over, "new incarnation".to_owned()).await;
        assert_eq!(wait.is_zero(), at_once, "a disk that is full: {full}");
    }
}

/// Where the collector of these tests is.
fn address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1))
}

fn message(message: Down) -> CollectorMessage {
    CollectorMessage { message: Some(message) }
}

/// A stream up to its Welcome: its number.
async fn welcomed(connection: &mut Connection) -> u64 {
    let stream = connection.shared.connected(Vec::new());
    assert!(matches!(sent(connection, stream), Some(Outgoing::Hello(_))));
    connection.received(message(Down::Welcome(welcome())), address()).await.unwrap();
    stream
}

/// What the writer sends next; none: nothing now.
fn sent(connection: &Connection, stream: u64) -> Option<Outgoing> {
    match connection.shared.poll_next(stream, &Context::from_waker(Waker::noop())) {
        Poll::Ready(outgoing) => outgoing,
        Poll::Pending => None,
    }
}

/// A record of this place that is all sent.
fn pushed(connection: &Connection, stream: u64, seq: u64, again: bool) -> Awaited {
    let records = vec![Place { seq: Seq(seq), items: 1, bytes: 1 }];
    let lane = Lane::new(0).unwrap();
    let mut parcel = Parcel::new(0, lane, Signal::Traces, records, Bytes::from_static(b"0")).unwrap();
    parcel.again = again;
    let Ok(awaited) = connection.shared.offer(parcel) else { panic!("it is not kept") };
    assert!(matches!(sent(connection, stream), Some(Outgoing::Part(_))));
    awaited
}

fn acknowledged(upto: u64) -> CollectorMessage {
    message(Down::Ack(Ack { upto, ..Ack::default() }))
}

/// Rows whose commits, once they are held, tell that they have begun and wait to go on.
#[derive(Default)]
struct Held {
    rows: Memory,
    held: Mutex<Option<(mpsc::Sender<()>, std::sync::mpsc::Receiver<()>)>>,
}

impl Rows for Held {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.rows.get(key)
    }

    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.rows.scan(prefix)
    }

    fn commit(&self, changes: Vec<(Vec<u8>, Option<Vec<u8>>)>) -> Result<(), QueueError> {
        if let Some((begun, go_on)) = &*self.held.lock().unwrap() {
            begun.try_send(()).unwrap();
            go_on.recv().unwrap();
        }
        self.rows.commit(changes)
    }
}

/// Scenario: a bundle is acknowledged, and while it is written down by which store the collector's certificate stops to hold.
/// Guarantees: the stream ends, and whoever waits for the bundle is told before that it was taken.
#[tokio::test]
async fn a_verdict_outlives_the_trust_in_the_collector() {
    let rows = Arc::new(Held::default());
    let mut connection = connection(Arc::clone(&rows) as _, Vec::new());
    let shared = Arc::clone(&connection.shared);
    let stream = welcomed(&mut connection).await;
    let awaited = pushed(&connection, stream, 1, false);
    let (begin, mut begun) = mpsc::channel(1);
    let (release, go_on) = std::sync::mpsc::sync_channel(1);
    *rows.held.lock().unwrap() = Some((begin, go_on));
    let (distrust, distrusted) = oneshot::channel::<()>();
    let speaking = tokio::spawn(async move {
        let mut reader = Reader::new(Box::pin(std::future::pending()));
        let ack = acknowledged(1).encode_to_vec();
        reader.unframed.push(&[0]);
        reader.unframed.push(&u32::try_from(ack.len()).unwrap().to_be_bytes());
        reader.unframed.push(&ack);
        let distrusted = async {
            distrusted.await.unwrap();
            "revoked".to_owned()
        };
        tokio::pin!(distrusted);
        connection.speak(&mut reader, distrusted, address()).await
    });
    tokio::time::timeout(PATIENCE, begun.recv()).await.expect("a commit in time").unwrap();
    distrust.send(()).unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!speaking.is_finished());
    release.send(()).unwrap();
    let over = tokio::time::timeout(PATIENCE, speaking).await.expect("it ends in time").unwrap();
    assert!(matches!(over, Over::Broken(why) if why == "revoked"));
    let verdict = tokio::time::timeout(PATIENCE, awaited.verdict()).await.expect("a verdict in time");
    assert_eq!((verdict, shared.kept().0), (Some(Verdict::Taken), 0));
}

/// Scenario: a record that was rejected before is taken, which leaves no mark at the collector; then one that leaves one.
/// Guarantees: the next Hello does not say that the collector must have the first, and says so of the second; both are told that
/// they were taken.
#[tokio::test]
async fn what_leaves_no_mark_is_not_asked_for_later() {
    let mut connection = connection(Arc::new(Memory::default()), vec![log(0).await]);
    let stream = welcomed(&mut connection).await;
    let life = connection.folder.life();
    let (name, numbering) = connection.shared.numbering(0, life.incarnation).unwrap();
    for (upto, seq, again, settled) in [(1, 1, true, 0), (2, 2, false, 3), (3, 7, true, 3)] {
        let awaited = pushed(&connection, stream, seq, again);
        connection.received(acknowledged(upto), address()).await.unwrap();
        assert_eq!(awaited.verdict().await, Some(Verdict::Taken));
        let life = connection.folder.life();
        assert_eq!((life.settled(&name, numbering, Seq(9)), life.store), (Seq(settled), Some(StoreId(1))));
    }
}
