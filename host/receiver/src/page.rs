//! The door of a plugin that is fetched from (Prometheus' `/metrics`): GET and HEAD, one page after the other.
//!
//! ```text
//! GET ─▶ a place (8) ─▶ the plugin's serve ─▶ pieces, packed where the reader takes gzip ─▶ reader
//!             └────────── held until the last byte has left, `request_timeout` at most ────────┘
//! ```
//!
//! The page's bytes are paid for by whoever made them; its place, and the time that it may take, go with them to the
//! socket, so that readers who do not read keep neither.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};
use weir_model::count::PageCounts;
use weir_model::http::{Page, Request as PluginRequest, Response as PluginResponse};
use weir_model::{BoxFuture, Counter, Ledger, PageServer};
use weir_net::ReplyBody;
use weir_net::body::discard;
use weir_net::grpc::Code;
use weir_net::limits::{BodyLimits, ListenLimits};
use weir_net::listen::{self, Handler, Peer};
use weir_net::pieces::{Pieces, takes_gzip};
use weir_net::tls::TlsConfig;

use crate::door::{BindError, Bound};
use crate::otlp::load;
use crate::plugin_http::{FRAMING, NO_STATUS, headers_of, response_of, target_of};
use crate::reply::Failure;

/// Pages of one exporter that are under way at once. Each may hold a page in memory; two servers that scrape, and a person
/// who looks, are three.
const UNDER_WAY_MAX: usize = 8;

/// When a place may be free again, for those that found none: a page takes milliseconds.
const PLACE_FREE_AFTER: Duration = Duration::from_secs(1);

/// A page of fewer bytes is not packed: it fits into a packet or two as it is.
const PACKED_BYTES_MIN: u64 = 2 * 1024;

/// Bytes of a request's body that are read and dropped, so that whoever sends one with a GET reads the answer.
const DISCARDED_BYTES_MAX: usize = 64 * 1024;

/// Headers of a request that the plugin sees. Those who scrape send ten.
const REQUEST_HEADERS_MAX: usize = 64;

/// Headers that are meant for whoever guards the page, or speak of a body that the plugin is not given.
const KEPT_BACK: [HeaderName; 5] = [
    header::AUTHORIZATION,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::PROXY_AUTHORIZATION,
];

/// One address that a page is served on.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen, `host:port`.
    pub endpoint: String,
    /// Speak TLS with these files; without it, plaintext.
    pub tls: Option<TlsConfig>,
    /// Limits of connections; `request_timeout` is how long a reader may take for one page.
    pub limits: ListenLimits,
}

/// What the program adds to it.
#[derive(Clone)]
pub struct Settings {
    /// The configured id of the exporter.
    pub id: Arc<str>,
    /// What packing is paid from.
    pub ledger: Arc<Ledger>,
    /// What the page counts.
    pub counts: PageCounts,
}

/// Reserves these addresses now for one page, of which so many are under way at once as are allowed for one exporter.
///
/// # Errors
/// [`BindError`] for an address or TLS files that cannot be used.
pub fn bind(
    configs: impl IntoIterator<Item = Config>,
    page: &Arc<dyn PageServer>,
    settings: &Settings,
) -> Result<Bound, BindError> {
    let places = Arc::new(Semaphore::new(UNDER_WAY_MAX));
    let mut bound = Bound::new();
    for Config { endpoint, tls, limits } in configs {
        let door = PageDoor {
            page: Arc::clone(page),
            settings: settings.clone(),
            places: Arc::clone(&places),
            discarded: limits.of_body(DISCARDED_BYTES_MAX),
            time_max: limits.request_timeout,
        };
        let listen = listen::Settings { tls: load("http", tls)?, limits, connections: Counter::default() };
        bound.add("http", &endpoint, listen, Arc::new(door))?;
    }
    Ok(bound)
}

// === impl PageDoor ===

struct PageDoor {
    page: Arc<dyn PageServer>,
    settings: Settings,
    places: Arc<Semaphore>,
    discarded: BodyLimits,
    time_max: Duration,
}

impl Handler for PageDoor {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        Box::pin(async move {
            let (head, mut body) = request.into_parts();
            discard(&head.headers, &mut body, DISCARDED_BYTES_MAX, &self.discarded).await;
            self.answer(&head, peer).await.unwrap_or_else(|failure| {
                self.settings.counts.refused.add(1);
                let mut refused = failure.respond_as_text();
                if failure.status == StatusCode::METHOD_NOT_ALLOWED {
                    refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
                }
                refused
            })
        })
    }
}

