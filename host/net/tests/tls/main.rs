//! TLS that changes while it serves: who is taken, whose connection is cut, and what is read again without a restart.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop where it is")]

mod authority;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::HandshakeKind;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weir_model::count::TlsCounts;
use weir_model::{BoxFuture, Ledger};
use weir_net::address::Egress;
use weir_net::client::{Client, ClientSettings, Outlet, SendLimits};
use weir_net::client_tls::ClientTls;
use weir_net::listen::{Bound, Handler, Peer, Settings};
use weir_net::reply::text;
use weir_net::roots::Trust;
use weir_net::tls::{ServerTls, TlsConfig};
use weir_net::{Drain, ReplyBody};

use authority::{Authority, Clock, DAY, Pair, START, Wish, replace, url};

/// No state of a test takes so long.
const DEADLINE: Duration = Duration::from_secs(20);

/// Looks that no test waits for.
const NEVER: Duration = Duration::from_secs(24 * 3600);

/// Looks whenever there is a reason.
const ALWAYS: Duration = Duration::ZERO;

const LIMITS: SendLimits = SendLimits { timeout: DEADLINE, response_bytes_max: 1000 };

/// Says whom it sees; under `/wait` it never answers.
struct Seer {
    waiting: Semaphore,
}

impl Handler for Seer {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        Box::pin(async move {
            if request.uri().path() == "/wait" {
                self.waiting.add_permits(1);
                std::future::pending::<()>().await;
            }
            let name = peer.identity.as_ref().map(|identity| identity.name.clone());
            text(StatusCode::OK, format!("{name:?}"))
        })
    }
}

struct Server {
    addr: SocketAddr,
    tls: Arc<ServerTls>,
    counts: TlsCounts,
    seer: Arc<Seer>,
    drain: Drain,
    _serving: JoinHandle<std::io::Result<()>>,
}

fn serve(config: TlsConfig, clock: &Arc<Clock>, interval: Duration) -> Server {
    let tls = ServerTls::load_by(config, clock.lookout(interval)).unwrap();
    let counts = TlsCounts::default();
    tls.count_into(&counts);
    let settings = Settings { tls: Some(Arc::clone(&tls)), ..Settings::default() };
    let bound = Bound::bind("127.0.0.1:0", settings).unwrap();
    let addr = bound.local_addr();
    let seer = Arc::new(Seer { waiting: Semaphore::new(0) });
    let drain = Drain::new();
    let serving = tokio::spawn(bound.serve(Arc::clone(&seer) as Arc<dyn Handler>, drain.clone()));
    Server { addr, tls, counts, seer, drain, _serving: serving }
}

/// An HTTP/2 connection to a listener.
struct Live {
    sender: http2::SendRequest<Empty<Bytes>>,
    kind: Option<HandshakeKind>,
    serial: Vec<u8>,
}

impl Live {
    async fn open(addr: SocketAddr, config: &rustls::ClientConfig) -> Result<Self, String> {
        let mut config = config.clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let stream = TcpStream::connect(addr).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let connecting = connector.connect(ServerName::try_from("localhost").unwrap(), stream);
        let stream = timeout(DEADLINE, connecting).await.unwrap().map_err(|error| error.to_string())?;
        let connection = stream.get_ref().1;
        let kind = connection.handshake_kind();
        let serial = connection.peer_certificates().unwrap()[0].to_vec();
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (sender, connection) = handshake.await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        Ok(Self { sender, kind, serial })
    }

    async fn get(&self, path: &str) -> Result<String, String> {
        let request = Request::get(format!("https://localhost{path}")).body(Empty::new()).unwrap();
        let asking = self.sender.clone().send_request(request);
        let response = asking.await.map_err(|error| error.to_string())?;
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
    }

    /// A request that is under way from now on.
    async fn wait(&self, server: &Server) -> JoinHandle<Result<String, String>> {
        let live = Self { sender: self.sender.clone(), kind: None, serial: Vec::new() };
        let waiting = tokio::spawn(async move { live.get("/wait").await });
        timeout(DEADLINE, server.seer.waiting.acquire()).await.unwrap().unwrap().forget();
        waiting
    }
}

