//! The outbox as a session and as a reporter see it.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::FutureExt as _;
use prost::Message as _;
use tokio::sync::Semaphore;
use weir_proto::weir::link::v1::{Inventory, KeyDigest, State, StateAck, Want, state_down, state_up};
use weir_queue::QueueError;

use super::*;
use crate::limits::{STATE_RESEND_AFTER, STATES_IN_FLIGHT_MAX, STATES_MAX};
use crate::names::to_wire;
use crate::state::keep::{Change, Volatile};

/// A disk that fails, or waits, when it is told to.
#[derive(Debug)]
struct Slow {
    rows: Volatile,
    fails: AtomicBool,
    permits: Semaphore,
}

impl Slow {
    fn new(permits: usize) -> Arc<Self> {
        let (rows, fails) = (Volatile::default(), AtomicBool::new(false));
        Arc::new(Self { rows, fails, permits: Semaphore::new(permits) })
    }
}

impl Keep for Slow {
    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.rows.get(key)
    }

    fn scan(&self, prefix: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.rows.scan(prefix)
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), QueueError> {
        let permit = tokio::runtime::Handle::current().block_on(self.permits.acquire());
        permit.expect("never closed").forget();
        if self.fails.load(Ordering::Relaxed) {
            return Err(QueueError::Closed);
        }
        self.rows.commit(changes)
    }
}

fn open(keep: &Arc<Slow>) -> (Outbox, OutboxHandle) {
    open_found(keep, true)
}

fn open_found(keep: &Arc<Slow>, is_new: bool) -> (Outbox, OutboxHandle) {
    let keep: Arc<dyn Keep> = Arc::<Slow>::clone(keep);
    let (outbox, handle, _) = Outbox::open(keep, is_new);
    (outbox, handle)
}

/// Returns when the disk has what was asked for before.
async fn settled(handle: &OutboxHandle) {
    handle.replace("none", Vec::new()).await.unwrap();
}

async fn say(handle: &OutboxHandle, key: &str, value: &str) -> Reported {
    handle.report("app", key, value.into(), Duration::ZERO).await.unwrap()
}

/// What a collector says of states of one kind that it has.
fn known(states: &[State]) -> KindDigest {
    let order = |state: &State| {
        let incarnation = u128::from_be_bytes(state.incarnation[..].try_into().unwrap());
        crate::state::resource::Order { incarnation, revision: state.revision }
    };
    let kind = states.first().map(|state| state.kind.clone()).unwrap_or_default();
    crate::state::resource::digest(&kind, states.iter().map(|state| (&*state.key, order(state))))
}

/// What a collector says that has a state which this outbox has not.
fn known_else(kind: &str) -> KindDigest {
    let (kind, key, incarnation) = (kind.to_owned(), "lost".to_owned(), to_wire(1));
    known(&[State { kind, key, incarnation, revision: 7, ..State::default() }])
}

/// Whether inventories are complete, by kind.
fn complete(inventories: &[Inventory]) -> Vec<(&str, bool)> {
    inventories.iter().map(|part| (&*part.kind, part.complete)).collect()
}

/// All that is to be sent now: states, and inventories.
fn drain(outbox: &mut Outbox) -> (Vec<State>, Vec<Inventory>) {
    let (mut states, mut inventories) = (Vec::new(), Vec::new());
    while let Some(message) = outbox.next(clock()) {
        match message.message.unwrap() {
            state_up::Message::Value(state) => states.push(state),
            state_up::Message::Inventory(part) => inventories.push(part),
        }
    }
    (states, inventories)
}

fn states(outbox: &mut Outbox) -> Vec<String> {
    let shown = |state: State| {
        let value = if state.deleted { "-".to_owned() } else { String::from_utf8(state.value).unwrap() };
        format!("{} {value}", state.key)
    };
    drain(outbox).0.into_iter().map(shown).collect()
}

fn answer(outbox: &mut Outbox, key: &str, revision: u64, rejected: &str) {
    let incarnation = to_wire(outbox.shared.lock().desk.incarnation());
    answer_as(outbox, key, incarnation, revision, rejected);
}

