//! `weir queue`, with the daemon running and stopped.

use std::time::Duration;

use prost::Message;
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
use serde_json::Value;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_tests::batch::hex;
use weir_tests::{Answer, BatchId, Harvest, OtlpSink, Protocol, Sender, Shape, Verdict, Weir, wait_until};

use crate::run::{DELIVERY_DEADLINE, Said, command, deadline};

/// How soon a letter lies in the log.
const SHOWN: Duration = Duration::from_secs(10);

const SHAPE: Shape = Shape { spans: 2, attributes: 1, value_bytes: 8 };

const LETTERS: u64 = 4;

const TWO_EXPORTERS: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: <otlp>}}}
exporters:
  otlp/a: {endpoint: 'http://<a>', retry: {initial_interval: 10ms, max_interval: 100ms}}
  otlp/b: {endpoint: 'http://<b>', retry: {initial_interval: 10ms, max_interval: 100ms}}
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [otlp/a, otlp/b]}
";

async fn queue(weir: &Weir, arguments: &[&str]) -> Said {
    let folder = weir.data_dir();
    let head = ["queue", "--data-dir", folder.to_str().expect("a path of ours")];
    command(weir.binary(), &[&head, arguments].concat()).await
}

async fn letters(weir: &Weir) -> Vec<Value> {
    let listed = queue(weir, &["--json", "ls", "traces"]).await.well().json();
    listed["dead_letters"].as_array().expect("a list").clone()
}

/// The figures of one exporter.
async fn cursor(weir: &Weir, exporter: &str) -> Option<Value> {
    let listed = queue(weir, &["--json", "ls"]).await.well().json();
    let exporters = listed["queues"][0]["exporters"].as_array().expect("a list").clone();
    exporters.into_iter().find(|cursor| cursor["exporter"] == exporter)
}

struct Story {
    weir: Weir,
    a: OtlpSink,
    b: OtlpSink,
}

impl Story {
    /// Exporter a has four dead letters, exporter b has everything.
    async fn begin() -> Self {
        let (a, b) = (OtlpSink::start().await, OtlpSink::start().await);
        a.answer(|_| Answer::Never("no, and no again".to_owned()));
        let weir = Weir::start(TWO_EXPORTERS, &[("a", a.address()), ("b", b.address())]).await;
        weir.log().announce("record rejected");
        let mut sender = Sender::new(Protocol::OtlpGrpc, weir.address("otlp"));
        for number in 0..LETTERS {
            assert_eq!(sender.send(BatchId { sender: 1, number }, SHAPE).await, Verdict::Taken);
            // One by one, so that the letters' order is known.
            let letters = (number + 1) as f64;
            weir.metric_becomes(deadline(SHOWN), "weir_queue_dead_letters", &[], letters).await;
        }
        Self { weir, a, b }
    }

