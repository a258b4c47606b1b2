//! From a proof or a refusal to what each protocol says (DESIGN 1.2).
//!
//! | | taken | for now | for good |
//! |---|---|---|---|
//! | OTLP/gRPC | OK, with partial success | UNAVAILABLE and RetryInfo | INVALID_ARGUMENT |
//! | OTLP/HTTP | 200, with partial success | 503 and Retry-After | 400 |
//! | plugin over HTTP | the plugin's `accepted` | its `refused` and Retry-After | 400 |
//! | plugin over gRPC | the plugin's reply | UNAVAILABLE and RetryInfo | INVALID_ARGUMENT |
//! | plugin over UDP | nothing is said | nothing; it is gone | the same |
//!
//! Too large is RESOURCE_EXHAUSTED without a delay, and 413; no pipeline is UNIMPLEMENTED, and 404. Neither is worth
//! sending again.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use weir_model::{Reason, Receipt, Refusal, Signal};
use weir_net::ReplyBody;
use weir_net::body::BodyError;
use weir_net::decompress::DecompressError;
use weir_net::grpc::{self, Code, RETRY_AFTER_DEFAULT, Status};
use weir_net::reply::typed;
use weir_net::rpc_status;
use weir_wire::Encoder;
use weir_wire::json::Writer;

use crate::intake::{Partial, Verdict};

/// How OTLP's messages are encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Protobuf,
    Json,
}

impl Form {
    /// The content type that names it.
    pub(crate) fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }

    /// The form that a content type names.
    pub(crate) fn named(content_type: &str) -> Option<Self> {
        let name = content_type.split(';').next().unwrap_or_default().trim();
        if name.eq_ignore_ascii_case("application/x-protobuf")
            || name.eq_ignore_ascii_case("application/protobuf")
        {
            Some(Self::Protobuf)
        } else if name.eq_ignore_ascii_case("application/json") {
            Some(Self::Json)
        } else {
            None
        }
    }
}

// === OTLP/gRPC ===

/// The answer to an OTLP/gRPC request.
pub(crate) fn over_grpc(signal: Signal, verdict: Verdict) -> Response<ReplyBody> {
    match verdict {
        Verdict::Taken { proof, partial } => accepted_over_grpc(proof, signal, &partial),
        Verdict::Nothing { partial } => grpc::reply(&export_response(signal, &partial, Form::Protobuf)),
        Verdict::Refused(refusal) => grpc::refuse(&status_of(&refusal)),
    }
}

/// The only way to the success that a taken request is owed.
fn accepted_over_grpc(_proof: Receipt, signal: Signal, partial: &Partial) -> Response<ReplyBody> {
    grpc::reply(&export_response(signal, partial, Form::Protobuf))
}

/// A refusal in gRPC's words.
pub fn status_of(refusal: &Refusal) -> Status {
    let message = refusal.explain();
    match refusal {
        Refusal::Transient { retry_after, .. } => {
            grpc::retry_later(Code::Unavailable, message, retry_after.unwrap_or(RETRY_AFTER_DEFAULT))
        }
        Refusal::Permanent { reason: Reason::TooLarge, .. } => Status::resource_exhausted(message),
        Refusal::Permanent { reason: Reason::NoPipeline, .. } => Status::unimplemented(message),
        Refusal::Permanent { .. } => Status::invalid_argument(message),
    }
}

// === OTLP/HTTP ===

/// The answer to an OTLP/HTTP request, in the request's own encoding.
pub(crate) fn over_http(signal: Signal, verdict: Verdict, form: Form) -> Response<ReplyBody> {
    match verdict {
        Verdict::Taken { proof, partial } => accepted_over_http(proof, signal, &partial, form),
        Verdict::Nothing { partial } => export_reply(signal, &partial, form),
        Verdict::Refused(refusal) => Failure::of_refusal(&refusal).respond(form),
    }
}

/// The only way to the success that a taken request is owed.
fn accepted_over_http(_proof: Receipt, signal: Signal, partial: &Partial, form: Form) -> Response<ReplyBody> {
    export_reply(signal, partial, form)
}

fn export_reply(signal: Signal, partial: &Partial, form: Form) -> Response<ReplyBody> {
    typed(StatusCode::OK, form.content_type(), export_response(signal, partial, form))
}

