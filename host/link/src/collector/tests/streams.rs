//! Streams over loopback: a client that is generated, pipelines that do as they are told.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tonic::transport::Channel;
use tonic::{Code, Request, Streaming};
use weir_model::{
    Arrival, BoxFuture, Bundle, Consumer, Held, Ledger, Mark, Place, Reason as Cause, Receipt, Refusal, Seq,
    Signal,
};
use weir_net::Drain;
use weir_net::tls::ServerTls;
use weir_proto::weir::link::v1::agent_message::Message as Up;
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::link_service_client::LinkServiceClient;
use weir_proto::weir::link::v1::{
    AgentMessage, CollectorMessage, DataPart, Goodbye, Heartbeat, Hello, KindDigest, State, StateAck,
    StateDown, StateUp, Want, Welcome, state_down, state_up,
};

use super::{bundle, hello, span};
use crate::collector::store::Store;
use crate::collector::{
    Change, Collector, CollectorSettings, FleetState, LinkCounts, Marks, Table, Unwritten,
};
use crate::lanes::CollectorStates;
use crate::names::StoreId;

/// Long enough for a machine that does other things too.
pub(super) const DEADLINE: Duration = Duration::from_secs(30);

// === the parts around a collector ===

/// What the pipeline does with an arrival.
pub(super) enum Say {
    ForNow,
    ForGood,
    /// Takes it when the gate opens.
    Hold(Arc<Semaphore>),
    /// Refuses it for now when the gate opens.
    Turn(Arc<Semaphore>),
}

/// A pipeline that does as it is told, and takes what nothing was said of.
#[derive(Default)]
pub(super) struct Scripted {
    script: Mutex<VecDeque<Say>>,
    arrivals: Mutex<Vec<Arrival>>,
    /// What it has taken.
    log: Mutex<Vec<Arc<Bundle>>>,
}

impl Scripted {
    pub(super) fn say(&self, say: Say) {
        self.script.lock().unwrap().push_back(say);
    }

    pub(super) fn seen(&self) -> usize {
        self.arrivals.lock().unwrap().len()
    }
}

impl Scripted {
    /// Keeps a bundle; of how many records it knows the keys already.
    fn store(&self, bundle: Arc<Bundle>) -> u64 {
        let mut log = self.log.lock().unwrap();
        let is_known = |place: &&Place| {
            let of_source =
                log.iter().filter(|other| (&other.source, other.lane) == (&bundle.source, bundle.lane));
            of_source.flat_map(|other| &other.records).any(|other| other.seq >= place.seq)
        };
        let known = bundle.records.iter().filter(is_known).count() as u64;
        log.push(bundle);
        known
    }
}

impl Consumer for Scripted {
    fn consume(&self, arrival: Arrival) -> BoxFuture<'_, Result<Receipt, Refusal>> {
        Box::pin(async move {
            let say = self.script.lock().unwrap().pop_front();
            let bundle = arrival.bundle.clone();
            self.arrivals.lock().unwrap().push(arrival);
            match say {
                None => (),
                Some(Say::ForNow) => {
                    return Err(Refusal::transient(Cause::QueueFull, None, "the queue is full"));
                }
                Some(Say::ForGood) => return Err(Refusal::permanent(Cause::Rejected, "never this")),
                Some(Say::Hold(gate)) => gate.acquire().await.unwrap().forget(),
                Some(Say::Turn(gate)) => {
                    gate.acquire().await.unwrap().forget();
                    return Err(Refusal::transient(Cause::QueueFull, None, "the queue is full"));
                }
            }
            let known = bundle.map_or(0, |bundle| self.store(bundle));
            Ok(Receipt::Held(Held::vouch(Seq(1))).with_known(known))
        })
    }
}

/// Knows what the pipeline has taken.
impl Marks for Scripted {
    fn marks(&self, identity: &str) -> Vec<Mark> {
        let log = self.log.lock().unwrap();
        let newest = log
            .iter()
            .filter(|bundle| bundle.source.identity == identity)
            .max_by_key(|bundle| bundle.records.last().unwrap().seq);
        let mark = |bundle: &Arc<Bundle>| Mark {
            source: (*bundle.source).clone(),
            seq: bundle.records.last().unwrap().seq,
            epoch: bundle.epoch,
        };
        newest.map(mark).into_iter().collect()
    }
}

/// Takes every state.
struct TakesStates;

impl CollectorStates for TakesStates {
    fn known(&self, _identity: &str) -> Vec<KindDigest> {
        vec![KindDigest { kind: "weir.agent".to_owned(), ..KindDigest::default() }]
    }

