//! The server half of gRPC over hyper, for messages that stay bytes.
//!
//! ```text
//! message   compressed u8 (0 or 1) · length u32 big-endian · length bytes
//! reply     HEADERS 200 · DATA* (messages) · HEADERS (grpc-status, grpc-message, grpc-status-details-bin)
//! refusal   HEADERS 200 (grpc-status, …), nothing else
//! ```
//!
//! A message is paid for when its five bytes of header are known, before one byte of it is kept, and is copied
//! once, into a buffer of its own length: a slice of the transport's buffer would keep bytes alive that nobody
//! has paid for.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::mpsc;
pub use tonic::{Code, Status};
use weir_model::{BoxFuture, Claim, Exhausted, Ledger};

use crate::budget;
use crate::decompress::{DecompressError, Encoding, decompress};
use crate::limits::BodyLimits;
use crate::pace::{Pace, Slow};
use crate::reply::{self, ReplyBody};
use crate::rpc_status;

/// Bytes in front of each message.
const HEAD_BYTES: usize = 5;

/// What a sender is told to wait for where nobody knows better.
pub const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// Replies of one conversation that may wait for the peer to take them.
///
/// A peer that does not read its replies is not worth more; the conversation waits then.
const REPLIES_WAITING_MAX: usize = 8;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// How long a call may take by its caller's wish (`grpc-timeout`); none where there is no wish.
///
/// ```text
/// grpc-timeout   1 to 8 digits, then H, M, S, m, u or n
/// ```
///
/// # Errors
/// INTERNAL where it is not written so, as other servers say.
pub fn time_allowed(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get(GRPC_TIMEOUT) else { return Ok(None) };
    let parsed = value.to_str().ok().and_then(|text| {
        let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
        let is_number = matches!(number.len(), 1..=8) && number.bytes().all(|byte| byte.is_ascii_digit());
        let number: u64 = number.parse().ok().filter(|_| is_number)?;
        match unit {
            "H" => Some(Duration::from_secs(number * 3600)),
            "M" => Some(Duration::from_secs(number * 60)),
            "S" => Some(Duration::from_secs(number)),
            "m" => Some(Duration::from_millis(number)),
            "u" => Some(Duration::from_micros(number)),
            "n" => Some(Duration::from_nanos(number)),
            _ => None,
        }
    });
    let wrong = || {
        Status::internal(format!("grpc-timeout {value:?}: expected at most 8 digits and a unit, as in 10S"))
    };
    parsed.ok_or_else(wrong).map(Some)
}

/// Whether a request is gRPC: its content type is `application/grpc`, with or without a codec's name.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| {
        let value = value.as_bytes();
        let name = b"application/grpc";
        value.len() >= name.len()
            && value[..name.len()].eq_ignore_ascii_case(name)
            && value.get(name.len()).is_none_or(|next| matches!(next, b'+' | b';' | b' '))
    })
}

// === impl MessageReader ===

/// The messages of one request, one after another.
#[derive(Debug)]
pub struct MessageReader<B = Incoming> {
    body: B,
    encoding: Encoding,
    limits: BodyLimits,
    ledger: Arc<Ledger>,
    /// What is left of the last DATA frame.
    chunk: Bytes,
    /// The clock of the message that is being read, and of a whole unary request.
    pace: Option<Pace>,
    /// How long a message may wait for memory before it is refused.
    patience: Duration,
}

/// The pause between two looks for memory while a stream waits for it: the sender feels it as flow control.
const CLAIM_PAUSE: Duration = Duration::from_millis(25);

impl<B> MessageReader<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: fmt::Display,
{
    /// A reader of the messages in `body`.
    ///
    /// # Errors
    /// UNIMPLEMENTED where the messages' encoding is unknown; the answer says which are known.
    pub fn new(
        headers: &HeaderMap,
        body: B,
        limits: BodyLimits,
        ledger: &Arc<Ledger>,
    ) -> Result<Self, Status> {
        let encoding = match headers.get(GRPC_ENCODING) {
            None => Encoding::Identity,
            Some(name) => name.to_str().ok().and_then(Encoding::named).ok_or_else(|| {
                let known = Encoding::ACCEPTED_GRPC;
                let mut status = Status::unimplemented(format!(
                    "grpc-encoding {name:?} is not known; expected one of {known}"
                ));
                let known = known.parse().expect("a list of names is a header value");
                status.metadata_mut().insert("grpc-accept-encoding", known);
                status
            })?,
        };
        Ok(Self {
            body,
            encoding,
            limits,
            ledger: Arc::clone(ledger),
            chunk: Bytes::new(),
            pace: None,
            patience: Duration::ZERO,
        })
    }

