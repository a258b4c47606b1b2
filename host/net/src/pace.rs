//! How slowly a body may come.

use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use tokio::time::Instant;

use crate::limits::BodyLimits;

/// The clock of one body or message.
#[derive(Debug)]
pub(crate) struct Pace {
    started: Instant,
    bytes: u64,
}

/// The body comes more slowly than the limits allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{bytes} bytes came in {} s; expected all within {} s, and {rate_bytes_min} bytes a second from {} s on",
    after.as_secs(), time_max.as_secs(), rate_grace.as_secs())]
pub struct Slow {
    /// Bytes that came.
    pub bytes: u64,
    /// How long that took.
    pub after: Duration,
    /// How long all may take.
    pub time_max: Duration,
    /// Bytes a second that are expected.
    pub rate_bytes_min: u64,
    /// How long the rate does not matter.
    pub rate_grace: Duration,
}

impl Pace {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), bytes: 0 }
    }

    pub(crate) fn add(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(bytes as u64);
    }

    /// When the body becomes too slow, unless more comes before.
    fn deadline(&self, limits: &BodyLimits) -> Instant {
        let earned = Duration::from_secs(self.bytes / limits.rate_bytes_min.max(1));
        self.started + earned.max(limits.rate_grace).min(limits.time_max)
    }

    /// Waits for `next` until the body has become too slow.
    pub(crate) async fn wait<F: Future>(&self, limits: &BodyLimits, next: F) -> Result<F::Output, Slow> {
        let mut next = pin!(next);
        // Most frames are there already: only those that are not pay for a timer.
        if let Poll::Ready(output) = futures_util::poll!(next.as_mut()) {
            return Ok(output);
        }
        tokio::time::timeout_at(self.deadline(limits), next).await.map_err(|_| Slow {
            bytes: self.bytes,
            after: self.started.elapsed(),
            time_max: limits.time_max,
            rate_bytes_min: limits.rate_bytes_min,
            rate_grace: limits.rate_grace,
        })
    }
}
