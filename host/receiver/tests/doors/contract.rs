//! The law of doors (`weir_model::contract`), checked over each of them: success only for a receipt, refusals in the
//! words of the protocol, nothing left behind.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tonic::{Code, Status};
use weir_model::Ledger;
use weir_model::{BoxFuture, Reason, Signal};
use weir_proto::google;
use weir_proto::opentelemetry::proto::collector::logs::v1::ExportLogsServiceRequest;
use weir_proto::opentelemetry::proto::collector::logs::v1::logs_service_client::LogsServiceClient;
use weir_proto::opentelemetry::proto::collector::metrics::v1::ExportMetricsServiceRequest;
use weir_proto::opentelemetry::proto::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use weir_proto::opentelemetry::proto::collector::trace::v1::trace_service_client::TraceServiceClient;
use weir_proto::opentelemetry::proto::logs::v1::{LogRecord, ResourceLogs, ScopeLogs};
use weir_proto::opentelemetry::proto::metrics::v1::{
    Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric,
};
use weir_receiver::{Bound, Pipelines};

use crate::harness::{
    Answer, DEADLINE, SPAN_JSON, Say, Scripted, Served, config, eventually, post, serve, serve_otlp,
    settings, traces,
};
use crate::plugin_grpc;
use crate::plugin_http::Recorder;

/// What a sender understood.
#[derive(Debug, PartialEq, Eq)]
enum Heard {
    Success,
    /// Send it again after this.
    ForNow(Duration),
    ForGood,
}

/// One door with a way to send it one item.
struct Way {
    name: &'static str,
    protocol: &'static str,
    signal: Signal,
    send: fn(SocketAddr) -> BoxFuture<'static, Heard>,
}

impl Way {
    fn is_of_plugin(&self) -> bool {
        matches!(self.protocol, "http" | "grpc")
    }
}

const WAYS: [Way; 7] = [
    Way {
        name: "gRPC traces",
        protocol: "otlp/grpc",
        signal: Signal::Traces,
        send: |addr| Box::pin(grpc_traces(addr)),
    },
    Way {
        name: "gRPC metrics",
        protocol: "otlp/grpc",
        signal: Signal::Metrics,
        send: |addr| Box::pin(grpc_metrics(addr)),
    },
    Way {
        name: "gRPC logs",
        protocol: "otlp/grpc",
        signal: Signal::Logs,
        send: |addr| Box::pin(grpc_logs(addr)),
    },
    Way {
        name: "HTTP protobuf",
        protocol: "otlp/http",
        signal: Signal::Traces,
        send: |addr| Box::pin(http_protobuf(addr)),
    },
    Way {
        name: "HTTP JSON",
        protocol: "otlp/http",
        signal: Signal::Traces,
        send: |addr| Box::pin(http_json(addr)),
    },
    Way { name: "plugin", protocol: "http", signal: Signal::Traces, send: |addr| Box::pin(plugin(addr)) },
    Way {
        name: "gRPC plugin",
        protocol: "grpc",
        signal: Signal::Traces,
        send: |addr| Box::pin(plugin_over_grpc(addr)),
    },
];

async fn grpc_traces(addr: SocketAddr) -> Heard {
    let mut client = TraceServiceClient::connect(format!("http://{addr}")).await.unwrap();
    heard_over_grpc(client.export(traces(1, 0)).await)
}

async fn grpc_metrics(addr: SocketAddr) -> Heard {
    let gauge = Gauge { data_points: vec![NumberDataPoint::default()] };
    let metric =
        Metric { name: "load".to_owned(), data: Some(metric::Data::Gauge(gauge)), ..Metric::default() };
    let scope_metrics = vec![ScopeMetrics { metrics: vec![metric], ..ScopeMetrics::default() }];
    let resource_metrics = vec![ResourceMetrics { scope_metrics, ..ResourceMetrics::default() }];
    let mut client = MetricsServiceClient::connect(format!("http://{addr}")).await.unwrap();
    heard_over_grpc(client.export(ExportMetricsServiceRequest { resource_metrics }).await)
}