impl PageDoor {
    /// The plugin's page, or why there is none.
    async fn answer(&self, head: &Parts, peer: Arc<Peer>) -> Result<Response<ReplyBody>, Failure> {
        if head.method != Method::GET && head.method != Method::HEAD {
            let message = "this is a page: expected GET or HEAD";
            return Err(Failure::for_good(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, message));
        }
        let place = Place::take(&self.places, &self.settings.counts).ok_or_else(|| {
            let message =
                format!("{UNDER_WAY_MAX} readers have this page under way, which is all there may be");
            Failure::for_now(message, Some(PLACE_FREE_AFTER))
        })?;
        let page = self.page.serve(request_of(head)).await;
        let page = page.map_err(|refusal| Failure::of_refusal(&refusal))?;
        self.respond(page, head, place, peer)
    }

    fn respond(
        &self,
        page: Page,
        head: &Parts,
        place: Place,
        peer: Arc<Peer>,
    ) -> Result<Response<ReplyBody>, Failure> {
        let Page { response: PluginResponse { status, headers, body }, rest } = page;
        let Some(mut response) = response_of(status, headers, ReplyBody::empty()) else {
            warn!(exporter = %self.settings.id, "{NO_STATUS}");
            let message = format!("the {NO_STATUS}");
            return Err(Failure::for_good(StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, message));
        };
        let has_body = !matches!(response.status(), StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let mut pieces = Pieces::new([body].into_iter().chain(rest).filter(|_| has_body));
        let may_pack = pieces.bytes().is_some_and(|bytes| bytes >= PACKED_BYTES_MIN)
            && !response.headers().contains_key(header::CONTENT_ENCODING);
        if may_pack {
            response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
        }
        if may_pack && takes_gzip(&head.headers) {
            pieces = match pieces.packed(&self.settings.ledger) {
                Ok(packed) => {
                    response.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                    packed
                }
                Err((unpacked, error)) => {
                    debug!(exporter = %self.settings.id, %error, "page is not packed");
                    unpacked
                }
            };
        }
        if head.method == Method::HEAD {
            if let Some(bytes) = pieces.bytes().filter(|_| has_body) {
                response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
            }
            pieces = Pieces::new([]);
        }
        let counts = self.settings.counts.clone();
        if pieces.bytes() == Some(0) {
            counts.served.add(1);
            return Ok(response);
        }
        let hold = Arc::new(Hold { _place: place, _deadline: self.deadline(peer) });
        *response.body_mut() = ReplyBody::live(Sending { pieces, hold, counts, is_whole: false });
        Ok(response)
    }

    /// Ends the connection of a reader that has not taken its page in time, unless it is dropped before.
    fn deadline(&self, peer: Arc<Peer>) -> AbortOnDropHandle<()> {
        let (time_max, id) = (self.time_max, Arc::clone(&self.settings.id));
        AbortOnDropHandle::new(tokio::spawn(async move {
            tokio::time::sleep(time_max).await;
            debug!(exporter = %id, peer.addr = %peer.addr, ?time_max, "page not taken in time, connection cut");
            peer.cut();
        }))
    }
}

/// A request as the plugin sees it. HEAD is answered by what GET would be, so that a plugin need not know it.
fn request_of(head: &Parts) -> PluginRequest {
    let is_kept = |name: &HeaderName| !KEPT_BACK.contains(name) && !FRAMING.contains(name);
    PluginRequest {
        method: Method::GET.as_str().to_owned(),
        target: target_of(head),
        headers: headers_of(head, is_kept).take(REQUEST_HEADERS_MAX).collect(),
        body: Bytes::new(),
    }
}

// === pages under way ===

/// The right to have one page under way.
struct Place {
    _permit: OwnedSemaphorePermit,
    under_way: Counter,
}

impl Place {
    fn take(places: &Arc<Semaphore>, counts: &PageCounts) -> Option<Self> {
        let permit = Arc::clone(places).try_acquire_owned().ok()?;
        counts.under_way.add(1);
        Some(Self { _permit: permit, under_way: counts.under_way.clone() })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.under_way.sub(1);
    }
}

/// What a page under way holds, until the last of its frames is with the system.
struct Hold {
    _place: Place,
    _deadline: AbortOnDropHandle<()>,
}

/// A frame that shares in the hold: HTTP/2 keeps some after the body has ended.
struct Held {
    bytes: Bytes,
    _hold: Arc<Hold>,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A page on its way.
struct Sending {
    pieces: Pieces,
    hold: Arc<Hold>,
    counts: PageCounts,
    is_whole: bool,
}

impl Body for Sending {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let frame = ready!(Pin::new(&mut self.pieces).poll_frame(cx));
        // Who knows the length does not ask for the end.
        self.is_whole = frame.is_none() || self.pieces.is_end_stream();
        let Some(Ok(frame)) = frame else { return Poll::Ready(None) };
        Poll::Ready(frame.into_data().ok().map(|bytes| {
            self.counts.bytes.add(bytes.len() as u64);
            Ok(Frame::data(Bytes::from_owner(Held { bytes, _hold: Arc::clone(&self.hold) })))
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.pieces.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.pieces.size_hint()
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let counter = if self.is_whole { &self.counts.served } else { &self.counts.cut };
        counter.add(1);
    }
}
