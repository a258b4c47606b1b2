//! States, by programs in Python whose code is generated from our own .proto: one reports at an agent, one watches at a
//! collector.

use serde_json::{Value, json};
use tokio::process::Command;
use weir_tests::{Profile, Weir, wait_until};

use crate::client::Client;
use crate::install::{python, sources};
use crate::stage::{DEADLINE, TURN};

const COLLECTOR: &str = "
receivers:
  weir: {endpoint: <link>, heartbeat: 1s}
exporters:
  debug: {}
service:
  events: {endpoint: <events>}
  pipelines:
    traces: {receivers: [weir], exporters: [debug]}
";

const AGENT: &str = "
receivers:
  otlp: {protocols: {grpc: {endpoint: <otlp>}}}
exporters:
  weir: {endpoint: <link>, identity: edge-1}
service:
  events: {endpoint: <events>}
  pipelines:
    traces: {receivers: [otlp], exporters: [weir]}
";

/// Scenario: a program reports states at an agent, another watches at the collector; the collector restarts, then the agent; each
/// time something is reported while it is away, or right after.
/// Guarantees: who waits for the collector is answered when the collector has it; the watcher hears of each newest value, of a
/// deletion, and goes on behind its cursor after a restart.
#[tokio::test(flavor = "multi_thread")]
async fn python_reports_and_watches_across_restarts() {
    let _turn = TURN.lock().await;
    let mut collector = Weir::start_as(Profile::Release, COLLECTOR, &[]).await;
    let link = collector.address("link");
    let mut agent = Weir::start_as(Profile::Release, AGENT, &[("link", link)]).await;
    agent.log().announce("no stream to the collector");
    let mut reporter = Client::start(&mut program(&agent, "report"));
    let watcher = Client::start(&mut program(&collector, "watch"));

    reporter.command("report app guestbook v1 collector").await;
    hears(&watcher, "app", "guestbook", "v1", "LIVE").await;
    reporter.command("stream node 20").await;
    hears(&watcher, "node", "k19", "19", "LIVE").await;

    collector.terminate().await;
    reporter.command("report app guestbook v2 agent").await;
    collector.restart().await;
    hears(&watcher, "app", "guestbook", "v2", "LIVE").await;
    let resumed = json!({"event": "started", "resumed": true});
    assert!(
        watcher.said().facts.contains(&resumed),
        "it goes on behind its cursor: {:?}",
        watcher.said().facts
    );

    agent.terminate().await;
    agent.restart().await;
    reporter.command("report app guestbook v3 collector").await;
    hears(&watcher, "app", "guestbook", "v3", "LIVE").await;
    reporter.command("delete app guestbook").await;
    hears(&watcher, "app", "guestbook", "", "DELETED").await;

    let revisions = reporter.finish().await.facts;
    let revisions: Vec<_> = revisions.iter().filter_map(|fact| fact["revision"].as_u64()).collect();
    assert!(revisions.is_sorted() && revisions.len() == 4, "revisions rise: {revisions:?}");
    agent.stop().await;
    collector.stop().await;
}

/// The program, in this role, at a daemon's address for it.
fn program(weir: &Weir, role: &str) -> Command {
    let proto = sources("python").join("../../../proto");
    let mut command = Command::new(python("events"));
    command.arg(sources("python").join("weir_events.py")).arg(proto);
    command.arg(weir.address("events").to_string()).arg(role);
    command
}

/// Waits until a watcher has heard this of a resource.
async fn hears(watcher: &Client, kind: &str, key: &str, value: &str, standing: &str) {
    let is_it = |fact: &Value| {
        fact["agent"] == "edge-1"
            && (&fact["kind"], &fact["key"]) == (&kind.into(), &key.into())
            && (&fact["value"], &fact["standing"]) == (&value.into(), &standing.into())
    };
    let what = format!("the watcher hears of {kind} {key} {value} {standing}");
    wait_until(DEADLINE, &what, || watcher.said().facts.iter().any(is_it).then_some(())).await;
}
