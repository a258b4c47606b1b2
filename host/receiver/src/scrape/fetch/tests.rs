//! Fetches from a server on loopback.

use std::convert::Infallible;
use std::io::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use flate2::Compression;
use flate2::write::GzEncoder;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use weir_net::client::ClientSettings;

use super::*;

/// Bytes that an answer may have here.
const BYTES_MAX: usize = 100_000;

/// A target that answers by path, and keeps what it was asked.
#[derive(Default)]
struct Target {
    asked: Mutex<Vec<http::request::Parts>>,
    connections: AtomicUsize,
}

impl Target {
    async fn serve(self: Arc<Self>, tasks: &mut JoinSet<()>) -> u16 {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tasks.spawn(async move {
            let mut served = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                self.connections.fetch_add(1, Ordering::SeqCst);
                let target = Arc::clone(&self);
                served.spawn(async move {
                    let service = service_fn(move |request| Arc::clone(&target).answer(request));
                    let builder = hyper::server::conn::http1::Builder::new();
                    drop(builder.serve_connection(TokioIo::new(stream), service).await);
                });
            }
        });
        port
    }

    async fn answer(
        self: Arc<Self>,
        request: http::Request<Incoming>,
    ) -> Result<http::Response<Full<Bytes>>, Infallible> {
        let (head, _) = request.into_parts();
        let path = head.uri.path().to_owned();
        self.asked.lock().unwrap().push(head);
        let answer = http::Response::builder().header("content-type", "text/plain; version=0.0.4");
        let gzip = |bytes: usize| {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            encoder.write_all(&vec![b'x'; bytes]).unwrap();
            encoder.finish().unwrap()
        };
        let (answer, body) = match path.as_str() {
            "/never" => std::future::pending().await,
            "/moved" => {
                (answer.status(302).header("location", "http://elsewhere.example/m?key=s3cret"), Vec::new())
            }
            "/error" => (answer.status(500), b"no".to_vec()),
            "/gzip" => (answer.header("content-encoding", "gzip"), gzip(BYTES_MAX)),
            "/gzip-large" => (answer.header("content-encoding", "gzip"), gzip(BYTES_MAX + 1)),
            "/gzip-not" => (answer.header("content-encoding", "gzip"), b"up 1\n".to_vec()),
            "/brotli" => (answer.header("content-encoding", "br"), b"up 1\n".to_vec()),
            "/large" => (answer, vec![b'x'; BYTES_MAX + 1]),
            _ => (answer, b"up 1\n".to_vec()),
        };
        Ok(answer.body(Full::new(Bytes::from(body))).unwrap())
    }
}

struct Site {
    target: Arc<Target>,
    base: String,
    fetch: HttpFetch,
    ledger: Arc<Ledger>,
    _tasks: JoinSet<()>,
}

impl Site {
    async fn with(access: Access) -> Self {
        let (mut tasks, target) = (JoinSet::new(), Arc::<Target>::default());
        let port = Arc::clone(&target).serve(&mut tasks).await;
        let ledger = Ledger::new(64 << 20);
        let client = Client::new(ClientSettings::new(Arc::clone(&ledger)));
        let fetch = HttpFetch::new(&client, vec![access], vec![BYTES_MAX], Arc::clone(&ledger));
        let fetch = fetch.unwrap_or_else(|(_, error)| panic!("{error}"));
        let base = format!("http://127.0.0.1:{port}");
        fetch.reach([base.parse().unwrap()].into());
        Self { target, base, fetch, ledger, _tasks: tasks }
    }

    async fn new() -> Self {
        Self::with(Access::default()).await
    }

    fn order(&self, path: &str) -> Order {
        let url = format!("{}{path}", self.base);
        let headers = [
            ("accept", "text/plain"),
            ("host", "elsewhere"),
            ("user-agent", "curl"),
            ("authorization", "Basic eA=="),
        ];
        let headers = headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let request = Request { method: "GET".to_owned(), target: url.clone(), headers, body: Bytes::new() };
        let (origin, request) = (url.parse().unwrap(), Arc::new(request));
        Order { job: 0, origin, request, timeout: Duration::from_secs(30), keeping: Keeping::One }
    }

    async fn get(&self, path: &str) -> Result<Response, Failure> {
        self.fetch.fetch(self.order(path)).await
    }

    #[track_caller]
    fn asked(&self) -> http::request::Parts {
        self.target.asked.lock().unwrap().pop().expect("the target was asked")
    }
}

/// Scenario: a page, an error page and a compressed page of just the largest size.
/// Guarantees: each is an answer with its status and headers, decompressed, and its body is paid for as long as it is held.
#[tokio::test]
async fn answers_are_decompressed_and_paid_for() {
    let site = Site::new().await;
    let page = site.get("/metrics?a=b").await.unwrap();
    assert_eq!((page.status, &page.body[..]), (200, &b"up 1\n"[..]));
    assert!(page.headers.contains(&("content-type".to_owned(), "text/plain; version=0.0.4".to_owned())));
    assert_eq!(site.asked().uri, "/metrics?a=b");
    assert_eq!(site.get("/error").await.unwrap().status, 500);
    let large = site.get("/gzip").await.unwrap();
    assert_eq!(large.body.len(), BYTES_MAX);
    assert!(!large.headers.iter().any(|(name, _)| name == "content-encoding"), "{:?}", large.headers);
    assert!(site.ledger.used() >= BYTES_MAX as u64);
    drop((page, large));
    assert_eq!(site.ledger.used(), 0);
}

