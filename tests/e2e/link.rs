//! An agent and a collector as two processes: what is sent to the one arrives behind the other, whatever dies on the way.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::timeout;
use weir_proto::weir::events::v1::report_service_client::ReportServiceClient;
use weir_proto::weir::events::v1::watch_service_client::WatchServiceClient;
use weir_proto::weir::events::v1::{ListRequest, ReportRequest};
use weir_tests::wait::until;
use weir_tests::{BatchId, Harvest, OtlpSink, Profile, Protocol, Sender, Shape, Verdict, Weir, wait_until};

use crate::load::{Book, Load, crew};
use crate::run::{DELIVERY_DEADLINE, PENDING, Said, command, deadline};

/// How soon a collector knows that an agent came or went.
const SHOWN: Duration = Duration::from_secs(30);

/// How long a process may take to start or to end.
const LIFE: Duration = Duration::from_secs(60);

const SHAPE: Shape = Shape { spans: 4, attributes: 3, value_bytes: 16 };

/// A collector with a backend behind it.
const COLLECTOR: &str = "receivers:
  weir: {endpoint: <link>, heartbeat: 500ms}
exporters:
  otlp: {endpoint: 'http://<sink>', retry: {initial_interval: 10ms, max_interval: 100ms}}
service:
  pipelines:
    traces: {receivers: [weir], exporters: [otlp]}
    logs: {receivers: [weir], exporters: [otlp]}
";

/// An agent with two logs that go over one link.
const AGENT: &str = "receivers:
  otlp: {protocols: {grpc: {endpoint: <otlp>}, http: {endpoint: <otlp-http>}}}
exporters:
  weir: {endpoint: '<link>', identity: edge-1}
service:
  pipelines:
    traces: {receivers: [otlp], exporters: [weir]}
    logs: {receivers: [otlp], exporters: [weir]}
";

/// What a broken connection is told by.
const BROKEN: &str = "to the collector";

/// An agent, a collector, and the backend behind it.
struct Pair {
    agent: Weir,
    collector: Weir,
    sink: OtlpSink,
    harvest: Harvest,
}

impl Pair {
    async fn begin() -> Self {
        let sink = OtlpSink::start().await;
        let collector = Weir::start(COLLECTOR, &[("sink", sink.address())]).await;
        let agent = Weir::start(AGENT, &[("link", collector.address("link"))]).await;
        for weir in [&agent, &collector] {
            weir.log().announce(BROKEN);
            weir.log().announce("agent");
        }
        Self { agent, collector, sink, harvest: Harvest::default() }
    }

    fn gather(&mut self) {
        for arrival in self.sink.drain().iter().filter(|arrival| arrival.taken) {
            self.harvest.add(&arrival.body);
        }
    }

    /// Everything that was taken has come through both.
    async fn settle(&mut self) {
        self.agent.metric_becomes(DELIVERY_DEADLINE, PENDING, &[], 0.0).await;
        self.collector.metric_becomes(DELIVERY_DEADLINE, PENDING, &[], 0.0).await;
        self.gather();
    }

    /// What the collector says of its agent.
    async fn row(&self) -> Option<Value> {
        let rows = fleet(&self.collector, &["--json"]).await.well().json();
        rows.as_array().expect("a list").iter().find(|row| row["identity"] == "edge-1").cloned()
    }

    /// Waits until the collector says this of its agent.
    async fn state_becomes(&self, states: &[&str]) -> Value {
        for _ in 0..200 {
            if let Some(row) = self.row().await
                && states.iter().any(|state| row["state"] == *state)
            {
                return row;
            }
            tokio::time::sleep(SHOWN / 200).await;
        }
        panic!("the agent is not {states:?} within {SHOWN:?}, it is {:?}", self.row().await);
    }
}

/// `weir fleet` at this daemon.
async fn fleet(collector: &Weir, arguments: &[&str]) -> Said {
    let page = collector.address("metrics").to_string();
    command(collector.binary(), &[&["fleet", "--admin", &page], arguments].concat()).await
}

