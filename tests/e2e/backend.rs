//! The backend goes away, comes back slow, refuses one record, refuses sizes, refuses everybody.

use std::time::{Duration, Instant};

use prost::Message;
use serde_json::Value;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_tests::wait::until;
use weir_tests::{Answer, BatchId, Harvest, OtlpSink, Protocol, Sender, Shape, Verdict, Weir};

use crate::load::{Book, Load, Worker, crew};
use crate::memory::{MIB, Resident};
use crate::order::Order;
use crate::run::{DELIVERY_DEADLINE, alone, command, deadline, figure};

/// Nodes that send.
const NODES: u32 = 4;

const SHAPE: Shape = Shape { spans: 100, attributes: 4, value_bytes: 20 };

/// The node whose one batch no backend takes; it sends nothing else.
const BAD: BatchId = BatchId { sender: 900, number: 7 };
const BAD_SHAPE: Shape = Shape { spans: 3, attributes: 1, value_bytes: 5 };

/// Less than one record of [`SHAPE`], so that records themselves are halved.
const BODY_BYTES_MAX: usize = 12 * 1024;

/// By how much the resident set may grow through all of it.
const GROWTH_MAX: u64 = 32 * MIB;

/// How soon something shows on a page or in the log.
const SHOWN: Duration = Duration::from_secs(10);

/// How long a paused exporter waits before it tries by itself, with room for a slow machine.
const PROBE: Duration = Duration::from_secs(90);

const CONFIG: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: <otlp>}, http: {endpoint: <otlp-http>}}}
exporters:
  otlp/http: {endpoint: 'http://<sink>', protocol: http, retry: {initial_interval: 50ms, max_interval: 1s}}
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [otlp/http]}
";

/// Scenario: at a steady rate the backend is down, then slow, then answers 400 for one record, 413 above a size, 401.
/// Guarantees: no sender notices; memory stays flat; only the bad record is in the dead-letter log, with the backend's
/// reason; halves arrive; 401 pauses and is shown; order within a node is kept; nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backend_in_trouble_costs_nothing() {
    let _alone = alone().await;
    let mut story = Story::begin().await;
    story.is_down().await;
    story.is_slow().await;
    story.refuses_one_record().await;
    story.refuses_sizes().await;
    story.refuses_everybody().await;
    story.end().await;
}

struct Story {
    weir: Weir,
    sink: OtlpSink,
    book: Book,
    load: Option<Load>,
    pace: Duration,
    resident: Resident,
    /// The resident set at a steady rate and a healthy backend.
    before: u64,
    harvest: Harvest,
    order: Order,
}

impl Story {
    /// A healthy backend at a steady rate.
    async fn begin() -> Self {
        let rate: u64 = figure("WEIR_RATE", if cfg!(debug_assertions) { 4_000 } else { 20_000 });
        let pace =
            Duration::from_secs(1) * NODES * u32::from(SHAPE.spans) / u32::try_from(rate).expect("a rate");
        let sink = OtlpSink::start().await;
        let weir = Weir::start(CONFIG, &[("sink", sink.address())]).await;
        let book = Book::default();
        let load = Load::start(Self::nodes(&weir), SHAPE, Some(pace), &book);
        let resident = Resident::follow(weir.pid());
        let (harvest, order) = (Harvest::default(), Order::default());
        let mut story =
            Self { weir, sink, book, load: Some(load), pace, resident, before: 0, harvest, order };
        story.passes(Duration::from_secs(4)).await;
        story.before = story.resident.peak();
        eprintln!("backend: {rate} spans/s, {} MiB resident before", story.before / MIB);
        story
    }

    fn nodes(weir: &Weir) -> Vec<Worker> {
        crew(weir, &[Protocol::OtlpGrpc, Protocol::OtlpHttp], NODES / 2)
    }

    /// So much of the load passes.
    async fn passes(&mut self, time: Duration) {
        let beats = time.as_nanos() / self.pace.as_nanos() * u128::from(NODES);
        self.book
            .reaches(self.book.ledger.batches() + usize::try_from(beats).expect("a story is short"))
            .await;
        self.gather();
    }

    fn gather(&mut self) {
        for arrival in self.sink.drain().iter().filter(|arrival| arrival.taken) {
            self.harvest.add(&arrival.body);
            self.order.add(&arrival.body);
        }
    }

    /// Waits until the exporter has nothing left but what has just come.
    async fn catches_up(&mut self) {
        let few = 20.0 * f64::from(NODES);
        let caught_up = until(DELIVERY_DEADLINE, async || {
            let left = self.weir.metrics().await.value(crate::run::PENDING, &[])?;
            (left < few).then_some(())
        });
        assert!(caught_up.await.is_some(), "the exporter does not catch up");
        self.gather();
    }

    fn assert_flat(&self, phase: &str) {
        let now = self.resident.peak();
        eprintln!("backend: {} MiB resident at most while the backend {phase}", now / MIB);
        assert!(now <= self.before + GROWTH_MAX, "{} MiB, {} MiB before", now / MIB, self.before / MIB);
    }

    async fn is_down(&mut self) {
        let down: u64 = figure("WEIR_DOWN", 5);
        self.weir.log().announce("backend refuses for now");
        self.sink.down().await;
        let (began, spans) = (Instant::now(), self.book.ledger.spans());
        self.passes(Duration::from_secs(down)).await;
        let rate = (self.book.ledger.spans() - spans) as f64 / began.elapsed().as_secs_f64();
        eprintln!("backend: {rate:.0} spans/s acknowledged while it is down");
        self.sink.up().await;
        self.assert_flat("is down");
    }

