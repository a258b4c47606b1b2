//! The two daemons, and what is between them.

use std::fs;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;

use serde_json::Value;
use weir_tests::{Answer, BatchId, Kept, OtlpSink, Protocol, Proxy, Sender, Shape, Verdict, Weir};

use crate::load::{Book, DOORS, door};
use crate::run::{DELIVERY_DEADLINE, PENDING, command};

/// The pipeline at both ends.
const PIPELINE: &str = "traces";

/// The agent's name, unless a story gives it another.
pub(crate) const IDENTITY: &str = "edge-1";

/// Nodes that batches are handed in for: their records are in several lanes.
const NODES: u64 = 5;

const SHAPE: Shape = Shape { spans: 3, attributes: 2, value_bytes: 12 };

/// What agent and collector speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Between {
    /// The link.
    Link,
    /// OTLP, which repeats what it does not know the fate of: what the link would be without its keys.
    Otlp,
}

/// Lines that a wire which breaks, a peer that is killed and a backend that never takes may bring about.
const WORDS_OF_A_BAD_WIRE: [&str; 6] = [
    "backend refuses for now",
    "no stream to the collector",
    "has opened a newer stream",
    // The hello of a process that was killed since. An agent that lives and is told so says it itself, which nobody announces.
    "which came late",
    // Who is connected by a wire that is silent cannot be told to go.
    "the drain was cut",
    "lines like the next one were held back",
];

/// A collector that keeps all it is given.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) weir: Weir,
    // Refuses for ever, so that whatever was persisted stays in the log.
    _backend: OtlpSink,
}

impl Collector {
    pub(crate) async fn start(between: Between) -> Self {
        let backend = OtlpSink::start().await;
        backend.answer(|_| Answer::Later { retry_after: None });
        let (receiver, config) = match between {
            Between::Link => ("weir", "{endpoint: <link>, heartbeat: 500ms}"),
            Between::Otlp => ("otlp", "{protocols: {grpc: {endpoint: <link>}}}"),
        };
        let config = format!(
            "receivers:
  {receiver}: {config}
exporters:
  otlp: {{endpoint: 'http://<backend>', retry: {{initial_interval: 10s, max_interval: 60s}}}}
service:
  drain_timeout: 1s
  queue: {{budget_mib: 16384, segment_mib: 4}}
  pipelines:
    {PIPELINE}: {{receivers: [{receiver}], exporters: [otlp]}}
"
        );
        let weir = Weir::start(&config, &[("backend", backend.address())]).await;
        announce(&weir);
        Self { weir, _backend: backend }
    }

    /// Where agents come.
    pub(crate) fn address(&self) -> SocketAddr {
        self.weir.address("link")
    }

    /// Its agents, as `weir fleet --json` shows them.
    pub(crate) async fn fleet(&self) -> Vec<Value> {
        let admin = self.weir.address("metrics").to_string();
        let said = command(self.weir.binary(), &["fleet", "--json", "--admin", &admin]).await.well();
        said.json().as_array().expect("a list of agents").clone()
    }

    /// What its log holds. It must have stopped.
    pub(crate) fn kept(&self) -> Kept {
        Kept::of(&self.weir.data_dir(), PIPELINE)
    }

    /// Adds what the log holds of a folder that was this collector's once.
    pub(crate) fn add_to(kept: &mut Kept, data_dir: &Path) {
        kept.add(data_dir, PIPELINE);
    }
}

/// Starts an agent that sends to `collector`, with its data in `data_dir` where that is given.
pub(crate) async fn agent(
    between: Between,
    collector: SocketAddr,
    identity: &str,
    data_dir: Option<&Path>,
) -> Weir {
    let (exporter, config) = match between {
        Between::Link => ("weir", format!("{{endpoint: <collector>, identity: {identity}}}")),
        Between::Otlp => (
            "otlp",
            "{endpoint: 'http://<collector>', timeout: 2s, retry: {initial_interval: 20ms, max_interval: 200ms}}"
                .to_owned(),
        ),
    };
    let data_dir = data_dir.map(|path| format!("\n  data_dir: {}", path.display())).unwrap_or_default();
    let config = format!(
        "{DOORS}exporters:
  {exporter}: {config}
service:{data_dir}
  drain_timeout: 2s
  queue: {{budget_mib: 16384, segment_mib: 4}}
  pipelines:
    {PIPELINE}: {{receivers: [opencensus, otlp, zipkin], exporters: [{exporter}]}}
"
    );
    let weir = Weir::start(&config, &[("collector", collector)]).await;
    announce(&weir);
    weir
}

fn announce(weir: &Weir) {
    WORDS_OF_A_BAD_WIRE.iter().for_each(|part| weir.log().announce(*part));
}

/// Waits until the agent has nothing left that its collector has not acknowledged.
pub(crate) async fn drained(agent: &Weir) {
    agent.metric_becomes(DELIVERY_DEADLINE, PENDING, &[], 0.0).await;
}

/// An agent, a collector, a wire.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) agent: Weir,
    pub(crate) collector: Collector,
    pub(crate) proxy: Proxy,
}

impl Pair {
    pub(crate) async fn start(between: Between) -> Self {
        let collector = Collector::start(between).await;
        let proxy = Proxy::start(collector.address()).await;
        let agent = agent(between, proxy.address(), IDENTITY, None).await;
        Self { agent, collector, proxy }
    }

    /// Faults stop, the agent hands over what it has, both stop.
    pub(crate) async fn settle(&mut self) {
        self.proxy.heal();
        drained(&self.agent).await;
        self.agent.terminate().await;
        self.collector.weir.terminate().await;
    }
}

/// Sends batches of these numbers, each from another of a few nodes than the one before; each must be taken.
pub(crate) async fn hand_in(agent: &Weir, numbers: Range<u64>, book: &Book) {
    let mut sender = Sender::new(Protocol::OtlpGrpc, agent.address(door(Protocol::OtlpGrpc)));
    for number in numbers {
        let id = BatchId { sender: u32::try_from(number % NODES).expect("a few"), number };
        let verdict = sender.send(id, SHAPE).await;
        assert_eq!(verdict, Verdict::Taken, "{}", agent.log().tail());
        book.note(id, SHAPE, verdict);
    }
}

/// Copies a folder of a daemon that has stopped; what is no file and no folder stays behind.
pub(crate) fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder is ours");
    fs::set_permissions(to, fs::metadata(from).expect("it is there").permissions()).expect("it is ours");
    for entry in fs::read_dir(from).expect("a folder of ours") {
        let entry = entry.expect("it can be read");
        let (kind, target) = (entry.file_type().expect("it has a kind"), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), &target).expect("there is room");
        }
    }
}
