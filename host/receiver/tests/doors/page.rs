//! The door of a plugin that is fetched from: what the plugin sees, and what readers get, fast ones and slow ones.

use std::io::Read as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request as HttpRequest};
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use weir_model::count::PageCounts;
use weir_model::http::{Page, Request, Response};
use weir_model::{BoxFuture, Exporter, Ledger, Outcome, PageServer, Push, Reason, Refusal};
use weir_net::Drain;
use weir_net::budget::paid;
use weir_net::limits::ListenLimits;
use weir_receiver::page::{Config, Settings, bind};

use crate::harness::{Answer, DEADLINE, eventually, send};

/// Bytes of the large page.
const LARGE: usize = 9 << 20;

/// A page that answers by path, and keeps what it is asked.
struct Board {
    requests: Mutex<Vec<Request>>,
    ledger: Arc<Ledger>,
    gate: Semaphore,
}

/// Numbered lines, so that what is missing or out of order is seen.
fn lines(bytes: usize) -> Bytes {
    let mut text = Vec::with_capacity(bytes + 32);
    for number in 0.. {
        text.extend_from_slice(format!("line {number}\n").as_bytes());
        if text.len() >= bytes {
            break;
        }
    }
    text.truncate(bytes);
    text.into()
}

impl Board {
    /// A page of so many bytes, in pieces of which no two have the same length.
    fn page(&self, status: u16, headers: &[(&str, &str)], bytes: usize) -> Page {
        let text = lines(bytes);
        let (mut pieces, mut from) = (Vec::new(), 0);
        while from < bytes {
            let length = (300_000 + pieces.len() * 1111).min(bytes - from);
            let claim = self.ledger.claim(length as u64).unwrap();
            pieces.push(paid(text.slice(from..from + length), claim));
            from += length;
        }
        let mut pieces = pieces.into_iter();
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let body = pieces.next().unwrap_or_default();
        Page { response: Response { status, headers, body }, rest: pieces.collect() }
    }
}

impl PageServer for Board {
    fn serve(&self, request: Request) -> BoxFuture<'_, Result<Page, Refusal>> {
        Box::pin(async move {
            let target = request.target.clone();
            self.requests.lock().unwrap().push(request);
            let text = ("content-type", "text/x-board");
            Ok(match target.as_str() {
                "/large" => {
                    self.page(200, &[text, ("content-length", "9"), ("transfer-encoding", "x")], LARGE)
                }
                "/encoded" => self.page(200, &[text, ("content-encoding", "br")], LARGE),
                "/hold" => {
                    self.gate.acquire().await.unwrap().forget();
                    self.page(200, &[text], 10)
                }
                "/ends" => {
                    let wish = Some(Duration::from_millis(2500));
                    return Err(Refusal::transient(Reason::PluginEnded, wish, "the instance ended"));
                }
                "/odd" => self.page(99, &[], 10),
                "/unchanged" => self.page(304, &[("etag", "\"1\"")], 10),
                "/absent" => self.page(404, &[text], 10),
                _ => self.page(200, &[text], 10),
            })
        })
    }
}

impl Exporter for Board {
    fn push(&self, _: Push) -> BoxFuture<'_, Outcome> {
        Box::pin(std::future::ready(Outcome::Accepted))
    }

    fn in_flight_max(&self) -> usize {
        1
    }
}

struct Served {
    addr: SocketAddr,
    board: Arc<Board>,
    counts: PageCounts,
    ledger: Arc<Ledger>,
    drain: Drain,
    serving: JoinHandle<std::io::Result<()>>,
}

fn serve(limits: ListenLimits) -> Served {
    let ledger = Ledger::new(192 << 20);
    let (requests, gate) = (Mutex::default(), Semaphore::new(0));
    let board = Arc::new(Board { requests, ledger: Arc::clone(&ledger), gate });
    let counts = PageCounts::default();
    let settings = Settings { id: "board".into(), ledger: Arc::clone(&ledger), counts: counts.clone() };
    let config = Config { endpoint: "127.0.0.1:0".to_owned(), tls: None, limits };
    let bound = bind([config], &(Arc::clone(&board) as Arc<dyn PageServer>), &settings).unwrap();
    let addr = bound.local_addrs()[0].1;
    let drain = Drain::new();
    let serving = tokio::spawn(bound.serve(drain.clone()));
    Served { addr, board, counts, ledger, drain, serving }
}

