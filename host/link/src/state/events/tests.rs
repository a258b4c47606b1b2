//! Programs report at an agent and watch at a collector, with the two ends of the lane between them.

use std::net::Ipv4Addr;
use std::path::Path;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use futures_util::{poll, stream};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use weir_model::Ledger;
use weir_proto::weir::events::v1 as wire;
use weir_proto::weir::link::v1::{State, StateUp, state_up};
use weir_queue::{DurableMap, QueueError, SystemDisk};
use wire::report_request::Wait;
use wire::report_service_client::ReportServiceClient;
use wire::watch_response::Event;
use wire::watch_service_client::WatchServiceClient;

use super::{ServeError, serve_agent, serve_collector};
use crate::lanes::{AgentStates, CollectorStates as _};
use crate::limits::STATE_VALUE_BYTES_MAX;
use crate::names::to_wire;
use crate::state::{Keep, Outbox, OutboxHandle, Store, Volatile};

/// Generous: nothing here takes long.
const DEADLINE: Duration = Duration::from_secs(30);
/// Of which an eighth is for answers that are not read: some ten watches, or three lists.
const BUDGET: u64 = 32 << 20;

async fn listener() -> (TcpListener, Channel) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    // What is not read stays at the server.
    let endpoint =
        Endpoint::from_shared(format!("http://{address}")).unwrap().initial_stream_window_size(16 << 10);
    (listener, endpoint.connect_lazy())
}

struct Agent {
    client: ReportServiceClient<Channel>,
    outbox: Option<Outbox>,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
    handle: OutboxHandle,
}

impl Agent {
    async fn start() -> Self {
        let keep: Arc<dyn Keep> = Arc::<Volatile>::default();
        let (outbox, handle, _task) = Outbox::open(keep, true);
        let (listener, channel) = listener().await;
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve_agent(listener, handle.clone(), stop.clone()));
        let client = ReportServiceClient::new(channel);
        Self { client, outbox: Some(outbox), stop, serving, handle }
    }

    /// A stream to the store, until the sender is dropped.
    fn connect(&mut self, store: &Arc<Store>) -> (oneshot::Sender<()>, JoinHandle<Outbox>) {
        let mut outbox = self.outbox.take().unwrap();
        let (end, mut ended) = oneshot::channel();
        let store = Arc::clone(store);
        let streaming = tokio::spawn(async move {
            let reported = outbox.reported().unwrap();
            outbox.welcomed(&store.known("agent"), true, std::time::Instant::now());
            loop {
                while let Some(message) = outbox.next(std::time::Instant::now()) {
                    for said in store.received("agent", (1, 1), message).await {
                        outbox.received(said, std::time::Instant::now());
                    }
                }
                tokio::select! {
                    () = reported.notified() => {}
                    _ = &mut ended => break,
                }
            }
            outbox.broken();
            outbox
        });
        (end, streaming)
    }
}

struct Collector {
    client: WatchServiceClient<Channel>,
    store: Arc<Store>,
    ledger: Arc<Ledger>,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), ServeError>>,
    task: JoinHandle<()>,
}

impl Collector {
    async fn start(folder: &Path) -> Self {
        let path = folder.join("states.redb");
        let opening = async {
            loop {
                match DurableMap::open(Arc::new(SystemDisk), &path) {
                    Ok((map, _)) => break map,
                    // The last connection of the one before is about to let go of it.
                    Err(QueueError::Locked { .. }) => tokio::task::yield_now().await,
                    Err(other) => panic!("{other}"),
                }
            }
        };
        let map = timeout(DEADLINE, opening).await.unwrap();
        let keep: Arc<dyn Keep> = Arc::new(map);
        let (store, task) = Store::open(keep).unwrap();
        let (listener, channel) = listener().await;
        let (stop, ledger) = (CancellationToken::new(), Ledger::new(BUDGET));
        let serving =
            tokio::spawn(serve_collector(listener, Arc::clone(&store), Arc::clone(&ledger), stop.clone()));
        Self { client: WatchServiceClient::new(channel), store, ledger, stop, serving, task }
    }

    async fn stop(self) {
        self.stop.cancel();
        drop((self.store, self.client));
        timeout(DEADLINE, self.serving).await.unwrap().unwrap().unwrap();
        timeout(DEADLINE, self.task).await.unwrap().unwrap();
    }
}

fn report(kind: &str, key: &str, value: &str, wait: Wait) -> wire::ReportRequest {
    wire::ReportRequest {
        kind: kind.to_owned(),
        key: key.to_owned(),
        value: value.into(),
        deleted: value.is_empty(),
        ttl_ms: 0,
        wait: wait.into(),
    }
}

