//! A plugin as a receiver: of HTTP requests, of datagrams, of gRPC calls.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};
use weir_model::http::{Answer, Request};
use weir_model::unary::{Call, Received, Status};
use weir_model::{DatagramReceiver, GrpcReceiver, HttpReceiver, Reason, Refusal, Signal};
use weir_plugin::{Limits, ListenKind, Part, PartError, PluginReceiver};

use super::loading::renamed;
use super::{Fixture, wasm};

async fn receive(fixture: &Fixture, settings: Value, method: &str) -> Result<Answer, Refusal> {
    let receiver = fixture.load("hostile").await.receiver(Part::new("hostile", settings)).unwrap();
    let request = Request {
        method: method.into(),
        target: "/api/v2/spans?x=1".into(),
        headers: vec![("content-type".into(), "application/json".into())],
        body: "telemetry".into(),
    };
    HttpReceiver::receive(&*receiver, "main", request).await
}

/// Doors for datagrams and for calls.
fn two_doors() -> Value {
    json!({"protocols": {"udp": {"endpoint": "127.0.0.1:0"}, "grpc": null}})
}

async fn keeper(fixture: &Fixture) -> Arc<PluginReceiver> {
    let loaded = fixture.load("keeper").await;
    assert_eq!(loaded.check_settings(&two_doors(), &Limits::default()).await, []);
    loaded.receiver(Part::new("keeper", two_doors())).unwrap()
}

type Taken = Result<Result<Vec<(Signal, Bytes)>, String>, Refusal>;

async fn datagram(receiver: &PluginReceiver, datagram: &'static [u8]) -> Taken {
    DatagramReceiver::receive(receiver, "udp", datagram.into()).await
}

async fn call(receiver: &PluginReceiver, method: &str) -> Result<Result<Received, Status>, Refusal> {
    let metadata = vec![("user-agent".to_owned(), "x".to_owned())];
    let call = Call { method: method.to_owned(), metadata, message: "span".into() };
    GrpcReceiver::receive(receiver, "grpc", call).await
}

fn is_ended(refused: &Result<impl Sized, Refusal>) -> bool {
    matches!(refused, Err(Refusal::Transient { reason: Reason::PluginEnded, .. }))
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

/// Scenario: datagrams that are telemetry, that are none, that end the guest, that become more than the host takes.
/// Guarantees: batches come back under the listener's name; why a datagram is none is tamed; the rest is refused for now.
#[tokio::test]
async fn a_datagram_becomes_telemetry_or_a_reason() {
    let fixture = Fixture::new();
    let receiver = keeper(&fixture).await;
    let batches = datagram(&receiver, b"span").await.unwrap().unwrap();
    assert_eq!(batches, [(Signal::Traces, "udp span".into())]);
    assert_eq!(datagram(&receiver, b"no").await.unwrap(), Err("not \\u{1b}[31mit".to_owned()));
    for bad in [&b"trap"[..], b"many", b"profiles"] {
        assert!(is_ended(&datagram(&receiver, bad).await), "{bad:?}");
    }
    assert_eq!(receiver.counts().instances.get(), 2, "only a trap ends one");
}

/// Scenario: calls that are telemetry, that are refused with statuses of gRPC and with others, that end the guest, whose
/// reply is as long as may be and a byte longer.
/// Guarantees: batches, rejected items and the reply come back; a status that is no error is INTERNAL, its text is tamed;
/// the rest is refused for now; one pool serves all doors of an id.
#[tokio::test]
async fn a_call_becomes_telemetry_or_a_status() {
    let fixture = Fixture::new();
    let receiver = keeper(&fixture).await;
    let Received { batches, rejected, reply } = call(&receiver, "/a.B/C").await.unwrap().unwrap();
    assert_eq!((batches, rejected), (vec![(Signal::Traces, "span".into())], 1));
    assert_eq!(&reply[..], br#"grpc /a.B/C [("user-agent", "x")]"#);
    for (given, told) in [(1, 1), (3, 3), (16, 16), (0, 13), (17, 13), (4_000_000_000_u32, 13)] {
        let status = call(&receiver, &format!("/status/{given}")).await.unwrap().unwrap_err();
        assert_eq!(status, Status { code: told, message: "b\\u{1b}ad".to_owned() });
    }
    assert_eq!(call(&receiver, "/reply/1048576").await.unwrap().unwrap().reply.len(), 1 << 20);
    assert!(is_ended(&call(&receiver, "/reply/1048577").await));
    datagram(&receiver, b"span").await.unwrap().unwrap();
    assert_eq!(receiver.counts().instances.get(), 1);
    assert!(is_ended(&call(&receiver, "/trap/now").await));
}

/// Scenario: a plugin without the HTTP interface, with settings that name doors for datagrams and calls, for HTTP, none,
/// or leave it to the schema, which has all three.
/// Guarantees: it is a receiver exactly where it has the interface of each door, and where there is one.
#[tokio::test]
async fn a_receiver_has_an_interface_for_each_of_its_doors() {
    let fixture = Fixture::new();
    let loaded = fixture.load("keeper").await;
    let kinds: Vec<ListenKind> =
        loaded.listeners(&two_doors()).into_iter().map(|listener| listener.kind).collect();
    assert_eq!(kinds.len(), 2, "{kinds:?}");
    for (settings, expected) in [
        (json!({"protocols": {"http": null}}), "plugin keeper is no http-receiver; it exports weir:plugin/"),
        (json!({}), "plugin keeper is no http-receiver"),
        (json!({"protocols": {}}), "no setting of plugin keeper names an address to listen on for keeper/a"),
    ] {
        let Err(error) = loaded.receiver(Part::new("keeper/a", settings.clone())) else {
            panic!("{settings} was taken")
        };
        assert!(error.to_string().contains(expected), "{error}");
    }
    let Err(PartError::Interface { wanted, .. }) =
        fixture.load("hostile").await.scraper(Part::new("hostile", json!({"mode": "x"})))
    else {
        panic!("it was taken")
    };
    assert_eq!(wanted, "scraper");
}

/// Scenario: other code that listens nowhere, that listens for another protocol, that names a door otherwise.
/// Guarantees: none of it serves, and the reason says why; the doors go on being served.
#[tokio::test]
async fn other_code_has_the_same_doors() {
    let fixture = Fixture::new();
    let receiver = keeper(&fixture).await;
    let path = fixture.folder.path().join("keeper.wasm");
    let other_name = renamed(
        wasm("keeper"),
        br#"{"listen": "udp", "name": "udp"}"#,
        br#"{"listen": "udp", "name": "upd"}"#,
    );
    for (code, expected) in [
        (wasm("errand"), "names an address to listen on"),
        (wasm("hostile"), "127.0.0.1:9411 (main, http), the sockets are bound on"),
        (&other_name[..], "127.0.0.1:0 (upd, udp), the sockets are bound on"),
    ] {
        std::fs::write(&path, code).unwrap();
        fixture.host.rescan().await;
        let slot = fixture.host.slots().pop().unwrap();
        let why = slot.refused.unwrap_or_else(|| panic!("it was taken"));
        assert!(why.contains(expected), "{why}");
        datagram(&receiver, b"span").await.unwrap().unwrap();
    }
}
