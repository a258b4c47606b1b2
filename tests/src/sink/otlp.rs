//! An OTLP backend: gRPC and HTTP on one port, by each request's content type.

use std::io::Read;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use prost::Message;
use weir_proto::opentelemetry::proto::collector::logs::v1 as logs_service;
use weir_proto::opentelemetry::proto::collector::metrics::v1 as metrics_service;
use weir_proto::opentelemetry::proto::collector::trace::v1 as trace_service;
use weir_proto::opentelemetry::proto::common::v1::InstrumentationScope;
use weir_proto::opentelemetry::proto::logs::v1::LogRecord;
use weir_proto::opentelemetry::proto::metrics::v1::Metric;
use weir_proto::opentelemetry::proto::resource::v1::Resource;
use weir_proto::opentelemetry::proto::trace::v1::Span;
use weir_wire::Signal;

use super::answer::{Answer, ReplyBody, Transport, http_reply};
use super::backend::Backend;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// Of what.
    pub signal: Signal,
    /// How.
    pub transport: Transport,
    /// Its headers.
    pub headers: HeaderMap,
    /// The `Export…ServiceRequest`, decompressed and without a frame.
    pub body: Bytes,
    /// When it was there whole.
    pub at: Instant,
    /// Whether the answer was that it is taken.
    pub taken: bool,
}

/// A span with what stands around it.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenSpan {
    /// Who made it.
    pub resource: Resource,
    /// With what.
    pub scope: InstrumentationScope,
    /// The span.
    pub span: Span,
}

/// A metric with what stands around it.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenMetric {
    /// Who made it.
    pub resource: Resource,
    /// With what.
    pub scope: InstrumentationScope,
    /// The metric.
    pub metric: Metric,
}

/// A log record with what stands around it.
#[derive(Debug, Clone, PartialEq)]
pub struct SeenLog {
    /// Who made it.
    pub resource: Resource,
    /// With what.
    pub scope: InstrumentationScope,
    /// The record.
    pub record: LogRecord,
}

type Rule = Arc<dyn Fn(&Arrival) -> Answer + Send + Sync>;

struct Shared {
    rule: Mutex<Rule>,
    arrivals: Mutex<Vec<Arrival>>,
}

/// An OTLP backend. It takes everything until it is told otherwise.
pub struct OtlpSink {
    shared: Arc<Shared>,
    backend: Backend,
}

impl std::fmt::Debug for OtlpSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("OtlpSink").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl OtlpSink {
    /// Starts on a free port.
    pub async fn start() -> Self {
        let shared =
            Arc::new(Shared { rule: Mutex::new(Arc::new(|_| Answer::Take)), arrivals: Mutex::default() });
        let for_requests = Arc::clone(&shared);
        let backend = Backend::start(Arc::new(move |request| {
            let shared = Arc::clone(&for_requests);
            Box::pin(async move { shared.answer(request).await })
        }));
        Self { backend: backend.await, shared }
    }

    /// Where it listens, for gRPC and HTTP alike.
    pub fn address(&self) -> SocketAddr {
        self.backend.address()
    }

    /// From now on it answers by this rule.
    pub fn answer(&self, rule: impl Fn(&Arrival) -> Answer + Send + Sync + 'static) {
        *self.shared.rule.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rule);
    }

    /// Goes away: refuses connections, drops those that are there.
    pub async fn down(&self) {
        self.backend.down().await;
    }

    /// Comes back under the same address.
    pub async fn up(&self) {
        self.backend.up().await;
    }

    /// Every request so far, taken or not, in the order of their answers.
    pub fn arrivals(&self) -> Vec<Arrival> {
        self.shared.arrivals().clone()
    }

    /// Every request so far, which it then forgets.
    pub fn drain(&self) -> Vec<Arrival> {
        std::mem::take(&mut *self.shared.arrivals())
    }

    /// Bodies of one signal that it took.
    pub fn taken(&self, signal: Signal) -> Vec<Bytes> {
        let arrivals = self.shared.arrivals();
        arrivals.iter().filter(|a| a.taken && a.signal == signal).map(|a| a.body.clone()).collect()
    }

    /// The spans that it took.
    pub fn spans(&self) -> Vec<SeenSpan> {
        let mut seen = Vec::new();
        for body in self.taken(Signal::Traces) {
            let request = trace_service::ExportTraceServiceRequest::decode(body).expect("a request of spans");
            for group in request.resource_spans {
                let resource = group.resource.unwrap_or_default();
                for inner in group.scope_spans {
                    let scope = inner.scope.unwrap_or_default();
                    let of = |span| SeenSpan { resource: resource.clone(), scope: scope.clone(), span };
                    seen.extend(inner.spans.into_iter().map(of));
                }
            }
        }
        seen
    }

    /// The metrics that it took.
    pub fn metrics(&self) -> Vec<SeenMetric> {
        let mut seen = Vec::new();
        for body in self.taken(Signal::Metrics) {
            let request =
                metrics_service::ExportMetricsServiceRequest::decode(body).expect("a request of metrics");
            for group in request.resource_metrics {
                let resource = group.resource.unwrap_or_default();
                for inner in group.scope_metrics {
                    let scope = inner.scope.unwrap_or_default();
                    let of = |metric| SeenMetric { resource: resource.clone(), scope: scope.clone(), metric };
                    seen.extend(inner.metrics.into_iter().map(of));
                }
            }
        }
        seen
    }

    /// The log records that it took.
    pub fn logs(&self) -> Vec<SeenLog> {
        let mut seen = Vec::new();
        for body in self.taken(Signal::Logs) {
            let request =
                logs_service::ExportLogsServiceRequest::decode(body).expect("a request of log records");
            for group in request.resource_logs {
                let resource = group.resource.unwrap_or_default();
                for inner in group.scope_logs {
                    let scope = inner.scope.unwrap_or_default();
                    let of = |record| SeenLog { resource: resource.clone(), scope: scope.clone(), record };
                    seen.extend(inner.log_records.into_iter().map(of));
                }
            }
        }
        seen
    }
}

