//! From an endpoint to an HTTP/2 connection.
//!
//! Invariant: without TLS only loopback addresses are dialled, whatever a name resolves to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use weir_net::client_tls::{ClientTls, Judge};

use crate::agent::sign::{Sign, Watched, watched};
use crate::limits::{CONNECT_TIMEOUT, MESSAGE_BYTES_MAX, PART_BYTES_FIRST};

/// Windows that we grant for the collector's messages: one of the largest, and one on its way.
const WINDOW_BYTES: u32 = 2 * MESSAGE_BYTES_MAX as u32;

/// Bytes that the writer may have given away while the socket is full: small, for what is in there goes before a heartbeat.
const SEND_BUFFER_BYTES: usize = PART_BYTES_FIRST;

/// A silent connection is asked whether it lives this often: where a collector wants no heartbeats, nothing else finds out that
/// it is gone without a word.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long the answer may take, beyond which the connection is dead.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Bytes of the headers of an answer.
const HEADERS_BYTES_MAX: u32 = 16 * 1024;

/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 16;

/// The protocol that TLS agrees on.
const ALPN_H2: &[u8] = b"h2";

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where the collector is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    host: String,
    port: u16,
    is_tls: bool,
}

/// Why an endpoint cannot be one.
#[derive(Debug, thiserror::Error)]
pub enum EndpointError {
    /// It has another form.
    #[error("`{0}` is no endpoint of a collector: expected host:port")]
    Form(String),
    /// `http://` with a certificate, or `https://` without one.
    #[error("`{0}` does not fit the rest: https goes with `tls`, and http goes without")]
    Scheme(String),
    /// Plaintext to somewhere else.
    #[error(
        "{0} is not on this machine, and without TLS the link goes over loopback only: make certificates with \
         `weir cert init` and configure `tls`"
    )]
    Plaintext(String),
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("look up {host}")]
    Lookup {
        host: String,
        #[source]
        cause: io::Error,
    },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error("connect to {address}")]
    Connect {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("`{0}` is no name that a certificate could have")]
    ServerName(String),
    #[error("speak TLS with {address}")]
    Tls {
        address: SocketAddr,
        #[source]
        cause: io::Error,
    },
    #[error("speak HTTP/2 with {0}")]
    Http(String, #[source] hyper::Error),
    #[error("no connection to {0} within {CONNECT_TIMEOUT:?}")]
    Timeout(String),
    #[error("no sign of {0} within {1:?}")]
    NoSign(String, Duration),
}

/// What writes and reads.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// Runs what a connection needs besides, and ends all of it: also what would wait for a peer that is silent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tasks {
    tracker: TaskTracker,
    end: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Tasks
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, future: F) {
        let end = self.end.clone();
        self.tracker.spawn(async move {
            tokio::select! {
                () = future => (),
                () = end.cancelled() => (),
            }
        });
    }
}

