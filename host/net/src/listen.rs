//! Listeners: bound at once, served later, drained at the end.
//!
//! One address speaks HTTP/1.1 and HTTP/2, told apart by ALPN under TLS and by the first bytes without it.
//!
//! ```text
//! accept ─▶ TLS handshake (10 s) ─▶ first bytes (10 s) ─▶ serve ──drain or age──▶ finish ─▶ closed
//! ```

use std::convert::Infallible;
use std::io;
use std::net::{SocketAddr, TcpListener as StdListener, ToSocketAddrs};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulConnection;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, warn};
use weir_model::{BoxFuture, Counter};

use crate::certificate::Identity;
use crate::drain::Drain;
use crate::limits::{
    FRAME_BYTES_MAX, HANDSHAKE_TIME_MAX, HEADER_LIST_BYTES_MAX, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT,
    ListenLimits, READ_BUFFER_BYTES_MAX, STREAM_WINDOW_BYTES,
};
use crate::reply::ReplyBody;
use crate::stream::{Activity, InFlight, Stream, Transport, Version};
use crate::tls::{Seated, ServerTls};
use crate::windows::Windows;

/// Connections that wait in the kernel until we take them.
const BACKLOG: i32 = 1024;

/// The pause after an accept that failed for want of something (descriptors, memory): what is missing comes back
/// when a connection ends, and asking faster only burns the processor.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often the activity of an HTTP/1 connection is looked at at most. Often enough is twice in the shortest of its
/// times.
const WATCH_INTERVAL_MIN: Duration = Duration::from_millis(10);

/// A connection's age limit is shortened by up to one part in so many, so that a fleet that connected in one
/// moment does not come back in one.
const AGE_JITTER_PARTS: u32 = 10;

/// Answers requests. One handler serves all connections of a listener.
pub trait Handler: Send + Sync + 'static {
    /// Answers one request. The future is dropped where the peer resets the stream or leaves.
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>>;
}

/// Who is at the other end of a connection.
#[derive(Debug)]
pub struct Peer {
    /// Its address.
    pub addr: SocketAddr,
    /// Signaled when the process drains or the connection has become too old: end streams that are still open.
    pub drain: Drain,
    /// Whom the certificate names that it showed and we verified; none where it need not show one.
    pub identity: Option<Arc<Identity>>,
    cut: CancellationToken,
}

impl Peer {
    /// Ends its connection at once, with all that is under way on it: for a peer that does not take what it asked for.
    pub fn cut(&self) {
        self.cut.cancel();
    }

    /// Returns when its connection is cut, by [`Peer::cut`] or because its certificate does not hold any more: for what a handler has
    /// begun and does not await. Handlers, and bodies of answers, are dropped then anyway.
    ///
    /// # Cancel safety
    /// Safe to drop and to call again.
    pub async fn cut_off(&self) {
        self.cut.cancelled().await;
    }
}

/// What the program adds to an endpoint.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Limits of its connections.
    pub limits: ListenLimits,
    /// TLS, or plaintext.
    pub tls: Option<Arc<ServerTls>>,
    /// Connections open now.
    pub connections: Counter,
}

/// Why an address was not bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// It is not an address, or a name that does not resolve.
    #[error("resolve endpoint {endpoint:?}, expected host:port as 127.0.0.1:4317")]
    Endpoint {
        /// As the user wrote it.
        endpoint: String,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// It cannot be listened on.
    #[error("listen on {endpoint}")]
    Listen {
        /// As the user wrote it.
        endpoint: String,
        /// Why not.
        #[source]
        cause: io::Error,
    },
}

/// An address that is ours; nobody is served yet.
#[derive(Debug)]
pub struct Bound {
    socket: StdListener,
    local_addr: SocketAddr,
    settings: Settings,
}

impl Bound {
    /// Reserves `endpoint` (`host:port`, port 0 for any), so that a clash is an error at start.
    ///
    /// # Errors
    /// [`BindError`], with the endpoint.
    pub fn bind(endpoint: &str, settings: Settings) -> Result<Self, BindError> {
        let (socket, local_addr) = first_of(endpoint, |addr| {
            let socket = listen_on(addr)?;
            let local_addr = socket.local_addr()?;
            Ok((socket, local_addr))
        })?;
        Ok(Self { socket, local_addr, settings })
    }