async fn ask(addr: SocketAddr, method: Method, target: &str, headers: &[(&str, &str)]) -> Answer {
    let mut request = HttpRequest::builder().method(method).uri(target).header("host", "test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    send(addr, request.body(Full::default()).unwrap()).await
}

async fn get(addr: SocketAddr, target: &str) -> Answer {
    ask(addr, Method::GET, target, &[]).await
}

/// A reader that has asked for the large page over HTTP/1 and reads none of it.
async fn idle_reader(addr: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(b"GET /large HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    stream.readable().await.unwrap();
    stream
}

/// Scenario: a page of many pieces is fetched over HTTP/1 and over HTTP/2.
/// Guarantees: it comes whole, in order and with its length, under the plugin's type and without the plugin's framing; its
/// memory comes back; it is counted.
#[tokio::test]
async fn a_page_of_many_pieces_comes_whole_and_in_order() {
    let served = serve(ListenLimits::default());
    let answer = get(served.addr, "/large").await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, "text/x-board"));
    assert_eq!(answer.header("content-length"), LARGE.to_string());
    assert_eq!((answer.header("transfer-encoding"), answer.header("vary")), ("", "accept-encoding"));
    assert!(answer.body == lines(LARGE), "{} bytes came", answer.body.len());

    let stream = TcpStream::connect(served.addr).await.unwrap();
    let (mut sender, connection) =
        http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let request = HttpRequest::get("http://test/large").body(Empty::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.headers()["content-length"], LARGE.to_string());
    assert!(response.into_body().collect().await.unwrap().to_bytes() == lines(LARGE));
    drop(driving);
    eventually("all is given back", || served.ledger.used() == 0 && served.counts.under_way.get() == 0).await;
    let PageCounts { served, refused, cut, bytes, .. } = served.counts;
    assert_eq!((served.get(), refused.get(), cut.get(), bytes.get()), (2, 0, 0, 2 * LARGE as u64));
}

/// Scenario: readers that take gzip ask for a large page, a small one, and one that the plugin has packed itself; one does
/// not take it.
/// Guarantees: only what is worth it is packed, once, and unpacks to the same bytes.
#[tokio::test]
async fn a_page_is_packed_for_those_who_take_it() {
    let served = serve(ListenLimits::default());
    let packed = [("accept-encoding", "deflate, gzip;q=0.5")];
    let answer = ask(served.addr, Method::GET, "/large", &packed).await;
    assert_eq!((answer.header("content-encoding"), answer.header("vary")), ("gzip", "accept-encoding"));
    assert!(answer.body.len() < LARGE / 2, "{} bytes came", answer.body.len());
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(answer.body.as_ref()).read_to_end(&mut text).unwrap();
    assert!(text == lines(LARGE), "{} bytes came", text.len());
    assert_eq!(served.counts.bytes.get(), answer.body.len() as u64);

    let small = ask(served.addr, Method::GET, "/", &packed).await;
    assert_eq!((small.header("content-encoding"), &small.body), ("", &lines(10)));
    let encoded = ask(served.addr, Method::GET, "/encoded", &packed).await;
    assert_eq!((encoded.header("content-encoding"), encoded.header("vary")), ("br", ""));
    assert!(encoded.body == lines(LARGE));
    let refused = ask(served.addr, Method::GET, "/large", &[("accept-encoding", "gzip;q=0")]).await;
    assert_eq!((refused.header("content-encoding"), refused.body.len()), ("", LARGE));
    eventually("all is given back", || served.ledger.used() == 0).await;
}

