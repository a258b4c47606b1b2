//! Connections of the events services: within bounds, on a loopback.
//!
//! Invariant: when a service has ended, or is dropped, its address is free, and nobody who is still connected holds what it served.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::Server;
use tonic::transport::server::{Connected, Router};
use tracing::warn;

use super::ServeError;

/// Connections of programs at once. Further ones wait to be accepted.
const CONNECTIONS_MAX: usize = 32;
/// Calls on one of them: with the connections, and requests of 66 KiB, 34 MiB of requests at most.
const STREAMS_MAX: u32 = 16;
/// Bytes of a call's headers.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// A program that has gone without a word is found after this long.
const KEEPALIVE: Duration = Duration::from_secs(60);
/// How long to wait after a connection could not be accepted: descriptors do not come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long programs may take to read what was said to them before the end: they are on this machine, so who reads at all has read
/// it by then. Who does not read would hold up the end of the process, or of a reload, for as long as it likes.
const READ_WITHIN: Duration = Duration::from_secs(1);

/// A server with the bounds of both services.
pub(super) fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
}

/// Serves until `stop`; then what is under way may end for a moment, and who is connected still is cut. Dropped, it cuts at once.
pub(super) async fn serve(
    services: Router,
    listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let cut = CancellationToken::new();
    let _cut = cut.clone().drop_guard();
    let incoming = incoming(listener, &cut)?;
    let asked = stop.clone().cancelled_owned();
    let mut serving = pin!(services.serve_with_incoming_shutdown(incoming, asked));
    let overdue = async {
        stop.cancelled().await;
        sleep(READ_WITHIN).await;
    };
    let served = tokio::select! {
        biased;
        served = &mut serving => served,
        () = overdue => {
            warn!(
                within = ?READ_WITHIN,
                "a program did not read what the events service said to the end, and is cut"
            );
            cut.cancel();
            serving.await
        }
    };
    served.map_err(ServeError::Transport)
}

/// Connections, at most so many at once, each until `cut`.
fn incoming(
    listener: TcpListener,
    cut: &CancellationToken,
) -> Result<impl Stream<Item = io::Result<Guarded>> + Send, ServeError> {
    let address = listener.local_addr().map_err(ServeError::Listener)?;
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    Ok(unfold((listener, places, cut.clone()), |(listener, places, cut)| async move {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let accepted = listener.accept().await;
        if accepted.is_err() {
            sleep(ACCEPT_PAUSE).await;
        }
        let guarded = accepted.map(|(stream, _)| {
            let cut = Box::pin(cut.clone().cancelled_owned());
            Guarded { stream, cut, _place: place }
        });
        Some((guarded, (listener, places, cut)))
    }))
}

/// A connection that has a place.
struct Guarded {
    stream: TcpStream,
    cut: Pin<Box<WaitForCancellationFutureOwned>>,
    _place: OwnedSemaphorePermit,
}

impl Guarded {
    /// Whether it goes on; whoever asks is woken when it does not any more.
    fn goes_on(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.cut.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionAborted.into()),
        }
    }
}

impl Connected for Guarded {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Guarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.goes_on(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.goes_on(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
