//! One accepted connection: plain or TLS, with the first bytes that were read to find out what it speaks.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_rustls::server::TlsStream;

/// What a client says first when it speaks HTTP/2 (RFC 9113, 3.4).
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The transport below HTTP.
pub(crate) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Which HTTP a connection speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    One,
    Two,
}

/// A connection as hyper reads it: what was read ahead first, then the transport.
pub(crate) struct Stream {
    transport: Transport,
    ahead: Vec<u8>,
    ahead_taken: usize,
    watch: Option<Arc<Activity>>,
}

impl Stream {
    pub(crate) fn new(transport: Transport) -> Self {
        Self { transport, ahead: Vec::new(), ahead_taken: 0, watch: None }
    }

    /// Reads as much as is needed to know the version; none where the peer left without a word.
    pub(crate) async fn detect(&mut self) -> io::Result<Option<Version>> {
        if let Transport::Tls(stream) = &self.transport
            && stream.get_ref().1.alpn_protocol().is_some_and(|chosen| chosen != b"h2")
        {
            return Ok(Some(Version::One));
        }
        // Also where HTTP/2 was agreed on: hyper would wait for its first bytes for ever.
        let mut first = [0; PREFACE.len()];
        let mut length = 0;
        while length < PREFACE.len() {
            let count = self.transport.read(&mut first[length..]).await?;
            length += count;
            self.ahead.extend_from_slice(&first[length - count..length]);
            if count == 0 {
                return Ok((length > 0).then_some(Version::One));
            }
            if first[..length] != PREFACE[..length] {
                return Ok(Some(Version::One));
            }
        }
        Ok(Some(Version::Two))
    }

    /// Has the activity of an HTTP/1 connection watched.
    pub(crate) fn watched_by(mut self, watch: Arc<Activity>) -> Self {
        self.watch = Some(watch);
        self
    }
}

// === impl Activity ===

/// What an HTTP/1 connection does, for those who cut it when it does nothing.
#[derive(Debug)]
pub(crate) struct Activity {
    started: Instant,
    in_flight: AtomicUsize,
    /// When the last request ended, in milliseconds since `started`.
    idle_since: AtomicU64,
    /// When the first byte of the next request came, in milliseconds since `started`, plus 1; 0 for none.
    head_since: AtomicU64,
}

impl Activity {
    /// The head of the first request has begun with what was read ahead.
    pub(crate) fn start() -> Arc<Self> {
        Arc::new(Self {
            started: Instant::now(),
            in_flight: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(1),
        })
    }

    /// A request's head is complete; it is under way until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        self.head_since.store(0, Ordering::Release);
        InFlight(Arc::clone(self))
    }

    /// Whether a head, or the pause before it, has taken too long.
    pub(crate) fn is_overdue(&self, head_max: Duration, idle_max: Duration) -> bool {
        if self.in_flight.load(Ordering::Acquire) > 0 {
            return false;
        }
        let now = self.now();
        match self.head_since.load(Ordering::Acquire) {
            0 => now.saturating_sub(self.idle_since.load(Ordering::Acquire)) >= idle_max.as_millis() as u64,
            since => now.saturating_sub(since - 1) >= head_max.as_millis() as u64,
        }
    }

    fn heard(&self) {
        if self.in_flight.load(Ordering::Acquire) == 0 && self.head_since.load(Ordering::Acquire) == 0 {
            self.head_since.store(self.now() + 1, Ordering::Release);
        }
    }

    fn now(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }
}

/// A request under way.
#[derive(Debug)]
pub(crate) struct InFlight(Arc<Activity>);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.idle_since.store(self.0.now(), Ordering::Release);
        self.0.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

// === reading and writing ===

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let ahead = &this.ahead[this.ahead_taken..];
        if !ahead.is_empty() {
            let count = ahead.len().min(buffer.remaining());
            buffer.put_slice(&ahead[..count]);
            this.ahead_taken += count;
            return Poll::Ready(Ok(()));
        }
        let before = buffer.filled().len();
        let result = Pin::new(&mut this.transport).poll_read(cx, buffer);
        if let Some(watch) = &this.watch
            && buffer.filled().len() > before
        {
            watch.heard();
        }
        result
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Transport::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.get_mut().transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, pieces),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
