//! The store as streams and watchers see it.

use std::sync::Condvar;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use weir_proto::weir::link::v1::{Inventory, KeyDigest, State, StateAck, state_down};
use weir_queue::QueueError;

use super::*;
use crate::limits::{
    AGENTS_MAX, STATE_VALUE_BYTES_MAX, STATES_AWAY_MIN, STATES_MAX, STORE_BYTES_MAX, STORE_TOMBSTONES_MAX,
};
use crate::names::to_wire;
use crate::state::keep::{Change, Volatile};

/// A disk that fails, or waits, when it is told to.
#[derive(Debug, Default)]
struct Failing {
    rows: Volatile,
    fails: AtomicBool,
    /// Whether commits wait, who waits for that to end, and who is told that one does.
    is_held: Mutex<bool>,
    released: Condvar,
    waits: Notify,
}

impl Failing {
    fn hold(&self, is_held: bool) {
        *self.is_held.lock().unwrap() = is_held;
        self.released.notify_all();
    }
}

impl Keep for Failing {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.rows.get(key)
    }

    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.rows.scan(prefix)
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), QueueError> {
        let is_held = self.is_held.lock().unwrap();
        if *is_held {
            self.waits.notify_one();
        }
        drop(self.released.wait_while(is_held, |is_held| *is_held).unwrap());
        if self.fails.load(Ordering::Relaxed) { Err(QueueError::Closed) } else { self.rows.commit(changes) }
    }
}

fn open(keep: &Arc<Failing>) -> Arc<Store> {
    let keep: Arc<dyn Keep> = Arc::<Failing>::clone(keep);
    Store::open(keep).unwrap().0
}

fn state(key: &str, revision: u64, value: &str) -> State {
    State {
        kind: "app".to_owned(),
        key: key.to_owned(),
        incarnation: to_wire(1),
        revision,
        value: value.into(),
        deleted: value.is_empty(),
        ttl_ms: 0,
    }
}

async fn tell(store: &Store, epoch: u64, message: state_up::Message) -> Option<state_down::Message> {
    let message = StateUp { message: Some(message) };
    let mut said = store.received("agent", (1, epoch), message).await;
    assert!(said.len() <= 1);
    said.pop().and_then(|said| said.message)
}

/// Sends a state; the answer, where there is one.
async fn send(store: &Store, epoch: u64, state: State) -> Option<StateAck> {
    match tell(store, epoch, state_up::Message::Value(state)).await {
        Some(state_down::Message::Ack(answer)) => Some(answer),
        other => {
            assert_eq!(other, None);
            None
        }
    }
}

/// Sends a part of an inventory; what is wanted.
async fn list(
    store: &Store,
    epoch: u64,
    keys: &[(&str, u64)],
    (first, complete): (bool, bool),
) -> Vec<String> {
    let digest = |(key, revision): &(&str, u64)| KeyDigest {
        key: (*key).to_owned(),
        incarnation: to_wire(1),
        revision: *revision,
        deleted: false,
    };
    let keys = keys.iter().map(digest).collect();
    let part = Inventory { kind: "app".to_owned(), keys, complete, first };
    match tell(store, epoch, state_up::Message::Inventory(part)).await {
        Some(state_down::Message::Want(want)) => want.keys,
        other => {
            assert_eq!(other, None);
            Vec::new()
        }
    }
}

fn live(store: &Store) -> Vec<String> {
    let (facts, next) = store.list(&Filter::default(), None, (100_000, usize::MAX));
    assert_eq!(next, None);
    let shown = facts.iter().map(|fact| format!("{} {}", fact.key, String::from_utf8_lossy(&fact.value)));
    shown.collect()
}

