//! The senders: one worker is one connection's share of requests; bytes are never encoded, answers are read to their end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::stream;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, TE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use crate::corpus::{Corpus, Load};
use crate::tally::Tally;

/// Messages of one OpenCensus stream: it is acknowledged as a whole, by its end.
const STREAM_MESSAGES: u64 = 32;

/// How long a sender that was told "later" waits.
const PAUSE: Duration = Duration::from_millis(20);

type Body = UnsyncBoxBody<Bytes, std::convert::Infallible>;

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    /// OTLP over gRPC, unary.
    Otlp,
    /// OpenCensus over gRPC, streams.
    OpenCensus,
    /// Zipkin v2 JSON over HTTP/1.1.
    Zipkin,
    /// Jaeger's thrift over HTTP/1.1.
    Jaeger,
    /// OTLP metrics over gRPC, unary.
    OtlpMetrics,
    /// Prometheus' remote write, version 1, over HTTP/1.1.
    RemoteWrite,
}

impl Protocol {
    /// One request under way on a connection, and its answer is an HTTP status.
    pub(crate) fn is_http1(self) -> bool {
        match self {
            Self::Zipkin | Self::Jaeger | Self::RemoteWrite => true,
            Self::Otlp | Self::OtlpMetrics | Self::OpenCensus => false,
        }
    }
}

/// What the daemon said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    /// It is there.
    Taken,
    /// Later.
    Refused,
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Connection {
    protocol: Protocol,
    authority: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Http1(http1::SendRequest<Body>),
    Http2(http2::SendRequest<Body>),
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Where nobody listens.
    pub(crate) async fn open(protocol: Protocol, address: SocketAddr) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true).context("send without delay")?;
        let io = TokioIo::new(stream);
        let kind = match protocol {
            Protocol::Zipkin | Protocol::Jaeger | Protocol::RemoteWrite => {
                let (sender, connection) = http1::handshake(io).await.context("speak HTTP/1.1")?;
                // Ends with the sender; why it ended is told by the request that it ends under.
                tokio::spawn(async move { drop(connection.await) });
                Kind::Http1(sender)
            }
            Protocol::Otlp | Protocol::OtlpMetrics | Protocol::OpenCensus => {
                let builder = http2::Builder::new(TokioExecutor::new());
                let (sender, connection) = builder.handshake(io).await.context("speak HTTP/2")?;
                tokio::spawn(async move { drop(connection.await) });
                Kind::Http2(sender)
            }
        };
        Ok(Self { protocol, authority: address.to_string(), kind })
    }

    /// Another sender on the same connection, where the protocol has that.
    pub(crate) fn share(&self) -> Option<Self> {
        match &self.kind {
            Kind::Http1(_) => None,
            Kind::Http2(sender) => Some(Self {
                protocol: self.protocol,
                authority: self.authority.clone(),
                kind: Kind::Http2(sender.clone()),
            }),
        }
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// Where there is none, or one that a sender would have to drop spans for.
    pub(crate) async fn send(&mut self, load: &Load) -> anyhow::Result<Answer> {
        let response = self.request(Full::new(load.body.clone()).boxed_unsync()).await?;
        answer(self.protocol, response).await
    }

    async fn request(&mut self, body: Body) -> anyhow::Result<Response<Incoming>> {
        let post = |uri: String| Request::post(uri).header("user-agent", "weir-load");
        match &mut self.kind {
            Kind::Http1(sender) => {
                let (path, content_type) = match self.protocol {
                    Protocol::Jaeger => {
                        ("/api/traces?format=jaeger.thrift", "application/vnd.apache.thrift.binary")
                    }
                    Protocol::RemoteWrite => ("/api/v1/write", "application/x-protobuf"),
                    _ => ("/api/v2/spans", "application/json"),
                };
                let mut request = post(path.to_owned()).header("host", &self.authority);
                if self.protocol == Protocol::RemoteWrite {
                    request = request.header(CONTENT_ENCODING, "snappy");
                    request = request.header("x-prometheus-remote-write-version", "0.1.0");
                }
                let request = request.header(CONTENT_TYPE, content_type).body(body)?;
                sender.ready().await.context("wait for the connection")?;
                sender.send_request(request).await.context("send over HTTP/1.1")
            }
            Kind::Http2(sender) => {
                let path = match self.protocol {
                    Protocol::Otlp => "opentelemetry.proto.collector.trace.v1.TraceService/Export",
                    Protocol::OpenCensus => "opencensus.proto.agent.trace.v1.TraceService/Export",
                    Protocol::OtlpMetrics => "opentelemetry.proto.collector.metrics.v1.MetricsService/Export",
                    other => bail!("{other:?} goes over HTTP/1.1"),
                };
                let request = post(format!("http://{}/{path}", self.authority)).header(TE, "trailers");
                let request = request.header(CONTENT_TYPE, "application/grpc").body(body)?;
                sender.ready().await.context("wait for the connection")?;
                sender.send_request(request).await.context("send over HTTP/2")
            }
        }
    }
}

