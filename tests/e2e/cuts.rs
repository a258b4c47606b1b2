//! Power cuts at random moments, on one file system, under load from four protocols.

use std::time::{Duration, Instant};

use weir_tests::{Harvest, OtlpSink, Protocol, Shape, Weir};

use crate::load::{Book, DOORS, Load, Worker, crew};
use crate::run::{DELIVERY_DEADLINE, alone, deadline, figure, random};
use crate::volume::{Volume, may_mount};

/// Cuts until the negative control must have lost something.
const CONTROL_CUTS_MAX: usize = 20;

/// How soon it must be ready again, after a repair.
const READY: Duration = Duration::from_secs(3);

/// Room for the batches of a hundred cuts, not for a full budget.
const VOLUME_MIB: u64 = 512;

const SHAPE: Shape = Shape { spans: 4, attributes: 3, value_bytes: 16 };

/// Scenario: four protocols send; at a random moment the power goes; it comes back, on the same file system, again
/// and again.
/// Guarantees: nothing that was acknowledged before the cut is missing or altered at the backend.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_loses_nothing_that_was_acknowledged() {
    if !may_mount("a_power_cut_loses_nothing_that_was_acknowledged") {
        return;
    }
    let _alone = alone().await;
    let mut random = random("cuts");
    let cuts: usize = figure("WEIR_CUTS", 10);
    let mut story = Story::begin().await;
    for _ in 0..cuts {
        story.cycle(&mut random).await;
    }
    story.finish().await;
    story.harvest.assert_keeps(&story.book.ledger);
    story.book.assert_no_permanent_refusal();
    let slowest = story.starts.iter().max().copied().unwrap_or_default();
    eprintln!(
        "cuts: {cuts} cuts, {} batches acknowledged, {} spans came, {} again; ready after at most {slowest:?}",
        story.book.ledger.batches(),
        story.harvest.spans(),
        story.harvest.repeated(),
    );
    assert!(slowest < deadline(READY), "ready only after {slowest:?}");
    let Story { weir, volume, .. } = story;
    weir.stop().await;
    drop(volume);
}

/// Scenario: the same with a daemon that does not call `fdatasync`.
/// Guarantees: the check above sees the loss: a suite that cannot be red proves nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_cut_is_seen_to_lose_what_is_not_synced() {
    if !may_mount("a_power_cut_is_seen_to_lose_what_is_not_synced") {
        return;
    }
    let _alone = alone().await;
    let mut random = random("cuts, negative control");
    let mut story = Story::begin().await;
    story.weir.log().announce("");
    story.weir.environment("WEIR_TEST_FAULTS", "skip_fdatasync");
    for cut in 1..=CONTROL_CUTS_MAX {
        // Before the first cut the daemon is honest; its successors have the fault.
        story.cycle(&mut random).await;
        story.finish().await;
        let missing = story.harvest.missing(&story.book.ledger).len();
        if missing > 0 {
            eprintln!("cuts, negative control: {missing} acknowledged batches lost after {cut} cuts");
            return;
        }
    }
    panic!("{CONTROL_CUTS_MAX} cuts under a daemon that does not sync, and no loss was seen");
}

// The daemon goes before its file system.
struct Story {
    weir: Weir,
    sink: OtlpSink,
    crew: Vec<Worker>,
    book: Book,
    harvest: Harvest,
    starts: Vec<Duration>,
    volume: Volume,
}

impl Story {
    async fn begin() -> Self {
        let volume = Volume::ext4(VOLUME_MIB);
        let sink = OtlpSink::start().await;
        let config = format!(
            "{DOORS}exporters:
  otlp: {{endpoint: 'http://<sink>', retry: {{initial_interval: 10ms, max_interval: 100ms}}}}
service:
  data_dir: {}
  queue: {{budget_mib: 256, segment_mib: 16}}
  pipelines:
    traces: {{receivers: [opencensus, otlp, zipkin], exporters: [otlp]}}
",
            volume.path().join("data").display(),
        );
        let weir = Weir::start(&config, &[("sink", sink.address())]).await;
        let crew = crew(&weir, &Protocol::ALL, 2);
        let (book, harvest) = (Book::default(), Harvest::default());
        Self { weir, sink, crew, book, harvest, starts: Vec::new(), volume }
    }

    async fn cycle(&mut self, random: &mut fastrand::Rng) {
        // Half of the cuts find a backlog, half an exporter at work on what has just come.
        let backend_is_away = random.bool();
        if backend_is_away {
            self.sink.down().await;
            self.weir.log().announce("backend refuses for now");
        }
        let load = Load::start(std::mem::take(&mut self.crew), SHAPE, None, &self.book);
        self.book.reaches(self.book.ledger.batches() + random.usize(20..300)).await;
        // An answer that races with the cut is no promise that the disk could keep: first the book, then the power.
        self.book.freeze();
        self.announce_the_cut();
        self.volume.cut();
        self.weir.kill().await;
        self.crew = load.stop().await;
        self.volume.restore().await;
        self.book.thaw();
        if backend_is_away {
            self.sink.up().await;
        }
        let began = Instant::now();
        self.weir.restart().await;
        self.starts.push(began.elapsed());
        self.gather();
    }

    /// Between the cut and its end the daemon may see that its disk is gone, and says so.
    fn announce_the_cut(&self) {
        for part in ["Input/output error", "EIO", "not written", "not deleted", "stops accepting"] {
            self.weir.log().announce(part);
        }
    }

    fn gather(&mut self) {
        for arrival in self.sink.drain().iter().filter(|arrival| arrival.taken) {
            self.harvest.add(&arrival.body);
        }
    }

    async fn finish(&mut self) {
        let load = Load::start(std::mem::take(&mut self.crew), SHAPE, None, &self.book);
        self.book.reaches(self.book.ledger.batches() + 1).await;
        self.crew = load.stop().await;
        self.weir.metric_becomes(DELIVERY_DEADLINE, crate::run::PENDING, &[], 0.0).await;
        self.gather();
    }
}