async fn next(watch: &mut tonic::Streaming<wire::WatchResponse>) -> (String, Vec<u8>) {
    let said = timeout(DEADLINE, watch.message()).await.unwrap().unwrap().unwrap();
    let shown = match said.event.unwrap() {
        Event::Started(started) => format!("started, resumed {}", started.resumed),
        Event::SnapshotComplete(_) => "complete".to_owned(),
        Event::State(state) => {
            let standing = format!("{:?}", state.standing());
            format!(
                "{} {} {} {standing} {}",
                state.agent,
                state.kind,
                state.key,
                String::from_utf8(state.value).unwrap()
            )
        }
    };
    (shown, said.cursor)
}

/// Scenario: a program reports and waits for the collector; another watches at the collector and lists; the collector
/// restarts; the agent is gone meanwhile; the watcher goes on with its cursor.
/// Guarantees: the report is answered when the collector has it on disk; the watcher sees each change once, over the restart.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_program_reports_another_watches_over_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start().await;
    let mut collector = Collector::start(folder.path()).await;
    let (end, streaming) = agent.connect(&collector.store);
    let said = agent.client.report(report("app", "a", "1", Wait::Collector)).await.unwrap().into_inner();
    assert_eq!((said.revision, said.refused.as_str()), (1, ""));
    let request = wire::WatchRequest::default();
    let mut watch = collector.client.watch(request).await.unwrap().into_inner();
    for expected in ["started, resumed false", "agent app a Live 1", "complete"] {
        assert_eq!(next(&mut watch).await.0, expected);
    }
    agent.client.report(report("app", "b", "1", Wait::Collector)).await.unwrap();
    let (shown, cursor) = next(&mut watch).await;
    assert_eq!(shown, "agent app b Live 1");
    let filter = wire::Filter { key_prefix: "b".to_owned(), ..wire::Filter::default() };
    let list = wire::ListRequest { filter: Some(filter), page_size: 1, page: Vec::new() };
    let listed = collector.client.list(list).await.unwrap().into_inner();
    assert_eq!(listed.states.iter().map(|state| &*state.key).collect::<Vec<_>>(), ["b"]);
    agent.client.report(report("app", "a", "", Wait::Collector)).await.unwrap();
    drop(end);
    agent.outbox = Some(streaming.await.unwrap());
    collector.stop().await;
    // What was not read of the old watch may still be there; then it ends, and says that one may come back.
    let ended = loop {
        match timeout(DEADLINE, watch.message()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a watch does not end without a word"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::Unavailable, "{ended}");
    agent.client.report(report("app", "c", "1", Wait::Agent)).await.unwrap();
    let mut collector = Collector::start(folder.path()).await;
    let (_end, _streaming) = agent.connect(&collector.store);
    let request = wire::WatchRequest { filter: None, cursor };
    let mut watch = collector.client.watch(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while seen.len() < 4 {
        seen.push(next(&mut watch).await.0);
    }
    assert_eq!(seen[..2], ["started, resumed true", "agent app a Deleted "]);
    seen[2..].sort();
    assert_eq!(seen[2..], ["agent app c Live 1", "complete"]);
    let bad = wire::WatchRequest { filter: None, cursor: vec![1] };
    assert_eq!(collector.client.watch(bad).await.unwrap_err().code(), Code::InvalidArgument);
}

/// Scenario: the collector is away; programs report with and without waiting for it, with names that are not theirs, and in a
/// stream; then it is there.
/// Guarantees: without waiting the answer comes at once; with it comes UNAVAILABLE within the caller's deadline, with a text;
/// the states are kept and sent all the same; a refusal in a stream ends nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_states_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let mut agent = Agent::start().await;
    assert_eq!(
        agent.client.report(report("app", "a", "1", Wait::Agent)).await.unwrap().into_inner().revision,
        1
    );
    let mut waiting = Request::new(report("app", "b", "1", Wait::Collector));
    waiting.set_timeout(Duration::from_secs(5));
    let refused = agent.client.report(waiting).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert!(refused.message().contains("revision 2 and will be sent"), "{refused}");
    for (kind, key) in [("weir.agent", "agent"), ("", "k"), ("app", "")] {
        let refused = agent.client.report(report(kind, key, "1", Wait::Agent)).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    }
    let large = report("app", "large", &"x".repeat(70_000), Wait::Agent);
    assert_eq!(agent.client.report(large).await.unwrap_err().code(), Code::OutOfRange);
    let many = ["c", "", "d"].map(|key| report("app", key, "1", Wait::Agent));
    let mut answers = agent.client.report_stream(stream::iter(many)).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Some(answer) = timeout(DEADLINE, answers.message()).await.unwrap().unwrap() {
        seen.push((answer.revision, answer.refused.is_empty()));
    }
    assert_eq!(seen, [(3, true), (0, false), (4, true)]);
    let collector = Collector::start(folder.path()).await;
    let (_end, _streaming) = agent.connect(&collector.store);
    agent.client.report(report("app", "e", "1", Wait::Collector)).await.unwrap();
    assert_eq!(collector.store.known("agent")[0].count, 5);
    assert_eq!(agent.handle.unacknowledged(), 0);
    // Who waits when the agent stops is answered.
    agent.stop.cancel();
    timeout(DEADLINE, agent.serving).await.unwrap().unwrap().unwrap();
}

/// Scenario: a service on an address that others can reach.
/// Guarantees: it does not serve, and says what to do.
#[tokio::test]
async fn the_services_stay_on_the_loopback() {
    let keep: Arc<dyn Keep> = Arc::<Volatile>::default();
    let (_outbox, handle, _task) = Outbox::open(Arc::clone(&keep), true);
    let (store, _task) = Store::open(keep).unwrap();
    let open = || async { TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await.unwrap() };
    let stop = CancellationToken::new();
    let agent = serve_agent(open().await, handle, stop.clone()).await.unwrap_err();
    let collector = serve_collector(open().await, store, Ledger::new(BUDGET), stop).await.unwrap_err();
    assert!(agent.to_string().contains("loopback") && collector.to_string().contains("loopback"), "{agent}");
}

/// A store with more states than a program's windows take unread.
async fn full_store() -> (Arc<Store>, JoinHandle<()>) {
    let keep: Arc<dyn Keep> = Arc::<Volatile>::default();
    let (store, task) = Store::open(keep).unwrap();
    for key in 0..100 {
        let state = State {
            kind: "app".to_owned(),
            key: format!("key{key}"),
            incarnation: to_wire(1),
            revision: key + 1,
            value: vec![0; 60_000],
            deleted: false,
            ttl_ms: 0,
        };
        let message = StateUp { message: Some(state_up::Message::Value(state)) };
        assert_eq!(store.received("agent", (1, 1), message).await.len(), 1);
    }
    (store, task)
}

/// Scenario: a program watches and does not read; the service is told to end, or its task is dropped.
/// Guarantees: either way the address is free and the store is let go, with the program still there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_that_does_not_read_holds_up_no_end() {
    for is_told in [true, false] {
        let (store, task) = full_store().await;
        let (listener, channel) = listener().await;
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving =
            tokio::spawn(serve_collector(listener, Arc::clone(&store), Ledger::new(BUDGET), stop.clone()));
        let mut client = WatchServiceClient::new(channel);
        let mut unread = client.watch(wire::WatchRequest::default()).await.unwrap().into_inner();
        assert_eq!(next(&mut unread).await.0, "started, resumed false");
        match is_told {
            true => stop.cancel(),
            false => serving.abort(),
        }
        let ended = timeout(DEADLINE, serving).await.expect("it ends although nobody reads");
        assert_eq!(ended.is_ok_and(|ended| ended.is_ok()), is_told);
        drop(store);
        timeout(DEADLINE, task).await.expect("nobody holds the store").unwrap();
        TcpListener::bind(address).await.expect("the address is free");
        drop(unread);
    }
}

