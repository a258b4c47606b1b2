//! What comes in over HTTP, and what is answered.

use prometheusremotewrite_receiver::PrometheusRemoteWriteReceiver;
use weir_exposition::Kind;
use weir_guest::{Answer, HttpReceiver, Plugin, Received, Request, Response, Signal, delivery, settings};
use weir_remote_write::{Series, Version, Writer};

use crate::mapping::series;

pub(crate) fn receiver() -> PrometheusRemoteWriteReceiver {
    let settings = settings::read("{}").expect("good settings");
    PrometheusRemoteWriteReceiver::configure(settings).unwrap_or_else(|faults| panic!("{faults:?}"))
}

fn body(series: &[Series<'_>], version: Version) -> Vec<u8> {
    let mut writer = Writer::new(version);
    series.iter().for_each(|series| writer.series(series));
    writer.into_body().expect("small")
}

fn request(headers: &[(&str, &str)], body: Vec<u8>) -> Request {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    Request { method: "POST".into(), target: "/api/v1/write".into(), headers, body }
}

fn reply(request: Request) -> Response {
    match receiver().receive("http", request) {
        Answer::Reply(response) => response,
        Answer::Telemetry(received) => panic!("{received:?}"),
    }
}

fn received(request: Request) -> Received {
    match receiver().receive("http", request) {
        Answer::Telemetry(received) => received,
        Answer::Reply(response) => panic!("{} {}", response.status, String::from_utf8_lossy(&response.body)),
    }
}

const V2: (&str, &str) = ("content-type", "application/x-protobuf;proto=io.prometheus.write.v2.Request");

fn written(response: &Response) -> [Option<&str>; 3] {
    ["Samples", "Histograms", "Exemplars"]
        .map(|what| delivery::header(&response.headers, &format!("X-Prometheus-Remote-Write-{what}-Written")))
}

/// Scenario: a good request of each version, with the headers of today, of yesterday and none.
/// Guarantees: one batch of metrics, 204; 2.0 is told how much was written, also where it is refused for now.
#[test]
fn a_good_request_is_taken() {
    let all = [series(Kind::Gauge, &[("__name__", "m")], &[1.0])];
    for headers in [
        &[][..],
        &[("Content-Type", "application/x-protobuf"), ("Content-Encoding", "snappy")],
        &[
            ("content-type", "application/x-protobuf; proto=prometheus.WriteRequest"),
            ("content-encoding", "Snappy"),
        ],
    ] {
        let received = received(request(headers, body(&all, Version::V1)));
        assert_eq!((received.batches.len(), received.rejected), (1, 0));
        assert_eq!(received.batches[0].signal, Signal::Metrics);
        assert_eq!((received.accepted.status, received.refused.status), (204, 503));
        assert_eq!(written(&received.accepted), [None; 3]);
    }
    let received = received(request(&[V2, ("content-encoding", "snappy")], body(&all, Version::V2)));
    assert_eq!(received.accepted.status, 204);
    assert_eq!(written(&received.accepted), [Some("1"), Some("0"), Some("0")]);
    assert_eq!(written(&received.refused), [Some("0"); 3]);
}

/// Scenario: a request of which one series has no name; one in which none has.
/// Guarantees: the rest is taken, the answer is 400 with the reason and how much was written; nothing taken is counted too.
#[test]
fn a_partly_good_request_is_taken_and_answered_with_400() {
    let good = series(Kind::Gauge, &[("__name__", "m")], &[1.0]);
    let bad = series(Kind::Gauge, &[("job", "j")], &[1.0]);
    let partly = received(request(&[V2], body(&[bad.clone(), good], Version::V2)));
    assert_eq!((partly.batches.len(), partly.rejected, partly.accepted.status), (1, 1, 400));
    assert_eq!(written(&partly.accepted), [Some("1"), Some("0"), Some("0")]);
    let text = String::from_utf8_lossy(&partly.accepted.body);
    assert_eq!(text, "1 samples and histograms are not valid, 1 are taken: a series has no __name__ (1)\n");
    let none = received(request(&[], body(&[bad], Version::V1)));
    assert_eq!((none.rejected, none.accepted.status), (1, 400));
    assert!(none.batches.iter().all(|batch| batch.body.is_empty() && batch.signal == Signal::Metrics));
}

/// Scenario: other paths, methods, content types, encodings; no block, no message, nothing at all; an empty request.
/// Guarantees: the status that senders expect, with a text that says what is wrong; the empty request is taken.
#[test]
fn what_is_not_remote_write_is_refused() {
    let good = || body(&[series(Kind::Gauge, &[("__name__", "m")], &[1.0])], Version::V1);
    let with = |method: &str, target: &str| Request {
        method: method.into(),
        target: target.into(),
        ..request(&[], good())
    };
    assert_eq!(reply(with("POST", "/")).status, 404);
    assert_eq!(reply(with("POST", "/api/v1/write/")).status, 404);
    let get = reply(with("GET", "/api/v1/write?x=y"));
    assert_eq!((get.status, delivery::header(&get.headers, "allow")), (405, Some("POST")));
    for headers in [
        [("content-type", "application/json")],
        [("content-type", "application/x-protobuf;proto=other")],
        [("content-type", "")],
        [("content-encoding", "gzip")],
    ] {
        assert_eq!(reply(request(&headers, good())).status, 415, "{headers:?}");
    }
    for body in [b"".to_vec(), b"not snappy".to_vec(), b"\xff\x06\x00\x00sNaPpY".to_vec()] {
        let refused = reply(request(&[], body));
        assert_eq!(refused.status, 400);
        assert!(refused.body.starts_with(b"snappy: corrupt input"));
    }
    let no_message = weir_remote_write::snappy::encode(b"\x0a\x7f").expect("small");
    let refused = reply(request(&[], no_message));
    assert_eq!((refused.status, refused.body.starts_with(b"malformed protobuf at byte 0")), (400, true));
    let empty = reply(request(&[V2], body(&[], Version::V2)));
    assert_eq!((empty.status, written(&empty)), (204, [Some("0"); 3]));
    assert_eq!(reply(request(&[], body(&[], Version::V1))).status, 204);
}

/// Scenario: a path of one's own, and one that is none.
/// Guarantees: the first is written to; the second is a fault of the settings.
#[test]
fn the_path_can_be_set() {
    let settings = settings::read(r#"{"endpoint": "0.0.0.0:1", "path": "/push"}"#).expect("good settings");
    let mut receiver =
        PrometheusRemoteWriteReceiver::configure(settings).unwrap_or_else(|faults| panic!("{faults:?}"));
    let target = Request { target: "/push".into(), ..request(&[], body(&[], Version::V1)) };
    assert!(matches!(receiver.receive("http", target), Answer::Reply(Response { status: 204, .. })));
    let settings = settings::read(r#"{"path": "push"}"#).expect("read");
    let faults = PrometheusRemoteWriteReceiver::configure(settings).err().expect("a fault");
    assert_eq!(faults[0].at, "/path");
}
