//! The backends: they take everything, decode nothing, and count by walking.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use weir_wire::{Malformed, Reader, reader::Value};

use crate::tally::Tally;

/// Windows of the gRPC backend: large ones, so that the daemon's exporter is never kept waiting for this end.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Which backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    /// OTLP over gRPC.
    Otlp,
    /// Zipkin v2 JSON over HTTP/1.1.
    Zipkin,
    /// OTLP over HTTP/1.1, by the sandboxed exporter.
    OtlpHttp,
    /// Jaeger as it is today: OTLP over HTTP/1.1.
    Jaeger,
    /// Prometheus' remote write over HTTP/1.1.
    RemoteWrite,
}

/// A backend that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Sink {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Sink {
    /// Listens on a free port.
    ///
    /// # Errors
    /// Where it cannot.
    pub(crate) async fn start(backend: Backend, tally: Arc<Tally>) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("bind the sink")?;
        let address = listener.local_addr().context("ask for the sink's address")?;
        let serving = tokio::spawn(serve(listener, backend, tally));
        Ok(Self { address, serving })
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn serve(listener: TcpListener, backend: Backend, tally: Arc<Tally>) {
    // Dropped with this task, and its connections with it.
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => return tally.fail(format!("the sink cannot accept: {error}")),
        };
        while connections.try_join_next().is_some() {}
        connections.spawn(connection(stream, backend, Arc::clone(&tally)));
    }
}

async fn connection(stream: TcpStream, backend: Backend, tally: Arc<Tally>) {
    // Without it an answer may wait for 40 ms; a socket that refuses it is gone, and says so below.
    let nodelay = stream.set_nodelay(true);
    let io = TokioIo::new(stream);
    let ended = match backend {
        Backend::Otlp => {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder.initial_stream_window_size(STREAM_WINDOW_BYTES);
            builder.initial_connection_window_size(CONNECTION_WINDOW_BYTES);
            builder.serve_connection(io, service_fn(|request| otlp(request, Arc::clone(&tally)))).await
        }
        Backend::Zipkin | Backend::OtlpHttp | Backend::Jaeger | Backend::RemoteWrite => {
            let builder = hyper::server::conn::http1::Builder::new();
            builder.serve_connection(io, service_fn(|request| http1(request, backend, &tally))).await
        }
    };
    // The daemon may close its connections as it likes; what it owes shows in the counts.
    drop((nodelay, ended));
}

type Reply = Response<BoxBody<Bytes, Infallible>>;

async fn otlp(request: Request<Incoming>, tally: Arc<Tally>) -> Result<Reply, Infallible> {
    if let Err(error) = take_otlp(request, &tally).await {
        tally.fail(format!("at the OTLP sink: {error:#}"));
    }
    let trailers = async || {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        Some(Ok(trailers))
    };
    let body = Full::new(Bytes::from_static(&[0; 5])).with_trailers(trailers());
    let reply = Response::builder().header(CONTENT_TYPE, "application/grpc");
    Ok(reply.body(body.boxed()).expect("a reply of constants"))
}

async fn take_otlp(request: Request<Incoming>, tally: &Tally) -> anyhow::Result<()> {
    let is_metrics = request.uri().path().contains("MetricsService");
    let body = request.into_body().collect().await.context("read a request")?.to_bytes();
    let Some((&[compressed, a, b, c, d], message)) = body.split_first_chunk::<5>() else {
        bail!("a gRPC body of {} bytes", body.len());
    };
    if compressed != 0 {
        bail!("the daemon compresses, and was told not to");
    }
    if message.len() != u32::from_be_bytes([a, b, c, d]) as usize {
        bail!("a gRPC body that is not one message");
    }
    tally.arrive(if is_metrics { points_of(message)? } else { spans_of(message)? });
    Ok(())
}

