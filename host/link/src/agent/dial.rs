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
use tokio::time::{Instant, timeout, timeout_at};
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
pub(crate) const ADDRESSES_MAX: usize = 16;

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
    #[error("no sign of {origin} at {address} within {patience:?}")]
    NoSign { origin: String, address: SocketAddr, patience: Duration },
    #[error("no connection to {0} within its share of {CONNECT_TIMEOUT:?}")]
    Slow(SocketAddr),
}

/// At which of the collector's addresses a dial begins: the others follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Begin {
    /// At the first, as its name has them.
    #[default]
    First,
    /// At the one where we were welcome last.
    At(SocketAddr),
    /// After one that let us in, and no more.
    After(SocketAddr),
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
    /// Where that is.
    pub(crate) address: SocketAddr,
}

/// One of the collector's addresses that has let us in.
struct Entered {
    io: Box<dyn Io>,
    judge: Option<Judge>,
    sign: Sign,
    address: SocketAddr,
}

// === impl Begin ===

impl Begin {
    /// All of the addresses, in the order in which they are dialled. One that is not there any more says nothing.
    fn order(self, addresses: &mut [SocketAddr]) {
        let at = |one| addresses.iter().position(|address| *address == one);
        let first = match self {
            Begin::First => None,
            Begin::At(one) => at(one),
            Begin::After(one) => at(one).map(|at| (at + 1) % addresses.len()),
        };
        addresses.rotate_left(first.unwrap_or_default());
    }
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
    /// within the same from then, both within its share of the time; without TLS nobody waits for the sign here, and it is the
    /// caller's to see what comes of it.
    ///
    /// # Errors
    /// [`DialError`]: worth another try later.
    pub(crate) async fn dial<B>(
        &self,
        tls: Option<&ClientTls>,
        tasks: Tasks,
        patience: Duration,
        begin: Begin,
    ) -> Result<Dialled<B>, DialError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let until = Instant::now() + CONNECT_TIMEOUT;
        let dialling = async {
            let mut addresses = self.look_up().await?;
            begin.order(&mut addresses);
            let entered = self.enter(&addresses, tls, patience, until).await?;
            self.shake_hands(entered, tasks).await
        };
        timeout_at(until, dialling).await.unwrap_or_else(|_| Err(DialError::Timeout(self.origin())))
    }

    async fn shake_hands<B>(&self, entered: Entered, tasks: Tasks) -> Result<Dialled<B>, DialError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        let Entered { io, judge, sign, address } = entered;
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
        Ok(Dialled { requests, motion: Box::pin(connection), judge, sign, address })
    }

    /// The addresses that may be dialled: one at least.
    async fn look_up(&self) -> Result<Vec<SocketAddr>, DialError> {
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await;
        let found = found.map_err(|cause| DialError::Lookup { host: self.host.clone(), cause })?;
        let found: Vec<_> = found.take(ADDRESSES_MAX).collect();
        if found.is_empty() {
            return Err(DialError::NoAddress { host: self.host.clone() });
        }
        let may_be = |address: &SocketAddr| self.is_tls || address.ip().is_loopback();
        let allowed: Vec<_> = found.into_iter().filter(may_be).collect();
        if allowed.is_empty() {
            return Err(EndpointError::Plaintext(self.host.clone()).into());
        }
        Ok(allowed)
    }

    /// Through the first of these addresses that lets us in. Each has its share of what is left of the time `until`: one that is
    /// silent, as where a network drops packets, does not have that of the next ones too.
    async fn enter(
        &self,
        addresses: &[SocketAddr],
        tls: Option<&ClientTls>,
        patience: Duration,
        until: Instant,
    ) -> Result<Entered, DialError> {
        let mut last = DialError::NoAddress { host: self.host.clone() };
        for (at, address) in addresses.iter().enumerate() {
            let trying = self.enter_at(*address, tls, patience);
            let left = until.saturating_duration_since(Instant::now());
            match timeout(share(left, addresses.len() - at), trying).await {
                Ok(Ok(entered)) => return Ok(entered),
                Ok(Err(error)) => last = error,
                Err(_) => last = DialError::Slow(*address),
            }
        }
        Err(last)
    }

    async fn enter_at(
        &self,
        address: SocketAddr,
        tls: Option<&ClientTls>,
        patience: Duration,
    ) -> Result<Entered, DialError> {
        let connecting = timeout(patience, TcpStream::connect(address)).await;
        let connected = connecting.unwrap_or_else(|late| Err(late.into()));
        let stream = connected.map_err(|cause| DialError::Connect { address, cause })?;
        // A heartbeat is not to wait for more bytes. Where that cannot be said, it only comes later.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "small messages may wait in the socket");
        }
        let (stream, sign) = watched(stream, patience);
        let (io, judge): (Box<dyn Io>, _) = match tls {
            Some(tls) => {
                let (stream, judge) = tokio::select! {
                    secured = self.secure(stream, address, tls) => secured?,
                    () = sign.missed() => {
                        return Err(DialError::NoSign { origin: self.origin(), address, patience });
                    }
                };
                (Box::new(stream), Some(judge))
            }
            None => (Box::new(stream), None),
        };
        Ok(Entered { io, judge, sign, address })
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