    fn received<'a>(
        &'a self,
        _identity: &'a str,
        _epoch: (u128, u64),
        _message: StateUp,
    ) -> BoxFuture<'a, Vec<StateDown>> {
        Box::pin(async { vec![StateDown { message: Some(state_down::Message::Ack(StateAck::default())) }] })
    }

    fn forget<'a>(&'a self, _identity: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async { true })
    }
}

/// A table that fails, or waits, as it is told.
#[derive(Debug, Default)]
struct Told {
    failures: AtomicUsize,
    commits: AtomicUsize,
    /// While it is so, nothing is written.
    is_closed: Mutex<bool>,
    opened: Condvar,
}

impl Told {
    fn close(&self) {
        *self.is_closed.lock().unwrap() = true;
    }

    fn open(&self) {
        *self.is_closed.lock().unwrap() = false;
        self.opened.notify_all();
    }
}

impl Table for Told {
    fn commit(&self, _changes: Vec<Change>) -> Result<(), Unwritten> {
        drop(self.opened.wait_while(self.is_closed.lock().unwrap(), |is_closed| *is_closed).unwrap());
        self.commits.fetch_add(1, Ordering::SeqCst);
        let fails =
            self.failures.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
        if fails.is_ok() { Err(Unwritten::Failed("the disk is gone".to_owned())) } else { Ok(()) }
    }
}

pub(super) struct Served {
    pub(super) collector: Arc<Collector>,
    pub(super) pipeline: Arc<Scripted>,
    pub(super) addr: SocketAddr,
    drain: Drain,
    serving: JoinHandle<std::io::Result<()>>,
}

pub(super) fn settings(pipeline: &Arc<Scripted>, ledger_bytes: u64) -> CollectorSettings {
    let (pipeline, logs) = (Arc::clone(pipeline), Arc::clone(pipeline));
    CollectorSettings {
        id: "weir".into(),
        folder: None,
        pipelines: Arc::new(move |signal| {
            (signal == Signal::Traces).then(|| Arc::clone(&pipeline) as Arc<dyn Consumer>)
        }),
        logs,
        heartbeat: Duration::ZERO,
        credit_bytes: 1 << 20,
        bundle_bytes_max: 1 << 20,
        walk: weir_wire::WalkLimits::default(),
        limits: weir_net::limits::ListenLimits::default(),
        states: Arc::new(TakesStates),
        peer_name: Arc::new(|_| None),
        ledger: Ledger::new(ledger_bytes),
        counts: Default::default(),
        link_counts: LinkCounts::default(),
    }
}

/// A collector on a free port; `change` makes it another.
pub(super) fn serve(change: impl FnOnce(&mut CollectorSettings)) -> Served {
    serve_over(change, None)
}

fn serve_over(change: impl FnOnce(&mut CollectorSettings), table: Option<Arc<Told>>) -> Served {
    let pipeline = Arc::new(Scripted::default());
    let mut settings = settings(&pipeline, 64 << 20);
    change(&mut settings);
    let collector = match table {
        Some(table) => Collector::over(settings, Store::over(table, StoreId(9), Vec::new(), true)),
        None => Collector::open(settings).unwrap(),
    };
    serve_with(collector, pipeline, None)
}

pub(super) fn serve_with(
    collector: Arc<Collector>,
    pipeline: Arc<Scripted>,
    tls: Option<Arc<ServerTls>>,
) -> Served {
    let bound = collector.bind("127.0.0.1:0", tls).unwrap();
    let (addr, drain) = (bound.local_addr(), Drain::new());
    let serving = tokio::spawn(bound.serve(drain.clone()));
    Served { collector, pipeline, addr, drain, serving }
}

// === an agent ===

pub(super) struct Agent {
    up: mpsc::Sender<AgentMessage>,
    down: Streaming<CollectorMessage>,
}

impl Agent {
    /// Opens a stream that begins with `hello`.
    pub(super) async fn open(addr: SocketAddr, hello: Hello) -> Self {
        let channel = Channel::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
        Self::over(channel, hello).await
    }

    /// The same over a connection.
    pub(super) async fn over(channel: Channel, hello: Hello) -> Self {
        let (up, messages) = mpsc::channel(64);
        up.send(AgentMessage { message: Some(Up::Hello(hello)) }).await.unwrap();
        let messages = stream::unfold(messages, async |mut messages| {
            let message: AgentMessage = messages.recv().await?;
            Some((message, messages))
        });
        let down = LinkServiceClient::new(channel).open(Request::new(messages)).await.unwrap().into_inner();
        Self { up, down }
    }