/// Scenario: an agent and a collector; batches come to the agent, as OTLP over gRPC and HTTP; then both end.
/// Guarantees: every span is at the backend behind the collector, once; both end cleanly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_agent_takes_arrives_behind_its_collector() {
    let mut pair = Pair::begin().await;
    let book = Book::default();
    let load =
        Load::start(crew(&pair.agent, &[Protocol::OtlpGrpc, Protocol::OtlpHttp], 2), SHAPE, None, &book);
    book.reaches(200).await;
    load.stop().await;
    pair.settle().await;
    pair.harvest.assert_keeps(&book.ledger);
    book.assert_no_permanent_refusal();
    assert_eq!(pair.harvest.repeated(), 0, "records came twice without anybody's death");
    let Pair { agent, collector, .. } = pair;
    agent.stop().await;
    collector.stop().await;
}

/// Scenario: the agent is killed under load, and starts again on its folder; then the collector likewise.
/// Guarantees: nothing that the agent acknowledged is missing behind the collector; the agent's death made nothing come twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn neither_death_loses_what_the_agent_acknowledged() {
    let mut pair = Pair::begin().await;
    let book = Book::default();
    let mut workers = crew(&pair.agent, &[Protocol::OtlpGrpc, Protocol::OtlpHttp], 2);

    let load = Load::start(workers, SHAPE, None, &book);
    book.reaches(100).await;
    pair.agent.kill().await;
    workers = load.stop().await;
    pair.agent.restart().await;
    let load = Load::start(workers, SHAPE, None, &book);
    book.reaches(200).await;
    workers = load.stop().await;
    pair.settle().await;
    pair.harvest.assert_keeps(&book.ledger);
    assert_eq!(pair.harvest.repeated(), 0, "the collector kept twice what came twice");

    let load = Load::start(workers, SHAPE, None, &book);
    book.reaches(300).await;
    pair.collector.kill().await;
    book.reaches(350).await;
    pair.collector.restart().await;
    book.reaches(400).await;
    load.stop().await;
    pair.settle().await;
    pair.harvest.assert_keeps(&book.ledger);
    book.assert_no_permanent_refusal();
}

/// Scenario: an agent comes, sends, is asked to end, comes back, is killed; `weir fleet` is asked in between, as a table too.
/// Guarantees: it is shown as live with its start and what was acknowledged, then as gone for its own reason, then as live with
/// the next start, then as dead.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fleet_shows_who_lives() {
    let mut pair = Pair::begin().await;
    let first = pair.state_becomes(&["live"]).await;
    let mut sender = Sender::new(Protocol::OtlpGrpc, pair.agent.address("otlp"));
    assert_eq!(sender.send(BatchId { sender: 1, number: 1 }, SHAPE).await, Verdict::Taken);
    pair.settle().await;
    let row = pair.state_becomes(&["live"]).await;
    assert_eq!(row["records"], 1, "{row}");
    assert_eq!(row["receiver"], "weir", "{row}");
    let table = fleet(&pair.collector, &[]).await.well().text();
    let line = table.lines().find(|line| line.starts_with("edge-1")).unwrap_or_else(|| panic!("{table}"));
    assert!(line.contains("live"), "{table}");
    pair.collector.metric_becomes(SHOWN, "weir_link_agents", &[("receiver", "weir")], 1.0).await;

    assert!(pair.agent.terminate().await.success());
    let left = pair.state_becomes(&["idle"]).await;
    assert!(!left["event"].as_str().expect("a text").is_empty(), "{left}");
    pair.agent.restart().await;
    let second = pair.state_becomes(&["live"]).await;
    assert_eq!(second["incarnation"], first["incarnation"]);
    assert_eq!(second["epoch"].as_u64(), first["epoch"].as_u64().map(|epoch| epoch + 1), "{first} {second}");
    pair.agent.kill().await;
    pair.state_becomes(&["dead"]).await;
    pair.collector.metric_becomes(SHOWN, "weir_link_agents", &[("receiver", "weir")], 0.0).await;
}

/// Scenario: the collector is away when the agent starts, and while it takes batches; it comes later.
/// Guarantees: senders are answered meanwhile, and everything arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_waits_for_its_collector() {
    let mut pair = Pair::begin().await;
    pair.collector.kill().await;
    pair.agent.kill().await;
    pair.agent.restart().await;
    let book = Book::default();
    let load = Load::start(crew(&pair.agent, &[Protocol::OtlpGrpc], 2), SHAPE, None, &book);
    book.reaches(50).await;
    load.stop().await;
    pair.collector.restart().await;
    pair.settle().await;
    pair.harvest.assert_keeps(&book.ledger);
}

