//! The one HTTP client of the process: pooled, bounded, and dialling only what a grant allows.
//!
//! A [`Client`] holds what is shared (resolver, trust, budget). An [`Outlet`] is the client as one configured id may
//! use it: it judges every request against its [`Egress`] and has a pool of its own, so that a connection that was
//! made under one grant never carries another's request. Redirects are answers like any other; nobody follows them.
//!
//! Invariant: a request leaves only through an outlet, and an outlet dials no address that its grant does not pass.

mod targets;

use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::MaybeHttpsStream;
use hyper_util::client::legacy::Client as Pool;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_service::Service;
use weir_model::{Exhausted, Ledger};

use crate::address::{Denied, Egress, Host, Origin};
use crate::client_tls::ClientTls;
use crate::roots::{RootsError, Trust};
use crate::secured::{BOTH, Judged, Secured};

pub use targets::{FETCHES_MAX, Keeping, Paid};

/// The largest response that is read when a caller says nothing else (`facts/reliability.md` 5.2).
pub const RESPONSE_BYTES_MAX_DEFAULT: usize = 4 * 1024 * 1024;

/// Name, TCP and TLS together. A backend that needs longer is down.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// One address of several. Leaves room to try another within [`CONNECT_TIMEOUT`].
const DIAL_TIMEOUT: Duration = Duration::from_secs(4);

/// Connections that one outlet holds at once, idle ones included: twice the most pushes that an exporter has under
/// way (one a lane), or two for each origin where it has more of these. Half of them may be idle, the same for each origin:
/// idle connections never keep an origin from having one.
const CONNECTIONS_MAX: usize = 32;

/// Lookups of names that one outlet has under way. The system's resolver holds one of the process's blocking threads (512) for
/// as long as it takes, also where nobody waits any more: an id whose names are slow must not take them all. A name is looked up
/// once for each connection, so four serve hundreds of new connections a second.
const LOOKUPS_MAX: usize = 4;

/// Below the idle limits of common load balancers (60 s) and servers (Node's 5 s is met by a retry on a fresh one).
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Addresses of one name that are looked at. A name with more is balanced by its resolver anyway.
const ADDRESSES_MAX: usize = 16;

type BoxError = Box<dyn StdError + Send + Sync>;
type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Turns a name into addresses. Tests bring their own.
pub trait Resolve: Send + Sync {
    /// The addresses of `name`, best first.
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>>;
}

/// The operating system's resolver.
#[derive(Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            Ok(tokio::net::lookup_host((name, 0)).await?.map(|address| address.ip()).collect())
        })
    }
}

/// What the client needs from the process.
pub struct ClientSettings {
    /// Pays for responses while they are read.
    pub ledger: Arc<Ledger>,
    /// Trusted roots, PEM, instead of those that browsers trust.
    pub ca_file: Option<PathBuf>,
    /// Names to addresses.
    pub resolver: Arc<dyn Resolve>,
}

impl ClientSettings {
    /// The system's resolver, the roots that browsers trust.
    pub fn new(ledger: Arc<Ledger>) -> Self {
        Self { ledger, ca_file: None, resolver: Arc::new(SystemResolver) }
    }
}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The grant does not reach there; nothing was sent.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The URL, a header or the method is not one; nothing was sent.
    #[error("{0}")]
    Invalid(String),
    /// Resolution, connect, TLS, reset: whether the backend saw the request is unknown.
    #[error("{}", explain(.0.as_ref()))]
    Transport(BoxError),
    /// No whole response within this time; whether the backend saw the request is unknown.
    #[error("no response within {0:?}")]
    Timeout(Duration),
    /// The response is larger than the caller takes; the backend saw the request.
    #[error("the response is larger than {0} bytes")]
    ResponseTooLarge(usize),
    /// The ledger has no room for the response; the backend saw the request.
    #[error(transparent)]
    Memory(#[from] Exhausted),
}

/// The whole chain of an error in one line, each text once.
fn explain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.contains(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}

