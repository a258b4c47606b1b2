//! Listeners seen from outside: raw sockets and hyper's client speak to them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weir_model::{BoxFuture, Counter};
use weir_net::grpc::{Status, conversation};
use weir_net::limits::ListenLimits;
use weir_net::listen::{BindError, Bound, Handler, Peer, Settings};
use weir_net::reply::text;
use weir_net::tls::{MinVersion, ServerTls, TlsConfig};
use weir_net::{Drain, ReplyBody};

/// No state of a test takes so long.
const DEADLINE: Duration = Duration::from_secs(20);

/// Answers with the version and the peer's certificate; `/wait` only when it is let go; `/talk` until the drain.
struct Echo {
    entered: Semaphore,
    gate: Semaphore,
}

impl Handler for Echo {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        Box::pin(async move {
            match request.uri().path() {
                "/wait" => {
                    self.entered.add_permits(1);
                    self.gate.acquire().await.unwrap().forget();
                }
                "/talk" => {
                    return conversation(|replies| async move {
                        replies.send(b"hello").await;
                        peer.drain.signaled().await;
                        Err(Status::unavailable("draining"))
                    });
                }
                _ => (),
            }
            let shown = if peer.identity.is_some() { " known" } else { "" };
            text(StatusCode::OK, format!("{:?}{shown}", request.version()))
        })
    }
}

struct Server {
    addr: SocketAddr,
    echo: Arc<Echo>,
    drain: Drain,
    connections: Counter,
    serving: JoinHandle<std::io::Result<()>>,
}

fn serve(limits: ListenLimits, tls: Option<Arc<ServerTls>>) -> Server {
    let connections = Counter::default();
    let settings = Settings { limits, tls, connections: connections.clone() };
    let bound = Bound::bind("127.0.0.1:0", settings).unwrap();
    let addr = bound.local_addr();
    let echo = Arc::new(Echo { entered: Semaphore::new(0), gate: Semaphore::new(0) });
    let drain = Drain::new();
    let serving = tokio::spawn(bound.serve(Arc::clone(&echo) as Arc<dyn Handler>, drain.clone()));
    Server { addr, echo, drain, connections, serving }
}

async fn get_one(addr: SocketAddr, path: &str) -> hyper::Result<Response<Incoming>> {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let request = Request::get(path).header("host", "test").body(Empty::<Bytes>::new()).unwrap();
    let driving = tokio::spawn(connection);
    let response = sender.send_request(request).await;
    drop(driving);
    response
}

async fn connect_two(addr: SocketAddr) -> (http2::SendRequest<Empty<Bytes>>, JoinHandle<hyper::Result<()>>) {
    let stream = TcpStream::connect(addr).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    (sender, tokio::spawn(connection))
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://test{path}")).body(Empty::new()).unwrap()
}

async fn body(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Waits until the server has closed the connection; what it said before.
async fn closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    let end =
        timeout(DEADLINE, stream.read_to_end(&mut said)).await.expect("the server keeps the connection");
    drop(end);
    said
}

/// Waits until `is_so`.
async fn eventually(what: &str, is_so: impl Fn() -> bool) {
    let waited = timeout(DEADLINE, async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    });
    assert!(waited.await.is_ok(), "never: {what}");
}

/// Scenario: HTTP/1.1 and HTTP/2 come to one plaintext address.
/// Guarantees: each is answered in its own version.
#[tokio::test]
async fn one_address_speaks_both_versions() {
    let server = serve(ListenLimits::default(), None);
    assert_eq!(body(get_one(server.addr, "/").await.unwrap()).await, "HTTP/1.1");
    let (mut sender, _driving) = connect_two(server.addr).await;
    let response = sender.send_request(get("/")).await.unwrap();
    assert_eq!(response.version(), Version::HTTP_2);
    assert_eq!(body(response).await, "HTTP/2.0");
}

/// Scenario: two receivers are configured with the same address; another with something that is none.
/// Guarantees: both are errors at start that name the endpoint.
#[test]
fn a_clash_of_addresses_is_an_error_at_start() {
    let first = Bound::bind("127.0.0.1:0", Settings::default()).unwrap();
    let endpoint = first.local_addr().to_string();
    let clash = Bound::bind(&endpoint, Settings::default()).unwrap_err();
    assert!(matches!(&clash, BindError::Listen { .. }));
    assert_eq!(clash.to_string(), format!("listen on {endpoint}"));
    assert!(matches!(Bound::bind("4317", Settings::default()), Err(BindError::Endpoint { .. })));
}