async fn grpc_logs(addr: SocketAddr) -> Heard {
    let scope_logs = vec![ScopeLogs { log_records: vec![LogRecord::default()], ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    let mut client = LogsServiceClient::connect(format!("http://{addr}")).await.unwrap();
    heard_over_grpc(client.export(ExportLogsServiceRequest { resource_logs }).await)
}

/// As OTLP's senders understand a status.
fn heard_over_grpc<T>(answer: Result<tonic::Response<T>, Status>) -> Heard {
    let status = match answer {
        Ok(_) => return Heard::Success,
        Err(status) => status,
    };
    match status.code() {
        Code::Unavailable => Heard::ForNow(retry_delay(&status).expect("UNAVAILABLE comes with RetryInfo")),
        Code::InvalidArgument => Heard::ForGood,
        code => panic!("{code:?}: {}", status.message()),
    }
}

/// The delay in `google.rpc.RetryInfo`, decoded as a library would.
pub(crate) fn retry_delay(status: &Status) -> Option<Duration> {
    let details = google::rpc::Status::decode(status.details()).unwrap();
    assert_eq!(details.code, status.code() as i32);
    assert_eq!(details.message, status.message());
    let info = details.details.iter().find(|any| any.type_url.ends_with("google.rpc.RetryInfo"))?;
    let info = google::rpc::RetryInfo::decode(&*info.value).unwrap();
    let delay = info.retry_delay.unwrap();
    Some(Duration::new(delay.seconds.unsigned_abs(), delay.nanos.unsigned_abs()))
}

async fn http_protobuf(addr: SocketAddr) -> Heard {
    let body = traces(1, 0).encode_to_vec();
    heard_over_http(&post(addr, "/v1/traces", &[("content-type", "application/x-protobuf")], body).await)
}

async fn http_json(addr: SocketAddr) -> Heard {
    heard_over_http(&post(addr, "/v1/traces", &[("content-type", "application/json")], SPAN_JSON).await)
}

async fn plugin(addr: SocketAddr) -> Heard {
    heard_over_http(&post(addr, "/telemetry", &[], traces(1, 0).encode_to_vec()).await)
}

async fn plugin_over_grpc(addr: SocketAddr) -> Heard {
    let answer = plugin_grpc::call(addr, "/t.S/Post", traces(1, 0).encode_to_vec()).await;
    heard_over_grpc(answer.map(tonic::Response::new))
}

/// As OTLP's senders understand a code.
fn heard_over_http(answer: &Answer) -> Heard {
    match answer.status.as_u16() {
        200 | 202 => Heard::Success,
        503 => Heard::ForNow(Duration::from_secs(answer.header("retry-after").parse().unwrap())),
        400 => Heard::ForGood,
        status => panic!("{status}: {}", answer.text()),
    }
}

/// Every door in front of one consumer.
fn doors(consumer: &Arc<Scripted>) -> (Served, Served) {
    let pipelines = Pipelines::all(Arc::clone(consumer) as _);
    let otlp = serve_otlp(config(), pipelines.clone(), 8 << 20);
    let ledger = Ledger::new(8 << 20);
    let settings = settings(pipelines, &ledger);
    let counts = settings.counts.clone();
    let mut bound = Bound::new();
    weir_receiver::plugin_http::Config::at("127.0.0.1:0")
        .bind(&mut bound, "endpoint", Arc::new(Recorder::default()), settings.clone())
        .unwrap();
    weir_receiver::plugin_grpc::Config::at("127.0.0.1:0")
        .bind(&mut bound, "endpoint", Arc::new(plugin_grpc::Recorder::default()), settings)
        .unwrap();
    (otlp, serve(bound, counts, ledger))
}

fn door_of<'a>(way: &Way, (otlp, plugin): &'a (Served, Served)) -> &'a Served {
    if way.is_of_plugin() { plugin } else { otlp }
}

/// Scenario: the pipeline takes, refuses for now with and without a wish, refuses for good, and takes again.
/// Guarantees: each sender hears just that, the counters say the same, and no memory stays claimed.
#[tokio::test]
async fn every_door_says_what_the_pipeline_said() {
    for way in WAYS {
        let consumer = Scripted::saying([
            Say::Take,
            Say::ForNow(Some(Duration::from_secs(7))),
            Say::ForNow(None),
            Say::ForGood,
            Say::Take,
        ]);
        let served = doors(&consumer);
        let door = door_of(&way, &served);
        let addr = door.addr(way.protocol);
        let expected = [
            Heard::Success,
            Heard::ForNow(Duration::from_secs(7)),
            Heard::ForNow(Duration::from_secs(1)),
            Heard::ForGood,
            Heard::Success,
        ];
        for (step, expected) in expected.into_iter().enumerate() {
            assert_eq!((way.send)(addr).await, expected, "{} at step {step}", way.name);
        }
        let arrivals = consumer.taken();
        assert_eq!(arrivals.len(), 5, "{}", way.name);
        for arrival in &arrivals {
            assert_eq!((arrival.signal, arrival.items), (way.signal, 1), "{}", way.name);
            assert_eq!(&*arrival.receiver, "otlp/test");
            assert!(arrival.claim.as_ref().unwrap().bytes() >= arrival.body.len() as u64);
        }
        if way.signal == Signal::Traces {
            assert!(
                arrivals.iter().all(|arrival| arrival.body == traces(1, 0).encode_to_vec()),
                "{}",
                way.name
            );
        }
        let counts = &door.counts;
        assert_eq!(counts.accepted.of(way.signal).get(), 2, "{}", way.name);
        assert_eq!(counts.refused.of(way.signal, Reason::QueueFull).get(), 2);
        assert_eq!(counts.refused.of(way.signal, Reason::Malformed).get(), 1);
        assert_eq!((counts.requests.get(), counts.requests_refused.get()), (5, 0));
        drop(arrivals);
        eventually("all memory is given back", || door.ledger.used() == 0).await;
    }
}

