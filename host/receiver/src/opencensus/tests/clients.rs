//! Scripts that behave as the libraries do, down to the bytes where it matters.

use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tonic::Code;
use weir_model::Signal;
use weir_proto::google::protobuf::Timestamp;
use weir_proto::opencensus::proto::agent::metrics::v1::metrics_service_client::MetricsServiceClient;
use weir_proto::opencensus::proto::agent::trace::v1::CurrentLibraryConfig;
use weir_proto::opencensus::proto::trace::v1::span::{Link, Links, TimeEvent, TimeEvents, time_event};

use super::*;

type Body = StreamBody<futures_util::stream::BoxStream<'static, Result<Frame<Bytes>, std::io::Error>>>;

/// Scenario: Go: three streams on one connection, each begun with a node alone; then batches without a node and with a
/// resource; roots have eight zeros for a parent; it never reads a reply.
/// Guarantees: all three streams stay open, and what they send is taken, with the node of each stream.
#[tokio::test]
async fn go_keeps_three_streams_open_on_one_connection() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let channel = served.channel().await;
    let traces = export_on(channel.clone()).await;
    traces.send(OcTraces { node: node("go"), resource: resource("r"), ..OcTraces::default() }).await;
    let (config_sender, config_requests) = requests();
    let config = TraceServiceClient::new(channel.clone()).config(config_requests).await.unwrap();
    config_sender.send(CurrentLibraryConfig { node: node("go"), config: None }).await.unwrap();
    let (metrics_sender, metrics_requests) = requests();
    let metrics = MetricsServiceClient::new(channel.clone()).export(metrics_requests).await.unwrap();
    metrics_sender.send(OcMetrics { node: node("go"), ..OcMetrics::default() }).await.unwrap();
    for round in 0..3 {
        let root = Span { parent_span_id: vec![0; 8], ..span("root") };
        traces.send(OcTraces { spans: vec![root], resource: resource("r"), node: None }).await;
        metrics_sender.send(OcMetrics { resource: resource("r"), ..gauge(round) }).await.unwrap();
    }
    let counts = served.counts.clone();
    let accepted = move |signal| counts.accepted.of(signal).get();
    eventually("all arrived", || accepted(Signal::Traces) == 3 && accepted(Signal::Metrics) == 3).await;
    let of_traces: Vec<_> =
        consumer.arrivals().into_iter().filter(|arrival| arrival.signal == Signal::Traces).collect();
    let first = ExportTraceServiceRequest::decode(&*of_traces[0].body).unwrap().resource_spans.remove(0);
    assert_eq!(attribute(&first, "service.name").as_deref(), Some("go"));
    assert_eq!(attribute(&first, "label").as_deref(), Some("r"));
    assert_eq!(first.scope_spans[0].spans[0].parent_span_id.len(), 0);
    let row = &served.nodes.list(Instant::now())[0];
    assert_eq!((row.node.service.as_str(), row.streams), ("go", 3));
    drop((traces, config_sender, config, metrics_sender, metrics, channel));
    served.end().await;
}

/// Scenario: Java: it waits for the server's SETTINGS before it says anything but its preface.
/// Guarantees: they come without a request.
#[tokio::test]
async fn java_gets_settings_before_it_asks() {
    let served = serve(&Scripted::saying([]));
    let mut stream = TcpStream::connect(served.addr).await.unwrap();
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
    let mut head = [0; 9];
    timeout(DEADLINE, stream.read_exact(&mut head)).await.expect("SETTINGS come").unwrap();
    assert_eq!(head[3], 4, "the first frame is SETTINGS");
    drop(stream);
    served.end().await;
}

/// Scenario: Java: `{node}`, then `{spans}`; the stream is ended by a drain of the connection; it opens a new channel and
/// stream when the next batch comes. Its process id is a negative number.
/// Guarantees: both batches arrive with the node.
#[tokio::test]
async fn java_comes_back_on_a_new_stream() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let java = Some(Node {
        identifier: Some(ProcessIdentifier {
            host_name: "j".to_owned(),
            pid: -5_i32 as u32,
            start_timestamp: Some(Timestamp { seconds: 1_700_000_000, nanos: 0 }),
        }),
        ..Node::default()
    });
    for batch in ["first", "second"] {
        let mut stream = served.export().await;
        stream.send(OcTraces { node: java.clone(), ..OcTraces::default() }).await;
        stream.send(spans(&[batch])).await;
        stream.finish().await.unwrap();
    }
    assert_eq!(consumer.names(), ["first", "second"]);
    let row = &served.nodes.list(Instant::now())[0];
    assert_eq!((row.node.pid, row.node.start_unix_nanos), (4_294_967_291, 1_700_000_000_000_000_000));
    served.end().await;
}