impl Tasks {
    /// Ends all of them, and with them the connection.
    pub(crate) async fn end(self) {
        self.end.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// An HTTP/2 connection, and the future that moves its bytes.
pub(crate) struct Dialled<B> {
    pub(crate) requests: SendRequest<B>,
    pub(crate) motion: std::pin::Pin<Box<dyn Future<Output = hyper::Result<()>> + Send>>,
    /// Judges the collector's certificate while the connection lives; none without TLS.
    pub(crate) judge: Option<Judge>,
    /// Whether the collector has sent anything.
    pub(crate) sign: Sign,
}

// === impl Target ===

impl Target {
    /// Reads `host:port`, also with `http://` or `https://` before it.
    ///
    /// # Errors
    /// [`EndpointError`]: nobody should dial it.
    pub(crate) fn parse(endpoint: &str, is_tls: bool) -> Result<Self, EndpointError> {
        let form = || EndpointError::Form(endpoint.to_owned());
        let (scheme, authority) = match endpoint.split_once("://") {
            Some((scheme, authority)) => (Some(scheme), authority.strip_suffix('/').unwrap_or(authority)),
            None => (None, endpoint),
        };
        match scheme {
            None => (),
            Some("http") if !is_tls => (),
            Some("https") if is_tls => (),
            Some("http" | "https") => return Err(EndpointError::Scheme(endpoint.to_owned())),
            Some(_) => return Err(form()),
        }
        let authority: http::uri::Authority = authority.parse().map_err(|_| form())?;
        let port = authority.port_u16().ok_or_else(form)?;
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        if host.is_empty() || authority.as_str().contains('@') {
            return Err(form());
        }
        let target = Self { host, port, is_tls };
        // A name may still turn out to be loopback; an address may not.
        match target.host.parse::<std::net::IpAddr>() {
            Ok(address) if !is_tls && !address.is_loopback() => Err(EndpointError::Plaintext(target.host)),
            _ => Ok(target),
        }
    }

    /// `http://host:port` or `https://host:port`.
    pub(crate) fn origin(&self) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        let bracketed = self.host.contains(':');
        let host = if bracketed { format!("[{}]", self.host) } else { self.host.clone() };
        format!("{scheme}://{host}:{}", self.port)
    }

    /// Dials, within [`CONNECT_TIMEOUT`]. Each of the collector's addresses has to let us in within `patience`, and to give a sign
    /// within the same from then; without TLS nobody waits for it here, and it is the caller's to see what comes of it.
    ///
    /// # Errors
    /// [`DialError`]: worth another try later.
    pub(crate) async fn dial<B>(
        &self,
        tls: Option<&ClientTls>,
        tasks: Tasks,
        patience: Duration,
    ) -> Result<Dialled<B>, DialError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let dialling = self.dial_in_peace(tls, tasks, patience);
        tokio::time::timeout(CONNECT_TIMEOUT, dialling)
            .await
            .unwrap_or_else(|_| Err(DialError::Timeout(self.origin())))
    }

