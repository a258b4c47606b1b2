//! The door seen from outside: real clients and scripted ones send, a scripted consumer stands behind.

mod clients;
mod streams;
mod web;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::stream;
use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};
use tonic::{Response, Status, Streaming};
use weir_model::count::ReceiverCounts;
use weir_model::{Arrival, BoxFuture, Consumer, Held, Ledger, NodeRegistry, Reason, Receipt, Refusal, Seq};
use weir_net::Drain;
use weir_proto::opencensus::proto::agent::common::v1::{Node, ProcessIdentifier, ServiceInfo};
use weir_proto::opencensus::proto::agent::metrics::v1::ExportMetricsServiceRequest as OcMetrics;
use weir_proto::opencensus::proto::agent::trace::v1::ExportTraceServiceRequest as OcTraces;
use weir_proto::opencensus::proto::agent::trace::v1::ExportTraceServiceResponse;
use weir_proto::opencensus::proto::agent::trace::v1::trace_service_client::TraceServiceClient;
use weir_proto::opencensus::proto::metrics::v1 as ocm;
use weir_proto::opencensus::proto::resource::v1::Resource;
use weir_proto::opencensus::proto::trace::v1::{Span, TruncatableString};
use weir_proto::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_proto::opentelemetry::proto::common::v1::any_value::Value as Any;
use weir_proto::opentelemetry::proto::trace::v1::ResourceSpans;

use super::{Config, TranslationCounts};
use crate::door::{Pipelines, Settings};

/// No state of a test takes so long.
const DEADLINE: Duration = Duration::from_secs(20);

/// What a client sends may wait here for so long a script.
const SCRIPT_MAX: usize = 64;

// === what stands behind the door ===

/// What the consumer says to one arrival.
#[derive(Clone)]
enum Say {
    Take,
    ForNow,
    ForGood,
    /// Takes it once a permit is there.
    Hold(Arc<Semaphore>),
    /// Refuses it for now once a permit is there.
    HoldThenRefuse(Arc<Semaphore>),
}

/// Says what it is told to, then takes everything.
#[derive(Default)]
struct Scripted {
    script: Mutex<VecDeque<Say>>,
    /// What it says when the script has ended and is not `Take`.
    always: Mutex<Option<Say>>,
    arrivals: Mutex<Vec<Arrival>>,
}

impl Scripted {
    fn saying(script: impl IntoIterator<Item = Say>) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(script.into_iter().collect()), ..Self::default() })
    }

    fn always(say: Say) -> Arc<Self> {
        Arc::new(Self { always: Mutex::new(Some(say)), ..Self::default() })
    }

    fn seen(&self) -> usize {
        self.arrivals.lock().unwrap().len()
    }

    fn arrivals(&self) -> Vec<Arrival> {
        self.arrivals.lock().unwrap().clone()
    }

    /// The groups of spans of all arrivals, in order.
    fn groups(&self) -> Vec<ResourceSpans> {
        let decode = |arrival: &Arrival| ExportTraceServiceRequest::decode(&*arrival.body).expect("OTLP");
        self.arrivals().iter().flat_map(|arrival| decode(arrival).resource_spans).collect()
    }

    /// The names of all spans that arrived, in order.
    fn names(&self) -> Vec<String> {
        let scopes = self.groups().into_iter().flat_map(|group| group.scope_spans);
        scopes.flat_map(|scope| scope.spans).map(|span| span.name).collect()
    }

    fn metrics(&self) -> Vec<ExportMetricsServiceRequest> {
        let decode = |arrival: &Arrival| ExportMetricsServiceRequest::decode(&*arrival.body).expect("OTLP");
        self.arrivals().iter().map(decode).collect()
    }
}

impl Consumer for Scripted {
    fn consume(&self, mut arrival: Arrival) -> BoxFuture<'_, Result<Receipt, Refusal>> {
        Box::pin(async move {
            // Kept without its claim, so that a test sees what the door itself still holds.
            let claim = arrival.claim.take().expect("an arrival is paid for");
            assert!(claim.bytes() >= arrival.body.len() as u64, "the body is not paid for");
            let next = self.script.lock().unwrap().pop_front();
            let say = next.or_else(|| self.always.lock().unwrap().clone()).unwrap_or(Say::Take);
            self.arrivals.lock().unwrap().push(arrival);
            let is_full = || Err(Refusal::transient(Reason::QueueFull, None, "the queue is full"));
            match say {
                Say::Take => {}
                Say::ForNow => return is_full(),
                Say::HoldThenRefuse(gate) => {
                    gate.acquire().await.unwrap().forget();
                    return is_full();
                }
                Say::ForGood => return Err(Refusal::permanent(Reason::Rejected, "never this")),
                Say::Hold(gate) => gate.acquire().await.unwrap().forget(),
            }
            Ok(Receipt::Held(Held::vouch(Seq(1))))
        })
    }
}

/// A door that serves.
struct Served {
    addr: SocketAddr,
    counts: ReceiverCounts,
    losses: TranslationCounts,
    nodes: Arc<NodeRegistry>,
    ledger: Arc<Ledger>,
    drain: Drain,
    serving: JoinHandle<std::io::Result<()>>,
}

fn config() -> Config {
    Config { endpoint: "127.0.0.1:0".to_owned(), max_recv_msg_size_mib: 1, ..Config::default() }
}

fn serve_with(config: Config, pipelines: Pipelines) -> Served {
    serve_paid(config, pipelines, 64 << 20)
}

