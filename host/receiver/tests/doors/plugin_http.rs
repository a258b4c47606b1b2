//! The door of a plugin beyond the contract: what the plugin sees, and what becomes of what it says.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::Request as HttpRequest;
use http_body_util::Full;
use prost::Message;
use weir_model::http::{Answer, Received, Request, Response};
use weir_model::{BoxFuture, HttpReceiver, Ledger, Reason, Refusal, Signal};
use weir_receiver::plugin_http::Config;
use weir_receiver::{Bound, Pipelines};

use crate::harness::{Say, Scripted, Served, post, send, serve, settings, traces};

/// A plugin that keeps what it is asked and answers by path; its bodies are OTLP already.
#[derive(Default)]
pub(crate) struct Recorder {
    requests: Mutex<Vec<(String, Request)>>,
    /// Bodies as they came, which it does not let go of.
    held: Mutex<Vec<Bytes>>,
}

fn response(status: u16, body: &'static str) -> Response {
    let headers = vec![
        ("content-type".to_owned(), "text/x-plugin".to_owned()),
        ("content-length".to_owned(), "9999".to_owned()),
        ("bad name".to_owned(), "x".to_owned()),
        ("bad-value".to_owned(), "a\r\nb".to_owned()),
    ];
    Response { status, headers, body: Bytes::from_static(body.as_bytes()) }
}

fn received(batches: Vec<(Signal, Bytes)>) -> Answer {
    let accepted = response(202, "thanks");
    let refused = response(503, "busy");
    Answer::Telemetry(Received { batches, rejected: 2, accepted, refused })
}

impl HttpReceiver for Recorder {
    fn receive<'a>(
        &'a self,
        listener: &'a str,
        mut request: Request,
    ) -> BoxFuture<'a, Result<Answer, Refusal>> {
        Box::pin(async move {
            // A copy, as a guest has one.
            let body = Bytes::copy_from_slice(&request.body);
            let target = request.target.clone();
            let came = std::mem::replace(&mut request.body, body.clone());
            if target == "/hold" {
                self.held.lock().unwrap().push(came);
            }
            self.requests.lock().unwrap().push((listener.to_owned(), request));
            Ok(match target.as_str() {
                "/large" => {
                    let bytes: usize = String::from_utf8_lossy(&body).parse().unwrap();
                    Answer::Reply(Response { body: vec![b'x'; bytes].into(), ..response(200, "") })
                }
                "/reply" | "/hold" => Answer::Reply(response(418, "teapot")),
                "/odd" => Answer::Reply(response(99, "")),
                "/garbage" => received(vec![(Signal::Traces, Bytes::from_static(b"\xff\xff"))]),
                "/nothing" => received(vec![]),
                "/several" => received(vec![
                    (Signal::Traces, body.clone()),
                    (Signal::Logs, Bytes::new()),
                    (Signal::Traces, body),
                ]),
                "/ends" => {
                    let wish = Some(Duration::from_millis(2500));
                    return Err(Refusal::transient(Reason::PluginEnded, wish, "the instance ended"));
                }
                _ => received(vec![(Signal::Traces, body)]),
            })
        })
    }
}

fn serve_plugin(consumer: &Arc<Scripted>, config: Config) -> (Served, Arc<Recorder>) {
    let ledger = Ledger::new(64 << 20);
    let settings = settings(Pipelines::all(Arc::clone(consumer) as _), &ledger);
    let counts = settings.counts.clone();
    let plugin = Arc::new(Recorder::default());
    let mut bound = Bound::new();
    config.bind(&mut bound, "endpoint", Arc::clone(&plugin) as _, settings).unwrap();
    (serve(bound, counts, ledger), plugin)
}

/// Scenario: a compressed request with a query and headers.
/// Guarantees: the plugin sees method, target, headers in lower case and the decoded body, and no encoding.
#[tokio::test]
async fn the_plugin_sees_the_request_decoded() {
    let consumer = Scripted::saying([]);
    let (served, plugin) = serve_plugin(&consumer, Config::at("127.0.0.1:0"));
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(&traces(2, 0).encode_to_vec()).unwrap();
    let headers = [("Content-Encoding", "gzip"), ("X-B3-Sampled", "1")];
    let answer = post(served.addr("http"), "/api/v2/spans?a=b", &headers, encoder.finish().unwrap()).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (202, "thanks"));
    let requests = plugin.requests.lock().unwrap();
    let (listener, request) = &requests[0];
    assert_eq!((listener.as_str(), request.method.as_str()), ("endpoint", "POST"));
    assert_eq!(request.target, "/api/v2/spans?a=b");
    assert_eq!(request.body, traces(2, 0).encode_to_vec());
    assert!(request.headers.contains(&("x-b3-sampled".to_owned(), "1".to_owned())));
    assert!(!request.headers.iter().any(|(name, _)| name == "content-encoding" || name == "content-length"));
}