/// Why an HTTP request failed, before it is put into bytes.
#[derive(Debug)]
pub struct Failure {
    /// HTTP's code.
    pub status: StatusCode,
    /// gRPC's code, which stands in the body of OTLP's answers.
    pub code: Code,
    /// For a person.
    pub message: String,
    /// How long to wait before the same request is worth sending again.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure that the same request will meet again.
    pub(crate) fn for_good(status: StatusCode, code: Code, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None }
    }

    /// A failure that the same request may not meet later.
    pub(crate) fn for_now(message: impl Into<String>, retry_after: Option<Duration>) -> Self {
        Self {
            status: StatusCode::SERVICE_UNAVAILABLE,
            code: Code::Unavailable,
            message: message.into(),
            retry_after: Some(retry_after.unwrap_or(RETRY_AFTER_DEFAULT)),
        }
    }

    /// A refusal in HTTP's words.
    pub fn of_refusal(refusal: &Refusal) -> Self {
        let message = refusal.explain();
        match refusal {
            Refusal::Transient { retry_after, .. } => Self::for_now(message, *retry_after),
            Refusal::Permanent { reason: Reason::TooLarge, .. } => {
                Self::for_good(StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, message)
            }
            Refusal::Permanent { reason: Reason::NoPipeline, .. } => {
                Self::for_good(StatusCode::NOT_FOUND, Code::Unimplemented, message)
            }
            Refusal::Permanent { .. } => {
                Self::for_good(StatusCode::BAD_REQUEST, Code::InvalidArgument, message)
            }
        }
    }

    /// A body that was not read, in HTTP's words.
    pub fn of_body(error: &BodyError) -> Self {
        let message = weir_model::explain(error);
        match error {
            BodyError::TooLarge { .. } | BodyError::Decompress(DecompressError::Bomb { .. }) => {
                Self::for_good(StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, message)
            }
            // OTLP's senders try again after 503 but not after 408, and a slow line is no reason to lose telemetry.
            BodyError::Exhausted(_) | BodyError::Slow(_) => Self::for_now(message, None),
            BodyError::UnknownEncoding(_) => {
                Self::for_good(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, message)
            }
            BodyError::Broken(_) | BodyError::Decompress(_) => {
                Self::for_good(StatusCode::BAD_REQUEST, Code::InvalidArgument, message)
            }
        }
    }

    /// As `google.rpc.Status`, in the encoding of the request (OTLP, "Failures").
    pub(crate) fn respond(&self, form: Form) -> Response<ReplyBody> {
        let body = match form {
            Form::Protobuf => rpc_status::encode(self.code as i32, &self.message, self.retry_after),
            Form::Json => status_json(self.code as i32, &self.message),
        };
        self.with_delay(typed(self.status, form.content_type(), body))
    }

    /// As a status of gRPC; with a delay it is worth sending again.
    pub(crate) fn as_status(&self) -> Status {
        match self.retry_after {
            Some(delay) => grpc::retry_later(self.code, &self.message, delay),
            None => Status::new(self.code, &self.message),
        }
    }

    /// As text, for protocols that have no form of their own for failures.
    pub fn respond_as_text(&self) -> Response<ReplyBody> {
        self.with_delay(weir_net::reply::text(self.status, format!("{}\n", self.message)))
    }

    fn with_delay(&self, mut response: Response<ReplyBody>) -> Response<ReplyBody> {
        if let Some(delay) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, retry_after(delay));
        }
        response
    }
}

/// A delay as HTTP says it: whole seconds, rounded up so that nobody comes too early, and never 0.
pub fn retry_after(delay: Duration) -> HeaderValue {
    let seconds = delay.as_secs() + u64::from(delay.subsec_nanos() > 0);
    HeaderValue::from(seconds.max(1))
}

// === messages ===

/// `Export{Traces,Metrics,Logs}ServiceResponse`.
///
/// ```text
/// response         partial_success = 1
/// partial_success  rejected_{spans,data_points,log_records} int64 = 1 · error_message string = 2
/// ```
fn export_response(signal: Signal, partial: &Partial, form: Form) -> Bytes {
    match form {
        Form::Protobuf if partial.is_none() => Bytes::new(),
        Form::Protobuf => {
            let mut response = Encoder::with_capacity(partial.message.len() + 16);
            response.message(1, |success| {
                success.nonzero_varint(1, u64::from(partial.rejected));
                success.nonempty_bytes(2, &partial.message);
            });
            Bytes::from(response.into_bytes())
        }
        Form::Json if partial.is_none() => Bytes::from_static(b"{}"),
        Form::Json => {
            let rejected = match signal {
                Signal::Traces => "rejectedSpans",
                Signal::Metrics => "rejectedDataPoints",
                Signal::Logs => "rejectedLogRecords",
            };
            let mut json = Writer::with_capacity(partial.message.len() + 80);
            json.raw(format!(r#"{{"partialSuccess":{{"{rejected}":"{}","errorMessage":"#, partial.rejected));
            json.string(&partial.message);
            json.raw("}}");
            Bytes::from(json.into_bytes())
        }
    }
}

/// `google.rpc.Status` in JSON. The delay stands in `Retry-After`.
fn status_json(code: i32, message: &str) -> Vec<u8> {
    let mut json = Writer::with_capacity(message.len() + 32);
    json.raw(format!(r#"{{"code":{code},"message":"#));
    json.string(message);
    json.raw("}");
    json.into_bytes()
}
