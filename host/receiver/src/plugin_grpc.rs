//! The door of a plugin that receives unary gRPC calls: the socket, the frames, the limits and the promise are ours, the methods
//! are its.
//!
//! What the plugin returns is not trusted: its batches are walked like anybody's (`plugin_batches.rs`), and its status is one
//! that gRPC has.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, Version};
use hyper::body::Incoming;
use tracing::warn;
use weir_model::{BoxFuture, Claim, GrpcReceiver, Receipt, unary};
use weir_net::ReplyBody;
use weir_net::budget;
use weir_net::grpc::{self, Code, MessageReader, Status};
use weir_net::limits::{BodyLimits, GRPC_MESSAGE_BYTES_MAX, ListenLimits};
use weir_net::listen::{self, Handler, Peer};
use weir_net::tls::TlsConfig;

use crate::door::{BindError, Bound, Settings};
use crate::intake::{CountLimits, Intake};
use crate::otlp::load;
use crate::plugin_batches::{self, Taken};
use crate::reply;

/// Entries of a call's metadata that a plugin sees; callers send a handful.
const METADATA_ENTRIES_MAX: usize = 64;

/// Bytes of names and values of them: half of what a request's headers may have at all.
const METADATA_BYTES_MAX: usize = 8 * 1024;

/// Metadata that is the protocol's, beside all that begins with `grpc-`.
const OF_PROTOCOL: [&str; 2] = ["te", "content-type"];

/// Bytes of a plugin's status message: percent-encoded they may be three times as many, and clients take 8 KiB of trailers.
const STATUS_BYTES_MAX: usize = 1024;

/// One address that a plugin receives calls on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen, `host:port`.
    pub endpoint: String,
    /// The largest message in bytes, before and after decompression, and the largest reply.
    pub message_bytes_max: usize,
    /// Speak TLS with these files; without it, plaintext.
    pub tls: Option<TlsConfig>,
    /// Limits of connections and calls.
    pub limits: ListenLimits,
    /// What one call may hold.
    pub counts: CountLimits,
}

impl Config {
    /// The defaults at this address.
    pub fn at(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            message_bytes_max: GRPC_MESSAGE_BYTES_MAX,
            tls: None,
            limits: ListenLimits::default(),
            counts: CountLimits::default(),
        }
    }

    /// Reserves the address now and adds it to `bound`; `listener` is the name of the plugin's setting that asked.
    ///
    /// # Errors
    /// [`BindError`] for an address or TLS files that cannot be used.
    pub fn bind(
        self,
        bound: &mut Bound,
        listener: &str,
        plugin: Arc<dyn GrpcReceiver>,
        settings: Settings,
    ) -> Result<(), BindError> {
        let Self { endpoint, message_bytes_max, tls, limits, counts } = self;
        let connections = settings.counts.streams.clone();
        let door = PluginDoor {
            plugin,
            listener: listener.into(),
            intake: Intake::new(settings, counts),
            limits: limits.of_body(message_bytes_max),
        };
        let listen = listen::Settings { tls: load("grpc", tls)?, limits, connections };
        bound.add("grpc", &endpoint, listen, Arc::new(door)).map(|_| ())
    }
}

// === impl PluginDoor ===

struct PluginDoor {
    plugin: Arc<dyn GrpcReceiver>,
    listener: Box<str>,
    intake: Intake,
    limits: BodyLimits,
}

impl Handler for PluginDoor {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        _peer: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        Box::pin(async move { self.answer(request).await })
    }
}

