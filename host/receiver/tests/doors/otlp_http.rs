//! Port 4318 beyond the contract: both encodings, compression, every status, web pages.

use std::io::Write;
use std::sync::Arc;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_proto::google;
use weir_proto::opentelemetry::proto::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use weir_receiver::Pipelines;
use weir_receiver::cors::CorsConfig;

use crate::harness::{SPAN_JSON, Say, Scripted, Served, config, post, send, serve_otlp, traces};

const PROTOBUF: (&str, &str) = ("content-type", "application/x-protobuf");
const JSON: (&str, &str) = ("content-type", "application/json");

fn serve_all(consumer: &Arc<Scripted>) -> Served {
    serve_otlp(config(), Pipelines::all(Arc::clone(consumer) as _), 64 << 20)
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn zlib(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

/// Scenario: one span as protobuf and as JSON, with the parameters that libraries put behind the content type.
/// Guarantees: the pipeline gets the same bytes; the answer has the request's encoding.
#[tokio::test]
async fn protobuf_and_json_are_the_same_request() {
    let consumer = Scripted::saying([]);
    let served = serve_all(&consumer);
    let addr = served.addr("otlp/http");
    let answer = post(addr, "/v1/traces", &[PROTOBUF], traces(1, 0).encode_to_vec()).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type")), (200, PROTOBUF.1));
    assert_eq!(ExportTraceServiceResponse::decode(answer.body).unwrap().partial_success, None);
    let answer =
        post(addr, "/v1/traces", &[("content-type", "application/json; charset=utf-8")], SPAN_JSON).await;
    assert_eq!((answer.status.as_u16(), answer.header("content-type"), answer.text()), (200, JSON.1, "{}"));
    let arrivals = consumer.taken();
    assert_eq!(arrivals[0].body, arrivals[1].body);
}

/// Scenario: the same body in every encoding that we take; then in one that we do not, and in two at once.
/// Guarantees: the same bytes reach the pipeline; the others are refused by name with 415.
#[tokio::test]
async fn encodings_are_undone() {
    let consumer = Scripted::saying([]);
    let served = serve_all(&consumer);
    let addr = served.addr("otlp/http");
    let body = traces(100, 0).encode_to_vec();
    let packed = [
        ("identity", body.clone()),
        ("gzip", gzip(&body)),
        ("deflate", zlib(&body)),
        ("zstd", zstd::bulk::compress(&body, 3).unwrap()),
    ];
    for (encoding, packed) in packed {
        let answer = post(addr, "/v1/traces", &[PROTOBUF, ("content-encoding", encoding)], packed).await;
        assert_eq!(answer.status, 200, "{encoding}");
    }
    assert!(consumer.taken().iter().all(|arrival| arrival.body == body));
    for encoding in ["br", "gzip, gzip"] {
        let answer =
            post(addr, "/v1/traces", &[PROTOBUF, ("content-encoding", encoding)], body.clone()).await;
        assert_eq!(answer.status, 415);
        let status = google::rpc::Status::decode(answer.body).unwrap();
        assert!(status.message.contains(encoding), "{}", status.message);
    }
}

/// Scenario: requests with invalid spans, in both encodings.
/// Guarantees: the answer says in the same encoding how many were left out.
#[tokio::test]
async fn partial_success_is_said_in_the_requests_encoding() {
    let consumer = Scripted::saying([]);
    let served = serve_all(&consumer);
    let addr = served.addr("otlp/http");
    let answer = post(addr, "/v1/traces", &[PROTOBUF], traces(1, 2).encode_to_vec()).await;
    let partial = ExportTraceServiceResponse::decode(answer.body).unwrap().partial_success.unwrap();
    assert_eq!(partial.rejected_spans, 2);
    let invalid = SPAN_JSON.replace("0707070707", "0000000000").replace("07", "00");
    let answer = post(addr, "/v1/traces", &[JSON], invalid).await;
    let said: serde_json::Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!(said["partialSuccess"]["rejectedSpans"], "1");
    let expected = "1 of 1 spans left out: 1 with trace id is not 16 bytes or is all zeros (first at byte ";
    let message = said["partialSuccess"]["errorMessage"].as_str().unwrap();
    assert!(message.starts_with(expected), "{message}");
    assert_eq!(ExportTraceServiceRequest::decode(&*consumer.taken()[0].body).unwrap(), traces(1, 0));
}

/// Scenario: a request refused for now and one refused for good, in both encodings.
/// Guarantees: the body is a `google.rpc.Status` in the request's encoding that says why.
#[tokio::test]
async fn a_refusal_is_said_in_the_requests_encoding() {
    let consumer = Scripted::saying([Say::ForNow(None), Say::ForGood, Say::ForNow(None), Say::ForGood]);
    let served = serve_all(&consumer);
    let addr = served.addr("otlp/http");
    for (http, code, message) in [(503, 14, "the queue is full"), (400, 3, "never this")] {
        let answer = post(addr, "/v1/traces", &[PROTOBUF], traces(1, 0).encode_to_vec()).await;
        assert_eq!((answer.status.as_u16(), answer.header("content-type")), (http, PROTOBUF.1));
        let status = google::rpc::Status::decode(answer.body).unwrap();
        assert_eq!((status.code, status.message.as_str()), (code, message));
    }
    for (http, said) in
        [(503, r#"{"code":14,"message":"the queue is full"}"#), (400, r#"{"code":3,"message":"never this"}"#)]
    {
        let answer = post(addr, "/v1/traces", &[JSON], SPAN_JSON).await;
        assert_eq!(
            (answer.status.as_u16(), answer.header("content-type"), answer.text()),
            (http, JSON.1, said)
        );
    }
}

/// Scenario: every request that is none of ours: path, method, content type, broken bytes, broken JSON, no pipeline.
/// Guarantees: each gets its own status and a text that says what was expected, JSON with line and column.
#[tokio::test]
async fn what_is_not_otlp_is_refused_by_its_status() {
    let consumer = Scripted::saying([]);
    let pipelines = Pipelines { traces: Some(Arc::clone(&consumer) as _), ..Pipelines::default() };
    let served = serve_otlp(config(), pipelines, 64 << 20);
    let addr = served.addr("otlp/http");
    let answer = post(addr, "/v1/spans", &[PROTOBUF], "").await;
    assert_eq!(answer.status, 404);
    let get = Request::get("/v1/traces").header("host", "a").body(Full::<Bytes>::default()).unwrap();
    let answer = send(addr, get).await;
    assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, "POST"));
    for wrong in [&[("content-type", "text/plain")][..], &[]] {
        let answer = post(addr, "/v1/traces", wrong, "").await;
        assert_eq!(answer.status, 415);
        assert_eq!(
            answer.text(),
            "415 unsupported media type, supported: [application/json, application/x-protobuf]\n"
        );
    }
    let answer = post(addr, "/v1/traces", &[PROTOBUF], &b"\x0a\x05abc"[..]).await;
    assert_eq!(answer.status, 400);
    let answer = post(addr, "/v1/traces", &[JSON], "{\"resourceSpans\":\n [oops]}").await;
    assert_eq!(answer.status, 400);
    assert!(answer.text().contains("line 2, column 3"), "{}", answer.text());
    let answer = post(addr, "/v1/traces", &[PROTOBUF, ("content-encoding", "gzip")], "none").await;
    assert_eq!(answer.status, 400);
    let answer = post(addr, "/v1/metrics", &[JSON], "{}").await;
    assert_eq!(answer.status, 404);
    assert!(answer.text().contains("no pipeline takes metrics"), "{}", answer.text());
    let answer = post(addr, "/v1/traces", &[PROTOBUF], "").await;
    assert_eq!(answer.status, 200, "an empty request is a success");
    assert_eq!(consumer.arrivals_seen(), 0);
}

/// Scenario: bodies over the limit of one MiB: announced, chunked, and as bombs in each encoding.
/// Guarantees: 413 each time, though the sender sends all of it first; memory stays bounded.
#[tokio::test]
async fn what_is_too_large_is_413() {
    let consumer = Scripted::saying([]);
    let served = serve_all(&consumer);
    let addr = served.addr("otlp/http");
    let large = vec![0; 3 << 20];
    let packed = [
        ("identity", large.clone()),
        ("gzip", gzip(&large)),
        ("deflate", zlib(&large)),
        ("zstd", zstd::bulk::compress(&large, 3).unwrap()),
    ];
    for (encoding, packed) in packed {
        let answer = post(addr, "/v1/traces", &[PROTOBUF, ("content-encoding", encoding)], packed).await;
        assert_eq!(answer.status, 413, "{encoding}");
        assert!(!answer.headers.contains_key("retry-after"));
        assert_eq!(google::rpc::Status::decode(answer.body).unwrap().code, 8);
    }
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = "POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-protobuf\r\n\
        transfer-encoding: chunked\r\nconnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    for _ in 0..32 {
        stream.write_all(b"10000\r\n").await.unwrap();
        stream.write_all(&vec![0; 0x10000]).await.unwrap();
        stream.write_all(b"\r\n").await.unwrap();
    }
    stream.write_all(b"0\r\n\r\n").await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    assert!(said.starts_with(b"HTTP/1.1 413 "));
    assert!(served.ledger.peak() < 6 << 20, "{} bytes were claimed", served.ledger.peak());
    assert_eq!(served.ledger.used(), 0);
    assert_eq!(consumer.arrivals_seen(), 0);
}

/// Scenario: a sender asks first (`expect: 100-continue`) with a length over the limit.
/// Guarantees: it hears 413 and never "continue".
#[tokio::test]
async fn a_sender_that_asks_first_need_not_send() {
    let consumer = Scripted::saying([]);
    let served = serve_all(&consumer);
    let mut stream = TcpStream::connect(served.addr("otlp/http")).await.unwrap();
    let head = "POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: application/x-protobuf\r\n\
        content-length: 99999999\r\nexpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut said = [0; 12];
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 413");
}

/// Scenario: web pages of a named and of another origin ask first, then send.
/// Guarantees: the named one may send and read the answer, even a refusal; the other gets no permission.
#[tokio::test]
async fn named_web_pages_may_send() {
    let consumer = Scripted::saying([Say::Take, Say::ForGood]);
    let mut config = config();
    let shop = "https://shop.example";
    config.protocols.http.as_mut().unwrap().cors =
        Some(CorsConfig { allowed_origins: vec![shop.to_owned()], ..CorsConfig::default() });
    let served = serve_otlp(config, Pipelines::all(Arc::clone(&consumer) as _), 64 << 20);
    let addr = served.addr("otlp/http");
    for (origin, granted) in [(shop, shop), ("https://evil.example", "")] {
        let preflight = Request::options("/v1/traces")
            .header("host", "a")
            .header("origin", origin)
            .header("access-control-request-method", "POST")
            .header("access-control-request-headers", "content-type");
        let answer = send(addr, preflight.body(Full::default()).unwrap()).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.header("access-control-allow-origin"), granted);
        for _ in 0..2 {
            let answer = post(addr, "/v1/traces", &[JSON, ("origin", origin)], SPAN_JSON).await;
            assert_eq!(answer.header("access-control-allow-origin"), granted);
            assert_eq!(answer.header("vary"), "origin");
        }
    }
}

/// Scenario: a sender brings its body one byte at a time and stops, under limits of milliseconds.
/// Guarantees: it is told to come back, and nothing is kept of it.
#[tokio::test]
async fn a_body_that_drips_is_refused_for_now() {
    let consumer = Scripted::saying([]);
    let mut config = config();
    config.protocols.http.as_mut().unwrap().limits.request_timeout = std::time::Duration::from_millis(50);
    let served = serve_otlp(config, Pipelines::all(Arc::clone(&consumer) as _), 64 << 20);
    let mut stream = TcpStream::connect(served.addr("otlp/http")).await.unwrap();
    let head = "POST /v1/traces HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    let said = String::from_utf8(said).unwrap();
    assert!(said.starts_with("HTTP/1.1 503 ") && said.contains("retry-after: 1\r\n"), "{said}");
    assert_eq!(served.ledger.used(), 0);
}
