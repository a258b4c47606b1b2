//! `kill -9` at random moments, on one data folder, under load from four protocols.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use weir_tests::{Answer, Harvest, OtlpSink, Protocol, Shape, Weir};

use crate::load::{Book, DOORS, Load, Worker, crew};
use crate::run::{DELIVERY_DEADLINE, alone, deadline, figure, random};

/// Kills until the negative control must have lost something.
const CONTROL_CYCLES_MAX: usize = 20;

/// How soon it must be ready again.
const READY: Duration = Duration::from_secs(1);

/// Connections of each protocol: several batches share an append round, and a round is under way at most moments.
const SENDERS_EACH: u32 = 4;

const SHAPE: Shape = Shape { spans: 4, attributes: 3, value_bytes: 16 };

const EXPORT: &str = "exporters:
  otlp: {endpoint: 'http://<sink>', retry: {initial_interval: 10ms, max_interval: 100ms}}
service:
  pipelines:
    traces: {receivers: [opencensus, otlp, zipkin], exporters: [otlp]}
";

/// Scenario: four protocols send, the backend refuses now and then; the daemon is killed at a random moment, sometimes
/// again while it starts; all on one data folder.
/// Guarantees: nothing acknowledged is missing or altered at the backend, it is ready again in time, and a fresh batch
/// passes at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_loses_nothing_that_was_acknowledged() {
    let _alone = alone().await;
    let mut random = random("kill");
    let cycles: usize = figure("WEIR_CYCLES", 40);
    let batches: usize = figure("WEIR_BATCHES", if cfg!(debug_assertions) { 400 } else { 1000 });
    let mut story = Story::begin().await;
    for _ in 0..cycles {
        story.cycle(batches, &mut random).await;
    }
    story.finish().await;
    story.harvest.assert_keeps(&story.book.ledger);
    story.book.assert_no_permanent_refusal();
    let slowest = story.starts.iter().max().copied().unwrap_or_default();
    eprintln!(
        "kill: {cycles} kills, {} batches acknowledged, {} spans came, {} again, {} refusals; ready after at most {slowest:?}",
        story.book.ledger.batches(),
        story.harvest.spans(),
        story.harvest.repeated(),
        story.book.later(),
    );
    assert!(slowest < deadline(READY), "ready only after {slowest:?}");
    story.weir.stop().await;
}

/// Scenario: the same with a daemon that answers before its commit.
/// Guarantees: the check above sees the loss: a suite that cannot be red proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_is_seen_to_lose_what_is_answered_before_the_commit() {
    let _alone = alone().await;
    let mut random = random("kill, negative control");
    let mut story = Story::begin().await;
    story.weir.log().announce("");
    story.weir.environment("WEIR_TEST_FAULTS", "answer_before_commit");
    for cycle in 1..=CONTROL_CYCLES_MAX {
        // The first round is the honest daemon's; its successor has the fault.
        story.cycle(50, &mut random).await;
        story.finish().await;
        let missing = story.harvest.missing(&story.book.ledger).len();
        if missing > 0 {
            eprintln!("kill, negative control: {missing} acknowledged batches lost after {cycle} kills");
            return;
        }
    }
    panic!("{CONTROL_CYCLES_MAX} kills of a daemon that lies about its commits, and no loss was seen");
}

struct Story {
    weir: Weir,
    sink: OtlpSink,
    crew: Vec<Worker>,
    book: Book,
    harvest: Harvest,
    starts: Vec<Duration>,
}

impl Story {
    async fn begin() -> Self {
        let sink = OtlpSink::start().await;
        let requests = AtomicU64::new(0);
        sink.answer(move |_| match requests.fetch_add(1, Ordering::Relaxed) % 16 {
            15 => Answer::Later { retry_after: None },
            _ => Answer::Take,
        });
        let weir = Weir::start(&format!("{DOORS}{EXPORT}"), &[("sink", sink.address())]).await;
        weir.log().announce("backend refuses for now");
        let crew = crew(&weir, &Protocol::ALL, SENDERS_EACH);
        Self { weir, sink, crew, book: Book::default(), harvest: Harvest::default(), starts: Vec::new() }
    }

    /// Load until about so many batches more are acknowledged, a kill, a start.
    async fn cycle(&mut self, batches: usize, random: &mut fastrand::Rng) {
        let load = Load::start(std::mem::take(&mut self.crew), SHAPE, None, &self.book);
        let moment = batches + random.usize(..=batches / 4);
        self.book.reaches(self.book.ledger.batches() + moment).await;
        self.weir.kill().await;
        self.crew = load.stop().await;
        if random.u8(..4) == 0 {
            // Killed again somewhere in its recovery, or shortly after.
            let moment = Duration::from_micros(random.u64(..200_000));
            timeout(moment, self.weir.restart()).await.ok();
            self.weir.kill().await;
        }
        let began = Instant::now();
        self.weir.restart().await;
        self.starts.push(began.elapsed());
        self.gather();
    }

    fn gather(&mut self) {
        for arrival in self.sink.drain().iter().filter(|arrival| arrival.taken) {
            self.harvest.add(&arrival.body);
        }
    }

    /// Everything has reached the backend, a fresh batch too.
    async fn finish(&mut self) {
        let load = Load::start(std::mem::take(&mut self.crew), SHAPE, None, &self.book);
        self.book.reaches(self.book.ledger.batches() + 1).await;
        self.crew = load.stop().await;
        self.weir.metric_becomes(DELIVERY_DEADLINE, crate::run::PENDING, &[], 0.0).await;
        self.gather();
    }
}