/// Scenario: a body in snappy, which is part of one protocol and of no other; one in snappy over gzip; one in brotli.
/// Guarantees: the plugin sees the first as it came, with the header that says so; the others are refused before it sees them.
#[tokio::test]
async fn snappy_is_left_to_the_plugin() {
    let consumer = Scripted::saying([]);
    let config = Config { max_request_body_size: 1000, ..Config::at("127.0.0.1:0") };
    let (served, plugin) = serve_plugin(&consumer, config);
    let addr = served.addr("http");
    let answer = post(addr, "/reply", &[("Content-Encoding", "Snappy")], "as it came").await;
    assert_eq!(answer.status, 418);
    for headers in [
        &[("content-encoding", "br")][..],
        &[("content-encoding", "gzip, snappy")],
        &[("content-encoding", "snappy"), ("content-encoding", "snappy")],
    ] {
        assert_eq!(post(addr, "/reply", headers, "x").await.status, 415, "{headers:?}");
    }
    let answer = post(addr, "/reply", &[("content-encoding", "snappy")], vec![0; 1001]).await;
    assert_eq!(answer.status, 413);
    let requests = plugin.requests.lock().unwrap();
    let [(_, request)] = requests.as_slice() else { panic!("{} requests", requests.len()) };
    assert_eq!(request.body, "as it came");
    assert!(request.headers.contains(&("content-encoding".to_owned(), "Snappy".to_owned())));
    assert!(!request.headers.iter().any(|(name, _)| name == "content-length"));
}

/// Scenario: the plugin answers for itself, with headers that no answer may have, and once with a status that is none.
/// Guarantees: its answer is sent without them; the wrong status is an error of ours; the pipeline hears nothing.
#[tokio::test]
async fn the_plugins_own_answers_are_sent_clean() {
    let consumer = Scripted::saying([]);
    let (served, _) = serve_plugin(&consumer, Config::at("127.0.0.1:0"));
    let get = HttpRequest::get("/reply").header("host", "a").body(Full::<Bytes>::default()).unwrap();
    let answer = send(served.addr("http"), get).await;
    assert_eq!((answer.status.as_u16(), answer.text()), (418, "teapot"));
    assert_eq!(answer.header("content-type"), "text/x-plugin");
    assert_eq!(answer.header("content-length"), "6");
    assert!(!answer.headers.contains_key("bad-value"));
    assert_eq!(post(served.addr("http"), "/odd", &[], "").await.status, 500);
    assert_eq!(consumer.arrivals_seen(), 0);
}

/// Scenario: several batches of one signal, one that is empty, invalid spans in them, and items that the plugin left
/// out itself.
/// Guarantees: a signal is one arrival; what is invalid is cut out and counted with what the plugin left out.
#[tokio::test]
async fn batches_of_one_signal_arrive_as_one() {
    let consumer = Scripted::saying([]);
    let (served, _) = serve_plugin(&consumer, Config::at("127.0.0.1:0"));
    let answer = post(served.addr("http"), "/several", &[], traces(3, 1).encode_to_vec()).await;
    assert_eq!(answer.status, 202);
    let arrivals = consumer.taken();
    assert_eq!(arrivals.len(), 1);
    assert_eq!(arrivals[0].items, 6);
    assert_eq!(arrivals[0].body, [traces(3, 0).encode_to_vec(), traces(3, 0).encode_to_vec()].concat());
    assert_eq!(served.counts.dropped.of(Signal::Traces, Reason::InvalidItem).get(), 2 + 2);
}

