//! OTLP over HTTP: `POST /v1/traces`, `/v1/metrics` and `/v1/logs`, in protobuf or JSON, answered in the same.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use weir_model::{BoxFuture, Claim, Signal};
use weir_net::ReplyBody;
use weir_net::body::{discard, read_decoded};
use weir_net::budget;
use weir_net::grpc::Code;
use weir_net::limits::BodyLimits;
use weir_net::listen::{Handler, Peer};
use weir_net::reply::text;
use weir_wire::json::{JsonLimits, to_protobuf};

use crate::cors::Cors;
use crate::intake::Intake;
use crate::reply::{self, Failure, Form};

/// A refused body is read on for so many times the limit before the connection is given up: a sender that still
/// writes reads its answer only when it has finished.
const DISCARD_FACTOR: usize = 4;

/// Answers the three paths.
pub(crate) struct HttpDoor {
    intake: Arc<Intake>,
    limits: BodyLimits,
    cors: Cors,
}

impl HttpDoor {
    pub(crate) fn new(intake: Arc<Intake>, limits: BodyLimits, cors: Cors) -> Self {
        Self { intake, limits, cors }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<ReplyBody> {
        let (head, mut body) = request.into_parts();
        if let Some(answer) = self.cors.preflight(&head.method, &head.headers) {
            return answer;
        }
        let mut response = self.answer_to(&head, &mut body).await;
        if !response.status().is_success() {
            discard(
                &head.headers,
                &mut body,
                self.limits.bytes_max.saturating_mul(DISCARD_FACTOR),
                &self.limits,
            )
            .await;
        }
        self.cors.mark(&head.headers, &mut response);
        response
    }

    async fn answer_to(&self, head: &Parts, body: &mut Incoming) -> Response<ReplyBody> {
        let Some(signal) = signal_of(head.uri.path()) else {
            return text(
                StatusCode::NOT_FOUND,
                "404 not found, supported: [/v1/traces, /v1/metrics, /v1/logs]\n",
            );
        };
        if head.method != Method::POST {
            let mut refused =
                text(StatusCode::METHOD_NOT_ALLOWED, "405 method not allowed, supported: [POST]\n");
            refused.headers_mut().insert(header::ALLOW, HeaderValue::from_static("POST"));
            return refused;
        }
        let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let Some(form) = content_type.and_then(Form::named) else {
            return text(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "415 unsupported media type, supported: [application/json, application/x-protobuf]\n",
            );
        };
        self.intake.settings().counts.requests.add(1);
        match self.read(signal, form, head, body).await {
            Ok((body, claim)) => reply::over_http(signal, self.intake.take(signal, body, claim).await, form),
            Err(failure) => {
                self.intake.settings().counts.requests_refused.add(1);
                failure.respond(form)
            }
        }
    }

    /// The request's protobuf.
    async fn read(
        &self,
        signal: Signal,
        form: Form,
        head: &Parts,
        body: &mut Incoming,
    ) -> Result<(Bytes, Claim), Failure> {
        self.intake.admits(signal).map_err(|refusal| Failure::of_refusal(&refusal))?;
        let ledger = &self.intake.settings().ledger;
        let read = read_decoded(&head.headers, body, &self.limits, ledger).await;
        let (body, claim) = read.map_err(|error| Failure::of_body(&error))?;
        match form {
            Form::Protobuf => Ok((body, claim)),
            Form::Json => {
                // Protobuf is shorter than its JSON but for lists of zeros; what it really takes is claimed below.
                let no_memory = |error: weir_model::Exhausted| Failure::for_now(error.to_string(), None);
                let mut paid = budget::claim(ledger, body.len() as u64).map_err(no_memory)?;
                // A stack trace may be long; the body's own limit bounds it.
                let limits = JsonLimits { string_bytes_max: body.len() };
                let message = to_protobuf(signal, &body, &limits).map_err(|error| {
                    Failure::for_good(
                        StatusCode::BAD_REQUEST,
                        Code::InvalidArgument,
                        format!("the body is no OTLP/JSON: {error}"),
                    )
                })?;
                let length = message.capacity() as u64;
                paid.shrink_to(length);
                let more = length.saturating_sub(paid.bytes());
                budget::grow(ledger, &mut paid, more).map_err(no_memory)?;
                Ok((Bytes::from(message), paid))
            }
        }
    }
}

impl Handler for HttpDoor {
    fn handle(
        self: Arc<Self>,
        request: Request<Incoming>,
        _peer: Arc<Peer>,
    ) -> BoxFuture<'static, Response<ReplyBody>> {
        Box::pin(async move { self.answer(request).await })
    }
}

/// The signal that a path takes.
fn signal_of(path: &str) -> Option<Signal> {
    match path {
        "/v1/traces" => Some(Signal::Traces),
        "/v1/metrics" => Some(Signal::Metrics),
        "/v1/logs" => Some(Signal::Logs),
        _ => None,
    }
}