/// Scenario: a state twice, an older one late, and "created" for what is there already. Regression for argocd-agent #266,
/// where that was dropped.
/// Guarantees: whatever is newer is taken; what is equal or older is answered with what is stored, and not stored.
#[tokio::test]
async fn whatever_is_newer_is_taken_and_the_rest_is_answered() {
    let store = open(&Arc::default());
    assert_eq!(send(&store, 1, state("a", 5, "five")).await.unwrap().revision, 5);
    assert_eq!(send(&store, 1, state("a", 5, "again")).await.unwrap().revision, 5);
    assert_eq!(send(&store, 1, state("a", 4, "late")).await.unwrap().revision, 5);
    assert_eq!(live(&store), ["a five"]);
    assert_eq!(send(&store, 1, state("a", 9, "nine")).await.unwrap().revision, 9);
    let newer = State { incarnation: to_wire(2), ..state("a", 1, "of a new life") };
    assert_eq!(send(&store, 1, newer).await.unwrap().rejected, "");
    assert_eq!(live(&store), ["a of a new life"]);
    let counts = store.counts();
    assert_eq!((counts.stored.get(), counts.old.get(), counts.states.get()), (3, 2, 1));
    // What was deleted does not come back late.
    let gone = State { incarnation: to_wire(2), ..state("a", 2, "") };
    send(&store, 1, gone).await.unwrap();
    let late = State { incarnation: to_wire(2), ..state("a", 1, "of a new life") };
    assert_eq!(send(&store, 1, late).await.unwrap().revision, 2);
    assert!(live(&store).is_empty());
}

/// Scenario: an agent comes back with nothing, with a part, with a part whose beginning was cut off, and with all in the same
/// epoch; then with all it has in a newer one. Regression for argocd-agent #660 and #813, where an empty cache deleted.
/// Guarantees: only the last lets anything expire, and only what is missing; a tombstone deletes without an inventory.
#[tokio::test]
async fn only_a_complete_inventory_of_a_newer_epoch_lets_states_expire() {
    let store = open(&Arc::default());
    for (at, key) in ["a", "b", "c"].into_iter().enumerate() {
        send(&store, 1, state(key, at as u64 + 1, key)).await.unwrap();
    }
    let all = ["a a", "b b", "c c"];
    assert!(list(&store, 2, &[], (true, true)).await.is_empty());
    assert_eq!(live(&store), all, "an empty one");
    assert!(list(&store, 2, &[("a", 1)], (true, false)).await.is_empty());
    assert_eq!(live(&store), all, "a part");
    list(&store, 3, &[("a", 1)], (false, true)).await;
    assert_eq!(live(&store), all, "a part of one and a part of another");
    list(&store, 2, &[("a", 1)], (false, true)).await;
    assert_eq!(live(&store), all, "an end without its beginning");
    list(&store, 1, &[("a", 1)], (true, true)).await;
    assert_eq!(live(&store), all, "the same epoch");
    list(&store, 0, &[("a", 1)], (true, true)).await;
    assert_eq!(live(&store), all, "an older epoch");
    let wanted = list(&store, 2, &[("a", 1), ("b", 9), ("new", 7)], (true, false)).await;
    assert_eq!(wanted, ["b", "new"]);
    assert!(list(&store, 2, &[], (false, true)).await.is_empty());
    assert_eq!(live(&store), ["a a", "b b"]);
    assert_eq!(store.counts().expired_inventory.get(), 1);
    // What has expired comes back where the agent has it after all.
    assert_eq!(list(&store, 2, &[("c", 3)], (true, false)).await, ["c"]);
    send(&store, 2, state("c", 3, "c")).await.unwrap();
    send(&store, 2, state("a", 4, "")).await.unwrap();
    assert_eq!(live(&store), ["b b", "c c"]);
}

/// Scenario: the disk fails, then works.
/// Guarantees: what is not on disk is neither answered nor shown; the same message is taken later.
#[tokio::test]
async fn an_answer_comes_after_the_disk() {
    let keep = Arc::<Failing>::default();
    let store = open(&keep);
    keep.fails.store(true, Ordering::Relaxed);
    assert_eq!(send(&store, 1, state("a", 1, "a")).await, None);
    assert!(live(&store).is_empty());
    assert_eq!(store.counts().unwritten.get(), 1);
    keep.fails.store(false, Ordering::Relaxed);
    assert_eq!(send(&store, 1, state("a", 1, "a")).await.unwrap().revision, 1);
    assert_eq!(live(&store), ["a a"]);
    drop(store);
    assert_eq!(live(&open(&keep)), ["a a"], "it is on disk");
}

/// Scenario: a state that counts for a minute; the collector restarts after half of it; the wall clock is never asked.
/// Guarantees: it lives for a minute from the restart, then expires by itself, and watchers hear it.
#[tokio::test(start_paused = true)]
async fn a_time_to_live_runs_while_the_collector_does() {
    let keep = Arc::<Failing>::default();
    let minute = State { ttl_ms: 60_000, ..state("a", 1, "a") };
    let store = open(&keep);
    send(&store, 1, minute).await.unwrap();
    tokio::time::sleep(Duration::from_secs(30)).await;
    drop(store);
    let store = open(&keep);
    let mut watching = store.watch(Filter::default(), None);
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(live(&store), ["a a"]);
    let mut seen = Vec::new();
    while seen.last() != Some(&Standing::Expired) {
        let (event, _) = watching.next().await.unwrap();
        if let Event::Fact(fact) = event {
            seen.push(fact.standing);
        }
    }
    assert_eq!(seen, [Standing::Live, Standing::Expired]);
    assert!(live(&store).is_empty());
    assert_eq!(store.counts().expired_ttl.get(), 1);
}

