//! One request to a target and its answer: the host's client, its address policy, its limits, its credentials.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use weir_model::http::{Request, Response};
use weir_model::{BoxFuture, Ledger};
use weir_net::address::{Egress, Origin};
use weir_net::body::encoding_of;
use weir_net::budget;
use weir_net::client::{Client, ClientError, Keeping, Outlet, Paid, SendLimits};
use weir_net::client_tls::ClientTls;
use weir_net::credential::Credential;
use weir_net::decompress::{DecompressError, Encoding, decompress};
use weir_net::limits::BodyLimits;
use weir_net::listed::Listed;
use weir_net::roots::{RootsError, Trust};

use super::counts::FailureKind;

/// Headers of a plugin's request that are sent; `accept` is what it needs.
const REQUEST_HEADERS_MAX: usize = 32;

/// Headers of an answer that a plugin sees.
const ANSWER_HEADERS_MAX: usize = 64;

/// Who asks.
const USER_AGENT: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));

/// What targets may read to answer in time.
const TIMEOUT_HEADER: HeaderName = HeaderName::from_static("x-prometheus-scrape-timeout-seconds");

/// Headers that are ours to write.
const OURS: [HeaderName; 10] = [
    header::ACCEPT_ENCODING,
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::HOST,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::USER_AGENT,
    TIMEOUT_HEADER,
];

/// How the targets of a job are reached.
#[derive(Debug, Clone, Default)]
pub struct Access {
    /// The `authorization` header; the plugin does not see it.
    pub credential: Option<Credential>,
    /// Whom requests trust, and what they show.
    pub trust: Trust,
}

/// One fetch.
#[derive(Debug)]
pub struct Order {
    /// The index of its job.
    pub job: usize,
    /// The target's own origin: the request may go nowhere else.
    pub origin: Origin,
    /// What the plugin wants to send.
    pub request: Arc<Request>,
    /// From the call to the last byte.
    pub timeout: Duration,
    /// Whether a connection is kept for the next one.
    pub keeping: Keeping,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// For counters.
    pub kind: FailureKind,
    /// For people, and for the plugin.
    pub text: String,
}

/// Fetches. Tests bring their own.
pub trait Fetch: Send + Sync {
    /// Fetches one answer: its body is decompressed and paid for.
    ///
    /// # Errors
    /// [`Failure`]; an answer of any status but a redirect is one.
    fn fetch(&self, order: Order) -> BoxFuture<'_, Result<Response, Failure>>;

    /// From now on these may be reached, and nothing else.
    fn reach(&self, origins: HashSet<Origin>);
}

/// Fetches over HTTP.
pub struct HttpFetch {
    jobs: Vec<Door>,
    listed: Listed,
    ledger: Arc<Ledger>,
}

/// A job's way out.
struct Door {
    kept: Outlet,
    fresh: Outlet,
    credential: Option<Credential>,
    bytes_max: usize,
}

impl HttpFetch {
    /// For these jobs, each with the bytes that its answers may have.
    ///
    /// # Errors
    /// The index of the job whose TLS files cannot be used, and why.
    pub fn new(
        client: &Client,
        accesses: Vec<Access>,
        bytes_max: Vec<usize>,
        ledger: Arc<Ledger>,
    ) -> Result<Self, (usize, RootsError)> {
        let listed = Listed::default();
        let door = |(index, (access, bytes_max)): (usize, (Access, usize))| {
            let tls = ClientTls::load(access.trust).map_err(|error| (index, error))?;
            let outlet =
                |keeping| client.outlet_of_targets(Egress::of_listed(listed.clone()), tls.clone(), keeping);
            let (kept, fresh) = (outlet(Keeping::One), outlet(Keeping::None));
            Ok(Door { kept, fresh, credential: access.credential, bytes_max })
        };
        let jobs = accesses.into_iter().zip(bytes_max).enumerate().map(door).collect::<Result<_, _>>()?;
        Ok(Self { jobs, listed, ledger })
    }

    async fn send(&self, order: Order) -> Result<Response, Failure> {
        let door = self.jobs.get(order.job).ok_or_else(|| invalid("its job is gone"))?;
        let outlet = match order.keeping {
            Keeping::One => &door.kept,
            Keeping::None => &door.fresh,
        };
        let mut request = compose(&order)?;
        if let Some(credential) = &door.credential {
            request.headers_mut().insert(header::AUTHORIZATION, credential.header().await);
        }
        let limits = SendLimits { timeout: order.timeout, response_bytes_max: door.bytes_max };
        let Paid { response, claim } = outlet.fetch(request, limits).await.map_err(of_client)?;
        let (head, body) = response.into_parts();
        if head.status.is_redirection() && head.headers.contains_key(header::LOCATION) {
            return Err(redirected(head.status.as_u16(), &head.headers));
        }
        let encoding = encoding_of(&head.headers)
            .map_err(|error| Failure { kind: FailureKind::Encoding, text: error.to_string() })?;
        let body = if encoding == Encoding::Identity {
            budget::paid(body, claim)
        } else {
            let limits = BodyLimits::of_bytes(door.bytes_max);
            let (decoded, of_decoded) =
                decompress(encoding, &body, &limits, &self.ledger).await.map_err(of_decoder)?;
            drop((body, claim));
            budget::paid(Bytes::from(decoded), of_decoded)
        };
        Ok(Response { status: head.status.as_u16(), headers: shown(&head.headers), body })
    }
}

