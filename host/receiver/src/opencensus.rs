//! OpenCensus: port 55678, long streams from libraries, and JSON from web pages on the same port.
//!
//! | file | what it is |
//! |---|---|
//! | `opencensus/sender.rs` | one sender: what it has said of itself, and its messages as arrivals |
//! | `opencensus/stream.rs` | an `Export` stream: order, flow control, how it ends |
//! | `opencensus/library.rs` | a `Config` stream: what a library says of its configuration |
//! | `opencensus/http.rs`, `opencensus/json.rs` | `POST /v1/trace` and `/v1/metrics` |
//! | `opencensus/translate.rs` | OpenCensus to OTLP, wire to wire |
//!
//! The protocol has no acknowledgement: a library learns at most how its stream ended. So a stream ends with OK only
//! after everything on it is where the pipeline promises it to be, and a full pipeline is felt as flow control.

mod http;
mod json;
mod library;
mod sender;
mod stream;
pub mod translate;

#[cfg(test)]
mod tests;

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use ::http::{Request, Response, Version};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;
use weir_model::{BoxFuture, Counter, NodeRegistry, Reason, Signal};
use weir_net::grpc;
use weir_net::limits::{BodyLimits, GRPC_MESSAGE_BYTES_MAX, ListenLimits};
use weir_net::listen::{self, Handler, Peer};
use weir_net::tls::{ServerTls, TlsConfig};
use weir_net::{Drain, ReplyBody};
use weir_wire::json::STRING_BYTES_MAX;

use crate::cors::{Cors, CorsConfig};
use crate::door::{self, BindError, Settings};
use crate::intake::CountLimits;
use crate::otlp::load;
use translate::{Limits, Tally};

const MIB: usize = 1024 * 1024;

/// A message may become so many times its limit as OTLP. Honest ones become a little shorter.
const OUTPUT_FACTOR: usize = 4;

/// How old a connection may become unless it is said: ten years. A library notices the end of its stream only when it
/// has sent the next batch into it, and loses that batch, so connections are not ended without need.
const AGE_MAX: Duration = Duration::from_secs(10 * 365 * 24 * 3600);

/// The `opencensus` receiver, as a user writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Where to listen, `host:port`.
    pub endpoint: String,
    /// The largest message, or body of a web page, in MiB, before and after decompression.
    pub max_recv_msg_size_mib: usize,
    /// Speak TLS with these files; without it, plaintext.
    pub tls: Option<TlsConfig>,
    /// Which web pages may send; without it, none.
    pub cors: Option<CorsConfig>,
    /// Limits of connections and requests.
    pub limits: ListenLimits,
    /// What one message may hold. A span with more attributes than the limit is taken without the rest, which is counted.
    pub items: CountLimits,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoint: "127.0.0.1:55678".to_owned(),
            max_recv_msg_size_mib: GRPC_MESSAGE_BYTES_MAX / MIB,
            tls: None,
            cors: None,
            limits: ListenLimits { age_max: AGE_MAX, ..ListenLimits::default() },
            items: CountLimits::default(),
        }
    }
}

impl Config {
    /// Reserves the address now, so that a clash is an error at start; serving begins with [`Bound::serve`].
    ///
    /// # Errors
    /// [`BindError`] for an address or TLS files that cannot be used.
    pub fn bind(
        self,
        settings: Settings,
        nodes: Arc<NodeRegistry>,
        losses: TranslationCounts,
    ) -> Result<Bound, BindError> {
        const PROTOCOL: &str = "opencensus";
        let Self { endpoint, max_recv_msg_size_mib, tls, cors, limits, items } = self;
        let body = limits.of_body(max_recv_msg_size_mib.saturating_mul(MIB));
        let listen = listen::Settings { tls: load(PROTOCOL, tls)?, limits, connections: Counter::default() };
        let door = Door {
            settings,
            nodes,
            losses,
            limits: Limits {
                items_max: items.items_max,
                attributes_max: items.attributes_max,
                text_bytes_max: STRING_BYTES_MAX,
                output_bytes_max: body.bytes_max.saturating_mul(OUTPUT_FACTOR),
            },
            body,
            // Without any origin there is no CORS at all: a preflight is a method that nobody knows.
            cors: cors.filter(|cors| !cors.allowed_origins.is_empty()).map(|cors| Cors::new(Some(cors))),
            has_warned: [AtomicBool::new(false), AtomicBool::new(false)],
            streams: Streams::default(),
        };
        let streams = door.streams.clone();
        let mut doors = door::Bound::new();
        doors.add(PROTOCOL, &endpoint, listen, Arc::new(door))?;
        Ok(Bound { doors, streams })
    }
}