/// Scenario: names that are none, a value too large, more states than an agent may have.
/// Guarantees: each is rejected with a text and counted; what is there may still change and go.
#[tokio::test]
async fn what_has_no_room_is_rejected_with_a_text() {
    let store = open(&Arc::default());
    for (bad, text) in [
        (state("", 1, "x"), "is no name"),
        (State { incarnation: vec![1], ..state("a", 1, "x") }, "16 bytes"),
        (state("a", 1, &"x".repeat(65_537)), "65536 are allowed"),
    ] {
        let rejected = send(&store, 1, bad).await.unwrap().rejected;
        assert!(rejected.contains(text), "{rejected}");
    }
    for at in 0..STATES_MAX {
        assert_eq!(send(&store, 1, state(&format!("key{at}"), 1, "xx")).await.unwrap().rejected, "");
    }
    let rejected = send(&store, 1, state("one more", 1, "x")).await.unwrap().rejected;
    assert!(rejected.contains("remove states"), "{rejected}");
    assert_eq!(send(&store, 1, state("key7", 2, "y")).await.unwrap().rejected, "");
    assert_eq!(send(&store, 1, state("key7", 3, "")).await.unwrap().rejected, "");
    assert_eq!(send(&store, 1, state("one more", 1, "x")).await.unwrap().rejected, "");
    assert_eq!(store.counts().rejected.get(), 4);
}

async fn read(watching: &mut Watching) -> (String, Cursor) {
    let (event, cursor) = watching.next().await.unwrap();
    let shown = match event {
        Event::Started { resumed } => format!("started, resumed {resumed}"),
        Event::Complete => "complete".to_owned(),
        Event::Fact(fact) => {
            format!("{} {:?} {}", fact.key, fact.standing, String::from_utf8_lossy(&fact.value))
        }
    };
    (shown, cursor)
}

async fn read_until(watching: &mut Watching, last: &str) -> (Vec<String>, Cursor) {
    let mut all = Vec::new();
    loop {
        let (shown, cursor) = read(watching).await;
        all.push(shown);
        if all.last().is_some_and(|shown| shown == last) {
            return (all, cursor);
        }
    }
}

/// Scenario: somebody watches a kind while states of several change, stops, and goes on with the cursor after a restart of the
/// collector; somebody comes with the cursor of another store.
/// Guarantees: first a snapshot and its end, then changes in their order; after the restart what was missed, what was deleted
/// too; a foreign cursor begins anew.
#[tokio::test]
async fn a_watch_goes_on_where_it_was() {
    let keep = Arc::<Failing>::default();
    let store = open(&keep);
    for (revision, key) in [(1, "a"), (2, "b"), (3, "c")] {
        send(&store, 1, state(key, revision, "1")).await.unwrap();
    }
    send(&store, 1, State { kind: "other".to_owned(), ..state("x", 4, "1") }).await.unwrap();
    let filter = Filter { kind: "app".to_owned(), ..Filter::default() };
    let mut watching = store.watch(filter.clone(), None);
    // What changes during the snapshot comes after it.
    send(&store, 1, state("b", 5, "2")).await.unwrap();
    let (seen, _) = read_until(&mut watching, "complete").await;
    assert_eq!(seen, ["started, resumed false", "a Live 1", "c Live 1", "complete"]);
    let (seen, cursor) = read(&mut watching).await;
    assert_eq!(seen, "b Live 2");
    send(&store, 1, state("a", 6, "")).await.unwrap();
    send(&store, 1, state("d", 7, "1")).await.unwrap();
    drop((store, watching));
    let store = open(&keep);
    let cursor = Cursor::from_bytes(&cursor.to_bytes()).unwrap();
    let mut watching = store.watch(filter.clone(), Some(cursor));
    let (seen, _) = read_until(&mut watching, "complete").await;
    assert_eq!(seen, ["started, resumed true", "a Deleted ", "d Live 1", "complete"]);
    send(&store, 1, state("d", 8, "2")).await.unwrap();
    assert_eq!(read(&mut watching).await.0, "d Live 2");
    let mut foreign = open(&Arc::default()).watch(filter, Some(cursor));
    assert_eq!(read(&mut foreign).await.0, "started, resumed false");
    assert_eq!(Cursor::from_bytes(&[0; 23]).or(Cursor::from_bytes(&[0; 25])), None);
}

