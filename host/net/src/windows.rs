//! HTTP/2 windows of connections, so that a crowd of them cannot fill memory that no ledger sees.
//!
//! What a peer may send before anything is read lies in HTTP/2's own buffers. A few connections get wide windows; each
//! further one gets a part of what is left, so that the sum stays under [`WINDOWS_BYTES_MAX`] as long as nobody has less
//! than the protocol's own minimum.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::{CONNECTION_WINDOW_BYTES, CONNECTION_WINDOW_BYTES_MIN, WINDOWS_BYTES_MAX};

/// A new connection gets one part in so many of what is left.
const PARTS: u64 = 16;

/// The windows of a listener's connections.
#[derive(Debug, Clone, Default)]
pub(crate) struct Windows(Arc<AtomicU64>);

/// A connection's window, lent as long as this lives.
#[derive(Debug)]
pub(crate) struct Window {
    lent: Windows,
    bytes: u32,
}

impl Windows {
    /// Lends a window to a new connection.
    pub(crate) fn lend(&self) -> Window {
        let left = u64::from(WINDOWS_BYTES_MAX).saturating_sub(self.0.load(Ordering::Relaxed));
        let part = u32::try_from(left / PARTS).unwrap_or(CONNECTION_WINDOW_BYTES);
        let bytes = part.clamp(CONNECTION_WINDOW_BYTES_MIN, CONNECTION_WINDOW_BYTES);
        // Two connections in one moment may both see the same rest; that costs a sixteenth of it.
        self.0.fetch_add(u64::from(bytes), Ordering::Relaxed);
        Window { lent: self.clone(), bytes }
    }
}

impl Window {
    /// Bytes.
    pub(crate) fn bytes(&self) -> u32 {
        self.bytes
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        self.lent.0.fetch_sub(u64::from(self.bytes), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scenario: a thousand connections, one after the other; then all of them end.
    /// Guarantees: the first are wide, none is narrower than the protocol lets it be, the sum is bounded, and nothing
    /// stays lent.
    #[test]
    fn a_crowd_shares_what_a_few_have_alone() {
        let windows = Windows::default();
        let lent: Vec<Window> = (0..1_000).map(|_| windows.lend()).collect();
        assert!(lent.iter().take(8).all(|window| window.bytes() == CONNECTION_WINDOW_BYTES));
        assert!(lent.iter().all(|window| window.bytes() >= CONNECTION_WINDOW_BYTES_MIN));
        let sum = |some: &[Window]| some.iter().map(|window| u64::from(window.bytes())).sum::<u64>();
        assert!(sum(lent.get(..64).unwrap_or_default()) <= u64::from(WINDOWS_BYTES_MAX));
        let minimum = 1_000 * u64::from(CONNECTION_WINDOW_BYTES_MIN);
        assert!(sum(&lent) <= u64::from(WINDOWS_BYTES_MAX) + minimum);
        drop(lent);
        assert_eq!(windows.0.load(Ordering::Relaxed), 0);
        assert_eq!(windows.lend().bytes(), CONNECTION_WINDOW_BYTES);
    }
}