/// Scenario: HEAD for a large page, packed and not, and for one that has none.
/// Guarantees: the headers are those of GET, which is what the plugin is asked for; nothing of the body comes.
#[tokio::test]
async fn head_gets_the_head_alone() {
    let served = serve(ListenLimits::default());
    let answer = ask(served.addr, Method::HEAD, "/large", &[]).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-length")), (200, LARGE.to_string().as_str()));
    assert!(answer.body.is_empty());
    let answer = ask(served.addr, Method::HEAD, "/large", &[("accept-encoding", "gzip")]).await;
    assert_eq!((answer.header("content-encoding"), answer.header("content-length")), ("gzip", ""));
    assert_eq!(ask(served.addr, Method::HEAD, "/absent", &[]).await.status, 404);
    let unchanged = get(served.addr, "/unchanged").await;
    assert_eq!(
        (unchanged.status.as_u16(), unchanged.header("etag"), unchanged.body.len()),
        (304, "\"1\"", 0)
    );
    assert!(served.board.requests.lock().unwrap().iter().all(|request| request.method == "GET"));
    assert_eq!((served.counts.served.get(), served.counts.bytes.get(), served.ledger.used()), (4, 0, 0));
}

/// Scenario: POST with a body, DELETE; GET with a body.
/// Guarantees: the first two are told what is expected and the plugin hears nothing of them; of the third it hears no body.
#[tokio::test]
async fn a_page_is_only_fetched() {
    let served = serve(ListenLimits::default());
    for method in [Method::POST, Method::DELETE] {
        let request = HttpRequest::builder().method(method).uri("/").header("host", "a");
        let answer = send(served.addr, request.body(Full::from(vec![0; 30_000])).unwrap()).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "GET, HEAD"));
        assert!(answer.text().contains("expected GET or HEAD"), "{}", answer.text());
    }
    assert!(served.board.requests.lock().unwrap().is_empty());
    assert_eq!(served.counts.refused.get(), 2);
    let request = HttpRequest::get("/").header("host", "a").header("content-type", "a/b");
    let answer = send(served.addr, request.body(Full::from(vec![0; 30_000])).unwrap()).await;
    assert_eq!(answer.status, 200);
    let requests = served.board.requests.lock().unwrap();
    assert!(requests[0].body.is_empty());
    assert!(requests[0].headers.iter().all(|(name, _)| name == "host"), "{:?}", requests[0].headers);
}

/// Scenario: a request with a query, with what it accepts, with credentials, and with more headers than anybody sends.
/// Guarantees: the plugin sees target and headers, the credentials never, and no more headers than there may be.
#[tokio::test]
async fn the_plugin_sees_what_is_asked_and_no_credentials() {
    let served = serve(ListenLimits::default());
    let headers = [
        ("Accept", "text/plain;version=0.0.4"),
        ("Accept-Encoding", "identity"),
        ("Authorization", "Bearer s3cr3t"),
        ("Cookie", "s3cr3t"),
        ("Proxy-Authorization", "s3cr3t"),
        ("X-Prometheus-Scrape-Timeout-Seconds", "10"),
    ];
    assert_eq!(ask(served.addr, Method::GET, "/metrics?name[]=a", &headers).await.status, 200);
    let many: Vec<String> = (0..90).map(|number| format!("x-{number}")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "s3cr3t")).collect();
    assert_eq!(ask(served.addr, Method::GET, "/", &many).await.status, 200);
    let requests = served.board.requests.lock().unwrap();
    assert_eq!(requests[0].target, "/metrics?name[]=a");
    let of = |name: &str| {
        requests[0].headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    };
    assert_eq!(of("accept"), Some("text/plain;version=0.0.4"));
    assert_eq!(of("accept-encoding"), Some("identity"));
    assert_eq!(of("x-prometheus-scrape-timeout-seconds"), Some("10"));
    assert!(
        !requests[0].headers.iter().any(|(_, value)| value.contains("s3cr3t")),
        "{:?}",
        requests[0].headers
    );
    assert_eq!(requests[1].headers.len(), 64);
}

/// Scenario: the plugin's instance ends; its status is none.
/// Guarantees: readers are told, for now and as the plugin's fault; both are counted.
#[tokio::test]
async fn a_plugin_that_does_not_answer_is_told() {
    let served = serve(ListenLimits::default());
    let answer = get(served.addr, "/ends").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "3"));
    assert!(answer.text().contains("the instance ended"), "{}", answer.text());
    let answer = get(served.addr, "/odd").await;
    assert_eq!(
        (answer.status.as_u16(), answer.text()),
        (500, "the plugin answered with a status that is none\n")
    );
    assert_eq!((served.counts.refused.get(), served.counts.served.get(), served.ledger.used()), (2, 0, 0));
    assert_eq!(served.counts.under_way.get(), 0);
}