/// What one process shares among its outlets. Cloning shares it.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    ledger: Arc<Ledger>,
    resolver: Arc<dyn Resolve>,
    ca_file: Option<PathBuf>,
    /// Lookups for all outlets for targets together: there may be hundreds of these.
    target_lookups: Arc<Semaphore>,
    /// Read when the first outlet opens: a process without one need not collect 150 roots.
    tls: OnceLock<ClientTls>,
}

impl Client {
    /// A client; nothing is read or dialled yet.
    pub fn new(settings: ClientSettings) -> Self {
        let ClientSettings { ledger, ca_file, resolver } = settings;
        let target_lookups = Arc::new(Semaphore::new(targets::LOOKUPS_MAX));
        Self { shared: Arc::new(Shared { ledger, resolver, ca_file, target_lookups, tls: OnceLock::new() }) }
    }

    /// The client as one configured id may use it, with the process's trust.
    ///
    /// # Errors
    /// [`RootsError`] where the trusted roots cannot be read.
    pub fn outlet(&self, egress: Egress) -> Result<Outlet, RootsError> {
        Ok(self.outlet_with(egress, self.shared.tls()?.clone()))
    }

    /// The same with an id's own trust or client certificate, which is asked for anew for each connection. The protocols to offer
    /// (ALPN) are set here.
    pub fn outlet_with(&self, egress: Egress, tls: impl Into<ClientTls>) -> Outlet {
        let origins = egress.origins().len().max(1);
        let connections_max = CONNECTIONS_MAX.max(2 * origins);
        let room = Room {
            connections_max,
            idle_per_origin: connections_max / 2 / origins,
            idle_timeout: IDLE_TIMEOUT,
            lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)),
        };
        self.outlet_of(egress, tls.into(), room)
    }

    fn outlet_of(&self, egress: Egress, tls: ClientTls, room: Room) -> Outlet {
        let egress = Arc::new(egress);
        let dialer = Dialer {
            egress: Arc::clone(&egress),
            resolver: Arc::clone(&self.shared.resolver),
            lookups: room.lookups,
            permits: Arc::new(Semaphore::new(room.connections_max)),
        };
        let connector = Secured::new(dialer, tls, BOTH);
        let pool = Pool::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .timer(TokioTimer::new())
            .pool_idle_timeout(room.idle_timeout)
            .pool_max_idle_per_host(room.idle_per_origin)
            .build(Bounded(connector));
        Outlet { pool, egress, ledger: Arc::clone(&self.shared.ledger) }
    }
}

/// How much an outlet may hold.
struct Room {
    /// Connections at once, idle ones included.
    connections_max: usize,
    /// Of these, idle ones of one origin.
    idle_per_origin: usize,
    /// How long one may be idle.
    idle_timeout: Duration,
    /// Lookups of names at once; others may share them.
    lookups: Arc<Semaphore>,
}

impl Shared {
    fn tls(&self) -> Result<&ClientTls, RootsError> {
        if let Some(config) = self.tls.get() {
            return Ok(config);
        }
        let config = ClientTls::load(Trust { ca_file: self.ca_file.clone(), ..Trust::default() })?;
        Ok(self.tls.get_or_init(|| config))
    }
}

/// How long and how much one request may take.
#[derive(Debug, Clone, Copy)]
pub struct SendLimits {
    /// From the call to the last byte of the response.
    pub timeout: Duration,
    /// Bytes of the response's body.
    pub response_bytes_max: usize,
}

/// The client with one grant and a pool of its own. Cloning shares both.
#[derive(Clone)]
pub struct Outlet {
    pool: Pool<Bounded, Full<Bytes>>,
    egress: Arc<Egress>,
    ledger: Arc<Ledger>,
}

impl std::fmt::Debug for Outlet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outlet").field("egress", &self.egress).finish_non_exhaustive()
    }
}

