//! What a backend answers, in the words of each protocol.

use std::convert::Infallible;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::Frame;
use prost::Message;
use weir_proto::google::rpc;

pub(crate) type ReplyBody = UnsyncBoxBody<Bytes, Infallible>;

/// What a backend says to a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// It has all of it.
    Take,
    /// It has it, less so many items that it will never take (OTLP only).
    TakePartly {
        /// How many.
        rejected: i64,
        /// Why.
        why: String,
    },
    /// Not now: UNAVAILABLE, 503.
    Later {
        /// With RetryInfo or Retry-After, in whole seconds over HTTP.
        retry_after: Option<Duration>,
    },
    /// Never: INVALID_ARGUMENT, 400.
    Never(String),
    /// Too large: RESOURCE_EXHAUSTED without RetryInfo, 413.
    TooLarge,
    /// Who are you: UNAUTHENTICATED, 401.
    Unauthorized,
    /// After this time, the other answer.
    After(Duration, Box<Answer>),
}

/// How a request came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// gRPC.
    Grpc,
    /// HTTP with protobuf.
    HttpProtobuf,
    /// HTTP with JSON.
    HttpJson,
}

impl Answer {
    /// Whether the items are the backend's now.
    pub fn takes(&self) -> bool {
        match self {
            Self::Take | Self::TakePartly { .. } => true,
            Self::Later { .. } | Self::Never(_) | Self::TooLarge | Self::Unauthorized => false,
            Self::After(_, then) => then.takes(),
        }
    }

    /// The answer to give, once its time has come.
    pub(crate) async fn due(self) -> Self {
        let mut answer = self;
        while let Self::After(time, then) = answer {
            tokio::time::sleep(time).await;
            answer = *then;
        }
        answer
    }

    /// In gRPC; `reply` is the message where it takes.
    pub(crate) fn over_grpc(&self, reply: &[u8]) -> Response<ReplyBody> {
        match self {
            Self::Take | Self::TakePartly { .. } | Self::After(..) => grpc_reply(reply),
            Self::Later { retry_after } => grpc_error(14, "come again", *retry_after),
            Self::Never(why) => grpc_error(3, why, None),
            Self::TooLarge => grpc_error(8, "too large", None),
            Self::Unauthorized => grpc_error(16, "who are you", None),
        }
    }

    /// In HTTP; `reply` is the body where it takes, with its status.
    pub(crate) fn over_http(
        &self,
        taken: StatusCode,
        content_type: &'static str,
        reply: Bytes,
    ) -> Response<ReplyBody> {
        let (status, body) = match self {
            Self::Take | Self::TakePartly { .. } | Self::After(..) => (taken, reply),
            Self::Later { .. } => (StatusCode::SERVICE_UNAVAILABLE, "come again".into()),
            Self::Never(why) => (StatusCode::BAD_REQUEST, Bytes::copy_from_slice(why.as_bytes())),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "too large".into()),
            Self::Unauthorized => (StatusCode::UNAUTHORIZED, "who are you".into()),
        };
        let mut response =
            http_reply(status, if status == taken { content_type } else { "text/plain" }, body);
        if let Self::Later { retry_after: Some(after) } = self {
            response.headers_mut().insert("retry-after", HeaderValue::from(after.as_secs().max(1)));
        }
        response
    }
}

pub(crate) fn http_reply(status: StatusCode, content_type: &'static str, body: Bytes) -> Response<ReplyBody> {
    let mut response = Response::new(Full::new(body).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert("content-type", HeaderValue::from_static(content_type));
    response
}

fn grpc_head(body: ReplyBody) -> Response<ReplyBody> {
    let mut response = Response::new(body);
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

fn grpc_reply(reply: &[u8]) -> Response<ReplyBody> {
    let mut framed = BytesMut::with_capacity(5 + reply.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(reply.len()).expect("an answer is small"));
    framed.put_slice(reply);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = [Ok(Frame::data(framed.freeze())), Ok(Frame::trailers(trailers))];
    grpc_head(StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync())
}

/// A status without a message before it stands in the headers.
fn grpc_error(code: u32, message: &str, retry_after: Option<Duration>) -> Response<ReplyBody> {
    let mut response = grpc_head(Full::default().boxed_unsync());
    let headers = response.headers_mut();
    headers.insert("grpc-status", HeaderValue::from(code));
    let plain: String = message.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').collect();
    headers.insert("grpc-message", HeaderValue::from_str(&plain).expect("it is printable ASCII"));
    if let Some(after) = retry_after {
        let details = STANDARD_NO_PAD.encode(retry_details(code, message, after));
        headers.insert("grpc-status-details-bin", HeaderValue::from_str(&details).expect("base64 is ASCII"));
    }
    response
}

fn retry_details(code: u32, message: &str, after: Duration) -> Vec<u8> {
    let delay = weir_proto::google::protobuf::Duration {
        seconds: i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(after.subsec_nanos()).expect("less than a second"),
    };
    let info = rpc::RetryInfo { retry_delay: Some(delay) };
    let detail = weir_proto::google::protobuf::Any {
        type_url: "type.googleapis.com/google.rpc.RetryInfo".to_owned(),
        value: info.encode_to_vec(),
    };
    let code = i32::try_from(code).expect("gRPC has 17 codes");
    rpc::Status { code, message: message.to_owned(), details: vec![detail] }.encode_to_vec()
}
