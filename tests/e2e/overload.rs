//! Twice the capacity, on 64 connections, with the limits that users have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;
use weir_tests::client::{Grpc, GrpcStream, Outcome, frame};
use weir_tests::sink::grpc_path;
use weir_tests::{BatchId, OtlpSink, Protocol, Sender, Shape, Verdict, Weir};
use weir_wire::Signal;

use crate::memory::{MIB, Resident};
use crate::run::{alone, figure};
use crate::stamp::{Stamp, Tally};

const CONNECTIONS: u32 = 64;

/// Requests of one connection under way in the closed loop: enough that the daemon is what limits it.
const CLOSED_EACH: usize = 8;

/// Requests of one connection that may wait for their answers: more than the daemon lets in as streams.
const WAITING_MAX: usize = 128;

/// About 45 kB.
const SHAPE: Shape = Shape { spans: 64, attributes: 12, value_bytes: 40 };

const SMALL: Shape = Shape { spans: 4, attributes: 2, value_bytes: 10 };

/// The sender that is not part of the crowd.
const OTHER: u32 = 9_999;

/// How often it sends.
const OTHER_BEAT: Duration = Duration::from_millis(50);

/// How long its answer may take: less than a client's usual 10 s.
const OTHER_ANSWER_MAX: Duration = Duration::from_secs(10);

const RESIDENT_MAX: u64 = 256 * MIB;

/// How long the backend may take for what a minute of overload leaves: all of the queue's budget, 10 GiB.
const EMPTY_DEADLINE: Duration = Duration::from_secs(900);

/// How often what came is taken from the backend.
const GATHER_BEAT: Duration = Duration::from_millis(50);

const CONFIG: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: <otlp>}, http: {endpoint: <otlp-http>}}}
exporters:
  otlp: {endpoint: 'http://<sink>'}
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [otlp]}
";

/// Scenario: 64 connections send as fast as they are answered, then at twice that rate whatever is answered; another
/// sender's small batches come beside them.
/// Guarantees: memory stays under its bar, refusals are transient, what is acknowledged arrives unaltered, and the other
/// sender has its answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn overload_is_refused_and_costs_nothing_that_was_acknowledged() {
    let _alone = alone().await;
    let time = Duration::from_secs(figure("WEIR_OVERLOAD", 6));
    let sink = OtlpSink::start().await;
    let weir = Weir::start(CONFIG, &[("sink", sink.address())]).await;
    let crowd = Crowd::connect(&weir).await;
    let mut tally = Tally::new(crowd.members.iter().map(|member| (member.sender, &member.stamp)));
    let resident = Resident::follow(weir.pid());

    let closed_time = (time / 3).max(Duration::from_secs(2));
    let closed = crowd.closed_loop(closed_time);
    let answered = gather_during(closed, &sink, &mut tally).await;
    let capacity = f64::from(u32::try_from(answered).expect("a short run")) / closed_time.as_secs_f64();
    eprintln!("overload: closed loop {capacity:.0} batches/s, {} MiB resident", resident.peak() / MIB);

    let beat = Duration::from_secs_f64(f64::from(CONNECTIONS) / (2.0 * capacity));
    let other = Other::new(&weir).send_for(time);
    // On a thread and runtime of its own: what it waits for is the daemon, not the crowd beside it.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let other = tokio::task::spawn_blocking(move || runtime.block_on(other));
    let both = async { tokio::join!(crowd.open_loop(time, beat), other) };
    let (skipped, other) = gather_during(both, &sink, &mut tally).await;
    let other = other.expect("it does not panic");
    let peak = resident.peak();
    weir.metric_becomes_while(&sink, &mut tally).await;
    gather(&sink, &mut tally);

    let page = weir.metrics().await;
    let figure = |name| page.value(name, &[]).unwrap_or_default();
    eprintln!(
        "overload: the ledger held {:.0} MiB at most, {} claims denied",
        figure("weir_memory_peak_bytes") / MIB as f64,
        figure("weir_memory_denied_total"),
    );
    let told = crowd.told();
    let missing = told.taken.iter().filter(|id| !tally.has(**id, SHAPE)).count();
    eprintln!(
        "overload: {} acknowledged, {} refused for now, {skipped} not sent for want of a stream, {} MiB resident at most; \
         the other sender: {} taken, {} refused for now, slowest answer {:?}",
        told.taken.len(),
        told.later,
        peak / MIB,
        other.taken,
        other.later,
        other.slowest,
    );
    assert_eq!(missing, 0, "acknowledged batches are missing");
    assert!(told.strange.is_empty(), "{} strange answers: {:?}", told.strange.len(), told.strange.first());
    assert!(peak < RESIDENT_MAX, "{} MiB resident", peak / MIB);
    assert!(other.strange.is_empty(), "{:?}", other.strange);
    assert!(other.slowest < OTHER_ANSWER_MAX, "{:?}", other.slowest);
    assert!(other.taken > other.later, "{} taken, {} refused", other.taken, other.later);
    weir.stop().await;
}

fn gather(sink: &OtlpSink, tally: &mut Tally) {
    sink.drain().iter().filter(|arrival| arrival.taken).for_each(|arrival| tally.add(&arrival.body));
}