/// Scenario: with the agent at work, its configuration is read again: unchanged but for another exporter's batch; then with
/// another pipeline that sends over the link.
/// Guarantees: the first does not cut the link, the second makes it anew; nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_cuts_only_a_link_that_changed() {
    let mut pair = Pair::begin().await;
    let session = |row: &Value| row["session"].as_u64().expect("it has a stream");
    let first = session(&pair.state_becomes(&["live"]).await);
    let book = Book::default();
    let load = Load::start(crew(&pair.agent, &[Protocol::OtlpGrpc], 2), SHAPE, None, &book);
    book.reaches(50).await;

    let beside = AGENT.replace("exporters:\n  weir:", "exporters:\n  debug:\n  weir:").replace(
        "logs: {receivers: [otlp], exporters: [weir]}",
        "logs: {receivers: [otlp], exporters: [weir, debug]}",
    );
    reload(&mut pair.agent, &beside, 1).await;
    book.reaches(100).await;
    assert_eq!(session(&pair.state_becomes(&["live"]).await), first, "an unchanged link was cut");

    let wider = format!("{beside}    metrics: {{receivers: [otlp], exporters: [weir]}}\n");
    reload(&mut pair.agent, &wider, 2).await;
    book.reaches(150).await;
    load.stop().await;
    pair.settle().await;
    assert_ne!(session(&pair.state_becomes(&["live"]).await), first, "the link does not know the new log");
    pair.harvest.assert_keeps(&book.ledger);
}

/// Scenario: the collector has a service of events; so has the agent, where a program reports a state.
/// Guarantees: the collector tells programs that state, and what the agent says of itself: its program, its configuration's hash, its
/// parts and whether they are well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn states_of_an_agent_are_told_behind_its_collector() {
    let events = "service:\n  events: {endpoint: <events>}\n";
    let sink = OtlpSink::start().await;
    let collector = Weir::start(&COLLECTOR.replace("service:\n", events), &[("sink", sink.address())]).await;
    let agent =
        Weir::start(&AGENT.replace("service:\n", events), &[("link", collector.address("link"))]).await;
    [&agent, &collector].iter().for_each(|weir| weir.log().announce(BROKEN));

    let mut programs = ReportServiceClient::connect(format!("http://{}", agent.address("events")))
        .await
        .expect("the agent serves programs");
    let report = ReportRequest {
        kind: "app.lamp".to_owned(),
        key: "kitchen".to_owned(),
        value: b"on".to_vec(),
        ..ReportRequest::default()
    };
    programs.report(report).await.expect("a state is taken");

    let mut watchers = WatchServiceClient::connect(format!("http://{}", collector.address("events")))
        .await
        .expect("the collector serves programs");
    let wanted = [
        ("app.lamp", "kitchen"),
        ("weir.agent", "agent"),
        ("weir.component", "exporters/weir"),
        ("weir.component", "receivers/otlp"),
        ("weir.config", "config"),
    ];
    let known = until(deadline(SHOWN), async || {
        let states = watchers.list(ListRequest::default()).await.ok()?.into_inner().states;
        let has =
            |(kind, key): &(&str, &str)| states.iter().any(|state| state.kind == *kind && state.key == *key);
        wanted.iter().all(has).then_some(states)
    });
    let known = known.await.expect("the collector tells what it was told");
    assert!(known.iter().all(|state| state.agent == "edge-1"), "{known:?}");
    let value = |kind: &str| known.iter().find(|state| state.kind == kind).map(|state| state.value.clone());
    assert_eq!(value("app.lamp").as_deref(), Some(&b"on"[..]));
    let component: Value =
        serde_json::from_slice(&value("weir.component").expect("it is there")).expect("JSON");
    assert_eq!(component["healthy"], true, "{component}");
    agent.stop().await;
    collector.stop().await;
}

