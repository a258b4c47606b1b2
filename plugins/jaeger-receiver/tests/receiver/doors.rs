//! Paths, listeners, methods, content types, answers.

use jaeger_receiver::JaegerReceiver;
use jaeger_receiver::doors::Settings;
use serde_json::{Value, json};
use weir_guest::{
    Answer, DatagramReceiver, GrpcReceiver, HttpReceiver, Plugin, Request, Response, Signal, host, settings,
};
use weir_thrift::Protocol;

use crate::{encode, vectors};

fn receiver(written: &Value) -> JaegerReceiver {
    let settings: Settings = settings::read(&written.to_string()).expect("good settings");
    JaegerReceiver::configure(settings).map_err(|faults| format!("{faults:?}")).expect("good settings")
}

fn ask(
    receiver: &mut JaegerReceiver,
    listener: &str,
    method: &str,
    target: &str,
    content_type: &str,
    body: &[u8],
) -> Answer {
    let headers = vec![("Content-Type".to_owned(), content_type.to_owned())];
    let headers = if content_type.is_empty() { Vec::new() } else { headers };
    let request = Request { method: method.into(), target: target.into(), headers, body: body.to_vec() };
    HttpReceiver::receive(receiver, listener, request)
}

fn reply(answer: Answer) -> Response {
    match answer {
        Answer::Reply(response) => response,
        Answer::Telemetry(received) => panic!("{received:?}"),
    }
}

fn said(response: &Response) -> (u16, String) {
    (response.status, String::from_utf8(response.body.clone()).expect("text"))
}

fn some_batch(ids: &[i64]) -> Value {
    let spans: Vec<Value> = ids.iter().map(|id| json!({"traceIdLow": 1, "spanId": id})).collect();
    json!({"process": {"serviceName": "s"}, "spans": spans})
}

/// Scenario: batches with both content types, with parameters, with the query that Python's client sends; spans without ids.
/// Guarantees: one batch of traces, 202 once taken, 503 when refused; what is rejected is counted.
#[test]
fn a_batch_over_http_is_taken() {
    let mut receiver = receiver(&json!({}));
    let body = encode::batch(&some_batch(&[2, 0]));
    for content_type in ["application/x-thrift", "Application/Vnd.apache.thrift.binary; x=y"] {
        let target = "/api/traces?format=jaeger.thrift";
        let Answer::Telemetry(received) =
            ask(&mut receiver, "thrift_http", "POST", target, content_type, &body)
        else {
            panic!("not taken");
        };
        assert_eq!((received.batches.len(), received.rejected), (1, 1));
        assert_eq!(received.batches[0].signal, Signal::Traces);
        assert_eq!((said(&received.accepted), received.refused.status), ((202, String::new()), 503));
    }
    let none = encode::batch(&some_batch(&[]));
    let none = ask(&mut receiver, "thrift_http", "POST", "/api/traces", "application/x-thrift", &none);
    assert_eq!(said(&reply(none)), (202, String::new()));
}

/// Scenario: no content type, another one, no thrift, other methods and paths.
/// Guarantees: each is answered in the words of Jaeger's collector.
#[test]
fn what_is_wrong_is_answered_with_a_text() {
    let mut receiver = receiver(&json!({}));
    for (method, target, content_type, body, status, begins) in [
        ("POST", "/api/traces", "", &b""[..], 400, "Cannot parse content type: "),
        ("POST", "/api/traces", "application/json", b"{}", 400, "Unsupported content type: application/json"),
        ("POST", "/api/traces", "application/x-thrift", b"{}", 400, "Unable to process request body: "),
        ("GET", "/api/traces", "", b"", 405, "spans are sent with POST"),
        ("POST", "/", "", b"", 404, "spans are sent to /api/traces"),
        ("GET", "/api/sampling", "", b"", 400, "'service' parameter must be provided once"),
        (
            "GET",
            "/api/sampling?service=a&service=b",
            "",
            b"",
            400,
            "'service' parameter must be provided once",
        ),
    ] {
        let (found, text) =
            said(&reply(ask(&mut receiver, "thrift_http", method, target, content_type, body)));
        assert!(found == status && text.starts_with(begins), "{method} {target}: {found} {text}");
    }
}

