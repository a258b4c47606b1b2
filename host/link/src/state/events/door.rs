//! Connections of the events services: within bounds, on a loopback.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;
use tonic::transport::Server;
use tonic::transport::server::Connected;

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

/// A server with the bounds of both services.
pub(super) fn server() -> Server {
    Server::builder()
        .max_concurrent_streams(STREAMS_MAX)
        .http2_max_header_list_size(HEADER_BYTES_MAX)
        .http2_keepalive_interval(Some(KEEPALIVE))
}

/// Connections, at most so many at once.
pub(super) fn incoming(
    listener: TcpListener,
) -> Result<impl Stream<Item = io::Result<Guarded>> + Send, ServeError> {
    let address = listener.local_addr().map_err(ServeError::Listener)?;
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    Ok(unfold((listener, places), |(listener, places)| async move {
        let place = Arc::clone(&places).acquire_owned().await.ok()?;
        let accepted = listener.accept().await;
        if accepted.is_err() {
            sleep(ACCEPT_PAUSE).await;
        }
        let guarded = accepted.map(|(stream, _)| Guarded { stream, _place: place });
        Some((guarded, (listener, places)))
    }))
}

/// A connection that has a place.
#[derive(Debug)]
pub(super) struct Guarded {
    stream: TcpStream,
    _place: OwnedSemaphorePermit,
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
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