/// What the next of so many addresses may have of the time that is left.
fn share(left: Duration, addresses: usize) -> Duration {
    left / u32::try_from(addresses.max(1)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    async fn dial(
        target: &Target,
        tls: Option<&ClientTls>,
        patience: Duration,
    ) -> Result<Dialled<http_body_util::Empty<Bytes>>, DialError> {
        target.dial(tls, Tasks::default(), patience, Begin::First).await
    }

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
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::parse(&listener.local_addr().unwrap().to_string(), false).unwrap();
        let dialled = dial(&target, None, CONNECT_TIMEOUT).await.unwrap();
        let _silent = listener.accept().await.unwrap();
        tokio::time::pause();
        let ended = tokio::time::timeout((PING_INTERVAL + PING_TIMEOUT) * 4, dialled.motion).await;
        assert!(ended.expect("it is noticed").unwrap_err().is_timeout());
    }

    /// Scenario: a collector that is to speak TLS accepts a connection and says nothing.
    /// Guarantees: the dial is given up when there was no sign in time, and says so.
    #[tokio::test]
    async fn a_dial_without_a_sign_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = Target::parse(&listener.local_addr().unwrap().to_string(), true).unwrap();
        let tls = ClientTls::load(weir_net::roots::Trust::default()).unwrap();
        let patience = Duration::from_millis(50);
        let error = dial(&target, Some(&tls), patience).await.map(|_| "a connection").unwrap_err();
        let address = listener.local_addr().unwrap();
        assert_eq!(error.to_string(), format!("no sign of https://{address} at {address} within 50ms"));
    }

    /// Scenario: a name that is not of this machine, without TLS.
    /// Guarantees: its addresses are not dialled; the error names it and the next thing to do.
    #[tokio::test]
    async fn a_name_that_leads_elsewhere_is_not_dialled() {
        // An address of the documentation's net in the place of a name: names would ask a resolver.
        let target = Target { host: "192.0.2.1".to_owned(), port: 1, is_tls: false };
        let error = target.look_up().await.unwrap_err();
        assert!(matches!(&error, DialError::Endpoint(EndpointError::Plaintext(host)) if host == "192.0.2.1"));
    }

    /// Scenario: a collector that is to speak TLS has two addresses: the first lets the agent in and says nothing, and there is as much
    /// patience with it as there is time for both; at the second somebody answers who speaks no TLS.
    /// Guarantees: the first has half of the time and not all of it: the answer of the second is heard, and the error names it.
    #[tokio::test]
    async fn an_address_that_is_silent_leaves_time_for_the_next() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addresses = [silent.local_addr().unwrap(), other.local_addr().unwrap()];
        let _answering = tokio::spawn(async move {
            let (mut stream, _) = other.accept().await.unwrap();
            stream.write_all(b"what do you want?\n").await.unwrap();
            // It is the agent that ends it.
            stream.read_to_end(&mut Vec::new()).await.ok();
        });
        let target = Target::parse("collector.example:1", true).unwrap();
        let tls = ClientTls::load(weir_net::roots::Trust::default()).unwrap();
        let until = Instant::now() + Duration::from_secs(4);
        let entering = target.enter(&addresses, Some(&tls), CONNECT_TIMEOUT, until);
        let error = entering.await.map(|_| "a connection").unwrap_err();
        assert!(matches!(error, DialError::Tls { address, .. } if address == addresses[1]), "{error}");
    }

    /// Scenario: one of two addresses of a collector is closed, the first or the second.
    /// Guarantees: a dial goes through the first that lets it in, and tells which one that was.
    #[tokio::test]
    async fn a_dial_tells_where_it_was_let_in() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let open = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let open_at = open.local_addr().unwrap();
        let target = Target::parse("localhost:1", false).unwrap();
        for addresses in [[closed, open_at], [open_at, closed]] {
            let until = Instant::now() + CONNECT_TIMEOUT;
            let entered = target.enter(&addresses, None, CONNECT_TIMEOUT, until).await.map(|one| one.address);
            assert_eq!(entered.unwrap(), open_at);
        }
    }

    /// Scenario: three addresses; a dial begins at the first, at one where the agent was welcome, or after one that had nothing to say,
    /// the last and one that is gone among them.
    /// Guarantees: each order has all of them once, and begins as it should; the shares of a dial's time are all of it.
    #[test]
    fn a_dial_begins_after_the_address_that_failed() {
        let [a, b, c, gone] = [1, 2, 3, 4].map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let order = |begin: Begin| {
            let mut addresses = [a, b, c];
            begin.order(&mut addresses);
            addresses
        };
        assert_eq!((order(Begin::First), order(Begin::At(b))), ([a, b, c], [b, c, a]));
        assert_eq!((order(Begin::After(a)), order(Begin::After(c))), ([b, c, a], [a, b, c]));
        assert_eq!((order(Begin::At(gone)), order(Begin::After(gone))), ([a, b, c], [a, b, c]));
        let mut left = CONNECT_TIMEOUT;
        for addresses in (1..=ADDRESSES_MAX).rev() {
            let share = share(left, addresses);
            assert!(share >= CONNECT_TIMEOUT / 17, "{addresses} addresses are left: {share:?}");
            left -= share;
        }
        assert_eq!(left, Duration::ZERO);
    }
}