impl Outlet {
    /// What it may reach.
    pub fn egress(&self) -> &Egress {
        &self.egress
    }

    /// Sends one request and reads the whole response. The body is not copied on its way to the socket.
    ///
    /// # Errors
    /// [`ClientError`]; a response of any status is a response.
    ///
    /// # Cancel safety
    /// A dropped call may have reached the backend.
    pub async fn send(
        &self,
        request: http::Request<Bytes>,
        limits: SendLimits,
    ) -> Result<http::Response<Bytes>, ClientError> {
        self.judge(&request)?;
        match tokio::time::timeout(limits.timeout, self.exchange(request, limits.response_bytes_max)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Timeout(limits.timeout)),
        }
    }

    /// Whether a request may be sent, as far as its URL says. An address needs no resolver, so it is judged at once and the
    /// caller sees the denial without a dial.
    fn judge(&self, request: &http::Request<Bytes>) -> Result<(), ClientError> {
        let origin = Origin::of(request.uri()).map_err(|error| ClientError::Invalid(error.to_string()))?;
        self.egress.allows(&origin)?;
        if let Host::Ip(ip) = origin.host {
            self.egress.judge(&origin, ip)?;
        }
        Ok(())
    }

    async fn exchange(
        &self,
        request: http::Request<Bytes>,
        bytes_max: usize,
    ) -> Result<http::Response<Bytes>, ClientError> {
        let response = self.pool.request(request.map(Full::new)).await.map_err(from_pool)?;
        let (head, body) = response.into_parts();
        let body = self.read(body, bytes_max).await?;
        Ok(http::Response::from_parts(head, body))
    }

    async fn read(&self, mut body: Incoming, bytes_max: usize) -> Result<Bytes, ClientError> {
        let announced = body.size_hint().lower();
        if announced > bytes_max as u64 {
            return Err(ClientError::ResponseTooLarge(bytes_max));
        }
        let mut claim = self.ledger.claim(0)?;
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| ClientError::Transport(error.into()))?;
            let Ok(data) = frame.into_data() else { continue };
            if first.len() + rest.len() + data.len() > bytes_max {
                return Err(ClientError::ResponseTooLarge(bytes_max));
            }
            claim.grow(data.len() as u64)?;
            if first.is_empty() {
                first = data;
            } else {
                rest.extend_from_slice(&data);
            }
        }
        if rest.is_empty() {
            return Ok(first);
        }
        let mut whole = BytesMut::with_capacity(first.len() + rest.len());
        whole.extend_from_slice(&first);
        whole.extend_from_slice(&rest);
        Ok(whole.freeze())
    }
}

/// Finds a denial and our own timeout in what the pool wraps around them.
fn from_pool(error: hyper_util::client::legacy::Error) -> ClientError {
    let mut next: Option<&(dyn StdError + 'static)> = Some(&error);
    while let Some(cause) = next {
        if let Some(denied) = cause.downcast_ref::<Denied>() {
            return ClientError::Denied(denied.clone());
        }
        next = cause.source();
    }
    ClientError::Transport(error.into())
}

// === impl Dialer ===

/// Opens connections: judges, resolves, judges again, dials.
#[derive(Clone)]
struct Dialer {
    egress: Arc<Egress>,
    resolver: Arc<dyn Resolve>,
    lookups: Arc<Semaphore>,
    permits: Arc<Semaphore>,
}

impl Dialer {
    async fn dial(self, uri: http::Uri) -> Result<Wire, BoxError> {
        let origin = Origin::of(&uri)?;
        self.egress.allows(&origin)?;
        let permit = Arc::clone(&self.permits).acquire_owned().await?;
        let mut failure: BoxError = format!("{} resolves to no address", origin.host).into();
        for ip in self.addresses(&origin.host).await? {
            if let Err(denied) = self.egress.judge(&origin, ip) {
                failure = denied.into();
                continue;
            }
            let address = SocketAddr::new(ip, origin.port);
            match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    stream.set_nodelay(true)?;
                    return Ok(Wire { stream: TokioIo::new(stream), _permit: permit });
                }
                Ok(Err(error)) => failure = format!("connect to {address}: {error}").into(),
                Err(_) => failure = format!("connect to {address}: no answer within {DIAL_TIMEOUT:?}").into(),
            }
        }
        Err(failure)
    }

    async fn addresses(&self, host: &Host) -> Result<Vec<IpAddr>, BoxError> {
        match host {
            Host::Ip(ip) => Ok(vec![*ip]),
            Host::Name(name) => {
                let found = self.lookup(name.clone()).await?;
                let mut found = found.map_err(|error| format!("resolve {name}: {error}"))?;
                found.truncate(ADDRESSES_MAX);
                Ok(found)
            }
        }
    }

    /// Waits for leave and looks the name up. Whoever waits may be dropped, the system's lookup cannot: the task goes on until it
    /// is over, and gives its leave back only then.
    async fn lookup(&self, name: String) -> Result<io::Result<Vec<IpAddr>>, BoxError> {
        let leave = Arc::clone(&self.lookups).acquire_owned().await?;
        let resolver = Arc::clone(&self.resolver);
        let looking = tokio::spawn(async move {
            let found = resolver.resolve(&name).await;
            drop(leave);
            found
        });
        Ok(looking.await?)
    }
}

