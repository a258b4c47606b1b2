//! Senders, one batch after the other, each with its answer.

use std::net::SocketAddr;

use bytes::Bytes;
use weir_wire::Signal;

use crate::batch::{BatchId, Protocol, Shape};
use crate::client::{Grpc, HttpClient, Outcome, frame};
use crate::sink::grpc_path;

/// The path of OpenCensus' service for spans.
pub const OPENCENSUS_TRACE_EXPORT: &str = "/opencensus.proto.agent.trace.v1.TraceService/Export";
/// The path of OpenCensus' service for metrics.
pub const OPENCENSUS_METRICS_EXPORT: &str = "/opencensus.proto.agent.metrics.v1.MetricsService/Export";
/// The path of OpenCensus' configurations.
pub const OPENCENSUS_CONFIG: &str = "/opencensus.proto.agent.trace.v1.TraceService/Config";

/// What a sender knows of its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is the daemon's now.
    Taken,
    /// The same batch may be taken later.
    Later(String),
    /// The same batch will never be taken.
    Never(String),
    /// No answer: the connection was refused or broke off.
    Silence(String),
}

/// A sender with one connection, made anew when it breaks.
#[derive(Debug)]
pub struct Sender {
    protocol: Protocol,
    address: SocketAddr,
    http: HttpClient,
    grpc: Option<Grpc>,
}

impl Sender {
    /// Connects when it first sends.
    pub fn new(protocol: Protocol, address: SocketAddr) -> Self {
        Self { protocol, address, http: HttpClient::default(), grpc: None }
    }

    /// Sends a batch and waits for the answer.
    pub async fn send(&mut self, id: BatchId, shape: Shape) -> Verdict {
        self.send_encoded(id.encode(shape, self.protocol)).await
    }

    /// Sends a body that is encoded already, which costs a load generator nothing.
    pub async fn send_encoded(&mut self, body: Bytes) -> Verdict {
        let sent = match self.protocol {
            Protocol::OtlpGrpc => self.over_grpc(grpc_path(Signal::Traces), &body).await,
            Protocol::OpenCensus => self.over_grpc(OPENCENSUS_TRACE_EXPORT, &body).await,
            Protocol::OtlpHttp => self.over_http("/v1/traces", "application/x-protobuf", body).await,
            Protocol::Zipkin => self.over_http("/api/v2/spans", "application/json", body).await,
        };
        sent.unwrap_or_else(Verdict::Silence)
    }

    async fn over_grpc(&mut self, path: &str, body: &[u8]) -> Result<Verdict, String> {
        let mut connection = match self.grpc.take().filter(|connection| !connection.is_closed()) {
            Some(connection) => connection,
            None => Grpc::connect(self.address).await?,
        };
        let Outcome { status, .. } = connection.call_framed(path, frame(body)).await?;
        self.grpc = Some(connection);
        Ok(match status.code {
            0 => Verdict::Taken,
            // UNAVAILABLE, and what a server or client says that is going away.
            1 | 14 => Verdict::Later(status.message),
            code => Verdict::Never(format!("{code}: {}", status.message)),
        })
    }

    async fn over_http(&self, path: &str, content_type: &str, body: Bytes) -> Result<Verdict, String> {
        let answer = self.http.post(self.address, path, content_type, body).await?;
        let text = || String::from_utf8_lossy(answer.body()).into_owned();
        Ok(match answer.status().as_u16() {
            200..=299 => Verdict::Taken,
            429 | 502..=504 => Verdict::Later(text()),
            status => Verdict::Never(format!("{status}: {}", text())),
        })
    }
}
