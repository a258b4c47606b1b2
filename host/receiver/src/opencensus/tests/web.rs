//! Web pages: JSON over HTTP/1.1, and the rules of browsers.

use ::http::{HeaderMap, Method, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use weir_model::Signal;

use super::*;
use crate::cors::CorsConfig;

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

async fn send(served: &Served, method: Method, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
    let stream = TcpStream::connect(served.addr).await.unwrap();
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    let driving = tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "test");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let (head, body) = timeout(DEADLINE, sender.send_request(request)).await.unwrap().unwrap().into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    driving.abort();
    Answer { status: head.status, headers: head.headers, body: String::from_utf8(body.into()).unwrap() }
}

const JSON: (&str, &str) = ("content-type", "application/json");

async fn post(served: &Served, path: &str, body: &str) -> Answer {
    send(served, Method::POST, path, &[JSON], body).await
}

const ONE_SPAN: &str = r#"{"node":{"serviceInfo":{"name":"web"}},"spans":[{"traceId":"AQIDBAUGBwgJCgsMDQ4PEA==",
    "spanId":"AQIDBAUGBwg=","name":{"value":"nav"},"attributes":{"attributeMap":{"n":{"intValue":"55"}}}}]}"#;

/// Scenario: one object of spans, one of metrics with keys in snake case and an unknown field
/// (`TestGrpcGateway_endToEnd`, `TestReceiveOnUnixDomainSocket_endToEnd`).
/// Guarantees: 200 with an empty body of JSON's type, and each arrives as OTLP.
#[tokio::test]
async fn a_page_sends_spans_and_metrics() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let answer = post(&served, "/v1/trace", ONE_SPAN).await;
    assert_eq!((answer.status, answer.body.as_str()), (StatusCode::OK, ""));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let group = &consumer.groups()[0];
    let span = &group.scope_spans[0].spans[0];
    assert_eq!((attribute(group, "service.name").as_deref(), span.name.as_str()), (Some("web"), "nav"));
    assert_eq!(span.trace_id, (1..=16).collect::<Vec<u8>>());
    consumer.arrivals.lock().unwrap().clear();
    let metrics = r#"{"node":{},"more":[{}],"metrics":[{"metric_descriptor":{"name":"m","type":4},
        "timeseries":[{"points":[{"int64_value":"3"}]}]}]}"#;
    let answer = post(&served, "/v1/metrics", metrics).await;
    assert_eq!(answer.status, StatusCode::OK, "{}", answer.body);
    assert_eq!(consumer.metrics()[0].resource_metrics[0].scope_metrics[0].metrics[0].name, "m");
    let row = &served.nodes.list(std::time::Instant::now())[0];
    assert_eq!(row.streams, 0, "a request is no stream that stays");
    served.end().await;
}