    async fn is_slow(&mut self) {
        self.sink.answer(|_| Answer::After(Duration::from_millis(200), Box::new(Answer::Take)));
        self.passes(Duration::from_secs(3)).await;
        self.catches_up().await;
        self.assert_flat("is slow");
        eprintln!("backend: {} spans came again after the outage", self.harvest.repeated());
    }

    async fn refuses_one_record(&mut self) {
        let bad = BAD.span(BAD_SHAPE, 0).trace_id;
        self.sink.answer(move |arrival| match arrival.body.windows(bad.len()).any(|part| part == bad) {
            true => Answer::Never("span 3 offends me".to_owned()),
            false => Answer::Take,
        });
        self.weir.log().announce("record rejected, to the dead-letter log");
        let mut sender = Sender::new(Protocol::OtlpHttp, self.weir.address("otlp-http"));
        assert_eq!(sender.send(BAD, BAD_SHAPE).await, Verdict::Taken);
        self.weir.metric_becomes(deadline(SHOWN), "weir_queue_dead_letters", &[], 1.0).await;
        self.passes(Duration::from_secs(1)).await;
        self.catches_up().await;
        self.assert_flat("refuses one record");
        let letters = self.letters().await;
        assert_eq!(letters.len(), 1, "{letters:?}");
        assert!(
            letters[0]["reason"].as_str().expect("a reason").contains("span 3 offends me"),
            "{letters:?}"
        );
        assert_eq!((&letters[0]["items"], &letters[0]["exporter"]), (&3.into(), &"otlp/http".into()));
    }

    async fn letters(&self) -> Vec<Value> {
        let config = self.weir.config_path();
        let arguments =
            ["queue", "--json", "--config", config.to_str().expect("a path of ours"), "ls", "traces"];
        let listed = command(self.weir.binary(), &arguments).await.well().json();
        listed["dead_letters"].as_array().expect("a list").clone()
    }

    async fn refuses_sizes(&mut self) {
        let repeated = self.harvest.repeated();
        self.sink.answer(|arrival| match arrival.body.len() > BODY_BYTES_MAX {
            true => Answer::TooLarge,
            false => Answer::Take,
        });
        self.passes(Duration::from_secs(2)).await;
        self.catches_up().await;
        self.assert_flat("refuses sizes");
        assert_eq!(self.harvest.repeated(), repeated, "halves come once");
        assert_eq!(self.letters().await.len(), 1, "nothing is too large for good");
    }

    async fn refuses_everybody(&mut self) {
        self.sink.answer(|_| Answer::Unauthorized);
        self.weir.log().announce("exporter paused until an operator acts");
        self.weir
            .metric_becomes(deadline(SHOWN), "weir_exporter_paused", &[("exporter", "otlp/http")], 1.0)
            .await;
        let (status, health) = self.weir.health().await;
        assert_eq!((status, &health["status"]), (200, &"degraded".into()), "{health}");
        let what = health["problems"][0]["what"].as_str().expect("words").to_owned();
        assert!(what.contains("paused") && what.contains("401"), "{what}");
        let told = self.weir.log().find(&["exporter paused until an operator acts", "401"]);
        assert!(told.is_some_and(|line| line.contains("ERROR")), "{}", self.weir.log().tail());
        self.passes(Duration::from_secs(1)).await;
        self.assert_flat("refuses everybody");
        self.sink.answer(|_| Answer::Take);
        if cfg!(debug_assertions) {
            // The operator gives it another token; a running daemon finds out by itself within a minute, below.
            self.load.take().expect("it is under way").stop().await;
            let status = self.weir.terminate().await;
            assert!(status.success(), "{}", self.weir.log().tail());
            self.weir.restart().await;
        } else {
            let resumed = [("exporter", "otlp/http")];
            self.weir.metric_becomes(PROBE, "weir_exporter_paused", &resumed, 0.0).await;
            self.assert_flat("is tried again");
        }
    }

    async fn end(mut self) {
        if let Some(load) = self.load.take() {
            load.stop().await;
        }
        self.weir.metric_becomes(DELIVERY_DEADLINE, crate::run::PENDING, &[], 0.0).await;
        self.gather();
        self.order.assert_kept();
        self.harvest.assert_keeps(&self.book.ledger);
        self.book.assert_no_permanent_refusal();
        assert_eq!(self.book.later(), 0, "senders did not notice");
        self.gives_the_bad_record_back().await;
        eprintln!(
            "backend: {} batches acknowledged, {} spans came, {} again",
            self.book.ledger.batches(),
            self.harvest.spans(),
            self.harvest.repeated(),
        );
        self.weir.stop().await;
    }

    /// The dead letter holds what was sent, and goes to a backend that has learnt better.
    async fn gives_the_bad_record_back(&mut self) {
        let id = self.letters().await[0]["id"].to_string();
        let config = self.weir.config_path();
        let head = ["queue", "--config", config.to_str().expect("a path of ours")];
        let dumped = command(self.weir.binary(), &[&head[..], &["dump", "--raw", "traces", &id]].concat())
            .await
            .well();
        let dumped = ExportTraceServiceRequest::decode(&*dumped.out).expect("a request of spans");
        assert_eq!(dumped, BAD.otlp(BAD_SHAPE));
        command(self.weir.binary(), &[&head[..], &["requeue", "traces", &id]].concat()).await.well();
        self.book.ledger.acknowledge(BAD, BAD_SHAPE);
        let arrived = until(DELIVERY_DEADLINE, async || {
            self.gather();
            self.harvest.missing(&self.book.ledger).is_empty().then_some(())
        });
        assert!(arrived.await.is_some(), "the requeued record does not arrive");
        self.weir.metric_becomes(SHOWN, "weir_queue_dead_letters", &[], 0.0).await;
    }
}