impl PluginDoor {
    async fn answer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        if head.version != Version::HTTP_2 || !grpc::is_grpc(&head.headers) {
            return grpc::not_grpc();
        }
        let counts = &self.intake.settings().counts;
        counts.requests.add(1);
        let refused_whole = |status: Status| {
            counts.requests_refused.add(1);
            grpc::refuse(&status)
        };
        let allowed = match grpc::time_allowed(&head.headers) {
            Ok(allowed) => allowed,
            Err(status) => return refused_whole(status),
        };
        let call = self.call(&head, body);
        // A call that its caller has given up ends as if the caller had reset it.
        let done = match allowed {
            Some(time) => tokio::time::timeout(time, call)
                .await
                .unwrap_or_else(|_| Err(Status::deadline_exceeded("the deadline of the call has passed"))),
            None => call.await,
        };
        done.unwrap_or_else(refused_whole)
    }

    /// Reads the call's one message, has the plugin look at it, and hands on what it found.
    async fn call(&self, head: &Parts, body: Incoming) -> Result<Response<ReplyBody>, Status> {
        let ledger = &self.intake.settings().ledger;
        let (message, claim) = MessageReader::new(&head.headers, body, self.limits, ledger)?.only().await?;
        let call = unary::Call {
            method: head.uri.path().to_owned(),
            metadata: metadata_of(&head.headers),
            // The claim stays with the message: a call goes on to its end even where the caller has hung up meanwhile.
            message: budget::paid(message, claim),
        };
        let received = self.plugin.receive(&self.listener, call).await;
        match received.map_err(|refusal| reply::status_of(&refusal))? {
            Ok(received) => self.take(received).await,
            Err(status) => Err(self.status_of(status)),
        }
    }

    /// Hands on what the plugin found, and answers with its reply.
    async fn take(&self, received: unary::Received) -> Result<Response<ReplyBody>, Status> {
        let unary::Received { batches, rejected, reply } = received;
        if reply.len() > self.limits.bytes_max {
            return Err(self.too_large(reply.len()));
        }
        let status = |fault: plugin_batches::Fault| fault.failure(&self.intake).as_status();
        // Before anything is handed on: what is taken must not fail for want of room for its answer.
        let claim = plugin_batches::claim(&self.intake, reply.len()).map_err(status)?;
        let reply = self.framed(&reply, claim)?;
        match plugin_batches::take(&self.intake, batches, rejected).await.map_err(status)? {
            Taken::All(proof) => Ok(accepted(proof, reply)),
            // A reply that promises nothing.
            Taken::Nothing => Ok(reply),
            // Its items are counted.
            Taken::Refused(refusal) => Ok(grpc::refuse(&reply::status_of(&refusal))),
        }
    }

    fn framed(&self, reply: &Bytes, claim: Claim) -> Result<Response<ReplyBody>, Status> {
        grpc::reply_paid(reply, claim, &self.intake.settings().ledger)
    }

    fn too_large(&self, bytes: usize) -> Status {
        let (id, limit) = (&self.intake.settings().id, self.limits.bytes_max);
        warn!(receiver = %id, bytes, limit, "reply of a plugin is too large, not sent");
        Status::internal(format!(
            "the plugin of {id} made a reply of {bytes} bytes, at most {limit} are sent"
        ))
    }

    /// The plugin's own status, as far as it is one.
    fn status_of(&self, status: unary::Status) -> Status {
        let unary::Status { code, message } = status;
        match code {
            1..=16 => Status::new(Code::from_i32(code as i32), cut(&message)),
            _ => {
                let id = &self.intake.settings().id;
                warn!(receiver = %id, code, "plugin refused a call with a status that is none");
                Status::internal(format!("the plugin of {id} refused the call with a status that is none"))
            }
        }
    }
}

/// The only way to the success that a taken call is owed.
fn accepted(_proof: Receipt, reply: Response<ReplyBody>) -> Response<ReplyBody> {
    reply
}

/// Metadata that is the caller's own: text alone, in its order, as much of it as is within the limits.
fn metadata_of(headers: &HeaderMap) -> Vec<(String, String)> {
    let is_callers =
        |name: &str| !name.starts_with("grpc-") && !name.ends_with("-bin") && !OF_PROTOCOL.contains(&name);
    let texts = headers.iter().filter_map(|(name, value)| Some((name.as_str(), value.to_str().ok()?)));
    let mut bytes_left = METADATA_BYTES_MAX;
    let within =
        texts.filter(|(name, _)| is_callers(name)).take(METADATA_ENTRIES_MAX).map_while(|(name, value)| {
            bytes_left = bytes_left.checked_sub(name.len() + value.len())?;
            Some((name.to_owned(), value.to_owned()))
        });
    within.collect()
}

/// As much of a text as a status may have.
fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(STATUS_BYTES_MAX)]
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    /// Scenario: metadata of the protocol, of a caller, in bytes, and far more of it than anybody needs.
    /// Guarantees: a plugin sees the caller's texts alone, and no more than the limits.
    #[test]
    fn a_plugin_sees_the_callers_own_metadata() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("te", "trailers"),
            ("content-type", "application/grpc"),
            ("grpc-timeout", "1S"),
            ("grpc-encoding", "gzip"),
            ("trace-bin", "AAAA"),
            ("x-tenant", "a"),
            ("x-tenant", "b"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers.append("x-raw", HeaderValue::from_bytes(b"\xff").unwrap());
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(metadata_of(&headers), [pair("x-tenant", "a"), pair("x-tenant", "b")]);
        let many = (0..METADATA_ENTRIES_MAX + 9).map(|n| {
            let name = HeaderName::try_from(format!("x-{n}")).unwrap();
            (name, HeaderValue::from_static("a"))
        });
        assert_eq!(metadata_of(&many.collect()).len(), METADATA_ENTRIES_MAX);
        let large = HeaderValue::try_from("a".repeat(METADATA_BYTES_MAX)).unwrap();
        assert_eq!(metadata_of(&HeaderMap::from_iter([(HeaderName::from_static("x"), large)])), []);
    }
}