    /// The same reader for a stream whose messages may wait so long for memory before they are refused: nothing more is
    /// read meanwhile, so a sender that cannot be told to come again waits instead of losing a batch (DESIGN 1.2).
    #[must_use]
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Claims what is missing for `bytes` of a message of `length`, in patience.
    async fn pay(&mut self, claim: &mut Claim, bytes: usize, length: usize) -> Result<(), Status> {
        let mut deadline = None;
        loop {
            match budget::grow_to(&self.ledger, claim, bytes as u64, length as u64) {
                Ok(()) => break,
                Err(error) => self.pause(&mut deadline, &error).await?,
            }
        }
        // The time in which we did not read is not the sender's.
        if deadline.is_some() {
            self.pace = Some(Pace::start());
        }
        Ok(())
    }

    /// A pause before memory is asked for again, where there is patience left.
    async fn pause(
        &self,
        deadline: &mut Option<tokio::time::Instant>,
        error: &Exhausted,
    ) -> Result<(), Status> {
        let now = tokio::time::Instant::now();
        if now >= *deadline.get_or_insert(now + self.patience) {
            return Err(overloaded(error));
        }
        tokio::time::sleep(CLAIM_PAUSE).await;
        Ok(())
    }

    /// The next message, decompressed, and its payment; none at the end of the request.
    ///
    /// A stream may be silent between two messages for as long as its connection lives; within one it may not.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED where it is larger than the limit, UNAVAILABLE with a delay where there is no memory for
    /// it now, DEADLINE_EXCEEDED where it comes too slowly, CANCELLED where the request broke off, INTERNAL where
    /// it is not framed as gRPC says. Nothing can be read after an error.
    ///
    /// # Cancel safety
    /// Not safe to call again once dropped within a message.
    pub async fn next(&mut self) -> Result<Option<(Bytes, Claim)>, Status> {
        let Some((compressed, length)) = self.head().await? else {
            return Ok(None);
        };
        if length > self.limits.bytes_max {
            let limit = self.limits.bytes_max;
            return Err(Status::resource_exhausted(format!(
                "grpc: received message larger than max ({length} vs. {limit})"
            )));
        }
        let mut claim = budget::claim(&self.ledger, 0).map_err(|error| overloaded(&error))?;
        let message = self.payload(length, &mut claim).await?;
        self.pace = None;
        if !compressed {
            return Ok(Some((message, claim)));
        }
        let mut deadline = None;
        loop {
            match decompress(self.encoding, &message, &self.limits, &self.ledger).await {
                Ok((message, paid)) => return Ok(Some((Bytes::from(message), paid))),
                Err(DecompressError::Exhausted(error)) => self.pause(&mut deadline, &error).await?,
                Err(error) => return Err(self.undecoded(&error)),
            }
        }
    }

    /// The only message of a unary request.
    ///
    /// # Errors
    /// Those of [`MessageReader::next`]; INTERNAL where there are none or several. The time limit is that of the
    /// whole request.
    ///
    /// # Cancel safety
    /// Not safe to call again once dropped.
    pub async fn only(mut self) -> Result<(Bytes, Claim), Status> {
        self.pace = Some(Pace::start());
        let Some(first) = self.next().await? else {
            return Err(Status::internal("a unary request has one message; this one has none"));
        };
        if self.chunk.is_empty() && self.body.is_end_stream() {
            return Ok(first);
        }
        self.pace = Some(Pace::start());
        if self.head().await?.is_some() {
            return Err(Status::internal("a unary request has one message; this one has several"));
        }
        Ok(first)
    }

