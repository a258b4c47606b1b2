//! What is left of an agent's earlier streams, and of agents that are forgotten.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::Semaphore;
use weir_model::BoxFuture;
use weir_proto::weir::link::v1::agent_message::Message as Up;
use weir_proto::weir::link::v1::collector_message::Message as Down;
use weir_proto::weir::link::v1::goodbye::Reason;
use weir_proto::weir::link::v1::{Hello, KindDigest, StateDown, StateUp};

use super::streams::{Agent, Say, agent_hello, serve, until};
use super::{bundle, hello, span};
use crate::collector::FleetState;
use crate::lanes::CollectorStates;

/// Scenario: an agent's stream is exchanged for another while the log holds the commit of a bundle of the first, which lands then;
/// the second is of the same process, or of a copy of the folder that began its second start below the bundle's place.
/// Guarantees: no answer comes before the commit; the welcome has the place that landed, and the copy takes a new incarnation.
#[tokio::test]
async fn a_welcome_waits_for_what_an_older_stream_has_with_the_log() {
    for is_copy in [false, true] {
        let served = serve(|_| ());
        let gate = Arc::new(Semaphore::new(0));
        served.pipeline.say(Say::Hold(Arc::clone(&gate)));
        let (mut first, _) = Agent::welcome(served.addr, agent_hello()).await;
        first.say(Up::Data(bundle(1, 0, 0, &[(70, &span("x"))]))).await;
        until("the log has it", || served.pipeline.seen() == 1).await;
        let copy = hello("a", 5, 2, 2, &[("traces", 11, 100, 60, 1)]);
        let mut second = Agent::open(served.addr, if is_copy { copy } else { agent_hello() }).await;
        assert_eq!(first.goodbye().await.reason(), Reason::Fenced);
        let mut hearing = Box::pin(second.hear());
        for _ in 0..1000 {
            tokio::task::yield_now().await;
            assert!(futures_util::poll!(&mut hearing).is_pending(), "an answer before the commit");
        }
        gate.add_permits(1);
        match hearing.await {
            Down::Welcome(welcome) => assert_eq!((is_copy, welcome.marks[0].seq), (false, 70)),
            Down::Goodbye(goodbye) => {
                assert!(is_copy && goodbye.reason() == Reason::NewIncarnation, "{goodbye:?}");
                until("it is shown", || served.collector.fleet()[0].state == FleetState::Fenced).await;
                assert!(served.collector.fleet()[0].event.contains("has place 70"));
            }
            other => panic!("expected an answer to the hello: {other:?}"),
        }
    }
}

/// Scenario: an agent is killed while the log holds the commit of its bundle, and comes again before that lands.
/// Guarantees: its welcome has the place that landed, although nobody was left to be told; what it sends again all the same is
/// acknowledged and counted as a duplicate of this agent.
#[tokio::test]
async fn a_commit_outlives_its_stream() {
    let served = serve(|_| ());
    let gate = Arc::new(Semaphore::new(0));
    served.pipeline.say(Say::Hold(Arc::clone(&gate)));
    let (first, _) = Agent::welcome(served.addr, agent_hello()).await;
    first.say(Up::Data(bundle(1, 0, 0, &[(70, &span("x"))]))).await;
    until("the log has it", || served.pipeline.seen() == 1).await;
    drop(first);
    until("its stream is gone", || served.collector.settings.counts.streams.get() == 0).await;
    let mut second = Agent::open(served.addr, agent_hello()).await;
    until("it is the live one", || served.collector.fleet()[0].session == Some(2)).await;
    gate.add_permits(1);
    let Down::Welcome(welcome) = second.hear().await else { panic!("it is welcome") };
    assert_eq!(welcome.marks[0].seq, 70);
    for (ordinal, seqs) in [(1, [70, 71]), (2, [72, 73])] {
        let records = seqs.map(|seq| (seq, span("x")));
        let records = records.each_ref().map(|(seq, body)| (*seq, &body[..]));
        second.say(Up::Data(bundle(ordinal, 0, 0, &records))).await;
        assert_eq!(second.ack().await, (ordinal, vec![]));
    }
    let row = served.collector.fleet().remove(0);
    assert_eq!((row.records, row.duplicates), (4, 1), "what nobody was told of came again");
    assert_eq!(served.collector.settings.link_counts.duplicates.get(), 1);
}

/// Writes down what it is told of agents; lets go of nothing while it is told to fail.
#[derive(Default)]
struct Noted {
    told: Mutex<Vec<String>>,
    fails: AtomicBool,
}

impl Noted {
    fn note(&self, what: String) {
        self.told.lock().unwrap().push(what);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

impl CollectorStates for Noted {
    fn known(&self, _identity: &str) -> Vec<KindDigest> {
        Vec::new()
    }

    fn received<'a>(
        &'a self,
        _identity: &'a str,
        _epoch: (u128, u64),
        _message: StateUp,
    ) -> BoxFuture<'a, Vec<StateDown>> {
        Box::pin(async { Vec::new() })
    }

    fn came(&self, identity: &str) {
        self.note(format!("{identity} came"));
    }

    fn left(&self, identity: &str) {
        self.note(format!("{identity} left"));
    }

    fn forget<'a>(&'a self, identity: &'a str) -> BoxFuture<'a, bool> {
        self.note(format!("forget {identity}"));
        Box::pin(async { !self.fails.load(Ordering::SeqCst) })
    }
}

/// Scenario: the registry forgets an agent while the store of states cannot write, then can; it forgets another, which comes back
/// before the sweep.
/// Guarantees: the store is asked at each sweep until it has let go, and then no more; who is back keeps what is stored of it; the
/// store knows who has a stream.
#[tokio::test]
async fn the_states_of_whom_the_registry_forgets_are_let_go() {
    let states = Arc::new(Noted::default());
    let served = serve(|settings| settings.states = Arc::clone(&states) as Arc<dyn CollectorStates>);
    let named = |name: &str| Hello { identity: name.to_owned(), ..agent_hello() };
    for name in ["a", "b"] {
        let (agent, _) = Agent::welcome(served.addr, named(name)).await;
        drop(agent);
        until("it is gone", || served.collector.settings.counts.streams.get() == 0).await;
    }
    assert_eq!(states.take(), ["a came", "a left", "b came", "b left"]);
    states.fails.store(true, Ordering::SeqCst);
    assert!(served.collector.store.registry().forget_oldest());
    served.collector.sweep().await;
    states.fails.store(false, Ordering::SeqCst);
    served.collector.sweep().await;
    served.collector.sweep().await;
    assert_eq!(states.take(), ["forget a", "forget a"]);
    assert!(served.collector.store.registry().forget_oldest());
    let (_agent, _) = Agent::welcome(served.addr, named("b")).await;
    served.collector.sweep().await;
    assert_eq!(states.take(), ["b came"]);
}