    pub(super) async fn welcome(addr: SocketAddr, hello: Hello) -> (Self, Welcome) {
        let mut agent = Self::open(addr, hello).await;
        match agent.hear().await {
            Down::Welcome(welcome) => (agent, welcome),
            other => panic!("expected a welcome: {other:?}"),
        }
    }

    pub(super) async fn say(&self, message: Up) {
        self.up.send(AgentMessage { message: Some(message) }).await.unwrap();
    }

    /// The next message.
    pub(super) async fn hear(&mut self) -> Down {
        let heard =
            tokio::time::timeout(DEADLINE, self.down.message()).await.expect("the collector speaks in time");
        heard.unwrap().expect("the stream goes on").message.unwrap()
    }

    /// The next message that is none of credit and heartbeats.
    async fn hear_news(&mut self) -> Down {
        loop {
            match self.hear().await {
                Down::Credit(_) | Down::Heartbeat(_) => (),
                news => return news,
            }
        }
    }

    pub(super) async fn goodbye(&mut self) -> Goodbye {
        match self.hear_news().await {
            Down::Goodbye(goodbye) => goodbye,
            other => panic!("expected a goodbye: {other:?}"),
        }
    }

    /// The next ack: upto, and the ordinals and reasons of what is rejected.
    pub(super) async fn ack(&mut self) -> (u64, Vec<(u64, String)>) {
        match self.hear_news().await {
            Down::Ack(ack) => (
                ack.upto,
                ack.rejected.into_iter().map(|rejected| (rejected.ordinal, rejected.reason)).collect(),
            ),
            other => panic!("expected an ack: {other:?}"),
        }
    }
}

pub(super) fn agent_hello() -> Hello {
    hello("a", 5, 1, 1, &[("traces", 11, 100, 1, 1)])
}

/// Waits for a state of the collector.
pub(super) async fn until(what: &str, is_so: impl Fn() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("waited in vain: {what}"));
}

// === what is acknowledged ===

/// Scenario: a pipeline holds a bundle back, while heartbeats go both ways; then it takes it.
/// Guarantees: heartbeats and answers of states come meanwhile and no ack; the ack comes with the receipt, the credit with it; the
/// arrival has the agent's bytes, borders and keys.
#[tokio::test]
async fn an_ack_waits_for_the_receipt_and_nothing_waits_for_the_ack() {
    let served = serve(|settings| settings.heartbeat = Duration::from_secs(1));
    let gate = Arc::new(Semaphore::new(0));
    served.pipeline.say(Say::Hold(Arc::clone(&gate)));
    let (mut agent, welcome) = Agent::welcome(served.addr, agent_hello()).await;
    assert_eq!((welcome.heartbeat_ms, welcome.credit, welcome.durable), (1000, 1 << 20, false));
    assert_eq!((welcome.marks[0].seq, welcome.states.len()), (0, 1));
    let (one, two) = (span("one"), span("two"));
    agent.say(Up::Data(bundle(1, 0, 4, &[(7, &one), (9, &two)]))).await;
    until("the pipeline has it", || served.pipeline.seen() == 1).await;
    let state = weir_proto::weir::link::v1::State::default();
    let state = weir_proto::weir::link::v1::state_up::Message::Value(state);
    agent.say(Up::State(StateUp { message: Some(state) })).await;
    let (mut beats, mut answers) = (0, 0);
    while beats < 2 || answers < 1 {
        agent.say(Up::Heartbeat(Heartbeat { waiting_records: 2, ..Heartbeat::default() })).await;
        match agent.hear().await {
            Down::Heartbeat(_) => beats += 1,
            Down::State(_) => answers += 1,
            other => panic!("nothing else was owed: {other:?}"),
        }
    }
    gate.add_permits(1);
    assert_eq!(agent.ack().await, (1, vec![]));
    let arrivals = std::mem::take(&mut *served.pipeline.arrivals.lock().unwrap());
    let bundle = arrivals[0].bundle.as_ref().unwrap();
    assert_eq!(arrivals[0].body, [one.clone(), two].concat());
    assert_eq!((bundle.source.identity.as_str(), bundle.source.incarnation, bundle.epoch), ("a", 11, 1));
    assert_eq!((bundle.lane.index(), bundle.records[1].seq, arrivals[0].items), (4, Seq(9), 2));
    assert_eq!(bundle.records[0].bytes as usize, one.len());
    let row = served.collector.fleet().remove(0);
    assert_eq!((row.state, row.records, row.waiting.records), (FleetState::Live, 2, 2));
}