/// Scenario: a plugin finds nothing in a request; another makes bytes that are no OTLP; an instance ends.
/// Guarantees: the first is a success without a promise, the second the plugin's fault and not the sender's, the third
/// worth a second try.
#[tokio::test]
async fn what_a_plugin_does_wrong_is_not_the_senders_fault() {
    let consumer = Scripted::saying([]);
    let (served, _) = serve_plugin(&consumer, Config::at("127.0.0.1:0"));
    let addr = served.addr("http");
    assert_eq!(post(addr, "/nothing", &[], "").await.status, 202);
    let answer = post(addr, "/garbage", &[], "").await;
    assert_eq!(answer.status, 500);
    assert!(answer.text().contains("otlp/test"), "{}", answer.text());
    let answer = post(addr, "/ends", &[], "").await;
    assert_eq!((answer.status.as_u16(), answer.header("retry-after")), (503, "3"));
    assert_eq!(consumer.arrivals_seen(), 0);
    assert_eq!(served.counts.requests_refused.get(), 2);
    assert_eq!(served.ledger.used(), 0);
}

/// Scenario: the pipeline refuses for now, with the plugin's own answer prepared.
/// Guarantees: the sender gets that answer with our delay, rounded up.
#[tokio::test]
async fn a_refusal_is_said_in_the_plugins_words() {
    let consumer = Scripted::saying([Say::ForNow(Some(Duration::from_millis(1001)))]);
    let (served, _) = serve_plugin(&consumer, Config::at("127.0.0.1:0"));
    let answer = post(served.addr("http"), "/", &[], traces(1, 0).encode_to_vec()).await;
    assert_eq!((answer.status.as_u16(), answer.text(), answer.header("retry-after")), (503, "busy", "2"));
}

/// Scenario: a body over the listener's limit.
/// Guarantees: 413, and the plugin never sees it.
#[tokio::test]
async fn the_plugin_never_sees_what_is_too_large() {
    let consumer = Scripted::saying([]);
    let config = Config { max_request_body_size: 1000, ..Config::at("127.0.0.1:0") };
    let (served, plugin) = serve_plugin(&consumer, config);
    assert_eq!(post(served.addr("http"), "/", &[], vec![0; 1001]).await.status, 413);
    assert!(plugin.requests.lock().unwrap().is_empty());
}

/// Scenario: a plugin answers with a body that the budget has no room for; then with one that fits, to a sender that reads nothing
/// and at last hangs up.
/// Guarantees: the first is refused for now; the second is paid for until it is gone.
#[tokio::test]
async fn an_answer_is_paid_for_until_it_is_sent() {
    const BYTES: usize = 20 << 20;
    let (served, _) = serve_plugin(&Scripted::saying([]), Config::at("127.0.0.1:0"));
    let answer = post(served.addr("http"), "/large", &[], (25 << 20).to_string()).await;
    assert_eq!(answer.status.as_u16(), 503, "{}", answer.text());
    assert!(answer.text().contains("memory budget") && answer.headers.contains_key("retry-after"));
    let mut slow = tokio::net::TcpStream::connect(served.addr("http")).await.unwrap();
    let body = BYTES.to_string();
    let head = format!("POST /large HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    tokio::io::AsyncWriteExt::write_all(&mut slow, head.as_bytes()).await.unwrap();
    // The head of the answer has come, so the body is on its way.
    slow.readable().await.unwrap();
    assert!(served.ledger.used() >= BYTES as u64);
    drop(slow);
    let gone = async {
        while served.ledger.used() > 0 {
            tokio::task::yield_now().await;
        }
    };
    let gone = tokio::time::timeout(Duration::from_secs(20), gone).await;
    assert!(gone.is_ok(), "{} bytes are held", served.ledger.used());
}

/// Scenario: a plugin holds a request on after the sender has its answer, as a call does whose sender has hung up.
/// Guarantees: the body stays paid for until the plugin lets go of it.
#[tokio::test]
async fn a_request_is_paid_for_as_long_as_the_plugin_holds_it() {
    const BYTES: usize = 100 << 10;
    let (served, plugin) = serve_plugin(&Scripted::saying([]), Config::at("127.0.0.1:0"));
    assert_eq!(post(served.addr("http"), "/hold", &[], vec![0; BYTES]).await.status, 418);
    assert!(served.ledger.used() >= BYTES as u64);
    plugin.held.lock().unwrap().clear();
    assert_eq!(served.ledger.used(), 0);
}