/// Scenario: the pipeline has the request and does not answer yet.
/// Guarantees: no sender hears success before the receipt is there, and each hears it then.
#[tokio::test]
async fn no_door_answers_before_the_receipt() {
    for way in WAYS {
        let gate = Arc::new(Semaphore::new(0));
        let consumer = Scripted::saying([Say::Hold(Arc::clone(&gate))]);
        let served = doors(&consumer);
        let sending = tokio::spawn((way.send)(door_of(&way, &served).addr(way.protocol)));
        eventually("the pipeline has it", || consumer.arrivals_seen() == 1).await;
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        assert!(!sending.is_finished(), "{} answered before the receipt", way.name);
        gate.add_permits(1);
        assert_eq!(timeout(DEADLINE, sending).await.unwrap().unwrap(), Heard::Success, "{}", way.name);
    }
}

/// Scenario: the sender goes away while the pipeline has its request.
/// Guarantees: the call ends with it: nothing runs on for nobody, and its memory comes back.
#[tokio::test]
async fn a_sender_that_leaves_ends_its_call() {
    for way in WAYS {
        let consumer = Scripted::saying([Say::Hold(Arc::new(Semaphore::new(0)))]);
        let served = doors(&consumer);
        let door = door_of(&way, &served);
        // A runtime of its own, so that the client's connection dies with it.
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.spawn((way.send)(door.addr(way.protocol)));
        eventually("the pipeline has it", || consumer.arrivals_seen() == 1).await;
        runtime.shutdown_background();
        eventually("the call ends", || consumer.abandoned.load(Ordering::SeqCst) == 1).await;
        drop(consumer.taken());
        eventually("all memory is given back", || door.ledger.used() == 0).await;
        assert_eq!(door.counts.accepted.of(way.signal).get(), 0);
    }
}

/// Scenario: the drain begins while each door has a request in its pipeline.
/// Guarantees: that request gets its answer, and serving ends.
#[tokio::test]
async fn a_drain_answers_what_was_taken() {
    for way in WAYS {
        let gate = Arc::new(Semaphore::new(0));
        let consumer = Scripted::saying([Say::Hold(Arc::clone(&gate))]);
        let (otlp, plugin) = doors(&consumer);
        let door = if way.is_of_plugin() { plugin } else { otlp };
        let sending = tokio::spawn((way.send)(door.addr(way.protocol)));
        eventually("the pipeline has it", || consumer.arrivals_seen() == 1).await;
        door.drain.signal();
        gate.add_permits(1);
        assert_eq!(timeout(DEADLINE, sending).await.unwrap().unwrap(), Heard::Success, "{}", way.name);
        timeout(DEADLINE, door.serving).await.expect("serving never ends").unwrap().unwrap();
    }
}

/// Scenario: large requests have filled their part of the budget; a large and a small request come over each door.
/// Guarantees: the large one is refused for now, the small one is taken.
#[tokio::test]
async fn a_small_batch_is_answered_under_overload() {
    let consumer = Scripted::saying([]);
    let served = serve_otlp(config(), Pipelines::all(Arc::clone(&consumer) as _), 8 << 20);
    let _others = served.ledger.claim(7 << 20).unwrap();
    let large = traces(10_000, 0);
    let grpc = served.addr("otlp/grpc");
    let http = served.addr("otlp/http");
    let mut client = TraceServiceClient::connect(format!("http://{grpc}")).await.unwrap();
    let refused = client.export(large.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(retry_delay(&refused), Some(Duration::from_secs(1)));
    client.export(traces(10, 0)).await.unwrap();
    let protobuf = [("content-type", "application/x-protobuf")];
    let refused = post(http, "/v1/traces", &protobuf, large.encode_to_vec()).await;
    assert_eq!((refused.status.as_u16(), refused.header("retry-after")), (503, "1"));
    assert_eq!(post(http, "/v1/traces", &protobuf, traces(10, 0).encode_to_vec()).await.status, 200);
    assert_eq!(consumer.arrivals_seen(), 2);
}
