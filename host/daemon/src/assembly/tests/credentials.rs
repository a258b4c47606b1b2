//! Every kind of `auth` that an exporter can have, before a backend that asks for one.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use tempfile::TempDir;
use weir_exporter::otlp::{Compression, Config, Otlp, Protocol};
use weir_model::{BoxFuture, Exporter as _, Ledger, Outcome, Push, Signal};
use weir_net::client::{Client, ClientSettings};
use weir_net::listen::{Bound, Handler, Peer, Settings};
use weir_net::roots::Trust;
use weir_net::{Drain, ReplyBody, reply};

use super::super::exporters::credential;
use crate::config::{Auth, Id, Kept, Located, Secret};

/// A backend of both protocols that takes what comes with this token, or from this user, and answers 401 to all others.
struct Backend;

impl Handler for Backend {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        _: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        let basic = format!("Basic {}", STANDARD.encode("weir:right"));
        let shown = request.headers().get("authorization").map(HeaderValue::as_bytes);
        let is_known = shown == Some(&b"Bearer right"[..]) || shown == Some(basic.as_bytes());
        Box::pin(async move {
            if !is_known {
                return reply::bare(StatusCode::UNAUTHORIZED);
            }
            let mut answer = reply::bare(StatusCode::OK);
            answer.headers_mut().insert("grpc-status", HeaderValue::from_static("0"));
            answer
        })
    }
}

fn push() -> Push {
    Push {
        signal: Signal::Traces,
        body: Bytes::new(),
        id: "1".to_owned(),
        attempt: 1,
        items: 1,
        places: None,
        searching: false,
    }
}

/// Scenario: exporters over gRPC and HTTP with no credential, with each kind of credential that is right, written down and in a file,
/// and with each that is wrong.
/// Guarantees: the right ones are taken; a wrong and a missing one are refused by the backend, and the batch is kept until an operator
/// acts, never lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_and_a_missing_credential_deliver_and_lose_nothing() {
    let folder = TempDir::with_prefix("weir-credentials-").expect("a folder");
    let bound = Bound::bind("127.0.0.1:0", Settings::default()).expect("an address");
    let addr = bound.local_addr();
    let serving = tokio::spawn(bound.serve(Arc::new(Backend), Drain::new()));
    let client = Client::new(ClientSettings::new(Ledger::new(64 << 20)));
    let in_file = |text: &str| {
        let path = folder.path().join(text);
        std::fs::write(&path, text).expect("our folder");
        Kept::File(Located::default_of(path))
    };
    let basic = |password| Auth::Basic { username: "weir".to_owned(), password };
    let here = |text: &str| Kept::Here(Secret::new(text));
    let cases = [
        (None, false),
        (Some(Auth::Bearer(here("wrong"))), false),
        (Some(Auth::Bearer(here("right"))), true),
        (Some(Auth::Bearer(in_file("wrong"))), false),
        (Some(Auth::Bearer(in_file("right"))), true),
        (Some(basic(here("wrong"))), false),
        (Some(basic(here("right"))), true),
        (Some(basic(in_file("wrong"))), false),
        (Some(basic(in_file("right"))), true),
    ];
    for (auth, is_right) in &cases {
        for protocol in [Protocol::Grpc, Protocol::Http] {
            let credential =
                auth.as_ref().map(|auth| credential(&Id::of("otlp"), auth).expect("it can be sent"));
            let config = Config {
                endpoint: format!("http://{addr}").parse().expect("a URL"),
                protocol,
                compression: Compression::None,
                headers: Vec::new(),
                credential,
                trust: Trust::default(),
                timeout: Duration::from_secs(20),
            };
            let outcome = Otlp::new(config, &client).expect("it is built").push(push()).await;
            match is_right {
                true => assert_eq!(outcome, Outcome::Accepted, "{auth:?}"),
                false => assert!(matches!(outcome, Outcome::Stopped(_)), "{auth:?}: {outcome:?}"),
            }
        }
    }
    serving.abort();
}