/// The client that this trust makes, by the clock of the test.
fn client(trust: Trust, clock: &Arc<Clock>) -> Arc<rustls::ClientConfig> {
    ClientTls::load_by(trust, clock.lookout(NEVER)).unwrap().current()
}

/// Asks once on a connection of its own.
async fn ask(addr: SocketAddr, trust: Trust, clock: &Arc<Clock>) -> Result<String, String> {
    let live = Live::open(addr, &client(trust, clock)).await?;
    timeout(DEADLINE, live.get("/")).await.unwrap()
}

fn agent(authority: &Authority, name: &'static str) -> Pair {
    authority.issue(name, &Wish::of(name))
}

/// Scenario: clients without a certificate, with one of another authority of the same name, with one that has expired, that does not
/// hold yet, and whose names are none; a good one by its URI, and one by its DNS name.
/// Guarantees: only those with a certificate of the authority that holds now are served, each failure is counted, and the handler
/// sees the URI before the DNS name and never what names nobody.
#[tokio::test]
async fn only_a_certificate_that_holds_is_taken() {
    let (clock, authority, stranger) = (Clock::new(), Authority::new(), Authority::new());
    let own = authority.issue("server", &Wish::of("urn:weir:host:server"));
    let server = serve(authority.serving(&own, None), &clock, NEVER);
    let trust = |pair: Option<&Pair>| authority.trust(pair);
    assert!(ask(server.addr, trust(None), &clock).await.is_err());
    let foreign = agent(&stranger, "urn:weir:host:a");
    assert!(ask(server.addr, trust(Some(&foreign)), &clock).await.is_err());
    let base = Wish::of("urn:weir:host:a");
    let old = authority.issue("old", &Wish { ends: START - 1, ..base.clone() });
    assert!(ask(server.addr, trust(Some(&old)), &clock).await.is_err());
    let early = authority.issue("early", &Wish { begins: START + DAY, ..base.clone() });
    assert!(ask(server.addr, trust(Some(&early)), &clock).await.is_err());
    assert_eq!(server.counts.handshakes_failed.get(), 4);

    let dns = vec!["*.example", "web-1.example"];
    for (wish, seen) in [
        (base.clone(), "Some(Some(\"urn:weir:host:a\"))"),
        (Wish { uris: vec![], dns: dns.clone(), ..base.clone() }, "Some(Some(\"dns:web-1.example\"))"),
        (Wish { uris: vec![], dns: vec!["*.example"], ..base.clone() }, "Some(None)"),
        (Wish { uris: vec!["urn:weir:host:a b"], dns, ..base.clone() }, "Some(None)"),
    ] {
        let pair = authority.issue("good", &wish);
        assert_eq!(ask(server.addr, trust(Some(&pair)), &clock).await.unwrap(), seen, "{wish:?}");
    }
    assert_eq!(server.counts.handshakes_failed.get(), 4);
}

/// Scenario: two agents with requests under way; the certificate of one is put on the revocation list.
/// Guarantees: at the next look its connection is cut in the middle of its request and the other's is not; it cannot come back, the
/// other can; one cut is counted.
#[tokio::test]
async fn who_is_revoked_is_cut_and_stays_out() {
    let (clock, authority) = (Clock::new(), Authority::new());
    let own = agent(&authority, "urn:weir:host:server");
    let (bad, good) = (agent(&authority, "urn:weir:host:bad"), agent(&authority, "urn:weir:host:good"));
    let list = authority.revoke(&[]);
    let server = serve(authority.serving(&own, Some(list)), &clock, NEVER);
    let of_bad = Live::open(server.addr, &client(authority.trust(Some(&bad)), &clock)).await.unwrap();
    let of_good = Live::open(server.addr, &client(authority.trust(Some(&good)), &clock)).await.unwrap();
    let (waiting_bad, waiting_good) = (of_bad.wait(&server).await, of_good.wait(&server).await);
    server.tls.look();
    assert_eq!(server.counts.connections_cut.get(), 0);

    authority.revoke(&[&bad]);
    server.tls.look();
    assert!(timeout(DEADLINE, waiting_bad).await.unwrap().unwrap().is_err());
    assert_eq!(of_good.get("/").await.unwrap(), "Some(Some(\"urn:weir:host:good\"))");
    assert!(!waiting_good.is_finished());
    assert_eq!(server.counts.connections_cut.get(), 1);
    assert!(ask(server.addr, authority.trust(Some(&bad)), &clock).await.is_err());
    assert!(ask(server.addr, authority.trust(Some(&good)), &clock).await.is_ok());
    server.tls.look();
    assert_eq!(server.counts.connections_cut.get(), 1, "nobody is cut twice");
}