/// Scenario: somebody connects to an agent's service and never says a word; the service is told to end, or its task is dropped.
/// Guarantees: either way the address is free and the outbox is let go, with the connection still open.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_word_holds_up_no_end() {
    for is_told in [true, false] {
        let (outbox, handle, task) = Outbox::open(Arc::<Volatile>::default(), true);
        let (listener, channel) = listener().await;
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve_agent(listener, handle, stop.clone()));
        let silent = TcpStream::connect(address).await.unwrap();
        // Who comes later is served, so the silent one was let in.
        let mut client = ReportServiceClient::new(channel);
        client.report(report("app", "a", "1", Wait::Agent)).await.unwrap();
        match is_told {
            true => stop.cancel(),
            false => serving.abort(),
        }
        let ended = timeout(DEADLINE, serving).await.expect("it ends although nobody speaks");
        assert_eq!(ended.is_ok_and(|ended| ended.is_ok()), is_told);
        drop(outbox);
        timeout(DEADLINE, task).await.expect("nobody holds the outbox").unwrap();
        TcpListener::bind(address).await.expect("the address is free");
        drop(silent);
    }
}

/// A hundred states of the largest size.
async fn fill(store: &Store) {
    for at in 0..100 {
        let (key, value) = (format!("key{at}"), vec![7; STATE_VALUE_BYTES_MAX]);
        let kind = "app".to_owned();
        let state =
            State { kind, key, incarnation: to_wire(1), revision: 1, value, deleted: false, ttl_ms: 0 };
        let message = StateUp { message: Some(state_up::Message::Value(state)) };
        assert_eq!(store.received("agent", (1, 1), message).await.len(), 1);
    }
}