    /// Reads on to the end and drops what comes: a peer that still sends would otherwise see a reset instead of
    /// the status that it is owed. Ends at the first error, and once `bytes_max` have been dropped.
    pub async fn drain(&mut self, bytes_max: usize) {
        let mut dropped = 0_usize;
        self.pace = Some(Pace::start());
        while dropped <= bytes_max {
            self.chunk.clear();
            match self.fill().await {
                Ok(true) => dropped = dropped.saturating_add(self.chunk.len()),
                Ok(false) | Err(_) => return,
            }
        }
    }

    /// The five bytes in front of a message.
    async fn head(&mut self) -> Result<Option<(bool, usize)>, Status> {
        while self.chunk.is_empty() {
            if !self.fill().await? {
                return Ok(None);
            }
        }
        if self.pace.is_none() {
            self.pace = Some(Pace::start());
        }
        let mut head = [0; HEAD_BYTES];
        self.copy_to(&mut head[..]).await?;
        let [flag, length @ ..] = head;
        let length = u32::from_be_bytes(length) as usize;
        match (flag, self.encoding) {
            (0, _) => Ok(Some((false, length))),
            (1, Encoding::Gzip | Encoding::Deflate | Encoding::Zstd) => Ok(Some((true, length))),
            (1, Encoding::Identity) => Err(Status::internal(
                "a message is flagged as compressed, but the request names no grpc-encoding",
            )),
            (_, _) => Err(Status::internal(format!("the flag of a message is {flag}; expected 0 or 1"))),
        }
    }

    /// The message's bytes, once its length is known; paid for before they are kept.
    async fn payload(&mut self, length: usize, claim: &mut Claim) -> Result<Bytes, Status> {
        self.pay(claim, length.min(budget::ANNOUNCED_BYTES_MAX as usize), length).await?;
        let mut message = BytesMut::with_capacity(length.min(budget::ALLOCATED_BYTES_MAX));
        while message.len() < length {
            if self.chunk.is_empty() && !self.fill().await? {
                return Err(broken_off(message.len(), length));
            }
            let count = self.chunk.len().min(length - message.len());
            self.pay(claim, message.len() + count, length).await?;
            message.extend_from_slice(&self.chunk[..count]);
            self.chunk.advance(count);
        }
        Ok(message.freeze())
    }

    /// Fills `target` from the body.
    async fn copy_to(&mut self, mut target: &mut [u8]) -> Result<(), Status> {
        let wanted = target.len();
        while target.has_remaining_mut() {
            if self.chunk.is_empty() && !self.fill().await? {
                return Err(broken_off(wanted - target.len(), wanted));
            }
            let count = self.chunk.len().min(target.len());
            target.put_slice(&self.chunk.split_to(count));
        }
        Ok(())
    }

    /// Waits for the next DATA frame that is not empty; false at the end of the request.
    async fn fill(&mut self) -> Result<bool, Status> {
        loop {
            let frame = match &mut self.pace {
                Some(pace) => {
                    pace.wait(&self.limits, self.body.frame()).await.map_err(|slow| too_slow(&slow))?
                }
                None => self.body.frame().await,
            };
            let Some(frame) = frame else { return Ok(false) };
            let frame =
                frame.map_err(|error| Status::cancelled(format!("the request broke off: {error}")))?;
            let Ok(data) = frame.into_data() else { continue };
            if let Some(pace) = &mut self.pace {
                pace.add(data.len());
            }
            if !data.is_empty() {
                self.chunk = data;
                return Ok(true);
            }
        }
    }

    fn undecoded(&self, error: &DecompressError) -> Status {
        match error {
            DecompressError::TooLarge { limit } => Status::resource_exhausted(format!(
                "grpc: received message after decompression larger than max {limit}"
            )),
            DecompressError::Bomb { .. } => Status::resource_exhausted(format!("grpc: {error}")),
            DecompressError::Exhausted(exhausted) => overloaded(exhausted),
            DecompressError::Malformed { encoding, cause } => {
                Status::internal(format!("the message is not valid {encoding:?}: {cause}"))
            }
        }
    }
}

fn broken_off(got: usize, wanted: usize) -> Status {
    Status::internal(format!("the request ended after {got} of {wanted} bytes"))
}

fn too_slow(slow: &Slow) -> Status {
    Status::deadline_exceeded(format!("the request comes too slowly: {slow}"))
}

// === statuses ===