impl Service<http::Uri> for Dialer {
    type Response = Wire;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Wire, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

/// The connector with a limit on name, TCP and TLS together: the pool finishes connects in the background, where no
/// request's timeout reaches them.
#[derive(Clone)]
struct Bounded(Secured<Dialer>);

impl Service<http::Uri> for Bounded {
    type Response = Judged<MaybeHttpsStream<Wire>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, uri: http::Uri) -> Self::Future {
        let connecting = self.0.call(uri);
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(format!("no connection within {CONNECT_TIMEOUT:?}").into()),
            }
        })
    }
}

/// A TCP connection that carries its permit.
struct Wire {
    stream: TokioIo<TcpStream>,
    _permit: OwnedSemaphorePermit,
}

impl Connection for Wire {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl Read for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl Write for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
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
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use hyper::service::service_fn;
    use tokio::net::TcpListener;
    use tokio::task::JoinSet;

    use super::*;

    struct Table(HashMap<&'static str, Vec<&'static str>>);

    impl Resolve for Table {
        fn resolve<'a>(&'a self, name: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
            let found = self.0.get(name).map(|ips| ips.iter().map(|ip| ip.parse().unwrap()).collect());
            Box::pin(async move { found.ok_or_else(|| io::Error::other("no such name")) })
        }
    }

    /// Counts lookups that have begun, and ends none before it is told to.
    struct Slow {
        begun: AtomicUsize,
        ends: Semaphore,
    }

    impl Resolve for Slow {
        fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, io::Result<Vec<IpAddr>>> {
            self.begun.fetch_add(1, Ordering::SeqCst);
            Box::pin(async move {
                self.ends.acquire().await.unwrap().forget();
                Err(io::Error::other("no such name"))
            })
        }
    }

    fn client(names: &[(&'static str, &[&'static str])]) -> Client {
        let table = names.iter().map(|(name, ips)| (*name, ips.to_vec())).collect();
        let settings =
            ClientSettings { resolver: Arc::new(Table(table)), ..ClientSettings::new(Ledger::new(64 << 20)) };
        Client::new(settings)
    }

    const LIMITS: SendLimits = SendLimits { timeout: Duration::from_secs(10), response_bytes_max: 1000 };

    /// A backend on loopback that answers by path and counts its connections.
    async fn backend(tasks: &mut JoinSet<()>) -> (u16, Arc<AtomicUsize>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                served.spawn(async move {
                    let service = service_fn(answer);
                    let builder = hyper::server::conn::http1::Builder::new();
                    let served = builder.serve_connection(TokioIo::new(stream), service).await;
                    drop(served);
                });
            }
        });
        (port, connections)
    }

    async fn answer(request: http::Request<Incoming>) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
        let path = request.uri().path().to_owned();
        let sent = request.into_body().collect().await?.to_bytes();
        let answer = match path.as_str() {
            "/echo" => http::Response::new(Full::new(sent)),
            "/moved" => http::Response::builder()
                .status(307)
                .header("location", "http://elsewhere.example/")
                .body(Full::new(Bytes::new()))
                .unwrap(),
            "/never" => std::future::pending().await,
            _ => http::Response::new(Full::new(Bytes::from(vec![b'x'; 1001]))),
        };
        Ok(answer)
    }

    fn post(url: String, body: &'static str) -> http::Request<Bytes> {
        http::Request::post(url).body(Bytes::from(body)).unwrap()
    }

    /// Scenario: two requests after each other to a granted loopback literal, then one through another outlet.
    /// Guarantees: the connection is reused within an outlet and never across outlets.
    #[tokio::test]
    async fn connections_are_kept_within_a_grant_and_not_shared_across() {
        let mut tasks = JoinSet::new();
        let (port, connections) = backend(&mut tasks).await;
        let url = format!("http://127.0.0.1:{port}/echo");
        let client = client(&[]);
        let outlet = client.outlet(Egress::new([url.parse().unwrap()]).unwrap()).unwrap();
        for _ in 0..3 {
            let response = outlet.send(post(url.clone(), "hello"), LIMITS).await.unwrap();
            assert_eq!(&response.body()[..], b"hello");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 1);
        let other = client.outlet(Egress::new([url.parse().unwrap()]).unwrap()).unwrap();
        other.send(post(url, "hello"), LIMITS).await.unwrap();
        assert_eq!(connections.load(Ordering::SeqCst), 2);
    }

    /// Scenario: a granted name resolves to loopback, to metadata, to a mapped loopback; an ungranted name is asked for.
    /// Guarantees: each is denied, nothing is dialled.
    #[tokio::test]
    async fn a_name_does_not_lead_to_denied_addresses() {
        let mut tasks = JoinSet::new();
        let (port, connections) = backend(&mut tasks).await;
        let client = client(&[
            ("rebind.example", &["127.0.0.1"]),
            ("meta.example", &["169.254.169.254", "fd00:ec2::254"]),
            ("mapped.example", &["::ffff:127.0.0.1"]),
        ]);
        for name in ["rebind.example", "meta.example", "mapped.example"] {
            let url = format!("http://{name}:{port}/echo");
            let outlet = client.outlet(Egress::new([url.parse().unwrap()]).unwrap()).unwrap();
            let error = outlet.send(post(url, ""), LIMITS).await.unwrap_err();
            assert!(matches!(error, ClientError::Denied(Denied::Address { .. })), "{name}: {error}");
            let error = outlet.send(post("http://other.example/".into(), ""), LIMITS).await.unwrap_err();
            assert!(matches!(error, ClientError::Denied(Denied::NotGranted { .. })), "{name}: {error}");
        }
        assert_eq!(connections.load(Ordering::SeqCst), 0);
    }

    /// Scenario: localhost is granted and resolves to an unreachable twin first; a redirect; a response one byte too long.
    /// Guarantees: the next address is tried, the redirect is handed back, the long response is an error.
    #[tokio::test]
    async fn answers_are_handed_back_as_they_are() {
        let mut tasks = JoinSet::new();
        let (port, _) = backend(&mut tasks).await;
        let client = client(&[("localhost", &["169.254.169.254", "127.0.0.1"])]);
        let outlet = client
            .outlet(Egress::new([format!("http://localhost:{port}").parse().unwrap()]).unwrap())
            .unwrap();
        let moved = outlet.send(post(format!("http://localhost:{port}/moved"), ""), LIMITS).await.unwrap();
        assert_eq!(moved.status(), 307);
        let error = outlet.send(post(format!("http://localhost:{port}/long"), ""), LIMITS).await.unwrap_err();
        assert!(matches!(error, ClientError::ResponseTooLarge(1000)), "{error}");
        let limits = SendLimits { timeout: Duration::from_millis(20), ..LIMITS };
        let error =
            outlet.send(post(format!("http://localhost:{port}/never"), ""), limits).await.unwrap_err();
        assert!(matches!(error, ClientError::Timeout(_)), "{error}");
    }

    /// Scenario: the backend's port is closed, the name is unknown, https is spoken to a plain port.
    /// Guarantees: each is a transport error whose text says what failed.
    #[tokio::test]
    async fn what_cannot_be_reached_says_why() {
        let mut tasks = JoinSet::new();
        let (port, _) = backend(&mut tasks).await;
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let client = client(&[]);
        let cases = [
            (format!("http://127.0.0.1:{closed}/"), "Connection refused"),
            ("http://nowhere.example/".to_owned(), "resolve nowhere.example: no such name"),
            (format!("https://127.0.0.1:{port}/"), "corrupt message"),
        ];
        for (url, expected) in cases {
            let outlet = client.outlet(Egress::new([url.parse().unwrap()]).unwrap()).unwrap();
            let error = outlet.send(post(url.clone(), ""), LIMITS).await.unwrap_err();
            assert!(matches!(error, ClientError::Transport(_)), "{url}: {error}");
            assert!(error.to_string().contains(expected), "{url}: {error}");
        }
    }

    /// Scenario: a resolver that does not answer, and a caller that gives each of many requests up at once; then it answers.
    /// Guarantees: lookups that nobody waits for any more still count, so no more than the named number is under way; afterwards
    /// names are looked up again.
    #[tokio::test]
    async fn lookups_that_nobody_waits_for_stay_few() {
        let slow = Arc::new(Slow { begun: AtomicUsize::new(0), ends: Semaphore::new(0) });
        let resolver = Arc::clone(&slow) as Arc<dyn Resolve>;
        let client = Client::new(ClientSettings { resolver, ..ClientSettings::new(Ledger::new(64 << 20)) });
        let url = "http://slow.example/".to_owned();
        let outlet = client.outlet(Egress::new([url.parse().unwrap()]).unwrap()).unwrap();
        let brief = SendLimits { timeout: Duration::from_millis(1), ..LIMITS };
        for _ in 0..5 * LOOKUPS_MAX {
            let error = outlet.send(post(url.clone(), ""), brief).await.unwrap_err();
            assert!(matches!(error, ClientError::Timeout(_)), "{error}");
        }
        assert_eq!(slow.begun.load(Ordering::SeqCst), LOOKUPS_MAX);
        slow.ends.add_permits(LOOKUPS_MAX + 1);
        let error = outlet.send(post(url, ""), LIMITS).await.unwrap_err();
        assert!(error.to_string().contains("no such name"), "{error}");
    }

    /// Scenario: an outlet with more origins than connections sends one request to each, twice.
    /// Guarantees: each is answered at once: what is idle for others takes no origin's place, and is used again.
    #[tokio::test]
    async fn idle_connections_leave_room_for_every_origin() {
        let mut tasks = JoinSet::new();
        let mut backends = Vec::new();
        for _ in 0..CONNECTIONS_MAX + 4 {
            backends.push(backend(&mut tasks).await);
        }
        let urls: Vec<String> =
            backends.iter().map(|(port, _)| format!("http://127.0.0.1:{port}/echo")).collect();
        let origins = urls.iter().map(|url| url.parse().unwrap());
        let outlet = client(&[]).outlet(Egress::new(origins).unwrap()).unwrap();
        for _ in 0..2 {
            for url in &urls {
                outlet.send(post(url.clone(), "hello"), LIMITS).await.unwrap();
            }
        }
        assert!(backends.iter().all(|(_, connections)| connections.load(Ordering::SeqCst) == 1));
    }
}