/// Scenario: as many readers as may be wait for the page, and one more comes; then they get it.
/// Guarantees: the one more is told to come again, at once; afterwards there is room again.
#[tokio::test]
async fn only_so_many_pages_are_under_way_at_once() {
    let served = serve(ListenLimits::default());
    let addr = served.addr;
    let waiting: Vec<_> =
        (0..8).map(|_| tokio::spawn(async move { get(addr, "/hold").await.status })).collect();
    eventually("all wait", || served.counts.under_way.get() == 8).await;
    let answer = get(addr, "/").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "1"));
    assert!(answer.text().starts_with("8 readers"), "{}", answer.text());
    served.board.gate.add_permits(8);
    for reader in waiting {
        assert_eq!(reader.await.unwrap(), 200);
    }
    eventually("their places are free", || served.counts.under_way.get() == 0).await;
    assert_eq!(get(addr, "/").await.status, 200);
    assert_eq!((served.counts.served.get(), served.counts.refused.get()), (9, 1));
}

/// Scenario: readers ask for a large page over HTTP/1, packed over HTTP/1, and over HTTP/2, and read nothing of it.
/// Guarantees: others are served meanwhile; when its time is over each is cut, counted, and its memory is given back.
#[tokio::test]
async fn a_reader_that_does_not_read_is_cut() {
    let served =
        serve(ListenLimits { request_timeout: Duration::from_millis(300), ..ListenLimits::default() });
    let mut first = idle_reader(served.addr).await;
    let stream = TcpStream::connect(served.addr).await.unwrap();
    let (mut sender, connection) =
        http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let request = HttpRequest::get("http://test/large").body(Empty::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert!(served.ledger.used() > 0);
    assert_eq!(get(served.addr, "/").await.body, lines(10));
    eventually("both are cut", || served.counts.cut.get() == 2).await;
    eventually("all is given back", || served.ledger.used() == 0 && served.counts.under_way.get() == 0).await;
    let mut came = Vec::new();
    let read = timeout(DEADLINE, first.read_to_end(&mut came)).await.expect("the connection ends");
    assert!(read.is_err() || came.len() < LARGE, "the page came whole");
    let collected = timeout(DEADLINE, response.into_body().collect()).await.expect("the stream ends");
    assert!(collected.is_err(), "a page that is cut looks whole");
    drop(driving);
    assert_eq!(served.counts.served.get(), 1);
}

/// Scenario: a reader takes its time with a page, longer than a connection may be idle, as another connection shows that is
/// cut for it meanwhile.
/// Guarantees: a connection with a page under way is not idle: the page comes whole.
#[tokio::test]
async fn a_connection_with_a_page_under_way_is_not_idle() {
    let served = serve(ListenLimits { idle_timeout: Duration::from_millis(200), ..ListenLimits::default() });
    let mut slow = idle_reader(served.addr).await;
    let mut idle = TcpStream::connect(served.addr).await.unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let mut came = Vec::new();
    timeout(DEADLINE, idle.read_to_end(&mut came)).await.expect("it is cut").unwrap();
    assert!(came.starts_with(b"HTTP/1.1 200"));
    let mut came = Vec::new();
    timeout(DEADLINE, slow.read_to_end(&mut came)).await.expect("it ends").unwrap();
    assert!(came.ends_with(&lines(LARGE)), "{} bytes came", came.len());
}

/// Scenario: a reader hangs up in the middle of a page; another waits for its page when the door is told to end.
/// Guarantees: the first is counted as cut and its memory is given back; the second gets its page, then the door is shut.
#[tokio::test]
async fn a_door_that_ends_finishes_its_pages() {
    let served = serve(ListenLimits::default());
    drop(idle_reader(served.addr).await);
    eventually("it is noticed", || served.counts.cut.get() == 1 && served.ledger.used() == 0).await;
    let addr = served.addr;
    let reader = tokio::spawn(async move { get(addr, "/hold").await.status });
    eventually("it waits", || served.counts.under_way.get() == 1).await;
    served.drain.signal();
    served.board.gate.add_permits(1);
    assert_eq!(reader.await.unwrap(), 200);
    timeout(DEADLINE, served.serving).await.expect("the door ends").unwrap().unwrap();
    assert!(TcpStream::connect(addr).await.is_err(), "the door is open");
}
