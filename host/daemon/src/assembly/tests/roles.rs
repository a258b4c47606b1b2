//! What a process is to programs of its machine, an agent or a collector, follows from the file that was read last.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::*;

/// Generous: nothing here takes long.
const DEADLINE: Duration = Duration::from_secs(60);

/// A file with its queue in this folder, and with this under `service`.
fn file(data: &Path, service: &str) -> String {
    let text = FILE.replace("  queue: {storage: memory}\n", "");
    text.replace("service:\n", &format!("service:\n  data_dir: {}\n{service}", data.display()))
}

/// The same of an agent. Its collector is nowhere.
fn agent(data: &Path, service: &str) -> String {
    let text = file(data, service).replace("  debug:\n", "  weir: {endpoint: '127.0.0.1:9'}\n");
    text.replace("[debug]", "[weir]")
}

/// The same of a collector.
fn collector(data: &Path, service: &str) -> String {
    let text = file(data, service);
    let (_, rest) = text.split_once("exporters:").expect("it has some");
    let rest = rest.replace("[otlp]", "[weir]");
    format!("receivers:\n  weir: {{endpoint: '127.0.0.1:0'}}\nexporters:{rest}")
}

/// A service of events at this address.
fn events(address: impl Into<SocketAddr>) -> String {
    format!("  events: {{endpoint: '{}'}}\n", address.into())
}

/// Any port of an address.
fn any(last: u8) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 0, last), 0).into()
}

/// What programs may do at an address.
#[derive(Debug, PartialEq)]
enum Service {
    Reports,
    Watches,
}

/// A request of a service of events, and how it is answered: by a status of gRPC.
async fn status_of(address: SocketAddr, method: &str, message: &[u8]) -> String {
    let stream = TcpStream::connect(address).await.expect("somebody listens");
    let (mut requests, connection) =
        handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("it speaks HTTP/2");
    let connection = tokio::spawn(connection);
    let length = u32::try_from(message.len()).expect("a short message").to_be_bytes();
    let frame = Bytes::from([&[0], &length[..], message].concat());
    let request = Request::post(format!("http://{address}/weir.events.v1.{method}"));
    let request = request.header("content-type", "application/grpc").header("te", "trailers");
    let answer = requests.send_request(request.body(Full::new(frame)).expect("a request"));
    let (head, body) = answer.await.expect("an answer").into_parts();
    let trailers = body.collect().await.expect("all of it").trailers().cloned();
    connection.abort();
    let status = trailers.as_ref().and_then(|trailers| trailers.get("grpc-status"));
    let status = status.or(head.headers.get("grpc-status")).expect("an answer has a status");
    status.to_str().expect("a number").to_owned()
}

async fn service_at(address: SocketAddr) -> Service {
    const OK: &str = "0";
    const UNIMPLEMENTED: &str = "12";
    // Kind, key and value, in this order.
    let report = status_of(address, "ReportService/Report", b"\x0a\x04lamp\x12\x01a\x1a\x02on").await;
    let list = status_of(address, "WatchService/List", b"").await;
    match (&*report, &*list) {
        (OK, UNIMPLEMENTED) => Service::Reports,
        (UNIMPLEMENTED, OK) => Service::Watches,
        neither => panic!("{neither:?}"),
    }
}

async fn is_refused(address: SocketAddr) -> bool {
    let connected = TcpStream::connect(address).await;
    connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

impl Stage {
    /// Another file, whose ports are any.
    async fn becomes(&mut self, text: &str) {
        self.write(text, 0, 0);
        timeout(DEADLINE, self.reload()).await.expect("a reload comes to its end");
    }

    #[track_caller]
    fn is_well(&self) {
        assert_eq!(self.problems(), 0, "{:?}", self.daemon.views.health.problems());
    }

    fn events(&self) -> SocketAddr {
        self.daemon.parts.events.address().expect("it listens")
    }

    /// The one link, which has begun.
    fn link(&self) -> Arc<Link> {
        let link = self.daemon.parts.exporters.values().find_map(|built| built.link());
        let link = link.expect("there is one");
        assert!(!link.is_idle(), "it has not begun");
        Arc::clone(link)
    }
}

/// Scenario: an agent at which a program has reported becomes a collector, and an agent again.
/// Guarantees: programs find at the same address what the role gives them, each time; the agent has what was reported; the collector's
/// store is closed with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_changes_its_role_serves_programs_in_the_new_one() {
    let data = TempDir::with_prefix("weir-roles-").expect("a folder");
    let (data, events) = (data.path(), events(any(1)));
    let mut stage = Stage::start(&agent(data, &events)).await;
    let address = stage.events();
    assert_eq!(service_at(address).await, Service::Reports);

    stage.becomes(&collector(data, &events)).await;
    stage.is_well();
    assert_eq!((stage.events(), service_at(address).await), (address, Service::Watches));
    assert!(stage.daemon.foundation.states.store().is_some());

    stage.becomes(&agent(data, &events)).await;
    stage.is_well();
    let outbox = stage.link().outbox().expect("it has one");
    assert_eq!(outbox.unacknowledged(), 1, "what was reported is kept");
    assert_eq!((stage.events(), service_at(address).await), (address, Service::Reports));
    assert!(stage.daemon.foundation.states.store().is_none(), "nobody has use for it");
}