    /// The address, with the port that the system chose where the endpoint left it open.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Serves until `drain` is signaled and every connection has ended. The caller sets the deadline: dropping the
    /// future cuts what is still open.
    ///
    /// # Errors
    /// Only where the socket cannot be handed to the runtime.
    pub async fn serve(self, handler: Arc<dyn Handler>, drain: Drain) -> io::Result<()> {
        let Self { socket, local_addr, settings } = self;
        let listener = TcpListener::from_std(socket)?;
        let cut = CancellationToken::new();
        let (windows, tasks) = (Windows::default(), TaskTracker::new());
        let tls = settings.tls.clone();
        let server = Arc::new(Server { handler, settings, drain, windows, tasks, cut: cut.clone() });
        let _cut_when_dropped = cut.drop_guard();
        let serving = async {
            server.accept_all(&listener, local_addr).await;
            drop(listener);
            server.tasks.close();
            server.tasks.wait().await;
        };
        match tls {
            None => serving.await,
            // Also while connections finish: nobody whose certificate is revoked stays for that.
            Some(tls) => tokio::select! {
                () = serving => (),
                () = tls.look_on() => (),
            },
        }
        Ok(())
    }
}

/// What `open` makes of the first address of `endpoint` that it can be made of.
///
/// # Errors
/// [`BindError`], with the endpoint and what the last address said.
pub(crate) fn first_of<T>(
    endpoint: &str,
    open: impl Fn(SocketAddr) -> io::Result<T>,
) -> Result<T, BindError> {
    let unresolved = |cause| BindError::Endpoint { endpoint: endpoint.to_owned(), cause };
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in endpoint.to_socket_addrs().map_err(unresolved)? {
        match open(addr) {
            Ok(opened) => return Ok(opened),
            Err(error) => failed = error,
        }
    }
    Err(BindError::Listen { endpoint: endpoint.to_owned(), cause: failed })
}

fn listen_on(addr: SocketAddr) -> io::Result<StdListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    // A restart must not wait for the last one's connections to be forgotten.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

// === impl Server ===

struct Server {
    handler: Arc<dyn Handler>,
    settings: Settings,
    drain: Drain,
    windows: Windows,
    /// Every connection, and every stream of one.
    tasks: TaskTracker,
    /// Ends them at once.
    cut: CancellationToken,
}

impl Server {
    /// Accepts until the drain. An accept that fails ends nothing.
    async fn accept_all(self: &Arc<Self>, listener: &TcpListener, local_addr: SocketAddr) {
        let slots = Arc::new(Semaphore::new(self.settings.limits.connections_max));
        let mut failing = false;
        let mut draining = pin!(self.drain.signaled());
        loop {
            let accept = async {
                let slot = Arc::clone(&slots).acquire_owned().await.expect("the semaphore is never closed");
                (slot, listener.accept().await)
            };
            let (slot, accepted) = tokio::select! {
                biased;
                () = &mut draining => return,
                accepted = accept => accepted,
            };
            match accepted {
                Ok((stream, addr)) => {
                    failing = false;
                    let server = Arc::clone(self);
                    let cut = self.cut.clone();
                    self.tasks.spawn(async move {
                        let _slot = slot;
                        cut.run_until_cancelled(server.connection(stream, addr)).await;
                    });
                }
                Err(error) if is_of_one_connection(&error) => debug!(%error, "connection gone before accept"),
                Err(error) => {
                    // Said once for each spell of failures, not ten times a second.
                    if !failing {
                        warn!(%error, listen.addr = %local_addr, "accept fails, trying on");
                    }
                    failing = true;
                    tokio::select! {
                        () = &mut draining => return,
                        () = sleep(ACCEPT_PAUSE) => (),
                    }
                }
            }
        }
    }

