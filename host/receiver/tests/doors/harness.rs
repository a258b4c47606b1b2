//! A consumer that says what it is told to, doors in front of it, and a plain HTTP client.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use weir_model::count::ReceiverCounts;
use weir_model::{Arrival, BoxFuture, Consumer, Held, Ledger, Reason, Receipt, Refusal, Seq};
use weir_net::Drain;
use weir_proto::opentelemetry::proto::collector::trace::v1::ExportTraceServiceRequest;
use weir_proto::opentelemetry::proto::trace::v1::{ResourceSpans, ScopeSpans, Span};
use weir_receiver::otlp::{Config, GrpcConfig, HttpConfig};
use weir_receiver::{Behind, Bound, Settings};

/// No state of a test takes so long.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

/// What a consumer says to one arrival.
#[derive(Debug, Clone)]
pub(crate) enum Say {
    Take,
    ForNow(Option<Duration>),
    ForGood,
    /// Takes it once a permit is there.
    Hold(Arc<Semaphore>),
}

/// Says what it is told to, then takes everything.
#[derive(Default)]
pub(crate) struct Scripted {
    pub(crate) script: Mutex<VecDeque<Say>>,
    pub(crate) arrivals: Mutex<Vec<Arrival>>,
    /// Calls that were dropped before they had an answer.
    pub(crate) abandoned: AtomicUsize,
}

struct Call<'a>(&'a Scripted, bool);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if !self.1 {
            self.0.abandoned.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Scripted {
    pub(crate) fn saying(script: impl IntoIterator<Item = Say>) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(script.into_iter().collect()), ..Self::default() })
    }

    /// What arrived since the last look.
    pub(crate) fn taken(&self) -> Vec<Arrival> {
        std::mem::take(&mut *self.arrivals.lock().unwrap())
    }

    pub(crate) fn arrivals_seen(&self) -> usize {
        self.arrivals.lock().unwrap().len()
    }
}

impl Consumer for Scripted {
    fn consume(&self, arrival: Arrival) -> BoxFuture<'_, Result<Receipt, Refusal>> {
        Box::pin(async move {
            let mut call = Call(self, false);
            let say = self.script.lock().unwrap().pop_front().unwrap_or(Say::Take);
            self.arrivals.lock().unwrap().push(arrival);
            let answer = match say {
                Say::Take => Ok(Receipt::Held(Held::vouch(Seq(1)))),
                Say::ForNow(delay) => Err(Refusal::transient(Reason::QueueFull, delay, "the queue is full")),
                Say::ForGood => Err(Refusal::permanent(Reason::Malformed, "never this")),
                Say::Hold(gate) => {
                    gate.acquire().await.unwrap().forget();
                    Ok(Receipt::Held(Held::vouch(Seq(1))))
                }
            };
            call.1 = true;
            answer
        })
    }
}

/// Doors that serve.
pub(crate) struct Served {
    pub(crate) addrs: Vec<(&'static str, SocketAddr)>,
    pub(crate) counts: ReceiverCounts,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) drain: Drain,
    pub(crate) serving: JoinHandle<std::io::Result<()>>,
}

impl Served {
    pub(crate) fn addr(&self, protocol: &str) -> SocketAddr {
        self.addrs.iter().find(|(name, _)| *name == protocol).expect("the door is there").1
    }
}

pub(crate) fn settings(pipelines: impl Into<Behind>, ledger: &Arc<Ledger>) -> Settings {
    Settings {
        id: "otlp/test".into(),
        pipelines: pipelines.into(),
        ledger: Arc::clone(ledger),
        counts: ReceiverCounts::default(),
    }
}

pub(crate) fn serve(bound: Bound, counts: ReceiverCounts, ledger: Arc<Ledger>) -> Served {
    let addrs = bound.local_addrs();
    let drain = Drain::new();
    let serving = tokio::spawn(bound.serve(drain.clone()));
    Served { addrs, counts, ledger, drain, serving }
}

/// An OTLP configuration with small limits on free ports.
pub(crate) fn config() -> Config {
    let mut config = Config::default();
    let free = || "127.0.0.1:0".to_owned();
    config.protocols.grpc =
        Some(GrpcConfig { endpoint: free(), max_recv_msg_size_mib: 1, ..GrpcConfig::default() });
    config.protocols.http =
        Some(HttpConfig { endpoint: free(), max_request_body_size: 1 << 20, ..HttpConfig::default() });
    config
}

/// Both OTLP doors in front of `consumer`, with a budget of `ledger_bytes`.
pub(crate) fn serve_otlp(config: Config, pipelines: impl Into<Behind>, ledger_bytes: u64) -> Served {
    let ledger = Ledger::new(ledger_bytes);
    let settings = settings(pipelines, &ledger);
    let counts = settings.counts.clone();
    serve(config.bind(settings).unwrap(), counts, ledger)
}

/// A request of `valid` spans, then `invalid` ones.
pub(crate) fn traces(valid: usize, invalid: usize) -> ExportTraceServiceRequest {
    let span = |index: usize, is_valid: bool| Span {
        trace_id: if is_valid { vec![7; 16] } else { vec![0; 16] },
        span_id: (index as u64 + 1).to_be_bytes().to_vec(),
        name: format!("span {index}"),
        ..Span::default()
    };
    let spans = (0..valid).map(|index| span(index, true)).chain((0..invalid).map(|index| span(index, false)));
    let scope_spans = vec![ScopeSpans { spans: spans.collect(), ..ScopeSpans::default() }];
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }],
    }
}

/// One span in OTLP/JSON, as OpenTelemetry-JS writes it.
pub(crate) const SPAN_JSON: &str = r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"07070707070707070707070707070707","spanId":"0000000000000001","name":"span 0"}]}]}]}"#;

/// An answer over HTTP/1.1, whole.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }
}

pub(crate) async fn send(addr: SocketAddr, request: Request<Full<Bytes>>) -> Answer {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let response: Response<_> = sender.send_request(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    driving.abort();
    Answer { status: head.status, headers: head.headers, body }
}

pub(crate) async fn post(
    addr: SocketAddr,
    path: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Answer {
    let mut request = Request::post(path).header("host", "test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(addr, request.body(Full::new(body.into())).unwrap()).await
}

/// Waits until `is_so`.
pub(crate) async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let waited = tokio::time::timeout(DEADLINE, async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}
