//! A process without free descriptors. Alone in its binary, because the limit is the process's.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use weir_model::BoxFuture;
use weir_net::listen::{Bound, Handler, Peer, Settings};
use weir_net::reply::text;
use weir_net::{Drain, ReplyBody};

/// Descriptors of the test process: enough for the runtime and a few connections.
const DESCRIPTORS_MAX: u64 = 40;

struct Hello;

impl Handler for Hello {
    fn handle(
        self: Arc<Self>,
        _: Request<Incoming>,
        _: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        Box::pin(async { text(StatusCode::OK, "hello") })
    }
}

/// Scenario: clients take every descriptor of the process, so that accept fails (RUSTSEC-2024-0376), then leave.
/// Guarantees: the listener still accepts and answers.
#[tokio::test]
async fn a_listener_outlives_a_want_of_descriptors() {
    let bound = Bound::bind("127.0.0.1:0", Settings::default()).unwrap();
    let addr = bound.local_addr();
    let serving = tokio::spawn(bound.serve(Arc::new(Hello), Drain::new()));
    let hard = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS_MAX), maximum: hard }).unwrap();
    let mut clients = Vec::new();
    while let Ok(client) = TcpStream::connect(addr).await {
        clients.push(client);
        assert!(clients.len() < 2 * DESCRIPTORS_MAX as usize, "descriptors never run out");
        // Lets the server take the other end.
        tokio::task::yield_now().await;
    }
    assert!(!serving.is_finished());
    clients.truncate(2);
    let answered = timeout(Duration::from_secs(20), async {
        loop {
            let Ok(mut client) = TcpStream::connect(addr).await else {
                continue;
            };
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            let mut said = String::new();
            client.read_to_string(&mut said).await.unwrap();
            return said;
        }
    });
    assert!(answered.await.expect("the listener accepts no more").ends_with("hello"));
}
