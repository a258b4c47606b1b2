//! Folders of agents that are wiped, restored from an older copy, doubled.

use std::fs;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use weir_tests::wait::until;
use weir_tests::{Weather, Weir};

use super::pair::{Between, Collector, IDENTITY, Pair, agent, copy_folder, drained, hand_in};
use crate::load::Book;
use crate::run::deadline;

/// How soon something shows in the fleet.
const SHOWN: Duration = Duration::from_secs(10);

/// What an agent says whose numbering was used before by another copy of its folder.
const NEW_NUMBERING: [&str; 2] = ["WARN", "went on as a new incarnation"];

/// What a collector says that turns an agent away.
const UNWELCOME: &str = "agent not welcomed";

/// What an agent says in whose place a newer life of it is.
const FENCED: [&str; 2] = ["no stream to the collector", "newer"];

/// Scenario: an agent's folder is deleted, with records in it that had not been handed over; it starts again under its name.
/// Guarantees: its new records are no repetition of the old ones, whatever their places are; all that was handed over is there once,
/// the rest lies where it was deleted; the fleet shows one agent under this name, in another life.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_agent_goes_on_under_its_name() {
    let mut pair = Pair::start(Between::Link).await;
    let (book, aside) = (Book::default(), TempDir::new().expect("a folder"));
    hand_in(&pair.agent, 0..20, &book).await;
    drained(&pair.agent).await;
    let before = only(&pair.collector.fleet().await);
    pair.proxy.set(Weather { silent: true, ..Weather::default() });
    hand_in(&pair.agent, 20..30, &book).await;
    pair.agent.terminate().await;
    let wiped = aside.path().join("wiped");
    fs::rename(pair.agent.data_dir(), &wiped).expect("both lie on one file system");
    pair.proxy.heal();
    pair.agent.restart().await;
    hand_in(&pair.agent, 30..60, &book).await;
    drained(&pair.agent).await;
    let after = only(&pair.collector.fleet().await);
    assert_eq!((&after["identity"], &after["state"]), (&IDENTITY.into(), &"live".into()), "{after}");
    assert_ne!(after["incarnation"], before["incarnation"], "another folder is another life");
    pair.settle().await;
    let mut kept = pair.collector.kept();
    kept.assert_exactly_once();
    assert_eq!(kept.numberings().len(), 2, "{:?}", kept.numberings());
    Collector::add_to(&mut kept, &wiped);
    kept.harvest.assert_keeps(&book.ledger);
}

/// Scenario: an agent goes on after its folder was copied, and then the copy is put in its place.
/// Guarantees: its places, given out again, do not hide a record: the collector asks for a new numbering, the agent's log and the
/// fleet say so, and everything is there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_agent_loses_and_repeats_nothing() {
    let mut story = Restored::begin(20).await;
    story.pair.agent.restart().await;
    hand_in(&story.pair.agent, 60..80, &story.book).await;
    story.end().await;
}

/// Scenario: the same, but the restored agent is alone at first, and its places go beyond all that the collector knows before it
/// finds it again.
/// Guarantees: as above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_agent_that_went_on_alone_loses_and_repeats_nothing() {
    let mut story = Restored::begin(20).await;
    story.pair.proxy.set(Weather { silent: true, ..Weather::default() });
    story.pair.agent.restart().await;
    hand_in(&story.pair.agent, 60..140, &story.book).await;
    story.pair.proxy.heal();
    story.end().await;
}

/// Scenario: the same, and it was started several times while it was alone, so that it has more starts behind it than the collector
/// knows; it got beyond the known places before the last.
/// Guarantees: as above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restored_agent_that_was_started_often_loses_and_repeats_nothing() {
    let mut story = Restored::begin(20).await;
    story.pair.proxy.set(Weather { silent: true, ..Weather::default() });
    for numbers in [60..140, 140..145, 145..150] {
        story.pair.agent.restart().await;
        hand_in(&story.pair.agent, numbers, &story.book).await;
        story.pair.agent.terminate().await;
    }
    story.pair.proxy.heal();
    story.pair.agent.restart().await;
    story.end().await;
}

/// An agent that goes on after its folder was copied; the copy then lies in its place, and it has stopped.
struct Restored {
    pair: Pair,
    book: Book,
}