fn answer_as(outbox: &mut Outbox, key: &str, incarnation: Vec<u8>, revision: u64, rejected: &str) {
    let (kind, key, rejected) = ("app".to_owned(), key.to_owned(), rejected.to_owned());
    let answer = StateAck { kind, key, incarnation, revision, rejected };
    outbox.received(StateDown { message: Some(state_down::Message::Ack(answer)) }, clock());
}

/// Scenario: a state is reported twice before it is sent, once while it is in flight, and the answers come.
/// Guarantees: the newest unsent replaces the older; what is in flight is not touched, and its answer settles it alone.
#[tokio::test]
async fn an_answer_settles_its_own_revision_and_never_a_newer_one() {
    let (mut outbox, handle) = open(&Slow::new(100));
    outbox.welcomed(&[], true, clock());
    say(&handle, "a", "1").await;
    let second = say(&handle, "a", "2").await;
    assert_eq!(states(&mut outbox), ["a 2"]);
    let third = say(&handle, "a", "3").await;
    assert!(states(&mut outbox).is_empty(), "one of a resource is in flight");
    let (second_revision, third_revision) = (second.revision, third.revision);
    answer(&mut outbox, "a", second_revision, "");
    assert_eq!(second.persisted().await, Fate::Persisted);
    assert_eq!((handle.unacknowledged(), states(&mut outbox)), (1, vec!["a 3".to_owned()]));
    // The answer to the older one comes once more.
    answer(&mut outbox, "a", second_revision, "");
    assert_eq!(handle.unacknowledged(), 1);
    answer(&mut outbox, "a", third_revision, "");
    assert_eq!((third.persisted().await, handle.unacknowledged()), (Fate::Persisted, 0));
}

/// Scenario: resources with the same key in two kinds, with equal values, and one that changes meanwhile. Regression for
/// argocd-agent #809 and #840, where a command that rode in a state was lost with it.
/// Guarantees: what has a name of its own is sent on its own, whatever is coalesced beside it.
#[tokio::test]
async fn distinct_resources_are_never_merged() {
    let (mut outbox, handle) = open(&Slow::new(100));
    outbox.welcomed(&[], true, clock());
    for value in ["1", "2", "3"] {
        say(&handle, "a", value).await;
        handle.report("other", "a", "1".into(), Duration::ZERO).await.unwrap();
        say(&handle, "b", "1").await;
    }
    let (sent, _) = drain(&mut outbox);
    let names: Vec<_> = sent.iter().map(|state| (&*state.kind, &*state.key, &*state.value)).collect();
    assert_eq!(names, [("app", "a", &b"3"[..]), ("other", "a", b"1"), ("app", "b", b"1")]);
}

/// Scenario: one resource is not answered; others go on changing. Regression for argocd-agent #1051, where one lock held up all
/// of an agent.
/// Guarantees: order is kept for each resource only; each has its turn before another has its second.
#[tokio::test]
async fn a_resource_without_an_answer_holds_up_no_other() {
    let (mut outbox, handle) = open(&Slow::new(1_000));
    outbox.welcomed(&[], true, clock());
    say(&handle, "stuck", "1").await;
    assert_eq!(states(&mut outbox), ["stuck 1"]);
    say(&handle, "stuck", "2").await;
    for round in 0..5 {
        let mut revisions = Vec::new();
        for key in ["a", "b", "c"] {
            revisions.push((key, say(&handle, key, &format!("{round}")).await.revision));
            say(&handle, "a", &format!("{round}")).await;
        }
        assert_eq!(states(&mut outbox), [format!("a {round}"), format!("b {round}"), format!("c {round}")]);
        revisions.into_iter().for_each(|(key, revision)| answer(&mut outbox, key, revision, ""));
    }
}