    async fn connection(&self, stream: TcpStream, addr: SocketAddr) {
        let _open = Open::count(&self.settings.connections);
        if let Err(error) = stream.set_nodelay(true) {
            debug!(%error, peer.addr = %addr, "connection keeps its delay");
        }
        let cut = CancellationToken::new();
        let Some((stream, known)) = self.secured(stream, addr, &cut).await else {
            return;
        };
        let (identity, _seated) = known.unzip();
        let mut stream = Stream::new(stream);
        let limits = &self.settings.limits;
        let version = tokio::select! {
            version = timeout(limits.header_timeout, stream.detect()) => version,
            () = self.drain.signaled() => return,
        };
        let Ok(Ok(Some(version))) = version else {
            debug!(peer.addr = %addr, "connection closed before it said what it speaks");
            return;
        };
        let peer = Arc::new(Peer { addr, drain: self.drain.child(), identity, cut: cut.clone() });
        let serving = async {
            match version {
                Version::One => self.serve_one(stream, peer).await,
                Version::Two => self.serve_two(stream, peer).await,
            }
        };
        cut.run_until_cancelled(serving).await;
    }

    /// The TLS handshake, where the listener has TLS, and whom it has made known: its connection is `cut` when that holds no more.
    async fn secured(
        &self,
        stream: TcpStream,
        addr: SocketAddr,
        cut: &CancellationToken,
    ) -> Option<(Transport, Option<(Arc<Identity>, Seated)>)> {
        let Some(tls) = &self.settings.tls else {
            return Some((Transport::Plain(stream), None));
        };
        let current = tls.current();
        let acceptor = TlsAcceptor::from(Arc::clone(&current.config));
        match timeout(HANDSHAKE_TIME_MAX, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                let shown = stream.get_ref().1.peer_certificates().unwrap_or_default();
                match tls.seat(&current, addr, shown, cut) {
                    Ok(known) => return Some((Transport::Tls(Box::new(stream)), known)),
                    Err(error) => {
                        warn!(%error, peer.addr = %addr, "connection closed: its client cannot be known")
                    }
                }
            }
            Ok(Err(error)) if is_of_client_certificate(&error) => {
                warn!(%error, peer.addr = %addr, "connection refused for its client's certificate");
            }
            Ok(Err(error)) => debug!(%error, peer.addr = %addr, "tls handshake failed"),
            Err(_) => debug!(peer.addr = %addr, "tls handshake takes too long"),
        }
        tls.counts().handshakes_failed.add(1);
        None
    }

    async fn serve_one(&self, stream: Stream, peer: Arc<Peer>) {
        let activity = Activity::start();
        let stream = TokioIo::new(stream.watched_by(Arc::clone(&activity)));
        let service = self.service(&peer, Some(Arc::clone(&activity)));
        // A request has at most 100 headers: hyper's default, and saying so costs an allocation for each request.
        // Times are watched by `drive`: hyper's own timer of a head also runs while a connection is idle.
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(None)
            .max_header_size(HEADER_LIST_BYTES_MAX as usize)
            .max_buf_size(READ_BUFFER_BYTES_MAX)
            .serve_connection(stream, service);
        self.drive(connection, &peer, Some(&activity)).await;
    }

    async fn serve_two(&self, stream: Stream, peer: Arc<Peer>) {
        let executor = Streams { tasks: self.tasks.clone(), cut: self.cut.child_token() };
        let _cut_with_the_connection = executor.cut.clone().drop_guard();
        let service = self.service(&peer, None);
        let window = self.windows.lend();
        // The limits of resets are hyper's and h2's own (RUSTSEC-2024-0003, CVE-2023-44487).
        let connection = http2::Builder::new(executor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(window.bytes())
            .max_frame_size(FRAME_BYTES_MAX)
            .max_concurrent_streams(self.settings.limits.streams_max)
            .max_header_list_size(HEADER_LIST_BYTES_MAX)
            .keep_alive_interval(KEEPALIVE_INTERVAL)
            .keep_alive_timeout(KEEPALIVE_TIMEOUT)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service);
        self.drive(connection, &peer, None).await;
    }

    fn service(&self, peer: &Arc<Peer>, activity: Option<Arc<Activity>>) -> Service {
        Service { handler: Arc::clone(&self.handler), peer: Arc::clone(peer), activity }
    }

    /// Runs a connection to its end: its own, by drain, by age, or because it does nothing.
    async fn drive<C>(&self, connection: C, peer: &Peer, activity: Option<&Activity>)
    where
        C: GracefulConnection,
        C::Error: std::fmt::Display,
    {
        let limits = &self.settings.limits;
        let mut connection = pin!(connection);
        let mut draining = pin!(peer.drain.signaled());
        let mut is_draining = false;
        let shortened = limits.age_max.mul_f64(fastrand::f64() / f64::from(AGE_JITTER_PARTS));
        let mut aging = pin!(sleep(limits.age_max.saturating_sub(shortened)));
        let mut is_old = false;
        let watch_interval = (limits.header_timeout.min(limits.idle_timeout) / 2).max(WATCH_INTERVAL_MIN);
        let mut watching = pin!(sleep(watch_interval));
        loop {
            tokio::select! {
                ended = connection.as_mut() => {
                    if let Err(error) = ended {
                        debug!(%error, peer.addr = %peer.addr, "connection ended");
                    }
                    return;
                }
                () = &mut draining, if !is_draining => {
                    is_draining = true;
                    connection.as_mut().graceful_shutdown();
                }
                () = &mut aging => {
                    if is_old {
                        debug!(peer.addr = %peer.addr, "connection cut after its last grace");
                        return;
                    }
                    is_old = true;
                    peer.drain.signal();
                    aging.as_mut().reset(Instant::now() + limits.age_grace);
                }
                () = &mut watching, if activity.is_some() => {
                    if activity.is_some_and(|watch| watch.is_overdue(limits.header_timeout, limits.idle_timeout)) {
                        debug!(peer.addr = %peer.addr, "connection cut, it does nothing");
                        return;
                    }
                    watching.as_mut().reset(Instant::now() + watch_interval);
                }
            }
        }
    }
}