    /// Lists and dumps.
    async fn looks(&self) {
        let letters = letters(&self.weir).await;
        assert_eq!(letters.len() as u64, LETTERS, "{letters:?}");
        for letter in &letters {
            assert_eq!(letter["exporter"], "otlp/a");
            assert_eq!(letter["items"], 2);
            assert!(
                letter["reason"].as_str().is_some_and(|why| why.contains("no, and no again")),
                "{letter}"
            );
        }
        let text = queue(&self.weir, &["ls", "traces"]).await.well().text();
        assert!(text.lines().count() as u64 == LETTERS && text.contains("no, and no again"), "{text}");
        let after = letters[1]["id"].to_string();
        let text = queue(&self.weir, &["ls", "traces", "--after", &after]).await.well().text();
        assert_eq!(text.lines().count() as u64, LETTERS - 2, "{text}");

        let first = letters[0]["id"].to_string();
        let sent = BatchId { sender: 1, number: 0 };
        let raw = queue(&self.weir, &["dump", "--raw", "traces", &first]).await.well();
        assert_eq!(ExportTraceServiceRequest::decode(&*raw.out).expect("a request"), sent.otlp(SHAPE));
        let json = queue(&self.weir, &["dump", "traces", &first]).await.well().json();
        let span = &json["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
        assert_eq!(span["traceId"], hex(&sent.span(SHAPE, 0).trace_id), "{json}");

        let all = queue(&self.weir, &["ls"]).await.well().text();
        assert!(all.contains("otlp/a") && all.contains("otlp/b") && all.contains("4 dead letters"), "{all}");
    }

    /// What is not there is refused by name.
    async fn errs(&self) {
        let cases: [(&[&str], &str); 4] = [
            (&["dump", "traces", "999999"], "999999"),
            (&["ls", "traffic"], "traces"),
            (&["forget", "traces", "otlp/none"], "otlp/none"),
            (&["requeue", "metrics", "1"], "traces"),
        ];
        for (arguments, part) in cases {
            let said = queue(&self.weir, arguments).await;
            assert_eq!(said.code, Some(1), "{arguments:?}: {said:?}");
            assert!(said.err.contains(part), "{arguments:?}: no {part:?} in {}", said.err);
        }
    }

    async fn drops(&self, expected: usize) {
        let id = letters(&self.weir).await.last().expect("there is one")["id"].to_string();
        queue(&self.weir, &["drop", "traces", &id]).await.well();
        assert_eq!(letters(&self.weir).await.len(), expected);
        let said = queue(&self.weir, &["dump", "traces", &id]).await;
        assert_eq!(said.code, Some(1), "{said:?}");
    }
}

/// Scenario: letters are listed, dumped, dropped and requeued while the daemon runs.
/// Guarantees: each does what it says; what is requeued arrives at the exporter that refused it, and only there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_looked_at_and_mended_while_the_daemon_runs() {
    let story = Story::begin().await;
    story.looks().await;
    story.errs().await;
    story.drops(3).await;
    let Story { weir, a, b } = story;
    let at_b = b.drain().len();
    assert!(at_b > 0, "the other exporter is not concerned");
    a.answer(|_| Answer::Take);
    a.drain();
    for letter in letters(&weir).await {
        queue(&weir, &["requeue", "traces", &letter["id"].to_string()]).await.well();
    }
    let mut harvest = Harvest::default();
    wait_until(deadline(SHOWN), "what is requeued arrives", || {
        a.drain().iter().filter(|arrival| arrival.taken).for_each(|arrival| harvest.add(&arrival.body));
        (harvest.spans() == 6).then_some(())
    })
    .await;
    weir.metric_becomes(deadline(SHOWN), "weir_queue_dead_letters", &[], 0.0).await;
    weir.metric_becomes(deadline(SHOWN), crate::run::PENDING, &[], 0.0).await;
    assert!(letters(&weir).await.is_empty());
    assert!(b.drain().is_empty(), "the other exporter had it already");
    weir.stop().await;
}

/// Scenario: the same with the daemon stopped; a requeued letter, then a start.
/// Guarantees: the files are opened, mended and closed cleanly; looking harms no exporter's place; the letter arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_looked_at_and_mended_while_the_daemon_is_stopped() {
    let mut story = Story::begin().await;
    story.weir.metric_becomes(deadline(SHOWN), crate::run::PENDING, &[], 0.0).await;
    let status = story.weir.terminate().await;
    assert!(status.success(), "{}", story.weir.log().tail());
    story.looks().await;
    story.errs().await;
    story.drops(3).await;
    let Story { mut weir, a, b } = story;
    let id = letters(&weir).await[0]["id"].to_string();
    queue(&weir, &["requeue", "traces", &id]).await.well();
    a.answer(|_| Answer::Take);
    a.drain();
    b.drain();
    weir.restart().await;
    wait_until(deadline(SHOWN), "what is requeued arrives", || {
        let mut harvest = Harvest::default();
        a.arrivals().iter().filter(|arrival| arrival.taken).for_each(|arrival| harvest.add(&arrival.body));
        (harvest.spans() == 2).then_some(())
    })
    .await;
    weir.metric_becomes(deadline(SHOWN), "weir_queue_dead_letters", &[], 2.0).await;
    assert!(b.drain().is_empty(), "the other exporter had it already");
    weir.stop().await;
}

/// Scenario: the daemon is stopped, an exporter is behind; an operator asks to forget it.
/// Guarantees: it is refused, and an exporter that the configuration names keeps what it was still to get.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exporter_that_is_configured_is_not_forgotten() {
    let (a, b) = (OtlpSink::start().await, OtlpSink::start().await);
    let mut weir = Weir::start(TWO_EXPORTERS, &[("a", a.address()), ("b", b.address())]).await;
    weir.log().announce("backend refuses for now");
    let file = weir.config_path();
    let head = ["queue", "--config", file.to_str().expect("a path of ours")];
    b.down().await;
    let mut sender = Sender::new(Protocol::OtlpGrpc, weir.address("otlp"));
    let id = BatchId { sender: 1, number: 0 };
    assert_eq!(sender.send(id, SHAPE).await, Verdict::Taken);
    let running = command(weir.binary(), &[&head[..], &["forget", "traces", "otlp/b"]].concat()).await;
    assert_eq!(running.code, Some(1), "{running:?}");
    assert!(running.err.contains("configur"), "{}", running.err);
    weir.terminate().await;
    let stopped = command(weir.binary(), &[&head[..], &["forget", "traces", "otlp/b"]].concat()).await;
    assert_eq!(stopped.code, Some(1), "with its configuration at hand the command knows better: {stopped:?}");
    let listed = command(weir.binary(), &[&head[..], &["ls"]].concat()).await.well().text();
    assert!(!listed.contains("not configured"), "{listed}");
    let blind = queue(&weir, &["forget", "traces", "otlp/b"]).await;
    assert_eq!(blind.code, Some(1), "without its configuration the command cannot know: {blind:?}");
    assert!(blind.err.contains("--config"), "{}", blind.err);
    b.up().await;
    weir.restart().await;
    wait_until(DELIVERY_DEADLINE, "the batch arrives at both", || {
        let came = |sink: &OtlpSink| sink.arrivals().iter().any(|arrival| arrival.taken);
        (came(&a) && came(&b)).then_some(())
    })
    .await;
    weir.stop().await;
}