/// Scenario: a watcher reads nothing while more resources come and go than the store remembers to have gone.
/// Guarantees: the store remembers no more than its bound; the watcher is cut with a text, and a new watch, with the old
/// cursor, begins with a snapshot.
#[tokio::test]
async fn a_watcher_that_is_too_slow_is_cut() {
    let store = open(&Arc::default());
    send(&store, 1, state("a", 1, "1")).await.unwrap();
    let mut watching = store.watch(Filter::default(), None);
    let (_, cursor) = read_until(&mut watching, "complete").await;
    for at in 0..=STORE_TOMBSTONES_MAX {
        let key = format!("key{at}");
        send(&store, 1, state(&key, 2, "1")).await.unwrap();
        send(&store, 1, state(&key, 3, "")).await.unwrap();
    }
    assert_eq!(store.shared.lock().tombstones.len(), STORE_TOMBSTONES_MAX);
    let cut = watching.next().await.unwrap_err();
    assert!(cut.to_string().contains("watch again"), "{cut}");
    let mut again = store.watch(Filter::default(), Some(cursor));
    let (seen, _) = read_until(&mut again, "complete").await;
    assert_eq!(seen, ["started, resumed false", "a Live 1", "complete"]);
}

/// Scenario: states of some agents are listed in pages of one, by agent, by kind and by the start of a key; an agent is
/// forgotten; the store is closed while somebody watches.
/// Guarantees: each state stands on one page; a forgotten agent has none; the watcher hears that it ends.
#[tokio::test]
async fn a_list_has_each_state_once() {
    let store = open(&Arc::default());
    for agent in ["one", "two", "two and more"] {
        for key in ["a/1", "a/2", "b/1"] {
            let message = StateUp { message: Some(state_up::Message::Value(state(key, 1, agent))) };
            assert_eq!(store.received(agent, (1, 1), message).await.len(), 1);
        }
    }
    let pages = |filter: &Filter| {
        let (mut all, mut after) = (Vec::new(), None::<Vec<u8>>);
        loop {
            let (facts, next) = store.list(filter, after.as_deref(), (1, usize::MAX));
            all.extend(facts.iter().map(|fact| format!("{} {}", fact.agent, fact.key)));
            match next {
                Some(next) => after = Some(next),
                None => return all,
            }
        }
    };
    assert_eq!(pages(&Filter::default()).len(), 9);
    let of = |agent: &str, kind: &str, key: &str| Filter {
        agent: agent.into(),
        kind: kind.into(),
        key_prefix: key.into(),
    };
    assert_eq!(pages(&of("two", "app", "a/")), ["two a/1", "two a/2"]);
    assert_eq!(pages(&of("two", "other", "")), [""; 0]);
    assert!(store.forget("two").await);
    assert_eq!((pages(&of("two", "", "")).len(), pages(&Filter::default()).len()), (0, 6));
    assert_eq!((store.known("two").len(), store.known("one")[0].count), (0, 3));
    assert_eq!(store.counts().forgotten.get(), 3);
    let mut watching = store.watch(Filter::default(), None);
    read_until(&mut watching, "complete").await;
    drop(store);
    assert!(watching.next().await.unwrap_err().to_string().contains("stops"));
}

/// Sends a state of the largest size of one of several agents; why it was rejected, or nothing.
async fn large(store: &Store, agent: &str, at: usize) -> String {
    let value = "x".repeat(STATE_VALUE_BYTES_MAX);
    let message = StateUp { message: Some(state_up::Message::Value(state(&format!("k{at}"), 1, &value))) };
    match store.received(agent, (1, 1), message).await.pop().and_then(|said| said.message) {
        Some(state_down::Message::Ack(answer)) => answer.rejected,
        other => panic!("a state is answered: {other:?}"),
    }
}

fn count(store: &Store, agent: &str) -> u64 {
    store.known(agent).iter().map(|digest| digest.count).sum()
}

/// States of the largest size that an agent has in a store that is full.
const EACH: usize = 120;

