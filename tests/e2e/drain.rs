//! SIGTERM and Ctrl-C in the middle of work.

use std::os::unix::fs::PermissionsExt as _;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use weir_tests::{Answer, Harvest, OtlpSink, Protocol, Shape, Weir, wait_until};

use crate::load::{Book, DOORS, Load, crew};
use crate::run::{DELIVERY_DEADLINE, deadline};

const SHAPE: Shape = Shape { spans: 5, attributes: 2, value_bytes: 10 };

/// How long a drain may take whose deadline is not reached.
const DRAINED: Duration = Duration::from_secs(20);

/// Scenario: four protocols send to a queue on disk; SIGTERM; a start on the same folder.
/// Guarantees: exit code 0 and one line on how it ended; what was acknowledged is at the backend, each span once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_on_disk_finishes_what_it_answered() {
    let sink = OtlpSink::start().await;
    let config = format!("{DOORS}{}", export("drain_timeout: 20s"));
    let mut weir = Weir::start(&config, &[("sink", sink.address())]).await;
    let book = Book::default();
    let load = Load::start(crew(&weir, &Protocol::ALL, 2), SHAPE, None, &book);
    book.reaches(200).await;
    let status = weir.terminate().await;
    load.stop().await;
    assert_eq!(status.code(), Some(0), "{}", weir.log().tail());
    assert_eq!(endings(&weir), ["drained cleanly"], "{}", weir.log().tail());
    weir.restart().await;
    weir.metric_becomes(DELIVERY_DEADLINE, crate::run::PENDING, &[], 0.0).await;
    let harvest = harvest(&sink);
    harvest.assert_keeps(&book.ledger);
    assert_eq!(harvest.repeated(), 0, "a clean end repeats nothing");
    book.assert_no_permanent_refusal();
    weir.stop().await;
}

/// Scenario: a queue in memory with a backlog before a slow backend; Ctrl-C.
/// Guarantees: all of it is delivered before the end; exit code 0 and one line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_in_memory_delivers_before_the_end() {
    let sink = OtlpSink::start().await;
    sink.answer(|_| Answer::After(Duration::from_millis(300), Box::new(Answer::Take)));
    let config = format!("{DOORS}{}", export("queue: {storage: memory}"));
    let mut weir = Weir::start(&config, &[("sink", sink.address())]).await;
    weir.log().announce("acknowledges from memory");
    let book = Book::default();
    let load = Load::start(crew(&weir, &Protocol::ALL, 2), SHAPE, None, &book);
    book.reaches(500).await;
    tell(&weir, Signal::INT);
    wait_until(deadline(DRAINED), "the drain ends", || weir.log().find(&["drained cleanly"])).await;
    load.stop().await;
    // It has had its signal; this waits for the end.
    let status = weir.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", weir.log().tail());
    assert!(weir.log().find(&["draining", "SIGINT"]).is_some(), "{}", weir.log().tail());
    assert_eq!(endings(&weir), ["drained cleanly"]);
    harvest(&sink).assert_keeps(&book.ledger);
}

/// Scenario: a queue in memory, a backend that is away, a drain with a short deadline.
/// Guarantees: it ends at the deadline, with exit code 1, and says how much is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_that_is_cut_says_what_is_lost() {
    let sink = OtlpSink::start().await;
    let config = format!("{DOORS}{}", export("drain_timeout: 1s\n  queue: {storage: memory}"));
    let mut weir = Weir::start(&config, &[("sink", sink.address())]).await;
    for part in
        ["acknowledges from memory", "backend refuses for now", "drain was cut", "queue in memory closed"]
    {
        weir.log().announce(part);
    }
    sink.down().await;
    let book = Book::default();
    let load = Load::start(crew(&weir, &[Protocol::OtlpGrpc], 1), SHAPE, None, &book);
    book.reaches(20).await;
    load.stop().await;
    let status = weir.terminate().await;
    assert_eq!(status.code(), Some(1), "{}", weir.log().tail());
    let lost = format!("{} items in memory were not delivered and are lost", book.ledger.spans());
    assert!(weir.log().find(&["the drain was cut", &lost]).is_some(), "no {lost:?}:\n{}", weir.log().tail());
}

/// Scenario: a queue on disk, a push that hangs, a drain with a short deadline; a start when the backend is well.
/// Guarantees: the push is cut at the deadline and delivered after the start; that is a clean end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_that_hangs_is_cut_and_comes_again() {
    let (sink, mut weir, book) = hanging("drain_timeout: 1s").await;
    let status = weir.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", weir.log().tail());
    comes_again(&sink, weir, &book).await;
}

