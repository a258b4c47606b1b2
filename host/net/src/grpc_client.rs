//! Unary gRPC calls that send bytes untouched: the client half of `grpc.rs`.
//!
//! ```text
//! request   HEADERS (POST path, content-type application/grpc, te trailers)
//!           DATA    compressed-flag u8 · length u32 big-endian · message
//! response  HEADERS · DATA (one message) · TRAILERS (grpc-status, grpc-message, grpc-status-details-bin)
//! ```
//!
//! The five bytes of the frame go out as a chunk of their own, so that a message of a megabyte is never copied
//! to make room for them. Connections are pooled by hyper's client and dialled again by it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue, TE};
use http::{HeaderName, Method, Request, Uri};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tonic::{Code, Status};

use crate::client_tls::ClientTls;
use crate::credential::Credential;
use crate::secured::{HTTP2, Secured};

/// Bytes of a response message at most: an answer to an export is a few words (CVE-2026-39882: a client that read
/// whatever came).
const RESPONSE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How long a connection may take to come up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Idle connections are asked whether they live this often, so that a silent peer is found before the next push.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long a peer may take to answer that.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Flow-control windows that we grant for responses, which are small.
const WINDOW_BYTES: u32 = 64 * 1024;

/// Bytes handed to a connection at once while its socket is full.
const SEND_BUFFER_BYTES: usize = 1024 * 1024;

/// A client of one gRPC server.
#[derive(Debug, Clone)]
pub struct GrpcClient {
    client: Client<Secured<HttpConnector>, Message>,
    origin: Uri,
    headers: HeaderMap,
    credential: Option<Credential>,
}

impl GrpcClient {
    /// A client of the server at `origin` (`http://host:port` or `https://host:port`); it dials at the first call.
    ///
    /// `tls` serves `https` and is asked anew for each connection; `headers` go with every call.
    pub fn new(origin: Uri, tls: impl Into<ClientTls>, headers: HeaderMap) -> Self {
        let mut http = HttpConnector::new();
        http.set_nodelay(true);
        http.enforce_http(false);
        http.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let connector = Secured::new(http, tls.into(), HTTP2);
        let client = Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .http2_only(true)
            .http2_initial_stream_window_size(WINDOW_BYTES)
            .http2_initial_connection_window_size(WINDOW_BYTES * 4)
            .http2_keep_alive_interval(PING_INTERVAL)
            .http2_keep_alive_timeout(PING_TIMEOUT)
            .http2_keep_alive_while_idle(true)
            .http2_max_send_buf_size(SEND_BUFFER_BYTES)
            .build(connector);
        Self { client, origin, headers, credential: None }
    }

    /// The same, with this in the `authorization` header of every call.
    #[must_use]
    pub fn with_credential(self, credential: Option<Credential>) -> Self {
        Self { credential, ..self }
    }

    /// Sends one message and returns the one that comes back.
    ///
    /// `encoding` names how `message` is compressed (`gzip`, `zstd`); none says that it is not.
    ///
    /// # Errors
    /// The server's status; `UNAVAILABLE` where there was no connection or it broke (with the cause as source),
    /// `DEADLINE_EXCEEDED` after `timeout`.
    ///
    /// # Cancel safety
    /// A dropped call is reset on the wire; whether the server saw the message is unknown.
    pub async fn unary(
        &self,
        path: &str,
        message: Bytes,
        encoding: Option<&'static str>,
        timeout: Duration,
    ) -> Result<Bytes, Status> {
        let mut request = self.request(path, message, encoding)?;
        if let Some(credential) = &self.credential {
            request.headers_mut().insert(AUTHORIZATION, credential.header().await);
        }
        match tokio::time::timeout(timeout, self.call(request)).await {
            Ok(answer) => answer,
            Err(_) => {
                Err(Status::deadline_exceeded(format!("no answer from {} within {timeout:?}", self.origin)))
            }
        }
    }

