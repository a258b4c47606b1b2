//! The door of a plugin that receives over HTTP: the socket, the limits and the promise are ours, the protocol is its.
//!
//! What the plugin returns is not trusted: its batches are walked like anybody's (`plugin_batches.rs`), and its answers are
//! sent without the headers that frame a message.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde::{Deserialize, Serialize};
use tracing::warn;
use weir_model::http::{Answer, Headers, Received, Request as PluginRequest, Response as PluginResponse};
use weir_model::{BoxFuture, HttpReceiver, Receipt, Refusal};
use weir_net::ReplyBody;
use weir_net::body::{discard, read_decoded};
use weir_net::budget;
use weir_net::grpc::RETRY_AFTER_DEFAULT;
use weir_net::limits::{BodyLimits, HTTP_BODY_BYTES_MAX, ListenLimits};
use weir_net::listen::{self, Handler, Peer};
use weir_net::reply::text;
use weir_net::tls::TlsConfig;

use crate::cors::{Cors, CorsConfig};
use crate::door::{BindError, Bound, Settings};
use crate::intake::{CountLimits, Intake};
use crate::otlp::load;
use crate::plugin_batches::{self, Taken};
use crate::reply::{Failure, retry_after};

/// A refused body is read on for so many times the limit before the connection is given up.
const DISCARD_FACTOR: usize = 4;

/// Headers of a plugin's answer that are sent; protocols of telemetry need a handful.
const ANSWER_HEADERS_MAX: usize = 64;

/// Headers that frame a message: ours to write.
pub(crate) const FRAMING: [HeaderName; 6] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// One address that a plugin receives on, as a user writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where to listen, `host:port`.
    pub endpoint: String,
    /// The largest body in bytes, before and after decompression.
    #[serde(default = "body_bytes_max")]
    pub max_request_body_size: usize,
    /// Speak TLS with these files; without it, plaintext.
    #[serde(default)]
    pub tls: Option<TlsConfig>,
    /// Which web pages may send; without it the plugin answers for itself.
    #[serde(default)]
    pub cors: Option<CorsConfig>,
    /// Limits of connections and requests.
    #[serde(default)]
    pub limits: ListenLimits,
    /// What one request may hold.
    #[serde(default)]
    pub counts: CountLimits,
}

fn body_bytes_max() -> usize {
    HTTP_BODY_BYTES_MAX
}

impl Config {
    /// The defaults at this address.
    pub fn at(endpoint: impl Into<String>) -> Self {
        Self {
            endpoint: endpoint.into(),
            max_request_body_size: HTTP_BODY_BYTES_MAX,
            tls: None,
            cors: None,
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
        plugin: Arc<dyn HttpReceiver>,
        settings: Settings,
    ) -> Result<(), BindError> {
        let Self { endpoint, max_request_body_size, tls, cors, limits, counts } = self;
        let connections = settings.counts.streams.clone();
        let door = PluginDoor {
            plugin,
            listener: listener.into(),
            intake: Intake::new(settings, counts),
            limits: limits.of_body(max_request_body_size),
            cors: cors.map(|cors| Cors::new(Some(cors))),
        };
        let listen = listen::Settings { tls: load("http", tls)?, limits, connections };
        bound.add("http", &endpoint, listen, Arc::new(door)).map(|_| ())
    }
}

// === impl PluginDoor ===

struct PluginDoor {
    plugin: Arc<dyn HttpReceiver>,
    listener: Box<str>,
    intake: Intake,
    limits: BodyLimits,
    cors: Option<Cors>,
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
        let (head, mut body) = request.into_parts();
        if let Some(answer) = self.cors.as_ref().and_then(|cors| cors.preflight(&head.method, &head.headers))
        {
            return answer;
        }
        self.intake.settings().counts.requests.add(1);
        let mut response = match self.ask(&head, &mut body).await {
            Ok(response) => response,
            Err(failure) => {
                self.intake.settings().counts.requests_refused.add(1);
                let bytes_max = self.limits.bytes_max.saturating_mul(DISCARD_FACTOR);
                discard(&head.headers, &mut body, bytes_max, &self.limits).await;
                failure.respond_as_text()
            }
        };
        if let Some(cors) = &self.cors {
            cors.mark(&head.headers, &mut response);
        }
        response
    }