/// Scenario: two agents with requests under way; the certificate of one ends a day before that of the other, and the time comes
/// between the two. Nothing of the files changes.
/// Guarantees: in its last second the first is served still; after it, it is cut and the other is not.
#[tokio::test]
async fn who_expires_while_connected_is_cut() {
    let (clock, authority) = (Clock::new(), Authority::new());
    let own = agent(&authority, "urn:weir:host:server");
    let base = Wish::of("urn:weir:host:short");
    let short = authority.issue("short", &Wish { ends: START + DAY, ..base.clone() });
    let long = authority.issue("long", &Wish { ends: START + 2 * DAY, ..base });
    let server = serve(authority.serving(&own, None), &clock, NEVER);
    let of_short = Live::open(server.addr, &client(authority.trust(Some(&short)), &clock)).await.unwrap();
    let of_long = Live::open(server.addr, &client(authority.trust(Some(&long)), &clock)).await.unwrap();
    let waiting = of_short.wait(&server).await;
    clock.set(START + DAY);
    server.tls.look();
    assert!(of_short.get("/").await.is_ok());
    clock.set(START + DAY + 1);
    server.tls.look();
    assert!(timeout(DEADLINE, waiting).await.unwrap().unwrap().is_err());
    assert!(of_long.get("/").await.is_ok());
    assert_eq!(server.counts.connections_cut.get(), 1);
}

/// Scenario: the file of the authorities is replaced by another authority's while an agent is connected.
/// Guarantees: the agent is cut, and those of the new authority are taken: trust that is withdrawn is withdrawn from who is there.
#[tokio::test]
async fn an_authority_that_is_trusted_no_more_takes_its_agents_along() {
    let (clock, authority, next) = (Clock::new(), Authority::new(), Authority::new());
    let own = agent(&authority, "urn:weir:host:server");
    let server = serve(authority.serving(&own, None), &clock, NEVER);
    let before = agent(&authority, "urn:weir:host:before");
    let live = Live::open(server.addr, &client(authority.trust(Some(&before)), &clock)).await.unwrap();
    let waiting = live.wait(&server).await;
    let kept = std::fs::read(authority.ca()).unwrap();
    let after = agent(&next, "urn:weir:host:after");
    replace(&authority.ca(), std::fs::read(next.ca()).unwrap());
    server.tls.look();
    assert!(timeout(DEADLINE, waiting).await.unwrap().unwrap().is_err());
    replace(&next.path("server-ca.pem"), kept);
    let trust = Trust { ca_file: Some(next.path("server-ca.pem")), ..next.trust(Some(&after)) };
    assert!(ask(server.addr, trust, &clock).await.is_ok());
}