/// Scenario: an agent gets a receiver of agents beside its link, and loses it.
/// Guarantees: the link is left alone; programs watch where they reported, and report again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_becomes_a_collector_too_keeps_its_link() {
    let data = TempDir::with_prefix("weir-roles-").expect("a folder");
    let alone = agent(data.path(), &events(any(1)));
    let both = alone.replace("receivers:\n", "receivers:\n  weir: {endpoint: '127.0.0.1:0'}\n");
    let both = both.replace("receivers: [otlp]", "receivers: [otlp, weir]");
    let mut stage = Stage::start(&alone).await;
    let (address, link) = (stage.events(), stage.link());
    for (text, service) in [(&both, Service::Watches), (&alone, Service::Reports)] {
        stage.becomes(text).await;
        stage.is_well();
        assert!(Arc::ptr_eq(&link, &stage.link()));
        assert_eq!((stage.events(), service_at(address).await), (address, service));
    }
}

/// Scenario: the events service moves, goes away, and comes back, at an agent and at a collector.
/// Guarantees: that holds at once; nobody listens where it was; the link is left alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_events_service_that_moves_leaves_its_port() {
    let data = TempDir::with_prefix("weir-roles-").expect("a folder");
    for (role, service) in
        [(agent as fn(&Path, &str) -> String, Service::Reports), (collector, Service::Watches)]
    {
        let mut stage = Stage::start(&role(data.path(), &events(any(1)))).await;
        let link = (service == Service::Reports).then(|| stage.link());
        let first = stage.events();
        stage.becomes(&role(data.path(), &events(any(2)))).await;
        stage.is_well();
        let second = stage.events();
        assert_ne!(first, second);
        assert!(is_refused(first).await);
        assert_eq!(service_at(second).await, service);

        stage.becomes(&role(data.path(), "")).await;
        stage.is_well();
        assert!(is_refused(second).await);
        stage.becomes(&role(data.path(), &events(any(1)))).await;
        stage.is_well();
        assert_eq!(service_at(stage.events()).await, service);
        assert!(link.is_none_or(|link| Arc::ptr_eq(&link, &stage.link())));
        let Stage { daemon, .. } = stage;
        daemon.run(ended(), Triggers::listen(hangup(), None)).await;
    }
}

/// A process that is told to end at once.
fn ended() -> crate::shutdown::Stop {
    let stop = crate::shutdown::Stop::default();
    stop.begin.signal();
    stop
}

/// Scenario: a file that makes an agent with an events service has a receiver whose certificate is none; then one whose link cannot
/// begin, for something lies where its memory is to be; then that is taken away.
/// Guarantees: the first is refused, the second told; both times the port is free; then programs report there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_fails_leaves_port_and_outbox() {
    let data = TempDir::with_prefix("weir-roles-").expect("a folder");
    let data = data.path();
    let mut stage = Stage::start(&file(data, "")).await;
    let address = TcpListener::bind(any(3)).and_then(|socket| socket.local_addr()).expect("a free port");
    let wanted = agent(data, &events(address));
    let garbage = stage.folder.path().join("garbage.pem");
    std::fs::write(&garbage, "no certificate").expect("our folder");
    let tls = format!("HTTP', tls: {{cert_file: {0}, key_file: {0}}}}}", garbage.display());
    stage.becomes(&wanted.replace("HTTP'}", &tls)).await;
    assert_eq!(stage.problems(), 1, "it is refused");
    assert!(is_refused(address).await);

    let in_the_way = data.join("link/agent-weir.redb");
    std::fs::create_dir_all(in_the_way.join("something")).expect("our folder");
    stage.becomes(&wanted).await;
    assert_eq!(stage.problems(), 1, "{:?}", stage.daemon.views.health.problems());
    assert!(is_refused(address).await);
    assert!(stage.daemon.parts.links().iter().all(|link| link.is_idle()));

    std::fs::remove_dir_all(in_the_way).expect("our folder");
    // Whoever has opened the outbox before is about to let it go.
    let begins = async {
        while stage.daemon.parts.links().iter().any(|link| link.is_idle()) {
            stage.reload().await;
        }
    };
    timeout(DEADLINE, begins).await.expect("the link begins");
    stage.is_well();
    assert_eq!((stage.events(), service_at(address).await), (address, Service::Reports));
}

/// Scenario: the file that a link's trust is in becomes one that is none, and the file is read again; then it is a certificate again.
/// Guarantees: that is refused with the place in the configuration and the file's name, and the link that runs is left alone; then
/// another takes its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_outlives_certificates_that_cannot_serve() {
    let folder = TempDir::with_prefix("weir-trust-").expect("a folder");
    let trusted = folder.path().join("ca.pem");
    std::fs::copy(data().join("ca.pem"), &trusted).expect("our folder");
    let [cert, key] = ["client.pem", "client.key"].map(|name| data().join(name));
    let tls = format!(
        "'127.0.0.1:9', tls: {{ca_file: {}, cert_file: {}, key_file: {}}}",
        trusted.display(),
        cert.display(),
        key.display()
    );
    let text = agent(&folder.path().join("data"), "").replace("'127.0.0.1:9'", &tls);
    let mut stage = Stage::start(&text).await;
    let link = stage.link();
    std::fs::write(&trusted, "no certificate").expect("our folder");
    stage.becomes(&text).await;
    let problems = stage.daemon.views.health.problems();
    let place = format!(
        "weir.yaml:{}:",
        text.lines().position(|line| line.contains("127.0.0.1:9")).map_or(0, |line| line + 1)
    );
    let trusted_file = trusted.display().to_string();
    assert!(
        matches!(&*problems, [(_, what)] if what.contains(&place) && what.contains(&trusted_file)),
        "{problems:?}"
    );
    assert!(Arc::ptr_eq(&link, &stage.link()));
    assert!(link.status().is_some(), "it has ended");

    let mut pem = std::fs::read_to_string(data().join("ca.pem")).expect("it is ours");
    pem.push_str("\n# renewed\n");
    std::fs::write(&trusted, pem).expect("our folder");
    stage.becomes(&text).await;
    stage.is_well();
    assert!(!Arc::ptr_eq(&link, &stage.link()));
}
