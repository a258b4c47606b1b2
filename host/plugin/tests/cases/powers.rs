//! What a guest reaches: granted origins, and nothing through WASI.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use weir_model::{Exporter as _, Outcome};
use weir_plugin::{EndKind, Limits, Part};

use super::{Fixture, ended, push, short};

pub(super) type Seen = Arc<Mutex<Vec<(http::request::Parts, Bytes)>>>;

/// A backend on loopback that remembers requests, and answers by path.
pub(super) async fn backend(tasks: &mut JoinSet<()>) -> (String, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let seen = Seen::default();
    let shared = Arc::clone(&seen);
    tasks.spawn(async move {
        let mut served = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&shared);
            served.spawn(async move {
                let service = service_fn(move |request| answer(request, Arc::clone(&seen)));
                let builder = hyper::server::conn::http1::Builder::new();
                drop(builder.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    (origin, seen)
}

async fn answer(
    request: http::Request<Incoming>,
    seen: Seen,
) -> Result<http::Response<Full<Bytes>>, hyper::Error> {
    let (head, body) = request.into_parts();
    let path = head.uri.path().to_owned();
    let body = body.collect().await?.to_bytes();
    seen.lock().unwrap().push((head, body));
    match path.as_str() {
        "/never" => std::future::pending().await,
        "/moved" => {
            let moved = http::Response::builder().status(307).header("location", "http://169.254.169.254/");
            Ok(moved.body(Full::default()).unwrap())
        }
        "/long" => Ok(http::Response::new(Full::from(vec![b'x'; 2000]))),
        _ => Ok(http::Response::new(Full::default())),
    }
}

/// Scenario: the operator wrote an endpoint and a secret; the guest sends to that endpoint.
/// Guarantees: the backend sees the body and the secret in its header, the guest's own `host` is not sent, bytes are
/// counted, and the guest never saw the secret.
#[tokio::test]
async fn a_granted_request_arrives_with_the_secret_in_it() {
    let mut tasks = JoinSet::new();
    let (origin, seen) = backend(&mut tasks).await;
    let fixture = Fixture::new();
    let settings = json!({"mode": "send", "endpoint": format!("{origin}/x"), "key": "hunter2"});
    let exporter = fixture.hostile(settings, Limits::default()).await;
    assert_eq!(exporter.push(push("one")).await, Outcome::Accepted);
    let seen = seen.lock().unwrap();
    let (head, body) = &seen[0];
    assert_eq!(&body[..], b"body");
    assert_eq!(head.headers["authorization"], "Bearer hunter2");
    assert_eq!(format!("http://{}", head.headers["host"].to_str().unwrap()), origin);
    assert_eq!(exporter.counts().egress_bytes.get(), 4);
    assert_eq!(exporter.counts().denials.get(), 0);
}

/// Scenario: a guest asks for origins that nobody granted: by name, by address, by IPv6 with an IPv4 address in it, by another port.
/// Guarantees: it gets `denied` with the reason, nothing is sent, denials are counted.
#[tokio::test]
async fn an_ungranted_request_is_denied() {
    let mut tasks = JoinSet::new();
    let (origin, seen) = backend(&mut tasks).await;
    let fixture = Fixture::new();
    let targets = [
        "http://example.com/",
        "http://169.254.169.254/latest/meta-data",
        "http://[::ffff:169.254.169.254]/",
        "http://127.0.0.1:1/",
        "http://localhost:1/",
        "https://127.0.0.1/",
        "file:///etc/passwd",
        "not a url",
    ];
    for target in targets {
        let settings = json!({"mode": "send-elsewhere", "endpoint": origin, "target": target});
        let exporter = fixture.hostile(settings, Limits::default()).await;
        match exporter.push(push("one")).await {
            Outcome::Stopped(why) => {
                assert!(why.contains("is not granted; granted are: http://127.0.0.1:"), "{target}: {why}");
                assert_eq!(exporter.counts().denials.get(), 1);
            }
            Outcome::Retryable { message, .. } => assert!(message.contains("Other"), "{target}: {message}"),
            other => panic!("{target}: {other:?}"),
        }
    }
    assert!(seen.lock().unwrap().is_empty());
}

/// Scenario: metadata is granted by mistake; a granted backend redirects to it; the answer is too long; no answer comes.
/// Guarantees: the address is denied even so, the redirect is only an answer, limits hold, and a wait ends with `timeout` for the
/// guest, which is not ended for it.
#[tokio::test]
async fn a_grant_has_its_limits() {
    let mut tasks = JoinSet::new();
    let (origin, seen) = backend(&mut tasks).await;
    let fixture = Fixture::new();
    let limits =
        Limits { call_deadline: Duration::from_millis(300), response_bytes: 1000, ..Limits::default() };
    let send = async |endpoint: &str| {
        let exporter = fixture.hostile(json!({"mode": "send", "endpoint": endpoint}), limits.clone()).await;
        let outcome = exporter.push(push("one")).await;
        for kind in EndKind::ALL {
            assert_eq!(exporter.counts().ends.of(kind).get(), 0, "{endpoint}: {outcome:?}");
        }
        format!("{outcome:?}")
    };
    assert!(send("http://169.254.169.254/").await.contains("cloud metadata address, which is never reached"));
    assert!(send(&format!("{origin}/moved")).await.contains("status 307"));
    assert!(send(&format!("{origin}/long")).await.contains("ResponseTooLarge"));
    assert!(send(&format!("{origin}/never")).await.contains("Timeout"));
    assert_eq!(seen.lock().unwrap().len(), 3);
}

/// Scenario: a guest with a WASI asks for environment, arguments, folders, a socket, the clock and random numbers.
/// Guarantees: clock and random work, everything else is empty or denied; it asked for JSON and got it.
#[tokio::test]
async fn wasi_is_null() {
    let fixture = Fixture::new();
    let exporter = fixture.load("errand").await.exporter(Part::new("errand", json!({}))).unwrap();
    let Outcome::Permanent(found) =
        exporter.push(weir_model::Push { body: Bytes::new(), ..push("look") }).await
    else {
        panic!("no report")
    };
    assert_eq!(found, "environment 0 arguments 0 folders 0 socket false clock true random true body {}");
}

/// Scenario: a guest exits through WASI after writing to stderr; another sleeps there for an hour.
/// Guarantees: the first end shows its last words; the second is cut soon after the call deadline.
#[tokio::test]
async fn wasi_does_not_escape_the_deadlines() {
    let fixture = Fixture::new();
    let loaded = fixture.load("errand").await;
    let limits = Limits { call_deadline: Duration::from_millis(100), ..short() };
    let exporter = loaded.exporter(Part { limits, ..Part::new("errand", json!({})) }).unwrap();
    let body = Bytes::new();
    let (kind, message) = ended(exporter.push(weir_model::Push { body: body.clone(), ..push("exit") }).await);
    assert_eq!(kind, "exit", "{message}");
    assert!(message.contains("called exit(1)") && message.contains("it said: going home"), "{message}");
    let (kind, message) = ended(exporter.push(weir_model::Push { body, ..push("sleep") }).await);
    assert_eq!(kind, "call_deadline", "{message}");
    assert!(message.contains("took longer than call_deadline 100ms"), "{message}");
}