/// Reports of agents that together leave less room than one more of them needs; their names.
async fn fill(store: &Store) -> Vec<String> {
    let per_agent = EACH * STATE_VALUE_BYTES_MAX;
    let agents: Vec<String> = (0..STORE_BYTES_MAX / per_agent).map(|at| format!("agent-{at}")).collect();
    assert!(agents.len() >= 4, "{} agents fill it", agents.len());
    for agent in &agents {
        for at in 0..EACH {
            assert_eq!(large(store, agent, at).await, "");
        }
    }
    agents
}

/// Scenario: a full store after a restart of the collector: one agent has a stream, the others are away, one of them said
/// something after the rest; a new agent with a stream reports, at once and after a while; then more of them, until nobody is
/// away; then one goes.
/// Guarantees: those that are away for long make room, each as a whole, of whoever was silent longest first, counted; of one with
/// a stream, or without one only lately or since the restart, nothing is given up; a report is refused only where all that is
/// there is of such agents.
#[tokio::test(start_paused = true)]
async fn agents_that_are_away_make_room_for_those_that_are_here() {
    let keep = Arc::<Failing>::default();
    let store = open(&keep);
    let agents = fill(&store).await;
    let message = StateUp { message: Some(state_up::Message::Value(state("last word", 2, "1"))) };
    store.received(&agents[1], (1, 1), message).await;
    drop(store);
    let store = open(&keep);
    store.came(&agents[0]);
    let counts = |agents: &[String]| agents.iter().map(|agent| count(&store, agent)).collect::<Vec<_>>();
    let before = counts(&agents);
    let mut rejected = String::new();
    for at in 0..EACH {
        rejected = large(&store, "new-0", at).await;
    }
    assert!(rejected.contains("or were within 15 minutes"), "{rejected}");
    assert_eq!((counts(&agents), store.counts().evicted.get()), (before, 0), "nobody could come back yet");
    tokio::time::advance(STATES_AWAY_MIN).await;
    for (at, gone) in [&agents[2..3], &agents[2..4]].into_iter().enumerate() {
        let new = format!("new-{at}");
        store.came(&new);
        for at in 0..EACH {
            assert_eq!(large(&store, &new, at).await, "");
        }
        assert_eq!(counts(gone), vec![0; gone.len()], "{new}");
        assert_eq!(store.counts().evicted.get(), (gone.len() * EACH) as u64);
    }
    assert_eq!(counts(&agents[..2]), [EACH as u64, EACH as u64 + 1], "here, and heard of last");
    agents[1..].iter().for_each(|agent| store.came(agent));
    for at in 0..EACH {
        rejected = large(&store, &agents[3], at).await;
    }
    assert!(rejected.contains("of agents that are connected"), "{rejected}");
    assert_eq!(counts(&agents[..2]), [EACH as u64, EACH as u64 + 1]);
    let before = store.counts().evicted.get();
    store.left(&agents[0]);
    assert_ne!(large(&store, &agents[3], EACH).await, "", "it may be back in a second");
    tokio::time::advance(STATES_AWAY_MIN).await;
    assert_eq!((large(&store, &agents[3], EACH).await.as_str(), count(&store, &agents[0])), ("", 0));
    assert_eq!(store.counts().evicted.get(), before + EACH as u64);
}

/// Scenario: a full store, all of it of agents with streams but for one small state of an agent that is away for long; a report
/// of the largest size.
/// Guarantees: it is refused, and the small state, which could not make room for it, is still there.
#[tokio::test(start_paused = true)]
async fn what_is_refused_all_the_same_costs_nobody_a_state() {
    let store = open(&Arc::default());
    send(&store, 1, state("small", 1, "x")).await.unwrap();
    tokio::time::advance(STATES_AWAY_MIN).await;
    for agent in fill(&store).await {
        store.came(&agent);
    }
    store.came("new");
    let mut at = 0;
    while large(&store, "new", at).await.is_empty() {
        at += 1;
    }
    assert!(at < EACH, "the store is full");
    assert_eq!((count(&store, "agent"), store.counts().evicted.get()), (1, 0));
    assert_eq!(store.counts().rejected.get(), 1);
}