/// Scenario: a plugin's request with headers of its own, some of them not its to write.
/// Guarantees: `accept` is sent; host, agent and timeout are ours.
#[tokio::test]
async fn requests_say_who_asks_and_how_long() {
    let site = Site::new().await;
    site.get("/").await.unwrap();
    let asked = site.asked();
    let header = |name: &str| asked.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    assert_eq!(header("accept").as_deref(), Some("text/plain"));
    assert_eq!(header("user-agent").as_deref(), Some(USER_AGENT));
    assert_eq!(header("accept-encoding").as_deref(), Some("gzip"));
    assert_eq!(header("x-prometheus-scrape-timeout-seconds").as_deref(), Some("30"));
    assert_eq!(header("host"), Some(site.base.trim_start_matches("http://").to_owned()));
}

/// Scenario: jobs with a token, with a name and a password, and with a token in a file.
/// Guarantees: the host's header is sent, and no other.
#[tokio::test]
async fn credentials_are_the_hosts() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("token");
    std::fs::write(&file, "from-a-file\n").unwrap();
    let cases = [
        (Credential::bearer("t0ken"), "Bearer t0ken"),
        (Credential::basic("user", "pass"), "Basic dXNlcjpwYXNz"),
        (Credential::bearer_file(&file), "Bearer from-a-file"),
    ];
    for (credential, expected) in cases {
        let access = Access { credential: Some(credential.unwrap()), ..Access::default() };
        let site = Site::with(access).await;
        site.get("/").await.unwrap();
        let sent: Vec<_> = site.asked().headers.get_all("authorization").iter().cloned().collect();
        assert_eq!(sent, [expected]);
    }
}

/// Scenario: a redirect, answers that are too large or are not what they say, a target that does not answer, one that is not there.
/// Guarantees: each is a failure of its kind, in words that say what to do, and nothing stays paid for.
#[tokio::test]
async fn failures_are_told_by_their_kind() {
    let site = Site::new().await;
    let cases = [
        ("/moved", FailureKind::Redirect, "redirects are not followed"),
        ("/large", FailureKind::TooLarge, "body size limit exceeded"),
        ("/gzip-large", FailureKind::TooLarge, "body size limit exceeded"),
        ("/gzip-not", FailureKind::Encoding, "gzip"),
        ("/brotli", FailureKind::Encoding, "br"),
    ];
    for (path, kind, words) in cases {
        let failure = site.get(path).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{path}: {}", failure.text);
        assert!(failure.text.to_lowercase().contains(words), "{path}: {}", failure.text);
        assert!(!failure.text.contains("s3cret"), "{}", failure.text);
    }
    let brief = Order { timeout: Duration::from_millis(20), ..site.order("/never") };
    assert_eq!(site.fetch.fetch(brief).await.unwrap_err().kind, FailureKind::Timeout);
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let origin: Origin = format!("http://{closed}").parse().unwrap();
    site.fetch.reach([origin.clone()].into());
    let mut order = site.order("/");
    order.request = Arc::new(Request { target: origin.to_string(), ..(*order.request).clone() });
    let gone = site.fetch.fetch(Order { origin, ..order }).await.unwrap_err();
    assert_eq!(gone.kind, FailureKind::Transport, "{}", gone.text);
    assert_eq!(site.ledger.used(), 0);
}

/// Scenario: a target that has left the list; a plugin whose request goes elsewhere, or is none.
/// Guarantees: nothing is sent.
#[tokio::test]
async fn only_the_target_itself_is_reached() {
    let site = Site::new().await;
    let request = |target: &str, method: &str, header: &str| {
        let headers = vec![(header.to_owned(), "x".to_owned())];
        let request =
            Request { method: method.to_owned(), target: target.to_owned(), headers, body: Bytes::new() };
        Order { request: Arc::new(request), ..site.order("/") }
    };
    let cases = [
        (request("http://127.0.0.1:1/", "GET", "a"), FailureKind::Denied),
        (request("https://elsewhere.example/", "GET", "a"), FailureKind::Denied),
        (request("/metrics", "GET", "a"), FailureKind::Invalid),
        (request(&site.base, "GE T", "a"), FailureKind::Invalid),
        (request(&site.base, "GET", "a b"), FailureKind::Invalid),
    ];
    for (order, kind) in cases {
        let failure = site.fetch.fetch(order).await.unwrap_err();
        assert_eq!(failure.kind, kind, "{}", failure.text);
    }
    site.fetch.reach(HashSet::new());
    assert_eq!(site.get("/").await.unwrap_err().kind, FailureKind::Denied);
    assert_eq!(site.target.connections.load(Ordering::SeqCst), 0);
}

/// Scenario: a target is fetched three times with its connection kept, and three times without.
/// Guarantees: the first make one connection, the others one each.
#[tokio::test]
async fn connections_are_kept_where_that_is_asked_for() {
    let site = Site::new().await;
    for _ in 0..3 {
        site.get("/").await.unwrap();
    }
    assert_eq!(site.target.connections.load(Ordering::SeqCst), 1);
    for _ in 0..3 {
        let fresh = Order { keeping: Keeping::None, ..site.order("/") };
        site.fetch.fetch(fresh).await.unwrap();
    }
    assert_eq!(site.target.connections.load(Ordering::SeqCst), 4);
}