    fn request(
        &self,
        path: &str,
        message: Bytes,
        encoding: Option<&'static str>,
    ) -> Result<Request<Message>, Status> {
        let mut parts = self.origin.clone().into_parts();
        parts.path_and_query =
            Some(path.parse().map_err(|_| Status::internal("a method path that is no path"))?);
        let uri = Uri::from_parts(parts).map_err(|_| Status::internal("an origin that is no origin"))?;
        let body = Message::new(message, encoding.is_some())?;
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri;
        *request.version_mut() = http::Version::HTTP_2;
        let headers = request.headers_mut();
        headers.extend(self.headers.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if let Some(encoding) = encoding {
            headers.insert(HeaderName::from_static("grpc-encoding"), HeaderValue::from_static(encoding));
        }
        Ok(request)
    }

    async fn call(&self, request: Request<Message>) -> Result<Bytes, Status> {
        let response = self.client.request(request).await.map_err(|error| self.broken(&error))?;
        let (head, mut body) = response.into_parts();
        if let Some(status) = Status::from_header_map(&head.headers) {
            return if status.code() == Code::Ok { Ok(Bytes::new()) } else { Err(status) };
        }
        if head.status != http::StatusCode::OK {
            return Err(from_http_status(head.status));
        }
        let mut message = BytesMut::new();
        let mut trailers = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| self.broken(&error))?;
            match frame.into_data() {
                Ok(data) if message.len() + data.len() > RESPONSE_BYTES_MAX => {
                    return Err(Status::internal(format!(
                        "an answer of more than {RESPONSE_BYTES_MAX} bytes"
                    )));
                }
                Ok(data) => message.put(data),
                Err(other) => trailers = other.into_trailers().ok(),
            }
        }
        match trailers.as_ref().and_then(Status::from_header_map) {
            Some(status) if status.code() == Code::Ok => unframe(message.freeze()),
            Some(status) => Err(status),
            None => Err(Status::unavailable(format!("{} ended the answer without a status", self.origin))),
        }
    }

    /// A transport failure in words that name the peer and the whole chain of causes.
    fn broken(&self, error: &(dyn std::error::Error + 'static)) -> Status {
        Status::unavailable(format!("{}: {}", self.origin, weir_model::explain(error)))
    }
}

/// What gRPC says that an HTTP status without a gRPC status means (gRPC, "HTTP to gRPC status code mapping").
fn from_http_status(status: http::StatusCode) -> Status {
    let code = match status.as_u16() {
        400 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    };
    Status::new(code, format!("HTTP status {status} instead of a gRPC answer"))
}

/// The message out of its frame; an empty body is an empty message.
fn unframe(framed: Bytes) -> Result<Bytes, Status> {
    if framed.is_empty() {
        return Ok(framed);
    }
    let Some((head, rest)) = framed.split_first_chunk::<5>() else {
        return Err(Status::internal("an answer that is shorter than a frame"));
    };
    let [flag, length @ ..] = *head;
    if flag != 0 {
        return Err(Status::internal("a compressed answer, which was not asked for"));
    }
    if usize::try_from(u32::from_be_bytes(length)) != Ok(rest.len()) {
        return Err(Status::internal("an answer whose frame says another length"));
    }
    Ok(framed.slice(5..))
}

/// A request body: the frame's head, then the message.
#[derive(Debug)]
struct Message {
    head: Option<Bytes>,
    message: Option<Bytes>,
}

impl Message {
    fn new(message: Bytes, compressed: bool) -> Result<Self, Status> {
        let length =
            u32::try_from(message.len()).map_err(|_| Status::internal("a message of more than 4 GiB"))?;
        let mut head = BytesMut::with_capacity(5);
        head.put_u8(u8::from(compressed));
        head.put_u32(length);
        Ok(Self { head: Some(head.freeze()), message: Some(message).filter(|message| !message.is_empty()) })
    }
}

impl Body for Message {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = self.get_mut();
        Poll::Ready(this.head.take().or_else(|| this.message.take()).map(|data| Ok(Frame::data(data))))
    }

    fn is_end_stream(&self) -> bool {
        self.head.is_none() && self.message.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let left = self.head.as_ref().map_or(0, Bytes::len) + self.message.as_ref().map_or(0, Bytes::len);
        SizeHint::with_exact(left as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: answers whose frame is torn, compressed or lies about its length.
    /// Guarantees: none of them is taken for a message, and none makes us panic.
    #[test]
    fn a_lying_frame_is_refused() {
        assert_eq!(unframe(Bytes::from_static(b"\0\0\0\0\x02ok")).unwrap(), "ok");
        assert_eq!(unframe(Bytes::new()).unwrap(), "");
        for lie in [&b"\0\0\0"[..], b"\x01\0\0\0\x02ok", b"\0\0\0\0\x03ok", b"\0\xff\xff\xff\xffok"] {
            assert!(unframe(Bytes::copy_from_slice(lie)).is_err());
        }
    }
}