/// Scenario: a bundle is refused for now, twice; another for good; one has a broken record, one a wrong count; one is of a signal
/// that no pipeline takes.
/// Guarantees: what is refused for now is never answered, but tried again until it is taken; the rest is rejected with its reason,
/// and what is broken never reaches the pipeline.
#[tokio::test]
async fn what_is_refused_for_now_is_tried_again_and_what_is_broken_is_rejected() {
    let served = serve(|_| ());
    let (mut agent, _) = Agent::welcome(served.addr, agent_hello()).await;
    served.pipeline.say(Say::ForNow);
    served.pipeline.say(Say::ForNow);
    agent.say(Up::Data(bundle(1, 0, 0, &[(1, &span("one"))]))).await;
    assert_eq!(agent.ack().await, (1, vec![]));
    assert_eq!(served.pipeline.seen(), 3);
    served.pipeline.say(Say::ForGood);
    agent.say(Up::Data(bundle(2, 0, 0, &[(2, &span("two"))]))).await;
    assert_eq!(agent.ack().await, (2, vec![(2, "never this".to_owned())]));
    let mut miscounted = bundle(4, 0, 0, &[(4, &span("four"))]);
    miscounted.head.as_mut().unwrap().items = vec![2];
    let mut logs = bundle(5, 0, 0, &[(5, &[])]);
    logs.head.as_mut().unwrap().signal = 3;
    logs.head.as_mut().unwrap().items = vec![0];
    let broken = bundle(3, 0, 0, &[(3, b"no request of spans")]);
    for (ordinal, part, text) in [
        (3, broken, "record 3: "),
        (4, miscounted, "1 items; its head says 2"),
        (5, logs, "no pipeline of the collector takes logs"),
    ] {
        agent.say(Up::Data(part)).await;
        let (upto, rejected) = agent.ack().await;
        assert!(upto == ordinal && rejected[0].0 == ordinal && rejected[0].1.contains(text), "{rejected:?}");
    }
    assert_eq!(served.pipeline.seen(), 4);
    let counts = &served.collector.settings.link_counts;
    assert_eq!(
        (counts.refused_for_now.get(), counts.bundles.get(), counts.bundles_rejected.get()),
        (2, 1, 4)
    );
    let rejected = served.collector.fleet().remove(0).rejected;
    let expected = [("malformed", 2), ("no_pipeline", 1), ("rejected", 1)];
    assert_eq!(rejected, expected.map(|(reason, count)| (reason.to_owned(), count)));
}

/// The same bundle, packed.
fn packed(mut part: DataPart) -> DataPart {
    part.body = Bytes::from(zstd::bulk::compress(&part.body, 1).unwrap());
    part.head.as_mut().unwrap().sent_bytes = part.body.len() as u64;
    part
}

/// Scenario: a bundle in three parts; a packed one; one that is not packed although it could be; then the arrivals go.
/// Guarantees: each arrives as it was before it was sent, paid for while the pipeline has it; then all memory is back.
#[tokio::test]
async fn bodies_arrive_whole_and_paid_for() {
    let served = serve(|_| ());
    let ledger = Arc::clone(&served.collector.settings.ledger);
    let hello = Hello { encodings: vec!["zstd".to_owned()], ..agent_hello() };
    let (mut agent, welcome) = Agent::welcome(served.addr, hello).await;
    assert_eq!(welcome.encoding, "zstd");
    let before = ledger.used();
    let name = "n".repeat(100_000);
    let body = span(&name);
    let mut first = bundle(1, 0, 0, &[(1, &body)]);
    let rest = first.body.split_off(10_000);
    agent.say(Up::Data(first)).await;
    for part in [rest.slice(..50_000), rest.slice(50_000..)] {
        agent.say(Up::Heartbeat(Heartbeat::default())).await;
        agent.say(Up::Data(DataPart { head: None, body: part })).await;
    }
    agent.say(Up::Data(packed(bundle(2, 0, 1, &[(1, &body)])))).await;
    agent.say(Up::Data(bundle(3, 0, 2, &[(1, &body)]))).await;
    while agent.ack().await.0 < 3 {}
    let arrivals = std::mem::take(&mut *served.pipeline.arrivals.lock().unwrap());
    assert!(arrivals.iter().all(|arrival| arrival.body == body));
    assert!(ledger.used() >= before + 3 * body.len() as u64, "{} of {}", ledger.used(), 3 * body.len());
    drop(arrivals);
    until("all that was claimed for bundles is back", || ledger.used() == before).await;
    drop(agent);
    until("and what the stream had", || ledger.used() == 0).await;
}