/// Scenario: nobody calls for a look; the listener has a short interval, and is told to drain while a request is under way. Then the
/// certificate of its sender is revoked.
/// Guarantees: the listener looks by itself, also while it drains: the request under way ends.
#[tokio::test]
async fn a_listener_looks_by_itself() {
    let (clock, authority) = (Clock::new(), Authority::new());
    let own = agent(&authority, "urn:weir:host:server");
    let bad = agent(&authority, "urn:weir:host:bad");
    let list = authority.revoke(&[]);
    let server = serve(authority.serving(&own, Some(list)), &clock, Duration::from_millis(10));
    let live = Live::open(server.addr, &client(authority.trust(Some(&bad)), &clock)).await.unwrap();
    let waiting = live.wait(&server).await;
    server.drain.signal();
    authority.revoke(&[&bad]);
    assert!(timeout(DEADLINE, waiting).await.unwrap().unwrap().is_err());
}

/// Scenario: a listener's certificate is renewed, first only its certificate and then its key as well.
/// Guarantees: with half of it in place the one before is used; then new connections are shown the new one, and a request that was
/// under way goes on.
#[tokio::test]
async fn a_servers_certificate_is_renewed_without_a_restart() {
    let (clock, authority) = (Clock::new(), Authority::new());
    let own = agent(&authority, "urn:weir:host:server");
    let shown = agent(&authority, "urn:weir:host:a");
    let server = serve(authority.serving(&own, None), &clock, NEVER);
    let config = client(authority.trust(Some(&shown)), &clock);
    let before = Live::open(server.addr, &config).await.unwrap();
    let waiting = before.wait(&server).await;
    let fresh = authority.issue("fresh", &Wish::of("urn:weir:host:server"));
    replace(&own.cert, std::fs::read(&fresh.cert).unwrap());
    server.tls.look();
    assert!(server.tls.reload().unwrap_err().to_string().contains("urn:weir:host:server.key"));
    assert_eq!(Live::open(server.addr, &config).await.unwrap().serial, before.serial);
    replace(&own.key, std::fs::read(&fresh.key).unwrap());
    server.tls.look();
    assert_ne!(Live::open(server.addr, &config).await.unwrap().serial, before.serial);
    assert!(!waiting.is_finished());
    assert_eq!(server.counts.connections_cut.get(), 0);
}

/// Scenario: a client comes back with the session that it had, which TLS would let it resume without showing its certificate.
/// Guarantees: it has to show it again: each handshake is a whole one.
#[tokio::test]
async fn no_session_outlives_a_certificate() {
    let (clock, authority) = (Clock::new(), Authority::new());
    let own = agent(&authority, "urn:weir:host:server");
    let shown = agent(&authority, "urn:weir:host:a");
    let server = serve(authority.serving(&own, None), &clock, NEVER);
    let config = client(authority.trust(Some(&shown)), &clock);
    for _ in 0..3 {
        let live = Live::open(server.addr, &config).await.unwrap();
        assert!(live.get("/").await.is_ok());
        assert_eq!(live.kind, Some(HandshakeKind::Full));
    }
}

fn outlet(tls: ClientTls, addr: SocketAddr) -> Outlet {
    struct Here;
    impl weir_net::client::Resolve for Here {
        fn resolve<'a>(&'a self, _: &'a str) -> BoxFuture<'a, std::io::Result<Vec<IpAddr>>> {
            Box::pin(async { Ok(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]) })
        }
    }
    let settings = ClientSettings { resolver: Arc::new(Here), ..ClientSettings::new(Ledger::new(64 << 20)) };
    let egress = Egress::new([url(addr, "").parse().unwrap()]).unwrap();
    Client::new(settings).outlet_with(egress, tls)
}

async fn send(outlet: &Outlet, addr: SocketAddr) -> Result<String, String> {
    let request = Request::get(url(addr, "/")).body(Bytes::new()).unwrap();
    let answer = outlet.send(request, LIMITS).await.map_err(|error| error.to_string())?;
    Ok(String::from_utf8(answer.into_body().to_vec()).unwrap())
}

