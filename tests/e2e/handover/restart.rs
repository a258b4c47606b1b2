//! Orderly restarts under load, again and again: an upgrade of a collector, of its agents.

use std::time::{Duration, Instant};

use weir_tests::wait::until;
use weir_tests::{Protocol, Shape};

use super::pair::{Between, Pair};
use crate::load::{Book, Load, crew};
use crate::record::{Line, record};
use crate::run::{DELIVERY_DEADLINE, alone, figure, random};

/// How often each sender sends.
const PACE: Duration = Duration::from_millis(40);

const SENDERS_EACH: u32 = 2;

const SHAPE: Shape = Shape { spans: 4, attributes: 3, value_bytes: 16 };

/// Scenario: under load the collector is stopped and started, again and again; every third time the agent too, beside it.
/// Guarantees: each time records pass again; nothing acknowledged is lost, nothing is there twice, and no sender of an agent that
/// runs is ever refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn restarts_under_load_lose_nothing_and_repeat_nothing() {
    let _alone = alone().await;
    let mut random = random("restarts");
    let (seed, restarts) = (random.get_seed(), figure("WEIR_RESTARTS", 6));
    let (mut pair, book) = (Pair::start(Between::Link).await, Book::default());
    let mut crew = crew(&pair.agent, &Protocol::ALL, SENDERS_EACH);
    let mut longest = Duration::ZERO;
    for restart in 1..=restarts {
        let load = Load::start(crew, SHAPE, Some(PACE), &book);
        book.reaches(book.ledger.batches() + random.usize(20..200)).await;
        pair.collector.weir.terminate().await;
        if restart % 3 == 0 {
            pair.agent.terminate().await;
            pair.agent.restart().await;
        }
        pair.collector.weir.restart().await;
        let (since, before) = (Instant::now(), pair.proxy.carried().bytes_up);
        // A sender whose connection broke with the agent has stopped, and without senders only heartbeats pass.
        let load = Load::start(load.stop().await, SHAPE, Some(PACE), &book);
        // A Hello is some hundred bytes; this is records.
        let passes =
            until(DELIVERY_DEADLINE, async || (pair.proxy.carried().bytes_up > before + 4_096).then_some(()));
        assert!(passes.await.is_some(), "nothing passes after a restart:\n{}", pair.agent.log().tail());
        longest = longest.max(since.elapsed());
        crew = load.stop().await;
    }
    pair.settle().await;
    let kept = pair.collector.kept();
    kept.harvest.assert_keeps(&book.ledger);
    kept.assert_exactly_once();
    book.assert_no_permanent_refusal();
    assert_eq!((kept.harvest.repeated(), book.later()), (0, 0));
    let figures = format!(
        "{} batches acknowledged, {} records kept, 0 missing, 0 twice; records pass {:.1} s after a start at the latest",
        book.ledger.batches(),
        kept.records(),
        longest.as_secs_f64(),
    );
    eprintln!("restarts: {restarts} restarts, {figures}");
    record(&Line { rows: "15", story: "restarts under load", cycles: restarts, figures, seed });
}