/// A door with a memory budget of so many bytes.
fn serve_paid(config: Config, pipelines: Pipelines, budget: u64) -> Served {
    let ledger = Ledger::new(budget);
    let (counts, losses, nodes) = (ReceiverCounts::default(), TranslationCounts::default(), Arc::default());
    let settings = Settings {
        id: "opencensus".into(),
        pipelines: pipelines.into(),
        ledger: Arc::clone(&ledger),
        counts: counts.clone(),
    };
    let bound = config.bind(settings, Arc::clone(&nodes), losses.clone()).unwrap();
    let addr = bound.local_addrs()[0].1;
    let drain = Drain::new();
    let serving = tokio::spawn(bound.serve(drain.clone()));
    Served { addr, counts, losses, nodes, ledger, drain, serving }
}

fn serve(consumer: &Arc<Scripted>) -> Served {
    let consumer: Arc<dyn Consumer> = consumer.clone();
    serve_with(config(), Pipelines::all(consumer))
}

impl Served {
    async fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.addr)).unwrap().connect().await.unwrap()
    }

    /// Opens an `Export` stream of traces.
    async fn export(&self) -> Export {
        export_on(self.channel().await).await
    }

    fn refused(&self, reason: Reason) -> u64 {
        self.counts.refused.of(weir_model::Signal::Traces, reason).get()
    }

    fn accepted(&self) -> u64 {
        self.counts.accepted.of(weir_model::Signal::Traces).get()
    }

    /// Ends the door and checks that nothing was left behind.
    async fn end(self) {
        self.drain.signal();
        timeout(DEADLINE, self.serving).await.expect("the door ends").unwrap().unwrap();
        assert_eq!(self.counts.streams.get(), 0, "a stream is still counted");
        assert_eq!(self.ledger.used(), 0, "memory is still claimed");
        let rows = self.nodes.list(std::time::Instant::now());
        assert!(rows.iter().all(|row| row.streams == 0), "a stream is still in the table of nodes");
    }
}

// === what stands before it ===

/// A stream of traces as a client holds it.
struct Export {
    sender: Option<mpsc::Sender<OcTraces>>,
    replies: Streaming<ExportTraceServiceResponse>,
}

async fn export_on(channel: Channel) -> Export {
    let (sender, requests) = requests();
    let replies = TraceServiceClient::new(channel).export(requests).await.map(Response::into_inner).unwrap();
    Export { sender: Some(sender), replies }
}

/// A stream of requests that ends when its sender is dropped.
fn requests<T: Send + 'static>() -> (mpsc::Sender<T>, impl futures_util::Stream<Item = T> + Send + 'static) {
    let (sender, receiver) = mpsc::channel(SCRIPT_MAX);
    let requests = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|request| (request, receiver))
    });
    (sender, requests)
}

impl Export {
    async fn send(&self, request: OcTraces) {
        let sender = self.sender.as_ref().expect("the stream is open");
        timeout(DEADLINE, sender.send(request)).await.unwrap().expect("the stream takes it");
    }

    /// Ends the client's side and waits for the server's.
    async fn finish(&mut self) -> Result<(), Status> {
        self.sender = None;
        self.ended().await
    }

    /// Waits until the server ends the stream.
    async fn ended(&mut self) -> Result<(), Status> {
        let reply = timeout(DEADLINE, self.replies.message()).await.expect("the stream ends")?;
        assert!(reply.is_none(), "a reply was sent, which some libraries never read");
        Ok(())
    }
}

fn node(name: &str) -> Option<Node> {
    Some(Node {
        identifier: Some(ProcessIdentifier { host_name: name.to_owned(), pid: 7, start_timestamp: None }),
        service_info: Some(ServiceInfo { name: name.to_owned() }),
        ..Node::default()
    })
}

fn resource(label: &str) -> Option<Resource> {
    Some(Resource { r#type: String::new(), labels: [("label".to_owned(), label.to_owned())].into() })
}

fn span(name: &str) -> Span {
    Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        name: Some(TruncatableString { value: name.to_owned(), truncated_byte_count: 0 }),
        ..Span::default()
    }
}

fn spans(names: &[&str]) -> OcTraces {
    OcTraces { spans: names.iter().map(|name| span(name)).collect(), ..OcTraces::default() }
}

/// A gauge with one point.
fn gauge(value: i64) -> OcMetrics {
    let descriptor =
        ocm::MetricDescriptor { name: "gauge".to_owned(), r#type: 1, ..ocm::MetricDescriptor::default() };
    let point = ocm::Point { timestamp: None, value: Some(ocm::point::Value::Int64Value(value)) };
    let series = ocm::TimeSeries { points: vec![point], ..ocm::TimeSeries::default() };
    let metric =
        ocm::Metric { metric_descriptor: Some(descriptor), timeseries: vec![series], resource: None };
    OcMetrics { metrics: vec![metric], ..OcMetrics::default() }
}

/// The texts among the attributes of a group's resource.
fn attribute(group: &ResourceSpans, key: &str) -> Option<String> {
    let attributes = &group.resource.as_ref()?.attributes;
    let value = attributes.iter().find(|pair| pair.key == key)?.value.clone()?.value?;
    match value {
        Any::StringValue(text) => Some(text),
        other => panic!("{key} is {other:?}"),
    }
}

/// Waits until `is_so`.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let waited = timeout(DEADLINE, async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}