/// UNAVAILABLE for want of memory, with a delay.
pub fn overloaded(error: &Exhausted) -> Status {
    retry_later(Code::Unavailable, error.to_string(), RETRY_AFTER_DEFAULT)
}

/// A status with `google.rpc.RetryInfo`: the sender should wait for `delay` and send again.
pub fn retry_later(code: Code, message: impl Into<String>, delay: Duration) -> Status {
    let message = message.into();
    let details = rpc_status::encode(code as i32, &message, Some(delay));
    Status::with_details(code, message, Bytes::from(details))
}

// === replies ===

/// OK with one message.
pub fn reply(message: &[u8]) -> Response<ReplyBody> {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    respond(ReplyBody::with_trailers(framed(message), trailers))
}

/// OK with one message that somebody else made: `claim` pays for it, grows by its frame, and stays with it until the peer has
/// taken it.
///
/// # Errors
/// UNAVAILABLE where there is no memory for the frame.
pub fn reply_paid(
    message: &[u8],
    mut claim: Claim,
    ledger: &Arc<Ledger>,
) -> Result<Response<ReplyBody>, Status> {
    budget::grow(ledger, &mut claim, HEAD_BYTES as u64).map_err(|error| overloaded(&error))?;
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, HeaderValue::from_static("0"));
    Ok(respond(ReplyBody::with_trailers(budget::paid(framed(message), claim), trailers)))
}

/// A status without a message, in the headers alone.
pub fn refuse(status: &Status) -> Response<ReplyBody> {
    let mut response = respond(ReplyBody::empty());
    add_status(status, response.headers_mut());
    response
}

/// The answer to a request that is not gRPC where only gRPC is spoken.
pub fn not_grpc() -> Response<ReplyBody> {
    reply::text(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "this address speaks gRPC: content-type application/grpc over HTTP/2\n",
    )
}

/// The answer to a method that does not exist here.
pub fn unimplemented(path: &str) -> Response<ReplyBody> {
    refuse(&Status::unimplemented(format!("unknown method {path}")))
}

/// A streaming reply: `talk` reads the request and sends messages through the given [`Replies`]; the status that it
/// returns ends the reply. It runs as the reply's body, so it ends with the stream and needs no task of its own.
pub fn conversation<F>(talk: impl FnOnce(Replies) -> F) -> Response<ReplyBody>
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    let (sender, waiting) = mpsc::channel(REPLIES_WAITING_MAX);
    let talk = Box::pin(talk(Replies { sender }));
    respond(ReplyBody::live(Conversation { talk: Some(talk), waiting, status: None }))
}

/// The way from a conversation to its peer.
#[derive(Debug)]
pub struct Replies {
    sender: mpsc::Sender<Bytes>,
}

impl Replies {
    /// Sends a message; waits while the peer leaves earlier ones unread.
    ///
    /// # Cancel safety
    /// A dropped call has sent nothing or all.
    pub async fn send(&self, message: &[u8]) {
        // The body that holds the other end also runs the conversation: when it is gone, so are we.
        if self.sender.send(framed(message)).await.is_err() {
            tracing::debug!("reply has no reader any more");
        }
    }
}

struct Conversation {
    talk: Option<BoxFuture<'static, Result<(), Status>>>,
    waiting: mpsc::Receiver<Bytes>,
    status: Option<HeaderMap>,
}

impl Body for Conversation {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        if let Some(talk) = &mut this.talk
            && let Poll::Ready(ended) = talk.as_mut().poll(cx)
        {
            let mut trailers = HeaderMap::new();
            add_status(&ended.err().unwrap_or_else(|| Status::ok("")), &mut trailers);
            this.status = Some(trailers);
            // Dropped with its sender, so that the channel ends after what is still waiting.
            this.talk = None;
        }
        match this.waiting.poll_recv(cx) {
            Poll::Ready(Some(message)) => Poll::Ready(Some(Ok(Frame::data(message)))),
            Poll::Ready(None) => {
                Poll::Ready(this.status.take().map(|trailers| Ok(Frame::trailers(trailers))))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

fn respond(body: ReplyBody) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn add_status(status: &Status, headers: &mut HeaderMap) {
    if status.add_header(headers).is_err() {
        // Only a text that no header can carry gets here; the code must reach the sender all the same.
        headers.insert(GRPC_STATUS, HeaderValue::from(status.code() as i32));
    }
}

fn framed(message: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(HEAD_BYTES + message.len());
    frame.put_u8(0);
    let length = u32::try_from(message.len()).expect("our own replies are short");
    frame.put_u32(length);
    frame.put_slice(message);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use futures_util::{StreamExt, stream};
    use http_body_util::StreamBody;

    use super::*;

    type Frames = Vec<Bytes>;

    fn block_on<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
    }

    fn body_of(frames: Frames) -> impl Body<Data = Bytes, Error = Infallible> + Unpin {
        StreamBody::new(stream::iter(frames.into_iter().map(|data| Ok(Frame::data(data)))))
    }

    fn encoded_as(name: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(GRPC_ENCODING, HeaderValue::from_static(name))])
    }

