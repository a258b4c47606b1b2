//! A configuration that changes while data flows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;
use weir_tests::client::Grpc;
use weir_tests::sink::{Arrival, grpc_path};
use weir_tests::{
    Answer, BatchId, Harvest, Ledger, OtlpSink, Profile, Protocol, Shape, Weir, ZipkinSink, wait_until,
};

mod exporters;

use crate::load::{Book, DOORS, Load, Worker, crew};
use crate::run::{DELIVERY_DEADLINE, PENDING, alone, deadline};

const SHAPE: Shape = Shape { spans: 5, attributes: 2, value_bytes: 10 };

/// How soon a reload is done that waits for nobody.
const RELOADED: Duration = Duration::from_secs(20);

/// Three pipelines with a receiver and an exporter each.
const THREE: &str = "receivers:
  otlp/a: {protocols: {grpc: {endpoint: <a>}}}
  otlp/b: {protocols: {grpc: {endpoint: <b>}}}
  otlp/c: {protocols: {grpc: {endpoint: <c>}}}
processors:
exporters:
  otlp/a: {endpoint: 'http://<sink-a>', retry: {initial_interval: 10ms, max_interval: 100ms}}
  otlp/b: {endpoint: 'http://<sink-b>', retry: {initial_interval: 10ms, max_interval: 100ms}}
  otlp/c: {endpoint: 'http://<sink-c>', retry: {initial_interval: 10ms, max_interval: 100ms}}
service:
  drain_timeout: 5s
  pipelines:
    traces/a: {receivers: [otlp/a], processors: [], exporters: [otlp/a]}
    traces/b: {receivers: [otlp/b], processors: [], exporters: [otlp/b]}
    traces/c: {receivers: [otlp/c], processors: [], exporters: [otlp/c]}
";

/// A node that has one connection for its whole life; if that breaks, or a batch is refused, the test fails.
async fn faithful(address: SocketAddr, sender: u32, book: Ledger, stop: Arc<AtomicBool>) {
    let mut connection = Grpc::connect(address).await.expect("the door is open");
    let path = grpc_path(weir_wire::Signal::Traces);
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let id = BatchId { sender, number };
        number += 1;
        let answer = connection.call(path, &id.encode(SHAPE, Protocol::OtlpGrpc)).await;
        let answer = answer.expect("the connection is never cut");
        assert_eq!(answer.status.code, 0, "{:?}", answer.status);
        assert!(!connection.is_closed(), "the door says goodbye");
        book.acknowledge(id, SHAPE);
    }
}

/// The senders of pipelines that no reload is about.
struct Faithful {
    working: JoinSet<()>,
    stop: Arc<AtomicBool>,
}

impl Faithful {
    fn start(senders: &[(SocketAddr, u32, Ledger)]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut working = JoinSet::new();
        for (address, sender, book) in senders {
            working.spawn(faithful(*address, *sender, book.clone(), Arc::clone(&stop)));
        }
        Self { working, stop }
    }

    /// Each has sent more since, over the connection that it had.
    async fn go_on(&self, books: &[&Ledger]) {
        let before: Vec<usize> = books.iter().map(|book| book.batches()).collect();
        wait_until(deadline(RELOADED), "the others send on", || {
            let more = books.iter().zip(&before).all(|(book, before)| book.batches() > before + 10);
            more.then_some(())
        })
        .await;
    }

    async fn stop(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.working.join_next().await {
            ended.expect("a sender is content");
        }
    }
}

fn tell(weir: &Weir, signal: Signal) {
    let pid = i32::try_from(weir.pid()).ok().and_then(Pid::from_raw).expect("a process has a number");
    kill_process(pid, signal).expect("our own process may be told");
}

fn count(weir: &Weir, part: &str) -> usize {
    weir.log().lines().iter().filter(|line| line.contains(part)).count()
}

/// Writes another configuration and waits until it runs, however the daemon hears of it.
pub(crate) async fn becomes(weir: &mut Weir, config: &str, tell_it: bool) {
    let before = count(weir, "configuration reloaded");
    weir.reconfigure(config);
    if tell_it {
        tell(weir, Signal::HUP);
    }
    wait_until(deadline(RELOADED), "the reload is done", || {
        let refused = weir.log().find(&["reload refused"]);
        assert!(refused.is_none() || before > 0, "{refused:?}");
        (count(weir, "configuration reloaded") > before).then_some(())
    })
    .await;
}