async fn answer(protocol: Protocol, response: Response<Incoming>) -> anyhow::Result<Answer> {
    let (head, body) = response.into_parts();
    let collected = body.collect().await.context("read the answer")?;
    if protocol.is_http1() {
        return match head.status {
            status if status.is_success() => Ok(Answer::Taken),
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS => Ok(Answer::Refused),
            status => bail!("HTTP status {status}: {:?}", collected.to_bytes()),
        };
    }
    let trailers = collected.trailers().cloned().unwrap_or_default();
    let of = |name: &str, from: &HeaderMap| from.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let say = |name: &str| of(name, &trailers).or_else(|| of(name, &head.headers));
    match say("grpc-status").as_deref() {
        Some("0") if protocol != Protocol::OpenCensus => all_taken(&collected.to_bytes()),
        Some("0") => Ok(Answer::Taken),
        Some("8" | "14") => Ok(Answer::Refused),
        other => bail!("gRPC status {other:?}: {:?}", say("grpc-message")),
    }
}

/// Whether an OTLP answer is one without a word about spans that were not taken: its one field, `partial_success`, is
/// absent or empty.
fn all_taken(framed: &[u8]) -> anyhow::Result<Answer> {
    let message = framed.get(5..).unwrap_or_default();
    match message {
        [] | [0x0a, 0] => Ok(Answer::Taken),
        told => bail!("not every span was taken: {:?}", String::from_utf8_lossy(told)),
    }
}

/// What all workers of a run share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) corpus: Arc<Corpus>,
    pub(crate) tally: Arc<Tally>,
    next: AtomicU64,
    stop: AtomicBool,
}

impl Shared {
    pub(crate) fn new(corpus: Arc<Corpus>, tally: Arc<Tally>) -> Arc<Self> {
        Arc::new(Self { corpus, tally, next: AtomicU64::new(0), stop: AtomicBool::new(false) })
    }

    /// Workers end after what they have under way.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed) && self.tally.fault().is_none()
    }

    fn next(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }
}

/// Sends as long as the run lasts, the next request when the window has room; a refused request is sent again.
pub(crate) async fn closed(mut connection: Connection, shared: Arc<Shared>) {
    while shared.goes_on() {
        let result = match connection.protocol {
            Protocol::OpenCensus => one_stream(&mut connection, &shared).await,
            _ => one(&mut connection, &shared).await,
        };
        if let Err(error) = result {
            shared.tally.fail(format!("at a sender: {error:#}"));
        }
    }
}

async fn one(connection: &mut Connection, shared: &Shared) -> anyhow::Result<()> {
    let load = shared.corpus.get(shared.next());
    shared.tally.room(load.items).await;
    let since = Instant::now();
    while connection.send(load).await? == Answer::Refused {
        shared.tally.refuse(load.items);
        tokio::time::sleep(PAUSE).await;
    }
    shared.tally.acknowledge(load.items, since.elapsed());
    Ok(())
}

/// One stream from its first message to its status. There is no answer to a message, so there is no latency of one.
async fn one_stream(connection: &mut Connection, shared: &Arc<Shared>) -> anyhow::Result<()> {
    let since = Instant::now();
    let sent = Arc::new(AtomicU64::new(0));
    let messages =
        stream::unfold((Arc::clone(shared), Arc::clone(&sent), 0), async |(shared, sent, count)| {
            if count == STREAM_MESSAGES || (count > 0 && !shared.goes_on()) {
                return None;
            }
            let load = shared.corpus.get(shared.next());
            shared.tally.room(load.items).await;
            sent.fetch_add(u64::from(load.items), Ordering::Relaxed);
            let frame = Ok(Frame::data(load.body.clone()));
            Some((frame, (shared, sent, count + 1)))
        });
    let response = connection.request(BodyExt::boxed_unsync(StreamBody::new(messages))).await?;
    if answer(Protocol::OpenCensus, response).await? == Answer::Refused {
        bail!(
            "the stream was refused, so nobody knows what was taken: the window is too large for this daemon"
        );
    }
    let items = u32::try_from(sent.load(Ordering::Relaxed)).context("count a stream")?;
    shared.tally.acknowledge(items, since.elapsed());
    Ok(())
}

/// A fixed schedule: request `n` is due at `begin + n × interval`, whatever became of those before.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    pub(crate) begin: Instant,
    pub(crate) interval: Duration,
    pub(crate) requests: u64,
}

/// Sends what is due. Latencies count from when a request was due, not from when this worker came to it.
pub(crate) async fn open(mut connection: Connection, shared: Arc<Shared>, schedule: Schedule) {
    while shared.goes_on() {
        let number = shared.next();
        if number >= schedule.requests {
            return;
        }
        let due = schedule.begin + schedule.interval.mul_f64(number as f64);
        tokio::time::sleep_until(due.into()).await;
        let load = shared.corpus.get(number);
        match connection.send(load).await {
            Ok(Answer::Taken) => shared.tally.acknowledge(load.items, due.elapsed()),
            Ok(Answer::Refused) => shared.tally.refuse(load.items),
            Err(error) => shared.tally.fail(format!("at a sender: {error:#}")),
        }
    }
}