    fn message(flag: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![flag];
        bytes.extend_from_slice(&(payload.len() as u32).to_be_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    fn read_all(headers: &HeaderMap, frames: Frames, ledger: &Arc<Ledger>) -> Result<Vec<Bytes>, Status> {
        block_on(async {
            let mut reader =
                MessageReader::new(headers, body_of(frames), BodyLimits::of_bytes(1000), ledger)?;
            let mut messages = Vec::new();
            while let Some((message, claim)) = reader.next().await? {
                assert_eq!(claim.bytes(), message.len() as u64);
                messages.push(message);
            }
            Ok(messages)
        })
    }

    /// Scenario: three messages, one of them empty, cut into DATA frames of every length.
    /// Guarantees: the same three messages come out, however the transport cuts them.
    #[test]
    fn frames_of_the_transport_do_not_matter() {
        let stream = [message(0, b"first"), message(0, b""), message(0, &[9; 700])].concat();
        let ledger = Ledger::new(1 << 20);
        for length in 1..stream.len() {
            let frames = stream.chunks(length).map(Bytes::copy_from_slice).collect();
            let messages = read_all(&HeaderMap::new(), frames, &ledger).unwrap();
            assert_eq!(messages, [&b"first"[..], b"", &[9; 700]], "frames of {length}");
            assert_eq!(ledger.used(), 0);
        }
    }

    /// Scenario: a header that announces more than the limit; nothing else comes.
    /// Guarantees: refused by the header, in the words that gRPC libraries know, with nothing claimed.
    #[test]
    fn too_large_is_said_by_the_header() {
        let ledger = Ledger::new(1 << 20);
        let refused =
            read_all(&HeaderMap::new(), vec![Bytes::from_static(&[0, 0, 0, 3, 0xe9])], &ledger).unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(refused.message(), "grpc: received message larger than max (1001 vs. 1000)");
        assert_eq!(ledger.peak(), 0);
    }

    /// Scenario: compressed messages in each encoding; one that is too large when decoded; one that is no gzip.
    /// Guarantees: limits hold after decompression too.
    #[test]
    fn compressed_messages_are_decoded_within_the_limit() {
        let pack = |length: usize| {
            let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
            encoder.write_all(&vec![5; length]).unwrap();
            encoder.finish().unwrap()
        };
        let ledger = Ledger::new(1 << 20);
        let read = |name, payload: &[u8]| {
            read_all(&encoded_as(name), vec![Bytes::from(message(1, payload))], &ledger)
        };
        assert_eq!(read("gzip", &pack(1000)).unwrap(), [&[5; 1000][..]]);
        assert_eq!(read("zstd", &zstd::bulk::compress(&[5; 900], 1).unwrap()).unwrap(), [&[5; 900][..]]);
        let refused = read("gzip", &pack(1001)).unwrap_err();
        assert_eq!(refused.message(), "grpc: received message after decompression larger than max 1000");
        assert_eq!(refused.code(), Code::ResourceExhausted);
        assert_eq!(read("gzip", b"none").unwrap_err().code(), Code::Internal);
        let plain = read_all(&encoded_as("gzip"), vec![Bytes::from(message(0, b"plain"))], &ledger).unwrap();
        assert_eq!(plain, [&b"plain"[..]]);
        assert_eq!(ledger.used(), 0);
    }

    /// Scenario: an encoding that we do not know; a compressed message without an encoding; a flag of 2; a stream
    /// that ends within a header and within a message.
    /// Guarantees: each ends with the status that gRPC prescribes.
    #[test]
    fn what_is_no_grpc_is_refused_by_its_status() {
        let ledger = Ledger::new(1 << 20);
        let unknown = read_all(&encoded_as("br"), vec![], &ledger).unwrap_err();
        assert_eq!(unknown.code(), Code::Unimplemented);
        assert_eq!(unknown.metadata().get("grpc-accept-encoding").unwrap(), Encoding::ACCEPTED_GRPC);
        for broken in [message(1, b"x"), message(2, b"x"), vec![0, 0, 0], message(0, b"long")[..7].to_vec()] {
            let refused = read_all(&HeaderMap::new(), vec![Bytes::from(broken)], &ledger).unwrap_err();
            assert_eq!(refused.code(), Code::Internal, "{}", refused.message());
        }
    }

    /// Scenario: no memory for the message.
    /// Guarantees: UNAVAILABLE with a delay, so that the sender keeps it.
    #[test]
    fn no_memory_is_worth_a_second_try() {
        let ledger = Ledger::new(100);
        let refused =
            read_all(&HeaderMap::new(), vec![Bytes::from(message(0, &[1; 200]))], &ledger).unwrap_err();
        assert_eq!(refused.code(), Code::Unavailable);
        assert!(!refused.details().is_empty());
    }

    /// Scenario: a header that announces a megabyte, and nothing behind it; then half of it comes.
    /// Guarantees: a length alone claims little; what has come is paid for, and not much more.
    #[test]
    fn what_is_announced_is_paid_for_as_it_comes() {
        let ledger = Ledger::new(8 << 20);
        for (came, most) in [(0, 64 << 10), (500_000, 1_000_000)] {
            let mut frames = vec![Ok::<_, Infallible>(Frame::data(Bytes::from_static(&[0, 0, 0x10, 0, 0])))];
            frames.extend((0..came / 10_000).map(|_| Ok(Frame::data(Bytes::from(vec![1; 10_000])))));
            let body = StreamBody::new(stream::iter(frames).chain(stream::pending()));
            let limits = BodyLimits::of_bytes(4 << 20);
            let mut reader = MessageReader::new(&HeaderMap::new(), body, limits, &ledger).unwrap();
            block_on(async {
                let mut next = Box::pin(reader.next());
                assert!(futures_util::poll!(&mut next).is_pending());
                assert!((came..=most).contains(&ledger.used()), "{} for {came}", ledger.used());
            });
        }
        assert_eq!(ledger.used(), 0);
    }

    /// Scenario: a patient reader of a stream; memory for the message, or only for what it is when it is decoded, is
    /// there a moment later.
    /// Guarantees: both messages are read.
    #[test]
    fn a_patient_reader_waits_for_memory() {
        let packed = zstd::bulk::compress(&[5; 50_000], 1).unwrap();
        for (flag, payload) in [(0, &[5; 50_000][..]), (1, &packed[..])] {
            let ledger = Ledger::new(1_000_000);
            let body = body_of(vec![Bytes::from(message(flag, payload))]);
            let limits = BodyLimits::of_bytes(100_000);
            let reader = MessageReader::new(&encoded_as("zstd"), body, limits, &ledger).unwrap();
            let mut reader = reader.with_patience(Duration::from_secs(60));
            let read = block_on(async {
                let others = ledger.claim(990_000).unwrap();
                let mut next = Box::pin(reader.next());
                assert!(futures_util::poll!(&mut next).is_pending(), "flag {flag}");
                drop(others);
                next.await
            });
            let (message, _claim) = read.unwrap().unwrap();
            assert_eq!(message, [5; 50_000][..]);
        }
    }

    /// Scenario: unary requests with no message, with one, and with two.
    /// Guarantees: only one is a request.
    #[test]
    fn a_unary_request_has_one_message() {
        let ledger = Ledger::new(1 << 20);
        for (count, code) in [(0, Some(Code::Internal)), (1, None), (2, Some(Code::Internal))] {
            let frames = vec![Bytes::from(message(0, b"x")); count];
            let reader =
                MessageReader::new(&HeaderMap::new(), body_of(frames), BodyLimits::of_bytes(9), &ledger);
            let read = block_on(reader.unwrap().only());
            assert_eq!(read.err().map(|status| status.code()), code, "{count} messages");
        }
    }

    /// Scenario: a stream that is silent between two messages, then one that is silent within a message, under a
    /// limit of milliseconds.
    /// Guarantees: the first is waited for, the second is cut off.
    #[test]
    fn silence_is_allowed_between_messages_only() {
        let ledger = Ledger::new(1 << 20);
        let limits = BodyLimits {
            rate_grace: Duration::from_millis(20),
            time_max: Duration::from_millis(20),
            ..BodyLimits::of_bytes(1000)
        };
        block_on(async {
            for (frames, is_cut_off) in
                [(message(0, b"whole"), false), (message(0, b"half")[..7].to_vec(), true)]
            {
                let first = stream::iter([Ok::<_, Infallible>(Frame::data(Bytes::from(frames)))]);
                let body = StreamBody::new(first.chain(stream::pending()));
                let mut reader = MessageReader::new(&HeaderMap::new(), body, limits, &ledger).unwrap();
                if !is_cut_off {
                    reader.next().await.unwrap().unwrap();
                }
                let next = tokio::time::timeout(Duration::from_millis(200), reader.next()).await;
                match next {
                    Err(_) => assert!(!is_cut_off, "a message in pieces was waited for"),
                    Ok(ended) => {
                        assert!(is_cut_off);
                        assert_eq!(ended.unwrap_err().code(), Code::DeadlineExceeded);
                    }
                }
            }
        });
        assert_eq!(ledger.used(), 0);
    }

    /// Scenario: a conversation sends more messages than may wait, then ends with an error.
    /// Guarantees: the peer gets every message, in order, then the status.
    #[test]
    fn a_conversation_ends_with_its_status() {
        let response = conversation(|replies| async move {
            for number in 0..3 * REPLIES_WAITING_MAX as u8 {
                replies.send(&[number]).await;
            }
            Err(Status::unknown("that is all"))
        });
        let collected = block_on(response.into_body().collect()).unwrap();
        assert_eq!(collected.trailers().unwrap()["grpc-status"], "2");
        assert_eq!(collected.trailers().unwrap()["grpc-message"], "that%20is%20all");
        let expected: Vec<u8> =
            (0..3 * REPLIES_WAITING_MAX as u8).flat_map(|number| message(0, &[number])).collect();
        assert_eq!(collected.to_bytes(), expected);
    }

    /// Scenario: deadlines in each unit, none, and texts that are none.
    /// Guarantees: a deadline is read exactly; what is none is an error and not a call without one.
    #[test]
    fn a_callers_deadline_is_read() {
        let allowed = |text: &'static str| {
            time_allowed(&HeaderMap::from_iter([(GRPC_TIMEOUT, HeaderValue::from_static(text))]))
        };
        assert_eq!(time_allowed(&HeaderMap::new()).unwrap(), None);
        for (text, nanos) in [("99999999H", 99_999_999 * 3600 * 1_000_000_000_u128), ("2M", 120_000_000_000)]
        {
            assert_eq!(allowed(text).unwrap().map(|time| time.as_nanos()), Some(nanos));
        }
        for (text, nanos) in [("3S", 3_000_000_000), ("5m", 5_000_000), ("7u", 7_000), ("0n", 0)] {
            assert_eq!(allowed(text).unwrap(), Some(Duration::from_nanos(nanos)));
        }
        for text in ["", "S", "10", "-1S", "+1S", "123456789S", "1s", "1 S", "1.5S"] {
            assert_eq!(allowed(text).unwrap_err().code(), Code::Internal, "{text:?} was taken");
        }
    }

    /// Scenario: content types that are gRPC, and some that only look like it.
    /// Guarantees: no request is taken for what it is not.
    #[test]
    fn grpc_is_known_by_its_content_type() {
        let typed = |name: &'static str| {
            is_grpc(&HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(name))]))
        };
        assert!(
            typed("application/grpc") && typed("application/grpc+proto") && typed("Application/gRPC;v=1")
        );
        assert!(!typed("application/grpc-web") && !typed("application/json") && !is_grpc(&HeaderMap::new()));
    }
}