/// Scenario: connections that say nothing, half a preface, half a head, or one byte of a head at a time; and one
/// that rests after its first answer. The limits are milliseconds.
/// Guarantees: each is closed, and none is kept for ever.
#[tokio::test]
async fn a_connection_that_does_nothing_is_cut() {
    let times = Duration::from_millis(40);
    let server =
        serve(ListenLimits { header_timeout: times, idle_timeout: times, ..ListenLimits::default() }, None);
    for said in ["", "PRI * HTTP", "GET / HTTP/1.1\r\nhost:"] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(said.as_bytes()).await.unwrap();
        assert_eq!(closed(&mut stream).await, b"", "{said:?} was answered");
    }
    let mut resting = TcpStream::connect(server.addr).await.unwrap();
    resting.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(closed(&mut resting).await.ends_with(b"HTTP/1.1"));
    let mut dripping = TcpStream::connect(server.addr).await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let dripped = timeout(DEADLINE, async {
        dripping.write_all(b"GET / HTTP/1.1\r\na: ").await.unwrap();
        while dripping.write_all(b"x").await.is_ok() {
            ticks.tick().await;
        }
    });
    assert!(dripped.await.is_ok(), "a head that drips was waited for");
    eventually("all connections are gone", || server.connections.get() == 0).await;
}

/// Scenario: a request is under way on a slow handler when the limits of idle connections have long passed.
/// Guarantees: work under way does not count as idleness.
#[tokio::test]
async fn a_request_under_way_is_not_idle() {
    let times = Duration::from_millis(20);
    let server =
        serve(ListenLimits { header_timeout: times, idle_timeout: times, ..ListenLimits::default() }, None);
    let request = tokio::spawn(get_one(server.addr, "/wait"));
    server.echo.entered.acquire().await.unwrap().forget();
    tokio::time::timeout(10 * times, std::future::pending::<()>()).await.unwrap_err();
    server.echo.gate.add_permits(1);
    assert_eq!(request.await.unwrap().unwrap().status(), StatusCode::OK);
}

/// Scenario: the drain is signaled while requests of both versions and a conversation are under way.
/// Guarantees: nobody new is let in, what is under way is answered, the conversation ends with its status, and
/// serving ends.
#[tokio::test]
async fn a_drain_finishes_what_is_under_way() {
    let server = serve(ListenLimits::default(), None);
    let one = tokio::spawn(get_one(server.addr, "/wait"));
    let (mut sender, driving) = connect_two(server.addr).await;
    let two = sender.send_request(get("/wait"));
    let mut talk = sender.clone().send_request(get("/talk")).await.unwrap();
    assert_eq!(talk.body_mut().frame().await.unwrap().unwrap().into_data().unwrap()[5..], b"hello"[..]);
    let two = tokio::spawn(two);
    server.echo.entered.acquire_many(2).await.unwrap().forget();
    server.drain.signal();
    let trailers = talk.body_mut().collect().await.unwrap().trailers().cloned().unwrap();
    assert_eq!(trailers["grpc-status"], "14");
    assert!(!server.serving.is_finished());
    server.echo.gate.add_permits(2);
    assert_eq!(one.await.unwrap().unwrap().status(), StatusCode::OK);
    assert_eq!(two.await.unwrap().unwrap().status(), StatusCode::OK);
    timeout(DEADLINE, server.serving).await.expect("serving never ends").unwrap().unwrap();
    assert!(TcpStream::connect(server.addr).await.is_err(), "a connection was taken after the drain");
    timeout(DEADLINE, driving).await.expect("the connection stays").unwrap().unwrap();
}

/// Scenario: the caller's deadline passes while a request hangs: the future of `serve` is dropped.
/// Guarantees: every connection and every stream is cut.
#[tokio::test]
async fn dropping_the_server_cuts_everything() {
    let server = serve(ListenLimits::default(), None);
    let one = tokio::spawn(get_one(server.addr, "/wait"));
    let (mut sender, driving) = connect_two(server.addr).await;
    let two = tokio::spawn(sender.send_request(get("/wait")));
    server.echo.entered.acquire_many(2).await.unwrap().forget();
    server.serving.abort();
    assert!(timeout(DEADLINE, one).await.unwrap().unwrap().is_err());
    assert!(timeout(DEADLINE, two).await.unwrap().unwrap().is_err());
    drop(driving);
    eventually("all connections are gone", || server.connections.get() == 0).await;
    // The handler's future is gone too: nobody but us holds it any more.
    eventually("the handler is free", || Arc::strong_count(&server.echo) == 1).await;
}

