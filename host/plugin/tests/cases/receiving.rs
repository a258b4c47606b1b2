//! A plugin as a receiver of HTTP requests.

use serde_json::{Value, json};
use weir_model::http::{Answer, Request};
use weir_model::{HttpReceiver as _, Reason, Refusal, Signal};
use weir_plugin::Part;

use super::Fixture;

async fn receive(fixture: &Fixture, settings: Value, method: &str) -> Result<Answer, Refusal> {
    let receiver = fixture.load("hostile").await.receiver(Part::new("hostile", settings)).unwrap();
    let request = Request {
        method: method.into(),
        target: "/api/v2/spans?x=1".into(),
        headers: vec![("content-type".into(), "application/json".into())],
        body: "telemetry".into(),
    };
    receiver.receive("main", request).await
}

/// Scenario: a request that holds telemetry, and one that does not.
/// Guarantees: batches, rejected items and both prepared answers come back; a reply is a reply.
#[tokio::test]
async fn a_request_becomes_telemetry_or_a_reply() {
    let fixture = Fixture::new();
    let Answer::Telemetry(received) = receive(&fixture, json!({"mode": "x"}), "POST").await.unwrap() else {
        panic!("no telemetry")
    };
    assert_eq!(received.batches, [(Signal::Traces, "telemetry".into())]);
    assert_eq!((received.rejected, received.accepted.status, received.refused.status), (2, 202, 503));
    assert_eq!(received.accepted.headers, [("x-listener".to_owned(), "main".to_owned())]);
    let Answer::Reply(reply) = receive(&fixture, json!({"mode": "x"}), "GET").await.unwrap() else {
        panic!("no reply")
    };
    assert_eq!((reply.status, &reply.body[..]), (404, &b"/api/v2/spans?x=1"[..]));
}

/// Scenario: a trap; a status that is none; a header that would split the response.
/// Guarantees: each is a transient refusal, nothing of the guest's reaches the sender.
#[tokio::test]
async fn a_bad_answer_is_a_transient_refusal() {
    let fixture = Fixture::new();
    for mode in ["panic", "odd-status", "odd-header"] {
        let Err(refusal) = receive(&fixture, json!({"mode": mode}), "POST").await else {
            panic!("{mode} was taken")
        };
        assert_eq!(refusal.reason(), Reason::PluginEnded, "{mode}");
        assert!(matches!(refusal, Refusal::Transient { .. }), "{mode}");
    }
}