/// Scenario: a pipeline refuses for now, without end: a packed bundle that is larger than the room for such ones, then one that
/// is not packed.
/// Guarantees: of the first only what was sent stays in memory; the second ends its stream, with a wait, and costs nothing then;
/// the first is taken as it was meant when the pipeline takes again.
#[tokio::test]
async fn what_is_refused_for_now_has_bounded_room() {
    // Large requests may have 6 MiB of it, what is refused for now half of that.
    let served = serve(|settings| settings.ledger = Ledger::new(16 << 20));
    let others = served.collector.lot.park((3 << 20) - 500_000).expect("that much room");
    assert!(served.collector.lot.park(500_001).is_none());
    let ledger = Arc::clone(&served.collector.settings.ledger);
    let body = span(&"n".repeat(1_000_000));
    (0..10_000).for_each(|_| served.pipeline.say(Say::ForNow));
    let hello = Hello { encodings: vec!["zstd".to_owned()], ..agent_hello() };
    let (mut first, _) = Agent::welcome(served.addr, hello).await;
    first.say(Up::Data(packed(bundle(1, 0, 0, &[(1, &body)])))).await;
    until("it was refused and given back", || {
        let seen = std::mem::take(&mut *served.pipeline.arrivals.lock().unwrap());
        !seen.is_empty() && {
            drop(seen);
            ledger.used() < 100_000
        }
    })
    .await;
    let other = Hello { identity: "other".to_owned(), ..agent_hello() };
    let (mut second, _) = Agent::welcome(served.addr, other).await;
    second.say(Up::Data(bundle(1, 0, 0, &[(1, &body)]))).await;
    let goodbye = second.goodbye().await;
    assert!(goodbye.reason() == Reason::TooMany && goodbye.text.contains("for now"), "{goodbye:?}");
    assert!(goodbye.wait_ms > 0);
    drop(second);
    served.pipeline.script.lock().unwrap().clear();
    assert_eq!(first.ack().await, (1, vec![]));
    assert_eq!(served.pipeline.arrivals.lock().unwrap().last().unwrap().body, body);
    served.pipeline.arrivals.lock().unwrap().clear();
    drop(first);
    until("all memory is back", || ledger.used() == 0).await;
    drop(others);
    assert!(served.collector.lot.park(3 << 20).is_some(), "and all room");
}

/// Scenario: a body that is not its checksum's, packed and not; a packed one that grows beyond its length.
/// Guarantees: MISBEHAVIOUR with the bundle's number; nothing reaches the pipeline.
#[tokio::test]
async fn a_body_that_is_not_what_its_head_says_ends_the_stream() {
    let served = serve(|_| ());
    let mut changed = bundle(1, 0, 0, &[(1, &span("x"))]);
    changed.head.as_mut().unwrap().crc ^= 1;
    let mut grows = packed(bundle(1, 0, 0, &[(1, &[0; 5000])]));
    let head = grows.head.as_mut().unwrap();
    (head.lengths, head.bytes) = (vec![4000], 4000);
    for (is_packed, part) in [(false, changed.clone()), (true, packed(changed)), (true, grows)] {
        let encodings = if is_packed { vec!["zstd".to_owned()] } else { Vec::new() };
        let (mut agent, _) = Agent::welcome(served.addr, Hello { encodings, ..agent_hello() }).await;
        agent.say(Up::Data(part)).await;
        let goodbye = agent.goodbye().await;
        assert!(goodbye.reason() == Reason::Misbehaviour && goodbye.text.contains("bundle 1"), "{goodbye:?}");
    }
    assert_eq!(served.pipeline.seen(), 0);
}

// === who is welcome ===