async fn all_is_back(ledger: &Ledger) {
    let wait = async {
        while ledger.used() > 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, wait).await.unwrap_or_else(|_| panic!("{} bytes are not given back", ledger.used()));
}

/// Scenario: programs watch six megabytes of states and read nothing, until one more is refused; one of them ends, another
/// reads to the end of the snapshot.
/// Guarantees: all of them together have an eighth of the budget at most, and it says so; who ends makes room; who reads gets
/// everything; at the end all memory is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_that_do_not_read_have_bounded_memory() {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(folder.path()).await;
    fill(&collector.store).await;
    let mut watches = Vec::new();
    let refused = loop {
        match collector.client.watch(wire::WatchRequest::default()).await {
            Ok(watch) => watches.push(watch.into_inner()),
            Err(refused) => break refused,
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!(refused.message().contains("end a watch"), "{refused}");
    assert!((5..20).contains(&watches.len()), "{} watches", watches.len());
    assert!((1..=BUDGET / 8).contains(&collector.ledger.used()), "{}", collector.ledger.used());
    let before = collector.ledger.used();
    drop(watches.pop());
    let again = async {
        loop {
            match collector.client.watch(wire::WatchRequest::default()).await {
                Ok(watch) => return watch.into_inner(),
                Err(refused) => assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}"),
            }
        }
    };
    let mut watch = timeout(DEADLINE, again).await.expect("who ends makes room");
    assert_eq!(collector.ledger.used(), before);
    let mut states = 0;
    loop {
        match timeout(DEADLINE, watch.message()).await.unwrap().unwrap().unwrap().event.unwrap() {
            Event::State(state) => states += usize::from(state.value.len() == STATE_VALUE_BYTES_MAX),
            Event::Started(started) => assert!(!started.resumed),
            Event::SnapshotComplete(_) => break,
        }
    }
    assert_eq!(states, 100);
    drop((watch, watches));
    all_is_back(&collector.ledger).await;
    collector.stop().await;
}

/// Scenario: programs ask for lists and do not read the answers, until one is refused; then they hang up; somebody lists all.
/// Guarantees: an answer is paid for until it is read, all together from an eighth of the budget; then all memory is back, and
/// every state is on a page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_that_are_not_read_are_paid_for() {
    let folder = tempfile::tempdir().unwrap();
    let mut collector = Collector::start(folder.path()).await;
    fill(&collector.store).await;
    let (client, ledger) = (collector.client.clone(), Arc::clone(&collector.ledger));
    let list = |page| {
        let mut client = client.clone();
        let request = wire::ListRequest { filter: None, page_size: 0, page };
        async move { client.list(request).await }
    };
    let mut unread = Vec::new();
    let refused = loop {
        let (before, mut call) = (ledger.used(), Box::pin(list(Vec::new())));
        let asking = async {
            loop {
                match poll!(&mut call) {
                    Poll::Ready(answer) => return Some(answer),
                    Poll::Pending if ledger.used() > before => return None,
                    Poll::Pending => tokio::task::yield_now().await,
                }
            }
        };
        match timeout(DEADLINE, asking).await.expect("a list is answered") {
            None => unread.push(call),
            Some(Err(refused)) => break refused,
            Some(Ok(_)) => panic!("an answer that nobody reads is read"),
        }
    };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert!((2..8).contains(&unread.len()), "{} lists", unread.len());
    assert!((1..=BUDGET / 8).contains(&ledger.used()), "{}", ledger.used());
    drop(unread);
    all_is_back(&ledger).await;
    let (mut states, mut page) = (0, Vec::new());
    loop {
        let request = wire::ListRequest { filter: None, page_size: 0, page };
        let listed = collector.client.list(request).await.unwrap().into_inner();
        states += listed.states.len();
        page = listed.next_page;
        if page.is_empty() {
            break;
        }
    }
    assert_eq!(states, 100);
    all_is_back(&ledger).await;
    collector.stop().await;
}
