//! A backend for lines of text, under any path.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;

use super::answer::{ReplyBody, http_reply};
use super::backend::Backend;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct LineArrival {
    /// Where to.
    pub path: String,
    /// Its body.
    pub lines: Vec<String>,
    /// When it was there whole.
    pub at: Instant,
    /// The answer.
    pub status: StatusCode,
}

/// What a backend for lines says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LineAnswer {
    /// The status.
    pub status: StatusCode,
    /// `Retry-After`, in whole seconds.
    pub retry_after: Option<Duration>,
}

type Rule = Arc<dyn Fn(&LineArrival) -> LineAnswer + Send + Sync>;

struct Shared {
    rule: Mutex<Rule>,
    arrivals: Mutex<Vec<LineArrival>>,
}

/// A backend for lines of text. It takes everything until it is told otherwise.
pub struct LineSink {
    shared: Arc<Shared>,
    backend: Backend,
}

impl std::fmt::Debug for LineSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LineSink").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl From<StatusCode> for LineAnswer {
    fn from(status: StatusCode) -> Self {
        Self { status, retry_after: None }
    }
}

impl LineSink {
    /// Starts on a free port.
    pub async fn start() -> Self {
        let rule: Rule = Arc::new(|_| StatusCode::NO_CONTENT.into());
        let shared = Arc::new(Shared { rule: Mutex::new(rule), arrivals: Mutex::default() });
        let for_requests = Arc::clone(&shared);
        let backend = Backend::start(Arc::new(move |request| {
            let shared = Arc::clone(&for_requests);
            Box::pin(async move { shared.answer(request).await })
        }));
        Self { backend: backend.await, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.backend.address()
    }

    /// From now on it answers by this rule.
    pub fn answer(&self, rule: impl Fn(&LineArrival) -> LineAnswer + Send + Sync + 'static) {
        *self.shared.rule.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(rule);
    }

    /// Every request so far.
    pub fn arrivals(&self) -> Vec<LineArrival> {
        self.shared.arrivals().clone()
    }

    /// The lines that it took under this path.
    pub fn lines(&self, path: &str) -> Vec<String> {
        let arrivals = self.shared.arrivals();
        let taken = arrivals.iter().filter(|arrival| arrival.path == path && arrival.status.is_success());
        taken.flat_map(|arrival| arrival.lines.clone()).collect()
    }
}

impl Shared {
    fn arrivals(&self) -> MutexGuard<'_, Vec<LineArrival>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (head, body) = request.into_parts();
        let Ok(body) = body.collect().await else {
            return http_reply(StatusCode::BAD_REQUEST, "text/plain", "the body broke off".into());
        };
        let text = String::from_utf8(body.to_bytes().into());
        let (Method::POST, Ok(text)) = (head.method, text) else {
            return http_reply(StatusCode::BAD_REQUEST, "text/plain", "no text that was posted".into());
        };
        let mut arrival = LineArrival {
            path: head.uri.path().to_owned(),
            // Not `lines`, which would take a carriage return for a part of the end.
            lines: text.split_terminator('\n').map(str::to_owned).collect(),
            at: Instant::now(),
            status: StatusCode::NO_CONTENT,
        };
        let rule = Arc::clone(&self.rule.lock().unwrap_or_else(PoisonError::into_inner));
        let LineAnswer { status, retry_after } = rule(&arrival);
        arrival.status = status;
        self.arrivals().push(arrival);
        let mut response = http_reply(status, "text/plain", Bytes::new());
        if let Some(after) = retry_after {
            response.headers_mut().insert("retry-after", HeaderValue::from(after.as_secs()));
        }
        response
    }
}