/// Scenario: an exporter leaves the configuration with records to come; it is forgotten, once while the daemon runs and
/// once while it is stopped.
/// Guarantees: it is kept and shown until then; after it nothing is kept for it; the other exporter loses nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exporter_that_is_gone_is_kept_until_it_is_forgotten() {
    for while_running in [true, false] {
        let (a, b) = (OtlpSink::start().await, OtlpSink::start().await);
        let mut weir = Weir::start(TWO_EXPORTERS, &[("a", a.address()), ("b", b.address())]).await;
        weir.log().announce("backend refuses for now");
        weir.log().announce("exporter not configured any more");
        weir.log().announce("is defined and in no pipeline");
        b.down().await;
        let mut sender = Sender::new(Protocol::OtlpGrpc, weir.address("otlp"));
        for number in 0..10 {
            assert_eq!(sender.send(BatchId { sender: 1, number }, SHAPE).await, Verdict::Taken);
        }
        weir.terminate().await;
        weir.reconfigure(&TWO_EXPORTERS.replace("[otlp/a, otlp/b]", "[otlp/a]"));
        weir.restart().await;
        let kept = cursor(&weir, "otlp/b").await.expect("it is kept");
        assert_eq!((&kept["configured"], &kept["items"]), (&false.into(), &20.into()), "{kept}");
        let text = queue(&weir, &["ls"]).await.well().text();
        assert!(text.contains("weir queue forget"), "{text}");
        if !while_running {
            weir.terminate().await;
        }
        let file = weir.config_path();
        let arguments =
            ["queue", "--config", file.to_str().expect("a path of ours"), "forget", "traces", "otlp/b"];
        command(weir.binary(), &arguments).await.well();
        assert_eq!(cursor(&weir, "otlp/b").await, None);
        if !while_running {
            weir.restart().await;
        }
        weir.metric_becomes(DELIVERY_DEADLINE, crate::run::PENDING, &[], 0.0).await;
        let mut harvest = Harvest::default();
        a.drain().iter().filter(|arrival| arrival.taken).for_each(|arrival| harvest.add(&arrival.body));
        assert_eq!(harvest.spans(), 20, "the other exporter has everything");
        weir.stop().await;
    }
}