/// Scenario: the agent's connection is exchanged for another while a bundle is under way on the first (#1053, #857).
/// Guarantees: the first is fenced without an ack; the second has the same bundle acknowledged; the late end of the first changes
/// nothing.
#[tokio::test]
async fn a_newer_connection_takes_the_place_of_the_older() {
    let served = serve(|_| ());
    let gate = Arc::new(Semaphore::new(0));
    served.pipeline.say(Say::Hold(Arc::clone(&gate)));
    let (mut first, _) = Agent::welcome(served.addr, agent_hello()).await;
    first.say(Up::Data(bundle(1, 0, 0, &[(1, &span("x"))]))).await;
    until("the pipeline has it", || served.pipeline.seen() == 1).await;
    let mut second = Agent::open(served.addr, agent_hello()).await;
    let goodbye = first.goodbye().await;
    assert_eq!(goodbye.reason(), Reason::Fenced);
    gate.add_permits(1);
    let Down::Welcome(welcome) = second.hear().await else { panic!("it has the first one's place") };
    second.say(Up::Data(bundle(1, 0, 0, &[(1, &span("x"))]))).await;
    assert_eq!(second.ack().await, (1, vec![]));
    drop(first);
    until("the first is gone", || served.collector.settings.counts.streams.get() == 1).await;
    let row = served.collector.fleet().remove(0);
    assert_eq!((row.state, row.session), (FleetState::Live, Some(welcome.session)));
    assert_eq!(served.collector.settings.link_counts.agents.get(), 1);
}

/// Answers each state with a megabyte.
#[derive(Default)]
struct AnswersAtLength(AtomicUsize);

impl CollectorStates for AnswersAtLength {
    fn known(&self, _identity: &str) -> Vec<KindDigest> {
        Vec::new()
    }

    fn received<'a>(
        &'a self,
        _identity: &'a str,
        _epoch: (u128, u64),
        _message: StateUp,
    ) -> BoxFuture<'a, Vec<StateDown>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        let want = Want { kind: "k".to_owned(), keys: vec!["x".repeat(1 << 20)] };
        Box::pin(async { vec![StateDown { message: Some(state_down::Message::Want(want)) }] })
    }

    fn forget<'a>(&'a self, _identity: &'a str) -> BoxFuture<'a, bool> {
        Box::pin(async { true })
    }
}

/// Scenario: a bundle is with the pipeline, and its agent reads nothing, when the stream is fenced; then the pipeline refuses the
/// bundle for now.
/// Guarantees: the fenced stream hands nothing on while its goodbye waits to be read, the same bundle included.
#[tokio::test]
async fn a_fenced_stream_hands_nothing_on() {
    let states = Arc::new(AnswersAtLength::default());
    let served = serve(|settings| settings.states = Arc::clone(&states) as Arc<dyn CollectorStates>);
    let gate = Arc::new(Semaphore::new(0));
    served.pipeline.say(Say::Turn(Arc::clone(&gate)));
    let (first, _) = Agent::welcome(served.addr, agent_hello()).await;
    first.say(Up::Data(bundle(1, 0, 0, &[(1, &span("x"))]))).await;
    until("the pipeline has it", || served.pipeline.seen() == 1).await;
    for _ in 0..32 {
        let message = Some(state_up::Message::Value(State::default()));
        first.say(Up::State(StateUp { message })).await;
    }
    until("more is to be said than there is room for", || states.0.load(Ordering::SeqCst) == 32).await;
    let mut second = Agent::open(served.addr, agent_hello()).await;
    until("the second has its place", || served.collector.fleet()[0].session == Some(2)).await;
    gate.add_permits(1);
    assert!(matches!(second.hear().await, Down::Welcome(_)));
    until("the first is gone", || served.collector.settings.counts.streams.get() == 1).await;
    assert_eq!((served.pipeline.seen(), served.collector.settings.link_counts.bundles.get()), (1, 0));
    drop((first, second));
}

/// Scenario: an agent's process is killed with a bundle under way (#698); another falls silent; a third takes its leave.
/// Guarantees: each stream ends, with what it held; two are shown as dead, the third as idle.
#[tokio::test]
async fn every_end_of_a_stream_is_an_end() {
    let served = serve(|settings| settings.heartbeat = Duration::from_secs(1));
    let held = Arc::new(Semaphore::new(0));
    served.pipeline.say(Say::Hold(held));
    let named = |name: &str| Hello { identity: name.to_owned(), ..agent_hello() };
    let (killed, _) = Agent::welcome(served.addr, named("killed")).await;
    killed.say(Up::Data(bundle(1, 0, 0, &[(1, &span("x"))]))).await;
    until("the pipeline has it", || served.pipeline.seen() == 1).await;
    drop(killed);
    let (leaves, _) = Agent::welcome(served.addr, named("leaves")).await;
    leaves.say(Up::Leaving(Default::default())).await;
    let Agent { up, mut down } = leaves;
    drop(up);
    while down.message().await.unwrap().is_some() {}
    let (mut silent, _) = Agent::welcome(served.addr, named("silent")).await;
    assert_eq!(silent.goodbye().await.reason(), Reason::Silent);
    drop(silent);
    until("all are gone", || served.collector.settings.counts.streams.get() == 0).await;
    let states: Vec<_> = served.collector.fleet().into_iter().map(|row| (row.identity, row.state)).collect();
    let expected = [("killed", FleetState::Dead), ("leaves", FleetState::Idle), ("silent", FleetState::Dead)];
    assert_eq!(states, expected.map(|(name, state)| (name.to_owned(), state)));
    served.pipeline.arrivals.lock().unwrap().clear();
    until("all memory is back", || served.collector.settings.ledger.used() == 0).await;
}

