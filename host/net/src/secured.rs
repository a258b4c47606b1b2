//! Connections of clients: made with the TLS that holds at that moment, and ended when it holds no more.

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::{Connected, Connection};
use rustls::pki_types::ServerName;
use tower_service::Service;
use tracing::warn;

use crate::client_tls::{ClientTls, Judge};

type BoxError = Box<dyn StdError + Send + Sync>;

/// HTTP/2 alone, by ALPN.
pub(crate) const HTTP2: &[&[u8]] = &[b"h2"];

/// Both versions, by ALPN, the preferred one first.
pub(crate) const BOTH: &[&[u8]] = &[b"h2", b"http/1.1"];

/// Makes connections: in plaintext to `http`, by TLS to `https`.
#[derive(Clone)]
pub(crate) struct Secured<C> {
    dial: C,
    tls: ClientTls,
    protocols: &'static [&'static [u8]],
}

impl<C> Secured<C> {
    pub(crate) fn new(dial: C, tls: ClientTls, protocols: &'static [&'static [u8]]) -> Self {
        Self { dial, tls, protocols }
    }
}

impl<C> Service<Uri> for Secured<C>
where
    C: Service<Uri> + Clone + Send + 'static,
    C::Response: Connection + Read + Write + Send + Unpin + 'static,
    C::Future: Send + 'static,
    C::Error: Into<BoxError>,
{
    type Response = Judged<MaybeHttpsStream<C::Response>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.dial.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // The clone takes its place: it is this one that was said to be ready.
        let fresh = self.dial.clone();
        let ready = std::mem::replace(&mut self.dial, fresh);
        let (tls, protocols) = (self.tls.clone(), self.protocols);
        Box::pin(async move {
            let mut config = rustls::ClientConfig::clone(&*tls.fresh().await);
            config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
            let name = name(&uri);
            let stream = HttpsConnector::from((ready, config)).call(uri).await?;
            let judge = match &stream {
                MaybeHttpsStream::Http(_) => None,
                MaybeHttpsStream::Https(stream) => {
                    let shown = stream.inner().get_ref().1.peer_certificates().unwrap_or_default();
                    name.map(|name| tls.judge(shown, name))
                }
            };
            Ok(Judged { stream, judge })
        })
    }
}

/// The name that a server's certificate must bear, as the connector asks for it.
fn name(uri: &Uri) -> Option<ServerName<'static>> {
    let host = uri.host()?.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(host.to_owned()).ok()
}

/// A connection that ends itself when its server is not trusted any more. An idle one notices when it is used again, or at its next
/// ping.
pub(crate) struct Judged<S> {
    stream: S,
    judge: Option<Judge>,
}

impl<S> Judged<S> {
    fn look(&mut self) -> io::Result<()> {
        let Some(judge) = &mut self.judge else { return Ok(()) };
        judge.look().map_err(|error| {
            warn!(%error, "connection cut");
            io::Error::new(io::ErrorKind::ConnectionAborted, error)
        })
    }
}

impl<S: Connection> Connection for Judged<S> {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl<S: Read + Unpin> Read for Judged<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        self.look()?;
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: Write + Unpin> Write for Judged<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.look()?;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.look()?;
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}
