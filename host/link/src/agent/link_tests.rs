//! The agent against a collector of the generated service, on loopback.

use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, Streaming};
use weir_model::{Batch, Lane, Log as _, Outcome, Place, Places, Push, Seq, Signal};
use weir_proto::weir::link::v1::agent_message::Message as Up;
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::link_service_server::{LinkService, LinkServiceServer};
use weir_proto::weir::link::v1::{
    Ack, AgentMessage, BundleHead, CollectorMessage, Goodbye, Heartbeat, Hello, KindDigest, Rejected,
    StateDown, StateUp, Welcome,
};
use weir_queue::{Leased, MemoryQueue, Queue as _, Settlement, WhenFull, Wish};

use crate::agent::{Agent, AgentError, AgentSettings, EndpointError, LogHandle};
use crate::lanes::AgentStates;
use crate::limits::AWAY_BYTES_MAX;
use crate::names::{Incarnation, StoreId, from_wire, to_wire};

/// Far beyond what anything here takes on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(120);

/// A lane with nothing to say.
pub(super) struct NoStates;

impl AgentStates for NoStates {
    fn welcomed(&mut self, _: &[KindDigest], _: bool, _: Instant) {}

    fn received(&mut self, _: StateDown, _: Instant) {}

    fn next(&mut self, _: Instant) -> Option<StateUp> {
        None
    }

    fn wake(&self) -> Option<Instant> {
        None
    }

    fn broken(&mut self) {}
}

/// One stream, in the test's hands.
pub(super) struct Opened {
    up: Streaming<AgentMessage>,
    down: mpsc::Sender<Result<CollectorMessage, Status>>,
}

struct Service(mpsc::Sender<Opened>);

#[tonic::async_trait]
impl LinkService for Service {
    type OpenStream = Pin<Box<dyn Stream<Item = Result<CollectorMessage, Status>> + Send>>;

    async fn open(
        &self,
        request: Request<Streaming<AgentMessage>>,
    ) -> Result<Response<Self::OpenStream>, Status> {
        let (down, messages) = mpsc::channel(64);
        let opened = Opened { up: request.into_inner(), down };
        self.0.send(opened).await.map_err(|_| Status::unavailable("the test is over"))?;
        let messages =
            unfold(messages, |mut messages| async { messages.recv().await.map(|next| (next, messages)) });
        Ok(Response::new(Box::pin(messages)))
    }
}

/// A collector that can be killed with all of its connections, and comes back at the same address.
pub(super) struct Collector {
    listener: TcpListener,
    pub(super) address: SocketAddr,
    opened: mpsc::Receiver<Opened>,
    opens: mpsc::Sender<Opened>,
    runtime: Option<Runtime>,
}

