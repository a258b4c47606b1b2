//! Folders of collectors that are wiped, or restored from an older copy.

use std::fs;

use tempfile::TempDir;
use weir_tests::Weather;

use super::pair::{Between, Collector, IDENTITY, Pair, copy_folder, drained, hand_in};
use crate::load::Book;

/// Scenario: a collector comes back with an empty folder, while the agent has records that were acknowledged and others that were
/// not.
/// Guarantees: what was not acknowledged reaches the new store, once; agent and collector say how much another store has
/// acknowledged; that is in the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_with_a_new_store_says_what_the_old_one_had() {
    let mut pair = Pair::start(Between::Link).await;
    let (book, aside) = (Book::default(), TempDir::new().expect("a folder"));
    hand_in(&pair.agent, 0..30, &book).await;
    drained(&pair.agent).await;
    pair.proxy.set(Weather { silent: true, ..Weather::default() });
    hand_in(&pair.agent, 30..50, &book).await;
    pair.collector.weir.terminate().await;
    let old = aside.path().join("old");
    fs::rename(pair.collector.weir.data_dir(), &old).expect("both lie on one file system");
    pair.agent.log().announce("another store");
    pair.collector.weir.log().announce("another store");
    pair.collector.weir.restart().await;
    pair.proxy.heal();
    hand_in(&pair.agent, 50..60, &book).await;
    drained(&pair.agent).await;
    let agent = pair.agent.log();
    assert!(agent.find(&["WARN", "another store"]).is_some(), "{}", agent.tail());
    let collector = pair.collector.weir.log();
    assert!(collector.find(&[IDENTITY, "another store"]).is_some(), "{}", collector.tail());
    let fleet = pair.collector.fleet().await;
    let event = fleet[0]["event"].as_str().expect("words");
    assert!(event.contains("another store"), "{event}");
    pair.settle().await;
    let mut kept = pair.collector.kept();
    kept.assert_exactly_once();
    let new = kept.records();
    Collector::add_to(&mut kept, &old);
    kept.harvest.assert_keeps(&book.ledger);
    assert_eq!(
        (new, kept.harvest.repeated()),
        (30, 0),
        "only what was not acknowledged comes to the new store"
    );
}

/// Scenario: a collector comes back with an older copy of its folder.
/// Guarantees: nobody waits for what is gone: later records come in, once; the collector says at level ERROR that it had more, and
/// shows it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_with_an_older_store_says_what_is_gone() {
    let mut pair = Pair::start(Between::Link).await;
    let (book, aside) = (Book::default(), TempDir::new().expect("a folder"));
    let copy = aside.path().join("copy");
    let old = aside.path().join("old");
    hand_in(&pair.agent, 0..20, &book).await;
    drained(&pair.agent).await;
    pair.collector.weir.terminate().await;
    copy_folder(&pair.collector.weir.data_dir(), &copy);
    pair.collector.weir.restart().await;
    hand_in(&pair.agent, 20..50, &book).await;
    drained(&pair.agent).await;
    pair.collector.weir.terminate().await;
    fs::rename(pair.collector.weir.data_dir(), &old).expect("both lie on one file system");
    copy_folder(&copy, &pair.collector.weir.data_dir());
    pair.collector.weir.log().announce("are lost here");
    pair.collector.weir.restart().await;
    hand_in(&pair.agent, 50..60, &book).await;
    drained(&pair.agent).await;
    let collector = pair.collector.weir.log();
    assert!(collector.find(&["ERROR", IDENTITY, "are lost here"]).is_some(), "{}", collector.tail());
    let fleet = pair.collector.fleet().await;
    let event = fleet[0]["event"].as_str().expect("words");
    assert!(event.contains("are lost here"), "{event}");
    pair.settle().await;
    let mut kept = pair.collector.kept();
    kept.assert_exactly_once();
    Collector::add_to(&mut kept, &old);
    kept.harvest.assert_keeps(&book.ledger);
}
