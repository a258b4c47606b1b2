//! A backend for requests of any kind, whose bodies stay bytes.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;

use super::answer::http_reply;
use super::backend::Backend;

/// One request as it came.
#[derive(Debug, Clone)]
pub struct RequestArrival {
    /// Its method.
    pub method: Method,
    /// Where to.
    pub path: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

/// A backend that answers every request with the next of some codes, then with 202.
pub struct RequestSink {
    arrivals: Arc<Mutex<Vec<RequestArrival>>>,
    backend: Backend,
}

impl std::fmt::Debug for RequestSink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RequestSink").field("address", &self.address()).finish_non_exhaustive()
    }
}

impl RequestSink {
    /// Starts on a free port.
    pub async fn start(codes: impl IntoIterator<Item = StatusCode>) -> Self {
        let arrivals: Arc<Mutex<Vec<RequestArrival>>> = Arc::default();
        let codes = Arc::new(Mutex::new(codes.into_iter().collect::<std::collections::VecDeque<_>>()));
        let kept = Arc::clone(&arrivals);
        let backend = Backend::start(Arc::new(move |request| {
            let (arrivals, codes) = (Arc::clone(&kept), Arc::clone(&codes));
            Box::pin(async move {
                let (head, body) = request.into_parts();
                let Ok(body) = body.collect().await else {
                    return http_reply(StatusCode::BAD_REQUEST, "text/plain", "the body broke off".into());
                };
                let arrival = RequestArrival {
                    method: head.method,
                    path: head.uri.path().to_owned(),
                    headers: head.headers,
                    body: body.to_bytes(),
                };
                arrivals.lock().unwrap_or_else(PoisonError::into_inner).push(arrival);
                let code = codes.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                http_reply(code.unwrap_or(StatusCode::ACCEPTED), "text/plain", Bytes::new())
            })
        }));
        Self { backend: backend.await, arrivals }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.backend.address()
    }

    /// Every request so far.
    pub fn arrivals(&self) -> Vec<RequestArrival> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
