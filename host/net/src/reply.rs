//! The body of every reply: nothing, one piece with or without trailers, or a conversation.

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};

use crate::stream::InFlight;

/// A body behind a pointer: conversations only.
type Live = Pin<Box<dyn Body<Data = Bytes, Error = Infallible> + Send>>;

/// The body of a reply.
pub struct ReplyBody(Inner);

enum Inner {
    Whole { data: Option<Bytes>, trailers: Option<Box<HeaderMap>> },
    Live { body: Live, _under_way: Option<InFlight> },
}

impl ReplyBody {
    /// No body.
    pub fn empty() -> Self {
        Self(Inner::Whole { data: None, trailers: None })
    }

    /// One piece.
    pub fn whole(data: impl Into<Bytes>) -> Self {
        let data = data.into();
        Self(Inner::Whole { data: (!data.is_empty()).then_some(data), trailers: None })
    }

    /// One piece and trailers.
    pub fn with_trailers(data: Bytes, trailers: HeaderMap) -> Self {
        Self(Inner::Whole { data: (!data.is_empty()).then_some(data), trailers: Some(Box::new(trailers)) })
    }

    /// Frames as they come. Whoever makes them bounds them.
    pub fn live(body: impl Body<Data = Bytes, Error = Infallible> + Send + 'static) -> Self {
        Self(Inner::Live { body: Box::pin(body), _under_way: None })
    }

    /// An HTTP/1 connection is at work until the last frame of a live body is taken, and idle from then on. One piece goes
    /// in one write, so that it is idle at once.
    pub(crate) fn under_way(&mut self, guard: InFlight) {
        match &mut self.0 {
            Inner::Whole { .. } => drop(guard),
            Inner::Live { _under_way, .. } => *_under_way = Some(guard),
        }
    }
}

/// A response with one piece of text, for errors that a person reads.
pub fn text(status: StatusCode, text: impl Into<String>) -> Response<ReplyBody> {
    typed(status, "text/plain; charset=utf-8", text.into())
}

/// A response with one piece of this content type.
pub fn typed(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::whole(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A response without a body.
pub fn bare(status: StatusCode) -> Response<ReplyBody> {
    let mut response = Response::new(ReplyBody::empty());
    *response.status_mut() = status;
    response
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut self.get_mut().0 {
            Inner::Whole { data, trailers } => {
                let frame = match data.take() {
                    Some(data) => Some(Frame::data(data)),
                    None => trailers.take().map(|trailers| Frame::trailers(*trailers)),
                };
                Poll::Ready(frame.map(Ok))
            }
            Inner::Live { body, .. } => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Inner::Whole { data, trailers } => data.is_none() && trailers.is_none(),
            Inner::Live { body, .. } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Inner::Whole { data, .. } => {
                SizeHint::with_exact(data.as_ref().map_or(0, |data| data.len() as u64))
            }
            Inner::Live { body, .. } => body.size_hint(),
        }
    }
}

impl fmt::Debug for ReplyBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Inner::Whole { data, .. } => {
                write!(f, "ReplyBody({} bytes)", data.as_ref().map_or(0, Bytes::len))
            }
            Inner::Live { .. } => f.write_str("ReplyBody(live)"),
        }
    }
}
