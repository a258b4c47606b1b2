//! The gRPC door of a plugin beyond the contract: what the plugin sees of a call, and what its caller hears.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use tokio::sync::Semaphore;
use tonic::client::Grpc;
use tonic::codec::CompressionEncoding;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use weir_model::unary::{self, Call, Received};
use weir_model::{BoxFuture, GrpcReceiver, Ledger, Reason, Refusal, Signal};
use weir_receiver::plugin_grpc::Config;
use weir_receiver::{Bound, Pipelines};

use crate::contract::retry_delay;
use crate::harness::{DEADLINE, Say, Scripted, Served, eventually, post, serve, settings, traces};
use crate::otlp_grpc::Raw;

/// A plugin that keeps what it is called with and answers by method; its messages are OTLP already.
pub(crate) struct Recorder {
    calls: Mutex<Vec<(String, Call)>>,
    /// Says that a call may go on, for the method that waits.
    gate: Semaphore,
}

impl Default for Recorder {
    fn default() -> Self {
        Self { calls: Mutex::default(), gate: Semaphore::new(0) }
    }
}

fn received(batches: Vec<(Signal, Bytes)>) -> Received {
    Received { batches, rejected: 2, reply: Bytes::from_static(b"thanks") }
}

impl GrpcReceiver for Recorder {
    fn receive<'a>(
        &'a self,
        listener: &'a str,
        call: Call,
    ) -> BoxFuture<'a, Result<Result<Received, unary::Status>, Refusal>> {
        Box::pin(async move {
            // A copy, as a guest has one.
            let message = Bytes::copy_from_slice(&call.message);
            let method = call.method.clone();
            self.calls.lock().unwrap().push((listener.to_owned(), Call { message: message.clone(), ..call }));
            let status = |code, message: &str| Ok(Err(unary::Status { code, message: message.to_owned() }));
            match method.as_str() {
                "/t.S/Reply" => Ok(Ok(Received { batches: vec![], rejected: 0, reply: message })),
                "/t.S/Large" => Ok(Ok(Received { reply: vec![0; 2 << 20].into(), ..received(vec![]) })),
                "/t.S/Garbage" => Ok(Ok(received(vec![(Signal::Traces, Bytes::from_static(b"\xff"))]))),
                "/t.S/Several" => Ok(Ok(received(vec![
                    (Signal::Traces, message.clone()),
                    (Signal::Logs, Bytes::new()),
                    (Signal::Traces, message),
                ]))),
                "/t.S/Denied" => status(7, "größer, not here"),
                "/t.S/Odd" => status(0, "fine?"),
                "/t.S/Waits" => {
                    self.gate.acquire().await.unwrap().forget();
                    Ok(Ok(received(vec![(Signal::Traces, message)])))
                }
                "/t.S/Ends" => {
                    let wish = Some(Duration::from_millis(2500));
                    Err(Refusal::transient(Reason::PluginEnded, wish, "the instance ended"))
                }
                _ => Ok(Ok(received(vec![(Signal::Traces, message)]))),
            }
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

fn small() -> Config {
    Config { message_bytes_max: 1 << 20, ..Config::at("127.0.0.1:0") }
}

async fn grpc(addr: SocketAddr) -> Grpc<tonic::transport::Channel> {
    let channel = Endpoint::from_shared(format!("http://{addr}")).unwrap().connect().await.unwrap();
    let mut client = Grpc::new(channel).max_decoding_message_size(64 << 20);
    client.ready().await.unwrap();
    client
}

/// Sends one message and gives the answer, both as bytes.
pub(crate) async fn call(
    addr: SocketAddr,
    path: &'static str,
    body: impl Into<Bytes>,
) -> Result<Bytes, Status> {
    let request = tonic::Request::new(body.into());
    let answer = grpc(addr).await.unary(request, PathAndQuery::from_static(path), Raw).await;
    answer.map(tonic::Response::into_inner)
}

/// Scenario: a compressed call with metadata in text and in bytes.
/// Guarantees: the plugin sees the whole method, the caller's texts, and the message decoded; the caller gets the plugin's reply.
#[tokio::test]
async fn the_plugin_sees_the_call_decoded() {
    let consumer = Scripted::saying([]);
    let (served, plugin) = serve_plugin(&consumer, small());
    let mut client = grpc(served.addr("grpc")).await.send_compressed(CompressionEncoding::Gzip);
    let mut request = tonic::Request::new(Bytes::from(traces(2, 0).encode_to_vec()));
    request.metadata_mut().insert("x-tenant", "blue".parse().unwrap());
    request.metadata_mut().insert_bin("x-raw-bin", tonic::metadata::MetadataValue::from_bytes(b"\x00\xff"));
    let answer = client.unary(request, PathAndQuery::from_static("/t.S/Post"), Raw).await.unwrap();
    assert_eq!(answer.into_inner(), Bytes::from_static(b"thanks"));
    let calls = plugin.calls.lock().unwrap();
    let (listener, call) = &calls[0];
    assert_eq!((listener.as_str(), call.method.as_str()), ("endpoint", "/t.S/Post"));
    assert_eq!(call.message, traces(2, 0).encode_to_vec());
    assert!(call.metadata.contains(&("x-tenant".to_owned(), "blue".to_owned())), "{:?}", call.metadata);
    let is_ours = |name: &str| name.starts_with("grpc-") || name.ends_with("-bin") || name == "te";
    assert!(!call.metadata.iter().any(|(name, _)| is_ours(name)), "{:?}", call.metadata);
}

/// Scenario: a call that is no telemetry, with a message of some kilobytes; a reply over the listener's limit.
/// Guarantees: the first is answered without the pipeline; the second is our error, not a reply that no client would take.
#[tokio::test]
async fn the_plugins_own_replies_are_sent_within_the_limit() {
    let consumer = Scripted::saying([]);
    let (served, _) = serve_plugin(&consumer, small());
    let addr = served.addr("grpc");
    let body = vec![7; 70_000];
    assert_eq!(call(addr, "/t.S/Reply", body.clone()).await.unwrap(), body);
    let refused = call(addr, "/t.S/Large", Bytes::new()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal, "{refused:?}");
    assert_eq!(consumer.arrivals_seen(), 0);
    eventually("all memory is given back", || served.ledger.used() == 0).await;
}

/// Scenario: the plugin refuses with a status of its own, with one that is none; makes bytes that are no OTLP; ends.
/// Guarantees: the caller hears the first as it is, INTERNAL for the next two, UNAVAILABLE with the delay for the last.
#[tokio::test]
async fn each_refusal_has_its_status() {
    let consumer = Scripted::saying([]);
    let (served, _) = serve_plugin(&consumer, small());
    let addr = served.addr("grpc");
    let refused = call(addr, "/t.S/Denied", Bytes::new()).await.unwrap_err();
    assert_eq!((refused.code(), refused.message()), (Code::PermissionDenied, "größer, not here"));
    assert!(refused.details().is_empty());
    assert_eq!(call(addr, "/t.S/Odd", Bytes::new()).await.unwrap_err().code(), Code::Internal);
    let refused = call(addr, "/t.S/Garbage", Bytes::new()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Internal);
    assert!(refused.message().contains("otlp/test"), "{}", refused.message());
    let refused = call(addr, "/t.S/Ends", Bytes::new()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable);
    assert_eq!(retry_delay(&refused), Some(Duration::from_millis(2500)));
    assert_eq!(served.counts.requests_refused.get(), 4);
    assert_eq!(consumer.arrivals_seen(), 0);
    eventually("all memory is given back", || served.ledger.used() == 0).await;
}

/// Scenario: several batches of one signal, one that is empty, invalid spans in them, and items that the plugin left out.
/// Guarantees: a signal is one arrival; what is invalid is cut out and counted with what the plugin left out.
#[tokio::test]
async fn batches_of_one_signal_arrive_as_one() {
    let consumer = Scripted::saying([]);
    let (served, _) = serve_plugin(&consumer, small());
    call(served.addr("grpc"), "/t.S/Several", traces(3, 1).encode_to_vec()).await.unwrap();
    let arrivals = consumer.taken();
    assert_eq!(arrivals.len(), 1);
    assert_eq!(arrivals[0].body, [traces(3, 0).encode_to_vec(), traces(3, 0).encode_to_vec()].concat());
    assert_eq!(served.counts.dropped.of(Signal::Traces, Reason::InvalidItem).get(), 2 + 2);
}

/// Scenario: a message over the limit, plain and as a bomb; a call with two messages, one without any; HTTP that is no gRPC.
/// Guarantees: each gets the status that gRPC has for it, and the plugin sees none of them.
#[tokio::test]
async fn the_plugin_never_sees_what_is_no_unary_call() {
    let consumer = Scripted::saying([]);
    let (served, plugin) = serve_plugin(&consumer, small());
    let addr = served.addr("grpc");
    let large = Bytes::from(vec![0; (1 << 20) + 1]);
    assert_eq!(call(addr, "/t.S/Post", large.clone()).await.unwrap_err().code(), Code::ResourceExhausted);
    let mut client = grpc(addr).await.send_compressed(CompressionEncoding::Zstd);
    let path = || PathAndQuery::from_static("/t.S/Post");
    let refused = client.unary(tonic::Request::new(large), path(), Raw).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    for messages in [vec![], vec![Bytes::from_static(b"a"), Bytes::from_static(b"b")]] {
        let count = messages.len();
        let stream = tonic::Request::new(futures_util::stream::iter(messages));
        let mut client = grpc(addr).await;
        let refused = client.client_streaming(stream, path(), Raw).await.unwrap_err();
        assert_eq!(refused.code(), Code::Internal, "{count} messages: {}", refused.message());
    }
    assert_eq!(post(addr, "/t.S/Post", &[("content-type", "application/json")], "{}").await.status, 415);
    assert!(plugin.calls.lock().unwrap().is_empty());
    assert_eq!(served.counts.requests_refused.get(), 4);
    eventually("all memory is given back", || served.ledger.used() == 0).await;
}

/// The code that a call with this `grpc-timeout` is answered with, asked for without a library that would time itself.
async fn code_within(addr: SocketAddr, path: &str, timeout: &str) -> String {
    let stream = tokio::net::TcpStream::connect(addr).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let message = traces(1, 0).encode_to_vec();
    let frame = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
    let request = http::Request::post(format!("http://{addr}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", timeout)
        .body(Full::new(Bytes::from(frame)))
        .unwrap();
    let (head, body) = sender.send_request(request).await.unwrap().into_parts();
    let trailers = body.collect().await.unwrap().trailers().cloned();
    driving.abort();
    let status = head.headers.get("grpc-status").cloned();
    let status = status.or_else(|| trailers?.get("grpc-status").cloned());
    status.expect("an answer has a status").to_str().unwrap().to_owned()
}

/// Scenario: a call whose caller waits for a tenth of a second, and whose plugin does not answer; one with a deadline that is
/// none; one with time enough.
/// Guarantees: DEADLINE_EXCEEDED comes from the door and nothing is handed on; the second is INTERNAL; the third is taken.
#[tokio::test]
async fn a_callers_deadline_ends_its_call() {
    let consumer = Scripted::saying([]);
    let (served, plugin) = serve_plugin(&consumer, small());
    let addr = served.addr("grpc");
    let code = tokio::time::timeout(DEADLINE, code_within(addr, "/t.S/Waits", "100m")).await;
    assert_eq!(code.expect("the door gives up"), "4");
    assert_eq!(code_within(addr, "/t.S/Post", "soon").await, "13");
    assert_eq!((consumer.arrivals_seen(), plugin.calls.lock().unwrap().len()), (0, 1));
    assert_eq!(code_within(addr, "/t.S/Post", "20S").await, "0");
    assert_eq!(consumer.taken().len(), 1);
    eventually("all memory is given back", || served.ledger.used() == 0).await;
}

/// Scenario: the pipeline refuses for now, and for good.
/// Guarantees: UNAVAILABLE with our delay, INVALID_ARGUMENT without one; items are counted, and no reply is sent.
#[tokio::test]
async fn a_pipelines_refusal_is_a_status() {
    let consumer = Scripted::saying([Say::ForNow(Some(Duration::from_secs(3))), Say::ForGood]);
    let (served, _) = serve_plugin(&consumer, small());
    let addr = served.addr("grpc");
    let body = traces(2, 0).encode_to_vec();
    let refused = call(addr, "/t.S/Post", body.clone()).await.unwrap_err();
    assert_eq!((refused.code(), retry_delay(&refused)), (Code::Unavailable, Some(Duration::from_secs(3))));
    let refused = call(addr, "/t.S/Post", body).await.unwrap_err();
    assert_eq!((refused.code(), refused.details().is_empty()), (Code::InvalidArgument, true));
    assert_eq!(served.counts.refused.of(Signal::Traces, Reason::QueueFull).get(), 2);
    assert_eq!(served.counts.requests_refused.get(), 0);
}