/// Scenario: a certificate says another name than the Hello; a first message that is no Hello; a path that is none.
/// Guarantees: each is told why.
#[tokio::test]
async fn who_is_not_welcome_is_told_why() {
    let served = serve(|settings| settings.peer_name = Arc::new(|_| Some("edge-1".to_owned())));
    let goodbye = Agent::open(served.addr, agent_hello()).await.goodbye().await;
    assert!(goodbye.reason() == Reason::Identity && goodbye.text.contains("edge-1"), "{goodbye:?}");
    let (_agent, _) = Agent::welcome(served.addr, Hello { identity: String::new(), ..agent_hello() }).await;
    assert_eq!(served.collector.fleet()[0].identity, "edge-1");
    assert_eq!(served.collector.settings.link_counts.refused.list().map(|(_, count)| count).sum::<u64>(), 1);
}

/// Scenario: the collector's disk fails once, then holds a commit back.
/// Guarantees: no welcome without a row on the disk; the agent is told to come again, and is welcome when the disk is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_welcome_before_the_row_is_on_the_disk() {
    let table = Arc::new(Told::default());
    table.failures.store(1, Ordering::SeqCst);
    let served = serve_over(|_| (), Some(Arc::clone(&table)));
    let goodbye = Agent::open(served.addr, agent_hello()).await.goodbye().await;
    assert!(goodbye.reason() == Reason::Draining && goodbye.text.contains("the disk is gone"), "{goodbye:?}");
    assert!(goodbye.wait_ms > 0);
    table.close();
    let mut agent = Agent::open(served.addr, agent_hello()).await;
    until("it waits for its row", || served.collector.fleet()[0].state == FleetState::Live).await;
    let mut hearing = Box::pin(agent.hear());
    for _ in 0..1000 {
        tokio::task::yield_now().await;
        assert!(futures_util::poll!(&mut hearing).is_pending(), "a welcome before the commit");
    }
    table.open();
    assert!(matches!(hearing.await, Down::Welcome(_)));
}

/// A table with room for one row.
#[derive(Debug, Default)]
struct Narrow(Mutex<std::collections::BTreeMap<Vec<u8>, Vec<u8>>>);

impl Table for Narrow {
    fn commit(&self, changes: Vec<Change>) -> Result<(), Unwritten> {
        let mut rows = self.0.lock().unwrap();
        let mut after = rows.clone();
        for (key, value) in changes {
            after.remove(&key);
            after.extend(value.map(|value| (key, value)));
        }
        if after.len() > 1 {
            return Err(Unwritten::Full("one row".to_owned()));
        }
        *rows = after;
        Ok(())
    }
}

/// Scenario: a table that has room for one row, and agents that come and go, and at last come together.
/// Guarantees: whoever was away longest is forgotten for who comes; where all are here the table's word is passed on.
#[tokio::test]
async fn a_full_table_forgets_who_was_away_longest() {
    let store = Arc::new(Store::over(Arc::new(Narrow::default()), StoreId(9), Vec::new(), true));
    let mut last = None;
    for name in ["a", "b", "c", "d"] {
        let facts = super::facts(hello(name, 1, 1, 1, &[]));
        let admitted = store.registry().admit(&facts, &[], std::time::Instant::now()).unwrap();
        assert_eq!(store.persist().await.is_ok(), name != "d", "{name}");
        last = (name < "c").then_some((name, admitted.session));
        if let Some((name, session)) = last {
            let now = std::time::Instant::now();
            store.registry().ended(name, session, crate::collector::End::Orderly, "left", now);
        }
    }
    assert!(last.is_none() && store.registry().forgotten() == 2);
    assert_eq!(store.registry().first_gone().as_deref(), Some("a"), "its states are let go all the same");
}

