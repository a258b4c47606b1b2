//! Senders of the demo: OTLP over gRPC and over HTTP, as an SDK would send it.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, Method, Request, Uri};
use weir_model::Ledger;
use weir_net::address::{Egress, Origin};
use weir_net::client::{Client, ClientSettings, Outlet, RESPONSE_BYTES_MAX_DEFAULT, SendLimits};
use weir_net::grpc_client::GrpcClient;
use weir_net::roots::client_config;
use weir_wire::Encoder;

/// How long a sender waits for its answer: what SDKs wait.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The method of OTLP over gRPC (`opentelemetry/proto/collector/trace/v1/trace_service.proto`).
const METHOD: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// The name of a span that the backend is asked for.
#[derive(Debug, Clone)]
pub(super) struct SpanName(String);

impl SpanName {
    /// The name of the demo's span of this number.
    pub(super) fn of_demo(number: u32) -> Self {
        Self(format!("demo-span-{number}"))
    }
}

impl fmt::Display for SpanName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a sender heard.
#[derive(Debug)]
pub(super) struct Acknowledged {
    pub(super) protocol: &'static str,
    pub(super) spans: usize,
}

/// Both senders.
#[derive(Debug)]
pub(super) struct Senders {
    grpc: GrpcClient,
    http: Outlet,
    target: Uri,
}

impl Senders {
    pub(super) fn new(grpc: SocketAddr, http: SocketAddr) -> anyhow::Result<Self> {
        let origin: Uri = format!("http://{grpc}").parse().context("the gRPC address as a URL")?;
        let target: Uri = format!("http://{http}/v1/traces").parse().context("the HTTP address as a URL")?;
        let egress = Egress::new([Origin::of(&target)?])?;
        let client = Client::new(ClientSettings::new(Ledger::new(RESPONSE_BYTES_MAX_DEFAULT as u64)));
        Ok(Self {
            grpc: GrpcClient::new(origin, client_config(None)?, HeaderMap::new()),
            http: client.outlet(egress)?,
            target,
        })
    }

    /// Sends one span and returns when it is acknowledged.
    pub(super) async fn one(&self, name: &SpanName, over_http: bool) -> anyhow::Result<Acknowledged> {
        let body = request(&name.0, 1, 0);
        if over_http {
            self.over_http(body).await?;
            Ok(Acknowledged { protocol: "OTLP/HTTP", spans: 1 })
        } else {
            self.over_grpc(body).await?;
            Ok(Acknowledged { protocol: "OTLP/gRPC", spans: 1 })
        }
    }

    /// Sends many requests, `in_flight` at once, and returns when each is acknowledged.
    pub(super) async fn burst(&self, requests: usize, spans: usize, in_flight: usize) -> anyhow::Result<()> {
        let sends = (0..requests).map(|number| self.over_grpc(request("burst", spans, number)));
        let mut answers = futures_util::stream::iter(sends).buffer_unordered(in_flight);
        while let Some(answer) = answers.next().await {
            answer?;
        }
        Ok(())
    }

    async fn over_grpc(&self, body: Bytes) -> anyhow::Result<()> {
        let answer = self.grpc.unary(METHOD, body, None, TIMEOUT).await.context("send over gRPC")?;
        if answer.is_empty() { Ok(()) } else { bail!("not every span was taken") }
    }

    async fn over_http(&self, body: Bytes) -> anyhow::Result<()> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.target.clone())
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(body)?;
        let limits = SendLimits { timeout: TIMEOUT, response_bytes_max: RESPONSE_BYTES_MAX_DEFAULT };
        let answer = self.http.send(request, limits).await.context("send over HTTP")?;
        if answer.status().is_success() { Ok(()) } else { bail!("HTTP status {}", answer.status()) }
    }
}

/// An OTLP request of `spans` spans, as an instrumented web service would send them.
fn request(name: &str, spans: usize, number: usize) -> Bytes {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
    let now = u64::try_from(now).unwrap_or(u64::MAX);
    let mut out = Encoder::with_capacity(spans * 512);
    out.message(1, |group| {
        group.message(1, |resource| {
            resource.attribute_str(1, "service.name", "demo-shop");
            resource.attribute_str(1, "service.instance.id", format!("instance-{}", number % 4));
            resource.attribute_str(1, "host.name", "demo-host");
        });
        group.message(2, |scope| {
            scope.message(1, |scope| scope.string(1, "weir-demo"));
            for index in 0..spans {
                scope.message(2, |span| one_span(span, name, (number * spans + index) as u64 + 1, now));
            }
        });
    });
    Bytes::from(out.into_bytes())
}

/// A server span with eight attributes (field numbers: `opentelemetry/proto/trace/v1/trace.proto`).
fn one_span(span: &mut Encoder, name: &str, id: u64, now: u64) {
    let trace = (u128::from(now) << 64) | u128::from(id);
    span.bytes(1, trace.to_be_bytes());
    span.bytes(2, id.to_be_bytes());
    span.string(5, name);
    span.varint(6, 2);
    span.fixed64(7, now.saturating_sub(1_500_000));
    span.fixed64(8, now);
    span.attribute_str(9, "http.request.method", "GET");
    span.attribute_str(9, "url.path", "/cart/checkout");
    span.attribute_int(9, "http.response.status_code", 200);
    span.attribute_str(9, "server.address", "shop.example");
    span.attribute_int(9, "server.port", 443);
    span.attribute_str(9, "user_agent.original", "weir-demo/0.1");
    span.attribute_bool(9, "cache.hit", true);
    span.attribute_double(9, "cart.total", 41.5);
}