/// Scenario: as many agents as may have states have one each and are away; one more comes, at once and after a while.
/// Guarantees: it is refused first; then the one that was silent longest makes room for it, and nobody else.
#[tokio::test(start_paused = true)]
async fn one_agent_more_than_may_be_takes_the_place_of_one_that_is_away() {
    let store = open(&Arc::default());
    let one = || StateUp { message: Some(state_up::Message::Value(state("a", 1, "x"))) };
    for at in 0..AGENTS_MAX {
        store.received(&format!("agent-{at}"), (1, 1), one()).await;
    }
    let refused = send(&store, 1, state("a", 1, "x")).await.unwrap().rejected;
    assert!(refused.contains("states of 10000 agents already"), "{refused}");
    assert_eq!(store.counts().evicted.get(), 0);
    tokio::time::advance(STATES_AWAY_MIN).await;
    assert_eq!(send(&store, 1, state("a", 1, "x")).await.unwrap().rejected, "");
    assert_eq!(send(&store, 1, state("b", 2, "x")).await.unwrap().rejected, "");
    assert_eq!((count(&store, "agent-0"), count(&store, "agent-1")), (0, 1));
    assert_eq!((store.counts().evicted.get(), count(&store, "agent")), (1, 2));
}

/// Scenario: an agent is forgotten; while the disk has that, it comes back and asks what is known of it; the disk takes it, or
/// fails.
/// Guarantees: what it is told agrees with nothing, so that it lists what it has; what went is wanted, and comes back; where the
/// disk failed nothing went, and what is known is told as before.
#[tokio::test]
async fn who_comes_back_while_its_states_are_given_up_says_them_again() {
    for fails in [false, true] {
        let keep = Arc::<Failing>::default();
        let store = open(&keep);
        send(&store, 1, state("a", 1, "1")).await.unwrap();
        let before = store.known("agent");
        keep.fails.store(fails, Ordering::Relaxed);
        keep.hold(true);
        let forgetting = tokio::spawn({
            let store = Arc::clone(&store);
            async move { store.forget("agent").await }
        });
        let waits = tokio::time::timeout(Duration::from_secs(30), keep.waits.notified()).await;
        store.came("agent");
        let meanwhile = store.known("agent");
        keep.hold(false);
        assert!(waits.is_ok(), "it reaches the disk");
        assert_eq!(forgetting.await.unwrap(), !fails);
        keep.fails.store(false, Ordering::Relaxed);
        assert_eq!((meanwhile[0].count, meanwhile[0].digest.len()), (1, 0), "fails: {fails}");
        let wanted = list(&store, 2, &[("a", 1)], (true, true)).await;
        if fails {
            assert_eq!((wanted.len(), store.known("agent")), (0, before));
        } else {
            assert_eq!(wanted, ["a"]);
            send(&store, 2, state("a", 1, "1")).await.unwrap();
            assert_eq!(store.known("agent"), before);
        }
        assert_eq!(live(&store), ["a 1"]);
    }
}

/// Scenario: a collector's door forgets an agent that has a stream at another door of the process; then that one ends.
/// Guarantees: nothing is let go while there is a stream; afterwards everything is.
#[tokio::test]
async fn who_has_a_stream_is_not_forgotten() {
    let store = open(&Arc::default());
    send(&store, 1, state("a", 1, "1")).await.unwrap();
    store.came("agent");
    store.came("agent");
    store.left("agent");
    assert!(CollectorStates::forget(&*store, "agent").await);
    assert_eq!(live(&store), ["a 1"]);
    store.left("agent");
    assert!(CollectorStates::forget(&*store, "agent").await);
    assert!(live(&store).is_empty());
    assert_eq!(store.counts().forgotten.get(), 1);
}

/// Scenario: a watcher takes the first of a hundred states of the largest size, and no more.
/// Guarantees: what was read for it is bounded by bytes, not by the number of states; it gets all of them, each once.
#[tokio::test]
async fn a_watcher_holds_a_page_of_bounded_bytes() {
    let store = open(&Arc::default());
    for at in 0..100 {
        assert_eq!(large(&store, "agent", at).await, "");
    }
    let mut watching = store.watch(Filter::default(), None);
    let (mut states, mut held) = (0, 0);
    loop {
        match watching.next().await.unwrap().0 {
            Event::Fact(_) => states += 1,
            Event::Started { .. } => {}
            Event::Complete => break,
        }
        held = held.max(watching.held_bytes());
    }
    assert_eq!(states, 100);
    assert!((1..=watching::WATCHER_BYTES_MAX).contains(&held), "{held}");
    const { assert!(watching::WATCHER_BYTES_MAX < 4 * STATE_VALUE_BYTES_MAX) };
}
