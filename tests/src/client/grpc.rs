//! gRPC on one HTTP/2 connection, from below.
//!
//! ```text
//! message   compressed u8 = 0 · length u32, big-endian · bytes
//! ```

use std::convert::Infallible;
use std::net::SocketAddr;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use futures_util::stream;
use http::{HeaderMap, Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

type RequestBody = UnsyncBoxBody<Bytes, Infallible>;

/// Messages that wait to be written to a stream; a sender that is faster feels the flow control.
const MESSAGES_WAITING_MAX: usize = 1;

/// How a call ended, by its trailers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// gRPC's code: 0 is OK, 2 UNKNOWN, 14 UNAVAILABLE.
    pub code: u32,
    /// Its text.
    pub message: String,
    /// A serialised `google.rpc.Status`, where there was one.
    pub details: Bytes,
}

/// A call that came to its end.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// How.
    pub status: Status,
    /// The messages that came before, without their frames.
    pub replies: Vec<Bytes>,
}

/// A connection.
#[derive(Debug)]
pub struct Grpc {
    sender: http2::SendRequest<RequestBody>,
    address: SocketAddr,
    connection: JoinHandle<()>,
}

impl Drop for Grpc {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A message in its frame.
pub fn frame(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("a test's message is small"));
    framed.put_slice(message);
    framed.freeze()
}

impl Grpc {
    /// Connects, in plaintext.
    ///
    /// # Errors
    /// Why nobody was there.
    pub async fn connect(address: SocketAddr) -> Result<Self, String> {
        let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
        stream.set_nodelay(true).map_err(|error| error.to_string())?;
        let made = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(4 << 20)
            .handshake(TokioIo::new(stream))
            .await;
        let (sender, connection) = made.map_err(|error| error.to_string())?;
        let connection = tokio::spawn(async move {
            // Whoever has a call under way is told by it.
            connection.await.ok();
        });
        Ok(Self { sender, address, connection })
    }

    /// Whether the other side has closed.
    pub fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends one message, closes the sending half, and waits for the end.
    ///
    /// # Errors
    /// Why there was no end: the connection broke.
    pub async fn call(&mut self, path: &str, message: &[u8]) -> Result<Outcome, String> {
        self.call_framed(path, frame(message)).await
    }

    /// As [`Grpc::call`] with bytes that are framed already, or wrongly.
    ///
    /// # Errors
    /// As [`Grpc::call`].
    pub async fn call_framed(&mut self, path: &str, framed: Bytes) -> Result<Outcome, String> {
        self.sender.ready().await.map_err(|error| error.to_string())?;
        let request = self.request(path, Full::new(framed).boxed_unsync());
        let response = self.sender.send_request(request).await.map_err(|error| error.to_string())?;
        outcome(response).await
    }

    /// Opens a stream that the test writes to.
    pub fn open(&mut self, path: &str) -> GrpcStream {
        let (sender, receiver) = mpsc::channel::<Bytes>(MESSAGES_WAITING_MAX);
        let frames = stream::unfold(receiver, async |mut receiver| {
            let bytes = receiver.recv().await?;
            Some((Ok(Frame::data(bytes)), receiver))
        });
        let request = self.request(path, StreamBody::new(frames).boxed_unsync());
        let sent = self.sender.send_request(request);
        let end = tokio::spawn(async move { outcome(sent.await.map_err(|error| error.to_string())?).await });
        GrpcStream { sender, end }
    }

    fn request(&self, path: &str, body: RequestBody) -> Request<RequestBody> {
        let request = Request::post(format!("http://{}{path}", self.address))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(body);
        request.expect("a path that a test wrote")
    }
}

/// A stream whose sending half is open. Dropped, it is reset.
#[derive(Debug)]
pub struct GrpcStream {
    sender: mpsc::Sender<Bytes>,
    end: JoinHandle<Result<Outcome, String>>,
}

impl Drop for GrpcStream {
    fn drop(&mut self) {
        self.end.abort();
    }
}

impl GrpcStream {
    /// Writes a message; waits while the other side does not read. False once the stream has ended.
    pub async fn send(&self, message: &impl prost::Message) -> bool {
        self.send_framed(frame(&message.encode_to_vec())).await
    }

    /// As [`GrpcStream::send`] with bytes that are framed already, or wrongly.
    pub async fn send_framed(&self, framed: Bytes) -> bool {
        self.sender.send(framed).await.is_ok()
    }

    /// Whether the call has ended.
    pub fn has_ended(&self) -> bool {
        self.end.is_finished()
    }

    /// Closes the sending half and waits for the end.
    ///
    /// # Errors
    /// Why there was none.
    pub async fn finish(mut self) -> Result<Outcome, String> {
        let (closed, _) = mpsc::channel(MESSAGES_WAITING_MAX);
        self.sender = closed;
        self.ended().await
    }

    /// Waits for the other side to end the call.
    ///
    /// # Errors
    /// Why there was no end: the connection broke.
    pub async fn ended(&mut self) -> Result<Outcome, String> {
        (&mut self.end).await.map_err(|error| error.to_string())?
    }
}

async fn outcome(response: Response<Incoming>) -> Result<Outcome, String> {
    let (head, body) = response.into_parts();
    if head.status != http::StatusCode::OK {
        return Err(format!("HTTP status {}, where gRPC has only 200", head.status));
    }
    let collected = body.collect().await.map_err(|error| error.to_string())?;
    let trailers = collected.trailers().cloned();
    let replies = unframe(collected.to_bytes())?;
    let status = trailers.as_ref().and_then(status).or_else(|| status(&head.headers));
    Ok(Outcome { status: status.ok_or("an answer without grpc-status")?, replies })
}

/// The messages in a body.
fn unframe(mut body: Bytes) -> Result<Vec<Bytes>, String> {
    let mut messages = Vec::new();
    while !body.is_empty() {
        if body.len() < 5 || body[0] != 0 {
            return Err(format!("no frame: {:?}", &body[..body.len().min(5)]));
        }
        body.advance(1);
        let length = body.get_u32() as usize;
        if length > body.len() {
            return Err(format!("a frame of {length} bytes, of which {} are there", body.len()));
        }
        messages.push(body.split_to(length));
    }
    Ok(messages)
}

fn status(headers: &HeaderMap) -> Option<Status> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let details = text("grpc-status-details-bin").unwrap_or_default();
    let details = STANDARD_NO_PAD.decode(details).or_else(|_| STANDARD.decode(details)).unwrap_or_default();
    Some(Status {
        code: text("grpc-status")?.parse().ok()?,
        message: percent_decoded(text("grpc-message").unwrap_or_default()),
        details: details.into(),
    })
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let hex =
            (*first == b'%').then(|| after.get(..2)).flatten().and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => (bytes, rest) = ([bytes, vec![byte]].concat(), &after[2..]),
            None => (bytes, rest) = ([bytes, vec![*first]].concat(), after),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