/// A daemon with a queue on disk that has answered twenty batches and is in a push that hangs.
async fn hanging(service: &str) -> (OtlpSink, Weir, Book) {
    let sink = OtlpSink::start().await;
    sink.answer(|_| Answer::After(Duration::from_secs(3600), Box::new(Answer::Take)));
    let config = format!("{DOORS}{}", export(service));
    let weir = Weir::start(&config, &[("sink", sink.address())]).await;
    let book = Book::default();
    let load = Load::start(crew(&weir, &[Protocol::OtlpGrpc], 1), SHAPE, None, &book);
    book.reaches(20).await;
    load.stop().await;
    weir.metric_becomes(deadline(DRAINED), "weir_exporter_in_flight", &[], 1.0).await;
    (sink, weir, book)
}

/// The next start delivers all that was answered to a backend that is well.
async fn comes_again(sink: &OtlpSink, mut weir: Weir, book: &Book) {
    sink.answer(|_| Answer::Take);
    weir.restart().await;
    weir.metric_becomes(DELIVERY_DEADLINE, crate::run::PENDING, &[], 0.0).await;
    harvest(sink).assert_keeps(&book.ledger);
    weir.stop().await;
}

/// Scenario: a drain that waits for a push that hangs; a second SIGTERM.
/// Guarantees: the drain is cut and told; what was acknowledged is delivered after the next start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_cuts_the_drain() {
    // Longer than the test waits for the end of a process.
    let (sink, mut weir, book) = hanging("drain_timeout: 600s").await;
    weir.log().announce("a second signal cuts the drain");
    tell(&weir, Signal::TERM);
    wait_until(deadline(DRAINED), "the drain begins", || weir.log().find(&["draining", "SIGTERM"])).await;
    let status = weir.terminate().await;
    assert_eq!(status.code(), Some(0), "{}", weir.log().tail());
    assert!(weir.log().find(&["a second signal cuts the drain"]).is_some(), "{}", weir.log().tail());
    comes_again(&sink, weir, &book).await;
}

/// Scenario: SIGHUP, and the file is as it was.
/// Guarantees: it is answered in the log, and the daemon goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_does_not_kill() {
    let sink = OtlpSink::start().await;
    let config = format!("{DOORS}{}", export("drain_timeout: 20s"));
    let weir = Weir::start(&config, &[("sink", sink.address())]).await;
    tell(&weir, Signal::HUP);
    wait_until(deadline(DRAINED), "it is answered", || {
        weir.log()
            .find(&["configuration reloaded", "restarted=\"nothing\" added=\"nothing\" removed=\"nothing\""])
    })
    .await;
    let book = Book::default();
    let load = Load::start(crew(&weir, &[Protocol::OtlpGrpc], 1), SHAPE, None, &book);
    book.reaches(20).await;
    load.stop().await;
    weir.metric_becomes(DELIVERY_DEADLINE, crate::run::PENDING, &[], 0.0).await;
    harvest(&sink).assert_keeps(&book.ledger);
    weir.stop().await;
}

/// Scenario: somebody is connected to the admin socket and says nothing; SIGTERM.
/// Guarantees: the end does not wait for them; nobody but the daemon's user can connect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_operator_does_not_hold_up_the_end() {
    let sink = OtlpSink::start().await;
    let config = format!("{DOORS}{}", export("drain_timeout: 20s"));
    let mut weir = Weir::start(&config, &[("sink", sink.address())]).await;
    weir.log().announce("an operator's request was not answered");
    let path = weir.data_dir().join("weir.sock");
    let mode = std::fs::metadata(&path).expect("the socket is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "{mode:o}");
    let idle = std::os::unix::net::UnixStream::connect(&path).expect("the daemon listens");
    let began = Instant::now();
    let status = weir.terminate().await;
    drop(idle);
    assert_eq!(status.code(), Some(0), "{}", weir.log().tail());
    assert!(began.elapsed() < Duration::from_secs(15), "the end took {:?}", began.elapsed());
}

fn tell(weir: &Weir, signal: Signal) {
    let pid = i32::try_from(weir.pid()).ok().and_then(Pid::from_raw).expect("a process has a number");
    kill_process(pid, signal).expect("our own process may be told");
}

fn export(service: &str) -> String {
    format!(
        "exporters:
  otlp: {{endpoint: 'http://<sink>', retry: {{initial_interval: 10ms, max_interval: 100ms}}}}
service:
  {service}
  pipelines:
    traces: {{receivers: [opencensus, otlp, zipkin], exporters: [otlp]}}
"
    )
}

/// The lines that say how the process ended.
fn endings(weir: &Weir) -> Vec<&'static str> {
    let of = |line: &String| {
        ["drained cleanly", "the drain was cut"].into_iter().find(|ending| line.contains(ending))
    };
    weir.log().lines().iter().filter_map(of).collect()
}

fn harvest(sink: &OtlpSink) -> Harvest {
    let mut harvest = Harvest::default();
    sink.drain().iter().filter(|arrival| arrival.taken).for_each(|arrival| harvest.add(&arrival.body));
    harvest
}