/// What all logs may hold together, where the file says nothing.
const BUDGET: u64 = 10_240 << 20;

async fn budget_of_a(weir: &Weir) -> Option<f64> {
    weir.metrics().await.value("otelcol_exporter_queue_capacity", &[("pipeline", "traces/a")])
}

fn gather(sink: &OtlpSink, harvest: &mut Harvest) {
    sink.drain().iter().filter(|arrival| arrival.taken).for_each(|arrival| harvest.add(&arrival.body));
}

async fn arrives(sink: &OtlpSink, harvest: &mut Harvest, book: &Ledger) {
    wait_until(DELIVERY_DEADLINE, "everything that was acknowledged is at the backend", || {
        gather(sink, harvest);
        harvest.missing(book).is_empty().then_some(())
    })
    .await;
    harvest.assert_keeps(book);
}

/// A node of the changed pipeline, which connects anew when it must.
fn worker(sender: u32, address: SocketAddr, next: u64) -> Worker {
    Worker { sender, protocol: Protocol::OtlpGrpc, address, next }
}

/// Scenario: senders with one connection each on three pipelines. Of the second its exporter's endpoint changes while
/// its backend refuses, then a processor is added, then its receiver moves to another port; the file alone tells it the
/// first time, SIGHUP the others.
/// Guarantees: no connection of the other senders is cut and none of their batches refused; nothing acknowledged is
/// lost; the backlog goes to the new endpoint, once; what is counted of the others goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_changes_one_of_three_pipelines() {
    let _alone = alone().await;
    let [a, b, c, d] =
        [OtlpSink::start().await, OtlpSink::start().await, OtlpSink::start().await, OtlpSink::start().await];
    let known = [("sink-a", &a), ("sink-b", &b), ("sink-c", &c), ("sink-d", &d)];
    let known = known.map(|(name, sink)| (name, sink.address()));
    let mut weir = Weir::start(THREE, &known).await;
    weir.log().announce("backend refuses for now");
    b.answer(|_| Answer::Later { retry_after: None });
    let (book_a, book_c, book_b) = (Ledger::default(), Ledger::default(), Book::default());
    let others =
        Faithful::start(&[(weir.address("a"), 1, book_a.clone()), (weir.address("c"), 3, book_c.clone())]);
    let load = Load::start(vec![worker(2, weir.address("b"), 0)], SHAPE, None, &book_b);
    book_b.reaches(50).await;

    let moved = THREE.replace("http://<sink-b>", "http://<sink-d>");
    becomes(&mut weir, &moved, false).await;
    others.go_on(&[&book_a, &book_c]).await;
    let line = weir.log().find(&["configuration reloaded"]).expect("it was waited for");
    assert!(line.contains("restarted=\"exporter otlp/b of pipeline traces/b\""), "{line}");
    assert!(line.contains("added=\"nothing\" removed=\"nothing\""), "{line}");

    let marked =
        moved.replace("processors:\n", "processors:\n  resource: {attributes: {edge: north}}\n").replace(
            "traces/b: {receivers: [otlp/b], processors: []",
            "traces/b: {receivers: [otlp/b], processors: [resource]",
        );
    becomes(&mut weir, &marked, true).await;
    book_b.reaches(book_b.ledger.batches() + 20).await;
    others.go_on(&[&book_a, &book_c]).await;
    let next = load.stop().await[0].next;

    becomes(&mut weir, &marked.replace("<b>", "<b2>"), true).await;
    let old = Grpc::connect(weir.address("b")).await;
    assert!(old.is_err(), "the old port is closed");
    let load = Load::start(vec![worker(2, weir.address("b2"), next)], SHAPE, None, &book_b);
    book_b.reaches(book_b.ledger.batches() + 20).await;
    others.go_on(&[&book_a, &book_c]).await;
    load.stop().await;
    others.stop().await;

    let accepted =
        weir.metrics().await.value("otelcol_receiver_accepted_spans_total", &[("receiver", "otlp/a")]);
    assert_eq!(accepted, Some(book_a.spans() as f64), "what is counted of a part that stays goes on");
    let is_marked = |arrival: &Arrival| arrival.body.windows(5).any(|part| part == b"north");
    assert!(d.arrivals().iter().any(is_marked), "the processor works");
    let mut at_d = Harvest::default();
    arrives(&d, &mut at_d, &book_b.ledger).await;
    assert_eq!(at_d.repeated(), 0, "no push was cut, nothing comes twice");
    for (sink, book) in [(&a, &book_a), (&c, &book_c)] {
        let mut harvest = Harvest::default();
        arrives(sink, &mut harvest, book).await;
        assert_eq!(harvest.repeated(), 0);
    }
    assert_eq!(weir.health().await.1["status"], "ok");
    weir.stop().await;
}