/// Scenario: a listener that holds two connections at once gets a third.
/// Guarantees: the third is served when one of the first has ended, and not before.
#[tokio::test]
async fn connections_over_the_limit_wait() {
    let server = serve(ListenLimits { connections_max: 2, ..ListenLimits::default() }, None);
    let (mut first, first_driving) = connect_two(server.addr).await;
    let (mut second, _second_driving) = connect_two(server.addr).await;
    first.send_request(get("/")).await.unwrap();
    second.send_request(get("/")).await.unwrap();
    let third = tokio::spawn(get_one(server.addr, "/"));
    second.send_request(get("/")).await.unwrap();
    assert!(!third.is_finished());
    assert_eq!(server.connections.get(), 2);
    drop(first);
    first_driving.abort();
    assert_eq!(timeout(DEADLINE, third).await.unwrap().unwrap().unwrap().status(), StatusCode::OK);
}

/// Scenario: connections that become too old, one idle and one with a conversation on it.
/// Guarantees: the idle one ends in peace, the conversation hears of it and ends with its status.
#[tokio::test]
async fn an_old_connection_is_asked_to_end() {
    let server = serve(ListenLimits { age_max: Duration::from_millis(50), ..ListenLimits::default() }, None);
    let (mut sender, driving) = connect_two(server.addr).await;
    let mut talk = sender.send_request(get("/talk")).await.unwrap();
    let trailers = talk.body_mut().collect().await.unwrap().trailers().cloned().unwrap();
    assert_eq!(trailers["grpc-status"], "14");
    timeout(DEADLINE, driving).await.expect("an old connection stays").unwrap().unwrap();
    assert!(!server.drain.is_signaled());
}

/// Scenario: a client that answers no ping of its own and a request hang past the grace of an old connection.
/// Guarantees: it is cut when the grace is over.
#[tokio::test]
async fn an_old_connection_is_cut_after_its_grace() {
    let short = Duration::from_millis(30);
    let server = serve(ListenLimits { age_max: short, age_grace: short, ..ListenLimits::default() }, None);
    let hanging = tokio::spawn(get_one(server.addr, "/wait"));
    assert!(timeout(DEADLINE, hanging).await.expect("a connection outlives its grace").unwrap().is_err());
}

/// Scenario: a client opens a stream and resets it, five thousand times (CVE-2023-44487).
/// Guarantees: no handler of a reset stream lives on, and others are served.
#[tokio::test]
async fn a_storm_of_resets_leaves_nothing_behind() {
    let server = serve(ListenLimits::default(), None);
    let (sender, driving) = connect_two(server.addr).await;
    for _ in 0..5000 {
        let mut sender = sender.clone();
        if sender.ready().await.is_err() {
            // The server has had enough of this connection, which is its right.
            break;
        }
        let request = sender.send_request(get("/wait"));
        tokio::task::yield_now().await;
        drop(request);
    }
    drop(sender);
    driving.abort();
    eventually("all handlers are gone", || Arc::strong_count(&server.echo) == 2).await;
    let (mut sender, _driving) = connect_two(server.addr).await;
    assert_eq!(sender.send_request(get("/")).await.unwrap().status(), StatusCode::OK);
}

/// Scenario: heads with too many headers, with headers that are too long, in both versions.
/// Guarantees: each is refused, and the handler never sees it.
#[tokio::test]
async fn a_flood_of_headers_is_refused() {
    let server = serve(ListenLimits::default(), None);
    let many: String = (0..101).map(|number| format!("h{number}: x\r\n")).collect();
    let long = format!("h: {}\r\n", "x".repeat(17 * 1024));
    for headers in [many, long] {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(format!("GET /wait HTTP/1.1\r\n{headers}\r\n").as_bytes()).await.unwrap();
        assert!(closed(&mut stream).await.starts_with(b"HTTP/1.1 431 "));
    }
    let (mut sender, _driving) = connect_two(server.addr).await;
    let mut request = get("/wait");
    request.headers_mut().insert("h", "x".repeat(17 * 1024).parse().unwrap());
    let refused = sender.send_request(request).await;
    assert!(
        refused.map_or(true, |response| response.status() == StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE)
    );
    assert_eq!(server.echo.entered.available_permits(), 0);
}

/// Scenario: three hundred connections that stall within their heads.
/// Guarantees: another client is served meanwhile.
#[tokio::test]
async fn a_crowd_that_stalls_disturbs_nobody() {
    let server = serve(ListenLimits::default(), None);
    let mut crowd = Vec::new();
    for _ in 0..300 {
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        stream.write_all(b"POST / HTTP/1.1\r\nhost: a\r\nx").await.unwrap();
        crowd.push(stream);
    }
    assert_eq!(get_one(server.addr, "/").await.unwrap().status(), StatusCode::OK);
    assert_eq!(server.connections.get(), 301);
}

