//! A Zipkin backend that remembers what it was sent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde_json::Value;
use tokio::sync::watch;
use weir_model::BoxFuture;
use weir_net::ReplyBody;
use weir_net::listen::{Handler, Peer};
use weir_net::reply::{bare, text};

/// Bytes of a request at most.
const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Spans of the demo that are remembered by name; those of the throughput part are only counted.
const REMEMBERED_MAX: usize = 64;

/// A span as it came.
#[derive(Debug, Clone)]
pub(super) struct Arrived {
    /// When its request was whole.
    pub(super) at: Instant,
    /// As JSON.
    pub(super) json: String,
}

/// The backend.
#[derive(Debug)]
pub(super) struct Backend {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct State {
    spans: u64,
    named: BTreeMap<String, Arrived>,
}

impl Default for Backend {
    fn default() -> Self {
        Self { state: Mutex::default(), changed: watch::Sender::new(()) }
    }
}

impl Backend {
    /// Spans that have arrived.
    pub(super) fn spans(&self) -> u64 {
        self.state().spans
    }

    /// Returns when a span of this name has arrived.
    pub(super) async fn wait_for(&self, name: &str) -> Arrived {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(arrived) = self.state().named.get(name) {
                return arrived.clone();
            }
            changed.changed().await.expect("the sender is in self");
        }
    }

    /// Returns when so many spans have arrived.
    pub(super) async fn wait_for_count(&self, spans: u64) {
        let mut changed = self.changed.subscribe();
        while self.spans() < spans {
            changed.changed().await.expect("the sender is in self");
        }
    }

    fn take(&self, body: &[u8]) -> Result<(), serde_json::Error> {
        let at = Instant::now();
        let spans: Vec<Value> = serde_json::from_slice(body)?;
        let mut state = self.state();
        state.spans += spans.len() as u64;
        for span in spans {
            let Some(name) = span.get("name").and_then(Value::as_str) else { continue };
            if state.named.len() < REMEMBERED_MAX {
                state.named.entry(name.to_owned()).or_insert_with(|| Arrived { at, json: span.to_string() });
            }
        }
        drop(state);
        self.changed.send_replace(());
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Handler for Backend {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        _: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        Box::pin(async move {
            if (request.method(), request.uri().path()) != (&Method::POST, "/api/v2/spans") {
                return text(StatusCode::NOT_FOUND, "expected POST /api/v2/spans\n");
            }
            match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
                Ok(body) => match self.take(&body.to_bytes()) {
                    Ok(()) => bare(StatusCode::ACCEPTED),
                    Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
                },
                Err(error) => text(StatusCode::BAD_REQUEST, error.to_string()),
            }
        })
    }
}