/// Scenario: the file gets a typo while data flows; then it is corrected.
/// Guarantees: what ran goes on; log and health name file, line and column; the corrected file heals.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_a_typo_changes_nothing() {
    let sinks = [OtlpSink::start().await, OtlpSink::start().await, OtlpSink::start().await];
    let names = ["sink-a", "sink-b", "sink-c"];
    let known: Vec<_> = names.iter().zip(&sinks).map(|(name, sink)| (*name, sink.address())).collect();
    let mut weir = Weir::start(THREE, &known).await;
    weir.log().announce("reload refused");
    let book = Ledger::default();
    let sender = Faithful::start(&[(weir.address("a"), 1, book.clone())]);
    weir.reconfigure(&THREE.replace("exporters: [otlp/b]", "exporters: [otlp/x]"));
    wait_until(deadline(RELOADED), "it is refused", || weir.log().find(&["reload refused"])).await;
    let (line, _) = std::fs::read_to_string(weir.config_path())
        .expect("our folder")
        .lines()
        .enumerate()
        .find_map(|(index, line)| line.find("otlp/x").map(|at| (format!(":{}:{}:", index + 1, at + 1), at)))
        .expect("the typo is there");
    let said = weir.log().find(&["reload refused"]).expect("it was waited for");
    assert!(said.contains(&format!("weir.yaml{line}")) && said.contains("otlp/x"), "no {line} in {said}");
    let (status, health) = weir.health().await;
    assert_eq!((status, &health["status"]), (200, &serde_json::json!("degraded")));
    assert_eq!(health["problems"][0]["part"], "configuration", "{health}");
    let what = health["problems"][0]["what"].as_str().unwrap_or_default();
    assert!(what.contains(&format!("weir.yaml{line}")), "no {line} in {what}");
    sender.go_on(&[&book]).await;

    let corrected = THREE.replace("drain_timeout: 5s", "drain_timeout: 6s");
    let before = count(&weir, "configuration reloaded");
    weir.reconfigure(&corrected);
    wait_until(deadline(RELOADED), "it is taken", || {
        (count(&weir, "configuration reloaded") > before).then_some(())
    })
    .await;
    assert_eq!(weir.health().await.1["status"], "ok");
    sender.go_on(&[&book]).await;
    sender.stop().await;
    arrives(&sinks[0], &mut Harvest::default(), &book).await;
    weir.stop().await;
}

/// Scenario: a pipeline with a backlog is taken out of the file, and put in again when its backend is well.
/// Guarantees: meanwhile health and log say what waits, and the others have its part of the budget; then it is
/// delivered, and the others never noticed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_a_pipeline_that_was_removed_is_delivered_when_it_is_back() {
    let sinks = [OtlpSink::start().await, OtlpSink::start().await, OtlpSink::start().await];
    let names = ["sink-a", "sink-b", "sink-c"];
    let known: Vec<_> = names.iter().zip(&sinks).map(|(name, sink)| (*name, sink.address())).collect();
    let mut weir = Weir::start(THREE, &known).await;
    for part in ["backend refuses for now", "what was acknowledged waits", "is defined and in no pipeline"] {
        weir.log().announce(part);
    }
    sinks[1].answer(|_| Answer::Later { retry_after: None });
    let (book_a, book_b) = (Ledger::default(), Book::default());
    let others = Faithful::start(&[(weir.address("a"), 1, book_a.clone())]);
    let load = Load::start(vec![worker(2, weir.address("b"), 0)], SHAPE, None, &book_b);
    book_b.reaches(50).await;
    load.stop().await;

    let line = THREE.lines().find(|line| line.contains("traces/b:")).expect("it is there");
    becomes(&mut weir, &THREE.replace(&format!("{line}\n"), ""), true).await;
    assert!(Grpc::connect(weir.address("b")).await.is_err(), "its door is closed");
    let (status, health) = weir.health().await;
    assert_eq!((status, &health["status"]), (200, &serde_json::json!("degraded")));
    let waits = format!("records of pipeline traces/b wait ({},", book_b.ledger.batches());
    assert!(health.to_string().contains(&waits), "no {waits} in {health}");
    let gone = weir.metrics().await.value(PENDING, &[("pipeline", "traces/b")]);
    assert_eq!(gone, None, "its series are gone");
    assert_eq!(budget_of_a(&weir).await, Some((BUDGET / 2) as f64));
    others.go_on(&[&book_a]).await;

    sinks[1].answer(|_| Answer::Take);
    becomes(&mut weir, THREE, true).await;
    assert_eq!(budget_of_a(&weir).await, Some((BUDGET / 3) as f64));
    arrives(&sinks[1], &mut Harvest::default(), &book_b.ledger).await;
    assert_eq!(weir.health().await.1["status"], "ok");
    let load = Load::start(vec![worker(2, weir.address("b"), 1000)], SHAPE, None, &book_b);
    book_b.reaches(book_b.ledger.batches() + 10).await;
    load.stop().await;
    others.go_on(&[&book_a]).await;
    others.stop().await;
    weir.metric_becomes(DELIVERY_DEADLINE, PENDING, &[], 0.0).await;
    weir.stop().await;
}