async fn reload(agent: &mut Weir, config: &str, reloads: usize) {
    agent.reconfigure(config);
    let pid = i32::try_from(agent.pid()).ok().and_then(Pid::from_raw).expect("a process has a number");
    kill_process(pid, Signal::HUP).expect("our own process may be told");
    let log = agent.log().clone();
    wait_until(deadline(LIFE), "the reload", || {
        let done = log.lines().iter().filter(|line| line.contains("configuration reloaded")).count();
        (done >= reloads).then_some(())
    })
    .await;
}

// === without a file ===

/// A process without a file; killed when dropped.
struct Bare {
    child: Child,
    log: std::path::PathBuf,
}

impl Bare {
    async fn start(binary: &Path, folder: &Path, name: &str, arguments: &[&str]) -> Self {
        let (log, data) = (folder.join(format!("{name}.log")), folder.join(name));
        let file = std::fs::File::create(&log).expect("our folder");
        let data = data.to_str().expect("a path of ours");
        let mut command = Command::new(binary);
        command.arg("run").args(arguments).args(["--data-dir", data]);
        command
            .env("NO_COLOR", "1")
            .env_remove("WEIR_LOG")
            .stdin(Stdio::null())
            .stderr(file)
            .kill_on_drop(true);
        let child = command.spawn().expect("the binary starts");
        let bare = Self { child, log };
        wait_until(LIFE, &format!("{name} is ready"), || bare.said("weir runs")).await;
        bare
    }

    /// A line of its log with this in it.
    fn said(&self, part: &str) -> Option<String> {
        let text = std::fs::read_to_string(&self.log).expect("our folder");
        text.lines().find(|line| line.contains(part)).map(str::to_owned)
    }

    /// The line, once it is there.
    async fn tells(&self, part: &str) -> String {
        wait_until(LIFE, &format!("a line with {part}"), || self.said(part)).await
    }

    async fn stop(mut self) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        kill_process(pid.expect("it runs"), Signal::TERM).expect("our own process may be told");
        let status =
            timeout(LIFE, self.child.wait()).await.expect("it ends").expect("a child can be waited for");
        assert!(status.success(), "{status}: {}", std::fs::read_to_string(&self.log).expect("our folder"));
    }
}

/// An address of this machine's own that nobody else is likely to have: the standard ports are free there.
fn own_address() -> Ipv4Addr {
    Ipv4Addr::new(127, fastrand::u8(64..250), fastrand::u8(..), fastrand::u8(2..250))
}

/// Scenario: `weir run --collect` and `weir run --send-to`, without any file; a batch to the agent's OTLP port.
/// Guarantees: each says what to do next; the batch is written by the collector; `weir fleet` shows the agent; both end cleanly.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_commands_make_an_agent_and_a_collector() {
    let binary = tokio::task::spawn_blocking(|| weir_tests::binary::weir(Profile::Same));
    let binary = binary.await.expect("the binary is built");
    let folder = TempDir::with_prefix("weir-link-").expect("a folder");
    let (there, here) = (own_address(), own_address());
    let link = format!("{there}:55680");
    let collector = Bare::start(&binary, folder.path(), "collector", &["--collect", &link]).await;
    let next = collector.tells("--send-to").await;
    assert!(next.contains(&link), "{next}");
    let listen = here.to_string();
    let agent =
        Bare::start(&binary, folder.path(), "agent", &["--send-to", &link, "--listen", &listen]).await;
    let next = agent.tells("OTLP").await;
    assert!(next.contains(&format!("{here}:4317")), "{next}");

    let mut sender = Sender::new(Protocol::OtlpGrpc, SocketAddr::from((here, 4317)));
    assert_eq!(sender.send(BatchId { sender: 1, number: 1 }, SHAPE).await, Verdict::Taken);
    wait_until(deadline(SHOWN), "the collector has it", || collector.said("INFO batch exporter=\"debug\""))
        .await;
    let page = format!("{there}:55681");
    let rows = command(&binary, &["fleet", "--admin", &page, "--json"]).await.well().json();
    assert_eq!(rows[0]["state"], "live", "{rows}");
    assert_eq!(rows.as_array().map(Vec::len), Some(1), "{rows}");
    agent.stop().await;
    collector.stop().await;
}

