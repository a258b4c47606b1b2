//! The first sign of a peer: whether it has sent anything at all.
//!
//! A machine that accepts connections and is cut off from whoever would serve them, or a network that is parted, gives none; whoever is
//! slow gives one soon.
//!
//! Invariant: bytes pass as they are.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// A stream that tells when its peer sends something.
pub(crate) struct Watched<S> {
    stream: S,
    seen: CancellationToken,
}

/// Whether there was a sign.
#[derive(Debug, Clone)]
pub(crate) struct Sign {
    seen: CancellationToken,
    until: Instant,
}

/// A stream whose peer is to give a sign within `patience` from now.
pub(crate) fn watched<S>(stream: S, patience: Duration) -> (Watched<S>, Sign) {
    let seen = CancellationToken::new();
    let sign = Sign { seen: seen.clone(), until: Instant::now() + patience };
    (Watched { stream, seen }, sign)
}

impl Sign {
    /// Returns when there was none in time; never where there was one. Somebody else reads the stream meanwhile.
    pub(crate) async fn missed(&self) {
        if timeout_at(self.until, self.seen.cancelled()).await.is_ok() {
            std::future::pending().await
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, buffer))?;
        if buffer.filled().len() > before && !self.seen.is_cancelled() {
            self.seen.cancel();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