/// Scenario: a datagram in each protocol at the door for it, and at the other's; a method for Zipkin's spans.
/// Guarantees: the first are taken; the others are refused in words.
#[test]
fn a_datagram_is_read_in_the_protocol_of_its_door() {
    let mut receiver = receiver(&json!({}));
    let batch = some_batch(&[2]);
    let datagram = |protocol| encode::message(&batch, protocol);
    for (listener, good, bad) in [
        ("thrift_compact", Protocol::Compact, Protocol::Binary),
        ("thrift_binary", Protocol::Binary, Protocol::Compact),
    ] {
        let taken = DatagramReceiver::receive(&mut receiver, listener, datagram(good));
        assert_eq!(taken.map(|batches| batches.len()), Ok(1));
        let refused = DatagramReceiver::receive(&mut receiver, listener, datagram(bad)).expect_err("refused");
        assert!(refused.starts_with("malformed thrift at byte 0: "), "{refused}");
    }
}

/// Scenario: datagrams in both protocols whose spans all have ids; then with two spans of three that have none; then one that is refused.
/// Guarantees: nobody can be told, so spans without ids are counted as dropped with their reason, and only they.
#[test]
fn spans_of_a_datagram_without_ids_are_counted() {
    let mut receiver = receiver(&json!({}));
    let counted = || host::counted("dropped_spans", &[("reason", "no_ids")]);
    for (listener, protocol) in [("thrift_compact", Protocol::Compact), ("thrift_binary", Protocol::Binary)] {
        let mut receive = |datagram| {
            let before = counted();
            let taken = DatagramReceiver::receive(&mut receiver, listener, datagram);
            (taken.map(|batches| batches.len()).ok(), counted() - before)
        };
        assert_eq!(receive(encode::message(&some_batch(&[1, 2]), protocol)), (Some(1), 0));
        assert_eq!(receive(encode::message(&some_batch(&[0, 2, 0]), protocol)), (Some(1), 2));
        assert_eq!(receive(encode::message(&some_batch(&[0]), protocol)), (Some(0), 1));
        assert_eq!(receive(b"noise".to_vec()), (None, 0));
    }
}

/// Scenario: a batch over gRPC, one with an odd id, a foreign method.
/// Guarantees: the first is taken and answered with an empty message; the others have their status.
#[test]
fn a_batch_over_grpc_is_taken() {
    let mut receiver = receiver(&json!({}));
    let mut call = |method: &str, batch: &Value| {
        GrpcReceiver::receive(&mut receiver, "grpc", method, &[], encode::request(batch))
    };
    let id = [0, 0, 0, 0, 0, 0, 0, 1];
    let post = "/jaeger.api_v2.CollectorService/PostSpans";
    let received = call(post, &json!({"spans": [{"trace_id": id, "span_id": id}, {}]})).expect("a batch");
    assert_eq!((received.batches.len(), received.rejected, received.reply), (1, 1, Vec::new()));
    let odd = call(post, &json!({"spans": [{"trace_id": [1], "span_id": id}]})).expect_err("an odd id");
    assert_eq!((odd.code, &*odd.message), (3, "invalid length for TraceID: 1"));
    assert_eq!(call("/other.Service/Call", &json!({})).expect_err("foreign").code, 12);
}