/// Scenario: SIGHUP, and again, and a change of the file, in one breath.
/// Guarantees: reloads come one after the other, no more than were asked for; the last file is what runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_that_are_asked_for_together_end_right() {
    let (old, new) = (OtlpSink::start().await, OtlpSink::start().await);
    let known = ["sink-a", "sink-b", "sink-c"].map(|name| (name, old.address()));
    let mut weir = Weir::start(THREE, &[&known[..], &[("sink-d", new.address())]].concat()).await;
    tell(&weir, Signal::HUP);
    tell(&weir, Signal::HUP);
    weir.reconfigure(&THREE.replace("<sink-b>", "<sink-d>"));
    let is_restarted =
        || weir.log().find(&["configuration reloaded", "restarted=\"exporter otlp/b of pipeline traces/b\""]);
    wait_until(deadline(RELOADED), "the new file runs", is_restarted).await;
    let book = Ledger::default();
    let sender = Faithful::start(&[(weir.address("b"), 2, book.clone())]);
    sender.go_on(&[&book]).await;
    sender.stop().await;
    arrives(&new, &mut Harvest::default(), &book).await;
    assert!(count(&weir, "reload begins") <= 3, "{}", weir.log().tail());
    assert_eq!(count(&weir, "reload begins"), count(&weir, "configuration reloaded"), "one after the other");
    weir.stop().await;
}

/// Scenario: a reload waits for a push that hangs; SIGTERM; a start with the new file.
/// Guarantees: the end is clean, and what was acknowledged is at the new endpoint.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_term_in_the_middle_of_a_reload_ends_cleanly() {
    let (old, new) = (OtlpSink::start().await, OtlpSink::start().await);
    let known = ["sink-a", "sink-b", "sink-c"].map(|name| (name, old.address()));
    let mut weir = Weir::start(THREE, &[&known[..], &[("sink-d", new.address())]].concat()).await;
    old.answer(|_| Answer::After(Duration::from_secs(3600), Box::new(Answer::Take)));
    let book = Book::default();
    let load = Load::start(vec![worker(2, weir.address("b"), 0)], SHAPE, None, &book);
    book.reaches(20).await;
    load.stop().await;
    weir.metric_becomes(deadline(RELOADED), "weir_exporter_in_flight", &[("pipeline", "traces/b")], 1.0)
        .await;
    let changed = THREE.replace("<sink-b>", "<sink-d>").replace(
        "    traces/c:",
        "    traces/new: {receivers: [otlp/c], exporters: [otlp/c]}\n    traces/c:",
    );
    weir.reconfigure(&changed);
    tell(&weir, Signal::HUP);
    wait_until(deadline(RELOADED), "the reload is under way", || {
        weir.log().find(&["pipeline ready", "traces/new"])
    })
    .await;
    let status = weir.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", weir.log().tail());
    assert!(weir.log().find(&["drained cleanly"]).is_some(), "{}", weir.log().tail());
    assert!(weir.log().find(&["configuration reloaded"]).is_none(), "it was in the middle");
    weir.restart().await;
    arrives(&new, &mut Harvest::default(), &book.ledger).await;
    weir.stop().await;
}

