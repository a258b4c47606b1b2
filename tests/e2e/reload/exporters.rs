//! Exporters that come, go and are renamed while data flows, with queues on disk and in memory.

use std::time::Duration;

use rustix::process::Signal;
use weir_tests::{Answer, Harvest, Ledger, OtlpSink, Weir, wait_until};

use super::{Faithful, RELOADED, SHAPE, THREE, arrives, becomes, count, gather, tell, worker};
use crate::load::{Book, Load};
use crate::run::{DELIVERY_DEADLINE, deadline};

/// Items lost because their exporter was taken out of the configuration.
const REMOVED: &str = "weir_queue_removed_items_total";

/// What the second exporter is called, with its backend.
const OF_B: &str = "otlp/b: {endpoint: 'http://<sink-b>'";

/// The three pipelines with their queues in memory and this much time to drain.
fn in_memory(drain_timeout: &str) -> String {
    THREE.replace(
        "drain_timeout: 5s",
        &format!("drain_timeout: {drain_timeout}\n  queue: {{storage: memory}}"),
    )
}

/// The second exporter under another name, at another backend.
fn renamed(config: &str) -> String {
    let named = config.replace(OF_B, "otlp/d: {endpoint: 'http://<sink-d>'");
    named.replace("exporters: [otlp/b]", "exporters: [otlp/d]")
}

/// A daemon whose second pipeline has a backend of its own, and another one to come.
async fn with_backends(config: &str, b: &OtlpSink, d: &OtlpSink, rest: &OtlpSink) -> Weir {
    let known = [("sink-a", rest), ("sink-b", b), ("sink-c", rest), ("sink-d", d)];
    let weir = Weir::start(config, &known.map(|(name, sink)| (name, sink.address()))).await;
    for part in ["acknowledges from memory", "backend refuses for now"] {
        weir.log().announce(part);
    }
    weir
}

/// Scenario: with the queue in memory an exporter with a backlog is renamed under load, and its backend takes again only
/// after that.
/// Guarantees: it delivers what was acknowledged before, and what comes meanwhile is the other's alone, so that it comes
/// to an end; nothing is lost, nothing counted as lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_exporter_delivers_what_memory_owes_it() {
    let (b, d, rest) = (OtlpSink::start().await, OtlpSink::start().await, OtlpSink::start().await);
    let config = in_memory("60s");
    let mut weir = with_backends(&config, &b, &d, &rest).await;
    b.answer(|_| Answer::Later { retry_after: None });
    let (before, after) = (Book::default(), Book::default());
    let load = Load::start(vec![worker(2, weir.address("b"), 0)], SHAPE, None, &before);
    before.reaches(50).await;
    load.stop().await;
    let load = Load::start(vec![worker(3, weir.address("b"), 0)], SHAPE, None, &after);
    after.reaches(10).await;
    weir.reconfigure(&renamed(&config));
    tell(&weir, Signal::HUP);
    wait_until(deadline(RELOADED), "the new one has begun", || (!d.arrivals().is_empty()).then_some(()))
        .await;
    after.reaches(after.ledger.batches() + 20).await;
    assert_eq!(count(&weir, "configuration reloaded"), 0, "the old one is waited for");
    b.answer(|_| Answer::Take);
    wait_until(deadline(RELOADED), "the reload is done under load", || {
        weir.log().find(&["configuration reloaded"])
    })
    .await;
    load.stop().await;
    let mut harvest = Harvest::default();
    arrives(&b, &mut harvest, &before.ledger).await;
    arrives(&d, &mut harvest, &after.ledger).await;
    assert_eq!(weir.metrics().await.value(REMOVED, &[]), Some(0.0));
    weir.stop().await;
}

/// Scenario: the same, and its backend never takes.
/// Guarantees: it is waited for until the drain's time is over; then log and metrics say how many items are lost, and
/// whose.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_with_an_exporter_in_memory_is_told() {
    let (b, d, rest) = (OtlpSink::start().await, OtlpSink::start().await, OtlpSink::start().await);
    let config = in_memory("1s");
    let mut weir = with_backends(&config, &b, &d, &rest).await;
    weir.log().announce("exporter removed with items in memory");
    b.answer(|_| Answer::Later { retry_after: None });
    let book = Book::default();
    let load = Load::start(vec![worker(2, weir.address("b"), 0)], SHAPE, None, &book);
    book.reaches(20).await;
    load.stop().await;
    becomes(&mut weir, &renamed(&config), true).await;
    let lost = format!("items={}", book.ledger.spans());
    let told = weir.log().find(&["exporter removed with items in memory", "traces/b", "otlp/b", &lost]);
    assert!(told.is_some(), "no {lost}:\n{}", weir.log().tail());
    let counted = weir.metrics().await.value(REMOVED, &[("pipeline", "traces/b")]);
    assert_eq!(counted, Some(book.ledger.spans() as f64));
    weir.stop().await;
}

