//! Paths, methods, content types, answers.

use weir_guest::{Answer, HttpReceiver, Plugin, Request, Response, Signal, delivery, settings};
use zipkin_receiver::ZipkinReceiver;

const V2: &str = r#"[{"traceId":"1","id":"2"}]"#;

fn receive(method: &str, target: &str, content_type: Option<&str>, body: &[u8]) -> Answer {
    let headers = content_type.map(|value| ("Content-Type".to_owned(), value.to_owned()));
    let request = Request {
        method: method.into(),
        target: target.into(),
        headers: headers.into_iter().collect(),
        body: body.to_vec(),
    };
    let settings = settings::read("{}").expect("good settings");
    let Ok(mut receiver) = ZipkinReceiver::configure(settings) else { panic!("not configured") };
    receiver.receive("http", request)
}

fn reply(answer: Answer) -> Response {
    match answer {
        Answer::Reply(response) => response,
        Answer::Telemetry(received) => panic!("{received:?}"),
    }
}

/// Scenario: spans with every content type that senders use.
/// Guarantees: one batch of traces; 202 with nothing once taken, 503 when refused.
#[test]
fn spans_are_taken_whatever_the_content_type_says_of_json() {
    for content_type in
        [None, Some("application/json"), Some("Application/JSON; charset=utf-8"), Some("text/plain")]
    {
        let Answer::Telemetry(received) = receive("POST", "/api/v2/spans?x=y", content_type, V2.as_bytes())
        else {
            panic!("not taken");
        };
        assert_eq!((received.batches.len(), received.rejected), (1, 0));
        assert_eq!(received.batches[0].signal, Signal::Traces);
        assert_eq!((received.accepted.status, received.accepted.body.len()), (202, 0));
        assert_eq!(received.refused.status, 503);
    }
    let v1 = receive("POST", "/api/v1/spans", Some("application/json"), V2.as_bytes());
    assert!(matches!(v1, Answer::Telemetry(_)));
    let protobuf = b"\x0a\x06\x0a\x01\x01\x1a\x01\x02";
    for content_type in ["application/x-protobuf", "application/x-protobuf; x=y", "application/protobuf"] {
        assert!(matches!(
            receive("POST", "/api/v2/spans", Some(content_type), protobuf),
            Answer::Telemetry(_)
        ));
    }
}

/// Scenario: no body, an empty list, in each spelling.
/// Guarantees: 202 at once, no batch.
#[test]
fn nothing_is_taken_too() {
    for (target, content_type, body) in [
        ("/api/v2/spans", None, ""),
        ("/api/v2/spans", None, "[]"),
        ("/api/v2/spans", Some("application/x-protobuf"), ""),
        ("/api/v1/spans", None, "[]"),
    ] {
        let response = reply(receive("POST", target, content_type, body.as_bytes()));
        assert_eq!((response.status, response.body.len()), (202, 0));
    }
}

/// Scenario: faults of the request and of its body.
/// Guarantees: the status that says whose fault it is, and a text that says what to do.
#[test]
fn what_is_wrong_is_answered_with_a_text() {
    let cases = [
        (receive("POST", "/api/v2/spans", None, b"x"), 400, "Expected a JSON_V2 encoded list\n"),
        (receive("POST", "/api/v1/spans", None, b"x"), 400, "Expected a JSON_V1 encoded list\n"),
        (
            receive("POST", "/api/v2/spans", None, b"[{}]"),
            400,
            "Missing : traceId id reading List<Span> from json",
        ),
        (
            receive("POST", "/api/v1/spans", Some("application/x-thrift"), b"[]"),
            400,
            "Expected a THRIFT encoded list\n",
        ),
        (receive("GET", "/api/v2/spans", None, b""), 405, "spans are sent with POST\n"),
        (receive("POST", "/", None, b""), 404, "spans are sent to /api/v2/spans or /api/v1/spans\n"),
        (receive("GET", "/health", None, b""), 200, "UP\n"),
    ];
    for (answer, status, text) in cases {
        let response = reply(answer);
        assert_eq!((response.status, String::from_utf8_lossy(&response.body).as_ref()), (status, text));
        assert_eq!(delivery::header(&response.headers, "content-type"), Some("text/plain; charset=utf-8"));
        assert_eq!(delivery::header(&response.headers, "allow").is_some(), status == 405);
    }
}

/// Scenario: the schema.
/// Guarantees: it is JSON, its default is the address of the settings, and it marks what the host binds.
#[test]
fn the_schema_marks_what_the_host_binds() {
    let schema: serde_json::Value =
        serde_json::from_str(ZipkinReceiver::describe().settings_schema).expect("JSON");
    let endpoint = &schema["properties"]["endpoint"];
    assert_eq!(endpoint["x-weir"], serde_json::json!({"listen": "http", "name": "http"}));
    let settings: zipkin_receiver::Settings = settings::read("{}").expect("good settings");
    assert_eq!(endpoint["default"], settings.endpoint);
    assert!(settings::read::<zipkin_receiver::Settings>(r#"{"endpiont":"x"}"#).is_err());
}