/// Scenario: a receiver gets another limit on its address, while its sender and another one send; then one gets the
/// address that a stranger has, while the first changes again; the stranger leaves.
/// Guarantees: the address is open again at once, and only its own sender connects anew. A file with an address that is
/// not to be had is refused and told in log and health, all three run as before, and the next reload takes it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_receiver_is_back_on_its_address() {
    let sink = OtlpSink::start().await;
    let stranger = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let taken = stranger.local_addr().expect("it is bound");
    let known = ["sink-a", "sink-b", "sink-c"].map(|name| (name, sink.address()));
    let mut weir = Weir::start(THREE, &[&known[..], &[("taken", taken)]].concat()).await;
    weir.log().announce("reload refused");
    let own = BTreeMap::from(["b", "c"].map(|name| (name, weir.address(name))));
    let (book_a, book_b) = (Ledger::default(), Book::default());
    let others = Faithful::start(&[(weir.address("a"), 1, book_a.clone())]);
    let load = Load::start(vec![worker(2, weir.address("b"), 0)], SHAPE, None, &book_b);
    book_b.reaches(20).await;
    let limited = THREE.replace("endpoint: <b>}", "endpoint: <b>, limits: {streams_max: 7}}");
    becomes(&mut weir, &limited, true).await;
    let line = weir.log().find(&["configuration reloaded"]).expect("it was waited for");
    assert!(line.contains("restarted=\"receiver otlp/b\""), "{line}");
    let next = load.stop().await[0].next;
    let load = Load::start(vec![worker(2, weir.address("b"), next)], SHAPE, None, &book_b);
    book_b.reaches(book_b.ledger.batches() + 20).await;
    load.stop().await;

    let clashing = THREE.replace("endpoint: <c>}", "endpoint: <taken>}");
    let reloads = count(&weir, "configuration reloaded");
    weir.reconfigure(&clashing);
    tell(&weir, Signal::HUP);
    let refused = || weir.log().find(&["reload refused", "receiver otlp/c", "in use", &taken.to_string()]);
    wait_until(deadline(RELOADED), "it is refused", refused).await;
    assert_eq!(count(&weir, "configuration reloaded"), reloads, "{}", weir.log().tail());
    let (status, health) = weir.health().await;
    assert_eq!((status, &health["status"]), (200, &serde_json::json!("degraded")));
    assert_eq!(health["problems"][0]["part"], "configuration", "{health}");
    for name in ["b", "c"] {
        assert!(Grpc::connect(own[name]).await.is_ok(), "{name} is where it was");
    }
    others.go_on(&[&book_a]).await;
    drop(stranger);
    becomes(&mut weir, &clashing, true).await;
    assert!(Grpc::connect(taken).await.is_ok(), "the address is ours now");
    assert_eq!(weir.health().await.1["status"], "ok");
    others.stop().await;
    let mut both = book_b.ledger.batches() + book_a.batches();
    let mut harvest = Harvest::default();
    arrives(&sink, &mut harvest, &book_a).await;
    harvest.assert_keeps(&book_b.ledger);
    both -= harvest.missing(&book_b.ledger).len();
    assert!(both > 40);
    weir.stop().await;
}

/// Scenario: a queue in memory whose backend refuses; its pipeline is taken out.
/// Guarantees: it is waited for until the drain's time is over; then the log says how many items are lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_lost_with_a_pipeline_in_memory_is_told() {
    let sink = OtlpSink::start().await;
    let config = THREE.replace("drain_timeout: 5s", "drain_timeout: 1s\n  queue: {storage: memory}");
    let known = ["sink-a", "sink-b", "sink-c"].map(|name| (name, sink.address()));
    let mut weir = Weir::start(&config, &known).await;
    for part in [
        "acknowledges from memory",
        "backend refuses for now",
        "is defined and in no pipeline",
        "pipeline removed with items in memory",
        "queue in memory closed",
    ] {
        weir.log().announce(part);
    }
    sink.answer(|_| Answer::Later { retry_after: None });
    let book = Book::default();
    let load = Load::start(vec![worker(2, weir.address("b"), 0)], SHAPE, None, &book);
    book.reaches(20).await;
    load.stop().await;
    let line = config.lines().find(|line| line.contains("traces/b:")).expect("it is there");
    becomes(&mut weir, &config.replace(&format!("{line}\n"), ""), true).await;
    let lost = format!("items={}", book.ledger.spans());
    let told = weir.log().find(&["pipeline removed with items in memory", "traces/b", &lost]);
    assert!(told.is_some(), "no {lost}:\n{}", weir.log().tail());
    weir.stop().await;
}