impl Shared {
    fn arrivals(&self) -> MutexGuard<'_, Vec<Arrival>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let Some((signal, transport)) = route(&request) else {
            return http_reply(StatusCode::NOT_FOUND, "text/plain", "no such way in".into());
        };
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return http_reply(StatusCode::BAD_REQUEST, "text/plain", "the body broke off".into());
        };
        let body = match plain(&head.headers, transport, body.to_bytes()) {
            Ok(body) => body,
            Err(why) => return refuse(transport, why),
        };
        if let Err(error) = decode(signal, &body) {
            return refuse(transport, error.to_string());
        }
        let at = Instant::now();
        let mut arrival = Arrival { signal, transport, headers: head.headers, body, at, taken: false };
        let rule = Arc::clone(&self.rule.lock().unwrap_or_else(PoisonError::into_inner));
        let answer = rule(&arrival);
        arrival.taken = answer.takes();
        let answer = answer.due().await;
        self.arrivals().push(arrival);
        let reply = Bytes::from(reply(signal, &answer));
        match transport {
            Transport::Grpc => answer.over_grpc(&reply),
            Transport::HttpProtobuf | Transport::HttpJson => {
                answer.over_http(StatusCode::OK, "application/x-protobuf", reply)
            }
        }
    }
}

fn refuse(transport: Transport, why: String) -> Response<ReplyBody> {
    match transport {
        Transport::Grpc => Answer::Never(why).over_grpc(&[]),
        Transport::HttpProtobuf | Transport::HttpJson => {
            Answer::Never(why).over_http(StatusCode::OK, "text/plain", Bytes::new())
        }
    }
}

fn route(request: &Request<Incoming>) -> Option<(Signal, Transport)> {
    let content_type = request.headers().get("content-type")?.to_str().ok()?;
    let path = request.uri().path();
    if content_type.starts_with("application/grpc") {
        let signal = Signal::ALL.into_iter().find(|signal| path == grpc_path(*signal))?;
        return Some((signal, Transport::Grpc));
    }
    let signal = Signal::ALL.into_iter().find(|signal| path == format!("/v1/{signal}"))?;
    (content_type == "application/x-protobuf").then_some((signal, Transport::HttpProtobuf))
}

/// The path of a signal's service.
pub fn grpc_path(signal: Signal) -> &'static str {
    match signal {
        Signal::Traces => "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
        Signal::Metrics => "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
        Signal::Logs => "/opentelemetry.proto.collector.logs.v1.LogsService/Export",
    }
}

/// The message: out of its frame, decompressed.
fn plain(headers: &HeaderMap, transport: Transport, body: Bytes) -> Result<Bytes, String> {
    let (coding, body, compressed) = match transport {
        Transport::Grpc => {
            let head = body.get(..5).ok_or("no frame")?;
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
            if body.len() != 5 + length {
                return Err(format!("a frame of {length} bytes in a body of {}", body.len()));
            }
            ("grpc-encoding", body.slice(5..), head[0] == 1)
        }
        Transport::HttpProtobuf | Transport::HttpJson => ("content-encoding", body, true),
    };
    let coding = headers.get(coding).and_then(|value| value.to_str().ok()).unwrap_or("identity");
    let unreadable = |error: std::io::Error| format!("{coding}: {error}");
    match coding {
        _ if !compressed => Ok(body),
        "identity" => Ok(body),
        "gzip" => {
            let mut inflated = Vec::new();
            flate2::read::MultiGzDecoder::new(&*body).read_to_end(&mut inflated).map_err(unreadable)?;
            Ok(inflated.into())
        }
        "zstd" => zstd::decode_all(&*body).map(Bytes::from).map_err(unreadable),
        other => Err(format!("no such coding: {other}")),
    }
}

fn decode(signal: Signal, body: &Bytes) -> Result<(), prost::DecodeError> {
    match signal {
        Signal::Traces => trace_service::ExportTraceServiceRequest::decode(body.clone()).map(drop),
        Signal::Metrics => metrics_service::ExportMetricsServiceRequest::decode(body.clone()).map(drop),
        Signal::Logs => logs_service::ExportLogsServiceRequest::decode(body.clone()).map(drop),
    }
}

fn reply(signal: Signal, answer: &Answer) -> Vec<u8> {
    let Answer::TakePartly { rejected, why } = answer else {
        return Vec::new();
    };
    let (rejected, error_message) = (*rejected, why.clone());
    match signal {
        Signal::Traces => {
            let partial_success =
                Some(trace_service::ExportTracePartialSuccess { rejected_spans: rejected, error_message });
            trace_service::ExportTraceServiceResponse { partial_success }.encode_to_vec()
        }
        Signal::Metrics => {
            let partial_success = Some(metrics_service::ExportMetricsPartialSuccess {
                rejected_data_points: rejected,
                error_message,
            });
            metrics_service::ExportMetricsServiceResponse { partial_success }.encode_to_vec()
        }
        Signal::Logs => {
            let partial_success = Some(logs_service::ExportLogsPartialSuccess {
                rejected_log_records: rejected,
                error_message,
            });
            logs_service::ExportLogsServiceResponse { partial_success }.encode_to_vec()
        }
    }
}