/// Scenario: a resource is created and deleted before anything is sent; the stream breaks; the process restarts.
/// Guarantees: its tombstone clears what was unsent, outlives it all until it is answered, and then leaves nothing.
#[tokio::test]
async fn a_tombstone_lives_until_it_is_acknowledged() {
    let keep = Slow::new(100);
    let (mut outbox, handle) = open(&keep);
    say(&handle, "a", "1").await;
    let removed = handle.remove("app", "a").await.unwrap().revision;
    outbox.welcomed(&[], true, clock());
    assert_eq!(states(&mut outbox), ["a -"]);
    outbox.broken();
    outbox.welcomed(&[], true, clock());
    assert_eq!(states(&mut outbox), ["a -"]);
    drop((outbox, handle));
    let (mut outbox, handle) = open(&keep);
    outbox.welcomed(&[], true, clock());
    assert_eq!(states(&mut outbox), ["a -"]);
    answer(&mut outbox, "a", removed, "");
    // The next commit removes its row.
    say(&handle, "b", "1").await;
    let rows: Vec<_> = keep.scan(b"s").into_iter().map(|(key, _)| String::from_utf8(key).unwrap()).collect();
    assert_eq!(rows, ["sapp\0b"]);
}

/// Scenario: the disk takes its time; then it fails; then it works.
/// Guarantees: nothing is answered and nothing is sent before it is durable; a failure refuses, with what to do, and is
/// counted; what was refused is not kept.
#[tokio::test]
async fn nothing_is_answered_or_sent_before_it_is_durable() {
    let keep = Slow::new(0);
    let (mut outbox, handle) = open(&keep);
    outbox.welcomed(&[], true, clock());
    let reporting = tokio::spawn({
        let handle = handle.clone();
        async move { handle.report("app", "a", "1".into(), Duration::ZERO).await.map(|said| said.revision) }
    });
    // The commit has begun when nothing waits for the task any more.
    while outbox.requests.capacity() < outbox.requests.max_capacity() {
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!reporting.is_finished());
    assert_eq!(outbox.next(clock()), None);
    keep.permits.add_permits(1);
    assert!(reporting.await.unwrap().is_ok());
    assert_eq!(states(&mut outbox), ["a 1"]);
    keep.fails.store(true, Ordering::Relaxed);
    keep.permits.add_permits(100);
    let refused = handle.report("app", "b", "1".into(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(&refused, ReportError::Disk(why) if why.contains("free its disk")), "{refused}");
    keep.fails.store(false, Ordering::Relaxed);
    assert_eq!((states(&mut outbox).len(), handle.counts().refused_disk.get()), (0, 1));
    say(&handle, "b", "2").await;
    assert_eq!(states(&mut outbox), ["b 2"]);
}

/// Scenario: as many states as may be, and one more; too large a value; no name.
/// Guarantees: what is too much is refused with a text and counted; what is there may change and go.
#[tokio::test]
async fn a_full_outbox_refuses_and_says_so() {
    let (_outbox, handle) = open(&Slow::new(1_000));
    let all = (0..STATES_MAX).map(|at| (format!("key{at}"), b"1".to_vec())).collect();
    handle.replace("app", all).await.unwrap();
    let full = handle.report("app", "one more", "1".into(), Duration::ZERO).await.unwrap_err();
    assert!(matches!(&full, ReportError::Full(why) if why.contains("remove states")), "{full}");
    say(&handle, "key7", "2").await;
    handle.remove("app", "key7").await.unwrap();
    let large = handle.report("app", "key8", vec![0; 65_537], Duration::ZERO).await.unwrap_err();
    assert!(matches!(&large, ReportError::Invalid(why) if why.contains("65536 are allowed")), "{large}");
    assert!(handle.report("no name", "k", "1".into(), Duration::ZERO).await.is_err());
    let counts = handle.counts();
    assert_eq!((counts.refused_full.get(), counts.refused_invalid.get()), (1, 2));
    assert_eq!(counts.states.get(), STATES_MAX as u64);
}

/// Scenario: a start; a reconnect to a collector that knows all, one that knows something else, and another store.
/// Guarantees: at a start everything is said; where digests are equal nothing; where they differ an inventory, and what is
/// wanted; to another store everything.
#[tokio::test]
async fn a_reconnect_says_what_the_collector_does_not_know() {
    let keep = Slow::new(100);
    let (outbox, handle) = open(&keep);
    for key in ["a", "b", "c"] {
        say(&handle, key, "1").await;
    }
    drop((outbox, handle));
    let (mut outbox, handle) = open(&keep);
    outbox.welcomed(&[], true, clock());
    let (said, inventories) = drain(&mut outbox);
    assert_eq!((said.len(), inventories.len()), (3, 1));
    assert!(inventories[0].first && inventories[0].complete && inventories[0].keys.len() == 3);
    outbox.broken();
    outbox.welcomed(&[known(&said)], true, clock());
    assert_eq!((outbox.next(clock()), handle.unacknowledged()), (None, 0));
    outbox.broken();
    outbox.welcomed(&[known(&said[..2])], true, clock());
    let (again, inventories) = drain(&mut outbox);
    assert_eq!((again.len(), inventories.len()), (0, 1));
    let want = Want { kind: "app".to_owned(), keys: vec!["c".to_owned(), "unknown".to_owned()] };
    outbox.received(StateDown { message: Some(state_down::Message::Want(want)) }, clock());
    assert_eq!(states(&mut outbox), ["c 1"]);
    outbox.broken();
    outbox.welcomed(&[known(&said)], false, clock());
    assert_eq!(drain(&mut outbox).0.len(), 3);
}

/// Scenario: more states than one message holds keys.
/// Guarantees: the first part says that it is, and only the last that it is complete.
#[tokio::test]
async fn an_inventory_is_complete_with_its_last_part() {
    let (mut outbox, handle) = open(&Slow::new(100));
    let all = (0..2_500).map(|at| (format!("key{at:04}"), b"1".to_vec())).collect();
    handle.replace("app", all).await.unwrap();
    outbox.welcomed(&[], true, clock());
    let (said, parts) = drain(&mut outbox);
    assert_eq!(said.len(), STATES_IN_FLIGHT_MAX);
    let seen: Vec<_> = parts.iter().map(|part| (part.keys.len(), part.first, part.complete)).collect();
    assert_eq!(seen, [(1_000, true, false), (1_000, false, false), (500, false, true)]);
}

/// Scenario: an hour on a stream on which nothing is answered.
/// Guarantees: what was not answered is sent again each minute; inventories are repeated each ten, more or less; in between
/// the session may sleep.
#[tokio::test]
async fn what_is_not_answered_is_sent_again() {
    let (mut outbox, handle) = open(&Slow::new(100));
    say(&handle, "a", "1").await;
    let start = clock();
    outbox.welcomed(&[], true, start);
    let (mut sent, mut listed, mut wakes) = (0, 0, 0);
    let mut now = start;
    while now < start + Duration::from_secs(3_600) {
        while let Some(message) = outbox.next(now) {
            match message.message.unwrap() {
                state_up::Message::Value(_) => sent += 1,
                state_up::Message::Inventory(_) => listed += 1,
            }
        }
        now = outbox.wake().unwrap();
        wakes += 1;
    }
    assert_eq!(sent, 3_600 / STATE_RESEND_AFTER.as_secs());
    assert!((5..=8).contains(&listed), "{listed}");
    assert!(wakes <= sent + listed, "{wakes}");
}

/// Scenario: a state that counts for a minute waits half of it; another waits longer; a third is reported again.
/// Guarantees: the time that it has waited counts; what has run out is not sent, and whoever waits hears that.
#[tokio::test(start_paused = true)]
async fn the_time_that_a_state_waits_counts() {
    let (mut outbox, handle) = open(&Slow::new(100));
    let minute = Duration::from_secs(60);
    let old = handle.report("app", "old", "1".into(), minute / 3).await.unwrap();
    handle.report("app", "a", "1".into(), minute).await.unwrap();
    tokio::time::advance(minute / 2).await;
    outbox.welcomed(&[], true, clock());
    let (said, _) = drain(&mut outbox);
    assert_eq!(said.iter().map(|state| (&*state.key, state.ttl_ms)).collect::<Vec<_>>(), [("a", 30_000)]);
    assert_eq!((old.persisted().await, handle.counts().expired.get()), (Fate::Expired, 1));
    let again = handle.report("app", "a", "1".into(), minute).await.unwrap();
    assert!(again.revision > said[0].revision, "what counts for a while is news each time");
}

/// Scenario: the collector rejects a state; it is reported again, with the same value.
/// Guarantees: whoever waits hears why, it is counted, it is not sent again by itself, and the report is news.
#[tokio::test]
async fn a_rejected_state_waits_for_a_change() {
    let (mut outbox, handle) = open(&Slow::new(100));
    outbox.welcomed(&[], true, clock());
    let said = say(&handle, "a", "1").await;
    assert_eq!(states(&mut outbox), ["a 1"]);
    answer(&mut outbox, "a", said.revision, "no room");
    assert_eq!(said.persisted().await, Fate::Rejected("no room".to_owned()));
    assert_eq!((states(&mut outbox).len(), handle.counts().rejected.get()), (0, 1));
    say(&handle, "a", "1").await;
    assert_eq!(states(&mut outbox), ["a 1"]);
}

/// Scenario: the collector has a revision that this folder has not given, and one of a higher incarnation: the folder is an
/// old copy, or a clock was wrong. Then the session takes a new incarnation.
/// Guarantees: states go on above it, all of them are said again, and a restart knows it.
#[tokio::test]
async fn a_folder_that_was_overtaken_goes_on_above() {
    let keep = Slow::new(100);
    let (mut outbox, handle) = open(&keep);
    outbox.welcomed(&[], true, clock());
    let first = say(&handle, "a", "1").await.revision;
    let (said, _) = drain(&mut outbox);
    let before = u128::from_be_bytes(said[0].incarnation[..].try_into().unwrap());
    let mut highest = before;
    for ahead in [(before, first + 7), (before + (1_000_000_u128 << 80), 1)] {
        answer_as(&mut outbox, "a", to_wire(ahead.0), ahead.1, "");
        say(&handle, "b", &format!("{ahead:?}")).await;
        let (said, inventories) = drain(&mut outbox);
        let incarnation = u128::from_be_bytes(said[0].incarnation[..].try_into().unwrap());
        assert!(incarnation > highest && incarnation > ahead.0, "{incarnation:x} {ahead:x?}");
        assert_eq!((said.len(), inventories.len()), (2, 1));
        highest = incarnation;
    }
    outbox.numbered(highest + 1);
    say(&handle, "c", "1").await;
    assert_eq!(drain(&mut outbox).0.len(), 3);
    drop((outbox, handle));
    let (outbox, _handle) = open(&keep);
    assert_eq!(outbox.shared.lock().desk.incarnation(), highest + 1);
}

/// Scenario: an agent describes itself, twice the same, then with a component less.
/// Guarantees: what is as it was is no news; what is not there any more is gone.
#[tokio::test]
async fn an_agent_says_what_it_is_once() {
    use crate::state::{AgentFacts, ComponentFacts};
    let (mut outbox, handle) = open(&Slow::new(100));
    outbox.welcomed(&[], true, clock());
    let component = |id: &str| ComponentFacts { id: id.to_owned(), healthy: true, status: String::new() };
    let agent = AgentFacts { host: "h".into(), version: "1".into(), os: "linux".into() };
    for _ in 0..2 {
        handle.describe_agent(&agent).await.unwrap();
        handle.describe_config("abc").await.unwrap();
        handle
            .describe_components(&[component("receivers/otlp"), component("exporters/weir")])
            .await
            .unwrap();
    }
    let (said, _) = drain(&mut outbox);
    assert_eq!(said.len(), 4);
    let value = |key: &str| {
        let state = said.iter().find(|state| state.key == key).unwrap();
        String::from_utf8(state.value.clone()).unwrap()
    };
    assert_eq!(value("agent"), r#"{"host":"h","version":"1","os":"linux"}"#);
    assert_eq!(
        (value("config"), value("exporters/weir")),
        (r#"{"hash":"abc"}"#.to_owned(), r#"{"healthy":true,"status":""}"#.to_owned())
    );
    for state in &said {
        let (kind, key, incarnation) = (state.kind.clone(), state.key.clone(), state.incarnation.clone());
        let answer = StateAck { kind, key, incarnation, revision: state.revision, rejected: String::new() };
        outbox.received(StateDown { message: Some(state_down::Message::Ack(answer)) }, clock());
    }
    handle.describe_components(&[component("exporters/weir")]).await.unwrap();
    assert_eq!(states(&mut outbox), ["receivers/otlp -"]);
}

/// Scenario: an outbox was damaged and set aside; programs report again, one after a restart; the collector has all of it in the
/// end, and only that; another restart.
/// Guarantees: until then no inventory is complete, in any start, for what is missing may come yet; from then on they are, and a
/// later start knows it.
#[tokio::test]
async fn a_damaged_outbox_is_whole_when_the_collector_has_nothing_else() {
    let keep = Slow::new(100);
    let (mut outbox, handle) = open_found(&keep, false);
    say(&handle, "a", "1").await;
    outbox.welcomed(&[known_else("app")], true, clock());
    assert_eq!(complete(&drain(&mut outbox).1), [("app", false)]);
    drop((outbox, handle));

    let (mut outbox, handle) = open_found(&keep, false);
    outbox.welcomed(&[known_else("app")], true, clock());
    assert_eq!(complete(&drain(&mut outbox).1), [("app", false)], "a start has made it whole");
    say(&handle, "lost", "1").await;
    outbox.broken();
    outbox.welcomed(&[known_else("app")], true, clock());
    let (_, inventories) = drain(&mut outbox);
    assert_eq!(complete(&inventories), [("app", false)]);
    let said = |key: &KeyDigest| State {
        kind: "app".to_owned(),
        key: key.key.clone(),
        incarnation: key.incarnation.clone(),
        revision: key.revision,
        ..State::default()
    };
    let all: Vec<State> = inventories[0].keys.iter().map(said).collect();
    outbox.broken();
    outbox.welcomed(&[known(&all), known_else("other")], true, clock());
    outbox.broken();
    outbox.welcomed(&[known_else("app"), known_else("other")], true, clock());
    assert_eq!(complete(&drain(&mut outbox).1), [("app", true)], "of one kind nothing is missing");
    outbox.broken();
    outbox.welcomed(&[known(&all)], true, clock());
    settled(&handle).await;
    drop((outbox, handle));

    let (mut outbox, _handle) = open_found(&keep, false);
    outbox.welcomed(&[known_else("app")], true, clock());
    assert_eq!(complete(&drain(&mut outbox).1), [("app", true)], "a start has forgotten that it is whole");
}

/// Scenario: an outbox was damaged; the first collector it meets is one that never knew the agent and has nothing of it, or has
/// just what is here; the next is the one that has what was lost; at last that one has nothing else.
/// Guarantees: the stranger makes nothing whole, of no kind, neither in this start nor in the next; the one that knew it does.
#[tokio::test]
async fn a_collector_that_never_knew_the_agent_makes_nothing_whole() {
    let keep = Slow::new(100);
    for is_empty in [true, false] {
        let (mut outbox, handle) = open_found(&keep, false);
        say(&handle, "a", "1").await;
        outbox.welcomed(&[known_else("app")], true, clock());
        let (said, inventories) = drain(&mut outbox);
        assert_eq!((said.len(), complete(&inventories)), (1, vec![("app", false)]));
        outbox.broken();
        let stranger = if is_empty { vec![] } else { vec![known(&said)] };
        outbox.welcomed(&stranger, false, clock());
        assert_eq!(complete(&drain(&mut outbox).1), [("app", false)], "empty: {is_empty}");
        settled(&handle).await;
        outbox.broken();
        outbox.welcomed(&[known_else("app")], true, clock());
        assert_eq!(complete(&drain(&mut outbox).1), [("app", false)], "empty: {is_empty}");
        drop((outbox, handle));
    }
    let (mut outbox, _handle) = open_found(&keep, false);
    outbox.welcomed(&[known_else("app")], true, clock());
    assert_eq!(complete(&drain(&mut outbox).1), [("app", false)], "a start has made it whole");
    outbox.broken();
    outbox.welcomed(&[], true, clock());
    assert_eq!(complete(&drain(&mut outbox).1), [("app", true)]);
}

/// Scenario: an outbox was damaged; the agent says what all of a kind is, on a stream; a program reports one state of another.
/// Guarantees: what the collector has of the first beside that may be expired, and at once; of the other nothing.
#[tokio::test]
async fn a_kind_that_is_said_as_a_whole_is_whole() {
    let (mut outbox, handle) = open_found(&Slow::new(100), false);
    say(&handle, "a", "1").await;
    outbox.welcomed(&[known_else("app"), known_else("weir.node")], true, clock());
    assert_eq!(complete(&drain(&mut outbox).1), [("app", false)]);
    handle.replace("weir.node", vec![("n".to_owned(), b"1".to_vec())]).await.unwrap();
    assert_eq!(complete(&drain(&mut outbox).1), [("weir.node", true)]);
    outbox.broken();
    outbox.welcomed(&[known_else("app"), known_else("weir.node")], true, clock());
    assert_eq!(complete(&drain(&mut outbox).1), [("app", false), ("weir.node", true)]);
}

/// Scenario: a row of the outbox cannot be read; the resource is reported anew; restarts.
/// Guarantees: no inventory is complete in this start or the next; the row is gone, what was reported is not.
#[tokio::test]
async fn a_row_that_cannot_be_read_makes_an_outbox_less_than_whole() {
    let keep = Slow::new(100);
    let (outbox, handle) = open(&keep);
    say(&handle, "a", "1").await;
    drop((outbox, handle));
    keep.rows.commit(vec![(b"sapp\0b".to_vec(), Some(vec![0xff]))]).unwrap();
    for _ in 0..2 {
        let (mut outbox, handle) = open_found(&keep, false);
        say(&handle, "b", "1").await;
        outbox.welcomed(&[known_else("app")], true, clock());
        let (said, inventories) = drain(&mut outbox);
        assert_eq!((said.len(), complete(&inventories)), (2, vec![("app", false)]));
        settled(&handle).await;
    }
    let rows = keep.scan(b"s").into_iter().map(|(_, row)| State::decode(&*row).unwrap().key);
    assert_eq!(rows.collect::<Vec<_>>(), ["a", "b"]);
}

/// Scenario: a state comes and is to be said; the disk is full, and a state's time runs out: its row is to go, and others are
/// reported; the disk has room again.
/// Guarantees: there is word of what became durable, and none of what did not, so that nobody asks a full disk for the row again and
/// again; once there is room the row goes.
#[tokio::test]
async fn there_is_no_word_of_what_a_full_disk_did_not_take() {
    let keep = Slow::new(1_000);
    let (mut outbox, handle) = open(&keep);
    let reported = outbox.reported().unwrap();
    outbox.welcomed(&[], true, clock());
    let _said = handle.report("app", "a", "1".into(), Duration::from_secs(60)).await.unwrap();
    reported.notified().await;
    assert_eq!(states(&mut outbox), ["a 1"]);
    keep.fails.store(true, Ordering::Relaxed);
    // Its time is over: the row is to go.
    assert_eq!(outbox.next(clock() + Duration::from_secs(61)), None);
    for _ in 0..3 {
        handle.report("app", "b", "1".into(), Duration::ZERO).await.unwrap_err();
    }
    assert!(reported.notified().now_or_never().is_none());
    assert_eq!(keep.scan(b"s").len(), 1);
    keep.fails.store(false, Ordering::Relaxed);
    assert_eq!(outbox.next(clock()), None);
    reported.notified().await;
    assert_eq!(keep.scan(b"s"), []);
}
