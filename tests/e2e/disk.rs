//! A disk that is full and then is not; a disk that fails.

use std::time::Duration;

use weir_tests::wait::until;
use weir_tests::{BatchId, Harvest, OtlpSink, Protocol, Sender, Shape, Verdict, Weir};

use crate::load::{Book, door};
use crate::run::{DELIVERY_DEADLINE, deadline};
use crate::volume::{Volume, may_mount};

const SHAPE: Shape = Shape { spans: 200, attributes: 4, value_bytes: 100 };

/// Far more than fits.
const BATCHES_MAX: u64 = 5_000;

/// Which `fdatasync` fails, each in a process of its own.
const SYNCS_THAT_FAIL: [u64; 5] = [1, 3, 6, 10, 15];

/// How soon senders are let in again when there is room.
const ACCEPTS_AGAIN: Duration = Duration::from_secs(10);

/// Scenario: the disk is smaller than the budget; the backend is away until the disk is full, then comes back.
/// Guarantees: senders of each protocol are told to come again; the daemon lives, settles, and takes again; nothing
/// acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_refuses_for_now_and_takes_again() {
    if !may_mount("a_full_disk_refuses_for_now_and_takes_again") {
        return;
    }
    let volume = Volume::memory(48);
    let (sink, weir) = start(&format!("data_dir: {}", volume.path().join("data").display())).await;
    for part in ["disk full", "backend refuses for now", "segment not written any more", "not written"] {
        weir.log().announce(part);
    }
    sink.down().await;
    let book = Book::default();
    let mut sender = Sender::new(Protocol::OtlpGrpc, weir.address("otlp"));
    let mut number = 0;
    while book.later() == 0 {
        assert!(number < BATCHES_MAX, "the disk is never full");
        send(&mut sender, 1, number, &book).await;
        number += 1;
    }
    let acknowledged = book.ledger.batches();
    for (protocol, who) in Protocol::ALL.into_iter().zip(2..) {
        let mut other = Sender::new(protocol, weir.address(door(protocol)));
        let verdict = send(&mut other, who, 0, &book).await;
        assert!(matches!(verdict, Verdict::Later(_) | Verdict::Taken), "{protocol:?}: {verdict:?}");
    }
    sink.up().await;
    let taken = until(deadline(ACCEPTS_AGAIN), async || {
        number += 1;
        (send(&mut sender, 1, number, &book).await == Verdict::Taken).then_some(())
    });
    assert!(taken.await.is_some(), "nobody is let in again:\n{}", weir.log().tail());
    weir.metric_becomes(DELIVERY_DEADLINE, crate::run::PENDING, &[], 0.0).await;
    harvest(&sink).assert_keeps(&book.ledger);
    book.assert_no_permanent_refusal();
    eprintln!("full disk: full after {acknowledged} batches; {} refusals", book.later());
    weir.stop().await;
}

/// Scenario: one `fdatasync` fails, now this one, now that: while a segment is begun, while batches are written.
/// Guarantees: whoever waited for it has no acknowledgement; the queue goes on by itself; it is counted; nothing
/// acknowledged is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_is_no_acknowledgement() {
    let (sink, mut weir) = start("").await;
    let book = Book::default();
    for part in ["faults are switched on", "segment not written any more", "not begun"] {
        weir.log().announce(part);
    }
    let mut counted = 0.0;
    for (nth, who) in SYNCS_THAT_FAIL.into_iter().zip(1..) {
        weir.environment("WEIR_TEST_FAULTS", &format!("sync_once={nth}"));
        weir.terminate().await;
        weir.restart().await;
        let mut sender = Sender::new(Protocol::OtlpGrpc, weir.address("otlp"));
        let mut refused = 0;
        for number in 0..20 {
            refused += u32::from(send(&mut sender, who, number, &book).await != Verdict::Taken);
        }
        let failures = weir.metrics().await.value("weir_queue_sync_failures_total", &[]);
        eprintln!("disk: sync {nth} fails: {refused} batches refused, {failures:?} failures counted");
        assert!(refused <= 1, "one failure refuses {refused} batches");
        counted += failures.expect("it is counted");
    }
    assert!(counted > 0.0, "no fault was met");
    weir.metric_becomes(DELIVERY_DEADLINE, crate::run::PENDING, &[], 0.0).await;
    harvest(&sink).assert_keeps(&book.ledger);
    book.assert_no_permanent_refusal();
    weir.stop().await;
}

/// Scenario: from the third on every `fdatasync` fails.
/// Guarantees: nobody gets a false acknowledgement, refusals are transient, health says that the queue is degraded; after a
/// start with a sound disk nothing acknowledged is missing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_fails_for_good_is_shown() {
    let (sink, mut weir) = start("").await;
    let book = Book::default();
    for part in [
        "faults are switched on",
        "segment not written any more",
        "queue stops accepting",
        "not closed cleanly",
        "not written",
        "the drain was cut",
    ] {
        weir.log().announce(part);
    }
    weir.environment("WEIR_TEST_FAULTS", "sync_from=3");
    weir.terminate().await;
    weir.restart().await;
    let mut sender = Sender::new(Protocol::OtlpHttp, weir.address("otlp-http"));
    for number in 0..20 {
        let verdict = send(&mut sender, 1, number, &book).await;
        assert!(!matches!(verdict, Verdict::Never(_) | Verdict::Silence(_)), "{verdict:?}");
    }
    assert!(book.ledger.batches() < 20, "a disk that fails has kept everything");
    assert!(book.later() > 10, "{} refusals", book.later());
    let (_, health) = weir.health().await;
    assert_eq!(health["status"], "degraded", "{health}");
    assert_eq!(weir.metrics().await.value("weir_queue_degraded", &[]), Some(1.0));
    weir.environment("WEIR_TEST_FAULTS", "");
    weir.kill().await;
    weir.restart().await;
    let verdict = send(&mut sender, 1, 100, &book).await;
    assert_eq!(verdict, Verdict::Taken);
    weir.metric_becomes(DELIVERY_DEADLINE, crate::run::PENDING, &[], 0.0).await;
    harvest(&sink).assert_keeps(&book.ledger);
    weir.stop().await;
}

async fn start(service: &str) -> (OtlpSink, Weir) {
    let sink = OtlpSink::start().await;
    let config = format!(
        "{}exporters:
  otlp: {{endpoint: 'http://<sink>', retry: {{initial_interval: 10ms, max_interval: 100ms}}}}
service:
  {service}
  queue: {{segment_mib: 8}}
  pipelines:
    traces: {{receivers: [opencensus, otlp, zipkin], exporters: [otlp]}}
",
        crate::load::DOORS,
    );
    let weir = Weir::start(&config, &[("sink", sink.address())]).await;
    (sink, weir)
}

async fn send(sender: &mut Sender, who: u32, number: u64, book: &Book) -> Verdict {
    let id = BatchId { sender: who, number };
    let verdict = sender.send(id, SHAPE).await;
    book.note(id, SHAPE, verdict.clone());
    verdict
}

fn harvest(sink: &OtlpSink) -> Harvest {
    let mut harvest = Harvest::default();
    sink.drain().iter().filter(|arrival| arrival.taken).for_each(|arrival| harvest.add(&arrival.body));
    harvest
}
