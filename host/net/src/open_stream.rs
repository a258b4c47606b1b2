//! Streams that are open: long-lived gRPC calls, paid for although nothing is said on them.

use std::sync::Arc;

use tonic::Status;
use weir_model::{Claim, Counter, Exhausted, Ledger};

use crate::grpc;

/// Memory that an open stream takes although nothing is said on it: its task, its place in the connection, its names.
///
/// There is no deadline for silence: libraries keep a stream open for days and speak when they have something to say. So
/// a silent stream is paid for as long as it lives.
const STREAM_BYTES: u64 = 4 * 1024;

/// Open streams of a door together may take one part in so many of the budget; the rest is for what is said on them.
const STREAMS_SHARE: u64 = 4;

/// A stream among those that are open now.
#[derive(Debug)]
pub struct OpenStream {
    streams: Counter,
    _paid: Claim,
}

impl OpenStream {
    /// Counts a stream among the door's `streams` and pays for it.
    ///
    /// # Errors
    /// UNAVAILABLE with a delay where there is no memory for one more.
    pub fn open(ledger: &Arc<Ledger>, streams: Counter) -> Result<Self, Status> {
        let used = streams.get().saturating_mul(STREAM_BYTES);
        let limit = ledger.limit() / STREAMS_SHARE;
        if used.saturating_add(STREAM_BYTES) > limit {
            return Err(grpc::overloaded(&Exhausted { asked: STREAM_BYTES, used, limit }));
        }
        let paid = ledger.claim(STREAM_BYTES).map_err(|exhausted| grpc::overloaded(&exhausted))?;
        streams.add(1);
        Ok(Self { streams, _paid: paid })
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.streams.sub(1);
    }
}