/// Scenario: Node.js: a stream opened at start without a message; later a node in each message, and annotations without a
/// time. The drain ends it.
/// Guarantees: silence ends nothing, its spans are taken, and the status is one after which it comes back.
#[tokio::test]
async fn node_js_may_be_silent_and_is_told_to_come_back() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let mut stream = served.export().await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let annotation = time_event::Value::Annotation(time_event::Annotation::default());
    let event = TimeEvent { time: None, value: Some(annotation) };
    let time_events = Some(TimeEvents { time_event: vec![event], ..TimeEvents::default() });
    for name in ["1", "2"] {
        let span = Span { time_events: time_events.clone(), ..span(name) };
        stream.send(OcTraces { node: node("js"), spans: vec![span], resource: None }).await;
    }
    let counts = served.counts.clone();
    eventually("both are taken", move || counts.accepted.of(Signal::Traces).get() == 2).await;
    assert_eq!(consumer.groups()[0].scope_spans[0].spans[0].events.len(), 1);
    served.drain.signal();
    assert_eq!(stream.ended().await.unwrap_err().code(), Code::Unavailable);
    drop(stream);
    served.end().await;
}

/// Scenario: C++: one stream with the node alone at start; then a stream for each batch, with a deadline of five seconds;
/// ids of links are hexadecimal text. The disk is slow.
/// Guarantees: each stream ends with OK within the deadline and after the batch was taken; the ids are bytes.
#[tokio::test]
async fn cpp_hears_of_each_batch_within_its_deadline() {
    let gate = Arc::new(Semaphore::new(0));
    let consumer = Scripted::saying([Say::Hold(Arc::clone(&gate))]);
    let served = serve(&consumer);
    let mut client = TraceServiceClient::new(served.channel().await);
    let within = |messages: Vec<OcTraces>| {
        let mut request = tonic::Request::new(stream::iter(messages));
        request.set_timeout(Duration::from_secs(5));
        request
    };
    let hello = OcTraces { node: node("cpp"), ..OcTraces::default() };
    let mut replies = client.export(within(vec![hello])).await.unwrap().into_inner();
    assert!(replies.message().await.unwrap().is_none());
    let link = Link {
        trace_id: b"0af7651916cd43dd8448eb211c80319c".to_vec(),
        span_id: b"00f067aa0ba902b7".to_vec(),
        ..Link::default()
    };
    let links = Some(Links { link: vec![link], dropped_links_count: 0 });
    let batch = OcTraces { node: node("cpp"), spans: vec![Span { links, ..span("s") }], resource: None };
    let mut replies = client.export(within(vec![batch])).await.unwrap().into_inner();
    eventually("the batch reaches the pipeline", || consumer.seen() == 1).await;
    gate.add_permits(1);
    assert!(replies.message().await.unwrap().is_none());
    let link = consumer.groups()[0].scope_spans[0].spans[0].links[0].clone();
    assert_eq!(
        (link.trace_id.len(), link.span_id),
        (16, vec![0x00, 0xf0, 0x67, 0xaa, 0x0b, 0xa9, 0x02, 0xb7])
    );
    drop((client, replies));
    served.end().await;
}

/// Scenario: the Collector's exporter: two long streams, an empty node and an empty resource in each message.
/// Guarantees: everything is taken under one row, and nothing is made up for the resource.
#[tokio::test]
async fn the_collectors_exporter_says_empty_nodes() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let channel = served.channel().await;
    let mut streams = [export_on(channel.clone()).await, export_on(channel.clone()).await];
    for _ in 0..3 {
        for stream in &streams {
            let message = OcTraces {
                node: Some(Node::default()),
                resource: Some(Resource::default()),
                ..spans(&["s"])
            };
            stream.send(message).await;
        }
    }
    for stream in &mut streams {
        stream.finish().await.unwrap();
    }
    assert_eq!((served.accepted(), served.nodes.list(Instant::now()).len()), (6, 1));
    assert!(consumer.groups().iter().all(|group| group.resource.as_ref().unwrap().attributes.is_empty()));
    drop((streams, channel));
    served.end().await;
}