/// Whether an accept failed because of the connection that it was about, not of us.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// Whether a handshake failed because the client showed no certificate, or one that is not taken: an operator wants to know.
fn is_of_client_certificate(error: &io::Error) -> bool {
    let cause = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>());
    matches!(cause, Some(rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented))
}

/// Counts a connection while it is open.
struct Open(Counter);

impl Open {
    fn count(open: &Counter) -> Self {
        open.add(1);
        Self(open.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.sub(1);
    }
}

/// Where the streams of an HTTP/2 connection run: tracked, and cut with it.
#[derive(Clone)]
struct Streams {
    tasks: TaskTracker,
    cut: CancellationToken,
}

impl<F> hyper::rt::Executor<F> for Streams
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, stream: F) {
        let cut = self.cut.clone();
        self.tasks.spawn(async move {
            cut.run_until_cancelled(stream).await;
        });
    }
}

/// A handler as hyper calls it.
struct Service {
    handler: Arc<dyn Handler>,
    peer: Arc<Peer>,
    activity: Option<Arc<Activity>>,
}

impl hyper::service::Service<Request<Incoming>> for Service {
    type Response = Response<ReplyBody>;
    type Error = Infallible;
    type Future = Answer;

    fn call(&self, request: Request<Incoming>) -> Answer {
        let under_way = self.activity.as_ref().map(Activity::begin);
        let answer = Arc::clone(&self.handler).handle(request, Arc::clone(&self.peer));
        Answer { answer, under_way }
    }
}

struct Answer {
    answer: BoxFuture<'static, Response<ReplyBody>>,
    under_way: Option<InFlight>,
}

impl Future for Answer {
    type Output = Result<Response<ReplyBody>, Infallible>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        this.answer.as_mut().poll(cx).map(|mut response| {
            // A body that takes its time is under way until its last frame: whoever makes it bounds that time.
            if let Some(under_way) = this.under_way.take() {
                response.body_mut().under_way(under_way);
            }
            Ok(response)
        })
    }
}
