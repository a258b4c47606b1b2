//! Memory of answers that programs do not read: paid for from the process's budget, of which it is a part.
//!
//! Invariant: what an answer holds is paid for until it is sent or its call has ended.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::NamedService;
use weir_model::{BoxFuture, Claim, Ledger};

/// All answers together may take one part in so many of the budget: programs that look on are not what a collector is there for.
const SHARE: u64 = 8;

/// What is paid from.
#[derive(Debug)]
pub(super) struct Purse {
    ledger: Arc<Ledger>,
    used: AtomicU64,
}

/// Something that is paid for until it is dropped.
#[derive(Debug)]
pub(super) struct Paid {
    purse: Arc<Purse>,
    claim: Claim,
}

impl Purse {
    pub(super) fn new(ledger: Arc<Ledger>) -> Arc<Self> {
        Arc::new(Self { ledger, used: AtomicU64::new(0) })
    }

    /// Pays for so many bytes.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED where the part is used up, or the budget.
    pub(super) fn pay(self: &Arc<Self>, bytes: u64) -> Result<Paid, Status> {
        let limit = self.ledger.limit() / SHARE;
        let more = |used: u64| used.checked_add(bytes).filter(|used| *used <= limit);
        self.used.fetch_update(Ordering::AcqRel, Ordering::Acquire, more).map_err(|used| {
            Status::resource_exhausted(format!(
                "answers that programs have not read take {used} of the {limit} bytes that there are for them: end a watch, or read"
            ))
        })?;
        match self.ledger.claim(bytes) {
            Ok(claim) => Ok(Paid { purse: Arc::clone(self), claim }),
            Err(exhausted) => {
                self.used.fetch_sub(bytes, Ordering::AcqRel);
                Err(Status::resource_exhausted(format!("{exhausted}: try again later")))
            }
        }
    }
}

impl Paid {
    /// Gives back all above `bytes`.
    pub(super) fn shrink_to(&mut self, bytes: u64) {
        let surplus = self.claim.bytes().saturating_sub(bytes);
        self.claim.shrink_to(bytes);
        self.purse.used.fetch_sub(surplus, Ordering::AcqRel);
    }
}

impl Drop for Paid {
    fn drop(&mut self) {
        self.purse.used.fetch_sub(self.claim.bytes(), Ordering::AcqRel);
    }
}

/// A payment on its way with an answer, among its extensions.
#[derive(Debug, Clone)]
pub(super) struct With {
    _paid: Arc<Paid>,
}

impl With {
    pub(super) fn new(paid: Paid) -> Self {
        Self { _paid: Arc::new(paid) }
    }
}

/// A service whose answers keep their payment [`With`] them until they are sent.
#[derive(Debug, Clone)]
pub(super) struct Paying<S>(pub(super) S);

impl<S: NamedService> NamedService for Paying<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Paying<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, Self::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let answering = self.0.call(request);
        Box::pin(async move {
            let mut answer = answering.await?;
            Ok(match answer.extensions_mut().remove::<With>() {
                Some(paid) => answer.map(|body| Body::new(PaidBody { body, paid })),
                None => answer,
            })
        })
    }
}

/// A body whose bytes hold what pays for them: the connection has them when the body has ended long ago.
struct PaidBody {
    body: Body,
    paid: With,
}

/// A piece of it.
struct PaidBytes {
    bytes: Bytes,
    _paid: With,
}

impl AsRef<[u8]> for PaidBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for PaidBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let paid = &self.paid;
        let hold = |bytes| Bytes::from_owner(PaidBytes { bytes, _paid: paid.clone() });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(hold))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