/// Scenario: nothing configured; Jaeger's own file of strategies; each service of it, one that it does not know, one whose
/// name is escaped.
/// Guarantees: everything is sampled where nothing is written; else the file means what it means to Jaeger.
#[test]
fn strategies_are_what_jaegers_file_means() {
    let answer = |receiver: &mut JaegerReceiver, service: &str| -> Value {
        let target = format!("/any/path?service={service}");
        let response = reply(ask(receiver, "sampling", "GET", &target, "", b""));
        assert_eq!(response.status, 200);
        let collectors = format!("/api/sampling?service={service}");
        assert_eq!(reply(ask(receiver, "thrift_http", "GET", &collectors, "", b"")), response);
        serde_json::from_slice(&response.body).expect("JSON")
    };
    let everything = json!({"strategyType": "PROBABILISTIC", "probabilisticSampling": {"samplingRate": 1}});
    assert_eq!(answer(&mut receiver(&json!({})), "a%20b"), everything);
    let Some(folder) = vectors::vectors() else { return };
    let file = std::fs::read(folder.join("upstream/operation_strategies.json")).expect("the file");
    let file: Value = serde_json::from_slice(&file).expect("JSON");
    let mut receiver = receiver(&json!({"strategies": file}));
    let operations = |probability: f64, each: &[(&str, f64)]| {
        let each = each.iter().map(|(operation, rate)| {
            json!({"operation": operation, "probabilisticSampling": {"samplingRate": rate}})
        });
        json!({"defaultSamplingProbability": probability, "defaultLowerBoundTracesPerSecond": 0,
            "perOperationStrategies": each.collect::<Vec<_>>()})
    };
    let told = |kind: &str, member: &str, of: Value, operations: Value| json!({"strategyType": kind, member: of, "operationSampling": operations});
    let rate = |rate: f64| json!({"samplingRate": rate});
    let number = |value: Value| value.to_string().replace(".0", "");
    for (service, expected) in [
        (
            "other",
            told(
                "PROBABILISTIC",
                "probabilisticSampling",
                rate(0.5),
                operations(0.5, &[("op0", 0.2), ("op6", 0.0), ("op7", 1.0)]),
            ),
        ),
        (
            "foo",
            told(
                "PROBABILISTIC",
                "probabilisticSampling",
                rate(0.8),
                operations(0.8, &[("op6", 0.5), ("op1", 0.2), ("op0", 0.2), ("op7", 1.0)]),
            ),
        ),
        (
            "bar",
            told(
                "RATE_LIMITING",
                "rateLimitingSampling",
                json!({"maxTracesPerSecond": 5}),
                operations(0.001, &[("op3", 0.3), ("op5", 0.4), ("op0", 0.2), ("op6", 0.0), ("op7", 1.0)]),
            ),
        ),
    ] {
        assert_eq!(number(answer(&mut receiver, service)), number(expected), "{service}");
    }
    let restrictions =
        reply(ask(&mut receiver, "sampling", "GET", "/baggageRestrictions?service=a", "", b""));
    assert_eq!(said(&restrictions), (200, "[]".into()));
    let request = [&[0x0a, 3][..], b"bar"].concat();
    let method = "/jaeger.api_v2.SamplingManager/GetSamplingStrategy";
    let told = GrpcReceiver::receive(&mut receiver, "grpc", method, &[], request).expect("a strategy");
    assert!(told.reply.starts_with(&[0x08, 1, 0x1a, 2, 0x08, 5, 0x22]), "{:x?}", told.reply);
}

/// Scenario: probabilities above one, rates that are none, a type with a typo, unknown keys.
/// Guarantees: each is a fault at its place.
#[test]
fn strategies_that_cannot_be_are_refused() {
    let fault = |written: Value| {
        let faults = match settings::read::<Settings>(&written.to_string()) {
            Ok(settings) => JaegerReceiver::configure(settings).err().expect("a fault"),
            Err(faults) => faults,
        };
        format!("{}: {}", faults[0].at, faults[0].message)
    };
    for (written, begins) in [
        (
            json!({"strategies": {"default_strategy": {"param": 2}}}),
            "/strategies/default_strategy/param: found 2, expected a probability",
        ),
        (
            json!({"strategies": {"service_strategies": [{"service": "a", "type": "ratelimiting", "param": 0.5}]}}),
            "/strategies/service_strategies/0/param: found 0.5, expected a whole number",
        ),
        (
            json!({"strategies": {"service_strategies": [{"service": "a", "param": 1, "operation_strategies": [{"operation": "o", "param": -1}]}]}}),
            "/strategies/service_strategies/0/operation_strategies/0/param: found -1",
        ),
        (
            json!({"strategies": {"default_strategy": {"type": "probabilstic"}}}),
            "/strategies/default_strategy/type: unknown variant",
        ),
        (json!({"protocols": {"thrift": {}}}), "/protocols/thrift: unknown key"),
    ] {
        let fault = fault(written);
        assert!(fault.starts_with(begins), "{fault}");
    }
}