/// Scenario: a door of each kind, and a plugin's exporter; the limits of the streams' door and of the plugin's door
/// change, and so does the endpoint of the plugin's exporter.
/// Guarantees: these are made anew on their addresses, all four protocols go on, nothing acknowledged is lost, and the
/// sender at the door that did not change keeps its connection. No sample of the metrics is there twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_part_can_be_made_anew() {
    let (sink, old, new) = (OtlpSink::start().await, ZipkinSink::start().await, ZipkinSink::start().await);
    let config = format!(
        "{DOORS}exporters:
  otlp: {{endpoint: 'http://<sink>'}}
  zipkin: {{endpoint: 'http://<old>/api/v2/spans'}}
service:
  pipelines:
    traces: {{receivers: [opencensus, otlp, zipkin], exporters: [otlp, zipkin]}}
"
    );
    let known = [("sink", sink.address()), ("old", old.address()), ("new", new.address())];
    let mut weir = Weir::start(&config, &known).await;
    let (book, faithful_book) = (Book::default(), Ledger::default());
    let faithful = Faithful::start(&[(weir.address("otlp"), 77, faithful_book.clone())]);
    let changed = config
        .replace("{endpoint: <opencensus>}", "{endpoint: <opencensus>, limits: {connections_max: 99}}")
        .replace("{endpoint: <zipkin>}", "{endpoint: <zipkin>, limits: {connections_max: 99}}")
        .replace("<old>", "<new>");
    becomes(&mut weir, &changed, true).await;
    let line = weir.log().find(&["configuration reloaded"]).expect("it was waited for");
    let restarted = "restarted=\"exporter zipkin of pipeline traces, receiver opencensus, receiver zipkin\"";
    assert!(line.contains(restarted), "{line}");
    faithful.go_on(&[&faithful_book]).await;
    let load = Load::start(crew(&weir, &Protocol::ALL, 1), SHAPE, None, &book);
    book.reaches(40).await;
    load.stop().await;
    faithful.stop().await;
    let mut harvest = Harvest::default();
    arrives(&sink, &mut harvest, &book.ledger).await;
    arrives(&sink, &mut harvest, &faithful_book).await;
    weir.metric_becomes(DELIVERY_DEADLINE, PENDING, &[], 0.0).await;
    assert!(!new.drain().is_empty(), "the new endpoint has its part");
    let page = weir.metrics().await;
    let mut told = BTreeSet::new();
    for sample in page.samples() {
        assert!(told.insert((&sample.name, &sample.labels)), "{sample:?} is there twice");
    }
    weir.stop().await;
}

/// Scenario: SIGHUP as soon as the process has written its first line, which is before it runs.
/// Guarantees: it does not die of it, and reads the file again once it runs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_during_the_start_waits_for_its_end() {
    let folder = TempDir::with_prefix("weir-reload-").expect("a folder");
    let file = folder.path().join("weir.yaml");
    let config = format!(
        "receivers:
  otlp: {{protocols: {{grpc: {{endpoint: '127.0.0.1:0'}}}}}}
exporters:
  debug:
service:
  data_dir: {}
  telemetry: {{metrics: {{enabled: false}}}}
  health: {{enabled: false}}
  pipelines:
    traces: {{receivers: [otlp], exporters: [debug]}}
",
        folder.path().join("data").display()
    );
    std::fs::write(&file, config).expect("our folder");
    let binary = tokio::task::spawn_blocking(|| weir_tests::binary::weir(Profile::Same));
    let mut weir = Command::new(binary.await.expect("the binary is built"))
        .args(["run", "--config"])
        .arg(&file)
        .env("NO_COLOR", "1")
        .env_remove("WEIR_LOG")
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the binary starts");
    let pid = weir.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw).expect("it runs");
    let mut lines = BufReader::new(weir.stderr.take().expect("it is piped")).lines();
    let mut told = 0;
    let read = timeout(deadline(RELOADED), async {
        while let Some(line) = lines.next_line().await.expect("a pipe can be read") {
            if told == 0 {
                assert!(!line.contains("weir runs"), "the first line comes before");
                kill_process(pid, Signal::HUP).expect("our own process may be told");
            }
            told += 1;
            if line.contains("configuration reloaded") {
                kill_process(pid, Signal::TERM).expect("our own process may be told");
            }
        }
    });
    read.await.expect("it reads the file again, and ends");
    let status = weir.wait().await.expect("a child can be waited for");
    assert_eq!(status.code(), Some(0));
}