    async fn dial_in_peace<B>(
        &self,
        tls: Option<&ClientTls>,
        tasks: Tasks,
        patience: Duration,
    ) -> Result<Dialled<B>, DialError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let (stream, address) = self.connect(patience).await?;
        let (stream, sign) = watched(stream, patience);
        let (io, judge): (Box<dyn Io>, _) = match tls {
            Some(tls) => {
                let (stream, judge) = tokio::select! {
                    secured = self.secure(stream, address, tls) => secured?,
                    () = sign.missed() => return Err(DialError::NoSign(self.origin(), patience)),
                };
                (Box::new(stream), Some(judge))
            }
            None => (Box::new(stream), None),
        };
        let handshake = Builder::new(tasks)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES)
            .max_header_list_size(HEADERS_BYTES_MAX)
            .handshake(TokioIo::new(io))
            .await;
        let (requests, connection) = handshake.map_err(|cause| DialError::Http(self.origin(), cause))?;
        Ok(Dialled { requests, motion: Box::pin(connection), judge, sign })
    }

    async fn connect(&self, patience: Duration) -> Result<(TcpStream, SocketAddr), DialError> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found = found.map_err(|cause| DialError::Lookup { host: self.host.clone(), cause })?;
        let found: Vec<_> = found.take(ADDRESSES_MAX).collect();
        let allowed: Vec<_> =
            found.iter().copied().filter(|address| self.is_tls || address.ip().is_loopback()).collect();
        let mut last = match found.is_empty() {
            true => DialError::NoAddress { host: self.host.clone() },
            false => EndpointError::Plaintext(self.host.clone()).into(),
        };
        for address in allowed {
            let connecting = tokio::time::timeout(patience, TcpStream::connect(address));
            match connecting.await.unwrap_or_else(|late| Err(late.into())) {
                Ok(stream) => {
                    // A heartbeat is not to wait for more bytes. Where that cannot be said, it only comes later.
                    if let Err(error) = stream.set_nodelay(true) {
                        tracing::debug!(%error, "small messages may wait in the socket");
                    }
                    return Ok((stream, address));
                }
                Err(cause) => last = DialError::Connect { address, cause },
            }
        }
        Err(last)
    }

    async fn secure(
        &self,
        stream: Watched<TcpStream>,
        address: SocketAddr,
        tls: &ClientTls,
    ) -> Result<(TlsStream<Watched<TcpStream>>, Judge), DialError> {
        let mut config = ClientConfig::clone(&*tls.fresh().await);
        config.alpn_protocols = vec![ALPN_H2.to_vec()];
        // Whose session is resumed is not judged: its certificate could have expired meanwhile.
        config.resumption = Resumption::disabled();
        let name =
            ServerName::try_from(self.host.clone()).map_err(|_| DialError::ServerName(self.host.clone()))?;
        let connecting = TlsConnector::from(Arc::new(config)).connect(name.clone(), stream);
        let stream = connecting.await.map_err(|cause| DialError::Tls { address, cause })?;
        let judge = tls.judge(stream.get_ref().1.peer_certificates().unwrap_or_default(), name);
        Ok((stream, judge))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: endpoints in all forms, with and without TLS.
    /// Guarantees: plaintext to another machine is refused with the next thing to do; so is what has no port, another
    /// scheme, or a scheme that does not fit.
    #[test]
    fn plaintext_stays_on_this_machine() {
        let origin = |endpoint, is_tls| Target::parse(endpoint, is_tls).map(|target| target.origin());
        for plain in ["127.0.0.1:55680", "[::1]:55680", "localhost:55680", "http://127.0.0.1:55680/"] {
            origin(plain, false).unwrap();
        }
        assert_eq!(origin("[::1]:1", false).unwrap(), "http://[::1]:1");
        assert_eq!(origin("https://collector.example:1", true).unwrap(), "https://collector.example:1");
        let refused = origin("10.0.0.7:55680", false).unwrap_err().to_string();
        assert!(refused.contains("10.0.0.7") && refused.contains("weir cert init"), "{refused}");
        origin("10.0.0.7:55680", true).unwrap();
        for bad in ["collector", "https://a:1", "ftp://a:1", ":1", "u@a:1", "a:1/path", ""] {
            origin(bad, false).unwrap_err();
        }
    }

    /// Scenario: a collector accepts a connection and says nothing, ever.
    /// Guarantees: the connection ends by itself, although no heartbeat is due.
    #[tokio::test]
    async fn a_collector_that_is_gone_without_a_word_is_noticed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::parse(&listener.local_addr().unwrap().to_string(), false).unwrap();
        let dialling = target.dial::<http_body_util::Empty<Bytes>>(None, Tasks::default(), CONNECT_TIMEOUT);
        let dialled = dialling.await.unwrap();
        let _silent = listener.accept().await.unwrap();
        tokio::time::pause();
        let ended = tokio::time::timeout((PING_INTERVAL + PING_TIMEOUT) * 4, dialled.motion).await;
        assert!(ended.expect("it is noticed").unwrap_err().is_timeout());
    }

    /// Scenario: a collector that is to speak TLS accepts a connection and says nothing.
    /// Guarantees: the dial is given up when there was no sign in time, and says so.
    #[tokio::test]
    async fn a_dial_without_a_sign_is_given_up() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::parse(&listener.local_addr().unwrap().to_string(), true).unwrap();
        let tls = ClientTls::load(weir_net::roots::Trust::default()).unwrap();
        let patience = Duration::from_millis(50);
        let dialling = target.dial::<http_body_util::Empty<Bytes>>(Some(&tls), Tasks::default(), patience);
        let error = dialling.await.map(|_| "a connection").unwrap_err();
        assert!(matches!(&error, DialError::NoSign(origin, _) if *origin == target.origin()), "{error}");
        assert!(error.to_string().ends_with("within 50ms"), "{error}");
    }

    /// Scenario: a name that is not of this machine, without TLS.
    /// Guarantees: its addresses are not dialled; the error names it and the next thing to do.
    #[tokio::test]
    async fn a_name_that_leads_elsewhere_is_not_dialled() {
        // An address of the documentation's net in the place of a name: names would ask a resolver.
        let target = Target { host: "192.0.2.1".to_owned(), port: 1, is_tls: false };
        let error = target.connect(CONNECT_TIMEOUT).await.unwrap_err();
        assert!(matches!(&error, DialError::Endpoint(EndpointError::Plaintext(host)) if host == "192.0.2.1"));
    }
}