/// Scenario: both shorthands with certificates of `weir cert` and a file of revocation lists that is not there; one that is none; the
/// right one, whose configuration is only printed.
/// Guarantees: the first two are refused with the file's name and without a start; the last is valid and has the lists.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorthand_takes_revocation_lists() {
    let binary = tokio::task::spawn_blocking(|| weir_tests::binary::weir(Profile::Same));
    let binary = binary.await.expect("the binary is built");
    let folder = TempDir::with_prefix("weir-link-").expect("a folder");
    let of = |name: &str| folder.path().join(name).to_str().expect("a path of ours").to_owned();
    let certs = of("certs");
    command(&binary, &["cert", "init", "--dir", &certs]).await.well();
    command(&binary, &["cert", "issue", "localhost", "--dir", &certs]).await.well();
    let [ca, cert, key, list] =
        ["ca.pem", "localhost.pem", "localhost.key", "ca.crl"].map(|name| of(&format!("certs/{name}")));
    let garbage = of("garbage.crl");
    std::fs::write(&garbage, "no list").expect("our folder");
    let data = of("data");
    for shorthand in [&["--send-to", "localhost:9"][..], &["--collect", "127.0.0.1:0"]] {
        let run = async |crl: &str, more: &[&str]| {
            let tls = ["--ca", &ca, "--cert", &cert, "--key", &key, "--crl", crl, "--data-dir", &data];
            command(&binary, &[&["run"], shorthand, &tls, more].concat()).await
        };
        let missing = of("missing.crl");
        for (wrong, code) in [(&missing, 78), (&garbage, 1)] {
            let said = run(wrong, &[]).await;
            assert_eq!(said.code, Some(code), "{said:?}");
            assert!(said.err.contains(wrong.as_str()), "{said:?}");
        }
        let text = run(&list, &["--print-config"]).await.well().text();
        assert!(text.contains(&format!("crl_file: '{list}'")), "{text}");
    }
}

/// Scenario: shorthands that cannot be meant: over a network without a certificate, together, beside a file, without their flag;
/// a configuration that is only printed, read by `validate`; a page that is no collector's.
/// Guarantees: each is refused with what to do; what is printed is valid; an agent's page is told from a collector's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorthand_that_cannot_be_meant_is_refused() {
    let binary = tokio::task::spawn_blocking(|| weir_tests::binary::weir(Profile::Same));
    let binary = binary.await.expect("the binary is built");
    let folder = TempDir::with_prefix("weir-link-").expect("a folder");
    let data = folder.path().to_str().expect("a path of ours");
    let run = async |arguments: &[&str]| command(&binary, &[&["run"], arguments].concat()).await;

    let said = run(&["--send-to", "collector.example:55680", "--data-dir", data]).await;
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains("weir cert init"), "{said:?}");
    let said = run(&["--collect", "0.0.0.0:55680", "--data-dir", data]).await;
    assert_eq!(said.code, Some(78), "{said:?}");
    assert!(said.err.contains("weir cert init"), "{said:?}");
    for wrong in [
        vec!["--send-to", "localhost:1", "--collect"],
        vec!["--send-to", "localhost:1", "--config", "weir.yaml"],
        vec!["--collect=127.0.0.1:1", "weir.yaml"],
        vec!["--send-to", "localhost:1", "--cert", "cert.pem"],
        vec!["--collect", "--crl", "ca.crl"],
    ] {
        assert_eq!(run(&wrong).await.code, Some(64), "{wrong:?}");
    }
    let said = run(&["--print-config"]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("--send-to"), "{said:?}");

    for shorthand in [&["--send-to", "localhost:55680"][..], &["--collect"]] {
        let text = run(&[shorthand, &["--data-dir", data, "--print-config"]].concat()).await.well().text();
        let file = folder.path().join("weir.yaml");
        std::fs::write(&file, &text).expect("our folder");
        let said =
            command(&binary, &["validate", file.to_str().expect("a path of ours")]).await.well().text();
        assert!(said.contains("weir"), "{said}");
    }

    let agent = Weir::start(AGENT, &[("link", SocketAddr::from((Ipv4Addr::LOCALHOST, 9)))]).await;
    agent.log().announce(BROKEN);
    let said = fleet(&agent, &[]).await;
    assert_eq!(said.code, Some(1), "{said:?}");
    assert!(said.err.contains("receiver of type weir"), "{said:?}");
    agent.stop().await;
}