/// Scenario: a request without a node, with an empty one, with nothing.
/// Guarantees: the first is answered as the reference gateway does, with the text of the stream; the others are taken.
#[tokio::test]
async fn a_request_without_a_node_is_a_violation() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let answer = post(&served, "/v1/trace", r#"{"spans":[{"traceId":"AQ","spanId":"Ag"}]}"#).await;
    assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR);
    let violation = "protocol violation: Export's first message must have a Node";
    assert_eq!(answer.body, format!(r#"{{"error":"{violation}","message":"{violation}","code":2}}"#));
    assert_eq!((served.refused(Reason::NoNode), consumer.seen()), (1, 0));
    assert_eq!(served.counts.requests_refused.get(), 0, "its span is counted");
    assert_eq!(post(&served, "/v1/trace", r#"{"node":{}}"#).await.status, StatusCode::OK);
    assert_eq!(consumer.seen(), 0);
    served.end().await;
}

/// Scenario: bodies that are no JSON, hold two objects, are cut off in the second span, or hold a wrong value.
/// Guarantees: 400 with the place of the error, and nothing of the request is taken.
#[tokio::test]
async fn bad_json_is_refused_whole_and_with_its_place() {
    let consumer = Scripted::saying([]);
    let served = serve(&consumer);
    let cut = &ONE_SPAN[..ONE_SPAN.len() - 2];
    let cases = [
        (String::new(), "line 1, column 1"),
        ("no".to_owned(), "line 1, column 1"),
        (format!("{ONE_SPAN}\n{ONE_SPAN}"), "line 3, column 1: something stands behind the value"),
        (format!("{ONE_SPAN} trailing"), "something stands behind the value"),
        (format!("{cut},{{\"traceId\":5}}]}}"), "traceId: expected a string in base64"),
        (cut.to_owned(), "line 2"),
    ];
    for (body, place) in cases {
        let answer = post(&served, "/v1/trace", &body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{body}");
        assert!(answer.body.contains(place) && answer.body.contains(r#""code":3"#), "{}", answer.body);
    }
    assert_eq!((consumer.seen(), served.counts.requests_refused.get()), (0, 6));
    served.end().await;
}

/// Scenario: the pipeline refuses for now and for good; the body is too large; nobody takes metrics.
/// Guarantees: 503 with Retry-After, 400, 413, and 200 for what is dropped by configuration; everything is counted.
#[tokio::test]
async fn each_refusal_has_its_status() {
    let consumer = Scripted::saying([Say::ForNow, Say::ForGood]);
    let pipelines = Pipelines { traces: Some(consumer.clone()), ..Pipelines::default() };
    let served = serve_with(config(), pipelines);
    let answer = post(&served, "/v1/trace", ONE_SPAN).await;
    assert_eq!((answer.status, answer.header("retry-after")), (StatusCode::SERVICE_UNAVAILABLE, Some("1")));
    let answer = post(&served, "/v1/trace", ONE_SPAN).await;
    assert_eq!((answer.status, answer.body.contains("never this")), (StatusCode::BAD_REQUEST, true));
    let answer = post(&served, "/v1/trace", &" ".repeat((1 << 20) + 1)).await;
    assert_eq!(answer.status, StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!((served.refused(Reason::QueueFull), served.refused(Reason::Rejected)), (1, 1));
    assert_eq!(
        served.counts.requests_refused.get(),
        1,
        "the body that nobody read is the only one without items"
    );
    let metrics = r#"{"node":{},"metrics":[{"timeseries":[{"points":[{},{}]}]}]}"#;
    assert_eq!(post(&served, "/v1/metrics", metrics).await.status, StatusCode::OK);
    assert_eq!(served.counts.dropped.of(Signal::Metrics, Reason::NoPipeline).get(), 2);
    served.end().await;
}

/// Scenario: wrong paths, methods and types.
/// Guarantees: each is told what is there; a page cannot send text that happens to be JSON without being asked for leave.
#[tokio::test]
async fn what_is_not_there_is_told() {
    let served = serve(&Scripted::saying([]));
    let answer = post(&served, "/v1/traces", ONE_SPAN).await;
    assert_eq!((answer.status, answer.body.contains("OTLP/HTTP")), (StatusCode::NOT_FOUND, true));
    assert_eq!(post(&served, "/", ONE_SPAN).await.status, StatusCode::NOT_FOUND);
    let answer = send(&served, Method::GET, "/v1/trace", &[], "").await;
    assert_eq!((answer.status, answer.header("allow")), (StatusCode::METHOD_NOT_ALLOWED, Some("POST")));
    for of_type in ["text/plain", "application/x-protobuf"] {
        let answer = send(&served, Method::POST, "/v1/trace", &[("content-type", of_type)], ONE_SPAN).await;
        assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    }
    let answer = send(&served, Method::POST, "/v1/trace", &[("content-type", "application/grpc")], "").await;
    assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "gRPC needs HTTP/2");
    served.end().await;
}

/// Scenario: requests without a content type: of a page (`fetch` with `no-cors` and a blob without a type, which browsers
/// send unasked), of one whose browser hides where it is from, of a page that may send, and of a program.
/// Guarantees: a program is served; a page has to say that it sends JSON, which its browser lets it after asking us only.
#[tokio::test]
async fn a_page_cannot_send_unasked_by_leaving_the_content_type_out() {
    let consumer = Scripted::saying([]);
    let page = "https://shop.example";
    let cors = CorsConfig { allowed_origins: vec![page.to_owned()], ..CorsConfig::default() };
    for cors in [None, Some(cors)] {
        let served = serve_with(Config { cors, ..config() }, Pipelines::all(consumer.clone()));
        for headers in [
            &[("origin", page)][..],
            &[("origin", "null")],
            &[("sec-fetch-site", "cross-site")],
            &[("origin", page), ("sec-fetch-site", "same-site"), ("sec-fetch-mode", "no-cors")],
        ] {
            let answer = send(&served, Method::POST, "/v1/trace", headers, ONE_SPAN).await;
            assert_eq!(answer.status, StatusCode::UNSUPPORTED_MEDIA_TYPE, "{headers:?}");
        }
        assert_eq!((served.accepted(), consumer.seen()), (0, 0));
        let answer = send(&served, Method::POST, "/v1/trace", &[], ONE_SPAN).await;
        assert_eq!((answer.status, served.accepted()), (StatusCode::OK, 1));
        consumer.arrivals.lock().unwrap().clear();
        served.end().await;
    }
}

/// Scenario: pages of an allowed and of another origin ask first, and send (`TestTraceGrpcGatewayCors_endToEnd`); then
/// there is no CORS at all.
/// Guarantees: only the allowed origin is let in, and without a configuration OPTIONS is a method like any other.
#[tokio::test]
async fn cors_is_by_configuration() {
    let consumer = Scripted::saying([]);
    let cors =
        CorsConfig { allowed_origins: vec!["https://allowed-*.com".to_owned()], ..CorsConfig::default() };
    let served = serve_with(Config { cors: Some(cors), ..config() }, Pipelines::all(consumer.clone()));
    for (origin, is_allowed) in
        [("https://allowed-origin.com", true), ("https://disallowed-origin.com", false)]
    {
        let asks = [("origin", origin), ("access-control-request-method", "POST")];
        for path in ["/v1/trace", "/v1/metrics"] {
            let answer = send(&served, Method::OPTIONS, path, &asks, "").await;
            assert_eq!(answer.status, StatusCode::NO_CONTENT);
            assert_eq!(answer.header("access-control-allow-origin"), is_allowed.then_some(origin));
            assert_eq!(answer.header("access-control-allow-methods"), is_allowed.then_some("POST"));
        }
        let answer = send(&served, Method::POST, "/v1/trace", &[JSON, ("origin", origin)], ONE_SPAN).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.header("access-control-allow-origin"), is_allowed.then_some(origin));
    }
    served.end().await;
    let served = serve(&Scripted::saying([]));
    let asks = [("origin", "https://allowed-origin.com"), ("access-control-request-method", "POST")];
    let answer = send(&served, Method::OPTIONS, "/v1/trace", &asks, "").await;
    assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
    served.end().await;
}