/// Scenario: a hundred agents say hello in one moment, and more streams than there is memory for.
/// Guarantees: they share commits; the streams beyond the bound are refused with UNAVAILABLE, and all memory comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_hellos_is_bounded() {
    const AGENTS: usize = 100;
    let table = Arc::new(Told::default());
    // A quarter of it is for streams of 4 KiB each.
    let served = serve_over(
        |settings| settings.ledger = Ledger::new(4 * 4096 * AGENTS as u64),
        Some(Arc::clone(&table)),
    );
    table.close();
    let mut agents = Vec::new();
    for at in 0..AGENTS {
        agents
            .push(Agent::open(served.addr, Hello { identity: format!("agent-{at}"), ..agent_hello() }).await);
    }
    until("all hellos are read", || served.collector.fleet().len() == AGENTS).await;
    let channel = Channel::from_shared(format!("http://{}", served.addr)).unwrap().connect().await.unwrap();
    let refused = LinkServiceClient::new(channel).open(Request::new(stream::pending())).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    table.open();
    for agent in &mut agents {
        assert!(matches!(agent.hear().await, Down::Welcome(_)));
    }
    let commits = table.commits.load(Ordering::SeqCst);
    assert!(commits < AGENTS / 4, "{commits} commits for {AGENTS} agents that came at once");
    drop(agents);
    until("all memory is back", || served.collector.settings.ledger.used() == 0).await;
    assert_eq!(served.collector.settings.link_counts.agents.get(), 0);
}

/// Scenario: a reload renews a collector; the old one still serves an agent's stream when the agent comes to the new one.
/// Guarantees: both know the same agents: the old stream is fenced, and the store is the same.
#[tokio::test]
async fn a_renewed_collector_knows_the_agents_of_the_old_one() {
    let old = serve(|_| ());
    let (mut before, welcome) = Agent::welcome(old.addr, agent_hello()).await;
    let renewed = old.collector.renewed(settings(&old.pipeline, 64 << 20));
    let bound = renewed.bind("127.0.0.1:0", None).unwrap();
    let addr = bound.local_addr();
    let serving = tokio::spawn(bound.serve(old.drain.clone()));
    let (mut after, again) = Agent::welcome(addr, agent_hello()).await;
    assert_eq!(before.goodbye().await.reason(), Reason::Fenced);
    assert_eq!((again.store, again.session), (welcome.store, welcome.session + 1));
    assert_eq!(old.collector.fleet().remove(0).session, Some(again.session));
    old.drain.signal();
    assert_eq!(after.goodbye().await.reason(), Reason::Draining);
    drop((before, after));
    for serving in [old.serving, serving] {
        tokio::time::timeout(DEADLINE, serving).await.expect("serving ends").unwrap().unwrap();
    }
}

/// Scenario: the collector drains with a bundle under way, which is taken then; it starts again with the same folder.
/// Guarantees: the ack comes before the goodbye, serving ends, the store is the same, and a copy of an older start is known.
#[tokio::test]
async fn a_drain_ends_in_order_and_the_folder_remembers() {
    let folder = tempfile::tempdir().unwrap();
    let in_folder = |settings: &mut CollectorSettings| settings.folder = Some(folder.path().to_owned());
    let served = serve(in_folder);
    let gate = Arc::new(Semaphore::new(0));
    served.pipeline.say(Say::Hold(Arc::clone(&gate)));
    let started = |epoch| hello("a", 5, epoch, u128::from(epoch), &[("traces", 11, 100, 1, 1)]);
    let (mut agent, welcome) = Agent::welcome(served.addr, started(2)).await;
    assert!(welcome.durable);
    agent.say(Up::Data(bundle(1, 0, 0, &[(1, &span("x"))]))).await;
    until("the pipeline has it", || served.pipeline.seen() == 1).await;
    served.drain.signal();
    gate.add_permits(1);
    assert_eq!(agent.ack().await, (1, vec![]));
    assert_eq!(agent.goodbye().await.reason(), Reason::Draining);
    drop(agent);
    tokio::time::timeout(DEADLINE, served.serving).await.expect("serving ends").unwrap().unwrap();
    assert_eq!(served.collector.fleet()[0].state, FleetState::Idle);
    drop(served.collector);
    let served = serve(in_folder);
    let goodbye = Agent::open(served.addr, started(1)).await.goodbye().await;
    assert_eq!(goodbye.reason(), Reason::NewIncarnation);
    let (_agent, again) = Agent::welcome(served.addr, started(2)).await;
    assert_eq!(again.store, welcome.store);
}