    /// Reads the request, has the plugin look at it, and hands on what it found.
    async fn ask(&self, head: &Parts, body: &mut Incoming) -> Result<Response<ReplyBody>, Failure> {
        let ledger = &self.intake.settings().ledger;
        let read = read_decoded(&head.headers, body, &self.limits, ledger).await;
        let (body, claim) = read.map_err(|error| Failure::of_body(&error))?;
        // The claim stays with the body: a call goes on to its end even where the sender has hung up meanwhile.
        let body = budget::paid(body, claim);
        let answer = self.plugin.receive(&self.listener, request_of(head, body)).await;
        match answer.map_err(|refusal| Failure::of_refusal(&refusal))? {
            Answer::Reply(reply) => Ok(self.respond(self.paid(reply)?)),
            Answer::Telemetry(received) => self.take(received).await,
        }
    }

    /// Hands on what the plugin found, and answers in the plugin's words.
    async fn take(&self, received: Received) -> Result<Response<ReplyBody>, Failure> {
        let Received { batches, rejected, accepted, refused } = received;
        // Before anything is handed on: what is taken must not fail for want of room for its answer.
        let (accepted, refused) = (self.paid(accepted)?, self.paid(refused)?);
        let taken = plugin_batches::take(&self.intake, batches, rejected).await;
        match taken.map_err(|fault| fault.failure(&self.intake))? {
            Taken::All(proof) => Ok(self.accepted(proof, accepted)),
            // The plugin's success promises nothing.
            Taken::Nothing => Ok(self.respond(accepted)),
            Taken::Refused(refusal) => Ok(self.refused(refused, &refusal)),
        }
    }

    /// A plugin's response, its body paid for until the sender has taken the last of it.
    fn paid(&self, response: PluginResponse) -> Result<PluginResponse, Failure> {
        let PluginResponse { status, headers, body } = response;
        let claim = plugin_batches::claim(&self.intake, body.len());
        let claim = claim.map_err(|fault| fault.failure(&self.intake))?;
        Ok(PluginResponse { status, headers, body: budget::paid(body, claim) })
    }

    /// The only way to the success that a taken request is owed.
    fn accepted(&self, _proof: Receipt, accepted: PluginResponse) -> Response<ReplyBody> {
        self.respond(accepted)
    }

    /// A refusal in the plugin's words where the request may be taken later, else in ours.
    fn refused(&self, refused: PluginResponse, refusal: &Refusal) -> Response<ReplyBody> {
        match refusal {
            Refusal::Transient { retry_after: delay, .. } => {
                let mut response = self.respond(refused);
                let delay = retry_after(delay.unwrap_or(RETRY_AFTER_DEFAULT));
                response.headers_mut().insert(header::RETRY_AFTER, delay);
                response
            }
            Refusal::Permanent { .. } => Failure::of_refusal(refusal).respond_as_text(),
        }
    }

    /// A plugin's response as HTTP, as far as it is one.
    fn respond(&self, reply: PluginResponse) -> Response<ReplyBody> {
        let PluginResponse { status, headers, body } = reply;
        let response = response_of(status, headers, ReplyBody::whole(body));
        response.unwrap_or_else(|| {
            warn!(receiver = %self.intake.settings().id, "{NO_STATUS}");
            text(StatusCode::INTERNAL_SERVER_ERROR, format!("the {NO_STATUS}\n"))
        })
    }
}

/// What is said of a plugin that makes [`response_of`] fail.
pub(crate) const NO_STATUS: &str = "plugin answered with a status that is none";

/// A plugin's response with this body, without the headers that are ours or none; nothing where its status is none.
pub(crate) fn response_of(status: u16, headers: Headers, body: ReplyBody) -> Option<Response<ReplyBody>> {
    let status = StatusCode::from_u16(status).ok().filter(|status| !status.is_informational())?;
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in headers.into_iter().take(ANSWER_HEADERS_MAX) {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            continue;
        };
        if !FRAMING.contains(&name) {
            response.headers_mut().append(name, value);
        }
    }
    Some(response)
}

/// A request as a plugin sees it: names in lower case, the body decoded.
fn request_of(head: &Parts, body: Bytes) -> PluginRequest {
    let is_kept = |name: &HeaderName| name != header::CONTENT_ENCODING && name != header::CONTENT_LENGTH;
    let headers = headers_of(head, is_kept).collect();
    PluginRequest { method: head.method.as_str().to_owned(), target: target_of(head), headers, body }
}

/// Path and query of a request.
pub(crate) fn target_of(head: &Parts) -> String {
    head.uri.path_and_query().map_or_else(|| "/".to_owned(), |target| target.as_str().to_owned())
}

/// Those headers of a request that are kept, as a plugin sees them.
pub(crate) fn headers_of(
    head: &Parts,
    is_kept: impl Fn(&HeaderName) -> bool,
) -> impl Iterator<Item = (String, String)> {
    let kept = head.headers.iter().filter(move |(name, _)| is_kept(name));
    kept.map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    })
}