impl Collector {
    pub(super) fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let (opens, opened) = mpsc::channel(8);
        Self { listener, address, opened, opens, runtime: None }
    }

    pub(super) fn start(&mut self) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (listener, service) = (self.listener.try_clone().unwrap(), Service(self.opens.clone()));
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            let incoming = unfold(listener, |listener| async {
                Some((listener.accept().await.map(|(stream, _)| stream), listener))
            });
            let server = tonic::transport::Server::builder().add_service(LinkServiceServer::new(service));
            server.serve_with_incoming(incoming).await
        });
        self.runtime = Some(runtime);
    }

    /// Its process ends: sockets are closed in the middle of whatever was on them.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }

    pub(super) async fn stream(&mut self) -> Opened {
        tokio::time::timeout(PATIENCE, self.opened.recv()).await.expect("a stream in time").unwrap()
    }

    /// A stream up to its Welcome.
    pub(super) async fn welcome(&mut self) -> (Opened, Hello) {
        let mut opened = self.stream().await;
        let hello = opened.hello().await;
        opened.say(Down::Welcome(welcome())).await;
        (opened, hello)
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Opened {
    pub(super) async fn heard(&mut self) -> Option<Up> {
        let message = tokio::time::timeout(PATIENCE, self.up.message()).await.expect("a message in time");
        message.ok().flatten().map(|message| message.message.unwrap())
    }

    pub(super) async fn hello(&mut self) -> Hello {
        match self.heard().await {
            Some(Up::Hello(hello)) => hello,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn bundle(&mut self) -> (BundleHead, Vec<u8>) {
        let mut bundle: Option<(BundleHead, Vec<u8>)> = None;
        loop {
            let part = match self.heard().await {
                Some(Up::Data(part)) => part,
                Some(Up::Heartbeat(_)) => continue,
                other => panic!("{other:?}"),
            };
            let (head, mut body) = bundle.take().unwrap_or_else(|| (part.head.clone().unwrap(), Vec::new()));
            body.extend_from_slice(&part.body);
            if body.len() as u64 == head.sent_bytes {
                return (head, body);
            }
            bundle = Some((head, body));
        }
    }

    async fn heartbeat(&mut self) -> Heartbeat {
        match self.heard().await {
            Some(Up::Heartbeat(heartbeat)) => heartbeat,
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn say(&self, message: Down) {
        self.down.send(Ok(CollectorMessage { message: Some(message) })).await.unwrap();
    }

    pub(super) async fn ack(&self, upto: u64) {
        self.say(Down::Ack(Ack { upto, ..Ack::default() })).await;
    }

    pub(super) async fn goodbye(self, reason: Reason, known: u128) {
        let incarnation = to_wire(known);
        let goodbye = Goodbye { reason: reason.into(), incarnation, ..Goodbye::default() };
        self.say(Down::Goodbye(goodbye)).await;
    }
}

pub(super) fn welcome() -> Welcome {
    Welcome {
        version: 1,
        store: to_wire(1),
        durable: true,
        session: 5,
        heartbeat_ms: 30_000,
        credit: 8 << 20,
        bundle_bytes_max: 4 << 20,
        ..Welcome::default()
    }
}

pub(super) fn settings(endpoint: &str, folder: Option<PathBuf>) -> AgentSettings {
    AgentSettings {
        id: "weir/up".to_owned(),
        endpoint: endpoint.to_owned(),
        folder,
        tls: None,
        identity: None,
        encodings: Vec::new(),
        host: "host".to_owned(),
        program: "weir 0".to_owned(),
        states: Box::new(NoStates),
    }
}

/// A log with so many records that wait.
pub(super) async fn log(records: u8) -> LogHandle {
    let queue = MemoryQueue::new(1 << 20);
    queue.subscribe("weir/up", WhenFull::Refuse).unwrap();
    for lane in 0..records {
        let batch = Batch {
            signal: Signal::Traces,
            lane: Lane::new(lane).unwrap(),
            items: 1,
            body: Bytes::from_static(b"0123456789"),
            origin: None,
            claim: None,
        };
        let _receipt = queue.admit(vec![batch]).unwrap().commit().await.unwrap();
    }
    LogHandle { name: "traces".to_owned(), queue, exporter: "weir/up".to_owned() }
}

pub(super) fn push_of(seq: u64, lane: u8, body: Bytes) -> Push {
    let bytes = u32::try_from(body.len()).unwrap();
    let records = vec![Place { seq: Seq(seq), items: 1, bytes }];
    Push {
        signal: Signal::Traces,
        body,
        id: String::new(),
        attempt: 1,
        items: 1,
        places: Some(Places { lane: Lane::new(lane).unwrap(), records, again: false }),
        searching: false,
    }
}

pub(super) fn push(agent: &Agent, seq: u64, lane: u8) -> JoinHandle<Outcome> {
    let exporter = agent.exporter("traces");
    tokio::spawn(async move { exporter.push(push_of(seq, lane, Bytes::from_static(b"0123456789"))).await })
}

pub(super) async fn outcome(pushing: JoinHandle<Outcome>) -> Outcome {
    tokio::time::timeout(PATIENCE, pushing).await.expect("an outcome in time").unwrap()
}

pub(super) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what} in time");
        tokio::task::yield_now().await;
    }
}

/// Scenario: pushes of a record of two megabytes and of a small one, before the collector is there; it takes the first and
/// rejects the second; then a part of a record and a record of a log that was never named.
/// Guarantees: the body comes whole; a push is answered by the acknowledgement and not before, the rejected one with its reason; a part
/// is refused for good, a log that is not known stops.
#[tokio::test]
async fn a_push_is_answered_by_the_acknowledgement() {
    let mut collector = Collector::new();
    let agent = Agent::start(settings(&collector.address.to_string(), None), vec![log(0).await]).unwrap();
    let body: Bytes = (0..2_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    let (exporter, large) = (agent.exporter("traces"), push_of(1, 3, body.clone()));
    let first = tokio::spawn(async move { exporter.push(large).await });
    until("the first push is kept", || agent.status().unacknowledged.bundles == 1).await;
    let second = push(&agent, 2, 4);
    until("both are kept", || agent.status().unacknowledged.records == 2).await;
    assert!(agent.status().connected.is_none());
    collector.start();
    let (mut stream, hello) = collector.welcome().await;
    assert_eq!((hello.logs.len(), hello.epoch, hello.store), (1, 1, Vec::new()));
    assert_eq!(
        (hello.logs[0].name.as_str(), hello.logs[0].next, hello.logs[0].epoch_first),
        ("traces", 1, 1)
    );
    let (head, found) = stream.bundle().await;
    assert!(found == body, "the body is another");
    assert_eq!((head.ordinal, head.lane, head.signal, head.crc), (1, 3, 1, crc32c::crc32c(&body)));
    assert_eq!((head.seqs, head.items, head.lengths), (vec![1], vec![1], vec![2_000_000]));
    assert_eq!(stream.bundle().await.0.ordinal, 2);
    assert!(!first.is_finished() && !second.is_finished());
    let rejected = vec![Rejected { ordinal: 2, reason: "torn".to_owned() }];
    stream.say(Down::Ack(Ack { upto: 2, rejected, ..Ack::default() })).await;
    assert_eq!(outcome(first).await, Outcome::Accepted);
    assert_eq!(outcome(second).await, Outcome::Permanent("torn".to_owned()));
    let part = Push { places: None, ..push_of(3, 0, Bytes::new()) };
    assert!(matches!(agent.exporter("traces").push(part).await, Outcome::Permanent(_)));
    let unknown = agent.exporter("logs").push(push_of(1, 0, Bytes::new())).await;
    assert!(matches!(unknown, Outcome::Stopped(why) if why.contains("logs")));
    let status = agent.status();
    assert_eq!(status.connected.map(|up| (up.session, up.store)), Some((5, StoreId(1))));
    assert_eq!(
        (status.store, status.counts.acknowledged.get(), status.counts.rejected.get()),
        (Some(StoreId(1)), 1, 1)
    );
}

/// A lane that breaks.
struct Broken;

impl AgentStates for Broken {
    fn welcomed(&mut self, _: &[KindDigest], _: bool, _: Instant) {
        panic!("as the test wants it");
    }

    fn received(&mut self, _: StateDown, _: Instant) {}

    fn next(&mut self, _: Instant) -> Option<StateUp> {
        None
    }

    fn wake(&self) -> Option<Instant> {
        None
    }

    fn broken(&mut self) {}
}

/// Scenario: the agent's task panics while a push waits; another push comes.
/// Guarantees: both are told that the agent has stopped, and may try again.
#[tokio::test]
async fn a_panic_of_the_task_leaves_no_push_waiting() {
    let mut collector = Collector::new();
    let settings =
        AgentSettings { states: Box::new(Broken), ..settings(&collector.address.to_string(), None) };
    let agent = Agent::start(settings, vec![log(0).await]).unwrap();
    let pushing = push(&agent, 1, 0);
    until("the push is kept", || agent.status().unacknowledged.bundles == 1).await;
    collector.start();
    collector.welcome().await;
    assert!(matches!(outcome(pushing).await, Outcome::Retryable { .. }));
    assert!(matches!(outcome(push(&agent, 2, 1)).await, Outcome::Retryable { .. }));
}

/// Scenario: while the collector is away a body is pushed of the size that is kept meanwhile, and then a small one.
/// Guarantees: the first waits, the second is told to try again later; once there is a connection both are taken.
#[tokio::test]
async fn what_is_kept_without_a_connection_is_bounded() {
    let mut collector = Collector::new();
    let agent = Agent::start(settings(&collector.address.to_string(), None), vec![log(0).await]).unwrap();
    let body = Bytes::from(vec![7; usize::try_from(AWAY_BYTES_MAX).unwrap()]);
    let (exporter, large) = (agent.exporter("traces"), push_of(1, 0, body));
    let first = tokio::spawn(async move { exporter.push(large).await });
    until("the first push is kept", || agent.status().unacknowledged.bundles == 1).await;
    let refused = outcome(push(&agent, 2, 1)).await;
    assert!(matches!(refused, Outcome::Retryable { message, .. } if message.contains("no connection")));
    collector.start();
    let mut stream = collector.stream().await;
    stream.hello().await;
    let large = Welcome { credit: 32 << 20, bundle_bytes_max: 32 << 20, ..welcome() };
    stream.say(Down::Welcome(large)).await;
    stream.bundle().await;
    let second = push(&agent, 2, 1);
    stream.bundle().await;
    stream.ack(2).await;
    assert_eq!((outcome(first).await, outcome(second).await), (Outcome::Accepted, Outcome::Accepted));
}

/// Scenario: a dead letter is requeued and pushed; a record is rejected alone, a later one of its lane taken, and the first pushed
/// again; then one of the lane after both.
/// Guarantees: what was rejected before says so, so that no mark speaks for it, and nothing else does.
#[tokio::test]
async fn what_was_rejected_goes_again_past_the_marks() {
    let mut collector = Collector::new();
    collector.start();
    let log = log(1).await;
    let agent = Agent::start(settings(&collector.address.to_string(), None), vec![log.clone()]).unwrap();
    let (mut stream, _) = collector.welcome().await;
    let mut letter = push_of(1, 0, Bytes::from_static(b"0123456789"));
    letter.places.as_mut().unwrap().again = leased_as_letter(&log).await;
    let exporter = agent.exporter("traces");
    let pushing = tokio::spawn(async move { exporter.push(letter).await });
    assert!(stream.bundle().await.0.again);
    stream.ack(1).await;
    assert_eq!(outcome(pushing).await, Outcome::Accepted);
    for (ordinal, seq, again) in [(2, 2, false), (3, 3, false), (4, 2, true), (5, 4, false)] {
        let pushing = push(&agent, seq, 0);
        assert_eq!(stream.bundle().await.0.again, again, "bundle {ordinal}");
        let is_refused = ordinal == 2;
        let rejected =
            is_refused.then(|| Rejected { ordinal, reason: "torn".to_owned() }).into_iter().collect();
        stream.say(Down::Ack(Ack { upto: ordinal, rejected, also: Vec::new() })).await;
        assert_eq!(matches!(outcome(pushing).await, Outcome::Permanent(_)), is_refused);
    }
}

/// Rejects the only record of a log and leases it as a dead letter: whether the lease says so.
async fn leased_as_letter(log: &LogHandle) -> bool {
    let cursor = log.queue.subscribe("weir/up", WhenFull::Refuse).unwrap();
    let wish = Wish { items_max: 1, bytes_max: 1 << 20, linger: Duration::ZERO };
    let Leased::Lease(lease) = cursor.lease(wish, Instant::now()).await else { panic!("no lease") };
    assert!(!lease.is_letter(), "the first time it is a record like any other");
    let rejected = Settlement::Rejected { reason: "torn".to_owned() };
    let verdicts = vec![(lease.records()[0].seq, rejected)];
    lease.settle(verdicts, Instant::now()).await.unwrap();
    let letter = log.queue.dead_letters(0, 1).unwrap().remove(0);
    log.queue.requeue(letter.id).await.unwrap();
    let Leased::Lease(lease) = cursor.lease(wish, Instant::now()).await else { panic!("no letter") };
    lease.is_letter()
}

/// Scenario: the collector is not there at first; then streams end by a status, without one, by a message that is not allowed, by a
/// goodbye, and by the death of the collector; a push is in flight all the time.
/// Guarantees: each end is followed by another stream, on which the push's bundle comes again, once; the last one's acknowledgement
/// answers it (argocd-agent #698, #943).
#[tokio::test]
async fn whatever_ends_a_stream_is_followed_by_another() {
    let mut collector = Collector::new();
    let agent = Agent::start(settings(&collector.address.to_string(), None), vec![log(0).await]).unwrap();
    let pushing = push(&agent, 1, 0);
    collector.start();
    for end in 0..6 {
        let (mut stream, hello) = collector.welcome().await;
        assert_eq!(hello.epoch, 1, "a stream is no start");
        assert_eq!(stream.bundle().await.0.ordinal, 1);
        match end {
            0 => stream.down.send(Err(Status::internal("RST_STREAM"))).await.unwrap(),
            1 => drop(stream.down),
            2 => stream.ack(9).await,
            3 => stream.goodbye(Reason::Draining, 0).await,
            4 => {
                collector.kill();
                collector.start();
            }
            _ => stream.ack(1).await,
        }
    }
    assert_eq!(outcome(pushing).await, Outcome::Accepted);
    let status = agent.status();
    assert_eq!((status.resent, status.counts.welcomes.get(), status.unacknowledged.bundles), (5, 6, 0));
    assert!(status.last_goodbye.unwrap().contains("stops or restarts"));
}

/// Scenario: a start with three records in the log; a collector takes one and then says that another copy of the folder was there,
/// twice, knowing a high incarnation; the process stops and starts again; another store takes over.
/// Guarantees: the new life is above the known one, has epoch 1, is on disk, and numbers the records anew; what was not acknowledged
/// goes again; `epoch_first` never has the third rule strike at the agent's own records; each Hello names the store that
/// acknowledged last, what it must have, and the starts of this life.
#[tokio::test]
async fn a_new_incarnation_goes_on_with_what_is_not_acknowledged() {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = Collector::new();
    collector.start();
    let (endpoint, log) = (collector.address.to_string(), log(3).await);
    let start =
        || Agent::start(settings(&endpoint, Some(folder.path().join("link"))), vec![log.clone()]).unwrap();
    let agent = start();
    let (first, second) = (push(&agent, 1, 0), push(&agent, 2, 1));
    let (mut stream, hello) = collector.welcome().await;
    let facts = &hello.logs[0];
    assert_eq!((hello.epoch, facts.epoch_first, facts.next, facts.settled), (1, 4, 4, 0));
    stream.bundle().await;
    let (head, _) = stream.bundle().await;
    stream.ack(1).await;
    let (first, second) = if head.seqs == [2] { (first, second) } else { (second, first) };
    assert_eq!(outcome(first).await, Outcome::Accepted);
    let known = from_wire(&hello.incarnation).unwrap() + (1 << 100);
    stream.goodbye(Reason::NewIncarnation, known).await;
    let again = collector.stream().await.hello_of().await;
    assert!(from_wire(&again.1.incarnation).unwrap() > known);
    again.0.goodbye(Reason::NewIncarnation, 0).await;
    let (mut stream, renewed) = collector.welcome().await;
    assert!(from_wire(&renewed.incarnation) > from_wire(&again.1.incarnation));
    assert_eq!((renewed.epoch, &renewed.boot, &renewed.identity), (1, &hello.boot, &hello.identity));
    assert_ne!(renewed.logs[0].incarnation, facts.incarnation);
    assert_eq!((renewed.logs[0].epoch_first, renewed.logs[0].settled, &renewed.store), (1, 0, &to_wire(1)));
    assert_eq!(stream.bundle().await.0.ordinal, 1);
    stream.ack(1).await;
    assert_eq!(outcome(second).await, Outcome::Accepted);
    let stopping = Arc::clone(&agent);
    let stopping = tokio::spawn(async move { stopping.stop(PATIENCE).await });
    assert_eq!(stream.heard().await, Some(Up::Leaving(weir_proto::weir::link::v1::Leaving {})));
    drop((agent, stream));
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();

    let agent = start();
    let mut stream = collector.stream().await;
    let restarted = stream.hello().await;
    assert_eq!(
        (restarted.epoch, &restarted.incarnation, &restarted.store),
        (2, &renewed.incarnation, &to_wire(1))
    );
    assert_eq!((restarted.logs[0].epoch_first, &restarted.identity), (4, &hello.identity));
    assert_ne!(restarted.boot, hello.boot);
    let boots = [&hello, &renewed, &restarted].map(|hello| hello.boots.clone());
    let both = vec![hello.boot.clone(), restarted.boot.clone()];
    assert_eq!(boots, [vec![hello.boot.clone()], vec![hello.boot.clone()], both]);
    let firsts = [&hello, &renewed, &restarted].map(|hello| hello.logs[0].firsts.clone());
    assert_eq!(firsts, [vec![4], vec![1], vec![1, 4]]);
    stream.say(Down::Welcome(Welcome { store: to_wire(2), ..welcome() })).await;
    let third = push(&agent, 3, 2);
    stream.bundle().await;
    stream.ack(1).await;
    assert_eq!(outcome(third).await, Outcome::Accepted);
    assert_eq!(agent.status().store, Some(StoreId(2)));
    stream.goodbye(Reason::Draining, 0).await;
    assert_eq!(collector.stream().await.hello().await.store, to_wire(2));
    assert!(agent.status().incarnation > Incarnation(known));
}

impl Opened {
    async fn hello_of(mut self) -> (Self, Hello) {
        let hello = self.hello().await;
        (self, hello)
    }
}

/// Scenario: three records wait in the log when the collector asks for heartbeats.
/// Guarantees: one comes when nothing else was sent, and says what waits and what was counted.
#[tokio::test]
async fn heartbeats_say_what_waits() {
    let mut collector = Collector::new();
    collector.start();
    let agent = Agent::start(settings(&collector.address.to_string(), None), vec![log(3).await]).unwrap();
    let mut stream = collector.stream().await;
    stream.hello().await;
    // Long enough that a busy machine is not taken for a dead collector, which is silent here.
    stream.say(Down::Welcome(Welcome { heartbeat_ms: 3_000, ..welcome() })).await;
    let heartbeat = stream.heartbeat().await;
    assert_eq!((heartbeat.waiting_records, heartbeat.waiting_bytes), (3, 30));
    let welcomes = heartbeat.counters.iter().find(|counter| counter.name == "welcomes");
    assert_eq!(welcomes.map(|counter| counter.value), Some(1));
    assert!(agent.status().counts.heartbeats.get() >= 1);
}

/// Scenario: an agent is stopped with a push in flight that is acknowledged; then one with a push, and no collector at all.
/// Guarantees: it leaves after the last acknowledgement, or when the time is over; what was not acknowledged is told to try again;
/// later pushes are told at once.
#[tokio::test]
async fn a_stop_waits_for_what_is_under_way_and_no_longer() {
    let mut collector = Collector::new();
    collector.start();
    let agent = Agent::start(settings(&collector.address.to_string(), None), vec![log(0).await]).unwrap();
    let pushing = push(&agent, 1, 0);
    let (mut stream, _) = collector.welcome().await;
    stream.bundle().await;
    let stopping = {
        let agent = Arc::clone(&agent);
        tokio::spawn(async move { agent.stop(PATIENCE).await })
    };
    stream.ack(1).await;
    assert_eq!(outcome(pushing).await, Outcome::Accepted);
    assert!(matches!(stream.heard().await, Some(Up::Leaving(_))));
    assert_eq!(stream.heard().await, None, "nothing follows");
    drop(stream);
    tokio::time::timeout(PATIENCE, stopping).await.unwrap().unwrap();
    assert!(matches!(outcome(push(&agent, 2, 0)).await, Outcome::Retryable { .. }));

    let away = Agent::start(settings("127.0.0.1:1", None), vec![log(0).await]).unwrap();
    let pushing = push(&away, 1, 0);
    until("the push is kept", || away.status().unacknowledged.bundles == 1).await;
    away.stop(Duration::from_millis(1)).await;
    assert!(matches!(outcome(pushing).await, Outcome::Retryable { .. }));
}

/// Scenario: a push is dropped before there is a collector.
/// Guarantees: nothing of it is kept, and nothing is sent.
#[tokio::test]
async fn a_dropped_push_is_withdrawn() {
    let mut collector = Collector::new();
    let agent = Agent::start(settings(&collector.address.to_string(), None), vec![log(0).await]).unwrap();
    let dropped = push(&agent, 1, 0);
    until("the push is kept", || agent.status().unacknowledged.bundles == 1).await;
    dropped.abort();
    until("it is withdrawn", || agent.status().unacknowledged.bundles == 0).await;
    collector.start();
    let (mut stream, _) = collector.welcome().await;
    let kept = push(&agent, 2, 0);
    assert_eq!(stream.bundle().await.0.seqs, [2]);
    stream.ack(1).await;
    assert_eq!(outcome(kept).await, Outcome::Accepted);
}

/// Scenario: endpoints that need TLS without it; logs with the same name.
/// Guarantees: no agent starts, and the first says what to do.
#[tokio::test]
async fn what_cannot_be_an_agent_does_not_start() {
    let refused = Agent::start(settings("192.0.2.1:55680", None), Vec::new()).unwrap_err();
    assert!(matches!(refused, AgentError::Endpoint(EndpointError::Plaintext(_))), "{refused}");
    let twice = vec![log(0).await, log(0).await];
    assert!(matches!(Agent::start(settings("127.0.0.1:1", None), twice), Err(AgentError::Name(_))));
}