/// Scenario: a client compresses its messages.
/// Guarantees: they are taken as if it did not.
#[tokio::test]
async fn compressed_messages_are_taken() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    for encoding in [tonic::codec::CompressionEncoding::Gzip, tonic::codec::CompressionEncoding::Zstd] {
        let mut client = TraceServiceClient::new(served.channel().await).send_compressed(encoding);
        let messages = [OcTraces { node: node("a"), ..spans(&["1"]) }, spans(&["2"])];
        let mut replies = client.export(stream::iter(messages)).await.unwrap().into_inner();
        assert!(replies.message().await.unwrap().is_none());
    }
    assert_eq!(consumer.names(), ["1", "2", "1", "2"]);
    served.end().await;
}

/// One gRPC message on the wire.
fn framed(message: &impl Message) -> Bytes {
    let mut frame = BytesMut::new();
    frame.put_u8(0);
    frame.put_u32(message.encoded_len() as u32);
    message.encode(&mut frame).unwrap();
    frame.freeze()
}

/// A bare HTTP/2 connection.
async fn raw(served: &Served) -> http2::SendRequest<Body> {
    let stream = TcpStream::connect(served.addr).await.unwrap();
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn post(
    path: &str,
    content_type: &str,
    frames: Vec<Result<Frame<Bytes>, std::io::Error>>,
) -> ::http::Request<Body> {
    let request = ::http::Request::post(path).header("content-type", content_type).header("te", "trailers");
    request.body(StreamBody::new(stream::iter(frames).boxed())).unwrap()
}

const EXPORT: &str = "/opencensus.proto.agent.trace.v1.TraceService/Export";

/// Scenario: every content type that means gRPC, and JSON between them, all on one connection
/// (`TestAcceptAllGRPCProtoAffiliatedContentTypes`).
/// Guarantees: each request is answered in its own protocol: the connection does not decide, the request does.
#[tokio::test]
async fn one_connection_carries_both_protocols() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let mut connection = raw(&served).await;
    let message = framed(&OcTraces { node: node("a"), ..spans(&["s"]) });
    for content_type in
        ["application/grpc", "application/grpc+proto", "application/json", "application/grpc;x=y"]
    {
        let (path, body) = match content_type {
            "application/json" => {
                ("/v1/trace", Bytes::from_static(br#"{"node":{},"spans":[{"traceId":"AQ","spanId":"Ag"}]}"#))
            }
            _ => (EXPORT, message.clone()),
        };
        let request = post(path, content_type, vec![Ok(Frame::data(body))]);
        let response = timeout(DEADLINE, connection.send_request(request)).await.unwrap().unwrap();
        assert_eq!(response.status(), 200, "{content_type}");
        let body = response.into_body().collect().await.unwrap();
        let status = body.trailers().and_then(|trailers| trailers.get("grpc-status")).cloned();
        let expected = (content_type != "application/json").then_some("0");
        assert_eq!(status.as_ref().map(|status| status.to_str().unwrap()), expected, "{content_type}");
    }
    assert_eq!(served.accepted(), 4);
    drop(connection);
    served.end().await;
}

/// One HTTP/2 frame.
fn frame(of_type: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([of_type, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// Scenario: Go flushes its last batches and closes the connection in the same breath, without ending the stream: the
/// messages, GOAWAY and the end of the connection arrive as one.
/// Guarantees: what arrived whole is taken, although nobody is there any more to hear of it.
#[tokio::test]
async fn go_says_its_last_words_and_leaves() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let mut headers = vec![0x83, 0x86, 0x04, EXPORT.len() as u8];
    headers.extend(EXPORT.as_bytes());
    // content-type is name 31 of HPACK's static table.
    headers.extend([0x0f, 0x10, 16]);
    headers.extend(b"application/grpc");
    for round in 1..=20 {
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend(frame(4, 0, 0, &[]));
        hello.extend(frame(1, 4, 1, &headers));
        hello.extend(frame(0, 0, 1, &framed(&OcTraces { node: node("go"), ..OcTraces::default() })));
        let (mut from_server, mut to_server) = TcpStream::connect(served.addr).await.unwrap().into_split();
        to_server.write_all(&hello).await.unwrap();
        // Go reads what the server says about the connection, so that closing it is no reset.
        let reading = tokio::spawn(async move { from_server.read_to_end(&mut Vec::new()).await });
        eventually("the stream is there", || served.counts.requests.get() == 4 * round - 3).await;
        let mut last = Vec::new();
        for name in ["1", "2", "3"] {
            last.extend(frame(0, 0, 1, &framed(&spans(&[name]))));
        }
        last.extend(frame(7, 0, 0, &[0; 8]));
        to_server.write_all(&last).await.unwrap();
        drop(to_server);
        eventually("the last words are taken", || served.accepted() == 3 * round).await;
        reading.await.unwrap().unwrap();
    }
    assert_eq!(consumer.names()[..3], ["1", "2", "3"]);
    served.end().await;
}

/// Scenario: a message of an `Export` and one of a `Config` stream stop in their middle, for longer than a message may take.
/// Guarantees: both streams end with UNAVAILABLE, after which the Node.js library comes back, and are counted.
#[tokio::test]
async fn a_sender_that_is_too_slow_is_told_to_come_back() {
    let mut config = config();
    config.limits.request_timeout = Duration::from_millis(50);
    let served = serve_with(config, Pipelines::all(Scripted::saying([])));
    let mut connection = raw(&served).await;
    let message = framed(&OcTraces { node: node("js"), ..spans(&["s"]) });
    for path in [EXPORT, "/opencensus.proto.agent.trace.v1.TraceService/Config"] {
        let half = Ok(Frame::data(message.slice(..message.len() / 2)));
        let body = StreamBody::new(stream::iter([half]).chain(stream::pending()).boxed());
        let request = post(path, "application/grpc", Vec::new()).map(|_| body);
        let response = timeout(DEADLINE, connection.send_request(request)).await.unwrap().unwrap();
        let ended =
            timeout(DEADLINE, response.into_body().collect()).await.expect("the stream ends").unwrap();
        let last = ended.trailers().expect("a status");
        assert_eq!(last["grpc-status"], "14", "{path}: {last:?}");
        assert!(last["grpc-message"].to_str().unwrap().contains("slow"), "{last:?}");
    }
    assert_eq!(served.counts.requests_refused.get(), 2);
    drop(connection);
    served.end().await;
}

/// Scenario: a client goes away in the middle of a message, and another resets its stream.
/// Guarantees: what was whole is taken, what was not is gone, and nothing of the streams is left behind.
#[tokio::test]
async fn a_stream_that_breaks_off_leaves_nothing_behind() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let mut connection = raw(&served).await;
    let message = framed(&OcTraces { node: node("a"), ..spans(&["s"]) });
    let half = message.slice(..message.len() / 2);
    let broken = std::io::Error::other("gone");
    let frames = vec![Ok(Frame::data(message)), Ok(Frame::data(half)), Err(broken)];
    // The reset may overtake the response's headers or not: either way there is no success.
    if let Ok(response) = connection.send_request(post(EXPORT, "application/grpc", frames)).await {
        let ended = response.into_body().collect().await;
        assert!(
            ended.is_err()
                || ended.is_ok_and(|body| body.trailers().is_none_or(|last| last["grpc-status"] != "0"))
        );
    }
    let (open, row) = (served.counts.streams.clone(), Arc::clone(&served.nodes));
    eventually("the stream is gone", move || {
        open.get() == 0 && row.list(Instant::now()).first().is_none_or(|row| row.streams == 0)
    })
    .await;
    assert!(consumer.names().iter().all(|name| name == "s"));
    let ledger = Arc::clone(&served.ledger);
    eventually("its memory is back", move || ledger.used() == 0).await;
    drop(connection);
    served.end().await;
}