impl Restored {
    async fn begin(before: u64) -> Self {
        let mut pair = Pair::start(Between::Link).await;
        let (book, aside) = (Book::default(), TempDir::new().expect("a folder"));
        let copy = aside.path().join("copy");
        hand_in(&pair.agent, 0..before, &book).await;
        drained(&pair.agent).await;
        pair.agent.terminate().await;
        copy_folder(&pair.agent.data_dir(), &copy);
        pair.agent.restart().await;
        hand_in(&pair.agent, before..60, &book).await;
        drained(&pair.agent).await;
        pair.agent.terminate().await;
        fs::remove_dir_all(pair.agent.data_dir()).expect("the folder is ours");
        copy_folder(&copy, &pair.agent.data_dir());
        pair.agent.log().announce(NEW_NUMBERING[1]);
        pair.collector.weir.log().announce(UNWELCOME);
        Self { pair, book }
    }

    async fn end(mut self) {
        drained(&self.pair.agent).await;
        let row = only(&self.pair.collector.fleet().await);
        assert_eq!(row["state"], "live", "{row}");
        self.pair.settle().await;
        let kept = self.pair.collector.kept();
        kept.harvest.assert_keeps(&self.book.ledger);
        kept.assert_exactly_once();
        assert_eq!(kept.harvest.repeated(), 0, "what had been handed over before the copy came again");
        assert!(kept.numberings().len() >= 2, "{:?}", kept.numberings());
        let agent = self.pair.agent.log();
        assert!(agent.find(&NEW_NUMBERING).is_some(), "the agent does not say so:\n{}", agent.tail());
        let collector = self.pair.collector.weir.log();
        assert!(collector.find(&[UNWELCOME, IDENTITY, "NEW_INCARNATION"]).is_some(), "{}", collector.tail());
    }
}

/// Scenario: an agent's folder is copied, and both run at once under one name.
/// Guarantees: the collector tells them apart and has one stream of this name; both logs and the fleet say that; whatever either
/// has acknowledged stands in the collector's log once, or still lies in its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_of_one_name_are_told_apart() {
    let mut pair = Pair::start(Between::Link).await;
    let (book, aside) = (Book::default(), TempDir::new().expect("a folder"));
    let copy = aside.path().join("copy");
    hand_in(&pair.agent, 0..20, &book).await;
    drained(&pair.agent).await;
    pair.agent.terminate().await;
    copy_folder(&pair.agent.data_dir(), &copy);
    pair.agent.log().announce(NEW_NUMBERING[1]);
    pair.collector.weir.log().announce(UNWELCOME);
    pair.agent.restart().await;
    hand_in(&pair.agent, 20..30, &book).await;
    drained(&pair.agent).await;
    let mut twin = agent(Between::Link, pair.proxy.address(), IDENTITY, Some(&copy)).await;
    twin.log().announce(NEW_NUMBERING[1]);
    hand_in(&twin, 30..60, &book).await;
    hand_in(&pair.agent, 60..90, &book).await;
    let told = until(deadline(SHOWN), async || {
        let says = |weir: &Weir, words: &[&str]| weir.log().find(words).is_some();
        (says(&twin, &NEW_NUMBERING) && says(&pair.agent, &FENCED)).then_some(())
    });
    assert!(told.await.is_some(), "{}\n{}", twin.log().tail(), pair.agent.log().tail());
    drained(&twin).await;
    let row = only(&pair.collector.fleet().await);
    assert_eq!((&row["identity"], &row["state"]), (&IDENTITY.into(), &"live".into()), "{row}");
    twin.terminate().await;
    pair.agent.terminate().await;
    pair.collector.weir.terminate().await;
    let mut kept = pair.collector.kept();
    kept.assert_exactly_once();
    // What the agent could not hand over beside its twin lies in its own log still.
    Collector::add_to(&mut kept, &pair.agent.data_dir());
    Collector::add_to(&mut kept, &copy);
    kept.harvest.assert_keeps(&book.ledger);
}

/// The one agent that there is.
#[track_caller]
fn only(fleet: &[Value]) -> Value {
    assert_eq!(fleet.len(), 1, "one agent: {fleet:?}");
    fleet[0].clone()
}