/// Takes what comes from the backend until `load` is done, so that the backend does not keep all of it.
async fn gather_during<T>(load: impl Future<Output = T>, sink: &OtlpSink, tally: &mut Tally) -> T {
    let mut beats = tokio::time::interval(GATHER_BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tokio::pin!(load);
    loop {
        tokio::select! {
            done = &mut load => return done,
            _ = beats.tick() => gather(sink, tally),
        }
    }
}

/// Waits for the end of the queue and gathers meanwhile.
trait DeliversAll {
    async fn metric_becomes_while(&self, sink: &OtlpSink, tally: &mut Tally);
}

impl DeliversAll for Weir {
    async fn metric_becomes_while(&self, sink: &OtlpSink, tally: &mut Tally) {
        // One after the other: a page that is asked for while a second's work is gathered would be asked too slowly.
        let end = Instant::now() + EMPTY_DEADLINE;
        while self.metrics().await.value(crate::run::PENDING, &[]) != Some(0.0) {
            assert!(Instant::now() < end, "the backend does not get all within {EMPTY_DEADLINE:?}");
            gather(sink, tally);
            tokio::time::sleep(GATHER_BEAT).await;
        }
    }
}

struct Member {
    sender: u32,
    stamp: Stamp,
    next: AtomicU64,
    connection: tokio::sync::Mutex<Grpc>,
}

/// What the crowd was told.
#[derive(Debug, Default)]
struct Told {
    taken: BTreeSet<BatchId>,
    later: u64,
    strange: Vec<String>,
}

struct Crowd {
    members: Vec<Arc<Member>>,
    told: Arc<Mutex<Told>>,
}

impl Crowd {
    async fn connect(weir: &Weir) -> Self {
        let mut members = Vec::new();
        for sender in 1..=CONNECTIONS {
            let connection = Grpc::connect(weir.address("otlp")).await.expect("the daemon listens");
            let (stamp, connection) = (Stamp::new(sender, SHAPE), tokio::sync::Mutex::new(connection));
            members.push(Arc::new(Member { sender, stamp, next: AtomicU64::new(0), connection }));
        }
        Self { members, told: Arc::default() }
    }

    fn told(&self) -> Told {
        std::mem::take(&mut *self.told.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Each connection sends its next batch when it has the answer to one; how many were taken.
    async fn closed_loop(&self, time: Duration) -> usize {
        let end = Instant::now() + time;
        let mut sending = JoinSet::new();
        for member in self.members.iter().flat_map(|member| vec![Arc::clone(member); CLOSED_EACH]) {
            let told = Arc::clone(&self.told);
            sending.spawn(async move {
                while Instant::now() < end {
                    let (id, stream, body) = member.open().await;
                    note(&told, id, send(stream, body).await);
                }
            });
        }
        sending.join_all().await;
        self.told.lock().unwrap_or_else(PoisonError::into_inner).taken.len()
    }

    /// Each connection sends a batch at each beat; how many beats found no room to wait in.
    async fn open_loop(&self, time: Duration, beat: Duration) -> u64 {
        let end = Instant::now() + time;
        let mut sending = JoinSet::new();
        for member in self.members.clone() {
            let told = Arc::clone(&self.told);
            sending.spawn(async move {
                let mut beats = tokio::time::interval(beat);
                beats.set_missed_tick_behavior(MissedTickBehavior::Burst);
                let (mut waiting, mut skipped) = (JoinSet::new(), 0);
                while Instant::now() < end {
                    beats.tick().await;
                    while waiting.try_join_next().is_some() {}
                    if waiting.len() >= WAITING_MAX {
                        skipped += 1;
                        continue;
                    }
                    let (id, stream, body) = member.open().await;
                    let told = Arc::clone(&told);
                    waiting.spawn(async move { note(&told, id, send(stream, body).await) });
                }
                waiting.join_all().await;
                skipped
            });
        }
        sending.join_all().await.into_iter().sum()
    }
}

impl Member {
    async fn open(&self) -> (BatchId, GrpcStream, bytes::Bytes) {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let stream = self.connection.lock().await.open(grpc_path(Signal::Traces));
        (BatchId { sender: self.sender, number }, stream, frame(&self.stamp.batch(number)))
    }
}

async fn send(stream: GrpcStream, body: bytes::Bytes) -> Result<Outcome, String> {
    // A stream that has ended already says why below.
    stream.send_framed(body).await;
    stream.finish().await
}

fn note(told: &Mutex<Told>, id: BatchId, outcome: Result<Outcome, String>) {
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    match outcome {
        Ok(outcome) if outcome.status.code == 0 => {
            told.taken.insert(id);
        }
        // UNAVAILABLE with RetryInfo.
        Ok(outcome) if outcome.status.code == 14 && !outcome.status.details.is_empty() => told.later += 1,
        Ok(outcome) => told.strange.push(format!("{:?}", outcome.status)),
        Err(silence) => told.strange.push(silence),
    }
}

/// A sender of small batches, over HTTP.
struct Other {
    sender: Sender,
    taken: u64,
    later: u64,
    strange: Vec<Verdict>,
    slowest: Duration,
}

impl Other {
    fn new(weir: &Weir) -> Self {
        let sender = Sender::new(Protocol::OtlpHttp, weir.address("otlp-http"));
        Self { sender, taken: 0, later: 0, strange: Vec::new(), slowest: Duration::ZERO }
    }

    async fn send_for(mut self, time: Duration) -> Self {
        let end = Instant::now() + time;
        let mut beats = tokio::time::interval(OTHER_BEAT);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut number = 0;
        while Instant::now() < end {
            beats.tick().await;
            let began = Instant::now();
            let verdict = self.sender.send(BatchId { sender: OTHER, number }, SMALL).await;
            self.slowest = self.slowest.max(began.elapsed());
            number += 1;
            match verdict {
                Verdict::Taken => self.taken += 1,
                Verdict::Later(_) => self.later += 1,
                Verdict::Never(_) | Verdict::Silence(_) => self.strange.push(verdict),
            }
        }
        self
    }
}