/// Scenario: with the queue in memory a reload waits for a push that hangs at the old endpoint, and for a removed
/// exporter whose backend is slow to come back; SIGTERM.
/// Guarantees: the changed exporter goes on at its new endpoint, the removed one to its end, and the end is clean.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_in_the_middle_of_a_reload_loses_nothing_in_memory() {
    let (b, d, rest) = (OtlpSink::start().await, OtlpSink::start().await, OtlpSink::start().await);
    let config = in_memory("30s").replace("<sink-a>", "<sink-e>");
    let e = OtlpSink::start().await;
    let known = [("sink-b", &b), ("sink-c", &rest), ("sink-d", &d), ("sink-e", &e)];
    let mut weir = Weir::start(&config, &known.map(|(name, sink)| (name, sink.address()))).await;
    for part in ["acknowledges from memory", "backend refuses for now"] {
        weir.log().announce(part);
    }
    e.answer(|_| Answer::After(Duration::from_secs(3600), Box::new(Answer::Take)));
    b.answer(|_| Answer::Later { retry_after: None });
    let (changed, removed) = (Book::default(), Book::default());
    let crew = [(1, "a", &changed), (2, "b", &removed)];
    for (sender, door, book) in crew {
        let load = Load::start(vec![worker(sender, weir.address(door), 0)], SHAPE, None, book);
        book.reaches(20).await;
        load.stop().await;
    }
    weir.metric_becomes(deadline(RELOADED), "weir_exporter_in_flight", &[("pipeline", "traces/a")], 1.0)
        .await;
    let new = renamed(&config).replace("<sink-e>", "<sink-c>").replace(
        "    traces/c:",
        "    traces/new: {receivers: [otlp/c], exporters: [otlp/c]}\n    traces/c:",
    );
    weir.reconfigure(&new);
    tell(&weir, Signal::HUP);
    wait_until(deadline(RELOADED), "the reload is under way", || {
        weir.log().find(&["pipeline ready", "traces/new"])
    })
    .await;
    let ending = async {
        let status = weir.terminate().await;
        assert_eq!(status.code(), Some(0), "{}", weir.log().tail());
    };
    let mending = async {
        arrives(&rest, &mut Harvest::default(), &changed.ledger).await;
        b.answer(|_| Answer::Take);
    };
    tokio::join!(ending, mending);
    assert!(weir.log().find(&["drained cleanly"]).is_some(), "{}", weir.log().tail());
    assert!(weir.log().find(&["configuration reloaded"]).is_none(), "it was in the middle");
    arrives(&b, &mut Harvest::default(), &removed.ledger).await;
}

/// Scenario: on disk an exporter is added beside another one under load, and taken out again.
/// Guarantees: what is acknowledged while both are configured is at both, all of it at the one that stays, and nothing
/// that was sent later at the one that went; no connection is cut.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exporter_comes_and_goes_beside_another() {
    let (b, d, rest) = (OtlpSink::start().await, OtlpSink::start().await, OtlpSink::start().await);
    let mut weir = with_backends(THREE, &b, &d, &rest).await;
    weir.log().announce("exporter not configured any more");
    let (always, both, later) = (Ledger::default(), Ledger::default(), Ledger::default());
    let address = weir.address("b");
    let load = Faithful::start(&[(address, 1, always.clone())]);
    load.go_on(&[&always]).await;
    let added = THREE.replace(OF_B, &format!("otlp/d: {{endpoint: 'http://<sink-d>'}}\n  {OF_B}"));
    let added = added.replace("exporters: [otlp/b]", "exporters: [otlp/b, otlp/d]");
    becomes(&mut weir, &added, true).await;
    let beside = Faithful::start(&[(address, 2, both.clone())]);
    beside.go_on(&[&both, &always]).await;
    beside.stop().await;
    let mut at_d = Harvest::default();
    arrives(&d, &mut at_d, &both).await;

    becomes(&mut weir, THREE, true).await;
    let after = Faithful::start(&[(address, 3, later.clone())]);
    after.go_on(&[&later, &always]).await;
    after.stop().await;
    load.stop().await;
    let mut at_b = Harvest::default();
    wait_until(DELIVERY_DEADLINE, "all of it is at the one that stayed", || {
        gather(&b, &mut at_b);
        [&always, &both, &later].iter().all(|book| at_b.missing(book).is_empty()).then_some(())
    })
    .await;
    gather(&d, &mut at_d);
    assert_eq!(at_d.missing(&later).len(), later.batches(), "nothing more came to the one that went");
    assert_eq!((at_b.repeated(), at_d.repeated()), (0, 0));
    weir.stop().await;
}