// === TLS ===

/// An authority, and certificates of a server and a client made by it, valid for a hundred years.
fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn server_tls(client_ca_file: Option<PathBuf>) -> TlsConfig {
    let min_version = MinVersion::Tls13;
    let (cert_file, key_file) = (data("server.pem"), data("server.key"));
    TlsConfig { cert_file, key_file, client_ca_file, crl_file: None, min_version }
}

async fn get_tls(addr: SocketAddr, alpn: &[&[u8]], with_certificate: bool) -> Result<String, String> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(data("ca.pem")).unwrap()).unwrap();
    let builder = rustls::ClientConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().unwrap().with_root_certificates(roots);
    let mut config = if with_certificate {
        let chain = vec![CertificateDer::from_pem_file(data("client.pem")).unwrap()];
        builder
            .with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(data("client.key")).unwrap())
            .unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let stream = TcpStream::connect(addr).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = connector.connect(name, stream).await.map_err(|error| error.to_string())?;
    let is_two = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    let failed = |error: hyper::Error| error.to_string();
    let response = if is_two {
        let (mut sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(connection);
        sender.send_request(get("/")).await.map_err(failed)?
    } else {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        tokio::spawn(connection);
        sender
            .send_request(Request::get("/").header("host", "a").body(Empty::<Bytes>::new()).unwrap())
            .await
            .map_err(failed)?
    };
    Ok(body(response).await)
}

/// Scenario: clients that speak HTTP/2 or HTTP/1.1 by ALPN, or say nothing; one that speaks plaintext.
/// Guarantees: each TLS client is served in its version; the plaintext one is closed and harms nobody.
#[tokio::test]
async fn tls_serves_both_versions() {
    let server = serve(ListenLimits::default(), Some(ServerTls::load(server_tls(None)).unwrap()));
    let mut plain = TcpStream::connect(server.addr).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    assert!(!closed(&mut plain).await.starts_with(b"HTTP"));
    assert_eq!(get_tls(server.addr, &[b"h2", b"http/1.1"], false).await.unwrap(), "HTTP/2.0");
    assert_eq!(get_tls(server.addr, &[b"http/1.1"], false).await.unwrap(), "HTTP/1.1");
    assert_eq!(get_tls(server.addr, &[], false).await.unwrap(), "HTTP/1.1");
}

/// Scenario: clients must show a certificate of our authority; one does, one does not.
/// Guarantees: only the first is served, and the handler can see who it is.
#[tokio::test]
async fn a_client_without_a_certificate_is_not_served() {
    let tls = ServerTls::load(server_tls(Some(data("ca.pem")))).unwrap();
    let server = serve(ListenLimits::default(), Some(tls));
    assert!(get_tls(server.addr, &[b"h2"], false).await.is_err());
    assert_eq!(get_tls(server.addr, &[b"h2"], true).await.unwrap(), "HTTP/2.0 known");
}

/// Scenario: files that are missing, that hold something else, that do not fit each other; then a reload of a file
/// that has gone bad.
/// Guarantees: each is an error that names the file, and a bad reload changes nothing.
#[tokio::test]
async fn bad_tls_files_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let missing = folder.path().join("missing.pem");
    let wrong = TlsConfig { cert_file: missing.clone(), ..server_tls(None) };
    assert!(ServerTls::load(wrong).unwrap_err().to_string().contains("missing.pem"));
    let wrong = TlsConfig { cert_file: data("server.key"), ..server_tls(None) };
    assert!(ServerTls::load(wrong).unwrap_err().to_string().contains("server.key"));
    let wrong = TlsConfig { key_file: data("client.key"), ..server_tls(None) };
    assert!(ServerTls::load(wrong).unwrap_err().to_string().contains("client.key"));

    let copy = folder.path().join("server.pem");
    std::fs::copy(data("server.pem"), &copy).unwrap();
    let tls = ServerTls::load(TlsConfig { cert_file: copy.clone(), ..server_tls(None) }).unwrap();
    let server = serve(ListenLimits::default(), Some(Arc::clone(&tls)));
    std::fs::write(&copy, "gone bad").unwrap();
    assert!(tls.reload().is_err());
    assert_eq!(get_tls(server.addr, &[b"h2"], false).await.unwrap(), "HTTP/2.0");
    std::fs::copy(data("server.pem"), &copy).unwrap();
    tls.reload().unwrap();
    assert_eq!(get_tls(server.addr, &[b"h2"], false).await.unwrap(), "HTTP/2.0");
}
