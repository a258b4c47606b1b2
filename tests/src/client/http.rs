//! HTTP/1.1 with bodies in one piece.

use std::net::SocketAddr;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

/// A client that keeps connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    inner: Client<HttpConnector, Full<Bytes>>,
}

impl Default for HttpClient {
    fn default() -> Self {
        Self { inner: Client::builder(TokioExecutor::new()).build_http() }
    }
}

impl HttpClient {
    /// One that makes a connection for each request: a kept one may end just when it is used again, which says nothing
    /// about who answers.
    pub fn of_fresh_connections() -> Self {
        Self { inner: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build_http() }
    }

    /// Sends a request whose URI is whole.
    ///
    /// # Errors
    /// Why there was no answer, or only a part of one.
    pub async fn send(&self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
        let broken = |error: &dyn std::error::Error| match error.source() {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
        let response = self.inner.request(request).await.map_err(|error| broken(&error))?;
        let (head, body) = response.into_parts();
        let body = body.collect().await.map_err(|error| broken(&error))?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    /// GET.
    ///
    /// # Errors
    /// As [`HttpClient::send`].
    pub async fn get(&self, address: SocketAddr, path: &str) -> Result<Response<Bytes>, String> {
        let request = Request::get(format!("http://{address}{path}")).body(Full::default());
        self.send(request.expect("a path that a test wrote")).await
    }

    /// POST of a body of this type.
    ///
    /// # Errors
    /// As [`HttpClient::send`].
    pub async fn post(
        &self,
        address: SocketAddr,
        path: &str,
        content_type: &str,
        body: impl Into<Bytes>,
    ) -> Result<Response<Bytes>, String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{address}{path}"))
            .header(CONTENT_TYPE, content_type)
            .body(Full::new(body.into()));
        self.send(request.expect("a path and a type that a test wrote")).await
    }
}