async fn http1(request: Request<Incoming>, backend: Backend, tally: &Tally) -> Result<Reply, Infallible> {
    if let Err(error) = take_http1(request, backend, tally).await {
        tally.fail(format!("at the {backend:?} sink: {error:#}"));
    }
    let status = match backend {
        Backend::Zipkin => StatusCode::ACCEPTED,
        Backend::RemoteWrite => StatusCode::NO_CONTENT,
        Backend::Otlp | Backend::OtlpHttp | Backend::Jaeger => StatusCode::OK,
    };
    let reply = Response::builder().status(status).header(CONTENT_TYPE, "application/x-protobuf");
    Ok(reply.body(Empty::new().boxed()).expect("a reply of constants"))
}

async fn take_http1(request: Request<Incoming>, backend: Backend, tally: &Tally) -> anyhow::Result<()> {
    let encoding = request.headers().get(CONTENT_ENCODING).cloned();
    let body = request.into_body().collect().await.context("read a request")?.to_bytes();
    if backend == Backend::RemoteWrite {
        let plain = snap::raw::Decoder::new().decompress_vec(&body).context("a body that is no snappy")?;
        tally.arrive(samples_of(&plain)?);
        return Ok(());
    }
    if let Some(encoding) = encoding {
        bail!("the daemon compresses ({encoding:?}), and was told not to");
    }
    tally.arrive(if backend == Backend::Zipkin { objects_of(&body)? } else { spans_of(&body)? });
    Ok(())
}

/// Spans of an `ExportTraceServiceRequest`: fields 1, 2, 2 from the outside in.
fn spans_of(message: &[u8]) -> Result<u64, Malformed> {
    let mut spans = 0;
    let mut groups = Reader::new(message);
    while let Some(field) = groups.next()? {
        let Value::Bytes(group) = field.value else { continue };
        let mut scopes = Reader::new(group);
        while let Some(field) = scopes.next()? {
            let (2, Value::Bytes(scope)) = (field.number, field.value) else { continue };
            let mut members = Reader::new(scope);
            while let Some(field) = members.next()? {
                spans += u64::from(field.number == 2);
            }
        }
    }
    Ok(spans)
}

/// Points of an `ExportMetricsServiceRequest`: fields 1, 2, 2, then the kind, then 1.
fn points_of(message: &[u8]) -> Result<u64, Malformed> {
    let mut points = 0;
    for group in inside(message, &[1])? {
        for scope in inside(group, &[2])? {
            for metric in inside(scope, &[2])? {
                for kind in inside(metric, &[5, 7, 9, 10, 11])? {
                    points += inside(kind, &[1])?.len() as u64;
                }
            }
        }
    }
    Ok(points)
}

/// Samples of a `prometheus.WriteRequest`: fields 1, 2.
fn samples_of(message: &[u8]) -> Result<u64, Malformed> {
    let mut samples = 0;
    for series in inside(message, &[1])? {
        samples += inside(series, &[2])?.len() as u64;
    }
    Ok(samples)
}

/// The messages that are fields of these numbers.
fn inside<'a>(message: &'a [u8], numbers: &[u32]) -> Result<Vec<&'a [u8]>, Malformed> {
    let (mut found, mut fields) = (Vec::new(), Reader::new(message));
    while let Some(field) = fields.next()? {
        if let Value::Bytes(bytes) = field.value
            && numbers.contains(&field.number)
        {
            found.push(bytes);
        }
    }
    Ok(found)
}

/// Objects of a JSON list: what opens at depth one, outside of strings.
fn objects_of(json: &[u8]) -> anyhow::Result<u64> {
    let (mut depth, mut objects, mut at) = (0_u32, 0, 0);
    while let Some(&byte) = json.get(at) {
        match byte {
            b'[' => depth += 1,
            b'{' => {
                objects += u64::from(depth == 1);
                depth += 1;
            }
            b']' | b'}' => depth = depth.checked_sub(1).context("JSON that closes what it did not open")?,
            b'"' => at = end_of_string(json, at + 1).context("JSON with a string that does not end")?,
            _ => {}
        }
        at += 1;
    }
    if depth != 0 || json.first() != Some(&b'[') {
        bail!("a body that is no JSON list");
    }
    Ok(objects)
}

/// Where the quote stands that ends a string.
fn end_of_string(json: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match json.get(at)? {
            b'"' => return Some(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}