/// Scenario: a pipeline is renamed with records to come; a stray file and a queue that cannot be opened lie beside it.
/// Guarantees: the start, the health page and `weir queue ls` tell of the records, running and stopped; the old name
/// gets them delivered; what is no queue is passed over, and a queue that cannot be opened hides no other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_of_a_renamed_pipeline_are_told() {
    let (a, b) = (OtlpSink::start().await, OtlpSink::start().await);
    let mut weir = Weir::start(TWO_EXPORTERS, &[("a", a.address()), ("b", b.address())]).await;
    weir.log().announce("backend refuses for now");
    b.down().await;
    let mut sender = Sender::new(Protocol::OtlpGrpc, weir.address("otlp"));
    for number in 0..10 {
        assert_eq!(sender.send(BatchId { sender: 1, number }, SHAPE).await, Verdict::Taken);
    }
    weir.terminate().await;
    let queues = weir.data_dir().join("queues");
    std::fs::write(queues.join("notes.txt"), "not a queue").expect("our folder");
    std::fs::create_dir(queues.join("lost+found")).expect("our folder");
    weir.reconfigure(&TWO_EXPORTERS.replace("    traces: {", "    traces/new: {"));
    weir.log().announce("what was acknowledged waits");
    weir.restart().await;
    let told = weir.log().find(&["what was acknowledged waits", "records=10", "traces"]);
    assert!(told.is_some(), "{}", weir.log().tail());
    let (status, page) = weir.health().await;
    assert_eq!((status, &page["status"]), (200, &"degraded".into()), "{page}");
    assert!(page.to_string().contains("records of pipeline traces wait"), "{page}");
    let text = queue(&weir, &["ls"]).await.well().text();
    assert!(text.contains("traces/new") && text.contains("no pipeline on disk of that name"), "{text}");
    weir.terminate().await;

    let broken = queues.join("metrics");
    std::fs::create_dir_all(broken.join("segments")).expect("our folder");
    std::fs::create_dir(broken.join("lock")).expect("our folder");
    let said = queue(&weir, &["ls"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("queue of pipeline metrics"), "{}", said.err);
    assert!(said.text().contains("traces/new") && said.text().contains("otlp/b"), "{said:?}");
    std::fs::remove_dir_all(&broken).expect("our folder");
    queue(&weir, &["ls"]).await.well();

    weir.reconfigure(&TWO_EXPORTERS.replace("service:\n", "service:\n  queue: {storage: memory}\n"));
    weir.log().announce("acknowledges from memory");
    weir.restart().await;
    let (_, page) = weir.health().await;
    assert!(page.to_string().contains("records of pipeline traces wait"), "storage is memory now: {page}");
    weir.terminate().await;

    b.up().await;
    weir.reconfigure(TWO_EXPORTERS);
    weir.restart().await;
    weir.metric_becomes(DELIVERY_DEADLINE, crate::run::PENDING, &[], 0.0).await;
    let mut harvest = Harvest::default();
    b.drain().iter().filter(|arrival| arrival.taken).for_each(|arrival| harvest.add(&arrival.body));
    assert_eq!(harvest.spans(), 20, "what was acknowledged arrives under the old name");
    weir.stop().await;
}

/// Scenario: a backend that does not know us any more.
/// Guarantees: the list of queues says that the exporter waits for an operator, and why, to people and to machines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_paused_exporter_is_listed_with_the_reason() {
    let (a, b) = (OtlpSink::start().await, OtlpSink::start().await);
    a.answer(|_| Answer::Unauthorized);
    let weir = Weir::start(TWO_EXPORTERS, &[("a", a.address()), ("b", b.address())]).await;
    weir.log().announce("exporter paused until an operator acts");
    let mut sender = Sender::new(Protocol::OtlpGrpc, weir.address("otlp"));
    assert_eq!(sender.send(BatchId { sender: 1, number: 0 }, SHAPE).await, Verdict::Taken);
    let of_a = [("exporter", "otlp/a")];
    weir.metric_becomes(deadline(SHOWN), "weir_exporter_paused", &of_a, 1.0).await;
    let (_, health) = weir.health().await;
    let what = health["problems"][0]["what"].as_str().expect("words").to_owned();
    let paused = cursor(&weir, "otlp/a").await.expect("it is listed")["paused"].clone();
    let why = paused.as_str().unwrap_or_else(|| panic!("not told: {what}"));
    assert!(what.contains(why), "{what} is not {why}");
    assert_eq!(cursor(&weir, "otlp/b").await.expect("it is listed")["paused"], Value::Null);
    let text = queue(&weir, &["ls"]).await.well().text();
    assert!(text.contains(&format!("paused until an operator acts: {why}")), "{text}");
}

/// Scenario: the daemon has no descriptor left for an operator's connection, and later has one again.
/// Guarantees: it says so once and burns no processor over it; then the operator who waited is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_waits_for_a_descriptor() {
    let (a, b) = (OtlpSink::start().await, OtlpSink::start().await);
    let weir = Weir::start(TWO_EXPORTERS, &[("a", a.address()), ("b", b.address())]).await;
    const FAILS: &str = "accept on the admin socket fails";
    weir.log().announce(FAILS);
    let pid = i32::try_from(weir.pid()).ok().and_then(Pid::from_raw);
    let limit = |limit| prlimit(pid, Resource::Nofile, limit).expect("our own process may be limited");
    let before = getrlimit(Resource::Nofile);
    limit(Rlimit { current: Some(0), ..before });
    let asked = queue(&weir, &["ls"]);
    let told = async {
        wait_until(deadline(SHOWN), "the log says so", || weir.log().find(&[FAILS])).await;
        limit(before);
    };
    let (listed, ()) = tokio::join!(asked, told);
    assert!(listed.well().text().contains("otlp/a"));
    let lines = weir.log().lines();
    assert_eq!(lines.iter().filter(|line| line.contains(FAILS)).count(), 1, "{}", weir.log().tail());
    weir.stop().await;
}