/// Sends until it is as wanted: a connection that is ending may take a request along.
async fn send_until(outlet: &Outlet, addr: SocketAddr, wanted: impl Fn(&Result<String, String>) -> bool) {
    let sending = async {
        while !wanted(&send(outlet, addr).await) {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, sending).await.unwrap();
}

/// Scenario: a client's certificate is replaced by another in the same files; the one before is revoked at the server, which cuts the
/// connection. Then the files are broken for a while.
/// Guarantees: the client comes back with the new one without being built anew; broken files leave the one that it has.
#[tokio::test]
async fn a_clients_certificate_is_renewed_without_a_restart() {
    let (clock, authority) = (Clock::new(), Authority::new());
    let own = agent(&authority, "urn:weir:host:server");
    let first = authority.issue("client", &Wish::of("urn:weir:host:first"));
    let list = authority.revoke(&[]);
    let server = serve(authority.serving(&own, Some(list)), &clock, NEVER);
    let tls = ClientTls::load_by(authority.trust(Some(&first)), clock.lookout(ALWAYS)).unwrap();
    let outlet = outlet(tls.clone(), server.addr);
    assert_eq!(send(&outlet, server.addr).await.unwrap(), "Some(Some(\"urn:weir:host:first\"))");
    authority.issue("client", &Wish::of("urn:weir:host:second"));
    assert_eq!(send(&outlet, server.addr).await.unwrap(), "Some(Some(\"urn:weir:host:first\"))");
    authority.revoke(&[&first]);
    server.tls.look();
    let second = "Some(Some(\"urn:weir:host:second\"))".to_owned();
    send_until(&outlet, server.addr, |said| said.as_ref() == Ok(&second)).await;
    replace(&first.key, "no key");
    assert!(tls.reload().is_err());
    assert_eq!(ask_by(&tls, server.addr).await.unwrap(), second);
}

/// Asks once on a connection of its own, with what the provider gives now.
async fn ask_by(tls: &ClientTls, addr: SocketAddr) -> Result<String, String> {
    let live = Live::open(addr, &*tls.fresh().await).await?;
    live.get("/").await
}

/// Scenario: a client with a kept connection; then the server's certificate ends, and on another one it is revoked.
/// Guarantees: no request travels over the connection from then on, and no new one is made.
#[tokio::test]
async fn a_server_that_is_not_trusted_any_more_gets_nothing() {
    for is_revoked in [false, true] {
        let (clock, authority) = (Clock::new(), Authority::new());
        let own = agent(&authority, "urn:weir:host:server");
        // The server's own clock stands still: it is the client that judges.
        let config = TlsConfig { client_ca_file: None, ..authority.serving(&own, None) };
        let server = serve(config, &Clock::new(), NEVER);
        let trust = Trust { crl_file: Some(authority.revoke(&[])), ..authority.trust(None) };
        let tls = ClientTls::load_by(trust, clock.lookout(ALWAYS)).unwrap();
        let outlet = outlet(tls, server.addr);
        for _ in 0..2 {
            assert_eq!(send(&outlet, server.addr).await.unwrap(), "None");
        }
        match is_revoked {
            false => clock.set(START + 101 * DAY),
            true => drop(authority.revoke(&[&own])),
        }
        send_until(&outlet, server.addr, Result::is_err).await;
        let why = send(&outlet, server.addr).await.unwrap_err().to_lowercase();
        assert!(why.contains(if is_revoked { "revoked" } else { "expired" }), "{why}");
    }
}

/// Scenario: revocation lists that are missing, empty, garbage, or there without authorities; of another authority; in DER form. For
/// listeners and for clients.
/// Guarantees: the first are errors that name the file; one that does not speak for a certificate refuses it, for what cannot be
/// known must not pass; DER is read as PEM is.
#[tokio::test]
async fn a_revocation_list_that_says_nothing_lets_nobody_in() {
    let (clock, authority, stranger) = (Clock::new(), Authority::new(), Authority::new());
    let (own, shown) = (agent(&authority, "urn:weir:host:server"), agent(&authority, "urn:weir:host:a"));
    let list = authority.path("list.crl");
    let load = |path: &std::path::Path| ServerTls::load(authority.serving(&own, Some(path.to_owned())));
    let trust = |path: &std::path::Path| Trust { crl_file: Some(path.to_owned()), ..authority.trust(None) };
    assert!(load(&list).unwrap_err().to_string().contains("list.crl"));
    assert!(ClientTls::load(trust(&list)).unwrap_err().to_string().contains("list.crl"));
    for content in [&b""[..], b"garbage", b"\x30garbage", &std::fs::read(authority.ca()).unwrap()] {
        replace(&list, content);
        assert!(load(&list).unwrap_err().to_string().contains("list.crl"), "{content:?}");
        assert!(ClientTls::load(trust(&list)).unwrap_err().to_string().contains("list.crl"));
    }
    replace(&list, authority.list(&[]).der());
    let alone = TlsConfig { client_ca_file: None, ..authority.serving(&own, Some(list.clone())) };
    assert!(ServerTls::load(alone).unwrap_err().to_string().contains("client_ca_file"));
    let alone = Trust { crl_file: Some(list.clone()), ..Trust::default() };
    assert!(ClientTls::load(alone).unwrap_err().to_string().contains("ca_file"));

    let server = serve(authority.serving(&own, Some(list.clone())), &clock, NEVER);
    assert!(ask(server.addr, authority.trust(Some(&shown)), &clock).await.is_ok());
    replace(&list, authority.list(&[&shown]).der());
    server.tls.reload().unwrap();
    assert!(ask(server.addr, authority.trust(Some(&shown)), &clock).await.is_err());
    replace(&list, stranger.list(&[]).der());
    server.tls.reload().unwrap();
    assert!(ask(server.addr, authority.trust(Some(&shown)), &clock).await.is_err());
}

/// Scenario: a key that belongs to another certificate, for a listener and for a client.
/// Guarantees: neither is loaded, and both name the file.
#[test]
fn a_key_that_does_not_fit_is_refused() {
    let authority = Authority::new();
    let (one, other) = (agent(&authority, "urn:weir:host:one"), agent(&authority, "urn:weir:host:other"));
    let mixed = Pair { key: other.key, ..one };
    let error = ServerTls::load(authority.serving(&mixed, None)).unwrap_err();
    assert!(error.to_string().contains("urn:weir:host:other.key"), "{error}");
    let error = ClientTls::load(authority.trust(Some(&mixed))).unwrap_err();
    assert!(error.to_string().contains("urn:weir:host:one.pem"), "{error}");
}

/// Scenario: thirty peers send bytes that are no TLS: at random, records that lie about their length, a torn greeting, nothing.
/// Guarantees: each is closed and counted, and an honest client is served before, between and after.
#[tokio::test]
async fn garbage_harms_nobody() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (clock, authority) = (Clock::new(), Authority::new());
    let own = agent(&authority, "urn:weir:host:server");
    let shown = agent(&authority, "urn:weir:host:a");
    let server = serve(authority.serving(&own, None), &clock, NEVER);
    for round in 0..30_u64 {
        let mut bytes: Vec<u8> = match round % 3 {
            0 => Vec::new(),
            // A handshake record, with a length that is a lie; a greeting, with another.
            1 => vec![22, 3, 1, 0x40, 0x01],
            _ => vec![22, 3, 1, 0, 200, 1, 0, 0xff, 0xff],
        };
        bytes.extend(std::iter::repeat_with(|| random.u8(..)).take(round as usize * 40));
        let mut stream = TcpStream::connect(server.addr).await.unwrap();
        // The peer may have closed already.
        stream.write_all(&bytes).await.ok();
        stream.shutdown().await.ok();
        let mut answer = Vec::new();
        timeout(DEADLINE, stream.read_to_end(&mut answer)).await.unwrap().ok();
        assert!(!answer.starts_with(b"HTTP"), "seed {seed}");
        assert!(ask(server.addr, authority.trust(Some(&shown)), &clock).await.is_ok(), "seed {seed}");
    }
    let counted = async {
        while server.counts.handshakes_failed.get() < 30 {
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, counted).await.unwrap();
}