impl Fetch for HttpFetch {
    fn fetch(&self, order: Order) -> BoxFuture<'_, Result<Response, Failure>> {
        Box::pin(self.send(order))
    }

    fn reach(&self, origins: HashSet<Origin>) {
        self.listed.exchange(origins);
    }
}

fn invalid(text: impl Into<String>) -> Failure {
    Failure { kind: FailureKind::Invalid, text: text.into() }
}

/// The plugin's request as it is sent: to its target and nowhere else, with our headers.
fn compose(order: &Order) -> Result<http::Request<Bytes>, Failure> {
    let Request { method, target, headers, body } = &*order.request;
    let uri: Uri = target.parse().map_err(|_| invalid("the plugin's request has a URL that is none"))?;
    let origin = Origin::of(&uri).map_err(|error| invalid(error.to_string()))?;
    if origin != order.origin {
        let text = format!("the plugin's request goes to {origin}, its target is {}", order.origin);
        return Err(Failure { kind: FailureKind::Denied, text });
    }
    let mut request = http::Request::new(body.clone());
    *request.method_mut() =
        method.parse().map_err(|_| invalid("the plugin's request has a method that is none"))?;
    *request.uri_mut() = uri;
    for (name, value) in headers.iter().take(REQUEST_HEADERS_MAX) {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) else {
            return Err(invalid("the plugin's request has a header that is none"));
        };
        if !OURS.contains(&name) {
            request.headers_mut().append(name, value);
        }
    }
    let headers = request.headers_mut();
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(USER_AGENT));
    let seconds = order.timeout.as_secs_f64().to_string();
    if let Ok(seconds) = HeaderValue::try_from(seconds) {
        headers.insert(TIMEOUT_HEADER, seconds);
    }
    Ok(request)
}

/// The headers of an answer as a plugin sees them: the body is decoded.
fn shown(headers: &HeaderMap) -> Vec<(String, String)> {
    let is_kept = |name: &HeaderName| name != header::CONTENT_ENCODING && name != header::CONTENT_LENGTH;
    let kept = headers.iter().filter(|(name, _)| is_kept(name)).take(ANSWER_HEADERS_MAX);
    kept.map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    })
    .collect()
}

fn redirected(status: u16, headers: &HeaderMap) -> Failure {
    let location = headers.get(header::LOCATION).map_or(&b""[..], HeaderValue::as_bytes);
    let location = String::from_utf8_lossy(location);
    // Without a query, which may be a secret.
    let location: String = location.split('?').next().unwrap_or_default().chars().take(200).collect();
    let text = format!(
        "the target answers with a redirect ({status}) to {location:?}; redirects are not followed: write that address as the target"
    );
    Failure { kind: FailureKind::Redirect, text }
}

fn of_client(error: ClientError) -> Failure {
    let kind = match &error {
        ClientError::Denied(_) => FailureKind::Denied,
        ClientError::Invalid(_) => FailureKind::Invalid,
        ClientError::Transport(_) => FailureKind::Transport,
        ClientError::Timeout(_) => FailureKind::Timeout,
        ClientError::ResponseTooLarge(_) => FailureKind::TooLarge,
        ClientError::Memory(_) => FailureKind::Memory,
    };
    let text = match &error {
        ClientError::ResponseTooLarge(limit) => too_large(*limit),
        _ => error.to_string(),
    };
    Failure { kind, text }
}

fn too_large(limit: usize) -> String {
    format!("body size limit exceeded: the answer has more than {limit} bytes (`body_size_limit`)")
}

fn of_decoder(error: DecompressError) -> Failure {
    let (kind, text) = match &error {
        DecompressError::TooLarge { limit } => (FailureKind::TooLarge, too_large(*limit)),
        DecompressError::Bomb { .. } => (FailureKind::TooLarge, error.to_string()),
        DecompressError::Exhausted(_) => (FailureKind::Memory, error.to_string()),
        DecompressError::Malformed { .. } => (FailureKind::Encoding, error.to_string()),
    };
    Failure { kind, text }
}

#[cfg(test)]
mod tests;