/// The receiver with its address; nobody is served yet.
pub struct Bound {
    doors: door::Bound,
    streams: Streams,
}

impl Bound {
    /// The protocol with its address.
    pub fn local_addrs(&self) -> Vec<(&'static str, SocketAddr)> {
        self.doors.local_addrs()
    }

    /// The TLS of the door, where it has one, for reading certificates again.
    pub fn tls(&self) -> Vec<Arc<ServerTls>> {
        self.doors.tls()
    }

    /// Serves until `drain` is signaled, every connection has ended and what came over them is settled. The caller
    /// sets the deadline: dropping the future cuts what is still open.
    ///
    /// # Errors
    /// Where a socket cannot be handed to the runtime.
    pub async fn serve(self, drain: Drain) -> io::Result<()> {
        let Self { doors, streams: Streams { tasks, cut } } = self;
        let _cut_when_dropped = cut.drop_guard();
        doors.serve(drain).await?;
        tasks.close();
        tasks.wait().await;
        Ok(())
    }
}

/// Where streams run: not with their connection, because the Go library sends its last batch and closes the connection
/// in the same breath, and what has arrived should be taken.
#[derive(Debug, Clone, Default)]
struct Streams {
    tasks: TaskTracker,
    cut: CancellationToken,
}

/// What the translation to OTLP has cost, beside whole items (which are among the receiver's `dropped`).
#[derive(Debug, Clone, Default)]
pub struct TranslationCounts {
    /// Metrics left out because OTLP has no form for them.
    pub metrics_untranslatable: Counter,
    /// Points passed on without a value, because they had none or one of another type.
    pub points_unset: Counter,
    /// Histogram points whose bounds and buckets did not fit each other.
    pub buckets_cut: Counter,
    /// Attributes and labels over the limit.
    pub attributes_cut: Counter,
    /// Texts over the limit.
    pub texts_cut: Counter,
    /// Texts that were not UTF-8.
    pub texts_repaired: Counter,
    /// Stack traces, for which OTLP has no place.
    pub stack_traces_cut: Counter,
}

impl TranslationCounts {
    fn add(&self, tally: &Tally) {
        for (counter, amount) in [
            (&self.metrics_untranslatable, tally.metrics_untranslatable),
            (&self.points_unset, tally.points_unset),
            (&self.buckets_cut, tally.buckets_cut),
            (&self.attributes_cut, tally.attributes_cut),
            (&self.texts_cut, tally.texts_cut),
            (&self.texts_repaired, tally.texts_repaired),
            (&self.stack_traces_cut, tally.stack_traces_cut),
        ] {
            if amount > 0 {
                counter.add(u64::from(amount));
            }
        }
    }
}

/// Answers the three methods and the two paths.
struct Door {
    settings: Settings,
    nodes: Arc<NodeRegistry>,
    losses: TranslationCounts,
    limits: Limits,
    body: BodyLimits,
    cors: Option<Cors>,
    /// Whether it was said that nobody takes traces, metrics.
    has_warned: [AtomicBool; 2],
    streams: Streams,
}

impl Door {
    /// Counts items that no pipeline takes; says so once.
    fn drop_unwanted(&self, signal: Signal, items: u64) {
        self.settings.counts.dropped.of(signal, Reason::NoPipeline).add(items);
        let said = &self.has_warned[usize::from(signal == Signal::Metrics)];
        if !said.swap(true, Ordering::Relaxed) {
            let receiver = &self.settings.id;
            warn!(%receiver, %signal, "no pipeline takes the signal, it is dropped and counted");
        }
    }

    fn answer_grpc(self: Arc<Self>, request: Request<Incoming>, peer: Arc<Peer>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        if head.version != Version::HTTP_2 {
            return grpc::not_grpc();
        }
        match head.uri.path() {
            "/opencensus.proto.agent.trace.v1.TraceService/Export" => {
                stream::answer(self, Signal::Traces, &head.headers, body, peer)
            }
            "/opencensus.proto.agent.metrics.v1.MetricsService/Export" => {
                stream::answer(self, Signal::Metrics, &head.headers, body, peer)
            }
            "/opencensus.proto.agent.trace.v1.TraceService/Config" => {
                library::answer(self, &head.headers, body, peer)
            }
            path => grpc::unimplemented(path),
        }
    }
}

impl Handler for Door {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        // By request and not by connection: one connection may carry both, and TLS changes nothing.
        if grpc::is_grpc(request.headers()) {
            // Begun now, not at the future's first poll: the connection may be gone before there is one.
            Box::pin(ready(self.answer_grpc(request, peer)))
        } else {
            Box::pin(async move { http::answer(&self, request, &peer).await })
        }
    }
}
